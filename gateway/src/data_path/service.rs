//! The gateway as the runtime sees it: its state on one shard, and its callbacks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{SystemTime, UNIX_EPOCH};

use hashbrown::HashMap;
use shardgate_proto::clock::Millis;
use shardgate_proto::http1::{self, Decoded, HttpDate, RequestDecoder};
use shardgate_proto::mcp::session_id::{VSHARDS, Vshard};
use shardgate_proto::upstream::{Events, Upstream};
use shardgate_shard::{CloseReason, ConnId, Io, ListenerId, Origin, Service, ShardId, TimerId};

use super::calls::CallTable;
use super::changes::Changeable;
use super::connection::{Connection, Connections, PENDING_BYTES_MAX, State};
use super::exchange::{Exchange, Framing, Work};
use super::links::Links;
use super::message::Message;
use super::request::SessionRequest;
use super::session_state::SessionState;
use super::settings::Settings;
use super::task_calls::ShardTasks;
use crate::metrics::{Closed, Limit, MeshEvent, Reports, ShardMetrics};
use crate::session_table::SessionTable;

/// `serverInfo` as JSON text.
pub(crate) const SERVER_INFO: &str = concat!(
    "{\"name\":\"shardgate\",\"title\":\"Shardgate\",\"version\":\"",
    env!("CARGO_PKG_VERSION"),
    "\"}"
);

/// Random numbers drawn at a time: one system call for 64 session ids.
const RANDOM_BATCH: usize = 64;

/// An exchange whose connection another shard holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RemoteWork {
    pub(crate) work: Work,
    /// When its client must next be shown that we live.
    pub(crate) next_beat: Millis,
}

/// All that one shard owns.
pub(crate) struct Gateway<U> {
    pub(crate) settings: Settings,
    pub(crate) metrics: ShardMetrics,
    pub(crate) connections: Connections,
    pub(crate) sessions: SessionTable<SessionState>,
    pub(crate) calls: CallTable,
    pub(crate) tasks: ShardTasks,
    /// Exchanges of other shards that are answered here.
    pub(crate) remote: HashMap<Exchange, RemoteWork>,
    pub(crate) upstream: U,
    pub(crate) links: Links,
    pub(crate) upstream_timer: Option<(TimerId, Millis)>,
    pub(crate) events: Events,
    /// The queue that is not in use, kept for its memory.
    pub(crate) spare: Events,
    pub(crate) scratch: Vec<u8>,
    pub(crate) event_text: Vec<u8>,
    /// Connections whose answer is finished and behind which requests wait.
    pub(crate) ready: Vec<ConnId>,
    /// Messages the mesh could not take, oldest first.
    pub(crate) deferred: BTreeMap<ShardId, VecDeque<Message>>,
    deferred_watched: bool,
    /// Shards that have no connection any more and end when all are so.
    pub(crate) quiet: BTreeSet<ShardId>,
    pub(crate) said_quiet: bool,
    /// True once tool servers were told that the gateway goes.
    pub(crate) has_taken_leave: bool,
    pub(crate) draining: bool,
    /// Since when, if it drains.
    pub(crate) drain_began: Millis,
    /// The date of all answers, and the second it stands for on the runtime's clock.
    pub(crate) date: HttpDate,
    date_second: u64,
    pub(crate) remote_watched: bool,
    pub(crate) streams_open: usize,
    /// The `Host` of the latest request that was let in.
    pub(crate) host_permitted_last: Option<Box<[u8]>>,
    random: Vec<u128>,
    next_vshard: u16,
}

impl<U: Upstream> Gateway<U> {
    pub(crate) fn new(
        settings: Settings,
        metrics: ShardMetrics,
        upstream: U,
        links: Links,
    ) -> Gateway<U> {
        Gateway {
            settings,
            metrics,
            connections: Connections::default(),
            sessions: SessionTable::new(),
            calls: CallTable::default(),
            tasks: ShardTasks::default(),
            remote: HashMap::new(),
            upstream,
            links,
            upstream_timer: None,
            events: Events::new(),
            spare: Events::new(),
            scratch: Vec::new(),
            event_text: Vec::new(),
            ready: Vec::new(),
            deferred: BTreeMap::new(),
            deferred_watched: false,
            quiet: BTreeSet::new(),
            said_quiet: false,
            has_taken_leave: false,
            draining: false,
            drain_began: Millis(0),
            date: HttpDate::from_unix_s(unix_s()),
            date_second: 0,
            remote_watched: false,
            streams_open: 0,
            host_permitted_last: None,
            random: Vec::new(),
            next_vshard: 0,
        }
    }

