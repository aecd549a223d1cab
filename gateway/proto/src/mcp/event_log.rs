//! The bounded memory of one stream: what a client may ask for again.
//!
//! The gateway owns this log, so a stream can be resumed even where the
//! upstream cannot replay. Invariant: sequence numbers of a stream rise by one
//! from 1 and are never reused, so a client can tell a gap from a repetition.

use std::collections::VecDeque;

use crate::clock::Millis;

/// Position of an event in its stream, from 1. Zero stands for "before the first".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// How much one stream remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Events.
    pub events_max: usize,
    /// Sum of their data in bytes. The newest event is kept even if it alone is larger.
    pub bytes_max: usize,
    /// Age in milliseconds.
    pub age_ms_max: u64,
}

impl Default for LogLimits {
    fn default() -> LogLimits {
        LogLimits { events_max: 256, bytes_max: 256 * 1024, age_ms_max: 5 * 60 * 1000 }
    }
}

/// One remembered event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedEvent {
    /// Its place in the stream.
    pub sequence: Sequence,
    /// When it was recorded.
    pub recorded: Millis,
    /// The JSON-RPC message.
    pub data: Box<[u8]>,
}

/// The events of one stream, newest last.
#[derive(Debug, Default)]
pub struct EventLog {
    events: VecDeque<LoggedEvent>,
    bytes: usize,
    last: Sequence,
    forgotten: Sequence,
}

impl EventLog {
    /// Records an event and forgets old ones beyond the limits.
    pub fn record(&mut self, data: Box<[u8]>, now: Millis, limits: &LogLimits) -> Sequence {
        self.last = Sequence(self.last.0 + 1);
        self.bytes += data.len();
        self.events.push_back(LoggedEvent { sequence: self.last, recorded: now, data });
        while self.events.len() > limits.events_max.max(1)
            || (self.bytes > limits.bytes_max && self.events.len() > 1)
        {
            self.forget_oldest();
        }
        self.last
    }

    /// Takes a number without remembering anything, as for a priming event, which has no data.
    pub fn skip(&mut self) -> Sequence {
        self.last = Sequence(self.last.0 + 1);
        self.last
    }

    /// Forgets what is older than the limit.
    pub fn prune(&mut self, now: Millis, limits: &LogLimits) {
        while let Some(oldest) = self.events.front()
            && now.since(oldest.recorded) > limits.age_ms_max
        {
            self.forget_oldest();
        }
        if self.events.is_empty() {
            self.events = VecDeque::new();
        }
    }

    /// The remembered events behind `seen`, in order.
    pub fn after(&self, seen: Sequence) -> impl Iterator<Item = &LoggedEvent> {
        let start = self.events.partition_point(|event| event.sequence <= seen);
        self.events.range(start..)
    }

    /// The number of the newest event.
    pub fn last(&self) -> Sequence {
        self.last
    }

    /// True if an event behind `seen` was recorded but is no longer remembered.
    pub fn has_gap_after(&self, seen: Sequence) -> bool {
        seen < self.forgotten
    }

    /// Bytes of data held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Events held.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// True if nothing is held.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// When the oldest event held was recorded.
    pub fn oldest(&self) -> Option<Millis> {
        self.events.front().map(|event| event.recorded)
    }

    /// Forgets the oldest event; returns the bytes that became free.
    pub fn forget_oldest(&mut self) -> usize {
        let Some(event) = self.events.pop_front() else { return 0 };
        self.bytes -= event.data.len();
        self.forgotten = event.sequence;
        event.data.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> LogLimits {
        LogLimits { events_max: 3, bytes_max: 10, age_ms_max: 100 }
    }

    fn numbers(log: &EventLog, seen: u64) -> Vec<u64> {
        log.after(Sequence(seen)).map(|event| event.sequence.0).collect()
    }

    #[test]
    fn replays_exactly_what_was_not_seen() {
        let mut log = EventLog::default();
        for _ in 0..3 {
            log.record(Box::from(*b"x"), Millis(0), &limits());
        }
        assert_eq!(numbers(&log, 0), [1, 2, 3]);
        assert_eq!(numbers(&log, 2), [3]);
        assert_eq!(numbers(&log, 3), [0u64; 0]);
        assert_eq!(numbers(&log, 99), [0u64; 0]);
    }

    #[test]
    fn a_skipped_number_leaves_no_event() {
        let mut log = EventLog::default();
        assert_eq!(log.skip(), Sequence(1));
        log.record(Box::from(*b"x"), Millis(0), &limits());
        assert_eq!(numbers(&log, 0), [2]);
    }

    #[test]
    fn forgets_the_oldest_by_count_bytes_and_age() {
        let mut log = EventLog::default();
        for _ in 0..5 {
            log.record(Box::from(*b"x"), Millis(0), &limits());
        }
        assert_eq!(numbers(&log, 0), [3, 4, 5]);
        assert!(log.has_gap_after(Sequence(1)));
        assert!(!log.has_gap_after(Sequence(2)));
        log.record(Box::from(*b"123456789"), Millis(50), &limits());
        assert_eq!(numbers(&log, 0), [5, 6]);
        log.record(Box::from(*b"far more than the limit"), Millis(60), &limits());
        assert_eq!(numbers(&log, 0), [7]);
        log.prune(Millis(160), &limits());
        assert_eq!(log.len(), 1);
        log.prune(Millis(161), &limits());
        assert!(log.is_empty());
        assert_eq!(log.bytes(), 0);
        assert_eq!(log.last(), Sequence(7));
    }
}
