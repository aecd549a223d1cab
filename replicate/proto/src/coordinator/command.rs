//! What can be asked of the coordinator, as it stands in the control log.
//!
//! Invariants:
//! - A [`Batch`] is one log entry. It carries the time at which the leader proposed it,
//!   the only time that the state machine knows.
//! - Commands are idempotent: a copy of a command, right behind it or up to
//!   [`RETRY_WINDOW_MS`](super::RETRY_WINDOW_MS) later, changes nothing. Tasks carry an id of their proposer's
//!   choosing; everything else names the life it speaks of (incarnation, registration,
//!   epoch and version, attempt and report), and an older life is never changed.
//! - The encoding is postcard, which numbers variants by their place: variants and fields
//!   are only ever added at the end. A test pins every number.

use serde::{Deserialize, Serialize};

use super::nodes::Addresses;
use super::vshards::Copies;
use super::workers::Labels;
use crate::identity::{Epoch, Incarnation, NodeId, Registration, TaskId, VshardId};

/// One entry of the control log: commands that take effect together, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// When the leader proposed it: milliseconds since 1970 by the leader's clock.
    pub now_ms: u64,
    /// The commands.
    pub commands: Vec<Command>,
}

/// One change asked of the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A node's process has started. A later incarnation of a known node ends the one before.
    RegisterNode(Box<NodeRegistration>),
    /// A node's life is over for the others: what it held goes to other nodes.
    FenceNode {
        /// The node.
        id: NodeId,
        /// The life that is over.
        incarnation: Incarnation,
        /// What was observed, for people.
        reason: Box<str>,
    },
    /// The node gets nothing new and is to give away what it has.
    DrainNode {
        /// The node.
        id: NodeId,
        /// The life that is to end; the next one is not draining.
        incarnation: Incarnation,
    },
    /// The node leaves for good; its number and name are never used again.
    RemoveNode {
        /// The node.
        id: NodeId,
    },
    /// Every node can do what this level asks; nothing older may join from now on.
    SetFeatureLevel {
        /// The new level.
        level: u32,
    },
    /// A primary says which copies hold all that it acknowledges.
    AlterIsr {
        /// The virtual shard.
        vshard: VshardId,
        /// The epoch of the primary.
        epoch: Epoch,
        /// The record's version that the primary saw.
        version: u32,
        /// The primary's life.
        primary_incarnation: Incarnation,
        /// The members, the primary among them.
        isr: Vec<Member>,
    },
    /// Virtual shards get other primaries or other copies.
    MoveVshards {
        /// At most [`MOVES_MAX`](super::MOVES_MAX) moves.
        moves: Vec<Move>,
    },
    /// A worker is there. A later registration of a known name replaces the one before.
    RegisterWorker(Box<WorkerRegistration>),
    /// A worker says something new about itself.
    UpdateWorker(Box<WorkerUpdate>),
    /// A worker is gone.
    DeregisterWorker {
        /// The worker.
        name: Box<str>,
        /// The registration that ends.
        registration: Registration,
        /// Why.
        why: Departure,
    },
    /// A call is to be made and its result kept.
    SubmitTask(Box<TaskSubmission>),
    /// The executor begins the call: from here on the tool server may have seen it.
    StartTask {
        /// The task.
        id: TaskId,
        /// The attempt that the executor was given.
        attempt: u32,
    },
    /// The executor tells how the call goes on.
    UpdateTask {
        /// The task.
        id: TaskId,
        /// The attempt that speaks.
        attempt: u32,
        /// Counts an attempt's reports (updates and questions) from 1; an older one than the last is void.
        report: u32,
        /// For people.
        status_message: Option<Box<str>>,
    },
    /// The call needs something of the task's owner before it can go on.
    AskInput {
        /// The task.
        id: TaskId,
        /// The attempt that asks.
        attempt: u32,
        /// Counts an attempt's reports as in `UpdateTask`.
        report: u32,
        /// The questions, under keys that the task has not used before: a key should name the attempt.
        requests: Vec<Input>,
        /// If the tool server holds no open call in the meantime: what any node needs to go on.
        #[serde(with = "serde_bytes")]
        resume: Option<Box<[u8]>>,
    },
    /// The owner answers some or all of the open questions; what is not open is ignored.
    AnswerInput {
        /// The task.
        id: TaskId,
        /// The answers.
        responses: Vec<Input>,
    },
    /// The call has a result.
    CompleteTask {
        /// The task.
        id: TaskId,
        /// The attempt that ends.
        attempt: u32,
        /// The result.
        payload: Payload,
        /// Whether the result itself tells of a failure (`isError`).
        failed: bool,
    },
    /// The call was answered by an error, or could not be made.
    FailTask {
        /// The task.
        id: TaskId,
        /// The attempt that ends.
        attempt: u32,
        /// The JSON-RPC error's code.
        code: i64,
        /// The JSON-RPC error's message.
        message: Box<str>,
    },
    /// Nobody wants the result any more.
    CancelTask {
        /// The task.
        id: TaskId,
        /// For people.
        reason: Option<Box<str>>,
    },
    /// Tasks whose time to live is over by the batch's time are forgotten; others stay.
    DropTasks {
        /// At most [`DROPS_MAX`](super::DROPS_MAX) tasks.
        ids: Vec<TaskId>,
    },
}

