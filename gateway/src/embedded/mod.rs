//! The embedded server: tools, resources and prompts that need no upstream.
//!
//! It serves every item the official conformance suite asks for, in both eras,
//! plus `echo`, `add` and `sleep` for load tests. It is a sans-IO [`Upstream`]:
//! one instance per shard, no clock, no sockets, nothing running when idle.
//!
//! Invariants:
//! - What a revision does not know is not sent to its clients.
//! - Changes of one instance reach its siblings as [`Event::Siblings`]; a sibling
//!   never passes them on.
//! - A plain session costs two bytes and its place in a map.
//!
//! Where to look: `tools`, `prompts`, `resources` are tables of what there is;
//! `catalog` writes the lists; `tool_calls` runs tools; `running` goes on with
//! calls that take time; `asking` asks the client by way of `dialogue`,
//! `conversations` (legacy) and `input_required` (modern); `tasks` is the tasks
//! extension; `subscriptions` tells of changes; `siblings` is the wire between shards.
//!
//! [`Event::Siblings`]: shardgate_proto::upstream::Event::Siblings

pub(crate) mod answers;
mod asking;
mod catalog;
pub(crate) mod client;
mod conversations;
pub(crate) mod dialogue;
pub(crate) mod input_required;
mod media;
mod prompts;
mod resources;
mod running;
mod scan;
mod siblings;
pub(crate) mod subscriptions;
mod tasks;
#[cfg(test)]
mod tests;
mod timed_calls;
mod tool_calls;
mod tools;

use std::collections::BTreeMap;

use shardgate_proto::catalog::TaskOffer;
use shardgate_proto::clock::Millis;
use shardgate_proto::mcp::version::{Era, ProtocolVersion};
use shardgate_proto::upstream::{
    AskKey, Call, CallKey, Caller, Description, Events, HeaderParameter, Notification, Outcome,
    RouteId, SessionKey, TaskTool, Upstream,
};
use simd_json::BorrowedValue;

use crate::metrics::{Reports, UpstreamSnapshot};

pub use answers::SERVER_INFO;
pub use conversations::CONVERSATIONS_MAX;
pub use subscriptions::{LISTENS_MAX, SUBSCRIPTIONS_MAX, URIS_MAX};
pub(crate) use tasks::iso_8601;
pub use tasks::{TASK_KEPT_MS, TASKS_MAX};
pub use timed_calls::{DURATION_MS_MAX, STEPS_MAX, TIMED_CALLS_MAX};

use answers::{Caching, Fault, complete, finish, put, refuse};
use catalog::{Catalog, List};
use client::{Client, ClientCapabilities, LogLevel};
use conversations::Conversations;
use input_required::StateSeal;
use resources::Resource;
use siblings::{Counter, SiblingMessage, TaskMethod};
use subscriptions::{Change, Subscriptions};
use tasks::Tasks;
use timed_calls::TimedCalls;

/// Entries on one page of a list, unless configured otherwise: more than there are,
/// so that clients which ignore cursors see everything.
pub const PAGE_ENTRIES: usize = 100;

/// The longest argument or answer that is kept while a call, a dialogue or a task lasts.
pub const KEPT_TEXT_BYTES_MAX: usize = 64 * 1024;

/// The longest progress token or request id that is kept while a call lasts.
pub const KEPT_ID_BYTES_MAX: usize = 1_024;

/// Scratch memory kept from one parse to the next.
const SCRATCH_KEPT_BYTES_MAX: usize = 64 * 1024;

/// How an instance is set up.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// Seals what travels through clients (request states, task ids). The same on
    /// every shard and, where several nodes serve one client, on every node; secret.
    pub seal_key: [u8; 16],
    /// The Unix time in milliseconds at which [`Millis`] is zero; the same on every shard.
    pub start_unix_ms: u64,
    /// The shard this instance runs on.
    pub shard: u16,
    /// Entries on one page of a list, at least one.
    pub page_entries: usize,
    /// How tools can be called as tasks of the gateway's; `None` if it makes none.
    pub tasks: Option<TaskOffer>,
}

/// What is kept of a legacy session.
#[derive(Clone, Copy, Debug)]
struct Session {
    capabilities: ClientCapabilities,
    log_level: LogLevel,
}

/// The embedded server of one shard.
pub struct Embedded {
    shard: u16,
    start_unix_ms: u64,
    seal: StateSeal,
    catalog: Catalog,
    /// Whether the gateway makes tasks of legacy clients' calls.
    gateway_tasks: bool,
    /// Changes anywhere in this process.
    counters: [u64; Counter::ALL.len()],
    /// Changes made here that the siblings don't know of yet.
    untold: [u64; Counter::ALL.len()],
    sessions: BTreeMap<SessionKey, Session>,
    subscriptions: Subscriptions,
    conversations: Conversations,
    timed: TimedCalls,
    tasks: Tasks,
    scratch: Vec<u8>,
}

