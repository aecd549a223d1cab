//! Connections: how many there are to be, and how each becomes ready.

use std::net::{IpAddr, Ipv4Addr};

use shardgate_proto::mcp::version::Era;
use shardgate_shard::{CloseReason, Io};

use super::{Command, GONE_NS, OPENING_MAX, REDIAL_MS, Report, Stand, Worker};
use crate::client::{Client, Phase, Role, Session};
use crate::workload::{Op, Shape};

impl Worker {
    /// This worker's part of so many connections.
    pub(super) fn share(&self, connections: u32) -> usize {
        let (connections, workers) = (connections as usize, self.workers);
        connections / workers + usize::from(self.number < connections % workers)
    }

    /// Connections that call for others.
    pub(super) fn posters(&self) -> usize {
        match self.shared.plan.shape {
            Shape::Steps(_) | Shape::Churn => 0,
            Shape::Streams => self.shared.posters,
            // One worker announces for all, so that announcements keep their order.
            Shape::Fanout => {
                if self.number == 0 {
                    self.shared.posters
                } else {
                    0
                }
            }
        }
    }

    /// Has so many clients connected from now on.
    pub(super) fn want(&mut self, io: &mut Io<'_, Command>, wanted: usize) {
        let before = std::mem::replace(&mut self.wanted, wanted);
        for client in before..wanted {
            if client == self.clients.len() {
                let role = self.role_of(client);
                self.clients.push(Client::new(role));
                self.unsettled += 1;
            }
            if self.clients[client].conn.is_none() {
                self.clients[client].phase = Phase::Away;
                self.to_dial.push_back(client as u32);
            }
        }
        for client in wanted..before {
            match self.clients[client].phase {
                Phase::Free | Phase::Thinking | Phase::Streaming | Phase::Dialing => {
                    self.retire(io, client);
                }
                Phase::Away => self.clients[client].phase = Phase::Retired,
                // It goes when its answer has come.
                Phase::Busy | Phase::Retired => {}
            }
        }
    }

    fn role_of(&self, client: usize) -> Role {
        match self.shared.plan.shape {
            Shape::Steps(_) | Shape::Churn => Role::Caller,
            Shape::Streams | Shape::Fanout if client < self.posters() => Role::Poster,
            Shape::Streams | Shape::Fanout => Role::Listener,
        }
    }

    pub(super) fn retire(&mut self, io: &mut Io<'_, Command>, client: usize) {
        self.settle(client);
        let client = &mut self.clients[client];
        client.phase = Phase::Retired;
        if let Some(conn) = client.conn {
            io.close(conn);
        }
    }

    /// Begins to connect those whose turn it is.
    pub(super) fn dial_waiting(&mut self, io: &mut Io<'_, Command>, now_ns: u64) {
        while let Some(&(due_ns, client)) = self.redial.front()
            && due_ns <= now_ns
        {
            self.redial.pop_front();
            self.to_dial.push_back(client);
        }
        while self.opening < OPENING_MAX
            && let Some(client) = self.to_dial.pop_front()
        {
            self.dial(io, client as usize, now_ns);
        }
    }

    fn dial(&mut self, io: &mut Io<'_, Command>, client: usize, now_ns: u64) {
        if self.clients[client].phase != Phase::Away {
            return;
        }
        let address = self.shared.address;
        let begun = match self.source_of(client) {
            Some(source) => io.connect_from(source, address),
            None => io.connect(address),
        };
        match begun {
            Ok(conn) => {
                if self.by_conn.len() <= conn.index() {
                    self.by_conn.resize(conn.index() + 1, u32::MAX);
                }
                self.by_conn[conn.index()] = client as u32;
                self.opening += 1;
                let client = &mut self.clients[client];
                client.dial(conn);
                client.request.sent_ns = now_ns;
            }
            Err(refused) => {
                let sentence = refused.to_string();
                self.interval.fail(None, "connect", &sentence);
                self.trouble = Some(sentence);
                self.settle(client);
                self.dial_later(io, client);
            }
        }
    }

    /// Addresses of the loopback network are taken in turn.
    fn source_of(&self, client: usize) -> Option<IpAddr> {
        let addresses = self.shared.plan.source_addresses;
        if addresses <= 1 {
            return None;
        }
        let place = (client * self.workers + self.number) as u32 % addresses;
        let first = u32::from(Ipv4Addr::LOCALHOST);
        Some(Ipv4Addr::from(first + place).into())
    }

    pub(super) fn dial_later(&mut self, io: &mut Io<'_, Command>, client: usize) {
        let due_ns = io.turn_began_ns() + REDIAL_MS * 1_000_000;
        self.redial.push_back((due_ns, client as u32));
    }

    /// A client is ready, or has failed to become so.
    pub(super) fn settle(&mut self, client: usize) {
        let client = &mut self.clients[client];
        if client.opening {
            client.opening = false;
            self.opening -= 1;
        }
        if !std::mem::replace(&mut client.settled, true) {
            self.unsettled -= 1;
        }
    }

