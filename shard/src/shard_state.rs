//! All a shard owns besides its service: rings, connections, output, timers, mesh.
//!
//! The driver calls the service and hands it this state behind [`crate::io::Io`];
//! whatever would need the service in turn (a connection that closed, output that
//! ran empty) is queued as [`Deferred`] and told after the callback has returned.
//!
//! Invariants: a connection's operations in the kernel are counted by its flags; its
//! slot is closed and its entry given back when the last of them has completed.

use std::collections::VecDeque;
use std::io;

use slab::Slab;

use crate::accepting::Acceptor;
use crate::config::RuntimeConfig;
use crate::connecting::Addresses;
use crate::connection_table::{ConnectionTable, Flags, NONE};
use crate::data_ring::{DataRing, RingError};
use crate::identity::{ConnId, ShardId};
use crate::mesh::{Envelope, Mesh, RingAddress};
use crate::operation::{Kind, Operation};
use crate::output_queue::OutputQueues;
use crate::ring_timer::RingTimer;
use crate::service::CloseReason;
use crate::timer_wheel::TimerWheel;
use crate::transfer::Transfer;

/// How long a connection that lingers waits for the peer's end.
pub const LINGER_MS: u64 = 2_000;

/// How long before a turn that was asked for a shard stays awake: a sleep ends up to some
/// 60 µs late, by the kernel's timer slack and the way out of it.
pub const SPIN_BEFORE_TURN_NS: u64 = 100_000;

/// What the service has still to be told.
pub(crate) enum Deferred<M> {
    Closed(ConnId, CloseReason),
    Drained(ConnId),
    /// Bytes or the end were kept back and may be told now.
    Held(ConnId),
    /// A connection could not move.
    Returned(ConnId, M),
}

/// What a timer of the shard stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Alarm {
    Service(u64),
    LingerEnds(ConnId),
    /// A move waits for the other shard's answer.
    MoveWaits(ConnId),
}

/// What is kept for a connection that is paused or moves.
pub(crate) struct Hold<M> {
    pub(crate) bytes: Vec<u8>,
    pub(crate) eof: bool,
    pub(crate) transfer: Option<Transfer<M>>,
}

impl<M> Default for Hold<M> {
    fn default() -> Hold<M> {
        Hold { bytes: Vec::new(), eof: false, transfer: None }
    }
}

/// Counts since the shard started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that came from other shards.
    pub adopted: u64,
    /// Connections handed to other shards.
    pub moved_away: u64,
    /// Moves that failed; the connection stayed.
    pub moves_failed: u64,
    /// Times the shard stopped accepting because all slots were taken.
    pub accept_stalls: u64,
    /// Accepts that failed for want of memory, descriptors or slots.
    pub accept_failures: u64,
    /// Connections closed right after the accept because the table was full.
    pub refused: u64,
    /// Outgoing connections that stood.
    pub connects: u64,
    /// Outgoing connections that ended before they stood, also those the service closed.
    pub connects_failed: u64,
    /// Times a receive ran out of buffers.
    pub buffers_exhausted: u64,
    /// Callbacks that panicked.
    pub panics: u64,
    /// Turns of the driver.
    pub turns: u64,
    /// Times the driver waited in its ring, for a moment.
    pub waits: u64,
    /// Times the driver slept by the executor, for long.
    pub sleeps: u64,
}

