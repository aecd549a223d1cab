//! What a configuration file may say, and how wrong ones are refused.

use super::*;

mod cluster;
mod entries;

use entries::{ENTRY_MISTAKES, UPSTREAMS};

fn problems(text: &str) -> String {
    match Config::parse("gw.toml", text, &Overrides::default()) {
        Ok(config) => panic!("this must be refused: {text:?} became {config:?}"),
        Err(error) => error.to_string(),
    }
}

fn accepted(text: &str, overrides: &Overrides) -> Config {
    Config::parse("gw.toml", text, overrides).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(accepted("", &Overrides::default()), Config::default());
}

#[test]
fn a_mistyped_key_is_marked_and_the_right_one_named() {
    let message = problems("# limits\n[limits]\n  mesage_bytes_max = 5\n");
    assert_eq!(
        message,
        "the configuration (gw.toml) has a problem:\n\n\
         gw.toml:3:3: limits.mesage_bytes_max: there is no such key; did you mean message_bytes_max?\n  \
         3 |   mesage_bytes_max = 5\n    |   ^^^^^^^^^^^^^^^^"
    );
}

#[test]
fn what_a_client_may_ask_for_is_no_less_than_what_it_gets_unasked() {
    let message = problems("[tasks]\nttl_ms_max = 5000\nttl_ms_default = 6000\n");
    assert!(message.contains("tasks.ttl_ms_max: 5000 is below tasks.ttl_ms_default"), "{message}");
    let message = problems("[tasks]\nmodern_tools = [\"a b\"]\n");
    assert!(message.contains("tasks.modern_tools"), "{message}");
}

#[test]
fn several_problems_come_at_once_in_the_order_of_the_file() {
    let text = "[limits]\nheartbeat_ms = 1\njson_depth_max = \"deep\"\n\n[lisen]\n[ring]\nbuffers = 3000\n";
    let message = problems(text);
    let starts: Vec<&str> = message.lines().filter(|line| line.starts_with("gw.toml:")).collect();
    assert_eq!(
        starts,
        [
            "gw.toml:2:16: limits.heartbeat_ms: is 1, but must be a whole number of milliseconds \
             from 100 to 3600000",
            "gw.toml:3:18: limits.json_depth_max: is the text \"deep\", but must be a whole number \
             from 8 to 128",
            "gw.toml:5:2: lisen: there is no such section; did you mean [listen]?",
            "gw.toml:7:11: ring.buffers: is 3000, but must be a whole number that is a power of \
             two, from 16 to 32768",
        ]
    );
}

/// A file, and what its message must hold.
const MISTAKES: &[(&str, &str)] = &[
    ("[limits\n", "gw.toml:1:"),
    ("[limits]\nheartbeat_ms =\n", "gw.toml:2:"),
    ("[log]\nlevel = \"info\"\nlevel = \"warn\"\n", "gw.toml:3:1: the text is no TOML here"),
    ("limits = 3\n", "gw.toml:1:10: limits: limits is a section"),
    (
        "heartbeat_ms = 5000\n",
        "gw.toml:1:1: heartbeat_ms: there is no such section; it belongs under [limits]",
    ),
    (
        "[node]\nheartbeat_ms = 5000\n",
        "gw.toml:2:1: node.heartbeat_ms: there is no such key here; it belongs under [limits]",
    ),
    (
        "[embedded]\nzzz = 1\n",
        "gw.toml:2:1: embedded.zzz: there is no such key; the keys of [embedded] are enabled, page_entries",
    ),
    ("[limits]\nsessions_max = -5\n", "gw.toml:2:16: limits.sessions_max: is -5, but must be"),
    (
        "[limits]\nsessions_max = 99999999999999999999999\n",
        "limits.sessions_max: is 99999999999999999999999",
    ),
    ("[limits]\nsessions_max = 1.5\n", "is the number 1.5"),
    (
        "[embedded]\nenabled = \"yes\"\n",
        "gw.toml:2:11: embedded.enabled: is the text \"yes\", but must be true or false",
    ),
    ("[node]\nname = \"Big Name\"\n", "gw.toml:2:8: node.name: \"Big Name\" is no node name"),
    (
        "[listen]\naddress = \"8080\"\n",
        "gw.toml:2:11: listen.address: \"8080\" is no address: write IP:PORT",
    ),
    (
        "[listen]\naddress = [\"127.0.0.1:1\", 5]\n",
        "listen.address: is a list with something else than texts",
    ),
    ("[listen]\naddress = [\"127.0.0.1:1\", \"x\"]\n", "listen.address: \"x\" is no address"),
    ("[listen]\naddress = []\n", "gw.toml:2:11: listen.address: 0 addresses are given"),
    ("[listen]\naddress = [\"127.0.0.1:1\", \"127.0.0.1:1\"]\n", "127.0.0.1:1 is given twice"),
    (
        "[listen]\naddress = \"0.0.0.0:8080\"\n",
        "listen.allowed_hosts: 0.0.0.0:8080 can be reached from other machines",
    ),
    ("[listen]\nallowed_hosts = []\n", "gw.toml:2:17: listen.allowed_hosts: the list is empty"),
    ("[listen]\nallowed_origins = [\"example.com\"]\n", "\"example.com\" is no origin"),
    ("[listen]\nallowed_origins = [\"http://a/b\"]\n", "\"http://a/b\" is no origin"),
    (
        "[admin]\naddress = \"127.0.0.1:8080\"\n",
        "gw.toml:2:11: admin.address: 127.0.0.1:8080 is also a listen address",
    ),
    ("[admin]\naddress = \"10.0.0.1:9090\"\n", "admin.allowed_hosts: 10.0.0.1:9090 can be reached"),
    (
        "[shards]\ncount = 0\n",
        "gw.toml:2:9: shards.count: 0 is no number of shards: use \"auto\" or 1 to 1024",
    ),
    ("[shards]\ncount = \"all\"\n", "gw.toml:2:9: shards.count: \"all\" is no number of shards"),
    (
        "[log]\nformat = \"xml\"\n",
        "gw.toml:2:10: log.format: \"xml\" is no log format: use \"auto\", \"human\" or \"json\"",
    ),
    (
        "[log]\nlevel = \"inof\"\n",
        "gw.toml:2:9: log.level: \"inof\" is no log level: use error, warn",
    ),
    (
        "[ring]\nsubmission_entries = 32768\n",
        "ring.completion_entries: 16384 is below ring.submission_entries = 32768",
    ),
    (
        "[limits]\nheartbeat_ms = 300000\n",
        "gw.toml:2:16: limits.heartbeat_ms: 300000 is not below limits.idle_connection_ms",
    ),
    (
        "[session]\nsecret_file = \"a\"\nsecret_env = \"B\"\n",
        "gw.toml:3:14: session.secret_env: session.secret_file is given as well",
    ),
];

