//! A tool server that misbehaves, for tests of what the gateway makes of it.
//!
//! It introduces itself and lists its one tool like an honest server of its era, so
//! that a gateway takes it in; only calls of the tool meet the [`Misdeed`] that is
//! set. A test sets another at any time. Every request it read is kept for the test.
//!
//! Invariant: a misdeed is about bytes on the wire, so nothing here uses an HTTP
//! library, which would not let wrong ones out.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::mcp::MODERN;

/// The one tool.
pub(crate) const TOOL: &str = "victim";

/// The session id that it gives to everybody.
const SESSION: &str = "rogue-session";

/// The longest request that it reads.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// How long it waits between two bytes when it answers too slowly.
const DRIP: Duration = Duration::from_millis(200);

/// What it does to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misdeed {
    /// None: the call is answered as it should be.
    None,
    /// Bytes that are no HTTP.
    Garbage,
    /// A body without an end, in chunks.
    EndlessBody,
    /// An SSE event without an end.
    EndlessEvent,
    /// Headers without an end.
    EndlessHeaders,
    /// A right answer, byte after byte, each after a pause.
    Slow,
    /// No answer on an open connection.
    Silence,
    /// A right answer to a request that nobody made.
    WrongId,
    /// An answer with its id as text: `"7"` in place of `7`.
    IdAsText,
    /// The answer twice, in two events of one stream.
    AnswersTwice,
    /// Two whole HTTP responses to one request.
    RespondsTwice,
    /// A redirect to another place on itself.
    Redirect,
    /// 401 with a challenge.
    Unauthorized,
    /// Half an SSE event, then the end of the connection.
    HalfEvent,
    /// A stream that ends in order, but without the answer.
    StreamWithoutAnswer,
    /// A body that is shorter than its `Content-Length`.
    ShortBody,
    /// The end of the connection in place of an answer.
    Closes,
    /// A reset in place of an answer.
    Resets,
    /// Chunks whose sizes are no numbers.
    ChunkedGarbage,
    /// 500 with a page of HTML.
    HtmlError,
    /// 200 with a page of HTML.
    HtmlSuccess,
    /// A body that says it is JSON and is not.
    BrokenJson,
    /// JSON, but no JSON-RPC.
    NotJsonRpc,
    /// JSON nested deeper than anybody means.
    DeepJson,
    /// Text that is not UTF-8 inside the answer.
    NotUtf8,
    /// 202 without a body, as if the call were a notification.
    Accepted,
    /// 404 as for a session that is gone.
    SessionGone,
    /// `Content-Length` and chunks at once, which a careless reader frames wrongly.
    TwoFramings,
}

impl Misdeed {
    /// Every misdeed.
    pub(crate) const ALL: [Misdeed; 27] = [
        Misdeed::Garbage,
        Misdeed::EndlessBody,
        Misdeed::EndlessEvent,
        Misdeed::EndlessHeaders,
        Misdeed::Slow,
        Misdeed::Silence,
        Misdeed::WrongId,
        Misdeed::IdAsText,
        Misdeed::AnswersTwice,
        Misdeed::RespondsTwice,
        Misdeed::Redirect,
        Misdeed::Unauthorized,
        Misdeed::HalfEvent,
        Misdeed::StreamWithoutAnswer,
        Misdeed::ShortBody,
        Misdeed::Closes,
        Misdeed::Resets,
        Misdeed::ChunkedGarbage,
        Misdeed::HtmlError,
        Misdeed::HtmlSuccess,
        Misdeed::BrokenJson,
        Misdeed::NotJsonRpc,
        Misdeed::DeepJson,
        Misdeed::NotUtf8,
        Misdeed::Accepted,
        Misdeed::SessionGone,
        Misdeed::TwoFramings,
    ];

