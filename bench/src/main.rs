//! `shardgate-bench`: see the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    shardgate_bench::command::main()
}
