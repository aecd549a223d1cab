//! What a worker counts and times, in intervals that are shipped and forgotten.
//!
//! Invariant: an interval lies within one second of the run and within one stage, so
//! seconds and stages are both sums of intervals. Per request it costs a few counters and
//! three histograms' cells.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::outcome::{ErrorKind, Totals};
use crate::workload::Op;

/// Longer latencies count as this much: ten minutes, in microseconds.
pub(crate) const LATENCY_US_MAX: u64 = 600_000_000;
/// Significant decimal digits kept of each latency.
pub(crate) const DIGITS: u8 = 3;
/// The same of the generator's own delay and of refusals, of which only the order matters.
const DELAY_DIGITS: u8 = 2;
/// Kinds of errors told apart; further ones are counted together.
const KINDS_MAX: usize = 64;

/// An empty histogram of latencies.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, DIGITS).expect("sound bounds")
}

/// An empty histogram of the generator's delays, or of refusals.
pub(crate) fn delays() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, DELAY_DIGITS).expect("sound bounds")
}

/// What one worker saw of one kind of request in one interval.
#[derive(Clone, Debug)]
pub(crate) struct OpInterval {
    pub(crate) errors: u64,
    /// From the planned time.
    pub(crate) corrected: Histogram<u64>,
}

/// What one worker saw in one interval.
#[derive(Clone, Debug)]
pub(crate) struct Interval {
    /// Since the run began.
    pub(crate) begin_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) stage: usize,
    pub(crate) totals: Totals,
    /// By the number of the operation; none if it did not occur.
    pub(crate) operations: Vec<Option<Box<OpInterval>>>,
    /// From the time of sending.
    pub(crate) raw: Histogram<u64>,
    /// The same of those that were shed.
    pub(crate) shed: Histogram<u64>,
    /// How late requests were sent although a connection was free.
    pub(crate) delay: Histogram<u64>,
    pub(crate) errors: BTreeMap<String, ErrorKind>,
    /// Connections the server closed while nothing was under way.
    pub(crate) idle_closes: u64,
    /// Open at its end.
    pub(crate) connections: u32,
    /// Processor time of the worker's thread.
    pub(crate) cpu_ns: u64,
    /// Time in which the worker had something to do.
    pub(crate) busy_ns: u64,
}

impl Interval {
    pub(crate) fn new(begin_ns: u64, stage: usize) -> Interval {
        Interval {
            begin_ns,
            end_ns: begin_ns,
            stage,
            totals: Totals::default(),
            operations: vec![None; Op::ALL.len()],
            raw: latencies(),
            shed: delays(),
            delay: delays(),
            errors: BTreeMap::new(),
            idle_closes: 0,
            connections: 0,
            cpu_ns: 0,
            busy_ns: 0,
        }
    }

    fn operation(&mut self, op: Op) -> &mut OpInterval {
        self.operations[op as usize]
            .get_or_insert_with(|| Box::new(OpInterval { errors: 0, corrected: latencies() }))
    }

    /// A request was answered as it should be.
    pub(crate) fn complete(&mut self, op: Op, corrected_ns: u64, raw_ns: u64) {
        self.totals.completed += 1;
        self.raw.saturating_record(raw_ns / 1_000);
        self.operation(op).corrected.saturating_record(corrected_ns / 1_000);
    }

    /// An event came on a stream, so long after the request that caused it.
    pub(crate) fn event(&mut self, since_ns: u64) {
        self.totals.events += 1;
        self.operation(Op::Event).corrected.saturating_record(since_ns / 1_000);
    }

    /// The server had too much to do, and said so this long after it was asked.
    pub(crate) fn shed(&mut self, op: Op, raw_ns: u64) {
        self.totals.shed += 1;
        self.shed.saturating_record(raw_ns / 1_000);
        self.operation(op).errors += 1;
    }

    /// Something went wrong, in a request if `op` names one.
    pub(crate) fn fail(&mut self, op: Option<Op>, kind: &str, sentence: &str) {
        self.totals.errors += 1;
        if let Some(op) = op {
            self.operation(op).errors += 1;
        }
        count_error(&mut self.errors, kind, 1, sentence);
    }

    /// Adds the corrected latencies of answers, but not those of events, to `sum`.
    pub(crate) fn add_answers_to(&self, sum: &mut Histogram<u64>) {
        for (op, seen) in Op::ALL.iter().zip(&self.operations) {
            if let Some(seen) = seen
                && *op != Op::Event
            {
                // It fails only if the bounds differ, which are the same everywhere.
                let _ = sum.add(&seen.corrected);
            }
        }
    }

    /// Gives out what there is and begins anew.
    pub(crate) fn restart(&mut self, begin_ns: u64, stage: usize) -> Interval {
        std::mem::replace(self, Interval::new(begin_ns, stage))
    }
}

/// Adds to the errors of a kind; the first sentence is kept.
pub(crate) fn count_error(
    errors: &mut BTreeMap<String, ErrorKind>,
    kind: &str,
    count: u64,
    sentence: &str,
) {
    let kind = if errors.contains_key(kind) || errors.len() < KINDS_MAX { kind } else { "other" };
    let entry = errors.entry(kind.to_owned()).or_default();
    entry.count += count;
    if entry.example.is_empty() {
        sentence.clone_into(&mut entry.example);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::report::percentiles::summary;

    proptest! {
        /// The reference sorts all values and takes the one at the percentile's place.
        #[test]
        fn percentiles_are_those_of_the_sorted_values(
            mut latencies_us in proptest::collection::vec(
                prop_oneof![1_u64..2_000, 1_000_u64..1_000_000, 1_u64..LATENCY_US_MAX],
                1..3_000,
            ),
        ) {
            let mut interval = Interval::new(0, 0);
            for latency_us in &latencies_us {
                interval.complete(Op::Ping, latency_us * 1_000 + 999, 0);
            }
            let mut all = latencies();
            interval.add_answers_to(&mut all);
            let found = summary(&all);
            latencies_us.sort_unstable();
            let count = latencies_us.len();
            for (quantile, found) in [
                (0.5, found.p50),
                (0.9, found.p90),
                (0.95, found.p95),
                (0.99, found.p99),
                (0.999, found.p999),
                (0.9999, found.p9999),
                (1.0, found.max),
            ] {
                let place = ((quantile * count as f64).ceil() as usize).clamp(1, count);
                let expected = latencies_us[place - 1];
                // Three digits are kept of each value.
                let error = found.abs_diff(expected) as f64 / expected as f64;
                prop_assert!(error <= 0.001, "p{quantile} is {found}, not {expected}");
            }
            let mean = latencies_us.iter().sum::<u64>() as f64 / count as f64;
            prop_assert!((found.mean / mean - 1.0).abs() <= 0.001);
        }
    }

    #[test]
    fn kinds_of_errors_are_bounded() {
        let mut interval = Interval::new(0, 0);
        for number in 0..10_000 {
            interval.fail(Some(Op::Ping), &format!("kind {number}"), "a sentence");
        }
        assert_eq!(interval.errors.len(), KINDS_MAX + 1);
        assert_eq!(interval.errors["other"].count, 10_000 - KINDS_MAX as u64);
        assert_eq!(interval.totals.errors, 10_000);
    }
}
