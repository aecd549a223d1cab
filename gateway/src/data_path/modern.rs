//! The modern era: every request stands alone (MCP 2026-07-28).

use shardgate_proto::http1::Head;
use shardgate_proto::jsonrpc::{self, Envelope, Id, Kind};
use shardgate_proto::mcp::modern::{self, INVALID_REQUEST, ModernBody, ModernHeaders, Refusal};
use shardgate_proto::mcp::version::ProtocolVersion;
use shardgate_proto::upstream::{Call, CallKey, Caller, RouteId, Upstream};
use shardgate_shard::Io;

use super::answer::Fault;
use super::calls::{PendingCall, RequestId};
use super::exchange::{Exchange, Work};
use super::message::Message;
use super::service::{Gateway, SERVER_INFO};
use crate::metrics::{Method, Status};

/// How long a client may keep what `server/discover` said: it changes with releases only.
const DISCOVER_TTL_MS: u32 = 300_000;

const VERSION: ProtocolVersion = ProtocolVersion::V2026_07_28;

impl<U: Upstream> Gateway<U> {
    /// One POST of the modern era.
    pub(crate) fn modern_message(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        route: RouteId,
        head: &Head<'_>,
        envelope: &Envelope<'_>,
    ) {
        match envelope.kind() {
            Kind::Request(id) => match self.check_modern(route, head, envelope) {
                Ok(()) => self.modern_call(io, exchange, route, envelope, id.raw()),
                Err(refusal) => {
                    let fault = Fault {
                        status: refusal.status,
                        code: refusal.code,
                        message: &refusal.message,
                        data: refusal.data.as_deref(),
                        method: Method::of(&envelope.method()),
                    };
                    self.answer_fault(io, exchange, Some(id.raw()), &fault);
                }
            },
            Kind::Notification => match check_notification(head, envelope) {
                // Nothing a modern client notifies of concerns a gateway without sessions.
                Ok(()) => {
                    self.metrics.answered(Method::Notification, Status::S202);
                    self.answer_empty(io, exchange, 202);
                }
                Err(refusal) => {
                    let fault = Fault::new(refusal.status, refusal.code, &refusal.message);
                    self.answer_fault(io, exchange, None, &fault.to(Method::Notification));
                }
            },
            Kind::Result(_) | Kind::Error { .. } => {
                let message = "clients send no responses in this protocol version; answer \
                               input_required by retrying the request with inputResponses";
                let fault = Fault::new(400, INVALID_REQUEST, message);
                let id = envelope.id().map(Id::raw);
                self.answer_fault(io, exchange, id, &fault);
            }
        }
    }

    fn check_modern(
        &self,
        route: RouteId,
        head: &Head<'_>,
        envelope: &Envelope<'_>,
    ) -> Result<(), Refusal> {
        let headers = ModernHeaders {
            version: head.mcp_protocol_version(),
            method: head.mcp_method(),
            name: head.mcp_name(),
        };
        let method = envelope.method();
        // A parameter of the wrong kind mirrors nothing; its method will say so.
        let version = envelope.protocol_version().ok().flatten();
        let name = envelope.name().ok().flatten();
        let uri = envelope.uri().ok().flatten();
        let task_id = envelope.task_id().ok().flatten();
        let capabilities = envelope.client_capabilities();
        let body = ModernBody {
            method: &method,
            version: version.as_deref(),
            has_client_capabilities: capabilities.is_some_and(|text| text.starts_with(b"{")),
            name: name.as_deref(),
            uri: uri.as_deref(),
            task_id: task_id.as_deref(),
        };
        modern::check(&headers, &body)?;
        match (&*method, name.as_deref()) {
            ("tools/call", Some(tool)) => self.check_parameters(route, head, envelope, tool),
            _ => Ok(()),
        }
    }

