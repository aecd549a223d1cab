//! Tasks of the gateway's own: a call of any tool is answered at once, goes on whoever
//! listens, and its result is kept until it is fetched or its time is over.
//!
//! ```text
//! client ── tools/call ──► shard ── ToDesk::Call ──► desk ── SubmitTask ──► control log
//!        ◄── its task ────       ◄─ FromDesk::Answer ─    ◄── committed ───
//!                          shard ◄─ FromDesk::Run ──── desk ◄── TaskDispatched ──
//!   upstream ◄── the call ──     ── ToDesk::Report ──►      ── CompleteTask ──►
//! ```
//!
//! The desk lives on the control thread of each node, beside the control log's state; shards
//! have a side for clients and one for the calls that tasks make (`data_path/task_calls.rs`,
//! `task_runs.rs`).
//!
//! Invariants:
//! - Nobody is told of a status or a result before it is committed.
//! - A task's call is made on the gateway's own account, never in a client's session: it may
//!   be made by another node and outlive the client.
//! - Who knows a task's id may look at it, fetch its result and cancel it: it has 128 random
//!   bits. Lists show a session only the tasks that were made in it.

mod desk;
mod order;
mod payload;
mod writing;

use std::hash::Hasher as _;
use std::sync::Arc;

use shardgate_proto::catalog::{Filter, TaskOffer};
use shardgate_proto::jsonrpc;
use shardgate_proto::mcp::session_id::SessionId;
use shardgate_proto::mcp::version::Era;
use shardgate_proto::upstream::{CallKey, Outcome, SessionKey};
use shardgate_replicate_proto::identity::TaskId;
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use crate::config;

pub(crate) use desk::{DeliverTasks, DeskSetup, keep};
pub(crate) use order::{Order, OrderParts, can_handle_tasks};
pub(crate) use writing::related_params;

/// What `initialize` says to clients of 2025-11-25, as a further member of `capabilities`.
pub(crate) const LEGACY_CAPABILITY: &str =
    r#","tasks":{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}}"#;

/// The extension of the modern era.
pub(crate) const EXTENSION: &str = "io.modelcontextprotocol/tasks";

/// The member of `_meta` by which a legacy message says which task it belongs to.
pub(crate) const RELATED_TASK: &str = "io.modelcontextprotocol/related-task";

/// What waits for the desk; when it is full, clients are told to come again.
pub(crate) const REQUESTS_WAITING_MAX: usize = 16_384;

/// Owners that clients without a session share. They have no lists, so who owns a task only
/// matters to the bound on the tasks of one owner.
const ANONYMOUS_OWNERS: u128 = 256;

/// What shards are told of tasks; the same on each.
#[derive(Clone, Debug)]
pub(crate) struct TaskDoor {
    /// The desk.
    pub(crate) to_desk: flume::Sender<ToDesk>,
    /// Tools whose calls by modern clients become tasks.
    pub(crate) modern_tools: Option<Arc<Filter>>,
    /// The same, once their first questions are answered.
    pub(crate) modern_tools_after_input: Option<Arc<Filter>>,
    /// Tools that can be called as tasks only.
    pub(crate) required_tools: Option<Arc<Filter>>,
    /// Makes owners out of session ids.
    pub(crate) owner_key: [u8; 16],
}

impl TaskDoor {
    /// By the configuration; `None` if the gateway makes no tasks.
    pub(crate) fn new(
        tasks: &config::Tasks,
        owner_key: [u8; 16],
        to_desk: flume::Sender<ToDesk>,
    ) -> Option<TaskDoor> {
        tasks.enabled.then(|| TaskDoor {
            to_desk,
            modern_tools: filter(&tasks.modern_tools).map(Arc::new),
            modern_tools_after_input: filter(&tasks.modern_tools_after_input).map(Arc::new),
            required_tools: filter(&tasks.required_tools).map(Arc::new),
            owner_key,
        })
    }

    /// How catalogs tell of tasks.
    pub(crate) fn offer(&self) -> TaskOffer {
        TaskOffer { required: self.required_tools.as_deref().cloned() }
    }

    /// Whether modern clients can get tasks.
    pub(crate) fn makes_modern_tasks(&self) -> bool {
        let all = [&self.modern_tools, &self.modern_tools_after_input, &self.required_tools];
        all.into_iter().any(Option::is_some)
    }

    /// Whether a tool can be called as a task only, by its name to clients.
    pub(crate) fn is_required(&self, tool: &str) -> bool {
        names(&self.required_tools, tool)
    }

    /// Whether this call of a modern client becomes a task.
    pub(crate) fn becomes_a_task(&self, tool: &str, params: Option<&[u8]>) -> bool {
        let always = names(&self.modern_tools, tool) || names(&self.required_tools, tool);
        let brings_answers = || {
            let params = params.unwrap_or(b"{}");
            ["inputResponses", "requestState"]
                .iter()
                .any(|name| jsonrpc::member(params, name).is_some())
        };
        (always || names(&self.modern_tools_after_input, tool) && brings_answers())
            && can_handle_tasks(params)
    }

    /// Who owns the tasks of a session. The id itself opens the session, and owners are
    /// shown to those who look at the gateway, so it is hashed under a secret.
    pub(crate) fn owner_of_session(&self, session: SessionId) -> Owner {
        let mut hasher = SipHasher24::new_with_key(&self.owner_key);
        hasher.write(&session.random.to_be_bytes());
        Owner(format!("session:{:032x}", hasher.finish128().as_u128()).into_bytes().into())
    }

