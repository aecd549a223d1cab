//! `shardgate serve`: starts the shards and the control thread, and ends them in order.

use std::hash::Hasher;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shardgate_proto::catalog::Pins;
use shardgate_proto::http1;
use shardgate_proto::jsonrpc::ScanLimits;
use shardgate_proto::mcp::event_log::LogLimits;
use shardgate_proto::mcp::session::SessionLimits;
use shardgate_proto::mcp::session_id::SessionIds;
use shardgate_shard::{
    ExitReason, Handle, HostLimits, RingSizes, RuntimeConfig, ShardCount as RuntimeShards,
    ShardExit, ShardId, ShardStart, StartError,
};
use siphasher::sip128::{Hasher128, SipHasher24};

use crate::banner::banner;
use crate::children::{
    COMMANDS_MAX, ChildNews, ChildSpecs, ChildrenSetup, DeliverNews, Undelivered,
};
use crate::config::{Config, ConfigOrigin, SecretError, ShardCount};
use crate::control::{
    self, ClusterError, Control, ControlError, ControlSetup, NodeFacts, ReloadSetup, ResolverSetup,
    ShardInbox, ShardLinks, TasksSetup,
};
use crate::data_path::{Gateway, Links, Message, Settings};
use crate::embedded::{Embedded, EmbeddedConfig};
use crate::endpoints::Endpoints;
use crate::federation::{Federation, FederationSettings};
use crate::logging::{self, Style};
use crate::metrics::ShardMetrics;
use crate::pins::{DeliverPins, PinBook, PinsFileError, SIGHTINGS_MAX, Sighting};
use crate::reloading::Running;
use crate::tasks::{DeliverTasks, DeskSetup, REQUESTS_WAITING_MAX, TaskDoor, ToDesk};
use crate::upstreams::{Upstreams, UpstreamsError};

/// Streams a session may keep for resumption beside those that are open.
const RESUMABLE_STREAMS: usize = 64;

/// All streams of a session together remember so many times what one may.
const BACKLOGS_PER_SESSION: usize = 8;

/// How often the main thread looks for shards that ended by themselves.
const EXIT_LOOK: Duration = Duration::from_millis(250);

/// Beyond the shards' own deadline, for their last output.
const DEADLINE_GRACE: Duration = Duration::from_secs(2);