/// The state of one shard.
pub(crate) struct ShardState<M> {
    pub(crate) shard: ShardId,
    pub(crate) config: RuntimeConfig,
    pub(crate) rings: Vec<DataRing>,
    pub(crate) rings_max: usize,
    pub(crate) table: ConnectionTable,
    pub(crate) outputs: OutputQueues,
    /// Where the connections that don't stand yet are to lead.
    pub(crate) connecting: Addresses,
    pub(crate) holds: Slab<Hold<M>>,
    /// Connections to look at when the turn ends.
    pub(crate) dirty: Vec<ConnId>,
    pub(crate) deferred: VecDeque<Deferred<M>>,
    pub(crate) wheel: TimerWheel<Alarm>,
    pub(crate) timer: RingTimer,
    /// The first ring watches the eventfd.
    pub(crate) bell_armed: bool,
    pub(crate) mesh: Mesh<M>,
    pub(crate) acceptors: Vec<Acceptor>,
    /// Free slots a ring needs for a multishot accept: all listen queues together.
    pub(crate) accept_margin: u32,
    /// The rings of all shards, in the order they were opened.
    pub(crate) peer_rings: Vec<Vec<RingAddress>>,
    pub(crate) counters: Counters,
    pub(crate) now_ns: u64,
    /// Connections that wait for their peer's end: [`Flags::GONE`] without
    /// [`Flags::TEARDOWN`].
    pub(crate) lingering: u32,
    pub(crate) finished: bool,
    /// The service is being told that its connections are gone: none may be begun.
    pub(crate) ending: bool,
    pub(crate) deadline_ms: Option<u64>,
    /// When the service wants a turn, whatever else there is to do.
    pub(crate) turn_at_ns: Option<u64>,
}

impl<M> ShardState<M> {
    /// A shard with one ring and no connection.
    pub(crate) fn new(
        shard: ShardId,
        config: RuntimeConfig,
        mesh: Mesh<M>,
        acceptors: Vec<Acceptor>,
        accept_margin: u32,
    ) -> Result<ShardState<M>, RingError> {
        let ring = DataRing::new(config.ring, mesh.doorbell().eventfd())?;
        let now_ns = crate::clock::monotonic_ns();
        Ok(ShardState {
            shard,
            rings: vec![ring],
            rings_max: usize::from(config.rings_per_shard_max.max(1)),
            table: ConnectionTable::new(config.connections_per_shard_max),
            outputs: OutputQueues::default(),
            connecting: Addresses::default(),
            holds: Slab::new(),
            dirty: Vec::new(),
            deferred: VecDeque::new(),
            wheel: TimerWheel::new(now_ns / 1_000_000),
            timer: RingTimer::default(),
            bell_armed: false,
            peer_rings: vec![Vec::new(); mesh.shards()],
            mesh,
            acceptors,
            accept_margin,
            counters: Counters::default(),
            now_ns,
            lingering: 0,
            finished: false,
            ending: false,
            deadline_ms: None,
            turn_at_ns: None,
            config,
        })
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ns / 1_000_000
    }

    /// Opens another ring and tells the other shards of it. False if the limit is
    /// reached or the ring can't be had; then it isn't tried again.
    pub(crate) fn open_ring(&mut self) -> bool {
        if self.rings.len() >= self.rings_max {
            return false;
        }
        let Ok(ring) = DataRing::new(self.config.ring, self.mesh.doorbell().eventfd()) else {
            self.rings_max = self.rings.len();
            self.counters.accept_failures += 1;
            return false;
        };
        for to in 0..self.mesh.shards() as u16 {
            if ShardId(to) != self.shard {
                let address = RingAddress::clone(ring.address());
                self.mesh.send_internal(ShardId(to), Envelope::RingOpened(address));
            }
        }
        self.rings.push(ring);
        true
    }

    /// True if the service may still name the connection.
    pub(crate) fn is_live(&self, conn: ConnId) -> bool {
        self.table.find(conn).is_some_and(|connection| !connection.flags.any(Flags::GONE))
    }

    /// Puts a connection on the list of those to look at when the turn ends.
    pub(crate) fn mark_dirty(&mut self, conn: ConnId) {
        if let Some(connection) = self.table.find_mut(conn)
            && !connection.flags.any(Flags::DIRTY)
        {
            connection.flags.set(Flags::DIRTY);
            self.dirty.push(conn);
        }
    }

    /// The record of what is kept for a connection; made if there is none.
    pub(crate) fn hold_mut(&mut self, conn: ConnId) -> Option<&mut Hold<M>> {
        let connection = self.table.find_mut(conn)?;
        if connection.hold == NONE {
            connection.hold = self.holds.insert(Hold::default()) as u32;
        }
        self.holds.get_mut(connection.hold as usize)
    }

