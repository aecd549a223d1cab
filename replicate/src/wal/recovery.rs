//! Opening a log: reading what is there, and deciding what its end means.
//!
//! Records carry how far the log was synced when they were written. So a record that is not
//! right is a torn tail, of which nobody was ever told, exactly if no record that is right
//! says that it was synced; it is cut. Otherwise what was kept is damaged, and the log is
//! refused. One case looks like a torn tail and may be none: damage to what was synced last,
//! with nothing written afterwards. [`super::Wal::mark`] makes that time short.

use std::path::PathBuf;

use super::error::WalError;
use super::files::{self, Files, SegmentFile, Tail};
use super::format::{BadHeader, Chain, Owner};
use super::memory::{Memory, Place};
use super::segment::{Segment, decode_segment};
use super::{Config, Wal};
use crate::disk::{self, Disk, DiskFile};

const LOCK_NAME: &str = "lock";
/// Says that a log was created here, and for people whose it is.
const OWNER_NAME: &str = "owner.txt";

/// What was found when a log was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// It was created just now.
    pub created: bool,
    /// Entries that can be read.
    pub entries: u64,
    /// A crash tore what was being written, and it was cut: nothing acknowledged was there.
    pub torn: Option<Torn>,
    /// A segment whose creation a crash interrupted, and which was removed.
    pub unfinished: Option<PathBuf>,
}

/// A torn tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// In which file.
    pub path: PathBuf,
    /// From which byte on.
    pub offset: u64,
}

/// A segment that was read.
struct Read {
    number: u64,
    first_sequence: u64,
    records: usize,
    end: u64,
    file_bytes: u64,
    chain: Chain,
    synced: u64,
    is_sealed: bool,
    has_leftover: bool,
    unproven: Unproven,
}

/// The end of a segment of which no record says that it was synced. What is read back may be in
/// the kernel's memory only, even after a sync: one that failed may have been forgotten there.
/// So it is written again.
struct Unproven {
    offset: u64,
    bytes: Vec<u8>,
}

struct Opening<D: Disk> {
    files: Files<D>,
    memory: Memory,
    recovered: Recovered,
    was_created: bool,
    newest: Option<Read>,
    /// The seal before the newest segment.
    seal: Option<(D::File, Unproven)>,
}

pub(super) fn open<D: Disk>(
    disk: D,
    dir: PathBuf,
    owner: Owner,
    config: Config,
) -> Result<(Wal<D>, Recovered), WalError> {
    let made = disk.create_dir_all(&dir);
    made.map_err(|source| WalError::io("create", &dir, source))?;
    let lock_path = dir.join(LOCK_NAME);
    let lock = disk.lock(&lock_path).map_err(|source| WalError::io("lock", &lock_path, source))?;
    let Some(lock) = lock else { return Err(WalError::InUse { dir }) };
    let names = disk.list(&dir).map_err(|source| WalError::io("list", &dir, source))?;
    let mut opening = Opening {
        memory: Memory::new(config.recent_bytes),
        files: Files::new(disk, dir, owner, config),
        recovered: Recovered::default(),
        was_created: names.iter().any(|name| name == OWNER_NAME),
        newest: None,
        seal: None,
    };
    opening.read_segments(&names)?;
    opening.finish()?;
    let Opening { files, memory, recovered, .. } = opening;
    Ok((Wal { files, memory, _lock: lock }, recovered))
}

impl<D: Disk> Opening<D> {
    fn read_segments(&mut self, names: &[String]) -> Result<(), WalError> {
        let numbers: Vec<u64> =
            names.iter().filter_map(|name| files::segment_number(name)).collect();
        for pair in numbers.windows(2) {
            if pair[1] != pair[0] + 1 {
                return Err(WalError::Missing { path: self.files.path(pair[0] + 1) });
            }
        }
        for number in &numbers {
            self.read_segment(*number, Some(number) == numbers.last())?;
        }
        Ok(())
    }

    fn read_segment(&mut self, number: u64, is_last: bool) -> Result<(), WalError> {
        let path = self.files.path(number);
        let opened = self.files.disk.open(&path);
        let file = opened.map_err(|source| WalError::io("open", &path, source))?;
        let bytes =
            disk::read_whole(&file).map_err(|source| WalError::io("read", &path, source))?;
        let segment = match decode_segment(&bytes) {
            Ok(segment) => segment,
            Err(BadHeader::Newer { found }) => return Err(WalError::Newer { path, found }),
            Err(BadHeader::Damaged) if is_last && self.may_be_unfinished() => {
                return self.remove_unfinished(path);
            }
            Err(BadHeader::Damaged) => {
                return Err(self.files.damaged(number, 0, "its header is not one of a log"));
            }
        };
        if segment.header.owner != self.files.owner {
            let (found, ours) = (segment.header.owner, self.files.owner.clone());
            return Err(WalError::Foreign { path, found, ours });
        }
        let read = Read::new(number, &segment, &bytes);
        if is_last && self.is_unfinished(&read) {
            return self.remove_unfinished(path);
        }
        self.check_follows(&segment, &read)?;
        self.replay(number, &segment)?;
        let before = self.files.segments.back().map(|before| before.file.clone());
        self.seal = before.zip(self.newest.take().map(|newest| newest.unproven));
        let salt = segment.header.salt;
        self.files.segments.push_back(SegmentFile { number, salt, file });
        self.newest = Some(read);
        Ok(())
    }

    /// Whether the next segment may be one whose creation was interrupted. The one before is
    /// sealed, and the directory told that a log is in it, only after that.
    fn may_be_unfinished(&self) -> bool {
        self.newest.as_ref().map_or(!self.was_created, |newest| !newest.is_sealed)
    }

