//! What the black-box tests of the gateway share.
//!
//! The tests see the gateway as its clients do: they start the real binary and
//! talk to it over loopback. [`gateway`] starts and stops it, [`wire`] is an
//! HTTP/1.1 and SSE client small enough to send wrong bytes on purpose,
//! [`mcp`] writes the requests, [`cutter`] breaks connections at a chosen
//! moment, [`bad_input`] tries
//! bad requests, [`tools`] installs the real clients and servers, [`script`] runs
//! the clients and [`servers`] the servers, [`suite`] and [`client_suite`] run the official
//! conformance suite and [`metrics`] reads the gateway's own figures. Behind a gateway stand the
//! [`rogue_server`] and the [`scripted_server`]; [`client`] calls through it in both eras,
//! and a [`record`] tells what a real server received.
//!
//! Invariant: nothing here waits without a bound, and no bound is a threshold:
//! each is long enough that only a hang reaches it.

pub(crate) mod bad_input;
pub(crate) mod client;
pub(crate) mod client_suite;
pub(crate) mod cutter;
pub(crate) mod gateway;
pub(crate) mod mcp;
pub(crate) mod metrics;
pub(crate) mod record;
pub(crate) mod rogue_server;
pub(crate) mod script;
pub(crate) mod scripted_server;
pub(crate) mod servers;
pub(crate) mod suite;
pub(crate) mod tools;
pub(crate) mod wire;

use std::time::Duration;

/// How long a test waits for anything before it calls it a hang.
pub(crate) const HANG: Duration = Duration::from_secs(60);
