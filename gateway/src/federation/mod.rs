//! Many tool servers behind one endpoint: the upstream that forwards.
//!
//! ```text
//! call → catalog: name → server → job → session with that server → HTTP exchange or child
//! answer ← era bridge ← job ← message on the exchange's stream or the child's line
//! ```
//!
//! Invariants:
//! - Bodies are passed on as they are; only ids, names, progress tokens and, between eras,
//!   the members that one of them does not know are written anew.
//! - A message of a server reaches the one call or session it belongs to, while the call
//!   runs. A cancellation reaches only the server that has the call.
//! - Lists are answered from what was read before; no client waits for a slow server,
//!   but at the start, for [`FIRST_LISTS_MS`].
//! - A server that fails costs its own calls, never those of another.

mod asking;
mod breaker;
mod counters;
mod ending;
mod exchanges;
mod fault;
mod forwarding;
mod inbox;
mod inside;
mod job;
mod listening;
mod opening;
mod params;
mod reading;
mod receiving;
mod replacing;
mod routing;
mod server;
mod session;
mod settings;
mod siblings;
mod standing;
mod stdio;
mod sweeping;
mod tasks;
mod views;

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use shardgate_proto::clock::Millis;
use shardgate_proto::jsonrpc;
use shardgate_proto::mcp::version::{Era, ProtocolVersion};
use shardgate_proto::upstream::{
    AskKey, Call, CallKey, Caller, Description, Events, HeaderParameter, LinkEnd, LinkKey,
    Notification, Outcome, RouteId, SessionKey, TaskTool, Upstream,
};

use self::asking::AskOrigin;
use self::inbox::Inbox;
use self::job::{JobKey, Jobs, Waiter};
use self::server::{Server, Use, Wire, server_of};
use self::session::{Phase, UpKey};
use self::siblings::SiblingMessage;
use self::views::Views;
use crate::embedded::input_required::StateSeal;
use crate::embedded::subscriptions::Subscriptions;

pub(crate) use self::breaker::BreakerSettings;
pub(crate) use self::params::{CLIENT_CAPABILITIES, ObjectWriter, meta_member};
pub(crate) use self::server::SERVER_NUMBERS_MAX;
pub(crate) use self::settings::{
    FederationSettings, HttpSettings, Protocol, RouteSettings, ServerSettings, Transport,
    WireSettings,
};

/// How the gateway introduces itself, to servers and to clients.
const GATEWAY_INFO: &str = crate::data_path::SERVER_INFO;

/// At the start a list waits so long for servers that have not been read yet.
const FIRST_LISTS_MS: u64 = 3_000;

/// A legacy client as its tool servers come to know it.
#[derive(Debug)]
struct Client {
    route: RouteId,
    version: ProtocolVersion,
    /// Raw JSON object.
    capabilities: Box<[u8]>,
    log_level: Option<Box<str>>,
    /// Its sessions with servers.
    sessions: Vec<(u16, UpKey)>,
    /// The resources it subscribed to, and their servers.
    watched: Vec<(u16, Box<str>)>,
    /// The tasks its calls became, and their servers.
    tasks: VecDeque<(Box<str>, u16)>,
}

/// A call that waits for the first reading of the servers' lists.
#[derive(Debug)]
struct EarlyCall {
    key: CallKey,
    caller: Caller,
    route: RouteId,
    version: ProtocolVersion,
    id: Box<[u8]>,
    method: Box<str>,
    params: Option<Box<[u8]>>,
    name: Option<Box<str>>,
}

impl EarlyCall {
    fn new(call: &Call<'_>) -> EarlyCall {
        EarlyCall {
            key: call.key,
            caller: call.caller,
            route: call.route,
            version: call.version,
            id: call.id.into(),
            method: call.method.into(),
            params: call.params.map(Box::from),
            name: call.name.map(Box::from),
        }
    }

    fn borrow(&self) -> Call<'_> {
        Call {
            key: self.key,
            caller: self.caller,
            route: self.route,
            version: self.version,
            id: &self.id,
            method: &self.method,
            params: self.params.as_deref(),
            name: self.name.as_deref(),
        }
    }
}

/// Where a call of this shard is carried out.
#[derive(Clone, Copy, Debug)]
enum Away {
    /// It goes on with a job that this shard holds.
    Job(u16, JobKey),
    /// This shard keeps the server's child.
    Call(u16),
}

/// A stream that ended before the answer it carried.
#[derive(Clone, Debug)]
struct Resumption {
    /// When to ask for the rest.
    at: Millis,
    server: u16,
    session: UpKey,
    /// The request that is answered on it.
    id: u64,
    last_event_id: Box<[u8]>,
}

