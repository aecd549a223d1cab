//! What `[[upstream]]` and `[[route]]` may say, and how wrong ones are refused.

use shardgate_proto::catalog::Filter;

use super::*;

/// Sound entries of every sort.
pub(super) const UPSTREAMS: &str = r#"
[[upstream]]
name = "files"
command = ["npx", "-y", "server", "/srv"]
env = { KEY = "s3cret" }
env_from = { TOKEN = "FILES_TOKEN" }
directory = "/srv"
prefix = "never"

[[upstream]]
name = "crm"
url = "https://crm.example.com/mcp?key=s3cret"
transport = "http-sse"
headers = { X-Team = "s3cret" }
headers_from_env = { Authorization = "CRM_TOKEN" }
headers_from_file = { X-Key = "/etc/shardgate/crm.key" }
protocol = "legacy"
modern_sessions = "call"
connections_max = 7
enabled = false

[upstream.tools]
deny = ["*delete*"]

[[upstream]]
name = "clock"
command = ["clock"]
sharing = "shared"

[[route]]
path = "/mcp/ops"
upstreams = ["crm", "files"]
tools = { allow = ["crm__*"] }
"#;

/// A file, and what its message must hold.
pub(super) const ENTRY_MISTAKES: &[(&str, &str)] = &[
    (
        "[upstream]\nname = \"a\"\n",
        "gw.toml:1:1: upstream: there may be many of these: write [[upstream]]",
    ),
    ("upstream = 3\n", "gw.toml:1:12: upstream: upstream is a section: write [[upstream]]"),
    ("upstream = [3]\n", "upstream: each upstream is a section: write [[upstream]]"),
    ("[[limits]]\nheartbeat_ms = 5000\n", "limits: limits stands once: write [limits]"),
    (
        "[[upstreams]]\nname = \"a\"\n",
        "gw.toml:1:3: upstreams: there is no such section; did you mean [[upstream]]?",
    ),
    (
        "[[upstream]]\nname = \"a\"\n",
        "gw.toml:1:1: upstream[1] (a): neither command nor url is given",
    ),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"http://h/\"\ncommand = [\"x\"]\n",
        "gw.toml:3:7: upstream[1].url (a): command is given as well",
    ),
    (
        "[[upstream]]\nurl = \"http://h/\"\n",
        "gw.toml:1:1: upstream[1].name: an upstream needs a name",
    ),
    ("[[upstream]]\nname = \"A b\"\nurl = \"http://h/\"\n", "\"A b\" is no name of an upstream"),
    ("[[upstream]]\nname = \"embedded\"\nurl = \"http://h/\"\n", "the name of the built-in server"),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"http://h/\"\n[[upstream]]\nname = \"b\"\nulr = \"x\"\n",
        "gw.toml:6:1: upstream[2].ulr (b): there is no such key; did you mean url?",
    ),
    (
        "[[upstream]]\nname = \"a\"\nheartbeat_ms = 5\n",
        "upstream[1].heartbeat_ms (a): there is no such key here; it belongs under [limits]",
    ),
    (
        "[[upstream]]\nname = \"a\"\ntools = { alow = [] }\n",
        "gw.toml:3:11: upstream[1].tools.alow (a): there is no such key; did you mean tools.allow?",
    ),
    (
        "[[upstream]]\nname = \"a\"\ntools = [\"x\"]\n",
        "upstream[1].tools (a): is a list, but must be a table",
    ),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"ftp://h/\"\n",
        "gw.toml:3:7: upstream[1].url (a): must begin with http:// or https://",
    ),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"http://u:p@h/\"\n",
        "upstream[1].url (a): has a user or password",
    ),
    ("[[upstream]]\nname = \"a\"\nurl = \"http://h/#x\"\n", "upstream[1].url (a): has a fragment"),
    (
        "[[upstream]]\nname = \"a\"\ncommand = [\"x\"]\nheaders = { A = \"b\" }\n",
        "gw.toml:4:11: upstream[1].headers (a): goes with url, but this upstream has command",
    ),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"http://h/\"\nsharing = \"shared\"\n",
        "gw.toml:4:11: upstream[1].sharing (a): goes with command, but this upstream has url",
    ),
    (
        "[[upstream]]\nname = \"a\"\ncommand = [\"x\"]\nsharing = \"shared\"\nchildren_max = 2\n",
        "gw.toml:5:16: upstream[1].children_max (a): is for sharing = \"session\"",
    ),
    (
        "[[upstream]]\nname = \"a\"\ncommand = []\n",
        "gw.toml:3:11: upstream[1].command (a): must begin with",
    ),
    ("[[upstream]]\nname = \"a\"\ncommand = [\"\"]\n", "upstream[1].command (a): must begin with"),
    ("[[upstream]]\nname = \"a\"\ncommand = \"x y\"\n", "must be a list of texts"),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"http://h/\"\nheaders = { host = \"b\" }\n",
        "gw.toml:4:20: upstream[1].headers.host (a): host is written by the gateway itself",
    ),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"http://h/\"\nheaders = { A = \"b\" }\nheaders_from_env = { a = \"B\" }\n",
        "gw.toml:5:26: upstream[1].headers_from_env.a (a): is given twice",
    ),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"http://h/\"\nheaders_from_env = { A = \"$B=\" }\n",
        "upstream[1].headers_from_env.A (a): \"$B=\" is no name of an environment variable",
    ),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"http://h/\"\nheaders = { A = \"b\\nc\" }\n",
        "gw.toml:4:17: upstream[1].headers.A (a): has a line end",
    ),
    (
        "[[upstream]]\nname = \"a\"\ncommand = [\"x\"]\nenv = { A = \"\\u0000\" }\n",
        "gw.toml:4:13: upstream[1].env.A (a): has a NUL",
    ),
    (
        "[[upstream]]\nname = \"a\"\ncommand = [\"x\"]\nenv = { A = \"b\" }\nenv_from = { A = \"B\" }\n",
        "upstream[1].env_from.A (a): is given in env as well",
    ),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"http://h/\"\ntransport = \"sse\"\n",
        "must be \"auto\", \"streamable-http\" or \"http-sse\"",
    ),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"http://h/\"\nprotocol = \"modren\"\n",
        "must be \"auto\", \"legacy\" or \"modern\"; did you mean \"modern\"?",
    ),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"http://h/\"\nprotocol = \"modern\"\ntransport = \"http-sse\"\n",
        "gw.toml:5:13: upstream[1].transport (a): \"http-sse\" is a transport of 2024-11-05",
    ),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"http://h/\"\nca_file = \"x\"\n",
        "gw.toml:4:11: upstream[1].ca_file (a): is for https",
    ),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"http://h/\"\nrequest_timeout_ms = 4000000\n",
        "gw.toml:4:22: upstream[1].request_timeout_ms (a): request_lifetime_ms = 3600000 is below",
    ),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"http://h/\"\ntools = { deny = [\"[x]\"] }\n",
        "gw.toml:4:18: upstream[1].tools.deny (a): the pattern \"[x]\" has '[' in it",
    ),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"http://h/\"\ntools = { allow = [] }\n",
        "upstream[1].tools.allow (a): the list is empty",
    ),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"http://h/\"\nconnections_max = 0\n",
        "upstream[1].connections_max (a): is 0, but must be a whole number from 1",
    ),
    (
        "[[upstream]]\nname = \"a\"\nurl = \"http://h/\"\n[[upstream]]\nname = \"a\"\nurl = \"http://i/\"\n",
        "gw.toml:5:8: upstream[2].name (a): another upstream is called \"a\" too",
    ),
    ("[[route]]\nupstreams = [\"embedded\"]\n", "gw.toml:1:1: route[1].path: a route needs a path"),
    (
        "[[route]]\npath = \"/mcp\"\n",
        "gw.toml:2:8: route[1].path (/mcp): \"/mcp\" is no path of a route",
    ),
    ("[[route]]\npath = \"/mcp/a/b\"\n", "is no path of a route"),
    (
        "[[route]]\npath = \"/mcp/a\"\n[[route]]\npath = \"/mcp/a\"\n",
        "gw.toml:4:8: route[2].path (/mcp/a): another route has the path",
    ),
    (
        "[[route]]\npath = \"/mcp/a\"\nupstreams = []\n",
        "route[1].upstreams (/mcp/a): the list is empty",
    ),
    (
        "[[upstream]]\nname = \"crm\"\nurl = \"http://h/\"\n[[route]]\npath = \"/mcp/a\"\nupstreams = [\"cmr\"]\n",
        "gw.toml:6:13: route[1].upstreams (/mcp/a): there is no upstream called \"cmr\"; did you mean crm?",
    ),
    (
        "[[upstream]]\nname = \"crm\"\nurl = \"http://h/\"\n[[route]]\npath = \"/mcp/a\"\nupstreams = [\"embedded\"]\n",
        "embedded is named, but it is off; set embedded.enabled = true",
    ),
    (
        "[embedded]\nenabled = false\n",
        "gw.toml:2:11: embedded.enabled: false leaves nothing to serve",
    ),
];

