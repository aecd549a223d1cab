//! Signs of life between nodes, and what follows from their absence.

use std::rc::Weak;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shardgate_replicate_proto::coordinator::Command;
use shardgate_replicate_proto::detector::{Evidence, Verdict};
use shardgate_replicate_proto::identity::{Incarnation, NodeId};
use tokio::sync::mpsc::UnboundedReceiver;

use super::Node;
use crate::peers::Kind;
use crate::transport::LinkEvent;

/// One heartbeat. Later releases may append fields.
#[derive(Debug, Serialize, Deserialize)]
struct Beat {
    incarnation: Incarnation,
    accused: Vec<Accused>,
    retracted: Vec<NodeId>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Accused {
    node: NodeId,
    incarnation: Incarnation,
    refused: bool,
}

/// Sends heartbeats and looks for those that are missing, for as long as the node lives.
pub(super) async fn run(node: Weak<Node>) {
    let Some(pause) = node.upgrade().map(|node| Duration::from_millis(node.poll_ms())) else {
        return;
    };
    let mut ticks = tokio::time::interval(pause);
    // A loop that was held up must see that it was, not make up for it.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(node) = node.upgrade() else { return };
        node.beat();
    }
}

/// Hears what becomes of links: a refused connection says more than silence.
pub(super) async fn listen(node: Weak<Node>, mut heard: UnboundedReceiver<LinkEvent>) {
    while let Some(event) = heard.recv().await {
        let Some(node) = node.upgrade() else { return };
        match event {
            LinkEvent::Up(peer) => tracing::info!(peer = %peer.name, node = %peer.node, "link up"),
            LinkEvent::Refused(peer) => node.detector.borrow_mut().handle_refused(peer),
            LinkEvent::Closed { peer, why, is_sudden } => {
                tracing::warn!(node = %peer, %why, "link closed");
                if is_sudden {
                    node.detector.borrow_mut().handle_closed(peer);
                }
            }
            LinkEvent::Failed { peer, why } => tracing::debug!(node = %peer, %why, "no link"),
        }
    }
}

impl Node {
    fn poll_ms(&self) -> u64 {
        self.settings.sensitivity.heartbeat_ms.min(self.detector.borrow().poll_interval_ms())
    }

    fn beat(&self) {
        let now_ms = self.now_ms();
        self.watch_nodes(now_ms);
        let verdicts = self.detector.borrow_mut().poll(now_ms);
        let mut beat = Beat {
            incarnation: self.incarnation.get(),
            accused: Vec::new(),
            retracted: Vec::new(),
        };
        for verdict in verdicts {
            match verdict {
                Verdict::Accuse { peer, incarnation, evidence } => {
                    tracing::warn!(node = %peer, %evidence, "suspects a node");
                    let refused = matches!(evidence, Evidence::Refused);
                    beat.accused.push(Accused { node: peer, incarnation, refused });
                }
                Verdict::Retract { peer, .. } => {
                    tracing::info!(node = %peer, "suspects a node no longer");
                    beat.retracted.push(peer);
                }
                Verdict::Fence { peer, incarnation, reason } => {
                    self.fence(peer, incarnation, &reason);
                }
            }
        }
        let Ok(body) = postcard::to_allocvec(&beat) else { return };
        let body = Bytes::from(body);
        for peer in self.links.peers() {
            // A link that is down shows itself by silence.
            let _ = self.links.notify(peer, Kind::Heartbeat as u8, body.clone());
        }
    }

    /// Everybody who is live in the log is watched; who is not, is not.
    fn watch_nodes(&self, now_ms: u64) {
        let mut detector = self.detector.borrow_mut();
        self.log.read(|state| {
            for node in state.nodes() {
                if node.is_live() {
                    detector.watch(node.id, node.incarnation, now_ms);
                } else {
                    detector.forget(node.id);
                }
            }
        });
    }

    /// Only the leader's word counts; the others' accusations have reached it.
    fn fence(&self, peer: NodeId, incarnation: Incarnation, reason: &str) {
        if !self.log.status().is_leader() {
            return;
        }
        tracing::warn!(node = %peer, reason, "fences a node");
        let fence = Command::FenceNode { id: peer, incarnation, reason: reason.into() };
        let log = self.log.clone();
        tokio::task::spawn_local(async move {
            // The verdict is given again as long as it holds.
            if let Err(error) = log.propose(vec![fence]).await {
                tracing::warn!(node = %peer, %error, "could not fence a node");
            }
        });
    }

    pub(super) fn handle_beat(&self, from: NodeId, body: &[u8]) {
        // A beat of a newer release has more behind what is known here.
        let Ok((beat, _)) = postcard::take_from_bytes::<Beat>(body) else { return };
        let now_ms = self.now_ms();
        let mut detector = self.detector.borrow_mut();
        detector.handle_heartbeat(from, beat.incarnation, now_ms);
        for accused in beat.accused {
            let Accused { node, incarnation, refused } = accused;
            detector.handle_accusation(from, node, incarnation, refused, now_ms);
        }
        for node in beat.retracted {
            detector.handle_retraction(from, node);
        }
    }

    /// A worker that registered at this node, or at a peer, gave a sign of life.
    pub fn worker_beat(
        &self,
        name: &str,
        registration: shardgate_replicate_proto::identity::Registration,
    ) {
        match self.log.leader() {
            Some(leader) if leader == self.id() => {
                self.leases.borrow_mut().beat(name, registration, self.now_ms());
            }
            Some(leader) => {
                if let Ok(body) = postcard::to_allocvec(&(name, registration)) {
                    // The next sign of life comes soon; a lease survives the loss of some.
                    let _ = self.links.notify(leader, Kind::WorkerBeat as u8, body.into());
                }
            }
            // A new leader gives every worker a whole lease.
            None => {}
        }
    }
}
