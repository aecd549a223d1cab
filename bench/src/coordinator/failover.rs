//! The leader's process is killed under load, again and again: how long until the cluster
//! takes writes again, and whether it has kept what it acknowledged.
//!
//! Clients are at the leader and at a follower. What those at the leader were acknowledged
//! before it was killed counts too. A client submits one task after the other, each until it
//! is acknowledged, so that all it was acknowledged is known by its last task.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::talk::{Acknowledged, Order, Said, monotonic_ns};
use super::{ClusterError, Common, Kills, MeasureError, Tuning};
use crate::outcome::Distribution;
use crate::recorder::latencies;
use crate::report::percentiles::distribution;
use crate::report::quantities::duration_text;

/// Writes at each of the two nodes before the kill.
const WRITES_BEFORE: usize = 50;
/// The kill comes this much later, by chance, so that it meets the log in any state.
const DELAY_MS_MAX: u64 = 200;
/// Writes at the survivor between its first and the restart of the node that was killed.
const WRITES_AFTER: usize = 200;
/// Tasks that are told one by one if they are lost or doubled.
const EXAMPLES_MAX: usize = 10;

/// What the kills of one cluster's leaders have cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Failover {
    /// Voters.
    pub nodes: u16,
    /// Clients, at the leader and at a follower together.
    pub clients: u32,
    /// Leaders killed.
    pub kills: u32,
    /// From the kill to the end of the first write at the follower that began after the
    /// leader was gone.
    pub outage: Distribution,
    /// Each of them, in their order, microseconds.
    pub outages_us: Vec<u64>,
    /// Writes that were acknowledged.
    pub acknowledged: u64,
    /// Those that some node does not have at the end.
    pub lost: u64,
    /// Tasks that are there otherwise than they were acknowledged, or that nobody submitted.
    pub doubled: u64,
    /// Times a client had to ask again, as its node could not tell what became of a write.
    pub retries: u64,
    /// What is wrong with the first of the lost and doubled.
    pub examples: Vec<String>,
}

impl Failover {
    /// Whether everything acknowledged is there, once.
    pub fn is_sound(&self) -> bool {
        self.lost == 0 && self.doubled == 0
    }
}

/// Kills leaders.
pub(super) fn measure(
    common: &mut Common<'_>,
    size: u16,
    kills: Kills,
) -> Result<Failover, MeasureError> {
    let mut cluster = Cluster::start(common.plan(size, Tuning::default()))?;
    let mut failover = Failover { nodes: size, clients: kills.clients, ..Failover::default() };
    let (mut ledger, mut outages) = (Ledger::default(), latencies());
    for kill in 0..kills.count {
        common.look_for_interruption()?;
        common.witness.now(&format!("{size} nodes: leader {} of {}", kill + 1, kills.count));
        let found = one(&mut cluster, &mut ledger, kill, kills)?;
        failover.kills += 1;
        failover.retries += found.retries;
        failover.outages_us.push(found.outage_us);
        outages.saturating_record(found.outage_us);
        let took = duration_text(found.outage_us as f64);
        common.witness.ended(&format!("{size} nodes, kill {}: {took}", kill + 1));
    }
    failover.outage = distribution(&outages).expect("a histogram can be written");
    failover.acknowledged = ledger.len();
    cluster.wait_until_whole()?;
    for id in cluster.running() {
        let held = cluster.node(id).list()?;
        let told = ledger.compare(id, &held);
        failover.lost += told.lost;
        failover.doubled += told.doubled;
        let room = EXAMPLES_MAX.saturating_sub(failover.examples.len());
        failover.examples.extend(told.examples.into_iter().take(room));
    }
    Ok(failover)
}

struct Found {
    outage_us: u64,
    retries: u64,
}

fn one(
    cluster: &mut Cluster,
    ledger: &mut Ledger,
    kill: u32,
    kills: Kills,
) -> Result<Found, ClusterError> {
    let leader = cluster.wait_until_whole()?;
    let followers: Vec<u16> = cluster.running().into_iter().filter(|id| *id != leader).collect();
    let survivor = followers[kill as usize % followers.len()];
    let at_leader = kills.clients / 2;
    for (id, session, clients) in
        [(leader, 2 * kill, at_leader), (survivor, 2 * kill + 1, kills.clients - at_leader)]
    {
        let order = Order::Load { session: session + 1, clients, pace_us: kills.pace_us };
        cluster.node(id).do_it(&order)?;
    }
    for id in [leader, survivor] {
        cluster.node(id).wait_for_acknowledged(WRITES_BEFORE)?;
    }
    std::thread::sleep(Duration::from_millis(fastrand::u64(0..=DELAY_MS_MAX)));
    let killed_ns = monotonic_ns();
    let at_leader = cluster.kill(leader);
    ledger.note(at_leader);
    let node = cluster.node(survivor);
    node.tell(&Order::Watch { since_ns: monotonic_ns() })?;
    let back_ns = node.wait_for_watched()?;
    ledger.note(node.take_acknowledged());
    node.wait_for_acknowledged(WRITES_AFTER)?;
    // It comes back while the others are at work.
    cluster.start_node(leader)?;
    let node = cluster.node(survivor);
    let said = node.ask(&Order::EndLoad)?;
    let Said::LoadEnded { retries, .. } = said else { return Err(node.confused(&said)) };
    ledger.note(node.take_acknowledged());
    Ok(Found { outage_us: (back_ns - killed_ns) / 1_000, retries })
}