/// The tool servers of one shard.
#[derive(Debug)]
pub(crate) struct Federation {
    settings: FederationSettings,
    seal: StateSeal,
    servers: Vec<Server>,
    views: Views,
    clients: HashMap<SessionKey, Client>,
    jobs: Jobs,
    by_call: HashMap<CallKey, JobKey>,
    /// Calls of this shard that another shard carries out.
    away: HashMap<CallKey, Away>,
    asks: HashMap<u64, AskOrigin>,
    asked: u64,
    /// Jobs of modern clients whose servers have asked something in this step.
    asking: Vec<JobKey>,
    subscriptions: Subscriptions,
    inbox: Inbox,
    scratch: Vec<u8>,
    early: Vec<EarlyCall>,
    /// The embedded server's number, if it is one of the servers.
    inside: Option<u16>,
    /// Messages of siblings that know a newer configuration.
    ahead: Vec<Box<[u8]>>,
    /// Until when calls wait for servers that have not been read.
    first_lists_until: Option<Millis>,
    /// Streams to be resumed.
    resumptions: Vec<Resumption>,
    next_sweep: Millis,
    /// Jobs that have ended in this step.
    over: Vec<(u16, JobKey)>,
}

impl Federation {
    /// The servers of `settings`, of which none has been asked yet.
    pub(crate) fn new(settings: FederationSettings) -> Federation {
        let servers: Vec<Server> = settings
            .servers
            .iter()
            .map(|server| Server::new(server.endpoint.0, Arc::clone(server), &settings))
            .collect();
        let inside = servers.iter().find(|server| matches!(server.wire, Wire::Inside(_)));
        Federation {
            inside: inside.map(|server| server.index),
            seal: StateSeal::new(settings.seal_key),
            servers,
            views: Views::new(&settings),
            settings,
            clients: HashMap::new(),
            jobs: Jobs::default(),
            by_call: HashMap::new(),
            away: HashMap::new(),
            asks: HashMap::new(),
            asked: 0,
            asking: Vec::new(),
            subscriptions: Subscriptions::default(),
            inbox: Inbox::default(),
            scratch: Vec::new(),
            early: Vec::new(),
            ahead: Vec::new(),
            first_lists_until: None,
            resumptions: Vec::new(),
            next_sweep: Millis(0),
            over: Vec::new(),
        }
    }

    /// What follows from a step, once its cause has been dealt with.
    fn settle(&mut self, now: Millis, events: &mut Events) {
        self.hear_inside(now, events);
        self.put_all_questions(now, events);
    }

    /// False at the start, while some servers have neither listed nor failed.
    fn lists_are_known(&mut self, now: Millis) -> bool {
        let until = *self.first_lists_until.get_or_insert(now + FIRST_LISTS_MS);
        now >= until || self.servers.iter().all(|server| server.reading.answered_once)
    }

    /// Goes on with the calls that came too early, if they need not wait any more.
    fn lists_may_be_answered(&mut self, now: Millis, events: &mut Events) {
        if !self.early.is_empty() && self.lists_are_known(now) {
            for call in std::mem::take(&mut self.early) {
                self.route(&call.borrow(), now, events);
            }
        }
    }

    /// The shard that reads a server's lists and keeps its child if it has but one.
    fn home(&self, server: u16) -> u16 {
        server % self.settings.shards.max(1)
    }

    /// A message without answer for a server, as soon as the session is ready.
    fn note(&mut self, index: u16, key: UpKey, message: &[u8], now: Millis, events: &mut Events) {
        let server = &mut self.servers[usize::from(index)];
        let Some(session) = server.sessions.session(key) else { return };
        if session.phase == Phase::Ready {
            let message = server::Outgoing::plain(message);
            let _ = server.post(key, Use::Note, &message, now, events);
        } else {
            session.notes.push(message.into());
        }
    }

    /// The progress of a client with what a server asked of it.
    fn pass_progress(
        &mut self,
        params: &[u8],
        session: SessionKey,
        now: Millis,
        events: &mut Events,
    ) {
        let Some(token) = jsonrpc::member(params, "progressToken") else { return };
        let origin = self.asks.values().find(|origin| origin.token.as_deref() == Some(token));
        let Some((index, key)) = origin.map(|origin| (origin.server, origin.session)) else {
            return;
        };
        let own = self.clients.get(&session).is_some_and(|it| it.sessions.contains(&(index, key)));
        if own {
            let mut message = Vec::new();
            let method = "notifications/progress";
            jsonrpc::write_notification(&mut message, method, Some(params));
            self.note(index, key, &message, now, events);
        }
    }