    pub(crate) fn now(&self, io: &Io<'_, Message>) -> Millis {
        Millis(io.now_ms())
    }

    /// 128 unguessable bits.
    pub(crate) fn random(&mut self) -> u128 {
        if self.random.is_empty() {
            let mut bytes = [0u8; RANDOM_BATCH * 16];
            getrandom::fill(&mut bytes).expect("the kernel's random source answers after boot");
            let words = bytes.as_chunks::<16>().0.iter().map(|word| u128::from_ne_bytes(*word));
            self.random.extend(words);
        }
        self.random.pop().unwrap_or_default()
    }

    /// The next virtual shard that this very shard serves, so that a session's work stays local.
    pub(crate) fn own_vshard(&mut self, io: &Io<'_, Message>) -> Vshard {
        let shards = io.shards() as u16;
        let rounds = VSHARDS / shards;
        self.next_vshard = (self.next_vshard + 1) % rounds;
        let number = self.next_vshard * shards + io.shard().0;
        Vshard::new(number).expect("shards are fewer than virtual shards")
    }

    /// Decodes and answers what has come, until an answer has to be waited for.
    pub(crate) fn drive(&mut self, io: &mut Io<'_, Message>, conn: ConnId, mut input: &mut [u8]) {
        let now = self.now(io);
        let Some(connection) = self.connections.connection(conn) else { return };
        connection.last_active = now;
        connection.driven = true;
        // Out of its connection, so that a request may borrow from it while all
        // the rest is at hand.
        let mut decoder = std::mem::take(&mut connection.decoder);
        loop {
            if !self.is_ready(conn) || self.reads_too_little(io, conn) {
                decoder.release();
                decoder.push_back(input);
                break;
            }
            match decoder.decode(input, &self.settings.http) {
                Decoded::Request { request, consumed } => {
                    self.begin_request(io, conn, request);
                    input = &mut input[consumed..];
                }
                Decoded::NeedMore => break,
                Decoded::SendContinue => {
                    if let Some(output) = io.output(conn) {
                        output.extend_from_slice(http1::CONTINUE);
                    }
                    break;
                }
                Decoded::Refused(refusal) => {
                    self.refuse_connection(io, conn, &refusal);
                    break;
                }
            }
        }
        self.put_back(io, conn, decoder);
    }

    /// A client that sends requests and doesn't read their answers waits until it does.
    fn reads_too_little(&mut self, io: &mut Io<'_, Message>, conn: ConnId) -> bool {
        if io.queued_bytes(conn) <= self.settings.slow_reader_bytes_max {
            return false;
        }
        if let Some(connection) = self.connections.connection(conn)
            && !connection.reading_paused
        {
            connection.reading_paused = true;
            io.pause_recv(conn);
            io.notify_drained(conn);
        }
        true
    }

    fn is_ready(&mut self, conn: ConnId) -> bool {
        self.connections
            .connection(conn)
            .is_some_and(|connection| matches!(connection.state, State::Ready))
    }

    fn begin_request(
        &mut self,
        io: &mut Io<'_, Message>,
        conn: ConnId,
        request: http1::Request<'_>,
    ) {
        let draining = self.draining;
        let Some(connection) = self.connections.connection(conn) else { return };
        connection.partial_since = None;
        let exchange = connection.begin(io.shard(), Framing::of(&request.head, draining));
        self.route(io, exchange, &request.head, request.body);
    }

    /// Gives the decoder back and sees to what the connection does next.
    fn put_back(&mut self, io: &mut Io<'_, Message>, conn: ConnId, mut decoder: RequestDecoder) {
        let now = self.now(io);
        let Some(connection) = self.connections.connection(conn) else { return };
        connection.driven = false;
        decoder.release();
        match &mut connection.state {
            State::Moving(..) => {
                let State::Moving(owner, request, http) =
                    std::mem::replace(&mut connection.state, State::Closing)
                else {
                    return;
                };
                self.move_away(io, conn, owner, Message::Adopt { request, http, decoder });
            }
            State::Ready => {
                // What waits for the client to read is no unfinished request.
                let partial = decoder.buffered_bytes() > 0 && !connection.reading_paused;
                connection.decoder = decoder;
                if connection.eof && !connection.reading_paused {
                    // All it sent is answered.
                    connection.state = State::Closing;
                    io.close_after_flush(conn);
                    self.watch_closing(io, conn);
                } else if partial {
                    connection.partial_since.get_or_insert(now);
                    self.watch_partial(io, conn);
                } else {
                    connection.partial_since = None;
                    self.watch_idle(io, conn);
                }
            }
            State::Busy(_) => {
                let held = decoder.buffered_bytes();
                connection.decoder = decoder;
                if held > PENDING_BYTES_MAX && !connection.reading_paused {
                    connection.reading_paused = true;
                    io.pause_recv(conn);
                }
            }
            State::Closing => {}
        }
    }

