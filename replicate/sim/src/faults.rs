//! What goes wrong in a run, and when.
//!
//! Every fault ends after a while; at the run's end all are ended at once, so that
//! it can be shown that the cluster comes together again.

use std::time::Duration;

use shardgate_replicate::control_log::raft::MemberChange;
use shardgate_replicate_proto::identity::NodeId;

use crate::cluster::Cluster;
use crate::network::Weather;
use crate::world::{sleep, spawn};

/// A network in trouble.
const STORM: Weather = Weather {
    delay_min: Duration::from_micros(100),
    delay_max: Duration::from_millis(15),
    stragglers: 30_000,
    lost: 40_000,
    doubled: 40_000,
};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillLeader,
    KillSome,
    KillAll,
    Isolate,
    OneWay,
    Split,
    Storm,
    SlowDisk,
    FullDisk,
    Stall,
    ClockJump,
    HandOver,
    DemoteAndPromote,
    Snapshot,
}

const ALL: [Fault; 14] = [
    Fault::KillLeader,
    Fault::KillSome,
    Fault::KillAll,
    Fault::Isolate,
    Fault::OneWay,
    Fault::Split,
    Fault::Storm,
    Fault::SlowDisk,
    Fault::FullDisk,
    Fault::Stall,
    Fault::ClockJump,
    Fault::HandOver,
    Fault::DemoteAndPromote,
    Fault::Snapshot,
];

/// Lets things go wrong until `end`.
pub async fn rage(cluster: Cluster, end: Duration) {
    let world = cluster.world.clone();
    loop {
        sleep(world.between(Duration::from_millis(50), Duration::from_secs(3))).await;
        if world.now() >= end {
            return;
        }
        let fault = ALL[world.below(ALL.len())];
        let lasts = world.between(Duration::from_millis(100), Duration::from_secs(5));
        begin(&cluster, fault, lasts).await;
    }
}

/// Ends all faults.
pub async fn end_all(cluster: &Cluster) {
    cluster.network.mend();
    cluster.network.set_weather(Weather::CALM);
    for id in cluster.ids() {
        cluster.network.stall(id, false);
        cluster.disk(id).set_full(false);
        cluster.disk(id).set_slowness(1);
        cluster.set_clock_off(id, 0);
        cluster.start(id).await;
    }
}

fn anybody(cluster: &Cluster) -> NodeId {
    let ids = cluster.ids();
    ids[cluster.world.below(ids.len())]
}

fn leader(cluster: &Cluster) -> NodeId {
    let known = cluster.logs().into_iter().find_map(|(_, log)| log.leader());
    known.unwrap_or_else(|| anybody(cluster))
}

async fn begin(cluster: &Cluster, fault: Fault, lasts: Duration) {
    let world = &cluster.world;
    match fault {
        Fault::KillLeader => kill(cluster, &[leader(cluster)], lasts, "leader killed"),
        Fault::KillSome => {
            let count = 1 + world.below(cluster.ids().len() - 1);
            let mut victims = cluster.ids();
            while victims.len() > count {
                victims.swap_remove(world.below(victims.len()));
            }
            kill(cluster, &victims, lasts, "several nodes killed");
        }
        Fault::KillAll => {
            kill(cluster, &cluster.ids(), lasts.min(Duration::from_secs(1)), "all nodes killed")
        }
        Fault::Isolate | Fault::OneWay | Fault::Split => partition(cluster, fault, lasts),
        Fault::Storm => {
            world.count("storm");
            cluster.network.set_weather(STORM);
            later(cluster, lasts, |cluster| cluster.network.set_weather(Weather::CALM));
        }
        Fault::SlowDisk => {
            world.count("slow disk");
            let id = anybody(cluster);
            cluster
                .disk(id)
                .set_slowness(20 + u32::try_from(world.below(200)).expect("a small number"));
            later(cluster, lasts, move |cluster| cluster.disk(id).set_slowness(1));
        }
        Fault::FullDisk => {
            world.count("full disk");
            let id = anybody(cluster);
            cluster.disk(id).set_full(true);
            later(cluster, lasts, move |cluster| cluster.disk(id).set_full(false));
        }
        Fault::Stall => {
            world.count("node stalled");
            let id = if world.chance(500_000) { leader(cluster) } else { anybody(cluster) };
            cluster.network.stall(id, true);
            later(cluster, lasts, move |cluster| cluster.network.stall(id, false));
        }
        Fault::ClockJump => {
            world.count("clock jumped");
            let hours = i64::try_from(world.below(48)).expect("a small number") - 24;
            cluster.set_clock_off(anybody(cluster), hours * 3_600_000);
        }
        Fault::HandOver => {
            let (from, to) = (leader(cluster), anybody(cluster));
            if let Some(log) = cluster.log(from) {
                world.count("leadership handed over");
                // It may be refused; nothing depends on it.
                drop(log.hand_leadership_to(to).await);
            }
        }
        Fault::DemoteAndPromote => demote_and_promote(cluster, lasts),
        Fault::Snapshot => {
            if let Some(log) = cluster.log(anybody(cluster)) {
                // It may be busy with one.
                drop(log.snapshot_now().await);
            }
        }
    }
}

