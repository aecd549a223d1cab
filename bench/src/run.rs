//! One run from beginning to end: workers started, begun, listened to and ended.
//!
//! The main thread looks at the server before the load, watches it during it, and sums up
//! what the workers tell. A run that is ended early, by the user or by the server, has a
//! report of what there was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shardgate_shard::{
    Handle, RingSizes, RuntimeConfig, ShardCount, ShardId, StartError, monotonic_ns, start,
};

use crate::cpus::{self, CpuError};
use crate::host::Demand;
use crate::memory::{HostMemory, MemoryWatch};
use crate::outcome::{FORMAT, HostFacts, Limit, Outcome, Second};
use crate::plan::RunPlan;
use crate::preflight::{self, Unfit};
use crate::report::percentiles::HistogramError;
use crate::report::progress::Progress;
use crate::report::quantities::count_text;
use crate::requests::Requests;
use crate::server_figures::{ServerError, ServerSource, ServerWatch};
use crate::tally::Tally;
use crate::verdict;
use crate::worker::{Command, Report, Shared, Worker};
use crate::workload::Shape;

/// Connections that call in the sessions of others, over all workers.
pub const POSTERS: usize = 64;
/// Answers of at least so many bytes get larger receive buffers.
const LARGE_PAYLOAD_BYTES: usize = 4 * 1_024;
const LARGE_BUFFER_BYTES: u32 = 32 * 1_024;
/// How long all connections may take to become ready, besides [`READY_PER_CONNECTION`].
const READY_MAX: Duration = Duration::from_secs(60);
const READY_PER_CONNECTION: Duration = Duration::from_millis(3);
/// With fewer sessions, other work's memory hides theirs, unless they are what is measured.
const SESSIONS_MIN: u64 = 1_000;
/// How often it is told how many are open.
const OPENING_TOLD: Duration = Duration::from_secs(5);
/// Between the last worker's being ready and the beginning.
const LEAD_NS: u64 = 20_000_000;
/// How often the main thread looks whether it was interrupted.
const LOOK: Duration = Duration::from_millis(100);
/// How long workers may take to close their connections.
const CLOSE_MAX: Duration = Duration::from_secs(10);
/// Behind their own limits workers have this long to tell that they are done.
const DONE_MARGIN: Duration = Duration::from_secs(15);
const DONE_PER_CONNECTION: Duration = Duration::from_millis(1);

