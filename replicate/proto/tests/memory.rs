//! What a hundred thousand tasks take of a node's memory, as the allocator counts it.
#![forbid(unsafe_code)]

use std::alloc::System;

use shardgate_replicate_proto::coordinator::{
    Addresses, Batch, Command, Labels, NodeRegistration, Payload, State, TaskSubmission,
};
use shardgate_replicate_proto::identity::{Incarnation, NodeId, TaskId};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const TASKS: u128 = 100_000;
/// A node may use 200 MB with so many tasks; the state leaves the log and the links their part.
const STATE_BYTES_MAX: usize = 170 * 1_000_000;

fn node() -> Command {
    Command::RegisterNode(Box::new(NodeRegistration {
        id: NodeId(1),
        name: "node-1".into(),
        incarnation: Incarnation(1),
        addresses: Addresses::default(),
        zone: "a".into(),
        region: "here".into(),
        weight: 1,
        feature_level: 1,
    }))
}

/// Ids as random as real ones, so that the index by id is as full as it would be.
fn id(number: u128) -> TaskId {
    TaskId(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

fn submission(number: u128) -> Command {
    Command::SubmitTask(Box::new(TaskSubmission {
        id: id(number),
        owner: format!("session-{}", number % 500).into_bytes().into(),
        tool: format!("search__find_{}", number % 20).into(),
        service: "search".into(),
        params: vec![b'p'; 1_024].into(),
        labels: Labels::default(),
        needs_worker: false,
        idempotent: false,
        ttl_ms: Some(3_600_000),
        poll_interval_ms: Some(1_000),
        executor: NodeId(1),
    }))
}

fn completion(number: u128) -> Command {
    let payload = Payload::Inline(vec![b'r'; 1_024].into());
    Command::CompleteTask { id: id(number), attempt: 1, payload, failed: false }
}

fn held(region: &Region<'_, System>) -> usize {
    let change = region.change();
    change.bytes_allocated - change.bytes_deallocated
}

#[test]
fn a_hundred_thousand_tasks_take_less_than_their_share() {
    let region = Region::new(ALLOCATOR);
    let mut state = State::new("lab".parse().unwrap());
    let mut changes = Vec::new();
    let mut apply = |command| {
        let batch = Batch { now_ms: 1_700_000_000_000, commands: vec![command] };
        state.apply(state.applied() + 1, &batch, &mut changes);
        changes.clear();
    };
    apply(node());
    (0..TASKS).for_each(|number| apply(submission(number)));
    let working = held(&region);
    (0..TASKS).for_each(|number| apply(completion(number)));
    let completed = held(&region);
    println!("{TASKS} tasks: {working} bytes while they run, {completed} bytes with results");
    assert!(working < STATE_BYTES_MAX, "{working}");
    assert!(completed < STATE_BYTES_MAX, "{completed}");
    // What is frozen for a snapshot is shared: only the list of tasks is new.
    let frozen = state.freeze();
    let more = held(&region) - completed;
    assert!(more < 5_000_000, "{more}");
    drop(frozen);
    assert_eq!(state.counts().tasks as u128, TASKS);
}
