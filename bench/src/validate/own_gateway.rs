//! Gateways that are started for a validation: found or built, started on free ports, watched
//! and ended.
//!
//! The gateway is another program to this one. Its JSON log says when it is ready and where
//! it listens, and what it has to complain about.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::phases::STAGE_IN_FLIGHT;

/// How long a gateway may take to be ready.
const READY_MAX: Duration = Duration::from_secs(30);
/// How long it may take to end before it is killed.
const END_MAX: Duration = Duration::from_secs(15);
/// The drain it is given, within [`END_MAX`].
const DRAIN_MS: &str = "5000";
/// How often its end is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// Lines of its log that are told.
const COMPLAINTS_MAX: usize = 5;

/// Why there is no gateway.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnGatewayError {
    /// There is no program.
    #[error(
        "start the gateway {}; build it with `cargo build --release -p shardgate`, or name one \
         with --gateway, or a server that runs with --url", program.display()
    )]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Cargo could not build it.
    #[error("build the gateway: cargo ended with {0}")]
    Build(ExitStatus),
    /// It ended, or said nothing.
    #[error("the gateway {}: {trouble}", program.display())]
    NotReady { program: PathBuf, trouble: String },
    /// Its configuration can't be put anywhere.
    #[error("write the configuration of a gateway")]
    Config(#[source] io::Error),
}

/// What a gateway has said so far.
#[derive(Debug, Default)]
struct Said {
    complaints: Vec<String>,
    complaints_left_out: usize,
}

/// A running gateway; dropping it kills the process.
#[derive(Debug)]
pub(crate) struct OwnGateway {
    child: Child,
    /// Follows its log to the end.
    log: Option<JoinHandle<()>>,
    said: Arc<Mutex<Said>>,
    listen: String,
    admin: String,
    /// Its configuration, as long as it may be read again.
    _directory: Option<TempDir>,
}

/// A line of the log that matters for the start.
enum News {
    Ready { listen: String, admin: String },
    Listed,
}

impl OwnGateway {
    /// One with its embedded server, on so many shards.
    pub(crate) fn start(program: &Path, shards: u16) -> Result<OwnGateway, OwnGatewayError> {
        OwnGateway::spawn(program, shards, None)
    }

    /// One before the tool server at this URL, of which it lets so much be asked at once.
    pub(crate) fn before(program: &Path, url: &str) -> Result<OwnGateway, OwnGatewayError> {
        let directory = TempDir::new().map_err(OwnGatewayError::Config)?;
        let config = format!(
            "[[upstream]]\nname = \"stage\"\nurl = \"{url}\"\nprefix = \"never\"\n\
             in_flight_max = {STAGE_IN_FLIGHT}\n"
        );
        fs::write(directory.path().join("shardgate.toml"), config)
            .map_err(OwnGatewayError::Config)?;
        OwnGateway::spawn(program, 1, Some(directory))
    }

    fn spawn(
        program: &Path,
        shards: u16,
        directory: Option<TempDir>,
    ) -> Result<OwnGateway, OwnGatewayError> {
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.args(["--log", "json", "--drain-deadline-ms", DRAIN_MS, "--shards"]);
        command.arg(shards.to_string());
        if let Some(directory) = &directory {
            command.arg("--config").arg(directory.path().join("shardgate.toml"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // Ctrl-C on a terminal is for us; the gateway is told when its load has ended.
        command.process_group(0);
        let start = |source| OwnGatewayError::Start { program: program.to_owned(), source };
        let mut child = command.spawn().map_err(start)?;
        let said = Arc::new(Mutex::new(Said::default()));
        let (news, heard) = mpsc::channel();
        let log = child.stderr.take().map(|log| {
            let said = Arc::clone(&said);
            thread::spawn(move || follow(log, &said, &news))
        });
        let (listen, admin) = (String::new(), String::new());
        let has_upstream = directory.is_some();
        let mut gateway = OwnGateway { child, log, said, listen, admin, _directory: directory };
        match gateway.wait_until_ready(&heard, has_upstream) {
            Ok(()) => Ok(gateway),
            Err(trouble) => Err(OwnGatewayError::NotReady { program: program.to_owned(), trouble }),
        }
    }

    fn wait_until_ready(
        &mut self,
        heard: &Receiver<News>,
        has_upstream: bool,
    ) -> Result<(), String> {
        let deadline = Instant::now() + READY_MAX;
        let (mut is_ready, mut is_listed) = (false, !has_upstream);
        while !(is_ready && is_listed) {
            match heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(News::Ready { listen, admin }) => {
                    (self.listen, self.admin) = (listen, admin);
                    is_ready = true;
                }
                // Shards read lists before the node as a whole is ready.
                Ok(News::Listed) => is_listed = true,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!(
                        "it was not ready after {} s{}",
                        READY_MAX.as_secs(),
                        self.complaints_text()
                    ));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("it ended before it was ready{}", self.complaints_text()));
                }
            }
        }
        Ok(())
    }

    /// Where MCP is spoken.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.listen)
    }

    /// Where it shows its counters.
    pub(crate) fn metrics_url(&self) -> String {
        format!("http://{}/metrics", self.admin)
    }

    /// Ends it in good order, and tells what it had to complain about.
    pub(crate) fn end(mut self) -> Vec<String> {
        let mut findings = Vec::new();
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            // One that has ended already is found by its exit status.
            let _ = kill_process(pid, Signal::TERM);
        }
        match self.wait_for_exit() {
            Some(status) if status.success() => {}
            Some(status) => findings.push(format!("the gateway ended with {status}")),
            None => findings.push(format!(
                "the gateway was still there {} s after SIGTERM, and was killed",
                END_MAX.as_secs()
            )),
        }
        // Its last words may be the most important ones. The log ends with the process.
        let _ = self.child.kill();
        if let Some(log) = self.log.take() {
            let _ = log.join();
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        findings.extend(said.complaints.iter().map(|line| format!("the gateway's log: {line}")));
        if said.complaints_left_out > 0 {
            findings.push(format!("and {} such lines more", said.complaints_left_out));
        }
        findings
    }

    fn wait_for_exit(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + END_MAX;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            thread::sleep(LOOK);
        }
        None
    }

    fn complaints_text(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.complaints.iter().map(|line| format!("; {line}")).collect()
    }
}

