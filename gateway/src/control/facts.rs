//! What is known of a node once it has started, for the banner, the ready line and the status.

use std::fs;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Facts that do not change while the node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's name.
    pub node: String,
    /// The program's version.
    pub version: &'static str,
    /// The addresses that are really bound, so with the real ports.
    pub listen: Vec<SocketAddr>,
    /// The same for the admin server.
    pub admin: SocketAddr,
    /// The cpu of each shard, in the order of the shards; `None` where it isn't pinned.
    pub shards: Vec<Option<u16>>,
    /// Where a client on this machine reaches `/mcp`: a wildcard address is replaced by loopback.
    pub client_url: String,
    /// Whether the built-in tools are offered.
    pub has_embedded: bool,
    /// The names of the tool servers that are used; empty if the built-in one is offered.
    pub upstreams: Vec<String>,
    /// What this machine allows: see [`host_limits`].
    pub host_limits: Vec<HostLimit>,
}

/// One limit that the machine sets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLimit {
    /// What is limited, such as `open files`.
    pub name: String,
    /// The value as the kernel writes it.
    pub value: String,
    /// What to do about it, if it is low.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl NodeFacts {
    /// Puts the facts together. `listen`, `admin` are the bound addresses, `shards` the cpu of each shard.
    pub fn new(
        config: &Config,
        listen: Vec<SocketAddr>,
        admin: SocketAddr,
        shards: Vec<Option<u16>>,
    ) -> NodeFacts {
        NodeFacts {
            node: config.node.name.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            client_url: client_url(config, &listen),
            listen,
            admin,
            shards,
            has_embedded: config.embedded_enabled(),
            upstreams: upstream_names(config),
            host_limits: host_limits(),
        }
    }

    /// The addresses, separated by commas.
    pub fn listen_text(&self) -> String {
        self.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// Facts of an invented node.
    #[cfg(test)]
    pub(crate) fn for_tests() -> NodeFacts {
        let mut config = Config::default();
        config.node.name = "gw-1".parse().expect("a name");
        let listen = ["127.0.0.1:8080", "[::1]:8080"].map(|text| text.parse().expect("an address"));
        let admin = config.admin.address;
        let mut facts = NodeFacts::new(&config, listen.to_vec(), admin, vec![Some(0), None]);
        facts.host_limits = vec![HostLimit {
            name: "open files".to_owned(),
            value: "1024 of 20000".to_owned(),
            advice: Some("raise it".to_owned()),
        }];
        facts
    }
}

fn upstream_names(config: &Config) -> Vec<String> {
    let enabled = config.upstream.iter().filter(|upstream| upstream.enabled);
    enabled.map(|upstream| upstream.name.as_str().to_owned()).collect()
}

/// A URL that works from this machine and passes the Host check.
fn client_url(config: &Config, listen: &[SocketAddr]) -> String {
    let Some(address) = listen.iter().find(|a| a.ip().is_loopback()).or(listen.first()) else {
        return "http://127.0.0.1:8080/mcp".to_owned();
    };
    let named = config.listen.allowed_hosts.as_ref().and_then(|names| names.first());
    let authority = match named.map(String::as_str) {
        Some("*") | None if address.ip().is_unspecified() => {
            format!("127.0.0.1:{}", address.port())
        }
        Some("*") | None => address.to_string(),
        Some(name) if has_port(name) => name.to_owned(),
        Some(name) => format!("{name}:{}", address.port()),
    };
    format!("http://{authority}/mcp")
}

