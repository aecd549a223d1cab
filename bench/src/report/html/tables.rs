//! The tables of the page.

use maud::{Markup, html};

use super::super::quantities::{count_text, duration_text, rate_text, share_text};
use super::super::table::{has_stages, per_second, stage_text};
use crate::outcome::{Distribution, ErrorKind, Outcome};

const PERCENTILES: [&str; 10] =
    ["min", "mean", "stdev", "p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"];

/// Kinds of errors that are shown; the JSON file has all.
const ERROR_KINDS_MAX: usize = 50;

/// In the order of [`PERCENTILES`].
fn percentile_cells(of: &Distribution) -> Markup {
    let values = [of.min as f64, of.mean, of.stdev]
        .into_iter()
        .chain([of.p50, of.p90, of.p95, of.p99, of.p999, of.p9999, of.max].map(|us| us as f64));
    html! {
        @for value in values {
            td { @if of.count > 0 { (duration_text(value)) } @else { "-" } }
        }
    }
}

fn heads(first: &[&str]) -> Markup {
    html! {
        tr {
            @for head in first { th { (head) } }
            @for head in PERCENTILES { th { (head) } }
        }
    }
}

fn failures(count: u64, class: &'static str) -> Markup {
    html! { td class=(if count > 0 { class } else { "" }) { (count_text(count)) } }
}

/// Corrected, raw, and refusals, side by side.
pub(super) fn percentiles(outcome: &Outcome) -> Markup {
    html! {
        div.panel {
            table {
                (heads(&["", "answers"]))
                @for (name, of) in outcome.latency.shown() {
                    tr { td { (name) } td { (count_text(of.count)) } (percentile_cells(of)) }
                }
            }
        }
    }
}

/// By kind of request, if there is more than one.
pub(super) fn operations(outcome: &Outcome) -> Markup {
    html! {
        @if outcome.operations.len() > 1 {
            h2 { "Operations" }
            div.panel {
                table {
                    (heads(&["corrected", "completed", "failed"]))
                    @for (name, operation) in &outcome.operations {
                        tr {
                            td { (name) }
                            td { (count_text(operation.completed)) }
                            (failures(operation.errors, "bad"))
                            (percentile_cells(&operation.corrected))
                        }
                    }
                }
            }
        }
    }
}

const STAGE_HEADS: [&str; 12] = [
    "stage",
    "asked for",
    "connections",
    "offered",
    "completed",
    "shed",
    "errors",
    "p50",
    "p90",
    "p99",
    "p99.9",
    "max",
];

/// By stage, if there is more than one.
pub(super) fn stages(outcome: &Outcome) -> Markup {
    html! {
        @if has_stages(outcome) {
            h2 { "Stages" }
            div.panel {
                table {
                    tr { @for head in STAGE_HEADS { th { (head) } } }
                    @for (index, of) in outcome.stages.iter().enumerate() {
                        @let latency = &of.latency.corrected;
                        tr {
                            td { (stage_text(&outcome.plan, index, &of.stage)) }
                            td { (of.stage.rate.map_or("all there is".to_owned(), rate_text)) }
                            td { (count_text(u64::from(of.stage.connections))) }
                            td { (rate_text(per_second(of.totals.offered, &of.totals))) }
                            td { (rate_text(per_second(of.totals.completed, &of.totals))) }
                            (failures(of.totals.shed, "warn"))
                            (failures(of.totals.errors, "bad"))
                            @for us in [latency.p50, latency.p90, latency.p99, latency.p999,
                                latency.max] {
                                td {
                                    @if latency.count > 0 { (duration_text(us as f64)) }
                                    @else { "-" }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// By kind, the most frequent first, each with its first example.
pub(super) fn errors(outcome: &Outcome) -> Markup {
    let mut kinds: Vec<(&String, &ErrorKind)> = outcome.errors.iter().collect();
    kinds.sort_by_key(|(_, kind)| std::cmp::Reverse(kind.count));
    let most = kinds.first().map_or(1, |(_, kind)| kind.count.max(1));
    let rest = kinds.len().saturating_sub(ERROR_KINDS_MAX);
    html! {
        @if !kinds.is_empty() {
            h2 { "Errors" }
            div.panel {
                table {
                    tr { th { "kind" } th { "count" } th {} th.words { "the first of them" } }
                    @for (name, kind) in kinds.iter().take(ERROR_KINDS_MAX) {
                        tr {
                            td { (name) }
                            td { (count_text(kind.count)) }
                            (bar(kind.count, most, "bad"))
                            td.words { (kind.example) }
                        }
                    }
                }
            }
            @if rest > 0 { p { small { "and " (rest) " more kinds, which the JSON file has" } } }
        }
    }
}

/// Requests by shard, if there is more than one.
pub(super) fn balance(outcome: &Outcome) -> Markup {
    let Some(server) = &outcome.server else { return html! {} };
    let shards = &server.requests_by_shard;
    let all: u64 = shards.values().sum();
    html! {
        @if shards.len() > 1 {
            h2 { "Balance of the server's shards" }
            div.panel {
                table {
                    tr { th { "shard" } th { "requests" } th { "part" } th {} }
                    @for (shard, count) in shards {
                        tr {
                            td { (shard) }
                            td { (count_text(*count)) }
                            td { (share_text(*count, all)) }
                            (bar(*count, all, "c3"))
                        }
                    }
                }
            }
        }
    }
}

fn bar(part: u64, whole: u64, class: &str) -> Markup {
    let percent = part as f64 / whole.max(1) as f64 * 100.0;
    html! {
        td.bars { span class={ "bar " (class) } style=(format!("width:{percent:.1}%")) {} }
    }
}