    fn move_away(
        &mut self,
        io: &mut Io<'_, Message>,
        conn: ConnId,
        owner: ShardId,
        baggage: Message,
    ) {
        self.metrics.mesh(MeshEvent::Moved);
        if let Some(connection) = self.connections.remove(conn)
            && let Some((timer, _)) = connection.timer
        {
            io.cancel_timer(timer);
        }
        io.move_connection(conn, owner, baggage);
    }

    /// Answers what HTTP itself forbids, and closes.
    fn refuse_connection(
        &mut self,
        io: &mut Io<'_, Message>,
        conn: ConnId,
        refusal: &http1::Refusal,
    ) {
        let Some(connection) = self.connections.connection(conn) else { return };
        connection.state = State::Closing;
        connection.closed_as = Some(Closed::Malformed);
        match refusal.status.0 {
            413 => self.metrics.refused(Limit::MessageBytes),
            431 | 414 => self.metrics.refused(Limit::HeaderBytes),
            _ => {}
        }
        self.metrics
            .answered(crate::metrics::Method::Other, crate::metrics::Status::of(refusal.status.0));
        if let Some(output) = io.output(conn) {
            http1::write_refusal(output, refusal, Some(&self.date));
        }
        // The rest of the request may still be on its way.
        io.close_lingering(conn);
    }

    /// The client of an exchange has gone.
    pub(crate) fn client_gone(&mut self, io: &mut Io<'_, Message>, exchange: Exchange, work: Work) {
        match work {
            Work::Call(key) | Work::ModernStream(key) => {
                let Some(call) = self.calls.call(key) else { return };
                if call.session.is_none() {
                    self.cancel_modern(io, key);
                } else {
                    // MCP 2025-11-25, transports: "Disconnection MAY occur at any
                    // time" and "SHOULD NOT be interpreted as the client
                    // cancelling its request". The call goes on.
                    call.exchange = None;
                }
            }
            Work::Stream(session, stream) => {
                let now = self.now(io);
                if let Some(entry) = self.sessions.session(session)
                    && entry.machine.carrier(stream) == Some(exchange)
                {
                    entry.machine.carrier_gone(stream, exchange, now);
                    entry.last_active = now;
                    self.streams_open -= 1;
                }
            }
            // Of a request that was forwarded here and answered nothing yet.
            Work::Forwarded(owner) if owner == io.shard() => {}
            Work::Forwarded(owner) => self.send(io, owner, Message::ClientGone(exchange)),
        }
    }

    /// The date of answers changes once a second.
    fn keep_date(&mut self, io: &Io<'_, Message>) {
        let second = io.now_ms() / 1_000;
        if second != self.date_second {
            self.date_second = second;
            self.date = HttpDate::from_unix_s(unix_s());
        }
    }

    pub(crate) fn drive_ready(&mut self, io: &mut Io<'_, Message>) {
        while let Some(conn) = self.ready.pop() {
            if self.is_ready(conn) {
                if let Some(connection) = self.connections.connection(conn)
                    && connection.reading_paused
                {
                    connection.reading_paused = false;
                    io.resume_recv(conn);
                }
                // Requests that waited are handled under another connection's callback, or
                // under none: a panic is this connection's alone.
                let driven = catch_unwind(AssertUnwindSafe(|| self.drive(io, conn, &mut [])));
                if driven.is_err() {
                    io.close_because(conn, CloseReason::Panicked);
                }
            }
        }
    }

    fn send_deferred(&mut self, io: &mut Io<'_, Message>) {
        self.deferred.retain(|&to, waiting| {
            if io.has_ended(to) {
                return false;
            }
            while let Some(message) = waiting.pop_front() {
                if let Err(full) = io.send(to, message) {
                    waiting.push_front(full.0);
                    return true;
                }
            }
            false
        });
        self.tell_desk_the_rest();
        let is_behind = !self.deferred.is_empty() || self.tasks.runs.has_untold();
        if is_behind && !self.deferred_watched {
            // Nothing else may wake this shard before the other has caught up.
            self.deferred_watched = true;
            self.watch_deferred(io);
        }
    }

