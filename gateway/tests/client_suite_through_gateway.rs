//! The official suite's client mode: the suite plays a tool server and checks what its
//! client does. That client is the gateway here, and a real client before it asks for what
//! each scenario wants.
//!
//! Every scenario that is not about authorization passes: with the client alone, which
//! shows that it does its part, and with the gateway in between, on one shard and on two,
//! and with a client of the other era. What the gateway shows the suite in another way than
//! the client alone is on record in `tests/servers/through_gateway/`.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use harness::client_suite::{Before, client_scenarios, run_scenario};
use harness::mcp::{LEGACY, MODERN};
use harness::suite::{Checks, SuiteRun, assert_recorded, differences};

/// How the suite calls scenarios that belong to no revision.
const EXTENSION: &str = "extension";

/// The suite says of a client that comes back a little later than it was told that this "is
/// acceptable but may indicate network delays": the load of the machine, that is.
const LATE: &str = "sse-retry ClientRespectsRetryField";

/// The checks of all scenarios of a revision, each of which must pass.
async fn passing(revision: &str, count: usize, before: Before<'_>) -> Checks {
    let scenarios = client_scenarios(revision).await;
    assert_eq!(scenarios.len(), count, "scenarios of {revision}: {scenarios:?}");
    let mut checks = Checks::new();
    for scenario in scenarios {
        let mut run = run_scenario(&scenario, revision, before).await;
        excuse_lateness(&mut run);
        assert_passes(&run, &format!("{scenario} at {revision}, {before:?}"));
        checks.append(&mut run.checks);
    }
    checks
}

fn excuse_lateness(run: &mut SuiteRun) {
    if let Some(status) = run.checks.get_mut(LATE).filter(|status| *status == "WARNING") {
        "SUCCESS".clone_into(status);
        run.output.success = true;
    }
}

fn assert_passes(run: &SuiteRun, context: &str) {
    let fails = |status: &str| !matches!(status, "SUCCESS" | "INFO" | "SKIPPED");
    let failed: Vec<_> = run.checks.iter().filter(|(_, status)| fails(status)).collect();
    let said = &run.output.stderr;
    // The suite itself lets a client fail in some scenarios; this one has no reason to.
    let ended = ["Client exited with code", "Client timed out"].iter().any(|it| said.contains(it));
    assert!(
        run.output.success && failed.is_empty() && !ended && !run.checks.is_empty(),
        "{context}: {failed:?}\n{}\n{said}",
        run.output.stdout
    );
}

/// Compares what the gateway shows with what the client alone shows.
fn compare(name: &str, through: &Checks, direct: &Checks) {
    let mut found = differences(through, direct);
    // The gateway also asks for what it wants to know itself, and does that well.
    found.retain(|line| !line.ends_with(": SUCCESS instead of nothing"));
    assert_recorded(name, &found);
}

/// All scenarios of a revision: with the client alone, and through the gateway.
async fn assert_alike(revision: &str, count: usize) {
    let direct = passing(revision, count, Before::Nothing).await;
    assert!(direct.values().any(|status| status == "SUCCESS"), "nothing was checked");
    for shards in [1, 2] {
        let through = passing(revision, count, Before::Gateway { shards, speaks: None }).await;
        compare(&format!("client-{revision}"), &through, &direct);
    }
}

/// The same with a client of the other era, which the gateway has to translate.
async fn assert_crossed(revision: &str, count: usize, other: &str) {
    let direct = passing(revision, count, Before::Nothing).await;
    let crossed = Before::Gateway { shards: 2, speaks: Some(other) };
    let through = passing(revision, count, crossed).await;
    compare(&format!("client-{revision}-of-{other}"), &through, &direct);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_2025_06_18_find_a_good_client_in_the_gateway() {
    assert_alike("2025-06-18", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_2025_11_25_find_a_good_client_in_the_gateway() {
    assert_alike(LEGACY, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_2026_07_28_find_a_good_client_in_the_gateway() {
    assert_alike(MODERN, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_with_extensions_find_a_good_client_in_the_gateway() {
    assert_alike(EXTENSION, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn modern_servers_find_a_good_client_in_the_gateway_of_a_legacy_client() {
    assert_crossed(MODERN, 8, LEGACY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_servers_find_a_good_client_in_the_gateway_of_a_modern_client() {
    assert_crossed(LEGACY, 5, MODERN).await;
}
