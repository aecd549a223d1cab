//! The node's place in its cluster: starts its part of the control log, ends it, and lets the
//! admin server look at it.
//!
//! The log and all that belongs to it live on the control thread and are not `Send`, while
//! the admin server's handlers must be: they put their questions through a [`PlaceDoor`].
//!
//! Invariants:
//! - A node that can't take part as configured ends the process at its start, and says why.
//! - A node without a cluster has a place too, with a log of its own in memory.

mod api;
mod counting;
mod report;
mod view;
mod workers;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use shardgate_replicate::control_log::raft::{self, Member};
use shardgate_replicate::control_log::{ControlLog, Solo};
use shardgate_replicate::node::{Node, Settings, StartError};
use shardgate_replicate::pki::{Credentials, PkiError};
use shardgate_replicate::transport::{LinkSettings, Security, Tls};
use shardgate_replicate_proto::coordinator::Addresses;
use shardgate_replicate_proto::detector::Sensitivity;
use shardgate_replicate_proto::identity::NodeId;
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use counting::LeaderChanges;

use super::NodeFacts;
use crate::config::{Cluster, Config};

pub(super) use api::routes;
pub(crate) use api::{CLUSTER_PATH, NODES_PATH, NewNode};
pub use report::{
    ClusterReport, CountsReport, LogReport, NodeReport, OwnReport, TaskReport, TasksReport,
    VshardReport, VshardsReport, WorkerReport,
};
pub(super) use view::OwnFacts;
pub use view::PEER_ANSWER_WITHIN;

/// Questions that wait to be put; further ones wait in front of the door.
const QUESTIONS_WAITING_MAX: usize = 64;

/// How long the end of the node's part may take; the others do without it then.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Why the node can't take part in its cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The address for peers can't be had.
    #[error(
        "listen for the cluster's other nodes on {address}; if another program has it, choose \
         one by cluster.listen"
    )]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The files of `[cluster.tls]` are not usable.
    #[error("read the certificates of [cluster.tls]")]
    Certificates(#[source] Box<PkiError>),
    /// What is stored can't be used, or the cluster can't begin.
    #[error("take part in cluster {cluster} as node {id}, with data in {data_dir}")]
    Start {
        /// Which cluster.
        cluster: String,
        /// As which node.
        id: u16,
        /// Where its data is.
        data_dir: String,
        /// Why not.
        #[source]
        source: Box<StartError>,
    },
}

/// What the control thread needs to take part in a cluster.
pub struct ClusterSetup {
    settings: Settings,
    listener: TcpListener,
}

impl fmt::Debug for ClusterSetup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("ClusterSetup");
        shown.field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// Reads the certificates and binds the address for peers, so that what is wrong with them is
/// known before anything starts; `None` if there is no cluster.
///
/// # Errors
/// The address is taken or not ours, or the certificates are not usable.
pub fn prepare(config: &Config) -> Result<Option<ClusterSetup>, ClusterError> {
    let Some(cluster) = &config.cluster else { return Ok(None) };
    for remark in cluster.remarks() {
        tracing::warn!(event = "cluster_remark", "{remark}");
    }
    let security = security(cluster)?;
    let address = cluster.listen;
    let bind = |source| ClusterError::Bind { address, source };
    let listener = TcpListener::bind(address).map_err(bind)?;
    listener.set_nonblocking(true).map_err(bind)?;
    let settings = settings(cluster, config.node.name.as_str(), security);
    Ok(Some(ClusterSetup { settings, listener }))
}

fn security(cluster: &Cluster) -> Result<Security, ClusterError> {
    let unusable = |error: PkiError| ClusterError::Certificates(Box::new(error));
    let Some(files) = cluster.files() else { return Ok(Security::Insecure) };
    let credentials = Credentials::load(&files).map_err(unusable)?;
    let tls = Tls::new(&credentials, cluster.name.as_str());
    tls.map(Security::Tls).map_err(unusable)
}

