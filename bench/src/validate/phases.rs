//! The runs of a validation, as command lines, and what each of them is to show.

use super::Size;

/// Calls that the bounded stage takes at once.
pub(crate) const STAGE_IN_FLIGHT: u32 = 64;
/// How long each of them takes.
const STAGE_CALL_MS: u32 = 10;
/// So many callers that the bound is met, and not the number of callers.
const STAGE_CALLERS: u32 = 4 * STAGE_IN_FLIGHT;

/// Connections for runs whose question is another one.
const CONNECTIONS: u32 = 64;
/// Requests per second while connections are what grows.
const SCALING_RATE: u32 = 1_000;
/// Parts of the capacity that are tried one after the other.
const INCREMENTS: [f64; 4] = [0.1, 0.25, 0.5, 0.75];

/// Which server a phase is put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    /// The one under test.
    Server,
    /// A gateway before a tool server that it lets take only so many calls at once.
    Stage,
    /// A gateway of two shards.
    TwoShards,
}

/// What a run may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shedding {
    /// Nothing: the load is one the server can bear.
    Never,
    /// As much as it has to.
    Allowed,
    /// At least something: twice as much is offered as can be done at all.
    Expected,
    /// Less than it answers: the load is a small part of what can be done.
    Rare,
}

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) question: &'static str,
    pub(crate) against: Against,
    pub(crate) shedding: Shedding,
    /// The command line without the server's part.
    pub(crate) words: Vec<String>,
}

/// The bounds of a size. All durations in seconds.
struct Bounds {
    capacity_s: u32,
    increment_s: u32,
    sustained_s: u32,
    overload_s: u32,
    recovery_s: u32,
    churn_s: u32,
    scaling_s: u32,
    connections: &'static [u32],
    streams: u32,
    streams_s: u32,
}

const QUICK: Bounds = Bounds {
    capacity_s: 3,
    increment_s: 2,
    sustained_s: 10,
    overload_s: 5,
    recovery_s: 3,
    churn_s: 3,
    scaling_s: 2,
    connections: &[100, 1_000, 4_000],
    streams: 1_000,
    streams_s: 4,
};

const FULL: Bounds = Bounds {
    capacity_s: 10,
    increment_s: 20,
    sustained_s: 300,
    overload_s: 30,
    recovery_s: 20,
    churn_s: 45,
    scaling_s: 15,
    connections: &[100, 1_000, 10_000, 25_000, 50_000],
    streams: 20_000,
    streams_s: 60,
};

impl Size {
    fn bounds(self) -> &'static Bounds {
        match self {
            Size::Quick => &QUICK,
            Size::Full => &FULL,
        }
    }
}

/// The first run, by whose result all others are measured.
pub(crate) fn capacity(size: Size) -> Phase {
    let question = "how much does it answer when it is given all it takes?";
    let words = mix(&format!("step:{}s@max", size.bounds().capacity_s));
    Phase { shedding: Shedding::Allowed, ..Phase::new("capacity", question, words) }
}

/// All others. `capacity` is in requests per second.
pub(crate) fn after_capacity(size: Size, capacity: f64) -> Vec<Phase> {
    let bounds = size.bounds();
    let hold = |seconds: u32, part: f64| {
        // What rounds to nothing is no rate.
        format!("hold:{seconds}s@{:.0}", (capacity * part).max(1.0))
    };
    let increments: Vec<String> =
        INCREMENTS.iter().map(|part| hold(bounds.increment_s, *part)).collect();
    vec![
        Phase::new(
            "incremental",
            "is all answered at 10, 25, 50 and 75 % of that?",
            mix(&increments.join(",")),
        ),
        Phase::new("sustained", "and at half of it for long?", mix(&hold(bounds.sustained_s, 0.5))),
        Phase {
            shedding: Shedding::Allowed,
            ..Phase::new(
                "overload",
                "at twice the capacity: is every request that was taken answered or refused?",
                mix(&hold(bounds.overload_s, 2.0)),
            )
        },
        Phase::new(
            "recovery",
            "is all well again at a quarter of it?",
            mix(&hold(bounds.recovery_s, 0.25)),
        ),
        Phase::new(
            "session churn",
            "do sessions that live for one call all begin and end?",
            closed_loop("session_churn", bounds.churn_s),
        ),
        Phase::new(
            "connection churn",
            "do connections that are soon replaced lose nothing?",
            closed_loop("http_sustained_1kib", bounds.churn_s),
        ),
        Phase::new("scaling", "does it matter how many are connected?", scaling(bounds)),
        Phase::new(
            "streams",
            "are calls answered in sessions that hold a stream?",
            words(&format!(
                "connections --count {} --hold {}s --rate {SCALING_RATE}",
                bounds.streams, bounds.streams_s
            )),
        ),
    ]
}

