//! What is known of the client that made a call: capabilities and log level.
//!
//! In the legacy era that is session state (two bytes), in the modern era it is
//! read from `params._meta` of each request.

use super::scan;

/// The client capabilities this server makes use of, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClientCapabilities(u8);

impl ClientCapabilities {
    pub(super) const NONE: ClientCapabilities = ClientCapabilities(0);
    pub(super) const SAMPLING: ClientCapabilities = ClientCapabilities(1);
    pub(super) const ELICITATION: ClientCapabilities = ClientCapabilities(1 << 1);
    pub(super) const ROOTS: ClientCapabilities = ClientCapabilities(1 << 2);
    pub(super) const TASKS: ClientCapabilities = ClientCapabilities(1 << 3);

    /// Reads the JSON text of a `ClientCapabilities` object.
    pub(super) fn read(object: &[u8]) -> ClientCapabilities {
        let mut all = ClientCapabilities::NONE;
        for (present, bit) in [
            (has(object, &["sampling"]), ClientCapabilities::SAMPLING),
            (offers_forms(object), ClientCapabilities::ELICITATION),
            (has(object, &["roots"]), ClientCapabilities::ROOTS),
            (has(object, &["extensions", TASKS_EXTENSION]), ClientCapabilities::TASKS),
        ] {
            if present {
                all.0 |= bit.0;
            }
        }
        all
    }

    /// True if every capability of `other` is here too.
    pub(super) fn contains(self, other: ClientCapabilities) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both together.
    pub(super) fn with(self, other: ClientCapabilities) -> ClientCapabilities {
        ClientCapabilities(self.0 | other.0)
    }

    /// As the JSON text of a `ClientCapabilities` object.
    pub(super) fn to_json(self) -> String {
        let parts: Vec<String> = [
            (ClientCapabilities::SAMPLING, r#""sampling":{}"#.to_owned()),
            (ClientCapabilities::ELICITATION, r#""elicitation":{}"#.to_owned()),
            (ClientCapabilities::ROOTS, r#""roots":{}"#.to_owned()),
            (ClientCapabilities::TASKS, format!(r#""extensions":{{"{TASKS_EXTENSION}":{{}}}}"#)),
        ]
        .into_iter()
        .filter(|(bit, _)| self.contains(*bit))
        .map(|(_, text)| text)
        .collect();
        format!("{{{}}}", parts.join(","))
    }
}

/// The extension under which tasks are negotiated in the modern era.
pub(super) const TASKS_EXTENSION: &str = "io.modelcontextprotocol/tasks";

fn has(object: &[u8], keys: &[&str]) -> bool {
    scan::path(object, keys).is_some_and(scan::is_object)
}

// MCP 2025-11-25, elicitation: an empty object means form mode only; a client
// that names modes supports those it names.
fn offers_forms(object: &[u8]) -> bool {
    has(object, &["elicitation"])
        && (has(object, &["elicitation", "form"]) || !has(object, &["elicitation", "url"]))
}

/// Severity of a log message, RFC 5424's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum LogLevel {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

impl LogLevel {
    const ALL: [LogLevel; 8] = [
        LogLevel::Debug,
        LogLevel::Info,
        LogLevel::Notice,
        LogLevel::Warning,
        LogLevel::Error,
        LogLevel::Critical,
        LogLevel::Alert,
        LogLevel::Emergency,
    ];

    /// The names in one text, for messages.
    pub(crate) const NAMES: &str =
        "debug, info, notice, warning, error, critical, alert or emergency";

    /// The level with this name.
    pub(crate) fn parse(name: &str) -> Option<LogLevel> {
        LogLevel::ALL.into_iter().find(|level| level.as_str() == name)
    }

    /// The name on the wire.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Notice => "notice",
            LogLevel::Warning => "warning",
            LogLevel::Error => "error",
            LogLevel::Critical => "critical",
            LogLevel::Alert => "alert",
            LogLevel::Emergency => "emergency",
        }
    }
}

/// The client as one call sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    /// What it declared.
    pub(super) capabilities: ClientCapabilities,
    /// The least severe message it wants; `None` means no messages at all.
    pub(super) log_level: Option<LogLevel>,
}

impl Client {
    /// Reads `params._meta` of a modern request.
    pub(super) fn of_modern(params: Option<&[u8]>) -> Client {
        let meta = params.and_then(|params| scan::member(params, "_meta")).unwrap_or_default();
        let capabilities = scan::member(meta, "io.modelcontextprotocol/clientCapabilities")
            .map_or(ClientCapabilities::NONE, ClientCapabilities::read);
        // MCP 2026-07-28, RequestMetaObject: without logLevel "the server MUST NOT send any
        // notifications/message notifications for this request".
        let log_level = scan::member(meta, "io.modelcontextprotocol/logLevel")
            .and_then(scan::unescape)
            .and_then(|name| LogLevel::parse(&name));
        Client { capabilities, log_level }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_capabilities() {
        let all = br#"{"sampling":{},"elicitation":{},"roots":{"listChanged":true},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;
        let read = ClientCapabilities::read(all);
        assert_eq!(
            read.to_json(),
            r#"{"sampling":{},"elicitation":{},"roots":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#
        );
        assert_eq!(ClientCapabilities::read(b"{}"), ClientCapabilities::NONE);
        assert_eq!(ClientCapabilities::read(br#"{"sampling":null}"#), ClientCapabilities::NONE);
        let url_only = ClientCapabilities::read(br#"{"elicitation":{"url":{}}}"#);
        assert!(!url_only.contains(ClientCapabilities::ELICITATION));
        let both = ClientCapabilities::read(br#"{"elicitation":{"url":{},"form":{}}}"#);
        assert!(both.contains(ClientCapabilities::ELICITATION));
    }

    #[test]
    fn levels_are_ordered() {
        assert!(LogLevel::Debug < LogLevel::Info && LogLevel::Alert < LogLevel::Emergency);
        assert_eq!(LogLevel::parse("warning"), Some(LogLevel::Warning));
        assert_eq!(LogLevel::parse("loud"), None);
    }
}
