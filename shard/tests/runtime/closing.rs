//! The ways a connection ends, and slow readers.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use shardgate_shard::start;

use crate::harness::{ask, config, connect, read_exact, read_line, stop, wait_until};
use crate::lines::{Event, Journal, Lines, wait_for};

fn closed(journal: &Journal, reason: &'static str) {
    wait_for(journal, reason, |event| matches!(event, Event::Closed(_, why) if *why == reason));
}

#[test]
fn each_manner_of_closing_reaches_both_sides() {
    for (order, answer, reason) in
        [("close", "", "local"), ("flush", "bye\n", "local"), ("linger", "bye\n", "local")]
    {
        let journal = Journal::default();
        let made = Lines::with(&journal);
        let handle = start(config(1), move |_| made.clone()).unwrap();
        let mut client = connect(&handle);
        client.write_all(format!("{order}\n").as_bytes()).unwrap();
        let mut received = String::new();
        client.read_to_string(&mut received).unwrap();
        assert_eq!(received, answer, "{order}");
        closed(&journal, reason);
        stop(handle);
    }
}

#[test]
fn a_lingering_close_does_not_reset_a_client_that_still_sends() {
    let journal = Journal::default();
    let made = Lines::with(&journal);
    let handle = start(config(1), move |_| made.clone()).unwrap();
    let mut client = connect(&handle);
    client.write_all(b"linger\n").unwrap();
    // More than the sockets hold, so that some of it is sent after the answer.
    for _ in 0..200 {
        client.write_all(&[b'x'; 16_384]).unwrap();
    }
    assert_eq!(read_line(&mut client), "bye");
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "an end, not a reset");
    closed(&journal, "local");
    drop(client);
    let mut other = connect(&handle);
    wait_until("the lingering connection is gone", || ask(&mut other, "depths") == "1 0 0 1");
    drop(other);
    stop(handle);
}

#[test]
fn the_peers_end_and_the_peers_reset_are_told_apart() {
    let journal = Journal::default();
    let made = Lines::with(&journal);
    let handle = start(config(1), move |_| made.clone()).unwrap();
    let mut polite = connect(&handle);
    assert_eq!(ask(&mut polite, "say hello"), "hello");
    polite.shutdown(Shutdown::Write).unwrap();
    assert_eq!(polite.read(&mut [0; 1]).unwrap(), 0);
    closed(&journal, "peer");
    let mut rude = connect(&handle);
    assert_eq!(ask(&mut rude, "say hello"), "hello");
    socket2::SockRef::from(&rude).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(rude);
    closed(&journal, "reset");
    stop(handle);
}

#[test]
fn closing_with_output_that_nobody_reads_frees_everything() {
    let journal = Journal::default();
    let made = Lines::with(&journal);
    let handle = start(config(1), move |_| made.clone()).unwrap();
    let mut stuck = connect(&handle);
    // Far more than the sockets of both sides take: a send stays in flight.
    stuck.write_all(b"flood 50000000\n").unwrap();
    read_exact(&mut stuck, 1);
    let mut other = connect(&handle);
    assert_eq!(ask(&mut other, "depths"), "2 0 1 1");
    stuck.write_all(b"close\n").unwrap();
    closed(&journal, "local");
    wait_until("the stuck connection is gone", || ask(&mut other, "depths") == "1 0 0 1");
    let mut rest = Vec::new();
    match stuck.read_to_end(&mut rest) {
        Ok(_) => assert!(rest.len() < 50_000_000),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    drop(other);
    stop(handle);
}

#[test]
fn an_id_of_a_closed_connection_never_names_its_successor() {
    let journal = Journal::default();
    let made = Lines::with(&journal);
    let handle = start(config(1), move |_| made.clone()).unwrap();
    for round in 0..50 {
        let mut client = connect(&handle);
        // `Lines` asserts that no id is named twice and that a closed one finds nothing.
        client.write_all(b"say a\nsay b\nclose\n").unwrap();
        let mut received = Vec::new();
        let _ = client.read_to_end(&mut received);
        wait_until("the round's close", || {
            let journal = journal.lock().unwrap();
            let closes = journal.iter().filter(|(_, event)| matches!(event, Event::Closed(..)));
            closes.count() == round + 1
        });
    }
    let mut generations = Vec::new();
    for (_, event) in journal.lock().unwrap().iter() {
        if let Event::Accepted(conn) = event {
            assert_eq!(conn.index(), 0, "the index is used again");
            generations.push(conn.generation());
        }
    }
    assert_eq!(generations, (0..50).collect::<Vec<_>>());
    stop(handle);
}

#[test]
fn a_paused_connection_keeps_its_bytes_and_its_end() {
    let journal = Journal::default();
    let made = Lines::with(&journal);
    let handle = start(config(1), move |_| made.clone()).unwrap();
    let mut client = connect(&handle);
    // The second and later lines of one packet are obeyed at once; what comes in later
    // packets waits for the pause to end.
    client.write_all(b"pause 300\n").unwrap();
    for number in 0..100 {
        client.write_all(format!("say {number}\n").as_bytes()).unwrap();
    }
    client.shutdown(Shutdown::Write).unwrap();
    for number in 0..100 {
        assert_eq!(read_line(&mut client), number.to_string());
    }
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    closed(&journal, "peer");
    stop(handle);
}

#[test]
fn drained_is_told_after_a_slow_reader_has_read_all() {
    let made = Lines::default();
    let handle = start(config(1), move |_| made.clone()).unwrap();
    let mut slow = connect(&handle);
    slow.write_all(b"drain 30000000\n").unwrap();
    let mut other = connect(&handle);
    wait_until("the output is stuck", || ask(&mut other, "depths") == "2 0 1 1");
    let bytes = read_exact(&mut slow, 30_000_000);
    assert!(bytes.iter().all(|&byte| byte == b'd'));
    assert_eq!(read_line(&mut slow), "drained");
    // With nothing queued it is told as well.
    slow.write_all(b"drain 0\n").unwrap();
    assert_eq!(read_line(&mut slow), "drained");
    drop((slow, other));
    stop(handle);
}
