//! Bounds of the coordinator's state, each by name.
//!
//! A command over a bound is refused by every node alike, so a bound is part of the
//! protocol: raising one needs a higher feature level, lowering one is not possible.

/// Nodes of a cluster, those that were fenced included.
pub const NODES_MAX: usize = 64;
/// Nodes that hold, or are to hold, one virtual shard: primary, backup, remote copy, and one more during a move.
pub const COPIES_MAX: usize = 4;
/// Workers registered at one time.
pub const WORKERS_MAX: usize = 10_000;
/// Calls that a worker may say it runs at one time.
pub const WORKER_CAPACITY_MAX: u32 = 100_000;
/// Tasks held, ended ones included until their time to live is over.
pub const TASKS_MAX: usize = 1_000_000;
/// Tasks held of one owner.
pub const TASKS_PER_OWNER_MAX: usize = 10_000;
/// Tasks that wait until a worker has room.
pub const TASKS_QUEUED_MAX: usize = 100_000;
/// Combinations of service and labels that tasks may wait for at one time.
pub const QUEUES_MAX: usize = 4_096;
/// Times a task's call is begun: a first one, and others after crashes if its tool is idempotent.
pub const TASK_ATTEMPTS_MAX: u32 = 3;
/// Parameters of a task's call, in bytes.
pub const PARAMS_BYTES_MAX: usize = 256 * 1_024;
/// A result kept in the log itself, in bytes; a larger one is a blob that the log names by its hash.
pub const PAYLOAD_INLINE_BYTES_MAX: usize = 64 * 1_024;
/// An owner's opaque name, in bytes.
pub const OWNER_BYTES_MAX: usize = 64;
/// Names of nodes, zones, regions, workers and services, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// A tool's name, in bytes.
pub const TOOL_BYTES_MAX: usize = 256;
/// Addresses and URLs, in bytes.
pub const ADDRESS_BYTES_MAX: usize = 2_048;
/// Reasons and messages meant for people, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1_024;
/// Labels of a worker or a task.
pub const LABELS_MAX: usize = 16;
/// A label's key or value, in bytes.
pub const LABEL_BYTES_MAX: usize = 128;
/// Questions that one task may have open for its owner.
pub const INPUTS_MAX: usize = 64;
/// Open questions, answers and what an executor keeps to go on, together for one task, in bytes.
pub const INPUT_BYTES_MAX: usize = 256 * 1_024;
/// A question's key, in bytes.
pub const INPUT_KEY_BYTES_MAX: usize = 256;
/// Virtual shards moved by one command.
pub const MOVES_MAX: usize = 4_096;
/// Tasks dropped by one command.
pub const DROPS_MAX: usize = 10_000;
/// How long a late copy of a command is still recognised after what it speaks of is gone, in milliseconds.
pub const RETRY_WINDOW_MS: u64 = 60_000;
/// Workers and tasks that are gone and still remembered; beyond, the oldest are forgotten early.
pub const GONE_MAX: usize = 100_000;
/// Tasks of one page.
pub const PAGE_TASKS_MAX: usize = 1_000;
/// Tasks looked at for one page; a page that reaches it ends early, with a cursor to go on.
pub const PAGE_SCAN_MAX: usize = 10_000;
/// Latest time of a batch, in milliseconds since 1970: task numbers keep the bits above for the time.
pub const NOW_MS_MAX: u64 = (1 << 44) - 1;
