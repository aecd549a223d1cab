//! Moving a connection to another shard, with nothing lost and nothing reordered.
//!
//! Steps on the old shard: ask the new one for a slot; end the receive and keep what
//! still arrives; send all output; hand the socket to the new shard's ring (MSG_RING,
//! SEND_FD); close the slot here; send the connection's baggage and the kept bytes over
//! the mesh. The new shard tells its service of the connection, then of the kept bytes,
//! and only then receives.
//!
//! Invariants: bytes reach the service in the order they came, on exactly one shard;
//! a connection that can't move stays and its baggage comes back by `handle_adopted`;
//! a move never takes a slot an accept in flight relies on, as its own is reserved.
//! Outgoing connections don't move: whoever asked for one waits for its answers here.
//!
//! Limit: a slot reserved for a shard that dies stays reserved. That shard may have put
//! a socket there and died before it told, and a slot taken for free would cost an
//! accepted connection; so at most as many slots are lost as connections were moving.

use std::io;

use crate::connection_table::Flags;
use crate::identity::{ConnId, ListenerId, ShardId};
use crate::mesh::{Arrival, Envelope, RingAddress};
use crate::operation::{Kind, Operation};
use crate::service::CloseReason;
use crate::shard_state::{Alarm, Deferred, Hold, ShardState};

/// How often a move that waits for a slot looks whether the other shard still lives.
const SLOT_RECHECK_MS: u64 = 1_000;

/// Where a connection is to go, and what goes with it.
pub(crate) struct Transfer<M> {
    to: ShardId,
    baggage: M,
    slot: Slot,
}

/// How far the new shard's slot has come.
#[derive(Clone, Copy)]
enum Slot {
    Wanted,
    Reserved { ring: u8 },
}

impl<M> ShardState<M> {
    /// Begins a move. The connection stays, and the baggage comes back, if it moves
    /// already, is there already, is an outgoing one, or the other shard has ended.
    pub(crate) fn begin_move(&mut self, conn: ConnId, to: ShardId, baggage: M) {
        let ended = self.mesh.has_ended(to);
        let Some(connection) = self.table.find_mut(conn) else { return };
        if connection.flags.any(Flags::GONE) {
            return;
        }
        let outgoing = connection.listener == ListenerId::OUTGOING;
        if ended || to == self.shard || outgoing || connection.flags.any(Flags::MOVING) {
            self.deferred.push_back(Deferred::Returned(conn, baggage));
            return;
        }
        connection.flags.set(Flags::MOVING);
        connection.flags.clear(Flags::NOTIFY_DRAINED);
        if let Some(hold) = self.hold_mut(conn) {
            hold.transfer = Some(Transfer { to, baggage, slot: Slot::Wanted });
        }
        self.mesh.send_internal(to, Envelope::SlotWanted(conn));
        self.wheel.arm(self.now_ms() + SLOT_RECHECK_MS, Alarm::MoveWaits(conn));
        self.cancel_recv(conn);
        // The turn's end sends the output; the slot's answer goes on with the move.
        self.mark_dirty(conn);
    }

    /// Another shard asks for a slot: reserves one, if there is one.
    pub(crate) fn reserve_slot(&mut self, from: ShardId, conn: ConnId) {
        let mut ring = self.roomiest_ring();
        if self.rings[ring].slots_free() == 0 && self.entries_left() > 0 && self.open_ring() {
            ring = self.rings.len() - 1;
        }
        let free = self.rings[ring].slots_free() > 0 && self.entries_left() > 0;
        if free {
            self.rings[ring].slots_reserved += 1;
        }
        let ring = free.then_some(ring as u8);
        self.mesh.send_internal(from, Envelope::SlotAnswer { conn, ring });
    }

    /// A slot that was reserved for another shard's connection is free again.
    pub(crate) fn unreserve_slot(&mut self, ring: u8) {
        self.rings[usize::from(ring)].slots_reserved -= 1;
    }

