//! What the cluster has agreed on, as seen from outside, and what must hold of it.
//!
//! Checked at every entry that any node applies: all nodes have the same commands at the
//! same place, and their commands come to the same. Checked at every answer that a client
//! gets: it says what the entry it names came to, and it is later in the log than
//! everything that was answered before it was asked (linearizability, with the log's
//! order as the witness: Herlihy and Wing, 1990).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shardgate_replicate_proto::coordinator::{Batch, Outcome, State};
use shardgate_replicate_proto::identity::NodeId;

use crate::world::World;

/// The book of one run.
#[derive(Clone)]
pub struct Ledger {
    world: World,
    book: Arc<Mutex<Book>>,
}

struct Book {
    /// The state as one machine without faults has it.
    reference: State,
    entries: BTreeMap<u64, Entry>,
    /// The latest place that any client was told of.
    told: u64,
    operations: u64,
}

struct Entry {
    batch: Batch,
    outcomes: Vec<Outcome>,
}

impl Ledger {
    /// An empty book.
    pub fn new(world: World, empty: State) -> Ledger {
        let book = Book { reference: empty, entries: BTreeMap::new(), told: 0, operations: 0 };
        Ledger { world, book: Arc::new(Mutex::new(book)) }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node has applied an entry.
    pub fn applied(&self, node: NodeId, index: u64, batch: &Batch, outcomes: &[Outcome]) {
        let mut book = self.book();
        if let Some(entry) = book.entries.get(&index) {
            if entry.batch != *batch {
                self.world.broken(format!(
                    "node {node} has other commands at {index} than a node before it"
                ));
            }
            if entry.outcomes != outcomes {
                self.world.broken(format!("node {node} came to other outcomes at {index}"));
            }
            return;
        }
        if book.entries.last_key_value().is_some_and(|(last, _)| *last > index) {
            self.world.broken(format!(
                "node {node} applied {index}, which nobody had applied when later ones were"
            ));
            return;
        }
        let reference = book.reference.apply(index, batch, &mut Vec::new());
        if reference != outcomes {
            self.world.broken(format!(
                "node {node} came to other outcomes at {index} than a fresh machine"
            ));
        }
        book.entries.insert(index, Entry { batch: batch.clone(), outcomes: outcomes.to_vec() });
    }

    /// A client asks now. What it is told later must be later than the place returned.
    pub fn asked(&self) -> u64 {
        self.book().told
    }

    /// A client was told that its commands came to this, in this entry.
    pub fn written(&self, asked: u64, index: u64, outcomes: &[Outcome]) {
        let mut book = self.book();
        book.operations += 1;
        if index <= asked {
            let sentence = format!("commands asked for after {asked} was told stand at {index}");
            self.world.broken(sentence);
        }
        match book.entries.get(&index) {
            None => self
                .world
                .broken(format!("a client was told of {index}, which no node has applied")),
            Some(entry) => {
                let found =
                    entry.outcomes.windows(outcomes.len().max(1)).any(|part| part == outcomes);
                if !found {
                    self.world.broken(format!(
                        "a client was told outcomes that are not those of {index}"
                    ));
                }
            }
        }
        book.told = book.told.max(index);
    }

    /// A client was shown the state up to this entry.
    pub fn read(&self, asked: u64, index: u64) {
        let mut book = self.book();
        book.operations += 1;
        if index < asked {
            self.world.broken(format!(
                "a read asked for after {asked} was told saw the state of {index}"
            ));
        }
        book.told = book.told.max(index);
    }

    /// How many answers clients got.
    pub fn operations(&self) -> u64 {
        self.book().operations
    }

    /// Compares a node's state with the reference, if both are at the same entry.
    pub fn compare(&self, node: NodeId, state: &State) {
        let book = self.book();
        if *state != book.reference {
            self.world.broken(format!(
                "node {node} has another state than a fresh machine after the same entries"
            ));
        }
    }
}
