//! The official conformance suite against the gateway with its embedded server.
//!
//! What a revision requires must pass. All scenarios of a revision are compared with
//! the record in `docs/conformance.md`: a failure that isn't recorded fails the test,
//! and so does a recorded failure that no longer happens.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::collections::BTreeSet;
use std::fs;

use harness::gateway::Launch;
use harness::suite::{Scenarios, SuiteRun, run_suite};

async fn assert_required_scenarios_pass(shards: usize, revision: &str, required: usize) {
    let gateway = Launch::default().shards(shards).start();
    let name = format!("required-{revision}-{shards}");
    let run = run_suite(&gateway.url(), Scenarios::Required, revision, &name).await;
    let summary = run.summary();
    assert!(run.output.success, "{revision}:\n{summary}\n{}", run.output.stderr);
    let passed = summary.lines().filter(|line| line.starts_with('✓')).count();
    assert!(passed >= required, "{revision}: {passed} of {required} scenarios:\n{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_2025_11_25_requires_passes_on_one_shard() {
    assert_required_scenarios_pass(1, "2025-11-25", 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_2025_11_25_requires_passes_on_two_shards() {
    assert_required_scenarios_pass(2, "2025-11-25", 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_2026_07_28_requires_passes_on_one_shard() {
    assert_required_scenarios_pass(1, "2026-07-28", 37).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_2026_07_28_requires_passes_on_two_shards() {
    assert_required_scenarios_pass(2, "2026-07-28", 37).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_scenarios_of_2025_06_18_end_as_recorded() {
    assert_as_recorded("2025-06-18").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_scenarios_of_2025_11_25_end_as_recorded() {
    assert_as_recorded("2025-11-25").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_scenarios_of_2026_07_28_end_as_recorded() {
    assert_as_recorded("2026-07-28").await;
}

async fn assert_as_recorded(revision: &str) {
    let gateway = Launch::default().start();
    let name = format!("all-{revision}");
    let run = run_suite(&gateway.url(), Scenarios::All, revision, &name).await;
    let found = Outcome::of(&run);
    let recorded = Outcome::recorded(revision);
    assert_eq!(
        found,
        recorded,
        "{revision}: what happened (left) is not what docs/conformance.md records (right)\n{}\n{}",
        run.summary(),
        run.output.stderr,
    );
}

/// How a run of the suite ended.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    scenarios: usize,
    checks: usize,
    /// `scenario check`, for each check that neither succeeded nor only informed.
    failures: BTreeSet<String>,
}

impl Outcome {
    fn of(run: &SuiteRun) -> Outcome {
        let failed = |status: &str| !matches!(status, "SUCCESS" | "INFO" | "SKIPPED");
        let failures = run.checks.iter().filter(|(_, status)| failed(status));
        Outcome {
            scenarios: run.scenarios,
            checks: run.passed(),
            failures: failures.map(|(check, _)| check.clone()).collect(),
        }
    }

    /// From the record: the revision's row of the table, and the lines of the block
    /// `conformance-failures`, each with revision, scenario and check.
    fn recorded(revision: &str) -> Outcome {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance.md");
        let page = fs::read_to_string(path).expect("docs/conformance.md is there");
        let row = format!("| `--suite all --spec-version {revision}` |");
        let row = page.lines().find(|line| line.starts_with(&row)).expect("a row of the table");
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let passed = cells[3].split(' ').next().unwrap_or_default();
        let block = page.split("```text conformance-failures\n").nth(1).expect("a block");
        let lines = block.split("```").next().unwrap_or_default().lines();
        Outcome {
            scenarios: cells[2].parse().expect("a count of scenarios"),
            checks: passed.parse().expect("a count of checks"),
            failures: lines
                .filter_map(|line| line.strip_prefix(revision))
                .map(|failure| failure.trim().to_owned())
                .collect(),
        }
    }
}
