//! Messages over the mesh.

use std::sync::mpsc::{Receiver, Sender, channel};

use shardgate_shard::{
    CloseReason, ConnId, Io, ListenerId, MESH_DEPTH_MAX, MeshFull, Origin, Service, ShardId, start,
};

use crate::harness::{PATIENCE, config, stop, wait_until};

/// Orders by the control thread and what they lead to.
#[derive(Debug, PartialEq, Eq)]
enum Letter {
    /// Send this many numbered letters to a shard.
    Write { to: ShardId, count: u64 },
    /// Send letters to a shard until it takes no more, and report how many it took.
    WriteAll { to: ShardId },
    /// One of them.
    Number(u64),
    /// Wait here until the test says so.
    Block,
}

#[derive(Debug, PartialEq, Eq)]
enum Report {
    Got { shard: ShardId, from: Origin, number: u64 },
    Took(usize),
    Blocking,
}

struct Post {
    reports: Sender<Report>,
    unblock: flume::Receiver<()>,
    to_write: Vec<(ShardId, u64, u64)>,
}

impl Post {
    fn write(&mut self, io: &mut Io<'_, Letter>) {
        for (to, next, count) in &mut self.to_write {
            while next < count {
                match io.send(*to, Letter::Number(*next)) {
                    Ok(()) => *next += 1,
                    Err(MeshFull(Letter::Number(number))) => {
                        assert_eq!(number, *next, "the letter comes back");
                        // Tried again when the timer says so.
                        break;
                    }
                    Err(MeshFull(other)) => panic!("{other:?} came back"),
                }
            }
        }
        self.to_write.retain(|(_, next, count)| next < count);
        if !self.to_write.is_empty() {
            io.arm_timer(0, 0);
        }
    }
}

impl Service for Post {
    type Message = Letter;

    fn handle_accept(&mut self, _: &mut Io<'_, Letter>, _: ConnId, _: ListenerId) {}
    fn handle_recv(&mut self, _: &mut Io<'_, Letter>, _: ConnId, _: &mut [u8]) {}
    fn handle_eof(&mut self, _: &mut Io<'_, Letter>, _: ConnId) {}
    fn handle_closed(&mut self, _: &mut Io<'_, Letter>, _: ConnId, _: CloseReason) {}
    fn handle_adopted(&mut self, _: &mut Io<'_, Letter>, _: ConnId, _: Letter) {}

    fn handle_timer(&mut self, io: &mut Io<'_, Letter>, _token: u64) {
        self.write(io);
    }

    fn handle_message(&mut self, io: &mut Io<'_, Letter>, from: Origin, message: Letter) {
        match message {
            Letter::Write { to, count } => {
                self.to_write.push((to, 0, count));
                self.write(io);
            }
            Letter::WriteAll { to } => {
                let mut taken = 0;
                while io.send(to, Letter::Number(taken)).is_ok() {
                    taken += 1;
                }
                self.reports.send(Report::Took(taken as usize)).unwrap();
            }
            Letter::Number(number) => {
                let shard = io.shard();
                self.reports.send(Report::Got { shard, from, number }).unwrap();
            }
            Letter::Block => {
                self.reports.send(Report::Blocking).unwrap();
                self.unblock.recv().unwrap();
            }
        }
    }
}

struct Office {
    handle: shardgate_shard::Handle<Letter>,
    reports: Receiver<Report>,
    unblock: flume::Sender<()>,
}

fn office(shards: u16) -> Office {
    let (reports, received) = channel();
    let (unblock, unblocked) = flume::unbounded();
    let handle = start(config(shards), move |_| Post {
        reports: reports.clone(),
        unblock: unblocked.clone(),
        to_write: Vec::new(),
    })
    .unwrap();
    Office { handle, reports: received, unblock }
}

impl Office {
    fn next(&self) -> Report {
        self.reports.recv_timeout(PATIENCE).unwrap()
    }
}

#[test]
fn letters_arrive_in_order_from_every_shard() {
    const COUNT: u64 = 20_000;
    let office = office(3);
    for from in 0..3 {
        for to in 0..3 {
            office
                .handle
                .send(ShardId(from), Letter::Write { to: ShardId(to), count: COUNT })
                .unwrap();
        }
    }
    let mut next = [[0; 3]; 3];
    for _ in 0..9 * COUNT {
        let Report::Got { shard, from: Origin::Shard(from), number } = office.next() else {
            panic!("only letters between shards");
        };
        let expected = &mut next[usize::from(from.0)][usize::from(shard.0)];
        assert_eq!(number, *expected, "from {from} to {shard}");
        *expected += 1;
    }
    stop(office.handle);
}

#[test]
fn a_full_mesh_gives_the_letter_back_and_loses_none() {
    let office = office(2);
    office.handle.send(ShardId(1), Letter::Block).unwrap();
    assert_eq!(office.next(), Report::Blocking);
    office.handle.send(ShardId(0), Letter::WriteAll { to: ShardId(1) }).unwrap();
    assert_eq!(office.next(), Report::Took(MESH_DEPTH_MAX));
    // They have left the outbox by now or will; either way there is no room.
    office.handle.send(ShardId(0), Letter::WriteAll { to: ShardId(1) }).unwrap();
    assert_eq!(office.next(), Report::Took(0));
    office.unblock.send(()).unwrap();
    for expected in 0..MESH_DEPTH_MAX as u64 {
        let got =
            Report::Got { shard: ShardId(1), from: Origin::Shard(ShardId(0)), number: expected };
        assert_eq!(office.next(), got);
    }
    stop(office.handle);
}

#[test]
fn the_control_threads_channel_is_bounded_too() {
    let office = office(1);
    office.handle.send(ShardId(0), Letter::Block).unwrap();
    assert_eq!(office.next(), Report::Blocking);
    let mut taken = 0;
    while office.handle.send(ShardId(0), Letter::Number(taken)).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, MESH_DEPTH_MAX as u64);
    office.unblock.send(()).unwrap();
    for number in 0..taken {
        let got = Report::Got { shard: ShardId(0), from: Origin::Control, number };
        assert_eq!(office.next(), got);
    }
    let mut again = false;
    wait_until("room again", || {
        again |= office.handle.send(ShardId(0), Letter::Number(7)).is_ok();
        again
    });
    stop(office.handle);
}
