//! Clients that want tasks: from their calls to the desk on the control thread, and back.
//!
//! Invariant: a call that the desk has is answered by the desk, once, unless it is given up.

use std::collections::BTreeMap;

use shardgate_proto::catalog::TaskSupport;
use shardgate_proto::jsonrpc::{self, Envelope, ErrorCode};
use shardgate_proto::mcp::modern::{
    INVALID_PARAMS, LIMIT_REACHED, METHOD_NOT_FOUND, MISSING_CLIENT_CAPABILITY,
};
use shardgate_proto::mcp::version::{Era, ProtocolVersion};
use shardgate_proto::upstream::{
    AskKey, Call, CallKey, Caller, Outcome, SessionKey, TaskTool, Upstream,
};
use shardgate_replicate_proto::identity::TaskId;
use shardgate_shard::Io;

use super::message::Message;
use super::service::Gateway;
use super::task_runs::TaskRuns;
use crate::tasks::{
    ClientCall, EXTENSION, FromDesk, Order, OrderParts, Submission, TaskDoor, ToDesk, Wish,
    can_handle_tasks, related_params,
};

/// Marks the names of questions that tasks ask; upstreams count theirs from below.
const TASK_ASK: u64 = 1 << 63;

/// To who waits, or wants to wait, for a task's end while the node drains.
const GOING_DOWN: &str =
    "this node is going down and does not wait for the task; ask again at another";

/// What a shard keeps of tasks.
#[derive(Debug, Default)]
pub(crate) struct ShardTasks {
    /// Calls that the desk has, and whether they wait for a task's end.
    asked: BTreeMap<CallKey, bool>,
    /// What legacy clients were asked for tasks.
    questions: BTreeMap<u64, Question>,
    made: u64,
    /// The calls that tasks make.
    pub(crate) runs: TaskRuns,
}

impl ShardTasks {
    pub(crate) fn on_shard(shard: u16) -> ShardTasks {
        ShardTasks { runs: TaskRuns::on_shard(shard), ..ShardTasks::default() }
    }
}

/// A question of a task.
#[derive(Debug)]
struct Question {
    id: TaskId,
    key: Box<str>,
    /// The `tasks/result` on whose stream it went out. It ends with that.
    call: CallKey,
}

/// A tool to be called as a task.
struct TaskCall<'a> {
    tool: &'a str,
    service: Box<str>,
    idempotent: bool,
    ttl_ms: Option<u64>,
}

impl<U: Upstream> Gateway<U> {
    /// Takes a call that is a task's affair. False if it is an ordinary one, for the upstream.
    pub(crate) fn take_as_task(&mut self, call: &Call<'_>, envelope: &Envelope<'_>) -> bool {
        if self.settings.tasks.is_none() {
            return false;
        }
        match (call.method, call.version.era()) {
            ("tools/call", _) => self.take_tool_call(call, envelope.task()),
            ("tasks/get" | "tasks/cancel", _)
            | ("tasks/result", Era::Legacy)
            | ("tasks/update", Era::Modern) => self.take_task_call(call, envelope),
            ("tasks/list", Era::Legacy) if call.version == ProtocolVersion::V2025_11_25 => {
                self.list_tasks(call);
                true
            }
            _ => false,
        }
    }

    fn take_tool_call(&mut self, call: &Call<'_>, asked: Option<&[u8]>) -> bool {
        let (Some(tasks), Some(tool)) = (&self.settings.tasks, call.name) else { return false };
        let asked = asked.filter(|_| call.version == ProtocolVersion::V2025_11_25);
        let wanted = match call.version.era() {
            Era::Legacy => asked.is_some(),
            Era::Modern => tasks.becomes_a_task(tool, call.params),
        };
        let required = tasks.is_required(tool);
        if !wanted && !required {
            return false;
        }
        let (service, idempotent, support) =
            match self.upstream.task_tool(call.route, tool, call.version) {
                TaskTool::Absent | TaskTool::OfItsServer => return false,
                TaskTool::NotYetKnown => (Box::from("unknown"), false, TaskSupport::Unsaid),
                TaskTool::Callable { server, idempotent, support } => {
                    (Box::from(server), idempotent, support)
                }
            };
        if !wanted {
            self.refuse_plain_call(call, tool);
            return true;
        }
        if support == TaskSupport::Forbidden {
            // MCP 2025-11-25, tasks: a client that asks for a task all the same SHOULD get -32601.
            let text = format!("the tool {tool:?} must not be called as a task");
            self.refuse_call_with(call.key, METHOD_NOT_FOUND, &text, None);
            return true;
        }
        match ttl_of(asked) {
            Ok(ttl_ms) => self.submit(call, TaskCall { tool, service, idempotent, ttl_ms }),
            Err(text) => self.refuse_call_with(call.key, INVALID_PARAMS, text, None),
        }
        true
    }

