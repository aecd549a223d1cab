//! What holds after any commands whatever.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::fixture::*;
use crate::coordinator::*;
use crate::identity::{Incarnation, NodeId, Registration, TaskId, VshardId};

/// A command to be made, in the light of the state that it meets.
#[derive(Clone, Debug)]
enum Step {
    Node(NodeStep),
    Worker(WorkerStep),
    Task(u8, TaskStep),
    Wait(u64),
}

#[derive(Clone, Debug)]
enum NodeStep {
    Register { id: u16, later: u64 },
    Fence { id: u16, older: u64 },
    Drain { id: u16 },
    Remove { id: u16 },
    Isr { vshard: u16, who: u8 },
    Move { vshard: u16, to: u16, who: u8 },
}

#[derive(Clone, Debug)]
enum WorkerStep {
    Register { name: usize, later: u64, capacity: u32, gpu: bool },
    Update { name: usize, update: u32, capacity: u32, accepting: Option<bool> },
    Deregister { name: usize, later: u64 },
}

#[derive(Clone, Debug)]
enum TaskStep {
    Submit { worker: bool, gpu: bool, again: bool, ttl_ms: u64 },
    Start { older: u32 },
    Report(u32),
    Ask { more: u8, resume: bool },
    Answer(usize),
    Complete { failed: bool },
    Fail,
    Cancel,
    DropDue,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => node_step().prop_map(Step::Node),
        2 => worker_step().prop_map(Step::Worker),
        7 => (0..12_u8, task_step()).prop_map(|(id, step)| Step::Task(id, step)),
        1 => (0..10_000_u64).prop_map(Step::Wait),
    ]
}

fn node_step() -> impl Strategy<Value = NodeStep> {
    let id = 1..5_u16;
    prop_oneof![
        3 => (id.clone(), 0..3_u64).prop_map(|(id, later)| NodeStep::Register { id, later }),
        2 => (id.clone(), 0..2_u64).prop_map(|(id, older)| NodeStep::Fence { id, older }),
        1 => id.clone().prop_map(|id| NodeStep::Drain { id }),
        1 => Just(NodeStep::Remove { id: 4 }),
        4 => (0..4_u16, any::<u8>()).prop_map(|(vshard, who)| NodeStep::Isr { vshard, who }),
        4 => (0..4_u16, id, any::<u8>())
            .prop_map(|(vshard, to, who)| NodeStep::Move { vshard, to, who }),
    ]
}

fn worker_step() -> impl Strategy<Value = WorkerStep> {
    let name = 0..WORKERS.len();
    prop_oneof![
        2 => (name.clone(), 0..3_u64, 1..4_u32, any::<bool>()).prop_map(
            |(name, later, capacity, gpu)| WorkerStep::Register { name, later, capacity, gpu }
        ),
        1 => (name.clone(), 0..4_u32, 1..4_u32, any::<Option<bool>>()).prop_map(
            |(name, update, capacity, accepting)| {
                WorkerStep::Update { name, update, capacity, accepting }
            }
        ),
        1 => (name, 0..2_u64).prop_map(|(name, later)| WorkerStep::Deregister { name, later }),
    ]
}

fn task_step() -> impl Strategy<Value = TaskStep> {
    prop_oneof![
        6 => (any::<bool>(), any::<bool>(), any::<bool>(), 0..30_000_u64).prop_map(
            |(worker, gpu, again, ttl_ms)| TaskStep::Submit { worker, gpu, again, ttl_ms }
        ),
        4 => prop_oneof![4 => Just(0_u32), 1 => Just(1)].prop_map(|older| TaskStep::Start { older }),
        2 => (0..4_u32).prop_map(TaskStep::Report),
        2 => (0..3_u8, any::<bool>()).prop_map(|(more, resume)| TaskStep::Ask { more, resume }),
        2 => (0..3_usize).prop_map(TaskStep::Answer),
        2 => any::<bool>().prop_map(|failed| TaskStep::Complete { failed }),
        1 => Just(TaskStep::Fail),
        1 => Just(TaskStep::Cancel),
        1 => Just(TaskStep::DropDue),
    ]
}

const WORKERS: [&str; 4] = ["a", "b", "c", "d"];

/// The next number above what the state knows, so many lives on.
fn incarnation(state: &State, id: u16, later: u64) -> u64 {
    state.node(NodeId(id)).map_or(1, |node| node.incarnation.0) + later
}

fn members(state: &State, who: u8) -> Vec<Member> {
    let chosen = state.nodes().filter(|node| who & (1 << node.id.0) != 0);
    chosen.map(|node| Member { node: node.id, incarnation: node.incarnation }).collect()
}

