//! Writing results, errors and notifications as JSON text.
//!
//! Invariant: what is written here is one line of valid JSON, and a member that
//! a revision does not know is not written for it.

use std::io::Write as _;

use base64::Engine as _;
use shardgate_proto::mcp::version::{Era, ProtocolVersion};
use shardgate_proto::upstream::{CallKey, Events};

/// The embedded server's `Implementation` object, for `serverInfo` in either era.
pub const SERVER_INFO: &str =
    concat!(r#"{"name":"shardgate-embedded","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);

/// What every modern result ends with.
// MCP 2026-07-28, ResultMetaObject: "Servers SHOULD include this field on every response".
const MODERN_META: &str = concat!(
    r#","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"shardgate-embedded","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""}}"#
);

/// Why a request is refused, with its JSON-RPC code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("method not found: the embedded server has no {method:?} in this revision")]
    MethodNotFound { method: String },
    #[error("unknown tool: {name}")]
    UnknownTool { name: String },
    #[error("unknown prompt: {name}")]
    UnknownPrompt { name: String },
    #[error("resource not found")]
    ResourceNotFound { uri: String, era: Era },
    #[error("invalid params: {0}")]
    InvalidParams(String),
    #[error("the client has not declared a capability this request needs")]
    MissingCapability { required: String },
    #[error("invalid request: {0}")]
    InvalidRequest(String),
    #[error("the embedded server is busy: {what} (at most {max} per shard); try again later")]
    Busy { what: &'static str, max: usize },
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl Fault {
    /// The JSON-RPC error code.
    pub(crate) fn code(&self) -> i32 {
        match self {
            Fault::MethodNotFound { .. } => -32601,
            // MCP 2025-11-25, resources: "Resource not found: -32002"; 2026-07-28 uses -32602.
            Fault::ResourceNotFound { era: Era::Legacy, .. } => -32002,
            Fault::UnknownTool { .. }
            | Fault::UnknownPrompt { .. }
            | Fault::ResourceNotFound { era: Era::Modern, .. }
            | Fault::InvalidParams(_) => -32602,
            Fault::MissingCapability { .. } => -32021,
            Fault::InvalidRequest(_) => -32600,
            Fault::Busy { .. } => -32000,
            Fault::Internal(_) => -32603,
        }
    }

    /// Appends the JSON text of the `error` object.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put(out, r#"{"code":"#);
        put_number(out, self.code());
        put(out, r#","message":"#);
        put_string(out, &self.to_string());
        match self {
            Fault::ResourceNotFound { uri, .. } => {
                put(out, r#","data":{"uri":"#);
                put_string(out, uri);
                put(out, "}");
            }
            Fault::MissingCapability { required } => {
                put(out, r#","data":{"requiredCapabilities":"#);
                put(out, required);
                put(out, "}");
            }
            Fault::MethodNotFound { .. }
            | Fault::UnknownTool { .. }
            | Fault::UnknownPrompt { .. }
            | Fault::InvalidParams(_)
            | Fault::InvalidRequest(_)
            | Fault::Busy { .. }
            | Fault::Internal(_) => {}
        }
        put(out, "}");
    }
}

/// How long and for whom a result may be kept (modern era).
#[derive(Clone, Copy)]
pub(super) struct Caching {
    /// `ttlMs`.
    pub(super) ttl_ms: u64,
}

/// Ends a call with an error.
pub(super) fn refuse(events: &mut Events, call: CallKey, fault: &Fault) {
    events.error(call, fault.code(), |out| fault.write(out));
}

/// Ends a call with a result whose members `write` appends (without the braces).
pub(super) fn complete(
    events: &mut Events,
    call: CallKey,
    version: ProtocolVersion,
    write: impl FnOnce(&mut Vec<u8>),
) {
    events.result(call, |out| {
        put(out, "{");
        write(out);
        finish(out, version, None);
    });
}

/// Closes a result object: what the revision wants at its end, and the brace.
pub(super) fn finish(out: &mut Vec<u8>, version: ProtocolVersion, caching: Option<Caching>) {
    if version.era() == Era::Modern {
        if out.last() != Some(&b'{') {
            put(out, ",");
        }
        put(out, r#""resultType":"complete""#);
        if let Some(caching) = caching {
            put(out, r#","ttlMs":"#);
            put_number(out, caching.ttl_ms);
            // Nothing here depends on who asks, so a shared gateway may keep it.
            put(out, r#","cacheScope":"public""#);
        }
        put(out, MODERN_META);
    }
    put(out, "}");
}

/// Appends the `_meta` member of a modern result (with the comma before it).
pub(super) fn put_modern_meta(out: &mut Vec<u8>) {
    put(out, MODERN_META);
}

/// Ends a `tools/call` with one text block.
pub(super) fn tool_text(
    events: &mut Events,
    call: CallKey,
    version: ProtocolVersion,
    text: &str,
    is_error: bool,
) {
    complete(events, call, version, |out| put_tool_text(out, text, is_error));
}

/// Appends the members of a `CallToolResult` with one text block.
pub(super) fn put_tool_text(out: &mut Vec<u8>, text: &str, is_error: bool) {
    put(out, r#""content":["#);
    put_text_block(out, text);
    put(out, "]");
    if is_error {
        put(out, r#","isError":true"#);
    }
}

/// Appends a text content block.
pub(super) fn put_text_block(out: &mut Vec<u8>, text: &str) {
    put(out, r#"{"type":"text","text":"#);
    put_string(out, text);
    put(out, "}");
}

/// Appends an image or audio content block.
pub(super) fn put_media_block(out: &mut Vec<u8>, kind: &str, mime: &str, bytes: &[u8]) {
    put(out, r#"{"type":""#);
    put(out, kind);
    put(out, r#"","data":""#);
    put_base64(out, bytes);
    put(out, r#"","mimeType":""#);
    put(out, mime);
    put(out, r#""}"#);
}

/// Appends text as it is.
pub(super) fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// Appends something that prints as a JSON number.
pub(super) fn put_number(out: &mut Vec<u8>, number: impl std::fmt::Display) {
    write!(out, "{number}").expect("writing into memory does not fail");
}

/// Appends bytes in standard base64.
pub(super) fn put_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, &base64::engine::general_purpose::STANDARD.encode(bytes));
}

/// Appends a JSON string with its quotes.
pub(super) fn put_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut clean = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[clean..at]);
        clean = at + 1;
        match byte {
            b'"' => put(out, "\\\""),
            b'\\' => put(out, "\\\\"),
            b'\n' => put(out, "\\n"),
            b'\r' => put(out, "\\r"),
            b'\t' => put(out, "\\t"),
            other => {
                write!(out, "\\u{other:04x}").expect("writing into memory does not fail");
            }
        }
    }
    out.extend_from_slice(&text.as_bytes()[clean..]);
    out.push(b'"');
}

/// The JSON text of a string.
pub(super) fn quoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    put_string(&mut out, text);
    String::from_utf8(out).expect("an escaped string stays UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_survive_a_round_trip() {
        let text = "a\"b\\c\nd\re\tf\u{1}g\u{7f}é😀";
        let mut json = quoted(text).into_bytes();
        let back = simd_json::to_owned_value(&mut json).expect("valid JSON");
        assert_eq!(back, simd_json::OwnedValue::from(text));
    }
}
