//! MCP requests as bytes, and a legacy session over them.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::wire::{Answer, Head, Wire, WireError};

/// The newest revision that has sessions.
pub(crate) const LEGACY: &str = "2025-11-25";
/// The stateless revision.
pub(crate) const MODERN: &str = "2026-07-28";

/// A request under construction: everything has the value a correct client
/// would send until a test says otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    /// A POST of this JSON to `/mcp`.
    pub(crate) fn post(body: &Value) -> Request {
        Request::post_bytes(body.to_string().as_bytes())
    }

    /// A POST of these bytes to `/mcp`.
    pub(crate) fn post_bytes(body: &[u8]) -> Request {
        Request::new("POST", "/mcp")
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .body(body)
    }

    /// A GET of a stream.
    pub(crate) fn stream() -> Request {
        Request::new("GET", "/mcp").header("accept", "text/event-stream")
    }

    /// A DELETE of a session.
    pub(crate) fn delete() -> Request {
        Request::new("DELETE", "/mcp")
    }

    /// A GET of this path.
    pub(crate) fn page(path: &str) -> Request {
        Request::new("GET", path)
    }

    fn new(method: &'static str, path: &str) -> Request {
        Request { method, path: path.to_owned(), headers: Vec::new(), body: None }
    }

    /// Sets a header, in place of one of the same name.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// To this path.
    pub(crate) fn at(mut self, path: &str) -> Request {
        self.path = path.to_owned();
        self
    }

    /// Leaves a header out.
    pub(crate) fn without(mut self, name: &str) -> Request {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self
    }

    /// Within this session, on its path.
    pub(crate) fn session(self, session: &Session) -> Request {
        self.at(&session.path)
            .header("mcp-session-id", &session.id)
            .header("mcp-protocol-version", &session.version)
    }

    fn body(mut self, body: &[u8]) -> Request {
        self.body = Some(body.to_vec());
        self
    }

    /// The bytes for a gateway at `address`.
    pub(crate) fn bytes(&self, address: SocketAddr) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            text.push_str(&format!("host: {address}\r\n"));
        }
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }
}

/// A JSON-RPC request.
pub(crate) fn request(id: u64, method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

/// A JSON-RPC notification.
pub(crate) fn notification(method: &str, params: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "method": method, "params": params })
}

/// A `tools/call`.
pub(crate) fn call(id: u64, tool: &str, arguments: &Value) -> Value {
    request(id, "tools/call", &json!({ "name": tool, "arguments": arguments }))
}

/// A `tools/call` that asks for progress under this token.
pub(crate) fn call_with_progress(id: u64, tool: &str, arguments: &Value, token: &str) -> Value {
    let meta = json!({ "progressToken": token });
    let params = json!({ "name": tool, "arguments": arguments, "_meta": meta });
    request(id, "tools/call", &params)
}

/// An `initialize` for this revision.
pub(crate) fn initialize(version: &str) -> Value {
    let params = json!({
        "protocolVersion": version,
        "capabilities": { "sampling": {}, "elicitation": {}, "roots": {} },
        "clientInfo": { "name": "shardgate-tests", "version": "0" },
    });
    request(0, "initialize", &params)
}

/// `params` with the `_meta` that every modern request carries.
pub(crate) fn with_meta(mut params: Value, version: &str) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientInfo": { "name": "shardgate-tests", "version": "0" },
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    params
}

/// A correct modern POST.
pub(crate) fn modern(id: u64, method: &str, params: Value) -> Request {
    let name = params["name"].as_str().or_else(|| params["uri"].as_str()).map(str::to_owned);
    let body = request(id, method, &with_meta(params, MODERN));
    let post =
        Request::post(&body).header("mcp-protocol-version", MODERN).header("mcp-method", method);
    match name {
        Some(name) => post.header("mcp-name", &name),
        None => post,
    }
}

/// The text of a tool's first content block.
pub(crate) fn text_of(answer: &Value) -> Option<&str> {
    answer["result"]["content"][0]["text"].as_str()
}

/// A legacy session.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// `Mcp-Session-Id`.
    pub(crate) id: String,
    /// The revision in force.
    pub(crate) version: String,
    /// Where the gateway listens.
    pub(crate) address: SocketAddr,
    /// Where it was opened.
    pub(crate) path: String,
}

impl Session {
    /// Opens a session on a connection of its own.
    pub(crate) async fn open(address: SocketAddr, version: &str) -> Result<Session, WireError> {
        let mut wire = Wire::connect(address).await?;
        Session::open_on(&mut wire, address, version).await
    }

    /// Opens a session on this connection.
    pub(crate) async fn open_on(
        wire: &mut Wire,
        address: SocketAddr,
        version: &str,
    ) -> Result<Session, WireError> {
        Session::open_at(wire, address, "/mcp", version).await
    }

    /// Opens a session at a path.
    pub(crate) async fn open_at(
        wire: &mut Wire,
        address: SocketAddr,
        path: &str,
        version: &str,
    ) -> Result<Session, WireError> {
        let post = Request::post(&initialize(version)).at(path);
        let answer = wire.ask(&post.bytes(address)).await?;
        let refused = || WireError::Malformed(format!("initialize was answered with {answer:?}"));
        let id = answer.head.header("mcp-session-id").ok_or_else(refused)?.to_owned();
        if answer.json()["result"]["protocolVersion"] != version {
            return Err(refused());
        }
        let session = Session { id, version: version.to_owned(), address, path: path.to_owned() };
        let told = notification("notifications/initialized", &json!({}));
        let answer = wire.ask(&session.post(&told)).await?;
        if answer.head.status != 202 {
            return Err(WireError::Malformed(format!("initialized was answered with {answer:?}")));
        }
        Ok(session)
    }

    /// The bytes that POST this message.
    pub(crate) fn post(&self, message: &Value) -> Vec<u8> {
        Request::post(message).session(self).bytes(self.address)
    }

    /// The bytes that open a standing stream, or resume one.
    pub(crate) fn get(&self, last_event_id: Option<&str>) -> Vec<u8> {
        let get = Request::stream().session(self);
        let get = match last_event_id {
            Some(id) => get.header("last-event-id", id),
            None => get,
        };
        get.bytes(self.address)
    }

    /// The bytes that end the session.
    pub(crate) fn delete(&self) -> Vec<u8> {
        Request::delete().session(self).bytes(self.address)
    }

    /// POSTs a message on a connection and reads the whole answer.
    pub(crate) async fn ask(&self, wire: &mut Wire, message: &Value) -> Result<Answer, WireError> {
        wire.ask(&self.post(message)).await
    }

    /// Opens a standing stream, or resumes one.
    pub(crate) async fn stream(
        &self,
        wire: &mut Wire,
        last_event_id: Option<&str>,
    ) -> Result<Head, WireError> {
        wire.send(&self.get(last_event_id)).await?;
        wire.head().await
    }

    /// Fails unless the session answers an echo on a fresh connection.
    pub(crate) async fn assert_healthy(&self) {
        let mut wire = Wire::connect(self.address).await.expect("connect for a healthy session");
        let message = call(7_000_001, "echo", &json!({ "message": "still here" }));
        let answer = self.ask(&mut wire, &message).await.expect("a healthy session answers");
        assert_eq!(answer.head.status, 200, "a healthy session's echo: {answer:?}");
        let json = answer.json();
        let text = text_of(&json).unwrap_or_default();
        assert!(text.contains("still here"), "a healthy session's echo: {json}");
    }
}
