//! A cluster of real processes on this machine, as the measuring process sees it.
//!
//! Each node is this very program with another command, a data directory of its own and an
//! address on loopback. Its orders and answers are lines of JSON (see [`super::talk`]); its
//! log is a file beside its data, of which the end is told if the node is gone.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use shardgate_replicate::pki::{Authority, NodeRequest, PkiError, Validity};
use shardgate_replicate_proto::identity::NodeId;

use super::node::{CLUSTER, Tuning, node_name};
use super::talk::{Acknowledged, Order, Said, Status};

/// No answer takes longer unless the node hangs: longer than any step may last.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(180);
/// How long a cluster may take until it is whole.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// How often its state is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Days that the certificates of a run are good for.
const CERTIFICATE_DAYS: u64 = 2;
/// Lines of a node's log that are told when it is gone.
const LAST_LINES: usize = 5;
/// Ports are taken below those that the kernel gives to connections, so that a node that
/// was killed finds its own free when it comes back.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Why a measurement has ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("start node {id} as a process of its own")]
    Start {
        id: u16,
        #[source]
        source: io::Error,
    },
    #[error("write to the directory of the run, {}", path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("make the certificates of a cluster")]
    Certificates(#[source] PkiError),
    #[error("node {id} is gone{said}")]
    Gone { id: u16, said: String },
    #[error("node {id} did not answer within {} s: {order}", ANSWER_WITHIN.as_secs())]
    Silent { id: u16, order: String },
    #[error("node {id} could not do it ({order}): {why}")]
    Refused { id: u16, order: String, why: String },
    #[error("node {id} said something else than what it was asked: {said}")]
    Confused { id: u16, said: String },
    #[error("the cluster was not {what} within {} s", WHOLE_WITHIN.as_secs())]
    NotWhole { what: &'static str },
    #[error("no port between {} and {} of 127.0.0.1 is free", PORTS.start, PORTS.end)]
    NoPort,
}

type Result<T> = std::result::Result<T, ClusterError>;

/// What a cluster is to be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClusterPlan<'a> {
    /// Voters.
    pub(crate) size: u16,
    /// Whether links are secured by TLS.
    pub(crate) is_secure: bool,
    pub(crate) tuning: Tuning,
    /// Where data goes; None: the system's directory for temporary files.
    pub(crate) data: Option<&'a Path>,
}

/// A cluster. Dropping it kills its processes and removes their data.
pub(crate) struct Cluster {
    nodes: BTreeMap<u16, Process>,
    addresses: BTreeMap<u16, String>,
    voters: BTreeMap<u16, String>,
    authority: Option<Authority>,
    tuning: Tuning,
    directory: tempfile::TempDir,
}

/// One node's process.
pub(crate) struct Process {
    id: u16,
    child: Child,
    orders: ChildStdin,
    said: Receiver<Said>,
    log: PathBuf,
    /// What its load has told so far.
    acknowledged: Vec<Acknowledged>,
    watched_ns: Option<u64>,
}

impl Cluster {
    /// Starts all nodes, and waits until they are one cluster.
    pub(crate) fn start(plan: ClusterPlan<'_>) -> Result<Cluster> {
        let mut cluster = Cluster::prepare(plan)?;
        cluster.start_all()?;
        cluster.wait_until_whole()?;
        Ok(cluster)
    }

