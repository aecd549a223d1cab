//! The command line, and the runs it stands for.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, value_parser};
use shardgate_proto::mcp::version::{Era, ProtocolVersion};

use super::coordinating::{CoordinatorArguments, NodeArguments};
use crate::outcome::Stage;
use crate::plan::{self, BadPlan, CONNECTIONS_PER_ADDRESS, PAYLOAD_BYTES_MAX, RunPlan, Stages};
use crate::report::files::Outputs;
use crate::run::Run;
use crate::schedule::Spacing;
use crate::server_figures::{MetricsUrl, ServerSource};
use crate::target::{BadTarget, Target};
use crate::thresholds::Thresholds;
use crate::workload::{Shape, Workload};

/// The last address 127.0.x.y that is used is far from the end of the network.
const SOURCE_ADDRESSES_MAX: u32 = 60_000;

const EXIT_CODES: &str = "\
Exit codes:
  0    all went as it should
  1    the run failed: no answer was good, the server was gone, or --fail-if was not kept;
       validate found something wrong; or two runs that can't be compared fairly
  2    the command line can't be used
  3    there is no server, or none of its connections can be used
  4    the server lacks what the workload needs, such as the tool
  5    this machine stands in the way: io_uring, descriptors
  6    a file could not be read or written
  130  the run was interrupted; its report is there";

/// A load generator for servers of the Model Context Protocol: open loop, corrected, cheap.
///
/// Requests are planned by a schedule and sent when they are due; one that has to wait for
/// a free connection counts from when it was due, so a server that stalls can't hide it.
#[derive(Debug, Parser)]
#[command(name = "shardgate-bench", version, after_help = EXIT_CODES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Puts a server under load and tells how it did.
    #[command(after_help = EXIT_CODES)]
    Run(Box<RunArguments>),
    /// Opens sessions with event streams, holds them, and calls in all of them in turn.
    #[command(after_help = EXIT_CODES)]
    Connections(Box<ConnectionsArguments>),
    /// Tells whether a server bears load: capacity, rising and lasting load, overload and
    /// recovery, churn, many connections. Fails on errors and losses, never for being slow.
    #[command(after_help = EXIT_CODES)]
    Validate(ValidateArguments),
    /// Measures a cluster's coordinator: its operations, kills of its leader, recovery.
    Coordinator(Box<CoordinatorArguments>),
    /// One node of such a cluster, started by `coordinator`.
    #[command(hide = true)]
    CoordinatorNode(NodeArguments),
    /// Puts two runs side by side.
    Compare(CompareArguments),
    /// Shows a run that was written by --json, and writes it in other forms.
    Report(ReportArguments),
}

/// What each kind of run has.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// The server, such as http://127.0.0.1:8080/mcp
    #[arg(long)]
    url: String,
    /// The revision to speak: 2025-11-25 and older have sessions, 2026-07-28 has none.
    #[arg(long, default_value = "2025-11-25", value_parser = parse_revision)]
    revision: ProtocolVersion,
    /// Worker threads, each on a cpu of its own.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u16).range(1..=256))]
    workers: u16,
    /// The cpus for the workers, such as 1,3 (default: the last ones).
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// Connect from so many addresses, 127.0.0.1 and following, in turn (default: as many
    /// as the connections need ports; only for a server at 127.x.y.z).
    #[arg(long, value_parser = value_parser!(u32).range(1..=i64::from(SOURCE_ADDRESSES_MAX)))]
    source_addresses: Option<u32>,
    /// After so long without an answer a request has failed.
    #[arg(long, default_value = "10s", value_parser = plan::parse_span_s)]
    timeout: f64,
    /// The tool to call.
    #[arg(long, default_value = "echo")]
    tool: String,
    /// Its arguments, as a JSON object (default: the payload as `message`).
    #[arg(long, value_parser = parse_object)]
    arguments: Option<String>,
    /// Bytes of payload in a tool call (default: by workload).
    #[arg(long)]
    payload: Option<usize>,
    /// The server's process, if it can't be found by its address.
    #[arg(long)]
    server_pid: Option<u32>,
    /// Where the server shows its counters.
    #[arg(long)]
    metrics_url: Option<MetricsUrl>,
}

