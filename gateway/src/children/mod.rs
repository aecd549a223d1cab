//! Tool servers that speak over their standard streams, as child processes.
//!
//! To a shard a child is a link: bytes in, bytes out (see [`shardgate_proto::upstream`]).
//! Lines and MCP are framed elsewhere. Everything here runs on the control thread.
//!
//! Each child is started by a guard, a small process of our own binary (see [`guard`]) that
//! outlives the gateway if need be: it ends the child and all of its descendants once the
//! link is closed or the gateway is gone, even by SIGKILL.
//!
//! Invariants:
//! - One child per open link. Each [`ChildCommand::Open`] gets exactly one
//!   [`ChildNews::Ended`], unless the shard closes the link first.
//! - No byte of a child's output is lost while its link is open: a shard whose mailbox is
//!   full only makes us stop reading.
//! - Nothing waits without a bound: see the constants of the submodules.
//! - A child is always reaped, and none is left when [`supervise`] returns in time.

mod child;
mod counters;
pub mod guard;
mod guarded;
mod leftovers;
mod reports;
mod stderr_log;
mod supervisor;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use shardgate_proto::upstream::{EndpointId, LinkEnd, LinkKey};

pub use child::{CHUNK_BYTES_MAX, PIPE_CLOSED_PATIENCE, START_TIME_MAX};
pub use counters::{ChildCounters, EndKind, EndpointCounts};
pub use guarded::GuardProgram;
pub use stderr_log::{LINE_BYTES_MAX, LINES_PER_SECOND_MAX};
pub use supervisor::{
    CHILDREN_MAX, COMMANDS_MAX, ChildrenSetup, INPUT_BACKLOG_BYTES_MAX, supervise,
};

/// From a shard to the supervisor of the children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChildCommand {
    /// Start a child.
    Open {
        /// Who asks, and is told.
        shard: u16,
        /// The child's name from here on.
        link: LinkKey,
        /// Which spec it is made of.
        endpoint: EndpointId,
    },
    /// Write to a child's standard input, once it has one.
    Write {
        /// Whose.
        shard: u16,
        /// Which.
        link: LinkKey,
        /// What.
        bytes: Vec<u8>,
    },
    /// End a child. Nothing of it comes any more, save what is in the mailbox already.
    Close {
        /// Whose.
        shard: u16,
        /// Which.
        link: LinkKey,
    },
}

/// From the supervisor to a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChildNews {
    /// The child runs.
    Opened(LinkKey),
    /// It wrote to its standard output. At most [`CHUNK_BYTES_MAX`] bytes.
    Bytes(LinkKey, Vec<u8>),
    /// It has ended or could not be started. The last that is told of it.
    Ended(LinkKey, LinkEnd),
}

/// Why news did not reach a shard.
#[derive(Debug)]
pub enum Undelivered {
    /// Its mailbox is full: it is tried again.
    Full(ChildNews),
    /// The shard has ended. Its children are ended too.
    Gone,
}

/// Puts news into a shard's mailbox without blocking.
pub type DeliverNews = Arc<dyn Fn(u16, ChildNews) -> Result<(), Undelivered> + Send + Sync>;

/// Which of the gateway's own variables a child sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InheritedEnv {
    /// All of them, secrets included.
    All,
    /// Only these, where they are set: see [`ENV_INHERITED`].
    Only(Vec<String>),
}

/// What a child needs to find programs, files and its language, and nothing secret.
pub const ENV_INHERITED: [&str; 10] =
    ["HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER"];

impl Default for InheritedEnv {
    fn default() -> InheritedEnv {
        InheritedEnv::Only(ENV_INHERITED.map(str::to_owned).to_vec())
    }
}

/// What becomes of a child's standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StderrUse {
    /// Each line goes to the log.
    #[default]
    Log,
    /// It is read and dropped, save the last line, which tells why a child died.
    Drop,
}

/// How a child is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildSpec {
    /// The tool server's name in the configuration, for logs and errors.
    pub upstream: String,
    /// The program, looked up in the child's PATH, and its arguments. Never empty.
    pub command: Vec<String>,
    /// Variables set beside those that are inherited; they win.
    pub env: Vec<(String, String)>,
    /// What it sees of our own environment.
    pub inherit: InheritedEnv,
    /// Where it runs; otherwise where the gateway runs.
    pub directory: Option<PathBuf>,
    /// How many may run at once, over all shards.
    pub children_max: usize,
    /// What becomes of its standard error.
    pub stderr: StderrUse,
    /// How long it may take to end: half of it after its input was closed, half after SIGTERM.
    pub stop_grace_ms: u64,
}

/// The specs by endpoint, shared with whoever replaces them when the configuration is read
/// again. Children that run keep the spec they were started with.
#[derive(Clone, Debug, Default)]
pub struct ChildSpecs(Arc<RwLock<HashMap<EndpointId, Arc<ChildSpec>>>>);

impl ChildSpecs {
    /// These specs and no others from now on.
    pub fn replace(&self, specs: impl IntoIterator<Item = (EndpointId, ChildSpec)>) {
        let specs = specs.into_iter().map(|(endpoint, spec)| (endpoint, Arc::new(spec))).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = specs;
    }

    /// The spec of an endpoint, if there is one at present.
    pub fn find(&self, endpoint: EndpointId) -> Option<Arc<ChildSpec>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&endpoint).cloned()
    }
}

impl FromIterator<(EndpointId, ChildSpec)> for ChildSpecs {
    fn from_iter<I: IntoIterator<Item = (EndpointId, ChildSpec)>>(specs: I) -> ChildSpecs {
        let shared = ChildSpecs::default();
        shared.replace(specs);
        shared
    }
}
