//! A state as bytes: written in chunks while the state goes on changing, and read back.
//!
//! Layout: the magic, the format's version, then chunks `{length, crc32c, part}`, numbers
//! little-endian, each part a postcard [`Part`]; the last part tells how much there was.
//!
//! Invariants:
//! - What is read back equals what was frozen; indexes are not written but built anew.
//! - A snapshot that is truncated, altered by a single bit, or of a later format is
//!   refused with a sentence, never half taken.
//! - Freezing shares the tasks with the state, which copies one only if it changes.
//!
//! Limits: [`CHUNK_BYTES_MAX`] for one part; a later part never refers to an earlier one's bytes.

use std::hash::Hasher;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;

use super::nodes::Node;
use super::state::State;
use super::tasks::{Ending, Task, TaskNumber};
use super::vshards::{Vshard, Vshards};
use super::workers::Worker;
use crate::identity::{ClusterName, NodeId, Registration, TaskId, VSHARDS};

/// What every snapshot begins with.
pub const SNAPSHOT_MAGIC: [u8; 8] = *b"shardsnp";
/// The format that is written, and the latest that is read.
pub const SNAPSHOT_FORMAT: u32 = 1;
/// Largest chunk that is read, in bytes.
pub const CHUNK_BYTES_MAX: usize = 8 * 1_024 * 1_024;

/// Chunks of tasks are closed when they have about so many bytes.
const CHUNK_BYTES: usize = 256 * 1_024;
const WORKERS_PER_CHUNK: usize = 256;
const NAMES_PER_CHUNK: usize = 4_096;
const HEADER_BYTES: usize = SNAPSHOT_MAGIC.len() + 4;
const CHUNK_HEADER_BYTES: usize = 8;
/// A task's size beside its larger parts, roughly.
const TASK_BYTES: usize = 256;

/// A piece of a state. Append-only, as [`Command`](super::Command) is.
#[derive(Debug, Serialize, Deserialize)]
enum Part {
    Head(Head),
    Nodes(Vec<Node>),
    Removed(Vec<(NodeId, Box<str>)>),
    Vshards(Vec<Vshard>),
    Workers(Vec<Worker>),
    WorkersGone(Vec<(Arc<str>, Registration, u64)>),
    TasksGone(Vec<(TaskId, u64)>),
    Tasks(Vec<Arc<Task>>),
    End(Totals),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Head {
    cluster: ClusterName,
    now_ms: u64,
    applied: u64,
    feature_level: u32,
    vshards_lost_total: u64,
    last_task: TaskNumber,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Totals {
    nodes: u64,
    removed: u64,
    vshards: u64,
    workers: u64,
    workers_gone: u64,
    tasks_gone: u64,
    tasks: u64,
}

/// Why bytes are no snapshot that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSnapshot {
    /// See the text.
    #[error(
        "the snapshot does not begin as one: it is another file, or its start is damaged; {WAY_OUT}"
    )]
    NotASnapshot,
    /// See the text.
    #[error(
        "the snapshot has format {got}, this program reads up to {SNAPSHOT_FORMAT}: run the newer \
         program again, or take the state from a node that runs this one"
    )]
    FormatTooNew {
        /// The format that it says it has.
        got: u32,
    },
    /// See the text.
    #[error("the snapshot ends at byte {at}, in the middle: it was not written whole; {WAY_OUT}")]
    Truncated {
        /// Where it ends.
        at: u64,
    },
    /// See the text.
    #[error(
        "the snapshot's chunk at byte {at} has a wrong checksum or length: the file is damaged; {WAY_OUT}"
    )]
    Damaged {
        /// Where the chunk begins.
        at: u64,
    },
    /// See the text.
    #[error(
        "the snapshot's chunk at byte {at} is whole but can't be what a coordinator wrote: it is \
         from another program; {WAY_OUT}"
    )]
    Inconsistent {
        /// Where the chunk begins.
        at: u64,
    },
}

const WAY_OUT: &str = "set it aside and let the node take the state from the others";

/// A state as it was at one log index, to be written chunk by chunk: the iterator's items
/// are the snapshot's bytes in order.
#[derive(Debug)]
pub struct Frozen {
    applied: u64,
    started: bool,
    /// What is written before the tasks, the next part last.
    before: Vec<Part>,
    tasks: Vec<Arc<Task>>,
    written: usize,
    totals: Option<Totals>,
}

