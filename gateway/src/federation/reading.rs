//! Reading a server's lists, in the background: clients get what was read last.

use std::borrow::Cow;

use shardgate_proto::catalog::{ListKind, Listing, ListingLimits};
use shardgate_proto::clock::Millis;
use shardgate_proto::jsonrpc;
use shardgate_proto::mcp::modern;
use shardgate_proto::mcp::version::{Era, ProtocolVersion};
use shardgate_proto::upstream::Events;

use super::Federation;
use super::opening::one_text;
use super::session::{Abilities, Pending, Phase};
use super::siblings;
use crate::metrics::ReadingResult;
use crate::pins::Sighting;

/// Changes that come in a row are read together, after so long.
const DEBOUNCE_MS: u64 = 50;

/// How far the reading of one server's lists is.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// What has been read so far.
    draft: Option<Listing>,
    /// Lists that remain, the current one last.
    remaining: Vec<ListKind>,
    /// When to read again.
    pub(super) next_at: Millis,
    /// Tries that failed in a row.
    pub(super) failures: u32,
    /// Something changed while the lists were read.
    again: bool,
    /// The server has been read, or has failed, at least once.
    pub(super) answered_once: bool,
}

impl Reading {
    /// The server says that a list has changed.
    fn wanted(&mut self, now: Millis) {
        if self.draft.is_some() {
            self.again = true;
        } else {
            self.next_at = self.next_at.min(now + DEBOUNCE_MS);
        }
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.draft.is_some()
    }

    /// Forgets what has been read so far: the session by which it was read is gone.
    pub(super) fn stop(&mut self) {
        self.draft = None;
        self.remaining.clear();
    }
}

impl Federation {
    /// A server says that one of its lists has changed: its home reads them anew.
    pub(super) fn list_changed(&mut self, index: u16, now: Millis) {
        let Some(server) = self.staying(index) else { return };
        server.reading.wanted(now);
        let at = server.reading.next_at;
        self.look_by(at);
    }

    /// Begins to read all lists of a server, by the gateway's own session.
    pub(super) fn read_lists(&mut self, index: u16, now: Millis, events: &mut Events) {
        let server = &mut self.servers[usize::from(index)];
        let Some(key) = server.catalog else { return self.probe_again(index, now, events) };
        let Some(session) = server.sessions.session(key) else { return };
        let reading = &mut server.reading;
        // What the server has is not known yet, and that is not to say that it has nothing:
        // once it is known the lists are read.
        if session.phase != Phase::Ready {
            reading.next_at = now + server.settings.refresh_ms;
            return;
        }
        let abilities = session.abilities;
        server.abilities = abilities;
        if reading.is_under_way() {
            return;
        }
        // In the reverse of the order in which they are read.
        let kinds = [
            (ListKind::Templates, abilities.resources),
            (ListKind::Resources, abilities.resources),
            (ListKind::Prompts, abilities.prompts),
            (ListKind::Tools, abilities.tools),
        ];
        reading.draft = Some(Listing::new());
        reading.remaining =
            kinds.into_iter().filter(|(_, offered)| *offered).map(|(kind, _)| kind).collect();
        reading.again = false;
        self.read_on(index, None, now, events);
    }

    /// The session by which lists were read has ended: begins with a new one.
    fn probe_again(&mut self, index: u16, now: Millis, events: &mut Events) {
        let server = &mut self.servers[usize::from(index)];
        server.reading.next_at = now + server.settings.refresh_ms;
        match server.era() {
            Some(Era::Legacy) => self.open_catalog_session(index, now, events),
            Some(Era::Modern) | None => {
                // What it speaks may have changed with a new release.
                let known = server.version.take();
                self.probe(index, now, events);
                self.servers[usize::from(index)].version = known;
            }
        }
    }

