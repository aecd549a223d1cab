//! `shardgate-bench coordinator`, and the command of the nodes that it starts.

use std::collections::BTreeMap;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, value_parser};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    EXIT_FAILED, EXIT_FILE, EXIT_GOOD, EXIT_HOST, EXIT_INTERRUPTED, fail, watch_for_signals,
};
use crate::coordinator::node::{self, NodePlan};
use crate::coordinator::{
    FORMAT, Figures, Kills, LOAD_CLIENTS_MAX, MeasureError, Measuring, Recovering, Sweep, Tuning,
    Witness, report,
};
use crate::outcome::HostFacts;
use crate::plan;
use crate::report::files::WriteError;
use crate::report::quantities::printable;

/// The name of the result among the files of `--out`.
const WHOLE: &str = "coordinator.json";
const BAR: &str = "{bar:24.cyan/dim} {pos}/{len} {wide_msg}";

const EXAMPLES: &str = "\
Examples:
  shardgate-bench coordinator
      every operation, on clusters of 1, 3 and 5 nodes, by 1, 64 and 512 clients
  shardgate-bench coordinator --cluster-sizes 3 --failover 100
      kills the leader 100 times under load; fails if an acknowledged write is lost or doubled
  shardgate-bench coordinator --cluster-sizes 3 --recovery
      memory with 100,000 tasks, and how long restarts and a full sync take
  shardgate-bench coordinator --sweep batch --sweep compaction --clients 64
      what the size of batches and the interval of snapshots cost

Every node is a process of this program on loopback, with its data below --data and syncs on.
The nodes share this machine's processors, so larger clusters are slower here than on machines
of their own.

Exit codes: 0 good; 1 an operation failed, or a write was lost or doubled; 5 a node or this
machine stood in the way; 6 a file could not be written; 130 interrupted, what was found is there";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CoordinatorArguments {
    /// Voters of the clusters to start.
    #[arg(long, value_delimiter = ',', default_value = "1,3,5",
        value_parser = value_parser!(u16).range(1..=15))]
    cluster_sizes: Vec<u16>,
    /// Times each operation is done in a run.
    #[arg(long, default_value_t = 20_000, value_parser = value_parser!(u64).range(1..=500_000))]
    operations: u64,
    /// Clients at once, each waiting for its answer.
    #[arg(long, value_delimiter = ',', default_value = "1,64,512",
        value_parser = value_parser!(u32).range(1..=100_000))]
    clients: Vec<u32>,
    /// Runs of which medians are made.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    runs: u32,
    /// An operation's run ends after this time, even if not all were done.
    #[arg(long, default_value = "10s", value_parser = plan::parse_span_s)]
    step_limit: f64,
    /// Bytes of a task's parameters and of its result.
    #[arg(long, default_value_t = 128, value_parser = value_parser!(u32).range(2..=65_536))]
    bytes: u32,
    /// Secure the links by mutual TLS, with certificates made for the purpose.
    #[arg(long)]
    tls: bool,
    /// Instead of operations: kill the leader this often, under load, in clusters of 3 and more.
    #[arg(long, value_name = "KILLS", value_parser = value_parser!(u32).range(1..=100_000))]
    failover: Option<u32>,
    /// Clients of that load, half of them at the leader.
    #[arg(long, default_value_t = 64,
        value_parser = value_parser!(u32).range(2..=i64::from(LOAD_CLIENTS_MAX)))]
    failover_clients: u32,
    /// How often each of them writes at most.
    #[arg(long, default_value = "25ms", value_parser = plan::parse_span_s)]
    failover_pace: f64,
    /// Instead of operations: restart nodes and clusters that hold many tasks.
    #[arg(long)]
    recovery: bool,
    /// How many tasks.
    #[arg(long, default_value_t = 100_000, value_parser = value_parser!(u64).range(1..=1_000_000))]
    recovery_tasks: u64,
    /// Bytes of each one's parameters.
    #[arg(long, default_value_t = 1_024, value_parser = value_parser!(u32).range(2..=65_536))]
    recovery_bytes: u32,
    /// Instead of the operations by size: by how the log is tuned, in clusters of 3.
    #[arg(long, value_enum)]
    sweep: Vec<Sweep>,
    /// Where nodes keep their data meanwhile: a directory on the disk that is meant.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Write the whole result to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the result to this directory, as coordinator.json.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What a node's process is told; see [`NodePlan`].
#[derive(Debug, Args)]
pub(super) struct NodeArguments {
    #[arg(long)]
    id: u16,
    #[arg(long)]
    address: String,
    #[arg(long)]
    data: PathBuf,
    #[arg(long, value_delimiter = ',', value_parser = parse_voter)]
    voters: Vec<(u16, String)>,
    #[arg(long)]
    certificates: Option<PathBuf>,
    #[arg(long)]
    commands_per_entry: Option<usize>,
    #[arg(long)]
    snapshot_every: Option<u64>,
    #[arg(long)]
    entries_kept: Option<u64>,
}

