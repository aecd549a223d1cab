//! Bad MCP: what each kind of message, session and header is answered with.
//!
//! As in `refusals.rs`, the connection must stay usable after each answer, and a
//! session that was opened before must still be served.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use serde_json::{Value, json};

use harness::bad_input::Then::Open;
use harness::bad_input::{Case, Ground, case};
use harness::gateway::Launch;
use harness::mcp::{
    LEGACY, MODERN, Request, Session, call, initialize, modern, notification, request, with_meta,
};
use harness::wire::Wire;

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

/// Bodies that are no message, with the JSON-RPC code of the answer; the status is 400.
#[rustfmt::skip]
const NO_MESSAGES: [(&str, &[u8], i64); 20] = [
    ("empty", b"", -32700),
    ("no JSON", b"hello", -32700),
    ("half a JSON", br#"{"jsonrpc":"2.0","id":1,"me"#, -32700),
    ("garbage behind", br#"{"jsonrpc":"2.0","id":1,"method":"ping"} x"#, -32700),
    ("invalid UTF-8", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"p\xff\"}", -32700),
    ("byte order mark", b"\xef\xbb\xbf{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}", -32700),
    ("lone surrogate in method", br#"{"jsonrpc":"2.0","id":1,"method":"\ud800"}"#, -32600),
    ("a number", b"7", -32600),
    ("no jsonrpc", br#"{"id":1,"method":"ping"}"#, -32600),
    ("jsonrpc 1.0", br#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, -32600),
    ("two methods", br#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/list"}"#, -32600),
    ("two methods, one escaped", br#"{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"x"}"#, -32600),
    ("two ids", br#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#, -32600),
    ("id null", br#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600),
    ("id an object", br#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, -32600),
    ("method a number", br#"{"jsonrpc":"2.0","id":1,"method":1}"#, -32600),
    ("params a text", br#"{"jsonrpc":"2.0","id":1,"method":"ping","params":"x"}"#, -32600),
    ("params an array", br#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, -32602),
    ("neither request nor reply", br#"{"jsonrpc":"2.0","id":1}"#, -32600),
    ("result and error", br#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":""}}"#, -32600),
];

#[tokio::test]
async fn bodies_that_are_no_message_are_refused_and_the_connection_stays() {
    let ground = Ground::new().await;
    let post =
        |body: &[u8]| Request::post_bytes(body).session(&ground.healthy).bytes(ground.address());
    let refused =
        |name: &'static str, body: &[u8], code| case(name, post(body), 400, Some(code), Open);
    let deep = |open: &str, close: &str| {
        let (open, close) = (open.repeat(10_000), close.repeat(10_000));
        let params = format!(r#"{{"x":{open}1{close}}}"#);
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{params}}}"#)
    };
    let mut cases: Vec<Case> =
        NO_MESSAGES.iter().map(|(name, body, code)| refused(name, body, *code)).collect();
    cases.push(refused("two messages", [PING, PING].concat().as_bytes(), -32700));
    cases.push(refused("depth 10,000 of arrays", deep("[", "]").as_bytes(), -32700));
    cases.push(refused("depth 10,000 of objects", deep(r#"{"a":"#, "}").as_bytes(), -32700));
    ground.check(cases).await;
}

#[tokio::test]
async fn batches_are_served_in_2025_03_26_only() {
    let ground = Ground::new().await;
    let address = ground.address();
    let batch = json!([
        request(1, "ping", &json!({})),
        notification("notifications/progress", &json!({ "progressToken": 1, "progress": 1 })),
        call(2, "echo", &json!({ "message": "in a batch" })),
    ]);
    for version in ["2025-06-18", "2025-11-25"] {
        let session = Session::open(address, version).await.expect("open a session");
        let post = Request::post(&batch).session(&session).bytes(address);
        ground.check(vec![case("batch", post, 400, Some(-32600), Open)]).await;
    }

    let session = Session::open(address, "2025-03-26").await.expect("open a session");
    let post = |body: &Value| Request::post(body).session(&session).bytes(address);
    let mut with_initialize = batch.clone();
    with_initialize[0] = initialize("2025-03-26");
    let cases = vec![
        case("initialize in a batch", post(&with_initialize), 400, Some(-32600), Open),
        case("empty batch", post(&json!([])), 400, Some(-32600), Open),
    ];
    ground.check(cases).await;

    let only_told = json!([notification("notifications/initialized", &json!({}))]);
    let mut wire = Wire::connect(address).await.expect("connect");
    let answer = wire.ask(&post(&only_told)).await.expect("an answer");
    assert_eq!(answer.head.status, 202, "a batch of notifications: {answer:?}");
    assert_eq!(answers_of_batch(&mut wire, &post(&batch)).await, [1, 2]);
}

/// The ids that a batch's answers carry, sorted; they come as JSON or as events.
async fn answers_of_batch(wire: &mut Wire, request: &[u8]) -> Vec<u64> {
    wire.send(request).await.expect("send the batch");
    let head = wire.head().await.expect("a head");
    assert_eq!(head.status, 200);
    let mut messages = Vec::new();
    if head.is_events() {
        while let Some(event) = wire.event().await.expect("an event") {
            messages.push(event.json());
        }
    } else {
        let body = wire.rest().await.expect("a body");
        messages.push(serde_json::from_slice(&body).expect("JSON"));
    }
    let mut ids: Vec<u64> = messages
        .iter()
        .flat_map(|message| match message {
            Value::Array(answers) => answers.clone(),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Object(_) => vec![message.clone()],
        })
        .filter_map(|answer| answer["result"].is_object().then(|| answer["id"].as_u64())?)
        .collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn wrong_sessions_are_refused_and_the_connection_stays() {
    let ground = Ground::new().await;
    let address = ground.address();
    let ping = request(1, "ping", &json!({}));
    let post = || Request::post(&ping).session(&ground.healthy);
    let with_id = |id: &str| post().header("mcp-session-id", id).bytes(address);
    let mut forged = ground.healthy.id.clone();
    let last = forged.pop().expect("an id is not empty");
    // Another digit, so that only the MAC tells.
    forged.push(if last == 'a' { 'b' } else { 'a' });
    let deleted = Session::open(address, LEGACY).await.expect("open a session");
    let mut wire = Wire::connect(address).await.expect("connect");
    let answer = wire.ask(&deleted.delete()).await.expect("an answer to DELETE");
    assert_eq!(answer.head.status, 200, "{answer:?}");
    let version = |value: &str| post().header("mcp-protocol-version", value).bytes(address);
    let again = Request::post(&initialize(LEGACY)).session(&ground.healthy).bytes(address);
    let unknown = Request::post(&request(1, "no/such/method", &json!({})));
    let cases = vec![
        case(
            "no session",
            post().without("mcp-session-id").bytes(address),
            400,
            Some(-32600),
            Open,
        ),
        case("unknown session", with_id("nobody-knows-me"), 404, Some(-32001), Open),
        case("forged session", with_id(&forged), 404, Some(-32001), Open),
        case("deleted session", with_id(&deleted.id), 404, Some(-32001), Open),
        case("deleted session, GET", deleted.get(None), 404, Some(-32001), Open),
        case("deleted session, DELETE", deleted.delete(), 404, Some(-32001), Open),
        case("unknown version", version("2099-01-01"), 400, None, Open),
        case("garbage version", version("banana"), 400, None, Open),
        case("second initialize", again, 400, Some(-32600), Open),
        case(
            "unknown method",
            unknown.session(&ground.healthy).bytes(address),
            200,
            Some(-32601),
            Open,
        ),
        case("unknown event to resume from", ground.healthy.get(Some("nothing")), 400, None, Open),
    ];
    ground.check(cases).await;
    let answer = wire.ask(&post().without("mcp-protocol-version").bytes(address)).await;
    assert_eq!(answer.expect("an answer").head.status, 200, "the version header may be missing");
}

#[tokio::test]
async fn an_id_that_is_in_flight_is_not_taken_twice() {
    let ground = Ground::new().await;
    let session = &ground.healthy;
    let mut first = Wire::connect(ground.address()).await.expect("connect");
    first.send(&session.post(&call(5, "sleep", &json!({ "ms": 1500 })))).await.expect("send");
    // The two connections may lie on different cores, so the second id is only
    // known to be a duplicate once the first has arrived: ask until it has.
    let mut second = Wire::connect(ground.address()).await.expect("connect");
    let duplicate = session.post(&call(5, "echo", &json!({ "message": "twice" })));
    let mut refused = false;
    for _ in 0..200 {
        let answer = second.ask(&duplicate).await.expect("an answer");
        if answer.head.status == 400 {
            assert_eq!(answer.json()["error"]["code"], -32600, "{answer:?}");
            refused = true;
            break;
        }
    }
    assert!(refused, "a request id in flight was accepted again");
    let answer = first.answer().await.expect("the first call's own answer");
    assert_eq!(answer.json()["id"], 5);
    assert!(answer.json()["result"].is_object(), "{answer:?}");
    let answer = second.ask(&duplicate).await.expect("an answer");
    assert_eq!(answer.head.status, 200, "an id that is answered may be used again: {answer:?}");
}

fn list() -> Request {
    modern(1, "tools/list", json!({}))
}

fn echo() -> Request {
    modern(1, "tools/call", json!({ "name": "echo", "arguments": { "message": "m" } }))
}

/// A call of the tool whose argument `region` is mirrored, with this mirror.
fn region(mirror: Option<&str>) -> Request {
    let params = json!({ "name": "test_x_mcp_header", "arguments": { "region": "Hello" } });
    let post = modern(1, "tools/call", params);
    match mirror {
        Some(value) => post.header("mcp-param-region", value),
        None => post,
    }
}

/// `server/discover` with these params, whatever they lack.
fn discover(params: &Value, version: &str) -> Request {
    Request::post(&request(301, "server/discover", params))
        .header("mcp-protocol-version", version)
        .header("mcp-method", "server/discover")
}

#[tokio::test]
async fn modern_headers_must_agree_with_the_body() {
    let ground = Ground::new().await;
    let version = "mcp-protocol-version";
    let elsewhere = with_meta(json!({}), "v999.0.0");
    let mismatches = [
        ("method differs", list().header("mcp-method", "prompts/list")),
        ("method in other case", list().header("mcp-method", "TOOLS/LIST")),
        ("method missing", list().without("mcp-method")),
        ("name differs", echo().header("mcp-name", "add")),
        ("name missing", echo().without("mcp-name")),
        ("version differs", list().header(version, LEGACY)),
        ("version missing", list().without(version)),
        ("unsupported version in the body only", discover(&elsewhere, MODERN)),
        ("parameter missing", region(None)),
        ("parameter differs", region(Some("Other"))),
        ("parameter in bad base64", region(Some("=?base64?SGVs!!!bG8=?="))),
    ];
    let refused = |(name, post): (&'static str, Request)| {
        case(name, post.bytes(ground.address()), 400, Some(-32020), Open)
    };
    ground.check(mismatches.map(refused).into()).await;
    for good in [echo(), region(Some("=?base64?SGVsbG8=?=")), region(Some("Hello"))] {
        let mut wire = Wire::connect(ground.address()).await.expect("connect");
        let answer = wire.ask(&good.bytes(ground.address())).await.expect("an answer");
        assert_eq!(answer.head.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn modern_requests_must_be_whole_and_known() {
    let ground = Ground::new().await;
    let address = ground.address();
    let version = "mcp-protocol-version";
    let only_version = json!({ "_meta": { "io.modelcontextprotocol/protocolVersion": MODERN } });
    let elsewhere = discover(&with_meta(json!({}), "v999.0.0"), "v999.0.0");
    let response = json!({ "jsonrpc": "2.0", "id": 1, "result": {} });
    let response = Request::post(&response).header(version, MODERN).header("mcp-method", "x");
    let unknown = |method: &str| modern(1, method, json!({})).bytes(address);
    let told = |header: &str| {
        let body = notification("notifications/cancelled", &json!({ "requestId": 1 }));
        let post = Request::post(&body).header(version, MODERN).header("mcp-method", header);
        post.bytes(address)
    };
    let put = format!("PUT /mcp HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n");
    let (get, delete) = (Request::stream(), Request::delete());
    let cases = vec![
        case("no _meta", discover(&json!({}), MODERN).bytes(address), 400, Some(-32602), Open),
        case(
            "half a _meta",
            discover(&only_version, MODERN).bytes(address),
            400,
            Some(-32602),
            Open,
        ),
        case("unsupported version", elsewhere.bytes(address), 400, Some(-32022), Open),
        case("unknown method", unknown("no/such"), 404, Some(-32601), Open),
        case("initialize", unknown("initialize"), 404, Some(-32601), Open),
        case("ping", unknown("ping"), 404, Some(-32601), Open),
        case("subscribe", unknown("resources/subscribe"), 404, Some(-32601), Open),
        case("a response", response.bytes(address), 400, Some(-32600), Open),
        case("a notification's header", told("tools/list"), 400, Some(-32020), Open),
        case("GET", get.header(version, MODERN).bytes(address), 405, None, Open),
        case("DELETE", delete.header(version, MODERN).bytes(address), 405, None, Open),
        case("PUT", put.into_bytes(), 405, None, Open),
    ];
    ground.check(cases).await;
}

#[tokio::test]
async fn an_unsupported_version_is_answered_with_the_supported_ones() {
    let ground = Ground::new().await;
    let params = with_meta(json!({}), "v999.0.0");
    let post = Request::post(&request(301, "server/discover", &params))
        .header("mcp-method", "server/discover")
        .header("mcp-protocol-version", "v999.0.0");
    let mut wire = Wire::connect(ground.address()).await.expect("connect");
    let answer = wire.ask(&post.bytes(ground.address())).await.expect("an answer");
    let json = answer.json();
    assert_eq!(json["id"], 301, "{json}");
    assert_eq!(json["error"]["data"]["requested"], "v999.0.0", "{json}");
    let supported = json["error"]["data"]["supported"].as_array().expect("a list");
    assert!(supported.contains(&json!(MODERN)), "{json}");
}

#[tokio::test]
async fn full_limits_answer_with_their_name_and_retry_after() {
    let config =
        "[limits]\nin_flight_per_session_max = 2\nstreams_per_session_max = 1\nsessions_max = 3\n";
    let ground = Ground::with(Launch::default().shards(1).config(config)).await;
    let session = &ground.healthy;
    let mut waiting = Vec::new();
    for id in 0..2 {
        let mut wire = Wire::connect(ground.address()).await.expect("connect");
        let sleep = call(100 + id, "sleep", &json!({ "ms": 600_000 }));
        wire.send(&session.post(&sleep)).await.expect("send");
        waiting.push(wire);
    }
    let mut wire = Wire::connect(ground.address()).await.expect("connect");
    refused_by(&mut wire, &session.post(&call(1, "echo", &json!({ "message": "m" }))), 429).await;

    let mut standing = Wire::connect(ground.address()).await.expect("connect");
    let head = session.stream(&mut standing, None).await.expect("a stream");
    assert_eq!(head.status, 200);
    refused_by(&mut wire, &session.get(None), 429).await;

    for _ in 0..2 {
        Session::open(ground.address(), LEGACY).await.expect("there is room for this session");
    }
    let one_more = Request::post(&initialize(LEGACY)).bytes(ground.address());
    refused_by(&mut wire, &one_more, 503).await;
}

/// Asks until the limit answers: what fills it may still be on its way.
async fn refused_by(wire: &mut Wire, request: &[u8], status: u16) {
    for _ in 0..200 {
        let answer = wire.ask(request).await.expect("an answer");
        if answer.head.status == status {
            assert!(answer.head.header("retry-after").is_some(), "{answer:?}");
            assert!(answer.json()["error"]["code"].is_i64(), "{answer:?}");
            return;
        }
    }
    panic!("the limit that answers with {status} was never reached");
}
