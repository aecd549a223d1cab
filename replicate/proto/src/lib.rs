//! Sans-IO cores of Shardgate's cluster.
//!
//! Configuration (nodes, virtual shards, workers, tasks) is a state machine that the
//! control log replicates; this crate holds that machine and what is decided from it.
//! Bytes and time come in, effects go out: nothing here reads a clock or a socket.
#![forbid(unsafe_code)]

pub mod coordinator;
pub mod detector;
pub mod identity;
pub mod rebalance;
pub mod voters;
