//! When which request is due: stages laid end to end, and the arrivals they imply.
//!
//! Time counts from the beginning of the run, in seconds here and in nanoseconds where
//! workers meet it. The rate changes linearly within a stage, so the number of arrivals up
//! to a moment is a quadratic, and its inverse says when the n-th arrival is due. Nobody
//! waits for an answer to know that: this is what makes the loop open.
//!
//! Invariants:
//! - The workers' arrivals together are the whole schedule's: evenly spaced ones are dealt
//!   out in turn, random ones are Poisson processes whose rates add up.
//! - The same schedule, seed and worker give the same arrivals, so a clone of an
//!   [`Arrivals`] can run ahead of it.
//! - A closed stage has no arrivals: its requests are due when a connection is free.

use std::sync::Arc;

use crate::outcome::Stage;

/// How arrivals lie in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Spacing {
    /// At equal distances.
    Even,
    /// At random, independent of each other: a Poisson process, as many clients make it.
    Poisson,
}

/// A stage with what holds at its ends.
#[derive(Clone, Copy, Debug)]
struct Segment {
    begin_s: f64,
    duration_s: f64,
    rate: [f64; 2],
    connections: [f64; 2],
    closed: bool,
    arrivals_before: f64,
}

impl Segment {
    fn end_s(&self) -> f64 {
        self.begin_s + self.duration_s
    }

    fn growth(&self) -> f64 {
        (self.rate[1] - self.rate[0]) / self.duration_s
    }

    fn arrivals(&self) -> f64 {
        (self.rate[0] + self.rate[1]) / 2.0 * self.duration_s
    }

    /// When `count` arrivals of this stage have come, in seconds from its beginning.
    fn time_of(&self, count: f64) -> f64 {
        let growth = self.growth();
        if growth == 0.0 {
            return count / self.rate[0];
        }
        // rate·t + growth/2·t² = count, in the form that does not cancel for small growth.
        let root = (self.rate[0] * self.rate[0] + 2.0 * growth * count).max(0.0).sqrt();
        2.0 * count / (self.rate[0] + root).max(f64::MIN_POSITIVE)
    }
}

/// All stages of a run, end to end.
#[derive(Clone, Debug)]
pub struct Timeline {
    segments: Vec<Segment>,
}

impl Timeline {
    /// Lays stages end to end. A first stage that ramps begins at rate 0 and with
    /// `connections_before` connections.
    ///
    /// # Panics
    /// If there is no stage, or one without a positive duration.
    pub fn new(stages: &[Stage], connections_before: u32) -> Timeline {
        assert!(!stages.is_empty(), "a run has a stage");
        let mut segments: Vec<Segment> = Vec::with_capacity(stages.len());
        let (mut rate_before, mut before) = (0.0, f64::from(connections_before));
        for stage in stages {
            assert!(stage.duration_s > 0.0, "a stage takes time");
            let (rate, connections) =
                (stage.rate.unwrap_or_default(), f64::from(stage.connections));
            let (first_rate, first) =
                if stage.ramp { (rate_before, before) } else { (rate, connections) };
            let last = segments.last();
            segments.push(Segment {
                begin_s: last.map_or(0.0, Segment::end_s),
                duration_s: stage.duration_s,
                rate: [first_rate, rate],
                connections: [first, connections],
                closed: stage.rate.is_none(),
                arrivals_before: last.map_or(0.0, |last| last.arrivals_before + last.arrivals()),
            });
            (rate_before, before) = (rate, connections);
        }
        for segment in segments.iter_mut().filter(|segment| segment.closed) {
            segment.rate = [0.0, 0.0];
        }
        let mut arrivals = 0.0;
        for segment in &mut segments {
            segment.arrivals_before = arrivals;
            arrivals += segment.arrivals();
        }
        Timeline { segments }
    }

    /// How long the run takes.
    pub fn end_s(&self) -> f64 {
        self.segments.last().map_or(0.0, Segment::end_s)
    }

    /// Which stage `at_s` falls into; the last one behind the end.
    pub fn stage_at(&self, at_s: f64) -> usize {
        let begun = self.segments.partition_point(|segment| segment.begin_s <= at_s);
        begun.saturating_sub(1)
    }

    /// When a stage ends.
    pub fn stage_end_s(&self, stage: usize) -> f64 {
        self.segments[stage].end_s()
    }

