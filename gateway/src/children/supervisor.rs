//! The task that takes the shards' commands and keeps the children within their limits.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shardgate_proto::upstream::{EndpointId, LinkEnd, LinkKey};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

use super::child::{Life, Phase, tell};
use super::guard::KILL_TIME_MAX;
use super::{
    ChildCommand, ChildCounters, ChildNews, ChildSpec, ChildSpecs, DeliverNews, GuardProgram,
};

/// Processes of children at once, over all tool servers, those that are ending included.
pub const CHILDREN_MAX: usize = 1024;

/// What may wait for a child to read it, unless it is one single piece.
pub const INPUT_BACKLOG_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Commands that may wait for the supervisor; it never waits for anything but them.
pub const COMMANDS_MAX: usize = 4096;

/// What the supervisor needs.
#[derive(Clone)]
pub struct ChildrenSetup {
    /// How children are made.
    pub specs: ChildSpecs,
    /// How shards are told.
    pub deliver: DeliverNews,
    /// Where starts and ends are counted.
    pub counters: ChildCounters,
    /// What is run as a guard.
    pub guard: GuardProgram,
    /// The overall limit: [`CHILDREN_MAX`], or less.
    pub children_max: usize,
}

impl ChildrenSetup {
    /// A setup with the usual guard and limit, and counts from zero.
    pub fn new(specs: ChildSpecs, deliver: DeliverNews) -> ChildrenSetup {
        let (counters, guard) = (ChildCounters::default(), GuardProgram::default());
        ChildrenSetup { specs, deliver, counters, guard, children_max: CHILDREN_MAX }
    }
}

impl fmt::Debug for ChildrenSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildrenSetup").field("specs", &self.specs).finish_non_exhaustive()
    }
}

/// Does what shards ask until `stop` resolves to the time in which all children must end.
/// Half of that time they are given their grace, then they are killed. The shards should have
/// ended by then: calls in flight need their children.
///
/// That the last sender of commands is gone does not end it.
///
/// To be run within a tokio runtime that has I/O and time. If this future is dropped, the
/// guards end the children by themselves.
pub async fn supervise(
    setup: ChildrenSetup,
    commands: flume::Receiver<ChildCommand>,
    stop: impl Future<Output = Duration>,
) {
    let (over_to, mut over) = mpsc::unbounded_channel();
    let mut supervisor = Supervisor::new(setup, over_to);
    let mut stop = std::pin::pin!(stop);
    let mut are_commands_open = true;
    let within = loop {
        tokio::select! {
            biased;
            within = &mut stop => break within,
            // Before commands: an end that a shard knows of must count when it opens the next.
            Some((shard, link)) = over.recv() => drop(supervisor.forget(shard, link)),
            Some(ended) = supervisor.lives.join_next(), if !supervisor.lives.is_empty() => {
                check(ended);
            }
            Some(_) = supervisor.refusals.join_next(), if !supervisor.refusals.is_empty() => {}
            command = commands.recv_async(), if are_commands_open => match command {
                Ok(command) => supervisor.handle_command(command),
                Err(flume::RecvError::Disconnected) => are_commands_open = false,
            },
        }
    };
    drop(commands);
    supervisor.drain(within).await;
}

struct Supervisor {
    setup: ChildrenSetup,
    guard: Arc<GuardProgram>,
    links: HashMap<(u16, LinkKey), Entry>,
    /// Open links by endpoint; no zeros.
    open: HashMap<EndpointId, usize>,
    /// One task per child whose guard is not reaped.
    lives: JoinSet<()>,
    /// Shards that are being told that a limit is reached.
    refusals: JoinSet<()>,
    phase: watch::Sender<Phase>,
    over: mpsc::UnboundedSender<(u16, LinkKey)>,
}

/// An open link. Dropping it ends the child.
struct Entry {
    endpoint: EndpointId,
    writes: mpsc::UnboundedSender<Vec<u8>>,
    backlog: Arc<AtomicUsize>,
    cut: oneshot::Sender<usize>,
}

impl Supervisor {
    fn new(setup: ChildrenSetup, over: mpsc::UnboundedSender<(u16, LinkKey)>) -> Supervisor {
        let guard = Arc::new(setup.guard.clone());
        let (phase, _) = watch::channel(Phase::Running);
        let (links, open) = (HashMap::new(), HashMap::new());
        let (lives, refusals) = (JoinSet::new(), JoinSet::new());
        Supervisor { setup, guard, links, open, lives, refusals, phase, over }
    }

