//! The calls that tasks make: calls of this shard that no client waits for.
//!
//! To the upstream the gateway is a modern client then, so that questions come as
//! `input_required` and nothing of the call depends on a session.

use std::collections::{BTreeMap, VecDeque};

use shardgate_proto::clock::Millis;
use shardgate_proto::jsonrpc;
use shardgate_proto::mcp::modern::{INTERNAL_ERROR, INVALID_PARAMS};
use shardgate_proto::mcp::version::ProtocolVersion;
use shardgate_proto::upstream::{Call, CallKey, Caller, Outcome, Upstream};
use shardgate_replicate_proto::identity::TaskId;
use shardgate_shard::Io;

use super::calls::{PendingCall, RequestId};
use super::message::Message;
use super::service::Gateway;
use crate::metrics::Method;
use crate::tasks::{Progress, Report, Run, ToDesk};

/// Progress of one call is told on not more often than this: each time it goes to the log.
const PROGRESS_PAUSE_MS: u64 = 200;

/// One call.
#[derive(Debug)]
struct OneRun {
    id: TaskId,
    attempt: u32,
    /// When progress may be told on again.
    progress_from: Millis,
}

/// The calls that tasks make on this shard, and what the desk has not been told.
#[derive(Debug, Default)]
pub(crate) struct TaskRuns {
    shard: u16,
    runs: BTreeMap<CallKey, OneRun>,
    /// What the desk had no room for, oldest first.
    untold: VecDeque<ToDesk>,
}

impl TaskRuns {
    pub(super) fn on_shard(shard: u16) -> TaskRuns {
        TaskRuns { shard, ..TaskRuns::default() }
    }

    pub(super) fn shard(&self) -> u16 {
        self.shard
    }

    /// True if the desk has not been told all yet.
    pub(super) fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }

    fn find(&self, id: TaskId, attempt: u32) -> Option<CallKey> {
        let mut runs = self.runs.iter();
        runs.find(|(_, run)| run.id == id && run.attempt == attempt).map(|(key, _)| *key)
    }
}

impl<U: Upstream> Gateway<U> {
    /// Makes a task's call.
    pub(super) fn begin_run(&mut self, io: &mut Io<'_, Message>, run: &Run) {
        let now = self.now(io);
        let Run { id, attempt, .. } = *run;
        let Some(route) = self.settings.routes.find(run.route.as_bytes()) else {
            let text = format!("the path {} is not served any more", run.route);
            return self.report_fault(id, attempt, INVALID_PARAMS, &text);
        };
        let text = format!("\"{id}\"");
        let started_ns = io.turn_began_ns();
        let key = self.calls.insert(|key| PendingCall {
            key,
            session: None,
            exchange: None,
            stream: None,
            streaming: false,
            in_flight: true,
            for_task: true,
            id: RequestId::new(text.as_bytes()),
            version: ProtocolVersion::V2026_07_28,
            method: Method::of("tools/call"),
            started_ns,
        });
        self.tasks.runs.runs.insert(key, OneRun { id, attempt, progress_from: now });
        let name = jsonrpc::member(&run.params, "name").and_then(jsonrpc::string);
        let call = Call {
            key,
            caller: Caller::Task,
            route,
            version: ProtocolVersion::V2026_07_28,
            id: text.as_bytes(),
            method: "tools/call",
            params: Some(&run.params),
            name: name.as_deref(),
        };
        self.upstream.handle_call(&call, now, &mut self.events);
    }

    /// Gives a task's call up.
    pub(super) fn stop_run(&mut self, io: &Io<'_, Message>, id: TaskId, attempt: u32) {
        let Some(key) = self.tasks.runs.find(id, attempt) else { return };
        let now = self.now(io);
        self.tasks.runs.runs.remove(&key);
        self.calls.remove(key);
        self.upstream.cancel(key, now, &mut self.events);
    }

    /// True if this call is a task's.
    pub(crate) fn is_run(&self, key: CallKey) -> bool {
        !self.tasks.runs.runs.is_empty() && self.tasks.runs.runs.contains_key(&key)
    }

    /// A task's call was answered.
    pub(crate) fn run_answered(&mut self, key: CallKey, outcome: Outcome, body: &[u8]) {
        let Some(OneRun { id, attempt, .. }) = self.tasks.runs.runs.remove(&key) else { return };
        let kind = match outcome {
            Outcome::Result => jsonrpc::member(body, "resultType").and_then(jsonrpc::string),
            Outcome::Error(_) => None,
        };
        let report = match kind.as_deref() {
            Some("input_required") => {
                let mut requests = Vec::new();
                let asked = jsonrpc::member(body, "inputRequests").unwrap_or(b"{}");
                jsonrpc::each_member(asked, |key, body| requests.push((key.into(), body.into())));
                let state = jsonrpc::member(body, "requestState").map(Box::from);
                Report::Asked { requests, state }
            }
            Some("task") => {
                let text = "the tool server answered with a task of its own, which it was not \
                            asked for";
                return self.report_fault(id, attempt, INTERNAL_ERROR, text);
            }
            Some(_) | None => Report::Ended { outcome, body: body.into() },
        };
        self.tell_desk(ToDesk::Report { id, attempt, report });
    }

    /// A notification on a task's call: progress, or nothing that anybody wants to know.
    pub(crate) fn run_notified(&mut self, io: &Io<'_, Message>, key: CallKey, message: &[u8]) {
        let now = self.now(io);
        let method = jsonrpc::member(message, "method").and_then(jsonrpc::string);
        if method.as_deref() != Some("notifications/progress") {
            return;
        }
        let Some(run) = self.tasks.runs.runs.get_mut(&key) else { return };
        let params = jsonrpc::member(message, "params").unwrap_or(b"{}");
        let Some(progress) = jsonrpc::member(params, "progress") else { return };
        if now < run.progress_from {
            return;
        }
        run.progress_from = now + PROGRESS_PAUSE_MS;
        let (id, attempt) = (run.id, run.attempt);
        let text = jsonrpc::member(params, "message").and_then(jsonrpc::string);
        let report = Report::Progress(Progress {
            progress: progress.into(),
            total: jsonrpc::member(params, "total").map(Box::from),
            message: text.map(|text| Box::from(&*text)),
        });
        self.tell_desk(ToDesk::Report { id, attempt, report });
    }

    fn report_fault(&mut self, id: TaskId, attempt: u32, code: i32, text: &str) {
        let mut body = Vec::new();
        jsonrpc::write_error_object(&mut body, jsonrpc::ErrorCode(code), text, None);
        let report = Report::Ended { outcome: Outcome::Error(code), body: body.into() };
        self.tell_desk(ToDesk::Report { id, attempt, report });
    }

    /// Tells the desk, now or at a turn's end; nothing is lost for want of room.
    pub(super) fn tell_desk(&mut self, message: ToDesk) {
        let Some(tasks) = &self.settings.tasks else { return };
        let runs = &mut self.tasks.runs;
        if !runs.untold.is_empty() {
            return runs.untold.push_back(message);
        }
        if let Err(flume::TrySendError::Full(message)) = tasks.to_desk.try_send(message) {
            runs.untold.push_back(message);
        }
    }

    /// Tells the desk what it had no room for.
    pub(crate) fn tell_desk_the_rest(&mut self) {
        let Some(tasks) = &self.settings.tasks else { return };
        while let Some(message) = self.tasks.runs.untold.pop_front() {
            if let Err(flume::TrySendError::Full(message)) = tasks.to_desk.try_send(message) {
                return self.tasks.runs.untold.push_front(message);
            }
        }
    }
}