    /// The connection is there and nothing is under way on it: what is next?
    pub(super) fn release(&mut self, io: &mut Io<'_, Command>, client: usize) {
        if matches!(self.stand, Stand::Farewell { .. }) {
            return self.end_a_session(io, client);
        }
        if client >= self.wanted {
            return self.retire(io, client);
        }
        if let Some(op) = self.preparation(client) {
            let now_ns = io.turn_began_ns();
            return self.send(io, client, op, now_ns, now_ns, false);
        }
        self.settle(client);
        let think_ns = self.shared.plan.think_ns;
        let now_ns = io.turn_began_ns();
        let free = &mut self.clients[client];
        free.free_ns = now_ns;
        if think_ns > 0 && free.request.counted {
            free.phase = Phase::Thinking;
            self.thinking.push_back((now_ns + think_ns, client as u32));
        } else {
            self.enqueue(client);
        }
    }

    /// What a client has to send before it can take part.
    fn preparation(&self, client: usize) -> Option<Op> {
        let Client { role, session, request, subscribed, .. } = &self.clients[client];
        let plan = &self.shared.plan;
        let legacy = plan.revision.era() == Era::Legacy;
        match (role, session) {
            (Role::Poster, _) => None,
            (Role::Caller, _) if plan.shape == Shape::Churn || !legacy => None,
            // The workload has ended or begun it, and will go on with it.
            (Role::Caller, Session::None | Session::Begun(_)) if request.counted => None,
            (Role::Caller | Role::Listener, Session::None) if legacy => Some(Op::Initialize),
            (Role::Caller | Role::Listener, Session::Begun(_)) => Some(Op::Initialized),
            (Role::Caller, Session::None | Session::Open(_)) => None,
            (Role::Listener, Session::None | Session::Open(_)) => {
                let subscribes = legacy && plan.shape == Shape::Fanout && !subscribed;
                Some(if subscribes { Op::Subscribe } else { Op::OpenStream })
            }
        }
    }

    /// Puts a free client where it will be found.
    pub(super) fn enqueue(&mut self, client: usize) {
        let churns = self.shared.plan.shape == Shape::Churn;
        let legacy = self.shared.plan.revision.era() == Era::Legacy;
        let free = &mut self.clients[client];
        free.phase = Phase::Free;
        if std::mem::replace(&mut free.queued, true) {
            return;
        }
        let queue = match (&free.session, free.role) {
            (Session::None, Role::Caller) if legacy && !churns => &mut self.sessionless,
            (Session::Begun(_), Role::Caller) if !churns => &mut self.begun,
            (Session::None | Session::Begun(_) | Session::Open(_), _) => &mut self.free,
        };
        queue.push_back(client as u32);
    }

    /// The connection is gone: why, and what becomes of its client.
    pub(super) fn lost_connection(
        &mut self,
        io: &mut Io<'_, Command>,
        client: usize,
        reason: &CloseReason,
    ) {
        let phase = self.clients[client].phase;
        self.clients[client].conn = None;
        if std::mem::take(&mut self.clients[client].stood) {
            self.open -= 1;
        }
        self.settle(client);
        let failed = self.explain_loss(client, phase, reason);
        if client >= self.wanted {
            self.clients[client].phase = Phase::Retired;
            return;
        }
        self.clients[client].phase = Phase::Away;
        if !self.is_living() {
            return;
        }
        if failed {
            self.dial_later(io, client);
        } else {
            self.to_dial.push_back(client as u32);
        }
    }

    /// Counts a loss as what it is; false if nothing went wrong.
    fn explain_loss(&mut self, client: usize, phase: Phase, reason: &CloseReason) -> bool {
        let why = match reason {
            CloseReason::Reset(error) | CloseReason::ConnectFailed(error) => error.to_string(),
            CloseReason::Peer
            | CloseReason::Local
            | CloseReason::Panicked
            | CloseReason::SlowReader
            | CloseReason::Idle
            | CloseReason::Shutdown => "it closed the connection".to_owned(),
        };
        let address = self.shared.address;
        match phase {
            Phase::Dialing => {
                let sentence = format!("connect to {address}: {why}");
                self.interval.fail(None, "connect", &sentence);
                self.trouble = Some(sentence);
            }
            Phase::Busy => {
                let request = self.clients[client].request;
                let op = request.op.name();
                let sentence =
                    format!("the server at {address} left {op} without an answer: {why}");
                self.request_ended(client);
                self.interval.fail(request.counted.then_some(request.op), "closed", &sentence);
                self.trouble = Some(sentence);
            }
            Phase::Streaming if self.is_living() => {
                let sentence = format!("the server at {address} ended a stream: {why}");
                self.interval.fail(None, "stream closed", &sentence);
                self.trouble = Some(sentence);
            }
            Phase::Free | Phase::Thinking => {
                self.interval.idle_closes += 1;
                return false;
            }
            Phase::Away => return std::mem::take(&mut self.clients[client].failed),
            Phase::Streaming | Phase::Retired => return false,
        }
        true
    }

    /// Told once all that are to be open before the run have been, or have failed.
    pub(super) fn look_whether_ready(&mut self) {
        if self.unsettled == 0 {
            self.stand = Stand::Ready;
            self.tell(Report::Ready { open: self.open, trouble: self.trouble.clone() });
        }
    }

    /// Tells that the server is gone if there has been no connection for long.
    pub(super) fn look_for_the_server(&mut self, io: &Io<'_, Command>) {
        if !self.is_living() || self.open > 0 || self.wanted == 0 {
            self.alone_since_ns = None;
            return;
        }
        let now_ns = io.turn_began_ns();
        let since_ns = *self.alone_since_ns.get_or_insert(now_ns);
        if now_ns - since_ns >= GONE_NS
            && let Some(trouble) = self.trouble.take()
        {
            self.tell(Report::Gone(trouble));
        }
    }
}
