//! The `shardgate` command as scripts use it: exit codes, what goes where, the ready line, signals.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Long enough for a busy machine; nothing waits for its end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The command without any variable that could steer it.
fn shardgate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardgate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SHARDGATE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        shardgate(arguments).output().expect("the command runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

/// A gateway on free ports, killed when the test ends early.
struct Gateway {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Gateway {
    fn start(arguments: &[&str]) -> Gateway {
        let mut process =
            shardgate(&["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
                .args(arguments)
                .stderr(Stdio::piped())
                .spawn()
                .expect("the command runs");
        let lines = BufReader::new(process.stderr.take().expect("piped")).lines();
        Gateway { process, lines }
    }

    /// The log event with this name; every line before it must be JSON.
    fn event(&mut self, name: &str) -> serde_json::Value {
        for line in self.lines.by_ref() {
            let line = line.expect("text");
            let event: serde_json::Value =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if event["event"] == name {
                return event;
            }
        }
        panic!("the log ended without {name:?}");
    }

    fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        let kill = Command::new("kill").args([name, &id]).status().expect("kill runs");
        assert!(kill.success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().expect("our child") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it did not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    let (code, out, err) = output(&["--help"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    for part in ["serve", "check", "status", "Examples:", "Exit codes:", "127.0.0.1:8080"] {
        assert!(out.contains(part), "{part} is missing in:\n{out}");
    }
    let (code, out, _) = output(&["serve", "--help"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("SIGTERM") && out.contains("SHARDGATE_LISTEN"), "{out}");
    let version = format!("shardgate {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(output(&["version"]), (Some(0), version.clone(), String::new()));
    assert_eq!(output(&["--version"]), (Some(0), version, String::new()));
}

#[test]
fn each_failure_has_its_exit_code() {
    let (code, out, err) = output(&["serv"]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(err.contains("serve"), "the nearest command is named: {err}");
    assert_eq!(output(&["--lissten", "127.0.0.1:1"]).0, Some(2));
    let (code, _, err) = output(&["check", "--config", "no/such.toml"]);
    assert_eq!(code, Some(3));
    assert!(err.contains("no/such.toml") && err.contains("No such file"), "{err}");
    let (code, _, err) = output(&["serve", "--listen", "0.0.0.0:0"]);
    assert_eq!(code, Some(3));
    assert!(err.contains("--allow-host"), "{err}");
    let (code, out, err) = output(&["status", "--admin", "127.0.0.1:1"]);
    assert_eq!((code, out.as_str()), (Some(4), ""));
    assert!(err.contains("http://127.0.0.1:1/") && err.contains("refused"), "{err}");
}

#[test]
fn check_points_at_line_column_and_key() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let path = file.path().to_str().expect("text");
    std::fs::write(path, "[limits]\nheartbeat_msec = 5\n").expect("written");
    let (code, out, err) = output(&["check", "--config", path]);
    assert_eq!((code, out.as_str()), (Some(3), ""));
    assert!(err.contains(&format!("{path}:2:1: limits.heartbeat_msec: ")), "{err}");
    assert!(err.contains("did you mean heartbeat_ms?"), "{err}");
    std::fs::write(path, "[limits]\nheartbeat_ms = 5000\n").expect("written");
    let (code, out, _) = output(&["check", "--config", path]);
    assert_eq!(code, Some(0));
    assert!(out.contains("is sound"), "{out}");
    let (code, out, _) = output(&["check", "--config", path, "--print", "--shards", "3"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("heartbeat_ms = 5000") && out.contains("count = 3"), "{out}");
}

#[test]
fn variables_steer_and_flags_win() {
    let run = |arguments: &[&str]| {
        let mut command = shardgate(arguments);
        command.env("SHARDGATE_NODE", "from-env").env("SHARDGATE_SHARDS", "2");
        let output = command.output().expect("the command runs");
        String::from_utf8(output.stdout).expect("text")
    };
    let out = run(&["check", "--print"]);
    assert!(out.contains("name = \"from-env\"") && out.contains("count = 2"), "{out}");
    let out = run(&["check", "--print", "--node", "from-flag"]);
    assert!(out.contains("name = \"from-flag\"") && out.contains("count = 2"), "{out}");
}

#[test]
fn a_gateway_says_when_it_is_ready_and_ends_in_order() {
    for signal in ["-TERM", "-INT"] {
        let mut gateway = Gateway::start(&["--log", "json", "--node", "gw-1", "--shards", "1"]);
        let ready = gateway.event("ready");
        assert_eq!(ready["node"], "gw-1");
        assert_eq!(ready["version"], env!("CARGO_PKG_VERSION"));
        let admin = ready["admin"].as_str().expect("a string");
        assert!(!admin.ends_with(":0"), "the real port: {admin}");
        let (code, out, err) = output(&["status", "--admin", admin, "--json"]);
        assert_eq!((code, err.as_str()), (Some(0), ""));
        let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!((&report["node"], &report["state"]), (&"gw-1".into(), &"ready".into()));
        let (code, out, _) = output(&["status", "--admin", admin]);
        assert_eq!(code, Some(0));
        assert!(out.starts_with("gw-1 · ready"), "{out}");
        gateway.signal(signal);
        gateway.event("drain");
        assert_eq!(gateway.exit_code(), Some(0), "after {signal}");
    }
}

#[test]
fn a_taken_admin_address_is_a_failure_with_a_reason() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let mut gateway = shardgate(&["serve", "--listen", "127.0.0.1:0", "--admin", &address])
        .args(["--log", "human"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    let mut err = String::new();
    gateway.stderr.take().expect("piped").read_to_string(&mut err).expect("text");
    assert_eq!(gateway.wait().expect("our child").code(), Some(1));
    assert!(err.contains(&address) && err.contains("--admin"), "{err}");
}
