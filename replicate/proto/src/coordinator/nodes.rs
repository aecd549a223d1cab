//! The nodes of the cluster.
//!
//! Invariants:
//! - A number belongs to one name and a name to one number, for the cluster's life.
//! - A node's incarnation only grows; what is said of an older one changes nothing.
//! - A removed node's number and name are remembered, so it can't come back by mistake.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::NODES_MAX;
use super::command::NodeRegistration;
use super::outcome::Refusal;
use crate::identity::{Incarnation, NodeId};

/// Where a node is reached, each as `host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// By other nodes.
    pub peer: Box<str>,
    /// By clients.
    pub client: Box<str>,
    /// By the admin API's users; empty if it has none.
    pub admin: Box<str>,
}

/// A node as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Its name.
    pub name: Box<str>,
    /// Its latest life.
    pub incarnation: Incarnation,
    /// Where it is reached.
    pub addresses: Addresses,
    /// Its failure domain.
    pub zone: Box<str>,
    /// Its region.
    pub region: Box<str>,
    /// Its share of the virtual shards relative to others.
    pub weight: u32,
    /// The highest feature level that its program knows.
    pub feature_level: u32,
    /// Whether it takes part.
    pub standing: Standing,
    /// When its latest life was registered, in milliseconds since 1970.
    pub registered_ms: u64,
    /// When its standing last changed.
    pub changed_ms: u64,
}

/// Whether a node takes part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It does.
    Live,
    /// It does, but gets nothing new.
    Draining,
    /// It does not, until it registers with a later incarnation.
    Fenced {
        /// What was observed.
        reason: Box<str>,
    },
}

impl Node {
    /// Whether it may hold things: it is not fenced.
    pub fn is_live(&self) -> bool {
        match self.standing {
            Standing::Live | Standing::Draining => true,
            Standing::Fenced { .. } => false,
        }
    }

    /// Whether it may get something new.
    pub fn is_open(&self) -> bool {
        self.standing == Standing::Live
    }
}

/// What a registration means for the node it names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Nobody had this number.
    First,
    /// The log holds this very registration.
    Known,
    /// It ends the life before.
    Reborn,
}

/// All nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Nodes {
    pub(super) by_id: BTreeMap<NodeId, Node>,
    pub(super) removed: BTreeMap<NodeId, Box<str>>,
}

impl Nodes {
    /// Says what a registration would do, or why it can't be.
    pub(super) fn judge(&self, new: &NodeRegistration) -> Result<Arrival, Refusal> {
        if self.removed.contains_key(&new.id) {
            return Err(Refusal::NodeRemoved { id: new.id });
        }
        if self.removed.values().any(|name| *name == new.name) {
            return Err(Refusal::NodeNameRetired { name: new.name.clone() });
        }
        let same_name = |node: &&Node| node.name == new.name && node.id != new.id;
        if let Some(holder) = self.by_id.values().find(same_name) {
            return Err(Refusal::NodeNameTaken { name: new.name.clone(), holder: holder.id });
        }
        let Some(known) = self.by_id.get(&new.id) else {
            if self.by_id.len() >= NODES_MAX {
                return Err(Refusal::TooManyNodes);
            }
            return Ok(Arrival::First);
        };
        known.judge_return(new)
    }

    pub(super) fn node(&self, id: NodeId) -> Result<&Node, Refusal> {
        if self.removed.contains_key(&id) {
            return Err(Refusal::NodeRemoved { id });
        }
        self.by_id.get(&id).ok_or(Refusal::NodeUnknown { id })
    }

    pub(super) fn is_live(&self, id: NodeId) -> bool {
        self.by_id.get(&id).is_some_and(Node::is_live)
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &Node> {
        self.by_id.values().filter(|node| node.is_live())
    }
}

impl Node {
    fn judge_return(&self, new: &NodeRegistration) -> Result<Arrival, Refusal> {
        if self.name != new.name {
            return Err(Refusal::NodeNumberTaken { id: self.id, holder: self.name.clone() });
        }
        if new.incarnation > self.incarnation {
            return Ok(Arrival::Reborn);
        }
        if new.incarnation < self.incarnation {
            return Err(Refusal::IncarnationOld {
                id: self.id,
                got: new.incarnation,
                known: self.incarnation,
            });
        }
        if !self.is_live() {
            return Err(Refusal::IncarnationFenced { id: self.id, incarnation: self.incarnation });
        }
        if !self.says_the_same(new) {
            return Err(Refusal::IncarnationDiffers { id: self.id, incarnation: self.incarnation });
        }
        Ok(Arrival::Known)
    }

    fn says_the_same(&self, new: &NodeRegistration) -> bool {
        self.addresses == new.addresses
            && self.zone == new.zone
            && self.region == new.region
            && self.weight == new.weight
            && self.feature_level == new.feature_level
    }

    pub(super) fn registered(new: &NodeRegistration, now_ms: u64) -> Node {
        Node {
            id: new.id,
            name: new.name.clone(),
            incarnation: new.incarnation,
            addresses: new.addresses.clone(),
            zone: new.zone.clone(),
            region: new.region.clone(),
            weight: new.weight,
            feature_level: new.feature_level,
            standing: Standing::Live,
            registered_ms: now_ms,
            changed_ms: now_ms,
        }
    }
}
