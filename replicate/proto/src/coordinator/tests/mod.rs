//! The state machine from outside: commands in, outcomes and what can be read out.

mod encoding;
mod fixture;
mod nodes;
mod properties;
mod queries;
mod snapshots;
mod tasks;
mod vshards;
mod workers;
