//! Commands about nodes, and what everything else makes of a node's end.

use super::command::NodeRegistration;
use super::nodes::{Arrival, Node, Standing};
use super::outcome::{Change, Outcome, Refusal};
use super::state::{Applied, Changes, State};
use crate::identity::{Incarnation, NodeId};

impl State {
    pub(super) fn register_node(
        &mut self,
        new: &NodeRegistration,
        changes: Changes<'_>,
    ) -> Applied {
        let outcome = Outcome::NodeRegistered { id: new.id, incarnation: new.incarnation };
        let arrival = self.nodes.judge(new)?;
        if arrival == Arrival::Known {
            return Ok(outcome);
        }
        if new.feature_level < self.feature_level {
            return Err(Refusal::FeatureLevelTooLow {
                id: new.id,
                knows: new.feature_level,
                needed: self.feature_level,
            });
        }
        let ended = self.nodes.by_id.insert(new.id, Node::registered(new, self.now_ms));
        changes.push(Change::NodeRegistered { id: new.id, incarnation: new.incarnation });
        if let Some(ended) = ended.filter(Node::is_live) {
            changes.push(Change::NodeFenced { id: new.id, incarnation: ended.incarnation });
            // The new life has nothing of the old one: it may be given the same again, but
            // only as anyone else would.
            self.take_from_node(&ended, changes);
        }
        Ok(outcome)
    }

    pub(super) fn fence_node(
        &mut self,
        id: NodeId,
        incarnation: Incarnation,
        reason: &str,
        changes: Changes<'_>,
    ) -> Applied {
        let node = self.nodes.node(id)?;
        if incarnation > node.incarnation {
            let known = node.incarnation;
            return Err(Refusal::IncarnationUnknown { id, got: incarnation, known });
        }
        if incarnation == node.incarnation && node.is_live() {
            self.end_life(id, reason, changes)?;
        }
        Ok(Outcome::NodeFenced { id })
    }

    pub(super) fn drain_node(
        &mut self,
        id: NodeId,
        incarnation: Incarnation,
        changes: Changes<'_>,
    ) -> Applied {
        let node = self.nodes.node(id)?;
        let known = node.incarnation;
        if incarnation > known {
            return Err(Refusal::IncarnationUnknown { id, got: incarnation, known });
        }
        if incarnation < known {
            return Err(Refusal::IncarnationOld { id, got: incarnation, known });
        }
        match node.standing {
            Standing::Draining => {}
            Standing::Fenced { .. } => return Err(Refusal::IncarnationFenced { id, incarnation }),
            Standing::Live => {
                self.set_standing(id, Standing::Draining);
                changes.push(Change::NodeDraining { id });
            }
        }
        Ok(Outcome::NodeDraining { id })
    }

    pub(super) fn remove_node(&mut self, id: NodeId, changes: Changes<'_>) -> Applied {
        if self.nodes.removed.contains_key(&id) {
            return Ok(Outcome::NodeRemoved { id });
        }
        if self.nodes.node(id)?.is_live() {
            self.end_life(id, "it was removed from the cluster", changes)?;
        }
        if let Some(node) = self.nodes.by_id.remove(&id) {
            self.nodes.removed.insert(id, node.name);
        }
        self.forget_copies_of(id, changes);
        changes.push(Change::NodeRemoved { id });
        Ok(Outcome::NodeRemoved { id })
    }

    pub(super) fn set_feature_level(&mut self, level: u32, changes: Changes<'_>) -> Applied {
        if let Some(node) = self.nodes.by_id.values().find(|node| node.feature_level < level) {
            let knows = node.feature_level;
            return Err(Refusal::FeatureLevelTooLow { id: node.id, knows, needed: level });
        }
        if level > self.feature_level {
            self.feature_level = level;
            changes.push(Change::FeatureLevel { level });
        }
        Ok(Outcome::FeatureLevel { level: self.feature_level })
    }

    /// Ends a node's life and gives what it held to the others.
    fn end_life(&mut self, id: NodeId, reason: &str, changes: Changes<'_>) -> Result<(), Refusal> {
        if self.nodes.live().all(|node| node.id == id) {
            return Err(Refusal::LastNode { id });
        }
        self.set_standing(id, Standing::Fenced { reason: reason.into() });
        if let Some(ended) = self.nodes.by_id.get(&id).cloned() {
            changes.push(Change::NodeFenced { id, incarnation: ended.incarnation });
            self.take_from_node(&ended, changes);
        }
        Ok(())
    }

    fn take_from_node(&mut self, ended: &Node, changes: Changes<'_>) {
        self.promote_instead_of(ended, changes);
        self.move_tasks_off_node(ended.id, changes);
    }

    fn set_standing(&mut self, id: NodeId, standing: Standing) {
        if let Some(node) = self.nodes.by_id.get_mut(&id) {
            node.standing = standing;
            node.changed_ms = self.now_ms;
        }
    }
}