    /// The other shard has reserved a slot, or has none.
    pub(crate) fn slot_answered(&mut self, from: ShardId, conn: ConnId, ring: Option<u8>) {
        // Only the shard that was asked last counts: the answer of one that ended since may
        // come late, when the connection is on its way to another.
        let waiting = self.waiting_transfer(conn).is_some_and(|transfer| transfer.to == from);
        match ring {
            Some(ring) if waiting => {
                if let Some(transfer) = self.waiting_transfer(conn) {
                    transfer.slot = Slot::Reserved { ring };
                }
                self.continue_move_later(conn);
            }
            // The connection is gone or goes elsewhere; the slot is not needed.
            Some(ring) => self.mesh.send_internal(from, Envelope::SlotReturned { ring }),
            None if waiting => self.move_failed(conn),
            None => {}
        }
    }

    /// A move has taken long: if the other shard has ended, no slot will come.
    pub(crate) fn recheck_move(&mut self, conn: ConnId) {
        let Some(transfer) = self.waiting_transfer(conn) else { return };
        let to = transfer.to;
        if self.mesh.has_ended(to) {
            self.move_failed(conn);
        } else {
            self.wheel.arm(self.now_ms() + SLOT_RECHECK_MS, Alarm::MoveWaits(conn));
        }
    }

    fn waiting_transfer(&mut self, conn: ConnId) -> Option<&mut Transfer<M>> {
        let connection = self.table.find(conn)?;
        let hold = self.holds.get_mut(connection.hold as usize)?;
        hold.transfer.as_mut().filter(|transfer| matches!(transfer.slot, Slot::Wanted))
    }

    /// Sees to it that the turn's end goes on with a move, if the connection moves.
    pub(crate) fn continue_move_later(&mut self, conn: ConnId) {
        if self.table.find(conn).is_some_and(|found| found.flags.any(Flags::MOVING)) {
            self.mark_dirty(conn);
        }
    }

    /// Hands the socket over if nothing stands in the way any more.
    pub(crate) fn continue_move(&mut self, conn: ConnId) {
        const NOT_NOW: Flags =
            Flags::RECV_ARMED.or(Flags::SEND_IN_FLIGHT).or(Flags::SEND_FD_IN_FLIGHT);
        let Some(connection) = self.table.find_mut(conn) else { return };
        let flags = connection.flags;
        if !flags.any(Flags::MOVING) || flags.any(NOT_NOW.or(Flags::TEARDOWN)) {
            return;
        }
        if self.outputs.queued_bytes(connection.output) > 0 {
            return;
        }
        let Some(Transfer { to, slot: Slot::Reserved { ring }, .. }) =
            self.holds.get(connection.hold as usize).and_then(|hold| hold.transfer.as_ref())
        else {
            return;
        };
        let target = &self.peer_rings[usize::from(to.0)][usize::from(*ring)];
        connection.flags.set(Flags::SEND_FD_IN_FLIGHT);
        let target = RingAddress::clone(target);
        let operation = Operation::of(Kind::SendFd, conn);
        self.rings[usize::from(connection.ring)].send_fd(connection.slot, &target, operation);
    }

    /// The hand-over has completed: `result` is the slot on the new shard, or an error.
    pub(crate) fn send_fd_completed(&mut self, conn: ConnId, result: i32) {
        if !self.operation_ended(conn, Flags::SEND_FD_IN_FLIGHT) {
            return;
        }
        if result < 0 {
            // The other shard has ended meanwhile.
            self.move_failed(conn);
            return;
        }
        let slot = result as u32;
        let Some(connection) = self.table.find(conn) else { return };
        let listener = connection.listener;
        match self.take_hold(conn) {
            Some(Hold { bytes, eof, transfer: Some(transfer) }) => {
                let Transfer { to, baggage, slot: Slot::Reserved { ring } } = transfer else {
                    unreachable!("only a move with a slot is handed over");
                };
                let arrival = Arrival { ring, slot, listener, baggage, bytes, eof };
                self.mesh.send_internal(to, Envelope::Arrival(Box::new(arrival)));
                self.counters.moved_away += 1;
                self.tear_down(conn);
            }
            _ => unreachable!("a connection in hand-over keeps its transfer until it is closed"),
        }
    }

