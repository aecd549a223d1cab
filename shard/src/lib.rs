//! Thread-per-core runtime: placement, executors, data rings, buffers, mesh and timers. Knows no MCP.
//!
//! [`start`] runs one [`Service`] per cpu. Each owns its connections, timers and
//! listeners and reaches the other shards by messages only. Connections come by a
//! listener, from another shard, or are begun by the service ([`Io::connect`]); the last
//! stay on their shard. Sockets live as direct descriptors in io_uring instances ("data
//! rings") that a task of the shard's glommio executor drives; glommio and io_uring are
//! named in this crate only.
//!
//! Invariants:
//! - Nothing a shard owns is touched by another thread; the mesh is the only way across.
//! - A queue of messages is bounded by a named limit, and a full one is reported to the
//!   caller. What the runtime tells its peers and what waits for a place in a submission
//!   queue is bounded by the connections: a handful of envelopes and operations each. A
//!   connection's output is bounded by its service, which sees how much there is.
//! - This is the only crate with `unsafe`; every block says why it is sound.

mod accepting;
mod clock;
mod config;
mod connecting;
mod connection_table;
mod data_ring;
mod doorbell;
mod driver;
mod executor_loop;
mod host_limits;
mod identity;
mod io;
mod listening;
mod mesh;
mod operation;
mod output_queue;
mod placement;
mod receive_buffers;
mod ring_probe;
mod ring_timer;
mod runtime;
mod service;
mod shard_state;
mod timer_wheel;
mod transfer;

pub use clock::monotonic_ns;
pub use config::RuntimeConfig;
pub use connecting::ConnectRefused;
pub use data_ring::{RingError, RingSizes};
pub use host_limits::{HostError, HostLimits};
pub use identity::{ConnId, LISTENERS_MAX, ListenerId, Origin, ShardId};
pub use io::{Depths, Io};
pub use listening::ListenError;
pub use mesh::{MESH_DEPTH_MAX, MeshFull};
pub use operation::CONNECTIONS_PER_SHARD_MAX;
pub use placement::{Placement, PlacementError, ShardCount, place};
pub use receive_buffers::RECEIVE_BUFFERS_MAX;
pub use ring_probe::MissingCapability;
pub use runtime::{ExitReason, Handle, ShardExit, ShardStart, StartError, start};
pub use service::{CloseReason, Service};
pub use shard_state::{Counters, LINGER_MS, SPIN_BEFORE_TURN_NS};
pub use timer_wheel::{TICK_MS, TimerId, TimerWheel};
