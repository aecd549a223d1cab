//! What a run found, as text for a terminal.
//!
//! The text carries ANSI styles; whoever prints it strips them where there is no terminal.
//! What came from the server is shown without control characters, which could otherwise
//! change what the terminal shows.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use super::columns::{Cell, Columns, HEAD, NAME};
use super::quantities::{
    amount_text, bytes_text, count_text, duration_text, instant_text, printable, rate_text,
    share_text, span_text,
};
use crate::outcome::{
    Distribution, GeneratorFigures, Limit, Outcome, Plan, ServerFigures, SessionMemory, Stage,
    Totals,
};

const GOOD: Style = AnsiColor::Green.on_default();
const WARN: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default();

/// Kinds of errors that are shown; the JSON file has all.
const ERROR_KINDS_MAX: usize = 12;

/// The whole table, ended by a line end.
pub fn table(outcome: &Outcome) -> String {
    let mut text = String::new();
    write_head(&mut text, outcome);
    write_totals(&mut text, &outcome.totals);
    write_latency(&mut text, outcome);
    write_operations(&mut text, outcome);
    write_stages(&mut text, outcome);
    write_errors(&mut text, outcome);
    write_both_sides(&mut text, outcome);
    write_verdict(&mut text, outcome);
    text
}

fn write_head(text: &mut String, outcome: &Outcome) {
    let plan = &outcome.plan;
    let _ = writeln!(
        text,
        "\n{HEAD}{}{HEAD:#} against {} (MCP {})",
        printable(&plan.workload),
        printable(&plan.url),
        printable(&plan.revision)
    );
    let mut time = format!(
        "{} · {} measured",
        instant_text(outcome.began_unix_ms),
        span_text(outcome.totals.elapsed_s)
    );
    if plan.warmup_s > 0.0 {
        let _ = write!(time, " after {} of warm-up", span_text(plan.warmup_s));
    }
    let _ = writeln!(text, "{NAME}{time}{NAME:#}");
    let [.., last] = plan.stages.as_slice() else { return };
    let _ = writeln!(text, "{NAME}{}{NAME:#}", load_text(last));
}

/// Rate and connections of a stage.
pub(crate) fn load_text(stage: &Stage) -> String {
    let rate = match stage.rate {
        Some(rate) => format!("{} by schedule (open loop)", rate_text(rate)),
        None => "as many as the connections allow (closed loop)".to_owned(),
    };
    format!("{rate}, {} connections", count_text(u64::from(stage.connections)))
}

fn write_totals(text: &mut String, totals: &Totals) {
    let mut columns = Columns::new(&["requests", "count", "per second", "of offered"]);
    let rows = [
        ("offered", totals.offered, Style::new()),
        ("sent", totals.sent, Style::new()),
        ("completed", totals.completed, HEAD),
        ("shed", totals.shed, if totals.shed > 0 { WARN } else { Style::new() }),
        ("errors", totals.errors, if totals.errors > 0 { BAD } else { Style::new() }),
    ];
    for (name, count, style) in rows {
        columns.row(vec![
            name.into(),
            Cell::from(count_text(count)).styled(style),
            Cell::from(rate_text(per_second(count, totals))).styled(style),
            share_text(count, totals.offered).into(),
        ]);
    }
    let _ = write!(text, "\n{}", columns.text());
    let traffic = |bytes| format!("{}/s", bytes_text(per_second(bytes, totals)));
    let mut line = format!(
        "  {NAME}bytes{NAME:#} {} sent, {} received",
        traffic(totals.sent_bytes),
        traffic(totals.received_bytes)
    );
    if totals.events > 0 {
        let rate = rate_text(per_second(totals.events, totals));
        let _ = write!(line, " · {} events on streams, {rate}", count_text(totals.events));
    }
    let _ = writeln!(text, "{line}");
}

/// Nothing per second if no time passed.
pub(crate) fn per_second(count: u64, totals: &Totals) -> f64 {
    if totals.elapsed_s > 0.0 { count as f64 / totals.elapsed_s } else { 0.0 }
}

const PERCENTILES: [&str; 9] =
    ["min", "mean", "p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"];

