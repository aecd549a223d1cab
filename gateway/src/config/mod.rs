//! The configuration: one TOML file, a few flags and variables, and defaults for all the rest.
//!
//! Precedence: command line > environment (`SHARDGATE_*`) > file > default. The
//! first two arrive here together as [`Overrides`], for clap merges them.
//!
//! Invariants:
//! - Every [`Config`] that [`Config::load`] returns has passed every check of `validate`.
//! - Every key is listed in `keys` with its default, its range and its meaning;
//!   the reference in `docs/configuration.md` is rendered from that table.
//! - A `Config` says where to find a secret. Where users put one into the file all the same
//!   (headers, variables, URLs), neither `Debug` nor a message shows it.

mod allow;
mod cluster;
mod fault;
mod file;
mod header;
mod hidden;
pub mod keys;
mod pattern;
mod route;
mod secret;
mod source;
mod upstream;
mod upstream_table;
mod url;
mod validate;
mod value;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use allow::{AllowedHosts, AllowedOrigins};
pub use cluster::{Cluster, ClusterTls, VoterEntry};
pub use file::{ConfigError, Place, Problem};
pub use hidden::HiddenText;
pub use pattern::{NameFilter, NamePattern, PATTERNS_MAX};
pub use route::{ROUTES_MAX, RouteConfig, RoutePath};
pub use secret::{SECRET_BYTES_MIN, Secret, SecretError};
pub use source::{CA_FILE_BYTES_MAX, SourceError, SourceFault, VALUE_FILE_BYTES_MAX};
pub use upstream::{
    HeaderConfig, HttpTransport, HttpUpstream, ModernSessions, Prefix, Sharing, StdioUpstream,
    UPSTREAMS_MAX, UpstreamConfig, UpstreamKind, UpstreamLimits, UpstreamName, UpstreamProtocol,
    ValueSource,
};
pub use url::{HttpUrl, Scheme, URL_BYTES_MAX};
pub(crate) use value::parse_address;
pub use value::{LogFormat, LogLevels, NodeName, ShardCount};

/// All settings of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[node]`
    pub node: Node,
    /// `[listen]`
    pub listen: Listen,
    /// `[admin]`
    pub admin: Admin,
    /// `[shards]`
    pub shards: Shards,
    /// `[ring]`
    pub ring: Ring,
    /// `[limits]`
    pub limits: Limits,
    /// `[session]`
    pub session: Session,
    /// `[[upstream]]`, at most [`UPSTREAMS_MAX`].
    pub upstream: Vec<UpstreamConfig>,
    /// `[[route]]`, at most [`ROUTES_MAX`].
    pub route: Vec<RouteConfig>,
    /// `[catalog]`
    pub catalog: Catalog,
    /// `[embedded]`
    pub embedded: Embedded,
    /// `[tasks]`
    pub tasks: Tasks,
    /// `[cluster]`; `None`: the node is alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// `[log]`
    pub log: Log,
}

/// Who this node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Begins every session id made here, so a load balancer can route by it.
    pub name: NodeName,
}

/// Where clients connect, and what they may call us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// One or more addresses, at most [`LISTENERS_MAX`].
    #[serde(deserialize_with = "value::one_or_more_addresses")]
    pub address: Vec<SocketAddr>,
    /// Accepted `Host` names; `None` means the loopback names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_hosts: Option<Vec<String>>,
    /// Accepted `Origin` values; `None` means loopback origins, or none at all elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_origins: Option<Vec<String>>,
}

/// More listeners than this are refused: each costs a socket per shard.
pub const LISTENERS_MAX: usize = 16;

/// The admin server: metrics, status, web page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Its address. It has no login yet, so keep it on loopback or a closed network.
    #[serde(deserialize_with = "value::address")]
    pub address: SocketAddr,
    /// Accepted `Host` names; `None` means the loopback names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_hosts: Option<Vec<String>>,
}

/// How many cores work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shards {
    /// `"auto"` takes every cpu the process may use.
    pub count: ShardCount,
}

