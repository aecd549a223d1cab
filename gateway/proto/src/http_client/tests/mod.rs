//! Exchanges in scripts: what is sent, what comes out, whatever the server does.

mod answers;
mod failures;
mod pooling;

use super::*;
use crate::clock::Millis;
use crate::upstream::{Event, Events, LinkEnd, LinkKey};

fn settings() -> HttpClientSettings {
    HttpClientSettings {
        owner: 3,
        endpoint: EndpointId(5),
        authority: "tools:8080".to_owned(),
        path: "/mcp".to_owned(),
        fields: vec![("X-Key".to_owned(), "k".to_owned())],
        connections_max: 2,
        waiting_max: 2,
        head_bytes_max: 1_000,
        message_bytes_max: 100,
        idle_link_ms: 5_000,
        connect_timeout_ms: 200,
        head_timeout_ms: 1_000,
    }
}

/// What the client wants done with its links.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Done {
    Open(u64),
    Send(u64, String),
    Close(u64),
}

/// A client with its server played by the test.
struct Rig {
    client: HttpClient,
    events: Events,
    now: Millis,
    seen: Vec<(u64, String)>,
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn note(seen: &mut Vec<(u64, String)>, key: ExchangeKey, event: &ExchangeEvent<'_>) {
    let line = match event {
        ExchangeEvent::Head {
            status,
            content,
            session_id,
            retry_after_s,
            location,
            www_authenticate,
        } => {
            let retry = retry_after_s.map(|seconds| format!("retry {seconds}"));
            let more = [*session_id, *location, *www_authenticate, retry.as_deref()];
            let more = more.into_iter().flatten().map(|value| format!(" {value}"));
            format!("{status} {content:?}{}", more.collect::<String>())
        }
        ExchangeEvent::Message { event: name, id, data } => {
            format!("message {}:{}:{}", text(name), text(id), text(data))
        }
        ExchangeEvent::Retry(retry_ms) => format!("retry {retry_ms}"),
        ExchangeEvent::End { last_event_id } => format!("end {}", text(last_event_id)),
        ExchangeEvent::Failed(failure) => format!(
            "{:?} sent={} {} [{}]",
            failure.kind,
            failure.sent,
            failure.text,
            text(&failure.last_event_id)
        ),
    };
    seen.push((key.0, line));
}

const PING: Request<'static> = Request {
    verb: Verb::Post,
    path: None,
    fields: &[],
    body: &[b"{\"id\":", b"1}"],
    accept: "application/json",
    timeout_ms: None,
    repeatable: false,
};

const PING_TEXT: &str = "POST /mcp HTTP/1.1\r\nHost: tools:8080\r\nAccept-Encoding: identity\r\nX-Key: k\r\nAccept: application/json\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{\"id\":1}";

const REPEATABLE: Request<'static> = Request { repeatable: true, ..PING };

const JSON: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nMcp-Session-Id: s\r\n\r\n";

impl Rig {
    fn new() -> Rig {
        Rig::with(settings())
    }

    fn with(settings: HttpClientSettings) -> Rig {
        let client = HttpClient::new(settings);
        Rig { client, events: Events::new(), now: Millis(1_000), seen: Vec::new() }
    }

    /// A client with one idle link, number 0, that has served exchange 0.
    fn warm() -> Rig {
        let mut rig = Rig::new();
        rig.send(&PING);
        rig.open(0);
        rig.receive(0, JSON);
        rig.done();
        rig.seen.clear();
        rig
    }

    fn send(&mut self, request: &Request<'_>) -> u64 {
        self.client.send(request, self.now, &mut self.events).unwrap().0
    }

