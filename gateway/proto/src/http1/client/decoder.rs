//! The decoder of one connection's responses.
//!
//! Fast path: a head that is whole in the received bytes is handed out as a slice
//! of them. Slow path: a head in pieces moves into a buffer owned by the decoder
//! and is scanned line by line as it grows. A body is never kept: its bytes are
//! handed out as they come, without their framing.

use super::INTERIM_MAX;
use super::bad_response::{BadResponse, excerpt};
use super::head::{self, BodyLength, HeadIndex, ResponseHead, check_status_line};
use crate::http1::chunked::ChunkDecoder;
use crate::http1::line::check_field_line;
use crate::http1::{HEAD_BYTES_MAX, HEADERS_MAX, Limits, Refusal};

/// Bytes that are waited for, to show what a server that does not speak HTTP says.
const START_BYTES: usize = 32;

/// The head of every response begins so.
const HTTP_1: &[u8] = b"HTTP/1.";

/// What bounds a chunked body. Its bytes are not collected here, and an event
/// stream may last for days: only what a single line holds is limited.
const CHUNK_LIMITS: Limits = Limits {
    head_bytes_max: HEAD_BYTES_MAX,
    request_line_bytes_max: 0,
    headers_max: HEADERS_MAX,
    body_bytes_max: usize::MAX >> 1,
    chunk_line_bytes_max: 256,
    chunk_extensions_bytes_max: usize::MAX >> 1,
    trailer_bytes_max: 8 * 1024,
};

/// What a call of [`ResponseDecoder::decode`] found.
#[derive(Debug)]
pub enum ResponsePart<'a> {
    /// The head of a final response. Interim ones are skipped.
    Head {
        /// The head.
        head: ResponseHead<'a>,
        /// Bytes of the input that need not be shown again.
        consumed: usize,
    },
    /// Bytes of the body, without framing; never empty.
    Body {
        /// The bytes. May be changed, for parsers that work in place.
        bytes: &'a mut [u8],
        /// True if it is known that no more follow.
        last: bool,
        /// Bytes of the input that need not be shown again.
        consumed: usize,
    },
    /// The response is complete; the input's first `consumed` bytes belong to it.
    End {
        /// True if the connection may carry another request.
        keep_alive: bool,
        /// Bytes of the input that need not be shown again.
        consumed: usize,
    },
    /// All input was taken, and nothing else can be said yet.
    NeedMore,
}

/// What the end of a connection means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// No response had begun.
    Idle,
    /// The end was the end of the response's body.
    Complete,
}

/// Decoder of one connection's responses. See the module for how it works.
#[derive(Debug)]
pub struct ResponseDecoder {
    head_bytes_max: usize,
    /// A head that is not whole yet, or that was handed out last.
    kept: Vec<u8>,
    interim: u8,
    keep_alive: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Head(HeadScan),
    Length(usize),
    Chunks(ChunkDecoder),
    UntilClose,
    Ended,
    Failed(BadResponse),
}

/// A head and where it stands.
struct Found {
    index: HeadIndex,
    /// Where it begins in the input; `None` if it is in the decoder's buffer.
    start: Option<usize>,
    consumed: usize,
}

impl ResponseDecoder {
    /// A decoder for a new connection. Heads of more than `head_bytes_max` bytes are
    /// refused; values over [`HEAD_BYTES_MAX`] count as that.
    pub fn new(head_bytes_max: usize) -> ResponseDecoder {
        ResponseDecoder {
            head_bytes_max: head_bytes_max.clamp(START_BYTES, HEAD_BYTES_MAX),
            kept: Vec::new(),
            interim: 0,
            keep_alive: false,
            stage: Stage::Head(HeadScan::default()),
        }
    }

    /// Looks for the next part of a response. Call again with the rest of the input,
    /// even an empty one, until [`ResponsePart::NeedMore`] comes out.
    ///
    /// # Errors
    /// [`BadResponse`], after all that came before it was handed out. It comes again
    /// at each further call.
    pub fn decode<'a>(&'a mut self, input: &'a mut [u8]) -> Result<ResponsePart<'a>, BadResponse> {
        match &mut self.stage {
            Stage::Head(_) => return self.decode_head(input),
            Stage::Failed(fault) => return Err(fault.clone()),
            Stage::Ended | Stage::Length(0) => return Ok(self.end_response()),
            Stage::Length(_) | Stage::Chunks(_) | Stage::UntilClose => self.kept = Vec::new(),
        }
        if input.is_empty() {
            return Ok(ResponsePart::NeedMore);
        }
        match &mut self.stage {
            Stage::Length(left) => {
                let length = input.len().min(*left);
                *left -= length;
                let last = *left == 0;
                Ok(ResponsePart::Body { bytes: &mut input[..length], last, consumed: length })
            }
            Stage::Chunks(_) => self.decode_chunks(input),
            Stage::Head(_) | Stage::UntilClose | Stage::Ended | Stage::Failed(_) => {
                let consumed = input.len();
                Ok(ResponsePart::Body { bytes: input, last: false, consumed })
            }
        }
    }

