//! The loop of one shard: turns of work, and sleep when there is none.
//!
//! A turn reads the clock once, takes the mesh's messages, the rings' completions and
//! the expired timers, tells the service, then sends what came of it: one send per
//! connection, one batch per shard, one submission per ring.
//!
//! Invariants: callbacks are never nested; after each one the service is told what
//! followed from it before the next completion is looked at; a panic in a callback for
//! one connection closes that connection only, but for `handle_closed`: after it there
//! is nothing left to close, and what the service keeps for the connection may be
//! half removed, so the shard ends.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};

use io_uring::cqueue;

use crate::connection_table::Flags;
use crate::identity::{ConnId, Origin};
use crate::io::Io;
use crate::mesh::Envelope;
use crate::operation::{Kind, Operation};
use crate::service::{CloseReason, Service};
use crate::shard_state::{Alarm, Deferred, ShardState};

/// Completions of one ring handled in one turn: enough to make a system call cheap per
/// request, few enough that a turn stays well below the yield interval.
const COMPLETIONS_PER_TURN_MAX: usize = 128;
/// Timers handled in one turn.
const TIMERS_PER_TURN_MAX: usize = 256;
/// Tries to sleep after the watch of the eventfd has ended: its completions take a turn or two.
const SLEEP_TRIES: u8 = 3;
/// How long the driver blocks the executor to wait for its ring. Traffic that comes at
/// least so often is served without the executor's dear sleep (some seven system calls
/// against one); the executor's other tasks are delayed by so much at most.
const WAIT_NS_MAX: u64 = 1_000_000;
/// A sleeping shard looks around at least this often, should a wake-up ever be lost.
const RECHECK_MS: u64 = 500;
/// The same while messages wait for a full channel.
const RECHECK_UNSENT_MS: u64 = 1;

/// What a turn has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// There was something to do.
    Worked,
    /// There was nothing to do.
    Idle,
    /// The service has finished, or its time is up.
    Finished,
}

/// A service and the shard it runs on.
pub(crate) struct Driver<S: Service> {
    service: S,
    pub(crate) state: ShardState<S::Message>,
    batches: Vec<(Origin, Vec<Envelope<S::Message>>)>,
    completions: Box<[MaybeUninit<cqueue::Entry>; COMPLETIONS_PER_TURN_MAX]>,
    /// When a message last came; a shard others talk to spins before it sleeps.
    pub(crate) last_message_ns: Option<u64>,
    /// Sleeps that may still be tried without another wait: see [`Driver::fall_asleep`].
    sleep_tries: u8,
}

impl<S: Service> Driver<S> {
    pub(crate) fn new(service: S, state: ShardState<S::Message>) -> Driver<S> {
        Driver {
            service,
            state,
            batches: Vec::new(),
            completions: Box::new([const { MaybeUninit::uninit() }; COMPLETIONS_PER_TURN_MAX]),
            last_message_ns: None,
            sleep_tries: 0,
        }
    }

    /// One turn. Fails if the kernel refuses a submission.
    pub(crate) fn turn(&mut self) -> io::Result<Turn> {
        self.state.now_ns = crate::clock::monotonic_ns();
        self.state.counters.turns += 1;
        if self.state.counters.turns == 1 {
            self.service.handle_start(&mut Io { state: &mut self.state });
        }
        let mut worked = self.has_pending() | self.state.take_due_turn();
        self.tell_deferred();
        worked |= self.handle_messages();
        for ring in 0..self.state.rings.len() {
            worked |= self.handle_completions(ring);
        }
        self.state.feed_starved();
        worked |= self.handle_timers();
        if worked {
            self.service.handle_turn_end(&mut Io { state: &mut self.state });
        }
        self.tell_deferred();
        self.state.flush_outputs();
        self.state.mesh.flush();
        self.state.plan_accepts();
        self.state.submit()?;
        if self.is_finished() {
            return Ok(Turn::Finished);
        }
        Ok(if worked { Turn::Worked } else { Turn::Idle })
    }

    /// Waits for the next thing to do in the first ring: cheap, but it blocks the
    /// executor, so it takes [`WAIT_NS_MAX`] at most. False if nothing has come.
    pub(crate) fn wait(&mut self) -> io::Result<bool> {
        if self.has_pending() || self.state.awake_from_ns() <= self.state.now_ns {
            return Ok(true);
        }
        if self.sleep_tries > 0 {
            self.sleep_tries -= 1;
            return Ok(false);
        }
        let state = &mut self.state;
        let deadline_ns = state.next_deadline_ms().saturating_mul(1_000_000);
        let deadline_ns = deadline_ns.min(state.awake_from_ns());
        let limit_ns = deadline_ns.saturating_sub(state.now_ns).min(WAIT_NS_MAX);
        if !state.bell_armed {
            state.watch_bell(true);
            state.submit()?;
        }
        // The other rings write the eventfd, which the first one watches.
        state.rings[1..].iter_mut().for_each(|ring| ring.set_signalling(true));
        let undisturbed = state.mesh.doorbell().fall_asleep();
        if undisturbed && !state.rings.iter_mut().any(|ring| ring.has_work()) {
            state.counters.waits += 1;
            state.rings[0].wait(limit_ns)?;
        }
        self.wake();
        Ok(self.has_work() || limit_ns < WAIT_NS_MAX)
    }

