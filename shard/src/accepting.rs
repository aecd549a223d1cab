//! How a shard accepts: which ring takes new connections, and when none does.
//!
//! A multishot accept takes whatever lies in the listener's queue before anybody can
//! stop it, and a socket that finds no slot is lost. So a ring has one armed only
//! while it has room for whole listen queues; a ring is opened when none has. With
//! all rings near their end accepts are made one by one, each with a slot reserved
//! for it, and when nothing is left the connections wait in the listen queue.
//!
//! Outgoing connections take slots of the same rings. They take those beyond the room
//! multishot accepts rely on, and open a ring, before they take of that room; then they
//! end the multishot accepts in the same submission, before they use the slot.
//!
//! Invariants: accepts in flight never outnumber the free slots; a listener is closed
//! only after its queue was emptied, or when nothing more can be accepted.

use std::os::fd::{AsFd, OwnedFd};

use crate::identity::{ConnId, ListenerId};
use crate::operation::{Kind, Operation};
use crate::shard_state::ShardState;

/// Single accepts in flight per listener.
const SINGLE_ACCEPTS_MAX: u32 = 16;
/// Slots per ring kept for connections that move here from other shards.
const ADOPTION_RESERVE_MAX: u32 = 64;
/// Pause after an accept failed for want of memory or the like.
const RETRY_AFTER_MS: u64 = 10;
/// Failures of the last accepts after which a listener closes all the same; a second in all.
const REST_FAILURES_MAX: u32 = 100;

/// One listener of one shard.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listener: ListenerId,
    /// `None` after it was closed.
    socket: Option<OwnedFd>,
    multi: Option<MultiAccept>,
    singles: u32,
    singles_cancelled: bool,
    rest_in_flight: bool,
    rest_failures: u32,
    stopping: bool,
    blocked: bool,
    retry_at_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct MultiAccept {
    ring: usize,
    cancelled: bool,
}

impl Acceptor {
    pub(crate) fn new(listener: ListenerId, socket: OwnedFd) -> Acceptor {
        Acceptor {
            listener,
            socket: Some(socket),
            multi: None,
            singles: 0,
            singles_cancelled: false,
            rest_in_flight: false,
            rest_failures: 0,
            stopping: false,
            blocked: false,
            retry_at_ms: 0,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    /// Asks for the listener to be closed once its queue is empty.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    fn operation(&self, kind: Kind) -> Operation {
        Operation::other(kind, u32::from(self.listener.0))
    }
}

impl<M> ShardState<M> {
    /// Arms, moves or ends accepts as the free slots ask for. Called once per turn.
    pub(crate) fn plan_accepts(&mut self) {
        for position in 0..self.acceptors.len() {
            if self.acceptors[position].socket.is_none() {
                continue;
            }
            if self.acceptors[position].stopping {
                self.plan_stop(position);
            } else {
                self.plan_accept(position);
            }
        }
    }

    /// Notes what an accept brought; returns the new connection.
    pub(crate) fn accept_completed(
        &mut self,
        ring: usize,
        operation: Operation,
        result: i32,
        more: bool,
    ) -> Option<(ConnId, ListenerId)> {
        let position = operation.index as usize;
        let acceptor = &mut self.acceptors[position];
        if operation.kind == Kind::AcceptOne {
            acceptor.singles -= 1;
            self.rings[ring].slots_reserved -= 1;
        } else if operation.kind == Kind::AcceptRest {
            acceptor.rest_in_flight = false;
            self.rings[ring].slots_reserved -= 1;
        } else if !more {
            acceptor.multi = None;
        }
        let listener = acceptor.listener;
        if result < 0 {
            self.accept_failed(position, operation.kind, -result);
            return None;
        }
        let slot = result as u32;
        self.rings[ring].slots_used += 1;
        let conn = self.open_connection(ring, slot, listener)?;
        self.counters.accepted += 1;
        Some((conn, listener))
    }

