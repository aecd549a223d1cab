//! The schedule at work: every turn, what is due is sent on connections that are free.

use shardgate_proto::mcp::version::Era;
use shardgate_shard::Io;

use super::ending::thread_cpu_ns;
use super::{Command, Stand, Worker};
use crate::client::{Phase, Request, Role, Session};
use crate::requests::RequestId;
use crate::workload::{Op, Shape, Step};

/// Session management in a mix: what the steps are in turn. A session is ended and begun
/// anew once in [`MANAGEMENT`]'s length.
const MANAGEMENT: [Op; 8] =
    [Op::Ping, Op::Ping, Op::Delete, Op::Ping, Op::Initialize, Op::Ping, Op::Initialized, Op::Ping];

impl Worker {
    /// The run begins at this moment.
    pub(super) fn begin(&mut self, at_ns: u64) {
        self.begin_ns = at_ns;
        self.stand = Stand::Running;
        // What getting ready took is no part of the run; what went wrong meanwhile is told.
        let before = self.interval.restart(0, 0);
        self.interval.errors = before.errors;
        self.interval.totals.errors = before.totals.errors;
        self.cpu_before_ns = thread_cpu_ns();
        self.begin_interval(0);
    }

    /// One turn of the run.
    pub(super) fn run(&mut self, io: &mut Io<'_, Command>, now_ns: u64) {
        if now_ns < self.begin_ns {
            return io.turn_at_ns(self.begin_ns);
        }
        let at_ns = now_ns - self.begin_ns;
        while at_ns >= self.interval_end_ns {
            let end_ns = self.interval_end_ns;
            // What was due before the end belongs to what ends.
            self.count_offered(end_ns - 1);
            if !self.shared.timeline.is_closed_at(seconds(end_ns - 1)) {
                self.send_due(io, now_ns, end_ns - 1);
            }
            self.end_interval(end_ns);
            if end_ns >= self.run_end_ns() {
                self.keep_backlog(end_ns);
                return self.begin_drain(io, now_ns);
            }
            self.begin_interval(end_ns);
        }
        self.scale(io, at_ns);
        self.end_thinking(now_ns);
        self.count_offered(at_ns);
        if self.shared.timeline.is_closed_at(seconds(at_ns)) {
            self.send_closed(io, now_ns, at_ns);
        } else {
            self.send_due(io, now_ns, at_ns);
        }
        self.plan_turn(io);
    }

    /// When the run ends, since it began.
    pub(super) fn run_end_ns(&self) -> u64 {
        nanoseconds(self.shared.timeline.end_s())
    }

    fn scale(&mut self, io: &mut Io<'_, Command>, at_ns: u64) {
        let connections = self.shared.timeline.connections_at(seconds(at_ns));
        let wanted = self.share(connections) + self.posters();
        if wanted != self.wanted {
            self.want(io, wanted);
            self.dial_waiting(io, io.turn_began_ns());
        }
    }

    fn end_thinking(&mut self, now_ns: u64) {
        while let Some(&(due_ns, client)) = self.thinking.front()
            && due_ns <= now_ns
        {
            self.thinking.pop_front();
            let client = client as usize;
            if self.clients[client].phase == Phase::Thinking {
                self.clients[client].free_ns = due_ns;
                self.enqueue(client);
            }
        }
    }

    pub(super) fn count_offered(&mut self, at_ns: u64) {
        let announces = self.shared.plan.shape == Shape::Fanout;
        while let Some(due_ns) = self.due.peek_ns()
            && due_ns <= at_ns
        {
            self.due.advance();
            if announces {
                self.announced_ns.push(due_ns);
            }
            if !announces || self.number == 0 {
                self.interval.totals.offered += 1;
            }
        }
    }

