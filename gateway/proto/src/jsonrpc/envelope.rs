//! A valid message and the parts of it by which it is routed.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use super::draft::{MEMBERS, Member, Span};
use super::fault::{Fault, Problem};
use super::text::{string_text, unescape};

/// A request id or progress token as raw JSON: an integer or a quoted string.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id<'a>(&'a [u8]);

impl<'a> Id<'a> {
    /// `raw` must be a valid JSON value; `None` if it is of another kind than string or integer.
    pub(super) fn from_raw(raw: &'a [u8]) -> Option<Id<'a>> {
        let fits = match raw.first()? {
            b'"' => true,
            b'-' | b'0'..=b'9' => !raw.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E')),
            _ => false,
        };
        fits.then_some(Id(raw))
    }

    /// The text as the peer wrote it.
    pub const fn raw(self) -> &'a [u8] {
        self.0
    }

    /// True if both mean the same string or are spelled as the same number.
    /// Raw texts of one string differ if its peer escapes it differently.
    pub fn means(self, other: Id<'_>) -> bool {
        self.0 == other.0
            || match (string_text(self.0), string_text(other.0)) {
                (Some(one), Some(other)) => {
                    unescape(one).is_some_and(|one| Some(one) == unescape(other))
                }
                _ => false,
            }
    }
}

impl fmt::Debug for Id<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Id({})", String::from_utf8_lossy(self.0))
    }
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A call that wants an answer.
    Request(Id<'a>),
    /// A call that wants none.
    Notification,
    /// A good answer; see [`Envelope::result`].
    Result(Id<'a>),
    /// A bad answer; see [`Envelope::error`].
    Error {
        /// The request, unless its id could not be read by whoever answers.
        id: Option<Id<'a>>,
        /// `error.code`
        code: i32,
    },
}

/// One valid message, as ranges of its text.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    text: &'a [u8],
    kind: Kind<'a>,
    spans: [Span; MEMBERS],
    escaped: u32,
}