fn settings(cluster: &Cluster, node_name: &str, security: Security) -> Settings {
    let voters = cluster.voters.iter().map(|voter| {
        let member = Member { name: voter.name.clone(), address: voter.address.clone() };
        (NodeId(voter.id), member)
    });
    Settings {
        cluster: cluster.name.clone(),
        id: NodeId(cluster.node_id),
        name: node_name.to_owned(),
        addresses: Addresses { peer: cluster.peer_address().into(), ..Addresses::default() },
        zone: cluster.zone.clone(),
        region: cluster.region.clone(),
        weight: cluster.weight,
        data_dir: cluster.data_dir.clone(),
        voters: voters.collect::<BTreeMap<_, _>>(),
        security,
        links: LinkSettings::default(),
        log: raft::Settings {
            cluster: cluster.name.as_str().to_owned(),
            heartbeat: Duration::from_millis(cluster.heartbeat_ms),
            election_min: Duration::from_millis(cluster.election_min_ms),
            election_max: Duration::from_millis(cluster.election_max_ms),
            ..raft::Settings::default()
        },
        sensitivity: Sensitivity::default(),
    }
}

/// The node's place: a log, and the cluster it is replicated in, if there is one.
pub(super) struct Place {
    log: Rc<dyn ControlLog>,
    node: Option<Rc<Node>>,
    leader_changes: LeaderChanges,
}

impl Place {
    /// Takes part in the cluster from now on, or keeps a log alone. Runs in a `LocalSet`.
    pub(super) async fn take(
        setup: Option<ClusterSetup>,
        facts: &NodeFacts,
    ) -> Result<Place, ClusterError> {
        let Some(ClusterSetup { mut settings, listener }) = setup else {
            let cluster = "alone".parse().expect("a cluster's name");
            return Ok(Place {
                log: Rc::new(Solo::new(cluster, &facts.node)),
                node: None,
                leader_changes: LeaderChanges::default(),
            });
        };
        settings.addresses.client =
            facts.listen.first().map(ToString::to_string).unwrap_or_default().into();
        settings.addresses.admin = facts.admin.to_string().into();
        let address = listener.local_addr().unwrap_or(facts.admin);
        let listener = tokio::net::TcpListener::from_std(listener)
            .map_err(|source| ClusterError::Bind { address, source })?;
        let (cluster, id) = (settings.cluster.to_string(), settings.id.0);
        let data_dir = settings.data_dir.display().to_string();
        let node = Node::start(settings, listener)
            .await
            .map_err(Box::new)
            .map_err(|source| ClusterError::Start { cluster, id, data_dir, source })?;
        Ok(Place {
            log: Rc::new(node.log().clone()),
            node: Some(node),
            leader_changes: LeaderChanges::default(),
        })
    }

    /// The log.
    pub(super) fn log(&self) -> Rc<dyn ControlLog> {
        Rc::clone(&self.log)
    }

    /// Whether the cluster, if there is one, has taken this life of the node.
    pub(super) fn is_taken(&self) -> bool {
        self.node.as_ref().is_none_or(|node| node.is_registered())
    }

    /// Hands leadership on, if the node has it, and ends its part.
    pub(super) async fn leave(&self) {
        let Some(node) = &self.node else { return };
        if tokio::time::timeout(STOP_WITHIN, node.stop()).await.is_err() {
            tracing::warn!("the node's part in the cluster did not end in time");
        }
    }
}

type Question = Box<dyn FnOnce(Rc<Place>) + Send>;

/// Where handlers of the admin server put questions to what is not `Send`.
#[derive(Clone)]
pub(super) struct PlaceDoor(flume::Sender<Question>);

/// The control thread is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node is ending")]
pub(super) struct Ending;

impl fmt::Debug for PlaceDoor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PlaceDoor").finish_non_exhaustive()
    }
}

impl PlaceDoor {
    /// A door to this place. Runs in a `LocalSet`.
    pub(super) fn to(place: Rc<Place>) -> PlaceDoor {
        let (door, questions) = flume::bounded::<Question>(QUESTIONS_WAITING_MAX);
        spawn_local(Place::watch_leader(Rc::downgrade(&place)));
        spawn_local(async move {
            while let Ok(question) = questions.recv_async().await {
                question(Rc::clone(&place));
            }
        });
        PlaceDoor(door)
    }

    /// Has `question` answered beside the log.
    pub(super) async fn ask<T, F>(
        &self,
        question: impl FnOnce(Rc<Place>) -> F + Send + 'static,
    ) -> Result<T, Ending>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (to, answer) = oneshot::channel();
        let put: Question = Box::new(move |place| {
            spawn_local(async move {
                // Whoever asked may have gone.
                let _ = to.send(question(place).await);
            });
        });
        self.0.send_async(put).await.map_err(|_| Ending)?;
        answer.await.map_err(|_| Ending)
    }
}