    fn open(&mut self, link: u64) {
        let Rig { client, events, now, seen } = self;
        client.link_opened(
            LinkKey::new(3, link),
            *now,
            events,
            &mut |key, event: ExchangeEvent<'_>| {
                note(seen, key, &event);
            },
        );
    }

    fn receive(&mut self, link: u64, bytes: &str) {
        let Rig { client, events, now, seen } = self;
        let mut bytes = bytes.as_bytes().to_vec();
        let link = LinkKey::new(3, link);
        client.link_received(
            link,
            &mut bytes,
            *now,
            events,
            &mut |key, event: ExchangeEvent<'_>| {
                note(seen, key, &event);
            },
        );
    }

    fn close(&mut self, link: u64, end: LinkEnd) {
        let Rig { client, events, now, seen } = self;
        let link = LinkKey::new(3, link);
        client.link_closed(link, end, *now, events, &mut |key, event: ExchangeEvent<'_>| {
            note(seen, key, &event);
        });
    }

    /// Lets time pass as a driver does, which looks at the timeout again and again.
    fn pass(&mut self, milliseconds: u64) {
        let until = self.now + milliseconds;
        while let Some(due) = self.client.poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            let Rig { client, events, now, seen } = self;
            client.handle_timeout(*now, events, &mut |key, event: ExchangeEvent<'_>| {
                note(seen, key, &event);
            });
            assert!(client.poll_timeout().is_none_or(|next| next > *now), "a timeout stays due");
        }
        self.now = until;
    }

    /// What was done with links since the last call.
    fn done(&mut self) -> Vec<Done> {
        let number = |link: LinkKey| {
            assert_eq!(link.owner(), 3);
            (0..100).find(|number| LinkKey::new(3, *number) == link).unwrap()
        };
        let list = self.events.list().iter().map(|event| match event {
            Event::OpenLink { link, endpoint: EndpointId(5) } => Done::Open(number(*link)),
            Event::Send { link, bytes } => {
                let bytes = self.events.bytes(bytes).to_vec();
                Done::Send(number(*link), String::from_utf8(bytes).unwrap())
            }
            Event::CloseLink { link } => Done::Close(number(*link)),
            other @ (Event::Answer { .. }
            | Event::Notify { .. }
            | Event::Ask { .. }
            | Event::CloseStream { .. }
            | Event::Siblings { .. }
            | Event::OpenLink { .. }) => panic!("{other:?}"),
        });
        let list = list.collect();
        self.events.clear();
        list
    }

    /// The events of exchanges since the last call.
    fn seen(&mut self) -> Vec<(u64, String)> {
        std::mem::take(&mut self.seen)
    }

    /// The only event since the last call, which is of this exchange.
    fn only(&mut self, exchange: u64) -> String {
        let seen = self.seen();
        let [(key, line)] = seen.as_slice() else { panic!("{seen:?}") };
        assert_eq!(*key, exchange);
        line.clone()
    }
}

fn lines(seen: &[(u64, String)], exchange: u64) -> Vec<&str> {
    seen.iter().filter(|(key, _)| *key == exchange).map(|(_, line)| line.as_str()).collect()
}

mod at_random {
    use proptest::prelude::*;

    use super::*;

    /// Parts of answers, mostly right, put together in any order.
    fn piece() -> impl Strategy<Value = &'static str> {
        prop::sample::select(
            &[
                JSON,
                STREAM,
                "HTTP/1.1 100 Continue\r\n\r\n",
                "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n",
                "HTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\nabc",
                "9\r\ndata: 1\n\n\r\n",
                "6\r\nid: 1\n\r\n",
                "8\r\ndata: 2\n\r\n",
                "data: x\n\n",
                "2\r\n{}\r\n",
                "0\r\n\r\n",
                "{}",
                "\r\n",
                "x",
            ][..],
        )
    }

    /// What comes of two requests that are answered by `stream`, cut at these lengths.
    fn outcome(stream: &str, cuts: &[usize], repeatable: bool) -> Vec<(u64, String)> {
        let mut rig = Rig::with(HttpClientSettings { connections_max: 1, ..settings() });
        let request = Request { repeatable, ..PING };
        rig.send(&request);
        rig.open(0);
        let mut rest = stream;
        for cut in cuts.iter().copied().chain([usize::MAX]) {
            let (part, behind) = rest.split_at(cut.min(rest.len()));
            rig.receive(0, part);
            rest = behind;
        }
        rig.close(0, LinkEnd::Closed);
        assert_eq!(rig.client.links(), 0);
        let seen = rig.seen();
        let is_last = |line: &str| line.starts_with("end") || line.contains(" sent=");
        let ends = seen.iter().filter(|(_, line)| is_last(line)).count();
        assert_eq!(ends, 1, "{seen:?}");
        assert!(is_last(&seen.last().unwrap().1));
        seen
    }

    proptest! {
        #[test]
        fn every_cut_gives_the_same_events_and_one_end(
            pieces in prop::collection::vec(piece(), 1..10),
            cuts in prop::collection::vec(1..60_usize, 1..20),
            repeatable in any::<bool>(),
        ) {
            let stream = pieces.concat();
            let whole = outcome(&stream, &[], repeatable);
            prop_assert_eq!(outcome(&stream, &cuts, repeatable), whole.clone());
            prop_assert_eq!(outcome(&stream, &vec![1; stream.len()], repeatable), whole);
        }
    }
}
