//! Who should hold what, with as few changes to who holds what as balance allows.
//!
//! A change is made only if it makes the larger of two nodes' loads (holdings by weight)
//! smaller. So every change makes the whole more even, and there is an end to them.

use std::collections::BTreeMap;

use super::seats::{Seat, Seats};
use crate::coordinator::{Copies, Vshard};
use crate::identity::NodeId;

/// Who should hold one virtual shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    primary: Option<NodeId>,
    backup: Option<NodeId>,
    remote: Option<NodeId>,
}

impl Wanted {
    /// The nodes, the one to be primary first.
    pub(super) fn copies(&self) -> Copies {
        let mut copies = Copies::default();
        if self.primary.is_some() {
            let all = [self.primary, self.backup, self.remote];
            all.into_iter().flatten().for_each(|id| _ = copies.push(id));
        }
        copies
    }
}

/// How much nodes have of one kind of holding.
#[derive(Default)]
struct Loads(BTreeMap<NodeId, u32>);

impl Loads {
    fn of(&self, id: NodeId) -> u32 {
        self.0.get(&id).copied().unwrap_or(0)
    }

    fn add(&mut self, id: NodeId) {
        *self.0.entry(id).or_default() += 1;
    }

    fn remove(&mut self, id: NodeId) {
        if let Some(load) = self.0.get_mut(&id) {
            *load -= 1;
        }
    }

    /// The seat that would be the least loaded with one more; `rank` decides between equals.
    fn least<'a, R: Ord>(
        &self,
        seats: impl Iterator<Item = &'a Seat>,
        rank: impl Fn(&Seat) -> R,
    ) -> Option<&'a Seat> {
        seats.min_by(|one, other| {
            let of = |seat: &Seat| u64::from(self.of(seat.id)) + 1;
            let (left, right) =
                (of(one) * u64::from(other.weight), of(other) * u64::from(one.weight));
            left.cmp(&right).then_with(|| rank(one).cmp(&rank(other))).then(one.id.cmp(&other.id))
        })
    }

    /// Whether one holding less for `from` and one more for `to` makes the two more even.
    fn is_better(&self, from: &Seat, to: &Seat) -> bool {
        let before = u64::from(self.of(from.id)) * u64::from(to.weight);
        let after = (u64::from(self.of(to.id)) + 1) * u64::from(from.weight);
        before > after
    }
}

/// Who should hold each virtual shard.
pub(super) struct Assignment {
    wanted: Vec<Wanted>,
}

impl Assignment {
    pub(super) fn of(seats: &Seats<'_>, table: &[Vshard]) -> Assignment {
        let mut wanted = vec![Wanted::default(); table.len()];
        assign_primaries(seats, table, &mut wanted);
        assign_backups(seats, table, &mut wanted);
        assign_remotes(seats, table, &mut wanted);
        Assignment { wanted }
    }

    pub(super) fn wanted(&self) -> &[Wanted] {
        &self.wanted
    }
}

/// The primary that a record has or was promised; `None`: it needs another.
fn kept_primary(seats: &Seats<'_>, record: &Vshard) -> Option<NodeId> {
    let promised = record.copies.first();
    let returns = |id: &NodeId| seats.is_away(*id) && record.primary.is_some();
    promised
        .filter(|id| seats.is_open(*id) || returns(id))
        .or(record.primary.filter(|id| seats.is_open(*id)))
}

fn assign_primaries(seats: &Seats<'_>, table: &[Vshard], wanted: &mut [Wanted]) {
    let mut loads = Loads::default();
    for (record, wanted) in table.iter().zip(&mut *wanted) {
        wanted.primary = kept_primary(seats, record);
        // What waits for a node that is away is carried by its present primary meanwhile.
        wanted.primary.into_iter().for_each(|id| loads.add(id));
    }
    let weights: u64 = seats.open().map(|seat| u64::from(seat.weight)).sum();
    let fair = |seat: &Seat| (table.len() as u64 * u64::from(seat.weight)).div_ceil(weights);
    for (record, wanted) in table.iter().zip(&mut *wanted) {
        if wanted.primary.is_none() {
            // The fair shares add up to all there is, so that one node is always below its own.
            let below = seats.open().filter(|seat| u64::from(loads.of(seat.id)) < fair(seat));
            let nearest = below.min_by_key(|seat| (distance(record, seat.id), loads.of(seat.id)));
            wanted.primary = nearest.map(|seat| seat.id);
            wanted.primary.into_iter().for_each(|id| loads.add(id));
        }
    }
    even_out(seats, table, wanted, &mut loads);
}

/// How far a node is from being a record's primary: it is, it could be, it will be able to, or not.
fn distance(record: &Vshard, id: NodeId) -> u8 {
    match () {
        () if record.primary == Some(id) => 0,
        () if record.isr.contains(id) => 1,
        () if record.copies.contains(id) => 2,
        () => 3,
    }
}

