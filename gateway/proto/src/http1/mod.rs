//! HTTP/1.1 as a server speaks it: requests in, responses out (RFC 9110, RFC 9112).
//! The other direction, requests out and responses in, is [`client`].
//!
//! [`RequestDecoder`] turns received bytes into [`Request`]s, the `write_*`
//! functions append responses to a connection's output.
//!
//! Invariants:
//! - Cutting the input into pieces differently never changes the outcome: the
//!   same requests, or the same [`Refusal`] after the same requests.
//! - A decoder that waits for a new request owns no buffer.
//! - What could be read in two ways (two lengths, a bare LF, a folded line) is
//!   refused: whoever stands in front of us might have read it the other way.
//!
//! Limits: everything in [`Limits`], and [`HEADERS_MAX`].

mod chunked;
pub mod client;
mod head;
mod line;
mod media;
mod refusal;
mod request;
mod response;
#[cfg(test)]
mod tests;

pub use head::{Field, Head, HeaderLines, Method, Persistence, Version};
pub use media::is_media_type;
pub use refusal::{Refusal, Status};
pub use request::{Decoded, Phase, Request, RequestDecoder};
pub use response::{
    CONTINUE, Extras, HttpDate, write_body_head, write_chunk, write_chunk_with, write_empty,
    write_json, write_json_head, write_last_chunk, write_refusal, write_sse_head,
};

/// Header fields of one request; more are refused with 431. Lines of a trailer are bounded alike.
pub const HEADERS_MAX: usize = 64;

/// The largest header block that can be configured: positions in it are kept in 16 bits.
pub const HEAD_BYTES_MAX: usize = u16::MAX as usize;

/// What a client may send, in bytes where the name says nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Request line, header fields and the empty line behind them. More is
    /// answered with 431. Values over [`HEAD_BYTES_MAX`] count as that.
    pub head_bytes_max: usize,
    /// The request line without its CRLF. More is answered with 414.
    pub request_line_bytes_max: usize,
    /// Header fields. More is answered with 431. Values over [`HEADERS_MAX`] count as that.
    pub headers_max: usize,
    /// The body without its chunk framing. More is answered with 413.
    pub body_bytes_max: usize,
    /// One chunk-size line with its extensions, without its CRLF.
    pub chunk_line_bytes_max: usize,
    /// All chunk extensions of one body.
    pub chunk_extensions_bytes_max: usize,
    /// All trailer fields behind a chunked body, with their CRLFs. More is answered with 431.
    pub trailer_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_bytes_max: 16 * 1024,
            // RFC 9112, 3: "recommended that all HTTP senders and recipients
            // support, at a minimum, request-line lengths of 8000 octets".
            request_line_bytes_max: 8 * 1024,
            headers_max: HEADERS_MAX,
            body_bytes_max: 16 * 1024 * 1024,
            chunk_line_bytes_max: 256,
            chunk_extensions_bytes_max: 4 * 1024,
            trailer_bytes_max: 8 * 1024,
        }
    }
}
