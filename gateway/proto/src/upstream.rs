//! The contract between the client's half of the gateway and a tool server's half.
//!
//! The client's half (sessions, streams, HTTP) hands calls to an [`Upstream`];
//! what comes back is written into an [`Events`] queue. Both sides speak in raw
//! JSON text, so a message that is only passed on is never re-serialised. The
//! embedded server is one implementor; HTTP and stdio upstreams are others.
//!
//! Invariants:
//! - Every [`Call`] gets exactly one [`Event::Answer`], unless it is cancelled.
//! - Events of one call come in order; an answer is its last event.
//! - An upstream never blocks and never reads a clock: it is told `now` and says
//!   in [`Upstream::poll_timeout`] when it wants to be called again.
//! - A link that was asked for by [`Event::OpenLink`] is told of by exactly one
//!   [`Upstream::link_closed`], unless the upstream closes it first; after either,
//!   nothing of it comes any more.

use std::borrow::Cow;
use std::ops::Range;

use crate::catalog::TaskSupport;
use crate::clock::Millis;
use crate::mcp::version::ProtocolVersion;

/// One client session (legacy era), unique within its shard for the process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(pub u64);

/// One client request in flight, unique within its shard for the process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallKey(pub u64);

/// One server-to-client request, chosen by the upstream and unique within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskKey(pub u64);

/// A byte pipe to a tool server (a TCP or TLS connection, or the standard streams of a
/// child process), chosen by the upstream and unique within its shard for the process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkKey(u64);

impl LinkKey {
    const NUMBER_BITS: u32 = 48;

    /// Link `number` of the tool server `owner`.
    ///
    /// # Panics
    /// If the number has more than 48 bits: one a microsecond lasts for nine years.
    pub fn new(owner: u16, number: u64) -> LinkKey {
        assert!(number >> LinkKey::NUMBER_BITS == 0, "link numbers are used up");
        LinkKey(u64::from(owner) << LinkKey::NUMBER_BITS | number)
    }

    /// The tool server whose link this is.
    pub fn owner(self) -> u16 {
        (self.0 >> LinkKey::NUMBER_BITS) as u16
    }
}

/// Where a link goes: an entry of the table of endpoints that every shard has.
/// Never used for another endpoint in the process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u16);

/// A path clients come in on, with its own choice of tools: a virtual server.
/// Never used for another path in the process's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(pub u16);

impl RouteId {
    /// `/mcp`, which shows everything.
    pub const WHOLE: RouteId = RouteId(0);
}

/// For whom a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A legacy session; it was announced by [`Upstream::open_session`].
    Session(SessionKey),
    /// A modern request: it carries all its context in `params._meta`.
    Stateless,
    /// The gateway itself, for a task. To the upstream it is a modern client, but one that
    /// waits: silence of the server alone is no reason to give the call up.
    Task,
}

/// A client request on its way to an upstream.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Names the call in every event that answers it.
    pub key: CallKey,
    /// For whom.
    pub caller: Caller,
    /// On which path; a session's calls all come on the path it was opened on.
    pub route: RouteId,
    /// The revision in force for this request.
    pub version: ProtocolVersion,
    /// The JSON-RPC id as the client wrote it (raw JSON: a number or a quoted string).
    pub id: &'a [u8],
    /// The method, unescaped.
    pub method: &'a str,
    /// The raw JSON text of `params` (always an object), if present.
    pub params: Option<&'a [u8]>,
    /// `params.name`, unescaped, where it is present: the tool's or prompt's name.
    pub name: Option<&'a str>,
}

/// A client notification on its way to an upstream.
#[derive(Clone, Copy, Debug)]
pub struct Notification<'a> {
    /// For whom.
    pub caller: Caller,
    /// The method, unescaped.
    pub method: &'a str,
    /// The raw JSON text of `params`, if present.
    pub params: Option<&'a [u8]>,
}

