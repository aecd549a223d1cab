//! Timers: idle and slow clients, heartbeats, session expiry, the upstream, the drain.
//!
//! Each connection has one timer, armed lazily: when it fires, the connection's
//! state says what is due, so a request costs no timer operation.

use shardgate_proto::clock::Millis;
use shardgate_proto::http1::{self, Phase};
use shardgate_proto::upstream::{SessionKey, Upstream};
use shardgate_shard::{CloseReason, ConnId, Io, ShardId};

use super::connection::{State, Watch};
use super::exchange::{Exchange, Progress, Work};
use super::message::Message;
use super::service::Gateway;
use crate::metrics::{Closed, Limit, SessionEvent};

/// How often exchanges of other shards are looked at.
const SWEEP_MS: u64 = 250;
/// How often a forwarded request looks whether its shard still lives.
const FORWARD_LOOK_MS: u64 = 1_000;
const DRAIN_STEP_MS: u64 = 20;

/// A session is looked after this often at most, however short its log's age is.
const SESSION_SWEEP_MS_MIN: u64 = 1_000;
const DEFERRED_RETRY_MS: u64 = 1;

/// What a timer's token stands for. Two bits of kind, 30 of slot, 32 of generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Connection { slot: usize, generation: u32 },
    Session(SessionKey),
    Shard(Chore),
}

/// What the shard does for itself from time to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chore {
    Upstream = 0,
    Remote = 1,
    Drain = 2,
    Deferred = 3,
}

const SLOT_BITS: u32 = 30;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

impl Token {
    fn pack(self) -> u64 {
        let (kind, slot, generation) = match self {
            Token::Connection { slot, generation } => (0, slot as u64, generation),
            Token::Session(key) => (1, key.0 & u64::from(u32::MAX), (key.0 >> 32) as u32),
            Token::Shard(chore) => (2, chore as u64, 0),
        };
        assert!(slot <= SLOT_MASK, "the configuration bounds connections and sessions");
        kind << 62 | slot << 32 | u64::from(generation)
    }

    fn unpack(token: u64) -> Token {
        let slot = token >> 32 & SLOT_MASK;
        let generation = token as u32;
        match (token >> 62, slot) {
            (0, _) => Token::Connection { slot: slot as usize, generation },
            (1, _) => Token::Session(SessionKey(u64::from(generation) << 32 | slot)),
            (_, 0) => Token::Shard(Chore::Upstream),
            (_, 1) => Token::Shard(Chore::Remote),
            (_, 2) => Token::Shard(Chore::Drain),
            (_, _) => Token::Shard(Chore::Deferred),
        }
    }
}

impl<U: Upstream> Gateway<U> {
    pub(crate) fn timer(&mut self, io: &mut Io<'_, Message>, token: u64) {
        match Token::unpack(token) {
            Token::Connection { slot, generation } => {
                if let Some(conn) = self.connections.at(slot, generation) {
                    self.connection_timer(io, conn);
                }
            }
            Token::Session(key) => self.session_timer(io, key),
            Token::Shard(Chore::Upstream) => {
                self.upstream_timer = None;
                let now = self.now(io);
                self.upstream.handle_timeout(now, &mut self.events);
                self.relay(io);
            }
            Token::Shard(Chore::Remote) => self.remote_timer(io),
            Token::Shard(Chore::Drain) => self.drain_step(io),
            // The end of this very turn sends what is deferred.
            Token::Shard(Chore::Deferred) => self.deferred_timer(),
        }
    }

    fn arm(&mut self, io: &mut Io<'_, Message>, conn: ConnId, watch: Watch, after_ms: u64) {
        let Some(connection) = self.connections.connection(conn) else { return };
        if let Some((timer, _)) = connection.timer.take() {
            io.cancel_timer(timer);
        }
        let token = Token::Connection { slot: conn.index(), generation: conn.generation() };
        connection.timer = Some((io.arm_timer(after_ms, token.pack()), watch));
    }

    /// Nothing is under way: the idle limit holds. An armed timer will find out.
    pub(crate) fn watch_idle(&mut self, io: &mut Io<'_, Message>, conn: ConnId) {
        let armed = self.connections.connection(conn).and_then(|connection| connection.timer);
        if armed.is_none_or(|(_, watch)| watch == Watch::Answer) {
            self.arm(io, conn, Watch::Idle, self.settings.idle_connection_ms);
        }
    }