    /// What goes onto the wire for a call with this id.
    fn act(self, id: &Value) -> Act {
        let answer = called(id);
        let right = || json_response(200, "", &answer);
        match self {
            Misdeed::None => Act::Send(right()),
            Misdeed::Garbage => Act::SendAndClose(b"\x00\x01\xfe\xffno HTTP\r\n\r\n".to_vec()),
            Misdeed::EndlessBody => {
                Act::Endless { start: head(200, CHUNKED), again: b"5\r\n\"aaaa\r\n".to_vec() }
            }
            Misdeed::EndlessEvent => {
                Act::Endless { start: event_head(), again: b"data: a\n".to_vec() }
            }
            Misdeed::EndlessHeaders => {
                let start = b"HTTP/1.1 200 OK\r\n".to_vec();
                Act::Endless { start, again: b"x-more: aaaaaaaaaaaaaaaa\r\n".to_vec() }
            }
            Misdeed::Slow => Act::Drip(right()),
            Misdeed::Silence => Act::Silence,
            Misdeed::WrongId => {
                let other = json!(id.as_u64().unwrap_or_default() + 1_000_000);
                Act::Send(json_response(200, "", &called(&other)))
            }
            Misdeed::IdAsText => Act::Send(json_response(200, "", &called(&json!(id.to_string())))),
            Misdeed::AnswersTwice => Act::SendAndClose(events(&[&answer, &answer])),
            Misdeed::RespondsTwice => Act::Send(right().repeat(2)),
            Misdeed::Redirect => Act::Send(empty_response(307, "location: /elsewhere\r\n")),
            Misdeed::Unauthorized => Act::Send(empty_response(401, CHALLENGE)),
            Misdeed::HalfEvent => Act::SendAndClose(without_end(events(&[&answer]), 12)),
            Misdeed::StreamWithoutAnswer => Act::SendAndClose(events(&[&log_message()])),
            Misdeed::ShortBody => Act::SendAndClose(without_end(right(), 5)),
            Misdeed::Closes => Act::SendAndClose(Vec::new()),
            Misdeed::Resets => Act::Reset,
            Misdeed::ChunkedGarbage => {
                Act::SendAndClose([head(200, CHUNKED), b"zz\r\n{}\r\n-1\r\n\r\n".to_vec()].concat())
            }
            Misdeed::HtmlError => Act::Send(response(500, "text/html", HTML)),
            Misdeed::HtmlSuccess => Act::Send(response(200, "text/html", HTML)),
            Misdeed::BrokenJson => Act::Send(response(200, JSON, br#"{"jsonrpc":"2.0","id":"#)),
            Misdeed::NotJsonRpc => Act::Send(response(200, JSON, br#"["no", {"message": 1}]"#)),
            Misdeed::DeepJson => Act::Send(response(200, JSON, &deep(id))),
            Misdeed::NotUtf8 => Act::Send(response(200, JSON, &not_utf8(&answer))),
            Misdeed::Accepted => Act::Send(empty_response(202, "")),
            Misdeed::SessionGone => Act::Send(json_response(404, "", &session_gone())),
            Misdeed::TwoFramings => Act::Send(two_framings(&answer)),
        }
    }
}

/// What happens on the wire.
enum Act {
    /// These bytes; the connection goes on.
    Send(Vec<u8>),
    /// These bytes, then the end of the connection.
    SendAndClose(Vec<u8>),
    /// `start`, then `again` until the peer gives up.
    Endless { start: Vec<u8>, again: Vec<u8> },
    /// These bytes one by one.
    Drip(Vec<u8>),
    /// Nothing, until the peer gives up.
    Silence,
    /// A reset.
    Reset,
}

/// A request that the server read.
#[derive(Clone, Debug)]
pub(crate) struct SeenRequest {
    /// `POST` and so on.
    pub(crate) method: String,
    /// The target as it was sent.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// `Null` without a body, or with one that is no JSON.
    pub(crate) body: Value,
}

impl SeenRequest {
    /// The first header of this name, in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn content_length(&self) -> usize {
        self.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Era {
    Legacy,
    Modern,
}

/// A running rogue. It lives as long as the runtime it was started on.
pub(crate) struct RogueServer {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    era: Era,
    misdeed: Mutex<Misdeed>,
    seen: Mutex<Vec<SeenRequest>>,
}

impl RogueServer {
    /// Starts a server of the legacy era, with sessions, on the current runtime.
    pub(crate) async fn start(misdeed: Misdeed) -> RogueServer {
        RogueServer::start_in(Era::Legacy, misdeed).await
    }

    /// Starts a server of the modern era, which refuses sessions.
    pub(crate) async fn start_modern(misdeed: Misdeed) -> RogueServer {
        RogueServer::start_in(Era::Modern, misdeed).await
    }

    async fn start_in(era: Era, misdeed: Misdeed) -> RogueServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind the rogue");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (misdeed, seen) = (Mutex::new(misdeed), Mutex::default());
        let shared = Arc::new(Shared { era, misdeed, seen });
        let rogue = RogueServer { address, shared: Arc::clone(&shared) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        rogue
    }

    /// The URL for `[[upstream]] url =`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// What later calls meet.
    pub(crate) fn set(&self, misdeed: Misdeed) {
        *self.shared.misdeed.lock().expect("no holder of this lock panics") = misdeed;
    }

    /// Every request so far, in the order of arrival.
    pub(crate) fn seen(&self) -> Vec<SeenRequest> {
        self.shared.seen.lock().expect("no holder of this lock panics").clone()
    }

    /// How many calls of the tool came so far.
    pub(crate) fn calls(&self) -> usize {
        self.seen().iter().filter(|request| request.body["method"] == "tools/call").count()
    }
}

/// Serves one connection to its end, whoever brings it.
async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        let act = {
            let misdeed = *shared.misdeed.lock().expect("no holder of this lock panics");
            shared.seen.lock().expect("no holder of this lock panics").push(request.clone());
            respond(&request, shared.era, misdeed)
        };
        if !perform(&mut stream, act).await {
            return;
        }
    }
}

/// Does what was decided; false if the connection is over.
async fn perform(stream: &mut TcpStream, act: Act) -> bool {
    match act {
        Act::Send(bytes) => stream.write_all(&bytes).await.is_ok(),
        Act::SendAndClose(bytes) => {
            // Both fail only if the peer has gone, and it is to lose the connection anyway.
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            false
        }
        Act::Endless { start, again } => {
            let mut sent = stream.write_all(&start).await;
            while sent.is_ok() {
                sent = stream.write_all(&again.repeat(64)).await;
            }
            false
        }
        Act::Drip(bytes) => {
            for byte in bytes {
                if stream.write_all(&[byte]).await.is_err() {
                    return false;
                }
                tokio::time::sleep(DRIP).await;
            }
            true
        }
        Act::Silence => {
            let mut ignored = [0; 1024];
            while stream.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
            false
        }
        Act::Reset => {
            // Fails only on a socket that is no longer connected.
            let _ = stream.set_zero_linger();
            false
        }
    }
}

/// What an honest server with one tool answers, but for its calls.
fn respond(request: &SeenRequest, era: Era, misdeed: Misdeed) -> Act {
    let id = &request.body["id"];
    let result = |result: Value| json!({ "jsonrpc": "2.0", "id": id, "result": result });
    match (request.method.as_str(), request.body["method"].as_str(), era) {
        ("POST", Some("initialize"), Era::Legacy) => {
            let body = result(introduction(&request.body["params"]["protocolVersion"]));
            Act::Send(json_response(200, &format!("mcp-session-id: {SESSION}\r\n"), &body))
        }
        ("POST", Some("server/discover"), Era::Modern) => {
            Act::Send(json_response(200, "", &result(discovery())))
        }
        ("POST", Some("tools/list"), _) => {
            let tool = json!({ "name": TOOL, "inputSchema": { "type": "object" } });
            let mut tools = json!({ "tools": [tool] });
            if era == Era::Modern {
                tools["resultType"] = json!("complete");
                tools["ttlMs"] = json!(0);
                tools["cacheScope"] = json!("private");
            }
            Act::Send(json_response(200, "", &result(tools)))
        }
        ("POST", Some("ping"), Era::Legacy) => {
            Act::Send(json_response(200, "", &result(json!({}))))
        }
        ("POST", Some("tools/call"), _) => misdeed.act(id),
        ("POST", _, _) if id.is_null() => Act::Send(empty_response(202, "")),
        ("POST", _, Era::Legacy) => {
            Act::Send(json_response(200, "", &refusal(id, -32601, json!({}))))
        }
        // MCP 2026-07-28, Streamable HTTP: an unknown method is answered with 404; a client
        // that would open a session is told which revisions there are.
        ("POST", Some("initialize"), Era::Modern) => {
            let data = json!({ "supported": [MODERN], "requested": "a session" });
            Act::Send(json_response(400, "", &refusal(id, -32022, data)))
        }
        ("POST", _, Era::Modern) => {
            Act::Send(json_response(404, "", &refusal(id, -32601, json!({}))))
        }
        ("DELETE", _, Era::Legacy) => Act::Send(empty_response(200, "")),
        _ => Act::Send(empty_response(405, "allow: POST, DELETE\r\n")),
    }
}

fn introduction(version: &Value) -> Value {
    json!({
        "protocolVersion": version,
        "capabilities": { "tools": {} },
        "serverInfo": { "name": "rogue", "version": "0" },
    })
}

fn discovery() -> Value {
    json!({
        "resultType": "complete",
        "supportedVersions": [MODERN],
        "capabilities": { "tools": {} },
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": { "io.modelcontextprotocol/serverInfo": { "name": "rogue", "version": "0" } },
    })
}

fn refusal(id: &Value, code: i64, data: Value) -> Value {
    let error = json!({ "code": code, "message": "Refused", "data": data });
    json!({ "jsonrpc": "2.0", "id": id, "error": error })
}

pub(super) async fn read_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> Option<SeenRequest> {
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            let mut request = parse_head(&String::from_utf8_lossy(&buffer[..end]))?;
            let whole = end + 4 + request.content_length();
            if buffer.len() >= whole {
                request.body = serde_json::from_slice(&buffer[end + 4..whole]).unwrap_or_default();
                buffer.drain(..whole);
                return Some(request);
            }
        }
        let read = stream.read_buf(buffer).await.ok()?;
        if read == 0 || buffer.len() > REQUEST_BYTES_MAX {
            return None;
        }
    }
}

fn parse_head(text: &str) -> Option<SeenRequest> {
    let mut lines = text.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(SeenRequest { method, target, headers, body: Value::Null })
}

const JSON: &str = "application/json";
const HTML: &[u8] = b"<!doctype html><title>Oops</title><h1>Something went wrong</h1>";

const CHUNKED: &str = "content-type: application/json\r\ntransfer-encoding: chunked\r\n";
const CHALLENGE: &str = "www-authenticate: Bearer realm=\"rogue\"\r\n";

/// The right answer to a call in either era; `resultType` means nothing to the legacy one.
fn called(id: &Value) -> Value {
    let content = json!([{ "type": "text", "text": "done" }]);
    let result = json!({ "resultType": "complete", "content": content });
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

/// A right answer with a member that is nested a hundred thousand times.
fn deep(id: &Value) -> Vec<u8> {
    const LEVELS: usize = 100_000;
    let (open, close) = ("[".repeat(LEVELS), "]".repeat(LEVELS));
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[],"x":{open}{close}}}}}"#).into()
}

