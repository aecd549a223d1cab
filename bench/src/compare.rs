//! Two runs side by side: `shardgate-bench compare a.json b.json`.
//!
//! Ratios are the second run by the first. They mean something only if both runs asked for
//! the same on the same machine; what differs is told before the figures, and
//! [`Comparison::is_fair`] tells a script.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use crate::outcome::{Distribution, Limit, Outcome, Stage};
use crate::report::columns::{Cell, Columns};
use crate::report::quantities::{
    amount_text, bytes_text, count_text, duration_text, printable, rate_text, span_text,
};
use crate::report::table::{load_text, per_second};

const GOOD: Style = AnsiColor::Green.on_default();
const WARN: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default();

/// Ratios this near to 1 are noise on a machine with other tenants.
const NOISE: f64 = 0.05;

/// Two runs, compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Why the ratios do not mean what they seem to: another workload, plan or machine.
    pub obstacles: Vec<String>,
    /// What to keep in mind although the runs are alike.
    pub remarks: Vec<String>,
    /// The figures.
    pub rows: Vec<Row>,
}

/// One figure of both runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Such as `p99`.
    pub name: String,
    /// Of the first run, if it has it.
    pub first: Option<f64>,
    /// Of the second.
    pub second: Option<f64>,
    /// What the numbers are.
    pub unit: Unit,
    /// Which direction is better.
    pub better: Better,
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Things per second.
    Rate,
    /// Microseconds.
    Time,
    /// Cores.
    Cores,
    /// Bytes.
    Size,
}

/// Which of two values is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// The higher.
    Higher,
    /// The lower.
    Lower,
    /// Neither.
    Neither,
}

impl Comparison {
    /// Compares two runs.
    pub fn of(first: &Outcome, second: &Outcome) -> Comparison {
        Comparison {
            obstacles: obstacles(first, second),
            remarks: remarks(first, second),
            rows: rows(first, second),
        }
    }

    /// True if both runs asked for the same on the same machine.
    pub fn is_fair(&self) -> bool {
        self.obstacles.is_empty()
    }

    /// The comparison for a terminal, with ANSI styles; the names are those of the files.
    pub fn text(&self, first: &str, second: &str) -> String {
        let mut text = String::from("\n");
        for obstacle in &self.obstacles {
            let _ = writeln!(text, "{BAD}not comparable:{BAD:#} {}", printable(obstacle));
        }
        for remark in &self.remarks {
            let _ = writeln!(text, "{WARN}mind:{WARN:#} {}", printable(remark));
        }
        if !self.obstacles.is_empty() || !self.remarks.is_empty() {
            text.push('\n');
        }
        let mut columns =
            Columns::new(&["", &printable(first), &printable(second), "second ÷ first"]);
        // What neither run has is no news.
        let is_known = |row: &&Row| row.first.is_some() || row.second.is_some();
        for row in self.rows.iter().filter(is_known) {
            columns.row(vec![
                Cell::from(row.name.as_str()),
                value_text(row.first, row.unit).into(),
                value_text(row.second, row.unit).into(),
                row.verdict(),
            ]);
        }
        text.push_str(&columns.text());
        text
    }
}

impl Row {
    /// The second by the first, if both are there and the first is not 0.
    pub fn ratio(&self) -> Option<f64> {
        let (first, second) = (self.first?, self.second?);
        (first > 0.0).then(|| second / first)
    }

    fn verdict(&self) -> Cell {
        let style = match (self.first, self.second) {
            (Some(first), Some(second)) => self.style(first, second),
            (Some(_) | None, _) => Style::new(),
        };
        let text = match (self.ratio(), self.first, self.second) {
            (Some(ratio), _, _) => format!("{} ×", amount_text(ratio)),
            (None, Some(first), Some(second)) if first == second => "same".to_owned(),
            (None, Some(_), Some(_)) => "from nothing".to_owned(),
            (None, _, _) => "-".to_owned(),
        };
        Cell::from(text).styled(style)
    }

