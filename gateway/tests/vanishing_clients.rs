//! Clients that vanish, stall or read too slowly: they cost little, are given up
//! in time, and nobody else notices.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use harness::HANG;
use harness::gateway::{Gateway, Launch};
use harness::mcp::{LEGACY, Request, Session, call, call_with_progress, modern, request};
use harness::metrics::Page;
use harness::wire::{Event, Wire};

/// Waits until the gauges are back where they were.
async fn until_gauges_return(gateway: &Gateway, before: &Page, names: &[&str]) {
    let start = Instant::now();
    loop {
        let now = Page::fetch(gateway.admin).await;
        let above: Vec<_> = names
            .iter()
            .filter(|name| now.sum(name).unwrap_or(0.0) > before.sum(name).unwrap_or(0.0))
            .collect();
        if above.is_empty() {
            return;
        }
        assert!(start.elapsed() < HANG, "did not fall back: {above:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const GAUGES: [&str; 5] = [
    "shardgate_connections",
    "shardgate_streams",
    "shardgate_calls_in_flight",
    "shardgate_connections_held",
    "shardgate_send_queue_bytes",
];

fn short_times() -> Launch {
    Launch::default().config(
        "[limits]\nheader_timeout_ms = 500\nbody_timeout_ms = 500\nidle_connection_ms = 1500\n\
         heartbeat_ms = 500\nidle_session_ms = 600000\n",
    )
}

#[tokio::test]
async fn a_body_that_never_comes_is_answered_with_408_and_closed() {
    let gateway = short_times().start();
    let session = Session::open(gateway.listen, LEGACY).await.expect("open a session");
    let whole = session.post(&call(1, "echo", &json!({ "message": "half" })));
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    wire.send(&whole[..whole.len() - 10]).await.expect("send most of it");
    let answer = wire.answer().await.expect("an answer");
    assert_eq!(answer.head.status, 408, "{answer:?}");
    assert!(wire.is_closed().await);
    session.assert_healthy().await;
}

#[tokio::test]
async fn one_byte_a_second_is_not_enough() {
    let gateway = short_times().start();
    let session = Session::open(gateway.listen, LEGACY).await.expect("open a session");
    let before = Page::fetch(gateway.admin).await;
    let mut drips = Vec::new();
    for _ in 0..100 {
        drips.push(tokio::spawn(drip(gateway.listen)));
    }
    for drip in drips {
        assert!(drip.await.expect("no panic") < 100, "a whole head was sent byte by byte");
    }
    session.assert_healthy().await;
    until_gauges_return(&gateway, &before, &GAUGES).await;
}

/// Sends a head byte by byte until the gateway has had enough; returns how many were sent.
async fn drip(address: SocketAddr) -> usize {
    let head = Request::page("/healthz").header("x-pad", &"x".repeat(200)).bytes(address);
    let mut wire = Wire::connect(address).await.expect("connect");
    for (sent, byte) in head.iter().enumerate() {
        wire.send(&[*byte]).await.expect("the connection ends with an answer");
        if let Ok(answer) = tokio::time::timeout(Duration::from_millis(100), wire.answer()).await {
            assert_eq!(answer.expect("an answer before the close").head.status, 408);
            return sent;
        }
    }
    head.len()
}

#[tokio::test]
async fn silent_connections_are_closed_and_busy_ones_kept() {
    let gateway = short_times().start();
    let session = Session::open(gateway.listen, LEGACY).await.expect("open a session");
    let mut silent = Wire::connect(gateway.listen).await.expect("connect");
    session.ask(&mut silent, &request(1, "ping", &json!({}))).await.expect("a ping");
    let mut standing = Wire::connect(gateway.listen).await.expect("connect");
    session.stream(&mut standing, None).await.expect("a stream");
    let mut waiting = Wire::connect(gateway.listen).await.expect("connect");
    let sleep = call(2, "sleep", &json!({ "ms": 3_000 }));
    waiting.send(&session.post(&sleep)).await.expect("send");

    assert!(silent.is_closed_in_order().await, "an idle connection is closed in order");
    let answer = waiting.answer().await.expect("a waiting connection is not idle");
    assert_eq!(answer.json()["id"], 2, "{answer:?}");
    let update = async {
        let subscribe =
            request(3, "resources/subscribe", &json!({ "uri": "test://watched-resource" }));
        let mut wire = Wire::connect(gateway.listen).await.expect("connect");
        session.ask(&mut wire, &subscribe).await.expect("subscribe");
        let update = call(4, "test_trigger_resource_update", &json!({}));
        session.ask(&mut wire, &update).await.expect("update");
    };
    update.await;
    while standing.event().await.expect("a live stream").expect("an event").data.is_empty() {}
}

#[tokio::test]
async fn clients_that_vanish_leave_nothing_behind() {
    let gateway = short_times().start();
    let session = Session::open(gateway.listen, LEGACY).await.expect("open a session");
    let before = Page::fetch(gateway.admin).await;
    for round in 0..20 {
        let mut mid_head = Wire::connect(gateway.listen).await.expect("connect");
        mid_head.send(b"POST /mcp HTT").await.expect("send");
        let whole = session.post(&call(1_000 + round, "echo", &json!({ "message": "x" })));
        let mut mid_body = Wire::connect(gateway.listen).await.expect("connect");
        mid_body.send(&whole[..whole.len() - 5]).await.expect("send");
        let mut mid_stream = Wire::connect(gateway.listen).await.expect("connect");
        let arguments = json!({ "duration_ms": 400, "steps": 4 });
        let message = call_with_progress(2_000 + round, "long_running", &arguments, "p");
        mid_stream.send(&session.post(&message)).await.expect("send");
        mid_stream.head().await.expect("a head");
        let mut modern_call = Wire::connect(gateway.listen).await.expect("connect");
        let params = json!({ "name": "sleep", "arguments": { "ms": 3_600_000 } });
        let sleep = modern(1, "tools/call", params).bytes(gateway.listen);
        modern_call.send(&sleep).await.expect("send");
        for (at, wire) in [mid_head, mid_body, mid_stream, modern_call].into_iter().enumerate() {
            if (at as u64 + round).is_multiple_of(2) {
                wire.reset();
            }
        }
    }
    session.assert_healthy().await;
    // A modern call ends with its connection, so even an hour's sleep is over.
    until_gauges_return(&gateway, &before, &GAUGES).await;
}

#[tokio::test]
async fn a_call_goes_on_without_its_client_and_its_answer_waits() {
    let gateway = Launch::default().start();
    let session = Session::open(gateway.listen, LEGACY).await.expect("open a session");
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    let arguments = json!({ "duration_ms": 800, "steps": 8 });
    let message = call_with_progress(5, "long_running", &arguments, "p");
    wire.send(&session.post(&message)).await.expect("send");
    wire.head().await.expect("a head");
    let first = wire.event().await.expect("an event").expect("an event");
    let id = first.id.clone().expect("events have ids");
    wire.reset();
    // The call has ended long before the client comes back.
    until_calls_end(&gateway).await;
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    let head = session.stream(&mut wire, Some(&id)).await.expect("resume");
    assert_eq!(head.status, 200);
    let rest = events_to_the_end(&mut wire).await;
    let last = rest.last().expect("the answer").json();
    assert_eq!(last["id"], 5, "{last}");
    let progress = rest.iter().filter(|event| event.json()["method"].is_string()).count();
    assert!(progress >= 7, "{progress} progress notifications were replayed");
}

async fn until_calls_end(gateway: &Gateway) {
    let start = Instant::now();
    while Page::fetch(gateway.admin).await.sum("shardgate_calls_in_flight") != Some(0.0) {
        assert!(start.elapsed() < HANG, "the call never ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn events_to_the_end(wire: &mut Wire) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(event) = wire.event().await.expect("the stream ends in order") {
        if !event.data.is_empty() {
            events.push(event);
        }
    }
    events
}

#[tokio::test]
async fn an_idle_session_expires_and_is_then_unknown() {
    let config = "[limits]\nidle_session_ms = 1000\n";
    let gateway = Launch::default().config(config).start();
    let session = Session::open(gateway.listen, LEGACY).await.expect("open a session");
    let listened = Session::open(gateway.listen, LEGACY).await.expect("open a session");
    let mut standing = Wire::connect(gateway.listen).await.expect("connect");
    listened.stream(&mut standing, None).await.expect("a stream");
    let start = Instant::now();
    while Page::fetch(gateway.admin).await.sum("shardgate_sessions") != Some(1.0) {
        assert!(start.elapsed() < HANG, "the idle session never expired");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    let answer = session.ask(&mut wire, &request(1, "ping", &json!({}))).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.head.status, 404, "{answer:?}");
    assert_eq!(answer.json()["error"]["code"], -32001);
    listened.assert_healthy().await;
}

/// A call that asks its client something waits for ever if the client has gone.
#[tokio::test]
async fn a_session_expires_though_a_call_waits_for_its_vanished_client() {
    let gateway = Launch::default().config("[limits]\nidle_session_ms = 1000\n").start();
    let session = Session::open(gateway.listen, LEGACY).await.expect("open a session");
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    let message = call(1, "test_elicitation", &json!({ "message": "are you there?" }));
    wire.send(&session.post(&message)).await.expect("send");
    wire.head().await.expect("a head");
    while wire.event().await.expect("an event").expect("the question").data.is_empty() {}
    wire.reset();
    let start = Instant::now();
    while Page::fetch(gateway.admin).await.sum("shardgate_sessions") != Some(0.0) {
        assert!(start.elapsed() < HANG, "the session never expired");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(Page::fetch(gateway.admin).await.sum("shardgate_calls_in_flight"), Some(0.0));
}

#[tokio::test]
async fn a_slow_readers_stream_is_closed_and_can_be_resumed() {
    let gateway = Launch::default()
        .shards(1)
        .config(
            "[limits]\nslow_reader_bytes_max = 65536\nstream_backlog_events_max = 65536\n\
             stream_backlog_bytes_max = 1073741824\nheartbeat_ms = 200\n",
        )
        .start();
    let session = Session::open(gateway.listen, LEGACY).await.expect("open a session");
    let mut slow = Wire::connect_taking_at_most(gateway.listen, 64 * 1024).await.expect("connect");
    session.stream(&mut slow, None).await.expect("a stream");
    let primed = slow.event().await.expect("an event").expect("the priming event");
    let mut last_id = primed.id.expect("it carries an id");
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    let subscribe = request(1, "resources/subscribe", &json!({ "uri": "test://watched-resource" }));
    session.ask(&mut wire, &subscribe).await.expect("subscribe");

    // Far more than the socket buffers of both sides hold is sent and not read.
    let mut sent = 0;
    let start = Instant::now();
    loop {
        let times = json!({ "times": 1_000, "interval_ms": 0 });
        let update = call(10 + sent, "test_trigger_resource_update", &times);
        let answer = session.ask(&mut wire, &update).await.expect("updates");
        assert_eq!(answer.head.status, 200, "{answer:?}");
        sent += 1_000;
        if Page::fetch(gateway.admin).await.sum("shardgate_streams") == Some(0.0) {
            break;
        }
        assert!(start.elapsed() < HANG, "{sent} events were queued for a slow reader");
    }

    let mut heard = 0;
    // What had been sent before the close is still in the socket.
    while let Ok(Some(event)) = slow.event().await {
        heard += count_update(&event, &mut last_id);
    }
    assert!(heard < sent, "the reader was not slow");
    let mut again = Wire::connect(gateway.listen).await.expect("connect");
    let head = session.stream(&mut again, Some(&last_id)).await.expect("resume");
    assert_eq!(head.status, 200);
    while heard < sent {
        let event = again.event().await.expect("the replay").expect("an event");
        heard += count_update(&event, &mut last_id);
    }
    assert_eq!(heard, sent, "an event came twice");
    session.assert_healthy().await;
}

fn count_update(event: &Event, last_id: &mut String) -> u64 {
    if let Some(id) = &event.id {
        last_id.clone_from(id);
    }
    u64::from(event.json()["method"] == "notifications/resources/updated")
}
