//! The admin API's part with which tool servers register themselves as workers.
//!
//! A worker registers, gives a sign of life more often than its lease is long, and says when
//! it leaves. It may do each of these at another node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::{delete, get, put};
use serde::{Deserialize, Serialize};
use shardgate_replicate_proto::coordinator::{
    Command, Departure, Labels, Outcome, WorkerRegistration,
};
use shardgate_replicate_proto::identity::Registration;

use super::Place;
use super::api::{Answer, Freshness, Refused, look, not_proposed};
use super::report::WorkerReport;
use crate::config::HttpUrl;
use crate::control::server::Desk;

/// The routes.
pub(super) fn routes() -> Router<Arc<Desk>> {
    Router::new()
        .route("/api/v1/workers", get(workers).post(register))
        .route("/api/v1/workers/{name}/beat", put(beat))
        .route("/api/v1/workers/{name}", delete(leave))
}

#[derive(Clone, Debug, Serialize)]
struct WorkersReport {
    workers: Vec<WorkerReport>,
}

async fn workers(
    State(desk): State<Arc<Desk>>,
    Query(freshness): Query<Freshness>,
) -> Answer<WorkersReport> {
    let workers = |place: &Place| {
        let state = place.log.state();
        Ok(WorkersReport { workers: state.workers().map(WorkerReport::of).collect() })
    };
    look(&desk, freshness, workers).await
}

/// What a worker says of itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewWorker {
    name: String,
    service: String,
    url: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    capacity: u32,
    lease_ms: u32,
}

/// Which registration of a worker speaks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registered {
    registration: u64,
}

async fn register(
    State(desk): State<Arc<Desk>>,
    Json(worker): Json<NewWorker>,
) -> Answer<Registered> {
    HttpUrl::parse(&worker.url)
        .map_err(|why| Refused(StatusCode::BAD_REQUEST, format!("url: {why}")))?;
    let registered = desk.place.ask(async move |place| {
        let known = place.log.state().worker(&worker.name).map(|known| known.registration.0);
        // Later than any before of this name, as long as clocks roughly agree; if they don't,
        // the log refuses it.
        let registration = Registration(unix_ms().max(known.map_or(0, |known| known + 1)));
        let labels = worker.labels.into_iter().map(|(key, value)| (key.into(), value.into()));
        let command = Command::RegisterWorker(Box::new(WorkerRegistration {
            name: worker.name.into(),
            registration,
            service: worker.service.into(),
            url: worker.url.into(),
            labels: Labels(labels.collect()),
            capacity: worker.capacity,
            lease_ms: worker.lease_ms,
            via: place.log.status().node,
        }));
        propose(&place, command).await?;
        Ok(Registered { registration: registration.0 })
    });
    registered.await?.map(Json)
}

async fn propose(place: &Place, command: Command) -> Result<(), Refused> {
    let committed = place.log.propose(vec![command]).await.map_err(not_proposed)?;
    match committed.first() {
        Some(Outcome::Refused(why)) => Err(Refused(StatusCode::CONFLICT, why.to_string())),
        _ => Ok(()),
    }
}

async fn beat(
    State(desk): State<Arc<Desk>>,
    Path(name): Path<String>,
    Json(Registered { registration }): Json<Registered>,
) -> Answer<Registered> {
    let beaten = desk.place.ask(async move |place| {
        if is_present(&place, &name, registration).is_err() {
            // Perhaps this node is behind.
            let barrier = place.log.read_barrier().await;
            barrier.map_err(|error| Refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
            is_present(&place, &name, registration)?;
        }
        if let Some(node) = &place.node {
            node.worker_beat(&name, Registration(registration));
        }
        Ok(Registered { registration })
    });
    beaten.await?.map(Json)
}

async fn leave(
    State(desk): State<Arc<Desk>>,
    Path(name): Path<String>,
    Json(Registered { registration }): Json<Registered>,
) -> Answer<Registered> {
    let left = desk.place.ask(async move |place| {
        let command = Command::DeregisterWorker {
            name: name.into(),
            registration: Registration(registration),
            why: Departure::Left,
        };
        propose(&place, command).await?;
        Ok(Registered { registration })
    });
    left.await?.map(Json)
}

/// A worker whose lease has ended must learn of it, or it would wait for calls for ever.
fn is_present(place: &Place, name: &str, registration: u64) -> Result<(), Refused> {
    let known = place.log.state().worker(name).map(|known| known.registration.0);
    let sentence = match known {
        Some(known) if known == registration => return Ok(()),
        Some(known) => format!(
            "{name} is registered as {known}, not as {registration}: another process has its name"
        ),
        None => format!("there is no worker {name}; its lease may have ended: register again"),
    };
    Err(Refused(StatusCode::NOT_FOUND, sentence))
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
