//! Requests, appended to a connection's output.
//!
//! Invariant: what is written here holds no control byte (a caller that passes
//! one has a bug, and is stopped by an assertion), and says how long its body is.

use crate::http1::line::{is_token_byte, is_value_byte};

/// What stands before the header fields that differ from request to request.
#[derive(Clone, Copy, Debug)]
pub struct RequestStart<'a> {
    /// The method, such as `POST`.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Whole header lines with their CRLFs, `Host` first: made once by
    /// [`RequestStart::fixed_fields`].
    pub fixed_fields: &'a [u8],
}

impl RequestStart<'_> {
    /// The lines that are the same in all requests to one server.
    ///
    /// # Panics
    /// If a name or value is not fit for a header line.
    pub fn fixed_fields<'f>(
        authority: &str,
        fields: impl IntoIterator<Item = (&'f str, &'f str)>,
    ) -> Vec<u8> {
        let mut lines = Vec::new();
        // RFC 9110, 7.2: Host should be "the first header field" of a request.
        write_field(&mut lines, "Host", authority);
        fields.into_iter().for_each(|(name, value)| write_field(&mut lines, name, value));
        lines
    }
}

/// Room for a request's own fields, so that most requests are written without growing.
const OWN_FIELDS_BYTES: usize = 384;

/// A whole request: its head, and `body`, whose slices are written one behind the
/// other. `None` stands for a request that has no body and says nothing of one
/// (RFC 9110, 8.6), which is right for GET and DELETE.
///
/// # Panics
/// If a name, a value or the target is not fit for a head.
pub fn write_request<'f>(
    out: &mut Vec<u8>,
    start: &RequestStart<'_>,
    fields: impl IntoIterator<Item = (&'f str, &'f str)>,
    body: Option<&[&[u8]]>,
) {
    assert!(
        start.target.starts_with('/') && start.target.bytes().all(|byte| byte.is_ascii_graphic()),
        "the target {:?} of an own request is no path",
        start.target
    );
    let body_bytes: usize = body.unwrap_or_default().iter().map(|part| part.len()).sum();
    out.reserve(start.target.len() + start.fixed_fields.len() + OWN_FIELDS_BYTES + body_bytes);
    for part in [start.method, " ", start.target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(start.fixed_fields);
    fields.into_iter().for_each(|(name, value)| write_field(out, name, value));
    if body.is_some() {
        out.extend_from_slice(b"Content-Length: ");
        out.extend_from_slice(itoa::Buffer::new().format(body_bytes).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    for part in body.unwrap_or_default() {
        out.extend_from_slice(part);
    }
}

/// Why a request is not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnfitRequest {
    /// The target is no path.
    #[error("a request for {0:?} cannot be sent: a path of visible ASCII characters was expected")]
    Target(String),
    /// A field that would break the head.
    #[error(
        "a request with the header field {0:?} cannot be sent: its name or value holds bytes that must not stand there"
    )]
    Field(String),
}

/// Says whether [`write_request`] takes this target and these fields. For those that
/// came from outside, such as an event id.
///
/// # Errors
/// [`UnfitRequest`] names the part that is not fit.
pub fn check_request<'f>(
    target: &str,
    fields: impl IntoIterator<Item = (&'f str, &'f str)>,
) -> Result<(), UnfitRequest> {
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(UnfitRequest::Target(target.to_owned()));
    }
    let unfit = fields.into_iter().find(|(name, value)| {
        name.is_empty() || !name.bytes().all(is_token_byte) || !is_value(value)
    });
    unfit.map_or(Ok(()), |(name, _)| Err(UnfitRequest::Field(name.to_owned())))
}

/// Without a way out in the middle, so that the compiler makes SIMD of it.
fn is_value(text: &str) -> bool {
    text.bytes().fold(true, |fits, byte| fits & is_value_byte(byte))
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &str) {
    assert!(is_value(value), "the field {name} of an own request holds a control byte");
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}
