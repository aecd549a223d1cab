//! Who makes a task's call: which node, which worker, and who next if one of them is lost.
//!
//! Invariants:
//! - A worker is never given more than its capacity; what finds no room waits in the
//!   order of creation and is given out as soon as a matching worker has some.
//! - A call that may have been begun is made again only if its tool is idempotent, and at
//!   most [`TASK_ATTEMPTS_MAX`] times in all; otherwise its task fails and says so.

use std::sync::Arc;

use super::TASK_ATTEMPTS_MAX;
use super::command::Departure;
use super::outcome::{Change, Refusal};
use super::state::{Changes, State};
use super::tasks::{Ending, Phase, Queue, Task, TaskNumber, Touched};
use super::workers::Labels;
use crate::identity::NodeId;

/// JSON-RPC 2.0, error object: "Internal error".
const INTERNAL_ERROR: i64 = -32_603;

impl State {
    /// The node to make a call: the one wished for, or else the least loaded of the best.
    pub(super) fn executor(&self, wished: NodeId) -> Result<NodeId, Refusal> {
        let open = self.nodes.by_id.get(&wished).is_some_and(|node| node.is_open());
        if open {
            return Ok(wished);
        }
        self.least_loaded_node().ok_or(Refusal::NoLiveNode)
    }

    fn least_loaded_node(&self) -> Option<NodeId> {
        let load = |id| self.tasks.by_executor.len_of(&id);
        self.nodes.live().min_by_key(|node| (!node.is_open(), load(node.id), node.id)).map(|n| n.id)
    }

    /// Changes a task and the loads of the workers that gain or lose it by that.
    pub(super) fn alter_task(
        &mut self,
        number: TaskNumber,
        change: impl FnOnce(&mut Task),
    ) -> Option<Arc<str>> {
        let touched = self.tasks.alter(number, change);
        self.settle(touched)
    }

    /// Counts a worker's gain and another's loss; the latter may have room now.
    pub(super) fn settle(&mut self, touched: Touched) -> Option<Arc<str>> {
        if let Some(name) = &touched.relieved {
            self.workers.alter(name, |worker| worker.load -= 1);
        }
        if let Some(name) = &touched.burdened {
            self.workers.alter(name, |worker| worker.load += 1);
        }
        touched.relieved
    }

    /// Gives a worker with room the tasks that have waited longest for one like it.
    pub(super) fn feed(&mut self, name: &str, changes: Changes<'_>) {
        while self.workers.has_room(name)
            && let Some(number) = self.first_waiting_for(name)
            && let Some(worker) = self.workers.worker(name)
        {
            let worker = worker.name.clone();
            self.give_out(number, Some(worker), changes);
        }
    }

    fn first_waiting_for(&self, name: &str) -> Option<TaskNumber> {
        let worker = self.workers.worker(name)?;
        let first = Queue { service: worker.service.clone(), labels: Labels::default() };
        let queues = self.tasks.queues.keys().range(first..);
        queues
            .take_while(|(queue, _)| queue.service == worker.service)
            .filter(|(queue, _)| worker.labels.satisfy(&queue.labels))
            .filter_map(|(_, numbers)| numbers.first().copied())
            .min()
    }

    /// Finds a worker for a task that waits, if one has room.
    fn try_give_out(&mut self, number: TaskNumber, changes: Changes<'_>) {
        let Some(task) = self.tasks.task(number).filter(|task| task.phase == Phase::Queued) else {
            return;
        };
        if let Some(worker) = self.workers.choose(&task.service, &task.labels) {
            self.give_out(number, Some(worker), changes);
        }
    }

    /// The next attempt begins here: the executor and the worker are as of now.
    fn give_out(&mut self, number: TaskNumber, worker: Option<Arc<str>>, changes: Changes<'_>) {
        let Some(task) = self.tasks.task(number) else { return };
        let executor = self.executor(task.executor).unwrap_or(task.executor);
        let (id, attempt) = (task.id, task.attempt + 1);
        self.alter_task(number, |task| {
            task.executor = executor;
            task.worker = worker;
            task.phase = Phase::Assigned;
            task.attempt = attempt;
            task.report = 0;
        });
        changes.push(Change::TaskDispatched { id, attempt, executor });
    }

    /// A node's life is over: its tasks go to others, or fail if nobody can know what became of them.
    pub(super) fn move_tasks_off_node(&mut self, node: NodeId, changes: Changes<'_>) {
        let held = self.tasks.by_executor.of(&node).into_iter().flatten();
        let held = held.filter_map(|number| Some((*number, self.tasks.task(*number)?.attempt)));
        for (number, attempt) in held.collect::<Vec<_>>() {
            let Some(task) = self.tasks.task(number) else { continue };
            // A task before it may have made room for this one and sent it on.
            if task.attempt == attempt && !task.status().is_final() {
                self.move_task_off_node(number, node, changes);
            }
        }
    }

