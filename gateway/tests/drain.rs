//! SIGTERM under load: what is in flight is answered, streams end with `retry:`,
//! no connection is reset, and the process ends with status 0 in time.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use harness::gateway::Launch;
use harness::mcp::{
    LEGACY, Request, Session, call, call_with_progress, initialize, modern, text_of,
};
use harness::wire::{Wire, WireError};

/// Clients that keep calling while the gateway is told to go.
const CALLERS: u64 = 64;

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_loses_no_answer_and_resets_no_connection() {
    let mut gateway = Launch::default().args(&["--drain-deadline-ms", "30000"]).start();
    let address = gateway.listen;
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let session = Session::open(address, LEGACY).await.expect("open a session");
        callers.spawn(call_until_told_to_stop(session, number));
    }
    let session = Session::open(address, LEGACY).await.expect("open a session");
    let mut standing = Wire::connect(address).await.expect("connect");
    assert_eq!(session.stream(&mut standing, None).await.expect("a stream").status, 200);
    let mut listening = listen(address).await;
    let mut slow = begin_slow_call(&session).await;

    gateway.terminate();

    let mut retry = None;
    while let Some(event) = standing.event().await.expect("the stream ends in order") {
        retry = event.retry_ms.or(retry);
    }
    assert!(retry.is_some(), "the standing stream ended without retry");
    while let Some(_event) = listening.event().await.expect("the listen stream ends in order") {}
    finish_slow_call(&mut slow).await;
    let mut answered = 0;
    while let Some(caller) = callers.join_next().await {
        answered += caller.expect("a caller does not panic").expect("a caller is not cut off");
    }
    assert!(answered >= CALLERS, "{answered} answers: there was no load");
    let status = gateway.wait_exit();
    assert!(status.success(), "{status}\n{}", gateway.log_tail());
}

/// Opens a modern listen stream up to its acknowledgement.
async fn listen(address: SocketAddr) -> Wire {
    let params = json!({ "notifications": { "toolsListChanged": true } });
    let mut wire = Wire::connect(address).await.expect("connect");
    wire.send(&modern(1, "subscriptions/listen", params).bytes(address)).await.expect("listen");
    assert_eq!(wire.head().await.expect("a head").status, 200);
    let event = wire.event().await.expect("an event").expect("the acknowledgement");
    assert_eq!(event.json()["method"], "notifications/subscriptions/acknowledged");
    wire
}

/// Begins a call that outlasts the beginning of the drain by far.
async fn begin_slow_call(session: &Session) -> Wire {
    let mut wire = Wire::connect(session.address).await.expect("connect");
    let arguments = json!({ "duration_ms": 2_000, "steps": 20 });
    let message = call_with_progress(7, "long_running", &arguments, "slow");
    wire.send(&session.post(&message)).await.expect("send");
    assert_eq!(wire.head().await.expect("a head").status, 200);
    while wire.event().await.expect("an event").expect("progress").data.is_empty() {}
    wire
}

async fn finish_slow_call(wire: &mut Wire) {
    let mut last = serde_json::Value::Null;
    while let Some(event) = wire.event().await.expect("the call's stream ends in order") {
        if !event.data.is_empty() {
            last = event.json();
        }
    }
    assert_eq!(last["id"], 7, "the call in flight was not answered: {last}");
    assert!(last["result"].is_object(), "{last}");
}

/// Calls without a pause. Each call must be answered whole; the connection may
/// end only in order and only between two answers.
async fn call_until_told_to_stop(session: Session, number: u64) -> Result<u64, WireError> {
    let mut wire = Wire::connect(session.address).await?;
    let mut answered = 0;
    loop {
        let payload = format!("caller {number} call {answered}");
        let message = call(answered + 1, "echo", &json!({ "message": payload }));
        let answer = session.ask(&mut wire, &message).await?;
        match answer.head.status {
            200 => {
                let json = answer.json();
                let echoed = text_of(&json).is_some_and(|text| text.ends_with(&payload));
                assert!(echoed, "{payload:?} was answered with {json}");
                answered += 1;
            }
            503 => {}
            other => panic!("{payload:?} was answered with status {other}: {answer:?}"),
        }
        if answer.head.closes() {
            assert!(wire.is_closed_in_order().await, "a reset instead of a close");
            return Ok(answered);
        }
    }
}

#[tokio::test]
async fn a_draining_node_says_so_and_takes_no_new_session() {
    let mut gateway = Launch::default().start();
    let address = gateway.listen;
    let session = Session::open(address, LEGACY).await.expect("open a session");
    let mut slow = begin_slow_call(&session).await;
    let mut probe = Wire::connect(address).await.expect("connect");
    let ready = Request::page("/readyz").bytes(address);
    let answer = probe.ask(&ready).await.expect("a probe");
    assert_eq!(answer.head.status, 200, "{answer:?}");
    let mut late = Wire::connect(address).await.expect("connect before the drain");

    gateway.terminate();
    // Until the gateway has seen the signal it may still say that it is ready.
    loop {
        let answer = probe.ask(&ready).await.expect("a probe on an open connection");
        if answer.head.status == 503 {
            break;
        }
        assert!(!answer.head.closes(), "it closes but says that it is ready: {answer:?}");
    }
    let open = Request::post(&initialize(LEGACY)).bytes(address);
    let answer = late.ask(&open).await.expect("an answer on a connection from before");
    assert_eq!(answer.head.status, 503, "{answer:?}");
    finish_slow_call(&mut slow).await;
    assert!(gateway.wait_exit().success());
}

/// A load balancer may send on a connection it has kept idle for long, just when the drain
/// begins.
#[tokio::test]
async fn a_long_idle_connection_may_still_send_when_the_drain_begins() {
    const LINGER: Duration = Duration::from_millis(1_500);
    let config = "[limits]\ndrain_linger_ms = 1500\n";
    let mut gateway = Launch::default().config(config).start();
    let session = Session::open(gateway.listen, LEGACY).await.expect("open a session");
    let mut idle = Wire::connect(gateway.listen).await.expect("connect");
    let echo = call(1, "echo", &json!({ "message": "x" }));
    session.ask(&mut idle, &echo).await.expect("an answer");
    tokio::time::sleep(LINGER).await;
    gateway.terminate();
    let answer = loop {
        let answer = session.ask(&mut idle, &echo).await.expect("an answer, not a close");
        assert_eq!(answer.head.status, 200, "{answer:?}");
        if answer.head.closes() {
            break answer;
        }
    };
    assert_eq!(answer.json()["id"], 1);
    assert!(idle.is_closed_in_order().await);
    assert!(gateway.wait_exit().success());
}

#[tokio::test]
async fn the_deadline_ends_what_never_ends_by_itself() {
    let mut gateway = Launch::default().args(&["--drain-deadline-ms", "300"]).start();
    let session = Session::open(gateway.listen, LEGACY).await.expect("open a session");
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    let sleep = call(1, "sleep", &json!({ "ms": 3_600_000 }));
    wire.send(&session.post(&sleep)).await.expect("send");
    session.assert_healthy().await;
    gateway.terminate();
    let status = gateway.wait_exit();
    // An answer was still owed: whoever restarts nodes must be able to tell.
    let log = gateway.log_tail();
    assert_eq!(status.code(), Some(1), "{status}\n{log}");
    assert!(log.contains("the drain met its deadline of 300 ms"), "{log}");
}

#[tokio::test]
async fn an_idle_gateway_goes_at_once() {
    let mut gateway = Launch::default().start();
    let idle = Wire::connect(gateway.listen).await.expect("connect");
    gateway.terminate();
    assert!(gateway.wait_exit().success());
    drop(idle);
}
