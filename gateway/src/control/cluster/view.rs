//! How a node sees its cluster: what the log holds, how its links are, and what each of the
//! others says of itself when asked.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shardgate_replicate::node::Node;
use shardgate_replicate_proto::identity::NodeId;
use tokio::task::JoinSet;

use super::Place;
use super::report::{ClusterReport, CountsReport, LogReport, NodeReport, OwnReport};
use crate::control::PhaseCell;
use crate::control::status::Load;

/// How long the others' answers are waited for; who is later is told to be silent.
pub const PEER_ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What a node knows of itself beside its log.
#[derive(Clone, Debug)]
pub(in crate::control) struct OwnFacts {
    pub(in crate::control) phase: PhaseCell,
    pub(in crate::control) started: Instant,
    // Never held across an await.
    pub(in crate::control) load: Arc<Mutex<Option<Load>>>,
}

impl OwnFacts {
    fn report(&self, node: &Node) -> OwnReport {
        OwnReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: self.phase.now().as_str().to_owned(),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            log: LogReport::from(&node.status()),
            load: self.load.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

impl Place {
    /// From now on tells other nodes, when they ask, how this one is.
    pub(in crate::control) fn tell_others(&self, own: OwnFacts) {
        let Some(node) = &self.node else { return };
        // The node holds the reporter, which therefore must not hold the node.
        let told = Rc::downgrade(node);
        node.set_reporter(Box::new(move || {
            let report = told.upgrade().map(|node| own.report(&node)).unwrap_or_default();
            serde_json::to_vec(&report).unwrap_or_default()
        }));
    }

    /// The cluster as this node sees it; `None` if it is alone.
    pub(super) async fn cluster(&self, own: &OwnFacts) -> Option<ClusterReport> {
        let node = self.node.as_ref()?;
        let mut nodes = known_nodes(node);
        let mut asked = JoinSet::new();
        for id in nodes.keys().copied().filter(|id| *id != node.id()) {
            let node = Rc::clone(node);
            asked.spawn_local(async move { (id, ask(&node, id).await) });
        }
        while let Some(answered) = asked.join_next().await {
            let Ok((id, answer)) = answered else { continue };
            let Some(report) = nodes.get_mut(&id) else { continue };
            match answer {
                Ok(own) => report.own = Some(own),
                Err(why) => report.no_answer = Some(why),
            }
        }
        if let Some(report) = nodes.get_mut(&node.id()) {
            report.own = Some(own.report(node));
        }
        Some(ClusterReport {
            cluster: node.settings().cluster.to_string(),
            node: node.id().0,
            log: LogReport::from(&node.status()),
            counts: node.log().read(|state| CountsReport::from(state)),
            nodes: nodes.into_values().collect(),
        })
    }

    /// The nodes as this one sees them, without asking them.
    pub(super) fn nodes(&self) -> Option<Vec<NodeReport>> {
        Some(known_nodes(self.node.as_ref()?).into_values().collect())
    }
}

async fn ask(node: &Node, peer: NodeId) -> Result<OwnReport, String> {
    let answer = node.report_of(peer, PEER_ANSWER_WITHIN).await?;
    serde_json::from_slice(&answer).map_err(|error| {
        format!(
            "its answer is none that this release ({}) knows: {error}",
            env!("CARGO_PKG_VERSION")
        )
    })
}

/// All that the log or its members name, with how this node is linked to each.
fn known_nodes(node: &Node) -> BTreeMap<NodeId, NodeReport> {
    let mut nodes: BTreeMap<NodeId, NodeReport> = node.log().read(|state| {
        state.nodes().map(|known| (known.id, NodeReport::of(known, state))).collect()
    });
    let status = node.status();
    for (id, member) in node.log().members() {
        let report = nodes.entry(id).or_insert_with(|| NodeReport {
            id: id.0,
            name: member.name,
            standing: "unregistered".to_owned(),
            peer_address: member.address,
            ..NodeReport::default()
        });
        report.member = match status.voters.contains(&id) {
            true => "voter".to_owned(),
            false => "learner".to_owned(),
        };
    }
    let suspects = node.suspects();
    let links: BTreeMap<_, _> =
        node.link_states().into_iter().map(|link| (link.node, link)).collect();
    for (id, report) in &mut nodes {
        if report.member.is_empty() {
            report.member = "none".to_owned();
        }
        report.suspected = suspects.get(id).map(ToString::to_string);
        let link = links.get(id);
        report.link_failure = link.and_then(|link| link.last_failure.as_deref()).map(str::to_owned);
        report.link = match link {
            _ if *id == node.id() => "self".to_owned(),
            Some(link) if link.peer.is_some() => "up".to_owned(),
            Some(_) | None => "down".to_owned(),
        };
    }
    nodes
}
