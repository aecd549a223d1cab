//! The reference tool servers without a gateway: what they are by themselves.
//!
//! Tests of the gateway's upstream half compare what a client sees through the
//! gateway with what these servers show directly. The baseline is recorded in
//! `tests/servers/baseline/`, one line per check of the conformance suite.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::fs;
use std::path::PathBuf;
use std::process::Stdio as Pipe;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use harness::HANG;
use harness::mcp::{
    LEGACY, MODERN, Request, Session, call, initialize, modern, notification, request, text_of,
    with_meta,
};
use harness::rogue_server::{Misdeed, RogueServer, TOOL};
use harness::servers::{Kind, ReferenceServer, Stdio};
use harness::suite::{Checks, Scenarios, differences, run_suite, suite_checks};
use harness::wire::Wire;

/// Runs what a revision requires directly against a server, and compares with the record.
async fn assert_baseline(kind: Kind, file: &str, revision: &str, passing: usize) {
    let server = ReferenceServer::start(kind).await;
    let run = run_suite(&server.url, Scenarios::Required, revision, file).await;
    assert!(run.output.success, "{kind:?} {revision}:\n{}\n{}", run.summary(), run.output.stderr);
    assert!(run.passed() >= passing, "{kind:?} {revision}: {}", run.summary());
    let path = baseline_path(file);
    if std::env::var_os("SHARDGATE_WRITE_REFERENCE").is_some() {
        fs::write(&path, write_checks(&run.checks)).expect("write the record");
    }
    let recorded = read_checks(&fs::read_to_string(&path).expect("the record is there"));
    let differing = differences(&run.checks, &recorded);
    assert!(
        differing.is_empty(),
        "{kind:?} {revision} is not what {} records; if that is wanted, run this test with \
         SHARDGATE_WRITE_REFERENCE=1:\n{}",
        path.display(),
        differing.join("\n"),
    );
}

fn baseline_path(file: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/servers/baseline");
    directory.join(file).with_extension("txt")
}

fn write_checks(checks: &Checks) -> String {
    let verdicts = checks.iter().filter(|(_, status)| *status != "INFO");
    verdicts.map(|(check, status)| format!("{status} {check}\n")).collect()
}

