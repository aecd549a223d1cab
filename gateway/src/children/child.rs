//! The life of one child, from its start to the reaping of its guard.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use shardgate_proto::upstream::{EndpointId, LinkEnd, LinkKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::guarded::{Guarded, Streams};
use super::reports::Report;
use super::stderr_log::{LastWords, log_lines};
use super::{ChildCounters, ChildNews, ChildSpec, DeliverNews, EndKind, GuardProgram, Undelivered};

/// The largest [`ChildNews::Bytes`].
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// How long a guard may take to say whether the child runs.
pub const START_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a child may go on after it closed its standard input or output.
pub const PIPE_CLOSED_PATIENCE: Duration = Duration::from_secs(5);

/// How long the last words of a child that has ended are waited for.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(5);

/// The waits between two tries at a full mailbox double from the first to the second.
const FULL_WAIT_FIRST: Duration = Duration::from_millis(1);
const FULL_WAIT_MAX: Duration = Duration::from_millis(20);

/// What the supervisor wants of all children; it only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    /// Each ends with its grace.
    Draining,
    /// Each ends at once.
    Killing,
}

/// One link and what its child is made of.
pub(super) struct Life {
    pub(super) shard: u16,
    pub(super) link: LinkKey,
    pub(super) endpoint: EndpointId,
    pub(super) spec: Arc<ChildSpec>,
    pub(super) guard: Arc<GuardProgram>,
    pub(super) deliver: DeliverNews,
    pub(super) counters: ChildCounters,
    pub(super) writes: mpsc::UnboundedReceiver<Vec<u8>>,
    /// The bytes in `writes`, the piece that is being written included.
    pub(super) backlog: Arc<AtomicUsize>,
    /// The size of a backlog that is too large; dropped when the shard closes the link.
    pub(super) cut: oneshot::Receiver<usize>,
    pub(super) phase: watch::Receiver<Phase>,
    /// Told that the link is over before its shard is.
    pub(super) over: mpsc::UnboundedSender<(u16, LinkKey)>,
}

/// How a link ended.
struct End {
    kind: EndKind,
    /// What its shard is told, if it is.
    told: Option<LinkEnd>,
}

impl End {
    fn broken(kind: EndKind, text: String) -> End {
        End { kind, told: Some(LinkEnd::Broken(text)) }
    }

    fn unreachable(text: String) -> End {
        End { kind: EndKind::NotStarted, told: Some(LinkEnd::Unreachable(text)) }
    }
}

/// The shard has ended.
struct ShardGone;

impl Life {
    /// Starts the child and returns once it is reaped.
    pub(super) async fn run(mut self) {
        self.counters.add_open(self.endpoint, &self.spec.upstream);
        let (mut guarded, streams) = match Guarded::spawn(&self.guard, &self.spec) {
            Ok(started) => started,
            Err(error) => {
                let end = End::unreachable(self.guard_failure(&error));
                return self.finish(end).await;
            }
        };
        let Streams { input, mut output, errors } = streams;
        let (end, log) = match self.start(&mut guarded, errors).await {
            Ok((last_words, mut log)) => {
                let end = self.carry(&mut guarded, input, &mut output, &last_words, &mut log).await;
                (end, Some(log))
            }
            Err(end) => {
                drop(input);
                (end, None)
            }
        };
        let phase = self.phase.clone();
        tokio::join!(self.finish(end), dismiss(&mut guarded, &mut output, phase));
        // With the last process the pipe has ended, unless one escaped even its guard.
        if let Some(mut log) = log
            && !log.is_finished()
            && timeout(LAST_WORDS_PATIENCE, &mut log).await.is_err()
        {
            log.abort();
        }
    }

