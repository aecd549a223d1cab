//! Links: how many there are, which is used, when they are closed.

use super::*;

#[test]
fn a_request_opens_a_link_and_its_answer_frees_it_for_the_next() {
    let mut rig = Rig::new();
    assert_eq!(rig.send(&PING), 0);
    assert_eq!(rig.done(), [Done::Open(0), Done::Send(0, PING_TEXT.to_owned())]);
    rig.open(0);
    rig.receive(0, JSON);
    assert_eq!(lines(&rig.seen(), 0), ["200 Json", "message ::{}", "end "]);
    assert_eq!((rig.client.in_flight(), rig.client.links()), (0, 1));
    assert_eq!(rig.send(&PING), 1);
    assert_eq!(rig.done(), [Done::Send(0, PING_TEXT.to_owned())]);
    rig.receive(0, &JSON[..30]);
    rig.receive(0, &JSON[30..JSON.len() - 1]);
    rig.receive(0, "}");
    assert_eq!(lines(&rig.seen(), 1), ["200 Json", "message ::{}", "end "]);
}

#[test]
fn links_are_bounded_and_then_requests_wait_in_order() {
    let mut rig = Rig::new();
    assert_eq!(
        [rig.send(&PING), rig.send(&PING), rig.send(&REPEATABLE), rig.send(&PING)],
        [0, 1, 2, 3]
    );
    assert_eq!((rig.client.in_flight(), rig.client.waiting(), rig.client.links()), (2, 2, 2));
    let full = rig.client.send(&PING, rig.now, &mut rig.events).unwrap_err();
    assert_eq!(full, PoolFull { connections_max: 2, waiting_max: 2 });
    rig.done();
    rig.open(0);
    rig.open(1);
    rig.receive(1, JSON);
    assert_eq!(rig.done(), [Done::Send(1, PING_TEXT.to_owned())]);
    rig.receive(0, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(rig.done(), [Done::Close(0), Done::Open(2), Done::Send(2, PING_TEXT.to_owned())]);
    assert_eq!(rig.client.waiting(), 0);
    rig.receive(1, JSON);
    rig.open(2);
    rig.receive(2, JSON);
    let seen = rig.seen();
    for exchange in 0..4 {
        assert_eq!(lines(&seen, exchange).last(), Some(&"end "), "{exchange}");
    }
}

#[test]
fn the_most_recently_used_link_comes_first_and_idle_ones_are_closed() {
    let mut rig = Rig::new();
    rig.send(&PING);
    rig.send(&PING);
    rig.open(0);
    rig.open(1);
    rig.receive(1, JSON);
    rig.pass(10);
    rig.receive(0, JSON);
    rig.done();
    rig.send(&PING);
    assert_eq!(rig.done(), [Done::Send(0, PING_TEXT.to_owned())]);
    rig.receive(0, JSON);
    rig.pass(4_989);
    assert_eq!(rig.done(), []);
    rig.pass(1);
    assert_eq!(rig.done(), [Done::Close(1)]);
    rig.pass(10);
    assert_eq!(rig.done(), [Done::Close(0)]);
    assert_eq!((rig.client.links(), rig.client.poll_timeout()), (0, None));
    assert!(rig.client.owns_nothing());
}

#[test]
fn a_link_is_closed_before_its_server_would_close_it() {
    let answer = |keep_alive: &str| {
        format!("HTTP/1.1 202 x\r\nContent-Length: 0\r\nKeep-Alive: {keep_alive}\r\n\r\n")
    };
    let table = [
        ("timeout=3, max=100", 2_000),
        ("max=5, Timeout=2", 1_000),
        ("timeout=600", 5_000),
        ("timeout=x", 5_000),
        ("time", 5_000),
    ];
    for (keep_alive, idle_ms) in table {
        let mut rig = Rig::warm();
        rig.send(&PING);
        rig.receive(0, &answer(keep_alive));
        rig.done();
        rig.pass(idle_ms - 1);
        assert_eq!(rig.done(), [], "{keep_alive}");
        rig.pass(1);
        assert_eq!(rig.done(), [Done::Close(0)], "{keep_alive}");
    }
    let mut rig = Rig::warm();
    rig.send(&PING);
    rig.done();
    rig.receive(0, &answer("timeout=1"));
    assert_eq!(rig.done(), [Done::Close(0)]);
}

#[test]
fn room_that_an_abort_made_goes_to_who_waited_longest() {
    let mut rig = Rig::with(HttpClientSettings { connections_max: 1, ..settings() });
    rig.send(&PING);
    rig.send(&REPEATABLE);
    rig.client.abort(ExchangeKey(0), &mut rig.events);
    rig.done();
    rig.send(&PING);
    assert_eq!(rig.done(), [Done::Open(1), Done::Send(1, PING_TEXT.to_owned())]);
    assert_eq!((rig.client.in_flight(), rig.client.waiting()), (1, 1));
    rig.open(1);
    rig.receive(1, JSON);
    assert_eq!(lines(&rig.seen(), 1), ["200 Json", "message ::{}", "end "]);
}

#[test]
fn connections_that_must_not_be_used_again_are_closed() {
    let answers = [
        "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
    ];
    for answer in answers {
        let mut rig = Rig::warm();
        rig.send(&PING);
        rig.done();
        rig.receive(0, answer);
        assert_eq!(rig.done(), [Done::Close(0)]);
        assert_eq!(lines(&rig.seen(), 1), ["200 Json", "message ::{}", "end "]);
    }
}

#[test]
fn an_aborted_exchange_is_silent_and_its_link_is_closed() {
    let mut rig = Rig::with(HttpClientSettings { connections_max: 1, ..settings() });
    let connecting = rig.send(&PING);
    let waiting = rig.send(&PING);
    let next = rig.send(&PING);
    rig.done();
    rig.client.abort(ExchangeKey(waiting), &mut rig.events);
    assert_eq!((rig.done(), rig.client.waiting()), (vec![], 1));
    rig.client.abort(ExchangeKey(connecting), &mut rig.events);
    assert_eq!(rig.done(), [Done::Close(0)]);
    rig.open(0);
    rig.pass(0);
    assert_eq!(rig.done(), [Done::Open(1), Done::Send(1, PING_TEXT.to_owned())]);
    rig.open(1);
    rig.receive(1, STREAM);
    assert_eq!(rig.only(next), "200 Events s");
    rig.client.abort(ExchangeKey(next), &mut rig.events);
    assert_eq!(rig.done(), [Done::Close(1)]);
    rig.receive(1, "5\r\nhello");
    rig.close(1, LinkEnd::Closed);
    rig.client.abort(ExchangeKey(next), &mut rig.events);
    rig.pass(100_000);
    assert_eq!((rig.seen(), rig.done()), (vec![], vec![]));
    assert!(rig.client.owns_nothing());
}

#[test]
fn a_client_that_is_no_longer_wanted_closes_everything() {
    let mut rig = Rig::warm();
    for _ in 0..4 {
        rig.send(&REPEATABLE);
    }
    rig.done();
    rig.client.close_all(&mut rig.events);
    assert_eq!(rig.done(), [Done::Close(0), Done::Close(1)]);
    rig.pass(100_000);
    assert_eq!((rig.seen(), rig.done()), (vec![], vec![]));
    assert!(rig.client.owns_nothing() && rig.client.poll_timeout().is_none());
    rig.send(&PING);
    assert_eq!(rig.done()[0], Done::Open(2), "names of links are never used again");
}
