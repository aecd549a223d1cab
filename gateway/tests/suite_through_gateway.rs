//! The official suite through the gateway, to servers of other makers: what a client
//! sees is what it would see directly, and across the eras every difference is recorded.
//!
//! Records lie in `tests/servers/through_gateway/`, a line per check that differs from
//! the server's own baseline; docs/conformance.md explains each.
//! `SHARDGATE_WRITE_REFERENCE=1` writes them anew.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use harness::gateway::{Gateway, Launch};
use harness::mcp::{LEGACY, MODERN};
use harness::servers::{Kind, ReferenceServer, Stdio};
use harness::suite::{Checks, Scenarios, assert_recorded, differences, run_suite, suite_checks};

/// A gateway before one server, whose tools keep their names. However slow the machine is,
/// no call is answered as a stream for its slowness: that would change what the suite finds.
fn gateway_before(upstream: &str, shards: usize) -> Gateway {
    let config =
        format!("[limits]\nanswer_patience_ms = 60000\n[[upstream]]\nname = \"one\"\n{upstream}\n");
    Launch::default().shards(shards).config(&config).start()
}

fn by_url(server: &ReferenceServer, protocol: &str) -> String {
    format!("url = \"{}\"\nprotocol = \"{protocol}\"", server.url)
}

fn by_command(stdio: &Stdio) -> String {
    let words: Vec<String> = stdio.command().iter().map(|word| format!("{word:?}")).collect();
    format!("command = [{}]", words.join(", "))
}

/// What differs between the suite's run through a gateway and `direct`.
async fn differing(gateway: &Gateway, revision: &str, name: &str, direct: &Checks) -> Vec<String> {
    let run = run_suite(&gateway.url(), Scenarios::Required, revision, name).await;
    assert!(!run.checks.is_empty(), "nothing was checked:\n{}", run.output.stderr);
    differences(&run.checks, direct)
}

/// Through the gateway in the server's own era: nothing may differ.
async fn assert_alike(kind: Kind, protocol: &str, revision: &str, name: &str, shards: usize) {
    let server = ReferenceServer::start(kind).await;
    let direct =
        suite_checks(&server.url, Scenarios::Required, revision, &format!("{name}-direct")).await;
    let gateway = gateway_before(&by_url(&server, protocol), shards);
    let found = differing(&gateway, revision, name, &direct).await;
    assert_recorded(name, &found);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_server_is_to_modern_clients_what_it_is_by_itself() {
    assert_alike(Kind::BothEras, "auto", MODERN, "modern-to-modern", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_server_is_to_legacy_clients_what_it_is_by_itself() {
    assert_alike(Kind::Legacy, "auto", LEGACY, "legacy-to-legacy", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_both_eras_spoken_to_in_the_legacy_one_is_what_it_is_by_itself() {
    assert_alike(Kind::BothEras, "legacy", LEGACY, "both-as-legacy-to-legacy", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_both_eras_spoken_to_in_the_modern_one_serves_legacy_clients() {
    assert_alike(Kind::BothEras, "modern", LEGACY, "both-as-modern-to-legacy", 1).await;
}

/// A server of one era only, and clients of the other: compared with the server of both.
async fn assert_crossed(kind: Kind, revision: &str, name: &str) {
    let both = ReferenceServer::start(Kind::BothEras).await;
    let direct =
        suite_checks(&both.url, Scenarios::Required, revision, &format!("{name}-direct")).await;
    let server = ReferenceServer::start(kind).await;
    let gateway = gateway_before(&by_url(&server, "auto"), 2);
    let found = differing(&gateway, revision, name, &direct).await;
    assert_recorded(name, &found);
}

#[tokio::test(flavor = "multi_thread")]
async fn modern_clients_of_a_legacy_server_differ_as_recorded() {
    assert_crossed(Kind::Legacy, MODERN, "modern-to-legacy-only").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_clients_of_a_modern_server_differ_as_recorded() {
    assert_crossed(Kind::ModernOnly, LEGACY, "legacy-to-modern-only").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_on_standard_streams_differ_as_recorded() {
    for (stdio, kind, revision, name) in [
        (Stdio::Legacy, Kind::Legacy, LEGACY, "stdio-legacy-to-legacy"),
        (Stdio::ModernOnly, Kind::BothEras, MODERN, "stdio-modern-to-modern"),
    ] {
        let server = ReferenceServer::start(kind).await;
        let direct =
            suite_checks(&server.url, Scenarios::Required, revision, &format!("{name}-direct"))
                .await;
        let gateway = gateway_before(&by_command(&stdio), 1);
        let found = differing(&gateway, revision, name, &direct).await;
        assert_recorded(name, &found);
    }
}