fn read_checks(text: &str) -> Checks {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(status, check)| (check.to_owned(), status.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn server_of_both_eras_is_as_recorded_in_the_modern_one() {
    assert_baseline(Kind::BothEras, "both-eras-2026-07-28", MODERN, 167).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_of_both_eras_is_as_recorded_in_the_legacy_one() {
    assert_baseline(Kind::BothEras, "both-eras-2025-11-25", LEGACY, 84).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_server_is_as_recorded() {
    assert_baseline(Kind::Legacy, "legacy-2025-11-25", LEGACY, 84).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_of_one_era_is_what_the_server_of_both_is_in_it() {
    for (kind, revision) in [(Kind::ModernOnly, MODERN), (Kind::LegacyOnly, LEGACY)] {
        let both = ReferenceServer::start(Kind::BothEras).await;
        let one = ReferenceServer::start(kind).await;
        let of_both = format!("one-era-both-{revision}");
        let of_one = format!("one-era-one-{revision}");
        let (expected, found) = tokio::join!(
            suite_checks(&both.url, Scenarios::All, revision, &of_both),
            suite_checks(&one.url, Scenarios::All, revision, &of_one),
        );
        let differing = differences(&found, &expected);
        assert!(differing.is_empty(), "{kind:?}:\n{}", differing.join("\n"));
        assert!(!found.is_empty(), "nothing was compared");
    }
}

/// Asks a legacy session on a connection of its own.
async fn ask(session: &Session, message: &Value) -> Value {
    let mut wire = Wire::connect(session.address).await.expect("connect");
    session.ask(&mut wire, message).await.expect("an answer").json()
}

/// What a server reports of itself.
async fn report(session: &Session) -> Value {
    let answer = ask(session, &call(90, "report", &json!({}))).await;
    let text = text_of(&answer).unwrap_or_else(|| panic!("no report: {answer}"));
    serde_json::from_str(text).expect("the report is JSON")
}

/// Waits until the server reports that the call with this label was cancelled.
async fn wait_cancelled(session: &Session, label: &str) {
    let reported = async {
        while report(session).await["cancelled"] != json!([label]) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = timeout(HANG, reported).await;
    assert!(waited.is_ok(), "the call was not cancelled: {}", report(session).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_legacy_server_over_http_opens_sessions_and_lists_tools() {
    for kind in [
        Kind::BothEras,
        Kind::LegacyOnly,
        Kind::Legacy,
        Kind::Everything,
        Kind::Python,
        Kind::PythonBothEras,
    ] {
        let server = ReferenceServer::start(kind).await;
        let session = Session::open(server.address, LEGACY).await.expect("a session");
        let answer = ask(&session, &request(1, "tools/list", &json!({}))).await;
        let tools = answer["result"]["tools"].as_array();
        assert!(tools.is_some_and(|tools| tools.len() > 5), "{kind:?}: {answer}");
        if kind != Kind::Everything {
            assert_eq!(report(&session).await["pid"], server.pid, "{kind:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancellations_of_legacy_calls_are_reported() {
    for kind in [Kind::BothEras, Kind::Legacy, Kind::Python, Kind::PythonBothEras] {
        let server = ReferenceServer::start(kind).await;
        let session = Session::open(server.address, LEGACY).await.expect("a session");
        let mut wire = Wire::connect(server.address).await.expect("connect");
        let sleep = call(7, "sleep", &json!({ "ms": 600_000, "label": "long" }));
        wire.send(&session.post(&sleep)).await.expect("send the call");
        assert_eq!(wire.head().await.expect("a stream").status, 200, "{kind:?}");
        let cancel = notification("notifications/cancelled", &json!({ "requestId": 7 }));
        ask(&session, &cancel).await;
        wait_cancelled(&session, "long").await;
    }
}

/// Starts a modern call of `sleep` and closes its connection while it runs.
async fn assert_closing_cancels(kind: Kind) {
    let server = ReferenceServer::start(kind).await;
    let session = Session::open(server.address, LEGACY).await.expect("a session to ask in");
    let mut wire = Wire::connect(server.address).await.expect("connect");
    let arguments = json!({ "ms": 600_000, "label": "long" });
    let sleep = modern(7, "tools/call", json!({ "name": "sleep", "arguments": arguments }));
    wire.send(&sleep.bytes(server.address)).await.expect("send the call");
    // Closed only once the call runs: before, there is nothing to cancel.
    let running = async {
        while report(&session).await["sleeping"] != 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(HANG, running).await.expect("the call runs");
    drop(wire);
    wait_cancelled(&session, "long").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn modern_calls_are_cancelled_by_closing_their_streams() {
    assert_closing_cancels(Kind::BothEras).await;
    assert_closing_cancels(Kind::PythonBothEras).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn modern_calls_ask_for_input_where_the_client_declares_it() {
    for (kind, tool) in [(Kind::BothEras, "test_elicitation"), (Kind::PythonBothEras, "elicit")] {
        let server = ReferenceServer::start(kind).await;
        let params = json!({ "name": tool, "arguments": { "message": "who?" } });
        let mut params = with_meta(params, MODERN);
        let capabilities = "io.modelcontextprotocol/clientCapabilities";
        params["_meta"][capabilities] = json!({ "elicitation": { "form": {} } });
        let post = Request::post(&request(1, "tools/call", &params))
            .header("mcp-protocol-version", MODERN)
            .header("mcp-method", "tools/call")
            .header("mcp-name", tool);
        let mut wire = Wire::connect(server.address).await.expect("connect");
        let answer = wire.ask(&post.bytes(server.address)).await.expect("an answer").json();
        assert_eq!(answer["result"]["resultType"], "input_required", "{kind:?}: {answer}");
        let questions = answer["result"]["inputRequests"].as_object().expect("questions");
        let methods: Vec<_> = questions.values().map(|question| &question["method"]).collect();
        assert_eq!(methods, ["elicitation/create"], "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_goes_comes_back_and_pauses_as_told() {
    let mut server = ReferenceServer::start(Kind::Legacy).await;
    let (url, pid) = (server.url.clone(), server.pid);
    server.kill();
    assert!(Wire::connect(server.address).await.is_err(), "a killed server was connected to");
    let server = server.restart().await;
    assert_eq!(server.url, url);
    assert_ne!(server.pid, pid);
    let session = Session::open(server.address, LEGACY).await.expect("a session");
    server.pause();
    let mut wire = Wire::connect(server.address).await.expect("the system accepts for it");
    let echo = call(1, "echo", &json!({ "message": "late" }));
    wire.send(&session.post(&echo)).await.expect("send to a paused server");
    assert!(wire.event_within(Duration::from_millis(50)).await.is_none());
    server.resume();
    let answer = wire.answer().await.expect("an answer once it goes on").json();
    assert_eq!(text_of(&answer), Some("late"));
    let address = server.address;
    drop(server);
    assert!(Wire::connect(address).await.is_err(), "a dropped server was connected to");
}

/// Talks to a child in lines of JSON.
struct Lines {
    child: Child,
    stdout: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Lines {
    fn start(server: &Stdio) -> Lines {
        let words = server.command();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).kill_on_drop(true);
        command.stdin(Pipe::piped()).stdout(Pipe::piped()).stderr(Pipe::null());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("start {words:?}: {error}"));
        let stdout = BufReader::new(child.stdout.take().expect("stdout was piped")).lines();
        Lines { child, stdout }
    }

    async fn send(&mut self, message: &Value) {
        let stdin = self.child.stdin.as_mut().expect("stdin was piped");
        stdin.write_all(format!("{message}\n").as_bytes()).await.expect("write to the child");
    }

    /// The answer to the request with this id; what comes before it is skipped.
    async fn answer(&mut self, id: u64) -> Value {
        let answer = async {
            loop {
                let line = self.stdout.next_line().await.expect("read from the child");
                let line = line.expect("the child answers before it ends");
                let message: Value = serde_json::from_str(&line).expect("a line of JSON");
                if message["id"] == id && message["method"].is_null() {
                    return message;
                }
            }
        };
        timeout(HANG, answer).await.expect("an answer")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_over_stdio_answer_and_end_with_their_input() {
    let directory = tempfile::tempdir().expect("a directory for the servers");
    let servers = [
        Stdio::BothEras,
        Stdio::Legacy,
        Stdio::Python,
        Stdio::PythonBothEras,
        Stdio::Everything,
        Stdio::Filesystem(directory.path().to_owned()),
        Stdio::Memory(directory.path().join("memory.jsonl")),
    ];
    for server in servers {
        let mut lines = Lines::start(&server);
        // A server whose question stays open would wait for its answer, not for its end.
        let mut opening = initialize(LEGACY);
        opening["params"]["capabilities"] = json!({});
        lines.send(&opening).await;
        let answer = lines.answer(0).await;
        assert_eq!(answer["result"]["protocolVersion"], LEGACY, "{server:?}: {answer}");
        lines.send(&notification("notifications/initialized", &json!({}))).await;
        lines.send(&request(1, "tools/list", &json!({}))).await;
        let answer = lines.answer(1).await;
        let tools = answer["result"]["tools"].as_array();
        assert!(tools.is_some_and(|tools| tools.len() > 5), "{server:?}: {answer}");
        drop(lines.child.stdin.take());
        let ended = timeout(HANG, lines.child.wait()).await;
        let ended = ended.unwrap_or_else(|_| panic!("{server:?} does not end with its input"));
        assert!(ended.is_ok_and(|status| status.success()), "{server:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn modern_server_over_stdio_discovers_and_refuses_sessions() {
    let mut lines = Lines::start(&Stdio::ModernOnly);
    lines.send(&initialize(LEGACY)).await;
    let answer = lines.answer(0).await;
    assert_eq!(answer["error"]["code"], -32022, "{answer}");
    lines.send(&request(1, "server/discover", &with_meta(json!({}), MODERN))).await;
    let answer = lines.answer(1).await;
    assert_eq!(answer["result"]["supportedVersions"], json!([MODERN]), "{answer}");
}

/// Calls the rogue's tool; returns the connection, with the answer still to be read.
async fn call_rogue(session: &Session) -> Wire {
    let mut wire = Wire::connect(session.address).await.expect("connect");
    let message = call(7, TOOL, &json!({}));
    wire.send(&session.post(&message)).await.expect("send the call");
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn rogue_is_honest_until_its_tool_is_called() {
    let rogue = RogueServer::start(Misdeed::None).await;
    let session = Session::open(rogue.address, LEGACY).await.expect("a session");
    let listed = ask(&session, &request(1, "tools/list", &json!({}))).await;
    assert_eq!(listed["result"]["tools"][0]["name"], TOOL);
    let answer = call_rogue(&session).await.answer().await.expect("an answer").json();
    assert_eq!((text_of(&answer), &answer["id"]), (Some("done"), &json!(7)));
    assert_eq!(rogue.calls(), 1);
    let last = rogue.seen().pop().expect("the call was seen");
    assert_eq!(last.header("mcp-session-id"), Some(session.id.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn modern_rogue_is_honest_until_its_tool_is_called() {
    let rogue = RogueServer::start_modern(Misdeed::None).await;
    let mut wire = Wire::connect(rogue.address).await.expect("connect");
    for (method, params, proof) in [
        ("server/discover", json!({}), "supportedVersions"),
        ("tools/list", json!({}), "tools"),
        ("tools/call", json!({ "name": TOOL, "arguments": {} }), "content"),
    ] {
        let post = modern(1, method, params).bytes(rogue.address);
        let answer = wire.ask(&post).await.expect("an answer").json();
        assert!(answer["result"][proof].is_array(), "{method}: {answer}");
        assert_eq!(answer["result"]["resultType"], "complete", "{method}");
    }
    assert!(Session::open(rogue.address, LEGACY).await.is_err(), "it opened a session");
}

const NO_HEAD: [Misdeed; 6] = [
    Misdeed::Garbage,
    Misdeed::EndlessHeaders,
    // Its last byte comes after minutes.
    Misdeed::Slow,
    Misdeed::Silence,
    Misdeed::Closes,
    Misdeed::Resets,
];

/// What is not 200.
const STATUSES: [(Misdeed, u16); 5] = [
    (Misdeed::Redirect, 307),
    (Misdeed::Unauthorized, 401),
    (Misdeed::HtmlError, 500),
    (Misdeed::Accepted, 202),
    (Misdeed::SessionGone, 404),
];

#[tokio::test(flavor = "multi_thread")]
async fn rogue_does_each_misdeed_to_calls() {
    let rogue = RogueServer::start(Misdeed::None).await;
    let session = Session::open(rogue.address, LEGACY).await.expect("a session");
    for misdeed in Misdeed::ALL {
        rogue.set(misdeed);
        let mut wire = call_rogue(&session).await;
        // Of these no whole head ever comes, however long one waits.
        if NO_HEAD.contains(&misdeed) {
            let head = timeout(Duration::from_millis(50), wire.head()).await;
            assert!(!matches!(head, Ok(Ok(_))), "{misdeed:?}: {head:?}");
            continue;
        }
        let status = STATUSES.iter().find(|(other, _)| *other == misdeed);
        let status = status.map_or(200, |(_, status)| *status);
        let head = wire.head().await.unwrap_or_else(|error| panic!("{misdeed:?}: {error}"));
        assert_eq!(head.status, status, "{misdeed:?}");
    }
    assert_eq!(rogue.calls(), Misdeed::ALL.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn rogue_answers_wrongly_in_the_way_it_was_told() {
    let rogue = RogueServer::start(Misdeed::WrongId).await;
    let session = Session::open(rogue.address, LEGACY).await.expect("a session");
    let id = call_rogue(&session).await.answer().await.expect("an answer").json()["id"].clone();
    assert_eq!(id, 1_000_007);
    rogue.set(Misdeed::IdAsText);
    let id = call_rogue(&session).await.answer().await.expect("an answer").json()["id"].clone();
    assert_eq!(id, "7");
    rogue.set(Misdeed::AnswersTwice);
    let mut wire = call_rogue(&session).await;
    wire.head().await.expect("a stream");
    for _ in 0..2 {
        let event = wire.event().await.expect("a stream").expect("two events");
        assert_eq!(event.json()["id"], 7);
    }
    rogue.set(Misdeed::HalfEvent);
    let mut wire = call_rogue(&session).await;
    wire.head().await.expect("a stream");
    assert_eq!(wire.event().await.expect("an end"), None);
    rogue.set(Misdeed::ShortBody);
    assert!(call_rogue(&session).await.answer().await.is_err());
    rogue.set(Misdeed::NotUtf8);
    let answer = call_rogue(&session).await.answer().await.expect("an answer");
    assert!(String::from_utf8(answer.body).is_err());
}

#[test]
fn runs_of_the_suite_are_compared_by_their_verdicts() {
    let checks = |text: &str| read_checks(text);
    let one = checks("SUCCESS a x\nFAILURE a y\nINFO a z\n");
    assert!(differences(&one, &one).is_empty());
    assert!(differences(&checks("SUCCESS a x\nFAILURE a y\n"), &one).is_empty(), "INFO is missing");
    assert!(differences(&checks("SUCCESS a x\nFAILURE a y\nSUCCESS a z\n"), &one).is_empty());
    let worse = checks("WARNING a x\nFAILURE a y\nFAILURE a z\n");
    assert_eq!(
        differences(&worse, &one),
        ["a x: WARNING instead of SUCCESS", "a z: FAILURE instead of INFO"]
    );
    assert_eq!(differences(&checks("SUCCESS a x\n"), &one), ["a y: nothing instead of FAILURE"]);
}
