//! `[cluster]`: which cluster this node belongs to, and how the nodes reach and believe each other.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use shardgate_replicate::pki::{self, Expected, NodeFiles};
use shardgate_replicate_proto::coordinator::NAME_BYTES_MAX;
use shardgate_replicate_proto::identity::{ClusterName, NodeId};
use shardgate_replicate_proto::voters::{Concern, Voter, judge};

use super::value;

/// A node's place in its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// The cluster's name.
    pub name: ClusterName,
    /// This node's number, from 1.
    pub node_id: u16,
    /// Where the other nodes connect.
    #[serde(default = "default_listen", deserialize_with = "value::address")]
    pub listen: SocketAddr,
    /// Where they are told to connect, if that is another address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Where the log is kept.
    pub data_dir: PathBuf,
    /// Failure domain.
    #[serde(default = "default_place")]
    pub zone: String,
    /// Region.
    #[serde(default = "default_place")]
    pub region: String,
    /// Share of the virtual shards relative to other nodes.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// Whether links are in the clear.
    #[serde(default)]
    pub insecure: bool,
    /// Waits to be added to a cluster.
    #[serde(default)]
    pub join: bool,
    /// How often the leader shows that it is there.
    #[serde(default = "default_heartbeat_ms")]
    pub heartbeat_ms: u64,
    /// Least silence before an election.
    #[serde(default = "default_election_min_ms")]
    pub election_min_ms: u64,
    /// Longest silence before an election.
    #[serde(default = "default_election_max_ms")]
    pub election_max_ms: u64,
    /// `[cluster.tls]`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClusterTls>,
    /// `[[cluster.voters]]`
    #[serde(default)]
    pub voters: Vec<VoterEntry>,
}

/// With what a node shows who it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterTls {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The node's certificate.
    pub certificate: PathBuf,
    /// The node's key.
    pub key: PathBuf,
}

/// A node that a new cluster begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoterEntry {
    /// Its number.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// Where the other nodes reach it: `host:port`.
    pub address: String,
    /// Its zone, if it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its region, if it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7946))
}

/// The log takes no node whose place has no name.
fn default_place() -> String {
    "default".to_owned()
}

fn default_weight() -> u32 {
    100
}

fn default_heartbeat_ms() -> u64 {
    50
}

fn default_election_min_ms() -> u64 {
    300
}

fn default_election_max_ms() -> u64 {
    600
}

