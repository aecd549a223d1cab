//! The sum of what the workers saw: seconds, stages, and the whole.
//!
//! Invariants: a second is told once, when every worker's part of it is there; what was
//! seen in stages that are not counted is in the seconds and in its stage, and nowhere else.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::outcome::{
    ErrorKind, GeneratorFigures, Latencies, Operation, Second, Stage, StageOutcome, Totals,
};
use crate::recorder::{Interval, count_error, delays, latencies};
use crate::report::percentiles::{HistogramError, distribution, summary};
use crate::workload::Op;

const SECOND_NS: u64 = 1_000_000_000;

/// What was seen in one stage.
struct StageSum {
    totals: Totals,
    /// By the first worker's intervals; all workers have the same.
    elapsed_ns: u64,
    corrected: Histogram<u64>,
    raw: Histogram<u64>,
    shed: Histogram<u64>,
}

/// A second that not all workers have told of.
struct SecondSum {
    second: Second,
    end_ns: u64,
    corrected: Histogram<u64>,
    /// Open connections, by worker.
    connections: Vec<u32>,
}

/// One worker's sums, for judging the generator.
#[derive(Clone, Copy, Debug, Default)]
struct WorkerSum {
    elapsed_ns: u64,
    cpu_ns: u64,
    busy_ns: u64,
}

/// The sum.
pub(crate) struct Tally {
    stages_uncounted: usize,
    end_ns: u64,
    stages: Vec<StageSum>,
    seconds: BTreeMap<u64, SecondSum>,
    operations: Vec<Option<(u64, Histogram<u64>)>>,
    errors: BTreeMap<String, ErrorKind>,
    delay: Histogram<u64>,
    workers: Vec<WorkerSum>,
    /// Since the run began, by worker: what has been told.
    told_ns: Vec<u64>,
    pub(crate) idle_closes: u64,
}

impl Tally {
    pub(crate) fn new(
        stages: usize,
        stages_uncounted: usize,
        end_ns: u64,
        workers: usize,
    ) -> Tally {
        let stage = || StageSum {
            totals: Totals::default(),
            elapsed_ns: 0,
            corrected: latencies(),
            raw: latencies(),
            shed: delays(),
        };
        Tally {
            stages_uncounted,
            end_ns,
            stages: (0..stages).map(|_| stage()).collect(),
            seconds: BTreeMap::new(),
            operations: vec![None; Op::ALL.len()],
            errors: BTreeMap::new(),
            delay: delays(),
            workers: vec![WorkerSum::default(); workers],
            told_ns: vec![0; workers],
            idle_closes: 0,
        }
    }

    /// Adds a worker's interval; seconds that are whole now come back.
    pub(crate) fn add(&mut self, worker: usize, interval: &Interval) -> Vec<Second> {
        // What comes while the last answers are waited for belongs to the last second.
        let at_ns = interval.begin_ns.min(self.end_ns.saturating_sub(1));
        self.add_to_second(at_ns / SECOND_NS, worker, interval);
        self.add_to_stage(worker, interval);
        if interval.stage >= self.stages_uncounted {
            self.add_to_whole(worker, interval);
        }
        self.told_ns[worker] = self.told_ns[worker].max(interval.end_ns);
        self.tell_seconds(false)
    }

    fn add_to_second(&mut self, number: u64, worker: usize, interval: &Interval) {
        let workers = self.workers.len();
        let sum = self.seconds.entry(number).or_insert_with(|| SecondSum {
            second: Second::default(),
            end_ns: 0,
            corrected: latencies(),
            connections: vec![0; workers],
        });
        let Totals { offered, sent, completed, shed, errors, events, .. } = interval.totals;
        let second = &mut sum.second;
        second.offered += offered;
        second.sent += sent;
        second.completed += completed;
        second.shed += shed;
        second.errors += errors;
        second.events += events;
        if interval.end_ns <= self.end_ns {
            sum.end_ns = sum.end_ns.max(interval.end_ns);
        }
        sum.connections[worker] = interval.connections;
        interval.add_answers_to(&mut sum.corrected);
    }

    fn add_to_stage(&mut self, worker: usize, interval: &Interval) {
        let scheduled_ns = self.scheduled_ns(interval);
        let Some(stage) = self.stages.get_mut(interval.stage) else { return };
        add_totals(&mut stage.totals, &interval.totals);
        interval.add_answers_to(&mut stage.corrected);
        let _ = stage.raw.add(&interval.raw);
        let _ = stage.shed.add(&interval.shed);
        if worker == 0 {
            stage.elapsed_ns += scheduled_ns;
        }
    }

