//! What clients ask of tasks, and what they are answered.

use std::rc::Rc;

use shardgate_proto::jsonrpc;
use shardgate_proto::mcp::modern::{INVALID_PARAMS, LIMIT_REACHED};
use shardgate_proto::mcp::version::Era;
use shardgate_proto::upstream::Outcome as CallOutcome;
use shardgate_replicate::control_log::ProposeError;
use shardgate_replicate_proto::coordinator::{
    Command, Ending, Input, Labels, Outcome, Payload, Refusal, Task, TaskFilter, TaskStatus,
    TaskSubmission,
};
use shardgate_replicate_proto::identity::TaskId;

use super::Desk;
use super::running::cut;
use super::waiting::Maker;
use crate::tasks::{ClientCall, FromDesk, Owner, Submission, Wish, writing};

/// The refusal of an id that leads nowhere.
pub(super) const UNKNOWN: &str =
    "params.taskId names no task of this gateway; its time to live may be over";

/// What a task was cancelled for, where its client gives no reason: none can.
const BY_CLIENT: &str = "The client cancelled the task.";

/// Tasks on one page of `tasks/list`.
const PAGE_TASKS: usize = 100;

impl Desk {
    /// Answers a client's request; one for a result perhaps much later.
    pub(super) async fn serve(self: Rc<Desk>, call: ClientCall) {
        if let Wish::Submit(_) = call.wish {
            return self.submit(call).await;
        }
        if let Err(error) = self.log.read_barrier().await {
            return self.refuse_for_now(&call, &error);
        }
        match &call.wish {
            Wish::Submit(_) => {}
            Wish::Get(id) => self.answer_get(&call, *id).await,
            Wish::Result(id) => self.wait_for_result(*id, call).await,
            Wish::Cancel(id) => self.cancel(&call, *id).await,
            Wish::Update(id, responses) => self.update(&call, *id, responses).await,
            Wish::List { owner, cursor } => self.list(&call, owner, cursor.as_deref()),
        }
    }

    async fn submit(&self, call: ClientCall) {
        let (shard, session, era) = (call.shard, call.session, call.era());
        let Wish::Submit(submission) = &call.wish else { return };
        let id = submission.id;
        if let Some(session) = session {
            let progress_token = submission.progress_token.clone();
            let maker = Maker { shard, session, progress_token };
            self.waiting.borrow_mut().made_by(id, maker);
        }
        let command = Command::SubmitTask(Box::new(self.submission(submission)));
        let (code, refused) = match self.propose(vec![command]).await {
            Ok(Outcome::Refused(refusal @ Refusal::TooLarge { .. })) => {
                (INVALID_PARAMS, refusal.to_string())
            }
            Ok(Outcome::Refused(refusal)) => (LIMIT_REACHED, refusal.to_string()),
            Err(error) => (LIMIT_REACHED, error.to_string()),
            // It is held, and may have ended already.
            Ok(_) => match self.task(id) {
                Some(task) => return self.answer(&call, writing::created(&task, era)),
                None => (INVALID_PARAMS, UNKNOWN.to_owned()),
            },
        };
        self.task_dropped(id);
        self.refuse(&call, code, &refused);
    }

    fn submission(&self, wanted: &Submission) -> TaskSubmission {
        let settings = &self.settings;
        let ttl_ms = wanted.ttl_ms.unwrap_or(settings.ttl_ms_default).min(settings.ttl_ms_max);
        TaskSubmission {
            id: wanted.id,
            owner: wanted.owner.0.clone(),
            tool: wanted.tool.clone(),
            service: wanted.service.clone(),
            params: wanted.order.0.clone(),
            labels: Labels::default(),
            needs_worker: false,
            idempotent: wanted.idempotent,
            ttl_ms: Some(ttl_ms),
            poll_interval_ms: u32::try_from(settings.poll_interval_ms).ok(),
            executor: self.log.status().node,
        }
    }

    async fn answer_get(&self, call: &ClientCall, id: TaskId) {
        let Some(task) = self.task(id) else {
            return self.refuse(call, INVALID_PARAMS, UNKNOWN);
        };
        if call.era() == Era::Legacy {
            return self.answer(call, writing::legacy_task(&task));
        }
        match self.result_of(&task).await {
            Ok(result) => self.answer(call, writing::modern_task(&task, result.as_deref())),
            Err(why) => self.refuse(call, LIMIT_REACHED, &why),
        }
    }

