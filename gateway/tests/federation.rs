//! Several tool servers behind one gateway, in all four pairings of eras: lists are
//! merged, calls find their server, what belongs to a call stays with it, and whatever
//! happens to one server, the others never notice.
//!
//! The servers are gateways with their embedded server; the gateway under test speaks
//! the era with them that `protocol` says.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use harness::client::{Client, next_message, until};
use harness::gateway::{Gateway, Launch};
use harness::mcp::{Session, call, text_of};
use harness::metrics::Page;
use harness::scripted_server::{ScriptedServer, tool};
use harness::wire::Wire;

const ERAS: [&str; 2] = ["legacy", "modern"];
const WATCHED: &str = "test://watched-resource";
/// Requests on so many connections have landed on both shards.
const CONNECTIONS: u64 = 8;

/// An entry of the configuration.
fn upstream(name: &str, url: &str, options: &str) -> String {
    format!("[[upstream]]\nname = \"{name}\"\nurl = \"{url}\"\n{options}\n")
}

fn server() -> Gateway {
    Launch::default().shards(1).start()
}

/// A gateway on two shards before the servers `one` and `two`.
struct Ground {
    gateway: Gateway,
    one: Gateway,
    two: Gateway,
}

impl Ground {
    /// Both are spoken to in this era. `options` are further lines of both entries.
    fn new(protocol: &str, options: &str) -> Ground {
        Ground::with(protocol, options, "")
    }

    /// `more` goes before the entries.
    fn with(protocol: &str, options: &str, more: &str) -> Ground {
        let (one, two) = (server(), server());
        let options = format!("prefix = \"always\"\nprotocol = \"{protocol}\"\n{options}");
        let entries =
            [upstream("one", &one.url(), &options), upstream("two", &two.url(), &options)];
        let config = format!("{more}{}", entries.concat());
        let gateway = Launch::default().shards(2).config(&config).start();
        Ground { gateway, one, two }
    }

    async fn clients(&self) -> [Client; 2] {
        Client::of_both_eras(self.gateway.listen).await
    }
}

/// A client that sees of the server what the gateway sees.
async fn direct(server: &Gateway, protocol: &str) -> Client {
    match protocol {
        "legacy" => Client::legacy(server.listen).await,
        _ => Client::Modern(server.listen),
    }
}

async fn gauge(server: &Gateway, name: &str) -> f64 {
    Page::fetch(server.admin).await.sum(name).unwrap_or(0.0)
}

async fn until_gauge(server: &Gateway, name: &str, wanted: f64) {
    until(&format!("{name} is {wanted}"), async || {
        (gauge(server, name).await == wanted).then_some(())
    })
    .await;
}

/// How many sessions the gateway holds by itself, once both shards have read the lists.
async fn sessions_at_rest(ground: &Ground, server: &Gateway) -> f64 {
    let client = Client::Modern(ground.gateway.listen);
    client.wait_for_tool("one__echo", true).await;
    client.wait_for_tool("two__echo", true).await;
    gauge(server, SESSIONS).await
}

const SESSIONS: &str = "shardgate_sessions";
const CALLS: &str = "shardgate_calls_in_flight";

fn field(entries: &[Value], name: &str) -> BTreeSet<String> {
    entries.iter().map(|entry| entry[name].as_str().expect("a text").to_owned()).collect()
}

