//! What is looked at from time to time rather than by a timer of its own: deadlines of
//! calls, streams to be resumed, lists to be read anew, sessions that nobody uses.

use shardgate_proto::clock::Millis;
use shardgate_proto::upstream::Events;

use super::job::{JobKey, Waiter};
use super::opening::DISCOVER_PATIENCE_MS;
use super::replacing::Leaving;
use super::server::Use;
use super::session::{Owner, Pending, Phase, UpKey};
use super::settings::Protocol;
use super::{Federation, Resumption};
use crate::metrics::CallOutcome;

/// How often while something is under way.
pub(super) const BUSY_SWEEP_MS: u64 = 100;
/// And else.
const IDLE_SWEEP_MS: u64 = 1_000;

impl Federation {
    pub(super) fn sweep(&mut self, now: Millis, events: &mut Events) {
        self.fail_overdue(now, events);
        self.resume_streams(now, events);
        for index in 0..self.servers.len() {
            self.look_at_server(index as u16, now, events);
        }
        self.lists_may_be_answered(now, events);
        let reading = self.servers.iter().any(|server| !server.reading.answered_once);
        let busy = self.jobs.len() > 0
            || !self.resumptions.is_empty()
            || !self.early.is_empty()
            || self.servers.iter().any(|server| {
                matches!(server.leaving, Some(Leaving::Draining | Leaving::Farewell(_)))
            })
            || reading;
        self.next_sweep = now + if busy { BUSY_SWEEP_MS } else { IDLE_SWEEP_MS };
        let resumptions = self.resumptions.iter().map(|resumption| resumption.at);
        let readings = self
            .servers
            .iter()
            .filter(|it| it.leaving.is_none() && !it.reading.is_under_way())
            .filter(|it| self.home(it.index) == self.settings.shard)
            .map(|server| server.reading.next_at);
        if let Some(at) = resumptions.chain(readings).filter(|at| *at > now).min() {
            self.look_by(at);
        }
    }

    /// Something is due earlier than the next sweep may be.
    pub(super) fn look_by(&mut self, at: Millis) {
        self.next_sweep = self.next_sweep.min(at);
    }

    /// Calls whose server has been silent for too long, or whose client has not come back.
    fn fail_overdue(&mut self, now: Millis, events: &mut Events) {
        let overdue: Vec<(JobKey, Waiter, u16)> = self
            .jobs
            .iter()
            .filter(|job| match job.waiter {
                Waiter::Nobody { until } => until <= now,
                Waiter::Call(_) | Waiter::Sibling { .. } => {
                    job.deadline.min(job.lifetime_ends) <= now
                }
            })
            .map(|job| (job.key, job.waiter, job.server))
            .collect();
        for (job, waiter, index) in overdue {
            if let Waiter::Nobody { .. } = waiter {
                self.cancel_job(job, "the client did not come back", now, events);
                continue;
            }
            let settings = &self.servers[usize::from(index)].settings;
            let old = self.jobs.job(job).is_some_and(|job| job.lifetime_ends <= now);
            let (what, limit_ms, name) = if old {
                ("no answer", settings.request_lifetime_ms, "request_lifetime_ms")
            } else {
                ("no answer and no progress", settings.request_timeout_ms, "request_timeout_ms")
            };
            let why = format!(
                "{what} for {limit_ms} ms (upstream.{name}); whether the call had an effect is \
                 unknown"
            );
            self.count_failure(index, &why, now);
            let place = self.jobs.job(job).and_then(|job| job.place);
            if let Some(place) = place {
                self.tell_cancelled(index, place, "it took too long", now, events);
            }
            self.fail_as(job, CallOutcome::Timeout, &why, now, events);
        }
    }

    /// Streams that ended before the answer they carried.
    fn resume_streams(&mut self, now: Millis, events: &mut Events) {
        let mut due = Vec::new();
        self.resumptions.retain(|resumption| {
            if resumption.at <= now {
                due.push(resumption.clone());
            }
            resumption.at > now
        });
        for Resumption { server: index, session: key, id, last_event_id, .. } in due {
            let server = &mut self.servers[usize::from(index)];
            let waits = server.sessions.session(key).is_some_and(|it| it.pending.contains_key(&id));
            if !waits {
                continue;
            }
            match server.listen(key, Use::Resumption(id), &last_event_id, now, events) {
                Ok(exchange) => self.note_exchange(index, key, id, exchange),
                Err(full) => {
                    let why = full.to_string();
                    self.request_failed(index, key, id, &why, now, events);
                }
            }
        }
    }

