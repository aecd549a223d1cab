//! A seeded simulator of whole clusters.
//!
//! It runs the code that nodes run (the control log with its engine, the coordinator's
//! state machine) in virtual time, on virtual disks and links that fail. The same seed
//! gives the same run; a run that breaks an invariant says how to repeat it.
//!
//! Invariant: nothing here reads a real clock or real randomness.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod disk;
pub mod faults;
pub mod ledger;
pub mod mutant;
pub mod network;
pub mod run;
pub mod workload;
pub mod world;
