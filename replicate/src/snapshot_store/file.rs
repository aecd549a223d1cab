//! One snapshot's file, written and read chunk by chunk.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    CHUNK_BYTES_MAX, Disk, DiskFile, FORMAT, META_BYTES_MAX, SnapshotError, SnapshotInfo,
    SnapshotStore, io_error,
};

const MAGIC: [u8; 8] = *b"SHGTSNAP";
const PREAMBLE_BYTES: usize = 20;
/// The head may hold a little more than what the caller adds.
const HEAD_BYTES_MAX: usize = META_BYTES_MAX + 1_024;

#[derive(Serialize, Deserialize)]
struct Head {
    cluster: String,
    info: SnapshotInfo,
}

/// A snapshot that is being written. If it is dropped before it is finished, nothing is left.
#[derive(Debug)]
pub struct SnapshotWriter<D: Disk> {
    store: SnapshotStore<D>,
    path: PathBuf,
    file: D::File,
    index: u64,
    buffer: Vec<u8>,
    offset: u64,
    checksum: u32,
    total: u64,
    is_finished: bool,
}

impl<D: Disk> SnapshotWriter<D> {
    pub(super) fn begin(
        store: SnapshotStore<D>,
        path: PathBuf,
        info: &SnapshotInfo,
    ) -> Result<SnapshotWriter<D>, SnapshotError> {
        let head = Head { cluster: store.cluster.clone(), info: info.clone() };
        let head = postcard::to_allocvec(&head).expect("a head has nothing that can't be written");
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&(head.len() as u32).to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes), &head);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(&head);
        let file = store.disk.create(&path).map_err(|source| store.write_error(&path, source))?;
        let mut writer = SnapshotWriter {
            index: info.index,
            buffer: Vec::new(),
            offset: 0,
            checksum,
            total: 0,
            is_finished: false,
            store,
            path,
            file,
        };
        writer.put(&bytes)?;
        Ok(writer)
    }

    /// Adds bytes of the state.
    ///
    /// # Errors
    ///
    /// The file system refuses; the snapshot can't be finished then.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), SnapshotError> {
        while !bytes.is_empty() {
            let room = CHUNK_BYTES_MAX - self.buffer.len();
            let (taken, rest) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(taken);
            bytes = rest;
            if self.buffer.len() == CHUNK_BYTES_MAX {
                self.write_chunk()?;
            }
        }
        Ok(())
    }

    /// Brings the snapshot to the disk and gives it its name; older ones go.
    ///
    /// # Errors
    ///
    /// The file system refuses; there is no such snapshot then.
    pub fn finish(mut self) -> Result<(), SnapshotError> {
        if !self.buffer.is_empty() {
            self.write_chunk()?;
        }
        let end = crc32c::crc32c_append(self.checksum, &self.total.to_le_bytes());
        self.put(&0_u32.to_le_bytes())?;
        self.put(&end.to_le_bytes())?;
        let synced = self.file.sync_data();
        synced.map_err(|source| self.store.write_error(&self.path, source))?;
        self.store.adopt(&self.path, self.index)?;
        self.is_finished = true;
        Ok(())
    }

    fn write_chunk(&mut self) -> Result<(), SnapshotError> {
        let chunk = std::mem::take(&mut self.buffer);
        self.checksum = crc32c::crc32c_append(self.checksum, &chunk);
        self.total += chunk.len() as u64;
        self.put(&(chunk.len() as u32).to_le_bytes())?;
        self.put(&self.checksum.to_le_bytes())?;
        self.put(&chunk)?;
        self.buffer = chunk;
        self.buffer.clear();
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        let written = self.file.write_at(self.offset, bytes);
        written.map_err(|source| self.store.write_error(&self.path, source))?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

impl<D: Disk> Drop for SnapshotWriter<D> {
    fn drop(&mut self) {
        if !self.is_finished {
            // Otherwise it goes when the store is opened next.
            let _ = self.store.disk.remove(&self.path);
        }
    }
}

/// A snapshot that is being read.
#[derive(Debug)]
pub struct SnapshotReader<D: Disk> {
    path: PathBuf,
    file: D::File,
    info: SnapshotInfo,
    offset: u64,
    checksum: u32,
    total: u64,
}

impl<D: Disk> SnapshotReader<D> {
    pub(super) fn open(
        store: &SnapshotStore<D>,
        path: PathBuf,
    ) -> Result<SnapshotReader<D>, SnapshotError> {
        let file = store.disk.open(&path).map_err(|source| io_error("open", &path, source))?;
        let (head, checksum, offset) = read_head(&file, &path)?;
        if head.cluster != store.cluster {
            let (found, ours) = (head.cluster, store.cluster.clone());
            return Err(SnapshotError::Foreign { path, found, ours });
        }
        Ok(SnapshotReader { path, file, info: head.info, offset, checksum, total: 0 })
    }

    /// What it is of.
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    /// The next chunk of the state; `None`: that was all, and all of it is as it was written.
    ///
    /// # Errors
    ///
    /// It is not what was written, or the file system refuses.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, SnapshotError> {
        let [len, checksum] = self.read_two()?;
        if len == 0 {
            let end = crc32c::crc32c_append(self.checksum, &self.total.to_le_bytes());
            let bytes_len = self.file.bytes_len();
            let bytes_len = bytes_len.map_err(|source| io_error("read", &self.path, source))?;
            let is_end = checksum == end && self.offset == bytes_len;
            return if is_end { Ok(None) } else { Err(self.damaged("its end is not right")) };
        }
        let len = usize::try_from(len).ok().filter(|len| *len <= CHUNK_BYTES_MAX);
        let Some(len) = len else { return Err(self.damaged("a chunk has no possible length")) };
        let mut chunk = vec![0; len];
        self.read_exactly(&mut chunk)?;
        self.checksum = crc32c::crc32c_append(self.checksum, &chunk);
        if self.checksum != checksum {
            return Err(self.damaged("a chunk is not what was written"));
        }
        self.total += len as u64;
        Ok(Some(chunk))
    }

    /// What it is of, and the state.
    ///
    /// # Errors
    ///
    /// As for [`SnapshotReader::next_chunk`].
    pub fn read_all(mut self) -> Result<(SnapshotInfo, Vec<u8>), SnapshotError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.next_chunk()? {
            bytes.extend_from_slice(&chunk);
        }
        Ok((self.info, bytes))
    }

    fn read_two(&mut self) -> Result<[u32; 2], SnapshotError> {
        let mut bytes = [0; 8];
        self.read_exactly(&mut bytes)?;
        let [a, b, c, d, e, f, g, h] = bytes;
        Ok([u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])])
    }

    fn read_exactly(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        let there = self.file.read_at(self.offset, bytes);
        let there = there.map_err(|source| io_error("read", &self.path, source))?;
        if there < bytes.len() {
            return Err(self.damaged("it ends too soon"));
        }
        self.offset += there as u64;
        Ok(())
    }

    fn damaged(&self, what: &'static str) -> SnapshotError {
        SnapshotError::Damaged { path: self.path.clone(), what }
    }
}

