//! The configuration file changes while the gateway runs.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use harness::HANG;
use harness::gateway::{Gateway, Launch};
use harness::mcp::{LEGACY, Session};
use harness::metrics::Page;

const BEFORE: &str = "[embedded]\nenabled = true\n";
const BROKEN: &str = "[embedded]\nenabled = true\n[[upstream]]\nname = \"crm\"\nulr = \"x\"\n";
const AFTER: &str = "[embedded]\nenabled = true\n[limits]\nheartbeat_ms = 14000\n\
                     [[route]]\npath = \"/mcp/ops\"\nupstreams = [\"embedded\"]\n";

struct Running {
    gateway: Gateway,
    path: PathBuf,
}

impl Running {
    fn start(name: &str) -> Running {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, BEFORE).expect("write the configuration");
        let config = path.to_str().expect("UTF-8").to_owned();
        let gateway = Launch::default().shards(1).args(&["--config", &config]).start();
        Running { gateway, path }
    }

    /// As tools do that never leave half a file.
    fn replace(&self, text: &str) {
        let new = self.path.with_extension("new");
        std::fs::write(&new, text).expect("write the new configuration");
        std::fs::rename(&new, &self.path).expect("move it into place");
    }

    fn hang_up(&self) {
        let killed = Command::new("kill").args(["-HUP", &self.gateway.pid().to_string()]).status();
        assert!(killed.is_ok_and(|status| status.success()), "send SIGHUP to the gateway");
    }

    async fn wait_for_log(&self, part: &str) {
        let start = Instant::now();
        while !self.gateway.log_tail().contains(part) {
            let log = self.gateway.log_tail();
            assert!(start.elapsed() < HANG, "the log never said {part:?}:\n{log}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn assert_serves(&mut self) {
        self.gateway.assert_running();
        Session::open(self.gateway.listen, LEGACY).await.expect("a session opens");
    }

    async fn reloads(&self) -> Option<f64> {
        Page::fetch(self.gateway.admin).await.sum("shardgate_config_reloads_total")
    }
}

#[tokio::test]
async fn a_broken_file_is_refused_and_a_sound_one_taken_over() {
    let mut running = Running::start("reload-watched.toml");
    running.replace(BROKEN);
    running.wait_for_log("config_refused").await;
    let log = running.gateway.log_tail();
    assert!(log.contains("upstream[1].ulr (crm)") && log.contains("did you mean url?"), "{log}");
    running.assert_serves().await;
    running.replace(AFTER);
    running.wait_for_log("config_reloaded").await;
    running.wait_for_log("needs a restart: limits.heartbeat_ms").await;
    running.assert_serves().await;
    assert_eq!(running.reloads().await, Some(2.0));
}

#[tokio::test]
async fn a_hang_up_reads_the_file_and_ends_nothing() {
    let mut running = Running::start("reload-asked-for.toml");
    running.hang_up();
    running.wait_for_log("config_reloaded").await;
    running.assert_serves().await;
    assert_eq!(running.reloads().await, Some(1.0));
}
