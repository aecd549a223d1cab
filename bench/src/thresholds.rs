//! Conditions that fail a run: `--fail-if 'p99>5ms,errors>0,rate<40000,shed>1%'`.
//!
//! A list of comparisons. The run fails if any of them is true. Latencies need a unit and
//! are corrected for coordinated omission; `raw.p99` is the other one. A percentage of
//! `errors` or `shed` is of all requests offered, one of `completed` too.
//!
//! A figure that the run does not have (a latency without answers, the server's memory
//! without a process to look at) fails the run: what cannot be judged has not been kept.

use std::fmt;
use std::str::FromStr;

use crate::outcome::{Distribution, Outcome, ServerFigures};
use crate::report::quantities::{bytes_text, count_text, duration_text, rate_text, share_text};

/// Conditions in one list.
pub const THRESHOLDS_MAX: usize = 64;

/// A list of conditions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thresholds(Vec<Threshold>);

/// `p99>5ms`
#[derive(Clone, Debug, PartialEq)]
struct Threshold {
    /// As it was given, without spaces around.
    text: String,
    figure: Figure,
    comparison: Comparison,
    value: Value,
}

/// Why a list of conditions cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("in '{text}' at character {position}: {problem}")]
pub struct ThresholdError {
    /// The whole list.
    text: String,
    /// Counted from 1.
    position: usize,
    problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("a condition is missing; an example is p99>5ms,errors>0")]
    Empty,
    #[error("no comparison in '{0}'; write one of > >= < <=")]
    NoComparison(String),
    #[error("'{0}' is no figure of a run; known are {known}", known = known_figures())]
    UnknownFigure(String),
    #[error("'{found}' is no value for {figure}; write {expected}")]
    BadValue { found: String, figure: &'static str, expected: &'static str },
    #[error("more than {THRESHOLDS_MAX} conditions")]
    TooMany,
}

/// What a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    Latency { statistic: Statistic, raw: bool },
    Counted(Counted),
    Rate,
    ServerCores,
    CpuPerRequest,
    Memory,
    SessionMemory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Statistic {
    Min,
    Mean,
    P50,
    P90,
    P95,
    P99,
    P999,
    P9999,
    Max,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Completed,
    Errors,
    Shed,
}

/// Names of latencies; each may stand behind `raw.`.
const STATISTICS: [(&str, Statistic); 9] = [
    ("min", Statistic::Min),
    ("mean", Statistic::Mean),
    ("p50", Statistic::P50),
    ("p90", Statistic::P90),
    ("p95", Statistic::P95),
    ("p99", Statistic::P99),
    ("p99.9", Statistic::P999),
    ("p99.99", Statistic::P9999),
    ("max", Statistic::Max),
];

/// Names of the other figures.
const FIGURES: [(&str, Figure); 8] = [
    ("errors", Figure::Counted(Counted::Errors)),
    ("shed", Figure::Counted(Counted::Shed)),
    ("completed", Figure::Counted(Counted::Completed)),
    ("rate", Figure::Rate),
    ("server.cores", Figure::ServerCores),
    ("server.cpu", Figure::CpuPerRequest),
    ("server.memory", Figure::Memory),
    ("session.memory", Figure::SessionMemory),
];

const RAW: &str = "raw.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// The longer ones first, so that `>=` is not taken for `>`.
const COMPARISONS: [(&str, Comparison); 4] = [
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    (">", Comparison::Above),
    ("<", Comparison::Below),
];

/// What a figure is compared with, in the figure's own unit.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Number(f64),
    /// A part of 1.
    Share(f64),
}

impl Thresholds {
    /// Each condition that is true, with what was found: `p99>5ms: p99 was 7.31 ms`.
    pub fn broken(&self, outcome: &Outcome) -> Vec<String> {
        self.0.iter().filter_map(|threshold| threshold.broken(outcome)).collect()
    }

    /// True if there is no condition.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Thresholds {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Thresholds, ThresholdError> {
        let mut list = Vec::new();
        let mut at = 0;
        for part in text.split(',') {
            let indent = part.len() - part.trim_start().len();
            let parsed = match list.len() {
                THRESHOLDS_MAX => Err((0, Problem::TooMany)),
                _ => Threshold::parse(part.trim()),
            };
            let threshold = parsed.map_err(|(offset, problem)| ThresholdError {
                text: text.to_owned(),
                position: text[..at + indent + offset].chars().count() + 1,
                problem,
            })?;
            list.push(threshold);
            at += part.len() + 1;
        }
        Ok(Thresholds(list))
    }
}