impl Embedded {
    /// An instance without sessions.
    pub fn new(config: EmbeddedConfig) -> Embedded {
        let seal = StateSeal::new(config.seal_key);
        Embedded {
            shard: config.shard,
            start_unix_ms: config.start_unix_ms,
            seal,
            catalog: Catalog::new(config.page_entries, config.tasks.as_ref()),
            gateway_tasks: config.tasks.is_some(),
            counters: [0; Counter::ALL.len()],
            untold: [0; Counter::ALL.len()],
            sessions: BTreeMap::new(),
            subscriptions: Subscriptions::default(),
            conversations: Conversations::default(),
            timed: TimedCalls::default(),
            tasks: Tasks::new(config.shard, config.start_unix_ms, seal),
            scratch: Vec::new(),
        }
    }

    /// Calls that have started and not been answered: running, or waiting for their client.
    pub fn calls_in_flight(&self) -> usize {
        self.timed.len() + self.conversations.len()
    }

    /// Answers a call or says why not.
    fn dispatch(&mut self, call: &Call<'_>, now: Millis, events: &mut Events) -> Result<(), Fault> {
        match (call.method, call.caller) {
            ("tools/call", _) => self.call_tool(call, now, events),
            ("tools/list", _) => self.list(List::Tools, call, events),
            ("prompts/list", _) => self.list(List::Prompts, call, events),
            ("resources/list", _) => self.list(List::Resources, call, events),
            ("resources/templates/list", _) => self.list(List::Templates, call, events),
            ("resources/read", _) => self.read_resource(call, events),
            ("prompts/get", _) => self.prompt(call, now, events),
            ("completion/complete", _) => self.complete_argument(call, events),
            ("logging/setLevel", Caller::Session(session)) => self.set_level(session, call, events),
            ("resources/subscribe", Caller::Session(session)) => {
                let uri = self.existing_uri(call)?;
                self.subscriptions.subscribe(session, &uri)?;
                events.result(call.key, |out| put(out, "{}"));
                Ok(())
            }
            ("resources/unsubscribe", Caller::Session(session)) => {
                let uri = text_param(call.params, "uri")?;
                self.subscriptions.unsubscribe(session, &uri);
                events.result(call.key, |out| put(out, "{}"));
                Ok(())
            }
            ("subscriptions/listen", Caller::Stateless) => {
                let changeable = self.has_changeable(Counter::Resources);
                let exists = |uri: &str| Resource::resolve(uri, changeable).is_some();
                self.subscriptions.listen(call, exists, events)
            }
            (method, Caller::Stateless | Caller::Task) => match TaskMethod::parse(method) {
                Some(method) => self.task_call(method, call, now, events),
                None => Err(Fault::MethodNotFound { method: call.method.to_owned() }),
            },
            (method, Caller::Session(_)) => {
                Err(Fault::MethodNotFound { method: method.to_owned() })
            }
        }
    }

    fn list(&self, list: List, call: &Call<'_>, events: &mut Events) -> Result<(), Fault> {
        let cursor = match call.params.and_then(|params| scan::member(params, "cursor")) {
            None => None,
            Some(raw) => Some(scan::unescape(raw).ok_or_else(|| {
                Fault::InvalidParams("params.cursor must be a string".to_owned())
            })?),
        };
        let changeable = match list {
            List::Tools => self.has_changeable(Counter::Tools),
            List::Prompts => self.has_changeable(Counter::Prompts),
            List::Resources => self.has_changeable(Counter::Resources),
            List::Templates => false,
        };
        let page = self.catalog.page(list, call.version, changeable, cursor.as_deref());
        let page = page.ok_or_else(|| {
            Fault::InvalidParams("params.cursor is not a cursor of this list".to_owned())
        })?;
        events.result(call.key, |out| out.extend_from_slice(page));
        Ok(())
    }

    fn read_resource(&self, call: &Call<'_>, events: &mut Events) -> Result<(), Fault> {
        let uri = text_param(call.params, "uri")?;
        let found = Resource::resolve(&uri, self.has_changeable(Counter::Resources));
        let era = call.version.era();
        let Some(resource) = found else { return Err(Fault::ResourceNotFound { uri, era }) };
        let updates = self.counters[Counter::Watched as usize];
        events.result(call.key, |out| {
            put(out, "{");
            resource.write(&uri, updates, out);
            finish(out, call.version, Some(Caching { ttl_ms: resource.ttl_ms() }));
        });
        Ok(())
    }

    fn existing_uri(&self, call: &Call<'_>) -> Result<String, Fault> {
        let uri = text_param(call.params, "uri")?;
        if Resource::resolve(&uri, self.has_changeable(Counter::Resources)).is_none() {
            return Err(Fault::ResourceNotFound { uri, era: call.version.era() });
        }
        Ok(uri)
    }