    fn is_unfinished(&self, read: &Read) -> bool {
        let says_nothing_else = match &self.newest {
            Some(newest) => read.records <= 1 && read.synced < newest.chain.sequence,
            None => read.records == 0,
        };
        self.may_be_unfinished() && says_nothing_else
    }

    fn remove_unfinished(&mut self, path: PathBuf) -> Result<(), WalError> {
        files::remove_file(&self.files.disk, &path)?;
        self.recovered.unfinished = Some(path);
        Ok(())
    }

    fn check_follows(&self, segment: &Segment<'_>, read: &Read) -> Result<(), WalError> {
        let damaged = |what| Err(self.files.damaged(read.number, 0, what));
        if segment.header.number != read.number {
            return damaged("it is another segment under this one's name");
        }
        if segment.records.is_empty() {
            let what = "its first record is not what was written";
            return Err(self.files.damaged(read.number, read.end, what));
        }
        let Some(newest) = &self.newest else { return Ok(()) };
        if !newest.is_sealed {
            return Err(self.files.damaged(newest.number, newest.end, NOT_AS_WRITTEN));
        }
        if read.first_sequence != newest.chain.sequence {
            return damaged("it does not go on where the one before ends");
        }
        Ok(())
    }

    fn replay(&mut self, number: u64, segment: &Segment<'_>) -> Result<(), WalError> {
        for standing in &segment.records {
            let (offset, len) = (standing.offset as u32, (standing.end - standing.offset) as u32);
            let applied =
                self.memory.apply(&standing.record, Place { segment: number, offset, len });
            applied.map_err(|what| self.files.damaged(number, standing.offset as u64, what))?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), WalError> {
        let Some(newest) = self.newest.take() else { return self.create() };
        if newest.synced >= newest.chain.sequence {
            return Err(self.files.damaged(newest.number, newest.end, NOT_AS_WRITTEN));
        }
        if newest.is_sealed {
            return Err(WalError::Missing { path: self.files.path(newest.number + 1) });
        }
        if self.memory.lacks_entries() {
            let oldest = self.files.segments[0].number;
            return Err(WalError::Missing { path: self.files.path(oldest.saturating_sub(1)) });
        }
        self.recovered.entries = self.memory.entries_kept();
        self.settle(&newest)?;
        // A crash may have come between the first segment and this file.
        if !self.was_created { self.write_owner() } else { Ok(()) }
    }

    /// Cuts what is torn and makes sure that what was read is on the disk, not only in the
    /// kernel's memory: from now on it counts as synced.
    fn settle(&mut self, newest: &Read) -> Result<(), WalError> {
        let path = self.files.path(newest.number);
        let file = self.files.segments.back().expect("the newest was read").file.clone();
        let mut filled = newest.file_bytes;
        if newest.has_leftover {
            let cut = file.set_len(newest.end);
            cut.map_err(|source| WalError::io("cut the torn tail of", &path, source))?;
            filled = newest.end;
            self.recovered.torn = Some(Torn { path: path.clone(), offset: newest.end });
        }
        let rewrite = |file: &D::File, unproven: &Unproven| {
            file.write_at(unproven.offset, &unproven.bytes)?;
            file.sync_data()
        };
        let seal_is_proven = newest.synced + 1 >= newest.first_sequence;
        if let Some((file, seal)) = self.seal.take().filter(|_| !seal_is_proven) {
            let sealed = rewrite(&file, &seal);
            sealed.map_err(|source| WalError::io("seal the segment before", &path, source))?;
        }
        let written = rewrite(&file, &newest.unproven);
        written.map_err(|source| WalError::io("sync", &path, source))?;
        let dir = &self.files.dir;
        let synced = self.files.disk.sync_dir(dir);
        synced.map_err(|source| WalError::io("sync", dir, source))?;
        self.files.synced = newest.chain.sequence - 1;
        self.files.tail = Tail { chain: newest.chain, offset: newest.end, filled };
        Ok(())
    }

    fn create(&mut self) -> Result<(), WalError> {
        if self.was_created {
            return Err(WalError::Missing { path: self.files.path(1) });
        }
        let state = self.memory.state;
        self.files.begin_segment(1, 1, &state)?;
        self.files.synced = 1;
        self.recovered.created = true;
        self.write_owner()
    }

    fn write_owner(&self) -> Result<(), WalError> {
        let Files { disk, dir, owner, .. } = &self.files;
        let text = format!("The control log of {owner}. `shardgate` owns these files.\n");
        disk::write_whole(disk, dir, OWNER_NAME, text.as_bytes())
            .map_err(|source| WalError::of_write(dir, &dir.join(OWNER_NAME), source))
    }
}

const NOT_AS_WRITTEN: &str = "what was written and synced there is not what is there now";

impl Read {
    fn new(number: u64, segment: &Segment<'_>, bytes: &[u8]) -> Read {
        let mut unproven = segment.records.iter();
        let unproven = unproven.position(|standing| standing.sequence > segment.synced);
        let unproven = match unproven {
            None => segment.end,
            Some(0) => 0,
            Some(at) => segment.records[at].offset,
        };
        let unproven =
            Unproven { offset: unproven as u64, bytes: bytes[unproven..segment.end].to_vec() };
        let last = segment.records.last();
        let previous = last.map_or(segment.header.checksum, |last| last.checksum);
        let sequence = segment.next_sequence();
        Read {
            number,
            first_sequence: segment.header.first_sequence,
            records: segment.records.len(),
            end: segment.end as u64,
            file_bytes: bytes.len() as u64,
            chain: Chain { salt: segment.header.salt, previous, sequence },
            synced: segment.synced,
            is_sealed: segment.is_sealed(),
            has_leftover: segment.has_leftover,
            unproven,
        }
    }
}