/// Moves single primaries from the most to the least loaded node while that evens them out.
fn even_out(seats: &Seats<'_>, table: &[Vshard], wanted: &mut [Wanted], loads: &mut Loads) {
    let mut held: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
    for (place, wanted) in wanted.iter().enumerate() {
        wanted.primary.into_iter().for_each(|id| held.entry(id).or_default().push(place));
    }
    while let Some(to) = loads.least(seats.open(), |_| ())
        && let Some(from) = most_loaded(seats, loads)
        && loads.is_better(from, to)
        && let Some(places) = held.get_mut(&from.id)
    {
        // The one that has the shortest way goes.
        let nearest = (0..places.len()).min_by_key(|at| distance(&table[places[*at]], to.id));
        let Some(nearest) = nearest else { break };
        let place = places.swap_remove(nearest);
        wanted[place].primary = Some(to.id);
        held.entry(to.id).or_default().push(place);
        loads.remove(from.id);
        loads.add(to.id);
    }
}

fn most_loaded<'a>(seats: &Seats<'a>, loads: &Loads) -> Option<&'a Seat> {
    seats.open().max_by(|one, other| {
        let left = u64::from(loads.of(one.id)) * u64::from(other.weight);
        let right = u64::from(loads.of(other.id)) * u64::from(one.weight);
        left.cmp(&right).then(other.id.cmp(&one.id))
    })
}

/// Whether a node may be the backup beside a primary.
fn may_back_up(seats: &Seats<'_>, primary: &Seat, seat: &Seat) -> bool {
    let elsewhere =
        seat.zone != primary.zone || !seats.has_other_zone(&primary.region, &primary.zone);
    seat.id != primary.id && seat.region == primary.region && elsewhere
}

fn assign_backups(seats: &Seats<'_>, table: &[Vshard], wanted: &mut [Wanted]) {
    let choices = table.iter().zip(&*wanted).map(|(record, wanted)| {
        let primary = wanted.primary.and_then(|id| seats.seat(id));
        choose(seats, record, primary, may_back_up)
    });
    let choices: Vec<_> = choices.collect();
    let chosen = share_out(seats, table, choices);
    wanted.iter_mut().zip(chosen).for_each(|(wanted, backup)| wanted.backup = backup);
}

fn assign_remotes(seats: &Seats<'_>, table: &[Vshard], wanted: &mut [Wanted]) {
    let remote = |_: &Seats<'_>, primary: &Seat, seat: &Seat| seat.region != primary.region;
    let choices = table.iter().zip(&*wanted).map(|(record, wanted)| {
        let primary = wanted.primary.and_then(|id| seats.seat(id));
        choose(seats, record, primary, remote)
    });
    let choices: Vec<_> = choices.collect();
    let chosen = share_out(seats, table, choices);
    wanted.iter_mut().zip(chosen).for_each(|(wanted, remote)| wanted.remote = remote);
}

/// Who has a part of a record, and who could have it.
struct Choice<'a> {
    /// A copy that may keep the part.
    kept: Option<&'a Seat>,
    /// All open nodes that may have it.
    eligible: Vec<&'a Seat>,
}

fn choose<'a>(
    seats: &Seats<'a>,
    record: &Vshard,
    primary: Option<&Seat>,
    may: impl Fn(&Seats<'_>, &Seat, &Seat) -> bool,
) -> Choice<'a> {
    let Some(primary) = primary else { return Choice { kept: None, eligible: Vec::new() } };
    let copies = record.copies.iter().filter_map(|id| seats.seat(id));
    let kept = copies
        .filter(|seat| seats.is_open(seat.id) || seats.is_away(seat.id))
        .find(|seat| may(seats, primary, seat));
    let eligible = seats.open().filter(|seat| may(seats, primary, seat)).collect();
    Choice { kept, eligible }
}

/// Gives every part to who has it, the rest to the least loaded, and then evens out.
fn share_out(seats: &Seats<'_>, table: &[Vshard], choices: Vec<Choice<'_>>) -> Vec<Option<NodeId>> {
    let mut loads = Loads::default();
    let mut chosen: Vec<Option<&Seat>> = choices.iter().map(|choice| choice.kept).collect();
    chosen.iter().flatten().for_each(|seat| loads.add(seat.id));
    for ((record, choice), chosen) in table.iter().zip(&choices).zip(&mut chosen) {
        let eligible = choice.eligible.iter().copied();
        match *chosen {
            None => {
                *chosen = loads.least(eligible, |seat| distance(record, seat.id));
                chosen.iter().for_each(|seat| loads.add(seat.id));
            }
            // A place kept for a node that is away is no load to even out.
            Some(from) if seats.is_away(from.id) => {}
            Some(from) => {
                let to = loads.least(eligible, |_| ());
                if let Some(to) = to.filter(|to| loads.is_better(from, to)) {
                    loads.remove(from.id);
                    loads.add(to.id);
                    *chosen = Some(to);
                }
            }
        }
    }
    chosen.into_iter().map(|seat| seat.map(|seat| seat.id)).collect()
}