/// How a JSON-RPC request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The body is the JSON text of `result`.
    Result,
    /// The body is the JSON text of the `error` object, whose `code` is given.
    Error(i32),
}

/// To whom a notification goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The stream of this call.
    Call(CallKey),
    /// The session's standing stream (GET), or any stream that is open.
    Session(SessionKey),
}

/// What an upstream wants done. Byte ranges point into [`Events::bytes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A call has ended.
    Answer {
        /// Which call.
        call: CallKey,
        /// Result or error.
        outcome: Outcome,
        /// The JSON text of the `result` value or the `error` object.
        body: Range<usize>,
    },
    /// A notification for the client: one whole JSON-RPC message.
    Notify {
        /// Whose.
        target: Target,
        /// The message.
        message: Range<usize>,
    },
    /// A request of the server to the client (sampling, elicitation, roots, ping). Legacy era only.
    Ask {
        /// The name under which [`Upstream::handle_reply`] will bring the reply.
        ask: AskKey,
        /// The session that is asked.
        session: SessionKey,
        /// The call on whose stream the request travels, if it belongs to one.
        call: Option<CallKey>,
        /// The method's name.
        method: Range<usize>,
        /// The JSON text of `params`, empty if there are none.
        params: Range<usize>,
    },
    /// End this call's HTTP stream now, though the call goes on: the client
    /// comes back for the rest with Last-Event-ID (MCP 2025-11-25, SSE polling).
    CloseStream {
        /// Which call.
        call: CallKey,
        /// The `retry:` to send first, in milliseconds.
        retry_ms: u64,
    },
    /// For the same upstream on every other shard: see [`Upstream::handle_sibling`].
    Siblings {
        /// What the siblings are told. Only the upstream understands it.
        message: Range<usize>,
    },
    /// Open a link. [`Upstream::link_opened`] or [`Upstream::link_closed`] tells how it went.
    OpenLink {
        /// Its name from here on.
        link: LinkKey,
        /// Where to.
        endpoint: EndpointId,
    },
    /// Send bytes on a link; what is sent before it is open waits for that.
    Send {
        /// On which.
        link: LinkKey,
        /// What.
        bytes: Range<usize>,
    },
    /// Close a link at once. Nothing of it comes any more.
    CloseLink {
        /// Which.
        link: LinkKey,
    },
}

/// Why a link ended or never came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEnd {
    /// The server closed it in order.
    Closed,
    /// It could not be opened: the text says what was tried and why it failed.
    Unreachable(String),
    /// It broke: a reset, a TLS failure, a child that died.
    Broken(String),
}

/// Queue of an upstream's events with one byte arena, reused from turn to turn.
#[derive(Debug, Default)]
pub struct Events {
    list: Vec<Event>,
    arena: Vec<u8>,
}

