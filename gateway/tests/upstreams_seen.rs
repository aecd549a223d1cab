//! Tool servers as they are seen from outside: states, counts, breakers.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use harness::HANG;
use harness::gateway::{Gateway, Launch};
use harness::mcp::{LEGACY, Request, Session, call, modern, text_of};
use harness::metrics::Page;
use harness::wire::Wire;

/// An address where nobody listens.
fn free_address() -> SocketAddr {
    let unused = TcpListener::bind("127.0.0.1:0").expect("bind");
    unused.local_addr().expect("an address")
}

fn config(alive: SocketAddr, late: SocketAddr) -> String {
    format!(
        "[[upstream]]\nname = \"alive\"\nurl = \"http://{alive}/mcp?key=secret\"\nprefix = \"always\"\n\
         breaker_failures = 2\nbreaker_open_ms = 300\n\
         [[upstream]]\nname = \"late\"\nurl = \"http://{late}/mcp\"\nprefix = \"always\"\n\
         breaker_failures = 2\nbreaker_open_ms = 300\n"
    )
}

async fn report(gateway: &Gateway) -> Value {
    let mut wire = Wire::connect(gateway.admin).await.expect("connect");
    let page = Request::page("/api/v1/upstreams").bytes(gateway.admin);
    let answer = wire.ask(&page).await.expect("an answer");
    assert_eq!(answer.head.status, 200, "{answer:?}");
    answer.json()
}

fn upstream<'r>(report: &'r Value, name: &str) -> &'r Value {
    let all = report["upstreams"].as_array().expect("a list");
    all.iter().find(|upstream| upstream["name"] == name).expect("it is configured")
}

/// Looks until the upstream is as wanted.
async fn wait_until(gateway: &Gateway, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let report = report(gateway).await;
        let found = upstream(&report, name);
        if wanted(found) {
            return found.clone();
        }
        assert!(start.elapsed() < HANG, "{name} never came to be as wanted: {found:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn wait_for_state(gateway: &Gateway, name: &str, state: &str) -> Value {
    wait_until(gateway, name, |found| found["state"] == state).await
}

/// The answer to an echo by this tool.
async fn echo(gateway: &Gateway, tool: &str) -> Value {
    let params = json!({ "name": tool, "arguments": { "message": "m" } });
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    let call = modern(1, "tools/call", params).bytes(gateway.listen);
    wire.ask(&call).await.expect("an answer").json()
}

fn shardgate(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardgate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SHARDGATE_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null()).output().expect("run shardgate")
}

fn outcomes(page: &Page, upstream: &str, outcome: &str) -> f64 {
    let has = |labels: &[(String, String)], name: &str, value: &str| {
        labels.iter().any(|(key, found)| key == name && found == value)
    };
    page.named("shardgate_upstream_calls_total")
        .filter(|sample| {
            has(&sample.labels, "upstream", upstream) && has(&sample.labels, "outcome", outcome)
        })
        .map(|sample| sample.value)
        .sum()
}

#[tokio::test]
async fn a_dead_server_is_shown_and_recovers_when_it_comes_up() {
    let alive = Launch::default().shards(1).start();
    let late = free_address();
    let gateway = Launch::default().shards(1).config(&config(alive.listen, late)).start();

    let up = wait_for_state(&gateway, "alive", "up").await;
    assert!(up["tools"].as_u64() > Some(0) && up["era"] == "modern", "{up:#}");
    assert_eq!(up["address"], format!("http://{}/mcp", alive.listen), "without its query");
    let broken = wait_for_state(&gateway, "late", "broken").await;
    let reason = broken["reason"].as_str().expect("a reason");
    assert!(reason.contains(&late.to_string()), "{reason}");
    assert_eq!((&broken["era"], &broken["tools"]), (&Value::Null, &json!(0)));
    assert_eq!(broken["breaker"]["open_shards"], 1);

    let page = Page::fetch(gateway.admin).await;
    assert_eq!(page.sum("shardgate_upstream_up"), Some(1.0));
    assert_eq!(page.sum("shardgate_upstream_breaker_open"), Some(1.0));

    let _late = Launch::default().shards(1).listen(late).start();
    let back = wait_for_state(&gateway, "late", "up").await;
    assert_eq!((&back["reason"], &back["breaker"]["open_shards"]), (&Value::Null, &json!(0)));
    assert!(back["tools"] == up["tools"] && back["readings_failed"].as_u64() > Some(0), "{back:#}");
    assert_eq!(text_of(&echo(&gateway, "late__echo").await), Some("m"));
}