    /// Waits until the child runs.
    async fn start(
        &mut self,
        guarded: &mut Guarded,
        errors: ChildStderr,
    ) -> Result<(LastWords, JoinHandle<()>), End> {
        let report = tokio::select! {
            biased;
            end = until_cut(&mut self.cut, &mut self.phase, &self.spec) => return Err(end),
            report = timeout(START_TIME_MAX, guarded.report()) => report,
        };
        let last_words = LastWords::default();
        let log = self.log(errors, guarded.child_pid(), last_words.clone());
        let problem = match report {
            Ok(Some(Report::Started(child))) => {
                let upstream = &self.spec.upstream;
                tracing::debug!(event = "tool_server_started", upstream, child, "started");
                self.counters.add_start(self.endpoint, upstream);
                // A shard that is gone is noticed at the first output, or by its link's end.
                let _ = self.deliver(ChildNews::Opened(self.link)).await;
                return Ok((last_words, log));
            }
            Ok(Some(Report::NoDirectory(errno))) => {
                let directory = self.spec.directory.clone().unwrap_or_default();
                let error = io::Error::from_raw_os_error(errno);
                format!("enter {}: {error}; check directory in [[upstream]]", directory.display())
            }
            Ok(Some(Report::NoCommand(errno))) => {
                let program = self.spec.command.first().map_or("nothing", String::as_str);
                let error = io::Error::from_raw_os_error(errno);
                format!("run {program}: {error}; {}", advice(&error))
            }
            Ok(Some(Report::Exited(_) | Report::Killed(_)) | None) => {
                let _ = timeout(LAST_WORDS_PATIENCE, log).await;
                format!("its guard failed{}", quoted(&last_words))
            }
            Err(_) => format!("its guard said nothing for {} s", START_TIME_MAX.as_secs()),
        };
        Err(End::unreachable(format!("start tool server '{}': {problem}", self.spec.upstream)))
    }

    fn log(&self, errors: ChildStderr, child: i32, last_words: LastWords) -> JoinHandle<()> {
        let spec = Arc::clone(&self.spec);
        tokio::spawn(async move {
            log_lines(errors, spec.stderr, &spec.upstream, child, last_words).await;
        })
    }

    /// Carries bytes both ways until the link ends. Closes the child's input.
    async fn carry(
        &mut self,
        guarded: &mut Guarded,
        mut input: pipe::Sender,
        output: &mut ChildStdout,
        last_words: &LastWords,
        log: &mut JoinHandle<()>,
    ) -> End {
        let name = self.spec.upstream.clone();
        let mut exit = None;
        let news = Deliveries { shard: self.shard, link: self.link, deliver: &self.deliver };
        let output_ended = {
            let mut outward = pin!(carry_output(output, &news));
            let mut inward = pin!(carry_input(&mut input, &mut self.writes, &self.backlog));
            let mut cut = pin!(until_cut(&mut self.cut, &mut self.phase, &self.spec));
            loop {
                tokio::select! {
                    biased;
                    end = &mut cut => return end,
                    ended = &mut outward => break ended,
                    () = &mut inward => {
                        let text = format!("tool server '{name}' closed its standard input");
                        return End::broken(EndKind::Crashed, text);
                    }
                    // What it wrote before it exited is still carried.
                    report = guarded.report(), if exit.is_none() => match report {
                        Some(report) => exit = Some(report),
                        None => {
                            let text = format!("tool server '{name}' lost its guard process");
                            return End::broken(EndKind::Crashed, text);
                        }
                    },
                }
            }
        };
        if output_ended.is_err() {
            return End { kind: EndKind::Closed, told: None };
        }
        if exit.is_none() {
            exit = timeout(PIPE_CLOSED_PATIENCE, guarded.report()).await.ok().flatten();
        }
        let _ = timeout(LAST_WORDS_PATIENCE, log).await;
        exit_end(&name, exit, last_words)
    }

    /// Counts and tells the end.
    async fn finish(&self, end: End) {
        tracing::debug!(
            event = "tool_server_ended",
            upstream = self.spec.upstream,
            kind = ?end.kind,
            told = ?end.told,
            "ended"
        );
        self.counters.add_end(self.endpoint, &self.spec.upstream, end.kind);
        let _ = self.over.send((self.shard, self.link));
        let Some(told) = end.told else { return };
        let mut phase = self.phase.clone();
        tokio::select! {
            // A drain does not wait for shards that may be ending themselves.
            biased;
            _ = self.deliver(ChildNews::Ended(self.link, told)) => {}
            _ = phase.wait_for(|phase| *phase != Phase::Running) => {}
        }
    }

    async fn deliver(&self, news: ChildNews) -> Result<(), ShardGone> {
        let to = Deliveries { shard: self.shard, link: self.link, deliver: &self.deliver };
        to.send(news).await
    }

    fn guard_failure(&self, error: &io::Error) -> String {
        let (name, advice) = (&self.spec.upstream, advice(error));
        format!("start tool server '{name}': start its guard process: {error}; {advice}")
    }
}

/// Tells a shard the end of a link that never had a child.
pub(super) async fn tell(shard: u16, link: LinkKey, deliver: &DeliverNews, news: ChildNews) {
    let _ = Deliveries { shard, link, deliver }.send(news).await;
}

/// The way to one link's shard.
struct Deliveries<'a> {
    shard: u16,
    link: LinkKey,
    deliver: &'a DeliverNews,
}

