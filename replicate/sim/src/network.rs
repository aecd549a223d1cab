//! Virtual links: messages that are late, lost, doubled, or on a link that is cut.
//!
//! A link has a direction, so a partition can be one-way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use shardgate_replicate::control_log::raft::RaftLog;
use shardgate_replicate::peers::{CallError, Kind, Peers};
use shardgate_replicate_proto::identity::NodeId;

use crate::mutant::Mutant;
use crate::world::{World, sleep, spawn};

/// A node's log in the simulator.
pub type Log = RaftLog<SimRuntime, VirtualPeers>;

/// After this a message that nobody answers has arrived or never will.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// How links behave that are not cut.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Shortest way from node to node.
    pub delay_min: Duration,
    /// Longest, except for stragglers.
    pub delay_max: Duration,
    /// Of a million messages, so many take fifty times as long.
    pub stragglers: u32,
    /// So many are lost.
    pub lost: u32,
    /// So many arrive twice.
    pub doubled: u32,
}

impl Weather {
    /// A quiet local network.
    pub const CALM: Weather = Weather {
        delay_min: Duration::from_micros(50),
        delay_max: Duration::from_micros(300),
        stragglers: 0,
        lost: 0,
        doubled: 0,
    };
}

/// All links of a cluster.
#[derive(Clone)]
pub struct Network {
    world: World,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    weather: Weather,
    cut: BTreeSet<(NodeId, NodeId)>,
    listening: BTreeMap<NodeId, (u64, Log)>,
    stalled: BTreeSet<NodeId>,
    /// The last answer to each kind of message, for [`Mutant::MixAnswers`].
    last_answers: BTreeMap<u8, Bytes>,
}

/// One life of a node's side of the network. After its end nothing it sends leaves.
#[derive(Clone)]
pub struct VirtualPeers {
    network: Network,
    own: NodeId,
    life: u64,
    ended: Arc<std::sync::atomic::AtomicBool>,
}

impl Network {
    /// A network without links that are cut.
    pub fn new(world: World) -> Network {
        let shared = Shared {
            weather: Weather::CALM,
            cut: BTreeSet::new(),
            listening: BTreeMap::new(),
            stalled: BTreeSet::new(),
            last_answers: BTreeMap::new(),
        };
        Network { world, shared: Arc::new(Mutex::new(shared)) }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node's side for one of its lives.
    pub fn side_of(&self, own: NodeId, life: u64) -> VirtualPeers {
        VirtualPeers { network: self.clone(), own, life, ended: Arc::default() }
    }

    /// From now on this log answers for the node.
    pub fn listen(&self, node: NodeId, life: u64, log: Log) {
        self.shared().listening.insert(node, (life, log));
    }

    /// Nobody answers for the node.
    pub fn hang_up(&self, node: NodeId) {
        self.shared().listening.remove(&node);
    }

    /// Sets how messages travel.
    pub fn set_weather(&self, weather: Weather) {
        self.shared().weather = weather;
    }

    /// Cuts a link, in one direction.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.shared().cut.insert((from, to));
    }

    /// Mends all links.
    pub fn mend(&self) {
        self.shared().cut.clear();
    }

    /// A stalled node neither sends nor takes anything until it goes on.
    pub fn stall(&self, node: NodeId, stalled: bool) {
        if stalled {
            self.shared().stalled.insert(node);
        } else {
            self.shared().stalled.remove(&node);
        }
    }

    /// Whether a node is stalled now.
    pub fn is_stalled(&self, node: NodeId) -> bool {
        self.shared().stalled.contains(&node)
    }

