//! The decoder of one connection's requests.
//!
//! Fast path: a request that is whole in the received bytes is handed out as
//! slices of them; nothing is copied or allocated. Slow path: what is not whole
//! moves into a buffer owned by the decoder, is scanned line by line as it
//! grows, and is handed out from there.
//!
//! Invariants:
//! - `RequestDecoder` is two words; an idle one owns nothing.
//! - Each byte of a head is looked at a bounded number of times, however it is cut.
//! - A buffer grows with what has arrived, not with what a header announces.

use super::chunked::ChunkDecoder;
use super::head::{self, Framing, Head, HeadIndex, Parsed};
use super::line::{check_field_line, check_first_byte, parse_request_line};
use super::refusal::Refusal;
use super::{HEAD_BYTES_MAX, HEADERS_MAX, Limits};

/// Memory is given back once a buffer holds less than this part of what it could.
const SLACK_MAX: usize = 4;

/// A whole request.
#[derive(Debug)]
pub struct Request<'a> {
    /// Method, target and header fields.
    pub head: Head<'a>,
    /// The body without any framing. May be changed, for parsers that work in place.
    pub body: &'a mut [u8],
}

/// What a call of [`RequestDecoder::decode`] found.
#[derive(Debug)]
pub enum Decoded<'a> {
    /// A request. The first `consumed` bytes of the input are done with; call
    /// again with the rest, even an empty one, until something else comes out.
    Request {
        /// The request.
        request: Request<'a>,
        /// Bytes of the input that need not be shown again.
        consumed: usize,
    },
    /// All input was taken, and the request in it is not whole.
    NeedMore,
    /// As `NeedMore`; and the client holds its body back until it sees
    /// [`CONTINUE`](super::CONTINUE). Said once per request.
    SendContinue,
    /// The connection is beyond repair: answer, then close. All later input is dropped.
    Refused(Refusal),
}

/// What a connection waits for; each phase has its own timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The first byte of a request.
    Idle,
    /// The rest of a head.
    Head,
    /// The rest of a body.
    Body,
    /// Nothing: the request was refused.
    Refused,
}

/// Decoder of one connection's requests. See the module for how it works.
#[derive(Debug, Default)]
pub struct RequestDecoder {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    /// RFC 9112, 2.2: "SHOULD ignore at least one empty line (CRLF) received
    /// prior to the request-line". One was.
    AfterEmptyLine,
    Partial(Box<Partial>),
    Refused,
}

impl RequestDecoder {
    /// A decoder for a new connection.
    pub const fn new() -> RequestDecoder {
        RequestDecoder { state: State::Idle }
    }

    /// Looks for the next request in what was kept and in `input` behind it.
    ///
    /// The decoder stays borrowed while the request is in use. Where that is in
    /// the way, `mem::take` the decoder first and put it back afterwards.
    pub fn decode<'a>(&'a mut self, input: &'a mut [u8], limits: &Limits) -> Decoded<'a> {
        self.release();
        match self.state {
            State::Refused => return Decoded::NeedMore,
            State::Idle | State::AfterEmptyLine if input.is_empty() => return Decoded::NeedMore,
            State::Partial(_) => {}
            State::Idle | State::AfterEmptyLine => {
                let empty_line = self.skip_empty_line(input);
                match whole_request(&input[empty_line..], limits) {
                    Whole::Request(index, length) => {
                        self.state = State::Idle;
                        let (request, _) = input[empty_line..].split_at_mut(length);
                        return hand_out(request, index, length, empty_line + length);
                    }
                    Whole::Refused(refusal) => {
                        self.state = State::Refused;
                        return Decoded::Refused(refusal);
                    }
                    Whole::Unclear if empty_line == input.len() => return Decoded::NeedMore,
                    Whole::Unclear => self.keep(&input[empty_line..]),
                }
                return self.advance(input.len(), limits);
            }
        }
        self.keep(input);
        self.advance(input.len(), limits)
    }

    /// Keeps bytes that arrived while the caller was busy with another request.
    /// They are looked at by the next [`RequestDecoder::decode`]. The caller
    /// bounds them by pausing its reads.
    pub fn push_back(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() && !matches!(self.state, State::Refused) {
            self.keep(bytes);
        }
    }

    /// Frees the memory of the request that was handed out last. The next
    /// [`RequestDecoder::decode`] does the same.
    pub fn release(&mut self) {
        if let State::Partial(partial) = &mut self.state
            && let Stage::HandedOut { end } = partial.stage
        {
            if end == partial.bytes.len() {
                self.state = State::Idle;
            } else {
                partial.bytes.drain(..end);
                if partial.bytes.capacity() / SLACK_MAX > partial.bytes.len() {
                    partial.bytes.shrink_to_fit();
                }
                partial.stage = Stage::Head(HeadScan::default());
            }
        }
    }