#[tokio::test]
async fn calls_are_counted_and_the_breaker_opens_and_closes() {
    let mut alive = Launch::default().shards(1).start();
    let address = alive.listen;
    let text = config(address, free_address());
    let gateway = Launch::default().shards(1).config(&text).start();
    wait_for_state(&gateway, "alive", "up").await;
    for _ in 0..5 {
        assert_eq!(text_of(&echo(&gateway, "alive__echo").await), Some("m"));
    }
    let session = Session::open(gateway.listen, LEGACY).await.expect("a session");
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    let wrong = call(2, "alive__echo", &json!({ "message": 7 }));
    session.ask(&mut wire, &wrong).await.expect("an answer");
    let counted = report(&gateway).await;
    let counted = upstream(&counted, "alive");
    assert_eq!(counted["calls"], 6, "{counted:#}");
    assert_eq!(counted["in_flight"], 0);
    assert_eq!(counted["latency_since_start"]["count"], 6);

    alive.terminate();
    alive.wait_exit();
    let start = Instant::now();
    // Each failure answers its call; in the end one is not even tried.
    while upstream(&report(&gateway).await, "alive")["outcomes"]["breaker"].is_null() {
        let refused = echo(&gateway, "alive__echo").await;
        assert!(refused["error"]["message"].is_string(), "{refused}");
        assert!(start.elapsed() < HANG, "the breaker never opened");
    }
    let broken = wait_until(&gateway, "alive", |it| it["breaker"]["openings"] != 0).await;
    assert!(broken["outcomes"]["unreachable"].as_u64() > Some(0), "{broken:#}");
    assert!(broken["errors"].as_u64() >= Some(2), "{broken:#}");
    let page = Page::fetch(gateway.admin).await;
    assert!(outcomes(&page, "alive", "breaker") >= 1.0);
    assert!(outcomes(&page, "alive", "unreachable") >= 1.0);
    assert_eq!(page.sum("shardgate_upstream_call_duration_seconds_count"), Some(6.0));

    let _again = Launch::default().shards(1).listen(address).start();
    let start = Instant::now();
    while text_of(&echo(&gateway, "alive__echo").await) != Some("m") {
        assert!(start.elapsed() < HANG, "it never recovered");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    wait_for_state(&gateway, "alive", "up").await;
}

#[tokio::test]
async fn the_command_shows_servers_for_people_and_programs() {
    let alive = Launch::default().shards(1).start();
    let text = config(alive.listen, free_address());
    let gateway = Launch::default().shards(2).config(&text).start();
    wait_for_state(&gateway, "alive", "up").await;
    wait_for_state(&gateway, "late", "broken").await;
    assert!(gateway.log_tail().contains("\"upstreams\":\"alive,late\""), "the ready line");
    let admin = gateway.admin.to_string();

    let output = shardgate(&["upstreams", "--admin", &admin]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for part in ["1 of 2 tool servers up", "alive", "broken", "trouble", "p99"] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "styles are for terminals: {text:?}");
    assert!(!text.contains("secret"), "{text}");

    let output = shardgate(&["upstreams", "--json", "--admin", &admin]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(upstream(&report, "alive")["breaker"]["shards"], 2);

    let output = shardgate(&["status", "--admin", &admin]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("tool servers: 1 of 2 up; late is broken"), "{text}");

    let nobody = free_address().to_string();
    assert_eq!(shardgate(&["upstreams", "--admin", &nobody]).status.code(), Some(4));
}
