//! What is kept in memory of the log: its state, where its entries are, and the recent ones.
//!
//! Invariant: it follows from the records alone. Writing a record and reading it again after a
//! restart go through the same [`Memory::apply`].

use std::collections::VecDeque;
use std::ops::Range;

use super::format::{Entry, LogState, Position, Record};

/// Where an entry's record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Number of the segment.
    pub(super) segment: u64,
    /// Where in it the record begins; segments are far smaller than this can say.
    pub(super) offset: u32,
    /// Bytes of the record, head included.
    pub(super) len: u32,
}

/// The newest entries, up to a number of bytes.
#[derive(Debug)]
pub(super) struct Recent {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
}

impl Recent {
    pub(super) fn new(bytes_max: usize) -> Recent {
        Recent { entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds the newest entry.
    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes_in_log();
        self.entries.push_back(entry);
    }

    /// Forgets the oldest that are too many, but not the newest `kept`.
    pub(super) fn shrink(&mut self, kept: usize) {
        while self.bytes > self.bytes_max && self.entries.len() > kept {
            self.pop_front();
        }
    }

    pub(super) fn truncate_after(&mut self, last: Option<u64>) {
        while let Some(entry) = self.entries.pop_back_if(|entry| Some(entry.index) > last) {
            self.bytes -= entry.bytes_in_log();
        }
    }

    pub(super) fn purge(&mut self, through: u64) {
        while self.entries.front().is_some_and(|entry| entry.index <= through) {
            self.pop_front();
        }
    }

    /// Index of the oldest one here.
    pub(super) fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.index)
    }

    /// Those of `range` that are here.
    pub(super) fn entries(&self, range: Range<u64>) -> impl Iterator<Item = &Entry> {
        let first = self.first().unwrap_or(range.end);
        let skipped = range.start.saturating_sub(first) as usize;
        let wanted = range.end.saturating_sub(range.start.max(first)) as usize;
        self.entries.iter().skip(skipped).take(wanted)
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.bytes_in_log();
        }
    }
}

/// What is kept in memory of a log.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) state: LogState,
    pub(super) recent: Recent,
    /// Places of all entries that are neither purged nor truncated, up to the last.
    places: VecDeque<Place>,
    /// Entries up to this one have no place, because the segment read first begins after them.
    absent: Option<u64>,
}

impl Memory {
    pub(super) fn new(recent_bytes_max: usize) -> Memory {
        Memory {
            state: LogState::default(),
            recent: Recent::new(recent_bytes_max),
            places: VecDeque::new(),
            absent: None,
        }
    }

    /// Index of the next entry; `None`: any.
    pub(super) fn next_index(&self) -> Option<u64> {
        self.state.last.map(|last| last.index + 1)
    }

    /// Index of the oldest entry that can be read.
    pub(super) fn first_index(&self) -> Option<u64> {
        let last = self.state.last.filter(|_| !self.places.is_empty())?;
        Some(last.index + 1 - self.places.len() as u64)
    }

    /// How many entries can be read.
    pub(super) fn entries_kept(&self) -> u64 {
        self.places.len() as u64
    }

    pub(super) fn place(&self, index: u64) -> Option<Place> {
        let at = index.checked_sub(self.first_index()?)?;
        self.places.get(usize::try_from(at).ok()?).copied()
    }

    /// Number of the oldest segment that holds an entry still needed.
    pub(super) fn oldest_segment(&self) -> Option<u64> {
        self.places.front().map(|place| place.segment)
    }

    /// Whether an entry that was neither purged nor truncated is in no segment that was read.
    pub(super) fn lacks_entries(&self) -> bool {
        self.absent > self.state.purged.map(|purged| purged.index)
    }

    /// Takes what a record says. `entry` makes an entry of its payload.
    ///
    /// # Errors
    ///
    /// It contradicts those before it; what is wrong.
    pub(super) fn apply(&mut self, record: &Record<'_>, place: Place) -> Result<(), &'static str> {
        match record {
            Record::Base(base) => return self.begin(base),
            Record::Entry { position, payload } => {
                let entry =
                    Entry { index: position.index, id: position.id, payload: (*payload).into() };
                return self.push(entry, place);
            }
            Record::Vote(vote) => self.state.vote = Some(*vote),
            Record::Committed(committed) => self.state.committed = *committed,
            Record::Truncate(last) => self.truncate_after(*last),
            Record::Purge(through) => self.purge(*through),
            Record::Mark | Record::Seal => {}
        }
        Ok(())
    }

    fn begin(&mut self, base: &LogState) -> Result<(), &'static str> {
        let nothing_yet = self.state == LogState::default() && self.places.is_empty();
        if nothing_yet {
            self.state = *base;
            self.absent = base.last.map(|last| last.index);
        }
        if self.state == *base {
            Ok(())
        } else {
            Err("it does not go on where the one before ends")
        }
    }

    pub(super) fn push(&mut self, entry: Entry, place: Place) -> Result<(), &'static str> {
        if self.next_index().is_some_and(|next| next != entry.index) {
            return Err("its entries do not follow each other");
        }
        self.state.last = Some(entry.position());
        self.places.push_back(place);
        self.recent.push(entry);
        self.recent.shrink(0);
        Ok(())
    }

    fn truncate_after(&mut self, last: Option<Position>) {
        let before = self.state.last.map(|last| last.index);
        self.state.truncate_after(last);
        let index = self.state.last.map(|last| last.index);
        let gone = before.map_or(0, |before| before + 1) - index.map_or(0, |index| index + 1);
        let left = self.places.len().saturating_sub(usize::try_from(gone).unwrap_or(usize::MAX));
        self.places.truncate(left);
        self.recent.truncate_after(index);
        self.absent = self.absent.min(index);
    }

    fn purge(&mut self, through: Position) {
        if self.state.purged.is_some_and(|purged| purged.index >= through.index) {
            return;
        }
        let first = self.first_index().unwrap_or(u64::MAX);
        let gone = usize::try_from((through.index + 1).saturating_sub(first));
        let gone = gone.map_or(self.places.len(), |gone| gone.min(self.places.len()));
        self.places.drain(..gone);
        self.recent.purge(through.index);
        self.state.purge(through);
    }
}

impl LogState {
    /// Takes the entries after `last` out, but none that are purged.
    pub(super) fn truncate_after(&mut self, last: Option<Position>) {
        let index = |position: Option<Position>| position.map(|position| position.index);
        let last = if index(last) >= index(self.purged) { last } else { self.purged };
        if index(self.last) > index(last) {
            self.last = last;
        }
    }

    /// Takes the entries up to `through` out. A snapshot from elsewhere may reach beyond the
    /// log, which then goes on after it.
    pub(super) fn purge(&mut self, through: Position) {
        if self.purged.is_none_or(|purged| purged.index < through.index) {
            self.purged = Some(through);
            self.last = self.last.filter(|last| last.index > through.index).or(Some(through));
        }
    }
}
