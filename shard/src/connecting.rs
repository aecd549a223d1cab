//! Outgoing connections: from the service's wish to a socket that stands.
//!
//! Steps: an entry of the connection table and a slot's place are taken at once; the ring
//! makes the socket in a free slot, sets TCP_NODELAY, binds it to an address of this host if
//! one was named, and connects it. From then on the connection is like an accepted one, but that it came by no listener and stays here.
//!
//! Invariants: [`Flags::CONNECTING`] is set from the wish until the last of these steps
//! has completed, and as long an address is kept for the connection; until then nothing is
//! sent and nothing received. A connection closed meanwhile is told to the service at once
//! and keeps its entry and its slot until the kernel has let go of it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, SockAddr};

use crate::connection_table::{Flags, NONE};
use crate::identity::{ConnId, ListenerId, ShardId};
use crate::operation::{Kind, Operation};
use crate::service::CloseReason;
use crate::shard_state::ShardState;

/// The addresses the kernel may still read. Boxed, as they must not move meanwhile.
pub(crate) type Addresses = HashMap<ConnId, Box<Ends>>;

/// The two ends of an outgoing connection.
pub(crate) struct Ends {
    /// The address of this host, without a port; the kernel chooses if there is none.
    from: Option<SockAddr>,
    to: SockAddr,
}

/// Why no outgoing connection was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectRefused {
    /// The shard's connection table is full.
    #[error(
        "connect on shard {shard}: all {entries} entries of its connection table are taken or \
         promised to accepts in flight; \
         connect again when connections have closed, or allow more per shard"
    )]
    TableFull {
        /// The shard that was asked.
        shard: ShardId,
        /// The entries its table has.
        entries: u32,
    },
    /// All rings are full and no further one can be opened.
    #[error(
        "connect on shard {shard}: all slots of its {rings} data rings are taken or promised to \
         accepts in flight and to other shards, and no further \
         ring can be opened; connect again when connections have closed, or allow more rings \
         per shard or slots per ring (RLIMIT_NOFILE)"
    )]
    SlotsTaken {
        /// The shard that was asked.
        shard: ShardId,
        /// The rings it has.
        rings: usize,
    },
    /// The shard ends and tells its service of the last connections.
    #[error("connect on shard {shard}: the shard ends; connect from another one, or give up")]
    Ending {
        /// The shard that was asked.
        shard: ShardId,
    },
}

impl<M> ShardState<M> {
    /// Takes an entry and a slot and asks the kernel for a socket.
    pub(crate) fn begin_connect(
        &mut self,
        from: Option<IpAddr>,
        address: SocketAddr,
    ) -> Result<ConnId, ConnectRefused> {
        let shard = self.shard;
        if self.ending {
            return Err(ConnectRefused::Ending { shard });
        }
        let entries = self.config.connections_per_shard_max;
        if self.entries_for_connects() == 0 {
            return Err(ConnectRefused::TableFull { shard, entries });
        }
        let Some(ring) = self.ring_for_connect() else {
            return Err(ConnectRefused::SlotsTaken { shard, rings: self.rings.len() });
        };
        let conn = self
            .table
            .insert(ring as u8, NONE, ListenerId::OUTGOING)
            .ok_or(ConnectRefused::TableFull { shard, entries })?;
        if let Some(connection) = self.table.find_mut(conn) {
            connection.flags.set(Flags::CONNECTING);
        }
        self.rings[ring].slots_used += 1;
        // Before the socket takes its slot: these accepts relied on it.
        self.end_crowded_accepts();
        let from = from.map(|address| SockAddr::from(SocketAddr::new(address, 0)));
        self.connecting.insert(conn, Box::new(Ends { from, to: SockAddr::from(address) }));
        self.rings[ring].socket(Domain::for_address(address), Operation::of(Kind::Socket, conn));
        Ok(conn)
    }

    /// A socket was made in slot `result`, or could not be: binds or connects it.
    pub(crate) fn socket_made(&mut self, conn: ConnId, result: i32) {
        let Some(connection) = self.table.find_mut(conn) else {
            debug_assert!(false, "a socket for {conn:?}, which was given back");
            return;
        };
        if result < 0 {
            self.connect_failed(conn, -result);
            return;
        }
        let slot = result as u32;
        connection.slot = slot;
        if connection.flags.any(Flags::TEARDOWN) {
            self.connect_failed(conn, libc::ECANCELED);
            return;
        }
        let ring = &mut self.rings[usize::from(connection.ring)];
        let ends = self.connecting.get(&conn).expect("kept until the connect has completed");
        // An option the kernel refuses makes the connection slower, not wrong.
        ring.set_nodelay(slot, Operation::other(Kind::Ignored, 0));
        let Some(from) = &ends.from else { return self.connect_socket(conn) };
        ring.set_late_port(slot, Operation::other(Kind::Ignored, 0));
        let from: *const SockAddr = &raw const *from;
        // SAFETY: as in `connect_socket`.
        unsafe { ring.bind(slot, from, Operation::of(Kind::Bind, conn)) }
    }

    /// The socket has an address of its own, or could not have it: connects it.
    pub(crate) fn socket_bound(&mut self, conn: ConnId, result: i32) {
        let gone = self.table.find(conn).is_some_and(|found| found.flags.any(Flags::TEARDOWN));
        if result < 0 || gone {
            let errno = if result < 0 { -result } else { libc::ECANCELED };
            return self.connect_failed(conn, errno);
        }
        self.connect_socket(conn);
    }

    fn connect_socket(&mut self, conn: ConnId) {
        let Some(connection) = self.table.find(conn) else { return };
        let ring = &mut self.rings[usize::from(connection.ring)];
        let ends = self.connecting.get(&conn).expect("kept until the connect has completed");
        let to: *const SockAddr = &raw const ends.to;
        // SAFETY: the address is boxed and dropped only in `connect_ended`, when the
        // operation has completed; if the shard ends before, `Drop` ends all operations
        // first.
        unsafe { ring.connect(connection.slot, to, Operation::of(Kind::Connect, conn)) }
    }

    /// A connect has completed with the kernel's result. True if the connection stands
    /// and the service is to be told.
    pub(crate) fn connect_completed(&mut self, conn: ConnId, result: i32) -> bool {
        let gone = self.table.find(conn).is_some_and(|found| found.flags.any(Flags::TEARDOWN));
        if result < 0 || gone {
            self.connect_failed(conn, -result);
            return false;
        }
        self.counters.connects += 1;
        let stands = self.connect_ended(conn);
        // What was written meanwhile is sent when the turn ends.
        self.mark_dirty(conn);
        stands
    }

    /// How many connections that don't stand yet have output.
    pub(crate) fn outputs_of_connecting(&self) -> usize {
        let has_output = |conn: &&ConnId| {
            self.table.find(**conn).is_some_and(|connection| connection.output != NONE)
        };
        self.connecting.keys().filter(has_output).count()
    }

    /// Closes a connection that will not stand, or lets go of one that was closed before.
    fn connect_failed(&mut self, conn: ConnId, errno: i32) {
        self.counters.connects_failed += 1;
        if self.connect_ended(conn) {
            let error = io::Error::from_raw_os_error(errno);
            self.close(conn, CloseReason::ConnectFailed(error));
            self.release_if_done(conn);
        }
    }

    /// The kernel does nothing for the connect any more.
    fn connect_ended(&mut self, conn: ConnId) -> bool {
        self.connecting.remove(&conn);
        self.operation_ended(conn, Flags::CONNECTING)
    }
}
