//! From JSON text to a message: noting members on the way, judging them at the end.
//!
//! What is wrong with the message is noted at the first place and told only
//! when the text has proved to be JSON: a parse error outweighs it.

use super::cursor::{Broken, Cursor, Text};
use super::envelope::{Envelope, Id, Kind};
use super::fault::{Fault, Problem, Syntax};
use super::text::{string_text, unescape};
use super::{DEPTH_MAX, ID_BYTES_MAX};

/// A range of a text below 4 GiB. `start > end` stands for "absent".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(super) const ABSENT: Span = Span { start: 1, end: 0 };

    /// `Cursor::new` has checked that positions fit.
    pub(super) fn new(start: usize, end: usize) -> Span {
        Span { start: start as u32, end: end as u32 }
    }

    pub(super) fn start(self) -> usize {
        self.start as usize
    }

    pub(super) fn range(self) -> Option<std::ops::Range<usize>> {
        (!self.is_absent()).then_some(self.start as usize..self.end as usize)
    }

    pub(super) fn is_absent(self) -> bool {
        self.start > self.end
    }

    #[inline]
    pub(super) fn of(self, text: &[u8]) -> Option<&[u8]> {
        text.get(self.start as usize..self.end as usize)
    }
}

/// The members we look at, by where they stand.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
pub(super) enum Member {
    Jsonrpc,
    Id,
    Method,
    Params,
    Result,
    Error,
    Name,
    Uri,
    Cursor,
    TaskId,
    Task,
    RequestId,
    ParamsProgressToken,
    Meta,
    ProtocolVersion,
    ClientCapabilities,
    ClientInfo,
    LogLevel,
    ProgressToken,
}

pub(super) const MEMBERS: usize = Member::ProgressToken as usize + 1;

/// What was noted of a message.
pub(super) struct Draft {
    spans: [Span; MEMBERS],
    /// One bit per member: it is a string with escapes.
    escaped: u32,
    flaw: Option<Syntax>,
    id_repeated: bool,
}

impl Draft {
    /// Reads the object at `at`, which stands within `depth` containers.
    /// Returns where it ends, too.
    pub(super) fn read(
        cursor: &mut Cursor<'_>,
        at: usize,
        depth: usize,
    ) -> Result<(Draft, usize), Broken> {
        let mut draft =
            Draft { spans: [Span::ABSENT; MEMBERS], escaped: 0, flaw: None, id_repeated: false };
        let depth = depth + 1;
        let end = cursor.members(at, depth, |cursor, name, at| {
            let Some(member) = cursor.spelled(name, top_member) else {
                return cursor.skip_value(at, depth);
            };
            let first = draft.is_first(member, name);
            let end = match (member, cursor.peek(at)) {
                (Member::Params, Some(b'{')) if first => draft.read_params(cursor, at, depth)?,
                (Member::Params, Some(kind)) => {
                    draft.note(
                        if kind == b'[' { Problem::ParamsArray } else { Problem::ParamsKind },
                        at,
                    );
                    cursor.skip_value(at, depth)?
                }
                _ => draft.skip_leaf(cursor, member, at, depth)?,
            };
            draft.take(member, first, at, end);
            Ok(end)
        })?;
        Ok((draft, end))
    }

    fn read_params(
        &mut self,
        cursor: &mut Cursor<'_>,
        at: usize,
        depth: usize,
    ) -> Result<usize, Broken> {
        let depth = depth + 1;
        cursor.members(at, depth, |cursor, name, at| {
            let Some(member) = cursor.spelled(name, params_member) else {
                return cursor.skip_value(at, depth);
            };
            let first = self.is_first(member, name);
            let end = match (member, cursor.peek(at)) {
                (Member::Meta, Some(b'{')) if first => self.read_meta(cursor, at, depth)?,
                (Member::Meta, _) => {
                    self.note(Problem::MetaKind, at);
                    cursor.skip_value(at, depth)?
                }
                _ => self.skip_leaf(cursor, member, at, depth)?,
            };
            self.take(member, first, at, end);
            Ok(end)
        })
    }

