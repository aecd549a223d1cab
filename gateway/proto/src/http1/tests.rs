//! Requests in tables: what is served, what is refused and why, however it is cut.

use super::*;

const HEAD: &str = "POST /mcp HTTP/1.1\r\nHost: localhost:8080\r\n";

/// One request, or the end of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Request {
        line: String,
        authority: Option<String>,
        headers: Vec<(String, Vec<u8>)>,
        body: Vec<u8>,
    },
    Refused(&'static str, u16),
}

fn seen(request: &Request<'_>) -> Seen {
    let head = &request.head;
    Seen::Request {
        line: format!(
            "{} {} {:?} {:?}",
            head.method_text(),
            head.path_and_query().escape_ascii(),
            head.version(),
            head.persistence()
        ),
        authority: head.authority().map(|host| host.escape_ascii().to_string()),
        headers: head.headers().map(|(name, value)| (name.to_owned(), value.to_vec())).collect(),
        body: request.body.to_vec(),
    }
}

/// Feeds `pieces` one after the other; also counts the calls for 100-continue.
fn feed<'p>(pieces: impl IntoIterator<Item = &'p [u8]>, limits: &Limits) -> (Vec<Seen>, usize) {
    let mut decoder = RequestDecoder::new();
    let (mut all, mut continues) = (Vec::new(), 0);
    for piece in pieces {
        let mut input = piece.to_vec();
        let mut from = 0;
        loop {
            match decoder.decode(&mut input[from..], limits) {
                Decoded::Request { request, consumed } => {
                    all.push(seen(&request));
                    from += consumed;
                }
                Decoded::NeedMore => break,
                Decoded::SendContinue => {
                    continues += 1;
                    break;
                }
                Decoded::Refused(refusal) => {
                    all.push(Seen::Refused(refusal.reason, refusal.status.0));
                    break;
                }
            }
        }
    }
    (all, continues)
}

/// The outcome, after checking that it is the same in one piece, byte by byte and in halves.
fn outcome(input: &[u8]) -> Vec<Seen> {
    outcome_within(input, &Limits::default())
}

fn outcome_within(input: &[u8], limits: &Limits) -> Vec<Seen> {
    let whole = feed([input], limits).0;
    assert_eq!(feed(input.chunks(1), limits).0, whole, "byte by byte");
    for cut in 1..input.len().min(300) {
        let (one, two) = input.split_at(cut);
        assert_eq!(feed([one, two], limits).0, whole, "cut at {cut}");
    }
    whole
}

fn body_of(seen: &Seen) -> &[u8] {
    match seen {
        Seen::Request { body, .. } => body,
        Seen::Refused(reason, status) => panic!("refused: {reason} {status}"),
    }
}

#[test]
fn the_decoder_is_small_and_an_idle_one_owns_nothing() {
    assert!(size_of::<RequestDecoder>() <= 32);
    let mut decoder = RequestDecoder::new();
    let mut input = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab".to_vec();
    assert!(matches!(decoder.decode(&mut input, &Limits::default()), Decoded::NeedMore));
    assert_eq!(decoder.phase(), Phase::Body);
    assert!(decoder.buffered_bytes() > 0);
    let decoded = decoder.decode(&mut input[..1], &Limits::default());
    assert!(matches!(decoded, Decoded::Request { consumed: 1, .. }));
    decoder.release();
    assert_eq!(decoder.phase(), Phase::Idle);
    assert!(decoder.owns_nothing());
}

