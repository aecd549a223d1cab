//! The head of a request: method, target and the header fields that matter here.
//!
//! Invariant: a [`Head`] exists only if the whole head is valid and says in one
//! way how long the body is. Positions are kept instead of slices, so the index
//! of a head fits into 80 bytes and can wait for the body without borrowing.

use std::mem::MaybeUninit;

use super::line::{absolute_authority, check_host, check_target, method};
use super::media::{is_media_type, match_range};
use super::refusal::Refusal;
use super::{HEAD_BYTES_MAX, HEADERS_MAX, Limits};

/// A request method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// GET
    Get,
    /// POST
    Post,
    /// DELETE
    Delete,
    /// OPTIONS
    Options,
    /// HEAD
    Head,
    /// Any other; see [`Head::method_text`].
    Other,
}

/// A protocol version that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0: no chunked coding, closes unless told otherwise.
    Http10,
    /// HTTP/1.1
    Http11,
}

/// What becomes of the connection behind the answer, and what the answer says of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Persistence {
    /// It stays; HTTP/1.1 needs no words for that.
    #[default]
    KeepAlive,
    /// It stays, and an HTTP/1.0 client must be told (`Connection: keep-alive`).
    KeepAliveSaid,
    /// It is closed (`Connection: close`).
    Close,
}

/// A header field the gateway looks at by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is the field of its name")]
pub enum Field {
    Host,
    Origin,
    Accept,
    ContentType,
    ContentLength,
    TransferEncoding,
    Connection,
    Expect,
    Authorization,
    LastEventId,
    McpSessionId,
    McpProtocolVersion,
    McpMethod,
    McpName,
}

const FIELDS: usize = Field::McpName as usize + 1;

impl Field {
    /// By length, first letter, then the whole name: most fields leave at the first step.
    fn recognise(name: &[u8]) -> Option<Field> {
        let (field, fits) = match (name.len(), name.first()? | LOWER) {
            (4, b'h') => (Field::Host, is_spelled(name, b"host")),
            (6, b'o') => (Field::Origin, is_spelled(name, b"origin")),
            (6, b'a') => (Field::Accept, is_spelled(name, b"accept")),
            (6, b'e') => (Field::Expect, is_spelled(name, b"expect")),
            (8, b'm') => (Field::McpName, is_spelled(name, b"mcp-name")),
            (10, b'c') => (Field::Connection, is_spelled(name, b"connection")),
            (10, b'm') => (Field::McpMethod, is_spelled(name, b"mcp-method")),
            (12, b'c') => (Field::ContentType, is_spelled(name, b"content-type")),
            (13, b'a') => (Field::Authorization, is_spelled(name, b"authorization")),
            (13, b'l') => (Field::LastEventId, is_spelled(name, b"last-event-id")),
            (14, b'c') => (Field::ContentLength, is_spelled(name, b"content-length")),
            (14, b'm') => (Field::McpSessionId, is_spelled(name, b"mcp-session-id")),
            (17, b't') => (Field::TransferEncoding, is_spelled(name, b"transfer-encoding")),
            (20, b'm') => (Field::McpProtocolVersion, is_spelled(name, b"mcp-protocol-version")),
            _ => return None,
        };
        fits.then_some(field)
    }

    /// Lists may be spread over several lines (RFC 9110, 5.3); everything else stands once.
    fn may_repeat(self) -> bool {
        matches!(self, Field::Accept | Field::Connection)
    }
}

/// The bit that tells a small letter from a capital one.
const LOWER: u8 = 0x20;

/// True if `name`, a token, is `spelling` in some letter case. No two token
/// characters other than a letter's cases meet in a small letter or a hyphen
/// when [`LOWER`] is set. The known length lets the compiler use SIMD.
#[inline(always)]
pub(super) fn is_spelled<const N: usize>(name: &[u8], spelling: &[u8; N]) -> bool {
    name.first_chunk::<N>().is_some_and(|name| {
        name.iter().zip(spelling).fold(0, |differs, (one, other)| differs | ((one | LOWER) ^ other))
            == 0
    })
}

/// How long the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
}

/// A place in the header block. `start > end` stands for "absent".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    start: u16,
    end: u16,
}

impl Span {
    pub(super) const ABSENT: Span = Span { start: 1, end: 0 };

    /// Positions are below [`HEAD_BYTES_MAX`], which `parse` has checked.
    pub(super) fn new(start: usize, length: usize) -> Span {
        Span { start: start as u16, end: (start + length) as u16 }
    }

    pub(super) fn of(self, block: &[u8]) -> Option<&[u8]> {
        block.get(usize::from(self.start)..usize::from(self.end))
    }
}

