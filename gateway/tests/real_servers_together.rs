//! Real tool servers together behind one gateway, as a person has them: npm's
//! `server-everything`, `server-filesystem` and `server-memory` over stdio, and one of the
//! Python SDK over HTTP. Every test is done by clients of both eras, the tests' own and rmcp.
//!
//! Each server records what it receives, so that the tests know what reached whom.
#![forbid(unsafe_code)]
#![expect(deprecated, reason = "what the newest revision deprecates is still served and tested")]

#[path = "real_servers/any_client.rs"]
mod any_client;
#[path = "real_servers/ground.rs"]
mod ground;
#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;
#[path = "clients/rmcp.rs"]
#[allow(dead_code, reason = "every test binary uses its own part of the client")]
mod rmcp_client;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use any_client::{AnyClient, Running};
use ground::{Ground, NOTES, Which};
use harness::client::{Client, next_message, until};
use harness::mcp::text_of;
use harness::record::Received;

/// How many tools each server offers to a client that can be asked everything.
const TOOLS: [(Which, usize); 4] =
    [(Which::Everything, 13), (Which::Filesystem, 14), (Which::Memory, 9), (Which::Python, 8)];
/// All but one.
const OVER_STDIO: [Which; 3] = [Which::Everything, Which::Filesystem, Which::Memory];
/// The steps of a long call of `server-everything`: about ten a second.
const STEPS: u64 = 36_000;

