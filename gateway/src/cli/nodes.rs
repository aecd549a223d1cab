//! `shardgate node`: which nodes a running cluster has, and which of them vote.

use clap::{Args, Subcommand};
use serde::Deserialize;

use super::admin::{self, AdminError, Question};
use crate::control::{NODES_PATH, NewNode, NodeReport};

pub(super) const EXAMPLES: &str = "\
A new node has [cluster] with join = true and waits. It is added as a learner, which gets
everything and has no vote, and is then promoted. One that is gone for good is removed; its
number and name are never used again.

Examples:
  shardgate node list --admin 10.0.0.1:9090
  shardgate node add 4 gw-4 10.0.0.4:7946 --admin 10.0.0.1:9090
  shardgate node promote 4 --admin 10.0.0.1:9090
  shardgate node remove 2 --admin 10.0.0.1:9090";

#[derive(Args, Clone, Debug)]
pub(super) struct NodeArgs {
    #[command(subcommand)]
    command: NodeCommand,
    /// Address or URL of the admin server of any node of the cluster
    #[arg(long, value_name = "URL", env = "SHARDGATE_ADMIN", default_value = "127.0.0.1:9090")]
    #[arg(global = true)]
    admin: String,
}

#[derive(Clone, Debug, Subcommand)]
enum NodeCommand {
    /// Shows the nodes
    List,
    /// Makes a node a learner
    Add {
        /// Its number, as cluster.node_id says there
        #[arg(value_name = "ID")]
        id: u16,
        /// Its name, as node.name says there
        #[arg(value_name = "NAME")]
        name: String,
        /// Where the other nodes reach it
        #[arg(value_name = "HOST:PORT")]
        address: String,
    },
    /// Gives a learner a vote
    Promote {
        /// Its number
        #[arg(value_name = "ID")]
        id: u16,
    },
    /// Makes a voter a learner
    Demote {
        /// Its number
        #[arg(value_name = "ID")]
        id: u16,
    },
    /// Takes a node out of the cluster for good
    Remove {
        /// Its number
        #[arg(value_name = "ID")]
        id: u16,
    },
}

#[derive(Debug, Deserialize)]
struct Listed {
    nodes: Vec<NodeReport>,
}

/// Members of the log after a change.
#[derive(Debug, Deserialize)]
struct Changed {
    voters: Vec<u16>,
    learners: Vec<u16>,
}

/// Does what was asked for. The text is for whoever asked.
pub(super) fn run(arguments: NodeArgs) -> Result<String, AdminError> {
    let change = |id: u16, change: &str| {
        let path = format!("{NODES_PATH}/{id}/{change}");
        changed(&arguments.admin, &path, "{}".to_owned())
    };
    match &arguments.command {
        NodeCommand::List => {
            let question = Question { path: NODES_PATH, body: None };
            let answer = admin::fetch::<Listed>(&arguments.admin, &question)?;
            Ok(answer.report.nodes.iter().map(line).collect())
        }
        NodeCommand::Add { id, name, address } => {
            let node = NewNode { id: *id, name: name.clone(), address: address.clone() };
            let body = serde_json::to_string(&node).unwrap_or_default();
            changed(&arguments.admin, NODES_PATH, body)
        }
        NodeCommand::Promote { id } => change(*id, "promote"),
        NodeCommand::Demote { id } => change(*id, "demote"),
        NodeCommand::Remove { id } => change(*id, "remove"),
    }
}

fn line(node: &NodeReport) -> String {
    let NodeReport { id, name, member, standing, peer_address, link, .. } = node;
    format!("{id:>5}  {name:<16}  {member:<7}  {standing:<12}  link {link:<4}  {peer_address}\n")
}

fn changed(admin: &str, path: &str, body: String) -> Result<String, AdminError> {
    let question = Question { path, body: Some(body) };
    let Changed { voters, learners } = admin::fetch(admin, &question)?.report;
    Ok(format!("voters: {}\nlearners: {}\n", list(&voters), list(&learners)))
}

fn list(ids: &[u16]) -> String {
    let texts: Vec<String> = ids.iter().map(ToString::to_string).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}
