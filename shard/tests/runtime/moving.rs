//! Connections that move between shards under traffic.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shardgate_shard::{
    CloseReason, ConnId, Io, ListenerId, RuntimeConfig, Service, ShardId, start,
};

use crate::harness::{ask, config, connect, read_line, stop, wait_until};
use crate::lines::{Event, Journal, Lines};

/// Echoes numbered records and moves on after every `every`-th one. Checks on the way
/// that each record is the one that should come.
#[derive(Clone)]
struct Wanderer {
    every: u64,
    moves: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
    travellers: Vec<Traveller>,
}

#[derive(Clone, Debug, Default)]
struct Traveller {
    next: u64,
    partial: Vec<u8>,
}

impl Wanderer {
    fn new(every: u64) -> Wanderer {
        let (moves, open) = Default::default();
        Wanderer { every, moves, open, travellers: Vec::new() }
    }

    fn take_seat(&mut self, conn: ConnId, traveller: Traveller) {
        if self.travellers.len() <= conn.index() {
            self.travellers.resize_with(conn.index() + 1, Traveller::default);
        }
        self.travellers[conn.index()] = traveller;
    }

    fn walk(&mut self, io: &mut Io<'_, Traveller>, conn: ConnId) {
        let traveller = &mut self.travellers[conn.index()];
        while traveller.partial.len() >= 8 {
            let record: [u8; 8] = traveller.partial[..8].try_into().unwrap();
            assert_eq!(u64::from_le_bytes(record), traveller.next, "the record that should come");
            traveller.partial.drain(..8);
            traveller.next += 1;
            io.output(conn).unwrap().extend_from_slice(&record);
            if traveller.next.is_multiple_of(self.every) {
                let to = ShardId((io.shard().0 + 1) % io.shards() as u16);
                self.moves.fetch_add(1, Ordering::Relaxed);
                io.move_connection(conn, to, std::mem::take(traveller));
                return;
            }
        }
    }
}

impl Service for Wanderer {
    type Message = Traveller;

    fn handle_accept(&mut self, _io: &mut Io<'_, Traveller>, conn: ConnId, _: ListenerId) {
        self.open.fetch_add(1, Ordering::SeqCst);
        self.take_seat(conn, Traveller::default());
    }

    fn handle_recv(&mut self, io: &mut Io<'_, Traveller>, conn: ConnId, bytes: &mut [u8]) {
        self.travellers[conn.index()].partial.extend_from_slice(bytes);
        self.walk(io, conn);
    }

    fn handle_eof(&mut self, io: &mut Io<'_, Traveller>, conn: ConnId) {
        io.close_after_flush(conn);
    }

