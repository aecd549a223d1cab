//! Bad HTTP: what each kind of it is answered with, byte for byte.
//!
//! Every case sends its bytes on a connection of its own, compares status and
//! JSON-RPC code, and looks whether the connection stays usable or is closed.
//! After each case a session that was opened before must still be served.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use serde_json::json;

use harness::bad_input::Then::{Closed, Open};
use harness::bad_input::{Ground, case};
use harness::mcp::{Request, Session, call, request};
use harness::wire::Wire;

/// A POST of a ping in `session`, its head written out by hand.
fn by_hand(session: &Session, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "POST /mcp HTTP/1.1\r\nhost: {}\r\nmcp-session-id: {}\r\nmcp-protocol-version: {}\r\n\
         content-type: application/json\r\naccept: application/json, text/event-stream\r\n\
         {headers}\r\n",
        session.address, session.id, session.version
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

const PING: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;

#[tokio::test]
async fn ambiguous_framing_is_refused_and_the_connection_closed() {
    let ground = Ground::new().await;
    let hand = |headers: &str| by_hand(&ground.healthy, headers, PING);
    let chunked = |body: &[u8]| by_hand(&ground.healthy, "transfer-encoding: chunked\r\n", body);
    let length = PING.len();
    let both = format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n");
    let twice = format!("content-length: {length}\r\ncontent-length: {length}\r\n");
    let two = format!("content-length: {length}\r\ncontent-length: 0\r\n");
    let cases = vec![
        case("length and chunked", hand(&both), 400, None, Closed),
        case("length twice, equal", hand(&twice), 400, None, Closed),
        case("length twice, different", hand(&two), 400, None, Closed),
        case("length as a list", hand("content-length: 40, 40\r\n"), 400, None, Closed),
        case("length with plus", hand("content-length: +40\r\n"), 400, None, Closed),
        case("length with minus", hand("content-length: -40\r\n"), 400, None, Closed),
        case("length in hex", hand("content-length: 0x28\r\n"), 400, None, Closed),
        case("length empty", hand("content-length: \r\n"), 400, None, Closed),
        case(
            "length too long",
            hand("content-length: 99999999999999999999\r\n"),
            413,
            None,
            Closed,
        ),
        case("unknown coding", hand("transfer-encoding: gzip\r\n"), 501, None, Closed),
        case("coding list", hand("transfer-encoding: gzip, chunked\r\n"), 501, None, Closed),
        case("chunk size signed", chunked(b"+5\r\nhello\r\n0\r\n\r\n"), 400, None, Closed),
        case("chunk size no hex", chunked(b"zz\r\nhello\r\n0\r\n\r\n"), 400, None, Closed),
        case("chunk size too large", chunked(b"fffffffffffffffff\r\n"), 413, None, Closed),
        case("chunk without CRLF", chunked(b"5\r\nhelloX\r\n0\r\n\r\n"), 400, None, Closed),
        case("chunk with bare LF", chunked(b"5\nhello\n0\n\n"), 400, None, Closed),
    ];
    ground.check(cases).await;
}

#[tokio::test]
async fn malformed_heads_are_refused_and_the_connection_closed() {
    let ground = Ground::new().await;
    let hand = |headers: &str| by_hand(&ground.healthy, headers, b"");
    let raw = |text: &str| text.as_bytes().to_vec();
    let host = format!("host: {}\r\n", ground.address());
    let line = |line: &str| raw(&format!("{line}\r\n{host}\r\n"));
    let cases = vec![
        case("bare LF", raw(&format!("GET /healthz HTTP/1.1\n{host}\n")), 400, None, Closed),
        case("LF in a header", hand("x-a: b\nx-c: d\r\n"), 400, None, Closed),
        case("bare CR in a header", hand("x-a: b\rc\r\n"), 400, None, Closed),
        case("folded header", hand("x-a: b\r\n c\r\n"), 400, None, Closed),
        case("NUL in a value", hand("x-a: b\0c\r\n"), 400, None, Closed),
        case("NUL in a name", hand("x\0a: b\r\n"), 400, None, Closed),
        case("space before the colon", hand("x-a : b\r\n"), 400, None, Closed),
        case("no colon", hand("x-a\r\n"), 400, None, Closed),
        case("empty name", hand(": b\r\n"), 400, None, Closed),
        case("no Host", raw("GET /healthz HTTP/1.1\r\n\r\n"), 400, None, Closed),
        case(
            "two Hosts",
            line(&format!("GET /healthz HTTP/1.1\r\nhost: {}", ground.address())),
            400,
            None,
            Closed,
        ),
        case(
            "two session ids",
            hand(&format!("mcp-session-id: {}\r\n", ground.healthy.id)),
            400,
            None,
            Closed,
        ),
        case("no version", line("GET /healthz"), 505, None, Closed),
        case("HTTP/2.0", line("GET /healthz HTTP/2.0"), 505, None, Closed),
        case("HTTP/2 preface", raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 400, None, Closed),
        case(
            "TLS handshake",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            400,
            None,
            Closed,
        ),
        case("two spaces", line("GET  /healthz HTTP/1.1"), 400, None, Closed),
        case("relative target", line("GET healthz HTTP/1.1"), 400, None, Closed),
        case("unknown expectation", hand("expect: the-spanish-inquisition\r\n"), 417, None, Closed),
    ];
    ground.check(cases).await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_its_limit() {
    let ground = Ground::new().await;
    let pad = "x".repeat(17 * 1024);
    let many: String = (0..1000).map(|at| format!("x-{at}: 1\r\n")).collect();
    let hand = |headers: &str| by_hand(&ground.healthy, headers, b"");
    let long_target =
        format!("GET /{pad} HTTP/1.1\r\nhost: {}\r\n\r\n", ground.address()).into_bytes();
    let too_many_bytes = 16 * 1024 * 1024 + 1;
    let chunk = format!("{too_many_bytes:x}\r\n");
    let chunked = by_hand(&ground.healthy, "transfer-encoding: chunked\r\n", chunk.as_bytes());
    let cases = vec![
        case("one large header", hand(&format!("x-pad: {pad}\r\n")), 431, None, Closed),
        case("many headers", hand(&many), 431, None, Closed),
        case("long target", long_target, 414, None, Closed),
        case(
            "length over the limit",
            hand(&format!("content-length: {too_many_bytes}\r\n")),
            413,
            None,
            Closed,
        ),
        case("chunks over the limit", chunked, 413, None, Closed),
    ];
    ground.check(cases).await;
}

#[tokio::test]
async fn a_body_of_just_the_largest_size_is_served() {
    let ground = Ground::new().await;
    let most = 16 * 1024 * 1024;
    let empty = call(1, "echo", &json!({ "message": "" })).to_string();
    let message = "m".repeat(most - empty.len());
    let body = call(1, "echo", &json!({ "message": message })).to_string();
    assert_eq!(body.len(), most);
    let mut wire = Wire::connect(ground.address()).await.expect("connect");
    let post = Request::post_bytes(body.as_bytes()).session(&ground.healthy);
    let answer = wire.ask(&post.bytes(ground.address())).await.expect("an answer");
    assert_eq!(answer.head.status, 200);
    assert!(answer.body.len() >= message.len(), "the echo came back whole");
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it_and_then_its_answer() {
    let ground = Ground::new().await;
    let headers = format!("content-length: {}\r\nexpect: 100-continue\r\n", PING.len());
    let mut wire = Wire::connect(ground.address()).await.expect("connect");
    wire.send(&by_hand(&ground.healthy, &headers, b"")).await.expect("send the head");
    let interim = wire.interim().await.expect("an interim response");
    assert_eq!(interim.status, 100);
    let answer = wire.ask(PING).await.expect("an answer");
    assert_eq!(answer.head.status, 200);
}

#[tokio::test]
async fn wrong_media_types_and_sites_are_refused_and_the_connection_stays() {
    let ground = Ground::new().await;
    let address = ground.address();
    let ping = request(1, "ping", &json!({}));
    let post = || Request::post(&ping).session(&ground.healthy);
    let with = |name: &str, value: &str| post().header(name, value).bytes(address);
    let stream = || Request::stream().session(&ground.healthy);
    let evil = "http://evil.example.com";
    let cases = vec![
        case("Accept without events", with("accept", "application/json"), 406, Some(-32600), Open),
        case("Accept without JSON", with("accept", "text/event-stream"), 406, Some(-32600), Open),
        case("no Accept", post().without("accept").bytes(address), 406, Some(-32600), Open),
        case(
            "GET without events",
            stream().header("accept", "text/html").bytes(address),
            406,
            Some(-32600),
            Open,
        ),
        case("text/plain", with("content-type", "text/plain"), 415, Some(-32600), Open),
        case(
            "no Content-Type",
            post().without("content-type").bytes(address),
            415,
            Some(-32600),
            Open,
        ),
        case("foreign Host", with("host", "evil.example.com"), 403, Some(-32600), Open),
        case("foreign Origin", with("origin", evil), 403, Some(-32600), Open),
        case("Origin null", with("origin", "null"), 403, Some(-32600), Open),
        case(
            "foreign Origin, GET",
            stream().header("origin", evil).bytes(address),
            403,
            Some(-32600),
            Open,
        ),
        case("no such path", Request::page("/nowhere").bytes(address), 404, None, Open),
    ];
    ground.check(cases).await;
    for (name, value) in [
        ("accept", "text/event-stream;q=0.5, application/json"),
        ("content-type", "application/json; charset=utf-8"),
        ("origin", "http://localhost:5173"),
        ("host", "localhost:1234"),
    ] {
        let mut wire = Wire::connect(address).await.expect("connect");
        let answer = wire.ask(&with(name, value)).await.expect("an answer");
        assert_eq!(answer.head.status, 200, "{name}: {value} is right: {answer:?}");
    }
}
