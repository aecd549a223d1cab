//! Whether a state keeps its invariants, by looking at all of it: for tests and simulations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::COPIES_MAX;
use super::state::State;
use super::tasks::{Phase, Task, Tasks};
use super::vshards::{Vshard, Vshards};
use super::workers::Workers;
use crate::identity::VSHARDS;

/// An invariant that does not hold: a defect of the coordinator itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator's state breaks an invariant: {0}")]
pub struct Broken(pub String);

type Audited = Result<(), Broken>;

fn hold(holds: bool, what: impl FnOnce() -> String) -> Audited {
    if holds { Ok(()) } else { Err(Broken(what())) }
}

impl State {
    /// Looks at everything, which takes as long as there is much.
    ///
    /// # Errors
    ///
    /// The first invariant found broken.
    pub fn audit(&self) -> Audited {
        self.audit_vshards()?;
        self.audit_tasks()?;
        self.audit_workers()?;
        self.audit_indexes()
    }

    fn audit_vshards(&self) -> Audited {
        let table = self.vshards.table();
        hold(table.len() == usize::from(VSHARDS), || "the table has another length".into())?;
        for (place, record) in table.iter().enumerate() {
            hold(self.is_sound(record), || format!("virtual shard {place}: {record:?}"))?;
        }
        let anew = Vshards::of(table.into(), self.vshards.lost_total);
        hold(anew == self.vshards, || "the table's counts are not what a scan gives".into())
    }

    fn is_sound(&self, record: &Vshard) -> bool {
        let live = |id| self.node(id).is_some_and(|node| node.is_live());
        let known = record.copies.iter().all(|id| self.node(id).is_some());
        let members = record.isr.iter().all(|id| live(id) && record.copies.contains(id));
        let owned = match record.primary {
            Some(primary) => record.isr.contains(primary) && record.epoch.0 > 0,
            None => record.isr.is_empty(),
        };
        known && members && owned && record.copies.len() <= COPIES_MAX
    }

    fn audit_tasks(&self) -> Audited {
        let mut last_ms = 0;
        for task in self.tasks.by_number().values() {
            hold(self.is_sound_task(task), || format!("task {}: {task:?}", task.id))?;
            hold(last_ms <= task.created_ms, || format!("task {} is out of order", task.id))?;
            last_ms = task.created_ms;
        }
        Ok(())
    }

    fn is_sound_task(&self, task: &Task) -> bool {
        let ended = task.status().is_final();
        let executor = ended || self.nodes.is_live(task.executor);
        let worker = match task.phase {
            Phase::Queued => task.needs_worker && task.worker.is_none(),
            Phase::Assigned | Phase::Running | Phase::InputRequired => {
                let present = task.worker.as_ref().map(|name| self.worker(name).is_some());
                present == task.needs_worker.then_some(true)
            }
            Phase::Completed | Phase::Failed | Phase::Cancelled => true,
        };
        let emptied = !ended || (task.params.is_empty() && task.inputs.is_none());
        executor && worker && emptied && task.ending.is_none() != self.has_ending(task)
    }

    fn has_ending(&self, task: &Task) -> bool {
        matches!(task.phase, Phase::Completed | Phase::Failed)
    }

    fn audit_workers(&self) -> Audited {
        let mut anew = Workers::default();
        anew.gone = self.workers.gone.clone();
        for worker in self.workers.iter() {
            let load = self.tasks.loads.len_of(&worker.name);
            hold(load == worker.load as usize, || format!("load of {worker:?} is {load}"))?;
            anew.insert(worker.clone());
            self.audit_queues(&worker.name)?;
        }
        hold(anew == self.workers, || "the workers' order is not what a scan gives".into())
    }

    /// Nothing waits for a worker that has room for it.
    fn audit_queues(&self, worker: &Arc<str>) -> Audited {
        let waits = self.workers.has_room(worker).then(|| self.first_waiting_for(worker)).flatten();
        hold(waits.is_none(), || format!("task {waits:?} waits and worker {worker} has room"))
    }

    fn audit_indexes(&self) -> Audited {
        let mut anew = Tasks::default();
        anew.gone = self.tasks.gone.clone();
        anew.last = self.tasks.last;
        for task in self.tasks.by_number().values() {
            anew.insert((**task).clone());
        }
        hold(anew == self.tasks, || "the tasks' indexes are not what a scan gives".into())?;
        let ids: BTreeSet<_> = self.tasks.by_number().values().map(|task| task.id).collect();
        hold(ids.len() == self.tasks.len(), || "two tasks have one id".into())?;
        let mut names = BTreeMap::new();
        for node in self.nodes() {
            let twin = names.insert(&node.name, node.id);
            hold(twin.is_none(), || format!("two nodes are named {:?}", node.name))?;
        }
        Ok(())
    }
}
