//! The embedded server as one of many: messages that never leave the process.
//!
//! It is spoken to as a modern server is, so it needs no sessions, and what it asks of a
//! client comes as `input_required`. What it does in a step is kept as [`Heard`] until the
//! step is over, as it is with servers that answer by HTTP.
//!
//! Each shard has an instance of its own; their messages to each other go through the
//! federation's.

use std::fmt;

use hashbrown::HashMap;
use shardgate_proto::clock::Millis;
use shardgate_proto::jsonrpc::{self, Envelope, Kind, Message, ScanLimits};
use shardgate_proto::mcp::version::ProtocolVersion;
use shardgate_proto::upstream::{
    Call, CallKey, Caller, Event, Events, Notification, Outcome, RouteId, Target, Upstream,
};

use super::Federation;
use super::server::Wire;
use super::session::UpKey;
use super::settings::FederationSettings;
use crate::embedded::{Embedded, EmbeddedConfig};

const VERSION: ProtocolVersion = ProtocolVersion::V2026_07_28;

/// Levels that a message may have beyond the client's own: what it answered to a
/// question is put into the next round's `inputResponses`.
const DEPTH_ADDED: usize = 8;

/// The embedded server of this shard.
pub(super) struct Inside {
    server: Box<Embedded>,
    /// What it wants done since the last look.
    effects: Events,
    /// Its calls, and the requests they carry out.
    calls: HashMap<CallKey, (UpKey, u64)>,
    /// Answers that it need not be asked for.
    answered: Vec<Heard>,
    made: u64,
    json_depth_max: usize,
    /// When it was last spoken to.
    last_at: Millis,
}

/// What is heard of it in one step.
#[derive(Debug)]
pub(super) enum Heard {
    /// A message that belongs to this request of this session.
    Message { session: UpKey, id: u64, text: Vec<u8> },
    /// For its instances on the other shards.
    Siblings(Vec<u8>),
}

impl fmt::Debug for Inside {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Inside").field("calls", &self.calls).finish_non_exhaustive()
    }
}

impl Inside {
    pub(super) fn new(settings: &FederationSettings) -> Inside {
        let config = EmbeddedConfig {
            seal_key: settings.seal_key,
            start_unix_ms: settings.start_unix_ms,
            shard: settings.shard,
            page_entries: settings.page_entries,
            // It is spoken to in the modern era; the catalog tells the others of tasks.
            tasks: None,
        };
        Inside {
            server: Box::new(Embedded::new(config)),
            effects: Events::new(),
            calls: HashMap::new(),
            answered: Vec::new(),
            made: 0,
            json_depth_max: settings.json_depth_max + DEPTH_ADDED,
            last_at: Millis(0),
        }
    }

    /// Takes one message of ours.
    pub(super) fn post(&mut self, session: UpKey, message: &[u8], now: Millis) {
        self.last_at = now;
        let limits = ScanLimits { depth_max: self.json_depth_max, ..Default::default() };
        // What the gateway writes is one message; were it not, its deadline would tell.
        let Ok(Message::Single(envelope)) = jsonrpc::scan(message, &limits) else { return };
        match envelope.kind() {
            Kind::Request(id) => {
                let number = std::str::from_utf8(id.raw()).ok().and_then(|id| id.parse().ok());
                if let Some(number) = number {
                    self.request(session, number, id.raw(), &envelope, now);
                }
            }
            Kind::Notification => self.notification(session, &envelope, now),
            // In the modern era it asks nothing that could be answered so.
            Kind::Result(_) | Kind::Error { .. } => {}
        }
    }

    fn request(
        &mut self,
        session: UpKey,
        number: u64,
        id: &[u8],
        envelope: &Envelope<'_>,
        now: Millis,
    ) {
        let method = envelope.method();
        if method == "server/discover" {
            let mut text = Vec::new();
            jsonrpc::write_result(&mut text, id, &self.discovered());
            return self.answered.push(Heard::Message { session, id: number, text });
        }
        self.made += 1;
        let key = CallKey(self.made);
        self.calls.insert(key, (session, number));
        let name = envelope.name().ok().flatten();
        let call = Call {
            key,
            caller: Caller::Stateless,
            route: RouteId::WHOLE,
            version: VERSION,
            id,
            method: &method,
            params: envelope.params(),
            name: name.as_deref(),
        };
        self.server.handle_call(&call, now, &mut self.effects);
    }

