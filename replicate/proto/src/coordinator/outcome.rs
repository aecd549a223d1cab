//! What a command came to, and what changed by it.
//!
//! An [`Outcome`] answers whoever proposed the command; a [`Change`] tells every node, in
//! the order of the log, what to look at again. A refused command changes nothing.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::Departure;
use super::limits::*;
use super::tasks::TaskStatus;
use crate::identity::{Epoch, Incarnation, NodeId, Registration, TaskId, VshardId};

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The node is registered in this life.
    NodeRegistered {
        /// The node.
        id: NodeId,
        /// The life.
        incarnation: Incarnation,
    },
    /// That life of the node is over.
    NodeFenced {
        /// The node.
        id: NodeId,
    },
    /// That life of the node gets nothing new.
    NodeDraining {
        /// The node.
        id: NodeId,
    },
    /// The node has left for good.
    NodeRemoved {
        /// The node.
        id: NodeId,
    },
    /// The level in force.
    FeatureLevel {
        /// The level, at least the one asked for.
        level: u32,
    },
    /// The ISR is as asked for.
    IsrAltered {
        /// The virtual shard.
        vshard: VshardId,
        /// The record's version with this ISR.
        version: u32,
    },
    /// So many of the moves are in force; the others were overtaken by another change.
    VshardsMoved {
        /// How many.
        in_force: u16,
    },
    /// The worker is registered.
    WorkerRegistered {
        /// The registration.
        registration: Registration,
    },
    /// The worker's update, or a later one, is in force.
    WorkerUpdated,
    /// That registration has ended.
    WorkerDeregistered,
    /// The task is held.
    TaskSubmitted {
        /// The task.
        id: TaskId,
        /// When it was created.
        created_ms: u64,
    },
    /// The executor may begin the call.
    TaskStarted {
        /// The attempt.
        attempt: u32,
    },
    /// The report, or a later one, is in force.
    TaskReported {
        /// The task's status now.
        status: TaskStatus,
    },
    /// The answers to open questions are taken, all others ignored.
    InputAnswered {
        /// The task's status now.
        status: TaskStatus,
    },
    /// The task has ended, by this command or before it.
    TaskEnded {
        /// How. It never changes.
        status: TaskStatus,
    },
    /// The tasks whose time is over are gone.
    TasksDropped,
    /// Nothing changed.
    Refused(Refusal),
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// See the text.
    #[error("node {id} is not known to the cluster: it must register first")]
    NodeUnknown {
        /// The node asked for.
        id: NodeId,
    },
    /// See the text.
    #[error(
        "node {id} was removed from the cluster for good: give this machine a new node id and \
         name, and add it anew"
    )]
    NodeRemoved {
        /// The node asked for.
        id: NodeId,
    },
    /// See the text.
    #[error("the name {name:?} belonged to a node that was removed: choose another name")]
    NodeNameRetired {
        /// The name asked for.
        name: Box<str>,
    },
    /// See the text.
    #[error("the name {name:?} is node {holder}'s: two nodes can't have one name, choose another")]
    NodeNameTaken {
        /// The name asked for.
        name: Box<str>,
        /// Whose it is.
        holder: NodeId,
    },
    /// See the text.
    #[error("node id {id} is held by the node named {holder:?}: choose another id")]
    NodeNumberTaken {
        /// The number asked for.
        id: NodeId,
        /// Whose it is.
        holder: Box<str>,
    },
    /// See the text.
    #[error(
        "incarnation {got} of node {id} is over, {known} has registered since: if two processes \
         run as this node, stop one of them"
    )]
    IncarnationOld {
        /// The node.
        id: NodeId,
        /// The incarnation that the command names.
        got: Incarnation,
        /// The incarnation in the log.
        known: Incarnation,
    },
    /// See the text.
    #[error("node {id} has incarnation {known} in the log, and {got} has never registered")]
    IncarnationUnknown {
        /// The node.
        id: NodeId,
        /// The incarnation that the command names.
        got: Incarnation,
        /// The incarnation in the log.
        known: Incarnation,
    },
    /// See the text.
    #[error(
        "incarnation {incarnation} of node {id} was fenced: it must drop what it holds and \
         register with a later incarnation"
    )]
    IncarnationFenced {
        /// The node.
        id: NodeId,
        /// The fenced incarnation.
        incarnation: Incarnation,
    },
    /// See the text.
    #[error(
        "incarnation {incarnation} of node {id} registered with other addresses, zone or weight \
         before: what is changed in its configuration needs a restart"
    )]
    IncarnationDiffers {
        /// The node.
        id: NodeId,
        /// The incarnation that registered twice.
        incarnation: Incarnation,
    },
    /// See the text.
    #[error("node {id} is the last live one: there is nobody to take over what it holds")]
    LastNode {
        /// The node.
        id: NodeId,
    },
    /// See the text.
    #[error("no node is live: one must register first")]
    NoLiveNode,
    /// See the text.
    #[error("the cluster has {NODES_MAX} nodes, the most it can have: remove one first")]
    TooManyNodes,
    /// See the text.
    #[error(
        "node {id} knows feature level {knows}, the cluster needs {needed}: run a newer program \
         on it"
    )]
    FeatureLevelTooLow {
        /// The node.
        id: NodeId,
        /// What its program knows.
        knows: u32,
        /// What is in force or asked for.
        needed: u32,
    },
    /// See the text.
    #[error("virtual shard {vshard} does not exist")]
    VshardUnknown {
        /// The virtual shard asked for.
        vshard: VshardId,
    },
    /// See the text.
    #[error(
        "virtual shard {vshard} is at epoch {epoch}, version {version} by now: read the table \
         again"
    )]
    VshardChanged {
        /// The virtual shard.
        vshard: VshardId,
        /// Its epoch.
        epoch: Epoch,
        /// Its version.
        version: u32,
    },
    /// See the text.
    #[error(
        "node {node} can't be in the ISR of virtual shard {vshard}: a member must be live in the \
         incarnation named, and be one of the copies"
    )]
    NotAMember {
        /// The virtual shard.
        vshard: VshardId,
        /// The node named.
        node: NodeId,
    },
    /// See the text.
    #[error("the ISR asked for virtual shard {vshard} leaves out its primary")]
    IsrWithoutPrimary {
        /// The virtual shard.
        vshard: VshardId,
    },
    /// See the text.
    #[error("worker {name:?} is not registered: it must register again")]
    WorkerUnknown {
        /// The name asked for.
        name: Box<str>,
    },
    /// See the text.
    #[error(
        "registration {got} of worker {name:?} is over, {known} came after it: if two processes \
         run as this worker, give one another name"
    )]
    RegistrationOld {
        /// The worker.
        name: Box<str>,
        /// The registration that the command names.
        got: Registration,
        /// The latest one.
        known: Registration,
    },
    /// See the text.
    #[error(
        "registration {registration} of worker {name:?} was made with another address or service"
    )]
    RegistrationDiffers {
        /// The worker.
        name: Box<str>,
        /// The registration made twice.
        registration: Registration,
    },
    /// See the text.
    #[error("the cluster has {WORKERS_MAX} workers, the most it can have")]
    TooManyWorkers,
    /// See the text.
    #[error("task {id} is not known: its time to live may be over")]
    TaskUnknown {
        /// The task asked for.
        id: TaskId,
    },
    /// See the text.
    #[error("task id {id} is in use by another owner: submit with a new random id")]
    TaskIdTaken {
        /// The id asked for.
        id: TaskId,
    },
    /// See the text.
    #[error("task {id} is at attempt {now}, so attempt {got} must stop and has no say any more")]
    AttemptOld {
        /// The task.
        id: TaskId,
        /// The attempt that the command names.
        got: u32,
        /// The attempt that counts.
        now: u32,
    },
    /// See the text.
    #[error("attempt {attempt} of task {id} was never given out")]
    AttemptUnknown {
        /// The task.
        id: TaskId,
        /// The attempt that the command names.
        attempt: u32,
    },
    /// See the text.
    #[error("task {id} has asked under the key {key:?} before: put the attempt into the key")]
    InputKeyUsed {
        /// The task.
        id: TaskId,
        /// The key.
        key: Box<str>,
    },
    /// See the text.
    #[error("the cluster holds {TASKS_MAX} tasks, the most it can: wait until some have expired")]
    TooManyTasks,
    /// See the text.
    #[error(
        "this owner has {TASKS_PER_OWNER_MAX} tasks, the most it may: wait until some have \
         expired, or ask for a shorter time to live"
    )]
    TooManyTasksOfOwner,
    /// See the text.
    #[error(
        "{TASKS_QUEUED_MAX} tasks wait for workers, the most that may: add workers or try later"
    )]
    QueueFull,
    /// See the text.
    #[error(
        "tasks wait for {QUEUES_MAX} combinations of service and labels, the most that may: \
         use fewer labels"
    )]
    TooManyQueues,
    /// See the text.
    #[error("{what} has {got} {unit}, at most {max} are taken")]
    TooLarge {
        /// What is too large.
        what: Box<str>,
        /// How large it is.
        got: u64,
        /// How large it may be.
        max: u64,
        /// Of what.
        unit: Unit,
    },
    /// See the text.
    #[error("{what} is empty or zero, which has no meaning")]
    Empty {
        /// What is missing.
        what: Box<str>,
    },
}

