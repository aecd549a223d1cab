//! The thread that writes a real node's log.
//!
//! Whoever appends does not wait: entries can be read at once, and a callback says when they are
//! on the disk. The thread takes all that is queued, writes it, syncs once, and calls back
//! for all of it; what comes meanwhile is the next group.
//!
//! Invariants: calls reach the disk, and are answered, in the order they were made; only a
//! purge may overtake appends that wait for space, since it makes some. A full disk is no error
//! to anybody: the calls wait until there is space, and [`Writer::health`] says so. After any
//! other error nothing is written any more, and every call is answered with an error.
//!
//! Limits: what is queued is bounded by those who append, who look at [`Health::Full`] before
//! they take more; a group is bounded by [`GROUP_BYTES_MAX`].

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::error::WalError;
use super::format::{Committed, Entry, LogState, Position, Vote};
use super::memory::Recent;
use super::{ENTRY_BYTES_MAX, Wal};
use crate::disk::{Disk, is_full};

/// Called when what was asked for is on the disk, or can't be brought there. It runs on the
/// writing thread and must not wait for anything.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// A group of calls that is synced together has about this many bytes at most.
pub const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How a [`Writer`] behaves.
pub struct WriterConfig {
    /// How soon a full disk is tried again.
    pub retry: Duration,
    /// After so long without work the log notes that all before is synced.
    pub idle: Duration,
    /// Told how long each sync took, on the writing thread.
    pub on_sync: Box<dyn FnMut(Duration) + Send>,
}

impl Default for WriterConfig {
    fn default() -> WriterConfig {
        WriterConfig {
            retry: Duration::from_millis(200),
            idle: Duration::from_millis(100),
            on_sync: Box::new(|_| ()),
        }
    }
}

/// How the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It is written.
    Well,
    /// It can't be written before there is space. What the error said.
    Full(String),
    /// It takes no more writes. Why.
    Failed(String),
}

/// Writes a log from a thread of its own.
pub struct Writer<D: Disk> {
    jobs: Option<Sender<Job>>,
    shared: Arc<Shared<D>>,
    thread: Option<JoinHandle<()>>,
}

/// Reads entries of a log that a [`Writer`] writes.
pub struct Reader<D: Disk> {
    shared: Arc<Shared<D>>,
}

impl<D: Disk> Clone for Reader<D> {
    fn clone(&self) -> Reader<D> {
        Reader { shared: Arc::clone(&self.shared) }
    }
}

/// Lock order: `front` before `wal`. The thread never holds both, and none during a sync.
struct Shared<D: Disk> {
    front: Mutex<Front>,
    wal: Mutex<Wal<D>>,
}

/// The log as it will be when all that is queued is written.
struct Front {
    state: LogState,
    /// Index of the oldest entry that can be read, if there is any.
    first: u64,
    recent: Recent,
    /// Entries queued and not written. That many of the newest are kept in memory.
    unwritten: usize,
    health: Health,
}

enum Job {
    Append(Vec<Entry>, Done),
    Vote(Vote, Done),
    Committed(Option<Committed>),
    Truncate(Option<Position>, Done),
    Purge(Position, Done),
}

impl<D: Disk> Writer<D> {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system has no more threads.
    pub fn start(mut wal: Wal<D>, config: WriterConfig) -> io::Result<Writer<D>> {
        let state = *wal.state();
        let next = state.last.map_or(0, |last| last.index + 1);
        let front = Front {
            state,
            first: wal.first_index().unwrap_or(next),
            recent: std::mem::replace(&mut wal.memory.recent, Recent::new(0)),
            unwritten: 0,
            health: Health::Well,
        };
        let shared = Arc::new(Shared { front: Mutex::new(front), wal: Mutex::new(wal) });
        let (jobs, received) = mpsc::channel();
        let writing = Writing {
            shared: Arc::clone(&shared),
            received,
            pending: VecDeque::new(),
            waiting: Vec::new(),
            config,
        };
        let builder = std::thread::Builder::new().name("control-log".to_owned());
        let thread = builder.spawn(move || writing.run())?;
        Ok(Writer { jobs: Some(jobs), shared, thread: Some(thread) })
    }