    fn move_task_off_node(&mut self, number: TaskNumber, node: NodeId, changes: Changes<'_>) {
        let Some(task) = self.tasks.task(number) else { return };
        let Some(executor) = self.least_loaded_node() else { return };
        match fate(task) {
            Fate::Waits => _ = self.alter_task(number, |task| task.executor = executor),
            Fate::GoesOn => self.hand_over(number, executor, changes),
            Fate::BeginsAgain => {
                self.alter_task(number, forget_attempt);
                self.hand_over(number, executor, changes);
            }
            Fate::Fails => {
                let message = lost(task, &format!("node {node}, which made its call, was lost"));
                self.fail_lost(number, message, changes);
            }
        }
    }

    /// Gives a task to another executor, which makes the next attempt with the same worker.
    fn hand_over(&mut self, number: TaskNumber, executor: NodeId, changes: Changes<'_>) {
        let Some(task) = self.tasks.task(number) else { return };
        let (id, attempt) = (task.id, task.attempt + 1);
        self.alter_task(number, |task| {
            task.executor = executor;
            task.attempt = attempt;
            task.report = 0;
        });
        changes.push(Change::TaskDispatched { id, attempt, executor });
    }

    /// A worker's registration is over: its tasks go to others of its service, or fail.
    pub(super) fn move_tasks_off_worker(
        &mut self,
        name: &str,
        why: Departure,
        changes: Changes<'_>,
    ) {
        let held = self.tasks.loads.of(name).cloned().unwrap_or_default();
        for number in held {
            let Some(task) = self.tasks.task(number) else { continue };
            match fate(task) {
                Fate::Waits => {}
                // Even a call that is not open may mean something to this worker only.
                Fate::GoesOn if task.phase == Phase::InputRequired => {
                    self.fail_lost(number, lost(task, &left(name, why)), changes);
                }
                Fate::GoesOn | Fate::BeginsAgain => {
                    self.alter_task(number, |task| {
                        forget_attempt(task);
                        task.phase = Phase::Queued;
                        task.worker = None;
                        // The attempt that was given out has no say any more.
                        task.attempt += 1;
                    });
                    self.try_give_out(number, changes);
                }
                Fate::Fails => self.fail_lost(number, lost(task, &left(name, why)), changes),
            }
        }
    }

    fn fail_lost(&mut self, number: TaskNumber, message: String, changes: Changes<'_>) {
        let ending = Ending::Error { code: INTERNAL_ERROR, message: message.as_str().into() };
        self.end_task(number, Phase::Failed, Some(ending), Some(&message), changes);
    }
}

/// What becomes of a task that lost its executor or its worker.
enum Fate {
    /// It waits on.
    Waits,
    /// Nothing is open at the tool server: another goes on where it is.
    GoesOn,
    /// Its call may be made again.
    BeginsAgain,
    /// Nobody knows whether its call took effect.
    Fails,
}

fn fate(task: &Task) -> Fate {
    let again = task.idempotent && task.starts < TASK_ATTEMPTS_MAX;
    let resumable = task.inputs.as_ref().is_some_and(|inputs| inputs.resume.is_some());
    match task.phase {
        Phase::Queued | Phase::Completed | Phase::Failed | Phase::Cancelled => Fate::Waits,
        Phase::Assigned => Fate::GoesOn,
        Phase::InputRequired if resumable => Fate::GoesOn,
        Phase::Running | Phase::InputRequired if again => Fate::BeginsAgain,
        Phase::Running | Phase::InputRequired => Fate::Fails,
    }
}

/// A call that is made anew asks its questions anew.
fn forget_attempt(task: &mut Task) {
    task.phase = Phase::Assigned;
    if let Some(inputs) = &mut task.inputs {
        inputs.requests.clear();
        inputs.responses.clear();
        inputs.resume = None;
    }
}

fn left(name: &str, why: Departure) -> String {
    let how = match why {
        Departure::Left => "signed off",
        Departure::LeaseEnded => "was silent for longer than its lease",
        Departure::Replaced => "was replaced by another process",
    };
    format!("worker {name:?}, which ran its call, {how}")
}

/// Why a task failed whose call nobody will end.
fn lost(task: &Task, what: &str) -> String {
    if task.idempotent {
        format!("outcome unknown: {what}, and the call was begun {} times already", task.starts)
    } else {
        format!(
            "outcome unknown: {what}, and tool {:?} is not declared idempotent, so the call is \
             not made again; submit it again if that is safe",
            task.tool
        )
    }
}
