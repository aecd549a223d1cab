//! Payloads that are too large for the log, each in a file named after its SHA-256.
//!
//! Invariants: a blob is there whole or not at all, and what is read has the hash it is asked
//! for by. All blobs together have at most as many bytes as the store was opened with.
//!
//! Limits: [`BLOB_BYTES_MAX`] per blob, [`BLOBS_MAX`] blobs. A store is used by one thread, and
//! by one process: the log's lock sees to that.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::disk::{self, Disk, DiskFile};

/// Largest blob.
pub const BLOB_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most blobs in one store: their names are kept in memory.
pub const BLOBS_MAX: usize = 1_000_000;

const SUFFIX: &str = ".blob";
const UNFINISHED: &str = ".new";

/// A blob's name: the SHA-256 of its bytes. As text 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobHash(pub [u8; 32]);

/// The text is no blob's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a blob's hash is 64 lower-case hexadecimal digits")]
pub struct NotABlobHash;

impl BlobHash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> BlobHash {
        BlobHash(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BlobHash {
    type Err = NotABlobHash;

    fn from_str(text: &str) -> Result<BlobHash, NotABlobHash> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(NotABlobHash);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.chunks(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(BlobHash(hash))
    }
}

fn digit(byte: u8) -> Result<u8, NotABlobHash> {
    match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(NotABlobHash),
    }
}

/// Why a blob can't be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
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
    /// The store may not grow, or the disk is full.
    #[error(
        "a payload of {bytes} bytes has no space in {dir}: {used} of {bytes_max} bytes are used. \
         Payloads go when their tasks do: let tasks live shorter, or allow more bytes"
    )]
    Full {
        /// Where blobs are.
        dir: PathBuf,
        /// How large the payload is.
        bytes: u64,
        /// How much is used.
        used: u64,
        /// How much may be.
        bytes_max: u64,
        /// What the file system said, if it was not the store's own limit.
        #[source]
        source: Option<io::Error>,
    },
    /// There are as many as there may be.
    #[error("{dir} holds {BLOBS_MAX} payloads, and no more are taken: let tasks live shorter")]
    TooMany {
        /// Where blobs are.
        dir: PathBuf,
    },
    /// It is too large.
    #[error("a payload has {bytes} bytes; at most {BLOB_BYTES_MAX} are taken")]
    TooLarge {
        /// How large.
        bytes: usize,
    },
    /// The bytes are others than those that were asked for.
    #[error("the payload {wanted} was asked for, and {found} came")]
    Other {
        /// What was asked for.
        wanted: BlobHash,
        /// What came.
        found: BlobHash,
    },
    /// The file is not what was written.
    #[error(
        "the payload {path} was damaged on this node's disk and is dropped: it is to be fetched \
         from a node that has it"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
}

/// The blobs of a node.
#[derive(Debug)]
pub struct Blobs<D: Disk> {
    disk: D,
    dir: PathBuf,
    bytes_max: u64,
    lens: BTreeMap<BlobHash, u64>,
    used: u64,
}

impl<D: Disk> Blobs<D> {
    /// Opens the store in `dir`, or creates it, and removes what was never finished. It may
    /// hold more than `bytes_max` from before; it takes nothing then.
    ///
    /// # Errors
    ///
    /// The file system refuses.
    pub fn open(disk: D, dir: impl Into<PathBuf>, bytes_max: u64) -> Result<Blobs<D>, BlobError> {
        let dir = dir.into();
        disk.create_dir_all(&dir).map_err(|source| io_error("create", &dir, source))?;
        let names = disk.list(&dir).map_err(|source| io_error("list", &dir, source))?;
        let mut blobs = Blobs { disk, dir, bytes_max, lens: BTreeMap::new(), used: 0 };
        for name in names {
            blobs.take_in(&name)?;
        }
        Ok(blobs)
    }

    fn take_in(&mut self, name: &str) -> Result<(), BlobError> {
        let path = self.dir.join(name);
        if name.ends_with(UNFINISHED) {
            return self.disk.remove(&path).map_err(|source| io_error("remove", &path, source));
        }
        let Some(hash) = name.strip_suffix(SUFFIX).and_then(|text| text.parse().ok()) else {
            return Ok(());
        };
        let len = self.disk.open(&path).and_then(|file| file.bytes_len());
        let len = len.map_err(|source| io_error("read", &path, source))?;
        self.lens.insert(hash, len);
        self.used += len;
        Ok(())
    }

