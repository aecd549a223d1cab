//! Answers every HTTP request head with the same 200, to measure what the runtime
//! itself can do.
//!
//! `http_fixed [--shards N] [--port P] [--spin US] [--yield US]`; it runs until it is
//! killed. Requests are told apart by the empty line that ends their head; bodies are
//! not understood.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use shardgate_shard::{
    CloseReason, ConnId, Io, ListenerId, RuntimeConfig, Service, ShardCount, start,
};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
    Content-Length: 75\r\n\r\n\
    {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"ok\"}]}}";
const HEAD_END: &[u8] = b"\r\n\r\n";

/// How much of the head's end each connection has seen.
#[derive(Default)]
struct FixedAnswer {
    matched: Vec<u8>,
}

impl Service for FixedAnswer {
    type Message = ();

    fn handle_accept(&mut self, _io: &mut Io<'_, ()>, conn: ConnId, _listener: ListenerId) {
        if self.matched.len() <= conn.index() {
            self.matched.resize(conn.index() + 1, 0);
        }
        self.matched[conn.index()] = 0;
    }

    fn handle_recv(&mut self, io: &mut Io<'_, ()>, conn: ConnId, bytes: &mut [u8]) {
        let mut matched = usize::from(self.matched[conn.index()]);
        let mut answers = 0;
        for &byte in bytes.iter() {
            matched = match byte {
                _ if byte == HEAD_END[matched] => matched + 1,
                b'\r' => 1,
                _ => 0,
            };
            if matched == HEAD_END.len() {
                answers += 1;
                matched = 0;
            }
        }
        self.matched[conn.index()] = matched as u8;
        if answers > 0
            && let Some(output) = io.output(conn)
        {
            (0..answers).for_each(|_| output.extend_from_slice(ANSWER));
        }
    }

    fn handle_eof(&mut self, io: &mut Io<'_, ()>, conn: ConnId) {
        io.close_after_flush(conn);
    }

    fn handle_closed(&mut self, _io: &mut Io<'_, ()>, _conn: ConnId, _reason: CloseReason) {}

    fn handle_adopted(&mut self, _io: &mut Io<'_, ()>, _conn: ConnId, _baggage: ()) {}
}

fn main() {
    let mut config = RuntimeConfig { shards: ShardCount::Exactly(1), ..RuntimeConfig::default() };
    let mut port = 8_080;
    let mut arguments = std::env::args().skip(1);
    while let (Some(name), Some(value)) = (arguments.next(), arguments.next()) {
        let number: u16 = value.parse().expect("a number after each option");
        match name.as_str() {
            "--shards" => config.shards = ShardCount::Exactly(number),
            "--port" => port = number,
            "--spin" => config.spin_us = u64::from(number),
            "--yield" => config.yield_after_us = u64::from(number),
            other => panic!("unknown option {other}"),
        }
    }
    config.listeners = vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)];
    let handle = start(config, |_| FixedAnswer::default()).expect("the runtime starts");
    println!("{:?} on {:?}; {}", handle.addresses(), handle.placement().shards, handle.limits());
    handle.join();
}
