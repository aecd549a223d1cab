//! The desk without shards: what it tells them is caught, and what they would say is said.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shardgate_proto::upstream::{CallKey, SessionKey};
use shardgate_replicate::control_log::Solo;
use shardgate_replicate_proto::coordinator::TaskStatus;
use tokio::task::LocalSet;

use super::*;
use crate::tasks::{Order, Owner, Progress, Report, Submission, Wish};

const SESSION: SessionKey = SessionKey(1);

/// What shards were told.
type Told = Vec<(u16, FromDesk)>;

/// The inboxes of shards.
#[derive(Clone, Default)]
struct Shards(Arc<Mutex<Inboxes>>);

#[derive(Default)]
struct Inboxes {
    told: Told,
    /// Those that have no room.
    full: HashSet<u16>,
}

impl Shards {
    fn lock(&self) -> MutexGuard<'_, Inboxes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deliver(&self) -> DeliverTasks {
        let shards = self.clone();
        Box::new(move |shard, message| {
            let mut inner = shards.lock();
            if inner.full.contains(&shard) {
                return Err(message);
            }
            inner.told.push((shard, message));
            Ok(())
        })
    }

    fn take(&self) -> Told {
        std::mem::take(&mut self.lock().told)
    }
}

struct Bench {
    shards: Shards,
    log: Rc<Solo>,
    to_desk: flume::Sender<ToDesk>,
}

impl Bench {
    /// A desk with two shards, within a `LocalSet`.
    fn new(settings: config::Tasks) -> Bench {
        let (to_desk, requests) = flume::bounded(64);
        let shards = Shards::default();
        let setup = DeskSetup { requests, deliver: shards.deliver(), shards: 2, settings };
        let log = Rc::new(Solo::new("test".parse().expect("a name"), "node"));
        spawn_local(keep(setup, Rc::clone(&log) as Rc<dyn ControlLog>));
        Bench { shards, log, to_desk }
    }

    async fn say(&self, message: ToDesk) -> Told {
        self.to_desk.send_async(message).await.expect("the desk is there");
        self.settle().await
    }

    /// Lets the desk do all that it can.
    async fn settle(&self) -> Told {
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
        self.shards.take()
    }

    async fn ask(&self, call: u64, wish: Wish) -> Told {
        let call = ClientCall { shard: 1, call: CallKey(call), session: Some(SESSION), wish };
        self.say(ToDesk::Call(call)).await
    }

