//! The figures as text for a terminal, and as JSON.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use super::{Failover, Figures, Performed, Recovery, StepFigures, Tuning};
use crate::report::columns::{Cell, Columns, HEAD};
use crate::report::quantities::{bytes_text, count_text, duration_text, printable, rate_text};

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();

impl Figures {
    /// Whether every operation succeeded, and nothing was lost or doubled.
    pub fn is_sound(&self) -> bool {
        let runs = self.steps.iter().flat_map(|figures| &figures.runs);
        runs.map(|run| run.failed).sum::<u64>() == 0
            && self.failovers.iter().all(Failover::is_sound)
            && self.recoveries.iter().all(|recovery| recovery.lost == 0)
    }
}

/// Tables of all that was found, and the verdict.
pub fn text(figures: &Figures) -> String {
    let links = if figures.is_secure { "mutual TLS" } else { "plain TCP" };
    let mut text = format!(
        "\n{HEAD}coordinator{HEAD:#}, every node a process on this machine, links by {links}\n\
         clients are inside the process of one node; a sync of 4 KiB takes {} here (p99 {})\n",
        duration_text(figures.disk.sync_p50_us as f64),
        duration_text(figures.disk.sync_p99_us as f64),
    );
    if figures.disk.is_memory {
        let _ = writeln!(
            text,
            "{BAD}the data lies in memory, so a sync costs nothing{BAD:#}: name a disk's \
             directory with --data"
        );
    }
    if !figures.steps.is_empty() {
        text.push_str(&steps(&figures.steps));
    }
    if !figures.failovers.is_empty() {
        text.push_str(&failovers(&figures.failovers));
    }
    if !figures.recoveries.is_empty() {
        text.push_str(&recoveries(&figures.recoveries));
    }
    let (style, verdict) = match figures.is_sound() {
        true => (GOOD, "Nothing failed, nothing was lost, nothing doubled."),
        false => (BAD, "Something failed, or was lost or doubled: see above."),
    };
    let _ = writeln!(text, "\n  {style}{verdict}{style:#}");
    text
}

fn steps(all: &[StepFigures]) -> String {
    let heads = [
        "operation",
        "nodes",
        "clients",
        "at",
        "tuning",
        "rate",
        "p50",
        "p95",
        "p99",
        "max",
        "CPU",
        "syncs",
        "failed",
    ];
    let mut columns = Columns::new(&heads);
    for figures in all {
        let middle = |value: &dyn Fn(&Performed) -> f64| median(figures.runs.iter().map(value));
        let latency = |value: &dyn Fn(&Performed) -> u64| {
            Cell::from(duration_text(middle(&|run| value(run) as f64)))
        };
        let failed: u64 = figures.runs.iter().map(|run| run.failed).sum();
        let failed_style = if failed == 0 { Style::new() } else { BAD };
        columns.row(vec![
            Cell::from(figures.step.name()),
            Cell::from(figures.nodes.to_string()),
            Cell::from(figures.clients.to_string()),
            Cell::from(figures.place.name()),
            Cell::from(tuning_text(figures.tuning)),
            Cell::from(rate_text(middle(&Performed::rate))),
            latency(&|run| run.latency.p50),
            latency(&|run| run.latency.p95),
            latency(&|run| run.latency.p99),
            latency(&|run| run.latency.max),
            latency(&|run| run.cpu_us.checked_div(run.done).unwrap_or_default()),
            Cell::from(rate_text(middle(&|run| {
                run.syncs as f64 * 1e6 / run.elapsed_us.max(1) as f64
            }))),
            Cell::from(count_text(failed)).styled(failed_style),
        ]);
    }
    let runs = all.iter().map(|figures| figures.runs.len()).max().unwrap_or_default();
    let mut text = format!(
        "\n{HEAD}operations{HEAD:#}: medians of {runs} runs; CPU is that of the node with the \
         clients, for each operation\n\n{}",
        columns.text()
    );
    for figures in all {
        if let Some(run) = figures.runs.iter().find(|run| run.failed > 0) {
            let _ = writeln!(
                text,
                "  {BAD}{}{BAD:#}: {}",
                figures.step.name(),
                printable(&run.example)
            );
        }
    }
    text
}

fn tuning_text(tuning: Tuning) -> String {
    let Tuning { commands_per_entry, snapshot_every, entries_kept: _ } = tuning;
    match (commands_per_entry, snapshot_every) {
        (None, None) => "-".to_owned(),
        (Some(commands), _) => format!("{} a batch", count_text(commands as u64)),
        (None, Some(entries)) => format!("snapshot/{}", count_text(entries)),
    }
}

