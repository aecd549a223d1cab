//! One SSE stream of a session: its log, and the connection that carries it now.
//!
//! MCP 2025-11-25, transports: a stream belongs to a session, not to a
//! connection; a client whose connection broke names the last event it saw and
//! goes on with that stream only.

use crate::clock::Millis;
use crate::mcp::event_log::{EventLog, Sequence};

/// Names a stream within its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamNumber(pub u32);

/// Generation of a virtual shard's ownership; part of event ids so that two
/// owners can never issue the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

/// An SSE event id: `<stream>.<epoch>.<seq>`, unique within its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventId {
    /// Which stream.
    pub stream: StreamNumber,
    /// Who issued it.
    pub epoch: Epoch,
    /// Where in the stream.
    pub sequence: Sequence,
}

impl EventId {
    /// Reads the text of a `Last-Event-ID`; `None` if it isn't one of ours.
    pub fn parse(text: &[u8]) -> Option<EventId> {
        let text = std::str::from_utf8(text).ok()?;
        let mut parts = text.split('.');
        let id = EventId {
            stream: StreamNumber(parse_plain(parts.next()?)?),
            epoch: Epoch(parse_plain(parts.next()?)?),
            sequence: Sequence(parse_plain(parts.next()?)?),
        };
        parts.next().is_none().then_some(id)
    }

    /// The id's text.
    pub fn to_text(self) -> String {
        let mut text = Vec::with_capacity(16);
        self.write(&mut text);
        String::from_utf8(text).expect("digits and dots")
    }

    /// Appends the id's text.
    pub fn write(self, out: &mut Vec<u8>) {
        let mut buffer = itoa::Buffer::new();
        out.extend_from_slice(buffer.format(self.stream.0).as_bytes());
        out.push(b'.');
        out.extend_from_slice(buffer.format(self.epoch.0).as_bytes());
        out.push(b'.');
        out.extend_from_slice(buffer.format(self.sequence.0).as_bytes());
    }
}

/// Digits only: `str::parse` alone would let a sign pass.
fn parse_plain<N: std::str::FromStr>(digits: &str) -> Option<N> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// Opened by GET: what belongs to no request.
    Standing,
    /// Opened by a POST: what belongs to its requests, of which this many are unanswered.
    Calls {
        /// Requests still without an answer.
        open: u16,
    },
}

/// A stream and the carrier (an open HTTP exchange, named by `C`) it now goes out on.
#[derive(Debug)]
pub struct Stream<C> {
    /// Its name in the session.
    pub number: StreamNumber,
    /// Its purpose.
    pub kind: StreamKind,
    /// Its memory.
    pub log: EventLog,
    /// Where its events go now; `None` while no client listens.
    pub carrier: Option<C>,
    /// When the carrier last came or went.
    pub changed: Millis,
    /// The newest event that was handed to a carrier.
    pub sent: Sequence,
}

impl<C> Stream<C> {
    /// A stream that nobody carries yet.
    pub fn new(number: StreamNumber, kind: StreamKind, now: Millis) -> Stream<C> {
        let (log, sent) = (EventLog::default(), Sequence(0));
        Stream { number, kind, log, carrier: None, changed: now, sent }
    }

    /// True if nothing more will ever be recorded in it.
    pub fn is_complete(&self) -> bool {
        matches!(self.kind, StreamKind::Calls { open: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_read_back() {
        let id = EventId { stream: StreamNumber(7), epoch: Epoch(1), sequence: Sequence(u64::MAX) };
        let mut text = Vec::new();
        id.write(&mut text);
        assert_eq!(text, b"7.1.18446744073709551615");
        assert_eq!(EventId::parse(&text), Some(id));
    }

    #[test]
    fn what_is_no_event_id_is_refused() {
        for text in ["", "1", "1.2", "1.2.3.4", "+1.2.3", "1.2.-3", "a.b.c", "1..3", " 1.2.3"] {
            assert_eq!(EventId::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(EventId::parse(b"4294967296.1.1"), None);
        assert_eq!(EventId::parse(b"\xff.1.1"), None);
    }
}