/// Connections to tool servers stay open between calls, and are no reason to wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_ends_takes_leave_of_its_servers() {
    for protocol in ERAS {
        let mut ground = Ground::new(protocol, "");
        for client in ground.clients().await {
            client.wait_for_tool("one__echo", true).await;
            for id in 0..CONNECTIONS {
                client.call(id, "one__echo", &json!({ "message": "hello" })).await;
            }
            drop(client.listen(Some(WATCHED)).await);
        }
        ground.gateway.terminate();
        let status = ground.gateway.wait_exit();
        assert!(status.success(), "{protocol}: {status}\n{}", ground.gateway.log_tail());
        for server in [&ground.one, &ground.two] {
            until_gauge(server, SESSIONS, 0.0).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_all_servers_are_merged_and_paged() {
    const PAGE: usize = 7;
    for protocol in ERAS {
        let page = format!("[embedded]\nenabled = false\npage_entries = {PAGE}\n");
        let ground = Ground::with(protocol, "", &page);
        let expected = direct(&ground.one, protocol).await;
        for client in ground.clients().await {
            client.wait_for_tool("one__echo", true).await;
            client.wait_for_tool("two__echo", true).await;
            for kind in ["tools", "prompts"] {
                let own = field(&expected.list(kind).await, "name");
                let prefixed: BTreeSet<String> = ["one", "two"]
                    .iter()
                    .flat_map(|server| own.iter().map(move |name| format!("{server}__{name}")))
                    .collect();
                let (entries, pages) = client.list_with_pages(kind).await;
                assert_eq!(field(&entries, "name"), prefixed, "{kind}, {client:?}");
                assert_eq!(entries.len(), prefixed.len(), "an entry came twice");
                assert_eq!(pages, entries.len().div_ceil(PAGE), "{kind}, {client:?}");
            }
            // An address is the same whoever has it: the first server's is listed.
            for (kind, name) in [("resources", "uri"), ("resourceTemplates", "uriTemplate")] {
                let own = field(&expected.list(kind).await, name);
                let entries = client.list(kind).await;
                assert_eq!(field(&entries, name), own, "{kind}, {client:?}");
                assert_eq!(entries.len(), own.len(), "an entry came twice");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_collide_are_prefixed_and_each_finds_its_server() {
    let start = async |own: &str| {
        let tools = json!([tool("shared", false), tool(own, false)]);
        ScriptedServer::start(tools, Box::new(|_| None)).await
    };
    let (left, right) = (start("only_left").await, start("only_right").await);
    let entries = [upstream("left", &left.url(), ""), upstream("right", &right.url(), "")];
    let gateway = Launch::default().shards(2).config(&entries.concat()).start();
    for client in Client::of_both_eras(gateway.listen).await {
        client.wait_for_tool("left__shared", true).await;
        client.wait_for_tool("right__shared", true).await;
        let mut names = client.tool_names().await;
        names.sort();
        assert_eq!(names, ["left__shared", "only_left", "only_right", "right__shared"]);
        for (name, of_left, of_right) in [
            ("left__shared", 1, 0),
            ("right__shared", 0, 1),
            ("only_left", 1, 0),
            ("only_right", 0, 1),
            ("left__only_left", 1, 0),
        ] {
            let (before_left, before_right) = (left.count("tools/call"), right.count("tools/call"));
            let answer = client.call(1, name, &json!({ "a": [1, 2.50] })).await;
            assert_eq!(text_of(&answer), Some("done"), "{name}: {answer}");
            let after = (left.count("tools/call"), right.count("tools/call"));
            assert_eq!(after, (before_left + of_left, before_right + of_right), "{name}");
            let seen = if of_left == 1 { left.seen() } else { right.seen() };
            let body = &seen.iter().rfind(|it| it.body["method"] == "tools/call").unwrap().body;
            assert_eq!(body["params"]["name"], name.rsplit("__").next().unwrap(), "{body}");
            assert_eq!(body["params"]["arguments"], json!({ "a": [1, 2.50] }), "{body}");
        }
        for unknown in ["shared", "right__only_left", "nobody__shared"] {
            let answer = client.call(1, unknown, &json!({})).await;
            assert_eq!(answer["error"]["code"], -32602, "{unknown}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompts_resources_and_completions_come_from_their_server() {
    for protocol in ERAS {
        let ground = Ground::new(protocol, "");
        for client in ground.clients().await {
            client.wait_for_tool("two__echo", true).await;
            let arguments = json!({ "arg1": "left", "arg2": "right" });
            let params =
                json!({ "name": "two__test_prompt_with_arguments", "arguments": arguments });
            let answer = client.ask(1, "prompts/get", params).await;
            let text = answer["result"]["messages"][0]["content"]["text"].as_str();
            assert_eq!(text, Some("Prompt with arguments: arg1='left', arg2='right'"), "{answer}");

            for uri in ["test://static-text", "test://template/77/data"] {
                let answer = client.ask(2, "resources/read", json!({ "uri": uri })).await;
                assert_eq!(answer["result"]["contents"][0]["uri"], uri, "{answer}");
            }
            let missing = json!({ "uri": "test://no/such/thing" });
            let answer = client.ask(3, "resources/read", missing).await;
            let code = if matches!(client, Client::Legacy(_)) { -32002 } else { -32602 };
            assert_eq!(answer["error"]["code"], code, "{answer}");

            let reference =
                json!({ "type": "ref/prompt", "name": "one__test_prompt_with_arguments" });
            let argument = json!({ "name": "arg1", "value": "par" });
            let params = json!({ "ref": reference, "argument": argument });
            let through = client.ask(4, "completion/complete", params.clone()).await;
            let mut own = params;
            own["ref"]["name"] = json!("test_prompt_with_arguments");
            let expected =
                direct(&ground.one, protocol).await.ask(4, "completion/complete", own).await;
            let values = &through["result"]["completion"]["values"];
            assert!(values.is_array(), "{through}");
            assert_eq!(*values, expected["result"]["completion"]["values"], "{through}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_messages_follow_the_level_the_client_asked_for() {
    for protocol in ERAS {
        let ground = Ground::new(protocol, "");
        for client in ground.clients().await {
            client.wait_for_tool("one__echo", true).await;
            let mut params = json!({ "name": "one__test_tool_with_logging", "arguments": {} });
            match client {
                Client::Legacy(_) => {
                    let level = json!({ "level": "debug" });
                    let answer = client.ask(1, "logging/setLevel", level).await;
                    assert_eq!(answer["result"], json!({}), "{answer}");
                }
                Client::Modern(_) => {
                    params["_meta"] = json!({ "io.modelcontextprotocol/logLevel": "debug" });
                }
            }
            let mut wire = client.begin(2, "tools/call", params).await;
            let (notices, answer) = stream_of(&mut wire).await;
            let logs = notices.iter().filter(|it| it["method"] == "notifications/message");
            assert_eq!(logs.count(), 3, "{protocol}, {client:?}: {notices:?}");
            assert!(text_of(&answer).is_some(), "{answer}");
        }
    }
}

/// Everything of a call's stream: what came before the answer, and the answer.
async fn stream_of(wire: &mut Wire) -> (Vec<Value>, Value) {
    let head = wire.head().await.expect("a head");
    if !head.is_events() {
        let body = wire.rest().await.expect("a body");
        return (Vec::new(), serde_json::from_slice(&body).expect("JSON"));
    }
    let mut messages = Vec::new();
    while let Some(message) = next_message(wire).await {
        messages.push(message);
    }
    let answer = messages.pop().expect("the stream has an answer");
    (messages, answer)
}

/// Fails unless the next thing that is heard is this.
async fn assert_heard(wire: &mut Wire, method: &str, context: &str) {
    let message = next_message(wire).await.expect("the stream goes on");
    assert_eq!(message["method"], method, "{context}: {message}");
    if method == UPDATED {
        assert_eq!(message["params"]["uri"], WATCHED, "{context}: {message}");
    }
}

const UPDATED: &str = "notifications/resources/updated";
const TOOLS_CHANGED: &str = "notifications/tools/list_changed";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_of_a_server_is_told_once() {
    for protocol in ERAS {
        let ground = Ground::new(protocol, "");
        // A session that is older than the first lists hears of these as a change.
        Client::Modern(ground.gateway.listen).wait_for_tool("two__echo", true).await;
        for client in ground.clients().await {
            client.wait_for_tool("one__echo", true).await;
            let context = format!("{protocol} server, {client:?}");
            let at_server = Client::legacy(ground.one.listen).await;
            let nothing = json!({});
            let mut wire = client.listen(Some(WATCHED)).await;
            // A subscription at a server takes effect a moment after it is asked for.
            until("an update is heard", async || {
                at_server.call(1, "test_trigger_resource_update", &nothing).await;
                let heard = timeout(Duration::from_millis(200), next_message(&mut wire)).await;
                heard.is_ok().then_some(())
            })
            .await;
            // Some of those updates may still be on their way; the change comes after them.
            at_server.call(1, "test_trigger_tool_change", &nothing).await;
            while next_message(&mut wire).await.expect("it goes on")["method"] != TOOLS_CHANGED {}
            for round in 0..3 {
                at_server.call(2, "test_trigger_resource_update", &nothing).await;
                assert_heard(&mut wire, UPDATED, &format!("{context}, update {round}")).await;
            }
            for round in 0..2 {
                at_server.call(3, "test_trigger_tool_change", &nothing).await;
                assert_heard(&mut wire, TOOLS_CHANGED, &format!("{context}, change {round}")).await;
            }
            at_server.call(4, "test_trigger_resource_update", &nothing).await;
            assert_heard(&mut wire, UPDATED, &format!("{context}, last update")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_arrives_while_the_call_runs_and_before_its_answer() {
    const STEPS: u64 = 5;
    for protocol in ERAS {
        let ground = Ground::new(protocol, "");
        for client in ground.clients().await {
            client.wait_for_tool("one__echo", true).await;
            for token in [json!("mine"), json!(7)] {
                let arguments = json!({ "duration_ms": 60 * STEPS, "steps": STEPS });
                let mut params = call_params("one__long_running", &arguments);
                params["_meta"] = json!({ "progressToken": token });
                let mut wire = client.begin(9, "tools/call", params).await;
                let (notices, answer) = stream_of(&mut wire).await;
                let context = format!("{protocol} server, {client:?}: {notices:?}");
                assert_eq!(answer["id"], 9, "{context}");
                assert!(text_of(&answer).is_some(), "{answer}");
                assert!(notices.len() as u64 >= STEPS, "{context}");
                let mut last = -1.0;
                for notice in &notices {
                    assert_eq!(notice["method"], "notifications/progress", "{context}");
                    assert_eq!(notice["params"]["progressToken"], token, "{context}");
                    let progress = notice["params"]["progress"].as_f64().expect("a number");
                    assert!(progress > last, "{context}");
                    last = progress;
                }
            }
        }
    }
}

fn call_params(tool: &str, arguments: &Value) -> Value {
    json!({ "name": tool, "arguments": arguments })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_reaches_the_server_that_has_the_call_and_no_other() {
    for protocol in ERAS {
        let ground = Ground::new(protocol, "");
        for client in ground.clients().await {
            client.wait_for_tool("one__echo", true).await;
            client.wait_for_tool("two__echo", true).await;
            let (rest_one, rest_two) =
                (gauge(&ground.one, CALLS).await, gauge(&ground.two, CALLS).await);
            let sleep = json!({ "ms": 3_600_000 });
            let kept = client.begin_call(20, "two__sleep", &sleep).await;
            let mut params = call_params(
                "one__long_running",
                &json!({ "duration_ms": 3_600_000, "steps": 1_000 }),
            );
            params["_meta"] = json!({ "progressToken": "t" });
            let cancelled = client.begin(21, "tools/call", params).await;
            until_gauge(&ground.one, CALLS, rest_one + 1.0).await;
            until_gauge(&ground.two, CALLS, rest_two + 1.0).await;
            client.cancel(21, cancelled).await;
            until_gauge(&ground.one, CALLS, rest_one).await;
            assert_eq!(gauge(&ground.two, CALLS).await, rest_two + 1.0, "the other's call ended");
            client.cancel(20, kept).await;
            until_gauge(&ground.two, CALLS, rest_two).await;
        }
    }
}

/// What a client answers to a question of a server.
fn reply(method: &str) -> Value {
    match method {
        "sampling/createMessage" => {
            let content = json!({ "type": "text", "text": "Bonjour" });
            json!({ "role": "assistant", "content": content, "model": "m", "stopReason": "endTurn" })
        }
        "elicitation/create" => {
            let content = json!({
                "name": "Ada", "color": "teal", "username": "ada", "email": "a@b.example",
                "context": "the sea",
            });
            json!({ "action": "accept", "content": content })
        }
        "roots/list" => json!({ "roots": [{ "uri": "file:///here", "name": "here" }] }),
        other => panic!("nobody asks {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_of_servers_are_answered_by_the_client_behind_the_call() {
    for protocol in ERAS {
        let ground = Ground::new(protocol, "");
        for client in ground.clients().await {
            client.wait_for_tool("one__echo", true).await;
            // Each request takes a connection of its own, so rounds are resumed across shards.
            for number in 0..CONNECTIONS {
                for (tool, arguments, questions, expected) in [
                    ("test_sampling", json!({ "prompt": "Greet" }), 1, vec!["Bonjour"]),
                    ("test_elicitation", json!({ "message": "Who?" }), 1, vec!["ada"]),
                    ("test_input_required_result_list_roots", json!({}), 1, vec!["file:///here"]),
                    (
                        "test_input_required_result_multi_round",
                        json!({}),
                        2,
                        vec!["Ada likes teal."],
                    ),
                    (
                        "test_input_required_result_multiple_inputs",
                        json!({}),
                        3,
                        vec!["Ada", "Bonjour", "file:///here"],
                    ),
                ] {
                    let params = call_params(&format!("one__{tool}"), &arguments);
                    let id = 100 + 10 * number;
                    let (answer, asked) = client.converse(id, "tools/call", params, reply).await;
                    let context = format!("{tool} of a {protocol} server to {client:?}: {answer}");
                    let text = text_of(&answer).unwrap_or_else(|| panic!("{context}"));
                    assert!(expected.iter().all(|part| text.contains(part)), "{context}");
                    assert_eq!(asked, questions, "{context}");
                }
            }
            let params = json!({ "name": "one__test_input_required_result_prompt" });
            let (answer, asked) = client.converse(900, "prompts/get", params, reply).await;
            assert!(answer["result"]["messages"].to_string().contains("the sea"), "{answer}");
            assert_eq!(asked, 1, "{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_is_worth_nothing_with_another_call_or_a_forged_state() {
    let ground = Ground::new("legacy", "");
    let client = Client::Modern(ground.gateway.listen);
    client.wait_for_tool("one__echo", true).await;
    let params = call_params("one__test_input_required_result_list_roots", &json!({}));
    let answer = client.ask(1, "tools/call", params.clone()).await;
    let state = answer["result"]["requestState"].as_str().expect("a state").to_owned();
    let questions = answer["result"]["inputRequests"].as_object().expect("questions");
    let key = questions.keys().next().expect("a question").clone();
    let further = |tool: &str, state: &str| {
        let mut params = call_params(&format!("one__{tool}"), &json!({}));
        params["requestState"] = json!(state);
        params["inputResponses"] = json!({});
        params["inputResponses"][&key] = reply("roots/list");
        params
    };
    let mut forged = state.clone();
    let last = forged.pop().expect("a state is not empty");
    forged.push(if last == 'A' { 'B' } else { 'A' });
    for (tool, state) in [
        ("test_input_required_result_list_roots", forged.as_str()),
        ("test_input_required_result_list_roots", ""),
        ("test_input_required_result_list_roots", "\u{7f}\"{"),
        ("test_input_required_result_capabilities", state.as_str()),
        ("echo", state.as_str()),
    ] {
        let answer = client.ask(2, "tools/call", further(tool, state)).await;
        assert_eq!(answer["error"]["code"], -32602, "{tool} with {state:?}: {answer}");
    }
    let right = further("test_input_required_result_list_roots", &state);
    let answer = client.ask(3, "tools/call", right.clone()).await;
    assert!(text_of(&answer).is_some_and(|text| text.contains("file:///here")), "{answer}");
    let answer = client.ask(4, "tools/call", right).await;
    assert_eq!(answer["error"]["code"], -32602, "a call that has ended goes on: {answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_shared_out_to_its_servers() {
    for protocol in ERAS {
        let ground = Ground::new(protocol, "");
        Client::Modern(ground.gateway.listen).wait_for_tool("two__echo", true).await;
        let session = Session::open(ground.gateway.listen, "2025-03-26").await.expect("a session");
        let echo =
            |id, server: &str| call(id, &format!("{server}__echo"), &json!({ "message": server }));
        let batch = json!([
            echo(1, "one"),
            call(2, "two__sleep", &json!({ "ms": 50 })),
            echo(3, "nobody"),
            echo(4, "two"),
        ]);
        let mut wire = Wire::connect(ground.gateway.listen).await.expect("connect");
        wire.send(&session.post(&batch)).await.expect("send the batch");
        assert!(wire.head().await.expect("a head").is_events());
        let mut answers = Vec::new();
        while let Some(message) = next_message(&mut wire).await {
            answers.push(message);
        }
        answers.sort_by_key(|answer| answer["id"].as_u64());
        let ids: Vec<_> = answers.iter().map(|answer| answer["id"].clone()).collect();
        assert_eq!(ids, [1, 2, 3, 4], "{answers:?}");
        for (at, server) in [(0, "one"), (3, "two")] {
            let text = text_of(&answers[at]).unwrap_or_default();
            assert!(text.ends_with(server), "{answers:?}");
        }
        assert!(text_of(&answers[1]).is_some(), "{answers:?}");
        assert_eq!(answers[2]["error"]["code"], -32602, "{answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_clients_session_ends_those_with_servers() {
    let ground = Ground::new("legacy", "");
    let rest_one = sessions_at_rest(&ground, &ground.one).await;
    let rest_two = gauge(&ground.two, SESSIONS).await;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = Client::legacy(ground.gateway.listen).await;
        client.call(1, "one__echo", &json!({ "message": "m" })).await;
        client.call(2, "two__echo", &json!({ "message": "m" })).await;
        clients.push(client);
    }
    until_gauge(&ground.one, SESSIONS, rest_one + CONNECTIONS as f64).await;
    until_gauge(&ground.two, SESSIONS, rest_two + CONNECTIONS as f64).await;
    for client in &clients {
        let Client::Legacy(session) = client else { unreachable!("all are legacy") };
        delete(session).await;
    }
    until_gauge(&ground.one, SESSIONS, rest_one).await;
    until_gauge(&ground.two, SESSIONS, rest_two).await;
}

async fn delete(session: &Session) {
    let mut wire = Wire::connect(session.address).await.expect("connect");
    let answer = wire.ask(&session.delete()).await.expect("an answer to DELETE");
    assert_eq!(answer.head.status, 200, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_nobody_uses_are_ended_and_opened_again() {
    let ground = Ground::new("legacy", "idle_session_ms = 1000\n");
    let rest = sessions_at_rest(&ground, &ground.one).await;
    for client in ground.clients().await {
        for _ in 0..2 {
            let answer = client.call(1, "one__echo", &json!({ "message": "again" })).await;
            assert!(text_of(&answer).is_some_and(|text| text.ends_with("again")), "{answer}");
            until_gauge(&ground.one, SESSIONS, rest).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_costs_its_own_calls_and_is_back_when_it_is_back() {
    for protocol in ERAS {
        let mut ground = Ground::new(protocol, "breaker_open_ms = 200\nrefresh_ms = 1000\n");
        for client in ground.clients().await {
            client.wait_for_tool("one__echo", true).await;
            client.wait_for_tool("two__echo", true).await;
            let (rest_one, rest_two) =
                (gauge(&ground.one, CALLS).await, gauge(&ground.two, CALLS).await);
            let mut lost = client.begin_call(30, "one__sleep", &json!({ "ms": 3_600_000 })).await;
            let mut kept = client.begin_call(31, "two__sleep", &json!({ "ms": 1_500 })).await;
            until_gauge(&ground.one, CALLS, rest_one + 1.0).await;
            until_gauge(&ground.two, CALLS, rest_two + 1.0).await;
            kill(&mut ground.one);
            let (_, answer) = stream_of(&mut lost).await;
            assert_failed(&answer, &format!("{protocol}, {client:?}, in flight"));
            let answer = client.call(32, "one__echo", &json!({ "message": "m" })).await;
            assert_failed(&answer, &format!("{protocol}, {client:?}, while it is down"));
            let answer = client.call(33, "two__echo", &json!({ "message": "m" })).await;
            assert!(text_of(&answer).is_some(), "the other server's answer: {answer}");
            let (_, answer) = stream_of(&mut kept).await;
            assert!(text_of(&answer).is_some(), "the other server's call: {answer}");

            ground.one = Launch::default().shards(1).listen(ground.one.listen).start();
            for _ in 0..CONNECTIONS {
                until("the server is used again", async || {
                    let answer = client.call(34, "one__echo", &json!({ "message": "m" })).await;
                    text_of(&answer).map(drop)
                })
                .await;
            }
            ground.gateway.assert_running();
        }
    }
}

/// Ends a server as a crash would.
fn kill(server: &mut Gateway) {
    let killed = Command::new("kill").args(["-KILL", &server.pid().to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()), "send SIGKILL to the server");
    server.wait_exit();
}

#[track_caller]
fn assert_failed(answer: &Value, context: &str) {
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    assert_eq!(answer["error"]["code"], -32000, "{context}: {answer}");
    assert!(message.starts_with("tool server one"), "{context}: {answer}");
}

/// An address where nobody listens.
fn deserted() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("a bound listener has an address")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_down_at_the_start_stop_nothing_and_come_in_later() {
    for protocol in ERAS {
        let (dead, good) = (deserted(), server());
        // This one takes connections and never says a word.
        let mute = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mute_address = mute.local_addr().expect("a bound listener has an address");
        let options = format!("prefix = \"always\"\nprotocol = \"{protocol}\"\n");
        let entries = [
            upstream("dead", &format!("http://{dead}/mcp"), &options),
            upstream("mute", &format!("http://{mute_address}/mcp"), &options),
            upstream("good", &good.url(), &options),
        ];
        let gateway = Launch::default().shards(2).config(&entries.concat()).start();
        for client in Client::of_both_eras(gateway.listen).await {
            for _ in 0..CONNECTIONS {
                let names = client.tool_names().await;
                assert!(names.iter().any(|name| name == "good__echo"), "{names:?}");
                assert!(names.iter().all(|name| name.starts_with("good__")), "{names:?}");
                let answer = client.call(1, "good__echo", &json!({ "message": "m" })).await;
                assert!(text_of(&answer).is_some(), "{answer}");
            }
        }
        let _came_late = Launch::default().shards(1).listen(dead).start();
        for client in Client::of_both_eras(gateway.listen).await {
            client.wait_for_tool("dead__echo", true).await;
            let answer = client.call(1, "dead__echo", &json!({ "message": "m" })).await;
            assert!(text_of(&answer).is_some(), "{answer}");
        }
    }
}

/// Beyond a thousand, calls were once refused that `in_flight_max` had let in; and the
/// subscription to the server's changes took the only connection for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_were_let_in_wait_for_a_connection() {
    const CALLS: u64 = 1_300;
    let server = server();
    let options = format!("connections_max = 1\nin_flight_max = {CALLS}\n");
    let config = upstream("one", &server.url(), &options);
    let gateway = Launch::default().shards(1).config(&config).start();
    let client = Client::Modern(gateway.listen);
    client.wait_for_tool("echo", true).await;
    // As long as this one lasts, all others wait.
    let first = client.begin_call(0, "sleep", &json!({ "ms": 300 })).await;
    let mut waiting = vec![first];
    for id in 1..CALLS {
        waiting.push(client.begin_call(id, "echo", &json!({ "message": "patience" })).await);
    }
    for (id, wire) in waiting.iter_mut().enumerate() {
        let answer = wire.answer().await.expect("an answer").json();
        assert!(answer["error"].is_null(), "call {id}: {answer}");
    }
}
