//! `shardgate-sim`: runs seeds and says which of them break an invariant.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use shardgate_sim::mutant::Mutant;
use shardgate_sim::run::run_with;

/// Simulates whole clusters in virtual time, with faults, from seeds.
#[derive(Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Virtual seconds of each run.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Something to break on purpose: see `mutant.rs` for the names.
    #[arg(long)]
    mutant: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mutant = match arguments.mutant.as_deref().map(|name| (name, Mutant::named(name))) {
        None => None,
        Some((_, Some(mutant))) => Some(mutant),
        Some((name, None)) => {
            eprintln!("{name} is no mutant; there are {:?}", Mutant::ALL);
            return ExitCode::FAILURE;
        }
    };
    let mut happened: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut operations, mut failed) = (0, 0);
    for seed in arguments.seed..arguments.seed + arguments.seeds {
        let report = run_with(seed, Duration::from_secs(arguments.seconds), mutant);
        operations += report.operations;
        for (what, times) in report.happened {
            *happened.entry(what).or_default() += times;
        }
        if !report.broken.is_empty() {
            failed += 1;
            println!("seed {seed} breaks {} invariants, the first of them:", report.broken.len());
            for sentence in report.broken.iter().take(5) {
                println!("  {sentence}");
            }
            println!(
                "repeat it: cargo run --release -p shardgate-sim -- --seed {seed} --seconds {}",
                arguments.seconds
            );
        }
    }
    for (what, times) in happened {
        println!("{times:>12}  {what}");
    }
    println!(
        "{} runs of {} s, {operations} answers, {failed} runs broke an invariant",
        arguments.seeds, arguments.seconds
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
