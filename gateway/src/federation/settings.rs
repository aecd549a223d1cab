//! What the federation of one shard is told: one immutable snapshot.

use std::sync::Arc;

use shardgate_proto::catalog::{Pins, Prefix, TaskOffer};
use shardgate_proto::upstream::{Caller, EndpointId, RouteId};

use super::breaker::BreakerSettings;
use crate::pins::Sighting;

/// All tool servers, in the order of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct FederationSettings {
    /// The number of a server's endpoint is also its own, in links and in the catalog.
    pub(crate) servers: Vec<Arc<ServerSettings>>,
    /// The paths beside `/mcp`.
    pub(crate) routes: Vec<RouteSettings>,
    /// What was approved at the start of tools of pinned servers.
    pub(crate) pins: Arc<Pins>,
    /// Who is told what pinned servers list.
    pub(crate) sightings: Option<flume::Sender<Sighting>>,
    /// Entries on one page of a list.
    pub(crate) page_entries: usize,
    /// How tools can be called as tasks of the gateway's; `None` if it makes none.
    pub(crate) tasks: Option<TaskOffer>,
    /// Whether it makes tasks of modern clients' calls.
    pub(crate) modern_tasks: bool,
    /// Seals what modern clients carry between two rounds.
    pub(crate) seal_key: [u8; 16],
    /// The Unix time at which the clock was zero.
    pub(crate) start_unix_ms: u64,
    /// The number of this shard, and how many there are.
    pub(crate) shard: u16,
    pub(crate) shards: u16,
    /// One message of a server.
    pub(crate) message_bytes_max: usize,
    /// Nesting of one message.
    pub(crate) json_depth_max: usize,
}

/// What one path shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteSettings {
    /// Its name in calls.
    pub(crate) route: RouteId,
    /// Whose offers, by their indexes; `None` stands for all servers.
    pub(crate) servers: Option<Vec<u16>>,
    /// Globs over the names clients see: which tools.
    pub(crate) tools_allow: Vec<String>,
    /// And which of those not.
    pub(crate) tools_deny: Vec<String>,
}

/// One tool server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerSettings {
    /// Its name in the configuration.
    pub(crate) name: String,
    /// Where it is, for people: without anything that may be secret.
    pub(crate) shown: String,
    /// Where its links go.
    pub(crate) endpoint: EndpointId,
    /// What is spoken on them.
    pub(crate) wire: WireSettings,
    /// Which eras are tried.
    pub(crate) protocol: Protocol,
    /// How its tools and prompts are named.
    pub(crate) prefix: Prefix,
    /// Globs over its own tool names: what is offered.
    pub(crate) tools_allow: Vec<String>,
    /// And what of that is not.
    pub(crate) tools_deny: Vec<String>,
    /// Whether a tool whose definition has changed is withheld.
    pub(crate) pinned: bool,
    /// When nobody is sent there.
    pub(crate) breaker: BreakerSettings,
    /// Calls under way on this shard.
    pub(crate) in_flight_max: usize,
    /// A call without any sign of life for so long has failed.
    pub(crate) request_timeout_ms: u64,
    /// And after so long, whatever signs of life there are.
    pub(crate) request_lifetime_ms: u64,
    /// A session of ours that nobody has used for so long is ended.
    pub(crate) idle_session_ms: u64,
    /// How often its lists are read anew.
    pub(crate) refresh_ms: u64,
    /// Whether each call of a modern client has a legacy session of its own.
    pub(crate) session_per_modern_call: bool,
    /// Whether each session keeps a stream for what belongs to no call.
    pub(crate) standing_stream: bool,
}

impl ServerSettings {
    /// How long a call may go without any sign of life. Who called a tool as a task expects
    /// it to take its time.
    pub(crate) fn patience_ms(&self, caller: Caller) -> u64 {
        match caller {
            Caller::Task => self.request_lifetime_ms,
            Caller::Session(_) | Caller::Stateless => self.request_timeout_ms,
        }
    }

    /// True if sessions and links made for one serve for the other: what differs concerns
    /// what is shown of the server, or calls to come.
    pub(crate) fn is_reached_like(&self, other: &ServerSettings) -> bool {
        let shown_like = ServerSettings {
            prefix: other.prefix,
            tools_allow: other.tools_allow.clone(),
            tools_deny: other.tools_deny.clone(),
            pinned: other.pinned,
            in_flight_max: other.in_flight_max,
            request_lifetime_ms: other.request_lifetime_ms,
            idle_session_ms: other.idle_session_ms,
            refresh_ms: other.refresh_ms,
            ..self.clone()
        };
        shown_like == *other
    }
}

/// How messages travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WireSettings {
    /// Streamable HTTP.
    Http(HttpSettings),
    /// The standard streams of a child process, a message a line.
    Stdio {
        /// One child for all clients of the shard, instead of one for each.
        shared: bool,
    },
    /// None: the embedded server is a part of the process.
    Inside,
}

/// A Streamable HTTP endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpSettings {
    /// `Host`.
    pub(crate) authority: String,
    /// Path and query.
    pub(crate) path: String,
    /// Header fields of every request. May hold credentials.
    pub(crate) fields: Vec<(String, String)>,
    /// Connections of this shard.
    pub(crate) connections_max: usize,
    pub(crate) connect_timeout_ms: u64,
    pub(crate) idle_connection_ms: u64,
    pub(crate) transport: Transport,
    /// `https` or `http`: an endpoint that the server names must have the same.
    pub(crate) scheme: &'static str,
}

/// Which of MCP's HTTP transports a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Streamable HTTP, and where the server refuses that, HTTP+SSE.
    Auto,
    Streamable,
    /// HTTP+SSE of 2024-11-05.
    Sse,
}

/// Which eras a server is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `server/discover` first, then `initialize`.
    Auto,
    Legacy,
    Modern,
}
