//! The call that a task makes, as it is kept in the control log: JSON text
//! `{"route":PATH,"params":{…}}`, with the `params` of a modern request.
//!
//! Invariant: what an order says is all that any node needs to make the call: it names a
//! path, not a path's number, and carries what its client can be asked for.

use shardgate_proto::jsonrpc;
use shardgate_proto::mcp::version::ProtocolVersion;
use shardgate_replicate_proto::identity::TaskId;

use super::EXTENSION;
use crate::data_path::SERVER_INFO;
use crate::federation::{CLIENT_CAPABILITIES, ObjectWriter, meta_member};

/// Members of `_meta` that the gateway writes itself, or that end with the client's request.
const OWN_META: [&str; 2] = ["progressToken", super::RELATED_TASK];

/// Where members of `_meta` that only the modern era has begin so.
const MODERN_META: &str = "io.modelcontextprotocol/";

/// JSON text of a task's call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order(pub(crate) Box<[u8]>);

/// What an order is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OrderParts<'a> {
    /// The task, whose id is the call's progress token.
    pub(crate) id: TaskId,
    /// The path that the client came in on.
    pub(crate) route: &'a str,
    /// The client's `params`, raw.
    pub(crate) params: &'a [u8],
    /// What a legacy client said it can do, raw; a modern one says it in `params`.
    pub(crate) capabilities: Option<&'a [u8]>,
}

impl Order {
    /// The order for a client's `tools/call`.
    pub(crate) fn new(parts: &OrderParts<'_>) -> Order {
        let mut out = Vec::with_capacity(parts.params.len() + 512);
        let mut order = ObjectWriter::begin(&mut out);
        order.string("route", parts.route);
        order.raw("params", &modern_params(parts));
        order.end();
        Order(out.into())
    }

    /// Path and `params` of an order that was kept; `None` if it is none.
    pub(crate) fn read(kept: &[u8]) -> Option<(String, &[u8])> {
        let route = jsonrpc::member(kept, "route").and_then(jsonrpc::string)?;
        Some((route.into_owned(), jsonrpc::member(kept, "params")?))
    }
}

fn modern_params(parts: &OrderParts<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(parts.params.len() + 256);
    let mut object = ObjectWriter::begin(&mut out);
    jsonrpc::each_member(parts.params, |name, value| {
        if !matches!(name, "_meta" | "task") {
            object.raw(name, value);
        }
    });
    object.raw("_meta", &modern_meta(parts));
    object.end();
    out
}

/// MCP 2026-07-28, basic: what `_meta` of every request must and should carry.
fn modern_meta(parts: &OrderParts<'_>) -> Vec<u8> {
    let meta = jsonrpc::member(parts.params, "_meta").unwrap_or(b"{}");
    let capabilities = meta_member(Some(parts.params), CLIENT_CAPABILITIES);
    let capabilities = parts.capabilities.or(capabilities).unwrap_or(b"{}");
    let mut out = Vec::with_capacity(256);
    let mut object = ObjectWriter::begin(&mut out);
    jsonrpc::each_member(meta, |name, value| {
        if !name.starts_with(MODERN_META) && !OWN_META.contains(&name) {
            object.raw(name, value);
        }
    });
    object.string("io.modelcontextprotocol/protocolVersion", ProtocolVersion::V2026_07_28.as_str());
    object.raw(CLIENT_CAPABILITIES, &without_tasks(capabilities));
    object.raw("io.modelcontextprotocol/clientInfo", SERVER_INFO.as_bytes());
    object.string("progressToken", &parts.id.to_string());
    object.end();
    out
}

/// Capabilities of who calls for a task: a server that makes tasks of its own would leave
/// the gateway's with nothing to keep.
fn without_tasks(capabilities: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(capabilities.len());
    let mut object = ObjectWriter::begin(&mut out);
    jsonrpc::each_member(capabilities, |name, value| match name {
        "tasks" => {}
        "extensions" => object.raw(name, &without_member(value, EXTENSION)),
        _ => object.raw(name, value),
    });
    object.end();
    out
}