impl Events {
    /// An empty queue.
    pub fn new() -> Events {
        Events::default()
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The events in order of their making.
    pub fn list(&self) -> &[Event] {
        &self.list
    }

    /// The bytes a range of an event stands for.
    pub fn bytes(&self, range: &Range<usize>) -> &[u8] {
        &self.arena[range.clone()]
    }

    /// Forgets all events and keeps the memory, up to 256 KiB of it.
    pub fn clear(&mut self) {
        self.list.clear();
        self.arena.clear();
        self.arena.shrink_to(ARENA_KEPT_BYTES_MAX);
    }

    /// A call's result; `write` appends the JSON text of the `result` value.
    pub fn result(&mut self, call: CallKey, write: impl FnOnce(&mut Vec<u8>)) {
        let body = self.write(write);
        self.list.push(Event::Answer { call, outcome: Outcome::Result, body });
    }

    /// A call's error; `write` appends the JSON text of the `error` object.
    pub fn error(&mut self, call: CallKey, code: i32, write: impl FnOnce(&mut Vec<u8>)) {
        let body = self.write(write);
        self.list.push(Event::Answer { call, outcome: Outcome::Error(code), body });
    }

    /// A notification; `write` appends the whole JSON-RPC message.
    pub fn notify(&mut self, target: Target, write: impl FnOnce(&mut Vec<u8>)) {
        let message = self.write(write);
        self.list.push(Event::Notify { target, message });
    }

    /// One notification for many; the message is written once.
    pub fn notify_all(
        &mut self,
        targets: impl IntoIterator<Item = Target>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let mut targets = targets.into_iter().peekable();
        if targets.peek().is_none() {
            return;
        }
        let message = self.write(write);
        self.list.extend(targets.map(|target| Event::Notify { target, message: message.clone() }));
    }

    /// A request to the client; `write_params` appends the JSON text of `params`, or nothing.
    pub fn ask(
        &mut self,
        ask: AskKey,
        session: SessionKey,
        call: Option<CallKey>,
        method: &str,
        write_params: impl FnOnce(&mut Vec<u8>),
    ) {
        let method = self.write(|buffer| buffer.extend_from_slice(method.as_bytes()));
        let params = self.write(write_params);
        self.list.push(Event::Ask { ask, session, call, method, params });
    }

    /// Ends a call's HTTP stream while the call goes on.
    pub fn close_stream(&mut self, call: CallKey, retry_ms: u64) {
        self.list.push(Event::CloseStream { call, retry_ms });
    }

    /// A message for the same upstream on the other shards.
    pub fn siblings(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let message = self.write(write);
        self.list.push(Event::Siblings { message });
    }

    /// Asks for a link.
    pub fn open_link(&mut self, link: LinkKey, endpoint: EndpointId) {
        self.list.push(Event::OpenLink { link, endpoint });
    }

    /// Bytes for a link; `write` appends them.
    pub fn send(&mut self, link: LinkKey, write: impl FnOnce(&mut Vec<u8>)) {
        let bytes = self.write(write);
        self.list.push(Event::Send { link, bytes });
    }

    /// Ends a link.
    pub fn close_link(&mut self, link: LinkKey) {
        self.list.push(Event::CloseLink { link });
    }

    fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
        let start = self.arena.len();
        write(&mut self.arena);
        start..self.arena.len()
    }
}

/// Arena memory kept from one turn to the next.
const ARENA_KEPT_BYTES_MAX: usize = 256 * 1024;

/// What an upstream says of itself in `initialize` and `server/discover`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// JSON text of the `capabilities` object for the given revision.
    pub capabilities: String,
    /// `instructions`, if any.
    pub instructions: Option<String>,
}

/// What sort of value an argument that is mirrored in a header holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderParameterKind {
    /// A JSON string.
    String,
    /// A JSON number without fraction.
    Integer,
    /// `true` or `false`.
    Boolean,
}

/// A tool's argument that its schema mirrors in `Mcp-Param-<header>`
/// (MCP 2026-07-28, tools, `x-mcp-header`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderParameter {
    /// The argument's name.
    pub argument: Cow<'static, str>,
    /// The properties from the argument down to the value, if that lies inside of it.
    pub inner: Vec<String>,
    /// What follows `Mcp-Param-` in the header's name; compared without case.
    pub header: Cow<'static, str>,
    /// What it holds.
    pub kind: HeaderParameterKind,
}

impl HeaderParameter {
    /// The value to mirror, as raw JSON, out of the raw object of all arguments.
    pub fn value_in<'a>(&self, arguments: &'a [u8]) -> Option<&'a [u8]> {
        let argument = crate::jsonrpc::member(arguments, &self.argument)?;
        self.inner.iter().try_fold(argument, |object, name| crate::jsonrpc::member(object, name))
    }
}

