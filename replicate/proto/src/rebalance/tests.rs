//! Plans for single cases, and what holds of plans over random histories of nodes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::coordinator::{Addresses, Batch, Command, Member, NodeRegistration, Outcome, State};
use crate::identity::Incarnation;

const AWAY_MS: u64 = 10_000;

/// A coordinator whose primaries bring their copies up to date.
struct Cluster {
    state: State,
    now_ms: u64,
    limits: RebalanceLimits,
}

impl Cluster {
    /// Nodes by place (region, zone) and weight.
    fn of(nodes: &[(&str, &str, u32)]) -> Cluster {
        let state = State::new("lab".parse().unwrap());
        let limits = RebalanceLimits { moving_max: 4_096 };
        let mut cluster = Cluster { state, now_ms: 1_000_000, limits };
        for ((region, zone, weight), id) in nodes.iter().zip(1..) {
            cluster.join(id, 1, (region, zone, *weight));
        }
        cluster
    }

    fn apply(&mut self, commands: Vec<Command>) -> Vec<Outcome> {
        let batch = Batch { now_ms: self.now_ms, commands };
        self.state.apply(self.state.applied() + 1, &batch, &mut Vec::new())
    }

    fn join(&mut self, id: u16, incarnation: u64, (region, zone, weight): (&str, &str, u32)) {
        let node = NodeRegistration {
            id: NodeId(id),
            name: format!("node-{id}").into(),
            incarnation: Incarnation(incarnation),
            addresses: Addresses::default(),
            zone: zone.into(),
            region: region.into(),
            weight,
            feature_level: 0,
        };
        self.apply(vec![Command::RegisterNode(Box::new(node))]);
    }

    /// The node's process starts again where it was.
    fn restart(&mut self, id: u16) {
        let node = self.state.node(NodeId(id)).unwrap().clone();
        self.join(id, node.incarnation.0 + 1, (&node.region, &node.zone, node.weight));
    }

    fn fence(&mut self, id: u16) {
        let Some(node) = self.state.node(NodeId(id)) else { return };
        let incarnation = node.incarnation;
        self.apply(vec![Command::FenceNode { id: NodeId(id), incarnation, reason: "".into() }]);
    }

    fn drain(&mut self, id: u16) {
        let Some(node) = self.state.node(NodeId(id)) else { return };
        let incarnation = node.incarnation;
        self.apply(vec![Command::DrainNode { id: NodeId(id), incarnation }]);
    }

    fn seats(&self) -> Vec<Seat> {
        seats(&self.state, AWAY_MS)
    }

    /// Plans and applies once. How many moves there were.
    fn step(&mut self) -> usize {
        let moves = plan(&self.seats(), self.state.vshards(), &self.limits);
        let count = moves.len();
        if count > 0 {
            let outcomes = self.apply(vec![Command::MoveVshards { moves }]);
            let in_force = u16::try_from(count).unwrap();
            assert_eq!(outcomes, [Outcome::VshardsMoved { in_force }], "every move is possible");
        }
        count
    }

    /// Copies on live nodes catch up where `lucky` says so. How many did.
    fn catch_up(&mut self, lucky: impl Fn(u16) -> bool) -> usize {
        let alter = |(record, vshard): (&Vshard, u16)| {
            let primary = self.state.node(record.primary?)?;
            let live = record.copies.iter().filter_map(|id| self.state.node(id));
            let live = live.filter(|node| node.is_live());
            let isr: Vec<Member> =
                live.map(|node| Member { node: node.id, incarnation: node.incarnation }).collect();
            (isr.len() != record.isr.len() && lucky(vshard)).then_some(Command::AlterIsr {
                vshard: VshardId(vshard),
                epoch: record.epoch,
                version: record.version,
                primary_incarnation: primary.incarnation,
                isr,
            })
        };
        let commands = self.state.vshards().iter().zip(0..).filter_map(alter).collect();
        let outcomes = self.apply(commands);
        assert!(outcomes.iter().all(|done| matches!(done, Outcome::IsrAltered { .. })));
        outcomes.len()
    }

    /// Plans until nothing is left to do. How many moves there were in all.
    fn settle(&mut self) -> usize {
        let mut moves = 0;
        for _round in 0..200 {
            let moved = self.step();
            moves += moved;
            if moved + self.catch_up(|_| true) == 0 {
                return moves;
            }
        }
        panic!("the plan does not come to an end: {:?}", self.step());
    }

    fn owners(&self) -> Vec<Option<NodeId>> {
        self.state.vshards().iter().map(|record| record.primary).collect()
    }

    fn owned(&self, id: u16) -> u32 {
        self.state.primaries_of(NodeId(id))
    }

