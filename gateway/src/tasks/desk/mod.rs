//! The desk: where a node's clients ask for tasks, beside the control log's state.
//!
//! Invariants:
//! - Everything here lives on the control thread; what waits for the log waits in a future
//!   of its own, so that nobody waits behind it.
//! - State is looked at and left again before the next await.
//! - What a client is told was read behind a barrier, or has come by the log as a change.

mod answering;
mod outbox;
mod running;
mod waiting;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use shardgate_proto::mcp::modern::LIMIT_REACHED;
use shardgate_proto::upstream::Outcome as CallOutcome;
use shardgate_replicate::control_log::{ControlLog, Next, ProposeError};
use shardgate_replicate_proto::coordinator::{Change, Command, DROPS_MAX, Outcome, Task};
use shardgate_replicate_proto::identity::TaskId;
use std::sync::Arc;
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior};

use self::outbox::Outbox;
use self::running::Running;
use self::waiting::Waiting;
use super::payload::{BlobHash, BlobStore, MemoryBlobs};
use super::{ClientCall, FromDesk, ToDesk, writing};
use crate::config;

pub(crate) use self::outbox::DeliverTasks;

/// How often the desk looks for tasks whose time is over.
const SWEEP_PERIOD: Duration = Duration::from_millis(500);
/// How often it tries again to tell a shard that had no room.
const DELIVERY_PERIOD: Duration = Duration::from_millis(5);
/// A proposal that nobody takes for so long has failed. A new leader takes about a second.
const PROPOSE_TIME_MAX: Duration = Duration::from_secs(10);
/// The pause between two tries.
const PROPOSE_PAUSE: Duration = Duration::from_millis(100);

/// What the desk needs.
pub(crate) struct DeskSetup {
    /// What shards want.
    pub(crate) requests: flume::Receiver<ToDesk>,
    /// How shards are told.
    pub(crate) deliver: DeliverTasks,
    /// How many there are.
    pub(crate) shards: u16,
    /// Times and sizes.
    pub(crate) settings: config::Tasks,
}

impl std::fmt::Debug for DeskSetup {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("DeskSetup").field("shards", &self.shards).finish_non_exhaustive()
    }
}

/// The desk of this node.
struct Desk {
    log: Rc<dyn ControlLog>,
    blobs: Rc<dyn BlobStore>,
    settings: config::Tasks,
    outbox: Outbox,
    waiting: RefCell<Waiting>,
    running: RefCell<Running>,
    /// Blobs that tasks of this node's have put into the store.
    kept: RefCell<HashMap<TaskId, BlobHash>>,
}

/// Keeps the desk for as long as shards may ask. Needs a `LocalSet` around it.
pub(crate) async fn keep(setup: DeskSetup, log: Rc<dyn ControlLog>) {
    let DeskSetup { requests, deliver, shards, settings } = setup;
    let mut changes = log.subscribe();
    let desk = Rc::new(Desk {
        log,
        blobs: Rc::new(MemoryBlobs::default()),
        running: RefCell::new(Running::new(shards)),
        settings,
        outbox: Outbox::new(shards, deliver),
        waiting: RefCell::default(),
        kept: RefCell::default(),
    });
    desk.look_at_everything();
    let mut sweep = tokio::time::interval(SWEEP_PERIOD);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            request = requests.recv_async() => match request {
                Ok(request) => desk.take(request),
                // The last shard has ended, and with it all who could ask.
                Err(flume::RecvError::Disconnected) => return,
            },
            next = changes.next() => match next {
                Next::Change(change) => desk.notice(&change),
                Next::Missed(_) => desk.look_at_everything(),
                Next::Stopped => return,
            },
            _ = sweep.tick() => desk.sweep(),
            () = tokio::time::sleep(DELIVERY_PERIOD), if desk.outbox.is_behind() => {
                desk.outbox.flush();
            }
        }
    }
}

impl Desk {
    /// Something a shard wants.
    fn take(self: &Rc<Desk>, request: ToDesk) {
        match request {
            ToDesk::Call(call) => {
                let desk = Rc::clone(self);
                spawn_local(async move { desk.serve(call).await });
            }
            ToDesk::GivenUp { shard, call } => self.waiting.borrow_mut().forget(shard, call),
            ToDesk::Reply { id, key, outcome, body } => {
                let desk = Rc::clone(self);
                spawn_local(async move { desk.take_reply(id, key, outcome, body).await });
            }
            ToDesk::Report { id, attempt, report } => self.take_report(id, attempt, report),
        }
    }

