//! One worker: a shard whose connections are the load.
//!
//! Its life: it opens connections and gets their sessions ready, tells that it is ready, and
//! waits for the beginning; then every turn it looks at the schedule and sends what is due;
//! at the end it waits for the answers still under way, ends its sessions and tells that it
//! is done.
//!
//! Invariants:
//! - A request that is due waits for a free connection, and its latency counts from when it
//!   was due all the same.
//! - What a turn has received is dated to the turn's beginning, what it sends to its end:
//!   one look at the clock each.
//! - A client stands in at most one queue of free ones, and only those that are
//!   [`Phase::Free`] are taken from it.
//!
//! Limits: [`OPENING_MAX`] connections are made ready at once.

mod answering;
mod dispatch;
mod ending;
mod opening;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use shardgate_shard::{CloseReason, ConnId, Io, ListenerId, Origin, Service};

use crate::client::{Client, Heard, Phase};
use crate::plan::RunPlan;
use crate::recorder::Interval;
use crate::requests::Requests;
use crate::schedule::{Arrivals, Timeline};
use crate::workload::Shape;

/// Connections a worker has between its wish for them and their being ready.
pub(crate) const OPENING_MAX: usize = 256;
/// After this pause a connection that could not be had is tried again.
const REDIAL_MS: u64 = 200;
/// How often answers that are overdue are looked for.
const LOOK_MS: u64 = 250;
/// For so long without a single connection, the server counts as gone.
const GONE_NS: u64 = 3_000_000_000;
/// How long the sessions' ends may take, and how much longer for each of them.
const FAREWELL_NS: u64 = 5_000_000_000;
const FAREWELL_PER_SESSION_NS: u64 = 1_000_000;

/// What all workers of a run share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plan: RunPlan,
    pub(crate) requests: Requests,
    pub(crate) timeline: Arc<Timeline>,
    pub(crate) address: SocketAddr,
    /// Connections of each worker that call for others, where the shape has such.
    pub(crate) posters: usize,
}

/// What a worker is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    /// The run begins at this moment, by the shards' clock.
    Begin { at_ns: u64 },
    /// The run ends now.
    Stop,
}

/// What a worker tells.
#[derive(Debug)]
pub(crate) enum Report {
    /// All connections that are to be open before the run are, or have failed once.
    Ready {
        /// How many stand.
        open: u32,
        /// Why one does not.
        trouble: Option<String>,
    },
    /// So many connections stand, and more are on their way.
    Opening {
        /// How many.
        open: u32,
    },
    /// An interval is over.
    Interval(Box<Interval>),
    /// No connection can be had any more, and why.
    Gone(String),
    /// Nothing more will come.
    Done,
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    Opening,
    Ready,
    Running,
    /// Waits for answers, until then.
    Draining {
        until_ns: u64,
    },
    /// Ends sessions, until then.
    Farewell {
        until_ns: u64,
    },
    Done,
}

/// A worker.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    number: usize,
    workers: usize,
    reports: Sender<(usize, Report)>,
    stand: Stand,
    clients: Vec<Client>,
    /// The client of each connection, by the connection's index.
    by_conn: Vec<u32>,
    /// Clients that are to have a connection: those before this index.
    wanted: usize,
    free: VecDeque<u32>,
    /// Free ones whose session was ended, or has begun and waits for the second step.
    sessionless: VecDeque<u32>,
    begun: VecDeque<u32>,
    thinking: VecDeque<(u64, u32)>,
    to_dial: VecDeque<u32>,
    redial: VecDeque<(u64, u32)>,
    /// Clients on their way to being ready.
    opening: usize,
    /// Clients that have neither been ready nor failed yet.
    unsettled: usize,
    /// Clients with a connection that stands.
    open: u32,
    alone_since_ns: Option<u64>,
    /// The latest reason why a connection was not had.
    trouble: Option<String>,
    begin_ns: u64,
    /// The next request to be sent.
    arrivals: Arrivals,
    /// The next request to be counted as offered.
    due: Arrivals,
    /// When each announcement was due, since the run began.
    announced_ns: Vec<u64>,
    interval: Interval,
    interval_end_ns: u64,
    /// What was due before then is sent behind the end of the run; 0 for nothing.
    backlog_end_ns: u64,
    /// Requests of the workload that are under way.
    in_flight: u32,
    requests_made: u64,
    step: usize,
    manage_step: usize,
    next_listener: usize,
    to_end: Vec<Box<str>>,
    /// Ends of sessions that wait for their answer.
    farewells: u32,
    turn_end_ns: u64,
    worked: bool,
    cpu_before_ns: u64,
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        number: usize,
        workers: usize,
        reports: Sender<(usize, Report)>,
    ) -> Worker {
        let plan = &shared.plan;
        // Every worker knows of all announcements, as their events reach streams of all.
        let (turn, turns) = if plan.shape == Shape::Fanout { (0, 1) } else { (number, workers) };
        let timeline = Arc::clone(&shared.timeline);
        let arrivals = Arrivals::new(timeline, plan.spacing, plan.seed, turn, turns);
        Worker {
            number,
            workers,
            reports,
            stand: Stand::Opening,
            clients: Vec::new(),
            by_conn: Vec::new(),
            wanted: 0,
            free: VecDeque::new(),
            sessionless: VecDeque::new(),
            begun: VecDeque::new(),
            thinking: VecDeque::new(),
            to_dial: VecDeque::new(),
            redial: VecDeque::new(),
            opening: 0,
            unsettled: 0,
            open: 0,
            alone_since_ns: None,
            trouble: None,
            begin_ns: 0,
            due: arrivals.clone(),
            arrivals,
            announced_ns: Vec::new(),
            interval: Interval::new(0, 0),
            interval_end_ns: 0,
            backlog_end_ns: 0,
            in_flight: 0,
            requests_made: 0,
            step: 0,
            manage_step: 0,
            next_listener: 0,
            to_end: Vec::new(),
            farewells: 0,
            turn_end_ns: 0,
            worked: false,
            cpu_before_ns: 0,
            shared,
        }
    }

    fn tell(&self, report: Report) {
        // Nobody listens any more if the run was given up.
        let _ = self.reports.send((self.number, report));
    }

    /// The client of a connection, unless it has another one by now.
    fn client_of(&self, conn: ConnId) -> Option<usize> {
        let client = *self.by_conn.get(conn.index())? as usize;
        (self.clients.get(client)?.conn == Some(conn)).then_some(client)
    }

    /// True as long as connections are to be kept up.
    fn is_living(&self) -> bool {
        matches!(self.stand, Stand::Opening | Stand::Ready | Stand::Running)
    }

    fn hear(&mut self, io: &mut Io<'_, Command>, client: usize, heard: Heard) {
        let now_ns = io.turn_began_ns();
        match heard {
            Heard::Part => {
                if self.clients[client].is_told() {
                    // The answer's time counts, not that of the stream's end.
                    self.note_told(client, now_ns);
                }
            }
            Heard::Stream => self.hear_stream(client, now_ns),
            Heard::Answer { judged, keep_alive } => {
                self.answered(io, client, judged, keep_alive, now_ns);
            }
            Heard::Broken(sentence) => self.broken(io, client, &sentence),
        }
    }

    /// Adds the time since the last turn to the busy one, if this turn or that one worked.
    fn note_turn(&mut self, now_ns: u64) {
        if self.worked {
            self.interval.busy_ns += now_ns.saturating_sub(self.turn_end_ns);
        }
        self.turn_end_ns = now_ns;
        self.worked = false;
    }
}

