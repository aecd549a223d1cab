//! The links of one tool server, and which exchange is on which.
//!
//! Invariants:
//! - A link is in `idle` exactly if it carries no exchange.
//! - Requests wait only while no link is idle and no more may be opened.
//! - `timeout_bound` is never later than the earliest deadline. It may be earlier:
//!   deadlines that are met are not taken back, so that a request costs no search.

use std::collections::{BTreeMap, VecDeque};

use super::exchange::{Exchange, Fault, Progress};
use super::{
    ExchangeEvent, ExchangeKey, Failure, FailureKind, HttpClientSettings, PoolFull, Request,
    SPARE_BYTES_MAX, Verb,
};
use crate::clock::Millis;
use crate::http1::client::{
    Ending, RequestStart, ResponseDecoder, check_request, excerpt, write_request,
};
use crate::upstream::{Events, LinkEnd, LinkKey};

/// The HTTP client of one tool server on one shard. See the module for its rules.
///
/// The `sink` that some functions take is given what happens to exchanges, at once
/// and in order; bytes in it live as long as the call of the sink.
#[derive(Debug)]
pub struct HttpClient {
    settings: HttpClientSettings,
    /// The header lines that all requests share.
    fixed_fields: Vec<u8>,
    links: BTreeMap<LinkKey, Link>,
    /// Links without an exchange, the most recently used last.
    idle: Vec<LinkKey>,
    waiting: VecDeque<Waiting>,
    /// Exchanges whose requests cannot be written, until their failures are told.
    unfit: Vec<(ExchangeKey, String)>,
    next_link: u64,
    next_exchange: u64,
    timeout_bound: Option<Millis>,
    /// An empty buffer for the next copy of a request.
    spare: Vec<u8>,
    notice: Option<String>,
}

#[derive(Debug)]
struct Link {
    decoder: ResponseDecoder,
    opened: bool,
    /// True if an exchange has ended on it.
    reused: bool,
    /// When what it does now has begun.
    since: Millis,
    deadline: Option<Millis>,
    exchange: Option<Exchange>,
}

/// An exchange without a link.
#[derive(Debug)]
struct Waiting {
    exchange: Exchange,
    request: Vec<u8>,
    repeatable: bool,
}

impl HttpClient {
    /// A client without links.
    ///
    /// # Panics
    /// If the authority, or a configured field, is not fit for a head.
    pub fn new(settings: HttpClientSettings) -> HttpClient {
        // RFC 9110, 12.5.3: without this field, any coding would be acceptable.
        let identity = [("Accept-Encoding", "identity")];
        let configured = settings.fields.iter().map(|(name, value)| (&**name, &**value));
        let fixed_fields =
            RequestStart::fixed_fields(&settings.authority, identity.into_iter().chain(configured));
        HttpClient {
            fixed_fields,
            links: BTreeMap::new(),
            idle: Vec::new(),
            waiting: VecDeque::new(),
            unfit: Vec::new(),
            next_link: 0,
            next_exchange: 0,
            timeout_bound: None,
            spare: Vec::new(),
            notice: None,
            settings,
        }
    }

    /// Begins an exchange: on an idle link, else on a new one, else it waits for one.
    ///
    /// # Errors
    /// [`PoolFull`]; nothing was begun.
    pub fn send(
        &mut self,
        request: &Request<'_>,
        now: Millis,
        events: &mut Events,
    ) -> Result<ExchangeKey, PoolFull> {
        // An abort may have made room.
        self.serve_waiting(now, events);
        let room = self.has_room();
        if self.idle.is_empty() && !room && self.waiting.len() >= self.settings.waiting_max {
            return Err(PoolFull {
                connections_max: self.connections_max(),
                waiting_max: self.settings.waiting_max,
            });
        }
        let key = ExchangeKey(self.next_exchange);
        self.next_exchange += 1;
        let timeout_ms = request.timeout_ms.unwrap_or(self.settings.head_timeout_ms);
        let mut exchange = Exchange::new(key, now, timeout_ms);
        let path = request.path.unwrap_or(&self.settings.path);
        if let Err(unfit) = check_request(path, fields(request)) {
            self.unfit.push((key, unfit.to_string()));
            self.timeout_bound = Some(Millis(0));
            return Ok(key);
        }
        if let Some(link) = self.idle.pop() {
            if request.repeatable {
                exchange.kept = std::mem::take(&mut self.spare);
                self.write(request, &mut exchange.kept);
                events.send(link, |out| out.extend_from_slice(&exchange.kept));
            } else {
                events.send(link, |out| self.write(request, out));
            }
            self.occupy(link, exchange, now);
        } else if room {
            let link = self.open_link(exchange, now, events);
            events.send(link, |out| self.write(request, out));
        } else {
            let mut bytes = std::mem::take(&mut self.spare);
            self.write(request, &mut bytes);
            self.lower_timeout(exchange.deadline);
            let repeatable = request.repeatable;
            self.waiting.push_back(Waiting { exchange, request: bytes, repeatable });
        }
        Ok(key)
    }

