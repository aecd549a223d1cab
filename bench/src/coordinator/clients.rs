//! Clients of a control log, inside the process of a node.
//!
//! All are closed loops: each begins its next operation when the one before has ended.
//! Latencies are from the call to its return, when the outcome is committed and part of the
//! node's own state.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use shardgate_replicate::node::Node;
use shardgate_replicate_proto::coordinator::{
    Command, Labels, Outcome, Payload, TASKS_PER_OWNER_MAX, TaskSubmission, WORKERS_MAX,
    WorkerRegistration,
};
use shardgate_replicate_proto::identity::{Registration, TaskId};
use tokio::task::{JoinHandle, spawn_local};

use super::node::say;
use super::talk::{Acknowledged, Performed, Said, Step, Work, cpu_ns, monotonic_ns};
use crate::recorder::latencies;
use crate::report::percentiles::distribution;

/// Workers that registrations go round, so that the bound of the state is not met.
const WORKERS: u64 = WORKERS_MAX as u64 / 2;
/// Tasks of one owner, within the bound of the state.
const TASKS_PER_OWNER: u64 = TASKS_PER_OWNER_MAX as u64 / 2;
/// Clients of a load.
pub(crate) const LOAD_CLIENTS_MAX: u32 = 1_024;
/// The same of one client of a load.
const TASKS_PER_CLIENT_AND_OWNER: u64 = TASKS_PER_OWNER / LOAD_CLIENTS_MAX as u64;
/// Longer than any lease that a run could outlive.
const LEASE_MS: u32 = 600_000;
/// How often acknowledged tasks are told.
const TELL_EVERY: Duration = Duration::from_millis(10);
/// How long a client of the load waits before it asks again.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// Tasks that a filling client proposes as one.
const FILL_COMMANDS: u64 = 50;
/// Clients that fill.
const FILL_CLIENTS: u32 = 8;
/// Bytes of the parameters of a task of the load.
const LOAD_BYTES: usize = 64;

/// What the clients of one piece of work share.
struct Shared {
    node: Rc<Node>,
    work: Work,
    begun: Instant,
    next: Cell<u64>,
    done: Cell<u64>,
    failed: Cell<u64>,
    example: RefCell<String>,
    latency: RefCell<Histogram<u64>>,
}

/// Does the work, and tells how it went.
pub(super) async fn perform(node: &Rc<Node>, work: Work) -> Performed {
    let (cpu_before, syncs_before) = (cpu_ns(), node.fsyncs().totals());
    let shared = Rc::new(Shared {
        node: Rc::clone(node),
        work,
        begun: Instant::now(),
        next: Cell::new(0),
        done: Cell::new(0),
        failed: Cell::new(0),
        example: RefCell::default(),
        latency: RefCell::new(latencies()),
    });
    let clients: Vec<JoinHandle<()>> =
        (0..work.clients).map(|_| spawn_local(client(Rc::clone(&shared)))).collect();
    for client in clients {
        client.await.expect("a client does not panic");
    }
    let syncs = node.fsyncs().totals();
    Performed {
        done: shared.done.get(),
        failed: shared.failed.get(),
        example: shared.example.take(),
        elapsed_us: shared.begun.elapsed().as_micros() as u64,
        latency: distribution(&shared.latency.borrow()).expect("a histogram can be written"),
        cpu_us: (cpu_ns() - cpu_before) / 1_000,
        syncs: syncs.0 - syncs_before.0,
        sync_us: syncs.1 - syncs_before.1,
    }
}

async fn client(shared: Rc<Shared>) {
    let limit = Duration::from_millis(shared.work.limit_ms);
    loop {
        let number = shared.next.get();
        if number >= shared.work.operations || shared.begun.elapsed() >= limit {
            return;
        }
        shared.next.set(number + 1);
        let begun = Instant::now();
        match operate(&shared.node, shared.work, number).await {
            Ok(()) => {
                let took_us = begun.elapsed().as_micros() as u64;
                shared.latency.borrow_mut().saturating_record(took_us);
                shared.done.set(shared.done.get() + 1);
            }
            Err(why) => {
                shared.failed.set(shared.failed.get() + 1);
                let mut example = shared.example.borrow_mut();
                if example.is_empty() {
                    *example = why;
                }
            }
        }
    }
}

