//! What can be wrong with a log, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::format::{ENTRY_BYTES_MAX, FORMAT, Owner};
use crate::disk;

/// Why a log is refused, or something can't be done with it.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
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
        "the control log in {dir} can't be written: no space is left. Nothing acknowledged is \
         lost and reads go on; writing goes on as soon as there is space"
    )]
    Full {
        /// Where the log is.
        dir: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error(
        "the control log in {dir} is in use by another process: stop that one, or give this \
         node a data directory of its own"
    )]
    InUse {
        /// Where the log is.
        dir: PathBuf,
    },
    /// It is somebody else's.
    #[error(
        "{path} belongs to {found}, and this is {ours}: give each node a data directory of its \
         own, or correct the node's number or the cluster's name in its configuration"
    )]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        found: Owner,
        /// Who is asking.
        ours: Owner,
    },
    /// A later version wrote it.
    #[error(
        "{path} was written by a later version of Shardgate, in format {found}; this one knows \
         formats up to {FORMAT}. Start the later version again: what it wrote is untouched"
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// In which format.
        found: u32,
    },
    /// What was kept is not what was written.
    #[error("{path} is damaged at byte {offset}: {what}. {}", WayOut(path.parent()))]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// A file is not there.
    #[error("{path} is missing, a part of the control log. {}", WayOut(path.parent()))]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// What is in the file can't be trusted any more.
    #[error(
        "the control log in {dir} takes no more writes: {why}. Restart the node; it reads \
         again what is really on the disk"
    )]
    Broken {
        /// Where the log is.
        dir: PathBuf,
        /// What happened.
        why: String,
    },
    /// An entry does not follow the last one.
    #[error("entry {found} was appended where entry {expected} belongs")]
    Hole {
        /// What would follow.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// An entry is too large.
    #[error("entry {index} has {bytes} bytes; an entry of the log has at most {ENTRY_BYTES_MAX}")]
    TooLarge {
        /// Which entry.
        index: u64,
        /// How large it is.
        bytes: usize,
    },
}

/// What helps if a node's log is lost. Just emptying the directory would not be safe: a node
/// that forgets whom it voted for and what it acknowledged may not vote as the same node.
struct WayOut<'p>(Option<&'p Path>);

impl fmt::Display for WayOut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = self.0.unwrap_or(Path::new("the directory")).display();
        write!(
            f,
            "Remove this node from the cluster with `shardgate node remove` on another node, \
             move {dir} away, and let it join anew under a new number: it gets its state from \
             the others, and nothing committed is lost while most of them are well"
        )
    }
}

impl WalError {
    pub(super) fn io(operation: &'static str, path: &Path, source: io::Error) -> WalError {
        WalError::Io { operation, path: path.to_owned(), source }
    }

    /// Whether the same call may succeed once there is space.
    pub fn is_full(&self) -> bool {
        matches!(self, WalError::Full { .. })
    }

    pub(super) fn of_write(dir: &Path, path: &Path, source: io::Error) -> WalError {
        if disk::is_full(&source) {
            WalError::Full { dir: dir.to_owned(), source }
        } else {
            WalError::io("write", path, source)
        }
    }
}

impl From<WalError> for io::Error {
    fn from(error: WalError) -> io::Error {
        let kind = match &error {
            WalError::Io { source, .. } | WalError::Full { source, .. } => source.kind(),
            WalError::InUse { .. } => io::ErrorKind::ResourceBusy,
            WalError::Damaged { .. } | WalError::Newer { .. } => io::ErrorKind::InvalidData,
            WalError::Missing { .. } => io::ErrorKind::NotFound,
            WalError::Foreign { .. } | WalError::Hole { .. } | WalError::TooLarge { .. } => {
                io::ErrorKind::InvalidInput
            }
            WalError::Broken { .. } => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
