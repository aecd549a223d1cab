//! A state that commands are applied to one by one.

use crate::coordinator::*;
use crate::identity::{Incarnation, NodeId, Registration, TaskId};

/// The time of the first entry.
pub(super) const START_MS: u64 = 1_700_000_000_000;

/// A state, its next log index, and what changed by the last command.
pub(super) struct Log {
    pub(super) state: State,
    pub(super) now_ms: u64,
    pub(super) changes: Vec<Change>,
}

impl Log {
    /// A cluster of so many nodes in as many zones, each in its first life.
    pub(super) fn of_nodes(count: u16) -> Log {
        let state = State::new("lab".parse().unwrap());
        let mut log = Log { state, now_ms: START_MS, changes: Vec::new() };
        for id in 1..=count {
            log.done(register_node(id, 1));
        }
        log
    }

    /// The outcome of a command.
    pub(super) fn apply(&mut self, command: Command) -> Outcome {
        self.changes.clear();
        let batch = Batch { now_ms: self.now_ms, commands: vec![command] };
        let index = self.state.applied() + 1;
        self.state.apply(index, &batch, &mut self.changes).remove(0)
    }

    /// The outcome of a command that must not be refused.
    pub(super) fn done(&mut self, command: Command) -> Outcome {
        let outcome = self.apply(command);
        assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
        outcome
    }

    /// Why a command was refused, which must have changed nothing but the time.
    pub(super) fn refused(&mut self, command: Command) -> Refusal {
        let mut before = self.state.clone();
        let nothing = Batch { now_ms: self.now_ms, commands: Vec::new() };
        before.apply(before.applied() + 1, &nothing, &mut Vec::new());
        let outcome = self.apply(command);
        assert_eq!(self.changes, []);
        assert!(before == self.state, "a refused command changes nothing: {outcome:?}");
        let Outcome::Refused(refusal) = outcome else { panic!("not refused: {outcome:?}") };
        refusal
    }

    pub(super) fn task(&self, id: u128) -> &Task {
        self.state.task(TaskId(id)).unwrap()
    }

    /// Phase, attempt, executor and worker of a task.
    pub(super) fn place(&self, id: u128) -> (Phase, u32, u16, Option<&str>) {
        let task = self.task(id);
        (task.phase, task.attempt, task.executor.0, task.worker.as_deref())
    }
}

pub(super) fn registration_of_node(id: u16, incarnation: u64) -> NodeRegistration {
    NodeRegistration {
        id: NodeId(id),
        name: format!("node-{id}").into(),
        incarnation: Incarnation(incarnation),
        addresses: Addresses {
            peer: format!("127.0.0.1:{}", 7_000 + id).into(),
            client: format!("127.0.0.1:{}", 8_000 + id).into(),
            admin: "".into(),
        },
        zone: format!("zone-{id}").into(),
        region: "here".into(),
        weight: 1,
        feature_level: 1,
    }
}

pub(super) fn register_node(id: u16, incarnation: u64) -> Command {
    Command::RegisterNode(Box::new(registration_of_node(id, incarnation)))
}

pub(super) fn fence(id: u16, incarnation: u64) -> Command {
    Command::FenceNode {
        id: NodeId(id),
        incarnation: Incarnation(incarnation),
        reason: "silent".into(),
    }
}

pub(super) fn registration_of_worker(name: &str, registration: u64) -> WorkerRegistration {
    WorkerRegistration {
        name: name.into(),
        registration: Registration(registration),
        service: "search".into(),
        url: format!("http://127.0.0.1:9000/{name}").into(),
        labels: Labels::default(),
        capacity: 2,
        lease_ms: 10_000,
        via: NodeId(1),
    }
}

pub(super) fn register_worker(name: &str, registration: u64) -> Command {
    Command::RegisterWorker(Box::new(registration_of_worker(name, registration)))
}

pub(super) fn deregister(name: &str, registration: u64, why: Departure) -> Command {
    Command::DeregisterWorker { name: name.into(), registration: Registration(registration), why }
}

/// A task for a worker of the service `search`.
pub(super) fn submission(id: u128) -> TaskSubmission {
    TaskSubmission {
        id: TaskId(id),
        owner: b"alice".as_slice().into(),
        tool: "search__find".into(),
        service: "search".into(),
        params: br#"{"name":"find"}"#.as_slice().into(),
        labels: Labels::default(),
        needs_worker: true,
        idempotent: false,
        ttl_ms: Some(60_000),
        poll_interval_ms: Some(500),
        executor: NodeId(1),
    }
}

pub(super) fn submit(id: u128) -> Command {
    Command::SubmitTask(Box::new(submission(id)))
}

/// A task for a static upstream.
pub(super) fn submit_static(id: u128, idempotent: bool) -> Command {
    let task = TaskSubmission { needs_worker: false, idempotent, ..submission(id) };
    Command::SubmitTask(Box::new(task))
}

pub(super) fn start(id: u128, attempt: u32) -> Command {
    Command::StartTask { id: TaskId(id), attempt }
}

pub(super) fn complete(id: u128, attempt: u32) -> Command {
    let payload = Payload::Inline(br#"{"content":[]}"#.as_slice().into());
    Command::CompleteTask { id: TaskId(id), attempt, payload, failed: false }
}
