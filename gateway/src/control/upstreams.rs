//! The report on tool servers: what `/api/v1/upstreams` answers, `shardgate upstreams`
//! prints and the page shows.
//!
//! Invariants:
//! - A tool server is shown once, whatever the number of shards: what they have open adds
//!   up, and the worst of their states is its state.
//! - Counters never fall: what a shard counted stays in the sum when it stalls.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shardgate_proto::mcp::version::{Era, ProtocolVersion};

use super::status::{Percentiles, Sample};
use crate::children::{ChildCounters, EndpointCounts};
use crate::metrics::{
    CallOutcome, Latency, ReadingResult, ShardSnapshot, UpstreamSnapshot, UpstreamSum,
};

/// All tool servers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamsReport {
    /// The node's name.
    pub node: String,
    /// How far `latency` looks back.
    pub interval_seconds: f64,
    /// In the order of the configuration.
    pub upstreams: Vec<UpstreamReport>,
}

/// One tool server over all shards. Counts are since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpstreamReport {
    /// Its name in the configuration.
    pub name: String,
    /// `http` or `stdio`.
    pub kind: String,
    /// Its URL without the query, or its program.
    pub address: String,
    /// `up`, `opening`, `down` or `broken`: the worst that a shard says.
    pub state: String,
    /// What went wrong last, if it has not answered since.
    pub reason: Option<String>,
    /// `legacy` or `modern`; null until it has answered.
    pub era: Option<String>,
    /// The protocol revision it speaks; null until it has answered.
    pub version: Option<String>,
    /// Tools it offers.
    pub tools: u64,
    /// Prompts it offers.
    pub prompts: u64,
    /// Resources it offers.
    pub resources: u64,
    /// Resource templates it offers.
    pub templates: u64,
    /// Entries that are not shown, as another server has their name.
    pub hidden: u64,
    /// Names that were changed to fit.
    pub renamed: u64,
    /// Calls without an outcome.
    pub in_flight: u64,
    /// Those of them that wait for a session.
    pub parked: u64,
    /// Sessions with it.
    pub sessions: u64,
    /// Connections to it, or its children.
    pub links: u64,
    /// Calls that have ended.
    pub calls: u64,
    /// Those of them that ended with an error, of the server or of the gateway.
    pub errors: u64,
    /// Calls by outcome; outcomes that never were are left out.
    pub outcomes: BTreeMap<String, u64>,
    /// Calls that were sent once more.
    pub resends: u64,
    /// Readings of its lists that worked.
    pub readings: u64,
    /// And that did not.
    pub readings_failed: u64,
    /// Its breakers, one on each shard.
    pub breaker: BreakerReport,
    /// From a call's sending to its server's outcome, lately.
    pub latency: Percentiles,
    /// The same since the start.
    pub latency_since_start: Percentiles,
    /// Its children; null for a server that is reached by HTTP.
    pub children: Option<ChildrenReport>,
}

/// The breakers of one tool server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BreakerReport {
    /// Shards that send it no calls at present.
    pub open_shards: u64,
    /// Shards in all.
    pub shards: u64,
    /// How often one opened.
    pub openings: u64,
}

/// The children of one tool server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChildrenReport {
    /// That run or are being started.
    pub running: u64,
    /// That ran.
    pub started: u64,
    /// That were started after one that ended by itself.
    pub restarts: u64,
    /// That failed: another code than 0, a signal, closed streams.
    pub crashed: u64,
    /// That could not be started.
    pub not_started: u64,
    /// That a limit forbade.
    pub refused: u64,
}

/// A tool server in the status report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamBrief {
    /// Its name.
    pub name: String,
    /// As in [`UpstreamReport::state`].
    pub state: String,
}

/// What each shard told last, so that a shard that stalls takes nothing out of the sums.
#[derive(Debug, Default)]
pub(super) struct Roll {
    shards: Vec<Vec<UpstreamSnapshot>>,
}

impl Roll {
    /// The sums over all shards, of which `None` did not answer this time.
    pub(super) fn add_up(&mut self, shards: &[Option<ShardSnapshot>]) -> Vec<UpstreamSum> {
        self.shards.resize_with(shards.len(), Vec::new);
        for (known, shard) in self.shards.iter_mut().zip(shards) {
            match shard {
                Some(shard) => known.clone_from(&shard.upstreams),
                None => known.iter_mut().for_each(|it| it.gauges = it.gauges.offered()),
            }
        }
        UpstreamSum::over(&self.shards)
    }
}

