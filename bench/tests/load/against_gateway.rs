//! The load generator against the gateway: every workload, both eras, sessions with streams.

use crate::harness::gateway::Gateway;
use crate::harness::generator::run;
use shardgate_bench::outcome::Outcome;

/// Runs at a low rate, and expects every request answered. A machine that is very busy may
/// keep the generator from sending all that was due.
fn load(gateway: &Gateway, more: &[&str]) -> Outcome {
    let (url, metrics) = (gateway.url(), gateway.metrics_url());
    let mut words = vec!["run", "--url", &url, "--metrics-url", &metrics, "--warmup", "0s"];
    words.extend_from_slice(more);
    let finished = run(&words);
    assert_eq!(finished.code, 0, "{words:?}\n{}", finished.stderr);
    let outcome = finished.outcome().clone();
    let totals = outcome.totals;
    assert_eq!((totals.shed, totals.errors), (0, 0), "{words:?}\n{:?}", outcome.errors);
    assert!(totals.completed > 0 && totals.completed == totals.sent, "{words:?}: {totals:?}");
    outcome
}

#[test]
fn every_workload_is_answered_without_an_error() {
    let gateway = Gateway::start();
    for workload in [
        "mix_50_20_30",
        "ping",
        "tools_call_1kib",
        "tools_call_16kib",
        "resources_read",
        "session_churn",
        "tcp_sustained_1kib",
        "http_sustained_1kib",
        "connections_100k",
        "stress_5min",
        "soak",
    ] {
        let more = ["--rate", "400", "--connections", "16", "--duration", "1s"];
        let outcome = load(&gateway, &[&["--workload", workload], &more[..]].concat());
        assert_eq!(outcome.totals.offered, 400, "{workload}");
    }
}

#[test]
fn the_mix_has_its_shares_and_its_sessions_end_and_begin() {
    let gateway = Gateway::start();
    let more = ["--rate", "500", "--connections", "8", "--duration", "2s"];
    let outcome = load(&gateway, &[&["--workload", "mix_50_20_30"], &more[..]].concat());
    let completed = |name: &str| outcome.operations[name].completed;
    let tenth = outcome.totals.completed / 10;
    assert!(completed("tools/call").abs_diff(5 * tenth) <= 5, "{tenth}");
    assert!(completed("resources/read").abs_diff(3 * tenth) <= 3, "{tenth}");
    let managed = ["ping", "session end", "initialize", "notifications/initialized"];
    assert!(managed.map(completed).iter().sum::<u64>().abs_diff(2 * tenth) <= 2, "{tenth}");
    assert!(managed.into_iter().all(|name| completed(name) > 0), "{:?}", outcome.operations);
    let shards = outcome.server.expect("a server on this machine").requests_by_shard;
    assert!(shards.values().sum::<u64>() > 0, "{shards:?}");
}

#[test]
fn the_modern_era_needs_no_sessions() {
    let gateway = Gateway::start();
    let more = ["--rate", "400", "--connections", "8", "--duration", "1s"];
    let era = ["--revision", "2026-07-28", "--workload", "mix_50_20_30", "--workers", "2"];
    let outcome = load(&gateway, &[&era[..], &more[..]].concat());
    let names: Vec<&str> = outcome.operations.keys().map(String::as_str).collect();
    assert_eq!(names, ["resources/read", "server/discover", "tools/call"]);
}

#[test]
fn an_announcement_reaches_every_stream_in_both_eras() {
    let gateway = Gateway::start();
    for revision in ["2025-11-25", "2026-07-28"] {
        let more = ["--rate", "10", "--connections", "30", "--duration", "1s", "--workers", "2"];
        let words = ["--workload", "sse_fanout", "--revision", revision];
        let outcome = load(&gateway, &[&words[..], &more[..]].concat());
        assert_eq!((outcome.totals.completed, outcome.totals.events), (10, 300), "{revision}");
        assert_eq!(outcome.operations["event"].corrected.count, 300);
    }
}

#[test]
fn sessions_are_held_with_their_streams_and_their_memory_is_measured() {
    let gateway = Gateway::start();
    let url = gateway.url();
    let words = ["connections", "--url", &url, "--count", "300", "--hold", "1s", "--rate", "600"];
    let finished = run(&[&words[..], &["--source-addresses", "3"]].concat());
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let outcome = finished.outcome();
    assert_eq!((outcome.totals.offered, outcome.totals.errors), (600, 0));
    assert!(outcome.totals.completed > 0 && outcome.totals.completed == outcome.totals.sent);
    let memory = outcome.memory.expect("it was measured");
    assert_eq!(memory.sessions, 300);
    assert!(memory.process_idle_bytes.is_some() && memory.kernel_slab_bytes.is_some());
    assert!(finished.stdout.contains("in the process when idle"), "{}", finished.stdout);
}
