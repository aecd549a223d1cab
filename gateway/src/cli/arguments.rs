//! What may be said on the command line, and the help that teaches it.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, value_parser};

use super::cluster::{self, ClusterArgs};
use super::nodes::{self, NodeArgs};
use super::pki::{self, PkiArgs};
use crate::children::guard::{GUARD_COMMAND, GuardOrder};
use crate::config::keys;
use crate::config::{LogFormat, LogLevels, NodeName, Overrides, ShardCount, parse_address};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the gateway failed while it started or ran, or its drain was cut short by its
     deadline or a second signal
  2  the command line makes no sense
  3  the configuration is not usable
  4  the admin server can't be reached";

const TOP_EXAMPLES: &str = "\
Without a command, `shardgate` means `shardgate serve`: the built-in tools at
http://127.0.0.1:8080/mcp, the admin page at http://127.0.0.1:9090/, one shard per cpu.

Examples:
  shardgate                                      try it out on this machine
  shardgate serve --config shardgate.toml        run it with a configuration
  shardgate check --config shardgate.toml        say what is wrong with a configuration
  shardgate status                               look at a running gateway
  shardgate connect http://127.0.0.1:8080/mcp    let a client without HTTP use it
  shardgate upstreams                            look at its tool servers";

const SERVE_EXAMPLES: &str = "\
What isn't said here is taken from the environment, then from the configuration file, then
from the defaults. docs/configuration.md lists every key.

SIGTERM or Ctrl-C drains: requests in flight are answered, streams end with the time after
which clients may try again, and the process ends with code 0. Sessions end with it. A second
signal ends it at once.

The file is read again when it has changed, and on SIGHUP: upstreams and routes change at once,
all else waits for the next start, and a file that is not sound changes nothing.

In the JSON log, the line with \"event\":\"ready\" tells the bound addresses; port 0 takes a free port.

Examples:
  shardgate serve                                        everything by default
  shardgate serve --listen 127.0.0.1:9000 --shards 2     another port, two cores
  shardgate serve --listen 0.0.0.0:8080 --allow-host mcp.example.com
                                                         reachable from other machines by that name
  SHARDGATE_LOG=json shardgate serve 2> log.jsonl        logs for programs";

const CHECK_EXAMPLES: &str = "\
Reads the file as `serve` would, and the session secret it names, but starts nothing. Each
problem is told with line, column and key. The code is 0 if all is sound, 3 if not. Variables
and files with values for upstreams are looked at too; one that is missing here is only noted.

Examples:
  shardgate check --config shardgate.toml
  shardgate check --config shardgate.toml --print        the whole configuration that would hold,
                                                         without values that may be secret";

const STATUS_EXAMPLES: &str = "\
Rates and percentiles are those of the last seconds; totals count from the start.

Examples:
  shardgate status                                       the gateway of this machine
  shardgate status --admin 127.0.0.1:9191
  shardgate status --json | jq .totals.requests_per_second";

const CONNECT_EXAMPLES: &str = "\
For clients that start a command and speak MCP with it on standard input and output, as
desktop applications do. Both eras are carried: sessions, which are opened, resumed, renewed
when the gateway has restarted, and ended with the client; and the stateless requests of
2026-07-28. Standard output carries messages only, standard error what people may want to know.

A gateway that can't be reached is told in the answer to each request, and tried again with the
next one. The command ends when its standard input does, or on SIGTERM or Ctrl-C, with code 0.

For a client's configuration (claude_desktop_config.json, mcp.json and the like):

  {
    \"mcpServers\": {
      \"shardgate\": {
        \"command\": \"shardgate\",
        \"args\": [\"connect\", \"http://127.0.0.1:8080/mcp\"]
      }
    }
  }

A token belongs into the environment, where process lists don't show it:

        \"args\": [\"connect\", \"https://mcp.example.com/mcp\",
                 \"--header-env\", \"Authorization=MCP_AUTHORIZATION\"],
        \"env\": { \"MCP_AUTHORIZATION\": \"Bearer …\" }

