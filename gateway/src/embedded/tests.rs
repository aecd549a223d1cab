//! Tests of the whole server, as the session layer drives it.

use std::collections::BTreeSet;

use shardgate_proto::clock::Millis;
use shardgate_proto::mcp::version::{Era, ProtocolVersion};
use shardgate_proto::upstream::{
    AskKey, Call, CallKey, Caller, Event, Events, Outcome, RouteId, SessionKey, Target, Upstream,
};
use simd_json::OwnedValue;
use simd_json::prelude::*;

use super::{Embedded, EmbeddedConfig, PAGE_ENTRIES, tools};

mod flows;

const FULL: &str = r#"{"sampling":{},"elicitation":{},"roots":{}}"#;
const LEGACY: ProtocolVersion = ProtocolVersion::V2025_11_25;
const MODERN: ProtocolVersion = ProtocolVersion::V2026_07_28;
const SESSION: SessionKey = SessionKey(7);

/// One shard's server, the time, and what came out since it was last looked at.
struct Bench {
    server: Embedded,
    now: Millis,
    events: Events,
    calls: u64,
}

fn parse(bytes: &[u8]) -> OwnedValue {
    simd_json::to_owned_value(&mut bytes.to_vec())
        .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(bytes)))
}

impl Bench {
    fn new() -> Bench {
        Bench::on_shard(0)
    }

    fn on_shard(shard: u16) -> Bench {
        let config = EmbeddedConfig {
            seal_key: [9; 16],
            start_unix_ms: 1_000_000,
            shard,
            page_entries: PAGE_ENTRIES,
            tasks: None,
        };
        let server = Embedded::new(config);
        Bench { server, now: Millis(0), events: Events::new(), calls: 0 }
    }

    /// With one legacy session that declares everything.
    fn legacy(version: ProtocolVersion) -> Bench {
        let mut bench = Bench::new();
        bench.server.open_session(SESSION, RouteId::WHOLE, version, FULL.as_bytes());
        bench
    }

    fn send(&mut self, version: ProtocolVersion, method: &str, params: &str) -> CallKey {
        self.calls += 1;
        let key = CallKey(self.calls);
        let name = super::scan::member(params.as_bytes(), "name").and_then(super::scan::unescape);
        let caller = match version.era() {
            Era::Legacy => Caller::Session(SESSION),
            Era::Modern => Caller::Stateless,
        };
        let id = format!("\"id-{}\"", self.calls);
        let call = Call {
            key,
            caller,
            route: RouteId::WHOLE,
            version,
            id: id.as_bytes(),
            method,
            params: (!params.is_empty()).then_some(params.as_bytes()),
            name: name.as_deref(),
        };
        self.server.handle_call(&call, self.now, &mut self.events);
        key
    }

    /// Lets time pass until nothing wants to go on.
    fn run(&mut self) {
        while let Some(due) = self.server.poll_timeout() {
            assert!(due >= self.now, "a due call was left behind");
            self.now = due;
            self.server.handle_timeout(due, &mut self.events);
        }
    }

    fn answer_of(&self, call: CallKey) -> Option<(i32, OwnedValue)> {
        let mut answers = self.events.list().iter().filter_map(|event| {
            let Event::Answer { call: answered, outcome, body } = event else { return None };
            let code = match outcome {
                Outcome::Result => 0,
                Outcome::Error(code) => *code,
            };
            (*answered == call).then(|| (code, parse(self.events.bytes(body))))
        });
        let answer = answers.next();
        assert!(answers.next().is_none(), "{call:?} was answered twice");
        answer
    }

    /// Sends, lets time pass and returns the error code (or zero) and the body.
    fn ask(&mut self, version: ProtocolVersion, method: &str, params: &str) -> (i32, OwnedValue) {
        let call = self.send(version, method, params);
        self.run();
        self.answer_of(call).expect("an answer")
    }

    fn result(&mut self, version: ProtocolVersion, method: &str, params: &str) -> OwnedValue {
        let (code, body) = self.ask(version, method, params);
        assert_eq!(code, 0, "{method} {params}: {}", body.encode());
        body
    }