    /// A plain call of a tool that can be called as a task only.
    fn refuse_plain_call(&mut self, call: &Call<'_>, tool: &str) {
        let text = format!("the tool {tool:?} can be called as a task only");
        if call.version.era() == Era::Modern {
            let required =
                format!("{{\"requiredCapabilities\":{{\"extensions\":{{\"{EXTENSION}\":{{}}}}}}}}");
            let code = MISSING_CLIENT_CAPABILITY;
            return self.refuse_call_with(call.key, code, &text, Some(required.as_bytes()));
        }
        // MCP 2025-11-25, tasks: "required" makes other calls end with -32601.
        self.refuse_call_with(call.key, METHOD_NOT_FOUND, &text, None);
    }

    fn submit(&mut self, call: &Call<'_>, task: TaskCall<'_>) {
        let id = TaskId(self.random());
        let params = call.params.unwrap_or(b"{}");
        let (owner, capabilities) = match call.caller {
            Caller::Session(session) => {
                let Some(owner) = self.owner_of_session(session) else { return };
                let entry = self.sessions.session(session);
                let said = entry.map(|entry| entry.capabilities.clone()).unwrap_or_default();
                (owner, Some(if said.is_empty() { Box::from(b"{}".as_slice()) } else { said }))
            }
            Caller::Stateless | Caller::Task => (TaskDoor::anonymous_owner(id), None),
        };
        let Some(route) = self.settings.routes.path_of(call.route) else { return };
        let order =
            Order::new(&OrderParts { id, route, params, capabilities: capabilities.as_deref() });
        let meta = jsonrpc::member(params, "_meta");
        let progress_token = meta.and_then(|meta| jsonrpc::member(meta, "progressToken"));
        let submission = Submission {
            id,
            owner,
            tool: task.tool.into(),
            service: task.service,
            order,
            idempotent: task.idempotent,
            ttl_ms: task.ttl_ms,
            progress_token: progress_token.map(Box::from),
        };
        self.ask_desk(call, Wish::Submit(Box::new(submission)));
    }

    /// What is kept of a client's capabilities for the tasks its calls may become.
    pub(crate) fn kept_capabilities(&self, version: ProtocolVersion, said: &[u8]) -> Box<[u8]> {
        let wanted = self.settings.tasks.is_some() && version == ProtocolVersion::V2025_11_25;
        // Nothing is the same as an empty object.
        if wanted && said != b"{}" { said.into() } else { Box::default() }
    }

    fn owner_of_session(&self, session: SessionKey) -> Option<crate::tasks::Owner> {
        let tasks = self.settings.tasks.as_ref()?;
        self.sessions.id(session).map(|id| tasks.owner_of_session(id))
    }

    /// A request about a task. False if the id is not one of the gateway's.
    fn take_task_call(&mut self, call: &Call<'_>, envelope: &Envelope<'_>) -> bool {
        let text = envelope.task_id().ok().flatten();
        let Some(id) = text.as_deref().and_then(|text| text.parse::<TaskId>().ok()) else {
            return false;
        };
        if self.upstream.has_task(call.caller, &id.to_string()) {
            return false;
        }
        if call.version.era() == Era::Modern && !can_handle_tasks(call.params) {
            // The upstream says what is missing.
            return false;
        }
        let wish = match call.method {
            "tasks/get" => Wish::Get(id),
            "tasks/result" => Wish::Result(id),
            "tasks/cancel" => Wish::Cancel(id),
            _ => match call.params.and_then(|params| jsonrpc::member(params, "inputResponses")) {
                Some(responses) if responses.starts_with(b"{") => {
                    Wish::Update(id, responses.into())
                }
                Some(_) | None => {
                    let text = "params.inputResponses must be an object";
                    self.refuse_call_with(call.key, INVALID_PARAMS, text, None);
                    return true;
                }
            },
        };
        self.ask_desk(call, wish);
        true
    }

    fn list_tasks(&mut self, call: &Call<'_>) {
        let Caller::Session(session) = call.caller else { return };
        let Some(owner) = self.owner_of_session(session) else { return };
        let cursor = call.params.and_then(|params| jsonrpc::member(params, "cursor"));
        let cursor = match cursor.map(jsonrpc::string) {
            Some(None) => {
                let text = "params.cursor must be a string";
                return self.refuse_call_with(call.key, INVALID_PARAMS, text, None);
            }
            Some(Some(cursor)) => Some(Box::from(&*cursor)),
            None => None,
        };
        self.ask_desk(call, Wish::List { owner, cursor });
    }

    fn ask_desk(&mut self, call: &Call<'_>, wish: Wish) {
        let Some(tasks) = &self.settings.tasks else { return };
        let session = match call.caller {
            Caller::Session(session) => Some(session),
            Caller::Stateless | Caller::Task => None,
        };
        let waits = matches!(wish, Wish::Result(_));
        if waits && self.draining {
            return self.refuse_call_with(call.key, LIMIT_REACHED, GOING_DOWN, None);
        }
        let request = ClientCall { shard: self.tasks.runs.shard(), call: call.key, session, wish };
        if tasks.to_desk.try_send(ToDesk::Call(request)).is_ok() {
            self.tasks.asked.insert(call.key, waits);
        } else {
            let text = "too many requests about tasks wait; try again after 1 s";
            self.refuse_call_with(call.key, LIMIT_REACHED, text, None);
        }
    }

