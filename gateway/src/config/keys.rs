//! Every key of the configuration: kind, range, default, meaning.
//!
//! The table serves the checks (unknown keys, kinds, ranges), the command line's
//! range check and the reference in `docs/configuration.md`.
//!
//! Invariant: the table and the fields of [`super::Config`] are the same set, and
//! each default here is the one `Config::default()` has. Tests hold both.

mod cluster;
mod federation;
mod tasks;

use std::fmt;

use cluster::CLUSTER_KEYS;
use federation::{ROUTE_KEYS, UPSTREAM_KEYS};
use tasks::TASK_KEYS;

/// What kind of value a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number within bounds, both inclusive.
    Integer {
        /// Least.
        min: u64,
        /// Greatest.
        max: u64,
        /// What is counted.
        unit: Unit,
    },
    /// `true` or `false`.
    Boolean,
    /// A text.
    Text,
    /// A list of texts.
    TextList,
    /// A text or a list of texts.
    TextOrList,
    /// A text or a whole number.
    TextOrInteger,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// A table of texts under names of the user's choice.
    TextTable,
    /// A list of nodes: tables with `id`, `name`, `address`, and perhaps `zone` and `region`.
    NodeList,
}

/// What an integer counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Milliseconds,
    /// Things.
    Count,
    /// Things whose number must be a power of two.
    PowerOfTwo,
    /// Bytes that must be a power of two.
    BytesPowerOfTwo,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.key`
    pub path: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// The default as TOML text; empty if the key is not set by default.
    pub default: &'static str,
    /// What it does, for the reference.
    pub meaning: &'static str,
}

impl Key {
    /// Whether a value, though it stands in the file, may be secret and is never shown in messages.
    pub fn may_be_secret(&self) -> bool {
        matches!(
            self.path,
            "upstream.url" | "upstream.headers" | "upstream.command" | "upstream.env"
        )
    }

    /// The part before the dot.
    pub fn section(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(section, _)| section)
    }

    /// The part behind the dot.
    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, name)| name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Integer { min, max, unit } => {
                write!(formatter, "a whole number {unit}from {min} to {max}")
            }
            Kind::Boolean => formatter.write_str("true or false"),
            Kind::Text => formatter.write_str("a text in quotes"),
            Kind::TextList => formatter.write_str("a list of texts, such as [\"a\", \"b\"]"),
            Kind::TextOrList => formatter.write_str("a text in quotes, or a list of texts"),
            Kind::TextOrInteger => formatter.write_str("\"auto\" or a whole number"),
            Kind::Choice(words) => {
                for (index, word) in words.iter().enumerate() {
                    let separator = match index {
                        0 => "",
                        _ if index + 1 == words.len() => " or ",
                        _ => ", ",
                    };
                    write!(formatter, "{separator}{word:?}")?;
                }
                Ok(())
            }
            Kind::TextTable => formatter.write_str("a table of texts, such as { NAME = \"text\" }"),
            Kind::NodeList => formatter.write_str(
                "a list of nodes, each { id = 1, name = \"gw-1\", address = \"10.0.0.1:7946\" }",
            ),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Unit::Bytes => "of bytes ",
            Unit::Milliseconds => "of milliseconds ",
            Unit::Count => "",
            Unit::PowerOfTwo => "that is a power of two, ",
            Unit::BytesPowerOfTwo => "of bytes that is a power of two, ",
        })
    }
}

impl Unit {
    /// Whether only powers of two will do.
    pub fn wants_power_of_two(self) -> bool {
        matches!(self, Unit::PowerOfTwo | Unit::BytesPowerOfTwo)
    }
}

/// The key with this path.
pub fn find(path: &str) -> Option<&'static Key> {
    all().find(|key| key.path == path)
}

/// Whether this key of a section is a table with keys of its own.
pub fn is_table(section: &str, key: &str) -> bool {
    all().any(|known| {
        known.section() == section
            && known.name().strip_prefix(key).is_some_and(|rest| rest.starts_with('.'))
    })
}

/// The bounds of an integer key.
///
/// # Panics
/// If the table has no such integer key: that is a programming error.
pub fn range(path: &str) -> std::ops::RangeInclusive<u64> {
    match find(path).map(|key| key.kind) {
        Some(Kind::Integer { min, max, .. }) => min..=max,
        other => panic!("{path} is no integer key: {other:?}"),
    }
}

/// A section of the file.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// As it is written between the brackets.
    pub name: &'static str,
    /// Whether there may be many, each headed `[[name]]`.
    pub repeats: bool,
    /// What it is for, for the reference.
    pub meaning: &'static str,
}

impl Section {
    /// The header as it is written in the file.
    pub fn header(&self) -> String {
        if self.repeats { format!("[[{}]]", self.name) } else { format!("[{}]", self.name) }
    }
}

const fn once(name: &'static str, meaning: &'static str) -> Section {
    Section { name, repeats: false, meaning }
}

const fn many(name: &'static str, meaning: &'static str) -> Section {
    Section { name, repeats: true, meaning }
}

/// The sections, in the reference's order.
pub const SECTIONS: [Section; 14] = [
    once("node", "Who this node is."),
    once("listen", "Where clients connect, and by which names they may call the gateway."),
    once(
        "admin",
        "The admin server: `/metrics`, `/api/v1/status`, `/healthz`, `/readyz` and a web page.",
    ),
    once("shards", "How many cores work."),
    once("ring", "Sizes of each shard's io_uring data ring. The defaults suit most machines."),
    once(
        "limits",
        "Every bound. What a full limit refuses gets an answer that names the limit, 429 or 503 with `Retry-After` where it is worth trying again; a timeout or a reader that is too slow ends the connection. docs/operations.md lists them all.",
    ),
    once("session", "How session ids are protected."),
    many(
        "upstream",
        "A tool server behind the gateway: a child process (`command`) or a URL (`url`). Every entry begins with `[[upstream]]`; at most 256. They can change while the gateway runs (docs/operations.md). `{ … }` tables may also be written as sections below their entry, such as `[upstream.tools]`.",
    ),
    many(
        "route",
        "A path of its own with a choice of upstreams and tools. `/mcp` is always there and offers all of them. Every entry begins with `[[route]]`; at most 256. They can change while the gateway runs.",
    ),
    once("catalog", "What the gateway keeps of what upstreams offer."),
    once("embedded", "The tool server that is built in."),
    once("tasks", "Calls that are answered at once and fetched later."),
    once(
        "cluster",
        "Makes this node one of a cluster, which keeps its members, workers and tasks in a replicated log. Without this section the node is alone. Nodes of a cluster need the same session secret (`[session]`) and, unless `insecure = true`, certificates (`shardgate pki`). docs/cluster.md shows how to begin one.",
    ),
    once("log", "Logging, always to standard error."),
];

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

const fn integer(
    path: &'static str,
    (min, max, unit): (u64, u64, Unit),
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key { path, kind: Kind::Integer { min, max, unit }, default, meaning }
}

const fn other(
    path: &'static str,
    kind: Kind,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key { path, kind, default, meaning }
}

use Unit::{Bytes, BytesPowerOfTwo, Count, Milliseconds, PowerOfTwo};

/// The section with this name.
pub fn section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.name == name)
}

/// Every key, in the reference's order within its section.
pub fn all() -> impl Iterator<Item = &'static Key> + Clone {
    NODE_KEYS.iter().chain(UPSTREAM_KEYS).chain(ROUTE_KEYS).chain(TASK_KEYS).chain(CLUSTER_KEYS)
}

/// The keys of the sections that stand once.
const NODE_KEYS: &[Key] = &[
    other(
        "node.name",
        Kind::Text,
        "",
        "The node's name, 1 to 16 of the characters `a`-`z`, `0`-`9` and `-`. Session ids begin with it, so a load balancer can route by it; it must be unique in a cluster. Default: made from the host's name, or `local`.",
    ),
    other(
        "listen.address",
        Kind::TextOrList,
        "\"127.0.0.1:8080\"",
        "Address or addresses for clients, `IP:PORT`, at most 16. Every shard listens on each of them (SO_REUSEPORT). Port 0 takes a free one, which the ready line tells.",
    ),
    other(
        "listen.allowed_hosts",
        Kind::TextList,
        "",
        "Names by which clients may call this gateway (`Host` header). An entry without a port matches every port; `\"*\"` accepts all names and turns the protection against DNS rebinding off. Default: loopback names and addresses with any port. It must be given when an address is not on loopback.",
    ),
    other(
        "listen.allowed_origins",
        Kind::TextList,
        "",
        "Web origins whose pages may use this gateway (`Origin` header), such as `https://app.example.com`; `\"*\"` accepts all. Requests without `Origin` come from no browser and are not affected. Default: loopback origins while listening on loopback only; none otherwise.",
    ),
    other(
        "admin.address",
        Kind::Text,
        "\"127.0.0.1:9090\"",
        "Address of the admin server. It asks for no login, so keep it on loopback or on a closed network.",
    ),
    other(
        "admin.allowed_hosts",
        Kind::TextList,
        "",
        "Names by which the admin server may be called, as in `listen.allowed_hosts`. Default: loopback names. It must be given when the address is not on loopback.",
    ),
    other(
        "shards.count",
        Kind::TextOrInteger,
        "\"auto\"",
        "Number of shards, 1 to 1024; each is one thread pinned to one cpu. `\"auto\"` takes every cpu the process may use.",
    ),
    integer(
        "ring.submission_entries",
        (64, 32_768, PowerOfTwo),
        "4096",
        "Entries of the submission queue.",
    ),
    integer(
        "ring.completion_entries",
        (128, 65_536, PowerOfTwo),
        "16384",
        "Entries of the completion queue; not fewer than `ring.submission_entries`.",
    ),
    integer(
        "ring.buffers",
        (16, 32_768, PowerOfTwo),
        "2048",
        "Receive buffers that all connections of a shard share. An idle connection holds none.",
    ),
    integer(
        "ring.buffer_bytes",
        (512, 64 * KIB, BytesPowerOfTwo),
        "4096",
        "Size of one receive buffer. Memory per shard: `ring.buffers` times this.",
    ),
    integer(
        "limits.message_bytes_max",
        (KIB, GIB, Bytes),
        "16777216",
        "Largest JSON-RPC message (HTTP body). Larger: 413.",
    ),
    integer(
        "limits.header_bytes_max",
        (KIB, 65_535, Bytes),
        "16384",
        "Largest request line and header block. Larger: 431.",
    ),
    integer(
        "limits.json_depth_max",
        (8, 128, Count),
        "128",
        "Deepest nesting of a message. Deeper: 400.",
    ),
    integer(
        "limits.in_flight_per_session_max",
        (1, 65_536, Count),
        "64",
        "Requests of one session that may wait for their answers at once. More: 429.",
    ),
    integer(
        "limits.streams_per_session_max",
        (1, 1_024, Count),
        "16",
        "SSE streams one session may have open. With so many, another GET without `Last-Event-ID` gets 429.",
    ),
    integer(
        "limits.stream_backlog_events_max",
        (1, 65_536, Count),
        "256",
        "Events kept per stream for replay by `Last-Event-ID`; the oldest go first.",
    ),
    integer(
        "limits.stream_backlog_bytes_max",
        (0, GIB, Bytes),
        "262144",
        "Bytes kept per stream for replay, and eight times that per session. The newest event is kept whatever its size.",
    ),
    integer(
        "limits.stream_backlog_age_ms",
        (0, DAY, Milliseconds),
        "300000",
        "How long an event is kept for replay.",
    ),
    integer(
        "limits.sessions_max",
        (1, 100_000_000, Count),
        "1000000",
        "Sessions of this node. More: 503.",
    ),
    integer(
        "limits.connections_max",
        (1, 100_000_000, Count),
        "1000000",
        "Open client connections of this node. More: 503 and closed.",
    ),
    integer(
        "limits.idle_session_ms",
        (1_000, 30 * DAY, Milliseconds),
        "1800000",
        "A session without request or open stream ends after this; clients then get 404 and begin anew.",
    ),
    integer(
        "limits.idle_connection_ms",
        (100, DAY, Milliseconds),
        "300000",
        "A connection without request or open stream is closed after this.",
    ),
    integer(
        "limits.header_timeout_ms",
        (100, HOUR, Milliseconds),
        "10000",
        "Time for a request's headers to arrive whole. Slower: 408 and closed.",
    ),
    integer(
        "limits.body_timeout_ms",
        (100, HOUR, Milliseconds),
        "30000",
        "Time for a request's body to arrive whole, on top of the time for its headers. Slower: 408 and closed.",
    ),
    integer(
        "limits.slow_reader_bytes_max",
        (4 * KIB, GIB, Bytes),
        "1048576",
        "Bytes of one stream that its client leaves unread. More for over a second, or 16 times that: the stream is closed; the client may resume it.",
    ),
    integer(
        "limits.answer_patience_ms",
        (10, HOUR, Milliseconds),
        "1000",
        "A call that has no answer by then is answered as a stream, so that it can show that it lives and be resumed.",
    ),
    integer(
        "limits.heartbeat_ms",
        (100, HOUR, Milliseconds),
        "15000",
        "A silent stream gets an SSE comment this often, so that nothing between cuts it. Below `limits.idle_connection_ms`.",
    ),
    integer(
        "limits.sse_retry_ms",
        (0, HOUR, Milliseconds),
        "1000",
        "How long clients should wait before they resume a stream (`retry:`).",
    ),
    integer(
        "limits.drain_linger_ms",
        (0, HOUR, Milliseconds),
        "500",
        "While draining, a connection without a request stays open for this long after its last one, in case the next one is on its way.",
    ),
    integer(
        "limits.drain_deadline_ms",
        (0, DAY, Milliseconds),
        "30000",
        "After SIGTERM or SIGINT: time for requests in flight to end.",
    ),
    other(
        "session.secret_file",
        Kind::Text,
        "",
        "File with the secret that signs session ids, 32 bytes or more; one line end behind it is ignored. Default: neither file nor variable; each start draws a random secret, and sessions do not outlive the process.",
    ),
    other(
        "session.secret_env",
        Kind::Text,
        "",
        "Name of the environment variable with that secret. Give this or `session.secret_file`, not both.",
    ),
    other(
        "catalog.pins_file",
        Kind::Text,
        "",
        "File with the approved definitions of tools, for upstreams with `pin = true`. The gateway writes it, so its directory must be writable. Default: beside the configuration file, with the extension `pins` in place of its own.",
    ),
    other(
        "embedded.enabled",
        Kind::Boolean,
        "",
        "Offers the built-in tools, resources and prompts. Default: true while there is no `[[upstream]]`, so that there is something to try; false as soon as there is one. `false` without any `[[upstream]]` is refused; `true` beside one makes it a further server, which routes may name as `embedded`.",
    ),
    integer(
        "embedded.page_entries",
        (1, 1_000, Count),
        "100",
        "Entries on one page of the built-in lists; clients follow `nextCursor` for the rest.",
    ),
    other(
        "log.format",
        Kind::Text,
        "\"auto\"",
        "`\"human\"`, `\"json\"` (one object per line), or `\"auto\"`: human where standard error is a terminal, JSON otherwise.",
    ),
    other(
        "log.level",
        Kind::Text,
        "\"info\"",
        "`\"error\"`, `\"warn\"`, `\"info\"`, `\"debug\"`, `\"trace\"` or `\"off\"`; or by module: `\"info,shardgate::control=debug\"`.",
    ),
];

