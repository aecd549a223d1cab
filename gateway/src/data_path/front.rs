//! From an HTTP request to an era: the checks that need no session.

use shardgate_proto::http1::{self, Extras, Field, Head, Method as HttpMethod, Status};
use shardgate_proto::jsonrpc::{self, Envelope, Kind, Message as Body};
use shardgate_proto::mcp::modern::{self, INVALID_REQUEST};
use shardgate_proto::mcp::session_id::SessionId;
use shardgate_proto::mcp::version::{Era, ProtocolVersion};
use shardgate_proto::upstream::{RouteId, Upstream};
use shardgate_shard::{Io, ShardId};

use super::answer::Fault;
use super::connection::State;
use super::exchange::{Exchange, Framing, Progress, Work};
use super::legacy::NOT_FOUND;
use super::message::Message;
use super::request::{SessionRequest, Verb};
use super::service::Gateway;
use crate::metrics::{Limit, MeshEvent, Method};

const JSON: &str = "application/json";
const EVENT_STREAM: &str = "text/event-stream";

/// What `Allow` says of `/mcp`.
pub(super) const ALLOWED_METHODS: &str = "POST, GET, DELETE, OPTIONS";

const METHOD_NOT_ALLOWED: Fault<'static> = Fault {
    status: 405,
    code: INVALID_REQUEST,
    message: "this HTTP method is not served here; MCP messages are sent by POST",
    data: None,
    method: Method::Other,
};

impl<U: Upstream> Gateway<U> {
    /// One HTTP request.
    pub(crate) fn route(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        head: &Head<'_>,
        body: &[u8],
    ) {
        if head.method() == HttpMethod::Head {
            return self.answer_head(io, exchange, head);
        }
        if let Some(route) = self.settings.routes.find(head.path()) {
            return self.mcp(io, exchange, route, head, body);
        }
        match head.path() {
            b"/healthz" => self.probe(io, exchange, true),
            b"/readyz" => {
                let ready = !self.draining;
                self.probe(io, exchange, ready);
            }
            _ => {
                let message = "no such path; MCP is served at /mcp and at the paths of [[route]]";
                let fault = Fault::new(404, INVALID_REQUEST, message);
                self.answer_fault(io, exchange, None, &fault);
            }
        }
    }

    /// HEAD: what GET would say, without its body.
    fn answer_head(&mut self, io: &mut Io<'_, Message>, exchange: Exchange, head: &Head<'_>) {
        let status = match head.path() {
            b"/healthz" => 200,
            b"/readyz" if self.draining => 503,
            b"/readyz" => 200,
            path if self.settings.routes.find(path).is_some() => 405,
            _ => 404,
        };
        self.metrics.answered(Method::Probe, crate::metrics::Status::of(status));
        self.write(io, exchange, Progress::Complete, |out, extras| {
            // RFC 9110, 15.5.6: a 405 must say what is allowed.
            let allow = (status == 405).then_some(ALLOWED_METHODS);
            http1::write_empty(out, Status(status), &Extras { allow, ..*extras });
        });
    }

    fn probe(&mut self, io: &mut Io<'_, Message>, exchange: Exchange, good: bool) {
        let (status, text) = if good { (200, "ok\n") } else { (503, "draining\n") };
        self.metrics.answered(Method::Probe, crate::metrics::Status::of(status));
        self.write(io, exchange, Progress::Complete, |out, extras| {
            http1::write_body_head(out, Status(status), "text/plain", extras, text.len());
            out.extend_from_slice(text.as_bytes());
        });
    }

    fn mcp(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        route: RouteId,
        head: &Head<'_>,
        body: &[u8],
    ) {
        if let Some(fault) = self.check_site(head) {
            // Not even the refusal is for a foreign page to read.
            let http = Framing { for_page: false, ..exchange.http };
            return self.answer_fault(io, Exchange { http, ..exchange }, None, &fault);
        }
        match head.method() {
            HttpMethod::Post => self.post(io, exchange, route, head, body),
            HttpMethod::Get | HttpMethod::Delete => self.without_body(io, exchange, route, head),
            HttpMethod::Options if head.origin().is_some() => self.preflight(io, exchange),
            HttpMethod::Options | HttpMethod::Head | HttpMethod::Other => {
                self.answer_fault(io, exchange, None, &METHOD_NOT_ALLOWED);
            }
        }
    }

    /// A browser asks whether a page may send what it wants to send. Whether the page's
    /// origin may at all has been checked already.
    fn preflight(&mut self, io: &mut Io<'_, Message>, exchange: Exchange) {
        const ALLOWED: &[(&str, &str)] = &[
            ("Access-Control-Allow-Origin", "*"),
            ("Access-Control-Allow-Methods", ALLOWED_METHODS),
            // A star would not cover Authorization.
            ("Access-Control-Allow-Headers", "*, Authorization"),
            ("Access-Control-Max-Age", "7200"),
        ];
        self.metrics.answered(Method::Other, crate::metrics::Status::S204);
        self.write(io, exchange, Progress::Complete, |out, extras| {
            http1::write_empty(out, Status::NO_CONTENT, &Extras { more: ALLOWED, ..*extras });
        });
    }

