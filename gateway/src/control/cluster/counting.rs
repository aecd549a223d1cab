//! What is counted of the cluster, for a scrape.

use std::cell::Cell;
use std::rc::Weak;
use std::time::Duration;

use shardgate_replicate::node::Node;
use shardgate_replicate_proto::coordinator::TaskStatus;

use super::Place;
use crate::metrics::ClusterSum;

/// How often the leader is looked at; one that led for less is not counted.
const LOOK: Duration = Duration::from_millis(50);

/// Counts changes of the leader.
#[derive(Debug, Default)]
pub(super) struct LeaderChanges(Cell<u64>);

impl Place {
    /// Counts changes of the leader for as long as the place is there.
    pub(super) async fn watch_leader(place: Weak<Place>) {
        let mut known = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let Some(place) = place.upgrade() else { return };
            let Some(node) = &place.node else { return };
            // A time without one is not a change by itself.
            let leader = node.log().leader().or(known);
            if leader != known {
                place.leader_changes.0.set(place.leader_changes.0.get() + 1);
                known = leader;
            }
        }
    }

    /// Counts; `None` if the node is alone.
    pub(in crate::control) fn count(&self) -> Option<ClusterSum> {
        let node = self.node.as_ref()?;
        Some(sum_of(node, self.leader_changes.0.get()))
    }
}

fn sum_of(node: &Node, leader_changes: u64) -> ClusterSum {
    let status = node.status();
    let (counts, tasks) = node.log().read(|state| {
        let in_status = |status: TaskStatus| (status.as_str(), state.tasks_in(status) as u64);
        (state.counts(), TaskStatus::ALL.map(in_status).to_vec())
    });
    let (syncs, sync_us) = node.fsyncs().totals();
    let mut sync_buckets: Vec<(f64, u64)> =
        node.fsyncs().buckets().map(|(us, count)| (us as f64 / 1e6, count)).collect();
    // The last one holds all that took longer.
    if let Some((bound, _)) = sync_buckets.last_mut() {
        *bound = f64::MAX;
    }
    ClusterSum {
        term: status.term,
        is_leader: status.is_leader(),
        leader_changes,
        last_index: status.last_index,
        committed_index: status.committed_index,
        applied_index: status.applied_index,
        snapshot_index: status.snapshot_index,
        snapshot_bytes: status.snapshot_bytes as u64,
        log_bytes: node.log_size().0,
        nodes_live: counts.nodes_live as u64,
        nodes_suspected: node.suspects().len() as u64,
        workers: counts.workers as u64,
        vshards_unowned: counts.vshards_unowned as u64,
        tasks,
        sync_seconds: sync_us as f64 / 1e6,
        syncs,
        sync_buckets,
    }
}
