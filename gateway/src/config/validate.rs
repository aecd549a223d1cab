//! What must hold between values: each alone may be in range and still contradict another.

use super::fault::KeyPath;
use super::file::nearest;
use super::{
    Config, LISTENERS_MAX, NameFilter, PATTERNS_MAX, ROUTES_MAX, UPSTREAMS_MAX, UpstreamName,
};

type Found = Vec<(KeyPath, String)>;

/// Key and sentence for each contradiction, in the order of the reference.
pub(super) fn contradictions(config: &Config) -> Found {
    let mut found = Vec::new();
    listeners(config, &mut found);
    admin(config, &mut found);
    limits(config, &mut found);
    session(config, &mut found);
    upstreams(config, &mut found);
    routes(config, &mut found);
    embedded(config, &mut found);
    tasks(config, &mut found);
    cluster(config, &mut found);
    found
}

fn listeners(config: &Config, found: &mut Found) {
    let addresses = &config.listen.address;
    if addresses.is_empty() || addresses.len() > LISTENERS_MAX {
        let count = addresses.len();
        found.push((
            "listen.address".into(),
            format!("{count} addresses are given, but it must be 1 to {LISTENERS_MAX}"),
        ));
    }
    for (index, address) in addresses.iter().enumerate() {
        // Port 0 is a different free port each time, so it may repeat.
        if address.port() != 0 && addresses[..index].contains(address) {
            found.push(("listen.address".into(), format!("{address} is given twice; remove one")));
        }
    }
    let outside = addresses.iter().find(|address| !address.ip().is_loopback());
    if let (Some(address), None) = (outside, &config.listen.allowed_hosts) {
        found.push((
            "listen.allowed_hosts".into(),
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
            "listen.allowed_hosts".into(),
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
                "listen.allowed_origins".into(),
                format!(
                    "{origin:?} is no origin: write scheme and host without a path, such as \
                     \"https://app.example.com\", or \"*\""
                ),
            ));
        }
    }
}

fn admin(config: &Config, found: &mut Found) {
    let address = config.admin.address;
    if address.port() != 0 && config.listen.address.contains(&address) {
        found.push((
            "admin.address".into(),
            format!("{address} is also a listen address; give the admin server its own port"),
        ));
    }
    if !address.ip().is_loopback() && config.admin.allowed_hosts.is_none() {
        found.push((
            "admin.allowed_hosts".into(),
            format!(
                "{address} can be reached from other machines, so say by which names the admin \
                 server is called, such as allowed_hosts = [\"{}\"]; [\"*\"] accepts every name",
                address.ip()
            ),
        ));
    }
    if config.admin.allowed_hosts.as_ref().is_some_and(Vec::is_empty) {
        found.push((
            "admin.allowed_hosts".into(),
            "the list is empty, so every request would be refused; name at least one host"
                .to_owned(),
        ));
    }
}

fn limits(config: &Config, found: &mut Found) {
    let (limits, ring) = (&config.limits, &config.ring);
    if ring.completion_entries < ring.submission_entries {
        found.push((
            "ring.completion_entries".into(),
            format!(
                "{} is below ring.submission_entries = {}; completions would overflow",
                ring.completion_entries, ring.submission_entries
            ),
        ));
    }
    if limits.heartbeat_ms >= limits.idle_connection_ms {
        found.push((
            "limits.heartbeat_ms".into(),
            format!(
                "{} is not below limits.idle_connection_ms = {}: a stream's connection would \
                 count as idle between two heartbeats",
                limits.heartbeat_ms, limits.idle_connection_ms
            ),
        ));
    }
}

fn upstreams(config: &Config, found: &mut Found) {
    let upstreams = &config.upstream;
    for (index, upstream) in upstreams.iter().enumerate() {
        let name = upstream.name.as_str();
        let at = |key: &str| KeyPath::of_entry("upstream", index, Some(name), vec![key.to_owned()]);
        if upstreams[..index].iter().any(|earlier| earlier.name == upstream.name) {
            found
                .push((at("name"), format!("another upstream is called {name:?} too; rename one")));
        }
        if index == UPSTREAMS_MAX {
            let sentence =
                format!("{} upstreams are given, but at most {UPSTREAMS_MAX}", upstreams.len());
            found.push((at("name"), sentence));
        }
    }
}

