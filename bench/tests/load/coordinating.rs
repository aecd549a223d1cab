//! `coordinator` as its users run it, with tiny numbers: real processes on loopback.

use std::path::PathBuf;
use std::process::{Command, Output};

use shardgate_bench::coordinator::{Figures, Place, Step};

/// Runs it, and gives its exit code, what it showed, and what it wrote.
fn coordinator(name: &str, words: &[&str]) -> (i32, String, Figures) {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("coordinator-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("make a directory");
    let json = directory.join("figures.json");
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_shardgate-bench"))
        .arg("coordinator")
        .args(words)
        .arg("--json")
        .arg(&json)
        .arg("--data")
        .arg(&directory)
        .output()
        .expect("run shardgate-bench");
    let said = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    let text = std::fs::read_to_string(&json).unwrap_or_else(|error| panic!("{error}: {said}"));
    let left: Vec<_> = std::fs::read_dir(&directory).expect("list").collect();
    assert_eq!(left.len(), 1, "the nodes' data is removed: {left:?}");
    std::fs::remove_dir_all(&directory).expect("remove what it wrote");
    (status.code().expect("it ended by itself"), said, serde_json::from_str(&text).expect("JSON"))
}

#[test]
fn every_operation_is_measured_at_the_leader_and_at_a_follower() {
    let words = ["--cluster-sizes", "1,3", "--operations", "40", "--clients", "4", "--runs", "1"];
    let (code, said, figures) = coordinator("steps", &words);
    assert_eq!(code, 0, "{said}");
    let measured: Vec<(u16, Place)> = figures
        .steps
        .iter()
        .filter(|figures| figures.step == Step::SubmitTask)
        .map(|figures| (figures.nodes, figures.place))
        .collect();
    assert_eq!(measured, [(1, Place::Leader), (3, Place::Leader), (3, Place::Follower)]);
    assert_eq!(figures.steps.len(), measured.len() * Step::ALL.len());
    for figures in &figures.steps {
        let [run] = &figures.runs[..] else { panic!("one run: {figures:?}") };
        assert_eq!((run.done, run.failed, run.latency.count), (40, 0, 40), "{figures:?}");
        assert_eq!(run.syncs == 0, figures.step == Step::QueryTask, "{figures:?}");
    }
    assert!(said.contains("submit task") && said.contains("Nothing failed"), "{said}");
    // Names of this machine's directories are nobody else's business.
    assert!(!figures.command.iter().any(|word| word.contains('/')), "{:?}", figures.command);
}

#[test]
fn what_was_acknowledged_outlives_the_leader() {
    let words = ["--cluster-sizes", "3", "--failover", "2", "--failover-clients", "8", "--tls"];
    let (code, said, figures) = coordinator("failover", &words);
    assert_eq!(code, 0, "{said}");
    let [failover] = &figures.failovers[..] else { panic!("one cluster: {said}") };
    assert_eq!((failover.kills, failover.lost, failover.doubled), (2, 0, 0), "{said}");
    assert!(failover.outages_us.len() == 2 && failover.acknowledged >= 100, "{failover:?}");
    assert!(figures.is_secure);
}

#[test]
fn nodes_clusters_and_newcomers_get_everything() {
    let words = ["--cluster-sizes", "3", "--recovery", "--recovery-tasks", "600"];
    let (code, said, figures) = coordinator("recovery", &words);
    assert_eq!(code, 0, "{said}");
    let [recovery] = &figures.recoveries[..] else { panic!("one cluster: {said}") };
    assert_eq!((recovery.tasks, recovery.lost, recovery.resident_bytes.len()), (600, 0, 3));
    assert!(recovery.snapshot_bytes > 600 * 1_024, "{recovery:?}");
    assert!(recovery.node_restart_us > 0 && recovery.full_sync_us > 0, "{recovery:?}");
}
