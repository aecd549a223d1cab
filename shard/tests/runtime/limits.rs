//! Small tables and few buffers: several rings, full tables, receives without a buffer.

use std::io::{Read, Write};

use shardgate_shard::start;

use crate::harness::{ask, config, connect, read_exact, read_line, stop, wait_until};
use crate::lines::{Event, Lines};

#[test]
fn a_shard_opens_further_rings_when_one_is_nearly_full() {
    let mut config = config(1);
    config.backlog = 4;
    config.ring.slots = 16;
    config.rings_per_shard_max = 5;
    let made = Lines::default();
    let handle = start(config, move |_| made.clone()).unwrap();
    let mut clients = Vec::new();
    for number in 0..64 {
        let mut client = connect(&handle);
        assert_eq!(ask(&mut client, &format!("say {number}")), number.to_string());
        clients.push(client);
    }
    let depths = ask(&mut clients[0], "depths");
    let rings: usize = depths.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(rings >= 4, "64 connections need 4 rings of 16 slots: {depths}");
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(ask(client, &format!("say again {number}")), format!("again {number}"));
    }
    drop(clients);
    stop(handle);
}

#[test]
fn rings_smaller_than_the_listen_queue_are_opened_only_for_connections() {
    let mut config = config(1);
    // A margin of 65 slots, which no ring of 32 has.
    config.backlog = 64;
    config.ring.slots = 32;
    config.rings_per_shard_max = 6;
    let made = Lines::default();
    let handle = start(config, move |_| made.clone()).unwrap();
    let rings = |client: &mut std::net::TcpStream| -> usize {
        ask(client, "depths").rsplit(' ').next().unwrap().parse().unwrap()
    };
    let mut clients = vec![connect(&handle)];
    for _ in 0..100 {
        assert_eq!(rings(&mut clients[0]), 1, "one connection needs one ring");
    }
    for number in 0..100 {
        let mut client = connect(&handle);
        assert_eq!(ask(&mut client, &format!("say {number}")), number.to_string());
        clients.push(client);
    }
    assert!((4..6).contains(&rings(&mut clients[0])), "101 connections fit into 5 rings of 32");
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(ask(client, &format!("say again {number}")), format!("again {number}"));
    }
    drop(clients);
    stop(handle);
}

#[test]
fn connections_beyond_all_slots_wait_until_others_leave() {
    let mut config = config(1);
    config.ring.slots = 8;
    config.rings_per_shard_max = 2;
    let made = Lines::default();
    let handle = start(config, move |_| made.clone()).unwrap();
    let mut clients: Vec<_> = (0..40).map(|_| connect(&handle)).collect();
    for client in &mut clients {
        client.write_all(b"say hello\n").unwrap();
    }
    // Those without a slot wait in the listen queue; each that leaves lets one in.
    for mut client in clients {
        assert_eq!(read_line(&mut client), "hello");
    }
    stop(handle);
}

#[test]
fn moves_reach_rings_that_were_opened_later() {
    let mut config = config(2);
    config.backlog = 4;
    config.ring.slots = 16;
    config.rings_per_shard_max = 4;
    let made = Lines::default();
    let handle = start(config, move |_| made.clone()).unwrap();
    let mut clients: Vec<_> = (0..40).map(|_| connect(&handle)).collect();
    // All to shard 0, whose first ring is too small for them.
    for client in &mut clients {
        assert_eq!(ask(client, "move 0"), "on 0");
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(ask(client, &format!("say {number}")), number.to_string());
        assert_eq!(ask(client, "shard"), "0");
    }
    drop(clients);
    stop(handle);
}

#[test]
fn two_receive_buffers_serve_many_connections() {
    let mut config = config(1);
    config.ring.receive_buffers = 2;
    config.ring.receive_buffer_bytes = 64;
    let made = Lines::default();
    let handle = start(config, move |_| made.clone()).unwrap();
    let mut clients: Vec<_> = (0..50).map(|_| connect(&handle)).collect();
    let long = "x".repeat(5_000);
    for _ in 0..3 {
        for client in &mut clients {
            client.write_all(format!("say {long}\n").as_bytes()).unwrap();
        }
        for client in &mut clients {
            assert_eq!(read_line(client), long);
        }
    }
    drop(clients);
    stop(handle);
}

#[test]
fn many_connections_that_send_at_once_are_all_answered() {
    // More than the kernel is offered buffers at first. Each sends what fills 32 of them, as
    // the kernel looks at no more than some twenty connections per call.
    const CLIENTS: usize = 400;
    let long = "x".repeat(2_000);
    let mut config = config(1);
    config.ring.receive_buffers = 1_024;
    config.ring.receive_buffer_bytes = 64;
    let made = Lines::default();
    let (journal, gate) = (made.journal.clone(), made.gate.clone());
    let handle = start(config, move |_| made.clone()).unwrap();
    let mut keeper = connect(&handle);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(&handle)).collect();
    for client in &mut clients {
        assert_eq!(ask(client, "say hello"), "hello");
    }
    for round in 0..5 {
        // The shard is kept busy until all have sent.
        let gate = gate.lock().unwrap();
        keeper.write_all(b"gate\n").unwrap();
        wait_until("the shard is at the gate", || {
            let journal = journal.lock().unwrap();
            journal.iter().filter(|(_, event)| *event == Event::AtGate).count() == round + 1
        });
        for (number, client) in clients.iter_mut().enumerate() {
            client.write_all(format!("say {round} {number} {long}\n").as_bytes()).unwrap();
        }
        drop(gate);
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(read_line(client), format!("{round} {number} {long}"));
        }
    }
    let shortages: usize = ask(&mut keeper, "shortages").parse().unwrap();
    assert!(shortages > 0, "the buffers never ran out");
    drop((keeper, clients));
    stop(handle);
}

#[test]
fn a_table_for_few_connections_keeps_the_others_waiting() {
    let mut config = config(1);
    config.connections_per_shard_max = 3;
    let made = Lines::default();
    let handle = start(config, move |_| made.clone()).unwrap();
    let mut clients: Vec<_> = (0..10).map(|_| connect(&handle)).collect();
    for client in &mut clients {
        client.write_all(b"say hello\n").unwrap();
    }
    for mut client in clients {
        assert_eq!(read_exact(&mut client, 6), b"hello\n");
        client.write_all(b"close\n").unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
    }
    let mut last = connect(&handle);
    wait_until("one is left", || ask(&mut last, "depths") == "1 0 0 1");
    drop(last);
    stop(handle);
}