/// Why the gateway did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The session secret can't be had.
    #[error("read the session secret")]
    Secret(#[source] SecretError),
    /// What an upstream needs is missing.
    #[error(transparent)]
    Upstream(UpstreamsError),
    /// The approved definitions of tools can't be read.
    #[error(transparent)]
    Pins(PinsFileError),
    /// No random numbers.
    #[error("draw a session secret from the kernel")]
    Random(#[source] getrandom::Error),
    /// Another program listens there.
    #[error(
        "listen on {address}; if another program has it, choose one by --listen or listen.address"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The shards did not start.
    #[error("start the shards")]
    Shards(#[source] StartError),
    /// The node can't be part of its cluster.
    #[error(transparent)]
    Cluster(ClusterError),
    /// The control thread did not start.
    #[error("start the control thread")]
    Control(#[source] ControlError),
    /// Every shard ended without being asked to.
    #[error("all shards ended: {0}")]
    ShardsEnded(String),
    /// A shard did not end in order.
    #[error("shard {0} {1}")]
    ShardFailed(u16, String),
    /// Some answers were still owed when the deadline came.
    #[error(
        "the drain met its deadline of {0} ms (limits.drain_deadline_ms); what was open was cut"
    )]
    Cut(u64),
}

/// Runs the gateway until a signal asks for its end.
///
/// # Errors
/// See [`ServeError`].
pub fn serve(config: Config, origin: ConfigOrigin) -> Result<(), ServeError> {
    let (accepted, reloaded) = flume::bounded(1);
    let pins_file = origin.pins_file(&config);
    let reload = ReloadSetup { origin, running: config.clone(), accepted };
    let config = &config;
    let admin = control::bind_admin(config.admin.address).map_err(ServeError::Control)?;
    refuse_taken(&config.listen.address)?;
    let admin_address = admin.local_addr().unwrap_or(config.admin.address);
    let cluster = control::prepare_cluster(config).map_err(ServeError::Cluster)?;
    let keys = Keys::new(config)?;
    let upstreams = Upstreams::read(config).map_err(ServeError::Upstream)?;
    let (commands_to, commands) = flume::bounded(COMMANDS_MAX);
    let (look_up_anew, looked_up_anew) = flume::bounded(1);
    let (sightings_to, sightings) = flume::bounded(SIGHTINGS_MAX);
    let endpoints = Arc::new(upstreams.table());
    let (to_desk, requests) = flume::bounded(REQUESTS_WAITING_MAX);
    let tasks = TaskDoor::new(&config.tasks, keys.task_owners, to_desk);
    let federation = match upstreams.is_empty() {
        true => None,
        false => {
            let pins = Arc::new(PinBook::read(&pins_file).map_err(ServeError::Pins)?);
            let tasks = tasks.as_ref();
            Some(federation_settings(config, &keys, &upstreams, (pins, sightings_to), tasks))
        }
    };
    let settings = settings(config, &keys, &upstreams, tasks.clone());
    let links_of = {
        let endpoints = Arc::clone(&endpoints);
        move || Links::new(Arc::clone(&endpoints), Some(commands_to.clone()))
    };
    let shards = start_shards(config, settings, &keys, federation.clone(), links_of)?;
    let book = federation.as_ref().map(|federation| pin_book(pins_file, federation, &shards));
    let specs = ChildSpecs::from_iter(upstreams.children());
    let cpus = shards.placement().shards.iter().map(|(_, cpu)| u16::try_from(*cpu).ok()).collect();
    let facts = NodeFacts::new(config, shards.addresses().to_vec(), admin_address, cpus);
    let setup = ControlSetup {
        admin,
        allowed_hosts: config.admin_allowed_hosts(),
        facts: facts.clone(),
        links: links(&shards),
        children: Some((children(specs.clone(), &shards), commands)),
        reload: Some(reload),
        resolver: resolver(&endpoints, upstreams.is_empty(), &shards, looked_up_anew),
        pins: book.clone().map(|book| (book, sightings)),
        tasks: tasks.is_some().then(|| desk(config, requests, &shards)),
        cluster,
    };
    let control = start_control(setup, &shards)?;
    control.set_ready();
    // A person is told by the banner, a script by the log.
    match Style::of(config.log.format) {
        Style::Human { .. } => anstream::eprint!("{}", banner(&facts)),
        Style::Json => logging::log_ready(&facts),
    }
    let mut running = Running { upstreams, endpoints, specs, federation, book, look_up_anew };
    let ended = wait(&control, &shards, || {
        for config in reloaded.drain() {
            running.take_over(&config, &shards);
        }
    });
    control.set_draining();
    let deadline = Duration::from_millis(config.limits.drain_deadline_ms);
    shards.shutdown(deadline);
    let count = shards.shards();
    let exits = shards.wait_for_exits(count, deadline + DEADLINE_GRACE);
    control.stop();
    match ended {
        Some(reason) => Err(ServeError::ShardsEnded(reason)),
        None => judge(&exits, count, config.limits.drain_deadline_ms),
    }
}

/// Starts the control thread; without it the shards end again.
fn start_control(setup: ControlSetup, shards: &Handle<Message>) -> Result<Control, ServeError> {
    control::start(setup).map_err(|error| {
        shards.shutdown(Duration::ZERO);
        shards.wait_for_exits(shards.shards(), DEADLINE_GRACE);
        ServeError::Control(error)
    })
}

/// The shards' listeners share their port by SO_REUSEPORT, so another gateway's would
/// be joined without an error and half of the clients lost to it. A listener that does
/// not share tells.
fn refuse_taken(addresses: &[SocketAddr]) -> Result<(), ServeError> {
    for &address in addresses.iter().filter(|address| address.port() != 0) {
        TcpListener::bind(address).map_err(|source| ServeError::Listen { address, source })?;
    }
    Ok(())
}

/// Waits for a signal, and looks around now and then; `Some` if instead all shards ended.
fn wait(control: &Control, shards: &Handle<Message>, mut look: impl FnMut()) -> Option<String> {
    let mut reported = 0;
    loop {
        match control.stops().recv_timeout(EXIT_LOOK) {
            Ok(_) | Err(flume::RecvTimeoutError::Disconnected) => return None,
            Err(flume::RecvTimeoutError::Timeout) => {}
        }
        look();
        let exits = shards.exits();
        for exit in &exits[reported..] {
            let (shard, reason) = (exit.shard.0, reason_text(&exit.reason));
            tracing::error!(
                event = "shard_ended",
                shard,
                reason,
                "a shard ended; the others go on"
            );
        }
        reported = exits.len();
        if reported == shards.shards() {
            return exits.last().map(|exit| reason_text(&exit.reason));
        }
    }
}

fn judge(exits: &[ShardExit], shards: usize, deadline_ms: u64) -> Result<(), ServeError> {
    let failed = exits
        .iter()
        .find(|exit| matches!(exit.reason, ExitReason::Panicked(_) | ExitReason::Failed(_)));
    if let Some(exit) = failed {
        return Err(ServeError::ShardFailed(exit.shard.0, reason_text(&exit.reason)));
    }
    let cut = exits.iter().any(|exit| exit.reason == ExitReason::DeadlineReached);
    if cut || exits.len() < shards {
        return Err(ServeError::Cut(deadline_ms));
    }
    Ok(())
}

fn reason_text(reason: &ExitReason) -> String {
    match reason {
        ExitReason::Finished => "finished".to_owned(),
        ExitReason::DeadlineReached => "the drain's deadline came".to_owned(),
        ExitReason::Panicked(message) => format!("panicked: {message}"),
        ExitReason::Failed(message) => format!("failed: {message}"),
    }
}

/// Keys that are the same on every shard.
struct Keys {
    session_ids: [u8; 16],
    seal: [u8; 16],
    task_owners: [u8; 16],
}

impl Keys {
    fn new(config: &Config) -> Result<Keys, ServeError> {
        let configured = config.session_secret().map_err(ServeError::Secret)?;
        let mut drawn = [0; 32];
        let secret: &[u8] = match &configured {
            Some(secret) => secret.as_bytes(),
            None => {
                getrandom::fill(&mut drawn).map_err(ServeError::Random)?;
                &drawn
            }
        };
        Ok(Keys {
            session_ids: derive(secret, b"session ids"),
            seal: derive(secret, b"seal"),
            task_owners: derive(secret, b"task owners"),
        })
    }
}

/// A key for one purpose out of the secret, so that no key tells of another.
fn derive(secret: &[u8], purpose: &[u8]) -> [u8; 16] {
    let mut hasher = SipHasher24::new();
    hasher.write(purpose);
    hasher.write(&[0]);
    hasher.write(secret);
    let inner = hasher.finish128().as_bytes();
    // The hash of a long secret under a fixed key, keyed once more by itself.
    let mut outer = SipHasher24::new_with_key(&inner);
    outer.write(purpose);
    outer.write(secret);
    outer.finish128().as_bytes()
}

/// Starts the shards with upstreams, or with the embedded server if there are none.
fn start_shards(
    config: &Config,
    settings: Settings,
    keys: &Keys,
    federation: Option<FederationSettings>,
    links: impl Fn() -> Links + Clone + Send + Sync + 'static,
) -> Result<Handle<Message>, ServeError> {
    let runtime = runtime_config(config);
    if let Some(federation) = federation {
        return shardgate_shard::start(runtime, move |start: ShardStart| {
            let share = settings.for_one_of(start.shards);
            let metrics = ShardMetrics::new(start.shard.0, u16::try_from(start.cpu).ok());
            let own = FederationSettings {
                shard: start.shard.0,
                shards: u16::try_from(start.shards).unwrap_or(u16::MAX),
                ..federation.clone()
            };
            Gateway::new(share, metrics, Federation::new(own), links())
        })
        .map_err(ServeError::Shards);
    }
    let (seal_key, start_unix_ms) = (keys.seal, start_unix_ms());
    let page_entries = config.embedded.page_entries;
    shardgate_shard::start(runtime, move |start: ShardStart| {
        let share = settings.for_one_of(start.shards);
        let metrics = ShardMetrics::new(start.shard.0, u16::try_from(start.cpu).ok());
        let shard = start.shard.0;
        let tasks = settings.tasks.as_ref().map(TaskDoor::offer);
        let upstream =
            Embedded::new(EmbeddedConfig { seal_key, start_unix_ms, shard, page_entries, tasks });
        Gateway::new(share, metrics, upstream, links())
    })
    .map_err(ServeError::Shards)
}

fn federation_settings(
    config: &Config,
    keys: &Keys,
    upstreams: &Upstreams,
    (pins, sightings): (Arc<Pins>, flume::Sender<Sighting>),
    tasks: Option<&TaskDoor>,
) -> FederationSettings {
    FederationSettings {
        servers: upstreams.servers(),
        routes: upstreams.routes.clone(),
        pins,
        sightings: Some(sightings),
        page_entries: config.embedded.page_entries,
        tasks: tasks.map(TaskDoor::offer),
        modern_tasks: tasks.is_some_and(TaskDoor::makes_modern_tasks),
        seal_key: keys.seal,
        start_unix_ms: start_unix_ms(),
        shard: 0,
        shards: 1,
        message_bytes_max: config.limits.message_bytes_max,
        json_depth_max: config.limits.json_depth_max,
    }
}

/// The Unix time at which the runtime's clock was zero.
fn start_unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = u64::try_from(now.as_millis()).unwrap_or_default();
    now_ms.saturating_sub(shardgate_shard::monotonic_ns() / 1_000_000)
}

