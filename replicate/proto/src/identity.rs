//! Names of what the cluster is made of.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Virtual shards of a cluster, fixed for its life: see ADR 4.
pub const VSHARDS: u16 = 4_096;

/// Longest name of a cluster, in bytes.
pub const CLUSTER_NAME_BYTES_MAX: usize = 64;

/// A cluster's name: nodes of one cluster refuse those of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Box<str>", into = "Box<str>")]
pub struct ClusterName(Box<str>);

/// The text is no cluster's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster's name has 1 to {CLUSTER_NAME_BYTES_MAX} letters, digits, '-' or '_' of ASCII")]
pub struct NotAClusterName;

impl ClusterName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClusterName {
    type Err = NotAClusterName;

    fn from_str(text: &str) -> Result<ClusterName, NotAClusterName> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let long = text.is_empty() || text.len() > CLUSTER_NAME_BYTES_MAX;
        if long || !text.bytes().all(good) {
            return Err(NotAClusterName);
        }
        Ok(ClusterName(text.into()))
    }
}

impl TryFrom<Box<str>> for ClusterName {
    type Error = NotAClusterName;

    fn try_from(text: Box<str>) -> Result<ClusterName, NotAClusterName> {
        text.parse()
    }
}

impl From<ClusterName> for Box<str> {
    fn from(name: ClusterName) -> Box<str> {
        name.0
    }
}

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

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Registration {
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
