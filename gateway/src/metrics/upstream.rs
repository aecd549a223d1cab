//! What a shard counts of one tool server, as others see it.
//!
//! Invariants:
//! - Changed by plain `&mut` calls on the shard that owns it; others see copies.
//! - There are at most [`UPSTREAMS_MAX`](crate::config::UPSTREAMS_MAX) of them, and nothing a
//!   client or a server sends adds one.

use std::collections::BTreeMap;
use std::sync::Arc;

use shardgate_proto::mcp::version::ProtocolVersion;

use super::{CallOutcome, Latency, ReadingResult, SessionFate};

/// How a tool server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamKind {
    /// Streamable HTTP.
    Http,
    /// A child process's standard streams.
    Stdio,
    /// The embedded server.
    Embedded,
}

impl UpstreamKind {
    /// For people and programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            UpstreamKind::Http => "http",
            UpstreamKind::Stdio => "stdio",
            UpstreamKind::Embedded => "embedded",
        }
    }
}

/// What of a tool server does not change while it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamAbout {
    /// Its name in the configuration.
    pub name: String,
    /// How it is reached.
    pub kind: UpstreamKind,
    /// Where: a URL without its query, or a program. Holds no credentials.
    pub address: String,
}

/// Whether a shard can use a tool server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UpstreamState {
    /// It has neither answered nor failed yet.
    Opening,
    /// Its lists were read, or it has answered since they could not be.
    Up,
    /// It could not be reached or made no sense when it was last read.
    Down,
    /// It failed several times in a row: its breaker refuses calls.
    Broken,
}

impl UpstreamState {
    /// Every state, the worst last.
    pub const ALL: [UpstreamState; 4] =
        [UpstreamState::Opening, UpstreamState::Up, UpstreamState::Down, UpstreamState::Broken];

    /// For people and programs.
    pub const fn as_str(self) -> &'static str {
        match self {
            UpstreamState::Opening => "opening",
            UpstreamState::Up => "up",
            UpstreamState::Down => "down",
            UpstreamState::Broken => "broken",
        }
    }
}

/// One tool server as one shard has it at one moment.
#[derive(Clone, Debug)]
pub struct UpstreamSnapshot {
    /// What does not change.
    pub about: Arc<UpstreamAbout>,
    /// Whether it can be used.
    pub state: UpstreamState,
    /// Why it failed last, if it has not answered since.
    pub trouble: Option<String>,
    /// The protocol revision it speaks; `None` until it has answered.
    pub version: Option<ProtocolVersion>,
    /// What is open.
    pub gauges: UpstreamGauges,
    /// What was counted since the shard's start.
    pub counted: UpstreamCounted,
}

/// One tool server over all shards.
#[derive(Clone, Debug)]
pub struct UpstreamSum {
    /// What does not change.
    pub about: Arc<UpstreamAbout>,
    /// The worst that a shard says; a shard that knows nothing yet says nothing.
    pub state: UpstreamState,
    /// The trouble of the shard with the worst state.
    pub trouble: Option<String>,
    /// The newest revision a shard speaks with it.
    pub version: Option<ProtocolVersion>,
    /// Shards that have told of it.
    pub shards: u64,
    /// Shards whose breaker is open.
    pub broken_shards: u64,
    /// What is open on all shards.
    pub gauges: UpstreamGauges,
    /// What was counted on all shards.
    pub counted: UpstreamCounted,
}

impl UpstreamSum {
    /// The sums over what these shards tell, in the order in which the servers are told.
    pub fn over(shards: &[Vec<UpstreamSnapshot>]) -> Vec<UpstreamSum> {
        let mut sums: Vec<UpstreamSum> = Vec::new();
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for snapshot in shards.iter().flatten() {
            let place = *places.entry(&snapshot.about.name).or_insert(sums.len());
            match sums.get_mut(place) {
                Some(sum) => sum.add(snapshot),
                None => sums.push(UpstreamSum::of(snapshot)),
            }
        }
        sums
    }

    fn of(snapshot: &UpstreamSnapshot) -> UpstreamSum {
        UpstreamSum {
            about: Arc::clone(&snapshot.about),
            state: snapshot.state,
            trouble: snapshot.trouble.clone(),
            version: snapshot.version,
            shards: 1,
            broken_shards: u64::from(snapshot.state == UpstreamState::Broken),
            gauges: snapshot.gauges,
            counted: snapshot.counted.clone(),
        }
    }

    fn add(&mut self, snapshot: &UpstreamSnapshot) {
        if snapshot.state > self.state || self.trouble.is_none() {
            self.trouble = snapshot.trouble.clone().or(self.trouble.take());
        }
        self.state = self.state.max(snapshot.state);
        self.version = self.version.max(snapshot.version);
        self.shards += 1;
        self.broken_shards += u64::from(snapshot.state == UpstreamState::Broken);
        self.gauges.merge(&snapshot.gauges);
        self.counted.merge(&snapshot.counted);
    }
}