impl State {
    /// The state as it is now, for writing. Cheap: it shares the tasks.
    pub fn freeze(&self) -> Frozen {
        let tasks: Vec<Arc<Task>> = self.tasks.by_number().values().cloned().collect();
        let totals = Totals {
            nodes: self.nodes.by_id.len() as u64,
            removed: self.nodes.removed.len() as u64,
            vshards: self.vshards.table().len() as u64,
            workers: self.workers.len() as u64,
            workers_gone: self.workers.gone.iter().count() as u64,
            tasks_gone: self.tasks.gone.iter().count() as u64,
            tasks: tasks.len() as u64,
        };
        let mut before = self.small_parts();
        before.reverse();
        let applied = self.applied;
        Frozen { applied, started: false, before, tasks, written: 0, totals: Some(totals) }
    }

    /// The whole snapshot as bytes.
    pub fn to_snapshot(&self) -> Vec<u8> {
        self.freeze().flatten().collect()
    }

    /// The state of a snapshot.
    ///
    /// # Errors
    ///
    /// The bytes are not a whole, sound snapshot of a format that this program knows.
    pub fn from_snapshot(bytes: &[u8]) -> Result<State, BadSnapshot> {
        let mut thaw = Thaw::default();
        thaw.handle_bytes(bytes)?;
        thaw.finish()
    }

    /// A hash of everything that is held: replicas that applied the same log have the same.
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::default();
        digest.add(&self.head());
        digest.add(&self.vshards.digest());
        self.nodes.by_id.values().for_each(|node| digest.add(node));
        self.nodes.removed.iter().for_each(|removed| digest.add(&removed));
        self.workers.iter().for_each(|worker| digest.add(&(worker, worker.load)));
        self.workers.gone.iter().for_each(|gone| digest.add(&gone));
        self.tasks.gone.iter().for_each(|gone| digest.add(&gone));
        self.tasks.by_number().values().for_each(|task| digest.add(task));
        digest.hasher.finish()
    }

    fn head(&self) -> Head {
        Head {
            cluster: self.cluster.clone(),
            now_ms: self.now_ms,
            applied: self.applied,
            feature_level: self.feature_level,
            vshards_lost_total: self.vshards.lost_total,
            last_task: self.tasks.last,
        }
    }

    fn small_parts(&self) -> Vec<Part> {
        let mut parts = vec![Part::Head(self.head())];
        parts.push(Part::Nodes(self.nodes.by_id.values().cloned().collect()));
        let removed: Vec<_> =
            self.nodes.removed.iter().map(|(id, name)| (*id, name.clone())).collect();
        parts.extend(removed.chunks(NAMES_PER_CHUNK).map(|some| Part::Removed(some.to_vec())));
        parts.push(Part::Vshards(self.vshards.table().to_vec()));
        let workers: Vec<Worker> = self.workers.iter().cloned().collect();
        parts.extend(workers.chunks(WORKERS_PER_CHUNK).map(|some| Part::Workers(some.to_vec())));
        let gone: Vec<_> = self.workers.gone.iter().map(|(k, v, ms)| (k.clone(), v, ms)).collect();
        parts.extend(gone.chunks(NAMES_PER_CHUNK).map(|some| Part::WorkersGone(some.to_vec())));
        let gone: Vec<_> = self.tasks.gone.iter().map(|(id, (), ms)| (*id, ms)).collect();
        parts.extend(gone.chunks(NAMES_PER_CHUNK).map(|some| Part::TasksGone(some.to_vec())));
        parts
    }
}

/// A hash over records: a checksum of each, and a keyed hash over the checksums.
#[derive(Default)]
pub(super) struct Digest {
    scratch: Vec<u8>,
    hasher: SipHasher13,
}

impl Digest {
    fn add(&mut self, record: &impl Serialize) {
        self.scratch.clear();
        let encoded = encode_into(record, std::mem::take(&mut self.scratch));
        self.hasher.write_u32(crc32c::crc32c(&encoded));
        self.hasher.write_usize(encoded.len());
        self.scratch = encoded;
    }

    /// The hash of one record.
    pub(super) fn of(record: &impl Serialize) -> u64 {
        let mut digest = Digest::default();
        digest.add(record);
        digest.hasher.finish()
    }
}

fn encode_into(record: &impl Serialize, bytes: Vec<u8>) -> Vec<u8> {
    // All that is written has a known length and goes to memory: there is no way to fail.
    postcard::to_extend(record, bytes).expect("records are encodable")
}