/// The reference as Markdown: what `docs/configuration.md` holds.
pub fn render_reference() -> String {
    let mut page = String::from(REFERENCE_HEAD);
    for section in SECTIONS {
        page.push_str(&format!("\n## `{}`\n\n{}\n\n", section.header(), section.meaning));
        page.push_str("| key | default | value | meaning |\n|---|---|---|---|\n");
        for key in all().filter(|key| key.section() == section.name) {
            let default = match key.default {
                "" => "not set".to_owned(),
                text => format!("`{text}`"),
            };
            let value = key.kind.to_string().replace('|', "\\|");
            page.push_str(&format!(
                "| `{}` | {default} | {value} | {} |\n",
                key.name(),
                key.meaning
            ));
        }
    }
    page
}

const REFERENCE_HEAD: &str = "\
# Configuration

Shardgate runs without any configuration. What you want otherwise goes into one TOML file,
given by `shardgate serve --config shardgate.toml` (or `SHARDGATE_CONFIG`).
`shardgate check --config shardgate.toml` says whether it is sound and, where not, names line,
column and key. [shardgate.example.toml](shardgate.example.toml) is a file to begin with.

What wins, strongest first: command line, environment, file, default.

| flag of `serve` and `check` | variable | key |
|---|---|---|
| `--config` | `SHARDGATE_CONFIG` | |
| `--listen` | `SHARDGATE_LISTEN` (comma-separated) | `listen.address` |
| `--allow-host` | `SHARDGATE_ALLOW_HOST` (comma-separated) | `listen.allowed_hosts` |
| `--allow-origin` | `SHARDGATE_ALLOW_ORIGIN` (comma-separated) | `listen.allowed_origins` |
| `--admin` | `SHARDGATE_ADMIN` | `admin.address` |
| `--node` | `SHARDGATE_NODE` | `node.name` |
| `--shards` | `SHARDGATE_SHARDS` | `shards.count` |
| `--log` | `SHARDGATE_LOG` | `log.format` |
| `--log-level` | `SHARDGATE_LOG_LEVEL` | `log.level` |
| `--drain-deadline-ms` | `SHARDGATE_DRAIN_DEADLINE_MS` | `limits.drain_deadline_ms` |

