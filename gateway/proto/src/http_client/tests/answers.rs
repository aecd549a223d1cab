//! What is asked and answered: verbs, bodies, streams, statuses.

use super::*;

#[test]
fn a_body_may_end_with_the_connection_but_not_break_with_it() {
    let answer = "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"a\"";
    let mut rig = Rig::warm();
    rig.send(&PING);
    rig.receive(0, answer);
    rig.receive(0, ":1}");
    rig.close(0, LinkEnd::Closed);
    assert_eq!(lines(&rig.seen(), 1), ["200 Json", "message ::{\\\"a\\\":1}", "end "]);
    let mut rig = Rig::warm();
    rig.send(&REPEATABLE);
    rig.receive(0, answer);
    rig.close(0, LinkEnd::Broken("reset by peer".to_owned()));
    let seen = rig.seen();
    let last = lines(&seen, 1)[1];
    assert!(last.starts_with("ClosedEarly sent=true") && last.contains("reset by peer"), "{last}");
}

#[test]
fn events_are_handed_out_as_they_come() {
    let mut rig = Rig::warm();
    rig.send(&PING);
    rig.receive(0, STREAM);
    assert_eq!(rig.only(1), "200 Events s");
    rig.receive(0, "1e\r\nid: 7\nevent: x\nretry: 50\ndata:\r\n");
    assert_eq!(rig.only(1), "retry 50");
    rig.receive(0, "2\r\n\n\n\r\n");
    assert_eq!(rig.only(1), "message x:7:");
    rig.receive(0, "11\r\n: hi\ndata: {}\n\nda\r\n");
    assert_eq!(rig.only(1), "message :7:{}");
    // A stream may be silent for as long as it wants.
    rig.pass(1_000_000);
    assert_eq!(rig.seen(), []);
    rig.receive(0, "6\r\nta: 1\n\r\n0\r\n\r\n");
    assert_eq!(rig.only(1), "end 7", "half an event is none");
    assert_eq!((rig.client.in_flight(), rig.client.links()), (0, 1));
}

#[test]
fn a_stream_that_breaks_says_where_to_go_on() {
    let mut rig = Rig::warm();
    rig.send(&Request { verb: Verb::Get, accept: "text/event-stream", body: &[], ..PING });
    let [Done::Send(0, sent)] = &rig.done()[..] else { panic!("not sent") };
    assert!(
        sent.starts_with("GET /mcp HTTP/1.1\r\n")
            && sent.ends_with("Accept: text/event-stream\r\n\r\n")
    );
    rig.receive(0, STREAM);
    rig.receive(0, "10\r\nid: 8\ndata: 1\n\nd\r\n");
    rig.seen();
    rig.close(0, LinkEnd::Closed);
    let last = rig.only(1);
    assert!(
        last.starts_with("ClosedEarly sent=true") && last.ends_with("last chunk of the body [8]"),
        "{last}"
    );
}

#[test]
fn verbs_paths_and_fields_are_written_as_they_are_given() {
    let mut rig = Rig::warm();
    let fields = [("Mcp-Session-Id", "s"), ("MCP-Protocol-Version", "2025-11-25")];
    rig.send(&Request { path: Some("/messages?s=1"), fields: &fields, ..PING });
    let [Done::Send(0, sent)] = &rig.done()[..] else { panic!("not sent") };
    assert!(sent.starts_with("POST /messages?s=1 HTTP/1.1\r\nHost: tools:8080\r\n"));
    assert!(sent.contains("\r\nMcp-Session-Id: s\r\nMCP-Protocol-Version: 2025-11-25\r\n"));
    rig.receive(0, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(lines(&rig.seen(), 1), ["202 None", "end "]);
    rig.send(&Request { verb: Verb::Delete, body: &[], fields: &fields[..1], ..PING });
    let [Done::Send(0, sent)] = &rig.done()[..] else { panic!("not sent") };
    assert!(sent.starts_with("DELETE /mcp HTTP/1.1\r\n") && !sent.contains("Content-"), "{sent}");
    rig.receive(0, "HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(lines(&rig.seen(), 2), ["204 None", "end "]);
}

#[test]
fn what_cannot_be_written_is_not_sent() {
    let table = [
        Request { fields: &[("Last-Event-ID", "a\x00b")], ..PING },
        Request { fields: &[("Mcp-Name", "x\r\nHost: y")], ..PING },
        Request { fields: &[("A b", "x")], ..PING },
        Request { path: Some("http://elsewhere/"), ..PING },
        Request { path: Some("/a b"), ..PING },
    ];
    for request in &table {
        let mut rig = Rig::warm();
        rig.send(request);
        rig.pass(0);
        assert_eq!(rig.done(), []);
        let failure = rig.only(1);
        assert!(failure.starts_with("Unfit sent=false"), "{failure}");
        let given_up = rig.send(request);
        rig.client.abort(ExchangeKey(given_up), &mut rig.events);
        rig.pass(0);
        assert_eq!(rig.seen(), []);
    }
}

#[test]
fn answers_without_success_are_shown_with_their_bodies() {
    let table = [
        (
            "307 x\r\nLocation: https://b/mcp\r\nContent-Length: 0",
            "",
            vec!["307 None https://b/mcp", "end "],
        ),
        (
            "401 x\r\nWWW-Authenticate: Bearer realm=\"m\"\r\nContent-Length: 2",
            "no",
            vec!["401 Other Bearer realm=\"m\"", "message ::no", "end "],
        ),
        (
            "404 x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked",
            "2\r\n{}\r\n0\r\n\r\n",
            vec!["404 Json", "message ::{}", "end "],
        ),
        (
            "429 x\r\nRetry-After: 9\r\nTransfer-Encoding: chunked",
            "0\r\n\r\n",
            vec!["429 Other retry 9", "end "],
        ),
        ("304 x", "", vec!["304 None", "end "]),
    ];
    for (head, body, wanted) in table {
        let mut rig = Rig::warm();
        rig.send(&PING);
        rig.receive(0, &format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 {head}\r\n\r\n{body}"));
        assert_eq!(lines(&rig.seen(), 1), wanted);
        assert_eq!((rig.client.in_flight(), rig.client.links()), (0, 1), "{head}");
    }
}

#[test]
fn of_a_large_text_the_beginning_is_enough() {
    for piece in [usize::MAX, 1_000] {
        let mut rig = Rig::warm();
        rig.send(&PING);
        rig.done();
        let body = "x".repeat(OTHER_BODY_BYTES_MAX + 1);
        let answer = format!("HTTP/1.1 500 x\r\nContent-Length: 9999999\r\n\r\n{body}");
        for part in answer.as_bytes().chunks(piece) {
            rig.receive(0, std::str::from_utf8(part).unwrap());
        }
        let seen = rig.seen();
        let seen = lines(&seen, 1);
        assert_eq!((seen[0], seen[2], seen.len()), ("500 Other", "end ", 3));
        assert_eq!(seen[1].len(), "message ::".len() + OTHER_BODY_BYTES_MAX);
        assert_eq!(rig.done(), [Done::Close(0)]);
    }
}
