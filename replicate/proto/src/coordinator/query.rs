//! What can be read of the coordinator's state.
//!
//! Everything here is read-only. A page of tasks is found by an index, never by looking at
//! all tasks, and its cursor stays good while tasks come and go: it names the last task
//! given out by its place in the order of creation.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::str::FromStr;
use std::sync::Arc;

use super::nodes::Node;
use super::state::State;
use super::tasks::{Task, TaskNumber, TaskStatus};
use super::vshards::Vshard;
use super::workers::Worker;
use super::{PAGE_SCAN_MAX, PAGE_TASKS_MAX};
use crate::identity::{ClusterName, NodeId, TaskId, VshardId};

/// Which tasks are asked for; what is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// In this status.
    pub status: Option<TaskStatus>,
    /// With this worker, or ended by it.
    pub worker: Option<Box<str>>,
    /// Of this owner.
    pub owner: Option<Box<[u8]>>,
    /// Of this service.
    pub service: Option<Box<str>>,
    /// Created at this time or later, in milliseconds since 1970.
    pub since_ms: Option<u64>,
}

/// Where a page ended. Its text is opaque to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(TaskNumber);

/// The text is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one that a page of tasks gave out: ask for the first page again")]
pub struct NotACursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0.0)
    }
}

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Cursor, NotACursor> {
        let hex =
            text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = hex.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.map(|number| Cursor(TaskNumber(number))).ok_or(NotACursor)
    }
}

/// Some of the tasks asked for, in the order of creation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The tasks.
    pub tasks: Vec<Arc<Task>>,
    /// Where to go on; `None`: these were the last. A page may be short and still go on.
    pub next: Option<Cursor>,
}

/// Numbers of what the state holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Nodes that are not fenced.
    pub nodes_live: usize,
    /// Workers.
    pub workers: usize,
    /// Tasks, ended ones included.
    pub tasks: usize,
    /// Tasks that wait for a worker.
    pub tasks_queued: usize,
    /// Virtual shards without a primary.
    pub vshards_unowned: usize,
    /// Times that a virtual shard lost its last member.
    pub vshards_lost_total: u64,
}

impl State {
    /// The cluster's name.
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The latest time of any batch, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The log index of the last entry applied; 0: none.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The feature level in force.
    pub fn feature_level(&self) -> u32 {
        self.feature_level
    }

