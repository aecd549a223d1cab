//! A legacy tool server that does what a test says, request by request.
//!
//! Without a script it is honest: it opens sessions, answers 404 to those it does not
//! know, lists its tools and answers calls with "done". A script sees each request first
//! and may answer in its own way.
//!
//! Invariant: what a script returns goes onto the wire as it is.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::rogue_server::{
    SeenRequest, empty_response, event_head, events, json_response, read_request,
};

/// One thing that a script has the server do with a connection.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Send these bytes.
    Send(Vec<u8>),
    /// Go on once [`ScriptedServer::release`] has been called.
    Hold,
    /// End the connection.
    Close,
}

/// A request as a script sees it.
pub(crate) struct Asked<'a> {
    /// The request.
    pub(crate) request: &'a SeenRequest,
    /// The how manieth of its JSON-RPC method this is, from 1.
    pub(crate) number: usize,
}

impl Asked<'_> {
    /// The JSON-RPC method; empty for an answer or a request without body.
    pub(crate) fn method(&self) -> &str {
        self.request.body["method"].as_str().unwrap_or_default()
    }

    /// The JSON-RPC id.
    pub(crate) fn id(&self) -> &Value {
        &self.request.body["id"]
    }
}

/// Says what to do with a request; `None` leaves it to the honest server.
pub(crate) type Script = Box<dyn Fn(&Asked<'_>) -> Option<Vec<Step>> + Send>;

/// A running server. It lives as long as the runtime it was started on.
pub(crate) struct ScriptedServer {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    released: watch::Sender<bool>,
}

struct State {
    script: Script,
    tools: Value,
    sessions: HashSet<String>,
    opened: usize,
    seen: Vec<SeenRequest>,
}

impl ScriptedServer {
    /// Starts a server with these tools on the current runtime.
    pub(crate) async fn start(tools: Value, script: Script) -> ScriptedServer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind the scripted server");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (sessions, seen) = (HashSet::new(), Vec::new());
        let state = State { script, tools, sessions, opened: 0, seen };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), released: watch::channel(false).0 });
        let server = ScriptedServer { address, shared: Arc::clone(&shared) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        server
    }

    /// The URL for `[[upstream]] url =`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// What happens to requests from now on.
    pub(crate) fn script(&self, script: Script) {
        self.shared.lock().script = script;
    }

    /// From now on it is honest.
    pub(crate) fn repair(&self) {
        self.script(Box::new(|_| None));
    }

    /// Forgets all sessions, as a restart would.
    pub(crate) fn forget_sessions(&self) {
        self.shared.lock().sessions.clear();
    }

    /// Lets everything go on that is held, now and later.
    pub(crate) fn release(&self) {
        self.shared.released.send_replace(true);
    }

    /// Every request so far, in the order of arrival.
    pub(crate) fn seen(&self) -> Vec<SeenRequest> {
        self.shared.lock().seen.clone()
    }

    /// How many messages of this method came so far.
    pub(crate) fn count(&self, method: &str) -> usize {
        self.shared.lock().count(method)
    }

    /// How many sessions are open.
    pub(crate) fn sessions(&self) -> usize {
        self.shared.lock().sessions.len()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

impl State {
    fn count(&self, method: &str) -> usize {
        self.seen.iter().filter(|request| request.body["method"] == method).count()
    }

    fn take(&mut self, request: &SeenRequest) -> Vec<Step> {
        self.seen.push(request.clone());
        let method = request.body["method"].as_str().unwrap_or_default();
        let asked = Asked { request, number: self.count(method) };
        match (self.script)(&asked) {
            Some(steps) => steps,
            None => vec![Step::Send(self.answer(request))],
        }
    }

    /// What an honest server answers.
    fn answer(&mut self, request: &SeenRequest) -> Vec<u8> {
        let id = &request.body["id"];
        let method = request.body["method"].as_str();
        let session = request.header("mcp-session-id").unwrap_or_default();
        if method == Some("initialize") {
            self.opened += 1;
            let session = format!("scripted-{}", self.opened);
            self.sessions.insert(session.clone());
            let body = result(id, &introduction(&request.body["params"]["protocolVersion"]));
            return json_response(200, &format!("mcp-session-id: {session}\r\n"), &body);
        }
        if method != Some("server/discover") && !self.sessions.contains(session) {
            return json_response(404, "", &error(&Value::Null, -32001, "Session not found"));
        }
        match (request.method.as_str(), method) {
            ("DELETE", _) => {
                self.sessions.remove(session);
                empty_response(200, "")
            }
            ("POST", Some("tools/list")) => {
                json_response(200, "", &result(id, &json!({ "tools": self.tools })))
            }
            ("POST", Some("tools/call")) => json_response(200, "", &done(id)),
            ("POST", _) if id.is_null() || method.is_none() => empty_response(202, ""),
            ("POST", _) => json_response(200, "", &error(id, -32601, "Method not found")),
            _ => empty_response(405, "allow: POST, DELETE\r\n"),
        }
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        let steps = shared.lock().take(&request);
        for step in steps {
            match step {
                Step::Send(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Step::Hold => {
                    let mut released = shared.released.subscribe();
                    if released.wait_for(|released| *released).await.is_err() {
                        return;
                    }
                }
                Step::Close => {
                    // Fails only if the peer has gone already.
                    let _ = stream.shutdown().await;
                    return;
                }
            }
        }
    }
}

pub(crate) fn introduction(version: &Value) -> Value {
    json!({
        "protocolVersion": version,
        "capabilities": { "tools": {} },
        "serverInfo": { "name": "scripted", "version": "0" },
    })
}

/// A tool; `read_only` says that it may be called twice.
pub(crate) fn tool(name: &str, read_only: bool) -> Value {
    let annotations = json!({ "readOnlyHint": read_only, "idempotentHint": read_only });
    json!({ "name": name, "inputSchema": { "type": "object" }, "annotations": annotations })
}

/// A JSON-RPC result.
pub(crate) fn result(id: &Value, result: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "result": result })
}

/// The result of a call.
pub(crate) fn done(id: &Value) -> Value {
    result(id, &json!({ "content": [{ "type": "text", "text": "done" }] }))
}

/// A JSON-RPC error.
pub(crate) fn error(id: &Value, code: i64, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
}

/// A step that answers with this as JSON.
pub(crate) fn send_json(body: &Value) -> Step {
    Step::Send(json_response(200, "", body))
}

/// A step that begins a stream with these messages; [`Step::Close`] ends it.
pub(crate) fn begin_stream(messages: &[&Value]) -> Step {
    if messages.is_empty() { Step::Send(event_head()) } else { Step::Send(events(messages)) }
}

/// A step that goes on with a stream.
pub(crate) fn stream_on(message: &Value) -> Step {
    Step::Send(format!("data: {message}\n\n").into_bytes())
}