/// What to run, and what to watch meanwhile.
#[derive(Clone, Debug)]
pub struct Run {
    /// The load.
    pub plan: RunPlan,
    /// The cpus the workers are pinned to; the last ones if there are none.
    pub cpus: Vec<usize>,
    /// Where the server can be seen.
    pub server: ServerSource,
    /// The tool that has the server announce an update.
    pub announcer: String,
    /// The command line, for the report.
    pub command: Vec<String>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The server will not do.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The server can't be watched as asked.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// Workers can't be pinned.
    #[error(transparent)]
    Cpus(#[from] CpuError),
    /// Workers can't be started.
    #[error("start the workers")]
    Start(#[from] StartError),
    /// The connections could not be made ready.
    #[error("open {connections} connections: {open} became ready, and then: {trouble}")]
    NotReady {
        /// How many were there.
        open: u32,
        /// How many were wanted.
        connections: u32,
        /// What was in the way, at the last.
        trouble: String,
    },
    /// The user ended it before it had begun.
    #[error("interrupted before the load began")]
    Interrupted,
    /// The figures can't be written down.
    #[error("sum up the latencies")]
    Histogram(#[from] HistogramError),
}

/// A run that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What came of it.
    pub outcome: Outcome,
    /// Why it was given up, if it was.
    pub given_up: Option<String>,
    /// Whole sentences on what the figures leave out.
    pub remarks: Vec<String>,
}

impl Run {
    /// Runs to the end, or until `interrupted` is set.
    ///
    /// # Errors
    /// [`RunError`] if there is nothing to report.
    pub fn run(self, interrupted: &AtomicBool) -> Result<Ended, RunError> {
        let host = HostFacts::read();
        let watch = ServerWatch::open(&self.server, Instant::now())?;
        let memory = MemoryWatch::begin(HostMemory::read());
        let announcer = (self.plan.shape == Shape::Fanout).then_some(&*self.announcer);
        let found = preflight::look(&self.plan, announcer)?;
        for warning in host.warnings(&self.demand()) {
            anstream::eprintln!("warning: {warning}");
        }
        let requests = Requests::render(&self.plan, found.resource.as_deref(), announcer);
        let shared = Arc::new(Shared {
            requests,
            timeline: self.plan.timeline(),
            address: self.plan.target.address,
            posters: POSTERS.div_ceil(usize::from(self.plan.workers)),
            plan: self.plan.clone(),
        });
        let (reports, received) = mpsc::channel();
        let workers = usize::from(self.plan.workers);
        let pinned = cpus::pin(&self.cpus, workers)?;
        let for_workers = Arc::clone(&shared);
        let make = move |start: shardgate_shard::ShardStart| {
            let number = usize::from(start.shard.0);
            Worker::new(Arc::clone(&for_workers), number, start.shards, reports.clone())
        };
        let handle = start(self.runtime(), make)?;
        pinned.release();
        let conductor = Conductor {
            run: &self,
            shared,
            handle,
            received,
            interrupted,
            watch,
            memory,
            workers,
            stopped: false,
        };
        conductor.conduct(host)
    }

    fn runtime(&self) -> RuntimeConfig {
        let plan = &self.plan;
        let mut ring = RingSizes::default();
        if plan.payload_bytes >= LARGE_PAYLOAD_BYTES {
            ring.receive_buffer_bytes = LARGE_BUFFER_BYTES;
        }
        let each = plan.connections_max().div_ceil(u32::from(plan.workers)) + POSTERS as u32;
        // Slots of connections that close are free only when the kernel has let go of them.
        let rings = (each + each / 8).div_ceil(ring.slots.min(descriptors())) + 1;
        RuntimeConfig {
            shards: ShardCount::Exactly(plan.workers),
            share_cpus: true,
            ring,
            rings_per_shard_max: u8::try_from(rings).unwrap_or(u8::MAX),
            ..RuntimeConfig::default()
        }
    }

    fn demand(&self) -> Demand {
        let plan = &self.plan;
        Demand {
            connections: plan.connections_max(),
            churns: plan.requests_per_connection.is_some(),
            source_addresses: plan.source_addresses,
            descriptors: 32 * u64::from(plan.workers),
            workers: u32::from(plan.workers),
            server_is_here: plan.target.address.ip().is_loopback(),
        }
    }
}

/// RLIMIT_NOFILE, which bounds the slots of each ring.
fn descriptors() -> u32 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.map_or(u32::MAX, |limit| u32::try_from(limit).unwrap_or(u32::MAX)).max(1)
}

/// The main thread's part in a run.
struct Conductor<'a> {
    run: &'a Run,
    shared: Arc<Shared>,
    handle: Handle<Command>,
    received: Receiver<(usize, Report)>,
    interrupted: &'a AtomicBool,
    watch: ServerWatch,
    memory: MemoryWatch,
    workers: usize,
    stopped: bool,
}

/// What the time of the load has brought.
struct Load {
    tally: Tally,
    seconds: Vec<Second>,
    given_up: Option<String>,
}

