//! Answers and events: what they say of the server, and of the client's session.

use shardgate_proto::mcp::version::Era;
use shardgate_shard::Io;

use super::{Command, Stand, Worker};
use crate::answer::Judged;
use crate::client::{Phase, Request, Session};
use crate::workload::{Op, Shape};

impl Worker {
    /// An answer is here, and the connection may carry another request if it is to stay.
    pub(super) fn answered(
        &mut self,
        io: &mut Io<'_, Command>,
        client: usize,
        judged: Judged,
        keep_alive: bool,
        now_ns: u64,
    ) {
        if self.clients[client].phase != Phase::Busy {
            return self.broken(io, client, "the server answered what it was not asked");
        }
        let request = self.clients[client].request;
        let good = self.judge(client, request, judged, now_ns);
        self.clients[client].served += 1;
        let parting = matches!(self.stand, Stand::Farewell { .. });
        let used_up = self
            .shared
            .plan
            .requests_per_connection
            .is_some_and(|most| self.clients[client].served >= most);
        let preparing = !request.counted && !parting;
        if !keep_alive || used_up || (preparing && !good) {
            // A client that can't be made ready tries again later, not at once.
            self.clients[client].failed = preparing && !good;
            self.hang_up(io, client);
        } else {
            self.release(io, client);
        }
    }

    /// Counts an answer and follows the session; true if it is as it should be.
    fn judge(&mut self, client: usize, request: Request, judged: Judged, now_ns: u64) -> bool {
        let Request { op, planned_ns, sent_ns, counted, .. } = request;
        self.request_ended(client);
        let known = self.clients[client].session.id().is_some();
        let counted_op = counted.then_some(op);
        let parting = matches!(self.stand, Stand::Farewell { .. });
        match judged {
            Judged::Good => {
                if counted && planned_ns > 0 {
                    let (corrected_ns, raw_ns) =
                        (now_ns.saturating_sub(planned_ns), now_ns.saturating_sub(sent_ns));
                    self.interval.complete(op, corrected_ns, raw_ns);
                }
                self.follow_session(client, op);
                return true;
            }
            // How sessions end is nobody's result any more.
            Judged::Shed | Judged::SessionLost | Judged::Bad { .. } if parting => {}
            Judged::Shed if counted => {
                self.interval.shed(op, now_ns.saturating_sub(sent_ns));
            }
            Judged::Shed => {
                let sentence = format!("the server refused {}: too much to do", op.name());
                self.interval.fail(None, "refused", &sentence);
                self.trouble = Some(sentence);
            }
            Judged::SessionLost if known => {
                self.clients[client].session = Session::None;
                // The client gets itself a new one before it takes part again.
                self.clients[client].request.counted = false;
                let sentence = format!("the server has lost the session of {}", op.name());
                self.interval.fail(counted_op, "session lost", &sentence);
            }
            Judged::SessionLost => {
                let sentence = format!("the server answered {} with status 404", op.name());
                self.interval.fail(counted_op, "http 404", &sentence);
                self.trouble = Some(sentence);
            }
            Judged::Bad { kind, sentence } => {
                let sentence = format!("{}: {sentence}", op.name());
                self.interval.fail(counted_op, &kind, &sentence);
                self.trouble = Some(sentence);
            }
        }
        false
    }

    fn follow_session(&mut self, client: usize, op: Op) {
        let client = &mut self.clients[client];
        match op {
            Op::Initialize => client.session = Session::Begun(client.take_session()),
            Op::Initialized => {
                if let Session::Begun(id) = std::mem::take(&mut client.session) {
                    client.session = Session::Open(id);
                }
            }
            Op::Delete => client.session = Session::None,
            Op::Subscribe => client.subscribed = true,
            Op::Ping
            | Op::ToolCall
            | Op::ResourceRead
            | Op::Discover
            | Op::OpenStream
            | Op::Announce
            | Op::Event => {}
        }
    }

    /// The answer has come on a stream that goes on: its time is taken now.
    pub(super) fn note_told(&mut self, client: usize, now_ns: u64) {
        let Request { op, planned_ns, sent_ns, counted, .. } = self.clients[client].request;
        if counted && planned_ns > 0 {
            self.clients[client].request.planned_ns = 0;
            self.interval.complete(op, now_ns.saturating_sub(planned_ns), now_ns - sent_ns);
        }
    }

    /// Something came on a stream.
    pub(super) fn hear_stream(&mut self, client: usize, now_ns: u64) {
        if self.clients[client].phase == Phase::Busy {
            // MCP 2026-07-28, subscriptions: the acknowledgement is the first message.
            if self.shared.plan.revision.era() == Era::Modern {
                if self.clients[client].events == 0 {
                    return;
                }
                self.clients[client].events -= 1;
            }
            self.clients[client].phase = Phase::Streaming;
            // It hears of what is announced from now on.
            self.clients[client].heard = self.announced_ns.len();
            self.settle(client);
        }
        let events = std::mem::take(&mut self.clients[client].events);
        if self.stand == Stand::Running {
            self.count_offered(now_ns.saturating_sub(self.begin_ns));
        }
        for _ in 0..events {
            self.hear_event(client, now_ns);
        }
    }

    fn hear_event(&mut self, client: usize, now_ns: u64) {
        if self.shared.plan.shape != Shape::Fanout {
            self.interval.totals.events += 1;
            return;
        }
        let number = self.clients[client].heard;
        self.clients[client].heard += 1;
        match self.announced_ns.get(number) {
            Some(planned_ns) => {
                let since_ns = now_ns.saturating_sub(self.begin_ns + planned_ns);
                self.interval.event(since_ns);
            }
            // Somebody else had the server announce something.
            None => self.interval.totals.events += 1,
        }
    }

    /// What came can't be an answer.
    pub(super) fn broken(&mut self, io: &mut Io<'_, Command>, client: usize, sentence: &str) {
        let request = self.clients[client].request;
        let busy = self.clients[client].phase == Phase::Busy;
        if busy {
            self.request_ended(client);
        }
        let op = (busy && request.counted).then_some(request.op);
        self.interval.fail(op, "unreadable", sentence);
        self.trouble = Some(sentence.to_owned());
        self.clients[client].failed = true;
        self.hang_up(io, client);
    }

    /// A request is not under way any more, be it answered or not.
    pub(super) fn request_ended(&mut self, client: usize) {
        let Request { op, counted, .. } = self.clients[client].request;
        let parting = matches!(self.stand, Stand::Farewell { .. });
        self.in_flight -= u32::from(counted);
        self.farewells -= u32::from(parting && !counted && op == Op::Delete);
    }

    /// Closes a client's connection from here.
    pub(super) fn hang_up(&mut self, io: &mut Io<'_, Command>, client: usize) {
        self.clients[client].phase = Phase::Away;
        if let Some(conn) = self.clients[client].conn {
            io.close(conn);
        }
    }
}
