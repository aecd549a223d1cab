//! What all parts of one simulated run share: its randomness, its counters, what went wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::async_runtime::AsyncRuntime;
use openraft::async_runtime::Instant as _;
use openraft_rt_sim::{SimInstant, SimRuntime};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::mutant::Mutant;

/// A handle to what a run's parts share.
#[derive(Clone)]
pub struct World {
    shared: Arc<Mutex<Shared>>,
    began: SimInstant,
    mutant: Option<Mutant>,
}

struct Shared {
    rng: SmallRng,
    happened: BTreeMap<&'static str, u64>,
    broken: Vec<String>,
}

impl World {
    /// The world of this seed. Must be made inside the simulator's runtime.
    pub fn new(seed: u64) -> World {
        World::with(seed, None)
    }

    /// The world of this seed with something broken in it.
    pub fn with(seed: u64, mutant: Option<Mutant>) -> World {
        let rng = SmallRng::seed_from_u64(seed);
        let shared = Shared { rng, happened: BTreeMap::new(), broken: Vec::new() };
        World { shared: Arc::new(Mutex::new(shared)), began: SimInstant::now(), mutant }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is what is broken here.
    pub fn has(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Virtual time since the run began.
    pub fn now(&self) -> Duration {
        SimInstant::now() - self.began
    }

    /// True in `parts` of a million cases.
    pub fn chance(&self, parts: u32) -> bool {
        self.shared().rng.random_range(0..1_000_000) < parts
    }

    /// A number of `0..end`.
    pub fn below(&self, end: usize) -> usize {
        self.shared().rng.random_range(0..end)
    }

    /// 64 random bits.
    pub fn bits(&self) -> u64 {
        self.shared().rng.random()
    }

    /// A duration between two.
    pub fn between(&self, shortest: Duration, longest: Duration) -> Duration {
        let nanos = |duration: Duration| {
            u64::try_from(duration.as_nanos()).expect("durations of a run are short")
        };
        if shortest >= longest {
            return shortest;
        }
        Duration::from_nanos(self.shared().rng.random_range(nanos(shortest)..nanos(longest)))
    }

    /// Counts something that should happen in some runs, so that it can be shown that it did.
    pub fn count(&self, what: &'static str) {
        *self.shared().happened.entry(what).or_default() += 1;
    }

    /// How often what was counted happened.
    pub fn happened(&self) -> BTreeMap<&'static str, u64> {
        self.shared().happened.clone()
    }

    /// Notes that an invariant is broken.
    pub fn broken(&self, sentence: String) {
        let at = self.now();
        self.shared().broken.push(format!("at {:.3} s: {sentence}", at.as_secs_f64()));
    }

    /// Which invariants are broken.
    pub fn all_broken(&self) -> Vec<String> {
        self.shared().broken.clone()
    }
}

/// Waits in virtual time.
pub async fn sleep(duration: Duration) {
    SimRuntime::sleep(duration).await;
}

/// Runs a future beside the others.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    // Its end is not waited for.
    drop(SimRuntime::spawn(future));
}
