//! The names by which shards, connections and listeners are told apart.
//!
//! Invariant: a [`ConnId`] never names two connections. Its index is used again
//! after the connection is gone, its generation is not (it wraps after 2^32 uses
//! of one index, by which time no completion of the first use can be left).

use std::fmt;

/// One shard of the process, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

/// One of the configured listeners, in the order of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u8);

impl ListenerId {
    /// In the connection table: the connection came by no listener, this side connected.
    pub(crate) const OUTGOING: ListenerId = ListenerId(u8::MAX);
}

/// Listeners a runtime may have: all numbers but `ListenerId::OUTGOING`.
pub const LISTENERS_MAX: usize = u8::MAX as usize;

/// One connection of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId {
    index: u32,
    generation: u32,
}

impl ConnId {
    pub(crate) const fn new(index: u32, generation: u32) -> ConnId {
        ConnId { index, generation }
    }

    /// A number that is dense per shard and used again after the connection is
    /// gone: a service keeps its own state in a vector by it.
    pub const fn index(self) -> usize {
        self.index as usize
    }

    /// Tells apart the connections that had the same [`ConnId::index`].
    pub const fn generation(self) -> u32 {
        self.generation
    }

    pub(crate) const fn index_u32(self) -> u32 {
        self.index
    }
}

/// Who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A shard over the mesh (a shard may write to itself).
    Shard(ShardId),
    /// The control thread, through [`crate::Handle::send`].
    Control,
}

impl Origin {
    /// The shard that sent what only shards send.
    pub(crate) fn shard(self) -> ShardId {
        match self {
            Origin::Shard(shard) => shard,
            Origin::Control => unreachable!("the control thread sends no such envelope"),
        }
    }
}