    /// Asks for the next page, or finishes.
    fn read_on(&mut self, index: u16, cursor: Option<&str>, now: Millis, events: &mut Events) {
        let server = &mut self.servers[usize::from(index)];
        let Some(kind) = server.reading.remaining.last().copied() else {
            return self.reading_done(index, now, events);
        };
        let Some(key) = server.catalog else { return };
        let method = kind.method();
        let mut raw_cursor = Vec::new();
        if let Some(cursor) = cursor {
            jsonrpc::write_string(&mut raw_cursor, cursor);
        }
        let era = server.era();
        let (params, fields) = match (era, cursor) {
            (Some(Era::Modern), _) => {
                let members: &[(&str, &[u8])] =
                    if cursor.is_some() { &[("cursor", &raw_cursor)] } else { &[] };
                (
                    self.modern_params(members),
                    vec![(Cow::Borrowed("Mcp-Method"), method.to_owned())],
                )
            }
            (_, Some(cursor)) => (one_text("cursor", cursor), Vec::new()),
            (_, None) => (b"{}".to_vec(), Vec::new()),
        };
        self.request(index, key, Pending::List(kind), method, &params, &fields, now, events);
    }

    /// A page has come.
    pub(super) fn take_page(
        &mut self,
        index: u16,
        kind: ListKind,
        result: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let reading = &mut self.servers[usize::from(index)].reading;
        let Some(draft) = &mut reading.draft else { return };
        match draft.add_page(kind, result, &ListingLimits::default()) {
            Ok(end) => {
                if end.next_cursor.is_none() {
                    reading.remaining.pop();
                }
                self.read_on(index, end.next_cursor.as_deref(), now, events);
            }
            Err(bad) => self.reading_failed(index, &bad.to_string(), now, events),
        }
    }

    /// The server refuses a list.
    pub(super) fn list_refused(
        &mut self,
        index: u16,
        kind: ListKind,
        code: i32,
        error: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let reading = &mut self.servers[usize::from(index)].reading;
        // Some declare resources and have no templates.
        if code == modern::METHOD_NOT_FOUND {
            reading.remaining.pop();
            return self.read_on(index, None, now, events);
        }
        let error = String::from_utf8_lossy(error);
        let why = format!("it refused {}: {error}", kind.method());
        self.reading_failed(index, &why, now, events);
    }

    /// The lists could not be read; what was read before stays.
    pub(super) fn reading_failed(
        &mut self,
        index: u16,
        why: &str,
        now: Millis,
        events: &mut Events,
    ) {
        self.servers[usize::from(index)].reading.stop();
        self.server_failed(index, why, now, events);
    }

    /// What a server offers, as its home shard has read it.
    pub(super) fn take_listing(
        &mut self,
        index: u16,
        (version, abilities): (ProtocolVersion, Abilities),
        listing: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let Ok(listing) = Listing::read(listing, &ListingLimits::default()) else { return };
        // The home may not have taken the configuration over yet that this shard has.
        let Some(server) = self.staying(index) else { return };
        server.abilities = abilities;
        server.listing = Some(listing);
        server.reading.answered_once = true;
        self.answered(index, version, now, events);
        self.rebuild(events);
        self.watch(index, now, events);
        self.lists_may_be_answered(now, events);
    }

    fn reading_done(&mut self, index: u16, now: Millis, events: &mut Events) {
        let server = &mut self.servers[usize::from(index)];
        let Some(listing) = server.reading.draft.take() else { return };
        // What it offers is its successor's affair by now.
        if server.leaving.is_some() {
            return server.reading.stop();
        }
        let pause = if server.reading.again { DEBOUNCE_MS } else { server.settings.refresh_ms };
        let next_at = now + pause;
        server.reading.next_at = next_at;
        server.reading.answered_once = true;
        server.counters.reading(ReadingResult::Worked);
        tracing::info!(
            event = "upstream_listed",
            upstream = server.name(),
            tools = listing.len(ListKind::Tools),
            prompts = listing.len(ListKind::Prompts),
            resources = listing.len(ListKind::Resources),
            templates = listing.len(ListKind::Templates),
        );
        if let Some(version) = server.version {
            let abilities = server.abilities;
            siblings::write_listing(events, index, version, abilities, &listing);
        }
        if server.settings.pinned
            && let Some(sightings) = &self.settings.sightings
        {
            let tools = listing.tool_definitions();
            let tools = tools.map(|(name, hash)| (name.to_owned(), hash)).collect();
            // If nobody has room for it now, it is told at the next reading.
            let _ = sightings.try_send(Sighting { upstream: server.name().to_owned(), tools });
        }
        server.listing = Some(listing);
        self.look_by(next_at);
        self.rebuild(events);
        self.watch(index, now, events);
        self.lists_may_be_answered(now, events);
    }
}
