//! Outgoing connections: bytes both ways, the ways a connect fails, and nothing leaked.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use shardgate_shard::{ConnectRefused, RuntimeConfig, ShardId};
use socket2::{Domain, SockRef, Socket, Type};

use crate::dialer::{Exchange, Order, Then, Told};
use crate::harness::{PATIENCE, config, read_exact, wait_until};

/// As [`config`], but no listener takes slots.
fn outgoing_only() -> RuntimeConfig {
    RuntimeConfig { listeners: Vec::new(), ..config(1) }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer.set_write_timeout(Some(PATIENCE)).unwrap();
    peer
}

/// An address where nobody listens.
fn closed_port() -> SocketAddr {
    listen().1
}

/// A listener whose queue is full, so that a connect to it waits. The sockets fill it.
fn full_listener() -> (Socket, Vec<Socket>, SocketAddr) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let first = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    first.connect_timeout(&address, PATIENCE).unwrap();
    // A queue of length 0 holds one connection; these find it full.
    let further = (0..4).map(|_| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        assert!(socket.connect(&address).is_err());
        socket
    });
    let sockets = std::iter::once(first).chain(further).collect();
    (listener, sockets, address.as_socket().unwrap())
}

#[test]
fn an_outgoing_connection_carries_bytes_both_ways() {
    let exchange = Exchange::open(outgoing_only());
    let (before, _) = exchange.report();
    let (listener, address) = listen();
    exchange.connect(7, address);
    assert_eq!(exchange.next(), Told::Connected(7));
    let mut peer = accept(&listener);
    exchange.order(Order::Write(7, b"question".to_vec()));
    assert_eq!(read_exact(&mut peer, 8), b"question");
    peer.write_all(b"answer").unwrap();
    assert_eq!(exchange.received(7, 6), b"answer");
    // More than one send and one buffer take.
    let long: Vec<u8> = (0..300_000).map(|number| number as u8).collect();
    exchange.order(Order::Write(7, long.clone()));
    assert_eq!(read_exact(&mut peer, long.len()), long);
    peer.write_all(&long).unwrap();
    assert_eq!(exchange.received(7, long.len()), long);
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(exchange.next(), Told::Ended(7));
    exchange.order(Order::Write(7, b"bye".to_vec()));
    assert_eq!(read_exact(&mut peer, 3), b"bye");
    exchange.order(Order::Close(7));
    assert_eq!(exchange.next(), Told::Closed(7, "peer", None));
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
    let (_, counters) = exchange.report();
    assert_eq!((counters.connects, counters.connects_failed, counters.accepted), (1, 0, 0));
    exchange.stop_as_empty_as(before);
}

#[test]
fn ipv6_is_connected_to() {
    let exchange = Exchange::open(outgoing_only());
    let (before, _) = exchange.report();
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    exchange.connect_and(1, listener.local_addr().unwrap(), b"six", Then::Nothing);
    assert_eq!(read_exact(&mut accept(&listener), 3), b"six");
    assert_eq!(exchange.next(), Told::Connected(1));
    assert_eq!(exchange.next(), Told::Ended(1));
    exchange.order(Order::Close(1));
    assert_eq!(exchange.next(), Told::Closed(1, "peer", None));
    exchange.stop_as_empty_as(before);
}

#[test]
fn what_is_written_before_the_connection_stands_is_sent_then() {
    let exchange = Exchange::open(outgoing_only());
    let (before, _) = exchange.report();
    let (listener, address) = listen();
    let greeting = vec![b'g'; 100_000];
    for (line, then) in [(1, Then::Nothing), (2, Then::NotifyDrained), (3, Then::CloseAfterFlush)] {
        exchange.connect_and(line, address, &greeting, then);
        let mut peer = accept(&listener);
        assert_eq!(read_exact(&mut peer, greeting.len()), greeting);
        assert_eq!(exchange.next(), Told::Connected(line));
        if then == Then::NotifyDrained {
            assert_eq!(exchange.next(), Told::Drained(line));
        } else if then == Then::CloseAfterFlush {
            assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
        }
        exchange.order(Order::Close(line));
        assert_eq!(exchange.next(), Told::Closed(line, "local", None));
    }
    exchange.stop_as_empty_as(before);
}

