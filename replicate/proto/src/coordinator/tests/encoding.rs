//! The encoding of the log: what was written by an older program must mean the same for ever.

use super::fixture::*;
use crate::coordinator::*;
use crate::identity::{Epoch, Incarnation, NodeId, Registration, TaskId, VshardId};

/// One command of each kind, in the order of their numbers.
fn one_of_each() -> Vec<Command> {
    let id = TaskId(1);
    vec![
        register_node(1, 1),
        fence(1, 1),
        Command::DrainNode { id: NodeId(1), incarnation: Incarnation(1) },
        Command::RemoveNode { id: NodeId(1) },
        Command::SetFeatureLevel { level: 1 },
        Command::AlterIsr {
            vshard: VshardId(1),
            epoch: Epoch(1),
            version: 1,
            primary_incarnation: Incarnation(1),
            isr: vec![Member { node: NodeId(1), incarnation: Incarnation(1) }],
        },
        Command::MoveVshards {
            moves: vec![Move {
                vshard: VshardId(1),
                epoch: Epoch(1),
                version: 1,
                to: NodeId(1),
                copies: Copies::of(&[NodeId(1), NodeId(2)]).unwrap(),
            }],
        },
        register_worker("w", 1),
        Command::UpdateWorker(Box::new(WorkerUpdate {
            name: "w".into(),
            registration: Registration(1),
            update: 1,
            capacity: Some(1),
            labels: Some(Labels::from([("a", "b")])),
            accepting: Some(true),
        })),
        deregister("w", 1, Departure::LeaseEnded),
        submit(1),
        start(1, 1),
        Command::UpdateTask { id, attempt: 1, report: 1, status_message: Some("half".into()) },
        Command::AskInput {
            id,
            attempt: 1,
            report: 1,
            requests: vec![Input { key: "k".into(), body: b"{}".as_slice().into() }],
            resume: Some(b"state".as_slice().into()),
        },
        Command::AnswerInput { id, responses: Vec::new() },
        complete(1, 1),
        Command::FailTask { id, attempt: 1, code: -32_603, message: "no".into() },
        Command::CancelTask { id, reason: Some("enough".into()) },
        Command::DropTasks { ids: vec![id] },
    ]
}

#[test]
fn every_command_keeps_its_number_and_is_read_back() {
    for (number, command) in one_of_each().into_iter().enumerate() {
        let bytes = postcard::to_allocvec(&command).unwrap();
        assert_eq!(usize::from(bytes[0]), number, "{command:?}");
        assert_eq!(postcard::from_bytes::<Command>(&bytes).unwrap(), command);
        assert_eq!(number, place(&command), "a new command goes to the end of the list here too");
    }
}

/// Fails to compile when a command is added, which reminds of the list above.
fn place(command: &Command) -> usize {
    match command {
        Command::RegisterNode(_) => 0,
        Command::FenceNode { .. } => 1,
        Command::DrainNode { .. } => 2,
        Command::RemoveNode { .. } => 3,
        Command::SetFeatureLevel { .. } => 4,
        Command::AlterIsr { .. } => 5,
        Command::MoveVshards { .. } => 6,
        Command::RegisterWorker(_) => 7,
        Command::UpdateWorker(_) => 8,
        Command::DeregisterWorker { .. } => 9,
        Command::SubmitTask(_) => 10,
        Command::StartTask { .. } => 11,
        Command::UpdateTask { .. } => 12,
        Command::AskInput { .. } => 13,
        Command::AnswerInput { .. } => 14,
        Command::CompleteTask { .. } => 15,
        Command::FailTask { .. } => 16,
        Command::CancelTask { .. } => 17,
        Command::DropTasks { .. } => 18,
    }
}

#[test]
fn the_bytes_of_a_batch_are_what_they_always_were() {
    let batch = Batch { now_ms: 300, commands: one_of_each() };
    let bytes = postcard::to_allocvec(&batch).unwrap();
    assert_eq!(
        (bytes.len(), crc32c::crc32c(&bytes)),
        (282, 2_638_815_459),
        "the log's encoding changed"
    );
}
