//! Real TypeScript clients: SDK 1.x, and client 2.x in both eras.
//!
//! Every script goes through a relay that cuts its connections, so resuming is
//! shown on connections that really broke.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use harness::cutter::Cutter;
use harness::gateway::Launch;
use harness::script::assert_steps;
use harness::tools::NodeTools;

/// What a client with a session shows, in order.
const LEGACY_STEPS: [&str; 14] = [
    "initialize",
    "list",
    "100 concurrent calls",
    "progress",
    "log",
    "sampling",
    "elicitation",
    "subscribe and update",
    "cut and resume a call",
    "stream closed by the server and resumed",
    "cut and resume the standing stream",
    "unsubscribe",
    "calls after all that",
    "delete, then 404",
];

/// What a client without a session shows, in order.
const MODERN_STEPS: [&str; 10] = [
    "discover",
    "list",
    "100 concurrent calls",
    "progress",
    "log",
    "sampling",
    "elicitation",
    "listen, update and close",
    "cut, then listen again",
    "cancel",
];

async fn run(script: &str, mode: Option<&str>, steps: &[&str]) {
    let tools = NodeTools::install();
    let gateway = Launch::default().config(Launch::SHORT_PAGES).start();
    let cutter = Cutter::start(gateway.listen).await;
    let mut command = tools.script(script);
    command.args([cutter.url(), cutter.control.port().to_string(), gateway.url()]);
    command.args(mode);
    assert_steps(command, steps).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sdk_1_uses_a_session_from_initialize_to_delete() {
    run("sdk_legacy.mjs", None, &LEGACY_STEPS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_2_uses_a_session_from_initialize_to_delete() {
    run("client_legacy.mjs", None, &LEGACY_STEPS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_2_finds_the_modern_era_by_itself() {
    run("client_modern.mjs", Some("auto"), &MODERN_STEPS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_2_pinned_to_the_modern_revision_is_served() {
    run("client_modern.mjs", Some("2026-07-28"), &MODERN_STEPS).await;
}

/// What a client shows that calls tools as tasks, in order.
const TASK_STEPS: [&str; 6] = [
    "initialize",
    "list",
    "from a task to its result",
    "a question on the way",
    "cancel",
    "list of tasks",
];

#[tokio::test(flavor = "multi_thread")]
async fn sdk_1_calls_tools_as_tasks() {
    run("tasks_legacy.mjs", None, &TASK_STEPS).await;
}
