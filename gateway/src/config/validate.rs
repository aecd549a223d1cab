//! What must hold between values: each alone may be in range and still contradict another.

use super::{Config, LISTENERS_MAX};

/// Key and sentence for each contradiction, in the order of the reference.
pub(super) fn contradictions(config: &Config) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    listeners(config, &mut found);
    admin(config, &mut found);
    limits(config, &mut found);
    session(config, &mut found);
    embedded(config, &mut found);
    found
}

fn listeners(config: &Config, found: &mut Vec<(&'static str, String)>) {
    let addresses = &config.listen.address;
    if addresses.is_empty() || addresses.len() > LISTENERS_MAX {
        let count = addresses.len();
        found.push((
            "listen.address",
            format!("{count} addresses are given, but it must be 1 to {LISTENERS_MAX}"),
        ));
    }
    for (index, address) in addresses.iter().enumerate() {
        // Port 0 is a different free port each time, so it may repeat.
        if address.port() != 0 && addresses[..index].contains(address) {
            found.push(("listen.address", format!("{address} is given twice; remove one")));
        }
    }
    let outside = addresses.iter().find(|address| !address.ip().is_loopback());
    if let (Some(address), None) = (outside, &config.listen.allowed_hosts) {
        found.push((
            "listen.allowed_hosts",
            format!(
                "{address} can be reached from other machines, so say by which names clients call \
                 this gateway, such as allowed_hosts = [\"mcp.example.com\", \"{}\"] \
                 (--allow-host); [\"*\"] accepts every name and gives up the protection against \
                 DNS rebinding",
                address.ip()
            ),
        ));
    }
    if config.listen.allowed_hosts.as_ref().is_some_and(Vec::is_empty) {
        found.push((
            "listen.allowed_hosts",
            "the list is empty, so every request would be refused; name at least one host"
                .to_owned(),
        ));
    }
    for origin in config.listen.allowed_origins.iter().flatten() {
        let is_origin = origin.split_once("://").is_some_and(|(scheme, rest)| {
            !scheme.is_empty() && !rest.is_empty() && !rest.contains('/')
        });
        if origin != "*" && !is_origin {
            found.push((
                "listen.allowed_origins",
                format!(
                    "{origin:?} is no origin: write scheme and host without a path, such as \
                     \"https://app.example.com\", or \"*\""
                ),
            ));
        }
    }
}

fn admin(config: &Config, found: &mut Vec<(&'static str, String)>) {
    let address = config.admin.address;
    if address.port() != 0 && config.listen.address.contains(&address) {
        found.push((
            "admin.address",
            format!("{address} is also a listen address; give the admin server its own port"),
        ));
    }
    if !address.ip().is_loopback() && config.admin.allowed_hosts.is_none() {
        found.push((
            "admin.allowed_hosts",
            format!(
                "{address} can be reached from other machines, so say by which names the admin \
                 server is called, such as allowed_hosts = [\"{}\"]; [\"*\"] accepts every name",
                address.ip()
            ),
        ));
    }
    if config.admin.allowed_hosts.as_ref().is_some_and(Vec::is_empty) {
        found.push((
            "admin.allowed_hosts",
            "the list is empty, so every request would be refused; name at least one host"
                .to_owned(),
        ));
    }
}

fn limits(config: &Config, found: &mut Vec<(&'static str, String)>) {
    let (limits, ring) = (&config.limits, &config.ring);
    if ring.completion_entries < ring.submission_entries {
        found.push((
            "ring.completion_entries",
            format!(
                "{} is below ring.submission_entries = {}; completions would overflow",
                ring.completion_entries, ring.submission_entries
            ),
        ));
    }
    if limits.heartbeat_ms >= limits.idle_connection_ms {
        found.push((
            "limits.heartbeat_ms",
            format!(
                "{} is not below limits.idle_connection_ms = {}: a stream's connection would \
                 count as idle between two heartbeats",
                limits.heartbeat_ms, limits.idle_connection_ms
            ),
        ));
    }
}

/// A gateway with nothing behind it would answer every call with an error.
fn embedded(config: &Config, found: &mut Vec<(&'static str, String)>) {
    if !config.embedded.enabled {
        found.push((
            "embedded.enabled",
            "false leaves nothing to serve: this version knows no other upstream".to_owned(),
        ));
    }
}

fn session(config: &Config, found: &mut Vec<(&'static str, String)>) {
    if config.session.secret_file.is_some() && config.session.secret_env.is_some() {
        found.push((
            "session.secret_env",
            "session.secret_file is given as well; keep one of the two".to_owned(),
        ));
    }
}
