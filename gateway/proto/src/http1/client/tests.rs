//! Responses in tables: what is read, what is refused and why, however it is cut.

use super::*;

/// What can be seen of a connection's responses.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Head(u16, BodyLength, Vec<(String, Vec<u8>)>),
    Body(Vec<u8>),
    End { keep_alive: bool },
    Closed(Ending),
    Bad(BadResponse),
}

const HEAD_BYTES_MAX: usize = 400;

/// Feeds `pieces` one after the other, then the end of the connection.
fn feed<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Vec<Seen> {
    let mut decoder = ResponseDecoder::new(HEAD_BYTES_MAX);
    let mut all = Vec::new();
    for piece in pieces {
        let mut input = piece.to_vec();
        let mut from = 0;
        loop {
            match decoder.decode(&mut input[from..]) {
                Ok(ResponsePart::Head { head, consumed }) => {
                    let headers =
                        head.headers().map(|(name, value)| (name.to_owned(), value.to_vec()));
                    all.push(Seen::Head(head.status(), head.body_length(), headers.collect()));
                    from += consumed;
                }
                Ok(ResponsePart::Body { bytes, consumed, .. }) => {
                    assert!(!bytes.is_empty());
                    match all.last_mut() {
                        Some(Seen::Body(body)) => body.extend_from_slice(bytes),
                        _ => all.push(Seen::Body(bytes.to_vec())),
                    }
                    from += consumed;
                }
                Ok(ResponsePart::End { keep_alive, consumed }) => {
                    all.push(Seen::End { keep_alive });
                    from += consumed;
                }
                Ok(ResponsePart::NeedMore) => break,
                Err(fault) => {
                    all.push(Seen::Bad(fault));
                    return all;
                }
            }
        }
    }
    all.push(decoder.end().map_or_else(Seen::Bad, Seen::Closed));
    all
}

/// The outcome, after checking that it is the same in one piece, byte by byte and in halves.
fn outcome(input: &[u8]) -> Vec<Seen> {
    let whole = feed([input]);
    assert_eq!(feed(input.chunks(1)), whole, "byte by byte");
    for cut in 1..input.len().min(300) {
        let (one, two) = input.split_at(cut);
        assert_eq!(feed([one, two]), whole, "cut at {cut}");
    }
    whole
}

fn bad(input: &[u8]) -> BadResponse {
    match outcome(input).pop() {
        Some(Seen::Bad(fault)) => fault,
        other => panic!("not refused: {other:?}"),
    }
}

fn end_of(input: &[u8]) -> Seen {
    outcome(input).pop().unwrap()
}

#[test]
fn an_idle_decoder_owns_nothing() {
    let mut decoder = ResponseDecoder::new(HEAD_BYTES_MAX);
    assert!(matches!(
        decoder.decode(&mut b"HTTP/1.1 200 OK\r\nCont".to_vec()),
        Ok(ResponsePart::NeedMore)
    ));
    assert!(!decoder.owns_nothing());
    let mut rest = b"ent-Length: 2\r\n\r\n{}".to_vec();
    let Ok(ResponsePart::Head { head, consumed }) = decoder.decode(&mut rest) else {
        panic!("no head");
    };
    assert_eq!((head.status(), head.body_length()), (200, BodyLength::Bytes(2)));
    let part = decoder.decode(&mut rest[consumed..]);
    let Ok(ResponsePart::Body { bytes, last: true, consumed: 2 }) = part else { panic!("no body") };
    assert_eq!(bytes, b"{}");
    assert!(matches!(decoder.decode(&mut []), Ok(ResponsePart::End { keep_alive: true, .. })));
    assert!(decoder.owns_nothing());
}