    fn prompt(&mut self, call: &Call<'_>, now: Millis, events: &mut Events) -> Result<(), Fault> {
        let name = call.name.ok_or_else(|| missing("name", "a string"))?;
        let spec = prompts::find(name, self.has_changeable(Counter::Prompts))
            .ok_or_else(|| Fault::UnknownPrompt { name: name.to_owned() })?;
        let arguments = spec.read_arguments(call.params)?;
        if spec.prompt == prompts::Prompt::AfterInput {
            return self.ask(dialogue::Script::PromptContext, String::new(), call, now, events);
        }
        complete(events, call.key, call.version, |out| spec.write_messages(&arguments, out));
        Ok(())
    }

    fn complete_argument(&self, call: &Call<'_>, events: &mut Events) -> Result<(), Fault> {
        let mut body = Vec::new();
        let changeable = self.has_changeable(Counter::Prompts);
        prompts::write_completion(call.params, changeable, &mut body)?;
        complete(events, call.key, call.version, |out| out.extend_from_slice(&body));
        Ok(())
    }

    fn set_level(
        &mut self,
        session: SessionKey,
        call: &Call<'_>,
        events: &mut Events,
    ) -> Result<(), Fault> {
        let level = text_param(call.params, "level")?;
        let level = LogLevel::parse(&level).ok_or_else(|| {
            Fault::InvalidParams(format!("params.level must be {}, not {level:?}", LogLevel::NAMES))
        })?;
        if let Some(session) = self.sessions.get_mut(&session) {
            session.log_level = level;
        }
        events.result(call.key, |out| put(out, "{}"));
        Ok(())
    }

    fn task_call(
        &mut self,
        method: TaskMethod,
        call: &Call<'_>,
        now: Millis,
        events: &mut Events,
    ) -> Result<(), Fault> {
        let client = self.client(call);
        if !client.capabilities.contains(ClientCapabilities::TASKS) {
            let required = ClientCapabilities::TASKS.to_json();
            return Err(Fault::MissingCapability { required });
        }
        let text = text_param(call.params, "taskId")?;
        let id = self.tasks.parse_id(&text).ok_or_else(tasks::unknown_task)?;
        let responses =
            call.params.and_then(|params| scan::member(params, "inputResponses")).unwrap_or(b"{}");
        if !scan::is_object(responses) {
            return Err(missing("inputResponses", "an object"));
        }
        if id.shard == self.shard {
            let mut body = Vec::new();
            self.tasks.perform(method, id.number, responses, now, &mut body)?;
            events.result(call.key, |out| out.extend_from_slice(&body));
            return Ok(());
        }
        self.forward_task_call(method, id, responses, call, now, events)
    }

    /// What is known of the client behind a call.
    fn client(&self, call: &Call<'_>) -> Client {
        match call.caller {
            Caller::Stateless | Caller::Task => Client::of_modern(call.params),
            Caller::Session(session) => match self.sessions.get(&session) {
                Some(session) => Client {
                    capabilities: session.capabilities,
                    log_level: Some(session.log_level),
                },
                None => Client { capabilities: ClientCapabilities::NONE, log_level: None },
            },
        }
    }

    /// True if the entry that comes and goes is there: after every odd change.
    fn has_changeable(&self, counter: Counter) -> bool {
        self.counters[counter as usize] % 2 == 1
    }

    /// Counts a change here and tells clients; the siblings hear of it at the turn's end.
    fn change(&mut self, counter: Counter, events: &mut Events) {
        self.counters[counter as usize] += 1;
        self.untold[counter as usize] += 1;
        self.announce(counter, events);
    }

    /// One message per kind of change, however many there were.
    fn tell_siblings(&mut self, events: &mut Events) {
        for counter in Counter::ALL {
            let times = std::mem::take(&mut self.untold[counter as usize]);
            if times > 0 {
                events.siblings(|out| SiblingMessage::Changed { counter, times }.write(out));
            }
        }
    }

    fn announce(&self, counter: Counter, events: &mut Events) {
        let change = match counter {
            Counter::Tools => Change::Tools,
            Counter::Prompts => Change::Prompts,
            Counter::Resources => Change::Resources,
            Counter::Watched => Change::Resource(resources::WATCHED_URI),
        };
        self.subscriptions.announce(change, None, self.sessions.keys().copied(), events);
    }

