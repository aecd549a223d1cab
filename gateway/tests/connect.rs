//! `shardgate connect` as a desktop client uses it: the real command between the test's
//! pipes and a real gateway.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::io::Write;
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::HANG;
use harness::cutter::Cutter;
use harness::gateway::{Gateway, Launch};
use harness::mcp::{LEGACY, MODERN, call, call_with_progress, initialize, notification, request};
use harness::mcp::{Session, text_of, with_meta};
use harness::metrics::Page;
use harness::script::assert_steps;
use harness::tools::{NodeTools, PythonTools};
use harness::wire::Wire;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

const WATCHED: &str = "test://watched-resource";

/// The command under test and both ends of its pipes.
struct Bridge {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    log: Arc<Mutex<String>>,
    /// Messages that came while another one was waited for.
    earlier: Vec<Value>,
}

impl Bridge {
    fn start(url: &str) -> Bridge {
        Bridge::start_with(url, &[], &[])
    }

    fn start_with(url: &str, args: &[&str], variables: &[(&str, &str)]) -> Bridge {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shardgate"));
        command.args(["connect", url, "--log-level", "debug"]).args(args);
        command.envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().expect("start the bridge");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mut kept = kept.lock().expect("no holder panics");
                kept.push_str(&line);
                kept.push('\n');
            }
        });
        Bridge { child, input, output, log, earlier: Vec::new() }
    }

    /// A bridge whose client has finished its handshake.
    async fn initialized(url: &str) -> Bridge {
        let mut bridge = Bridge::start(url);
        bridge.shake_hands().await;
        bridge
    }

    async fn shake_hands(&mut self) {
        let answer = self.ask(&initialize(LEGACY)).await;
        assert_eq!(answer["result"]["protocolVersion"], LEGACY, "{answer}");
        self.say(&notification("notifications/initialized", &json!({}))).await;
    }

    fn log(&self) -> String {
        self.log.lock().expect("no holder panics").clone()
    }

    async fn say(&mut self, message: &Value) {
        self.write(format!("{message}\n").as_bytes()).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        let input = self.input.as_mut().expect("standard input is open");
        let written = timeout(HANG, input.write_all(bytes)).await.expect("the bridge reads");
        written.expect("standard input is open");
    }

    /// The next message, whichever it is.
    async fn hear(&mut self) -> Value {
        if !self.earlier.is_empty() {
            return self.earlier.remove(0);
        }
        self.read().await
    }

    async fn read(&mut self) -> Value {
        let line = timeout(HANG, self.output.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("no message came\n{}", self.log()));
        let line = line.expect("text").unwrap_or_else(|| panic!("no more output\n{}", self.log()));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// The next message of which this is true; others are kept for later.
    async fn hear_one(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.earlier.iter().position(&wanted) {
            return self.earlier.remove(at);
        }
        loop {
            let message = self.read().await;
            if wanted(&message) {
                return message;
            }
            self.earlier.push(message);
        }
    }

    async fn answer_to(&mut self, id: &Value) -> Value {
        self.hear_one(|message| message["id"] == *id && message.get("method").is_none()).await
    }

    async fn notified(&mut self, method: &str) -> Value {
        self.hear_one(|message| message["method"] == method).await
    }

    async fn ask(&mut self, message: &Value) -> Value {
        self.say(message).await;
        self.answer_to(&message["id"]).await
    }

    async fn echo(&mut self, id: u64, text: &str) {
        let answer = self.ask(&call(id, "echo", &json!({ "message": text }))).await;
        assert!(text_of(&answer).is_some_and(|t| t.ends_with(text)), "{answer}\n{}", self.log());
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = std::process::Command::new("kill").args([name, &id]).status();
        assert!(sent.is_ok_and(|status| status.success()), "send {name}");
    }

    /// Closes standard input and waits for the end; what was written until then is returned.
    async fn end(mut self) -> (ExitStatus, Vec<Value>) {
        self.input = None;
        self.wait().await
    }

    async fn wait(mut self) -> (ExitStatus, Vec<Value>) {
        let mut rest = std::mem::take(&mut self.earlier);
        while let Some(line) =
            timeout(HANG, self.output.next_line()).await.expect("it ends").expect("text")
        {
            rest.push(serde_json::from_str(&line).expect("JSON"));
        }
        let status = timeout(HANG, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("it did not end\n{}", self.log()));
        (status.expect("our child"), rest)
    }
}

