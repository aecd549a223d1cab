//! The mesh between two shards: messages per second when there are many, and the round
//! trip of a lone one, with the other shard awake and asleep.
//!
//! Run alone on a quiet machine with at least two cpus: `cargo bench -p shardgate-shard`.

use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use shardgate_shard::{
    CloseReason, ConnId, Io, ListenerId, Origin, RuntimeConfig, Service, ShardCount, ShardId, start,
};

const PRODUCER: ShardId = ShardId(0);
const CONSUMER: ShardId = ShardId(1);
const MESSAGES: u64 = 20_000_000;
/// Messages under way at once: less than the mesh's bound, so that none comes back.
const WINDOW: u64 = 960;
const ROUND_TRIPS: usize = 20_000;
const ROUND_TRIPS_ASLEEP: usize = 1_000;
/// Between two round trips to a sleeping shard: longer than it spins.
const PAUSE_MS: u64 = 4;

enum Note {
    Produce,
    Item(u64),
    Taken(u64),
    PingPong { trips: usize, pause_ms: u64 },
    Ping(u64),
    Pong(u64),
}

enum Result {
    Produced,
    RoundTrips(Vec<u64>),
}

struct Bench {
    results: Sender<Result>,
    produced: u64,
    taken: u64,
    acknowledged: u64,
    sum: u64,
    trips: usize,
    pause_ms: u64,
    round_trips: Vec<u64>,
}

impl Bench {
    fn produce(&mut self, io: &mut Io<'_, Note>) {
        while self.produced < MESSAGES && self.produced - self.acknowledged < WINDOW {
            if io.send(CONSUMER, Note::Item(self.produced)).is_err() {
                break;
            }
            self.produced += 1;
        }
    }

    fn ping(&mut self, io: &mut Io<'_, Note>) {
        let _ = io.send(CONSUMER, Note::Ping(io.clock_ns()));
    }
}

impl Service for Bench {
    type Message = Note;

    fn handle_accept(&mut self, _: &mut Io<'_, Note>, _: ConnId, _: ListenerId) {}
    fn handle_recv(&mut self, _: &mut Io<'_, Note>, _: ConnId, _: &mut [u8]) {}
    fn handle_eof(&mut self, _: &mut Io<'_, Note>, _: ConnId) {}
    fn handle_closed(&mut self, _: &mut Io<'_, Note>, _: ConnId, _: CloseReason) {}
    fn handle_adopted(&mut self, _: &mut Io<'_, Note>, _: ConnId, _: Note) {}

    fn handle_message(&mut self, io: &mut Io<'_, Note>, _: Origin, message: Note) {
        match message {
            Note::Produce => self.produce(io),
            Note::Item(number) => {
                self.sum = self.sum.wrapping_add(number);
                self.taken += 1;
            }
            Note::Taken(count) => {
                self.acknowledged += count;
                self.produce(io);
                if self.acknowledged == MESSAGES {
                    let _ = self.results.send(Result::Produced);
                }
            }
            Note::PingPong { trips, pause_ms } => {
                (self.trips, self.pause_ms) = (trips, pause_ms);
                self.ping(io);
            }
            Note::Ping(sent_ns) => {
                let _ = io.send(PRODUCER, Note::Pong(sent_ns));
            }
            Note::Pong(sent_ns) => {
                self.round_trips.push(io.clock_ns() - sent_ns);
                if self.round_trips.len() == self.trips {
                    let round_trips = std::mem::take(&mut self.round_trips);
                    let _ = self.results.send(Result::RoundTrips(round_trips));
                } else if self.pause_ms > 0 {
                    io.arm_timer(self.pause_ms, 0);
                } else {
                    self.ping(io);
                }
            }
        }
    }

    fn handle_timer(&mut self, io: &mut Io<'_, Note>, _: u64) {
        self.ping(io);
    }

    fn handle_turn_end(&mut self, io: &mut Io<'_, Note>) {
        if self.taken > 0 && io.send(PRODUCER, Note::Taken(self.taken)).is_ok() {
            self.taken = 0;
        }
    }
}

fn main() {
    let config = RuntimeConfig { shards: ShardCount::Exactly(2), ..RuntimeConfig::default() };
    let (results, received) = channel();
    let handle = start(config, move |_| Bench {
        results: results.clone(),
        produced: 0,
        taken: 0,
        acknowledged: 0,
        sum: 0,
        trips: 0,
        pause_ms: 0,
        round_trips: Vec::new(),
    })
    .expect("the runtime starts");
    let begin = Instant::now();
    let _ = handle.send(PRODUCER, Note::Produce);
    let _ = received.recv();
    let seconds = begin.elapsed().as_secs_f64();
    println!("{:.1} million messages a second", MESSAGES as f64 / seconds / 1e6);
    for (what, trips, pause_ms) in
        [("awake", ROUND_TRIPS, 0), ("asleep", ROUND_TRIPS_ASLEEP, PAUSE_MS)]
    {
        let _ = handle.send(PRODUCER, Note::PingPong { trips, pause_ms });
        if let Ok(Result::RoundTrips(mut ns)) = received.recv() {
            ns.sort_unstable();
            let at = |share: f64| ns[(ns.len() as f64 * share) as usize] as f64 / 1e3;
            println!("lone round trip, {what}: p50 {:.1} µs, p99 {:.1} µs", at(0.5), at(0.99));
        }
    }
    handle.shutdown(Duration::from_secs(1));
    handle.join();
}
