//! `shardgate-bench validate`: the phases one after the other, each as the run its command
//! line stands for.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use clap::Parser;

use super::arguments::{Arguments, Command, ValidateArguments};
use super::{
    EXIT_FAILED, EXIT_FILE, EXIT_GOOD, EXIT_HOST, EXIT_INTERRUPTED, fail, watch_for_signals,
};
use crate::report::columns::HEAD;
use crate::report::error_text;
use crate::report::files::{Outputs, WriteError};
use crate::report::quantities::command_text;
use crate::run::{Ended, Run};
use crate::server_figures::MetricsUrl;
use crate::validate::own_gateway::{self, OwnGateway, OwnGatewayError};
use crate::validate::phases::{self, Against, Phase};
use crate::validate::{PhaseOutcome, Size, Validation, findings, report};

/// The name of the whole among the files of `--out`.
const WHOLE: &str = "validation.json";

/// Does it all, and tells.
pub(super) fn validate(arguments: &ValidateArguments) -> u8 {
    let interrupted = match watch_for_signals() {
        Ok(interrupted) => interrupted,
        Err(error) => return fail(&error, EXIT_HOST),
    };
    if let Some(directory) = &arguments.out
        && let Err(source) = fs::create_dir_all(directory)
    {
        return fail(&WriteError::File { path: directory.clone(), source }, EXIT_FILE);
    }
    let mut ground = match Ground::open(arguments) {
        Ok(ground) => ground,
        Err(error) => return fail(&error, EXIT_HOST),
    };
    let size = arguments.size();
    let mut validation = Validation::begin(size, ground.shown());
    let is_complete = carry_out(&mut validation, &mut ground, &interrupted);
    let last = ground.own.map_or_else(Vec::new, OwnGround::end);
    if !last.is_empty() {
        validation.phases.push(PhaseOutcome {
            name: "end".to_owned(),
            question: "do the gateways end in good order, without an error in their logs?"
                .to_owned(),
            findings: last,
            outcome: None,
        });
    }
    let is_good = validation.phases.iter().all(|phase| phase.findings.is_empty());
    validation.passed = is_complete && is_good;
    anstream::print!("{}", report::text(&validation));
    let written = arguments.out.as_deref().map_or(EXIT_GOOD, |out| write(&validation, out));
    match (validation.interrupted, validation.passed) {
        (true, _) => EXIT_INTERRUPTED,
        (false, true) => written,
        (false, false) => EXIT_FAILED,
    }
}

/// The phases in order. False if not all of them could be run.
fn carry_out(
    validation: &mut Validation,
    ground: &mut Ground<'_>,
    interrupted: &AtomicBool,
) -> bool {
    let size = validation.size;
    let mut ahead = vec![phases::capacity(size)];
    let mut number = 0;
    while !ahead.is_empty() {
        let phase = ahead.remove(0);
        number += 1;
        let done = ground.run(&phase, number, interrupted);
        let could_run = done.outcome.is_some();
        let is_over = done.outcome.as_ref().is_some_and(|outcome| outcome.verdict.interrupted);
        validation.phases.push(done);
        if is_over || !could_run {
            validation.interrupted = is_over;
            return false;
        }
        if number == 1 {
            let Some(capacity) = validation.capacity() else {
                let finding = "less than one request a second: nothing else can be measured by it";
                if let Some(first) = validation.phases.first_mut() {
                    first.findings.push(finding.to_owned());
                }
                return false;
            };
            ahead = phases::after_capacity(size, capacity);
            if ground.own.is_some() {
                ahead.extend(phases::of_own_gateway(size, capacity));
            }
        }
    }
    true
}

/// What the load is put on.
struct Ground<'a> {
    arguments: &'a ValidateArguments,
    /// None if a server was named.
    own: Option<OwnGround>,
}

/// Gateways that are started for it.
struct OwnGround {
    program: PathBuf,
    /// The one with the embedded server: what most phases are put on.
    server: OwnGateway,
    /// The others that run, by what they are for.
    others: Vec<(Against, OwnGateway)>,
}

impl OwnGround {
    /// The gateway for phases of this kind, started if it does not run yet.
    fn gateway(&mut self, against: Against) -> Result<&OwnGateway, OwnGatewayError> {
        let start: &dyn Fn(&Path, &str) -> Result<OwnGateway, OwnGatewayError> = match against {
            Against::Server => return Ok(&self.server),
            Against::Stage => &OwnGateway::before,
            Against::TwoShards => &|program, _| OwnGateway::start(program, 2),
        };
        let known = self.others.iter().position(|(kind, _)| *kind == against);
        let place = match known {
            Some(place) => place,
            None => {
                let gateway = start(&self.program, &self.server.url())?;
                self.others.push((against, gateway));
                self.others.len() - 1
            }
        };
        Ok(&self.others[place].1)
    }

    /// Ends the gateways, those that ask others first; tells what they complained about.
    fn end(mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Some((_, gateway)) = self.others.pop() {
            said.extend(gateway.end());
        }
        said.extend(self.server.end());
        said
    }
}

