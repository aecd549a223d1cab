//! The nodes as the rebalancer sees them.

use std::collections::{BTreeMap, BTreeSet};

use crate::coordinator::{Node, Standing, State};
use crate::identity::NodeId;

/// What a node may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Its share.
    Open,
    /// Nothing; and what it has goes to others.
    Leaving,
    /// Nothing; but it may be back soon and keeps its places as a copy.
    Away,
    /// Nothing; and its places go to others.
    Gone,
}

/// A node as the rebalancer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The node.
    pub id: NodeId,
    /// Its region.
    pub region: Box<str>,
    /// Its zone within the region.
    pub zone: Box<str>,
    /// Its share relative to others; 0: nothing.
    pub weight: u32,
    /// What it may be given.
    pub place: Place,
}

/// The seats of a coordinator's nodes. A node that was fenced keeps its places for `away_ms`.
pub fn seats(state: &State, away_ms: u64) -> Vec<Seat> {
    let seat = |node: &Node| Seat {
        id: node.id,
        region: node.region.clone(),
        zone: node.zone.clone(),
        weight: node.weight,
        place: match node.standing {
            Standing::Live if node.weight > 0 => Place::Open,
            Standing::Live | Standing::Draining => Place::Leaving,
            Standing::Fenced { .. } if state.now_ms() < node.changed_ms.saturating_add(away_ms) => {
                Place::Away
            }
            Standing::Fenced { .. } => Place::Gone,
        },
    };
    state.nodes().map(seat).collect()
}

/// Seats by node, and what there is of regions and zones.
pub(super) struct Seats<'a> {
    by_id: BTreeMap<NodeId, &'a Seat>,
    /// Zones with an open seat, by region.
    zones: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Seats<'a> {
    pub(super) fn of(nodes: &'a [Seat]) -> Seats<'a> {
        let mut zones: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for seat in nodes.iter().filter(|seat| is_open(seat)) {
            zones.entry(&seat.region).or_default().insert(&seat.zone);
        }
        Seats { by_id: nodes.iter().map(|seat| (seat.id, seat)).collect(), zones }
    }

    pub(super) fn seat(&self, id: NodeId) -> Option<&'a Seat> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn open(&self) -> impl Iterator<Item = &'a Seat> {
        self.by_id.values().copied().filter(|seat| is_open(seat))
    }

    pub(super) fn is_open(&self, id: NodeId) -> bool {
        self.seat(id).is_some_and(is_open)
    }

    pub(super) fn is_away(&self, id: NodeId) -> bool {
        self.seat(id).is_some_and(|seat| seat.place == Place::Away)
    }

    /// Whether a region has open seats in a zone other than this one.
    pub(super) fn has_other_zone(&self, region: &str, zone: &str) -> bool {
        self.zones.get(region).is_some_and(|zones| zones.iter().any(|other| *other != zone))
    }
}

fn is_open(seat: &Seat) -> bool {
    seat.place == Place::Open && seat.weight > 0
}