    /// True if requests are due whenever a connection is free.
    pub fn is_closed_at(&self, at_s: f64) -> bool {
        self.segments[self.stage_at(at_s)].closed
    }

    /// Connections that are to be open.
    pub fn connections_at(&self, at_s: f64) -> u32 {
        let segment = &self.segments[self.stage_at(at_s)];
        let part = ((at_s - segment.begin_s) / segment.duration_s).clamp(0.0, 1.0);
        let [first, last] = segment.connections;
        (first + (last - first) * part).round() as u32
    }

    /// Arrivals expected over the whole run.
    pub fn arrivals(&self) -> f64 {
        self.segments.last().map_or(0.0, |last| last.arrivals_before + last.arrivals())
    }

    /// When the arrivals sum up to `count`; the search begins at stage `from`, which is
    /// moved on. `None` if that is never.
    fn time_of(&self, count: f64, from: &mut usize) -> Option<f64> {
        while let Some(segment) = self.segments.get(*from) {
            let within = count - segment.arrivals_before;
            if within < segment.arrivals() {
                return Some(segment.begin_s + segment.time_of(within.max(0.0)));
            }
            *from += 1;
        }
        None
    }
}

/// One worker's arrivals, in order.
#[derive(Clone, Debug)]
pub struct Arrivals {
    timeline: Arc<Timeline>,
    dealing: Dealing,
    stage: usize,
    next_ns: Option<u64>,
}

#[derive(Clone, Debug)]
enum Dealing {
    /// The schedule's next arrival of this worker, and how many workers take turns.
    Even { next: u64, workers: u64 },
    /// What the schedule's sum is at this worker's next arrival.
    Poisson { sum: f64, workers: f64, random: fastrand::Rng },
}

impl Arrivals {
    /// The arrivals of one of `workers` workers.
    pub fn new(
        timeline: Arc<Timeline>,
        spacing: Spacing,
        seed: u64,
        worker: usize,
        workers: usize,
    ) -> Arrivals {
        let dealing = match spacing {
            Spacing::Even => Dealing::Even { next: worker as u64, workers: workers as u64 },
            Spacing::Poisson => {
                let random = fastrand::Rng::with_seed(seed.wrapping_add(worker as u64));
                Dealing::Poisson { sum: 0.0, workers: workers as f64, random }
            }
        };
        let mut arrivals = Arrivals { timeline, dealing, stage: 0, next_ns: None };
        if let Dealing::Poisson { .. } = arrivals.dealing {
            arrivals.step();
        }
        arrivals.settle();
        arrivals
    }

    /// When the next request is due, in nanoseconds from the beginning of the run.
    pub fn peek_ns(&self) -> Option<u64> {
        self.next_ns
    }

    /// Goes on to the one after.
    pub fn advance(&mut self) {
        self.step();
        self.settle();
    }

    fn step(&mut self) {
        match &mut self.dealing {
            Dealing::Even { next, workers } => *next += *workers,
            Dealing::Poisson { sum, workers, random } => {
                // Never 0, whose logarithm is infinite.
                let uniform = 1.0 - random.f64();
                *sum -= uniform.ln() * *workers;
            }
        }
    }