    fn check_parameters(
        &self,
        route: RouteId,
        head: &Head<'_>,
        envelope: &Envelope<'_>,
        tool: &str,
    ) -> Result<(), Refusal> {
        let mirrored = self.upstream.header_parameters(route, tool);
        if mirrored.is_empty() {
            return Ok(());
        }
        let arguments = envelope.params().and_then(|params| jsonrpc::member(params, "arguments"));
        for parameter in mirrored {
            let field = format!("mcp-param-{}", parameter.header);
            let mut values = head.values(&field);
            let header = values.next();
            if values.next().is_some() {
                // Whoever reads the other one would be told something else.
                return Err(Refusal::repeated(&parameter.header));
            }
            let argument = arguments.and_then(|text| parameter.value_in(text));
            modern::check_parameter(parameter, header, argument)?;
        }
        Ok(())
    }

    fn modern_call(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        route: RouteId,
        envelope: &Envelope<'_>,
        id: &[u8],
    ) {
        let method = envelope.method();
        if self.draining && method == "subscriptions/listen" {
            return self.answer_draining(io, exchange, id, Method::of(&method));
        }
        let started_ns = io.turn_began_ns();
        let key = self.calls.insert(|key| PendingCall {
            key,
            session: None,
            exchange: Some(exchange),
            stream: None,
            streaming: false,
            in_flight: false,
            for_task: false,
            id: RequestId::new(id),
            version: VERSION,
            method: Method::of(&method),
            started_ns,
        });
        if method == "server/discover" {
            let result = self.discover_result();
            self.events.result(key, |out| out.extend_from_slice(&result));
        } else {
            let now = self.now(io);
            match envelope.name() {
                Ok(name) => {
                    let call = Call {
                        key,
                        caller: Caller::Stateless,
                        route,
                        version: VERSION,
                        id,
                        method: &method,
                        params: envelope.params(),
                        name: name.as_deref(),
                    };
                    if !self.take_as_task(&call, envelope) {
                        self.upstream.handle_call(&call, now, &mut self.events);
                    }
                }
                Err(fault) => self.answer_bad_parameter(key, &fault),
            }
        }
        self.relay(io);
        if let Some(call) = self.calls.call(key) {
            let streaming = call.streaming;
            call.in_flight = true;
            if !streaming {
                self.set_work(io, exchange, Work::Call(key));
            }
        }
    }

    fn discover_result(&self) -> Vec<u8> {
        let description = self.upstream.describe(VERSION);
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(b"{\"resultType\":\"complete\",\"supportedVersions\":[");
        jsonrpc::write_string(&mut out, VERSION.as_str());
        out.extend_from_slice(b"],\"capabilities\":");
        out.extend_from_slice(description.capabilities.as_bytes());
        if let Some(instructions) = &description.instructions {
            out.extend_from_slice(b",\"instructions\":");
            jsonrpc::write_string(&mut out, instructions);
        }
        let tail = format!(
            ",\"ttlMs\":{DISCOVER_TTL_MS},\"cacheScope\":\"public\",\"_meta\":\
             {{\"io.modelcontextprotocol/serverInfo\":{SERVER_INFO}}}}}"
        );
        out.extend_from_slice(tail.as_bytes());
        out
    }

    /// The client closed the connection of a modern call, which cancels it
    /// (MCP 2026-07-28: "closing the SSE response stream" is the cancellation).
    pub(crate) fn cancel_modern(&mut self, io: &mut Io<'_, Message>, key: CallKey) {
        let Some(call) = self.calls.remove(key) else { return };
        self.streams_open -= usize::from(call.streaming);
        let now = self.now(io);
        self.metrics.request(call.method, Status::Other, io.clock_ns() - call.started_ns);
        self.give_up_asked(key);
        self.upstream.cancel(key, now, &mut self.events);
        self.relay(io);
    }
}

/// A notification names its method in a header too (MCP 2026-07-28, Streamable HTTP:
/// `Mcp-Method` on every POST), and a revision only if it likes.
fn check_notification(head: &Head<'_>, envelope: &Envelope<'_>) -> Result<(), Refusal> {
    let version = envelope.protocol_version().ok().flatten();
    modern::check_notification(
        head.mcp_protocol_version(),
        head.mcp_method(),
        version.as_deref(),
        &envelope.method(),
    )
}
