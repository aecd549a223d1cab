//! The status report: what `/api/v1/status` answers, `shardgate status` prints and the page shows.
//!
//! Rates and percentiles are those of the last seconds (`interval_seconds`), for what a
//! node did since its start says little about now; totals count from the start.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::facts::{HostLimit, NodeFacts};
use super::upstreams::UpstreamBrief;
use crate::metrics::{Counted, Latency, Limit, Method, ProcessFacts, ShardSnapshot, Status};

/// The whole report. Times in seconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The node's name.
    pub node: String,
    /// The program's version.
    pub version: String,
    /// `starting`, `ready` or `draining`.
    pub state: String,
    /// Since the start of the process.
    pub uptime_seconds: f64,
    /// How far the rates and percentiles look back.
    pub interval_seconds: f64,
    /// The bound client addresses.
    pub listen: Vec<String>,
    /// The bound admin address.
    pub admin: String,
    /// Where a client on the node's machine reaches it.
    pub client_url: String,
    /// What the machine allows.
    pub host_limits: Vec<HostLimit>,
    /// What the kernel says of the process.
    pub process: ProcessReport,
    /// The tool servers and their states; empty with the built-in one.
    #[serde(default)]
    pub upstreams: Vec<UpstreamBrief>,
    /// All shards that answered, together.
    pub totals: Load,
    /// How often each limit refused or ended something; those that never did are left out.
    pub refusals: BTreeMap<String, u64>,
    /// Each shard.
    pub shards: Vec<ShardReport>,
}

/// What the kernel says of the process; null where it doesn't.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessReport {
    /// Processor time of all threads.
    pub cpu_seconds: Option<f64>,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// Open descriptors, direct ones excluded.
    pub open_fds: Option<u64>,
    /// How many may be open.
    pub max_fds: Option<u64>,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardReport {
    /// Its number.
    pub shard: u16,
    /// The cpu it is pinned to, if it is.
    pub cpu: Option<u16>,
    /// Null if the shard did not answer in time.
    pub load: Option<Load>,
}

/// What one shard, or all together, have open and have done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Open client connections.
    pub connections: u64,
    /// Sessions.
    pub sessions: u64,
    /// Open SSE streams.
    pub streams: u64,
    /// Requests whose answer is outstanding.
    pub calls_in_flight: u64,
    /// Messages waiting in the mesh.
    pub mesh_depth: u64,
    /// Bytes waiting to be sent.
    pub send_queue_bytes: u64,
    /// Answered requests since the start, probes excluded.
    pub requests: u64,
    /// The same per second, lately.
    pub requests_per_second: f64,
    /// Answers with a status of 500 and more since the start.
    pub server_errors: u64,
    /// What limits refused or ended since the start.
    pub refusals: u64,
    /// Panics caught since the start.
    pub panics: u64,
    /// Bytes from clients since the start.
    pub received_bytes: u64,
    /// Bytes to clients since the start.
    pub sent_bytes: u64,
    /// Share of the time, 0 to 1, in which the loop was working, lately; of all shards: the mean.
    pub busy: f64,
    /// From a request's last byte to its answer's first, lately.
    pub latency: Percentiles,
    /// The same since the start.
    pub latency_since_start: Percentiles,
    /// Length of a loop turn, lately.
    pub turns: Percentiles,
}

/// Percentiles in seconds; all zero if nothing was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many were counted.
    pub count: u64,
    /// Half were not slower.
    pub p50_seconds: f64,
    /// 95 % were not slower.
    pub p95_seconds: f64,
    /// 99 % were not slower.
    pub p99_seconds: f64,
}

impl Percentiles {
    pub(super) fn of(latency: &Latency) -> Percentiles {
        let seconds = |share| Duration::from_nanos(latency.quantile_ns(share)).as_secs_f64();
        Percentiles {
            count: latency.count(),
            p50_seconds: seconds(0.5),
            p95_seconds: seconds(0.95),
            p99_seconds: seconds(0.99),
        }
    }
}

/// Snapshots of all shards at one moment; `None` for a shard that did not answer.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) shards: Vec<Option<ShardSnapshot>>,
}

/// The last samples: what rates are counted from.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<Sample>,
}

/// Younger samples are not compared with: over so short a time a rate is noise.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// How many samples are kept. The first is always older than [`INTERVAL_MIN`] once it is full.
const SAMPLES_MAX: usize = 3;

