use super::fixture::*;
use crate::coordinator::*;
use crate::identity::{Incarnation, NodeId};

#[test]
fn a_registration_is_taken_once_and_its_copy_changes_nothing() {
    let mut log = Log::of_nodes(1);
    let before = log.state.clone().nodes;
    let outcome = log.done(register_node(1, 1));
    assert_eq!(outcome, Outcome::NodeRegistered { id: NodeId(1), incarnation: Incarnation(1) });
    assert_eq!((log.state.nodes.clone(), log.changes.len()), (before, 0));
}

#[test]
fn two_nodes_with_one_name_and_two_with_one_number_are_refused() {
    let mut log = Log::of_nodes(2);
    let mut twin = registration_of_node(3, 1);
    twin.name = "node-2".into();
    let refusal = log.refused(Command::RegisterNode(Box::new(twin)));
    assert_eq!(refusal, Refusal::NodeNameTaken { name: "node-2".into(), holder: NodeId(2) });
    let mut usurper = registration_of_node(2, 5);
    usurper.name = "node-9".into();
    let refusal = log.refused(Command::RegisterNode(Box::new(usurper)));
    assert_eq!(refusal, Refusal::NodeNumberTaken { id: NodeId(2), holder: "node-2".into() });
}

#[test]
fn a_life_that_is_over_is_refused_and_a_later_one_let_in() {
    let mut log = Log::of_nodes(2);
    log.done(fence(2, 1));
    let fenced = Refusal::IncarnationFenced { id: NodeId(2), incarnation: Incarnation(1) };
    assert_eq!(log.refused(register_node(2, 1)), fenced);
    log.done(register_node(2, 2));
    assert!(log.state.node(NodeId(2)).unwrap().is_live());
    // A fence that was meant for the life before comes late.
    assert_eq!(log.done(fence(2, 1)), Outcome::NodeFenced { id: NodeId(2) });
    assert_eq!(log.changes, []);
    assert!(log.state.node(NodeId(2)).unwrap().is_live());
    assert!(matches!(log.refused(register_node(2, 1)), Refusal::IncarnationOld { .. }));
    assert!(matches!(log.refused(fence(2, 3)), Refusal::IncarnationUnknown { .. }));
}

#[test]
fn a_removed_node_does_not_come_back_under_its_number_or_its_name() {
    let mut log = Log::of_nodes(3);
    log.done(Command::RemoveNode { id: NodeId(3) });
    log.done(Command::RemoveNode { id: NodeId(3) });
    let removed = Refusal::NodeRemoved { id: NodeId(3) };
    assert_eq!(log.refused(register_node(3, 2)), removed);
    let mut renumbered = registration_of_node(4, 1);
    renumbered.name = "node-3".into();
    let refusal = log.refused(Command::RegisterNode(Box::new(renumbered)));
    assert_eq!(refusal, Refusal::NodeNameRetired { name: "node-3".into() });
    assert!(refusal.to_string().contains("choose another name"));
}

#[test]
fn the_last_live_node_is_not_fenced() {
    let mut log = Log::of_nodes(2);
    log.done(fence(1, 1));
    assert_eq!(log.refused(fence(2, 1)), Refusal::LastNode { id: NodeId(2) });
    let removal = Command::RemoveNode { id: NodeId(2) };
    assert_eq!(log.refused(removal), Refusal::LastNode { id: NodeId(2) });
}

#[test]
fn a_node_that_drains_gets_no_new_task_until_it_restarts() {
    let mut log = Log::of_nodes(2);
    log.done(Command::DrainNode { id: NodeId(1), incarnation: Incarnation(1) });
    log.done(submit_static(1, false));
    assert_eq!(log.place(1), (Phase::Assigned, 1, 2, None));
    log.done(register_node(1, 2));
    log.done(submit_static(2, false));
    assert_eq!(log.place(2), (Phase::Assigned, 1, 1, None));
    let late = Command::DrainNode { id: NodeId(1), incarnation: Incarnation(1) };
    assert!(matches!(log.refused(late), Refusal::IncarnationOld { .. }));
}

#[test]
fn a_feature_level_needs_every_node_and_binds_those_that_join() {
    let mut log = Log::of_nodes(2);
    let level = |level| Command::SetFeatureLevel { level };
    assert!(matches!(log.refused(level(2)), Refusal::FeatureLevelTooLow { needed: 2, .. }));
    assert_eq!(log.done(level(1)), Outcome::FeatureLevel { level: 1 });
    assert_eq!(log.done(level(0)), Outcome::FeatureLevel { level: 1 });
    let mut old = registration_of_node(3, 1);
    old.feature_level = 0;
    let refusal = log.refused(Command::RegisterNode(Box::new(old)));
    assert_eq!(refusal, Refusal::FeatureLevelTooLow { id: NodeId(3), knows: 0, needed: 1 });
}
