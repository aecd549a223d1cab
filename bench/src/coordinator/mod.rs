//! What the cluster's coordinator costs: its operations by cluster size and clients, what
//! the loss of its leader costs, and how long it takes to come back.
//!
//! Every node is a process of its own, with its own files and real syncs, and all of them
//! are on this machine: they share its processors and its disk. Each run begins with a
//! cluster that has nothing yet. It is measured inside the process of one node, as gateways
//! call the control thread in their own process; once at the leader and once at a follower,
//! whose writes and reads take one hop more.

mod clients;
mod cluster;
mod disk;
pub mod failover;
pub(crate) mod node;
pub mod recovery;
pub mod report;
mod steps;
mod talk;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

pub use self::disk::DiskFigures;
pub use self::failover::Failover;
pub use self::node::Tuning;
pub use self::recovery::Recovery;
pub use self::talk::{Performed, Step};

pub(crate) use self::clients::LOAD_CLIENTS_MAX;
pub(crate) use self::cluster::ClusterError;
use self::cluster::ClusterPlan;

/// The form of the JSON. A reader refuses any other.
pub const FORMAT: u32 = 1;

/// Values of [`Tuning::commands_per_entry`] that a sweep goes through.
const BATCHES: [usize; 5] = [1, 8, 64, 512, 4_096];
/// Values of [`Tuning::snapshot_every`] that a sweep goes through. An entry carries the
/// commands of many clients, so that few entries are many operations.
const COMPACTIONS: [u64; 4] = [20, 100, 500, 20_000];
/// Nodes of the cluster that sweeps are made with.
const SWEEP_NODES: u16 = 3;

/// Everything that was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// See [`FORMAT`].
    pub format: u32,
    /// The command line, without directories of this machine.
    pub command: Vec<String>,
    /// When it began, in milliseconds since 1970.
    pub began_unix_ms: u64,
    /// The machine.
    pub host: crate::outcome::HostFacts,
    /// What a sync costs there, without any cluster.
    pub disk: DiskFigures,
    /// Whether links were secured by TLS.
    pub is_secure: bool,
    /// Operations, by cluster, clients and place.
    pub steps: Vec<StepFigures>,
    /// Kills of leaders, by cluster.
    pub failovers: Vec<Failover>,
    /// Restarts and syncs, by cluster.
    pub recoveries: Vec<Recovery>,
}

/// At which node clients are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// At the leader.
    Leader,
    /// At another one.
    Follower,
}

impl Place {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Place::Leader => "leader",
            Place::Follower => "follower",
        }
    }
}

/// One operation, measured several times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepFigures {
    /// Voters.
    pub nodes: u16,
    /// What was not as by default.
    pub tuning: Tuning,
    /// How many clients at once.
    pub clients: u32,
    /// Where they were.
    pub place: Place,
    /// What they did.
    pub step: Step,
    /// Each run.
    pub runs: Vec<Performed>,
}

/// What is to be varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sweep {
    /// The commands of one entry.
    Batch,
    /// The entries between snapshots.
    Compaction,
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Measuring {
    pub(crate) sizes: Vec<u16>,
    pub(crate) clients: Vec<u32>,
    pub(crate) operations: u64,
    pub(crate) limit_ms: u64,
    pub(crate) runs: u32,
    pub(crate) bytes: usize,
    pub(crate) is_secure: bool,
    pub(crate) data: Option<PathBuf>,
    pub(crate) failover: Option<Kills>,
    pub(crate) recovery: Option<Recovering>,
    pub(crate) sweeps: Vec<Sweep>,
}

/// How leaders are killed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kills {
    pub(crate) count: u32,
    pub(crate) clients: u32,
    /// Each client writes this often at most.
    pub(crate) pace_us: u64,
}

/// What is in the cluster whose recovery is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recovering {
    pub(crate) tasks: u64,
    pub(crate) bytes: usize,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeasureError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("measure what a sync costs in {}", path.display())]
    Disk {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the measurement was interrupted")]
    Interrupted,
}

/// Is told what is measured next, and what was found.
pub(crate) trait Witness {
    /// So much is ahead.
    fn begin(&mut self, measurements: u64);
    /// This is measured now.
    fn now(&mut self, what: &str);
    /// One measurement has ended.
    fn ended(&mut self, found: &str);
}

