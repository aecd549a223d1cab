//! Virtual servers: paths of the same gateway that show different parts of its catalog.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use harness::gateway::{Gateway, Launch};
use harness::mcp::{self, LEGACY, Request, Session, call, modern, text_of};
use harness::wire::Wire;
use serde_json::{Value, json};

/// So many connections that, on two shards, some are not on the session's own.
const CONNECTIONS: usize = 12;

/// A gateway with two tool servers and a path that shows two tools of the second.
struct Rig {
    gateway: Gateway,
    _servers: [Gateway; 2],
}

impl Rig {
    fn start() -> Rig {
        let servers = [(); 2].map(|()| Launch::default().shards(1).start());
        let config = format!(
            "[[upstream]]\nname = \"one\"\nurl = \"{}\"\nprefix = \"always\"\n\
             [[upstream]]\nname = \"two\"\nurl = \"{}\"\nprefix = \"always\"\n\
             [[route]]\npath = \"/mcp/ops\"\nupstreams = [\"two\"]\n\
             tools.allow = [\"two__e*\", \"two__a*\", \"one__*\"]\ntools.deny = [\"two__always*\"]\n",
            servers[0].url(),
            servers[1].url(),
        );
        Rig { gateway: Launch::default().config(&config).start(), _servers: servers }
    }

    async fn wire(&self) -> Wire {
        Wire::connect(self.gateway.listen).await.expect("connect")
    }

    async fn session(&self, path: &str) -> Session {
        let address = self.gateway.listen;
        let opened = Session::open_at(&mut self.wire().await, address, path, LEGACY).await;
        opened.expect("a session opens")
    }

    async fn ask(&self, session: &Session, message: &Value) -> (u16, Value) {
        let answer = session.ask(&mut self.wire().await, message).await.expect("an answer");
        (answer.head.status, answer.json())
    }
}

fn names(answer: &Value) -> BTreeSet<&str> {
    let tools = answer["result"]["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
    tools.iter().filter_map(|tool| tool["name"].as_str()).collect()
}

fn bytes_at(path: &str, request: Request, address: SocketAddr) -> Vec<u8> {
    request.at(path).bytes(address)
}

#[tokio::test]
async fn a_route_shows_its_part_and_no_more() {
    let rig = Rig::start();
    let expected = BTreeSet::from(["two__add", "two__echo"]);

    let (_, whole) =
        rig.ask(&rig.session("/mcp").await, &mcp::request(1, "tools/list", &json!({}))).await;
    assert!(names(&whole).contains("one__echo") && names(&whole).contains("two__greet"), "{whole}");
    let session = rig.session("/mcp/ops").await;
    let (_, part) = rig.ask(&session, &mcp::request(1, "tools/list", &json!({}))).await;
    assert_eq!(names(&part), expected);

    let hello = json!({ "message": "hello" });
    let (_, shown) = rig.ask(&session, &call(2, "two__echo", &hello)).await;
    assert!(text_of(&shown).is_some_and(|text| text.contains("hello")), "{shown}");
    for hidden in ["one__echo", "two__greet", "two__always_fails", "greet"] {
        let (_, answer) = rig.ask(&session, &call(3, hidden, &hello)).await;
        assert_eq!(answer["error"]["code"], -32602, "{hidden}: {answer}");
    }

    let address = rig.gateway.listen;
    let list = bytes_at("/mcp/ops", modern(4, "tools/list", json!({})), address);
    let answer = rig.wire().await.ask(&list).await.expect("an answer");
    assert_eq!(names(&answer.json()), expected);
    let hidden = json!({ "name": "one__echo", "arguments": hello });
    let hidden = bytes_at("/mcp/ops", modern(5, "tools/call", hidden), address);
    let answer = rig.wire().await.ask(&hidden).await.expect("an answer");
    assert_eq!(answer.json()["error"]["code"], -32602, "{answer:?}");
}

#[tokio::test]
async fn prompts_and_resources_are_the_routes_own_too() {
    let rig = Rig::start();
    let session = rig.session("/mcp/ops").await;
    let (_, prompts) = rig.ask(&session, &mcp::request(1, "prompts/list", &json!({}))).await;
    let prompts = prompts["result"]["prompts"].as_array().expect("a list").clone();
    assert!(!prompts.is_empty());
    let foreign = prompts.iter().filter_map(|prompt| prompt["name"].as_str());
    let foreign: Vec<_> = foreign.filter(|name| !name.starts_with("two__")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let hidden = json!({ "name": "one__test_simple_prompt" });
    let (_, answer) = rig.ask(&session, &mcp::request(2, "prompts/get", &hidden)).await;
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
}

#[tokio::test]
async fn a_session_belongs_to_the_path_it_was_opened_on() {
    let rig = Rig::start();
    for (own, other) in [("/mcp", "/mcp/ops"), ("/mcp/ops", "/mcp")] {
        let session = rig.session(own).await;
        let elsewhere = Session { path: other.to_owned(), ..session.clone() };
        for _ in 0..CONNECTIONS {
            let (status, answer) = rig.ask(&elsewhere, &mcp::request(1, "ping", &json!({}))).await;
            assert_eq!(status, 404, "{own} at {other}: {answer}");
            let head = elsewhere.stream(&mut rig.wire().await, None).await.expect("an answer");
            assert_eq!(head.status, 404, "a stream of {own} at {other}");
            let ended = rig.wire().await.ask(&elsewhere.delete()).await.expect("an answer");
            assert_eq!(ended.head.status, 404, "the end of {own} at {other}");
            let (status, answer) = rig.ask(&session, &mcp::request(2, "ping", &json!({}))).await;
            assert_eq!((status, &answer["result"]), (200, &json!({})), "it lives on at {own}");
        }
    }
}

#[tokio::test]
async fn an_unknown_path_is_not_found() {
    let rig = Rig::start();
    for path in ["/mcp/none", "/mcp/", "/mcp/ops/", "/mcp/OPS"] {
        let post = bytes_at(path, Request::post(&mcp::initialize(LEGACY)), rig.gateway.listen);
        let answer = rig.wire().await.ask(&post).await.expect("an answer");
        assert_eq!(answer.head.status, 404, "{path}: {answer:?}");
        let message = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.contains("no such path"), "{path}: {message}");
    }
}

#[tokio::test]
async fn the_embedded_server_alone_is_served_at_its_routes() {
    let config = "[[route]]\npath = \"/mcp/all\"\nupstreams = [\"embedded\"]\n";
    let gateway = Launch::default().config(config).start();
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    let session = Session::open_at(&mut wire, gateway.listen, "/mcp/all", LEGACY).await;
    session.expect("a session opens").assert_healthy().await;
}