impl Threshold {
    /// The condition, or the byte at which it goes wrong.
    fn parse(text: &str) -> Result<Threshold, (usize, Problem)> {
        if text.is_empty() {
            return Err((0, Problem::Empty));
        }
        let Some(at) = text.find(['<', '>']) else {
            return Err((0, Problem::NoComparison(text.to_owned())));
        };
        let (name, rest) = text.split_at(at);
        let found = COMPARISONS.iter().find(|(sign, _)| rest.starts_with(sign));
        let (sign, comparison) = found.expect("it starts with one of them");
        let name = name.trim();
        let figure =
            Figure::of(name).ok_or_else(|| (0, Problem::UnknownFigure(name.to_owned())))?;
        let after = &rest[sign.len()..];
        let given = after.trim();
        let value = figure.value(given).ok_or_else(|| {
            let (figure, expected) = (figure.name(), figure.expected());
            let offset = text.len() - after.trim_start().len();
            (offset, Problem::BadValue { found: given.to_owned(), figure, expected })
        })?;
        Ok(Threshold { text: text.to_owned(), figure, comparison: *comparison, value })
    }

    fn broken(&self, outcome: &Outcome) -> Option<String> {
        let name = self.name();
        let Some(found) = self.figure.found(outcome) else {
            let reason = self.figure.reason_for_nothing();
            return Some(format!("{}: {name} is not known: {reason}", self.text));
        };
        let (found, limit) = match self.value {
            Value::Number(limit) => (found, limit),
            // Of nothing offered, no part can be told.
            Value::Share(limit) => (found / (outcome.totals.offered.max(1) as f64), limit),
        };
        let broken = match self.comparison {
            Comparison::Above => found > limit,
            Comparison::AtLeast => found >= limit,
            Comparison::Below => found < limit,
            Comparison::AtMost => found <= limit,
        };
        broken.then(|| format!("{}: {name} was {}", self.text, self.figure.text(outcome)))
    }

    fn name(&self) -> String {
        let raw = matches!(self.figure, Figure::Latency { raw: true, .. });
        format!("{}{}", if raw { RAW } else { "" }, self.figure.name())
    }
}

impl Figure {
    fn of(name: &str) -> Option<Figure> {
        let (name, raw) = match name.strip_prefix(RAW) {
            Some(rest) => (rest, true),
            None => (name, false),
        };
        let statistic = STATISTICS.iter().find(|(known, _)| *known == name);
        match statistic {
            Some((_, statistic)) => Some(Figure::Latency { statistic: *statistic, raw }),
            None if raw => None,
            None => FIGURES.iter().find(|(known, _)| *known == name).map(|(_, figure)| *figure),
        }
    }

    /// Without `raw.`.
    fn name(self) -> &'static str {
        let name = match self {
            Figure::Latency { statistic, .. } => {
                STATISTICS.iter().find(|(_, known)| *known == statistic).map(|(name, _)| *name)
            }
            Figure::Counted(_)
            | Figure::Rate
            | Figure::ServerCores
            | Figure::CpuPerRequest
            | Figure::Memory
            | Figure::SessionMemory => {
                FIGURES.iter().find(|(_, known)| *known == self).map(|(name, _)| *name)
            }
        };
        name.expect("the tables have all of them")
    }

    fn value(self, text: &str) -> Option<Value> {
        match self {
            Figure::Latency { .. } | Figure::CpuPerRequest => with_unit(text, &DURATIONS),
            Figure::Memory | Figure::SessionMemory => with_unit(text, &SIZES),
            Figure::Counted(_) => match text.strip_suffix('%') {
                Some(percent) => number(percent).map(|percent| Value::Share(percent / 100.0)),
                None => number(text).map(Value::Number),
            },
            Figure::Rate | Figure::ServerCores => number(text).map(Value::Number),
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Figure::Latency { .. } | Figure::CpuPerRequest => {
                "a time with its unit (us, ms or s), such as 5ms"
            }
            Figure::Memory | Figure::SessionMemory => {
                "a size with its unit (B, KiB, MiB or GiB), such as 64MiB"
            }
            Figure::Counted(_) => "a count or a part of what was offered, such as 0 or 1%",
            Figure::Rate => "completed requests per second, such as 40000",
            Figure::ServerCores => "a number of cores, such as 0.9",
        }
    }

    /// In the unit of its values; none if the run does not have it.
    fn found(self, outcome: &Outcome) -> Option<f64> {
        let totals = &outcome.totals;
        let server = |of: fn(&ServerFigures) -> Option<f64>| outcome.server.as_ref().and_then(of);
        match self {
            Figure::Latency { statistic, raw } => {
                let latency = &outcome.latency;
                let from = if raw { &latency.raw } else { &latency.corrected };
                (from.count > 0).then(|| statistic.of(from))
            }
            Figure::Counted(counted) => Some(counted.of(outcome) as f64),
            Figure::Rate => {
                (totals.elapsed_s > 0.0).then(|| totals.completed as f64 / totals.elapsed_s)
            }
            Figure::ServerCores => server(|server| server.cores),
            Figure::CpuPerRequest => server(|server| server.cpu_us_per_request),
            Figure::Memory => server(|server| server.resident_bytes.map(|bytes| bytes as f64)),
            Figure::SessionMemory => outcome.memory.as_ref()?.process_idle_bytes,
        }
    }

    fn reason_for_nothing(self) -> &'static str {
        match self {
            Figure::Latency { .. } => "no request was answered",
            Figure::Counted(_) => "nothing was counted",
            Figure::Rate => "no time was measured",
            Figure::ServerCores | Figure::CpuPerRequest | Figure::Memory => {
                "no process of the server was seen; name it with --server-pid"
            }
            Figure::SessionMemory => "no sessions were measured, or no process of the server seen",
        }
    }

    /// What was found, for people.
    fn text(self, outcome: &Outcome) -> String {
        let found = self.found(outcome).unwrap_or_default();
        match self {
            Figure::Latency { .. } | Figure::CpuPerRequest => duration_text(found),
            Figure::Memory | Figure::SessionMemory => bytes_text(found),
            Figure::Rate => rate_text(found),
            Figure::ServerCores => format!("{found:.2}"),
            Figure::Counted(counted) => {
                let count = counted.of(outcome);
                let share = share_text(count, outcome.totals.offered);
                format!("{} ({share} of offered)", count_text(count))
            }
        }
    }
}

