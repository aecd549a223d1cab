//! What the measuring process and its nodes say to each other: a line of JSON each, orders
//! on the node's standard input, answers on its standard output.
//!
//! Instants are nanoseconds of the machine's monotonic clock, which all its processes share.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::outcome::Distribution;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A worker registers.
    RegisterWorker,
    /// A task is submitted.
    SubmitTask,
    /// Its executor tells how it goes on.
    UpdateTask,
    /// Its executor tells the result.
    CompleteTask,
    /// A linearizable look at a task.
    QueryTask,
}

impl Step {
    /// All, in the order in which they are measured: later ones need what earlier ones made.
    pub const ALL: [Step; 5] = [
        Step::RegisterWorker,
        Step::SubmitTask,
        Step::UpdateTask,
        Step::CompleteTask,
        Step::QueryTask,
    ];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Step::RegisterWorker => "register worker",
            Step::SubmitTask => "submit task",
            Step::UpdateTask => "update status",
            Step::CompleteTask => "complete task",
            Step::QueryTask => "query task",
        }
    }
}

/// One step's work at one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) step: Step,
    /// How many at once.
    pub(crate) clients: u32,
    /// How often.
    pub(crate) operations: u64,
    /// Nothing new is begun after so long.
    pub(crate) limit_ms: u64,
    /// Tasks that were submitted before.
    pub(crate) tasks: u64,
    /// Bytes of a task's parameters.
    pub(crate) bytes: usize,
}

/// What a node is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub(crate) enum Order {
    /// Say how you are.
    Status,
    /// Do this, and tell how it went.
    Perform(Work),
    /// Submit tasks until told otherwise, and tell of each that was acknowledged.
    Load {
        /// Begins the ids of its tasks.
        session: u32,
        /// How many at once.
        clients: u32,
        /// Each begins a write after so long again, if the one before has ended.
        pace_us: u64,
    },
    /// Tell of the first write of the load that begins after this instant and succeeds.
    Watch {
        /// The instant.
        since_ns: u64,
    },
    /// Finish the load.
    EndLoad,
    /// Say when this entry of the log is part of the local state.
    Reach {
        /// The entry.
        index: u64,
    },
    /// Submit so many tasks of so many bytes, many at once.
    Fill {
        /// Tasks.
        tasks: u64,
        /// Bytes of parameters.
        bytes: usize,
    },
    /// Make a snapshot.
    Snapshot,
    /// Take a node in that gets the log and does not vote.
    AddLearner {
        /// Its number.
        id: u16,
        /// Where it listens.
        address: String,
    },
    /// List all tasks, after a look at what the cluster has committed.
    List,
}

/// What a node says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "snake_case")]
pub(crate) enum Said {
    /// The node has begun.
    Ready,
    /// How it is.
    Status(Status),
    /// How the work went.
    Performed(Performed),
    /// Tasks that were acknowledged to clients of the load.
    Acknowledged {
        /// Each.
        tasks: Vec<Acknowledged>,
    },
    /// What was watched for has happened.
    Watched {
        /// When.
        at_ns: u64,
    },
    /// The load has ended; everything acknowledged was told before.
    LoadEnded {
        /// Attempts that came to nothing and were made again.
        retries: u64,
        /// What the first of them was told.
        example: String,
    },
    /// The entry was reached.
    Reached {
        /// When.
        at_ns: u64,
    },
    /// It is done.
    Done,
    /// Some of the tasks that were asked for.
    Listed {
        /// Each.
        tasks: Vec<Acknowledged>,
        /// Whether these were the last.
        is_last: bool,
    },
    /// It could not be done.
    Failed {
        /// Why.
        why: String,
    },
}

/// A task of the load: who submitted it, and when the cluster says it was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Acknowledged {
    pub(crate) session: u32,
    pub(crate) client: u32,
    /// Counts a client's tasks from 1. A client submits one after the other.
    pub(crate) number: u64,
    pub(crate) created_ms: u64,
}

/// How a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Who leads, as far as it knows.
    pub(crate) leader: Option<u16>,
    pub(crate) term: u64,
    /// Nodes that are registered and live, in its state.
    pub(crate) live: usize,
    pub(crate) committed_index: u64,
    pub(crate) applied_index: u64,
    pub(crate) snapshot_index: u64,
    pub(crate) snapshot_bytes: u64,
    pub(crate) purged_index: u64,
    pub(crate) tasks: usize,
    pub(crate) log_bytes: u64,
    pub(crate) resident_bytes: u64,
}

/// How the work of one step went at one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Performed {
    /// Operations that succeeded.
    pub done: u64,
    /// Operations that did not.
    pub failed: u64,
    /// What the first of them was told.
    pub example: String,
    /// How long all took together.
    pub elapsed_us: u64,
    /// How long each took.
    pub latency: Distribution,
    /// Processor time that the node's process spent meanwhile.
    pub cpu_us: u64,
    /// Syncs of the node's log meanwhile.
    pub syncs: u64,
    /// How long they took together.
    pub sync_us: u64,
}

impl Performed {
    /// Successes per second.
    pub fn rate(&self) -> f64 {
        match self.elapsed_us {
            0 => 0.0,
            elapsed_us => self.done as f64 * 1e6 / elapsed_us as f64,
        }
    }
}

/// The clock of all instants here.
pub(crate) fn monotonic_ns() -> u64 {
    clock_ns(ClockId::Monotonic)
}

/// Processor time of this process so far.
pub(super) fn cpu_ns() -> u64 {
    clock_ns(ClockId::ProcessCPUTime)
}

fn clock_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // Both clocks count from a beginning in the past.
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_survives_its_line() {
        let work = Work {
            step: Step::UpdateTask,
            clients: 64,
            operations: 20_000,
            limit_ms: 10_000,
            tasks: 7,
            bytes: 1_024,
        };
        let learner = Order::AddLearner { id: 4, address: "127.0.0.1:1".to_owned() };
        for order in [Order::Status, Order::Perform(work), Order::Watch { since_ns: 5 }, learner] {
            let line = serde_json::to_string(&order).unwrap();
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(serde_json::from_str::<Order>(&line).unwrap(), order);
        }
    }

    #[test]
    fn a_rate_of_nothing_is_nothing() {
        assert_eq!(Performed::default().rate(), 0.0);
        let performed = Performed { done: 500, elapsed_us: 250_000, ..Performed::default() };
        assert_eq!(performed.rate(), 2_000.0);
    }
}
