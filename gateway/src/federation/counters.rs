//! What is counted of each tool server, and how it is told to others.
//!
//! Invariant: every call that reaches a server's admission is counted under one outcome
//! when it ends. Rounds of questions to a client are parts of one call.
//!
//! A server that is configured anew goes on with the counts under its name; what its
//! predecessor still has open and counts is told with it.

use std::sync::Arc;

use shardgate_proto::catalog::{ListKind, ServerReport};
use shardgate_proto::clock::Millis;
use shardgate_proto::http_client::FailureKind;
use shardgate_proto::upstream::{Outcome, RouteId};

use super::Federation;
use super::breaker::BreakerState;
use super::job::JobKey;
use super::replacing::Leaving;
use super::server::{Server, Wire};
use super::settings::{ServerSettings, WireSettings};
use crate::metrics::{
    CallOutcome, ReadingResult, Reports, SessionFate, UpstreamAbout, UpstreamCounted,
    UpstreamGauges, UpstreamKind, UpstreamSnapshot, UpstreamState,
};

/// What is told of a server's trouble; the log has all of it.
const TROUBLE_CHARS_MAX: usize = 500;

const NS_PER_MS: u64 = 1_000_000;

/// The counters of one server.
#[derive(Debug)]
pub(super) struct Counters {
    about: Arc<UpstreamAbout>,
    counted: UpstreamCounted,
    /// Of what calls fail that fail in this step. What is not known to be else is an
    /// answer that makes no sense.
    blame: CallOutcome,
}

impl Counters {
    pub(super) fn new(settings: &ServerSettings) -> Counters {
        let kind = match settings.wire {
            WireSettings::Http(_) => UpstreamKind::Http,
            WireSettings::Stdio { .. } => UpstreamKind::Stdio,
            WireSettings::Inside => UpstreamKind::Embedded,
        };
        let (name, address) = (settings.name.clone(), settings.shown.clone());
        Counters {
            about: Arc::new(UpstreamAbout { name, kind, address }),
            counted: UpstreamCounted::new(),
            blame: CallOutcome::Protocol,
        }
    }

    /// A call has ended, or was not let through.
    pub(super) fn call(&mut self, outcome: CallOutcome) {
        self.counted.calls[outcome.index()] += 1;
    }

    /// A call is sent once more.
    pub(super) fn resend(&mut self) {
        self.counted.resends += 1;
    }

    pub(super) fn session(&mut self, fate: SessionFate) {
        self.counted.sessions[fate.index()] += 1;
    }

    pub(super) fn breaker_opened(&mut self) {
        self.counted.breaker_openings += 1;
    }

    pub(super) fn reading(&mut self, result: ReadingResult) {
        self.counted.readings[result.index()] += 1;
    }

    /// The reason why calls fail at present.
    pub(super) fn blame(&self) -> CallOutcome {
        self.blame
    }

    /// What fails from here on fails of this; returns the reason until now, to be put back.
    pub(super) fn set_blame(&mut self, blame: CallOutcome) -> CallOutcome {
        std::mem::replace(&mut self.blame, blame)
    }

    /// Takes over what the server counted whose name and place this one has.
    pub(super) fn inherit(&mut self, predecessor: UpstreamCounted) {
        self.counted.merge(&predecessor);
    }

    /// What was counted, which is counted anew from here on.
    pub(super) fn hand_down(&mut self) -> UpstreamCounted {
        std::mem::take(&mut self.counted)
    }

    fn answered_after(&mut self, elapsed_ms: u64) {
        self.counted.latency.record(elapsed_ms.max(1).saturating_mul(NS_PER_MS));
    }
}

/// The reason for calls whose exchange failed so.
pub(super) fn blame_of(kind: FailureKind) -> CallOutcome {
    match kind {
        FailureKind::Unreachable | FailureKind::ClosedEarly => CallOutcome::Unreachable,
        FailureKind::TimedOut => CallOutcome::Timeout,
        FailureKind::Malformed | FailureKind::TooLarge | FailureKind::Unfit => {
            CallOutcome::Protocol
        }
    }
}

/// How a job is counted that was delivered with this outcome.
pub(super) fn outcome_of(failed: Option<CallOutcome>, outcome: Outcome) -> CallOutcome {
    match (failed, outcome) {
        (Some(reason), _) => reason,
        (None, Outcome::Result) => CallOutcome::Result,
        (None, Outcome::Error(_)) => CallOutcome::Error,
    }
}

