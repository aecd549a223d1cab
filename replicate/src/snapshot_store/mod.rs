//! Snapshots of the state machine on a disk.
//!
//! A file has a head, chunks of at most [`CHUNK_BYTES_MAX`], and an end. Every checksum goes
//! over the one before, so a chunk that is changed, missing or in another place is found.
//! Numbers are little-endian:
//!
//! | bytes | |
//! |---|---|
//! | 0..8 | `SHGTSNAP` |
//! | 8..12 | format |
//! | 12..16 | length of the head |
//! | 16..20 | CRC-32C of all before and of the head |
//! | 20.. | the head, in postcard: name of the cluster, index, what the caller adds |
//! | then per chunk | length, CRC-32C that goes on from the one before, bytes |
//! | at the end | zero; CRC-32C that goes on over the length of all chunks together |
//!
//! Invariants: a snapshot is there whole or not at all. The last [`KEPT`] are kept, so that the
//! newest may turn out to be damaged. What is read was checked.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::disk::{self, Disk, DiskFile};

mod file;

pub use file::{SnapshotReader, SnapshotWriter};

/// The format that is written.
pub const FORMAT: u32 = 1;
/// Longest chunk.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Longest addition of the caller's.
pub const META_BYTES_MAX: usize = 64 * 1024;
/// How many snapshots are kept.
pub const KEPT: usize = 2;

const SUFFIX: &str = ".snapshot";
const UNFINISHED: &str = ".new";

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// The last entry of the log that is in it.
    pub index: u64,
    /// What the caller wants to know of it; at most [`META_BYTES_MAX`].
    pub meta: Vec<u8>,
}

/// A snapshot that was read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is of.
    pub info: SnapshotInfo,
    /// The state.
    pub bytes: Vec<u8>,
    /// What is wrong with newer ones, which were passed over.
    pub passed_over: Vec<String>,
}

/// Why a snapshot can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file system refused.
    #[error("{operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is no space.
    #[error(
        "no space is left for a snapshot in {dir}: the one before is kept, and so is the log \
         since then; free some space"
    )]
    Full {
        /// Where snapshots are.
        dir: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// It is not what was written.
    #[error("the snapshot {path} is damaged: {what}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// A later version wrote it.
    #[error(
        "the snapshot {path} was written by a later version of Shardgate, in format {found}; \
         this one knows formats up to {FORMAT}. Start the later version again: what it wrote \
         is untouched"
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// In which format.
        found: u32,
    },
    /// It is another cluster's.
    #[error(
        "the snapshot {path} is of cluster {found:?}, and this node is of {ours:?}: give each \
         node a data directory of its own"
    )]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who is asking.
        ours: String,
    },
    /// The log begins later than any snapshot that can be read.
    #[error(
        "no snapshot in {dir} can be read that reaches entry {purged}, up to which the log was \
         purged{}. Remove this node from the cluster with `shardgate node remove` on another \
         node, move its data directory away, and let it join anew under a new number: it gets \
         its state from the others",
        Reasons(passed_over)
    )]
    None {
        /// Where snapshots are.
        dir: PathBuf,
        /// What a snapshot must reach.
        purged: u64,
        /// What is wrong with those that are there.
        passed_over: Vec<String>,
    },
    /// The caller adds too much.
    #[error("{bytes} bytes were to be added to a snapshot; at most {META_BYTES_MAX} are taken")]
    TooMuchMeta {
        /// How much.
        bytes: usize,
    },
}

struct Reasons<'r>(&'r [String]);

impl std::fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|reason| write!(f, "; {reason}"))
    }
}

/// The snapshots of a node. Clones are the same store.
#[derive(Clone, Debug)]
pub struct SnapshotStore<D: Disk> {
    disk: D,
    dir: PathBuf,
    cluster: String,
    begun: Arc<AtomicU64>,
}

impl<D: Disk> SnapshotStore<D> {
    /// Opens the store in `dir`, or creates it, and removes what was never finished.
    ///
    /// # Errors
    ///
    /// The file system refuses.
    pub fn open(
        disk: D,
        dir: impl Into<PathBuf>,
        cluster: impl Into<String>,
    ) -> Result<SnapshotStore<D>, SnapshotError> {
        let (dir, cluster) = (dir.into(), cluster.into());
        disk.create_dir_all(&dir).map_err(|source| io_error("create", &dir, source))?;
        let store = SnapshotStore { disk, dir, cluster, begun: Arc::default() };
        for name in store.names()? {
            if name.ends_with(UNFINISHED) {
                let path = store.dir.join(name);
                let removed = store.disk.remove(&path);
                removed.map_err(|source| io_error("remove", &path, source))?;
            }
        }
        Ok(store)
    }

