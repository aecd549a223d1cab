//! Streams in tables and at random.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Event(String, String, String),
    Retry(u64),
    TooLarge,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read<'p>(pieces: impl IntoIterator<Item = &'p [u8]>, event_bytes_max: usize) -> Vec<Seen> {
    let mut decoder = EventDecoder::new(event_bytes_max);
    let mut all = Vec::new();
    for piece in pieces {
        let mut input = piece;
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(Received::Event { id, name, data })) => {
                    all.push(Seen::Event(text(id), text(name), text(data)));
                }
                Ok(Some(Received::Retry(retry_ms))) => all.push(Seen::Retry(retry_ms)),
                Ok(None) => break,
                Err(EventTooLarge { .. }) => {
                    all.push(Seen::TooLarge);
                    return all;
                }
            }
        }
        assert!(input.is_empty());
    }
    all
}

fn event(id: &str, name: &str, data: &str) -> Seen {
    Seen::Event(id.to_owned(), name.to_owned(), data.to_owned())
}

#[test]
fn streams_are_read_as_the_standard_says() {
    let table: &[(&[u8], &[Seen])] = &[
        (b"data: a\n\n", &[event("", "", "a")]),
        (
            b"data: a\r\rdata:b\r\n\r\ndata:  c\n\n",
            &[event("", "", "a"), event("", "", "b"), event("", "", " c")],
        ),
        (b"\xEF\xBB\xBFdata: a\n\n", &[event("", "", "a")]),
        // Each of the three line ends counts once: CRLF is no empty line.
        (b"id: 1\r\ndata: a\r\ndata: b\rdata: c\ndata: d\r\n\r\n", &[event("1", "", "a\nb\nc\nd")]),
        // Only the first byte order mark is one; a later line starts with an unknown field.
        (b"\n\xEF\xBB\xBFdata: a\n\n", &[]),
        (
            b"event: x\nid: 1\ndata: a\ndata\ndata: b\n\ndata: c\n\n",
            &[event("1", "x", "a\n\nb"), event("1", "", "c")],
        ),
        (b"id: 1\ndata: \n\n", &[event("1", "", "")]),
        // No data, no event; but the id stays.
        (b"event: x\nid: 1\n\ndata: a\n\n", &[event("1", "", "a")]),
        (b"id: 1\nid: a\0b\ndata: a\n\n", &[event("1", "", "a")]),
        (b"id: 1\ndata: a\n\nid\ndata: b\n\n", &[event("1", "", "a"), event("", "", "b")]),
        (b": hello\n:\nfoo: bar\nfoo\ndata: a\n\n", &[event("", "", "a")]),
        (
            b"retry: 10\nretry: 1x\nretry:\nretry: +1\nretry: 99999999999999999999999\ndata: a\n\n",
            &[Seen::Retry(10), event("", "", "a")],
        ),
        (b"Data: a\n data: b\n\n", &[]),
        (b"data: cut off", &[]),
        (b"data: cut off\n", &[]),
    ];
    for (stream, wanted) in table {
        assert_eq!(read([*stream], 1_000), *wanted, "{:?}", text(stream));
        assert_eq!(read(stream.chunks(1), 1_000), *wanted, "bytewise {:?}", text(stream));
    }
}

#[test]
fn an_id_counts_only_when_its_event_is_whole() {
    let mut decoder = EventDecoder::new(100);
    let mut input = &b"id: 1\ndata: a\n\nid: 2\ndata: b\n"[..];
    assert!(decoder.decode(&mut input).unwrap().is_some());
    assert_eq!(decoder.decode(&mut input), Ok(None));
    assert_eq!(decoder.last_event_id(), b"1");
}

#[test]
fn an_event_is_bounded_over_all_its_lines() {
    assert_eq!(read([&b"data: 12345\n\n"[..]], 11), [event("", "", "12345")]);
    assert_eq!(read([&b"data: 123456\n\n"[..]], 11), [Seen::TooLarge]);
    assert_eq!(
        read([&b"data: 1\n\n"[..], b"data: 12\ndata: 3\ndata: 4\n\n"], 11)[1..],
        [Seen::TooLarge]
    );
    assert_eq!(read(b"no line end at all".chunks(1), 11), [Seen::TooLarge]);
}

#[test]
fn what_is_written_looks_as_it_should() {
    let mut out = Vec::new();
    let wanted =
        Event { id: Some("7"), name: Some("endpoint"), retry_ms: Some(9), data: b"a\r\nb\rc\n" };
    write_event(&mut out, &wanted);
    write_priming_event(&mut out, "8", None);
    write_comment(&mut out, "");
    write_comment(&mut out, "x");
    write_retry(&mut out, 5);
    assert_eq!(
        text(&out),
        "event: endpoint\nid: 7\nretry: 9\ndata: a\ndata: b\ndata: c\ndata: \n\nid: 8\ndata: \n\n:\n\n: x\n\nretry: 5\n\n"
    );
}

proptest! {
    #[test]
    fn events_survive_the_round_trip(
        events in prop::collection::vec(("[^\0\r\n]{0,8}", "[^\0\r\n]{0,8}", "([ -~é€]|\n|\r|\r\n){0,20}"), 0..6),
        cut in 1..9_usize,
    ) {
        let mut out = Vec::new();
        let mut wanted = Vec::new();
        for (id, name, data) in &events {
            write_comment(&mut out, "");
            write_event(&mut out, &Event { id: Some(id), name: Some(name), retry_ms: Some(3), data: data.as_bytes() });
            wanted.push(Seen::Retry(3));
            wanted.push(event(id, name, &data.replace("\r\n", "\n").replace('\r', "\n")));
        }
        prop_assert_eq!(read(out.chunks(cut), 10_000), wanted);
    }

    #[test]
    fn any_cut_of_any_stream_reads_the_same(
        stream in prop::collection::vec(prop::sample::select(&b"dataidevntretry:: \n\n\r\r01\0\xEF\xBB\xBF"[..]), 0..120),
        cut in 1..40_usize,
    ) {
        let whole = read([stream.as_slice()], 30);
        prop_assert_eq!(read(stream.chunks(cut), 30), whole.clone());
        prop_assert_eq!(read(stream.chunks(1), 30), whole);
    }
}