impl History {
    pub(super) fn push(&mut self, sample: Sample) {
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// The youngest sample that is old enough.
    pub(super) fn base(&self, now: Instant) -> Option<&Sample> {
        self.samples.iter().rev().find(|sample| now.duration_since(sample.at) >= INTERVAL_MIN)
    }
}

/// All that a report is made of.
pub(super) struct Moment<'m> {
    pub(super) facts: &'m NodeFacts,
    pub(super) state: &'static str,
    pub(super) started: Instant,
    pub(super) now: &'m Sample,
    pub(super) base: Option<&'m Sample>,
    pub(super) process: ProcessFacts,
    pub(super) upstreams: Vec<UpstreamBrief>,
}

impl Moment<'_> {
    pub(super) fn report(&self) -> StatusReport {
        let facts = self.facts;
        let since = self.base.map_or(self.started, |base| base.at);
        let interval_seconds = self.now.at.duration_since(since).as_secs_f64();
        StatusReport {
            node: facts.node.clone(),
            version: facts.version.to_owned(),
            state: self.state.to_owned(),
            uptime_seconds: self.now.at.duration_since(self.started).as_secs_f64(),
            interval_seconds,
            listen: facts.listen.iter().map(ToString::to_string).collect(),
            admin: facts.admin.to_string(),
            client_url: facts.client_url.clone(),
            host_limits: facts.host_limits.clone(),
            process: ProcessReport {
                cpu_seconds: self.process.cpu_seconds,
                resident_bytes: self.process.resident_bytes,
                open_fds: self.process.open_fds,
                max_fds: self.process.max_fds,
            },
            upstreams: self.upstreams.clone(),
            totals: self.totals(interval_seconds),
            refusals: refusals(self.now),
            shards: (0..self.now.shards.len())
                .map(|index| self.shard(index, interval_seconds))
                .collect(),
        }
    }

    fn shard(&self, index: usize, interval_seconds: f64) -> ShardReport {
        let mut sum = Sum::default();
        if let Some(snapshot) = &self.now.shards[index] {
            sum.add(snapshot, self.earlier(index));
        }
        ShardReport {
            shard: u16::try_from(index).unwrap_or(u16::MAX),
            cpu: self.facts.shards.get(index).copied().flatten(),
            load: self.now.shards[index].is_some().then(|| sum.load(interval_seconds)),
        }
    }

    fn totals(&self, interval_seconds: f64) -> Load {
        let mut sum = Sum::default();
        for (index, snapshot) in self.now.shards.iter().enumerate() {
            if let Some(snapshot) = snapshot {
                sum.add(snapshot, self.earlier(index));
            }
        }
        sum.load(interval_seconds)
    }

    fn earlier(&self, index: usize) -> Option<&ShardSnapshot> {
        self.base?.shards.get(index)?.as_ref()
    }
}

/// Shards added up.
#[derive(Default)]
struct Sum {
    shards: u32,
    load: Load,
    requests_lately: u64,
    latency: Latency,
    latency_since_start: Latency,
    turns: Latency,
}

impl Sum {
    fn add(&mut self, snapshot: &ShardSnapshot, earlier: Option<&ShardSnapshot>) {
        let (gauges, counted) = (&snapshot.gauges, &snapshot.counted);
        let latency = counted.request_latency();
        let load = &mut self.load;
        load.connections += gauges.connections;
        load.sessions += gauges.sessions;
        load.streams += gauges.streams;
        load.calls_in_flight += gauges.calls_in_flight;
        load.mesh_depth += gauges.mesh_depth;
        load.send_queue_bytes += gauges.send_queue_bytes;
        load.requests += client_requests(counted);
        load.server_errors += server_errors(counted);
        load.refusals += counted.refusals_total();
        load.panics += counted.panics;
        load.received_bytes += counted.received_bytes;
        load.sent_bytes += counted.sent_bytes;
        self.shards += 1;
        self.latency_since_start.merge(&latency);
        match earlier.map(|earlier| &earlier.counted) {
            Some(before) => {
                self.requests_lately +=
                    client_requests(counted).saturating_sub(client_requests(before));
                self.latency.merge(&latency.since(&before.request_latency()));
                self.turns.merge(&counted.turns.since(&before.turns));
            }
            None => {
                self.requests_lately += client_requests(counted);
                self.latency.merge(&latency);
                self.turns.merge(&counted.turns);
            }
        }
    }

