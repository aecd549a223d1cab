//! The node's part in its cluster as OpenMetrics series.
//!
//! They are there only for a node of a cluster. Indexes are gauges: their rates are those of
//! the log.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};

use super::openmetrics::{counter, gauge, histogram, signed};

/// What is counted of the cluster, as one node sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterSum {
    /// The term of the log.
    pub term: u64,
    /// Whether this node leads.
    pub is_leader: bool,
    /// How often this node has seen another leader than before.
    pub leader_changes: u64,
    /// The last entry that the node holds.
    pub last_index: u64,
    /// The last entry that it knows to be committed.
    pub committed_index: u64,
    /// The last entry that is part of its state.
    pub applied_index: u64,
    /// The last entry in its newest snapshot.
    pub snapshot_index: u64,
    /// Bytes of that snapshot.
    pub snapshot_bytes: u64,
    /// Bytes of the log's files.
    pub log_bytes: u64,
    /// Nodes that take part.
    pub nodes_live: u64,
    /// Nodes that this one suspects.
    pub nodes_suspected: u64,
    /// Workers.
    pub workers: u64,
    /// Virtual shards without a primary.
    pub vshards_unowned: u64,
    /// Tasks by status.
    pub tasks: Vec<(&'static str, u64)>,
    /// Seconds that syncs of the log took together.
    pub sync_seconds: f64,
    /// How many there were.
    pub syncs: u64,
    /// Upper bounds in seconds, with the number of syncs within each alone.
    pub sync_buckets: Vec<(f64, u64)>,
}

/// Reads one number.
type GaugeOf = fn(&ClusterSum) -> u64;

const GAUGES: [(&str, &str, GaugeOf); 12] = [
    ("shardgate_raft_term", "Term of the control log", |c| c.term),
    ("shardgate_raft_leader", "1 if this node leads", |c| u64::from(c.is_leader)),
    ("shardgate_raft_last_index", "Last entry held", |c| c.last_index),
    ("shardgate_raft_committed_index", "Last entry known to be committed", |c| c.committed_index),
    ("shardgate_raft_applied_index", "Last entry in the state", |c| c.applied_index),
    ("shardgate_raft_snapshot_index", "Last entry in the snapshot", |c| c.snapshot_index),
    ("shardgate_raft_snapshot_bytes", "Size of the snapshot", |c| c.snapshot_bytes),
    ("shardgate_raft_log_bytes", "Size of the log's files", |c| c.log_bytes),
    ("shardgate_cluster_nodes", "Nodes that take part", |c| c.nodes_live),
    ("shardgate_cluster_nodes_suspected", "Nodes this one suspects", |c| c.nodes_suspected),
    ("shardgate_workers", "Workers with a lease", |c| c.workers),
    ("shardgate_vshards_unowned", "Virtual shards without a primary", |c| c.vshards_unowned),
];

/// All series of the cluster.
pub(super) fn encode_cluster(
    encoder: &mut DescriptorEncoder<'_>,
    cluster: &ClusterSum,
) -> fmt::Result {
    for (name, help, value_of) in GAUGES {
        gauge(encoder, name, help, None)?.encode_gauge(&signed(value_of(cluster)))?;
    }
    counter(encoder, "shardgate_raft_leader_changes", "Changes of the leader seen here")?
        .encode_counter::<NoLabelSet, u64, u64>(&cluster.leader_changes, None)?;
    let mut tasks = gauge(encoder, "shardgate_tasks", "Tasks of the cluster", None)?;
    for (status, count) in &cluster.tasks {
        tasks.encode_family(&[("status", *status)])?.encode_gauge(&signed(*count))?;
    }
    histogram(encoder, "shardgate_raft_sync_duration", "Syncs of the log to its disk")?
        .encode_histogram::<NoLabelSet>(
            cluster.sync_seconds,
            cluster.syncs,
            &cluster.sync_buckets,
            None,
        )
}
