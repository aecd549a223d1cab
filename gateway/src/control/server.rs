//! The admin server: what it answers, to whom, and how much of it at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Json, Response};
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::cluster::{OwnFacts, PlaceDoor, routes};
use super::facts::NodeFacts;
use super::links::ShardLinks;
use super::reload::ReloadCounts;
use super::status::{History, Moment, Sample};
use super::upstreams::{Roll, UpstreamsReport, briefs, children_by_name, reports};
use super::{Phase, PhaseCell};
use crate::children::ChildCounters;
use crate::config::AllowedHosts;
use crate::metrics::{
    Exposition, OPENMETRICS_CONTENT_TYPE, ProcessFacts, ShardSnapshot, UpstreamSum,
    render_openmetrics,
};
use crate::pins::{ApproveError, ApproveRequest, PinBook};

/// Further connections wait in the kernel's queue until one of these has ended.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// A request's headers must be complete, and a kept-alive connection must send its next one, within this.
pub const HEADER_TIME_MAX: Duration = Duration::from_secs(10);
/// An admin connection is closed after this, whatever it does: one that doesn't read must not stay.
pub const CONNECTION_LIFE_MAX: Duration = Duration::from_secs(300);

/// How often the shards are sampled, so that rates look back a few seconds.
const SAMPLE_PERIOD: Duration = Duration::from_secs(2);
/// How long accepting rests after an error such as too many open files.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Lists pinned tools.
pub(crate) const CATALOG_PATH: &str = "/api/v1/catalog";
/// Approves definitions of pinned tools.
pub(crate) const APPROVE_PATH: &str = "/api/v1/catalog/approve";

const PAGE: &str = include_str!("page.html");
// The page holds its own style and script, talks to its own origin and needs nothing else.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
    script-src 'unsafe-inline'; connect-src 'self'; img-src data:; frame-ancestors 'none'; \
    base-uri 'none'; form-action 'none'";

/// All that the routes answer from.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) facts: NodeFacts,
    pub(super) links: ShardLinks,
    pub(super) allowed_hosts: AllowedHosts,
    pub(super) phase: PhaseCell,
    pub(super) place: PlaceDoor,
    pub(super) own: OwnFacts,
    pub(super) reloads: ReloadCounts,
    pub(super) children: ChildCounters,
    pub(super) pins: Option<Arc<PinBook>>,
    pub(super) started: Instant,
    // Never held across an await; the control thread is its only user.
    pub(super) history: Mutex<History>,
    pub(super) roll: Mutex<Roll>,
}

impl Desk {
    async fn take_sample(&self) -> Sample {
        let shards = self.links.snapshots().await;
        Sample { at: Instant::now(), shards }
    }

    /// What there is to tell of the moment at which a sample was taken.
    fn moment<'m>(&'m self, now: &'m Sample, history: &'m History) -> Moment<'m> {
        Moment {
            facts: &self.facts,
            state: self.phase.now().as_str(),
            started: self.started,
            now,
            base: history.base(now.at),
            process: ProcessFacts::read(),
            upstreams: briefs(&self.add_up(&now.shards)),
        }
    }

    fn add_up(&self, shards: &[Option<ShardSnapshot>]) -> Vec<UpstreamSum> {
        self.roll.lock().unwrap_or_else(PoisonError::into_inner).add_up(shards)
    }
}

/// Takes samples for ever.
pub(super) async fn sample(desk: Arc<Desk>) {
    let mut ticks = tokio::time::interval(SAMPLE_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sample = desk.take_sample().await;
        let mut history = desk.history.lock().unwrap_or_else(PoisonError::into_inner);
        let load = desk.moment(&sample, &history).report().totals;
        *desk.own.load.lock().unwrap_or_else(PoisonError::into_inner) = Some(load);
        history.push(sample);
    }
}

/// Accepts for ever.
pub(super) async fn serve(listener: TcpListener, desk: Arc<Desk>) {
    let router = router(desk);
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve_connection(stream, router.clone(), place));
            }
            Err(error) => {
                tracing::warn!(%error, "accept on the admin address");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router, place: OwnedSemaphorePermit) {
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_LIFE_MAX, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an admin connection ended"),
        Err(_) => tracing::debug!("an admin connection had lived long enough"),
    }
    drop(place);
}

fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/upstreams", get(upstreams))
        .route(CATALOG_PATH, get(catalog))
        .route(APPROVE_PATH, post(approve))
        .merge(routes())
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .fallback(not_found)
        .layer(middleware::from_fn_with_state(Arc::clone(&desk), check_host))
        .with_state(desk)
}

