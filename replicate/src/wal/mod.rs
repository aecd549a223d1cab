//! The write-ahead log of the control log: entries, the vote, what is committed.
//!
//! [`Wal`] knows nothing of Raft and starts no threads: who uses it decides when to write and
//! when to sync. On a real node that is the thread of [`Writer`], which syncs once for all that
//! was queued meanwhile. The layout of the files is told in `format.rs`, the rules for reading them
//! after a crash in `recovery.rs`.
//!
//! Invariants: what was synced is there after every crash, and what was truncated never comes
//! back once the truncation was synced, or anything written after it. A call that fails leaves
//! the log as it was, as far as anybody can see, and so does a crash within it.
//!
//! Limits: entries up to [`ENTRY_BYTES_MAX`]; the newest [`Config::recent_bytes`] are read from
//! memory, older ones from the disk. Of each entry that is not purged its place stays in memory.

use std::ops::Range;
use std::path::PathBuf;

mod error;
mod files;
mod format;
mod memory;
mod recovery;
mod segment;
mod writer;

pub use error::WalError;
pub use files::{RESERVE_BYTES, SyncTicket};
pub use format::{
    BadHeader, CLUSTER_NAME_BYTES_MAX, Chain, Committed, ENTRY_BYTES_MAX, ENTRY_ID_BYTES_MAX,
    Entry, EntryId, FORMAT, HEADER_BYTES, Header, LogState, Opaque, Owner, Position, Record,
    Standing, VOTE_BYTES_MAX, Vote,
};
pub use recovery::{Recovered, Torn};
pub use segment::{Segment, decode_segment};
pub use writer::{Done, GROUP_BYTES_MAX, Health, Reader, Writer, WriterConfig};

use crate::disk::Disk;
use files::Files;
use memory::{Memory, Place};

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct Config {
    /// A segment that would become larger than this is followed by another. One write may
    /// exceed it.
    pub segment_bytes: u64,
    /// How far ahead of its end a segment is filled with zeros.
    pub fill_bytes: u64,
    /// How many bytes of the newest entries stay in memory.
    pub recent_bytes: usize,
    /// A random number, or a seed: nobody who may write payloads should know it.
    pub salt: u64,
}

impl Default for Config {
    fn default() -> Config {
        use std::hash::{BuildHasher, RandomState};
        Config {
            segment_bytes: 32 * 1024 * 1024,
            fill_bytes: 512 * 1024,
            recent_bytes: 64 * 1024 * 1024,
            salt: RandomState::new().hash_one("salt of a log"),
        }
    }
}

/// A write-ahead log.
#[derive(Debug)]
pub struct Wal<D: Disk> {
    files: Files<D>,
    memory: Memory,
    _lock: D::Lock,
}

impl<D: Disk> Wal<D> {
    /// Opens the log in `dir`, or creates it.
    ///
    /// # Errors
    ///
    /// It is in use, another node's, of a later version, damaged or incomplete: see
    /// [`WalError`]. Nothing is changed then.
    pub fn open(
        disk: D,
        dir: impl Into<PathBuf>,
        owner: Owner,
        config: Config,
    ) -> Result<(Wal<D>, Recovered), WalError> {
        recovery::open(disk, dir.into(), owner, config)
    }

    /// The vote, what is committed, purged and last.
    pub fn state(&self) -> &LogState {
        &self.memory.state
    }

    /// Index of the oldest entry that can be read; `None`: there is none.
    pub fn first_index(&self) -> Option<u64> {
        self.memory.first_index()
    }

    /// Bytes of all segments on the disk, and how many there are.
    pub fn size(&self) -> (u64, usize) {
        self.files.size()
    }