#[test]
fn entries_become_what_they_say() {
    let config = accepted(UPSTREAMS, &Overrides::default());
    let [files, crm, clock] = config.upstream.as_slice() else { panic!("three upstreams") };
    let UpstreamKind::Stdio(child) = &files.kind else { panic!("files is a child") };
    assert_eq!((child.program.as_str(), child.arguments.len()), ("npx", 3));
    assert_eq!((child.sharing, child.children_max), (Sharing::Session, 64));
    let token = ("TOKEN".to_owned(), ValueSource::Variable("FILES_TOKEN".to_owned()));
    assert!(child.env.len() == 2 && child.env.contains(&token));
    assert_eq!((files.prefix, files.enabled), (Prefix::Never, true));
    let UpstreamKind::Http(http) = &crm.kind else { panic!("crm is a URL") };
    assert_eq!((http.url.host(), http.url.port()), ("crm.example.com", 443));
    assert_eq!((http.headers.len(), http.connections_max), (3, 7));
    assert_eq!((crm.protocol, crm.enabled), (UpstreamProtocol::Legacy, false));
    assert_eq!(crm.modern_sessions, ModernSessions::Call);
    assert!(permits(&crm.tools, "list") && !permits(&crm.tools, "delete_all"));
    let UpstreamKind::Stdio(shared) = &clock.kind else { panic!("clock is a child") };
    assert_eq!(shared.children_max, 1);
    let route = &config.route[0];
    assert_eq!((route.path.as_str(), route.path.name()), ("/mcp/ops", "ops"));
    assert_eq!(route.upstreams.as_ref().map(Vec::len), Some(2));
    assert!(permits(&route.tools, "crm__list") && !permits(&route.tools, "list"));
}

