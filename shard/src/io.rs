//! What a service may do to its shard while a callback runs.

use std::net::{IpAddr, SocketAddr};

use crate::config::RuntimeConfig;
use crate::connecting::ConnectRefused;
use crate::connection_table::Flags;
use crate::identity::{ConnId, ListenerId, ShardId};
use crate::mesh::MeshFull;
use crate::service::CloseReason;
use crate::shard_state::{Alarm, Counters, Deferred, ShardState};
use crate::timer_wheel::TimerId;

/// The shard's side of a callback. Nothing here calls back into the service: what
/// follows from an action is told after the callback has returned.
pub struct Io<'a, M> {
    pub(crate) state: &'a mut ShardState<M>,
}

/// How full the shard's queues are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depths {
    /// Connections, also those that are being torn down.
    pub connections: usize,
    /// Those of them whose socket the kernel is making or connecting.
    pub connecting: usize,
    /// Connections with output the kernel has not taken.
    pub outputs: usize,
    /// Bytes of that output.
    pub output_bytes: usize,
    /// Connections that are paused or move and have a record of what is kept back.
    pub holds: usize,
    /// Data rings.
    pub rings: usize,
    /// Slots for connections left in the rings that are open.
    pub slots_free: usize,
    /// Messages on their way to other shards.
    pub mesh: usize,
    /// Armed timers.
    pub timers: usize,
    /// Listeners that are open.
    pub listeners: usize,
}

