//! The embedded server beside other servers: to clients it is what it is alone.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use harness::client::{Client, until};
use harness::gateway::{Gateway, Launch};
use harness::mcp::{LEGACY, MODERN, Request, Session, call, request, text_of};
use harness::suite::{Scenarios, differences, run_suite, suite_checks};
use harness::wire::Wire;

const EMBEDDED: &str = "[embedded]\nenabled = true\n";
/// Nobody listens there.
const DEAD: &str = "[[upstream]]\nname = \"dead\"\nurl = \"http://127.0.0.1:1/mcp\"\n";
/// So many connections that, on two shards, both hold some.
const CONNECTIONS: u64 = 12;

/// A gateway on two shards before one server and with its own tools.
fn beside(server: &Gateway, more: &str) -> Gateway {
    let one =
        format!("[[upstream]]\nname = \"one\"\nurl = \"{}\"\nprefix = \"always\"\n", server.url());
    Launch::default().shards(2).config(&format!("{EMBEDDED}{one}{more}")).start()
}

fn beside_a_dead_one() -> Gateway {
    // However slow the machine is, no call is answered as a stream for its slowness.
    let patient = "[limits]\nanswer_patience_ms = 60000\n";
    Launch::default().shards(2).config(&format!("{patient}{EMBEDDED}{DEAD}")).start()
}

/// What only the older era has, and a member is spoken to in the newer: an answer that the
/// client is to poll for.
const POLLING: [&str; 3] = [
    "server-sse-polling server-sse-disconnect-resume: nothing instead of SUCCESS",
    "server-sse-polling server-sse-priming-event: nothing instead of SUCCESS",
    "server-sse-polling server-sse-retry-field: nothing instead of SUCCESS",
];

/// A dead server beside it changes nothing, either.
#[tokio::test(flavor = "multi_thread")]
async fn the_suite_finds_what_it_finds_of_the_embedded_server_alone() {
    let alone = Launch::default().shards(2).start();
    let member = beside_a_dead_one();
    for (revision, expected) in [(LEGACY, POLLING.as_slice()), (MODERN, &[])] {
        let name = format!("embedded-member-{revision}");
        let direct =
            suite_checks(&alone.url(), Scenarios::Required, revision, &format!("{name}-alone"))
                .await;
        let run = run_suite(&member.url(), Scenarios::Required, revision, &name).await;
        assert!(!run.checks.is_empty(), "nothing was checked:\n{}", run.output.stderr);
        assert_eq!(differences(&run.checks, &direct), expected, "{revision}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_tools_stand_beside_those_of_others_and_routes_may_name_it() {
    let server = Launch::default().shards(1).start();
    let route = "[[route]]\npath = \"/mcp/own\"\nupstreams = [\"embedded\"]\n\
                 tools.allow = [\"*echo\", \"one__*\"]\n";
    let gateway = beside(&server, route);
    for client in Client::of_both_eras(gateway.listen).await {
        client.wait_for_tool("one__echo", true).await;
        client.wait_for_tool("echo", true).await;
        for tool in ["echo", "one__echo"] {
            let answer = client.call(1, tool, &json!({ "message": "to whom?" })).await;
            assert!(text_of(&answer).is_some_and(|it| it.contains("to whom?")), "{tool}: {answer}");
        }
    }
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    let session = Session::open_at(&mut wire, gateway.listen, "/mcp/own", LEGACY).await;
    let session = session.expect("a session opens");
    let listed = session.ask(&mut wire, &request(1, "tools/list", &json!({}))).await;
    let listed = listed.expect("an answer").json();
    let tools = listed["result"]["tools"].as_array().expect("a list");
    let names: BTreeSet<&str> = tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
    assert_eq!(names, BTreeSet::from(["echo"]));
    let hidden = session.ask(&mut wire, &call(2, "one__echo", &json!({}))).await;
    assert_eq!(hidden.expect("an answer").json()["error"]["code"], -32602);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_shown_among_the_servers() {
    let server = Launch::default().shards(1).start();
    let gateway = beside(&server, "");
    let client = Client::Modern(gateway.listen);
    client.wait_for_tool("echo", true).await;
    client.call(1, "echo", &json!({ "message": "count me" })).await;
    let entry = until("it is shown as up", async || {
        let mut admin = Wire::connect(gateway.admin).await.expect("connect");
        let page = Request::page("/api/v1/upstreams").bytes(gateway.admin);
        let report = admin.ask(&page).await.expect("a report").json();
        let entries = report["upstreams"].as_array().expect("a list").clone();
        entries.into_iter().find(|it| it["name"] == "embedded" && it["state"] == "up")
    })
    .await;
    assert_eq!(entry["kind"], "embedded", "{entry}");
}

/// Its instances on the shards are one server: a change on one is told on the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_reaches_subscribers_on_both_shards() {
    const WATCHED: &str = "test://watched-resource";
    let gateway = beside_a_dead_one();
    Client::Modern(gateway.listen).wait_for_tool("echo", true).await;
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut wire = Wire::connect(gateway.listen).await.expect("connect");
        let session = Session::open_on(&mut wire, gateway.listen, LEGACY).await.expect("open");
        let uri = json!({ "uri": WATCHED });
        let told = session.ask(&mut wire, &request(1, "resources/subscribe", &uri)).await;
        assert_eq!(told.expect("an answer").json()["result"], json!({}));
        let mut stream = Wire::connect(gateway.listen).await.expect("connect");
        session.stream(&mut stream, None).await.expect("a stream");
        streams.push(stream);
    }
    let updater = Client::Modern(gateway.listen);
    let answer = updater.call(2, "test_trigger_resource_update", &json!({})).await;
    assert!(answer["error"].is_null(), "{answer}");
    for stream in &mut streams {
        assert_eq!(next_update(stream).await["params"]["uri"], WATCHED);
    }
}

async fn next_update(stream: &mut Wire) -> Value {
    loop {
        let event = stream.event().await.expect("the stream goes on").expect("an event");
        let message = event.json();
        if message["method"] == "notifications/resources/updated" {
            return message;
        }
    }
}
