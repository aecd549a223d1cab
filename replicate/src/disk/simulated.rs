//! A file system in memory that fails as real ones do, the same way for the same seeds.
//!
//! Invariants: bytes that were synced, in a file whose name was synced, survive every crash.
//! Of everything else a crash keeps a part that its seed chooses. Whoever used the disk
//! before a crash gets errors afterwards, as a process that is gone would.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::{Add, Range};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Disk, DiskFile};

/// What a disk writes whole or not at all: pieces of this size survive a crash one by one.
const SECTOR_BYTES: usize = 512;

/// A disk in memory. Clones are the same disk, as seen by the same process.
#[derive(Clone, Debug)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
    life: u64,
}

/// A file of a [`SimulatedDisk`].
#[derive(Clone, Debug)]
pub struct SimulatedFile {
    disk: SimulatedDisk,
    number: u64,
}

/// A lock on a file of a [`SimulatedDisk`].
#[derive(Debug)]
pub struct SimulatedLock {
    disk: SimulatedDisk,
    path: PathBuf,
}

/// Calls that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failing {
    /// [`DiskFile::read_at`].
    Read,
    /// [`DiskFile::write_at`] and [`DiskFile::set_len`].
    Write,
    /// [`DiskFile::sync_data`] and [`Disk::sync_dir`].
    Sync,
    /// Creating, renaming and removing.
    Name,
}

/// How often which fault was really met, so that a test can see that it tested something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Crashes.
    pub crashes: u64,
    /// Writes that a crash lost altogether.
    pub lost_writes: u64,
    /// Writes of which a crash kept a part.
    pub torn_writes: u64,
    /// Names that a crash brought back or took away.
    pub lost_names: u64,
    /// Writes for which there was no space.
    pub full: u64,
    /// Calls failed by [`SimulatedDisk::fail`].
    pub failed: u64,
    /// Bits flipped.
    pub flipped: u64,
    /// Syncs done.
    pub syncs: u64,
}

impl Add for Counts {
    type Output = Counts;

