//! What is wrong with a server's response, with the bytes that show it.
//!
//! Invariant: the evidence depends on the response alone, not on how it was cut.

use crate::http1::Refusal;

/// Bytes of evidence in a message.
const EXCERPT_BYTES_MAX: usize = 80;

/// Why the bytes a server sent are no response. The connection is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadResponse {
    /// A TLS record where plain HTTP was expected.
    #[error("the server answered with a TLS record: use https:// in its URL")]
    Tls,
    /// The first bytes start no HTTP/1 response.
    #[error(
        "the server answered with `{start}` where `HTTP/1.1` was expected: is this an HTTP port?"
    )]
    NotHttp {
        /// What came instead.
        start: String,
    },
    /// The status line is malformed, or of a version other than 1.0 and 1.1.
    #[error("the server sent the status line `{line}`, which is not `HTTP/1.1 STATUS REASON`")]
    StatusLine {
        /// The line.
        line: String,
    },
    /// A protocol change nobody asked for.
    #[error("the server switched protocols (101) without being asked to")]
    Switched,
    /// More than [`super::INTERIM_MAX`] interim responses.
    #[error("the server sent more than {interim_max} interim (1xx) responses to one request")]
    InterimMany {
        /// The limit.
        interim_max: u8,
    },
    /// The head does not end in time.
    #[error("the server sent a response head of more than {head_bytes_max} bytes: raise the limit")]
    HeadLarge {
        /// The limit.
        head_bytes_max: usize,
    },
    /// Too many fields.
    #[error("the server sent a response head of more than {headers_max} fields")]
    HeadersMany {
        /// The limit.
        headers_max: usize,
    },
    /// A line of the head is malformed.
    #[error("the server sent the header line `{line}`, which is refused ({reason})")]
    Line {
        /// The line.
        line: String,
        /// One word, such as `bare_lf`.
        reason: &'static str,
    },
    /// A field that may stand only once is repeated, and the two might be read differently.
    #[error("the server sent the field {name} more than once")]
    Repeated {
        /// Its name.
        name: &'static str,
    },
    /// A field whose value cannot be used.
    #[error("the server sent {name} `{value}`: {wanted}")]
    Value {
        /// The field's name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What would have been right.
        wanted: &'static str,
    },
    /// Both ways of saying how long the body is.
    #[error("the server sent Content-Length `{length}` and Transfer-Encoding `{coding}` together")]
    LengthAndCoding {
        /// The one.
        length: String,
        /// The other.
        coding: String,
    },
    /// The chunked body is malformed.
    #[error("the server's chunked body is refused at `{byte}` ({reason})")]
    Chunk {
        /// The byte that broke it.
        byte: String,
        /// One word, such as `chunk`.
        reason: &'static str,
    },
    /// The connection ended within a head.
    #[error("the server closed the connection within the response head, behind `{start}`")]
    HeadCut {
        /// How the head begins.
        start: String,
    },
    /// The connection ended within a body of known length.
    #[error("the server closed the connection with {missing} bytes of the body missing")]
    BodyCut {
        /// Bytes that were announced and did not come.
        missing: usize,
    },
    /// The connection ended within a chunked body.
    #[error("the server closed the connection before the last chunk of the body")]
    ChunksCut,
}

impl BadResponse {
    pub(super) fn line(line: &[u8], refusal: &Refusal) -> BadResponse {
        BadResponse::Line { line: excerpt(line), reason: refusal.reason }
    }

    /// True if nothing is wrong but that the connection ended too soon.
    pub fn is_cut(&self) -> bool {
        matches!(
            self,
            BadResponse::HeadCut { .. } | BadResponse::BodyCut { .. } | BadResponse::ChunksCut
        )
    }

    /// True if a limit of this side was passed.
    pub fn is_too_large(&self) -> bool {
        matches!(self, BadResponse::HeadLarge { .. } | BadResponse::HeadersMany { .. })
    }
}

/// The beginning of `bytes` in printable characters.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(EXCERPT_BYTES_MAX)];
    let more = if shown.len() < bytes.len() { "..." } else { "" };
    format!("{}{more}", shown.escape_ascii())
}
