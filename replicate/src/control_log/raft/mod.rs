//! The control log over openraft.
//!
//! Generic over openraft's runtime, the journal and what carries messages: a node
//! runs it on tokio, files and TCP; the simulator on virtual ones.

mod journal;
mod machine;
mod network;
mod proposing;
mod reading;
mod types;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::AsyncRuntime;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::raft::TransferLeaderRequest;
use openraft::storage::Snapshot;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::InstantOf;
use openraft::{ChangeMembers, Config, SnapshotPolicy};
use serde::{Deserialize, Serialize};
use shardgate_replicate_proto::coordinator::{Batch, Command, Outcome, State};
use shardgate_replicate_proto::identity::NodeId;

pub use journal::{Done, Found, Journal, RECENT_BYTES_MAX, RECENT_ENTRIES_MAX, StoredEntry, Write};
pub use machine::Shelf;
pub use proposing::{
    COMMANDS_PER_ENTRY_MAX, Committed, ENTRIES_IN_FLIGHT_MAX, ENTRY_BYTES_MAX,
    PROPOSALS_WAITING_MAX,
};
pub use reading::READERS_WAITING_MAX;
pub use types::Member;

use self::journal::{LogStore, decode, encode, lock};
use self::machine::Machine;
use self::network::{Network, SnapshotHead, Transfer, node_id};
use self::types::{Engine, LogTypes};
use super::{
    Changes, ControlLog, LocalBoxFuture, LogStatus, MemberError, ProposeError, ReadError, Role,
    StateRef,
};
use crate::peers::{Kind, Peers};

/// How the control log behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster's name.
    pub cluster: String,
    /// How often the leader shows that it is there.
    pub heartbeat: Duration,
    /// After how long without a sign of the leader a node stands for election, at least.
    pub election_min: Duration,
    /// And at most.
    pub election_max: Duration,
    /// Entries after which a new snapshot is made.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot, for followers that are a little late.
    pub entries_kept: u64,
    /// Commands that travel in one entry, at most [`COMMANDS_PER_ENTRY_MAX`].
    pub commands_per_entry: usize,
    /// How long a proposal may take.
    pub propose_within: Duration,
    /// How long a read may wait for the leader, and again for the local state.
    pub read_within: Duration,
    /// Has the last word on what the engine is told. Only simulations and experiments need it.
    pub engine: fn(&mut Config),
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            cluster: "shardgate".to_owned(),
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            snapshot_every: 20_000,
            entries_kept: 5_000,
            commands_per_entry: COMMANDS_PER_ENTRY_MAX,
            propose_within: Duration::from_secs(10),
            read_within: Duration::from_secs(5),
            engine: |_| (),
        }
    }
}

/// Tells the time of day in milliseconds since 1970.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Is shown every entry with commands when this node applies it: its index, its commands
/// and what they came to.
pub type Audit = Arc<dyn Fn(u64, &Batch, &[Outcome]) + Send + Sync>;

/// What a node's log stands on.
pub struct Ground<J, P> {
    /// Where entries are kept.
    pub journal: Arc<J>,
    /// Where snapshots are kept.
    pub shelf: Arc<dyn Shelf>,
    /// What carries messages.
    pub peers: P,
    /// The time of day.
    pub wall: WallClock,
    /// Who looks on.
    pub audit: Option<Audit>,
}

/// One node's control log. Clones are handles to the same log.
pub struct RaftLog<RT: AsyncRuntime, P> {
    inner: Arc<Inner<RT, P>>,
}

struct Inner<RT: AsyncRuntime, P> {
    own: NodeId,
    settings: Settings,
    engine: Engine<RT>,
    machine: Machine<RT>,
    peers: P,
    proposals: proposing::Queue<RT>,
    reads: reading::Queue<RT>,
    wall: WallClock,
    time: Mutex<LogTime<RT>>,
}

/// The leader's idea of time: taken from the wall once per term, then counted, so that
/// a jump of the wall clock neither ends leases nor stretches them.
struct LogTime<RT: AsyncRuntime> {
    term: u64,
    base_ms: u64,
    since: InstantOf<LogTypes<RT>>,
}

impl<RT: AsyncRuntime, P> Clone for RaftLog<RT, P> {
    fn clone(&self) -> Self {
        RaftLog { inner: Arc::clone(&self.inner) }
    }
}

