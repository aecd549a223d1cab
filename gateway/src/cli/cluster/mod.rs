//! `shardgate cluster`: a whole cluster on this machine, to try things out, and the status of
//! any cluster.
//!
//! A local cluster is a directory: `n1`, `n2`, … each with `shardgate.toml`, `data`, `log` and,
//! while it runs, `pid`. Everything else follows from these files, so that a cluster can be
//! stopped and started again by whoever finds the directory.
//!
//! Invariant: only processes are signalled that were started with a configuration of the
//! directory; a process id that now belongs to another is left alone.

mod local;
mod table;

use std::path::PathBuf;

use clap::{Args, Subcommand, value_parser};

use super::admin::{self, AdminError, Question};
use crate::control::{CLUSTER_PATH, ClusterReport};
use local::{LocalCluster, LocalError};

/// More nodes than this are no local cluster any more.
pub(super) const NODES_MAX: i64 = 9;

pub(super) const EXAMPLES: &str = "\
A cluster on one machine, each node with its own ports, data directory and log, on loopback and
without certificates. For a real one see `shardgate pki` and [cluster] in docs/configuration.md.

Examples:
  shardgate cluster start --nodes 3              begin one in ./shardgate-cluster, or start it again
  shardgate cluster status                       who is there, who leads
  shardgate cluster restart                      one node after the other
  shardgate cluster stop                         gracefully; the data stays
  shardgate cluster status --admin 10.0.0.1:9090 of a cluster elsewhere";

#[derive(Args, Clone, Debug)]
pub(super) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum ClusterCommand {
    /// Starts a cluster on this machine; what it had when it was stopped it has again
    Start {
        /// How many nodes a new cluster has
        #[arg(long, value_name = "N", default_value_t = 3)]
        #[arg(value_parser = value_parser!(u16).range(1..=NODES_MAX))]
        nodes: u16,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Shows the nodes of a cluster, and what they say of themselves
    Status {
        /// Address or URL of the admin server of any node [default: those in DIR]
        #[arg(long, value_name = "URL", env = "SHARDGATE_ADMIN")]
        admin: Option<String>,
        #[command(flatten)]
        place: PlaceArgs,
        /// Print the report as JSON
        #[arg(long)]
        json: bool,
    },
    /// Stops the nodes, one after the other; requests in flight are answered
    Stop {
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Stops and starts one node after the other; the cluster goes on meanwhile
    Restart {
        #[command(flatten)]
        place: PlaceArgs,
    },
}

#[derive(Args, Clone, Debug)]
struct PlaceArgs {
    /// Directory of the cluster
    #[arg(long, value_name = "DIR", default_value = "shardgate-cluster")]
    dir: PathBuf,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClusterCommandError {
    #[error(transparent)]
    Local(#[from] LocalError),
    #[error(transparent)]
    Admin(#[from] AdminError),
}

/// Does what was asked for. The text is for whoever asked.
pub(super) fn run(arguments: ClusterArgs) -> Result<String, ClusterCommandError> {
    match arguments.command {
        ClusterCommand::Start { nodes, place } => {
            let cluster = LocalCluster::open_or_make(&place.dir, nodes)?;
            cluster.start()?;
            Ok(cluster.welcome())
        }
        ClusterCommand::Status { admin, place, json } => {
            let admins = match admin {
                Some(admin) => vec![admin],
                None => LocalCluster::open(&place.dir)?.admins(),
            };
            let answer = first_answer(&admins)?;
            Ok(if json { answer.json } else { table::table(&answer.report) })
        }
        ClusterCommand::Stop { place } => {
            let stopped = LocalCluster::open(&place.dir)?.stop()?;
            Ok(match stopped {
                0 => "no node was running\n".to_owned(),
                count => format!("{count} nodes stopped; their data stays\n"),
            })
        }
        ClusterCommand::Restart { place } => {
            let cluster = LocalCluster::open(&place.dir)?;
            cluster.restart()?;
            Ok("every node was restarted\n".to_owned())
        }
    }
}

/// Any node can tell of all.
fn first_answer(admins: &[String]) -> Result<admin::Answer<ClusterReport>, AdminError> {
    let question = Question { path: CLUSTER_PATH, body: None };
    let mut last = None;
    for admin in admins {
        match admin::fetch(admin, &question) {
            Ok(answer) => return Ok(answer),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or(AdminError::Address { given: String::new() }))
}
