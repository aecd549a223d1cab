//! Requests, rendered once: per sending only the id and the session are put in.
//!
//! Invariant: an id has always [`ID_DIGITS`] digits, so `Content-Length` never changes.

use shardgate_proto::http1::client::{RequestStart, write_request};
use shardgate_proto::jsonrpc::write_string;
use shardgate_proto::mcp::version::{Era, ProtocolVersion};

use crate::plan::RunPlan;
use crate::workload::Op;

/// Digits of every id.
pub(crate) const ID_DIGITS: usize = 10;
/// The first id.
const ID_FIRST: u64 = 1_000_000_000;
/// Ids begin again behind this many.
const IDS: u64 = 9_000_000_000;

/// The id of a request, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(pub(crate) [u8; ID_DIGITS]);

impl RequestId {
    /// The id of the request with this number.
    pub(crate) fn of(number: u64) -> RequestId {
        let mut left = ID_FIRST + number % IDS;
        let mut digits = [0; ID_DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (left % 10) as u8;
            left /= 10;
        }
        RequestId(digits)
    }
}

/// A request with a place for its id and one for its session's header line.
#[derive(Clone, Debug)]
pub(crate) struct Rendered {
    bytes: Vec<u8>,
    session_at: usize,
    /// Notifications and requests without a body have none.
    id_at: Option<usize>,
}

impl Rendered {
    fn new(
        method: &str,
        path: &str,
        fixed: &[u8],
        fields: &[(&str, &str)],
        body: Option<&str>,
    ) -> Rendered {
        let start = RequestStart { method, target: path, fixed_fields: fixed };
        let mut bytes = Vec::new();
        let parts = body.map(|body| [body.as_bytes()]);
        write_request(
            &mut bytes,
            &start,
            fields.iter().copied(),
            parts.as_ref().map(|parts| &parts[..]),
        );
        let body_bytes = body.map_or(0, str::len);
        // The header line of the session goes before the empty line.
        let session_at = bytes.len() - body_bytes - b"\r\n".len();
        let place = RequestId::of(0).0;
        let id_at = memchr::memmem::find(&bytes[session_at..], &place).map(|at| session_at + at);
        Rendered { bytes, session_at, id_at }
    }

    /// Appends the request.
    pub(crate) fn write(&self, out: &mut Vec<u8>, id: RequestId, session: Option<&str>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes[..self.session_at]);
        if let Some(session) = session {
            out.extend_from_slice(b"Mcp-Session-Id: ");
            out.extend_from_slice(session.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        let inserted = out.len() - start - self.session_at;
        out.extend_from_slice(&self.bytes[self.session_at..]);
        if let Some(id_at) = self.id_at {
            let id_at = start + inserted + id_at;
            out[id_at..id_at + ID_DIGITS].copy_from_slice(&id.0);
        }
    }
}

/// All requests of a run.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    by_op: Vec<Option<Rendered>>,
}

