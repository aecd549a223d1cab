//! What the control log asks of its storage, and the engine's log kept in it.
//!
//! A [`Journal`] takes writes in order and says when each is safe on disk; what was
//! handed to it can be read at once. The newest entries are also kept here in
//! decoded form, because each of them is read soon: once by the state machine and
//! once for each follower.
//!
//! Limit: [`RECENT_ENTRIES_MAX`] decoded entries and [`RECENT_BYTES_MAX`] of their proposals.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::async_runtime::AsyncRuntime;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::async_runtime::oneshot::OneshotSender;
use openraft::{EntryPayload, OptionalSend, RaftLogReader};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::types::{Entry, LogId, LogTypes, Vote};

/// Decoded entries kept in memory.
pub const RECENT_ENTRIES_MAX: usize = 8_192;

/// Bytes of the proposals among them.
pub const RECENT_BYTES_MAX: usize = 16 << 20;

/// What a write came to, told once it is safe on disk.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// One entry as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// Its place; consecutive.
    pub index: u64,
    /// The term in which it was proposed.
    pub term: u64,
    /// What it says. Only the engine understands it.
    pub payload: Bytes,
}

/// A change of the stored log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Entries at the end.
    Append(Vec<StoredEntry>),
    /// The vote, which must be safe before it counts (Raft paper, figure 2: persistent state).
    Vote(Vec<u8>),
    /// Up to where entries are known to be committed: may be lost in a crash.
    Committed(Vec<u8>),
    /// Entries after this index, of this term, are void; `None`: all are.
    TruncateAfter(Option<(u64, u64)>),
    /// Entries up to this place are in a snapshot.
    Purge {
        /// The last entry that may go.
        index: u64,
        /// Its term.
        term: u64,
    },
}

/// What was found at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Index and term of the last entry that was purged.
    pub purged: Option<(u64, u64)>,
    /// Index and term of the last entry.
    pub last: Option<(u64, u64)>,
    /// The vote.
    pub vote: Option<Vec<u8>>,
    /// Up to where entries are known to be committed.
    pub committed: Option<Vec<u8>>,
}

/// The storage of one node's log.
pub trait Journal: Send + Sync + 'static {
    /// What was found at the start.
    fn found(&self) -> Found;

    /// Takes a change. Changes happen in the order in which they were handed over.
    fn submit(&self, write: Write, done: Done);

    /// The entries of `from..to` that are there, in order.
    ///
    /// # Errors
    /// If they cannot be read or are damaged.
    fn read(&self, from: u64, to: u64) -> io::Result<Vec<StoredEntry>>;
}

/// The engine's log over a journal.
pub(super) struct LogStore<RT: AsyncRuntime, J> {
    journal: Arc<J>,
    shared: Arc<Mutex<Shared<RT>>>,
}

struct Shared<RT: AsyncRuntime> {
    purged: Option<LogId<RT>>,
    last: Option<LogId<RT>>,
    vote: Option<Vote<RT>>,
    committed: Option<LogId<RT>>,
    recent: BTreeMap<u64, Entry<RT>>,
    recent_bytes: usize,
    /// Entries from here on are not yet safe on disk, so they stay in memory.
    flushed: u64,
    /// How often the end was cut off: an append from before says nothing of what came after.
    truncations: u64,
}

impl<RT: AsyncRuntime, J: Journal> LogStore<RT, J> {
    /// The log that the journal holds.
    ///
    /// # Errors
    /// If vote or committed place cannot be decoded: they are of another release.
    pub(super) fn open(journal: Arc<J>) -> io::Result<LogStore<RT, J>> {
        let found = journal.found();
        let place = |(index, term)| new_log_id::<RT>(term, index);
        let last = found.last.or(found.purged).map(place);
        let shared = Shared {
            purged: found.purged.map(place),
            last,
            vote: found.vote.as_deref().map(|bytes| decode("vote", bytes)).transpose()?,
            committed: found
                .committed
                .as_deref()
                .map(|bytes| decode("committed place", bytes))
                .transpose()?,
            recent: BTreeMap::new(),
            recent_bytes: 0,
            flushed: last.map_or(0, |id| id.index + 1),
            truncations: 0,
        };
        Ok(LogStore { journal, shared: Arc::new(Mutex::new(shared)) })
    }

    fn shared(&self) -> MutexGuard<'_, Shared<RT>> {
        lock(&self.shared)
    }

    async fn write(&self, write: Write) -> io::Result<()> {
        let (sender, receiver) = LogTypes::<RT>::oneshot();
        let done: Done = Box::new(move |result| {
            // The engine has shut down if nobody waits any more.
            let _ = sender.send(result);
        });
        self.journal.submit(write, done);
        receiver.await.map_err(|_| io::Error::other("the log's writer has ended"))?
    }
}

/// A mutex whose holder panicked is taken all the same: what it guards is changed in one step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn new_log_id<RT: AsyncRuntime>(term: u64, index: u64) -> LogId<RT> {
    let leader = openraft::vote::leader_id_std::CommittedLeaderId::new(term);
    openraft::LogId { leader_id: leader, index }
}

pub(super) fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    postcard::to_allocvec(value)
        .map_err(|error| io::Error::other(format!("encode for the control log: {error}")))
}

