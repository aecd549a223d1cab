//! The coordinator: what the cluster agrees on, as a deterministic state machine.
//!
//! The control log replicates [`Batch`]es of [`Command`]s; every node applies them to its
//! [`State`] and so knows the same nodes, virtual shards, workers and tasks. Reading is
//! done on a node's own state ([`State::tasks`], [`State::node`], …).
//!
//! Invariants:
//! - Equal logs give equal states: nothing depends on a clock, a hash table or chance.
//! - A command that is applied twice changes nothing the second time.
//! - One entry that ends a node's life tells every node the same about who takes over.
//!
//! Limits: every bound is a constant of this module, and a command beyond it is refused
//! with a [`Refusal`] that names it.

mod admission;
mod command;
mod dispatch;
mod gone;
mod lifecycle;
mod limits;
mod membership;
mod nodes;
mod offering;
mod outcome;
mod ownership;
mod query;
mod state;
mod tasks;
#[cfg(test)]
mod tests;
mod vshards;
mod workers;

pub use command::{
    Batch, Command, Departure, Input, Member, Move, NodeRegistration, Payload, TaskSubmission,
    WorkerRegistration, WorkerUpdate,
};
pub use limits::*;
pub use nodes::{Addresses, Node, Standing};
pub use outcome::{Change, Outcome, Refusal, Unit};
pub use query::{Counts, Cursor, NotACursor, Page, TaskFilter};
pub use state::State;
pub use tasks::{Ending, Inputs, Phase, Task, TaskNumber, TaskStatus};
pub use vshards::{Copies, NotCopies, Vshard};
pub use workers::{Labels, Worker};
