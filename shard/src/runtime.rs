//! Starting the shards, talking to them from outside, and their end.
//!
//! Invariants: when [`start`] returns, every listener of every shard listens and every
//! service is made; or nothing runs any more. A shard that ends, in order or by a
//! panic, is reported once through the [`Handle`], and the others go on.

use std::any::Any;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement as ExecutorPlacement};

use crate::accepting::Acceptor;
use crate::config::RuntimeConfig;
use crate::data_ring::RingError;
use crate::driver::Driver;
use crate::executor_loop;
use crate::host_limits::{HostError, HostLimits};
use crate::identity::{LISTENERS_MAX, ListenerId, ShardId};
use crate::listening::{self, ListenError, ShardSockets};
use crate::mesh::{self, Envelope, Link, Mesh, MeshFull, RingAddress};
use crate::placement::{self, Placement, PlacementError};
use crate::service::Service;
use crate::shard_state::ShardState;

/// The executor's own rings: small, as the sockets are in the data rings.
const EXECUTOR_RING_DEPTH: usize = 64;
/// Memory glommio registers for its file I/O: its minimum.
const EXECUTOR_IO_BYTES: usize = 64 * 1_024;
/// What the maker of a service is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardStart {
    /// The shard the service is for.
    pub shard: ShardId,
    /// How many shards there are.
    pub shards: usize,
    /// The cpu the shard runs on.
    pub cpu: usize,
}

/// Why the runtime did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration makes no sense.
    #[error("runtime configuration: {0}")]
    Config(&'static str),
    /// The shards could not be placed on cpus.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The machine stands in the way.
    #[error(transparent)]
    Host(#[from] HostError),
    /// An address could not be listened at.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The channels between the shards could not be made.
    #[error("make an eventfd for each shard; raise RLIMIT_NOFILE (ulimit -n)")]
    Mesh(#[source] std::io::Error),
    /// A thread could not be started.
    #[error(
        "start the thread of shard {shard}; raise RLIMIT_NPROC (ulimit -u) or the cgroup's pids.max"
    )]
    Thread {
        /// Which shard.
        shard: ShardId,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// glommio could not make an executor.
    #[error("make the executor of shard {shard} on cpu {cpu}: {message}")]
    Executor {
        /// Which shard.
        shard: ShardId,
        /// Its cpu.
        cpu: usize,
        /// What glommio said.
        message: String,
    },
    /// A data ring could not be made.
    #[error("start shard {shard}")]
    Ring {
        /// Which shard.
        shard: ShardId,
        /// What failed.
        #[source]
        source: RingError,
    },
    /// The maker of the service panicked.
    #[error("make the service of shard {shard}: it panicked: {message}")]
    Panicked {
        /// Which shard.
        shard: ShardId,
        /// The panic's message.
        message: String,
    },
}

/// How a shard ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// In order: the service had finished.
    Finished,
    /// The drain's deadline came before the service had finished.
    DeadlineReached,
    /// A callback that belongs to no single connection panicked, or `handle_closed`.
    Panicked(String),
    /// The kernel refused the ring's work.
    Failed(String),
}

/// The end of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardExit {
    /// Which shard.
    pub shard: ShardId,
    /// How it ended.
    pub reason: ExitReason,
}

/// The control thread's grip on the shards. Clones are equal.
pub struct Handle<M> {
    shared: Arc<Shared<M>>,
}

struct Shared<M> {
    links: Vec<Link<M>>,
    addresses: Vec<SocketAddr>,
    placement: Placement,
    limits: HostLimits,
    threads: Mutex<Vec<JoinHandle<()>>>,
    exits: Arc<Exits>,
}

#[derive(Default)]
struct Exits {
    list: Mutex<Vec<ShardExit>>,
    changed: Condvar,
}

impl Exits {
    fn lock(&self) -> MutexGuard<'_, Vec<ShardExit>> {
        // The list is whole even if a holder panicked: pushes are its only change.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self, exit: ShardExit) {
        self.lock().push(exit);
        self.changed.notify_all();
    }

    fn wait_for(&self, count: usize, limit: Option<Duration>) -> Vec<ShardExit> {
        let guard = self.lock();
        let fewer = |list: &mut Vec<ShardExit>| list.len() < count;
        let guard = match limit {
            None => self.changed.wait_while(guard, fewer).unwrap_or_else(PoisonError::into_inner),
            Some(limit) => {
                self.changed
                    .wait_timeout_while(guard, limit, fewer)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        };
        guard.clone()
    }
}

impl<M> Clone for Handle<M> {
    fn clone(&self) -> Handle<M> {
        Handle { shared: Arc::clone(&self.shared) }
    }
}

