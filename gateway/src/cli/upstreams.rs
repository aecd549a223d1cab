//! `shardgate upstreams`: the tool servers of a running gateway, for people.
//!
//! The text carries ANSI styles; whoever prints it strips them where there is no terminal.
//! What comes from tool servers is shown without control characters, which could
//! otherwise change what the terminal shows.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use super::status::{count_text, seconds_text};
use crate::control::{UpstreamReport, UpstreamsReport};

/// Where the report is.
pub(super) const UPSTREAMS_PATH: &str = "/api/v1/upstreams";

const GOOD: Style = AnsiColor::Green.on_default();
const WARN: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default();

const COLUMNS: [&str; 11] = [
    "name",
    "state",
    "speaks",
    "tools",
    "prompts",
    "resources",
    "in flight",
    "calls",
    "errors",
    "p50",
    "p99",
];
/// Columns of words, which are aligned to the left.
const WORD_COLUMNS: usize = 3;
const STATE_COLUMN: usize = 1;

/// The report for people.
pub(super) fn table(report: &UpstreamsReport) -> String {
    let upstreams = &report.upstreams;
    if upstreams.is_empty() {
        return format!(
            "{}: no tool servers are configured ([[upstream]]); the built-in one is served\n",
            report.node
        );
    }
    let up = upstreams.iter().filter(|upstream| upstream.state == "up").count();
    let mut text = format!("{} · {up} of {} tool servers up\n\n", report.node, upstreams.len());
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(upstreams.iter().map(cells));
    write_rows(&mut text, &rows);
    let _ = writeln!(text, "\npercentiles: last {:.0} s", report.interval_seconds);
    for upstream in upstreams {
        write_notes(&mut text, upstream);
    }
    text
}

fn cells(upstream: &UpstreamReport) -> [String; COLUMNS.len()] {
    [
        upstream.name.clone(),
        upstream.state.clone(),
        upstream.version.clone().unwrap_or_else(|| "-".to_owned()),
        count_text(upstream.tools),
        count_text(upstream.prompts),
        count_text(upstream.resources),
        count_text(upstream.in_flight),
        count_text(upstream.calls),
        count_text(upstream.errors),
        seconds_text(upstream.latency, |p| p.p50_seconds),
        seconds_text(upstream.latency, |p| p.p99_seconds),
    ]
}

fn write_rows(text: &mut String, rows: &[[String; COLUMNS.len()]]) {
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    });
    for row in rows {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            // The style is put around the cell once its width is known.
            let padding = " ".repeat(width - cell.chars().count());
            let style = if column == STATE_COLUMN { style_of(cell) } else { Style::new() };
            match column < WORD_COLUMNS {
                true => format!("{style}{cell}{style:#}{padding}"),
                false => format!("{padding}{cell}"),
            }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
}

fn style_of(state: &str) -> Style {
    match state {
        "up" => GOOD,
        "opening" => WARN,
        "down" | "broken" => BAD,
        _ => Style::new(),
    }
}

/// What a row has no room for, where there is something to tell.
fn write_notes(text: &mut String, upstream: &UpstreamReport) {
    let mut notes = Vec::new();
    if let Some(reason) = &upstream.reason {
        notes.push(("trouble", printable(reason)));
    }
    if upstream.breaker.open_shards > 0 {
        let breaker = &upstream.breaker;
        let shards = format!("{} of {} shards", breaker.open_shards, breaker.shards);
        notes.push(("breaker", format!("open on {shards}: calls are refused there for a while")));
    }
    let failed: Vec<String> = upstream
        .outcomes
        .iter()
        .filter(|(outcome, _)| *outcome != "result")
        .map(|(outcome, count)| format!("{outcome} {}", count_text(*count)))
        .collect();
    if !failed.is_empty() {
        notes.push(("calls", failed.join(", ")));
    }
    if upstream.hidden + upstream.renamed > 0 {
        let (hidden, renamed) = (upstream.hidden, upstream.renamed);
        notes
            .push(("names", format!("{hidden} hidden behind another server's, {renamed} changed")));
    }
    if let Some(children) = &upstream.children {
        let (running, restarts) = (children.running, children.restarts);
        let (crashed, not_started) = (children.crashed, children.not_started);
        notes.push((
            "children",
            format!(
                "{running} running, {restarts} restarts, {crashed} crashed, {not_started} not started"
            ),
        ));
    }
    if notes.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{} ({})", upstream.name, printable(&upstream.address));
    for (name, note) in notes {
        let _ = writeln!(text, "  {name:<8} {note}");
    }
}

/// One line without control characters.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::control::{BreakerReport, ChildrenReport};

    fn report() -> UpstreamsReport {
        let crm = UpstreamReport {
            name: "crm".to_owned(),
            address: "http://crm.test/mcp".to_owned(),
            state: "up".to_owned(),
            version: Some("2025-11-25".to_owned()),
            tools: 12,
            calls: 1_234,
            ..UpstreamReport::default()
        };
        let files = UpstreamReport {
            name: "files-of-all".to_owned(),
            address: "mcp-files".to_owned(),
            state: "broken".to_owned(),
            reason: Some("exit code 1:\n\u{1b}[2Jno such file".to_owned()),
            outcomes: BTreeMap::from([("breaker".to_owned(), 7), ("result".to_owned(), 1)]),
            breaker: BreakerReport { open_shards: 1, shards: 2, openings: 3 },
            children: Some(ChildrenReport { crashed: 4, ..ChildrenReport::default() }),
            ..UpstreamReport::default()
        };
        let upstreams = vec![crm, files];
        UpstreamsReport { node: "gw-1".to_owned(), interval_seconds: 2.0, upstreams }
    }

    #[test]
    fn the_table_shows_each_server_and_what_is_wrong() {
        let styled = table(&report());
        let plain = anstream::adapter::strip_str(&styled).to_string();
        for part in [
            "gw-1 · 1 of 2 tool servers up",
            "crm           up      2025-11-25     12",
            "1,234",
            "files-of-all  broken  -",
            "open on 1 of 2 shards",
            "breaker 7",
            "files-of-all (mcp-files)",
            "0 running, 0 restarts, 4 crashed",
        ] {
            assert!(plain.contains(part), "{part} is missing in:\n{plain}");
        }
        assert!(!plain.contains("crm ("), "nothing is wrong with it:\n{plain}");
        assert!(styled.contains(&format!("{BAD}broken{BAD:#}")), "{styled:?}");
    }

    #[test]
    fn a_server_cannot_write_to_the_terminal() {
        let text = table(&report());
        assert!(!text.contains("\u{1b}[2J"), "{text:?}");
        assert!(text.contains("exit code 1:  [2Jno such file"), "{text:?}");
    }

    #[test]
    fn without_upstreams_it_says_so() {
        let empty = UpstreamsReport { upstreams: Vec::new(), ..report() };
        assert!(table(&empty).contains("no tool servers are configured"));
    }
}