    fn handle_closed(&mut self, _: &mut Io<'_, Traveller>, _: ConnId, reason: CloseReason) {
        assert!(matches!(reason, CloseReason::Peer), "{reason:?}");
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    fn handle_adopted(&mut self, io: &mut Io<'_, Traveller>, conn: ConnId, traveller: Traveller) {
        self.take_seat(conn, traveller);
        self.walk(io, conn);
    }
}

/// Sends `records` numbers in uneven pieces and reads them back; ends by its own end.
fn journey(mut client: TcpStream, records: u64, piece: usize) {
    let sent: Vec<u8> = (0..records).flat_map(u64::to_le_bytes).collect();
    let mut writer = client.try_clone().unwrap();
    let to_write = sent.clone();
    let writing = std::thread::spawn(move || {
        for piece in to_write.chunks(piece) {
            writer.write_all(piece).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    writing.join().unwrap();
    assert!(received == sent, "{} of {} bytes came back", received.len(), sent.len());
}

fn wander(config: RuntimeConfig, every: u64, clients: usize, records: u64) {
    let wanderer = Wanderer::new(every);
    let made = wanderer.clone();
    let handle = start(config, move |_| made.clone()).unwrap();
    let travelling: Vec<_> = (0..clients)
        .map(|number| {
            let client = connect(&handle);
            std::thread::spawn(move || journey(client, records, 5 + 37 * number))
        })
        .collect();
    for travelling in travelling {
        travelling.join().unwrap();
    }
    wait_until("all closed", || wanderer.open.load(Ordering::SeqCst) == 0);
    let moves = wanderer.moves.load(Ordering::Relaxed);
    assert_eq!(moves, clients as u64 * (records / every));
    stop(handle);
}

#[test]
fn no_byte_is_lost_or_reordered_by_many_moves() {
    wander(config(2), 10, 24, 4_000);
}

#[test]
fn three_shards_and_a_move_at_every_record() {
    wander(config(3), 1, 8, 1_000);
}

#[test]
fn a_move_reaches_the_other_shard_and_comes_back() {
    let journal = Journal::default();
    let made = Lines::with(&journal);
    let handle = start(config(2), move |_| made.clone()).unwrap();
    let mut client = connect(&handle);
    let here: u16 = ask(&mut client, "shard").parse().unwrap();
    let there = 1 - here;
    // The rest of the packet goes along as baggage.
    client.write_all(format!("move {there}\nshard\nsay x\n").as_bytes()).unwrap();
    assert_eq!(read_line(&mut client), format!("on {there}"));
    assert_eq!(read_line(&mut client), there.to_string());
    assert_eq!(read_line(&mut client), "x");
    assert_eq!(ask(&mut client, &format!("move {here}")), format!("on {here}"));
    assert_eq!(ask(&mut client, "depths"), "1 0 0 1");
    client.write_all(b"close\n").unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    let closes = || {
        let journal = journal.lock().unwrap();
        journal.iter().filter(|(_, event)| matches!(event, Event::Closed(..))).count()
    };
    wait_until("one close", || closes() > 0);
    assert_eq!(closes(), 1, "the moves were no closes");
    stop(handle);
}

#[test]
fn a_move_to_where_it_is_comes_back_at_once() {
    let made = Lines::default();
    let handle = start(config(1), move |_| made.clone()).unwrap();
    let mut client = connect(&handle);
    client.write_all(b"move 0\nsay still here\n").unwrap();
    assert_eq!(read_line(&mut client), "on 0");
    assert_eq!(read_line(&mut client), "still here");
    drop(client);
    stop(handle);
}

#[test]
fn a_connection_stays_when_the_other_shard_is_full() {
    let mut config = config(2);
    config.ring.slots = 8;
    config.rings_per_shard_max = 1;
    let made = Lines::default();
    let handle = start(config, move |_| made.clone()).unwrap();
    let mut clients = Vec::new();
    while clients.len() < 6 {
        let mut client = connect(&handle);
        if ask(&mut client, "shard") == "1" {
            clients.push(client);
        }
    }
    // Shard 0 keeps slots for accepts, so it can't take six.
    let mut stayed = 0;
    for client in &mut clients {
        stayed += usize::from(ask(client, "move 0") == "on 1");
    }
    assert!((1..6).contains(&stayed), "{stayed} of 6 stayed");
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(ask(client, &format!("say {number}")), number.to_string(), "as well as before");
    }
    drop(clients);
    stop(handle);
}

#[test]
fn a_peer_that_resets_while_moving_is_closed_once() {
    let journal = Journal::default();
    let made = Lines::with(&journal);
    let handle = start(config(2), move |_| made.clone()).unwrap();
    for _ in 0..200 {
        let mut client = connect(&handle);
        client.write_all(b"move 0\nmove 1\nmove 0\nmove 1\n").unwrap();
        socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
    wait_until("as many closes as accepts", || {
        let journal = journal.lock().unwrap();
        let count =
            |wanted: fn(&Event) -> bool| journal.iter().filter(|(_, event)| wanted(event)).count();
        let accepts = count(|event| matches!(event, Event::Accepted(_)));
        // A connection reset before its accept may never be seen.
        accepts >= 1 && accepts == count(|event| matches!(event, Event::Closed(..)))
    });
    stop(handle);
}