#[test]
fn output_waits_as_long_as_the_connect_does() {
    let exchange = Exchange::open(outgoing_only());
    let (before, _) = exchange.report();
    let (listener, fillers, address) = full_listener();
    exchange.connect_and(1, address, b"at last", Then::Nothing);
    let (depths, _) = exchange.report();
    assert_eq!((depths.connecting, depths.outputs, depths.output_bytes), (1, 1, 7));
    exchange.order(Order::Write(1, b"!".to_vec()));
    assert!(exchange.is_silent());
    // There is room in the queue now: the kernel's next try gets through.
    drop(fillers);
    let listener = TcpListener::from(listener);
    let mut received = String::new();
    while received.is_empty() {
        let mut peer = accept(&listener);
        // The fillers that got through are closed already and have sent nothing.
        SockRef::from(&peer).set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut bytes = [0; 8];
        if peer.read_exact(&mut bytes).is_ok() {
            received = String::from_utf8(bytes.to_vec()).unwrap();
        }
    }
    assert_eq!(received, "at last!");
    assert_eq!(exchange.next(), Told::Connected(1));
    exchange.order(Order::Close(1));
    assert!(matches!(exchange.next(), Told::Ended(1) | Told::Closed(1, "local", None)));
    exchange.stop_as_empty_as(before);
}

#[test]
fn a_refused_connect_is_told_once_and_leaves_nothing() {
    let exchange = Exchange::open(outgoing_only());
    let (before, _) = exchange.report();
    let refused = Told::Closed(1, "connect failed", Some(libc::ECONNREFUSED));
    for _ in 0..20 {
        exchange.connect_and(1, closed_port(), b"nobody reads this", Then::Nothing);
        assert_eq!(exchange.next(), refused);
    }
    assert!(exchange.is_silent());
    let (_, counters) = exchange.report();
    assert_eq!((counters.connects, counters.connects_failed), (0, 20));
    exchange.stop_as_empty_as(before);
}

#[test]
fn a_connection_closed_while_it_connects_is_told_once_and_leaves_nothing() {
    let exchange = Exchange::open(outgoing_only());
    let (before, _) = exchange.report();
    let (_listener, _fillers, address) = full_listener();
    exchange.connect_and(1, address, b"never sent", Then::Nothing);
    wait_until("the connect is in the kernel", || exchange.report().0.connecting == 1);
    for _ in 0..20 {
        assert_eq!(exchange.report().0.connecting, 1);
    }
    exchange.order(Order::Close(1));
    assert_eq!(exchange.next(), Told::Closed(1, "local", None));
    // Closed before the kernel has even made the socket.
    exchange.connect_and(2, address, b"never sent", Then::Close);
    assert_eq!(exchange.next(), Told::Closed(2, "local", None));
    exchange.connect_and(3, closed_port(), b"", Then::Close);
    assert_eq!(exchange.next(), Told::Closed(3, "local", None));
    wait_until("all have failed", || exchange.report().1.connects_failed == 3);
    assert!(exchange.is_silent());
    exchange.stop_as_empty_as(before);
}

#[test]
fn a_peers_reset_is_told_as_one() {
    let exchange = Exchange::open(outgoing_only());
    let (before, _) = exchange.report();
    let (listener, address) = listen();
    exchange.connect_and(1, address, b"hello", Then::Nothing);
    let mut peer = accept(&listener);
    assert_eq!(read_exact(&mut peer, 5), b"hello");
    SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    assert_eq!(exchange.next(), Told::Connected(1));
    assert_eq!(exchange.next(), Told::Closed(1, "reset", Some(libc::ECONNRESET)));
    exchange.stop_as_empty_as(before);
}

