use super::fixture::*;
use crate::coordinator::*;
use crate::identity::{Epoch, Incarnation, NodeId, VshardId};

fn copies(ids: &[u16]) -> Copies {
    let ids: Vec<_> = ids.iter().map(|id| NodeId(*id)).collect();
    Copies::of(&ids).unwrap()
}

/// Moves a virtual shard as it stands now.
fn moved(log: &Log, vshard: u16, to: u16, held_by: &[u16]) -> Command {
    let vshard = VshardId(vshard);
    let record = log.state.vshard(vshard).unwrap();
    let (epoch, version) = (record.epoch, record.version);
    let wanted = Move { vshard, epoch, version, to: NodeId(to), copies: copies(held_by) };
    Command::MoveVshards { moves: vec![wanted] }
}

/// Asks for an ISR of nodes in their first life, as the present primary would.
fn isr(log: &Log, vshard: u16, members: &[u16]) -> Command {
    let record = log.state.vshard(VshardId(vshard)).unwrap();
    Command::AlterIsr {
        vshard: VshardId(vshard),
        epoch: record.epoch,
        version: record.version,
        primary_incarnation: Incarnation(1),
        isr: members
            .iter()
            .map(|id| Member { node: NodeId(*id), incarnation: Incarnation(1) })
            .collect(),
    }
}

/// Three nodes; virtual shard 0 is node 1's, and all three hold it.
fn owned() -> Log {
    let mut log = Log::of_nodes(3);
    let first = moved(&log, 0, 1, &[1, 2, 3]);
    assert_eq!(log.done(first), Outcome::VshardsMoved { in_force: 1 });
    let all = isr(&log, 0, &[1, 2, 3]);
    log.done(all);
    log
}

fn record(log: &Log, vshard: u16) -> (u64, Option<u16>, Vec<u16>) {
    let record = log.state.vshard(VshardId(vshard)).unwrap();
    let isr = record.isr.iter().map(|node| node.0).collect();
    (record.epoch.0, record.primary.map(|node| node.0), isr)
}

#[test]
fn a_first_primary_is_alone_until_others_have_caught_up() {
    let mut log = Log::of_nodes(2);
    let first = moved(&log, 7, 1, &[1, 2]);
    log.done(first.clone());
    let moved = Change::VshardMoved { vshard: VshardId(7), primary: Some(NodeId(1)) };
    assert_eq!(log.changes, [moved]);
    assert_eq!(record(&log, 7), (1, Some(1), vec![1]));
    // A copy of the move is in force already; it changes nothing.
    assert_eq!(log.done(first), Outcome::VshardsMoved { in_force: 1 });
    assert_eq!(log.changes, []);
    let both = isr(&log, 7, &[1, 2]);
    let altered = log.done(both.clone());
    assert_eq!(record(&log, 7), (1, Some(1), vec![1, 2]));
    assert_eq!((log.done(both), log.changes.len()), (altered, 0));
}

#[test]
fn only_a_member_of_the_isr_follows_a_primary_that_is_there() {
    let mut log = Log::of_nodes(3);
    let first = moved(&log, 0, 1, &[1, 2]);
    log.done(first);
    let to_an_empty_one = moved(&log, 0, 2, &[1, 2]);
    assert_eq!(log.done(to_an_empty_one), Outcome::VshardsMoved { in_force: 0 });
    let both = isr(&log, 0, &[1, 2]);
    log.done(both);
    let onward = moved(&log, 0, 2, &[2, 3]);
    log.done(onward);
    // Node 1 holds no copy any more, so it is no member either.
    assert_eq!(record(&log, 0), (2, Some(2), vec![2]));
}

#[test]
fn an_isr_is_altered_only_by_the_primary_that_is_and_knows_the_record() {
    let mut log = owned();
    let stale = isr(&log, 0, &[1, 2, 3]);
    let without = isr(&log, 0, &[1, 3]);
    log.done(without);
    // A late copy must not take node 2 back in: it may have missed something since.
    let two = isr(&log, 0, &[1]);
    log.done(two);
    assert!(matches!(log.refused(stale), Refusal::VshardChanged { .. }));
    let itself_left_out = isr(&log, 0, &[2]);
    let refusal = log.refused(itself_left_out);
    assert_eq!(refusal, Refusal::IsrWithoutPrimary { vshard: VshardId(0) });
    let mut of_another_life = isr(&log, 0, &[1, 2]);
    if let Command::AlterIsr { primary_incarnation, .. } = &mut of_another_life {
        *primary_incarnation = Incarnation(9);
    }
    assert!(matches!(log.refused(of_another_life), Refusal::VshardChanged { .. }));
}

