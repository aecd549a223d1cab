//! Who waits for a task to end, and who wants to hear of it until then.
//!
//! Limits: calls that wait are bounded by the calls that sessions may have in flight; who
//! wants to hear of a task is forgotten when it ends.

use std::collections::HashMap;

use shardgate_proto::mcp::modern::INVALID_PARAMS;
use shardgate_proto::upstream::{CallKey, SessionKey};
use shardgate_replicate_proto::coordinator::TaskStatus;
use shardgate_replicate_proto::identity::TaskId;

use super::Desk;
use crate::tasks::{ClientCall, FromDesk, writing};

/// The session whose call has become a task.
#[derive(Clone, Debug)]
pub(super) struct Maker {
    pub(super) shard: u16,
    pub(super) session: SessionKey,
    /// Under which it wants to hear of progress, raw.
    pub(super) progress_token: Option<Box<[u8]>>,
}

#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// `tasks/result` calls, in the order of their coming.
    results: HashMap<TaskId, Vec<ClientCall>>,
    calls: HashMap<(u16, CallKey), TaskId>,
    makers: HashMap<TaskId, Maker>,
    /// Questions that a waiting client was asked, by the client's call.
    asked: HashMap<TaskId, (u16, CallKey, Vec<Box<str>>)>,
}

impl Waiting {
    pub(super) fn wait(&mut self, id: TaskId, call: ClientCall) {
        self.calls.insert((call.shard, call.call), id);
        self.results.entry(id).or_default().push(call);
    }

    pub(super) fn made_by(&mut self, id: TaskId, maker: Maker) {
        self.makers.insert(id, maker);
    }

    pub(super) fn maker(&self, id: TaskId) -> Option<Maker> {
        self.makers.get(&id).cloned()
    }

    /// A call was given up.
    pub(super) fn forget(&mut self, shard: u16, call: CallKey) {
        let Some(id) = self.calls.remove(&(shard, call)) else { return };
        if let Some(waiting) = self.results.get_mut(&id) {
            waiting.retain(|one| (one.shard, one.call) != (shard, call));
            if waiting.is_empty() {
                self.results.remove(&id);
            }
        }
        // What it was asked is asked again of the next one that waits.
        if self.asked.get(&id).is_some_and(|(at, of, _)| (*at, *of) == (shard, call)) {
            self.asked.remove(&id);
        }
    }

    /// Nobody needs to be told of this task any more but those who are returned.
    fn end(&mut self, id: TaskId) -> (Vec<ClientCall>, Option<Maker>) {
        let calls = self.results.remove(&id).unwrap_or_default();
        for call in &calls {
            self.calls.remove(&(call.shard, call.call));
        }
        self.asked.remove(&id);
        (calls, self.makers.remove(&id))
    }

    /// All tasks that somebody wants to hear of.
    pub(super) fn tasks(&self) -> Vec<TaskId> {
        let mut tasks: Vec<TaskId> =
            self.results.keys().chain(self.makers.keys()).copied().collect();
        tasks.sort_unstable();
        tasks.dedup();
        tasks
    }

    /// Whom to ask these questions, if somebody waits who was not asked them yet.
    fn whom_to_ask(&mut self, id: TaskId, keys: Vec<Box<str>>) -> Option<(u16, CallKey)> {
        if self.asked.get(&id).is_some_and(|(.., asked)| keys.iter().all(|it| asked.contains(it))) {
            return None;
        }
        let first = self.results.get(&id)?.first()?;
        let (shard, call) = (first.shard, first.call);
        self.asked.insert(id, (shard, call, keys));
        Some((shard, call))
    }
}

impl Desk {
    /// A task's status, message or questions have changed.
    pub(super) fn status_changed(&self, id: TaskId) {
        let Some(task) = self.task(id) else { return };
        let maker = self.waiting.borrow().maker(id);
        if let Some(maker) = maker {
            let message = writing::status_notification(&task);
            let notice = FromDesk::Notify { session: maker.session, message };
            self.outbox.send(maker.shard, notice);
        }
        if task.status() == TaskStatus::InputRequired {
            self.ask_who_waits(id);
        }
    }

    /// MCP 2025-11-25, tasks: a client that sees `input_required` calls `tasks/result`, and
    /// gets the questions on that call's stream.
    pub(super) fn ask_who_waits(&self, id: TaskId) {
        let Some(task) = self.task(id) else { return };
        let open = task.inputs.iter().flat_map(|inputs| &inputs.requests);
        let questions: Vec<(Box<str>, Box<[u8]>)> =
            open.map(|question| (question.key.clone(), question.body.clone())).collect();
        if questions.is_empty() {
            return;
        }
        let keys = questions.iter().map(|(key, _)| key.clone()).collect();
        let whom = self.waiting.borrow_mut().whom_to_ask(id, keys);
        if let Some((shard, call)) = whom {
            self.outbox.send(shard, FromDesk::Ask { call, id, questions });
        }
    }

    /// A task has ended: whoever waits for its result gets it.
    pub(super) fn task_ended(self: &std::rc::Rc<Desk>, id: TaskId) {
        let (calls, maker) = self.waiting.borrow_mut().end(id);
        if let (Some(maker), Some(task)) = (maker, self.task(id)) {
            let message = writing::status_notification(&task);
            self.outbox.send(maker.shard, FromDesk::Notify { session: maker.session, message });
        }
        for call in calls {
            let desk = std::rc::Rc::clone(self);
            tokio::task::spawn_local(async move { desk.answer_result(&call, id).await });
        }
    }

    /// A task's time is over.
    pub(super) fn task_dropped(&self, id: TaskId) {
        let (calls, _) = self.waiting.borrow_mut().end(id);
        for call in calls {
            self.refuse(&call, INVALID_PARAMS, super::answering::UNKNOWN);
        }
        let kept = self.kept.borrow_mut().remove(&id);
        if let Some(hash) = kept {
            self.blobs.release(hash);
        }
    }
}
