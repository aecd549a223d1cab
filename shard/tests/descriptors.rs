//! Shards that have ended leave no descriptor behind. A test binary of its own, as it
//! counts the descriptors of the process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use shardgate_shard::{
    CloseReason, ConnId, ExitReason, Io, ListenerId, RuntimeConfig, Service, ShardCount, start,
};

const PATIENCE: Duration = Duration::from_secs(30);

const SHARDS: usize = 2;

struct Echo;

impl Service for Echo {
    type Message = ();

    fn handle_accept(&mut self, _: &mut Io<'_, ()>, _: ConnId, _: ListenerId) {}
    fn handle_recv(&mut self, io: &mut Io<'_, ()>, conn: ConnId, bytes: &mut [u8]) {
        io.output(conn).unwrap().extend_from_slice(bytes);
    }
    fn handle_eof(&mut self, io: &mut Io<'_, ()>, conn: ConnId) {
        io.close_after_flush(conn);
    }
    fn handle_closed(&mut self, _: &mut Io<'_, ()>, _: ConnId, _: CloseReason) {}
    fn handle_adopted(&mut self, _: &mut Io<'_, ()>, _: ConnId, (): ()) {}
}

fn round() {
    let config = RuntimeConfig {
        listeners: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
        shards: ShardCount::Exactly(SHARDS as u16),
        share_cpus: true,
        ..RuntimeConfig::default()
    };
    let handle = start(config, |_| Echo).unwrap();
    let mut clients: Vec<TcpStream> =
        (0..8).map(|_| TcpStream::connect(handle.addresses()[0]).unwrap()).collect();
    for client in &mut clients {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
    }
    // Half of the connections are open when the shards end.
    clients.truncate(4);
    handle.shutdown(PATIENCE);
    for exit in handle.join() {
        assert_eq!(exit.reason, ExitReason::Finished);
    }
}

#[test]
fn shards_that_ended_leave_no_descriptors() {
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    round();
    let before = count();
    const ROUNDS: usize = 5;
    (0..ROUNDS).for_each(|_| round());
    // glommio 0.9 keeps one eventfd per executor as long as the process lives.
    let expected = before + ROUNDS * SHARDS;
    // The kernel takes rings apart a moment after their last descriptor is closed.
    let end = Instant::now() + PATIENCE;
    while count() > expected {
        assert!(Instant::now() < end, "{} descriptors, {expected} expected", count());
        std::thread::yield_now();
    }
}