impl Requests {
    /// Renders what the plan may need. `resource` is the address that is read and
    /// subscribed to, `announcer` the tool that updates it.
    pub(crate) fn render(
        plan: &RunPlan,
        resource: Option<&str>,
        announcer: Option<&str>,
    ) -> Requests {
        let maker = Maker::new(plan);
        let tool = maker.tool_call(&plan.tool, &arguments(plan));
        let uri = |uri| format!(r#"{{"uri":{}}}"#, quoted(uri));
        let mut by_op = vec![None; Op::ALL.len()];
        let mut put = |op: Op, rendered| by_op[op as usize] = rendered;
        put(Op::ToolCall, Some(tool));
        put(Op::ResourceRead, resource.map(|it| maker.call("resources/read", Some(it), &uri(it))));
        put(Op::Announce, announcer.map(|name| maker.tool_call(name, "{}")));
        match plan.revision.era() {
            Era::Legacy => {
                put(Op::Initialize, Some(maker.initialize()));
                put(Op::Initialized, Some(maker.initialized()));
                put(Op::Ping, Some(maker.call("ping", None, "{}")));
                put(Op::Delete, Some(maker.without_body("DELETE")));
                put(Op::OpenStream, Some(maker.without_body("GET")));
                let subscribe = |it| maker.call("resources/subscribe", None, &uri(it));
                put(Op::Subscribe, resource.map(subscribe));
            }
            Era::Modern => {
                put(Op::Discover, Some(maker.call("server/discover", None, "{}")));
                let watched = resource.map_or("[]".to_owned(), |it| format!("[{}]", quoted(it)));
                let wanted =
                    format!(r#"{{"notifications":{{"resourceSubscriptions":{watched}}}}}"#);
                put(Op::OpenStream, Some(maker.call("subscriptions/listen", None, &wanted)));
            }
        }
        Requests { by_op }
    }

    /// The request for `op`.
    ///
    /// # Panics
    /// If the revision has no such request.
    pub(crate) fn of(&self, op: Op) -> &Rendered {
        self.by_op[op as usize].as_ref().expect("only requests of the plan's era are sent")
    }
}

fn arguments(plan: &RunPlan) -> String {
    plan.arguments.clone().unwrap_or_else(|| {
        let payload: String = ('a'..='z').cycle().take(plan.payload_bytes).collect();
        format!(r#"{{"message":"{payload}"}}"#)
    })
}

/// `text` as a JSON string.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = Vec::new();
    write_string(&mut out, text);
    String::from_utf8(out).expect("a JSON string of a string is UTF-8")
}

/// Renders requests to one server in one revision.
pub(crate) struct Maker {
    revision: ProtocolVersion,
    path: String,
    fixed: Vec<u8>,
}

impl Maker {
    pub(crate) fn new(plan: &RunPlan) -> Maker {
        let fields = [
            ("Content-Type", "application/json"),
            ("Accept", "application/json, text/event-stream"),
        ];
        let fixed = RequestStart::fixed_fields(&plan.target.authority, fields);
        Maker { revision: plan.revision, path: plan.target.path.clone(), fixed }
    }

    pub(crate) fn initialize(&self) -> Rendered {
        let id = place();
        let (revision, version) = (self.revision, env!("CARGO_PKG_VERSION"));
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"initialize","params":{{"protocolVersion":"{revision}","capabilities":{{}},"clientInfo":{{"name":"shardgate-bench","version":"{version}"}}}}}}"#
        );
        Rendered::new("POST", &self.path, &self.fixed, &[], Some(&body))
    }

    pub(crate) fn initialized(&self) -> Rendered {
        let body = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let fields = [("MCP-Protocol-Version", self.revision.as_str())];
        Rendered::new("POST", &self.path, &self.fixed, &fields, Some(body))
    }

    pub(crate) fn without_body(&self, method: &str) -> Rendered {
        let fields = [("MCP-Protocol-Version", self.revision.as_str())];
        Rendered::new(method, &self.path, &self.fixed, &fields, None)
    }

    pub(crate) fn tool_call(&self, name: &str, arguments: &str) -> Rendered {
        let params = format!(r#"{{"name":{},"arguments":{arguments}}}"#, quoted(name));
        self.call("tools/call", Some(name), &params)
    }

    /// A call with these parameters, which are a JSON object; `name` is what a modern
    /// request's headers repeat of them.
    pub(crate) fn call(&self, method: &str, name: Option<&str>, params: &str) -> Rendered {
        let id = place();
        let version = ("MCP-Protocol-Version", self.revision.as_str());
        if self.revision.era() == Era::Legacy {
            let body =
                format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
            return Rendered::new("POST", &self.path, &self.fixed, &[version], Some(&body));
        }
        let members = params.strip_prefix('{').expect("parameters are an object");
        let comma = if members == "}" { "" } else { "," };
        // MCP 2026-07-28, basic: these two members of `_meta` are required of every request.
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"{}","io.modelcontextprotocol/clientCapabilities":{{}}}}{comma}{members}}}"#,
            self.revision
        );
        let mut fields = vec![version, ("Mcp-Method", method)];
        fields.extend(name.map(|name| ("Mcp-Name", name)));
        Rendered::new("POST", &self.path, &self.fixed, &fields, Some(&body))
    }
}

/// What stands where the id will be.
fn place() -> String {
    String::from_utf8_lossy(&RequestId::of(0).0).into_owned()
}
