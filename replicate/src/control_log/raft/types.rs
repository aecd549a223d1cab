//! What openraft is told of the control log: the types of its entries, answers and members.
//!
//! All are generic over openraft's `AsyncRuntime`, so that a simulator runs the same
//! code in virtual time.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use openraft::alias::{LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use openraft::async_runtime::AsyncRuntime;
use openraft::vote::RaftLeaderId;
use openraft::{OptionalSend, RaftTypeConfig};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use shardgate_replicate_proto::coordinator::Outcome;

/// The control log's types over the runtime `RT`.
pub(super) struct LogTypes<RT>(PhantomData<fn() -> RT>);

/// A place in the log.
pub(super) type LogId<RT> = LogIdOf<LogTypes<RT>>;

/// A vote.
pub(super) type Vote<RT> = VoteOf<LogTypes<RT>>;

/// The members, and the entry that made them so.
pub(super) type StoredMembers<RT> = StoredMembershipOf<LogTypes<RT>>;

/// Up to where a snapshot goes, and who the members were.
pub(super) type SnapshotMeta<RT> = SnapshotMetaOf<LogTypes<RT>>;

/// One entry of the log.
pub(super) type Entry<RT> = <LogTypes<RT> as RaftTypeConfig>::Entry;

/// The engine.
pub(super) type Engine<RT> = openraft::Raft<LogTypes<RT>, super::machine::Machine<RT>>;

/// A member of the control log, as Raft's membership keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node's name.
    pub name: String,
    /// Where its peers reach it: `host:port`.
    pub address: String,
}

/// One entry's commands: a `Batch` in its stored form, which is made once and never re-made.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proposal(pub(super) Bytes);

/// What the commands of one entry came to, in their order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Applied(pub(super) Vec<Outcome>);

impl<RT: AsyncRuntime> RaftTypeConfig for LogTypes<RT> {
    type D = Proposal;
    type R = Applied;
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    // One leader per term, as in the Raft paper (section 5.2), so that a term names its leader.
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Self::D, Self::NodeId, Self::Node>;
    type Entry = openraft::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = RT;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

impl<RT> Clone for LogTypes<RT> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<RT> Copy for LogTypes<RT> {}

impl<RT> Default for LogTypes<RT> {
    fn default() -> Self {
        LogTypes(PhantomData)
    }
}

impl<RT> fmt::Debug for LogTypes<RT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogTypes")
    }
}

impl<RT> PartialEq for LogTypes<RT> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<RT> Eq for LogTypes<RT> {}

impl<RT> PartialOrd for LogTypes<RT> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<RT> Ord for LogTypes<RT> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.address)
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outcomes of {} commands", self.0.len())
    }
}

// serde's own form of a byte slice is a sequence of numbers, one call for each.
impl Serialize for Proposal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Proposal, D::Error> {
        struct Raw;
        impl Visitor<'_> for Raw {
            type Value = Proposal;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of a batch of commands")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Proposal, E> {
                Ok(Proposal(Bytes::copy_from_slice(bytes)))
            }
        }
        deserializer.deserialize_bytes(Raw)
    }
}