    fn style(&self, first: f64, second: f64) -> Style {
        if (second - first).abs() <= first * NOISE {
            return Style::new();
        }
        match (self.better, second > first) {
            (Better::Neither, _) => Style::new(),
            (Better::Higher, true) | (Better::Lower, false) => GOOD,
            (Better::Higher, false) | (Better::Lower, true) => BAD,
        }
    }
}

fn value_text(value: Option<f64>, unit: Unit) -> String {
    let Some(value) = value else { return "-".to_owned() };
    match unit {
        Unit::Count => count_text(value as u64),
        Unit::Rate => rate_text(value),
        Unit::Time => duration_text(value),
        Unit::Cores => amount_text(value),
        Unit::Size => bytes_text(value),
    }
}

fn obstacles(first: &Outcome, second: &Outcome) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |what: &str, a: String, b: String| {
        if a != b {
            found.push(format!("{what}: {a} in the first run, {b} in the second"));
        }
    };
    let (a, b) = (&first.plan, &second.plan);
    differ("workload", a.workload.clone(), b.workload.clone());
    differ("MCP revision", a.revision.clone(), b.revision.clone());
    differ("payload", bytes_text(a.payload_bytes as f64), bytes_text(b.payload_bytes as f64));
    differ("think time", duration_text(a.think_us as f64), duration_text(b.think_us as f64));
    differ("plan", plan_text(&a.stages), plan_text(&b.stages));
    let (a, b) = (&first.host, &second.host);
    differ("processor", a.cpu.clone(), b.cpu.clone());
    differ("cpus", a.cpus.to_string(), b.cpus.to_string());
    found
}

/// Stages in one line; how long each took is not part of it, as figures are per second.
fn plan_text(stages: &[Stage]) -> String {
    let texts: Vec<String> = stages
        .iter()
        .map(|stage| format!("{}{}", if stage.ramp { "ramp to " } else { "" }, load_text(stage)))
        .collect();
    texts.join("; then ")
}

fn remarks(first: &Outcome, second: &Outcome) -> Vec<String> {
    let mut remarks = Vec::new();
    for (name, outcome) in [("first", first), ("second", second)] {
        if outcome.verdict.limit == Limit::Generator {
            remarks.push(format!(
                "the generator was the limit of the {name} run; compare processor time per request"
            ));
        }
        if outcome.verdict.interrupted {
            let covered = span_text(outcome.totals.elapsed_s);
            remarks.push(format!("the {name} run was interrupted after {covered}"));
        }
    }
    let (a, b) = (&first.host, &second.host);
    if a.kernel != b.kernel {
        remarks.push(format!("kernel {} in the first run, {} in the second", a.kernel, b.kernel));
    }
    // The load average is another one every time.
    let settings = |outcome: &Outcome| {
        let mut settings = outcome.host.settings.clone();
        settings.retain(|name, _| name.contains('.'));
        settings
    };
    let (ours, theirs) = (settings(first), settings(second));
    for name in ours.keys().chain(theirs.keys().filter(|name| !ours.contains_key(*name))) {
        let of = |map: &std::collections::BTreeMap<String, String>| {
            map.get(name).cloned().unwrap_or_else(|| "unknown".to_owned())
        };
        if ours.get(name) != theirs.get(name) {
            let (a, b) = (of(&ours), of(&theirs));
            remarks.push(format!("{name} {a} in the first run, {b} in the second"));
        }
    }
    let (a, b) = (first.totals.elapsed_s, second.totals.elapsed_s);
    // Rare events, and so the high percentiles, need time to be seen.
    if a.max(b) > 2.0 * a.min(b) {
        let (a, b) = (span_text(a), span_text(b));
        remarks.push(format!("{a} were measured in the first run, {b} in the second"));
    }
    remarks
}

