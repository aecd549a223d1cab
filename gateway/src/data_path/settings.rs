//! What a shard was told at its start: one immutable snapshot.

use std::sync::Arc;

use shardgate_proto::http1::Limits as HttpLimits;
use shardgate_proto::jsonrpc::ScanLimits;
use shardgate_proto::mcp::session::SessionLimits;
use shardgate_proto::mcp::session_id::SessionIds;

use crate::config::{AllowedHosts, AllowedOrigins};
use crate::routes::Routes;
use crate::tasks::TaskDoor;

/// Settings of the data path; times in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) ids: SessionIds,
    pub(crate) routes: Arc<Routes>,
    pub(crate) hosts: AllowedHosts,
    pub(crate) origins: AllowedOrigins,
    pub(crate) http: HttpLimits,
    pub(crate) json: ScanLimits,
    /// How calls become tasks; `None` if they never do.
    pub(crate) tasks: Option<TaskDoor>,
    pub(crate) session: SessionLimits,
    /// Sessions on this shard.
    pub(crate) sessions_max: usize,
    /// Connections on this shard.
    pub(crate) connections_max: usize,
    pub(crate) idle_session_ms: u64,
    pub(crate) idle_connection_ms: u64,
    pub(crate) header_timeout_ms: u64,
    pub(crate) body_timeout_ms: u64,
    /// After this long without an answer, a call's answer becomes a stream.
    pub(crate) answer_patience_ms: u64,
    pub(crate) heartbeat_ms: u64,
    /// What streams that end early tell the client to wait.
    pub(crate) sse_retry_ms: u64,
    pub(crate) slow_reader_bytes_max: usize,
    /// While draining, how long an idle connection may still bring a request.
    pub(crate) drain_linger_ms: u64,
}

impl Settings {
    /// The share of one of `shards` shards in what is bounded for the node.
    pub(crate) fn for_one_of(&self, shards: usize) -> Settings {
        let share = |max: usize| max.div_ceil(shards);
        Settings {
            sessions_max: share(self.sessions_max),
            connections_max: share(self.connections_max),
            ..self.clone()
        }
    }
}
