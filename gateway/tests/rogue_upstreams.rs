//! Tool servers that break the rules: each costs its own calls a clear error at most,
//! never another server's, and when it behaves again it is used again.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use harness::client::{Client, until};
use harness::gateway::{Gateway, Launch};
use harness::mcp::{Session, call, text_of};
use harness::rogue_server::{Misdeed, RogueServer, SeenRequest, TOOL, json_response};
use harness::scripted_server::{
    Asked, ScriptedServer, Step, begin_stream, done, error, introduction, result, send_json,
    stream_on, tool,
};
use harness::wire::Wire;

/// The code of every error about a tool server that doesn't answer as it should.
const UPSTREAM: i64 = -32000;
/// Large enough for what an honest server says here, small enough to be reached soon.
const MESSAGE_BYTES_MAX: usize = 400_000;
/// The rogue's patience with which nothing honest here is in conflict.
const REQUEST_TIMEOUT_MS: u64 = 700;

/// A gateway before an honest server and a rogue.
struct Ground {
    gateway: Gateway,
    good: Gateway,
}

impl Ground {
    /// `options` are further lines of the rogue's entry.
    fn new(shards: usize, rogue_url: &str, options: &str) -> Ground {
        let good = Launch::default().shards(1).start();
        let config = format!(
            "[limits]\nmessage_bytes_max = {MESSAGE_BYTES_MAX}\n\
             [[upstream]]\nname = \"good\"\nurl = \"{}\"\nprefix = \"always\"\n\
             [[upstream]]\nname = \"rogue\"\nurl = \"{rogue_url}\"\nbreaker_failures = 1000\nprefix = \"always\"\n\
             {options}\n",
            good.url()
        );
        let gateway = Launch::default().shards(shards).config(&config).start();
        Ground { gateway, good }
    }

    async fn clients(&self) -> [Client; 2] {
        Client::of_both_eras(self.gateway.listen).await
    }

    /// Fails unless the honest server answers, by whatever shard.
    async fn assert_good(&mut self, client: &Client) {
        self.gateway.assert_running();
        self.good.assert_running();
        let answer = client.call(77, "good__echo", &json!({ "message": "unharmed" })).await;
        let text = text_of(&answer).unwrap_or_default();
        assert!(text.ends_with("unharmed"), "the honest server's answer to {client:?}: {answer}");
    }
}

/// Fails unless it is one clear error that names the server.
#[track_caller]
fn assert_blamed(answer: &Value, context: &str) {
    let error = &answer["error"];
    let message = error["message"].as_str().unwrap_or_default();
    assert_eq!(error["code"], UPSTREAM, "{context}: {answer}");
    assert!(message.starts_with("tool server rogue: "), "{context}: {answer}");
    // What is behind the name says what happened.
    assert!(message.len() > "tool server rogue: ".len() + 10, "{context}: {answer}");
    assert!(answer["result"].is_null(), "{context}: {answer}");
}

#[track_caller]
fn assert_done(answer: &Value, context: &str) {
    assert_eq!(text_of(answer), Some("done"), "{context}: {answer}");
    assert!(answer["error"].is_null(), "{context}: {answer}");
}

/// What a call is to come to.
fn is_answered(misdeed: Misdeed) -> bool {
    // The first answer is the right one; what follows is nobody's.
    matches!(misdeed, Misdeed::AnswersTwice | Misdeed::RespondsTwice)
}

