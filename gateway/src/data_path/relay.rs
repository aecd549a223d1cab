//! From upstream events to clients: which stream a message goes out on, what is
//! remembered for a client that comes back, and when an answer is whole.
//!
//! An answer is plain JSON if it is the first thing to be sent; whatever comes
//! earlier (a notification, a request to the client, a heartbeat) turns the
//! answer into a stream. MCP 2025-11-25, transports: the server chooses.

use std::ops::Range;
use std::sync::Arc;

use shardgate_proto::jsonrpc;
use shardgate_proto::mcp::modern;
use shardgate_proto::mcp::stream::{EventId, StreamNumber};
use shardgate_proto::mcp::version::{Era, ProtocolVersion};
use shardgate_proto::sse;
use shardgate_proto::upstream::{
    AskKey, CallKey, Event, Events, Outcome, SessionKey, Target, Upstream,
};
use shardgate_shard::{CloseReason, Io, ShardId};

use super::calls::PendingCall;
use super::exchange::{Exchange, Progress, Work};
use super::message::Message;
use super::service::Gateway;
use crate::metrics::{Limit, Status, StreamEvent};

/// A stream's queue that stays over its limit for so long has a slow reader.
const SLOW_READER_GRACE_MS: u64 = 1_000;

/// So many times its limit a stream's queue may be for a moment.
const SLOW_READER_BURST: usize = 16;

impl<U: Upstream> Gateway<U> {
    /// Carries out what the upstream has queued.
    pub(crate) fn relay(&mut self, io: &mut Io<'_, Message>) {
        while !self.events.is_empty() {
            let mut events = std::mem::replace(&mut self.events, std::mem::take(&mut self.spare));
            for event in events.list() {
                self.relay_event(io, &events, event);
            }
            events.clear();
            self.spare = events;
        }
        self.watch_upstream(io);
    }

    fn relay_event(&mut self, io: &mut Io<'_, Message>, events: &Events, event: &Event) {
        match event {
            Event::Answer { call, outcome, body } => {
                self.relay_answer(io, *call, *outcome, events.bytes(body));
            }
            Event::Notify { target: Target::Call(call), message } if self.is_run(*call) => {
                self.run_notified(io, *call, events.bytes(message));
            }
            Event::Notify { target: Target::Call(call), message } => {
                if !self.send_on_call(io, *call, events.bytes(message)) {
                    self.metrics.events(StreamEvent::Dropped, 1);
                }
            }
            Event::Notify { target: Target::Session(session), message } => {
                self.send_standing(io, *session, events.bytes(message));
            }
            Event::Ask { ask, session, call, method, params } => {
                self.relay_ask(io, events, *ask, *session, *call, [method, params]);
            }
            Event::CloseStream { call, retry_ms } => self.close_stream(io, *call, *retry_ms),
            Event::Siblings { message } => {
                let message: Arc<[u8]> = events.bytes(message).into();
                for shard in (0..io.shards() as u16).map(ShardId) {
                    if shard != io.shard() {
                        self.send(io, shard, Message::Sibling(Arc::clone(&message)));
                    }
                }
            }
            Event::OpenLink { link, endpoint } => self.open_link(io, *link, *endpoint),
            Event::Send { link, bytes } => self.send_on_link(io, *link, events.bytes(bytes)),
            Event::CloseLink { link } => self.close_link(io, *link),
        }
    }