    /// Host and Origin: a browser may have been led here (DNS rebinding).
    fn check_site(&mut self, head: &Head<'_>) -> Option<Fault<'static>> {
        let host = head.authority().unwrap_or_default();
        // All requests of a load balancer, or of one client, name the same host.
        if self.host_permitted_last.as_deref() != Some(host) {
            if !self.settings.hosts.permits(host) {
                let message = "this Host is not served here; add it to listen.allowed_hosts if \
                               it should be";
                return Some(Fault::new(403, INVALID_REQUEST, message));
            }
            self.host_permitted_last = Some(host.into());
        }
        // MCP 2025-11-25, transports: "If the Origin header is present and
        // invalid, servers MUST respond with HTTP 403 Forbidden."
        if head.origin().is_some_and(|origin| !self.settings.origins.permits(origin)) {
            let message = "pages of this Origin may not call this server; add it to \
                           listen.allowed_origins if they should";
            return Some(Fault::new(403, INVALID_REQUEST, message));
        }
        None
    }

    fn post(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        route: RouteId,
        head: &Head<'_>,
        body: &[u8],
    ) {
        if !head.content_type_is(JSON) {
            let message = "Content-Type must be application/json";
            let fault = Fault::new(415, INVALID_REQUEST, message);
            return self.answer_fault(io, exchange, None, &fault);
        }
        // MCP, transports: the client "MUST include an Accept header, listing
        // both application/json and text/event-stream".
        if !accepts_both(head) {
            let message = "Accept must list both application/json and text/event-stream";
            let fault = Fault::new(406, INVALID_REQUEST, message);
            return self.answer_fault(io, exchange, None, &fault);
        }
        let parsed = match jsonrpc::scan(body, &self.settings.json) {
            Ok(parsed) => parsed,
            Err(refused) => return self.answer_unreadable(io, exchange, &refused),
        };
        match &parsed {
            Body::Single(envelope) if is_modern(head, envelope) => {
                self.modern_message(io, exchange, route, head, envelope);
            }
            Body::Single(_) | Body::Batch(_) => {
                self.legacy_post(io, exchange, route, head, (body, &parsed));
            }
        }
    }

    fn legacy_post(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        route: RouteId,
        head: &Head<'_>,
        (body, parsed): (&[u8], &Body<'_>),
    ) {
        if head.mcp_session_id().is_none()
            && let Body::Single(envelope) = parsed
            && let Kind::Request(id) = envelope.kind()
            && envelope.method() == "initialize"
        {
            return self.initialize(io, exchange, route, envelope, id);
        }
        let session = match self.check_session(head) {
            Ok(session) => session,
            Err(fault) => {
                let fault = fault.to(method_of(parsed));
                return self.answer_fault(io, exchange, id_of(parsed), &fault);
            }
        };
        let owner = self.owner_of(io, session);
        if owner != io.shard() {
            let verb = Verb::Messages;
            let request = SessionRequest { verb, route, session, last_event_id: None, body };
            return self.hand_over(io, exchange, owner, &request);
        }
        let Some(key) = self.touch(io, route, session) else {
            let fault = NOT_FOUND.to(method_of(parsed));
            return self.answer_fault(io, exchange, id_of(parsed), &fault);
        };
        self.session_body(io, exchange, key, parsed);
    }

    /// GET and DELETE.
    fn without_body(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        route: RouteId,
        head: &Head<'_>,
    ) {
        let modern = modern::is_modern(head.mcp_protocol_version(), None);
        if modern {
            // MCP 2026-07-28: no sessions, so nothing to listen to and nothing to end.
            return self.answer_fault(io, exchange, None, &METHOD_NOT_ALLOWED);
        }
        let verb = if head.method() == HttpMethod::Get { Verb::Listen } else { Verb::End };
        if verb == Verb::Listen && !head.accepts(EVENT_STREAM) {
            let fault = Fault::new(406, INVALID_REQUEST, "Accept must list text/event-stream")
                .to(Method::StreamGet);
            return self.answer_fault(io, exchange, None, &fault);
        }
        let session = match self.check_session(head) {
            Ok(session) => session,
            Err(fault) => {
                let fault = fault.to(verb.method());
                return self.answer_fault(io, exchange, None, &fault);
            }
        };
        let last_event_id = head.last_event_id();
        let request = SessionRequest { verb, route, session, last_event_id, body: b"" };
        let owner = self.owner_of(io, session);
        if owner == io.shard() {
            self.session_request(io, exchange, &request);
        } else {
            self.hand_over(io, exchange, owner, &request);
        }
    }

    /// The session a request names, authenticated, and its revision header.
    fn check_session(&self, head: &Head<'_>) -> Result<SessionId, Fault<'static>> {
        // "Servers that require a session ID SHOULD respond to requests without an
        // Mcp-Session-Id header (other than initialization) with HTTP 400 Bad Request."
        let text = head.mcp_session_id().ok_or(Fault::new(
            400,
            INVALID_REQUEST,
            "Mcp-Session-Id is missing; send initialize first, or use protocol version \
             2026-07-28, which has no sessions",
        ))?;
        let session = self.settings.ids.parse(text).map_err(|_| NOT_FOUND)?;
        // "If the server receives a request with an invalid or unsupported
        // MCP-Protocol-Version, it MUST respond with 400 Bad Request."
        match head.mcp_protocol_version().map(ProtocolVersion::parse) {
            None => Ok(session),
            Some(Some(version)) if version.era() == Era::Legacy => Ok(session),
            Some(_) => Err(Fault::new(
                400,
                INVALID_REQUEST,
                "MCP-Protocol-Version is not one this server supports; use the one that \
                 initialize agreed on",
            )),
        }
    }

    pub(crate) fn owner_of(&self, io: &Io<'_, Message>, session: SessionId) -> ShardId {
        ShardId(session.vshard.shard(io.shards() as u16))
    }

    /// A request for a session of another shard: the connection moves there if it
    /// opens a stream or has come back several times, else the request alone goes.
    fn hand_over(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        owner: ShardId,
        request: &SessionRequest<'_>,
    ) {
        let Some(connection) = self.connections.connection(exchange.conn) else { return };
        // A connection whose client has closed its half, or a draining node's, doesn't move.
        let may_move = !connection.eof && !self.draining;
        let wants_move = connection.forward_counts_as_move(owner) || request.verb == Verb::Listen;
        if may_move && wants_move {
            connection.state = State::Moving(owner, request.to_boxed(), exchange.http);
        } else {
            self.forward(io, exchange, owner, request);
        }
    }

    pub(crate) fn forward(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        owner: ShardId,
        request: &SessionRequest<'_>,
    ) {
        if io.has_ended(owner) {
            // The session has ended with its shard.
            let id = request.id(&self.settings.json);
            let fault = NOT_FOUND.to(request.method(&self.settings.json));
            return self.answer_fault(io, exchange, id, &fault);
        }
        self.metrics.mesh(MeshEvent::Forwarded);
        let message = Message::Forward { exchange, request: request.to_boxed() };
        // A request, unlike an answer, may be refused: nothing was accepted yet.
        if self.nothing_deferred(owner) && io.send(owner, message).is_ok() {
            self.set_work(io, exchange, Work::Forwarded(owner));
        } else {
            self.metrics.mesh(MeshEvent::Full);
            let id = request.id(&self.settings.json);
            let method = request.method(&self.settings.json);
            self.answer_limit(io, exchange, id, method, (Limit::MeshDepth, 503));
        }
    }

    /// The answer to a body that is no JSON-RPC message.
    pub(crate) fn answer_unreadable(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        refused: &jsonrpc::Fault<'_>,
    ) {
        if refused.problem == jsonrpc::Problem::Depth {
            self.metrics.refused(Limit::JsonDepth);
        }
        let message = refused.to_string();
        let fault = Fault::new(400, refused.code().0, &message);
        self.answer_fault(io, exchange, refused.id.map(jsonrpc::Id::raw), &fault);
    }
}

/// Whether the answer may be JSON and may be a stream.
fn accepts_both(head: &Head<'_>) -> bool {
    // Nearly all clients write it just so; a list that is longer takes nothing back.
    const USUAL: &[u8] = b"application/json, text/event-stream";
    head.field(Field::Accept) == Some(USUAL) || (head.accepts(JSON) && head.accepts(EVENT_STREAM))
}

/// The id an answer to this body bears: a batch as a whole has none.
fn id_of<'a>(parsed: &Body<'a>) -> Option<&'a [u8]> {
    match parsed {
        Body::Single(envelope) => envelope.id().map(jsonrpc::Id::raw),
        Body::Batch(_) => None,
    }
}

/// What a body asks for.
fn method_of(parsed: &Body<'_>) -> Method {
    match parsed {
        Body::Single(envelope) => Method::of(&envelope.method()),
        Body::Batch(_) => Method::Other,
    }
}

fn is_modern(head: &Head<'_>, envelope: &Envelope<'_>) -> bool {
    let header = head.mcp_protocol_version();
    // A `_meta` version of the wrong kind is judged with the rest of `_meta`.
    envelope.names_protocol_version() || modern::is_modern(header, None)
}
