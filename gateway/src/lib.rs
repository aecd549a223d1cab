//! Shardgate: a thread-per-core gateway for the Model Context Protocol.
#![forbid(unsafe_code)]

pub mod embedded;
