//! Reading events from a stream that arrives in pieces.

/// An event, or the news of a reconnection time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// An event. One without a `data` line is none and is not given out, but its id counts.
    Event {
        /// The last event id seen so far; empty if there was none.
        id: &'a [u8],
        /// The type; empty stands for `message`.
        name: &'a [u8],
        /// The data lines, joined by LF.
        data: &'a [u8],
    },
    /// The server wants this time before a reconnect, in milliseconds.
    Retry(u64),
}

/// An event, with its id and type, is larger than the decoder may hold. The stream is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server sent an event of more than {event_bytes_max} bytes: raise the limit or end the stream"
)]
pub struct EventTooLarge {
    /// The limit.
    pub event_bytes_max: usize,
}

/// Decoder of one stream. Holds what is not whole yet, and the last event id.
///
/// A stream's end drops an event that lacks its empty line, as the standard says:
/// drop the decoder.
#[derive(Debug)]
pub struct EventDecoder {
    event_bytes_max: usize,
    /// The line that is not whole yet.
    line: Vec<u8>,
    data: Vec<u8>,
    name: Vec<u8>,
    /// The id as the lines so far say; it counts from the next empty line on.
    id: Vec<u8>,
    last_event_id: Vec<u8>,
    /// A CR ended the line before: a following LF belongs to it.
    after_cr: bool,
    begun: bool,
    has_data: bool,
    given_out: bool,
}

impl EventDecoder {
    /// A decoder that holds events of at most `event_bytes_max` bytes.
    pub fn new(event_bytes_max: usize) -> EventDecoder {
        EventDecoder {
            event_bytes_max,
            line: Vec::new(),
            data: Vec::new(),
            name: Vec::new(),
            id: Vec::new(),
            last_event_id: Vec::new(),
            after_cr: false,
            begun: false,
            has_data: false,
            given_out: false,
        }
    }

    /// The id to send as `Last-Event-ID` when the stream is resumed; empty if there is none.
    /// The id of an event that was cut off does not count.
    pub fn last_event_id(&self) -> &[u8] {
        &self.last_event_id
    }

    /// Reads from the front of `input` up to the next event and moves `input`
    /// behind what was read. `None` once all of it is read.
    ///
    /// # Errors
    /// [`EventTooLarge`]; the decoder must not be used any more.
    pub fn decode<'d>(
        &'d mut self,
        input: &mut &[u8],
    ) -> Result<Option<Received<'d>>, EventTooLarge> {
        if self.given_out {
            self.forget_event();
        }
        while let Some(found) = self.next_line(input)? {
            if matches!(found, Line::Empty) && self.last_event_id != self.id {
                replace(&mut self.last_event_id, &self.id);
            }
            match found {
                Line::Empty if self.has_data => {
                    self.given_out = true;
                    return Ok(Some(Received::Event {
                        id: &self.last_event_id,
                        name: &self.name,
                        data: &self.data[..self.data.len() - 1],
                    }));
                }
                Line::Empty => self.forget_event(),
                Line::Retry(retry_ms) => return Ok(Some(Received::Retry(retry_ms))),
                Line::Other => {}
            }
        }
        Ok(None)
    }

    fn forget_event(&mut self) {
        self.data.clear();
        self.name.clear();
        // One large event must not cost memory for the rest of the stream.
        self.data.shrink_to(KEPT_BYTES_MAX);
        self.has_data = false;
        self.given_out = false;
    }

    /// Takes one line from `input`, if its end is there, and acts on it.
    fn next_line(&mut self, input: &mut &[u8]) -> Result<Option<Line>, EventTooLarge> {
        if self.after_cr && !input.is_empty() {
            self.after_cr = false;
            *input = input.strip_prefix(b"\n").unwrap_or(input);
        }
        let Some(end) = memchr::memchr2(b'\n', b'\r', input) else {
            self.check_size(input.len())?;
            self.line.extend_from_slice(input);
            *input = &[];
            return Ok(None);
        };
        self.check_size(end)?;
        let (piece, rest) = input.split_at(end);
        self.after_cr = rest[0] == b'\r';
        *input = &rest[1..];
        if self.line.is_empty() {
            return Ok(Some(self.take_line(piece)));
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(piece);
        let found = self.take_line(&line);
        line.clear();
        line.shrink_to(KEPT_BYTES_MAX);
        self.line = line;
        Ok(Some(found))
    }

    fn check_size(&self, more: usize) -> Result<(), EventTooLarge> {
        let held = self.line.len() + self.data.len() + self.name.len() + more;
        if held <= self.event_bytes_max {
            Ok(())
        } else {
            Err(EventTooLarge { event_bytes_max: self.event_bytes_max })
        }
    }

    fn take_line(&mut self, line: &[u8]) -> Line {
        let mut line = line;
        if !self.begun {
            self.begun = true;
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            return Line::Empty;
        }
        // A line that starts with a colon is a comment: its field name is empty.
        let (field, value) = match memchr::memchr(b':', line) {
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &[][..]),
        };
        match field {
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
                self.has_data = true;
            }
            b"event" => replace(&mut self.name, value),
            b"id" if memchr::memchr(0, value).is_none() => replace(&mut self.id, value),
            b"retry" => return parse_retry(value).map_or(Line::Other, Line::Retry),
            _ => {}
        }
        Line::Other
    }
}

/// Memory a decoder keeps between events, per buffer.
const KEPT_BYTES_MAX: usize = 16 * 1024;

enum Line {
    Empty,
    Retry(u64),
    Other,
}

fn replace(text: &mut Vec<u8>, value: &[u8]) {
    text.clear();
    text.extend_from_slice(value);
}

/// "If the field value consists of only ASCII digits"; others are ignored.
fn parse_retry(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}
