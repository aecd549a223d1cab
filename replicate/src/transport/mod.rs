//! Links between nodes: requests and their answers, notices, and bulk transfers, over TCP with
//! mutual TLS.
//!
//! Each node keeps one connection to each peer for what it asks ([`Links`]), and answers on
//! those that the peers keep to it ([`serve`]). A bulk transfer has a connection of its own.
//! All of it lives on one thread, inside a tokio `LocalSet`; bodies are opaque here.
//!
//! Invariants:
//! - With [`Security::Tls`] no byte is parsed of a peer that has not shown a certificate of
//!   the cluster's authority, except by the TLS library.
//! - No request is handled before both sides have said who they are ([`Hello`]), what they say
//!   agrees with their certificates, and the [`Gate`] lets them in. Each refusal is a sentence,
//!   which the other side is told too.
//! - Requests to one peer go out, and are begun there, in the order in which they were made;
//!   answers come in any order.
//! - Every queue has a bound with a name; a full one is an error at once. Notices never wait
//!   behind requests.
//! - A connection that misbehaves is dropped with a sentence; nothing that a peer sends makes
//!   this side panic.

mod accept;
mod answering;
mod bulk;
mod conversation;
mod dial;
mod endpoint;
mod frame;
mod hello;
mod link;
mod links;
mod outbox;
mod serve;
mod tls;
mod wire;

pub use bulk::{BULK_PART_BYTES, BulkError, Incoming, Supply};
pub use dial::DialError;
pub use endpoint::{Endpoint, LinkSettings, Security};
pub use frame::{Decoder, FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, Frame, FrameClass, FrameError};
pub use hello::{
    Gate, Hello, OwnIdentity, PROTOCOL_MAX, PROTOCOL_MIN, PeerIdentity, Purpose, Rejection,
};
pub use link::{LinkError, LinkEvent, LinkState, REQUESTS_MAX, REQUESTS_QUEUED_BYTES_MAX};
pub use links::Links;
pub use serve::{
    ANSWERS_QUEUED_BYTES_MAX, BULKS_MAX, HANDLED_AT_ONCE_MAX, HANDSHAKES_MAX, Handler, Serving,
    serve,
};
pub use tls::Tls;
