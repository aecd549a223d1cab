//! What bounded a run: the server, the generator, or nothing.
//!
//! A generator that could not keep up makes a slow server of a fast one, so it is suspected
//! first: by how late it sent although a connection was free, and by how much of its time
//! it had work.

use crate::outcome::{GeneratorFigures, Limit, Stage, Totals, Verdict};
use crate::report::quantities::{duration_text, rate_text};

/// Of what was offered, so much sent counts as all: the rest was due in the last moment.
const KEPT_MIN: f64 = 0.995;
/// A worker that was busy for more of its time could not have done much more.
const BUSY_MAX: f64 = 0.95;
/// The generator's own delay that still leaves latencies believable.
const DELAY_US_MAX: u64 = 1_000;

/// Judges a run by its sums. `stages` are those that were counted.
pub(crate) fn judge(totals: &Totals, generator: &GeneratorFigures, stages: &[Stage]) -> Verdict {
    let (limit, sentence) = if totals.completed == 0 {
        (Limit::Server, "No request was answered as it should be.".to_owned())
    } else if stages.iter().any(|stage| stage.rate.is_none()) {
        judge_closed(totals, generator)
    } else {
        judge_open(totals, generator)
    };
    Verdict { limit, sentence, ..Verdict::default() }
}

fn judge_closed(totals: &Totals, generator: &GeneratorFigures) -> (Limit, String) {
    let rate = rate_text(per_second(totals.completed, totals));
    let percent = generator.busy * 100.0;
    if generator.busy > BUSY_MAX {
        let sentence = format!(
            "The generator was the limit at {rate}: a worker was busy for {percent:.0} % of the \
             time; use more --workers, on cpus the server does not use."
        );
        return (Limit::Generator, sentence);
    }
    let sentence = format!(
        "The server was the limit at {rate} with these connections; the generator's busiest \
         worker had work for {percent:.0} % of the time."
    );
    (Limit::Server, sentence)
}

fn judge_open(totals: &Totals, generator: &GeneratorFigures) -> (Limit, String) {
    let offered = rate_text(per_second(totals.offered, totals));
    let achieved = rate_text(per_second(totals.completed, totals));
    let delay = duration_text(generator.send_delay_p99 as f64);
    let percent = generator.busy * 100.0;
    let late = generator.send_delay_p99 > DELAY_US_MAX;
    let kept = totals.completed as f64 >= totals.offered as f64 * KEPT_MIN;
    if late || (!kept && generator.busy > BUSY_MAX) {
        let sentence = format!(
            "The generator was the limit: it sent requests {delay} late (99th percentile) \
             although connections were free, and had work for {percent:.0} % of the time, so \
             latencies tell of it rather than of the server; use more --workers, on cpus \
             nothing else uses, or a lower rate."
        );
        return (Limit::Generator, sentence);
    }
    if kept {
        let sentence = format!("All of the {offered} that were offered were sent and answered.");
        return (Limit::None, sentence);
    }
    let sentence = if totals.sent as f64 >= totals.offered as f64 * KEPT_MIN {
        format!("The server answered {achieved} as it should, of the {offered} it was sent.")
    } else {
        format!(
            "The server was the limit: {offered} were offered and {achieved} answered; the rest \
             waited for a connection or was never sent."
        )
    };
    (Limit::Server, sentence)
}

fn per_second(count: u64, totals: &Totals) -> f64 {
    count as f64 / totals.elapsed_s.max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(offered: u64, sent: u64, completed: u64) -> Totals {
        Totals { elapsed_s: 10.0, offered, sent, completed, ..Totals::default() }
    }

    fn generator(busy: f64, send_delay_p99: u64) -> GeneratorFigures {
        GeneratorFigures { cores: 1.0, busy, send_delay_p99 }
    }

    fn stages(rate: Option<f64>) -> [Stage; 1] {
        [Stage { duration_s: 10.0, rate, connections: 64, ramp: false }]
    }

    #[test]
    fn each_limit_is_told_from_the_others() {
        let open = stages(Some(1_000.0));
        for (totals, generator, expected) in [
            (totals(10_000, 10_000, 9_990), generator(0.3, 20), Limit::None),
            (totals(10_000, 6_000, 5_990), generator(0.3, 20), Limit::Server),
            (totals(10_000, 10_000, 5_000), generator(0.3, 20), Limit::Server),
            (totals(10_000, 6_000, 5_990), generator(0.99, 300), Limit::Generator),
            (totals(10_000, 10_000, 10_000), generator(0.5, 5_000), Limit::Generator),
            (totals(10_000, 10_000, 0), generator(0.5, 20), Limit::Server),
        ] {
            let verdict = judge(&totals, &generator, &open);
            assert_eq!(verdict.limit, expected, "{}", verdict.sentence);
        }
        let closed = stages(None);
        for (busy, expected) in [(0.5, Limit::Server), (0.99, Limit::Generator)] {
            let verdict = judge(&totals(9, 9, 9), &generator(busy, 5_000), &closed);
            assert_eq!(verdict.limit, expected, "{}", verdict.sentence);
        }
    }
}
