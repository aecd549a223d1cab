//! A node's disk: what is written becomes safe after a while, and a crash loses what is not.
//!
//! It outlives the node's lives. A crash keeps a random part of what was on its way, in
//! order, as a disk does.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use shardgate_replicate::control_log::raft::{Done, Found, Journal, Shelf, StoredEntry, Write};

use crate::mutant::Mutant;
use crate::world::{World, sleep, spawn};

/// How fast a healthy disk makes writes safe.
const SYNC_MIN: Duration = Duration::from_micros(100);
const SYNC_MAX: Duration = Duration::from_millis(2);

/// How often a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_millis(50);

/// What is on a disk.
#[derive(Clone, Default)]
struct Contents {
    purged: Option<(u64, u64)>,
    entries: BTreeMap<u64, StoredEntry>,
    vote: Option<Vec<u8>>,
    committed: Option<Vec<u8>>,
    snapshot: Option<(Vec<u8>, Bytes)>,
}

/// Something on its way to a disk.
#[derive(Clone)]
enum Change {
    Log(Write),
    Snapshot(Vec<u8>, Bytes),
}

struct State {
    safe: Contents,
    /// As the node sees it: with what is on its way.
    seen: Contents,
    on_its_way: VecDeque<(Change, Done)>,
    life: u64,
    syncing: bool,
    slowness: u32,
    full: bool,
}

/// A disk. Clones are handles to the same one.
#[derive(Clone)]
pub struct Disk {
    world: World,
    state: Arc<Mutex<State>>,
}

/// What one life of a node sees of its disk.
pub struct Mounted {
    disk: Disk,
    life: u64,
}