    /// Gives an exchange up: its link is closed, or it waits no longer. Nothing of it
    /// comes any more. One that has ended is not touched.
    pub fn abort(&mut self, exchange: ExchangeKey, events: &mut Events) {
        self.unfit.retain(|(key, _)| *key != exchange);
        if let Some(at) = self.waiting.iter().position(|waiting| waiting.exchange.key == exchange) {
            self.waiting.remove(at);
            return;
        }
        let carries = |link: &Link| link.exchange.as_ref().is_some_and(|on| on.key == exchange);
        let found = self.links.iter().find(|(_, link)| carries(link)).map(|(key, _)| *key);
        let Some(link) = found else { return };
        self.links.remove(&link);
        events.close_link(link);
        self.release_memory();
        if !self.waiting.is_empty() {
            // There is room for one of them now; without the time it cannot be sent from here.
            self.timeout_bound = Some(Millis(0));
        }
    }

    /// A link is open.
    pub fn link_opened<S: FnMut(ExchangeKey, ExchangeEvent<'_>)>(
        &mut self,
        link: LinkKey,
        now: Millis,
        _events: &mut Events,
        _sink: &mut S,
    ) {
        let Some(entry) = self.links.get_mut(&link) else { return };
        entry.opened = true;
        entry.since = now;
        entry.deadline = entry.exchange.as_ref().map(|exchange| exchange.deadline);
        if let Some(deadline) = entry.deadline {
            self.lower_timeout(deadline);
        }
    }

    /// Bytes came on a link.
    pub fn link_received<S: FnMut(ExchangeKey, ExchangeEvent<'_>)>(
        &mut self,
        link: LinkKey,
        bytes: &mut [u8],
        now: Millis,
        events: &mut Events,
        sink: &mut S,
    ) {
        let Some(entry) = self.links.get_mut(&link) else { return };
        if bytes.is_empty() {
            return;
        }
        let Some(exchange) = &mut entry.exchange else {
            self.notice = Some(format!(
                "the server sent `{}` on an idle connection, which was closed",
                excerpt(bytes)
            ));
            return self.drop_link(link, now, events);
        };
        if !entry.opened {
            let text =
                format!("the server sent `{}` before the request was sent to it", excerpt(bytes));
            let fault = Fault { kind: FailureKind::Malformed, text };
            return self.fail(link, fault, now, events, sink);
        }
        exchange.begun = true;
        let kept = std::mem::take(&mut exchange.kept);
        let progress = exchange.receive(&mut entry.decoder, bytes, &self.settings, sink);
        if exchange.is_stream() {
            entry.deadline = None;
        }
        self.reclaim(kept);
        match progress {
            Ok(Progress::Going) => {}
            Ok(Progress::Ended { idle_ms_max, extra }) => {
                let idle_ms_max = if extra.is_none() { idle_ms_max } else { 0 };
                if let Some(extra) = extra {
                    self.notice = Some(format!(
                        "the server sent `{extra}` behind an answer, and the connection was closed"
                    ));
                }
                self.settle(link, idle_ms_max, now, events);
            }
            Err(fault) => self.fail(link, fault, now, events, sink),
        }
    }