    fn prepare(plan: ClusterPlan<'_>) -> Result<Cluster> {
        let parent = plan.data.map_or_else(std::env::temp_dir, Path::to_owned);
        let directory = tempfile::Builder::new()
            .prefix("shardgate-bench-")
            .tempdir_in(&parent)
            .map_err(|source| ClusterError::Directory { path: parent, source })?;
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            addresses: BTreeMap::new(),
            voters: BTreeMap::new(),
            authority: None,
            tuning: plan.tuning,
            directory,
        };
        if plan.is_secure {
            let (path, validity) = (cluster.certificates(), Validity::days(CERTIFICATE_DAYS));
            fs::create_dir(&path)
                .map_err(|source| ClusterError::Directory { path: path.clone(), source })?;
            let authority = Authority::init(&path, CLUSTER, validity);
            cluster.authority = Some(authority.map_err(ClusterError::Certificates)?);
        }
        for id in 1..=plan.size {
            cluster.admit(id)?;
        }
        cluster.voters = cluster.addresses.clone();
        Ok(cluster)
    }

    fn certificates(&self) -> PathBuf {
        self.directory.path().join("pki")
    }

    /// An address and, if there are any, a certificate for one more node.
    fn admit(&mut self, id: u16) -> Result<()> {
        let address = free_address(&self.addresses)?;
        self.addresses.insert(id, address);
        if let Some(authority) = &self.authority {
            let request = NodeRequest {
                name: node_name(id),
                node: Some(NodeId(id)),
                addresses: vec!["127.0.0.1".to_owned()],
                validity: Validity::days(CERTIFICATE_DAYS),
            };
            let issued = authority.issue(&request).map_err(ClusterError::Certificates)?;
            issued.write(&self.certificates()).map_err(ClusterError::Certificates)?;
        }
        Ok(())
    }

    /// Starts every voter that does not run, all at once.
    pub(crate) fn start_all(&mut self) -> Result<()> {
        let missing: Vec<u16> =
            self.voters.keys().copied().filter(|id| !self.nodes.contains_key(id)).collect();
        for id in &missing {
            self.spawn(*id)?;
        }
        for id in missing {
            self.node(id).wait_until_ready()?;
        }
        Ok(())
    }

    /// Starts one node, and waits until its process says that it has begun.
    pub(crate) fn start_node(&mut self, id: u16) -> Result<()> {
        self.spawn(id)?;
        self.node(id).wait_until_ready()
    }

    /// Starts a node that the cluster does not know yet. It waits to be taken in.
    pub(crate) fn start_new_node(&mut self) -> Result<u16> {
        let id = self.addresses.keys().next_back().map_or(1, |last| last + 1);
        self.admit(id)?;
        self.start_node(id)?;
        Ok(id)
    }

    fn spawn(&mut self, id: u16) -> Result<()> {
        let start = |source| ClusterError::Start { id, source };
        let address = &self.addresses[&id];
        let data = self.directory.path().join(node_name(id));
        let log = self.directory.path().join(format!("{}.log", node_name(id)));
        let mut command = Command::new(std::env::current_exe().map_err(start)?);
        command.args(["coordinator-node", "--id", &id.to_string(), "--address", address]);
        command.arg("--data").arg(&data);
        if self.voters.contains_key(&id) {
            let voters: Vec<String> =
                self.voters.iter().map(|(id, address)| format!("{id}={address}")).collect();
            command.arg("--voters").arg(voters.join(","));
        }
        if self.authority.is_some() {
            command.arg("--certificates").arg(self.certificates());
        }
        for (name, value) in [
            ("--commands-per-entry", self.tuning.commands_per_entry.map(|value| value as u64)),
            ("--snapshot-every", self.tuning.snapshot_every),
            ("--entries-kept", self.tuning.entries_kept),
        ] {
            if let Some(value) = value {
                command.arg(name).arg(value.to_string());
            }
        }
        let stderr = open_log(&log).map_err(start)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        // Ctrl-C on a terminal is for us; the node ends with its standard input.
        command.process_group(0);
        let mut child = command.spawn().map_err(start)?;
        let orders = child.stdin.take().expect("it was asked for");
        let output = child.stdout.take().expect("it was asked for");
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(io::Result::ok) {
                let said = serde_json::from_str(&line)
                    .unwrap_or_else(|_| Said::Failed { why: format!("no answer: {line}") });
                if sender.send(said).is_err() {
                    return;
                }
            }
        });
        let process =
            Process { id, child, orders, said, log, acknowledged: Vec::new(), watched_ns: None };
        self.nodes.insert(id, process);
        Ok(())
    }

    /// A node that runs.
    pub(crate) fn node(&mut self, id: u16) -> &mut Process {
        self.nodes.get_mut(&id).expect("a node that runs")
    }

    /// Nodes that run.
    pub(crate) fn running(&self) -> Vec<u16> {
        self.nodes.keys().copied().collect()
    }

    /// Where a node listens.
    pub(crate) fn address(&self, id: u16) -> &str {
        &self.addresses[&id]
    }

    /// Kills a node with SIGKILL, waits until it is gone, and gives what its load had told.
    pub(crate) fn kill(&mut self, id: u16) -> Vec<Acknowledged> {
        let mut process = self.nodes.remove(&id).expect("a node that runs");
        process.end()
    }

    /// Waits until all that run agree on a leader, know all as live and have the same log.
    pub(crate) fn wait_until_whole(&mut self) -> Result<u16> {
        let deadline = Instant::now() + WHOLE_WITHIN;
        while Instant::now() < deadline {
            let statuses: Vec<Status> = self
                .running()
                .into_iter()
                .map(|id| self.node(id).status())
                .collect::<Result<_>>()?;
            if let Some(leader) = agreed_leader(&statuses) {
                return Ok(leader);
            }
            std::thread::sleep(LOOK);
        }
        Err(ClusterError::NotWhole { what: "whole" })
    }

    /// Has a node make a snapshot, and waits until it covers what it had applied before.
    pub(crate) fn snapshot(&mut self, id: u16) -> Result<Status> {
        let index = self.node(id).status()?.applied_index;
        self.node(id).do_it(&Order::Snapshot)?;
        let deadline = Instant::now() + WHOLE_WITHIN;
        while Instant::now() < deadline {
            let status = self.node(id).status()?;
            if status.snapshot_index >= index {
                return Ok(status);
            }
            std::thread::sleep(LOOK);
        }
        Err(ClusterError::NotWhole { what: "covered by a snapshot" })
    }

    /// Waits until a running node knows a leader that runs.
    pub(crate) fn leader(&mut self) -> Result<u16> {
        let deadline = Instant::now() + WHOLE_WITHIN;
        while Instant::now() < deadline {
            for id in self.running() {
                match self.node(id).status()?.leader {
                    Some(leader) if self.nodes.contains_key(&leader) => return Ok(leader),
                    Some(_) | None => {}
                }
            }
            std::thread::sleep(LOOK);
        }
        Err(ClusterError::NotWhole { what: "led" })
    }
}

