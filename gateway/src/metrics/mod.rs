//! What a shard counts, and how it is shown to Prometheus.
//!
//! Invariants:
//! - A [`ShardMetrics`] belongs to one shard and is changed by plain `&mut` calls: no
//!   atomic, no lock, no allocation; a counter costs about a nanosecond, a histogram
//!   about twenty.
//! - Others see only a [`ShardSnapshot`], which the shard makes when it is asked.
//! - Memory is fixed when it is made, about 150 KiB per shard; no client can grow it.

mod exposed_cluster;
mod exposed_upstreams;
mod label;
mod latency;
mod openmetrics;
mod process;
mod upstream;

pub use exposed_cluster::ClusterSum;
pub use label::{
    CallOutcome, Closed, Group, Limit, MeshEvent, Method, ReadingResult, RpcError, SessionEvent,
    SessionFate, Status, StreamEvent,
};
pub use latency::{BUCKETS_S, DURATION_NS_MAX, Latency};
pub use openmetrics::{Exposition, OPENMETRICS_CONTENT_TYPE, render_openmetrics};
pub use process::ProcessFacts;
pub use upstream::{
    UpstreamAbout, UpstreamCounted, UpstreamGauges, UpstreamKind, UpstreamSnapshot, UpstreamState,
    UpstreamSum,
};

/// The counters and histograms of one shard.
#[derive(Debug)]
pub struct ShardMetrics {
    shard: u16,
    cpu: Option<u16>,
    counted: Box<Counted>,
}

/// The state of a shard at one moment: counters since its start, and gauges.
#[derive(Clone, Debug)]
pub struct ShardSnapshot {
    /// Which shard, from 0.
    pub shard: u16,
    /// The cpu it is pinned to; `None` if it isn't pinned.
    pub cpu: Option<u16>,
    /// What was open or queued.
    pub gauges: ShardGauges,
    /// What was counted since the shard's start.
    pub counted: Box<Counted>,
    /// The tool servers, in the order of the configuration; empty with the embedded one.
    pub upstreams: Vec<UpstreamSnapshot>,
}

/// What is told of tool servers by whoever speaks with them.
pub(crate) trait Reports {
    /// Each tool server at this moment.
    fn report(&self) -> Vec<UpstreamSnapshot>;
}

/// What is open or queued on a shard right now; its service fills it in for a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardGauges {
    /// Open client connections.
    pub connections: u64,
    /// Sessions in its table.
    pub sessions: u64,
    /// Open SSE streams.
    pub streams: u64,
    /// Requests whose answer is outstanding.
    pub calls_in_flight: u64,
    /// Messages that wait for this shard in the mesh.
    pub mesh_depth: u64,
    /// Bytes that wait to be taken by the kernel.
    pub send_queue_bytes: u64,
    /// Receive buffers that hold bytes.
    pub connections_held: u64,
    /// Armed timers.
    pub timers: u64,
    /// Open and opening links to tool servers.
    pub upstream_links: u64,
}

/// Counters and histograms since the shard's start.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Answered requests by [`Method`] and [`Status`].
    pub requests: [[u64; Status::COUNT]; Method::COUNT],
    /// JSON-RPC errors answered, by [`RpcError`].
    pub rpc_errors: [u64; RpcError::COUNT],
    /// What limits refused or ended, by [`Limit`].
    pub refusals: [u64; Limit::COUNT],
    /// Accepted connections.
    pub accepted: u64,
    /// Ended connections by [`Closed`].
    pub closed: [u64; Closed::COUNT],
    /// Sessions by [`SessionEvent`].
    pub sessions: [u64; SessionEvent::COUNT],
    /// Opened SSE streams.
    pub streams_opened: u64,
    /// SSE events by [`StreamEvent`].
    pub events: [u64; StreamEvent::COUNT],
    /// Mesh traffic by [`MeshEvent`].
    pub mesh: [u64; MeshEvent::COUNT],
    /// Bytes from clients.
    pub received_bytes: u64,
    /// Bytes to clients.
    pub sent_bytes: u64,
    /// Panics that were caught and cost one connection each.
    pub panics: u64,
    /// From a request's last byte to its answer's first, by [`Group`].
    pub latency: [Latency; Group::COUNT],
    /// The working part of the shard's loop turns.
    pub turns: Latency,
}