#[test]
fn fields_of_interest_are_found_whatever_their_case() {
    let mut input = b"POST /mcp/x?y=1 HTTP/1.1\r\nhOST: localhost\r\nORIGIN: http://a\r\naccept: application/json\r\nAccept: text/event-stream;q=0.5\r\ncontent-type: application/json; charset=utf-8\r\nConTent-Length: 2\r\nauthorization: Bearer x\r\nLast-Event-Id:  7 \r\nmcp-session-id: s\r\nMCP-Protocol-Version: 2025-11-25\r\nMcp-Method: tools/call\r\nMcp-Name: echo\r\nMcp-Param-A: 1\r\n\r\n{}".to_vec();
    let mut decoder = RequestDecoder::new();
    let Decoded::Request { request, consumed } = decoder.decode(&mut input, &Limits::default())
    else {
        panic!("no request");
    };
    let head = request.head;
    assert_eq!(
        (head.method(), head.path(), head.query()),
        (Method::Post, &b"/mcp/x"[..], Some(&b"y=1"[..]))
    );
    assert_eq!(head.authority(), Some(&b"localhost"[..]));
    assert_eq!(head.origin(), Some(&b"http://a"[..]));
    assert!(head.content_type_is("application/json"));
    assert!(head.accepts("application/json") && head.accepts("text/event-stream"));
    assert!(!head.accepts("text/html"));
    assert_eq!(head.authorization(), Some(&b"Bearer x"[..]));
    assert_eq!(head.last_event_id(), Some(&b"7"[..]));
    assert_eq!(head.mcp_session_id(), Some(&b"s"[..]));
    assert_eq!(head.mcp_protocol_version(), Some(&b"2025-11-25"[..]));
    assert_eq!(
        (head.mcp_method(), head.mcp_name()),
        (Some(&b"tools/call"[..]), Some(&b"echo"[..]))
    );
    assert_eq!(head.values("mcp-param-a").collect::<Vec<_>>(), [b"1"]);
    assert_eq!(head.headers().count(), 13);
    assert_eq!(request.body, b"{}");
    assert_eq!(consumed, head.block().len() + 2);
}

#[test]
fn pipelined_requests_come_out_in_order() {
    let one = format!("{HEAD}Content-Length: 5\r\n\r\nhello");
    let two = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let three = format!(
        "{HEAD}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX: y\r\n\r\n"
    );
    let all = outcome(format!("{one}{two}\r\n{three}{one}").as_bytes());
    let bodies: Vec<&[u8]> = all.iter().map(body_of).collect();
    assert_eq!(bodies, [&b"hello"[..], b"", b"abcde", b"hello"]);
}

