//! Any tool called as a task: of the embedded server, and of servers that know no tasks.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use serde_json::{Value, json};

use harness::client::{Client, answer_question, next_message, until};
use harness::gateway::{Gateway, Launch};
use harness::mcp::{MODERN, Request, request};
use harness::scripted_server::{
    Script, ScriptedServer, Step, begin_stream, done, error, result, send_json, stream_on, tool,
};
use harness::servers::{Kind, ReferenceServer, Stdio};
use harness::suite::{Scenarios, run_suite};
use harness::wire::Wire;

const RELATED: &str = "io.modelcontextprotocol/related-task";
const EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// A task that nobody has.
const NOBODYS: &str = "0123456789abcdef0123456789abcdef";

/// A gateway before one server, whose tools keep their names.
fn before(url: &str, shards: usize, more: &str) -> Gateway {
    let one = format!("[[upstream]]\nname = \"one\"\nurl = \"{url}\"\nprefix = \"never\"\n");
    Launch::default().shards(shards).config(&format!("{more}\n{one}")).start()
}

/// Calls a tool as a task; gives the task back.
async fn submit(client: &Client, tool: &str, arguments: Value, task: Value) -> Value {
    let params = json!({ "name": tool, "arguments": arguments, "task": task });
    let answer = client.ask(1, "tools/call", params).await;
    let task = answer["result"]["task"].clone();
    assert!(task["taskId"].is_string(), "{tool} did not become a task: {answer}");
    task
}

fn id_of(task: &Value) -> Value {
    json!({ "taskId": task["taskId"] })
}

/// What `tasks/get` says.
async fn look(client: &Client, task: &Value) -> Value {
    client.ask(2, "tasks/get", id_of(task)).await["result"].clone()
}

async fn until_status(client: &Client, task: &Value, status: &str) -> Value {
    let what = format!("{task} is {status}");
    until(&what, async || {
        let seen = look(client, task).await;
        (seen["status"] == status).then_some(seen)
    })
    .await
}

