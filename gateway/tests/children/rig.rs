//! A supervisor with one shard, and what is looked at in `/proc`.
//!
//! Processes are told apart by a variable in their environment that is unlike for each rig,
//! which descendants inherit: whatever carries it belongs to the rig.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use shardgate::children::guard::GUARD_COMMAND;
use shardgate::children::{
    COMMANDS_MAX, ChildCommand, ChildCounters, ChildNews, ChildSpec, ChildSpecs, ChildrenSetup,
    EndpointCounts, GuardProgram, InheritedEnv, StderrUse, Undelivered, supervise,
};
use shardgate_proto::upstream::{EndpointId, LinkEnd, LinkKey};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Long enough for a busy machine; nothing waits for its end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
const LOOK: Duration = Duration::from_millis(5);

/// The shard that all links belong to.
pub(crate) const SHARD: u16 = 1;

/// Set in a process that is to run a supervisor until it is killed; its value marks the
/// processes.
pub(crate) const VICTIM: &str = "SHARDGATE_TEST_VICTIM";
pub(crate) const VICTIM_IS_READY: &str = "the victim is ready";

const MARK: &str = "RIG_MARK";

pub(crate) fn spec(command: &[&str]) -> ChildSpec {
    ChildSpec {
        upstream: String::new(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        env: Vec::new(),
        inherit: InheritedEnv::default(),
        directory: None,
        children_max: 8,
        stderr: StderrUse::Log,
        stop_grace_ms: 2_000,
    }
}

pub(crate) fn shell(script: &str) -> ChildSpec {
    spec(&["sh", "-c", script])
}

pub(crate) struct Rig {
    commands: flume::Sender<ChildCommand>,
    news: flume::Receiver<(u16, ChildNews)>,
    /// News that came while other news was waited for.
    bytes: HashMap<LinkKey, Vec<u8>>,
    ends: HashMap<LinkKey, LinkEnd>,
    specs: ChildSpecs,
    counters: ChildCounters,
    is_mailbox_open: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
    stop: oneshot::Sender<Duration>,
    supervisor: JoinHandle<()>,
    mark: String,
    next_link: u64,
}

impl Rig {
    pub(crate) fn start<const N: usize>(specs: [ChildSpec; N]) -> Rig {
        Rig::start_with(specs, |_| {})
    }

    pub(crate) fn start_with<const N: usize>(
        specs: [ChildSpec; N],
        change: impl FnOnce(&mut ChildrenSetup),
    ) -> Rig {
        let mark = std::env::var(VICTIM).unwrap_or_else(|_| fresh_mark());
        let (news_to, news) = flume::unbounded();
        let is_mailbox_open = Arc::new(AtomicBool::new(true));
        let refused = Arc::new(AtomicU64::new(0));
        let (is_open, refusals) = (Arc::clone(&is_mailbox_open), Arc::clone(&refused));
        let deliver = move |shard, news: ChildNews| {
            if !is_open.load(Ordering::SeqCst) {
                refusals.fetch_add(1, Ordering::SeqCst);
                return Err(Undelivered::Full(news));
            }
            news_to.send((shard, news)).map_err(|_| Undelivered::Gone)
        };
        let shared = ChildSpecs::default();
        let mut setup = ChildrenSetup::new(shared.clone(), Arc::new(deliver));
        setup.guard = GuardProgram {
            program: env!("CARGO_BIN_EXE_shardgate").into(),
            arguments: vec![GUARD_COMMAND.into()],
        };
        change(&mut setup);
        let counters = setup.counters.clone();
        let (commands, commands_from) = flume::bounded(COMMANDS_MAX);
        let (stop, stop_from) = oneshot::channel();
        let stopped = async { stop_from.await.unwrap_or_default() };
        let supervisor = tokio::spawn(supervise(setup, commands_from, stopped));
        let rig = Rig {
            commands,
            news,
            bytes: HashMap::new(),
            ends: HashMap::new(),
            specs: shared,
            counters,
            is_mailbox_open,
            refused,
            stop,
            supervisor,
            mark,
            next_link: 0,
        };
        rig.replace(specs);
        rig
    }

    pub(crate) fn replace<const N: usize>(&self, specs: [ChildSpec; N]) {
        let numbered = specs.into_iter().zip(0..).map(|(mut spec, number)| {
            spec.upstream = format!("server-{number}");
            spec.env.push((MARK.to_owned(), self.mark.clone()));
            (EndpointId(number), spec)
        });
        self.specs.replace(numbered);
    }

    /// Asks for a link without waiting for it.
    pub(crate) fn ask(&mut self, endpoint: u16) -> LinkKey {
        let link = LinkKey::new(endpoint, self.next_link);
        self.next_link += 1;
        let endpoint = EndpointId(endpoint);
        self.command(ChildCommand::Open { shard: SHARD, link, endpoint });
        link
    }

    /// A link that is open. To be called when no other news is awaited.
    pub(crate) async fn open(&mut self, endpoint: u16) -> LinkKey {
        let link = self.ask(endpoint);
        loop {
            match self.next().await.1 {
                ChildNews::Opened(opened) if opened == link => return link,
                ChildNews::Ended(ended, end) if ended == link => panic!("not opened: {end:?}"),
                other @ (ChildNews::Opened(_) | ChildNews::Bytes(..) | ChildNews::Ended(..)) => {
                    self.keep(other);
                }
            }
        }
    }

    pub(crate) async fn refusal(&mut self, endpoint: u16) -> String {
        let link = self.ask(endpoint);
        match self.ended(link).await {
            LinkEnd::Unreachable(text) => text,
            other @ (LinkEnd::Closed | LinkEnd::Broken(_)) => panic!("not refused: {other:?}"),
        }
    }

    pub(crate) fn write(&self, link: LinkKey, bytes: &[u8]) {
        self.command(ChildCommand::Write { shard: SHARD, link, bytes: bytes.to_vec() });
    }

    pub(crate) fn close(&self, link: LinkKey) {
        self.command(ChildCommand::Close { shard: SHARD, link });
    }

    fn command(&self, command: ChildCommand) {
        self.commands.try_send(command).expect("the supervisor takes commands");
    }

    /// Exactly so many bytes; what comes beyond stays for the next call.
    pub(crate) async fn read(&mut self, link: LinkKey, count: usize) -> Vec<u8> {
        loop {
            let bytes = self.bytes.entry(link).or_default();
            if bytes.len() >= count {
                return bytes.drain(..count).collect();
            }
            let has = bytes.len();
            let end = self.ends.get(&link);
            assert!(end.is_none(), "{end:?} after {has} of {count} bytes");
            let news = self.next().await.1;
            self.keep(news);
        }
    }

    /// All to the link's end.
    pub(crate) async fn read_all(&mut self, link: LinkKey) -> Vec<u8> {
        self.ended(link).await;
        self.bytes.remove(&link).unwrap_or_default()
    }

    pub(crate) async fn ended(&mut self, link: LinkKey) -> LinkEnd {
        loop {
            if let Some(end) = self.ends.remove(&link) {
                return end;
            }
            let news = self.next().await.1;
            self.keep(news);
        }
    }

    fn keep(&mut self, news: ChildNews) {
        match news {
            ChildNews::Opened(_) => {}
            ChildNews::Bytes(link, bytes) => self.bytes.entry(link).or_default().extend(bytes),
            ChildNews::Ended(link, end) => {
                let former = self.ends.insert(link, end);
                assert!(former.is_none(), "{link:?} ended twice");
            }
        }
    }

    pub(crate) async fn next(&mut self) -> (u16, ChildNews) {
        let news = timeout(PATIENCE, self.news.recv_async()).await.expect("news in time");
        news.expect("the supervisor runs")
    }

    pub(crate) fn set_mailbox_open(&self, is_open: bool) {
        self.is_mailbox_open.store(is_open, Ordering::SeqCst);
    }

    pub(crate) async fn until_refused(&self, times: u64) {
        until(|| self.refused.load(Ordering::SeqCst) >= times, "refusals").await;
    }

    pub(crate) fn counts(&self, endpoint: u16) -> EndpointCounts {
        let all = self.counters.snapshot();
        let found = all.into_iter().find(|(id, _)| *id == EndpointId(endpoint));
        found.expect("it has counts").1
    }

    pub(crate) fn processes(&self) -> Vec<Process> {
        processes(&self.mark)
    }

    pub(crate) async fn until_processes(&self, is_right: impl Fn(usize) -> bool) {
        until(|| is_right(self.processes().len()), "the number of processes").await;
    }

    pub(crate) async fn until_no_process_is_left(&self) {
        self.until_processes(|count| count == 0).await;
    }

    /// Ends the supervisor; nothing is left when it returns.
    pub(crate) async fn end(self) {
        self.end_within(PATIENCE).await;
    }

    pub(crate) async fn end_within(self, within: Duration) {
        self.stop.send(within).expect("the supervisor runs");
        let ended = timeout(PATIENCE, self.supervisor).await.expect("it ends in time");
        ended.expect("it did not panic");
        let left = processes(&self.mark);
        assert!(left.is_empty(), "left: {left:?}");
    }
}

/// A process of its own that runs the test of the given name with [`VICTIM`] set.
pub(crate) struct Victim {
    process: Child,
    mark: String,
}

impl Victim {
    pub(crate) fn start(test: &str) -> Victim {
        let mark = fresh_mark();
        let mut process = Command::new(std::env::current_exe().expect("our own file"))
            .args(["--exact", test, "--nocapture"])
            .env(VICTIM, &mark)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let output = process.stdout.take().expect("piped");
        let is_ready = BufReader::new(output)
            .lines()
            .any(|line| line.is_ok_and(|line| line.contains(VICTIM_IS_READY)));
        let victim = Victim { process, mark };
        assert!(is_ready, "the victim ended");
        victim
    }

    /// Waits until the supervisor's children and theirs have just these names, in their order.
    ///
    /// One look is not enough: a shell's child bears the shell's name until it runs its program,
    /// and while it does so it has no environment and therefore no mark.
    pub(crate) async fn until_names(&self, names: impl Iterator<Item = &str>) {
        let expected: Vec<&str> = names.collect();
        let is_right = || {
            let processes = processes(&self.mark);
            let mut names: Vec<&str> = processes.iter().map(|process| &*process.name).collect();
            names.sort_unstable();
            names == expected
        };
        until(is_right, "the victim's processes").await;
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    pub(crate) async fn until_no_process_is_left(&self) {
        until(|| processes(&self.mark).is_empty(), "no process of the victim").await;
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) name: String,
}

/// The processes that carry the mark. One that is a zombie has no environment any more; a
/// guard reaps all but its child, and is itself reaped by the supervisor.
fn processes(mark: &str) -> Vec<Process> {
    let needle = format!("{MARK}={mark}");
    let entries = std::fs::read_dir("/proc").expect("Linux").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
        let is_marked =
            environment.split(|byte| *byte == 0).any(|entry| entry == needle.as_bytes());
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        is_marked.then(|| Process { pid, name: name.trim().to_owned() })
    })
    .collect()
}

pub(crate) fn kill(pid: u32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(status.expect("kill runs").success());
}

async fn until(is_true: impl Fn() -> bool, what: &str) {
    let waiting = async {
        while !is_true() {
            sleep(LOOK).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "waited in vain for {what}");
}

fn fresh_mark() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst))
}
