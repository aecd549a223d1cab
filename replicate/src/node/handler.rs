//! What is made of peers' messages.

use std::rc::{Rc, Weak};

use bytes::{Bytes, BytesMut};
use shardgate_replicate_proto::identity::Registration;

use super::Node;
use crate::peers::Kind;
use crate::transport::{Handler, Incoming, PeerIdentity};

/// Bytes of a snapshot that a peer may send.
pub(super) const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;

/// Hands peers' messages to the node, as long as it lives.
pub(super) struct NodeHandler(Weak<Node>);

impl NodeHandler {
    pub(super) fn of(node: &Rc<Node>) -> NodeHandler {
        NodeHandler(Rc::downgrade(node))
    }

    fn node(&self) -> Result<Rc<Node>, String> {
        self.0.upgrade().ok_or_else(|| "this node is ending".to_owned())
    }
}

fn kind_of(kind: u8) -> Result<Kind, String> {
    Kind::of(kind).ok_or_else(|| format!("this node's release knows no messages of kind {kind}"))
}

impl Handler for NodeHandler {
    async fn handle(&self, _: &PeerIdentity, kind: u8, body: Bytes) -> Result<Bytes, String> {
        let node = self.node()?;
        match kind_of(kind)? {
            Kind::Status => {
                let report = node.reporter.borrow().as_ref().map(|report| report());
                report.map(Bytes::from).ok_or_else(|| "this node is starting".to_owned())
            }
            kind @ (Kind::Append
            | Kind::Vote
            | Kind::PreVote
            | Kind::Snapshot
            | Kind::TransferLeader
            | Kind::Propose
            | Kind::ReadIndex
            | Kind::Members
            | Kind::Heartbeat
            | Kind::WorkerBeat
            | Kind::Blob) => node.log.handle(kind, &body).await,
        }
    }

    fn notice(&self, from: &PeerIdentity, kind: u8, body: Bytes) {
        let Ok(node) = self.node() else { return };
        match Kind::of(kind) {
            Some(Kind::Heartbeat) => node.handle_beat(from.node, &body),
            Some(Kind::WorkerBeat) => {
                if let Ok((name, registration)) =
                    postcard::from_bytes::<(&str, Registration)>(&body)
                {
                    node.worker_beat(name, registration);
                }
            }
            // A newer release may tell things that are nothing to this one.
            Some(_) | None => tracing::debug!(node = %from.node, kind, "an unknown notice"),
        }
    }

    async fn receive(
        &self,
        _: &PeerIdentity,
        kind: u8,
        incoming: &mut Incoming,
    ) -> Result<Bytes, String> {
        let node = self.node()?;
        if kind_of(kind)? != Kind::Snapshot {
            return Err(format!("this node takes no transfers of kind {kind}"));
        }
        let length = incoming.length();
        if length > SNAPSHOT_BYTES_MAX {
            return Err(format!("a snapshot of {length} bytes is more than {SNAPSHOT_BYTES_MAX}"));
        }
        let mut body = BytesMut::new();
        while let Some(part) = incoming.next().await.map_err(|error| error.to_string())? {
            body.extend_from_slice(&part);
        }
        let head = incoming.head().clone();
        node.log.handle_snapshot(&head, body.freeze()).await
    }

    fn connected(&self, peer: &PeerIdentity) {
        let Ok(node) = self.node() else { return };
        // It is there: no need to wait for the next attempt.
        node.links.dial_now(peer.node);
    }

    fn refused(&self, address: std::net::SocketAddr, why: &str) {
        tracing::warn!(%address, why, "a peer was not let in");
    }
}