    /// Parses raw JSON in the instance's scratch memory.
    fn with_parsed<R>(
        &mut self,
        raw: &[u8],
        then: impl FnOnce(&mut Embedded, &BorrowedValue<'_>) -> R,
    ) -> Result<R, Fault> {
        if !scan::is_shallow(raw) {
            let why = format!("params nest deeper than {} levels", scan::DEPTH_MAX);
            return Err(Fault::InvalidParams(why));
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(raw);
        let outcome = match simd_json::to_borrowed_value(&mut scratch) {
            Ok(value) => Ok(then(self, &value)),
            Err(_) => Err(Fault::Internal("params were handed over as valid JSON and are not")),
        };
        scratch.clear();
        scratch.shrink_to(SCRATCH_KEPT_BYTES_MAX);
        self.scratch = scratch;
        outcome
    }

    /// The Unix time at `now`.
    fn unix_ms(&self, now: Millis) -> u64 {
        self.start_unix_ms.saturating_add(now.0)
    }
}

/// A string member of `params`.
fn text_param(params: Option<&[u8]>, name: &str) -> Result<String, Fault> {
    params
        .and_then(|params| scan::member(params, name))
        .and_then(scan::unescape)
        .ok_or_else(|| missing(name, "a string"))
}

fn missing(name: &str, expected: &str) -> Fault {
    Fault::InvalidParams(format!("params.{name} must be {expected}"))
}

impl Reports for Embedded {
    /// The embedded server is no tool server behind the gateway: the shards' own counters
    /// tell all there is of it.
    fn report(&self) -> Vec<UpstreamSnapshot> {
        Vec::new()
    }
}

impl Upstream for Embedded {
    fn describe(&self, version: ProtocolVersion) -> Description {
        let mut capabilities = String::from(
            r#"{"tools":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},"prompts":{"listChanged":true},"logging":{}"#,
        );
        // 2024-11-05 knows completion but not the capability.
        if version >= ProtocolVersion::V2025_03_26 {
            capabilities.push_str(r#","completions":{}"#);
        }
        if version == ProtocolVersion::V2025_11_25 && self.gateway_tasks {
            capabilities.push_str(crate::tasks::LEGACY_CAPABILITY);
        }
        if version.era() == Era::Modern {
            capabilities
                .push_str(&format!(r#","extensions":{{"{}":{{}}}}"#, client::TASKS_EXTENSION));
        }
        capabilities.push('}');
        let instructions = "A server for testing: echo, add and sleep, and the tools, prompts \
                            and resources of the MCP conformance suite.";
        Description { capabilities, instructions: Some(instructions.to_owned()) }
    }

    fn header_parameters(&self, _route: RouteId, tool: &str) -> &[HeaderParameter] {
        tools::header_parameters(tool)
    }

    fn task_tool(&self, _route: RouteId, tool: &str, version: ProtocolVersion) -> TaskTool<'_> {
        self.tool_as_task(tool, version)
    }

    fn end_standing_calls(&mut self, events: &mut Events) {
        self.subscriptions.finish_listens(events);
    }

    fn open_session(
        &mut self,
        session: SessionKey,
        _route: RouteId,
        _version: ProtocolVersion,
        client_capabilities: &[u8],
    ) {
        let capabilities = ClientCapabilities::read(client_capabilities);
        // MCP 2025-11-25, logging: without setLevel the server MAY decide what it sends.
        self.sessions.insert(session, Session { capabilities, log_level: LogLevel::Info });
    }

    fn close_session(&mut self, session: SessionKey, _now: Millis, _events: &mut Events) {
        self.sessions.remove(&session);
        self.subscriptions.close_session(session);
    }

    fn handle_call(&mut self, call: &Call<'_>, now: Millis, events: &mut Events) {
        if call.method == "tools/call"
            && call.name == Some("echo")
            && tool_calls::echo(call, events)
        {
            return;
        }
        if let Err(fault) = self.dispatch(call, now, events) {
            refuse(events, call.key, &fault);
        }
        self.tell_siblings(events);
    }

    fn handle_notification(
        &mut self,
        _notification: &Notification<'_>,
        _now: Millis,
        _events: &mut Events,
    ) {
        // progress and roots/list_changed: roots are asked for anew whenever they are needed.
    }

    fn handle_reply(
        &mut self,
        ask: AskKey,
        outcome: Outcome,
        body: &[u8],
        _now: Millis,
        events: &mut Events,
    ) {
        self.reply(ask, outcome, body, events);
    }

    fn cancel(&mut self, call: CallKey, _now: Millis, _events: &mut Events) {
        self.timed.remove(call);
        self.conversations.remove(call);
        self.subscriptions.forget_listen(call);
    }

    fn handle_sibling(&mut self, message: &[u8], now: Millis, events: &mut Events) {
        self.sibling(message, now, events);
    }

    fn poll_timeout(&self) -> Option<Millis> {
        self.timed.next_due()
    }

    fn handle_timeout(&mut self, now: Millis, events: &mut Events) {
        self.go_on(now, events);
        self.tell_siblings(events);
    }
}