/// Inputs that must be refused, with reason and status.
const REFUSED: &[(&[u8], &str, u16)] = &[
    // Lengths.
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "length_and_chunked", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", "length_and_chunked", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "repeated_header", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\ncontent-length: 4\r\n\r\nabcd", "repeated_header", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", "content_length", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", "content_length", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc", "content_length", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", "content_length", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", "content_length", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 3\r\n\r\nabc", "content_length", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3.0\r\n\r\nabc", "content_length", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\na", "body_large", 413),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 16777217\r\n\r\n", "body_large", 413),
    // Transfer codings.
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "transfer_coding", 501),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "transfer_coding", 501),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n", "transfer_coding", 501),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", "transfer_coding", 501),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \r\n\r\n", "transfer_coding", 501),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", "transfer_coding", 501),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "repeated_header", 400),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "transfer_coding_1_0", 400),
    // Host.
    (b"GET / HTTP/1.1\r\n\r\n", "host_missing", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "repeated_header", 400),
    (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", "host", 400),
    (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "host", 400),
    (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "host", 400),
    (b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", "host", 400),
    (b"GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n", "host", 400),
    (b"GET / HTTP/1.1\r\nHost: a:x\r\n\r\n", "host", 400),
    (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "host", 400),
    (b"GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n", "host", 400),
    (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "target_host", 400),
    (b"GET http://user@a/ HTTP/1.1\r\nHost: a\r\n\r\n", "host", 400),
    (b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", "host", 400),
    // Repeated singletons.
    (b"GET / HTTP/1.1\r\nHost: a\r\nMcp-Session-Id: a\r\nMcp-Session-Id: b\r\n\r\n", "repeated_header", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nMcp-Method: a\r\nMCP-METHOD: a\r\n\r\n", "repeated_header", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nMcp-Name: a\r\nMcp-Name: a\r\n\r\n", "repeated_header", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nMcp-Protocol-Version: a\r\nMcp-Protocol-Version: a\r\n\r\n", "repeated_header", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nOrigin: a\r\nOrigin: a\r\n\r\n", "repeated_header", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization: a\r\n\r\n", "repeated_header", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nLast-Event-Id: a\r\nLast-Event-Id: a\r\n\r\n", "repeated_header", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Type: a\r\nContent-Type: a\r\n\r\n", "repeated_header", 400),
    // Lines.
    (b"GET / HTTP/1.1\nHost: a\n\n", "bare_lf", 400),
    (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", "bare_lf", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\n\n", "bare_lf", 400),
    (b"GET / HTTP/1.1\r\nHost: a\n\r\n", "bare_lf", 400),
    (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "bare_lf", 400),
    (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "empty_lines", 400),
    (b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", "control_byte", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", "control_byte", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", "control_byte", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", "control_byte", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n", "control_byte", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", "folded", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n", "folded", 400),
    (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "folded", 400),
    (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "header_name", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", "header_name", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", "header_name", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n", "header_name", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX\xe9: b\r\n\r\n", "header_name", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX(: b\r\n\r\n", "header_name", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nMcp-Name: \xc3\xa9\r\n\r\n", "header_value", 400),
    // Request lines.
    (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "request_line", 400),
    (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "request_line", 400),
    (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "request_line", 400),
    (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "request_line", 400),
    (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", "not_http", 400),
    (b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", "request_line", 400),
    (b"GET / http/1.1\r\nHost: a\r\n\r\n", "request_line", 400),
    (b"GET / HTTP/11\r\nHost: a\r\n\r\n", "request_line", 400),
    (b"GET\r\nHost: a\r\n\r\n", "request_line", 400),
    (b"GET /\r\n", "http09", 505),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", "version", 505),
    (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "version", 505),
    (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", "version", 505),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "http2", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "tls", 400),
    (b"\0\0\0\0", "not_http", 400),
    (b"{\"jsonrpc\":\"2.0\"}\r\n", "not_http", 400),
    // Targets.
    (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "target", 400),
    (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "target", 400),
    (b"GET mcp HTTP/1.1\r\nHost: a\r\n\r\n", "target", 400),
    (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "target", 400),
    (b"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n", "target", 400),
    (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", "target", 400),
    // Expectations.
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: miracles\r\n\r\n", "expectation", 417),
    // Chunks.
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", "chunk", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", "chunk", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n", "chunk", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n 1\r\na\r\n", "chunk", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\na\r\n", "chunk", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n", "chunk", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", "chunk", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n", "chunk", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nb\r\na\r\n", "chunk", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\rb\r\na\r\n", "chunk", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1000001\r\n", "body_large", 413),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000001\r\n", "body_large", 413),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\n", "bare_lf", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n", "bare_lf", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX : y\r\n\r\n", "header_name", 400),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: \0\r\n\r\n", "control_byte", 400),
];

#[test]
fn bad_input_is_refused_for_its_reason_in_every_cut() {
    for (input, reason, status) in REFUSED {
        let shown = String::from_utf8_lossy(input);
        assert_eq!(outcome(input), [Seen::Refused(reason, *status)], "{shown:?}");
        // A good request before it is still served, and nothing behind it is.
        let mut stream = b"GET /before HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
        stream.extend_from_slice(input);
        stream.extend_from_slice(b"\r\nGET /behind HTTP/1.1\r\nHost: a\r\n\r\n");
        let seen = outcome(&stream);
        // One empty line may stand before a request: `\r\n` of the input's start is then a second one.
        assert!(
            matches!(seen[..], [Seen::Request { .. }, Seen::Refused(..)]),
            "{shown:?} {seen:?}"
        );
    }
}

#[test]
fn what_is_unusual_but_right_is_served() {
    let table: &[(&[u8], &str)] = &[
        (b"GET / HTTP/1.0\r\n\r\n", "GET / Http10 Close"),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "GET / Http10 KeepAliveSaid"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, CLOSE\r\n\r\n", "GET / Http11 Close"),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
            "GET / Http11 Close",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
            "GET / Http11 KeepAlive",
        ),
        (
            b"GET HTTP://LocalHost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n",
            "GET / Http11 KeepAlive",
        ),
        (b"GET https://a?x=/y HTTP/1.1\r\nHost: a\r\n\r\n", "GET ?x=/y Http11 KeepAlive"),
        (
            b"\r\nGET /a//b?c?d HTTP/1.1\r\nHOST:\t[::1]:8080 \t\r\nX:\r\nY: \xff\r\n\r\n",
            "GET /a//b?c?d Http11 KeepAlive",
        ),
        (
            b"PATCH / HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: 100-Continue\r\n\r\n",
            "PATCH / Http11 KeepAlive",
        ),
        (
            b"POST / HTTP/1.0\r\nExpect: miracles\r\nContent-Length: 0\r\n\r\n",
            "POST / Http10 Close",
        ),
    ];
    for (input, wanted) in table {
        match &outcome(input)[..] {
            [Seen::Request { line, .. }] => assert_eq!(line, wanted),
            other => panic!("{wanted}: {other:?}"),
        }
    }
}

#[test]
fn limits_hold_to_the_byte() {
    let small = Limits {
        head_bytes_max: 100,
        request_line_bytes_max: 30,
        headers_max: 3,
        body_bytes_max: 10,
        chunk_line_bytes_max: 5,
        chunk_extensions_bytes_max: 6,
        trailer_bytes_max: 12,
    };
    let check = |input: String, wanted: Option<(&'static str, u16)>| {
        let seen = outcome_within(input.as_bytes(), &small);
        match wanted {
            None => assert!(matches!(seen[..], [Seen::Request { .. }]), "{input:?} {seen:?}"),
            Some((reason, status)) => {
                assert_eq!(seen, [Seen::Refused(reason, status)], "{input:?}")
            }
        }
    };
    let line =
        |bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(bytes - 14));
    check(line(30), None);
    check(line(31), Some(("request_line_long", 414)));
    // Told without waiting for the line's end.
    check("x".repeat(33), Some(("request_line_long", 414)));
    let head = |bytes: usize| {
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(bytes - 32))
    };
    check(head(100), None);
    check(head(101), Some(("head_large", 431)));
    check(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(80)), Some(("head_large", 431)));
    check("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nA: b\r\n\r\n".to_owned(), None);
    check(
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nA: b\r\nA: b\r\n\r\n".to_owned(),
        Some(("headers_many", 431)),
    );
    let body = |bytes: usize| {
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n{}",
            "x".repeat(bytes)
        )
    };
    check(body(10), None);
    check(body(11), Some(("body_large", 413)));
    let chunked = |rest: &str| {
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{rest}")
    };
    check(chunked("5\r\nabcde\r\n05\r\nabcde\r\n0\r\n\r\n"), None);
    check(chunked("5\r\nabcde\r\n6\r\nabcdef\r\n0\r\n\r\n"), Some(("body_large", 413)));
    check(chunked("00000\r\n\r\n"), None);
    check(chunked("000000\r\n\r\n"), Some(("chunk_line_long", 400)));
    check(chunked("1;abc\r\na\r\n0\r\n\r\n"), None);
    check(chunked("1;abcd\r\na\r\n0\r\n\r\n"), Some(("chunk_line_long", 400)));
    check(chunked("1;ab\r\na\r\n1;ab\r\nb\r\n0\r\n\r\n"), None);
    check(chunked("1;ab\r\na\r\n1;abc\r\nb\r\n0\r\n\r\n"), Some(("chunk_line_long", 400)));
    check(chunked("0\r\nX: 12345\r\n\r\n"), None);
    check(chunked("0\r\nX: 123456\r\n\r\n"), None);
    check(chunked("0\r\nX: 1234567\r\n\r\n"), None);
    check(chunked("0\r\nX: 12345678\r\n\r\n"), Some(("trailer_large", 431)));
    check(chunked("0\r\nA:\r\nA:\r\nA:\r\n\r\n"), None);
    let few = Limits { headers_max: 2, ..Limits::default() };
    let input = chunked("0\r\nA:\r\nA:\r\nA:\r\n\r\n");
    assert_eq!(outcome_within(input.as_bytes(), &few), [Seen::Refused("trailer_large", 431)]);
}

#[test]
fn the_default_limits_are_those_of_the_design() {
    let limits = Limits::default();
    assert_eq!((limits.head_bytes_max, limits.body_bytes_max), (16 << 10, 16 << 20));
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(16 << 10));
    assert_eq!(feed([head.as_bytes()], &limits).0, [Seen::Refused("head_large", 431)]);
    let fields = "A: b\r\n".repeat(HEADERS_MAX);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    assert_eq!(feed([many.as_bytes()], &limits).0, [Seen::Refused("headers_many", 431)]);
    let fitting =
        format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX - 1));
    assert!(matches!(feed([fitting.as_bytes()], &limits).0[..], [Seen::Request { .. }]));
}