impl Service for Worker {
    type Message = Command;

    fn handle_start(&mut self, io: &mut Io<'_, Command>) {
        self.cpu_before_ns = ending::thread_cpu_ns();
        let before = self.shared.plan.connections_before;
        self.want(io, self.share(before) + self.posters());
        io.arm_timer(LOOK_MS, 0);
        // The first turn ends as one that has work.
        io.turn_at_ns(0);
    }

    fn handle_accept(&mut self, io: &mut Io<'_, Command>, conn: ConnId, _listener: ListenerId) {
        // There are no listeners.
        io.close(conn);
    }

    fn handle_connected(&mut self, io: &mut Io<'_, Command>, conn: ConnId) {
        if let Some(client) = self.client_of(conn) {
            self.open += 1;
            self.alone_since_ns = None;
            self.clients[client].stood = true;
            self.clients[client].phase = Phase::Free;
            self.release(io, client);
        }
    }

    fn handle_recv(&mut self, io: &mut Io<'_, Command>, conn: ConnId, bytes: &mut [u8]) {
        self.worked = true;
        self.interval.totals.received_bytes += bytes.len() as u64;
        let Some(client) = self.client_of(conn) else { return };
        let heard = self.clients[client].hear(bytes);
        self.hear(io, client, heard);
    }

    fn handle_eof(&mut self, io: &mut Io<'_, Command>, conn: ConnId) {
        if let Some(client) = self.client_of(conn) {
            let heard = self.clients[client].hear_end();
            self.hear(io, client, heard);
        }
        io.close(conn);
    }

    fn handle_closed(&mut self, io: &mut Io<'_, Command>, conn: ConnId, reason: CloseReason) {
        if let Some(client) = self.client_of(conn) {
            self.lost_connection(io, client, &reason);
        }
    }

    fn handle_adopted(&mut self, _io: &mut Io<'_, Command>, _conn: ConnId, _baggage: Command) {}

    fn handle_message(&mut self, io: &mut Io<'_, Command>, _from: Origin, command: Command) {
        match command {
            Command::Begin { at_ns } => self.begin(at_ns),
            Command::Stop => self.stop(io),
        }
    }

    fn handle_timer(&mut self, io: &mut Io<'_, Command>, _token: u64) {
        self.give_up_overdue(io);
        self.look_for_the_server(io);
        if self.stand == Stand::Opening {
            self.tell(Report::Opening { open: self.open });
        }
        if self.stand != Stand::Done {
            io.arm_timer(LOOK_MS, 0);
        }
    }

    fn handle_turn_end(&mut self, io: &mut Io<'_, Command>) {
        let now_ns = io.clock_ns();
        self.note_turn(now_ns);
        if self.is_living() {
            self.dial_waiting(io, now_ns);
        }
        match self.stand {
            Stand::Opening => self.look_whether_ready(),
            Stand::Ready | Stand::Done => {}
            Stand::Running => self.run(io, now_ns),
            Stand::Draining { until_ns } => self.drain(io, now_ns, until_ns),
            Stand::Farewell { until_ns } => self.part(io, now_ns, until_ns),
        }
    }

    fn handle_shutdown(&mut self, io: &mut Io<'_, Command>) {
        io.finish();
    }
}
