//! One tool server as a shard sees it: its sessions, its wire, its breaker.

use std::borrow::Cow;
use std::sync::Arc;

use hashbrown::HashMap;
use shardgate_proto::catalog::Listing;
use shardgate_proto::clock::Millis;
use shardgate_proto::http_client::{
    ExchangeKey, HttpClient, HttpClientSettings, PoolFull, Request, Verb,
};
use shardgate_proto::mcp::version::{Era, ProtocolVersion};
use shardgate_proto::upstream::{Events, LinkKey};

use super::breaker::Breaker;
use super::counters::Counters;
use super::inside::Inside;
use super::job::JobKey;
use super::listening::Watch;
use super::reading::Reading;
use super::replacing::Leaving;
use super::session::{Abilities, Pending, Sessions, UpKey};
use super::settings::{FederationSettings, HttpSettings, ServerSettings, Transport, WireSettings};
use super::stdio::Pipes;

/// What every POST of an MCP client accepts (MCP 2025-11-25, transports).
const ACCEPT_BOTH: &str = "application/json, text/event-stream";
const ACCEPT_EVENTS: &str = "text/event-stream";
/// What may wait for a connection besides calls, which `in_flight_max` bounds: notifications,
/// cancellations, requests of our own.
const OWN_WAITING_MAX: usize = 1_024;
/// Headers of one answer.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// What an HTTP exchange with a server is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// The request with this id in its session.
    Request(u64),
    /// A message that has no answer.
    Note,
    /// `notifications/initialized`.
    Confirmation,
    /// The standing stream.
    Standing,
    /// What is left of the stream that answers this request.
    Resumption(u64),
    /// The session's end; nobody waits for it.
    End,
}

impl Use {
    /// Whether messages come back: MCP 2025-11-25, transports, wants 202 "with no body" for
    /// what is no request.
    pub(super) fn has_answer(self) -> bool {
        match self {
            Use::Request(_) | Use::Standing | Use::Resumption(_) => true,
            Use::Note | Use::Confirmation | Use::End => false,
        }
    }
}

/// An HTTP exchange under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange {
    pub(super) session: UpKey,
    pub(super) purpose: Use,
    /// 200 until the head says otherwise.
    pub(super) status: u16,
    /// When to come back, if the answer says so.
    pub(super) retry_after_s: Option<u32>,
    /// The server's wish for the pause before a resumption.
    pub(super) retry_ms: Option<u64>,
}

impl Exchange {
    /// One that is going well, as far as is known.
    pub(super) fn answered(session: UpKey, purpose: Use) -> Exchange {
        Exchange { session, purpose, status: 200, retry_after_s: None, retry_ms: None }
    }
}

/// How messages reach the server.
#[derive(Debug)]
pub(super) enum Wire {
    Http(Box<HttpWire>),
    Stdio(Pipes),
    /// The embedded server.
    Inside(Inside),
}

/// The connections to an HTTP server: standing streams hold theirs for as long as their
/// sessions live, so calls have a pool of their own.
#[derive(Debug)]
pub(super) struct HttpWire {
    pub(super) calls: HttpClient,
    pub(super) streams: HttpClient,
    /// HTTP+SSE of 2024-11-05 is spoken.
    pub(super) sse: bool,
}

/// Numbers that servers may have, one after the other, in the process's life.
pub(crate) const SERVER_NUMBERS_MAX: u16 = 1 << 15;

/// In a link's owner and in an exchange's key: of the pool of streams.
const STREAMS_OWNER: u16 = SERVER_NUMBERS_MAX;
const STREAMS_KEY: u64 = 1 << 63;

/// The server a link belongs to.
pub(super) fn server_of(link: LinkKey) -> u16 {
    link.owner() & !STREAMS_OWNER
}

impl HttpWire {
    fn new(
        index: u16,
        server: &ServerSettings,
        http: &HttpSettings,
        all: &FederationSettings,
    ) -> HttpWire {
        let calls = client_settings(index, server, http, all);
        let streams = HttpClientSettings {
            owner: index | STREAMS_OWNER,
            // Each session may have one; the node's connections bound them all.
            connections_max: usize::MAX,
            ..calls.clone()
        };
        let sse = http.transport == Transport::Sse;
        HttpWire { calls: HttpClient::new(calls), streams: HttpClient::new(streams), sse }
    }

