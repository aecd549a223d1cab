//! Severities of log messages (RFC 5424, section 6.2.1, as MCP names them).

/// How severe a level is; higher is worse. `None` for a word that is no level.
pub(super) fn severity(level: &str) -> Option<u8> {
    const LEVELS: [&str; 8] =
        ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];
    LEVELS.iter().position(|known| *known == level).map(|at| at as u8)
}