/// Waits until a gauge of the gateway has this value.
async fn gauge_becomes(gateway: &Gateway, name: &str, wanted: f64) {
    let reached = async {
        while Page::fetch(gateway.admin).await.sum(name) != Some(wanted) {
            tokio::task::yield_now().await;
        }
    };
    let reached = timeout(HANG, reached).await;
    assert!(reached.is_ok(), "{name} did not become {wanted}\n{}", gateway.log_tail());
}

/// Waits until a killed gateway's sockets are gone: the kernel takes its rings apart later.
async fn until_free(address: SocketAddr) {
    let bound = async {
        while std::net::TcpListener::bind(address).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(HANG, bound).await.expect("the port becomes free");
}

fn modern(id: u64, method: &str, params: Value) -> Value {
    request(id, method, &with_meta(params, MODERN))
}

#[tokio::test]
async fn a_session_lives_from_initialize_to_the_end_of_the_input() {
    let gateway = Launch::default().config(Launch::SHORT_PAGES).start();
    let mut bridge = Bridge::initialized(&gateway.url()).await;
    gauge_becomes(&gateway, "shardgate_sessions", 1.0).await;
    let mut names = Vec::new();
    let mut params = json!({});
    for id in 1.. {
        let page = bridge.ask(&request(id, "tools/list", &params)).await;
        let tools = page["result"]["tools"].as_array().expect("tools");
        names.extend(tools.iter().filter_map(|tool| tool["name"].as_str()).map(str::to_owned));
        let Some(cursor) = page["result"]["nextCursor"].as_str() else { break };
        params = json!({ "cursor": cursor });
    }
    assert!(names.iter().any(|name| name == "echo") && names.len() > 10, "{names:?}");
    bridge.echo(1_000, "hello").await;
    let (status, rest) = bridge.end().await;
    assert_eq!((status.code(), rest), (Some(0), Vec::new()));
    gauge_becomes(&gateway, "shardgate_sessions", 0.0).await;
}

#[tokio::test]
async fn requests_run_beside_each_other_and_nothing_overtakes_initialize() {
    let gateway = Gateway::start();
    let mut bridge = Bridge::start(&gateway.url());
    // All at once, as a script would pipe it.
    let mut text = format!("{}\n", initialize(LEGACY));
    text.push_str(&format!("{}\n", notification("notifications/initialized", &json!({}))));
    text.push_str(&format!("{}\n", call(1, "sleep", &json!({ "ms": 600_000 }))));
    for id in 2..102 {
        text.push_str(&format!("{}\n", call(id, "echo", &json!({ "message": id.to_string() }))));
    }
    bridge.write(text.as_bytes()).await;
    assert_eq!(bridge.hear().await["result"]["protocolVersion"], LEGACY);
    for id in 2..102 {
        let answer = bridge.answer_to(&json!(id)).await;
        assert!(text_of(&answer).is_some_and(|text| text.ends_with(&id.to_string())), "{answer}");
    }
    // The slow one still runs: its id is taken.
    let answer = bridge.ask(&request(1, "ping", &json!({}))).await;
    assert!(answer["error"]["message"].as_str().is_some_and(|m| m.contains("unique")), "{answer}");
    // A legacy cancellation travels as a message; the call has no answer then.
    bridge.say(&notification("notifications/cancelled", &json!({ "requestId": 1 }))).await;
    let (status, rest) = bridge.end().await;
    assert_eq!((status.code(), rest), (Some(0), Vec::new()));
}

#[tokio::test]
async fn progress_comes_before_the_answer() {
    let gateway = Gateway::start();
    let mut bridge = Bridge::initialized(&gateway.url()).await;
    bridge.say(&call_with_progress(1, "test_tool_with_progress", &json!({}), "p")).await;
    for progress in [0, 50, 100] {
        let message = bridge.hear().await;
        assert_eq!(message["method"], "notifications/progress", "{message}");
        assert_eq!(message["params"]["progressToken"], "p");
        assert_eq!(message["params"]["progress"], progress);
    }
    assert_eq!(bridge.hear().await["id"], 1);
}

#[tokio::test]
async fn the_server_asks_and_the_client_answers() {
    let gateway = Gateway::start();
    let mut bridge = Bridge::initialized(&gateway.url()).await;
    bridge.say(&call(1, "test_elicitation", &json!({ "message": "who?" }))).await;
    let question = bridge.notified("elicitation/create").await;
    let content = json!({ "username": "ada", "email": "ada@example.com" });
    let result = json!({ "action": "accept", "content": content });
    bridge.say(&json!({ "jsonrpc": "2.0", "id": question["id"], "result": result })).await;
    let answer = bridge.answer_to(&json!(1)).await;
    assert!(text_of(&answer).is_some_and(|text| text.contains("ada@example.com")), "{answer}");
}

#[tokio::test]
async fn streams_that_break_are_resumed() {
    let gateway = Gateway::start();
    let cutter = Cutter::start(gateway.listen).await;
    let mut bridge = Bridge::initialized(&cutter.url()).await;
    let arguments = json!({ "duration_ms": 1_500, "steps": 10 });
    bridge.say(&call_with_progress(1, "long_running", &arguments, "p")).await;
    let mut steps = Vec::new();
    let answer = loop {
        let message = bridge.hear().await;
        if message["id"] == 1 {
            break message;
        }
        steps.push(message["params"]["progress"].as_f64().expect("progress"));
        if steps.len() == 3 {
            assert!(cutter.cut() > 0, "there was nothing to cut");
        }
    };
    assert!(answer["result"].is_object(), "{answer}\n{}", bridge.log());
    assert!(steps.len() >= 10, "progress was lost: {steps:?}");
    assert!(steps.is_sorted_by(|a, b| a < b), "progress came twice: {steps:?}");
    // The server may close a call's stream on purpose.
    let answer = bridge.ask(&call(2, "test_reconnection", &json!({}))).await;
    assert!(answer["result"].is_object(), "{answer}\n{}", bridge.log());
    // The standing stream was cut too.
    let subscribe = request(3, "resources/subscribe", &json!({ "uri": WATCHED }));
    assert!(bridge.ask(&subscribe).await["result"].is_object());
    bridge.ask(&call(4, "test_trigger_resource_update", &json!({}))).await;
    let update = bridge.notified("notifications/resources/updated").await;
    assert_eq!(update["params"]["uri"], WATCHED);
}

#[tokio::test]
async fn a_modern_client_is_served_with_its_headers() {
    let gateway = Launch::default().config(Launch::SHORT_PAGES).start();
    let mut bridge = Bridge::start(&gateway.url());
    let discovered = bridge.ask(&modern(1, "server/discover", json!({}))).await;
    assert!(discovered["result"]["supportedVersions"].is_array(), "{discovered}");
    let arguments = json!({ "region": "Österreich", "priority": 7, "verbose": true });
    let params = json!({ "name": "test_x_mcp_header", "arguments": arguments });
    // The tool was never listed: the bridge finds out what it mirrors.
    let answer = bridge.ask(&modern(2, "tools/call", params)).await;
    assert!(answer["result"].to_string().contains("Österreich"), "{answer}\n{}", bridge.log());
    let read = bridge.ask(&modern(3, "resources/read", json!({ "uri": "test://nö" }))).await;
    assert_eq!(read["error"]["code"], -32_602, "not a mismatch of headers: {read}");
    let unknown = bridge.ask(&modern(4, "no/such", json!({}))).await;
    assert_eq!(unknown["error"]["code"], -32_601, "{unknown}");
    gauge_becomes(&gateway, "shardgate_sessions", 0.0).await;
    let (status, rest) = bridge.end().await;
    assert_eq!((status.code(), rest), (Some(0), Vec::new()));
}

#[tokio::test]
async fn cancelling_a_modern_request_closes_its_stream() {
    let gateway = Gateway::start();
    let mut bridge = Bridge::start(&gateway.url());
    let filter = json!({ "notifications": { "resourceSubscriptions": [WATCHED] } });
    bridge.say(&modern(1, "subscriptions/listen", filter)).await;
    bridge.notified("notifications/subscriptions/acknowledged").await;
    let update = json!({ "name": "test_trigger_resource_update", "arguments": {} });
    bridge.ask(&modern(2, "tools/call", update)).await;
    bridge.notified("notifications/resources/updated").await;
    let sleep = json!({ "name": "sleep", "arguments": { "ms": 600_000 } });
    bridge.say(&modern(3, "tools/call", sleep)).await;
    gauge_becomes(&gateway, "shardgate_calls_in_flight", 2.0).await;
    for id in [1, 3] {
        bridge.say(&notification("notifications/cancelled", &json!({ "requestId": id }))).await;
    }
    gauge_becomes(&gateway, "shardgate_calls_in_flight", 0.0).await;
    let (status, rest) = bridge.end().await;
    assert_eq!((status.code(), rest), (Some(0), Vec::new()), "what is cancelled has no answer");
}

#[tokio::test]
async fn a_gateway_that_is_absent_is_told_in_every_answer_and_found_later() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = free.local_addr().expect("bound");
    drop(free);
    let url = format!("http://{address}/mcp");
    let mut bridge = Bridge::start(&url);
    for message in [initialize(LEGACY), request(1, "ping", &json!({}))] {
        let answer = bridge.ask(&message).await;
        let text = answer["error"]["message"].as_str().expect("an error");
        assert!(text.contains(&url) && text.contains("refused"), "{text}");
    }
    let gateway = Launch::default().listen(address).start();
    bridge.shake_hands().await;
    bridge.echo(2, "found").await;
    drop(gateway);
}

