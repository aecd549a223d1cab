//! Clients of both eras, the tests' own and a real SDK's, with one face.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rmcp::model::ProtocolVersion;
use rmcp::service::{RequestHandle, ServiceError};
use rmcp::{ClientLifecycleMode, RoleClient};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::HANG;
use crate::harness::client::{Client, answer_question, next_message};
use crate::harness::gateway::Gateway;
use crate::harness::mcp::call_with_progress;
use crate::harness::wire::{Head, Wire};
use crate::rmcp_client::{self, Told, begin_call, outcome, tool};

const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// A client.
pub(crate) enum AnyClient {
    /// The tests' own.
    Own(OwnClient),
    /// rmcp.
    Sdk(SdkClient),
}

/// The tests' own client. It has roots, which servers ask for when a session begins.
pub(crate) struct OwnClient {
    client: Client,
    /// The result of `roots/list`.
    roots: Value,
    last_id: AtomicU64,
}

/// rmcp and what it has been told.
pub(crate) struct SdkClient {
    client: rmcp_client::Client,
    told: Told,
}

/// A call under way.
pub(crate) enum Running<'c> {
    /// Of the tests' own client.
    Own(OwnCall<'c>),
    /// Of rmcp.
    Sdk(SdkCall<'c>),
}

/// A call and the connection that it alone has.
pub(crate) struct OwnCall<'c> {
    own: &'c OwnClient,
    id: u64,
    wire: Wire,
    head: Option<Head>,
}

/// A call and how much of its progress has been looked at.
pub(crate) struct SdkCall<'c> {
    handle: RequestHandle<RoleClient>,
    told: &'c Told,
    seen: usize,
}

impl AnyClient {
    /// One of each kind and era, with the words that name them. Those that have roots have
    /// this directory.
    pub(crate) async fn of_all_kinds(
        gateway: &Gateway,
        root: &Path,
    ) -> [(&'static str, AnyClient); 4] {
        let roots = json!({ "roots": [{ "uri": format!("file://{}", root.display()) }] });
        let own = |client| {
            let (roots, last_id) = (roots.clone(), AtomicU64::new(1_000));
            AnyClient::Own(OwnClient { client, roots, last_id })
        };
        let [legacy, modern] = Client::of_both_eras(gateway.listen).await.map(own);
        let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
        let discover = ClientLifecycleMode::Discover { preferred_versions };
        [
            ("own-legacy", legacy),
            ("own-modern", modern),
            ("rmcp-legacy", AnyClient::sdk(gateway, ClientLifecycleMode::Initialize).await),
            ("rmcp-modern", AnyClient::sdk(gateway, discover).await),
        ]
    }

    async fn sdk(gateway: &Gateway, lifecycle: ClientLifecycleMode) -> AnyClient {
        let (client, told) = rmcp_client::connect(gateway.url(), lifecycle).await;
        AnyClient::Sdk(SdkClient { client, told })
    }

    /// The names of all tools, in the order of listing.
    pub(crate) async fn tool_names(&self) -> Vec<String> {
        match self {
            AnyClient::Own(own) => own.client.tool_names().await,
            AnyClient::Sdk(sdk) => {
                let tools = timeout(HANG, sdk.client.list_all_tools()).await.expect("in time");
                let tools = tools.expect("list all tools").into_iter();
                tools.map(|tool| tool.name.to_string()).collect()
            }
        }
    }

    /// Calls a tool; returns the `result` or the `error` under its name.
    pub(crate) async fn call(&self, name: &str, arguments: &Value) -> Value {
        match self {
            AnyClient::Own(own) => own.call(name, arguments).await,
            AnyClient::Sdk(sdk) => {
                let result = sdk.client.call_tool(tool(name, arguments));
                answer_of(timeout(HANG, result).await.expect("an answer in time"))
            }
        }
    }

    /// Calls a tool that has nothing to complain of; returns its structured content, or the
    /// text of its first block where there is none.
    pub(crate) async fn result(&self, name: &str, arguments: &Value) -> Value {
        let answer = self.call(name, arguments).await;
        let result = &answer["result"];
        assert!(result.is_object() && result["isError"] != true, "{name}: {answer}");
        let structured = result.get("structuredContent");
        structured.unwrap_or(&result["content"][0]["text"]).clone()
    }

    /// Begins a call that asks for progress.
    pub(crate) async fn begin(&self, name: &str, arguments: &Value) -> Running<'_> {
        match self {
            AnyClient::Own(own) => {
                let id = own.next_id();
                let mut request = call_with_progress(id, name, arguments, &token_of(id));
                // By this way a modern client could not be asked: it would have to call again.
                request["params"]["_meta"][CAPABILITIES] = json!({});
                let wire = own.client.begin(id, "tools/call", request["params"].clone()).await;
                Running::Own(OwnCall { own, id, wire, head: None })
            }
            AnyClient::Sdk(sdk) => {
                let handle = begin_call(&sdk.client, tool(name, arguments)).await;
                Running::Sdk(SdkCall { handle, told: &sdk.told, seen: 0 })
            }
        }
    }
}