/// Whether the gateway can make tasks of a tool's calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskTool<'a> {
    /// Clients of this revision have no such tool, or it must not be called.
    Absent,
    /// The lists that would tell have not been read yet.
    NotYetKnown,
    /// Its server makes tasks of its calls itself and has to be asked for them.
    OfItsServer,
    /// It can, if `support` allows it.
    Callable {
        /// The server's name.
        server: &'a str,
        /// Calling it twice does no more than calling it once, by what the server says.
        idempotent: bool,
        /// What the server says of tasks.
        support: TaskSupport,
    },
}

/// A tool server as the gateway sees it. Sans-IO; one instance per shard.
pub trait Upstream {
    /// What `initialize` (legacy) or `server/discover` (modern) should say in `version`.
    fn describe(&self, version: ProtocolVersion) -> Description;

    /// The arguments of a route's tool that headers mirror; empty for most tools.
    fn header_parameters(&self, route: RouteId, tool: &str) -> &[HeaderParameter];

    /// Whether the gateway can make a task of a call of this tool by a client of `version`.
    fn task_tool(&self, route: RouteId, tool: &str, version: ProtocolVersion) -> TaskTool<'_> {
        let _ = (route, tool, version);
        TaskTool::Absent
    }

    /// Whether a task of this id was made by a server for this caller. Ids of servers may look
    /// like the gateway's.
    fn has_task(&self, caller: Caller, id: &str) -> bool {
        let _ = (caller, id);
        false
    }

    /// The gateway is going down: calls that never end by themselves
    /// (`subscriptions/listen`) get their final answers now.
    fn end_standing_calls(&mut self, events: &mut Events);

    /// The gateway is going down and has no client any more, here or on other shards: what is
    /// held at tool servers ends now, links included. They may take a moment to hear of it.
    fn take_leave(&mut self, now: Millis, events: &mut Events) {
        let _ = (now, events);
    }

    /// A legacy session begins. `client_capabilities` is the raw JSON object of `initialize`.
    fn open_session(
        &mut self,
        session: SessionKey,
        route: RouteId,
        version: ProtocolVersion,
        client_capabilities: &[u8],
    );

    /// A legacy session has ended; its calls were cancelled before.
    fn close_session(&mut self, session: SessionKey, now: Millis, events: &mut Events);

    /// A client request. Its answer may come at once or in a later step.
    fn handle_call(&mut self, call: &Call<'_>, now: Millis, events: &mut Events);

    /// A client notification other than `initialized` and `cancelled`.
    fn handle_notification(
        &mut self,
        notification: &Notification<'_>,
        now: Millis,
        events: &mut Events,
    );

    /// The client's reply to an [`Event::Ask`]: the JSON text of `result` or of the `error` object.
    fn handle_reply(
        &mut self,
        ask: AskKey,
        outcome: Outcome,
        body: &[u8],
        now: Millis,
        events: &mut Events,
    );

    /// The client gave the call up (`notifications/cancelled`, or in the modern
    /// era a closed stream), or its session ended. No answer is expected any more.
    fn cancel(&mut self, call: CallKey, now: Millis, events: &mut Events);

    /// What a sibling on another shard sent by [`Event::Siblings`].
    fn handle_sibling(&mut self, message: &[u8], now: Millis, events: &mut Events);

    /// When [`Upstream::handle_timeout`] wants to be called next.
    fn poll_timeout(&self) -> Option<Millis>;

    /// Time has reached [`Upstream::poll_timeout`].
    fn handle_timeout(&mut self, now: Millis, events: &mut Events);

    /// A link is open.
    fn link_opened(&mut self, link: LinkKey, now: Millis, events: &mut Events) {
        let _ = (link, now, events);
    }

    /// Bytes came on a link. They may be changed in place and are gone afterwards.
    fn link_received(&mut self, link: LinkKey, bytes: &mut [u8], now: Millis, events: &mut Events) {
        let _ = (link, bytes, now, events);
    }

    /// A link has ended, or could not be opened. Last call for this link.
    fn link_closed(&mut self, link: LinkKey, end: LinkEnd, now: Millis, events: &mut Events) {
        let _ = (link, end, now, events);
    }
}