/// What a size counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Bytes of text or data.
    Bytes,
    /// Parts of a list.
    Entries,
    /// A plain number.
    Units,
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Unit::Bytes => "bytes",
            Unit::Entries => "entries",
            Unit::Units => "units",
        })
    }
}

/// Something that others want to look at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A node began a life.
    NodeRegistered {
        /// The node.
        id: NodeId,
        /// The life.
        incarnation: Incarnation,
    },
    /// A life of a node is over.
    NodeFenced {
        /// The node.
        id: NodeId,
        /// The life.
        incarnation: Incarnation,
    },
    /// A node gets nothing new.
    NodeDraining {
        /// The node.
        id: NodeId,
    },
    /// A node has left for good.
    NodeRemoved {
        /// The node.
        id: NodeId,
    },
    /// A new feature level is in force.
    FeatureLevel {
        /// The level.
        level: u32,
    },
    /// A virtual shard has another primary (or none), and so a new epoch.
    VshardMoved {
        /// The virtual shard.
        vshard: VshardId,
        /// Who owns it now.
        primary: Option<NodeId>,
    },
    /// A virtual shard's ISR or copies changed under the same primary.
    VshardAltered {
        /// The virtual shard.
        vshard: VshardId,
    },
    /// A worker is there.
    WorkerJoined {
        /// Its name.
        name: Arc<str>,
        /// Its registration.
        registration: Registration,
    },
    /// A worker's capacity, labels or readiness changed.
    WorkerUpdated {
        /// Its name.
        name: Arc<str>,
    },
    /// A worker is gone.
    WorkerLeft {
        /// Its name.
        name: Arc<str>,
        /// The registration that ended.
        registration: Registration,
        /// Why.
        why: Departure,
    },
    /// The executor is to make this attempt; any earlier attempt of the task must stop, wherever it runs.
    TaskDispatched {
        /// The task.
        id: TaskId,
        /// The attempt.
        attempt: u32,
        /// The node that is to make the call.
        executor: NodeId,
    },
    /// A task's status, message or questions changed.
    TaskUpdated {
        /// The task.
        id: TaskId,
    },
    /// A task has new answers for its executor.
    TaskAnswered {
        /// The task.
        id: TaskId,
        /// The node that waits for them.
        executor: NodeId,
    },
    /// A task has ended; if its call still runs (it was cancelled or lost), the executor must stop it.
    TaskEnded {
        /// The task.
        id: TaskId,
        /// The node that had the call.
        executor: NodeId,
        /// How it ended.
        status: TaskStatus,
    },
    /// A task is forgotten; if its call still runs, the executor must stop it.
    TaskDropped {
        /// The task.
        id: TaskId,
        /// The node that had the call.
        executor: NodeId,
    },
}