    fn settle(&mut self) {
        let count = match &self.dealing {
            Dealing::Even { next, .. } => *next as f64,
            Dealing::Poisson { sum, .. } => *sum,
        };
        let at_s = self.timeline.time_of(count, &mut self.stage);
        self.next_ns = at_s.map(|at_s| (at_s * 1e9) as u64);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stage(duration_s: f64, rate: Option<f64>, connections: u32, ramp: bool) -> Stage {
        Stage { duration_s, rate, connections, ramp }
    }

    fn arrivals(stages: &[Stage], spacing: Spacing, worker: usize, workers: usize) -> Vec<u64> {
        let timeline = Arc::new(Timeline::new(stages, 0));
        let mut arrivals = Arrivals::new(timeline, spacing, 7, worker, workers);
        let mut all = Vec::new();
        while let Some(at_ns) = arrivals.peek_ns() {
            all.push(at_ns);
            arrivals.advance();
        }
        all
    }

    #[test]
    fn a_steady_rate_is_spaced_evenly() {
        let all = arrivals(&[stage(2.0, Some(1_000.0), 1, false)], Spacing::Even, 0, 1);
        assert_eq!(all.len(), 2_000);
        for (number, at_ns) in all.iter().enumerate() {
            assert!(at_ns.abs_diff(number as u64 * 1_000_000) <= 1, "{number}: {at_ns}");
        }
    }

    #[test]
    fn a_ramp_has_half_the_arrivals_and_most_of_them_late() {
        let stages = [stage(10.0, Some(1_000.0), 1, true), stage(1.0, Some(500.0), 1, false)];
        let all = arrivals(&stages, Spacing::Even, 0, 1);
        let ramped = all.iter().filter(|at_ns| **at_ns < 10_000_000_000).count();
        assert_eq!((ramped, all.len()), (5_000, 5_500));
        let early = all.iter().filter(|at_ns| **at_ns < 5_000_000_000).count();
        assert!(early.abs_diff(1_250) <= 1, "{early} in the first half");
    }

    #[test]
    fn a_closed_stage_has_no_arrivals_and_the_next_one_begins_on_time() {
        let stages = [stage(1.0, None, 1, false), stage(1.0, Some(10.0), 1, false)];
        let timeline = Timeline::new(&stages, 1);
        assert!(timeline.is_closed_at(0.5) && !timeline.is_closed_at(1.5));
        let all = arrivals(&stages, Spacing::Even, 0, 1);
        assert_eq!((all.len(), all[0]), (10, 1_000_000_000));
    }

    #[test]
    fn connections_grow_with_a_ramp_and_jump_without() {
        let stages = [stage(10.0, Some(1.0), 1_000, true), stage(1.0, Some(1.0), 50, false)];
        let timeline = Timeline::new(&stages, 0);
        let open = [0.0, 2.5, 10.0, 10.5, 99.0].map(|at_s| timeline.connections_at(at_s));
        assert_eq!(open, [0, 250, 50, 50, 50]);
        assert_eq!((timeline.stage_at(9.9), timeline.stage_at(10.0)), (0, 1));
        assert_eq!(timeline.end_s(), 11.0);
    }

    #[test]
    fn random_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() {
        let stages = [stage(10.0, Some(10_000.0), 1, false)];
        let all = arrivals(&stages, Spacing::Poisson, 0, 1);
        // 100,000 expected, standard deviation 316; the seed is fixed.
        assert!(all.len().abs_diff(100_000) < 1_600, "{}", all.len());
        let gaps: Vec<f64> = all.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        let spread = variance.sqrt() / mean;
        assert!((0.97..1.03).contains(&spread), "coefficient of variation {spread}");
    }

    prop_compose! {
        fn any_stage()(
            duration_s in 0.01_f64..3.0,
            rate in proptest::option::of(0.1_f64..2_000.0),
            ramp: bool,
        ) -> Stage {
            // A ramp without a rate makes no sense and is refused before it gets here.
            let ramp = ramp && rate.is_some();
            Stage { duration_s, rate, connections: 1, ramp }
        }
    }

    proptest! {
        #[test]
        fn arrivals_are_in_order_and_dealt_out_whole(
            stages in proptest::collection::vec(any_stage(), 1..5),
            workers in 1_usize..5,
        ) {
            let whole = arrivals(&stages, Spacing::Even, 0, 1);
            prop_assert!(whole.is_sorted());
            let timeline = Timeline::new(&stages, 0);
            prop_assert!((whole.len() as f64 - timeline.arrivals()).abs() <= 1.0);
            prop_assert!(whole.last().is_none_or(|at_ns| *at_ns as f64 <= timeline.end_s() * 1e9));
            let mut dealt: Vec<u64> = (0..workers)
                .flat_map(|worker| arrivals(&stages, Spacing::Even, worker, workers))
                .collect();
            dealt.sort_unstable();
            prop_assert_eq!(dealt, whole);
        }

        #[test]
        fn no_arrival_lies_in_a_closed_stage(
            stages in proptest::collection::vec(any_stage(), 1..5),
        ) {
            let timeline = Timeline::new(&stages, 0);
            for at_ns in arrivals(&stages, Spacing::Poisson, 0, 1) {
                let at_s = at_ns as f64 / 1e9;
                // A nanosecond is lost in rounding down at a border.
                prop_assert!(!timeline.is_closed_at(at_s + 2e-9), "{at_s}");
            }
        }
    }
}
