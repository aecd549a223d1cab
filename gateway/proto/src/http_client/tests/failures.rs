//! Servers that are gone, slow or wrong, and what is said of them.

use super::*;

#[test]
fn larger_answers_than_allowed_fail() {
    let large = "x".repeat(101);
    let json = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let table = [
        format!("{json}Content-Length: 101\r\n\r\n"),
        format!("{json}Transfer-Encoding: chunked\r\n\r\n65\r\n{large}"),
        format!("{json}\r\n{large}"),
        format!("{STREAM}6B\r\ndata: {large}"),
        format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(1_000)),
    ];
    for answer in table {
        let mut rig = Rig::warm();
        rig.send(&PING);
        rig.done();
        rig.receive(0, &answer);
        let seen = rig.seen();
        let last = *lines(&seen, 1).last().unwrap();
        assert!(last.starts_with("TooLarge sent=true") && last.contains("more than 1"), "{last}");
        assert_eq!(rig.done(), [Done::Close(0)]);
    }
}

#[test]
fn servers_that_break_the_protocol_are_named_with_what_they_sent() {
    let table = [
        ("garbage\r\n", "`garbage"),
        ("\x16\x03\x01", "https://"),
        ("HTTP/1.1 200 OK\nA: b\n\n", "bare_lf"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", "`2`"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxy", "`x`"),
        ("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxy", "`gzip`"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "101"),
    ];
    for (answer, evidence) in table {
        let mut rig = Rig::warm();
        rig.send(&REPEATABLE);
        rig.done();
        rig.receive(0, answer);
        let seen = rig.seen();
        let last = *lines(&seen, 1).last().unwrap();
        assert!(last.starts_with("Malformed sent=true") && last.contains(evidence), "{last}");
        assert_eq!(rig.done(), [Done::Close(0)]);
        rig.receive(0, JSON);
        rig.close(0, LinkEnd::Closed);
        assert_eq!((rig.seen(), rig.done()), (vec![], vec![]));
    }
}

#[test]
fn what_nobody_asked_for_closes_the_link() {
    let mut rig = Rig::warm();
    rig.receive(0, "HTTP/1.1 408 Request Timeout\r\n\r\n");
    assert_eq!((rig.seen(), rig.done()), (vec![], vec![Done::Close(0)]));
    assert!(rig.client.take_notice().unwrap().contains("408 Request Timeout"));
    let mut rig = Rig::warm();
    rig.send(&PING);
    rig.done();
    rig.receive(0, &format!("{JSON}HTTP/1.1 200"));
    assert_eq!(lines(&rig.seen(), 1), ["200 Json", "message ::{}", "end "]);
    assert_eq!(rig.done(), [Done::Close(0)]);
    assert!(rig.client.take_notice().unwrap().contains("`HTTP/1.1 200` behind an answer"));
    let mut rig = Rig::new();
    rig.send(&PING);
    rig.done();
    rig.receive(0, JSON);
    let failure = rig.only(0);
    assert!(
        failure.starts_with("Malformed sent=false") && failure.contains("before the request"),
        "{failure}"
    );
    assert_eq!(rig.done(), [Done::Close(0)]);
}

#[test]
fn a_server_that_cannot_be_reached_was_sent_nothing() {
    let mut rig = Rig::new();
    rig.send(&REPEATABLE);
    rig.done();
    rig.close(0, LinkEnd::Unreachable("connection refused".to_owned()));
    let failure = rig.only(0);
    assert!(failure.starts_with("Unreachable sent=false"), "{failure}");
    assert!(failure.contains("tools:8080") && failure.contains("connection refused"), "{failure}");
    assert!(rig.done().is_empty() && rig.client.owns_nothing());
}

#[test]
fn a_reused_link_that_was_closed_meanwhile_is_replaced_once() {
    for end in [LinkEnd::Closed, LinkEnd::Broken("reset".to_owned())] {
        let mut rig = Rig::warm();
        rig.send(&REPEATABLE);
        rig.done();
        rig.close(0, end.clone());
        assert_eq!(rig.done(), [Done::Open(1), Done::Send(1, PING_TEXT.to_owned())]);
        assert_eq!(rig.seen(), []);
        rig.open(1);
        rig.close(1, end);
        let failure = rig.only(1);
        assert!(failure.starts_with("ClosedEarly sent=true"), "{failure}");
        assert_eq!(rig.done(), []);
    }
}

