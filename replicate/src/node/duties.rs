//! What the leader does for the cluster: leases that are over, tasks that are out of date,
//! virtual shards that should be elsewhere.

use std::rc::Weak;
use std::time::Duration;

use shardgate_replicate_proto::coordinator::{Command, DROPS_MAX, Departure};
use shardgate_replicate_proto::rebalance::{RebalanceLimits, plan, seats};

use super::Node;

/// How often the leader looks.
const TICK: Duration = Duration::from_millis(100);

/// How often virtual shards are looked at.
const REBALANCE_TICKS: u32 = 5;

/// How long a node that was fenced keeps its places: most come back soon.
const AWAY_MS: u64 = 60_000;

/// Looks after the cluster while this node leads it.
pub(super) async fn run(node: Weak<Node>) {
    let mut ticks: u32 = 0;
    loop {
        tokio::time::sleep(TICK).await;
        ticks = ticks.wrapping_add(1);
        let Some(node) = node.upgrade() else { return };
        let status = node.log.status();
        if !status.is_leader() {
            continue;
        }
        let mut commands = node.due(status.term);
        if ticks.is_multiple_of(REBALANCE_TICKS) {
            commands.extend(node.moves());
        }
        if commands.is_empty() {
            continue;
        }
        // Whatever is still due is proposed again.
        if let Err(error) = node.log.propose(commands).await {
            tracing::warn!(%error, "the leader's duties wait");
        }
    }
}

impl Node {
    fn due(&self, term: u64) -> Vec<Command> {
        let (now_ms, log_ms) = (self.now_ms(), self.log.log_time_ms());
        let mut leases = self.leases.borrow_mut();
        self.log.read(|state| {
            let ended = leases.ended(term, state, now_ms);
            let mut commands: Vec<Command> = ended
                .into_iter()
                .map(|(name, registration)| {
                    tracing::warn!(worker = %name, "a worker's lease is over");
                    let name = name.as_ref().into();
                    Command::DeregisterWorker { name, registration, why: Departure::LeaseEnded }
                })
                .collect();
            let ids = state.due_tasks(log_ms, DROPS_MAX);
            if !ids.is_empty() {
                commands.push(Command::DropTasks { ids });
            }
            commands
        })
    }

    fn moves(&self) -> Option<Command> {
        let moves = self.log.read(|state| {
            let seats = seats(state, AWAY_MS);
            plan(&seats, state.vshards(), &RebalanceLimits::default())
        });
        (!moves.is_empty()).then_some(Command::MoveVshards { moves })
    }
}