    /// The state with all that is queued.
    pub fn state(&self) -> LogState {
        lock(&self.shared.front).state
    }

    /// How the log is.
    pub fn health(&self) -> Health {
        lock(&self.shared.front).health.clone()
    }

    /// Bytes of all segments on the disk, and how many there are.
    pub fn size(&self) -> (u64, usize) {
        lock(&self.shared.wal).size()
    }

    /// A way to read entries.
    pub fn reader(&self) -> Reader<D> {
        Reader { shared: Arc::clone(&self.shared) }
    }

    /// Appends entries after the last one. When this returns they can be read.
    ///
    /// # Errors
    ///
    /// They do not follow the last one, or are too large. None is taken then, and `done` is not
    /// called.
    pub fn append(&self, entries: Vec<Entry>, done: Done) -> Result<(), WalError> {
        let mut front = lock(&self.shared.front);
        front.check(&entries)?;
        front.append(&entries);
        self.queue(Job::Append(entries, done));
        Ok(())
    }

    /// Saves the vote.
    pub fn save_vote(&self, vote: Vote, done: Done) {
        let mut front = lock(&self.shared.front);
        front.state.vote = Some(vote);
        self.queue(Job::Vote(vote, done));
    }

    /// Saves up to where the log is committed. It is written with what comes next.
    pub fn save_committed(&self, committed: Option<Committed>) {
        let mut front = lock(&self.shared.front);
        front.state.committed = committed;
        self.queue(Job::Committed(committed));
    }

    /// Takes all entries after `last` out of the log.
    pub fn truncate_after(&self, last: Option<Position>, done: Done) {
        let mut front = lock(&self.shared.front);
        front.state.truncate_after(last);
        let index = front.state.last.map(|last| last.index);
        front.recent.truncate_after(index);
        self.queue(Job::Truncate(last, done));
    }

    /// Removes all entries up to `through`.
    pub fn purge(&self, through: Position, done: Done) {
        let mut front = lock(&self.shared.front);
        front.state.purge(through);
        front.recent.purge(through.index);
        front.first = front.first.max(through.index + 1);
        self.queue(Job::Purge(through, done));
    }

    /// Called with `front` locked, so that the thread gets calls in the order readers see.
    fn queue(&self, job: Job) {
        // The thread only ends when this side does, or by a panic, which is answered there.
        if let Some(Err(mpsc::SendError(job))) = self.jobs.as_ref().map(|jobs| jobs.send(job)) {
            job.answer(Err(io::Error::other("the thread that writes the control log is gone")));
        }
    }
}

impl<D: Disk> Drop for Writer<D> {
    /// Waits until all that is queued is written and synced; on a full disk it is refused.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that wrote the control log panicked");
        }
    }
}

impl<D: Disk> Reader<D> {
    /// The state with all that is queued.
    pub fn state(&self) -> LogState {
        lock(&self.shared.front).state
    }

    /// Those entries of `range` that are in the log, without a gap; but at least one, and then
    /// no more than about `bytes_max`.
    ///
    /// # Errors
    ///
    /// An entry can't be read, or is not what was written.
    pub fn entries(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Entry>, WalError> {
        // Held to the end: no purge or truncation can be queued, let alone done, meanwhile.
        let front = lock(&self.shared.front);
        let next = front.state.last.map_or(front.first, |last| last.index + 1);
        let range = range.start.max(front.first)..range.end.min(next);
        let in_memory = front.recent.first().unwrap_or(next).max(range.start);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut room = |entry: &Entry| {
            let fits = bytes == 0 || bytes + entry.payload.len() <= bytes_max;
            bytes += entry.bytes_in_log();
            fits
        };
        let older = range.start..in_memory.min(range.end);
        if !older.is_empty() {
            let wal = lock(&self.shared.wal);
            for index in older {
                let entry = wal.entries(index..index + 1)?;
                if !entry.iter().all(&mut room) {
                    return Ok(entries);
                }
                entries.extend(entry);
            }
        }
        entries.extend(front.recent.entries(range).take_while(|entry| room(entry)).cloned());
        Ok(entries)
    }
}

impl Front {
    fn check(&self, entries: &[Entry]) -> Result<(), WalError> {
        let Some(first) = entries.first() else { return Ok(()) };
        let next = self.state.last.map_or(first.index, |last| last.index + 1);
        for (expected, entry) in (next..).zip(entries) {
            let (found, bytes) = (entry.index, entry.payload.len());
            if found != expected {
                return Err(WalError::Hole { expected, found });
            }
            if bytes > ENTRY_BYTES_MAX {
                return Err(WalError::TooLarge { index: found, bytes });
            }
        }
        Ok(())
    }

