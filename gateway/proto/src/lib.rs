//! Sans-IO protocol cores of Shardgate.
//!
//! Bytes and time come in, effects go out. Nothing in this crate reads a
//! clock, opens a socket, starts a thread or allocates without a named bound.
#![forbid(unsafe_code)]

pub mod catalog;
pub mod clock;
pub mod http1;
pub mod http_client;
pub mod jsonrpc;
pub mod mcp;
pub mod sse;
pub mod upstream;
