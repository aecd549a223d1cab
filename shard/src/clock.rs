//! Monotonic time, counted from one moment that all shards share.

use std::sync::OnceLock;
use std::time::Instant;

static START: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds since the first call in this process.
pub fn monotonic_ns() -> u64 {
    let start = START.get_or_init(Instant::now);
    // 2^64 ns are 584 years.
    start.elapsed().as_nanos() as u64
}