impl Disk {
    /// An empty disk.
    pub fn new(world: World) -> Disk {
        let state = State {
            safe: Contents::default(),
            seen: Contents::default(),
            on_its_way: VecDeque::new(),
            life: 0,
            syncing: false,
            slowness: 1,
            full: false,
        };
        Disk { world, state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk for a new life of its node.
    pub fn mount(&self) -> Mounted {
        let mut state = self.state();
        state.life += 1;
        state.seen = state.safe.clone();
        Mounted { disk: self.clone(), life: state.life }
    }

    /// The node dies now. Some of what was on its way arrives, the rest is lost.
    pub fn crash(&self) {
        let mut state = self.state();
        let lost = std::mem::take(&mut state.on_its_way);
        let arrived = self.world.below(lost.len() + 1);
        if arrived < lost.len() {
            self.world.count("unsynced write lost");
        }
        let out_of_order = self.world.has(Mutant::TearOutOfOrder);
        for (at, (change, _)) in lost.into_iter().enumerate() {
            let arrives = if out_of_order { self.world.chance(500_000) } else { at < arrived };
            if arrives {
                state.safe.take(change);
            }
        }
        if self.world.has(Mutant::Amnesia) && self.world.chance(300_000) {
            state.safe = Contents::default();
        }
        state.life += 1;
    }

    /// Makes the disk so many times slower.
    pub fn set_slowness(&self, times: u32) {
        self.state().slowness = times;
    }

    /// A full disk keeps what it has and takes nothing new.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    fn submit(&self, life: u64, mut change: Change, done: Done) {
        if let Change::Log(Write::TruncateAfter(Some((last, _)))) = &mut change
            && self.world.has(Mutant::TruncateTooMuch)
        {
            *last = last.saturating_sub(1);
        }
        let mut state = self.state();
        if state.life != life {
            return;
        }
        state.seen.take(change.clone());
        if self.world.has(Mutant::AckBeforeSync) {
            state.on_its_way.push_back((change, Box::new(|_| ())));
            spawn(async move { done(Ok(())) });
        } else if self.is_dropped(&change) {
            spawn(async move { done(Ok(())) });
            return;
        } else {
            state.on_its_way.push_back((change, done));
        }
        if !state.syncing {
            state.syncing = true;
            spawn(self.clone().sync());
        }
    }

    /// Whether something broken on purpose keeps this from the disk.
    fn is_dropped(&self, change: &Change) -> bool {
        match change {
            Change::Snapshot(..) => self.world.has(Mutant::ForgetSnapshots),
            Change::Log(Write::Vote(_)) => self.world.has(Mutant::LoseVotes),
            Change::Log(Write::Append(_)) => {
                self.world.has(Mutant::LoseAppends) && self.world.chance(20_000)
            }
            Change::Log(Write::TruncateAfter(_) | Write::Committed(_) | Write::Purge { .. }) => {
                false
            }
        }
    }

    /// Makes safe what is on its way, all of it in one go, until nothing is.
    async fn sync(self) {
        loop {
            let (count, slowness, life) = {
                let mut state = self.state();
                if state.on_its_way.is_empty() {
                    state.syncing = false;
                    return;
                }
                (state.on_its_way.len(), state.slowness, state.life)
            };
            // A disk that lies about what is safe shows it the better the longer it takes.
            let slowness =
                if self.world.has(Mutant::AckBeforeSync) { slowness * 50 } else { slowness };
            sleep(self.world.between(SYNC_MIN, SYNC_MAX) * slowness).await;
            if self.state().full {
                self.world.count("write on a full disk");
                sleep(FULL_RETRY).await;
                continue;
            }
            let mut told = Vec::new();
            {
                let mut state = self.state();
                if state.life != life {
                    continue;
                }
                for _ in 0..count {
                    let (change, done) =
                        state.on_its_way.pop_front().expect("only a crash takes them away");
                    state.safe.take(change);
                    told.push(done);
                }
            }
            for done in told {
                done(Ok(()));
            }
        }
    }
}

impl Contents {
    fn take(&mut self, change: Change) {
        match change {
            Change::Snapshot(meta, body) => self.snapshot = Some((meta, body)),
            Change::Log(Write::Append(entries)) => {
                self.entries.extend(entries.into_iter().map(|entry| (entry.index, entry)));
            }
            Change::Log(Write::Vote(vote)) => self.vote = Some(vote),
            Change::Log(Write::Committed(committed)) => self.committed = Some(committed),
            Change::Log(Write::TruncateAfter(last)) => {
                let keep = last.map_or(0, |(index, _)| index + 1);
                self.entries.split_off(&keep);
            }
            Change::Log(Write::Purge { index, term }) => {
                self.purged = self.purged.max(Some((index, term)));
                self.entries = self.entries.split_off(&(index + 1));
            }
        }
    }
}

impl Mounted {
    fn contents<R>(&self, look: impl FnOnce(&Contents) -> R) -> R {
        look(&self.disk.state().seen)
    }
}

impl Journal for Mounted {
    fn found(&self) -> Found {
        self.contents(|contents| Found {
            purged: contents.purged,
            last: contents.entries.last_key_value().map(|(index, entry)| (*index, entry.term)),
            vote: contents.vote.clone(),
            committed: contents.committed.clone(),
        })
    }

    fn submit(&self, write: Write, done: Done) {
        self.disk.submit(self.life, Change::Log(write), done);
    }

    fn read(&self, from: u64, to: u64) -> io::Result<Vec<StoredEntry>> {
        let wrong = self.disk.world.has(Mutant::ReadWrongEntry) && self.disk.world.chance(100_000);
        if wrong && from > 0 {
            let before = self.contents(|contents| contents.entries.get(&(from - 1)).cloned());
            if let Some(entry) = before {
                return Ok(vec![StoredEntry { index: from, ..entry }]);
            }
        }
        Ok(self.contents(|contents| {
            contents.entries.range(from..to).map(|(_, entry)| entry.clone()).collect()
        }))
    }
}

impl Shelf for Mounted {
    fn keep(&self, _: u64, meta: Vec<u8>, body: Bytes, done: Done) {
        self.disk.submit(self.life, Change::Snapshot(meta, body), done);
    }

    fn newest(&self) -> io::Result<Option<(Vec<u8>, Bytes)>> {
        Ok(self.contents(|contents| contents.snapshot.clone()))
    }
}
