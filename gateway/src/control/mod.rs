//! The control thread: admin HTTP and signals, off the path of every request.
//!
//! Invariants:
//! - It never blocks a shard and never waits on one for more than a second.
//! - The first SIGTERM or SIGINT begins a drain; the second ends the process at once.
//! - SIGHUP and a change of the configuration file read it again: see `reload`.
//! - It answers only requests whose `Host` is allowed: see [`crate::config::AllowedHosts`].

mod cluster;
mod facts;
mod links;
mod reload;
mod resolving;
mod server;
mod status;
mod upstreams;

use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

pub(crate) use cluster::{CLUSTER_PATH, NODES_PATH, NewNode};
pub use cluster::{
    ClusterError, ClusterReport, ClusterSetup, CountsReport, LogReport, NodeReport, OwnReport,
    PEER_ANSWER_WITHIN, TaskReport, TasksReport, VshardReport, VshardsReport, WorkerReport,
    prepare as prepare_cluster,
};
pub use facts::{HostLimit, NodeFacts, host_limits};
pub use links::{ANSWER_TIME_MAX, ControlRequest, ShardInbox, ShardLinks};
pub use reload::{LOOK_PERIOD, ReloadCounts, ReloadSetup};
pub use resolving::{LOOKUP_PERIOD, LOOKUP_TIME_MAX, LOOKUPS_MAX, ResolverSetup};
pub use server::{ADMIN_CONNECTIONS_MAX, CONNECTION_LIFE_MAX, HEADER_TIME_MAX};
pub(crate) use server::{APPROVE_PATH, CATALOG_PATH};
pub use status::{Load, Percentiles, ProcessReport, ShardReport, StatusReport};
pub use upstreams::{
    BreakerReport, ChildrenReport, UpstreamBrief, UpstreamReport, UpstreamsReport,
};

use cluster::{OwnFacts, Place, PlaceDoor};

use crate::children::{self, ChildCommand, ChildrenSetup};
use crate::config::AllowedHosts;
use crate::pins::{self, PinBook, Sighting};
use crate::tasks::{self, DeskSetup};

/// What the control thread needs.
#[derive(Debug)]
pub struct ControlSetup {
    /// The admin server's socket: see [`bind_admin`].
    pub admin: TcpListener,
    /// By which names it may be called.
    pub allowed_hosts: AllowedHosts,
    /// What it tells of the node.
    pub facts: NodeFacts,
    /// How it reaches the shards.
    pub links: ShardLinks,
    /// The children of stdio tool servers, and what shards want of them.
    pub children: Option<(ChildrenSetup, flume::Receiver<ChildCommand>)>,
    /// How the configuration is read again; `None` if it never is.
    pub reload: Option<ReloadSetup>,
    /// How the names of tool servers are looked up; `None` if there are none.
    pub resolver: Option<ResolverSetup>,
    /// Approved definitions of tools, and what shards have seen; `None` without upstreams.
    pub pins: Option<(Arc<PinBook>, flume::Receiver<Sighting>)>,
    /// Where clients' tasks are kept; `None` if there are none.
    pub tasks: Option<TasksSetup>,
    /// The cluster that the node is part of; `None` if it is alone.
    pub cluster: Option<ClusterSetup>,
}

/// What the desk of tasks needs.
#[derive(Debug)]
pub struct TasksSetup(pub(crate) DeskSetup);

/// Why there is no control thread.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The admin address can't be had.
    #[error(
        "listen on admin address {address}; if another program has it, choose one by --admin or admin.address"
    )]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The node can't be part of its cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The thread, its runtime, its signals or its socket can't be set up.
    #[error("start the control thread: {step}")]
    Start {
        /// What failed.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The signal that asks for a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGTERM
    Terminate,
    /// SIGINT, or Ctrl-C.
    Interrupt,
}

