//! The operations: each step in turn, on a cluster that has nothing yet.

use super::cluster::{Cluster, ClusterError};
use super::talk::{Order, Performed, Said, Step, Work};
use super::{Common, MeasureError, Place, StepFigures, Tuning, places};
use crate::report::quantities::rate_text;

/// Measures all steps with each number of clients at each place, several times.
pub(super) fn measure(
    common: &mut Common<'_>,
    size: u16,
    tuning: Tuning,
    figures: &mut Vec<StepFigures>,
) -> Result<(), MeasureError> {
    for clients in common.measuring.clients.clone() {
        for place in places(size) {
            let mut all: Vec<StepFigures> = Step::ALL
                .map(|step| {
                    let (place, runs) = (*place, Vec::new());
                    StepFigures { nodes: size, tuning, clients, place, step, runs }
                })
                .to_vec();
            for _ in 0..common.measuring.runs {
                common.look_for_interruption()?;
                let what = format!("{size} nodes, {clients} clients at the {}", place.name());
                common.witness.now(&what);
                let found = round(common, size, tuning, clients, *place)?;
                let submits = found[1].rate();
                for (figures, performed) in all.iter_mut().zip(found) {
                    figures.runs.push(performed);
                }
                common.witness.ended(&format!("{what}: {} tasks submitted", rate_text(submits)));
            }
            figures.extend(all);
        }
    }
    Ok(())
}

/// Every step once.
fn round(
    common: &Common<'_>,
    size: u16,
    tuning: Tuning,
    clients: u32,
    place: Place,
) -> Result<Vec<Performed>, ClusterError> {
    let mut cluster = Cluster::start(common.plan(size, tuning))?;
    let leader = cluster.wait_until_whole()?;
    let at = match place {
        Place::Leader => leader,
        Place::Follower => {
            let mut running = cluster.running().into_iter();
            running.find(|id| *id != leader).expect("a cluster with followers")
        }
    };
    let node = cluster.node(at);
    let (mut found, mut tasks) = (Vec::new(), 0);
    for step in Step::ALL {
        let operations = match step {
            // A task is completed once.
            Step::CompleteTask => tasks,
            Step::RegisterWorker | Step::SubmitTask | Step::UpdateTask | Step::QueryTask => {
                common.measuring.operations
            }
        };
        let (limit_ms, bytes) = (common.measuring.limit_ms, common.measuring.bytes);
        let work = Work { step, clients, operations, limit_ms, tasks, bytes };
        let said = node.ask(&Order::Perform(work))?;
        let Said::Performed(performed) = said else { return Err(node.confused(&said)) };
        if step == Step::SubmitTask {
            tasks = performed.done;
        }
        found.push(performed);
    }
    Ok(found)
}
