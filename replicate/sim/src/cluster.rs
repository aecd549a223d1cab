//! The nodes of a simulated cluster: their lives, deaths and disks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shardgate_replicate::control_log::raft::{Audit, Ground, Member, RaftLog, Settings, Shelf};
use shardgate_replicate_proto::coordinator::State;
use shardgate_replicate_proto::identity::NodeId;

use crate::disk::Disk;
use crate::ledger::Ledger;
use crate::mutant::Mutant;
use crate::network::{Log, Network, VirtualPeers};
use crate::world::{World, spawn};

/// Wall clocks begin at this time: 2026-01-01.
const WALL_BEGAN_MS: u64 = 1_767_225_600_000;

/// A cluster.
#[derive(Clone)]
pub struct Cluster {
    /// What its parts share.
    pub world: World,
    /// Its links.
    pub network: Network,
    /// What it has agreed on.
    pub ledger: Ledger,
    nodes: Arc<Vec<Node>>,
}

struct Node {
    id: NodeId,
    disk: Disk,
    /// How far the node's wall clock is off, in milliseconds.
    clock_off_ms: Arc<Mutex<i64>>,
    life: Mutex<Life>,
}

#[derive(Default)]
struct Life {
    number: u64,
    starting: bool,
    up: Option<(Log, VirtualPeers)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn settings(world: &World) -> Settings {
    let restore = world.has(Mutant::RestoreLeader);
    Settings {
        engine: if restore { |config| config.enable_leader_restore = Some(true) } else { |_| () },
        cluster: "simulated".to_owned(),
        // Small, so that snapshots and followers that need one are a common thing.
        snapshot_every: 60,
        entries_kept: 20,
        propose_within: Duration::from_secs(4),
        read_within: Duration::from_secs(4),
        ..Settings::default()
    }
}

/// The state of a cluster in which nothing has happened.
pub fn empty_state() -> State {
    State::new("simulated".parse().expect("a name of letters"))
}

impl Cluster {
    /// `size` nodes with empty disks, none of them up.
    pub fn new(world: World, size: u16) -> Cluster {
        let network = Network::new(world.clone());
        let node = |number| Node {
            id: NodeId(number),
            disk: Disk::new(world.clone()),
            clock_off_ms: Arc::default(),
            life: Mutex::default(),
        };
        let nodes = Arc::new((1..=size).map(node).collect());
        let ledger = Ledger::new(world.clone(), empty_state());
        Cluster { world, network, ledger, nodes }
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes.iter().find(|node| node.id == id).expect("a node of this cluster")
    }

    /// All nodes, up or not.
    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// A node's disk.
    pub fn disk(&self, id: NodeId) -> &Disk {
        &self.node(id).disk
    }

    /// Moves a node's wall clock.
    pub fn set_clock_off(&self, id: NodeId, off_ms: i64) {
        *lock(&self.node(id).clock_off_ms) = off_ms;
    }

    /// A node's log, if it is up.
    pub fn log(&self, id: NodeId) -> Option<Log> {
        lock(&self.node(id).life).up.as_ref().map(|(log, _)| log.clone())
    }

    /// The logs of all nodes that are up.
    pub fn logs(&self) -> Vec<(NodeId, Log)> {
        self.ids().into_iter().filter_map(|id| Some((id, self.log(id)?))).collect()
    }

    /// Starts a node and has it take part.
    pub async fn start(&self, id: NodeId) {
        let node = self.node(id);
        let number = {
            let mut life = lock(&node.life);
            if life.up.is_some() || life.starting {
                return;
            }
            life.starting = true;
            life.number += 1;
            life.number
        };
        let mounted = Arc::new(node.disk.mount());
        let peers = self.network.side_of(id, number);
        let (world, off) = (self.world.clone(), Arc::clone(&node.clock_off_ms));
        let wall = Arc::new(move || {
            let passed = u64::try_from(world.now().as_millis()).expect("runs are short");
            (WALL_BEGAN_MS + passed).saturating_add_signed(*lock(&off))
        });
        let shelf: Arc<dyn Shelf> = mounted.clone();
        let (ledger, alive) = (self.ledger.clone(), peers.clone());
        let audit: Audit = Arc::new(move |index, batch, outcomes| {
            // What a killed node still does in its own memory, nobody ever learns of.
            if !alive.has_ended() {
                ledger.applied(id, index, batch, outcomes);
            }
        });
        let ground =
            Ground { journal: mounted, shelf, peers: peers.clone(), wall, audit: Some(audit) };
        let opened = RaftLog::open(id, settings(&self.world), empty_state(), ground).await;
        lock(&node.life).starting = false;
        let log = match opened {
            Ok(log) => log,
            Err(error) => return self.world.broken(format!("node {id} does not start: {error}")),
        };
        lock(&node.life).up = Some((log.clone(), peers));
        self.network.listen(id, number, log.clone());
        let voters: BTreeMap<NodeId, Member> =
            self.ids().into_iter().map(|id| (id, member(id))).collect();
        if let Err(error) = log.initialize(voters).await {
            self.world.broken(format!("node {id} does not initialize: {error}"));
        }
    }

    /// Kills a node: what was not safe on its disk is lost, what it was sending is void.
    pub fn kill(&self, id: NodeId) {
        let node = self.node(id);
        let Some((log, peers)) = lock(&node.life).up.take() else { return };
        self.network.hang_up(id);
        peers.end();
        node.disk.crash();
        // Its tasks end in their own time; nothing they do leaves them any more.
        spawn(async move { log.shutdown().await });
    }
}

fn member(id: NodeId) -> Member {
    Member { name: format!("n{id}"), address: format!("n{id}:7000") }
}
