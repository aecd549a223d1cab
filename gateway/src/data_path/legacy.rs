//! The legacy era: sessions opened by `initialize`, streams that can be resumed.
//!
//! Spec references are to MCP 2025-11-25, basic/transports (Streamable HTTP).

use shardgate_proto::http1::{self, Extras, Status};
use shardgate_proto::jsonrpc::{self, Batch, Envelope, ErrorCode, Id, Kind, Message as Body};
use shardgate_proto::mcp::modern::{
    INVALID_PARAMS, INVALID_REQUEST, LIMIT_REACHED, METHOD_NOT_FOUND, SESSION_NOT_FOUND,
};
use shardgate_proto::mcp::session::{CallRefused, Resumption, Session, StreamRefused};
use shardgate_proto::mcp::session_id::SessionId;
use shardgate_proto::mcp::stream::{Epoch, StreamNumber};
use shardgate_proto::mcp::version::{Era, ProtocolVersion};
use shardgate_proto::sse;
use shardgate_proto::upstream::{
    Call, CallKey, Caller, Notification, Outcome, RouteId, SessionKey, Upstream,
};
use shardgate_shard::Io;

use super::answer::Fault;
use super::calls::{PendingCall, RequestId};
use super::exchange::{Exchange, Progress, Work};
use super::message::Message;
use super::relay::write_event_text;
use super::request::{SessionRequest, Verb};
use super::service::Gateway;
use super::session_state::SessionState;
use crate::metrics::{Limit, Method, SessionEvent, Status as MetricStatus, StreamEvent};

/// One node alone owns every virtual shard since its start.
const EPOCH: Epoch = Epoch(1);

pub(super) const NOT_FOUND: Fault<'static> = Fault {
    status: 404,
    code: SESSION_NOT_FOUND,
    message: "session not found: it has ended, expired, or was never issued here; send initialize \
              without Mcp-Session-Id to open a new one",
    data: None,
    method: Method::Other,
};

const GOING_DOWN: Fault<'static> = Fault {
    status: 503,
    code: LIMIT_REACHED,
    message: "this node is going down; try again after 1 s at another one",
    data: None,
    method: Method::Other,
};

/// Where the messages of one POST are answered.
#[derive(Clone, Copy)]
enum AnswerPlace {
    /// A lone request: its exchange.
    Exchange(Exchange),
    /// A request of a batch: the batch's stream.
    Batch(StreamNumber),
}

impl<U: Upstream> Gateway<U> {
    /// `initialize`: makes a session on this shard.
    pub(crate) fn initialize(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        route: RouteId,
        envelope: &Envelope<'_>,
        id: Id<'_>,
    ) {
        let id = id.raw();
        let started_ns = io.turn_began_ns();
        let Some(params) = InitializeParams::read(envelope) else {
            let message = "initialize needs params.protocolVersion (a string) and \
                           params.capabilities (an object)";
            let fault = Fault::new(400, INVALID_PARAMS, message).to(Method::Initialize);
            return self.answer_fault(io, exchange, Some(id), &fault);
        };
        if self.draining {
            return self.answer_draining(io, exchange, id, Method::Initialize);
        }
        if self.sessions.len() >= self.settings.sessions_max {
            let limit = (Limit::Sessions, 503);
            return self.answer_limit(io, exchange, Some(id), Method::Initialize, limit);
        }
        let version = params.negotiated();
        let session = SessionId { vshard: self.own_vshard(io), random: self.random() };
        let now = self.now(io);
        let machine = Session::new(version, EPOCH);
        let capabilities = self.kept_capabilities(version, params.capabilities);
        let state = SessionState { machine, route, capabilities, last_active: now, timer: None };
        let key = self.sessions.insert(session, state);
        self.metrics.session(SessionEvent::Created);
        self.upstream.open_session(key, route, version, params.capabilities);
        self.watch_session(io, key, self.settings.idle_session_ms);

        let mut result = Vec::with_capacity(512);
        self.write_initialize_result(&mut result, version);
        let mut body = Vec::with_capacity(result.len() + 64);
        jsonrpc::write_result(&mut body, id, &result);
        let session_id = self.settings.ids.to_text(session);
        let elapsed_ns = io.clock_ns().saturating_sub(started_ns);
        self.metrics.request(Method::Initialize, MetricStatus::S200, elapsed_ns);
        self.write(io, exchange, Progress::Complete, |out, extras| {
            let extras = Extras { session_id: Some(&session_id), ..*extras };
            http1::write_json(out, Status::OK, &extras, &body);
        });
    }