    /// A link has ended, or could not be opened.
    pub fn link_closed<S: FnMut(ExchangeKey, ExchangeEvent<'_>)>(
        &mut self,
        link: LinkKey,
        end: LinkEnd,
        now: Millis,
        events: &mut Events,
        sink: &mut S,
    ) {
        let Some(mut entry) = self.links.remove(&link) else { return };
        match entry.exchange.take() {
            None => self.idle.retain(|key| *key != link),
            Some(exchange) if !exchange.kept.is_empty() && !exchange.begun => {
                self.repeat(exchange, now, events);
            }
            Some(exchange) => self.conclude(entry, exchange, &end, sink),
        }
        self.serve_waiting(now, events);
        self.release_memory();
    }

    /// When [`HttpClient::handle_timeout`] wants to be called next; perhaps earlier than needed.
    pub fn poll_timeout(&self) -> Option<Millis> {
        self.timeout_bound
    }

    /// Time has reached [`HttpClient::poll_timeout`].
    pub fn handle_timeout<S: FnMut(ExchangeKey, ExchangeEvent<'_>)>(
        &mut self,
        now: Millis,
        events: &mut Events,
        sink: &mut S,
    ) {
        if self.timeout_bound.is_none_or(|bound| bound > now) {
            return;
        }
        for (key, text) in std::mem::take(&mut self.unfit) {
            sink(key, failed(FailureKind::Unfit, false, text, &[]));
        }
        let is_due = |link: &Link| link.deadline.is_some_and(|deadline| deadline <= now);
        let due: Vec<LinkKey> =
            self.links.iter().filter(|(_, link)| is_due(link)).map(|(key, _)| *key).collect();
        for link in due {
            match self.links.get(&link).and_then(|entry| entry.lateness(&self.settings, now)) {
                Some(text) => {
                    let fault = Fault { kind: FailureKind::TimedOut, text };
                    self.remove_failed(link, fault, events, sink);
                }
                None => self.remove_idle(link, events),
            }
        }
        self.drop_late_waiting(now, sink);
        self.serve_waiting(now, events);
        self.release_memory();
        let links = self.links.values().filter_map(|link| link.deadline);
        let waiting = self.waiting.iter().map(|waiting| waiting.exchange.deadline);
        self.timeout_bound = links.chain(waiting).min();
    }

    /// From now on so many requests may wait for a link; those that wait already do so on.
    pub fn set_waiting_max(&mut self, requests: usize) {
        self.settings.waiting_max = requests;
    }

    /// The server is no longer wanted: closes all links. No exchange's end is told.
    pub fn close_all(&mut self, events: &mut Events) {
        self.links.keys().for_each(|link| events.close_link(*link));
        self.links.clear();
        self.idle.clear();
        self.waiting.clear();
        self.unfit.clear();
        self.timeout_bound = None;
        self.release_memory();
    }

    /// Exchanges that have a link.
    pub fn in_flight(&self) -> usize {
        self.links.len() - self.idle.len()
    }

    /// Exchanges that wait for a link.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Links, opening, in use and idle.
    pub fn links(&self) -> usize {
        self.links.len()
    }

    /// What the server last sent that belongs to no exchange, in a sentence for the log.
    pub fn take_notice(&mut self) -> Option<String> {
        self.notice.take()
    }

    #[cfg(test)]
    pub(super) fn owns_nothing(&self) -> bool {
        self.spare.capacity() + self.waiting.capacity() + self.idle.capacity() == 0
    }

    fn connections_max(&self) -> usize {
        self.settings.connections_max.max(1)
    }

    fn has_room(&self) -> bool {
        self.links.len() < self.connections_max()
    }

    fn write(&self, request: &Request<'_>, out: &mut Vec<u8>) {
        let start = RequestStart {
            method: request.verb.name(),
            target: request.path.unwrap_or(&self.settings.path),
            fixed_fields: &self.fixed_fields,
        };
        let body = (request.verb == Verb::Post).then_some(request.body);
        write_request(out, &start, fields(request), body);
    }