/// Sizes of each shard's data ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ring {
    /// Submission queue entries, a power of two.
    pub submission_entries: u32,
    /// Completion queue entries, a power of two, not fewer than submissions.
    pub completion_entries: u32,
    /// Provided receive buffers per shard, a power of two.
    pub buffers: u16,
    /// Size of one receive buffer in bytes.
    pub buffer_bytes: u32,
}

/// Every bound a user could need to move. Times in milliseconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// One JSON-RPC message (HTTP body).
    pub message_bytes_max: usize,
    /// Request line and headers of one request.
    pub header_bytes_max: usize,
    /// Nesting of one message.
    pub json_depth_max: usize,
    /// Client requests of one session that wait for an answer.
    pub in_flight_per_session_max: usize,
    /// Open SSE streams of one session.
    pub streams_per_session_max: usize,
    /// Events kept for replay per stream.
    pub stream_backlog_events_max: usize,
    /// Bytes kept for replay per stream.
    pub stream_backlog_bytes_max: usize,
    /// How long an event is kept for replay.
    pub stream_backlog_age_ms: u64,
    /// Sessions of the node.
    pub sessions_max: usize,
    /// Open client connections of the node.
    pub connections_max: usize,
    /// A session without any request or open stream ends after this.
    pub idle_session_ms: u64,
    /// A connection without request or stream is closed after this.
    pub idle_connection_ms: u64,
    /// A request's headers must be complete within this.
    pub header_timeout_ms: u64,
    /// A request's body must be complete within this, counted from its headers.
    pub body_timeout_ms: u64,
    /// Unsent bytes of one stream, then it is closed and may be resumed.
    pub slow_reader_bytes_max: usize,
    /// After this long without an answer, the answer to a call becomes a stream.
    pub answer_patience_ms: u64,
    /// A silent stream gets an SSE comment this often.
    pub heartbeat_ms: u64,
    /// What a stream's `retry:` field tells the client.
    pub sse_retry_ms: u64,
    /// While draining, an idle connection may bring one more request for this long.
    pub drain_linger_ms: u64,
    /// A drain that is not done by then ends anyway.
    pub drain_deadline_ms: u64,
}

/// How session ids are protected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Session {
    /// File that holds the secret which signs session ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// Name of the environment variable that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
}

/// What the gateway keeps of tool servers' offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Catalog {
    /// File of approved definitions of pinned upstreams' tools; `None` decides by
    /// [`ConfigOrigin::pins_file`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pins_file: Option<PathBuf>,
}

/// The embedded tool server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Embedded {
    /// Whether it is offered; `None` decides by [`Config::embedded_enabled`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Entries on one page of a list; clients follow `nextCursor` for the rest.
    pub page_entries: usize,
}

/// Calls that are answered at once and fetched later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tasks {
    /// Whether clients may call tools as tasks of the gateway's.
    pub enabled: bool,
    /// Time a task is kept from its creation, if its client asks for none.
    pub ttl_ms_default: u64,
    /// The longest time a client can ask for.
    pub ttl_ms_max: u64,
    /// What clients are told to wait between two looks.
    pub poll_interval_ms: u64,
    /// The largest result that is kept.
    pub result_bytes_max: usize,
    /// Tasks that run on this node at the same time.
    pub running_max: usize,
    /// Tools whose calls by modern clients become tasks; at most [`PATTERNS_MAX`].
    pub modern_tools: Vec<NamePattern>,
    /// The same, once their first questions are answered; at most [`PATTERNS_MAX`].
    pub modern_tools_after_input: Vec<NamePattern>,
    /// Tools that can be called as tasks only; at most [`PATTERNS_MAX`].
    pub required_tools: Vec<NamePattern>,
}

/// Logging, always to standard error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How events look.
    pub format: LogFormat,
    /// Which events are written.
    pub level: LogLevels,
}

