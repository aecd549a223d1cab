//! What comes from tool servers, and whose it is.
//!
//! On HTTP a message belongs to the call on whose stream it comes. On a child's streams
//! there is no such tie: progress belongs to the call that has its token, or to nobody, and
//! anything else to the call under way if there is exactly one, else to the session.

use shardgate_proto::clock::Millis;
use shardgate_proto::jsonrpc::{self, Envelope, Kind, Message, ScanLimits};
use shardgate_proto::mcp::version::Era;
use shardgate_proto::upstream::{Events, LinkEnd, LinkKey, Outcome, Target};

use super::Federation;
use super::job::{HELD_MESSAGES_MAX, JobKey, Waiter};
use super::params::{ObjectWriter, meta_member};
use super::server::{Exchange, Outgoing, Use, Wire, server_of};
use super::session::{Owner, Pending, UpKey};
use super::settings::Protocol;
use crate::embedded::client::LogLevel;
use crate::metrics::CallOutcome;

/// What is shown of an answer that makes no sense.
pub(super) const EVIDENCE_BYTES_MAX: usize = 200;

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
    pub(super) fn take_message(
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
            job.deadline = now + server.settings.patience_ms(job.caller);
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
                .and_then(|level| LogLevel::parse(&level));
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
