//! What HTTP exchanges with tool servers come to: messages, ends, failures.

use shardgate_proto::clock::Millis;
use shardgate_proto::http_client::{Content, ExchangeKey, Failure, FailureKind};
use shardgate_proto::jsonrpc::{self, Kind, Message, ScanLimits};
use shardgate_proto::mcp::version::Era;
use shardgate_proto::upstream::Events;

use super::inbox::{Head, Told};
use super::job::{JobKey, Waiter};
use super::receiving::EVIDENCE_BYTES_MAX;
use super::server::{Exchange, Use};
use super::session::{Pending, UpKey};
use super::{Federation, Resumption};

/// The pause before a broken stream is resumed, where the server names none.
pub(super) const RESUME_MS: u64 = 1_000;

impl Federation {
    /// Takes in what a server's HTTP client has told.
    pub(super) fn take_told(&mut self, index: u16, now: Millis, events: &mut Events) {
        let list = self.inbox.take();
        for (key, told) in &list {
            self.take_one(index, *key, told, now, events);
        }
        self.inbox.recycle(list);
    }

    fn take_one(
        &mut self,
        index: u16,
        key: ExchangeKey,
        told: &Told,
        now: Millis,
        events: &mut Events,
    ) {
        let Some(exchange) = self.servers[usize::from(index)].exchanges.get(&key).copied() else {
            return;
        };
        match told {
            Told::Head(head) => self.take_head(index, key, exchange, head, now, events),
            Told::Message(range) => {
                let inbox = std::mem::take(&mut self.inbox);
                self.take_body(index, exchange, inbox.bytes(range), now, events);
                self.inbox = inbox;
            }
            Told::Endpoint(range) => {
                let text = self.inbox.bytes(range).to_vec();
                if self.servers[usize::from(index)].is_shared_stream() {
                    self.take_endpoint(index, exchange.session, &text, now, events);
                }
            }
            Told::Retry(ms) => {
                if let Some(entry) = self.servers[usize::from(index)].exchanges.get_mut(&key) {
                    entry.retry_ms = Some(*ms);
                }
            }
            Told::End { last_event_id } => {
                let last = self.inbox.bytes(last_event_id).to_vec();
                self.servers[usize::from(index)].take_exchange(key);
                self.exchange_ended(index, exchange, &last, now, events);
            }
            Told::Failed(failure) => {
                self.servers[usize::from(index)].take_exchange(key);
                let blame = super::counters::blame_of(failure.kind);
                let before = self.servers[usize::from(index)].counters.set_blame(blame);
                self.exchange_failed(index, exchange, failure, now, events);
                self.servers[usize::from(index)].counters.set_blame(before);
            }
        }
    }

    fn take_head(
        &mut self,
        index: u16,
        key: ExchangeKey,
        exchange: Exchange,
        head: &Head,
        now: Millis,
        events: &mut Events,
    ) {
        let server = &mut self.servers[usize::from(index)];
        if let Some(entry) = server.exchanges.get_mut(&key) {
            entry.status = head.status;
            entry.retry_after_s = head.retry_after_s;
        }
        if let Some(id) = &head.session_id
            && let Some(session) = server.sessions.session(exchange.session)
            && matches!(exchange.purpose, Use::Request(_))
            && session.id.is_none()
            && session.version.era() == Era::Legacy
        {
            session.id = Some(id.clone());
        }
        let awaited = self.is_awaited(index, exchange);
        let server = &mut self.servers[usize::from(index)];
        // MCP 2025-11-25, transports: 404 says that the server has ended the session. Of one
        // that has just been opened it says that there is nothing at all to GET.
        let has_id = server.sessions.session(exchange.session).is_some_and(|s| s.id.is_some());
        if head.status == 404 && has_id && exchange.purpose != Use::End && !awaited {
            // Whoever only wants the rest of a stream has been served before.
            let is_request = matches!(exchange.purpose, Use::Request(_));
            let finder = self.job_of(index, exchange).filter(|_| is_request);
            return self.session_expired(index, exchange.session, finder, now, events);
        }
        if let Some(location) = &head.location {
            let why = format!(
                "it redirects to {location} (HTTP {}); put that address into upstream.url if it \
                 is right",
                head.status
            );
            self.servers[usize::from(index)].abort(key, events);
            return self.exchange_refused(index, exchange, &why, now, events);
        }
        let is_request = matches!(exchange.purpose, Use::Request(_) | Use::Resumption(_));
        if is_request && head.status == 200 && head.content == Content::Other {
            let why = "its answer is neither JSON nor an event stream; upstream.url may lead to \
                       something that is no MCP server";
            self.servers[usize::from(index)].abort(key, events);
            self.exchange_refused(index, exchange, why, now, events);
        }
        if awaited {
            self.send_waiting(index, exchange.session, now, events);
        }
    }