    pub(crate) fn deferred_timer(&mut self) {
        self.deferred_watched = false;
    }

    /// True if nothing waits for this shard.
    pub(crate) fn nothing_deferred(&self, to: ShardId) -> bool {
        self.deferred.get(&to).is_none_or(VecDeque::is_empty)
    }

    /// A panic here costs one connection, as it would on the shard that holds it.
    fn take_forwarded(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        request: &SessionRequest<'_>,
    ) {
        let next_beat = self.now(io) + self.settings.answer_patience_ms;
        let work = Work::Forwarded(io.shard());
        self.remote.insert(exchange, RemoteWork { work, next_beat });
        let handled = catch_unwind(AssertUnwindSafe(|| {
            self.session_request(io, exchange, request);
        }));
        if handled.is_err() {
            // The connection's end comes back as `ClientGone`, which frees what is left.
            self.send(io, exchange.shard, Message::Broken(exchange));
        }
    }

    fn adopt(
        &mut self,
        io: &mut Io<'_, Message>,
        conn: ConnId,
        request: &super::request::OwnedRequest,
        http: Framing,
        decoder: RequestDecoder,
    ) {
        let now = self.now(io);
        let mut connection = Connection::new(conn, io.shard(), now);
        connection.decoder = decoder;
        connection.driven = true;
        let exchange = connection.begin(io.shard(), http);
        self.connections.insert(connection);
        let request = request.borrow();
        let owner = self.owner_of(io, request.session);
        if owner == io.shard() {
            self.metrics.mesh(MeshEvent::Adopted);
            self.session_request(io, exchange, &request);
        } else {
            // It could not move: the request goes alone.
            self.forward(io, exchange, owner, &request);
        }
        if let Some(connection) = self.connections.connection(conn) {
            connection.driven = false;
            if matches!(connection.state, State::Ready) {
                self.ready.push(conn);
            }
        }
    }
}

impl<U: Changeable + Reports> Service for Gateway<U> {
    type Message = Message;

    fn handle_start(&mut self, io: &mut Io<'_, Message>) {
        self.tasks = ShardTasks::on_shard(io.shard().0);
        let now = self.now(io);
        self.upstream.handle_timeout(now, &mut self.events);
        self.relay(io);
    }

    fn handle_accept(&mut self, io: &mut Io<'_, Message>, conn: ConnId, _listener: ListenerId) {
        self.metrics.accepted();
        let now = self.now(io);
        let mut connection = Connection::new(conn, io.shard(), now);
        let full = self.connections.open() >= self.settings.connections_max;
        if full {
            connection.state = State::Closing;
            connection.closed_as = Some(Closed::Limit);
        }
        self.connections.insert(connection);
        if full {
            self.metrics.refused(Limit::Connections);
            if let Some(output) = io.output(conn) {
                super::answer::write_limit_refusal(output, Limit::Connections);
            }
            io.close_lingering(conn);
        } else {
            // Who stays silent costs a few hundred bytes until the idle limit; the
            // header timeout counts from the first byte.
            self.watch_idle(io, conn);
        }
    }

    fn handle_recv(&mut self, io: &mut Io<'_, Message>, conn: ConnId, bytes: &mut [u8]) {
        self.keep_date(io);
        let Some(connection) = self.connections.connection(conn) else {
            return self.link_received(io, conn, bytes);
        };
        self.metrics.received(bytes.len());
        match connection.state {
            State::Ready => self.drive(io, conn, bytes),
            State::Busy(_) => {
                connection.decoder.push_back(bytes);
                if connection.decoder.buffered_bytes() > PENDING_BYTES_MAX
                    && !connection.reading_paused
                {
                    connection.reading_paused = true;
                    io.pause_recv(conn);
                }
            }
            State::Moving(..) | State::Closing => {}
        }
        self.drive_ready(io);
    }

    fn handle_eof(&mut self, io: &mut Io<'_, Message>, conn: ConnId) {
        let Some(connection) = self.connections.connection(conn) else {
            return self.link_eof(io, conn);
        };
        connection.eof = true;
        match connection.state {
            // Half-closed after its request: the answer is still owed. Who has
            // really gone resets the connection when it comes.
            State::Busy(Some(Work::Call(key)))
                if self.calls.call(key).is_some_and(|call| call.session.is_some()) => {}
            State::Busy(Some(Work::Forwarded(_))) => {}
            State::Busy(Some(Work::Stream(session, stream)))
                if self
                    .sessions
                    .session(session)
                    .is_some_and(|entry| !entry.machine.is_standing(stream)) => {}
            State::Ready | State::Busy(_) | State::Moving(..) | State::Closing => {
                io.close_after_flush(conn);
            }
        }
    }

