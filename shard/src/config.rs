//! What the runtime is told at start.

use std::net::SocketAddr;

use crate::data_ring::RingSizes;
use crate::operation::CONNECTIONS_PER_SHARD_MAX;
use crate::placement::ShardCount;

/// Configuration of the runtime. All fields have defaults but the listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Addresses to listen at; port 0 takes a free one, the same for all shards. The
    /// position is the [`crate::ListenerId`]; up to
    /// [`crate::LISTENERS_MAX`].
    pub listeners: Vec<SocketAddr>,
    /// How many shards.
    pub shards: ShardCount,
    /// Allows more shards than cpus, for tests. They then share cpus in turn.
    pub share_cpus: bool,
    /// Length of each listen queue. The kernel clamps it to net.core.somaxconn.
    pub backlog: u32,
    /// Sizes of each data ring.
    pub ring: RingSizes,
    /// Data rings a shard may open, one when the others are nearly full: with the slots of
    /// a ring, the connections it can hold.
    pub rings_per_shard_max: u8,
    /// Connections a shard takes, over all its rings.
    pub connections_per_shard_max: u32,
    /// After how long the driver lets the executor's other tasks run, in microseconds. Each
    /// time costs some 10 µs: 5 % at 200, 2 % at 500, 0.5 % at 2,000.
    pub yield_after_us: u64,
    /// How long the driver looks for messages before it sleeps, in microseconds, if
    /// messages have come lately. 0 never spins.
    pub spin_us: u64,
}

impl Default for RuntimeConfig {
    fn default() -> RuntimeConfig {
        RuntimeConfig {
            listeners: Vec::new(),
            shards: ShardCount::Auto,
            share_cpus: false,
            backlog: 4_096,
            ring: RingSizes::default(),
            rings_per_shard_max: 8,
            connections_per_shard_max: CONNECTIONS_PER_SHARD_MAX,
            yield_after_us: 2_000,
            spin_us: 20,
        }
    }
}
