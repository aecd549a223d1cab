//! The gateway under test: one child process, its addresses and its log.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::HANG;

/// Lines of the gateway's log that are kept for a failure's message.
const LOG_LINES_MAX: usize = 400;

/// A running gateway; dropping it kills the process.
pub(crate) struct Gateway {
    child: Child,
    /// Where MCP is served.
    pub(crate) listen: SocketAddr,
    /// Where the admin endpoints are served.
    pub(crate) admin: SocketAddr,
    log: Arc<Mutex<VecDeque<String>>>,
}

/// How to start a gateway. The default is two shards and no config file.
pub(crate) struct Launch {
    listen: Option<SocketAddr>,
    shards: usize,
    config: Option<String>,
    args: Vec<String>,
}

impl Default for Launch {
    fn default() -> Launch {
        Launch { listen: None, shards: 2, config: None, args: Vec::new() }
    }
}

impl Launch {
    /// A config whose lists take several pages, so that clients must follow cursors.
    pub(crate) const SHORT_PAGES: &str = "[embedded]\npage_entries = 10\n";

    /// At this address, such as that of a gateway that was stopped.
    pub(crate) fn listen(mut self, address: SocketAddr) -> Launch {
        self.listen = Some(address);
        self
    }

    /// On so many shards.
    pub(crate) fn shards(mut self, shards: usize) -> Launch {
        self.shards = shards;
        self
    }

    /// With this text as its `shardgate.toml`.
    pub(crate) fn config(mut self, toml: &str) -> Launch {
        self.config = Some(toml.to_owned());
        self
    }

    /// With these further arguments.
    pub(crate) fn args(mut self, args: &[&str]) -> Launch {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Starts the gateway and waits until it says that it is ready.
    pub(crate) fn start(self) -> Gateway {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shardgate"));
        let listen = self.listen.map_or("127.0.0.1:0".to_owned(), |address| address.to_string());
        command.args(["serve", "--listen", &listen, "--admin", "127.0.0.1:0"]);
        command.args(["--log", "json", "--shards", &self.shards.to_string()]);
        if let Some(toml) = &self.config {
            command.arg("--config").arg(write_config(toml));
        }
        command.args(&self.args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start the gateway's binary");
        let stderr = child.stderr.take().expect("stderr was piped");
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let (ready_tx, ready_rx) = mpsc::channel();
        let kept = Arc::clone(&log);
        thread::spawn(move || follow_log(stderr, &kept, &ready_tx));
        let (listen, admin) = wait_ready(&mut child, &ready_rx, &log);
        Gateway { child, listen, admin, log }
    }
}

impl Gateway {
    /// A gateway on two shards with its built-in settings.
    pub(crate) fn start() -> Gateway {
        Launch::default().start()
    }

    /// The URL real clients are given.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.listen)
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the gateway to drain and go (SIGTERM).
    pub(crate) fn terminate(&self) {
        let killed = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status();
        assert!(killed.is_ok_and(|status| status.success()), "send SIGTERM to the gateway");
    }

    /// Ends the process at once (SIGKILL), as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("kill the gateway");
        self.child.wait().expect("wait for the gateway");
    }

    /// Waits for the gateway's exit.
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for the gateway") {
                return status;
            }
            assert!(start.elapsed() < HANG, "the gateway did not exit\n{}", self.log_tail());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Fails unless the process still runs.
    pub(crate) fn assert_running(&mut self) {
        let exited = self.child.try_wait().expect("ask for the gateway's state");
        assert!(exited.is_none(), "the gateway exited: {exited:?}\n{}", self.log_tail());
    }

    /// The last lines of the log.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Both fail only if the process is gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the gateway's log ---\n{}", self.log_tail());
        }
    }
}

fn write_config(toml: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("shardgate-{}-{count}.toml", std::process::id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, toml).expect("write the gateway's config file");
    path
}

fn tail(log: &Mutex<VecDeque<String>>) -> String {
    let lines = log.lock().expect("the log's reader does not panic");
    lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
}

fn follow_log(stderr: ChildStderr, log: &Mutex<VecDeque<String>>, ready: &Sender<Ready>) {
    for line in BufReader::new(stderr).lines() {
        let Ok(line) = line else { return };
        if let Some(addresses) = parse_ready(&line) {
            // Nobody listens any more after the first time.
            let _ = ready.send(addresses);
        }
        let mut lines = log.lock().expect("no holder of this lock panics");
        if lines.len() == LOG_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

type Ready = (SocketAddr, SocketAddr);

fn parse_ready(line: &str) -> Option<Ready> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    // Loggers differ in whether fields lie at the top or under `fields`.
    let fields = if value["event"].is_string() { &value } else { &value["fields"] };
    if fields["event"] != "ready" {
        return None;
    }
    let listen = fields["listen"].as_str()?.parse().ok()?;
    let admin = fields["admin"].as_str()?.parse().ok()?;
    Some((listen, admin))
}

fn wait_ready(child: &mut Child, ready: &Receiver<Ready>, log: &Mutex<VecDeque<String>>) -> Ready {
    match ready.recv_timeout(HANG) {
        Ok(addresses) => addresses,
        Err(RecvTimeoutError::Disconnected) => {
            let status = child.wait();
            panic!("the gateway ended ({status:?}) before it was ready:\n{}", tail(log));
        }
        Err(RecvTimeoutError::Timeout) => {
            let _ = child.kill();
            panic!("the gateway never said that it was ready:\n{}", tail(log));
        }
    }
}