    /// What the connection waits for.
    pub fn phase(&self) -> Phase {
        match &self.state {
            State::Idle | State::AfterEmptyLine => Phase::Idle,
            State::Refused => Phase::Refused,
            State::Partial(partial) => match partial.stage {
                Stage::Head(_) => Phase::Head,
                Stage::Body { .. } | Stage::Chunks { .. } => Phase::Body,
                Stage::HandedOut { end } if end == partial.bytes.len() => Phase::Idle,
                Stage::HandedOut { .. } => Phase::Head,
            },
        }
    }

    /// Bytes kept at present.
    pub fn buffered_bytes(&self) -> usize {
        match &self.state {
            State::Partial(partial) => partial.bytes.len(),
            State::Idle | State::AfterEmptyLine | State::Refused => 0,
        }
    }

    /// True if the decoder owns no memory.
    #[cfg(test)]
    pub(super) fn owns_nothing(&self) -> bool {
        !matches!(self.state, State::Partial(_))
    }

    #[cfg(test)]
    pub(super) fn buffer_capacity(&self) -> usize {
        match &self.state {
            State::Partial(partial) => partial.bytes.capacity(),
            State::Idle | State::AfterEmptyLine | State::Refused => 0,
        }
    }

    /// The length of an empty line at the start of `input`, which is skipped once.
    fn skip_empty_line(&mut self, input: &[u8]) -> usize {
        if matches!(self.state, State::Idle) && input.starts_with(b"\r\n") {
            self.state = State::AfterEmptyLine;
            return "\r\n".len();
        }
        0
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let State::Partial(partial) = &mut self.state {
            partial.append(bytes);
            return;
        }
        let empty_line_seen = matches!(self.state, State::AfterEmptyLine);
        let scan = HeadScan { empty_line_seen, ..HeadScan::default() };
        self.state =
            State::Partial(Box::new(Partial { bytes: bytes.to_vec(), stage: Stage::Head(scan) }));
    }

    /// Goes on with what is kept, of which the last `input_bytes` are new.
    fn advance(&mut self, input_bytes: usize, limits: &Limits) -> Decoded<'_> {
        let State::Partial(partial) = &mut self.state else { return Decoded::NeedMore };
        let (index, body_end, end) = match partial.advance(limits) {
            Ok(Step::NeedMore) => {
                self.drop_empty_line();
                return Decoded::NeedMore;
            }
            Ok(Step::SendContinue) => return Decoded::SendContinue,
            Ok(Step::Request { index, body_end, end }) => (index, body_end, end),
            Err(refusal) => {
                self.state = State::Refused;
                return Decoded::Refused(refusal);
            }
        };
        let State::Partial(partial) = &mut self.state else { return Decoded::NeedMore };
        // What follows the request goes back to the caller if it came with this
        // input. It stays here only if it was pushed back.
        let returned = input_bytes.min(partial.bytes.len() - end);
        partial.bytes.truncate(partial.bytes.len() - returned);
        hand_out(&mut partial.bytes, index, body_end, input_bytes - returned)
    }

    /// An empty line that arrived in two pieces needs no buffer either.
    fn drop_empty_line(&mut self) {
        if let State::Partial(partial) = &self.state
            && partial.bytes.is_empty()
        {
            self.state = State::AfterEmptyLine;
        }
    }
}

enum Whole {
    Request(HeadIndex, usize),
    Refused(Refusal),
    Unclear,
}

/// The fast path: is there a whole request at the start of `bytes`?
fn whole_request(bytes: &[u8], limits: &Limits) -> Whole {
    match head::parse(bytes, limits) {
        Parsed::Head(index) => match index.framing {
            Framing::Length(length) if length <= bytes.len() - index.bytes() => {
                Whole::Request(index, index.bytes() + length)
            }
            Framing::Length(_) | Framing::Chunked => Whole::Unclear,
        },
        Parsed::Refused(refusal) => Whole::Refused(refusal),
        Parsed::Unclear => Whole::Unclear,
    }
}

fn hand_out(bytes: &mut [u8], index: HeadIndex, body_end: usize, consumed: usize) -> Decoded<'_> {
    let (block, rest) = bytes.split_at_mut(index.bytes());
    let body = &mut rest[..body_end - index.bytes()];
    Decoded::Request { request: Request { head: Head::new(block, index), body }, consumed }
}

/// A request that was not whole when its first byte came.
#[derive(Debug)]
struct Partial {
    /// From the first byte of the request line on.
    bytes: Vec<u8>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Head(HeadScan),
    /// The body ends at `end`.
    Body {
        index: HeadIndex,
        end: usize,
    },
    /// Decoded up to `write`, read up to `read`.
    Chunks {
        index: HeadIndex,
        decoder: ChunkDecoder,
        read: usize,
        write: usize,
    },
    /// Handed out; bytes from `end` on were pushed back.
    HandedOut {
        end: usize,
    },
}

enum Step {
    NeedMore,
    SendContinue,
    Request { index: HeadIndex, body_end: usize, end: usize },
}