    /// The raw result of a task that has one.
    async fn result_of(&self, task: &Task) -> Result<Option<Rc<[u8]>>, String> {
        match task.ending.as_deref() {
            None | Some(Ending::Error { .. }) => Ok(None),
            Some(Ending::Result(Payload::Inline(result))) => Ok(Some(Rc::from(&**result))),
            Some(Ending::Result(Payload::Blob { sha256, len })) => {
                let fetched = self.blobs.fetch(*sha256, *len).await;
                fetched.map(Some).map_err(|error| error.to_string())
            }
        }
    }

    /// MCP 2025-11-25, tasks: `tasks/result` of a task that has not ended MUST "block the
    /// response until the task reaches a terminal status".
    async fn wait_for_result(&self, id: TaskId, call: ClientCall) {
        match self.task(id) {
            None => self.refuse(&call, INVALID_PARAMS, UNKNOWN),
            Some(task) if task.status().is_final() => self.answer_result(&call, id).await,
            Some(_) => {
                self.waiting.borrow_mut().wait(id, call);
                self.ask_who_waits(id);
            }
        }
    }

    /// Answers `tasks/result` of a task that has ended with what its call came to.
    pub(super) async fn answer_result(&self, call: &ClientCall, id: TaskId) {
        let Some(task) = self.task(id) else {
            return self.refuse(call, INVALID_PARAMS, UNKNOWN);
        };
        let result = match self.result_of(&task).await {
            Ok(result) => result,
            Err(why) => return self.refuse(call, LIMIT_REACHED, &why),
        };
        match (result, task.ending.as_deref()) {
            (Some(result), _) => self.answer(call, writing::legacy_result(&task, &result)),
            (None, Some(Ending::Error { code, message })) => {
                let code = i32::try_from(*code).unwrap_or(LIMIT_REACHED);
                self.refuse(call, code, message);
            }
            (None, Some(Ending::Result(_)) | None) => {
                let reason = task.status_message.as_deref().unwrap_or(BY_CLIENT);
                self.refuse(call, LIMIT_REACHED, &format!("the task has no result: {reason}"));
            }
        }
    }

    async fn cancel(&self, call: &ClientCall, id: TaskId) {
        let status = match self.task(id) {
            None => return self.refuse(call, INVALID_PARAMS, UNKNOWN),
            Some(task) => task.status(),
        };
        // MCP 2025-11-25, tasks: "Receivers MUST reject cancellation requests for tasks already
        // in a terminal status"; SEP-2663 has them acknowledged all the same.
        if status.is_final() && call.era() == Era::Legacy {
            let text = format!("the task has ended already: it is {}", status.as_str());
            return self.refuse(call, INVALID_PARAMS, &text);
        }
        let command = Command::CancelTask { id, reason: Some(BY_CLIENT.into()) };
        match (self.propose(vec![command]).await, call.era()) {
            (Err(error), _) => self.refuse_for_now(call, &error),
            (Ok(Outcome::Refused(_)), _) => self.refuse(call, INVALID_PARAMS, UNKNOWN),
            (Ok(_), Era::Modern) => self.answer(call, writing::modern_acknowledgement()),
            (Ok(_), Era::Legacy) => match self.task(id) {
                Some(task) if task.status() == TaskStatus::Cancelled => {
                    self.answer(call, writing::legacy_task(&task));
                }
                Some(task) => {
                    let status = task.status().as_str();
                    let text = format!("the task has ended in the meantime: it is {status}");
                    self.refuse(call, INVALID_PARAMS, &text);
                }
                None => self.refuse(call, INVALID_PARAMS, UNKNOWN),
            },
        }
    }

    /// `tasks/update`: answers to some or all of a task's questions; others are ignored.
    async fn update(&self, call: &ClientCall, id: TaskId, responses: &[u8]) {
        if self.task(id).is_none() {
            return self.refuse(call, INVALID_PARAMS, UNKNOWN);
        }
        let mut answers = Vec::new();
        let mut wrong = None;
        jsonrpc::each_member(responses, |key, body| {
            if body.first() != Some(&b'{') {
                wrong.get_or_insert_with(|| key.to_owned());
            }
            answers.push(Input { key: key.into(), body: body.into() });
        });
        if let Some(key) = wrong {
            let text = format!("params.inputResponses.{key} must be an object");
            return self.refuse(call, INVALID_PARAMS, &text);
        }
        match self.answer_questions(id, answers).await {
            Ok(()) => self.answer(call, writing::modern_acknowledgement()),
            Err(why) => self.refuse(call, LIMIT_REACHED, &why),
        }
    }

