//! The workers: tool servers that registered themselves.
//!
//! Invariants:
//! - A name belongs to one registration at a time; registrations of a name only grow.
//! - A worker is in its service's order of choice exactly while it takes calls and has
//!   room, at the place its load gives it.
//!
//! Leases are the leader's own business and not in the log; only their end is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::command::WorkerRegistration;
use super::gone::Gone;
use crate::identity::{NodeId, Registration};

/// Labels: keys with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Labels(pub BTreeMap<Box<str>, Box<str>>);

impl Labels {
    /// Whether all of `wanted` are among these.
    pub fn satisfy(&self, wanted: &Labels) -> bool {
        wanted.0.iter().all(|(key, value)| self.0.get(key) == Some(value))
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Labels {
    fn from(pairs: [(&str, &str); N]) -> Labels {
        Labels(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

/// A worker as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its name.
    pub name: Arc<str>,
    /// Its present registration.
    pub registration: Registration,
    /// The last update of this registration.
    pub update: u32,
    /// The service whose tools it offers.
    pub service: Arc<str>,
    /// Where its MCP endpoint is.
    pub url: Box<str>,
    /// What it is labelled with.
    pub labels: Labels,
    /// Calls that it runs at one time.
    pub capacity: u32,
    /// How long it may be silent.
    pub lease_ms: u32,
    /// The node that it registered at.
    pub via: NodeId,
    /// Whether it takes new calls.
    pub accepting: bool,
    /// When it registered, in milliseconds since 1970.
    pub registered_ms: u64,
    /// Tasks that it was given and that have not ended. Counted from the tasks, not stored.
    #[serde(skip)]
    pub load: u32,
}

impl Worker {
    fn has_room(&self) -> bool {
        self.accepting && self.load < self.capacity
    }

    /// Its place in the order of choice: the share of its capacity in use, then its name.
    fn place(&self) -> (u64, Arc<str>) {
        let share = (u64::from(self.load) << 32) / u64::from(self.capacity.max(1));
        (share, self.name.clone())
    }
}

/// The workers of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) names: BTreeSet<Arc<str>>,
    /// Those with room, the least used first.
    free: BTreeSet<(u64, Arc<str>)>,
}

/// All workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Workers {
    by_name: BTreeMap<Arc<str>, Worker>,
    services: BTreeMap<Arc<str>, Service>,
    /// Workers that left lately, so that a late copy of their registration is noticed.
    pub(super) gone: Gone<Arc<str>, Registration>,
}

impl Workers {
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(super) fn worker(&self, name: &str) -> Option<&Worker> {
        self.by_name.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.by_name.values()
    }

    pub(super) fn after(&self, name: Option<&str>) -> impl Iterator<Item = &Worker> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = name.map_or(Unbounded, Excluded);
        self.by_name.range::<str, _>((start, Unbounded)).map(|(_, worker)| worker)
    }

    pub(super) fn services(&self) -> &BTreeMap<Arc<str>, Service> {
        &self.services
    }

    /// The worker of a service with room and the labels asked for that is used least.
    pub(super) fn choose(&self, service: &str, labels: &Labels) -> Option<Arc<str>> {
        let service = self.services.get(service)?;
        let fits = |name: &&Arc<str>| self.by_name[&**name].labels.satisfy(labels);
        service.free.iter().map(|(_, name)| name).find(fits).cloned()
    }

    pub(super) fn has_room(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(Worker::has_room)
    }

    pub(super) fn insert(&mut self, worker: Worker) {
        let service = self.services.entry(worker.service.clone()).or_default();
        service.names.insert(worker.name.clone());
        if worker.has_room() {
            service.free.insert(worker.place());
        }
        let before = self.by_name.insert(worker.name.clone(), worker);
        assert!(before.is_none(), "a worker is taken out before another takes its name");
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Worker> {
        let worker = self.by_name.remove(name)?;
        if let Some(service) = self.services.get_mut(&worker.service) {
            service.free.remove(&worker.place());
            service.names.remove(name);
            if service.names.is_empty() {
                self.services.remove(&worker.service);
            }
        }
        Some(worker)
    }

    /// Changes a worker and puts it where it now belongs in its service's order.
    pub(super) fn alter(&mut self, name: &str, change: impl FnOnce(&mut Worker)) {
        let Some(worker) = self.by_name.get_mut(name) else { return };
        let Some(service) = self.services.get_mut(&worker.service) else { return };
        service.free.remove(&worker.place());
        change(worker);
        if worker.has_room() {
            service.free.insert(worker.place());
        }
    }
}

impl Worker {
    pub(super) fn registered(new: &WorkerRegistration, service: Arc<str>, now_ms: u64) -> Worker {
        Worker {
            name: Arc::from(&*new.name),
            registration: new.registration,
            update: 0,
            service,
            url: new.url.clone(),
            labels: new.labels.clone(),
            capacity: new.capacity,
            lease_ms: new.lease_ms,
            via: new.via,
            accepting: true,
            registered_ms: now_ms,
            load: 0,
        }
    }

    /// Whether a registration says what is known, updates since then aside.
    pub(super) fn is_by(&self, new: &WorkerRegistration) -> bool {
        *self.service == *new.service && self.url == new.url && self.lease_ms == new.lease_ms
    }
}
