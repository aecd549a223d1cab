//! `[[upstream]]`: a tool server behind the gateway, as the rest of the program sees it.
//!
//! What stands in the file is [`UpstreamTable`](super::upstream_table); here every value is
//! parsed and the options fit the kind of upstream.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::hidden::HiddenText;
use super::pattern::NameFilter;
use super::upstream_table::UpstreamTable;
use super::url::HttpUrl;

/// More upstreams than this are refused: every shard has a catalog and pools for each.
pub const UPSTREAMS_MAX: usize = 256;

/// One tool server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UpstreamTable", into = "UpstreamTable")]
pub struct UpstreamConfig {
    /// Unique; begins the names of its tools where they are prefixed.
    pub name: UpstreamName,
    /// Whether it is used at all.
    pub enabled: bool,
    /// How it is reached.
    pub kind: UpstreamKind,
    /// Which era of MCP is spoken with it.
    pub protocol: UpstreamProtocol,
    /// When its name begins the names of its tools and prompts.
    pub prefix: Prefix,
    /// Which of its tools are offered, by the names it gives them.
    pub tools: NameFilter,
    /// Whether a tool whose definition has changed is withheld.
    pub pin: bool,
    /// Where stateless clients' calls go if the server wants sessions.
    pub modern_sessions: ModernSessions,
    /// Its bounds.
    pub limits: UpstreamLimits,
}

/// How an upstream is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamKind {
    /// By HTTP.
    Http(HttpUpstream),
    /// As a child process, by its standard streams.
    Stdio(StdioUpstream),
}

/// An upstream that is reached by HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUpstream {
    /// Its MCP endpoint.
    pub url: HttpUrl,
    /// Which of MCP's HTTP transports.
    pub transport: HttpTransport,
    /// Headers for every request, each name once.
    pub headers: Vec<HeaderConfig>,
    /// PEM file with roots to trust beside the public ones.
    pub ca_file: Option<PathBuf>,
    /// Open connections of one shard.
    pub connections_max: usize,
    /// Time for name resolution, TCP and TLS together.
    pub connect_timeout_ms: u64,
    /// An unused connection is closed after this.
    pub idle_connection_ms: u64,
    /// Whether each session keeps a GET stream for what the server sends by itself.
    pub standing_stream: bool,
}

/// A header that is sent with every request to an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderConfig {
    /// As it was written.
    pub name: String,
    /// Where its value comes from.
    pub value: ValueSource,
}

/// Where a value that may be secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueSource {
    /// It stands in the configuration.
    Plain(HiddenText),
    /// From this environment variable of the gateway.
    Variable(String),
    /// From this file, without the line end behind it.
    File(PathBuf),
}

/// An upstream that is a child process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StdioUpstream {
    /// What is started: a path, or a name to look for in `PATH`.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Variables of its environment, each name once; files are not used here.
    pub env: Vec<(String, ValueSource)>,
    /// Where it is started; `None` is the gateway's own directory.
    pub directory: Option<PathBuf>,
    /// Who shares a child.
    pub sharing: Sharing,
    /// Children of this upstream on this node; 1 where all share one.
    pub children_max: usize,
}

/// Bounds of every kind of upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// Requests of one shard that wait for an answer.
    pub in_flight_max: usize,
    /// A request that shows no progress for this long is given up.
    pub request_timeout_ms: u64,
    /// A request is given up after this, whatever progress it shows.
    pub request_lifetime_ms: u64,
    /// A session with the server that has no request for this long is ended.
    pub idle_session_ms: u64,
    /// Failures in a row after which the server is left alone.
    pub breaker_failures: u32,
    /// For how long it is left alone before one request tries it again.
    pub breaker_open_ms: u64,
    /// How often its lists are fetched anew, though it told of no change.
    pub refresh_ms: u64,
}

impl UpstreamLimits {
    /// What holds where nothing else is configured.
    pub const DEFAULT: UpstreamLimits = UpstreamLimits {
        in_flight_max: 1_024,
        request_timeout_ms: 60_000,
        request_lifetime_ms: 3_600_000,
        idle_session_ms: 1_800_000,
        breaker_failures: 5,
        breaker_open_ms: 60_000,
        refresh_ms: 300_000,
    };
}

/// Which era of MCP is spoken with an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpstreamProtocol {
    /// The newest that both sides know, found by asking.
    #[default]
    Auto,
    /// Revisions up to 2025-11-25, with sessions.
    Legacy,
    /// Revisions from 2026-07-28 on, stateless.
    Modern,
}

/// Which of MCP's HTTP transports an upstream has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HttpTransport {
    /// Streamable HTTP; where the server refuses that, HTTP+SSE.
    #[default]
    Auto,
    /// Streamable HTTP (from 2025-03-26 on).
    StreamableHttp,
    /// HTTP+SSE (2024-11-05).
    HttpSse,
}

/// When an upstream's name begins the names of its tools and prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prefix {
    /// Always: `name__tool`.
    Always,
    /// Only where two upstreams have the same name to offer.
    #[default]
    OnConflict,
    /// Never; of two equal names the first upstream's is offered.
    Never,
}

/// Who shares a child process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// Every client session has its own.
    #[default]
    Session,
    /// All clients have the same one.
    Shared,
}

/// Where stateless clients' calls go if the server wants sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModernSessions {
    /// Into one session for all of them.
    #[default]
    Shared,
    /// Each into a session of its own, which ends with it.
    Call,
}

/// An upstream's name: 1 to [`UpstreamName::BYTES_MAX`] of `a`-`z`, `0`-`9` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UpstreamName(String);

impl UpstreamName {
    /// Prefixed names of tools must stay below 64 characters, which clients insist on.
    pub const BYTES_MAX: usize = 32;
    /// The name by which routes mean the embedded server; no upstream may take it.
    pub const EMBEDDED: &'static str = "embedded";

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UpstreamName {
    type Err = String;

    fn from_str(text: &str) -> Result<UpstreamName, String> {
        let is_sound = |c| matches!(c, 'a'..='z' | '0'..='9' | '-');
        if (1..=UpstreamName::BYTES_MAX).contains(&text.len()) && text.chars().all(is_sound) {
            return Ok(UpstreamName(text.to_owned()));
        }
        Err(format!(
            "{text:?} is no name of an upstream: use 1 to {} of the characters a-z, 0-9 and '-'",
            UpstreamName::BYTES_MAX
        ))
    }
}

impl TryFrom<String> for UpstreamName {
    type Error = String;

    fn try_from(text: String) -> Result<UpstreamName, String> {
        text.parse()
    }
}

impl From<UpstreamName> for String {
    fn from(name: UpstreamName) -> String {
        name.0
    }
}

impl fmt::Display for UpstreamName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl UpstreamConfig {
    /// The same with nothing that may be secret.
    pub(super) fn masked(mut self) -> UpstreamConfig {
        let mask = |source: &mut ValueSource| {
            if matches!(source, ValueSource::Plain(_)) {
                *source = ValueSource::Plain(HiddenText::masked());
            }
        };
        match &mut self.kind {
            UpstreamKind::Http(http) => {
                http.url = http.url.masked();
                http.headers.iter_mut().for_each(|header| mask(&mut header.value));
            }
            UpstreamKind::Stdio(stdio) => stdio.env.iter_mut().for_each(|(_, value)| mask(value)),
        }
        self
    }
}