fn routes(config: &Config, found: &mut Found) {
    let routes = &config.route;
    for (index, route) in routes.iter().enumerate() {
        let path = route.path.as_str();
        let at = |key: &str| KeyPath::of_entry("route", index, Some(path), vec![key.to_owned()]);
        if routes[..index].iter().any(|earlier| earlier.path == route.path) {
            found
                .push((at("path"), format!("another route has the path {path:?} too; change one")));
        }
        if index == ROUTES_MAX {
            let sentence = format!("{} routes are given, but at most {ROUTES_MAX}", routes.len());
            found.push((at("path"), sentence));
        }
        // The embedded server alone has no catalog that could be cut to measure.
        if config.upstream.is_empty() && route.tools != NameFilter::default() {
            let sentence = "patterns choose among the tools of upstreams, and there is no \
                            [[upstream]]; remove them, or add one";
            found.push((at("tools"), sentence.to_owned()));
        }
        for name in route.upstreams.iter().flatten() {
            if let Err(sentence) = resolve(config, name) {
                found.push((at("upstreams"), sentence));
            }
        }
    }
}

/// A route may name what is configured, enabled or not, and the embedded server if it is on.
fn resolve(config: &Config, name: &UpstreamName) -> Result<(), String> {
    if name.as_str() == UpstreamName::EMBEDDED {
        return match config.embedded_enabled() {
            true => Ok(()),
            false => {
                Err("embedded is named, but it is off; set embedded.enabled = true".to_owned())
            }
        };
    }
    let known = || config.upstream.iter().map(|upstream| upstream.name.as_str());
    if known().any(|other| other == name.as_str()) {
        return Ok(());
    }
    let hint = match nearest(name.as_str(), known()) {
        Some(near) => format!("did you mean {near}?"),
        None if config.upstream.is_empty() => "there is no [[upstream]]".to_owned(),
        None => format!("there are {}", known().collect::<Vec<_>>().join(", ")),
    };
    Err(format!("there is no upstream called {:?}; {hint}", name.as_str()))
}

/// A gateway with nothing behind it would answer every call with an error.
fn embedded(config: &Config, found: &mut Found) {
    if !config.embedded_enabled() && config.upstream.is_empty() {
        found.push((
            "embedded.enabled".into(),
            "false leaves nothing to serve: there is no [[upstream]]".to_owned(),
        ));
    }
}

fn tasks(config: &Config, found: &mut Found) {
    let tasks = &config.tasks;
    if tasks.ttl_ms_max < tasks.ttl_ms_default {
        found.push((
            "tasks.ttl_ms_max".into(),
            format!(
                "{} is below tasks.ttl_ms_default = {}: a client that asks for no time would be \
                 given more than one may ask for",
                tasks.ttl_ms_max, tasks.ttl_ms_default
            ),
        ));
    }
    for (key, patterns) in [
        ("tasks.modern_tools", &tasks.modern_tools),
        ("tasks.modern_tools_after_input", &tasks.modern_tools_after_input),
        ("tasks.required_tools", &tasks.required_tools),
    ] {
        if patterns.len() > PATTERNS_MAX {
            let count = patterns.len();
            found.push((
                key.into(),
                format!("{count} patterns are given, but at most {PATTERNS_MAX}"),
            ));
        }
    }
}

fn cluster(config: &Config, found: &mut Found) {
    let Some(cluster) = &config.cluster else { return };
    let contradictions = cluster.contradictions(config.node.name.as_str());
    found.extend(contradictions.into_iter().map(|(key, sentence)| (key.into(), sentence)));
    let listens = || config.listen.address.iter().chain([&config.admin.address]);
    if cluster.listen.port() != 0 && listens().any(|address| *address == cluster.listen) {
        let sentence = format!(
            "{} is also a listen or admin address; give the other nodes a port of their own",
            cluster.listen
        );
        found.push(("cluster.listen".into(), sentence));
    }
    if config.session.secret_file.is_none() && config.session.secret_env.is_none() {
        let sentence = "the nodes of a cluster need one and the same session secret: draw it once, \
                        as with `openssl rand -hex 32`, give every node a copy, and name it by \
                        session.secret_file or session.secret_env";
        found.push(("session.secret_file".into(), sentence.to_owned()));
    }
}

fn session(config: &Config, found: &mut Found) {
    if config.session.secret_file.is_some() && config.session.secret_env.is_some() {
        found.push((
            "session.secret_env".into(),
            "session.secret_file is given as well; keep one of the two".to_owned(),
        ));
    }
}
