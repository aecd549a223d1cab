//! What can be seen of a running gateway from outside, and what its commands say.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use harness::gateway::{Gateway, Launch};
use harness::mcp::{LEGACY, Request, Session, call, modern};
use harness::metrics::Page;
use harness::wire::{Answer, Wire};

async fn page(address: SocketAddr, path: &str) -> Answer {
    let mut wire = Wire::connect(address).await.expect("connect");
    wire.ask(&Request::page(path).bytes(address)).await.expect("an answer")
}

fn shardgate(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardgate"));
    // The machine's own settings must not decide a test.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SHARDGATE_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null()).output().expect("run shardgate")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn probes_say_that_the_gateway_lives_and_is_ready() {
    let gateway = Gateway::start();
    for address in [gateway.listen, gateway.admin] {
        for path in ["/healthz", "/readyz"] {
            let answer = page(address, path).await;
            assert_eq!(answer.head.status, 200, "{path} at {address}: {answer:?}");
        }
    }
    assert_eq!(page(gateway.listen, "/metrics").await.head.status, 404, "metrics are for admins");
    assert_eq!(page(gateway.admin, "/mcp").await.head.status, 404, "MCP is for clients");
}

#[tokio::test]
async fn metrics_count_what_clients_did() {
    let gateway = Gateway::start();
    let before = Page::fetch(gateway.admin).await;
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    let opened = Session::open_on(&mut wire, gateway.listen, LEGACY).await;
    let session = opened.expect("open a session");
    for id in 1..=20 {
        let answer = session.ask(&mut wire, &call(id, "echo", &json!({ "message": "m" }))).await;
        assert_eq!(answer.expect("an answer").head.status, 200);
    }
    let stray = session.ask(&mut wire, &json!({ "jsonrpc": "2.0", "id": 1 })).await;
    assert_eq!(stray.expect("an answer").head.status, 400);

    let after = Page::fetch(gateway.admin).await;
    let calls = |page: &Page| requests(page, "tools/call", "200");
    assert_eq!(calls(&after) - calls(&before), 20.0);
    assert_eq!(requests(&after, "initialize", "200"), 1.0);
    assert_eq!(after.sum("shardgate_sessions"), Some(1.0));
    assert_eq!(after.sum("shardgate_connections"), Some(1.0));
    let rose = |name: &str| after.sum(name).unwrap_or(0.0) > before.sum(name).unwrap_or(0.0);
    for name in [
        "shardgate_connections_accepted_total",
        "shardgate_received_bytes_total",
        "shardgate_sent_bytes_total",
        "shardgate_rpc_errors_total",
    ] {
        assert!(rose(name), "{name} did not rise");
    }
    assert_histograms_add_up(&after, "shardgate_request_duration_seconds");
}

fn requests(page: &Page, method: &str, status: &str) -> f64 {
    page.named("shardgate_requests_total")
        .filter(|sample| {
            let has = |name: &str, value: &str| {
                sample.labels.iter().any(|(key, found)| key == name && found == value)
            };
            has("method", method) && has("status", status)
        })
        .map(|sample| sample.value)
        .sum()
}

/// Buckets of each label set rise, and the last one is the count.
fn assert_histograms_add_up(page: &Page, name: &str) {
    let (bucket, count) = (format!("{name}_bucket"), format!("{name}_count"));
    let mut seen = 0.0;
    for total in page.named(&count) {
        let own: Vec<_> = page
            .named(&bucket)
            .filter(|sample| total.labels.iter().all(|label| sample.labels.contains(label)))
            .collect();
        let rises = own.windows(2).all(|pair| pair[0].value <= pair[1].value);
        assert!(rises, "{bucket} {:?} does not rise", total.labels);
        let last = own.last().expect("a histogram has buckets");
        let is_infinite = last.labels.contains(&("le".to_owned(), "+Inf".to_owned()));
        assert!(is_infinite && last.value == total.value, "{last:?} against {total:?}");
        seen += total.value;
    }
    assert!(seen > 0.0, "{name} counted nothing");
}