fn rows(first: &Outcome, second: &Outcome) -> Vec<Row> {
    let row = |name: &str, unit, better, of: &dyn Fn(&Outcome) -> Option<f64>| Row {
        name: name.to_owned(),
        first: of(first),
        second: of(second),
        unit,
        better,
    };
    let rate = |of: fn(&Outcome) -> u64| {
        move |outcome: &Outcome| Some(per_second(of(outcome), &outcome.totals))
    };
    let mut rows = vec![
        row("offered", Unit::Rate, Better::Neither, &rate(|run| run.totals.offered)),
        row("completed", Unit::Rate, Better::Higher, &rate(|run| run.totals.completed)),
        row("shed", Unit::Rate, Better::Lower, &rate(|run| run.totals.shed)),
        row("errors", Unit::Count, Better::Lower, &|run| Some(run.totals.errors as f64)),
    ];
    rows.extend(latency_rows(first, second));
    rows.extend([
        row("server time per request", Unit::Time, Better::Lower, &|run| {
            run.server.as_ref()?.cpu_us_per_request
        }),
        row("server cores", Unit::Cores, Better::Neither, &|run| run.server.as_ref()?.cores),
        row("server memory", Unit::Size, Better::Lower, &|run| {
            run.server.as_ref()?.resident_bytes.map(|bytes| bytes as f64)
        }),
        row("server memory, growth", Unit::Size, Better::Lower, &|run| {
            let server = run.server.as_ref()?;
            let grown = server.resident_bytes?.saturating_sub(server.resident_before_bytes?);
            Some(grown as f64)
        }),
        row("memory per session, idle", Unit::Size, Better::Lower, &|run| {
            run.memory.as_ref()?.process_idle_bytes
        }),
        row("memory per session, loaded", Unit::Size, Better::Lower, &|run| {
            run.memory.as_ref()?.process_loaded_bytes
        }),
        row("generator cores", Unit::Cores, Better::Neither, &|run| Some(run.generator.cores)),
    ]);
    rows
}

