//! The counters as OpenMetrics text.
//!
//! Names carry base units (`_seconds`, `_bytes`) and `_total`; every series of a shard has the
//! label `shard`, every series of a tool server the label `upstream`. Series by method and status appear once they are above zero, all others
//! always, so that a rate over them begins at zero.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::exposed_cluster::{ClusterSum, encode_cluster};
use super::exposed_upstreams::{encode_children, encode_upstreams};
use super::{
    Closed, Counted, Group, Latency, Limit, MeshEvent, Method, ProcessFacts, RpcError,
    SessionEvent, ShardGauges, ShardSnapshot, Status, StreamEvent, UpstreamSum,
};
use crate::children::EndpointCounts;

/// The media type of [`render_openmetrics`]'s text (OpenMetrics 1.0, "Protocol Negotiation").
pub const OPENMETRICS_CONTENT_TYPE: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All that one scrape shows.
#[derive(Clone, Debug)]
pub struct Exposition {
    /// The node's name.
    pub node: String,
    /// The version of the program.
    pub version: &'static str,
    /// Since the start of the process.
    pub uptime_seconds: f64,
    /// Whether a drain has begun.
    pub is_draining: bool,
    /// How often the configuration was read again, by what became of it.
    pub config_reloads: [(&'static str, u64); 2],
    /// Per shard; `None` for a shard that did not answer in time.
    pub shards: Vec<Option<ShardSnapshot>>,
    /// The tool servers, over all shards.
    pub upstreams: Vec<UpstreamSum>,
    /// The children of tool servers, by name.
    pub children: Vec<EndpointCounts>,
    /// By pinned upstream, how many of its tools are withheld because they have changed.
    pub quarantined: Vec<(String, u64)>,
    /// The cluster as the node sees it; `None` if the node is alone.
    pub cluster: Option<ClusterSum>,
    /// What the kernel says.
    pub process: ProcessFacts,
}

/// The text of one scrape, ended by `# EOF`.
pub fn render_openmetrics(exposition: Exposition) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(exposition)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .expect("writing into a String does not fail");
    text
}

#[derive(Debug)]
struct Scrape(Exposition);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.node(&mut encoder)?;
        self.process(&mut encoder)?;
        self.shard_gauges(&mut encoder)?;
        self.requests(&mut encoder)?;
        self.shard_counters(&mut encoder)?;
        self.labelled_counters(&mut encoder)?;
        self.histograms(&mut encoder)?;
        if let Some(cluster) = &self.0.cluster {
            encode_cluster(&mut encoder, cluster)?;
        }
        encode_upstreams(&mut encoder, &self.0.upstreams)?;
        encode_children(&mut encoder, &self.0.children)
    }
}

