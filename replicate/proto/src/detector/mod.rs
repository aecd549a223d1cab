//! Which peers are to be suspected, and when a suspicion is enough to fence a node.
//!
//! Detectors only suspect; the control log decides. Every node watches every other by its
//! heartbeats and tells the others whom it suspects; the leader fences a node
//! - that two observers suspect at the same time, or
//! - whose address refused a connection of a single one: its process is gone.
//!
//! A silence is suspect at phi ≥ 8 and at least half a second; a connection that broke is
//! suspect at once, but by itself no proof. An error costs one move, never data.
//!
//! Invariants:
//! - A node whose own loop stalled does not accuse: what it takes for silence may be its
//!   own deafness. It forgets its suspicions and listens anew (the idea of Lifeguard: Dadgar,
//!   Phillips, Currey, DSN 2018).
//! - The word of an observer that is itself suspected does not count.
//! - What is said of an earlier life of a peer says nothing of its present one.
//!
//! Limits: [`INTERVALS_MAX`] intervals of each peer; accusations are void after [`ACCUSATION_MS`].

mod phi;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use phi::{INTERVAL_MS_MAX, INTERVALS_MAX};

use crate::identity::{Incarnation, NodeId};
use phi::Intervals;

/// How long an accusation counts unless it is repeated, in milliseconds.
pub const ACCUSATION_MS: u64 = 2_000;
/// How often a verdict that still holds is given again, since it may get lost, in milliseconds.
pub const REPEAT_MS: u64 = 500;

/// When a silence is suspect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sensitivity {
    /// How often nodes send heartbeats.
    pub heartbeat_ms: u64,
    /// The phi from which on a silence is suspect.
    pub phi: f64,
    /// A shorter silence is never suspect.
    pub silence_ms_min: u64,
    /// Between two polls, a longer pause is a stall of one's own loop.
    pub stall_ms: u64,
}

impl Default for Sensitivity {
    fn default() -> Sensitivity {
        Sensitivity { heartbeat_ms: 100, phi: 8.0, silence_ms_min: 500, stall_ms: 200 }
    }
}

/// What made a peer suspect.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Evidence {
    /// It was silent.
    Silent {
        /// For how long.
        silent_ms: u64,
        /// How surprising that is.
        phi: f64,
    },
    /// It closed or reset a connection.
    Closed,
    /// Its address refused a connection.
    Refused,
}

impl std::fmt::Display for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Evidence::Silent { silent_ms, phi } => {
                write!(f, "silent for {silent_ms} ms (phi {phi:.1})")
            }
            Evidence::Closed => f.write_str("its connection broke"),
            Evidence::Refused => f.write_str("its address refused a connection"),
        }
    }
}

/// What is to be done about a peer. One that goes on to hold is given every [`REPEAT_MS`].
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Tell the others that this node suspects it.
    Accuse {
        /// The suspect.
        peer: NodeId,
        /// The life that is suspected.
        incarnation: Incarnation,
        /// Why.
        evidence: Evidence,
    },
    /// Tell the others that this node suspects it no longer.
    Retract {
        /// The peer.
        peer: NodeId,
        /// The life that was suspected.
        incarnation: Incarnation,
    },
    /// There is reason enough to fence it: the leader proposes that.
    Fence {
        /// The node.
        peer: NodeId,
        /// The life that is over.
        incarnation: Incarnation,
        /// What was observed and by whom, for people.
        reason: String,
    },
}

/// What another node said of a peer.
#[derive(Clone, Copy, Debug)]
struct Accusation {
    incarnation: Incarnation,
    refused: bool,
    at_ms: u64,
}

#[derive(Debug)]
struct Peer {
    incarnation: Incarnation,
    intervals: Intervals,
    heard_ms: u64,
    /// Evidence other than silence, until the peer is heard again.
    broken: Option<Evidence>,
    accused_ms: Option<u64>,
    fence_said_ms: Option<u64>,
    /// By accuser.
    accusations: BTreeMap<NodeId, Accusation>,
}

