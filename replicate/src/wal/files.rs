//! The segments of a log on a disk: writing, syncing, beginning a new one, removing old ones.
//!
//! The file is filled with zeros some way ahead of its end. A part of that is kept for votes and
//! purges, so that a full disk stops entries but neither elections nor the purge that frees it.
//!
//! Invariants: all before the tail is records, all after it zeros, or not there. A write that
//! fails leaves the tail where it was. After a failed sync, or a failed repair of a failed
//! write, nothing is written any more: what is on the disk is not known then.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Config;
use super::error::WalError;
use super::format::{self, Chain, HEADER_BYTES, Header, LogState, Owner, Record};
use super::memory::Place;
use crate::disk::{Disk, DiskFile};

/// Kept free for votes and purges at the end of the filled part.
pub const RESERVE_BYTES: u64 = 16 * 1024;

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
const SUFFIX: &str = ".wal";

/// A segment's file.
#[derive(Debug)]
pub(super) struct SegmentFile<F> {
    pub(super) number: u64,
    pub(super) salt: u32,
    pub(super) file: F,
}

/// Where the newest segment ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    pub(super) chain: Chain,
    /// Where the next record goes.
    pub(super) offset: u64,
    /// The length of the file.
    pub(super) filled: u64,
}

/// The segments of a log.
#[derive(Debug)]
pub(super) struct Files<D: Disk> {
    pub(super) disk: D,
    pub(super) dir: PathBuf,
    pub(super) owner: Owner,
    pub(super) config: Config,
    /// Oldest first, without a gap. While the log is open there is at least one.
    pub(super) segments: VecDeque<SegmentFile<D::File>>,
    pub(super) tail: Tail,
    /// All records up to this sequence are on the disk.
    pub(super) synced: u64,
    /// The highest sequence that some record knows to be synced.
    marked: u64,
    /// How often a failed write was taken back, and how many of these cuts are on the disk.
    cuts: u64,
    cuts_synced: u64,
    broken: Option<String>,
    scratch: Vec<u8>,
}

/// A sync that has begun: see [`super::Wal::begin_sync`].
#[derive(Debug)]
pub struct SyncTicket<F> {
    file: F,
    /// All up to this sequence was written when it began.
    through: u64,
    cuts: u64,
}

impl<F: DiskFile> SyncTicket<F> {
    /// How much virtual time this sync stands for; zero on real disks.
    pub fn delay(&self) -> Duration {
        self.file.sync_delay()
    }

    /// Waits until the bytes are on the disk. The log may be written and read meanwhile.
    ///
    /// # Errors
    ///
    /// They are not; the log must hear of it by [`super::Wal::end_sync`].
    pub fn run(&self) -> std::io::Result<()> {
        self.file.sync_data()
    }
}

pub(super) fn segment_name(number: u64) -> String {
    format!("{number:016}{SUFFIX}")
}

/// The number of the segment with this name; `None`: it is some other file.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

impl<D: Disk> Files<D> {
    /// No segment yet.
    pub(super) fn new(disk: D, dir: PathBuf, owner: Owner, config: Config) -> Files<D> {
        let chain = Chain { salt: 0, previous: 0, sequence: 1 };
        Files {
            disk,
            dir,
            owner,
            config,
            segments: VecDeque::new(),
            tail: Tail { chain, offset: 0, filled: 0 },
            synced: 0,
            marked: 0,
            cuts: 0,
            cuts_synced: 0,
            broken: None,
            scratch: Vec::new(),
        }
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
        self.dir.join(segment_name(number))
    }

    /// # Errors
    ///
    /// The log takes no more writes.
    pub(super) fn check_writable(&self) -> Result<(), WalError> {
        match &self.broken {
            None => Ok(()),
            Some(why) => Err(WalError::Broken { dir: self.dir.clone(), why: why.clone() }),
        }
    }

    /// Begins a new segment if `bytes` more would make this one too large.
    pub(super) fn make_room(&mut self, bytes: u64, state: &LogState) -> Result<(), WalError> {
        self.check_writable()?;
        let is_fresh = self.tail.offset <= FIRST_RECORDS_BYTES;
        if !is_fresh && self.tail.offset + bytes > self.config.segment_bytes {
            self.roll(state)?;
        }
        self.fill(self.tail.offset + bytes + RESERVE_BYTES)
    }

