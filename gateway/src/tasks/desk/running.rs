//! The executor: the calls that tasks make from this node.
//!
//! Invariants:
//! - A call is made only after its attempt's start is committed, and what it comes to counts
//!   only while that attempt is the task's present one.
//! - Not more than `tasks.running_max` are made at the same time; the others wait in the
//!   order in which they were given to this node.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use shardgate_proto::jsonrpc;
use shardgate_proto::mcp::modern::{INTERNAL_ERROR, LIMIT_REACHED};
use shardgate_proto::upstream::Outcome as CallOutcome;
use shardgate_replicate::control_log::ProposeError;
use shardgate_replicate_proto::coordinator::{
    Command, Input, MESSAGE_BYTES_MAX, Outcome, PAYLOAD_INLINE_BYTES_MAX, Payload, Phase, Task,
};
use shardgate_replicate_proto::identity::{NodeId, TaskId};
use tokio::task::spawn_local;

use super::Desk;
use crate::tasks::order::{self, Order};
use crate::tasks::{FromDesk, Progress, Report, Run, writing};

/// Rounds of questions of one task.
const ROUNDS_MAX: u32 = 32;

/// One attempt that this node makes.
#[derive(Clone, Copy, Debug)]
struct OneRun {
    attempt: u32,
    shard: u16,
    /// Reports so far.
    report: u32,
    /// False while its owner is asked: it then takes up no room.
    is_calling: bool,
}

#[derive(Debug)]
pub(super) struct Running {
    runs: HashMap<TaskId, OneRun>,
    /// Given to this node and not begun, by the attempt.
    queued: HashMap<TaskId, u32>,
    /// Their order. What is not queued any more is passed over.
    order: VecDeque<(TaskId, u32)>,
    calling: usize,
    shards: u16,
    next_shard: u16,
}

impl Running {
    pub(super) fn new(shards: u16) -> Running {
        Running {
            runs: HashMap::new(),
            queued: HashMap::new(),
            order: VecDeque::new(),
            calling: 0,
            shards: shards.max(1),
            next_shard: 0,
        }
    }

    /// Runs of tasks or attempts that are not among these.
    pub(super) fn all_but(&self, given: &[(TaskId, u32)]) -> Vec<TaskId> {
        let given: HashMap<TaskId, u32> = given.iter().copied().collect();
        let is_lost =
            |(id, run): (&TaskId, &OneRun)| (given.get(id) != Some(&run.attempt)).then_some(*id);
        self.runs.iter().filter_map(is_lost).collect()
    }

    fn run(&self, id: TaskId, attempt: u32) -> Option<OneRun> {
        self.runs.get(&id).copied().filter(|run| run.attempt == attempt)
    }

    /// The number of the next report of a run.
    fn next_report(&mut self, id: TaskId, attempt: u32) -> Option<u32> {
        let run = self.runs.get_mut(&id).filter(|run| run.attempt == attempt)?;
        run.report += 1;
        Some(run.report)
    }

    fn set_calling(&mut self, id: TaskId, is_calling: bool) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        if run.is_calling != is_calling {
            run.is_calling = is_calling;
            if is_calling {
                self.calling += 1;
            } else {
                self.calling -= 1;
            }
        }
    }

    fn remove(&mut self, id: TaskId) -> Option<OneRun> {
        self.set_calling(id, false);
        self.runs.remove(&id)
    }

    /// Has an attempt wait for its turn, unless it does already.
    fn queue(&mut self, id: TaskId, attempt: u32) {
        if self.queued.insert(id, attempt) != Some(attempt) {
            self.order.push_back((id, attempt));
        }
    }

    /// Takes the next one out of the queue that waits for its turn.
    fn begin_next(&mut self, running_max: usize) -> Option<(TaskId, OneRun)> {
        if self.calling >= running_max {
            return None;
        }
        let (id, attempt) = loop {
            let (id, attempt) = self.order.pop_front()?;
            if self.queued.get(&id) == Some(&attempt) {
                self.queued.remove(&id);
                break (id, attempt);
            }
        };
        let shard = self.next_shard;
        self.next_shard = (self.next_shard + 1) % self.shards;
        let run = OneRun { attempt, shard, report: 0, is_calling: false };
        self.runs.insert(id, run);
        self.set_calling(id, true);
        Some((id, run))
    }
}

impl Desk {
    /// A task was given to a node.
    pub(super) fn dispatched(self: &Rc<Desk>, id: TaskId, attempt: u32, executor: NodeId) {
        let known = self.running.borrow().runs.get(&id).map(|run| run.attempt);
        if known.is_some_and(|known| known < attempt) {
            self.stop_run(id);
        }
        if executor == self.log.status().node && known.is_none_or(|known| known < attempt) {
            self.running.borrow_mut().queue(id, attempt);
        }
        self.begin_runs();
    }

    /// Begins calls for as many tasks as there is room.
    fn begin_runs(self: &Rc<Desk>) {
        loop {
            let next = self.running.borrow_mut().begin_next(self.settings.running_max);
            let Some((id, run)) = next else { return };
            let desk = Rc::clone(self);
            spawn_local(async move { desk.begin(id, run).await });
        }
    }

