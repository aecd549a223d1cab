//! A client of either era that calls a gateway in front of other servers.
//!
//! Every request takes a connection of its own, so that with several shards requests
//! of one client land on several of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::HANG;
use super::mcp::{LEGACY, MODERN, Request, Session, call, notification, request, with_meta};
use super::wire::Wire;

/// The pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(10);

/// A client.
#[derive(Clone, Debug)]
pub(crate) enum Client {
    /// With a session.
    Legacy(Session),
    /// Without one.
    Modern(SocketAddr),
}

impl Client {
    /// A legacy client with a session of its own.
    pub(crate) async fn legacy(address: SocketAddr) -> Client {
        Client::Legacy(Session::open(address, LEGACY).await.expect("open a session"))
    }

    /// One client of each era.
    pub(crate) async fn of_both_eras(address: SocketAddr) -> [Client; 2] {
        [Client::legacy(address).await, Client::Modern(address)]
    }

    /// The bytes of a request.
    pub(crate) fn bytes(&self, id: u64, method: &'static str, params: Value) -> Vec<u8> {
        match self {
            Client::Legacy(session) => session.post(&request(id, method, &params)),
            Client::Modern(address) => modern(id, method, params).bytes(*address),
        }
    }

    /// Sends a request and leaves the answer to the caller.
    pub(crate) async fn begin(&self, id: u64, method: &'static str, params: Value) -> Wire {
        let mut wire = Wire::connect(self.address()).await.expect("connect to the gateway");
        wire.send(&self.bytes(id, method, params)).await.expect("send a request");
        wire
    }

    /// The answer to a request on a fresh connection. If the gateway ends its stream before
    /// it, a client with a session comes back for the rest.
    pub(crate) async fn ask(&self, id: u64, method: &'static str, params: Value) -> Value {
        let mut wire = self.begin(id, method, params).await;
        let mut head = wire.head().await.expect("a head");
        let mut last_id = None;
        while head.is_events() {
            while let Some(event) = wire.event().await.expect("the stream is whole") {
                let message = event.json();
                if message["id"] == id && message["method"].is_null() {
                    return message;
                }
                last_id = event.id.or(last_id);
            }
            let Client::Legacy(session) = self else { panic!("{method}: no answer to {self:?}") };
            assert!(last_id.is_some(), "{method}: no answer and no event id to {self:?}");
            wire = Wire::connect(session.address).await.expect("connect to the gateway");
            head = session.stream(&mut wire, last_id.as_deref()).await.expect("the rest");
        }
        let body = wire.rest().await.expect("a body");
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        assert_eq!(json["id"], id, "the answer to {method} by {self:?}: {head:?} {json}");
        json
    }

    /// The whole answer to a tool's call.
    pub(crate) async fn call(&self, id: u64, tool: &str, arguments: &Value) -> Value {
        let params = call(id, tool, arguments)["params"].clone();
        self.ask(id, "tools/call", params).await
    }

    /// Sends a tool's call and leaves the answer to the caller.
    pub(crate) async fn begin_call(&self, id: u64, tool: &str, arguments: &Value) -> Wire {
        let params = call(id, tool, arguments)["params"].clone();
        self.begin(id, "tools/call", params).await
    }

    /// Gives a request up, in the way of the client's era.
    pub(crate) async fn cancel(&self, id: u64, wire: Wire) {
        match self {
            Client::Legacy(session) => {
                let told = notification("notifications/cancelled", &json!({ "requestId": id }));
                let mut other = Wire::connect(session.address).await.expect("connect");
                let answer = session.ask(&mut other, &told).await.expect("an answer");
                assert_eq!(answer.head.status, 202, "{answer:?}");
            }
            // MCP 2026-07-28, Streamable HTTP: closing the stream is the cancellation.
            Client::Modern(_) => drop(wire),
        }
    }

    /// Opens the stream on which the client hears of changes of the list of tools and, if
    /// one is named, of a resource.
    pub(crate) async fn listen(&self, uri: Option<&str>) -> Wire {
        match self {
            Client::Legacy(session) => {
                if let Some(uri) = uri {
                    let answer = self.ask(50, "resources/subscribe", json!({ "uri": uri })).await;
                    assert_eq!(answer["result"], json!({}), "{answer}");
                }
                let mut wire = Wire::connect(session.address).await.expect("connect");
                let head = session.stream(&mut wire, None).await.expect("a stream");
                assert_eq!(head.status, 200, "{head:?}");
                wire
            }
            Client::Modern(_) => {
                let uris = Vec::from_iter(uri);
                let wanted = json!({ "toolsListChanged": true, "resourceSubscriptions": uris });
                let params = json!({ "notifications": wanted });
                let mut wire = self.begin(50, "subscriptions/listen", params).await;
                let head = wire.head().await.expect("a head");
                assert_eq!((head.status, head.is_events()), (200, true), "{head:?}");
                let first = next_message(&mut wire).await.expect("the acknowledgement");
                assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{first}");
                wire
            }
        }
    }

    /// The answer to a request whose server asks the client, which answers everything by
    /// `reply`: what it is given is the method, what it gives back the result. The second
    /// value is how many questions were asked.
    pub(crate) async fn converse(
        &self,
        id: u64,
        method: &'static str,
        params: Value,
        reply: impl Fn(&str) -> Value,
    ) -> (Value, usize) {
        match self {
            Client::Legacy(session) => {
                let mut wire = self.begin(id, method, params).await;
                converse_legacy(session, &mut wire, reply).await
            }
            Client::Modern(_) => self.converse_modern(id, method, params, reply).await,
        }
    }