/// What can be asked only of gateways that are started for it.
pub(crate) fn of_own_gateway(size: Size, capacity: f64) -> Vec<Phase> {
    let bounds = size.bounds();
    // By Little's law.
    let stage_capacity = STAGE_IN_FLIGHT * 1_000 / STAGE_CALL_MS;
    let stage = |seconds: u32, rate: u32| {
        let mut words = words(&format!(
            "run --workload tools_call_1kib --warmup 0s --connections {STAGE_CALLERS} \
             --stages hold:{seconds}s@{rate} --tool sleep --arguments"
        ));
        words.push(format!("{{\"ms\":{STAGE_CALL_MS}}}"));
        words
    };
    let mut phases = vec![
        Phase {
            against: Against::Stage,
            shedding: Shedding::Expected,
            ..Phase::new(
                "full stage",
                "twice what a tool server takes: is the excess refused, and the rest answered?",
                stage(bounds.overload_s, 2 * stage_capacity),
            )
        },
        Phase {
            against: Against::Stage,
            shedding: Shedding::Rare,
            ..Phase::new(
                "stage recovery",
                "is it answered again at an eighth of it?",
                stage(bounds.recovery_s, stage_capacity / 8),
            )
        },
    ];
    if size == Size::Full {
        let quarter = format!("hold:{}s@{:.0}", bounds.recovery_s, (capacity / 4.0).max(1.0));
        phases.push(Phase {
            against: Against::TwoShards,
            ..Phase::new(
                "two shards",
                "what does a request cost with two shards, beside `recovery` with one?",
                mix(&quarter),
            )
        });
    }
    phases
}

impl Phase {
    fn new(name: &'static str, question: &'static str, words: Vec<String>) -> Phase {
        Phase { name, question, against: Against::Server, shedding: Shedding::Never, words }
    }
}

/// The mixed workload. Nothing is warmed up, as every request is to be accounted for.
fn mix(stages: &str) -> Vec<String> {
    words(&format!(
        "run --workload mix_50_20_30 --warmup 0s --connections {CONNECTIONS} --stages {stages}"
    ))
}

fn closed_loop(workload: &str, seconds: u32) -> Vec<String> {
    words(&format!(
        "run --workload {workload} --warmup 0s --connections {CONNECTIONS} --rate max \
         --duration {seconds}s"
    ))
}

fn scaling(bounds: &Bounds) -> Vec<String> {
    let seconds = bounds.scaling_s;
    let mut stages: Vec<String> = Vec::new();
    for connections in bounds.connections {
        if !stages.is_empty() {
            stages.push(format!("ramp:{seconds}s@{SCALING_RATE}/{connections}"));
        }
        stages.push(format!("hold:{seconds}s@{SCALING_RATE}/{connections}"));
    }
    let stages = stages.join(",");
    words(&format!("run --workload tools_call_1kib --warmup 0s --stages {stages}"))
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(size: Size, capacity_found: f64) -> Vec<Phase> {
        let mut phases = vec![capacity(size)];
        phases.extend(after_capacity(size, capacity_found));
        phases.extend(of_own_gateway(size, capacity_found));
        phases
    }

    /// Seconds of all stages.
    fn seconds(phase: &Phase) -> u32 {
        let text = phase.words.join(" ");
        text.split([' ', ':', ',', '@'])
            .filter_map(|word| word.strip_suffix('s')?.parse::<u32>().ok())
            .sum()
    }

    #[test]
    fn a_validation_is_bounded_in_time() {
        let total = |size| all(size, 100_000.0).iter().map(seconds).sum::<u32>();
        assert!((30..=90).contains(&total(Size::Quick)), "{}", total(Size::Quick));
        assert!((600..=1_200).contains(&total(Size::Full)), "{}", total(Size::Full));
    }

    #[test]
    fn even_a_slow_server_is_given_a_rate() {
        for phase in all(Size::Quick, 1.5) {
            assert!(!phase.words.join(" ").contains("@0"), "{phase:?}");
        }
    }

    #[test]
    fn rates_are_parts_of_the_capacity() {
        let text = |name: &str| {
            let phases = all(Size::Quick, 40_000.0);
            phases.iter().find(|phase| phase.name == name).unwrap().words.join(" ")
        };
        let increments = "hold:2s@4000,hold:2s@10000,hold:2s@20000,hold:2s@30000";
        assert!(text("incremental").ends_with(increments), "{}", text("incremental"));
        assert!(text("overload").ends_with("hold:5s@80000"), "{}", text("overload"));
        assert!(text("full stage").contains("hold:5s@12800"), "{}", text("full stage"));
        let steps = "hold:2s@1000/100,ramp:2s@1000/1000,hold:2s@1000/1000,\
                     ramp:2s@1000/4000,hold:2s@1000/4000";
        assert!(text("scaling").ends_with(steps), "{}", text("scaling"));
    }
}
