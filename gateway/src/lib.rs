//! Shardgate: a thread-per-core gateway for the Model Context Protocol.
#![forbid(unsafe_code)]

pub mod banner;
pub mod children;
pub mod cli;
pub mod config;
pub mod connect;
pub mod control;
mod data_path;
pub mod embedded;
mod endpoints;
mod federation;
pub mod logging;
pub mod metrics;
pub mod pins;
mod reloading;
mod routes;
pub mod serve;
pub mod session_table;
mod tasks;
mod tls;
pub mod upstreams;
