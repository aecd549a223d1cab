//! How long an event of a tool server is on its way to the client.
//!
//! The program is both ends: a tool server whose answer to a call is a stream of progress
//! notifications, each of which says when it was sent, and the client that reads them, once
//! directly and once by way of each `--via`. One clock serves both ends. What stands
//! between is started by whoever runs this, with the server's address behind it.
//!
//! Limits: one call at a time, one event under way at a time; it measures delay, not throughput.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, value_parser};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Until whatever stands between has found the server.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Longer than anything that is still a delay.
const DELAY_US_MAX: u64 = 10_000_000;
/// How the time of sending stands in an event.
const MARK: &str = "sent at ";

/// Measures how much later events come by way of a gateway or proxy.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the tool server listens; what is measured must lead there.
    #[arg(long, default_value = "127.0.0.1:18001")]
    listen: SocketAddr,
    /// What to measure, as NAME=ADDRESS; any number of times.
    #[arg(long, value_name = "NAME=ADDRESS")]
    via: Vec<Way>,
    /// Events of one call.
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    events: u32,
    /// Pause between two events.
    #[arg(long, default_value_t = 2_000, value_parser = value_parser!(u64).range(10..))]
    pause_us: u64,
    /// Rounds; every way is measured in each of them.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=1_000))]
    runs: u32,
}

/// A way from the client to the tool server.
#[derive(Clone, Debug)]
struct Way {
    name: String,
    address: SocketAddr,
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Way, String> {
        let (name, address) = text.split_once('=').ok_or("write it as NAME=ADDRESS")?;
        let address = address.parse().map_err(|error| format!("{address}: {error}"))?;
        Ok(Way { name: name.to_owned(), address })
    }
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relayed_events: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> io::Result<()> {
    let clock = Instant::now();
    let listener = TcpListener::bind(arguments.listen)?;
    let (events, pause) = (arguments.events, Duration::from_micros(arguments.pause_us));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever is between may keep several connections; a broken one is its own matter.
            thread::spawn(move || Server { clock, events, pause }.serve(stream));
        }
    });
    let direct = Way { name: "direct".to_owned(), address: arguments.listen };
    let ways: Vec<&Way> = std::iter::once(&direct).chain(&arguments.via).collect();
    for way in &ways {
        until_open(way, clock)?;
    }
    for run in 0..arguments.runs {
        for way in &ways {
            let delays = call(way, clock)?;
            let line = json!({
                "run": run,
                "way": way.name,
                "events": delays.len(),
                "p50_us": delays.value_at_quantile(0.5),
                "p99_us": delays.value_at_quantile(0.99),
                "max_us": delays.max(),
            });
            println!("{line}");
        }
    }
    Ok(())
}

/// Waits until a call comes through.
fn until_open(way: &Way, clock: Instant) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match call(way, clock) {
            Ok(delays) if !delays.is_empty() => return Ok(()),
            Ok(_) | Err(_) if start.elapsed() < PATIENCE => thread::sleep(RETRY_INTERVAL),
            Ok(_) => return Err(io::Error::other(format!("{}: no event came", way.name))),
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("{}: {error}", way.name)));
            }
        }
    }
}

/// Makes one call and reads its events as they come.
fn call(way: &Way, clock: Instant) -> io::Result<Histogram<u64>> {
    let mut stream = TcpStream::connect(way.address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let body = json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {
            "name": "ticks", "arguments": {},
            "_meta": {
                "progressToken": 1,
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": { "name": "relayed_events", "version": "1" },
                "io.modelcontextprotocol/clientCapabilities": {}
            }
        }
    })
    .to_string();
    write!(
        stream,
        "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\n\
         Mcp-Method: tools/call\r\nMcp-Name: ticks\r\nContent-Length: {}\r\n\r\n{body}",
        way.address,
        body.len()
    )?;
    let mut delays = Histogram::new_with_max(DELAY_US_MAX, 3).map_err(io::Error::other)?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        let came_ns = nanoseconds(clock);
        if let Some((_, rest)) = line.split_once(MARK) {
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
            let sent_ns: u64 = digits.parse().map_err(io::Error::other)?;
            delays.saturating_record(came_ns.saturating_sub(sent_ns) / 1_000);
        } else if line.contains("\"error\"") {
            return Err(io::Error::other(line));
        } else if line.contains("\"id\":1") && line.contains("\"result\"") {
            break;
        }
    }
    Ok(delays)
}

fn nanoseconds(clock: Instant) -> u64 {
    clock.elapsed().as_nanos() as u64
}

/// A tool server of the modern era with one tool.
struct Server {
    clock: Instant,
    events: u32,
    pause: Duration,
}

impl Server {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut output = stream.try_clone()?;
        let mut input = BufReader::new(stream);
        while let Some(message) = read_request(&mut input)? {
            let id = &message["id"];
            match message["method"].as_str() {
                Some("server/discover") => answer(&mut output, id, &discovered())?,
                Some("tools/list") => answer(&mut output, id, &listed())?,
                Some("tools/call") => self.tick(&mut output, &message)?,
                Some("subscriptions/listen") => open_events(&mut output)?,
                Some(method) => {
                    let error = json!({ "code": -32601, "message": format!("no {method}") });
                    answer_json(
                        &mut output,
                        &json!({ "jsonrpc": "2.0", "id": id, "error": error }),
                    )?;
                }
                None => output.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")?,
            }
        }
        Ok(())
    }

    /// Sends the events of one call, and its result.
    fn tick(&self, output: &mut TcpStream, message: &Value) -> io::Result<()> {
        let token = &message["params"]["_meta"]["progressToken"];
        open_events(output)?;
        for tick in 1..=self.events {
            thread::sleep(self.pause);
            let sent = nanoseconds(self.clock);
            let progress = json!({
                "jsonrpc": "2.0", "method": "notifications/progress",
                "params": {
                    "progressToken": token, "progress": tick, "message": format!("{MARK}{sent}")
                }
            });
            write_event(output, &progress)?;
        }
        let result = json!({ "resultType": "complete", "content": [] });
        write_event(output, &json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }))?;
        output.write_all(b"0\r\n\r\n")
    }
}

fn discovered() -> Value {
    json!({
        "resultType": "complete", "supportedVersions": ["2026-07-28"],
        "capabilities": { "tools": {} }, "ttlMs": 60_000, "cacheScope": "public"
    })
}

fn listed() -> Value {
    let tool = json!({ "name": "ticks", "inputSchema": { "type": "object" } });
    json!({ "resultType": "complete", "tools": [tool], "ttlMs": 60_000, "cacheScope": "public" })
}

/// The next request's body; `None` at the connection's end.
fn read_request(input: &mut impl BufRead) -> io::Result<Option<Value>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body).unwrap_or_default()))
}

fn answer(output: &mut TcpStream, id: &Value, result: &Value) -> io::Result<()> {
    answer_json(output, &json!({ "jsonrpc": "2.0", "id": id, "result": result }))
}

fn answer_json(output: &mut TcpStream, message: &Value) -> io::Result<()> {
    let body = message.to_string();
    write!(
        output,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn open_events(output: &mut TcpStream) -> io::Result<()> {
    output.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
}

fn write_event(output: &mut TcpStream, message: &Value) -> io::Result<()> {
    let event = format!("data: {message}\n\n");
    output.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())
}
