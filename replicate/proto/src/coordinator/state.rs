//! The coordinator's state, and how a batch of commands changes it.
//!
//! Invariants:
//! - Deterministic: equal states that apply an equal batch at an equal log index are equal
//!   again, give equal outcomes and tell of equal changes in the same order.
//! - No clock: [`State::now_ms`] is the latest time of any batch, so it never goes back
//!   even if a leader's clock does.
//! - A refused command changes nothing.

use std::fmt;

use super::NOW_MS_MAX;
use super::admission;
use super::command::{Batch, Command};
use super::nodes::Nodes;
use super::outcome::{Change, Outcome, Refusal};
use super::tasks::Tasks;
use super::vshards::Vshards;
use super::workers::Workers;
use crate::identity::ClusterName;

/// What the control log has come to.
#[derive(Clone, PartialEq, Eq)]
pub struct State {
    pub(super) cluster: ClusterName,
    pub(super) now_ms: u64,
    pub(super) applied: u64,
    pub(super) feature_level: u32,
    pub(super) nodes: Nodes,
    pub(super) vshards: Vshards,
    pub(super) workers: Workers,
    pub(super) tasks: Tasks,
}

/// A command's effect while it is applied: the changes so far.
pub(super) type Changes<'a> = &'a mut Vec<Change>;

/// What a command came to; `?` refuses it.
pub(super) type Applied = Result<Outcome, Refusal>;

/// In short: a whole state is too long for anyone to read.
impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("cluster", &self.cluster)
            .field("applied", &self.applied)
            .field("now_ms", &self.now_ms)
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

impl State {
    /// The state of a cluster in whose log nothing stands.
    pub fn new(cluster: ClusterName) -> State {
        State {
            cluster,
            now_ms: 0,
            applied: 0,
            feature_level: 0,
            nodes: Nodes::default(),
            vshards: Vshards::new(),
            workers: Workers::default(),
            tasks: Tasks::default(),
        }
    }

    /// Applies the entry at a log index: one outcome per command, in order. What changed is
    /// added to `changes`.
    ///
    /// # Panics
    ///
    /// If `index` is not above that of the entry before: the log must not be applied twice.
    pub fn apply(&mut self, index: u64, batch: &Batch, changes: &mut Vec<Change>) -> Vec<Outcome> {
        assert!(index > self.applied, "entry {index} after {} was applied", self.applied);
        self.applied = index;
        self.now_ms = self.now_ms.max(batch.now_ms.min(NOW_MS_MAX));
        self.workers.gone.advance(self.now_ms);
        self.tasks.gone.advance(self.now_ms);
        let apply = |command| self.apply_one(command, changes).unwrap_or_else(Outcome::Refused);
        batch.commands.iter().map(apply).collect()
    }

    fn apply_one(&mut self, command: &Command, changes: Changes<'_>) -> Applied {
        admission::check(command)?;
        match command {
            Command::RegisterNode(new) => self.register_node(new, changes),
            Command::FenceNode { id, incarnation, reason } => {
                self.fence_node(*id, *incarnation, reason, changes)
            }
            Command::DrainNode { id, incarnation } => self.drain_node(*id, *incarnation, changes),
            Command::RemoveNode { id } => self.remove_node(*id, changes),
            Command::SetFeatureLevel { level } => self.set_feature_level(*level, changes),
            Command::AlterIsr { vshard, epoch, version, primary_incarnation, isr } => {
                self.alter_isr(*vshard, (*epoch, *version), *primary_incarnation, isr, changes)
            }
            Command::MoveVshards { moves } => Ok(self.move_vshards(moves, changes)),
            Command::RegisterWorker(new) => self.register_worker(new, changes),
            Command::UpdateWorker(new) => self.update_worker(new, changes),
            Command::DeregisterWorker { name, registration, why } => {
                self.deregister_worker(name, *registration, *why, changes)
            }
            Command::SubmitTask(new) => self.submit_task(new, changes),
            Command::StartTask { id, attempt } => self.start_task(*id, *attempt, changes),
            Command::UpdateTask { id, attempt, report, status_message } => {
                self.update_task(*id, (*attempt, *report), status_message.as_deref(), changes)
            }
            Command::AskInput { id, attempt, report, requests, resume } => {
                self.ask_input(*id, (*attempt, *report), requests, resume.as_deref(), changes)
            }
            Command::AnswerInput { id, responses } => self.answer_input(*id, responses, changes),
            Command::CompleteTask { id, attempt, payload, failed } => {
                self.complete_task(*id, *attempt, payload, *failed, changes)
            }
            Command::FailTask { id, attempt, code, message } => {
                self.fail_task(*id, *attempt, *code, message, changes)
            }
            Command::CancelTask { id, reason } => self.cancel_task(*id, reason.as_deref(), changes),
            Command::DropTasks { ids } => Ok(self.drop_tasks(ids, changes)),
        }
    }
}
