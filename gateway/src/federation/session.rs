//! Our side of one session with a tool server.
//!
//! A legacy client has one with each legacy server it uses, so that what the server
//! keeps for it is its own. Modern clients share one per server, and so do all clients
//! of a modern server, where a session is nothing but a counter of ids.

use hashbrown::{HashMap, HashSet};
use shardgate_proto::catalog::ListKind;
use shardgate_proto::clock::Millis;
use shardgate_proto::http_client::ExchangeKey;
use shardgate_proto::jsonrpc;
use shardgate_proto::mcp::version::ProtocolVersion;
use shardgate_proto::upstream::{LinkKey, SessionKey};
use slab::Slab;

use super::job::JobKey;
use super::server::Use;

/// Names a session of ours within its server for the process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct UpKey(u64);

/// For whom a session is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// One legacy client.
    Client(SessionKey),
    /// All modern clients, or all clients of a modern server.
    Everybody,
    /// One call of a modern client.
    Call(JobKey),
    /// The gateway, to read the server's lists.
    Catalog,
    /// Nobody any more: it is ended as soon as the server has named it.
    Nobody,
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// `initialize` is under way.
    Initializing,
    /// `notifications/initialized` is under way.
    Confirming,
    /// The standing stream is asked for: requests wait until that is answered, or until then.
    Listening(Millis),
    /// Requests may be sent.
    Ready,
}

/// What a request of a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    Job(JobKey),
    Initialize,
    Discover,
    List(ListKind),
    /// `logging/setLevel`, `resources/subscribe` and the like of our own: only failures count.
    Chore(&'static str),
    /// A modern `subscriptions/listen`.
    Listen,
}

impl Pending {
    /// The client's request it is, if it is one.
    pub(super) fn job(self) -> Option<JobKey> {
        if let Pending::Job(job) = self { Some(job) } else { None }
    }
}

/// What a server says it can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Abilities {
    pub(super) tools: bool,
    pub(super) resources: bool,
    pub(super) subscribe: bool,
    pub(super) prompts: bool,
    pub(super) logging: bool,
    pub(super) completions: bool,
    /// Tasks, by the means of its era.
    pub(super) tasks: bool,
}

impl Abilities {
    /// As bits, for siblings.
    pub(super) fn to_bits(self) -> u8 {
        let all = [
            self.tools,
            self.resources,
            self.subscribe,
            self.prompts,
            self.logging,
            self.completions,
            self.tasks,
        ];
        all.iter().enumerate().fold(0, |bits, (at, has)| bits | u8::from(*has) << at)
    }

    pub(super) fn from_bits(bits: u8) -> Abilities {
        let has = |at: u8| bits & 1 << at != 0;
        Abilities {
            tools: has(0),
            resources: has(1),
            subscribe: has(2),
            prompts: has(3),
            logging: has(4),
            completions: has(5),
            tasks: has(6),
        }
    }

    /// Of the raw `capabilities` object.
    pub(super) fn read(capabilities: &[u8]) -> Abilities {
        let has = |name| jsonrpc::member(capabilities, name).is_some_and(|it| it != b"null");
        let subscribe = jsonrpc::member(capabilities, "resources")
            .and_then(|resources| jsonrpc::member(resources, "subscribe"));
        let extension = jsonrpc::member(capabilities, "extensions")
            .and_then(|all| jsonrpc::member(all, super::tasks::EXTENSION));
        Abilities {
            tools: has("tools"),
            resources: has("resources"),
            subscribe: subscribe == Some(b"true"),
            prompts: has("prompts"),
            logging: has("logging"),
            completions: has("completions"),
            tasks: has("tasks") || extension.is_some(),
        }
    }
}

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) key: UpKey,
    pub(super) owner: Owner,
    pub(super) version: ProtocolVersion,
    pub(super) phase: Phase,
    /// `server/discover` was sent once more.
    pub(super) has_asked_again: bool,
    /// `Mcp-Session-Id`; a server may do without.
    pub(super) id: Option<Box<str>>,
    pub(super) abilities: Abilities,
    /// Requests sent and not answered.
    pub(super) pending: HashMap<u64, Pending>,
    next_id: u64,
    /// Jobs to send once it is ready.
    pub(super) waiting: Vec<JobKey>,
    /// Messages without answer to send once it is ready.
    pub(super) notes: Vec<Box<[u8]>>,
    /// The GET stream, or in the modern era the listen stream.
    pub(super) standing: Option<ExchangeKey>,
    pub(super) standing_last_id: Box<[u8]>,
    /// When to open the standing stream again.
    pub(super) standing_retry_at: Option<Millis>,
    /// Its HTTP exchanges under way.
    pub(super) exchanges: HashSet<ExchangeKey>,
    /// Where messages are posted, of an HTTP+SSE server that has said so.
    pub(super) post_path: Option<Box<str>>,
    /// What waits for that.
    pub(super) unposted: Vec<(Use, Box<[u8]>)>,
    /// The child's streams, of a stdio server.
    pub(super) link: Option<LinkKey>,
    pub(super) last_used: Millis,
}

impl Session {
    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// True if such a request is under way.
    pub(super) fn is_asked(&self, pending: Pending) -> bool {
        self.pending.values().any(|other| *other == pending)
    }

    /// Nobody waits for the answer to such a request any more.
    pub(super) fn forget(&mut self, pending: Pending) {
        self.pending.retain(|_, other| *other != pending);
    }

    /// The one job under way, if there is exactly one: the only one that a message
    /// without any reference can belong to.
    pub(super) fn only_job(&self) -> Option<JobKey> {
        let mut jobs = self.pending.values().filter_map(|pending| pending.job());
        jobs.next().filter(|_| jobs.next().is_none())
    }

    pub(super) fn jobs(&self) -> Vec<JobKey> {
        let sent = self.pending.values().filter_map(|pending| pending.job());
        sent.chain(self.waiting.iter().copied()).collect()
    }
}

/// All sessions with one server.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    sessions: Slab<Session>,
    generation: u32,
}

impl Sessions {
    pub(super) fn insert(
        &mut self,
        owner: Owner,
        version: ProtocolVersion,
        phase: Phase,
        now: Millis,
    ) -> UpKey {
        self.generation = self.generation.wrapping_add(1);
        let place = self.sessions.vacant_entry();
        let key = UpKey(u64::from(self.generation) << 32 | place.key() as u64);
        place.insert(Session {
            key,
            owner,
            version,
            phase,
            has_asked_again: false,
            id: None,
            abilities: Abilities::default(),
            pending: HashMap::new(),
            next_id: 0,
            waiting: Vec::new(),
            notes: Vec::new(),
            standing: None,
            standing_last_id: Box::default(),
            standing_retry_at: None,
            exchanges: HashSet::new(),
            post_path: None,
            unposted: Vec::new(),
            link: None,
            last_used: now,
        });
        key
    }

    pub(super) fn session(&mut self, key: UpKey) -> Option<&mut Session> {
        self.sessions.get_mut(slot(key)).filter(|session| session.key == key)
    }

    pub(super) fn remove(&mut self, key: UpKey) -> Option<Session> {
        self.session(key)?;
        Some(self.sessions.remove(slot(key)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().map(|(_, session)| session)
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }
}

fn slot(key: UpKey) -> usize {
    (key.0 & u64::from(u32::MAX)) as usize
}
