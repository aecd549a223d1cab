//! The tasks: calls whose results are kept, and the indexes by which they are found.
//!
//! Invariants:
//! - A task is changed only through [`Tasks::alter`], which keeps every index equal to
//!   what a scan of all tasks would give.
//! - A final status is never left, and an ended task's parameters are gone.
//! - Numbers follow the order of creation, and with it the order of `created_ms`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::{Input, Payload, TaskSubmission};
use super::gone::Gone;
use super::workers::Labels;
use crate::identity::{NodeId, TaskId};

/// A task's place in the order of creation: the millisecond, and a count within it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct TaskNumber(pub(super) u64);

/// Low bits of a number that count within a millisecond.
const COUNT_BITS: u32 = 20;

impl TaskNumber {
    /// No task that was created at `now_ms` or later has a lower number.
    pub(super) fn first_at(now_ms: u64) -> TaskNumber {
        TaskNumber(now_ms.min(super::NOW_MS_MAX) << COUNT_BITS)
    }
}

/// A status as MCP has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TaskStatus {
    /// It waits or runs.
    Working,
    /// It waits for its owner.
    InputRequired,
    /// It has a result.
    Completed,
    /// It has an error, or a result that tells of one.
    Failed,
    /// Nobody wants it any more.
    Cancelled,
}

impl TaskStatus {
    /// Every status.
    pub const ALL: [TaskStatus; 5] = [
        TaskStatus::Working,
        TaskStatus::InputRequired,
        TaskStatus::Completed,
        TaskStatus::Failed,
        TaskStatus::Cancelled,
    ];

    /// As MCP spells it (2025-11-25, `TaskStatus`).
    pub fn as_str(self) -> &'static str {
        match self {
            TaskStatus::Working => "working",
            TaskStatus::InputRequired => "input_required",
            TaskStatus::Completed => "completed",
            TaskStatus::Failed => "failed",
            TaskStatus::Cancelled => "cancelled",
        }
    }

    /// The status that MCP spells so.
    pub fn of(text: &str) -> Option<TaskStatus> {
        TaskStatus::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether it never changes again.
    pub fn is_final(self) -> bool {
        match self {
            TaskStatus::Working | TaskStatus::InputRequired => false,
            TaskStatus::Completed | TaskStatus::Failed | TaskStatus::Cancelled => true,
        }
    }
}

/// How far a task has come: its status, and what is behind `working`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It waits until a worker has room.
    Queued,
    /// Its executor knows of it and has not begun the call.
    Assigned,
    /// The call has begun.
    Running,
    /// The call waits for the owner's answers.
    InputRequired,
    /// It has a result.
    Completed,
    /// It has an error, or a result that tells of one.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl Phase {
    /// The status that clients see.
    pub fn status(self) -> TaskStatus {
        match self {
            Phase::Queued | Phase::Assigned | Phase::Running => TaskStatus::Working,
            Phase::InputRequired => TaskStatus::InputRequired,
            Phase::Completed => TaskStatus::Completed,
            Phase::Failed => TaskStatus::Failed,
            Phase::Cancelled => TaskStatus::Cancelled,
        }
    }

    /// Whether a worker's room is taken up.
    fn takes_room(self) -> bool {
        match self {
            Phase::Assigned | Phase::Running | Phase::InputRequired => true,
            Phase::Queued | Phase::Completed | Phase::Failed | Phase::Cancelled => false,
        }
    }
}

/// What a task ended with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// A result.
    Result(Payload),
    /// A JSON-RPC error.
    Error {
        /// Its code.
        code: i64,
        /// Its message.
        message: Box<str>,
    },
}

/// What passes between a running call and the task's owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// Questions that are open.
    pub requests: Vec<Input>,
    /// Answers to the questions asked last, as far as they came.
    pub responses: Vec<Input>,
    /// If the tool server holds no open call: what any node needs to go on.
    #[serde(with = "serde_bytes")]
    pub resume: Option<Box<[u8]>>,
    /// Keys used so far: a task never asks twice under one key.
    pub keys: BTreeSet<Box<str>>,
}

