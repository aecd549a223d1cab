//! How sessions with tool servers begin, where servers do it in ways of their own.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::collections::HashMap;

use serde_json::{Value, json};

use harness::client::Client;
use harness::gateway::{Gateway, Launch};
use harness::mcp::{MODERN, text_of};
use harness::rogue_server::{SeenRequest, empty_response, json_response};
use harness::scripted_server::{
    Asked, ScriptedServer, Step, begin_stream, done, error, result, send_json, tool,
};

/// Sessions of one test, so that an order which is only luck shows.
const CLIENTS: u64 = 8;

/// A server that does what `script` says, and a gateway before it.
async fn ground(
    script: impl Fn(&Asked<'_>) -> Option<Vec<Step>> + Send + 'static,
) -> (ScriptedServer, Gateway) {
    let server = ScriptedServer::start(json!([tool("act", false)]), Box::new(script)).await;
    let config = format!("[[upstream]]\nname = \"one\"\nurl = \"{}\"\n", server.url());
    let gateway = Launch::default().shards(1).config(&config).start();
    (server, gateway)
}

/// What to do with a GET; everything else is left to the honest server.
fn on_get(asked: &Asked<'_>, steps: Vec<Step>) -> Option<Vec<Step>> {
    (asked.request.method == "GET").then_some(steps)
}

async fn assert_calls_work(client: &Client) {
    client.wait_for_tool("act", true).await;
    for id in 1..=2 {
        let answer = client.call(id, "act", &json!({})).await;
        assert_eq!(text_of(&answer), Some("done"), "{client:?}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sessions_stream_is_asked_for_before_its_first_call() {
    let stream = || vec![begin_stream(&[]), Step::Hold];
    let (server, gateway) = ground(move |asked| on_get(asked, stream())).await;
    for _ in 0..CLIENTS {
        assert_calls_work(&Client::legacy(gateway.listen).await).await;
    }
    assert_calls_work(&Client::Modern(gateway.listen)).await;
    let seen = server.seen();
    let session = |request: &SeenRequest| request.header("mcp-session-id").map(str::to_owned);
    let mut listening: HashMap<Option<String>, bool> = HashMap::new();
    for request in &seen {
        let entry = listening.entry(session(request)).or_default();
        *entry |= request.method == "GET";
        assert!(*entry || request.body["method"] != "tools/call", "a call came first: {seen:#?}");
    }
    let streams = listening.values().filter(|stream| **stream).count();
    // One for each legacy client, one for all modern ones, one for the gateway itself.
    assert_eq!(streams as u64, CLIENTS + 2, "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_leaves_the_request_for_a_stream_unanswered_is_called() {
    let (server, gateway) = ground(|asked| on_get(asked, vec![Step::Hold])).await;
    for client in Client::of_both_eras(gateway.listen).await {
        assert_calls_work(&client).await;
    }
    server.release();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_knows_no_get_at_all_keeps_its_sessions() {
    let not_found = || vec![Step::Send(empty_response(404, ""))];
    let (server, gateway) = ground(move |asked| on_get(asked, not_found())).await;
    for client in Client::of_both_eras(gateway.listen).await {
        assert_calls_work(&client).await;
    }
    // One for the legacy client, one for all modern ones, one for the gateway itself.
    assert_eq!(server.count("initialize"), 3, "sessions were opened anew: {:#?}", server.seen());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_answers_notifications_is_used() {
    let answer = json!({ "jsonrpc": "2.0", "result": {} });
    let (server, gateway) = ground(move |asked| {
        (asked.method() == "notifications/initialized").then(|| vec![send_json(&answer)])
    })
    .await;
    for client in Client::of_both_eras(gateway.listen).await {
        assert_calls_work(&client).await;
    }
    assert_eq!(server.count("initialize"), 3, "sessions were opened anew: {:#?}", server.seen());
}

/// -32022, though what is supported is what was asked for.
fn refuse_version(asked: &Asked<'_>) -> Vec<Step> {
    let mut refusal = error(asked.id(), -32022, "Unsupported protocol version");
    refusal["error"]["data"] = json!({ "supported": [MODERN], "requested": MODERN });
    vec![Step::Send(json_response(400, "", &refusal))]
}

/// What a modern server answers.
fn answer_modern(asked: &Asked<'_>) -> Option<Vec<Step>> {
    let members = |name: &str, value: Value| {
        json!({ "resultType": "complete", "ttlMs": 0, "cacheScope": "private", name: value,
                "capabilities": { "tools": {} } })
    };
    let answer = match asked.method() {
        "server/discover" => result(asked.id(), &members("supportedVersions", json!([MODERN]))),
        "tools/list" => result(asked.id(), &members("tools", json!([tool("act", false)]))),
        "tools/call" => done(asked.id()),
        _ => return None,
    };
    Some(vec![send_json(&answer)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_a_server_refuses_and_names_is_asked_for_again() {
    let (server, gateway) = ground(|asked| {
        let first = asked.method() == "server/discover" && asked.number == 1;
        if first { Some(refuse_version(asked)) } else { answer_modern(asked) }
    })
    .await;
    for client in Client::of_both_eras(gateway.listen).await {
        assert_calls_work(&client).await;
    }
    assert_eq!(server.count("server/discover"), 2);
    assert_eq!(server.count("initialize"), 0, "a modern server was asked for a session");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_a_server_refuses_again_is_given_up() {
    let (server, gateway) =
        ground(|asked| (asked.method() == "server/discover").then(|| refuse_version(asked))).await;
    for client in Client::of_both_eras(gateway.listen).await {
        assert_calls_work(&client).await;
    }
    assert_eq!(server.count("server/discover"), 2);
}