fn latency_rows(first: &Outcome, second: &Outcome) -> Vec<Row> {
    type Of = fn(&Distribution) -> f64;
    let statistics: [(&str, Of); 7] = [
        ("mean", |latency| latency.mean),
        ("p50", |latency| latency.p50 as f64),
        ("p90", |latency| latency.p90 as f64),
        ("p99", |latency| latency.p99 as f64),
        ("p99.9", |latency| latency.p999 as f64),
        ("p99.99", |latency| latency.p9999 as f64),
        ("max", |latency| latency.max as f64),
    ];
    let mut rows = Vec::new();
    for (suffix, raw) in [("", false), (" raw", true)] {
        for (name, of) in statistics {
            let value = |outcome: &Outcome| {
                let latency = &outcome.latency;
                let from = if raw { &latency.raw } else { &latency.corrected };
                (from.count > 0).then(|| of(from))
            };
            rows.push(Row {
                name: format!("{name}{suffix}"),
                first: value(first),
                second: value(second),
                unit: Unit::Time,
                better: Better::Lower,
            });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn plain(comparison: &Comparison) -> String {
        anstream::adapter::strip_str(&comparison.text("a.json", "b.json")).to_string()
    }

    fn find<'a>(comparison: &'a Comparison, name: &str) -> &'a Row {
        comparison.rows.iter().find(|row| row.name == name).expect("the row")
    }

    #[test]
    fn a_run_is_its_own_equal() {
        let run = sample::outcome();
        let comparison = Comparison::of(&run, &run);
        assert!(comparison.is_fair() && comparison.remarks.is_empty(), "{comparison:?}");
        assert!(comparison.rows.iter().all(|row| row.ratio().is_none_or(|ratio| ratio == 1.0)));
        assert!(plain(&comparison).contains("1.00 ×"));
    }

    #[test]
    fn ratios_are_the_second_by_the_first() {
        let first = sample::outcome();
        let mut second = first.clone();
        second.totals.completed /= 2;
        second.latency.corrected.p99 *= 3;
        second.server.as_mut().expect("seen").cpu_us_per_request = Some(8.95);
        let comparison = Comparison::of(&first, &second);
        assert_eq!(find(&comparison, "completed").ratio(), Some(0.5));
        assert_eq!(find(&comparison, "p99").ratio(), Some(3.0));
        assert_eq!(find(&comparison, "p99 raw").ratio(), Some(1.0));
        assert_eq!(find(&comparison, "server time per request").ratio(), Some(0.5));
        let styled = comparison.text("a", "b");
        assert!(styled.contains(&format!("{BAD}3.00 ×{BAD:#}")), "{styled:?}");
        assert!(styled.contains(&format!("{GOOD}0.500 ×{GOOD:#}")), "{styled:?}");
    }

    #[test]
    fn what_one_run_does_not_have_has_no_ratio() {
        let first = sample::outcome();
        let mut second = first.clone();
        second.server = None;
        second.latency.raw.count = 0;
        let mut quiet = first.clone();
        quiet.totals.errors = 0;
        let comparison = Comparison::of(&first, &second);
        assert_eq!(find(&comparison, "server memory").ratio(), None);
        assert_eq!(find(&comparison, "p50 raw").second, None);
        let comparison = Comparison::of(&quiet, &first);
        assert_eq!(find(&comparison, "errors").ratio(), None);
        let text = plain(&comparison);
        let line = text.lines().find(|line| line.contains("errors ")).expect("a line");
        assert!(line.ends_with("from nothing"), "{line}");
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }

    #[test]
    fn other_workloads_plans_and_machines_are_not_comparable() {
        type Change = fn(&mut Outcome);
        let changes: [(Change, &str); 7] = [
            (|run| run.plan.workload = "ping".to_owned(), "workload: mix_50_20_30 in the first"),
            (|run| run.plan.revision = "2026-07-28".to_owned(), "MCP revision"),
            (|run| run.plan.payload_bytes = 16_384, "payload: 1.00 KiB in the first run, 16.0 KiB"),
            (|run| run.plan.stages[3].connections = 5_000, "5,000 connections in the second"),
            (|run| run.plan.stages[3].rate = None, "closed loop"),
            (|run| run.host.cpu = "another".to_owned(), "processor: AMD EPYC in the first"),
            (|run| run.host.cpus = 64, "cpus: 2 in the first run, 64 in the second"),
        ];
        let first = sample::outcome();
        for (change, expected) in changes {
            let mut second = first.clone();
            change(&mut second);
            let comparison = Comparison::of(&first, &second);
            assert!(!comparison.is_fair(), "{expected}");
            let text = plain(&comparison);
            assert!(text.contains("not comparable: ") && text.contains(expected), "{text}");
        }
    }

    #[test]
    fn what_to_mind_is_told_and_keeps_the_runs_comparable() {
        type Change = fn(&mut Outcome);
        let changes: [(Change, &str); 5] = [
            (
                |run| run.verdict.limit = Limit::Generator,
                "the generator was the limit of the second",
            ),
            (|run| run.verdict.interrupted = true, "the second run was interrupted after 55 s"),
            (|run| run.host.kernel = "6.1.0".to_owned(), "kernel 6.18.0 in the first run, 6.1.0"),
            (
                |run| drop(run.host.settings.remove("net.core.somaxconn")),
                "net.core.somaxconn 4096 in the first run, unknown in the second",
            ),
            (|run| run.totals.elapsed_s = 5.0, "55 s were measured in the first run, 5 s"),
        ];
        let mut first = sample::outcome();
        first.host.settings.insert("load average".to_owned(), "0.1".to_owned());
        for (change, expected) in changes {
            let mut second = first.clone();
            second.host.settings.insert("load average".to_owned(), "0.2".to_owned());
            change(&mut second);
            let comparison = Comparison::of(&first, &second);
            assert!(comparison.is_fair(), "{comparison:?}");
            assert_eq!(comparison.remarks.len(), 1, "{:?}", comparison.remarks);
            assert!(comparison.remarks[0].contains(expected), "{:?}", comparison.remarks);
        }
    }
}