impl Partial {
    fn append(&mut self, bytes: &[u8]) {
        if let Stage::Body { end, .. } = self.stage {
            let needed = self.bytes.len() + bytes.len();
            if needed > self.bytes.capacity() {
                // Double, but not beyond the body's known end.
                let capacity = (2 * self.bytes.capacity()).min(end).max(needed);
                self.bytes.reserve_exact(capacity - self.bytes.len());
            }
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn advance(&mut self, limits: &Limits) -> Result<Step, Refusal> {
        let mut continue_wanted = false;
        if let Stage::Head(scan) = &mut self.stage {
            let Some(head_bytes) = scan.advance(&mut self.bytes, limits)? else {
                return Ok(Step::NeedMore);
            };
            let index = match head::parse(&self.bytes[..head_bytes], limits) {
                Parsed::Head(index) => index,
                Parsed::Refused(refusal) => return Err(refusal),
                // The scan accepts nothing that the parser does not.
                Parsed::Unclear => return Err(Refusal::REQUEST_LINE),
            };
            // RFC 9110, 10.1.1: a server may omit the 100 "if it has already
            // received some or all of the content".
            continue_wanted = index.expects_continue && self.bytes.len() == head_bytes;
            self.stage = Stage::after_head(index);
        }
        let step = self.advance_body(limits)?;
        let waits = matches!(step, Step::NeedMore);
        Ok(if waits && continue_wanted { Step::SendContinue } else { step })
    }

    fn advance_body(&mut self, limits: &Limits) -> Result<Step, Refusal> {
        let (index, body_end, end) = match &mut self.stage {
            Stage::Body { index, end } if self.bytes.len() >= *end => (*index, *end, *end),
            Stage::Chunks { index, decoder, read, write } => {
                if !decoder.decode(&mut self.bytes, read, write, limits)? {
                    // The framing bytes have done their work.
                    self.bytes.truncate(*write);
                    *read = *write;
                    return Ok(Step::NeedMore);
                }
                (*index, *write, *read)
            }
            Stage::Head(_) | Stage::Body { .. } | Stage::HandedOut { .. } => {
                return Ok(Step::NeedMore);
            }
        };
        self.stage = Stage::HandedOut { end };
        Ok(Step::Request { index, body_end, end })
    }
}

impl Stage {
    fn after_head(index: HeadIndex) -> Stage {
        match index.framing {
            Framing::Length(length) => Stage::Body { index, end: index.bytes() + length },
            Framing::Chunked => Stage::Chunks {
                index,
                decoder: ChunkDecoder::new(),
                read: index.bytes(),
                write: index.bytes(),
            },
        }
    }
}

/// How far the lines of a head have been checked.
#[derive(Debug, Default)]
struct HeadScan {
    empty_line_seen: bool,
    /// No LF stands before this position other than the lines' ends.
    scanned: usize,
    line_start: usize,
    lines: usize,
}

impl HeadScan {
    /// Checks the lines that have become whole. `Some(length)` when the head has.
    fn advance(&mut self, bytes: &mut Vec<u8>, limits: &Limits) -> Result<Option<usize>, Refusal> {
        if self.lines == 0 && !self.begin(bytes)? {
            return Ok(None);
        }
        let head_bytes_max = limits.head_bytes_max.min(HEAD_BYTES_MAX);
        let window = &bytes[..bytes.len().min(head_bytes_max)];
        while let Some(position) = memchr::memchr(b'\n', &window[self.scanned..]) {
            let end = self.scanned + position;
            let line = &window[self.line_start..end];
            if self.lines == 0 && line.len() > limits.request_line_bytes_max + "\r".len() {
                return Err(Refusal::REQUEST_LINE_LONG);
            }
            let Some((b'\r', line)) = line.split_last() else { return Err(Refusal::BARE_LF) };
            self.scanned = end + 1;
            self.line_start = end + 1;
            if line.is_empty() {
                return Ok(Some(end + 1));
            }
            self.take_line(line, limits)?;
        }
        self.scanned = window.len();
        if self.lines == 0 && window.len() > limits.request_line_bytes_max + "\r".len() {
            return Err(Refusal::REQUEST_LINE_LONG);
        }
        if window.len() == head_bytes_max {
            return Err(Refusal::HEAD_LARGE);
        }
        Ok(None)
    }

    /// Skips an empty line and looks at the first byte; false if there is none yet.
    fn begin(&mut self, bytes: &mut Vec<u8>) -> Result<bool, Refusal> {
        if !self.empty_line_seen && bytes.first() == Some(&b'\r') {
            match bytes.get(1) {
                None => return Ok(false),
                Some(b'\n') => {
                    bytes.drain(..2);
                    self.empty_line_seen = true;
                }
                Some(_) => return Err(Refusal::CONTROL_BYTE),
            }
        }
        let Some(first) = bytes.first() else { return Ok(false) };
        check_first_byte(*first)?;
        Ok(true)
    }

    fn take_line(&mut self, line: &[u8], limits: &Limits) -> Result<(), Refusal> {
        self.lines += 1;
        if self.lines == 1 {
            return parse_request_line(line).map(|_| ());
        }
        if self.lines - 1 > limits.headers_max.min(HEADERS_MAX) {
            return Err(Refusal::HEADERS_MANY);
        }
        check_field_line(line)
    }
}