    /// Takes an entry for a socket that has come into a ring's table. If the table of
    /// connections is full the socket is closed.
    pub(crate) fn open_connection(
        &mut self,
        ring: usize,
        slot: u32,
        listener: ListenerId,
    ) -> Option<ConnId> {
        let conn = self.table.insert(ring as u8, slot, listener);
        if conn.is_none() {
            self.rings[ring].close(slot);
            self.rings[ring].slots_used -= 1;
            self.counters.refused += 1;
        }
        conn
    }

    fn accept_failed(&mut self, position: usize, kind: Kind, errno: i32) {
        match errno {
            // The accept would have waited: the queue is empty.
            libc::ECANCELED | libc::EAGAIN if kind == Kind::AcceptRest => {
                self.acceptors[position].socket = None;
            }
            libc::ECANCELED | libc::EAGAIN => {}
            // The client gave up while it waited; nothing is wrong here.
            libc::ECONNABORTED => {}
            _ => {
                self.counters.accept_failures += 1;
                let retry_at_ms = self.now_ms() + RETRY_AFTER_MS;
                let acceptor = &mut self.acceptors[position];
                acceptor.retry_at_ms = retry_at_ms;
                if kind == Kind::AcceptRest {
                    acceptor.rest_failures += 1;
                    // A shard must be able to end where accepts fail for ever.
                    if acceptor.rest_failures >= REST_FAILURES_MAX {
                        acceptor.socket = None;
                    }
                }
            }
        }
    }

    /// When an accept that has failed is to be tried again.
    pub(crate) fn next_accept_retry_ms(&self) -> Option<u64> {
        // A time that has come is none to wake up for: each turn tries again by itself.
        self.acceptors
            .iter()
            .filter(|acceptor| acceptor.is_open() && acceptor.retry_at_ms > self.now_ms())
            .map(|acceptor| acceptor.retry_at_ms)
            .min()
    }

    /// The ring in which an outgoing connection may take a slot, so that no accept in
    /// flight is left without one. `None` if there is no room, nor for another ring.
    pub(crate) fn ring_for_connect(&mut self) -> Option<usize> {
        if self.entries_for_connects() == 0 {
            return None;
        }
        let roomiest = |state: &mut ShardState<M>, margin| {
            let rings = 0..state.rings.len();
            rings.map(|ring| (state.room_for_connects(ring, margin), ring)).max()
        };
        match roomiest(self, self.accept_margin) {
            Some((1.., ring)) => return Some(ring),
            _ if self.open_ring() => return Some(self.rings.len() - 1),
            _ => {}
        }
        let margin = if self.multi_accepts_end_at_once() { 0 } else { self.accept_margin };
        roomiest(self, margin).and_then(|(room, ring)| (room > 0).then_some(ring))
    }

    /// Entries of the connection table that an outgoing connection may take.
    pub(crate) fn entries_for_connects(&mut self) -> u32 {
        let unseen: u32 = (0..self.rings.len()).map(|ring| self.unseen_accepts_max(ring)).sum();
        let armed = self.acceptors.iter().any(|acceptor| acceptor.multi.is_some());
        let kept = if armed && !self.multi_accepts_end_at_once() { self.accept_margin } else { 0 };
        self.entries_left().saturating_sub(unseen + kept)
    }

    /// Slots of a ring an outgoing connection may take, if `margin` of them are kept where
    /// multishot accepts are armed.
    fn room_for_connects(&mut self, ring: usize, margin: u32) -> u32 {
        let armed = self.has_multi_accept(ring);
        let kept = self.unseen_accepts_max(ring) + if armed { margin } else { 0 };
        self.slots_for_accepts(ring).saturating_sub(kept)
    }

    /// True if a cancel pushed now reaches each multishot accept before it can accept again.
    fn multi_accepts_end_at_once(&mut self) -> bool {
        let cancels = self.acceptors.len();
        (0..self.rings.len())
            .all(|ring| !self.has_multi_accept(ring) || self.rings[ring].takes_at_once(cancels))
    }

    /// Ends the multishot accepts that might find less room than they rely on.
    pub(crate) fn end_crowded_accepts(&mut self) {
        (0..self.acceptors.len()).for_each(|position| self.end_if_crowded(position));
    }