/// What was found in a head, without the head's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeadIndex {
    bytes: u16,
    first_field: u16,
    method_bytes: u16,
    target: Span,
    authority: Span,
    path: Span,
    fields: [Span; FIELDS],
    method: Method,
    version: Version,
    keep_alive: bool,
    accept_repeated: bool,
    pub(super) expects_continue: bool,
    pub(super) framing: Framing,
}

impl HeadIndex {
    /// Length of the head including the empty line.
    pub(super) fn bytes(&self) -> usize {
        usize::from(self.bytes)
    }
}

/// How a first look at received bytes ends.
pub(super) enum Parsed {
    /// A whole, valid head.
    Head(HeadIndex),
    /// A whole head that is well-formed but refused for what it says.
    Refused(Refusal),
    /// Not whole or not well-formed: the line-by-line scan has to decide.
    Unclear,
}

/// Reads a head that starts at the first byte of `bytes`. Bytes behind it don't matter.
pub(super) fn parse(bytes: &[u8], limits: &Limits) -> Parsed {
    let mut headers = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    // httparse skips empty lines by itself; how many are allowed is the decoder's affair.
    if matches!(bytes.first(), None | Some(b'\r' | b'\n')) {
        return Parsed::Unclear;
    }
    let Ok(httparse::Status::Complete(length)) =
        request.parse_with_uninit_headers(bytes, &mut headers)
    else {
        return Parsed::Unclear;
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Parsed::Unclear;
    };
    if length > limits.head_bytes_max.min(HEAD_BYTES_MAX)
        || request.headers.len() > limits.headers_max
        || !ends_lines_strictly(&bytes[..length], request.headers)
    {
        return Parsed::Unclear;
    }
    let version = if minor == 1 { Version::Http11 } else { Version::Http10 };
    let request_line_bytes = method.len() + target.len() + " ".len() + " HTTP/1.1".len();
    if request_line_bytes > limits.request_line_bytes_max {
        return Parsed::Unclear;
    }
    let line = Line { method, target, version, bytes: request_line_bytes };
    match index(&bytes[..length], &line, request.headers, limits) {
        Ok(index) => Parsed::Head(index),
        Err(refusal) => Parsed::Refused(refusal),
    }
}

/// httparse takes a bare LF for a line's end. RFC 9112, 2.2 lets a recipient do
/// so, but then it may see lines where an intermediary saw one.
pub(super) fn ends_lines_strictly(block: &[u8], headers: &[httparse::Header<'_>]) -> bool {
    block.ends_with(b"\r\n\r\n")
        && headers
            .iter()
            .all(|header| block[..offset(block, header.name.as_bytes())].ends_with(b"\r\n"))
}

/// Where `part`, a slice of `block`, begins in it.
pub(super) fn offset(block: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr().wrapping_sub(block.as_ptr().addr())
}

struct Line<'a> {
    method: &'a str,
    target: &'a str,
    version: Version,
    bytes: usize,
}