/// A change of the members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// A node that gets every entry and does not vote.
    AddLearner(u16, Member),
    /// A learner that is to vote.
    Promote(u16),
    /// A voter that shall only learn.
    Demote(u16),
    /// A node that is no member any more.
    Remove(u16),
}

impl<RT: AsyncRuntime, P: Peers> RaftLog<RT, P> {
    /// Opens the log of node `own` and takes part in the cluster from now on.
    ///
    /// `empty` is the state of a cluster without entries.
    ///
    /// # Errors
    /// If what is stored cannot be read.
    pub async fn open(
        own: NodeId,
        settings: Settings,
        empty: State,
        ground: Ground<impl Journal, P>,
    ) -> io::Result<RaftLog<RT, P>> {
        let Ground { journal, shelf, peers, wall, audit } = ground;
        let store = LogStore::<RT, _>::open(journal)?;
        let machine = Machine::<RT>::open(empty, shelf, audit)?;
        let config = engine_config(&settings)?;
        let network = Network { own, peers: peers.clone() };
        let engine =
            Engine::<RT>::new(u64::from(own.0), Arc::new(config), network, store, machine.clone())
                .await
                .map_err(|error| io::Error::other(error.to_string()))?;
        let (proposals, proposed) = LogTypes::<RT>::mpsc(PROPOSALS_WAITING_MAX);
        let (reads, readers) = LogTypes::<RT>::mpsc(READERS_WAITING_MAX);
        let time = LogTime { term: 0, base_ms: 0, since: LogTypes::<RT>::now() };
        let time = Mutex::new(time);
        let inner =
            Arc::new(Inner { own, settings, engine, machine, peers, proposals, reads, wall, time });
        // Both end with the last handle.
        drop(LogTypes::<RT>::spawn(proposing::run(Arc::downgrade(&inner), proposed)));
        drop(LogTypes::<RT>::spawn(reading::run(Arc::downgrade(&inner), readers)));
        Ok(RaftLog { inner })
    }