    /// Makes ready to sleep: from the return of `true` on, completions, messages and the
    /// next deadline write the eventfd. `false` if there is something to do already.
    pub(crate) fn fall_asleep(&mut self) -> io::Result<bool> {
        if self.has_pending() {
            return Ok(false);
        }
        let state = &mut self.state;
        // A ring that watches the eventfd it writes itself would wake up for ever.
        if state.bell_armed {
            // The end of the watch is a completion, so this very sleep fails. Another
            // wait would begin the watch anew, and the shard would never sleep.
            state.watch_bell(false);
            self.sleep_tries = SLEEP_TRIES;
        }
        let unsent = state.mesh.has_unsent();
        state.arm_timer_for_sleep(if unsent { RECHECK_UNSENT_MS } else { RECHECK_MS });
        state.submit()?;
        state.rings.iter_mut().for_each(|ring| ring.set_signalling(true));
        // The kernel first adds work and then looks whether to signal; we first allow the
        // signal and then look for work. `fall_asleep` on the doorbell is a sequentially
        // consistent store, so one of the two sees the other.
        let asleep = state.mesh.doorbell().fall_asleep();
        if !asleep || state.rings.iter_mut().any(|ring| ring.has_work()) {
            self.wake();
            return Ok(false);
        }
        state.counters.sleeps += 1;
        self.sleep_tries = 0;
        Ok(true)
    }

    /// True if the service has still to be told something or output waits to be sent.
    fn has_pending(&self) -> bool {
        !self.state.deferred.is_empty() || !self.state.dirty.is_empty()
    }

    /// The end of sleep.
    pub(crate) fn wake(&mut self) {
        self.state.mesh.doorbell().wake();
        self.state.rings.iter_mut().for_each(|ring| ring.set_signalling(false));
    }

    /// True if a turn would find something to do, looking only where it is cheap.
    pub(crate) fn has_work(&mut self) -> bool {
        self.state.mesh.doorbell().has_mail()
            || self.state.rings.iter_mut().any(|ring| ring.has_work())
    }

    /// Tells the service that its connections are gone; the shard ends in order.
    pub(crate) fn end(&mut self) {
        self.state.ending = true;
        let live: Vec<ConnId> = self.state.table.live().collect();
        for conn in live {
            self.state.close(conn, CloseReason::Shutdown);
        }
        self.tell_deferred();
        // What these callbacks sent has no further turn to leave in.
        self.state.mesh.flush();
        // Closes the slots of those the kernel holds nothing of.
        let _ = self.state.submit();
    }

    fn is_finished(&self) -> bool {
        let state = &self.state;
        let overdue = state.deadline_ms.is_some_and(|deadline_ms| deadline_ms <= state.now_ms());
        if !state.finished {
            return overdue;
        }
        // A lingering connection closed now would be reset, so that its peer may lose
        // the answer; none lingers for longer than `LINGER_MS`.
        let quiet = state.outputs.len() == state.outputs_of_connecting()
            && state.lingering == 0
            && state.deferred.is_empty()
            && !state.mesh.has_unsent()
            && state.accepts_ended();
        overdue || quiet
    }

    fn handle_messages(&mut self) -> bool {
        if !self.state.mesh.doorbell().has_mail() {
            return false;
        }
        let mut batches = std::mem::take(&mut self.batches);
        self.state.mesh.receive(&mut batches);
        for (origin, mut batch) in batches.drain(..) {
            for envelope in batch.drain(..) {
                self.handle_envelope(origin, envelope);
                self.tell_deferred();
            }
            self.state.mesh.recycle(batch);
        }
        self.batches = batches;
        self.last_message_ns = Some(self.state.now_ns);
        true
    }