    fn handle_command(&mut self, command: ChildCommand) {
        match command {
            ChildCommand::Open { shard, link, endpoint } => self.open(shard, link, endpoint),
            ChildCommand::Write { shard, link, bytes } => self.write(shard, link, bytes),
            ChildCommand::Close { shard, link } => drop(self.forget(shard, link)),
        }
    }

    fn open(&mut self, shard: u16, link: LinkKey, endpoint: EndpointId) {
        let Some(spec) = self.setup.specs.find(endpoint) else {
            let text = "start a tool server: it is no longer configured".to_owned();
            return self.refuse(shard, link, text);
        };
        if let Some(limit) = self.reached_limit(endpoint, &spec) {
            self.setup.counters.add_refusal(endpoint, &spec.upstream);
            let text = format!("start tool server '{}': {limit}", spec.upstream);
            return self.refuse(shard, link, text);
        }
        let (writes, writes_from) = mpsc::unbounded_channel();
        let (cut, cut_from) = oneshot::channel();
        let backlog = Arc::new(AtomicUsize::new(0));
        let life = Life {
            shard,
            link,
            endpoint,
            spec,
            guard: Arc::clone(&self.guard),
            deliver: Arc::clone(&self.setup.deliver),
            counters: self.setup.counters.clone(),
            writes: writes_from,
            backlog: Arc::clone(&backlog),
            cut: cut_from,
            phase: self.phase.subscribe(),
            over: self.over.clone(),
        };
        let replaced = self.links.insert((shard, link), Entry { endpoint, writes, backlog, cut });
        assert!(replaced.is_none(), "shard {shard} opened {link:?} twice");
        *self.open.entry(endpoint).or_default() += 1;
        self.lives.spawn(life.run());
    }

    /// Which limit keeps another child of this endpoint from being started, if one does.
    fn reached_limit(&self, endpoint: EndpointId, spec: &ChildSpec) -> Option<String> {
        if self.open.get(&endpoint).copied().unwrap_or_default() >= spec.children_max {
            let max = spec.children_max;
            return Some(format!("all {max} children run; see children_max in [[upstream]]"));
        }
        let max = self.setup.children_max;
        (self.lives.len() >= max)
            .then(|| format!("{max} children of all tool servers run; see limits.children_max"))
    }

    /// A mailbox that is full must not hold up the other shards' commands.
    fn refuse(&mut self, shard: u16, link: LinkKey, text: String) {
        let news = ChildNews::Ended(link, LinkEnd::Unreachable(text));
        let deliver = Arc::clone(&self.setup.deliver);
        self.refusals.spawn(async move { tell(shard, link, &deliver, news).await });
    }

    fn write(&mut self, shard: u16, link: LinkKey, bytes: Vec<u8>) {
        let Some(entry) = self.links.get(&(shard, link)) else { return };
        let waiting = entry.backlog.load(Ordering::Relaxed);
        if waiting > 0 && waiting + bytes.len() > INPUT_BACKLOG_BYTES_MAX {
            if let Some(entry) = self.forget(shard, link) {
                let _ = entry.cut.send(waiting);
            }
            return;
        }
        entry.backlog.fetch_add(bytes.len(), Ordering::Relaxed);
        // Fails if the child has just ended, of which the shard is told.
        let _ = entry.writes.send(bytes);
    }

    fn forget(&mut self, shard: u16, link: LinkKey) -> Option<Entry> {
        let entry = self.links.remove(&(shard, link))?;
        if let Some(open) = self.open.get_mut(&entry.endpoint) {
            *open -= 1;
            if *open == 0 {
                self.open.remove(&entry.endpoint);
            }
        }
        Some(entry)
    }

    async fn drain(mut self, within: Duration) {
        self.phase.send_replace(Phase::Draining);
        if timeout(within / 2, self.all_lives()).await.is_ok() {
            return;
        }
        self.phase.send_replace(Phase::Killing);
        // SIGKILL works at once, or the process hangs within the kernel.
        if timeout((within / 2).max(KILL_TIME_MAX), self.all_lives()).await.is_err() {
            let left = self.lives.len();
            tracing::error!(event = "children_left", left, "children did not end even by SIGKILL");
        }
    }

    async fn all_lives(&mut self) {
        while let Some(ended) = self.lives.join_next().await {
            check(ended);
        }
    }
}

/// A panic of one child's task ends that child only, but is a bug of ours.
fn check(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(event = "child_task_failed", %error, "a child's task failed");
        debug_assert!(false, "a child's task failed: {error}");
    }
}
