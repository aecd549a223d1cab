//! The connections of one shard: 20 bytes each, whatever ring they live in.
//!
//! Invariants: an entry is given back only when no operation of its connection is
//! in the kernel's hands ([`Flags::IN_KERNEL`] is clear); its generation changes
//! when it is given back. What an idle connection doesn't need (output, bytes kept
//! back) lies in tables of its own, reached by index.

use crate::identity::{ConnId, ListenerId};
use crate::operation::CONNECTIONS_PER_SHARD_MAX;

/// "No such record."
pub(crate) const NONE: u32 = u32::MAX;

/// What is going on with a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u16);

impl Flags {
    /// The entry is in use.
    pub(crate) const USED: Flags = Flags(1);
    /// A multishot receive is in the kernel.
    pub(crate) const RECV_ARMED: Flags = Flags(1 << 1);
    /// A send is in the kernel.
    pub(crate) const SEND_IN_FLIGHT: Flags = Flags(1 << 2);
    /// A hand-over to another ring is in the kernel.
    pub(crate) const SEND_FD_IN_FLIGHT: Flags = Flags(1 << 3);
    /// A shutdown of the sending half is in the kernel.
    pub(crate) const SHUTDOWN_IN_FLIGHT: Flags = Flags(1 << 4);
    /// Any operation is in the kernel.
    pub(crate) const IN_KERNEL: Flags = Flags(0b1_1110).or(Flags::CONNECTING);
    /// The service does not want to receive now.
    pub(crate) const PAUSED: Flags = Flags(1 << 5);
    /// The peer has closed its sending half.
    pub(crate) const EOF: Flags = Flags(1 << 6);
    /// Close when all output is sent.
    pub(crate) const CLOSE_AFTER_FLUSH: Flags = Flags(1 << 7);
    /// With [`Flags::CLOSE_AFTER_FLUSH`]: wait for the peer's end before closing.
    pub(crate) const LINGER: Flags = Flags(1 << 8);
    /// The service was told, or is about to be told, that the connection is gone.
    pub(crate) const GONE: Flags = Flags(1 << 9);
    /// Only the last operations are awaited, then the slot is closed.
    pub(crate) const TEARDOWN: Flags = Flags(1 << 10);
    /// The connection is on its way to another shard.
    pub(crate) const MOVING: Flags = Flags(1 << 11);
    /// The service wants to know when the output has run empty.
    pub(crate) const NOTIFY_DRAINED: Flags = Flags(1 << 12);
    /// The connection is in the list of those to look at when the turn ends.
    pub(crate) const DIRTY: Flags = Flags(1 << 13);
    /// The receive ended for lack of buffers and waits to be armed again.
    pub(crate) const STARVED: Flags = Flags(1 << 14);
    /// The socket of an outgoing connection is being made or connected in the kernel.
    pub(crate) const CONNECTING: Flags = Flags(1 << 15);

    /// True if any of `flags` is set.
    pub(crate) const fn any(self, flags: Flags) -> bool {
        self.0 & flags.0 != 0
    }

    /// Both sets together.
    pub(crate) const fn or(self, flags: Flags) -> Flags {
        Flags(self.0 | flags.0)
    }

    pub(crate) fn set(&mut self, flags: Flags) {
        self.0 |= flags.0;
    }

    pub(crate) fn clear(&mut self, flags: Flags) {
        self.0 &= !flags.0;
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    generation: u32,
    /// The slot in the ring's table of direct descriptors, or [`NONE`] as long as an outgoing
    /// connection has no socket; in a free entry, the next free one.
    pub(crate) slot: u32,
    /// Index into the output table, or [`NONE`].
    pub(crate) output: u32,
    /// Index into the table of bytes kept back, or [`NONE`].
    pub(crate) hold: u32,
    pub(crate) flags: Flags,
    pub(crate) ring: u8,
    /// By which listener it came, or [`ListenerId::OUTGOING`].
    pub(crate) listener: ListenerId,
}

/// All connections of one shard.
#[derive(Debug)]
pub(crate) struct ConnectionTable {
    entries: Vec<Connection>,
    free: u32,
    open: u32,
    open_max: u32,
}

impl ConnectionTable {
    /// An empty table that takes up to `open_max` connections.
    pub(crate) fn new(open_max: u32) -> ConnectionTable {
        let open_max = open_max.min(CONNECTIONS_PER_SHARD_MAX);
        ConnectionTable { entries: Vec::new(), free: NONE, open: 0, open_max }
    }

    /// How many entries are in use, also by connections that are being torn down.
    pub(crate) fn open(&self) -> u32 {
        self.open
    }

    /// Takes an entry for the socket in `slot` of `ring`; `None` if the table is full.
    pub(crate) fn insert(&mut self, ring: u8, slot: u32, listener: ListenerId) -> Option<ConnId> {
        if self.open == self.open_max {
            return None;
        }
        self.open += 1;
        let mut connection = Connection {
            generation: 0,
            slot,
            output: NONE,
            hold: NONE,
            flags: Flags::USED,
            ring,
            listener,
        };
        if self.free == NONE {
            let index = self.entries.len() as u32;
            self.entries.push(connection);
            return Some(ConnId::new(index, 0));
        }
        let index = self.free;
        let entry = &mut self.entries[index as usize];
        self.free = entry.slot;
        connection.generation = entry.generation;
        *entry = connection;
        Some(ConnId::new(index, entry.generation))
    }

    /// Gives an entry back.
    pub(crate) fn remove(&mut self, conn: ConnId) {
        let free = self.free;
        let entry = self.find_mut(conn).expect("only a used entry is removed");
        assert!(!entry.flags.any(Flags::IN_KERNEL), "the kernel still works for {conn:?}");
        entry.generation = entry.generation.wrapping_add(1);
        entry.flags = Flags::default();
        entry.slot = free;
        self.free = conn.index_u32();
        self.open -= 1;
    }

    /// The connection, if it still exists.
    pub(crate) fn find(&self, conn: ConnId) -> Option<&Connection> {
        let entry = self.entries.get(conn.index())?;
        (entry.generation == conn.generation() && entry.flags.any(Flags::USED)).then_some(entry)
    }

    /// The connection, if it still exists.
    pub(crate) fn find_mut(&mut self, conn: ConnId) -> Option<&mut Connection> {
        let entry = self.entries.get_mut(conn.index())?;
        (entry.generation == conn.generation() && entry.flags.any(Flags::USED)).then_some(entry)
    }

    /// All connections the service knows.
    pub(crate) fn live(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.entries.iter().enumerate().filter_map(|(index, entry)| {
            let live = entry.flags.any(Flags::USED) && !entry.flags.any(Flags::GONE);
            live.then(|| ConnId::new(index as u32, entry.generation))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<Connection>(), 20);
    }

    #[test]
    fn an_old_id_does_not_find_the_new_connection() {
        let mut table = ConnectionTable::new(2);
        let first = table.insert(0, 5, ListenerId(0)).unwrap();
        let second = table.insert(0, 6, ListenerId(0)).unwrap();
        assert!(table.insert(0, 7, ListenerId(0)).is_none(), "the table is full");
        table.remove(first);
        assert!(table.find(first).is_none());
        let third = table.insert(1, 8, ListenerId(1)).unwrap();
        assert_eq!(third.index(), first.index());
        assert_ne!(third, first);
        assert!(table.find(first).is_none());
        assert_eq!(table.find(third).unwrap().slot, 8);
        assert_eq!(table.live().collect::<Vec<_>>(), [third, second]);
    }
}
