//! What a run found, as data: the one thing all outputs are made from.
//!
//! The engine fills it, the table, the files and the HTML page read it, and `--json` writes
//! it as it is, so that two runs can be compared later. [`FORMAT`] counts changes that an
//! older reader would misunderstand. Durations are microseconds, rates are per second,
//! unless a name says otherwise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of this shape.
pub const FORMAT: u32 = 1;

/// One run, from its plan to its verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// [`FORMAT`] at the time of writing.
    pub format: u32,
    /// Version of the tool.
    pub version: String,
    /// When the run began, milliseconds since 1970 (UTC).
    pub began_unix_ms: u64,
    /// The command line, without the program's directory.
    pub command: Vec<String>,
    /// What was asked for.
    pub plan: Plan,
    /// The machine the load came from.
    pub host: HostFacts,
    /// Sums over the measured time.
    pub totals: Totals,
    /// Latencies over the measured time; of everything.
    pub latency: Latencies,
    /// The same by operation (`ping`, `tools/call`, …).
    pub operations: BTreeMap<String, Operation>,
    /// One entry per second, warm-up included.
    pub seconds: Vec<Second>,
    /// One entry per stage, in order.
    pub stages: Vec<StageOutcome>,
    /// What went wrong, by kind.
    pub errors: BTreeMap<String, ErrorKind>,
    /// The server as it told of itself, or as the kernel did.
    pub server: Option<ServerFigures>,
    /// What the generator itself used.
    pub generator: GeneratorFigures,
    /// What the sessions cost in memory, if it was measured.
    #[serde(default)]
    pub memory: Option<SessionMemory>,
    /// How the figures may be read.
    pub verdict: Verdict,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Where the load goes.
    pub url: String,
    /// `2025-11-25`, `2026-07-28`, …
    pub revision: String,
    /// A name of targets: `mix_50_20_30`, …
    pub workload: String,
    /// The stages, warm-up first if there is one.
    pub stages: Vec<Stage>,
    /// Seconds at the beginning that are not counted.
    pub warmup_s: f64,
    /// Worker threads.
    pub workers: u32,
    /// Pause of each connection between an answer and its next request.
    pub think_us: u64,
    /// Bytes of payload in each tool call, if the workload has any.
    pub payload_bytes: u64,
}

/// A stretch of time with one rate and one number of connections; both change linearly
/// to it from what was before if `ramp` is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// How long.
    pub duration_s: f64,
    /// Requests per second; none means as many as the connections allow (closed loop).
    pub rate: Option<f64>,
    /// Open connections.
    pub connections: u32,
    /// Reached gradually.
    pub ramp: bool,
}

/// How one stage went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageOutcome {
    /// What was asked for.
    pub stage: Stage,
    /// What came of it.
    pub totals: Totals,
    /// Latencies within it.
    pub latency: Latencies,
}

/// Counts over a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// How long it was in fact.
    pub elapsed_s: f64,
    /// Requests that were due by the schedule; equal to `sent` in a closed loop.
    pub offered: u64,
    /// Requests that were sent.
    pub sent: u64,
    /// Requests that were answered as they should be.
    pub completed: u64,
    /// Requests refused by a server that says it has too much to do: 429, 503, or a
    /// JSON-RPC error whose data say when to try again.
    pub shed: u64,
    /// All that went wrong, `shed` not included.
    pub errors: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Events that came on streams besides answers.
    pub events: u64,
}

/// Latencies of answered requests, twice: from the time at which each was due
/// (`corrected`, free of coordinated omission), and from the time at which it was sent (`raw`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// From the planned time.
    pub corrected: Distribution,
    /// From the time of sending.
    pub raw: Distribution,
    /// Of requests that were shed: from the time of sending to the refusal.
    #[serde(default)]
    pub shed: Distribution,
}

impl Latencies {
    /// Those that reports show, by name; refusals only if there were any.
    pub fn shown(&self) -> impl Iterator<Item = (&'static str, &Distribution)> {
        let refusals = (self.shed.count > 0).then_some(("refusals", &self.shed));
        [("corrected", &self.corrected), ("raw", &self.raw)].into_iter().chain(refusals)
    }
}