fn agreed_leader(statuses: &[Status]) -> Option<u16> {
    let first = statuses.first()?;
    let leader = first.leader?;
    let agree = statuses.iter().all(|status| {
        status.leader == Some(leader)
            && status.live == statuses.len()
            && status.term == first.term
            && status.applied_index == first.applied_index
    });
    agree.then_some(leader)
}

fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn free_address(taken: &BTreeMap<u16, String>) -> Result<String> {
    // Several measurements may run at one time: each begins somewhere else.
    let begin = fastrand::u16(PORTS);
    for port in (begin..PORTS.end).chain(PORTS.start..begin) {
        let address = format!("127.0.0.1:{port}");
        if !taken.values().any(|other| *other == address) && TcpListener::bind(&address).is_ok() {
            return Ok(address);
        }
    }
    Err(ClusterError::NoPort)
}

impl Process {
    fn wait_until_ready(&mut self) -> Result<()> {
        let said = self.hear("start")?;
        if said == Said::Ready { Ok(()) } else { Err(self.confused(&said)) }
    }

    /// Orders something and waits for the answer.
    pub(crate) fn ask(&mut self, order: &Order) -> Result<Said> {
        self.tell(order)?;
        self.hear(&text_of(order))
    }

    /// Orders something that is answered later, if at all.
    pub(crate) fn tell(&mut self, order: &Order) -> Result<()> {
        let mut line = text_of(order);
        line.push('\n');
        let written = self.orders.write_all(line.as_bytes()).and_then(|()| self.orders.flush());
        written.map_err(|_| self.gone())
    }

