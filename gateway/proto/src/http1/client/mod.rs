//! HTTP/1.1 as a client speaks it: requests out, responses in (RFC 9110, RFC 9112).
//!
//! [`write_request`] appends a request to a connection's output,
//! [`ResponseDecoder`] reads what comes back, piece by piece: an event stream
//! must not wait for its end.
//!
//! Invariants:
//! - Cutting the input into pieces differently never changes the outcome: the
//!   same heads and the same body bytes, then the same end or the same [`BadResponse`].
//! - A decoder that waits for a response owns no buffer, nor does one in a body.
//! - What could be read in two ways (two lengths, a bare LF, a folded line) is an
//!   error: a response that is split wrongly answers somebody else's request.
//!
//! Limits: the head as the decoder was made for, [`super::HEADERS_MAX`],
//! [`INTERIM_MAX`]. A body has no limit here; who collects one bounds it.

mod bad_response;
mod decoder;
mod head;
mod write;

#[cfg(test)]
mod tests;

pub use bad_response::BadResponse;
pub(crate) use bad_response::excerpt;
pub use decoder::{Ending, ResponseDecoder, ResponsePart};
pub use head::{BodyLength, ResponseHead};
pub use write::{RequestStart, UnfitRequest, check_request, write_request};

/// Interim (1xx) responses skipped before one final response.
pub const INTERIM_MAX: u8 = 16;