impl Peer {
    fn new(incarnation: Incarnation, heartbeat_ms: u64, now_ms: u64) -> Peer {
        Peer {
            incarnation,
            intervals: Intervals::expecting(heartbeat_ms),
            heard_ms: now_ms,
            broken: None,
            accused_ms: None,
            fence_said_ms: None,
            accusations: BTreeMap::new(),
        }
    }

    fn evidence(&self, sensitivity: &Sensitivity, now_ms: u64) -> Option<Evidence> {
        if self.broken.is_some() {
            return self.broken;
        }
        let silent_ms = now_ms.saturating_sub(self.heard_ms);
        if silent_ms < sensitivity.silence_ms_min {
            return None;
        }
        let phi = self.intervals.phi(silent_ms);
        (phi >= sensitivity.phi).then_some(Evidence::Silent { silent_ms, phi })
    }
}

/// A node's watch over its peers. Times are milliseconds of a clock that never goes back.
#[derive(Debug)]
pub struct Detector {
    own: NodeId,
    sensitivity: Sensitivity,
    peers: BTreeMap<NodeId, Peer>,
    polled_ms: Option<u64>,
    stalls: u64,
}

impl Detector {
    /// A watch that has nobody to watch yet.
    pub fn new(own: NodeId, sensitivity: Sensitivity) -> Detector {
        Detector { own, sensitivity, peers: BTreeMap::new(), polled_ms: None, stalls: 0 }
    }

    /// A peer is to be watched in this life; what was known of an earlier one is forgotten.
    pub fn watch(&mut self, peer: NodeId, incarnation: Incarnation, now_ms: u64) {
        let known = self.peers.get(&peer).is_some_and(|known| known.incarnation >= incarnation);
        if peer != self.own && !known {
            let heartbeat_ms = self.sensitivity.heartbeat_ms;
            self.peers.insert(peer, Peer::new(incarnation, heartbeat_ms, now_ms));
        }
    }

    /// A peer is fenced or removed: nothing more is to be said of it, nor counts what it says.
    pub fn forget(&mut self, peer: NodeId) {
        self.peers.remove(&peer);
        for other in self.peers.values_mut() {
            other.accusations.remove(&peer);
        }
    }

    /// A peer was heard.
    pub fn handle_heartbeat(&mut self, from: NodeId, incarnation: Incarnation, now_ms: u64) {
        self.watch(from, incarnation, now_ms);
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if peer.incarnation != incarnation {
            return;
        }
        // Right after it was first named there is no interval yet.
        if now_ms > peer.heard_ms {
            peer.intervals.add(now_ms - peer.heard_ms);
            peer.heard_ms = now_ms;
        }
        peer.broken = None;
    }

