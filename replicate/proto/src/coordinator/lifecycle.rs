//! Commands about tasks, from their submission until they are dropped.

use super::admission::at_most;
use super::command::{Input, Payload, TaskSubmission};
use super::outcome::{Change, Outcome, Refusal, Unit};
use super::state::{Applied, Changes, State};
use super::tasks::{Ending, Inputs, Phase, Queue, Task, TaskNumber};
use super::{INPUT_BYTES_MAX, INPUTS_MAX, QUEUES_MAX};
use super::{RETRY_WINDOW_MS, TASKS_MAX, TASKS_PER_OWNER_MAX, TASKS_QUEUED_MAX};
use crate::identity::TaskId;

/// How a command finds the task that it speaks of.
enum Found {
    /// It runs the attempt that the command names, or any if the command names none.
    Open(TaskNumber),
    /// It has ended.
    Ended(Outcome),
}

impl State {
    pub(super) fn submit_task(&mut self, new: &TaskSubmission, changes: Changes<'_>) -> Applied {
        if let Some(known) = self.tasks.with_id(new.id) {
            if *known.owner != *new.owner {
                return Err(Refusal::TaskIdTaken { id: new.id });
            }
            return Ok(Outcome::TaskSubmitted { id: new.id, created_ms: known.created_ms });
        }
        if self.tasks.gone.known(&new.id).is_some() {
            return Err(Refusal::TaskUnknown { id: new.id });
        }
        self.admit(new)?;
        let number = self.tasks.next_number(self.now_ms);
        let executor = self.executor(new.executor)?;
        let mut task = Task::submitted(new, number, executor, self.now_ms);
        task.worker = self.workers.choose(&task.service, &task.labels).filter(|_| new.needs_worker);
        if task.worker.is_some() || !new.needs_worker {
            (task.phase, task.attempt) = (Phase::Assigned, 1);
            changes.push(Change::TaskDispatched { id: new.id, attempt: 1, executor });
        } else if let Some(queue) = task.queue() {
            self.admit_to_queue(&queue)?;
        }
        let touched = self.tasks.insert(task);
        self.settle(touched);
        Ok(Outcome::TaskSubmitted { id: new.id, created_ms: self.now_ms })
    }

    fn admit(&self, new: &TaskSubmission) -> Result<(), Refusal> {
        if self.tasks.len() >= TASKS_MAX {
            return Err(Refusal::TooManyTasks);
        }
        if self.tasks.by_owner.len_of(&*new.owner) >= TASKS_PER_OWNER_MAX {
            return Err(Refusal::TooManyTasksOfOwner);
        }
        Ok(())
    }

    fn admit_to_queue(&self, queue: &Queue) -> Result<(), Refusal> {
        if self.tasks.queued() >= TASKS_QUEUED_MAX {
            return Err(Refusal::QueueFull);
        }
        let queues = self.tasks.queues.keys();
        if queues.len() >= QUEUES_MAX && !queues.contains_key(queue) {
            return Err(Refusal::TooManyQueues);
        }
        Ok(())
    }

    pub(super) fn start_task(
        &mut self,
        id: TaskId,
        attempt: u32,
        _changes: Changes<'_>,
    ) -> Applied {
        let number = match self.find(id, Some(attempt))? {
            Found::Open(number) => number,
            Found::Ended(outcome) => return Ok(outcome),
        };
        if self.phase(number) == Some(Phase::Assigned) {
            self.alter_task(number, |task| {
                task.phase = Phase::Running;
                task.starts += 1;
            });
        }
        Ok(Outcome::TaskStarted { attempt })
    }

    pub(super) fn update_task(
        &mut self,
        id: TaskId,
        (attempt, report): (u32, u32),
        status_message: Option<&str>,
        changes: Changes<'_>,
    ) -> Applied {
        let number = match self.find(id, Some(attempt))? {
            Found::Open(number) => number,
            Found::Ended(outcome) => return Ok(outcome),
        };
        if !self.is_old_report(number, report) {
            let now_ms = self.now_ms;
            self.alter_task(number, |task| {
                task.report = report;
                task.status_message = status_message.map(Into::into);
                task.updated_ms = now_ms;
            });
            changes.push(Change::TaskUpdated { id });
        }
        Ok(Outcome::TaskReported { status: self.status_of(number) })
    }

