//! One node of the cluster that is measured: `shardgate-bench coordinator-node`, started by
//! `shardgate-bench coordinator` and by nobody else.
//!
//! The clients are tasks in the node's own process, on the node's own thread, as the shards
//! of a gateway are clients of the control thread in the same process.
//!
//! Invariant: what is told as acknowledged was acknowledged by the control log before.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use shardgate_replicate::control_log::raft::{self, Member, MemberChange};
use shardgate_replicate::node::{Node, Settings, StartError};
use shardgate_replicate::pki::{Credentials, NodeFiles, PkiError};
use shardgate_replicate::transport::{LinkSettings, Security, Tls};
use shardgate_replicate_proto::coordinator::{Addresses, TaskFilter};
use shardgate_replicate_proto::detector::Sensitivity;
use shardgate_replicate_proto::identity::NodeId;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::clients::{self, Load};
use super::talk::{Acknowledged, Order, Said, Status, monotonic_ns};

/// The cluster's name.
pub(crate) const CLUSTER: &str = "bench";
/// How long the address of a process that was killed may stay taken.
const BIND_WITHIN: Duration = Duration::from_secs(5);
/// How often an address or an entry is looked for.
const LOOK: Duration = Duration::from_millis(2);
/// Tasks of one line of a list.
const LINE_TASKS_MAX: usize = 1_000;

/// What a node is told by its command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodePlan {
    pub(crate) id: u16,
    pub(crate) address: String,
    pub(crate) data_dir: PathBuf,
    /// Numbers and addresses; empty if the node waits to be taken in.
    pub(crate) voters: BTreeMap<u16, String>,
    /// Where certificates are, if links are secured.
    pub(crate) certificates: Option<PathBuf>,
    pub(crate) tuning: Tuning,
}

/// What sweeps vary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tuning {
    /// Most commands of one entry of the log.
    pub commands_per_entry: Option<usize>,
    /// Entries after which a snapshot is made.
    pub snapshot_every: Option<u64>,
    /// Entries kept behind a snapshot.
    pub entries_kept: Option<u64>,
}

impl Tuning {
    fn settings(self) -> raft::Settings {
        let default = raft::Settings::default();
        raft::Settings {
            cluster: CLUSTER.to_owned(),
            commands_per_entry: self.commands_per_entry.unwrap_or(default.commands_per_entry),
            snapshot_every: self.snapshot_every.unwrap_or(default.snapshot_every),
            entries_kept: self.entries_kept.unwrap_or(default.entries_kept),
            ..default
        }
    }
}

/// Why there is no node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("start the runtime of a node")]
    Runtime(#[source] io::Error),
    #[error("listen at {address}")]
    Listen {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("read the certificates of node {id}")]
    Certificates {
        id: u16,
        #[source]
        source: PkiError,
    },
    #[error("start node {id}")]
    Start {
        id: u16,
        #[source]
        source: StartError,
    },
}

/// The name of a node, which its certificate carries.
pub(crate) fn node_name(id: u16) -> String {
    format!("n{id}")
}

/// Runs a node until its standard input ends.
pub(crate) fn run(plan: &NodePlan) -> Result<(), NodeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(NodeError::Runtime)?;
    let orders = read_orders();
    LocalSet::new().block_on(&runtime, serve(plan, orders))
}

/// Lines from standard input. A thread reads them, as the control thread must not wait.
fn read_orders() -> mpsc::UnboundedReceiver<Order> {
    let (sender, orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(order) => {
                    if sender.send(order).is_err() {
                        return;
                    }
                }
                Err(error) => say(&Said::Failed { why: format!("no order: {line}: {error}") }),
            }
        }
    });
    orders
}

/// Writes one line. If nobody reads it, standard input has ended too, and the node ends.
pub(super) fn say(said: &Said) {
    let mut line = serde_json::to_string(said).expect("plain data has a JSON form");
    line.push('\n');
    let mut output = io::stdout().lock();
    let _ = output.write_all(line.as_bytes()).and_then(|()| output.flush());
}

async fn serve(
    plan: &NodePlan,
    mut orders: mpsc::UnboundedReceiver<Order>,
) -> Result<(), NodeError> {
    let listener = listen(&plan.address).await?;
    let settings = settings(plan)?;
    let start = |source| NodeError::Start { id: plan.id, source };
    let node = Node::start(settings, listener).await.map_err(start)?;
    say(&Said::Ready);
    let mut load = None;
    while let Some(order) = orders.recv().await {
        let said = carry_out(&node, &mut load, order).await;
        said.unwrap_or_else(|why| say(&Said::Failed { why }));
    }
    Ok(())
}

