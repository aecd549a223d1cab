//! Timers on a shard: never early, in order, cancelled ones never.

use std::sync::mpsc::{Sender, channel};

use shardgate_shard::{CloseReason, ConnId, Io, ListenerId, Origin, Service, ShardId, start};

use crate::harness::{PATIENCE, ask, config, connect, stop};

struct Alarms {
    fired: Sender<(u64, u64, u64)>,
    armed_ms: u64,
}

impl Service for Alarms {
    type Message = Vec<u64>;

    fn handle_accept(&mut self, _: &mut Io<'_, Vec<u64>>, _: ConnId, _: ListenerId) {}
    fn handle_recv(&mut self, _: &mut Io<'_, Vec<u64>>, _: ConnId, _: &mut [u8]) {}
    fn handle_eof(&mut self, _: &mut Io<'_, Vec<u64>>, _: ConnId) {}
    fn handle_closed(&mut self, _: &mut Io<'_, Vec<u64>>, _: ConnId, _: CloseReason) {}
    fn handle_adopted(&mut self, _: &mut Io<'_, Vec<u64>>, _: ConnId, _: Vec<u64>) {}

    /// Arms one timer per number of milliseconds, and cancels those that are odd.
    fn handle_message(&mut self, io: &mut Io<'_, Vec<u64>>, _: Origin, after_ms: Vec<u64>) {
        self.armed_ms = io.now_ms();
        for after_ms in after_ms {
            let id = io.arm_timer(after_ms, after_ms);
            if after_ms % 2 == 1 {
                io.cancel_timer(id);
            }
        }
    }

    fn handle_timer(&mut self, io: &mut Io<'_, Vec<u64>>, token: u64) {
        assert!(io.clock_ns() / 1_000_000 >= io.now_ms());
        self.fired.send((self.armed_ms, token, io.now_ms())).unwrap();
    }
}

#[test]
fn timers_wake_a_sleeping_shard_in_order_and_never_early() {
    let (fired, received) = channel();
    let handle = start(config(1), move |_| Alarms { fired: fired.clone(), armed_ms: 0 }).unwrap();
    let after_ms = vec![900, 0, 21, 20, 150, 40, 31, 700, 41];
    handle.send(ShardId(0), after_ms).unwrap();
    for expected in [0, 20, 40, 150, 700, 900] {
        let (armed_ms, token, now_ms) = received.recv_timeout(PATIENCE).unwrap();
        assert_eq!(token, expected);
        assert!(now_ms >= armed_ms + token, "{token} ms fired at {now_ms}, armed at {armed_ms}");
    }
    stop(handle);
    assert!(received.recv().is_err(), "nothing else fired");
}

/// Counts the turns a shard takes while there is nothing to do.
struct Sleeper {
    before: u64,
    turns: Sender<u64>,
}

impl Service for Sleeper {
    type Message = ();

    fn handle_accept(&mut self, _: &mut Io<'_, ()>, _: ConnId, _: ListenerId) {}
    fn handle_eof(&mut self, _: &mut Io<'_, ()>, _: ConnId) {}
    fn handle_closed(&mut self, _: &mut Io<'_, ()>, _: ConnId, _: CloseReason) {}
    fn handle_adopted(&mut self, _: &mut Io<'_, ()>, _: ConnId, (): ()) {}
    fn handle_message(&mut self, _: &mut Io<'_, ()>, _: Origin, (): ()) {}

    fn handle_recv(&mut self, io: &mut Io<'_, ()>, conn: ConnId, bytes: &mut [u8]) {
        io.output(conn).unwrap().extend_from_slice(bytes);
        self.before = io.counters().turns;
        io.arm_timer(1_000, 0);
    }

    fn handle_timer(&mut self, io: &mut Io<'_, ()>, _token: u64) {
        self.turns.send(io.counters().turns - self.before).unwrap();
    }
}

/// It once kept waiting in its ring for a millisecond at a time, for ever.
#[test]
fn an_idle_shard_sleeps() {
    const TURNS_MAX: u64 = 50;
    let (turns, received) = channel();
    let handle = start(config(1), move |_| Sleeper { before: 0, turns: turns.clone() }).unwrap();
    let mut client = connect(&handle);
    assert_eq!(ask(&mut client, "hello"), "hello");
    let turns = received.recv_timeout(PATIENCE).unwrap();
    assert!(turns <= TURNS_MAX, "{turns} turns in an idle second");
    drop(client);
    stop(handle);
}

/// Asks for turns at moments of its own and tells when they came, in nanoseconds.
struct Pacer {
    wishes_ns: Vec<u64>,
    turns: Sender<(u64, u64)>,
}

impl Service for Pacer {
    type Message = Vec<u64>;

    fn handle_accept(&mut self, _: &mut Io<'_, Vec<u64>>, _: ConnId, _: ListenerId) {}
    fn handle_recv(&mut self, _: &mut Io<'_, Vec<u64>>, _: ConnId, _: &mut [u8]) {}
    fn handle_eof(&mut self, _: &mut Io<'_, Vec<u64>>, _: ConnId) {}
    fn handle_closed(&mut self, _: &mut Io<'_, Vec<u64>>, _: ConnId, _: CloseReason) {}
    fn handle_adopted(&mut self, _: &mut Io<'_, Vec<u64>>, _: ConnId, _: Vec<u64>) {}

    /// Wants a turn so many nanoseconds from now, one after the other.
    fn handle_message(&mut self, io: &mut Io<'_, Vec<u64>>, _: Origin, after_ns: Vec<u64>) {
        let now_ns = io.clock_ns();
        self.wishes_ns = after_ns.into_iter().rev().map(|after_ns| now_ns + after_ns).collect();
    }

    fn handle_turn_end(&mut self, io: &mut Io<'_, Vec<u64>>) {
        while let Some(&wish_ns) = self.wishes_ns.last() {
            if io.turn_began_ns() < wish_ns {
                io.turn_at_ns(wish_ns);
                return;
            }
            self.turns.send((wish_ns, io.turn_began_ns())).unwrap();
            self.wishes_ns.pop();
        }
    }
}

#[test]
fn a_turn_comes_at_its_moment_and_never_early() {
    let (turns, received) = channel();
    let make = move |_| Pacer { wishes_ns: Vec::new(), turns: turns.clone() };
    let handle = start(config(1), make).unwrap();
    // Some apart by less than a sleep can tell, some by more than the shard stays awake.
    let after_ns = vec![0, 3_000, 10_000, 90_000, 400_000, 1_700_000, 60_000_000, 700_000_000];
    handle.send(ShardId(0), after_ns.clone()).unwrap();
    for after_ns in after_ns {
        let (wish_ns, began_ns) = received.recv_timeout(PATIENCE).unwrap();
        assert!(began_ns >= wish_ns, "{after_ns} ns: wanted at {wish_ns}, came at {began_ns}");
    }
    stop(handle);
    assert!(received.recv().is_err(), "no turn came twice");
}