/// A task as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Its place in the order of creation.
    pub number: TaskNumber,
    /// Whose it is.
    #[serde(with = "owner_bytes")]
    pub owner: Arc<[u8]>,
    /// The tool's name as clients see it.
    pub tool: Arc<str>,
    /// The service that offers it.
    pub service: Arc<str>,
    /// The call's `params` as JSON; empty once the task has ended.
    #[serde(with = "serde_bytes")]
    pub params: Box<[u8]>,
    /// What its worker must be labelled with.
    pub labels: Labels,
    /// Whether its service's calls go to registered workers.
    pub needs_worker: bool,
    /// Whether the call may be made again after a crash.
    pub idempotent: bool,
    /// When it was created, in milliseconds since 1970 (`createdAt`).
    pub created_ms: u64,
    /// When a client could last see a change (`lastUpdatedAt`).
    pub updated_ms: u64,
    /// How long it is kept after its creation (`ttl`); `None`: without end.
    pub ttl_ms: Option<u64>,
    /// How often its owner is advised to ask (`pollInterval`).
    pub poll_interval_ms: Option<u32>,
    /// How far it has come.
    pub phase: Phase,
    /// The node that makes the call.
    pub executor: NodeId,
    /// The worker that has it, or had it at its end.
    pub worker: Option<Arc<str>>,
    /// Counts the times that it was given to an executor, from 1; 0 while it has never been.
    pub attempt: u32,
    /// Counts the times that its call was begun.
    pub starts: u32,
    /// The last report of this attempt.
    pub report: u32,
    /// For people (`statusMessage`).
    pub status_message: Option<Box<str>>,
    /// Questions and answers, once there are any.
    pub inputs: Option<Box<Inputs>>,
    /// What it ended with; a cancelled task has none.
    pub ending: Option<Box<Ending>>,
}

impl Task {
    /// Its status.
    pub fn status(&self) -> TaskStatus {
        self.phase.status()
    }

    /// From when on it may be dropped.
    pub fn expires_ms(&self) -> Option<u64> {
        self.ttl_ms.map(|ttl_ms| self.created_ms.saturating_add(ttl_ms))
    }

    pub(super) fn queue(&self) -> Option<Queue> {
        (self.phase == Phase::Queued)
            .then(|| Queue { service: self.service.clone(), labels: self.labels.clone() })
    }

    fn loaded_worker(&self) -> Option<Arc<str>> {
        self.worker.clone().filter(|_| self.phase.takes_room())
    }
}

mod owner_bytes {
    //! An owner as bytes rather than as a list of numbers.
    use std::sync::Arc;

    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(owner: &Arc<[u8]>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(owner)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Arc<[u8]>, D::Error> {
        serde_bytes::deserialize::<Box<[u8]>, D>(from).map(Arc::from)
    }
}

/// What a queued task waits for: a worker of this service with these labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Queue {
    pub(super) service: Arc<str>,
    pub(super) labels: Labels,
}

/// Numbers of tasks under a key, without empty entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index<K>(BTreeMap<K, BTreeSet<TaskNumber>>);

impl<K> Default for Index<K> {
    fn default() -> Index<K> {
        Index(BTreeMap::new())
    }
}

impl<K: Ord + Clone> Index<K> {
    fn insert(&mut self, key: &K, number: TaskNumber) {
        match self.0.get_mut(key) {
            Some(numbers) => _ = numbers.insert(number),
            None => _ = self.0.insert(key.clone(), BTreeSet::from([number])),
        }
    }

    fn remove(&mut self, key: &K, number: TaskNumber) {
        if let Some(numbers) = self.0.get_mut(key) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.0.remove(key);
            }
        }
    }

    fn change(&mut self, before: Option<&K>, after: Option<&K>, number: TaskNumber) {
        if before == after {
            return;
        }
        if let Some(key) = before {
            self.remove(key, number);
        }
        if let Some(key) = after {
            self.insert(key, number);
        }
    }

    pub(super) fn of<Q>(&self, key: &Q) -> Option<&BTreeSet<TaskNumber>>
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.0.get(key)
    }

    pub(super) fn len_of<Q>(&self, key: &Q) -> usize
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.of(key).map_or(0, BTreeSet::len)
    }

    pub(super) fn keys(&self) -> &BTreeMap<K, BTreeSet<TaskNumber>> {
        &self.0
    }
}

