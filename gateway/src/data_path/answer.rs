//! Writing answers: onto a connection of this shard, or over the mesh to the
//! shard that holds the connection.

use shardgate_proto::http1::{self, Extras, Persistence, Status};
use shardgate_proto::jsonrpc::{self, ErrorCode};
use shardgate_proto::mcp::modern::LIMIT_REACHED;
use shardgate_proto::upstream::Upstream;
use shardgate_shard::{Io, ShardId};

use super::connection::State;
use super::exchange::{Exchange, Progress, Work};
use super::message::Message;
use super::service::Gateway;
use crate::metrics::{Limit, MeshEvent, Method, Status as MetricStatus};

/// What a client is told to wait when a limit is reached, in seconds.
pub(crate) const RETRY_AFTER_S: u32 = 1;

/// A JSON-RPC error as an HTTP answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault<'a> {
    pub(crate) status: u16,
    pub(crate) code: i32,
    pub(crate) message: &'a str,
    /// JSON text.
    pub(crate) data: Option<&'a str>,
    /// What was asked for, as far as it is known, for the metrics.
    pub(crate) method: Method,
}

impl<'a> Fault<'a> {
    pub(crate) fn new(status: u16, code: i32, message: &'a str) -> Fault<'a> {
        Fault { status, code, message, data: None, method: Method::Other }
    }

    /// The answer to a request for this.
    pub(crate) fn to(self, method: Method) -> Fault<'a> {
        Fault { method, ..self }
    }
}

