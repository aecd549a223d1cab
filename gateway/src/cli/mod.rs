//! The command line: what may be said, and with which exit code it ends.
//!
//! Invariants:
//! - Each kind of failure has its own exit code; scripts may rely on them.
//! - What was asked for goes to standard output, all else to standard error.

mod admin;
mod arguments;
mod catalog;
mod cluster;
mod nodes;
mod pki;
mod status;
mod upstreams;

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use shardgate_replicate::pki::Fault;

use crate::children::guard::{self, GuardOrder};
use crate::config::{Config, ConfigOrigin, Log, LogFormat};
use crate::connect::{self, Endpoint, EndpointError};
use crate::control::{APPROVE_PATH, CATALOG_PATH};
use crate::logging::{self, Style};
use crate::pins::ApproveRequest;
use admin::{AdminError, Question};
use arguments::{
    CatalogArgs, CatalogCommand, CheckArgs, Command, CommandLine, ConnectArgs, ServeArgs,
    StatusArgs,
};
use cluster::ClusterCommandError;

/// It did what it should.
pub const EXIT_OK: u8 = 0;
/// The gateway failed while it started or ran, or a second signal cut its drain short.
pub const EXIT_FAILURE: u8 = 1;
/// The command line makes no sense; clap uses this code too.
pub const EXIT_USAGE: u8 = 2;
/// The configuration is not usable.
pub const EXIT_CONFIG: u8 = 3;
/// The admin server can't be reached, or what answers there is none.
pub const EXIT_UNREACHABLE: u8 = 4;

/// Does what the command line says. `serve` runs the gateway until it has stopped; by
/// then logging has been started.
pub fn run<E: Error>(
    arguments: impl IntoIterator<Item = OsString>,
    serve: impl FnOnce(Config, ConfigOrigin) -> Result<(), E>,
) -> ExitCode {
    let line = match CommandLine::try_parse_from(with_default_command(arguments)) {
        Ok(line) => line,
        Err(error) => {
            // clap sends help to standard output and mistakes to standard error.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE).into();
        }
    };
    let code = match line.command {
        Command::Serve(arguments) => run_serve(arguments, serve),
        Command::Check(arguments) => run_check(&arguments),
        Command::Status(arguments) => run_status(&arguments),
        Command::Upstreams(arguments) => run_upstreams(&arguments),
        Command::Catalog(arguments) => run_catalog(arguments),
        Command::Pki(arguments) => match pki::run(arguments) {
            Ok(text) => say(&text),
            Err(error) => fail(EXIT_FAILURE, &error),
        },
        Command::Cluster(arguments) => match cluster::run(arguments) {
            Ok(text) => say(&text),
            Err(ClusterCommandError::Admin(error)) => fail(EXIT_UNREACHABLE, &error),
            Err(error @ ClusterCommandError::Local(_)) => fail(EXIT_FAILURE, &error),
        },
        Command::Node(arguments) => match nodes::run(arguments) {
            Ok(text) => say(&text),
            Err(error @ AdminError::Refused { .. }) => fail(EXIT_FAILURE, &error),
            Err(error) => fail(EXIT_UNREACHABLE, &error),
        },
        Command::ChildGuard(arguments) => run_guard(&arguments.into()),
        Command::Connect(arguments) => run_connect(&arguments),
        Command::Version => say(&format!("shardgate {}\n", env!("CARGO_PKG_VERSION"))),
    };
    code.into()
}

/// `shardgate` alone, or with flags of `serve` only, means `shardgate serve`.
fn with_default_command(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let is_for_serve = match arguments.get(1).and_then(|first| first.to_str()) {
        None => arguments.len() < 2,
        Some("-h" | "--help" | "-V" | "--version") => false,
        Some(first) => first.starts_with('-'),
    };
    if is_for_serve {
        arguments.insert(1.min(arguments.len()), "serve".into());
    }
    arguments
}

fn run_serve<E: Error>(
    arguments: ServeArgs,
    serve: impl FnOnce(Config, ConfigOrigin) -> Result<(), E>,
) -> u8 {
    let (path, overrides) = arguments.into_parts();
    let origin = ConfigOrigin { path, overrides };
    let config = match load(&origin) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let missing = config.missing_values();
    for error in &missing {
        fail(EXIT_CONFIG, error);
    }
    if !missing.is_empty() {
        return EXIT_CONFIG;
    }
    let style = match logging::start(&config.log) {
        Ok(style) => style,
        Err(error) => return fail(EXIT_FAILURE, &error),
    };
    match serve(config, origin) {
        Ok(()) => EXIT_OK,
        Err(error) if style == Style::Json => {
            tracing::error!(event = "failed", error = chain(&error), "shardgate has failed");
            EXIT_FAILURE
        }
        Err(error) => fail(EXIT_FAILURE, &error),
    }
}

