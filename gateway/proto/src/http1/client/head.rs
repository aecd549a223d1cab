//! The head of a response: status and the header fields that matter here.
//!
//! Invariant: a [`ResponseHead`] exists only if the whole head is valid and says
//! in one way how long the body is.

use std::mem::MaybeUninit;

use super::bad_response::{BadResponse, excerpt};
use crate::http1::head::{ConnectionOptions, HeaderLines, Span, ends_lines_strictly, is_spelled};
use crate::http1::head::{Version, offset};
use crate::http1::line::is_value_byte;
use crate::http1::{HEAD_BYTES_MAX, HEADERS_MAX, is_media_type};

/// How a response says where its body ends (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// After this many bytes; zero for responses that never have a body.
    Bytes(usize),
    /// After the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    ContentType,
    ContentLength,
    TransferEncoding,
    Connection,
    ContentEncoding,
    KeepAlive,
    Location,
    RetryAfter,
    SessionId,
    WwwAuthenticate,
}

const FIELDS: usize = Field::WwwAuthenticate as usize + 1;

impl Field {
    const fn name(self) -> &'static str {
        match self {
            Field::ContentType => "Content-Type",
            Field::ContentLength => "Content-Length",
            Field::TransferEncoding => "Transfer-Encoding",
            Field::Connection => "Connection",
            Field::ContentEncoding => "Content-Encoding",
            Field::KeepAlive => "Keep-Alive",
            Field::Location => "Location",
            Field::RetryAfter => "Retry-After",
            Field::SessionId => "Mcp-Session-Id",
            Field::WwwAuthenticate => "WWW-Authenticate",
        }
    }

    fn recognise(name: &[u8]) -> Option<Field> {
        let (field, fits) = match name.len() {
            8 => (Field::Location, is_spelled(name, b"location")),
            10 if is_spelled(name, b"keep-alive") => (Field::KeepAlive, true),
            10 => (Field::Connection, is_spelled(name, b"connection")),
            11 => (Field::RetryAfter, is_spelled(name, b"retry-after")),
            12 => (Field::ContentType, is_spelled(name, b"content-type")),
            14 if is_spelled(name, b"content-length") => (Field::ContentLength, true),
            14 => (Field::SessionId, is_spelled(name, b"mcp-session-id")),
            16 if is_spelled(name, b"content-encoding") => (Field::ContentEncoding, true),
            16 => (Field::WwwAuthenticate, is_spelled(name, b"www-authenticate")),
            17 => (Field::TransferEncoding, is_spelled(name, b"transfer-encoding")),
            _ => return None,
        };
        fits.then_some(field)
    }

    /// A second value of these would change what the response means or where it ends.
    fn must_stand_once(self) -> bool {
        matches!(
            self,
            Field::ContentType | Field::ContentLength | Field::TransferEncoding | Field::SessionId
        )
    }
}

/// What was found in a head, without the head's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeadIndex {
    bytes: u16,
    first_field: u16,
    pub(super) status: u16,
    version: Version,
    pub(super) keep_alive: bool,
    pub(super) length: BodyLength,
    fields: [Span; FIELDS],
}

impl HeadIndex {
    /// Length of the head including the empty line.
    pub(super) fn bytes(&self) -> usize {
        usize::from(self.bytes)
    }

    /// RFC 9110, 15.2: an interim response, behind which the final one follows.
    pub(super) fn is_interim(&self) -> bool {
        self.status < 200
    }
}

/// Reads a head that starts at the first byte of `bytes`; bytes behind it don't matter.
/// `None` if it is not whole or not well-formed: the line-by-line scan has to decide.
pub(super) fn parse(bytes: &[u8], head_bytes_max: usize) -> Result<Option<HeadIndex>, BadResponse> {
    let mut headers = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    // httparse skips empty lines; before a response there must be none.
    if matches!(bytes.first(), None | Some(b'\r' | b'\n')) {
        return Ok(None);
    }
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut headers,
    );
    let Ok(httparse::Status::Complete(length)) = parsed else { return Ok(None) };
    let (Some(status), Some(minor)) = (response.code, response.version) else { return Ok(None) };
    if length > head_bytes_max.min(HEAD_BYTES_MAX)
        || !ends_lines_strictly(&bytes[..length], response.headers)
        || !is_status(status)
    {
        return Ok(None);
    }
    let version = if minor == 1 { Version::Http11 } else { Version::Http10 };
    index(&bytes[..length], status, version, response.headers).map(Some)
}