    fn end_if_crowded(&mut self, position: usize) {
        if let Some(multi) = self.acceptors[position].multi
            && !multi.cancelled
            && self.room_for_accepts(multi.ring) < self.accept_margin
        {
            self.rings[multi.ring].cancel(self.acceptors[position].operation(Kind::AcceptMulti));
            self.acceptors[position].multi = Some(MultiAccept { cancelled: true, ..multi });
        }
    }

    fn plan_accept(&mut self, position: usize) {
        let operation = self.acceptors[position].operation(Kind::AcceptMulti);
        if self.acceptors[position].multi.is_some() {
            self.end_if_crowded(position);
            return;
        }
        if self.now_ms() < self.acceptors[position].retry_at_ms {
            return;
        }
        // An eighth more than the margin, so that accepts don't change their manner
        // with every connection.
        let wanted = self.accept_margin + self.accept_margin / 8;
        let mut ring = self.roomiest_ring();
        if self.asks_for_ring(position, ring, wanted) && self.open_ring() {
            ring = self.rings.len() - 1;
        }
        if self.room_for_accepts(ring) >= wanted {
            let acceptor = &mut self.acceptors[position];
            acceptor.multi = Some(MultiAccept { ring, cancelled: false });
            acceptor.blocked = false;
            if let Some(socket) = &acceptor.socket {
                self.rings[ring].accept_multi(socket.as_fd(), operation);
            }
        } else {
            self.plan_single_accepts(position);
        }
    }

    /// True if too few connections can come by the roomiest ring, so that another one
    /// is needed. `wanted` are the free slots a multishot accept needs.
    fn asks_for_ring(&self, position: usize, roomiest: usize, wanted: u32) -> bool {
        let empty = self.config.ring.slots - self.adoption_reserve();
        let (room, enough) = if wanted <= empty {
            (self.slots_for_accepts(roomiest), wanted)
        } else {
            // Not even an empty ring has room for the listen queues, so another one would
            // not help: accepts are single, and a ring serves until few of them find a
            // slot. Those in flight have theirs.
            let room = self.slots_for_accepts(roomiest) + self.acceptors[position].singles;
            (room, SINGLE_ACCEPTS_MAX.min(empty.div_ceil(2)))
        };
        // No ring is opened for connections the table has no entries for.
        room < enough.min(self.entries_left())
    }

    fn plan_single_accepts(&mut self, position: usize) {
        while self.acceptors[position].singles < SINGLE_ACCEPTS_MAX {
            let ring = self.roomiest_ring();
            if self.room_for_accepts(ring) == 0 {
                break;
            }
            self.arm_accept_one(position, ring, Kind::AcceptOne);
            self.acceptors[position].singles += 1;
        }
        let blocked = self.acceptors[position].singles == 0;
        if blocked && !self.acceptors[position].blocked {
            self.counters.accept_stalls += 1;
        }
        self.acceptors[position].blocked = blocked;
    }

    fn arm_accept_one(&mut self, position: usize, ring: usize, kind: Kind) {
        let acceptor = &self.acceptors[position];
        let operation = acceptor.operation(kind);
        if let Some(socket) = &acceptor.socket {
            self.rings[ring].accept_one(socket.as_fd(), operation);
            self.rings[ring].slots_reserved += 1;
        }
    }

    /// Brings a stopping listener one step on: waiting accepts end, then the queue is
    /// emptied by accepts that don't wait, then the socket closes.
    fn plan_stop(&mut self, position: usize) {
        let acceptor = &mut self.acceptors[position];
        if let Some(multi) = acceptor.multi {
            if !multi.cancelled {
                acceptor.multi = Some(MultiAccept { cancelled: true, ..multi });
                self.rings[multi.ring].cancel(acceptor.operation(Kind::AcceptMulti));
            }
            return;
        }
        if acceptor.singles > 0 {
            if !acceptor.singles_cancelled {
                acceptor.singles_cancelled = true;
                let operation = acceptor.operation(Kind::AcceptOne);
                self.rings.iter_mut().for_each(|ring| ring.cancel(operation));
            }
            return;
        }
        if acceptor.rest_in_flight || self.now_ms() < self.acceptors[position].retry_at_ms {
            return;
        }
        let ring = self.roomiest_ring();
        if self.room_for_accepts(ring) > 0 {
            self.acceptors[position].rest_in_flight = true;
            self.arm_accept_one(position, ring, Kind::AcceptRest);
            // The kernel tries an accept when it takes the entry, and would then wait:
            // the cancel right behind it makes it one that doesn't wait.
            let operation = self.acceptors[position].operation(Kind::AcceptRest);
            self.rings[ring].cancel(operation);
        } else if self.unseen_accepts_max(ring) == 0 {
            self.acceptors[position].socket = None;
        }
    }