/// All tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tasks {
    by_number: BTreeMap<TaskNumber, Arc<Task>>,
    by_id: BTreeMap<TaskId, TaskNumber>,
    pub(super) by_status: Index<TaskStatus>,
    pub(super) by_owner: Index<Arc<[u8]>>,
    pub(super) by_service: Index<Arc<str>>,
    /// Under the worker that has it or had it at its end.
    pub(super) by_worker: Index<Arc<str>>,
    /// Those that take up a worker's room.
    pub(super) loads: Index<Arc<str>>,
    /// Those that have not ended, under their executor.
    pub(super) by_executor: Index<NodeId>,
    pub(super) queues: Index<Queue>,
    queued: usize,
    expiring: BTreeSet<(u64, TaskNumber)>,
    /// Each tool's name once, with the number of tasks that use it.
    tools: BTreeMap<Arc<str>, usize>,
    pub(super) last: TaskNumber,
    /// Tasks that were dropped soon after their creation, so that a late copy is noticed.
    pub(super) gone: Gone<TaskId, ()>,
}

/// What of a task the indexes depend on, and others too.
struct Keys {
    status: TaskStatus,
    worker: Option<Arc<str>>,
    load: Option<Arc<str>>,
    executor: Option<NodeId>,
    queue: Option<Queue>,
}

impl Keys {
    fn of(task: &Task) -> Keys {
        Keys {
            status: task.status(),
            worker: task.worker.clone(),
            load: task.loaded_worker(),
            executor: Some(task.executor).filter(|_| !task.status().is_final()),
            queue: task.queue(),
        }
    }
}

/// Workers whose load a change of a task touched.
pub(super) struct Touched {
    pub(super) relieved: Option<Arc<str>>,
    pub(super) burdened: Option<Arc<str>>,
}

impl Tasks {
    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    pub(super) fn number(&self, id: TaskId) -> Option<TaskNumber> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn task(&self, number: TaskNumber) -> Option<&Arc<Task>> {
        self.by_number.get(&number)
    }

    pub(super) fn with_id(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.task(self.number(id)?)
    }

    pub(super) fn by_number(&self) -> &BTreeMap<TaskNumber, Arc<Task>> {
        &self.by_number
    }

    /// Tasks whose time to live is over at `now_ms`, the longest overdue first.
    pub(super) fn expired(&self, now_ms: u64) -> impl Iterator<Item = &Arc<Task>> {
        let until = (now_ms.saturating_add(1), TaskNumber::default());
        self.expiring.range(..until).filter_map(|(_, number)| self.task(*number))
    }

    /// A number above all others.
    pub(super) fn next_number(&self, now_ms: u64) -> TaskNumber {
        TaskNumber::first_at(now_ms).max(TaskNumber(self.last.0.saturating_add(1)))
    }

    /// Takes a task in. Its names are shared with the tasks that have the same.
    pub(super) fn insert(&mut self, mut task: Task) -> Touched {
        self.share_names(&mut task);
        let number = task.number;
        *self.tools.entry(task.tool.clone()).or_default() += 1;
        self.by_owner.insert(&task.owner, number);
        self.by_service.insert(&task.service, number);
        self.by_id.insert(task.id, number);
        if let Some(expires_ms) = task.expires_ms() {
            self.expiring.insert((expires_ms, number));
        }
        self.last = self.last.max(number);
        let keys = Keys::of(&task);
        self.index(number, None, Some(&keys));
        let before = self.by_number.insert(number, Arc::new(task));
        assert!(before.is_none(), "a number is given to one task only");
        touched(None, keys.load)
    }