/// Reads one number out of a shard's gauges.
type GaugeOf = fn(&ShardGauges) -> u64;
/// Reads one number out of a shard's counters.
type CounterOf = fn(&Counted) -> u64;
/// Label texts and numbers of a closed set of labels.
type LabelledOf = fn(&Counted) -> Vec<(&'static str, u64)>;

const SHARD_GAUGES: [(&str, &str, GaugeOf); 9] = [
    ("shardgate_connections", "Open client connections", |g| g.connections),
    ("shardgate_sessions", "Sessions in the table", |g| g.sessions),
    ("shardgate_streams", "Open SSE streams", |g| g.streams),
    ("shardgate_calls_in_flight", "Requests whose answer is outstanding", |g| g.calls_in_flight),
    ("shardgate_mesh_depth", "Messages waiting for the shard in the mesh", |g| g.mesh_depth),
    ("shardgate_send_queue_bytes", "Bytes waiting to be sent", |g| g.send_queue_bytes),
    (
        "shardgate_connections_held",
        "Connections that are paused or on their way to another shard",
        |g| g.connections_held,
    ),
    ("shardgate_timers", "Armed timers", |g| g.timers),
    ("shardgate_links", "Open and opening links to tool servers", |g| g.upstream_links),
];

const SHARD_COUNTERS: [(&str, &str, CounterOf); 5] = [
    ("shardgate_connections_accepted", "Accepted client connections", |c| c.accepted),
    ("shardgate_streams_opened", "Opened SSE streams", |c| c.streams_opened),
    ("shardgate_received_bytes", "Bytes received from clients", |c| c.received_bytes),
    ("shardgate_sent_bytes", "Bytes sent to clients", |c| c.sent_bytes),
    ("shardgate_panics", "Panics caught; each cost one connection", |c| c.panics),
];

const LABELLED_COUNTERS: [(&str, &str, &str, LabelledOf); 6] = [
    ("shardgate_rpc_errors", "JSON-RPC errors answered", "class", |c| {
        RpcError::ALL.iter().map(|l| (l.as_str(), c.rpc_errors[l.index()])).collect()
    }),
    ("shardgate_refusals", "What limits refused or ended", "limit", |c| {
        Limit::ALL.iter().map(|l| (l.as_str(), c.refusals[l.index()])).collect()
    }),
    ("shardgate_connections_closed", "Ended client connections", "reason", |c| {
        Closed::ALL.iter().map(|l| (l.as_str(), c.closed[l.index()])).collect()
    }),
    ("shardgate_session_events", "What happened to sessions", "event", |c| {
        SessionEvent::ALL.iter().map(|l| (l.as_str(), c.sessions[l.index()])).collect()
    }),
    ("shardgate_stream_events", "What happened to SSE events", "event", |c| {
        StreamEvent::ALL.iter().map(|l| (l.as_str(), c.events[l.index()])).collect()
    }),
    ("shardgate_mesh_events", "Traffic between shards", "event", |c| {
        MeshEvent::ALL.iter().map(|l| (l.as_str(), c.mesh[l.index()])).collect()
    }),
];

impl Scrape {
    /// The shards that answered.
    fn shards(&self) -> impl Iterator<Item = (String, &ShardSnapshot)> {
        self.0.shards.iter().flatten().map(|shard| (shard.shard.to_string(), shard))
    }

    fn node(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        encoder
            .encode_descriptor("shardgate_build", "Build and node", None, MetricType::Info)?
            .encode_info(&[("version", self.0.version), ("node", self.0.node.as_str())])?;
        let uptime = self.0.uptime_seconds;
        gauge(encoder, "shardgate_uptime", "Time since start", Some(&Unit::Seconds))?
            .encode_gauge(&uptime)?;
        gauge(encoder, "shardgate_draining", "1 while the node drains", None)?
            .encode_gauge(&i64::from(self.0.is_draining))?;
        let mut reloads = encoder.encode_descriptor(
            "shardgate_config_reloads",
            "Configurations read while running",
            None,
            MetricType::Counter,
        )?;
        for (result, count) in &self.0.config_reloads {
            reloads
                .encode_family(&[("result", *result)])?
                .encode_counter::<NoLabelSet, u64, u64>(count, None)?;
        }
        if !self.0.quarantined.is_empty() {
            let help = "Tools withheld because their definition has changed";
            let mut quarantined = gauge(encoder, "shardgate_catalog_quarantined", help, None)?;
            for (upstream, count) in &self.0.quarantined {
                quarantined
                    .encode_family(&[("upstream", upstream.as_str())])?
                    .encode_gauge(&signed(*count))?;
            }
        }
        let mut up =
            gauge(encoder, "shardgate_shard_up", "0 where a shard did not answer in time", None)?;
        for (shard, snapshot) in self.0.shards.iter().enumerate() {
            up.encode_family(&[("shard", shard.to_string())])?
                .encode_gauge(&i64::from(snapshot.is_some()))?;
        }
        Ok(())
    }

    fn process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let process = &self.0.process;
        if let Some(cpu_seconds) = process.cpu_seconds {
            encoder
                .encode_descriptor(
                    "process_cpu",
                    "Processor time of all threads",
                    Some(&Unit::Seconds),
                    MetricType::Counter,
                )?
                .encode_counter::<NoLabelSet, f64, f64>(&cpu_seconds, None)?;
        }
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory", process.resident_bytes),
            ("process_threads", "Threads", process.threads),
            ("process_open_fds", "Open descriptors, direct ones excluded", process.open_fds),
            ("process_max_fds", "Limit of open descriptors", process.max_fds),
        ] {
            if let Some(value) = value {
                gauge(encoder, name, help, None)?.encode_gauge(&signed(value))?;
            }
        }
        Ok(())
    }

    fn shard_gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value_of) in SHARD_GAUGES {
            let mut family = gauge(encoder, name, help, None)?;
            for (shard, snapshot) in self.shards() {
                family
                    .encode_family(&[("shard", shard)])?
                    .encode_gauge(&signed(value_of(&snapshot.gauges)))?;
            }
        }
        Ok(())
    }

    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = counter(encoder, "shardgate_requests", "Answered requests")?;
        for (shard, snapshot) in self.shards() {
            for method in Method::ALL {
                for status in Status::ALL {
                    let count = snapshot.counted.requests[method.index()][status.index()];
                    if count > 0 {
                        let labels = [
                            ("shard", shard.as_str()),
                            ("method", method.as_str()),
                            ("status", status.as_str()),
                        ];
                        count_one(&mut family, &labels, count)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn shard_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value_of) in SHARD_COUNTERS {
            let mut family = counter(encoder, name, help)?;
            for (shard, snapshot) in self.shards() {
                let value = value_of(&snapshot.counted);
                count_one(&mut family, &[("shard", shard.as_str())], value)?;
            }
        }
        Ok(())
    }

    fn labelled_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, label, values_of) in LABELLED_COUNTERS {
            let mut family = counter(encoder, name, help)?;
            for (shard, snapshot) in self.shards() {
                for (text, value) in values_of(&snapshot.counted) {
                    count_one(&mut family, &[("shard", shard.as_str()), (label, text)], value)?;
                }
            }
        }
        Ok(())
    }

    fn histograms(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = histogram(
            encoder,
            "shardgate_request_duration",
            "From a request's last byte to its answer's first",
        )?;
        for (shard, snapshot) in self.shards() {
            for group in Group::ALL {
                let labels = [("shard", shard.as_str()), ("group", group.as_str())];
                observe(&mut family, &labels, &snapshot.counted.latency[group.index()])?;
            }
        }
        let mut family =
            histogram(encoder, "shardgate_turn_duration", "Working part of a shard's loop turns")?;
        for (shard, snapshot) in self.shards() {
            observe(&mut family, &[("shard", shard.as_str())], &snapshot.counted.turns)?;
        }
        Ok(())
    }
}

