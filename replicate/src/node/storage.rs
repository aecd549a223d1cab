//! The control log's storage on a node: the write-ahead log and the store of snapshots.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::control_log::raft::{Done, Found, Journal, Shelf, StoredEntry, Write};
use crate::disk::RealDisk;
use crate::snapshot_store::{SnapshotError, SnapshotInfo, SnapshotStore};
use crate::wal::{
    Committed, Config, Entry, EntryId, Health, Owner, Position, Reader, Recovered, Vote, Wal,
    WalError, Writer, WriterConfig,
};

/// Bytes of entries that one read of the log brings into memory.
const READ_BYTES_MAX: usize = 8 << 20;

/// The write-ahead log, as the control log uses it.
pub struct FileJournal {
    writer: Writer<RealDisk>,
    reader: Reader<RealDisk>,
}

/// The store of snapshots, as the control log uses it.
pub struct FileShelf {
    store: SnapshotStore<RealDisk>,
    /// Up to where the log was purged at the start: an older snapshot would leave a gap.
    purged: Option<u64>,
}

impl FileJournal {
    /// Opens the log in `dir`, or makes it.
    ///
    /// # Errors
    /// See [`WalError`]: each says what to do.
    pub fn open(
        dir: &Path,
        owner: Owner,
        on_sync: Box<dyn FnMut(std::time::Duration) + Send>,
    ) -> Result<(FileJournal, Recovered), WalError> {
        // What is read soon is kept decoded above.
        let config = Config { recent_bytes: 4 << 20, ..Config::default() };
        let (wal, recovered) = Wal::open(RealDisk, dir, owner, config)?;
        let writer = Writer::start(wal, WriterConfig { on_sync, ..WriterConfig::default() })
            .map_err(|source| WalError::Io {
                operation: "start the thread that writes",
                path: dir.to_owned(),
                source,
            })?;
        let reader = writer.reader();
        Ok((FileJournal { writer, reader }, recovered))
    }

    /// How the log's disk is.
    pub fn health(&self) -> Health {
        self.writer.health()
    }

    /// Bytes of the log's files, and how many there are.
    pub fn size(&self) -> (u64, usize) {
        self.writer.size()
    }

    fn append(&self, entries: Vec<StoredEntry>, done: Done) {
        let entries = entries.into_iter().map(|entry| Entry {
            index: entry.index,
            id: id_of(entry.term),
            payload: Arc::from(&entry.payload[..]),
        });
        // The writer keeps `done` if it takes the entries, and drops it if not.
        let done = Arc::new(Mutex::new(Some(done)));
        let told = Arc::clone(&done);
        let tell = move |result| {
            let done = told.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(done) = done {
                done(result);
            }
        };
        let tell_later = tell.clone();
        if let Err(error) = self.writer.append(entries.collect(), Box::new(tell_later)) {
            tell(Err(io::Error::other(error)));
        }
    }
}

fn id_of(term: u64) -> EntryId {
    EntryId::new(&term.to_le_bytes()).expect("eight bytes fit")
}

fn term_of(id: &EntryId) -> io::Result<u64> {
    let bytes = id.as_bytes().try_into().map_err(|_| {
        let text = "an entry of the control log has an id that is no term; was it written by a \
                    newer release?";
        io::Error::new(io::ErrorKind::InvalidData, text)
    })?;
    Ok(u64::from_le_bytes(bytes))
}

fn place(position: Position) -> Option<(u64, u64)> {
    Some((position.index, term_of(&position.id).ok()?))
}

fn position(index: u64, term: u64) -> Position {
    Position { index, id: id_of(term) }
}

impl Journal for FileJournal {
    fn found(&self) -> Found {
        let state = self.writer.state();
        Found {
            purged: state.purged.and_then(place),
            last: state.last.and_then(place),
            vote: state.vote.map(|vote| vote.as_bytes().to_vec()),
            committed: state.committed.map(|committed| committed.as_bytes().to_vec()),
        }
    }

    fn submit(&self, write: Write, done: Done) {
        match write {
            Write::Append(entries) => self.append(entries, done),
            Write::Vote(vote) => match Vote::new(&vote) {
                Some(vote) => self.writer.save_vote(vote, done),
                None => done(Err(io::Error::other("a vote is longer than the log keeps"))),
            },
            Write::Committed(committed) => {
                self.writer.save_committed(Committed::new(&committed));
                done(Ok(()));
            }
            Write::TruncateAfter(last) => {
                self.writer.truncate_after(last.map(|(index, term)| position(index, term)), done);
            }
            Write::Purge { index, term } => self.writer.purge(position(index, term), done),
        }
    }

    fn read(&self, from: u64, to: u64) -> io::Result<Vec<StoredEntry>> {
        let mut entries: Vec<StoredEntry> = Vec::new();
        let mut next = from;
        while next < to {
            let part = self.reader.entries(next..to, READ_BYTES_MAX).map_err(io::Error::other)?;
            let Some(last) = part.last() else { break };
            next = last.index + 1;
            for entry in part {
                entries.push(StoredEntry {
                    index: entry.index,
                    term: term_of(&entry.id)?,
                    payload: Bytes::from_owner(entry.payload),
                });
            }
        }
        Ok(entries)
    }
}

impl FileShelf {
    /// Opens the store in `dir`, or makes it.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn open(
        dir: &Path,
        cluster: &str,
        journal: &FileJournal,
    ) -> Result<FileShelf, SnapshotError> {
        let purged = journal.found().purged.map(|(index, _)| index);
        Ok(FileShelf { store: SnapshotStore::open(RealDisk, dir, cluster)?, purged })
    }
}

impl Shelf for FileShelf {
    fn keep(&self, index: u64, meta: Vec<u8>, body: Bytes, done: Done) {
        let store = self.store.clone();
        let keep = move || {
            let info = SnapshotInfo { index, meta };
            done(store.save(&info, &body).map_err(io::Error::other));
        };
        // A snapshot is seldom made, and writing it would hold up everything else. If the
        // thread can't be started, `done` is dropped, which tells of a failure as well.
        if let Err(error) = std::thread::Builder::new().name("snapshot".to_owned()).spawn(keep) {
            tracing::error!(%error, "the snapshot of the control log can't be written");
        }
    }

    fn newest(&self) -> io::Result<Option<(Vec<u8>, Bytes)>> {
        let found = self.store.newest(self.purged).map_err(io::Error::other)?;
        Ok(found.map(|found| (found.info.meta, Bytes::from(found.bytes))))
    }
}
