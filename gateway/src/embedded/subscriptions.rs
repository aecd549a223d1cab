//! Who is told of changes: legacy subscribers and modern listeners.
//!
//! Invariant: a listener gets only what it asked for and was granted, tagged with
//! its own request id.
//!
//! Limits: [`LISTENS_MAX`] listeners and [`SUBSCRIPTIONS_MAX`] subscriptions per
//! shard, [`URIS_MAX`] addresses per listener or session.

use std::collections::{BTreeMap, BTreeSet};

use shardgate_proto::upstream::{Call, CallKey, Events, RouteId, SessionKey, Target};

use super::KEPT_ID_BYTES_MAX;
use super::answers::{Fault, put, put_string};
use super::scan;

/// Open `subscriptions/listen` calls per shard.
pub const LISTENS_MAX: usize = 65_536;

/// Legacy subscriptions per shard, over all sessions.
pub const SUBSCRIPTIONS_MAX: usize = 262_144;

/// Resource addresses one listener or one session may subscribe to.
pub const URIS_MAX: usize = 64;

/// What has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    Tools,
    Prompts,
    Resources,
    Resource(&'a str),
}

impl Change<'_> {
    fn method(self) -> &'static str {
        match self {
            Change::Tools => "notifications/tools/list_changed",
            Change::Prompts => "notifications/prompts/list_changed",
            Change::Resources => "notifications/resources/list_changed",
            Change::Resource(_) => "notifications/resources/updated",
        }
    }
}

/// A modern listener.
#[derive(Debug)]
struct Listen {
    /// The request's id, raw JSON.
    id: Box<[u8]>,
    route: RouteId,
    tools: bool,
    prompts: bool,
    resources: bool,
    uris: Vec<Box<str>>,
}

impl Listen {
    fn wants(&self, change: Change<'_>) -> bool {
        match change {
            Change::Tools => self.tools,
            Change::Prompts => self.prompts,
            Change::Resources => self.resources,
            Change::Resource(uri) => self.uris.iter().any(|wanted| **wanted == *uri),
        }
    }