impl<'a> Ground<'a> {
    fn open(arguments: &'a ValidateArguments) -> Result<Ground<'a>, OwnGatewayError> {
        if arguments.url.is_some() {
            return Ok(Ground { arguments, own: None });
        }
        let program = own_gateway::program(arguments.gateway.as_deref())?;
        let server = OwnGateway::start(&program, 1)?;
        Ok(Ground { arguments, own: Some(OwnGround { program, server, others: Vec::new() }) })
    }

    fn shown(&self) -> String {
        match &self.own {
            Some(own) => {
                let program = own.program.file_name().unwrap_or(own.program.as_os_str());
                format!("{} with its embedded server", program.display())
            }
            None => self.arguments.url.clone().unwrap_or_default(),
        }
    }

    /// One phase, from its command line to what was found.
    fn run(&mut self, phase: &Phase, number: usize, interrupted: &AtomicBool) -> PhaseOutcome {
        let (name, question) = (phase.name, phase.question);
        anstream::eprintln!("\n{HEAD}{number}. {name}{HEAD:#}: {question}");
        let mut done = PhaseOutcome {
            name: name.to_owned(),
            question: question.to_owned(),
            findings: Vec::new(),
            outcome: None,
        };
        match self.outcome_of(phase, interrupted) {
            Ok(Ended { outcome, given_up, remarks }) => {
                for remark in remarks {
                    anstream::eprintln!("{remark}");
                }
                done.findings = findings::of(&outcome, phase.shedding, given_up.as_deref());
                for finding in &done.findings {
                    anstream::eprintln!("{name}: {finding}");
                }
                done.outcome = Some(outcome);
            }
            Err(trouble) => done.findings.push(trouble),
        }
        done
    }

    fn outcome_of(&mut self, phase: &Phase, interrupted: &AtomicBool) -> Result<Ended, String> {
        let told = |error: OwnGatewayError| error_text(&error);
        let words = self.words_of(phase).map_err(told)?;
        anstream::eprintln!("{}", command_text(&words));
        let run = read(words)?;
        run.run(interrupted).map_err(|error| error_text(&error))
    }

    /// The whole command line of a phase.
    fn words_of(&mut self, phase: &Phase) -> Result<Vec<String>, OwnGatewayError> {
        let mut words = vec!["shardgate-bench".to_owned()];
        words.extend_from_slice(&phase.words);
        let mut add = |name: &str, value: Option<String>| {
            words.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
        };
        let arguments = self.arguments;
        match &mut self.own {
            Some(own) => {
                let gateway = own.gateway(phase.against)?;
                add("--url", Some(gateway.url()));
                add("--metrics-url", Some(gateway.metrics_url()));
            }
            None => {
                add("--url", arguments.url.clone());
                add("--metrics-url", arguments.metrics_url.as_ref().map(MetricsUrl::to_string));
                add("--tool", arguments.tool.clone());
                add("--arguments", arguments.arguments.clone());
            }
        }
        add("--workers", Some(arguments.workers.to_string()));
        let cpus: Vec<String> = arguments.cpus.iter().map(usize::to_string).collect();
        add("--cpus", (!cpus.is_empty()).then(|| cpus.join(",")));
        Ok(words)
    }
}

/// The run a command line stands for.
fn read(words: Vec<String>) -> Result<Run, String> {
    let arguments = Arguments::try_parse_from(&words).map_err(|error| error.to_string())?;
    let run = match arguments.command {
        Command::Run(arguments) => arguments.plan(),
        Command::Connections(arguments) => arguments.plan(),
        Command::Validate(_)
        | Command::Coordinator(_)
        | Command::CoordinatorNode(_)
        | Command::Compare(_)
        | Command::Report(_) => {
            return Err("a phase is a run".to_owned());
        }
    };
    let mut run = run.map_err(|error| error_text(&error))?;
    run.command = words;
    Ok(run)
}

/// The whole as JSON, and each phase as JSON and as a page.
fn write(validation: &Validation, directory: &Path) -> u8 {
    let path = directory.join(WHOLE);
    let mut text = match serde_json::to_string(validation) {
        Ok(text) => text,
        Err(source) => return fail(&WriteError::Json { path, source }, EXIT_FILE),
    };
    text.push('\n');
    let mut code = EXIT_GOOD;
    if let Err(source) = fs::write(&path, text) {
        code = fail(&WriteError::File { path, source }, EXIT_FILE);
    }
    for phase in &validation.phases {
        let Some(outcome) = &phase.outcome else { continue };
        let file = |kind: &str| {
            let name = phase.name.replace(' ', "-");
            Some(directory.join(format!("{name}.{kind}")))
        };
        let outputs = Outputs { json: file("json"), html: file("html"), csv: None, hgrm: None };
        code = super::write_files(&outputs, outcome).max(code);
    }
    code
}

impl ValidateArguments {
    fn size(&self) -> Size {
        if self.full { Size::Full } else { Size::Quick }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_is_a_run_of_this_tool() {
        for size in [Size::Quick, Size::Full] {
            let mut all = vec![phases::capacity(size)];
            all.extend(phases::after_capacity(size, 1_234.5));
            all.extend(phases::of_own_gateway(size, 1_234.5));
            for phase in all {
                let mut words = vec!["shardgate-bench".to_owned()];
                words.extend(phase.words);
                words.extend(["--url".to_owned(), "http://127.0.0.1:1/mcp".to_owned()]);
                let run = read(words.clone()).unwrap_or_else(|error| panic!("{words:?}: {error}"));
                assert_eq!((run.command, run.plan.stages_uncounted), (words, 0));
            }
        }
    }
}