    /// The nodes in the order of their numbers, those that were fenced included.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.by_id.values()
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.by_id.get(&id)
    }

    /// Whether a number belonged to a node that was removed.
    pub fn is_removed(&self, id: NodeId) -> bool {
        self.nodes.removed.contains_key(&id)
    }

    /// Tasks that have not ended and whose calls the node makes.
    pub fn load_of_node(&self, id: NodeId) -> usize {
        self.tasks.by_executor.len_of(&id)
    }

    /// Tasks that have not ended and whose calls the node makes, in the order of creation.
    pub fn tasks_of_node(&self, id: NodeId) -> impl Iterator<Item = &Arc<Task>> {
        let numbers = self.tasks.by_executor.of(&id).into_iter().flatten();
        numbers.filter_map(|number| self.tasks.task(*number))
    }

    /// The whole table, the record of virtual shard 0 first.
    pub fn vshards(&self) -> &[Vshard] {
        self.vshards.table()
    }

    /// A virtual shard's record.
    pub fn vshard(&self, id: VshardId) -> Option<&Vshard> {
        self.vshards.vshard(id)
    }

    /// Virtual shards whose primary the node is.
    pub fn primaries_of(&self, id: NodeId) -> u32 {
        self.vshards.primaries_of(id)
    }

    /// The workers in the order of their names.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter()
    }

    /// The workers after a name, in the order of their names.
    pub fn workers_after(&self, name: Option<&str>) -> impl Iterator<Item = &Worker> {
        self.workers.after(name)
    }

    /// The workers of a service in the order of their names.
    pub fn workers_of<'a>(&'a self, service: &str) -> impl Iterator<Item = &'a Worker> {
        let names = self.workers.services().get(service).map(|service| &service.names);
        names.into_iter().flatten().filter_map(|name| self.workers.worker(name))
    }

    /// A worker.
    pub fn worker(&self, name: &str) -> Option<&Worker> {
        self.workers.worker(name)
    }

    /// A task.
    pub fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        self.tasks.with_id(id)
    }

    /// Tasks in a status.
    pub fn tasks_in(&self, status: TaskStatus) -> usize {
        self.tasks.by_status.len_of(&status)
    }

    /// Numbers of what is held.
    pub fn counts(&self) -> Counts {
        let unowned = |record: &&Vshard| record.primary.is_none();
        Counts {
            nodes_live: self.nodes.live().count(),
            workers: self.workers.len(),
            tasks: self.tasks.len(),
            tasks_queued: self.tasks.queued(),
            vshards_unowned: self.vshards.table().iter().filter(unowned).count(),
            vshards_lost_total: self.vshards.lost_total,
        }
    }

    /// Tasks whose time to live is over at `now_ms`, for the leader to have them dropped: the
    /// longest overdue first, at most `limit`.
    pub fn due_tasks(&self, now_ms: u64, limit: usize) -> Vec<TaskId> {
        self.tasks.expired(now_ms).take(limit).map(|task| task.id).collect()
    }

    /// A page of at most `limit` tasks (and at most [`PAGE_TASKS_MAX`]) after a cursor.
    pub fn tasks(&self, filter: &TaskFilter, after: Option<Cursor>, limit: usize) -> Page {
        let limit = limit.clamp(1, PAGE_TASKS_MAX);
        let since = TaskNumber::first_at(filter.since_ms.unwrap_or(0));
        let start = match after {
            Some(Cursor(number)) if number >= since => Excluded(number),
            Some(_) | None => Included(since),
        };
        match self.smallest_index(filter) {
            Narrowed::Nothing => Page::default(),
            Narrowed::To(numbers) => {
                let found = numbers.range((start, Unbounded));
                self.fill(filter, limit, found.filter_map(|number| self.tasks.task(*number)))
            }
            Narrowed::Not => {
                let found = self.tasks.by_number().range((start, Unbounded));
                self.fill(filter, limit, found.map(|(_, task)| task))
            }
        }
    }

    fn fill<'a>(
        &self,
        filter: &TaskFilter,
        limit: usize,
        found: impl Iterator<Item = &'a Arc<Task>>,
    ) -> Page {
        let mut page = Page::default();
        let mut last = None;
        for (looked_at, task) in found.enumerate() {
            if page.tasks.len() == limit || looked_at == PAGE_SCAN_MAX {
                page.next = last;
                break;
            }
            if filter.lets_through(task) {
                page.tasks.push(task.clone());
            }
            last = Some(Cursor(task.number));
        }
        page
    }

    fn smallest_index(&self, filter: &TaskFilter) -> Narrowed<'_> {
        let tasks = &self.tasks;
        let mut indexes = Vec::with_capacity(4);
        if let Some(status) = filter.status {
            indexes.push(tasks.by_status.of(&status));
        }
        if let Some(worker) = &filter.worker {
            indexes.push(tasks.by_worker.of(&**worker));
        }
        if let Some(owner) = &filter.owner {
            indexes.push(tasks.by_owner.of(&**owner));
        }
        if let Some(service) = &filter.service {
            indexes.push(tasks.by_service.of(&**service));
        }
        if indexes.is_empty() {
            return Narrowed::Not;
        }
        let all: Option<Vec<_>> = indexes.into_iter().collect();
        let smallest = all.and_then(|all| all.into_iter().min_by_key(|numbers| numbers.len()));
        smallest.map_or(Narrowed::Nothing, Narrowed::To)
    }
}

/// How far indexes narrow a search.
enum Narrowed<'a> {
    /// Not at all.
    Not,
    /// To these tasks.
    To(&'a BTreeSet<TaskNumber>),
    /// There are none.
    Nothing,
}

impl TaskFilter {
    /// Whether a task is asked for.
    pub fn lets_through(&self, task: &Task) -> bool {
        self.status.is_none_or(|status| task.status() == status)
            && self.worker.as_deref().is_none_or(|worker| task.worker.as_deref() == Some(worker))
            && self.owner.as_deref().is_none_or(|owner| *task.owner == *owner)
            && self.service.as_deref().is_none_or(|service| *task.service == *service)
            && self.since_ms.is_none_or(|since_ms| task.created_ms >= since_ms)
    }
}

impl State {
    pub(super) fn status_of(&self, number: TaskNumber) -> TaskStatus {
        self.tasks.task(number).map_or(TaskStatus::Working, |task| task.status())
    }
}