/// The key a sentence is about, and the sentence.
type Found = Vec<(&'static str, String)>;

impl Cluster {
    /// Where the other nodes reach this one.
    pub fn peer_address(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.to_string())
    }

    /// The files by which it shows who it is; `None` if it doesn't.
    pub fn files(&self) -> Option<NodeFiles> {
        let tls = self.tls.as_ref().filter(|_| !self.insecure)?;
        Some(NodeFiles {
            authority: tls.ca.clone(),
            certificate: tls.certificate.clone(),
            key: tls.key.clone(),
        })
    }

    /// What is wrong with the files, as of now, for the node of this name.
    pub fn file_faults(&self, node_name: &str) -> Vec<pki::Fault> {
        let Some(files) = self.files() else { return Vec::new() };
        let expected = Expected {
            cluster: self.name.as_str().to_owned(),
            name: node_name.to_owned(),
            node: NodeId(self.node_id),
        };
        pki::check(&files, &expected, SystemTime::now())
    }

    /// What is allowed but may not be meant.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.insecure && !self.listen.ip().is_loopback() {
            remarks.push(format!(
                "cluster.insecure: whoever reaches {} can read and change what the cluster holds",
                self.listen
            ));
        }
        let advice = self.concerns().into_iter().filter(|concern| !concern.forbids());
        remarks.extend(advice.map(|concern| format!("cluster.voters: {concern}")));
        remarks
    }

    /// What contradicts, key by key, in a node of this name.
    pub(super) fn contradictions(&self, node_name: &str) -> Found {
        let mut found = Vec::new();
        self.reachability(&mut found);
        self.security(&mut found);
        self.times(&mut found);
        self.members(node_name, &mut found);
        found
    }

    fn reachability(&self, found: &mut Found) {
        if self.listen.port() == 0 {
            let sentence = "port 0 is a different one with each start, and the other nodes must \
                            know it; choose one";
            found.push(("cluster.listen", sentence.to_owned()));
        }
        if self.listen.ip().is_unspecified() && self.advertise.is_none() {
            let sentence = format!(
                "{} is every address of this machine; say by cluster.advertise, such as \
                 \"10.0.0.1:{}\", which one the other nodes use",
                self.listen,
                self.listen.port()
            );
            found.push(("cluster.listen", sentence));
        }
        if let Some(sentence) = self.advertise.as_deref().and_then(not_reachable) {
            found.push(("cluster.advertise", sentence));
        }
        for (key, place) in [("cluster.zone", &self.zone), ("cluster.region", &self.region)] {
            if place.is_empty() || place.len() > NAME_BYTES_MAX {
                let bytes = place.len();
                found
                    .push((key, format!("has {bytes} bytes, but must have 1 to {NAME_BYTES_MAX}")));
            }
        }
        if self.data_dir.as_os_str().is_empty() {
            found.push(("cluster.data_dir", "the path is empty; name a directory".to_owned()));
        }
    }

    fn security(&self, found: &mut Found) {
        match (&self.tls, self.insecure) {
            (None, false) => found.push((
                "cluster.name",
                "the nodes have no certificates: make them with `shardgate pki init` and \
                 `shardgate pki issue` and name them in [cluster.tls], or set \
                 cluster.insecure = true on a network where everybody may be believed"
                    .to_owned(),
            )),
            (Some(_), true) => found.push((
                "cluster.insecure",
                "[cluster.tls] is given as well, which would have no effect; remove one of the two"
                    .to_owned(),
            )),
            (Some(_), false) | (None, true) => {}
        }
    }

    fn times(&self, found: &mut Found) {
        if self.election_min_ms < self.heartbeat_ms.saturating_mul(2) {
            found.push((
                "cluster.election_min_ms",
                format!(
                    "{} is less than twice cluster.heartbeat_ms = {}: one late heartbeat would \
                     cost the leader its place",
                    self.election_min_ms, self.heartbeat_ms
                ),
            ));
        }
        if self.election_max_ms <= self.election_min_ms {
            found.push((
                "cluster.election_max_ms",
                format!(
                    "{} is not above cluster.election_min_ms = {}: all nodes would stand for \
                     election at once",
                    self.election_max_ms, self.election_min_ms
                ),
            ));
        }
    }

    fn members(&self, node_name: &str, found: &mut Found) {
        let mut wrong = |sentence: String| found.push(("cluster.voters", sentence));
        match (self.voters.is_empty(), self.join) {
            (true, true) => return,
            (true, false) => {
                return wrong(
                    "nobody is named: list the nodes that the cluster begins with, this one \
                     among them, or set cluster.join = true to be added to one that is there"
                        .to_owned(),
                );
            }
            (false, true) => wrong(
                "voters are named, but cluster.join = true waits to be added to a cluster that \
                 has its own; keep one of the two"
                    .to_owned(),
            ),
            (false, false) => {}
        }
        match self.voters.iter().find(|voter| voter.id == self.node_id) {
            None => wrong(format!(
                "this node, {}, is not among them; add it, or set cluster.join = true instead",
                self.node_id
            )),
            Some(own) if own.name != node_name => wrong(format!(
                "node {} is called {:?} here, but node.name is {node_name:?}; make them the same",
                self.node_id, own.name
            )),
            Some(own) if own.address != self.peer_address() => wrong(format!(
                "node {} is at {} here, but at {} by cluster.listen and cluster.advertise; make \
                 them the same",
                self.node_id,
                own.address,
                self.peer_address()
            )),
            Some(_) => {}
        }
        for (index, voter) in self.voters.iter().enumerate() {
            let earlier = &self.voters[..index];
            if earlier.iter().any(|other| other.name == voter.name) {
                wrong(format!("two nodes are called {:?}; rename one", voter.name));
            }
            if earlier.iter().any(|other| other.address == voter.address) {
                wrong(format!("two nodes are at {}; change one", voter.address));
            }
            not_reachable(&voter.address).into_iter().for_each(&mut wrong);
        }
        let forbidden = self.concerns().into_iter().filter(Concern::forbids);
        forbidden.for_each(|concern| wrong(concern.to_string()));
    }

    /// What is to be said of the set of voters, as far as their places are known.
    fn concerns(&self) -> Vec<Concern> {
        if self.voters.is_empty() {
            return Vec::new();
        }
        let place = |voter: &VoterEntry| {
            let is_own = voter.id == self.node_id;
            let region = voter.region.clone().or_else(|| is_own.then(|| self.region.clone()))?;
            let zone = voter.zone.clone().or_else(|| is_own.then(|| self.zone.clone()))?;
            Some((region, zone))
        };
        let places: Option<Vec<_>> = self.voters.iter().map(place).collect();
        let unknown = vec![Default::default(); self.voters.len()];
        let placed = self.voters.iter().zip(places.unwrap_or(unknown));
        let voters: Vec<Voter> = placed
            .map(|(voter, (region, zone))| Voter {
                id: NodeId(voter.id),
                region: region.into(),
                zone: zone.into(),
            })
            .collect();
        judge(&voters)
    }
}

/// What is wrong with an address by which a node should be reached.
fn not_reachable(address: &str) -> Option<String> {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let port = port.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port != 0);
    match port {
        None => Some(format!("{address:?} is no address of a node: write HOST:PORT")),
        Some(_) if address.parse::<SocketAddr>().is_ok_and(|it| it.ip().is_unspecified()) => {
            Some(format!("{address} reaches no certain machine; name one of its addresses"))
        }
        Some(_) => None,
    }
}
