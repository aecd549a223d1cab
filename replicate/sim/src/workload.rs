//! Clients that submit tasks, run them, read them and register workers, at any node.
//!
//! A client knows only what it was told. Everything it was told is in the ledger, and
//! what must never be lost is remembered here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shardgate_replicate::control_log::raft::Committed;
use shardgate_replicate_proto::coordinator::{
    Addresses, Command, Departure, Labels, NodeRegistration, Outcome, Payload, State, TaskStatus,
    TaskSubmission, WorkerRegistration,
};
use shardgate_replicate_proto::identity::{Incarnation, NodeId, Registration, TaskId};

use crate::cluster::Cluster;
use crate::mutant::Mutant;
use crate::network::Log;
use crate::world::sleep;

/// The service whose calls registered workers make.
const POOLED: &str = "pooled";

/// What clients were told and may rely on.
#[derive(Clone, Default)]
pub struct Promises {
    tasks: Arc<Mutex<BTreeMap<TaskId, Promise>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    /// How the task ended, once somebody was told.
    ended: Option<TaskStatus>,
}

impl Promises {
    fn tasks(&self) -> MutexGuard<'_, BTreeMap<TaskId, Promise>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many tasks were promised to be kept.
    pub fn count(&self) -> usize {
        self.tasks().len()
    }

    /// Which promises a state breaks.
    pub fn broken_by(&self, state: &State) -> Vec<String> {
        let mut broken = Vec::new();
        for (id, promise) in self.tasks().iter() {
            let Some(task) = state.task(*id) else {
                broken.push(format!("task {id} was accepted and is gone"));
                continue;
            };
            if let Some(ended) = promise.ended
                && task.status() != ended
            {
                broken.push(format!(
                    "task {id} had ended as {ended:?} and is {:?} now",
                    task.status()
                ));
            }
        }
        broken
    }

    fn accepted(&self, id: TaskId) {
        self.tasks().entry(id).or_default();
    }

    fn ended(&self, cluster: &Cluster, id: TaskId, status: TaskStatus) {
        let mut tasks = self.tasks();
        let promise = tasks.entry(id).or_default();
        match promise.ended {
            Some(before) if before != status => {
                cluster.world.broken(format!(
                    "task {id} was told to have ended as {before:?} and as {status:?}"
                ));
            }
            Some(_) | None => promise.ended = Some(status),
        }
    }

    fn any(&self, cluster: &Cluster) -> Option<TaskId> {
        let tasks = self.tasks();
        if tasks.is_empty() {
            return None;
        }
        // Mostly late ones, which are likely to be open.
        let recent = tasks.len().min(40);
        tasks.keys().rev().nth(cluster.world.below(recent)).copied()
    }
}

