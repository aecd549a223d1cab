//! The state machine from outside: commands in, outcomes and what can be read out.

mod fixture;
mod nodes;
mod tasks;
mod workers;