    fn take_body(
        &mut self,
        index: u16,
        exchange: Exchange,
        bytes: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let success = (200..300).contains(&exchange.status);
        if success {
            return self.take_message(index, exchange.session, Some(exchange), bytes, now, events);
        }
        // The modern era answers errors with statuses of their own; the body has the error.
        let limits = ScanLimits { depth_max: self.settings.json_depth_max, ..Default::default() };
        let is_answer = jsonrpc::scan(bytes, &limits).is_ok_and(|message| match &message {
            Message::Single(envelope) => matches!(envelope.kind(), Kind::Error { id: Some(_), .. }),
            Message::Batch(_) => false,
        });
        if is_answer {
            return self.take_message(index, exchange.session, Some(exchange), bytes, now, events);
        }
        // What an older server says to a request it doesn't know; its end is looked at.
        let initializes = matches!(exchange.purpose, Use::Request(id)
            if self.pending(index, exchange.session, id) == Some(Pending::Initialize));
        if initializes && matches!(exchange.status, 400 | 404 | 405) {
            return;
        }
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(EVIDENCE_BYTES_MAX)]);
        let again = exchange.retry_after_s.map(|s| format!(" (try again after {s} s)"));
        let again = again.unwrap_or_default();
        let why = format!("it answered HTTP {}{again}: {}", exchange.status, text.trim());
        self.exchange_refused(index, exchange, &why, now, events);
    }

    /// The job an exchange answers.
    pub(super) fn job_of(&mut self, index: u16, exchange: Exchange) -> Option<JobKey> {
        let (Use::Request(id) | Use::Resumption(id)) = exchange.purpose else { return None };
        let session = self.servers[usize::from(index)].sessions.session(exchange.session)?;
        session.pending.get(&id)?.job()
    }

    fn pending(&mut self, index: u16, key: UpKey, id: u64) -> Option<Pending> {
        let session = self.servers[usize::from(index)].sessions.session(key)?;
        session.pending.get(&id).copied()
    }

    /// The server has answered, but not what was asked.
    pub(super) fn exchange_refused(
        &mut self,
        index: u16,
        exchange: Exchange,
        why: &str,
        now: Millis,
        events: &mut Events,
    ) {
        match exchange.purpose {
            Use::Request(id) | Use::Resumption(id) => {
                self.request_failed(index, exchange.session, id, why, now, events);
            }
            Use::Confirmation => self.session_failed(index, exchange.session, why, now, events),
            Use::Standing => self.standing_ended(index, exchange, b"", now, events),
            Use::Note | Use::End => {}
        }
    }

    /// A request of a session has no answer and will have none.
    pub(super) fn request_failed(
        &mut self,
        index: u16,
        key: UpKey,
        id: u64,
        why: &str,
        now: Millis,
        events: &mut Events,
    ) {
        let server = &mut self.servers[usize::from(index)];
        let Some(session) = server.sessions.session(key) else { return };
        match session.pending.get(&id).copied() {
            Some(Pending::Job(job)) => {
                self.count_failure(index, why, now);
                self.fail(job, why, now, events);
            }
            Some(_) => self.own_request_failed(index, key, id, why, now, events),
            None => {}
        }
    }

    /// A request of our own has failed.
    pub(super) fn own_request_failed(
        &mut self,
        index: u16,
        key: UpKey,
        id: u64,
        why: &str,
        now: Millis,
        events: &mut Events,
    ) {
        let server = &mut self.servers[usize::from(index)];
        let Some(session) = server.sessions.session(key) else { return };
        match session.pending.remove(&id) {
            // Who doesn't know the modern era answers as it likes; only silence is a failure.
            Some(Pending::Discover) => self.discovered(index, key, None, now, events),
            Some(Pending::Initialize) => self.session_failed(index, key, why, now, events),
            Some(Pending::List(_)) => self.reading_failed(index, why, now, events),
            Some(Pending::Chore(what)) => {
                tracing::warn!(event = "upstream_chore", upstream = server.name(), what, why);
            }
            Some(Pending::Listen) => self.watch_ended(index, now),
            Some(Pending::Job(_)) | None => {}
        }
    }

    fn exchange_ended(
        &mut self,
        index: u16,
        exchange: Exchange,
        last_event_id: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let success = (200..300).contains(&exchange.status);
        match exchange.purpose {
            Use::Request(id) | Use::Resumption(id) => {
                let server = &mut self.servers[usize::from(index)];
                let Some(session) = server.sessions.session(exchange.session) else { return };
                if !session.pending.contains_key(&id) {
                    return;
                }
                // The answer comes on the session's stream.
                let initializes = session.pending.get(&id) == Some(&Pending::Initialize);
                if success && server.is_shared_stream() {
                    return;
                }
                if initializes
                    && self.falls_back_to_sse(index, exchange.session, exchange.status, now, events)
                {
                    return;
                }
                let server = &mut self.servers[usize::from(index)];
                let Some(session) = server.sessions.session(exchange.session) else { return };
                // MCP 2025-11-25, transports: the server may close the stream before the
                // answer; "the client SHOULD poll" by GET with the last event's id.
                if success && !last_event_id.is_empty() && session.version.era() == Era::Legacy {
                    let job = session.pending.get(&id).copied();
                    if let (Some(retry_ms), Some(Pending::Job(job))) = (exchange.retry_ms, job) {
                        self.let_client_poll(job, retry_ms, events);
                    }
                    return self.resume_later(index, exchange, id, last_event_id, now);
                }
                let why = match exchange.status {
                    200 => "its answer ended without a response to the request".to_owned(),
                    401 | 403 => format!(
                        "it refused our credentials (HTTP {}); check upstream.headers",
                        exchange.status
                    ),
                    status => format!("it answered HTTP {status} without a response"),
                };
                self.request_failed(index, exchange.session, id, &why, now, events);
            }
            Use::Confirmation if success => self.ready(index, exchange.session, now, events),
            Use::Confirmation => {
                let why =
                    format!("it refused notifications/initialized with HTTP {}", exchange.status);
                self.session_failed(index, exchange.session, &why, now, events);
            }
            Use::Standing => self.standing_ended(index, exchange, last_event_id, now, events),
            Use::Note | Use::End => {}
        }
    }

    /// The rest of the stream that answers the request `id` is asked for after a pause.
    fn resume_later(
        &mut self,
        index: u16,
        exchange: Exchange,
        id: u64,
        last_event_id: &[u8],
        now: Millis,
    ) {
        let at = now + exchange.retry_ms.unwrap_or(RESUME_MS);
        let (session, last_event_id) = (exchange.session, last_event_id.into());
        self.resumptions.push(Resumption { at, server: index, session, id, last_event_id });
        self.look_by(at);
    }

    /// The server wants its client to poll instead of holding the stream (MCP 2025-11-25,
    /// transports): the client is told the same, while we poll for it.
    fn let_client_poll(&mut self, job: JobKey, retry_ms: u64, events: &mut Events) {
        if let Some(job) = self.jobs.job(job)
            && let (Waiter::Call(call), Era::Legacy) = (job.waiter, job.version.era())
        {
            events.close_stream(call, retry_ms);
        }
    }

    fn exchange_failed(
        &mut self,
        index: u16,
        exchange: Exchange,
        failure: &Failure,
        now: Millis,
        events: &mut Events,
    ) {
        match exchange.purpose {
            Use::Request(id) | Use::Resumption(id) => {
                if let Some(job) = self.job_of(index, exchange) {
                    self.count_failure(index, &failure.text, now);
                    if self.recover(index, exchange, (id, job), failure, now, events) {
                        return;
                    }
                    return self.fail(job, &failure.text, now, events);
                }
                let server = &mut self.servers[usize::from(index)];
                let Some(session) = server.sessions.session(exchange.session) else { return };
                if session.pending.get(&id) == Some(&Pending::Discover) {
                    // Nobody is there, of whatever era.
                    session.pending.remove(&id);
                    return self.server_failed(index, &failure.text, now, events);
                }
                self.own_request_failed(index, exchange.session, id, &failure.text, now, events);
            }
            Use::Confirmation => {
                self.session_failed(index, exchange.session, &failure.text, now, events);
            }
            Use::Standing => self.standing_ended(index, exchange, b"", now, events),
            Use::Note => self.count_failure(index, &failure.text, now),
            Use::End => {}
        }
    }

    /// Whether a call goes on though its exchange failed: its stream is resumed, or it is
    /// sent once more where that can do no harm.
    fn recover(
        &mut self,
        index: u16,
        exchange: Exchange,
        (id, job): (u64, JobKey),
        failure: &Failure,
        now: Millis,
        events: &mut Events,
    ) -> bool {
        let server = &mut self.servers[usize::from(index)];
        let session = server.sessions.session(exchange.session);
        let legacy = session.is_some_and(|session| session.version.era() == Era::Legacy);
        let broke = failure.kind == FailureKind::ClosedEarly;
        // MCP 2025-11-25, transports: "Resumption applies regardless of how the original
        // stream was initiated", and of how it ended.
        if broke && legacy && !failure.last_event_id.is_empty() {
            self.resume_later(index, exchange, id, &failure.last_event_id, now);
            return true;
        }
        // The request of a stream that was to be resumed was sent long ago.
        let unsent = !failure.sent && matches!(exchange.purpose, Use::Request(_));
        // What is slow is not made faster by asking for it twice, nor what is wrong right.
        let again = broke && self.jobs.job(job).is_some_and(|job| job.repeatable);
        (unsent || again) && self.resend(job, now, events)
    }
}
