//! `shardgate-bench` as a child process.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use shardgate_bench::outcome::Outcome;
use shardgate_bench::report::files;

use super::HANG;

/// A run under way.
pub(crate) struct Generator {
    child: Child,
    json: PathBuf,
}

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// What it wrote, if it wrote something.
    pub(crate) outcome: Option<Outcome>,
}

impl Finished {
    /// What it wrote.
    pub(crate) fn outcome(&self) -> &Outcome {
        let Finished { code, stderr, .. } = self;
        self.outcome.as_ref().unwrap_or_else(|| panic!("no report; exit code {code}\n{stderr}"))
    }
}

/// Starts `shardgate-bench` with these words, and a file for its result.
pub(crate) fn begin(words: &[&str]) -> Generator {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("outcome-{}-{count}.json", std::process::id());
    let json = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_file(&json);
    let child = Command::new(env!("CARGO_BIN_EXE_shardgate-bench"))
        .args(words)
        .arg("--json")
        .arg(&json)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start shardgate-bench");
    Generator { child, json }
}

/// Runs it to its end.
pub(crate) fn run(words: &[&str]) -> Finished {
    begin(words).finish()
}

impl Generator {
    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        let killed = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(killed.is_ok_and(|status| status.success()), "send SIGINT to the generator");
    }

    pub(crate) fn finish(mut self) -> Finished {
        let end = Instant::now() + HANG;
        while self.child.try_wait().expect("wait for the generator").is_none() {
            if Instant::now() > end {
                let _ = self.child.kill();
                let output = self.child.wait_with_output().expect("its output");
                panic!("the generator hangs\n{}", String::from_utf8_lossy(&output.stderr));
            }
            thread::sleep(Duration::from_millis(10));
        }
        let Output { status, stdout, stderr } = self.child.wait_with_output().expect("its output");
        let outcome = self.json.exists().then(|| files::read(&self.json).expect("a report"));
        let _ = std::fs::remove_file(&self.json);
        Finished {
            code: status.code().expect("an exit code"),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            outcome,
        }
    }
}

/// Waits until `holds`, at most for [`HANG`].
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + HANG;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
