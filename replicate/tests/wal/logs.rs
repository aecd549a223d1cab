//! What the tests of the log share: a small log, and entries for it.

use std::path::{Path, PathBuf};

use shardgate_replicate::disk::Disk;
use shardgate_replicate::wal::{
    Config, Entry, Opaque, Owner, Position, Recovered, Vote, Wal, WalError,
};

pub(crate) fn owner() -> Owner {
    Owner { cluster: "harbour".to_owned(), node: 3 }
}

/// Small, so that a few entries fill segments, and most are not in memory.
pub(crate) fn config() -> Config {
    Config { segment_bytes: 2_048, fill_bytes: 512, recent_bytes: 600, salt: 0x5A17 }
}

pub(crate) fn dir() -> PathBuf {
    PathBuf::from("/data/control-log")
}

pub(crate) fn open<D: Disk>(disk: &D, dir: &Path) -> Result<(Wal<D>, Recovered), WalError> {
    Wal::open(disk.clone(), dir, owner(), config())
}

pub(crate) fn position(index: u64, term: u64) -> Position {
    Position { index, id: Opaque::new(&term.to_le_bytes()).expect("8 bytes") }
}

pub(crate) fn entry(index: u64, term: u64, len: usize) -> Entry {
    let fill = (index as u8).wrapping_mul(31).wrapping_add(term as u8);
    let Position { index, id } = position(index, term);
    Entry { index, id, payload: vec![fill; len].into() }
}

pub(crate) fn vote(text: &str) -> Vote {
    Opaque::new(text.as_bytes()).expect("a short text")
}

/// The error with all its causes, as it is told to people.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
