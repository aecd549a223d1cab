//! A real Rust client, rmcp, in both eras.
#![forbid(unsafe_code)]
#![expect(deprecated, reason = "what the newest revision deprecates is still served and tested")]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

#[path = "clients/rmcp.rs"]
mod rmcp_client;

use rmcp::ClientLifecycleMode;
use rmcp::model::{
    CallToolRequestParams, CallToolResult, LoggingLevel, ProtocolVersion, RequestMetaObject,
    ServerNotification, SetLevelRequestParams, SubscribeRequestParams, SubscriptionFilter,
};
use serde_json::{Value, json};
use tokio::time::timeout;

use harness::HANG;
use harness::cutter::Cutter;
use harness::gateway::{Gateway, Launch};
use harness::mcp::{Request, call, request};
use harness::wire::Wire;
use rmcp_client::{Client, Told, begin_call, outcome, tool};

const WATCHED: &str = "test://watched-resource";

/// A gateway, the relay before it and a client connected through both.
struct Setting {
    gateway: Gateway,
    cutter: Cutter,
    told: Told,
    client: Client,
}

async fn connect(lifecycle: ClientLifecycleMode) -> Setting {
    let gateway = Launch::default().config(Launch::SHORT_PAGES).start();
    let cutter = Cutter::start(gateway.listen).await;
    let (client, told) = rmcp_client::connect(cutter.url(), lifecycle).await;
    Setting { gateway, cutter, told, client }
}

fn text_of(result: &CallToolResult) -> String {
    let value = serde_json::to_value(result).expect("a result is JSON");
    value["content"][0]["text"].as_str().unwrap_or_default().to_owned()
}

async fn run_tool(client: &Client, params: CallToolRequestParams) -> String {
    let result = timeout(HANG, client.call_tool(params)).await.expect("an answer in time");
    text_of(&result.expect("the call succeeds"))
}

/// Lists everything; the tools come in several pages.
async fn list_everything(client: &Client) {
    let first = client.list_tools(None).await.expect("list tools");
    assert!(first.next_cursor.is_some(), "the tools came in one page: no pagination was shown");
    let tools = client.list_all_tools().await.expect("list all tools");
    let mut names: Vec<_> = tools.iter().map(|tool| tool.name.to_string()).collect();
    assert!(names.iter().any(|name| name == "echo"), "{names:?}");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), tools.len(), "a tool was listed twice");
    assert!(!client.list_all_resources().await.expect("list resources").is_empty());
    assert!(!client.list_all_resource_templates().await.expect("list templates").is_empty());
    assert!(!client.list_all_prompts().await.expect("list prompts").is_empty());
}

async fn call_concurrently(client: &Client) {
    let calls: Vec<_> = (0..100)
        .map(|index| {
            let peer = client.peer().clone();
            tokio::spawn(async move {
                let message = format!("call {index}");
                let result = peer.call_tool(tool("echo", &json!({ "message": message }))).await;
                let text = text_of(&result.expect("the call succeeds"));
                assert!(text.ends_with(&message), "{index}: {text}");
            })
        })
        .collect();
    for call in calls {
        timeout(HANG, call).await.expect("an answer in time").expect("an echo");
    }
}

/// Calls a tool by the way that asks for progress.
async fn call_with_progress(client: &Client, params: CallToolRequestParams) -> CallToolResult {
    outcome(begin_call(client, params).await).await.expect("the call succeeds")
}

async fn ask_the_client(client: &Client) {
    let text = run_tool(client, tool("test_sampling", &json!({ "prompt": "a riddle" }))).await;
    assert!(text.contains("answer to") && text.contains("a riddle"), "{text}");
    let text = run_tool(client, tool("test_elicitation", &json!({ "message": "who?" }))).await;
    assert!(text.contains("accept") && text.contains("ada@example.com"), "{text}");
}

/// Fails unless each value is as far from the one before as the first two are.
fn assert_gapless(progress: &[f64], steps: usize) {
    assert!(progress.len() >= steps, "progress was lost: {progress:?}");
    let stride = progress[1] - progress[0];
    let even = progress.windows(2).all(|pair| (pair[1] - pair[0] - stride).abs() < 1e-9);
    assert!(stride > 0.0 && even, "lost or doubled progress: {progress:?}");
}

/// What the session's id is, read off the wire: rmcp does not tell it.
async fn ask_outside(gateway: &Gateway, session: &str, message: &Value) -> (u16, Value) {
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    let post = Request::post(message)
        .header("mcp-session-id", session)
        .header("mcp-protocol-version", "2025-11-25");
    let answer = wire.ask(&post.bytes(gateway.listen)).await.expect("an answer");
    (answer.head.status, answer.json())
}

