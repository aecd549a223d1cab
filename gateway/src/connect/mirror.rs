//! The headers that repeat parts of a modern request's body (MCP 2026-07-28, Streamable
//! HTTP), and the tools whose arguments are among them.
//!
//! A client on stdio sends no headers, so the bridge learns from the `tools/list` answers
//! that pass through which arguments a tool mirrors (`x-mcp-header`).
//!
//! Limits: [`TOOLS_MAX`] tools with mirrored arguments; those beyond are not learned, and
//! the server says so when such a tool is called.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use shardgate_proto::jsonrpc;

use super::message::{Modern, Request};

/// Tools with mirrored arguments that are remembered.
pub(super) const TOOLS_MAX: usize = 4_096;
/// How deep mirrored arguments may lie.
const DEPTH_MAX: usize = 16;
const ANNOTATION: &str = "x-mcp-header";

/// An argument that a header repeats: where it lies, and the header.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mirrored {
    path: Vec<String>,
    header: HeaderName,
}

/// The mirrored arguments of the tools seen so far.
#[derive(Debug, Default)]
pub(super) struct Mirrors {
    tools: HashMap<String, Vec<Mirrored>>,
}

impl Mirrors {
    /// Learns from a `tools/list` result. What it says about a tool replaces what was known.
    pub(super) fn learn(&mut self, result: &[u8]) {
        let is_of_interest = memchr::memmem::find(result, ANNOTATION.as_bytes()).is_some();
        if !is_of_interest && self.tools.is_empty() {
            return;
        }
        let Ok(result) = serde_json::from_slice::<Value>(result) else { return };
        for tool in result["tools"].as_array().into_iter().flatten() {
            let Some(name) = tool["name"].as_str() else { continue };
            let mut found = Vec::new();
            collect(&tool["inputSchema"], &mut Vec::new(), &mut found);
            if found.is_empty() {
                self.tools.remove(name);
            } else if self.tools.contains_key(name) || self.tools.len() < TOOLS_MAX {
                self.tools.insert(name.to_owned(), found);
            }
        }
    }

    /// Adds every header that a modern request repeats its body in.
    pub(super) fn add_headers(&self, request: &Request, modern: &Modern, headers: &mut HeaderMap) {
        insert(headers, "mcp-protocol-version", &modern.version);
        insert(headers, "mcp-method", &request.method);
        let Some(name) = &modern.name else { return };
        insert(headers, "mcp-name", name);
        let mirrored = self.tools.get(name).filter(|_| request.method == "tools/call");
        let arguments = request.params.as_deref().and_then(|p| jsonrpc::member(p, "arguments"));
        let (Some(mirrored), Some(arguments)) = (mirrored, arguments) else { return };
        for argument in mirrored {
            if let Some(value) = argument.value(arguments) {
                headers.insert(argument.header.clone(), value);
            }
        }
    }
}

impl Mirrored {
    /// The header's value, unless the argument is absent, `null` or of a kind that has none.
    fn value(&self, arguments: &[u8]) -> Option<HeaderValue> {
        let raw =
            self.path.iter().try_fold(arguments, |object, name| jsonrpc::member(object, name))?;
        match raw.first()? {
            b'"' => encode(&jsonrpc::string(raw)?),
            b't' | b'f' | b'-' | b'0'..=b'9' => HeaderValue::from_bytes(raw).ok(),
            _ => None,
        }
    }
}