    /// Takes the record of what is kept for a connection.
    pub(crate) fn take_hold(&mut self, conn: ConnId) -> Option<Hold<M>> {
        let connection = self.table.find_mut(conn)?;
        let hold = self.holds.try_remove(connection.hold as usize);
        connection.hold = NONE;
        hold
    }

    /// Arms the receive if the connection is to receive and does not.
    pub(crate) fn arm_recv(&mut self, conn: ConnId) {
        const NOT_NOW: Flags = Flags::RECV_ARMED
            .or(Flags::PAUSED)
            .or(Flags::MOVING)
            .or(Flags::EOF)
            .or(Flags::TEARDOWN)
            .or(Flags::STARVED)
            .or(Flags::CONNECTING);
        if let Some(connection) = self.table.find_mut(conn)
            && !connection.flags.any(NOT_NOW)
        {
            connection.flags.set(Flags::RECV_ARMED);
            let (ring, slot) = (usize::from(connection.ring), connection.slot);
            self.rings[ring].recv_multi(slot, Operation::of(Kind::Recv, conn));
        }
    }

    /// Ends the receive; its last completion still comes.
    pub(crate) fn cancel_recv(&mut self, conn: ConnId) {
        if let Some(connection) = self.table.find(conn)
            && connection.flags.any(Flags::RECV_ARMED)
        {
            let ring = usize::from(connection.ring);
            self.rings[ring].cancel(Operation::of(Kind::Recv, conn));
        }
    }

    /// Arms the receives that had run out of buffers. Those of the completions handled in
    /// this turn are back now; more may be missing as long as completions wait.
    pub(crate) fn feed_starved(&mut self) {
        for ring in 0..self.rings.len() {
            if self.rings[ring].starved.is_empty() {
                continue;
            }
            self.rings[ring].widen_buffers();
            for conn in std::mem::take(&mut self.rings[ring].starved) {
                if let Some(connection) = self.table.find_mut(conn) {
                    connection.flags.clear(Flags::STARVED);
                    self.arm_recv(conn);
                }
            }
        }
    }

    /// Closes a connection: the service is told, and the slot goes when the kernel
    /// has let go of it.
    pub(crate) fn close(&mut self, conn: ConnId, reason: CloseReason) {
        let Some(connection) = self.table.find_mut(conn) else { return };
        // Once the socket is being handed over it is the other shard's to close.
        if connection.flags.any(Flags::GONE.or(Flags::SEND_FD_IN_FLIGHT)) {
            return;
        }
        connection.flags.set(Flags::GONE);
        if let Some(transfer) = self.take_hold(conn).and_then(|hold| hold.transfer) {
            self.abandon_move(conn, transfer);
        }
        self.deferred.push_back(Deferred::Closed(conn, reason));
        self.tear_down(conn);
    }

    /// Closes a connection as its service asked.
    pub(crate) fn close_locally(&mut self, conn: ConnId) {
        let Some(connection) = self.table.find(conn) else { return };
        let eof = connection.flags.any(Flags::EOF);
        self.close(conn, if eof { CloseReason::Peer } else { CloseReason::Local });
    }

    /// Ends what is in the kernel and then closes the slot.
    pub(crate) fn tear_down(&mut self, conn: ConnId) {
        let Some(connection) = self.table.find_mut(conn) else { return };
        connection.flags.set(Flags::TEARDOWN);
        connection.flags.clear(Flags::MOVING);
        let (flags, output, ring) =
            (connection.flags, connection.output, usize::from(connection.ring));
        self.outputs.drop_pending(output);
        if flags.any(Flags::RECV_ARMED) {
            self.rings[ring].cancel(Operation::of(Kind::Recv, conn));
        }
        if flags.any(Flags::SEND_IN_FLIGHT) {
            self.rings[ring].cancel(Operation::of(Kind::Send, conn));
        }
        if flags.any(Flags::CONNECTING) {
            // The kernel makes a socket without waiting, so that needs no cancel; its
            // completion finds the connection torn down.
            self.rings[ring].cancel(Operation::of(Kind::Connect, conn));
        }
        self.release_if_done(conn);
    }