/// What a shard has open with a tool server, and what that offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpstreamGauges {
    /// Calls of clients that have no outcome yet.
    pub in_flight: u64,
    /// Those of them that wait for a session.
    pub parked: u64,
    /// Sessions.
    pub sessions: u64,
    /// HTTP exchanges, streams among them.
    pub exchanges: u64,
    /// Connections, or children.
    pub links: u64,
    /// Offered tools.
    pub tools: u64,
    /// Offered prompts.
    pub prompts: u64,
    /// Offered resources.
    pub resources: u64,
    /// Offered resource templates.
    pub templates: u64,
    /// Entries that are not shown, as another has their name.
    pub hidden: u64,
    /// Names that were changed to fit.
    pub renamed: u64,
}

/// What happened between a shard and a tool server since the shard's start.
#[derive(Clone, Debug)]
pub struct UpstreamCounted {
    /// Calls of clients by [`CallOutcome`].
    pub calls: [u64; CallOutcome::COUNT],
    /// Calls that were sent once more, on a fresh session or connection.
    pub resends: u64,
    /// Sessions by [`SessionFate`].
    pub sessions: [u64; SessionFate::COUNT],
    /// How often the breaker opened.
    pub breaker_openings: u64,
    /// Readings of the lists by [`ReadingResult`].
    pub readings: [u64; ReadingResult::COUNT],
    /// From a call's sending to its server's outcome. Its clock ticks in milliseconds:
    /// less than one counts as one.
    pub latency: Latency,
}

impl UpstreamCounted {
    /// All at zero. Allocates what it will ever need, about 3 KiB.
    pub fn new() -> UpstreamCounted {
        UpstreamCounted {
            calls: [0; CallOutcome::COUNT],
            resends: 0,
            sessions: [0; SessionFate::COUNT],
            breaker_openings: 0,
            readings: [0; ReadingResult::COUNT],
            latency: Latency::coarse(),
        }
    }

    /// All calls that have ended.
    pub fn calls_total(&self) -> u64 {
        self.calls.iter().sum()
    }

    /// Calls that ended with an error, of the server or of the gateway. A client that
    /// cancels is no error.
    pub fn errors_total(&self) -> u64 {
        let good = [CallOutcome::Result, CallOutcome::Cancelled];
        self.calls_total() - good.iter().map(|outcome| self.calls[outcome.index()]).sum::<u64>()
    }

    /// Adds all that `other` has counted.
    pub fn merge(&mut self, other: &UpstreamCounted) {
        add(&mut self.calls, &other.calls);
        add(&mut self.sessions, &other.sessions);
        add(&mut self.readings, &other.readings);
        self.resends += other.resends;
        self.breaker_openings += other.breaker_openings;
        self.latency.merge(&other.latency);
    }
}

impl Default for UpstreamCounted {
    fn default() -> UpstreamCounted {
        UpstreamCounted::new()
    }
}

impl UpstreamGauges {
    /// Adds what another shard has open. What is offered is the same on all: the most counts.
    pub fn merge(&mut self, other: &UpstreamGauges) {
        self.in_flight += other.in_flight;
        self.parked += other.parked;
        self.sessions += other.sessions;
        self.exchanges += other.exchanges;
        self.links += other.links;
        self.tools = self.tools.max(other.tools);
        self.prompts = self.prompts.max(other.prompts);
        self.resources = self.resources.max(other.resources);
        self.templates = self.templates.max(other.templates);
        self.hidden = self.hidden.max(other.hidden);
        self.renamed = self.renamed.max(other.renamed);
    }

    /// The same with nothing open, of a shard that does not answer.
    pub fn offered(&self) -> UpstreamGauges {
        UpstreamGauges { in_flight: 0, parked: 0, sessions: 0, exchanges: 0, links: 0, ..*self }
    }
}

fn add<const N: usize>(sums: &mut [u64; N], others: &[u64; N]) {
    for (sum, other) in sums.iter_mut().zip(others) {
        *sum += other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up_but_offer_the_same() {
        let mut counted = UpstreamCounted::new();
        counted.calls[CallOutcome::Result.index()] = 2;
        counted.calls[CallOutcome::Cancelled.index()] = 3;
        counted.calls[CallOutcome::Timeout.index()] = 4;
        counted.latency.record(5_000_000);
        let mut all = counted.clone();
        all.merge(&counted);
        assert_eq!((all.calls_total(), all.errors_total()), (18, 8));
        assert_eq!(all.latency.count(), 2);

        let one = UpstreamGauges { in_flight: 2, tools: 7, ..UpstreamGauges::default() };
        let mut both = one;
        both.merge(&one);
        assert_eq!((both.in_flight, both.tools), (4, 7));
        assert_eq!((both.offered().in_flight, both.offered().tools), (0, 7));
    }
}