#[test]
fn each_kind_of_mistake_gets_its_sentence() {
    for (text, expected) in MISTAKES.iter().chain(ENTRY_MISTAKES) {
        let message = problems(text);
        assert!(message.contains(expected), "{text:?} gave:\n{message}\ninstead of {expected:?}");
    }
}

#[test]
fn columns_are_characters_and_marks_follow_tabs() {
    let message = problems("[node]\n\tname = \"größe\" # ü\n");
    assert!(message.contains("gw.toml:2:9: node.name"), "{message}");
    assert!(message.ends_with("\n    | \t       ^^^^^^^"), "{message}");
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let text = "[listen]\naddress = [\"127.0.0.1:1\", \"[::1]:1\"]\n[node]\nname = \"filed\"\n\
                [log]\nlevel = \"warn\"\n[limits]\ndrain_deadline_ms = 5\n";
    let from_file = accepted(text, &Overrides::default());
    assert_eq!(from_file.listen.address.len(), 2);
    assert_eq!(from_file.node.name.as_str(), "filed");
    let overrides = Overrides {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 7))],
        node: "flagged".parse().ok(),
        drain_deadline_ms: Some(9),
        ..Overrides::default()
    };
    let merged = accepted(text, &overrides);
    assert_eq!(merged.listen.address, overrides.listen);
    assert_eq!(merged.node.name.as_str(), "flagged");
    assert_eq!(merged.limits.drain_deadline_ms, 9);
    assert_eq!(merged.log.level.as_str(), "warn");
    assert_eq!(merged.admin, Admin::default());
}

#[test]
fn listening_elsewhere_needs_names_which_a_flag_may_give() {
    let mut overrides =
        Overrides { listen: vec![SocketAddr::from(([0, 0, 0, 0], 8080))], ..Overrides::default() };
    let error = Config::load(None, &overrides).unwrap_err().to_string();
    assert!(error.starts_with("the configuration (command line) has a problem:"), "{error}");
    assert!(error.contains("--allow-host"), "{error}");
    overrides.allowed_hosts = vec!["gw.example.com".to_owned()];
    let config = Config::load(None, &overrides).expect("names are given");
    assert!(config.allowed_hosts().permits(b"gw.example.com:8080"));
    assert!(!config.allowed_hosts().permits(b"localhost:8080"));
    assert!(!config.allowed_origins().permits(b"http://localhost"), "no browser by default");
    assert!(Config::default().allowed_origins().permits(b"http://localhost:3000"));
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some(Path::new("no/such.toml")), &Overrides::default()).unwrap_err();
    assert_eq!(error.to_string(), "read configuration file no/such.toml");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn what_is_serialised_parses_to_the_same() {
    let mut config = Config::default();
    config.listen.allowed_hosts = Some(vec!["*".to_owned()]);
    config.shards.count = "3".parse().expect("a count");
    config.session.secret_file = Some("key".into());
    config.upstream = accepted(UPSTREAMS, &Overrides::default()).upstream;
    config.route = accepted(UPSTREAMS, &Overrides::default()).route;
    let text = toml::to_string(&config).expect("a configuration is TOML");
    assert_eq!(accepted(&text, &Overrides::default()), config);
}

#[test]
fn the_example_file_is_sound_and_shows_the_defaults() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/shardgate.example.toml");
    let example = std::fs::read_to_string(path).expect("the example is there");
    let as_it_is = accepted(&example, &Overrides::default());
    let mut expected = Config::default();
    expected.node.name = "gw-1".parse().expect("a name");
    assert_eq!(as_it_is, expected, "what is not commented out is the default, but for the name");
    // Keys are commented out by "#" without a space; prose has one.
    let all_on: String = example
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let all_on = accepted(&all_on, &Overrides::default());
    assert!(all_on.listen.allowed_hosts.is_some() && all_on.session.secret_file.is_some());
}