    fn relay_answer(
        &mut self,
        io: &mut Io<'_, Message>,
        key: CallKey,
        outcome: Outcome,
        body: &[u8],
    ) {
        // A cancelled call has no entry any more: nobody waits for its answer.
        let Some(call) = self.calls.remove(key) else { return };
        if call.for_task {
            return self.run_answered(key, outcome, body);
        }
        if call.in_flight
            && let Some(session) = call.session
            && let Some(entry) = self.sessions.session(session)
        {
            entry.machine.end_call(key);
        }
        let status = match (call.version.era(), outcome) {
            (Era::Modern, Outcome::Error(code)) => modern::status_of_error(code),
            _ => 200,
        };
        self.count_answer(io, &call, status, outcome);
        if call.stream.is_some() || call.streaming {
            self.finish_on_stream(io, &call, outcome, body);
        } else if let Some(exchange) = call.exchange {
            let member: &[u8] = match outcome {
                Outcome::Result => b",\"result\":",
                Outcome::Error(_) => b",\"error\":",
            };
            let id = call.id.as_bytes();
            let parts = [b"{\"jsonrpc\":\"2.0\",\"id\":".as_slice(), id, member, body, b"}"];
            self.answer_json(io, exchange, status, &parts);
        }
    }

    fn count_answer(
        &mut self,
        io: &Io<'_, Message>,
        call: &PendingCall,
        status: u16,
        outcome: Outcome,
    ) {
        if let Outcome::Error(code) = outcome {
            self.metrics.rpc_error(code);
        }
        let elapsed_ns = io.clock_ns().saturating_sub(call.started_ns);
        self.metrics.request(call.method, Status::of(status), elapsed_ns);
    }

    /// The answer as the last message of its call on a stream.
    fn finish_on_stream(
        &mut self,
        io: &mut Io<'_, Message>,
        call: &PendingCall,
        outcome: Outcome,
        body: &[u8],
    ) {
        let mut message = std::mem::take(&mut self.scratch);
        message.clear();
        match outcome {
            Outcome::Result => jsonrpc::write_result(&mut message, call.id.as_bytes(), body),
            Outcome::Error(_) => {
                jsonrpc::write_error_response(&mut message, Some(call.id.as_bytes()), body);
            }
        }
        match (call.session, call.stream, call.exchange) {
            (Some(session), Some(stream), _) => {
                self.record(io, session, stream, &message);
                self.answered_on_stream(io, session, stream);
            }
            (_, _, Some(exchange)) => {
                self.streams_open -= 1;
                self.write_event(io, exchange, None, &message);
                self.end_stream(io, exchange, None);
            }
            _ => {}
        }
        self.scratch = message;
    }

    /// One of a stream's requests has its answer: the last one ends the stream.
    pub(crate) fn answered_on_stream(
        &mut self,
        io: &mut Io<'_, Message>,
        session: SessionKey,
        stream: StreamNumber,
    ) {
        let Some(entry) = self.sessions.session(session) else { return };
        if entry.machine.answer_recorded(stream) {
            self.end_carrier(io, session, stream, None);
        }
    }

    /// Sends a message on the stream of its call. False if nobody can get it.
    fn send_on_call(&mut self, io: &mut Io<'_, Message>, key: CallKey, message: &[u8]) -> bool {
        if !self.ensure_stream(io, key) {
            return false;
        }
        let Some(call) = self.calls.call(key) else { return false };
        match (call.session, call.stream, call.exchange) {
            (Some(session), Some(stream), _) => self.record(io, session, stream, message),
            (_, _, Some(exchange)) => self.write_event(io, exchange, None, message),
            _ => false,
        }
    }

    /// Records a message in a session's stream and sends it if somebody listens.
    pub(crate) fn record(
        &mut self,
        io: &mut Io<'_, Message>,
        session: SessionKey,
        stream: StreamNumber,
        message: &[u8],
    ) -> bool {
        let now = self.now(io);
        let limits = self.settings.session;
        let Some(entry) = self.sessions.session(session) else { return false };
        let Some(recorded) = entry.machine.record(stream, message, now, &limits) else {
            return false;
        };
        if let Some(exchange) = recorded.carrier {
            self.write_event(io, exchange, Some(recorded.event), message);
        }
        true
    }