    /// MCP 2026-07-28, server/discover.
    fn discovered(&self) -> Vec<u8> {
        let capabilities = self.server.describe(VERSION).capabilities;
        format!("{{\"supportedVersions\":[\"{VERSION}\"],\"capabilities\":{capabilities}}}").into()
    }

    fn notification(&mut self, session: UpKey, envelope: &Envelope<'_>, now: Millis) {
        let method = envelope.method();
        if method == "notifications/cancelled" {
            let id = envelope.request_id().ok().flatten();
            let id = id.and_then(|id| std::str::from_utf8(id.raw()).ok()?.parse::<u64>().ok());
            if let Some(id) = id {
                self.cancel_where(now, |call| call == (session, id));
            }
            return;
        }
        let params = envelope.params();
        let notification = Notification { caller: Caller::Stateless, method: &method, params };
        self.server.handle_notification(&notification, now, &mut self.effects);
    }

    /// A session is over, and with it what it asked for.
    pub(super) fn end_session(&mut self, session: UpKey) {
        self.cancel_where(self.last_at, |(of, _)| of == session);
    }

    fn cancel_where(&mut self, now: Millis, meant: impl Fn((UpKey, u64)) -> bool) {
        let given_up = self.calls.iter().filter(|(_, call)| meant(**call));
        let given_up: Vec<CallKey> = given_up.map(|(key, _)| *key).collect();
        for key in given_up {
            self.calls.remove(&key);
            self.server.cancel(key, now, &mut self.effects);
        }
    }

    /// What its instance on another shard says.
    pub(super) fn hear_sibling(&mut self, message: &[u8], now: Millis) {
        self.server.handle_sibling(message, now, &mut self.effects);
    }

    pub(super) fn poll_timeout(&self) -> Option<Millis> {
        self.server.poll_timeout()
    }

    /// Goes on with calls that take time.
    pub(super) fn handle_timeout(&mut self, now: Millis) {
        if self.server.poll_timeout().is_some_and(|at| at <= now) {
            self.server.handle_timeout(now, &mut self.effects);
        }
    }

    /// What it has said since the last look, in order.
    fn take_heard(&mut self) -> Vec<Heard> {
        let mut heard = std::mem::take(&mut self.answered);
        for event in self.effects.list() {
            match event {
                Event::Answer { call, outcome, body } => {
                    // Given up, and answered all the same.
                    let Some((session, id)) = self.calls.remove(call) else { continue };
                    let body = self.effects.bytes(body);
                    let mut text = Vec::with_capacity(body.len() + 48);
                    let mut digits = itoa::Buffer::new();
                    let raw_id = digits.format(id).as_bytes();
                    match outcome {
                        Outcome::Result => jsonrpc::write_result(&mut text, raw_id, body),
                        Outcome::Error(_) => {
                            jsonrpc::write_error_response(&mut text, Some(raw_id), body);
                        }
                    }
                    heard.push(Heard::Message { session, id, text });
                }
                Event::Notify { target: Target::Call(call), message } => {
                    if let Some((session, id)) = self.calls.get(call).copied() {
                        let text = self.effects.bytes(message).to_vec();
                        heard.push(Heard::Message { session, id, text });
                    }
                }
                Event::Siblings { message } => {
                    heard.push(Heard::Siblings(self.effects.bytes(message).to_vec()));
                }
                // Without sessions nobody is asked outside of a call or polls for its answer,
                // and it has no servers of its own.
                Event::Notify { target: Target::Session(_), .. }
                | Event::Ask { .. }
                | Event::CloseStream { .. }
                | Event::OpenLink { .. }
                | Event::Send { .. }
                | Event::CloseLink { .. } => {}
            }
        }
        self.effects.clear();
        heard
    }
}

