//! Random operations, faults and crashes, against a model.
//!
//! The model is a list of states: the one that is known to be on the disk, and all that
//! followed it. After a crash the log must be in one of them: everything synced is there,
//! nothing else than what was written is, and what was truncated does not come back.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use shardgate_replicate::disk::{Counts, Failing, SimulatedDisk};
use shardgate_replicate::wal::{Entry, LogState, Opaque, Position, Wal, WalError};

use crate::logs::{dir, entry, open, position, vote};

#[derive(Clone, Debug)]
enum Operation {
    Append {
        count: u64,
        bytes: usize,
    },
    Vote(u8),
    Committed(u8),
    /// Keep this part of the entries, of 8.
    Truncate(u8),
    /// Purge this part of the entries, of 8.
    Purge(u8),
    PurgeBeyond(u8),
    Sync,
    Mark,
    /// The process ends and starts.
    Restart,
    Crash(u64),
    /// After this many changes of the disk, within whatever comes then, power fails or, without
    /// a seed, the process is killed.
    EndWithin {
        changes: u64,
        seed: Option<u64>,
    },
    Fail {
        failing: Failing,
        after: u32,
    },
    Full {
        spare: u64,
    },
    Space,
}

fn operation() -> impl Strategy<Value = Operation> {
    let failing = prop_oneof![Just(Failing::Write), Just(Failing::Sync), Just(Failing::Name)];
    prop_oneof![
        8 => (1..6_u64, 0..400_usize).prop_map(|(count, bytes)| Operation::Append { count, bytes }),
        1 => (1..3_u64, 1_500..5_000_usize)
            .prop_map(|(count, bytes)| Operation::Append { count, bytes }),
        2 => any::<u8>().prop_map(Operation::Vote),
        2 => any::<u8>().prop_map(Operation::Committed),
        2 => (0..8_u8).prop_map(Operation::Truncate),
        2 => (0..9_u8).prop_map(Operation::Purge),
        1 => any::<u8>().prop_map(Operation::PurgeBeyond),
        6 => Just(Operation::Sync),
        1 => Just(Operation::Mark),
        1 => Just(Operation::Restart),
        2 => any::<u64>().prop_map(Operation::Crash),
        3 => (0..12_u64, prop::option::of(any::<u64>()))
            .prop_map(|(changes, seed)| Operation::EndWithin { changes, seed }),
        1 => (failing, 0..4_u32)
            .prop_map(|(failing, after)| Operation::Fail { failing, after }),
        1 => (0..3_000_u64).prop_map(|spare| Operation::Full { spare }),
        2 => Just(Operation::Space),
    ]
}

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    log: LogState,
    entries: BTreeMap<u64, Entry>,
}

impl State {
    fn of(wal: &Wal<SimulatedDisk>) -> State {
        let entries = wal.entries(0..u64::MAX).expect("read all entries");
        let entries = entries.into_iter().map(|entry| (entry.index, entry)).collect();
        State { log: *wal.state(), entries }
    }

    fn truncate(&mut self, last: Option<Position>) {
        let index = last.map(|last| last.index);
        self.entries.retain(|entry, _| Some(*entry) <= index);
        self.log.last = last;
    }

    fn purge(&mut self, through: Position) {
        self.entries.retain(|entry, _| *entry > through.index);
        self.log.purged = Some(through);
        if self.log.last.is_none_or(|last| last.index <= through.index) {
            self.log.last = Some(through);
        }
    }

    /// The position of the entry after which `part` of 8 of the entries have gone by.
    fn at(&self, part: u8) -> Option<Position> {
        let count = self.entries.len() * usize::from(part) / 8;
        let index = count.checked_sub(1)?;
        self.entries.values().nth(index).map(Entry::position)
    }
}

struct Run {
    disk: SimulatedDisk,
    wal: Option<Wal<SimulatedDisk>>,
    /// Oldest first: the synced state, and those after it, of which the last is the present.
    states: Vec<State>,
    /// States that a failed write may have left on the disk.
    strays: Vec<State>,
    term: u64,
    /// How the process is about to end.
    end: Option<Option<u64>>,
}

impl Run {
    fn new() -> Run {
        let disk = SimulatedDisk::new();
        let (wal, _) = open(&disk, &dir()).expect("create a log");
        let states = vec![State::default()];
        Run { disk, wal: Some(wal), states, strays: Vec::new(), term: 1, end: None }
    }

    fn now(&self) -> &State {
        self.states.last().expect("there is always a state")
    }

    fn step(&mut self, operation: &Operation) {
        match operation {
            Operation::Append { count, bytes } => self.append(*count, *bytes),
            Operation::Vote(number) => {
                let vote = vote(&number.to_string());
                self.write(|wal| wal.save_vote(vote), |state| state.log.vote = Some(vote));
            }
            Operation::Committed(number) => {
                let committed = Opaque::new(&[*number]);
                let save = |state: &mut State| state.log.committed = committed;
                self.write(|wal| wal.save_committed(committed), save);
            }
            Operation::Truncate(part) => {
                self.term += 1;
                let last = self.now().at(*part).or(self.now().log.purged);
                self.write(|wal| wal.truncate_after(last), |state| state.truncate(last));
            }
            Operation::Purge(part) => {
                let Some(through) = self.now().at(*part) else { return };
                self.purge(through);
            }
            Operation::PurgeBeyond(ahead) => {
                self.term += 1;
                let last = self.now().log.last.map_or(0, |last| last.index);
                self.purge(position(last + u64::from(*ahead), self.term));
            }
            Operation::Sync => {
                let synced = self.wal().sync();
                self.synced(&synced);
            }
            Operation::Mark => {
                let marked = self.wal().mark();
                self.look_at(&marked);
            }
            Operation::Restart => self.restart(),
            Operation::Crash(seed) => self.crash(*seed),
            Operation::EndWithin { changes, seed } => {
                self.disk.halt_after(*changes);
                self.end = Some(*seed);
            }
            Operation::Fail { failing, after } => self.disk.fail(*failing, *after..after + 1),
            Operation::Full { spare } => {
                self.disk.limit_bytes(Some(self.disk.bytes_used() + spare));
            }
            Operation::Space => self.disk.limit_bytes(None),
        }
    }