impl<M: Send + 'static> Handle<M> {
    /// The addresses listened at, in the order of the configuration, with real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.shared.addresses
    }

    /// Where the shards run.
    pub fn placement(&self) -> &Placement {
        &self.shared.placement
    }

    /// What the machine allows.
    pub fn limits(&self) -> &HostLimits {
        &self.shared.limits
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shared.links.len()
    }

    /// Sends a message to a shard, as [`crate::Origin::Control`]. Gives it back if
    /// [`crate::MESH_DEPTH_MAX`] messages wait already or the shard has ended.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn send(&self, to: ShardId, message: M) -> Result<(), MeshFull<M>> {
        self.shared.links[usize::from(to.0)].send(message)
    }

    /// Begins the drain of every shard: listeners close once their queues are empty,
    /// `handle_shutdown` is called, and the shards end when their services have
    /// finished, but at `deadline` from now at the latest.
    pub fn shutdown(&self, deadline: Duration) {
        let now_ms = crate::clock::monotonic_ns() / 1_000_000;
        let after_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        let deadline_ms = now_ms.saturating_add(after_ms);
        for link in &self.shared.links {
            link.send_internal(Envelope::Shutdown { deadline_ms });
        }
    }

    /// The shards that have ended so far.
    pub fn exits(&self) -> Vec<ShardExit> {
        self.shared.exits.lock().clone()
    }

    /// Waits until `count` shards have ended, or for `limit`; returns those that have.
    pub fn wait_for_exits(&self, count: usize, limit: Duration) -> Vec<ShardExit> {
        self.shared.exits.wait_for(count, Some(limit))
    }

    /// Waits until all shards have ended.
    pub fn join(self) -> Vec<ShardExit> {
        let exits = self.shared.exits.wait_for(self.shards(), None);
        let threads = std::mem::take(
            &mut *self.shared.threads.lock().unwrap_or_else(PoisonError::into_inner),
        );
        for thread in threads {
            // A thread that panicked has reported its exit, so its result says nothing new.
            let _ = thread.join();
        }
        exits
    }
}

/// Starts one shard per cpu or as many as configured. `make` runs on each shard's own
/// thread, so the service need not be `Send`.
pub fn start<S, F>(config: RuntimeConfig, make: F) -> Result<Handle<S::Message>, StartError>
where
    S: Service + 'static,
    F: Fn(ShardStart) -> S + Send + Clone + 'static,
{
    let mut config = config;
    check(&config)?;
    let placement = placement::place(config.shards, config.share_cpus)?;
    let shards = placement.shards.len();
    let limits = HostLimits::read();
    limits.check(shards)?;
    // The kernel applies RLIMIT_NOFILE to each ring's table.
    config.ring.slots = config.ring.slots.min(u32::try_from(limits.open_files).unwrap_or(u32::MAX));
    let parts = mesh::connect(shards).map_err(StartError::Mesh)?;
    let (addresses, sockets) = listening::open(&config.listeners, shards, config.backlog)?;
    let accept_margin = config
        .backlog
        .min(limits.listen_queue_max)
        .saturating_add(1)
        .saturating_mul(addresses.len().max(1) as u32);

    let exits = Arc::new(Exits::default());
    let seeds = parts.shards.into_iter().zip(sockets).zip(&placement.shards).map(
        |((mesh, sockets), &(shard, cpu))| Seedling {
            start: ShardStart { shard, shards, cpu },
            config: config.clone(),
            mesh,
            sockets,
            accept_margin,
            exits: Arc::clone(&exits),
        },
    );
    let threads = Mutex::new(launch(seeds, &make)?);
    let links = parts.control;
    let shared = Shared { links, addresses, placement, limits, threads, exits };
    Ok(Handle { shared: Arc::new(shared) })
}