    fn write_initialize_result(&self, out: &mut Vec<u8>, version: ProtocolVersion) {
        let description = self.upstream.describe(version);
        out.extend_from_slice(b"{\"protocolVersion\":");
        jsonrpc::write_string(out, version.as_str());
        out.extend_from_slice(b",\"capabilities\":");
        out.extend_from_slice(description.capabilities.as_bytes());
        out.extend_from_slice(b",\"serverInfo\":");
        out.extend_from_slice(super::service::SERVER_INFO.as_bytes());
        if let Some(instructions) = description.instructions {
            out.extend_from_slice(b",\"instructions\":");
            jsonrpc::write_string(out, &instructions);
        }
        out.push(b'}');
    }

    /// A request for a session of this shard, from here or from another shard.
    pub(crate) fn session_request(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        request: &SessionRequest<'_>,
    ) {
        let Some(session) = self.touch(io, request.route, request.session) else {
            let id = request.id(&self.settings.json);
            let fault = NOT_FOUND.to(request.method(&self.settings.json));
            return self.answer_fault(io, exchange, id, &fault);
        };
        match request.verb {
            Verb::Listen => self.listen(io, exchange, session, request.last_event_id),
            Verb::End => {
                self.metrics.answered(Method::SessionDelete, MetricStatus::S200);
                self.end_session(io, session, SessionEvent::Deleted);
                self.answer_empty(io, exchange, 200);
            }
            // Scanned once where it came in; its ranges don't cross shards, its bytes do.
            Verb::Messages => match jsonrpc::scan(request.body, &self.settings.json) {
                Ok(parsed) => self.session_body(io, exchange, session, &parsed),
                Err(refused) => self.answer_unreadable(io, exchange, &refused),
            },
        }
    }

    /// The session's key, with its idle clock set back. A session is not found on another
    /// path than its own: what one route hides, the id of a session on it must not open.
    pub(crate) fn touch(
        &mut self,
        io: &Io<'_, Message>,
        route: RouteId,
        id: SessionId,
    ) -> Option<SessionKey> {
        let key = self.sessions.find(id)?;
        let now = self.now(io);
        let entry = self.sessions.session(key).filter(|entry| entry.route == route)?;
        entry.last_active = now;
        Some(key)
    }

    /// The body of one POST.
    pub(crate) fn session_body(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        session: SessionKey,
        parsed: &Body<'_>,
    ) {
        match parsed {
            Body::Single(envelope) => self.session_message(io, exchange, session, envelope),
            Body::Batch(batch) => {
                self.batch(io, exchange, session, batch);
                self.relay(io);
            }
        }
    }

    /// One message.
    fn session_message(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        session: SessionKey,
        envelope: &Envelope<'_>,
    ) {
        if let Kind::Request(id) = envelope.kind() {
            self.call(io, AnswerPlace::Exchange(exchange), session, envelope, id.raw());
        } else {
            self.one_way(io, session, envelope);
            self.answer_empty(io, exchange, 202);
            self.relay(io);
        }
    }

    /// A batch (2025-03-26: "implementations MUST support receiving"; gone from 2025-06-18 on).
    fn batch(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        session: SessionKey,
        batch: &Batch<'_>,
    ) {
        let Some(entry) = self.sessions.session(session) else { return };
        let version = entry.machine.version();
        let faulty = if version > ProtocolVersion::V2025_03_26 {
            Some("batches do not exist in this session's protocol version; send one message a POST")
        } else if batch.messages().flatten().any(|message| message.method() == "initialize") {
            Some("initialize must not be part of a batch")
        } else {
            None
        };
        if let Some(message) = faulty {
            let fault = Fault::new(400, INVALID_REQUEST, message);
            return self.answer_fault(io, exchange, None, &fault);
        }
        // What can't be read is answered like a request: with an error.
        let answers =
            batch.messages().filter(|message| message.as_ref().map_or(true, is_request)).count();
        if answers == 0 {
            for envelope in batch.messages().flatten() {
                self.one_way(io, session, &envelope);
            }
            return self.answer_empty(io, exchange, 202);
        }
        let (now, limits) = (self.now(io), self.settings.session);
        let Some(entry) = self.sessions.session(session) else { return };
        let open = u16::try_from(answers).expect("the JSON limits bound batches");
        let stream = entry.machine.open_calls(open, Some(exchange), now, &limits);
        self.begin_carrier(io, exchange, session, stream);
        for message in batch.messages() {
            match message {
                Ok(envelope) => match envelope.kind() {
                    Kind::Request(id) => {
                        self.call(io, AnswerPlace::Batch(stream), session, &envelope, id.raw());
                    }
                    Kind::Notification | Kind::Result(_) | Kind::Error { .. } => {
                        self.one_way(io, session, &envelope);
                    }
                },
                Err(refused) => self.answer_in_batch(io, session, stream, &refused),
            }
        }
    }

