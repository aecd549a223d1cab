//! Who belongs to the cluster: this node's own registration, links to all members, and who
//! is let in.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use shardgate_replicate_proto::coordinator::{Command, Outcome, Refusal, Standing};
use shardgate_replicate_proto::identity::{Incarnation, NodeId};

use super::{Node, NodeLog, unix_ms};
use crate::transport::PeerIdentity;

/// How often the node looks whether the cluster knows it as it is.
const TICK: Duration = Duration::from_millis(100);

/// How long the end of leadership is waited for.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(2);

/// Keeps the node registered and linked, for as long as it lives.
pub(super) async fn run(node: Weak<Node>) {
    let mut complained = None;
    loop {
        tokio::time::sleep(TICK).await;
        let Some(node) = node.upgrade() else { return };
        node.link_members();
        if node.is_registered() || node.log.leader().is_none() {
            continue;
        }
        match node.register().await {
            Ok(()) => complained = None,
            Err(why) if complained.as_ref() == Some(&why) => {}
            Err(why) => {
                tracing::error!(%why, "the cluster does not take this node");
                complained = Some(why);
            }
        }
    }
}

/// Lets in whoever the log does not rule out.
pub(super) fn gate(
    log: Rc<RefCell<Option<NodeLog>>>,
) -> impl Fn(&PeerIdentity, &[PeerIdentity]) -> Result<(), String> {
    move |peer, connected| {
        if let Some(log) = &*log.borrow()
            && log.read(|state| state.is_removed(peer.node))
        {
            return Err(format!(
                "node {} was removed from the cluster for good; give the machine a new number \
                 and name and an empty data directory, and add it with `shardgate node add`",
                peer.node
            ));
        }
        // A restarted process comes after its old connections broke. Two that are connected at
        // one time are two processes.
        let other = connected.iter().find(|other| {
            other.incarnation != peer.incarnation && other.address.ip() != peer.address.ip()
        });
        match other {
            None => Ok(()),
            Some(other) => Err(format!(
                "a process at {} takes part as node {} ({}) already; stop one of the two, or \
                 give one its own number and name",
                other.address, other.node, other.name
            )),
        }
    }
}

impl Node {
    /// Whether the cluster has taken this life of the node, as far as this node knows.
    pub fn is_registered(&self) -> bool {
        self.log.read(|state| {
            state.node(self.id()).is_some_and(|known| {
                known.incarnation == self.incarnation.get()
                    && !matches!(known.standing, Standing::Fenced { .. })
            })
        })
    }

    async fn register(&self) -> Result<(), String> {
        let known = self
            .log
            .read(|state| state.node(self.id()).map(|known| (known.incarnation, known.is_live())));
        if let Some((incarnation, is_live)) = known
            && (incarnation > self.incarnation.get()
                || incarnation == self.incarnation.get() && !is_live)
        {
            // This life was fenced, or the clock has gone back since an earlier one.
            let next = unix_ms().max(incarnation.0 + 1);
            tracing::warn!(incarnation = next, "takes part with a new life");
            self.incarnation.set(Incarnation(next));
        }
        let command = Command::RegisterNode(Box::new(self.registration()));
        let committed = self.log.propose(vec![command]).await.map_err(|error| error.to_string())?;
        let Outcome::Refused(refusal) = &committed.outcomes[0] else { return Ok(()) };
        if let Refusal::IncarnationOld { known, .. } = refusal {
            self.incarnation.set(Incarnation(known.0 + 1));
        }
        Err(refusal.to_string())
    }

    /// Links to every member of the log and to every live node, and to nobody else.
    fn link_members(&self) {
        let mut wanted: BTreeMap<NodeId, String> =
            self.log.members().into_iter().map(|(id, member)| (id, member.address)).collect();
        if wanted.is_empty() {
            // Nothing is known yet: the voters that were configured stay linked.
            return;
        }
        self.log.read(|state| {
            for node in state.nodes() {
                if !node.addresses.peer.is_empty() {
                    wanted.insert(node.id, node.addresses.peer.to_string());
                }
            }
            wanted.retain(|id, _| !state.is_removed(*id));
        });
        wanted.remove(&self.id());
        for id in self.links.peers() {
            if !wanted.contains_key(&id) {
                self.links.forget_peer(id);
            }
        }
        for (id, address) in &wanted {
            self.links.set_peer(*id, address);
        }
    }

    /// Has another voter lead, if this node does, and waits until one does.
    pub(super) async fn hand_leadership_on(&self) {
        let status = self.log.status();
        let Some(heir) = status
            .voters
            .iter()
            .copied()
            .find(|voter| *voter != self.id() && self.links.peer(*voter).is_some())
        else {
            return;
        };
        if !status.is_leader() || self.log.hand_leadership_to(heir).await.is_err() {
            return;
        }
        let handed = async {
            while self.log.leader() == Some(self.id()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(HAND_OVER_WITHIN, handed).await.is_err() {
            tracing::warn!(heir = %heir, "leadership was not taken over in time");
        }
    }
}