    /// What the federation of another shard says.
    fn take_sibling(&mut self, message: &[u8], now: Millis, events: &mut Events) {
        let own = self.settings.shard;
        let read = siblings::read(message);
        let server = read.and_then(|message| message.server());
        // The other shard has taken a new configuration over before this one.
        let ahead = server.is_some_and(|server| usize::from(server) >= self.servers.len());
        if ahead && self.ahead.len() < replacing::AHEAD_MAX {
            return self.ahead.push(message.into());
        }
        match read {
            Some(SiblingMessage::Resume { to, from, call, job, responses }) if to == own => {
                let waiter = Waiter::Sibling { shard: from, call };
                self.resume_here(job, waiter, responses, now, events);
            }
            Some(SiblingMessage::Answer { to, call, outcome, body }) if to == own => {
                if self.away.remove(&call).is_some() {
                    self.hand_to(Waiter::Call(call), outcome, body, events);
                }
            }
            Some(SiblingMessage::Notice { to, call, message }) if to == own => {
                if self.away.contains_key(&call) {
                    let target = shardgate_proto::upstream::Target::Call(call);
                    events.notify(target, |out| out.extend_from_slice(message));
                }
            }
            Some(SiblingMessage::Cancel { to, job }) if to == own => {
                self.cancel_job(job, "the client cancelled the request", now, events);
            }
            Some(SiblingMessage::Call { to, from, call, order }) if to == own => {
                let waiter = Waiter::Sibling { shard: from, call };
                self.forward_for_sibling(waiter, &order, now, events);
            }
            Some(SiblingMessage::CancelCall { to, from, call }) if to == own => {
                let waiter = Waiter::Sibling { shard: from, call };
                let job = self.jobs.iter().find(|job| job.waiter == waiter).map(|job| job.key);
                if let Some(job) = job {
                    self.cancel_job(job, "the client cancelled the request", now, events);
                }
            }
            Some(SiblingMessage::Listing { server, version, abilities, listing }) => {
                self.take_listing(server, (version, abilities), listing, now, events);
            }
            Some(SiblingMessage::Failed { server, why }) => {
                if let Some(server) = self.staying(server) {
                    server.reading.answered_once = true;
                    server.trouble = Some(why.to_owned());
                    self.lists_may_be_answered(now, events);
                }
            }
            Some(SiblingMessage::Changed { server }) => {
                self.list_changed(server, now);
            }
            Some(SiblingMessage::Inside { server, message }) => {
                self.hear_sibling_inside(server, message, now);
            }
            // For another shard, or of another build.
            Some(_) | None => {}
        }
    }
}

