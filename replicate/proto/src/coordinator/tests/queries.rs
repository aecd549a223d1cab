use super::fixture::*;
use crate::coordinator::*;
use crate::identity::TaskId;

/// Eight hundred tasks of four owners, two services and three statuses, ten a millisecond.
fn many() -> Log {
    let mut log = Log::of_nodes(1);
    for id in 0..800_u128 {
        log.now_ms = START_MS + (id / 10) as u64;
        let task = TaskSubmission {
            owner: vec![b'a' + (id % 4) as u8].into(),
            service: if id % 3 == 0 { "three".into() } else { "other".into() },
            needs_worker: false,
            ..submission(id)
        };
        log.done(Command::SubmitTask(Box::new(task)));
        match id % 5 {
            0 => _ = log.done(complete(id, 1)),
            1 => _ = log.done(Command::CancelTask { id: TaskId(id), reason: None }),
            _ => {}
        }
    }
    log
}

/// All pages of a filter, as the tasks' ids.
fn walk(state: &State, filter: &TaskFilter, limit: usize) -> Vec<u128> {
    let mut ids = Vec::new();
    let mut cursor = None;
    loop {
        let page = state.tasks(filter, cursor, limit);
        assert!(page.tasks.len() <= limit);
        ids.extend(page.tasks.iter().map(|task| task.id.0));
        let Some(next) = page.next else { return ids };
        // A cursor survives its way through a client.
        cursor = Some(next.to_string().parse().unwrap());
    }
}

fn filters() -> Vec<TaskFilter> {
    let all = TaskFilter::default();
    vec![
        all.clone(),
        TaskFilter { status: Some(TaskStatus::Completed), ..all.clone() },
        TaskFilter { owner: Some(b"b".as_slice().into()), ..all.clone() },
        TaskFilter { owner: Some(b"nobody".as_slice().into()), ..all.clone() },
        TaskFilter { service: Some("three".into()), ..all.clone() },
        TaskFilter { since_ms: Some(START_MS + 40), ..all.clone() },
        TaskFilter {
            status: Some(TaskStatus::Working),
            owner: Some(b"c".as_slice().into()),
            service: Some("other".into()),
            since_ms: Some(START_MS + 13),
            ..all
        },
    ]
}

#[test]
fn pages_of_any_size_give_what_a_scan_gives_in_order() {
    let log = many();
    for filter in filters() {
        let scan: Vec<u128> = (0..800)
            .filter(|id| filter.lets_through(log.state.task(TaskId(*id)).unwrap()))
            .collect();
        for limit in [1, 7, 100, PAGE_TASKS_MAX] {
            assert_eq!(walk(&log.state, &filter, limit), scan, "{filter:?} by {limit}");
        }
    }
}

#[test]
fn a_cursor_stays_good_while_tasks_come_and_go() {
    let mut log = many();
    let all = TaskFilter::default();
    let first = log.state.tasks(&all, None, 100);
    assert_eq!(first.tasks.last().unwrap().id, TaskId(99));
    // The task that the cursor names goes, as do some behind it; others come.
    log.now_ms = START_MS + 60_000 + 20;
    let due = log.state.due_tasks(log.now_ms, 150);
    assert_eq!(due.len(), 150);
    log.done(Command::DropTasks { ids: due });
    log.done(submit_static(9_000, false));
    let rest = log.state.tasks(&all, first.next, 1_000);
    let ids: Vec<u128> = rest.tasks.iter().map(|task| task.id.0).collect();
    assert_eq!(ids, (150..800).chain([9_000]).collect::<Vec<_>>());
}

#[test]
fn tasks_are_found_by_the_worker_that_had_them() {
    let mut log = Log::of_nodes(1);
    log.done(register_worker("w", 1));
    log.done(submit(1));
    log.done(complete(1, 1));
    log.done(submit(2));
    log.done(submit_static(3, false));
    let filter = TaskFilter { worker: Some("w".into()), ..TaskFilter::default() };
    assert_eq!(walk(&log.state, &filter, 10), [1, 2]);
    log.done(deregister("w", 1, Departure::Left));
    assert_eq!(walk(&log.state, &filter, 10), [1], "the second waits for another worker");
}

#[test]
fn a_page_looks_at_a_bounded_number_of_tasks() {
    let mut log = Log::of_nodes(1);
    let count = PAGE_SCAN_MAX as u128 + 10;
    for id in 0..count {
        let owner = (id / 5_000).to_string().into_bytes().into();
        let service: Box<str> = if id + 1 == count { "rare".into() } else { "common".into() };
        let task = TaskSubmission { owner, service, needs_worker: false, ..submission(id) };
        log.done(Command::SubmitTask(Box::new(task)));
    }
    let none = TaskFilter { since_ms: Some(START_MS + 1), ..TaskFilter::default() };
    assert_eq!(log.state.tasks(&none, None, 10), Page::default());
    // Both indexes are large, so most of what is looked at is in vain.
    let filter = TaskFilter {
        status: Some(TaskStatus::Working),
        service: Some("common".into()),
        since_ms: None,
        owner: None,
        worker: None,
    };
    let page = log.state.tasks(&filter, None, 10);
    assert_eq!(page.tasks.len(), 10);
    let rare = TaskFilter { service: Some("rare".into()), ..filter };
    assert_eq!(walk(&log.state, &rare, 10), [count - 1], "the smaller index is walked");
}

#[test]
fn a_text_that_no_page_gave_out_is_no_cursor() {
    for text in ["", "0", "zzzzzzzzzzzzzzzz", "00000000000000000", "+000000000000001"] {
        assert_eq!(text.parse::<Cursor>(), Err(NotACursor), "{text}");
    }
}

#[test]
fn statuses_are_spelled_as_the_specification_does() {
    let spelled = TaskStatus::ALL.map(TaskStatus::as_str);
    assert_eq!(spelled, ["working", "input_required", "completed", "failed", "cancelled"]);
    assert!(TaskStatus::ALL.iter().all(|status| TaskStatus::of(status.as_str()) == Some(*status)));
    assert_eq!(TaskStatus::of("done"), None);
}