    /// The pool of a link, and what its exchanges' keys are marked with.
    pub(super) fn pool(&mut self, link: LinkKey) -> (&mut HttpClient, u64) {
        if link.owner() & STREAMS_OWNER == 0 {
            (&mut self.calls, 0)
        } else {
            (&mut self.streams, STREAMS_KEY)
        }
    }

    /// Both pools, with their marks.
    pub(super) fn pools(&mut self) -> [(&mut HttpClient, u64); 2] {
        [(&mut self.calls, 0), (&mut self.streams, STREAMS_KEY)]
    }

    /// The server is configured anew, and reached as before.
    pub(super) fn take_over(&mut self, server: &ServerSettings) {
        for (pool, _) in self.pools() {
            pool.set_waiting_max(waiting_max(server));
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Millis> {
        [self.calls.poll_timeout(), self.streams.poll_timeout()].into_iter().flatten().min()
    }

    fn send_on_streams(
        &mut self,
        request: &Request<'_>,
        now: Millis,
        events: &mut Events,
    ) -> Result<ExchangeKey, PoolFull> {
        let exchange = self.streams.send(request, now, events)?;
        Ok(ExchangeKey(exchange.0 | STREAMS_KEY))
    }

    fn abort(&mut self, exchange: ExchangeKey, events: &mut Events) {
        if exchange.0 & STREAMS_KEY == 0 {
            self.calls.abort(exchange, events);
        } else {
            self.streams.abort(ExchangeKey(exchange.0 & !STREAMS_KEY), events);
        }
    }
}

/// One tool server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) index: u16,
    pub(super) settings: Arc<ServerSettings>,
    pub(super) wire: Wire,
    /// The revision it speaks; `None` until it has answered once.
    pub(super) version: Option<ProtocolVersion>,
    /// What it said it can do, to the gateway itself.
    pub(super) abilities: Abilities,
    pub(super) sessions: Sessions,
    pub(super) exchanges: HashMap<ExchangeKey, Exchange>,
    pub(super) breaker: Breaker,
    /// Jobs of clients.
    pub(super) in_flight: usize,
    /// The session all modern clients share, or all clients of a modern server.
    pub(super) everybody: Option<UpKey>,
    /// It has once let a session's request for a stream wait for too long.
    pub(super) answers_streams_late: bool,
    /// The session by which its lists are read.
    pub(super) catalog: Option<UpKey>,
    /// Jobs that wait until it is known what it speaks.
    pub(super) parked: Vec<JobKey>,
    pub(super) reading: Reading,
    pub(super) watch: Watch,
    /// What it offers, as read last.
    pub(super) listing: Option<Listing>,
    /// Set once it is not configured any more.
    pub(super) leaving: Option<Leaving>,
    /// Why it could not be reached last, for the status.
    pub(super) trouble: Option<String>,
    pub(super) counters: Counters,
}

impl Server {
    pub(super) fn new(
        index: u16,
        settings: Arc<ServerSettings>,
        all: &FederationSettings,
    ) -> Server {
        let wire = match &settings.wire {
            WireSettings::Http(http) => {
                Wire::Http(Box::new(HttpWire::new(index, &settings, http, all)))
            }
            WireSettings::Stdio { .. } => Wire::Stdio(Pipes::new(index, all.message_bytes_max)),
            WireSettings::Inside => Wire::Inside(Inside::new(all)),
        };
        Server {
            index,
            wire,
            version: None,
            abilities: Abilities::default(),
            sessions: Sessions::default(),
            exchanges: HashMap::new(),
            breaker: Breaker::new(settings.breaker),
            in_flight: 0,
            everybody: None,
            answers_streams_late: false,
            catalog: None,
            parked: Vec::new(),
            reading: Reading::default(),
            watch: Watch::default(),
            listing: None,
            leaving: None,
            trouble: None,
            counters: Counters::new(&settings),
            settings,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    pub(super) fn era(&self) -> Option<Era> {
        self.version.map(ProtocolVersion::era)
    }

    /// Sends one message of a session. `fields` are the header fields of this message alone.
    /// The exchange is `None` where there is none: on a child's streams, and within the process.
    pub(super) fn post(
        &mut self,
        session: UpKey,
        purpose: Use,
        message: &Outgoing<'_>,
        now: Millis,
        events: &mut Events,
    ) -> Result<Option<ExchangeKey>, PoolFull> {
        let Some(entry) = self.sessions.session(session) else { return Ok(None) };
        entry.last_used = now;
        match &mut self.wire {
            Wire::Stdio(_) => {
                if let Some(link) = entry.link {
                    events.send(link, |out| write_line(out, message.body));
                }
                Ok(None)
            }
            Wire::Inside(inside) => {
                inside.post(session, message.body, now);
                Ok(None)
            }
            Wire::Http(http) => {
                if http.sse && entry.post_path.is_none() {
                    entry.unposted.push((purpose, message.body.into()));
                    return Ok(None);
                }
                let mut fields: Vec<(&str, &str)> = Vec::with_capacity(4 + message.fields.len());
                // The revision is agreed on by initialize, which therefore doesn't name it.
                if purpose != Use::Request(INITIALIZE_ID) || entry.version.era() == Era::Modern {
                    fields.push(("MCP-Protocol-Version", entry.version.as_str()));
                }
                if let Some(id) = &entry.id {
                    fields.push(("Mcp-Session-Id", id));
                }
                fields.extend(message.fields.iter().map(|(name, value)| (&**name, &**value)));
                let request = Request {
                    verb: Verb::Post,
                    path: entry.post_path.as_deref(),
                    fields: &fields,
                    body: &[message.body],
                    accept: ACCEPT_BOTH,
                    timeout_ms: message.patience_ms.or(Some(self.settings.request_timeout_ms)),
                    repeatable: message.repeatable,
                };
                // A subscription's answer lasts: it must not take a connection from calls.
                let listens = matches!(purpose, Use::Request(id)
                    if entry.pending.get(&id) == Some(&Pending::Listen));
                let exchange = match listens {
                    true => http.send_on_streams(&request, now, events)?,
                    false => http.calls.send(&request, now, events)?,
                };
                self.insert_exchange(exchange, session, purpose);
                Ok(Some(exchange))
            }
        }
    }

    /// Opens the standing stream of a legacy session, or goes on with one, by GET.
    pub(super) fn listen(
        &mut self,
        session: UpKey,
        purpose: Use,
        last_event_id: &[u8],
        now: Millis,
        events: &mut Events,
    ) -> Result<Option<ExchangeKey>, PoolFull> {
        let Some(entry) = self.sessions.session(session) else { return Ok(None) };
        let Wire::Http(http) = &mut self.wire else { return Ok(None) };
        let last_event_id = std::str::from_utf8(last_event_id).unwrap_or_default();
        let mut fields = vec![("MCP-Protocol-Version", entry.version.as_str())];
        if let Some(id) = &entry.id {
            fields.push(("Mcp-Session-Id", id));
        }
        if !last_event_id.is_empty() {
            fields.push(("Last-Event-ID", last_event_id));
        }
        let request = Request {
            verb: Verb::Get,
            path: None,
            fields: &fields,
            body: &[],
            accept: ACCEPT_EVENTS,
            timeout_ms: Some(self.settings.request_timeout_ms),
            repeatable: true,
        };
        let exchange = http.send_on_streams(&request, now, events)?;
        self.insert_exchange(exchange, session, purpose);
        Ok(Some(exchange))
    }

    /// Tells a legacy server that a session of ours is over. Nobody waits for the answer.
    pub(super) fn delete(&mut self, session: UpKey, now: Millis, events: &mut Events) {
        let Some(entry) = self.sessions.session(session) else { return };
        let (Wire::Http(http), Some(id)) = (&mut self.wire, &entry.id) else { return };
        let fields = [("MCP-Protocol-Version", entry.version.as_str()), ("Mcp-Session-Id", id)];
        let request = Request {
            verb: Verb::Delete,
            path: None,
            fields: &fields,
            body: &[],
            accept: ACCEPT_BOTH,
            timeout_ms: Some(self.settings.request_timeout_ms),
            repeatable: true,
        };
        // A full pool has no place for courtesy: the server expires the session by itself.
        if let Ok(exchange) = http.calls.send(&request, now, events) {
            self.exchanges.insert(exchange, Exchange::answered(session, Use::End));
        }
    }

    /// Ends an exchange whose answer nobody wants any more.
    pub(super) fn abort(&mut self, exchange: ExchangeKey, events: &mut Events) {
        if self.take_exchange(exchange).is_some()
            && let Wire::Http(http) = &mut self.wire
        {
            http.abort(exchange, events);
        }
    }

    fn insert_exchange(&mut self, exchange: ExchangeKey, session: UpKey, purpose: Use) {
        if let Some(entry) = self.sessions.session(session) {
            entry.exchanges.insert(exchange);
        }
        self.exchanges.insert(exchange, Exchange::answered(session, purpose));
    }

    /// An exchange is over.
    pub(super) fn take_exchange(&mut self, exchange: ExchangeKey) -> Option<Exchange> {
        let entry = self.exchanges.remove(&exchange)?;
        if let Some(session) = self.sessions.session(entry.session) {
            session.exchanges.remove(&exchange);
        }
        Some(entry)
    }

    /// The server has answered: it lives.
    pub(super) fn note_success(&mut self) {
        if self.breaker.succeeded() {
            tracing::info!(event = "breaker_closed", upstream = self.name(), "it answers again");
        }
        self.trouble = None;
    }

    /// True if one child serves all clients of the node.
    pub(super) fn is_one_child(&self) -> bool {
        matches!(self.settings.wire, WireSettings::Stdio { shared: true })
    }

    /// True if messages come on a stream or a child's lines that all calls share.
    pub(super) fn is_shared_stream(&self) -> bool {
        match &self.wire {
            Wire::Stdio(_) => true,
            Wire::Http(http) => http.sse,
            // It tells each message's request.
            Wire::Inside(_) => false,
        }
    }

    /// The session whose child this link leads to.
    pub(super) fn session_of(&self, link: LinkKey) -> Option<UpKey> {
        match &self.wire {
            Wire::Stdio(pipes) => pipes.session_of(link),
            Wire::Http(_) | Wire::Inside(_) => None,
        }
    }
}

/// The id of a session's first request, which is `initialize` in the legacy era.
pub(super) const INITIALIZE_ID: u64 = 1;

/// A message to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing<'a> {
    /// The whole JSON-RPC message.
    pub(super) body: &'a [u8],
    /// Header fields of this message alone.
    pub(super) fields: &'a [(Cow<'static, str>, String)],
    /// Whether it may be sent twice.
    pub(super) repeatable: bool,
    /// How long its answer may take to begin, if not as long as for others.
    pub(super) patience_ms: Option<u64>,
}

