//! How long a cluster takes to come back: a node that restarts, the whole cluster, and a new
//! node that has nothing; and what the tasks it holds cost in memory.

use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::talk::{Order, Said, monotonic_ns};
use super::{ClusterError, Common, MeasureError, Recovering, Tuning};
use crate::report::quantities::{bytes_text, count_text, duration_text};

/// Snapshots are made this often while the cluster is filled, so that a new node needs one.
const SNAPSHOT_EVERY: u64 = 500;
/// Few entries stay behind it.
const ENTRIES_KEPT: u64 = 10;
/// Tasks of the load that finds out whether a cluster takes writes.
const PACE_US: u64 = 1_000;

/// What one cluster needed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// Voters.
    pub nodes: u16,
    /// Tasks that every node holds.
    pub tasks: u64,
    /// Bytes of each one's parameters.
    pub bytes: usize,
    /// How long it took to submit them.
    pub fill_us: u64,
    /// Memory of each process when it holds them.
    pub resident_bytes: Vec<u64>,
    /// The newest snapshot.
    pub snapshot_bytes: u64,
    /// From the start of a killed follower's process until it has all that was committed.
    pub node_restart_us: u64,
    /// From the start of a new node's process, with nothing on its disk, until it has all
    /// that was committed when it was taken in.
    pub full_sync_us: u64,
    /// The part of it after the node was taken in.
    pub full_sync_after_admission_us: u64,
    /// Whether the new node needed the snapshot, as the entries before it were gone.
    pub by_snapshot: bool,
    /// From the start of all processes, after all were killed, until the end of the first write.
    pub cluster_restart_us: u64,
    /// Tasks that some node did not have after that.
    pub lost: u64,
}

/// Fills a cluster and has it come back in every way.
pub(super) fn measure(
    common: &mut Common<'_>,
    size: u16,
    recovering: Recovering,
) -> Result<Recovery, MeasureError> {
    common.look_for_interruption()?;
    let Recovering { tasks, bytes } = recovering;
    let tuning = Tuning {
        snapshot_every: Some(SNAPSHOT_EVERY),
        entries_kept: Some(ENTRIES_KEPT),
        ..Tuning::default()
    };
    common.witness.now(&format!("{size} nodes with {} tasks", count_text(tasks)));
    let mut cluster = Cluster::start(common.plan(size, tuning))?;
    let mut recovery = Recovery { nodes: size, tasks, bytes, ..Recovery::default() };
    fill(&mut cluster, &mut recovery)?;
    recovery.node_restart_us = restart_follower(&mut cluster)?;
    full_sync(&mut cluster, &mut recovery)?;
    recovery.cluster_restart_us = restart_all(&mut cluster)?;
    cluster.leader()?;
    for id in cluster.running() {
        let held = cluster.node(id).list()?.iter().filter(|task| task.session == 0).count();
        recovery.lost += tasks.saturating_sub(held as u64);
    }
    let most = recovery.resident_bytes.iter().max().copied().unwrap_or_default();
    common.witness.ended(&format!(
        "{size} nodes: {} a node; back after {} (node), {} (new node), {} (all)",
        bytes_text(most as f64),
        duration_text(recovery.node_restart_us as f64),
        duration_text(recovery.full_sync_us as f64),
        duration_text(recovery.cluster_restart_us as f64),
    ));
    Ok(recovery)
}

fn fill(cluster: &mut Cluster, recovery: &mut Recovery) -> Result<(), ClusterError> {
    let leader = cluster.wait_until_whole()?;
    let begun_ns = monotonic_ns();
    cluster.node(leader).do_it(&Order::Fill { tasks: recovery.tasks, bytes: recovery.bytes })?;
    recovery.fill_us = (monotonic_ns() - begun_ns) / 1_000;
    cluster.wait_until_whole()?;
    for id in cluster.running() {
        recovery.resident_bytes.push(cluster.node(id).status()?.resident_bytes);
    }
    Ok(())
}

fn restart_follower(cluster: &mut Cluster) -> Result<u64, ClusterError> {
    let leader = cluster.leader()?;
    let follower = cluster.running().into_iter().find(|id| *id != leader).expect("a follower");
    cluster.kill(follower);
    let index = cluster.node(leader).status()?.committed_index;
    let begun_ns = monotonic_ns();
    cluster.start_node(follower)?;
    Ok((reached(cluster, follower, index)? - begun_ns) / 1_000)
}

fn full_sync(cluster: &mut Cluster, recovery: &mut Recovery) -> Result<(), ClusterError> {
    let leader = cluster.wait_until_whole()?;
    let status = cluster.snapshot(leader)?;
    recovery.snapshot_bytes = status.snapshot_bytes;
    recovery.by_snapshot = status.purged_index > 0;
    let begun_ns = monotonic_ns();
    let id = cluster.start_new_node()?;
    let address = cluster.address(id).to_owned();
    let admitted_ns = monotonic_ns();
    cluster.node(leader).do_it(&Order::AddLearner { id, address })?;
    let at_ns = reached(cluster, id, status.committed_index)?;
    recovery.full_sync_us = (at_ns - begun_ns) / 1_000;
    recovery.full_sync_after_admission_us = (at_ns - admitted_ns) / 1_000;
    // It goes again: what follows is about the voters.
    cluster.kill(id);
    Ok(())
}

fn restart_all(cluster: &mut Cluster) -> Result<u64, ClusterError> {
    for id in cluster.running() {
        cluster.kill(id);
    }
    let begun_ns = monotonic_ns();
    cluster.start_all()?;
    let first = cluster.running()[0];
    let node = cluster.node(first);
    node.do_it(&Order::Load { session: 1, clients: 1, pace_us: PACE_US })?;
    node.tell(&Order::Watch { since_ns: begun_ns })?;
    let at_ns = node.wait_for_watched()?;
    let said = node.ask(&Order::EndLoad)?;
    let Said::LoadEnded { .. } = said else { return Err(node.confused(&said)) };
    Ok((at_ns - begun_ns) / 1_000)
}

fn reached(cluster: &mut Cluster, id: u16, index: u64) -> Result<u64, ClusterError> {
    let node = cluster.node(id);
    let said = node.ask(&Order::Reach { index })?;
    if let Said::Reached { at_ns } = said { Ok(at_ns) } else { Err(node.confused(&said)) }
}
