//! A node of a cluster: its control log, its links, and what it does for the cluster.
//!
//! All of it runs on one thread, inside a tokio `LocalSet`. What is decided (who is
//! suspected, whose lease is over, what should move where) is decided by machines
//! without I/O; here they get time and messages, and what they decide is proposed.
//!
//! Invariants:
//! - Only the leader proposes fences, ends of leases, and moves, and each of them names the
//!   life, registration or epoch it speaks of: a late one changes nothing.
//! - A node that was fenced registers a new life before it takes part again.

mod carrier;
mod duties;
mod handler;
mod heartbeats;
mod leases;
mod membership;
mod storage;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use openraft_rt_tokio::TokioRuntime;
use shardgate_replicate_proto::coordinator::{Addresses, NodeRegistration, State};
use shardgate_replicate_proto::detector::{Detector, Evidence, Sensitivity};
use shardgate_replicate_proto::identity::{ClusterName, Incarnation, NodeId};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::control_log::raft::{Ground, Member, RaftLog};
use crate::control_log::{LogStatus, MemberError};
use crate::peers::Kind;
use crate::snapshot_store::SnapshotError;
use crate::transport::{
    Endpoint, LinkEvent, LinkSettings, LinkState, Links, OwnIdentity, PeerIdentity, Security,
    Serving, serve,
};
use crate::wal::{Health, Owner, Recovered, WalError};

pub use carrier::{Carrier, ORDERS_MAX};
pub use leases::Leases;
pub use storage::{FileJournal, FileShelf};

/// The feature level of this release.
pub const FEATURE_LEVEL: u32 = 0;

/// A node's control log.
pub type NodeLog = RaftLog<TokioRuntime, Carrier>;

