//! What comes over the mesh and is not a session's affair: output for a
//! connection of this shard, and what the control thread wants to know.

use shardgate_proto::upstream::Upstream;
use shardgate_shard::Io;

use super::exchange::Exchange;
use super::message::Message;
use super::service::Gateway;
use crate::control::ControlRequest;
use crate::metrics::{Reports, ShardGauges};

impl<U: Upstream> Gateway<U> {
    /// Bytes another shard wrote for a connection of this one.
    pub(crate) fn take_output(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        bytes: &[u8],
        complete: bool,
    ) {
        // The client may have gone while the bytes were on their way.
        if !self.is_current(exchange) {
            return;
        }
        let now = self.now(io);
        if let Some(connection) = self.connections.connection(exchange.conn) {
            connection.last_active = now;
        }
        if let Some(output) = io.output(exchange.conn) {
            output.extend_from_slice(bytes);
            self.metrics.sent(bytes.len());
        }
        if complete {
            self.complete(io, exchange);
        } else {
            self.check_slow_reader(io, exchange, bytes.len());
        }
    }
}

impl<U: Upstream + Reports> Gateway<U> {
    /// A request of the control thread.
    pub(crate) fn control(&mut self, io: &mut Io<'_, Message>, request: ControlRequest) {
        match request {
            ControlRequest::Snapshot(answer_to) => {
                let depths = io.depths();
                let gauges = ShardGauges {
                    connections: self.connections.open() as u64,
                    sessions: self.sessions.len() as u64,
                    streams: self.streams_open as u64,
                    calls_in_flight: self.calls.len() as u64,
                    mesh_depth: depths.mesh as u64
                        + self.deferred.values().map(|waiting| waiting.len() as u64).sum::<u64>(),
                    send_queue_bytes: depths.output_bytes as u64,
                    connections_held: depths.holds as u64,
                    timers: depths.timers as u64,
                    upstream_links: self.links.len() as u64,
                };
                let mut snapshot = self.metrics.snapshot(gauges);
                snapshot.upstreams = self.upstream.report();
                // The asker may have given up; then nobody misses the answer.
                let _ = answer_to.try_send(snapshot);
            }
        }
    }
}