/// The answer with bytes in its text that no UTF-8 has.
fn not_utf8(answer: &Value) -> Vec<u8> {
    let body = answer.to_string().into_bytes();
    let at = find(&body, b"done").expect("the text of the answer");
    [&body[..at], b"\xff\xfe", &body[at..]].concat()
}

fn log_message() -> Value {
    let params = json!({ "level": "info", "data": "about to vanish" });
    json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": params })
}

fn session_gone() -> Value {
    let error = json!({ "code": -32001, "message": "Session not found" });
    json!({ "jsonrpc": "2.0", "id": null, "error": error })
}

/// The answer in one chunk, under a `Content-Length` that ends inside of it.
fn two_framings(answer: &Value) -> Vec<u8> {
    let body = answer.to_string();
    let chunk = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    [head(200, &format!("{CHUNKED}content-length: 5\r\n")), chunk.into_bytes()].concat()
}

fn without_end(mut bytes: Vec<u8>, cut: usize) -> Vec<u8> {
    bytes.truncate(bytes.len() - cut);
    bytes
}

pub(super) fn head(status: u16, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Whatever\r\n{headers}\r\n").into_bytes()
}

pub(crate) fn empty_response(status: u16, headers: &str) -> Vec<u8> {
    head(status, &format!("{headers}content-length: 0\r\n"))
}

pub(crate) fn json_response(status: u16, headers: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let length = body.len();
    let headers = format!("{headers}content-type: {JSON}\r\ncontent-length: {length}\r\n");
    [head(status, &headers), body.into_bytes()].concat()
}

fn response(status: u16, content_type: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let headers = format!("content-type: {content_type}\r\ncontent-length: {length}\r\n");
    [head(status, &headers), body.to_vec()].concat()
}

/// The head of a stream that the end of the connection ends.
pub(super) fn event_head() -> Vec<u8> {
    head(200, "content-type: text/event-stream\r\nconnection: close\r\n")
}

pub(super) fn events(messages: &[&Value]) -> Vec<u8> {
    let events = messages.iter().map(|message| format!("event: message\ndata: {message}\n\n"));
    [event_head(), events.collect::<String>().into_bytes()].concat()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