    /// Opens a link for an exchange; the caller sends the request.
    fn open_link(&mut self, exchange: Exchange, now: Millis, events: &mut Events) -> LinkKey {
        let link = LinkKey::new(self.settings.owner, self.next_link);
        self.next_link += 1;
        events.open_link(link, self.settings.endpoint);
        let deadline = exchange.deadline.min(now + self.settings.connect_timeout_ms);
        self.lower_timeout(deadline);
        let entry = Link {
            decoder: ResponseDecoder::new(self.settings.head_bytes_max),
            opened: false,
            reused: false,
            since: now,
            deadline: Some(deadline),
            exchange: Some(exchange),
        };
        self.links.insert(link, entry);
        link
    }

    /// Puts an exchange on an idle link, which was taken from the list.
    fn occupy(&mut self, link: LinkKey, exchange: Exchange, now: Millis) {
        self.lower_timeout(exchange.deadline);
        if let Some(entry) = self.links.get_mut(&link) {
            entry.since = now;
            entry.deadline = Some(exchange.deadline);
            entry.exchange = Some(exchange);
        }
    }

    /// The answer on a link is complete, and the link of use for `idle_ms_max` more.
    fn settle(&mut self, link: LinkKey, idle_ms_max: u64, now: Millis, events: &mut Events) {
        let deadline = now + self.settings.idle_link_ms.min(idle_ms_max);
        if let Some(entry) = self.links.get_mut(&link).filter(|_| idle_ms_max > 0) {
            entry.exchange = None;
            entry.reused = true;
            entry.since = now;
            entry.deadline = Some(deadline);
            self.idle.push(link);
            self.lower_timeout(deadline);
            self.serve_waiting(now, events);
        } else {
            self.drop_link(link, now, events);
        }
    }

    /// Closes a link whose exchange, if it had one, has been told its end.
    fn drop_link(&mut self, link: LinkKey, now: Millis, events: &mut Events) {
        self.remove_idle(link, events);
        self.serve_waiting(now, events);
        self.release_memory();
    }

    fn remove_idle(&mut self, link: LinkKey, events: &mut Events) {
        self.links.remove(&link);
        self.idle.retain(|key| *key != link);
        events.close_link(link);
    }

    fn fail<S: FnMut(ExchangeKey, ExchangeEvent<'_>)>(
        &mut self,
        link: LinkKey,
        fault: Fault,
        now: Millis,
        events: &mut Events,
        sink: &mut S,
    ) {
        self.remove_failed(link, fault, events, sink);
        self.serve_waiting(now, events);
        self.release_memory();
    }

    fn remove_failed<S: FnMut(ExchangeKey, ExchangeEvent<'_>)>(
        &mut self,
        link: LinkKey,
        fault: Fault,
        events: &mut Events,
        sink: &mut S,
    ) {
        let Some(Link { exchange: Some(exchange), opened, .. }) = self.links.remove(&link) else {
            return;
        };
        events.close_link(link);
        sink(exchange.key, failed(fault.kind, opened, fault.text, exchange.last_event_id()));
    }

    /// Tells an exchange how its link's end has ended it.
    fn conclude<S: FnMut(ExchangeKey, ExchangeEvent<'_>)>(
        &self,
        mut link: Link,
        mut exchange: Exchange,
        end: &LinkEnd,
        sink: &mut S,
    ) {
        let authority = &self.settings.authority;
        let (kind, text) = match end {
            LinkEnd::Unreachable(why) | LinkEnd::Broken(why) if !link.opened => {
                (FailureKind::Unreachable, format!("cannot reach the server at {authority}: {why}"))
            }
            LinkEnd::Closed if !link.opened => (
                FailureKind::Unreachable,
                format!("the server at {authority} closed the connection before it was open"),
            ),
            LinkEnd::Unreachable(why) | LinkEnd::Broken(why) => (
                FailureKind::ClosedEarly,
                format!("the connection to {authority} broke before the answer was whole: {why}"),
            ),
            LinkEnd::Closed => match link.decoder.end() {
                Ok(Ending::Complete) => return exchange.end(sink),
                Ok(Ending::Idle) => (
                    FailureKind::ClosedEarly,
                    format!("the server at {authority} closed the connection without an answer"),
                ),
                Err(bad) => {
                    let fault = Fault::from(bad);
                    (fault.kind, fault.text)
                }
            },
        };
        sink(exchange.key, failed(kind, link.opened, text, exchange.last_event_id()));
    }