    /// The ring with the most free slots.
    pub(crate) fn roomiest_ring(&self) -> usize {
        (0..self.rings.len()).max_by_key(|&ring| self.rings[ring].slots_free()).unwrap_or(0)
    }

    /// Connections a ring may still accept.
    fn room_for_accepts(&mut self, ring: usize) -> u32 {
        let unseen = self.unseen_accepts_max(ring);
        self.slots_for_accepts(ring).min(self.entries_left()).saturating_sub(unseen)
    }

    /// Connections that a multishot accept may have taken and nobody has seen yet: their
    /// completions wait in the ring, or for those reaped with them. A single accept has its
    /// slot reserved until it is seen.
    fn unseen_accepts_max(&mut self, ring: usize) -> u32 {
        if !self.has_multi_accept(ring) {
            return 0;
        }
        self.rings[ring].waiting() + self.rings[ring].in_hand
    }

    fn has_multi_accept(&self, ring: usize) -> bool {
        self.acceptors.iter().any(|acceptor| acceptor.multi.is_some_and(|multi| multi.ring == ring))
    }

    /// Slots of a ring that accepts may take.
    fn slots_for_accepts(&self, ring: usize) -> u32 {
        self.rings[ring].slots_free().saturating_sub(self.adoption_reserve())
    }

    /// Slots of a ring that only connections from other shards may take.
    fn adoption_reserve(&self) -> u32 {
        (self.config.ring.slots / 64).clamp(1, ADOPTION_RESERVE_MAX)
    }

    /// Entries of the connection table that no connection and no accept in flight takes.
    pub(crate) fn entries_left(&self) -> u32 {
        let reserved: u32 = self.rings.iter().map(|ring| ring.slots_reserved).sum();
        self.config.connections_per_shard_max.saturating_sub(self.table.open() + reserved)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::config::RuntimeConfig;
    use crate::data_ring::RingSizes;
    use crate::identity::ShardId;

    /// A shard with one listener, which no driver drives.
    fn shard() -> ShardState<()> {
        shard_and_address().0
    }

    fn shard_and_address() -> (ShardState<()>, SocketAddr) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let config = RuntimeConfig {
            ring: RingSizes {
                slots: 32,
                submission_entries: 8,
                completion_entries: 16,
                receive_buffers: 2,
                receive_buffer_bytes: 64,
            },
            ..RuntimeConfig::default()
        };
        let mesh = crate::mesh::connect(1).unwrap().shards.remove(0);
        let acceptors = vec![Acceptor::new(ListenerId(0), listener.into())];
        (ShardState::new(ShardId(0), config, mesh, acceptors, 4).unwrap(), address)
    }

    fn complete(state: &mut ShardState<()>, kind: Kind, errno: i32) {
        let accepted = state.accept_completed(0, Operation::other(kind, 0), -errno, false);
        assert!(accepted.is_none());
    }

    #[test]
    fn accepts_nobody_has_seen_yet_take_room() {
        let (mut state, address) = shard_and_address();
        state.plan_accepts();
        state.submit().unwrap();
        let room = state.room_for_accepts(0);
        let _clients: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
        let end = Instant::now() + Duration::from_secs(30);
        while state.rings[0].waiting() < 8 {
            assert!(Instant::now() < end, "{} accepts", state.rings[0].waiting());
            state.submit().unwrap();
        }
        assert_eq!((state.rings[0].slots_used, state.room_for_accepts(0)), (0, room - 8));
    }