    fn handle_envelope(&mut self, origin: Origin, envelope: Envelope<S::Message>) {
        let io = &mut Io { state: &mut self.state };
        match envelope {
            Envelope::Message(message) => self.service.handle_message(io, origin, message),
            Envelope::Arrival(arrival) => {
                if let Some((conn, baggage)) = self.state.adopt(*arrival) {
                    self.tell_one(conn, |service, io| service.handle_adopted(io, conn, baggage));
                    self.state.deferred.push_back(Deferred::Held(conn));
                }
            }
            Envelope::SlotReturned { ring } => self.state.unreserve_slot(ring),
            Envelope::SlotWanted(conn) => self.state.reserve_slot(origin.shard(), conn),
            Envelope::SlotAnswer { conn, ring } => {
                self.state.slot_answered(origin.shard(), conn, ring);
            }
            Envelope::RingOpened(address) => {
                self.state.peer_rings[usize::from(origin.shard().0)].push(address);
            }
            Envelope::Shutdown { deadline_ms } => {
                self.state.deadline_ms = Some(deadline_ms);
                let io = &mut Io { state: &mut self.state };
                io.stop_accepting();
                self.service.handle_shutdown(io);
            }
        }
    }

    fn handle_completions(&mut self, ring: usize) -> bool {
        let count = self.state.rings[ring].reap(&mut self.completions[..]);
        for position in 0..count {
            // SAFETY: `reap` has written the first `count` entries.
            let entry = unsafe { self.completions[position].assume_init_ref() };
            let (user_data, result, flags) = (entry.user_data(), entry.result(), entry.flags());
            self.state.rings[ring].in_hand = (count - position - 1) as u32;
            if let Some(operation) = Operation::from_user_data(user_data) {
                self.handle_completion(ring, operation, result, flags);
                self.tell_deferred();
            }
        }
        count > 0
    }

    fn handle_completion(&mut self, ring: usize, operation: Operation, result: i32, flags: u32) {
        let conn = operation.conn();
        match operation.kind {
            Kind::Recv => self.handle_received(ring, conn, result, flags),
            Kind::Send => self.state.send_completed(conn, result),
            Kind::AcceptMulti | Kind::AcceptOne | Kind::AcceptRest => {
                let more = cqueue::more(flags);
                let accepted = self.state.accept_completed(ring, operation, result, more);
                if let Some((conn, listener)) = accepted {
                    self.tell_one(conn, |service, io| service.handle_accept(io, conn, listener));
                    self.state.arm_recv(conn);
                }
            }
            Kind::Socket => self.state.socket_made(conn, result),
            Kind::Bind => self.state.socket_bound(conn, result),
            Kind::Connect => {
                if self.state.connect_completed(conn, result) {
                    self.tell_one(conn, |service, io| service.handle_connected(io, conn));
                    self.state.arm_recv(conn);
                }
            }
            Kind::SendFd => self.state.send_fd_completed(conn, result),
            Kind::ShutdownWrite => {
                self.state.operation_ended(conn, Flags::SHUTDOWN_IN_FLIGHT);
                self.state.release_if_done(conn);
            }
            Kind::Timer => self.state.timer.fired(),
            Kind::Bell => self.state.bell_armed &= cqueue::more(flags),
            Kind::Ignored => {}
        }
    }

    /// One completion of a receive: bytes in a buffer, the peer's end, or an error.
    fn handle_received(&mut self, ring: usize, conn: ConnId, result: i32, flags: u32) {
        let last = !cqueue::more(flags);
        if last {
            self.state.operation_ended(conn, Flags::RECV_ARMED);
        }
        if let Some(buffer) = cqueue::buffer_select(flags) {
            let length = result.max(0) as usize;
            let bytes = self.state.rings[ring].buffers().take(buffer, length);
            if length > 0 {
                // SAFETY: the kernel has handed this buffer over with this completion and
                // gets it back only below; no other slice to it exists. The memory belongs
                // to the ring, which lives as long as the shard's state.
                let bytes = unsafe { &mut *bytes.as_ptr() };
                self.deliver(conn, bytes);
            }
            self.state.rings[ring].buffers().give_back(buffer);
        }
        match result {
            0 => self.handle_end(conn),
            _ if result > 0 || -result == libc::ECANCELED => {}
            _ if -result == libc::ENOBUFS => self.starve(ring, conn),
            _ => self.handle_recv_error(conn, -result),
        }
        if last {
            self.state.release_if_done(conn);
            self.state.arm_recv(conn);
            self.state.continue_move_later(conn);
        }
    }

    /// Hands bytes to the service, or keeps or drops them as the connection's state asks.
    fn deliver(&mut self, conn: ConnId, bytes: &mut [u8]) {
        const KEPT: Flags = Flags::PAUSED.or(Flags::MOVING);
        const DROPPED: Flags = Flags::GONE.or(Flags::CLOSE_AFTER_FLUSH);
        let Some(connection) = self.state.table.find(conn) else { return };
        if connection.flags.any(DROPPED) {
            return;
        }
        if connection.flags.any(KEPT) {
            if let Some(hold) = self.state.hold_mut(conn) {
                hold.bytes.extend_from_slice(bytes);
            }
            return;
        }
        self.tell_one(conn, |service, io| service.handle_recv(io, conn, bytes));
    }

