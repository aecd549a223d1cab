//! One HTTP request and its answer, addressable from any shard.
//!
//! Sessions and calls never hold a connection: they hold an [`Exchange`], which
//! names the shard that has the connection, the connection, and which of its
//! requests is meant. An exchange that has ended is harmless: writing to it
//! does nothing, because the connection has moved on to another number.

use shardgate_proto::http1::{self, Extras, Head, HttpDate, Persistence, Version};
use shardgate_proto::mcp::stream::StreamNumber;
use shardgate_proto::upstream::{CallKey, SessionKey};
use shardgate_shard::{ConnId, ShardId};

/// Names one request on one connection of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Exchange {
    /// The shard that holds the connection.
    pub(crate) shard: ShardId,
    /// The connection.
    pub(crate) conn: ConnId,
    /// Which of the connection's requests.
    pub(crate) number: u32,
    /// How the answer must be framed.
    pub(crate) http: Framing,
}

/// What an exchange waits for, kept by the shard that will write its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// One call whose answer may still become plain JSON.
    Call(CallKey),
    /// A stream of a legacy session.
    Stream(SessionKey, StreamNumber),
    /// A modern call that answers as a stream.
    ModernStream(CallKey),
    /// Another shard writes the answer.
    Forwarded(ShardId),
}

/// Whether an answer goes on after what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More will come.
    More,
    /// The answer is whole: the connection is free for its next request.
    Complete,
}

/// How an answer must be framed: what the request said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Framing {
    pub(crate) version: Version,
    pub(crate) persistence: Persistence,
    /// A page in a browser asks, so the answer must say that the page may read it.
    pub(crate) for_page: bool,
}

/// What a browser must be told for a page of another origin to read an answer
/// (Fetch standard, CORS protocol). A foreign origin was refused before.
const READABLE_BY_PAGES: &[(&str, &str)] = &[
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Expose-Headers", "Mcp-Session-Id, MCP-Protocol-Version, Retry-After"),
];

impl Framing {
    /// Of a request's head; while draining, every connection closes behind its answer.
    pub(crate) fn of(head: &Head<'_>, draining: bool) -> Framing {
        // HTTP/1.0 has no chunks: the end of the connection is the end of its streams.
        let closes = draining || head.version() == Version::Http10;
        let persistence = if closes { Persistence::Close } else { head.persistence() };
        Framing { version: head.version(), persistence, for_page: head.origin().is_some() }
    }

    /// The header fields every answer carries.
    pub(crate) fn extras(self, date: &HttpDate) -> Extras<'_> {
        Extras {
            persistence: self.persistence,
            date: Some(date),
            more: if self.for_page { READABLE_BY_PAGES } else { &[] },
            ..Extras::default()
        }
    }

    /// True if the connection stays open behind an answer of known length.
    pub(crate) fn keeps_alive(self) -> bool {
        self.persistence != Persistence::Close
    }

    /// The head of an event stream.
    pub(crate) fn write_stream_head(self, out: &mut Vec<u8>, extras: &Extras<'_>) {
        http1::write_sse_head(out, self.version, extras);
    }

    /// A piece of an event stream.
    pub(crate) fn write_piece(self, out: &mut Vec<u8>, piece: &[u8]) {
        match self.version {
            Version::Http11 => http1::write_chunk(out, piece),
            Version::Http10 => out.extend_from_slice(piece),
        }
    }

    /// The end of an event stream. In HTTP/1.0 that is the end of the connection.
    pub(crate) fn write_stream_end(self, out: &mut Vec<u8>) {
        if self.version == Version::Http11 {
            http1::write_last_chunk(out);
        }
    }
}