fn index(
    block: &[u8],
    line: &Line<'_>,
    headers: &[httparse::Header<'_>],
    limits: &Limits,
) -> Result<HeadIndex, Refusal> {
    check_target(line.target.as_bytes())?;
    let target = Span::new(line.method.len() + 1, line.target.len());
    let mut index = HeadIndex {
        bytes: block.len() as u16,
        first_field: (line.bytes + "\r\n".len()) as u16,
        method_bytes: line.method.len() as u16,
        target,
        authority: Span::ABSENT,
        path: target,
        fields: [Span::ABSENT; FIELDS],
        method: method(line.method.as_bytes()),
        version: line.version,
        keep_alive: line.version == Version::Http11,
        accept_repeated: false,
        expects_continue: false,
        framing: Framing::Length(0),
    };
    let mut connection = ConnectionOptions::default();
    for header in headers {
        let Some(field) = Field::recognise(header.name.as_bytes()) else { continue };
        index.take(
            field,
            Span::new(offset(block, header.value), header.value.len()),
            header.value,
        )?;
        if field == Field::Connection {
            connection.take(header.value);
        }
    }
    // RFC 9112, 9.3: "close" wins; HTTP/1.0 stays open only if it asks to.
    index.keep_alive = !connection.close && (index.keep_alive || connection.keep_alive);
    index.settle_host(block)?;
    index.settle_framing(block, limits)?;
    Ok(index)
}

/// What the `Connection` lines of a head say together.
#[derive(Default)]
pub(super) struct ConnectionOptions {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
}

impl ConnectionOptions {
    pub(super) fn take(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
}

impl HeadIndex {
    fn take(&mut self, field: Field, span: Span, value: &[u8]) -> Result<(), Refusal> {
        if !value.is_ascii() {
            return Err(Refusal::HEADER_VALUE);
        }
        let slot = &mut self.fields[field as usize];
        if *slot == Span::ABSENT {
            *slot = span;
        } else if field.may_repeat() {
            self.accept_repeated |= field == Field::Accept;
        } else {
            return Err(Refusal::REPEATED);
        }
        Ok(())
    }

    fn value<'a>(&self, block: &'a [u8], field: Field) -> Option<&'a [u8]> {
        self.fields[field as usize].of(block)
    }

    fn settle_host(&mut self, block: &[u8]) -> Result<(), Refusal> {
        let host = self.value(block, Field::Host);
        // RFC 9112, 3.2: "A server MUST respond with a 400 (Bad Request) status
        // code to any HTTP/1.1 request message that lacks a Host header field".
        match host {
            Some(host) => check_host(host)?,
            None if self.version == Version::Http11 => return Err(Refusal::HOST_MISSING),
            None => {}
        }
        self.authority = self.fields[Field::Host as usize];
        let target = self.target.of(block).unwrap_or_default();
        let Some(authority) = absolute_authority(target) else { return Ok(()) };
        let written = &target[authority.clone()];
        check_host(written)?;
        // RFC 9112, 3.2.2 gives the target precedence over Host. Where they
        // differ, a check of either could be got round, so they must not differ.
        if host.is_some_and(|host| !host.eq_ignore_ascii_case(written)) {
            return Err(Refusal::TARGET_HOST);
        }
        let start = usize::from(self.target.start);
        self.authority = Span::new(start + authority.start, authority.len());
        self.path = Span::new(start + authority.end, target.len() - authority.end);
        Ok(())
    }

    fn settle_framing(&mut self, block: &[u8], limits: &Limits) -> Result<(), Refusal> {
        let length = self.value(block, Field::ContentLength);
        let coding = self.value(block, Field::TransferEncoding);
        self.framing = match (length, coding) {
            (None, None) => Framing::Length(0),
            (Some(length), None) => Framing::Length(parse_length(length, limits)?),
            (None, Some(_)) if self.version == Version::Http10 => return Err(Refusal::CODING_1_0),
            (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
            // RFC 9112, 6.1: "A server that receives a request message with a
            // transfer coding it does not understand SHOULD respond with 501".
            (None, Some(_)) => return Err(Refusal::CODING),
            // RFC 9112, 6.3: such a message "might indicate an attempt to perform
            // request smuggling [...] and ought to be handled as an error".
            (Some(_), Some(_)) => return Err(Refusal::LENGTH_AND_CHUNKED),
        };
        // RFC 9110, 10.1.1: an expectation in an HTTP/1.0 request is ignored.
        if let Some(expectation) = self.value(block, Field::Expect)
            && self.version == Version::Http11
        {
            if !expectation.eq_ignore_ascii_case(b"100-continue") {
                return Err(Refusal::EXPECTATION);
            }
            self.expects_continue = self.framing != Framing::Length(0);
        }
        Ok(())
    }
}

/// RFC 9110, 8.6: `Content-Length = 1*DIGIT`. No sign, no list, no white space.
fn parse_length(text: &[u8], limits: &Limits) -> Result<usize, Refusal> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::LENGTH);
    }
    let mut length = 0_usize;
    for digit in text {
        length = length.saturating_mul(10).saturating_add(usize::from(digit - b'0'));
    }
    // A number too large for `usize` saturates, and is refused here with the rest.
    if length > limits.body_bytes_max { Err(Refusal::BODY_LARGE) } else { Ok(length) }
}

/// The head of a valid request, borrowed from the bytes it was read from. Target and
/// the values of the known fields are ASCII.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    block: &'a [u8],
    index: HeadIndex,
}

impl<'a> Head<'a> {
    pub(super) fn new(block: &'a [u8], index: HeadIndex) -> Head<'a> {
        Head { block, index }
    }

    /// The method.
    pub fn method(&self) -> Method {
        self.index.method
    }

    /// The method as it was written, for logs.
    pub fn method_text(&self) -> &'a str {
        text(Some(&self.block[..usize::from(self.index.method_bytes)])).unwrap_or_default()
    }

    /// The version.
    pub fn version(&self) -> Version {
        self.index.version
    }

    /// What the client wants to become of the connection.
    pub fn persistence(&self) -> Persistence {
        match (self.index.keep_alive, self.index.version) {
            (false, _) => Persistence::Close,
            (true, Version::Http11) => Persistence::KeepAlive,
            (true, Version::Http10) => Persistence::KeepAliveSaid,
        }
    }