/// In the order of [`PERCENTILES`].
fn percentile_cells(of: &Distribution) -> Vec<Cell> {
    let us = |value: u64| value as f64;
    let values = [
        us(of.min),
        of.mean,
        us(of.p50),
        us(of.p90),
        us(of.p95),
        us(of.p99),
        us(of.p999),
        us(of.p9999),
        us(of.max),
    ];
    values
        .map(|value| match of.count {
            0 => Cell::from("-"),
            _ => Cell::from(duration_text(value)),
        })
        .into()
}

fn write_latency(text: &mut String, outcome: &Outcome) {
    let mut heads = vec!["latency"];
    heads.extend(PERCENTILES);
    let mut columns = Columns::new(&heads);
    for (name, distribution) in outcome.latency.shown() {
        let mut row = vec![Cell::from(name)];
        row.extend(percentile_cells(distribution));
        columns.row(row);
    }
    let _ = write!(text, "\n{}", columns.text());
    let _ = writeln!(
        text,
        "  {NAME}corrected: from the time a request was due; raw: from the time it was sent{NAME:#}"
    );
}

fn write_operations(text: &mut String, outcome: &Outcome) {
    // One operation is all there is, and all is shown already.
    if outcome.operations.len() < 2 {
        return;
    }
    let mut heads = vec!["operation", "completed", "errors"];
    heads.extend(PERCENTILES);
    let mut columns = Columns::new(&heads);
    for (name, operation) in &outcome.operations {
        let mut row = vec![
            Cell::from(printable(name)),
            count_text(operation.completed).into(),
            failures(operation.errors),
        ];
        row.extend(percentile_cells(&operation.corrected));
        columns.row(row);
    }
    let _ = write!(text, "\n{}", columns.text());
}

fn failures(count: u64) -> Cell {
    let style = if count > 0 { BAD } else { Style::new() };
    Cell::from(count_text(count)).styled(style)
}

/// True if there is more to tell than of a warm-up and one stage.
pub(super) fn has_stages(outcome: &Outcome) -> bool {
    outcome.stages.len() > 1 + usize::from(outcome.plan.warmup_s > 0.0)
}

/// `warm-up: 5 s`, `1: 10 s, ramp`; stages are counted behind the warm-up.
pub(super) fn stage_text(plan: &Plan, index: usize, stage: &Stage) -> String {
    let warmups = usize::from(plan.warmup_s > 0.0);
    let name = match index.checked_sub(warmups) {
        Some(number) => (number + 1).to_string(),
        None => "warm-up".to_owned(),
    };
    let ramp = if stage.ramp { ", ramp" } else { "" };
    format!("{name}: {}{ramp}", span_text(stage.duration_s))
}

fn write_stages(text: &mut String, outcome: &Outcome) {
    if !has_stages(outcome) {
        return;
    }
    let heads =
        ["stage", "offered", "completed", "connections", "errors", "shed", "p50", "p99", "max"];
    let mut columns = Columns::new(&heads);
    for (index, stage) in outcome.stages.iter().enumerate() {
        let totals = &stage.totals;
        let latency = &stage.latency.corrected;
        columns.row(vec![
            stage_text(&outcome.plan, index, &stage.stage).into(),
            rate_text(per_second(totals.offered, totals)).into(),
            rate_text(per_second(totals.completed, totals)).into(),
            count_text(u64::from(stage.stage.connections)).into(),
            failures(totals.errors),
            count_text(totals.shed).into(),
            duration_text(latency.p50 as f64).into(),
            duration_text(latency.p99 as f64).into(),
            duration_text(latency.max as f64).into(),
        ]);
    }
    let _ = write!(text, "\n{}", columns.text());
}

fn write_errors(text: &mut String, outcome: &Outcome) {
    if outcome.errors.is_empty() {
        return;
    }
    let mut kinds: Vec<_> = outcome.errors.iter().collect();
    kinds.sort_by_key(|(_, kind)| std::cmp::Reverse(kind.count));
    let _ = writeln!(text, "\n  {NAME}errors, and the first of each kind{NAME:#}");
    for (name, kind) in kinds.iter().take(ERROR_KINDS_MAX) {
        let count = count_text(kind.count);
        let (name, example) = (printable(name), printable(&kind.example));
        let _ = writeln!(text, "  {BAD}{count:>9}{BAD:#}  {name}: {example}");
    }
    if kinds.len() > ERROR_KINDS_MAX {
        let rest = kinds.len() - ERROR_KINDS_MAX;
        let _ = writeln!(text, "             and {rest} more kinds, which --json has");
    }
}

