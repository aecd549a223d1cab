//! The admin API's part that is about the cluster, its nodes and tasks.
//!
//! Reads show all that was committed before they were asked, or say that this node can't
//! tell; with `?stale=true` they show what this node knows. Changes are committed before
//! they are answered.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use shardgate_replicate::control_log::raft::{Member, MemberChange};
use shardgate_replicate::control_log::{MemberError, ProposeError};
use shardgate_replicate_proto::coordinator::{
    Command, Outcome, PAGE_TASKS_MAX, TaskFilter, TaskStatus,
};
use shardgate_replicate_proto::identity::{NodeId, TaskId};

use super::report::{
    ClusterReport, NodeReport, TaskReport, TasksReport, VshardReport, VshardsReport,
};
use super::{Ending, Place, workers};
use crate::control::server::Desk;

/// Tells of the cluster as a whole.
pub(crate) const CLUSTER_PATH: &str = "/api/v1/cluster";
/// Lists nodes, and adds them.
pub(crate) const NODES_PATH: &str = "/api/v1/nodes";

/// Tasks on one page, if nobody says how many.
const PAGE_TASKS: usize = 100;

/// The routes.
pub(in crate::control) fn routes() -> Router<Arc<Desk>> {
    Router::new()
        .route(CLUSTER_PATH, get(cluster))
        .route(NODES_PATH, get(nodes).post(add_node))
        .route("/api/v1/nodes/{id}/{change}", post(change_node))
        .route("/api/v1/vshards", get(vshards))
        .route("/api/v1/tasks", get(tasks))
        .route("/api/v1/tasks/{id}", get(task))
        .merge(workers::routes())
}

/// An answer that is no success: `{"error": sentence}`.
#[derive(Debug)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(BTreeMap::from([("error", self.1)]))).into_response()
    }
}

impl From<Ending> for Refused {
    fn from(ending: Ending) -> Refused {
        Refused(StatusCode::SERVICE_UNAVAILABLE, ending.to_string())
    }
}

pub(super) type Answer<T> = Result<Json<T>, Refused>;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct Freshness {
    #[serde(default)]
    stale: bool,
}

fn alone() -> Refused {
    let sentence = "this gateway is alone: its configuration has no [cluster]";
    Refused(StatusCode::NOT_FOUND, sentence.to_owned())
}

/// Looks at the log, once it is as fresh as is asked for.
pub(super) async fn look<T: Send + 'static>(
    desk: &Desk,
    freshness: Freshness,
    look: impl FnOnce(&Place) -> Result<T, Refused> + Send + 'static,
) -> Answer<T> {
    let looked = desk.place.ask(move |place| async move {
        if !freshness.stale {
            let barrier = place.log.read_barrier().await;
            barrier.map_err(|error| {
                let sentence = format!("{error}; ?stale=true shows what this node knows");
                Refused(StatusCode::SERVICE_UNAVAILABLE, sentence)
            })?;
        }
        look(&place)
    });
    looked.await?.map(Json)
}

async fn cluster(State(desk): State<Arc<Desk>>) -> Answer<ClusterReport> {
    let own = desk.own.clone();
    let seen = desk.place.ask(async move |place| place.cluster(&own).await);
    seen.await?.map(Json).ok_or_else(alone)
}

#[derive(Clone, Debug, Serialize)]
struct NodesReport {
    nodes: Vec<NodeReport>,
}

async fn nodes(
    State(desk): State<Arc<Desk>>,
    Query(freshness): Query<Freshness>,
) -> Answer<NodesReport> {
    let nodes = |place: &Place| place.nodes().map(|nodes| NodesReport { nodes }).ok_or_else(alone);
    look(&desk, freshness, nodes).await
}

async fn vshards(
    State(desk): State<Arc<Desk>>,
    Query(freshness): Query<Freshness>,
) -> Answer<VshardsReport> {
    let vshards = |place: &Place| {
        let state = place.log.state();
        let vshards = state.vshards().iter().enumerate().map(VshardReport::of).collect();
        Ok(VshardsReport { vshards })
    };
    look(&desk, freshness, vshards).await
}

/// Which tasks are asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TasksQuery {
    status: Option<String>,
    worker: Option<String>,
    service: Option<String>,
    /// Milliseconds since 1970.
    since: Option<u64>,
    cursor: Option<String>,
    limit: Option<usize>,
    stale: bool,
}