/// RFC 9110, 15: the first digit defines the class, and there are five.
fn is_status(status: u16) -> bool {
    (100..600).contains(&status)
}

/// RFC 9112, 4: `status-line = HTTP-version SP status-code SP [ reason-phrase ]`. The space
/// before an absent reason is left out by many servers, and nothing hangs on it.
pub(super) fn check_status_line(line: &[u8]) -> Result<(), BadResponse> {
    let fits = || {
        let rest = line.strip_prefix(b"HTTP/1.")?;
        let [b'0' | b'1', b' ', a, b, c, reason @ ..] = rest else { return None };
        let digits = [a, b, c].iter().all(|digit| digit.is_ascii_digit());
        let reason_fits = matches!(reason.first(), None | Some(b' '))
            && reason.iter().all(|byte| is_value_byte(*byte));
        (digits && matches!(a, b'1'..=b'5') && reason_fits).then_some(())
    };
    fits().ok_or_else(|| BadResponse::StatusLine { line: excerpt(line) })
}

fn index(
    block: &[u8],
    status: u16,
    version: Version,
    headers: &[httparse::Header<'_>],
) -> Result<HeadIndex, BadResponse> {
    let first_field = memchr::memchr(b'\n', block).map_or(block.len(), |end| end + 1);
    let mut index = HeadIndex {
        bytes: block.len() as u16,
        first_field: first_field as u16,
        status,
        version,
        keep_alive: version == Version::Http11,
        length: BodyLength::UntilClose,
        fields: [Span::ABSENT; FIELDS],
    };
    let mut connection = ConnectionOptions::default();
    for header in headers {
        let Some(field) = Field::recognise(header.name.as_bytes()) else { continue };
        if field == Field::Connection {
            connection.take(header.value);
        }
        let slot = &mut index.fields[field as usize];
        if *slot == Span::ABSENT {
            *slot = Span::new(offset(block, header.value), header.value.len());
        } else if field.must_stand_once() {
            return Err(BadResponse::Repeated { name: field.name() });
        }
    }
    // RFC 9112, 9.3: "close" wins; HTTP/1.0 stays open only if it says so.
    index.keep_alive = !connection.close && (index.keep_alive || connection.keep_alive);
    index.check_session_id(block)?;
    index.settle_length(block)?;
    Ok(index)
}

impl HeadIndex {
    fn value<'a>(&self, block: &'a [u8], field: Field) -> Option<&'a [u8]> {
        self.fields[field as usize].of(block)
    }

    /// MCP 2025-11-25, transports: "The session ID MUST only contain visible ASCII
    /// characters". It will be sent back, so it must not be able to break a head.
    fn check_session_id(&self, block: &[u8]) -> Result<(), BadResponse> {
        match self.value(block, Field::SessionId) {
            Some(id) if id.is_empty() || !id.iter().all(u8::is_ascii_graphic) => {
                Err(BadResponse::Value {
                    name: Field::SessionId.name(),
                    value: excerpt(id),
                    wanted: "visible ASCII characters were expected",
                })
            }
            _ => Ok(()),
        }
    }

    /// RFC 9112, 6.3, rule by rule.
    fn settle_length(&mut self, block: &[u8]) -> Result<(), BadResponse> {
        let length = self.value(block, Field::ContentLength);
        let coding = self.value(block, Field::TransferEncoding);
        self.length = match (length, coding) {
            // Rule 1: these end with their head "regardless of the header fields present".
            _ if self.is_interim() || matches!(self.status, 204 | 304) => BodyLength::Bytes(0),
            (None, None) => BodyLength::UntilClose,
            (Some(length), None) => BodyLength::Bytes(parse_length(length)?),
            // RFC 9112, 6.1: a message of HTTP/1.0 with a transfer coding must be
            // treated "as if the framing is faulty".
            (None, Some(coding))
                if self.version == Version::Http11 && coding.eq_ignore_ascii_case(b"chunked") =>
            {
                BodyLength::Chunked
            }
            (None, Some(coding)) => {
                return Err(BadResponse::Value {
                    name: Field::TransferEncoding.name(),
                    value: excerpt(coding),
                    wanted: "the only transfer coding read is `chunked`, in HTTP/1.1",
                });
            }
            // Rule 3: this "might indicate an attempt to perform request smuggling
            // [...] or response splitting [...] and ought to be handled as an error".
            (Some(length), Some(coding)) => {
                return Err(BadResponse::LengthAndCoding {
                    length: excerpt(length),
                    coding: excerpt(coding),
                });
            }
        };
        Ok(())
    }
}