    /// The next answer. What the load tells is put aside.
    fn hear(&mut self, order: &str) -> Result<Said> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left) {
                Ok(Said::Failed { why }) => {
                    let order = order.to_owned();
                    return Err(ClusterError::Refused { id: self.id, order, why });
                }
                Ok(said) => {
                    if let Some(said) = self.set_aside(said) {
                        return Ok(said);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let order = order.to_owned();
                    return Err(ClusterError::Silent { id: self.id, order });
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.gone()),
            }
        }
    }

    fn set_aside(&mut self, said: Said) -> Option<Said> {
        if let Said::Acknowledged { tasks } = said {
            self.acknowledged.extend(tasks);
            return None;
        }
        if let Said::Watched { at_ns } = said {
            self.watched_ns = Some(at_ns);
            return None;
        }
        Some(said)
    }

    /// Waits until its load has told of so many tasks.
    pub(crate) fn wait_for_acknowledged(&mut self, count: usize) -> Result<()> {
        self.wait_for_load(|process| process.acknowledged.len() >= count)
    }

    /// Waits for what its load watches for: when that happened.
    pub(crate) fn wait_for_watched(&mut self) -> Result<u64> {
        self.wait_for_load(|process| process.watched_ns.is_some())?;
        Ok(self.watched_ns.take().expect("it was waited for"))
    }

    fn wait_for_load(&mut self, is_there: impl Fn(&Process) -> bool) -> Result<()> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        while !is_there(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left) {
                Ok(said) => {
                    if let Some(said) = self.set_aside(said) {
                        return Err(self.confused(&said));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    let order = "a write of the load".to_owned();
                    return Err(ClusterError::Silent { id: self.id, order });
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.gone()),
            }
        }
        Ok(())
    }

    /// What its load has told, all of it once.
    pub(crate) fn take_acknowledged(&mut self) -> Vec<Acknowledged> {
        std::mem::take(&mut self.acknowledged)
    }

    /// How it is.
    pub(crate) fn status(&mut self) -> Result<Status> {
        let said = self.ask(&Order::Status)?;
        if let Said::Status(status) = said { Ok(status) } else { Err(self.confused(&said)) }
    }

    /// Has something done that has no figures.
    pub(crate) fn do_it(&mut self, order: &Order) -> Result<()> {
        let said = self.ask(order)?;
        if said == Said::Done { Ok(()) } else { Err(self.confused(&said)) }
    }

    /// All tasks that it has, after a look at what the cluster has committed.
    pub(crate) fn list(&mut self) -> Result<Vec<Acknowledged>> {
        self.tell(&Order::List)?;
        let mut all = Vec::new();
        loop {
            let said = self.hear("list all tasks")?;
            let Said::Listed { tasks, is_last } = said else { return Err(self.confused(&said)) };
            all.extend(tasks);
            if is_last {
                return Ok(all);
            }
        }
    }

    pub(crate) fn confused(&self, said: &Said) -> ClusterError {
        ClusterError::Confused { id: self.id, said: format!("{said:?}") }
    }

    fn gone(&self) -> ClusterError {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(LAST_LINES).collect();
        let said = lines.iter().rev().map(|line| format!("; {line}")).collect();
        ClusterError::Gone { id: self.id, said }
    }

    fn end(&mut self) -> Vec<Acknowledged> {
        // Both fail only if it is gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What it had written before is read to the end.
        while let Ok(said) = self.said.recv() {
            self.set_aside(said);
        }
        self.take_acknowledged()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // As above.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text_of(order: &Order) -> String {
    serde_json::to_string(order).expect("plain data has a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(leader: Option<u16>, live: usize, applied_index: u64) -> Status {
        Status { leader, live, applied_index, ..Status::default() }
    }

    #[test]
    fn a_cluster_is_whole_when_all_agree() {
        let whole = [status(Some(2), 2, 9), status(Some(2), 2, 9)];
        assert_eq!(agreed_leader(&whole), Some(2));
        for other in [status(None, 2, 9), status(Some(1), 2, 9), status(Some(2), 1, 9)] {
            assert_eq!(agreed_leader(&[whole[0].clone(), other]), None);
        }
        assert_eq!(agreed_leader(&[whole[0].clone(), status(Some(2), 2, 8)]), None);
        assert_eq!(agreed_leader(&[]), None);
    }

    #[test]
    fn addresses_differ() {
        let first = free_address(&BTreeMap::new()).unwrap();
        let taken = BTreeMap::from([(1, first.clone())]);
        assert_ne!(free_address(&taken).unwrap(), first);
    }
}
