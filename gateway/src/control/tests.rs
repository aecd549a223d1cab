//! The control thread over real sockets, with shards played by the test.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;
use crate::metrics::{Method, ShardGauges, ShardMetrics, Status};

/// A control thread on a free port, with a shard that answers and one that never does.
struct Running {
    control: Control,
    address: SocketAddr,
    // Holds the stalled shard's requests, so that they are neither answered nor dropped.
    _stalled: flume::Receiver<ControlRequest>,
}

impl Running {
    fn start() -> Running {
        let admin = bind_admin(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let address = admin.local_addr().expect("bound");
        let (stalled_inbox, stalled) = flume::bounded(4);
        let links = ShardLinks::new(vec![
            Box::new(|ControlRequest::Snapshot(to)| {
                let mut metrics = ShardMetrics::new(0, Some(0));
                metrics.request(Method::ToolsCall, Status::of(200), 20_000);
                let gauges = ShardGauges { sessions: 3, ..ShardGauges::default() };
                to.try_send(metrics.snapshot(gauges)).is_ok()
            }),
            Box::new(move |request| stalled_inbox.try_send(request).is_ok()),
        ]);
        let control = start(ControlSetup {
            admin,
            allowed_hosts: AllowedHosts::loopback(),
            facts: NodeFacts::for_tests(),
            links,
            children: None,
            reload: None,
            resolver: None,
            pins: None,
            tasks: None,
            cluster: None,
        })
        .expect("it starts");
        Running { control, address, _stalled: stalled }
    }

    /// Status code, headers and body of one request with these header lines.
    fn ask(&self, request_line: &str, headers: &[&str]) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let request = format!("{request_line} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (code, head.to_ascii_lowercase(), body.to_owned())
    }

    fn fetch(&self, path: &str) -> (u16, String, String) {
        self.ask(&format!("GET {path}"), &["Host: localhost:9090"])
    }
}

#[test]
fn a_stalled_shard_is_reported_beside_the_living() {
    let running = Running::start();
    let (code, head, body) = running.fetch("/api/v1/status");
    assert_eq!(code, 200);
    assert!(head.contains("content-type: application/json") && head.contains("no-store"));
    let report: StatusReport = serde_json::from_str(&body).expect("a report");
    assert_eq!(report.state, "starting");
    assert_eq!(report.shards.len(), 2);
    assert_eq!(report.shards[0].load.as_ref().expect("answers").sessions, 3);
    assert_eq!(report.shards[1].load, None);
    assert_eq!(report.totals.requests, 1);
    let (code, head, body) = running.fetch("/metrics");
    assert_eq!(code, 200);
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"));
    assert!(body.contains("shardgate_shard_up{shard=\"1\"} 0"), "{body}");
    assert!(body.contains("shardgate_sessions{shard=\"0\"} 3"), "{body}");
    assert!(body.ends_with("# EOF\n"));
    running.control.stop();
}

#[test]
fn readiness_follows_the_phases_and_health_does_not() {
    let running = Running::start();
    assert_eq!(running.fetch("/readyz").0, 503);
    running.control.set_ready();
    assert_eq!(running.fetch("/readyz"), {
        let (code, head, body) = running.fetch("/readyz");
        assert_eq!((code, body.as_str()), (200, "ready\n"));
        (code, head, body)
    });
    running.control.set_draining();
    running.control.set_ready();
    let (code, _, body) = running.fetch("/readyz");
    assert_eq!((code, body.as_str()), (503, "draining\n"), "a drain is not taken back");
    assert_eq!(running.fetch("/healthz").0, 200);
    running.control.stop();
}

#[test]
fn foreign_and_missing_names_are_refused() {
    let running = Running::start();
    for (headers, expected) in [
        (&["Host: 127.0.0.1:9090"][..], 200),
        (&["Host: evil.example.com"], 403),
        (&["Host: evil.example.com:9090"], 403),
        (&[], 400),
        (&["Host: localhost", "Host: evil.example.com"], 400),
    ] {
        for path in ["/healthz", "/metrics", "/api/v1/status", "/"] {
            if expected == 200 && path != "/healthz" {
                continue;
            }
            let (code, _, _) = running.ask(&format!("GET {path}"), headers);
            assert_eq!(code, expected, "{path} with {headers:?}");
        }
    }
    running.control.stop();
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let running = Running::start();
    let (code, head, body) = running.fetch("/");
    assert_eq!(code, 200);
    assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
    assert!(!body.contains("http://") && !body.contains("https://"), "no foreign asset");
    assert!(!body.contains("innerHTML"), "what the node says is text, never markup");
    assert_eq!(running.fetch("/nothing").0, 404);
    assert_eq!(running.ask("POST /metrics", &["Host: localhost", "Content-Length: 0"]).0, 405);
    running.control.stop();
}

#[test]
fn a_silent_client_does_not_keep_others_waiting() {
    let running = Running::start();
    let silent: Vec<TcpStream> = (0..ADMIN_CONNECTIONS_MAX - 1)
        .map(|_| TcpStream::connect(running.address).expect("it listens"))
        .collect();
    assert_eq!(running.fetch("/healthz").0, 200);
    drop(silent);
    running.control.stop();
}

#[test]
fn a_taken_address_is_told_with_the_way_out() {
    let first = bind_admin(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = first.local_addr().expect("bound");
    let message = bind_admin(address).unwrap_err().to_string();
    assert!(message.contains(&address.to_string()) && message.contains("--admin"), "{message}");
}
