//! The official conformance suite, run against any URL.
//!
//! A run's checks can be compared with those of another run, so a test can say
//! that a server seen through the gateway is what it is without.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::script::{Output, run};
use super::tools::NodeTools;

/// Which scenarios are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenarios {
    /// What a revision required when it was released, and those that are not scored.
    Required,
    /// All that the suite has for a revision.
    All,
    /// This one, whatever the revision.
    One(&'static str),
}

/// What became of each check. The key is the scenario and what [`CheckKey`] says; a check
/// that comes several times in a scenario is numbered: `tools-list name-valid 2`.
pub(crate) type Checks = BTreeMap<String, String>;

/// By what a check is known in its scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckKey {
    /// The requirement it is about.
    Id,
    /// What it looks at: scenarios for clients look at many things for one requirement.
    Name,
}

/// A finished run.
pub(crate) struct SuiteRun {
    /// What the suite printed and how it ended.
    pub(crate) output: Output,
    /// How many scenarios were run.
    pub(crate) scenarios: usize,
    pub(crate) checks: Checks,
}

impl SuiteRun {
    /// The end of what the suite printed: its summary.
    pub(crate) fn summary(&self) -> &str {
        let start = self.output.stdout.find("=== SUMMARY").unwrap_or(0);
        &self.output.stdout[start..]
    }

    /// How many checks succeeded.
    pub(crate) fn passed(&self) -> usize {
        self.checks.values().filter(|status| *status == "SUCCESS").count()
    }
}

/// Runs the suite against `url`. Its reports go to a directory of this name, which
/// must be another one for each run that may happen at the same time.
pub(crate) async fn run_suite(
    url: &str,
    scenarios: Scenarios,
    revision: &str,
    name: &str,
) -> SuiteRun {
    let reports = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("conformance-{name}"));
    clear_reports(&reports);
    let mut command = NodeTools::install().conformance();
    command.args(["server", "--url", url, "-o"]).arg(&reports);
    match scenarios {
        Scenarios::Required => command.args(["--requirements", revision]),
        Scenarios::All => command.args(["--suite", "all", "--spec-version", revision]),
        Scenarios::One(scenario) => command.args(["--scenario", scenario]),
    };
    let output = run(command).await;
    read_reports(&reports, output, CheckKey::Id)
}

/// Removes the reports of an earlier run.
pub(crate) fn clear_reports(reports: &Path) {
    if reports.exists() {
        fs::remove_dir_all(reports).expect("clear the reports of an earlier run");
    }
    fs::create_dir_all(reports).expect("a folder for reports");
}

/// The run that printed `output` and has left its reports here.
pub(crate) fn read_reports(reports: &Path, output: Output, key: CheckKey) -> SuiteRun {
    let mut checks = Checks::new();
    let directories = report_directories(reports, &output);
    for directory in &directories {
        read_report(directory, key, &mut checks);
    }
    SuiteRun { output, scenarios: directories.len(), checks }
}

/// The checks of a run, and nothing else of it.
pub(crate) async fn suite_checks(
    url: &str,
    scenarios: Scenarios,
    revision: &str,
    name: &str,
) -> Checks {
    run_suite(url, scenarios, revision, name).await.checks
}

/// One line for each check that differs; empty if the runs are alike.
///
/// `INFO` tells what the suite saw, such as that a server answered with JSON where it
/// might have streamed. It is no failure, and how often it comes may vary.
pub(crate) fn differences(found: &Checks, expected: &Checks) -> Vec<String> {
    let keys: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
    let mut lines = Vec::new();
    for key in keys {
        let (found, expected) = (found.get(key), expected.get(key));
        if !alike(found.map(String::as_str), expected.map(String::as_str)) {
            let word = |status: Option<&String>| status.map_or("nothing", |s| s).to_owned();
            lines.push(format!("{key}: {} instead of {}", word(found), word(expected)));
        }
    }
    lines
}

/// Compares differences with those on record, in `tests/servers/through_gateway/`.
/// `SHARDGATE_WRITE_REFERENCE=1` writes them anew.
pub(crate) fn assert_recorded(name: &str, found: &[String]) {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/servers/through_gateway");
    let path = directory.join(format!("{name}.txt"));
    let text: String = found.iter().map(|line| format!("{line}\n")).collect();
    if std::env::var_os("SHARDGATE_WRITE_REFERENCE").is_some() {
        fs::create_dir_all(&directory).expect("a folder for records");
        fs::write(&path, &text).expect("write the record");
    }
    let recorded = fs::read_to_string(&path).expect("the record is there");
    assert_eq!(text, recorded, "the differences on record are those of {}", path.display());
}

fn alike(left: Option<&str>, right: Option<&str>) -> bool {
    match (left, right) {
        (Some("INFO"), other) | (other, Some("INFO")) => {
            matches!(other, None | Some("INFO" | "SUCCESS"))
        }
        (left, right) => left == right,
    }
}

/// The suite's reports: one directory per scenario.
fn report_directories(reports: &Path, output: &Output) -> Vec<PathBuf> {
    let entries = fs::read_dir(reports).unwrap_or_else(|error| {
        panic!("no reports of the suite: {error}\n{}\n{}", output.stdout, output.stderr)
    });
    entries.map(|entry| entry.expect("read the reports").path()).collect()
}

fn read_report(directory: &Path, key: CheckKey, checks: &mut Checks) {
    let text = fs::read_to_string(directory.join("checks.json")).expect("a report");
    let report: Vec<Value> = serde_json::from_str(&text).expect("a report is JSON");
    let name = directory.file_name().expect("a name").to_string_lossy().into_owned();
    let scenario = scenario_of(&name);
    for check in &report {
        let known_by = match key {
            CheckKey::Id => "id",
            CheckKey::Name => "name",
        };
        let id = check[known_by].as_str().unwrap_or("unknown");
        let status = check["status"].as_str().unwrap_or("unknown");
        let first = format!("{scenario} {id}");
        let key = if checks.contains_key(&first) {
            (2..).map(|time| format!("{first} {time}")).find(|key| !checks.contains_key(key))
        } else {
            Some(first)
        };
        checks.insert(key.expect("numbers do not run out"), status.to_owned());
    }
}

/// The scenario's name in a report's, `server-NAME-YYYY-MM-DDTHH-MM-SS-mmmZ`; for clients
/// there is nothing before the name.
fn scenario_of(report: &str) -> &str {
    const STAMP_BYTES: usize = "-2026-01-01T00-00-00-000Z".len();
    let end = report.len().saturating_sub(STAMP_BYTES);
    report[..end].strip_prefix("server-").unwrap_or(&report[..end])
}