    /// The connection has ended in order: what does that say of the response?
    ///
    /// # Errors
    /// [`BadResponse`] if it ended within a response, or the response was bad before.
    pub fn end(&mut self) -> Result<Ending, BadResponse> {
        match &self.stage {
            Stage::Head(_) if self.kept.is_empty() => Ok(Ending::Idle),
            Stage::Head(_) if !is_http_start(&self.kept) => {
                Err(BadResponse::NotHttp { start: excerpt(&self.kept) })
            }
            Stage::Head(_) => Err(BadResponse::HeadCut { start: excerpt(&self.kept) }),
            Stage::Length(0) | Stage::Ended | Stage::UntilClose => Ok(Ending::Complete),
            Stage::Length(missing) => Err(BadResponse::BodyCut { missing: *missing }),
            Stage::Chunks(_) => Err(BadResponse::ChunksCut),
            Stage::Failed(fault) => Err(fault.clone()),
        }
    }

    /// What has come of a head that is not whole, for messages; empty if nothing has.
    pub fn partial_head(&self) -> String {
        if matches!(self.stage, Stage::Head(_)) { excerpt(&self.kept) } else { String::new() }
    }

    /// True if the decoder owns no memory.
    #[cfg(test)]
    pub(super) fn owns_nothing(&self) -> bool {
        self.kept.capacity() == 0 && !matches!(self.stage, Stage::Chunks(_))
    }

    fn end_response<'a>(&mut self) -> ResponsePart<'a> {
        self.kept = Vec::new();
        self.interim = 0;
        self.stage = Stage::Head(HeadScan::default());
        ResponsePart::End { keep_alive: self.keep_alive, consumed: 0 }
    }

    fn decode_chunks<'a>(&mut self, input: &'a mut [u8]) -> Result<ResponsePart<'a>, BadResponse> {
        let Stage::Chunks(chunks) = &mut self.stage else { return Ok(ResponsePart::NeedMore) };
        let (mut read, mut write) = (0, 0);
        let mut last = false;
        match chunks.decode(input, &mut read, &mut write, &CHUNK_LIMITS) {
            Ok(true) => {
                last = true;
                self.stage = Stage::Ended;
            }
            Ok(false) => {}
            Err(refusal) => {
                // The byte that was read last is the one that broke the framing.
                let byte = excerpt(&input[read - 1..read]);
                let fault = BadResponse::Chunk { byte, reason: refusal.reason };
                self.stage = Stage::Failed(fault.clone());
                if write == 0 {
                    return Err(fault);
                }
            }
        }
        if write > 0 {
            return Ok(ResponsePart::Body { bytes: &mut input[..write], last, consumed: read });
        }
        if last {
            let ResponsePart::End { keep_alive, .. } = self.end_response() else {
                return Ok(ResponsePart::NeedMore);
            };
            return Ok(ResponsePart::End { keep_alive, consumed: read });
        }
        Ok(ResponsePart::NeedMore)
    }

    fn decode_head<'a>(&'a mut self, input: &'a mut [u8]) -> Result<ResponsePart<'a>, BadResponse> {
        match self.find_head(input) {
            Ok(Some(Found { index, start, consumed })) => {
                let block = match start {
                    Some(start) => &input[start..start + index.bytes()],
                    None => &self.kept[..],
                };
                Ok(ResponsePart::Head { head: ResponseHead::new(block, index), consumed })
            }
            Ok(None) => Ok(ResponsePart::NeedMore),
            Err(fault) => {
                self.kept = Vec::new();
                self.stage = Stage::Failed(fault.clone());
                Err(fault)
            }
        }
    }

    fn find_head(&mut self, input: &[u8]) -> Result<Option<Found>, BadResponse> {
        let mut consumed = 0;
        while consumed < input.len() {
            let rest = &input[consumed..];
            let whole =
                if self.kept.is_empty() { head::parse(rest, self.head_bytes_max)? } else { None };
            let (index, start) = match whole {
                Some(index) => {
                    consumed += index.bytes();
                    (index, Some(consumed - index.bytes()))
                }
                None => {
                    let Some((index, taken)) = self.keep(rest)? else { return Ok(None) };
                    consumed += taken;
                    (index, None)
                }
            };
            if index.is_interim() {
                self.skip_interim(&index)?;
                continue;
            }
            self.keep_alive = index.keep_alive;
            self.stage = match index.length {
                BodyLength::Bytes(bytes) => Stage::Length(bytes),
                BodyLength::Chunked => Stage::Chunks(ChunkDecoder::new()),
                BodyLength::UntilClose => Stage::UntilClose,
            };
            return Ok(Some(Found { index, start, consumed }));
        }
        Ok(None)
    }

    /// RFC 9110, 15.2: "A client MUST be able to parse one or more 1xx responses
    /// received prior to a final response, even if the client does not expect one."
    fn skip_interim(&mut self, index: &HeadIndex) -> Result<(), BadResponse> {
        self.kept = Vec::new();
        self.stage = Stage::Head(HeadScan::default());
        self.interim += 1;
        if index.status == 101 {
            return Err(BadResponse::Switched);
        }
        if self.interim > INTERIM_MAX {
            return Err(BadResponse::InterimMany { interim_max: INTERIM_MAX });
        }
        Ok(())
    }

    /// Adds input to the part of a head that is kept. Once the head is whole, comes
    /// back with it and with how much of the input it took.
    fn keep(&mut self, input: &[u8]) -> Result<Option<(HeadIndex, usize)>, BadResponse> {
        let Stage::Head(scan) = &mut self.stage else { return Ok(None) };
        let before = self.kept.len();
        let taken = input.len().min(self.head_bytes_max - before);
        self.kept.extend_from_slice(&input[..taken]);
        let Some(head_bytes) = scan.advance(&self.kept, self.head_bytes_max)? else {
            return Ok(None);
        };
        self.kept.truncate(head_bytes);
        match head::parse(&self.kept, self.head_bytes_max)? {
            Some(index) => Ok(Some((index, head_bytes - before))),
            // The scan accepts nothing that the parser does not.
            None => Err(BadResponse::StatusLine { line: excerpt(&self.kept) }),
        }
    }
}

