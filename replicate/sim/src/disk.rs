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
        for (change, _) in lost.into_iter().take(arrived) {
            state.safe.take(change);
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

    fn submit(&self, life: u64, change: Change, done: Done) {
        let mut state = self.state();
        if state.life != life {
            return;
        }
        state.seen.take(change.clone());
        state.on_its_way.push_back((change, done));
        if !state.syncing {
            state.syncing = true;
            spawn(self.clone().sync());
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
