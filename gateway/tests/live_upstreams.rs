//! Upstreams and routes come, change and go while clients are connected.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use harness::HANG;
use harness::gateway::{Gateway, Launch};
use harness::mcp::{self, LEGACY, Request, Session, call, text_of};
use harness::metrics::Page;
use harness::wire::Wire;
use serde_json::{Value, json};

/// Longer than a reload takes; that it was under way is read from the log.
const SLOW_CALL_MS: u64 = 4_000;

struct Rig {
    gateway: Gateway,
    path: PathBuf,
}

impl Rig {
    fn start(name: &str, text: &str) -> Rig {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, text).expect("write the configuration");
        let config = path.to_str().expect("UTF-8").to_owned();
        Rig { gateway: Launch::default().args(&["--config", &config]).start(), path }
    }

    /// Replaces the file whole and has it read.
    async fn reload(&self, text: &str) {
        let before = self.reloads().await;
        let new = self.path.with_extension("new");
        std::fs::write(&new, text).expect("write the new configuration");
        std::fs::rename(&new, &self.path).expect("move it into place");
        let killed = Command::new("kill").args(["-HUP", &self.gateway.pid().to_string()]).status();
        assert!(killed.is_ok_and(|status| status.success()), "send SIGHUP to the gateway");
        let start = Instant::now();
        while self.reloads().await <= before {
            self.pause(start, "the file was read").await;
        }
    }

    async fn reloads(&self) -> f64 {
        let page = Page::fetch(self.gateway.admin).await;
        page.sum("shardgate_config_reloads_total").unwrap_or_default()
    }

    async fn pause(&self, start: Instant, what: &str) {
        let log = self.gateway.log_tail();
        assert!(start.elapsed() < HANG, "it never was that {what}:\n{log}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    async fn wait_for_log(&self, parts: &[&str]) {
        let start = Instant::now();
        let said = |line: &str| parts.iter().all(|part| line.contains(part));
        while !self.gateway.log_tail().lines().any(said) {
            self.pause(start, &format!("the log said {parts:?}")).await;
        }
    }

    async fn wire(&self) -> Wire {
        Wire::connect(self.gateway.listen).await.expect("connect")
    }

    async fn session(&self) -> Session {
        Session::open(self.gateway.listen, LEGACY).await.expect("a session opens")
    }

    async fn ask(&self, session: &Session, message: &Value) -> Value {
        let answer = session.ask(&mut self.wire().await, message).await.expect("an answer");
        assert_eq!(answer.head.status, 200, "the session lives: {answer:?}");
        answer.json()
    }

    async fn has(&self, session: &Session, tool: &str) -> bool {
        let list = self.ask(session, &mcp::request(1, "tools/list", &json!({}))).await;
        let tools = list["result"]["tools"].as_array().expect("a list");
        tools.iter().any(|it| it["name"] == tool)
    }

    async fn wait_until_has(&self, session: &Session, tool: &str, wanted: bool) {
        let start = Instant::now();
        while self.has(session, tool).await != wanted {
            self.pause(start, &format!("{tool} is listed: {wanted}")).await;
        }
    }

    async fn assert_echo(&self, session: &Session, tool: &str) {
        let answer = self.ask(session, &call(2, tool, &json!({ "message": "hello" }))).await;
        assert!(text_of(&answer).is_some_and(|text| text.contains("hello")), "{tool}: {answer}");
    }

    /// Waits until the client is told of a change, and then sees that a tool is there or not.
    /// It may be told of earlier changes first.
    async fn told(&self, session: &Session, stream: &mut Wire, tool: &str, wanted: bool) {
        loop {
            let event = stream.event().await.expect("an event").expect("the stream goes on");
            if event.data.contains("notifications/tools/list_changed")
                && self.has(session, tool).await == wanted
            {
                return;
            }
        }
    }
}

fn server() -> Gateway {
    Launch::default().shards(1).start()
}

