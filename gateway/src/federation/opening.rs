//! How sessions with tool servers begin.
//!
//! A server is first asked what it is: `server/discover` of the modern era, and if it
//! doesn't understand that, `initialize`. Sessions of clients are opened when the first
//! call needs them, and opened anew when the server has forgotten them.

use std::borrow::Cow;

use shardgate_proto::clock::Millis;
use shardgate_proto::jsonrpc;
use shardgate_proto::mcp::modern;
use shardgate_proto::mcp::version::{Era, ProtocolVersion};
use shardgate_proto::upstream::{Events, SessionKey};

use super::forwarding::asked_version;
use super::job::JobKey;
use super::params::{self, ModernContext};
use super::server::{Outgoing, Use, Wire};
use super::session::{Abilities, Owner, Pending, Phase, UpKey};
use super::settings::{HttpSettings, Protocol, Transport, WireSettings};
use super::standing::STREAM_ANSWER_MS;
use super::{Federation, GATEWAY_INFO};
use crate::metrics::{CallOutcome, SessionFate};

/// What the gateway, as the client of all modern clients, says it can do: whatever a
/// server asks is put to the client behind the call, who may lack it.
const BRIDGE_CAPABILITIES: &[u8] = br#"{"sampling":{},"elicitation":{},"roots":{}}"#;

/// A child that does not answer `server/discover` for so long is sent `initialize` too:
/// older servers may ignore what comes before it.
pub(super) const DISCOVER_PATIENCE_MS: u64 = 5_000;

impl Federation {
    /// Finds out what a server speaks, unless that is under way.
    pub(super) fn probe(&mut self, index: u16, now: Millis, events: &mut Events) {
        let server = &mut self.servers[usize::from(index)];
        if server.version.is_some() || server.catalog.is_some() {
            return;
        }
        match server.first_try() {
            Era::Modern => self.discover(index, now, events),
            Era::Legacy => self.open_catalog_session(index, now, events),
        }
    }

    fn discover(&mut self, index: u16, now: Millis, events: &mut Events) {
        let version = ProtocolVersion::V2026_07_28;
        let server = &mut self.servers[usize::from(index)];
        let key = server.sessions.insert(Owner::Catalog, version, Phase::Initializing, now);
        server.catalog = Some(key);
        self.start_streams(index, key, now, events);
        self.ask_what_it_is(index, key, now, events);
    }

    fn ask_what_it_is(&mut self, index: u16, key: UpKey, now: Millis, events: &mut Events) {
        let params = self.modern_params(&[]);
        let method = "server/discover";
        let fields = [(Cow::Borrowed("Mcp-Method"), method.to_owned())];
        self.request(index, key, Pending::Discover, method, &params, &fields, now, events);
    }

    pub(super) fn open_catalog_session(&mut self, index: u16, now: Millis, events: &mut Events) {
        let version = ProtocolVersion::LATEST_LEGACY;
        let shared = self.servers[usize::from(index)].is_one_child();
        let capabilities = catalog_capabilities(shared);
        let key = self.open(index, Owner::Catalog, version, capabilities, now, events);
        self.servers[usize::from(index)].catalog = Some(key);
    }

    /// The server does not know the newer era, or takes its time to say so.
    pub(super) fn try_initialize(
        &mut self,
        index: u16,
        key: UpKey,
        now: Millis,
        events: &mut Events,
    ) {
        let server = &mut self.servers[usize::from(index)];
        let shared = server.is_one_child();
        let Some(session) = server.sessions.session(key) else { return };
        if session.link.is_none() {
            if let Some(session) = self.drop_session(index, key, events) {
                self.servers[usize::from(index)].parked.extend(session.waiting);
            }
            return self.open_catalog_session(index, now, events);
        }
        // The child goes on; it need not be started again.
        if session.is_asked(Pending::Initialize) {
            return;
        }
        let version = ProtocolVersion::LATEST_LEGACY;
        session.version = version;
        server.parked.append(&mut session.waiting);
        self.initialize(index, key, version, catalog_capabilities(shared), now, events);
    }