pub(super) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> io::Result<T> {
    postcard::from_bytes(bytes).map_err(|error| {
        let text = format!(
            "decode {what} ({} bytes): {error}; was it written by a newer release? \
             Start that release, or move the node's data away so that it copies its state from the others",
            bytes.len()
        );
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

impl<RT: AsyncRuntime> Shared<RT> {
    fn remember(&mut self, entry: Entry<RT>) {
        self.recent_bytes += proposal_bytes::<RT>(&entry);
        self.last = Some(entry.log_id());
        self.recent.insert(entry.log_id().index, entry);
        while self.recent.len() > RECENT_ENTRIES_MAX || self.recent_bytes > RECENT_BYTES_MAX {
            let oldest = self.recent.first_entry().expect("there is one more than the bound");
            if *oldest.key() >= self.flushed {
                return;
            }
            let gone = oldest.remove();
            self.recent_bytes -= proposal_bytes::<RT>(&gone);
        }
    }

    fn forget(&mut self, indexes: impl RangeBounds<u64>) {
        let gone: Vec<u64> = self.recent.range(indexes).map(|(index, _)| *index).collect();
        for index in gone {
            let entry = self.recent.remove(&index).expect("it was just listed");
            self.recent_bytes -= proposal_bytes::<RT>(&entry);
        }
    }
}

fn proposal_bytes<RT: AsyncRuntime>(entry: &Entry<RT>) -> usize {
    match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

impl<RT: AsyncRuntime, J: Journal> RaftLogReader<LogTypes<RT>> for LogStore<RT, J> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry<RT>>> {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let (cached, cached_from) = {
            let shared = self.shared();
            let end = shared.last.map_or(0, |last| last.index + 1).min(to);
            if from >= end {
                return Ok(Vec::new());
            }
            let cached: Vec<Entry<RT>> =
                shared.recent.range(from..end).map(|(_, entry)| entry.clone()).collect();
            let cached_from = cached.first().map_or(end, |entry| entry.log_id().index);
            (cached, cached_from)
        };
        if cached_from <= from {
            return Ok(cached);
        }
        let stored = self.journal.read(from, cached_from)?;
        let mut entries = stored.iter().map(decode_entry::<RT>).collect::<io::Result<Vec<_>>>()?;
        entries.extend(cached);
        Ok(entries)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote<RT>>> {
        Ok(self.shared().vote)
    }
}

fn decode_entry<RT: AsyncRuntime>(stored: &StoredEntry) -> io::Result<Entry<RT>> {
    let payload = decode("an entry of the control log", &stored.payload)?;
    Ok(Entry::<RT>::new(new_log_id::<RT>(stored.term, stored.index), payload))
}

impl<RT: AsyncRuntime, J: Journal> RaftLogStorage<LogTypes<RT>> for LogStore<RT, J> {
    type LogReader = LogStore<RT, J>;

    async fn get_log_state(&mut self) -> io::Result<LogState<LogTypes<RT>>> {
        let shared = self.shared();
        Ok(LogState { last_purged_log_id: shared.purged, last_log_id: shared.last })
    }

    async fn get_log_reader(&mut self) -> LogStore<RT, J> {
        LogStore { journal: Arc::clone(&self.journal), shared: Arc::clone(&self.shared) }
    }

    async fn save_vote(&mut self, vote: &VoteOf<LogTypes<RT>>) -> io::Result<()> {
        self.write(Write::Vote(encode(vote)?)).await?;
        self.shared().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<LogTypes<RT>>>) -> io::Result<()> {
        // Nobody waits for it: a place that is lost is found anew from the leader.
        if let Some(committed) = committed {
            self.journal.submit(Write::Committed(encode(&committed)?), Box::new(|_| {}));
        }
        self.shared().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogIdOf<LogTypes<RT>>>> {
        Ok(self.shared().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<LogTypes<RT>>) -> io::Result<()>
    where
        I: IntoIterator<Item = EntryOf<LogTypes<RT>>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut stored = Vec::new();
        let truncations = {
            let mut shared = self.shared();
            for entry in entries {
                let log_id = entry.log_id();
                stored.push(StoredEntry {
                    index: log_id.index,
                    term: log_id.leader_id.term,
                    payload: encode(&entry.payload)?.into(),
                });
                shared.remember(entry);
            }
            shared.truncations
        };
        let end = stored.last().map_or(0, |entry| entry.index + 1);
        let shared = Arc::clone(&self.shared);
        let done: Done = Box::new(move |result| {
            let mut shared = lock(&shared);
            if result.is_ok() && shared.truncations == truncations {
                shared.flushed = shared.flushed.max(end);
            }
            drop(shared);
            callback.io_completed(result);
        });
        self.journal.submit(Write::Append(stored), done);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<LogTypes<RT>>>) -> io::Result<()> {
        {
            let mut shared = self.shared();
            shared.last = last.or(shared.purged);
            let from = last.map_or(0, |id| id.index + 1);
            shared.flushed = shared.flushed.min(from);
            shared.truncations += 1;
            shared.forget(from..);
        }
        self.write(Write::TruncateAfter(last.map(|id| (id.index, id.leader_id.term)))).await
    }

    async fn purge(&mut self, upto: LogIdOf<LogTypes<RT>>) -> io::Result<()> {
        {
            let mut shared = self.shared();
            shared.purged = shared.purged.max(Some(upto));
            shared.last = shared.last.max(Some(upto));
            shared.flushed = shared.flushed.max(upto.index + 1);
            shared.forget(..=upto.index);
        }
        self.write(Write::Purge { index: upto.index, term: upto.leader_id.term }).await
    }
}