/// A foreign page can make a browser come here under a name of its own (DNS rebinding):
/// only known names are answered. Answers are never kept by anyone between.
async fn check_host(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    let mut response = match (host, second) {
        (Some(host), None) if desk.allowed_hosts.permits(host.as_bytes()) => {
            next.run(request).await
        }
        // RFC 9112, 3.2: "A server MUST respond with a 400 (Bad Request) status code to any
        // HTTP/1.1 request message that lacks a Host header field and to any request message
        // that contains more than one Host header field line".
        (None, _) | (_, Some(_)) => {
            (StatusCode::BAD_REQUEST, "one Host header is needed\n").into_response()
        }
        (Some(_), None) => (
            StatusCode::FORBIDDEN,
            "the admin server may not be called by this name; admin.allowed_hosts names those it may\n",
        )
            .into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn page() -> impl IntoResponse {
    ([(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(PAGE))
}

async fn metrics(State(desk): State<Arc<Desk>>) -> impl IntoResponse {
    let shards = desk.links.snapshots().await;
    // A node that is ending has no cluster to count any more.
    let cluster = desk.place.ask(async |place| place.count()).await.ok().flatten();
    let exposition = Exposition {
        cluster,
        node: desk.facts.node.clone(),
        version: desk.facts.version,
        upstreams: desk.add_up(&shards),
        children: children_by_name(&desk.children),
        shards,
        uptime_seconds: desk.started.elapsed().as_secs_f64(),
        is_draining: desk.phase.now() == Phase::Draining,
        config_reloads: [
            ("accepted", desk.reloads.accepted()),
            ("refused", desk.reloads.refused()),
        ],
        quarantined: desk.pins.as_ref().map(|book| book.quarantined()).unwrap_or_default(),
        process: ProcessFacts::read(),
    };
    ([(header::CONTENT_TYPE, OPENMETRICS_CONTENT_TYPE)], render_openmetrics(exposition))
}

async fn status(State(desk): State<Arc<Desk>>) -> impl IntoResponse {
    let now = desk.take_sample().await;
    let history = desk.history.lock().unwrap_or_else(PoisonError::into_inner);
    Json(desk.moment(&now, &history).report())
}

async fn upstreams(State(desk): State<Arc<Desk>>) -> impl IntoResponse {
    let now = desk.take_sample().await;
    let sums = desk.add_up(&now.shards);
    let history = desk.history.lock().unwrap_or_else(PoisonError::into_inner);
    let base = history.base(now.at);
    let since = base.map_or(desk.started, |base| base.at);
    Json(UpstreamsReport {
        node: desk.facts.node.clone(),
        interval_seconds: now.at.duration_since(since).as_secs_f64(),
        upstreams: reports(&sums, &children_by_name(&desk.children), &now, base),
    })
}

async fn catalog(State(desk): State<Arc<Desk>>) -> Response {
    match &desk.pins {
        Some(book) => Json(book.report()).into_response(),
        None => no_pins(),
    }
}

/// The body must be called JSON, which a foreign page can't do without being asked about it
/// first (Fetch standard, CORS-preflight), and nobody here says yes.
async fn approve(State(desk): State<Arc<Desk>>, Json(which): Json<ApproveRequest>) -> Response {
    let Some(book) = &desk.pins else { return no_pins() };
    match book.approve(&which) {
        Ok(approved) => Json(approved).into_response(),
        Err(error @ ApproveError::Unknown) => {
            (StatusCode::NOT_FOUND, format!("{error}\n")).into_response()
        }
        Err(error @ ApproveError::File(_)) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let text = format!("{error}: {}\n", cause.unwrap_or_default());
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

fn no_pins() -> Response {
    (StatusCode::NOT_FOUND, "this gateway was started without upstreams\n").into_response()
}

/// The process lives.
async fn healthz() -> &'static str {
    "ok\n"
}

/// Clients should be sent here.
async fn readyz(State(desk): State<Arc<Desk>>) -> (StatusCode, String) {
    let phase = desk.phase.now();
    let is_taken = async || desk.place.ask(async |place| place.is_taken()).await == Ok(true);
    match phase {
        Phase::Ready if is_taken().await => (StatusCode::OK, "ready\n".to_owned()),
        Phase::Ready => {
            let text = "joining: the cluster has not taken this node yet; it needs a majority of \
                        its voters\n";
            (StatusCode::SERVICE_UNAVAILABLE, text.to_owned())
        }
        Phase::Starting | Phase::Draining => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", phase.as_str()))
        }
    }
}

async fn not_found() -> impl IntoResponse {
    (
        StatusCode::NOT_FOUND,
        "there is /, /metrics, /api/v1/status, /api/v1/upstreams, /api/v1/catalog, \
         /api/v1/cluster, /api/v1/nodes, /api/v1/vshards, /api/v1/workers, /api/v1/tasks, \
         /healthz and /readyz here; \
         clients connect to the listen address\n",
    )
}
