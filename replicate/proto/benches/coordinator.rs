//! What the coordinator costs the control thread: applying, reading, hashing, freezing.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use shardgate_replicate_proto::coordinator::{
    Addresses, Batch, Command, Labels, NodeRegistration, Payload, State, TaskFilter, TaskStatus,
    TaskSubmission, WorkerRegistration,
};
use shardgate_replicate_proto::identity::{Incarnation, NodeId, Registration, TaskId};

const COMMANDS: u128 = 64;
const HELD: u128 = 100_000;

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

fn worker(number: usize) -> Command {
    Command::RegisterWorker(Box::new(WorkerRegistration {
        name: format!("worker-{number}").into(),
        registration: Registration(1),
        service: "search".into(),
        url: "http://127.0.0.1:9000/mcp".into(),
        labels: Labels::default(),
        capacity: 100_000,
        lease_ms: 10_000,
        via: NodeId(1),
    }))
}

fn id(number: u128) -> TaskId {
    TaskId(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

fn submission(number: u128) -> Command {
    Command::SubmitTask(Box::new(TaskSubmission {
        id: id(number),
        owner: format!("session-{}", number % 500).into_bytes().into(),
        tool: "search__find".into(),
        service: "search".into(),
        params: br#"{"name":"find","arguments":{"text":"virtual shard"}}"#.as_slice().into(),
        labels: Labels::default(),
        needs_worker: true,
        idempotent: false,
        ttl_ms: Some(3_600_000),
        poll_interval_ms: Some(1_000),
        executor: NodeId(1),
    }))
}

fn update(number: u128) -> Command {
    let status_message = Some("half of it".into());
    Command::UpdateTask { id: id(number), attempt: 1, report: 1, status_message }
}

fn completion(number: u128) -> Command {
    let payload = Payload::Inline(br#"{"content":[]}"#.as_slice().into());
    Command::CompleteTask { id: id(number), attempt: 1, payload, failed: false }
}

fn batch(commands: impl Iterator<Item = Command>) -> Batch {
    Batch { now_ms: 1_700_000_000_000, commands: commands.collect() }
}

/// A state with workers and many tasks, every other one ended.
fn held() -> State {
    let mut state = State::new("lab".parse().expect("a name"));
    let mut apply = |commands: Batch| {
        state.apply(state.applied() + 1, &commands, &mut Vec::new());
    };
    apply(batch([node()].into_iter().chain((0..16).map(worker))));
    apply(batch((0..HELD).map(submission)));
    apply(batch((0..HELD).step_by(2).map(completion)));
    state
}

fn apply(c: &mut Criterion) {
    let mut state = held();
    let mut next = HELD;
    let mut group = c.benchmark_group("apply_64");
    let mut changes = Vec::new();
    // Each run takes tasks of its own: a repeated command would find nothing to do.
    group.bench_function("submit", |b| {
        b.iter_batched(
            || {
                next += COMMANDS;
                batch((next - COMMANDS..next).map(submission))
            },
            |batch| {
                changes.clear();
                black_box(state.apply(state.applied() + 1, &batch, &mut changes));
            },
            BatchSize::SmallInput,
        );
    });
    for name in ["submit_and_update", "submit_and_complete"] {
        let command = if name == "submit_and_update" { update } else { completion };
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    next += COMMANDS;
                    let own = batch((next - COMMANDS..next).map(submission));
                    (own, batch((next - COMMANDS..next).map(command)))
                },
                |(own, batch)| {
                    changes.clear();
                    state.apply(state.applied() + 1, &own, &mut changes);
                    black_box(state.apply(state.applied() + 1, &batch, &mut changes));
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn read(c: &mut Criterion) {
    let state = held();
    let mut group = c.benchmark_group("read_100k");
    group.bench_function("task", |b| b.iter(|| black_box(state.task(id(77_777)))));
    let completed = TaskFilter { status: Some(TaskStatus::Completed), ..TaskFilter::default() };
    group.bench_function("page_of_completed", |b| {
        b.iter(|| black_box(state.tasks(&completed, None, 100)));
    });
    let rare = TaskFilter { owner: Some(b"session-7".as_slice().into()), ..completed };
    group.bench_function("page_of_owner_completed", |b| {
        b.iter(|| black_box(state.tasks(&rare, None, 100)));
    });
    group.bench_function("digest", |b| b.iter(|| black_box(state.digest())));
    group.bench_function("freeze", |b| b.iter(|| black_box(state.freeze())));
    group.sample_size(10);
    group.bench_function("snapshot", |b| b.iter(|| black_box(state.to_snapshot())));
    let bytes = state.to_snapshot();
    group.bench_function("from_snapshot", |b| b.iter(|| black_box(State::from_snapshot(&bytes))));
    group.finish();
}

criterion_group!(benches, apply, read);
criterion_main!(benches);