fn has_port(name: &str) -> bool {
    name.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

/// Fewer descriptors than this are told as low.
const OPEN_FILES_LOW: u64 = 4_096;
/// A shorter accept queue than this is told as low.
const ACCEPT_QUEUE_LOW: u64 = 4_096;

/// What this machine allows this process. What can't be read is left out.
pub fn host_limits() -> Vec<HostLimit> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let limits = read("/proc/self/limits").unwrap_or_default();
    let status = read("/proc/self/status").unwrap_or_default();
    [
        rlimit(&limits, "Max open files", "open files", Some(OPEN_FILES_LOW)),
        rlimit(&limits, "Max locked memory", "locked memory (bytes)", None),
        read("/proc/sys/net/core/somaxconn").map(|text| accept_queue(text.trim())),
        read("/proc/sys/kernel/io_uring_disabled").map(|text| io_uring(text.trim())),
        status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .map(|cpus| limit("cpus", cpus.trim(), None)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn limit(name: &str, value: &str, advice: Option<&str>) -> HostLimit {
    let advice = advice.map(str::to_owned);
    HostLimit { name: name.to_owned(), value: value.to_owned(), advice }
}

/// Reads a line of proc(5)'s `limits`: name, soft limit, hard limit, unit.
fn rlimit(limits: &str, line_name: &str, name: &str, low: Option<u64>) -> Option<HostLimit> {
    let line = limits.lines().find_map(|line| line.strip_prefix(line_name))?;
    let mut columns = line.split_ascii_whitespace();
    let (soft, hard) = (columns.next()?, columns.next()?);
    let is_low = low.zip(soft.parse().ok()).is_some_and(|(low, soft): (u64, u64)| soft < low);
    let advice = is_low.then_some("low for a gateway: raise it (LimitNOFILE=, ulimit -n)");
    let value = if soft == hard { soft.to_owned() } else { format!("{soft} of {hard}") };
    Some(limit(name, &value, advice))
}

fn accept_queue(value: &str) -> HostLimit {
    let is_low = value.parse::<u64>().is_ok_and(|queue| queue < ACCEPT_QUEUE_LOW);
    let advice = "bursts of new connections may be refused: sysctl net.core.somaxconn=65535";
    limit("accept queue", value, is_low.then_some(advice))
}

fn io_uring(value: &str) -> HostLimit {
    match value {
        "0" => limit("io_uring", "allowed", None),
        "1" => limit(
            "io_uring",
            "allowed to some",
            Some("needs CAP_SYS_ADMIN or the group of kernel.io_uring_group"),
        ),
        _ => limit("io_uring", "disabled", Some("sysctl kernel.io_uring_disabled=0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_url_passes_the_host_check() {
        let cases: [(&str, Option<&str>, &str); 5] = [
            ("127.0.0.1:8080", None, "http://127.0.0.1:8080/mcp"),
            ("[::1]:8080", None, "http://[::1]:8080/mcp"),
            ("0.0.0.0:8080", Some("*"), "http://127.0.0.1:8080/mcp"),
            ("10.0.0.1:80", Some("gw.example.com"), "http://gw.example.com:80/mcp"),
            ("0.0.0.0:80", Some("gw.example.com:8443"), "http://gw.example.com:8443/mcp"),
        ];
        for (address, name, url) in cases {
            let mut config = Config::default();
            config.listen.allowed_hosts = name.map(|name| vec![name.to_owned()]);
            let listen: Vec<SocketAddr> = vec![address.parse().expect("an address")];
            assert_eq!(client_url(&config, &listen), url);
            let host = url.trim_start_matches("http://").trim_end_matches("/mcp");
            assert!(config.allowed_hosts().permits(host.as_bytes()), "{url}");
        }
    }

    #[test]
    fn limits_are_read_and_low_ones_told() {
        let text =
            "Max open files            1024                 20000                files     \n";
        let files = rlimit(text, "Max open files", "open files", Some(4_096)).expect("a line");
        assert_eq!(files.value, "1024 of 20000");
        assert!(files.advice.is_some());
        assert!(rlimit(text, "Max locked memory", "locked memory", None).is_none());
        assert!(accept_queue("128").advice.is_some() && accept_queue("4096").advice.is_none());
        assert_eq!(io_uring("2").value, "disabled");
        assert!(host_limits().iter().any(|limit| limit.name == "open files"));
    }
}
