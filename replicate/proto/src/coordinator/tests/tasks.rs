use super::fixture::*;
use crate::coordinator::*;
use crate::identity::{NodeId, TaskId};

#[test]
fn a_task_goes_from_submission_to_result_and_stays_there() {
    let mut log = Log::of_nodes(1);
    let submitted = log.done(submit_static(1, false));
    assert_eq!(submitted, Outcome::TaskSubmitted { id: TaskId(1), created_ms: START_MS });
    log.now_ms += 10;
    assert_eq!(log.done(submit_static(1, false)), submitted);
    assert_eq!(log.changes, []);
    log.done(start(1, 1));
    assert_eq!(log.place(1).0, Phase::Running);
    log.now_ms += 10;
    assert_eq!(log.done(complete(1, 1)), Outcome::TaskEnded { status: TaskStatus::Completed });
    let task = log.task(1).clone();
    assert_eq!((task.created_ms, task.updated_ms), (START_MS, START_MS + 20));
    assert!(task.params.is_empty(), "an ended task's parameters are of no use");
    for late in [
        complete(1, 1),
        start(1, 1),
        Command::CancelTask { id: TaskId(1), reason: None },
        Command::FailTask { id: TaskId(1), attempt: 1, code: -1, message: "late".into() },
    ] {
        assert_eq!(log.done(late), Outcome::TaskEnded { status: TaskStatus::Completed });
        assert_eq!(*log.task(1), task);
    }
}

#[test]
fn an_id_of_another_owner_is_refused() {
    let mut log = Log::of_nodes(1);
    log.done(submit_static(1, false));
    let task = TaskSubmission { owner: b"bob".as_slice().into(), ..submission(1) };
    let refusal = log.refused(Command::SubmitTask(Box::new(task)));
    assert_eq!(refusal, Refusal::TaskIdTaken { id: TaskId(1) });
}

#[test]
fn reports_count_and_an_older_one_is_void() {
    let mut log = Log::of_nodes(1);
    log.done(submit_static(1, false));
    let update = |report, text: &str| Command::UpdateTask {
        id: TaskId(1),
        attempt: 1,
        report,
        status_message: Some(text.into()),
    };
    log.done(update(1, "a tenth"));
    log.done(update(2, "a half"));
    log.done(update(1, "a tenth"));
    assert_eq!(log.task(1).status_message.as_deref(), Some("a half"));
}

#[test]
fn questions_are_answered_in_parts_and_what_is_not_open_is_ignored() {
    let mut log = Log::of_nodes(1);
    let input = |key: &str, body: &str| Input { key: key.into(), body: body.as_bytes().into() };
    log.done(submit_static(1, false));
    log.done(start(1, 1));
    let ask = Command::AskInput {
        id: TaskId(1),
        attempt: 1,
        report: 1,
        requests: vec![input("1-a", "{}"), input("1-b", "{}")],
        resume: None,
    };
    let asked = Outcome::TaskReported { status: TaskStatus::InputRequired };
    assert_eq!(log.done(ask.clone()), asked);
    let answer = |responses| Command::AnswerInput { id: TaskId(1), responses };
    log.done(answer(vec![input("1-a", "1"), input("1-x", "2"), input("1-a", "3")]));
    assert_eq!(log.task(1).status(), TaskStatus::InputRequired);
    assert_eq!(log.changes, [Change::TaskAnswered { id: TaskId(1), executor: NodeId(1) }]);
    log.done(ask);
    log.done(answer(vec![input("1-a", "4")]));
    assert_eq!(log.changes, []);
    let both = log.done(answer(vec![input("1-b", "5")]));
    assert_eq!(both, Outcome::InputAnswered { status: TaskStatus::Working });
    let inputs = log.task(1).inputs.clone().unwrap();
    assert_eq!(inputs.responses, [input("1-a", "1"), input("1-b", "5")]);
    let again = Command::AskInput {
        id: TaskId(1),
        attempt: 1,
        report: 2,
        requests: vec![input("1-b", "{}")],
        resume: None,
    };
    assert!(matches!(log.refused(again), Refusal::InputKeyUsed { .. }));
}