    /// Records and sends a message that belongs to no request.
    pub(crate) fn send_standing(
        &mut self,
        io: &mut Io<'_, Message>,
        session: SessionKey,
        message: &[u8],
    ) {
        let now = self.now(io);
        let limits = self.settings.session;
        let Some(entry) = self.sessions.session(session) else { return };
        let recorded = entry.machine.record_standing(message, now, &limits);
        if let Some(recorded) = recorded
            && let Some(exchange) = recorded.carrier
        {
            self.write_event(io, exchange, Some(recorded.event), message);
        }
    }

    fn relay_ask(
        &mut self,
        io: &mut Io<'_, Message>,
        events: &Events,
        ask: AskKey,
        session: SessionKey,
        call: Option<CallKey>,
        [method, params]: [&Range<usize>; 2],
    ) {
        let method = String::from_utf8_lossy(events.bytes(method));
        let params = Some(events.bytes(params)).filter(|params| !params.is_empty());
        self.put_to_client(io, ask, session, call, (&method, params));
    }

    /// A request to a client, on the stream of its call if it belongs to one.
    pub(crate) fn put_to_client(
        &mut self,
        io: &mut Io<'_, Message>,
        ask: AskKey,
        session: SessionKey,
        call: Option<CallKey>,
        (method, params): (&str, Option<&[u8]>),
    ) {
        let Some(entry) = self.sessions.session(session) else { return };
        let wire_id = entry.machine.ask(ask, call);
        let mut message = Vec::with_capacity(128 + params.map_or(0, <[u8]>::len));
        jsonrpc::write_request(&mut message, wire_id.to_string().as_bytes(), method, params);
        match call {
            Some(call) => {
                if !self.send_on_call(io, call, &message) {
                    self.fail_ask(io, session, wire_id);
                }
            }
            None => self.send_standing(io, session, &message),
        }
    }

    /// Nobody can be asked: the upstream is told at once instead of waiting for ever.
    fn fail_ask(&mut self, io: &mut Io<'_, Message>, session: SessionKey, wire_id: u32) {
        let wire_id = wire_id.to_string();
        let Some(entry) = self.sessions.session(session) else { return };
        let Some(ask) = entry.machine.take_ask(wire_id.as_bytes()) else { return };
        let error = br#"{"code":-32000,"message":"the client that made the call has gone"}"#;
        self.take_reply(io, ask, Outcome::Error(-32000), error);
    }

    /// Ends the HTTP stream of a legacy call that goes on (SSE polling, MCP 2025-11-25).
    fn close_stream(&mut self, io: &mut Io<'_, Message>, key: CallKey, retry_ms: u64) {
        if !self.ensure_stream(io, key) {
            return;
        }
        let Some(call) = self.calls.call(key) else { return };
        // Before 2025-11-25 clients don't come back after an orderly end, and in
        // the modern era there is nothing to come back to.
        if call.version == ProtocolVersion::V2025_11_25
            && let (Some(session), Some(stream)) = (call.session, call.stream)
        {
            self.end_carrier(io, session, stream, Some(retry_ms));
        }
    }

    /// Turns a waiting exchange into a stream, if it isn't one. False if there is
    /// neither stream nor client.
    pub(crate) fn ensure_stream(&mut self, io: &mut Io<'_, Message>, key: CallKey) -> bool {
        let now = self.now(io);
        let Some(call) = self.calls.call(key) else { return false };
        if call.stream.is_some() || call.streaming {
            return true;
        }
        let Some(exchange) = call.exchange else { return false };
        let Some(session) = call.session else {
            call.streaming = true;
            self.streams_open += 1;
            self.write_stream_head(io, exchange);
            self.set_work(io, exchange, Work::ModernStream(key));
            return true;
        };
        let limits = self.settings.session;
        let Some(entry) = self.sessions.session(session) else { return false };
        let stream = entry.machine.open_calls(1, Some(exchange), now, &limits);
        call.stream = Some(stream);
        call.exchange = None;
        self.begin_carrier(io, exchange, session, stream);
        true
    }