impl Frozen {
    /// The log index of the last entry that it holds the effect of.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    fn next_part(&mut self) -> Option<Part> {
        if let Some(part) = self.before.pop() {
            return Some(part);
        }
        let rest = self.tasks.get(self.written..).unwrap_or_default();
        if rest.is_empty() {
            return self.totals.take().map(Part::End);
        }
        let mut bytes = 0;
        let fits = rest.iter().take_while(|task| {
            let room = bytes < CHUNK_BYTES;
            bytes += weight(task);
            room
        });
        let count = fits.count();
        let part = Part::Tasks(rest[..count].to_vec());
        self.written += count;
        Some(part)
    }
}

impl Iterator for Frozen {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        if !self.started {
            self.started = true;
            bytes.extend(SNAPSHOT_MAGIC);
            bytes.extend(SNAPSHOT_FORMAT.to_le_bytes());
        }
        let part = self.next_part()?;
        let start = bytes.len();
        bytes.extend([0; CHUNK_HEADER_BYTES]);
        let mut bytes = encode_into(&part, bytes);
        let (header, encoded) = bytes[start..].split_at_mut(CHUNK_HEADER_BYTES);
        let length = u32::try_from(encoded.len()).expect("chunks are far smaller than 4 GiB");
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..].copy_from_slice(&crc32c::crc32c(encoded).to_le_bytes());
        Some(bytes)
    }
}

fn weight(task: &Task) -> usize {
    let ending = match task.ending.as_deref() {
        Some(Ending::Result(super::Payload::Inline(result))) => result.len(),
        Some(Ending::Result(super::Payload::Blob { .. }) | Ending::Error { .. }) | None => 0,
    };
    let inputs = task.inputs.as_deref().map_or(0, |inputs| {
        let both = inputs.requests.iter().chain(&inputs.responses);
        both.map(|input| input.body.len()).sum::<usize>()
            + inputs.resume.as_deref().map_or(0, <[u8]>::len)
    });
    TASK_BYTES + task.params.len() + ending + inputs
}

/// A snapshot that is being read, in pieces of any size.
#[derive(Debug, Default)]
pub struct Thaw {
    /// Bytes of a chunk that has not come whole.
    pending: Vec<u8>,
    /// Where `pending` begins in the snapshot.
    at: u64,
    begun: bool,
    state: Option<State>,
    table: Vec<Vshard>,
    totals: Totals,
    ended: bool,
}