fn later(cluster: &Cluster, after: Duration, end: impl FnOnce(&Cluster) + Send + 'static) {
    let cluster = cluster.clone();
    spawn(async move {
        sleep(after).await;
        end(&cluster);
    });
}

fn kill(cluster: &Cluster, victims: &[NodeId], lasts: Duration, what: &'static str) {
    cluster.world.count(what);
    for id in victims {
        cluster.kill(*id);
        let (cluster, id) = (cluster.clone(), *id);
        let down =
            cluster.world.between(Duration::from_millis(10), lasts.max(Duration::from_millis(20)));
        spawn(async move {
            sleep(down).await;
            cluster.start(id).await;
        });
    }
}

fn partition(cluster: &Cluster, fault: Fault, lasts: Duration) {
    let world = &cluster.world;
    let ids = cluster.ids();
    let lonely = if world.chance(500_000) { leader(cluster) } else { anybody(cluster) };
    let (what, side): (_, Vec<NodeId>) = if fault == Fault::Split {
        ("cluster split", ids.iter().copied().filter(|_| world.chance(500_000)).collect())
    } else if fault == Fault::OneWay {
        ("one-way partition", vec![lonely])
    } else {
        ("node isolated", vec![lonely])
    };
    world.count(what);
    let both = fault != Fault::OneWay;
    let outwards = world.chance(500_000);
    for one in &side {
        for other in ids.iter().filter(|other| !side.contains(other)) {
            if both || outwards {
                cluster.network.cut(*one, *other);
            }
            if both || !outwards {
                cluster.network.cut(*other, *one);
            }
        }
    }
    later(cluster, lasts, |cluster| cluster.network.mend());
}

/// Takes a voter's vote away and gives it back, each by way of a joint membership.
fn demote_and_promote(cluster: &Cluster, lasts: Duration) {
    cluster.world.count("members changed");
    let (id, cluster) = (anybody(cluster), cluster.clone());
    spawn(async move {
        let logs = cluster.logs();
        // Two voters stay: the engine never confirms the reads of one that has learners.
        if let Some((_, log)) = logs.first().filter(|(_, log)| log.status().voters.len() > 2) {
            // Without a leader it is refused; whoever still votes, votes.
            drop(log.change_members(&MemberChange::Demote(id.0)).await);
        }
        sleep(lasts).await;
        give_votes_back(&cluster).await;
    });
}

/// Makes every node a voter again.
pub async fn give_votes_back(cluster: &Cluster) {
    for id in cluster.ids() {
        for (_, log) in cluster.logs() {
            if log.status().voters.contains(&id) {
                break;
            }
            if log.change_members(&MemberChange::Promote(id.0)).await.is_ok() {
                break;
            }
        }
    }
}