    /// How much of an interval lies within the run, not behind its end.
    fn scheduled_ns(&self, interval: &Interval) -> u64 {
        interval.end_ns.min(self.end_ns).saturating_sub(interval.begin_ns)
    }

    fn add_to_whole(&mut self, worker: usize, interval: &Interval) {
        let scheduled_ns = self.scheduled_ns(interval);
        let sum = &mut self.workers[worker];
        sum.elapsed_ns += scheduled_ns;
        if scheduled_ns > 0 {
            sum.cpu_ns += interval.cpu_ns;
            sum.busy_ns += interval.busy_ns.min(interval.cpu_ns);
        }
        for (sum, seen) in self.operations.iter_mut().zip(&interval.operations) {
            if let Some(seen) = seen {
                let (errors, corrected) = sum.get_or_insert_with(|| (0, latencies()));
                *errors += seen.errors;
                let _ = corrected.add(&seen.corrected);
            }
        }
        for (kind, error) in &interval.errors {
            count_error(&mut self.errors, kind, error.count, &error.example);
        }
        self.idle_closes += interval.idle_closes;
        let _ = self.delay.add(&interval.delay);
    }

    /// Seconds of which every worker has told all, or all seconds that are left.
    fn tell_seconds(&mut self, all: bool) -> Vec<Second> {
        let told_ns = self.told_ns.iter().copied().min().unwrap_or_default();
        let mut told = Vec::new();
        while let Some(entry) = self.seconds.first_entry() {
            // The last second goes on until the last answers are in.
            let is_whole = (entry.key() + 1) * SECOND_NS <= told_ns.min(self.end_ns - 1);
            if !is_whole && !all {
                break;
            }
            let SecondSum { mut second, end_ns, corrected, connections } = entry.remove();
            second.connections = connections.iter().sum();
            second.at_s = end_ns as f64 / 1e9;
            second.p50 = corrected.value_at_quantile(0.5);
            second.p99 = corrected.value_at_quantile(0.99);
            second.max = corrected.max();
            told.push(second);
        }
        told
    }

    /// The end: seconds that no worker will add to any more.
    pub(crate) fn finish(&mut self) -> Vec<Second> {
        self.tell_seconds(true)
    }
}

/// All there is to say of a run but for its circumstances.
#[derive(Debug)]
pub(crate) struct Sums {
    pub(crate) totals: Totals,
    pub(crate) latency: Latencies,
    pub(crate) operations: BTreeMap<String, Operation>,
    pub(crate) stages: Vec<StageOutcome>,
    pub(crate) errors: BTreeMap<String, ErrorKind>,
    pub(crate) generator: GeneratorFigures,
}

impl Tally {
    /// Sums up. Stages that were not begun are there, empty.
    pub(crate) fn sums(self, stages: &[Stage]) -> Result<Sums, HistogramError> {
        let mut totals = Totals::default();
        let (mut corrected, mut raw, mut shed) = (latencies(), latencies(), delays());
        for stage in &self.stages[self.stages_uncounted..] {
            add_totals(&mut totals, &stage.totals());
            let _ = corrected.add(&stage.corrected);
            let _ = raw.add(&stage.raw);
            let _ = shed.add(&stage.shed);
        }
        let generator = self.generator();
        let outcome = |(stage, sum): (&Stage, &StageSum)| {
            let latency = written(&sum.corrected, &sum.raw, &sum.shed)?;
            Ok(StageOutcome { stage: stage.clone(), totals: sum.totals(), latency })
        };
        let stages: Result<_, HistogramError> =
            stages.iter().zip(&self.stages).map(outcome).collect();
        let operations = Op::ALL.iter().zip(&self.operations).filter_map(|(op, seen)| {
            let (errors, corrected) = seen.as_ref()?;
            let corrected = summary(corrected);
            let operation = Operation { completed: corrected.count, errors: *errors, corrected };
            Some((op.name().to_owned(), operation))
        });
        Ok(Sums {
            totals,
            latency: written(&corrected, &raw, &shed)?,
            operations: operations.collect(),
            stages: stages?,
            errors: self.errors,
            generator,
        })
    }