impl<M> Io<'_, M> {
    /// Milliseconds since the process started; read once per turn. All shards count
    /// from the same moment.
    pub fn now_ms(&self) -> u64 {
        self.state.now_ms()
    }

    /// Nanoseconds since the process started, read now.
    pub fn clock_ns(&self) -> u64 {
        crate::clock::monotonic_ns()
    }

    /// When this turn began, in nanoseconds since the process started.
    pub fn turn_began_ns(&self) -> u64 {
        self.state.now_ns
    }

    /// The shard this runs on.
    pub fn shard(&self) -> ShardId {
        self.state.shard
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.state.mesh.shards()
    }

    /// The configuration the runtime was started with.
    pub fn config(&self) -> &RuntimeConfig {
        &self.state.config
    }

    /// Begins to connect to `address`. `handle_connected` follows, or `handle_closed` with
    /// [`CloseReason::ConnectFailed`]. What is written before the connection stands is kept
    /// and sent then. The kernel gives up only after minutes (tcp_syn_retries), so whoever
    /// wants to wait less arms a timer and calls [`Io::close`].
    ///
    /// # Errors
    /// [`ConnectRefused`] if the shard has no place for the connection; nothing follows then.
    pub fn connect(&mut self, address: SocketAddr) -> Result<ConnId, ConnectRefused> {
        self.state.begin_connect(None, address)
    }

    /// As [`Io::connect`], from `source`, an address of this host: with several of them one
    /// process can hold more connections to one server than there are ports. Needs kernel
    /// 6.11; before it, and if the address is not this host's, the connection ends with
    /// [`CloseReason::ConnectFailed`].
    ///
    /// # Errors
    /// As [`Io::connect`].
    pub fn connect_from(
        &mut self,
        source: IpAddr,
        address: SocketAddr,
    ) -> Result<ConnId, ConnectRefused> {
        self.state.begin_connect(Some(source), address)
    }

    /// The listener a connection came by, also after it has moved between shards. `None`
    /// if it is gone or this side connected.
    pub fn listener(&self, conn: ConnId) -> Option<ListenerId> {
        self.state.listener_of(conn)
    }

    /// True if the connection is open here, also before an outgoing one stands. False for one that moves away: until
    /// `handle_adopted` names it, nobody may write to it.
    pub fn is_open(&self, conn: ConnId) -> bool {
        self.state
            .table
            .find(conn)
            .is_some_and(|connection| !connection.flags.any(Flags::GONE.or(Flags::MOVING)))
    }

    /// The buffer to which output is appended. It is sent at the end of the turn, in
    /// one send with all that was appended before. `None` if the connection is gone or
    /// moves.
    pub fn output(&mut self, conn: ConnId) -> Option<&mut Vec<u8>> {
        let connection = self.state.table.find_mut(conn)?;
        if connection.flags.any(Flags::GONE.or(Flags::MOVING)) {
            return None;
        }
        if !connection.flags.any(Flags::DIRTY) {
            connection.flags.set(Flags::DIRTY);
            self.state.dirty.push(conn);
        }
        Some(self.state.outputs.pending(&mut connection.output))
    }

    /// Bytes of output the kernel has not taken, also those in flight.
    pub fn queued_bytes(&self, conn: ConnId) -> usize {
        self.state
            .table
            .find(conn)
            .map_or(0, |connection| self.state.outputs.queued_bytes(connection.output))
    }

    /// Closes the connection when it stands and its output is sent. What the peer sends meanwhile is
    /// dropped. Enough where the peer's request was read whole.
    pub fn close_after_flush(&mut self, conn: ConnId) {
        self.close_with(conn, Flags::CLOSE_AFTER_FLUSH);
    }

    /// As [`Io::close_after_flush`], but first closes only the sending half and waits
    /// for the peer's end (up to [`crate::LINGER_MS`]). For an answer given before the
    /// request was read whole: closing then resets the connection, and the peer may
    /// never see the answer.
    pub fn close_lingering(&mut self, conn: ConnId) {
        self.close_with(conn, Flags::CLOSE_AFTER_FLUSH.or(Flags::LINGER));
    }

    /// Closes the connection at once and drops its output; ends a connect under way. On a connection that moves
    /// it has effect only until the socket was handed over.
    pub fn close(&mut self, conn: ConnId) {
        self.state.close_locally(conn);
    }

    /// As [`Io::close`], with the reason `handle_closed` will be given.
    pub fn close_because(&mut self, conn: ConnId, reason: CloseReason) {
        self.state.close(conn, reason);
    }

    /// Stops receiving until [`Io::resume_recv`]. What the kernel has handed over
    /// already is kept and told then.
    pub fn pause_recv(&mut self, conn: ConnId) {
        if let Some(connection) = self.state.table.find_mut(conn)
            && !connection.flags.any(Flags::PAUSED.or(Flags::GONE))
        {
            connection.flags.set(Flags::PAUSED);
            self.state.cancel_recv(conn);
        }
    }

    /// Receives again.
    pub fn resume_recv(&mut self, conn: ConnId) {
        if let Some(connection) = self.state.table.find_mut(conn)
            && connection.flags.any(Flags::PAUSED)
        {
            connection.flags.clear(Flags::PAUSED);
            self.state.deferred.push_back(Deferred::Held(conn));
        }
    }

    /// Asks for one `handle_drained` when the output queue is empty.
    pub fn notify_drained(&mut self, conn: ConnId) {
        if let Some(connection) = self.state.table.find_mut(conn)
            && !connection.flags.any(Flags::GONE.or(Flags::MOVING))
        {
            connection.flags.set(Flags::NOTIFY_DRAINED);
            self.state.mark_dirty(conn);
        }
    }

    /// Sends a message to a shard (also to this one). It leaves at the end of the turn.
    /// Gives it back if [`crate::MESH_DEPTH_MAX`] messages wait already.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn send(&mut self, to: ShardId, message: M) -> Result<(), MeshFull<M>> {
        self.state.mesh.send(to, message)
    }

    /// True if the shard has ended: nothing sent to it is read any more.
    pub fn has_ended(&self, shard: ShardId) -> bool {
        self.state.mesh.has_ended(shard)
    }

    /// Messages that wait between this shard and `to`.
    pub fn mesh_depth(&self, to: ShardId) -> usize {
        self.state.mesh.depth(to)
    }

    /// Calls `handle_timer` with `token` after `after_ms` milliseconds, counted from
    /// [`Io::now_ms`], which is when this turn began, in whole milliseconds: by that clock
    /// never early, and up to about [`crate::TICK_MS`] late.
    pub fn arm_timer(&mut self, after_ms: u64, token: u64) -> TimerId {
        let deadline_ms = self.state.now_ms().saturating_add(after_ms);
        self.state.wheel.arm(deadline_ms, Alarm::Service(token))
    }

    /// Asks for a turn, and so for [`crate::Service::handle_turn_end`], at `at_ns` by
    /// [`Io::clock_ns`], or as soon after as the turn before it has ended. Finer than a
    /// timer: in the last [`crate::SPIN_BEFORE_TURN_NS`] before it the shard does not sleep.
    /// One at a time: a later call replaces the wish of an earlier one.
    pub fn turn_at_ns(&mut self, at_ns: u64) {
        self.state.turn_at_ns = Some(at_ns);
    }

    /// Disarms a timer. Nothing happens if it has expired or was cancelled.
    pub fn cancel_timer(&mut self, id: TimerId) {
        self.state.wheel.cancel(id);
    }

    /// Moves a connection to another shard: its output is sent first, then
    /// `handle_adopted` is called there with the baggage, followed by whatever the peer
    /// sent meanwhile. Here it is gone without `handle_closed`. If it can't move (an outgoing
    /// one never does), `handle_adopted` is called here. If it breaks before, `handle_adopted` and then
    /// `handle_closed` are called here, so the baggage is never lost. The baggage is
    /// dropped if the connection was gone before.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn move_connection(&mut self, conn: ConnId, to: ShardId, baggage: M) {
        self.state.begin_move(conn, to, baggage);
    }

    /// Closes the listeners, after accepting what waits in their queues.
    pub fn stop_accepting(&mut self) {
        self.state.acceptors.iter_mut().for_each(|acceptor| acceptor.stop());
    }

    /// Ends the shard as soon as all output is sent and no connection lingers. The output
    /// of connections that don't stand yet is not waited for.
    pub fn finish(&mut self) {
        self.stop_accepting();
        self.state.finished = true;
    }

    /// All connections that are open here. Walks the whole table.
    pub fn connections(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.state.table.live()
    }

    /// How full the queues are. Walks all outputs, so it is not for every request.
    pub fn depths(&self) -> Depths {
        let state = &self.state;
        let shards = 0..state.mesh.shards() as u16;
        Depths {
            connections: state.table.open() as usize,
            connecting: state.connecting.len(),
            outputs: state.outputs.len(),
            output_bytes: state.outputs.total_bytes(),
            holds: state.holds.len(),
            rings: state.rings.len(),
            slots_free: state.rings.iter().map(|ring| ring.slots_free() as usize).sum(),
            mesh: shards.map(|to| state.mesh.depth(ShardId(to))).sum(),
            timers: state.wheel.len(),
            listeners: state.acceptors.iter().filter(|acceptor| acceptor.is_open()).count(),
        }
    }

    /// What has happened since the shard started.
    pub fn counters(&self) -> Counters {
        self.state.counters
    }

    fn close_with(&mut self, conn: ConnId, how: Flags) {
        if self.state.is_live(conn) {
            if let Some(connection) = self.state.table.find_mut(conn) {
                connection.flags.set(how);
            }
            self.state.mark_dirty(conn);
        }
    }
}