    fn add(self, other: Counts) -> Counts {
        Counts {
            crashes: self.crashes + other.crashes,
            lost_writes: self.lost_writes + other.lost_writes,
            torn_writes: self.torn_writes + other.torn_writes,
            lost_names: self.lost_names + other.lost_names,
            full: self.full + other.full,
            failed: self.failed + other.failed,
            flipped: self.flipped + other.flipped,
            syncs: self.syncs + other.syncs,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    life: u64,
    dirs: BTreeSet<PathBuf>,
    names: Names,
    names_durable: Names,
    names_pending: Vec<NameChange>,
    files: BTreeMap<u64, Contents>,
    files_made: u64,
    locks: BTreeSet<PathBuf>,
    capacity: Option<u64>,
    sync_delay: Duration,
    failing: BTreeMap<Failing, Range<u32>>,
    /// Changes that may still be made before the machine stands still.
    changes_left: Option<u64>,
    counts: Counts,
}

type Names = BTreeMap<PathBuf, u64>;

#[derive(Clone, Debug)]
enum NameChange {
    Added { path: PathBuf, number: u64 },
    Renamed { from: PathBuf, to: PathBuf },
    Removed { path: PathBuf },
}

#[derive(Debug, Default)]
struct Contents {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Bytes { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Default for SimulatedDisk {
    fn default() -> SimulatedDisk {
        SimulatedDisk::new()
    }
}

impl SimulatedDisk {
    /// An empty disk without limits or faults.
    pub fn new() -> SimulatedDisk {
        SimulatedDisk { state: Arc::default(), life: 0 }
    }

    /// Power fails: everything synced stays, of the rest a part that `seed` chooses. The disk
    /// as the next process sees it; for this one and its files all calls fail from now on.
    #[must_use]
    pub fn crash(&self, seed: u64) -> SimulatedDisk {
        let mut state = self.state();
        let mut dice = Dice(seed);
        state.counts.crashes += 1;
        state.begin_life();
        state.settle_names(&mut dice);
        let State { files, counts, .. } = &mut *state;
        for contents in files.values_mut() {
            contents.settle(&mut dice, counts);
        }
        SimulatedDisk { state: Arc::clone(&self.state), life: state.life }
    }

    /// The process ends and the machine goes on: nothing written is lost, but locks and open
    /// files are. The disk as the next process sees it.
    #[must_use]
    pub fn restart(&self) -> SimulatedDisk {
        let mut state = self.state();
        state.begin_life();
        SimulatedDisk { state: Arc::clone(&self.state), life: state.life }
    }

    /// From now on there is space for this many bytes in all files together; `None`: no limit.
    pub fn limit_bytes(&self, capacity: Option<u64>) {
        self.state().capacity = capacity;
    }

    /// Bytes in all files together.
    pub fn bytes_used(&self) -> u64 {
        self.state().bytes_used()
    }

    /// What [`DiskFile::sync_delay`] says from now on.
    pub fn slow_syncs(&self, delay: Duration) {
        self.state().sync_delay = delay;
    }

    /// Those of the next calls of this kind whose numbers, from 0 on, are in `calls` fail with
    /// an I/O error. Of a write that fails a part is there.
    pub fn fail(&self, failing: Failing, calls: Range<u32>) {
        self.state().failing.insert(failing, calls);
    }

    /// Power is about to fail: after `calls` more calls that change something, none does
    /// anything any more, until [`SimulatedDisk::crash`] says what is left.
    pub fn halt_after(&self, calls: u64) {
        self.state().changes_left = Some(calls);
    }

    /// Flips one bit of a file, on the disk and in what is read: bit `bit % (8 * length)`.
    ///
    /// # Errors
    ///
    /// There is no such file, or it is empty.
    pub fn flip_bit(&self, path: &Path, bit: u64) -> io::Result<()> {
        let mut state = self.state();
        let number = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let State { files, counts, .. } = &mut *state;
        let contents = files.get_mut(&number).ok_or(io::ErrorKind::NotFound)?;
        let bits = contents.now.len() as u64 * 8;
        let bit = bit.checked_rem(bits).ok_or(io::ErrorKind::UnexpectedEof)?;
        let (byte, mask) = ((bit / 8) as usize, 1 << (bit % 8));
        contents.now[byte] ^= mask;
        if let Some(durable) = contents.durable.get_mut(byte) {
            *durable ^= mask;
        }
        counts.flipped += 1;
        Ok(())
    }

    /// Which faults were met so far.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here leaves the state half changed if it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, if this handle's process still lives.
    fn enter(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.life == self.life {
            return Ok(state);
        }
        Err(io::Error::other("this disk's machine crashed: the handle is of before"))
    }

    /// The state, for a call that changes something, if there still is power.
    fn enter_change(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.enter()?;
        if let Some(left) = &mut state.changes_left {
            *left = left.checked_sub(1).ok_or_else(|| io::Error::other("power failed"))?;
        }
        Ok(state)
    }

    /// The state, for a call that changes something and is not to fail.
    fn enter_unless_failing(&self, failing: Failing) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.enter_change()?;
        if state.is_to_fail(failing) {
            return Err(io::Error::other("simulated I/O error"));
        }
        Ok(state)
    }
}

impl Disk for SimulatedDisk {
    type File = SimulatedFile;
    type Lock = SimulatedLock;

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.enter_unless_failing(Failing::Name)?.dirs.insert(dir.to_owned());
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.enter()?;
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        let names = inside.filter_map(|path| path.file_name());
        Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    fn open(&self, path: &Path) -> io::Result<SimulatedFile> {
        let state = self.enter()?;
        let number = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(SimulatedFile { disk: self.clone(), number })
    }

    fn create(&self, path: &Path) -> io::Result<SimulatedFile> {
        let mut state = self.enter_unless_failing(Failing::Name)?;
        if !path.parent().is_some_and(|dir| state.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = state.files_made;
        state.files_made += 1;
        state.files.insert(number, Contents::default());
        state.change_names(NameChange::Added { path: path.to_owned(), number });
        Ok(SimulatedFile { disk: self.clone(), number })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.enter_unless_failing(Failing::Name)?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_names(NameChange::Renamed { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.enter_unless_failing(Failing::Name)?;
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_names(NameChange::Removed { path: path.to_owned() });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.enter_unless_failing(Failing::Sync)?;
        state.sync_names(dir);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<SimulatedLock>> {
        let mut state = self.enter()?;
        let free = state.locks.insert(path.to_owned());
        Ok(free.then(|| SimulatedLock { disk: self.clone(), path: path.to_owned() }))
    }
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.disk.life {
            state.locks.remove(&self.path);
        }
    }
}

impl DiskFile for SimulatedFile {
    fn bytes_len(&self) -> io::Result<u64> {
        let state = self.disk.enter()?;
        Ok(state.contents(self.number)?.now.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.disk.enter()?;
        if state.is_to_fail(Failing::Read) {
            return Err(io::Error::other("simulated I/O error"));
        }
        let bytes = &state.contents(self.number)?.now;
        let offset = position(offset)?;
        let there = bytes.len().saturating_sub(offset).min(buffer.len());
        buffer[..there].copy_from_slice(&bytes[offset.min(bytes.len())..][..there]);
        Ok(there)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // Whether power failed is asked first, whether this call fails only then.
        let mut state = self.disk.enter_change()?;
        let fails = state.is_to_fail(Failing::Write);
        let offset = position(offset)?;
        let room = state.room_at(self.number, offset)?;
        // A full disk takes what it can, as a real one does; a failing one takes a part.
        let fits = if fails { bytes.len() / 2 } else { bytes.len() }.min(room);
        if fits > 0 {
            let change = Change::Bytes { offset, bytes: bytes[..fits].to_vec() };
            state.contents_mut(self.number)?.change(change);
        }
        if fails {
            return Err(io::Error::other("simulated I/O error"));
        }
        if fits < bytes.len() {
            state.counts.full += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.enter_unless_failing(Failing::Write)?;
        let len = position(len)?;
        if state.room_at(self.number, 0)? < len {
            state.counts.full += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.contents_mut(self.number)?.change(Change::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.disk.enter_unless_failing(Failing::Sync) {
            Ok(mut state) => {
                state.counts.syncs += 1;
                state.contents_mut(self.number)?.sync();
                Ok(())
            }
            Err(error) => {
                // What Linux does: pages whose writing failed count as clean afterwards, so a
                // second sync succeeds and they never reach the disk.
                let mut state = self.disk.state();
                if state.life == self.disk.life {
                    state.contents_mut(self.number)?.pending.clear();
                }
                Err(error)
            }
        }
    }

    fn sync_delay(&self) -> Duration {
        self.disk.state().sync_delay
    }
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl State {
    fn begin_life(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.failing.clear();
        self.changes_left = None;
    }

    fn is_to_fail(&mut self, failing: Failing) -> bool {
        let Some(calls) = self.failing.get_mut(&failing) else { return false };
        let fails = calls.contains(&0);
        *calls = calls.start.saturating_sub(1)..calls.end.saturating_sub(1);
        self.counts.failed += u64::from(fails);
        fails
    }

    fn contents(&self, number: u64) -> io::Result<&Contents> {
        self.files.get(&number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn contents_mut(&mut self, number: u64) -> io::Result<&mut Contents> {
        self.files.get_mut(&number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn bytes_used(&self) -> u64 {
        self.names.values().map(|number| self.files[number].now.len() as u64).sum()
    }

    /// How many bytes can be written from `offset` on before the disk is full.
    fn room_at(&self, number: u64, offset: usize) -> io::Result<usize> {
        let len = self.contents(number)?.now.len();
        let Some(capacity) = self.capacity else { return Ok(usize::MAX) };
        let free = capacity.saturating_sub(self.bytes_used());
        Ok((len + position(free)?).saturating_sub(offset))
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.names_pending.push(change);
    }

    fn sync_names(&mut self, dir: &Path) {
        let pending = std::mem::take(&mut self.names_pending);
        for change in pending {
            if change.dir() == Some(dir) {
                change.apply(&mut self.names_durable);
            } else {
                self.names_pending.push(change);
            }
        }
        self.forget_files_without_names();
    }

    /// A file system's journal keeps names in order: a crash keeps the first few changes.
    fn settle_names(&mut self, dice: &mut Dice) {
        let pending = std::mem::take(&mut self.names_pending);
        let kept = dice.below(pending.len() as u64 + 1) as usize;
        self.counts.lost_names += (pending.len() - kept) as u64;
        for change in &pending[..kept] {
            change.apply(&mut self.names_durable);
        }
        self.names = self.names_durable.clone();
        self.forget_files_without_names();
    }

    fn forget_files_without_names(&mut self) {
        // A file that was removed is read on by whoever has it open; it only ends once nobody
        // can find it again, which is told here from both lists of names. An open file without
        // a name then fails with "not found", which nothing here relies on.
        let State { files, names, names_durable, names_pending, .. } = self;
        if !names_pending.is_empty() {
            return;
        }
        let named: BTreeSet<u64> = names.values().chain(names_durable.values()).copied().collect();
        files.retain(|number, _| named.contains(number));
    }
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            NameChange::Added { path, number } => {
                names.insert(path.clone(), *number);
            }
            NameChange::Renamed { from, to } => {
                if let Some(number) = names.remove(from) {
                    names.insert(to.clone(), number);
                }
            }
            NameChange::Removed { path } => {
                names.remove(path);
            }
        }
    }

    fn dir(&self) -> Option<&Path> {
        match self {
            NameChange::Added { path, .. } | NameChange::Removed { path } => path.parent(),
            NameChange::Renamed { to, .. } => to.parent(),
        }
    }
}

impl Contents {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// What a crash leaves: nothing of what was not synced, all of it, its beginning, or any
    /// sectors of it.
    fn settle(&mut self, dice: &mut Dice, counts: &mut Counts) {
        let pending = std::mem::take(&mut self.pending);
        match dice.below(4) {
            0 => counts.lost_writes += pending.len() as u64,
            1 => pending.iter().for_each(|change| change.apply(&mut self.durable)),
            2 => self.settle_beginning(&pending, dice, counts),
            _ => self.settle_sectors(&pending, dice, counts),
        }
        self.now = self.durable.clone();
    }

    fn settle_beginning(&mut self, pending: &[Change], dice: &mut Dice, counts: &mut Counts) {
        let kept = dice.below(pending.len() as u64 + 1) as usize;
        pending[..kept].iter().for_each(|change| change.apply(&mut self.durable));
        counts.lost_writes += (pending.len() - kept) as u64;
        if let Some(Change::Bytes { offset, bytes }) = pending.get(kept) {
            let kept = dice.below(bytes.len() as u64) as usize;
            place(&mut self.durable, *offset, &bytes[..kept]);
            counts.torn_writes += u64::from(kept > 0);
        }
    }

    fn settle_sectors(&mut self, pending: &[Change], dice: &mut Dice, counts: &mut Counts) {
        for change in pending {
            match change {
                Change::Length(_) if dice.below(2) == 0 => {}
                Change::Length(_) => change.apply(&mut self.durable),
                Change::Bytes { offset, bytes } => {
                    counts.torn_writes += 1;
                    let first = (SECTOR_BYTES - offset % SECTOR_BYTES).min(bytes.len());
                    let (head, rest) = bytes.split_at(first);
                    let mut at = *offset;
                    for sector in std::iter::once(head).chain(rest.chunks(SECTOR_BYTES)) {
                        if dice.below(2) == 1 {
                            place(&mut self.durable, at, sector);
                        }
                        at += sector.len();
                    }
                }
            }
        }
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Bytes { offset, bytes: written } => place(bytes, *offset, written),
            Change::Length(len) => bytes.resize(*len, 0),
        }
    }
}

fn place(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(written);
}

/// Numbers that follow from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}