/// What the command line and the environment say; each `Some` or non-empty list wins over the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen`, `SHARDGATE_LISTEN`
    pub listen: Vec<SocketAddr>,
    /// `--allow-host`, `SHARDGATE_ALLOW_HOST`
    pub allowed_hosts: Vec<String>,
    /// `--allow-origin`, `SHARDGATE_ALLOW_ORIGIN`
    pub allowed_origins: Vec<String>,
    /// `--admin`, `SHARDGATE_ADMIN`
    pub admin: Option<SocketAddr>,
    /// `--node`, `SHARDGATE_NODE`
    pub node: Option<NodeName>,
    /// `--shards`, `SHARDGATE_SHARDS`
    pub shards: Option<ShardCount>,
    /// `--log`, `SHARDGATE_LOG`
    pub log_format: Option<LogFormat>,
    /// `--log-level`, `SHARDGATE_LOG_LEVEL`
    pub log_level: Option<LogLevels>,
    /// `--drain-deadline-ms`, `SHARDGATE_DRAIN_DEADLINE_MS`
    pub drain_deadline_ms: Option<u64>,
}

/// From where a configuration came, so that it can be read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigOrigin {
    /// The file, if one was named.
    pub path: Option<PathBuf>,
    /// What wins over it.
    pub overrides: Overrides,
}

impl ConfigOrigin {
    /// As [`Config::load`].
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(&self) -> Result<Config, ConfigError> {
        Config::load(self.path.as_deref(), &self.overrides)
    }

    /// Where approved definitions are kept: as the configuration says, or else beside its
    /// file, with the extension `pins`.
    pub fn pins_file(&self, config: &Config) -> PathBuf {
        let beside = || match &self.path {
            Some(path) => path.with_extension("pins"),
            None => PathBuf::from("shardgate.pins"),
        };
        config.catalog.pins_file.clone().unwrap_or_else(beside)
    }

    /// The same, and every value that upstreams need is there.
    ///
    /// # Errors
    /// All that is wrong, as text for people.
    pub fn load_usable(&self) -> Result<Config, String> {
        let config = self.load().map_err(|error| match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        })?;
        let missing = config.missing_values();
        if missing.is_empty() {
            return Ok(config);
        }
        let sentences: Vec<String> = missing.iter().map(ToString::to_string).collect();
        Err(sentences.join("\n"))
    }
}

impl Config {
    /// Reads the file if one is named, lays `overrides` over it and checks the whole.
    ///
    /// # Errors
    /// The file can't be read, is no TOML, has an unknown key or a wrong type, or a
    /// value is out of range or contradicts another. All that is wrong is told at once,
    /// as far as it can be known.
    pub fn load(path: Option<&Path>, overrides: &Overrides) -> Result<Config, ConfigError> {
        file::load(path, overrides)
    }

    /// The same for a text that is at hand; `name` stands for it in messages.
    ///
    /// # Errors
    /// As [`Config::load`], except that nothing is read.
    pub fn parse(name: &str, text: &str, overrides: &Overrides) -> Result<Config, ConfigError> {
        file::parse(name, text, overrides)
    }

    /// The rule for `Host` headers of clients.
    pub fn allowed_hosts(&self) -> AllowedHosts {
        match &self.listen.allowed_hosts {
            Some(names) => AllowedHosts::new(names),
            None => AllowedHosts::loopback(),
        }
    }

    /// The rule for `Origin` headers of clients.
    ///
    /// Elsewhere than on loopback the default refuses every browser: that is the
    /// safe end, and clients that are no browsers send no `Origin`.
    pub fn allowed_origins(&self) -> AllowedOrigins {
        match &self.listen.allowed_origins {
            Some(origins) => AllowedOrigins::new(origins),
            None if self.listens_on_loopback_only() => AllowedOrigins::loopback(),
            None => AllowedOrigins::new(&[]),
        }
    }

    /// The rule for `Host` headers of the admin server.
    pub fn admin_allowed_hosts(&self) -> AllowedHosts {
        match &self.admin.allowed_hosts {
            Some(names) => AllowedHosts::new(names),
            None => AllowedHosts::loopback(),
        }
    }