    /// The path without the query; `/` if an absolute-form target has none.
    pub fn path(&self) -> &'a [u8] {
        let whole = self.path_and_query();
        match whole.iter().position(|byte| *byte == b'?') {
            Some(0) => b"/",
            Some(end) => &whole[..end],
            None => whole,
        }
    }

    /// What stands behind the first `?` of the target.
    pub fn query(&self) -> Option<&'a [u8]> {
        let whole = self.path_and_query();
        let mark = whole.iter().position(|byte| *byte == b'?')?;
        Some(&whole[mark + 1..])
    }

    /// Path and query together; without scheme and authority if the target had them.
    pub fn path_and_query(&self) -> &'a [u8] {
        let path = self.index.path.of(self.block).unwrap_or_default();
        if path.is_empty() { b"/" } else { path }
    }

    /// Host and port the client meant: of the target if it is absolute, else of
    /// `Host` (the two are equal if both exist). `None` only in HTTP/1.0.
    pub fn authority(&self) -> Option<&'a [u8]> {
        self.index.authority.of(self.block)
    }

    /// A field's value without surrounding white space. Of `Accept` and
    /// `Connection` this is the first line only: see [`Head::accepts`].
    pub fn field(&self, field: Field) -> Option<&'a [u8]> {
        self.index.value(self.block, field)
    }

    /// `Origin`
    pub fn origin(&self) -> Option<&'a [u8]> {
        self.field(Field::Origin)
    }

    /// `Content-Type`
    pub fn content_type(&self) -> Option<&'a [u8]> {
        self.field(Field::ContentType)
    }

    /// True if there is a `Content-Type` and it is `media_type`, whatever its parameters.
    pub fn content_type_is(&self, media_type: &str) -> bool {
        self.content_type().is_some_and(|value| is_media_type(value, media_type))
    }

    /// `Authorization`
    pub fn authorization(&self) -> Option<&'a [u8]> {
        self.field(Field::Authorization)
    }

    /// `Last-Event-ID`
    pub fn last_event_id(&self) -> Option<&'a [u8]> {
        self.field(Field::LastEventId)
    }

    /// `Mcp-Session-Id`
    pub fn mcp_session_id(&self) -> Option<&'a [u8]> {
        self.field(Field::McpSessionId)
    }

    /// `MCP-Protocol-Version`
    pub fn mcp_protocol_version(&self) -> Option<&'a [u8]> {
        self.field(Field::McpProtocolVersion)
    }

    /// `Mcp-Method`
    pub fn mcp_method(&self) -> Option<&'a [u8]> {
        self.field(Field::McpMethod)
    }

    /// `Mcp-Name`
    pub fn mcp_name(&self) -> Option<&'a [u8]> {
        self.field(Field::McpName)
    }

    /// True if there is an `Accept` field at all. Without one everything is
    /// acceptable (RFC 9110, 12.5.1), but MCP asks clients to send it.
    pub fn has_accept(&self) -> bool {
        self.index.fields[Field::Accept as usize] != Span::ABSENT
    }

    /// True if some `Accept` line lists a range that covers `media_type` and the
    /// most specific such range has a weight above zero. False without `Accept`.
    pub fn accepts(&self, media_type: &str) -> bool {
        let mut best: Option<(u8, bool)> = None;
        let mut look = |value: &[u8]| {
            for element in value.split(|byte| *byte == b',') {
                best = best.max(match_range(element, media_type.as_bytes()));
            }
        };
        if self.index.accept_repeated {
            self.values("accept").for_each(look);
        } else if let Some(value) = self.index.value(self.block, Field::Accept) {
            look(value);
        }
        best.is_some_and(|(_, acceptable)| acceptable)
    }

    /// All header fields in order, as they were written. Read anew at each call.
    pub fn headers(&self) -> HeaderLines<'a> {
        HeaderLines { rest: &self.block[usize::from(self.index.first_field)..] }
    }

    /// The values of all fields called `name`, whatever the letter case.
    pub fn values<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.headers()
            .filter(move |(written, _)| written.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Request line and header fields as received, with the empty line behind them.
    pub fn block(&self) -> &'a [u8] {
        self.block
    }
}

/// What is read as text was checked to be ASCII.
fn text(bytes: Option<&[u8]>) -> Option<&str> {
    std::str::from_utf8(bytes?).ok()
}

/// Iterator over `(name, value)` of a head. Values may hold bytes outside ASCII.
#[derive(Clone, Debug)]
pub struct HeaderLines<'a> {
    rest: &'a [u8],
}

impl<'a> HeaderLines<'a> {
    /// The lines from `rest` on, the end of a valid head.
    pub(super) fn over(rest: &'a [u8]) -> HeaderLines<'a> {
        HeaderLines { rest }
    }
}

impl<'a> Iterator for HeaderLines<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<(&'a str, &'a [u8])> {
        let end = memchr::memchr(b'\r', self.rest)?;
        let line = &self.rest[..end];
        self.rest = self.rest.get(end + 2..)?;
        let colon = memchr::memchr(b':', line)?;
        Some((text(Some(&line[..colon]))?, line[colon + 1..].trim_ascii()))
    }
}
