//! Ends: of a shard in order, by deadline, by a panic; of one connection by a panic.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use shardgate_shard::{
    CloseReason, ConnId, ExitReason, Io, ListenerId, Origin, Service, ShardExit, ShardId,
    StartError, start,
};

use crate::harness::{PATIENCE, ask, config, connect, read_exact, read_line, stop, wait_until};
use crate::lines::{Event, Journal, Lines, wait_for};

#[test]
fn a_panic_in_one_connection_closes_that_one_only() {
    let journal = Journal::default();
    let made = Lines::with(&journal);
    let handle = start(config(1), move |_| made.clone()).unwrap();
    let mut good = connect(&handle);
    assert_eq!(ask(&mut good, "say before"), "before");
    let mut bad = connect(&handle);
    bad.write_all(b"panic\n").unwrap();
    assert_eq!(bad.read(&mut [0; 1]).unwrap(), 0);
    wait_for(&journal, "the close", |event| matches!(event, Event::Closed(_, "panicked")));
    assert_eq!(ask(&mut good, "say after"), "after");
    assert_eq!(ask(&mut good, "depths"), "1 0 0 1");
    drop(good);
    stop(handle);
}

#[test]
fn a_panic_of_one_shard_is_reported_and_the_others_go_on() {
    let made = Lines::default();
    let handle = start(config(2), move |_| made.clone()).unwrap();
    let mut on = [Vec::new(), Vec::new()];
    while on.iter().any(Vec::is_empty) {
        let mut client = connect(&handle);
        let shard: usize = ask(&mut client, "shard").parse().unwrap();
        on[shard].push(client);
    }
    let [mut dying, mut living] = on;
    dying[0].write_all(b"die\n").unwrap();
    let exits = handle.wait_for_exits(1, PATIENCE);
    let [ShardExit { shard: ShardId(0), reason: ExitReason::Panicked(message) }] = &exits[..]
    else {
        panic!("{exits:?}");
    };
    assert!(message.contains("asked for the shard's end"), "{message}");
    for client in &mut dying {
        let mut rest = Vec::new();
        // Its sockets are closed, with an end or, if bytes were unread, a reset.
        let _ = client.read_to_end(&mut rest);
    }
    for client in &mut living {
        assert_eq!(ask(client, "shard"), "1");
    }
    // A connection can't move there any more; it stays.
    assert_eq!(ask(&mut living[0], "move 0"), "on 1");
    // New connections all go to the shard that is left.
    for _ in 0..8 {
        assert_eq!(ask(&mut connect(&handle), "shard"), "1");
    }
    drop(living);
    handle.shutdown(PATIENCE);
    let exits = handle.join();
    assert_eq!(exits[1], ShardExit { shard: ShardId(1), reason: ExitReason::Finished });
}