    /// The secret that signs session ids, or `None` if each start should draw its own.
    ///
    /// # Errors
    /// The file or variable can't be read, or holds too short a secret.
    pub fn session_secret(&self) -> Result<Option<Secret>, SecretError> {
        Secret::load(&self.session)
    }

    /// Whether the embedded server is offered: as the file says, or else while there is no upstream.
    ///
    /// What is there to try things out should not join what somebody has configured. An
    /// upstream that is not enabled counts too: who turns the last one off wants no other tools.
    pub fn embedded_enabled(&self) -> bool {
        self.embedded.enabled.unwrap_or(self.upstream.is_empty())
    }

    /// The same configuration with nothing in it that may be secret, for people to look at.
    pub fn for_print(&self) -> Config {
        let mut config = self.clone();
        config.upstream = config.upstream.into_iter().map(UpstreamConfig::masked).collect();
        config
    }

    fn listens_on_loopback_only(&self) -> bool {
        self.listen.address.iter().all(|address| address.ip().is_loopback())
    }

    fn lay_over(&mut self, overrides: &Overrides) {
        let Overrides {
            listen,
            allowed_hosts,
            allowed_origins,
            admin,
            node,
            shards,
            log_format,
            log_level,
            drain_deadline_ms,
        } = overrides.clone();
        if !listen.is_empty() {
            self.listen.address = listen;
        }
        if !allowed_hosts.is_empty() {
            self.listen.allowed_hosts = Some(allowed_hosts);
        }
        if !allowed_origins.is_empty() {
            self.listen.allowed_origins = Some(allowed_origins);
        }
        self.admin.address = admin.unwrap_or(self.admin.address);
        self.node.name = node.unwrap_or_else(|| self.node.name.clone());
        self.shards.count = shards.unwrap_or(self.shards.count);
        self.log.format = log_format.unwrap_or(self.log.format);
        self.log.level = log_level.unwrap_or_else(|| self.log.level.clone());
        self.limits.drain_deadline_ms = drain_deadline_ms.unwrap_or(self.limits.drain_deadline_ms);
    }
}

impl Default for Listen {
    fn default() -> Listen {
        let address = SocketAddr::from(([127, 0, 0, 1], 8080));
        Listen { address: vec![address], allowed_hosts: None, allowed_origins: None }
    }
}

impl Default for Admin {
    fn default() -> Admin {
        Admin { address: SocketAddr::from(([127, 0, 0, 1], 9090)), allowed_hosts: None }
    }
}

impl Default for Ring {
    fn default() -> Ring {
        Ring {
            submission_entries: 4_096,
            completion_entries: 16_384,
            buffers: 2_048,
            buffer_bytes: 4_096,
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            message_bytes_max: 16 * 1024 * 1024,
            header_bytes_max: 16 * 1024,
            json_depth_max: 128,
            in_flight_per_session_max: 64,
            streams_per_session_max: 16,
            stream_backlog_events_max: 256,
            stream_backlog_bytes_max: 256 * 1024,
            stream_backlog_age_ms: 300_000,
            sessions_max: 1_000_000,
            connections_max: 1_000_000,
            idle_session_ms: 1_800_000,
            idle_connection_ms: 300_000,
            header_timeout_ms: 10_000,
            body_timeout_ms: 30_000,
            slow_reader_bytes_max: 1024 * 1024,
            answer_patience_ms: 1_000,
            heartbeat_ms: 15_000,
            sse_retry_ms: 1_000,
            drain_linger_ms: 500,
            drain_deadline_ms: 30_000,
        }
    }
}

impl Default for Embedded {
    fn default() -> Embedded {
        Embedded { enabled: None, page_entries: 100 }
    }
}

impl Default for Tasks {
    fn default() -> Tasks {
        Tasks {
            enabled: true,
            ttl_ms_default: 3_600_000,
            ttl_ms_max: 86_400_000,
            poll_interval_ms: 1_000,
            result_bytes_max: 4 * 1024 * 1024,
            running_max: 256,
            modern_tools: Vec::new(),
            modern_tools_after_input: Vec::new(),
            required_tools: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
