//! A client's request on its way through a tool server.
//!
//! Invariant: a job is waited for by at most one call of a client, and found by it.
//! It outlives the call only in the modern era, while its client fetches the input
//! that a legacy server has asked for.

use shardgate_proto::clock::Millis;
use shardgate_proto::http_client::ExchangeKey;
use shardgate_proto::jsonrpc;
use shardgate_proto::mcp::version::ProtocolVersion;
use shardgate_proto::upstream::{CallKey, Caller, Outcome, RouteId, SessionKey};
use slab::Slab;

use super::params::meta_member;
use super::session::UpKey;
use crate::embedded::client::LogLevel;
use crate::metrics::CallOutcome;

/// Names a job for the process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct JobKey(pub(super) u64);

/// Who waits for a job's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    /// A call of this shard.
    Call(CallKey),
    /// A call of another shard, which keeps the client of this job's next round.
    Sibling {
        /// Which shard.
        shard: u16,
        /// The call there.
        call: CallKey,
    },
    /// Nobody: the client was asked for input and will call again.
    Nobody {
        /// Not longer than this.
        until: Millis,
    },
}

/// Where in a tool server a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The session it was sent on.
    pub(super) session: UpKey,
    /// Its request id there.
    pub(super) id: u64,
    /// Its HTTP exchange.
    pub(super) exchange: Option<ExchangeKey>,
}

/// A question of a legacy server to a modern client, or of a modern one to a legacy client.
#[derive(Debug)]
pub(super) struct Question {
    /// The key in `inputRequests`.
    pub(super) key: Box<str>,
    /// The legacy server's id of its request; empty if a modern server asks.
    pub(super) server_id: Box<[u8]>,
    /// The method and raw params.
    pub(super) method: Box<str>,
    pub(super) params: Box<[u8]>,
    /// The client's answer, raw JSON of its result.
    pub(super) answer: Option<Box<[u8]>>,
}

/// One request.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) key: JobKey,
    pub(super) waiter: Waiter,
    pub(super) caller: Caller,
    /// By whose catalog its names are read.
    pub(super) route: RouteId,
    pub(super) version: ProtocolVersion,
    pub(super) method: Box<str>,
    /// As the client wrote them.
    pub(super) params: Option<Box<[u8]>>,
    pub(super) server: u16,
    /// `params.name` as the server knows it.
    pub(super) name: Option<Box<str>>,
    /// What `Mcp-Name` has to say.
    pub(super) name_header: Option<Box<str>>,
    /// Whether headers mirror some of its arguments.
    pub(super) mirrored: bool,
    /// Whether it may be sent twice.
    pub(super) repeatable: bool,
    pub(super) place: Option<Place>,
    /// Without a sign of life until then it has failed.
    pub(super) deadline: Millis,
    /// It fails then, whatever it shows.
    pub(super) lifetime_ends: Millis,
    /// When it was sent last.
    pub(super) sent_at: Millis,
    /// Why it has failed, if the gateway and not the server ends it.
    pub(super) failed: Option<CallOutcome>,
    /// How often it was sent again, on a fresh session or connection.
    pub(super) resent: u8,
    /// The client's own progress token, raw, where ours is in its place.
    pub(super) progress_token: Option<Box<[u8]>>,
    /// Rounds of questions so far.
    pub(super) rounds: u8,
    /// Questions put to a modern client so far; names the next one.
    pub(super) asked: u32,
    /// A capability that the server wanted and its modern client did not declare.
    pub(super) lacking: Option<&'static str>,
    /// What is asked of the client at present.
    pub(super) questions: Vec<Question>,
    /// `requestState` of a modern server, raw.
    pub(super) server_state: Option<Box<[u8]>>,
    /// What came while nobody waited, oldest first.
    pub(super) held: Vec<Box<[u8]>>,
    pub(super) held_outcome: Option<(Outcome, Box<[u8]>)>,
}

/// Messages kept for a job that nobody waits for; older ones are dropped.
pub(super) const HELD_MESSAGES_MAX: usize = 64;

impl Job {
    /// The least severity of log messages a modern client wants with this request;
    /// `None` if it wants none.
    pub(super) fn wanted_level(&self) -> Option<LogLevel> {
        let level = meta_member(self.params.as_deref(), "io.modelcontextprotocol/logLevel")?;
        LogLevel::parse(&jsonrpc::string(level)?)
    }

    /// The client's session, if it is a legacy client.
    pub(super) fn client_session(&self) -> Option<SessionKey> {
        match self.caller {
            Caller::Session(session) => Some(session),
            Caller::Stateless | Caller::Task => None,
        }
    }
}

/// All jobs of a shard.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    jobs: Slab<Job>,
    generation: u32,
}

impl Jobs {
    pub(super) fn insert(&mut self, make: impl FnOnce(JobKey) -> Job) -> JobKey {
        self.generation = self.generation.wrapping_add(1);
        let place = self.jobs.vacant_entry();
        let key = JobKey(u64::from(self.generation) << 32 | place.key() as u64);
        place.insert(make(key));
        key
    }

    pub(super) fn job(&mut self, key: JobKey) -> Option<&mut Job> {
        self.jobs.get_mut(slot(key)).filter(|job| job.key == key)
    }

    pub(super) fn remove(&mut self, key: JobKey) -> Option<Job> {
        self.job(key)?;
        Some(self.jobs.remove(slot(key)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Job> {
        self.jobs.iter().map(|(_, job)| job)
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }
}

fn slot(key: JobKey) -> usize {
    (key.0 & u64::from(u32::MAX)) as usize
}
