//! A load generator for MCP servers, as a library so that its tests reach every part.
//!
//! It is a black box to the gateway: it depends on the runtime and on the protocol's
//! state machines, never on the crate `shardgate`.
#![forbid(unsafe_code)]

pub mod compare;
pub mod host;
pub mod outcome;
pub mod report;
pub mod server_figures;
pub mod thresholds;