    /// A request has begun: it must become whole in time.
    pub(crate) fn watch_partial(&mut self, io: &mut Io<'_, Message>, conn: ConnId) {
        let armed = self.connections.connection(conn).and_then(|connection| connection.timer);
        if armed.is_none_or(|(_, watch)| watch != Watch::Partial) {
            self.arm(io, conn, Watch::Partial, self.settings.header_timeout_ms);
        }
    }

    /// An answer is owed: the client must be shown that we live.
    pub(crate) fn watch_answer(&mut self, io: &mut Io<'_, Message>, conn: ConnId, work: Work) {
        let after_ms = match work {
            Work::Call(_) => self.settings.answer_patience_ms,
            Work::Stream(..) | Work::ModernStream(_) => self.settings.heartbeat_ms,
            // The shard that answers also keeps the client warm, unless it is dead.
            Work::Forwarded(_) => FORWARD_LOOK_MS,
        };
        self.arm(io, conn, Watch::Answer, after_ms);
    }

    fn connection_timer(&mut self, io: &mut Io<'_, Message>, conn: ConnId) {
        let own = io.shard();
        let Some(connection) = self.connections.connection(conn) else { return };
        connection.timer = None;
        match &connection.state {
            State::Ready => match connection.partial_since {
                Some(since) => self.partial_timer(io, conn, since),
                None => self.idle_timer(io, conn),
            },
            State::Busy(Some(work)) => {
                let (work, exchange) = (*work, connection.exchange(own));
                self.keep_warm(io, exchange, work);
            }
            State::Busy(None) | State::Moving(..) => {}
            State::Closing => self.closing_timer(io, conn),
        }
    }

    fn partial_timer(&mut self, io: &mut Io<'_, Message>, conn: ConnId, since: Millis) {
        let waited = self.now(io).since(since);
        let Some(connection) = self.connections.connection(conn) else { return };
        let (limit, allowed_ms) = match connection.decoder.phase() {
            Phase::Body => (
                Limit::BodyTimeout,
                self.settings.header_timeout_ms + self.settings.body_timeout_ms,
            ),
            Phase::Idle | Phase::Head | Phase::Refused => {
                (Limit::HeaderTimeout, self.settings.header_timeout_ms)
            }
        };
        if waited < allowed_ms {
            return self.arm(io, conn, Watch::Partial, allowed_ms - waited);
        }
        self.metrics.refused(limit);
        connection.state = State::Closing;
        connection.closed_as = Some(Closed::Timeout);
        // A client that never spoke gets no answer: it asked nothing.
        if connection.decoder.buffered_bytes() > 0
            && let Some(output) = io.output(conn)
        {
            let refusal = http1::Refusal {
                status: http1::Status::REQUEST_TIMEOUT,
                reason: limit.as_str(),
                text: "the request did not become whole in time; send it again on a new connection",
            };
            http1::write_refusal(output, &refusal, None);
        }
        // The rest of the request may still be on its way.
        io.close_lingering(conn);
        self.watch_closing(io, conn);
    }

    /// The last answer is still being read, or isn't.
    fn closing_timer(&mut self, io: &mut Io<'_, Message>, conn: ConnId) {
        let queued = io.queued_bytes(conn);
        let Some(connection) = self.connections.connection(conn) else { return };
        if queued < connection.queued {
            return self.watch_closing(io, conn);
        }
        self.metrics.refused(Limit::SlowReader);
        io.close_because(conn, CloseReason::SlowReader);
    }

    fn idle_timer(&mut self, io: &mut Io<'_, Message>, conn: ConnId) {
        let now = self.now(io);
        let Some(connection) = self.connections.connection(conn) else { return };
        let idle_ms = now.since(connection.last_active);
        let allowed_ms = self.settings.idle_connection_ms;
        if idle_ms < allowed_ms {
            self.arm(io, conn, Watch::Idle, allowed_ms - idle_ms);
        } else {
            self.metrics.refused(Limit::IdleConnection);
            io.close_because(conn, CloseReason::Idle);
        }
    }

