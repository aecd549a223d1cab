//! How Shardgate's nodes become one: the control log and its storage, and the links between nodes.
#![forbid(unsafe_code)]

pub mod blobs;
pub mod control_log;
pub mod disk;
pub mod node;
pub mod peers;
pub mod pki;
pub mod snapshot_store;
pub mod transport;
pub mod wal;
