//! What a person sees when the gateway has started: where it is, what it found, what to try.
//!
//! The text carries ANSI styles; whoever prints it strips them where there is no terminal.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use crate::control::{HostLimit, NodeFacts};

const HEAD: Style = Style::new().bold();
const NAME: Style = Style::new().dimmed();
const TRY: Style = AnsiColor::Cyan.on_default();
const WARN: Style = AnsiColor::Yellow.on_default();

/// The whole banner, ended by a line end.
pub fn banner(facts: &NodeFacts) -> String {
    let mut text = format!("\n{HEAD}Shardgate {}{HEAD:#} is ready\n\n", facts.version);
    let admin = facts.admin;
    let rows = [
        ("listen", facts.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        ("admin", format!("http://{admin}/ (page), /metrics, /api/v1/status")),
        ("node", facts.node.clone()),
        ("shards", shards_text(&facts.shards)),
    ];
    for (name, value) in rows {
        row(&mut text, name, &value);
    }
    row(&mut text, "servers", &servers_text(facts));
    for (index, limit) in facts.host_limits.iter().enumerate() {
        row(&mut text, if index == 0 { "limits" } else { "" }, &limit_text(limit));
    }
    let _ = write!(text, "\n{HEAD}Three things to try{HEAD:#}\n");
    for (what, command) in three_things(facts) {
        let _ = write!(text, "\n  {what}\n");
        for line in command.lines() {
            let _ = writeln!(text, "    {TRY}{line}{TRY:#}");
        }
    }
    text.push('\n');
    text
}

fn row(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {NAME}{name:<7}{NAME:#} {value}");
}

fn shards_text(cpus: &[Option<u16>]) -> String {
    let list: Vec<String> =
        cpus.iter().map(|cpu| cpu.map_or("any".to_owned(), |cpu| cpu.to_string())).collect();
    match list.len() {
        1 => format!("1, on cpu {}", list[0]),
        count => format!("{count}, on cpus {}", list.join(", ")),
    }
}

/// More tool servers than this are not named.
const NAMES_MAX: usize = 8;

fn servers_text(facts: &NodeFacts) -> String {
    let names = &facts.upstreams;
    match names.len() {
        0 => "the built-in one".to_owned(),
        count if count > NAMES_MAX => {
            let rest = count - NAMES_MAX;
            format!("{} and {rest} more (`shardgate upstreams`)", names[..NAMES_MAX].join(", "))
        }
        _ => names.join(", "),
    }
}

fn limit_text(limit: &HostLimit) -> String {
    match &limit.advice {
        Some(advice) => {
            format!("{}: {WARN}{}{WARN:#} ({advice})", limit.name, limit.value)
        }
        None => format!("{}: {}", limit.name, limit.value),
    }
}

/// What, and the command or text to copy.
fn three_things(facts: &NodeFacts) -> [(&'static str, String); 3] {
    let url = &facts.client_url;
    let first = if facts.has_embedded {
        ("Call a built-in tool:", curl_echo(url))
    } else {
        ("Ask what it offers:", curl_discover(url))
    };
    [
        first,
        (
            "List the tools with the MCP inspector:",
            format!(
                "npx @modelcontextprotocol/inspector --cli {url} --transport http --method tools/list"
            ),
        ),
        (
            "Give it to a client (mcp.json and the like):",
            format!(
                r#"{{ "mcpServers": {{ "shardgate": {{ "type": "http", "url": "{url}" }} }} }}"#
            ),
        ),
    ]
}

// MCP 2026-07-28 is stateless, so one request needs no session before it. Its headers
// must repeat what the body says (transports: MCP-Protocol-Version, Mcp-Method, Mcp-Name).
const CURL_HEADERS: &str = "-H 'Content-Type: application/json' \
    -H 'Accept: application/json, text/event-stream' \\\n  \
    -H 'MCP-Protocol-Version: 2026-07-28'";

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

fn curl_echo(url: &str) -> String {
    format!(
        "curl -s {url} {CURL_HEADERS} -H 'Mcp-Method: tools/call' -H 'Mcp-Name: echo' \\\n  \
         -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{{\"name\":\"echo\",\
         \"arguments\":{{\"message\":\"hello\"}},{META}}}}}'"
    )
}

fn curl_discover(url: &str) -> String {
    format!(
        "curl -s {url} {CURL_HEADERS} -H 'Mcp-Method: server/discover' \\\n  \
         -d '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"server/discover\",\"params\":{{{META}}}}}'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(facts: &NodeFacts) -> String {
        anstream::adapter::strip_str(&banner(facts)).to_string()
    }

    /// The JSON between the quotes behind `-d`.
    fn body_of(text: &str) -> serde_json::Value {
        let start = text.find("-d '").expect("a body") + 4;
        let end = start + text[start..].find('\'').expect("its end");
        serde_json::from_str(&text[start..end]).expect("the body is JSON")
    }

    #[test]
    fn it_tells_where_and_what_to_try() {
        let text = plain(&NodeFacts::for_tests());
        for part in [
            "127.0.0.1:8080, [::1]:8080",
            "http://127.0.0.1:9090/",
            "gw-1",
            "2, on cpus 0, any",
            "open files: 1024 of 20000 (raise it)",
            "inspector --cli http://127.0.0.1:8080/mcp",
            "\"url\": \"http://127.0.0.1:8080/mcp\"",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }

    #[test]
    fn it_names_the_tool_servers() {
        let mut facts = NodeFacts::for_tests();
        assert!(plain(&facts).contains("servers the built-in one"));
        facts.upstreams = vec!["crm".to_owned(), "erp".to_owned()];
        assert!(plain(&facts).contains("servers crm, erp\n"));
        facts.upstreams = (0..10).map(|number| format!("s{number}")).collect();
        assert!(plain(&facts).contains("s6, s7 and 2 more"));
    }

    #[test]
    fn the_curl_lines_send_sound_modern_requests() {
        let mut facts = NodeFacts::for_tests();
        let call = body_of(&plain(&facts));
        assert_eq!(call["method"], "tools/call");
        assert_eq!(call["params"]["arguments"]["message"], "hello");
        let version = "io.modelcontextprotocol/protocolVersion";
        assert_eq!(call["params"]["_meta"][version], "2026-07-28");
        facts.has_embedded = false;
        let discover = body_of(&plain(&facts));
        assert_eq!(discover["method"], "server/discover");
        assert_eq!(discover["params"]["_meta"][version], "2026-07-28");
    }
}
