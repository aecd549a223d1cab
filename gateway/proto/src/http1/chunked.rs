//! The chunked transfer coding, taken off in place (RFC 9112, 7.1).
//!
//! Invariants: the write position never passes the read position, so a body is
//! moved towards the front of the buffer it arrived in; each verdict depends on
//! the bytes up to it and on nothing behind them.
//!
//! Limits: [`Limits::chunk_line_bytes_max`], [`Limits::chunk_extensions_bytes_max`],
//! [`Limits::trailer_bytes_max`], [`Limits::body_bytes_max`]. Extensions and
//! trailers are checked and dropped.

use super::line::{check_field_line, is_value_byte};
use super::refusal::Refusal;
use super::{HEADERS_MAX, Limits};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the digits of a chunk's size.
    Size,
    /// White space behind the size: an extension has to follow.
    SizeSpace,
    /// Behind the semicolon.
    Extension,
    /// Behind the CR of a chunk-size line.
    SizeLf,
    /// In the chunk's data; `left` counts down.
    Data,
    DataCr,
    DataLf,
    /// Collecting a trailer line up to its LF.
    Trailer,
}

/// How far a chunked body has been read.
#[derive(Clone, Debug)]
pub(super) struct ChunkDecoder {
    state: State,
    /// Size of the current chunk while it is read, then what is left of it.
    left: usize,
    /// Bytes of the current chunk-size line so far.
    line_bytes: usize,
    extensions_bytes: usize,
    body_bytes: usize,
    trailer_bytes: usize,
    trailers: usize,
    trailer_line: Vec<u8>,
}

impl ChunkDecoder {
    pub(super) fn new() -> ChunkDecoder {
        ChunkDecoder {
            state: State::Size,
            left: 0,
            line_bytes: 0,
            extensions_bytes: 0,
            body_bytes: 0,
            trailer_bytes: 0,
            trailers: 0,
            trailer_line: Vec::new(),
        }
    }

    /// Reads `bytes` from `*read` on and moves the body's bytes to `*write`.
    /// `Ok(true)` once the body is complete; what follows `*read` is not its.
    pub(super) fn decode(
        &mut self,
        bytes: &mut [u8],
        read: &mut usize,
        write: &mut usize,
        limits: &Limits,
    ) -> Result<bool, Refusal> {
        while *read < bytes.len() {
            if self.state == State::Data {
                self.move_data(bytes, read, write);
                continue;
            }
            let byte = bytes[*read];
            *read += 1;
            if self.state == State::Trailer {
                // Nearly every body ends so: without trailers, and in one piece.
                if self.trailer_line.is_empty() && byte == b'\r' && bytes.get(*read) == Some(&b'\n')
                {
                    *read += 1;
                    return Ok(true);
                }
                if self.take_trailer_byte(byte, limits)? {
                    return Ok(true);
                }
            } else {
                self.take_framing_byte(byte, limits)?;
            }
        }
        Ok(false)
    }

    fn move_data(&mut self, bytes: &mut [u8], read: &mut usize, write: &mut usize) {
        let length = self.left.min(bytes.len() - *read);
        bytes.copy_within(*read..*read + length, *write);
        *read += length;
        *write += length;
        self.left -= length;
        if self.left == 0 {
            self.state = State::DataCr;
        }
    }

    fn take_framing_byte(&mut self, byte: u8, limits: &Limits) -> Result<(), Refusal> {
        self.state = match (self.state, byte) {
            (State::Size, byte) if byte.is_ascii_hexdigit() => {
                self.count_line_byte(limits)?;
                let digit = char::from(byte).to_digit(16).unwrap_or_default() as usize;
                self.left = self.left.saturating_mul(16).saturating_add(digit);
                if self.left > limits.body_bytes_max - self.body_bytes {
                    return Err(Refusal::BODY_LARGE);
                }
                State::Size
            }
            (State::Size, _) if self.line_bytes == 0 => return Err(Refusal::CHUNK),
            (State::Size | State::SizeSpace, b' ' | b'\t') => {
                self.count_extension_byte(limits)?;
                State::SizeSpace
            }
            (State::Size | State::SizeSpace, b';') => {
                self.count_extension_byte(limits)?;
                State::Extension
            }
            (State::Size | State::Extension, b'\r') => State::SizeLf,
            (State::Extension, byte) if is_value_byte(byte) => {
                self.count_extension_byte(limits)?;
                State::Extension
            }
            (State::SizeLf, b'\n') => self.begin_chunk(),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size,
            _ => return Err(Refusal::CHUNK),
        };
        Ok(())
    }

    fn count_line_byte(&mut self, limits: &Limits) -> Result<(), Refusal> {
        self.line_bytes += 1;
        let fits = self.line_bytes <= limits.chunk_line_bytes_max;
        if fits { Ok(()) } else { Err(Refusal::CHUNK_LINE_LONG) }
    }

    fn count_extension_byte(&mut self, limits: &Limits) -> Result<(), Refusal> {
        self.count_line_byte(limits)?;
        self.extensions_bytes += 1;
        let fits = self.extensions_bytes <= limits.chunk_extensions_bytes_max;
        if fits { Ok(()) } else { Err(Refusal::CHUNK_LINE_LONG) }
    }

    fn begin_chunk(&mut self) -> State {
        self.line_bytes = 0;
        self.body_bytes += self.left;
        if self.left == 0 { State::Trailer } else { State::Data }
    }

    fn take_trailer_byte(&mut self, byte: u8, limits: &Limits) -> Result<bool, Refusal> {
        // The empty line that ends the body belongs to no trailer field.
        let ends_body =
            matches!((self.trailer_line.as_slice(), byte), ([], b'\r') | ([b'\r'], b'\n'));
        if !ends_body {
            self.trailer_bytes += 1;
            if self.trailer_bytes > limits.trailer_bytes_max {
                return Err(Refusal::TRAILER_LARGE);
            }
        }
        if byte != b'\n' {
            self.trailer_line.push(byte);
            return Ok(false);
        }
        let Some((b'\r', line)) = self.trailer_line.split_last() else {
            return Err(Refusal::BARE_LF);
        };
        if line.is_empty() {
            return Ok(true);
        }
        check_field_line(line)?;
        self.trailers += 1;
        if self.trailers > limits.headers_max.min(HEADERS_MAX) {
            return Err(Refusal::TRAILER_LARGE);
        }
        self.trailer_line.clear();
        Ok(false)
    }
}