fn run_guard(order: &GuardOrder) -> u8 {
    match guard::guard(order) {
        Ok(()) => EXIT_OK,
        Err(error) => fail(EXIT_FAILURE, &error),
    }
}

fn run_check(arguments: &CheckArgs) -> u8 {
    let (path, overrides) = arguments.clone().settings.into_parts();
    let origin = ConfigOrigin { path, overrides };
    let config = match load(&origin) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if arguments.print {
        return match toml::to_string(&config.for_print()) {
            Ok(text) => say(&text),
            Err(error) => fail(EXIT_FAILURE, &error),
        };
    }
    let path = origin.path.as_ref();
    let name = path.map_or_else(|| "the default".to_owned(), |path| path.display().to_string());
    let mut text = format!("{name}: the configuration is sound\n");
    for remark in remarks(&config) {
        text.push_str(&format!("note: {remark}\n"));
    }
    say(&text)
}

/// What is allowed but may not be meant.
fn remarks(config: &Config) -> Vec<String> {
    let mut remarks = Vec::new();
    let is_star = |list: &Option<Vec<String>>| {
        list.as_ref().is_some_and(|entries| entries.iter().any(|entry| entry == "*"))
    };
    if is_star(&config.listen.allowed_hosts) {
        remarks.push(
            "listen.allowed_hosts accepts every name: no protection against DNS rebinding"
                .to_owned(),
        );
    }
    if is_star(&config.listen.allowed_origins) {
        remarks.push("listen.allowed_origins accepts pages of every site".to_owned());
    }
    if !config.admin.address.ip().is_loopback() {
        remarks.push(format!(
            "the admin server at {} asks for no login: keep other machines away from it",
            config.admin.address
        ));
    }
    if config.session.secret_file.is_none() && config.session.secret_env.is_none() {
        remarks.push(
            "no session secret is given: each start draws a random one, and sessions end with it"
                .to_owned(),
        );
    }
    if !config.upstream.is_empty() && config.upstream.iter().all(|upstream| !upstream.enabled) {
        remarks.push("no upstream is enabled".to_owned());
    }
    if config.embedded.enabled == Some(true) && config.upstream.iter().any(|it| it.enabled) {
        remarks.push("embedded.enabled has no effect beside an upstream yet".to_owned());
    }
    if let Some(cluster) = &config.cluster {
        remarks.extend(cluster.remarks());
        let warnings = cluster.file_faults(config.node.name.as_str()).into_iter();
        let warnings = warnings.filter(Fault::is_warning);
        remarks.extend(warnings.map(|fault| format!("cluster.tls.certificate: {fault}")));
    }
    // The service may have what whoever checks the file has not.
    remarks.extend(config.missing_values().iter().map(|error| format!("not here: {error}")));
    remarks
}

fn run_status(arguments: &StatusArgs) -> u8 {
    let question = Question { path: status::STATUS_PATH, body: None };
    match admin::fetch(&arguments.admin, &question) {
        Ok(answer) if arguments.json => say(&answer.json),
        Ok(answer) => say(&status::table(&answer.report)),
        Err(error) => fail(EXIT_UNREACHABLE, &error),
    }
}

fn run_connect(arguments: &ConnectArgs) -> u8 {
    let endpoint = match endpoint(arguments) {
        Ok(endpoint) => endpoint,
        Err(error) => return fail(EXIT_USAGE, &error),
    };
    // Desktop clients keep standard error in a file that people read.
    let level = arguments.log_level.clone().unwrap_or_else(|| Log::default().level);
    if let Err(error) = logging::start(&Log { format: LogFormat::Human, level }) {
        return fail(EXIT_FAILURE, &error);
    }
    match connect::run(endpoint) {
        Ok(()) => EXIT_OK,
        Err(error) => fail(EXIT_FAILURE, &error),
    }
}

fn endpoint(arguments: &ConnectArgs) -> Result<Endpoint, EndpointError> {
    let mut endpoint = Endpoint::parse(&arguments.url)?;
    for header in &arguments.header {
        endpoint.add_header(header)?;
    }
    for header in &arguments.header_env {
        endpoint.add_header_from(header, |name| std::env::var(name).ok())?;
    }
    Ok(endpoint)
}

