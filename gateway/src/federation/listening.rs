//! Who hears of changes: subscriptions of clients, and the watches on servers that
//! they need.
//!
//! A legacy client's subscription at a legacy server is that server's affair, in the
//! client's own session. In every other pairing the gateway subscribes once for all.

use std::borrow::Cow;
use std::collections::BTreeSet;

use shardgate_proto::clock::Millis;
use shardgate_proto::http_client::ExchangeKey;
use shardgate_proto::jsonrpc;
use shardgate_proto::mcp::modern;
use shardgate_proto::mcp::version::Era;
use shardgate_proto::upstream::{Call, Events, SessionKey};

use super::opening::one_text;
use super::server::{Outgoing, Server, Use};
use super::session::{Pending, Phase, UpKey};
use super::{Federation, fault};
use crate::embedded::subscriptions::Change;

/// A watch that has ended is opened again after so long.
const WATCH_RETRY_MS: u64 = 5_000;

/// What the gateway watches at one server.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The resources.
    uris: BTreeSet<Box<str>>,
    /// The request of a modern server's listen stream.
    listen: Option<(u64, Option<ExchangeKey>)>,
    /// When to try again.
    pub(super) retry_at: Option<Millis>,
}

impl Watch {
    /// True if nobody needs it.
    pub(super) fn is_idle(&self) -> bool {
        self.uris.is_empty() && self.listen.is_none()
    }
}

impl Federation {
    /// `resources/subscribe` and `resources/unsubscribe` of a legacy client. True if the
    /// call is answered; else it goes to the client's own session with the server.
    pub(super) fn subscribe(
        &mut self,
        call: &Call<'_>,
        (index, client, uri): (u16, SessionKey, &str),
        now: Millis,
        events: &mut Events,
    ) -> bool {
        let subscribes = call.method == "resources/subscribe";
        if let Some(entry) = self.clients.get_mut(&client) {
            entry.watched.retain(|watched| (watched.0, &*watched.1) != (index, uri));
            if subscribes {
                entry.watched.push((index, uri.into()));
            }
        }
        if self.servers[usize::from(index)].era() == Some(Era::Legacy) {
            return false;
        }
        if subscribes {
            if let Err(refused) = self.subscriptions.subscribe(client, uri) {
                fault::refuse(events, call.key, refused.code(), &refused.to_string());
                return true;
            }
        } else {
            self.subscriptions.unsubscribe(client, uri);
        }
        self.watch(index, now, events);
        events.result(call.key, |out| out.extend_from_slice(b"{}"));
        true
    }

    /// `subscriptions/listen` of a modern client.
    pub(super) fn open_listen(&mut self, call: &Call<'_>, now: Millis, events: &mut Events) {
        let catalog = self.views.catalog(call.route);
        let exists = |uri: &str| catalog.resource(uri).is_some();
        let opened = self.subscriptions.listen(call, exists, events);
        if let Err(refused) = opened {
            return fault::refuse(events, call.key, refused.code(), &refused.to_string());
        }
        self.watch_all(now, events);
    }

    /// Brings the watches of all servers up to what clients want.
    pub(super) fn watch_all(&mut self, now: Millis, events: &mut Events) {
        for index in 0..self.servers.len() {
            self.watch(index as u16, now, events);
        }
    }

    /// Brings the watch of one server up to what clients want.
    pub(super) fn watch(&mut self, index: u16, now: Millis, events: &mut Events) {
        if self.servers[usize::from(index)].leaving.is_some() {
            return;
        }
        let wanted: BTreeSet<Box<str>> = self
            .subscriptions
            .uris()
            .filter(|uri| self.views.leads_to(uri, index))
            .map(Box::<str>::from)
            .collect();
        match self.servers[usize::from(index)].era() {
            Some(Era::Modern) => self.watch_modern(index, wanted, now, events),
            Some(Era::Legacy) => self.watch_legacy(index, wanted, now, events),
            None => {}
        }
    }

    fn watch_modern(
        &mut self,
        index: u16,
        wanted: BTreeSet<Box<str>>,
        now: Millis,
        events: &mut Events,
    ) {
        let home = self.home(index) == self.settings.shard;
        let watch = &mut self.servers[usize::from(index)].watch;
        if watch.listen.is_some() && watch.uris == wanted {
            return;
        }
        // Changes of lists are heard by the server's home alone.
        if wanted.is_empty() && watch.listen.is_none() && !home {
            return;
        }
        let old = watch.listen.take();
        let filter = written_filter(&wanted);
        watch.uris = wanted;
        watch.retry_at = None;
        let session = self.everybodys_session(index, now, events);
        let params = self.modern_params(&[("notifications", &filter)]);
        let server = &mut self.servers[usize::from(index)];
        let Some(entry) = server.sessions.session(session) else { return };
        let id = entry.next_id();
        entry.pending.insert(id, Pending::Listen);
        let mut body = Vec::new();
        let method = "subscriptions/listen";
        jsonrpc::write_request(&mut body, id.to_string().as_bytes(), method, Some(&params));
        let fields = [(Cow::Borrowed("Mcp-Method"), method.to_owned())];
        let message =
            Outgoing { body: &body, fields: &fields, repeatable: true, patience_ms: None };
        match server.post(session, Use::Request(id), &message, now, events) {
            Ok(exchange) => server.watch.listen = Some((id, exchange)),
            Err(_) => server.watch.retry_at = Some(now + WATCH_RETRY_MS),
        }
        // The new stream stands before the old one goes, so that nothing is missed.
        if let Some((id, exchange)) = old {
            self.end_listen(index, session, id, exchange, now, events);
        }
    }

