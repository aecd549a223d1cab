//! The control log as the rest of the gateway sees it: commands go in, a state comes out.
//!
//! Everything here lives on the control thread, so nothing is `Send`: a log is shared as
//! `Rc<dyn ControlLog>`.
//!
//! Invariants:
//! - What [`ControlLog::propose`] has resolved with is committed and part of
//!   [`ControlLog::state`].
//! - Changes come in the order of the log, each once, to every subscriber that keeps up.
//! - The state is never borrowed across an await: [`ControlLog::state`] is for a look.

pub mod raft;
mod solo;

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::time::Duration;

use shardgate_replicate_proto::coordinator::{Change, Command, Outcome, State};
use shardgate_replicate_proto::identity::NodeId;
use tokio::sync::broadcast;

pub use solo::Solo;

/// A future of the control thread.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A look at the state. It must end before the next await.
pub type StateRef<'a> = Box<dyn Deref<Target = State> + 'a>;

/// Changes that a subscriber may be behind; one that falls further behind is told so.
pub const CHANGES_BEHIND_MAX: usize = 65_536;

/// Why a proposal came to nothing, or to nobody knows what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was written: the proposal may be made again.
    #[error("the control log takes no commands now ({why}): try again")]
    NotTaken {
        /// What is missing.
        why: String,
    },
    /// It may have been written. Commands are idempotent, so it may be made again.
    #[error("whether the control log has taken the command is unknown ({why}): try again")]
    Unknown {
        /// What happened.
        why: String,
    },
    /// What was proposed makes no sense to this release, or is too large.
    #[error("the control log can't take the commands: {0}")]
    Bad(String),
    /// This node's log has ended.
    #[error("the control log of this node has stopped; the node's log says why")]
    Stopped,
}

/// Why the local state may be older than it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node can't tell whether it knows the latest state ({why}): try again")]
pub struct ReadError {
    /// What is missing.
    pub why: String,
}

/// Why the members were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Only a leader can change them.
    #[error(
        "the control log has no leader now, so its members can't change; try again when a \
         majority of its voters is up"
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

/// What a person wants to know of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogStatus {
    /// This node.
    pub node: NodeId,
    /// What it is in the log.
    pub role: Role,
    /// The term, 0 where there are no elections.
    pub term: u64,
    /// Who leads, as far as this node knows.
    pub leader: Option<NodeId>,
    /// The last entry that this node's log holds, perhaps not committed; 0 if none.
    pub last_index: u64,
    /// The last entry known to be committed; 0 if none.
    pub committed_index: u64,
    /// The last entry that is part of the state; 0 if none.
    pub applied_index: u64,
    /// The last entry in the newest snapshot; 0 if none.
    pub snapshot_index: u64,
    /// Bytes of that snapshot.
    pub snapshot_bytes: usize,
    /// The last entry that is in no file any more; 0 if none.
    pub purged_index: u64,
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Who only learns.
    pub learners: BTreeSet<NodeId>,
    /// Leader only: how long ago a majority last answered.
    pub since_quorum: Option<Duration>,
    /// Why the log has stopped, if it has.
    pub stopped: Option<String>,
}

impl LogStatus {
    /// Whether this node has the leader's duties.
    pub fn is_leader(&self) -> bool {
        self.leader == Some(self.node)
    }
}

/// Changes, in the order of the log.
#[derive(Debug)]
pub struct Changes(broadcast::Receiver<Option<Change>>);

/// What a subscriber gets next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A change.
    Change(Change),
    /// Changes were missed, as many as is said, or the state was replaced by a snapshot (0):
    /// whoever follows them must look at the state as a whole.
    Missed(u64),
    /// The log has stopped.
    Stopped,
}

impl Changes {
    /// The next change; waits for it. May be dropped and called anew without loss.
    pub async fn next(&mut self) -> Next {
        match self.0.recv().await {
            Ok(Some(change)) => Next::Change(change),
            Ok(None) => Next::Missed(0),
            Err(broadcast::error::RecvError::Lagged(missed)) => Next::Missed(missed),
            Err(broadcast::error::RecvError::Closed) => Next::Stopped,
        }
    }
}

/// Where an implementor tells of changes.
#[derive(Clone, Debug)]
pub struct ChangeFeed(broadcast::Sender<Option<Change>>);

impl Default for ChangeFeed {
    fn default() -> ChangeFeed {
        ChangeFeed(broadcast::Sender::new(CHANGES_BEHIND_MAX))
    }
}

impl ChangeFeed {
    /// Tells every subscriber; they need not be there.
    pub fn tell(&self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            // Without subscribers nobody misses it.
            let _ = self.0.send(Some(change));
        }
    }

    /// Tells every subscriber that the state was replaced.
    pub fn tell_everything(&self) {
        // As above.
        let _ = self.0.send(None);
    }

    /// Changes from now on.
    pub fn subscribe(&self) -> Changes {
        Changes(self.0.subscribe())
    }
}

/// A replicated, or at least ordered, sequence of commands and what they come to.
pub trait ControlLog {
    /// Proposes commands as one unit. Resolves when they are committed and applied on this
    /// node, with one outcome per command.
    ///
    /// # Errors
    /// Nobody has taken them, or nobody knows whether somebody has.
    fn propose(
        &self,
        commands: Vec<Command>,
    ) -> LocalBoxFuture<'_, Result<Vec<Outcome>, ProposeError>>;

    /// Resolves when the local state has everything that was committed before the call: what
    /// is read then is linearizable.
    ///
    /// # Errors
    /// There is no leader to ask, or it does not answer.
    fn read_barrier(&self) -> LocalBoxFuture<'_, Result<(), ReadError>>;

    /// The local state. The look must end before the next await.
    fn state(&self) -> StateRef<'_>;

    /// Changes from now on.
    fn subscribe(&self) -> Changes;

    /// How the log is.
    fn status(&self) -> LogStatus;
}