#[test]
fn a_pause_before_the_connection_stands_keeps_the_bytes_back() {
    let exchange = Exchange::open(outgoing_only());
    let (before, _) = exchange.report();
    let (listener, address) = listen();
    exchange.connect_and(1, address, b"", Then::Pause);
    let mut peer = accept(&listener);
    assert_eq!(exchange.next(), Told::Connected(1));
    peer.write_all(b"held").unwrap();
    assert!(exchange.is_silent());
    exchange.order(Order::Resume(1));
    assert_eq!(exchange.received(1, 4), b"held");
    // Resuming before it stands receives nothing, but breaks nothing either.
    exchange.connect_and(2, address, b"", Then::Pause);
    exchange.order(Order::Resume(2));
    assert_eq!(exchange.next(), Told::Connected(2));
    accept(&listener).write_all(b"more").unwrap();
    assert_eq!(exchange.received(2, 4), b"more");
    exchange.order(Order::Close(1));
    assert_eq!(exchange.next(), Told::Ended(2));
    assert_eq!(exchange.next(), Told::Closed(1, "local", None));
    exchange.order(Order::Close(2));
    assert_eq!(exchange.next(), Told::Closed(2, "peer", None));
    exchange.stop_as_empty_as(before);
}

#[test]
fn an_outgoing_connection_does_not_move() {
    let exchange = Exchange::open(RuntimeConfig { listeners: Vec::new(), ..config(2) });
    let (before, _) = exchange.report();
    let (listener, address) = listen();
    exchange.connect_and(1, address, b"early", Then::Move);
    assert_eq!(exchange.next(), Told::Returned(1));
    assert_eq!(exchange.next(), Told::Connected(1));
    let mut peer = accept(&listener);
    exchange.order(Order::Move(1, ShardId(1)));
    assert_eq!(exchange.next(), Told::Returned(1));
    peer.write_all(b"still here").unwrap();
    assert_eq!(exchange.received(1, 10), b"still here");
    assert_eq!(read_exact(&mut peer, 5), b"early");
    exchange.order(Order::Close(1));
    assert_eq!(exchange.next(), Told::Closed(1, "local", None));
    exchange.stop_as_empty_as(before);
}

#[test]
fn a_panic_in_handle_connected_closes_that_connection_only() {
    let exchange = Exchange::with_panic_at(outgoing_only(), Some(2));
    let (before, _) = exchange.report();
    let (listener, address) = listen();
    exchange.connect(1, address);
    let mut good = accept(&listener);
    assert_eq!(exchange.next(), Told::Connected(1));
    exchange.connect(2, address);
    let mut bad = accept(&listener);
    assert_eq!(exchange.next(), Told::Connected(2));
    assert_eq!(exchange.next(), Told::Closed(2, "panicked", None));
    assert_eq!(bad.read(&mut [0; 1]).unwrap(), 0);
    good.write_all(b"on").unwrap();
    assert_eq!(exchange.received(1, 2), b"on");
    exchange.order(Order::Close(1));
    assert_eq!(exchange.next(), Told::Closed(1, "local", None));
    exchange.stop_as_empty_as(before);
}

#[test]
fn a_thousand_connections_one_after_another_leak_no_slot() {
    let mut config = outgoing_only();
    config.ring.slots = 64;
    config.rings_per_shard_max = 1;
    let exchange = Exchange::open(config);
    let (before, _) = exchange.report();
    let (listener, address) = listen();
    for line in 0..1_000 {
        exchange.connect_and(line, address, b"x", Then::Nothing);
        let peer = accept(&listener);
        assert_eq!(exchange.next(), Told::Connected(line));
        if line % 2 == 0 {
            drop(peer);
            assert!(matches!(exchange.next(), Told::Ended(_) | Told::Closed(_, "reset", _)));
        }
        exchange.order(Order::Close(line));
        wait_until("it is gone", || exchange.report().0.connections == 0);
        while let Some(told) = exchange.told_already() {
            assert!(matches!(told, Told::Closed(closed, ..) if closed == line), "{told:?}");
        }
    }
    let (_, counters) = exchange.report();
    assert_eq!((counters.connects, counters.connects_failed), (1_000, 0));
    exchange.stop_as_empty_as(before);
}