#[test]
fn a_client_that_waits_for_100_is_told_once() {
    let limits = Limits::default();
    let head = format!("{HEAD}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    let (seen, continues) = feed([head.as_bytes(), b"{", b"}"], &limits);
    assert_eq!((seen.len(), continues), (1, 1));
    assert_eq!(feed(head.as_bytes().chunks(1).chain([&b"{}"[..]]), &limits).1, 1);
    // The body is on its way already.
    let early = format!("{head}{{");
    assert_eq!(feed([early.as_bytes(), b"}"], &limits).1, 0);
    let chunked = format!("{HEAD}Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(feed([chunked.as_bytes(), b"0\r\n\r\n"], &limits).1, 1);
}

#[test]
fn bytes_pushed_back_are_decoded_later_and_freed() {
    let limits = Limits::default();
    let get = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut decoder = RequestDecoder::new();
    decoder.push_back(&get.repeat(2));
    decoder.push_back(&get[..5]);
    for left in [1, 0] {
        let decoded = decoder.decode(&mut [], &limits);
        assert!(matches!(decoded, Decoded::Request { consumed: 0, .. }), "{left} left");
    }
    let mut rest = get[5..].to_vec();
    rest.extend_from_slice(b"GET");
    let decoded = decoder.decode(&mut rest, &limits);
    let Decoded::Request { consumed, .. } = decoded else { panic!("{decoded:?}") };
    assert_eq!(consumed, get.len() - 5);
    decoder.release();
    assert!(decoder.owns_nothing());
}

#[test]
fn an_announced_body_costs_no_memory_before_it_arrives() {
    let mut decoder = RequestDecoder::new();
    let mut input = format!("{HEAD}Content-Length: 16777216\r\n\r\nx").into_bytes();
    assert!(matches!(decoder.decode(&mut input, &Limits::default()), Decoded::NeedMore));
    assert!(decoder.buffer_capacity() < 1_000);
    for _ in 0..100 {
        assert!(matches!(
            decoder.decode(&mut [b'x'; 1_000], &Limits::default()),
            Decoded::NeedMore
        ));
    }
    assert!(decoder.buffer_capacity() < 300_000);
}

#[test]
fn a_refused_connection_stays_refused_and_owns_nothing() {
    let mut decoder = RequestDecoder::new();
    let mut bad = b"GET / HTTP/1.1\nHost: a\n\n".to_vec();
    assert!(matches!(decoder.decode(&mut bad, &Limits::default()), Decoded::Refused(_)));
    let mut good = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    assert!(matches!(decoder.decode(&mut good, &Limits::default()), Decoded::NeedMore));
    decoder.push_back(&good);
    assert!(decoder.owns_nothing() && decoder.phase() == Phase::Refused);
}

#[test]
fn accept_follows_precedence_and_weights() {
    let table = [
        ("application/json, text/event-stream", true, true),
        ("*/*", true, true),
        ("application/*", true, false),
        ("APPLICATION/JSON", true, false),
        ("application/json;q=0", false, false),
        ("*/*, application/json; Q=0.000", false, true),
        ("*/*;q=0, application/json;q=0.1", true, false),
        ("application/json;charset=utf-8;q=0", false, false),
        ("text/html", false, false),
        ("", false, false),
        ("*", false, false),
        ("application/jsonx, a/*, application*", false, false),
    ];
    for (accept, json, stream) in table {
        let mut input =
            format!("GET / HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n").into_bytes();
        let mut decoder = RequestDecoder::new();
        let decoded = decoder.decode(&mut input, &Limits::default());
        let Decoded::Request { request, .. } = decoded else { panic!("{decoded:?}") };
        assert!(request.head.has_accept());
        assert_eq!(request.head.accepts("application/json"), json, "{accept}");
        assert_eq!(request.head.accepts("text/event-stream"), stream, "{accept}");
    }
    assert!(is_media_type(b"Application/JSON ; charset=utf-8", "application/json"));
    assert!(!is_media_type(b"application/jsonl", "application/json"));
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn answers_look_as_they_should() {
    let date = HttpDate::from_unix_s(784_111_777);
    let plain = Extras::default();
    let all = Extras {
        persistence: Persistence::Close,
        date: Some(&date),
        session_id: Some("s"),
        retry_after_s: Some(1),
        allow: Some("GET"),
        www_authenticate: Some("Bearer"),
        more: &[("X", "y")],
    };
    assert_eq!(
        written(|out| write_json(out, Status::OK, &plain, b"{}")),
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    );
    assert_eq!(
        written(|out| write_json(out, Status::SERVICE_UNAVAILABLE, &all, b"{}")),
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nMcp-Session-Id: s\r\nRetry-After: 1\r\nAllow: GET\r\nWWW-Authenticate: Bearer\r\nX: y\r\n\r\n{}"
    );
    assert_eq!(
        written(|out| write_empty(out, Status::ACCEPTED, &plain)),
        "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
    );
    assert_eq!(
        written(|out| write_empty(out, Status::NO_CONTENT, &plain)),
        "HTTP/1.1 204 No Content\r\n\r\n"
    );
    assert_eq!(
        written(|out| write_sse_head(out, Version::Http11, &plain)),
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache, no-store\r\nX-Accel-Buffering: no\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    assert_eq!(
        written(|out| write_sse_head(out, Version::Http10, &plain)),
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache, no-store\r\nX-Accel-Buffering: no\r\nConnection: close\r\n\r\n"
    );
    let refusal = written(|out| write_refusal(out, &Refusal::BARE_LF, None));
    assert!(refusal.starts_with("HTTP/1.1 400 Bad Request\r\n"));
    assert!(refusal.contains("\r\nConnection: close\r\n"));
    assert!(
        refusal.contains("\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32600,")
    );
}

#[test]
fn chunks_are_read_back_by_our_own_decoder() {
    let mut stream = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    write_chunk(&mut stream, b"hello");
    write_chunk(&mut stream, b"");
    write_chunk_with(&mut stream, |out| out.extend_from_slice(&[b'x'; 300]));
    write_last_chunk(&mut stream);
    let seen = outcome(&stream);
    assert_eq!(body_of(&seen[0]), [&b"hello"[..], &[b'x'; 300]].concat());
}

#[test]
fn dates_are_right_over_leap_years() {
    let table = [
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
        (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
        (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
    ];
    for (seconds, wanted) in table {
        assert_eq!(HttpDate::from_unix_s(seconds).as_bytes(), wanted.as_bytes());
    }
}

#[test]
#[should_panic(expected = "holds a control byte")]
fn a_control_byte_in_our_own_header_is_our_bug() {
    let extras = Extras { session_id: Some("a\r\nb: c"), ..Extras::default() };
    write_empty(&mut Vec::new(), Status::OK, &extras);
}

mod at_random {
    use proptest::prelude::*;

    use super::*;

    /// Pieces of requests, mostly right, put together in any order.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let parts: &[&[u8]] = &[
            b"GET / HTTP/1.1\r\n",
            b"POST /mcp HTTP/1.1\r\n",
            b"GET http://a/x HTTP/1.0\r\n",
            b"Host: a\r\n",
            b"Content-Length: 4\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: close\r\n",
            b"Expect: 100-continue\r\n",
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
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        ];
        prop::sample::select(parts).prop_map(<[u8]>::to_vec)
    }

    proptest! {
        #[test]
        fn every_cut_gives_the_same_requests(
            pieces in prop::collection::vec(piece(), 1..16),
            cuts in prop::collection::vec(1..60_usize, 1..20),
        ) {
            let stream = pieces.concat();
            let limits = Limits { body_bytes_max: 20, head_bytes_max: 150, ..Limits::default() };
            let whole = feed([stream.as_slice()], &limits).0;
            let mut rest = stream.as_slice();
            let mut parts = Vec::new();
            for cut in cuts {
                let (part, behind) = rest.split_at(cut.min(rest.len()));
                parts.push(part);
                rest = behind;
            }
            parts.push(rest);
            prop_assert_eq!(feed(parts, &limits).0, whole.clone());
            prop_assert_eq!(feed(stream.chunks(1), &limits).0, whole);
        }
    }
}
