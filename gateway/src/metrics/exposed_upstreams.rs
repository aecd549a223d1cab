//! Tool servers and their children as OpenMetrics series.
//!
//! Limits: the label `upstream` has as many values as there are upstreams configured, 256 at
//! most, so these series count for all shards together and not for each.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};

use super::openmetrics::{count_one, counter, gauge, histogram, signed};
use super::{CallOutcome, Latency, ReadingResult, SessionFate, UpstreamState, UpstreamSum};
use crate::children::EndpointCounts;

/// Calls to tool servers are told to the millisecond at best: finer buckets would be empty.
const BUCKET_S_MIN: f64 = 0.002_5;

/// Reads one number out of what is open with a tool server, or offered by it.
type GaugeOf = fn(&UpstreamSum) -> u64;
/// Label texts and numbers of a closed set of labels.
type LabelledOf = fn(&UpstreamSum) -> Vec<(&'static str, u64)>;
/// Reads one number out of the children of a tool server.
type ChildrenOf = fn(&EndpointCounts) -> u64;

const GAUGES: [(&str, &str, GaugeOf); 11] = [
    ("shardgate_upstream_up", "1 if its last reading worked", |u| {
        u64::from(u.state == UpstreamState::Up)
    }),
    ("shardgate_upstream_breaker_open", "Shards that send it no calls", |u| u.broken_shards),
    ("shardgate_upstream_in_flight", "Calls without an outcome", |u| u.gauges.in_flight),
    ("shardgate_upstream_parked", "Calls that wait for a session", |u| u.gauges.parked),
    ("shardgate_upstream_sessions", "Sessions with it", |u| u.gauges.sessions),
    ("shardgate_upstream_exchanges", "HTTP exchanges and streams", |u| u.gauges.exchanges),
    ("shardgate_upstream_links", "Connections to it, or its children", |u| u.gauges.links),
    ("shardgate_upstream_tools", "Tools it offers", |u| u.gauges.tools),
    ("shardgate_upstream_prompts", "Prompts it offers", |u| u.gauges.prompts),
    ("shardgate_upstream_resources", "Resources it offers", |u| u.gauges.resources),
    ("shardgate_upstream_hidden", "Entries another server's names hide", |u| u.gauges.hidden),
];

const COUNTERS: [(&str, &str, GaugeOf); 2] = [
    ("shardgate_upstream_resends", "Calls sent once more", |u| u.counted.resends),
    ("shardgate_upstream_breaker_openings", "How often a shard's breaker opened", |u| {
        u.counted.breaker_openings
    }),
];

const LABELLED_COUNTERS: [(&str, &str, &str, LabelledOf); 3] = [
    ("shardgate_upstream_calls", "Calls of clients", "outcome", |u| {
        CallOutcome::ALL.iter().map(|l| (l.as_str(), u.counted.calls[l.index()])).collect()
    }),
    ("shardgate_upstream_session_events", "What became of sessions", "event", |u| {
        SessionFate::ALL.iter().map(|l| (l.as_str(), u.counted.sessions[l.index()])).collect()
    }),
    ("shardgate_upstream_readings", "Readings of its lists", "result", |u| {
        ReadingResult::ALL.iter().map(|l| (l.as_str(), u.counted.readings[l.index()])).collect()
    }),
];

const CHILDREN_COUNTERS: [(&str, &str, ChildrenOf); 4] = [
    ("shardgate_children_started", "Children that ran", |c| c.started),
    ("shardgate_children_restarts", "Children after one that ended by itself", |c| c.restarts),
    ("shardgate_children_crashed", "Children that failed", |c| c.crashed),
    ("shardgate_children_not_started", "Children that could not be started", |c| c.not_started),
];

/// All series of these tool servers.
pub(super) fn encode_upstreams(
    encoder: &mut DescriptorEncoder<'_>,
    upstreams: &[UpstreamSum],
) -> fmt::Result {
    for (name, help, value_of) in GAUGES {
        let mut family = gauge(encoder, name, help, None)?;
        for upstream in upstreams {
            family
                .encode_family(&[("upstream", upstream.about.name.as_str())])?
                .encode_gauge(&signed(value_of(upstream)))?;
        }
    }
    for (name, help, value_of) in COUNTERS {
        let mut family = counter(encoder, name, help)?;
        for upstream in upstreams {
            let labels = [("upstream", upstream.about.name.as_str())];
            count_one(&mut family, &labels, value_of(upstream))?;
        }
    }
    for (name, help, label, values_of) in LABELLED_COUNTERS {
        let mut family = counter(encoder, name, help)?;
        for upstream in upstreams {
            for (text, value) in values_of(upstream) {
                let labels = [("upstream", upstream.about.name.as_str()), (label, text)];
                count_one(&mut family, &labels, value)?;
            }
        }
    }
    let help = "From a call's sending to its server's outcome, to the millisecond";
    let mut family = histogram(encoder, "shardgate_upstream_call_duration", help)?;
    for upstream in upstreams {
        let latency = &upstream.counted.latency;
        family
            .encode_family(&[("upstream", upstream.about.name.as_str())])?
            .encode_histogram::<NoLabelSet>(
                latency.sum_seconds(),
                latency.count(),
                &buckets(latency),
                None,
            )?;
    }
    Ok(())
}

/// The buckets from [`BUCKET_S_MIN`] on; the first holds all that was shorter too.
fn buckets(latency: &Latency) -> Vec<(f64, u64)> {
    let mut buckets = latency.buckets();
    let first = buckets.iter().position(|(bound, _)| *bound >= BUCKET_S_MIN).unwrap_or_default();
    let shorter: u64 = buckets.drain(..first).map(|(_, count)| count).sum();
    if let Some((_, count)) = buckets.first_mut() {
        *count += shorter;
    }
    buckets
}

/// The series of children, one of each for each tool server that had any.
pub(super) fn encode_children(
    encoder: &mut DescriptorEncoder<'_>,
    children: &[EndpointCounts],
) -> fmt::Result {
    let mut family = gauge(encoder, "shardgate_children", "Children that run", None)?;
    for counts in children {
        family
            .encode_family(&[("upstream", counts.upstream.as_str())])?
            .encode_gauge(&signed(counts.running))?;
    }
    for (name, help, value_of) in CHILDREN_COUNTERS {
        let mut family = counter(encoder, name, help)?;
        for counts in children {
            let labels = [("upstream", counts.upstream.as_str())];
            count_one(&mut family, &labels, value_of(counts))?;
        }
    }
    Ok(())
}