    /// Begins a cluster with these voters, unless there is one already. Every voter may do
    /// so, with the same list.
    ///
    /// # Errors
    /// If the log has stopped or the list does not contain this node.
    pub async fn initialize(&self, voters: BTreeMap<NodeId, Member>) -> Result<(), MemberError> {
        let voters: BTreeMap<u64, Member> =
            voters.into_iter().map(|(id, member)| (u64::from(id.0), member)).collect();
        match self.inner.engine.initialize(voters).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(MemberError::Refused(error.to_string())),
        }
    }

    /// Reads the state as it is here and now. After [`RaftLog::read_barrier`] that is linearizable.
    pub fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        self.inner.machine.read(look)
    }

    /// Reads the state, and up to which entry it goes.
    pub fn read_at<R>(&self, look: impl FnOnce(&State, u64) -> R) -> R {
        self.inner.machine.read_at(look)
    }

    /// What happens from now on.
    pub fn subscribe(&self) -> Changes {
        self.inner.machine.subscribe()
    }

    /// The leader this node knows of.
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.engine.metrics().borrow_watched().current_leader.map(node_id)
    }

    /// All members, voters and learners, and where they are.
    pub fn members(&self) -> BTreeMap<NodeId, Member> {
        let metrics = self.inner.engine.metrics();
        let metrics = metrics.borrow_watched();
        let nodes = metrics.membership_config.membership().nodes();
        nodes.map(|(id, member)| (node_id(*id), member.clone())).collect()
    }

    /// How the log stands.
    pub fn status(&self) -> LogStatus {
        let metrics = self.inner.engine.metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.membership();
        let acked = metrics.last_quorum_acked.as_ref().map(|at| elapsed::<RT>(**at));
        LogStatus {
            node: self.inner.own,
            role: role(metrics.state),
            term: metrics.current_term,
            leader: metrics.current_leader.map(node_id),
            last_index: metrics.last_log_index.unwrap_or(0),
            committed_index: metrics.cluster_committed.map_or(0, |id| id.index),
            applied_index: metrics.last_applied.map_or(0, |id| id.index),
            snapshot_index: metrics.snapshot.map_or(0, |id| id.index),
            snapshot_bytes: self.inner.machine.snapshot_bytes(),
            purged_index: metrics.purged.map_or(0, |id| id.index),
            voters: members.voter_ids().map(node_id).collect(),
            learners: members.learner_ids().map(node_id).collect(),
            since_quorum: acked,
            stopped: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }

    /// Changes the members, here or through the leader.
    ///
    /// # Errors
    /// If there is no leader, another change is under way, or the engine refuses the change.
    pub async fn change_members(&self, change: &MemberChange) -> Result<(), MemberError> {
        let leader = self.leader().ok_or(MemberError::NoLeader)?;
        if leader == self.inner.own {
            return self.change_members_here(change).await;
        }
        let body = encode(change).map_err(|error| MemberError::Refused(error.to_string()))?;
        let within = self.inner.settings.propose_within;
        let answer = self.inner.peers.call(leader, Kind::Members, body.into(), within).await;
        answer.map(|_| ()).map_err(|error| MemberError::Refused(error.to_string()))
    }

    async fn change_members_here(&self, change: &MemberChange) -> Result<(), MemberError> {
        let engine = &self.inner.engine;
        let changed = match change {
            MemberChange::AddLearner(id, member) => {
                engine.add_learner(u64::from(*id), member.clone(), false).await
            }
            MemberChange::Promote(id) => {
                engine
                    .change_membership(ChangeMembers::AddVoterIds([u64::from(*id)].into()), true)
                    .await
            }
            MemberChange::Demote(id) => {
                engine
                    .change_membership(ChangeMembers::RemoveVoters([u64::from(*id)].into()), true)
                    .await
            }
            MemberChange::Remove(id) => self.remove(u64::from(*id)).await,
        };
        changed.map(|_| ()).map_err(|error| MemberError::Refused(error.to_string()))
    }

    async fn remove(
        &self,
        id: u64,
    ) -> Result<
        openraft::raft::ClientWriteResponse<LogTypes<RT>>,
        RaftError<LogTypes<RT>, openraft::errors::ClientWriteError<LogTypes<RT>>>,
    > {
        let engine = &self.inner.engine;
        if engine.voter_ids().any(|voter| voter == id) {
            return engine.change_membership(ChangeMembers::RemoveVoters([id].into()), false).await;
        }
        engine.change_membership(ChangeMembers::RemoveNodes([id].into()), false).await
    }

    /// Hands leadership to a peer, if this node has it.
    ///
    /// # Errors
    /// If the log has stopped.
    pub async fn hand_leadership_to(&self, to: NodeId) -> Result<(), MemberError> {
        let handed = self.inner.engine.trigger().transfer_leader(u64::from(to.0)).await;
        handed.map_err(|error| MemberError::Refused(error.to_string()))
    }

    /// Makes a snapshot now.
    ///
    /// # Errors
    /// If the log has stopped.
    pub async fn snapshot_now(&self) -> Result<(), MemberError> {
        let asked = self.inner.engine.trigger().snapshot().await;
        asked.map_err(|error| MemberError::Refused(error.to_string()))
    }

    /// Ends this node's part.
    pub async fn shutdown(&self) {
        // An engine that panicked has ended too.
        let _ = self.inner.engine.shutdown().await;
    }

    /// The leader's time for what it proposes, which never goes back.
    pub fn log_time_ms(&self) -> u64 {
        let term = self.inner.engine.metrics().borrow_watched().current_term;
        let mut time = lock(&self.inner.time);
        if time.term != term || time.base_ms == 0 {
            let known = self.read(State::now_ms);
            let base_ms = (self.inner.wall)().max(known);
            *time = LogTime { term, base_ms, since: LogTypes::<RT>::now() };
        }
        let passed = elapsed::<RT>(time.since).as_millis();
        time.base_ms + u64::try_from(passed).expect("a term lasts less than ages")
    }

    /// Answers a peer's message.
    ///
    /// # Errors
    /// A sentence for the peer.
    pub async fn handle(&self, kind: Kind, body: &[u8]) -> Result<Bytes, String> {
        let engine = &self.inner.engine;
        match kind {
            Kind::Append => {
                let answer = engine.append_entries(request("entries", body)?).await;
                reply(&answer.map_err(|error| error.to_string())?)
            }
            Kind::Vote => reply(
                &engine.vote(request("a vote", body)?).await.map_err(|error| error.to_string())?,
            ),
            Kind::PreVote => reply(
                &engine
                    .pre_vote(request("a vote", body)?)
                    .await
                    .map_err(|error| error.to_string())?,
            ),
            Kind::TransferLeader => {
                let transfer: Transfer<RT> = request("a hand-over", body)?;
                let transfer =
                    TransferLeaderRequest::new(transfer.from, transfer.to, transfer.last);
                let answer = engine.handle_transfer_leader(transfer).await;
                reply(&answer.map_err(|error| error.to_string())?)
            }
            Kind::Propose => self.propose_for_peer(body).await.map_err(|error| error.to_string()),
            Kind::ReadIndex => self.read_index_for_peer().await.map_err(|error| error.to_string()),
            Kind::Members => {
                let change = request("a change of members", body)?;
                self.change_members_here(&change).await.map_err(|error| error.to_string())?;
                Ok(Bytes::new())
            }
            Kind::Snapshot | Kind::Heartbeat | Kind::WorkerBeat | Kind::Status | Kind::Blob => {
                Err(format!("a message of kind {kind:?} is no request to the control log"))
            }
        }
    }

    /// Takes a snapshot a leader sent.
    ///
    /// # Errors
    /// A sentence for the leader.
    pub async fn handle_snapshot(&self, head: &[u8], body: Bytes) -> Result<Bytes, String> {
        let head: SnapshotHead<RT> = request("a snapshot's head", head)?;
        // Looked at before the engine sees it: what cannot be restored must not replace what is there.
        State::from_snapshot(&body).map_err(|error| error.to_string())?;
        let snapshot = Snapshot { meta: head.meta, snapshot: body };
        let answer = self.inner.engine.install_full_snapshot(head.vote, snapshot).await;
        reply(&answer.map_err(|error| error.to_string())?)
    }
}

