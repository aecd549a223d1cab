//! A log for one node alone: nothing is written, everything is applied at once.
//!
//! What it holds lives as long as the process.

use std::cell::RefCell;
use std::future::ready;
use std::time::{SystemTime, UNIX_EPOCH};

use shardgate_replicate_proto::coordinator::{
    Addresses, Batch, Command, NodeRegistration, Outcome, State,
};
use shardgate_replicate_proto::identity::{ClusterName, Incarnation, NodeId};

use super::{
    ChangeFeed, Changes, ControlLog, LocalBoxFuture, LogStatus, ProposeError, ReadError, Role,
    StateRef,
};

/// The number of a node that is alone.
const ALONE: NodeId = NodeId(1);

/// One node's state, without a log.
#[derive(Debug)]
pub struct Solo {
    state: RefCell<State>,
    feed: ChangeFeed,
    now_ms: fn() -> u64,
}

impl Solo {
    /// A cluster of one node, which is registered.
    pub fn new(cluster: ClusterName, node_name: &str) -> Solo {
        Solo::with_clock(cluster, node_name, unix_ms)
    }

    /// The same by another clock, which gives milliseconds since 1970.
    pub fn with_clock(cluster: ClusterName, node_name: &str, now_ms: fn() -> u64) -> Solo {
        let solo =
            Solo { state: RefCell::new(State::new(cluster)), feed: ChangeFeed::default(), now_ms };
        let registration = NodeRegistration {
            id: ALONE,
            name: node_name.into(),
            incarnation: Incarnation(now_ms().max(1)),
            addresses: Addresses::default(),
            zone: "local".into(),
            region: "local".into(),
            weight: 1,
            feature_level: 0,
        };
        let outcomes = solo.apply(vec![Command::RegisterNode(Box::new(registration))]);
        let refused = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Refused(_)));
        assert!(!refused, "the first node of an empty state is taken: {outcomes:?}");
        solo
    }

    fn apply(&self, commands: Vec<Command>) -> Vec<Outcome> {
        let batch = Batch { now_ms: (self.now_ms)(), commands };
        let mut changes = Vec::new();
        let outcomes = {
            let mut state = self.state.borrow_mut();
            let index = state.applied() + 1;
            state.apply(index, &batch, &mut changes)
        };
        self.feed.tell(changes);
        outcomes
    }
}

impl ControlLog for Solo {
    fn propose(
        &self,
        commands: Vec<Command>,
    ) -> LocalBoxFuture<'_, Result<Vec<Outcome>, ProposeError>> {
        Box::pin(ready(Ok(self.apply(commands))))
    }

    fn read_barrier(&self) -> LocalBoxFuture<'_, Result<(), ReadError>> {
        Box::pin(ready(Ok(())))
    }

    fn state(&self) -> StateRef<'_> {
        Box::new(self.state.borrow())
    }

    fn subscribe(&self) -> Changes {
        self.feed.subscribe()
    }

    fn status(&self) -> LogStatus {
        let index = self.state.borrow().applied();
        LogStatus {
            node: ALONE,
            role: Role::Leader,
            term: 0,
            leader: Some(ALONE),
            last_index: index,
            committed_index: index,
            applied_index: index,
            snapshot_index: 0,
            snapshot_bytes: 0,
            purged_index: 0,
            voters: [ALONE].into(),
            learners: [].into(),
            since_quorum: None,
            stopped: None,
        }
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use shardgate_replicate_proto::coordinator::{Change, TaskStatus, TaskSubmission};
    use shardgate_replicate_proto::identity::TaskId;

    use super::super::{CHANGES_BEHIND_MAX, Next};
    use super::*;

    fn solo() -> Solo {
        Solo::with_clock("test".parse().expect("a name"), "node", || 1_000)
    }

    fn submission(id: u128) -> Command {
        Command::SubmitTask(Box::new(TaskSubmission {
            id: TaskId(id),
            owner: b"owner".as_slice().into(),
            tool: "tool".into(),
            service: "service".into(),
            params: b"{}".as_slice().into(),
            labels: Default::default(),
            needs_worker: false,
            idempotent: false,
            ttl_ms: Some(60_000),
            poll_interval_ms: None,
            executor: ALONE,
        }))
    }

    #[tokio::test]
    async fn a_task_is_given_to_the_only_node() {
        let solo = solo();
        let mut changes = solo.subscribe();
        let outcomes = solo.propose(vec![submission(7)]).await.expect("taken");
        assert_eq!(outcomes, [Outcome::TaskSubmitted { id: TaskId(7), created_ms: 1_000 }]);
        assert_eq!(solo.state().task(TaskId(7)).expect("held").status(), TaskStatus::Working);
        let dispatched = Change::TaskDispatched { id: TaskId(7), attempt: 1, executor: ALONE };
        assert_eq!(changes.next().await, Next::Change(dispatched));
        assert!(solo.status().is_leader());
    }

    #[tokio::test]
    async fn who_falls_too_far_behind_is_told() {
        let solo = solo();
        let mut changes = solo.subscribe();
        let registered = || Change::FeatureLevel { level: 1 };
        solo.feed.tell((0..=CHANGES_BEHIND_MAX).map(|_| registered()));
        assert_eq!(changes.next().await, Next::Missed(1));
        assert_eq!(changes.next().await, Next::Change(registered()));
        drop(solo);
    }
}
