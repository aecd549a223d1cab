//! Requests and answers that overlap, are cut short, or are larger than usual.
#![forbid(unsafe_code)]

#[allow(dead_code, reason = "every test binary uses its own part of the harness")]
mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use harness::gateway::{Gateway, Launch};
use harness::mcp::{LEGACY, Session, call, call_with_progress, notification, request, text_of};
use harness::metrics::Page;
use harness::wire::Wire;

/// Enough connections that both shards hold some of them: all on one shard in one run of 2^15.
const CONNECTIONS: usize = 16;

/// The client of a pipe closes its sending half behind its last request.
#[tokio::test]
async fn a_half_closed_connection_gets_all_answers_it_is_owed() {
    let gateway = Gateway::start();
    let session = Session::open(gateway.listen, LEGACY).await.expect("open a session");
    for _ in 0..CONNECTIONS {
        let mut wire = Wire::connect(gateway.listen).await.expect("connect");
        let mut bytes = session.post(&call(1, "echo", &json!({ "message": "first" })));
        bytes.extend(session.post(&call(2, "sleep", &json!({ "ms": 50 }))));
        bytes.extend(session.post(&call(3, "echo", &json!({ "message": "last" }))));
        wire.send(&bytes).await.expect("send three requests at once");
        wire.finish().await.expect("close the sending half");
        for id in 1..=3 {
            let answer = wire.answer().await.expect("an answer");
            assert_eq!(answer.json()["id"], id, "{answer:?}");
        }
        assert!(wire.is_closed_in_order().await, "nothing else is owed");
    }
}

/// Also if the answer is a stream that goes on for a while.
#[tokio::test]
async fn a_half_closed_connection_gets_its_stream_to_the_end() {
    let gateway = Gateway::start();
    let session = Session::open(gateway.listen, LEGACY).await.expect("open a session");
    for id in 0..CONNECTIONS as u64 {
        let mut wire = Wire::connect(gateway.listen).await.expect("connect");
        let arguments = json!({ "duration_ms": 60, "steps": 3 });
        let message = call_with_progress(id, "long_running", &arguments, "p");
        wire.send(&session.post(&message)).await.expect("send");
        wire.finish().await.expect("close the sending half");
        assert!(wire.head().await.expect("a head").is_events());
        let mut last = Value::Null;
        while let Some(event) = wire.event().await.expect("the stream ends in order") {
            if !event.data.is_empty() {
                last = event.json();
            }
        }
        assert_eq!(last["id"], id, "the stream was cut before its answer");
    }
}

/// Such requests were once taken for one that does not become whole, and answered 408.
#[tokio::test]
async fn whole_requests_wait_as_long_as_their_client_does_not_read() {
    const HEADER_TIMEOUT: Duration = Duration::from_millis(500);
    const RECEIVE_BUFFER_BYTES: u32 = 16 * 1024;
    let config = "[limits]\nslow_reader_bytes_max = 4096\nheader_timeout_ms = 500\n";
    let gateway = Launch::default().config(config).start();
    let session = Session::open(gateway.listen, LEGACY).await.expect("open a session");
    let mut reader =
        Wire::connect_taking_at_most(gateway.listen, RECEIVE_BUFFER_BYTES).await.expect("connect");
    let mut writer = reader.second_handle().expect("duplicate the descriptor");
    let sent = Arc::new(AtomicU64::new(0));
    let enough = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn({
        let (sent, enough) = (Arc::clone(&sent), Arc::clone(&enough));
        async move {
            while !enough.load(Ordering::Relaxed) {
                let id = sent.fetch_add(1, Ordering::Relaxed);
                let list = request(id, "tools/list", &json!({}));
                writer.write_all(&session.post(&list)).await.expect("send");
            }
        }
    });
    until_stuck(&gateway, &sent).await;
    tokio::time::sleep(2 * HEADER_TIMEOUT).await;
    enough.store(true, Ordering::Relaxed);
    let mut read = 0;
    // What the writer is about to send is taken only once somebody reads.
    while !writing.is_finished() || read < sent.load(Ordering::Relaxed) {
        let answer = reader.answer().await.expect("an answer");
        assert_eq!(answer.head.status, 200, "{answer:?}");
        assert_eq!(answer.json()["id"], read);
        read += 1;
    }
    writing.await.expect("the writer does not panic");
}