/// What a node is told at its start.
pub struct Settings {
    /// The cluster.
    pub cluster: ClusterName,
    /// This node's number.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub addresses: Addresses,
    /// Its failure domain.
    pub zone: String,
    /// Its region.
    pub region: String,
    /// Its share of the virtual shards.
    pub weight: u32,
    /// Where it keeps its log, snapshots and payloads.
    pub data_dir: PathBuf,
    /// The voters a new cluster begins with; empty: the node waits to be added to one.
    pub voters: BTreeMap<NodeId, Member>,
    /// How links are secured.
    pub security: Security,
    /// How patient links are.
    pub links: LinkSettings,
    /// How the control log behaves.
    pub log: crate::control_log::raft::Settings,
    /// When a silence is suspect.
    pub sensitivity: Sensitivity,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its log.
    #[error("open the control log")]
    Wal(#[source] WalError),
    /// Its snapshots.
    #[error("open the snapshots of the control log")]
    Snapshots(#[source] SnapshotError),
    /// What is in them.
    #[error("start the control log")]
    Log(#[source] std::io::Error),
    /// The listener.
    #[error("listen for peers")]
    Listen(#[source] std::io::Error),
    /// The members.
    #[error("begin the cluster")]
    Begin(#[source] MemberError),
}

/// A node at work. Dropping the last handle ends it.
pub struct Node {
    settings: Settings,
    incarnation: Cell<Incarnation>,
    began: Instant,
    log: NodeLog,
    journal: Arc<FileJournal>,
    links: Rc<Links>,
    serving: RefCell<Option<Serving>>,
    detector: RefCell<Detector>,
    leases: RefCell<Leases>,
    fsyncs: Arc<FsyncTimes>,
    recovered: Recovered,
    reporter: RefCell<Option<Reporter>>,
    tasks: RefCell<Vec<AbortHandle>>,
}

/// What another node is told of this one when it asks: opaque here.
pub type Reporter = Box<dyn Fn() -> Vec<u8>>;

/// How long syncs of the log took, told by its thread.
#[derive(Debug, Default)]
pub struct FsyncTimes {
    count: std::sync::atomic::AtomicU64,
    sum_us: std::sync::atomic::AtomicU64,
    last_us: std::sync::atomic::AtomicU64,
    /// How many took at most 2^n microseconds, by n.
    buckets: [std::sync::atomic::AtomicU64; FSYNC_BUCKETS],
}

/// Powers of two of microseconds: the last holds what took longer than half a minute.
const FSYNC_BUCKETS: usize = 26;

impl FsyncTimes {
    fn note(&self, took: Duration) {
        use std::sync::atomic::Ordering::Relaxed;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Relaxed);
        self.sum_us.fetch_add(micros, Relaxed);
        self.last_us.store(micros, Relaxed);
        let bucket = micros.max(1).next_power_of_two().trailing_zeros() as usize;
        self.buckets[bucket.min(FSYNC_BUCKETS - 1)].fetch_add(1, Relaxed);
    }

    /// Syncs so far, and the microseconds they took together.
    pub fn totals(&self) -> (u64, u64) {
        use std::sync::atomic::Ordering::Relaxed;
        (self.count.load(Relaxed), self.sum_us.load(Relaxed))
    }

    /// Upper bounds in microseconds, with the number of syncs within each alone.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        use std::sync::atomic::Ordering::Relaxed;
        let counts = self.buckets.iter().map(|count| count.load(Relaxed));
        counts.enumerate().map(|(power, count)| (1 << power, count))
    }
}

impl Node {
    /// Starts a node: opens what it has stored and takes part from now on.
    ///
    /// # Errors
    /// What is stored is damaged, another node's or of a newer release; each says what to do.
    pub async fn start(settings: Settings, listener: TcpListener) -> Result<Rc<Node>, StartError> {
        let fsyncs = Arc::<FsyncTimes>::default();
        let (journal, shelf, recovered) = open_storage(&settings, &fsyncs)?;
        let journal = Arc::new(journal);
        // Later than any life before, as long as the clock does not go back; if it did, the
        // registration is refused and says how far this one has to go.
        let incarnation = Incarnation(unix_ms());
        let gate_log: Rc<RefCell<Option<NodeLog>>> = Rc::default();
        let endpoint = Rc::new(endpoint_of(&settings, incarnation, Rc::clone(&gate_log)));
        let (events, heard) = tokio::sync::mpsc::unbounded_channel();
        let links = Rc::new(Links::new(Rc::clone(&endpoint), move |event: LinkEvent| {
            // Nobody listens any more once the node has ended.
            let _ = events.send(event);
        }));
        for (id, member) in settings.voters.iter().filter(|(id, _)| **id != settings.id) {
            links.set_peer(*id, &member.address);
        }
        let ground = Ground {
            journal: Arc::clone(&journal),
            shelf: Arc::new(shelf),
            peers: Carrier::over(&links),
            wall: Arc::new(unix_ms),
            audit: None,
        };
        let empty = State::new(settings.cluster.clone());
        let log = RaftLog::open(settings.id, settings.log.clone(), empty, ground)
            .await
            .map_err(StartError::Log)?;
        *gate_log.borrow_mut() = Some(log.clone());
        let detector = Detector::new(settings.id, settings.sensitivity);
        let node = Rc::new(Node {
            incarnation: Cell::new(incarnation),
            began: Instant::now(),
            log,
            journal,
            links,
            serving: RefCell::default(),
            detector: RefCell::new(detector),
            leases: RefCell::default(),
            fsyncs,
            recovered,
            reporter: RefCell::default(),
            tasks: RefCell::default(),
            settings,
        });
        let handler = Rc::new(handler::NodeHandler::of(&node));
        let serving = serve(listener, endpoint, handler).map_err(StartError::Listen)?;
        *node.serving.borrow_mut() = Some(serving);
        if !node.settings.voters.is_empty() {
            node.log.initialize(node.settings.voters.clone()).await.map_err(StartError::Begin)?;
        }
        node.begin(heartbeats::listen(Rc::downgrade(&node), heard));
        node.begin(heartbeats::run(Rc::downgrade(&node)));
        node.begin(membership::run(Rc::downgrade(&node)));
        node.begin(duties::run(Rc::downgrade(&node)));
        Ok(node)
    }

    fn begin(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.borrow_mut().push(tokio::task::spawn_local(task).abort_handle());
    }

    /// The node's control log.
    pub fn log(&self) -> &NodeLog {
        &self.log
    }

    /// Its number.
    pub fn id(&self) -> NodeId {
        self.settings.id
    }

    /// What it was started with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The life it takes part with now.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation.get()
    }

    /// How long it has been running.
    pub fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// How its log stands.
    pub fn status(&self) -> LogStatus {
        self.log.status()
    }

    /// How the log's disk is.
    pub fn health(&self) -> Health {
        self.journal.health()
    }

    /// Bytes of the log's files, and how many there are.
    pub fn log_size(&self) -> (u64, usize) {
        self.journal.size()
    }

    /// How long syncs took.
    pub fn fsyncs(&self) -> &FsyncTimes {
        &self.fsyncs
    }

    /// What was found on the disk at the start.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Its links to its peers.
    pub fn link_states(&self) -> Vec<LinkState> {
        self.links.states()
    }

    /// Who has connected to it.
    pub fn connected(&self) -> Vec<Rc<PeerIdentity>> {
        self.serving.borrow().as_ref().map(Serving::connected).unwrap_or_default()
    }

    /// Whom it suspects, and why.
    pub fn suspects(&self) -> BTreeMap<NodeId, Evidence> {
        self.detector.borrow().suspects(self.now_ms())
    }

    /// Leases of workers that it keeps as the leader.
    pub fn leases(&self) -> usize {
        self.leases.borrow().len()
    }

    /// What it says of itself when another node asks.
    pub fn set_reporter(&self, reporter: Reporter) {
        *self.reporter.borrow_mut() = Some(reporter);
    }

    /// What a peer says of itself: see [`Node::set_reporter`].
    ///
    /// # Errors
    /// Why there is no answer, as a sentence.
    pub async fn report_of(&self, peer: NodeId, within: Duration) -> Result<Bytes, String> {
        let asked = self.links.request(peer, Kind::Status as u8, Bytes::new(), within);
        asked.await.map_err(|error| error.to_string())
    }

    /// Milliseconds of a clock that never goes back.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).expect("a node runs less than ages")
    }

    fn registration(&self) -> NodeRegistration {
        let settings = &self.settings;
        NodeRegistration {
            id: settings.id,
            name: settings.name.as_str().into(),
            incarnation: self.incarnation.get(),
            addresses: settings.addresses.clone(),
            zone: settings.zone.as_str().into(),
            region: settings.region.as_str().into(),
            weight: settings.weight,
            feature_level: FEATURE_LEVEL,
        }
    }

    /// Hands leadership on, if it has it, and ends its part. What it proposed is finished.
    pub async fn stop(&self) {
        self.hand_leadership_on().await;
        for task in self.tasks.take() {
            task.abort();
        }
        self.log.shutdown().await;
        drop(self.serving.take());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for task in self.tasks.take() {
            task.abort();
        }
    }
}

fn open_storage(
    settings: &Settings,
    fsyncs: &Arc<FsyncTimes>,
) -> Result<(FileJournal, FileShelf, Recovered), StartError> {
    let cluster = settings.cluster.as_str();
    let owner = Owner { cluster: cluster.to_owned(), node: settings.id.0 };
    let noted = Arc::clone(fsyncs);
    let on_sync = Box::new(move |took| noted.note(took));
    let (journal, recovered) = FileJournal::open(&settings.data_dir.join("log"), owner, on_sync)
        .map_err(StartError::Wal)?;
    let shelf = FileShelf::open(&settings.data_dir.join("snapshots"), cluster, &journal)
        .map_err(StartError::Snapshots)?;
    Ok((journal, shelf, recovered))
}

fn endpoint_of(
    settings: &Settings,
    incarnation: Incarnation,
    log: Rc<RefCell<Option<NodeLog>>>,
) -> Endpoint {
    let own = OwnIdentity {
        cluster: settings.cluster.as_str().to_owned(),
        node: settings.id,
        name: settings.name.clone(),
        incarnation,
    };
    let gate = Rc::new(membership::gate(log));
    Endpoint::new(own, settings.security.clone(), settings.links.clone(), gate)
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
