//! Which commands are taken at all: sizes and meanings that don't depend on the state.

use super::command::{
    Command, Input, NodeRegistration, Payload, TaskSubmission, WorkerRegistration, WorkerUpdate,
};
use super::limits::*;
use super::outcome::{Refusal, Unit};
use super::workers::Labels;

type Checked = Result<(), Refusal>;

/// Refuses a command that is over a bound or says nothing.
pub(super) fn check(command: &Command) -> Checked {
    match command {
        Command::RegisterNode(new) => check_node(new),
        Command::FenceNode { reason, .. } => bytes("the reason", reason, MESSAGE_BYTES_MAX),
        Command::MoveVshards { moves } => entries("a list of moves", moves.len(), MOVES_MAX),
        Command::AlterIsr { isr, .. } => entries("an ISR", isr.len(), COPIES_MAX),
        Command::RegisterWorker(new) => check_worker(new),
        Command::UpdateWorker(new) => check_update(new),
        Command::SubmitTask(new) => check_task(new),
        Command::UpdateTask { status_message, .. } => message(status_message.as_deref()),
        Command::AskInput { requests, resume, .. } => {
            let resume = resume.as_deref().map_or(0, <[u8]>::len);
            filled("a question", requests.len())?;
            inputs("the questions", requests, resume)
        }
        Command::AnswerInput { responses, .. } => inputs("the answers", responses, 0),
        Command::CompleteTask { payload, .. } => check_payload(payload),
        Command::FailTask { message: text, .. } => message(Some(text)),
        Command::CancelTask { reason, .. } => message(reason.as_deref()),
        Command::DropTasks { ids } => entries("a list of tasks", ids.len(), DROPS_MAX),
        Command::DrainNode { .. }
        | Command::RemoveNode { .. }
        | Command::SetFeatureLevel { .. }
        | Command::DeregisterWorker { .. }
        | Command::StartTask { .. } => Ok(()),
    }
}

fn check_node(new: &NodeRegistration) -> Checked {
    filled("a node's id", usize::from(new.id.0))?;
    name("a node's name", &new.name)?;
    name("a zone's name", &new.zone)?;
    name("a region's name", &new.region)?;
    for address in [&new.addresses.peer, &new.addresses.client, &new.addresses.admin] {
        bytes("an address", address, ADDRESS_BYTES_MAX)?;
    }
    Ok(())
}

fn check_worker(new: &WorkerRegistration) -> Checked {
    name("a worker's name", &new.name)?;
    name("a service's name", &new.service)?;
    filled("a worker's url", new.url.len())?;
    bytes("a worker's url", &new.url, ADDRESS_BYTES_MAX)?;
    filled("a worker's lease", usize::from(new.lease_ms > 0))?;
    check_capacity(new.capacity)?;
    labels(&new.labels)
}

fn check_update(new: &WorkerUpdate) -> Checked {
    new.capacity.map_or(Ok(()), check_capacity)?;
    new.labels.as_ref().map_or(Ok(()), labels)
}

fn check_capacity(capacity: u32) -> Checked {
    filled("a worker's capacity", capacity as usize)?;
    at_most("a worker's capacity", capacity as usize, WORKER_CAPACITY_MAX as usize, Unit::Units)
}

fn check_task(new: &TaskSubmission) -> Checked {
    at_most("a task's owner", new.owner.len(), OWNER_BYTES_MAX, Unit::Bytes)?;
    filled("a tool's name", new.tool.len())?;
    bytes("a tool's name", &new.tool, TOOL_BYTES_MAX)?;
    name("a service's name", &new.service)?;
    at_most("a task's params", new.params.len(), PARAMS_BYTES_MAX, Unit::Bytes)?;
    labels(&new.labels)
}

fn check_payload(payload: &Payload) -> Checked {
    match payload {
        Payload::Inline(result) => {
            at_most("a result in the log", result.len(), PAYLOAD_INLINE_BYTES_MAX, Unit::Bytes)
        }
        Payload::Blob { .. } => Ok(()),
    }
}

fn labels(labels: &Labels) -> Checked {
    entries("a set of labels", labels.0.len(), LABELS_MAX)?;
    for (key, value) in &labels.0 {
        bytes("a label's key", key, LABEL_BYTES_MAX)?;
        bytes("a label's value", value, LABEL_BYTES_MAX)?;
    }
    Ok(())
}

fn inputs(what: &str, inputs: &[Input], more: usize) -> Checked {
    entries(what, inputs.len(), INPUTS_MAX)?;
    for input in inputs {
        bytes("a question's key", &input.key, INPUT_KEY_BYTES_MAX)?;
    }
    let size: usize = inputs.iter().map(|input| input.key.len() + input.body.len()).sum();
    at_most(what, size + more, INPUT_BYTES_MAX, Unit::Bytes)
}

fn message(text: Option<&str>) -> Checked {
    text.map_or(Ok(()), |text| bytes("a message", text, MESSAGE_BYTES_MAX))
}

fn name(what: &str, text: &str) -> Checked {
    filled(what, text.len())?;
    bytes(what, text, NAME_BYTES_MAX)
}

fn bytes(what: &str, text: &str, max: usize) -> Checked {
    at_most(what, text.len(), max, Unit::Bytes)
}

fn entries(what: &str, got: usize, max: usize) -> Checked {
    at_most(what, got, max, Unit::Entries)
}

fn filled(what: &str, got: usize) -> Checked {
    if got == 0 { Err(Refusal::Empty { what: what.into() }) } else { Ok(()) }
}

/// Refuses what is too large, and says how much is taken.
pub(super) fn at_most(what: &str, got: usize, max: usize, unit: Unit) -> Checked {
    if got <= max {
        return Ok(());
    }
    Err(Refusal::TooLarge { what: what.into(), got: got as u64, max: max as u64, unit })
}