async fn listen(address: &str) -> Result<TcpListener, NodeError> {
    let begun = monotonic_ns();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(_) if monotonic_ns() - begun < BIND_WITHIN.as_nanos() as u64 => {
                tokio::time::sleep(LOOK).await;
            }
            Err(source) => {
                return Err(NodeError::Listen { address: address.to_owned(), source });
            }
        }
    }
}

fn settings(plan: &NodePlan) -> Result<Settings, NodeError> {
    let id = plan.id;
    let security = match &plan.certificates {
        None => Security::Insecure,
        Some(directory) => {
            let tls = Credentials::load(&node_files(directory, id))
                .and_then(|credentials| Tls::new(&credentials, CLUSTER));
            Security::Tls(tls.map_err(|source| NodeError::Certificates { id, source })?)
        }
    };
    let member =
        |id: u16, address: &str| Member { name: node_name(id), address: address.to_owned() };
    let voters = plan.voters.iter().map(|(id, address)| (NodeId(*id), member(*id, address)));
    Ok(Settings {
        cluster: CLUSTER.parse().expect("a sound name"),
        id: NodeId(id),
        name: node_name(id),
        addresses: Addresses { peer: plan.address.as_str().into(), ..Addresses::default() },
        zone: format!("z{id}"),
        region: "local".to_owned(),
        weight: 1,
        data_dir: plan.data_dir.clone(),
        voters: voters.collect(),
        security,
        links: LinkSettings::default(),
        log: plan.tuning.settings(),
        sensitivity: Sensitivity::default(),
    })
}

/// Where a node's certificates are in the directory of all.
pub(super) fn node_files(directory: &Path, id: u16) -> NodeFiles {
    let name = node_name(id);
    NodeFiles {
        authority: shardgate_replicate::pki::Authority::files(directory).0,
        certificate: directory.join(format!("{name}.pem")),
        key: directory.join(format!("{name}-key.pem")),
    }
}

async fn carry_out(node: &Rc<Node>, load: &mut Option<Load>, order: Order) -> Result<(), String> {
    match order {
        Order::Status => say(&Said::Status(status(node))),
        Order::Perform(work) => say(&Said::Performed(clients::perform(node, work).await)),
        Order::Load { session, clients, pace_us } => {
            let pace = Duration::from_micros(pace_us);
            *load = Some(Load::begin(node, session, clients, pace));
            say(&Said::Done);
        }
        Order::Watch { since_ns } => {
            let load = load.as_ref().ok_or("there is no load to watch")?;
            load.watch(since_ns);
        }
        Order::EndLoad => {
            let load = load.take().ok_or("there is no load to end")?;
            let (retries, example) = load.end().await;
            say(&Said::LoadEnded { retries, example });
        }
        Order::Reach { index } => {
            while node.log().read_at(|_, applied| applied) < index {
                tokio::time::sleep(LOOK).await;
            }
            say(&Said::Reached { at_ns: monotonic_ns() });
        }
        Order::Fill { tasks, bytes } => {
            clients::fill(node, tasks, bytes).await?;
            say(&Said::Done);
        }
        Order::Snapshot => {
            node.log().snapshot_now().await.map_err(|error| error.to_string())?;
            say(&Said::Done);
        }
        Order::AddLearner { id, address } => {
            let change = MemberChange::AddLearner(id, Member { name: node_name(id), address });
            node.log().change_members(&change).await.map_err(|error| error.to_string())?;
            say(&Said::Done);
        }
        Order::List => list(node).await?,
    }
    Ok(())
}

fn status(node: &Node) -> Status {
    let (status, (log_bytes, _)) = (node.status(), node.log_size());
    let (live, tasks, applied_index) = node
        .log()
        .read_at(|state, applied| (state.counts().nodes_live, state.counts().tasks, applied));
    Status {
        leader: status.leader.map(|leader| leader.0),
        term: status.term,
        live,
        committed_index: status.committed_index,
        applied_index,
        snapshot_index: status.snapshot_index,
        snapshot_bytes: status.snapshot_bytes as u64,
        purged_index: status.purged_index,
        tasks,
        log_bytes,
        resident_bytes: resident_bytes(),
    }
}

/// Memory of this process, 0 if the kernel does not tell.
fn resident_bytes() -> u64 {
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    status.ok().and_then(|status| status.vmrss).unwrap_or_default() * 1_024
}

async fn list(node: &Node) -> Result<(), String> {
    node.log().read_barrier().await.map_err(|error| error.to_string())?;
    let mut after = None;
    loop {
        let page =
            node.log().read(|state| state.tasks(&TaskFilter::default(), after, LINE_TASKS_MAX));
        let tasks: Vec<Acknowledged> =
            page.tasks.iter().map(|task| clients::acknowledged(task.id, task.created_ms)).collect();
        after = page.next;
        say(&Said::Listed { tasks, is_last: after.is_none() });
        if after.is_none() {
            return Ok(());
        }
        tokio::task::yield_now().await;
    }
}