    /// Sends on every connection that is free.
    fn send_closed(&mut self, io: &mut Io<'_, Command>, now_ns: u64, at_ns: u64) {
        // What an open stage has left undone is not made up for in a closed one.
        while self.arrivals.peek_ns().is_some_and(|due_ns| due_ns <= at_ns) {
            self.arrivals.advance();
        }
        while self.send_next(io, now_ns, now_ns) {
            self.interval.totals.offered += 1;
        }
    }

    /// Sends what is due, as long as connections are free.
    fn send_due(&mut self, io: &mut Io<'_, Command>, now_ns: u64, at_ns: u64) {
        if self.shared.plan.shape == Shape::Fanout && self.number > 0 {
            return;
        }
        while let Some(due_ns) = self.arrivals.peek_ns()
            && due_ns <= at_ns
            && self.send_next(io, self.begin_ns + due_ns, now_ns)
        {
            self.arrivals.advance();
        }
    }

    /// Sends what the run has left to be sent; true if there is more.
    pub(super) fn send_backlog(&mut self, io: &mut Io<'_, Command>, now_ns: u64) -> bool {
        if self.backlog_end_ns == 0 {
            return false;
        }
        let last_ns = self.backlog_end_ns - 1;
        self.end_thinking(now_ns);
        self.send_due(io, now_ns, last_ns);
        let is_mine = self.shared.plan.shape != Shape::Fanout || self.number == 0;
        is_mine && self.arrivals.peek_ns().is_some_and(|due_ns| due_ns <= last_ns)
    }

    /// Sends the next request of the workload; false if no connection is free for it.
    fn send_next(&mut self, io: &mut Io<'_, Command>, planned_ns: u64, now_ns: u64) -> bool {
        let Some((client, op)) = self.choose() else { return false };
        let late_ns = now_ns.saturating_sub(planned_ns.max(self.clients[client].free_ns));
        self.interval.delay.saturating_record(late_ns / 1_000);
        self.send(io, client, op, planned_ns, now_ns, true);
        true
    }

    /// Who sends what next.
    fn choose(&mut self) -> Option<(usize, Op)> {
        match self.shared.plan.shape {
            Shape::Steps(steps) => {
                let found = self.choose_step(steps[self.step % steps.len()])?;
                self.step += 1;
                Some(found)
            }
            Shape::Churn => {
                let client = self.take_free()?;
                Some((client, self.churn_step(client)))
            }
            Shape::Streams => Some((self.take_free()?, Op::ToolCall)),
            Shape::Fanout => Some((self.take_free()?, Op::Announce)),
        }
    }

    fn choose_step(&mut self, step: Step) -> Option<(usize, Op)> {
        let modern = self.shared.plan.revision.era() == Era::Modern;
        let op = match step {
            Step::Tool => Op::ToolCall,
            Step::Read => Op::ResourceRead,
            // MCP 2026-07-28 has neither sessions nor pings.
            Step::Manage | Step::Ping if modern => Op::Discover,
            Step::Ping => Op::Ping,
            Step::Manage => return self.choose_management(),
        };
        Some((self.take_free()?, op))
    }

    fn choose_management(&mut self) -> Option<(usize, Op)> {
        let op = MANAGEMENT[self.manage_step % MANAGEMENT.len()];
        let found = match op {
            Op::Initialize => self.take_sessionless().map(|client| (client, op)),
            Op::Initialized => self.take_begun().map(|client| (client, op)),
            Op::Delete
            | Op::Ping
            | Op::ToolCall
            | Op::ResourceRead
            | Op::Discover
            | Op::OpenStream
            | Op::Subscribe
            | Op::Announce
            | Op::Event => Some((self.take_free()?, op)),
        };
        // The answer that would make the next step possible may not be here yet.
        let found = match found {
            Some(found) => found,
            None => (self.take_free()?, Op::Ping),
        };
        self.manage_step += 1;
        Some(found)
    }

    fn churn_step(&self, client: usize) -> Op {
        match &self.clients[client].session {
            Session::None => Op::Initialize,
            Session::Begun(_) => Op::Initialized,
            Session::Open(_) if self.clients[client].request.op == Op::Initialized => Op::ToolCall,
            Session::Open(_) => Op::Delete,
        }
    }