async fn operate(node: &Node, work: Work, number: u64) -> Result<(), String> {
    // Later steps go round the tasks that there are.
    let tasks = work.tasks.max(1);
    let (id, round) = (task_id(0, 0, number % tasks), number / tasks);
    let command = match work.step {
        Step::RegisterWorker => registration(node, number),
        Step::SubmitTask => {
            let owner = number / TASKS_PER_OWNER;
            submission(node, task_id(0, 0, number), owner, work.bytes)
        }
        Step::UpdateTask => Command::UpdateTask {
            id,
            attempt: 1,
            report: u32::try_from(round + 1).map_err(|error| error.to_string())?,
            status_message: Some("half of it is done".into()),
        },
        Step::CompleteTask => Command::CompleteTask {
            id,
            attempt: 1,
            payload: Payload::Inline(json_of(work.bytes)),
            failed: false,
        },
        Step::QueryTask => return query(node, id).await,
    };
    propose(node, command).await.map(|_| ())
}

async fn query(node: &Node, id: TaskId) -> Result<(), String> {
    node.log().read_barrier().await.map_err(|error| error.to_string())?;
    match node.log().read(|state| state.task(id).is_some()) {
        true => Ok(()),
        false => Err(format!("task {id} was submitted and is not there")),
    }
}

async fn propose(node: &Node, command: Command) -> Result<Outcome, String> {
    let committed = node.log().propose(vec![command]).await.map_err(|error| error.to_string())?;
    match committed.outcomes.into_iter().next() {
        Some(Outcome::Refused(refusal)) => Err(refusal.to_string()),
        Some(outcome) => Ok(outcome),
        None => Err("a command came to nothing at all".to_owned()),
    }
}

fn registration(node: &Node, number: u64) -> Command {
    Command::RegisterWorker(Box::new(WorkerRegistration {
        name: format!("worker-{}", number % WORKERS).into(),
        registration: Registration(number / WORKERS + 1),
        service: "service".into(),
        url: "http://127.0.0.1:9/mcp".into(),
        labels: Labels::default(),
        capacity: 8,
        lease_ms: LEASE_MS,
        via: node.id(),
    }))
}

fn submission(node: &Node, id: TaskId, owner: u64, bytes: usize) -> Command {
    Command::SubmitTask(Box::new(TaskSubmission {
        id,
        owner: owner.to_be_bytes()[..].into(),
        tool: "tool".into(),
        service: "service".into(),
        params: json_of(bytes),
        labels: Labels::default(),
        needs_worker: false,
        idempotent: true,
        ttl_ms: None,
        poll_interval_ms: None,
        executor: node.id(),
    }))
}

/// A JSON string of so many bytes, quotes included.
fn json_of(bytes: usize) -> Box<[u8]> {
    let mut text = vec![b'x'; bytes.max(2)];
    if let [first, .., last] = &mut text[..] {
        (*first, *last) = (b'"', b'"');
    }
    text.into()
}

/// The id of a task: who submits it, and its number.
fn task_id(session: u32, client: u32, number: u64) -> TaskId {
    TaskId(u128::from(session) << 96 | u128::from(client) << 64 | u128::from(number))
}

/// What the id of a task says.
pub(super) fn acknowledged(id: TaskId, created_ms: u64) -> Acknowledged {
    Acknowledged {
        session: (id.0 >> 96) as u32,
        client: (id.0 >> 64) as u32,
        number: id.0 as u64,
        created_ms,
    }
}

/// Submits tasks, many with each proposal.
pub(super) async fn fill(node: &Rc<Node>, tasks: u64, bytes: usize) -> Result<(), String> {
    let next = Rc::new(Cell::new(0));
    let fillers: Vec<JoinHandle<Result<(), String>>> = (0..FILL_CLIENTS)
        .map(|_| spawn_local(filler(Rc::clone(node), Rc::clone(&next), tasks, bytes)))
        .collect();
    for filler in fillers {
        filler.await.expect("a client does not panic")?;
    }
    Ok(())
}

async fn filler(
    node: Rc<Node>,
    next: Rc<Cell<u64>>,
    tasks: u64,
    bytes: usize,
) -> Result<(), String> {
    while next.get() < tasks {
        let from = next.get();
        let to = (from + FILL_COMMANDS).min(tasks);
        next.set(to);
        let commands = (from..to).map(|number| {
            submission(&node, task_id(0, 0, number), number / TASKS_PER_OWNER, bytes)
        });
        let committed = node.log().propose(commands.collect()).await;
        let committed = committed.map_err(|error| error.to_string())?;
        for outcome in committed.outcomes {
            if let Outcome::Refused(refusal) = outcome {
                return Err(refusal.to_string());
            }
        }
    }
    Ok(())
}