impl Federation {
    /// A job's server has answered.
    pub(super) fn count_answer(&mut self, key: JobKey, now: Millis) {
        if let Some(job) = self.jobs.job(key) {
            let elapsed_ms = now.since(job.sent_at);
            self.servers[usize::from(job.server)].counters.answered_after(elapsed_ms);
        }
    }
}

impl Reports for Federation {
    fn report(&self) -> Vec<UpstreamSnapshot> {
        let offers = &self.views.catalog(RouteId::WHOLE).report().servers;
        let offer = |index| offers.iter().find(|offer| offer.index == index);
        let numbers = self.settings.servers.iter().map(|server| server.endpoint.0);
        let configured = numbers.filter_map(|number| self.servers.get(usize::from(number)));
        let snapshots = configured.map(|server| {
            let mut snapshot = server.snapshot(offer(server.index));
            for old in self.servers.iter().filter(|old| old.is_leaving_under(server.name())) {
                old.add_what_is_left(&mut snapshot);
            }
            snapshot
        });
        snapshots.collect()
    }
}

impl Server {
    /// True of a server that was configured by this name and still has something to do.
    fn is_leaving_under(&self, name: &str) -> bool {
        matches!(self.leaving, Some(Leaving::Draining | Leaving::Farewell(_)))
            && self.name() == name
    }

    /// Adds to its successor's snapshot what it has open and has counted.
    fn add_what_is_left(&self, snapshot: &mut UpstreamSnapshot) {
        snapshot.counted.merge(&self.counters.counted);
        // What it offered is offered no more.
        let open = self.gauges(None);
        snapshot.gauges.merge(&UpstreamGauges {
            in_flight: open.in_flight,
            parked: open.parked,
            sessions: open.sessions,
            exchanges: open.exchanges,
            links: open.links,
            ..UpstreamGauges::default()
        });
    }

    fn snapshot(&self, offer: Option<&ServerReport>) -> UpstreamSnapshot {
        UpstreamSnapshot {
            about: Arc::clone(&self.counters.about),
            state: self.state(),
            trouble: self.trouble.as_deref().map(shortened),
            version: self.version,
            gauges: self.gauges(offer),
            counted: self.counters.counted.clone(),
        }
    }

    fn state(&self) -> UpstreamState {
        match self.breaker.state() {
            BreakerState::Open { .. } | BreakerState::HalfOpen => UpstreamState::Broken,
            BreakerState::Closed if self.reading.failures > 0 => UpstreamState::Down,
            BreakerState::Closed if self.listing.is_some() => UpstreamState::Up,
            BreakerState::Closed => UpstreamState::Opening,
        }
    }

    fn gauges(&self, offer: Option<&ServerReport>) -> UpstreamGauges {
        let waiting: usize = self.sessions.iter().map(|session| session.waiting.len()).sum();
        let links = match &self.wire {
            Wire::Http(http) => http.calls.links() + http.streams.links(),
            Wire::Stdio(pipes) => pipes.len(),
            Wire::Inside(_) => 0,
        };
        let offered = |kind| self.listing.as_ref().map_or(0, |listing| listing.len(kind)) as u64;
        UpstreamGauges {
            in_flight: self.in_flight as u64,
            parked: (self.parked.len() + waiting) as u64,
            sessions: self.sessions.len() as u64,
            exchanges: self.exchanges.len() as u64,
            links: links as u64,
            tools: offered(ListKind::Tools),
            prompts: offered(ListKind::Prompts),
            resources: offered(ListKind::Resources),
            templates: offered(ListKind::Templates),
            hidden: offer.map_or(0, |offer| offer.hidden.0) as u64,
            renamed: offer.map_or(0, |offer| offer.renamed) as u64,
        }
    }
}

/// Servers say what they like, and snapshots are to stay small.
fn shortened(trouble: &str) -> String {
    match trouble.char_indices().nth(TROUBLE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &trouble[..end]),
        None => trouble.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_of_the_gateway_is_never_an_answer_of_the_server() {
        let refused = Outcome::Error(-32000);
        for reason in [CallOutcome::Timeout, CallOutcome::Unreachable, CallOutcome::Protocol] {
            assert_eq!(outcome_of(Some(reason), refused), reason);
        }
        assert_eq!(outcome_of(None, refused), CallOutcome::Error);
        assert_eq!(outcome_of(None, Outcome::Result), CallOutcome::Result);
        assert_eq!(blame_of(FailureKind::ClosedEarly), CallOutcome::Unreachable);
        assert_eq!(blame_of(FailureKind::TimedOut), CallOutcome::Timeout);
    }
}