/// The running control thread.
#[derive(Debug)]
pub struct Control {
    phase: PhaseCell,
    stops: flume::Receiver<StopSignal>,
    quit: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Binds the admin socket, so that a taken address is known before anything starts.
///
/// # Errors
/// The address is taken, not ours, or not allowed.
pub fn bind_admin(address: SocketAddr) -> Result<TcpListener, ControlError> {
    TcpListener::bind(address).map_err(|source| ControlError::Bind { address, source })
}

/// Starts the thread; its signals are caught and its socket answers when this returns.
///
/// # Errors
/// The operating system refuses a thread, a runtime, the signals or the socket.
pub fn start(setup: ControlSetup) -> Result<Control, ControlError> {
    let phase = PhaseCell::default();
    let (stop_to, stops) = flume::bounded(1);
    let (quit, quit_from) = oneshot::channel();
    let (started_to, started) = flume::bounded(1);
    let thread_phase = phase.clone();
    let thread = thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || run(setup, thread_phase, stop_to, quit_from, &started_to))
        .map_err(|source| ControlError::Start { step: "spawn it", source })?;
    match started.recv() {
        Ok(Ok(())) => Ok(Control { phase, stops, quit, thread }),
        Ok(Err(error)) => Err(error),
        Err(flume::RecvError::Disconnected) => {
            let source = io::Error::other("it ended before it said why");
            Err(ControlError::Start { step: "wait for it", source })
        }
    }
}

impl Control {
    /// Receives once, when a signal asks for a drain. The state is `draining` from then on.
    pub fn stops(&self) -> &flume::Receiver<StopSignal> {
        &self.stops
    }

    /// All shards serve clients: `/readyz` says so from now on.
    pub fn set_ready(&self) {
        self.phase.advance(Phase::Ready);
    }

    /// A drain has begun for another reason than a signal.
    pub fn set_draining(&self) {
        self.phase.advance(Phase::Draining);
    }

    /// Whether a drain has begun.
    pub fn is_draining(&self) -> bool {
        self.phase.now() == Phase::Draining
    }

    /// Ends the thread. Its connections are cut.
    pub fn stop(self) {
        let _ = self.quit.send(());
        if self.thread.join().is_err() {
            tracing::error!("the control thread had panicked");
        }
    }
}

/// Where the node is in its life; it only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Phase {
    Starting,
    Ready,
    Draining,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Draining => "draining",
        }
    }
}

/// The phase, shared between the control thread and the main thread; shards never read it.
#[derive(Clone, Debug, Default)]
struct PhaseCell(Arc<AtomicU8>);

impl PhaseCell {
    fn now(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }

    fn advance(&self, phase: Phase) {
        self.0.fetch_max(phase as u8, Ordering::AcqRel);
    }
}

fn run(
    setup: ControlSetup,
    phase: PhaseCell,
    stop_to: flume::Sender<StopSignal>,
    quit: oneshot::Receiver<()>,
    started: &flume::Sender<Result<(), ControlError>>,
) {
    let step = |step| move |source| ControlError::Start { step, source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(step("build its runtime"));
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return drop(started.send(Err(error))),
    };
    // The control log and the desk of tasks are this thread's alone.
    tokio::task::LocalSet::new().block_on(&runtime, async {
        match begin(setup, phase, stop_to).await {
            Ok((supervised, place)) => {
                let _ = started.send(Ok(()));
                end_with(quit, supervised, &place).await;
            }
            Err(error) => drop(started.send(Err(error))),
        }
    });
    // A lookup whose name server is silent keeps its thread; nobody waits for it any more.
    runtime.shutdown_background();
}