impl Federation {
    /// Takes in what the embedded server has said in this step. What follows from that may
    /// make it say more.
    pub(super) fn hear_inside(&mut self, now: Millis, events: &mut Events) {
        let Some(index) = self.inside else { return };
        loop {
            let Wire::Inside(inside) = &mut self.servers[usize::from(index)].wire else { return };
            let heard = inside.take_heard();
            if heard.is_empty() {
                return;
            }
            for heard in heard {
                match heard {
                    Heard::Message { session, id, text } => {
                        self.take_inside(index, session, id, &text, now, events);
                    }
                    Heard::Siblings(message) => {
                        super::siblings::write_inside(events, index, &message);
                    }
                }
            }
        }
    }

    /// What its instance on another shard says to this one's.
    pub(super) fn hear_sibling_inside(&mut self, server: u16, message: &[u8], now: Millis) {
        let server = self.servers.get_mut(usize::from(server));
        if let Some(Wire::Inside(inside)) = server.map(|server| &mut server.wire) {
            inside.hear_sibling(message, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federation::session::{Owner, Phase, Sessions};
    use std::sync::Arc;

    fn inside() -> (Inside, [UpKey; 2]) {
        let settings = FederationSettings {
            servers: Vec::new(),
            routes: Vec::new(),
            pins: Arc::default(),
            sightings: None,
            page_entries: 100,
            tasks: None,
            modern_tasks: false,
            seal_key: [7; 16],
            start_unix_ms: 0,
            shard: 0,
            shards: 1,
            message_bytes_max: 1 << 20,
            json_depth_max: 64,
        };
        let mut sessions = Sessions::default();
        let mut session = || sessions.insert(Owner::Everybody, VERSION, Phase::Ready, Millis(0));
        (Inside::new(&settings), [session(), session()])
    }

    fn sleep(id: u64) -> Vec<u8> {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"sleep","arguments":{{"ms":1000}},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{{"name":"n","version":"1"}},"io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
        )
        .into_bytes()
    }

    fn messages(inside: &mut Inside) -> Vec<(UpKey, u64)> {
        let heard = inside.take_heard().into_iter();
        let messages = heard.filter_map(|heard| match heard {
            Heard::Message { session, id, .. } => Some((session, id)),
            Heard::Siblings(_) => None,
        });
        messages.collect()
    }

    /// The same id in two sessions is two requests.
    #[test]
    fn a_cancellation_ends_that_call_alone() {
        let (mut inside, [one, two]) = inside();
        let now = Millis(5);
        for (session, id) in [(one, 1), (one, 2), (two, 1)] {
            inside.post(session, &sleep(id), now);
        }
        assert_eq!(inside.server.calls_in_flight(), 3);
        let cancel =
            br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
        inside.post(one, cancel, now);
        assert_eq!(inside.server.calls_in_flight(), 2);
        let due = inside.poll_timeout().expect("calls are under way");
        inside.handle_timeout(due);
        let mut answered = messages(&mut inside);
        answered.sort_by_key(|(_, id)| *id);
        assert_eq!(answered, [(two, 1), (one, 2)]);
        assert!(inside.calls.is_empty());
    }

    #[test]
    fn the_end_of_a_session_ends_its_calls() {
        let (mut inside, [one, two]) = inside();
        inside.post(one, &sleep(1), Millis(5));
        inside.post(two, &sleep(1), Millis(5));
        inside.end_session(one);
        assert_eq!(inside.server.calls_in_flight(), 1);
        assert_eq!(inside.calls.values().collect::<Vec<_>>(), [&(two, 1)]);
    }

    #[test]
    fn it_says_what_it_is() {
        let (mut inside, [one, _]) = inside();
        let discover = br#"{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{}}"#;
        inside.post(one, discover, Millis(5));
        let heard = inside.take_heard();
        let [Heard::Message { text, .. }] = heard.as_slice() else { panic!("{heard:?}") };
        let text = String::from_utf8_lossy(text);
        assert!(text.contains(r#""supportedVersions":["2026-07-28"]"#), "{text}");
        assert!(inside.take_heard().is_empty());
    }
}
