//! A load generator for MCP servers, as a library so that its tests reach every part.
//!
//! It is a black box to the gateway: it depends on the runtime and on the protocol's
//! state machines, never on the crate `shardgate`. Nodes of the clusters whose coordinator
//! it measures run in processes of their own.
#![forbid(unsafe_code)]

mod answer;
mod client;
pub mod command;
pub mod compare;
pub mod coordinator;
pub mod cpus;
pub mod host;
mod memory;
pub mod outcome;
pub mod plan;
pub mod preflight;
mod recorder;
pub mod report;
mod requests;
pub mod run;
pub mod schedule;
pub mod server_figures;
mod tally;
pub mod target;
pub mod thresholds;
pub mod validate;
mod verdict;
mod worker;
pub mod workload;
