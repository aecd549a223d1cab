//! The runtime over loopback: real shards, real sockets, no sleeping until it works.

#![expect(unreachable_pub, reason = "a test binary exports nothing; `pub` reads better in modules")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod closing;
mod connecting;
mod dialer;
mod echo;
mod ending;
mod harness;
mod limits;
mod lines;
mod messages;
mod moving;
mod timers;