    pub(super) fn ask_input(
        &mut self,
        id: TaskId,
        (attempt, report): (u32, u32),
        requests: &[Input],
        resume: Option<&[u8]>,
        changes: Changes<'_>,
    ) -> Applied {
        let number = match self.find(id, Some(attempt))? {
            Found::Open(number) => number,
            Found::Ended(outcome) => return Ok(outcome),
        };
        if !self.is_old_report(number, report) {
            self.admit_questions(number, requests)?;
            let now_ms = self.now_ms;
            self.alter_task(number, |task| {
                task.report = report;
                task.phase = Phase::InputRequired;
                task.updated_ms = now_ms;
                ask(task.inputs.get_or_insert_default(), requests, resume);
            });
            changes.push(Change::TaskUpdated { id });
        }
        Ok(Outcome::TaskReported { status: self.status_of(number) })
    }

    fn admit_questions(&self, number: TaskNumber, requests: &[Input]) -> Result<(), Refusal> {
        let Some(task) = self.tasks.task(number) else { return Ok(()) };
        let Some(inputs) = &task.inputs else { return Ok(()) };
        if let Some(used) = requests.iter().find(|asked| inputs.keys.contains(&asked.key)) {
            return Err(Refusal::InputKeyUsed { id: task.id, key: used.key.clone() });
        }
        let asked = inputs.keys.len() + requests.len();
        at_most("the questions of one task", asked, INPUTS_MAX, Unit::Entries)?;
        let held = input_bytes(&inputs.requests) + input_bytes(&inputs.responses);
        let bytes = held + input_bytes(requests);
        at_most("the questions and answers of one task", bytes, INPUT_BYTES_MAX, Unit::Bytes)
    }

    pub(super) fn answer_input(
        &mut self,
        id: TaskId,
        responses: &[Input],
        changes: Changes<'_>,
    ) -> Applied {
        let number = match self.find(id, None)? {
            Found::Open(number) => number,
            Found::Ended(outcome) => return Ok(outcome),
        };
        let wanted = self.answers_wanted(number, responses)?;
        if wanted.is_empty() {
            return Ok(Outcome::InputAnswered { status: self.status_of(number) });
        }
        let now_ms = self.now_ms;
        self.alter_task(number, |task| {
            let inputs = task.inputs.get_or_insert_default();
            inputs.requests.retain(|open| !wanted.iter().any(|answer| answer.key == open.key));
            inputs.responses.extend(wanted.into_iter().cloned());
            if inputs.requests.is_empty() {
                task.phase = Phase::Running;
            }
            task.updated_ms = now_ms;
        });
        if let Some(task) = self.tasks.task(number) {
            changes.push(Change::TaskAnswered { id, executor: task.executor });
        }
        Ok(Outcome::InputAnswered { status: self.status_of(number) })
    }

