//! `shardgate catalog`: the pinned tools of a running gateway.

use std::fmt::Write;

use crate::pins::{Approved, PinReport, PinState};

/// So much of a hash is shown to people.
const HASH_SHOWN_BYTES: usize = 12;

/// The pinned tools for people, those that are withheld first.
pub(super) fn table(report: &PinReport) -> String {
    if report.tools.is_empty() {
        return "no tools are pinned; upstreams with `pin = true` pin theirs\n".to_owned();
    }
    let mut tools: Vec<_> = report.tools.iter().collect();
    tools.sort_by_key(|tool| tool.state == PinState::Approved);
    let width = |of: fn(&crate::pins::PinnedTool) -> &str| {
        tools.iter().map(|tool| of(tool).chars().count()).max().unwrap_or_default()
    };
    let (upstreams, names) = (width(|tool| &tool.upstream), width(|tool| &tool.tool));
    let short = |hash: &str| hash.chars().take(HASH_SHOWN_BYTES).collect::<String>();
    let mut text = String::new();
    for tool in &tools {
        let state = match tool.state {
            PinState::Approved => format!("approved     {}", short(&tool.approved)),
            PinState::Quarantined => {
                format!(
                    "quarantined  {} was approved, {} is listed",
                    short(&tool.approved),
                    short(&tool.listed)
                )
            }
        };
        let _ = writeln!(text, "{:upstreams$}  {:names$}  {state}", tool.upstream, tool.tool);
    }
    let _ = writeln!(text, "\napproved definitions are kept in {}", report.pins_file);
    text
}

/// What was approved, for people.
pub(super) fn approved(approved: &Approved) -> String {
    if approved.tools.is_empty() {
        return "nothing was quarantined\n".to_owned();
    }
    approved.tools.iter().map(|(upstream, tool)| format!("approved {upstream} {tool}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pins::PinnedTool;

    #[test]
    fn what_is_withheld_stands_first() {
        let tool = |name: &str, state| PinnedTool {
            upstream: "crm".to_owned(),
            tool: name.to_owned(),
            state,
            approved: "a".repeat(64),
            listed: "b".repeat(64),
        };
        let tools = vec![tool("find", PinState::Approved), tool("lose", PinState::Quarantined)];
        let text = table(&PinReport { pins_file: "/p".to_owned(), tools });
        let expected = "crm  lose  quarantined  aaaaaaaaaaaa was approved, bbbbbbbbbbbb is listed\n\
                        crm  find  approved     aaaaaaaaaaaa\n\n\
                        approved definitions are kept in /p\n";
        assert_eq!(text, expected);
    }
}
