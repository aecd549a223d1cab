//! Intervals' ends, overdue answers, and the end of the run.

use rustix::time::{ClockId, clock_gettime};
use shardgate_shard::Io;

use super::dispatch::nanoseconds;
use super::{Command, FAREWELL_NS, FAREWELL_PER_SESSION_NS, Report, Stand, Worker};
use crate::client::{Phase, Role, Session};
use crate::recorder::Interval;
use crate::workload::{Op, Shape};

const SECOND_NS: u64 = 1_000_000_000;
/// What has waited for a connection for longer than this when the run ends is not sent.
const BACKLOG_NS_MAX: u64 = SECOND_NS;

impl Worker {
    /// An interval begins: it ends with its second or with its stage.
    pub(super) fn begin_interval(&mut self, begin_ns: u64) {
        let timeline = &self.shared.timeline;
        // Stages' ends are rounded down to nanoseconds; half of one tells the sides apart.
        let stage = timeline.stage_at((begin_ns as f64 + 0.5) / 1e9);
        let stage_end_ns = nanoseconds(timeline.stage_end_s(stage));
        let second_end_ns = (begin_ns / SECOND_NS + 1) * SECOND_NS;
        self.interval_end_ns =
            if stage_end_ns > begin_ns { second_end_ns.min(stage_end_ns) } else { second_end_ns };
        self.interval.begin_ns = begin_ns;
        self.interval.stage = stage;
    }

    /// Ships what the interval has counted.
    pub(super) fn end_interval(&mut self, end_ns: u64) {
        let stage = self.interval.stage;
        let mut over: Interval = self.interval.restart(end_ns, stage);
        let cpu_ns = thread_cpu_ns();
        over.end_ns = end_ns;
        over.connections = self.open;
        over.cpu_ns = cpu_ns - std::mem::replace(&mut self.cpu_before_ns, cpu_ns);
        self.tell(Report::Interval(Box::new(over)));
    }

    /// The run is ended from outside.
    pub(super) fn stop(&mut self, io: &mut Io<'_, Command>) {
        let now_ns = io.clock_ns();
        match self.stand {
            Stand::Running => {
                let at_ns = now_ns.saturating_sub(self.begin_ns);
                self.end_interval(at_ns.max(self.interval.begin_ns));
                self.begin_drain(io, now_ns);
            }
            Stand::Opening | Stand::Ready => {
                self.end_interval(0);
                self.begin_farewell(io, now_ns);
            }
            // A second request for the end is in more of a hurry.
            Stand::Draining { .. } | Stand::Farewell { .. } => self.done(),
            Stand::Done => {}
        }
    }

    /// Waits for the answers that are under way.
    pub(super) fn begin_drain(&mut self, io: &mut Io<'_, Command>, now_ns: u64) {
        let until_ns = now_ns + self.shared.plan.timeout_ns;
        self.stand = Stand::Draining { until_ns };
        self.drain(io, now_ns, until_ns);
    }

    /// Sends what was due before the end and had no connection, if that is not much: a
    /// server that is slow for the last moment is not one that leaves requests undone. Where
    /// more has piled up, the server is at its limit, and what it would do behind the end
    /// would flatter it.
    pub(super) fn keep_backlog(&mut self, end_ns: u64) {
        let oldest_ns = self.arrivals.peek_ns().unwrap_or(u64::MAX);
        let is_little = end_ns.saturating_sub(oldest_ns) <= BACKLOG_NS_MAX;
        // Streams wait for each announcement that was due.
        let is_kept = is_little || self.shared.plan.shape == Shape::Fanout;
        self.backlog_end_ns = if is_kept { end_ns } else { 0 };
    }

    pub(super) fn drain(&mut self, io: &mut Io<'_, Command>, now_ns: u64, until_ns: u64) {
        let is_behind = self.send_backlog(io, now_ns);
        if (is_behind || self.in_flight > 0 || self.events_are_missing()) && now_ns < until_ns {
            let thought_ns = self.thinking.front().map_or(until_ns, |(due_ns, _)| *due_ns);
            io.turn_at_ns(until_ns.min(thought_ns));
            return;
        }
        self.count_lost_events();
        if self.in_flight > 0 {
            self.give_up_overdue(io);
        }
        let end_ns = now_ns.saturating_sub(self.begin_ns).max(self.interval.begin_ns);
        self.end_interval(end_ns);
        self.begin_farewell(io, now_ns);
    }