    fn end_listen(
        &mut self,
        index: u16,
        session: UpKey,
        id: u64,
        exchange: Option<ExchangeKey>,
        now: Millis,
        events: &mut Events,
    ) {
        let server = &mut self.servers[usize::from(index)];
        if let Some(entry) = server.sessions.session(session) {
            entry.pending.remove(&id);
        }
        match exchange {
            Some(exchange) => server.abort(exchange, events),
            None => {
                let params = format!("{{\"requestId\":{id}}}");
                let mut body = Vec::new();
                let method = "notifications/cancelled";
                jsonrpc::write_notification(&mut body, method, Some(params.as_bytes()));
                let _ = server.post(session, Use::Note, &Outgoing::plain(&body), now, events);
            }
        }
    }

    /// A listen stream has ended; it is opened again at the next look.
    pub(super) fn watch_ended(&mut self, index: u16, now: Millis) {
        let watch = &mut self.servers[usize::from(index)].watch;
        watch.listen = None;
        watch.retry_at = Some(now + WATCH_RETRY_MS);
    }

    /// Modern clients' subscriptions at a legacy server, in the session they share.
    fn watch_legacy(
        &mut self,
        index: u16,
        wanted: BTreeSet<Box<str>>,
        now: Millis,
        events: &mut Events,
    ) {
        let watch = &mut self.servers[usize::from(index)].watch;
        if watch.uris == wanted {
            return;
        }
        let session = self.everybodys_session(index, now, events);
        let server = &mut self.servers[usize::from(index)];
        let ready =
            server.sessions.session(session).is_some_and(|session| session.phase == Phase::Ready);
        if !ready {
            // `ready` comes here again.
            return;
        }
        let old = std::mem::replace(&mut server.watch.uris, wanted.clone());
        for uri in wanted.difference(&old) {
            let method = "resources/subscribe";
            let params = one_text("uri", uri);
            let chore = Pending::Chore(method);
            self.request(index, session, chore, method, &params, &[], now, events);
        }
        for uri in old.difference(&wanted) {
            let method = "resources/unsubscribe";
            let params = one_text("uri", uri);
            let chore = Pending::Chore(method);
            self.request(index, session, chore, method, &params, &[], now, events);
        }
    }

    /// The session in which a legacy server was watched is gone.
    pub(super) fn forget_watch(&mut self, index: u16) {
        let watch = &mut self.servers[usize::from(index)].watch;
        if !watch.uris.is_empty() || watch.listen.is_some() {
            watch.uris.clear();
            watch.listen = None;
            watch.retry_at = Some(Millis(0));
        }
    }

    /// A resource has changed, says a server in a session that is not one client's.
    pub(super) fn announce_update(&mut self, uri: &str, events: &mut Events) {
        let nobody = std::iter::empty();
        self.subscriptions.announce(Change::Resource(uri), None, nobody, events);
    }

    /// Merges the lists anew and tells clients of what has changed.
    pub(super) fn rebuild(&mut self, events: &mut Events) {
        // In the order of the configuration, without those that leave.
        let numbers = self.settings.servers.iter().map(|server| server.endpoint.0);
        let servers: Vec<&Server> =
            numbers.filter_map(|number| self.servers.get(usize::from(number))).collect();
        for (route, changes) in self.views.rebuild(&servers) {
            for (changed, change) in [
                (changes.tools, Change::Tools),
                (changes.prompts, Change::Prompts),
                (changes.resources, Change::Resources),
            ] {
                if changed {
                    let there = self.clients.iter().filter(|(_, client)| client.route == route);
                    let there = there.map(|(session, _)| *session);
                    self.subscriptions.announce(change, Some(route), there, events);
                }
            }
        }
    }

    /// What a list or subscription names that is not there.
    pub(super) fn refuse_unknown_resource(call: &Call<'_>, uri: &str, events: &mut Events) {
        // MCP 2025-11-25, resources: -32002; MCP 2026-07-28 has -32602 for it.
        let code = match call.version.era() {
            Era::Legacy => -32002,
            Era::Modern => modern::INVALID_PARAMS,
        };
        let data = one_text("uri", uri);
        let text = "resource not found: no tool server lists it or has a template for it";
        events.error(call.key, code, |out| {
            jsonrpc::write_error_object(out, jsonrpc::ErrorCode(code), text, Some(&data));
        });
    }
}

fn written_filter(uris: &BTreeSet<Box<str>>) -> Vec<u8> {
    let mut out =
        br#"{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true"#
            .to_vec();
    if !uris.is_empty() {
        out.extend_from_slice(b",\"resourceSubscriptions\":[");
        for (at, uri) in uris.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            jsonrpc::write_string(&mut out, uri);
        }
        out.push(b']');
    }
    out.push(b'}');
    out
}