/// The head, its checksum, and where it ends.
fn read_head(file: &impl DiskFile, path: &Path) -> Result<(Head, u32, u64), SnapshotError> {
    let damaged = |what| SnapshotError::Damaged { path: path.to_owned(), what };
    let mut bytes = vec![0; PREAMBLE_BYTES + HEAD_BYTES_MAX];
    let there = file.read_at(0, &mut bytes).map_err(|source| io_error("read", path, source))?;
    bytes.truncate(there);
    let Some((preamble, rest)) = bytes.split_at_checked(PREAMBLE_BYTES) else {
        return Err(damaged("it ends too soon"));
    };
    let number = |at: usize| {
        u32::from_le_bytes([preamble[at], preamble[at + 1], preamble[at + 2], preamble[at + 3]])
    };
    let (format, len, checksum) = (number(8), number(12) as usize, number(16));
    let Some(head) = rest.get(..len).filter(|_| preamble[..8] == MAGIC) else {
        return Err(damaged("its head is not one of a snapshot"));
    };
    if crc32c::crc32c_append(crc32c::crc32c(&preamble[..16]), head) != checksum {
        return Err(damaged("its head is not what was written"));
    }
    // The lines above hold for every format, so that a later one is not called damaged.
    if format > FORMAT {
        return Err(SnapshotError::Newer { path: path.to_owned(), found: format });
    }
    let head = postcard::from_bytes(head).map_err(|_| damaged("its head has no meaning"))?;
    Ok((head, checksum, (PREAMBLE_BYTES + len) as u64))
}
