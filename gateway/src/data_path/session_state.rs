//! What a shard keeps of each session.

use shardgate_proto::clock::Millis;
use shardgate_proto::mcp::session::Session;
use shardgate_proto::upstream::RouteId;
use shardgate_shard::TimerId;

use super::exchange::Exchange;

/// One session of this shard.
#[derive(Debug)]
pub(crate) struct SessionState {
    /// The protocol's state.
    pub(crate) machine: Session<Exchange>,
    /// The path it was opened on; it exists on no other.
    pub(crate) route: RouteId,
    /// What the client said it can do, raw, where its calls may become tasks.
    pub(crate) capabilities: Box<[u8]>,
    /// When the client was last heard of.
    pub(crate) last_active: Millis,
    /// Looks after idleness and old events.
    pub(crate) timer: Option<TimerId>,
}