    fn append(&mut self, entries: &[Entry]) {
        if let Some(first) = entries.first()
            && self.state.last.is_none_or(|last| last.index < self.first)
        {
            self.first = first.index;
        }
        self.unwritten += entries.len();
        for entry in entries {
            self.state.last = Some(entry.position());
            self.recent.push(entry.clone());
        }
    }
}

impl Job {
    fn answer(self, outcome: io::Result<()>) {
        match self {
            Job::Append(_, done)
            | Job::Vote(_, done)
            | Job::Truncate(_, done)
            | Job::Purge(_, done) => done(outcome),
            Job::Committed(_) => {}
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Job::Append(entries, _) => entries.iter().map(Entry::bytes_in_log).sum(),
            Job::Vote(..) | Job::Committed(_) | Job::Truncate(..) | Job::Purge(..) => 0,
        }
    }
}

/// The thread's side.
struct Writing<D: Disk> {
    shared: Arc<Shared<D>>,
    received: Receiver<Job>,
    pending: VecDeque<Job>,
    /// Those whose calls are written and not synced.
    waiting: Vec<Done>,
    config: WriterConfig,
}

impl<D: Disk> Writing<D> {
    fn run(mut self) {
        while self.receive() {
            if let Err(error) = self.write_group() {
                self.take_error(error);
            }
        }
        // The other side is gone, and what could be written is.
        let mut wal = lock(&self.shared.wal);
        if let Err(error) = wal.mark().and_then(|()| wal.sync()) {
            tracing::debug!(%error, "end of the control log's thread");
        }
    }

    /// Waits for work; whether there is some, or may be later.
    fn receive(&mut self) -> bool {
        let is_full = matches!(lock(&self.shared.front).health, Health::Full(_));
        if is_full || self.pending.is_empty() {
            let wait = if is_full { self.config.retry } else { self.config.idle };
            let first = match self.received.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) if !is_full => {
                    self.rest();
                    self.received.recv().map_err(|_| RecvTimeoutError::Disconnected)
                }
                other => other,
            };
            match first {
                Ok(job) => self.pending.push_back(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.give_up_waiting(),
            }
        }
        self.pending.extend(self.received.try_iter());
        true
    }

    /// Nothing more comes. What waits for space will not be written any more.
    fn give_up_waiting(&mut self) -> bool {
        for job in self.pending.drain(..) {
            job.answer(Err(io::ErrorKind::StorageFull.into()));
        }
        false
    }

    /// Nothing to do for a while.
    fn rest(&mut self) {
        if let Err(error) = lock(&self.shared.wal).mark() {
            tracing::debug!(%error, "note that the control log is synced");
        }
    }

    fn write_group(&mut self) -> Result<(), WalError> {
        let mut bytes = 0;
        let mut written = Ok(());
        while written.is_ok() && bytes < GROUP_BYTES_MAX && !self.pending.is_empty() {
            written = self.write_next(&mut bytes);
        }
        // What was written before an error is synced and answered all the same.
        self.sync()?;
        if written.is_ok() {
            self.note(Health::Well);
        }
        written
    }