    /// A peer closed or reset a connection.
    pub fn handle_closed(&mut self, peer: NodeId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.broken.get_or_insert(Evidence::Closed);
        }
    }

    /// A peer's address refused a connection: nothing listens there.
    pub fn handle_refused(&mut self, peer: NodeId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.broken = Some(Evidence::Refused);
        }
    }

    /// Another node suspects a peer in a certain life.
    pub fn handle_accusation(
        &mut self,
        from: NodeId,
        about: NodeId,
        incarnation: Incarnation,
        refused: bool,
        now_ms: u64,
    ) {
        if !self.peers.contains_key(&from) {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&about) {
            let accusation = Accusation { incarnation, refused, at_ms: now_ms };
            peer.accusations.insert(from, accusation);
        }
    }

    /// Another node suspects a peer no longer.
    pub fn handle_retraction(&mut self, from: NodeId, about: NodeId) {
        if let Some(peer) = self.peers.get_mut(&about) {
            peer.accusations.remove(&from);
        }
    }

    /// What is to be done now. To be called at least every [`Detector::poll_interval_ms`],
    /// after everything that has arrived was handled.
    pub fn poll(&mut self, now_ms: u64) -> Vec<Verdict> {
        let pause_ms = self.polled_ms.map_or(0, |polled_ms| now_ms.saturating_sub(polled_ms));
        self.polled_ms = Some(now_ms);
        if pause_ms > self.sensitivity.stall_ms {
            return self.recover_from_stall(now_ms);
        }
        let suspects = self.suspects(now_ms);
        let mut verdicts = Vec::new();
        for (id, peer) in &mut self.peers {
            peer.accusations.retain(|_, said| now_ms.saturating_sub(said.at_ms) < ACCUSATION_MS);
            verdicts.extend(accuse(*id, peer, suspects.get(id).copied(), now_ms));
            verdicts.extend(fence((self.own, *id), peer, &suspects, now_ms));
        }
        verdicts
    }

    /// How often [`Detector::poll`] wants to be called; a pause twice as long is a stall.
    pub fn poll_interval_ms(&self) -> u64 {
        self.sensitivity.stall_ms / 2
    }

    /// Whom this node suspects, and why.
    pub fn suspects(&self, now_ms: u64) -> BTreeMap<NodeId, Evidence> {
        let evidence =
            |(id, peer): (&NodeId, &Peer)| Some((*id, peer.evidence(&self.sensitivity, now_ms)?));
        self.peers.iter().filter_map(evidence).collect()
    }

    /// Times that this node's own loop stalled.
    pub fn stalls(&self) -> u64 {
        self.stalls
    }

    /// Whoever was silent may have spoken to deaf ears: everyone is listened to anew.
    fn recover_from_stall(&mut self, now_ms: u64) -> Vec<Verdict> {
        self.stalls += 1;
        let mut verdicts = Vec::new();
        for (id, peer) in &mut self.peers {
            peer.heard_ms = now_ms;
            peer.broken = None;
            peer.accusations.clear();
            verdicts.extend(accuse(*id, peer, None, now_ms));
        }
        verdicts
    }
}

/// Whether an accusation is to be made, repeated or taken back.
fn accuse(id: NodeId, peer: &mut Peer, evidence: Option<Evidence>, now_ms: u64) -> Option<Verdict> {
    let incarnation = peer.incarnation;
    let Some(evidence) = evidence else {
        let accused = peer.accused_ms.take();
        return accused.map(|_| Verdict::Retract { peer: id, incarnation });
    };
    if !is_due(peer.accused_ms, now_ms) {
        return None;
    }
    peer.accused_ms = Some(now_ms);
    Some(Verdict::Accuse { peer: id, incarnation, evidence })
}

/// Whether what is known by oneself and from others is enough.
fn fence(
    (own, id): (NodeId, NodeId),
    peer: &mut Peer,
    suspects: &BTreeMap<NodeId, Evidence>,
    now_ms: u64,
) -> Option<Verdict> {
    let incarnation = peer.incarnation;
    let others = peer
        .accusations
        .iter()
        .filter(|(from, said)| said.incarnation == incarnation && !suspects.contains_key(from));
    let mut observers: Vec<(NodeId, bool)> =
        others.map(|(from, said)| (*from, said.refused)).collect();
    let evidence = suspects.get(&id);
    if let Some(evidence) = evidence {
        observers.insert(0, (own, *evidence == Evidence::Refused));
    }
    let proven = observers.iter().any(|(_, refused)| *refused);
    if !(proven || observers.len() >= 2) {
        peer.fence_said_ms = None;
        return None;
    }
    if !is_due(peer.fence_said_ms, now_ms) {
        return None;
    }
    peer.fence_said_ms = Some(now_ms);
    let names: Vec<String> = observers.iter().map(|(id, _)| id.to_string()).collect();
    let what = match evidence {
        Some(evidence) => evidence.to_string(),
        None if proven => Evidence::Refused.to_string(),
        None => "suspected by others".into(),
    };
    let reason = format!("{what}; observed by node {}", names.join(" and "));
    Some(Verdict::Fence { peer: id, incarnation, reason })
}

fn is_due(said_ms: Option<u64>, now_ms: u64) -> bool {
    said_ms.is_none_or(|said_ms| now_ms.saturating_sub(said_ms) >= REPEAT_MS)
}