    /// RFC 9112, 9.3.1: "When an inbound connection is closed prematurely, a client MAY open a
    /// new connection and automatically retransmit" what is idempotent. A link that had served
    /// may have been closed by the server while the request was on its way.
    fn repeat(&mut self, mut exchange: Exchange, now: Millis, events: &mut Events) {
        let request = std::mem::take(&mut exchange.kept);
        let link = self.open_link(exchange, now, events);
        events.send(link, |out| out.extend_from_slice(&request));
        self.reclaim(request);
    }

    /// Gives links to those that wait, as far as there are any.
    fn serve_waiting(&mut self, now: Millis, events: &mut Events) {
        while !self.waiting.is_empty() && (!self.idle.is_empty() || self.has_room()) {
            let Some(Waiting { mut exchange, request, repeatable }) = self.waiting.pop_front()
            else {
                return;
            };
            if let Some(link) = self.idle.pop() {
                events.send(link, |out| out.extend_from_slice(&request));
                if repeatable {
                    exchange.kept = request;
                } else {
                    self.reclaim(request);
                }
                self.occupy(link, exchange, now);
            } else {
                let link = self.open_link(exchange, now, events);
                events.send(link, |out| out.extend_from_slice(&request));
                self.reclaim(request);
            }
        }
    }

    fn drop_late_waiting<S: FnMut(ExchangeKey, ExchangeEvent<'_>)>(
        &mut self,
        now: Millis,
        sink: &mut S,
    ) {
        let connections_max = self.connections_max();
        self.waiting.retain(|Waiting { exchange, .. }| {
            let late = exchange.deadline <= now;
            if late {
                let text = format!(
                    "no connection to the server became free within {} ms: all {connections_max} are in use",
                    exchange.timeout_ms
                );
                sink(exchange.key, failed(FailureKind::TimedOut, false, text, &[]));
            }
            !late
        });
    }

    fn lower_timeout(&mut self, deadline: Millis) {
        let bound = self.timeout_bound.unwrap_or(deadline);
        self.timeout_bound = Some(bound.min(deadline));
    }

    /// Keeps the memory of a request that is sent, if it is worth it.
    fn reclaim(&mut self, mut request: Vec<u8>) {
        if (self.spare.capacity() + 1..=SPARE_BYTES_MAX).contains(&request.capacity()) {
            request.clear();
            self.spare = request;
        }
    }

    fn release_memory(&mut self) {
        if self.links.is_empty() {
            self.spare = Vec::new();
            self.idle = Vec::new();
            if self.waiting.is_empty() {
                self.waiting = VecDeque::new();
            }
        }
    }
}

impl Link {
    /// What took too long on this link; `None` if it was merely idle.
    fn lateness(&self, settings: &HttpClientSettings, now: Millis) -> Option<String> {
        let exchange = self.exchange.as_ref()?;
        let authority = &settings.authority;
        if !self.opened {
            let waited_ms = now.since(self.since);
            return Some(format!(
                "no connection to {authority} within {waited_ms} ms: is the server up, and its address right?"
            ));
        }
        let timeout_ms = exchange.timeout_ms;
        if !exchange.awaits_head() {
            return Some(format!(
                "the server at {authority} did not end its answer within {timeout_ms} ms"
            ));
        }
        let partial = self.decoder.partial_head();
        Some(if partial.is_empty() {
            format!("the server at {authority} did not answer within {timeout_ms} ms")
        } else {
            format!(
                "the server at {authority} did not send a whole response head within {timeout_ms} ms, only `{partial}`"
            )
        })
    }
}

/// The fields of a request that are not the same in all.
fn fields<'a>(request: &Request<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
    let json = (request.verb == Verb::Post).then_some(("Content-Type", "application/json"));
    [("Accept", request.accept)].into_iter().chain(json).chain(request.fields.iter().copied())
}

fn failed(
    kind: FailureKind,
    sent: bool,
    text: String,
    last_event_id: &[u8],
) -> ExchangeEvent<'static> {
    ExchangeEvent::Failed(Failure { kind, sent, text, last_event_id: last_event_id.to_vec() })
}