impl Conductor<'_> {
    fn conduct(mut self, host: HostFacts) -> Result<Ended, RunError> {
        let ready = self.wait_until_ready();
        if let Err(error) = ready {
            self.stop();
            self.end();
            return Err(error);
        }
        self.memory.opened(HostMemory::read(), self.watch.lap(Instant::now()).resident_bytes);
        let began_unix_ms = unix_ms();
        let load = self.carry_the_load();
        self.end();
        self.sum_up(host, began_unix_ms, load)
    }

    /// Waits until every worker has what it needs to begin.
    fn wait_until_ready(&mut self) -> Result<(), RunError> {
        let connections = self.shared.plan.connections_before;
        let deadline = Instant::now() + READY_MAX + READY_PER_CONNECTION * connections;
        let mut is_ready = vec![false; self.workers];
        let mut open = vec![0; self.workers];
        let mut trouble = None;
        let mut told = Instant::now();
        while !is_ready.iter().all(|ready| *ready) {
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(RunError::Interrupted);
            }
            let all = open.iter().sum();
            let given_up = |trouble| RunError::NotReady { open: all, connections, trouble };
            if Instant::now() > deadline {
                return Err(given_up("the others took too long".to_owned()));
            }
            if told.elapsed() >= OPENING_TOLD {
                told = Instant::now();
                let (open, connections) = (count_text(all.into()), count_text(connections.into()));
                anstream::eprintln!("{open} of {connections} connections are open");
            }
            match self.received.recv_timeout(LOOK) {
                Ok((worker, Report::Ready { open: more, trouble: told })) => {
                    is_ready[worker] = true;
                    open[worker] = more;
                    trouble = trouble.or(told);
                }
                Ok((_, Report::Gone(told))) => return Err(given_up(told)),
                Ok((worker, Report::Opening { open: more })) => open[worker] = more,
                Ok((_, Report::Interval(_) | Report::Done)) => {}
                Err(RecvTimeoutError::Timeout) => self.look_for_exits().map_err(given_up)?,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(given_up("the workers have ended".to_owned()));
                }
            }
        }
        let open = open.iter().sum();
        if connections > 0 && open == 0 {
            let trouble = trouble.unwrap_or_else(|| "no reason is known".to_owned());
            return Err(RunError::NotReady { open, connections, trouble });
        }
        Ok(())
    }

    fn look_for_exits(&self) -> Result<(), String> {
        match self.handle.exits().first() {
            Some(exit) => Err(format!("worker {} ended by itself: {:?}", exit.shard, exit.reason)),
            None => Ok(()),
        }
    }

    /// The stages, and the wait for their last answers.
    fn carry_the_load(&mut self) -> Load {
        let plan = &self.shared.plan;
        let end_s = self.shared.timeline.end_s();
        let end_ns = (end_s * 1e9) as u64;
        let begin_ns = monotonic_ns() + LEAD_NS;
        let begin = Instant::now() + Duration::from_nanos(LEAD_NS);
        let warm = begin + Duration::from_secs_f64(plan.shown().warmup_s);
        let over = begin + Duration::from_secs_f64(end_s);
        let patience = Duration::from_nanos(plan.timeout_ns)
            + DONE_MARGIN
            + DONE_PER_CONNECTION * plan.connections_max();
        let tally = Tally::new(plan.stages.len(), plan.stages_uncounted, end_ns, self.workers);
        let mut load = Load { tally, seconds: Vec::new(), given_up: None };
        let mut progress = Progress::start(end_s);
        self.tell(Command::Begin { at_ns: begin_ns });
        let mut marks = [Some(warm), Some(over)];
        let mut done = 0;
        let mut deadline = over + patience;
        while done < self.workers && Instant::now() < deadline {
            self.mark(&mut marks);
            if self.interrupted.swap(false, Ordering::Relaxed) {
                progress.say("interrupted: waiting for the last answers; once more to hurry");
                self.stop();
                deadline = deadline.min(Instant::now() + patience);
            }
            match self.received.recv_timeout(wait_for(&marks)) {
                Ok((worker, Report::Interval(interval))) => {
                    for second in load.tally.add(worker, &interval) {
                        let second = self.see_server(second);
                        self.name_stage(&mut progress, &second);
                        progress.second(&second);
                        load.seconds.push(second);
                    }
                }
                Ok((_, Report::Done)) => done += 1,
                Ok((_, Report::Ready { .. } | Report::Opening { .. })) => {}
                Ok((_, Report::Gone(trouble))) => {
                    let address = self.shared.address;
                    let gone = format!("the server at {address} is gone: {trouble}");
                    load.given_up.get_or_insert(gone);
                    self.stop();
                }
                Err(_) => {
                    if let Err(trouble) = self.look_for_exits() {
                        load.given_up.get_or_insert(trouble);
                        break;
                    }
                }
            }
        }
        self.mark(&mut [None, marks[1].map(|_| Instant::now())]);
        let last: Vec<Second> = load.tally.finish();
        for second in last {
            progress.second(&second);
            load.seconds.push(second);
        }
        progress.finish();
        load
    }

    /// The measured time begins or ends, if it is time for that.
    fn mark(&mut self, marks: &mut [Option<Instant>; 2]) {
        let now = Instant::now();
        if marks[0].is_some_and(|at| at <= now) {
            marks[0] = None;
            self.watch.begin(now);
        }
        if marks[1].is_some_and(|at| at <= now) {
            marks[1] = None;
            self.watch.end(now);
            let resident_bytes = self.watch.lap(now).resident_bytes;
            self.memory.loaded(HostMemory::read(), resident_bytes);
        }
    }

    fn see_server(&mut self, mut second: Second) -> Second {
        let lap = self.watch.lap(Instant::now());
        second.server_cores = lap.cores;
        second.server_resident_bytes = lap.resident_bytes;
        second
    }

    fn name_stage(&self, progress: &mut Progress, second: &Second) {
        let stage = self.shared.timeline.stage_at((second.at_s - 1e-9).max(0.0));
        let plan = &self.shared.plan;
        let number = stage + 1 - plan.stages_uncounted.min(stage + 1);
        if stage < plan.stages_uncounted {
            progress.stage("warm-up");
        } else if plan.stages.len() > plan.stages_uncounted + 1 {
            progress.stage(&format!("stage {}", number));
        } else {
            progress.stage("");
        }
    }

    fn tell(&self, command: Command) {
        for worker in 0..self.workers {
            // A worker that has ended is found by its exit.
            let _ = self.handle.send(ShardId(worker as u16), command);
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.tell(Command::Stop);
    }

    /// Ends the workers.
    fn end(&self) {
        self.handle.shutdown(CLOSE_MAX);
        self.handle.wait_for_exits(self.workers, CLOSE_MAX + LOOK);
    }

    fn sum_up(
        mut self,
        host: HostFacts,
        began_unix_ms: u64,
        load: Load,
    ) -> Result<Ended, RunError> {
        let plan = &self.shared.plan;
        let sums = load.tally.sums(&plan.stages)?;
        let server = self.watch.figures(sums.totals.completed);
        let counted = &plan.stages[plan.stages_uncounted..];
        let mut verdict = verdict::judge(&sums.totals, &sums.generator, counted);
        verdict.interrupted = self.stopped;
        if let Some(trouble) = &load.given_up {
            verdict.limit = Limit::Server;
            verdict.sentence = format!("The run was given up: {trouble}.");
        }
        let before = server.as_ref().and_then(|server| server.resident_before_bytes);
        let sessions = u64::from(plan.connections_before);
        let memory = (sessions >= SESSIONS_MIN || plan.shape == Shape::Streams)
            .then(|| self.memory.figures(sessions, before));
        let outcome = Outcome {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            began_unix_ms,
            command: self.run.command.clone(),
            plan: plan.shown(),
            host,
            totals: sums.totals,
            latency: sums.latency,
            operations: sums.operations,
            seconds: load.seconds,
            stages: sums.stages,
            errors: sums.errors,
            server,
            generator: sums.generator,
            memory,
            verdict,
        };
        let remarks = self.watch.remarks().to_vec();
        Ok(Ended { outcome, given_up: load.given_up, remarks })
    }
}

/// How long nothing has to be done.
fn wait_for(marks: &[Option<Instant>; 2]) -> Duration {
    let now = Instant::now();
    let next = marks.iter().flatten().map(|at| at.saturating_duration_since(now)).min();
    next.unwrap_or(LOOK).min(LOOK)
}

fn unix_ms() -> u64 {
    // A clock before 1970 is not worth an error here.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