With https the certificate authorities of this machine hold; SSL_CERT_FILE names others.

Example, by hand:
  echo '{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"initialize\",\"params\":{
    \"protocolVersion\":\"2025-11-25\",\"capabilities\":{},\"clientInfo\":{\"name\":\"me\",\"version\":\"0\"}}}' |
    tr -d '\\n' | shardgate connect http://127.0.0.1:8080/mcp";

const UPSTREAMS_EXAMPLES: &str = "\
A server is up, opening (not read yet), down (its last reading failed) or broken (it failed
several times in a row and is sent no calls for a while). docs/operations.md says what to do.

Examples:
  shardgate upstreams                                    of the gateway of this machine
  shardgate upstreams --json | jq '.upstreams[] | select(.state != \"up\") | .name'";

const CATALOG_EXAMPLES: &str = "\
An upstream with `pin = true` is trusted as it is first seen. A tool whose definition changes
later is withheld from clients until somebody has looked at it and approves it here.

Examples:
  shardgate catalog list                                 what is pinned, and what is withheld
  shardgate catalog approve                              every definition as it is now
  shardgate catalog approve crm find_customer            that of one tool";

/// A thread-per-core gateway for the Model Context Protocol (MCP).
#[derive(Debug, Parser)]
#[command(name = "shardgate", version, max_term_width = 100)]
#[command(override_usage = "shardgate [COMMAND] [OPTIONS]")]
#[command(after_help = format!("{TOP_EXAMPLES}\n\n{EXIT_CODES}"))]
pub(super) struct CommandLine {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Runs the gateway until a signal stops it (the default).
    #[command(after_help = format!("{SERVE_EXAMPLES}\n\n{EXIT_CODES}"))]
    Serve(ServeArgs),
    /// Says whether a configuration is sound, and where it isn't.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// Shows what a running gateway does.
    #[command(after_help = STATUS_EXAMPLES)]
    Status(StatusArgs),
    /// Carries a client's standard input and output to a gateway, for clients without HTTP.
    #[command(after_help = CONNECT_EXAMPLES)]
    Connect(ConnectArgs),
    /// Shows the tool servers of a running gateway, and what is wrong with them.
    #[command(after_help = UPSTREAMS_EXAMPLES)]
    Upstreams(StatusArgs),
    /// Lists the pinned tools of a running gateway, or approves changed ones.
    #[command(after_help = CATALOG_EXAMPLES)]
    Catalog(CatalogArgs),
    /// Makes the certificates with which the nodes of a cluster know each other.
    #[command(after_help = pki::EXAMPLES)]
    Pki(PkiArgs),
    /// Runs a whole cluster on this machine, or shows the status of any.
    #[command(after_help = cluster::EXAMPLES)]
    Cluster(ClusterArgs),
    /// Lists, adds and removes nodes of a running cluster.
    #[command(after_help = nodes::EXAMPLES)]
    Node(NodeArgs),
    /// Prints the version.
    Version,
    /// Starts a tool server for the gateway and ends it when the gateway has ended.
    #[command(name = GUARD_COMMAND, hide = true)]
    ChildGuard(ChildGuardArgs),
}