fn parse_voter(text: &str) -> Result<(u16, String), String> {
    let (id, address) = text.split_once('=').ok_or("a voter is written as 1=127.0.0.1:20001")?;
    let id = id.parse().map_err(|error| format!("{id} is no node's number: {error}"))?;
    Ok((id, address.to_owned()))
}

/// Runs one node, for the process that measures.
pub(super) fn run_node(arguments: NodeArguments) -> u8 {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
    let plan = NodePlan {
        id: arguments.id,
        address: arguments.address,
        data_dir: arguments.data,
        voters: BTreeMap::from_iter(arguments.voters),
        certificates: arguments.certificates,
        tuning: Tuning {
            commands_per_entry: arguments.commands_per_entry,
            snapshot_every: arguments.snapshot_every,
            entries_kept: arguments.entries_kept,
        },
    };
    node::run(&plan).map_or_else(|error| fail(&error, EXIT_HOST), |()| EXIT_GOOD)
}

impl CoordinatorArguments {
    fn measuring(&self) -> Measuring {
        let kills = |count| Kills {
            count,
            clients: self.failover_clients,
            pace_us: (self.failover_pace * 1e6) as u64,
        };
        let recovering =
            Recovering { tasks: self.recovery_tasks, bytes: self.recovery_bytes as usize };
        Measuring {
            sizes: self.cluster_sizes.clone(),
            clients: self.clients.clone(),
            operations: self.operations,
            limit_ms: (self.step_limit * 1e3) as u64,
            runs: self.runs,
            bytes: self.bytes as usize,
            is_secure: self.tls,
            data: self.data.clone(),
            failover: self.failover.map(kills),
            recovery: self.recovery.then_some(recovering),
            sweeps: self.sweep.clone(),
        }
    }

    fn files(&self) -> impl Iterator<Item = PathBuf> {
        let whole = self.out.as_ref().map(|directory| directory.join(WHOLE));
        self.json.clone().into_iter().chain(whole)
    }
}

/// Measures, shows and writes.
pub(super) fn measure(arguments: &CoordinatorArguments) -> u8 {
    let interrupted = match watch_for_signals() {
        Ok(interrupted) => interrupted,
        Err(error) => return fail(&error, EXIT_HOST),
    };
    if let Some(directory) = &arguments.out
        && let Err(source) = fs::create_dir_all(directory)
    {
        return fail(&WriteError::File { path: directory.clone(), source }, EXIT_FILE);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut figures = Figures {
        format: FORMAT,
        command: shown_command(),
        began_unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        host: HostFacts::read(),
        ..Figures::default()
    };
    let mut watcher = Watcher::new();
    let measured = arguments.measuring().run(&mut figures, &mut watcher, &interrupted);
    watcher.finish();
    anstream::print!("{}", report::text(&figures));
    let files = arguments.files();
    let written = files.map(|path| write(&figures, &path)).max().unwrap_or(EXIT_GOOD);
    match measured {
        Err(error @ MeasureError::Interrupted) => fail(&error, EXIT_INTERRUPTED),
        Err(error) => fail(&error, EXIT_HOST),
        Ok(()) if !figures.is_sound() => EXIT_FAILED,
        Ok(()) => written,
    }
}

fn write(figures: &Figures, path: &Path) -> u8 {
    let json = serde_json::to_string_pretty(figures).expect("plain data has a JSON form");
    match fs::write(path, json + "\n") {
        Ok(()) => EXIT_GOOD,
        Err(source) => fail(&WriteError::File { path: path.to_owned(), source }, EXIT_FILE),
    }
}

/// The command line without names of files and directories, which say nothing elsewhere.
fn shown_command() -> Vec<String> {
    let mut words = vec!["shardgate-bench".to_owned()];
    let mut rest = std::env::args().skip(1);
    while let Some(word) = rest.next() {
        match word.split('=').next().unwrap_or_default() {
            name @ ("--data" | "--json" | "--out") => {
                if name == word {
                    rest.next();
                }
            }
            _ => words.push(word),
        }
    }
    words
}

/// Shows on standard error how far it is: a bar on a terminal, lines elsewhere.
struct Watcher {
    bar: Option<ProgressBar>,
}

impl Watcher {
    fn new() -> Watcher {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template(BAR).expect("the template is valid");
            bar.set_style(style.progress_chars("━━─"));
            bar
        });
        Watcher { bar }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Witness for Watcher {
    fn begin(&mut self, measurements: u64) {
        match &self.bar {
            Some(bar) => bar.set_length(measurements),
            None => anstream::eprintln!("{measurements} measurements"),
        }
    }

    fn now(&mut self, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(printable(what));
            bar.tick();
        }
    }

    fn ended(&mut self, found: &str) {
        match &self.bar {
            Some(bar) => {
                bar.inc(1);
                bar.set_message(printable(found));
            }
            None => anstream::eprintln!("{}", printable(found)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_have_a_number_and_an_address() {
        assert_eq!(parse_voter("3=127.0.0.1:20003").unwrap(), (3, "127.0.0.1:20003".to_owned()));
        assert!(parse_voter("127.0.0.1:20003").unwrap_err().contains("1=127.0.0.1"));
        assert!(parse_voter("x=127.0.0.1:20003").unwrap_err().contains("no node's number"));
    }
}