    /// Shows the client of an unfinished answer that we live: a waiting call
    /// becomes a stream, a stream gets a comment (load balancers cut silent ones).
    fn keep_warm(&mut self, io: &mut Io<'_, Message>, exchange: Exchange, work: Work) {
        match work {
            Work::Call(key) => {
                // Sets the work anew, and with it the next heartbeat.
                self.ensure_stream(io, key);
            }
            Work::Stream(..) | Work::ModernStream(_) => {
                self.write(io, exchange, Progress::More, |out, _| {
                    exchange.http.write_piece(out, b":\n\n");
                });
                self.check_slow_reader(io, exchange, 0);
                self.set_work(io, exchange, work);
            }
            Work::Forwarded(_) => self.forwarded_timer(io, exchange, work),
        }
    }

    /// The answer of a shard that has ended will never come. A stream's head may be
    /// out already, so there is nothing better to say than the end of the connection.
    fn forwarded_timer(&mut self, io: &mut Io<'_, Message>, exchange: Exchange, work: Work) {
        if let Work::Forwarded(owner) = work
            && io.has_ended(owner)
        {
            io.close(exchange.conn);
        } else {
            self.watch_answer(io, exchange.conn, work);
        }
    }

    /// The last answer is written: who doesn't read it is not waited for.
    pub(crate) fn watch_closing(&mut self, io: &mut Io<'_, Message>, conn: ConnId) {
        let queued = io.queued_bytes(conn);
        if let Some(connection) = self.connections.connection(conn) {
            connection.queued = queued;
        }
        self.arm(io, conn, Watch::Closing, self.settings.body_timeout_ms);
    }

    /// Exchanges of other shards have no connection here, hence no timer: one sweep serves all.
    pub(crate) fn watch_remote(&mut self, io: &mut Io<'_, Message>) {
        if !self.remote_watched {
            self.remote_watched = true;
            io.arm_timer(SWEEP_MS, Token::Shard(Chore::Remote).pack());
        }
    }

    fn remote_timer(&mut self, io: &mut Io<'_, Message>) {
        self.remote_watched = false;
        let now = self.now(io);
        let lost: Vec<(Exchange, Work)> = self
            .remote
            .iter()
            .filter(|(exchange, _)| io.has_ended(exchange.shard))
            .map(|(exchange, remote)| (*exchange, remote.work))
            .collect();
        for (exchange, work) in lost {
            self.remote.remove(&exchange);
            self.client_gone(io, exchange, work);
        }
        let due: Vec<(Exchange, Work)> = self
            .remote
            .iter()
            .filter(|(_, remote)| remote.next_beat <= now)
            .map(|(exchange, remote)| (*exchange, remote.work))
            .collect();
        for (exchange, work) in due {
            self.keep_warm(io, exchange, work);
        }
        if !self.remote.is_empty() {
            self.watch_remote(io);
        }
    }

    pub(crate) fn watch_deferred(&mut self, io: &mut Io<'_, Message>) {
        io.arm_timer(DEFERRED_RETRY_MS, Token::Shard(Chore::Deferred).pack());
    }

    /// Keeps the runtime's timer where the upstream wants it.
    pub(crate) fn watch_upstream(&mut self, io: &mut Io<'_, Message>) {
        let wanted = self.upstream.poll_timeout();
        let armed = self.upstream_timer.map(|(_, at)| at);
        if wanted == armed {
            return;
        }
        if let Some((timer, _)) = self.upstream_timer.take() {
            io.cancel_timer(timer);
        }
        if let Some(at) = wanted {
            let after_ms = at.since(self.now(io));
            let timer = io.arm_timer(after_ms, Token::Shard(Chore::Upstream).pack());
            self.upstream_timer = Some((timer, at));
        }
    }

    pub(crate) fn watch_session(&mut self, io: &mut Io<'_, Message>, key: SessionKey, after: u64) {
        // Old events are let go at the same time, so the log's age bounds the pause.
        let age_ms = self.settings.session.log.age_ms_max.max(SESSION_SWEEP_MS_MIN);
        let after_ms = after.min(age_ms).max(1);
        let timer = io.arm_timer(after_ms, Token::Session(key).pack());
        if let Some(entry) = self.sessions.session(key) {
            entry.timer = Some(timer);
        }
    }