/// What a node says of itself when its process starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRegistration {
    /// Its number.
    pub id: NodeId,
    /// Its name, unique in the cluster.
    pub name: Box<str>,
    /// This life of it.
    pub incarnation: Incarnation,
    /// Where it is reached.
    pub addresses: Addresses,
    /// Its failure domain within the region.
    pub zone: Box<str>,
    /// Its region.
    pub region: Box<str>,
    /// Its share of the virtual shards relative to other nodes; 0 takes none.
    pub weight: u32,
    /// The highest feature level that its program knows.
    pub feature_level: u32,
}

/// A copy of a virtual shard, in a certain life of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// Its life: a restarted node has nothing and must catch up first.
    pub incarnation: Incarnation,
}

/// Where a virtual shard is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The virtual shard.
    pub vshard: VshardId,
    /// The epoch that the proposer saw.
    pub epoch: Epoch,
    /// The version that the proposer saw.
    pub version: u32,
    /// The primary from now on: the present one, a member of the ISR, or, where there is none, any live node.
    pub to: NodeId,
    /// Every node that is to hold it, the primary among them.
    pub copies: Copies,
}

/// What a worker says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRegistration {
    /// Its name, unique in the cluster.
    pub name: Box<str>,
    /// Chosen by the node that takes it in, larger than any before of this name.
    pub registration: Registration,
    /// The service whose tools it offers.
    pub service: Box<str>,
    /// Where its MCP endpoint is.
    pub url: Box<str>,
    /// What tasks may ask for.
    pub labels: Labels,
    /// Calls that it runs at one time.
    pub capacity: u32,
    /// How long it may be silent before it counts as gone.
    pub lease_ms: u32,
    /// The node that it registered at.
    pub via: NodeId,
}

/// What a worker says anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerUpdate {
    /// The worker.
    pub name: Box<str>,
    /// The registration that speaks.
    pub registration: Registration,
    /// Counts the updates of a registration from 1; an older one than the last is void.
    pub update: u32,
    /// Calls that it runs at one time, if changed.
    pub capacity: Option<u32>,
    /// Its labels, if changed.
    pub labels: Option<Labels>,
    /// Whether it takes new calls, if changed.
    pub accepting: Option<bool>,
}

/// Why a worker is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Departure {
    /// It said so.
    Left,
    /// It was silent for longer than its lease.
    LeaseEnded,
    /// Another process registered under its name.
    Replaced,
}

/// A task as it is submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSubmission {
    /// Its id, 128 random bits of the proposer.
    pub id: TaskId,
    /// Whose it is: opaque, at most [`OWNER_BYTES_MAX`](super::OWNER_BYTES_MAX) bytes.
    #[serde(with = "serde_bytes")]
    pub owner: Box<[u8]>,
    /// The tool's name as clients see it.
    pub tool: Box<str>,
    /// The service (upstream) that offers it.
    pub service: Box<str>,
    /// The call's `params` as JSON.
    #[serde(with = "serde_bytes")]
    pub params: Box<[u8]>,
    /// What its worker must be labelled with.
    pub labels: Labels,
    /// Whether the service's calls go to registered workers; else the executor calls a static upstream.
    pub needs_worker: bool,
    /// Whether the call may be made again after a crash.
    pub idempotent: bool,
    /// How long it is kept from now on; `None`: without end.
    pub ttl_ms: Option<u64>,
    /// How often its owner is advised to ask.
    pub poll_interval_ms: Option<u32>,
    /// The node that should make the call; another one does if this one is not live.
    pub executor: NodeId,
}

/// A question to a task's owner, or an answer to one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The question's key, unique in its task's life.
    pub key: Box<str>,
    /// The question or answer as JSON.
    #[serde(with = "serde_bytes")]
    pub body: Box<[u8]>,
}

/// A result, or where to find it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// The result as JSON, at most [`PAYLOAD_INLINE_BYTES_MAX`](super::PAYLOAD_INLINE_BYTES_MAX) bytes.
    Inline(#[serde(with = "serde_bytes")] Box<[u8]>),
    /// A result that nodes keep as a file named by its hash.
    Blob {
        /// The file's SHA-256.
        sha256: [u8; 32],
        /// Its length in bytes.
        len: u64,
    },
}
