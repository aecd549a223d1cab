//! What the tests of the load generator share: a server that misbehaves by plan, and the
//! generator as a child process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

pub(crate) mod gateway;
pub(crate) mod generator;
pub(crate) mod server;

use std::time::Duration;

/// The bound of every wait; only a failing test ever takes so long.
pub(crate) const HANG: Duration = Duration::from_secs(60);
