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
use std::path::{Path, PathBuf};

use serde_json::Value;

use harness::gateway::Launch;
use harness::script::{Output, run};
use harness::tools::NodeTools;

/// Runs the suite with these arguments against a fresh gateway; its reports go to the directory.
async fn run_suite(shards: usize, name: &str, args: &[&str]) -> (Output, PathBuf) {
    let tools = NodeTools::install();
    let gateway = Launch::default().shards(shards).start();
    let reports = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("conformance-{name}"));
    if reports.exists() {
        fs::remove_dir_all(&reports).expect("clear the reports of an earlier run");
    }
    let mut command = tools.conformance();
    command.args(["server", "--url", &gateway.url(), "-o"]).arg(&reports).args(args);
    (run(command).await, reports)
}

/// The end of what the suite printed: its summary.
fn summary(output: &Output) -> &str {
    let start = output.stdout.find("=== SUMMARY").unwrap_or(0);
    &output.stdout[start..]
}

async fn assert_required_scenarios_pass(shards: usize, revision: &str, required: usize) {
    let name = format!("required-{revision}-{shards}");
    let (output, _) = run_suite(shards, &name, &["--requirements", revision]).await;
    let summary = summary(&output);
    assert!(output.success, "{revision}:\n{summary}\n{}", output.stderr);
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
    let name = format!("all-{revision}");
    let args = ["--suite", "all", "--spec-version", revision];
    let (output, reports) = run_suite(2, &name, &args).await;
    let found = Outcome::read(&reports);
    let recorded = Outcome::recorded(revision);
    assert_eq!(
        found,
        recorded,
        "{revision}: what happened (left) is not what docs/conformance.md records (right)\n{}\n{}",
        summary(&output),
        output.stderr,
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
    /// From the suite's reports: one directory per scenario.
    fn read(reports: &Path) -> Outcome {
        let mut outcome = Outcome { scenarios: 0, checks: 0, failures: BTreeSet::new() };
        for entry in fs::read_dir(reports).expect("the suite writes reports") {
            let directory = entry.expect("read the reports").path();
            let text = fs::read_to_string(directory.join("checks.json")).expect("a report");
            let checks: Vec<Value> = serde_json::from_str(&text).expect("a report is JSON");
            let name = directory.file_name().expect("a name").to_string_lossy().into_owned();
            outcome.scenarios += 1;
            outcome.take(scenario_of(&name), &checks);
        }
        outcome
    }

    fn take(&mut self, scenario: &str, checks: &[Value]) {
        for check in checks {
            let status = check["status"].as_str().unwrap_or("unknown");
            self.checks += usize::from(status == "SUCCESS");
            if !matches!(status, "SUCCESS" | "INFO" | "SKIPPED") {
                let id = check["id"].as_str().unwrap_or("unknown");
                self.failures.insert(format!("{scenario} {id}"));
            }
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

/// The scenario's name in a report's, `server-NAME-YYYY-MM-DDTHH-MM-SS-mmmZ`.
fn scenario_of(report: &str) -> &str {
    const STAMP_BYTES: usize = "-2026-01-01T00-00-00-000Z".len();
    let end = report.len().saturating_sub(STAMP_BYTES);
    report[..end].strip_prefix("server-").unwrap_or(&report[..end])
}