    async fn begin(self: Rc<Desk>, id: TaskId, run: OneRun) {
        let attempt = run.attempt;
        let started = self.propose(vec![Command::StartTask { id, attempt }]).await;
        match started {
            Ok(Outcome::TaskStarted { .. }) => self.call(id, run),
            // Cancelled, dropped or given to another before it began.
            Ok(_) => self.forget_run(id, attempt),
            Err(ProposeError::Stopped) => self.forget_run(id, attempt),
            Err(_) => {
                // Its turn comes again.
                self.forget_run(id, attempt);
                self.dispatched(id, attempt, self.log.status().node);
            }
        }
    }

    /// Has a shard make the call.
    fn call(self: &Rc<Desk>, id: TaskId, run: OneRun) {
        // It may have been stopped while its start was committed.
        if self.running.borrow().run(id, run.attempt).is_none() {
            return;
        }
        let Some(task) = self.task(id) else { return self.forget_run(id, run.attempt) };
        match run_of(&task) {
            Some(order) => self.outbox.send(run.shard, FromDesk::Run(Box::new(order))),
            None => {
                let why = "the task's call can't be read; it was kept by another release";
                self.end(id, run.attempt, fail(id, run.attempt, INTERNAL_ERROR, why));
            }
        }
    }

    /// A task of this node's has new answers.
    pub(super) fn go_on(self: &Rc<Desk>, id: TaskId, executor: NodeId) {
        if executor != self.log.status().node {
            return;
        }
        let Some(task) = self.task(id) else { return };
        let Some(run) = self.running.borrow().run(id, task.attempt) else { return };
        if task.phase == Phase::Running && !run.is_calling {
            self.running.borrow_mut().set_calling(id, true);
            self.call(id, run);
        }
    }

    /// A task's call is not wanted any more, if it is made here.
    pub(super) fn stop_run(self: &Rc<Desk>, id: TaskId) {
        let mut running = self.running.borrow_mut();
        running.queued.remove(&id);
        let stopped = running.remove(id);
        drop(running);
        if let Some(run) = stopped {
            self.outbox.send(run.shard, FromDesk::Stop { id, attempt: run.attempt });
            self.begin_runs();
        }
    }

    /// A call has ended by itself.
    fn forget_run(self: &Rc<Desk>, id: TaskId, attempt: u32) {
        let mut running = self.running.borrow_mut();
        if running.run(id, attempt).is_some() {
            running.remove(id);
        }
        drop(running);
        self.begin_runs();
    }

    /// A shard tells of a call.
    pub(super) fn take_report(self: &Rc<Desk>, id: TaskId, attempt: u32, report: Report) {
        if self.running.borrow().run(id, attempt).is_none() {
            return;
        }
        match report {
            Report::Progress(progress) => self.progressed(id, attempt, &progress),
            Report::Asked { requests, state } => self.asked(id, attempt, requests, state),
            Report::Ended { outcome, body } => {
                let desk = Rc::clone(self);
                spawn_local(async move {
                    let ending = desk.ending(id, attempt, outcome, body).await;
                    desk.end(id, attempt, ending);
                });
            }
        }
    }

    fn progressed(self: &Rc<Desk>, id: TaskId, attempt: u32, progress: &Progress) {
        self.tell_maker(id, |maker| {
            let token = maker.progress_token.as_deref()?;
            Some(writing::progress_notification(&id.to_string(), token, progress))
        });
        let Some(report) = self.running.borrow_mut().next_report(id, attempt) else { return };
        let status_message = Some(cut(&writing::progress_text(progress)).into());
        let desk = Rc::clone(self);
        let command = Command::UpdateTask { id, attempt, report, status_message };
        spawn_local(async move { desk.tell_log(id, command).await });
    }

    fn asked(
        self: &Rc<Desk>,
        id: TaskId,
        attempt: u32,
        requests: Vec<(Box<str>, Box<[u8]>)>,
        state: Option<Box<[u8]>>,
    ) {
        if requests.is_empty() {
            return self.ask_again(id, attempt, state);
        }
        let round = self.task(id).map_or(0, |task| Resume::of(&task).round) + 1;
        if round > ROUNDS_MAX {
            let why = "the tool server asks for input again and again";
            return self.end(id, attempt, fail(id, attempt, LIMIT_REACHED, why));
        }
        let Some(report) = self.running.borrow_mut().next_report(id, attempt) else { return };
        self.running.borrow_mut().set_calling(id, false);
        self.begin_runs();
        let requests = requests
            .into_iter()
            .map(|(key, body)| Input { key: key_in_round(&key, round).into(), body })
            .collect();
        let resume = Some(Resume { round, state }.to_bytes());
        let command = Command::AskInput { id, attempt, report, requests, resume };
        let desk = Rc::clone(self);
        spawn_local(async move {
            if !desk.tell_log_for_certain(id, command).await {
                let why = "the tool server's questions could not be kept";
                desk.end(id, attempt, fail(id, attempt, LIMIT_REACHED, why));
            }
        });
    }

