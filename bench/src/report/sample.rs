//! A run as it might have been, for tests: warm-up, a ramp, a hold with one stall, and a
//! step that is more than the server can do.
//!
//! Everything in it is made from a fixed seed, so that two calls give the same run.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::percentiles;
use crate::outcome::{
    Distribution, ErrorKind, FORMAT, GeneratorFigures, HostFacts, Latencies, Limit, Operation,
    Outcome, Plan, Second, ServerFigures, Stage, StageOutcome, Totals, Verdict,
};

const WARMUP_S: u32 = 5;
const LENGTH_S: u32 = 60;
const STALL_AT_S: u32 = 31;
const CONNECTIONS: u32 = 512;
const CAPACITY: f64 = 56_000.0;

/// The run.
pub(crate) fn outcome() -> Outcome {
    let mut random = Random(0x5A1A);
    let plan = plan();
    let seconds: Vec<Second> =
        (1..=LENGTH_S).map(|at| second(at, &plan.stages, &mut random)).collect();
    let measured = &seconds[WARMUP_S as usize..];
    let totals = totals(measured);
    let stages = stages(&plan, &seconds, &mut random);
    let operations = [("tools/call", 5), ("resources/read", 3), ("ping", 2)];
    let operations = operations.map(|(name, tenths)| {
        let corrected = short(percentiles::summary(&recorded(10_000, 900.0, 0.004, &mut random)));
        let completed = totals.completed / 10 * tenths;
        let errors = (totals.errors + totals.shed) / 10 * tenths;
        (name.to_owned(), Operation { completed, errors, corrected })
    });
    Outcome {
        format: FORMAT,
        version: "0.1.0".to_owned(),
        began_unix_ms: 1_795_297_255_000,
        command: "shardgate-bench run --url http://127.0.0.1:8080/mcp --workload mix_50_20_30 \
                  --rate 50000 --connections 512 --fail-if p99>5ms,errors>0"
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        host: host(),
        latency: latencies(&mut random),
        operations: BTreeMap::from(operations),
        stages,
        errors: errors(&totals),
        server: Some(ServerFigures {
            pid: Some(4_711),
            cores: Some(0.98),
            cpu_us_per_request: Some(17.9),
            resident_before_bytes: Some(15_900_000),
            resident_bytes: Some(24_300_000),
            requests_by_shard: BTreeMap::from([
                ("0".to_owned(), totals.completed * 51 / 100),
                ("1".to_owned(), totals.completed * 49 / 100),
            ]),
        }),
        generator: GeneratorFigures { cores: 0.61, send_delay_p99: 38, busy: 0.42 },
        memory: None,
        verdict: Verdict {
            limit: Limit::Server,
            sentence: "The server answered 97.4 % of what it was offered; the generator used \
                       0.61 of its core, so the server was the limit."
                .to_owned(),
            interrupted: false,
            broken_thresholds: vec!["p99>5ms: p99 was 48.6 ms".to_owned()],
        },
        seconds,
        totals,
        plan,
    }
}

fn plan() -> Plan {
    let stage = |duration_s, rate, ramp| Stage {
        duration_s,
        rate: Some(rate),
        connections: CONNECTIONS,
        ramp,
    };
    Plan {
        url: "http://127.0.0.1:8080/mcp".to_owned(),
        revision: "2025-11-25".to_owned(),
        workload: "mix_50_20_30".to_owned(),
        stages: vec![
            stage(5.0, 10_000.0, false),
            stage(10.0, 50_000.0, true),
            stage(30.0, 50_000.0, false),
            stage(15.0, 60_000.0, false),
        ],
        warmup_s: f64::from(WARMUP_S),
        workers: 1,
        think_us: 0,
        payload_bytes: 1_024,
    }
}

fn second(at: u32, stages: &[Stage], random: &mut Random) -> Second {
    let offered = match at {
        1..=5 => 10_000.0,
        6..=15 => 10_000.0 + 4_000.0 * f64::from(at - 5),
        16..=45 => 50_000.0,
        _ => 60_000.0,
    };
    let stalled = at == STALL_AT_S;
    let noise = 1.0 + 0.01 * (random.unit() - 0.5);
    let completed = match at {
        STALL_AT_S => offered * 0.62,
        at if at == STALL_AT_S + 1 => offered * 1.12,
        _ => (offered * noise).min(CAPACITY * noise),
    };
    let over = offered > CAPACITY;
    let shed = if over { offered - completed } else { 0.0 };
    let base = 320.0 + 0.004 * offered + 60.0 * random.unit();
    let p50 = if over { 4_200.0 + 900.0 * random.unit() } else { base };
    let p99 = match (stalled, over) {
        (true, _) => 388_000.0,
        (_, true) => 46_000.0 + 9_000.0 * random.unit(),
        _ => p50 * (3.1 + random.unit()),
    };
    let connections = CONNECTIONS.min(at * 128);
    Second {
        at_s: f64::from(at),
        offered: offered as u64,
        sent: offered as u64,
        completed: completed as u64,
        shed: shed as u64,
        errors: if stalled { 37 } else { u64::from(over && at.is_multiple_of(3)) * 4 },
        events: completed as u64 / 5,
        connections,
        p50: p50 as u64,
        p99: p99 as u64,
        max: (p99 * (1.2 + random.unit())) as u64,
        server_cores: Some(rounded((offered / CAPACITY).min(1.0) * (0.97 + 0.03 * random.unit()))),
        server_resident_bytes: Some(
            15_900_000 + u64::from(connections) * 14_000 + u64::from(at) * 20_000,
        ),
    }
    .within(stages)
}