    async fn submit(&self, id: u128) -> Told {
        let submission = Submission {
            id: TaskId(id),
            owner: Owner(b"owner".as_slice().into()),
            tool: "tool".into(),
            service: "service".into(),
            order: Order(br#"{"route":"/mcp","params":{"name":"tool"}}"#.as_slice().into()),
            idempotent: false,
            ttl_ms: None,
            progress_token: Some(b"1".as_slice().into()),
        };
        self.ask(u64::try_from(id).expect("small"), Wish::Submit(Box::new(submission))).await
    }

    async fn report(&self, id: u128, attempt: u32, report: Report) -> Told {
        self.say(ToDesk::Report { id: TaskId(id), attempt, report }).await
    }

    fn status(&self, id: u128) -> TaskStatus {
        self.log.state().task(TaskId(id)).expect("held").status()
    }
}

fn ended(body: &str) -> Report {
    Report::Ended { outcome: CallOutcome::Result, body: body.as_bytes().into() }
}

/// The calls that are answered.
fn answered(told: &[(u16, FromDesk)]) -> Vec<u64> {
    let answers = told.iter().filter_map(|(_, message)| match message {
        FromDesk::Answer { call, .. } => Some(call.0),
        FromDesk::Notify { .. }
        | FromDesk::Ask { .. }
        | FromDesk::Run(_)
        | FromDesk::Stop { .. } => None,
    });
    answers.collect()
}

/// The tasks whose calls are begun.
fn begun(told: &[(u16, FromDesk)]) -> Vec<u128> {
    let runs = told.iter().filter_map(|(_, message)| match message {
        FromDesk::Run(run) => Some(run.id.0),
        FromDesk::Answer { .. }
        | FromDesk::Notify { .. }
        | FromDesk::Ask { .. }
        | FromDesk::Stop { .. } => None,
    });
    runs.collect()
}

async fn within(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn a_task_is_committed_before_its_client_hears_of_it_and_its_call_begins() {
    within(async {
        let bench = Bench::new(config::Tasks::default());
        let told = bench.submit(7).await;
        assert_eq!((answered(&told), begun(&told)), (vec![7], vec![7]));
        assert_eq!(bench.status(7), TaskStatus::Working);
        let waiting = bench.ask(8, Wish::Result(TaskId(7))).await;
        assert!(answered(&waiting).is_empty(), "{waiting:?}");
        let told = bench.report(7, 1, ended("{}")).await;
        assert_eq!(answered(&told), [8]);
        assert_eq!(bench.status(7), TaskStatus::Completed);
    })
    .await;
}

#[tokio::test]
async fn an_attempt_that_is_not_made_here_has_no_say() {
    within(async {
        let bench = Bench::new(config::Tasks::default());
        bench.submit(7).await;
        let progress = || Progress { progress: b"1".as_slice().into(), total: None, message: None };
        let told = bench.report(7, 2, Report::Progress(progress())).await;
        assert!(told.is_empty(), "{told:?}");
        let told = bench.report(7, 1, Report::Progress(progress())).await;
        assert_eq!(told.len(), 2, "progress and status: {told:?}");
        bench.report(7, 2, ended("{}")).await;
        bench.report(8, 1, ended("{}")).await;
        assert_eq!(bench.status(7), TaskStatus::Working);
        bench.report(7, 1, ended("{}")).await;
        // A second ending of the same call is nobody's.
        bench
            .report(
                7,
                1,
                Report::Ended { outcome: CallOutcome::Error(-1), body: b"{}".as_slice().into() },
            )
            .await;
        assert_eq!(bench.status(7), TaskStatus::Completed);
    })
    .await;
}

#[tokio::test]
async fn a_call_that_was_given_up_is_not_answered() {
    within(async {
        let bench = Bench::new(config::Tasks::default());
        bench.submit(7).await;
        bench.ask(8, Wish::Result(TaskId(7))).await;
        bench.ask(9, Wish::Result(TaskId(7))).await;
        bench.say(ToDesk::GivenUp { shard: 1, call: CallKey(8) }).await;
        let told = bench.report(7, 1, ended("{}")).await;
        assert_eq!(answered(&told), [9]);
    })
    .await;
}

#[tokio::test]
async fn questions_go_to_one_who_waits_and_to_the_next_if_that_one_leaves() {
    within(async {
        let bench = Bench::new(config::Tasks::default());
        bench.submit(7).await;
        bench.ask(8, Wish::Result(TaskId(7))).await;
        let requests = vec![("k".into(), b"{}".as_slice().into())];
        let told = bench.report(7, 1, Report::Asked { requests, state: None }).await;
        let asked = |told: &[(u16, FromDesk)]| {
            let asks = told.iter().filter_map(|(_, message)| match message {
                FromDesk::Ask { call, .. } => Some(call.0),
                FromDesk::Answer { .. }
                | FromDesk::Notify { .. }
                | FromDesk::Run(_)
                | FromDesk::Stop { .. } => None,
            });
            asks.collect::<Vec<u64>>()
        };
        assert_eq!(asked(&told), [8]);
        let told = bench.ask(9, Wish::Result(TaskId(7))).await;
        assert!(asked(&told).is_empty(), "one is asked already");
        bench.say(ToDesk::GivenUp { shard: 1, call: CallKey(8) }).await;
        let told = bench.ask(10, Wish::Result(TaskId(7))).await;
        assert_eq!(asked(&told), [9]);
        let reply = ToDesk::Reply {
            id: TaskId(7),
            key: "k".into(),
            outcome: CallOutcome::Result,
            body: b"{}".as_slice().into(),
        };
        let told = bench.say(reply).await;
        assert_eq!(begun(&told), [7], "it goes on");
        assert_eq!(bench.status(7), TaskStatus::Working);
    })
    .await;
}

#[tokio::test]
async fn only_so_many_run_and_a_cancelled_one_makes_room() {
    within(async {
        let settings = config::Tasks { running_max: 2, ..config::Tasks::default() };
        let bench = Bench::new(settings);
        let mut runs = Vec::new();
        for id in 1..=4 {
            runs.extend(begun(&bench.submit(id).await));
        }
        assert_eq!(runs, [1, 2]);
        let told = bench.ask(20, Wish::Cancel(TaskId(1))).await;
        let stopped = |(_, message): &(u16, FromDesk)| {
            matches!(message, FromDesk::Stop { id: TaskId(1), attempt: 1 })
        };
        assert!(told.iter().any(stopped), "{told:?}");
        assert_eq!(begun(&told), [3]);
        // One that has not begun is gone from the queue.
        bench.ask(21, Wish::Cancel(TaskId(4))).await;
        assert!(begun(&bench.report(2, 1, ended("{}")).await).is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_shard_without_room_is_told_later_and_in_order() {
    within(async {
        let bench = Bench::new(config::Tasks::default());
        bench.shards.lock().full.insert(1);
        assert!(answered(&bench.submit(7).await).is_empty());
        bench.shards.lock().full.clear();
        let told = bench.ask(8, Wish::Get(TaskId(7))).await;
        assert!(answered(&told).is_empty(), "it must not overtake what waits");
        tokio::time::sleep(10 * DELIVERY_PERIOD).await;
        assert_eq!(answered(&bench.settle().await), [7, 8]);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_asks_for_nothing_for_ever_is_left() {
    within(async {
        let bench = Bench::new(config::Tasks::default());
        bench.submit(7).await;
        let again =
            || Report::Asked { requests: Vec::new(), state: Some(b"\"s\"".as_slice().into()) };
        let mut rounds = 0;
        while bench.status(7) == TaskStatus::Working {
            bench.report(7, 1, again()).await;
            rounds += 1;
            assert!(rounds < 1_000, "it goes on for ever");
        }
        assert_eq!(bench.status(7), TaskStatus::Failed);
        assert!(rounds > 1, "a state alone is no mistake");
    })
    .await;
}
