//! What it costs to find a session: look-ups in a shard's session table in random order, and
//! reading a session id with its MAC.
//!
//! Look-ups do not depend on each other, as those of different requests in one turn of a
//! shard do not, so the processor may overlap their cache misses.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shardgate::session_table::SessionTable;
use shardgate_proto::mcp::session_id::{SessionId, SessionIds, VSHARDS, Vshard};

const SIZES: [usize; 3] = [10_000, 100_000, 1_000_000];
/// Look-ups per measured iteration; each iteration goes on where the last one stopped.
const BATCH: usize = 10_000;
/// Texts are read in turn, so that the branch predictor can't learn one by heart.
const TEXTS: usize = 4_096;

/// As large as what the gateway keeps of an idle session; one field of it is read.
struct Session {
    last_active_ms: u64,
    _rest: [u64; 31],
}

/// Steele, Lea and Flood's SplitMix64 (OOPSLA 2014): the same ids in every run.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn id(&mut self) -> SessionId {
        let vshard = (self.next() % u64::from(VSHARDS)) as u16;
        let random = u128::from(self.next()) << 64 | u128::from(self.next());
        SessionId { vshard: Vshard::new(vshard).expect("below the maximum"), random }
    }

    /// Fisher and Yates.
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let chosen = (self.next() % (last as u64 + 1)) as usize;
            items.swap(last, chosen);
        }
    }
}

/// A table of `size` sessions, and their ids in random order.
fn filled(size: usize) -> (SessionTable<Session>, Vec<SessionId>) {
    let mut random = SplitMix(size as u64);
    let mut table = SessionTable::new();
    let mut ids: Vec<SessionId> = (0..size).map(|_| random.id()).collect();
    for (number, id) in ids.iter().enumerate() {
        table.insert(*id, Session { last_active_ms: number as u64, _rest: [0; 31] });
    }
    random.shuffle(&mut ids);
    (table, ids)
}

fn look_ups(criterion: &mut Criterion) {
    for size in SIZES {
        let (mut table, ids) = filled(size);
        let mut group = criterion.benchmark_group(format!("session_table/{size}"));
        group.throughput(Throughput::Elements(BATCH as u64));
        let mut batches = ids.chunks_exact(BATCH).cycle();
        group.bench_function("find", |bencher| {
            bencher.iter(|| {
                let batch = batches.next().expect("a cycle has no end");
                batch.iter().filter_map(|id| table.find(*id)).fold(0, |sum, key| sum ^ key.0)
            });
        });
        group.bench_function("find_and_read", |bencher| {
            bencher.iter(|| {
                let batch = batches.next().expect("a cycle has no end");
                batch.iter().fold(0u64, |sum, id| {
                    let session = table.find(*id).and_then(|key| table.session(key));
                    sum.wrapping_add(session.expect("it was inserted").last_active_ms)
                })
            });
        });
        group.bench_function("miss", |bencher| {
            bencher.iter(|| {
                let batch = batches.next().expect("a cycle has no end");
                // As a rightly made id whose session has expired.
                let other = |id: &SessionId| SessionId { random: !id.random, ..*id };
                batch.iter().filter(|id| table.find(other(id)).is_none()).count()
            });
        });
        group.finish();
    }
}

fn session_ids(criterion: &mut Criterion) {
    let ids = SessionIds::new("gw-1", &[7; 16]);
    let mut random = SplitMix(1);
    let texts: Vec<String> = (0..TEXTS).map(|_| ids.to_text(random.id())).collect();
    let mut group = criterion.benchmark_group("session_id");
    group.throughput(Throughput::Elements(TEXTS as u64));
    group.bench_function("parse_and_check", |bencher| {
        bencher.iter(|| {
            texts.iter().filter(|text| ids.parse(black_box(text.as_bytes())).is_ok()).count()
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    targets = look_ups, session_ids
}
criterion_main!(benches);