Unknown keys are errors. Times are in milliseconds (`_ms`), sizes in bytes (`_bytes_max`).
This page is rendered from the table in `gateway/src/config/keys.rs`; a test holds them equal.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::upstream_table::STDIO_ONLY;
    use crate::config::{Config, Overrides};

    /// Every path of a configuration in which each key is set.
    fn paths_of(config: &Config) -> Vec<String> {
        let table = toml::Table::try_from(config).expect("a configuration is TOML");
        let mut paths = Vec::new();
        for (section, value) in &table {
            collect_paths(section, value, &mut paths);
        }
        paths.sort();
        paths.dedup();
        paths
    }

    fn collect_paths(path: &str, value: &toml::Value, paths: &mut Vec<String>) {
        if find(path).is_some() {
            return paths.push(path.to_owned());
        }
        match value {
            toml::Value::Table(keys) => {
                for (key, value) in keys {
                    collect_paths(&format!("{path}.{key}"), value, paths);
                }
            }
            toml::Value::Array(entries) if section(path).is_some() => {
                entries.iter().for_each(|entry| collect_paths(path, entry, paths));
            }
            toml::Value::Array(_)
            | toml::Value::String(_)
            | toml::Value::Integer(_)
            | toml::Value::Float(_)
            | toml::Value::Boolean(_)
            | toml::Value::Datetime(_) => paths.push(path.to_owned()),
        }
    }

    /// An upstream of each kind and a route, with all that is not set by default.
    const ENTRIES: &str = r#"
        [[upstream]]
        name = "crm"
        url = "https://h/"
        headers = { A = "a" }
        headers_from_env = { B = "B" }
        headers_from_file = { C = "c" }
        ca_file = "ca.pem"
        [[upstream]]
        name = "files"
        command = ["files"]
        env = { A = "a" }
        env_from = { B = "B" }
        directory = "/srv"
        [[route]]
        path = "/mcp/ops"
        upstreams = ["crm"]
        [session]
        secret_file = "x"
        [node]
        name = "gw-1"
        [cluster]
        name = "c"
        node_id = 1
        listen = "127.0.0.1:7946"
        advertise = "127.0.0.1:7946"
        data_dir = "data"
        join = false
        voters = [{ id = 1, name = "gw-1", address = "127.0.0.1:7946" }]
        tls = { ca = "ca.pem", certificate = "gw-1.pem", key = "gw-1-key.pem" }
    "#;

    #[test]
    fn the_table_and_the_fields_are_the_same_set() {
        let mut config = Config::parse("entries", ENTRIES, &Overrides::default())
            .unwrap_or_else(|error| panic!("{error}"));
        config.listen.allowed_hosts = Some(Vec::new());
        config.listen.allowed_origins = Some(Vec::new());
        config.admin.allowed_hosts = Some(Vec::new());
        config.session.secret_file = Some("x".into());
        config.session.secret_env = Some("x".to_owned());
        config.embedded.enabled = Some(true);
        config.catalog.pins_file = Some("x".into());
        let mut listed: Vec<String> = all().map(|key| key.path.to_owned()).collect();
        listed.sort();
        assert_eq!(listed, paths_of(&config));
        assert!(all().all(|key| section(key.section()).is_some()));
    }

    /// The least that may stand in a section.
    fn least(key: &Key) -> &'static str {
        match key.section() {
            "upstream" if STDIO_ONLY.contains(&key.name()) => "name = \"a\"\ncommand = [\"a\"]\n",
            "upstream" => "name = \"a\"\nurl = \"https://a/\"\n",
            "route" => "path = \"/mcp/a\"\n",
            "cluster" => {
                "name = \"c\"\nnode_id = 1\ndata_dir = \"d\"\njoin = true\n\
                 tls = { ca = \"a\", certificate = \"b\", key = \"c\" }\n"
            }
            _ => "",
        }
    }

    #[test]
    fn each_default_is_the_one_that_holds() {
        let parse = |text: &str| {
            Config::parse("default", text, &Overrides::default())
                .unwrap_or_else(|error| panic!("{text}: {error}"))
        };
        for key in all().filter(|key| !key.default.is_empty()) {
            let section = section(key.section()).expect("a section").header();
            let secret = match key.section() {
                "cluster" => "[session]\nsecret_env = \"S\"\n",
                _ => "",
            };
            let without = format!("{secret}{section}\n{}", least(key));
            let with = format!("{without}{} = {}\n", key.name(), key.default);
            assert_eq!(parse(&with), parse(&without), "{}", key.path);
        }
    }

    #[test]
    fn each_word_of_a_choice_is_understood() {
        for key in all() {
            let Kind::Choice(words) = key.kind else { continue };
            for word in words {
                let text =
                    format!("[[{}]]\n{}{} = {word:?}\n", key.section(), least(key), key.name());
                let config = Config::parse("choice", &text, &Overrides::default())
                    .unwrap_or_else(|error| panic!("{text}: {error}"));
                let written = toml::to_string(&config).expect("a configuration is TOML");
                assert!(written.contains(&format!("{} = {word:?}", key.name())), "{written}");
            }
        }
    }

    #[test]
    fn the_reference_page_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        if std::env::var_os("SHARDGATE_WRITE_REFERENCE").is_some() {
            std::fs::write(path, render_reference()).expect("the page is written");
        }
        let page = std::fs::read_to_string(path).expect("docs/configuration.md is there");
        assert!(
            page == render_reference(),
            "docs/configuration.md is stale: SHARDGATE_WRITE_REFERENCE=1 cargo test -p shardgate \
             the_reference_page writes it anew"
        );
    }
}