    fn refuse_call_with(&mut self, key: CallKey, code: i32, text: &str, data: Option<&[u8]>) {
        self.events.error(key, code, |out| {
            jsonrpc::write_error_object(out, ErrorCode(code), text, data);
        });
    }

    /// A client has given a call up. The desk need not answer it, if it has it.
    pub(crate) fn give_up_asked(&mut self, key: CallKey) {
        if self.tasks.asked.is_empty() || self.tasks.asked.remove(&key).is_none() {
            return;
        }
        self.tasks.questions.retain(|_, question| question.call != key);
        let shard = self.tasks.runs.shard();
        self.tell_desk(ToDesk::GivenUp { shard, call: key });
    }

    /// The node goes down: who waits for a task's end is told to ask again.
    pub(crate) fn end_waiting_for_tasks(&mut self) {
        let waiting = self.tasks.asked.iter().filter(|(_, waits)| **waits);
        let waiting: Vec<CallKey> = waiting.map(|(key, _)| *key).collect();
        for key in waiting {
            self.give_up_asked(key);
            self.refuse_call_with(key, LIMIT_REACHED, GOING_DOWN, None);
        }
    }

    /// What the desk says.
    pub(crate) fn take_from_desk(&mut self, io: &mut Io<'_, Message>, message: FromDesk) {
        match message {
            FromDesk::Answer { call, outcome, body } => {
                if self.tasks.asked.remove(&call).is_none() {
                    return;
                }
                self.tasks.questions.retain(|_, question| question.call != call);
                match outcome {
                    Outcome::Result => {
                        self.events.result(call, |out| out.extend_from_slice(&body));
                    }
                    Outcome::Error(code) => {
                        self.events.error(call, code, |out| out.extend_from_slice(&body));
                    }
                }
            }
            FromDesk::Notify { session, message } => self.send_standing(io, session, &message),
            FromDesk::Ask { call, id, questions } => self.ask_for_task(io, call, id, questions),
            FromDesk::Run(run) => self.begin_run(io, &run),
            FromDesk::Stop { id, attempt } => self.stop_run(io, id, attempt),
        }
        self.relay(io);
    }

    /// Puts a task's questions to the legacy client that waits for its result.
    // MCP 2025-11-25, tasks: requests of a task MUST name it in `_meta`.
    fn ask_for_task(
        &mut self,
        io: &mut Io<'_, Message>,
        key: CallKey,
        id: TaskId,
        questions: Vec<(Box<str>, Box<[u8]>)>,
    ) {
        let Some(session) = self.calls.call(key).and_then(|call| call.session) else { return };
        for (question_key, body) in questions {
            let method = jsonrpc::member(&body, "method").and_then(jsonrpc::string);
            let Some(method) = method else { continue };
            let params = jsonrpc::member(&body, "params").unwrap_or(b"{}");
            let params = related_params(params, &id.to_string());
            self.tasks.made += 1;
            let ask = self.tasks.made;
            let question = Question { id, key: question_key, call: key };
            self.tasks.questions.insert(ask, question);
            self.put_to_client(
                io,
                AskKey(TASK_ASK | ask),
                session,
                Some(key),
                (&method, Some(&params)),
            );
        }
    }

    /// A client's reply to a question: the task's, or else the upstream's.
    pub(crate) fn take_reply(
        &mut self,
        io: &Io<'_, Message>,
        ask: AskKey,
        outcome: Outcome,
        body: &[u8],
    ) {
        if ask.0 & TASK_ASK == 0 {
            let now = self.now(io);
            return self.upstream.handle_reply(ask, outcome, body, now, &mut self.events);
        }
        let Some(Question { id, key, .. }) = self.tasks.questions.remove(&(ask.0 & !TASK_ASK))
        else {
            return;
        };
        self.tell_desk(ToDesk::Reply { id, key, outcome, body: body.into() });
    }
}

/// `params.task.ttl`; `None` if the client leaves it open.
fn ttl_of(task: Option<&[u8]>) -> Result<Option<u64>, &'static str> {
    let Some(task) = task else { return Ok(None) };
    if !task.starts_with(b"{") {
        return Err("params.task must be an object");
    }
    let Some(ttl) = jsonrpc::member(task, "ttl") else { return Ok(None) };
    // Some clients ask for a task without end so; they get the longest time there is.
    if ttl == b"null" {
        return Ok(Some(u64::MAX));
    }
    let number = std::str::from_utf8(ttl).ok().and_then(|text| text.parse::<f64>().ok());
    match number {
        Some(number) if number >= 0.0 => Ok(Some((number as u64).max(1))),
        Some(_) | None => Err("params.task.ttl must be a number of milliseconds, 0 or more"),
    }
}
