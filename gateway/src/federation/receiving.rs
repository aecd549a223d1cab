//! What comes from tool servers, and whose it is.
//!
//! On HTTP a message belongs to the call on whose stream it comes. On a child's streams
//! there is no such tie: progress belongs to the call that has its token, or to nobody, and
//! anything else to the call under way if there is exactly one, else to the session.

use shardgate_proto::clock::Millis;
use shardgate_proto::http_client::{Content, ExchangeKey, Failure, FailureKind};
use shardgate_proto::jsonrpc::{self, Envelope, Kind, Message, ScanLimits};
use shardgate_proto::mcp::version::Era;
use shardgate_proto::upstream::{Events, LinkEnd, LinkKey, Outcome, Target};

use super::inbox::{Head, Told};
use super::job::{HELD_MESSAGES_MAX, JobKey, Waiter};
use super::params::{ObjectWriter, meta_member};
use super::server::{Exchange, Outgoing, Use, Wire, server_of};
use super::session::{Owner, Pending, UpKey};
use super::settings::Protocol;
use super::{Federation, Resumption};
use crate::metrics::CallOutcome;

/// The pause before a broken stream is resumed, where the server names none.
pub(super) const RESUME_MS: u64 = 1_000;
/// What is shown of an answer that makes no sense.
const EVIDENCE_BYTES_MAX: usize = 200;