    /// Writes records after the last one, not yet synced. Returns where the first of them is;
    /// the others follow.
    pub(super) fn write<'a>(
        &mut self,
        records: impl Iterator<Item = Record<'a>>,
    ) -> Result<u64, WalError> {
        self.check_writable()?;
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let mut chain = self.tail.chain;
        records.for_each(|record| chain.write(&record, self.synced, &mut scratch));
        let written = self.write_bytes(&scratch);
        self.scratch = scratch;
        written?;
        self.tail.chain = chain;
        self.marked = self.synced;
        let offset = self.tail.offset;
        self.tail.offset += self.scratch.len() as u64;
        self.scratch.shrink_to(SCRATCH_BYTES_KEPT);
        Ok(offset)
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        self.fill(self.tail.offset + bytes.len() as u64)?;
        let Tail { offset, .. } = self.tail;
        let Err(source) = self.active().file.write_at(offset, bytes) else { return Ok(()) };
        // Whatever part of it is there must not be found later.
        self.cut(offset);
        Err(WalError::of_write(&self.dir, &self.path(self.active().number), source))
    }

    fn active(&self) -> &SegmentFile<D::File> {
        self.segments.back().expect("an open log has a segment")
    }

    /// Makes sure that the file reaches up to `end`.
    fn fill(&mut self, end: u64) -> Result<(), WalError> {
        if end <= self.tail.filled {
            return Ok(());
        }
        let before = self.tail.filled;
        let until = end.next_multiple_of(self.config.fill_bytes.max(1));
        match write_zeros(&self.active().file, before, until) {
            Ok(()) => {
                self.tail.filled = until;
                Ok(())
            }
            Err(source) => {
                self.cut(before);
                Err(WalError::of_write(&self.dir, &self.path(self.active().number), source))
            }
        }
    }

    /// Cuts the newest segment, all that was written to it before being kept.
    fn cut(&mut self, len: u64) {
        self.cuts += 1;
        match self.active().file.set_len(len) {
            Ok(()) => self.tail.filled = len,
            Err(error) => {
                self.broken = Some(format!("a failed write could not be taken back ({error})"));
            }
        }
    }

    /// Begins the first segment, or one after the newest.
    pub(super) fn begin_segment(
        &mut self,
        number: u64,
        sequence: u64,
        state: &LogState,
    ) -> Result<(), WalError> {
        let path = self.path(number);
        let created = self.disk.create(&path);
        let file = created.map_err(|source| WalError::of_write(&self.dir, &path, source))?;
        match self.write_first_records(number, sequence, state, &file) {
            Ok((salt, tail)) => {
                self.segments.push_back(SegmentFile { number, salt, file });
                self.tail = tail;
                Ok(())
            }
            Err(source) => {
                // Best effort: an unfinished segment is also removed when the log is opened.
                if let Err(error) = self.disk.remove(&path) {
                    self.broken = Some(format!("an unfinished segment can't be removed ({error})"));
                }
                Err(WalError::of_write(&self.dir, &path, source))
            }
        }
    }

    fn write_first_records(
        &self,
        number: u64,
        sequence: u64,
        state: &LogState,
        file: &D::File,
    ) -> std::io::Result<(u32, Tail)> {
        let salt = salt_of(self.config.salt, number);
        let owner = self.owner.clone();
        let mut header = Header { owner, number, first_sequence: sequence, salt, checksum: 0 };
        let mut bytes = Vec::new();
        header.write(&mut bytes);
        let mut chain = Chain { salt, previous: header.checksum, sequence };
        chain.write(&Record::Base(*state), self.synced, &mut bytes);
        let offset = bytes.len() as u64;
        let filled = (offset + RESERVE_BYTES).next_multiple_of(self.config.fill_bytes.max(1));
        file.write_at(0, &bytes)?;
        write_zeros(file, offset, filled)?;
        file.sync_data()?;
        self.disk.sync_dir(&self.dir)?;
        Ok((salt, Tail { chain, offset, filled }))
    }

    /// Ends the newest segment and begins the next. The seal is written last, and synced with
    /// all before it: a segment that has one is whole and followed by another.
    fn roll(&mut self, state: &LogState) -> Result<(), WalError> {
        let old_tail = self.tail;
        let number = self.active().number + 1;
        // The sequence in between is that of the seal.
        self.begin_segment(number, old_tail.chain.sequence + 1, state)?;
        let sealed = self.seal(old_tail);
        if let Err(source) = sealed {
            self.broken = Some(format!("a segment could not be sealed ({source})"));
            return Err(WalError::of_write(&self.dir, &self.path(number - 1), source));
        }
        self.synced = self.tail.chain.sequence - 1;
        Ok(())
    }

    fn seal(&self, mut tail: Tail) -> std::io::Result<()> {
        let file = &self.segments[self.segments.len() - 2].file;
        let mut bytes = Vec::new();
        tail.chain.write(&Record::Seal, self.synced, &mut bytes);
        file.write_at(tail.offset, &bytes)?;
        file.set_len(tail.offset + bytes.len() as u64)?;
        file.sync_data()
    }

    pub(super) fn begin_sync(&self) -> Option<SyncTicket<D::File>> {
        let through = self.tail.chain.sequence - 1;
        let (file, cuts) = (&self.active().file, self.cuts);
        let is_needed = through > self.synced || cuts > self.cuts_synced;
        is_needed.then(|| SyncTicket { file: file.clone(), through, cuts })
    }

    pub(super) fn end_sync(
        &mut self,
        ticket: &SyncTicket<D::File>,
        outcome: std::io::Result<()>,
    ) -> Result<(), WalError> {
        self.check_writable()?;
        match outcome {
            Ok(()) => {
                self.synced = self.synced.max(ticket.through);
                self.cuts_synced = self.cuts_synced.max(ticket.cuts);
                Ok(())
            }
            Err(source) => {
                self.broken = Some(format!("bringing it to the disk failed ({source})"));
                Err(WalError::io("sync", &self.path(self.active().number), source))
            }
        }
    }

    pub(super) fn sync_now(&mut self) -> Result<(), WalError> {
        self.check_writable()?;
        let Some(ticket) = self.begin_sync() else { return Ok(()) };
        let outcome = ticket.run();
        self.end_sync(&ticket, outcome)
    }

    /// Removes segments before `number`, oldest first, so that those left have no gap.
    pub(super) fn remove_before(&mut self, number: u64) -> Result<(), WalError> {
        let mut removed = false;
        while self.segments.len() > 1 && self.segments[0].number < number {
            let path = self.path(self.segments[0].number);
            self.disk.remove(&path).map_err(|source| WalError::io("remove", &path, source))?;
            self.segments.pop_front();
            removed = true;
        }
        if removed {
            let synced = self.disk.sync_dir(&self.dir);
            synced.map_err(|source| WalError::io("sync", &self.dir, source))?;
        }
        Ok(())
    }

    /// Reads the record at a place.
    pub(super) fn read(&self, place: Place, bytes: &mut Vec<u8>) -> Result<u32, WalError> {
        let at = self.segments.binary_search_by_key(&place.segment, |segment| segment.number);
        let segment = &self.segments[at.expect("entries that are kept have their segments")];
        bytes.resize(place.len as usize, 0);
        let read = segment.file.read_at(u64::from(place.offset), bytes);
        let path = || self.path(place.segment);
        let there = read.map_err(|source| WalError::io("read", &path(), source))?;
        bytes.truncate(there);
        Ok(segment.salt)
    }

    /// The place of a record of `len` bytes in the newest segment.
    pub(super) fn place(&self, offset: u64, len: usize) -> Place {
        let segment = self.active().number;
        Place { segment, offset: offset as u32, len: len as u32 }
    }

    /// Whether all is synced and no record says so yet.
    pub(super) fn has_unmarked(&self) -> bool {
        self.synced == self.tail.chain.sequence - 1 && self.synced > self.marked
    }

    /// Bytes and number of the segments.
    pub(super) fn size(&self) -> (u64, usize) {
        let lens = self.segments.iter().filter_map(|segment| segment.file.bytes_len().ok());
        (lens.sum(), self.segments.len())
    }

    pub(super) fn damaged(&self, number: u64, offset: u64, what: &'static str) -> WalError {
        WalError::Damaged { path: self.path(number), offset, what }
    }
}