    fn load(self, interval_seconds: f64) -> Load {
        // In a node's first second a division by its age would show absurd rates.
        let per_second = |value: f64| value / interval_seconds.max(INTERVAL_MIN.as_secs_f64());
        Load {
            requests_per_second: per_second(self.requests_lately as f64),
            busy: per_second(self.turns.sum_seconds()) / f64::from(self.shards.max(1)),
            latency: Percentiles::of(&self.latency),
            latency_since_start: Percentiles::of(&self.latency_since_start),
            turns: Percentiles::of(&self.turns),
            ..self.load
        }
    }
}

/// Probes come every second from load balancers and are no load of clients.
fn client_requests(counted: &Counted) -> u64 {
    let probes: u64 = counted.requests[Method::Probe.index()].iter().sum();
    counted.requests_total() - probes
}

fn server_errors(counted: &Counted) -> u64 {
    let of_methods = |status: &Status| {
        counted.requests.iter().map(|statuses| statuses[status.index()]).sum::<u64>()
    };
    Status::ALL
        .iter()
        .filter(|status| status.as_str() >= "500" && status.as_str() < "600")
        .map(of_methods)
        .sum()
}

fn refusals(sample: &Sample) -> BTreeMap<String, u64> {
    let count = |limit: &Limit| {
        let shards = sample.shards.iter().flatten();
        shards.map(|shard| shard.counted.refusals[limit.index()]).sum::<u64>()
    };
    Limit::ALL
        .iter()
        .map(|limit| (limit.as_str().to_owned(), count(limit)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{ShardGauges, ShardMetrics};

    fn sample(at: Instant, metrics: &[Option<&ShardMetrics>]) -> Sample {
        let gauges = ShardGauges { connections: 2, sessions: 1, ..ShardGauges::default() };
        let shards = metrics.iter().map(|one| one.map(|one| one.snapshot(gauges))).collect();
        Sample { at, shards }
    }

    #[test]
    fn rates_look_back_only_as_far_as_the_base() {
        let started = Instant::now();
        let facts = NodeFacts::for_tests();
        let mut metrics = ShardMetrics::new(0, Some(0));
        for _ in 0..100 {
            metrics.request(Method::ToolsCall, Status::of(200), 8_000_000);
        }
        let base = sample(started + Duration::from_secs(10), &[Some(&metrics), None]);
        for _ in 0..20 {
            metrics.request(Method::ToolsCall, Status::of(503), 1_000_000);
            metrics.request(Method::Probe, Status::of(200), 1_000);
        }
        metrics.refused(Limit::MeshDepth);
        metrics.turn(500_000_000);
        let now = sample(started + Duration::from_secs(12), &[Some(&metrics), None]);
        let moment = Moment {
            facts: &facts,
            state: "ready",
            started,
            now: &now,
            base: Some(&base),
            process: ProcessFacts::default(),
            upstreams: Vec::new(),
        };
        let report = moment.report();
        assert_eq!((report.uptime_seconds, report.interval_seconds), (12.0, 2.0));
        let load = report.shards[0].load.as_ref().expect("shard 0 answers");
        assert_eq!(load.requests, 120, "without probes");
        assert_eq!(load.server_errors, 20);
        assert!((load.requests_per_second - 10.0).abs() < 1e-9);
        assert!((load.busy - 0.25).abs() < 1e-9, "half a second of two");
        assert!(load.latency.p50_seconds < 0.002, "the slow ones were before: {load:?}");
        assert!(load.latency_since_start.p50_seconds > 0.007);
        assert_eq!(report.shards[1].load, None, "stalled");
        assert_eq!(report.totals.requests, 120);
        assert_eq!(report.refusals, BTreeMap::from([("mesh_depth_max".to_owned(), 1)]));
        let text = serde_json::to_string(&report).expect("JSON");
        assert_eq!(serde_json::from_str::<StatusReport>(&text).expect("itself"), report);
    }

    #[test]
    fn the_base_is_old_enough_and_history_is_bounded() {
        let started = Instant::now();
        let mut history = History::default();
        assert!(history.base(started).is_none());
        for second in 0..10 {
            history.push(sample(started + Duration::from_secs(second * 2), &[]));
        }
        assert_eq!(history.samples.len(), SAMPLES_MAX);
        let now = started + Duration::from_millis(18_500);
        let base = history.base(now).expect("one is old enough");
        assert_eq!(base.at, started + Duration::from_secs(16));
    }
}
