//! Everything that is broken on purpose is noticed.
#![forbid(unsafe_code)]

use std::panic::catch_unwind;
use std::time::Duration;

use shardgate_sim::mutant::Mutant;
use shardgate_sim::run::run_with;

/// Runs within which a mutant must show. The hardest needs about 25.
const SEEDS_MAX: u64 = 100;
const LASTS: Duration = Duration::from_secs(30);

/// A mutant may break an invariant, or make the engine give up with a panic.
fn is_noticed(mutant: Mutant) -> bool {
    (0..SEEDS_MAX).any(|seed| {
        catch_unwind(|| run_with(seed, LASTS, Some(mutant)))
            .map_or(true, |report| !report.broken.is_empty())
    })
}

#[test]
fn every_mutant_is_noticed() {
    let missed: Vec<Mutant> =
        Mutant::ALL.into_iter().filter(|mutant| !is_noticed(*mutant)).collect();
    assert!(missed.is_empty(), "not noticed within {SEEDS_MAX} runs: {missed:?}");
}
