//! What shards send each other.

use shardgate_proto::http1::RequestDecoder;

use super::exchange::{Exchange, Framing};
use super::request::OwnedRequest;
use crate::control::ControlRequest;

/// A message to a shard, from another shard or from the control thread.
pub(crate) enum Message {
    /// A request whose session lives on the receiver.
    Forward {
        /// Where the answer goes.
        exchange: Exchange,
        /// The request.
        request: Box<OwnedRequest>,
    },
    /// Bytes for the connection that a forwarded request came from.
    Output {
        /// Whose answer.
        exchange: Exchange,
        /// Framed HTTP.
        bytes: Vec<u8>,
        /// True if the answer is whole.
        complete: bool,
    },
    /// The handling of a forwarded request panicked: its connection closes.
    Broken(Exchange),
    /// The client of a forwarded request has gone.
    ClientGone(Exchange),
    /// Travels with a connection that moves to the shard of its session.
    Adopt {
        /// The request that made it move.
        request: Box<OwnedRequest>,
        /// How its answer must be framed.
        http: Framing,
        /// With what the client had sent behind it.
        decoder: RequestDecoder,
    },
    /// From the same upstream on another shard.
    Sibling(std::sync::Arc<[u8]>),
    /// The sender drains and has no connection left. What it sent before stands before this.
    Quiet,
    /// From the control thread.
    Control(ControlRequest),
}
