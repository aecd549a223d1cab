//! What is wrong with a run: errors, losses, and refusals where there should be none.

use super::phases::Shedding;
use crate::outcome::{Outcome, Totals};
use crate::report::quantities::count_text;

/// Kinds of errors that are told; the report has all.
const KINDS_MAX: usize = 3;

/// Everything that is wrong, in sentences.
pub(crate) fn of(outcome: &Outcome, shedding: Shedding, given_up: Option<&str>) -> Vec<String> {
    let mut findings: Vec<String> = Vec::new();
    if let Some(trouble) = given_up {
        findings.push(format!("the run was given up: {trouble}"));
    }
    if outcome.verdict.interrupted {
        // What was under way is not lost, and what was not sent is not missing.
        return findings;
    }
    let totals = &outcome.totals;
    if totals.completed == 0 {
        findings.push("no request was answered as it should be".to_owned());
    }
    if totals.errors > 0 {
        findings.push(errors(outcome));
    }
    if let Some(lost) = lost(totals) {
        findings.push(lost);
    }
    findings.extend(refusals(totals, shedding));
    findings
}

fn errors(outcome: &Outcome) -> String {
    let count = count_text(outcome.totals.errors);
    let mut kinds: Vec<_> = outcome.errors.iter().collect();
    kinds.sort_by_key(|(_, kind)| std::cmp::Reverse(kind.count));
    let examples: Vec<String> = kinds
        .iter()
        .take(KINDS_MAX)
        .map(|(name, kind)| format!("{} × {name} ({})", count_text(kind.count), kind.example))
        .collect();
    format!("{count} errors: {}", examples.join("; "))
}

/// A request that was sent ends as one of three things, or it is lost.
fn lost(totals: &Totals) -> Option<String> {
    let ended = totals.completed + totals.shed + totals.errors;
    let lost = totals.sent.checked_sub(ended).filter(|lost| *lost > 0)?;
    let (lost, sent) = (count_text(lost), count_text(totals.sent));
    Some(format!("{lost} of the {sent} requests that were sent have neither answer nor refusal"))
}

fn refusals(totals: &Totals, shedding: Shedding) -> Option<String> {
    let (shed, completed) = (count_text(totals.shed), count_text(totals.completed));
    match shedding {
        Shedding::Never if totals.shed > 0 => {
            Some(format!("{shed} requests were refused, at a load the server can bear"))
        }
        Shedding::Expected if totals.shed == 0 => {
            Some("nothing was refused, though twice as much was offered as can be done".to_owned())
        }
        Shedding::Rare if totals.shed > totals.completed => Some(format!(
            "{shed} requests were refused and {completed} answered, at an eighth of what can be \
             done"
        )),
        Shedding::Never | Shedding::Expected | Shedding::Rare | Shedding::Allowed => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::ErrorKind;
    use crate::report::sample;

    fn outcome(sent: u64, completed: u64, shed: u64, errors: u64) -> Outcome {
        let mut outcome = sample::outcome();
        outcome.totals = Totals { elapsed_s: 1.0, sent, completed, shed, errors, ..outcome.totals };
        outcome.verdict.interrupted = false;
        outcome.errors.clear();
        if errors > 0 {
            let example = "it was reset".to_owned();
            outcome.errors.insert("closed".to_owned(), ErrorKind { count: errors, example });
        }
        outcome
    }

    #[test]
    fn what_was_sent_ends_somehow() {
        assert!(of(&outcome(10, 10, 0, 0), Shedding::Never, None).is_empty());
        assert!(of(&outcome(10, 8, 2, 0), Shedding::Allowed, None).is_empty());
        let found = of(&outcome(10, 7, 1, 1), Shedding::Allowed, None);
        assert_eq!(
            found,
            [
                "1 errors: 1 × closed (it was reset)",
                "1 of the 10 requests that were sent have neither answer nor refusal"
            ]
        );
        let found = of(&outcome(0, 0, 0, 0), Shedding::Never, Some("the server is gone"));
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn refusals_are_judged_by_the_load() {
        for (shed, shedding, is_right) in [
            (0, Shedding::Never, true),
            (1, Shedding::Never, false),
            (0, Shedding::Expected, false),
            (1, Shedding::Expected, true),
            (4, Shedding::Rare, true),
            (6, Shedding::Rare, false),
            (9, Shedding::Allowed, true),
        ] {
            let found = of(&outcome(10, 10 - shed, shed, 0), shedding, None);
            assert_eq!(found.is_empty(), is_right, "{shed} {shedding:?}: {found:?}");
        }
    }

    #[test]
    fn a_run_that_the_user_ends_has_lost_nothing() {
        let mut ended = outcome(10, 7, 0, 0);
        ended.verdict.interrupted = true;
        assert!(of(&ended, Shedding::Never, None).is_empty());
    }
}