    /// `params` of a request of our own to a modern server, with `members` before `_meta`.
    pub(super) fn modern_params(&self, members: &[(&str, &[u8])]) -> Vec<u8> {
        let context = ModernContext { capabilities: b"{}", log_level: None };
        let mut plain = Vec::new();
        let mut object = params::ObjectWriter::begin(&mut plain);
        for (name, value) in members {
            object.raw(name, value);
        }
        object.end();
        let mut out = Vec::new();
        let meta = params::Meta::ToModern(&context);
        params::write(&mut out, Some(&plain), &params::Edit { meta, ..Default::default() });
        out
    }

    /// Begins a legacy session.
    fn open(
        &mut self,
        index: u16,
        owner: Owner,
        version: ProtocolVersion,
        capabilities: &[u8],
        now: Millis,
        events: &mut Events,
    ) -> UpKey {
        let server = &mut self.servers[usize::from(index)];
        let key = server.sessions.insert(owner, version, Phase::Initializing, now);
        self.start_streams(index, key, now, events);
        self.initialize(index, key, version, capabilities, now, events);
        key
    }

    fn initialize(
        &mut self,
        index: u16,
        key: UpKey,
        version: ProtocolVersion,
        capabilities: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let mut params = b"{\"protocolVersion\":\"".to_vec();
        params.extend_from_slice(version.as_str().as_bytes());
        params.extend_from_slice(b"\",\"capabilities\":");
        params.extend_from_slice(capabilities);
        params.extend_from_slice(b",\"clientInfo\":");
        params.extend_from_slice(GATEWAY_INFO.as_bytes());
        params.push(b'}');
        self.request(index, key, Pending::Initialize, "initialize", &params, &[], now, events);
    }

    /// A stdio server's session has a child of its own, an HTTP+SSE server's a stream.
    fn start_streams(&mut self, index: u16, key: UpKey, now: Millis, events: &mut Events) {
        let server = &mut self.servers[usize::from(index)];
        let endpoint = server.settings.endpoint;
        match &mut server.wire {
            Wire::Stdio(pipes) => {
                let link = pipes.open(key, endpoint, events);
                if let Some(session) = server.sessions.session(key) {
                    session.link = Some(link);
                }
            }
            Wire::Http(http) if http.sse => {
                // Without room the request that follows waits until its deadline.
                let opened = server.listen(key, Use::Standing, b"", now, events);
                if let (Ok(exchange), Some(session)) = (opened, server.sessions.session(key)) {
                    session.standing = exchange;
                }
            }
            Wire::Http(_) | Wire::Inside(_) => {}
        }
    }

    /// An HTTP+SSE server says where messages are to be posted.
    pub(super) fn take_endpoint(
        &mut self,
        index: u16,
        key: UpKey,
        text: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let server = &mut self.servers[usize::from(index)];
        let WireSettings::Http(http) = &server.settings.wire else { return };
        let Some(path) = path_of_endpoint(text, http) else {
            let shown = String::from_utf8_lossy(text);
            let why = format!("it names an endpoint that is not its own: {shown}");
            return self.session_failed(index, key, &why, now, events);
        };
        let Some(session) = server.sessions.session(key) else { return };
        session.post_path = Some(path);
        for (purpose, body) in std::mem::take(&mut session.unposted) {
            let server = &mut self.servers[usize::from(index)];
            let sent = server.post(key, purpose, &Outgoing::plain(&body), now, events);
            if let Err(full) = sent {
                let why = full.to_string();
                return self.session_failed(index, key, &why, now, events);
            }
        }
    }

    /// Whether a refused `initialize` means that the server has the older transport
    /// (MCP 2025-11-25, transports, backwards compatibility: 400, 404 or 405).
    pub(super) fn falls_back_to_sse(
        &mut self,
        index: u16,
        key: UpKey,
        status: u16,
        now: Millis,
        events: &mut Events,
    ) -> bool {
        let server = &mut self.servers[usize::from(index)];
        let auto = matches!(
            &server.settings.wire,
            WireSettings::Http(http) if http.transport == Transport::Auto
        );
        let first = server.catalog == Some(key) && server.version.is_none();
        let Wire::Http(http) = &mut server.wire else { return false };
        if !auto || http.sse || !first || !matches!(status, 400 | 404 | 405) {
            return false;
        }
        http.sse = true;
        self.drop_session(index, key, events);
        self.open_catalog_session(index, now, events);
        true
    }

