//! rmcp, a real client in Rust, as the tests use it.

use std::sync::{Arc, Mutex};

use rmcp::model::{
    CallToolRequestParams, CallToolResult, ClientCapabilities, ClientConfig, ClientRequest,
    CreateMessageRequestParams, CreateMessageResult, ElicitRequestParams, ElicitResult,
    ElicitationAction, Implementation, LoggingMessageNotificationParam, ProgressNotificationParam,
    ResourceUpdatedNotificationParam, SamplingMessage, ServerResult,
};
use rmcp::service::{
    NotificationContext, PeerRequestOptions, RequestContext, RequestHandle, RunningService,
    ServiceError,
};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, ClientLifecycleMode, ClientServiceExt, ErrorData, RoleClient};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use super::harness::HANG;

/// A connected client.
pub(crate) type Client = RunningService<RoleClient, Handler>;

/// Connects to this URL; also returns what the client is told from then on.
pub(crate) async fn connect(url: String, lifecycle: ClientLifecycleMode) -> (Client, Told) {
    let told = Told::new();
    let mut config = StreamableHttpClientTransportConfig::with_uri(url)
        .max_concurrent_requests(100)
        .reinit_on_expired_session(false);
    config.allow_stateless = true;
    let transport = StreamableHttpClientTransport::from_config(config);
    let handler = Handler { told: told.clone() };
    let client = handler.serve_with_lifecycle(transport, lifecycle);
    let client = timeout(HANG, client).await.expect("connect in time").expect("connect");
    (client, told)
}

/// The parameters of a tool's call.
pub(crate) fn tool(name: &str, arguments: &Value) -> CallToolRequestParams {
    let arguments = arguments.as_object().expect("arguments are an object").clone();
    CallToolRequestParams::new(name.to_owned()).with_arguments(arguments)
}

/// Begins a call by the way that asks for progress.
pub(crate) async fn begin_call(
    client: &Client,
    params: CallToolRequestParams,
) -> RequestHandle<RoleClient> {
    let request = ClientRequest::CallToolRequest(rmcp::model::Request::new(params));
    let sent = client.send_cancellable_request(request, PeerRequestOptions::no_options()).await;
    sent.expect("send the call")
}

/// The outcome of a call that has been begun.
pub(crate) async fn outcome(
    call: RequestHandle<RoleClient>,
) -> Result<CallToolResult, ServiceError> {
    let answer = timeout(HANG, call.await_response()).await.expect("an answer in time")?;
    let ServerResult::CallToolResult(result) = answer else {
        panic!("a call was answered with {answer:?}")
    };
    Ok(result)
}

/// What the client was told, with a signal for those who wait.
#[derive(Clone)]
pub(crate) struct Told {
    heard: Arc<Mutex<Heard>>,
    count: Arc<watch::Sender<usize>>,
}

/// What has been heard so far, in the order of hearing.
#[derive(Default)]
pub(crate) struct Heard {
    /// Of all calls.
    pub(crate) progress: Vec<ProgressNotificationParam>,
    /// How many log messages came.
    pub(crate) logs: usize,
    /// The resources that have changed.
    pub(crate) updates: Vec<String>,
}

impl Heard {
    /// How far calls have come, without a word which.
    pub(crate) fn steps(&self) -> Vec<f64> {
        self.progress.iter().map(|notice| notice.progress).collect()
    }
}

impl Told {
    fn new() -> Told {
        Told { heard: Arc::default(), count: Arc::new(watch::channel(0).0) }
    }

    /// Changes what has been heard.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Heard)) {
        change(&mut self.heard.lock().expect("no holder panics"));
        self.count.send_modify(|count| *count += 1);
    }

    /// Looks at what has been heard.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        look(&self.heard.lock().expect("no holder panics"))
    }

    /// Waits until `reached` holds.
    pub(crate) async fn until(&self, what: &str, reached: impl Fn(&Heard) -> bool) {
        let mut changes = self.count.subscribe();
        let wait = async {
            while !self.read(&reached) {
                changes.changed().await.expect("the sender lives as long as `self`");
            }
        };
        timeout(HANG, wait).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
    }
}

/// The client's own half: answers what the server asks.
pub(crate) struct Handler {
    told: Told,
}

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        let capabilities: ClientCapabilities =
            serde_json::from_value(json!({ "sampling": {}, "elicitation": {} }))
                .expect("these are capabilities");
        ClientConfig::new(capabilities, Implementation::new("shardgate-tests", "0"))
    }

    async fn create_message(
        &self,
        params: CreateMessageRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        let asked = serde_json::to_value(&params.messages).expect("a message is JSON");
        let text = format!("answer to {asked}");
        let message = SamplingMessage::assistant_text(text);
        Ok(CreateMessageResult::new(message, "test-model".to_owned()))
    }

    async fn create_elicitation(
        &self,
        _request: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let content = json!({ "username": "ada", "email": "ada@example.com" });
        Ok(ElicitResult::new(ElicitationAction::Accept).with_content(content))
    }

    async fn on_progress(
        &self,
        params: ProgressNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.told.note(|heard| heard.progress.push(params));
    }

    async fn on_logging_message(
        &self,
        _params: LoggingMessageNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.told.note(|heard| heard.logs += 1);
    }

    async fn on_resource_updated(
        &self,
        params: ResourceUpdatedNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.told.note(|heard| heard.updates.push(params.uri.to_string()));
    }
}