    /// Who owns a task made without a session.
    pub(crate) fn anonymous_owner(task: TaskId) -> Owner {
        Owner(format!("anonymous:{:02x}", task.0 % ANONYMOUS_OWNERS).into_bytes().into())
    }
}

/// Whether there are patterns and one of them fits.
fn names(filter: &Option<Arc<Filter>>, tool: &str) -> bool {
    filter.as_ref().is_some_and(|filter| filter.passes(&[tool]))
}

/// No patterns let nothing through.
fn filter(patterns: &[config::NamePattern]) -> Option<Filter> {
    (!patterns.is_empty()).then(|| Filter::new(patterns, &[]))
}

/// Whose a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner(pub(crate) Box<[u8]>);

/// From a shard to the desk.
#[derive(Debug)]
pub(crate) enum ToDesk {
    /// A client asks for something.
    Call(ClientCall),
    /// It gave that call up.
    GivenUp {
        /// Where it was made.
        shard: u16,
        /// Which call.
        call: CallKey,
    },
    /// A legacy client has answered a question of a task.
    Reply {
        /// Which task.
        id: TaskId,
        /// Which question.
        key: Box<str>,
        /// Result or error.
        outcome: Outcome,
        /// The JSON text of `result` or of the `error` object.
        body: Box<[u8]>,
    },
    /// The call that a task makes tells of itself.
    Report {
        /// Which task.
        id: TaskId,
        /// Which attempt.
        attempt: u32,
        /// What it tells.
        report: Report,
    },
}

/// A request of a client that the desk answers.
#[derive(Debug)]
pub(crate) struct ClientCall {
    /// Where its answer goes.
    pub(crate) shard: u16,
    /// The call there.
    pub(crate) call: CallKey,
    /// The client's session; `None` in the modern era.
    pub(crate) session: Option<SessionKey>,
    /// What is wanted.
    pub(crate) wish: Wish,
}

impl ClientCall {
    /// In which form it is answered.
    pub(crate) fn era(&self) -> Era {
        if self.session.is_some() { Era::Legacy } else { Era::Modern }
    }
}

/// What a client wants.
#[derive(Debug)]
pub(crate) enum Wish {
    /// A call is to become a task.
    Submit(Box<Submission>),
    /// `tasks/get`
    Get(TaskId),
    /// `tasks/result`, which waits for the end.
    Result(TaskId),
    /// `tasks/cancel`
    Cancel(TaskId),
    /// `tasks/update`, with the raw JSON object of the responses.
    Update(TaskId, Box<[u8]>),
    /// `tasks/list`
    List {
        /// Of whose tasks.
        owner: Owner,
        /// Where the page before ended.
        cursor: Option<Box<str>>,
    },
}

/// A task to be made.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) id: TaskId,
    pub(crate) owner: Owner,
    /// The tool as clients know it.
    pub(crate) tool: Box<str>,
    /// The server that has it, as far as is known.
    pub(crate) service: Box<str>,
    /// The call.
    pub(crate) order: Order,
    pub(crate) idempotent: bool,
    /// What the client asked for.
    pub(crate) ttl_ms: Option<u64>,
    /// The raw token under which a legacy client wants to hear of progress.
    pub(crate) progress_token: Option<Box<[u8]>>,
}

/// What a task's call tells of itself.
#[derive(Debug)]
pub(crate) enum Report {
    /// It goes on.
    Progress(Progress),
    /// Its server wants something of the task's owner.
    Asked {
        /// The questions: key and raw JSON.
        requests: Vec<(Box<str>, Box<[u8]>)>,
        /// What the server wants to be given back with the answers, raw.
        state: Option<Box<[u8]>>,
    },
    /// It is over.
    Ended {
        /// Result or error.
        outcome: Outcome,
        /// The JSON text of `result` or of the `error` object.
        body: Box<[u8]>,
    },
}

/// How far a call has come, as its server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Raw number.
    pub(crate) progress: Box<[u8]>,
    /// Raw number.
    pub(crate) total: Option<Box<[u8]>>,
    pub(crate) message: Option<Box<str>>,
}

/// From the desk to a shard.
#[derive(Debug)]
pub(crate) enum FromDesk {
    /// The answer to a client's call.
    Answer {
        /// Which call.
        call: CallKey,
        /// Result or error.
        outcome: Outcome,
        /// The JSON text of `result` or of the `error` object.
        body: Vec<u8>,
    },
    /// A notification for a session: one whole JSON-RPC message.
    Notify {
        /// Whose.
        session: SessionKey,
        /// The message.
        message: Vec<u8>,
    },
    /// Questions for the legacy client that waits for a task's result.
    Ask {
        /// Its `tasks/result`.
        call: CallKey,
        /// The task that asks.
        id: TaskId,
        /// Key, and raw JSON with `method` and `params`.
        questions: Vec<(Box<str>, Box<[u8]>)>,
    },
    /// A task's call is to be made.
    Run(Box<Run>),
    /// A task's call is not wanted any more.
    Stop {
        /// Which task.
        id: TaskId,
        /// Which attempt.
        attempt: u32,
    },
}

/// A call to be made for a task.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: TaskId,
    pub(crate) attempt: u32,
    /// The path by whose catalog names are read.
    pub(crate) route: Box<str>,
    /// `params` of a modern request.
    pub(crate) params: Box<[u8]>,
}