impl<'a> Envelope<'a> {
    pub(super) fn new(
        text: &'a [u8],
        kind: Kind<'a>,
        spans: [Span; MEMBERS],
        escaped: u32,
    ) -> Envelope<'a> {
        Envelope { text, kind, spans, escaped }
    }

    /// The message's JSON text. Ranges count from its start.
    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    /// What the message is.
    pub fn kind(&self) -> Kind<'a> {
        self.kind
    }

    /// The id, if there is one.
    pub fn id(&self) -> Option<Id<'a>> {
        match self.kind {
            Kind::Request(id) | Kind::Result(id) => Some(id),
            Kind::Notification => None,
            Kind::Error { id, .. } => id,
        }
    }

    /// Where the raw id stands.
    pub fn id_range(&self) -> Option<Range<usize>> {
        self.range(Member::Id)
    }

    /// The method; empty for answers.
    pub fn method(&self) -> Cow<'a, str> {
        self.read_text(Member::Method).unwrap_or_default()
    }

    /// The raw `params` object.
    pub fn params(&self) -> Option<&'a [u8]> {
        self.value(Member::Params)
    }

    /// The raw `result`.
    pub fn result(&self) -> Option<&'a [u8]> {
        self.value(Member::Result)
    }

    /// The raw `error` object.
    pub fn error(&self) -> Option<&'a [u8]> {
        self.value(Member::Error)
    }

    /// `params.name`: the tool or prompt.
    ///
    /// # Errors
    /// As all readers of a text parameter: -32602 if it is there but no string.
    pub fn name(&self) -> Result<Option<Cow<'a, str>>, Fault<'a>> {
        self.text_of(Member::Name)
    }

    /// Where the raw `params.name` stands, quotes included.
    pub fn name_range(&self) -> Option<Range<usize>> {
        self.range(Member::Name)
    }

    /// `params.uri`: the resource.
    ///
    /// # Errors
    /// -32602 if it is no string.
    pub fn uri(&self) -> Result<Option<Cow<'a, str>>, Fault<'a>> {
        self.text_of(Member::Uri)
    }

    /// Where the raw `params.uri` stands, quotes included.
    pub fn uri_range(&self) -> Option<Range<usize>> {
        self.range(Member::Uri)
    }

    /// `params.cursor` of a list request.
    ///
    /// # Errors
    /// -32602 if it is no string.
    pub fn cursor(&self) -> Result<Option<Cow<'a, str>>, Fault<'a>> {
        self.text_of(Member::Cursor)
    }

    /// `params.taskId` of a task request.
    ///
    /// # Errors
    /// -32602 if it is no string.
    pub fn task_id(&self) -> Result<Option<Cow<'a, str>>, Fault<'a>> {
        self.text_of(Member::TaskId)
    }

    /// The raw `params.task`, of whatever kind: the client wants the call to become a task
    /// (MCP 2025-11-25).
    pub fn task(&self) -> Option<&'a [u8]> {
        self.value(Member::Task)
    }

    /// `params.requestId` of `notifications/cancelled`.
    ///
    /// # Errors
    /// -32602 if it is neither a string nor an integer.
    pub fn request_id(&self) -> Result<Option<Id<'a>>, Fault<'a>> {
        self.token_of(Member::RequestId)
    }

    /// `params.progressToken` of `notifications/progress`.
    ///
    /// # Errors
    /// -32602 if it is neither a string nor an integer.
    pub fn reported_progress_token(&self) -> Result<Option<Id<'a>>, Fault<'a>> {
        self.token_of(Member::ParamsProgressToken)
    }

    /// The raw `params._meta` object.
    pub fn meta(&self) -> Option<&'a [u8]> {
        self.value(Member::Meta)
    }

    /// `params._meta.progressToken`: the client wants progress under this token.
    ///
    /// # Errors
    /// -32602 if it is neither a string nor an integer.
    pub fn progress_token(&self) -> Result<Option<Id<'a>>, Fault<'a>> {
        self.token_of(Member::ProgressToken)
    }

    /// `params._meta["io.modelcontextprotocol/protocolVersion"]`: makes a request modern.
    ///
    /// # Errors
    /// -32602 if it is no string.
    pub fn protocol_version(&self) -> Result<Option<Cow<'a, str>>, Fault<'a>> {
        self.text_of(Member::ProtocolVersion)
    }

    /// True if `_meta` names a protocol version, of whatever kind.
    pub fn names_protocol_version(&self) -> bool {
        self.value(Member::ProtocolVersion).is_some()
    }

    /// The raw `params._meta["io.modelcontextprotocol/clientCapabilities"]`, of whatever kind.
    pub fn client_capabilities(&self) -> Option<&'a [u8]> {
        self.value(Member::ClientCapabilities)
    }

    /// The raw `params._meta["io.modelcontextprotocol/clientInfo"]`, of whatever kind.
    pub fn client_info(&self) -> Option<&'a [u8]> {
        self.value(Member::ClientInfo)
    }

    /// `params._meta["io.modelcontextprotocol/logLevel"]`
    ///
    /// # Errors
    /// -32602 if it is no string.
    pub fn log_level(&self) -> Result<Option<Cow<'a, str>>, Fault<'a>> {
        self.text_of(Member::LogLevel)
    }

    fn value(&self, member: Member) -> Option<&'a [u8]> {
        self.spans[member as usize].of(self.text)
    }

    fn range(&self, member: Member) -> Option<Range<usize>> {
        self.spans[member as usize].range()
    }

    fn text_of(&self, member: Member) -> Result<Option<Cow<'a, str>>, Fault<'a>> {
        if self.spans[member as usize].is_absent() {
            return Ok(None);
        }
        match self.read_text(member) {
            Some(text) => Ok(Some(text)),
            None => Err(self.fault(Problem::TextKind, member)),
        }
    }

    /// The text of a member that is a string.
    fn read_text(&self, member: Member) -> Option<Cow<'a, str>> {
        let raw = string_text(self.value(member)?)?;
        if self.escaped & 1 << member as u32 == 0 {
            return std::str::from_utf8(raw).ok().map(Cow::Borrowed);
        }
        unescape(raw)
    }

    fn token_of(&self, member: Member) -> Result<Option<Id<'a>>, Fault<'a>> {
        let Some(raw) = self.value(member) else { return Ok(None) };
        match Id::from_raw(raw) {
            Some(id) => Ok(Some(id)),
            None => Err(self.fault(Problem::TokenKind, member)),
        }
    }

    fn fault(&self, problem: Problem, member: Member) -> Fault<'a> {
        let at = self.range(member).map_or(0, |range| range.start);
        Fault { problem, at, id: self.id() }
    }
}