/// The counts of all children, one entry for each name.
pub(super) fn children_by_name(counters: &ChildCounters) -> Vec<EndpointCounts> {
    let mut by_name: BTreeMap<String, EndpointCounts> = BTreeMap::new();
    // An upstream that was configured anew has another endpoint under the same name.
    for (_, counts) in counters.snapshot() {
        match by_name.get_mut(&counts.upstream) {
            Some(sum) => sum.merge(&counts),
            None => drop(by_name.insert(counts.upstream.clone(), counts)),
        }
    }
    by_name.into_values().collect()
}

/// The reports on all tool servers; `now` and `base` tell what was done lately.
pub(super) fn reports(
    sums: &[UpstreamSum],
    children: &[EndpointCounts],
    now: &Sample,
    base: Option<&Sample>,
) -> Vec<UpstreamReport> {
    let report = |sum: &UpstreamSum| {
        let name = &sum.about.name;
        let own = children.iter().find(|counts| counts.upstream == *name);
        UpstreamReport {
            latency: Percentiles::of(&latency_lately(name, now, base)),
            children: own.map(children_report),
            ..report(sum)
        }
    };
    sums.iter().map(report).collect()
}

/// The names and states alone.
pub(super) fn briefs(sums: &[UpstreamSum]) -> Vec<UpstreamBrief> {
    let brief = |sum: &UpstreamSum| UpstreamBrief {
        name: sum.about.name.clone(),
        state: sum.state.as_str().to_owned(),
    };
    sums.iter().map(brief).collect()
}

fn report(sum: &UpstreamSum) -> UpstreamReport {
    let (gauges, counted) = (&sum.gauges, &sum.counted);
    let outcomes = CallOutcome::ALL
        .iter()
        .map(|outcome| (outcome.as_str().to_owned(), counted.calls[outcome.index()]));
    UpstreamReport {
        name: sum.about.name.clone(),
        kind: sum.about.kind.as_str().to_owned(),
        address: sum.about.address.clone(),
        state: sum.state.as_str().to_owned(),
        reason: sum.trouble.clone(),
        era: sum.version.map(|version| era_text(version).to_owned()),
        version: sum.version.map(|version| version.as_str().to_owned()),
        tools: gauges.tools,
        prompts: gauges.prompts,
        resources: gauges.resources,
        templates: gauges.templates,
        hidden: gauges.hidden,
        renamed: gauges.renamed,
        in_flight: gauges.in_flight,
        parked: gauges.parked,
        sessions: gauges.sessions,
        links: gauges.links,
        calls: counted.calls_total(),
        errors: counted.errors_total(),
        outcomes: outcomes.filter(|(_, count)| *count > 0).collect(),
        resends: counted.resends,
        readings: counted.readings[ReadingResult::Worked.index()],
        readings_failed: counted.readings[ReadingResult::Failed.index()],
        breaker: BreakerReport {
            open_shards: sum.broken_shards,
            shards: sum.shards,
            openings: counted.breaker_openings,
        },
        latency: Percentiles::default(),
        latency_since_start: Percentiles::of(&counted.latency),
        children: None,
    }
}

fn era_text(version: ProtocolVersion) -> &'static str {
    match version.era() {
        Era::Legacy => "legacy",
        Era::Modern => "modern",
    }
}

fn children_report(counts: &EndpointCounts) -> ChildrenReport {
    ChildrenReport {
        running: counts.running,
        started: counts.started,
        restarts: counts.restarts,
        crashed: counts.crashed,
        not_started: counts.not_started,
        refused: counts.refused,
    }
}

/// What was counted between the two samples, shard by shard.
fn latency_lately(name: &str, now: &Sample, base: Option<&Sample>) -> Latency {
    let mut lately = Latency::coarse();
    for (index, shard) in now.shards.iter().enumerate() {
        let Some(latest) = latency_of(name, shard.as_ref()) else { continue };
        let earlier = base.and_then(|base| latency_of(name, base.shards.get(index)?.as_ref()));
        match earlier {
            Some(earlier) => lately.merge(&latest.since(earlier)),
            None => lately.merge(latest),
        }
    }
    lately
}

