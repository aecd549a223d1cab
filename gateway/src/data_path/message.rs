//! What shards send each other.

use std::sync::Arc;

use shardgate_proto::catalog::Pins;
use shardgate_proto::http1::RequestDecoder;

use super::changes::Reloaded;
use super::exchange::{Exchange, Framing};
use super::request::OwnedRequest;
use crate::children::ChildNews;
use crate::control::ControlRequest;
use crate::endpoints::Endpoints;
use crate::tasks::FromDesk;

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
    Sibling(Arc<[u8]>),
    /// News of a child process that this shard has asked for.
    Child(ChildNews),
    /// Where tool servers are, looked up anew.
    Endpoints(Arc<Endpoints>),
    /// The configuration was read again.
    Reloaded(Arc<Reloaded>),
    /// Which definitions of tools are approved.
    Pins(Arc<Pins>),
    /// From the desk of tasks.
    Tasks(FromDesk),
    /// The sender drains and has no connection left. What it sent before stands before this.
    Quiet,
    /// From the control thread.
    Control(ControlRequest),
}
