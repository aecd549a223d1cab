//! A validation as text for a terminal, and as JSON.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use super::{PhaseOutcome, Size, Validation};
use crate::outcome::Outcome;
use crate::report::columns::{Cell, Columns, HEAD};
use crate::report::quantities::{count_text, duration_text, printable, rate_text};

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();

const HEADS: [&str; 10] = [
    "phase",
    "offered",
    "answered",
    "p50",
    "p99",
    "refused",
    "errors",
    "server",
    "CPU/request",
    "verdict",
];

/// The table, what was found, and the verdict.
pub(crate) fn text(validation: &Validation) -> String {
    let size = match validation.size {
        Size::Quick => "quick",
        Size::Full => "full",
    };
    let server = printable(&validation.server);
    let mut text = format!("\n{HEAD}{size} validation{HEAD:#} of {server}\n\n");
    let mut columns = Columns::new(&HEADS);
    for phase in &validation.phases {
        columns.row(row(phase));
    }
    text.push_str(&columns.text());
    for phase in &validation.phases {
        for finding in &phase.findings {
            let (name, finding) = (&phase.name, printable(finding));
            let _ = writeln!(text, "\n  {BAD}{name}{BAD:#}: {finding}");
        }
    }
    let (style, verdict) = verdict(validation);
    let _ = writeln!(text, "\n  {style}{verdict}{style:#}");
    text
}

fn verdict(validation: &Validation) -> (Style, String) {
    if validation.passed {
        return (GOOD, "Passed: nothing failed and nothing was lost.".to_owned());
    }
    if validation.interrupted {
        return (BAD, "Interrupted: what is missing was not looked at.".to_owned());
    }
    let failed = validation.phases.iter().filter(|phase| !phase.findings.is_empty()).count();
    let all = validation.phases.len();
    (BAD, format!("Failed: {failed} of the {all} phases that were run found something wrong."))
}

fn row(phase: &PhaseOutcome) -> Vec<Cell> {
    let verdict = match &phase.findings[..] {
        [] => Cell::from("good").styled(GOOD),
        _ => Cell::from("bad").styled(BAD),
    };
    let mut cells = vec![Cell::from(phase.name.clone())];
    match &phase.outcome {
        Some(outcome) => cells.extend(figures(outcome)),
        None => cells.extend(HEADS[2..].iter().map(|_| Cell::from("-"))),
    }
    cells.push(verdict);
    cells
}

fn figures(outcome: &Outcome) -> [Cell; 8] {
    let totals = &outcome.totals;
    let per_second = |count: u64| rate_text(count as f64 / totals.elapsed_s.max(1e-9));
    let latency = |us: u64| Cell::from(duration_text(us as f64));
    let server = outcome.server.as_ref();
    let or_dash = |text: Option<String>| Cell::from(text.unwrap_or_else(|| "-".to_owned()));
    [
        per_second(totals.offered).into(),
        per_second(totals.completed).into(),
        latency(outcome.latency.corrected.p50),
        latency(outcome.latency.corrected.p99),
        count_text(totals.shed).into(),
        count_text(totals.errors).into(),
        or_dash(server.and_then(|server| server.cores).map(|cores| format!("{cores:.2} cores"))),
        or_dash(server.and_then(|server| server.cpu_us_per_request).map(duration_text)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    fn plain(validation: &Validation) -> String {
        anstream::adapter::strip_str(&text(validation)).to_string()
    }

    fn phase(name: &str, findings: &[&str], outcome: Option<Outcome>) -> PhaseOutcome {
        PhaseOutcome {
            name: name.to_owned(),
            question: String::new(),
            findings: findings.iter().map(|finding| (*finding).to_owned()).collect(),
            outcome,
        }
    }

    #[test]
    fn what_was_found_is_told_behind_the_table() {
        let mut validation = Validation::begin(Size::Quick, "http://a/mcp".to_owned());
        validation.phases.push(phase("capacity", &[], Some(sample::outcome())));
        validation.phases.push(phase("overload", &["7 were\u{1b}[2J lost"], None));
        let text = plain(&validation);
        assert!(text.contains("quick validation of http://a/mcp"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        assert!(text.contains("Failed: 1 of the 2 phases"), "{text}");
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("overload")).collect();
        assert!(lines[0].ends_with("bad") && lines[1].contains("lost"), "{text}");
        validation.phases.pop();
        validation.passed = true;
        assert!(plain(&validation).contains("Passed"), "{}", plain(&validation));
    }
}