#[tokio::test]
async fn a_gateway_that_restarts_gets_a_new_session_and_nothing_is_hidden() {
    let gateway = Gateway::start();
    let address = gateway.listen;
    let mut bridge = Bridge::initialized(&gateway.url()).await;
    let subscribe = request(1, "resources/subscribe", &json!({ "uri": WATCHED }));
    assert!(bridge.ask(&subscribe).await["result"].is_object());
    // The standing stream must be there before it can break.
    bridge.ask(&call(2, "test_trigger_resource_update", &json!({}))).await;
    bridge.notified("notifications/resources/updated").await;
    let slow = json!({ "duration_ms": 600_000, "steps": 1_000 });
    bridge.say(&call_with_progress(3, "long_running", &slow, "p")).await;
    bridge.notified("notifications/progress").await;
    gateway.kill();
    until_free(address).await;

    let gateway = Launch::default().listen(address).start();
    // The call that ran can't go on, and the client is told so.
    let answer = bridge.answer_to(&json!(3)).await;
    assert_eq!(answer["error"]["code"], -32_001, "{answer}\n{}", bridge.log());
    // What may have changed meanwhile is told, without a request of the client.
    let update = bridge.notified("notifications/resources/updated").await;
    assert_eq!(update["params"]["uri"], WATCHED);
    bridge.notified("notifications/tools/list_changed").await;
    // The subscription holds in the new session.
    bridge.ask(&call(4, "test_trigger_resource_update", &json!({}))).await;
    bridge.notified("notifications/resources/updated").await;
    assert!(bridge.log().contains("has lost the session"), "{}", bridge.log());
    let (status, _) = bridge.end().await;
    assert_eq!(status.code(), Some(0));
    gauge_becomes(&gateway, "shardgate_sessions", 0.0).await;
}

