//! One run: a cluster, its clients and its faults, from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use shardgate_replicate::control_log::Role;

use crate::cluster::Cluster;
use crate::faults;
use crate::mutant::Mutant;
use crate::workload::{self, Promises};
use crate::world::{World, sleep, spawn};

/// Clients of one run.
const CLIENTS: usize = 8;

/// How long a cluster without faults may take to agree again.
const CONVERGES_WITHIN: Duration = Duration::from_secs(30);

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which run it was.
    pub seed: u64,
    /// Invariants that did not hold; empty if all is well.
    pub broken: Vec<String>,
    /// How often each thing happened that should happen in some runs.
    pub happened: BTreeMap<&'static str, u64>,
    /// Answers that clients got.
    pub operations: u64,
    /// Tasks that were accepted.
    pub tasks: usize,
}

/// Runs the cluster of this seed for `lasts` of virtual time.
pub fn run(seed: u64, lasts: Duration) -> Report {
    run_with(seed, lasts, None)
}

/// The same with something broken on purpose.
pub fn run_with(seed: u64, lasts: Duration, mutant: Option<Mutant>) -> Report {
    let mut runtime = SimRuntime::with_seed(seed);
    runtime.block_on(async {
        let world = World::with(seed, mutant);
        let size = if world.chance(300_000) { 5 } else { 3 };
        let cluster = Cluster::new(world.clone(), size);
        for id in cluster.ids() {
            cluster.start(id).await;
        }
        workload::register_nodes(&cluster).await;
        let promises = Promises::default();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| SimRuntime::spawn(workload::client(cluster.clone(), promises.clone(), lasts)))
            .collect();
        spawn(watch_leaders(cluster.clone(), lasts));
        faults::rage(cluster.clone(), lasts).await;
        faults::end_all(&cluster).await;
        faults::give_votes_back(&cluster).await;
        for client in clients {
            if let Err(error) = client.await {
                world.broken(format!("a client failed: {error}"));
            }
        }
        converge(&cluster, &promises).await;
        Report {
            seed,
            broken: world.all_broken(),
            happened: world.happened(),
            operations: cluster.ledger.operations(),
            tasks: promises.count(),
        }
    })
}

/// At most one leader per term (Raft paper, figure 3: election safety), and terms never go back.
async fn watch_leaders(cluster: Cluster, end: Duration) {
    let mut leaders = BTreeMap::new();
    while cluster.world.now() < end {
        sleep(Duration::from_millis(10)).await;
        for (id, log) in cluster.logs() {
            let status = log.status();
            if let Some(reason) = status.stopped {
                cluster.world.broken(format!("node {id}'s log has stopped: {reason}"));
                return;
            }
            if status.role != Role::Leader {
                continue;
            }
            let first = *leaders.entry(status.term).or_insert(id);
            if first != id {
                cluster
                    .world
                    .broken(format!("nodes {first} and {id} both lead term {}", status.term));
            }
        }
    }
    for _ in 1..leaders.len() {
        cluster.world.count("leader changed");
    }
}

/// Without faults, all nodes take writes and come to the same state, in which no promise is broken.
async fn converge(cluster: &Cluster, promises: &Promises) {
    let world = &cluster.world;
    let deadline = world.now() + CONVERGES_WITHIN;
    loop {
        sleep(Duration::from_millis(200)).await;
        let mut reached = Vec::new();
        for (id, log) in cluster.logs() {
            if log.read_barrier().await.is_ok() {
                reached.push((id, log.read_at(|_, index| index)));
            }
        }
        let together = reached.len() == cluster.ids().len()
            && reached.windows(2).all(|two| two[0].1 == two[1].1);
        if together {
            break;
        }
        if world.now() > deadline {
            let status: Vec<_> = cluster.logs().into_iter().map(|(_, log)| log.status()).collect();
            return world
                .broken(format!("the nodes do not come together without faults: {status:#?}"));
        }
    }
    for (id, log) in cluster.logs() {
        log.read(|state| {
            cluster.ledger.compare(id, state);
            for sentence in promises.broken_by(state) {
                world.broken(format!("on node {id}: {sentence}"));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_alone_writes_and_reads() {
        SimRuntime::with_seed(1).block_on(async {
            let cluster = Cluster::new(World::new(1), 1);
            cluster.start(cluster.ids()[0]).await;
            workload::register_nodes(&cluster).await;
            sleep(Duration::from_secs(5)).await;
            let log = cluster.log(cluster.ids()[0]).expect("it is up");
            log.read_barrier().await.expect("a node alone is its own majority");
            assert_eq!(log.read(|state| state.nodes().count()), 1);
        });
    }

    #[test]
    fn the_same_seed_gives_the_same_run() {
        let first = run(1, Duration::from_secs(20));
        assert_eq!(first, run(1, Duration::from_secs(20)));
        assert!(first.operations > 0);
    }
}