    fn take_free(&mut self) -> Option<usize> {
        let churns = self.shared.plan.shape == Shape::Churn;
        let legacy = self.shared.plan.revision.era() == Era::Legacy;
        loop {
            let client = self.free.pop_front()? as usize;
            let is_ready = churns
                || !legacy
                || self.clients[client].role == Role::Poster
                || matches!(self.clients[client].session, Session::Open(_));
            if self.is_taken(client, is_ready) {
                return Some(client);
            }
        }
    }

    fn take_sessionless(&mut self) -> Option<usize> {
        loop {
            let client = self.sessionless.pop_front()? as usize;
            let is_ready = self.clients[client].session == Session::None;
            if self.is_taken(client, is_ready) {
                return Some(client);
            }
        }
    }

    fn take_begun(&mut self) -> Option<usize> {
        loop {
            let client = self.begun.pop_front()? as usize;
            let is_ready = matches!(self.clients[client].session, Session::Begun(_));
            if self.is_taken(client, is_ready) {
                return Some(client);
            }
        }
    }

    /// A client has left a queue; true if it can be used. It may have lost its connection
    /// since it was put there, and have another one now.
    fn is_taken(&mut self, client: usize, is_ready: bool) -> bool {
        self.clients[client].queued = false;
        if self.clients[client].phase != Phase::Free {
            return false;
        }
        if !is_ready {
            self.enqueue(client);
        }
        is_ready
    }

    /// Sends a request on a client's connection.
    pub(super) fn send(
        &mut self,
        io: &mut Io<'_, Command>,
        client: usize,
        op: Op,
        planned_ns: u64,
        sent_ns: u64,
        counted: bool,
    ) {
        // A reply that is fixed holds the first id.
        let number = if self.shared.plan.fixed_reply { 0 } else { self.requests_made };
        let id = RequestId::of(number);
        self.requests_made += 1;
        let listener = (self.clients[client].role == Role::Poster).then(|| self.next_listener());
        let sender = &mut self.clients[client];
        sender.request = Request { op, id, planned_ns, sent_ns, counted };
        sender.phase = Phase::Busy;
        if counted {
            self.interval.totals.sent += 1;
            self.in_flight += 1;
        }
        // If the connection is gone already, that is told next.
        let Some(out) = sender.conn.and_then(|conn| io.output(conn)) else { return };
        let before = out.len();
        let session = self.clients[listener.flatten().unwrap_or(client)].session.id();
        self.shared.requests.of(op).write(out, id, session);
        self.interval.totals.sent_bytes += (out.len() - before) as u64;
        self.worked = true;
    }

    /// The next client whose session is open and whose stream is read.
    fn next_listener(&mut self) -> Option<usize> {
        let first = self.posters();
        let listeners = self.wanted.saturating_sub(first);
        for _ in 0..listeners {
            self.next_listener = (self.next_listener + 1) % listeners;
            let client = first + self.next_listener;
            if self.clients[client].phase == Phase::Streaming {
                return Some(client);
            }
        }
        None
    }

    /// Asks for a turn when there will be something to do.
    fn plan_turn(&mut self, io: &mut Io<'_, Command>) {
        let mut next_ns = self.begin_ns + self.interval_end_ns;
        if !self.free.is_empty()
            && let Some(due_ns) = self.arrivals.peek_ns()
        {
            next_ns = next_ns.min(self.begin_ns + due_ns);
        }
        if let Some(&(due_ns, _)) = self.thinking.front() {
            next_ns = next_ns.min(due_ns);
        }
        io.turn_at_ns(next_ns);
    }
}

pub(super) fn seconds(at_ns: u64) -> f64 {
    at_ns as f64 / 1e9
}

pub(super) fn nanoseconds(at_s: f64) -> u64 {
    (at_s * 1e9) as u64
}
