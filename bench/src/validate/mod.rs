//! One command that tells whether a server bears load as it should: a row of runs, each with
//! a question, and a finding for everything that went wrong in it.
//!
//! Every run is a command line of this tool, so that each can be repeated alone. What is
//! judged are errors and losses, never times: those depend on the machine, and are in the
//! report for people to judge. All is bounded: by [`Size`] in time and in connections.

pub(crate) mod findings;
pub(crate) mod own_gateway;
pub(crate) mod phases;
pub(crate) mod report;

use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;

/// The version of what is written.
pub const FORMAT: u32 = 1;

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Size {
    /// About a minute and up to 4,000 connections: for every change.
    Quick,
    /// About a quarter of an hour and up to 50,000 connections: for every release.
    Full,
}

/// The whole, as `--json` writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// [`FORMAT`] at the time of writing.
    pub format: u32,
    /// Version of the tool.
    pub version: String,
    /// How much was done.
    pub size: Size,
    /// The server's URL, or how it was started.
    pub server: String,
    /// True if nothing was found and nothing was left out.
    pub passed: bool,
    /// True if the user ended it before its time.
    pub interrupted: bool,
    /// In their order; those that were not begun are missing.
    pub phases: Vec<PhaseOutcome>,
}

/// One run of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseOutcome {
    /// In the table.
    pub name: String,
    /// What it is to show.
    pub question: String,
    /// What is wrong, in sentences; none if all is well.
    pub findings: Vec<String>,
    /// What the run found, if it could be begun.
    pub outcome: Option<Outcome>,
}

impl Validation {
    /// Before the first phase.
    pub(crate) fn begin(size: Size, server: String) -> Validation {
        Validation {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            size,
            server,
            passed: false,
            interrupted: false,
            phases: Vec::new(),
        }
    }

    /// Requests per second that the first phase found; none if it failed.
    pub(crate) fn capacity(&self) -> Option<f64> {
        let totals = self.phases.first()?.outcome.as_ref()?.totals;
        let capacity = totals.completed as f64 / totals.elapsed_s;
        (capacity.is_finite() && capacity >= 1.0).then_some(capacity)
    }
}