/// Starts a thread per seed, one after the other, and lets them all go when the last is
/// ready. If one fails, those that are ready end again.
fn launch<S, F>(
    seeds: impl Iterator<Item = Seedling<S::Message>>,
    make: &F,
) -> Result<Vec<JoinHandle<()>>, StartError>
where
    S: Service + 'static,
    F: Fn(ShardStart) -> S + Send + Clone + 'static,
{
    let mut threads = Vec::new();
    let mut rings = Vec::new();
    let mut starts = Vec::new();
    let mut failed = None;
    for seed in seeds {
        let shard = seed.start.shard;
        let (ready, is_ready) = flume::bounded(1);
        let (go, may_go) = flume::bounded(1);
        let make = make.clone();
        let thread = std::thread::Builder::new()
            .name(format!("shard-{shard}"))
            .spawn(move || seed.run(make, &ready, &may_go));
        match thread {
            Ok(thread) => threads.push(thread),
            Err(source) => {
                failed = Some(StartError::Thread { shard, source });
                break;
            }
        }
        match is_ready.recv() {
            Ok(Ok(ring)) => rings.push(ring),
            Ok(Err(error)) => failed = Some(error),
            Err(_) => {
                let message = "its thread ended before it was ready".to_owned();
                failed = Some(StartError::Panicked { shard, message });
            }
        }
        starts.push(go);
        if failed.is_some() {
            break;
        }
    }
    if let Some(error) = failed {
        // Shards that wait for their start see that it won't come.
        drop(starts);
        for thread in threads {
            let _ = thread.join();
        }
        return Err(error);
    }
    for go in starts {
        let _ = go.send(rings.clone());
    }
    Ok(threads)
}

fn check(config: &RuntimeConfig) -> Result<(), StartError> {
    let ring = &config.ring;
    let sound = [
        (config.listeners.len() <= LISTENERS_MAX, "at most 255 listeners"),
        (ring.slots > 0, "ring.slots must be at least 1"),
        (ring.receive_buffer_bytes > 0, "ring.receive_buffer_bytes must be at least 1"),
        (
            ring.receive_buffers.is_power_of_two()
                && ring.receive_buffers <= crate::receive_buffers::RECEIVE_BUFFERS_MAX,
            "ring.receive_buffers must be a power of two up to 32768",
        ),
        (ring.submission_entries > 0, "ring.submission_entries must be at least 1"),
        (
            ring.completion_entries >= ring.submission_entries,
            "ring.completion_entries must not be fewer than ring.submission_entries",
        ),
    ];
    match sound.iter().find(|(holds, _)| !holds) {
        Some((_, message)) => Err(StartError::Config(message)),
        None => Ok(()),
    }
}

/// All a shard's thread needs to begin.
struct Seedling<M> {
    start: ShardStart,
    config: RuntimeConfig,
    mesh: Mesh<M>,
    sockets: ShardSockets,
    accept_margin: u32,
    exits: Arc<Exits>,
}

type Ready = flume::Sender<Result<RingAddress, StartError>>;
type MayGo = flume::Receiver<Vec<RingAddress>>;

impl<M: Send + 'static> Seedling<M> {
    /// The shard's thread, from beginning to end.
    fn run<S: Service<Message = M> + 'static>(
        self,
        make: impl Fn(ShardStart) -> S,
        ready: &Ready,
        may_go: &MayGo,
    ) {
        let ShardStart { shard, cpu, .. } = self.start;
        let exits = Arc::clone(&self.exits);
        let executor = LocalExecutorBuilder::new(ExecutorPlacement::Fixed(cpu))
            .name(&format!("shard-{shard}"))
            .ring_depth(EXECUTOR_RING_DEPTH)
            .io_memory(EXECUTOR_IO_BYTES)
            .preempt_timer(executor_loop::PREEMPT_NEVER)
            .make();
        let executor = match executor {
            Ok(executor) => executor,
            Err(error) => {
                let message = error.to_string();
                let _ = ready.send(Err(StartError::Executor { shard, cpu, message }));
                return;
            }
        };
        let mut driver = match self.make_driver(make) {
            Ok(driver) => driver,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let _ = ready.send(Ok(RingAddress::clone(driver.state.rings[0].address())));
        let Ok(rings) = may_go.recv() else { return };
        for (peer, ring) in driver.state.peer_rings.iter_mut().zip(rings) {
            peer.push(ring);
        }
        let reason = executor.run(executor_loop::run(driver));
        exits.report(ShardExit { shard, reason });
    }

    fn make_driver<S: Service<Message = M>>(
        self,
        make: impl Fn(ShardStart) -> S,
    ) -> Result<Driver<S>, StartError> {
        let shard = self.start.shard;
        let listeners = (0..).map(ListenerId);
        let acceptors = listeners
            .zip(self.sockets)
            .map(|(listener, socket)| Acceptor::new(listener, socket))
            .collect();
        let state = ShardState::new(shard, self.config, self.mesh, acceptors, self.accept_margin)
            .map_err(|source| StartError::Ring { shard, source })?;
        match catch_unwind(AssertUnwindSafe(|| make(self.start))) {
            Ok(service) => Ok(Driver::new(service, state)),
            Err(payload) => {
                let message = panic_message(payload.as_ref());
                Err(StartError::Panicked { shard, message })
            }
        }
    }
}

/// What a panic said, if it said anything.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