fn latency_of<'s>(name: &str, shard: Option<&'s ShardSnapshot>) -> Option<&'s Latency> {
    let upstream = shard?.upstreams.iter().find(|upstream| upstream.about.name == name)?;
    Some(&upstream.counted.latency)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::metrics::{
        ShardGauges, ShardMetrics, UpstreamAbout, UpstreamCounted, UpstreamGauges, UpstreamKind,
        UpstreamState,
    };

    fn upstream(name: &str, state: UpstreamState, calls: u64) -> UpstreamSnapshot {
        let about = UpstreamAbout {
            name: name.to_owned(),
            kind: UpstreamKind::Http,
            address: format!("http://{name}.test/mcp"),
        };
        let mut counted = UpstreamCounted::new();
        counted.calls[CallOutcome::Result.index()] = calls;
        for _ in 0..calls {
            counted.latency.record(20_000_000);
        }
        let trouble = (state != UpstreamState::Up).then(|| "connection refused".to_owned());
        UpstreamSnapshot {
            about: Arc::new(about),
            state,
            trouble,
            version: (state == UpstreamState::Up).then_some(ProtocolVersion::V2026_07_28),
            gauges: UpstreamGauges { in_flight: 1, tools: 5, ..UpstreamGauges::default() },
            counted,
        }
    }

    fn shard(number: u16, upstreams: Vec<UpstreamSnapshot>) -> Option<ShardSnapshot> {
        let snapshot = ShardMetrics::new(number, None).snapshot(ShardGauges::default());
        Some(ShardSnapshot { upstreams, ..snapshot })
    }

    #[test]
    fn shards_add_up_and_the_worst_state_is_shown() {
        let shards = vec![
            shard(
                0,
                vec![
                    upstream("crm", UpstreamState::Up, 3),
                    upstream("erp", UpstreamState::Opening, 0),
                ],
            ),
            shard(
                1,
                vec![
                    upstream("crm", UpstreamState::Broken, 2),
                    upstream("erp", UpstreamState::Up, 1),
                ],
            ),
        ];
        let sums = Roll::default().add_up(&shards);
        let now = Sample { at: Instant::now(), shards };
        let found = reports(&sums, &[], &now, None);
        let crm = &found[0];
        assert_eq!((crm.name.as_str(), crm.state.as_str()), ("crm", "broken"));
        assert_eq!(crm.reason.as_deref(), Some("connection refused"));
        assert_eq!((crm.calls, crm.errors, crm.in_flight, crm.tools), (5, 0, 2, 5));
        assert_eq!(crm.outcomes, BTreeMap::from([("result".to_owned(), 5)]));
        assert_eq!(crm.breaker, BreakerReport { open_shards: 1, shards: 2, openings: 0 });
        assert_eq!((crm.era.as_deref(), crm.latency.count), (Some("modern"), 5));
        assert_eq!(found[1].state, "up", "who knows nothing yet does not contradict");
        let text = serde_json::to_string(&found).expect("JSON");
        assert_eq!(serde_json::from_str::<Vec<UpstreamReport>>(&text).expect("itself"), found);
    }

    #[test]
    fn a_stalled_shard_takes_no_counts_away() {
        let mut roll = Roll::default();
        let answered = [shard(0, vec![upstream("crm", UpstreamState::Up, 3)])];
        assert_eq!(roll.add_up(&answered)[0].counted.calls_total(), 3);
        let stalled = &roll.add_up(&[None])[0];
        assert_eq!(stalled.counted.calls_total(), 3);
        assert_eq!((stalled.gauges.in_flight, stalled.gauges.tools), (0, 5));
        assert!(roll.add_up(&[shard(0, Vec::new())]).is_empty(), "it was taken out");
    }

    #[test]
    fn latency_is_that_of_the_last_seconds() {
        let base = Sample {
            at: Instant::now(),
            shards: vec![shard(0, vec![upstream("crm", UpstreamState::Up, 10)])],
        };
        let mut later = upstream("crm", UpstreamState::Up, 10);
        later.counted.latency.record(900_000_000);
        let now = Sample { at: Instant::now(), shards: vec![shard(0, vec![later])] };
        let sums = Roll::default().add_up(&now.shards);
        let report = &reports(&sums, &[], &now, Some(&base))[0];
        assert_eq!((report.latency.count, report.latency_since_start.count), (1, 11));
        assert!(report.latency.p50_seconds > 0.8, "{report:?}");
    }
}