    /// The head of a legacy stream, with its priming event where the revision knows it.
    pub(crate) fn begin_carrier(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        session: SessionKey,
        stream: StreamNumber,
    ) {
        self.streams_open += 1;
        self.write_stream_head(io, exchange);
        self.set_work(io, exchange, Work::Stream(session, stream));
        self.prime(io, exchange, session, stream);
    }

    /// MCP 2025-11-25, transports: "SHOULD immediately send an SSE event consisting of an
    /// event ID and an empty data field in order to prime the client". Older clients would
    /// take the empty data for a message.
    pub(crate) fn prime(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        session: SessionKey,
        stream: StreamNumber,
    ) {
        if let Some(entry) = self.sessions.session(session)
            && entry.machine.version() == ProtocolVersion::V2025_11_25
            && let Some(event) = entry.machine.prime(stream)
        {
            self.write_event(io, exchange, Some(event), b"");
        }
    }

    pub(crate) fn write_stream_head(&mut self, io: &mut Io<'_, Message>, exchange: Exchange) {
        self.metrics.stream_opened();
        self.write(io, exchange, Progress::More, |out, extras| {
            exchange.http.write_stream_head(out, extras);
        });
    }

    /// One SSE event. A client that doesn't read loses its stream, not its events.
    pub(crate) fn write_event(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        id: Option<EventId>,
        data: &[u8],
    ) -> bool {
        self.metrics.events(StreamEvent::Sent, 1);
        let mut text = std::mem::take(&mut self.event_text);
        text.clear();
        write_event_text(&mut text, id, data);
        let written = self.write(io, exchange, Progress::More, |out, _| {
            exchange.http.write_piece(out, &text);
        });
        let just_written = text.len();
        self.event_text = text;
        self.check_slow_reader(io, exchange, just_written);
        written
    }

    /// Closes a stream whose client doesn't read. The message just written doesn't count,
    /// however large: its reader has had no time yet. A burst may overfill the queue for
    /// a moment; a reader is slow if the queue stays full, or fills far beyond.
    pub(crate) fn check_slow_reader(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        just_written: usize,
    ) {
        let limit = self.settings.slow_reader_bytes_max;
        let unread = io.queued_bytes(exchange.conn).saturating_sub(just_written);
        if exchange.shard != io.shard() || unread <= limit {
            return;
        }
        let now = self.now(io);
        let Some(connection) = self.connections.connection(exchange.conn) else { return };
        let since = *connection.overfull_since.get_or_insert(now);
        if now.since(since) < SLOW_READER_GRACE_MS && unread <= limit * SLOW_READER_BURST {
            return io.notify_drained(exchange.conn);
        }
        self.metrics.refused(Limit::SlowReader);
        io.close_because(exchange.conn, CloseReason::SlowReader);
    }

    /// Ends the carrier of a session's stream; the stream's memory stays.
    pub(crate) fn end_carrier(
        &mut self,
        io: &mut Io<'_, Message>,
        session: SessionKey,
        stream: StreamNumber,
        retry_ms: Option<u64>,
    ) {
        let now = self.now(io);
        let Some(entry) = self.sessions.session(session) else { return };
        let Some(exchange) = entry.machine.carrier(stream) else { return };
        entry.machine.carrier_gone(stream, exchange, now);
        self.streams_open -= 1;
        self.end_stream(io, exchange, retry_ms);
    }

    /// The end of an answer that is a stream.
    pub(crate) fn end_stream(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        retry_ms: Option<u64>,
    ) {
        self.write(io, exchange, Progress::Complete, |out, _| {
            if let Some(retry_ms) = retry_ms {
                let mut text = Vec::new();
                sse::write_retry(&mut text, retry_ms);
                exchange.http.write_piece(out, &text);
            }
            exchange.http.write_stream_end(out);
        });
    }
}

/// One event as the client's parser wants it.
pub(crate) fn write_event_text(out: &mut Vec<u8>, id: Option<EventId>, data: &[u8]) {
    let id = id.map(EventId::to_text);
    sse::write_event(out, &sse::Event { id: id.as_deref(), data, ..sse::Event::default() });
}