#[test]
fn what_may_not_be_repeated_or_was_begun_to_be_answered_is_not_sent_again() {
    let mut rig = Rig::warm();
    rig.send(&PING);
    rig.done();
    rig.close(0, LinkEnd::Closed);
    let failure = rig.only(1);
    assert!(
        failure.starts_with("ClosedEarly sent=true") && failure.contains("without an answer"),
        "{failure}"
    );
    assert_eq!(rig.done(), []);
    let mut rig = Rig::warm();
    rig.send(&REPEATABLE);
    rig.done();
    rig.receive(0, "HTTP/1.1 2");
    rig.close(0, LinkEnd::Closed);
    let failure = rig.only(1);
    assert!(
        failure.starts_with("ClosedEarly sent=true") && failure.contains("`HTTP/1.1 2`"),
        "{failure}"
    );
    assert_eq!(rig.done(), []);
}

#[test]
fn a_request_that_waited_may_be_repeated_too() {
    let mut rig = Rig::with(HttpClientSettings { connections_max: 1, ..settings() });
    rig.send(&PING);
    rig.send(&REPEATABLE);
    rig.open(0);
    rig.receive(0, JSON);
    rig.done();
    rig.close(0, LinkEnd::Closed);
    assert_eq!(rig.done(), [Done::Open(1), Done::Send(1, PING_TEXT.to_owned())]);
    rig.open(1);
    rig.receive(1, JSON);
    assert_eq!(lines(&rig.seen(), 1), ["200 Json", "message ::{}", "end "]);
}

#[test]
fn each_wait_has_its_bound() {
    let mut rig = Rig::new();
    rig.send(&PING);
    rig.done();
    rig.pass(199);
    assert_eq!(rig.seen(), []);
    rig.pass(1);
    let failure = rig.only(0);
    assert!(
        failure.starts_with("TimedOut sent=false") && failure.contains("within 200 ms"),
        "{failure}"
    );
    assert_eq!(rig.done(), [Done::Close(0)]);

    let answers = [
        ("", "did not answer within 1000 ms"),
        ("HTTP/1.1 200 OK\r\nCont", "only `HTTP/1.1 200 OK\\r\\nCont`"),
        (&JSON[..JSON.len() - 1], "did not end its answer within 1000 ms"),
    ];
    for (answer, evidence) in answers {
        let mut rig = Rig::warm();
        rig.send(&REPEATABLE);
        rig.done();
        rig.pass(999);
        rig.receive(0, answer);
        rig.seen();
        rig.pass(1);
        let failure = rig.only(1);
        assert!(
            failure.starts_with("TimedOut sent=true") && failure.contains(evidence),
            "{failure}"
        );
        assert_eq!(rig.done(), [Done::Close(0)]);
    }
    let mut rig = Rig::warm();
    rig.send(&Request { timeout_ms: Some(u64::MAX), ..PING });
    rig.send(&Request { timeout_ms: Some(50), ..PING });
    rig.open(1);
    rig.pass(50);
    assert!(rig.only(2).contains("within 50 ms"));
    rig.pass(1_000_000);
    assert_eq!((rig.seen(), rig.client.in_flight()), (vec![], 1));
}

#[test]
fn waiting_is_bounded_in_time_and_a_timeout_makes_room() {
    let mut rig = Rig::with(HttpClientSettings { connections_max: 1, ..settings() });
    rig.send(&Request { timeout_ms: Some(500), ..PING });
    rig.open(0);
    rig.send(&Request { timeout_ms: Some(400), ..PING });
    rig.send(&PING);
    rig.done();
    rig.pass(400);
    let failure = rig.only(1);
    assert!(
        failure.starts_with("TimedOut sent=false") && failure.contains("all 1 are in use"),
        "{failure}"
    );
    rig.pass(100);
    assert!(rig.only(0).starts_with("TimedOut sent=true"));
    assert_eq!(rig.done(), [Done::Close(0), Done::Open(1), Done::Send(1, PING_TEXT.to_owned())]);
}
