//! What of a request's `params` changes on the way to a tool server.
//!
//! Invariant: everything that need not change passes byte for byte. A name is
//! spliced in; only where eras differ are the members of `params` and of its
//! `_meta` copied one by one.

use shardgate_proto::jsonrpc;
use shardgate_proto::mcp::version::ProtocolVersion;

/// Members of `_meta` that only the modern era knows begin so.
const MODERN_META: &str = "io.modelcontextprotocol/";

/// The member of `_meta` by which a modern client says what it can do.
pub(crate) const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// What is to change.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Edit<'a> {
    /// `params.name` as the tool server knows it.
    pub(super) name: Option<&'a str>,
    /// Whose `_meta` it becomes.
    pub(super) meta: Meta<'a>,
    /// `_meta.progressToken` to put in place of the client's, if it gave one.
    pub(super) progress_token: Option<u64>,
    /// A further round of a request that was answered `input_required`.
    pub(super) inputs: Option<Inputs<'a>>,
}

/// `_meta` of which era.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Meta<'a> {
    /// As it came: both sides are of one era.
    #[default]
    Same,
    /// A legacy client's request for a modern server.
    ToModern(&'a ModernContext<'a>),
    /// A modern client's request for a legacy server.
    ToLegacy,
}

/// What a legacy client said in its session, as a modern request has to say it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ModernContext<'a> {
    /// Raw JSON object.
    pub(super) capabilities: &'a [u8],
    /// `logging/setLevel`, if the client sent it.
    pub(super) log_level: Option<&'a str>,
}

/// Answers to what a modern server asked for, raw JSON each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inputs<'a> {
    /// The object of responses.
    pub(super) responses: &'a [u8],
    /// The server's opaque state.
    pub(super) state: Option<&'a [u8]>,
}

/// Appends `params` with its changes; without any, a server gets what the client wrote.
pub(super) fn write(out: &mut Vec<u8>, params: Option<&[u8]>, edit: &Edit<'_>) {
    let same_meta = matches!(edit.meta, Meta::Same) && edit.progress_token.is_none();
    let params = params.unwrap_or(b"{}");
    match edit.name {
        _ if !same_meta || edit.inputs.is_some() => write_members(out, params, edit),
        Some(name) => splice_text(out, params, "name", name),
        None => out.extend_from_slice(params),
    }
}

/// Appends an object with another text as the value of one member; as it is, if it has none.
pub(super) fn splice_text(out: &mut Vec<u8>, object: &[u8], member: &str, text: &str) {
    let Some(value) = jsonrpc::member(object, member) else {
        return out.extend_from_slice(object);
    };
    // The value is a part of the object's text, so their distance is its place.
    let start = value.as_ptr() as usize - object.as_ptr() as usize;
    out.extend_from_slice(&object[..start]);
    jsonrpc::write_string(out, text);
    out.extend_from_slice(&object[start + value.len()..]);
}

fn write_members(out: &mut Vec<u8>, params: &[u8], edit: &Edit<'_>) {
    let mut object = ObjectWriter::begin(out);
    let mut meta = None;
    jsonrpc::each_member(params, |name, value| match name {
        "_meta" => meta = Some(value),
        "name" if edit.name.is_some() => {}
        "inputResponses" | "requestState"
            if edit.inputs.is_some() || matches!(edit.meta, Meta::ToLegacy) => {}
        // It means something to legacy servers, and nothing to modern clients.
        "task" if matches!(edit.meta, Meta::ToLegacy) => {}
        _ => object.raw(name, value),
    });
    if let Some(name) = edit.name {
        object.string("name", name);
    }
    if let Some(inputs) = edit.inputs {
        object.raw("inputResponses", inputs.responses);
        if let Some(state) = inputs.state {
            object.raw("requestState", state);
        }
    }
    object.unless_empty("_meta", |out| write_meta(out, meta, edit));
    object.end();
}

fn write_meta(out: &mut Vec<u8>, meta: Option<&[u8]>, edit: &Edit<'_>) {
    let mut object = ObjectWriter::begin(out);
    if let Some(meta) = meta {
        jsonrpc::each_member(meta, |name, value| match (name, edit.progress_token) {
            ("progressToken", Some(token)) => object.raw(name, token.to_string().as_bytes()),
            _ if name.starts_with(MODERN_META) && !matches!(edit.meta, Meta::Same) => {}
            _ => object.raw(name, value),
        });
    }
    if let Meta::ToModern(context) = edit.meta {
        write_modern_members(&mut object, context);
    }
    object.end();
}