/// Commits each misdeed on each client, and looks at what else works meanwhile and then.
async fn assert_survives_every_misdeed(rogue: &RogueServer, protocol: &str) {
    let options = format!("protocol = \"{protocol}\"\nrequest_timeout_ms = {REQUEST_TIMEOUT_MS}\n");
    let mut ground = Ground::new(1, &rogue.url(), &options);
    let (name, nothing) = (format!("rogue__{TOOL}"), json!({}));
    for client in ground.clients().await {
        client.wait_for_tool(&name, true).await;
        for misdeed in Misdeed::ALL {
            let context = format!("{misdeed:?} of a {protocol} server to {client:?}");
            rogue.set(misdeed);
            let before = rogue.calls();
            let (answer, ()) =
                tokio::join!(client.call(1, &name, &nothing), ground.assert_good(&client));
            if is_answered(misdeed) {
                assert_done(&answer, &context);
            } else {
                assert_blamed(&answer, &context);
            }
            // A tool that is not known to be safe is called again only if nothing was done.
            let calls = rogue.calls() - before;
            let nothing_done = misdeed == Misdeed::SessionGone && protocol == "legacy";
            assert!(calls == 1 || nothing_done && calls <= 3, "{context}: {calls} calls");
            rogue.set(Misdeed::None);
            assert_done(&client.call(2, &name, &nothing).await, &format!("after {context}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_misdeed_of_a_legacy_server_costs_its_own_call_only() {
    let rogue = RogueServer::start(Misdeed::None).await;
    assert_survives_every_misdeed(&rogue, "legacy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_misdeed_of_a_modern_server_costs_its_own_call_only() {
    let rogue = RogueServer::start_modern(Misdeed::None).await;
    assert_survives_every_misdeed(&rogue, "modern").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_say_what_the_server_did() {
    let rogue = RogueServer::start(Misdeed::None).await;
    let options = format!("protocol = \"legacy\"\nrequest_timeout_ms = {REQUEST_TIMEOUT_MS}\n");
    let ground = Ground::new(1, &rogue.url(), &options);
    let [client, _] = ground.clients().await;
    let name = format!("rogue__{TOOL}");
    client.wait_for_tool(&name, true).await;
    for (misdeed, evidence) in [
        (Misdeed::Redirect, "redirects to /elsewhere"),
        (Misdeed::Unauthorized, "HTTP 401"),
        (Misdeed::HtmlError, "HTTP 500"),
        (Misdeed::HtmlSuccess, "neither JSON nor an event stream"),
        (Misdeed::WrongId, "without a response"),
        (Misdeed::EndlessBody, "400000"),
        (Misdeed::Silence, "700 ms"),
        (Misdeed::Accepted, "HTTP 202"),
        (Misdeed::BrokenJson, "no JSON-RPC message"),
    ] {
        rogue.set(misdeed);
        let answer = client.call(1, &name, &json!({})).await;
        assert_blamed(&answer, &format!("{misdeed:?}"));
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(evidence), "{misdeed:?}: {message}");
    }
}

/// A server that is honest but for one method.
async fn scripted(
    tools: Value,
    method: &'static str,
    steps: impl Fn(&Asked<'_>) -> Option<Vec<Step>> + Send + 'static,
) -> ScriptedServer {
    let script = move |asked: &Asked<'_>| {
        if asked.method() == method { steps(asked) } else { None }
    };
    ScriptedServer::start(tools, Box::new(script)).await
}

fn two_tools() -> Value {
    json!([tool("act", false), tool("look", true)])
}

const LEGACY: &str = "protocol = \"legacy\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_with_an_unknown_version_is_refused_and_later_opened() {
    // The first session, by which lists are read, is opened as it should be.
    let server = scripted(two_tools(), "initialize", |asked| {
        let mut reply = result(asked.id(), &json!({ "capabilities": {}, "serverInfo": {} }));
        reply["result"]["protocolVersion"] = json!("1999-12-31");
        (asked.number > 1).then(|| vec![send_json(&reply)])
    })
    .await;
    let mut ground = Ground::new(1, &server.url(), LEGACY);
    for client in ground.clients().await {
        client.wait_for_tool("rogue__act", true).await;
        let answer = client.call(1, "rogue__act", &json!({})).await;
        assert_blamed(&answer, "an unknown version");
        assert!(answer.to_string().contains("version"), "{answer}");
        ground.assert_good(&client).await;
    }
    assert_eq!(server.count("tools/call"), 0, "a call went out in a session that never was");
    server.repair();
    for client in ground.clients().await {
        assert_done(&client.call(2, "rogue__act", &json!({})).await, "after the repair");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_every_version_is_left_out_until_it_is_repaired() {
    let server = scripted(two_tools(), "initialize", |asked| {
        let reply = json!({ "protocolVersion": "3000-01-01", "capabilities": {} });
        Some(vec![send_json(&result(asked.id(), &reply))])
    })
    .await;
    let mut ground = Ground::new(1, &server.url(), LEGACY);
    for client in ground.clients().await {
        let names = client.tool_names().await;
        assert!(names.iter().all(|name| name.starts_with("good__")), "{names:?}");
        assert!(!names.is_empty(), "the honest server is not listed");
        ground.assert_good(&client).await;
    }
    server.repair();
    for client in ground.clients().await {
        client.wait_for_tool("rogue__act", true).await;
        assert_done(&client.call(2, "rogue__act", &json!({})).await, "after the repair");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_without_an_end_are_given_up() {
    let server = scripted(two_tools(), "tools/list", |asked| {
        let page = json!({ "tools": [tool("act", false)], "nextCursor": "again" });
        Some(vec![send_json(&result(asked.id(), &page))])
    })
    .await;
    let mut ground = Ground::new(1, &server.url(), LEGACY);
    for client in ground.clients().await {
        let names = client.tool_names().await;
        assert!(names.iter().any(|name| name == "good__echo"), "{names:?}");
        ground.assert_good(&client).await;
    }
    server.repair();
    for client in ground.clients().await {
        client.wait_for_tool("rogue__look", true).await;
        assert_done(&client.call(2, "rogue__act", &json!({})).await, "after the repair");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_that_make_no_sense_are_left_out_and_others_are_not() {
    let nonsense = json!([
        { "inputSchema": { "type": "object" } },
        { "name": 5 },
        { "name": "" },
        null,
        "text",
        tool("act", false),
        tool("act", true),
    ]);
    let server = ScriptedServer::start(nonsense, Box::new(|_| None)).await;
    let mut ground = Ground::new(1, &server.url(), LEGACY);
    for client in ground.clients().await {
        client.wait_for_tool("rogue__act", true).await;
        let names = client.tool_names().await;
        let of_rogue = names.iter().filter(|name| !name.starts_with("good__"));
        assert_eq!(of_rogue.collect::<Vec<_>>(), ["rogue__act"]);
        assert_done(&client.call(1, "rogue__act", &json!({})).await, "the one good tool");
        ground.assert_good(&client).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_session_is_opened_anew_and_other_calls_in_it_fail() {
    let server = scripted(two_tools(), "tools/call", |asked| {
        let slow = asked.request.body["params"]["arguments"]["slow"] == true;
        slow.then(|| vec![Step::Hold, Step::Close])
    })
    .await;
    let mut ground = Ground::new(1, &server.url(), LEGACY);
    for client in ground.clients().await {
        client.wait_for_tool("rogue__act", true).await;
        assert_done(&client.call(1, "rogue__act", &json!({})).await, "a session");
        let before = server.count("tools/call");
        let mut slow = client.begin_call(2, "rogue__act", &json!({ "slow": true })).await;
        until("the slow call has arrived", async || {
            (server.count("tools/call") == before + 1).then_some(())
        })
        .await;
        server.forget_sessions();
        let initialized = server.count("initialize");
        assert_done(&client.call(3, "rogue__act", &json!({})).await, "on a fresh session");
        assert!(server.count("initialize") > initialized, "no fresh session was opened");
        // Sent, refused with 404, sent once more.
        assert_eq!(server.count("tools/call"), before + 3);
        let lost = slow.answer().await.expect("the call that was lost is answered").json();
        assert_blamed(&lost, "a call in a session that was forgotten");
        assert!(lost.to_string().contains("unknown"), "whether it had an effect: {lost}");
        ground.assert_good(&client).await;
    }
    server.release();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_the_server_come_through_as_they_are() {
    let server = scripted(two_tools(), "tools/call", |asked| {
        let mut reply = error(asked.id(), -31999, "the printer is \"on fire\"");
        reply["error"]["data"] = json!({ "floor": 3, "list": [1.50, null] });
        Some(vec![send_json(&reply)])
    })
    .await;
    let ground = Ground::new(1, &server.url(), LEGACY);
    for client in ground.clients().await {
        client.wait_for_tool("rogue__act", true).await;
        let answer = client.call(1, "rogue__act", &json!({})).await;
        assert_eq!(answer["error"]["code"], -31999, "{answer}");
        assert_eq!(answer["error"]["message"], "the printer is \"on fire\"", "{answer}");
        assert_eq!(answer["error"]["data"], json!({ "floor": 3, "list": [1.50, null] }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_nobodys_is_dropped_and_the_call_goes_on() {
    let server = scripted(two_tools(), "tools/call", |asked| {
        let progress = |token: Value| {
            let params = json!({ "progressToken": token, "progress": 1 });
            json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params })
        };
        let ask = json!({ "jsonrpc": "2.0", "id": "q", "method": "kitchen/sink", "params": {} });
        let stray = done(&json!(4_000_000));
        let messages = [
            &progress(json!("nobody's")),
            &progress(json!(123_456)),
            &progress(Value::Null),
            &stray,
            &ask,
            &json!({ "jsonrpc": "2.0", "method": "notifications/no_such_thing" }),
            &json!({ "jsonrpc": "2.0", "method": "notifications/cancelled",
                     "params": { "requestId": 99 } }),
            &json!({ "jsonrpc": "2.0", "error": { "code": -1, "message": "to nobody" }, "id": null }),
        ];
        Some(vec![begin_stream(&messages), stream_on(&done(asked.id())), Step::Close])
    })
    .await;
    let mut ground = Ground::new(1, &server.url(), LEGACY);
    for client in ground.clients().await {
        client.wait_for_tool("rogue__act", true).await;
        let before = refusals_of_questions(&server);
        assert_done(&client.call(1, "rogue__act", &json!({})).await, "among strays");
        until("the server's question is refused", async || {
            (refusals_of_questions(&server) == before + 1).then_some(())
        })
        .await;
        ground.assert_good(&client).await;
    }
}

fn refusals_of_questions(server: &ScriptedServer) -> usize {
    let seen = server.seen();
    let is_refusal = |body: &Value| body["id"] == "q" && body["error"]["code"] == -32601;
    seen.iter().filter(|request| is_refusal(&request.body)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ends_before_the_answer_is_tried_again_only_where_it_is_safe() {
    // Every first call of a pair loses its connection.
    let server = scripted(two_tools(), "tools/call", |asked| {
        (asked.number % 2 == 1).then(|| vec![Step::Close])
    })
    .await;
    let ground = Ground::new(1, &server.url(), LEGACY);
    for client in ground.clients().await {
        client.wait_for_tool("rogue__act", true).await;
        let before = server.count("tools/call");
        assert_done(&client.call(1, "rogue__look", &json!({})).await, "a tool that only reads");
        assert_eq!(server.count("tools/call"), before + 2);
        let answer = client.call(2, "rogue__act", &json!({})).await;
        assert_blamed(&answer, "a tool that changes something");
        assert_eq!(server.count("tools/call"), before + 3, "it was called twice");
        assert_done(&client.call(3, "rogue__act", &json!({})).await, "the next one");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_took_too_long_is_not_sent_again() {
    let server = scripted(two_tools(), "tools/call", |_| Some(vec![Step::Hold, Step::Close])).await;
    let options = format!("{LEGACY}request_timeout_ms = {REQUEST_TIMEOUT_MS}\n");
    let ground = Ground::new(1, &server.url(), &options);
    for client in ground.clients().await {
        client.wait_for_tool("rogue__look", true).await;
        let before = server.count("tools/call");
        let answer = client.call(1, "rogue__look", &json!({})).await;
        assert_blamed(&answer, "a server that only reads, but slowly");
        // What is slow is not made faster by asking it twice.
        assert_eq!(server.count("tools/call"), before + 1);
    }
    server.release();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_read_anew_after_their_session_was_forgotten_while_they_were_read() {
    let server = ScriptedServer::start(two_tools(), Box::new(|_| None)).await;
    let options = format!("{LEGACY}refresh_ms = 1000\nstanding_stream = false\n");
    let ground = Ground::new(1, &server.url(), &options);
    let [client, _] = ground.clients().await;
    client.wait_for_tool("rogue__act", true).await;
    for _ in 0..2 {
        server.forget_sessions();
        let (opened, listed) = (server.count("initialize"), server.count("tools/list"));
        until("the lists are read in a fresh session", async || {
            let read_twice = server.count("tools/list") >= listed + 2;
            (server.count("initialize") > opened && read_twice).then_some(())
        })
        .await;
    }
    assert_done(&client.call(1, "rogue__act", &json!({})).await, "after all that");
}

/// A stream that ends without its answer but with an event to go on from.
fn cut_stream(in_order: bool) -> Vec<Step> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
    let event = "id: here\nretry: 20\ndata:\n\n";
    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
    let end = if in_order { "0\r\n\r\n" } else { "" };
    let bytes = format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}{end}");
    vec![Step::Send(bytes.into_bytes()), Step::Close]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ended_is_resumed_however_it_ended() {
    for in_order in [true, false] {
        let id = Arc::new(Mutex::new(Value::Null));
        let script = move |asked: &Asked<'_>| {
            let mut id = id.lock().expect("no holder of this lock panics");
            if asked.method() == "tools/call" {
                *id = asked.id().clone();
                return Some(cut_stream(in_order));
            }
            let resumes = asked.request.header("last-event-id") == Some("here");
            resumes.then(|| vec![begin_stream(&[&done(&id)]), Step::Close])
        };
        let server = ScriptedServer::start(two_tools(), Box::new(script)).await;
        let ground = Ground::new(1, &server.url(), LEGACY);
        for client in ground.clients().await {
            client.wait_for_tool("rogue__act", true).await;
            let before = server.count("tools/call");
            let context = format!("in order: {in_order}, {client:?}");
            assert_done(&client.call(1, "rogue__act", &json!({})).await, &context);
            assert_eq!(server.count("tools/call"), before + 1, "{context}: it was called twice");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_stream_can_not_be_resumed_is_not_made_again() {
    let script = |asked: &Asked<'_>| {
        if asked.method() == "tools/call" {
            return Some(cut_stream(true));
        }
        let resumes = asked.request.header("last-event-id").is_some();
        resumes.then(|| {
            vec![Step::Send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into())]
        })
    };
    let server = ScriptedServer::start(two_tools(), Box::new(script)).await;
    let mut ground = Ground::new(1, &server.url(), LEGACY);
    for client in ground.clients().await {
        client.wait_for_tool("rogue__act", true).await;
        let before = server.count("tools/call");
        let answer = client.call(1, "rogue__act", &json!({})).await;
        assert_blamed(&answer, "a stream that is gone");
        assert_eq!(server.count("tools/call"), before + 1, "it was called twice");
        ground.assert_good(&client).await;
    }
}

/// Such a session was once left to the server, which had opened it for nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_whose_client_goes_while_it_opens_is_ended() {
    const LATE: &str = "opened-too-late";
    let server = ScriptedServer::start(two_tools(), Box::new(|_| None)).await;
    let ground = Ground::new(1, &server.url(), LEGACY);
    let [client, _] = ground.clients().await;
    client.wait_for_tool("rogue__act", true).await;
    server.script(Box::new(|asked| {
        let version = &asked.request.body["params"]["protocolVersion"];
        let header = format!("Mcp-Session-Id: {LATE}\r\n");
        let answer = json_response(200, &header, &result(asked.id(), &introduction(version)));
        (asked.method() == "initialize").then(|| vec![Step::Hold, Step::Send(answer)])
    }));
    let opened = server.count("initialize");
    let session = Session::open(ground.gateway.listen, "2025-11-25").await.expect("a session");
    let mut waiting = Wire::connect(ground.gateway.listen).await.expect("connect");
    let call = call(1, "rogue__act", &json!({}));
    waiting.send(&session.post(&call)).await.expect("send");
    until("its session is asked for", async || (server.count("initialize") > opened).then_some(()))
        .await;
    let mut wire = Wire::connect(ground.gateway.listen).await.expect("connect");
    assert_eq!(wire.ask(&session.delete()).await.expect("an answer").head.status, 200);
    server.release();
    until("the server is told", async || {
        let ended = |seen: &SeenRequest| {
            seen.method == "DELETE" && seen.header("mcp-session-id") == Some(LATE)
        };
        server.seen().iter().any(ended).then_some(())
    })
    .await;
    // Nothing was sent on it in between.
    let used = server.seen().into_iter().filter(|it| it.header("mcp-session-id") == Some(LATE));
    assert_eq!(used.count(), 1);
}
