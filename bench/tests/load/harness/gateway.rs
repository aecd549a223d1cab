//! The gateway, built and started as any user would: nothing of it is linked here.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Sender};
use std::thread;

use super::HANG;

/// A running gateway; dropping it kills the process.
pub(crate) struct Gateway {
    child: Child,
    listen: String,
    admin: String,
}

impl Gateway {
    /// Its embedded server on one shard.
    pub(crate) fn start() -> Gateway {
        let mut child = Command::new(binary())
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--log", "json", "--shards", "1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the gateway");
        let stderr = child.stderr.take().expect("stderr was piped");
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || follow_log(stderr, &ready));
        let (listen, admin) = is_ready.recv_timeout(HANG).expect("the gateway gets ready");
        Gateway { child, listen, admin }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.listen)
    }

    pub(crate) fn metrics_url(&self) -> String {
        format!("http://{}/metrics", self.admin)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Both fail only if the process is gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds the gateway, once, in the profile of this test.
pub(crate) fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let ours = Path::new(env!("CARGO_BIN_EXE_shardgate-bench"));
        let profile = ours.parent().expect("a directory");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--package", "shardgate", "--bin", "shardgate"]);
        build.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")]);
        build.arg("--target-dir").arg(profile.parent().expect("the target directory"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("run cargo").success(), "build the gateway");
        profile.join("shardgate")
    })
}

fn follow_log(stderr: ChildStderr, ready: &Sender<(String, String)>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let Ok(entry) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
        // Loggers differ in whether fields lie at the top or under `fields`.
        let fields = if entry["event"].is_string() { &entry } else { &entry["fields"] };
        let text = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
        if text("event") == "ready" {
            // Nobody listens any more after the first time.
            let _ = ready.send((text("listen"), text("admin")));
        }
    }
}
