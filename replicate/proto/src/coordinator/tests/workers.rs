use super::fixture::*;
use crate::coordinator::*;
use crate::identity::{NodeId, Registration};

#[test]
fn a_worker_is_registered_once_and_a_late_copy_does_not_bring_it_back() {
    let mut log = Log::of_nodes(1);
    let outcome = Outcome::WorkerRegistered { registration: Registration(1) };
    assert_eq!(log.done(register_worker("w", 1)), outcome);
    assert_eq!(log.done(register_worker("w", 1)), outcome);
    assert_eq!(log.state.workers().count(), 1);
    log.done(deregister("w", 1, Departure::Left));
    log.done(deregister("w", 1, Departure::Left));
    assert_eq!(log.refused(register_worker("w", 1)), Refusal::WorkerUnknown { name: "w".into() });
    log.done(register_worker("w", 2));
    assert!(matches!(log.refused(register_worker("w", 1)), Refusal::RegistrationOld { .. }));
    // The end of the registration before does not end this one.
    log.done(deregister("w", 1, Departure::LeaseEnded));
    assert_eq!(log.state.worker("w").unwrap().registration, Registration(2));
}

#[test]
fn the_least_used_matching_worker_is_chosen_and_capacity_is_kept() {
    let mut log = Log::of_nodes(1);
    let mut large = registration_of_worker("large", 1);
    large.capacity = 4;
    large.labels = Labels::from([("gpu", "yes")]);
    log.done(Command::RegisterWorker(Box::new(large)));
    log.done(register_worker("small", 1));
    for id in 1..=7 {
        log.done(submit(id));
    }
    let workers: Vec<_> = (1..=7).map(|id| log.place(id).3.map(str::to_owned)).collect();
    let named = |name: &str| Some(name.to_owned());
    // By the share in use: 0/4 and 0/2 (the name decides), 1/4 and 0/2, 1/4 and 1/2, 2/4 and 1/2, …
    let (large, small) = (named("large"), named("small"));
    let wanted = [&large, &small, &large, &large, &small, &large]
        .map(Clone::clone)
        .into_iter()
        .chain([None]);
    assert_eq!(workers, wanted.collect::<Vec<_>>());
    assert_eq!(log.place(7).0, Phase::Queued);
    log.done(complete(2, 1));
    assert_eq!(log.place(7), (Phase::Assigned, 1, 1, Some("small")));
    assert!(log.changes.contains(&Change::TaskDispatched {
        id: log.task(7).id,
        attempt: 1,
        executor: NodeId(1)
    }));
}

#[test]
fn labels_are_asked_for_and_do_not_block_those_who_ask_for_others() {
    let mut log = Log::of_nodes(1);
    let mut wants = submission(1);
    wants.labels = Labels::from([("gpu", "yes")]);
    log.done(Command::SubmitTask(Box::new(wants)));
    log.done(submit(2));
    log.done(register_worker("plain", 1));
    assert_eq!((log.place(1).0, log.place(2).3), (Phase::Queued, Some("plain")));
    log.done(Command::UpdateWorker(Box::new(WorkerUpdate {
        name: "plain".into(),
        registration: Registration(1),
        update: 1,
        capacity: None,
        labels: Some(Labels::from([("gpu", "yes"), ("zone", "a")])),
        accepting: None,
    })));
    assert_eq!(log.place(1), (Phase::Assigned, 1, 1, Some("plain")));
}

#[test]
fn a_worker_that_accepts_nothing_keeps_what_it_has() {
    let mut log = Log::of_nodes(1);
    log.done(register_worker("w", 1));
    log.done(submit(1));
    let update = |update, accepting| {
        Command::UpdateWorker(Box::new(WorkerUpdate {
            name: "w".into(),
            registration: Registration(1),
            update,
            capacity: None,
            labels: None,
            accepting: Some(accepting),
        }))
    };
    log.done(update(1, false));
    log.done(submit(2));
    assert_eq!((log.place(1).3, log.place(2).0), (Some("w"), Phase::Queued));
    log.done(update(2, true));
    assert_eq!(log.place(2).3, Some("w"));
    // A late copy of the first update is void.
    log.done(update(1, false));
    assert!(log.state.worker("w").unwrap().accepting);
}

#[test]
fn a_lost_workers_tasks_go_to_others_only_if_that_is_safe() {
    let mut log = Log::of_nodes(1);
    log.done(register_worker("a", 1));
    for id in 1..=2 {
        log.done(submit(id));
    }
    log.done(start(1, 1));
    log.done(register_worker("b", 1));
    log.done(deregister("a", 1, Departure::LeaseEnded));
    // The first call may have taken effect; the second was never begun.
    let Some(Ending::Error { message, .. }) = log.task(1).ending.as_deref() else {
        panic!("{:?}", log.task(1))
    };
    assert!(message.starts_with("outcome unknown: worker \"a\""), "{message}");
    let (phase, attempt, _, worker) = log.place(2);
    assert_eq!((phase, worker), (Phase::Assigned, Some("b")));
    assert!(attempt > 1, "what the first attempt says is void");
    assert!(matches!(log.refused(start(2, 1)), Refusal::AttemptOld { .. }));
}

#[test]
fn an_idempotent_call_is_begun_three_times_at_most() {
    let mut log = Log::of_nodes(1);
    let task = TaskSubmission { idempotent: true, ..submission(1) };
    log.done(Command::SubmitTask(Box::new(task)));
    for registration in 1..=u64::from(TASK_ATTEMPTS_MAX) {
        log.done(register_worker("w", registration));
        let attempt = log.task(1).attempt;
        log.done(start(1, attempt));
        log.done(deregister("w", registration, Departure::LeaseEnded));
        if log.task(1).phase == Phase::Queued {
            // Nobody has it now; the attempt that was lost has no say any more.
            assert!(matches!(log.refused(complete(1, attempt)), Refusal::AttemptOld { .. }));
        }
    }
    assert_eq!(log.task(1).status(), TaskStatus::Failed);
    assert_eq!(log.task(1).starts, TASK_ATTEMPTS_MAX);
    assert!(log.task(1).status_message.as_deref().unwrap().contains("begun 3 times"));
}

#[test]
fn a_replaced_workers_tasks_are_not_taken_for_the_new_ones() {
    let mut log = Log::of_nodes(1);
    log.done(register_worker("w", 1));
    log.done(submit(1));
    log.done(start(1, 1));
    log.done(submit(2));
    log.done(register_worker("w", 2));
    assert_eq!(log.task(1).status(), TaskStatus::Failed);
    assert_eq!(log.place(2).3, Some("w"));
    assert_eq!(log.state.worker("w").unwrap().load, 1);
}