#[tokio::test]
async fn a_session_that_the_gateway_forgot_is_replaced_without_a_failure() {
    let gateway = Gateway::start();
    let cutter = Cutter::start(gateway.listen).await;
    let mut bridge = Bridge::initialized(&cutter.url()).await;
    bridge.echo(1, "before").await;
    // As if it had been idle for too long.
    let id = cutter.session_id().expect("the relay has seen it");
    let (version, path) = (LEGACY.to_owned(), "/mcp".to_owned());
    let session = Session { id, version, address: gateway.listen, path };
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    let deleted = wire.ask(&session.delete()).await.expect("answered");
    assert!((200..300).contains(&deleted.head.status), "{deleted:?}");
    bridge.echo(2, "after").await;
    bridge.notified("notifications/tools/list_changed").await;
    assert_eq!(bridge.log().matches("has lost the session").count(), 1, "{}", bridge.log());
    gauge_becomes(&gateway, "shardgate_sessions", 1.0).await;
    let (status, _) = bridge.end().await;
    assert_eq!(status.code(), Some(0));
    gauge_becomes(&gateway, "shardgate_sessions", 0.0).await;
}

#[tokio::test]
async fn large_messages_pass_and_those_that_are_too_large_are_dropped() {
    let gateway = Gateway::start();
    let mut bridge = Bridge::initialized(&gateway.url()).await;
    bridge.echo(1, &"x".repeat(1_000_000)).await;
    bridge.write(&vec![b' '; 17 << 20]).await;
    bridge.write(b"\n").await;
    bridge.write(&vec![b'x'; 17 << 20]).await;
    bridge.write(b"\n").await;
    for _ in 0..2 {
        let error = bridge.hear().await;
        assert_eq!((&error["id"], &error["error"]["code"]), (&Value::Null, &json!(-32_700)));
        assert!(
            error["error"]["message"].as_str().is_some_and(|m| m.contains("16 MiB")),
            "{error}"
        );
    }
    bridge.echo(2, "still here").await;
}