/// How many tools these servers offer together.
fn tools_of(servers: &[Which]) -> usize {
    TOOLS.iter().filter(|(server, _)| servers.contains(server)).map(|(_, count)| count).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_tools_of_four_servers_are_listed_as_one() {
    let ground = Ground::start().await;
    for (server, count) in TOOLS {
        assert_eq!(ground.tools_of(server).await, count as f64, "tools of {server:?}");
    }
    for (who, client) in ground.clients().await {
        let names = client.tool_names().await;
        let unique: BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len(), "{who}: a name came twice: {names:?}");
        assert_eq!(names.len(), tools_of(&Which::ALL), "{who}: {names:?}");
        // Two have a tool of this name; nothing else collides.
        assert!(!names.iter().any(|name| name == "echo"), "{who}: {names:?}");
        let prefixed: BTreeSet<_> = names.iter().filter(|name| name.contains("__")).collect();
        assert_eq!(Vec::from_iter(prefixed), ["everything__echo", "python__echo"], "{who}");
        for (tool, expected) in [("everything__echo", "Echo: hello"), ("python__echo", "hello")] {
            let answer = client.call(tool, &json!({ "message": "hello" })).await;
            assert_eq!(text_of(&answer), Some(expected), "{who}, {tool}: {answer}");
        }
        for server in Which::ALL {
            assert_eq!(ground.ask(&client, server).await, Ok(()), "{who}, {server:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_read_and_written_within_bounds_only() {
    let ground = Ground::start().await;
    let notes = ground.open_file("notes.txt");
    for (who, client) in ground.clients().await {
        // A session's first call: the server asks for roots meanwhile, which not all have.
        let missing = json!({ "path": ground.open_file("missing.txt") });
        let answer = client.begin("read_text_file", &missing).await.answer().await;
        let text = text_of(&answer).unwrap_or_default();
        assert!(text.contains("ENOENT"), "{who}: {answer}");

        let read = client.result("read_text_file", &json!({ "path": notes })).await;
        assert_eq!(read["content"], NOTES, "{who}");

        let written = ground.open_file(&format!("{who}.txt"));
        let text = format!("Written by {who}: \"quotes\", \u{e9}\u{2713} and\nlines.\n");
        client.result("write_file", &json!({ "path": written, "content": text })).await;
        assert_eq!(fs::read_to_string(&written).expect("the file is there"), text, "{who}");
        let both = json!({ "paths": [notes, written] });
        let read = client.result("read_multiple_files", &both).await.to_string();
        assert!(
            read.contains("Real files") && read.contains(&format!("Written by {who}")),
            "{read}"
        );
        let directory = notes.parent().expect("it lies in a directory");
        let listed = client.result("list_directory", &json!({ "path": directory })).await;
        assert!(listed.to_string().contains(&format!("[FILE] {who}.txt")), "{who}: {listed}");

        for hidden in
            [ground.secret_file(), ground.open_file("../secret.txt"), "/etc/passwd".into()]
        {
            let answer = client.call("read_text_file", &json!({ "path": hidden })).await;
            assert_eq!(answer["result"]["isError"], true, "{who}, {hidden:?}: {answer}");
            let text = text_of(&answer).unwrap_or_default();
            assert!(text.contains("Access denied"), "{who}, {hidden:?}: {answer}");
        }
    }
}

/// Two entities and what is between them, whose names begin with `who`.
fn part_of_graph(who: &str) -> (Value, Value) {
    let entity = |name: &str, about: &str| json!({ "name": format!("{who} {name}"), "entityType": "thing", "observations": [about] });
    let entities = json!([entity("gateway", "forwards calls"), entity("server", "answers them")]);
    let ends = (format!("{who} gateway"), format!("{who} server"));
    let relations = json!([{ "from": ends.0, "to": ends.1, "relationType": "asks" }]);
    (entities, relations)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_knowledge_graph_is_kept_over_calls_and_clients() {
    let ground = Ground::start().await;
    let clients = ground.clients().await;
    let (mut entities, mut relations) = (Vec::new(), Vec::new());
    for (who, client) in &clients {
        let (new_entities, new_relations) = part_of_graph(who);
        let (create, relate) =
            (json!({ "entities": new_entities }), json!({ "relations": new_relations }));
        assert_eq!(client.result("create_entities", &create).await, create, "{who}");
        assert_eq!(client.result("create_relations", &relate).await, relate, "{who}");
        entities.extend_from_slice(new_entities.as_array().expect("a list"));
        relations.extend_from_slice(new_relations.as_array().expect("a list"));
        // What is known already is not added again.
        assert_eq!(client.result("create_entities", &create).await["entities"], json!([]), "{who}");
        assert_eq!(
            client.result("create_relations", &relate).await["relations"],
            json!([]),
            "{who}"
        );
        let found = client.result("search_nodes", &json!({ "query": format!("{who} gate") })).await;
        assert_eq!(found["entities"], json!([new_entities[0]]), "{who}");
    }
    let expected = json!({ "entities": entities, "relations": relations });
    for (who, client) in &clients {
        // Reading twice shows that reading changes nothing.
        for _ in 0..2 {
            assert_eq!(client.result("read_graph", &json!({})).await, expected, "{who}");
        }
    }
}

/// Begins a call that lasts an hour and waits until its server has it. The last value says
/// what the server was sent. `mark` tells it from all other calls.
async fn begin_long<'c>(
    ground: &Ground,
    client: &'c AnyClient,
    server: Which,
    mark: u64,
) -> (Running<'c>, Received) {
    let (tool, argument, value, arguments) = match server {
        Which::Everything => {
            let seconds = 3_600 + mark;
            let arguments = json!({ "duration": seconds, "steps": STEPS });
            ("trigger-long-running-operation", "duration", seconds, arguments)
        }
        Which::Python => {
            let ms = 3_600_000 + mark;
            ("sleep", "ms", ms, json!({ "ms": ms, "label": mark.to_string() }))
        }
        Which::Filesystem | Which::Memory => panic!("{server:?} has no long call"),
    };
    let running = client.begin(tool, &arguments).await;
    (running, ground.record(server).wait_for_call(argument, &json!(value)).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_comes_while_the_call_runs() {
    let ground = Ground::start().await;
    for (mark, (who, client)) in ground.clients().await.iter().enumerate() {
        // It would take an hour to its end: what comes, comes while it runs.
        let (mut long, _) = begin_long(&ground, client, Which::Everything, mark as u64).await;
        for step in 1..=3 {
            assert_eq!(long.progress().await, f64::from(step), "{who}");
        }
        // Others are served meanwhile, and the call goes on.
        for server in Which::ALL {
            assert_eq!(ground.ask(client, server).await, Ok(()), "{who}, {server:?}");
        }
        assert_eq!(long.progress().await, 4.0, "{who}");
        long.cancel().await;

        let short = json!({ "duration": 1, "steps": 4 });
        let mut short = client.begin("trigger-long-running-operation", &short).await;
        for step in 1..=4 {
            assert_eq!(short.progress().await, f64::from(step), "{who}");
        }
        let answer = short.answer().await;
        assert!(text_of(&answer).is_some_and(|text| text.contains("completed")), "{who}: {answer}");
    }
}

/// What a server's record shows of the cancellation of a call that it received.
fn cancellation_of(call: &Received) -> (Value, Value) {
    (call.receiver.clone(), call.message["id"].clone())
}

/// Fails unless the servers have received these cancellations and no others, though each
/// has received something since.
async fn assert_cancelled(
    ground: &Ground,
    client: &AnyClient,
    expected: &[(Which, (Value, Value))],
    context: &str,
) {
    let of = |server: Which| -> Vec<_> {
        let own = expected.iter().filter(|(whose, _)| *whose == server);
        own.map(|(_, cancellation)| cancellation.clone()).collect()
    };
    for server in Which::ALL {
        until(&format!("{context}: {server:?} received {:?}", of(server)), async || {
            (ground.record(server).cancellations().len() >= of(server).len()).then_some(())
        })
        .await;
    }
    for server in Which::ALL {
        assert_eq!(ground.ask(client, server).await, Ok(()), "{context}, {server:?}");
    }
    for server in Which::ALL {
        assert_eq!(ground.record(server).cancellations(), of(server), "{context}, {server:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_reaches_the_one_call_it_is_for() {
    let ground = Ground::start().await;
    let (mut expected, mut labels) = (Vec::new(), Vec::new());
    let mut marks = 0..;
    for (who, client) in ground.clients().await {
        for server in [Which::Everything, Which::Python] {
            let context = format!("{who}, {server:?}");
            let mark = marks.next().expect("there is no end");
            let (given_up, first) = begin_long(&ground, &client, server, mark).await;
            let (mut kept, second) = begin_long(&ground, &client, server, 1_000 + mark).await;
            given_up.cancel().await;
            expected.push((server, cancellation_of(&first)));
            assert_cancelled(&ground, &client, &expected, &context).await;
            if server == Which::Python {
                labels.push(mark.to_string());
                // It does not only know of it: that call has ended, and the other has not.
                until(&format!("{context}: the call has ended"), async || {
                    let report = client.call("report", &json!({})).await;
                    let report = text_of(&report).map(serde_json::from_str::<Value>)?.ok()?;
                    (report["cancelled"] == json!(labels) && report["sleeping"] == 1).then_some(())
                })
                .await;
                labels.push((1_000 + mark).to_string());
            } else {
                for step in 1..=10 {
                    assert_eq!(kept.progress().await, f64::from(step), "{context}");
                }
            }
            kept.cancel().await;
            expected.push((server, cancellation_of(&second)));
            assert_cancelled(&ground, &client, &expected, &context).await;
        }
    }
}

/// Begins a call that its server will not answer before it is killed; waits until it has it.
async fn begin_doomed<'c>(
    ground: &Ground,
    client: &'c AnyClient,
    victim: Which,
    mark: u64,
) -> Running<'c> {
    let (tool, argument, value) = match victim {
        Which::Everything | Which::Python => {
            return begin_long(ground, client, victim, mark).await.0;
        }
        Which::Filesystem => {
            let endless = ground.open_file(&format!("endless-{mark}"));
            Ground::make_endless(&endless);
            ("read_text_file", "path", json!(endless))
        }
        Which::Memory => {
            fs::rename(ground.graph_file(), ground.open_file("graph")).expect("put the graph away");
            Ground::make_endless(&ground.graph_file());
            ("search_nodes", "query", json!(mark.to_string()))
        }
    };
    let running = client.begin(tool, &json!({ argument: value })).await;
    ground.record(victim).wait_for_call(argument, &value).await;
    running
}

/// Begins calls of two seconds at the servers that are not killed and have such.
async fn begin_kept<'c>(client: &'c AnyClient, victim: Which) -> Vec<Running<'c>> {
    let mut kept = Vec::new();
    if victim != Which::Everything {
        let arguments = json!({ "duration": 2, "steps": 4 });
        kept.push(client.begin("trigger-long-running-operation", &arguments).await);
    }
    if victim != Which::Python {
        let arguments = json!({ "duration_ms": 2_000, "steps": 4 });
        kept.push(client.begin("long_running", &arguments).await);
    }
    kept
}

#[track_caller]
fn assert_blamed(answer: &Value, server: Which, context: &str) {
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    let named = message.starts_with(&format!("tool server {}", server.name()));
    assert!(named && answer["error"]["code"] == -32_000, "{context}: {answer}");
}

/// One outage of one server, from the middle of a call to its return.
async fn outage(
    ground: &mut Ground,
    victim: Which,
    (who, client): (&str, &AnyClient),
    bystander: &AnyClient,
    mark: u64,
) {
    let context = format!("{who}, {victim:?}");
    let names = client.tool_names().await;
    let graph = client.result("read_graph", &json!({})).await;
    let mut kept = begin_kept(client, victim).await;
    let doomed = begin_doomed(ground, client, victim, mark).await;
    for running in &mut kept {
        running.progress().await;
    }
    ground.kill(victim);
    if victim == Which::Memory {
        fs::rename(ground.open_file("graph"), ground.graph_file()).expect("put the graph back");
    }
    let (answer, ()) =
        tokio::join!(doomed.answer(), others_answer(ground, [client, bystander], victim));
    assert_blamed(&answer, victim, &context);
    let evidence = if victim == Which::Python { "connection" } else { "signal 9" };
    assert!(answer.to_string().contains(evidence), "{context}: {answer}");
    assert_eq!(client.tool_names().await, names, "{context}: the list of tools");
    if victim == Which::Python {
        // Over stdio the gateway starts it again; here nobody has done so yet.
        let answer = ground.ask(client, victim).await.expect_err("it is down");
        assert_blamed(&answer, victim, &context);
        others_answer(ground, [client, bystander], victim).await;
        assert_eq!(client.tool_names().await, names, "{context}: the list of tools");
        ground.restart_python().await;
    }
    for somebody in [client, bystander] {
        ground.until_back(somebody, victim).await;
    }
    for running in kept {
        let answer = running.answer().await;
        assert!(text_of(&answer).is_some(), "{context}: another server's call: {answer}");
    }
    assert_eq!(client.tool_names().await, names, "{context}: the list of tools");
    assert_eq!(client.result("read_graph", &json!({})).await, graph, "{context}: the graph");
}

/// Fails unless all servers but one answer these clients, several times.
async fn others_answer(ground: &Ground, clients: [&AnyClient; 2], victim: Which) {
    for _ in 0..4 {
        for client in clients {
            for server in Which::ALL.into_iter().filter(|server| *server != victim) {
                assert_eq!(ground.ask(client, server).await, Ok(()), "{server:?}, not {victim:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_mid_call_costs_that_call_and_returns_by_itself() {
    let mut ground = Ground::start().await;
    let clients = ground.clients().await;
    let bystander = ground.clients().await;
    let listening = Client::legacy(ground.gateway.listen).await;
    let mut heard = listening.listen(None).await;
    let (entities, _) = part_of_graph("lasting");
    clients[0].1.result("create_entities", &json!({ "entities": entities })).await;
    let mut marks = 0..;
    for victim in Which::ALL {
        for ((who, client), (_, bystander)) in clients.iter().zip(&bystander) {
            let mark = marks.next().expect("there is no end");
            outage(&mut ground, victim, (who, client), bystander, mark).await;
        }
    }
    ground.gateway.assert_running();
    // What is offered never changed, so nobody is told that it did.
    let told = heard.event_within(Duration::from_millis(100)).await;
    assert!(told.is_none_or(|event| event.data.is_empty()), "told of a change");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_late_is_told_of_and_nobody_waits_for_it() {
    let mut ground = Ground::start_without_python().await;
    let clients = ground.clients().await;
    let listening = Client::of_both_eras(ground.gateway.listen).await;
    let [legacy, modern] = &listening;
    let heard = [legacy.listen(None).await, modern.listen(None).await];
    for (who, client) in &clients {
        let names = client.tool_names().await;
        assert_eq!(names.len(), tools_of(&OVER_STDIO), "{who}: {names:?}");
        assert!(names.iter().any(|name| name == "echo"), "{who}: nothing collides: {names:?}");
        let missing = ground.ask(client, Which::Python).await.expect_err("it is down");
        assert_eq!(missing["error"]["code"], -32_000, "{who}: {missing}");
        let message = missing["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("tool server python, which may have it"), "{who}: {missing}");
        for server in OVER_STDIO {
            assert_eq!(ground.ask(client, server).await, Ok(()), "{who}, {server:?}");
        }
    }
    ground.restart_python().await;
    for (client, mut stream) in listening.iter().zip(heard) {
        let mut names = Vec::new();
        while !names.iter().any(|name| name == "python__echo") {
            let told = next_message(&mut stream).await.expect("the stream goes on");
            assert_eq!(told["method"], "notifications/tools/list_changed", "{told}");
            names = client.tool_names().await;
        }
        assert_eq!(names.len(), tools_of(&Which::ALL), "{names:?}");
    }
    for (who, client) in &clients {
        ground.until_back(client, Which::Python).await;
        // Who does not listen may keep a list for a while, but not long one that lacked a server.
        until(&format!("{who} lists all tools"), async || {
            (client.tool_names().await.len() == tools_of(&Which::ALL)).then_some(())
        })
        .await;
    }
}