fn write_both_sides(text: &mut String, outcome: &Outcome) {
    text.push('\n');
    if let Some(server) = &outcome.server {
        let _ = writeln!(text, "  {NAME}server   {NAME:#} {}", server_text(server));
        if server.requests_by_shard.len() > 1 {
            let _ = writeln!(text, "  {NAME}balance  {NAME:#} {}", balance_text(server));
        }
    }
    if let Some(memory) = &outcome.memory {
        let _ = writeln!(text, "  {NAME}sessions {NAME:#} {}", memory_text(memory));
    }
    let generator = generator_text(&outcome.generator);
    let _ = writeln!(text, "  {NAME}generator{NAME:#} {generator}");
}

/// What the load cost on this side, in one line.
pub(super) fn generator_text(generator: &GeneratorFigures) -> String {
    format!(
        "{} cores, busy for {:.0} % · requests left up to {} late (p99)",
        amount_text(generator.cores),
        generator.busy * 100.0,
        duration_text(generator.send_delay_p99 as f64)
    )
}

/// What each session cost, in one line.
pub(super) fn memory_text(memory: &SessionMemory) -> String {
    let figures = [
        (memory.process_idle_bytes, "in the process when idle"),
        (memory.process_loaded_bytes, "after the load"),
        (memory.kernel_slab_bytes, "of kernel slab"),
        (memory.kernel_buffer_bytes, "of socket buffers"),
    ];
    let parts: Vec<String> = figures
        .iter()
        .filter_map(|(bytes, what)| Some(format!("{} {what}", each_text((*bytes)?))))
        .collect();
    format!("{}, each: {}", count_text(memory.sessions), parts.join(", "))
}

/// Exact where it is small, and less than nothing where memory was given back.
fn each_text(bytes: f64) -> String {
    match bytes {
        bytes if bytes < 0.0 => format!("-{}", each_text(-bytes)),
        bytes if bytes < 10_000.0 => format!("{} B", count_text(bytes.round() as u64)),
        bytes => bytes_text(bytes),
    }
}

/// What is known of the server, in one line.
pub(super) fn server_text(server: &ServerFigures) -> String {
    let mut parts = Vec::new();
    if let Some(pid) = server.pid {
        parts.push(format!("pid {pid}"));
    }
    if let Some(cores) = server.cores {
        parts.push(format!("{} cores", amount_text(cores)));
    }
    if let Some(us) = server.cpu_us_per_request {
        parts.push(format!("{} of processor time per request", duration_text(us)));
    }
    match (server.resident_before_bytes, server.resident_bytes) {
        (Some(before), Some(at_end)) => parts.push(format!(
            "{} resident, {} before the load",
            bytes_text(at_end as f64),
            bytes_text(before as f64)
        )),
        (None, Some(at_end)) => parts.push(format!("{} resident", bytes_text(at_end as f64))),
        (Some(_) | None, None) => {}
    }
    match parts.is_empty() {
        true => "nothing is known of it".to_owned(),
        false => parts.join(" · "),
    }
}

/// Each shard's part of the requests.
pub(super) fn balance_text(server: &ServerFigures) -> String {
    let all: u64 = server.requests_by_shard.values().sum();
    let parts: Vec<String> = server
        .requests_by_shard
        .iter()
        .map(|(shard, count)| format!("shard {} {}", printable(shard), share_text(*count, all)))
        .collect();
    parts.join(", ")
}