impl Deliveries<'_> {
    /// Tries until the mailbox has room.
    async fn send(&self, mut news: ChildNews) -> Result<(), ShardGone> {
        let mut wait = FULL_WAIT_FIRST;
        loop {
            match (self.deliver)(self.shard, news) {
                Ok(()) => return Ok(()),
                Err(Undelivered::Gone) => return Err(ShardGone),
                Err(Undelivered::Full(back)) => news = back,
            }
            sleep(wait).await;
            wait = (wait * 2).min(FULL_WAIT_MAX);
        }
    }
}

/// To the end of the output.
async fn carry_output(output: &mut ChildStdout, news: &Deliveries<'_>) -> Result<(), ShardGone> {
    let mut buffer = vec![0; CHUNK_BYTES_MAX];
    loop {
        match output.read(&mut buffer).await {
            Ok(0) | Err(_) => return Ok(()),
            Ok(count) => news.send(ChildNews::Bytes(news.link, buffer[..count].to_vec())).await?,
        }
    }
}

/// Until the child has closed its input for [`PIPE_CLOSED_PATIENCE`]: one that is exiting
/// has closed it too, and how it exited says more.
async fn carry_input(
    input: &mut pipe::Sender,
    writes: &mut mpsc::UnboundedReceiver<Vec<u8>>,
    backlog: &AtomicUsize,
) {
    while let Some(bytes) = writes.recv().await {
        if input.write_all(&bytes).await.is_err() {
            return sleep(PIPE_CLOSED_PATIENCE).await;
        }
        backlog.fetch_sub(bytes.len(), Ordering::Relaxed);
    }
    // Nobody can write any more; `until_cut` tells why.
    std::future::pending().await
}

/// Until the gateway wants the link to end.
async fn until_cut(
    cut: &mut oneshot::Receiver<usize>,
    phase: &mut watch::Receiver<Phase>,
    spec: &ChildSpec,
) -> End {
    let name = &spec.upstream;
    tokio::select! {
        cut = cut => match cut {
            Ok(backlog) => End::broken(
                EndKind::Stuck,
                format!("tool server '{name}' does not read its standard input: {backlog} bytes wait"),
            ),
            Err(_) => End { kind: EndKind::Closed, told: None },
        },
        // Fails when the supervisor is gone, which is an end too.
        _ = phase.wait_for(|phase| *phase != Phase::Running) => End {
            kind: EndKind::Closed,
            told: Some(LinkEnd::Broken(format!("the gateway goes down and ends tool server '{name}'"))),
        },
    }
}

/// What to look at when a process could not be started.
fn advice(error: &io::Error) -> &'static str {
    let is_shortage = [Errno::AGAIN, Errno::NOMEM, Errno::MFILE, Errno::NFILE]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
    if is_shortage {
        "check the limits on processes, memory and open files"
    } else {
        "check command in [[upstream]]"
    }
}

fn exit_end(name: &str, exit: Option<Report>, last_words: &LastWords) -> End {
    let how = match exit {
        Some(Report::Exited(0)) => {
            return End { kind: EndKind::Exited, told: Some(LinkEnd::Closed) };
        }
        Some(Report::Exited(code)) => format!("exited with code {code}"),
        Some(Report::Killed(signal)) => format!("was ended by signal {signal}"),
        Some(Report::Started(_) | Report::NoDirectory(_) | Report::NoCommand(_)) | None => {
            "closed its standard output and went on running".to_owned()
        }
    };
    End::broken(EndKind::Crashed, format!("tool server '{name}' {how}{}", quoted(last_words)))
}

fn quoted(last_words: &LastWords) -> String {
    match last_words.text().as_str() {
        "" => String::new(),
        text => format!("; its last words: {text}"),
    }
}

/// Has the guard end what is left of the child, and reaps it. What the child still writes is
/// read and dropped, so that it does not hang in the writing of it.
async fn dismiss(
    guarded: &mut Guarded,
    output: &mut ChildStdout,
    mut phase: watch::Receiver<Phase>,
) {
    let discard = async {
        let _ = tokio::io::copy(output, &mut tokio::io::sink()).await;
        std::future::pending::<()>().await;
    };
    let mut discard = pin!(discard);
    guarded.stop().await;
    let is_over = tokio::select! {
        () = guarded.wait() => true,
        () = &mut discard => true,
        _ = phase.wait_for(|phase| *phase == Phase::Killing) => false,
    };
    if !is_over {
        guarded.kill().await;
        tokio::select! {
            () = guarded.wait() => {}
            () = &mut discard => {}
        }
    }
}