#[test]
fn the_embedded_server_steps_back_for_upstreams_unless_asked_for() {
    assert!(Config::default().embedded_enabled());
    assert!(!accepted(UPSTREAMS, &Overrides::default()).embedded_enabled());
    let both = format!("{UPSTREAMS}\n[embedded]\nenabled = true\n");
    assert!(accepted(&both, &Overrides::default()).embedded_enabled());
    let route = "[[route]]\npath = \"/mcp/a\"\nupstreams = [\"embedded\"]\n";
    assert_eq!(accepted(route, &Overrides::default()).route.len(), 1);
}

#[test]
fn what_may_be_secret_is_never_shown() {
    let config = accepted(UPSTREAMS, &Overrides::default());
    assert!(!format!("{config:?}").contains("s3cret"), "{config:?}");
    let printed = toml::to_string(&config.for_print()).expect("a configuration is TOML");
    assert!(!printed.contains("s3cret") && printed.contains("FILES_TOKEN"), "{printed}");
    accepted(&printed, &Overrides::default());
}

/// Mistakes on lines with a secret, of every way to find them.
const SECRET_MISTAKES: &[&str] = &[
    "headers = { A = \"s3cret\" \n",
    "headers = { A = \"s3cret\n",
    "headers = \"s3cret\"\n",
    "headers = { A = \"s3cret\", B = 5 }\n",
    "headers = { A = \"s3cret\\n\" }\n",
    "headers = { Host = \"s3cret\" }\n",
    "haeders = { A = \"s3cret\" }\n",
    "env = { A = \"s3cret\" }\n",
    "url = \"http://s3cret@h/\"\n",
    "url = \"http://h/ s3cret\"\n",
    "url = [\"http://s3cret@h/\"]\n",
    "command = [\"x\", \"s3cret\\u0000\"]\n",
    "tools = { allwo = [\"s3cret\"] }\n",
    "headers = { A = \"\"\"\ns3cret\nx\"\"\" }\n",
];

#[test]
fn problems_do_not_quote_secrets() {
    for line in SECRET_MISTAKES {
        let url = if line.starts_with("url") { "" } else { "url = \"http://h/\"\n" };
        let message = problems(&format!("[[upstream]]\nname = \"a\"\n{url}{line}"));
        assert!(!message.contains("s3cret"), "{line}: {message}");
        let secret_in_unknown_section = problems(&format!("[[upstraem]]\n{line}"));
        assert!(!secret_in_unknown_section.contains("s3cret"), "{secret_in_unknown_section}");
    }
}

/// What the catalog makes of a filter.
fn permits(filter: &NameFilter, name: &str) -> bool {
    Filter::new(&filter.allow, &filter.deny).passes(&[name])
}