    fn read_meta(
        &mut self,
        cursor: &mut Cursor<'_>,
        at: usize,
        depth: usize,
    ) -> Result<usize, Broken> {
        let depth = depth + 1;
        cursor.members(at, depth, |cursor, name, at| {
            let Some(member) = cursor.spelled(name, meta_member) else {
                return cursor.skip_value(at, depth);
            };
            let first = self.is_first(member, name);
            let end = self.skip_leaf(cursor, member, at, depth)?;
            self.take(member, first, at, end);
            Ok(end)
        })
    }

    /// Skips a value that is not looked into, and notes whether it is a string with escapes.
    #[inline(always)]
    fn skip_leaf(
        &mut self,
        cursor: &mut Cursor<'_>,
        member: Member,
        at: usize,
        depth: usize,
    ) -> Result<usize, Broken> {
        if cursor.peek(at) != Some(b'"') {
            return cursor.skip_value(at, depth);
        }
        let end = cursor.skip_string(at)?;
        self.escaped |= u32::from(end.escaped) << member as u32;
        Ok(end.at)
    }

    /// False, with a flaw noted, if there was such a member before.
    #[inline(always)]
    fn is_first(&mut self, member: Member, name: Text) -> bool {
        let first = self.spans[member as usize].is_absent();
        if !first {
            self.id_repeated |= matches!(member, Member::Id);
            self.note(Problem::Repeated, name.start - 1);
        }
        first
    }

    #[inline(always)]
    fn take(&mut self, member: Member, first: bool, start: usize, end: usize) {
        if first {
            self.spans[member as usize] = Span::new(start, end);
        }
    }

    /// Decides what kind of message the members make, now that the text is known to be JSON.
    pub(super) fn judge(self, text: &[u8]) -> Result<Envelope<'_>, Fault<'_>> {
        let id = if self.id_repeated { Ok(None) } else { self.read_id(text) };
        let kind = match self.flaw {
            Some(flaw) => Err(flaw),
            None => self.read_kind(text, id),
        };
        match kind {
            Ok(kind) => Ok(Envelope::new(text, kind, self.spans, self.escaped)),
            Err(Syntax { problem, at }) => Err(Fault { problem, at, id: id.ok().flatten() }),
        }
    }

