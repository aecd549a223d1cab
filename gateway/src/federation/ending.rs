//! How sessions with tool servers end, by our wish or without it, and what becomes of what
//! was under way on them.

use shardgate_proto::clock::Millis;
use shardgate_proto::upstream::Events;

use super::Federation;
use super::job::JobKey;
use super::server::Wire;
use super::session::{Owner, Phase, Session, UpKey};
use crate::metrics::{ReadingResult, SessionFate};

/// A new try to reach a server that did not answer waits so long, doubled each time.
const RETRY_MS_MIN: u64 = 500;
pub(super) const RETRY_MS_MAX: u64 = 30_000;

impl Federation {
    /// A server could not be reached or made no sense: what waits for it is answered, and
    /// it is tried again later.
    pub(super) fn server_failed(
        &mut self,
        index: u16,
        why: &str,
        now: Millis,
        events: &mut Events,
    ) {
        self.count_failure(index, why, now);
        let server = &mut self.servers[usize::from(index)];
        let reading = &mut server.reading;
        reading.failures = reading.failures.saturating_add(1);
        let pause = RETRY_MS_MIN << reading.failures.min(6);
        reading.next_at = now + pause.min(RETRY_MS_MAX);
        reading.answered_once = true;
        server.counters.reading(ReadingResult::Failed);
        let parked: Vec<JobKey> = std::mem::take(&mut server.parked);
        // Calls of clients may run in the session by which lists could not be read.
        if let Some(key) = server.catalog
            && server.sessions.session(key).is_none_or(|session| session.jobs().is_empty())
        {
            self.end_session(index, key, now, events);
        }
        for job in parked {
            self.fail(job, why, now, events);
        }
        if self.home(index) == self.settings.shard {
            super::siblings::write_failed(events, index, why);
        }
        self.lists_may_be_answered(now, events);
    }

    /// Notes a failure of transport.
    pub(super) fn count_failure(&mut self, index: u16, why: &str, now: Millis) {
        let server = &mut self.servers[usize::from(index)];
        if server.trouble.as_deref() != Some(why) {
            tracing::warn!(event = "upstream_failed", upstream = server.name(), why);
            server.trouble = Some(why.to_owned());
        }
        if server.breaker.failed(now) {
            server.counters.breaker_opened();
            tracing::warn!(
                event = "breaker_opened",
                upstream = server.name(),
                open_ms = server.settings.breaker.open_ms,
                "it failed several times in a row and is not asked for a while"
            );
        }
    }

    /// A session could not be opened, or broke: all that is under way on it fails.
    pub(super) fn session_failed(
        &mut self,
        index: u16,
        key: UpKey,
        why: &str,
        now: Millis,
        events: &mut Events,
    ) {
        let server = &mut self.servers[usize::from(index)];
        server.counters.session(SessionFate::Failed);
        let was_catalog = server.catalog == Some(key);
        if was_catalog {
            server.delete(key, now, events);
        }
        let lost = self.drop_session(index, key, events);
        if was_catalog {
            self.servers[usize::from(index)].reading.stop();
            self.server_failed(index, why, now, events);
        } else {
            self.count_failure(index, why, now);
        }
        let Some(session) = lost else { return };
        for job in session.jobs() {
            self.fail(job, why, now, events);
        }
    }

    /// The server has forgotten a session. Nothing was done for the job that found out, so
    /// it is sent on a fresh one; what else was under way is lost, and said to be.
    pub(super) fn session_expired(
        &mut self,
        index: u16,
        key: UpKey,
        finder: Option<JobKey>,
        now: Millis,
        events: &mut Events,
    ) {
        self.servers[usize::from(index)].counters.session(SessionFate::Expired);
        let was_catalog = self.servers[usize::from(index)].catalog == Some(key);
        let Some(session) = self.drop_session(index, key, events) else { return };
        let why = "it has ended the session, and with it this call; whether the call had an \
                   effect is unknown";
        for job in session.jobs() {
            if let Some(entry) = self.jobs.job(job) {
                entry.place = None;
            }
            let safe = Some(job) == finder || session.waiting.contains(&job);
            if !safe || !self.resend(job, now, events) {
                self.fail(job, why, now, events);
            }
        }
        if was_catalog {
            let reading = &mut self.servers[usize::from(index)].reading;
            reading.stop();
            // Not at once: a server may forget every session as soon as it is open.
            reading.next_at = now + RETRY_MS_MIN;
            self.look_by(now + RETRY_MS_MIN);
        }
    }

    /// Ends the sessions of calls that are over.
    pub(super) fn end_call_sessions(&mut self, now: Millis, events: &mut Events) {
        for (index, job) in std::mem::take(&mut self.over) {
            let sessions = &self.servers[usize::from(index)].sessions;
            let own = sessions.iter().find(|session| session.owner == Owner::Call(job));
            if let Some(key) = own.map(|session| session.key) {
                self.end_session(index, key, now, events);
            }
        }
    }

    /// Ends a session in order: the server is told.
    pub(super) fn end_session(&mut self, index: u16, key: UpKey, now: Millis, events: &mut Events) {
        if self.abandon(index, key) {
            return;
        }
        self.servers[usize::from(index)].delete(key, now, events);
        self.drop_session(index, key, events);
    }

    /// A session that the server is about to open has no name yet by which it could be
    /// ended; were its answer not waited for, the server would keep it. False if it can be
    /// ended now.
    fn abandon(&mut self, index: u16, key: UpKey) -> bool {
        let server = &mut self.servers[usize::from(index)];
        let streamable = matches!(&server.wire, Wire::Http(http) if !http.sse);
        let Some(session) = server.sessions.session(key) else { return true };
        let is_clients = matches!(session.owner, Owner::Client(_) | Owner::Call(_));
        if !(streamable && is_clients && session.phase == Phase::Initializing) {
            return false;
        }
        if let Owner::Client(client) = session.owner
            && let Some(client) = self.clients.get_mut(&client)
        {
            client.sessions.retain(|own| *own != (index, key));
        }
        session.owner = Owner::Nobody;
        session.waiting.clear();
        session.notes.clear();
        true
    }

    /// Forgets a session and stops whatever is under way on it.
    pub(super) fn drop_session(
        &mut self,
        index: u16,
        key: UpKey,
        events: &mut Events,
    ) -> Option<Session> {
        let server = &mut self.servers[usize::from(index)];
        let session = server.sessions.remove(key)?;
        let mut exchanges: Vec<_> = session.exchanges.iter().copied().collect();
        exchanges.sort_unstable();
        for exchange in exchanges {
            server.abort(exchange, events);
        }
        match (session.link, &mut server.wire) {
            (Some(link), Wire::Stdio(pipes)) => pipes.close(link, events),
            (_, Wire::Inside(inside)) => inside.end_session(key),
            (_, Wire::Stdio(_) | Wire::Http(_)) => {}
        }
        let watched = server.everybody == Some(key);
        if watched {
            server.everybody = None;
        }
        if server.catalog == Some(key) {
            server.catalog = None;
        }
        if let Owner::Client(client) = session.owner
            && let Some(client) = self.clients.get_mut(&client)
        {
            client.sessions.retain(|own| *own != (index, key));
        }
        if watched {
            self.forget_watch(index);
        }
        self.asks.retain(|_, origin| origin.server != index || origin.session != key);
        Some(session)
    }
}