#[tokio::test(flavor = "multi_thread")]
async fn rmcp_uses_a_session_from_initialize_to_delete() {
    let Setting { gateway, cutter, told, client } = connect(ClientLifecycleMode::Initialize).await;
    let info = client.peer_info().expect("the server's answer to initialize");
    assert_eq!(info.protocol_version, ProtocolVersion::V_2025_11_25);

    list_everything(&client).await;
    call_concurrently(&client).await;
    call_with_progress(&client, CallToolRequestParams::new("test_tool_with_progress")).await;
    told.until("progress", |heard| heard.progress.len() >= 3).await;
    assert_eq!(told.read(|heard| heard.steps()), [0.0, 50.0, 100.0]);

    client.set_level(SetLevelRequestParams::new(LoggingLevel::Debug)).await.expect("set level");
    run_tool(&client, CallToolRequestParams::new("test_tool_with_logging")).await;
    told.until("log messages", |heard| heard.logs == 3).await;
    ask_the_client(&client).await;

    client.subscribe(SubscribeRequestParams::new(WATCHED)).await.expect("subscribe");
    run_tool(&client, CallToolRequestParams::new("test_trigger_resource_update")).await;
    told.until("an update", |heard| heard.updates.len() == 1).await;

    resume_after_a_cut(&client, &cutter, &told).await;
    run_tool(&client, CallToolRequestParams::new("test_reconnection")).await;

    let session = cutter.session_id().expect("the relay saw the session's id");
    let (status, _) = ask_outside(&gateway, &session, &request(1, "ping", &json!({}))).await;
    assert_eq!(status, 200, "the session lives before the client ends it");
    client.cancel().await.expect("end the client");
    let echo = call(2, "echo", &json!({ "message": "gone?" }));
    let (status, answer) = ask_outside(&gateway, &session, &echo).await;
    assert_eq!((status, answer["error"]["code"].as_i64()), (404, Some(-32001)), "{answer}");
}

/// Cuts a call and the standing stream in their middle; all comes once, in order.
async fn resume_after_a_cut(client: &Client, cutter: &Cutter, told: &Told) {
    told.note(|heard| {
        heard.progress.clear();
        heard.updates.clear();
    });
    let cut = async {
        told.until("the first progress", |heard| heard.progress.len() >= 2).await;
        assert!(cutter.cut() > 0, "there was nothing to cut");
    };
    let arguments = json!({ "duration_ms": 2000, "steps": 10 });
    let call = call_with_progress(client, tool("long_running", &arguments));
    let ((), _) = tokio::join!(cut, call);
    told.until("all progress", |heard| heard.progress.len() >= 10).await;
    assert_gapless(&told.read(|heard| heard.steps()), 10);
    run_tool(client, CallToolRequestParams::new("test_trigger_resource_update")).await;
    told.until("an update after the cut", |heard| !heard.updates.is_empty()).await;
    call_concurrently(client).await;
    assert_eq!(told.read(|heard| heard.updates.len()), 1, "an update came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn rmcp_uses_the_modern_era_by_discover() {
    let versions = vec![ProtocolVersion::V_2026_07_28];
    modern(ClientLifecycleMode::Discover { preferred_versions: versions }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rmcp_finds_the_modern_era_by_itself() {
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    modern(ClientLifecycleMode::Auto { preferred_versions, legacy_version: None }).await;
}

async fn modern(lifecycle: ClientLifecycleMode) {
    let Setting { gateway, cutter, told, client } = connect(lifecycle).await;
    list_everything(&client).await;
    call_concurrently(&client).await;
    call_with_progress(&client, CallToolRequestParams::new("test_tool_with_progress")).await;
    told.until("progress", |heard| heard.progress.len() >= 3).await;
    assert_eq!(told.read(|heard| heard.steps()), [0.0, 50.0, 100.0]);
    ask_the_client(&client).await;

    let mut logged = CallToolRequestParams::new("test_tool_with_logging");
    run_tool(&client, logged.clone()).await;
    assert_eq!(told.read(|heard| heard.logs), 0, "log messages came though none were asked for");
    let level = json!({ "io.modelcontextprotocol/logLevel": "debug" });
    let level = level.as_object().expect("an object").clone();
    logged.meta = Some(RequestMetaObject::from(level));
    run_tool(&client, logged).await;
    told.until("log messages", |heard| heard.logs == 3).await;

    listen_cut_and_listen_again(&client, &cutter).await;
    assert_eq!(cutter.session_id(), None, "the modern era has no sessions");
    client.cancel().await.expect("end the client");
    drop(gateway);
}

async fn listen_cut_and_listen_again(client: &Client, cutter: &Cutter) {
    let filter = SubscriptionFilter::builder().resource_subscriptions([WATCHED]).build();
    let mut cut = client.listen(filter.clone()).await.expect("listen");
    run_tool(client, CallToolRequestParams::new("test_trigger_resource_update")).await;
    let update = timeout(HANG, cut.next()).await.expect("an update in time").expect("an update");
    assert!(matches!(update, Some(ServerNotification::ResourceUpdatedNotification(_))));
    assert!(cutter.cut() > 0, "there was nothing to cut");
    let end = timeout(HANG, cut.next()).await.expect("the end in time");
    assert!(!matches!(end, Ok(Some(_))), "a cut stream brought {end:?}");

    let mut again = client.listen(filter).await.expect("listen again");
    run_tool(client, CallToolRequestParams::new("test_trigger_resource_update")).await;
    let update = timeout(HANG, again.next()).await.expect("an update in time").expect("an update");
    assert!(matches!(update, Some(ServerNotification::ResourceUpdatedNotification(_))));
    again.cancel().await.expect("close the stream");
}