    /// Changes a task, and every index with it.
    pub(super) fn alter(&mut self, number: TaskNumber, change: impl FnOnce(&mut Task)) -> Touched {
        let Some(task) = self.by_number.get_mut(&number) else {
            return Touched { relieved: None, burdened: None };
        };
        let before = Keys::of(task);
        // A snapshot that is being written shares the task; it keeps the task as it was.
        change(Arc::make_mut(task));
        let after = Keys::of(task);
        debug_assert!(!before.status.is_final() || before.status == after.status);
        self.index(number, Some(&before), Some(&after));
        touched(before.load, after.load)
    }

    /// Forgets a task.
    pub(super) fn remove(&mut self, number: TaskNumber) -> Option<(Arc<Task>, Touched)> {
        let task = self.by_number.remove(&number)?;
        let keys = Keys::of(&task);
        self.index(number, Some(&keys), None);
        self.by_id.remove(&task.id);
        self.by_owner.remove(&task.owner, number);
        self.by_service.remove(&task.service, number);
        if let Some(expires_ms) = task.expires_ms() {
            self.expiring.remove(&(expires_ms, number));
        }
        if let Some(users) = self.tools.get_mut(&task.tool) {
            *users -= 1;
            if *users == 0 {
                self.tools.remove(&task.tool);
            }
        }
        Some((task, touched(keys.load, None)))
    }

    fn index(&mut self, number: TaskNumber, before: Option<&Keys>, after: Option<&Keys>) {
        fn part<'a, T>(keys: Option<&'a Keys>, of: fn(&'a Keys) -> Option<&'a T>) -> Option<&'a T> {
            keys.and_then(of)
        }
        let (b, a) = (before, after);
        let status: fn(&Keys) -> Option<&TaskStatus> = |keys| Some(&keys.status);
        self.by_status.change(part(b, status), part(a, status), number);
        let worker: fn(&Keys) -> Option<&Arc<str>> = |keys| keys.worker.as_ref();
        self.by_worker.change(part(b, worker), part(a, worker), number);
        let load: fn(&Keys) -> Option<&Arc<str>> = |keys| keys.load.as_ref();
        self.loads.change(part(b, load), part(a, load), number);
        let executor: fn(&Keys) -> Option<&NodeId> = |keys| keys.executor.as_ref();
        self.by_executor.change(part(b, executor), part(a, executor), number);
        let queue: fn(&Keys) -> Option<&Queue> = |keys| keys.queue.as_ref();
        self.queues.change(part(b, queue), part(a, queue), number);
        self.queued += usize::from(part(a, queue).is_some());
        self.queued -= usize::from(part(b, queue).is_some());
    }

    fn share_names(&self, task: &mut Task) {
        if let Some((tool, _)) = self.tools.get_key_value(&task.tool) {
            task.tool = tool.clone();
        }
        if let Some((owner, _)) = self.by_owner.keys().get_key_value(&task.owner) {
            task.owner = owner.clone();
        }
        if let Some((service, _)) = self.by_service.keys().get_key_value(&task.service) {
            task.service = service.clone();
        }
        if let Some(worker) = &mut task.worker
            && let Some((shared, _)) = self.by_worker.keys().get_key_value(worker)
        {
            *worker = shared.clone();
        }
    }
}

fn touched(before: Option<Arc<str>>, after: Option<Arc<str>>) -> Touched {
    if before == after {
        return Touched { relieved: None, burdened: None };
    }
    Touched { relieved: before, burdened: after }
}

impl Task {
    pub(super) fn submitted(
        new: &TaskSubmission,
        number: TaskNumber,
        executor: NodeId,
        now_ms: u64,
    ) -> Task {
        Task {
            id: new.id,
            number,
            owner: Arc::from(&*new.owner),
            tool: Arc::from(&*new.tool),
            service: Arc::from(&*new.service),
            params: new.params.clone(),
            labels: new.labels.clone(),
            needs_worker: new.needs_worker,
            idempotent: new.idempotent,
            created_ms: now_ms,
            updated_ms: now_ms,
            ttl_ms: new.ttl_ms,
            poll_interval_ms: new.poll_interval_ms,
            phase: Phase::Queued,
            executor,
            worker: None,
            attempt: 0,
            starts: 0,
            report: 0,
            status_message: None,
            inputs: None,
            ending: None,
        }
    }
}