/// Registers every node, as nodes do at their start.
pub async fn register_nodes(cluster: &Cluster) {
    for id in cluster.ids() {
        let registration = NodeRegistration {
            id,
            name: format!("n{id}").into(),
            incarnation: Incarnation(1),
            addresses: Addresses::default(),
            zone: format!("z{}", id.0 % 2).into(),
            region: "r".into(),
            weight: 1,
            feature_level: 0,
        };
        while !write(cluster, Command::RegisterNode(Box::new(registration.clone()))).await {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// One client, until `end`.
pub async fn client(cluster: Cluster, promises: Promises, end: Duration) {
    let world = cluster.world.clone();
    while world.now() < end {
        sleep(world.between(Duration::ZERO, Duration::from_millis(60))).await;
        match world.below(10) {
            0..=2 => submit(&cluster, &promises).await,
            3..=6 => advance(&cluster, &promises).await,
            7 => worker(&cluster).await,
            _ => drop(read(&cluster, |_| ()).await),
        }
    }
}

fn some_log(cluster: &Cluster) -> Option<Log> {
    let mut logs = cluster.logs();
    if logs.is_empty() {
        return None;
    }
    let at = cluster.world.below(logs.len());
    Some(logs.swap_remove(at).1)
}

/// Proposes at some node; what comes of it is in the ledger.
async fn propose(cluster: &Cluster, commands: Vec<Command>) -> Option<Committed> {
    let log = some_log(cluster)?;
    let asked = cluster.ledger.asked();
    match log.propose(commands).await {
        Ok(committed) => {
            cluster.ledger.written(asked, committed.index, &committed.outcomes);
            Some(committed)
        }
        Err(_) => {
            cluster.world.count("outcome unknown");
            None
        }
    }
}

async fn write(cluster: &Cluster, command: Command) -> bool {
    propose(cluster, vec![command]).await.is_some()
}

/// Reads at some node what was committed before.
async fn read<R>(cluster: &Cluster, look: impl FnOnce(&State) -> R) -> Option<R> {
    let log = some_log(cluster)?;
    let asked = cluster.ledger.asked();
    let skips = cluster.world.has(Mutant::SkipBarrier);
    if !skips && log.read_barrier().await.is_err() {
        cluster.world.count("read refused");
        return None;
    }
    let (found, index) = log.read_at(|state, index| (look(state), index));
    cluster.ledger.read(asked, index);
    Some(found)
}

async fn submit(cluster: &Cluster, promises: &Promises) {
    let world = &cluster.world;
    // The time of submission leads, so that the newest come last.
    let id = TaskId(
        u128::from(u64::try_from(world.now().as_micros()).unwrap_or(0)) << 64
            | u128::from(world.bits()),
    );
    let pooled = world.chance(400_000);
    let submission = TaskSubmission {
        id,
        owner: format!("owner {}", world.below(5)).into_bytes().into(),
        tool: "echo".into(),
        service: if pooled { POOLED } else { "static" }.into(),
        params: b"{}"[..].into(),
        labels: Labels::default(),
        needs_worker: pooled,
        idempotent: world.chance(500_000),
        ttl_ms: None,
        poll_interval_ms: None,
        executor: NodeId(
            u16::try_from(1 + world.below(cluster.ids().len())).expect("a small number"),
        ),
    };
    let submit = Command::SubmitTask(Box::new(submission));
    // A client that hears nothing asks again, elsewhere: the task must not be there twice.
    for _ in 0..2 {
        let Some(committed) = propose(cluster, vec![submit.clone()]).await else {
            if world.has(Mutant::TakeSilenceForConsent) {
                promises.accepted(id);
            }
            continue;
        };
        if matches!(committed.outcomes[0], Outcome::TaskSubmitted { .. }) {
            promises.accepted(id);
        }
        return;
    }
}

/// What an executor or an owner does next with a task.
async fn advance(cluster: &Cluster, promises: &Promises) {
    let Some(id) = promises.any(cluster) else { return };
    let seen =
        read(cluster, |state| state.task(id).map(|task| (task.attempt, task.status()))).await;
    let (attempt, status) = match seen {
        None => return,
        Some(None) => {
            return cluster
                .world
                .broken(format!("task {id} was accepted, and a later read does not find it"));
        }
        Some(Some(seen)) => seen,
    };
    if status.is_final() {
        return promises.ended(cluster, id, status);
    }
    let next = match cluster.world.below(6) {
        0 => Command::StartTask { id, attempt },
        1 => Command::UpdateTask { id, attempt, report: 1, status_message: Some("half".into()) },
        2 | 3 => Command::CompleteTask {
            id,
            attempt,
            payload: Payload::Inline(b"{}"[..].into()),
            failed: false,
        },
        4 => Command::FailTask { id, attempt, code: -32_000, message: "it failed".into() },
        _ => Command::CancelTask { id, reason: None },
    };
    let Some(committed) = propose(cluster, vec![next]).await else { return };
    if let Outcome::TaskEnded { status } = committed.outcomes[0] {
        promises.ended(cluster, id, status);
    }
}

/// A worker comes or goes.
async fn worker(cluster: &Cluster) {
    let world = &cluster.world;
    let name: Box<str> = format!("worker-{}", world.below(4)).into();
    let known = read(cluster, |state| state.worker(&name).map(|worker| worker.registration)).await;
    let Some(known) = known else { return };
    let command = match known {
        Some(registration) if world.chance(500_000) => {
            Command::DeregisterWorker { name, registration, why: Departure::LeaseEnded }
        }
        Some(_) | None => Command::RegisterWorker(Box::new(WorkerRegistration {
            name,
            registration: Registration(u64::try_from(world.now().as_micros()).unwrap_or(u64::MAX)),
            service: POOLED.into(),
            url: "http://127.0.0.1:9/mcp".into(),
            labels: Labels::default(),
            capacity: 3,
            lease_ms: 10_000,
            via: NodeId(1),
        })),
    };
    write(cluster, command).await;
}
