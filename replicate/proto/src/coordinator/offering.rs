//! Commands about workers.

use std::sync::Arc;

use super::WORKERS_MAX;
use super::command::{Departure, WorkerRegistration, WorkerUpdate};
use super::outcome::{Change, Outcome, Refusal};
use super::state::{Applied, Changes, State};
use super::workers::Worker;
use crate::identity::Registration;

impl State {
    pub(super) fn register_worker(
        &mut self,
        new: &WorkerRegistration,
        changes: Changes<'_>,
    ) -> Applied {
        let registration = new.registration;
        if let Some(known) = self.latest_registration(&new.name)
            && registration < known
        {
            let name = new.name.clone();
            return Err(Refusal::RegistrationOld { name, got: registration, known });
        }
        let Some(worker) = self.workers.worker(&new.name) else {
            if self.workers.gone.known(&*new.name) == Some(registration) {
                return Err(Refusal::WorkerUnknown { name: new.name.clone() });
            }
            if self.workers.len() >= WORKERS_MAX {
                return Err(Refusal::TooManyWorkers);
            }
            self.let_in(new, changes);
            return Ok(Outcome::WorkerRegistered { registration });
        };
        if registration == worker.registration {
            if worker.is_by(new) {
                return Ok(Outcome::WorkerRegistered { registration });
            }
            return Err(Refusal::RegistrationDiffers { name: new.name.clone(), registration });
        }
        self.let_out(&new.name, Departure::Replaced, changes);
        self.let_in(new, changes);
        Ok(Outcome::WorkerRegistered { registration })
    }

    pub(super) fn update_worker(&mut self, new: &WorkerUpdate, changes: Changes<'_>) -> Applied {
        let worker = self.registered_worker(&new.name, new.registration)?;
        if new.update <= worker.update {
            return Ok(Outcome::WorkerUpdated);
        }
        let name = worker.name.clone();
        self.workers.alter(&name, |worker| {
            worker.update = new.update;
            worker.capacity = new.capacity.unwrap_or(worker.capacity);
            worker.accepting = new.accepting.unwrap_or(worker.accepting);
            if let Some(labels) = &new.labels {
                worker.labels = labels.clone();
            }
        });
        changes.push(Change::WorkerUpdated { name: name.clone() });
        self.feed(&name, changes);
        Ok(Outcome::WorkerUpdated)
    }

    pub(super) fn deregister_worker(
        &mut self,
        name: &str,
        registration: Registration,
        why: Departure,
        changes: Changes<'_>,
    ) -> Applied {
        match self.latest_registration(name) {
            None => return Err(Refusal::WorkerUnknown { name: name.into() }),
            Some(known) if registration > known => {
                return Err(Refusal::WorkerUnknown { name: name.into() });
            }
            Some(known) if registration < known => return Ok(Outcome::WorkerDeregistered),
            Some(_) => {}
        }
        if self.workers.worker(name).is_some() {
            self.let_out(name, why, changes);
        }
        Ok(Outcome::WorkerDeregistered)
    }

    /// The largest registration of a name that is known, be it in force or just over.
    fn latest_registration(&self, name: &str) -> Option<Registration> {
        let present = self.workers.worker(name).map(|worker| worker.registration);
        present.max(self.workers.gone.known(name))
    }

    fn registered_worker(
        &self,
        name: &str,
        registration: Registration,
    ) -> Result<&Worker, Refusal> {
        let unknown = || Refusal::WorkerUnknown { name: name.into() };
        let worker = self.workers.worker(name).ok_or_else(unknown)?;
        if registration < worker.registration {
            let known = worker.registration;
            return Err(Refusal::RegistrationOld { name: name.into(), got: registration, known });
        }
        if registration > worker.registration {
            return Err(unknown());
        }
        Ok(worker)
    }

    fn let_in(&mut self, new: &WorkerRegistration, changes: Changes<'_>) {
        let service = self.workers.services().get_key_value(&*new.service);
        let service = service.map_or_else(|| Arc::from(&*new.service), |(name, _)| name.clone());
        let worker = Worker::registered(new, service, self.now_ms);
        let name = worker.name.clone();
        self.workers.insert(worker);
        changes.push(Change::WorkerJoined { name: name.clone(), registration: new.registration });
        self.feed(&name, changes);
    }

    fn let_out(&mut self, name: &str, why: Departure, changes: Changes<'_>) {
        let Some(worker) = self.workers.remove(name) else { return };
        let registration = worker.registration;
        self.workers.gone.insert(worker.name.clone(), registration, self.now_ms);
        changes.push(Change::WorkerLeft { name: worker.name.clone(), registration, why });
        self.move_tasks_off_worker(&worker.name, why, changes);
    }
}
