//! What `[cluster]` may say, and how contradictions are refused.

use super::{accepted, problems};
use crate::config::Overrides;

const HEAD: &str = "[node]\nname = \"gw-1\"\n[session]\nsecret_env = \"S\"\n[cluster]\n\
                    name = \"prod\"\nnode_id = 1\ndata_dir = \"d\"\n";
const OWN: &str = "[[cluster.voters]]\nid = 1\nname = \"gw-1\"\naddress = \"127.0.0.1:7946\"\n";

/// Lines behind [`HEAD`], and what the message must hold.
const MISTAKES: &[(&str, &str)] = &[
    ("join = true\n", "cluster.name: the nodes have no certificates"),
    ("insecure = true\n", "cluster.voters: nobody is named"),
    ("insecure = true\njoin = true\nvoters = []\nlisten = \"127.0.0.1:0\"\n", "port 0 is"),
    ("insecure = true\njoin = true\nlisten = \"0.0.0.0:1\"\n", "cluster.advertise, such as"),
    ("insecure = true\njoin = true\nadvertise = \"here\"\n", "\"here\" is no address of a node"),
    ("insecure = true\njoin = true\nlisten = \"127.0.0.1:9090\"\n", "is also a listen or admin"),
    ("insecure = true\njoin = true\nzone = \"\"\n", "cluster.zone: has 0 bytes"),
    ("insecure = true\njoin = true\nheartbeat_ms = 200\n", "is less than twice"),
    ("insecure = true\njoin = true\nelection_max_ms = 300\n", "is not above cluster.election_min"),
    ("node = 3\n", "cluster.node: there is no such key"),
    ("voters = [{ id = 0, name = \"a\", address = \"a:1\" }]\n", "id is 0, but must be"),
    ("voters = [{ id = 1, name = \"a\" }]\n", "a node needs its address"),
    ("voters = [{ id = 1, nam = \"a\" }]\n", "a node has no key \"nam\""),
    ("voters = [1]\n", "has a number in it, but must be a list of nodes"),
];

/// Voters behind [`HEAD`] and [`OWN`], and what the message must hold.
const VOTERS: &[(&str, &str)] = &[
    ("id = 1\nname = \"gw-2\"\naddress = \"10.0.0.2:1\"\n", "node 1 is named twice"),
    ("id = 2\nname = \"gw-1\"\naddress = \"10.0.0.2:1\"\n", "two nodes are called \"gw-1\""),
    ("id = 2\nname = \"gw-2\"\naddress = \"127.0.0.1:7946\"\n", "two nodes are at"),
    ("id = 2\nname = \"gw-2\"\naddress = \"10.0.0.2\"\n", "is no address of a node"),
    (
        "id = 2\nname = \"gw-2\"\naddress = \"10.0.0.2:1\"\nregion = \"us\"\nzone = \"a\"\n",
        "the voters are in two regions alone",
    ),
];

#[test]
fn each_contradiction_of_a_cluster_gets_its_sentence() {
    for (lines, expected) in MISTAKES {
        let message = problems(&format!("{HEAD}{lines}"));
        assert!(message.contains(expected), "{lines:?} gave:\n{message}");
    }
    for (voter, expected) in VOTERS {
        let message = problems(&format!("{HEAD}insecure = true\n{OWN}[[cluster.voters]]\n{voter}"));
        assert!(message.contains(expected), "{voter:?} gave:\n{message}");
    }
}

#[test]
fn a_cluster_needs_one_session_secret() {
    let text = format!("{HEAD}insecure = true\n{OWN}").replace("secret_env = \"S\"\n", "");
    let message = problems(&text);
    assert!(message.contains("one and the same session secret"), "{message}");
}

#[test]
fn a_sound_cluster_is_taken_and_what_is_doubtful_remarked() {
    let pair = "[[cluster.voters]]\nid = 2\nname = \"gw-2\"\naddress = \"10.0.0.2:1\"\n";
    let sound = |text: &str| accepted(text, &Overrides::default()).cluster.expect("a cluster");
    let one = sound(&format!("{HEAD}insecure = true\n{OWN}"));
    assert_eq!(one.remarks(), Vec::<String>::new());
    let two = sound(&format!("{HEAD}insecure = true\n{OWN}{pair}"));
    assert!(two.remarks()[0].contains("2 voters survive the loss of 0"), "{:?}", two.remarks());
    let lines = "insecure = true\njoin = true\nlisten = \"10.0.0.1:7946\"\n";
    let open = sound(&format!("{HEAD}{lines}"));
    assert!(open.remarks()[0].contains("whoever reaches 10.0.0.1:7946"), "{:?}", open.remarks());
}
