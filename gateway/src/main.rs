//! The `shardgate` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    shardgate::cli::run(std::env::args_os(), shardgate::serve::serve)
}