/// MCP 2026-07-28, basic: what `_meta` of every request must and should carry.
fn write_modern_members(object: &mut ObjectWriter<'_>, context: &ModernContext<'_>) {
    let version = ProtocolVersion::V2026_07_28.as_str();
    object.string("io.modelcontextprotocol/protocolVersion", version);
    object.raw(CLIENT_CAPABILITIES, context.capabilities);
    object.raw("io.modelcontextprotocol/clientInfo", super::GATEWAY_INFO.as_bytes());
    if let Some(level) = context.log_level {
        object.string("io.modelcontextprotocol/logLevel", level);
    }
}

/// A member of `params._meta`, raw.
pub(crate) fn meta_member<'a>(params: Option<&'a [u8]>, name: &str) -> Option<&'a [u8]> {
    jsonrpc::member(jsonrpc::member(params?, "_meta")?, name)
}

/// Writes a JSON object member by member.
pub(crate) struct ObjectWriter<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl<'o> ObjectWriter<'o> {
    pub(crate) fn begin(out: &'o mut Vec<u8>) -> ObjectWriter<'o> {
        out.push(b'{');
        ObjectWriter { out, first: true }
    }

    pub(crate) fn raw(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.out.extend_from_slice(value);
    }

    pub(crate) fn string(&mut self, name: &str, text: &str) {
        self.name(name);
        jsonrpc::write_string(self.out, text);
    }

    /// A member that `write` appends as an object, and that is left out if it has no members.
    fn unless_empty(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        let (before, first) = (self.out.len(), self.first);
        self.name(name);
        let start = self.out.len();
        write(self.out);
        if &self.out[start..] == b"{}" {
            self.out.truncate(before);
            self.first = first;
        }
    }

    fn name(&mut self, name: &str) {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        jsonrpc::write_string(self.out, name);
        self.out.push(b':');
    }

    pub(crate) fn end(self) {
        self.out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(params: &str, edit: &Edit<'_>) -> String {
        let mut out = Vec::new();
        write(&mut out, Some(params.as_bytes()), edit);
        String::from_utf8(out).expect("JSON")
    }

    #[test]
    fn what_need_not_change_passes_byte_for_byte() {
        let params = r#"{ "name":"a__b", "arguments" : {"name":"x"} }"#;
        assert_eq!(written(params, &Edit::default()), params);
        let edit = Edit { name: Some("b\"c"), ..Edit::default() };
        assert_eq!(written(params, &edit), r#"{ "name":"b\"c", "arguments" : {"name":"x"} }"#);
    }

    #[test]
    fn a_legacy_request_gets_what_the_modern_era_wants() {
        let context = ModernContext { capabilities: b"{\"roots\":{}}", log_level: Some("info") };
        let edit = Edit { meta: Meta::ToModern(&context), ..Edit::default() };
        let out = written(r#"{"name":"t","_meta":{"progressToken":7,"x/y":1}}"#, &edit);
        let out: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(out["_meta"]["progressToken"], 7);
        assert_eq!(out["_meta"]["x/y"], 1);
        assert_eq!(out["_meta"]["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
        assert!(out["_meta"]["io.modelcontextprotocol/clientCapabilities"]["roots"].is_object());
        assert_eq!(out["_meta"]["io.modelcontextprotocol/logLevel"], "info");
    }

    #[test]
    fn a_modern_request_loses_what_a_legacy_server_does_not_know() {
        let edit = Edit { meta: Meta::ToLegacy, progress_token: Some(9), ..Edit::default() };
        let params = r#"{"name":"t","inputResponses":{},"requestState":"s","task":{},"_meta":
            {"io.modelcontextprotocol/protocolVersion":"2026-07-28","progressToken":"p"}}"#;
        assert_eq!(written(params, &edit), r#"{"name":"t","_meta":{"progressToken":9}}"#);
        let bare = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#;
        assert_eq!(written(bare, &edit), "{}");
    }

    #[test]
    fn a_further_round_carries_responses_and_state() {
        let inputs = Inputs { responses: b"{\"k\":1}", state: Some(b"\"s2\"") };
        let edit = Edit { inputs: Some(inputs), ..Edit::default() };
        let out = written(r#"{"name":"t","requestState":"s1"}"#, &edit);
        assert_eq!(out, r#"{"name":"t","inputResponses":{"k":1},"requestState":"s2"}"#);
    }
}