#[test]
fn the_reader_of_metrics_refuses_what_is_not_openmetrics() {
    let good = "# TYPE a counter\na_total{x=\"1\\n\"} 3\n# EOF\n";
    assert_eq!(Page::parse(good).expect("this is OpenMetrics").sum("a_total"), Some(3.0));
    for bad in [
        "# TYPE a counter\na_total 3\n",
        "a_total 3\n# EOF\n",
        "# TYPE a counter\na_total 3\na_total 3\n# EOF\n",
        "# TYPE a counter\na_total{x=\"1} 3\n# EOF\n",
        "# TYPE a counter\na_total three\n# EOF\n",
        "# TYPE a counter\n\n# EOF\n",
    ] {
        assert!(Page::parse(bad).is_err(), "{bad:?} was accepted");
    }
}

#[tokio::test]
async fn status_tells_what_runs_in_json_and_for_people() {
    let gateway = Launch::default().shards(2).start();
    let echo = modern(1, "tools/call", json!({ "name": "echo", "arguments": { "message": "m" } }));
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    wire.ask(&echo.bytes(gateway.listen)).await.expect("an answer");

    let admin = gateway.admin.to_string();
    let output = shardgate(&["status", "--admin", &admin, "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(status["state"], "ready");
    assert_eq!(status["shards"].as_array().map(Vec::len), Some(2));
    assert_eq!(status["listen"][0], gateway.listen.to_string());
    assert_eq!(status["totals"]["connections"], 1);
    assert_eq!(status["totals"]["requests"], 1);
    assert_eq!(status, served_status(&page(gateway.admin, "/api/v1/status").await, &status));

    let output = shardgate(&["status", "--admin", &admin]);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for word in ["ready", "shard", "sessions", "p99"] {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
}

/// The admin server's own answer with the figures that move between two looks set to `other`'s.
fn served_status(answer: &Answer, other: &Value) -> Value {
    assert_eq!(answer.head.status, 200);
    let mut status = answer.json();
    for key in ["uptime_seconds", "interval_seconds", "process", "totals", "shards"] {
        assert!(!status[key].is_null(), "{key} is missing in {status}");
        status[key] = other[key].clone();
    }
    status
}

#[test]
fn status_without_a_gateway_says_so() {
    let unused = TcpListener::bind("127.0.0.1:0").expect("bind");
    let admin = unused.local_addr().expect("an address").to_string();
    drop(unused);
    let output = shardgate(&["status", "--admin", &admin]);
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains(&admin), "{}", stderr(&output));
}

#[test]
fn check_points_at_line_and_key() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bad-shardgate.toml");
    let text = "[limits]\nheader_timeout_ms = -1\n\n[shards]\ncuont = 2\n";
    std::fs::write(&path, text).expect("write a config");
    let name = path.to_str().expect("UTF-8");
    for command in ["check", "serve"] {
        let output = shardgate(&[command, "--config", name]);
        assert_eq!(output.status.code(), Some(3), "{command}: {output:?}");
        let said = stderr(&output);
        for part in [&format!("{name}:2:21"), "limits.header_timeout_ms", &format!("{name}:5:1")] {
            assert!(said.contains(part), "{command}: {part} is missing in:\n{said}");
        }
        assert!(said.contains("did you mean count"), "{command}: no proposal in:\n{said}");
    }
}

#[test]
fn the_example_config_is_sound() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/shardgate.example.toml");
    let output = shardgate(&["check", "--config", example]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn a_port_in_use_is_named() {
    let held = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = held.local_addr().expect("an address").to_string();
    for flag in ["--listen", "--admin"] {
        let other = if flag == "--listen" { "--admin" } else { "--listen" };
        let output = shardgate(&[
            "serve",
            "--shards",
            "1",
            "--log",
            "human",
            flag,
            &address,
            other,
            "127.0.0.1:0",
        ]);
        assert_eq!(output.status.code(), Some(1), "{flag}: {output:?}");
        assert!(stderr(&output).contains(&address), "{flag}: {}", stderr(&output));
    }
}

#[test]
fn help_teaches() {
    for command in ["", "serve", "check", "status", "upstreams"] {
        let args: Vec<&str> =
            [command, "--help"].into_iter().filter(|arg| !arg.is_empty()).collect();
        let output = shardgate(&args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(text.contains("Usage:"), "{args:?}:\n{text}");
    }
    let output = shardgate(&["serve", "--shards", "none"]);
    assert_eq!(output.status.code(), Some(2), "a usage error has its own code");
}
