//! The load generator against servers whose behaviour is known: what it counts and times
//! must be what happened.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::harness::generator::{Finished, begin, run, wait_until};
use crate::harness::server::{Act, Server};
use shardgate_bench::outcome::{Limit, Outcome};
use shardgate_bench::report::percentiles;

/// A run of `tools_call_1kib` without warm-up.
fn words<'a>(url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["run", "--url", url, "--workload", "tools_call_1kib", "--warmup", "0s"];
    words.extend_from_slice(more);
    words
}

fn count(outcome: &Outcome, kind: &str) -> u64 {
    outcome.errors.get(kind).map_or(0, |error| error.count)
}

/// How many of the latencies are at least so long.
fn slow(of: &shardgate_bench::outcome::Distribution, us: u64) -> u64 {
    let histogram = percentiles::histogram(of).expect("a histogram").expect("values");
    histogram.count_between(us, u64::MAX)
}

#[test]
fn a_stall_is_in_the_corrected_latencies_and_not_in_the_raw_ones() {
    const STALL: Duration = Duration::from_millis(800);
    const CONNECTIONS: u64 = 4;
    let server = Server::start(|call| if call == 500 { Act::Stall(STALL) } else { Act::Answer });
    let url = server.url();
    let finished = run(&words(&url, &["--rate", "500", "--connections", "4", "--duration", "3s"]));
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let outcome = finished.outcome();
    assert_eq!((outcome.totals.offered, outcome.totals.completed), (1_500, 1_500));
    // Of the 400 requests that were due in the stall, those of its first half waited for
    // more than the other half; only those that were under way were sent before it.
    let half_us = STALL.as_micros() as u64 / 2;
    let corrected = slow(&outcome.latency.corrected, half_us);
    let raw = slow(&outcome.latency.raw, half_us);
    assert!(corrected >= 180, "{corrected} corrected latencies show the stall");
    // A machine that is too busy to run the test slows both alike.
    assert!(raw <= CONNECTIONS + corrected / 4, "{raw} raw latencies show the stall");
    assert!(outcome.latency.corrected.p90 > outcome.latency.raw.p90);
}

#[test]
fn an_open_loop_offers_what_was_asked_for_and_no_more() {
    let server = Server::start(|_| Act::Answer);
    let url = server.url();
    for arrivals in ["even", "poisson"] {
        let before = server.seen().count("tools/call");
        let more =
            ["--rate", "400", "--connections", "8", "--duration", "2s", "--arrivals", arrivals];
        let finished = run(&words(&url, &more));
        assert_eq!(finished.code, 0, "{}", finished.stderr);
        let totals = finished.outcome().totals;
        if arrivals == "even" {
            assert_eq!(totals.offered, 800);
        } else {
            // 800 expected, standard deviation 28; the seed is fixed.
            assert!(totals.offered.abs_diff(800) < 140, "{}", totals.offered);
        }
        assert_eq!((totals.sent, totals.completed), (totals.offered, totals.offered));
        assert_eq!(server.seen().count("tools/call") - before, totals.sent);
        assert_eq!(finished.outcome().seconds.len(), 2);
    }
}

#[test]
fn a_closed_loop_counts_each_misbehaviour_as_what_it_is() {
    let server = Server::start(|call| match call % 10 {
        1 => Act::Status(503),
        2 => Act::Status(429),
        3 => Act::Error(-32_000),
        4 => Act::Status(500),
        5 => Act::Close,
        6 => Act::WrongId,
        7 => Act::Event,
        _ => Act::Answer,
    });
    let url = server.url();
    let finished = run(&words(&url, &["--rate", "max", "--connections", "8", "--duration", "2s"]));
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let outcome = finished.outcome();
    let totals = outcome.totals;
    assert_eq!(server.seen().count("tools/call"), totals.sent);
    assert_eq!(totals.completed + totals.shed + totals.errors, totals.sent);
    let tenth = totals.sent / 10;
    let is_about = |count: u64, tenths: u64| count.abs_diff(tenths * tenth) <= tenths;
    assert!(is_about(totals.shed, 2), "{totals:?}");
    for kind in ["json-rpc -32000", "http 500", "closed", "wrong id"] {
        assert!(is_about(count(outcome, kind), 1), "{kind}: {:?}", outcome.errors);
    }
    assert_eq!(outcome.errors.len(), 4, "{:?}", outcome.errors);
    assert!(is_about(totals.completed, 4), "{totals:?}");
    assert!(outcome.errors["json-rpc -32000"].example.contains("by plan"));
    // Each connection that was closed was replaced: the look at the server has one too.
    let accepted = server.seen().accepted.load(Ordering::Relaxed);
    assert!(accepted > count(outcome, "closed"), "{accepted} connections");
}

#[test]
fn a_fixed_reply_is_checked_like_any_other_answer() {
    let server = Server::start(|call| if call % 4 == 3 { Act::WrongId } else { Act::FixedReply });
    let url = server.url();
    let more = ["--rate", "200", "--connections", "2", "--duration", "1s", "--fixed-reply"];
    let finished = run(&words(&url, &more));
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let outcome = finished.outcome();
    assert_eq!((outcome.totals.completed, count(outcome, "wrong id")), (150, 50));
    assert_eq!(server.seen().count("tools/list"), 0, "it can't tell what it has");
}

#[test]
fn an_answer_that_never_comes_is_an_error_and_its_connection_is_replaced() {
    let server = Server::start(|call| if call == 3 { Act::Silence } else { Act::Answer });
    let url = server.url();
    let more = ["--rate", "50", "--connections", "2", "--duration", "2s", "--timeout", "500ms"];
    let finished = run(&words(&url, &more));
    let outcome = finished.outcome();
    assert_eq!((count(outcome, "timeout"), outcome.totals.errors), (1, 1), "{:?}", outcome.errors);
    assert_eq!(outcome.totals.completed, outcome.totals.offered - 1);
    assert!(server.seen().accepted.load(Ordering::Relaxed) >= 4);
}

