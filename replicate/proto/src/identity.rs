//! Names of what the cluster is made of.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Virtual shards of a cluster, fixed for its life: see ADR 4.
pub const VSHARDS: u16 = 4_096;

/// A node's number, unique in its cluster and never used again after a removal. Also its number in Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u16);

/// One life of a node's process. A restart is a later incarnation, whose number is larger.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Incarnation(pub u64);

/// A generation of ownership of one virtual shard.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

/// A virtual shard: less than [`VSHARDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VshardId(pub u16);

/// One registration of a worker: a later one of the same name is larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Registration(pub u64);

/// A task, named by whoever submits it with 128 random bits; as text 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId(pub u128);

/// The text is no task's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task's id is 32 lower-case hexadecimal digits")]
pub struct NotATaskId;

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for VshardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for TaskId {
    type Err = NotATaskId;

    fn from_str(text: &str) -> Result<TaskId, NotATaskId> {
        let canonical =
            text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !canonical {
            return Err(NotATaskId);
        }
        u128::from_str_radix(text, 16).map(TaskId).map_err(|_| NotATaskId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_task_id_is_read_back_and_nothing_else_is() {
        let id = TaskId(0x00ab_cdef_0123);
        assert_eq!(id.to_string(), "00000000000000000000000abcdef0123"[1..]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in
            ["", "ab", "+0000000000000000000000000abcdef", "000000000000000000000000ABCDEF01"]
        {
            assert_eq!(text.parse::<TaskId>(), Err(NotATaskId), "{text}");
        }
    }
}