    /// The answers to questions that are open, the first to each.
    fn answers_wanted<'a>(
        &self,
        number: TaskNumber,
        responses: &'a [Input],
    ) -> Result<Vec<&'a Input>, Refusal> {
        let Some(inputs) = self.tasks.task(number).and_then(|task| task.inputs.as_ref()) else {
            return Ok(Vec::new());
        };
        let mut wanted: Vec<&Input> = Vec::new();
        for response in responses {
            let open = inputs.requests.iter().any(|request| request.key == response.key);
            if open && !wanted.iter().any(|taken| taken.key == response.key) {
                wanted.push(response);
            }
        }
        let new: usize = wanted.iter().map(|answer| answer.key.len() + answer.body.len()).sum();
        let bytes = input_bytes(&inputs.requests) + input_bytes(&inputs.responses) + new;
        at_most("the questions and answers of one task", bytes, INPUT_BYTES_MAX, Unit::Bytes)?;
        Ok(wanted)
    }

    pub(super) fn complete_task(
        &mut self,
        id: TaskId,
        attempt: u32,
        payload: &Payload,
        failed: bool,
        changes: Changes<'_>,
    ) -> Applied {
        let phase = if failed { Phase::Failed } else { Phase::Completed };
        self.end(id, Some(attempt), phase, || Some(Ending::Result(payload.clone())), None, changes)
    }

    pub(super) fn fail_task(
        &mut self,
        id: TaskId,
        attempt: u32,
        code: i64,
        message: &str,
        changes: Changes<'_>,
    ) -> Applied {
        let ending = || Some(Ending::Error { code, message: message.into() });
        self.end(id, Some(attempt), Phase::Failed, ending, Some(message), changes)
    }

    pub(super) fn cancel_task(
        &mut self,
        id: TaskId,
        reason: Option<&str>,
        changes: Changes<'_>,
    ) -> Applied {
        self.end(id, None, Phase::Cancelled, || None, reason, changes)
    }

    fn end(
        &mut self,
        id: TaskId,
        attempt: Option<u32>,
        phase: Phase,
        ending: impl FnOnce() -> Option<Ending>,
        message: Option<&str>,
        changes: Changes<'_>,
    ) -> Applied {
        let number = match self.find(id, attempt)? {
            Found::Open(number) => number,
            Found::Ended(outcome) => return Ok(outcome),
        };
        self.end_task(number, phase, ending(), message, changes);
        Ok(Outcome::TaskEnded { status: phase.status() })
    }

    /// Ends a task for good, and gives its worker's room to one that waits.
    pub(super) fn end_task(
        &mut self,
        number: TaskNumber,
        phase: Phase,
        ending: Option<Ending>,
        message: Option<&str>,
        changes: Changes<'_>,
    ) {
        let now_ms = self.now_ms;
        let relieved = self.alter_task(number, |task| {
            task.phase = phase;
            task.updated_ms = now_ms;
            task.ending = ending.map(Box::new);
            task.status_message = message.map(Into::into);
            task.params = Box::default();
            task.inputs = None;
        });
        if let Some(task) = self.tasks.task(number) {
            let (id, executor) = (task.id, task.executor);
            changes.push(Change::TaskEnded { id, executor, status: phase.status() });
        }
        if let Some(worker) = relieved {
            self.feed(&worker, changes);
        }
    }

    pub(super) fn drop_tasks(&mut self, ids: &[TaskId], changes: Changes<'_>) -> Outcome {
        for id in ids {
            let Some(task) = self.tasks.with_id(*id) else { continue };
            if task.expires_ms().is_some_and(|expires_ms| expires_ms <= self.now_ms) {
                self.drop_task(task.number, changes);
            }
        }
        Outcome::TasksDropped
    }

    fn drop_task(&mut self, number: TaskNumber, changes: Changes<'_>) {
        let Some((task, touched)) = self.tasks.remove(number) else { return };
        if task.created_ms.saturating_add(RETRY_WINDOW_MS) > self.now_ms {
            self.tasks.gone.insert(task.id, (), self.now_ms);
        }
        changes.push(Change::TaskDropped { id: task.id, executor: task.executor });
        if let Some(worker) = self.settle(touched) {
            self.feed(&worker, changes);
        }
    }

    /// The task that a command speaks of, if the attempt it names is the present one.
    fn find(&self, id: TaskId, attempt: Option<u32>) -> Result<Found, Refusal> {
        let task = self.tasks.with_id(id).ok_or(Refusal::TaskUnknown { id })?;
        if task.status().is_final() {
            return Ok(Found::Ended(Outcome::TaskEnded { status: task.status() }));
        }
        match attempt {
            None => Ok(Found::Open(task.number)),
            Some(got) if got < task.attempt => {
                Err(Refusal::AttemptOld { id, got, now: task.attempt })
            }
            Some(got) if got > task.attempt || task.phase == Phase::Queued => {
                Err(Refusal::AttemptUnknown { id, attempt: got })
            }
            Some(_) => Ok(Found::Open(task.number)),
        }
    }

    fn phase(&self, number: TaskNumber) -> Option<Phase> {
        self.tasks.task(number).map(|task| task.phase)
    }

    fn is_old_report(&self, number: TaskNumber, report: u32) -> bool {
        self.tasks.task(number).is_none_or(|task| report <= task.report)
    }
}

/// Opens questions. Answers to questions before them were for the executor's last step.
fn ask(inputs: &mut Inputs, requests: &[Input], resume: Option<&[u8]>) {
    if inputs.requests.is_empty() {
        inputs.responses.clear();
    }
    inputs.keys.extend(requests.iter().map(|asked| asked.key.clone()));
    inputs.requests.extend(requests.iter().cloned());
    inputs.resume = resume.map(Into::into);
}

fn input_bytes(inputs: &[Input]) -> usize {
    inputs.iter().map(|input| input.key.len() + input.body.len()).sum()
}
