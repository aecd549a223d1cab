//! What an idle session costs: starts a gateway, opens many sessions, each with an open SSE
//! stream, and reads the gateway's resident memory at every step.
//!
//! The steps: sessions alone; the same with one open stream each; the same after every
//! stream got a heartbeat; the same with all streams closed again. The gateway itself is
//! asked whether it holds as many sessions and streams as are counted here.
//!
//! Invariant: the baseline is read after a warm-up that has used every receive buffer, for
//! these belong to the shard and would otherwise be charged to the sessions.
//!
//! Limits: one descriptor and one local port per stream, so 15,000 fit a limit of 20,000
//! descriptors. The kernel's own memory for a connection is not part of a process's memory.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use clap::Parser;
use serde_json::{Value, json};

/// Twice the receive buffers of a shard (`ring.buffers`), so that each has been used.
const WARM_UP_REQUESTS: usize = 4_096;
/// Enough connections for every shard to get some of them.
const WARM_UP_CONNECTIONS: usize = 16;
/// For one answer, or for the gateway to see what we did; nothing waits for its end.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"idle_sessions","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#;

/// Measures the gateway's memory per idle session.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many sessions to open.
    #[arg(long, default_value_t = 15_000)]
    sessions: usize,
    /// Shards of the gateway.
    #[arg(long, default_value_t = 1)]
    shards: u16,
    /// The gateway's program; by default the one built in the same profile as this.
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// How long the streams stay open before the third step; above `limits.heartbeat_ms`.
    #[arg(long, default_value_t = 20)]
    hold_seconds: u64,
    /// Prints one JSON object instead of a Markdown table.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match measure(&arguments) {
        Ok(steps) => {
            print(&arguments, &steps);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("idle_sessions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Resident memory after a step.
struct Step {
    name: &'static str,
    resident_bytes: u64,
}

fn measure(arguments: &Arguments) -> io::Result<Vec<Step>> {
    let gateway = Gateway::start(arguments)?;
    warm_up(gateway.listen)?;
    let mut steps = Vec::new();
    let mut step = |name| {
        gateway.resident_bytes().map(|resident_bytes| steps.push(Step { name, resident_bytes }))
    };
    step("before")?;

    let mut connection = Connection::open(gateway.listen)?;
    let sessions = (0..arguments.sessions)
        .map(|_| connection.open_session())
        .collect::<io::Result<Vec<String>>>()?;
    gateway.wait_for("sessions", sessions.len() + WARM_UP_CONNECTIONS)?;
    step("sessions")?;

    let streams = sessions
        .iter()
        .map(|session| Connection::open(gateway.listen)?.into_stream(session))
        .collect::<io::Result<Vec<TcpStream>>>()?;
    gateway.wait_for("streams", streams.len())?;
    step("with_stream")?;

    thread::sleep(Duration::from_secs(arguments.hold_seconds));
    gateway.wait_for("streams", streams.len())?;
    step("with_stream_after_heartbeat")?;

    drop(streams);
    gateway.wait_for("streams", 0)?;
    gateway.wait_for("sessions", sessions.len() + WARM_UP_CONNECTIONS)?;
    step("streams_closed")?;
    Ok(steps)
}

fn warm_up(address: SocketAddr) -> io::Result<()> {
    for _ in 0..WARM_UP_CONNECTIONS {
        let mut connection = Connection::open(address)?;
        let session = connection.open_session()?;
        for _ in 0..WARM_UP_REQUESTS {
            connection.post(PING, Some(&session), "200")?;
        }
    }
    Ok(())
}

fn print(arguments: &Arguments, steps: &[Step]) {
    let before = steps[0].resident_bytes;
    let per_session = |step: &Step| {
        let grown = step.resident_bytes as f64 - before as f64;
        (grown / arguments.sessions as f64).round()
    };
    if arguments.json {
        let mut object = json!({ "sessions": arguments.sessions, "shards": arguments.shards });
        for step in steps {
            object[step.name] = json!({
                "resident_bytes": step.resident_bytes,
                "bytes_per_session": per_session(step),
            });
        }
        println!("{object}");
        return;
    }
    println!(
        "| {} sessions | resident KiB | bytes per session |\n|---|---|---|",
        arguments.sessions
    );
    for step in steps {
        let name = step.name.replace('_', " ");
        println!("| {name} | {} | {} |", step.resident_bytes / 1024, per_session(step));
    }
}

/// A gateway of our own, killed when the measurement ends.
struct Gateway {
    process: Child,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    fn start(arguments: &Arguments) -> io::Result<Gateway> {
        let program = match &arguments.gateway {
            Some(program) => program.clone(),
            // Examples lie in a folder beside the program.
            None => std::env::current_exe()?.with_file_name("../shardgate"),
        };
        let mut process = Command::new(&program)
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "json"])
            .args(["--shards", &arguments.shards.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&format!("start {}: {error}", program.display())))?;
        let log = BufReader::new(process.stderr.take().expect("piped"));
        let ready = ready_line(log);
        let address = |name| ready.as_ref()?[name].as_str()?.parse().ok();
        match (address("listen"), address("admin")) {
            (Some(listen), Some(admin)) => Ok(Gateway { process, listen, admin }),
            _ => {
                let _ = process.kill();
                let _ = process.wait();
                Err(failed(&format!("{} ended before it was ready", program.display())))
            }
        }
    }

    /// VmRSS of proc(5).
    fn resident_bytes(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        status
            .lines()
            .find_map(|line| {
                line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse().ok()
            })
            .map(|kib: u64| kib * 1024)
            .ok_or_else(|| failed("read VmRSS of the gateway: no such line"))
    }

    /// Waits until the gateway counts as many as we do.
    fn wait_for(&self, what: &str, count: usize) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut connection = Connection::open(self.admin)?;
            let status = connection.exchange("GET /api/v1/status", "", None, "200")?.body;
            let status: Value = serde_json::from_slice(&status)?;
            let counted = &status["totals"][what];
            if *counted == json!(count) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(failed(&format!("the gateway counts {counted} {what}, not {count}")));
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The log's ready line. What follows is read on, so that the gateway never waits for us.
fn ready_line(log: BufReader<impl Read + Send + 'static>) -> Option<Value> {
    let mut lines = log.lines().map_while(Result::ok);
    let ready = lines.by_ref().find_map(|line| {
        serde_json::from_str::<Value>(&line).ok().filter(|event| event["event"] == "ready")
    });
    thread::spawn(move || lines.for_each(drop));
    ready
}

/// A blocking keep-alive connection.
struct Connection {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
}

/// The parts of an answer that matter here.
struct Answer {
    session: Option<String>,
    body: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection { stream: BufReader::with_capacity(1_024, stream), address })
    }

    /// Initializes a session and gives its id.
    fn open_session(&mut self) -> io::Result<String> {
        let answer = self.post(INITIALIZE, None, "200")?;
        let session = answer.session.ok_or_else(|| failed("initialize: no Mcp-Session-Id"))?;
        self.post(INITIALIZED, Some(&session), "202")?;
        Ok(session)
    }

    fn post(&mut self, body: &str, session: Option<&str>, status: &str) -> io::Result<Answer> {
        self.exchange("POST /mcp", body, session, status)
    }

    /// Opens the session's own stream on this connection and reads its head only.
    fn into_stream(mut self, session: &str) -> io::Result<TcpStream> {
        self.request("GET /mcp", "", Some(session))?;
        self.head("GET /mcp", "200")?;
        Ok(self.stream.into_inner())
    }

    fn exchange(
        &mut self,
        what: &str,
        body: &str,
        session: Option<&str>,
        status: &str,
    ) -> io::Result<Answer> {
        self.request(what, body, session)?;
        let (session, length) = self.head(what, status)?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Answer { session, body })
    }

    fn request(&mut self, what: &str, body: &str, session: Option<&str>) -> io::Result<()> {
        let accept =
            if what.starts_with("POST") { "application/json, text/event-stream" } else { "*/*" };
        let mut text = format!("{what} HTTP/1.1\r\nHost: {}\r\nAccept: {accept}\r\n", self.address);
        if what.starts_with("POST") {
            text +=
                &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        if let Some(id) = session {
            text += &format!("Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: 2025-11-25\r\n");
        }
        text += "\r\n";
        text += body;
        self.stream.get_mut().write_all(text.as_bytes())
    }

    /// Session id and length of the body.
    fn head(&mut self, what: &str, status: &str) -> io::Result<(Option<String>, usize)> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line.split(' ').nth(1) != Some(status) {
            return Err(failed(&format!("{what}: wanted {status}, got {:?}", line.trim())));
        }
        let (mut session, mut length) = (None, 0);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(": ") else {
                return Ok((session, length));
            };
            match name.to_ascii_lowercase().as_str() {
                "mcp-session-id" => session = Some(value.to_owned()),
                "content-length" => {
                    length = value.parse().map_err(|_| failed("a Content-Length of digits"))?;
                }
                _ => {}
            }
        }
    }
}

fn failed(what: &str) -> io::Error {
    io::Error::other(what.to_owned())
}