fn request<T: serde::de::DeserializeOwned>(what: &str, body: &[u8]) -> Result<T, String> {
    decode(what, body).map_err(|error| error.to_string())
}

fn reply<T: Serialize>(answer: &T) -> Result<Bytes, String> {
    encode(answer).map(Bytes::from).map_err(|error| error.to_string())
}

fn elapsed<RT: AsyncRuntime>(since: InstantOf<LogTypes<RT>>) -> Duration {
    use openraft::async_runtime::Instant;
    since.elapsed()
}

fn not_leader(leader: Option<NodeId>) -> String {
    let known = leader.map(|leader| format!("; node {leader} is")).unwrap_or_default();
    format!("this node is not the control log's leader{known}")
}

fn role(state: openraft::ServerState) -> Role {
    match state {
        openraft::ServerState::Learner => Role::Learner,
        openraft::ServerState::Follower => Role::Follower,
        openraft::ServerState::Candidate => Role::Candidate,
        openraft::ServerState::Leader => Role::Leader,
        openraft::ServerState::Shutdown => Role::Stopped,
    }
}

fn engine_config(settings: &Settings) -> io::Result<Config> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut config = Config {
        cluster_name: settings.cluster.clone(),
        heartbeat_interval: millis(settings.heartbeat),
        election_timeout_min: millis(settings.election_min),
        election_timeout_max: millis(settings.election_max),
        install_snapshot_timeout: 30_000,
        max_payload_entries: 256,
        replication_lag_threshold: settings.entries_kept.max(1),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(settings.snapshot_every),
        max_in_snapshot_log_to_keep: settings.entries_kept,
        // A node that was cut off must not force an election when it comes back
        // (Ongaro's dissertation, section 9.6).
        enable_pre_vote: Some(true),
        // A leader sends entries to followers while its own disk still writes them. One that
        // came back as the leader of the same term after losing them would give their places
        // to others; the simulator showed nodes that disagreed.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    (settings.engine)(&mut config);
    config.validate().map_err(|error| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the control log's times do not fit together: {error}"),
        )
    })
}

impl<RT: AsyncRuntime, P: Peers> ControlLog for RaftLog<RT, P> {
    fn propose(
        &self,
        commands: Vec<Command>,
    ) -> LocalBoxFuture<'_, Result<Vec<Outcome>, ProposeError>> {
        Box::pin(async move { Ok(RaftLog::propose(self, commands).await?.outcomes) })
    }

    fn read_barrier(&self) -> LocalBoxFuture<'_, Result<(), ReadError>> {
        Box::pin(RaftLog::read_barrier(self))
    }

    fn state(&self) -> StateRef<'_> {
        self.inner.machine.look()
    }

    fn subscribe(&self) -> Changes {
        RaftLog::subscribe(self)
    }

    fn status(&self) -> LogStatus {
        RaftLog::status(self)
    }
}