fn without_member(object: &[u8], left_out: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len());
    let mut writer = ObjectWriter::begin(&mut out);
    jsonrpc::each_member(object, |name, value| {
        if name != left_out {
            writer.raw(name, value);
        }
    });
    writer.end();
    out
}

/// `params` of a further round: with the answers to what was asked, and what the server
/// wanted to be given back.
pub(super) fn with_answers<'a>(
    params: &[u8],
    answers: impl Iterator<Item = (&'a str, &'a [u8])>,
    state: Option<&[u8]>,
) -> Vec<u8> {
    let mut responses = Vec::new();
    let mut writer = ObjectWriter::begin(&mut responses);
    answers.for_each(|(key, body)| writer.raw(key, body));
    writer.end();
    let mut out = Vec::with_capacity(params.len() + responses.len() + 64);
    let mut object = ObjectWriter::begin(&mut out);
    jsonrpc::each_member(params, |name, value| {
        if !matches!(name, "inputResponses" | "requestState") {
            object.raw(name, value);
        }
    });
    object.raw("inputResponses", &responses);
    if let Some(state) = state {
        object.raw("requestState", state);
    }
    object.end();
    out
}

/// True if a modern client can handle tasks.
pub(crate) fn can_handle_tasks(params: Option<&[u8]>) -> bool {
    meta_member(params, CLIENT_CAPABILITIES)
        .and_then(|capabilities| jsonrpc::member(capabilities, "extensions"))
        .is_some_and(|extensions| jsonrpc::member(extensions, EXTENSION).is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn order(params: &Value, capabilities: Option<&str>) -> Value {
        let params = params.to_string();
        let parts = OrderParts {
            id: TaskId(7),
            route: "/mcp/a",
            params: params.as_bytes(),
            capabilities: capabilities.map(str::as_bytes),
        };
        let order = Order::new(&parts);
        let (route, params) = Order::read(&order.0).expect("an order");
        assert_eq!(route, "/mcp/a");
        serde_json::from_slice(params).expect("JSON")
    }

    #[test]
    fn a_legacy_call_becomes_a_modern_one_of_the_gateways() {
        let params = json!({
            "name": "t", "arguments": {"task": 1}, "task": {"ttl": 5},
            "_meta": {"progressToken": 3, "x/y": true, RELATED: {"taskId": "z"}},
        });
        let found = order(&params, Some(r#"{"elicitation":{},"tasks":{"list":{}}}"#));
        assert_eq!(found["arguments"], json!({"task": 1}));
        assert_eq!(found.get("task"), None);
        let meta = &found["_meta"];
        assert_eq!(meta["x/y"], true);
        assert_eq!(meta.get(RELATED), None);
        assert_eq!(meta["progressToken"], TaskId(7).to_string());
        assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
        assert_eq!(meta[CLIENT_CAPABILITIES], json!({"elicitation": {}}));
    }

    const RELATED: &str = crate::tasks::RELATED_TASK;

    #[test]
    fn a_server_is_not_asked_for_a_task_of_its_own() {
        let capabilities = json!({"sampling": {}, "extensions": {EXTENSION: {}, "x/y": {}}});
        let params = json!({"name": "t", "_meta": {CLIENT_CAPABILITIES: capabilities}});
        assert!(can_handle_tasks(Some(params.to_string().as_bytes())));
        let found = order(&params, None);
        let expected = json!({"sampling": {}, "extensions": {"x/y": {}}});
        assert_eq!(found["_meta"][CLIENT_CAPABILITIES], expected);
        assert!(!can_handle_tasks(Some(found.to_string().as_bytes())));
    }

    #[test]
    fn a_further_round_carries_its_own_answers_only() {
        let params = br#"{"name":"t","inputResponses":{"old":1},"requestState":"old"}"#;
        let answers = [("k", b"{\"a\":1}".as_slice())];
        let found = with_answers(params, answers.into_iter(), Some(b"\"s\""));
        let expected = br#"{"name":"t","inputResponses":{"k":{"a":1}},"requestState":"s"}"#;
        assert_eq!(found, expected);
        let found = with_answers(params, answers.into_iter(), None);
        assert_eq!(found, br#"{"name":"t","inputResponses":{"k":{"a":1}}}"#);
    }
}