/// Where a message came in.
#[derive(Clone, Copy, Debug)]
struct Source {
    server: u16,
    session: UpKey,
    /// The job on whose stream it came, or which is the only one under way.
    job: Option<JobKey>,
    /// The job was guessed: all jobs of the session share one stream.
    guessed: bool,
}

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
    fn job_of(&mut self, index: u16, exchange: Exchange) -> Option<JobKey> {
        let (Use::Request(id) | Use::Resumption(id)) = exchange.purpose else { return None };
        let session = self.servers[usize::from(index)].sessions.session(exchange.session)?;
        session.pending.get(&id)?.job()
    }

    fn pending(&mut self, index: u16, key: UpKey, id: u64) -> Option<Pending> {
        let session = self.servers[usize::from(index)].sessions.session(key)?;
        session.pending.get(&id).copied()
    }

    /// The server has answered, but not what was asked.
    fn exchange_refused(
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
                    let at = now + exchange.retry_ms.unwrap_or(RESUME_MS);
                    let last_event_id = last_event_id.into();
                    let session = exchange.session;
                    self.resumptions.push(Resumption {
                        at,
                        server: index,
                        session,
                        id,
                        last_event_id,
                    });
                    self.look_by(at);
                    return;
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
            let at = now + exchange.retry_ms.unwrap_or(RESUME_MS);
            let last = failure.last_event_id.as_slice().into();
            let session = exchange.session;
            self.resumptions.push(Resumption {
                at,
                server: index,
                session,
                id,
                last_event_id: last,
            });
            self.look_by(at);
            return true;
        }
        // The request of a stream that was to be resumed was sent long ago.
        let unsent = !failure.sent && matches!(exchange.purpose, Use::Request(_));
        // What is slow is not made faster by asking for it twice, nor what is wrong right.
        let again = broke && self.jobs.job(job).is_some_and(|job| job.repeatable);
        (unsent || again) && self.resend(job, now, events)
    }

    /// A child's streams have brought bytes.
    pub(super) fn take_lines(
        &mut self,
        link: LinkKey,
        bytes: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let index = server_of(link);
        let server = &mut self.servers[usize::from(index)];
        let Some(key) = server.session_of(link) else { return };
        let Wire::Stdio(pipes) = &mut server.wire else { return };
        match pipes.lines(link, bytes) {
            Ok(lines) => {
                for line in lines {
                    self.take_message(index, key, None, &line, now, events);
                }
            }
            Err(_) => {
                let why = "it wrote a line that is longer than limits.message_bytes_max";
                self.session_failed(index, key, why, now, events);
            }
        }
    }

    /// A child has ended.
    pub(super) fn child_ended(
        &mut self,
        link: LinkKey,
        end: &LinkEnd,
        now: Millis,
        events: &mut Events,
    ) {
        let index = server_of(link);
        let server = &mut self.servers[usize::from(index)];
        let Wire::Stdio(pipes) = &mut server.wire else { return };
        let Some(key) = pipes.forget(link) else { return };
        if !matches!(end, LinkEnd::Unreachable(_)) && self.died_of_discover(index, key) {
            return self.try_initialize(index, key, now, events);
        }
        let server = &mut self.servers[usize::from(index)];
        let why = match end {
            LinkEnd::Closed => "its process has ended",
            LinkEnd::Unreachable(why) | LinkEnd::Broken(why) => why,
        };
        let before = server.counters.set_blame(CallOutcome::Unreachable);
        self.session_failed(index, key, why, now, events);
        self.servers[usize::from(index)].counters.set_blame(before);
    }

    /// True if all that a child was ever asked is what older servers do not know, and some
    /// do not survive. It has a successor, which is not asked that.
    fn died_of_discover(&mut self, index: u16, key: UpKey) -> bool {
        let server = &mut self.servers[usize::from(index)];
        let auto = server.settings.protocol == Protocol::Auto;
        let Some(session) = server.sessions.session(key) else { return false };
        session.link = None;
        auto && session.is_asked(Pending::Discover) && !session.is_asked(Pending::Initialize)
    }

    /// The embedded server says something that belongs to the request `id`.
    pub(super) fn take_inside(
        &mut self,
        index: u16,
        session: UpKey,
        id: u64,
        text: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let exchange = Exchange::answered(session, Use::Request(id));
        self.take_message(index, session, Some(exchange), text, now, events);
    }

    /// One message of a server.
    fn take_message(
        &mut self,
        index: u16,
        key: UpKey,
        exchange: Option<Exchange>,
        text: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let limits = ScanLimits { depth_max: self.settings.json_depth_max, ..Default::default() };
        let server = &mut self.servers[usize::from(index)];
        let guessed = exchange.is_none() || server.is_shared_stream();
        let job = match exchange {
            Some(exchange) if !guessed => self.job_of(index, exchange),
            Some(_) | None => server.sessions.session(key).and_then(|it| it.only_job()),
        };
        let source = Source { server: index, session: key, job, guessed };
        match jsonrpc::scan(text, &limits) {
            Ok(Message::Single(envelope)) => self.take_envelope(source, &envelope, now, events),
            // 2025-03-26 servers may answer in batches.
            Ok(Message::Batch(batch)) => {
                for envelope in batch.messages().flatten() {
                    self.take_envelope(source, &envelope, now, events);
                }
            }
            Err(fault) => {
                self.take_nonsense(source, exchange, &fault.to_string(), text, now, events)
            }
        }
    }

    fn take_nonsense(
        &mut self,
        source: Source,
        exchange: Option<Exchange>,
        fault: &str,
        text: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let shown = String::from_utf8_lossy(&text[..text.len().min(EVIDENCE_BYTES_MAX)]);
        let why = format!("it sent something that is no JSON-RPC message ({fault}): {shown}");
        match exchange.filter(|exchange| exchange.purpose.has_answer()) {
            Some(exchange) => self.exchange_refused(source.server, exchange, &why, now, events),
            // Children print what they like, and some servers answer even notifications;
            // what is no message is only noted.
            None => {
                let name = self.servers[usize::from(source.server)].name();
                tracing::warn!(event = "upstream_noise", upstream = name, why);
            }
        }
    }

    fn take_envelope(
        &mut self,
        source: Source,
        envelope: &Envelope<'_>,
        now: Millis,
        events: &mut Events,
    ) {
        let source = self.named_by_token(source, envelope);
        if let Some(job) = source.job.and_then(|job| self.jobs.job(job)) {
            // A sign of life.
            let server = &self.servers[usize::from(source.server)];
            job.deadline = now + server.settings.request_timeout_ms;
        }
        match envelope.kind() {
            Kind::Result(id) => {
                let body = envelope.result().unwrap_or(b"{}");
                self.take_outcome(source, id.raw(), Outcome::Result, body, now, events);
            }
            Kind::Error { id: Some(id), code } => {
                let body = envelope.error().unwrap_or(b"{}");
                self.take_outcome(source, id.raw(), Outcome::Error(code), body, now, events);
            }
            Kind::Error { id: None, .. } => {
                let name = self.servers[usize::from(source.server)].name();
                let text = String::from_utf8_lossy(envelope.text());
                tracing::warn!(event = "upstream_noise", upstream = name, error = &*text);
            }
            Kind::Request(id) => self.take_request(source, envelope, id.raw(), now, events),
            Kind::Notification => self.take_notification(source, envelope, now, events),
        }
    }

    fn take_outcome(
        &mut self,
        source: Source,
        id: &[u8],
        outcome: Outcome,
        body: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let (index, key) = (source.server, source.session);
        let number = std::str::from_utf8(id).ok().and_then(|id| id.parse::<u64>().ok());
        let server = &mut self.servers[usize::from(index)];
        let Some(session) = server.sessions.session(key) else { return };
        // A second answer, one to a cancelled request, or one to nobody's: no effect.
        let Some(pending) = number.and_then(|number| session.pending.remove(&number)) else {
            let name = server.name();
            let id = String::from_utf8_lossy(id);
            tracing::debug!(
                event = "upstream_noise",
                upstream = name,
                id = &*id,
                "no such request"
            );
            return;
        };
        match (pending, outcome) {
            (Pending::Job(job), _) => {
                server.note_success();
                self.finish(job, outcome, body, now, events);
            }
            (Pending::Discover, Outcome::Result) => {
                self.discovered(index, key, Some(body), now, events);
            }
            (Pending::Discover, Outcome::Error(code)) => {
                self.discover_refused(index, key, (code, body), now, events);
            }
            (Pending::Initialize, Outcome::Result) => {
                self.initialized(index, key, body, now, events);
            }
            // Of a server that was asked both; the other answer decides.
            (Pending::Initialize, Outcome::Error(_)) if session.is_asked(Pending::Discover) => {}
            (Pending::Initialize, Outcome::Error(_)) => {
                let why = format!("it refused initialize: {}", String::from_utf8_lossy(body));
                self.session_failed(index, key, &why, now, events);
            }
            (Pending::List(kind), Outcome::Result) => {
                self.take_page(index, kind, body, now, events);
            }
            (Pending::List(kind), Outcome::Error(code)) => {
                self.list_refused(index, kind, code, body, now, events);
            }
            (Pending::Chore(what), Outcome::Error(_)) => {
                let error = String::from_utf8_lossy(body);
                tracing::warn!(event = "upstream_chore", upstream = server.name(), what, %error);
            }
            (Pending::Listen, _) => self.watch_ended(index, now),
            (Pending::Chore(_), Outcome::Result) => {}
        }
    }

    /// A request of the server: to be put to the client, or refused.
    fn take_request(
        &mut self,
        source: Source,
        envelope: &Envelope<'_>,
        id: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let method = envelope.method();
        match &*method {
            "ping" => {
                let (index, key) = (source.server, source.session);
                self.reply_to_server(index, key, id, Outcome::Result, b"{}", now, events);
            }
            "sampling/createMessage" | "elicitation/create" | "roots/list" => {
                let params = envelope.params().unwrap_or_default();
                self.ask_client(
                    (source.server, source.session, source.job),
                    (&method, params, id),
                    now,
                    events,
                );
            }
            _ => {
                let text = "the gateway knows no such request of a server";
                self.refuse_question((source.server, source.session), id, text, now, events);
            }
        }
    }

    /// Sends the answer to a server's request.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the answer or of the turn")]
    pub(super) fn reply_to_server(
        &mut self,
        index: u16,
        key: UpKey,
        id: &[u8],
        outcome: Outcome,
        body: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let mut message = Vec::with_capacity(body.len() + 64);
        match outcome {
            Outcome::Result => jsonrpc::write_result(&mut message, id, body),
            Outcome::Error(_) => jsonrpc::write_error_response(&mut message, Some(id), body),
        }
        let server = &mut self.servers[usize::from(index)];
        if let Err(full) = server.post(key, Use::Note, &Outgoing::plain(&message), now, events) {
            let name = server.name();
            tracing::warn!(event = "upstream_reply_lost", upstream = name, why = %full);
        }
    }

    fn take_notification(
        &mut self,
        source: Source,
        envelope: &Envelope<'_>,
        now: Millis,
        events: &mut Events,
    ) {
        match &*envelope.method() {
            "notifications/progress" => self.take_progress(source, envelope, events),
            "notifications/message" => self.take_log(source, envelope, events),
            "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed" => {
                if self.home(source.server) == self.settings.shard {
                    self.list_changed(source.server, now);
                } else {
                    super::siblings::write_changed(events, source.server);
                }
            }
            "notifications/resources/updated" => self.take_update(source, envelope, events),
            // The server does not want the answer to its question any more. Its answer, when
            // it comes, finds nobody; the client can't be told before.
            "notifications/cancelled" => {}
            "notifications/subscriptions/acknowledged" => {}
            _ => self.pass_on(source, envelope.text(), events),
        }
    }

    /// Progress names its job by a token, and that counts for more than a guess: servers
    /// may go on to report on a call that was given up, when another is the only one.
    fn named_by_token(&mut self, source: Source, envelope: &Envelope<'_>) -> Source {
        let certain = source.job.is_some() && !source.guessed;
        if certain || &*envelope.method() != "notifications/progress" {
            return source;
        }
        let token = envelope.reported_progress_token().ok().flatten();
        let job = token.and_then(|token| self.job_by_token(source, token.raw()));
        Source { job, ..source }
    }

    fn take_progress(&mut self, source: Source, envelope: &Envelope<'_>, events: &mut Events) {
        let token = envelope.reported_progress_token().ok().flatten();
        if token.is_none() {
            return;
        }
        let Some(entry) = source.job.and_then(|job| self.jobs.job(job)) else { return };
        let key = entry.key;
        match entry.progress_token.clone() {
            None => self.tell(key, envelope.text(), events),
            Some(client_token) => {
                let mut message = Vec::with_capacity(envelope.text().len() + 16);
                let params = with_token(envelope.params().unwrap_or(b"{}"), &client_token);
                let method = "notifications/progress";
                jsonrpc::write_notification(&mut message, method, Some(&params));
                self.tell(key, &message, events);
            }
        }
    }

    /// The job under way to which this token was given.
    fn job_by_token(&mut self, source: Source, token: &[u8]) -> Option<JobKey> {
        let session = self.servers[usize::from(source.server)].sessions.session(source.session)?;
        if !matches!(session.owner, Owner::Client(_)) {
            // Tokens of ours are request ids.
            let own = std::str::from_utf8(token).ok().and_then(|token| token.parse::<u64>().ok());
            return own.and_then(|id| session.pending.get(&id)?.job());
        }
        session.jobs().into_iter().find(|job| {
            let params = self.jobs.job(*job).and_then(|job| job.params.as_deref());
            meta_member(params, "progressToken") == Some(token)
        })
    }

    /// Log messages: a legacy client set a level for its session, a modern one per request.
    fn take_log(&mut self, source: Source, envelope: &Envelope<'_>, events: &mut Events) {
        let Some(job) = source.job.and_then(|job| self.jobs.job(job)) else {
            return self.pass_on(source, envelope.text(), events);
        };
        let (key, wanted) = (job.key, job.wanted_level());
        if job.version.era() == Era::Modern {
            let level = envelope
                .params()
                .and_then(|params| jsonrpc::member(params, "level"))
                .and_then(jsonrpc::string)
                .and_then(|level| super::levels::severity(&level));
            if wanted.is_none_or(|wanted| level.is_none_or(|level| level < wanted)) {
                return;
            }
        }
        self.tell(key, envelope.text(), events);
    }

    /// A resource has changed. In a client's own session only that client wants to know.
    fn take_update(&mut self, source: Source, envelope: &Envelope<'_>, events: &mut Events) {
        let server = &mut self.servers[usize::from(source.server)];
        let Some(session) = server.sessions.session(source.session) else { return };
        if let Owner::Client(_) = session.owner {
            return self.pass_on(source, envelope.text(), events);
        }
        if let Some(uri) = envelope.uri().ok().flatten() {
            self.announce_update(&uri, events);
        }
    }

    /// A message for whoever the job or the session belongs to.
    fn pass_on(&mut self, source: Source, text: &[u8], events: &mut Events) {
        if let Some(job) = source.job {
            return self.tell(job, text, events);
        }
        let server = &mut self.servers[usize::from(source.server)];
        let Some(session) = server.sessions.session(source.session) else { return };
        if let Owner::Client(client) = session.owner {
            events.notify(Target::Session(client), |out| out.extend_from_slice(text));
        }
    }

    /// A notification on a job's stream.
    pub(super) fn tell(&mut self, key: JobKey, text: &[u8], events: &mut Events) {
        let Some(job) = self.jobs.job(key) else { return };
        match job.waiter {
            Waiter::Call(call) => {
                events.notify(Target::Call(call), |out| out.extend_from_slice(text));
            }
            Waiter::Sibling { shard, call } => {
                super::siblings::write_notice(events, shard, call, text);
            }
            Waiter::Nobody { .. } => {
                if job.held.len() < HELD_MESSAGES_MAX {
                    job.held.push(text.into());
                }
            }
        }
    }
}

/// `params` of a progress notification with the client's own token.
fn with_token(params: &[u8], token: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(params.len() + token.len());
    let mut object = ObjectWriter::begin(&mut out);
    jsonrpc::each_member(params, |name, value| {
        object.raw(name, if name == "progressToken" { token } else { value });
    });
    object.end();
    out
}