    /// One request.
    fn call(
        &mut self,
        io: &mut Io<'_, Message>,
        place: AnswerPlace,
        session: SessionKey,
        envelope: &Envelope<'_>,
        id: &[u8],
    ) {
        let started_ns = io.turn_began_ns();
        let limits = self.settings.session;
        let Some(entry) = self.sessions.session(session) else { return };
        let (version, route) = (entry.machine.version(), entry.route);
        let method = envelope.method();
        let admitted = entry.machine.admit_call(id, &limits);
        let (exchange, stream) = match place {
            AnswerPlace::Exchange(exchange) => (Some(exchange), None),
            AnswerPlace::Batch(stream) => (None, Some(stream)),
        };
        let key = self.calls.insert(|key| PendingCall {
            key,
            session: Some(session),
            exchange,
            stream,
            streaming: false,
            in_flight: false,
            for_task: false,
            id: RequestId::new(id),
            version,
            method: Method::of(&method),
            started_ns,
        });
        if let Err(refused) = admitted {
            return self.refuse_call(io, key, exchange, id, refused);
        }
        match &*method {
            "ping" => self.events.result(key, |out| out.extend_from_slice(b"{}")),
            "initialize" => return self.refuse_initialize(io, key, id),
            "server/discover" | "subscriptions/listen" => {
                let text = "this method exists in protocol version 2026-07-28 only, without a \
                            session";
                self.events.error(key, METHOD_NOT_FOUND, |out| {
                    jsonrpc::write_error_object(out, ErrorCode(METHOD_NOT_FOUND), text, None);
                });
            }
            _ => {
                let now = self.now(io);
                match envelope.name() {
                    Ok(name) => {
                        let call = Call {
                            key,
                            caller: Caller::Session(session),
                            route,
                            version,
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
        }
        self.relay(io);
        self.await_answer(io, key);
    }

    /// A call that was not answered at once is in flight from here on.
    fn await_answer(&mut self, io: &mut Io<'_, Message>, key: CallKey) {
        let Some(call) = self.calls.call(key) else { return };
        call.in_flight = true;
        let (waiting, session) = (call.exchange, call.session);
        let id = call.id.clone();
        if let Some(session) = session
            && let Some(entry) = self.sessions.session(session)
        {
            entry.machine.begin_call(id.as_bytes(), key);
        }
        if let Some(exchange) = waiting {
            self.set_work(io, exchange, Work::Call(key));
        }
    }

    /// The answer to a batch's message that is none.
    fn answer_in_batch(
        &mut self,
        io: &mut Io<'_, Message>,
        session: SessionKey,
        stream: StreamNumber,
        refused: &jsonrpc::Fault<'_>,
    ) {
        self.metrics.rpc_error(refused.code().0);
        let mut message = Vec::new();
        refused.write(&mut message);
        self.record(io, session, stream, &message);
        self.answered_on_stream(io, session, stream);
    }

    pub(crate) fn answer_bad_parameter(&mut self, key: CallKey, fault: &jsonrpc::Fault<'_>) {
        let text = fault.to_string();
        self.events.error(key, fault.code().0, |out| {
            jsonrpc::write_error_object(out, fault.code(), &text, None);
        });
    }

    fn refuse_initialize(&mut self, io: &mut Io<'_, Message>, key: CallKey, id: &[u8]) {
        let Some(call) = self.calls.remove(key) else { return };
        let message = "this session is initialized already; send initialize without \
                       Mcp-Session-Id to open another";
        if let Some(exchange) = call.exchange {
            let fault = Fault::new(400, INVALID_REQUEST, message).to(Method::Initialize);
            self.answer_fault(io, exchange, Some(id), &fault);
        }
    }

    /// While the node drains, it takes nothing new.
    pub(crate) fn answer_draining(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        id: &[u8],
        method: Method,
    ) {
        self.answer_fault(io, exchange, Some(id), &GOING_DOWN.to(method));
    }

    fn refuse_call(
        &mut self,
        io: &mut Io<'_, Message>,
        key: CallKey,
        exchange: Option<Exchange>,
        id: &[u8],
        refused: CallRefused,
    ) {
        let method = self.calls.call(key).map_or(Method::Other, |call| call.method);
        match (refused, exchange) {
            (CallRefused::TooMany(_), Some(exchange)) => {
                self.calls.remove(key);
                let limit = (Limit::InFlightPerSession, 429);
                self.answer_limit(io, exchange, Some(id), method, limit);
            }
            (CallRefused::DuplicateId, Some(exchange)) => {
                self.calls.remove(key);
                let message = refused.to_string();
                let fault = Fault::new(400, INVALID_REQUEST, &message).to(method);
                self.answer_fault(io, exchange, Some(id), &fault);
            }
            (_, None) => {
                let text = refused.to_string();
                self.events.error(key, INVALID_REQUEST, |out| {
                    jsonrpc::write_error_object(out, ErrorCode(INVALID_REQUEST), &text, None);
                });
                self.relay(io);
            }
        }
    }

    /// A notification, or the reply to a request of ours.
    fn one_way(&mut self, io: &mut Io<'_, Message>, session: SessionKey, envelope: &Envelope<'_>) {
        let (id, outcome, body) = match envelope.kind() {
            Kind::Result(id) => (id, Outcome::Result, envelope.result()),
            Kind::Error { id: Some(id), code } => (id, Outcome::Error(code), envelope.error()),
            // An error that names no request can't be told to anybody.
            Kind::Error { id: None, .. } | Kind::Request(_) => return,
            Kind::Notification => return self.notified(io, session, envelope),
        };
        self.metrics.answered(Method::Response, MetricStatus::S202);
        let Some(entry) = self.sessions.session(session) else { return };
        // A reply to nothing is late or doubled: it has no effect.
        let Some(ask) = entry.machine.take_ask(id.raw()) else { return };
        let body = body.unwrap_or(b"null");
        self.take_reply(io, ask, outcome, body);
    }

    fn notified(&mut self, io: &mut Io<'_, Message>, session: SessionKey, envelope: &Envelope<'_>) {
        let now = self.now(io);
        self.metrics.answered(Method::Notification, MetricStatus::S202);
        match &*envelope.method() {
            "notifications/initialized" => {}
            "notifications/cancelled" => self.cancelled(io, session, envelope),
            method => {
                let notification = Notification {
                    caller: Caller::Session(session),
                    method,
                    params: envelope.params(),
                };
                self.upstream.handle_notification(&notification, now, &mut self.events);
            }
        }
    }

    /// `notifications/cancelled`: the one call it names stops, and its exchange
    /// ends without an answer ("not send a response for the cancelled request").
    fn cancelled(
        &mut self,
        io: &mut Io<'_, Message>,
        session: SessionKey,
        envelope: &Envelope<'_>,
    ) {
        let Ok(Some(id)) = envelope.request_id() else { return };
        let Some(entry) = self.sessions.session(session) else { return };
        let Some(key) = entry.machine.find_call(id.raw()) else { return };
        self.give_up_call(io, key);
    }

    /// Ends a legacy call that nobody wants any more.
    fn give_up_call(&mut self, io: &mut Io<'_, Message>, key: CallKey) {
        let now = self.now(io);
        let Some(call) = self.calls.remove(key) else { return };
        if let Some(exchange) = call.exchange {
            // It waits for plain JSON and ends as an empty stream: HTTP has no way to
            // answer "nothing". Without a priming event nobody comes back for it.
            self.write_stream_head(io, exchange);
            self.end_stream(io, exchange, None);
        }
        self.give_up_asked(key);
        self.upstream.cancel(key, now, &mut self.events);
        let Some(session) = call.session else { return };
        let Some(entry) = self.sessions.session(session) else { return };
        entry.machine.end_call(key);
        if let Some(stream) = call.stream
            && entry.machine.answer_recorded(stream)
        {
            self.end_carrier(io, session, stream, None);
        }
    }

    /// GET: a standing stream, or the rest of one that broke.
    fn listen(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        session: SessionKey,
        last_event_id: Option<&[u8]>,
    ) {
        let now = self.now(io);
        let limits = self.settings.session;
        if self.draining && last_event_id.is_none() {
            // It would have to end at once.
            return self.answer_fault(io, exchange, None, &GOING_DOWN.to(Method::StreamGet));
        }
        let Some(entry) = self.sessions.session(session) else { return };
        let opened = match last_event_id {
            Some(event) => entry.machine.resume(event, exchange, now),
            None => entry.machine.open_standing(exchange, now, &limits),
        };
        let resumption = match opened {
            Ok(resumption) => resumption,
            Err(StreamRefused::TooMany(_)) => {
                let limit = (Limit::StreamsPerSession, 429);
                return self.answer_limit(io, exchange, None, Method::StreamGet, limit);
            }
            Err(StreamRefused::UnknownEvent) => {
                let message = StreamRefused::UnknownEvent.to_string();
                let fault = Fault::new(400, INVALID_REQUEST, &message).to(Method::StreamGet);
                return self.answer_fault(io, exchange, None, &fault);
            }
        };
        self.metrics.answered(Method::StreamGet, MetricStatus::S200);
        self.streams_open += 1;
        if last_event_id.is_some() {
            self.metrics.session(SessionEvent::Resumed);
        }
        if let Some(replaced) = resumption.replaced {
            self.streams_open -= 1;
            self.end_stream(io, replaced, None);
        }
        self.write_stream_head(io, exchange);
        self.set_work(io, exchange, Work::Stream(session, resumption.stream));
        let replayed = self.replay(io, exchange, session, &resumption);
        if last_event_id.is_none() && replayed == 0 {
            // Without an event id a cut before the first event could not be resumed.
            self.prime(io, exchange, session, resumption.stream);
        }
        self.end_if_draining(io, session, resumption.stream);
    }

    /// While draining, a standing stream only brings what was missed.
    fn end_if_draining(
        &mut self,
        io: &mut Io<'_, Message>,
        session: SessionKey,
        stream: StreamNumber,
    ) {
        let standing =
            self.sessions.session(session).is_some_and(|entry| entry.machine.is_standing(stream));
        if self.draining && standing {
            self.end_carrier(io, session, stream, Some(self.settings.sse_retry_ms));
        }
    }

    fn replay(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        session: SessionKey,
        resumption: &Resumption<Exchange>,
    ) -> u64 {
        let Some(entry) = self.sessions.session(session) else { return 0 };
        let mut text = Vec::new();
        if resumption.gap {
            // The spec knows no answer for this; a comment at least is honest.
            self.metrics.events(StreamEvent::Dropped, 1);
            sse::write_comment(&mut text, "events before this were dropped: backlog limit");
        }
        let mut replayed = 0;
        for (id, event) in entry.machine.replay(resumption.stream, resumption.after) {
            replayed += 1;
            write_event_text(&mut text, Some(id), &event.data);
        }
        entry.machine.mark_sent(resumption.stream);
        let complete = entry.machine.is_complete(resumption.stream);
        self.metrics.events(StreamEvent::Replayed, replayed);
        if !text.is_empty() {
            self.write(io, exchange, Progress::More, |out, _| {
                exchange.http.write_piece(out, &text);
            });
        }
        if complete {
            self.end_carrier(io, session, resumption.stream, None);
        }
        replayed
    }

    /// Ends a session: its calls are cancelled, its streams closed, its id forgotten.
    pub(crate) fn end_session(
        &mut self,
        io: &mut Io<'_, Message>,
        session: SessionKey,
        end: SessionEvent,
    ) {
        let Some(entry) = self.sessions.session(session) else { return };
        let calls: Vec<CallKey> = entry.machine.calls().collect();
        let carriers: Vec<_> = entry.machine.carriers().collect();
        for call in calls {
            self.give_up_call(io, call);
        }
        for (stream, _) in carriers {
            self.end_carrier(io, session, stream, None);
        }
        let now = self.now(io);
        self.upstream.close_session(session, now, &mut self.events);
        if let Some(entry) = self.sessions.remove(session)
            && let Some(timer) = entry.timer
        {
            io.cancel_timer(timer);
        }
        self.metrics.session(end);
        self.relay(io);
    }
}

fn is_request(envelope: &Envelope<'_>) -> bool {
    matches!(envelope.kind(), Kind::Request(_))
}

/// What `initialize` says.
struct InitializeParams<'a> {
    requested: &'a [u8],
    capabilities: &'a [u8],
}

impl<'a> InitializeParams<'a> {
    fn read(envelope: &Envelope<'a>) -> Option<InitializeParams<'a>> {
        let params = envelope.params()?;
        let requested = jsonrpc::member(params, "protocolVersion")?;
        let capabilities = jsonrpc::member(params, "capabilities")?;
        (requested.starts_with(b"\"") && capabilities.starts_with(b"{"))
            .then_some(InitializeParams { requested, capabilities })
    }

    /// MCP 2025-11-25, lifecycle: the requested revision if it is supported, else
    /// "another protocol version it supports", the latest.
    fn negotiated(&self) -> ProtocolVersion {
        jsonrpc::string(self.requested)
            .and_then(|name| ProtocolVersion::parse(name.as_bytes()))
            .filter(|version| version.era() == Era::Legacy)
            .unwrap_or(ProtocolVersion::LATEST_LEGACY)
    }
}