    fn generator(&self) -> GeneratorFigures {
        let share = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let cores = self.workers.iter().map(|sum| share(sum.cpu_ns, sum.elapsed_ns)).sum();
        let busy = self.workers.iter().map(|sum| share(sum.busy_ns, sum.elapsed_ns));
        GeneratorFigures {
            cores,
            send_delay_p99: self.delay.value_at_quantile(0.99),
            busy: busy.fold(0.0, f64::max),
        }
    }
}

impl StageSum {
    fn totals(&self) -> Totals {
        Totals { elapsed_s: self.elapsed_ns as f64 / 1e9, ..self.totals }
    }
}

fn written(
    corrected: &Histogram<u64>,
    raw: &Histogram<u64>,
    shed: &Histogram<u64>,
) -> Result<Latencies, HistogramError> {
    Ok(Latencies {
        corrected: distribution(corrected)?,
        raw: distribution(raw)?,
        shed: distribution(shed)?,
    })
}

fn add_totals(sum: &mut Totals, more: &Totals) {
    let Totals {
        elapsed_s,
        offered,
        sent,
        completed,
        shed,
        errors,
        sent_bytes,
        received_bytes,
        events,
    } = more;
    sum.elapsed_s += elapsed_s;
    sum.offered += offered;
    sum.sent += sent;
    sum.completed += completed;
    sum.shed += shed;
    sum.errors += errors;
    sum.sent_bytes += sent_bytes;
    sum.received_bytes += received_bytes;
    sum.events += events;
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGES: usize = 2;

    fn interval(begin_ms: u64, end_ms: u64, stage: usize, latencies_us: &[u64]) -> Interval {
        let mut interval = Interval::new(begin_ms * 1_000_000, stage);
        interval.end_ns = end_ms * 1_000_000;
        interval.connections = 3;
        for latency_us in latencies_us {
            interval.totals.sent += 1;
            interval.complete(Op::Ping, latency_us * 1_000, latency_us * 500);
        }
        interval
    }

    fn stages() -> Vec<Stage> {
        let stage = |duration_s| Stage { duration_s, rate: None, connections: 6, ramp: false };
        vec![stage(0.5), stage(2.0)]
    }

    #[test]
    fn seconds_come_when_all_workers_have_told_them() {
        let mut tally = Tally::new(STAGES, 1, 2_500_000_000, 2);
        assert!(tally.add(0, &interval(0, 500, 0, &[10])).is_empty());
        assert!(tally.add(0, &interval(500, 1_000, 1, &[20])).is_empty());
        assert!(tally.add(1, &interval(0, 500, 0, &[30])).is_empty());
        let told = tally.add(1, &interval(500, 1_000, 1, &[40]));
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].at_s, told[0].completed, told[0].connections), (1.0, 4, 6));
        assert_eq!((told[0].p50, told[0].max), (20, 40));
        // The last answers come behind the end, and belong to the last second.
        for worker in [0, 1] {
            assert!(tally.add(worker, &interval(1_000, 2_000, 1, &[])).len() <= 1);
            assert!(tally.add(worker, &interval(2_000, 2_500, 1, &[50])).is_empty());
            assert!(tally.add(worker, &interval(2_500, 2_600, 1, &[60])).is_empty());
        }
        let told = tally.finish();
        assert_eq!((told.len(), told[0].at_s, told[0].completed), (1, 2.5, 4));
    }

    #[test]
    fn the_warm_up_is_in_its_stage_and_nowhere_else() {
        let mut tally = Tally::new(STAGES, 1, 2_500_000_000, 1);
        tally.add(0, &interval(0, 500, 0, &[1_000]));
        let mut second = interval(500, 1_000, 1, &[10, 20, 30]);
        second.fail(Some(Op::Ping), "closed", "the first");
        second.fail(None, "closed", "the second");
        tally.add(0, &second);
        let sums = tally.sums(&stages()).unwrap();
        assert_eq!((sums.totals.completed, sums.totals.errors), (3, 2));
        assert_eq!(sums.totals.elapsed_s, 0.5);
        assert_eq!((sums.latency.corrected.max, sums.latency.raw.max), (30, 15));
        assert_eq!(sums.operations["ping"].errors, 1);
        let closed = &sums.errors["closed"];
        assert_eq!((closed.count, &*closed.example), (2, "the first"));
        assert_eq!(sums.stages[0].totals.completed, 1);
        assert_eq!(sums.stages[0].latency.corrected.max, 1_000);
    }
}
