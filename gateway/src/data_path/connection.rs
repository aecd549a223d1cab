//! One downstream connection: a small state machine, not a future with buffers.
//!
//! Invariant: an idle connection owns no buffer. Bytes that cannot be used yet
//! (a request that is not whole, or one behind an answer that is not finished)
//! are kept here, within [`PENDING_BYTES_MAX`]; then reading pauses.

use shardgate_proto::clock::Millis;
use shardgate_proto::http1::{Persistence, RequestDecoder, Version};
use shardgate_shard::{ConnId, ShardId, TimerId};

use super::exchange::{Exchange, Framing, Work};
use super::request::OwnedRequest;
use crate::metrics::Closed;

/// Bytes a client may send ahead of an unfinished answer before we stop reading.
pub(crate) const PENDING_BYTES_MAX: usize = 64 * 1024;

/// Forwarded requests in a row after which a connection moves to its session's shard.
pub(crate) const FORWARDS_BEFORE_MOVE: u8 = 4;

/// What a connection is doing.
#[derive(Debug)]
pub(crate) enum State {
    /// Waiting for a request, or for the rest of one.
    Ready,
    /// A request is being answered; `None` until it is known what it waits for.
    Busy(Option<Work>),
    /// On its way to another shard once the current turn's bytes are sorted.
    Moving(ShardId, Box<OwnedRequest>, Framing),
    /// The last answer is written; nothing more is read.
    Closing,
}

/// A downstream connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnId,
    pub(crate) state: State,
    pub(crate) decoder: RequestDecoder,
    /// Counts requests; names the current exchange.
    pub(crate) number: u32,
    pub(crate) reading_paused: bool,
    /// True while `drive` is on the stack for it.
    pub(crate) driven: bool,
    /// The client has closed its sending half.
    pub(crate) eof: bool,
    /// The one timer, and what it is armed for.
    pub(crate) timer: Option<(TimerId, Watch)>,
    pub(crate) last_active: Millis,
    /// Since when more waits to be sent than a client may leave unread.
    pub(crate) overfull_since: Option<Millis>,
    /// What was queued when the close began to be watched.
    pub(crate) queued: usize,
    /// Why it ends, where the runtime cannot know.
    pub(crate) closed_as: Option<Closed>,
    /// The current request's framing.
    pub(crate) http: Framing,
    /// When the unfinished request began to arrive.
    pub(crate) partial_since: Option<Millis>,
    /// The shard that answered the last requests, and how many in a row.
    pub(crate) forwards: (ShardId, u8),
}

/// What a connection's timer watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// A connection without a request for too long.
    Idle,
    /// A request that does not become whole.
    Partial,
    /// A call without an answer: time to show the client that we live.
    Answer,
    /// The last answer, to be read by the client.
    Closing,
}

impl Connection {
    pub(crate) fn new(id: ConnId, own: ShardId, now: Millis) -> Connection {
        Connection {
            id,
            state: State::Ready,
            decoder: RequestDecoder::default(),
            number: 0,
            reading_paused: false,
            driven: false,
            eof: false,
            timer: None,
            last_active: now,
            overfull_since: None,
            queued: 0,
            closed_as: None,
            http: Framing {
                version: Version::Http11,
                persistence: Persistence::KeepAlive,
                for_page: false,
            },
            partial_since: None,
            forwards: (own, 0),
        }
    }

    /// A request has come: the connection is busy with it from here on.
    pub(crate) fn begin(&mut self, own: ShardId, http: Framing) -> Exchange {
        self.number = self.number.wrapping_add(1);
        self.http = http;
        self.state = State::Busy(None);
        self.exchange(own)
    }

    /// The current request.
    pub(crate) fn exchange(&self, own: ShardId) -> Exchange {
        Exchange { shard: own, conn: self.id, number: self.number, http: self.http }
    }

    /// What the current request waits for.
    pub(crate) fn work(&self) -> Option<Work> {
        match self.state {
            State::Busy(work) => work,
            State::Ready | State::Moving(..) | State::Closing => None,
        }
    }

    /// Counts a forwarded request; true if the connection should move instead: when the
    /// requests before went to the same shard as well.
    pub(crate) fn forward_counts_as_move(&mut self, owner: ShardId) -> bool {
        let (last, streak) = &mut self.forwards;
        *streak = if *last == owner { streak.saturating_add(1) } else { 1 };
        *last = owner;
        *streak > FORWARDS_BEFORE_MOVE
    }
}

/// The shard's connections, found by the runtime's dense index.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    slots: Vec<Option<Box<Connection>>>,
    open: usize,
}

impl Connections {
    pub(crate) fn insert(&mut self, connection: Connection) {
        let index = connection.id.index();
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        assert!(
            self.slots[index].is_none(),
            "the runtime reuses an index only after handle_closed"
        );
        self.slots[index] = Some(Box::new(connection));
        self.open += 1;
    }

    #[inline]
    pub(crate) fn connection(&mut self, id: ConnId) -> Option<&mut Connection> {
        let connection = self.slots.get_mut(id.index())?.as_deref_mut()?;
        (connection.id == id).then_some(connection)
    }

    /// The connection in this slot, if it is still the one of this generation.
    pub(crate) fn at(&self, slot: usize, generation: u32) -> Option<ConnId> {
        let id = self.slots.get(slot)?.as_ref()?.id;
        (id.generation() == generation).then_some(id)
    }

    pub(crate) fn remove(&mut self, id: ConnId) -> Option<Box<Connection>> {
        self.connection(id)?;
        self.open -= 1;
        self.slots[id.index()].take()
    }

    pub(crate) fn open(&self) -> usize {
        self.open
    }

    pub(crate) fn ids(&self) -> Vec<ConnId> {
        self.slots.iter().flatten().map(|connection| connection.id).collect()
    }
}