#[test]
fn fields_of_interest_are_found_whatever_their_case() {
    let mut input = b"HTTP/1.1 401 \r\nCONTENT-TYPE: Application/JSON; charset=utf-8\r\nmcp-session-id:  s-1 \r\nRetry-after: 30\r\nlocation: /x\r\nwww-Authenticate: Bearer a\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n".to_vec();
    let mut decoder = ResponseDecoder::new(HEAD_BYTES_MAX);
    let Ok(ResponsePart::Head { head, .. }) = decoder.decode(&mut input) else { panic!("no head") };
    assert!(head.content_type_is("application/json") && !head.content_type_is("text/html"));
    assert_eq!((head.status(), head.session_id()), (401, Some("s-1")));
    assert_eq!((head.retry_after_s(), head.location()), (Some(30), Some("/x")));
    assert_eq!(head.www_authenticate(), Some("Bearer a"));
    let date = b"HTTP/1.1 503 x\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n\r\n";
    let mut input = date.to_vec();
    let mut decoder = ResponseDecoder::new(HEAD_BYTES_MAX);
    let Ok(ResponsePart::Head { head, .. }) = decoder.decode(&mut input) else { panic!("no head") };
    assert_eq!(head.retry_after_s(), None);
}

#[test]
fn the_length_of_a_body_follows_the_rules_in_their_order() {
    let table: [(&[u8], &[u8], Seen); 11] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc", END_ALIVE),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", END_ALIVE),
        (b"HTTP/1.1 200\r\nContent-Length: 1\r\nConnection: x, Close\r\n\r\na", b"a", END_CLOSE),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", b"a", END_CLOSE),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\na", b"a", END_ALIVE),
        (b"HTTP/1.1 204 x\r\nContent-Length: 7\r\n\r\n", b"", END_ALIVE),
        (b"HTTP/1.1 304 x\r\nTransfer-Encoding: chunked\r\n\r\n", b"", END_ALIVE),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\nA: b\r\n\r\n", b"abc", END_ALIVE),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 202 OK\r\nContent-Length: 0\r\n\r\n", b"", END_ALIVE),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", b"abc", Seen::Closed(Ending::Complete)),
        (b"HTTP/1.0 200 OK\r\n\r\n", b"", Seen::Closed(Ending::Complete)),
    ];
    for (input, body, end) in table {
        let text = input.escape_ascii();
        let seen = outcome(input);
        let found: Vec<u8> = seen
            .iter()
            .filter_map(|part| if let Seen::Body(body) = part { Some(body.clone()) } else { None })
            .flatten()
            .collect();
        assert_eq!(found, body, "{text}");
        let last = seen.iter().rev().find(|part| **part != Seen::Closed(Ending::Idle));
        assert_eq!(last, Some(&end), "{text}");
        assert_eq!(seen.iter().filter(|part| matches!(part, Seen::Head(..))).count(), 1, "{text}");
    }
}

const END_ALIVE: Seen = Seen::End { keep_alive: true };
const END_CLOSE: Seen = Seen::End { keep_alive: false };

#[test]
fn responses_come_out_in_order() {
    let one = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
    let two = "HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n\r\n";
    let seen = outcome(format!("{one}{two}{one}").as_bytes());
    assert_eq!(seen.iter().filter(|part| **part == END_ALIVE).count(), 3);
    assert_eq!(seen.last(), Some(&Seen::Closed(Ending::Idle)));
}

#[test]
fn what_is_no_http_is_shown() {
    assert_eq!(bad(b"\x15\x03\x01\x00\x02\x02\x46"), BadResponse::Tls);
    let table: [(&[u8], &str); 6] = [
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "SSH-2.0-OpenSSH_9.2p1\\r"),
        (b"\x00\x00\x12\x04\x00", "\\x00\\x00\\x12\\x04\\x00"),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}",
            "{\\\"jsonrpc\\\":\\\"2.0\\\",\\\"id\\\":1,\\\"result\\\"",
        ),
        (b"HTTP/2 200\r\n\r\n", "HTTP/2 200\\r"),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", "\\r"),
        (b"ok", "ok"),
    ];
    for (input, start) in table {
        assert_eq!(bad(input), BadResponse::NotHttp { start: start.to_owned() });
    }
    let text = bad(b"220 mail ready\r\n").to_string();
    assert!(text.contains("220 mail ready") && text.contains("HTTP/1.1"), "{text}");
}