impl Statistic {
    /// Microseconds.
    fn of(self, distribution: &Distribution) -> f64 {
        let us = match self {
            Statistic::Mean => return distribution.mean,
            Statistic::Min => distribution.min,
            Statistic::P50 => distribution.p50,
            Statistic::P90 => distribution.p90,
            Statistic::P95 => distribution.p95,
            Statistic::P99 => distribution.p99,
            Statistic::P999 => distribution.p999,
            Statistic::P9999 => distribution.p9999,
            Statistic::Max => distribution.max,
        };
        us as f64
    }
}

impl Counted {
    fn of(self, outcome: &Outcome) -> u64 {
        match self {
            Counted::Completed => outcome.totals.completed,
            Counted::Errors => outcome.totals.errors,
            Counted::Shed => outcome.totals.shed,
        }
    }
}

/// In microseconds.
const DURATIONS: [(&str, f64); 4] = [("us", 1.0), ("µs", 1.0), ("ms", 1e3), ("s", 1e6)];
/// In bytes; the longer names first, as each ends with `B`.
const SIZES: [(&str, f64); 4] =
    [("KiB", 1_024.0), ("MiB", 1_048_576.0), ("GiB", 1_073_741_824.0), ("B", 1.0)];

fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<Value> {
    units.iter().find_map(|(unit, factor)| {
        Some(Value::Number(number(text.strip_suffix(unit)?.trim_end())? * factor))
    })
}

