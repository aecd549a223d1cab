//! Shardgate: a thread-per-core gateway for the Model Context Protocol.
#![forbid(unsafe_code)]

pub mod banner;
pub mod cli;
pub mod config;
pub mod control;
mod data_path;
pub mod embedded;
pub mod logging;
pub mod metrics;
pub mod serve;
pub mod session_table;