    /// Waits as long as a stalled node does.
    pub async fn while_stalled(&self, node: NodeId) {
        while self.is_stalled(node) {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// One way of a message. False: it is lost.
    async fn travel(&self, from: NodeId, to: NodeId) -> bool {
        let weather = self.shared().weather;
        let mut delay = self.world.between(weather.delay_min, weather.delay_max);
        if self.world.chance(weather.stragglers) {
            delay *= 50;
            self.world.count("message late");
        }
        sleep(delay).await;
        self.while_stalled(from).await;
        self.while_stalled(to).await;
        if self.shared().cut.contains(&(from, to)) {
            self.world.count("message on a cut link");
            return false;
        }
        if self.world.chance(weather.lost) {
            self.world.count("message lost");
            return false;
        }
        true
    }

    /// Sometimes the answer to another message of this kind.
    fn mixed_up(&self, kind: Kind, answer: Bytes) -> Bytes {
        let before = self.shared().last_answers.insert(kind as u8, answer.clone());
        before.filter(|_| self.world.chance(100_000)).unwrap_or(answer)
    }

    fn listener(&self, node: NodeId) -> Option<Log> {
        self.shared().listening.get(&node).map(|(_, log)| log.clone())
    }
}

/// One message.
#[derive(Clone)]
enum Message {
    Request(Kind, Bytes),
    Snapshot(Bytes, Bytes),
}

impl Message {
    fn kind(&self) -> Kind {
        match self {
            Message::Request(kind, _) => *kind,
            Message::Snapshot(..) => Kind::Snapshot,
        }
    }

    async fn hand_to(self, log: &Log) -> Result<Bytes, String> {
        match self {
            Message::Request(kind, body) => log.handle(kind, &body).await,
            Message::Snapshot(head, body) => log.handle_snapshot(&head, body).await,
        }
    }
}

impl VirtualPeers {
    /// Ends this life: what is under way of it is void.
    pub fn end(&self) {
        self.ended.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Whether this life has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Which life this is.
    pub fn life(&self) -> u64 {
        self.life
    }

    async fn exchange(self, to: NodeId, message: Message) -> Result<Bytes, CallError> {
        let network = self.network.clone();
        if self.has_ended() || !network.travel(self.own, to).await {
            return futures_util::future::pending().await;
        }
        let Some(log) = network.listener(to) else {
            return Err(CallError::Unreachable(format!("node {to} refused the connection")));
        };
        if network.world.chance(network.shared().weather.doubled) {
            network.world.count("message doubled");
            let (again, log, late) = (message.clone(), log.clone(), network.clone());
            spawn(async move {
                sleep(late.world.between(Duration::ZERO, Duration::from_millis(50))).await;
                // The second copy's answer goes nowhere.
                drop(again.hand_to(&log).await);
            });
        }
        let kind = message.kind();
        let mut answer = message.hand_to(&log).await.map_err(CallError::Failed);
        if network.world.has(Mutant::MixAnswers) {
            answer = answer.map(|answer| network.mixed_up(kind, answer));
        }
        if self.has_ended() || network.listener(to).is_none() || !network.travel(to, self.own).await
        {
            return futures_util::future::pending().await;
        }
        answer
    }

    fn within(
        &self,
        to: NodeId,
        message: Message,
        within: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        let exchange = self.clone().exchange(to, message);
        async move {
            SimRuntime::timeout(within, exchange).await.unwrap_or(Err(CallError::TimedOut(within)))
        }
        .boxed()
    }
}

impl Peers for VirtualPeers {
    fn call(
        &self,
        to: NodeId,
        kind: Kind,
        body: Bytes,
        within: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        self.within(to, Message::Request(kind, body), within)
    }

    fn tell(&self, to: NodeId, kind: Kind, body: Bytes) {
        let exchange = self.clone().exchange(to, Message::Request(kind, body));
        spawn(async move {
            // Nobody waits for an answer.
            drop(SimRuntime::timeout(TOLD_WITHIN, exchange).await);
        });
    }

    fn send_snapshot(
        &self,
        to: NodeId,
        head: Bytes,
        body: Bytes,
        within: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>> {
        self.network.world.count("snapshot sent");
        self.within(to, Message::Snapshot(head, body), within)
    }
}