    async fn answer_questions(&self, id: TaskId, responses: Vec<Input>) -> Result<(), String> {
        // What is not asked need not fit.
        let open: Vec<Box<str>> = match self.task(id).and_then(|task| task.inputs.clone()) {
            Some(inputs) => inputs.requests.iter().map(|asked| asked.key.clone()).collect(),
            None => Vec::new(),
        };
        let responses: Vec<Input> =
            responses.into_iter().filter(|answer| open.contains(&answer.key)).collect();
        if responses.is_empty() {
            return Ok(());
        }
        match self.propose(vec![Command::AnswerInput { id, responses }]).await {
            Ok(Outcome::Refused(refusal)) => Err(refusal.to_string()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// A legacy client has answered a question that came on its `tasks/result`.
    pub(super) async fn take_reply(
        self: Rc<Desk>,
        id: TaskId,
        key: Box<str>,
        outcome: CallOutcome,
        body: Box<[u8]>,
    ) {
        let failure = match outcome {
            CallOutcome::Result => self.answer_questions(id, vec![Input { key, body }]).await.err(),
            CallOutcome::Error(code) => {
                let message = jsonrpc::member(&body, "message").and_then(jsonrpc::string);
                let message = message.unwrap_or_default();
                Some(format!("the client refused to answer {key:?} ({code}): {message}"))
            }
        };
        let Some(why) = failure else { return };
        let Some(attempt) = self.task(id).map(|task| task.attempt) else { return };
        let message = cut(&why).into();
        let code = i64::from(LIMIT_REACHED);
        self.tell_log_for_certain(id, Command::FailTask { id, attempt, code, message }).await;
    }

    fn list(&self, call: &ClientCall, owner: &Owner, cursor: Option<&str>) {
        let after = match cursor.map(str::parse).transpose() {
            Ok(after) => after,
            Err(_) => {
                let text = "params.cursor is not one this gateway gave out: list again from the \
                            start";
                return self.refuse(call, INVALID_PARAMS, text);
            }
        };
        let filter = TaskFilter { owner: Some(owner.0.clone()), ..TaskFilter::default() };
        let page = self.log.state().tasks(&filter, after, PAGE_TASKS);
        self.answer(call, writing::list(&page));
    }

    /// Has something committed that nobody waits for and that may be lost, if the log takes
    /// nothing for a while.
    pub(super) async fn tell_log(&self, id: TaskId, command: Command) {
        match self.propose(vec![command]).await {
            Ok(outcome) => _ = judge(id, &outcome),
            Err(error) => tracing::warn!(event = "task_untold", task = %id, why = %error),
        }
    }

    /// The same for what must not be lost: an end, or a question. False if it is refused.
    pub(super) async fn tell_log_for_certain(&self, id: TaskId, command: Command) -> bool {
        loop {
            match self.propose(vec![command.clone()]).await {
                Ok(outcome) => return judge(id, &outcome),
                Err(ProposeError::Stopped) => return true,
                Err(error) => tracing::error!(event = "task_untold", task = %id, why = %error),
            }
        }
    }

    /// A notification for the session that made a task.
    pub(super) fn tell_maker(&self, id: TaskId, write: impl FnOnce(&Maker) -> Option<Vec<u8>>) {
        let Some(maker) = self.waiting.borrow().maker(id) else { return };
        if let Some(message) = write(&maker) {
            self.outbox.send(maker.shard, FromDesk::Notify { session: maker.session, message });
        }
    }
}

/// False if something was refused that should have been taken.
fn judge(id: TaskId, outcome: &Outcome) -> bool {
    let Outcome::Refused(refusal) = outcome else { return true };
    // Of an attempt that does not count any more, or a task that is gone.
    if matches!(refusal, Refusal::AttemptOld { .. } | Refusal::TaskUnknown { .. }) {
        return true;
    }
    tracing::warn!(event = "task_refused", task = %id, why = %refusal);
    false
}