pub(super) fn gauge<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
    unit: Option<&'e Unit>,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, unit, MetricType::Gauge)
}

pub(super) fn counter<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Counter)
}

pub(super) fn histogram<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)
}

pub(super) fn count_one<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: &[(&str, &str); N],
    value: u64,
) -> fmt::Result {
    family.encode_family(labels)?.encode_counter::<NoLabelSet, u64, u64>(&value, None)
}

fn observe<const N: usize>(
    family: &mut MetricEncoder<'_>,
    labels: &[(&str, &str); N],
    latency: &Latency,
) -> fmt::Result {
    family.encode_family(labels)?.encode_histogram::<NoLabelSet>(
        latency.sum_seconds(),
        latency.count(),
        &latency.buckets(),
        None,
    )
}

/// The encoder knows signed gauges only; no gauge here comes near their end.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::metrics::{
        CallOutcome, ShardMetrics, UpstreamAbout, UpstreamCounted, UpstreamGauges, UpstreamKind,
        UpstreamSnapshot, UpstreamState,
    };

    fn exposition(shards: Vec<Option<ShardSnapshot>>) -> Exposition {
        Exposition {
            node: "gw-1".to_owned(),
            version: "1.2.3",
            uptime_seconds: 1.5,
            is_draining: false,
            config_reloads: [("accepted", 2), ("refused", 1)],
            shards,
            upstreams: Vec::new(),
            children: Vec::new(),
            cluster: None,
            quarantined: vec![("crm".to_owned(), 2)],
            process: ProcessFacts { cpu_seconds: Some(0.25), ..ProcessFacts::default() },
        }
    }

    fn busy_shard() -> ShardSnapshot {
        let mut metrics = ShardMetrics::new(1, Some(3));
        metrics.request(Method::ToolsCall, Status::of(200), 12_000);
        metrics.request(Method::ToolsCall, Status::of(200), 2_000_000);
        metrics.request(Method::ToolsList, Status::of(503), 1_000);
        metrics.refused(Limit::MeshDepth);
        metrics.rpc_error(-32601);
        metrics.closed(Closed::Idle);
        metrics.received(100);
        metrics.turn(90_000_000_000);
        metrics.snapshot(ShardGauges { sessions: 7, ..ShardGauges::default() })
    }

    #[test]
    fn a_scrape_shows_each_kind_of_series() {
        let text = render_openmetrics(exposition(vec![None, Some(busy_shard())]));
        for line in [
            "shardgate_build_info{version=\"1.2.3\",node=\"gw-1\"} 1",
            "shardgate_uptime_seconds 1.5",
            "# UNIT shardgate_uptime_seconds seconds",
            "shardgate_draining 0",
            "shardgate_config_reloads_total{result=\"refused\"} 1",
            "shardgate_shard_up{shard=\"0\"} 0",
            "shardgate_shard_up{shard=\"1\"} 1",
            "process_cpu_seconds_total 0.25",
            "shardgate_sessions{shard=\"1\"} 7",
            "shardgate_links{shard=\"1\"} 0",
            "shardgate_requests_total{shard=\"1\",method=\"tools/call\",status=\"200\"} 2",
            "shardgate_requests_total{shard=\"1\",method=\"tools/list\",status=\"503\"} 1",
            "shardgate_refusals_total{shard=\"1\",limit=\"mesh_depth_max\"} 1",
            "shardgate_refusals_total{shard=\"1\",limit=\"sessions_max\"} 0",
            "shardgate_rpc_errors_total{shard=\"1\",class=\"method_not_found\"} 1",
            "shardgate_received_bytes_total{shard=\"1\"} 100",
            "shardgate_request_duration_seconds_sum{shard=\"1\",group=\"call\"} 0.002012",
            "shardgate_request_duration_seconds_count{shard=\"1\",group=\"call\"} 2",
            "shardgate_request_duration_seconds_bucket{le=\"0.00001\",shard=\"1\",group=\"call\"} 0",
            "shardgate_request_duration_seconds_bucket{le=\"0.000025\",shard=\"1\",group=\"call\"} 1",
            "shardgate_request_duration_seconds_bucket{le=\"+Inf\",shard=\"1\",group=\"call\"} 2",
            "shardgate_turn_duration_seconds_bucket{le=\"30.0\",shard=\"1\"} 0",
            "shardgate_turn_duration_seconds_bucket{le=\"+Inf\",shard=\"1\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        let names = text.lines().filter_map(|line| line.split(['{', ' ']).next());
        assert!(names.into_iter().all(|name| !name.contains("_ms")), "base units only");
    }

    #[test]
    fn a_scrape_shows_tool_servers_and_their_children() {
        let about = UpstreamAbout {
            name: "crm".to_owned(),
            kind: UpstreamKind::Stdio,
            address: "mcp-crm".to_owned(),
        };
        let mut counted = UpstreamCounted::new();
        counted.calls[CallOutcome::Breaker.index()] = 2;
        counted.latency.record(1_000_000);
        counted.latency.record(40_000_000);
        let snapshot = UpstreamSnapshot {
            about: Arc::new(about),
            state: UpstreamState::Broken,
            trouble: Some("exit code 1".to_owned()),
            version: None,
            gauges: UpstreamGauges { in_flight: 1, tools: 9, ..UpstreamGauges::default() },
            counted,
        };
        let mut children = EndpointCounts::default();
        children.upstream.push_str("crm");
        children.started = 3;
        let text = render_openmetrics(Exposition {
            upstreams: UpstreamSum::over(&[vec![snapshot.clone()], vec![snapshot]]),
            children: vec![children],
            ..exposition(Vec::new())
        });
        for line in [
            "shardgate_upstream_calls_total{upstream=\"crm\",outcome=\"breaker\"} 4",
            "shardgate_upstream_calls_total{upstream=\"crm\",outcome=\"result\"} 0",
            "shardgate_upstream_up{upstream=\"crm\"} 0",
            "shardgate_upstream_breaker_open{upstream=\"crm\"} 2",
            "shardgate_upstream_in_flight{upstream=\"crm\"} 2",
            "shardgate_upstream_tools{upstream=\"crm\"} 9",
            "shardgate_upstream_call_duration_seconds_count{upstream=\"crm\"} 4",
            "shardgate_upstream_call_duration_seconds_bucket{le=\"0.0025\",upstream=\"crm\"} 2",
            "shardgate_upstream_call_duration_seconds_bucket{le=\"+Inf\",upstream=\"crm\"} 4",
            "shardgate_children{upstream=\"crm\"} 0",
            "shardgate_children_started_total{upstream=\"crm\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
        assert!(!text.contains("le=\"0.001\""), "finer than the clock:\n{text}");
    }

    #[test]
    fn untouched_methods_take_no_room() {
        let idle = ShardMetrics::new(0, None).snapshot(ShardGauges::default());
        let text = render_openmetrics(exposition(vec![Some(idle)]));
        assert!(!text.contains("shardgate_requests_total{"));
        assert!(text.len() < 32 * 1024, "{} bytes for an idle shard", text.len());
    }
}