    fn note_exchange(
        &mut self,
        index: u16,
        key: UpKey,
        id: u64,
        exchange: Option<shardgate_proto::http_client::ExchangeKey>,
    ) {
        let session = self.servers[usize::from(index)].sessions.session(key);
        if let Some(Pending::Job(job)) = session.and_then(|it| it.pending.get(&id).copied())
            && let Some(place) = self.jobs.job(job).and_then(|job| job.place.as_mut())
        {
            place.exchange = exchange;
        }
    }

    fn look_at_server(&mut self, index: u16, now: Millis, events: &mut Events) {
        self.stop_awaiting_streams(index, now, events);
        let home = self.home(index) == self.settings.shard;
        let server = &mut self.servers[usize::from(index)];
        if server.leaving.is_some() {
            return self.see_off(index, now, events);
        }
        if home && server.reading.next_at <= now && !server.reading.is_under_way() {
            if server.version.is_none() {
                server.reading.next_at = now + server.settings.refresh_ms;
                self.probe(index, now, events);
            } else {
                self.read_lists(index, now, events);
            }
        }
        let server = &mut self.servers[usize::from(index)];
        if server.watch.retry_at.is_some_and(|at| at <= now) {
            server.watch.retry_at = None;
            self.watch(index, now, events);
        }
        let server = &self.servers[usize::from(index)];
        let idle_ms = server.settings.idle_session_ms;
        let mut standing = Vec::new();
        let mut idle = Vec::new();
        for session in server.sessions.iter() {
            if session.standing_retry_at.is_some_and(|at| at <= now) {
                standing.push(session.key);
            }
            let unused = session.pending.is_empty()
                && session.waiting.is_empty()
                && server.catalog != Some(session.key)
                && now.since(session.last_used) >= idle_ms;
            if unused && !self.is_kept(index, session.owner) {
                idle.push(session.key);
            }
        }
        for key in idle {
            self.end_session(index, key, now, events);
        }
        self.look_at_openings(index, now, events);
        for key in standing {
            self.open_standing(index, key, now, events);
        }
    }

    /// Children that do not answer the first thing they are asked. Exchanges by HTTP have
    /// deadlines of their own.
    fn look_at_openings(&mut self, index: u16, now: Millis, events: &mut Events) {
        let server = &self.servers[usize::from(index)];
        let timeout_ms = server.settings.request_timeout_ms;
        let auto = server.settings.protocol == Protocol::Auto;
        let (mut slow, mut silent) = (Vec::new(), Vec::new());
        for session in server.sessions.iter().filter(|it| it.phase == Phase::Initializing) {
            let waited_ms = now.since(session.last_used);
            let discovers =
                session.is_asked(Pending::Discover) && !session.is_asked(Pending::Initialize);
            if session.link.is_some() && waited_ms >= timeout_ms {
                silent.push(session.key);
            } else if session.link.is_some()
                && auto
                && discovers
                && waited_ms >= DISCOVER_PATIENCE_MS
            {
                slow.push(session.key);
            }
        }
        for key in slow {
            self.try_initialize(index, key, now, events);
        }
        for key in silent {
            let why = format!(
                "it did not answer initialize for {timeout_ms} ms (upstream.request_timeout_ms)"
            );
            self.session_failed(index, key, &why, now, events);
        }
    }

    /// Sessions that hear of changes are of use while nothing is called.
    fn is_kept(&self, index: u16, owner: Owner) -> bool {
        match owner {
            Owner::Catalog | Owner::Call(_) => true,
            Owner::Nobody => false,
            Owner::Everybody => !self.servers[usize::from(index)].watch.is_idle(),
            Owner::Client(client) => self
                .clients
                .get(&client)
                .is_some_and(|client| client.watched.iter().any(|(server, _)| *server == index)),
        }
    }
}