    /// What must hold when there is nothing left to do.
    fn check(&self) {
        self.state.audit().unwrap();
        let seats = self.seats();
        let open: Vec<&Seat> = seats.iter().filter(|seat| seat.place == Place::Open).collect();
        let away = seats.iter().any(|seat| seat.place == Place::Away);
        for one in &open {
            for other in &open {
                let (load, least) = (u64::from(self.owned(one.id.0)), self.owned(other.id.0));
                let after = (u64::from(least) + 1) * u64::from(one.weight);
                // What waits for a node that is away is not evened out.
                assert!(away || load * u64::from(other.weight) <= after, "{one:?} {other:?}");
            }
        }
        for (place, record) in self.state.vshards().iter().enumerate() {
            self.check_copies(&open, record, place, away);
        }
    }

    fn check_copies(&self, open: &[&Seat], record: &Vshard, place: usize, away: bool) {
        let node = |id| self.state.node(id).unwrap();
        let primary = node(record.primary.unwrap());
        if away {
            return;
        }
        assert_eq!(record.copies.first(), Some(primary.id), "{place}");
        assert_eq!(record.isr.len(), record.copies.len(), "{place}");
        let others: Vec<_> = record.copies.iter().skip(1).map(node).collect();
        let home = |seat: &&&Seat| seat.region == primary.region && seat.id != primary.id;
        let backups: Vec<_> = others.iter().filter(|node| node.region == primary.region).collect();
        assert_eq!(backups.len(), usize::from(open.iter().any(|seat| home(&seat))), "{place}");
        let elsewhere = |seat: &&&Seat| seat.region == primary.region && seat.zone != primary.zone;
        if open.iter().any(|seat| elsewhere(&seat)) {
            assert!(backups.iter().all(|node| node.zone != primary.zone), "{place}");
        }
        let remotes = others.iter().filter(|node| node.region != primary.region).count();
        let abroad = open.iter().any(|seat| seat.region != primary.region);
        assert_eq!(remotes, usize::from(abroad), "{place}");
    }
}

#[test]
fn the_first_plan_gives_everything_out_evenly() {
    let mut cluster = Cluster::of(&[("eu", "a", 1), ("eu", "b", 1), ("eu", "c", 1)]);
    assert_eq!(cluster.step(), 4_096);
    cluster.settle();
    cluster.check();
    let mut owned = [1, 2, 3].map(|id| cluster.owned(id));
    owned.sort_unstable();
    assert_eq!(owned, [1_365, 1_365, 1_366]);
    assert_eq!(cluster.settle(), 0, "what is settled stays");
}

#[test]
fn a_joining_node_takes_its_share_and_nothing_else_changes_hands() {
    let mut cluster = Cluster::of(&[("eu", "a", 1), ("eu", "b", 1), ("eu", "c", 1)]);
    cluster.settle();
    let before = cluster.owners();
    cluster.join(4, 1, ("eu", "d", 1));
    cluster.settle();
    cluster.check();
    let after = cluster.owners();
    let changed = || before.iter().zip(&after).filter(|(before, after)| before != after);
    assert_eq!(changed().count(), 1_024);
    assert!(changed().all(|(_, after)| *after == Some(NodeId(4))));
}

#[test]
fn shares_follow_weights() {
    let mut cluster = Cluster::of(&[("eu", "a", 1), ("eu", "b", 2), ("eu", "c", 5)]);
    cluster.settle();
    cluster.check();
    assert_eq!([1, 2, 3].map(|id| cluster.owned(id)), [512, 1_024, 2_560]);
}

#[test]
fn a_draining_node_gives_everything_away_and_mostly_to_its_backups() {
    let mut cluster = Cluster::of(&[("eu", "a", 1), ("eu", "b", 1), ("eu", "c", 1)]);
    cluster.settle();
    let before: Vec<Vshard> = cluster.state.vshards().to_vec();
    cluster.drain(2);
    cluster.settle();
    cluster.check();
    assert_eq!(cluster.owned(2), 0);
    let held = cluster.state.vshards().iter().filter(|record| record.copies.contains(NodeId(2)));
    assert_eq!(held.count(), 0);
    let moved = before.iter().zip(cluster.state.vshards());
    let changed = moved.filter(|(before, after)| before.primary != after.primary);
    let (near, far): (Vec<_>, Vec<_>) =
        changed.partition(|(before, after)| before.isr.contains(after.primary.unwrap()));
    assert!(near.len() > far.len() * 10, "{} {}", near.len(), far.len());
}

#[test]
fn a_restart_moves_nothing_and_the_node_gets_its_own_back() {
    let mut cluster = Cluster::of(&[("eu", "a", 1), ("eu", "b", 1), ("eu", "c", 1)]);
    cluster.settle();
    let before = cluster.owners();
    cluster.fence(1);
    cluster.now_ms += AWAY_MS / 2;
    assert_eq!(cluster.settle(), 0, "it may be back soon");
    assert_eq!(cluster.owned(1), 0, "but others answer in the meantime");
    cluster.restart(1);
    cluster.settle();
    cluster.check();
    assert_eq!(cluster.owners(), before);
}