/// A number without a sign or an exponent: `40000`, `40_000`, `0.5`.
fn number(text: &str) -> Option<f64> {
    let plain = |c: char| c.is_ascii_digit() || c == '.' || c == '_';
    if !text.starts_with(|c: char| c.is_ascii_digit()) || !text.chars().all(plain) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

fn known_figures() -> String {
    let latencies = STATISTICS.map(|(name, _)| name).join(", ");
    let others = FIGURES.map(|(name, _)| name).join(", ");
    format!("{latencies} (corrected; raw.p99 for the uncorrected), {others}")
}

impl fmt::Display for Thresholds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.0.iter().map(|threshold| threshold.text.as_str()).collect();
        formatter.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{Latencies, SessionMemory};
    use crate::report::sample;

    fn broken(list: &str, outcome: &Outcome) -> Vec<String> {
        list.parse::<Thresholds>().expect("valid").broken(outcome)
    }

    /// A run with round figures.
    fn outcome() -> Outcome {
        let mut outcome = sample::outcome();
        outcome.totals.offered = 1_000;
        outcome.totals.completed = 970;
        outcome.totals.errors = 10;
        outcome.totals.shed = 20;
        outcome.totals.elapsed_s = 10.0;
        outcome.latency.corrected.p99 = 7_310;
        outcome.latency.corrected.p9999 = 31_000;
        outcome.latency.corrected.mean = 812.5;
        outcome.latency.raw.p99 = 1_200;
        outcome.memory = Some(SessionMemory {
            sessions: 1_000,
            process_idle_bytes: Some(1_203.0),
            ..SessionMemory::default()
        });
        outcome
    }

    #[test]
    fn what_is_kept_is_not_told() {
        let list = "p99>8ms, raw.p99>=1.3ms, errors>10, shed>2%, rate<97, mean > 1s,completed<97%";
        assert_eq!(broken(list, &outcome()), Vec::<String>::new());
    }

    #[test]
    fn what_is_broken_is_told_with_what_was_found() {
        for (condition, expected) in [
            ("p99>5ms", "p99>5ms: p99 was 7.31 ms"),
            ("p99>7309us", "p99>7309us: p99 was 7.31 ms"),
            ("p99>=7310µs", "p99>=7310µs: p99 was 7.31 ms"),
            ("raw.p99 > 1 ms", "raw.p99 > 1 ms: raw.p99 was 1.20 ms"),
            ("p99.99>0.03s", "p99.99>0.03s: p99.99 was 31.0 ms"),
            ("mean>812us", "mean>812us: mean was 812 µs"),
            ("errors>0", "errors>0: errors was 10 (1.00 % of offered)"),
            ("errors>=1%", "errors>=1%: errors was 10 (1.00 % of offered)"),
            ("shed>1.9%", "shed>1.9%: shed was 20 (2.00 % of offered)"),
            ("completed<=970", "completed<=970: completed was 970 (97.0 % of offered)"),
            ("rate<40_000", "rate<40_000: rate was 97.0/s"),
            ("server.cores>0.9", "server.cores>0.9: server.cores was 0.98"),
            ("server.cpu>10us", "server.cpu>10us: server.cpu was 17.9 µs"),
            ("session.memory>1KiB", "session.memory>1KiB: session.memory was 1.17 KiB"),
            ("server.memory>16MiB", "server.memory>16MiB: server.memory was 23.2 MiB"),
        ] {
            assert_eq!(broken(condition, &outcome()), [expected]);
        }
        assert_eq!(broken("p99>5ms,errors>99,shed>0", &outcome()).len(), 2);
    }

    #[test]
    fn the_bound_itself_counts_only_where_it_is_named() {
        for (condition, is_broken) in [
            ("p99>7.31ms", false),
            ("p99>=7.31ms", true),
            ("rate<97", false),
            ("rate<=97", true),
            ("errors>1%", false),
            ("errors>=1%", true),
        ] {
            assert_eq!(!broken(condition, &outcome()).is_empty(), is_broken, "{condition}");
        }
    }

    #[test]
    fn what_cannot_be_judged_has_not_been_kept() {
        let mut nothing = outcome();
        nothing.latency = Latencies::default();
        nothing.server = None;
        nothing.memory = None;
        nothing.totals = Default::default();
        for (condition, expected) in [
            ("p99>5ms", "p99>5ms: p99 is not known: no request was answered"),
            ("rate<1", "rate<1: rate is not known: no time was measured"),
        ] {
            assert_eq!(broken(condition, &nothing), [expected]);
        }
        assert!(broken("server.cpu>1s", &nothing)[0].contains("--server-pid"));
        assert!(broken("session.memory>1GiB", &nothing)[0].contains("no sessions were measured"));
        assert!(broken("errors>0,errors>0%", &nothing).is_empty());
    }

    #[test]
    fn errors_say_where_and_what_is_known() {
        for (list, position, part) in [
            ("", 1, "a condition is missing"),
            ("p99>5ms,", 9, "a condition is missing"),
            ("p99>5ms, p98>5ms", 10, "'p98' is no figure of a run; known are min, mean, p50"),
            ("errors", 1, "no comparison in 'errors'; write one of > >= < <="),
            ("errors=0", 1, "no comparison"),
            ("raw.errors>0", 1, "'raw.errors' is no figure"),
            ("p99>5", 5, "'5' is no value for p99; write a time with its unit"),
            ("p99> 5m", 6, "'5m' is no value"),
            ("p99>=-5ms", 6, "'-5ms' is no value"),
            ("p99>>5ms", 5, "'>5ms' is no value"),
            ("p99>1e3ms", 5, "'1e3ms' is no value"),
            ("p99>..ms", 5, "'..ms' is no value"),
            ("rate<5%", 6, "'5%' is no value for rate"),
            ("errors>many", 8, "'many' is no value for errors; write a count or a part"),
            ("max>1µs,errors>x", 16, "'x' is no value"),
        ] {
            let error = list.parse::<Thresholds>().unwrap_err();
            let message = error.to_string();
            assert!(message.contains(part), "{message}");
            assert_eq!(error.position, position, "{message}");
        }
    }

    #[test]
    fn the_list_is_bounded() {
        let list = vec!["errors>0"; THRESHOLDS_MAX + 1].join(",");
        let message = list.parse::<Thresholds>().unwrap_err().to_string();
        assert!(message.ends_with("more than 64 conditions"), "{message}");
    }
}