/// RFC 9110, 8.6: `Content-Length = 1*DIGIT`. No sign, no list, no white space.
fn parse_length(text: &[u8]) -> Result<usize, BadResponse> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then_some(text).and_then(parse_number).ok_or_else(|| BadResponse::Value {
        name: Field::ContentLength.name(),
        value: excerpt(text),
        wanted: "one decimal number was expected",
    })
}

fn parse_number<N: std::str::FromStr>(text: &[u8]) -> Option<N> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The head of a valid response, borrowed from the bytes it was read from.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    block: &'a [u8],
    index: HeadIndex,
}

impl<'a> ResponseHead<'a> {
    pub(super) fn new(block: &'a [u8], index: HeadIndex) -> ResponseHead<'a> {
        ResponseHead { block, index }
    }

    /// The status code, from 200 to 599.
    pub fn status(&self) -> u16 {
        self.index.status
    }

    /// The version.
    pub fn version(&self) -> Version {
        self.index.version
    }

    /// Where the body ends.
    pub fn body_length(&self) -> BodyLength {
        self.index.length
    }

    /// True if there is a `Content-Type` and it is `media_type`, whatever its parameters.
    pub fn content_type_is(&self, media_type: &str) -> bool {
        self.field(Field::ContentType).is_some_and(|value| is_media_type(value, media_type))
    }

    /// `Content-Encoding`, unless it is the one that changes nothing.
    pub fn content_encoding(&self) -> Option<&'a [u8]> {
        self.field(Field::ContentEncoding).filter(|value| !value.eq_ignore_ascii_case(b"identity"))
    }

    /// The `timeout` of `Keep-Alive`: so many seconds will the server keep an idle
    /// connection (RFC 2068, 19.7.1.1; many servers still say it).
    pub fn keep_alive_timeout_s(&self) -> Option<u32> {
        let mut parameters = self.field(Field::KeepAlive)?.split(|byte| *byte == b',');
        parameters.find_map(|parameter| {
            let (name, value) = parameter.trim_ascii().split_at_checked("timeout=".len())?;
            let digits = value.iter().all(u8::is_ascii_digit);
            if digits && name.eq_ignore_ascii_case(b"timeout=") {
                parse_number(value)
            } else {
                None
            }
        })
    }

    /// `Mcp-Session-Id`: visible ASCII, not empty.
    pub fn session_id(&self) -> Option<&'a str> {
        self.text(Field::SessionId)
    }

    /// `Retry-After` where it is a number of seconds; a date is not read.
    pub fn retry_after_s(&self) -> Option<u32> {
        let value = self.field(Field::RetryAfter)?;
        if value.iter().all(u8::is_ascii_digit) { parse_number(value) } else { None }
    }

    /// `Location`, if it is UTF-8.
    pub fn location(&self) -> Option<&'a str> {
        self.text(Field::Location)
    }

    /// The first `WWW-Authenticate` line, if it is UTF-8.
    pub fn www_authenticate(&self) -> Option<&'a str> {
        self.text(Field::WwwAuthenticate)
    }

    /// All header fields in order, as they were written.
    pub fn headers(&self) -> HeaderLines<'a> {
        HeaderLines::over(&self.block[usize::from(self.index.first_field)..])
    }

    fn field(&self, field: Field) -> Option<&'a [u8]> {
        self.index.value(self.block, field)
    }

    fn text(&self, field: Field) -> Option<&'a str> {
        std::str::from_utf8(self.field(field)?).ok()
    }
}