fn write_verdict(text: &mut String, outcome: &Outcome) {
    let verdict = &outcome.verdict;
    let style = match verdict.limit {
        Limit::None => GOOD,
        Limit::Server => WARN,
        Limit::Generator => BAD,
    };
    text.push('\n');
    if verdict.interrupted {
        let _ = writeln!(
            text,
            "{WARN}Interrupted: the figures cover {} only.{WARN:#}",
            span_text(outcome.totals.elapsed_s)
        );
    }
    let _ = writeln!(text, "{style}{}{style:#}", printable(&verdict.sentence));
    for broken in &verdict.broken_thresholds {
        let _ = writeln!(text, "{BAD}not kept:{BAD:#} {}", printable(broken));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::{ErrorKind, Latencies};
    use crate::report::sample;

    fn plain(outcome: &Outcome) -> String {
        anstream::adapter::strip_str(&table(outcome)).to_string()
    }

    #[test]
    fn the_table_shows_each_part() {
        let outcome = sample::outcome();
        let text = plain(&outcome);
        let totals = &outcome.totals;
        for part in [
            "mix_50_20_30 against http://127.0.0.1:8080/mcp (MCP 2025-11-25)",
            "2026-11-21 21:40:55 UTC · 55 s measured after 5 s of warm-up",
            "60,000/s by schedule (open loop), 512 connections",
            &count_text(totals.completed),
            &rate_text(totals.completed as f64 / totals.elapsed_s),
            &duration_text(outcome.latency.corrected.p999 as f64),
            &duration_text(outcome.latency.raw.p999 as f64),
            "resources/read",
            "warm-up: 5 s  ",
            "1: 10 s, ramp  ",
            "connection closed: 127.0.0.1:8080 closed the connection",
            "pid 4711 · 0.980 cores · 17.9 µs of processor time per request",
            "23.2 MiB resident, 15.2 MiB before the load",
            "shard 0 51.0 %, shard 1 49.0 %",
            "0.610 cores, busy for 42 % · requests left up to 38.0 µs late (p99)",
            "The server answered 97.4 %",
            "not kept: p99>5ms: p99 was 48.6 ms",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        assert!(!text.contains("Interrupted"), "{text}");
    }

    #[test]
    fn what_sessions_cost_is_told_as_far_as_it_is_known() {
        let mut outcome = sample::outcome();
        outcome.memory = Some(SessionMemory {
            sessions: 100_000,
            process_idle_bytes: Some(1_203.4),
            process_loaded_bytes: None,
            kernel_slab_bytes: Some(9_500.0),
            kernel_buffer_bytes: Some(-12.0),
        });
        let expected = "sessions  100,000, each: 1,203 B in the process when idle, 9,500 B of \
                        kernel slab, -12 B of socket buffers\n";
        let text = plain(&outcome);
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn one_stage_behind_a_warm_up_needs_no_table() {
        let mut outcome = sample::outcome();
        outcome.stages.truncate(2);
        assert!(!plain(&outcome).contains("  stage "));
        outcome.plan.warmup_s = 0.0;
        let text = plain(&outcome);
        assert!(text.contains("  1: 5 s ") && text.contains("  2: 10 s, ramp "), "{text}");
    }

    #[test]
    fn a_run_without_answers_has_no_percentiles() {
        let mut outcome = sample::outcome();
        outcome.latency = Latencies::default();
        outcome.totals = Totals::default();
        outcome.operations.clear();
        outcome.stages.clear();
        outcome.server = None;
        outcome.verdict.interrupted = true;
        let text = plain(&outcome);
        let corrected = text.lines().find(|line| line.contains("corrected  ")).expect("a row");
        assert_eq!(corrected.split_whitespace().skip(1).collect::<String>(), "-".repeat(9));
        assert!(text.contains("Interrupted: the figures cover 0 s only."), "{text}");
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }

    #[test]
    fn a_server_cannot_write_to_the_terminal() {
        let mut outcome = sample::outcome();
        let hostile = "\u{1b}[2J\u{7}gone\n".to_owned();
        outcome.plan.url.clone_from(&hostile);
        outcome.verdict.sentence.clone_from(&hostile);
        outcome.verdict.broken_thresholds = vec![hostile.clone()];
        let operation = outcome.operations["ping"].clone();
        outcome.operations.insert(hostile.clone(), operation);
        outcome.errors = [(hostile.clone(), ErrorKind { count: 1, example: hostile })].into();
        let text = table(&outcome);
        assert!(!text.contains("\u{1b}[2J") && !text.contains('\u{7}'), "{text:?}");
    }

    #[test]
    fn the_most_frequent_errors_come_first_and_the_list_ends() {
        let mut outcome = sample::outcome();
        outcome.errors = (0..20)
            .map(|n| (format!("kind {n}"), ErrorKind { count: n + 1, example: "x".to_owned() }))
            .collect();
        let text = plain(&outcome);
        assert!(text.contains("20  kind 19: x\n         19  kind 18: x\n"), "{text}");
        assert!(text.contains("and 8 more kinds"), "{text}");
        assert!(!text.contains("kind 7:"), "{text}");
    }
}