/// True if `bytes` may be the beginning of a response, as far as they go.
fn is_http_start(bytes: &[u8]) -> bool {
    let length = bytes.len().min(HTTP_1.len());
    bytes[..length] == HTTP_1[..length]
}

/// How far the lines of a head have been checked.
#[derive(Debug, Default)]
struct HeadScan {
    /// No LF stands before this position other than the lines' ends.
    scanned: usize,
    line_start: usize,
    lines: usize,
}

impl HeadScan {
    /// Checks the lines that have become whole. `Some(length)` when the head has.
    fn advance(
        &mut self,
        bytes: &[u8],
        head_bytes_max: usize,
    ) -> Result<Option<usize>, BadResponse> {
        if self.lines == 0 && !check_start(bytes)? {
            return Ok(None);
        }
        while let Some(position) = memchr::memchr(b'\n', &bytes[self.scanned..]) {
            let end = self.scanned + position;
            let line = &bytes[self.line_start..end];
            let Some((b'\r', line)) = line.split_last() else {
                return Err(BadResponse::line(line, &Refusal::BARE_LF));
            };
            self.scanned = end + 1;
            self.line_start = end + 1;
            if line.is_empty() {
                return Ok(Some(end + 1));
            }
            self.take_line(line)?;
        }
        self.scanned = bytes.len();
        if bytes.len() >= head_bytes_max {
            return Err(BadResponse::HeadLarge { head_bytes_max });
        }
        Ok(None)
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), BadResponse> {
        self.lines += 1;
        if self.lines == 1 {
            return check_status_line(line);
        }
        if self.lines - 1 > HEADERS_MAX {
            return Err(BadResponse::HeadersMany { headers_max: HEADERS_MAX });
        }
        check_field_line(line).map_err(|refusal| BadResponse::line(line, &refusal))
    }
}

/// Tells other protocols from HTTP before a whole line is here. False while it
/// is no HTTP but more is needed to show what it is.
fn check_start(bytes: &[u8]) -> Result<bool, BadResponse> {
    // RFC 8446, 5.1: record types alert(21) and handshake(22).
    if matches!(bytes.first(), Some(21 | 22)) {
        return Err(BadResponse::Tls);
    }
    if is_http_start(bytes) {
        return Ok(true);
    }
    let shown = &bytes[..bytes.len().min(START_BYTES)];
    match memchr::memchr(b'\n', shown) {
        Some(end) => Err(BadResponse::NotHttp { start: excerpt(&shown[..end]) }),
        None if shown.len() == START_BYTES => Err(BadResponse::NotHttp { start: excerpt(shown) }),
        None => Ok(false),
    }
}