impl Thaw {
    /// Takes the next bytes.
    ///
    /// # Errors
    ///
    /// They are not part of a sound snapshot; nothing can be made of what follows.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), BadSnapshot> {
        let mut joined = std::mem::take(&mut self.pending);
        let mut rest = bytes;
        if !joined.is_empty() {
            joined.extend_from_slice(bytes);
            rest = &joined;
        }
        if !self.begun {
            let Some((header, after)) = rest.split_at_checked(HEADER_BYTES) else {
                self.pending = rest.to_vec();
                return Ok(());
            };
            check_header(header)?;
            self.begun = true;
            self.at = HEADER_BYTES as u64;
            rest = after;
        }
        while let Some((part, after)) = self.next_part(rest)? {
            let taken = (rest.len() - after.len()) as u64;
            self.take(part).ok_or(BadSnapshot::Inconsistent { at: self.at })?;
            self.at += taken;
            rest = after;
        }
        self.pending = rest.to_vec();
        Ok(())
    }

    /// The state, once all bytes were taken.
    ///
    /// # Errors
    ///
    /// Bytes are missing, or too many.
    pub fn finish(mut self) -> Result<State, BadSnapshot> {
        let end = self.at + self.pending.len() as u64;
        if !self.ended {
            return Err(BadSnapshot::Truncated { at: end });
        }
        let inconsistent = BadSnapshot::Inconsistent { at: self.at };
        let mut state =
            self.state.take().filter(|_| self.pending.is_empty()).ok_or(inconsistent)?;
        let lost_total = state.vshards.lost_total;
        state.vshards = Vshards::of(self.table.into(), lost_total);
        state.count_loads().ok_or(inconsistent)?;
        Ok(state)
    }

    /// The first whole part of some bytes, and what follows it.
    fn next_part<'a>(&self, bytes: &'a [u8]) -> Result<Option<(Part, &'a [u8])>, BadSnapshot> {
        let Some((header, rest)) = bytes.split_first_chunk::<CHUNK_HEADER_BYTES>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, c0, c1, c2, c3] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > CHUNK_BYTES_MAX {
            return Err(BadSnapshot::Damaged { at: self.at });
        }
        let Some((encoded, after)) = rest.split_at_checked(length) else { return Ok(None) };
        if crc32c::crc32c(encoded) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(BadSnapshot::Damaged { at: self.at });
        }
        match postcard::take_from_bytes(encoded) {
            Ok((part, [])) => Ok(Some((part, after))),
            Ok(_) | Err(_) => Err(BadSnapshot::Inconsistent { at: self.at }),
        }
    }

    /// Adds a part to the state. `None`: it does not fit what came before.
    fn take(&mut self, part: Part) -> Option<()> {
        if self.ended {
            return None;
        }
        if let Part::Head(head) = part {
            return self.take_head(head);
        }
        let state = self.state.as_mut()?;
        match part {
            Part::Head(_) => return None,
            Part::Nodes(nodes) => {
                self.totals.nodes += nodes.len() as u64;
                state.nodes.by_id.extend(nodes.into_iter().map(|node| (node.id, node)));
            }
            Part::Removed(removed) => {
                self.totals.removed += removed.len() as u64;
                state.nodes.removed.extend(removed);
            }
            Part::Vshards(records) => self.table.extend(records),
            Part::Workers(workers) => {
                self.totals.workers += workers.len() as u64;
                workers.into_iter().try_for_each(|worker| state.take_worker(worker))?;
            }
            Part::WorkersGone(gone) => {
                self.totals.workers_gone += gone.len() as u64;
                gone.into_iter()
                    .for_each(|(name, what, ms)| state.workers.gone.insert(name, what, ms));
            }
            Part::TasksGone(gone) => {
                self.totals.tasks_gone += gone.len() as u64;
                gone.into_iter().for_each(|(id, ms)| state.tasks.gone.insert(id, (), ms));
            }
            Part::Tasks(tasks) => {
                self.totals.tasks += tasks.len() as u64;
                tasks.into_iter().try_for_each(|task| state.take_task(task))?;
            }
            Part::End(totals) => return self.take_end(&totals),
        }
        Some(())
    }

    fn take_head(&mut self, head: Head) -> Option<()> {
        if self.state.is_some() {
            return None;
        }
        let mut state = State::new(head.cluster);
        state.now_ms = head.now_ms;
        state.applied = head.applied;
        state.feature_level = head.feature_level;
        state.vshards.lost_total = head.vshards_lost_total;
        state.tasks.last = head.last_task;
        self.state = Some(state);
        Some(())
    }

    fn take_end(&mut self, totals: &Totals) -> Option<()> {
        self.totals.vshards = self.table.len() as u64;
        self.ended = true;
        (*totals == self.totals && self.table.len() == usize::from(VSHARDS)).then_some(())
    }
}

impl State {
    fn take_worker(&mut self, worker: Worker) -> Option<()> {
        if self.workers.worker(&worker.name).is_some() {
            return None;
        }
        self.workers.insert(worker);
        Some(())
    }

    fn take_task(&mut self, task: Arc<Task>) -> Option<()> {
        let known = self.tasks.task(task.number).is_some() || self.tasks.with_id(task.id).is_some();
        if known || task.number > self.tasks.last {
            return None;
        }
        let task = Arc::try_unwrap(task).unwrap_or_else(|shared| (*shared).clone());
        self.tasks.insert(task);
        Some(())
    }

    /// Counts what each worker has. `None`: a task is with a worker that is not there.
    fn count_loads(&mut self) -> Option<()> {
        for (name, numbers) in self.tasks.loads.keys() {
            self.workers.worker(name)?;
            let load = u32::try_from(numbers.len()).ok()?;
            self.workers.alter(name, |worker| worker.load = load);
        }
        Some(())
    }
}

fn check_header(header: &[u8]) -> Result<(), BadSnapshot> {
    let Some((magic, format)) = header.split_first_chunk::<8>() else {
        return Err(BadSnapshot::NotASnapshot);
    };
    if *magic != SNAPSHOT_MAGIC {
        return Err(BadSnapshot::NotASnapshot);
    }
    let format = format.try_into().map(u32::from_le_bytes).unwrap_or(0);
    match format {
        SNAPSHOT_FORMAT => Ok(()),
        // No format 0 was ever written: the number itself is damaged.
        0 => Err(BadSnapshot::NotASnapshot),
        got => Err(BadSnapshot::FormatTooNew { got }),
    }
}