    /// The peer has closed its sending half.
    fn handle_end(&mut self, conn: ConnId) {
        let Some(connection) = self.state.table.find_mut(conn) else { return };
        connection.flags.set(Flags::EOF);
        let flags = connection.flags;
        if flags.any(Flags::GONE) {
            self.state.end_linger(conn);
        } else if flags.any(Flags::PAUSED.or(Flags::MOVING)) {
            if let Some(hold) = self.state.hold_mut(conn) {
                hold.eof = true;
            }
        } else if !flags.any(Flags::CLOSE_AFTER_FLUSH) {
            self.tell_end(conn);
        }
    }

    fn tell_end(&mut self, conn: ConnId) {
        self.tell_one(conn, |service, io| service.handle_eof(io, conn));
    }

    fn handle_recv_error(&mut self, conn: ConnId, errno: i32) {
        if self.state.is_live(conn) {
            self.state.recv_failed(conn, errno);
        } else {
            self.state.end_linger(conn);
        }
    }

    /// The ring had no buffer left. Once this turn's completions are handled, theirs are
    /// back; then the receive is armed again.
    fn starve(&mut self, ring: usize, conn: ConnId) {
        self.state.counters.buffers_exhausted += 1;
        if let Some(connection) = self.state.table.find_mut(conn) {
            connection.flags.set(Flags::STARVED);
            self.state.rings[ring].starved.push(conn);
        }
    }

    /// A callback that concerns one connection: if it panics, that one is closed.
    fn tell_one(&mut self, conn: ConnId, callback: impl FnOnce(&mut S, &mut Io<'_, S::Message>)) {
        let (service, state) = (&mut self.service, &mut self.state);
        let outcome = catch_unwind(AssertUnwindSafe(|| callback(service, &mut Io { state })));
        if outcome.is_err() {
            // The panic hook has reported it.
            self.state.counters.panics += 1;
            self.state.close(conn, CloseReason::Panicked);
        }
    }

    fn handle_timers(&mut self) -> bool {
        let mut worked = false;
        for _ in 0..TIMERS_PER_TURN_MAX {
            let now_ms = self.state.now_ms();
            let Some(alarm) = self.state.wheel.poll_expired(now_ms) else { break };
            worked = true;
            match alarm {
                Alarm::Service(token) => {
                    self.service.handle_timer(&mut Io { state: &mut self.state }, token);
                }
                Alarm::LingerEnds(conn) => self.state.end_linger(conn),
                Alarm::MoveWaits(conn) => self.state.recheck_move(conn),
            }
            self.tell_deferred();
        }
        worked
    }

    /// Tells the service what followed from its callbacks.
    fn tell_deferred(&mut self) {
        if self.state.deferred.is_empty() {
            return;
        }
        // What these callbacks cause in turn is told too, except output that ran empty,
        // which only the turn's end finds out.
        let mut deferred: VecDeque<_> = std::mem::take(&mut self.state.deferred);
        while let Some(next) = deferred.pop_front() {
            self.tell(next);
            deferred.append(&mut self.state.deferred);
        }
        self.state.deferred = deferred;
    }

    fn tell(&mut self, deferred: Deferred<S::Message>) {
        let io = &mut Io { state: &mut self.state };
        match deferred {
            Deferred::Closed(conn, reason) => self.service.handle_closed(io, conn, reason),
            Deferred::Drained(conn) => {
                if io.is_open(conn) {
                    self.tell_one(conn, |service, io| service.handle_drained(io, conn));
                }
            }
            Deferred::Held(conn) => self.tell_held(conn),
            Deferred::Returned(conn, baggage) => {
                self.tell_one(conn, |service, io| service.handle_adopted(io, conn, baggage));
                self.tell_held(conn);
            }
        }
    }

    /// Tells what was kept back, unless it has to wait still, and receives again.
    fn tell_held(&mut self, conn: ConnId) {
        const NOT_NOW: Flags = Flags::PAUSED.or(Flags::MOVING).or(Flags::GONE);
        let waits = |driver: &Driver<S>| {
            driver.state.table.find(conn).is_none_or(|found| found.flags.any(NOT_NOW))
        };
        if waits(self) {
            return;
        }
        let Some(mut hold) = self.state.take_hold(conn) else {
            self.state.arm_recv(conn);
            return;
        };
        if !hold.bytes.is_empty() {
            self.deliver(conn, &mut hold.bytes);
        }
        if hold.eof && waits(self) {
            // Paused or moving again: the end is told when that is over.
            if self.state.is_live(conn)
                && let Some(kept) = self.state.hold_mut(conn)
            {
                kept.eof = true;
            }
        } else if hold.eof {
            self.tell_end(conn);
        }
        self.state.arm_recv(conn);
    }
}