/// What clients were acknowledged.
#[derive(Debug, Default)]
struct Ledger {
    /// When each task was created, by session, client and number.
    created_ms: BTreeMap<(u32, u32, u64), u64>,
}

/// What one node has otherwise.
#[derive(Debug, Default, PartialEq, Eq)]
struct Differences {
    lost: u64,
    doubled: u64,
    examples: Vec<String>,
}

impl Ledger {
    fn len(&self) -> u64 {
        self.created_ms.len() as u64
    }

    fn note(&mut self, tasks: Vec<Acknowledged>) {
        for task in tasks {
            let Acknowledged { session, client, number, created_ms } = task;
            self.created_ms.insert((session, client, number), created_ms);
        }
    }

    /// The task that a client may have submitted without being acknowledged.
    fn may_be_there(&self, (session, client, number): (u32, u32, u64)) -> bool {
        number == 1 || self.created_ms.contains_key(&(session, client, number - 1))
    }

    fn compare(&self, node: u16, held: &[Acknowledged]) -> Differences {
        let mut found = Differences::default();
        let mut seen = BTreeSet::new();
        for task in held {
            let Acknowledged { session, client, number, created_ms } = *task;
            let key = (session, client, number);
            let is_first = seen.insert(key);
            let is_as_told = match self.created_ms.get(&key) {
                Some(told_ms) => *told_ms == created_ms,
                None => self.may_be_there(key),
            };
            if !is_first || !is_as_told {
                found.doubled += 1;
                found.examples.push(format!(
                    "node {node} has task {number} of client {client} in session {session}, \
                     created at {created_ms}, and the client was told {:?}",
                    self.created_ms.get(&key)
                ));
            }
        }
        for key in self.created_ms.keys().filter(|key| !seen.contains(key)) {
            found.lost += 1;
            let (session, client, number) = key;
            found.examples.push(format!(
                "node {node} lacks task {number} of client {client} in session {session}"
            ));
        }
        found.examples.truncate(EXAMPLES_MAX);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(client: u32, number: u64, created_ms: u64) -> Acknowledged {
        Acknowledged { session: 1, client, number, created_ms }
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.note(vec![task(0, 1, 10), task(0, 2, 11), task(1, 1, 10)]);
        ledger
    }

    #[test]
    fn all_that_was_acknowledged_is_there_once() {
        let held = [task(0, 1, 10), task(0, 2, 11), task(1, 1, 10)];
        assert_eq!(ledger().compare(1, &held), Differences::default());
    }

    #[test]
    fn a_write_under_way_when_its_client_died_may_be_there() {
        let held = [task(0, 1, 10), task(0, 2, 11), task(0, 3, 12), task(1, 1, 10), task(2, 1, 9)];
        assert_eq!(ledger().compare(1, &held), Differences::default());
    }

    #[test]
    fn what_is_missing_is_lost() {
        let found = ledger().compare(3, &[task(0, 1, 10), task(1, 1, 10)]);
        assert_eq!((found.lost, found.doubled), (1, 0));
        assert_eq!(found.examples, ["node 3 lacks task 2 of client 0 in session 1"]);
    }

    #[test]
    fn what_was_created_again_or_by_nobody_is_doubled() {
        let again = [task(0, 1, 10), task(0, 2, 15), task(1, 1, 10)];
        assert_eq!(ledger().compare(1, &again).doubled, 1);
        let by_nobody = [task(0, 1, 10), task(0, 2, 11), task(0, 4, 15), task(1, 1, 10)];
        assert_eq!(ledger().compare(1, &by_nobody).doubled, 1);
        let twice = [task(0, 1, 10), task(0, 2, 11), task(0, 2, 11), task(1, 1, 10)];
        assert_eq!(ledger().compare(1, &twice).doubled, 1);
    }
}