#[test]
fn connections_come_and_go_with_the_stages() {
    let server = Server::start(|_| Act::Answer);
    let url = server.url();
    let stages = "ramp:1s@100/20,hold:1s@100/40,hold:1s@100/5";
    let finished = run(&words(&url, &["--stages", stages, "--workers", "2"]));
    assert_eq!(finished.code, 0, "{}", finished.stderr);
    let outcome = finished.outcome();
    let open: Vec<u32> = outcome.seconds.iter().map(|second| second.connections).collect();
    assert_eq!(open.len(), 3, "{open:?}");
    assert!(open[0].abs_diff(20) <= 1 && open[1..] == [40, 5], "{open:?}");
    assert_eq!(server.seen().open_max.load(Ordering::Relaxed), 40);
    let offered: Vec<u64> = outcome.stages.iter().map(|stage| stage.totals.offered).collect();
    assert_eq!(offered, [50, 100, 100]);
    assert_eq!((outcome.totals.completed, outcome.totals.errors), (outcome.totals.sent, 0));
    // Every connection had a session of its own, and all were ended.
    assert_eq!(server.seen().count("initialize"), 41);
}

#[test]
fn a_connection_is_replaced_after_as_many_requests_as_asked_for() {
    let server = Server::start(|_| Act::Answer);
    let url = server.url();
    let more = ["--rate", "200", "--connections", "4", "--duration", "1s"];
    let finished = run(&words(&url, &[&more[..], &["--requests-per-connection", "10"]].concat()));
    let totals = finished.outcome().totals;
    assert_eq!((totals.completed, totals.errors), (200, 0));
    // The two requests that open a session count as well, once per session.
    let accepted = server.seen().accepted.load(Ordering::Relaxed);
    assert!((18..=30).contains(&accepted), "{accepted} connections for 208 requests");
}

#[test]
fn a_server_that_goes_away_ends_the_run_and_leaves_a_report() {
    let server = Server::start(|_| Act::Answer);
    let url = server.url();
    let running = begin(&words(&url, &["--rate", "200", "--connections", "4", "--duration", "1h"]));
    wait_until("calls arrive", || server.seen().count("tools/call") > 100);
    server.vanish();
    let Finished { code, stderr, stdout, outcome } = running.finish();
    assert_eq!(code, 1, "{stderr}");
    let outcome = outcome.expect("a partial report");
    assert!(outcome.totals.completed > 0 && outcome.totals.errors > 0);
    assert_eq!(outcome.verdict.limit, Limit::Server);
    assert!(stdout.contains("is gone"), "{stdout}");
}

#[test]
fn an_interrupted_run_ends_in_order_and_leaves_a_report() {
    let server = Server::start(|_| Act::Answer);
    let url = server.url();
    let running = begin(&words(&url, &["--rate", "200", "--connections", "4", "--duration", "1h"]));
    wait_until("calls arrive", || server.seen().count("tools/call") > 100);
    running.interrupt();
    let finished = running.finish();
    assert_eq!(finished.code, 130, "{}", finished.stderr);
    let outcome = finished.outcome();
    assert!(outcome.verdict.interrupted);
    assert_eq!(outcome.totals.sent, outcome.totals.completed);
    assert_eq!(server.seen().count("tools/call"), outcome.totals.sent);
    // Its sessions were ended as well: four, and that of the look at the server.
    assert_eq!(server.seen().count("DELETE"), 5);
}

#[test]
fn a_threshold_that_is_not_kept_fails_the_run() {
    let server = Server::start(|call| if call == 7 { Act::Error(-1) } else { Act::Answer });
    let url = server.url();
    let more = ["--rate", "100", "--connections", "2", "--duration", "1s"];
    let broken = run(&words(&url, &[&more[..], &["--fail-if", "errors>0"]].concat()));
    assert_eq!(broken.code, 1, "{}", broken.stderr);
    assert_eq!(broken.outcome().verdict.broken_thresholds.len(), 1);
    let kept = run(&words(&url, &[&more[..], &["--fail-if", "errors>0,completed<100"]].concat()));
    assert_eq!(kept.code, 0, "{}", kept.stderr);
}

#[test]
fn what_cannot_be_run_is_told_in_a_sentence_with_an_exit_code() {
    let server = Server::start(|_| Act::Answer);
    let url = server.url();
    let gone = {
        let other = Server::start(|_| Act::Answer);
        other.vanish();
        other.url()
    };
    for (words, code, part) in [
        (
            vec!["run", "--url", &*url, "--workload", "tools_call_1kb"],
            2,
            "did you mean `tools_call_1kib`?",
        ),
        (words(&url, &["--rate", "0"]), 2, "`0` is no rate"),
        (words("https://127.0.0.1/mcp", &[]), 2, "only http://"),
        (words(&url, &["--stages", "ramp:1s@max"]), 2, "use step"),
        (words(&url, &["--workers", "9", "--connections", "3"]), 2, "at least as many connections"),
        (words(&url, &["--cpus", "1023"]), 2, "--cpus names cpu 1023"),
        (words(&gone, &[]), 3, "is the server running"),
        (words(&url, &["--tool", "nothing"]), 4, "has no tool `nothing`; it has echo"),
    ] {
        let finished = run(&words);
        assert_eq!(finished.code, code, "{words:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(part), "{words:?}: {}", finished.stderr);
        assert!(finished.outcome.is_none(), "{words:?}");
    }
}