#[tokio::test]
async fn garbage_is_answered_and_harms_nothing() {
    let gateway = Gateway::start();
    let mut bridge = Bridge::initialized(&gateway.url()).await;
    for (line, code, id) in [
        ("hello", -32_700, json!(null)),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,", -32_700, json!(null)),
        ("{\"id\":7,\"method\":\"ping\"}", -32_600, json!(7)),
        ("\u{0}\u{1}", -32_700, json!(null)),
    ] {
        bridge.write(format!("{line}\n\n").as_bytes()).await;
        let error = bridge.hear().await;
        assert_eq!((&error["id"], &error["error"]["code"]), (&id, &json!(code)), "{line}: {error}");
    }
    bridge.write(b"\xff\xfe\n").await;
    assert_eq!(bridge.hear().await["error"]["code"], -32_700);
    bridge.echo(8, "fine").await;
}

#[tokio::test]
async fn a_call_that_runs_when_the_input_ends_is_answered() {
    let gateway = Gateway::start();
    let mut bridge = Bridge::initialized(&gateway.url()).await;
    let arguments = json!({ "duration_ms": 500, "steps": 2 });
    bridge.say(&call_with_progress(1, "long_running", &arguments, "p")).await;
    bridge.notified("notifications/progress").await;
    let (status, rest) = bridge.end().await;
    assert_eq!(status.code(), Some(0));
    let last = rest.last().expect("an answer");
    assert!(last["id"] == 1 && last["result"].is_object(), "{rest:?}");
    gauge_becomes(&gateway, "shardgate_sessions", 0.0).await;
}