fn run_upstreams(arguments: &StatusArgs) -> u8 {
    let question = Question { path: upstreams::UPSTREAMS_PATH, body: None };
    match admin::fetch(&arguments.admin, &question) {
        Ok(answer) if arguments.json => say(&answer.json),
        Ok(answer) => say(&upstreams::table(&answer.report)),
        Err(error) => fail(EXIT_UNREACHABLE, &error),
    }
}

fn run_catalog(arguments: CatalogArgs) -> u8 {
    match arguments.command {
        CatalogCommand::List { admin, json } => {
            let question = Question { path: CATALOG_PATH, body: None };
            match admin::fetch(&admin, &question) {
                Ok(answer) if json => say(&answer.json),
                Ok(answer) => say(&catalog::table(&answer.report)),
                Err(error) => fail(EXIT_UNREACHABLE, &error),
            }
        }
        CatalogCommand::Approve { admin, upstream, tool } => {
            let which = ApproveRequest { upstream, tool };
            let body = serde_json::to_string(&which).ok();
            match admin::fetch(&admin, &Question { path: APPROVE_PATH, body }) {
                Ok(answer) => say(&catalog::approved(&answer.report)),
                Err(error @ AdminError::Refused { .. }) => fail(EXIT_FAILURE, &error),
                Err(error) => fail(EXIT_UNREACHABLE, &error),
            }
        }
    }
}

/// What is wrong with the files of `[cluster.tls]`.
#[derive(Debug, thiserror::Error)]
#[error("cluster.tls: the node's certificate")]
struct BadCertificate(#[source] Fault);

/// A configuration that is usable, its secret and certificates included; otherwise the exit code, after saying why.
fn load(origin: &ConfigOrigin) -> Result<Config, u8> {
    let config = origin.load().map_err(|error| fail(EXIT_CONFIG, &error))?;
    config.session_secret().map_err(|error| fail(EXIT_CONFIG, &error))?;
    // What peers would refuse is better told here.
    let faults = config.cluster.iter().flat_map(|it| it.file_faults(config.node.name.as_str()));
    let faults: Vec<Fault> = faults.filter(|fault| !fault.is_warning()).collect();
    let is_sound = faults.is_empty();
    for fault in faults {
        fail(EXIT_CONFIG, &BadCertificate(fault));
    }
    if is_sound { Ok(config) } else { Err(EXIT_CONFIG) }
}

fn say(text: &str) -> u8 {
    // Styles are for terminals only.
    match anstream::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => EXIT_OK,
        // `shardgate status | head` is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => EXIT_OK,
        Err(error) => fail(EXIT_FAILURE, &error),
    }
}

fn fail(code: u8, error: &dyn Error) -> u8 {
    let red = anstyle::AnsiColor::Red.on_default().bold();
    anstream::eprintln!("{red}error:{red:#} {}", chain(error));
    code
}

/// The error and its causes in one line of text.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Overrides;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn flags_alone_mean_serve() {
        for (line, expected) in [
            ("shardgate", "shardgate serve"),
            ("shardgate --shards 2", "shardgate serve --shards 2"),
            ("shardgate --help", "shardgate --help"),
            ("shardgate -V", "shardgate -V"),
            ("shardgate status --json", "shardgate status --json"),
            ("shardgate nonsense", "shardgate nonsense"),
        ] {
            assert_eq!(with_default_command(words(line)), words(expected));
        }
    }

    #[test]
    fn causes_follow_the_error() {
        let path = Path::new("no/such.toml");
        let error = Config::load(Some(path), &Overrides::default()).unwrap_err();
        let text = chain(&error);
        assert!(text.starts_with("read configuration file no/such.toml: No such file"), "{text}");
    }

    #[test]
    fn remarks_are_for_what_is_open() {
        let mut config = Config::default();
        assert_eq!(remarks(&config).len(), 1, "only the secret");
        config.listen.allowed_hosts = Some(vec!["*".to_owned()]);
        config.listen.allowed_origins = Some(vec!["*".to_owned()]);
        config.admin.address = std::net::SocketAddr::from(([0, 0, 0, 0], 9090));
        config.session.secret_env = Some("KEY".to_owned());
        assert_eq!(remarks(&config).len(), 3);
    }
}
