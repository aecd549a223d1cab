//! Whole nodes on loopback: real files, real links, one process.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use shardgate_replicate::control_log::raft::Member;
use shardgate_replicate::node::{Node, Settings};
use shardgate_replicate::transport::{LinkSettings, Security};
use shardgate_replicate_proto::coordinator::{
    Addresses, Command, Labels, Outcome, TaskSubmission, WorkerRegistration,
};
use shardgate_replicate_proto::detector::Sensitivity;
use shardgate_replicate_proto::identity::{NodeId, Registration, TaskId};
use tokio::net::TcpListener;
use tokio::task::LocalSet;

/// Nothing here takes longer unless it hangs.
const HANG: Duration = Duration::from_secs(60);

struct Ground {
    dir: tempfile::TempDir,
    voters: BTreeMap<NodeId, Member>,
}

impl Ground {
    /// Addresses for so many nodes, and their listeners.
    async fn of(count: u16) -> (Ground, Vec<TcpListener>) {
        let mut listeners = Vec::new();
        let mut voters = BTreeMap::new();
        for number in 1..=count {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("its address").to_string();
            voters.insert(NodeId(number), Member { name: format!("n{number}"), address });
            listeners.push(listener);
        }
        (Ground { dir: tempfile::tempdir().expect("a directory"), voters }, listeners)
    }

    fn data_dir(&self, id: NodeId) -> std::path::PathBuf {
        Path::new(self.dir.path()).join(format!("n{id}"))
    }

    async fn start(&self, id: NodeId, listener: TcpListener) -> Rc<Node> {
        let member = &self.voters[&id];
        let peer = member.address.as_str().into();
        let settings = Settings {
            cluster: "test".parse().expect("a name"),
            id,
            name: member.name.clone(),
            addresses: Addresses { peer, ..Addresses::default() },
            zone: format!("z{id}"),
            region: "r".to_owned(),
            weight: 1,
            data_dir: self.data_dir(id),
            voters: self.voters.clone(),
            security: Security::Insecure,
            links: LinkSettings::default(),
            log: Default::default(),
            sensitivity: Sensitivity::default(),
        };
        Node::start(settings, listener).await.expect("the node starts")
    }

    async fn start_all(&self, listeners: Vec<TcpListener>) -> Vec<Rc<Node>> {
        let mut nodes = Vec::new();
        for (id, listener) in self.voters.keys().zip(listeners) {
            nodes.push(self.start(*id, listener).await);
        }
        nodes
    }
}

/// Runs a test of nodes, which live on one thread.
async fn on_one_thread(test: impl Future<Output = ()>) {
    LocalSet::new()
        .run_until(async { tokio::time::timeout(HANG, test).await })
        .await
        .expect("it hangs");
}

/// A port that a node has just given up.
async fn bind_again(address: &str) -> TcpListener {
    let bound = async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(HANG / 2, bound).await.expect("the port is free again")
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(HANG / 2, waited).await.is_ok(), "never: {what}");
}

fn live(node: &Node) -> Vec<u16> {
    node.log()
        .read(|state| state.nodes().filter(|node| node.is_live()).map(|node| node.id.0).collect())
}

fn submission(id: u128) -> Command {
    Command::SubmitTask(Box::new(TaskSubmission {
        id: TaskId(id),
        owner: b"owner"[..].into(),
        tool: "tool".into(),
        service: "service".into(),
        params: b"{}"[..].into(),
        labels: Labels::default(),
        needs_worker: false,
        idempotent: true,
        ttl_ms: Some(600_000),
        poll_interval_ms: None,
        executor: NodeId(1),
    }))
}

#[tokio::test]
async fn every_node_registers_and_takes_commands() {
    on_one_thread(async {
        let (ground, listeners) = Ground::of(3).await;
        let nodes = ground.start_all(listeners).await;
        for node in &nodes {
            until("all are registered", || live(node) == [1, 2, 3]).await;
        }
        for (node, id) in nodes.iter().zip(1..) {
            let committed = node.log().propose(vec![submission(id)]).await.expect("committed");
            assert!(matches!(committed.outcomes[0], Outcome::TaskSubmitted { .. }));
        }
        for node in &nodes {
            node.log().read_barrier().await.expect("a leader answers");
            assert!(node.log().read(|state| (1..=3).all(|id| state.task(TaskId(id)).is_some())));
        }
        until("every virtual shard has a primary", || {
            nodes[0]
                .log()
                .read(|state| state.vshards().iter().all(|vshard| vshard.primary.is_some()))
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_node_that_is_gone_is_fenced_and_comes_back_with_a_new_life() {
    on_one_thread(async {
        let (ground, listeners) = Ground::of(3).await;
        let mut nodes = ground.start_all(listeners).await;
        until("all are registered", || live(&nodes[0]) == [1, 2, 3]).await;
        let gone = nodes.pop().expect("the third");
        let (id, incarnation) = (gone.id(), gone.incarnation());
        gone.stop().await;
        drop(gone);
        until("it is fenced", || live(&nodes[0]) == [1, 2]).await;
        let address = ground.voters[&id].address.clone();
        let listener = bind_again(&address).await;
        let back = ground.start(id, listener).await;
        until("it takes part again", || live(&nodes[0]) == [1, 2, 3]).await;
        assert!(back.incarnation() > incarnation);
    })
    .await;
}

#[tokio::test]
async fn a_cluster_that_was_stopped_as_a_whole_has_all_it_had() {
    on_one_thread(async {
        let (ground, listeners) = Ground::of(3).await;
        let nodes = ground.start_all(listeners).await;
        until("all are registered", || live(&nodes[0]) == [1, 2, 3]).await;
        for id in 1..=500 {
            let committed = nodes[0].log().propose(vec![submission(id)]).await.expect("committed");
            assert!(matches!(committed.outcomes[0], Outcome::TaskSubmitted { .. }));
        }
        for node in nodes {
            node.stop().await;
        }
        let mut listeners = Vec::new();
        for member in ground.voters.values() {
            listeners.push(bind_again(&member.address).await);
        }
        let nodes = ground.start_all(listeners).await;
        nodes[2].log().read_barrier().await.expect("a leader answers");
        let kept = nodes[2]
            .log()
            .read(|state| (1..=500).filter(|id| state.task(TaskId(*id)).is_some()).count());
        assert_eq!(kept, 500);
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_falls_silent_leaves_when_its_lease_ends() {
    on_one_thread(async {
        let (ground, listeners) = Ground::of(3).await;
        let nodes = ground.start_all(listeners).await;
        until("all are registered", || live(&nodes[0]) == [1, 2, 3]).await;
        let register = |name: &str| {
            Command::RegisterWorker(Box::new(WorkerRegistration {
                name: name.into(),
                registration: Registration(1),
                service: "service".into(),
                url: "http://127.0.0.1:9/mcp".into(),
                labels: Labels::default(),
                capacity: 1,
                lease_ms: 600,
                via: NodeId(1),
            }))
        };
        nodes[0]
            .log()
            .propose(vec![register("silent"), register("alive")])
            .await
            .expect("committed");
        until("the silent one is gone", || {
            // Signs of life are given at every node, whoever leads.
            for node in &nodes {
                node.worker_beat("alive", Registration(1));
            }
            nodes[0].log().read(|state| state.worker("silent").is_none())
        })
        .await;
        assert!(nodes[0].log().read(|state| state.worker("alive").is_some()));
    })
    .await;
}