fn runtime_config(config: &Config) -> RuntimeConfig {
    let shards = match config.shards.count {
        ShardCount::Auto => RuntimeShards::Auto,
        ShardCount::Fixed(count) => RuntimeShards::Exactly(count.get()),
    };
    // One ring's table holds as many connections as the descriptor limit allows.
    let open_files = usize::try_from(HostLimits::read().open_files).unwrap_or(usize::MAX);
    let slots = (RingSizes::default().slots as usize).min(open_files).max(1);
    let rings = config.limits.connections_max.div_ceil(slots) + 1;
    RuntimeConfig {
        rings_per_shard_max: u8::try_from(rings).unwrap_or(u8::MAX),
        listeners: config.listen.address.clone(),
        shards,
        ring: RingSizes {
            submission_entries: config.ring.submission_entries,
            completion_entries: config.ring.completion_entries,
            receive_buffers: config.ring.buffers,
            receive_buffer_bytes: config.ring.buffer_bytes,
            ..RingSizes::default()
        },
        ..RuntimeConfig::default()
    }
}

fn settings(
    config: &Config,
    keys: &Keys,
    upstreams: &Upstreams,
    tasks: Option<TaskDoor>,
) -> Settings {
    let limits = &config.limits;
    Settings {
        ids: SessionIds::new(config.node.name.as_str(), &keys.session_ids),
        routes: Arc::clone(&upstreams.paths),
        hosts: config.allowed_hosts(),
        origins: config.allowed_origins(),
        http: http1::Limits {
            head_bytes_max: limits.header_bytes_max,
            body_bytes_max: limits.message_bytes_max,
            ..http1::Limits::default()
        },
        json: ScanLimits { depth_max: limits.json_depth_max, ..ScanLimits::default() },
        tasks,
        session: SessionLimits {
            in_flight_max: limits.in_flight_per_session_max,
            open_streams_max: limits.streams_per_session_max,
            streams_max: limits.streams_per_session_max
                + limits.in_flight_per_session_max
                + RESUMABLE_STREAMS,
            log: LogLimits {
                events_max: limits.stream_backlog_events_max,
                bytes_max: limits.stream_backlog_bytes_max,
                age_ms_max: limits.stream_backlog_age_ms,
            },
            bytes_max: limits.stream_backlog_bytes_max.saturating_mul(BACKLOGS_PER_SESSION),
        },
        sessions_max: limits.sessions_max,
        connections_max: limits.connections_max,
        idle_session_ms: limits.idle_session_ms,
        idle_connection_ms: limits.idle_connection_ms,
        header_timeout_ms: limits.header_timeout_ms,
        body_timeout_ms: limits.body_timeout_ms,
        answer_patience_ms: limits.answer_patience_ms,
        heartbeat_ms: limits.heartbeat_ms,
        sse_retry_ms: limits.sse_retry_ms,
        slow_reader_bytes_max: limits.slow_reader_bytes_max,
        drain_linger_ms: limits.drain_linger_ms,
    }
}