fn failovers(all: &[Failover]) -> String {
    let heads = [
        "nodes",
        "clients",
        "kills",
        "p50",
        "p95",
        "p99",
        "max",
        "acknowledged",
        "asked again",
        "lost",
        "doubled",
    ];
    let mut columns = Columns::new(&heads);
    for failover in all {
        let count = |count: u64, is_bad: bool| {
            Cell::from(count_text(count)).styled(if is_bad { BAD } else { Style::new() })
        };
        let outage = &failover.outage;
        let mut cells = vec![
            Cell::from(failover.nodes.to_string()),
            Cell::from(failover.clients.to_string()),
            Cell::from(failover.kills.to_string()),
        ];
        let latencies = [outage.p50, outage.p95, outage.p99, outage.max];
        cells.extend(latencies.map(|us| Cell::from(duration_text(us as f64))));
        cells.extend([
            count(failover.acknowledged, false),
            count(failover.retries, false),
            count(failover.lost, failover.lost > 0),
            count(failover.doubled, failover.doubled > 0),
        ]);
        columns.row(cells);
    }
    let mut text = format!(
        "\n{HEAD}the leader killed with SIGKILL{HEAD:#}: from the kill to the end of the first \
         write at a survivor that began after it\n\n{}",
        columns.text()
    );
    for example in all.iter().flat_map(|failover| &failover.examples) {
        let _ = writeln!(text, "  {BAD}{}{BAD:#}", printable(example));
    }
    text
}

fn recoveries(all: &[Recovery]) -> String {
    let heads = [
        "nodes",
        "tasks",
        "filled in",
        "memory/node",
        "snapshot",
        "node restart",
        "new node",
        "all restart",
        "lost",
    ];
    let mut columns = Columns::new(&heads);
    for recovery in all {
        let most = recovery.resident_bytes.iter().max().copied().unwrap_or_default();
        let lost_style = if recovery.lost == 0 { Style::new() } else { BAD };
        columns.row(vec![
            Cell::from(recovery.nodes.to_string()),
            Cell::from(format!(
                "{} of {}",
                count_text(recovery.tasks),
                bytes_text(recovery.bytes as f64)
            )),
            Cell::from(duration_text(recovery.fill_us as f64)),
            Cell::from(bytes_text(most as f64)),
            Cell::from(bytes_text(recovery.snapshot_bytes as f64)),
            Cell::from(duration_text(recovery.node_restart_us as f64)),
            Cell::from(duration_text(recovery.full_sync_us as f64)),
            Cell::from(duration_text(recovery.cluster_restart_us as f64)),
            Cell::from(count_text(recovery.lost)).styled(lost_style),
        ]);
    }
    format!(
        "\n{HEAD}recovery{HEAD:#}: from the start of the process until it has everything, of all \
         processes until the first write\n\n{}",
        columns.text()
    )
}

/// The value in the middle, the mean of both if there are two.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Place, Step};
    use super::*;

    fn figures(failed: u64) -> Figures {
        let run = |done, failed| Performed {
            done,
            failed,
            elapsed_us: 1_000_000,
            example: "no leader".to_owned(),
            ..Performed::default()
        };
        let steps = StepFigures {
            nodes: 3,
            tuning: Tuning::default(),
            clients: 64,
            place: Place::Follower,
            step: Step::SubmitTask,
            runs: vec![run(9_000, 0), run(12_345, failed), run(20_000, 0)],
        };
        Figures { steps: vec![steps], ..Figures::default() }
    }

    #[test]
    fn the_table_has_medians() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0].into_iter()), 2.5);
        let text = text(&figures(0));
        assert!(text.contains("12,345/s") && !text.contains("9,000/s"), "{text}");
        assert!(text.contains("Nothing failed"), "{text}");
    }

    #[test]
    fn what_failed_is_told_with_its_reason() {
        let figures = figures(1);
        assert!(!figures.is_sound());
        let text = text(&figures);
        assert!(text.contains("no leader") && text.contains("Something failed"), "{text}");
    }

    #[test]
    fn a_lost_write_is_no_success() {
        let lost = Failover { lost: 1, ..Failover::default() };
        assert!(!Figures { failovers: vec![lost], ..Figures::default() }.is_sound());
        let doubled = Failover { doubled: 1, ..Failover::default() };
        assert!(!Figures { failovers: vec![doubled], ..Figures::default() }.is_sound());
        let lost = Recovery { lost: 1, ..Recovery::default() };
        assert!(!Figures { recoveries: vec![lost], ..Figures::default() }.is_sound());
    }
}