    fn wal(&mut self) -> &mut Wal<SimulatedDisk> {
        self.wal.as_mut().expect("the log is open")
    }

    fn append(&mut self, count: u64, bytes: usize) {
        let next = self.now().log.last.map_or(0, |last| last.index + 1);
        let entries: Vec<Entry> =
            (next..next + count).map(|index| entry(index, self.term, bytes)).collect();
        let appended = self.wal().append_batch(&entries);
        let mut state = self.now().clone();
        let after = entries.into_iter().map(|entry| {
            state.log.last = Some(entry.position());
            state.entries.insert(entry.index, entry);
            state.clone()
        });
        let after: Vec<State> = after.collect();
        self.wrote(&appended, after);
    }

    fn write(
        &mut self,
        call: impl FnOnce(&mut Wal<SimulatedDisk>) -> Result<(), WalError>,
        change: impl FnOnce(&mut State),
    ) {
        let written = call(self.wal());
        let mut state = self.now().clone();
        change(&mut state);
        self.wrote(&written, vec![state]);
    }

    fn purge(&mut self, through: Position) {
        if self.now().log.purged.is_some_and(|purged| purged.index >= through.index) {
            return;
        }
        let purged = self.wal().purge(through);
        let mut state = self.now().clone();
        state.purge(through);
        if purged.is_ok() {
            self.states = vec![state];
            self.strays.clear();
            return;
        }
        // It may have failed before the purge was written, or after that.
        let is_purged = State::of(self.wal()) == state;
        if is_purged {
            self.states.push(state)
        } else {
            self.strays.push(state)
        }
        self.look_at(&purged);
    }

    fn wrote(&mut self, outcome: &Result<(), WalError>, after: Vec<State>) {
        match outcome {
            Ok(()) => self.states.extend(after),
            Err(_) => self.strays.extend(after),
        }
        self.look_at(outcome);
    }

    fn synced(&mut self, outcome: &Result<(), WalError>) {
        if outcome.is_ok() {
            self.states = vec![self.now().clone()];
            self.strays.clear();
        }
        self.look_at(outcome);
    }

    /// After every call the log must hold what the model says, whatever came of the call.
    fn look_at(&mut self, outcome: &Result<(), WalError>) {
        if let Err(error) = outcome {
            assert!(
                matches!(
                    error,
                    WalError::Io { .. } | WalError::Full { .. } | WalError::Broken { .. }
                ),
                "{error:?}"
            );
        }
        let is = State::of(self.wal());
        assert_eq!(&is, self.now());
        match (self.end, outcome) {
            (Some(Some(seed)), Err(_)) => self.crash(seed),
            (Some(None), Err(_)) | (None, Err(WalError::Broken { .. })) => self.restart(),
            (Some(_), Ok(())) | (None, Ok(()) | Err(_)) => {}
        }
    }

    fn restart(&mut self) {
        self.end = None;
        self.wal = None;
        self.disk = self.disk.restart();
        self.open();
    }

    fn crash(&mut self, seed: u64) {
        self.wal = None;
        self.end = None;
        self.disk = self.disk.crash(seed);
        // Power may fail again while the log is being opened.
        self.disk.halt_after(seed % 7);
        drop(open(&self.disk, &dir()));
        self.disk = self.disk.crash(seed.rotate_left(9));
        self.open();
    }

    fn open(&mut self) {
        self.disk.limit_bytes(None);
        let (wal, _) = open(&self.disk, &dir()).expect("open the log after a crash");
        let state = State::of(&wal);
        let possible = self.states.iter().chain(&self.strays);
        assert!(
            possible.clone().any(|possible| *possible == state),
            "{state:#?} is none of {:#?}",
            possible.collect::<Vec<_>>()
        );
        // What was read counts as synced: another crash must not lose it.
        self.states = vec![state];
        self.strays.clear();
        self.wal = Some(wal);
    }
}

#[test]
fn a_log_is_after_any_crash_what_it_was_at_the_last_sync_or_later() {
    let met = Cell::new(Counts::default());
    let mut runner = TestRunner::new(ProptestConfig { cases: 3_000, ..ProptestConfig::default() });
    let operations = prop::collection::vec(operation(), 1..60);
    let outcome = runner.run(&operations, |operations| {
        let mut run = Run::new();
        for operation in &operations {
            run.step(operation);
        }
        run.crash(0);
        met.set(met.get() + run.disk.counts());
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    // Each kind of fault was really met, and often.
    let Counts { crashes, lost_writes, torn_writes, lost_names, full, failed, flipped, syncs } =
        met.get();
    let faults = [crashes, lost_writes, torn_writes, lost_names, full, failed, syncs];
    assert!(faults.iter().all(|count| *count > 500), "{:?}", met.get());
    assert_eq!(flipped, 0);
}