    fn value<'a>(&self, text: &'a [u8], member: Member) -> Option<&'a [u8]> {
        self.spans[member as usize].of(text)
    }

    fn flaw_at(&self, problem: Problem, member: Member) -> Syntax {
        Syntax { problem, at: self.spans[member as usize].start() }
    }

    /// MCP 2025-11-25, basic protocol: "Requests MUST include a string or integer
    /// ID" and "the ID MUST NOT be `null`"; fractions and exponents are refused,
    /// since parsers would disagree on how to give them back.
    fn read_id<'a>(&self, text: &'a [u8]) -> Result<Option<Id<'a>>, Syntax> {
        let Some(raw) = self.value(text, Member::Id) else { return Ok(None) };
        if raw.len() > ID_BYTES_MAX {
            return Err(self.flaw_at(Problem::IdLarge, Member::Id));
        }
        match Id::from_raw(raw) {
            Some(id) => Ok(Some(id)),
            None => Err(self.flaw_at(Problem::IdKind, Member::Id)),
        }
    }

    fn read_kind<'a>(
        &self,
        text: &'a [u8],
        id: Result<Option<Id<'a>>, Syntax>,
    ) -> Result<Kind<'a>, Syntax> {
        self.check_version(text)?;
        let has = |member: Member| !self.spans[member as usize].is_absent();
        if has(Member::Method) {
            if has(Member::Result) || has(Member::Error) {
                return Err(self.flaw_at(Problem::MethodAndOutcome, Member::Method));
            }
            let method = self.value(text, Member::Method).and_then(string_text);
            let escaped = self.escaped & 1 << Member::Method as u32 != 0;
            let readable = method.is_some_and(|method| !escaped || unescape(method).is_some());
            if !readable {
                return Err(self.flaw_at(Problem::MethodKind, Member::Method));
            }
            return Ok(id?.map_or(Kind::Notification, Kind::Request));
        }
        match (has(Member::Result), has(Member::Error)) {
            (true, true) => Err(self.flaw_at(Problem::ResultAndError, Member::Error)),
            (true, false) => {
                let missing = self.flaw_at(Problem::IdMissing, Member::Result);
                Ok(Kind::Result(id?.ok_or(missing)?))
            }
            (false, true) => {
                // JSON-RPC 2.0, 5: the id of an error is null "if there was an
                // error in detecting the id"; MCP 2025-11-25 leaves it out then.
                let nameless = self.value(text, Member::Id) == Some(b"null");
                let id = if nameless { None } else { id? };
                Ok(Kind::Error { id, code: self.read_error_code(text)? })
            }
            (false, false) => Err(Syntax { problem: Problem::Nothing, at: 0 }),
        }
    }

    fn check_version(&self, text: &[u8]) -> Result<(), Syntax> {
        let version = self.value(text, Member::Jsonrpc);
        let fits = version == Some(b"\"2.0\"")
            || version.and_then(string_text).and_then(unescape).is_some_and(|text| text == "2.0");
        let at = if version.is_some() { self.spans[Member::Jsonrpc as usize].start() } else { 0 };
        if fits { Ok(()) } else { Err(Syntax { problem: Problem::Version, at }) }
    }

    /// JSON-RPC 2.0, 5.1: an error has an integer `code` and a string `message`.
    fn read_error_code(&self, text: &[u8]) -> Result<i32, Syntax> {
        let flaw = self.flaw_at(Problem::ErrorKind, Member::Error);
        let error = self.value(text, Member::Error).unwrap_or_default();
        if error.first() != Some(&b'{') {
            return Err(flaw);
        }
        let (mut codes, mut messages) = (Vec::new(), Vec::new());
        let mut cursor = Cursor::new(error, DEPTH_MAX)?;
        let walked = cursor.members(0, 1, |cursor, name, start| {
            let end = cursor.skip_value(start, 1)?;
            let is = |wanted: &[u8]| cursor.spelled(name, |name| (name == wanted).then_some(()));
            if is(b"code").is_some() {
                codes.push(&error[start..end]);
            } else if is(b"message").is_some() {
                messages.push(&error[start..end]);
            }
            Ok(end)
        });
        walked.map_err(|Broken| cursor.flaw())?;
        let ([code], [[b'"', ..]]) = (codes.as_slice(), messages.as_slice()) else {
            return Err(flaw);
        };
        std::str::from_utf8(code).ok().and_then(|code| code.parse().ok()).ok_or(flaw)
    }

    #[cold]
    fn note(&mut self, problem: Problem, at: usize) {
        self.flaw.get_or_insert(Syntax { problem, at });
    }
}

fn top_member(name: &[u8]) -> Option<Member> {
    Some(match name {
        b"jsonrpc" => Member::Jsonrpc,
        b"id" => Member::Id,
        b"method" => Member::Method,
        b"params" => Member::Params,
        b"result" => Member::Result,
        b"error" => Member::Error,
        _ => return None,
    })
}

fn params_member(name: &[u8]) -> Option<Member> {
    Some(match name {
        b"name" => Member::Name,
        b"_meta" => Member::Meta,
        b"uri" => Member::Uri,
        b"cursor" => Member::Cursor,
        b"taskId" => Member::TaskId,
        b"task" => Member::Task,
        b"requestId" => Member::RequestId,
        b"progressToken" => Member::ParamsProgressToken,
        _ => return None,
    })
}

fn meta_member(name: &[u8]) -> Option<Member> {
    Some(match name.strip_prefix(b"io.modelcontextprotocol/") {
        Some(b"protocolVersion") => Member::ProtocolVersion,
        Some(b"clientCapabilities") => Member::ClientCapabilities,
        Some(b"clientInfo") => Member::ClientInfo,
        Some(b"logLevel") => Member::LogLevel,
        None if name == b"progressToken" => Member::ProgressToken,
        _ => return None,
    })
}