/// Sets a header to this text, encoded if HTTP can't carry it plainly.
pub(super) fn insert(headers: &mut HeaderMap, name: &'static str, text: &str) {
    if let Some(value) = encode(text) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// MCP 2026-07-28, Streamable HTTP: text that is not plain visible ASCII, that white space
/// begins or ends, or that looks encoded already travels as `=?base64?…?=`.
fn encode(text: &str) -> Option<HeaderValue> {
    let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        && text.trim_ascii() == text
        && !text.is_empty()
        && !(text.starts_with("=?base64?") && text.ends_with("?="));
    if is_plain {
        return HeaderValue::from_str(text).ok();
    }
    HeaderValue::from_str(&format!("=?base64?{}?=", BASE64.encode(text))).ok()
}

/// Walks the chain of `properties`; annotations elsewhere in a schema don't count.
fn collect(schema: &Value, path: &mut Vec<String>, found: &mut Vec<Mirrored>) {
    if path.len() == DEPTH_MAX {
        return;
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        path.push(name.clone());
        let is_primitive =
            matches!(property["type"].as_str(), Some("string" | "integer" | "boolean"));
        let header =
            property[ANNOTATION].as_str().filter(|header| is_primitive && !header.is_empty());
        let name = header.and_then(|header| format!("mcp-param-{header}").parse().ok());
        if let Some(header) = name {
            found.push(Mirrored { path: path.clone(), header });
        }
        collect(property, path, found);
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"tools":[
        {"name":"plain","inputSchema":{"type":"object","properties":{"a":{"type":"string"}}}},
        {"name":"mirrored","inputSchema":{"type":"object","properties":{
            "region":{"type":"string","x-mcp-header":"Region"},
            "deep":{"type":"object","properties":{"count":{"type":"integer","x-mcp-header":"Count"}}},
            "on":{"type":"boolean","x-mcp-header":"On"},
            "price":{"type":"number","x-mcp-header":"Price"},
            "bad":{"type":"string","x-mcp-header":"a b"},
            "list":{"type":"array","items":{"type":"string","x-mcp-header":"Item"}}}}}]}"#;

    fn headers(mirrors: &Mirrors, name: &str, arguments: &str) -> HeaderMap {
        let name = serde_json::to_string(name).expect("JSON");
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":{name},"arguments":{arguments},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}}}}"#
        );
        let request = Request::own(text.into_bytes()).expect("a request");
        let modern = request.modern.clone().expect("a modern one");
        let mut headers = HeaderMap::new();
        mirrors.add_headers(&request, &modern, &mut headers);
        headers
    }

    #[test]
    fn arguments_are_mirrored_once_the_tool_was_listed() {
        let mut mirrors = Mirrors::default();
        let arguments = r#"{"region":"Österreich","deep":{"count":7},"on":false,"price":1.5,"bad":"x","list":["y"]}"#;
        assert_eq!(headers(&mirrors, "mirrored", arguments).len(), 3);
        mirrors.learn(LIST.as_bytes());
        let found = headers(&mirrors, "mirrored", arguments);
        assert_eq!(found.len(), 6, "{found:?}");
        assert_eq!(found["mcp-protocol-version"], "2026-07-28");
        assert_eq!(found["mcp-method"], "tools/call");
        assert_eq!(found["mcp-name"], "mirrored");
        assert_eq!(found["mcp-param-region"], "=?base64?w5ZzdGVycmVpY2g=?=");
        assert_eq!(found["mcp-param-count"], "7");
        assert_eq!(found["mcp-param-on"], "false");
        assert_eq!(headers(&mirrors, "mirrored", r#"{"region":null}"#).len(), 3);
        assert_eq!(headers(&mirrors, "plain", r#"{"a":"x"}"#).len(), 3);
    }

    #[test]
    fn a_newer_list_replaces_what_was_learned() {
        let mut mirrors = Mirrors::default();
        mirrors.learn(LIST.as_bytes());
        mirrors.learn(br#"{"tools":[{"name":"mirrored","inputSchema":{"type":"object"}}]}"#);
        assert_eq!(headers(&mirrors, "mirrored", r#"{"region":"a"}"#).len(), 3);
    }

    #[test]
    fn unsafe_values_are_encoded_and_decode_to_themselves() {
        use shardgate_proto::mcp::modern::decode_value;
        for text in [
            "plain",
            "two words",
            " lead",
            "tail ",
            "",
            "é",
            "a\nb",
            "=?base64?YQ==?=",
            "=?base64?x",
        ] {
            let value = encode(text).expect("a header value");
            let decoded = decode_value(value.as_bytes()).expect("sound");
            assert_eq!(decoded.as_ref(), text.as_bytes(), "{text:?}");
        }
        assert_eq!(encode("two words").expect("plain"), "two words");
    }
}
