//! Reference tool servers: real ones, that nobody here wrote for the gateway.
//!
//! Over HTTP a server is a child process of the test in a process group of its
//! own; it is killed when its [`ReferenceServer`] is dropped, and ends by itself
//! when the test's process is gone, because it is tethered to a pipe. Over stdio
//! the gateway starts the servers: [`Stdio`] gives the command lines.
//!
//! Invariant: every server listens on loopback, at a port the system chose.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio as Pipe};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::HANG;
use super::record::Record;
use super::tools::{NodeTools, PythonTools};

/// Lines of a server's output that are kept for a failure's message.
const OUTPUT_LINES_MAX: usize = 200;

/// The pins of both Python SDK releases: the clients' own.
const PYTHON_1: &str = "mcp-1.30";
const PYTHON_2: &str = "mcp-2.3";

/// A server over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// TypeScript SDK 2.x, both eras; the legacy one with sessions.
    BothEras,
    /// The same, which refuses clients of the legacy era.
    ModernOnly,
    /// TypeScript SDK 2.x, which knows nothing of the modern era.
    LegacyOnly,
    /// TypeScript SDK 1.x, with sessions.
    Legacy,
    /// The same, with the tools that the suite calls as tasks, and without knowing tasks.
    NoTasks,
    /// npm's `server-everything`: legacy, with sessions.
    Everything,
    /// Python SDK 1.x, with sessions.
    Python,
    /// Python SDK 2.x, both eras; the legacy one with sessions.
    PythonBothEras,
}

impl Kind {
    /// The command that serves at `port`; 0 leaves the choice to the system.
    fn command(self, port: u16) -> Command {
        let mut command = match self {
            Kind::Everything => {
                assert_eq!(port, 0, "server-everything is always given the system's choice");
                return everything();
            }
            Kind::Python => PythonTools::install(PYTHON_1).server("sdk_1.py"),
            Kind::PythonBothEras => PythonTools::install(PYTHON_2).server("sdk_2.py"),
            Kind::Legacy => NodeTools::install_servers().script("legacy.mjs"),
            Kind::NoTasks => NodeTools::install_servers().script("no_tasks.mjs"),
            Kind::BothEras | Kind::ModernOnly | Kind::LegacyOnly => {
                NodeTools::install_servers().script("modern.mjs")
            }
        };
        match self {
            Kind::ModernOnly => command.arg("--modern-only"),
            Kind::LegacyOnly => command.arg("--legacy-only"),
            Kind::BothEras
            | Kind::Legacy
            | Kind::NoTasks
            | Kind::Everything
            | Kind::Python
            | Kind::PythonBothEras => &mut command,
        };
        command.args(["--tethered", "--port", &port.to_string()]);
        command
    }
}

fn everything() -> Command {
    let tools = NodeTools::install_servers();
    let mut command = tools.node();
    command.arg("--import").arg(tools.script_path("announce.mjs"));
    command.arg(tools.package("@modelcontextprotocol/server-everything/dist/index.js"));
    command.arg("streamableHttp");
    command
}

/// A running server over HTTP; dropping it kills the process and its children.
pub(crate) struct ReferenceServer {
    kind: Kind,
    record: Option<Record>,
    child: Child,
    output: Output,
    /// Where it serves MCP, for `[[upstream]] url =`.
    pub(crate) url: String,
    /// The same address as a socket's.
    pub(crate) address: SocketAddr,
    /// The process id.
    pub(crate) pid: u32,
}

impl ReferenceServer {
    /// Starts a server and waits until it says where it listens.
    pub(crate) async fn start(kind: Kind) -> ReferenceServer {
        ReferenceServer::start_at(kind, 0, None).await
    }

    /// The same, with a record of what it receives. For the servers in Python.
    pub(crate) async fn start_recorded(kind: Kind, record: &Record) -> ReferenceServer {
        ReferenceServer::start_at(kind, 0, Some(record.clone())).await
    }

    async fn start_at(kind: Kind, port: u16, record: Option<Record>) -> ReferenceServer {
        let mut command = kind.command(port);
        if let Some(record) = &record {
            command.arg("--record").arg(record.path());
        }
        command.process_group(0);
        command.stdin(Pipe::piped()).stdout(Pipe::piped()).stderr(Pipe::piped());
        let child = command.spawn().unwrap_or_else(|error| panic!("start {kind:?}: {error}"));
        let pid = child.id();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let output = Output::default();
        let url = String::new();
        let mut server = ReferenceServer { kind, record, child, output, url, address, pid };
        server.url = server.wait_ready().await;
        server.address = address_of(&server.url);
        server
    }

    /// Starts it again at the same address, after [`ReferenceServer::kill`] or while it runs.
    ///
    /// Not for [`Kind::Everything`], which cannot be given a port.
    pub(crate) async fn restart(self) -> ReferenceServer {
        let (kind, port, record) = (self.kind, self.address.port(), self.record.clone());
        drop(self);
        ReferenceServer::start_at(kind, port, record).await
    }

    /// Kills it as a crash would: connections end without a word.
    pub(crate) fn kill(&mut self) {
        signal_group(self.pid, "KILL");
        // Reaped, so that nothing of it listens any more.
        self.child.wait().unwrap_or_else(|error| panic!("wait for {:?}: {error}", self.kind));
    }

    /// Stops it in its tracks: connections stay open and nothing answers.
    pub(crate) fn pause(&self) {
        signal_group(self.pid, "STOP");
    }

    /// Lets it go on after [`ReferenceServer::pause`].
    pub(crate) fn resume(&self) {
        signal_group(self.pid, "CONT");
    }

    /// The last lines it printed.
    pub(crate) fn output_tail(&self) -> String {
        self.output.tail()
    }

