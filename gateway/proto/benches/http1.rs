//! What it costs to decode a typical request, to write a typical answer, and to ask a tool server.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shardgate_proto::clock::Millis;
use shardgate_proto::http_client::{ExchangeEvent, HttpClient, HttpClientSettings, Request, Verb};
use shardgate_proto::http1::{
    Decoded, Extras, HttpDate, Limits, RequestDecoder, Status, write_json,
};
use shardgate_proto::upstream::{EndpointId, Events, LinkKey};

fn request() -> Vec<u8> {
    let body = r#"{"jsonrpc":"2.0","id":12345,"method":"tools/call","params":{"name":"echo","arguments":{"message":"hello from a client with a short message of text","n":17},"_meta":{"progressToken":"t-12345"}}}"#;
    format!(
        "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: typical-client/1.32.0\r\nAccept: application/json, text/event-stream\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nMcp-Session-Id: n1.0123.4f8a5e0c9b7d6a3f21e0.9c8b7a6f5e4d3c2b\r\nMCP-Protocol-Version: 2025-11-25\r\nAccept-Language: *\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn http1(criterion: &mut Criterion) {
    let limits = Limits::default();
    let mut input = request();
    let mut group = criterion.benchmark_group("request");
    group.throughput(Throughput::Bytes(input.len() as u64));
    let mut decoder = RequestDecoder::new();
    group.bench_function("whole", |bencher| {
        bencher.iter(|| {
            let decoded = decoder.decode(black_box(&mut input), &limits);
            let Decoded::Request { request, consumed } = decoded else { panic!("{decoded:?}") };
            (request.head.mcp_session_id().map(<[u8]>::len), request.body.len(), consumed)
        });
    });
    group.bench_function("in_two_pieces", |bencher| {
        let (head, body) = input.split_at_mut(300);
        bencher.iter(|| {
            assert!(matches!(decoder.decode(black_box(head), &limits), Decoded::NeedMore));
            let decoded = decoder.decode(black_box(body), &limits);
            let Decoded::Request { request, .. } = decoded else { panic!("{decoded:?}") };
            request.body.len()
        });
    });
    group.finish();

    let date = HttpDate::from_unix_s(1_800_000_000);
    let body = [b'x'; 150];
    let mut out = Vec::with_capacity(1_024);
    criterion.bench_function("answer/json", |bencher| {
        bencher.iter(|| {
            out.clear();
            let extras = Extras { date: Some(&date), ..Extras::default() };
            write_json(&mut out, Status::OK, black_box(&extras), black_box(&body));
            out.len()
        });
    });
}

/// A keep-alive POST to a tool server and its small JSON answer.
fn exchange(criterion: &mut Criterion) {
    let mut client = HttpClient::new(HttpClientSettings {
        owner: 0,
        endpoint: EndpointId(0),
        authority: "127.0.0.1:8080".to_owned(),
        path: "/mcp".to_owned(),
        fields: Vec::new(),
        connections_max: 1,
        waiting_max: 0,
        head_bytes_max: 16 * 1024,
        message_bytes_max: 16 * 1024 * 1024,
        idle_link_ms: 5_000,
        connect_timeout_ms: 5_000,
        head_timeout_ms: 5_000,
    });
    let fields = [("Mcp-Session-Id", "0123456789abcdef"), ("MCP-Protocol-Version", "2025-11-25")];
    let body: [&[u8]; 3] = [b"{\"jsonrpc\":\"2.0\",\"id\":", b"17", &[b'x'; 150]];
    let request = Request {
        verb: Verb::Post,
        path: None,
        fields: &fields,
        body: &body,
        accept: "application/json, text/event-stream",
        timeout_ms: None,
        repeatable: false,
    };
    let mut answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 150\r\n\r\n".to_vec();
    answer.extend_from_slice(&[b'x'; 150]);
    let (mut events, now, link) = (Events::new(), Millis(0), LinkKey::new(0, 0));
    criterion.bench_function("exchange/json", |bencher| {
        bencher.iter(|| {
            let sent = client.send(black_box(&request), now, &mut events);
            assert!(sent.is_ok());
            let mut message_bytes = 0;
            let mut sink = |_, event: ExchangeEvent<'_>| {
                if let ExchangeEvent::Message { data, .. } = event {
                    message_bytes = data.len();
                }
            };
            client.link_opened(link, now, &mut events, &mut sink);
            client.link_received(link, black_box(&mut answer), now, &mut events, &mut sink);
            assert_eq!(message_bytes, 150);
            events.clear();
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(std::time::Duration::from_secs(2)).warm_up_time(std::time::Duration::from_millis(500));
    targets = http1, exchange
}
criterion_main!(benches);