    fn handle_connected(&mut self, io: &mut Io<'_, Message>, conn: ConnId) {
        self.link_connected(io, conn);
        self.drive_ready(io);
    }

    fn handle_drained(&mut self, io: &mut Io<'_, Message>, conn: ConnId) {
        if let Some(connection) = self.connections.connection(conn) {
            connection.overfull_since = None;
        }
        self.ready.push(conn);
        self.drive_ready(io);
    }

    fn handle_closed(&mut self, io: &mut Io<'_, Message>, conn: ConnId, reason: CloseReason) {
        let Some(connection) = self.connections.remove(conn) else {
            return self.link_lost(io, conn, &reason);
        };
        if let Some((timer, _)) = connection.timer {
            io.cancel_timer(timer);
        }
        let closed = connection.closed_as.unwrap_or(match reason {
            CloseReason::Peer => Closed::Peer,
            CloseReason::Reset(_) => Closed::Reset,
            CloseReason::Panicked => Closed::Panic,
            CloseReason::SlowReader => Closed::SlowReader,
            CloseReason::Idle => Closed::Idle,
            CloseReason::Shutdown => Closed::Drain,
            // Clients are accepted, so none of their connections fails to connect.
            CloseReason::Local | CloseReason::ConnectFailed(_) => Closed::Local,
        });
        if matches!(closed, Closed::Panic) {
            self.metrics.panicked();
            tracing::error!(
                event = "panic",
                shard = io.shard().0,
                "a connection's handling failed"
            );
        }
        self.metrics.closed(closed);
        if let Some(work) = connection.work() {
            self.client_gone(io, connection.exchange(io.shard()), work);
            self.relay(io);
        }
    }

    fn handle_message(&mut self, io: &mut Io<'_, Message>, from: Origin, message: Message) {
        self.keep_date(io);
        match message {
            Message::Forward { exchange, request } => {
                self.take_forwarded(io, exchange, &request.borrow());
            }
            Message::Broken(exchange) => {
                if self.is_current(exchange) {
                    io.close_because(exchange.conn, CloseReason::Panicked);
                }
            }
            Message::Output { exchange, bytes, complete } => {
                self.take_output(io, exchange, &bytes, complete);
            }
            Message::ClientGone(exchange) => {
                if let Some(remote) = self.remote.remove(&exchange) {
                    self.client_gone(io, exchange, remote.work);
                }
            }
            // Arrives with its connection only: see handle_adopted.
            Message::Adopt { .. } => {}
            Message::Sibling(message) => {
                let now = self.now(io);
                self.upstream.handle_sibling(&message, now, &mut self.events);
                self.relay(io);
            }
            Message::Child(news) => self.child_news(io, news),
            Message::Endpoints(endpoints) => self.replace_endpoints(io, endpoints),
            Message::Reloaded(reloaded) => self.take_reloaded(io, &reloaded),
            Message::Pins(pins) => self.take_pins(io, pins),
            Message::Tasks(message) => self.take_from_desk(io, message),
            Message::Quiet => {
                if let Origin::Shard(shard) = from {
                    self.quiet.insert(shard);
                }
            }
            Message::Control(request) => self.control(io, request),
        }
        self.drive_ready(io);
    }

    fn handle_timer(&mut self, io: &mut Io<'_, Message>, token: u64) {
        self.keep_date(io);
        self.timer(io, token);
        self.drive_ready(io);
    }

    fn handle_adopted(&mut self, io: &mut Io<'_, Message>, conn: ConnId, baggage: Message) {
        self.keep_date(io);
        if let Message::Adopt { request, http, decoder } = baggage {
            self.adopt(io, conn, &request, http, decoder);
        }
        self.drive_ready(io);
    }

    fn handle_turn_end(&mut self, io: &mut Io<'_, Message>) {
        self.drive_ready(io);
        self.send_deferred(io);
        self.metrics.turn(io.clock_ns().saturating_sub(io.turn_began_ns()));
    }

    fn handle_shutdown(&mut self, io: &mut Io<'_, Message>) {
        self.begin_drain(io);
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