    #[test]
    fn a_connect_leaves_a_multishot_accept_its_room_or_ends_it() {
        let (mut state, address) = shard_and_address();
        state.plan_accepts();
        assert!(state.acceptors[0].multi.is_some());
        // Nothing more can be opened: all connects share the ring with the accept.
        state.rings_max = 1;
        let mut connects = 0;
        while state.begin_connect(None, address).is_ok() {
            connects += 1;
            let room = state.room_for_accepts(0);
            let multi = state.acceptors[0].multi.unwrap();
            assert_eq!(multi.cancelled, room < state.accept_margin, "room for {room}");
            // Hands over what was pushed, so that the next cancel need not wait, and takes
            // what came of it, which might be accepts as far as anybody knows.
            state.submit().unwrap();
            while state.rings[0].reap(&mut [const { MaybeUninit::uninit() }; 8]) > 0 {}
        }
        // All slots but the one kept for connections from other shards.
        assert_eq!((connects, state.rings[0].slots_used), (31, 31));
    }

    #[test]
    fn a_connect_takes_no_slot_of_an_accept_whose_end_would_come_late() {
        let (mut state, address) = shard_and_address();
        state.plan_accepts();
        state.rings_max = 1;
        // The queue takes 8 entries, so nearly all of these and a cancel would wait.
        let begun = (0..).take_while(|_| state.begin_connect(None, address).is_ok()).count();
        assert_eq!(state.room_for_accepts(0), state.accept_margin);
        assert_eq!(begun as u32, 31 - state.accept_margin);
        assert!(!state.acceptors[0].multi.unwrap().cancelled);
    }

    #[test]
    fn completions_in_hand_count_as_accepts_nobody_has_seen() {
        let (mut state, _) = shard_and_address();
        state.plan_accepts();
        let margin = state.accept_margin;
        let before = (state.room_for_connects(0, margin), state.entries_for_connects());
        state.rings[0].in_hand = 5;
        let after = (state.room_for_connects(0, margin), state.entries_for_connects());
        assert_eq!(after, (before.0 - 5, before.1 - 5));
    }

    #[test]
    fn a_failed_accept_wakes_an_idle_shard() {
        let mut state = shard();
        state.plan_accepts();
        assert!(state.acceptors[0].multi.is_some());
        assert_eq!(state.next_deadline_ms(), u64::MAX);
        complete(&mut state, Kind::AcceptMulti, libc::ENFILE);
        assert_eq!(state.next_deadline_ms(), state.now_ms() + RETRY_AFTER_MS);
        state.plan_accepts();
        assert!(state.acceptors[0].multi.is_none(), "not before its time");
        state.now_ns += RETRY_AFTER_MS * 1_000_000;
        assert_eq!(state.next_deadline_ms(), u64::MAX, "the time has come");
        state.plan_accepts();
        assert!(state.acceptors[0].multi.is_some());
    }

    #[test]
    fn a_stopping_listener_closes_when_its_queue_is_empty_not_when_an_accept_fails() {
        for (errno, pause_ms) in [
            (libc::ENOMEM, RETRY_AFTER_MS),
            (libc::ENFILE, RETRY_AFTER_MS),
            (libc::ECONNABORTED, 0),
        ] {
            let mut state = shard();
            state.acceptors[0].stop();
            state.plan_accepts();
            assert!(state.acceptors[0].rest_in_flight);
            complete(&mut state, Kind::AcceptRest, errno);
            assert!(state.acceptors[0].is_open(), "errno {errno}");
            state.now_ns += pause_ms * 1_000_000;
            state.plan_accepts();
            assert!(state.acceptors[0].rest_in_flight, "errno {errno}: tried again");
            complete(&mut state, Kind::AcceptRest, libc::ECANCELED);
            assert!(state.accepts_ended() && state.rings[0].slots_reserved == 0);
        }
    }

    #[test]
    fn a_stopping_listener_whose_accepts_fail_for_ever_closes_in_the_end() {
        let mut state = shard();
        state.acceptors[0].stop();
        for _ in 0..REST_FAILURES_MAX {
            assert!(!state.accepts_ended());
            state.plan_accepts();
            complete(&mut state, Kind::AcceptRest, libc::ENOMEM);
            state.now_ns += RETRY_AFTER_MS * 1_000_000;
        }
        assert!(state.accepts_ended());
    }
}
