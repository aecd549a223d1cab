//! What was asked for, by which command, on which machine.

use maud::{Markup, html};

use super::super::quantities::{bytes_text, command_text, count_text, duration_text};
use super::super::table::{generator_text, load_text, memory_text, server_text, stage_text};
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
            @for (index, stage) in plan.stages.iter().enumerate() {
                @let name = stage_text(plan, index, stage);
                @let is_numbered = name.starts_with(|c: char| c.is_ascii_digit());
                @let name = if is_numbered { format!("stage {name}") } else { name };
                (fact(&name, &load_text(stage)))
            }
            (fact("workers", &plan.workers.to_string()))
            @if plan.think_us > 0 { (fact("think time", &duration_text(plan.think_us as f64))) }
            @if plan.payload_bytes > 0 {
                (fact("payload", &bytes_text(plan.payload_bytes as f64)))
            }
            (traffic(outcome))
            @if let Some(server) = &outcome.server { (fact("server", &server_text(server))) }
            @if let Some(memory) = &outcome.memory { (fact("sessions", &memory_text(memory))) }
            (fact("generator", &generator_text(&outcome.generator)))
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
