//! What runs on a shard: the callbacks the driver makes.
//!
//! Invariants the driver keeps:
//! - All callbacks of one service come from one thread, never nested.
//! - Between `handle_accept` (or `handle_adopted` on the shard a connection moved
//!   to, or the return of [`Io::connect`]) and `handle_closed`, and only there, a
//!   [`ConnId`] is named in callbacks.
//! - `handle_closed` comes exactly once, also for a connection whose callback
//!   panicked; a connection that moved away is not closed here.

use crate::identity::{ConnId, ListenerId, Origin};
use crate::io::Io;

/// Why a connection ended.
#[derive(Debug)]
pub enum CloseReason {
    /// The peer had closed its sending half before the service closed the connection.
    Peer,
    /// The kernel reported an error, such as a reset by the peer.
    Reset(std::io::Error),
    /// The service closed it.
    Local,
    /// A callback for this connection panicked.
    Panicked,
    /// The service closed it as its peer read too slowly.
    SlowReader,
    /// The service closed it as it was idle for too long.
    Idle,
    /// The shard ended.
    Shutdown,
    /// An outgoing connection never stood: the peer refused it, can't be reached or did
    /// not answer in the kernel's time, or the kernel had no socket or port for it.
    ConnectFailed(std::io::Error),
}

/// The state of one shard and its reactions.
///
/// A panic in `handle_accept`, `handle_connected`, `handle_recv`, `handle_eof`,
/// `handle_drained` or `handle_adopted` closes that connection alone; a panic in any
/// other callback, `handle_closed` among them, ends the shard.
pub trait Service: Sized {
    /// What shards and the control thread tell each other, and what accompanies a
    /// connection that moves to another shard.
    type Message: Send + 'static;

    /// The shard begins to work. First call of all.
    fn handle_start(&mut self, io: &mut Io<'_, Self::Message>) {
        let _ = io;
    }

    /// A client has connected.
    fn handle_accept(&mut self, io: &mut Io<'_, Self::Message>, conn: ConnId, listener: ListenerId);

    /// A connection begun by [`Io::connect`] stands. What was written to it is on its
    /// way; what the peer sends comes by `handle_recv` from now on.
    fn handle_connected(&mut self, io: &mut Io<'_, Self::Message>, conn: ConnId) {
        let _ = (io, conn);
    }

    /// Bytes have come. They lie in the ring's provided buffer: they may be
    /// changed in place and are gone when the call returns.
    fn handle_recv(&mut self, io: &mut Io<'_, Self::Message>, conn: ConnId, bytes: &mut [u8]);

    /// The peer has closed its sending half. The connection stays until it is
    /// closed here or breaks.
    fn handle_eof(&mut self, io: &mut Io<'_, Self::Message>, conn: ConnId);

    /// The output queue has run empty; called once per [`Io::notify_drained`].
    fn handle_drained(&mut self, io: &mut Io<'_, Self::Message>, conn: ConnId) {
        let _ = (io, conn);
    }

    /// The connection is gone. Last call for this `conn`.
    fn handle_closed(&mut self, io: &mut Io<'_, Self::Message>, conn: ConnId, reason: CloseReason);

    /// A message has come.
    fn handle_message(
        &mut self,
        io: &mut Io<'_, Self::Message>,
        from: Origin,
        message: Self::Message,
    ) {
        let _ = (io, from, message);
    }

    /// A timer armed by [`Io::arm_timer`] has expired.
    fn handle_timer(&mut self, io: &mut Io<'_, Self::Message>, token: u64) {
        let _ = (io, token);
    }

    /// A connection has moved here. Bytes the peer sent meanwhile follow by
    /// `handle_recv`. Also called, on the old shard, for a connection that could
    /// not move: it brings the baggage back, and the connection stays.
    fn handle_adopted(
        &mut self,
        io: &mut Io<'_, Self::Message>,
        conn: ConnId,
        baggage: Self::Message,
    );

    /// The last call of a turn in which anything was done, before output is sent.
    fn handle_turn_end(&mut self, io: &mut Io<'_, Self::Message>) {
        let _ = io;
    }

    /// The drain has begun: call [`Io::finish`] when all work is done. The
    /// listeners are closed already or about to be.
    fn handle_shutdown(&mut self, io: &mut Io<'_, Self::Message>) {
        io.finish();
    }
}
