//! Responses, and what a client makes of them, must come out the same however
//! their bytes are cut.
//!
//! The first byte chooses the limits and the request, the second how the rest is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shardgate_proto::clock::Millis;
use shardgate_proto::http_client::{
    Content, ExchangeEvent, HttpClient, HttpClientSettings, OTHER_BODY_BYTES_MAX, Request, Verb,
};
use shardgate_proto::http1::client::{Ending, ResponseDecoder, ResponsePart};
use shardgate_proto::upstream::{EndpointId, Event, Events, LinkEnd, LinkKey};

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Head(String),
    Body(Vec<u8>),
    End(bool),
    Closed(Ending),
    Bad(String),
}

fn decode<'p>(pieces: impl Iterator<Item = &'p [u8]>, head_bytes_max: usize) -> Vec<Seen> {
    let mut decoder = ResponseDecoder::new(head_bytes_max);
    let mut all = Vec::new();
    for piece in pieces {
        let mut input = piece.to_vec();
        let mut from = 0;
        loop {
            let given = input.len() - from;
            match decoder.decode(&mut input[from..]) {
                Ok(ResponsePart::Head { head, consumed }) => {
                    assert!(consumed <= given && (200..600).contains(&head.status()));
                    assert!(head.session_id().is_none_or(|id| !id.is_empty() && id.is_ascii()));
                    let lines: Vec<_> = head.headers().collect();
                    all.push(Seen::Head(format!(
                        "{} {:?} {:?} {:?} {:?} {lines:?}",
                        head.status(),
                        head.version(),
                        head.body_length(),
                        head.retry_after_s(),
                        head.location(),
                    )));
                    from += consumed;
                }
                Ok(ResponsePart::Body { bytes, consumed, .. }) => {
                    assert!(!bytes.is_empty() && bytes.len() <= consumed && consumed <= given);
                    match all.last_mut() {
                        Some(Seen::Body(body)) => body.extend_from_slice(bytes),
                        _ => all.push(Seen::Body(bytes.to_vec())),
                    }
                    from += consumed;
                }
                Ok(ResponsePart::End { keep_alive, consumed }) => {
                    assert!(consumed <= given);
                    all.push(Seen::End(keep_alive));
                    from += consumed;
                }
                Ok(ResponsePart::NeedMore) => break,
                Err(bad) => {
                    all.push(Seen::Bad(bad.to_string()));
                    return all;
                }
            }
        }
    }
    all.push(match decoder.end() {
        Ok(ending) => Seen::Closed(ending),
        Err(bad) => Seen::Bad(bad.to_string()),
    });
    all
}

const MESSAGE_BYTES_MAX: usize = 40;

/// The events of one exchange; checks that exactly one of them is its last.
fn exchange<'p>(pieces: impl Iterator<Item = &'p [u8]>, choice: u8) -> Vec<String> {
    let mut client = HttpClient::new(HttpClientSettings {
        owner: 1,
        endpoint: EndpointId(0),
        authority: "a".to_owned(),
        path: "/".to_owned(),
        fields: Vec::new(),
        connections_max: 1,
        waiting_max: 0,
        head_bytes_max: head_bytes_max(choice),
        message_bytes_max: MESSAGE_BYTES_MAX,
        idle_link_ms: 10,
        connect_timeout_ms: 10,
        head_timeout_ms: 10,
    });
    let request = Request {
        verb: if choice & 2 == 0 { Verb::Post } else { Verb::Get },
        path: None,
        fields: &[],
        body: &[],
        accept: "*/*",
        timeout_ms: None,
        repeatable: choice & 4 == 0,
    };
    let (mut events, now, link) = (Events::new(), Millis(0), LinkKey::new(1, 0));
    let (mut seen, mut ended, mut bytes_max) = (Vec::new(), false, 0);
    let mut sink = |_, event: ExchangeEvent<'_>| {
        assert!(!ended, "something comes behind the end");
        match &event {
            ExchangeEvent::Head { status, content, .. } => {
                let collected = *content == Content::Other || *status >= 300;
                let is_text = collected && *content != Content::Events;
                bytes_max = if is_text { OTHER_BODY_BYTES_MAX } else { MESSAGE_BYTES_MAX };
            }
            ExchangeEvent::Message { data, .. } => assert!(data.len() <= bytes_max),
            ExchangeEvent::Retry(_) | ExchangeEvent::End { .. } | ExchangeEvent::Failed(_) => {}
        }
        ended = matches!(event, ExchangeEvent::End { .. } | ExchangeEvent::Failed(_));
        seen.push(format!("{event:?}"));
    };
    client.send(&request, now, &mut events).unwrap();
    client.link_opened(link, now, &mut events, &mut sink);
    for piece in pieces {
        client.link_received(link, &mut piece.to_vec(), now, &mut events, &mut sink);
    }
    client.link_closed(link, LinkEnd::Closed, now, &mut events, &mut sink);
    assert!(ended, "nothing says that the exchange has ended");
    assert_eq!((client.links(), client.in_flight()), (0, 0));
    let opened = events.list().iter().filter(|event| matches!(event, Event::OpenLink { .. }));
    assert_eq!(opened.count(), 1, "a fresh link's request is never repeated");
    seen
}

fn head_bytes_max(choice: u8) -> usize {
    if choice & 1 == 0 { 16 * 1024 } else { 120 }
}

fuzz_target!(|data: &[u8]| {
    let [choice, cut, stream @ ..] = data else { return };
    let bound = head_bytes_max(*choice);
    let size = usize::from(*cut) + 1;
    let whole = decode(std::iter::once(stream), bound);
    assert_eq!(decode(stream.chunks(size), bound), whole, "cut every {size} bytes");
    assert_eq!(decode(stream.chunks(1), bound), whole, "byte by byte");
    let whole = exchange(std::iter::once(stream), *choice);
    assert_eq!(exchange(stream.chunks(size), *choice), whole, "cut every {size} bytes");
    assert_eq!(exchange(stream.chunks(1), *choice), whole, "byte by byte");
});
