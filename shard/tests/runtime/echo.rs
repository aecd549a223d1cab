//! Accepting, receiving, sending and closing.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shardgate_shard::{CloseReason, ConnId, Io, ListenerId, Service, start};

use crate::harness::{config, connect, read_exact, stop, wait_until};

/// Sends back what comes, and counts by shard.
#[derive(Clone, Default)]
struct Echo {
    accepted: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
}

impl Service for Echo {
    type Message = ();

    fn handle_accept(&mut self, _io: &mut Io<'_, ()>, _conn: ConnId, _listener: ListenerId) {
        self.accepted.fetch_add(1, Ordering::SeqCst);
    }

    fn handle_recv(&mut self, io: &mut Io<'_, ()>, conn: ConnId, bytes: &mut [u8]) {
        io.output(conn).unwrap().extend_from_slice(bytes);
    }

    fn handle_eof(&mut self, io: &mut Io<'_, ()>, conn: ConnId) {
        io.close_after_flush(conn);
    }

    fn handle_closed(&mut self, _io: &mut Io<'_, ()>, _conn: ConnId, reason: CloseReason) {
        assert!(matches!(reason, CloseReason::Peer | CloseReason::Reset(_)), "{reason:?}");
        self.closed.fetch_add(1, Ordering::SeqCst);
    }

    fn handle_adopted(&mut self, _io: &mut Io<'_, ()>, _conn: ConnId, _baggage: ()) {}
}

#[test]
fn two_shards_echo() {
    let echo = Echo::default();
    let made = echo.clone();
    let handle = start(config(2), move |_| made.clone()).unwrap();
    let mut clients: Vec<_> = (0..64).map(|_| connect(&handle)).collect();
    for round in 0..20 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.write_all(format!("{number:04}/{round:04}").as_bytes()).unwrap();
        }
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(read_exact(client, 9), format!("{number:04}/{round:04}").as_bytes());
        }
    }
    drop(clients);
    wait_until("all connections closed", || echo.closed.load(Ordering::SeqCst) == 64);
    assert_eq!(echo.accepted.load(Ordering::SeqCst), 64);
    stop(handle);
}

#[test]
fn megabytes_come_back_whole_and_end_with_the_end() {
    let echo = Echo::default();
    let handle = start(config(1), move |_| echo.clone()).unwrap();
    let mut client = connect(&handle);
    let sent: Vec<u8> = (0..3_000_000u32).map(|number| (number % 251) as u8).collect();
    let mut writer = client.try_clone().unwrap();
    let to_write = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&to_write).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    stop(handle);
}
