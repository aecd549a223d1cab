//! The HTTP client of one tool server on one shard: a pool of links and the
//! exchanges (a request and its answer) on them.
//!
//! An [`HttpClient`] writes requests into [`Events`](crate::upstream::Events) and
//! is told what its links bring; what the server answers comes out as
//! [`ExchangeEvent`]s. JSON bodies and SSE streams are taken apart here; what they
//! say is the caller's affair.
//!
//! Invariants:
//! - Every exchange that [`HttpClient::send`] began has exactly one last event,
//!   [`ExchangeEvent::End`] or [`ExchangeEvent::Failed`], unless it is aborted.
//! - A link carries one exchange at a time (no pipelining), and another one only
//!   if the one before ended in order and both sides keep the connection.
//! - A link that sends what nobody asked for is closed.
//! - A request is sent twice only if its sender allowed it, the link had served
//!   before, and it ended before a byte of the answer (RFC 9112, 9.3.1).
//! - How the bytes are cut never changes what comes out.
//!
//! Limits: [`HttpClientSettings`], [`OTHER_BODY_BYTES_MAX`]. A client without
//! links owns no buffers; one with links keeps at most [`SPARE_BYTES_MAX`] besides them.

mod exchange;
mod pool;
#[cfg(test)]
mod tests;

pub use pool::HttpClient;

use crate::upstream::EndpointId;

/// The part of a body that is kept where it is no JSON answer but a text for humans.
pub const OTHER_BODY_BYTES_MAX: usize = 64 * 1024;

/// Memory kept for copies of requests that may have to be sent again.
pub const SPARE_BYTES_MAX: usize = 16 * 1024;

/// How a tool server is reached, and within which bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpClientSettings {
    /// The server's index: see [`LinkKey::new`](crate::upstream::LinkKey::new). On one
    /// shard, no two clients ever have the same.
    pub owner: u16,
    /// Where links go.
    pub endpoint: EndpointId,
    /// The value of `Host`.
    pub authority: String,
    /// Path and query of the MCP endpoint.
    pub path: String,
    /// Header fields of every request.
    pub fields: Vec<(String, String)>,
    /// Links open at the same time; zero counts as one.
    pub connections_max: usize,
    /// Requests that wait for a link.
    pub waiting_max: usize,
    /// The head of one response.
    pub head_bytes_max: usize,
    /// One JSON answer, or one event of a stream.
    pub message_bytes_max: usize,
    /// A link without an exchange is closed after this time.
    pub idle_link_ms: u64,
    /// A link must be open within this time.
    pub connect_timeout_ms: u64,
    /// From [`HttpClient::send`] to the response's head, and to its whole body unless that is
    /// a stream of events. See [`Request::timeout_ms`].
    pub head_timeout_ms: u64,
}

/// A request and its answer, unique within its client for the process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeKey(pub u64);

/// What is done with the resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Send a message. The body is declared to be JSON.
    Post,
    /// Open a stream of events. Has no body.
    Get,
    /// End a session. Has no body.
    Delete,
}

impl Verb {
    /// The method's name.
    pub const fn name(self) -> &'static str {
        match self {
            Verb::Post => "POST",
            Verb::Get => "GET",
            Verb::Delete => "DELETE",
        }
    }
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method.
    pub verb: Verb,
    /// Path and query, if not those of the settings.
    pub path: Option<&'a str>,
    /// Header fields besides those of the settings, `Accept`, `Accept-Encoding`,
    /// `Content-Type` and `Content-Length`.
    pub fields: &'a [(&'a str, &'a str)],
    /// The body of a POST: slices that are written one after another.
    pub body: &'a [&'a [u8]],
    /// The value of `Accept`.
    pub accept: &'a str,
    /// Instead of [`HttpClientSettings::head_timeout_ms`].
    pub timeout_ms: Option<u64>,
    /// May it be sent again on a fresh link, if one that had served before turns
    /// out to be closed before a byte of the answer came?
    pub repeatable: bool,
}

/// What sort of body a response has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// `application/json`
    Json,
    /// `text/event-stream`
    Events,
    /// Something else.
    Other,
    /// None.
    None,
}

/// What happens to an exchange.
#[derive(Debug, PartialEq, Eq)]
pub enum ExchangeEvent<'a> {
    /// The response's head: the first event, unless the exchange fails before.
    Head {
        /// The status, from 200 to 599.
        status: u16,
        /// What sort of body follows.
        content: Content,
        /// `Mcp-Session-Id`: visible ASCII, not empty.
        session_id: Option<&'a str>,
        /// `Retry-After`, where it is a number.
        retry_after_s: Option<u32>,
        /// `Location`
        location: Option<&'a str>,
        /// `WWW-Authenticate`, the first of its lines.
        www_authenticate: Option<&'a str>,
    },
    /// A whole body that is no stream, or one event of a stream. Bodies other than
    /// JSON with a status of success are cut off behind [`OTHER_BODY_BYTES_MAX`]. Empty
    /// bodies are not told of; empty data of an event are.
    Message {
        /// The event's type; empty stands for `message`, and for a body that is no stream.
        event: &'a [u8],
        /// The last event id so far; empty if there was none.
        id: &'a [u8],
        /// The body, or the event's data.
        data: &'a [u8],
    },
    /// The time to wait before the stream is asked for again, in milliseconds.
    Retry(u64),
    /// The response is complete.
    End {
        /// To be sent as `Last-Event-ID` if the stream is resumed; empty if there is none.
        last_event_id: &'a [u8],
    },
    /// There will be no (more of the) response.
    Failed(Failure),
}

/// What kind of failure ended an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No link could be opened.
    Unreachable,
    /// The link ended before the response was complete.
    ClosedEarly,
    /// The server broke the protocol.
    Malformed,
    /// A head, an answer or an event is larger than allowed.
    TooLarge,
    /// It took too long: to get a link, the response's head, or its body.
    TimedOut,
    /// The request itself cannot be written: a path or header field that came from
    /// outside holds bytes that must not stand there.
    Unfit,
}

/// Why an exchange failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In one word.
    pub kind: FailureKind,
    /// True if the request, or a part of it, may have reached the server.
    pub sent: bool,
    /// In a sentence, with the evidence.
    pub text: String,
    /// To be sent as `Last-Event-ID` if the stream is resumed; empty if there is none.
    pub last_event_id: Vec<u8>,
}

/// No link is free, no more may be opened, and no more requests may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "all {connections_max} connections to the server are in use and {waiting_max} requests wait for one: try again later, or raise the limits"
)]
pub struct PoolFull {
    /// The limit of links.
    pub connections_max: usize,
    /// The limit of waiting requests.
    pub waiting_max: usize,
}
