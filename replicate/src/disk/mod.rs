//! What storage needs of a file system, as a trait with two implementations.
//!
//! [`RealDisk`] is the machine's. [`SimulatedDisk`] lives in memory, is the same for the same
//! seeds, and loses, tears, refuses and damages what a real one may. All calls block.
//!
//! What a caller may rely on, and no more: bytes are on the disk once [`DiskFile::sync_data`]
//! has returned, and names once [`Disk::sync_dir`] of their directory has. Before that any part
//! of what was written may survive a crash, in any order.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::time::Duration;

mod real;
mod simulated;

pub use real::{RealDisk, RealFile, RealLock};
pub use simulated::{Counts, Failing, SimulatedDisk, SimulatedFile, SimulatedLock};

/// A file system.
pub trait Disk: Clone + Debug + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;
    /// Holds a lock until it is dropped.
    type Lock: Debug + Send + 'static;

    /// Makes the directory and those above it, where they are not there yet.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Names of the files in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Opens a file that exists, to read and write.
    fn open(&self, path: &Path) -> io::Result<Self::File>;

    /// Creates a file that does not exist.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Gives a file another name; what had that name before is gone.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Brings the names in a directory to the disk.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Locks a file, which is created if need be, against every other process and caller.
    /// `None`: somebody has it.
    fn lock(&self, path: &Path) -> io::Result<Option<Self::Lock>>;
}

/// An open file. Clones are the same file.
pub trait DiskFile: Clone + Debug + Send + Sync + 'static {
    /// Length in bytes.
    fn bytes_len(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on, up to the end of the file: how much was there.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes`. After an error any part of them may be there.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file, or makes it longer by zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Brings bytes and length to the disk.
    ///
    /// After an error nobody knows what is on the disk, and a second try that succeeds says
    /// nothing about what the first was for: the file must be opened and read again.
    fn sync_data(&self) -> io::Result<()>;

    /// How much virtual time the next [`DiskFile::sync_data`] stands for. Real files take real
    /// time, so it is zero for them.
    fn sync_delay(&self) -> Duration {
        Duration::ZERO
    }
}

/// Whether an error says that the disk, a quota or the process's limit is used up, so that the
/// same call may succeed later.
pub fn is_full(error: &io::Error) -> bool {
    // Another process's limit or the file system's end look the same from here.
    error.kind() == io::ErrorKind::StorageFull
        || error.kind() == io::ErrorKind::QuotaExceeded
        || error.kind() == io::ErrorKind::FileTooLarge
}

/// The whole file.
pub fn read_whole(file: &impl DiskFile) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.bytes_len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    let there = file.read_at(0, &mut bytes)?;
    bytes.truncate(there);
    Ok(bytes)
}

/// Writes a file so that it is there whole or not at all, whatever happens meanwhile.
pub fn write_whole<D: Disk>(disk: &D, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let fresh = dir.join(format!("{name}.new"));
    match disk.remove(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let file = disk.create(&fresh)?;
    // On the disk before it gets its name, and its name on the disk before it counts.
    file.write_at(0, bytes)?;
    file.sync_data()?;
    disk.rename(&fresh, &dir.join(name))?;
    disk.sync_dir(dir)
}