    /// Something has changed in the log's state.
    fn notice(self: &Rc<Desk>, change: &Change) {
        match change {
            Change::TaskDispatched { id, attempt, executor } => {
                self.dispatched(*id, *attempt, *executor);
            }
            Change::TaskUpdated { id } => self.status_changed(*id),
            Change::TaskAnswered { id, executor } => {
                self.status_changed(*id);
                self.go_on(*id, *executor);
            }
            Change::TaskEnded { id, .. } => {
                self.stop_run(*id);
                self.task_ended(*id);
            }
            Change::TaskDropped { id, .. } => {
                self.stop_run(*id);
                self.task_dropped(*id);
            }
            Change::NodeRegistered { .. }
            | Change::NodeFenced { .. }
            | Change::NodeDraining { .. }
            | Change::NodeRemoved { .. }
            | Change::FeatureLevel { .. }
            | Change::VshardMoved { .. }
            | Change::VshardAltered { .. }
            | Change::WorkerJoined { .. }
            | Change::WorkerUpdated { .. }
            | Change::WorkerLeft { .. } => {}
        }
    }

    /// At the start, and after changes were missed.
    fn look_at_everything(self: &Rc<Desk>) {
        let own = self.log.status().node;
        let given: Vec<(TaskId, u32)> = {
            let state = self.log.state();
            state.tasks_of_node(own).map(|task| (task.id, task.attempt)).collect()
        };
        let lost = self.running.borrow().all_but(&given);
        lost.into_iter().for_each(|id| self.stop_run(id));
        for (id, attempt) in given {
            self.dispatched(id, attempt, own);
            self.go_on(id, own);
        }
        for id in self.waiting.borrow().tasks() {
            match self.task(id) {
                Some(task) if task.status().is_final() => self.task_ended(id),
                Some(_) => self.status_changed(id),
                None => self.task_dropped(id),
            }
        }
    }

    /// Tasks whose time is over. One node, the leader, has them dropped.
    fn sweep(self: &Rc<Desk>) {
        if !self.log.status().is_leader() {
            return;
        }
        let ids = {
            let state = self.log.state();
            // A log that stands still does not move its time on; the clock does.
            state.due_tasks(unix_ms().max(state.now_ms()), DROPS_MAX)
        };
        if !ids.is_empty() {
            let desk = Rc::clone(self);
            spawn_local(async move { desk.propose(vec![Command::DropTasks { ids }]).await });
        }
    }

    fn task(&self, id: TaskId) -> Option<Arc<Task>> {
        self.log.state().task(id).cloned()
    }

    /// Has one command committed, however often that must be tried: commands are idempotent.
    async fn propose(&self, commands: Vec<Command>) -> Result<Outcome, ProposeError> {
        let give_up = Instant::now() + PROPOSE_TIME_MAX;
        loop {
            match self.log.propose(commands.clone()).await {
                Ok(mut outcomes) => {
                    return outcomes.pop().ok_or(ProposeError::Stopped);
                }
                Err(error @ ProposeError::Stopped) => return Err(error),
                Err(error) if Instant::now() >= give_up => return Err(error),
                Err(_) => tokio::time::sleep(PROPOSE_PAUSE).await,
            }
        }
    }

    fn answer(&self, call: &ClientCall, body: Vec<u8>) {
        let message = FromDesk::Answer { call: call.call, outcome: CallOutcome::Result, body };
        self.outbox.send(call.shard, message);
    }

    fn refuse(&self, call: &ClientCall, code: i32, why: &str) {
        let body = writing::error_object(i64::from(code), why);
        let message = FromDesk::Answer { call: call.call, outcome: CallOutcome::Error(code), body };
        self.outbox.send(call.shard, message);
    }

    fn refuse_for_now(&self, call: &ClientCall, why: &dyn std::error::Error) {
        self.refuse(call, LIMIT_REACHED, &why.to_string());
    }
}

fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
