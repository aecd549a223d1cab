//! What the admin server and the command line tell each other of pinned tools.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use shardgate_proto::catalog::{DefinitionHash, Pins};

/// All pinned tools.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinReport {
    /// Where approved definitions are kept.
    pub pins_file: String,
    /// By upstream and name.
    pub tools: Vec<PinnedTool>,
}

/// One tool of a pinned upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedTool {
    /// The upstream's name.
    pub upstream: String,
    /// What the upstream calls it.
    pub tool: String,
    /// Whether clients have it.
    pub state: PinState,
    /// The hash of the definition that was approved, in hex.
    pub approved: String,
    /// The hash of the definition that was listed last, in hex.
    pub listed: String,
}

/// Whether clients have a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinState {
    /// It is as it was approved.
    Approved,
    /// It has changed since, and is withheld.
    Quarantined,
}

/// What is to be approved: a tool, all tools of an upstream, or all tools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApproveRequest {
    /// The upstream's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// What the upstream calls the tool; only with an upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
}

impl ApproveRequest {
    pub(super) fn means(&self, upstream: &str, tool: &str) -> bool {
        self.upstream.as_deref().is_none_or(|wanted| wanted == upstream)
            && self.tool.as_deref().is_none_or(|wanted| wanted == tool)
    }
}

/// What was approved that had not been.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approved {
    /// Upstream and tool.
    pub tools: Vec<(String, String)>,
}

pub(super) fn report(
    path: &Path,
    pins: &Pins,
    seen: &BTreeMap<String, BTreeMap<String, DefinitionHash>>,
) -> PinReport {
    let all = seen.iter().flat_map(|(upstream, tools)| {
        tools.iter().map(move |(tool, hash)| (upstream, tool, *hash))
    });
    let tools = all.map(|(upstream, tool, listed)| {
        // What was seen first is approved, so there is a pin for each.
        let approved = pins.approved(upstream, tool).unwrap_or(listed);
        let state = if approved == listed { PinState::Approved } else { PinState::Quarantined };
        PinnedTool {
            upstream: upstream.clone(),
            tool: tool.clone(),
            state,
            approved: approved.to_string(),
            listed: listed.to_string(),
        }
    });
    PinReport { pins_file: path.display().to_string(), tools: tools.collect() }
}
