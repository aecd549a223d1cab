//! What nodes send each other, and what carries it.
//!
//! [`Peers`] carries bytes: over TCP on a node, over virtual links in the simulator.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use shardgate_replicate_proto::identity::NodeId;

/// What a message is, on the wire. Numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Entries, or a heartbeat.
    Append = 1,
    /// A candidate's request.
    Vote = 2,
    /// A request that changes nothing: would you vote for me?
    PreVote = 3,
    /// A whole snapshot; its head is the body here.
    Snapshot = 4,
    /// Leadership is handed on.
    TransferLeader = 5,
    /// Commands for the leader.
    Propose = 6,
    /// Up to where must be applied what is read now?
    ReadIndex = 7,
    /// A change of the members, for the leader.
    Members = 8,
    /// A sign of life, and whom the sender misses.
    Heartbeat = 16,
    /// A worker's sign of life, for the leader.
    WorkerBeat = 17,
    /// How is it with you?
    Status = 18,
    /// A part of a file that is kept by its hash.
    Blob = 19,
}

impl Kind {
    /// The kind of this number.
    pub fn of(number: u8) -> Option<Kind> {
        let all = [
            Kind::Append,
            Kind::Vote,
            Kind::PreVote,
            Kind::Snapshot,
            Kind::TransferLeader,
            Kind::Propose,
            Kind::ReadIndex,
            Kind::Members,
            Kind::Heartbeat,
            Kind::WorkerBeat,
            Kind::Status,
            Kind::Blob,
        ];
        all.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// Why a peer did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There is no connection and none can be made.
    #[error("{0}")]
    Unreachable(String),
    /// No answer in time. Whether the request was carried out is unknown.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The connection broke, or the peer could not do it.
    #[error("{0}")]
    Failed(String),
}

/// What carries messages to peers.
pub trait Peers: Clone + Send + Sync + 'static {
    /// Sends a request and waits for its answer.
    fn call(
        &self,
        to: NodeId,
        kind: Kind,
        body: Bytes,
        within: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>>;

    /// Sends a message that nobody answers and that may be lost.
    fn tell(&self, to: NodeId, kind: Kind, body: Bytes);

    /// Sends a snapshot, apart from other messages, and waits for its answer.
    fn send_snapshot(
        &self,
        to: NodeId,
        head: Bytes,
        body: Bytes,
        within: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CallError>>;
}