fn error_code(answer: &Value) -> i64 {
    answer["error"]["code"].as_i64().unwrap_or_else(|| panic!("no error: {answer}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_the_embedded_server_is_answered_at_once_and_fetched_later() {
    for shards in [1, 2] {
        let gateway = Launch::default().shards(shards).start();
        let client = Client::legacy(gateway.listen).await;
        let asked = json!({ "ttl": 60_000 });
        let task = submit(&client, "echo", json!({ "message": "later" }), asked).await;
        assert_eq!(task["ttl"], 60_000, "{task}");
        assert_eq!(task["pollInterval"], 1_000, "{task}");
        assert!(task["createdAt"].as_str().is_some_and(|at| at.ends_with('Z')), "{task}");
        let answer = client.ask(3, "tasks/result", id_of(&task)).await;
        assert_eq!(answer["result"]["content"][0]["text"], "later", "{answer}");
        assert_eq!(answer["result"]["_meta"][RELATED], id_of(&task), "{answer}");
        assert_eq!(answer["result"].get("resultType"), None, "{answer}");
        let seen = look(&client, &task).await;
        assert_eq!(seen["status"], "completed", "{seen}");
        // Again: a result is kept until the task's time is over.
        let again = client.ask(4, "tasks/result", id_of(&task)).await;
        assert_eq!(again["result"], answer["result"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_waited_for_and_a_cancelled_task_has_none() {
    let gateway = Launch::default().start();
    let client = Client::legacy(gateway.listen).await;
    let task = submit(&client, "sleep", json!({ "ms": 3_600_000 }), json!({})).await;
    assert_eq!(task["ttl"], 3_600_000, "{task}");
    assert_eq!(task["status"], "working", "{task}");
    let mut waiting = client.begin(5, "tasks/result", id_of(&task)).await;
    let cancelled = client.ask(6, "tasks/cancel", id_of(&task)).await;
    assert_eq!(cancelled["result"]["status"], "cancelled", "{cancelled}");
    let answer = waiting.answer().await.expect("an answer").json();
    assert!(error_code(&answer) < 0, "{answer}");
    let again = client.ask(7, "tasks/cancel", id_of(&task)).await;
    assert_eq!(error_code(&again), -32602, "a task that has ended is not cancelled: {again}");
    let late = client.ask(8, "tasks/result", id_of(&task)).await;
    assert_eq!(late["error"], answer["error"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_show_a_session_its_own_tasks_page_by_page() {
    const TASKS: usize = 105;
    let gateway = Launch::default().shards(2).start();
    let client = Client::legacy(gateway.listen).await;
    let mut made = Vec::new();
    for number in 0..TASKS {
        let arguments = json!({ "a": number, "b": 1 });
        made.push(submit(&client, "add", arguments, json!({})).await["taskId"].clone());
    }
    let (mut listed, mut params) = (Vec::new(), json!({}));
    loop {
        let page = client.ask(9, "tasks/list", params).await;
        let tasks = page["result"]["tasks"].as_array().unwrap_or_else(|| panic!("{page}"));
        listed.extend(tasks.iter().map(|task| task["taskId"].clone()));
        match page["result"]["nextCursor"].as_str() {
            Some(cursor) => params = json!({ "cursor": cursor }),
            None => break,
        }
        assert!(listed.len() < TASKS, "the list goes on and on");
    }
    assert_eq!(listed, made);
    let other = Client::legacy(gateway.listen).await;
    let none = other.ask(10, "tasks/list", json!({})).await;
    assert_eq!(none["result"], json!({ "tasks": [] }));
    // Who knows the id may ask.
    let seen = other.ask(11, "tasks/get", json!({ "taskId": made[0] })).await;
    assert_eq!(seen["result"]["taskId"], made[0], "{seen}");
    for cursor in [json!("x"), json!(7)] {
        let refused = client.ask(12, "tasks/list", json!({ "cursor": cursor })).await;
        assert_eq!(error_code(&refused), -32602, "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_a_task_is_refused() {
    let gateway = Launch::default().start();
    let client = Client::legacy(gateway.listen).await;
    for task in [json!(7), json!({ "ttl": "soon" }), json!({ "ttl": -1 })] {
        let params = json!({ "name": "echo", "arguments": { "message": "" }, "task": task });
        let refused = client.ask(1, "tools/call", params).await;
        assert_eq!(error_code(&refused), -32602, "{task}: {refused}");
    }
    let params = json!({ "name": "test_reconnection", "task": {} });
    let refused = client.ask(2, "tools/call", params).await;
    assert_eq!(error_code(&refused), -32601, "{refused}");
    let params = json!({ "name": "nobody", "task": {} });
    let refused = client.ask(3, "tools/call", params).await;
    assert_eq!(error_code(&refused), -32602, "{refused}");
    for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
        let refused = client.ask(4, method, json!({ "taskId": NOBODYS })).await;
        assert_eq!(error_code(&refused), -32602, "{method}: {refused}");
    }
    // The longest time there is.
    let task = submit(&client, "echo", json!({ "message": "" }), json!({ "ttl": null })).await;
    assert_eq!(task["ttl"], 86_400_000, "{task}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_forgotten_when_its_time_is_over() {
    let gateway = Launch::default().start();
    let client = Client::legacy(gateway.listen).await;
    let arguments = json!({ "ms": 3_600_000 });
    let task = submit(&client, "sleep", arguments, json!({ "ttl": 1_000 })).await;
    let mut waiting = client.begin(5, "tasks/result", id_of(&task)).await;
    let answer = waiting.answer().await.expect("an answer").json();
    assert_eq!(error_code(&answer), -32602, "{answer}");
    let gone = client.ask(6, "tasks/get", id_of(&task)).await;
    assert_eq!(error_code(&gone), -32602, "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_tasks_is_told_what_can_become_one() {
    let server = ScriptedServer::start(tools(), Box::new(|_| None)).await;
    let more = "[tasks]\nrequired_tools = [\"only\"]\n";
    let gateway = before(&server.url(), 2, more);
    let client = Client::legacy(gateway.listen).await;
    client.wait_for_tool("slow", true).await;
    let listed = client.list("tools").await;
    let support = |name: &str| {
        let tool = listed.iter().find(|tool| tool["name"] == name).expect("listed");
        tool["execution"]["taskSupport"].clone()
    };
    assert_eq!(support("slow"), "optional");
    assert_eq!(support("never"), "forbidden");
    assert_eq!(support("only"), "required");
    let refused = client.call(2, "only", &json!({})).await;
    assert_eq!(error_code(&refused), -32601, "{refused}");
    let task = submit(&client, "only", json!({}), json!({})).await;
    until_status(&client, &task, "completed").await;
    let params = json!({ "name": "never", "task": {} });
    let refused = client.ask(3, "tools/call", params).await;
    assert_eq!(error_code(&refused), -32601, "{refused}");
}

fn tools() -> Value {
    let mut never = tool("never", false);
    never["execution"] = json!({ "taskSupport": "forbidden" });
    let mut again = tool("again", false);
    again["annotations"] = json!({ "idempotentHint": true });
    json!([tool("slow", false), tool("only", false), never, again])
}

/// Calls of tools are held until the test lets them go.
fn held(answer: impl Fn(&Value) -> Value + Send + 'static) -> Script {
    Box::new(move |asked| {
        (asked.method() == "tools/call").then(|| vec![Step::Hold, send_json(&answer(asked.id()))])
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_knows_no_tasks_is_called_as_ever() {
    for shards in [1, 2] {
        let server = ScriptedServer::start(tools(), held(done)).await;
        let gateway = before(&server.url(), shards, "");
        let client = Client::legacy(gateway.listen).await;
        client.wait_for_tool("slow", true).await;
        let task = submit(&client, "slow", json!({ "x": 1 }), json!({})).await;
        let mut waiting = client.begin(5, "tasks/result", id_of(&task)).await;
        until("the server is called", async || (server.count("tools/call") == 1).then_some(()))
            .await;
        assert_eq!(look(&client, &task).await["status"], "working");
        server.release();
        let answer = waiting.answer().await.expect("an answer").json();
        assert_eq!(answer["result"]["content"][0]["text"], "done", "{answer}");
        let seen = server.seen();
        let called = seen.iter().find(|request| request.body["method"] == "tools/call");
        let params = &called.expect("called").body["params"];
        assert_eq!(params["arguments"], json!({ "x": 1 }), "{params}");
        assert_eq!(params.get("task"), None, "{params}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_fails_and_a_call_that_fails_are_told_apart() {
    let failing: Script = Box::new(|asked| {
        let answer = match asked.request.body["params"]["name"].as_str() {
            Some("slow") => {
                let content = json!([{ "type": "text", "text": "no" }]);
                result(asked.id(), &json!({ "content": content, "isError": true }))
            }
            Some("only") => error(asked.id(), -32050, "out of order"),
            _ => return None,
        };
        Some(vec![send_json(&answer)])
    });
    let server = ScriptedServer::start(tools(), failing).await;
    let gateway = before(&server.url(), 1, "");
    let client = Client::legacy(gateway.listen).await;
    client.wait_for_tool("slow", true).await;
    // MCP 2025-11-25, tasks: a result with isError makes the task failed, and is its result.
    let task = submit(&client, "slow", json!({}), json!({})).await;
    until_status(&client, &task, "failed").await;
    let answer = client.ask(5, "tasks/result", id_of(&task)).await;
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    let task = submit(&client, "only", json!({}), json!({})).await;
    let seen = until_status(&client, &task, "failed").await;
    assert_eq!(seen["statusMessage"], "out of order", "{seen}");
    let answer = client.ask(6, "tasks/result", id_of(&task)).await;
    assert_eq!(answer["error"], json!({ "code": -32050, "message": "out of order" }));
}

/// A modern client's `tasks/…`, or a call of it that may become a task.
async fn ask_modern(gateway: &Gateway, id: u64, method: &str, mut params: Value) -> Value {
    let name = params["name"].as_str().or_else(|| params["taskId"].as_str());
    let name = name.unwrap_or_default().to_owned();
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities":
            { "elicitation": {}, "extensions": { EXTENSION: {} } },
    });
    let post = Request::post(&request(id, method, &params))
        .header("mcp-protocol-version", MODERN)
        .header("mcp-method", method)
        .header("mcp-name", &name);
    let mut wire = Wire::connect(gateway.listen).await.expect("connect to the gateway");
    wire.ask(&post.bytes(gateway.listen)).await.expect("an answer").json()
}

async fn until_modern(gateway: &Gateway, task: &Value, status: &str) -> Value {
    let what = format!("{task} is {status}");
    until(&what, async || {
        let seen = ask_modern(gateway, 2, "tasks/get", json!({ "taskId": task })).await;
        (seen["result"]["status"] == status).then_some(seen["result"].clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_decides_which_calls_of_modern_clients_become_tasks() {
    let server = ScriptedServer::start(tools(), held(done)).await;
    let more = "[tasks]\nmodern_tools = [\"sl*\"]\n";
    let gateway = before(&server.url(), 2, more);
    let plain = Client::Modern(gateway.listen);
    plain.wait_for_tool("slow", true).await;
    let call = |name: &str| json!({ "name": name, "arguments": {} });
    let created = ask_modern(&gateway, 1, "tools/call", call("slow")).await["result"].clone();
    assert_eq!(created["resultType"], "task", "{created}");
    assert_eq!(created["ttlMs"], 3_600_000, "{created}");
    let id = &created["taskId"];
    let seen = ask_modern(&gateway, 2, "tasks/get", json!({ "taskId": id })).await;
    assert_eq!(seen["result"]["status"], "working", "{seen}");
    server.release();
    let ended = until_modern(&gateway, id, "completed").await;
    assert_eq!(ended["result"]["content"][0]["text"], "done", "{ended}");
    // Another tool, and a client that knows no tasks, are answered as ever.
    let answer = ask_modern(&gateway, 3, "tools/call", call("again")).await;
    assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
    let answer = plain.call(4, "slow", &json!({})).await;
    assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
    let refused = ask_modern(&gateway, 5, "tasks/get", json!({ "taskId": NOBODYS })).await;
    assert_eq!(error_code(&refused), -32602, "{refused}");
    // Cancelling what has ended changes nothing and is acknowledged.
    let answer = ask_modern(&gateway, 6, "tasks/cancel", json!({ "taskId": id })).await;
    assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
    until_modern(&gateway, id, "completed").await;
}

/// Asks its client two things before it answers with what it was told.
fn asking() -> Script {
    Box::new(|asked| {
        let question = |id: &str| {
            let params = json!({ "message": id, "requestedSchema": { "type": "object" } });
            json!({ "jsonrpc": "2.0", "id": id, "method": "elicitation/create", "params": params })
        };
        if asked.method() != "tools/call" {
            return None;
        }
        let (one, two) = (question("one"), question("two"));
        Some(vec![
            begin_stream(&[&one, &two]),
            Step::Hold,
            stream_on(&done(asked.id())),
            Step::Close,
        ])
    })
}

/// The answers that the server was given to its questions.
fn answers(server: &ScriptedServer) -> Vec<Value> {
    let seen = server.seen();
    let answers = seen.iter().filter(|it| it.body["method"].is_null() && !it.body["id"].is_null());
    answers.map(|answer| answer.body.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_waits_for_all_its_questions_to_be_answered() {
    let server = ScriptedServer::start(tools(), asking()).await;
    let more = "[tasks]\nmodern_tools = [\"slow\"]\n";
    let gateway = before(&server.url(), 2, more);
    Client::Modern(gateway.listen).wait_for_tool("slow", true).await;
    let params = json!({ "name": "slow", "arguments": {} });
    let created = ask_modern(&gateway, 1, "tools/call", params).await["result"].clone();
    let id = &created["taskId"];
    let seen = until_modern(&gateway, id, "input_required").await;
    let open: Vec<String> =
        seen["inputRequests"].as_object().expect("questions").keys().cloned().collect();
    assert_eq!(open.len(), 2, "{seen}");
    let update = |key: &str, text: &str| {
        let content = json!({ "said": text });
        json!({ "taskId": id, "inputResponses": { key: { "action": "accept", "content": content } } })
    };
    let taken = ask_modern(&gateway, 3, "tasks/update", update("nobody", "x")).await;
    assert_eq!(taken["result"]["resultType"], "complete", "{taken}");
    let taken = ask_modern(&gateway, 4, "tasks/update", update(&open[0], "first")).await;
    assert_eq!(taken["result"]["resultType"], "complete", "{taken}");
    let seen = ask_modern(&gateway, 5, "tasks/get", json!({ "taskId": id })).await;
    assert_eq!(seen["result"]["status"], "input_required", "{seen}");
    let left = seen["result"]["inputRequests"].as_object().expect("questions");
    assert_eq!(left.keys().collect::<Vec<_>>(), [&open[1]], "{seen}");
    assert!(answers(&server).is_empty(), "nothing is answered before all is");
    ask_modern(&gateway, 6, "tasks/update", update(&open[1], "second")).await;
    until("both are answered", async || (answers(&server).len() == 2).then_some(())).await;
    server.release();
    until_modern(&gateway, id, "completed").await;
    let refused = json!({ "taskId": id, "inputResponses": 7 });
    let refused = ask_modern(&gateway, 7, "tasks/update", refused).await;
    assert_eq!(error_code(&refused), -32602, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_result_is_asked_what_the_task_wants_to_know() {
    let server = ScriptedServer::start(tools(), asking()).await;
    let gateway = before(&server.url(), 2, "");
    let client = Client::legacy(gateway.listen).await;
    let Client::Legacy(session) = &client else { panic!("a session") };
    client.wait_for_tool("slow", true).await;
    let task = submit(&client, "slow", json!({}), json!({})).await;
    until_status(&client, &task, "input_required").await;
    let mut waiting = client.begin(5, "tasks/result", id_of(&task)).await;
    assert!(waiting.head().await.expect("a head").is_events());
    for _ in 0..2 {
        let question = next_message(&mut waiting).await.expect("a question");
        assert_eq!(question["method"], "elicitation/create", "{question}");
        assert_eq!(question["params"]["_meta"][RELATED], id_of(&task), "{question}");
        let accepted = json!({ "action": "accept", "content": {} });
        answer_question(session, &question["id"], &accepted).await;
    }
    until("both are answered", async || (answers(&server).len() == 2).then_some(())).await;
    server.release();
    let answer = next_message(&mut waiting).await.expect("an answer");
    assert_eq!(answer["result"]["content"][0]["text"], "done", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_will_not_answer_fails_its_task() {
    let server = ScriptedServer::start(tools(), asking()).await;
    let gateway = before(&server.url(), 1, "");
    let client = Client::legacy(gateway.listen).await;
    let Client::Legacy(session) = &client else { panic!("a session") };
    client.wait_for_tool("slow", true).await;
    let task = submit(&client, "slow", json!({}), json!({})).await;
    let mut waiting = client.begin(5, "tasks/result", id_of(&task)).await;
    assert!(waiting.head().await.expect("a head").is_events());
    let question = next_message(&mut waiting).await.expect("a question");
    let refusal = json!({
        "jsonrpc": "2.0", "id": question["id"], "error": { "code": -1, "message": "never" },
    });
    let mut back = Wire::connect(gateway.listen).await.expect("connect");
    session.ask(&mut back, &refusal).await.expect("taken");
    let seen = until_status(&client, &task, "failed").await;
    let why = seen["statusMessage"].as_str().expect("a reason");
    assert!(why.contains("refused") && why.contains("never"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_and_status_reach_the_session_that_made_the_task() {
    let script: Script = Box::new(|asked| {
        if asked.method() != "tools/call" {
            return None;
        }
        let token = &asked.request.body["params"]["_meta"]["progressToken"];
        let params = json!({ "progressToken": token, "progress": 1, "total": 4, "message": "on" });
        let progress =
            json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params });
        Some(vec![
            begin_stream(&[&progress]),
            Step::Hold,
            stream_on(&done(asked.id())),
            Step::Close,
        ])
    });
    let server = ScriptedServer::start(tools(), script).await;
    let gateway = before(&server.url(), 2, "");
    let client = Client::legacy(gateway.listen).await;
    client.wait_for_tool("slow", true).await;
    let mut stream = client.listen(None).await;
    let params = json!({
        "name": "slow", "arguments": {}, "task": {}, "_meta": { "progressToken": "mine" },
    });
    let answer = client.ask(1, "tools/call", params).await;
    let task = &answer["result"]["task"];
    let progress = next_of(&mut stream, "notifications/progress").await;
    assert_eq!(progress["params"]["progressToken"], "mine", "{progress}");
    assert_eq!(progress["params"]["progress"], 1, "{progress}");
    assert_eq!(progress["params"]["_meta"][RELATED], id_of(task), "{progress}");
    let status = next_of(&mut stream, "notifications/tasks/status").await;
    assert_eq!(status["params"]["status"], "working", "{status}");
    assert_eq!(status["params"]["statusMessage"], "on", "{status}");
    server.release();
    let status = next_of(&mut stream, "notifications/tasks/status").await;
    assert_eq!(status["params"]["status"], "completed", "{status}");
    assert_eq!(status["params"]["taskId"], task["taskId"], "{status}");
}

/// The next message of this method; others are let pass.
async fn next_of(stream: &mut Wire, method: &str) -> Value {
    loop {
        let message = next_message(stream).await.expect("the stream goes on");
        if message["method"] == method {
            return message;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_result_is_kept_and_one_that_is_too_large_is_not() {
    let script: Script = Box::new(|asked| {
        let text = "x".repeat(200_000);
        let content = json!([{ "type": "text", "text": text }]);
        let answer = result(asked.id(), &json!({ "content": content }));
        (asked.method() == "tools/call").then(|| vec![send_json(&answer)])
    });
    let server = ScriptedServer::start(tools(), script).await;
    for (max, status) in [(1_000_000, "completed"), (100_000, "failed")] {
        let gateway = before(&server.url(), 1, &format!("[tasks]\nresult_bytes_max = {max}\n"));
        let client = Client::legacy(gateway.listen).await;
        client.wait_for_tool("slow", true).await;
        let task = submit(&client, "slow", json!({}), json!({})).await;
        let seen = until_status(&client, &task, status).await;
        let answer = client.ask(5, "tasks/result", id_of(&task)).await;
        if status == "completed" {
            let text = answer["result"]["content"][0]["text"].as_str().expect("a text");
            assert_eq!(text.len(), 200_000);
        } else {
            let why = seen["statusMessage"].as_str().expect("a reason");
            assert!(why.contains("tasks.result_bytes_max"), "{why}");
            assert!(error_code(&answer) < 0, "{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_beyond_the_limit_wait_for_their_turn() {
    let server = ScriptedServer::start(tools(), held(done)).await;
    let gateway = before(&server.url(), 2, "[tasks]\nrunning_max = 2\n");
    let client = Client::legacy(gateway.listen).await;
    client.wait_for_tool("slow", true).await;
    let mut tasks = Vec::new();
    for _ in 0..5 {
        tasks.push(submit(&client, "slow", json!({}), json!({})).await);
    }
    until("two run", async || (server.count("tools/call") == 2).then_some(())).await;
    // One that waits is cancelled without having been begun.
    let cancelled = client.ask(5, "tasks/cancel", id_of(&tasks[4])).await;
    assert_eq!(cancelled["result"]["status"], "cancelled", "{cancelled}");
    assert_eq!(server.count("tools/call"), 2);
    server.release();
    for task in &tasks[..4] {
        until_status(&client, task, "completed").await;
    }
    assert_eq!(server.count("tools/call"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tasks_nothing_is_said_of_them() {
    let gateway = Launch::default().config("[tasks]\nenabled = false\n").start();
    let client = Client::legacy(gateway.listen).await;
    let params = json!({ "name": "echo", "arguments": { "message": "now" }, "task": {} });
    let answer = client.ask(1, "tools/call", params).await;
    assert_eq!(answer["result"]["content"][0]["text"], "now", "{answer}");
    let refused = client.ask(2, "tasks/list", json!({})).await;
    assert_eq!(error_code(&refused), -32601, "{refused}");
    let tools = client.list("tools").await;
    assert!(tools.iter().all(|tool| tool.get("execution").is_none()));
}

/// The suite's scenarios about tasks. The one about notifications is not written yet.
const SCENARIOS: [&str; 9] = [
    "tasks-lifecycle",
    "tasks-capability-negotiation",
    "tasks-wire-fields",
    "tasks-request-state-removal",
    "tasks-mrtr-input",
    "tasks-request-headers",
    "tasks-dispatch-and-envelope",
    "tasks-required-task-error",
    "tasks-mrtr-composition",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_finds_tasks_of_a_server_that_knows_none() {
    let server = ReferenceServer::start(Kind::NoTasks).await;
    let more = "[tasks]\n\
                modern_tools = [\"slow_*\", \"*_job\", \"confirm_*\", \"multi_*\"]\n\
                modern_tools_after_input = [\"test_tool_with_task\"]\n\
                required_tools = [\"failing_job\"]\n";
    let gateway = before(&server.url, 2, more);
    Client::Modern(gateway.listen).wait_for_tool("slow_compute", true).await;
    for scenario in SCENARIOS {
        let name = format!("no-tasks-{scenario}");
        let run = run_suite(&gateway.url(), Scenarios::One(scenario), MODERN, &name).await;
        let failed: Vec<_> = run.checks.iter().filter(|(_, it)| *it != "SUCCESS").collect();
        assert!(failed.is_empty() && run.passed() > 0, "{scenario}: {failed:?}\n{}", run.summary());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_on_standard_streams_is_called_for_tasks() {
    for sharing in ["session", "shared"] {
        let words: Vec<String> =
            Stdio::Legacy.command().iter().map(|word| format!("{word:?}")).collect();
        let command = format!("command = [{}]\nsharing = \"{sharing}\"", words.join(", "));
        let one = format!("[[upstream]]\nname = \"one\"\n{command}\nprefix = \"never\"\n");
        let gateway = Launch::default().shards(2).config(&one).start();
        let client = Client::legacy(gateway.listen).await;
        client.wait_for_tool("test_simple_text", true).await;
        // On both shards: the child is kept by one of them.
        for _ in 0..2 {
            let task = submit(&client, "test_simple_text", json!({}), json!({})).await;
            until_status(&client, &task, "completed").await;
            let answer = client.ask(5, "tasks/result", id_of(&task)).await;
            assert!(answer["result"]["content"][0]["text"].is_string(), "{sharing}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_does_not_wait_for_tasks() {
    let mut gateway = Launch::default().shards(2).start();
    let client = Client::legacy(gateway.listen).await;
    let task = submit(&client, "sleep", json!({ "ms": 3_600_000 }), json!({})).await;
    let mut waiting = client.begin(5, "tasks/result", id_of(&task)).await;
    // It is waited for, wherever the request is by now.
    assert_eq!(look(&client, &task).await["status"], "working");
    gateway.terminate();
    let answer = waiting.answer().await.expect("an answer");
    assert_eq!(error_code(&answer.json()), -32000, "{answer:?}");
    assert!(gateway.wait_exit().success());
}
