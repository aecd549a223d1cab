//! What the admin API tells of the cluster, as JSON objects.
//!
//! Times are milliseconds since 1970 (`_ms`). Fields may be added, never renamed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shardgate_replicate::control_log::{LogStatus, Role};
use shardgate_replicate_proto::coordinator::{
    Addresses, Labels, Node, Standing, State, Task, Vshard, Worker,
};

use crate::control::status::Load;

/// The cluster as one node sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// The cluster's name.
    pub cluster: String,
    /// The node that tells.
    pub node: u16,
    /// Its log.
    pub log: LogReport,
    /// Numbers of what the cluster holds.
    pub counts: CountsReport,
    /// All nodes, those that are only members of the log included.
    pub nodes: Vec<NodeReport>,
}

/// A node's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReport {
    /// `leader`, `follower`, `candidate`, `learner` or `stopped`.
    pub role: String,
    /// The term.
    pub term: u64,
    /// Who leads, as far as the node knows.
    pub leader: Option<u16>,
    /// The last entry it holds.
    pub last_index: u64,
    /// The last entry it knows to be committed.
    pub committed_index: u64,
    /// The last entry that is part of its state.
    pub applied_index: u64,
    /// The last entry in its newest snapshot.
    pub snapshot_index: u64,
    /// The last entry that is in no file any more.
    pub purged_index: u64,
    /// Who votes.
    pub voters: Vec<u16>,
    /// Who only learns.
    pub learners: Vec<u16>,
    /// Why it has stopped, if it has.
    pub stopped: Option<String>,
}

impl From<&LogStatus> for LogReport {
    fn from(status: &LogStatus) -> LogReport {
        let role = match status.role {
            Role::Learner => "learner",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
            Role::Stopped => "stopped",
        };
        LogReport {
            role: role.to_owned(),
            term: status.term,
            leader: status.leader.map(|leader| leader.0),
            last_index: status.last_index,
            committed_index: status.committed_index,
            applied_index: status.applied_index,
            snapshot_index: status.snapshot_index,
            purged_index: status.purged_index,
            voters: status.voters.iter().map(|voter| voter.0).collect(),
            learners: status.learners.iter().map(|learner| learner.0).collect(),
            stopped: status.stopped.clone(),
        }
    }
}

/// What the cluster holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountsReport {
    /// Nodes that are not fenced.
    pub nodes_live: usize,
    /// Workers.
    pub workers: usize,
    /// Tasks, ended ones included.
    pub tasks: usize,
    /// Tasks that wait for a worker.
    pub tasks_queued: usize,
    /// Virtual shards without a primary.
    pub vshards_unowned: usize,
}

impl From<&State> for CountsReport {
    fn from(state: &State) -> CountsReport {
        let counts = state.counts();
        CountsReport {
            nodes_live: counts.nodes_live,
            workers: counts.workers,
            tasks: counts.tasks,
            tasks_queued: counts.tasks_queued,
            vshards_unowned: counts.vshards_unowned,
        }
    }
}

/// One node, as another, or itself, sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its number.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// `voter`, `learner`, or `none` if it is no member of the log.
    pub member: String,
    /// `live`, `draining`, `fenced`, or `unregistered` if it has never taken part.
    pub standing: String,
    /// Why it was fenced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fenced_because: Option<String>,
    /// Failure domain.
    pub zone: String,
    /// Region.
    pub region: String,
    /// For other nodes.
    pub peer_address: String,
    /// For clients.
    pub client_address: String,
    /// For the admin API.
    pub admin_address: String,
    /// Its latest life.
    pub incarnation: u64,
    /// `self`, `up`, or `down`: the link to it.
    pub link: String,
    /// What the last attempt to reach it came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_failure: Option<String>,
    /// Why it is suspected of being gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspected: Option<String>,
    /// Virtual shards whose primary it is.
    pub primaries: u32,
    /// Tasks that have not ended and whose calls it makes.
    pub tasks: usize,
    /// What it says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnReport>,
    /// Why it says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_answer: Option<String>,
}