#[test]
fn a_node_that_stays_away_is_replaced() {
    let mut cluster = Cluster::of(&[("eu", "a", 1), ("eu", "b", 1), ("eu", "c", 1)]);
    cluster.settle();
    cluster.fence(1);
    cluster.now_ms += AWAY_MS;
    cluster.apply(Vec::new());
    cluster.settle();
    cluster.check();
    assert_eq!((cluster.owned(1), cluster.owned(2), cluster.owned(3)), (0, 2_048, 2_048));
}

#[test]
fn a_second_region_gets_one_copy_of_everything() {
    let mut cluster = Cluster::of(&[("eu", "a", 1), ("eu", "b", 1), ("us", "a", 1)]);
    cluster.settle();
    cluster.check();
    assert!(cluster.state.vshards().iter().all(|record| record.copies.len() >= 2));
}

#[test]
fn what_is_on_its_way_is_bounded_and_goes_on() {
    let mut cluster = Cluster::of(&[("eu", "a", 1), ("eu", "b", 1), ("eu", "c", 1)]);
    cluster.settle();
    cluster.limits = RebalanceLimits { moving_max: 100 };
    cluster.join(4, 1, ("eu", "d", 1));
    let mut rounds = 0_u16;
    while cluster.step() > 0 || rounds == 0 || !rounds.is_multiple_of(3) {
        let seats = cluster.seats();
        let table = cluster.state.vshards();
        let moving = table.iter().filter(|record| is_moving(&Seats::of(&seats), record)).count();
        assert!(moving <= 100, "{moving}");
        // Only every third of them catches up in a round.
        cluster.catch_up(|vshard| (vshard + rounds).is_multiple_of(3));
        rounds += 1;
        assert!(rounds < 1_000);
    }
    cluster.check();
    assert_eq!(cluster.owned(4), 1_024);
}

#[test]
fn a_shard_never_has_fewer_members_for_being_moved() {
    let mut cluster = Cluster::of(&[("eu", "a", 1), ("eu", "b", 1)]);
    cluster.settle();
    for (id, zone) in [(3, "c"), (4, "d"), (5, "e")] {
        cluster.join(id, 1, ("eu", zone, 1));
    }
    cluster.drain(1);
    cluster.drain(2);
    for round in 0..100 {
        let moved = cluster.step();
        let members = cluster.state.vshards().iter().map(|record| record.isr.len());
        assert!(members.min().unwrap() >= 2, "round {round}");
        cluster.catch_up(|_| true);
        if moved == 0 {
            break;
        }
    }
    cluster.check();
    assert_eq!(cluster.owned(1) + cluster.owned(2), 0);
}

#[test]
fn without_an_open_node_there_is_nothing_to_plan() {
    let mut cluster = Cluster::of(&[("eu", "a", 0)]);
    assert_eq!(cluster.step(), 0);
    cluster.drain(1);
    assert_eq!(cluster.step(), 0);
}

#[derive(Clone, Debug)]
enum Event {
    Join(u16),
    Drain(u16),
    Fence(u16),
    Remove(u16),
    Wait,
    Settle,
}

fn event() -> impl Strategy<Value = Event> {
    let id = 1..8_u16;
    prop_oneof![
        4 => id.clone().prop_map(Event::Join),
        1 => id.clone().prop_map(Event::Drain),
        2 => id.clone().prop_map(Event::Fence),
        1 => (6..8_u16).prop_map(Event::Remove),
        1 => Just(Event::Wait),
        2 => Just(Event::Settle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However nodes come and go, the plan comes to an end, and then all is where it should be.
    #[test]
    fn any_history_of_nodes_settles(
        places in prop::collection::vec((0..2_u8, 0..3_u8, 1..4_u32), 8),
        events in prop::collection::vec(event(), 1..12),
    ) {
        let mut cluster = Cluster::of(&[]);
        let mut lives: BTreeMap<u16, u64> = BTreeMap::new();
        for event in events.into_iter().chain([Event::Join(1), Event::Wait]) {
            match event {
                Event::Join(id) => {
                    let (region, zone, weight) = places[usize::from(id)];
                    let life = lives.entry(id).and_modify(|life| *life += 1).or_insert(1);
                    let (region, zone) = (format!("r{region}"), format!("z{zone}"));
                    cluster.join(id, *life, (&region, &zone, weight));
                }
                Event::Drain(id) => cluster.drain(id),
                Event::Fence(id) => cluster.fence(id),
                Event::Remove(id) => _ = cluster.apply(vec![Command::RemoveNode { id: NodeId(id) }]),
                Event::Wait => {
                    cluster.now_ms += AWAY_MS;
                    cluster.apply(Vec::new());
                }
                Event::Settle => _ = cluster.step(),
            }
            cluster.catch_up(|vshard| vshard.is_multiple_of(2));
        }
        cluster.settle();
        if cluster.seats().iter().any(|seat| seat.place == Place::Open) {
            cluster.check();
        }
        prop_assert_eq!(cluster.settle(), 0);
    }
}
