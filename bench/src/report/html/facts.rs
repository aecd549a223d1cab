//! What was asked for, by which command, on which machine.

use maud::{Markup, html};

use super::super::quantities::{
    amount_text, bytes_text, command_text, count_text, duration_text, span_text,
};
use super::super::table::{load_text, server_text};
use crate::outcome::{HostFacts, Outcome};

/// All of it, as the end of the page.
pub(super) fn sections(outcome: &Outcome) -> Markup {
    html! {
        h2 { "How it was made" }
        pre.panel { (command_text(&outcome.command)) }
        p {}
        div.facts {
            div.panel { h3 { "Plan" } (plan(outcome)) }
            div.panel { h3 { "Machine of the load" } (host(&outcome.host)) }
        }
    }
}

fn plan(outcome: &Outcome) -> Markup {
    let plan = &outcome.plan;
    html! {
        table {
            (fact("URL", &plan.url))
            (fact("workload", &plan.workload))
            (fact("MCP revision", &plan.revision))
            (fact("warm-up", &span_text(plan.warmup_s)))
            @for (index, stage) in plan.stages.iter().enumerate() {
                @let ramp = if stage.ramp { ", reached gradually" } else { "" };
                @let text =
                    format!("{}: {}{ramp}", span_text(stage.duration_s), load_text(stage));
                (fact(&format!("stage {}", index + 1), &text))
            }
            (fact("workers", &plan.workers.to_string()))
            @if plan.think_us > 0 { (fact("think time", &duration_text(plan.think_us as f64))) }
            @if plan.payload_bytes > 0 {
                (fact("payload", &bytes_text(plan.payload_bytes as f64)))
            }
            (traffic(outcome))
            @if let Some(server) = &outcome.server { (fact("server", &server_text(server))) }
            (fact("generator", &generator_text(outcome)))
        }
    }
}

fn traffic(outcome: &Outcome) -> Markup {
    let totals = &outcome.totals;
    let (sent, received) = (totals.sent_bytes as f64, totals.received_bytes as f64);
    html! {
        (fact("traffic", &format!("{} sent, {} received", bytes_text(sent), bytes_text(received))))
        @if totals.events > 0 { (fact("events on streams", &count_text(totals.events))) }
    }
}

fn generator_text(outcome: &Outcome) -> String {
    let generator = &outcome.generator;
    format!(
        "{} cores; requests left up to {} late (p99)",
        amount_text(generator.cores),
        duration_text(generator.send_delay_p99 as f64)
    )
}

fn host(host: &HostFacts) -> Markup {
    html! {
        table {
            (fact("processor", &host.cpu))
            (fact("cpus", &host.cpus.to_string()))
            (fact("memory", &bytes_text(host.memory_bytes as f64)))
            (fact("kernel", &host.kernel))
            (fact("descriptors", &count_text(host.descriptors_max)))
            @for (name, value) in &host.settings { (fact(name, value)) }
        }
    }
}

fn fact(name: &str, value: &str) -> Markup {
    html! { tr { td { (name) } td { (value) } } }
}