/// Where results go.
#[derive(Debug, Args)]
pub(super) struct Sinks {
    /// Fail if any of these is true, such as p99>5ms,errors>0
    #[arg(long, default_value = "", value_parser = parse_thresholds)]
    pub(super) fail_if: Thresholds,
    #[command(flatten)]
    pub(super) files: Files,
}

/// Files to write.
#[derive(Debug, Args)]
pub(super) struct Files {
    /// Write the whole result to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write a line per second to this file.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Write the corrected latencies to this file, as HdrHistogram prints them.
    #[arg(long)]
    hgrm: Option<PathBuf>,
    /// Write a page with plots to this file.
    #[arg(long)]
    html: Option<PathBuf>,
}

impl Files {
    pub(super) fn outputs(&self) -> Outputs {
        Outputs {
            json: self.json.clone(),
            csv: self.csv.clone(),
            hgrm: self.hgrm.clone(),
            html: self.html.clone(),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    #[command(flatten)]
    common: Common,
    /// What to ask for: mix_50_20_30, ping, tools_call_1kib, tools_call_16kib,
    /// resources_read, session_churn, sse_fanout, tcp_sustained_1kib, http_sustained_1kib,
    /// connections_100k, stress_5min, soak
    #[arg(long, value_parser = Workload::parse)]
    workload: Workload,
    /// Requests per second, or max: as many as the connections allow (default: by workload).
    #[arg(long, value_parser = parse_rate, conflicts_with = "stages")]
    rate: Option<Rate>,
    /// How long, such as 30s or 5m (default: by workload).
    #[arg(long, value_parser = plan::parse_span_s, conflicts_with = "stages")]
    duration: Option<f64>,
    /// Stages, such as ramp:10s@20000,hold:30s,step:10s@max,hold:1m@5000/2000 (the last
    /// number counts connections).
    #[arg(long)]
    stages: Option<String>,
    /// Open connections (default: by workload).
    #[arg(long, value_parser = plan::parse_connections)]
    connections: Option<u32>,
    /// Time at the beginning that is not counted, at the first stage's rate.
    #[arg(long, default_value = "2s", value_parser = plan::parse_duration_s)]
    warmup: f64,
    /// How requests lie in time.
    #[arg(long, value_enum, default_value = "even")]
    arrivals: Spacing,
    /// For random arrivals.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long a connection pauses between an answer and its next request.
    #[arg(long, default_value = "0ms", value_parser = plan::parse_duration_s)]
    think: f64,
    /// The resource to read (default: the first one the server lists).
    #[arg(long)]
    resource: Option<String>,
    /// Replace a connection after so many requests (default: by workload).
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    requests_per_connection: Option<u32>,
    /// The tool that has the server announce an update, for sse_fanout.
    #[arg(long, default_value = "test_trigger_resource_update")]
    announcer: String,
    /// For a server that gives every request the same answer (a web server with a fixed
    /// reply): all requests carry the id 1000000000, which the answer must hold, and the
    /// server is not asked beforehand what it has.
    #[arg(long)]
    fixed_reply: bool,
    #[command(flatten)]
    pub(super) sinks: Sinks,
}

#[derive(Debug, Args)]
pub(super) struct ConnectionsArguments {
    #[command(flatten)]
    common: Common,
    /// Sessions, each with an open event stream.
    #[arg(long, value_parser = plan::parse_connections)]
    count: u32,
    /// How long to hold them.
    #[arg(long, default_value = "60s", value_parser = plan::parse_span_s)]
    hold: f64,
    /// Tool calls per second meanwhile, each in the next session's name.
    #[arg(long, default_value = "1000", value_parser = parse_rate)]
    rate: Rate,
    #[command(flatten)]
    pub(super) sinks: Sinks,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("size").required(true).args(["quick", "full"]))]
pub(super) struct ValidateArguments {
    /// About a minute, up to 4,000 connections.
    #[arg(long)]
    pub(super) quick: bool,
    /// About a quarter of an hour, up to 50,000 connections.
    #[arg(long)]
    pub(super) full: bool,
    /// The server; without it gateways are started for the purpose, and ended.
    #[arg(long)]
    pub(super) url: Option<String>,
    /// The gateway's program (default: the one beside this program; under `cargo run` it is
    /// built first).
    #[arg(long, conflicts_with = "url")]
    pub(super) gateway: Option<PathBuf>,
    /// Where the server of --url shows its counters.
    #[arg(long, requires = "url")]
    pub(super) metrics_url: Option<MetricsUrl>,
    /// The tool to call at --url (default: echo).
    #[arg(long, requires = "url")]
    pub(super) tool: Option<String>,
    /// Its arguments, as a JSON object.
    #[arg(long, requires = "tool", value_parser = parse_object)]
    pub(super) arguments: Option<String>,
    /// Worker threads, each on a cpu of its own.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u16).range(1..=64))]
    pub(super) workers: u16,
    /// The cpus for the workers, such as 1,3 (default: the last ones).
    #[arg(long, value_delimiter = ',')]
    pub(super) cpus: Vec<usize>,
    /// Write the results to this directory: validation.json, and each phase as JSON and as a
    /// page with plots.
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct CompareArguments {
    /// The result all ratios are to, written by --json.
    pub(super) first: PathBuf,
    /// The other one.
    pub(super) second: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct ReportArguments {
    /// The result, written by --json.
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) files: Files,
}

/// Why the arguments make no run.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadArguments {
    #[error(transparent)]
    Plan(#[from] BadPlan),
    #[error(transparent)]
    Target(#[from] BadTarget),
    #[error("--workers {workers} need at least as many connections, and a stage has {connections}")]
    FewConnections { workers: u16, connections: u32 },
    #[error("--payload {0}: up to {PAYLOAD_BYTES_MAX} bytes are possible")]
    Payload(usize),
    #[error(
        "--source-addresses {addresses}: only a server at 127.x.y.z can be reached from several \
         addresses, and this one is at {server}"
    )]
    SourceAddresses { addresses: u32, server: std::net::SocketAddr },
    #[error("{workload} needs sessions, which {revision} has not; choose 2025-11-25 or older")]
    NoSessions { workload: &'static str, revision: ProtocolVersion },
    #[error("{workload} needs a rate: how many announcements per second, not max")]
    NeedsRate { workload: &'static str },
}

/// `--rate`
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate(Option<f64>);

fn parse_rate(text: &str) -> Result<Rate, BadPlan> {
    plan::parse_rate(text).map(Rate)
}

fn parse_revision(text: &str) -> Result<ProtocolVersion, String> {
    let spoken = ProtocolVersion::ALL.map(ProtocolVersion::as_str);
    // 2024-11-05 has another transport.
    ProtocolVersion::parse(text.as_bytes())
        .filter(|version| *version > ProtocolVersion::V2024_11_05)
        .ok_or_else(|| format!("choose one of {}", spoken[1..].join(", ")))
}

fn parse_object(text: &str) -> Result<String, String> {
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Object(_)) => Ok(text.to_owned()),
        Ok(_) => Err("it is JSON, but no object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_thresholds(text: &str) -> Result<Thresholds, String> {
    if text.is_empty() {
        return Ok(Thresholds::default());
    }
    text.parse().map_err(|error: crate::thresholds::ThresholdError| error.to_string())
}

impl RunArguments {
    /// The run that was asked for.
    pub(super) fn plan(&self) -> Result<Run, BadArguments> {
        let (preset, preset_connections) = self.workload.preset();
        let connections = self.connections.unwrap_or(preset_connections);
        let stages = match &self.stages {
            Some(stages) => plan::parse_stages(stages, connections)?,
            None => self.preset_stages(preset, connections)?,
        };
        let payload = self.workload.payload_bytes();
        let mut run = self.common.plan(self.workload.shape(), &stages, self.warmup, payload)?;
        let plan = &mut run.plan;
        plan.workload = self.workload.name().to_owned();
        plan.spacing = self.arrivals;
        plan.seed = self.seed;
        plan.think_ns = (self.think * 1e9) as u64;
        plan.resource.clone_from(&self.resource);
        plan.fixed_reply = self.fixed_reply;
        plan.requests_per_connection =
            self.requests_per_connection.or(self.workload.requests_per_connection());
        run.announcer.clone_from(&self.announcer);
        let (workload, revision) = (self.workload.name(), self.common.revision);
        let legacy = revision.era() == Era::Legacy;
        match self.workload.shape() {
            Shape::Churn if !legacy => return Err(BadArguments::NoSessions { workload, revision }),
            Shape::Fanout if run.plan.stages.iter().any(|stage| stage.rate.is_none()) => {
                return Err(BadArguments::NeedsRate { workload });
            }
            Shape::Fanout => {
                let watched = "test://watched-resource".to_owned();
                run.plan.resource.get_or_insert(watched);
            }
            Shape::Steps(_) | Shape::Churn | Shape::Streams => {}
        }
        Ok(run)
    }

    /// What the workload does by itself, with what the command line says otherwise.
    fn preset_stages(&self, preset: &str, connections: u32) -> Result<Stages, BadPlan> {
        if self.rate.is_none() && self.duration.is_none() && self.connections.is_none() {
            return plan::parse_stages(preset, connections);
        }
        let preset = plan::parse_stages(preset, connections)?.stages;
        let last = preset.iter().rev().find(|stage| !stage.ramp);
        let rate = match self.rate {
            Some(Rate(rate)) => rate,
            None => last.and_then(|stage| stage.rate),
        };
        let duration_s = self.duration.or(last.map(|stage| stage.duration_s)).unwrap_or(30.0);
        let stages = vec![Stage { duration_s, rate, connections, ramp: false }];
        Ok(Stages { stages, connections_before: connections })
    }
}

impl ConnectionsArguments {
    /// The run that was asked for.
    pub(super) fn plan(&self) -> Result<Run, BadArguments> {
        let Rate(rate) = self.rate;
        let stage = Stage { duration_s: self.hold, rate, connections: self.count, ramp: false };
        let stages = Stages { stages: vec![stage], connections_before: self.count };
        let mut run = self.common.plan(Shape::Streams, &stages, 0.0, 64)?;
        run.plan.workload = "connections".to_owned();
        Ok(run)
    }
}

impl Common {
    fn plan(
        &self,
        shape: Shape,
        stages: &Stages,
        warmup_s: f64,
        payload_bytes: usize,
    ) -> Result<Run, BadArguments> {
        let target = Target::parse(&self.url)?;
        let payload_bytes = self.payload.unwrap_or(payload_bytes);
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(BadArguments::Payload(payload_bytes));
        }
        let mut all = stages.stages.clone();
        // A ramp warms up by itself.
        let warm = warmup_s > 0.0 && !stages.stages[0].ramp;
        if warm {
            all.insert(0, Stage { duration_s: warmup_s, ..stages.stages[0].clone() });
        }
        let most = all.iter().map(|stage| stage.connections).max().unwrap_or_default();
        if most < u32::from(self.workers) {
            let (workers, connections) = (self.workers, most);
            return Err(BadArguments::FewConnections { workers, connections });
        }
        let source_addresses = self.source_addresses(&target, most)?;
        let plan = RunPlan {
            revision: self.revision,
            workload: String::new(),
            shape,
            stages: all,
            stages_uncounted: usize::from(warm),
            connections_before: stages.connections_before,
            spacing: Spacing::Even,
            seed: 1,
            think_ns: 0,
            payload_bytes,
            workers: self.workers,
            source_addresses,
            tool: self.tool.clone(),
            arguments: self.arguments.clone(),
            resource: None,
            requests_per_connection: None,
            timeout_ns: (self.timeout * 1e9) as u64,
            fixed_reply: false,
            target,
        };
        let server = ServerSource {
            address: Some(plan.target.address),
            pid: self.server_pid,
            metrics: self.metrics_url.clone(),
        };
        let command = shown_command();
        Ok(Run { plan, cpus: self.cpus.clone(), server, announcer: String::new(), command })
    }

    fn source_addresses(&self, target: &Target, connections: u32) -> Result<u32, BadArguments> {
        let (is_loopback, server) = (target.is_loopback_v4(), target.address);
        match self.source_addresses {
            Some(addresses) if addresses > 1 && !is_loopback => {
                Err(BadArguments::SourceAddresses { addresses, server })
            }
            Some(addresses) => Ok(addresses),
            None if is_loopback => Ok(connections.div_ceil(CONNECTIONS_PER_ADDRESS).max(1)),
            None => Ok(1),
        }
    }
}

/// The command line without the program's directory.
fn shown_command() -> Vec<String> {
    let mut words: Vec<String> =
        std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(program) = words.first_mut() {
        *program = "shardgate-bench".to_owned();
    }
    words
}
