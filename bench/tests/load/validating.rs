//! `validate` as its users run it. That a whole validation of the gateway passes is shown by
//! `.ci/run`, with optimised programs.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use shardgate_bench::validate::Validation;

use crate::harness::gateway;
use crate::harness::generator::wait_until;

/// A validation under way: its standard error goes to a file that can be read meanwhile.
struct Validating {
    child: Child,
    directory: PathBuf,
}

impl Validating {
    fn begin(name: &str, words: &[&str]) -> Validating {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("make a directory");
        let stderr = File::create(directory.join("stderr")).expect("make a file");
        let child = Command::new(env!("CARGO_BIN_EXE_shardgate-bench"))
            .args(["validate", "--out"])
            .arg(directory.join("out"))
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("start shardgate-bench");
        Validating { child, directory }
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.directory.join("stderr")).expect("read what it said")
    }

    /// The value of an option of the run that is under way.
    fn option(&self, name: &str) -> Option<String> {
        let said = self.stderr();
        let run = said.lines().rfind(|line| line.starts_with("shardgate-bench run"))?;
        let mut words = run.split(' ').skip_while(|word| *word != name);
        words.nth(1).map(str::to_owned)
    }

    fn interrupt(&self) {
        let killed = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(killed.is_ok_and(|status| status.success()), "send SIGINT");
    }

    /// Its exit code, its report, and what it wrote.
    fn finish(mut self) -> (i32, String, Validation) {
        wait_until("the validation ends", || self.child.try_wait().expect("wait").is_some());
        let said = self.stderr();
        let Output { status, stdout, .. } = self.child.wait_with_output().expect("its output");
        let written = fs::read(self.directory.join("out/validation.json"));
        let written = serde_json::from_slice(&written.unwrap_or_default());
        let stdout = String::from_utf8_lossy(&stdout).into_owned();
        let written = written.unwrap_or_else(|error| panic!("{error}\n{stdout}\n{said}"));
        (status.code().expect("an exit code"), stdout, written)
    }
}

/// What a server answers to a GET of this URL.
fn page(url: &str) -> Option<String> {
    let (address, path) = url.strip_prefix("http://")?.split_once('/')?;
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// Processes whose parent this is (proc(5), `/proc/PID/stat`).
fn children_of(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("Linux").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name in brackets may hold anything.
        let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        behind_name.split_whitespace().nth(1) == Some(&parent.to_string())
    })
    .collect()
}

#[test]
fn a_validation_that_is_interrupted_tells_how_far_it_came_and_ends_its_gateway() {
    let program = gateway::binary().display().to_string();
    // The full size, as its first phase is long enough to be interrupted on any machine.
    let validating = Validating::begin("interrupted", &["--full", "--gateway", &program]);
    let called = |page: String| {
        page.lines().any(|line| line.contains("tools/call") && !line.ends_with(" 0"))
    };
    // Before the load there would be nothing to tell.
    wait_until("tools are called", || {
        validating.option("--metrics-url").and_then(|url| page(&url)).is_some_and(called)
    });
    let gateways = children_of(validating.child.id());
    assert_eq!(gateways.len(), 1, "{gateways:?}");
    validating.interrupt();
    let out = validating.directory.join("out");
    let (code, stdout, written) = validating.finish();
    assert_eq!(code, 130, "{stdout}");
    assert!(stdout.contains("Interrupted"), "{stdout}");
    assert!(written.interrupted && !written.passed, "{written:?}");
    let [phase] = &written.phases[..] else { panic!("one phase was begun: {written:?}") };
    assert_eq!((&*phase.name, &phase.findings), ("capacity", &Vec::new()));
    assert!(phase.outcome.as_ref().is_some_and(|outcome| outcome.totals.completed > 0));
    assert!(out.join("capacity.html").is_file() && out.join("capacity.json").is_file());
    // Whoever had the number would be another's child.
    assert!(!PathBuf::from(format!("/proc/{}", gateways[0])).exists(), "its gateway has ended");
}

#[test]
fn a_server_that_is_not_there_fails_the_first_phase_with_the_reason() {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let free = free.expect("a free port").to_string();
    let url = format!("http://{free}/mcp");
    let validating = Validating::begin("nobody", &["--quick", "--url", &url]);
    let (code, stdout, written) = validating.finish();
    assert_eq!(code, 1, "{stdout}");
    let [phase] = &written.phases[..] else { panic!("no other phase makes sense: {written:?}") };
    let [finding] = &phase.findings[..] else { panic!("one reason: {phase:?}") };
    assert!(finding.contains(&free) && stdout.contains(finding), "{finding}\n{stdout}");
}

#[test]
fn what_is_to_be_done_has_to_be_said_without_contradiction() {
    for (words, part) in [
        (&[][..], "--quick|--full"),
        (&["--quick", "--full"], "cannot be used with"),
        (&["--quick", "--url", "http://a/mcp", "--gateway", "b"], "cannot be used with"),
        (&["--quick", "--tool", "echo"], "--url"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_shardgate-bench"))
            .arg("validate")
            .args(words)
            .output()
            .expect("run it");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains(part), "{words:?}: {said}");
    }
}