impl OwnClient {
    async fn call(&self, name: &str, arguments: &Value) -> Value {
        let params = json!({ "name": name, "arguments": arguments });
        let reply = |method: &str| self.reply(method);
        let (answer, _) = self.client.converse(self.next_id(), "tools/call", params, reply).await;
        answer
    }

    /// What the client answers to a question.
    fn reply(&self, method: &str) -> Value {
        assert_eq!(method, "roots/list", "nothing else is asked here");
        self.roots.clone()
    }

    /// Leaves room for the ids of further rounds.
    fn next_id(&self) -> u64 {
        self.last_id.fetch_add(100, Ordering::Relaxed)
    }
}

fn token_of(id: u64) -> String {
    format!("progress of {id}")
}

fn answer_of(outcome: Result<rmcp::model::CallToolResult, ServiceError>) -> Value {
    match outcome {
        Ok(result) => json!({ "result": result }),
        Err(ServiceError::McpError(error)) => json!({ "error": error }),
        Err(other) => panic!("a call was not answered: {other}"),
    }
}

impl Running<'_> {
    /// Waits for the next progress notification.
    pub(crate) async fn progress(&mut self) -> f64 {
        match self {
            Running::Own(call) => call.progress().await,
            Running::Sdk(call) => call.progress().await,
        }
    }

    /// Waits for the `result` or the `error`.
    pub(crate) async fn answer(self) -> Value {
        match self {
            Running::Own(call) => call.answer().await,
            Running::Sdk(SdkCall { handle, .. }) => answer_of(outcome(handle).await),
        }
    }

    /// Gives the call up.
    pub(crate) async fn cancel(self) {
        match self {
            Running::Own(OwnCall { own, id, wire, .. }) => own.client.cancel(id, wire).await,
            Running::Sdk(SdkCall { handle, .. }) => {
                handle.cancel(None).await.expect("send the cancellation");
            }
        }
    }
}

impl OwnCall<'_> {
    async fn progress(&mut self) -> f64 {
        let mut notice = self.message().await;
        // Servers log what they like.
        while notice["method"] == "notifications/message" {
            notice = self.message().await;
        }
        assert_eq!(notice["method"], "notifications/progress", "{notice}");
        assert_eq!(notice["params"]["progressToken"], token_of(self.id), "{notice}");
        notice["params"]["progress"].as_f64().expect("a number")
    }

    async fn answer(mut self) -> Value {
        loop {
            let message = self.message().await;
            if message["method"].is_null() {
                assert_eq!(message["id"], self.id, "{message}");
                return message;
            }
        }
    }

    /// The next message, but for questions, which are answered.
    async fn message(&mut self) -> Value {
        if self.head.is_none() {
            self.head = Some(self.wire.head().await.expect("a head"));
        }
        if !self.head.as_ref().is_some_and(Head::is_events) {
            let body = self.wire.rest().await.expect("a body");
            return serde_json::from_slice(&body).expect("JSON");
        }
        loop {
            let message = next_message(&mut self.wire).await.expect("the stream has an answer");
            match (&self.own.client, message["method"].as_str()) {
                (Client::Legacy(session), Some(method)) if !message["id"].is_null() => {
                    let result = self.own.reply(method);
                    answer_question(session, &message["id"], &result).await;
                }
                (Client::Legacy(_) | Client::Modern(_), _) => return message,
            }
        }
    }
}

impl SdkCall<'_> {
    async fn progress(&mut self) -> f64 {
        let (token, seen) = (&self.handle.progress_token, self.seen);
        let own = |heard: &rmcp_client::Heard| {
            let own = heard.progress.iter().filter(|notice| notice.progress_token == *token);
            own.map(|notice| notice.progress).nth(seen)
        };
        self.told.until("progress", |heard| own(heard).is_some()).await;
        let progress = self.told.read(own).expect("it was waited for");
        self.seen += 1;
        progress
    }
}