/// Waits until answers wait to be read and, for that, no more requests are taken.
async fn until_stuck(gateway: &Gateway, sent: &AtomicU64) {
    let start = Instant::now();
    let unread = async || Page::fetch(gateway.admin).await.sum("shardgate_send_queue_bytes");
    let mut before = u64::MAX;
    while before != sent.load(Ordering::Relaxed) || unread().await.is_none_or(|bytes| bytes == 0.0)
    {
        assert!(start.elapsed() < harness::HANG, "the client's buffers took all answers");
        before = sent.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Requests behind one that waits are neither lost nor reordered.
#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    const REQUESTS: u64 = 200;
    let gateway = Gateway::start();
    let session = Session::open(gateway.listen, LEGACY).await.expect("open a session");
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    let mut bytes = session.post(&call(0, "sleep", &json!({ "ms": 100 })));
    for id in 1..=REQUESTS {
        bytes.extend(session.post(&call(id, "echo", &json!({ "message": format!("no. {id}") }))));
    }
    wire.send(&bytes).await.expect("send");
    for id in 0..=REQUESTS {
        let answer = wire.answer().await.expect("an answer");
        assert_eq!(answer.json()["id"], id, "{answer:?}");
    }
}

/// A burst is no slow reader: only what stays unread for long is held against a client.
#[tokio::test]
async fn an_answer_larger_than_the_slow_reader_limit_arrives_whole() {
    const CALLS: u64 = 12;
    const BYTES: usize = 80_000;
    let config = "[limits]\nslow_reader_bytes_max = 65536\nstream_backlog_bytes_max = 4194304\n";
    let gateway = Launch::default().config(config).start();
    let session = Session::open(gateway.listen, "2025-03-26").await.expect("open a session");
    let message = "x".repeat(BYTES);
    let batch: Value = (0..CALLS)
        .map(|id| call(id, "echo", &json!({ "message": message })))
        .collect::<Vec<_>>()
        .into();
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    wire.send(&session.post(&batch)).await.expect("send the batch");
    assert_eq!(wire.head().await.expect("a head").status, 200);
    let mut answered = 0;
    while let Some(event) = wire.event().await.expect("the stream ends in order") {
        if !event.data.is_empty() {
            assert_eq!(text_of(&event.json()).map(str::len), Some(BYTES));
            answered += 1;
        }
    }
    assert_eq!(answered, CALLS);
}

/// Without an event id no client comes back for the stream, again and again.
#[tokio::test]
async fn a_cancelled_call_ends_as_an_empty_stream_nobody_resumes() {
    let gateway = Gateway::start();
    let session = Session::open(gateway.listen, LEGACY).await.expect("open a session");
    for _ in 0..CONNECTIONS {
        let mut waiting = Wire::connect(gateway.listen).await.expect("connect");
        let sleep = call(9, "sleep", &json!({ "ms": 3_600_000 }));
        waiting.send(&session.post(&sleep)).await.expect("send");
        let mut wire = Wire::connect(gateway.listen).await.expect("connect");
        let cancel = notification("notifications/cancelled", &json!({ "requestId": 9 }));
        // The call may still be on its way to the session's shard.
        let head = loop {
            let told = session.ask(&mut wire, &cancel).await.expect("cancel");
            assert_eq!(told.head.status, 202, "{told:?}");
            let patience = Duration::from_millis(200);
            if let Ok(head) = tokio::time::timeout(patience, waiting.head()).await {
                break head.expect("a head");
            }
        };
        assert_eq!((head.status, head.is_events()), (200, true), "{head:?}");
        let event = waiting.event().await.expect("the stream ends in order");
        assert!(event.is_none(), "{event:?}");
    }
    session.assert_healthy().await;
}

/// An error names its request, also if another shard made it.
#[tokio::test]
async fn errors_bear_the_requests_id_on_every_shard() {
    let gateway = Gateway::start();
    let session = Session::open(gateway.listen, LEGACY).await.expect("open a session");
    let mut wire = Wire::connect(gateway.listen).await.expect("connect");
    let ended = wire.ask(&session.delete()).await.expect("an answer");
    assert_eq!(ended.head.status, 200, "{ended:?}");
    for id in 0..CONNECTIONS as u64 {
        let mut wire = Wire::connect(gateway.listen).await.expect("connect");
        let ping = request(id, "ping", &json!({}));
        let answer = session.ask(&mut wire, &ping).await.expect("an answer");
        assert_eq!(answer.head.status, 404, "{answer:?}");
        assert_eq!(answer.json()["id"], id, "{answer:?}");
    }
}