/// A segment that has no more than this holds no records worth another segment.
const FIRST_RECORDS_BYTES: u64 = HEADER_BYTES as u64 + 512;
/// What the buffer for writing keeps between writes.
const SCRATCH_BYTES_KEPT: usize = 1024 * 1024;

pub(super) fn write_zeros(file: &impl DiskFile, from: u64, until: u64) -> std::io::Result<()> {
    let mut at = from;
    while at < until {
        let len = (until - at).min(ZEROS.len() as u64);
        file.write_at(at, &ZEROS[..len as usize])?;
        at += len;
    }
    Ok(())
}

/// Removes a file if it is there.
pub(super) fn remove_file(disk: &impl Disk, path: &Path) -> Result<(), WalError> {
    match disk.remove(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(WalError::io("remove", path, error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A salt of its own for each segment, from one random number (splitmix64).
fn salt_of(random: u64, number: u64) -> u32 {
    let mut mixed = random.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed >> 32) as u32
}

/// The entry in a record that was read.
pub(super) fn entry_of(bytes: &[u8], salt: u32, index: u64) -> Option<super::format::Entry> {
    let standing = format::record_at(bytes, 0, salt)?;
    match standing.record {
        Record::Entry { position, payload } if position.index == index => {
            Some(super::Entry { index, id: position.id, payload: payload.into() })
        }
        Record::Base(_)
        | Record::Entry { .. }
        | Record::Vote(_)
        | Record::Committed(_)
        | Record::Truncate(_)
        | Record::Purge(_)
        | Record::Mark
        | Record::Seal => None,
    }
}
