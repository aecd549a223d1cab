//! MCP itself: revisions, header rules, sessions, streams.

pub mod event_log;
pub mod modern;
pub mod session;
pub mod session_id;
pub mod stream;
pub mod version;