    /// Closes the slot and gives the entry back, if the connection is torn down and
    /// none of its operations is in the kernel.
    pub(crate) fn release_if_done(&mut self, conn: ConnId) {
        let Some(connection) = self.table.find_mut(conn) else { return };
        if !connection.flags.any(Flags::TEARDOWN) || connection.flags.any(Flags::IN_KERNEL) {
            return;
        }
        self.outputs.release(&mut connection.output);
        let ring = &mut self.rings[usize::from(connection.ring)];
        if connection.slot != NONE {
            ring.close(connection.slot);
        }
        ring.slots_used -= 1;
        self.take_hold(conn);
        self.table.remove(conn);
    }

    /// Clears the flag of an operation that has completed for good. False if the
    /// connection is not there any more.
    pub(crate) fn operation_ended(&mut self, conn: ConnId, flag: Flags) -> bool {
        let Some(connection) = self.table.find_mut(conn) else {
            debug_assert!(false, "a completion for {conn:?}, which was given back");
            return false;
        };
        connection.flags.clear(flag);
        true
    }

    /// Sends what the turn has produced.
    pub(crate) fn flush_outputs(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for conn in dirty.drain(..) {
            if let Some(connection) = self.table.find_mut(conn) {
                connection.flags.clear(Flags::DIRTY);
                self.send_next(conn);
            }
        }
        // Nothing was marked meanwhile, or it waits for the next turn.
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    /// Starts the next send of a connection, or does what waits for its output's end.
    pub(crate) fn send_next(&mut self, conn: ConnId) {
        const NOT_NOW: Flags = Flags::SEND_IN_FLIGHT.or(Flags::TEARDOWN).or(Flags::CONNECTING);
        let Some(connection) = self.table.find_mut(conn) else { return };
        if connection.flags.any(NOT_NOW) {
            return;
        }
        let Some(chunk) = self.outputs.next_chunk(connection.output) else {
            self.outputs.release(&mut connection.output);
            self.output_drained(conn);
            return;
        };
        connection.flags.set(Flags::SEND_IN_FLIGHT);
        let operation = Operation::of(Kind::Send, conn);
        let ring = &mut self.rings[usize::from(connection.ring)];
        // SAFETY: the chunk's buffer is neither changed nor freed until `send_completed`
        // (the record isn't released while SEND_IN_FLIGHT is set); if the shard ends
        // before, `Drop` ends all operations first.
        unsafe { ring.send(connection.slot, chunk, operation) }
    }

    /// A send has completed with the kernel's result.
    pub(crate) fn send_completed(&mut self, conn: ConnId, result: i32) {
        if !self.operation_ended(conn, Flags::SEND_IN_FLIGHT) {
            return;
        }
        let Some(connection) = self.table.find(conn) else { return };
        if connection.flags.any(Flags::TEARDOWN) {
            self.release_if_done(conn);
        } else if result >= 0 {
            self.outputs.advance(connection.output, result as usize);
            self.send_next(conn);
        } else {
            self.close(conn, CloseReason::Reset(io::Error::from_raw_os_error(-result)));
        }
    }

    fn output_drained(&mut self, conn: ConnId) {
        let Some(connection) = self.table.find_mut(conn) else { return };
        let flags = connection.flags;
        if flags.any(Flags::NOTIFY_DRAINED) {
            connection.flags.clear(Flags::NOTIFY_DRAINED);
            self.deferred.push_back(Deferred::Drained(conn));
        }
        if flags.any(Flags::GONE) {
            return;
        }
        if flags.any(Flags::CLOSE_AFTER_FLUSH) {
            if flags.any(Flags::LINGER) && !flags.any(Flags::EOF) {
                self.begin_linger(conn);
            } else {
                self.close_locally(conn);
            }
        } else if flags.any(Flags::MOVING) {
            self.continue_move(conn);
        }
    }

    /// Closes the sending half and waits for the peer's end, as closing a socket with
    /// unread bytes resets it, which may destroy the answer on its way
    /// (RFC 9112, section 9.6).
    fn begin_linger(&mut self, conn: ConnId) {
        if let Some(transfer) = self.take_hold(conn).and_then(|hold| hold.transfer) {
            self.abandon_move(conn, transfer);
        }
        let deadline_ms = self.now_ms() + LINGER_MS;
        let Some(connection) = self.table.find_mut(conn) else { return };
        connection.flags.set(Flags::GONE.or(Flags::SHUTDOWN_IN_FLIGHT));
        connection.flags.clear(Flags::PAUSED.or(Flags::MOVING));
        self.lingering += 1;
        let operation = Operation::of(Kind::ShutdownWrite, conn);
        self.rings[usize::from(connection.ring)].shutdown_write(connection.slot, operation);
        self.deferred.push_back(Deferred::Closed(conn, CloseReason::Local));
        self.wheel.arm(deadline_ms, Alarm::LingerEnds(conn));
        self.arm_recv(conn);
    }

    /// A peer that was waited for has ended, or its time is up.
    pub(crate) fn end_linger(&mut self, conn: ConnId) {
        if let Some(connection) = self.table.find(conn)
            && !connection.flags.any(Flags::TEARDOWN)
        {
            self.lingering -= 1;
            self.tear_down(conn);
        }
    }

    /// Arms the shard's timer for the next deadline, at most `recheck_ms` away.
    pub(crate) fn arm_timer_for_sleep(&mut self, recheck_ms: u64) {
        let now_ms = self.now_ms();
        let awake_from_ms = self.awake_from_ns() / 1_000_000;
        let wake_ms = self.next_deadline_ms().min(awake_from_ms).min(now_ms + recheck_ms);
        self.timer.arm(&mut self.rings[0], now_ms, wake_ms);
    }

    /// When the shard has to look at its timers and listeners next.
    pub(crate) fn next_deadline_ms(&self) -> u64 {
        let timers = self.wheel.next_deadline_ms().unwrap_or(u64::MAX);
        let accepts = self.next_accept_retry_ms().unwrap_or(u64::MAX);
        timers.min(accepts).min(self.deadline_ms.unwrap_or(u64::MAX))
    }

    /// True once the moment has come at which the service wants a turn; that settles the wish.
    pub(crate) fn take_due_turn(&mut self) -> bool {
        let due = self.turn_at_ns.is_some_and(|at_ns| at_ns <= self.now_ns);
        if due {
            self.turn_at_ns = None;
        }
        due
    }

    /// From when on the shard stays awake for the turn the service wants.
    pub(crate) fn awake_from_ns(&self) -> u64 {
        self.turn_at_ns.map_or(u64::MAX, |at_ns| at_ns.saturating_sub(SPIN_BEFORE_TURN_NS))
    }

    /// Has the first ring watch the eventfd, or stops it.
    pub(crate) fn watch_bell(&mut self, on: bool) {
        let operation = Operation::other(Kind::Bell, 0);
        if on && !self.bell_armed {
            self.bell_armed = true;
            self.rings[0].poll_multi(self.mesh.doorbell().eventfd(), operation);
        } else if !on && self.bell_armed {
            self.rings[0].cancel(operation);
        }
    }

    /// Submits all rings.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        self.rings.iter_mut().try_for_each(DataRing::submit)
    }

    /// True if all listeners are closed.
    pub(crate) fn accepts_ended(&self) -> bool {
        !self.acceptors.iter().any(Acceptor::is_open)
    }
}

impl<M> Drop for ShardState<M> {
    fn drop(&mut self) {
        let busy = self.rings.iter_mut().filter_map(|ring| (!ring.end_operations()).then_some(()));
        if busy.count() > 0 {
            // The kernel may still read from these buffers: a leak, but no use after free.
            std::mem::forget(std::mem::take(&mut self.outputs));
            std::mem::forget(std::mem::take(&mut self.connecting));
        }
    }
}