impl Upstream for Federation {
    fn describe(&self, version: ProtocolVersion) -> Description {
        // What servers can do is not known when the first client comes, and may change.
        let mut capabilities = String::from(
            r#"{"tools":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},"prompts":{"listChanged":true},"logging":{}"#,
        );
        // 2024-11-05 knows completion but not the capability.
        if version >= ProtocolVersion::V2025_03_26 {
            capabilities.push_str(r#","completions":{}"#);
        }
        if version == ProtocolVersion::V2025_11_25 {
            if self.settings.tasks.is_some() {
                capabilities.push_str(crate::tasks::LEGACY_CAPABILITY);
            } else if self.has_tasks(Era::Legacy) {
                capabilities.push_str(r#","tasks":{"cancel":{},"requests":{"tools":{"call":{}}}}"#);
            }
        }
        let modern_tasks = self.settings.modern_tasks || self.has_tasks(Era::Modern);
        if version.era() == Era::Modern && modern_tasks {
            capabilities.push_str(&format!(r#","extensions":{{"{}":{{}}}}"#, tasks::EXTENSION));
        }
        capabilities.push('}');
        Description { capabilities, instructions: None }
    }

    fn header_parameters(&self, route: RouteId, tool: &str) -> &[HeaderParameter] {
        self.views.catalog(route).tool(tool).map_or(&[], |tool| tool.header_parameters)
    }

    fn task_tool(&self, route: RouteId, tool: &str, version: ProtocolVersion) -> TaskTool<'_> {
        self.tool_as_task(route, tool, version)
    }

    fn has_task(&self, caller: Caller, id: &str) -> bool {
        let Caller::Session(session) = caller else { return false };
        self.clients.get(&session).is_some_and(|it| it.tasks.iter().any(|(task, _)| **task == *id))
    }

    fn end_standing_calls(&mut self, events: &mut Events) {
        self.subscriptions.finish_listens(events);
    }

    fn take_leave(&mut self, now: Millis, events: &mut Events) {
        self.leave_all(now, events);
    }

    fn open_session(
        &mut self,
        session: SessionKey,
        route: RouteId,
        version: ProtocolVersion,
        client_capabilities: &[u8],
    ) {
        let client = Client {
            route,
            version,
            capabilities: client_capabilities.into(),
            log_level: None,
            sessions: Vec::new(),
            watched: Vec::new(),
            tasks: VecDeque::new(),
        };
        self.clients.insert(session, client);
    }

    fn close_session(&mut self, session: SessionKey, now: Millis, events: &mut Events) {
        self.subscriptions.close_session(session);
        let Some(client) = self.clients.remove(&session) else { return };
        for (index, key) in client.sessions {
            self.end_session(index, key, now, events);
        }
        if !client.watched.is_empty() {
            self.watch_all(now, events);
        }
        self.settle(now, events);
    }

    fn handle_call(&mut self, call: &Call<'_>, now: Millis, events: &mut Events) {
        if self.lists_are_known(now) {
            self.route(call, now, events);
        } else {
            self.early.push(EarlyCall::new(call));
        }
        self.hear_inside(now, events);
    }

    fn handle_notification(
        &mut self,
        notification: &Notification<'_>,
        now: Millis,
        events: &mut Events,
    ) {
        let Caller::Session(session) = notification.caller else { return };
        let (method, params) = (notification.method, notification.params);
        match method {
            "notifications/roots/list_changed" => {
                self.pass_notification(session, method, params, now, events);
            }
            "notifications/progress" => {
                self.pass_progress(params.unwrap_or(b"{}"), session, now, events);
            }
            _ => {}
        }
    }

    fn handle_reply(
        &mut self,
        ask: AskKey,
        outcome: Outcome,
        body: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        self.take_reply(ask, outcome, body, now, events);
        self.settle(now, events);
    }

    fn cancel(&mut self, call: CallKey, now: Millis, events: &mut Events) {
        self.early.retain(|early| early.key != call);
        match self.away.remove(&call) {
            Some(Away::Job(shard, job)) => return siblings::write_cancel(events, shard, job),
            Some(Away::Call(home)) => {
                return siblings::write_cancel_call(events, self.settings.shard, home, call);
            }
            None => {}
        }
        if self.by_call.contains_key(&call) {
            self.cancel_call(call, now, events);
            return self.settle(now, events);
        }
        if self.subscriptions.forget_listen(call) {
            self.watch_all(now, events);
            self.hear_inside(now, events);
        }
    }

    fn handle_sibling(&mut self, message: &[u8], now: Millis, events: &mut Events) {
        self.take_sibling(message, now, events);
        self.hear_inside(now, events);
    }

    fn poll_timeout(&self) -> Option<Millis> {
        let wires = self.servers.iter().filter_map(|server| match &server.wire {
            Wire::Http(http) => http.poll_timeout(),
            Wire::Inside(inside) => inside.poll_timeout(),
            Wire::Stdio(_) => None,
        });
        wires.chain([self.next_sweep]).min()
    }

    fn handle_timeout(&mut self, now: Millis, events: &mut Events) {
        for index in 0..self.servers.len() {
            let inbox = &mut self.inbox;
            let http = match &mut self.servers[index].wire {
                Wire::Http(http) => http,
                Wire::Inside(inside) => {
                    inside.handle_timeout(now);
                    continue;
                }
                Wire::Stdio(_) => continue,
            };
            if http.poll_timeout().is_some_and(|at| at <= now) {
                for (pool, mark) in http.pools() {
                    pool.handle_timeout(now, events, &mut inbox.marked(mark));
                }
                self.take_told(index as u16, now, events);
            }
        }
        if now >= self.next_sweep {
            self.sweep(now, events);
        }
        self.settle(now, events);
    }

    fn link_opened(&mut self, link: LinkKey, now: Millis, events: &mut Events) {
        let index = server_of(link);
        let inbox = &mut self.inbox;
        if let Wire::Http(http) = &mut self.servers[usize::from(index)].wire {
            let (pool, mark) = http.pool(link);
            pool.link_opened(link, now, events, &mut inbox.marked(mark));
            self.take_told(index, now, events);
        }
    }

    fn link_received(&mut self, link: LinkKey, bytes: &mut [u8], now: Millis, events: &mut Events) {
        let index = server_of(link);
        let inbox = &mut self.inbox;
        match &mut self.servers[usize::from(index)].wire {
            Wire::Http(http) => {
                let (pool, mark) = http.pool(link);
                pool.link_received(link, bytes, now, events, &mut inbox.marked(mark));
                self.take_told(index, now, events);
            }
            Wire::Stdio(_) => self.take_lines(link, bytes, now, events),
            Wire::Inside(_) => {}
        }
        self.settle(now, events);
    }

    fn link_closed(&mut self, link: LinkKey, end: LinkEnd, now: Millis, events: &mut Events) {
        let index = server_of(link);
        let inbox = &mut self.inbox;
        match &mut self.servers[usize::from(index)].wire {
            Wire::Http(http) => {
                let (pool, mark) = http.pool(link);
                pool.link_closed(link, end, now, events, &mut inbox.marked(mark));
                self.take_told(index, now, events);
            }
            Wire::Stdio(_) => self.child_ended(link, &end, now, events),
            Wire::Inside(_) => {}
        }
        self.settle(now, events);
    }
}