    async fn wait_ready(&mut self) -> String {
        let (ready_tx, ready_rx) = oneshot::channel();
        let stdout = self.child.stdout.take().expect("stdout was piped");
        let stderr = self.child.stderr.take().expect("stderr was piped");
        self.output.follow(stdout, Some(ready_tx));
        self.output.follow(stderr, None);
        match timeout(HANG, ready_rx).await {
            Ok(Ok(url)) => url,
            Ok(Err(_)) => {
                panic!("{:?} ended before it was ready:\n{}", self.kind, self.output_tail())
            }
            Err(_) => panic!("{:?} never said it was ready:\n{}", self.kind, self.output_tail()),
        }
    }
}

impl Drop for ReferenceServer {
    fn drop(&mut self) {
        // A process that was reaped may have left its id to another.
        if matches!(self.child.try_wait(), Ok(None)) {
            signal_group(self.pid, "KILL");
            // Fails only if the process is gone, which is what is wanted.
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("--- the output of {:?} ---\n{}", self.kind, self.output_tail());
        }
    }
}

fn address_of(url: &str) -> SocketAddr {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let authority = rest.split('/').next().unwrap_or_default();
    authority.parse().unwrap_or_else(|error| panic!("the address in {url}: {error}"))
}

/// Sends a signal to all processes of a server.
fn signal_group(pid: u32, name: &str) {
    send_signal(name, &format!("-{pid}"));
}

/// Sends a signal to one process.
pub(crate) fn signal(pid: u32, name: &str) {
    send_signal(name, &pid.to_string());
}

fn send_signal(name: &str, target: &str) {
    let status = Command::new("kill").args(["-s", name, "--", target]).status();
    assert!(status.is_ok_and(|status| status.success()), "send SIG{name} to {target}");
}

/// What a server printed last, gathered by threads that end with its pipes.
#[derive(Clone, Default)]
struct Output {
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Output {
    /// Gathers lines; the first ready line among them is sent to `ready`.
    fn follow(&self, pipe: impl Read + Send + 'static, mut ready: Option<oneshot::Sender<String>>) {
        let output = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines() {
                let Ok(line) = line else { return };
                if let Some(url) = url_of(&line)
                    && let Some(ready) = ready.take()
                {
                    // The test may have given up by now.
                    let _ = ready.send(url);
                }
                output.push(line);
            }
        });
    }

    fn push(&self, line: String) {
        let mut lines = self.lines.lock().expect("no holder of this lock panics");
        if lines.len() == OUTPUT_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn tail(&self) -> String {
        let lines = self.lines.lock().expect("no holder of this lock panics");
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

fn url_of(line: &str) -> Option<String> {
    let value: Value = serde_json::from_str(line).ok()?;
    value["url"].as_str().map(str::to_owned)
}

/// A server over stdio.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stdio {
    /// TypeScript SDK 2.x, both eras.
    BothEras,
    /// The same, which refuses clients of the legacy era.
    ModernOnly,
    /// TypeScript SDK 1.x.
    Legacy,
    /// Python SDK 1.x.
    Python,
    /// Python SDK 2.x, both eras.
    PythonBothEras,
    /// npm's `server-everything`.
    Everything,
    /// npm's `server-filesystem`, allowed into this directory.
    Filesystem(PathBuf),
    /// npm's `server-memory`, which keeps its graph in this file.
    Memory(PathBuf),
}

/// The variables by which a server over stdio that runs on Node records what it receives.
pub(crate) fn recording(record: &Record) -> [(&'static str, String); 2] {
    let script = NodeTools::install_servers().script_path("record.mjs");
    let path = record.path().display().to_string();
    [("NODE_OPTIONS", format!("--import={}", script.display())), ("SHARDGATE_TESTS_RECORD", path)]
}

impl Stdio {
    /// The program and its arguments, for `[[upstream]] command =`.
    pub(crate) fn command(&self) -> Vec<String> {
        words(&match self {
            Stdio::BothEras => script("modern.mjs", &["--stdio"]),
            Stdio::ModernOnly => script("modern.mjs", &["--stdio", "--modern-only"]),
            Stdio::Legacy => script("legacy.mjs", &["--stdio"]),
            Stdio::Python => python(PYTHON_1, "sdk_1.py"),
            Stdio::PythonBothEras => python(PYTHON_2, "sdk_2.py"),
            Stdio::Everything => {
                let mut command = package("server-everything");
                command.arg("stdio");
                command
            }
            Stdio::Filesystem(directory) => {
                let mut command = package("server-filesystem");
                command.arg(directory);
                command
            }
            Stdio::Memory(file) => {
                with_variable("MEMORY_FILE_PATH", file, &package("server-memory"))
            }
        })
    }
}

fn script(name: &str, args: &[&str]) -> Command {
    let mut command = NodeTools::install_servers().script(name);
    command.args(args);
    command
}

fn python(release: &str, script: &str) -> Command {
    let mut command = PythonTools::install(release).server(script);
    command.arg("--stdio");
    command
}

fn package(name: &str) -> Command {
    let tools = NodeTools::install_servers();
    let mut command = tools.node();
    command.arg(tools.package(&format!("@modelcontextprotocol/{name}/dist/index.js")));
    command
}

/// The command under `env`, which becomes it: the process id stays the server's own.
fn with_variable(name: &str, value: &Path, command: &Command) -> Command {
    let mut under = Command::new("env");
    under.arg(format!("{name}={}", value.display()));
    under.arg(command.get_program()).args(command.get_args());
    under
}

fn words(command: &Command) -> Vec<String> {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_str().expect("paths of the build are UTF-8").to_owned())
        .collect()
}