impl<U: Upstream> Gateway<U> {
    /// Appends bytes to an exchange's answer. False if the exchange has ended.
    pub(crate) fn write(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        progress: Progress,
        append: impl FnOnce(&mut Vec<u8>, &Extras<'_>),
    ) -> bool {
        if exchange.shard != io.shard() {
            if !self.remote.contains_key(&exchange) {
                return false;
            }
            let mut bytes = Vec::new();
            append(&mut bytes, &exchange.http.extras(&self.date));
            let complete = progress == Progress::Complete;
            if complete {
                self.remote.remove(&exchange);
            }
            self.send(io, exchange.shard, Message::Output { exchange, bytes, complete });
            return true;
        }
        if !self.is_current(exchange) {
            return false;
        }
        let Some(output) = io.output(exchange.conn) else { return false };
        let before = output.len();
        append(output, &exchange.http.extras(&self.date));
        self.metrics.sent(output.len() - before);
        if progress == Progress::Complete {
            self.complete(io, exchange);
        }
        true
    }

    /// A whole JSON answer made of `parts`.
    pub(crate) fn answer_json(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        status: u16,
        parts: &[&[u8]],
    ) -> bool {
        let length = parts.iter().map(|part| part.len()).sum();
        self.write(io, exchange, Progress::Complete, |out, extras| {
            http1::write_json_head(out, Status(status), extras, length);
            for part in parts {
                out.extend_from_slice(part);
            }
        })
    }

    /// A whole answer that is a JSON-RPC error. `id` is raw JSON; `None` becomes null.
    pub(crate) fn answer_fault(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        id: Option<&[u8]>,
        fault: &Fault<'_>,
    ) {
        self.metrics.rpc_error(fault.code);
        self.metrics.answered(fault.method, MetricStatus::of(fault.status));
        let mut body = Vec::with_capacity(256);
        let data = fault.data.map(str::as_bytes);
        jsonrpc::write_error(&mut body, id, ErrorCode(fault.code), fault.message, data);
        self.write(io, exchange, Progress::Complete, |out, extras| {
            let extras = Extras {
                retry_after_s: matches!(fault.status, 429 | 503).then_some(RETRY_AFTER_S),
                allow: (fault.status == 405).then_some(super::front::ALLOWED_METHODS),
                ..*extras
            };
            http1::write_json(out, Status(fault.status), &extras, &body);
        });
    }

    /// A limit was reached: 503 or 429, with Retry-After and the limit's name.
    pub(crate) fn answer_limit(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        id: Option<&[u8]>,
        method: Method,
        (limit, status): (Limit, u16),
    ) {
        self.metrics.refused(limit);
        let message = limit_text(limit);
        let fault = Fault::new(status, LIMIT_REACHED, &message).to(method);
        self.answer_fault(io, exchange, id, &fault);
    }

    /// An answer without a body, such as 202.
    pub(crate) fn answer_empty(
        &mut self,
        io: &mut Io<'_, Message>,
        exchange: Exchange,
        status: u16,
    ) {
        self.write(io, exchange, Progress::Complete, |out, extras| {
            http1::write_empty(out, Status(status), extras);
        });
    }

    /// Notes what an exchange waits for, so that its end or its client's going is understood.
    pub(crate) fn set_work(&mut self, io: &mut Io<'_, Message>, exchange: Exchange, work: Work) {
        if exchange.shard != io.shard() {
            let wait_ms = match work {
                Work::Call(_) => self.settings.answer_patience_ms,
                Work::Stream(..) | Work::ModernStream(_) | Work::Forwarded(_) => {
                    self.settings.heartbeat_ms
                }
            };
            let next_beat = self.now(io) + wait_ms;
            self.remote.insert(exchange, super::service::RemoteWork { work, next_beat });
            self.watch_remote(io);
            return;
        }
        if self.is_current(exchange)
            && let Some(connection) = self.connections.connection(exchange.conn)
        {
            connection.state = State::Busy(Some(work));
            self.watch_answer(io, exchange.conn, work);
        }
    }

    /// True if the exchange is what its connection is busy with.
    pub(crate) fn is_current(&mut self, exchange: Exchange) -> bool {
        self.connections.connection(exchange.conn).is_some_and(|connection| {
            connection.number == exchange.number && matches!(connection.state, State::Busy(_))
        })
    }

    /// The answer is whole: the connection takes its next request, or closes.
    pub(crate) fn complete(&mut self, io: &mut Io<'_, Message>, exchange: Exchange) {
        let Some(connection) = self.connections.connection(exchange.conn) else { return };
        if !exchange.http.keeps_alive() {
            connection.state = State::Closing;
            if self.draining {
                // A next request may be on its way already: a plain close would reset it.
                io.close_lingering(exchange.conn);
            } else {
                io.close_after_flush(exchange.conn);
            }
            return self.watch_closing(io, exchange.conn);
        }
        connection.state = State::Ready;
        if !connection.driven {
            // The answer came later than its request: requests may wait behind it.
            self.ready.push(exchange.conn);
        }
    }

    /// Sends a message to a shard. What the mesh can't take now is kept and sent
    /// first at the next turn: an answer is never dropped. What is kept is bounded by
    /// the exchanges of other shards that are answered here (requests are refused while
    /// anything waits, see `forward`), and by what upstreams tell their siblings in a turn.
    pub(crate) fn send(&mut self, io: &mut Io<'_, Message>, to: ShardId, message: Message) {
        if io.has_ended(to) {
            return;
        }
        let waiting = self.deferred.entry(to).or_default();
        if waiting.is_empty() {
            if let Err(full) = io.send(to, message) {
                self.metrics.mesh(MeshEvent::Full);
                waiting.push_back(full.0);
            }
        } else {
            waiting.push_back(message);
        }
    }
}

/// The answer to a connection that is one too many, before any request was read.
pub(crate) fn write_limit_refusal(out: &mut Vec<u8>, limit: Limit) {
    let mut body = Vec::with_capacity(160);
    let code = ErrorCode(shardgate_proto::mcp::modern::LIMIT_REACHED);
    jsonrpc::write_error(&mut body, None, code, &limit_text(limit), None);
    let extras = Extras {
        persistence: Persistence::Close,
        retry_after_s: Some(RETRY_AFTER_S),
        ..Extras::default()
    };
    http1::write_json(out, Status::SERVICE_UNAVAILABLE, &extras, &body);
}

fn limit_text(limit: Limit) -> String {
    format!("limit {} reached; try again after {RETRY_AFTER_S} s", limit.as_str())
}
