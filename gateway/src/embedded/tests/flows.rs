//! What takes more than one step: time, dialogues, subscriptions, tasks, siblings.

use super::*;
use crate::embedded::input_required::STATE_TTL_MS;

const TASKS: &str = r#"{"extensions":{"io.modelcontextprotocol/tasks":{}},"elicitation":{}}"#;

#[test]
fn sleep_answers_when_its_time_has_come() {
    let mut bench = Bench::legacy(LEGACY);
    let call = bench.send(LEGACY, "tools/call", r#"{"name":"sleep","arguments":{"ms":250}}"#);
    assert_eq!(bench.server.poll_timeout(), Some(Millis(250)));
    bench.server.handle_timeout(Millis(249), &mut bench.events);
    assert!(bench.events.is_empty());
    bench.server.handle_timeout(Millis(250), &mut bench.events);
    let (code, body) = bench.answer_of(call).expect("an answer");
    assert_eq!((code, first_text(&body).as_str()), (0, "Slept for 250 ms."));
    assert_eq!(bench.server.poll_timeout(), None);
}

#[test]
fn a_cancelled_call_is_never_answered() {
    let mut bench = Bench::legacy(LEGACY);
    let slept = bench.send(LEGACY, "tools/call", r#"{"name":"sleep","arguments":{"ms":250}}"#);
    let asked =
        bench.send(LEGACY, "tools/call", r#"{"name":"test_sampling","arguments":{"prompt":"?"}}"#);
    let (ask, _, _) = bench.asks().remove(0);
    for call in [slept, asked] {
        bench.server.cancel(call, bench.now, &mut bench.events);
    }
    assert_eq!((bench.server.poll_timeout(), bench.server.calls_in_flight()), (None, 0));
    bench.events.clear();
    bench.reply(ask, good_reply("sampling/createMessage"));
    bench.server.handle_timeout(Millis(1_000), &mut bench.events);
    assert!(bench.events.is_empty());
}

#[test]
fn progress_is_reported_only_to_whom_gave_a_token() {
    for (meta, reports) in [("", 0), (r#","_meta":{"progressToken":"t-1"}"#, 3)] {
        let mut bench = Bench::legacy(LEGACY);
        let params = format!(r#"{{"name":"test_tool_with_progress"{meta}}}"#);
        let call = bench.send(LEGACY, "tools/call", &params);
        bench.run();
        let seen = bench.messages(Target::Call(call));
        let progress: Vec<_> =
            seen.iter().map(|seen| seen["params"]["progress"].encode()).collect();
        assert_eq!(progress.len(), reports);
        assert!(reports == 0 || progress == ["0", "50", "100"]);
        assert!(seen.iter().all(|seen| seen["params"]["progressToken"] == "t-1"));
        assert_eq!(bench.now, Millis(100));
        assert!(matches!(bench.events.list().last(), Some(Event::Answer { .. })));
    }
}

#[test]
fn long_running_reports_every_step() {
    let mut bench = Bench::legacy(LEGACY);
    let params = r#"{"name":"long_running","arguments":{"duration_ms":90,"steps":3},"_meta":{"progressToken":5}}"#;
    let call = bench.send(LEGACY, "tools/call", params);
    bench.run();
    assert_eq!(bench.messages(Target::Call(call)).len(), 4);
    assert_eq!(bench.now, Millis(90));
}

#[test]
fn log_messages_follow_the_wanted_level() {
    for (level, messages) in [("debug", 3), ("info", 3), ("notice", 0), ("emergency", 0)] {
        let mut bench = Bench::legacy(LEGACY);
        let set = bench.result(LEGACY, "logging/setLevel", &format!(r#"{{"level":"{level}"}}"#));
        assert_eq!(set.encode(), "{}");
        let call = bench.send(LEGACY, "tools/call", r#"{"name":"test_tool_with_logging"}"#);
        bench.run();
        assert_eq!(bench.messages(Target::Call(call)).len(), messages, "{level}");
    }
    let mut bench = Bench::legacy(LEGACY);
    assert_eq!(bench.ask(LEGACY, "logging/setLevel", r#"{"level":"loud"}"#).0, -32602);
}

#[test]
fn modern_clients_get_log_messages_only_on_request() {
    for (meta, messages) in [("", 0), (r#""io.modelcontextprotocol/logLevel":"debug","#, 3)] {
        let mut bench = Bench::new();
        let params = modern_params(r#""name":"test_logging_tool""#, "{}");
        let params = params.replace(r#""_meta":{"#, &format!(r#""_meta":{{{meta}"#));
        let call = bench.send(MODERN, "tools/call", &params);
        bench.run();
        assert_eq!(bench.messages(Target::Call(call)).len(), messages);
    }
}

#[test]
fn reconnection_lets_go_of_the_stream_before_the_result() {
    let mut bench = Bench::legacy(LEGACY);
    let call = bench.send(LEGACY, "tools/call", r#"{"name":"test_reconnection"}"#);
    assert!(
        matches!(bench.events.list(), [Event::CloseStream { call: closed, .. }] if *closed == call)
    );
    bench.run();
    assert!(bench.answer_of(call).is_some());
}

#[test]
fn a_client_without_the_capability_is_told_so() {
    let mut bench = Bench::new();
    bench.server.open_session(SESSION, RouteId::WHOLE, LEGACY, b"{}");
    let result = bench.result(LEGACY, "tools/call", r#"{"name":"test_missing_capability"}"#);
    assert_eq!(result["isError"], true);
    assert!(first_text(&result).contains("sampling"));
    let prompt = r#"{"name":"test_input_required_result_prompt"}"#;
    assert_eq!(bench.ask(LEGACY, "prompts/get", prompt).0, -32600);
    let (code, error) = bench.modern("test_missing_capability", "", "{}");
    assert_eq!(code, -32021);
    assert_eq!(error["data"]["requiredCapabilities"].encode(), r#"{"sampling":{}}"#);
}

#[test]
fn a_legacy_dialogue_of_two_rounds() {
    let mut bench = Bench::legacy(LEGACY);
    let params = r#"{"name":"test_input_required_result_multi_round"}"#;
    let call = bench.send(LEGACY, "tools/call", params);
    let (first, method, params) = bench.asks().remove(0);
    assert_eq!(method, "elicitation/create");
    assert!(params.contains("Step 1"));
    bench.reply(first, r#"{"action":"accept","content":{"name":"Ann"}}"#);
    let (second, _, params) = bench.asks().remove(1);
    assert!(params.contains("Step 2") && bench.answer_of(call).is_none());
    bench.reply(second, r#"{"action":"accept","content":{"color":"red"}}"#);
    let (_, body) = bench.answer_of(call).expect("an answer");
    assert_eq!(first_text(&body), "Ann likes red.");
}

#[test]
fn replies_of_one_round_may_come_in_any_order() {
    let mut bench = Bench::legacy(LEGACY);
    let params = r#"{"name":"test_input_required_result_multiple_inputs"}"#;
    let call = bench.send(LEGACY, "tools/call", params);
    let mut asks = bench.asks();
    assert_eq!(asks.len(), 3);
    asks.reverse();
    for (ask, method, _) in asks {
        assert!(bench.answer_of(call).is_none());
        bench.reply(ask, good_reply(&method));
    }
    let (_, body) = bench.answer_of(call).expect("an answer");
    assert!(first_text(&body).ends_with("; Paris; roots: file:///r"));
}

#[test]
fn a_refusing_or_rambling_client_makes_a_tool_error() {
    for (outcome, body) in [
        (Outcome::Error(-1), r#"{"code":-1,"message":"User rejected"}"#),
        (Outcome::Result, r#"{"role":"assistant"}"#),
        (Outcome::Result, "7"),
    ] {
        let mut bench = Bench::legacy(LEGACY);
        let params = r#"{"name":"test_input_required_result_sampling"}"#;
        let call = bench.send(LEGACY, "tools/call", params);
        let (ask, _, _) = bench.asks().remove(0);
        bench.server.handle_reply(ask, outcome, body.as_bytes(), bench.now, &mut bench.events);
        assert_eq!(bench.answer_of(call).expect("an answer").1["isError"], true);
        assert_eq!(bench.server.calls_in_flight(), 0);
    }
}

fn retry(name: &str, responses: &str, state: Option<&str>) -> String {
    let state = state.map(|state| format!(r#","requestState":"{state}""#)).unwrap_or_default();
    modern_params(&format!(r#""name":"{name}","inputResponses":{responses}{state}"#), FULL)
}

#[test]
fn a_modern_dialogue_goes_on_at_any_shard() {
    let name = "test_input_required_result_multi_round";
    let (_, first) = Bench::on_shard(0).modern(name, "", FULL);
    assert_eq!(first["resultType"], "input_required");
    let state = first.get_str("requestState").expect("a state");
    let step = r#"{"step1":{"action":"accept","content":{"name":"Ann"}}}"#;
    let second = Bench::on_shard(1).result(MODERN, "tools/call", &retry(name, step, Some(state)));
    assert_eq!(second["resultType"], "input_required");
    let next = second.get_str("requestState").expect("a state");
    assert_ne!(next, state);
    let step = r#"{"step2":{"action":"accept","content":{"color":"red"}}}"#;
    let third = Bench::on_shard(2).result(MODERN, "tools/call", &retry(name, step, Some(next)));
    assert_eq!(first_text(&third), "Ann likes red.");
}

#[test]
fn states_are_for_one_tool_its_arguments_and_a_while() {
    let name = "test_input_required_result_tampered_state";
    let mut bench = Bench::new();
    let (_, first) = bench.modern(name, "", FULL);
    let state = first.get_str("requestState").expect("a state").to_owned();
    let yes = r#"{"confirm":{"action":"accept","content":{"ok":true}}}"#;
    let mut code =
        |name: &str, state: &str| bench.ask(MODERN, "tools/call", &retry(name, yes, Some(state))).0;
    assert_eq!(code(name, &state), 0);
    assert_eq!(code(name, &format!("{state}-TAMPERED")), -32602);
    assert_eq!(code("test_input_required_result_request_state", &state), -32602);
    bench.now = Millis(STATE_TTL_MS + 1);
    assert_eq!(bench.ask(MODERN, "tools/call", &retry(name, yes, Some(&state))).0, -32602);
    // Without the state the questions are asked again.
    let again = bench.result(MODERN, "tools/call", &retry(name, yes, None));
    assert_eq!(again["resultType"], "input_required");
}

#[test]
fn input_responses_are_checked_and_extra_ones_ignored() {
    let name = "test_input_required_result_elicitation";
    let mut bench = Bench::new();
    for (responses, code, kind) in [
        ("null", -32602, ""),
        (r#"{"user_name":12345}"#, -32602, ""),
        (r#"{"wrong_key":{"action":"accept"}}"#, 0, "input_required"),
        (r#"{"other":1,"user_name":{"action":"accept","content":{"name":"Ann"}}}"#, 0, "complete"),
    ] {
        let (got, body) = bench.ask(MODERN, "tools/call", &retry(name, responses, None));
        assert_eq!(got, code, "{responses}");
        assert!(code != 0 || body["resultType"] == kind, "{responses}");
    }
}

#[test]
fn only_declared_capabilities_are_asked_for() {
    let mut bench = Bench::new();
    let name = "test_input_required_result_capabilities";
    let (_, body) = bench.modern(name, "", r#"{"sampling":{}}"#);
    let keys: Vec<_> = body["inputRequests"].as_object().expect("requests").keys().collect();
    assert_eq!(keys, ["greeting"]);
    let (_, body) = bench.modern(name, "", "{}");
    assert_eq!(body["resultType"], "complete");
}

#[test]
fn listeners_get_what_they_asked_for_under_their_id() {
    let mut bench = Bench::new();
    let filter = r#""notifications":{"toolsListChanged":true,"promptsListChanged":false,"resourceSubscriptions":["test://watched-resource","test://nothing"]}"#;
    let listen = bench.send(MODERN, "subscriptions/listen", &modern_params(filter, "{}"));
    let acknowledged = bench.messages(Target::Call(listen)).remove(0);
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(
        acknowledged["params"]["notifications"].encode(),
        r#"{"toolsListChanged":true,"resourceSubscriptions":["test://watched-resource"]}"#
    );
    bench.events.clear();
    for name in [
        "test_trigger_tool_change",
        "test_trigger_prompt_change",
        "test_trigger_resource_change",
        "test_trigger_resource_update",
    ] {
        assert_eq!(bench.modern(name, "", "{}").0, 0);
    }
    let heard = bench.messages(Target::Call(listen));
    let methods: Vec<_> =
        heard.iter().map(|heard| heard.get_str("method").expect("a method")).collect();
    assert_eq!(methods, ["notifications/tools/list_changed", "notifications/resources/updated"]);
    for message in &heard {
        assert_eq!(message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "id-1");
    }
    bench.events.clear();
    bench.server.end_standing_calls(&mut bench.events);
    let (_, end) = bench.answer_of(listen).expect("a final result");
    assert_eq!(end["_meta"]["io.modelcontextprotocol/subscriptionId"], "id-1");
    for wrong in [
        "",
        r#""notifications":[]"#,
        r#""notifications":{"toolsListChanged":1}"#,
        r#""notifications":{"resourceSubscriptions":[1]}"#,
    ] {
        assert_eq!(
            bench.ask(MODERN, "subscriptions/listen", &modern_params(wrong, "{}")).0,
            -32602
        );
    }
}

#[test]
fn a_cancelled_listener_hears_nothing_more() {
    let mut bench = Bench::new();
    let filter = modern_params(r#""notifications":{"toolsListChanged":true}"#, "{}");
    let listen = bench.send(MODERN, "subscriptions/listen", &filter);
    bench.server.cancel(listen, bench.now, &mut bench.events);
    bench.events.clear();
    assert_eq!(bench.modern("test_trigger_tool_change", "", "{}").0, 0);
    assert!(bench.messages(Target::Call(listen)).is_empty());
}

#[test]
fn legacy_sessions_hear_of_lists_and_of_what_they_subscribed_to() {
    let mut bench = Bench::legacy(LEGACY);
    let watched = r#"{"uri":"test://watched-resource"}"#;
    assert_eq!(bench.ask(LEGACY, "resources/subscribe", r#"{"uri":"test://nothing"}"#).0, -32002);
    let update =
        r#"{"name":"test_trigger_resource_update","arguments":{"times":2,"interval_ms":10}}"#;
    for (method, updates) in [("", 0), ("resources/subscribe", 2), ("resources/unsubscribe", 0)] {
        if !method.is_empty() {
            assert_eq!(bench.result(LEGACY, method, watched).encode(), "{}");
        }
        bench.events.clear();
        bench.result(LEGACY, "tools/call", update);
        assert_eq!(bench.messages(Target::Session(SESSION)).len(), updates, "after {method}");
    }
    let read = bench.result(LEGACY, "resources/read", watched);
    assert_eq!(read["contents"][0]["text"], "Updated 6 times.");
    bench.result(LEGACY, "resources/subscribe", watched);
    bench.server.close_session(SESSION, bench.now, &mut bench.events);
    bench.events.clear();
    assert_eq!(bench.modern("test_trigger_resource_update", "", "{}").0, 0);
    assert!(bench.messages(Target::Session(SESSION)).is_empty());
}

#[test]
fn changeable_entries_come_and_go() {
    for (trigger, list, member, entry) in [
        ("test_trigger_tool_change", "tools/list", "tools", "test_changeable_tool"),
        ("test_trigger_prompt_change", "prompts/list", "prompts", "test_changeable_prompt"),
        ("test_trigger_resource_change", "resources/list", "resources", "changeable-resource"),
    ] {
        let mut bench = Bench::legacy(LEGACY);
        for expected in [true, false] {
            bench.events.clear();
            bench.result(LEGACY, "tools/call", &format!(r#"{{"name":"{trigger}"}}"#));
            assert_eq!(bench.messages(Target::Session(SESSION)).len(), 1);
            let listed = bench.result(LEGACY, list, "{}")[member]
                .encode()
                .contains(&format!(r#""{entry}""#));
            assert_eq!(listed, expected, "{entry}");
        }
    }
}

/// Carries the siblings' messages between two instances until none is left.
fn exchange(left: &mut Bench, right: &mut Bench) {
    loop {
        let mut moved = false;
        for (from, to) in [(true, false), (false, true)] {
            let (from, to) = match (from, to) {
                (true, _) => (&mut *left, &mut *right),
                (false, _) => (&mut *right, &mut *left),
            };
            let messages: Vec<Vec<u8>> = from
                .events
                .list()
                .iter()
                .filter_map(|event| {
                    let Event::Siblings { message } = event else { return None };
                    Some(from.events.bytes(message).to_vec())
                })
                .collect();
            if messages.is_empty() {
                continue;
            }
            moved = true;
            from.events.clear();
            for message in messages {
                to.server.handle_sibling(&message, to.now, &mut to.events);
            }
        }
        if !moved {
            return;
        }
    }
}

#[test]
fn changes_reach_the_sibling_once() {
    let (mut left, mut right) = (Bench::on_shard(0), Bench::on_shard(1));
    let filter = modern_params(r#""notifications":{"toolsListChanged":true}"#, "{}");
    let listen = right.send(MODERN, "subscriptions/listen", &filter);
    right.events.clear();
    assert_eq!(left.modern("test_trigger_tool_change", "", "{}").0, 0);
    exchange(&mut left, &mut right);
    assert_eq!(right.messages(Target::Call(listen)).len(), 1);
    assert_eq!(right.modern("test_changeable_tool", "", "{}").0, 0);
}

/// Two updates of one turn once reached the sibling's subscribers as one.
#[test]
fn updates_made_at_once_reach_the_sibling_one_by_one() {
    let (mut left, mut right) = (Bench::on_shard(0), Bench::on_shard(1));
    let filter = modern_params(
        r#""notifications":{"resourceSubscriptions":["test://watched-resource"]}"#,
        "{}",
    );
    let listen = right.send(MODERN, "subscriptions/listen", &filter);
    right.events.clear();
    let twice = r#","arguments":{"times":2,"interval_ms":0}"#;
    assert_eq!(left.modern("test_trigger_resource_update", twice, "{}").0, 0);
    exchange(&mut left, &mut right);
    assert_eq!(right.messages(Target::Call(listen)).len(), 2);
}

#[test]
fn a_task_runs_its_course() {
    let mut bench = Bench::new();
    let (_, made) =
        bench.modern("slow_compute", r#","arguments":{"seconds":2,"label":"x"}"#, TASKS);
    assert_eq!((&made["resultType"], &made["status"]), (&"task".into(), &"working".into()));
    let params = modern_params(&format!(r#""taskId":{}"#, made["taskId"].encode()), TASKS);
    bench.now = Millis(1_999);
    assert_eq!(bench.result(MODERN, "tasks/get", &params)["status"], "working");
    bench.now = Millis(2_000);
    let done = bench.result(MODERN, "tasks/get", &params);
    assert_eq!(done["status"], "completed");
    assert!(first_text(&done["result"]).contains('x'));
    assert_eq!(bench.result(MODERN, "tasks/cancel", &params)["resultType"], "complete");
    assert_eq!(bench.result(MODERN, "tasks/get", &params)["status"], "completed");
    bench.now = Millis(2_000 + crate::embedded::TASK_KEPT_MS + 1);
    assert_eq!(bench.ask(MODERN, "tasks/get", &params).0, -32602);
}

#[test]
fn tasks_fail_and_are_cancelled() {
    let mut bench = Bench::new();
    for (tool, status) in [("failing_job", "completed"), ("protocol_error_job", "failed")] {
        let (_, made) = bench.modern(tool, "", TASKS);
        bench.now = bench.now + 1_000;
        let params = modern_params(&format!(r#""taskId":{}"#, made["taskId"].encode()), TASKS);
        let ended = bench.result(MODERN, "tasks/get", &params);
        assert_eq!(ended["status"], status);
        assert_eq!(ended.get("result").is_some(), status == "completed");
        assert_eq!(ended.get("error").is_some(), status == "failed");
    }
    let (_, made) = bench.modern("slow_compute", r#","arguments":{"seconds":60}"#, TASKS);
    let params = modern_params(&format!(r#""taskId":{}"#, made["taskId"].encode()), TASKS);
    bench.result(MODERN, "tasks/cancel", &params);
    assert_eq!(bench.result(MODERN, "tasks/get", &params)["status"], "cancelled");
    let without = modern_params(&format!(r#""taskId":{}"#, made["taskId"].encode()), "{}");
    let (code, error) = bench.ask(MODERN, "tasks/get", &without);
    assert_eq!(code, -32021);
    assert!(error["data"].encode().contains("io.modelcontextprotocol/tasks"));
}

#[test]
fn a_task_of_another_shard_is_reached_through_the_sibling() {
    let (mut home, mut away) = (Bench::on_shard(0), Bench::on_shard(1));
    let (_, made) = home.modern("multi_input", "", TASKS);
    home.events.clear();
    let id = made["taskId"].encode();
    let status = |home: &mut Bench, away: &mut Bench| {
        let get = modern_params(&format!(r#""taskId":{id}"#), TASKS);
        let call = away.send(MODERN, "tasks/get", &get);
        exchange(home, away);
        away.answer_of(call).expect("an answer").1
    };
    assert_eq!(status(&mut home, &mut away)["inputRequests"].as_object().map(|o| o.len()), Some(2));
    for (key, left) in [("first", "input_required"), ("second", "completed")] {
        let members = format!(
            r#""taskId":{id},"inputResponses":{{"{key}":{{"action":"accept","content":{{"name":"n"}}}}}}"#
        );
        let call = away.send(MODERN, "tasks/update", &modern_params(&members, TASKS));
        exchange(&mut home, &mut away);
        assert_eq!(away.answer_of(call).expect("an answer").1["resultType"], "complete");
        assert_eq!(status(&mut home, &mut away)["status"], left);
    }
    // A sibling that never answers costs the client a wait, not the call.
    let get = modern_params(&format!(r#""taskId":{id}"#), TASKS);
    let (code, _) = away.ask(MODERN, "tasks/get", &get);
    assert_eq!(code, -32603);
}

#[test]
fn oversized_and_overly_nested_input_is_refused() {
    let mut bench = Bench::legacy(LEGACY);
    let long = "x".repeat(70_000);
    let params = format!(r#"{{"name":"test_sampling","arguments":{{"prompt":"{long}"}}}}"#);
    assert_eq!(bench.result(LEGACY, "tools/call", &params)["isError"], true);
    let token = format!(r#"{{"name":"long_running","_meta":{{"progressToken":"{long}"}}}}"#);
    assert_eq!(bench.ask(LEGACY, "tools/call", &token).0, -32602);
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let params = format!(r#"{{"name":"add","arguments":{{"a":{deep},"b":1}}}}"#);
    assert_eq!(bench.ask(LEGACY, "tools/call", &params).0, -32602);
    let name = "test_input_required_result_list_roots";
    let responses = format!(r#"{{"client_roots":{{"roots":{deep}}}}}"#);
    assert_eq!(bench.ask(MODERN, "tools/call", &retry(name, &responses, None)).0, -32602);
}

#[test]
fn descriptions_follow_the_revision() {
    let bench = Bench::new();
    for version in ProtocolVersion::ALL {
        let capabilities = parse(bench.server.describe(version).capabilities.as_bytes());
        assert_eq!(
            capabilities.get("completions").is_some(),
            version >= ProtocolVersion::V2025_03_26
        );
        assert_eq!(capabilities.get("extensions").is_some(), version == MODERN);
        assert!(capabilities.get("tasks").is_none());
    }
}