/// Begins all that the thread does.
async fn begin(
    setup: ControlSetup,
    phase: PhaseCell,
    stop_to: flume::Sender<StopSignal>,
) -> Result<(Option<Supervisor>, Rc<Place>), ControlError> {
    let step = |step| move |source| ControlError::Start { step, source };
    let terminate = signal(SignalKind::terminate()).map_err(step("catch SIGTERM"))?;
    let interrupt = signal(SignalKind::interrupt()).map_err(step("catch SIGINT"))?;
    let hangups = signal(SignalKind::hangup()).map_err(step("catch SIGHUP"))?;
    let ControlSetup { facts, links, children, pins, .. } = setup;
    let reloads = ReloadCounts::default();
    setup.admin.set_nonblocking(true).map_err(step("set up the admin socket"))?;
    let listener =
        tokio::net::TcpListener::from_std(setup.admin).map_err(step("set up the admin socket"))?;
    let place = Rc::new(Place::take(setup.cluster, &facts).await?);
    if let Some(TasksSetup(tasks)) = setup.tasks {
        tokio::task::spawn_local(tasks::keep(tasks, place.log()));
    }
    let own = OwnFacts { phase: phase.clone(), started: Instant::now(), load: Arc::default() };
    place.tell_others(own.clone());
    let desk = server::Desk {
        facts,
        links,
        allowed_hosts: setup.allowed_hosts,
        phase: phase.clone(),
        started: own.started,
        own,
        place: PlaceDoor::to(Rc::clone(&place)),
        reloads: reloads.clone(),
        children: children.as_ref().map(|it| it.0.counters.clone()).unwrap_or_default(),
        roll: std::sync::Mutex::default(),
        pins: pins.as_ref().map(|(book, _)| Arc::clone(book)),
        history: std::sync::Mutex::default(),
    };
    let desk = Arc::new(desk);
    tokio::spawn(watch(terminate, StopSignal::Terminate, phase.clone(), stop_to.clone()));
    tokio::spawn(watch(interrupt, StopSignal::Interrupt, phase, stop_to));
    if let Some(reload) = setup.reload {
        tokio::spawn(reload::watch(reload, reloads, hangups));
    }
    if let Some(resolver) = setup.resolver {
        tokio::spawn(resolving::keep_resolved(resolver));
    }
    if let Some((book, sightings)) = pins {
        tokio::spawn(pins::keep(book, sightings));
    }
    tokio::spawn(server::sample(Arc::clone(&desk)));
    tokio::spawn(server::serve(listener, desk));
    Ok((children.map(supervise), place))
}

/// The supervisor of children: how to stop it, and its end.
type Supervisor = (oneshot::Sender<Duration>, tokio::task::JoinHandle<()>);

/// Waits for the end of the `Control`, then for that of the node's part in the cluster and of
/// the children.
async fn end_with(quit: oneshot::Receiver<()>, supervisor: Option<Supervisor>, place: &Place) {
    // Resolves too when the `Control` is dropped.
    let _ = quit.await;
    place.leave().await;
    if let Some((stop, done)) = supervisor {
        let _ = stop.send(CHILDREN_TIME_MAX);
        let _ = done.await;
    }
}

/// Children that have not ended so long after the shards are killed.
const CHILDREN_TIME_MAX: Duration = Duration::from_secs(5);

/// Keeps the children of stdio tool servers until it is told to end them.
fn supervise((setup, commands): (ChildrenSetup, flume::Receiver<ChildCommand>)) -> Supervisor {
    let (stop, stopped) = oneshot::channel();
    let stopped = async { stopped.await.unwrap_or_default() };
    (stop, tokio::spawn(children::supervise(setup, commands, stopped)))
}

/// The exit code of a process whose drain was cut short by a second signal.
const CUT_SHORT_EXIT_CODE: i32 = 1;

async fn watch(
    mut signals: Signal,
    kind: StopSignal,
    phase: PhaseCell,
    stop_to: flume::Sender<StopSignal>,
) {
    while signals.recv().await.is_some() {
        if phase.now() == Phase::Draining {
            tracing::warn!("a second signal during the drain: ending at once");
            std::process::exit(CUT_SHORT_EXIT_CODE);
        }
        tracing::info!(event = "drain", signal = ?kind, "draining; a second signal ends at once");
        phase.advance(Phase::Draining);
        let _ = stop_to.try_send(kind);
    }
}

#[cfg(test)]
mod tests;
