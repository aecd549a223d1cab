//! MCP itself: revisions, header rules, sessions, streams.

pub mod version;
