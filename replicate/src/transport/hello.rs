//! Who is at the other end: what nodes say of themselves, and whether that is believed.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use shardgate_replicate_proto::identity::{Incarnation, NodeId};

use crate::pki::CertifiedIdentity;

/// The oldest protocol between nodes that this release speaks.
pub const PROTOCOL_MIN: u16 = 1;
/// The newest protocol between nodes that this release speaks.
pub const PROTOCOL_MAX: u16 = 1;
/// Bytes of a [`Hello`] at most, as it goes over the wire.
pub(super) const HELLO_BYTES_MAX: usize = 4 << 10;
/// Bytes of a sentence that is told to the other side, at most.
pub(super) const SENTENCE_BYTES_MAX: usize = 2 << 10;
/// Bytes of each text in a [`Hello`], at most.
const TEXT_BYTES_MAX: usize = 64;

/// What this node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnIdentity {
    /// The cluster's name: nodes of different clusters do not talk.
    pub cluster: String,
    /// Its number.
    pub node: NodeId,
    /// Its name: that of its certificate.
    pub name: String,
    /// This life of its process.
    pub incarnation: Incarnation,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Requests and notices of whoever opened it.
    Messages,
    /// One bulk transfer.
    Bulk,
    /// The hellos alone.
    Identify,
}

/// The first frame of each side. Later releases may append fields, which earlier ones ignore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest protocol that it speaks.
    pub protocol_min: u16,
    /// The newest protocol that it speaks.
    pub protocol_max: u16,
    /// The cluster that it belongs to.
    pub cluster: String,
    /// Its number.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The life of its process.
    pub incarnation: Incarnation,
    /// Its release, for people.
    pub software: String,
    /// What the connection is for.
    pub purpose: Purpose,
}

/// A node at the other end of a connection, after its hello was believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its number.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The life of its process.
    pub incarnation: Incarnation,
    /// Its release.
    pub software: String,
    /// The protocol that both speak.
    pub protocol: u16,
    /// The other end of the connection.
    pub address: SocketAddr,
    /// True if a certificate of the cluster's authority says the same.
    pub is_certified: bool,
}

/// Lets nodes in, or not. Asked on both sides of every connection.
pub trait Gate {
    /// Is this node welcome? `connected` are connections that the same node, or one of the same
    /// name, has to this node now; an earlier life's are closed once a later one is let in.
    ///
    /// # Errors
    /// Why not, as a sentence that goes on from "node 3 (gw-3) is refused:".
    fn admit(&self, peer: &PeerIdentity, connected: &[PeerIdentity]) -> Result<(), String>;
}

impl<F> Gate for F
where
    F: Fn(&PeerIdentity, &[PeerIdentity]) -> Result<(), String>,
{
    fn admit(&self, peer: &PeerIdentity, connected: &[PeerIdentity]) -> Result<(), String> {
        self(peer, connected)
    }
}

/// Why the other side is not let in. The sentences speak of it as "the node".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Its first frame is no hello.
    #[error("the first frame is no hello of a node ({0})")]
    NoHello(String),
    /// No protocol in common.
    #[error(
        "the node's release {software} speaks protocols {theirs_min} to {theirs_max} between \
         nodes, this one {PROTOCOL_MIN} to {PROTOCOL_MAX}; update the older one"
    )]
    Protocol {
        /// The oldest that it speaks.
        theirs_min: u16,
        /// The newest that it speaks.
        theirs_max: u16,
        /// Its release.
        software: String,
    },
    /// Another cluster's node.
    #[error(
        "node {node} ({name}) belongs to cluster \"{theirs}\", this node to \"{ours}\"; is one of \
         them given the address of another cluster's node?"
    )]
    Cluster {
        /// Its number.
        node: NodeId,
        /// Its name.
        name: String,
        /// Its cluster.
        theirs: String,
        /// This node's cluster.
        ours: String,
    },
    /// Two nodes have one number, or this node has called itself.
    #[error(
        "the node at {address} calls itself node {node}, as this one does; give each node an id \
         of its own, and no node its own address as a peer's"
    )]
    OwnNode {
        /// The number of both.
        node: NodeId,
        /// Where it is.
        address: SocketAddr,
    },
    /// Two nodes have one name.
    #[error(
        "node {node} at {address} calls itself \"{name}\", as this node does; give each node a \
         name of its own"
    )]
    OwnName {
        /// Its number.
        node: NodeId,
        /// The name of both.
        name: String,
        /// Where it is.
        address: SocketAddr,
    },
    /// Another node has this address.
    #[error(
        "at {address} there is node {got} ({name}) and not node {expected}; correct the address \
         of node {expected}"
    )]
    OtherNode {
        /// Which node was looked for.
        expected: NodeId,
        /// Which node is there.
        got: NodeId,
        /// Its name.
        name: String,
        /// Where.
        address: SocketAddr,
    },
    /// A plaintext node at a port with TLS.
    #[error(
        "this node speaks TLS only, and the other began without; set insecure = false there and \
         give it a certificate"
    )]
    Plaintext,
    /// A node with TLS at a plaintext port.
    #[error(
        "this node runs with insecure = true, and the other began with TLS; give this one a \
         certificate, or set insecure = true on all nodes"
    )]
    Encrypted,
    /// The certificate is no node's.
    #[error(
        "its certificate is of the right authority, but names no node (a URI \
         shardgate://cluster/node); `shardgate pki issue` makes one that does"
    )]
    NoIdentity,
    /// The certificate is another cluster's.
    #[error(
        "the certificate of node {node} ({name}) is for cluster \"{certified}\", this node \
         belongs to \"{ours}\"; issue it one with this cluster's authority"
    )]
    CertifiedCluster {
        /// Its number.
        node: NodeId,
        /// Its name.
        name: String,
        /// What the certificate says.
        certified: String,
        /// This node's cluster.
        ours: String,
    },
    /// The certificate is another node's.
    #[error(
        "node {node} calls itself \"{name}\", but its certificate is for \"{certified}\"; give \
         each node a certificate of its own"
    )]
    CertifiedName {
        /// Its number.
        node: NodeId,
        /// Its name.
        name: String,
        /// What the certificate says.
        certified: String,
    },
    /// The certificate is for another number.
    #[error(
        "\"{name}\" calls itself node {node}, but its certificate is for node {certified}; issue \
         it one for its id, or correct the id"
    )]
    CertifiedNode {
        /// Its number.
        node: NodeId,
        /// Its name.
        name: String,
        /// What the certificate says.
        certified: NodeId,
    },
    /// A later life of the node is connected.
    #[error(
        "node {node} ({name}) is connected already from {address}, as a process that was started \
         later; has a second node been given its id?"
    )]
    LaterLife {
        /// Its number.
        node: NodeId,
        /// Its name.
        name: String,
        /// Where the later one is.
        address: SocketAddr,
    },
    /// The gate says no.
    #[error("node {node} ({name}) is refused: {why}")]
    Gate {
        /// Its number.
        node: NodeId,
        /// Its name.
        name: String,
        /// What the gate said.
        why: String,
    },
}