#[test]
fn five_hundred_connections_at_once_leak_no_slot() {
    let mut config = outgoing_only();
    config.ring.slots = 600;
    config.rings_per_shard_max = 1;
    let exchange = Exchange::open(config);
    let (before, _) = exchange.report();
    let (listener, address) = listen();
    for _ in 0..3 {
        let (lines, greeting) = ((0..500).collect(), b"x".to_vec());
        exchange.order(Order::Connect { lines, to: address, greeting, then: Then::Nothing });
        let mut peers: Vec<_> = (0..500).map(|_| accept(&listener)).collect();
        for peer in &mut peers {
            assert_eq!(read_exact(peer, 1), b"x");
        }
        let mut connected: Vec<_> = (0..500).map(|_| exchange.next()).collect();
        connected.sort_by_key(|told| format!("{told:?}"));
        connected.dedup();
        assert_eq!(connected.len(), 500);
        assert!(connected.iter().all(|told| matches!(told, Told::Connected(_))));
        (0..500).for_each(|line| {
            exchange.report();
            exchange.order(Order::Close(line));
        });
        for _ in 0..500 {
            assert!(matches!(exchange.next(), Told::Closed(_, "local", None)));
        }
        wait_until("the slots are free", || exchange.report().0.slots_free == before.slots_free);
    }
    exchange.stop_as_empty_as(before);
}

#[test]
fn a_full_table_refuses_until_a_connection_has_closed() {
    let mut config = outgoing_only();
    config.connections_per_shard_max = 3;
    let exchange = Exchange::open(config);
    let (before, _) = exchange.report();
    let (listener, address) = listen();
    let lines = (0..4).collect();
    exchange.order(Order::Connect { lines, to: address, greeting: vec![], then: Then::Nothing });
    let _peers: Vec<_> = (0..3).map(|_| accept(&listener)).collect();
    let full = ConnectRefused::TableFull { shard: ShardId(0), entries: 3 };
    assert_eq!(exchange.next(), Told::Refused(3, full));
    (0..3).for_each(|line| assert_eq!(exchange.next(), Told::Connected(line)));
    exchange.order(Order::Close(1));
    assert_eq!(exchange.next(), Told::Closed(1, "local", None));
    wait_until("the entry is free", || exchange.report().0.connections == 2);
    exchange.connect(3, address);
    assert_eq!(exchange.next(), Told::Connected(3));
    for line in [0, 2, 3] {
        exchange.order(Order::Close(line));
        assert_eq!(exchange.next(), Told::Closed(line, "local", None));
    }
    exchange.stop_as_empty_as(before);
}

#[test]
fn connects_open_rings_and_are_refused_when_all_are_full() {
    let mut config = outgoing_only();
    config.ring.slots = 8;
    config.rings_per_shard_max = 2;
    let exchange = Exchange::open(config);
    let (listener, address) = listen();
    // A slot of each ring is kept for connections from other shards.
    let lines = (0..15).collect();
    exchange.order(Order::Connect { lines, to: address, greeting: vec![], then: Then::Nothing });
    let _peers: Vec<_> = (0..14).map(|_| accept(&listener)).collect();
    let taken = ConnectRefused::SlotsTaken { shard: ShardId(0), rings: 2 };
    assert_eq!(exchange.next(), Told::Refused(14, taken));
    let told: Vec<_> = (0..14).map(|_| exchange.next()).collect();
    assert!(told.iter().all(|told| matches!(told, Told::Connected(_))), "{told:?}");
    let (depths, _) = exchange.report();
    assert_eq!((depths.rings, depths.slots_free), (2, 2));
    for line in 0..14 {
        exchange.order(Order::Close(line));
        assert_eq!(exchange.next(), Told::Closed(line, "local", None));
    }
    exchange.stop_as_empty_as(shardgate_shard::Depths { slots_free: 16, ..Default::default() });
}