impl Second {
    /// The plan and the seconds cannot drift apart unseen.
    fn within(self, stages: &[Stage]) -> Second {
        let length: f64 = stages.iter().map(|stage| stage.duration_s).sum();
        assert!(self.at_s <= length, "{} of {length}", self.at_s);
        self
    }
}

fn totals(seconds: &[Second]) -> Totals {
    let sum = |of: fn(&Second) -> u64| seconds.iter().map(of).sum::<u64>();
    let completed = sum(|second| second.completed);
    Totals {
        elapsed_s: seconds.len() as f64,
        offered: sum(|second| second.offered),
        sent: sum(|second| second.sent),
        completed,
        shed: sum(|second| second.shed),
        errors: sum(|second| second.errors),
        sent_bytes: sum(|second| second.sent) * 540,
        received_bytes: completed * 310,
        events: sum(|second| second.events),
    }
}

fn stages(plan: &Plan, seconds: &[Second], random: &mut Random) -> Vec<StageOutcome> {
    let mut from = 0;
    plan.stages
        .iter()
        .map(|stage| {
            let to = from + stage.duration_s as usize;
            let totals = totals(&seconds[from..to]);
            from = to;
            StageOutcome { stage: stage.clone(), totals, latency: latencies(random) }
        })
        .collect()
}

fn latencies(random: &mut Random) -> Latencies {
    let of = |histogram: &Histogram<u64>| -> Distribution {
        short(percentiles::distribution(histogram).expect("it can be written"))
    };
    Latencies {
        corrected: of(&recorded(40_000, 620.0, 0.012, random)),
        raw: of(&recorded(40_000, 540.0, 0.000_4, random)),
        shed: of(&recorded(300, 90.0, 0.0, random)),
    }
}

/// With fractions that come out of JSON as they went in.
fn short(of: Distribution) -> Distribution {
    Distribution { mean: rounded(of.mean), stdev: rounded(of.stdev), ..of }
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Latencies around a median, with a part that came out of a stall.
fn recorded(count: u32, median: f64, stalled: f64, random: &mut Random) -> Histogram<u64> {
    let mut histogram = Histogram::new(3).expect("valid");
    for _ in 0..count {
        let body = median * (0.32 * random.normal()).exp();
        let stall = random.unit() < stalled;
        let us = if stall { body + 390_000.0 * random.unit() } else { body };
        histogram.record(us as u64).expect("it grows");
    }
    histogram
}

fn errors(totals: &Totals) -> BTreeMap<String, ErrorKind> {
    let kind = |count, example: &str| ErrorKind { count, example: example.to_owned() };
    BTreeMap::from([
        (
            "connection closed".to_owned(),
            kind(37, "127.0.0.1:8080 closed the connection before the answer to tools/call"),
        ),
        (
            "HTTP 503".to_owned(),
            kind(totals.shed, "HTTP 503 to tools/call: too many requests in flight"),
        ),
        ("timeout".to_owned(), kind(20, "no answer to resources/read within 10 s")),
    ])
}

fn host() -> HostFacts {
    let settings = [
        ("net.core.somaxconn", "4096"),
        ("net.ipv4.ip_local_port_range", "32768 60999"),
        ("net.ipv4.tcp_max_syn_backlog", "512"),
        ("net.ipv4.tcp_rmem", "4096 131072 6291456"),
        ("net.ipv4.tcp_tw_reuse", "2"),
        ("net.ipv4.tcp_wmem", "4096 16384 4194304"),
    ];
    HostFacts {
        cpu: "AMD EPYC".to_owned(),
        cpus: 2,
        memory_bytes: 16 << 30,
        kernel: "6.18.0".to_owned(),
        descriptors_max: 20_000,
        settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    }
}

/// SplitMix64: good enough for a picture, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Around 0, with a deviation of 1: the sum of twelve.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}
