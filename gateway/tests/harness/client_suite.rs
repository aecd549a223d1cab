//! The official suite's client mode: it plays a tool server for each scenario, runs a client
//! against it and checks what the server has seen.

use std::path::{Path, PathBuf};

use super::script::run;
use super::suite::{CheckKey, SuiteRun, clear_reports, read_reports};
use super::tools::NodeTools;

/// Longer than the client's own patience with a scenario.
const CLIENT_BOUND_MS: &str = "120000";

/// What stands between the suite's server and the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before<'a> {
    /// Nothing.
    Nothing,
    /// A gateway of its own for each scenario.
    Gateway {
        /// On so many shards.
        shards: usize,
        /// The revision the client speaks, if not the scenario's own.
        speaks: Option<&'a str>,
    },
}

/// The names of all client scenarios that the suite has for a revision, or as `extension`,
/// but those about authorization.
pub(crate) async fn client_scenarios(revision: &str) -> Vec<String> {
    let mut command = NodeTools::install().conformance();
    command.args(["list", "--client"]);
    let output = run(command).await;
    assert!(output.success, "the suite's list: {}", output.stderr);
    // A line each: `  - NAME [REVISION,REVISION]`.
    let lines = output.stdout.lines().filter_map(|line| line.trim().strip_prefix("- "));
    let named = lines.filter_map(|line| line.strip_suffix(']')?.split_once(" ["));
    named
        .filter(|(_, revisions)| revisions.split(',').any(|known| known == revision))
        .map(|(name, _)| name.to_owned())
        .filter(|name| !name.starts_with("auth/"))
        .collect()
}

/// Runs one scenario.
pub(crate) async fn run_scenario(name: &str, revision: &str, before: Before<'_>) -> SuiteRun {
    let folder = folder_of(name, revision, before);
    let tools = NodeTools::install();
    let mut command = tools.conformance();
    // The suite splits the command at spaces and hands it to a shell, which finds paths of
    // any kind in variables. By `exec` the suite's signals reach the client.
    let mut client = r#"exec "$SUITE_NODE" "$SUITE_CLIENT""#.to_owned();
    command.env("SUITE_NODE", tools.node().get_program());
    command.env("SUITE_CLIENT", tools.script_path("suite_client.mjs"));
    if let Before::Gateway { shards, speaks } = before {
        client.push_str(&format!(r#" "$SUITE_GATEWAY" "$SUITE_FOLDER" {shards}"#));
        command.env("SUITE_GATEWAY", env!("CARGO_BIN_EXE_shardgate"));
        command.env("SUITE_FOLDER", &folder);
        command.envs(speaks.map(|speaks| ("SUITE_CLIENT_REVISION", speaks)));
    }
    let reports = folder.join("reports");
    clear_reports(&reports);
    command.args(["client", "--command", &client, "--scenario", name]);
    command.args(["--timeout", CLIENT_BOUND_MS, "-o"]).arg(&reports);
    if is_revision(revision) {
        command.args(["--spec-version", revision]);
    }
    let output = run(command).await;
    read_reports(&reports, output, CheckKey::Name)
}

/// Where a run leaves its files; another one for each that may happen at the same time.
fn folder_of(name: &str, revision: &str, before: Before<'_>) -> PathBuf {
    let what = match before {
        Before::Nothing => "direct".to_owned(),
        Before::Gateway { shards, speaks } => format!("{shards}-{}", speaks.unwrap_or("same")),
    };
    let test = std::thread::current().name().unwrap_or("test").replace(':', "-");
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("client-suite")
        .join(format!("{test}-{name}-{revision}-{what}"))
}

/// Extensions have no revision: the suite chooses one.
fn is_revision(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit())
}
