//! The data path: what one shard does with its connections, sessions and calls.
//!
//! ```text
//! bytes → connection → http1 decoder → front (checks) ─┬→ legacy (session) ─┐
//!                                                      └→ modern (stateless)┴→ upstream
//! bytes ← connection ← answer (framing, exchange) ← relay (streams, event logs) ← events
//! ```
//!
//! Invariants:
//! - A shard owns all of this; other shards are reached by [`message::Message`] only.
//! - Nothing here waits: every entry point is a callback of the runtime.
//! - Upstream events are drained at the end of the callback that caused them.

mod answer;
mod calls;
mod changes;
mod connection;
mod exchange;
mod front;
mod legacy;
mod links;
mod message;
mod modern;
mod relay;
mod request;
mod service;
mod session_state;
mod settings;
mod task_calls;
mod task_runs;
mod visits;
mod watch;

pub(crate) use changes::{Changeable, Reloaded};
pub(crate) use links::Links;
pub(crate) use message::Message;
pub(crate) use service::{Gateway, SERVER_INFO};
pub(crate) use settings::Settings;