#[test]
fn a_task_is_dropped_when_its_time_is_over_and_a_late_copy_does_not_bring_it_back() {
    let mut log = Log::of_nodes(1);
    let short = TaskSubmission { ttl_ms: Some(1_000), needs_worker: false, ..submission(1) };
    log.done(Command::SubmitTask(Box::new(short.clone())));
    let lasting = TaskSubmission { ttl_ms: None, needs_worker: false, ..submission(2) };
    log.done(Command::SubmitTask(Box::new(lasting)));
    let drop = Command::DropTasks { ids: vec![TaskId(1), TaskId(2), TaskId(3)] };
    log.now_ms += 999;
    assert_eq!(log.state.due_tasks(log.now_ms, 10), []);
    log.done(drop.clone());
    assert!(log.state.task(TaskId(1)).is_some());
    log.now_ms += 1;
    assert_eq!(log.state.due_tasks(log.now_ms, 10), [TaskId(1)]);
    log.done(drop);
    assert_eq!(log.changes, [Change::TaskDropped { id: TaskId(1), executor: NodeId(1) }]);
    assert!(log.state.task(TaskId(1)).is_none() && log.state.task(TaskId(2)).is_some());
    let late = Command::SubmitTask(Box::new(short));
    assert_eq!(log.refused(late), Refusal::TaskUnknown { id: TaskId(1) });
}

#[test]
fn a_fenced_nodes_calls_go_on_elsewhere_only_if_that_is_safe() {
    let mut log = Log::of_nodes(3);
    log.done(submit_static(1, false));
    log.done(submit_static(2, true));
    log.done(submit_static(3, false));
    log.done(start(1, 1));
    log.done(start(2, 1));
    log.done(fence(1, 1));
    assert_eq!(log.task(1).status(), TaskStatus::Failed);
    let message = log.task(1).status_message.clone().unwrap();
    assert!(message.starts_with("outcome unknown: node 1"), "{message}");
    assert_eq!(log.place(2), (Phase::Assigned, 2, 2, None));
    assert_eq!(log.place(3), (Phase::Assigned, 2, 3, None));
    // The fenced node may live on for a while: what it says does not count.
    assert!(matches!(log.refused(complete(2, 1)), Refusal::AttemptOld { .. }));
}

#[test]
fn a_restarted_nodes_calls_are_given_out_anew() {
    let mut log = Log::of_nodes(1);
    log.done(submit_static(1, false));
    log.done(submit_static(2, false));
    log.done(start(2, 1));
    log.done(register_node(1, 2));
    assert_eq!(log.place(1), (Phase::Assigned, 2, 1, None));
    assert_eq!(log.task(2).status(), TaskStatus::Failed);
}

#[test]
fn without_a_node_nothing_is_taken() {
    let mut log = Log::of_nodes(0);
    assert_eq!(log.refused(submit_static(1, false)), Refusal::NoLiveNode);
}

#[test]
fn what_is_too_large_is_refused_with_its_bound() {
    let mut log = Log::of_nodes(1);
    let task = TaskSubmission { params: vec![b' '; PARAMS_BYTES_MAX + 1].into(), ..submission(1) };
    let refusal = log.refused(Command::SubmitTask(Box::new(task)));
    assert_eq!(
        refusal.to_string(),
        format!("a task's params has {} bytes, at most 262144 are taken", PARAMS_BYTES_MAX + 1)
    );
}

#[test]
fn time_does_not_go_back_with_a_leaders_clock() {
    let mut log = Log::of_nodes(1);
    log.now_ms -= 5_000;
    log.done(submit_static(1, false));
    assert_eq!((log.state.now_ms(), log.task(1).created_ms), (START_MS, START_MS));
}