    fn put_meta(&self, out: &mut Vec<u8>) {
        put(out, r#""_meta":{"io.modelcontextprotocol/subscriptionId":"#);
        out.extend_from_slice(&self.id);
        put(out, "}");
    }

    fn write_acknowledged(&self, out: &mut Vec<u8>) {
        put(
            out,
            r#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"#,
        );
        self.put_meta(out);
        put(out, r#","notifications":{"#);
        let mut comma = "";
        for (granted, name) in [
            (self.tools, "toolsListChanged"),
            (self.prompts, "promptsListChanged"),
            (self.resources, "resourcesListChanged"),
        ] {
            if granted {
                put(out, comma);
                put_string(out, name);
                put(out, ":true");
                comma = ",";
            }
        }
        if !self.uris.is_empty() {
            put(out, comma);
            put(out, r#""resourceSubscriptions":["#);
            for (at, uri) in self.uris.iter().enumerate() {
                put(out, if at > 0 { "," } else { "" });
                put_string(out, uri);
            }
            put(out, "]");
        }
        put(out, "}}}");
    }

    fn write_change(&self, change: Change<'_>, out: &mut Vec<u8>) {
        put(out, r#"{"jsonrpc":"2.0","method":""#);
        put(out, change.method());
        put(out, r#"","params":{"#);
        self.put_meta(out);
        if let Change::Resource(uri) = change {
            put(out, r#","uri":"#);
            put_string(out, uri);
        }
        put(out, "}}");
    }
}

/// All listeners and subscribers of a shard.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    listens: BTreeMap<CallKey, Listen>,
    by_uri: BTreeMap<Box<str>, BTreeSet<SessionKey>>,
    by_session: BTreeMap<SessionKey, Vec<Box<str>>>,
    count: usize,
}

impl Subscriptions {
    /// Opens a listener and acknowledges what is granted. `exists` tells which
    /// addresses can be watched.
    pub(crate) fn listen(
        &mut self,
        call: &Call<'_>,
        exists: impl Fn(&str) -> bool,
        events: &mut Events,
    ) -> Result<(), Fault> {
        if self.listens.len() >= LISTENS_MAX {
            return Err(Fault::Busy { what: "too many listeners", max: LISTENS_MAX });
        }
        if call.id.len() > KEPT_ID_BYTES_MAX {
            let why = format!("the id of a listen call has at most {KEPT_ID_BYTES_MAX} bytes");
            return Err(Fault::InvalidRequest(why));
        }
        let filter = call
            .params
            .and_then(|params| scan::member(params, "notifications"))
            .filter(|filter| scan::is_object(filter))
            .ok_or_else(|| {
                Fault::InvalidParams("params.notifications must be an object".to_owned())
            })?;
        let listen = Listen {
            id: call.id.into(),
            route: call.route,
            tools: flag(filter, "toolsListChanged")?,
            prompts: flag(filter, "promptsListChanged")?,
            resources: flag(filter, "resourcesListChanged")?,
            uris: addresses(filter, exists)?,
        };
        // MCP 2026-07-28, subscriptions: the acknowledgement is the first message of the stream.
        events.notify(Target::Call(call.key), |out| listen.write_acknowledged(out));
        self.listens.insert(call.key, listen);
        Ok(())
    }

    /// Closes a listener whose client is gone. False if there was none.
    pub(crate) fn forget_listen(&mut self, call: CallKey) -> bool {
        self.listens.remove(&call).is_some()
    }

    /// The resources that somebody wants to hear of.
    pub(crate) fn uris(&self) -> impl Iterator<Item = &str> {
        let listened = self.listens.values().flat_map(|listen| listen.uris.iter());
        self.by_uri.keys().chain(listened).map(|uri| &**uri)
    }

    /// Ends every listener with its final result.
    pub(crate) fn finish_listens(&mut self, events: &mut Events) {
        for (call, listen) in std::mem::take(&mut self.listens) {
            // MCP 2026-07-28, SubscriptionsListenResult: "sent only when the server tears
            // the subscription down".
            events.result(call, |out| {
                put(out, r#"{"resultType":"complete","#);
                listen.put_meta(out);
                put(out, "}");
            });
        }
    }

    /// Subscribes a legacy session; doing it twice changes nothing.
    pub(crate) fn subscribe(&mut self, session: SessionKey, uri: &str) -> Result<(), Fault> {
        let uris = self.by_session.entry(session).or_default();
        if uris.iter().any(|known| **known == *uri) {
            return Ok(());
        }
        let refused = if uris.len() >= URIS_MAX {
            Some(Fault::Busy { what: "too many subscriptions of this session", max: URIS_MAX })
        } else if self.count >= SUBSCRIPTIONS_MAX {
            Some(Fault::Busy { what: "too many subscriptions", max: SUBSCRIPTIONS_MAX })
        } else {
            None
        };
        if let Some(fault) = refused {
            if uris.is_empty() {
                self.by_session.remove(&session);
            }
            return Err(fault);
        }
        uris.push(uri.into());
        self.by_uri.entry(uri.into()).or_default().insert(session);
        self.count += 1;
        Ok(())
    }

    /// Ends a legacy subscription; one that is not there is fine.
    pub(crate) fn unsubscribe(&mut self, session: SessionKey, uri: &str) {
        let Some(uris) = self.by_session.get_mut(&session) else { return };
        let Some(at) = uris.iter().position(|known| **known == *uri) else { return };
        uris.swap_remove(at);
        if uris.is_empty() {
            self.by_session.remove(&session);
        }
        self.drop_link(session, uri);
    }

    /// Ends all subscriptions of a session.
    pub(crate) fn close_session(&mut self, session: SessionKey) {
        for uri in self.by_session.remove(&session).unwrap_or_default() {
            self.drop_link(session, &uri);
        }
    }

    fn drop_link(&mut self, session: SessionKey, uri: &str) {
        self.count -= 1;
        if let Some(sessions) = self.by_uri.get_mut(uri) {
            sessions.remove(&session);
            if sessions.is_empty() {
                self.by_uri.remove(uri);
            }
        }
    }

    /// Tells everybody concerned. List changes go to all of `sessions`, which is
    /// only walked for them, and to the listeners on `route`; `None` stands for all.
    pub(crate) fn announce(
        &self,
        change: Change<'_>,
        route: Option<RouteId>,
        sessions: impl Iterator<Item = SessionKey>,
        events: &mut Events,
    ) {
        for (call, listen) in &self.listens {
            if listen.wants(change) && route.is_none_or(|route| route == listen.route) {
                events.notify(Target::Call(*call), |out| listen.write_change(change, out));
            }
        }
        let write = |out: &mut Vec<u8>| {
            put(out, r#"{"jsonrpc":"2.0","method":""#);
            put(out, change.method());
            put(out, r#"""#);
            if let Change::Resource(uri) = change {
                put(out, r#","params":{"uri":"#);
                put_string(out, uri);
                put(out, "}");
            }
            put(out, "}");
        };
        match change {
            Change::Resource(uri) => {
                let subscribers = self.by_uri.get(uri).into_iter().flatten();
                events.notify_all(subscribers.map(|session| Target::Session(*session)), write);
            }
            Change::Tools | Change::Prompts | Change::Resources => {
                events.notify_all(sessions.map(Target::Session), write);
            }
        }
    }
}

fn flag(filter: &[u8], name: &str) -> Result<bool, Fault> {
    match scan::member(filter, name) {
        None | Some(b"false") => Ok(false),
        Some(b"true") => Ok(true),
        Some(_) => {
            Err(Fault::InvalidParams(format!("params.notifications.{name} must be a boolean")))
        }
    }
}

/// The addresses asked for, without those that do not exist: only what the server
/// supports is granted.
fn addresses(filter: &[u8], exists: impl Fn(&str) -> bool) -> Result<Vec<Box<str>>, Fault> {
    use simd_json::prelude::*;
    let Some(list) = scan::member(filter, "resourceSubscriptions") else { return Ok(Vec::new()) };
    let wrong = || {
        Fault::InvalidParams(
            "params.notifications.resourceSubscriptions must be an array of strings".to_owned(),
        )
    };
    if !scan::is_shallow(list) {
        return Err(wrong());
    }
    let mut bytes = list.to_vec();
    let list = simd_json::to_borrowed_value(&mut bytes).map_err(|_| wrong())?;
    let list = list.as_array().ok_or_else(wrong)?;
    if list.len() > URIS_MAX {
        return Err(Fault::InvalidParams(format!(
            "params.notifications.resourceSubscriptions has {} addresses, at most {URIS_MAX} are kept",
            list.len()
        )));
    }
    let mut uris: Vec<Box<str>> = Vec::new();
    for entry in list.iter() {
        let uri = entry.as_str().ok_or_else(wrong)?;
        if exists(uri) && !uris.iter().any(|known| **known == *uri) {
            uris.push(uri.into());
        }
    }
    Ok(uris)
}