impl ShardMetrics {
    /// All at zero. Allocates what it will ever need.
    pub fn new(shard: u16, cpu: Option<u16>) -> ShardMetrics {
        ShardMetrics { shard, cpu, counted: Box::new(Counted::new()) }
    }

    /// A request was answered. `elapsed_ns` runs from its last byte to the answer's first.
    pub fn request(&mut self, method: Method, status: Status, elapsed_ns: u64) {
        self.counted.requests[method.index()][status.index()] += 1;
        self.counted.latency[method.group().index()].record(elapsed_ns);
    }

    /// As [`ShardMetrics::request`], for an answer that took no time worth recording: a refusal, a probe.
    pub fn answered(&mut self, method: Method, status: Status) {
        self.counted.requests[method.index()][status.index()] += 1;
    }

    /// A JSON-RPC error with this code was answered.
    pub fn rpc_error(&mut self, code: i32) {
        self.counted.rpc_errors[RpcError::of(code).index()] += 1;
    }

    /// A limit refused or ended something.
    pub fn refused(&mut self, limit: Limit) {
        self.counted.refusals[limit.index()] += 1;
    }

    /// A connection was accepted.
    pub fn accepted(&mut self) {
        self.counted.accepted += 1;
    }

    /// A connection has ended. One that moved to another shard has not.
    pub fn closed(&mut self, reason: Closed) {
        self.counted.closed[reason.index()] += 1;
    }

    /// Something happened to a session.
    pub fn session(&mut self, event: SessionEvent) {
        self.counted.sessions[event.index()] += 1;
    }

    /// An SSE stream was opened, by POST or GET.
    pub fn stream_opened(&mut self) {
        self.counted.streams_opened += 1;
    }

    /// Something happened to `count` SSE events.
    pub fn events(&mut self, event: StreamEvent, count: u64) {
        self.counted.events[event.index()] += count;
    }

    /// Something went over the mesh, or failed to.
    pub fn mesh(&mut self, event: MeshEvent) {
        self.counted.mesh[event.index()] += 1;
    }

    /// Bytes came from a client.
    pub fn received(&mut self, bytes: usize) {
        self.counted.received_bytes += bytes as u64;
    }

    /// Bytes were handed to the kernel for a client.
    pub fn sent(&mut self, bytes: usize) {
        self.counted.sent_bytes += bytes as u64;
    }

    /// A panic was caught.
    pub fn panicked(&mut self) {
        self.counted.panics += 1;
    }

    /// One turn of the shard's loop worked for so long.
    pub fn turn(&mut self, elapsed_ns: u64) {
        self.counted.turns.record(elapsed_ns);
    }

    /// A copy for others, without tool servers; costs about 30 µs of the shard's time.
    pub fn snapshot(&self, gauges: ShardGauges) -> ShardSnapshot {
        let (shard, cpu, counted) = (self.shard, self.cpu, self.counted.clone());
        ShardSnapshot { shard, cpu, gauges, counted, upstreams: Vec::new() }
    }
}

impl Counted {
    fn new() -> Counted {
        Counted {
            requests: [[0; Status::COUNT]; Method::COUNT],
            rpc_errors: [0; RpcError::COUNT],
            refusals: [0; Limit::COUNT],
            accepted: 0,
            closed: [0; Closed::COUNT],
            sessions: [0; SessionEvent::COUNT],
            streams_opened: 0,
            events: [0; StreamEvent::COUNT],
            mesh: [0; MeshEvent::COUNT],
            received_bytes: 0,
            sent_bytes: 0,
            panics: 0,
            latency: std::array::from_fn(|_| Latency::new()),
            turns: Latency::new(),
        }
    }

    /// All answered requests.
    pub fn requests_total(&self) -> u64 {
        self.requests.iter().flatten().sum()
    }

    /// All that limits refused or ended.
    pub fn refusals_total(&self) -> u64 {
        self.refusals.iter().sum()
    }

    /// The latency of all groups together, but for `Session`, where opening a stream
    /// says nothing about a request's duration.
    pub fn request_latency(&self) -> Latency {
        let mut all = Latency::new();
        for group in Group::ALL.iter().filter(|group| **group != Group::Session) {
            all.merge(&self.latency[group.index()]);
        }
        all
    }
}