#[tokio::test]
async fn a_subscription_ends_with_the_input() {
    let gateway = Gateway::start();
    let mut bridge = Bridge::start(&gateway.url());
    let filter = json!({ "notifications": { "resourceSubscriptions": [WATCHED] } });
    bridge.say(&modern(1, "subscriptions/listen", filter)).await;
    bridge.notified("notifications/subscriptions/acknowledged").await;
    let (status, rest) = bridge.end().await;
    assert_eq!(status.code(), Some(0));
    let ended = rest.first().expect("an answer");
    assert!(rest.len() == 1 && ended["id"] == 1 && ended["error"].is_object(), "{rest:?}");
    gauge_becomes(&gateway, "shardgate_calls_in_flight", 0.0).await;
}

#[tokio::test]
async fn signals_end_the_session_at_once() {
    let gateway = Gateway::start();
    for signal in ["-TERM", "-INT"] {
        let mut bridge = Bridge::initialized(&gateway.url()).await;
        gauge_becomes(&gateway, "shardgate_sessions", 1.0).await;
        let slow = json!({ "duration_ms": 600_000, "steps": 1_000 });
        bridge.say(&call_with_progress(1, "long_running", &slow, "p")).await;
        bridge.notified("notifications/progress").await;
        bridge.signal(signal);
        let (status, rest) = bridge.wait().await;
        assert_eq!(status.code(), Some(0), "after {signal}");
        let last = rest.last().expect("an answer");
        assert!(last["id"] == 1 && last["error"].is_object(), "{rest:?}");
        gauge_becomes(&gateway, "shardgate_sessions", 0.0).await;
    }
}

/// Answers one request with these bytes and returns its head.
async fn serve_once(listener: TcpListener, answer: &'static str) -> String {
    let (mut stream, _): (TcpStream, _) = listener.accept().await.expect("a client");
    let mut read = Vec::new();
    while !read.windows(4).any(|window| window == b"\r\n\r\n") {
        assert!(stream.read_buf(&mut read).await.expect("readable") > 0, "the head is whole");
    }
    stream.write_all(answer.as_bytes()).await.expect("writable");
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test]
async fn headers_are_sent_and_a_refusal_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/mcp", listener.local_addr().expect("bound"));
    let answer = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer scope=\"tools\"\r\n\
                  Content-Type: text/plain\r\nContent-Length: 7\r\n\r\nno\nway\n";
    let server = tokio::spawn(serve_once(listener, answer));
    let args = ["--header", "X-Tenant: blue", "--header-env", "Authorization=TOKEN"];
    let mut bridge = Bridge::start_with(&url, &args, &[("TOKEN", "Bearer geheim")]);
    let answer = bridge.ask(&request(1, "ping", &json!({}))).await;
    let head = server.await.expect("no panic").to_ascii_lowercase();
    assert!(
        head.contains("x-tenant: blue") && head.contains("authorization: bearer geheim"),
        "{head}"
    );
    let text = answer["error"]["message"].as_str().expect("an error");
    for part in ["401 Unauthorized", "scope=\"tools\"", "no way", "--header-env"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert_eq!(answer["error"]["data"]["httpStatus"], 401);
    let log = Arc::clone(&bridge.log);
    let (status, _) = bridge.end().await;
    assert_eq!(status.code(), Some(0));
    assert!(!log.lock().expect("no holder panics").contains("geheim"), "a token is in the log");
}

/// Ends TLS in front of a gateway, as a load balancer would; returns the port and a file
/// with the certificate that it shows for `localhost`.
async fn start_tls(gateway: SocketAddr) -> (u16, NamedTempFile) {
    let shown =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(shown.cert.pem().as_bytes()).expect("written");
    let key = PrivatePkcs8KeyDer::from(shown.signing_key.serialize_der());
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![shown.cert.der().clone()], key.into())
        .expect("the key fits");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust the certificate ends here.
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = TcpStream::connect(gateway).await.expect("the gateway listens");
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (port, file)
}