    async fn converse_modern(
        &self,
        id: u64,
        method: &'static str,
        params: Value,
        reply: impl Fn(&str) -> Value,
    ) -> (Value, usize) {
        let (mut asked, mut further) = (0, params.clone());
        loop {
            let answer = self.ask(id + asked as u64, method, further).await;
            if answer["result"]["resultType"] != "input_required" {
                return (answer, asked);
            }
            further = params.clone();
            if let Some(state) = answer["result"].get("requestState") {
                further["requestState"] = state.clone();
            }
            let questions = answer["result"]["inputRequests"].as_object();
            for (key, question) in questions.unwrap_or_else(|| panic!("no questions: {answer}")) {
                asked += 1;
                let method = question["method"].as_str().expect("a method");
                further["inputResponses"][key] = reply(method);
            }
            assert!(asked < 100, "it asks again and again: {answer}");
        }
    }

    /// All entries of a list, page by page.
    pub(crate) async fn list(&self, kind: &str) -> Vec<Value> {
        let (entries, _) = self.list_with_pages(kind).await;
        entries
    }

    /// All entries of a list, and how many pages they took.
    pub(crate) async fn list_with_pages(&self, kind: &str) -> (Vec<Value>, usize) {
        let method = match kind {
            "tools" => "tools/list",
            "prompts" => "prompts/list",
            "resources" => "resources/list",
            "resourceTemplates" => "resources/templates/list",
            other => panic!("there is no list of {other}"),
        };
        let (mut entries, mut pages, mut params) = (Vec::new(), 0, json!({}));
        loop {
            let answer = self.ask(900 + pages as u64, method, params).await;
            let page = answer["result"][kind].as_array();
            entries.extend(page.unwrap_or_else(|| panic!("no list: {answer}")).clone());
            pages += 1;
            assert!(pages < 1_000, "the list does not end");
            match answer["result"]["nextCursor"].as_str() {
                Some(cursor) => params = json!({ "cursor": cursor }),
                None => return (entries, pages),
            }
        }
    }

    /// The names of all tools, in the order of listing.
    pub(crate) async fn tool_names(&self) -> Vec<String> {
        let tools = self.list("tools").await;
        tools.iter().map(|tool| tool["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// Waits until every one of several connections sees the tool, or sees it gone: each
    /// shard reads the servers' lists by itself.
    pub(crate) async fn wait_for_tool(&self, name: &str, present: bool) {
        let start = Instant::now();
        let mut agreed = 0;
        while agreed < 12 {
            let names = self.tool_names().await;
            let seen = names.iter().any(|known| known == name) == present;
            agreed = if seen { agreed + 1 } else { 0 };
            assert!(start.elapsed() < HANG, "{name} present: {present}, but there are {names:?}");
            if !seen {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    fn address(&self) -> SocketAddr {
        match self {
            Client::Legacy(session) => session.address,
            Client::Modern(address) => *address,
        }
    }
}

/// A correct modern POST of a client that can be asked everything. What `params` has in
/// `_meta` stays there.
fn modern(id: u64, method: &str, params: Value) -> Request {
    let own = params["_meta"].clone();
    let name = params["name"].as_str().or_else(|| params["uri"].as_str()).map(str::to_owned);
    let mut params = with_meta(params, MODERN);
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] =
        json!({ "sampling": {}, "elicitation": {}, "roots": {} });
    for (key, value) in own.as_object().into_iter().flatten() {
        params["_meta"][key] = value.clone();
    }
    let post = Request::post(&request(id, method, &params))
        .header("mcp-protocol-version", MODERN)
        .header("mcp-method", method);
    match name {
        Some(name) => post.header("mcp-name", &name),
        None => post,
    }
}

async fn converse_legacy(
    session: &Session,
    wire: &mut Wire,
    reply: impl Fn(&str) -> Value,
) -> (Value, usize) {
    let head = wire.head().await.expect("a head");
    if !head.is_events() {
        let body = wire.rest().await.expect("a body");
        return (serde_json::from_slice(&body).expect("JSON"), 0);
    }
    let mut asked = 0;
    loop {
        let message = next_message(wire).await.expect("the stream ended without an answer");
        let Some(method) = message["method"].as_str() else { return (message, asked) };
        if !message["id"].is_null() {
            asked += 1;
            answer_question(session, &message["id"], &reply(method)).await;
        }
    }
}

/// Answers a question that a server asked in a session.
pub(crate) async fn answer_question(session: &Session, id: &Value, result: &Value) {
    let answer = json!({ "jsonrpc": "2.0", "id": id, "result": result });
    let mut back = Wire::connect(session.address).await.expect("connect to the gateway");
    let told = session.ask(&mut back, &answer).await.expect("the answer is taken");
    assert_eq!(told.head.status, 202, "{told:?}");
}

/// The next message of a stream; `None` at its end.
pub(crate) async fn next_message(wire: &mut Wire) -> Option<Value> {
    while let Some(event) = wire.event().await.expect("the stream is whole") {
        if !event.data.is_empty() {
            return Some(event.json());
        }
    }
    None
}

/// Waits until `check` says something, and returns that.
pub(crate) async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(start.elapsed() < HANG, "it never came to be: {what}");
        tokio::time::sleep(LOOK).await;
    }
}
