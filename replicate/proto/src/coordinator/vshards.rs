//! The table of virtual shards: who owns each, and who holds copies.
//!
//! Invariants:
//! - A virtual shard has at most one primary; the epoch grows whenever the primary changes.
//! - Its ISR is part of its copies, holds the primary, and holds no fenced node.
//! - The version grows with every change of a record, so that a late command is noticed.
//!
//! The table stays small (a few bytes a record in a snapshot): incarnations are the
//! nodes' own, since a node that ends or begins a life leaves every ISR.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::COPIES_MAX;
use crate::identity::{Epoch, NodeId, VSHARDS, VshardId};

/// A few nodes, in an order that means something to whoever made it, each once.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<NodeId>", try_from = "Vec<NodeId>")]
pub struct Copies {
    nodes: [u16; COPIES_MAX],
    len: u8,
}

/// The nodes are no set that a virtual shard can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a virtual shard is held by at most {COPIES_MAX} nodes, each named once")]
pub struct NotCopies;

impl Copies {
    /// These nodes.
    ///
    /// # Errors
    ///
    /// There are more than [`COPIES_MAX`], or one is named twice.
    pub fn of(nodes: &[NodeId]) -> Result<Copies, NotCopies> {
        let mut copies = Copies::default();
        for node in nodes {
            if copies.contains(*node) || !copies.push(*node) {
                return Err(NotCopies);
            }
        }
        Ok(copies)
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the node is one of them.
    pub fn contains(&self, node: NodeId) -> bool {
        self.iter().any(|held| held == node)
    }

    /// The nodes in order.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes[..self.len()].iter().map(|node| NodeId(*node))
    }

    /// The first of them.
    pub fn first(&self) -> Option<NodeId> {
        self.iter().next()
    }

    /// Adds a node at the end. False: there is no room for one more.
    pub fn push(&mut self, node: NodeId) -> bool {
        if self.contains(node) {
            return true;
        }
        let Some(place) = self.nodes.get_mut(usize::from(self.len)) else { return false };
        *place = node.0;
        self.len += 1;
        true
    }

    /// Keeps those for which `wanted` holds. True: some left.
    pub fn retain(&mut self, mut wanted: impl FnMut(NodeId) -> bool) -> bool {
        let before = *self;
        *self = Copies::default();
        for node in before.iter().filter(|node| wanted(*node)) {
            self.push(node);
        }
        self.len != before.len
    }
}

impl std::fmt::Debug for Copies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter().map(|node| node.0)).finish()
    }
}

impl From<Copies> for Vec<NodeId> {
    fn from(copies: Copies) -> Vec<NodeId> {
        copies.iter().collect()
    }
}

impl TryFrom<Vec<NodeId>> for Copies {
    type Error = NotCopies;

    fn try_from(nodes: Vec<NodeId>) -> Result<Copies, NotCopies> {
        Copies::of(&nodes)
    }
}

/// A virtual shard's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vshard {
    /// The generation of ownership; 0: it never had a primary.
    pub epoch: Epoch,
    /// Grows with every change of the record.
    pub version: u32,
    /// Its owner, in the node's present incarnation.
    pub primary: Option<NodeId>,
    /// Who holds all that is acknowledged, the primary among them.
    pub isr: Copies,
    /// Who is to hold it, the primary among them.
    pub copies: Copies,
}

/// The whole table.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Vshards {
    table: Box<[Vshard]>,
    primaries: BTreeMap<NodeId, u32>,
    /// Times that a virtual shard lost its last member, and with it what was held.
    pub(super) lost_total: u64,
}

impl Vshards {
    pub(super) fn new() -> Vshards {
        Vshards::of(vec![Vshard::default(); usize::from(VSHARDS)].into(), 0)
    }

    /// The table of a snapshot, which has [`VSHARDS`] records.
    pub(super) fn of(table: Box<[Vshard]>, lost_total: u64) -> Vshards {
        assert_eq!(table.len(), usize::from(VSHARDS), "a table has a record for every shard");
        let mut primaries = BTreeMap::new();
        for primary in table.iter().filter_map(|record| record.primary) {
            *primaries.entry(primary).or_default() += 1;
        }
        Vshards { table, primaries, lost_total }
    }

    pub(super) fn table(&self) -> &[Vshard] {
        &self.table
    }

    pub(super) fn vshard(&self, id: VshardId) -> Option<&Vshard> {
        self.table.get(usize::from(id.0))
    }

    /// Virtual shards whose primary the node is.
    pub(super) fn primaries_of(&self, node: NodeId) -> u32 {
        self.primaries.get(&node).copied().unwrap_or(0)
    }

    /// Replaces a record that differs from its old one, and gives it its next version.
    pub(super) fn replace(&mut self, id: VshardId, mut record: Vshard) {
        let place = &mut self.table[usize::from(id.0)];
        record.version = place.version.wrapping_add(1);
        if let Some(before) = place.primary {
            let count = self.primaries.entry(before).or_default();
            *count -= 1;
            if *count == 0 {
                self.primaries.remove(&before);
            }
        }
        if let Some(primary) = record.primary {
            *self.primaries.entry(primary).or_default() += 1;
        }
        *place = record;
    }
}