/// The book of approved definitions, which tells the shards of them.
fn pin_book(
    path: PathBuf,
    federation: &FederationSettings,
    shards: &Handle<Message>,
) -> Arc<PinBook> {
    let count = shards.shards() as u16;
    let shards = shards.clone();
    let deliver: DeliverPins = Box::new(move |shard, pins| {
        let gone = || shards.exits().iter().any(|exit| exit.shard.0 == shard);
        shards.send(ShardId(shard), Message::Pins(pins)).is_ok() || gone()
    });
    Arc::new(PinBook::new(path, Arc::clone(&federation.pins), count, deliver))
}

/// The desk of tasks, which tells shards what becomes of them.
fn desk(
    config: &Config,
    requests: flume::Receiver<ToDesk>,
    shards: &Handle<Message>,
) -> TasksSetup {
    let count = shards.shards() as u16;
    let shards = shards.clone();
    let deliver: DeliverTasks = Box::new(move |shard, message| {
        let Err(full) = shards.send(ShardId(shard), Message::Tasks(message)) else { return Ok(()) };
        let gone = shards.exits().iter().any(|exit| exit.shard.0 == shard);
        if let (Message::Tasks(message), false) = (full.0, gone) {
            return Err(message);
        }
        Ok(())
    });
    let settings = config.tasks.clone();
    TasksSetup(DeskSetup { requests, deliver, shards: count, settings })
}

