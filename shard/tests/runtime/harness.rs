//! What the tests share: configurations, blocking clients, waiting with a bound.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use shardgate_shard::{ExitReason, Handle, RingSizes, RuntimeConfig, ShardCount, ShardExit};

/// The bound of every wait; only a failing test ever takes so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// `shards` shards with one loopback listener and small rings.
pub fn config(shards: u16) -> RuntimeConfig {
    RuntimeConfig {
        listeners: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
        shards: ShardCount::Exactly(shards),
        share_cpus: true,
        backlog: 64,
        ring: RingSizes {
            slots: 1_024,
            submission_entries: 64,
            completion_entries: 512,
            receive_buffers: 32,
            receive_buffer_bytes: 1_024,
        },
        ..RuntimeConfig::default()
    }
}

/// A client connection whose reads and writes give up after [`PATIENCE`].
pub fn connect<M: Send + 'static>(handle: &Handle<M>) -> TcpStream {
    let stream = TcpStream::connect_timeout(&handle.addresses()[0], PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads exactly `length` bytes.
pub fn read_exact(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Sends a line and reads one line back.
pub fn ask(stream: &mut TcpStream, line: &str) -> String {
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    read_line(stream)
}

/// Reads up to a newline, which is left out.
pub fn read_line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    loop {
        let byte = read_exact(stream, 1)[0];
        if byte == b'\n' {
            return String::from_utf8(line).unwrap();
        }
        line.push(byte);
    }
}

/// Looks until `holds`, at most for [`PATIENCE`].
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// Ends all shards in order.
pub fn stop<M: Send + 'static>(handle: Handle<M>) {
    handle.shutdown(PATIENCE);
    for ShardExit { shard, reason } in handle.join() {
        assert_eq!(reason, ExitReason::Finished, "shard {shard}");
    }
}