#[test]
fn malformed_heads_are_refused_with_the_line() {
    let lines: [(&str, &str); 9] = [
        ("HTTP/1.1 2x0 OK\r\n", "HTTP/1.1 2x0 OK"),
        ("HTTP/1.1 999 OK\r\n", "HTTP/1.1 999 OK"),
        ("HTTP/1.1  200 OK\r\n", "HTTP/1.1  200 OK"),
        ("HTTP/1.2 200 OK\r\n", "HTTP/1.2 200 OK"),
        ("HTTP/1.1 200 O\x01K\r\n", "O\\x01K"),
        ("HTTP/1.1 200 OK\n", "bare_lf"),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n", "folded"),
        ("HTTP/1.1 200 OK\r\nA : b\r\n", "header_name"),
        ("HTTP/1.1 200 OK\r\nA: b\rc\r\n", "control_byte"),
    ];
    for (lines, evidence) in lines {
        let text = bad(format!("{lines}\r\nx").as_bytes()).to_string();
        assert!(text.contains(evidence), "{lines:?}: {text}");
    }
}

#[test]
fn bodies_that_could_be_read_in_two_ways_are_refused() {
    let table = [
        ("Content-Length: 1\r\nTransfer-Encoding: chunked", "`1` and Transfer-Encoding `chunked`"),
        ("Content-Length: 1\r\nContent-Length: 1", "Content-Length more than once"),
        ("Content-Length: 1, 1", "`1, 1`"),
        ("Content-Length: +1", "`+1`"),
        ("Content-Length: 99999999999999999999999", "`9999999"),
        ("Content-Length:", "Content-Length ``"),
        ("Transfer-Encoding: gzip, chunked", "`gzip, chunked`"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x", "Transfer-Encoding more than once"),
        ("Mcp-Session-Id: a b", "`a b`"),
        ("Content-Type: a\r\nContent-Type: b", "Content-Type more than once"),
    ];
    for (fields, evidence) in table {
        let text = bad(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nx").as_bytes()).to_string();
        assert!(text.contains(evidence), "{fields}: {text}");
    }
    let old = bad(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert!(old.to_string().contains("`chunked`"), "{old}");
}

#[test]
fn heads_are_bounded() {
    let fits = |bytes: usize| {
        let start = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(bytes - start.len() - 4)).into_bytes()
    };
    assert_eq!(outcome(&fits(HEAD_BYTES_MAX))[1], END_ALIVE);
    let large = BadResponse::HeadLarge { head_bytes_max: HEAD_BYTES_MAX };
    assert_eq!(bad(&fits(HEAD_BYTES_MAX + 1)), large);
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a:\r\n".repeat(65));
    let many = bad(many.as_bytes());
    assert!(many == BadResponse::HeadersMany { headers_max: 64 } && many.is_too_large());
}

#[test]
fn interim_responses_are_bounded_and_none_may_change_the_protocol() {
    let continues = "HTTP/1.1 100 Continue\r\n\r\n".repeat(usize::from(INTERIM_MAX));
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(outcome(format!("{continues}{last}").as_bytes())[1], END_ALIVE);
    let twice = format!("{continues}{last}").repeat(2);
    assert_eq!(outcome(twice.as_bytes())[3], END_ALIVE, "the count is of one response");
    let one_more = format!("{continues}HTTP/1.1 100 Continue\r\n\r\n{last}");
    assert_eq!(bad(one_more.as_bytes()), BadResponse::InterimMany { interim_max: INTERIM_MAX });
    let switched = bad(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n");
    assert_eq!(switched, BadResponse::Switched);
}

#[test]
fn bad_chunks_are_refused_behind_the_good_ones() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (chunks, byte) in
        [("2\r\nabx", "`x`"), ("2\r\nab\r\nzz", "`z`"), ("2\r\nab\r\n1\n", "`\\n`")]
    {
        let seen = outcome(format!("{head}{chunks}").as_bytes());
        let [Seen::Head(..), Seen::Body(body), Seen::Bad(fault)] = seen.as_slice() else {
            panic!("{seen:?}");
        };
        assert_eq!(body, b"ab");
        assert!(fault.to_string().contains(byte), "{fault}");
    }
}

#[test]
fn a_connection_that_ends_too_soon_is_told_from_one_that_ends_in_order() {
    assert_eq!(end_of(b""), Seen::Closed(Ending::Idle));
    let cut = [
        "HTTP/1.1 200 OK\r\nContent-",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
    ];
    for input in cut {
        let fault = bad(input.as_bytes());
        assert!(fault.is_cut(), "{input}: {fault}");
    }
    assert!(bad(cut[0].as_bytes()).to_string().contains("Content-"));
    assert_eq!(bad(cut[1].as_bytes()), BadResponse::BodyCut { missing: 2 });
}

#[test]
fn requests_look_as_they_should() {
    let fixed = RequestStart::fixed_fields("a:1", [("X-Key", "k")]);
    let mut out = Vec::new();
    let start = RequestStart { method: "POST", target: "/mcp?x=1", fixed_fields: &fixed };
    write_request(&mut out, &start, [("Accept", "b")], Some(&[b"{\"a\":", b"1}"]));
    let start = RequestStart { method: "GET", target: "/", fixed_fields: &fixed };
    write_request(&mut out, &start, [], None);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "POST /mcp?x=1 HTTP/1.1\r\nHost: a:1\r\nX-Key: k\r\nAccept: b\r\nContent-Length: 7\r\n\r\n{\"a\":1}GET / HTTP/1.1\r\nHost: a:1\r\nX-Key: k\r\n\r\n"
    );
}

#[test]
#[should_panic(expected = "holds a control byte")]
fn a_control_byte_in_our_own_request_is_our_bug() {
    let start = RequestStart { method: "GET", target: "/", fixed_fields: b"" };
    write_request(&mut Vec::new(), &start, [("A", "b\r\nc: d")], None);
}

#[test]
fn own_requests_are_read_back_by_our_own_server_half() {
    use crate::http1::{Decoded, Limits, RequestDecoder};
    let fixed = RequestStart::fixed_fields("localhost:1", []);
    let mut out = Vec::new();
    let start = RequestStart { method: "POST", target: "/mcp", fixed_fields: &fixed };
    write_request(&mut out, &start, [], Some(&[b"{}"]));
    let mut decoder = RequestDecoder::new();
    let decoded = decoder.decode(&mut out, &Limits::default());
    let Decoded::Request { request, .. } = decoded else { panic!("{decoded:?}") };
    assert_eq!((request.head.path(), &*request.body), (&b"/mcp"[..], &b"{}"[..]));
}

mod at_random {
    use proptest::prelude::*;

    use super::*;

    /// Pieces of responses, mostly right, put together in any order.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let parts: &[&[u8]] = &[
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.0 404 Not Found\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 204\r\n",
            b"Content-Length: 4\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: close\r\n",
            b"Content-Type: text/event-stream\r\n",
            b"X: y\r\n",
            b"\r\n",
            b"\r\n",
            b"\r\n",
            b"abcd",
            b"4\r\nabcd\r\n",
            b"0\r\n\r\n",
            b"2;x=y\r\nab\r\n",
            b"\r",
            b"\n",
            b" ",
            b":",
            b"\0",
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd",
            b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ];
        prop::sample::select(parts).prop_map(<[u8]>::to_vec)
    }

    proptest! {
        #[test]
        fn every_cut_gives_the_same_responses(
            pieces in prop::collection::vec(piece(), 1..16),
            cuts in prop::collection::vec(1..60_usize, 1..20),
        ) {
            let stream = pieces.concat();
            let whole = feed([stream.as_slice()]);
            let mut rest = stream.as_slice();
            let mut parts = Vec::new();
            for cut in cuts {
                let (part, behind) = rest.split_at(cut.min(rest.len()));
                parts.push(part);
                rest = behind;
            }
            parts.push(rest);
            prop_assert_eq!(feed(parts), whole.clone());
            prop_assert_eq!(feed(stream.chunks(1)), whole);
        }
    }
}