#[tokio::test]
async fn https_is_spoken_with_those_who_prove_their_name() {
    let gateway = Gateway::start();
    let (port, certificate) = start_tls(gateway.listen).await;
    let url = format!("https://localhost:{port}/mcp");
    let trusted = certificate.path().to_str().expect("text");
    let mut bridge = Bridge::start_with(&url, &[], &[("SSL_CERT_FILE", trusted)]);
    bridge.shake_hands().await;
    bridge.echo(1, "sealed").await;
    assert_eq!(bridge.end().await.0.code(), Some(0));
    gauge_becomes(&gateway, "shardgate_sessions", 0.0).await;

    let (_, other) = start_tls(gateway.listen).await;
    let untrusting = other.path().to_str().expect("text");
    let mut bridge = Bridge::start_with(&url, &[], &[("SSL_CERT_FILE", untrusting)]);
    let answer = bridge.ask(&initialize(LEGACY)).await;
    let text = answer["error"]["message"].as_str().expect("an error");
    assert!(text.contains(&url) && text.contains("certificate"), "{text}");
}

#[test]
fn what_makes_no_sense_ends_with_code_2() {
    for (args, part) in [
        (["connect", "127.0.0.1:8080/mcp", "--log-level=info"], "http://127.0.0.1:8080/mcp"),
        (["connect", "ftp://host/mcp", "--log-level=info"], "http://HOST:PORT/PATH"),
        (["connect", "http://host/mcp", "--header=geheim"], "Name: value"),
        (
            ["connect", "http://host/mcp", "--header-env=Authorization=NOT_SET_ANYWHERE"],
            "is not set",
        ),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_shardgate"))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("the command runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(error.contains(part) && !error.contains("geheim"), "{args:?}: {error}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_help_has_a_snippet_to_paste() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_shardgate"))
        .args(["connect", "--help"])
        .output()
        .expect("the command runs");
    let help = String::from_utf8_lossy(&output.stdout);
    let start = help.find("  {\n").expect("a JSON object begins");
    let end = start + help[start..].find("\n  }\n").expect("and ends") + 4;
    let snippet: Value = serde_json::from_str(&help[start..end]).expect("sound JSON");
    let server = &snippet["mcpServers"]["shardgate"];
    assert_eq!(server["command"], "shardgate");
    assert_eq!(server["args"], json!(["connect", "http://127.0.0.1:8080/mcp"]));
}

/// What a real client shows over stdio, in order.
const TYPESCRIPT_STEPS: [&str; 9] = [
    "initialize",
    "list",
    "100 concurrent calls",
    "progress",
    "elicitation",
    "mirrored arguments",
    "subscribe and update",
    "cancel",
    "close",
];

const PYTHON_STEPS: [&str; 7] = [
    "initialize",
    "list",
    "100 concurrent calls",
    "progress",
    "elicitation",
    "subscribe and update",
    "close",
];

/// Runs a script that starts the bridge itself; no session may be left behind.
async fn run_client(mut script: std::process::Command, which: &[&str], steps: &[&str]) {
    let gateway = Launch::default().config(Launch::SHORT_PAGES).start();
    script.args([&gateway.url(), "0", &gateway.url(), env!("CARGO_BIN_EXE_shardgate")]);
    script.args(which);
    assert_steps(script, steps).await;
    gauge_becomes(&gateway, "shardgate_sessions", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typescript_clients_use_the_bridge_as_their_server() {
    let tools = NodeTools::install();
    for which in ["sdk-1", "client-2", "client-2-modern"] {
        run_client(tools.script("stdio.mjs"), &[which], &TYPESCRIPT_STEPS).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_uses_the_bridge_as_its_server() {
    let tools = PythonTools::install("mcp-1.30");
    run_client(tools.script("stdio.py"), &[], &PYTHON_STEPS).await;
}