    /// Stores a payload. When this returns it survives a crash.
    ///
    /// # Errors
    ///
    /// There is no space for it, or the file system refuses.
    pub fn put(&mut self, bytes: &[u8]) -> Result<BlobHash, BlobError> {
        let hash = BlobHash::of(bytes);
        self.store(hash, bytes)?;
        Ok(hash)
    }

    /// Stores a payload that was fetched from elsewhere.
    ///
    /// # Errors
    ///
    /// It is another one, or as for [`Blobs::put`].
    pub fn put_fetched(&mut self, wanted: BlobHash, bytes: &[u8]) -> Result<(), BlobError> {
        let found = BlobHash::of(bytes);
        if found != wanted {
            return Err(BlobError::Other { wanted, found });
        }
        self.store(found, bytes)
    }

    fn store(&mut self, hash: BlobHash, bytes: &[u8]) -> Result<(), BlobError> {
        if self.lens.contains_key(&hash) {
            return Ok(());
        }
        if bytes.len() > BLOB_BYTES_MAX {
            return Err(BlobError::TooLarge { bytes: bytes.len() });
        }
        if self.lens.len() >= BLOBS_MAX {
            return Err(BlobError::TooMany { dir: self.dir.clone() });
        }
        let len = bytes.len() as u64;
        if self.used + len > self.bytes_max {
            return Err(self.full(len, None));
        }
        let name = format!("{hash}{SUFFIX}");
        if let Err(error) = disk::write_whole(&self.disk, &self.dir, &name, bytes) {
            // Otherwise it goes when the store is opened next.
            let _ = self.disk.remove(&self.dir.join(format!("{name}{UNFINISHED}")));
            return Err(match disk::is_full(&error) {
                true => self.full(len, Some(error)),
                false => io_error("write", &self.path(hash), error),
            });
        }
        self.lens.insert(hash, len);
        self.used += len;
        Ok(())
    }

    /// The payload with this hash, checked; `None`: it is not here.
    ///
    /// # Errors
    ///
    /// It was damaged, and is not here any more; or the file system refuses.
    pub fn read(&mut self, hash: BlobHash) -> Result<Option<Vec<u8>>, BlobError> {
        if !self.lens.contains_key(&hash) {
            return Ok(None);
        }
        let path = self.path(hash);
        let bytes = self.disk.open(&path).and_then(|file| disk::read_whole(&file));
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(io_error("read", &path, source)),
        };
        if BlobHash::of(&bytes) == hash {
            return Ok(Some(bytes));
        }
        self.remove(hash)?;
        Err(BlobError::Damaged { path })
    }

    /// Removes a payload; whether it was here.
    ///
    /// # Errors
    ///
    /// The file system refuses.
    pub fn remove(&mut self, hash: BlobHash) -> Result<bool, BlobError> {
        let Some(len) = self.lens.get(&hash).copied() else { return Ok(false) };
        let path = self.path(hash);
        match self.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &path, error));
            }
            Ok(()) | Err(_) => {}
        }
        self.lens.remove(&hash);
        self.used -= len;
        Ok(true)
    }

    /// Whether a payload is here, so far as its name says.
    pub fn contains(&self, hash: BlobHash) -> bool {
        self.lens.contains_key(&hash)
    }

    /// All payloads with their lengths, in order of their hashes, to find those nobody needs.
    pub fn iter(&self) -> impl Iterator<Item = (BlobHash, u64)> + '_ {
        self.lens.iter().map(|(hash, len)| (*hash, *len))
    }

    /// Bytes of all payloads together.
    pub fn bytes_used(&self) -> u64 {
        self.used
    }

    fn path(&self, hash: BlobHash) -> PathBuf {
        self.dir.join(format!("{hash}{SUFFIX}"))
    }

    fn full(&self, bytes: u64, source: Option<io::Error>) -> BlobError {
        let (dir, used, bytes_max) = (self.dir.clone(), self.used, self.bytes_max);
        BlobError::Full { dir, bytes, used, bytes_max, source }
    }
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> BlobError {
    BlobError::Io { operation, path: path.to_owned(), source }
}