impl<'a> Outgoing<'a> {
    pub(super) fn plain(body: &'a [u8]) -> Outgoing<'a> {
        Outgoing { body, fields: &[], repeatable: false, patience_ms: None }
    }
}

/// MCP 2025-11-25, transports, stdio: messages "are delimited by newlines, and MUST NOT
/// contain embedded newlines". In valid JSON a raw line break is white space.
fn write_line(out: &mut Vec<u8>, message: &[u8]) {
    let start = out.len();
    out.extend_from_slice(message);
    for byte in &mut out[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    out.push(b'\n');
}

/// A call that was let in waits for a connection, however few there may be.
fn waiting_max(server: &ServerSettings) -> usize {
    server.in_flight_max + OWN_WAITING_MAX
}

fn client_settings(
    index: u16,
    server: &ServerSettings,
    http: &HttpSettings,
    all: &FederationSettings,
) -> HttpClientSettings {
    HttpClientSettings {
        owner: index,
        endpoint: server.endpoint,
        authority: http.authority.clone(),
        path: http.path.clone(),
        fields: http.fields.clone(),
        connections_max: http.connections_max,
        waiting_max: waiting_max(server),
        head_bytes_max: HEAD_BYTES_MAX,
        message_bytes_max: all.message_bytes_max,
        idle_link_ms: http.idle_connection_ms,
        connect_timeout_ms: http.connect_timeout_ms,
        head_timeout_ms: server.request_timeout_ms,
    }
}