    fn events_are_missing(&self) -> bool {
        self.shared.plan.shape == Shape::Fanout && self.missing_events() > 0
    }

    fn missing_events(&self) -> u64 {
        let announced = self.announced_ns.len();
        let listeners = self.clients[..self.wanted].iter();
        listeners
            .filter(|client| client.phase == Phase::Streaming)
            .map(|client| announced.saturating_sub(client.heard) as u64)
            .sum()
    }

    fn count_lost_events(&mut self) {
        if self.shared.plan.shape != Shape::Fanout {
            return;
        }
        for _ in 0..self.missing_events() {
            let sentence = "a stream did not get every event that was announced";
            self.interval.fail(Some(Op::Event), "lost event", sentence);
        }
    }

    /// Requests that have waited for too long count as unanswered.
    pub(super) fn give_up_overdue(&mut self, io: &mut Io<'_, Command>) {
        let timeout_ns = self.shared.plan.timeout_ns;
        let now_ns = io.turn_began_ns();
        for client in 0..self.clients.len() {
            let waiting = &self.clients[client];
            let waits = matches!(waiting.phase, Phase::Busy | Phase::Dialing);
            if !waits || now_ns.saturating_sub(waiting.request.sent_ns) < timeout_ns {
                continue;
            }
            let busy = waiting.phase == Phase::Busy;
            let request = waiting.request;
            let what = if busy { request.op.name() } else { "the connect" };
            let timeout_ms = timeout_ns / 1_000_000;
            let sentence = format!("{what} was not answered within {timeout_ms} ms");
            if busy {
                self.request_ended(client);
            }
            let op = (busy && request.counted).then_some(request.op);
            self.interval.fail(op, "timeout", &sentence);
            self.trouble = Some(sentence);
            self.clients[client].failed = true;
            self.hang_up(io, client);
        }
    }

    /// Ends the sessions, so that the server need not keep them.
    fn begin_farewell(&mut self, io: &mut Io<'_, Command>, now_ns: u64) {
        for client in &mut self.clients {
            if let Session::Begun(Some(id)) | Session::Open(Some(id)) =
                std::mem::take(&mut client.session)
            {
                self.to_end.push(id);
            }
        }
        let sessions = self.to_end.len() as u64;
        let until_ns = now_ns + FAREWELL_NS + sessions * FAREWELL_PER_SESSION_NS;
        self.stand = Stand::Farewell { until_ns };
        let free: Vec<usize> = (0..self.clients.len())
            .filter(|client| matches!(self.clients[*client].phase, Phase::Free | Phase::Thinking))
            .collect();
        for client in free {
            self.end_a_session(io, client);
        }
        self.part(io, now_ns, until_ns);
    }

    /// Has a free client end one of the sessions that are left.
    pub(super) fn end_a_session(&mut self, io: &mut Io<'_, Command>, client: usize) {
        self.clients[client].phase = Phase::Free;
        if let Some(id) = self.to_end.pop() {
            self.clients[client].role = Role::Caller;
            self.clients[client].session = Session::Open(Some(id));
            self.farewells += 1;
            let now_ns = io.turn_began_ns();
            self.send(io, client, Op::Delete, now_ns, now_ns, false);
        }
    }

    pub(super) fn part(&mut self, io: &mut Io<'_, Command>, now_ns: u64, until_ns: u64) {
        if self.farewells > 0 && now_ns < until_ns {
            io.turn_at_ns(until_ns);
            return;
        }
        self.done();
    }

    fn done(&mut self) {
        self.stand = Stand::Done;
        self.tell(Report::Done);
    }
}

/// Processor time this thread has used.
pub(super) fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * SECOND_NS + time.tv_nsec as u64
}
