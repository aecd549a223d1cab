//! The load generator as its users run it: against servers that misbehave by plan, and
//! against the gateway.
#![forbid(unsafe_code)]

mod against_gateway;
mod coordinating;
mod engine;
mod harness;
mod validating;