impl Drop for OwnGateway {
    fn drop(&mut self) {
        // Both fail only if it is gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the log to its end. What is no JSON is a complaint too: a panic's text is not.
fn follow(log: impl Read, said: &Mutex<Said>, news: &Sender<News>) {
    for line in BufReader::new(log).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        let entry: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        if text("level") == "ERROR" || !entry.is_object() {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.complaints.len() < COMPLAINTS_MAX {
                said.complaints.push(line.clone());
            } else {
                said.complaints_left_out += 1;
            }
        }
        // Nobody listens any more once it is ready.
        let _ = match &*text("event") {
            "ready" => news.send(News::Ready { listen: text("listen"), admin: text("admin") }),
            "upstream_listed" => news.send(News::Listed),
            _ => Ok(()),
        };
    }
}

/// The gateway's program: the one that is named; else, if Cargo has started us, the one it
/// builds now; else the one that lies beside ours, or in the search path.
pub(crate) fn program(named: Option<&Path>) -> Result<PathBuf, OwnGatewayError> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let ours = env::current_exe().unwrap_or_default();
    let beside = ours.with_file_name("shardgate");
    if let (Some(cargo), Some(manifest), Some(profile)) =
        (env::var_os("CARGO"), env::var_os("CARGO_MANIFEST_DIR"), ours.parent())
    {
        build(cargo, &Path::new(&manifest).join("../Cargo.toml"), profile)?;
        return Ok(beside);
    }
    Ok(if beside.is_file() { beside } else { PathBuf::from("shardgate") })
}

/// In our own profile and directory; a moment's work if it is there.
fn build(cargo: OsString, manifest: &Path, profile: &Path) -> Result<(), OwnGatewayError> {
    anstream::eprintln!("building the gateway, if it has changed");
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "shardgate", "--bin", "shardgate"]);
    command.arg("--manifest-path").arg(manifest);
    if let Some(directory) = profile.parent() {
        command.arg("--target-dir").arg(directory);
    }
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let start = |source| OwnGatewayError::Start { program: PathBuf::from("cargo"), source };
    let status = command.status().map_err(start)?;
    if status.success() { Ok(()) } else { Err(OwnGatewayError::Build(status)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_kept_and_counted() {
        let mut log = String::from("{\"level\":\"INFO\",\"event\":\"ready\",\"listen\":\"a\",");
        log.push_str("\"admin\":\"b\"}\nthread panicked\n");
        for number in 0..COMPLAINTS_MAX {
            log.push_str(&format!("{{\"level\":\"ERROR\",\"message\":\"{number}\"}}\n"));
        }
        let (said, (news, heard)) = (Mutex::default(), mpsc::channel());
        follow(log.as_bytes(), &said, &news);
        let said = said.into_inner().unwrap();
        assert_eq!(said.complaints[0], "thread panicked");
        assert_eq!((said.complaints.len(), said.complaints_left_out), (COMPLAINTS_MAX, 1));
        let Ok(News::Ready { listen, admin }) = heard.recv() else { panic!("it was ready") };
        assert_eq!((&*listen, &*admin), ("a", "b"));
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_what_to_do() {
        let error = OwnGateway::start(Path::new("/nowhere/shardgate"), 1).unwrap_err();
        let text = crate::report::error_text(&error);
        assert!(text.contains("/nowhere/shardgate; build it with `cargo build"), "{text}");
        let error = OwnGateway::start(Path::new("false"), 1).unwrap_err();
        assert!(error.to_string().contains("it ended before it was ready"), "{error}");
    }
}