    /// The server asks nothing but to be called again with its state (MCP 2026-07-28, multi
    /// round-trip requests: `inputRequests` may be left out).
    fn ask_again(self: &Rc<Desk>, id: TaskId, attempt: u32, state: Option<Box<[u8]>>) {
        let count = self.running.borrow_mut().next_report(id, attempt);
        let run = self.running.borrow().run(id, attempt);
        let order = self.task(id).and_then(|task| run_of(&task));
        match (count, run, order, state) {
            (Some(count), Some(run), Some(mut order), Some(state)) if count <= ROUNDS_MAX => {
                let params = order::with_answers(&order.params, [].into_iter(), Some(&state));
                order.params = params.into();
                self.outbox.send(run.shard, FromDesk::Run(Box::new(order)));
            }
            _ => {
                let why = "the tool server asks for input and does not say for what";
                self.end(id, attempt, fail(id, attempt, LIMIT_REACHED, why));
            }
        }
    }

    /// What a call's outcome means for its task.
    async fn ending(
        &self,
        id: TaskId,
        attempt: u32,
        outcome: CallOutcome,
        body: Box<[u8]>,
    ) -> Command {
        if let CallOutcome::Error(code) = outcome {
            let message = jsonrpc::member(&body, "message").and_then(jsonrpc::string);
            return fail(id, attempt, code, &message.unwrap_or_default());
        }
        let (bytes, max) = (body.len(), self.settings.result_bytes_max);
        if bytes > max {
            let why = format!(
                "the result has {bytes} bytes, and at most {max} are kept (tasks.result_bytes_max)"
            );
            return fail(id, attempt, LIMIT_REACHED, &why);
        }
        let failed = jsonrpc::member(&body, "isError") == Some(b"true");
        let payload = if bytes <= PAYLOAD_INLINE_BYTES_MAX {
            Payload::Inline(body)
        } else {
            match self.blobs.put(body).await {
                Ok(sha256) => {
                    self.kept.borrow_mut().insert(id, sha256);
                    Payload::Blob { sha256, len: bytes as u64 }
                }
                Err(error) => return fail(id, attempt, LIMIT_REACHED, &error.to_string()),
            }
        };
        Command::CompleteTask { id, attempt, payload, failed }
    }

    /// Ends a task with the outcome of its call.
    fn end(self: &Rc<Desk>, id: TaskId, attempt: u32, ending: Command) {
        self.forget_run(id, attempt);
        let desk = Rc::clone(self);
        spawn_local(async move { desk.tell_log_for_certain(id, ending).await });
    }
}

fn fail(id: TaskId, attempt: u32, code: i32, why: &str) -> Command {
    Command::FailTask { id, attempt, code: i64::from(code), message: cut(why).into() }
}

/// A text for people, as much of it as the log takes.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MESSAGE_BYTES_MAX)]
}

/// What is needed to go on with a call once its questions are answered: JSON text
/// `{"round":N,"state":…}`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resume {
    /// Counts the rounds of questions from 1.
    round: u32,
    /// `requestState`, raw.
    state: Option<Box<[u8]>>,
}

impl Resume {
    fn of(task: &Task) -> Resume {
        let kept = task.inputs.as_ref().and_then(|inputs| inputs.resume.as_deref());
        let Some(kept) = kept else { return Resume::default() };
        let round = jsonrpc::member(kept, "round").and_then(|raw| std::str::from_utf8(raw).ok());
        Resume {
            round: round.and_then(|round| round.parse().ok()).unwrap_or(1),
            state: jsonrpc::member(kept, "state").map(Box::from),
        }
    }

    fn to_bytes(&self) -> Box<[u8]> {
        let mut out = format!("{{\"round\":{}", self.round).into_bytes();
        if let Some(state) = &self.state {
            out.extend_from_slice(b",\"state\":");
            out.extend_from_slice(state);
        }
        out.push(b'}');
        out.into()
    }
}

/// Servers may use a key again in the next round; a task may not.
fn key_in_round(key: &str, round: u32) -> String {
    if round == 1 { key.to_owned() } else { format!("{round}.{key}") }
}

fn key_of_server(key: &str, round: u32) -> &str {
    if round == 1 { key } else { key.split_once('.').map_or(key, |(_, key)| key) }
}

/// The call that a task makes next.
fn run_of(task: &Task) -> Option<Run> {
    let (route, params) = Order::read(&task.params)?;
    let resume = Resume::of(task);
    let params = match &task.inputs {
        Some(inputs) if resume.round > 0 => {
            let answers = inputs.responses.iter();
            let answers =
                answers.map(|answer| (key_of_server(&answer.key, resume.round), &*answer.body));
            order::with_answers(params, answers, resume.state.as_deref()).into()
        }
        Some(_) | None => params.into(),
    };
    Some(Run { id: task.id, attempt: task.attempt, route: route.into(), params })
}