    fn session_timer(&mut self, io: &mut Io<'_, Message>, key: SessionKey) {
        let now = self.now(io);
        let limits = self.settings.session;
        let idle_session_ms = self.settings.idle_session_ms;
        let Some(entry) = self.sessions.session(key) else { return };
        entry.timer = None;
        entry.machine.prune(now, &limits);
        // Who listens is not idle, nor who waits for an answer. But a call that waits for
        // its client, and the client gone: that may last for ever.
        let works = entry.machine.calls().next().is_some() && entry.machine.asks_open() == 0;
        if entry.machine.carried() > 0 || works {
            entry.last_active = now;
        }
        let idle_ms = now.since(entry.last_active);
        if idle_ms >= idle_session_ms {
            self.metrics.refused(Limit::IdleSession);
            self.end_session(io, key, SessionEvent::Expired);
        } else {
            self.watch_session(io, key, idle_session_ms - idle_ms);
        }
    }

    /// No new sessions; streams end with `retry:`, calls in flight are answered,
    /// connections close behind their last answer.
    pub(crate) fn begin_drain(&mut self, io: &mut Io<'_, Message>) {
        if self.draining {
            return;
        }
        self.draining = true;
        self.drain_began = self.now(io);
        let retry_ms = Some(self.settings.sse_retry_ms);
        for key in self.sessions.keys() {
            let Some(entry) = self.sessions.session(key) else { continue };
            let idle: Vec<_> = entry.machine.standing_carriers().collect();
            for stream in idle {
                self.end_carrier(io, key, stream, retry_ms);
            }
        }
        self.upstream.end_standing_calls(&mut self.events);
        self.end_waiting_for_tasks();
        self.relay(io);
        // What waits behind the streams that have just ended comes first.
        self.drive_ready(io);
        self.drain_step(io);
    }

    /// Closes what is idle, and finishes when nothing is left.
    fn drain_step(&mut self, io: &mut Io<'_, Message>) {
        let now = self.now(io);
        let linger_ms = self.settings.drain_linger_ms;
        let began = self.drain_began;
        for conn in self.connections.ids() {
            let Some(connection) = self.connections.connection(conn) else { continue };
            // A request may be on its way on an idle connection: it gets its
            // answer, with `Connection: close`, if it comes within the linger.
            let idle = matches!(connection.state, State::Ready)
                && connection.decoder.buffered_bytes() == 0
                && now.since(connection.last_active.max(began)) >= linger_ms;
            if idle {
                connection.state = State::Closing;
                connection.closed_as = Some(Closed::Drain);
                io.close_lingering(conn);
            }
        }
        if self.may_finish(io) {
            io.finish();
        } else {
            io.arm_timer(DRAIN_STEP_MS, Token::Shard(Chore::Drain).pack());
        }
    }

    /// A shard ends when no other can need it: while one has connections, it may still
    /// forward requests for sessions of this one. Only then tool servers are told, and
    /// their connections waited for.
    fn may_finish(&mut self, io: &mut Io<'_, Message>) -> bool {
        // The runtime also counts connections that are on their way to another shard.
        let has_clients = io.connections().any(|conn| !self.links.is_link(conn));
        if has_clients || self.connections.open() > 0 {
            return false;
        }
        let others = (0..io.shards() as u16).map(ShardId).filter(|&shard| shard != io.shard());
        let others: Vec<ShardId> = others.collect();
        if !self.said_quiet {
            self.said_quiet = true;
            others.iter().for_each(|&shard| self.send(io, shard, Message::Quiet));
        }
        let all_quiet =
            others.iter().all(|shard| self.quiet.contains(shard) || io.has_ended(*shard));
        if !all_quiet || !self.remote.is_empty() || !self.deferred.is_empty() {
            return false;
        }
        if !self.has_taken_leave {
            self.has_taken_leave = true;
            let now = self.now(io);
            self.upstream.take_leave(now, &mut self.events);
            self.relay(io);
        }
        io.connections().next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_back() {
        let tokens = [
            Token::Connection { slot: 0, generation: 0 },
            Token::Connection { slot: SLOT_MASK as usize, generation: u32::MAX },
            Token::Session(SessionKey(u64::from(u32::MAX) << 32 | SLOT_MASK)),
            Token::Shard(Chore::Upstream),
            Token::Shard(Chore::Remote),
            Token::Shard(Chore::Drain),
            Token::Shard(Chore::Deferred),
        ];
        for token in tokens {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