/// A distribution in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// How many values.
    pub count: u64,
    /// The smallest.
    pub min: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation.
    pub stdev: f64,
    /// Median.
    pub p50: u64,
    /// 90 of 100 are not above it.
    pub p90: u64,
    /// 95 of 100.
    pub p95: u64,
    /// 99 of 100.
    pub p99: u64,
    /// 999 of 1,000.
    pub p999: u64,
    /// 9,999 of 10,000.
    pub p9999: u64,
    /// The largest.
    pub max: u64,
    /// The whole histogram: HdrHistogram V2, compressed (zlib), base64.
    pub histogram: String,
}

/// One kind of request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Answered as they should be.
    pub completed: u64,
    /// Went wrong, or were shed.
    pub errors: u64,
    /// From the planned time; without the histogram.
    pub corrected: Distribution,
}

/// One second of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Seconds since the run began, at the end of this one.
    pub at_s: f64,
    /// Due within it.
    pub offered: u64,
    /// Sent within it.
    pub sent: u64,
    /// Answered within it.
    pub completed: u64,
    /// Shed within it.
    pub shed: u64,
    /// Gone wrong within it.
    pub errors: u64,
    /// Events within it.
    pub events: u64,
    /// Open connections at its end.
    pub connections: u32,
    /// Corrected median of the answers within it.
    pub p50: u64,
    /// Corrected 99th percentile.
    pub p99: u64,
    /// Corrected maximum.
    pub max: u64,
    /// Processor time of the server within it, in cores, if it can be seen.
    pub server_cores: Option<f64>,
    /// Resident memory of the server at its end, bytes, if it can be seen.
    pub server_resident_bytes: Option<u64>,
}

/// Errors of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ErrorKind {
    /// How many.
    pub count: u64,
    /// The first of them, in a sentence.
    pub example: String,
}

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Model of the processor.
    pub cpu: String,
    /// Processors that may be used.
    pub cpus: u32,
    /// Memory.
    pub memory_bytes: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Descriptors this process may open.
    pub descriptors_max: u64,
    /// Settings that matter to a load test, by name (`net.core.somaxconn`, …).
    pub settings: BTreeMap<String, String>,
}

/// What is known of the server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerFigures {
    /// Its process, if it runs on this machine.
    pub pid: Option<u32>,
    /// Cores it used over the measured time, on average.
    pub cores: Option<f64>,
    /// Processor time per completed request.
    pub cpu_us_per_request: Option<f64>,
    /// Resident memory before the first connection, bytes.
    pub resident_before_bytes: Option<u64>,
    /// Resident memory at the end of the last stage, bytes.
    pub resident_bytes: Option<u64>,
    /// Requests by shard over the measured time, from its metrics.
    pub requests_by_shard: BTreeMap<String, u64>,
}

/// What one session cost, in bytes: growth since before the first, by their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionMemory {
    /// How many there were, each with a connection.
    pub sessions: u64,
    /// Resident memory of the server when all were open and nothing was sent yet.
    pub process_idle_bytes: Option<f64>,
    /// The same after the load, with all still open.
    pub process_loaded_bytes: Option<f64>,
    /// Slab of the kernel, both ends of the connections if both are on this machine.
    pub kernel_slab_bytes: Option<f64>,
    /// Buffers of the kernel's TCP sockets, after the load.
    pub kernel_buffer_bytes: Option<f64>,
}

/// What the generator used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GeneratorFigures {
    /// Cores it used over the measured time.
    pub cores: f64,
    /// How late requests were sent, against the schedule, for reasons of its own: 99th percentile.
    pub send_delay_p99: u64,
    /// Part of the measured time in which the busiest worker had something to do, of 1. A
    /// worker that keeps a rate uses its core whole, as it watches the clock.
    #[serde(default)]
    pub busy: f64,
}

/// How the figures may be read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// What bounded the result.
    pub limit: Limit,
    /// The same in a sentence.
    pub sentence: String,
    /// True if the run was ended before its time.
    pub interrupted: bool,
    /// Thresholds that were not kept, as they were given, with what was found.
    pub broken_thresholds: Vec<String>,
}

/// What bounded the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// The offered rate was reached; nothing was at its limit.
    #[default]
    None,
    /// The server answered less than it was offered.
    Server,
    /// The generator could not send what was due; the figures say nothing about the server.
    Generator,
}