    fn move_failed(&mut self, conn: ConnId) {
        self.counters.moves_failed += 1;
        if let Some(connection) = self.table.find_mut(conn) {
            connection.flags.clear(Flags::MOVING);
        }
        if let Some(transfer) = self.hold_mut(conn).and_then(|hold| hold.transfer.take()) {
            self.abandon_move(conn, transfer);
        }
    }

    /// Brings the baggage of a move back that won't take place.
    pub(crate) fn abandon_move(&mut self, conn: ConnId, transfer: Transfer<M>) {
        if let Slot::Reserved { ring } = transfer.slot {
            self.mesh.send_internal(transfer.to, Envelope::SlotReturned { ring });
        }
        self.deferred.push_back(Deferred::Returned(conn, transfer.baggage));
    }

    /// A connection has come from another shard. What was kept for it is told after
    /// the service has adopted it.
    pub(crate) fn adopt(&mut self, arrival: Arrival<M>) -> Option<(ConnId, M)> {
        let Arrival { ring, slot, listener, baggage, bytes, eof } = arrival;
        self.unreserve_slot(ring);
        let ring = usize::from(ring);
        self.rings[ring].slots_used += 1;
        let conn = self.open_connection(ring, slot, listener)?;
        self.counters.adopted += 1;
        if !bytes.is_empty() || eof {
            if eof && let Some(connection) = self.table.find_mut(conn) {
                connection.flags.set(Flags::EOF);
            }
            if let Some(hold) = self.hold_mut(conn) {
                hold.bytes = bytes;
                hold.eof = eof;
            }
        }
        Some((conn, baggage))
    }

    /// Closes a connection whose receive failed.
    pub(crate) fn recv_failed(&mut self, conn: ConnId, errno: i32) {
        self.close(conn, CloseReason::Reset(io::Error::from_raw_os_error(errno)));
    }

    /// The listener a connection came by; `None` if it came by none.
    pub(crate) fn listener_of(&self, conn: ConnId) -> Option<ListenerId> {
        let listener = self.table.find(conn)?.listener;
        (listener != ListenerId::OUTGOING).then_some(listener)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RuntimeConfig;
    use crate::data_ring::RingSizes;
    use crate::mesh::Mesh;

    type Baggage = &'static str;

    /// The first of three shards, which no driver drives, and the other ends of its mesh.
    fn shard() -> (ShardState<Baggage>, Vec<Mesh<Baggage>>) {
        let config = RuntimeConfig {
            ring: RingSizes {
                slots: 8,
                submission_entries: 8,
                completion_entries: 16,
                receive_buffers: 2,
                receive_buffer_bytes: 64,
            },
            ..RuntimeConfig::default()
        };
        let mut meshes = crate::mesh::connect(3).unwrap().shards;
        let mesh = meshes.remove(0);
        (ShardState::new(ShardId(0), config, mesh, Vec::new(), 4).unwrap(), meshes)
    }

    #[test]
    fn a_late_answer_of_a_shard_that_ended_is_not_taken_for_anothers() {
        let (mut state, _peers) = shard();
        let conn = state.open_connection(0, 0, ListenerId(0)).unwrap();
        state.begin_move(conn, ShardId(1), "baggage");
        state.move_failed(conn);
        state.begin_move(conn, ShardId(2), "baggage");
        state.slot_answered(ShardId(1), conn, None);
        assert!(state.waiting_transfer(conn).is_some(), "shard 2 may still have a slot");
        state.slot_answered(ShardId(1), conn, Some(0));
        assert!(state.waiting_transfer(conn).is_some(), "shard 2 has reserved no slot");
        state.slot_answered(ShardId(2), conn, Some(0));
        assert!(state.waiting_transfer(conn).is_none());
    }
}