#[derive(Args, Clone, Debug)]
pub(super) struct ServeArgs {
    /// Configuration file (TOML)
    #[arg(short, long, value_name = "FILE", env = "SHARDGATE_CONFIG")]
    config: Option<PathBuf>,
    /// Address for clients; may be given several times [default: 127.0.0.1:8080]
    #[arg(short, long, value_name = "IP:PORT", env = "SHARDGATE_LISTEN", value_delimiter = ',')]
    #[arg(value_parser = parse_address)]
    listen: Vec<SocketAddr>,
    /// Name by which clients may call the gateway [default: loopback names]
    #[arg(long, value_name = "HOST", env = "SHARDGATE_ALLOW_HOST", value_delimiter = ',')]
    allow_host: Vec<String>,
    /// Web origin whose pages may use the gateway [default: loopback origins]
    #[arg(long, value_name = "ORIGIN", env = "SHARDGATE_ALLOW_ORIGIN", value_delimiter = ',')]
    allow_origin: Vec<String>,
    /// Address of the admin server [default: 127.0.0.1:9090]
    #[arg(long, value_name = "IP:PORT", env = "SHARDGATE_ADMIN", value_parser = parse_address)]
    admin: Option<SocketAddr>,
    /// The node's name; session ids begin with it [default: from the host's name]
    #[arg(long, value_name = "NAME", env = "SHARDGATE_NODE")]
    node: Option<NodeName>,
    /// Number of shards, or `auto` for one per cpu [default: auto]
    #[arg(short, long, value_name = "N|auto", env = "SHARDGATE_SHARDS")]
    shards: Option<ShardCount>,
    /// human, json, or auto: human on a terminal [default: auto]
    #[arg(long, value_name = "FORMAT", env = "SHARDGATE_LOG")]
    log: Option<LogFormat>,
    /// error, warn, info, debug, trace, off, or levels by module [default: info]
    #[arg(long, value_name = "LEVEL", env = "SHARDGATE_LOG_LEVEL")]
    log_level: Option<LogLevels>,
    /// Time for a drain to end, in milliseconds [default: 30000]
    #[arg(long, value_name = "MS", env = "SHARDGATE_DRAIN_DEADLINE_MS")]
    #[arg(value_parser = value_parser!(u64).range(keys::range("limits.drain_deadline_ms")))]
    drain_deadline_ms: Option<u64>,
}

#[derive(Args, Clone, Debug)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) settings: ServeArgs,
    /// Print the whole configuration that would hold, defaults included
    #[arg(long)]
    pub(super) print: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct StatusArgs {
    /// Address or URL of the admin server
    #[arg(long, value_name = "URL", env = "SHARDGATE_ADMIN", default_value = "127.0.0.1:9090")]
    pub(super) admin: String,
    /// Print the report as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Clone, Debug)]
pub(super) struct CatalogArgs {
    #[command(subcommand)]
    pub(super) command: CatalogCommand,
}

#[derive(Clone, Debug, Subcommand)]
pub(super) enum CatalogCommand {
    /// Shows the tools of pinned upstreams, and which are withheld
    List {
        /// Address or URL of the admin server
        #[arg(long, value_name = "URL", env = "SHARDGATE_ADMIN", default_value = "127.0.0.1:9090")]
        admin: String,
        /// Print the list as JSON, with whole hashes
        #[arg(long)]
        json: bool,
    },
    /// Approves the definitions that are listed now
    Approve {
        /// Address or URL of the admin server
        #[arg(long, value_name = "URL", env = "SHARDGATE_ADMIN", default_value = "127.0.0.1:9090")]
        admin: String,
        /// Of this upstream alone [default: all]
        upstream: Option<String>,
        /// Of this tool alone, by the upstream's name for it [default: all]
        tool: Option<String>,
    },
}

#[derive(Args, Clone, Debug)]
pub(super) struct ChildGuardArgs {
    /// Time for the tool server to end, in milliseconds
    #[arg(long, value_name = "MS")]
    grace_ms: u64,
    /// Where it runs
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl From<ChildGuardArgs> for GuardOrder {
    fn from(arguments: ChildGuardArgs) -> GuardOrder {
        GuardOrder {
            grace: Duration::from_millis(arguments.grace_ms),
            directory: arguments.directory,
            command: arguments.command,
        }
    }
}

#[derive(Args, Clone)]
pub(super) struct ConnectArgs {
    /// URL of the gateway, such as http://127.0.0.1:8080/mcp
    #[arg(value_name = "URL")]
    pub(super) url: String,
    /// Header for every request; may be given several times
    #[arg(long, value_name = "NAME: VALUE")]
    pub(super) header: Vec<String>,
    /// Header whose value is in an environment variable; may be given several times
    #[arg(long, value_name = "NAME=VARIABLE")]
    pub(super) header_env: Vec<String>,
    /// error, warn, info, debug, trace, off, or levels by module [default: info]
    #[arg(long, value_name = "LEVEL", env = "SHARDGATE_LOG_LEVEL")]
    pub(super) log_level: Option<LogLevels>,
}

/// Without the headers: their values may be tokens.
impl fmt::Debug for ConnectArgs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers = self.header.len() + self.header_env.len();
        let mut shown = formatter.debug_struct("ConnectArgs");
        shown.field("url", &self.url).field("headers", &headers).finish_non_exhaustive()
    }
}