    /// Sends a request of our own.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the request or of the turn")]
    pub(super) fn request(
        &mut self,
        index: u16,
        key: UpKey,
        pending: Pending,
        method: &str,
        params: &[u8],
        fields: &[(Cow<'static, str>, String)],
        now: Millis,
        events: &mut Events,
    ) {
        let server = &mut self.servers[usize::from(index)];
        let Some(session) = server.sessions.session(key) else { return };
        let id = session.next_id();
        session.pending.insert(id, pending);
        let mut body = Vec::with_capacity(params.len() + 64);
        jsonrpc::write_request(&mut body, id.to_string().as_bytes(), method, Some(params));
        let message = Outgoing { body: &body, fields, repeatable: true, patience_ms: None };
        if let Err(full) = server.post(key, Use::Request(id), &message, now, events) {
            let why = full.to_string();
            let before = server.counters.set_blame(CallOutcome::Full);
            self.own_request_failed(index, key, id, &why, now, events);
            self.servers[usize::from(index)].counters.set_blame(before);
        }
    }

    /// The session a legacy client has with a legacy server; opened if there is none.
    pub(super) fn client_session(
        &mut self,
        index: u16,
        client: SessionKey,
        now: Millis,
        events: &mut Events,
    ) -> Option<UpKey> {
        let entry = self.clients.get(&client)?;
        if let Some((_, key)) = entry.sessions.iter().find(|(server, _)| *server == index) {
            return Some(*key);
        }
        let version = asked_version(entry.version);
        let capabilities = entry.capabilities.clone();
        let owner = Owner::Client(client);
        let key = self.open(index, owner, version, &capabilities, now, events);
        self.clients.get_mut(&client)?.sessions.push((index, key));
        Some(key)
    }

    /// A session for one call of a modern client.
    pub(super) fn call_session(
        &mut self,
        index: u16,
        job: JobKey,
        now: Millis,
        events: &mut Events,
    ) -> UpKey {
        let version = ProtocolVersion::LATEST_LEGACY;
        self.open(index, Owner::Call(job), version, BRIDGE_CAPABILITIES, now, events)
    }

    /// The session that all modern clients share, or all clients of a modern server.
    pub(super) fn everybodys_session(
        &mut self,
        index: u16,
        now: Millis,
        events: &mut Events,
    ) -> UpKey {
        let server = &mut self.servers[usize::from(index)];
        if let Some(key) = server.everybody {
            return key;
        }
        if server.is_one_child()
            && let Some(key) = self.only_session(index, now, events)
        {
            return key;
        }
        let server = &mut self.servers[usize::from(index)];
        let version = server.version.unwrap_or(ProtocolVersion::LATEST_LEGACY);
        let key = match version.era() {
            Era::Legacy => {
                let version = ProtocolVersion::LATEST_LEGACY;
                self.open(index, Owner::Everybody, version, BRIDGE_CAPABILITIES, now, events)
            }
            Era::Modern => {
                let key = server.sessions.insert(Owner::Everybody, version, Phase::Ready, now);
                self.start_streams(index, key, now, events);
                key
            }
        };
        self.servers[usize::from(index)].everybody = Some(key);
        key
    }

    /// The session of a child that all clients share: there is no other child by which its
    /// lists could be read.
    fn only_session(&mut self, index: u16, now: Millis, events: &mut Events) -> Option<UpKey> {
        let server = &mut self.servers[usize::from(index)];
        if server.catalog.is_none() {
            match server.era() {
                Some(Era::Modern) => self.discover(index, now, events),
                Some(Era::Legacy) | None => self.open_catalog_session(index, now, events),
            }
        }
        let server = &mut self.servers[usize::from(index)];
        let key = server.catalog?;
        server.sessions.session(key)?.owner = Owner::Everybody;
        server.everybody = Some(key);
        Some(key)
    }

    /// The server has refused `server/discover`, with this error object.
    pub(super) fn discover_refused(
        &mut self,
        index: u16,
        key: UpKey,
        (code, body): (i32, &[u8]),
        now: Millis,
        events: &mut Events,
    ) {
        // MCP 2026-07-28, UnsupportedProtocolVersionError: "The client should choose a mutually
        // supported version from this list and retry." Only one is, so only once.
        let refused = code == modern::UNSUPPORTED_VERSION;
        let supported = jsonrpc::member(body, "data")
            .and_then(|data| jsonrpc::member(data, "supported"))
            .unwrap_or_default();
        let names_ours = names(supported, ProtocolVersion::V2026_07_28.as_str());
        if refused
            && names_ours
            && let Some(session) = self.servers[usize::from(index)].sessions.session(key)
            && !std::mem::replace(&mut session.has_asked_again, true)
        {
            return self.ask_what_it_is(index, key, now, events);
        }
        self.discovered(index, key, None, now, events);
    }

    /// The answer to `server/discover`.
    pub(super) fn discovered(
        &mut self,
        index: u16,
        key: UpKey,
        result: Option<&[u8]>,
        now: Millis,
        events: &mut Events,
    ) {
        let version = ProtocolVersion::V2026_07_28;
        let spoken = result.and_then(|result| {
            let versions = jsonrpc::member(result, "supportedVersions")?;
            names(versions, version.as_str()).then(|| jsonrpc::member(result, "capabilities"))
        });
        let Some(capabilities) = spoken else {
            if self.servers[usize::from(index)].settings.protocol == Protocol::Modern {
                let why = "it does not speak protocol version 2026-07-28, which \
                           upstream.protocol = \"modern\" asks for";
                return self.server_failed(index, why, now, events);
            }
            return self.try_initialize(index, key, now, events);
        };
        let server = &mut self.servers[usize::from(index)];
        let mut waiting = Vec::new();
        if let Some(session) = server.sessions.session(key) {
            session.abilities = Abilities::read(capabilities.unwrap_or(b"{}"));
            session.phase = Phase::Ready;
            session.version = version;
            // It was slow to answer, and has been asked both.
            session.forget(Pending::Initialize);
            waiting = std::mem::take(&mut session.waiting);
            // There is nothing in a modern session that its users could not share; and a
            // child that changes its lists must be the one whose lists are read.
            if server.everybody.is_none() {
                session.owner = Owner::Everybody;
                server.everybody = Some(key);
            }
        }
        self.answered(index, version, now, events);
        for job in waiting {
            self.send_job(job, key, now, events);
        }
        self.read_lists(index, now, events);
    }

    /// The answer to `initialize`.
    pub(super) fn initialized(
        &mut self,
        index: u16,
        key: UpKey,
        result: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let version = jsonrpc::member(result, "protocolVersion")
            .and_then(jsonrpc::string)
            .and_then(|name| ProtocolVersion::parse(name.as_bytes()))
            .filter(|version| version.era() == Era::Legacy);
        let Some(version) = version else {
            // MCP 2025-11-25, lifecycle: a client that does not know the server's version
            // "SHOULD disconnect".
            let why = "it answered initialize with a protocol version the gateway does not know";
            return self.session_failed(index, key, why, now, events);
        };
        let server = &mut self.servers[usize::from(index)];
        let Some(session) = server.sessions.session(key) else { return };
        session.version = version;
        session.forget(Pending::Discover);
        let capabilities = jsonrpc::member(result, "capabilities").unwrap_or(b"{}");
        session.abilities = Abilities::read(capabilities);
        session.phase = Phase::Confirming;
        if session.owner == Owner::Nobody {
            return self.end_session(index, key, now, events);
        }
        let mut body = Vec::new();
        jsonrpc::write_notification(&mut body, "notifications/initialized", None);
        let sent = server.post(key, Use::Confirmation, &Outgoing::plain(&body), now, events);
        match sent {
            Ok(Some(_)) => {}
            // On a child's streams messages keep their order: nothing is waited for.
            Ok(None) => self.ready(index, key, now, events),
            Err(full) => {
                let why = full.to_string();
                self.session_failed(index, key, &why, now, events);
            }
        }
    }

    /// A session is open. Its calls go out once its standing stream is there.
    pub(super) fn ready(&mut self, index: u16, key: UpKey, now: Millis, events: &mut Events) {
        let server = &mut self.servers[usize::from(index)];
        let Some(session) = server.sessions.session(key) else { return };
        session.phase = Phase::Listening(now + STREAM_ANSWER_MS);
        let version = session.version;
        server.counters.session(SessionFate::Opened);
        self.answered(index, version, now, events);
        self.open_standing(index, key, now, events);
        if self.awaits_stream(index, key) {
            self.look_by(now + STREAM_ANSWER_MS);
        } else {
            self.send_waiting(index, key, now, events);
        }
    }

    /// A session may be used: what waited for it is sent.
    pub(super) fn send_waiting(
        &mut self,
        index: u16,
        key: UpKey,
        now: Millis,
        events: &mut Events,
    ) {
        let server = &mut self.servers[usize::from(index)];
        let Some(session) = server.sessions.session(key) else { return };
        session.phase = Phase::Ready;
        let owner = session.owner;
        let waiting = std::mem::take(&mut session.waiting);
        let notes = std::mem::take(&mut session.notes);
        self.restore(index, key, owner, now, events);
        for note in notes {
            let server = &mut self.servers[usize::from(index)];
            let _ = server.post(key, Use::Note, &Outgoing::plain(&note), now, events);
        }
        for job in waiting {
            self.send_job(job, key, now, events);
        }
        if owner == Owner::Everybody {
            self.watch(index, now, events);
        }
        if self.servers[usize::from(index)].catalog == Some(key) {
            self.read_lists(index, now, events);
        }
    }

    /// What a client had asked of the server, told to a session that is new or opened anew.
    fn restore(&mut self, index: u16, key: UpKey, owner: Owner, now: Millis, events: &mut Events) {
        let Owner::Client(client) = owner else { return };
        let Some(client) = self.clients.get(&client) else { return };
        let level = client.log_level.clone();
        let uris: Vec<Box<str>> = client
            .watched
            .iter()
            .filter(|(server, _)| *server == index)
            .map(|(_, uri)| uri.clone())
            .collect();
        let server = &mut self.servers[usize::from(index)];
        let Some(session) = server.sessions.session(key) else { return };
        if let Some(level) = level.filter(|_| session.abilities.logging) {
            let params = one_text("level", &level);
            let pending = Pending::Chore("logging/setLevel");
            self.request(index, key, pending, "logging/setLevel", &params, &[], now, events);
        }
        for uri in uris {
            let params = one_text("uri", &uri);
            let pending = Pending::Chore("resources/subscribe");
            self.request(index, key, pending, "resources/subscribe", &params, &[], now, events);
        }
    }

    /// A server has answered: it lives, and it is known what it speaks.
    pub(super) fn answered(
        &mut self,
        index: u16,
        version: ProtocolVersion,
        now: Millis,
        events: &mut Events,
    ) {
        let server = &mut self.servers[usize::from(index)];
        if server.version.map(ProtocolVersion::era) != Some(version.era()) {
            tracing::info!(
                event = "upstream_found",
                upstream = server.name(),
                version = version.as_str(),
                "a tool server answered"
            );
            server.version = Some(version);
        }
        server.note_success();
        server.reading.failures = 0;
        for job in std::mem::take(&mut server.parked) {
            self.dispatch(job, now, events);
        }
    }
}

/// The path of an endpoint that an HTTP+SSE server names, which must be its own.
fn path_of_endpoint(text: &[u8], http: &HttpSettings) -> Option<Box<str>> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let own = format!("{}://{}", http.scheme, http.authority);
    let path = match text.strip_prefix(own.as_str()) {
        Some(path) => path,
        None if text.contains("://") || text.starts_with("//") => return None,
        None => text,
    };
    if path.starts_with('/') {
        return Some(path.into());
    }
    // RFC 3986, 5.2.3: a relative path replaces what stands behind the last slash.
    let base = http.path.split(['?', '#']).next()?;
    let directory = &base[..=base.rfind('/')?];
    Some(format!("{directory}{path}").into())
}

/// What the gateway says it can do in the session by which it reads lists. The one child
/// of a shared server serves clients in that session too.
fn catalog_capabilities(shared: bool) -> &'static [u8] {
    if shared { BRIDGE_CAPABILITIES } else { b"{}" }
}

/// An object with one text member.
pub(super) fn one_text(name: &str, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut object = params::ObjectWriter::begin(&mut out);
    object.string(name, text);
    object.end();
    out
}

/// True if a raw JSON array of strings holds `wanted`.
fn names(array: &[u8], wanted: &str) -> bool {
    let quoted = format!("\"{wanted}\"");
    array.windows(quoted.len()).any(|window| window == quoted.as_bytes())
}