async fn tasks(
    State(desk): State<Arc<Desk>>,
    Query(query): Query<TasksQuery>,
) -> Answer<TasksReport> {
    let bad = |sentence: String| Refused(StatusCode::BAD_REQUEST, sentence);
    let status = match &query.status {
        Some(text) => Some(TaskStatus::of(text).ok_or_else(|| {
            let known: Vec<_> = TaskStatus::ALL.iter().map(|status| status.as_str()).collect();
            bad(format!("{text:?} is no status of a task; there are {}", known.join(", ")))
        })?),
        None => None,
    };
    let cursor = query.cursor.as_deref().map(str::parse).transpose();
    let cursor = cursor.map_err(|error| bad(format!("{error}")))?;
    let limit = query.limit.unwrap_or(PAGE_TASKS);
    if !(1..=PAGE_TASKS_MAX).contains(&limit) {
        return Err(bad(format!("limit is {limit}, but must be 1 to {PAGE_TASKS_MAX}")));
    }
    let filter = TaskFilter {
        status,
        worker: query.worker.map(Into::into),
        owner: None,
        service: query.service.map(Into::into),
        since_ms: query.since,
    };
    let tasks = move |place: &Place| {
        let page = place.log.state().tasks(&filter, cursor, limit);
        let tasks = page.tasks.iter().map(|task| TaskReport::of(task)).collect();
        Ok(TasksReport { tasks, next_cursor: page.next.map(|next| next.to_string()) })
    };
    look(&desk, Freshness { stale: query.stale }, tasks).await
}

async fn task(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<String>,
    Query(freshness): Query<Freshness>,
) -> Answer<TaskReport> {
    let known: Result<TaskId, _> = id.parse();
    let id = known.map_err(|error| Refused(StatusCode::BAD_REQUEST, format!("{id:?}: {error}")))?;
    let task = move |place: &Place| {
        let gone = || {
            let sentence = format!("there is no task {id}; its time may be over");
            Refused(StatusCode::NOT_FOUND, sentence)
        };
        place.log.state().task(id).map(|task| TaskReport::of(task)).ok_or_else(gone)
    };
    look(&desk, freshness, task).await
}

/// A node that is to be added.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewNode {
    /// Its number.
    pub(crate) id: u16,
    /// Its name.
    pub(crate) name: String,
    /// Where the other nodes reach it: `host:port`.
    pub(crate) address: String,
}

/// A change that is committed.
#[derive(Clone, Debug, Serialize)]
struct Changed {
    voters: Vec<u16>,
    learners: Vec<u16>,
}

// As for every change here: the body must be called JSON, which a foreign page can't do
// without being asked about it first.
async fn add_node(State(desk): State<Arc<Desk>>, Json(node): Json<NewNode>) -> Answer<Changed> {
    if node.id == 0 || node.address.rsplit_once(':').is_none() {
        let sentence = "a node has an id from 1 to 65535 and an address HOST:PORT";
        return Err(Refused(StatusCode::BAD_REQUEST, sentence.to_owned()));
    }
    let member = Member { name: node.name, address: node.address };
    change_members(&desk, MemberChange::AddLearner(node.id, member)).await
}

async fn change_node(
    State(desk): State<Arc<Desk>>,
    Path((id, change)): Path<(u16, String)>,
    Json(Nothing {}): Json<Nothing>,
) -> Answer<Changed> {
    match change.as_str() {
        "promote" => change_members(&desk, MemberChange::Promote(id)).await,
        "demote" => change_members(&desk, MemberChange::Demote(id)).await,
        "remove" => remove_node(&desk, NodeId(id)).await,
        other => {
            let sentence = format!("{other:?} is no change of a node: promote, demote or remove");
            Err(Refused(StatusCode::NOT_FOUND, sentence))
        }
    }
}

/// The body of a change that needs none, `{}`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

async fn change_members(desk: &Desk, change: MemberChange) -> Answer<Changed> {
    let changed = desk.place.ask(async move |place| {
        let node = place.node.as_ref().ok_or_else(alone)?;
        node.log().change_members(&change).await.map_err(not_changed)?;
        Ok(members(&place))
    });
    changed.await?.map(Json)
}

fn not_changed(error: MemberError) -> Refused {
    let status = match error {
        MemberError::NoLeader => StatusCode::SERVICE_UNAVAILABLE,
        MemberError::Refused(_) => StatusCode::CONFLICT,
    };
    Refused(status, error.to_string())
}

fn members(place: &Rc<Place>) -> Changed {
    let status = place.log.status();
    Changed {
        voters: status.voters.iter().map(|node| node.0).collect(),
        learners: status.learners.iter().map(|node| node.0).collect(),
    }
}

/// First it is no member of the log any more, then its number and name are closed for good.
async fn remove_node(desk: &Desk, id: NodeId) -> Answer<Changed> {
    let removed = desk.place.ask(async move |place| {
        let node = place.node.as_ref().ok_or_else(alone)?;
        if node.log().members().contains_key(&id) {
            node.log().change_members(&MemberChange::Remove(id.0)).await.map_err(not_changed)?;
        }
        let committed = place.log.propose(vec![Command::RemoveNode { id }]).await;
        match committed.map_err(not_proposed)?.as_slice() {
            [Outcome::Refused(why)] => Err(Refused(StatusCode::CONFLICT, why.to_string())),
            _ => Ok(members(&place)),
        }
    });
    removed.await?.map(Json)
}

pub(super) fn not_proposed(error: ProposeError) -> Refused {
    let status = match error {
        ProposeError::NotTaken { .. } | ProposeError::Unknown { .. } | ProposeError::Stopped => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ProposeError::Bad(_) => StatusCode::BAD_REQUEST,
    };
    Refused(status, error.to_string())
}
