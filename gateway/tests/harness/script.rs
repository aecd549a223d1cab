//! Runs a real client's script and checks what it did.
//!
//! A script prints one JSON object per step it finished, `{"step": "…"}`, and
//! ends with status 0. A step that is missing is a failure, so a script cannot
//! pass by leaving out what it should show.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;

/// How long a script may run; every wait inside it is bounded by itself.
const SCRIPT_BOUND: Duration = Duration::from_secs(180);

/// What a script said.
pub(crate) struct Output {
    /// Exit status 0.
    pub(crate) success: bool,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

/// Runs a command to its end without blocking the runtime.
pub(crate) async fn run(command: Command) -> Output {
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(SCRIPT_BOUND, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{command:?} did not end")).expect("run it");
    Output {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs a client's script and fails unless it finished exactly these steps, in this order.
pub(crate) async fn assert_steps(command: Command, expected: &[&str]) {
    let shown = format!("{command:?}");
    let output = run(command).await;
    let steps: Vec<String> = output
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|line| line["step"].as_str().map(str::to_owned))
        .collect();
    assert!(
        output.success && steps == expected,
        "{shown}\nfinished: {steps:?}\nexpected: {expected:?}\n{}\n{}",
        output.stdout,
        output.stderr,
    );
}
