//! The commands, from their arguments to their exit code.

mod arguments;
mod coordinating;
mod validating;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;

use self::arguments::{Arguments, Command, CompareArguments, ReportArguments, Sinks};
use crate::compare::Comparison;
use crate::outcome::Outcome;
use crate::report::error_text;
use crate::report::files::{self, Outputs};
use crate::report::table::table;
use crate::run::{Ended, Run, RunError};

/// All went as it should.
pub const EXIT_GOOD: u8 = 0;
/// The run failed, or a threshold was not kept.
pub const EXIT_FAILED: u8 = 1;
/// The command line can't be used.
pub const EXIT_USAGE: u8 = 2;
/// There is no server, or none of its connections can be used.
pub const EXIT_UNREACHABLE: u8 = 3;
/// The server does not offer what the workload needs.
pub const EXIT_UNFIT: u8 = 4;
/// This machine stands in the way.
pub const EXIT_HOST: u8 = 5;
/// A file could not be read or written.
pub const EXIT_FILE: u8 = 6;
/// The user ended the run; its report is there.
pub const EXIT_INTERRUPTED: u8 = 130;

/// Does what the command line says.
pub fn main() -> ExitCode {
    ExitCode::from(match Arguments::parse().command {
        Command::Run(arguments) => carry_out(arguments.plan(), &arguments.sinks),
        Command::Connections(arguments) => carry_out(arguments.plan(), &arguments.sinks),
        Command::Validate(arguments) => validating::validate(&arguments),
        Command::Coordinator(arguments) => coordinating::measure(&arguments),
        Command::CoordinatorNode(arguments) => coordinating::run_node(arguments),
        Command::Compare(arguments) => compare(&arguments),
        Command::Report(arguments) => show(&arguments),
    })
}

fn carry_out(run: Result<Run, arguments::BadArguments>, sinks: &Sinks) -> u8 {
    let run = match run {
        Ok(run) => run,
        Err(error) => return fail(&error, EXIT_USAGE),
    };
    let interrupted = match watch_for_signals() {
        Ok(interrupted) => interrupted,
        Err(error) => return fail(&error, EXIT_HOST),
    };
    match run.run(&interrupted) {
        Ok(ended) => report(ended, sinks),
        Err(error) => {
            let code = exit_code_of(&error);
            fail(&error, code)
        }
    }
}

/// A flag that Ctrl-C and SIGTERM set.
fn watch_for_signals() -> io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

fn exit_code_of(error: &RunError) -> u8 {
    match error {
        RunError::Unfit(unfit) if unfit.is_unreachable() => EXIT_UNREACHABLE,
        RunError::Unfit(_) => EXIT_UNFIT,
        RunError::NotReady { .. } => EXIT_UNREACHABLE,
        RunError::Server(_) | RunError::Cpus(_) => EXIT_USAGE,
        RunError::Start(_) => EXIT_HOST,
        RunError::Interrupted => EXIT_INTERRUPTED,
        RunError::Histogram(_) => EXIT_FAILED,
    }
}

/// Shows and writes what was found.
fn report(ended: Ended, sinks: &Sinks) -> u8 {
    let Ended { mut outcome, given_up, remarks } = ended;
    outcome.verdict.broken_thresholds = sinks.fail_if.broken(&outcome);
    anstream::print!("{}", table(&outcome));
    for remark in remarks {
        anstream::eprintln!("{remark}");
    }
    let written = write_files(&sinks.files.outputs(), &outcome);
    exit_code(&outcome, given_up.is_some(), written)
}

fn exit_code(outcome: &Outcome, given_up: bool, written: u8) -> u8 {
    let failed =
        given_up || outcome.totals.completed == 0 || !outcome.verdict.broken_thresholds.is_empty();
    if outcome.verdict.interrupted && !given_up {
        EXIT_INTERRUPTED
    } else if failed {
        EXIT_FAILED
    } else {
        written
    }
}

fn compare(arguments: &CompareArguments) -> u8 {
    let read = |path: &Path| files::read(path).map_err(|error| fail(&error, EXIT_FILE));
    let (first, second) = match (read(&arguments.first), read(&arguments.second)) {
        (Ok(first), Ok(second)) => (first, second),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    let names = [&arguments.first, &arguments.second].map(|path| path.display().to_string());
    let comparison = Comparison::of(&first, &second);
    anstream::print!("{}", comparison.text(&names[0], &names[1]));
    if comparison.is_fair() { EXIT_GOOD } else { EXIT_FAILED }
}

/// Shows a run that was written earlier.
fn show(arguments: &ReportArguments) -> u8 {
    let outcome = match files::read(&arguments.file) {
        Ok(outcome) => outcome,
        Err(error) => return fail(&error, EXIT_FILE),
    };
    anstream::print!("{}", table(&outcome));
    write_files(&arguments.files.outputs(), &outcome)
}

/// Writes what was asked for; every file that can't be is told.
fn write_files(outputs: &Outputs, outcome: &Outcome) -> u8 {
    let errors = outputs.write(outcome);
    errors.iter().fold(EXIT_GOOD, |_, error| fail(error, EXIT_FILE))
}

fn fail(error: &dyn std::error::Error, code: u8) -> u8 {
    anstream::eprintln!("shardgate-bench: {}", error_text(error));
    code
}