/// Clients that submit tasks until they are told to end.
pub(super) struct Load {
    common: Rc<LoadCommon>,
    clients: Vec<JoinHandle<()>>,
    teller: JoinHandle<()>,
}

struct LoadCommon {
    node: Rc<Node>,
    session: u32,
    pace: Duration,
    is_over: Cell<bool>,
    watched_ns: Cell<Option<u64>>,
    retries: Cell<u64>,
    example: RefCell<String>,
    untold: RefCell<Vec<Acknowledged>>,
}

impl Load {
    /// Begins it.
    pub(super) fn begin(node: &Rc<Node>, session: u32, clients: u32, pace: Duration) -> Load {
        let common = Rc::new(LoadCommon {
            node: Rc::clone(node),
            session,
            pace,
            is_over: Cell::new(false),
            watched_ns: Cell::new(None),
            retries: Cell::new(0),
            example: RefCell::default(),
            untold: RefCell::default(),
        });
        let clients = (0..clients).map(|client| spawn_local(submit(Rc::clone(&common), client)));
        let clients = clients.collect();
        let told = Rc::clone(&common);
        let teller = spawn_local(async move {
            loop {
                tokio::time::sleep(TELL_EVERY).await;
                told.tell();
            }
        });
        Load { common, clients, teller }
    }

    /// Has the first success told of a write that begins after this instant.
    pub(super) fn watch(&self, since_ns: u64) {
        self.common.watched_ns.set(Some(since_ns));
    }

    /// Ends it; each client finishes what it has begun. Says how often one had to try
    /// again, and why the first time.
    pub(super) async fn end(self) -> (u64, String) {
        self.common.is_over.set(true);
        for client in self.clients {
            client.await.expect("a client does not panic");
        }
        self.teller.abort();
        self.common.tell();
        (self.common.retries.get(), self.common.example.take())
    }
}

impl LoadCommon {
    fn tell(&self) {
        let tasks = self.untold.take();
        if !tasks.is_empty() {
            say(&Said::Acknowledged { tasks });
        }
    }

    fn try_again(&self, why: &str) {
        self.retries.set(self.retries.get() + 1);
        let mut example = self.example.borrow_mut();
        if example.is_empty() {
            why.clone_into(&mut example);
        }
    }

    fn note(&self, begun_ns: u64, task: Acknowledged) {
        self.untold.borrow_mut().push(task);
        if self.watched_ns.get().is_some_and(|since_ns| begun_ns >= since_ns) {
            self.watched_ns.set(None);
            say(&Said::Watched { at_ns: monotonic_ns() });
        }
    }
}

/// One client: a task after the other, each until it is acknowledged.
async fn submit(common: Rc<LoadCommon>, client: u32) {
    // Spread over the pace, so that they do not all come at once.
    tokio::time::sleep(common.pace.mul_f64(f64::from(client % 64) / 64.0)).await;
    for number in 1.. {
        let id = task_id(common.session, client, number);
        // Each session has owners of its own, each of which has few enough tasks.
        let owner = (u64::from(common.session) << 32) | (number / TASKS_PER_CLIENT_AND_OWNER);
        let (started, mut begun_ns) = (Instant::now(), monotonic_ns());
        loop {
            let node = &common.node;
            match propose(node, submission(node, id, owner, LOAD_BYTES)).await {
                Ok(Outcome::TaskSubmitted { created_ms, .. }) => {
                    common.note(begun_ns, acknowledged(id, created_ms));
                    break;
                }
                // Commands are idempotent: one whose outcome is unknown is given again.
                Ok(other) => common.try_again(&format!("{other:?}")),
                Err(why) => common.try_again(&why),
            }
            if common.is_over.get() {
                return;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
            begun_ns = monotonic_ns();
        }
        if common.is_over.get() {
            return;
        }
        tokio::time::sleep(common.pace.saturating_sub(started.elapsed())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_tells_who_submitted_the_task() {
        let id = task_id(7, 63, 1 << 40);
        let told = acknowledged(id, 5);
        let expected = Acknowledged { session: 7, client: 63, number: 1 << 40, created_ms: 5 };
        assert_eq!(told, expected);
    }

    #[test]
    fn parameters_are_json_of_the_length_asked_for() {
        for bytes in [2, 3, 1_024] {
            let json = json_of(bytes);
            assert_eq!(json.len(), bytes);
            assert!(serde_json::from_slice::<String>(&json).is_ok());
        }
    }
}