    /// Indexes of the snapshots there are, newest first. They were not checked.
    ///
    /// # Errors
    ///
    /// The file system refuses.
    pub fn indexes(&self) -> Result<Vec<u64>, SnapshotError> {
        let names = self.names()?;
        let mut indexes: Vec<u64> = names.iter().filter_map(|name| index_of(name)).collect();
        indexes.sort_unstable_by(|one, other| other.cmp(one));
        Ok(indexes)
    }

    /// Begins to write a snapshot, which counts once it is finished.
    ///
    /// # Errors
    ///
    /// The file system refuses, or the caller adds too much.
    pub fn begin(&self, info: &SnapshotInfo) -> Result<SnapshotWriter<D>, SnapshotError> {
        if info.meta.len() > META_BYTES_MAX {
            return Err(SnapshotError::TooMuchMeta { bytes: info.meta.len() });
        }
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{}-{number}{UNFINISHED}", info.index));
        SnapshotWriter::begin(self.clone(), path, info)
    }

    /// Writes a snapshot whole.
    ///
    /// # Errors
    ///
    /// As for [`SnapshotStore::begin`]; none was added then.
    pub fn save(&self, info: &SnapshotInfo, bytes: &[u8]) -> Result<(), SnapshotError> {
        let mut writer = self.begin(info)?;
        writer.write(bytes)?;
        writer.finish()
    }

    /// Opens a snapshot to be read chunk by chunk.
    ///
    /// # Errors
    ///
    /// Its head is not what was written, of a later version, or another cluster's; or the file
    /// system refuses.
    pub fn read(&self, index: u64) -> Result<SnapshotReader<D>, SnapshotError> {
        SnapshotReader::open(self, self.path(index))
    }

    /// The newest snapshot that can be read, checked to its end. `None`: there is none, and
    /// none is needed, because nothing was purged from the log.
    ///
    /// # Errors
    ///
    /// None can be read that reaches `purged`, up to which the log was purged; or the newest is
    /// of a later version or another cluster's.
    pub fn newest(&self, purged: Option<u64>) -> Result<Option<Found>, SnapshotError> {
        let mut passed_over = Vec::new();
        for index in self.indexes()? {
            if purged.is_some_and(|purged| index < purged) {
                break;
            }
            match self.read(index).and_then(SnapshotReader::read_all) {
                Ok((info, bytes)) => return Ok(Some(Found { info, bytes, passed_over })),
                Err(error @ (SnapshotError::Damaged { .. } | SnapshotError::Io { .. })) => {
                    tracing::warn!(%error, "an older snapshot is tried");
                    passed_over.push(error.to_string());
                }
                Err(
                    error @ (SnapshotError::Newer { .. }
                    | SnapshotError::Foreign { .. }
                    | SnapshotError::Full { .. }
                    | SnapshotError::None { .. }
                    | SnapshotError::TooMuchMeta { .. }),
                ) => return Err(error),
            }
        }
        match purged {
            None => Ok(None),
            Some(purged) => Err(SnapshotError::None { dir: self.dir.clone(), purged, passed_over }),
        }
    }

    /// Gives a finished file its name, and removes those that are too many.
    fn adopt(&self, unfinished: &Path, index: u64) -> Result<(), SnapshotError> {
        let path = self.path(index);
        let renamed = self.disk.rename(unfinished, &path);
        renamed.map_err(|source| io_error("rename a snapshot to", &path, source))?;
        let synced = self.disk.sync_dir(&self.dir);
        synced.map_err(|source| io_error("sync", &self.dir, source))?;
        for old in self.indexes()?.into_iter().skip(KEPT) {
            let path = self.path(old);
            self.disk.remove(&path).map_err(|source| io_error("remove", &path, source))?;
        }
        Ok(())
    }

    fn path(&self, index: u64) -> PathBuf {
        self.dir.join(format!("{index:020}{SUFFIX}"))
    }

    fn names(&self) -> Result<Vec<String>, SnapshotError> {
        self.disk.list(&self.dir).map_err(|source| io_error("list", &self.dir, source))
    }

    fn write_error(&self, path: &Path, source: io::Error) -> SnapshotError {
        if disk::is_full(&source) {
            SnapshotError::Full { dir: self.dir.clone(), source }
        } else {
            io_error("write", path, source)
        }
    }
}

fn index_of(name: &str) -> Option<u64> {
    name.strip_suffix(SUFFIX).filter(|digits| digits.len() == 20)?.parse().ok()
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> SnapshotError {
    SnapshotError::Io { operation, path: path.to_owned(), source }
}