/// How the control thread keeps children, and tells shards of them.
fn children(specs: ChildSpecs, shards: &Handle<Message>) -> ChildrenSetup {
    let shards = shards.clone();
    let deliver: DeliverNews = Arc::new(move |shard: u16, news: ChildNews| {
        shards.send(ShardId(shard), Message::Child(news)).map_err(|full| {
            let gone = shards.exits().iter().any(|exit| exit.shard.0 == shard);
            if let (Message::Child(news), false) = (full.0, gone) {
                Undelivered::Full(news)
            } else {
                Undelivered::Gone
            }
        })
    });
    ChildrenSetup::new(specs, deliver)
}

/// How the control thread looks names up, and tells shards of them.
fn resolver(
    endpoints: &Endpoints,
    alone: bool,
    shards: &Handle<Message>,
    replaced: flume::Receiver<Endpoints>,
) -> Option<ResolverSetup> {
    if alone {
        return None;
    }
    let count = shards.shards() as u16;
    let shards = shards.clone();
    let deliver = Box::new(move |shard: u16, endpoints: Arc<Endpoints>| {
        let is_taken = shards.send(ShardId(shard), Message::Endpoints(endpoints)).is_ok();
        is_taken || shards.exits().iter().any(|exit| exit.shard.0 == shard)
    });
    Some(ResolverSetup::new(endpoints.clone(), replaced, count, deliver))
}

fn links(shards: &Handle<Message>) -> ShardLinks {
    let inbox = |shard: u16| -> ShardInbox {
        let shards = shards.clone();
        Box::new(move |request| shards.send(ShardId(shard), Message::Control(request)).is_ok())
    };
    ShardLinks::new((0..shards.shards() as u16).map(inbox).collect())
}
