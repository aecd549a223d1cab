//! Where virtual shards should be: from the nodes and the table to the next moves.
//!
//! [`plan`] is a pure function; whoever leads applies its moves through the control log and
//! asks again when the table has changed. A virtual shard goes to another node in steps,
//! each of them a [`Move`] that loses nothing:
//! 1. the new holders become copies beside the old ones, and catch up;
//! 2. once the one that is to be primary is in the ISR, it becomes primary;
//! 3. once all the wanted copies are in the ISR, the others are no copies any more.
//!
//! The first copy of a record is the node that is to be primary, so that the plan needs no
//! memory: what was begun is seen in the table.
//!
//! Invariants:
//! - Primaries are shared by weight: between nodes of equal weight shares differ by at most one.
//! - A backup is in the primary's region and, where there is one, in another of its zones;
//!   a remote copy is in another region where there is one.
//! - What is where it should be is not moved: applied again and again, the plan becomes
//!   empty, and it stays empty until the nodes change.
//! - A fenced node keeps its place for a while: a restart moves nothing twice.

mod assignment;
mod seats;
#[cfg(test)]
mod tests;

pub use seats::{Place, Seat, seats};

use crate::coordinator::{Copies, MOVES_MAX, Move, Vshard};
use crate::identity::{NodeId, VshardId};
use assignment::{Assignment, Wanted};
use seats::Seats;

/// How much may be on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebalanceLimits {
    /// Virtual shards with data that may be moving at one time. Those that nobody owns have
    /// nothing to move and are given out at once.
    pub moving_max: usize,
}

impl Default for RebalanceLimits {
    fn default() -> RebalanceLimits {
        RebalanceLimits { moving_max: 256 }
    }
}

/// The next moves, at most [`MOVES_MAX`]; none: everything is where it should be, or on its way.
pub fn plan(nodes: &[Seat], table: &[Vshard], limits: &RebalanceLimits) -> Vec<Move> {
    let seats = Seats::of(nodes);
    if seats.open().next().is_none() {
        return Vec::new();
    }
    let assignment = Assignment::of(&seats, table);
    let moving = table.iter().filter(|record| is_moving(&seats, record)).count();
    let mut room = limits.moving_max.saturating_sub(moving);
    let mut moves = Vec::new();
    for ((record, wanted), vshard) in table.iter().zip(assignment.wanted()).zip(0..) {
        let Some(next) = next_step(&seats, record, wanted) else { continue };
        let begins = record.primary.is_some() && !is_moving(&seats, record);
        if begins && room == 0 {
            continue;
        }
        room -= usize::from(begins);
        let (epoch, version) = (record.epoch, record.version);
        let (to, copies) = next;
        moves.push(Move { vshard: VshardId(vshard), epoch, version, to, copies });
        if moves.len() == MOVES_MAX {
            break;
        }
    }
    moves
}

/// Whether a node has still to catch up, or to become primary.
fn is_moving(seats: &Seats, record: &Vshard) -> bool {
    let Some(primary) = record.primary else { return false };
    let catches_up = |id| seats.is_open(id) && !record.isr.contains(id);
    let first = record.copies.first().filter(|first| seats.is_open(*first));
    record.copies.iter().any(catches_up) || first.is_some_and(|first| first != primary)
}

/// What a record should become next, if anything.
fn next_step(seats: &Seats, record: &Vshard, wanted: &Wanted) -> Option<(NodeId, Copies)> {
    let target = wanted.copies();
    let owner = target.first()?;
    let caught_up = |id| record.isr.contains(id) || seats.is_away(id);
    let to = match record.primary {
        Some(primary) if !record.isr.contains(owner) => primary,
        Some(_) | None => owner,
    };
    let arrived = record.primary.is_none() || target.iter().all(caught_up);
    let copies = if arrived && target.contains(to) { target } else { beside(record, &target) };
    let same = record.primary == Some(to)
        && record.copies.first() == copies.first()
        && record.copies.len() == copies.len()
        && record.copies.iter().all(|id| copies.contains(id));
    (!same).then_some((to, copies))
}

/// The wanted copies beside those that hold what is acknowledged, as far as there is room:
/// the primary and one more member stay until the wanted ones have caught up.
fn beside(record: &Vshard, target: &Copies) -> Copies {
    let mut room = Copies::default();
    let first = target.first().into_iter().chain(record.primary);
    first.for_each(|id| _ = room.push(id));
    let safe = record.isr.iter().find(|id| record.primary != Some(*id));
    let others = safe.into_iter().chain(target.iter()).chain(record.isr.iter());
    others.for_each(|id| _ = room.push(id));
    // The wanted ones come first, so that the next plan wants the same.
    let mut copies = Copies::default();
    target.iter().filter(|id| room.contains(*id)).for_each(|id| _ = copies.push(id));
    room.iter().for_each(|id| _ = copies.push(id));
    copies
}
