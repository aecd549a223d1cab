//! The cluster's report for people.
//!
//! The text carries ANSI styles; whoever prints it strips them where there is no terminal.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use crate::cli::status::count_text;
use crate::control::{ClusterReport, NodeReport};

const COLUMNS: [&str; 12] = [
    "node", "id", "role", "leader", "standing", "term", "applied", "lag", "uptime", "sessions",
    "tasks", "admin",
];
const STANDING_COLUMN: usize = 4;
/// The first column of numbers; they are aligned to the right, up to the last column.
const NUMBERS_FROM: usize = 5;

/// The report for people.
pub(super) fn table(report: &ClusterReport) -> String {
    let leader = report.log.leader.map_or_else(|| "nobody".to_owned(), |id| name_of(report, id));
    let voters = report.log.voters.len();
    let mut text = format!(
        "cluster {} · {} of {} nodes live · {voters} voters · led by {leader} · {} tasks · {} \
         workers\n\n",
        report.cluster,
        report.counts.nodes_live,
        report.nodes.len(),
        count_text(report.counts.tasks as u64),
        report.counts.workers,
    );
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(report.nodes.iter().map(|node| cells(report, node)));
    write_rows(&mut text, &rows);
    for node in &report.nodes {
        write_notes(&mut text, node);
    }
    if report.counts.vshards_unowned > 0 {
        let count = report.counts.vshards_unowned;
        let _ = writeln!(text, "{count} virtual shards have no owner");
    }
    if report.log.leader.is_none() {
        let _ = writeln!(
            text,
            "nobody leads: nothing can be written until {} of the {voters} voters are up",
            voters / 2 + 1
        );
    }
    text
}

fn name_of(report: &ClusterReport, id: u16) -> String {
    let node = report.nodes.iter().find(|node| node.id == id);
    node.map_or_else(|| id.to_string(), |node| node.name.clone())
}

fn cells(report: &ClusterReport, node: &NodeReport) -> [String; COLUMNS.len()] {
    let unknown = || "-".to_owned();
    let own = node.own.as_ref();
    let log = own.map(|own| &own.log);
    let known = report.nodes.iter().filter_map(|node| node.own.as_ref());
    let committed = known.map(|own| own.log.committed_index).max().unwrap_or_default();
    [
        node.name.clone(),
        node.id.to_string(),
        log.map_or_else(|| node.member.clone(), |log| log.role.clone()),
        log.and_then(|log| log.leader).map_or_else(unknown, |id| name_of(report, id)),
        standing(node),
        log.map_or_else(unknown, |log| log.term.to_string()),
        log.map_or_else(unknown, |log| log.applied_index.to_string()),
        log.map_or_else(unknown, |log| committed.saturating_sub(log.applied_index).to_string()),
        own.map_or_else(unknown, |own| uptime_text(own.uptime_seconds)),
        own.and_then(|own| own.load.as_ref())
            .map_or_else(unknown, |load| count_text(load.sessions)),
        count_text(node.tasks as u64),
        node.admin_address.clone(),
    ]
}

fn standing(node: &NodeReport) -> String {
    match (&node.suspected, node.no_answer.is_some()) {
        (Some(_), _) if node.standing == "live" => "suspected".to_owned(),
        (_, true) if node.standing == "live" => "silent".to_owned(),
        (_, _) => node.standing.clone(),
    }
}

fn uptime_text(seconds: f64) -> String {
    let seconds = seconds as u64;
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes:02}"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

fn write_rows(text: &mut String, rows: &[[String; COLUMNS.len()]]) {
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    });
    for row in rows {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            let padding = " ".repeat(width - cell.chars().count());
            let style = if column == STANDING_COLUMN { style_of(cell) } else { Style::new() };
            let is_number = (NUMBERS_FROM..COLUMNS.len() - 1).contains(&column);
            match is_number {
                true => format!("{padding}{cell}"),
                false => format!("{style}{cell}{style:#}{padding}"),
            }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text.push('\n');
}

fn style_of(standing: &str) -> Style {
    match standing {
        "live" => AnsiColor::Green.on_default(),
        "draining" | "unregistered" | "silent" => AnsiColor::Yellow.on_default(),
        "fenced" | "suspected" => AnsiColor::Red.on_default(),
        _ => Style::new(),
    }
}

fn write_notes(text: &mut String, node: &NodeReport) {
    let notes = [
        ("fenced", &node.fenced_because),
        ("suspected", &node.suspected),
        ("no answer", &node.no_answer),
        ("link", &node.link_failure),
    ];
    for (what, why) in notes {
        if let Some(why) = why {
            // What comes from elsewhere must not change what the terminal shows.
            let why: String = why.chars().filter(|c| !c.is_control()).collect();
            let _ = writeln!(text, "{}: {what}: {why}", node.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{LogReport, OwnReport};

    fn node(id: u16, applied_index: u64) -> NodeReport {
        let log = LogReport {
            role: if id == 1 { "leader" } else { "follower" }.to_owned(),
            term: 7,
            leader: Some(1),
            applied_index,
            committed_index: applied_index,
            ..LogReport::default()
        };
        NodeReport {
            id,
            name: format!("n{id}"),
            member: "voter".to_owned(),
            standing: "live".to_owned(),
            own: Some(OwnReport { log, uptime_seconds: 3_700.0, ..OwnReport::default() }),
            ..NodeReport::default()
        }
    }

    #[test]
    fn a_late_node_and_a_silent_one_are_seen() {
        let log = LogReport { leader: Some(1), voters: vec![1, 2, 3], ..LogReport::default() };
        let mut silent = node(3, 0);
        silent.own = None;
        silent.no_answer = Some("no answer within 1s".to_owned());
        let report = ClusterReport {
            cluster: "test".to_owned(),
            node: 1,
            log,
            counts: Default::default(),
            nodes: vec![node(1, 42), node(2, 40), silent],
        };
        let text = anstream::adapter::strip_str(&table(&report)).to_string();
        let row = |name: &str| -> Vec<&str> {
            let line = text.lines().find(|line| line.starts_with(name)).expect(name);
            line.split_whitespace().collect()
        };
        assert!(text.contains("led by n1"), "{text}");
        assert_eq!(row("n1")[2..8], ["leader", "n1", "live", "7", "42", "0"], "{text}");
        assert_eq!(row("n2")[6..8], ["40", "2"], "{text}");
        assert_eq!(row("n3")[4], "silent", "{text}");
        assert!(text.contains("n3: no answer: no answer within 1s"), "{text}");
    }
}