    /// Calls a tool as a modern client with these capabilities.
    fn modern(&mut self, name: &str, rest: &str, capabilities: &str) -> (i32, OwnedValue) {
        self.ask(
            MODERN,
            "tools/call",
            &modern_params(&format!(r#""name":"{name}"{rest}"#), capabilities),
        )
    }

    fn messages(&self, wanted: Target) -> Vec<OwnedValue> {
        let seen = self.events.list().iter().filter_map(|event| {
            let Event::Notify { target, message } = event else { return None };
            (*target == wanted).then(|| parse(self.events.bytes(message)))
        });
        seen.collect()
    }

    fn asks(&self) -> Vec<(AskKey, String, String)> {
        let text = |range| String::from_utf8_lossy(self.events.bytes(range)).into_owned();
        let seen = self.events.list().iter().filter_map(|event| {
            let Event::Ask { ask, session, method, params, .. } = event else { return None };
            assert_eq!(*session, SESSION);
            Some((*ask, text(method), text(params)))
        });
        seen.collect()
    }

    fn reply(&mut self, ask: AskKey, body: &str) {
        let body = body.as_bytes();
        self.server.handle_reply(ask, Outcome::Result, body, self.now, &mut self.events);
    }
}

fn modern_params(members: &str, capabilities: &str) -> String {
    let comma = if members.is_empty() { "" } else { "," };
    format!(
        r#"{{{members}{comma}"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{capabilities}}}}}"#
    )
}

fn params_of(version: ProtocolVersion, members: &str) -> String {
    match version.era() {
        Era::Legacy => format!("{{{members}}}"),
        Era::Modern => modern_params(members, FULL),
    }
}

fn first_text(result: &OwnedValue) -> String {
    result["content"][0].get_str("text").expect("a text").to_owned()
}

#[test]
fn echo_returns_the_message_as_it_came() {
    for version in ProtocolVersion::ALL {
        let mut bench = Bench::legacy(version);
        for message in ["", "hello", r#"a\"b\\c\n\u00e9\ud83d\ude00"#, r#"}{][,"#] {
            let members = format!(r#""name":"echo","arguments":{{"x":[1],"message":"{message}"}}"#);
            let result = bench.result(version, "tools/call", &params_of(version, &members));
            assert_eq!(result["content"][0]["text"], parse(format!("\"{message}\"").as_bytes()));
            assert_eq!(result.get("resultType").is_some(), version == MODERN);
        }
    }
}

#[test]
fn wrong_arguments_are_named() {
    for members in [
        r#""name":"echo""#,
        r#""name":"echo","arguments":{"message":7}"#,
        r#""name":"add","arguments":{"a":1,"b":"2"}"#,
        r#""name":"sleep","arguments":{"ms":3600001}"#,
        r#""name":"sleep","arguments":{"ms":-1}"#,
        r#""name":"json_schema_2020_12_tool","arguments":{"phone":"1"}"#,
        r#""name":"json_schema_2020_12_tool","arguments":{"email":"a@b","other":1}"#,
    ] {
        let mut bench = Bench::legacy(ProtocolVersion::V2025_06_18);
        let old = params_of(ProtocolVersion::V2025_06_18, members);
        let (code, error) = bench.ask(ProtocolVersion::V2025_06_18, "tools/call", &old);
        assert_eq!(code, -32602, "{members}");
        assert!(error.get_str("message").is_some_and(|why| why.contains("params.arguments.")));
        let result = bench.result(MODERN, "tools/call", &params_of(MODERN, members));
        assert_eq!(result["isError"], true, "{members}");
    }
    let mut bench = Bench::legacy(LEGACY);
    for params in
        [r#"{"name":"echo","arguments":[]}"#, r#"{"arguments":{}}"#, r#"{"name":"nobody"}"#]
    {
        assert_eq!(bench.ask(LEGACY, "tools/call", params).0, -32602, "{params}");
    }
}

#[test]
fn add_keeps_integers_whole() {
    let mut bench = Bench::legacy(LEGACY);
    for (a, b, sum) in
        [("1", "2", "3"), ("0.5", "1", "1.5"), ("9007199254740993", "1", "9007199254740994")]
    {
        let params = format!(r#"{{"name":"add","arguments":{{"a":{a},"b":{b}}}}}"#);
        let result = bench.result(LEGACY, "tools/call", &params);
        assert_eq!(first_text(&result), sum);
        assert_eq!(result["structuredContent"]["sum"], parse(sum.as_bytes()));
    }
    let params = r#"{"name":"add","arguments":{"a":1e308,"b":1e308}}"#;
    assert_eq!(bench.result(LEGACY, "tools/call", params)["isError"], true);
    let mut old = Bench::legacy(ProtocolVersion::V2025_03_26);
    let params = r#"{"name":"add","arguments":{"a":1,"b":1}}"#;
    let result = old.result(ProtocolVersion::V2025_03_26, "tools/call", params);
    assert!(result.get("structuredContent").is_none());
}

#[test]
fn every_listed_tool_answers_in_every_revision() {
    for version in ProtocolVersion::ALL {
        let mut bench = Bench::legacy(version);
        let list = bench.result(version, "tools/list", &params_of(version, ""));
        let listed: Vec<String> = list["tools"]
            .as_array()
            .expect("tools")
            .iter()
            .map(|tool| tool.get_str("name").expect("a name").to_owned())
            .collect();
        assert_eq!(listed[0], "test_simple_text");
        let known = tools::TOOLS.iter().filter(|spec| spec.is_known_in(version)).count();
        assert_eq!(listed.len(), known);
        let arguments = r#"{"message":"m","a":1,"b":2,"ms":5,"prompt":"p","region":"r","name":"n","seconds":1,"filename":"f","email":"e"}"#;
        for name in listed {
            let arguments =
                if name == "json_schema_2020_12_tool" { r#"{"email":"e"}"# } else { arguments };
            let members = format!(r#""name":"{name}","arguments":{arguments}"#);
            let call = bench.send(version, "tools/call", &params_of(version, &members));
            bench.run();
            for (ask, method, _) in bench.asks() {
                assert_eq!(version.era(), Era::Legacy);
                bench.reply(ask, good_reply(&method));
            }
            for (ask, method, _) in bench.asks() {
                bench.reply(ask, good_reply(&method));
            }
            let (code, body) = bench.answer_of(call).unwrap_or_else(|| panic!("{name} {version}"));
            let refused = matches!(name.as_str(), "failing_job" | "protocol_error_job");
            assert_eq!(code != 0, refused, "{name} {version}: {}", body.encode());
            bench.events.clear();
        }
        assert_eq!(bench.server.calls_in_flight(), 0);
        assert_eq!(bench.server.poll_timeout(), None);
    }
}

fn good_reply(method: &str) -> &'static str {
    match method {
        "sampling/createMessage" => {
            r#"{"role":"assistant","model":"m","content":{"type":"text","text":"Paris"}}"#
        }
        "roots/list" => r#"{"roots":[{"uri":"file:///r"}]}"#,
        _ => {
            r#"{"action":"accept","content":{"name":"Ann","username":"ann","email":"a@b","ok":true,"color":"red","context":"c"}}"#
        }
    }
}

#[test]
fn lists_show_only_what_a_revision_knows() {
    let members = |version: ProtocolVersion| {
        let mut bench = Bench::legacy(version);
        let list = bench.result(version, "tools/list", &params_of(version, ""));
        let tools = list["tools"].as_array().expect("tools").clone();
        let keys: BTreeSet<String> = tools
            .iter()
            .flat_map(|tool| tool.as_object().expect("a tool").keys().cloned())
            .collect();
        keys.into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(members(ProtocolVersion::V2024_11_05), "description inputSchema name");
    assert_eq!(members(ProtocolVersion::V2025_03_26), "annotations description inputSchema name");
    let june = "annotations description inputSchema name outputSchema title";
    assert_eq!(members(ProtocolVersion::V2025_06_18), june);
    let now = "annotations description icons inputSchema name outputSchema title";
    assert_eq!(members(LEGACY), now);
    assert_eq!(members(MODERN), now);
}

#[test]
fn unknown_methods_and_those_of_the_other_era_are_refused() {
    let mut bench = Bench::legacy(LEGACY);
    for method in ["unknown/method", "subscriptions/listen", "tasks/get", "tasks/list"] {
        assert_eq!(bench.ask(LEGACY, method, "{}").0, -32601, "{method}");
    }
    for method in [
        "unknown/method",
        "logging/setLevel",
        "resources/subscribe",
        "resources/unsubscribe",
        "tasks/list",
        "tasks/result",
    ] {
        assert_eq!(bench.ask(MODERN, method, &modern_params("", FULL)).0, -32601, "{method}");
    }
}

#[test]
fn resources_are_read_or_not_found() {
    for version in ProtocolVersion::ALL {
        let mut bench = Bench::legacy(version);
        for uri in ["test://static-text", "test://static-binary", "test://template/123/data"] {
            let params = params_of(version, &format!(r#""uri":"{uri}""#));
            let result = bench.result(version, "resources/read", &params);
            assert_eq!(result["contents"][0]["uri"], uri);
            assert_eq!(result.get("ttlMs").is_some(), version == MODERN);
        }
        let params = params_of(version, r#""uri":"test://nothing""#);
        let (code, error) = bench.ask(version, "resources/read", &params);
        assert_eq!(code, if version == MODERN { -32602 } else { -32002 });
        assert_eq!(error["data"]["uri"], "test://nothing");
        assert_eq!(bench.ask(version, "resources/read", &params_of(version, "")).0, -32602);
    }
}

#[test]
fn prompts_and_completion_in_every_revision() {
    for version in ProtocolVersion::ALL {
        let mut bench = Bench::legacy(version);
        for (members, text) in [
            (r#""name":"test_simple_prompt""#, "This is a simple prompt"),
            (
                r#""name":"test_prompt_with_arguments","arguments":{"arg1":"x","arg2":"y"}"#,
                "arg1='x', arg2='y'",
            ),
            (
                r#""name":"test_prompt_with_embedded_resource","arguments":{"resourceUri":"test://e"}"#,
                "test://e",
            ),
            (r#""name":"test_prompt_with_image""#, "image/png"),
        ] {
            let result = bench.result(version, "prompts/get", &params_of(version, members));
            assert!(result["messages"].encode().contains(text), "{members}");
        }
        for members in [
            r#""name":"nobody""#,
            r#""name":"test_prompt_with_arguments","arguments":{"arg1":"x"}"#,
        ] {
            assert_eq!(bench.ask(version, "prompts/get", &params_of(version, members)).0, -32602);
        }
        let members = r#""ref":{"type":"ref/prompt","name":"test_prompt_with_arguments"},"argument":{"name":"arg1","value":"par"}"#;
        let result = bench.result(version, "completion/complete", &params_of(version, members));
        assert_eq!(result["completion"]["values"].encode(), r#"["paris","park","party"]"#);
        let wrong = r#""ref":{"type":"ref/other"},"argument":{"name":"arg1","value":"par"}"#;
        assert_eq!(bench.ask(version, "completion/complete", &params_of(version, wrong)).0, -32602);
    }
}
