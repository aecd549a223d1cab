//! A histogram of durations of fixed size, cheap enough for every request.
//!
//! Limits: two significant digits; steps of 256 ns below 33 µs; durations above
//! [`DURATION_NS_MAX`] count as that. About 22 KiB each, whatever is recorded; a coarse
//! one has one digit and about 3 KiB.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longer durations are recorded as this: 68.7 s.
pub const DURATION_NS_MAX: u64 = (1 << 36) - 1;

const STEP_NS: u64 = 256;
const SIGNIFICANT_DIGITS: u8 = 2;
const COARSE_DIGITS: u8 = 1;

/// Upper bounds, in seconds, of the buckets that are exposed to Prometheus.
pub const BUCKETS_S: [f64; 20] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Durations and their sum.
#[derive(Clone, Debug)]
pub struct Latency {
    durations: Histogram<u64>,
    // The histogram knows its values only to two digits; the sum is exact.
    sum_ns: u64,
}

impl Latency {
    /// An empty histogram; allocates once and never again.
    pub fn new() -> Latency {
        Latency::with_digits(SIGNIFICANT_DIGITS)
    }

    /// An empty histogram that knows durations to one digit, for where there are many.
    pub fn coarse() -> Latency {
        Latency::with_digits(COARSE_DIGITS)
    }

    fn with_digits(digits: u8) -> Latency {
        let durations = Histogram::new_with_bounds(STEP_NS, DURATION_NS_MAX, digits)
            .expect("the bounds are constants that hdrhistogram accepts");
        Latency { durations, sum_ns: 0 }
    }

    /// Counts one duration.
    pub fn record(&mut self, elapsed_ns: u64) {
        self.durations.saturating_record(elapsed_ns);
        self.sum_ns = self.sum_ns.wrapping_add(elapsed_ns);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.durations.len()
    }

    /// The sum of all, in seconds.
    pub fn sum_seconds(&self) -> f64 {
        Duration::from_nanos(self.sum_ns).as_secs_f64()
    }

    /// The duration in nanoseconds below which the given share (0 to 1) lies; 0 if nothing was counted.
    pub fn quantile_ns(&self, share: f64) -> u64 {
        if self.durations.is_empty() { 0 } else { self.durations.value_at_quantile(share) }
    }

    /// Adds all that `other` has counted.
    pub fn merge(&mut self, other: &Latency) {
        self.durations.add(&other.durations).expect("all histograms here have the same range");
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
    }

    /// What was counted after `earlier`, an older copy of this histogram.
    pub fn since(&self, earlier: &Latency) -> Latency {
        let mut lately = self.clone();
        // Fails only if `earlier` is no older copy; then all there is is the best answer.
        if lately.durations.subtract(&earlier.durations).is_ok() {
            lately.sum_ns = lately.sum_ns.wrapping_sub(earlier.sum_ns);
        }
        lately
    }

    /// Upper bound in seconds and count of each exposed bucket, not cumulative; the last bound is infinite.
    ///
    /// A step of the histogram falls into the bucket that holds its upper end, so no
    /// duration is shown as shorter than it was.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let mut buckets: Vec<(f64, u64)> = BUCKETS_S.iter().map(|bound| (*bound, 0)).collect();
        buckets.push((f64::INFINITY, 0));
        let mut slot = 0;
        for step in self.durations.iter_recorded() {
            let end = Duration::from_nanos(step.value_iterated_to()).as_secs_f64();
            while end > buckets[slot].0 {
                slot += 1;
            }
            buckets[slot].1 += step.count_at_value();
        }
        buckets
    }
}

impl Default for Latency {
    fn default() -> Latency {
        Latency::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_size_is_bounded_whatever_comes() {
        let mut latency = Latency::new();
        for shift in 0..64 {
            latency.record(1 << shift);
        }
        latency.record(0);
        latency.record(u64::MAX);
        assert_eq!(latency.count(), 66);
        assert!(latency.durations.distinct_values() * 8 <= 24 * 1024);
        assert!(latency.quantile_ns(1.0) >= DURATION_NS_MAX);
    }

    #[test]
    fn a_coarse_one_is_small_and_right_to_a_sixteenth() {
        let mut latency = Latency::coarse();
        for milliseconds in 1..=1_000_u64 {
            latency.record(milliseconds * 1_000_000);
        }
        assert!(latency.durations.distinct_values() * 8 <= 4 * 1024);
        let found = latency.quantile_ns(0.5) as f64;
        assert!((found / 500e6 - 1.0).abs() < 1.0 / 16.0, "{found}");
    }

    #[test]
    fn quantiles_are_right_to_two_digits() {
        let mut latency = Latency::new();
        for microseconds in 1..=10_000_u64 {
            latency.record(microseconds * 1_000);
        }
        for (share, expected) in [(0.5, 5_000_000.0), (0.95, 9_500_000.0), (0.99, 9_900_000.0)] {
            let found = latency.quantile_ns(share) as f64;
            assert!((found / expected - 1.0).abs() < 0.01, "{share}: {found}");
        }
        assert_eq!(Latency::new().quantile_ns(0.99), 0);
        assert!((latency.sum_seconds() - 50.005).abs() < 1e-9);
    }

    #[test]
    fn buckets_hold_every_duration_once() {
        let mut latency = Latency::new();
        for elapsed_ns in [0, 9_000, 24_000, 900_000, 1_100_000, 4_000_000_000, 60_000_000_000] {
            latency.record(elapsed_ns);
        }
        let buckets = latency.buckets();
        let filled: Vec<(f64, u64)> = buckets.iter().copied().filter(|(_, n)| *n > 0).collect();
        let expected =
            [(0.000_01, 2), (0.000_025, 1), (0.001, 1), (0.002_5, 1), (5.0, 1), (f64::INFINITY, 1)];
        assert_eq!(filled, expected);
        assert_eq!(buckets.iter().map(|(_, n)| n).sum::<u64>(), latency.count());
    }

    #[test]
    fn since_leaves_what_came_later() {
        let mut latency = Latency::new();
        latency.record(1_000_000_000);
        let earlier = latency.clone();
        latency.record(1_000_000);
        let lately = latency.since(&earlier);
        assert_eq!(lately.count(), 1);
        assert!(lately.quantile_ns(1.0) < 1_100_000);
        assert!((lately.sum_seconds() - 0.001).abs() < 1e-12);
    }

    #[test]
    fn merging_adds() {
        let (mut one, mut other) = (Latency::new(), Latency::new());
        one.record(1_000_000);
        other.record(3_000_000);
        one.merge(&other);
        assert_eq!(one.count(), 2);
        assert!((one.sum_seconds() - 0.004).abs() < 1e-12);
        assert!(one.quantile_ns(1.0) >= 3_000_000);
    }
}
