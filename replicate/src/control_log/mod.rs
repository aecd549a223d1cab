//! The control log: what the whole cluster agrees on, in one order.

mod feed;
pub mod raft;

use std::collections::BTreeSet;
use std::time::Duration;

use shardgate_replicate_proto::identity::NodeId;

pub use feed::{Feed, NEWS_WAITING_MAX, News};

/// Why a proposal is not known to be committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node is not the leader, and was asked as if it were.
    #[error("this node is not the control log's leader{}", named(leader.as_ref()))]
    NotLeader {
        /// Who is, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// It may or may not be committed later. Commands are idempotent: propose them again.
    #[error(
        "the control log did not confirm the commands within {within:?}; they may still be committed. \
         Is a majority of the cluster's voters up? See `shardgate cluster status`"
    )]
    Unknown {
        /// How long was waited.
        within: Duration,
    },
    /// Too many wait.
    #[error("{waiting} proposals wait for the control log already; try again later")]
    Busy {
        /// The bound.
        waiting: usize,
    },
    /// What was proposed makes no sense to this release.
    #[error("the control log cannot take the commands: {0}")]
    Bad(String),
    /// The node shuts down, or its log has failed.
    #[error("this node's control log has stopped; the node's log says why")]
    Stopped,
}

impl ProposeError {
    fn bad(error: &impl ToString) -> ProposeError {
        ProposeError::Bad(error.to_string())
    }
}

/// Why a linearizable read is not possible now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This node is not the leader, and was asked as if it were.
    #[error("this node is not the control log's leader{}", named(leader.as_ref()))]
    NotLeader {
        /// Who is, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// Nobody could confirm what is committed.
    #[error(
        "no leader of the control log confirmed what is committed within {within:?}. \
         Is a majority of the cluster's voters up? See `shardgate cluster status`"
    )]
    NoLeader {
        /// How long was waited.
        within: Duration,
    },
    /// This node lags.
    #[error(
        "this node has applied the control log up to {applied}, not yet {index}, after {within:?}; try again later"
    )]
    Behind {
        /// What is committed.
        index: u64,
        /// What is applied here.
        applied: u64,
        /// How long was waited.
        within: Duration,
    },
    /// The node shuts down, or its log has failed.
    #[error("this node's control log has stopped; the node's log says why")]
    Stopped,
}

/// Why the members were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Only a leader can change them.
    #[error(
        "the control log has no leader now, so its members cannot change; try again when a majority is up"
    )]
    NoLeader,
    /// The engine's or the leader's reason.
    #[error("{0}")]
    Refused(String),
}

/// What a node is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Gets every entry, does not vote.
    Learner,
    /// Votes and follows.
    Follower,
    /// Stands for election.
    Candidate,
    /// Proposes.
    Leader,
    /// Takes no part any more.
    Stopped,
}

/// How a node's log stands.
#[derive(Clone, Debug, PartialEq)]
pub struct LogStatus {
    /// Whose.
    pub node: NodeId,
    /// What it is.
    pub role: Role,
    /// Raft's term.
    pub term: u64,
    /// The leader it knows of.
    pub leader: Option<NodeId>,
    /// Its last entry, perhaps not committed.
    pub last_index: u64,
    /// The last entry it knows to be committed.
    pub committed_index: u64,
    /// The last entry that is in its state.
    pub applied_index: u64,
    /// The last entry in its newest snapshot.
    pub snapshot_index: u64,
    /// Bytes of that snapshot.
    pub snapshot_bytes: usize,
    /// The last entry that is in no file any more.
    pub purged_index: u64,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Who only learns.
    pub learners: BTreeSet<NodeId>,
    /// Leader only: how long ago a majority last answered.
    pub since_quorum: Option<Duration>,
    /// Why it has stopped, if it has.
    pub stopped: Option<String>,
}

fn named(leader: Option<&NodeId>) -> String {
    leader.map(|leader| format!("; node {leader} is")).unwrap_or_default()
}