impl NodeReport {
    /// What the log says of a node.
    pub(super) fn of(node: &Node, state: &State) -> NodeReport {
        let (standing, fenced_because) = match &node.standing {
            Standing::Live => ("live", None),
            Standing::Draining => ("draining", None),
            Standing::Fenced { reason } => ("fenced", Some(reason.to_string())),
        };
        let Addresses { peer, client, admin } = &node.addresses;
        NodeReport {
            id: node.id.0,
            name: node.name.to_string(),
            standing: standing.to_owned(),
            fenced_because,
            zone: node.zone.to_string(),
            region: node.region.to_string(),
            peer_address: peer.to_string(),
            client_address: client.to_string(),
            admin_address: admin.to_string(),
            incarnation: node.incarnation.0,
            primaries: state.primaries_of(node.id),
            tasks: state.load_of_node(node.id),
            ..NodeReport::default()
        }
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnReport {
    /// Its program's version.
    pub version: String,
    /// `starting`, `ready` or `draining`.
    pub state: String,
    /// How long it has been running.
    pub uptime_seconds: f64,
    /// Its log.
    pub log: LogReport,
    /// What its clients do, a few seconds ago at most.
    pub load: Option<Load>,
}

/// `GET /api/v1/vshards`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VshardsReport {
    /// All of them, in their order.
    pub vshards: Vec<VshardReport>,
}

/// One virtual shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VshardReport {
    /// Its number.
    pub vshard: usize,
    /// The generation of ownership.
    pub epoch: u64,
    /// Its owner.
    pub primary: Option<u16>,
    /// Who holds all that is acknowledged.
    pub isr: Vec<u16>,
    /// Who is to hold it.
    pub copies: Vec<u16>,
}

impl VshardReport {
    pub(super) fn of((vshard, record): (usize, &Vshard)) -> VshardReport {
        VshardReport {
            vshard,
            epoch: record.epoch.0,
            primary: record.primary.map(|node| node.0),
            isr: record.isr.iter().map(|node| node.0).collect(),
            copies: record.copies.iter().map(|node| node.0).collect(),
        }
    }
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// Its name.
    pub name: String,
    /// Its present registration.
    pub registration: u64,
    /// The service whose tools it offers.
    pub service: String,
    /// Where its MCP endpoint is.
    pub url: String,
    /// What it is labelled with.
    pub labels: BTreeMap<String, String>,
    /// Calls that it runs at one time.
    pub capacity: u32,
    /// Tasks that it was given and that have not ended.
    pub load: u32,
    /// Whether it takes new calls.
    pub accepting: bool,
    /// How long it may be silent.
    pub lease_ms: u32,
    /// The node that it registered at.
    pub via: u16,
    /// When it registered.
    pub registered_ms: u64,
}

impl WorkerReport {
    pub(super) fn of(worker: &Worker) -> WorkerReport {
        WorkerReport {
            name: worker.name.to_string(),
            registration: worker.registration.0,
            service: worker.service.to_string(),
            url: worker.url.to_string(),
            labels: texts(&worker.labels),
            capacity: worker.capacity,
            load: worker.load,
            accepting: worker.accepting,
            lease_ms: worker.lease_ms,
            via: worker.via.0,
            registered_ms: worker.registered_ms,
        }
    }
}

fn texts(labels: &Labels) -> BTreeMap<String, String> {
    labels.0.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// A page of `GET /api/v1/tasks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TasksReport {
    /// In the order of creation.
    pub tasks: Vec<TaskReport>,
    /// To be given as `cursor` for what follows; none: these were the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// One task, without what was asked and answered: that is its owner's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// Its id.
    pub id: String,
    /// As MCP has it.
    pub status: String,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_message: Option<String>,
    /// The tool's name as clients see it.
    pub tool: String,
    /// The service that offers it.
    pub service: String,
    /// The node that makes the call.
    pub executor: u16,
    /// The worker that has it, or had it at its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Counts the times that it was given to an executor.
    pub attempt: u32,
    /// Whether the call may be made again after a crash.
    pub idempotent: bool,
    /// When it was created.
    pub created_ms: u64,
    /// When its status last changed.
    pub updated_ms: u64,
    /// How long it is kept after its creation; none: without end.
    pub ttl_ms: Option<u64>,
}

impl TaskReport {
    pub(super) fn of(task: &Task) -> TaskReport {
        TaskReport {
            id: task.id.to_string(),
            status: task.status().as_str().to_owned(),
            status_message: task.status_message.as_ref().map(ToString::to_string),
            tool: task.tool.to_string(),
            service: task.service.to_string(),
            executor: task.executor.0,
            worker: task.worker.as_ref().map(ToString::to_string),
            attempt: task.attempt,
            idempotent: task.idempotent,
            created_ms: task.created_ms,
            updated_ms: task.updated_ms,
            ttl_ms: task.ttl_ms,
        }
    }
}
