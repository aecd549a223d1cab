//! Counts of children by endpoint, for the metrics and the status page.
//!
//! Written on the control thread when a child starts or ends, read by whoever asks: rare
//! enough for a lock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shardgate_proto::upstream::EndpointId;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndKind {
    /// A limit on the number of children kept it from being started.
    Refused,
    /// It could not be started.
    NotStarted,
    /// It exited with code 0 of its own accord.
    Exited,
    /// It exited with another code, was killed by a signal, or closed its streams.
    Crashed,
    /// It did not read its input until too much of that waited.
    Stuck,
    /// The gateway ended it: its link was closed, or the gateway goes down.
    Closed,
}

/// What happened to the children of one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointCounts {
    /// The tool server's name.
    pub upstream: String,
    /// Children that ran.
    pub started: u64,
    /// Those of them that were started after one that ended by itself.
    pub restarts: u64,
    /// Links that are open or being opened at present.
    pub running: u64,
    /// See [`EndKind::Refused`].
    pub refused: u64,
    /// See [`EndKind::NotStarted`].
    pub not_started: u64,
    /// See [`EndKind::Exited`].
    pub exited: u64,
    /// See [`EndKind::Crashed`].
    pub crashed: u64,
    /// See [`EndKind::Stuck`].
    pub stuck: u64,
    /// See [`EndKind::Closed`].
    pub closed: u64,
    /// Children that ended by themselves and were not followed by another yet.
    owed_restarts: u64,
}

impl EndpointCounts {
    /// Adds what happened to the children of another endpoint.
    pub fn merge(&mut self, other: &EndpointCounts) {
        self.started += other.started;
        self.restarts += other.restarts;
        self.running += other.running;
        self.refused += other.refused;
        self.not_started += other.not_started;
        self.exited += other.exited;
        self.crashed += other.crashed;
        self.stuck += other.stuck;
        self.closed += other.closed;
        self.owed_restarts += other.owed_restarts;
    }
}

/// The counts of all endpoints. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct ChildCounters(Arc<Mutex<BTreeMap<EndpointId, EndpointCounts>>>);

impl ChildCounters {
    /// The counts as they are now, by endpoint.
    pub fn snapshot(&self) -> Vec<(EndpointId, EndpointCounts)> {
        self.lock().iter().map(|(&endpoint, counts)| (endpoint, counts.clone())).collect()
    }

    pub(super) fn add_refusal(&self, endpoint: EndpointId, upstream: &str) {
        self.change(endpoint, upstream, |counts| counts.refused += 1);
    }

    pub(super) fn add_open(&self, endpoint: EndpointId, upstream: &str) {
        self.change(endpoint, upstream, |counts| counts.running += 1);
    }

    pub(super) fn add_start(&self, endpoint: EndpointId, upstream: &str) {
        self.change(endpoint, upstream, |counts| {
            counts.started += 1;
            if counts.owed_restarts > 0 {
                counts.owed_restarts -= 1;
                counts.restarts += 1;
            }
        });
    }

    /// The end of a link that [`ChildCounters::add_open`] counted.
    pub(super) fn add_end(&self, endpoint: EndpointId, upstream: &str, kind: EndKind) {
        self.change(endpoint, upstream, |counts| {
            counts.running = counts.running.saturating_sub(1);
            let ended_by_itself =
                matches!(kind, EndKind::Exited | EndKind::Crashed | EndKind::Stuck);
            counts.owed_restarts += u64::from(ended_by_itself);
            let count = match kind {
                EndKind::Refused => &mut counts.refused,
                EndKind::NotStarted => &mut counts.not_started,
                EndKind::Exited => &mut counts.exited,
                EndKind::Crashed => &mut counts.crashed,
                EndKind::Stuck => &mut counts.stuck,
                EndKind::Closed => &mut counts.closed,
            };
            *count += 1;
        });
    }

    fn change(
        &self,
        endpoint: EndpointId,
        upstream: &str,
        change: impl FnOnce(&mut EndpointCounts),
    ) {
        let mut all = self.lock();
        let counts = all.entry(endpoint).or_insert_with(|| EndpointCounts {
            upstream: upstream.to_owned(),
            ..EndpointCounts::default()
        });
        change(counts);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EndpointId, EndpointCounts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_a_start_after_an_end_that_was_not_ours() {
        let counters = ChildCounters::default();
        let endpoint = EndpointId(3);
        for kind in [EndKind::Closed, EndKind::Crashed, EndKind::Exited, EndKind::Closed] {
            counters.add_open(endpoint, "files");
            counters.add_start(endpoint, "files");
            counters.add_end(endpoint, "files", kind);
        }
        counters.add_open(endpoint, "files");
        let snapshot = counters.snapshot();
        let [(found, counts)] = snapshot.as_slice() else { panic!("one endpoint") };
        assert_eq!((*found, counts.upstream.as_str()), (endpoint, "files"));
        assert_eq!((counts.started, counts.restarts, counts.running), (4, 2, 1));
        assert_eq!((counts.closed, counts.crashed, counts.exited), (2, 1, 1));
    }
}
