//! The protocol revisions and the two eras they fall into.

use std::fmt;

/// A protocol revision the gateway speaks, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolVersion {
    /// 2024-11-05: HTTP+SSE and stdio.
    V2024_11_05,
    /// 2025-03-26: Streamable HTTP, batches.
    V2025_03_26,
    /// 2025-06-18: no batches, elicitation, version header.
    V2025_06_18,
    /// 2025-11-25: tasks, SSE polling.
    V2025_11_25,
    /// 2026-07-28: stateless.
    V2026_07_28,
}

/// Legacy has sessions, modern has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Era {
    /// Up to 2025-11-25: a session opened by `initialize`.
    Legacy,
    /// From 2026-07-28 on: every request carries its context.
    Modern,
}

impl ProtocolVersion {
    /// Every revision spoken here, oldest first.
    pub const ALL: [ProtocolVersion; 5] = [
        ProtocolVersion::V2024_11_05,
        ProtocolVersion::V2025_03_26,
        ProtocolVersion::V2025_06_18,
        ProtocolVersion::V2025_11_25,
        ProtocolVersion::V2026_07_28,
    ];

    /// The newest revision that is opened by `initialize`.
    pub const LATEST_LEGACY: ProtocolVersion = ProtocolVersion::V2025_11_25;

    /// What holds where a legacy client names no revision
    /// (MCP 2025-06-18, transports: "the server SHOULD assume protocol version 2025-03-26").
    pub const ASSUMED: ProtocolVersion = ProtocolVersion::V2025_03_26;

    /// The revision with this name, or `None` if it isn't spoken here.
    pub fn parse(name: &[u8]) -> Option<ProtocolVersion> {
        ProtocolVersion::ALL.into_iter().find(|version| version.as_str().as_bytes() == name)
    }

    /// The name on the wire, such as `2025-11-25`.
    pub const fn as_str(self) -> &'static str {
        match self {
            ProtocolVersion::V2024_11_05 => "2024-11-05",
            ProtocolVersion::V2025_03_26 => "2025-03-26",
            ProtocolVersion::V2025_06_18 => "2025-06-18",
            ProtocolVersion::V2025_11_25 => "2025-11-25",
            ProtocolVersion::V2026_07_28 => "2026-07-28",
        }
    }

    /// Which era the revision falls into.
    pub const fn era(self) -> Era {
        match self {
            ProtocolVersion::V2024_11_05
            | ProtocolVersion::V2025_03_26
            | ProtocolVersion::V2025_06_18
            | ProtocolVersion::V2025_11_25 => Era::Legacy,
            ProtocolVersion::V2026_07_28 => Era::Modern,
        }
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
