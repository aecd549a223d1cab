//! Two hundred clusters with faults, a minute of virtual time each: no invariant breaks.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shardgate_sim::run::run;

const SEEDS: u64 = 200;
const SECONDS: u64 = 60;

#[test]
fn two_hundred_seeds_break_nothing() {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    let failures: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let mut failures = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= SEEDS {
                    return failures;
                }
                let report = run(seed, Duration::from_secs(SECONDS));
                assert!(report.operations > 0, "seed {seed}: the cluster answered nothing");
                failures.extend(report.broken.first().map(|first| {
                    format!(
                        "seed {seed}: {first}\n  repeat it: cargo run --release -p shardgate-sim \
                         -- --seed {seed} --seconds {SECONDS}"
                    )
                }));
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a run panicked")).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