    /// Writes entries after the last one. They can be read at once, and survive a crash once
    /// synced.
    ///
    /// # Errors
    ///
    /// None of them is in the log. [`WalError::is_full`] says whether trying again may help.
    pub fn append_batch(&mut self, entries: &[Entry]) -> Result<(), WalError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.check_entries(entries)?;
        let bytes: usize = entries.iter().map(Entry::bytes_in_log).sum();
        self.files.make_room(bytes as u64, &self.memory.state)?;
        let mut offset =
            self.files.write(entries.iter().map(|entry| Record::Entry {
                position: entry.position(),
                payload: &entry.payload,
            }))?;
        for entry in entries {
            let place = self.files.place(offset, entry.bytes_in_log());
            offset += u64::from(place.len);
            self.memory.push(entry.clone(), place).expect("their order was checked");
        }
        Ok(())
    }

    fn check_entries(&self, entries: &[Entry]) -> Result<(), WalError> {
        let next = self.memory.next_index().unwrap_or(entries[0].index);
        for (expected, entry) in (next..).zip(entries) {
            let (found, bytes) = (entry.index, entry.payload.len());
            if found != expected {
                return Err(WalError::Hole { expected, found });
            }
            if bytes > ENTRY_BYTES_MAX {
                return Err(WalError::TooLarge { index: found, bytes });
            }
        }
        Ok(())
    }

    /// Writes the vote; it counts once synced.
    ///
    /// # Errors
    ///
    /// It was not written.
    pub fn save_vote(&mut self, vote: Vote) -> Result<(), WalError> {
        self.put(&Record::Vote(vote))
    }

    /// Writes up to where the log is committed. There is no need to sync it: it is only ever
    /// behind the truth.
    ///
    /// # Errors
    ///
    /// It was not written.
    pub fn save_committed(&mut self, committed: Option<Committed>) -> Result<(), WalError> {
        self.put(&Record::Committed(committed))
    }

    /// Takes all entries after `last` out of the log; `None`: all that are not purged.
    ///
    /// # Errors
    ///
    /// They are still in it.
    pub fn truncate_after(&mut self, last: Option<Position>) -> Result<(), WalError> {
        self.put(&Record::Truncate(last))
    }

    /// Removes all entries up to `through`, also from the disk as far as whole segments can go.
    /// If the log does not reach that far, it goes on after `through`. Syncs.
    ///
    /// # Errors
    ///
    /// Some may be there still; a later purge removes them.
    pub fn purge(&mut self, through: Position) -> Result<(), WalError> {
        self.put(&Record::Purge(through))?;
        // A segment may only go once the disk knows that it is not needed any more.
        self.files.sync_now()?;
        self.files.remove_before(self.memory.oldest_segment().unwrap_or(u64::MAX))
    }

    /// Writes down that all before is synced, if that is so and not written yet. Without it the
    /// disk learns so only by the next write; until then damage to what was synced last would
    /// look as if a crash had torn it. Needs no sync, and is for when there is nothing to do.
    ///
    /// # Errors
    ///
    /// It was not written, which harms nothing.
    pub fn mark(&mut self) -> Result<(), WalError> {
        if self.files.has_unmarked() { self.put(&Record::Mark) } else { Ok(()) }
    }

    /// Begins to bring all that was written so far to the disk; `None`: it is there. The
    /// ticket's [`SyncTicket::run`] does the waiting, and [`Wal::end_sync`] must follow.
    pub fn begin_sync(&self) -> Option<SyncTicket<D::File>> {
        self.files.begin_sync()
    }

    /// Takes the outcome of a sync.
    ///
    /// # Errors
    ///
    /// It failed, and the log takes no more writes: nobody knows what is on the disk.
    pub fn end_sync(
        &mut self,
        ticket: &SyncTicket<D::File>,
        outcome: std::io::Result<()>,
    ) -> Result<(), WalError> {
        self.files.end_sync(ticket, outcome)
    }

    /// Brings all that was written so far to the disk.
    ///
    /// # Errors
    ///
    /// As for [`Wal::end_sync`].
    pub fn sync(&mut self) -> Result<(), WalError> {
        self.files.sync_now()
    }

    /// Those entries of `range` that are in the log, without a gap.
    ///
    /// # Errors
    ///
    /// An entry can't be read, or is not what was written.
    pub fn entries(&self, range: Range<u64>) -> Result<Vec<Entry>, WalError> {
        let (Some(first), Some(next)) = (self.memory.first_index(), self.memory.next_index())
        else {
            return Ok(Vec::new());
        };
        let range = range.start.max(first)..range.end.min(next);
        let from_memory = self.memory.recent.first().unwrap_or(next).max(range.start);
        let mut entries = Vec::new();
        let mut bytes = Vec::new();
        for index in range.start..from_memory.min(range.end) {
            entries.push(self.read(index, &mut bytes)?);
        }
        entries.extend(self.memory.recent.entries(range).cloned());
        Ok(entries)
    }

    fn read(&self, index: u64, bytes: &mut Vec<u8>) -> Result<Entry, WalError> {
        let place = self.memory.place(index).expect("the range was limited to what is there");
        let salt = self.files.read(place, bytes)?;
        files::entry_of(bytes, salt, index).ok_or_else(|| {
            let what = "what was written there is not what is there now";
            self.files.damaged(place.segment, u64::from(place.offset), what)
        })
    }

    fn put(&mut self, record: &Record<'_>) -> Result<(), WalError> {
        let offset = self.files.write(std::iter::once(record.clone()))?;
        let place = Place { len: 0, ..self.files.place(offset, 0) };
        self.memory.apply(record, place).expect("only entries and bases can contradict");
        Ok(())
    }
}
