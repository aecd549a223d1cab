//! Leases of workers, kept by the leader in memory.
//!
//! A worker's sign of life is not worth an entry in the log. A new leader knows of none,
//! so it gives every worker a whole lease from the moment at which it begins to lead: a
//! change of leaders ends no lease early, and none lasts longer than two.
//!
//! A leader that was held up itself may have missed signs of life, so it gives everybody the
//! time that it was away for.
//!
//! Times are of a clock that never goes back, so a jump of the wall clock ends no lease.

use std::collections::BTreeMap;
use std::sync::Arc;

use shardgate_replicate_proto::coordinator::State;
use shardgate_replicate_proto::identity::Registration;

/// A longer pause between two looks is a leader that was held up.
const LOOK_PAUSE_MS_MAX: u64 = 300;

/// What a leader knows of workers' signs of life.
#[derive(Debug, Default)]
pub struct Leases {
    term: u64,
    looked_ms: u64,
    held: BTreeMap<Arc<str>, Lease>,
}

#[derive(Debug)]
struct Lease {
    registration: Registration,
    heard_ms: u64,
}

impl Leases {
    /// A worker gave a sign of life. False: the lease of that registration is not known yet
    /// or over, which [`Leases::ended`] and the state decide.
    pub fn beat(&mut self, name: &str, registration: Registration, now_ms: u64) -> bool {
        match self.held.get_mut(name) {
            Some(lease) if lease.registration == registration => {
                lease.heard_ms = now_ms;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Workers whose leases are over. To be called often, while this node leads in `term`.
    pub fn ended(
        &mut self,
        term: u64,
        state: &State,
        now_ms: u64,
    ) -> Vec<(Arc<str>, Registration)> {
        if self.term != term {
            self.term = term;
            self.held.clear();
        }
        let pause_ms = now_ms.saturating_sub(std::mem::replace(&mut self.looked_ms, now_ms));
        if pause_ms > LOOK_PAUSE_MS_MAX {
            self.held.values_mut().for_each(|lease| lease.heard_ms += pause_ms);
        }
        self.held.retain(|name, lease| {
            state.worker(name).is_some_and(|worker| worker.registration == lease.registration)
        });
        let mut ended = Vec::new();
        for worker in state.workers() {
            let fresh = Lease { registration: worker.registration, heard_ms: now_ms };
            let lease = self.held.entry(Arc::clone(&worker.name)).or_insert(fresh);
            if now_ms.saturating_sub(lease.heard_ms) > u64::from(worker.lease_ms) {
                ended.push((Arc::clone(&worker.name), worker.registration));
            }
        }
        ended
    }

    /// How many leases are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use shardgate_replicate_proto::coordinator::{Batch, Command, Labels, WorkerRegistration};
    use shardgate_replicate_proto::identity::NodeId;

    use super::*;

    fn with_worker(registration: u64) -> State {
        let mut state = State::new("test".parse().expect("a name"));
        let worker = WorkerRegistration {
            name: "w".into(),
            registration: Registration(registration),
            service: "s".into(),
            url: "http://127.0.0.1:9/mcp".into(),
            labels: Labels::default(),
            capacity: 1,
            lease_ms: 1_000,
            via: NodeId(1),
        };
        let batch = Batch { now_ms: 1, commands: vec![Command::RegisterWorker(Box::new(worker))] };
        state.apply(1, &batch, &mut Vec::new());
        assert_eq!(state.workers().count(), 1);
        state
    }

    /// Looks as often as a leader that is not held up, up to `to_ms`.
    fn look(leases: &mut Leases, term: u64, state: &State, to_ms: u64) -> usize {
        let from_ms = leases.looked_ms;
        let ended = (from_ms..=to_ms).step_by(100).map(|now_ms| leases.ended(term, state, now_ms));
        let early = ended.last().map_or(0, |ended| ended.len());
        early.max(leases.ended(term, state, to_ms).len())
    }

    #[test]
    fn a_silent_workers_lease_ends_and_a_heard_ones_does_not() {
        let state = with_worker(7);
        let mut leases = Leases::default();
        assert_eq!(look(&mut leases, 1, &state, 900), 0);
        assert!(leases.beat("w", Registration(7), 900));
        assert_eq!(look(&mut leases, 1, &state, 1_900), 0);
        assert_eq!(leases.ended(1, &state, 1_901), [("w".into(), Registration(7))]);
    }

    #[test]
    fn a_new_leader_gives_every_worker_a_whole_lease() {
        let state = with_worker(7);
        let mut leases = Leases::default();
        look(&mut leases, 1, &state, 900);
        assert_eq!(leases.ended(2, &state, 1_000), []);
        assert_eq!(look(&mut leases, 2, &state, 2_000), 0);
        assert_eq!(leases.ended(2, &state, 2_001).len(), 1);
    }

    #[test]
    fn a_leader_that_was_held_up_ends_no_lease_for_it() {
        let state = with_worker(7);
        let mut leases = Leases::default();
        look(&mut leases, 1, &state, 900);
        assert_eq!(leases.ended(1, &state, 9_900), []);
        assert_eq!(look(&mut leases, 1, &state, 10_000), 0);
        assert_eq!(leases.ended(1, &state, 10_001).len(), 1);
    }

    #[test]
    fn a_sign_of_life_of_an_earlier_registration_counts_for_nothing() {
        let state = with_worker(8);
        let mut leases = Leases::default();
        look(&mut leases, 1, &state, 900);
        assert!(!leases.beat("w", Registration(7), 900));
        look(&mut leases, 1, &state, 1_000);
        assert_eq!(leases.ended(1, &state, 1_001).len(), 1);
    }
}
