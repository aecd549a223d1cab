//! A run as one HTML file: plots, tables, and all that is needed to make it again.
//!
//! The file needs nothing else: style, script and pictures are inside, and its
//! Content-Security-Policy forbids to load anything. All text is escaped where it is put
//! in, as URLs and error messages come from outside.

use maud::{DOCTYPE, Markup, PreEscaped, html};

mod axis;
mod facts;
mod figures;
mod plot;
mod tables;

use super::quantities::{
    amount_text, bytes_text, count_text, duration_text, instant_text, rate_text, share_text,
    span_text,
};
use super::table::per_second;
use crate::outcome::{Limit, Outcome};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
/// Nothing may be loaded, whatever the page says.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
    base-uri 'none'; form-action 'none'";

/// The whole page.
pub fn page(outcome: &Outcome) -> String {
    let plan = &outcome.plan;
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (plan.workload) " · " (plan.url) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (head(outcome))
                main {
                    (tiles(outcome))
                    (latency(outcome))
                    (over_time(outcome))
                    (tables::operations(outcome))
                    (tables::stages(outcome))
                    (tables::errors(outcome))
                    (tables::balance(outcome))
                    (facts::sections(outcome))
                }
                footer {
                    "Made by shardgate-bench " (outcome.version)
                    ". This file loads nothing from anywhere."
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    markup.into_string()
}

fn head(outcome: &Outcome) -> Markup {
    let plan = &outcome.plan;
    let verdict = &outcome.verdict;
    let class = match verdict.limit {
        Limit::None if verdict.broken_thresholds.is_empty() => "none",
        Limit::None => "broken",
        Limit::Server => "server",
        Limit::Generator => "generator",
    };
    html! {
        header {
            h1 { (plan.workload) " against " (plan.url) }
            p.dim {
                "MCP " (plan.revision) " · " (instant_text(outcome.began_unix_ms))
                " · " (span_text(outcome.totals.elapsed_s)) " measured"
                @if plan.warmup_s > 0.0 { " after " (span_text(plan.warmup_s)) " of warm-up" }
            }
            div class={ "verdict " (class) } {
                strong { (verdict.sentence) }
                @if verdict.interrupted { p { "The run was interrupted before its time." } }
                @if !verdict.broken_thresholds.is_empty() {
                    ul {
                        @for broken in &verdict.broken_thresholds { li { "Not kept: " (broken) } }
                    }
                }
            }
        }
    }
}

/// The figures most people look for, large.
fn tiles(outcome: &Outcome) -> Markup {
    let totals = &outcome.totals;
    let latency = &outcome.latency.corrected;
    let us = |value: u64| match latency.count {
        0 => "-".to_owned(),
        _ => duration_text(value as f64),
    };
    let failed = |count: u64, class| if count > 0 { class } else { "" };
    html! {
        div.tiles {
            (tile("", &rate_text(per_second(totals.completed, totals)), "completed",
                &format!("{} offered", rate_text(per_second(totals.offered, totals)))))
            (tile("", &us(latency.p50), "p50", &format!("p90 {}", us(latency.p90))))
            (tile("", &us(latency.p99), "p99", &format!("p99.9 {}", us(latency.p999))))
            (tile("", &us(latency.max), "max", &format!("of {} answers", count_text(latency.count))))
            (tile(failed(totals.errors, "bad"), &count_text(totals.errors), "errors",
                &share_text(totals.errors, totals.offered)))
            @if totals.shed > 0 {
                (tile("warn", &count_text(totals.shed), "shed",
                    &share_text(totals.shed, totals.offered)))
            }
            (server_tiles(outcome))
        }
    }
}

fn server_tiles(outcome: &Outcome) -> Markup {
    let Some(server) = &outcome.server else { return html! {} };
    html! {
        @if let Some(us) = server.cpu_us_per_request {
            @let cores = server.cores.map_or(String::new(), |cores| {
                format!("{} cores", amount_text(cores))
            });
            (tile("", &duration_text(us), "server time per request", &cores))
        }
        @if let Some(bytes) = server.resident_bytes {
            @let before = server.resident_before_bytes.map_or(String::new(), |before| {
                format!("{} before", bytes_text(before as f64))
            });
            (tile("", &bytes_text(bytes as f64), "server memory", &before))
        }
        @if let Some(memory) = &outcome.memory && let Some(bytes) = memory.process_idle_bytes {
            (tile("", &bytes_text(bytes.max(0.0)), "server memory per session",
                &format!("of {} sessions", count_text(memory.sessions))))
        }
    }
}

fn tile(class: &str, value: &str, name: &str, remark: &str) -> Markup {
    html! {
        div class={ "tile " (class) } {
            small { (name) }
            b { (value) }
            small { (remark) }
        }
    }
}

fn latency(outcome: &Outcome) -> Markup {
    html! {
        h2 { "Latency" }
        @match figures::latency_by_percentile(outcome) {
            Some(plot) => (plot.markup()),
            None => p { "No request was answered, or the run's histogram cannot be read." },
        }
        p {
            small {
                "Corrected latencies count from the time at which a request was due by the \
                 schedule, so that a stall is charged to every request that should have been \
                 sent during it (coordinated omission). Raw ones count from the time of sending."
            }
        }
        (tables::percentiles(outcome))
    }
}

fn over_time(outcome: &Outcome) -> Markup {
    let plots = figures::over_time(outcome);
    html! {
        @if !plots.is_empty() {
            h2 { "Over time" }
            div.plots { @for plot in &plots { (plot.markup()) } }
        }
    }
}

#[cfg(test)]
mod tests;