/// What every measurement needs.
struct Common<'a> {
    measuring: &'a Measuring,
    witness: &'a mut dyn Witness,
    interrupted: &'a AtomicBool,
}

impl Common<'_> {
    fn plan(&self, size: u16, tuning: Tuning) -> ClusterPlan<'_> {
        let Measuring { is_secure, data, .. } = self.measuring;
        ClusterPlan { size, is_secure: *is_secure, tuning, data: data.as_deref() }
    }

    fn look_for_interruption(&self) -> Result<(), MeasureError> {
        match self.interrupted.load(Ordering::Relaxed) {
            true => Err(MeasureError::Interrupted),
            false => Ok(()),
        }
    }
}

impl Measuring {
    /// Measures, and puts what it finds into `figures`, as far as it comes.
    pub(crate) fn run(
        &self,
        figures: &mut Figures,
        witness: &mut dyn Witness,
        interrupted: &AtomicBool,
    ) -> Result<(), MeasureError> {
        let data = self.data.clone().unwrap_or_else(std::env::temp_dir);
        figures.disk = self.disk(&data)?;
        figures.is_secure = self.is_secure;
        witness.begin(self.measurements());
        let mut common = Common { measuring: self, witness, interrupted };
        if self.measures_steps() {
            for size in &self.sizes {
                steps::measure(&mut common, *size, Tuning::default(), &mut figures.steps)?;
            }
        }
        for tuning in self.sweeps.iter().flat_map(|sweep| tunings(*sweep)) {
            steps::measure(&mut common, SWEEP_NODES, tuning, &mut figures.steps)?;
        }
        if let Some(kills) = self.failover {
            for size in self.sizes_with_spares() {
                figures.failovers.push(failover::measure(&mut common, size, kills)?);
            }
        }
        if let Some(recovering) = self.recovery {
            for size in self.sizes_with_spares() {
                figures.recoveries.push(recovery::measure(&mut common, size, recovering)?);
            }
        }
        Ok(())
    }

    fn disk(&self, data: &Path) -> Result<DiskFigures, MeasureError> {
        DiskFigures::measure(data)
            .map_err(|source| MeasureError::Disk { path: data.to_owned(), source })
    }

    /// Operations are measured unless something else is asked for.
    fn measures_steps(&self) -> bool {
        self.failover.is_none() && self.recovery.is_none() && self.sweeps.is_empty()
    }

    /// Clusters that can lose a node.
    fn sizes_with_spares(&self) -> impl Iterator<Item = u16> {
        self.sizes.iter().copied().filter(|size| *size >= 3)
    }

    fn measurements(&self) -> u64 {
        let rounds =
            |size| u64::from(self.runs) * self.clients.len() as u64 * places(size).len() as u64;
        let steps: u64 = match self.measures_steps() {
            true => self.sizes.iter().map(|size| rounds(*size)).sum(),
            false => 0,
        };
        let points: usize = self.sweeps.iter().map(|sweep| tunings(*sweep).len()).sum();
        let clusters = self.sizes_with_spares().count() as u64;
        let kills = self.failover.map_or(0, |kills| u64::from(kills.count) * clusters);
        let recoveries = if self.recovery.is_some() { clusters } else { 0 };
        steps + points as u64 * rounds(SWEEP_NODES) + kills + recoveries
    }
}

/// Where clients can be in a cluster of this size.
fn places(size: u16) -> &'static [Place] {
    match size {
        1 => &[Place::Leader],
        _ => &[Place::Leader, Place::Follower],
    }
}

fn tunings(sweep: Sweep) -> Vec<Tuning> {
    match sweep {
        Sweep::Batch => BATCHES
            .map(|commands| Tuning { commands_per_entry: Some(commands), ..Tuning::default() })
            .to_vec(),
        Sweep::Compaction => COMPACTIONS
            .map(|entries| Tuning {
                snapshot_every: Some(entries),
                // Half of an interval, so that purging is part of it.
                entries_kept: Some(entries / 2),
                ..Tuning::default()
            })
            .to_vec(),
    }
}