fn nodes_command(state: &State, step: &NodeStep) -> Option<Command> {
    Some(match *step {
        NodeStep::Register { id, later } => register_node(id, incarnation(state, id, later)),
        NodeStep::Fence { id, older } => fence(id, incarnation(state, id, 0).saturating_sub(older)),
        NodeStep::Drain { id } => {
            let incarnation = Incarnation(incarnation(state, id, 0));
            Command::DrainNode { id: NodeId(id), incarnation }
        }
        NodeStep::Remove { id } => Command::RemoveNode { id: NodeId(id) },
        NodeStep::Isr { vshard, who } => {
            let record = state.vshard(VshardId(vshard))?;
            Command::AlterIsr {
                vshard: VshardId(vshard),
                epoch: record.epoch,
                version: record.version,
                primary_incarnation: state.node(record.primary?)?.incarnation,
                isr: members(state, who),
            }
        }
        NodeStep::Move { vshard, to, who } => {
            let (vshard, to) = (VshardId(vshard), NodeId(to));
            let record = state.vshard(vshard)?;
            let mut copies = Copies::of(&[to]).unwrap();
            members(state, who).iter().for_each(|member| _ = copies.push(member.node));
            let (epoch, version) = (record.epoch, record.version);
            Command::MoveVshards { moves: vec![Move { vshard, epoch, version, to, copies }] }
        }
    })
}

fn workers_command(state: &State, step: &WorkerStep) -> Command {
    let registration = |name: usize, later| {
        let known = state.worker(WORKERS[name]);
        known.map_or(1, |worker| worker.registration.0) + later
    };
    match *step {
        WorkerStep::Register { name, later, capacity, gpu } => {
            let mut new = registration_of_worker(WORKERS[name], registration(name, later));
            new.capacity = capacity;
            if gpu {
                new.labels = Labels::from([("gpu", "yes")]);
            }
            Command::RegisterWorker(Box::new(new))
        }
        WorkerStep::Update { name, update, capacity, accepting } => {
            Command::UpdateWorker(Box::new(WorkerUpdate {
                name: WORKERS[name].into(),
                registration: Registration(registration(name, 0)),
                update,
                capacity: Some(capacity),
                labels: (capacity == 1).then(Labels::default),
                accepting,
            }))
        }
        WorkerStep::Deregister { name, later } => {
            deregister(WORKERS[name], registration(name, later), Departure::LeaseEnded)
        }
    }
}

fn tasks_command(state: &State, id: u8, step: &TaskStep, serial: usize) -> Option<Command> {
    let input = |key: String| Input { key: key.into(), body: b"{}".as_slice().into() };
    let known = state.task(TaskId(id.into()));
    let attempt = known.map_or(1, |task| task.attempt);
    let id = TaskId(id.into());
    Some(match *step {
        TaskStep::Submit { worker, gpu, again, ttl_ms } => {
            let mut new = TaskSubmission {
                needs_worker: worker,
                idempotent: again,
                ttl_ms: (ttl_ms > 1_000).then_some(ttl_ms),
                executor: NodeId((id.0 % 4) as u16 + 1),
                ..submission(id.0)
            };
            if gpu {
                new.labels = Labels::from([("gpu", "yes")]);
            }
            Command::SubmitTask(Box::new(new))
        }
        TaskStep::Start { older } => start(id.0, attempt.saturating_sub(older)),
        TaskStep::Report(report) => {
            let status_message = Some(format!("step {serial}").into());
            Command::UpdateTask { id, attempt, report, status_message }
        }
        TaskStep::Ask { more, resume } => Command::AskInput {
            id,
            attempt,
            report: known.map_or(1, |task| task.report + 1),
            requests: (0..=more).map(|place| input(format!("{serial}-{place}"))).collect(),
            resume: resume.then(|| b"resume".as_slice().into()),
        },
        TaskStep::Answer(count) => {
            let open = &known?.inputs.as_deref()?.requests;
            let keys = open.iter().take(count).map(|open| open.key.to_string());
            Command::AnswerInput { id, responses: keys.map(input).collect() }
        }
        TaskStep::Complete { failed } => {
            let payload = Payload::Blob { sha256: [id.0 as u8; 32], len: 70_000 };
            Command::CompleteTask { id, attempt, payload, failed }
        }
        TaskStep::Fail => Command::FailTask { id, attempt, code: -1, message: "no".into() },
        TaskStep::Cancel => Command::CancelTask { id, reason: None },
        TaskStep::DropDue => Command::DropTasks { ids: state.due_tasks(state.now_ms(), 100) },
    })
}