impl Hello {
    /// What this node says at the beginning of a connection.
    pub(super) fn of(own: &OwnIdentity, purpose: Purpose) -> Hello {
        Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            cluster: own.cluster.clone(),
            node: own.node,
            name: own.name.clone(),
            incarnation: own.incarnation,
            software: env!("CARGO_PKG_VERSION").to_owned(),
            purpose,
        }
    }

    pub(super) fn parse(body: &[u8]) -> Result<Hello, Rejection> {
        let (hello, _later_fields): (Hello, &[u8]) = postcard::take_from_bytes(body)
            .map_err(|error| Rejection::NoHello(error.to_string()))?;
        let is_fit = |text: &str| {
            (1..=TEXT_BYTES_MAX).contains(&text.len())
                && text.bytes().all(|it| it.is_ascii_graphic())
        };
        // They go into logs and onto terminals.
        if [&hello.cluster, &hello.name, &hello.software].into_iter().all(|text| is_fit(text)) {
            return Ok(hello);
        }
        let why = format!("a name of 1 to {TEXT_BYTES_MAX} visible ASCII characters is missing");
        Err(Rejection::NoHello(why))
    }

    /// Is it to be believed, by what is known without asking the gate?
    pub(super) fn examine(
        self,
        own: &OwnIdentity,
        certified: Option<&CertifiedIdentity>,
        address: SocketAddr,
    ) -> Result<PeerIdentity, Rejection> {
        let protocol = self.protocol_max.min(PROTOCOL_MAX);
        if protocol < self.protocol_min.max(PROTOCOL_MIN) {
            return Err(Rejection::Protocol {
                theirs_min: self.protocol_min,
                theirs_max: self.protocol_max,
                software: self.software,
            });
        }
        if let Some(certified) = certified {
            self.compare(certified, own)?;
        }
        let Hello { cluster, node, name, incarnation, software, .. } = self;
        if cluster != own.cluster {
            let ours = own.cluster.clone();
            return Err(Rejection::Cluster { node, name, theirs: cluster, ours });
        }
        if node == own.node {
            return Err(Rejection::OwnNode { node, address });
        }
        if name == own.name {
            return Err(Rejection::OwnName { node, name, address });
        }
        let is_certified = certified.is_some();
        Ok(PeerIdentity { node, name, incarnation, software, protocol, address, is_certified })
    }

    fn compare(&self, certified: &CertifiedIdentity, own: &OwnIdentity) -> Result<(), Rejection> {
        let (node, name) = (self.node, self.name.clone());
        if certified.cluster != own.cluster {
            let (certified, ours) = (certified.cluster.clone(), own.cluster.clone());
            return Err(Rejection::CertifiedCluster { node, name, certified, ours });
        }
        if certified.name != name {
            let certified = certified.name.clone();
            return Err(Rejection::CertifiedName { node, name, certified });
        }
        match certified.node {
            Some(certified) if certified != node => {
                Err(Rejection::CertifiedNode { node, name, certified })
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl PeerIdentity {
    /// Asks whoever decides, after the rule that holds always: of one node's lives only the
    /// latest is heard.
    pub(super) fn admit(
        &self,
        gate: &dyn Gate,
        connected: &[PeerIdentity],
    ) -> Result<(), Rejection> {
        let (node, name) = (self.node, self.name.clone());
        let later = connected
            .iter()
            .find(|other| other.node == self.node && other.incarnation > self.incarnation);
        if let Some(later) = later {
            return Err(Rejection::LaterLife { node, name, address: later.address });
        }
        gate.admit(self, connected).map_err(|why| Rejection::Gate { node, name, why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> OwnIdentity {
        OwnIdentity {
            cluster: "prod".to_owned(),
            node: NodeId(1),
            name: "gw-1".to_owned(),
            incarnation: Incarnation(7),
        }
    }

    fn other() -> OwnIdentity {
        OwnIdentity { node: NodeId(2), name: "gw-2".to_owned(), ..own() }
    }

    fn address() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 9))
    }

    fn certified(name: &str, node: Option<u16>) -> CertifiedIdentity {
        let node = node.map(NodeId);
        CertifiedIdentity { cluster: "prod".to_owned(), name: name.to_owned(), node }
    }

    #[test]
    fn a_hello_of_a_later_release_is_understood() {
        let hello = Hello::of(&other(), Purpose::Bulk);
        let mut bytes = postcard::to_allocvec(&hello).expect("in memory");
        bytes.extend_from_slice(b"fields to come");
        assert_eq!(Hello::parse(&bytes), Ok(hello));
    }

    #[test]
    fn texts_that_would_garble_a_terminal_are_refused() {
        for name in ["", "a b", "\u{1b}[2J", "ä", &"x".repeat(65)] {
            let mut hello = Hello::of(&other(), Purpose::Messages);
            hello.name = name.to_owned();
            let bytes = postcard::to_allocvec(&hello).expect("in memory");
            assert!(matches!(Hello::parse(&bytes), Err(Rejection::NoHello(_))), "{name:?}");
        }
    }

    #[test]
    fn the_newest_protocol_of_both_is_spoken() {
        let mut hello = Hello::of(&other(), Purpose::Messages);
        hello.protocol_max = 9;
        let peer = hello.clone().examine(&own(), None, address()).expect("common ground");
        assert_eq!(peer.protocol, PROTOCOL_MAX);
        hello.protocol_min = 9;
        let refused = hello.examine(&own(), None, address()).expect_err("nothing in common");
        assert!(refused.to_string().contains("protocols 9 to 9"), "{refused}");
    }

    #[test]
    fn what_a_node_says_must_agree_with_its_certificate() {
        let examine = |certified| {
            Hello::of(&other(), Purpose::Messages).examine(&own(), Some(&certified), address())
        };
        assert!(examine(certified("gw-2", None)).expect("sound").is_certified);
        assert!(examine(certified("gw-2", Some(2))).is_ok());
        let refused = examine(certified("gw-3", None)).expect_err("another name");
        assert!(refused.to_string().contains("its certificate is for \"gw-3\""), "{refused}");
        let refused = examine(certified("gw-2", Some(3))).expect_err("another id");
        assert!(refused.to_string().contains("its certificate is for node 3"), "{refused}");
        let foreign = CertifiedIdentity { cluster: "test".to_owned(), ..certified("gw-2", None) };
        let refused = examine(foreign).expect_err("another cluster");
        assert!(refused.to_string().contains("for cluster \"test\""), "{refused}");
    }

    #[test]
    fn two_nodes_of_one_name_or_number_do_not_meet() {
        let examine = |other: &OwnIdentity| {
            Hello::of(other, Purpose::Messages).examine(&own(), None, address())
        };
        assert!(examine(&other()).is_ok());
        let same_number = OwnIdentity { node: NodeId(1), ..other() };
        assert!(matches!(examine(&same_number), Err(Rejection::OwnNode { .. })));
        let same_name = OwnIdentity { name: "gw-1".to_owned(), ..other() };
        assert!(matches!(examine(&same_name), Err(Rejection::OwnName { .. })));
        let foreign = OwnIdentity { cluster: "test".to_owned(), ..other() };
        assert!(matches!(examine(&foreign), Err(Rejection::Cluster { .. })));
    }

    #[test]
    fn an_earlier_life_is_refused_while_a_later_one_is_connected() {
        let all = |_: &PeerIdentity, _: &[PeerIdentity]| Ok(());
        let hello = Hello::of(&other(), Purpose::Messages);
        let peer = hello.examine(&own(), None, address()).expect("sound");
        let later = PeerIdentity { incarnation: Incarnation(8), ..peer.clone() };
        assert_eq!(later.admit(&all, std::slice::from_ref(&peer)), Ok(()));
        let refused = peer.admit(&all, &[later]).expect_err("stale");
        assert!(matches!(refused, Rejection::LaterLife { .. }), "{refused}");
    }
}