#[test]
fn a_panic_of_the_maker_is_an_error_of_the_start() {
    let made = Lines::default();
    let error = start(config(2), move |start| {
        assert!(start.shard != ShardId(1), "shard 1 is not to be made");
        made.clone()
    });
    match error.err() {
        Some(StartError::Panicked { shard: ShardId(1), message }) => {
            assert!(message.contains("not to be made"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut config = config(1);
    config.listeners = vec![taken.local_addr().unwrap()];
    let made = Lines::default();
    let error = start(config, move |_| made.clone()).err().unwrap().to_string();
    assert!(error.contains(&taken.local_addr().unwrap().to_string()), "{error}");
}

#[test]
fn a_shutdown_sends_what_is_queued_and_then_refuses() {
    let journal = Journal::default();
    let made = Lines::with(&journal);
    let handle = start(config(2), move |_| made.clone()).unwrap();
    let mut slow = connect(&handle);
    slow.write_all(b"flood 20000000\n").unwrap();
    read_exact(&mut slow, 1);
    handle.shutdown(PATIENCE);
    // The output is still owed; the shard waits for the reader.
    assert_eq!(read_exact(&mut slow, 19_999_999).len(), 19_999_999);
    assert_eq!(slow.read(&mut [0; 1]).unwrap(), 0);
    let address = handle.addresses()[0];
    for ShardExit { shard, reason } in handle.join() {
        assert_eq!(reason, ExitReason::Finished, "shard {shard}");
    }
    wait_for(&journal, "the close", |event| matches!(event, Event::Closed(_, "shutdown")));
    assert!(TcpStream::connect_timeout(&address, PATIENCE).is_err(), "the listeners are closed");
}

#[test]
fn connections_in_the_listen_queue_are_served_before_the_listener_closes() {
    let made = Lines::default();
    let handle = start(config(1), move |_| made.clone()).unwrap();
    let mut holding = connect(&handle);
    holding.write_all(b"flood 20000000\n").unwrap();
    read_exact(&mut holding, 1);
    // These have been connected before the shutdown, so each is accepted.
    let mut early: Vec<TcpStream> = (0..20).map(|_| connect(&handle)).collect();
    handle.shutdown(PATIENCE);
    for client in &mut early {
        assert_eq!(ask(client, "say served"), "served");
    }
    read_exact(&mut holding, 19_999_999);
    assert_eq!(handle.join()[0].reason, ExitReason::Finished);
}

#[test]
fn a_shutdown_waits_for_a_lingering_client_that_still_sends() {
    let journal = Journal::default();
    let made = Lines::with(&journal);
    let handle = start(config(1), move |_| made.clone()).unwrap();
    let address = handle.addresses()[0];
    let mut client = connect(&handle);
    client.write_all(b"linger\n").unwrap();
    wait_for(&journal, "the close", |event| matches!(event, Event::Closed(_, "local")));
    handle.shutdown(PATIENCE);
    wait_until("the listener is closed", || {
        TcpStream::connect_timeout(&address, PATIENCE).is_err()
    });
    for _ in 0..64 {
        client.write_all(&[b'x'; 16_384]).unwrap();
    }
    assert_eq!(read_line(&mut client), "bye");
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "an end, not a reset");
    assert_eq!(handle.exits(), [], "the shard waits for the client's end");
    drop(client);
    assert_eq!(handle.join()[0].reason, ExitReason::Finished);
}

/// Shard 0 finishes at once and writes a letter for each connection that this closes;
/// shard 1 finishes when it has got one.
#[derive(Clone)]
struct Farewell;

impl Service for Farewell {
    type Message = ();

    fn handle_accept(&mut self, io: &mut Io<'_, ()>, conn: ConnId, _: ListenerId) {
        if io.shard() == ShardId(0) {
            io.output(conn).unwrap().push(b'0');
        } else {
            io.close(conn);
        }
    }
    fn handle_recv(&mut self, _: &mut Io<'_, ()>, _: ConnId, _: &mut [u8]) {}
    fn handle_eof(&mut self, _: &mut Io<'_, ()>, _: ConnId) {}
    fn handle_closed(&mut self, io: &mut Io<'_, ()>, _: ConnId, reason: CloseReason) {
        if matches!(reason, CloseReason::Shutdown) {
            io.send(ShardId(1), ()).unwrap();
        }
    }
    fn handle_adopted(&mut self, _: &mut Io<'_, ()>, _: ConnId, (): ()) {}
    fn handle_message(&mut self, io: &mut Io<'_, ()>, _: Origin, (): ()) {
        io.finish();
    }
    fn handle_shutdown(&mut self, io: &mut Io<'_, ()>) {
        if io.shard() == ShardId(0) {
            io.finish();
        }
    }
}

#[test]
fn what_the_last_callbacks_send_reaches_the_other_shards() {
    let handle = start(config(2), |_| Farewell).unwrap();
    let mut client = connect(&handle);
    while client.read(&mut [0; 1]).unwrap() == 0 {
        client = connect(&handle);
    }
    handle.shutdown(PATIENCE);
    for ShardExit { shard, reason } in handle.join() {
        assert_eq!(reason, ExitReason::Finished, "shard {shard}");
    }
}

/// Never finishes by itself.
#[derive(Clone)]
struct Stubborn;

impl Service for Stubborn {
    type Message = ();

    fn handle_accept(&mut self, _: &mut Io<'_, ()>, _: ConnId, _: ListenerId) {}
    fn handle_recv(&mut self, _: &mut Io<'_, ()>, _: ConnId, _: &mut [u8]) {}
    fn handle_eof(&mut self, _: &mut Io<'_, ()>, _: ConnId) {}
    fn handle_closed(&mut self, _: &mut Io<'_, ()>, _: ConnId, _: CloseReason) {}
    fn handle_adopted(&mut self, _: &mut Io<'_, ()>, _: ConnId, (): ()) {}
    fn handle_shutdown(&mut self, _: &mut Io<'_, ()>) {}
}

#[test]
fn the_deadline_ends_a_service_that_does_not_finish() {
    let handle = start(config(2), |_| Stubborn).unwrap();
    let mut client = connect(&handle);
    handle.shutdown(Duration::from_millis(50));
    for exit in handle.clone().join() {
        assert_eq!(exit.reason, ExitReason::DeadlineReached);
    }
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(handle.exits().len(), 2, "a clone sees the same ends");
}
