//! Tools whose definition has changed are withheld until somebody approves them.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use harness::HANG;
use harness::gateway::{Gateway, Launch};
use harness::mcp::{self, LEGACY, Request, Session, call, modern, text_of};
use harness::metrics::Page;
use harness::wire::Wire;
use serde_json::{Value, json};

/// No definition has this hash.
const STALE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

struct Rig {
    gateway: Gateway,
    _server: Gateway,
    pins: PathBuf,
}

impl Rig {
    /// A gateway on two shards whose one upstream is pinned, after it has been read.
    async fn start(name: &str, pins: &str) -> Rig {
        let server = Launch::default().shards(1).start();
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&path, pins).expect("write the pins");
        let config = format!(
            "[catalog]\npins_file = {path:?}\n[[upstream]]\nname = \"one\"\nurl = \"{}\"\npin = true\n",
            server.url()
        );
        let gateway = Launch::default().config(&config).start();
        let rig = Rig { gateway, _server: server, pins: path };
        rig.wait("the tools are written down", || rig.written().contains("\"add\"")).await;
        rig
    }

    fn written(&self) -> String {
        std::fs::read_to_string(&self.pins).expect("read the pins")
    }

    async fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < HANG, "it never was that {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn catalog(&self, arguments: &[&str]) -> Output {
        let admin = self.gateway.admin.to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_shardgate"));
        command.arg("catalog").args(arguments).args(["--admin", &admin]).stdin(Stdio::null());
        command.output().expect("the command runs")
    }

    /// The tools' names, asked for on a fresh connection.
    async fn tools(&self) -> Vec<String> {
        let list = modern(1, "tools/list", json!({})).bytes(self.gateway.listen);
        let mut wire = Wire::connect(self.gateway.listen).await.expect("connect");
        let answer = wire.ask(&list).await.expect("an answer").json();
        let tools = answer["result"]["tools"].as_array().expect("a list");
        tools.iter().filter_map(|tool| tool["name"].as_str().map(str::to_owned)).collect()
    }

    async fn echo(&self) -> Value {
        let address = self.gateway.listen;
        let mut wire = Wire::connect(address).await.expect("connect");
        let session = Session::open_on(&mut wire, address, LEGACY).await.expect("a session");
        let message = call(1, "echo", &json!({ "message": "hello" }));
        session.ask(&mut wire, &message).await.expect("an answer").json()
    }

    async fn quarantined(&self) -> Option<f64> {
        Page::fetch(self.gateway.admin).await.sum("shardgate_catalog_quarantined")
    }
}

#[tokio::test]
async fn a_changed_tool_is_withheld_until_it_is_approved() {
    let rig = Rig::start("changed.pins", &format!("{STALE} \"one\" \"echo\"\n")).await;
    // So many connections that both shards are asked.
    for _ in 0..8 {
        let tools = rig.tools().await;
        assert!(!tools.contains(&"echo".to_owned()) && tools.contains(&"add".to_owned()));
        let refused = rig.echo().await;
        assert_eq!(refused["error"]["code"], -32602, "{refused}");
        let message = refused["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("shardgate catalog approve one echo"), "{message}");
    }
    assert_eq!(rig.quarantined().await, Some(1.0));
    assert!(rig.gateway.log_tail().contains("tool_quarantined"));
    let listed = rig.catalog(&["list"]);
    let listed = String::from_utf8(listed.stdout).expect("text");
    assert!(listed.starts_with("one  echo ") && listed.contains("quarantined"), "{listed}");

    // Another tool's approval is none of this one's.
    assert!(rig.catalog(&["approve", "one", "add"]).status.success());
    assert!(rig.written().contains(STALE));
    let approved = rig.catalog(&["approve", "one", "echo"]);
    assert!(approved.status.success(), "{approved:?}");
    assert_eq!(String::from_utf8(approved.stdout).as_deref(), Ok("approved one echo\n"));
    assert!(!rig.written().contains(STALE), "{}", rig.written());
    assert_eq!(rig.quarantined().await, Some(0.0));
    // What the shards were sent before comes before these.
    for _ in 0..8 {
        assert!(rig.tools().await.contains(&"echo".to_owned()));
        let answer = rig.echo().await;
        assert!(text_of(&answer).is_some_and(|text| text.contains("hello")), "{answer}");
    }
}

#[tokio::test]
async fn what_is_seen_first_is_approved_and_nothing_else_can_be() {
    let rig = Rig::start("first.pins", "# nothing yet\n").await;
    assert!(rig.tools().await.contains(&"echo".to_owned()));
    assert_eq!(rig.quarantined().await, Some(0.0));
    for unknown in [&["approve", "one", "no-such-tool"], &["approve", "other", "echo"]] {
        let refused = rig.catalog(unknown);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    }
    let nothing = rig.catalog(&["approve"]);
    assert_eq!(String::from_utf8(nothing.stdout).as_deref(), Ok("nothing was quarantined\n"));
}

#[tokio::test]
async fn a_foreign_page_can_not_approve() {
    let rig = Rig::start("foreign.pins", &format!("{STALE} \"one\" \"echo\"\n")).await;
    let admin = rig.gateway.admin;
    let approve = || Request::post(&json!({})).at("/api/v1/catalog/approve");
    for (request, status) in [
        (approve().header("content-type", "text/plain"), 415),
        (approve().header("host", "evil.example"), 403),
        (Request::page("/api/v1/catalog/approve"), 405),
    ] {
        let mut wire = Wire::connect(admin).await.expect("connect");
        let answer = wire.ask(&request.bytes(admin)).await.expect("an answer");
        assert_eq!(answer.head.status, status, "{answer:?}");
    }
    assert!(rig.written().contains(STALE));
    assert_eq!(rig.quarantined().await, Some(1.0));
}

#[tokio::test]
async fn a_standing_stream_hears_of_an_approval() {
    let rig = Rig::start("heard.pins", &format!("{STALE} \"one\" \"echo\"\n")).await;
    let session = Session::open(rig.gateway.listen, LEGACY).await.expect("a session");
    let ping = mcp::request(1, "ping", &json!({}));
    let mut wire = Wire::connect(rig.gateway.listen).await.expect("connect");
    session.ask(&mut wire, &ping).await.expect("an answer");
    let mut stream = Wire::connect(rig.gateway.listen).await.expect("connect");
    assert_eq!(session.stream(&mut stream, None).await.expect("a stream").status, 200);
    assert!(rig.catalog(&["approve", "one"]).status.success());
    loop {
        let event = stream.event().await.expect("an event").expect("the stream goes on");
        if event.data.contains("notifications/tools/list_changed") {
            break;
        }
    }
}