impl ServeArgs {
    /// The configuration file, and what wins over it.
    pub(super) fn into_parts(self) -> (Option<PathBuf>, Overrides) {
        let overrides = Overrides {
            listen: self.listen,
            allowed_hosts: self.allow_host,
            allowed_origins: self.allow_origin,
            admin: self.admin,
            node: self.node,
            shards: self.shards,
            log_format: self.log,
            log_level: self.log_level,
            drain_deadline_ms: self.drain_deadline_ms,
        };
        (self.config, overrides)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn flags_become_overrides() {
        let line = "shardgate serve -c a.toml --listen 127.0.0.1:1,localhost:2 -l [::1]:3 --shards auto \
                    --admin 127.0.0.1:4 --node gw-2 --log json --log-level debug \
                    --drain-deadline-ms 5 --allow-host a --allow-host b --allow-origin https://c";
        let parsed = CommandLine::try_parse_from(line.split_whitespace()).expect("sound flags");
        let Command::Serve(arguments) = parsed.command else { panic!("serve was said") };
        let (path, overrides) = arguments.into_parts();
        assert_eq!(path, Some(PathBuf::from("a.toml")));
        let ports: Vec<u16> = overrides.listen.iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [1, 2, 3]);
        assert_eq!(overrides.shards, Some(ShardCount::Auto));
        assert_eq!(overrides.node.expect("given").as_str(), "gw-2");
        assert_eq!(overrides.log_format, Some(LogFormat::Json));
        assert_eq!(overrides.drain_deadline_ms, Some(5));
        assert_eq!(overrides.allowed_hosts, ["a", "b"]);
        assert_eq!(overrides.allowed_origins, ["https://c"]);
    }

    #[test]
    fn wrong_values_are_told_with_what_is_allowed() {
        for (flag, value, expected) in [
            ("--listen", "8080", "write IP:PORT"),
            ("--shards", "0", "use \"auto\" or 1 to 1024"),
            ("--log", "xml", "\"human\" or \"json\""),
            ("--log-level", "inof", "use error, warn"),
            ("--node", "No Name", "use 1 to 16"),
            ("--drain-deadline-ms", "86400001", "86400000"),
        ] {
            let error = CommandLine::try_parse_from(["shardgate", "serve", flag, value])
                .map(|line| format!("{line:?}"))
                .expect_err(flag)
                .to_string();
            assert!(error.contains(expected), "{flag} {value}: {error}");
        }
    }

    #[test]
    fn every_variable_of_the_reference_exists() {
        let reference = keys::render_reference();
        let mut command = CommandLine::command();
        command.build();
        let serve = command.find_subcommand("serve").expect("serve is a command");
        for argument in serve.get_arguments().filter(|a| a.get_id() != "help") {
            let flag = argument.get_long().expect("every argument has a long flag");
            let variable = argument.get_env().expect("and a variable").to_string_lossy();
            assert!(reference.contains(&format!("| `--{flag}` | `{variable}`")), "{flag}");
        }
    }
}
