//! Commands about virtual shards, and who takes over when a primary's life ends.

use super::command::{Member, Move};
use super::nodes::Node;
use super::outcome::{Change, Outcome, Refusal};
use super::state::{Applied, Changes, State};
use super::vshards::{Copies, Vshard};
use crate::identity::{Epoch, Incarnation, NodeId, VSHARDS, VshardId};

impl State {
    pub(super) fn alter_isr(
        &mut self,
        id: VshardId,
        (epoch, version): (Epoch, u32),
        primary_incarnation: Incarnation,
        isr: &[Member],
        changes: Changes<'_>,
    ) -> Applied {
        let record = *self.vshards.vshard(id).ok_or(Refusal::VshardUnknown { vshard: id })?;
        let wanted = self.members(id, &record, isr)?;
        let changed =
            Refusal::VshardChanged { vshard: id, epoch: record.epoch, version: record.version };
        let Some(primary) = record.primary.filter(|_| record.epoch == epoch) else {
            return Err(changed);
        };
        if self.nodes.node(primary)?.incarnation != primary_incarnation {
            return Err(changed);
        }
        if !wanted.contains(primary) {
            return Err(Refusal::IsrWithoutPrimary { vshard: id });
        }
        if wanted == record.isr && (record.version.wrapping_sub(version)) <= 1 {
            return Ok(Outcome::IsrAltered { vshard: id, version: record.version });
        }
        if record.version != version {
            return Err(changed);
        }
        self.replace_vshard(id, Vshard { isr: wanted, ..record }, changes);
        Ok(Outcome::IsrAltered { vshard: id, version: version.wrapping_add(1) })
    }

    /// The nodes of an ISR, each of which must be live in the life named and hold a copy.
    fn members(&self, id: VshardId, record: &Vshard, isr: &[Member]) -> Result<Copies, Refusal> {
        let mut wanted = Copies::default();
        for member in isr {
            let alive = self
                .nodes
                .by_id
                .get(&member.node)
                .is_some_and(|node| node.is_live() && node.incarnation == member.incarnation);
            if !(alive && record.copies.contains(member.node) && wanted.push(member.node)) {
                return Err(Refusal::NotAMember { vshard: id, node: member.node });
            }
        }
        Ok(wanted)
    }

    pub(super) fn move_vshards(&mut self, moves: &[Move], changes: Changes<'_>) -> Outcome {
        let in_force = moves.iter().filter(|wanted| self.move_vshard(wanted, changes)).count();
        Outcome::VshardsMoved { in_force: u16::try_from(in_force).unwrap_or(u16::MAX) }
    }

    /// True: the move is in force.
    fn move_vshard(&mut self, wanted: &Move, changes: Changes<'_>) -> bool {
        let Some(record) = self.vshards.vshard(wanted.vshard).copied() else { return false };
        let moved = Vshard {
            epoch: record.epoch,
            version: record.version,
            primary: Some(wanted.to),
            isr: record.isr,
            copies: wanted.copies,
        };
        let done = record.primary == moved.primary && record.copies == moved.copies;
        if done && record.version.wrapping_sub(wanted.version) <= 1 {
            return true;
        }
        let seen = record.epoch == wanted.epoch && record.version == wanted.version;
        if !seen || !wanted.copies.contains(wanted.to) || !self.may_own(&record, wanted.to) {
            return false;
        }
        // Only nodes of the cluster hold copies; a fenced one may, for when it comes back.
        if wanted.copies.iter().any(|node| !self.nodes.by_id.contains_key(&node)) {
            return false;
        }
        self.put_moved(wanted.vshard, &record, moved, changes);
        true
    }

    /// A primary holds all that was acknowledged, unless all of it is lost anyway.
    fn may_own(&self, record: &Vshard, node: NodeId) -> bool {
        self.nodes.is_live(node) && (record.primary.is_none() || record.isr.contains(node))
    }

    fn put_moved(
        &mut self,
        id: VshardId,
        record: &Vshard,
        mut moved: Vshard,
        changes: Changes<'_>,
    ) {
        moved.isr.retain(|node| moved.copies.contains(node));
        if let Some(primary) = moved.primary {
            moved.isr.push(primary);
        }
        if moved.primary != record.primary {
            moved.epoch = Epoch(record.epoch.0 + 1);
        }
        self.replace_vshard(id, moved, changes);
    }

    /// Takes a node whose life ended out of every ISR and lets the best member follow it.
    pub(super) fn promote_instead_of(&mut self, ended: &Node, changes: Changes<'_>) {
        for id in (0..VSHARDS).map(VshardId) {
            let Some(record) = self.vshards.vshard(id).copied() else { continue };
            if !record.isr.contains(ended.id) {
                continue;
            }
            let mut next = record;
            next.isr.retain(|node| node != ended.id);
            if record.primary == Some(ended.id) {
                next.primary = self.best_member(&next.isr, ended);
                next.epoch = Epoch(record.epoch.0 + 1);
                self.vshards.lost_total += u64::from(next.primary.is_none());
            }
            self.replace_vshard(id, next, changes);
        }
    }

    /// The member to follow a primary: not draining, of its region, of another zone (which
    /// may have failed with it), least loaded, and then the lowest number.
    fn best_member(&self, isr: &Copies, ended: &Node) -> Option<NodeId> {
        let members = isr.iter().filter_map(|id| self.nodes.by_id.get(&id));
        members
            .filter(|node| node.is_live())
            .min_by_key(|node| {
                let same_zone = node.region == ended.region && node.zone == ended.zone;
                let primaries = self.vshards.primaries_of(node.id);
                (!node.is_open(), node.region != ended.region, same_zone, primaries, node.id)
            })
            .map(|node| node.id)
    }

    /// A removed node is no copy any more.
    pub(super) fn forget_copies_of(&mut self, node: NodeId, changes: Changes<'_>) {
        for id in (0..VSHARDS).map(VshardId) {
            let Some(record) = self.vshards.vshard(id).copied() else { continue };
            let mut next = record;
            if next.copies.retain(|copy| copy != node) {
                self.replace_vshard(id, next, changes);
            }
        }
    }

    fn replace_vshard(&mut self, id: VshardId, next: Vshard, changes: Changes<'_>) {
        let before = self.vshards.vshard(id).map(|record| record.epoch);
        self.vshards.replace(id, next);
        changes.push(if before == Some(next.epoch) {
            Change::VshardAltered { vshard: id }
        } else {
            Change::VshardMoved { vshard: id, primary: next.primary }
        });
    }
}