#[test]
fn a_restarted_node_is_no_member_until_it_has_caught_up() {
    let mut log = owned();
    log.done(register_node(2, 2));
    assert_eq!(record(&log, 0), (1, Some(1), vec![1, 3]));
    let in_its_old_life = isr(&log, 0, &[1, 2, 3]);
    assert!(matches!(log.refused(in_its_old_life), Refusal::NotAMember { .. }));
    // It is still to hold a copy, so it may catch up.
    assert!(log.state.vshard(VshardId(0)).unwrap().copies.contains(NodeId(2)));
}

#[test]
fn a_fenced_primary_is_followed_by_a_live_member_under_a_new_epoch() {
    let mut log = owned();
    log.done(fence(2, 1));
    assert_eq!(record(&log, 0), (1, Some(1), vec![1, 3]));
    log.done(fence(1, 1));
    assert_eq!(record(&log, 0), (2, Some(3), vec![3]));
    assert!(
        log.changes
            .contains(&Change::VshardMoved { vshard: VshardId(0), primary: Some(NodeId(3)) })
    );
}

#[test]
fn promotions_are_spread_and_prefer_another_zone() {
    let mut log = Log::of_nodes(0);
    for (id, zone) in [(1, "a"), (2, "a"), (3, "b"), (4, "c")] {
        let mut node = registration_of_node(id, 1);
        node.zone = zone.into();
        log.done(Command::RegisterNode(Box::new(node)));
    }
    for vshard in 0..10 {
        let first = moved(&log, vshard, 1, &[1, 2, 3, 4]);
        log.done(first);
        let all = isr(&log, vshard, &[1, 2, 3, 4]);
        log.done(all);
    }
    log.done(fence(1, 1));
    let owned = [2, 3, 4].map(|id| log.state.primaries_of(NodeId(id)));
    assert_eq!(owned, [0, 5, 5], "node 2 shares the lost node's zone");
}

#[test]
fn a_shard_without_a_live_member_is_lost_counted_and_given_anew() {
    let mut log = Log::of_nodes(2);
    let alone = moved(&log, 0, 1, &[1]);
    log.done(alone);
    log.done(fence(1, 1));
    assert_eq!(record(&log, 0), (2, None, vec![]));
    assert_eq!(log.state.counts().vshards_lost_total, 1);
    let anew = moved(&log, 0, 2, &[2]);
    log.done(anew);
    assert_eq!(record(&log, 0), (3, Some(2), vec![2]));
}

#[test]
fn a_removed_node_holds_no_copy() {
    let mut log = owned();
    log.done(Command::RemoveNode { id: NodeId(1) });
    let record = log.state.vshard(VshardId(0)).unwrap();
    assert_eq!((record.primary, record.copies), (Some(NodeId(2)), copies(&[2, 3])));
    assert_eq!(record.epoch, Epoch(2));
}

#[test]
fn a_restarted_cluster_of_one_owns_nothing_until_it_is_given_anew() {
    let mut log = Log::of_nodes(1);
    let alone = moved(&log, 0, 1, &[1]);
    log.done(alone);
    log.done(register_node(1, 2));
    assert_eq!(record(&log, 0), (2, None, vec![]));
}

#[test]
fn copies_are_few_and_each_is_named_once() {
    let ids: Vec<_> = (1..=5).map(NodeId).collect();
    assert_eq!(Copies::of(&ids), Err(NotCopies));
    assert_eq!(Copies::of(&[NodeId(1), NodeId(1)]), Err(NotCopies));
    let bytes = postcard::to_allocvec(&vec![NodeId(1), NodeId(1)]).unwrap();
    assert!(postcard::from_bytes::<Copies>(&bytes).is_err());
}