/// The entries that steps give, one command each, with what each came to.
fn history(steps: &[Step], mut look: impl FnMut(&State, &Command, &Outcome)) -> (Log, Vec<Batch>) {
    let mut log = Log::of_nodes(3);
    let first: Vec<_> = (1..=3).map(|id| register_node(id, 1)).collect();
    let mut batches = vec![Batch { now_ms: log.now_ms, commands: first }];
    for (serial, step) in steps.iter().enumerate() {
        let state = &log.state;
        let command = match step {
            Step::Node(step) => nodes_command(state, step),
            Step::Worker(step) => Some(workers_command(state, step)),
            Step::Task(id, step) => tasks_command(state, *id, step, serial),
            Step::Wait(ms) => {
                log.now_ms += ms;
                None
            }
        };
        let Some(command) = command else { continue };
        let outcome = log.apply(command.clone());
        look(&log.state, &command, &outcome);
        batches.push(Batch { now_ms: log.now_ms, commands: vec![command] });
    }
    (log, batches)
}

fn replay(batches: &[Batch]) -> (State, Vec<Change>) {
    let mut state = State::new("lab".parse().unwrap());
    let mut changes = Vec::new();
    for (place, batch) in batches.iter().enumerate() {
        state.apply(place as u64 + 1, batch, &mut changes);
    }
    (state, changes)
}

/// Whether all that a command asked for was done, so that a copy of it must do nothing.
fn was_taken(command: &Command, outcome: &Outcome) -> bool {
    if let (Command::MoveVshards { moves }, Outcome::VshardsMoved { in_force }) = (command, outcome)
    {
        return moves.len() == usize::from(*in_force);
    }
    !matches!(outcome, Outcome::Refused(_))
}

/// The state but for how long its log is.
fn content(mut state: State) -> State {
    state.applied = 0;
    state
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn invariants_hold_after_every_command(steps in prop::collection::vec(step(), 1..120)) {
        let mut finals: BTreeMap<TaskId, TaskStatus> = BTreeMap::new();
        let mut epochs: BTreeMap<u16, (u64, Option<NodeId>)> = BTreeMap::new();
        history(&steps, |state, command, outcome| {
            state.audit().unwrap_or_else(|broken| panic!("{broken}\nafter {command:?}: {outcome:?}"));
            for (id, status) in &finals {
                let now = state.task(*id).map(|task| task.status());
                assert!(now.is_none_or(|now| now == *status), "{id} left {status:?} for {now:?}");
            }
            let all = state.tasks(&TaskFilter::default(), None, PAGE_TASKS_MAX).tasks;
            finals = all.iter()
                .filter(|task| task.status().is_final())
                .map(|task| (task.id, task.status()))
                .collect();
            assert!(all.iter().all(|task| task.starts <= TASK_ATTEMPTS_MAX));
            for vshard in 0..4 {
                let record = state.vshard(VshardId(vshard)).unwrap();
                let (epoch, primary) = epochs.insert(vshard, (record.epoch.0, record.primary))
                    .unwrap_or((0, None));
                assert!(record.epoch.0 >= epoch);
                assert!(record.epoch.0 > epoch || record.primary == primary, "an owner changed silently");
            }
        });
    }

    #[test]
    fn copies_of_commands_change_nothing(
        steps in prop::collection::vec(step(), 1..80),
        delays in prop::collection::vec(0..20_usize, 80),
    ) {
        let mut taken = vec![false];
        let (log, batches) = history(&steps, |_, command, outcome| {
            taken.push(was_taken(command, outcome));
        });
        let mut doubled = batches.clone();
        for (place, batch) in batches.iter().enumerate() {
            let later = (place + delays[place % delays.len()]).min(batches.len() - 1);
            let soon = doubled[later].now_ms - batch.now_ms < RETRY_WINDOW_MS;
            if taken[place] && soon {
                doubled[later].commands.extend(batch.commands.clone());
            }
        }
        let (state, _) = replay(&doubled);
        let (tasks, wanted) = (&state.tasks, &log.state.tasks);
        prop_assert_eq!(tasks.by_number(), wanted.by_number());
        prop_assert!(content(state) == content(log.state.clone()));
    }

    #[test]
    fn equal_logs_give_equal_states(steps in prop::collection::vec(step(), 1..80)) {
        let (_, batches) = history(&steps, |_, _, _| {});
        let (one, changes) = replay(&batches);
        let (other, same) = replay(&batches);
        prop_assert_eq!(changes, same);
        prop_assert_eq!(one.digest(), other.digest());
        prop_assert!(one == other);
    }

    #[test]
    fn a_snapshot_in_the_middle_changes_nothing(
        steps in prop::collection::vec(step(), 1..80),
        cut in any::<prop::sample::Index>(),
    ) {
        let (_, batches) = history(&steps, |_, _, _| {});
        let cut = cut.index(batches.len());
        let (whole, _) = replay(&batches);
        let (half, _) = replay(&batches[..cut]);
        let mut state = State::from_snapshot(&half.to_snapshot()).unwrap();
        prop_assert!(state == half);
        for (place, batch) in batches.iter().enumerate().skip(cut) {
            state.apply(place as u64 + 1, batch, &mut Vec::new());
        }
        prop_assert_eq!(state.digest(), whole.digest());
        prop_assert!(state == whole);
    }
}
