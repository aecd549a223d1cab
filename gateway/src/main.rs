//! The `shardgate` command.
#![forbid(unsafe_code)]

fn main() {}