/// By a revision with sessions, so that the server's count of them tells of ours.
fn upstream(name: &str, server: &Gateway) -> String {
    let url = server.url();
    format!(
        "[[upstream]]\nname = \"{name}\"\nurl = \"{url}\"\nprefix = \"always\"\n\
         protocol = \"legacy\"\n"
    )
}

async fn metric(gateway: &Gateway, name: &str) -> f64 {
    Page::fetch(gateway.admin).await.sum(name).unwrap_or_default()
}

async fn wait_for_metric(gateway: &Gateway, name: &str, wanted: f64) {
    let start = Instant::now();
    while metric(gateway, name).await != wanted {
        assert!(start.elapsed() < HANG, "{name} never was {wanted}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn upstreams_come_and_go_and_sessions_stay() {
    let (one, two) = (server(), server());
    let rig = Rig::start("live-come-and-go.toml", &upstream("one", &one));
    let session = rig.session().await;
    rig.assert_echo(&session, "one__echo").await;
    let mut stream = rig.wire().await;
    assert_eq!(session.stream(&mut stream, None).await.expect("a stream").status, 200);

    let opened = metric(&one, "shardgate_sessions").await;
    rig.reload(&(upstream("one", &one) + &upstream("two", &two))).await;
    rig.told(&session, &mut stream, "two__echo", true).await;
    rig.assert_echo(&session, "two__echo").await;
    rig.assert_echo(&session, "one__echo").await;
    assert_eq!(metric(&one, "shardgate_sessions").await, opened, "its sessions were kept");
    assert!(!rig.gateway.log_tail().contains("upstream_leaves"));

    rig.reload(&upstream("two", &two)).await;
    rig.told(&session, &mut stream, "one__echo", false).await;
    let refused = rig.ask(&session, &call(3, "one__echo", &json!({ "message": "hello" }))).await;
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
    rig.assert_echo(&session, "two__echo").await;
    wait_for_metric(&one, "shardgate_sessions", 0.0).await;
    wait_for_metric(&one, "shardgate_connections", 0.0).await;
}

#[tokio::test]
async fn what_is_shown_of_an_upstream_changes_under_its_sessions() {
    let one = server();
    let rig = Rig::start("live-shown.toml", &upstream("one", &one));
    let session = rig.session().await;
    rig.assert_echo(&session, "one__echo").await;
    let mut stream = rig.wire().await;
    assert_eq!(session.stream(&mut stream, None).await.expect("a stream").status, 200);
    let opened = metric(&one, "shardgate_session_events_total").await;
    rig.reload(&format!("{}tools.deny = [\"add\"]\n", upstream("one", &one))).await;
    rig.told(&session, &mut stream, "one__add", false).await;
    rig.assert_echo(&session, "one__echo").await;
    assert_eq!(metric(&one, "shardgate_session_events_total").await, opened, "none came or went");
    assert!(!rig.gateway.log_tail().contains("upstream_leaves"));
}

#[tokio::test]
async fn a_call_under_way_is_answered_by_the_server_that_leaves() {
    let (one, two) = (server(), server());
    let rig = Rig::start("live-drain.toml", &(upstream("one", &one) + &upstream("two", &two)));
    let session = rig.session().await;
    let slow = call(7, "one__sleep", &json!({ "ms": SLOW_CALL_MS }));
    let mut wire = rig.wire().await;
    wire.send(&session.post(&slow)).await.expect("sent");
    wait_for_metric(&one, "shardgate_calls_in_flight", 1.0).await;
    rig.reload(&upstream("two", &two)).await;
    rig.wait_for_log(&["upstream_leaves", "\"calls\":1"]).await;
    let refused = rig.ask(&session, &call(8, "one__echo", &json!({ "message": "x" }))).await;
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
    let answer = wire.answer().await.expect("an answer").json();
    assert!(answer["result"]["content"].is_array() && answer["id"] == 7, "{answer}");
    wait_for_metric(&one, "shardgate_sessions", 0.0).await;
}

#[tokio::test]
async fn a_changed_upstream_is_opened_anew() {
    let (old, new) = (server(), server());
    let rig = Rig::start("live-change.toml", &upstream("one", &old));
    let session = rig.session().await;
    rig.assert_echo(&session, "one__echo").await;
    assert_eq!(metric(&new, "shardgate_connections_accepted_total").await, 0.0);
    rig.reload(&upstream("one", &new)).await;
    rig.wait_for_log(&["upstream_left"]).await;
    // It keeps its name and place all the while, so nothing has vanished.
    rig.assert_echo(&session, "one__echo").await;
    wait_for_metric(&old, "shardgate_sessions", 0.0).await;
    wait_for_metric(&old, "shardgate_connections", 0.0).await;
    drop(old);
    rig.assert_echo(&session, "one__echo").await;
    assert!(metric(&new, "shardgate_sessions").await >= 1.0);
}

#[tokio::test]
async fn routes_come_and_go_and_come_back() {
    let one = server();
    let plain = upstream("one", &one);
    let routed = format!("{plain}[[route]]\npath = \"/mcp/ops\"\ntools.allow = [\"one__echo\"]\n");
    let rig = Rig::start("live-routes.toml", &plain);
    let address = rig.gateway.listen;
    let status_at = async |path: &str| {
        let post = Request::post(&mcp::initialize(LEGACY)).at(path).bytes(address);
        rig.wire().await.ask(&post).await.expect("an answer").head.status
    };
    assert_eq!(status_at("/mcp/ops").await, 404);
    rig.reload(&routed).await;
    let start = Instant::now();
    while status_at("/mcp/ops").await != 200 {
        rig.pause(start, "the route is served").await;
    }
    // Whichever shard takes the connection: each may hear of it in its own time.
    let mut opened = Session::open_at(&mut rig.wire().await, address, "/mcp/ops", LEGACY).await;
    while opened.is_err() {
        rig.pause(start, "the route is served by both").await;
        opened = Session::open_at(&mut rig.wire().await, address, "/mcp/ops", LEGACY).await;
    }
    let session = opened.expect("a session");
    rig.wait_until_has(&session, "one__add", false).await;
    rig.assert_echo(&session, "one__echo").await;
    rig.reload(&plain).await;
    while status_at("/mcp/ops").await != 404 {
        rig.pause(start, "the route is gone").await;
    }
    rig.reload(&routed).await;
    while session
        .ask(&mut rig.wire().await, &mcp::request(5, "ping", &json!({})))
        .await
        .is_ok_and(|answer| answer.head.status != 200)
    {
        rig.pause(start, "the session is found again").await;
    }
    rig.assert_echo(&session, "one__echo").await;
}

#[tokio::test]
async fn what_is_not_usable_changes_nothing() {
    let one = server();
    let text = upstream("one", &one);
    let rig = Rig::start("live-unusable.toml", &text);
    let session = rig.session().await;
    rig.reload(&format!("{text}headers_from_env = {{ X = \"SHARDGATE_TEST_NO_SUCH\" }}\n")).await;
    rig.wait_for_log(&["config_refused", "SHARDGATE_TEST_NO_SUCH"]).await;
    rig.assert_echo(&session, "one__echo").await;
    assert!(!rig.gateway.log_tail().contains("upstream_leaves"));
}

#[tokio::test]
async fn a_gateway_without_upstreams_says_that_it_needs_a_restart() {
    let one = server();
    let rig = Rig::start("live-embedded.toml", "[embedded]\nenabled = true\n");
    let session = rig.session().await;
    rig.reload(&format!("[embedded]\nenabled = true\n{}", upstream("one", &one))).await;
    rig.wait_for_log(&["restart_needed", "embedded server alone"]).await;
    session.assert_healthy().await;
}