#[test]
fn connects_leave_accepts_their_slots() {
    let mut config = config(1);
    config.backlog = 32;
    config.ring.slots = 128;
    config.rings_per_shard_max = 2;
    let exchange = Exchange::open(config);
    let own = exchange.handle.addresses()[0];
    let (mut next, mut refused) = (0, 0);
    let mut open = Vec::new();
    // Each line takes two slots, as the shard connects to itself, until none are left.
    while refused < 30 {
        let lines: Vec<_> = (next..next + 30).collect();
        next += 30;
        let greeting = b"x".to_vec();
        exchange.order(Order::Connect { lines, to: own, greeting, then: Then::Nothing });
        for _ in 0..30 {
            // What comes of the others meanwhile is told in between.
            let told = exchange.next_but_bytes(b"x");
            if let Told::Connected(line) = told {
                open.push(line);
            } else {
                let taken = matches!(told, Told::Refused(_, ConnectRefused::SlotsTaken { .. }));
                assert!(taken, "{told:?}");
                refused += 1;
            }
        }
    }
    let (depths, counters) = exchange.report();
    assert_eq!(depths.rings, 2);
    assert!(open.len() >= 100, "{} lines in 256 slots", open.len());
    assert_eq!((counters.refused, counters.accept_failures), (0, 0), "an accept found no slot");
    // Those that wait in the listen queue get the slots of those that leave.
    for &line in &open {
        exchange.report();
        exchange.order(Order::Close(line));
    }
    for _ in &open {
        let told = exchange.next_but_bytes(b"x");
        assert!(matches!(told, Told::Closed(_, "local", None)), "{told:?}");
    }
    wait_until("all accepted ones are gone", || exchange.report().0.connections == 0);
    let (_, counters) = exchange.report();
    assert_eq!((counters.refused, counters.accept_failures), (0, 0), "an accept found no slot");
    crate::harness::stop(exchange.handle);
}

#[test]
fn a_shard_that_finishes_closes_open_and_connecting_ones_and_waits_for_neither() {
    let exchange = Exchange::open(outgoing_only());
    let (listener, address) = listen();
    let (_full, _fillers, never) = full_listener();
    exchange.connect(1, address);
    let mut peer = accept(&listener);
    assert_eq!(exchange.next(), Told::Connected(1));
    // Its output can't be sent, and the shard doesn't wait for that.
    exchange.connect_and(2, never, b"never sent", Then::Nothing);
    exchange.connect_and(3, never, b"never sent", Then::Close);
    assert_eq!(exchange.next(), Told::Closed(3, "local", None));
    wait_until("the third is gone", || exchange.report().0.connections == 2);
    assert_eq!(exchange.report().0.outputs, 1);
    exchange.handle.shutdown(Duration::from_secs(3_600));
    assert_eq!(exchange.handle.wait_for_exits(1, PATIENCE).len(), 1, "the shard still waits");
    let ending = ConnectRefused::Ending { shard: ShardId(0) };
    for line in [1, 2] {
        assert_eq!(exchange.next(), Told::Closed(line, "shutdown", None));
        assert_eq!(exchange.next(), Told::Refused(line, ending));
    }
    assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
    crate::harness::stop(exchange.handle);
}

#[test]
fn a_connection_comes_from_the_address_it_was_told_to() {
    let exchange = Exchange::open(outgoing_only());
    let (before, _) = exchange.report();
    let (listener, address) = listen();
    for (line, last) in [(1, 7), (2, 200)] {
        let from = Ipv4Addr::new(127, 0, 0, last);
        exchange.order(Order::ConnectFrom(line, from.into(), address));
        let mut peer = accept(&listener);
        assert_eq!(peer.peer_addr().unwrap().ip(), from);
        assert_eq!(exchange.next(), Told::Connected(line));
        exchange.order(Order::Write(line, b"hello".to_vec()));
        assert_eq!(read_exact(&mut peer, 5), b"hello");
        exchange.order(Order::Close(line));
        assert_eq!(exchange.next(), Told::Closed(line, "local", None));
    }
    // An address of a network for documentation, which no host has.
    let foreign = Ipv4Addr::new(192, 0, 2, 1).into();
    exchange.order(Order::ConnectFrom(3, foreign, address));
    let not_ours = Some(libc::EADDRNOTAVAIL);
    assert_eq!(exchange.next(), Told::Closed(3, "connect failed", not_ours));
    exchange.stop_as_empty_as(before);
}