    /// Writes the first pending call, with the appends that follow it directly if it is one.
    fn write_next(&mut self, bytes: &mut usize) -> Result<(), WalError> {
        let mut entries = Vec::new();
        let mut appends = 0;
        for job in &self.pending {
            let Job::Append(more, _) = job else { break };
            if *bytes >= GROUP_BYTES_MAX {
                break;
            }
            *bytes += job.bytes();
            entries.extend_from_slice(more);
            appends += 1;
        }
        if appends > 0 {
            lock(&self.shared.wal).append_batch(&entries)?;
            let mut front = lock(&self.shared.front);
            front.unwritten -= entries.len();
            let kept = front.unwritten;
            front.recent.shrink(kept);
        } else if let Some(job) = self.pending.front() {
            self.write(job)?;
        }
        self.written(appends.max(1));
        Ok(())
    }

    fn write(&self, job: &Job) -> Result<(), WalError> {
        let mut wal = lock(&self.shared.wal);
        match job {
            Job::Append(entries, _) => wal.append_batch(entries),
            Job::Vote(vote, _) => wal.save_vote(*vote),
            Job::Committed(committed) => wal.save_committed(*committed),
            Job::Truncate(last, _) => wal.truncate_after(*last),
            Job::Purge(through, _) => wal.purge(*through),
        }
    }

    fn written(&mut self, jobs: usize) {
        for job in self.pending.drain(..jobs) {
            match job {
                Job::Append(_, done)
                | Job::Vote(_, done)
                | Job::Truncate(_, done)
                | Job::Purge(_, done) => self.waiting.push(done),
                Job::Committed(_) => {}
            }
        }
    }

    fn sync(&mut self) -> Result<(), WalError> {
        // What nobody waits for is synced with what comes next.
        if self.waiting.is_empty() {
            return Ok(());
        }
        let ticket = lock(&self.shared.wal).begin_sync();
        if let Some(ticket) = ticket {
            let began = Instant::now();
            let outcome = ticket.run();
            (self.config.on_sync)(began.elapsed());
            lock(&self.shared.wal).end_sync(&ticket, outcome)?;
        }
        self.waiting.drain(..).for_each(|done| done(Ok(())));
        Ok(())
    }

    fn take_error(&mut self, error: WalError) {
        if error.is_full() {
            self.note(Health::Full(error.to_string()));
            self.purge_ahead();
            return;
        }
        let error = io::Error::from(error);
        tracing::error!(%error, "write the control log");
        self.note(Health::Failed(error.to_string()));
        let again = || io::Error::new(error.kind(), error.to_string());
        self.waiting.drain(..).for_each(|done| done(Err(again())));
        loop {
            self.pending.drain(..).for_each(|job| job.answer(Err(again())));
            match self.received.recv() {
                Ok(job) => self.pending.push_back(job),
                Err(mpsc::RecvError) => return,
            }
        }
    }

    /// Does purges that wait behind what has no space, as far as their order does not matter:
    /// up to what is written, with no truncation before them.
    fn purge_ahead(&mut self) {
        let last = lock(&self.shared.wal).state().last;
        let before = self.pending.iter().take_while(|job| !matches!(job, Job::Truncate(..)));
        let is_early = |job: &Job| {
            matches!(job, Job::Purge(through, _)
                if last.is_some_and(|last| last.index >= through.index))
        };
        let Some(at) = before.into_iter().position(is_early) else { return };
        let Some(job) = self.pending.remove(at) else { return };
        let outcome = self.write(&job).map_err(io::Error::from);
        if outcome.as_ref().is_err_and(is_full) {
            self.pending.insert(at, job);
            return;
        }
        job.answer(outcome);
    }

    fn note(&self, health: Health) {
        let mut front = lock(&self.shared.front);
        if front.health == health {
            return;
        }
        if let Health::Full(why) = &health {
            tracing::warn!("{why}");
        } else if matches!(front.health, Health::Full(_)) {
            tracing::info!("the control log is written again");
        }
        front.health = health;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left half done is not written any more: the thread is gone with it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
