//! The keys of `[cluster]`.

use super::Unit::{Count, Milliseconds};
use super::{Key, Kind, MINUTE, integer, other};

/// They stand once.
pub(super) const CLUSTER_KEYS: &[Key] = &[
    other(
        "cluster.name",
        Kind::Text,
        "",
        "The cluster's name: letters, digits, `-` and `_`, at most 64. Nodes refuse those of another cluster. With certificates it is the name given to `shardgate pki init`.",
    ),
    integer(
        "cluster.node_id",
        (1, 65_535, Count),
        "",
        "This node's number in the cluster, unique and never used again once its node was removed. Its name is `node.name`, which must be unique too.",
    ),
    other(
        "cluster.listen",
        Kind::Text,
        "\"127.0.0.1:7946\"",
        "Address for the other nodes, `IP:PORT`.",
    ),
    other(
        "cluster.advertise",
        Kind::Text,
        "",
        "`HOST:PORT` by which the other nodes reach this one. Default: `cluster.listen`; it must be given when that is a wildcard address.",
    ),
    other(
        "cluster.data_dir",
        Kind::Text,
        "",
        "Directory of this node's log and snapshots. It belongs to this node alone; whoever loses it adds the machine as a new node.",
    ),
    other(
        "cluster.zone",
        Kind::Text,
        "\"default\"",
        "Failure domain of this node, such as a rack or an availability zone. Copies are kept in different ones.",
    ),
    other("cluster.region", Kind::Text, "\"default\"", "Region of this node."),
    integer(
        "cluster.weight",
        (1, 1_000, Count),
        "100",
        "This node's share of the sessions relative to the other nodes.",
    ),
    other(
        "cluster.insecure",
        Kind::Boolean,
        "false",
        "Talks to the other nodes without certificates and in the clear: whoever reaches `cluster.listen` is believed. For trying things out, or a closed network.",
    ),
    other(
        "cluster.tls.ca",
        Kind::Text,
        "",
        "The cluster's authority, `ca.pem` of `shardgate pki init`. `ca`, `certificate` and `key` are needed unless `insecure = true`.",
    ),
    other(
        "cluster.tls.certificate",
        Kind::Text,
        "",
        "This node's certificate, made by `shardgate pki issue`.",
    ),
    other("cluster.tls.key", Kind::Text, "", "Its key; only the gateway's user should read it."),
    other(
        "cluster.voters",
        Kind::NodeList,
        "",
        "The nodes that a new cluster begins with, this one among them: the same list on each, as `[[cluster.voters]]` sections with `id`, `name`, `address` and, for the checks, `zone` and `region`. Three survive the loss of one, five that of two. Once the cluster has begun, its log knows the members and this list has no effect.",
    ),
    other(
        "cluster.join",
        Kind::Boolean,
        "",
        "Instead of voters: this node waits until `shardgate node add` makes it one of a cluster that is there already. Default: false.",
    ),
    integer(
        "cluster.heartbeat_ms",
        (5, 10_000, Milliseconds),
        "50",
        "How often the leader of the log shows that it is there. Raise it with the election times for links slower than a few milliseconds.",
    ),
    integer(
        "cluster.election_min_ms",
        (20, MINUTE, Milliseconds),
        "300",
        "Silence of the leader after which a node stands for election, at least; twice the heartbeat or more.",
    ),
    integer(
        "cluster.election_max_ms",
        (20, MINUTE, Milliseconds),
        "600",
        "The same at most. Each node draws its own time between the two, so that seldom two stand at once.",
    ),
];
