//! The legacy era's session: calls in flight, streams, requests to the client.
//!
//! Sans-IO. `C` names whatever carries a stream (an open HTTP exchange). The
//! machine decides which stream a message belongs to, gives it an event id and
//! remembers it; the caller writes the bytes.
//!
//! Invariants:
//! - Each message is recorded in exactly one stream
//!   (MCP 2025-11-25, transports: "MUST NOT broadcast the same message across multiple streams").
//! - What comes for the session while nobody listens waits, within the log's limits, in
//!   the standing stream that was listened to last (stream 0 before the first GET). The
//!   next GET without an id takes that stream over, and one with an id resumes it.
//! - A request id is in flight at most once.

use crate::clock::Millis;
use crate::mcp::event_log::{LogLimits, LoggedEvent, Sequence};
use crate::mcp::stream::{Epoch, EventId, Stream, StreamKind, StreamNumber};
use crate::mcp::version::ProtocolVersion;
use crate::upstream::{AskKey, CallKey};

/// Bounds of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Requests in flight.
    pub in_flight_max: usize,
    /// Streams that a client listens to.
    pub open_streams_max: usize,
    /// Streams, complete ones that can still be resumed included.
    pub streams_max: usize,
    /// Each stream's memory.
    pub log: LogLimits,
    /// Bytes that all streams remember together. The newest event is kept even if it
    /// alone is larger.
    pub bytes_max: usize,
}

impl Default for SessionLimits {
    fn default() -> SessionLimits {
        SessionLimits {
            in_flight_max: 64,
            open_streams_max: 16,
            streams_max: 144,
            log: LogLimits::default(),
            bytes_max: 8 * LogLimits::default().bytes_max,
        }
    }
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallRefused {
    /// JSON-RPC 2.0 and MCP, base protocol: an id must not be used twice in a session.
    #[error("a request with this id is still in flight in this session")]
    DuplicateId,
    /// The session's limit is reached.
    #[error("limit in_flight_per_session_max reached: {0} requests are in flight")]
    TooMany(usize),
}

/// Why a stream was not opened or resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamRefused {
    /// `Last-Event-ID` isn't an id this session issued, or its stream is forgotten.
    #[error(
        "Last-Event-ID names no stream of this session, or one of which all was received; open \
         a new stream without Last-Event-ID"
    )]
    UnknownEvent,
    /// The session's limit is reached.
    #[error("limit streams_per_session_max reached: {0} streams are open")]
    TooMany(usize),
}

/// One request in flight.
#[derive(Debug)]
struct InFlight {
    /// Raw JSON text of the id: a number 1 and a string "1" differ.
    id: Box<[u8]>,
    call: CallKey,
}

/// One request to the client that has no reply yet.
#[derive(Clone, Copy, Debug)]
struct Asked {
    wire_id: u32,
    ask: AskKey,
    call: Option<CallKey>,
}

/// Where a recorded message goes out now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded<C> {
    /// Its id on the wire.
    pub event: EventId,
    /// The stream's carrier, if a client listens.
    pub carrier: Option<C>,
}

/// What a resumed stream has to send first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumption<C> {
    /// The stream that goes on.
    pub stream: StreamNumber,
    /// The carrier it had, which is to be ended: one stream, one carrier.
    pub replaced: Option<C>,
    /// Events behind this one are to be replayed.
    pub after: Sequence,
    /// True if some of them are no longer remembered.
    pub gap: bool,
}

/// A legacy session.
#[derive(Debug)]
pub struct Session<C> {
    version: ProtocolVersion,
    epoch: Epoch,
    next_stream: u32,
    next_ask: u32,
    in_flight: Vec<InFlight>,
    asked: Vec<Asked>,
    streams: Vec<Stream<C>>,
}

const STANDING: StreamNumber = StreamNumber(0);

impl<C: Copy + PartialEq> Session<C> {
    /// A session that has just been initialized in `version`.
    pub fn new(version: ProtocolVersion, epoch: Epoch) -> Session<C> {
        Session {
            version,
            epoch,
            next_stream: 1,
            next_ask: 1,
            in_flight: Vec::new(),
            asked: Vec::new(),
            streams: Vec::new(),
        }
    }

    /// The negotiated revision.
    pub fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// Checks that a request may begin: its id is free and the limit not reached.
    pub fn admit_call(&self, id: &[u8], limits: &SessionLimits) -> Result<(), CallRefused> {
        if self.in_flight.iter().any(|call| *call.id == *id) {
            return Err(CallRefused::DuplicateId);
        }
        if self.in_flight.len() >= limits.in_flight_max {
            return Err(CallRefused::TooMany(self.in_flight.len()));
        }
        Ok(())
    }

    /// An admitted request was not answered at once: it is in flight from now on.
    pub fn begin_call(&mut self, id: &[u8], call: CallKey) {
        self.in_flight.push(InFlight { id: id.into(), call });
    }

    /// The call with this request id.
    pub fn find_call(&self, id: &[u8]) -> Option<CallKey> {
        self.in_flight.iter().find(|call| *call.id == *id).map(|call| call.call)
    }

    /// The call was answered or given up; what it asked the client is void.
    pub fn end_call(&mut self, call: CallKey) {
        self.in_flight.retain(|entry| entry.call != call);
        self.asked.retain(|asked| asked.call != Some(call));
        if self.in_flight.is_empty() {
            self.in_flight = Vec::new();
        }
    }

    /// All calls in flight.
    pub fn calls(&self) -> impl Iterator<Item = CallKey> {
        self.in_flight.iter().map(|call| call.call)
    }

    /// Notes a request to the client and gives the id it has on the wire.
    pub fn ask(&mut self, ask: AskKey, call: Option<CallKey>) -> u32 {
        let wire_id = self.next_ask;
        self.next_ask = self.next_ask.wrapping_add(1);
        self.asked.push(Asked { wire_id, ask, call });
        wire_id
    }

    /// Takes the request that a reply with this raw JSON id belongs to. A reply
    /// that comes twice, or for nothing, finds none.
    pub fn take_ask(&mut self, id: &[u8]) -> Option<AskKey> {
        let wire_id: u32 = std::str::from_utf8(id).ok()?.parse().ok()?;
        let at = self.asked.iter().position(|asked| asked.wire_id == wire_id)?;
        Some(self.asked.swap_remove(at).ask)
    }

    /// Requests to the client without a reply.
    pub fn asks_open(&self) -> usize {
        self.asked.len()
    }

    /// Opens the stream of a POST with `open` unanswered requests. Where there are
    /// too many streams already, the oldest that is only kept for resumption goes.
    pub fn open_calls(
        &mut self,
        open: u16,
        carrier: Option<C>,
        now: Millis,
        limits: &SessionLimits,
    ) -> StreamNumber {
        if self.streams.len() >= limits.streams_max
            && let Some(oldest) = self.streams.iter().position(is_leftover)
        {
            self.streams.remove(oldest);
        }
        let number = self.fresh_number();
        let mut stream = Stream::new(number, StreamKind::Calls { open }, now);
        stream.carrier = carrier;
        self.streams.push(stream);
        number
    }

    /// Opens a standing stream (GET without Last-Event-ID). One that nobody listens to is
    /// taken over with what waits there: the one that was listened to last.
    pub fn open_standing(
        &mut self,
        carrier: C,
        now: Millis,
        limits: &SessionLimits,
    ) -> Result<Resumption<C>, StreamRefused> {
        self.prune(now, limits);
        let at = match self.latest_standing(false) {
            Some(at) => at,
            None if self.carried() >= limits.open_streams_max => {
                return Err(StreamRefused::TooMany(self.carried()));
            }
            None if self.stream_mut(STANDING).is_some() => {
                let number = self.fresh_number();
                self.add_standing(number, now)
            }
            None => self.add_standing(STANDING, now),
        };
        let stream = &mut self.streams[at];
        stream.carrier = Some(carrier);
        stream.changed = now;
        let after = stream.sent;
        let gap = stream.log.has_gap_after(after);
        Ok(Resumption { stream: stream.number, replaced: None, after, gap })
    }

    /// Goes on with the stream that `last_event_id` belongs to
    /// (MCP 2025-11-25, transports, resumability: whatever opened the stream).
    pub fn resume(
        &mut self,
        last_event_id: &[u8],
        carrier: C,
        now: Millis,
    ) -> Result<Resumption<C>, StreamRefused> {
        let event = EventId::parse(last_event_id).ok_or(StreamRefused::UnknownEvent)?;
        if event.epoch != self.epoch {
            return Err(StreamRefused::UnknownEvent);
        }
        let stream = self.stream_mut(event.stream).ok_or(StreamRefused::UnknownEvent)?;
        // A client that is told "200" and nothing would come back for ever.
        let nothing_left = stream.is_complete() && event.sequence == stream.log.last();
        if event.sequence > stream.log.last() || nothing_left {
            return Err(StreamRefused::UnknownEvent);
        }
        let replaced = stream.carrier.replace(carrier);
        stream.changed = now;
        let gap = stream.log.has_gap_after(event.sequence);
        Ok(Resumption { stream: event.stream, replaced, after: event.sequence, gap })
    }

    /// The events to replay on a stream, in order, with their ids.
    pub fn replay(
        &self,
        stream: StreamNumber,
        after: Sequence,
    ) -> impl Iterator<Item = (EventId, &LoggedEvent)> {
        let epoch = self.epoch;
        let log = self.streams.iter().find(|entry| entry.number == stream).map(|entry| &entry.log);
        log.into_iter()
            .flat_map(move |log| log.after(after))
            .map(move |event| (EventId { stream, epoch, sequence: event.sequence }, event))
    }

    /// All that is recorded has been handed to the stream's carrier.
    pub fn mark_sent(&mut self, stream: StreamNumber) {
        if let Some(stream) = self.stream_mut(stream) {
            stream.sent = stream.log.last();
        }
    }

    /// The id of a priming event: it has no data and is not remembered.
    pub fn prime(&mut self, stream: StreamNumber) -> Option<EventId> {
        let epoch = self.epoch;
        let stream = self.stream_mut(stream)?;
        let sequence = stream.log.skip();
        stream.sent = sequence;
        Some(EventId { stream: stream.number, epoch, sequence })
    }

    /// Records a message in a stream; `None` if the stream is forgotten.
    pub fn record(
        &mut self,
        stream: StreamNumber,
        data: &[u8],
        now: Millis,
        limits: &SessionLimits,
    ) -> Option<Recorded<C>> {
        let epoch = self.epoch;
        let stream = self.stream_mut(stream)?;
        let sequence = stream.log.record(data.into(), now, &limits.log);
        if stream.carrier.is_some() {
            stream.sent = sequence;
        } else {
            stream.changed = now;
        }
        let event = EventId { stream: stream.number, epoch, sequence };
        let carrier = stream.carrier;
        self.keep_within(limits.bytes_max);
        Some(Recorded { event, carrier })
    }

    /// Forgets the oldest events of all streams beyond the limit.
    fn keep_within(&mut self, bytes_max: usize) {
        let mut bytes: usize = self.streams.iter().map(|stream| stream.log.bytes()).sum();
        while bytes > bytes_max {
            let events: usize = self.streams.iter().map(|stream| stream.log.len()).sum();
            let oldest = self
                .streams
                .iter_mut()
                .filter(|stream| !stream.log.is_empty())
                .min_by_key(|stream| stream.log.oldest());
            match oldest {
                Some(stream) if events > 1 => bytes -= stream.log.forget_oldest(),
                Some(_) | None => return,
            }
        }
    }

    /// The standing stream that changed last, of those that are carried or of those that
    /// are not.
    fn latest_standing(&self, carried: bool) -> Option<usize> {
        self.streams
            .iter()
            .enumerate()
            .filter(|(_, stream)| stream.kind == StreamKind::Standing)
            .filter(|(_, stream)| stream.carrier.is_some() == carried)
            .max_by_key(|(_, stream)| stream.changed)
            .map(|(at, _)| at)
    }

    /// Records a message that belongs to no request: in the carried standing stream that
    /// was opened last, else in the one that was carried last, where it waits.
    pub fn record_standing(
        &mut self,
        data: &[u8],
        now: Millis,
        limits: &SessionLimits,
    ) -> Option<Recorded<C>> {
        let at = match self.latest_standing(true).or_else(|| self.latest_standing(false)) {
            Some(at) => at,
            None => self.add_standing(STANDING, now),
        };
        let number = self.streams[at].number;
        self.record(number, data, now, limits)
    }

    /// One request of a POST's stream was answered. True if it was the last one.
    pub fn answer_recorded(&mut self, stream: StreamNumber) -> bool {
        let Some(stream) = self.stream_mut(stream) else { return true };
        if let StreamKind::Calls { open } = &mut stream.kind {
            *open = open.saturating_sub(1);
        }
        stream.is_complete()
    }

    /// The carrier is gone or was ended; the stream itself goes on.
    pub fn carrier_gone(&mut self, stream: StreamNumber, carrier: C, now: Millis) {
        if let Some(stream) = self.stream_mut(stream)
            && stream.carrier == Some(carrier)
        {
            stream.carrier = None;
            stream.changed = now;
        }
    }

    /// The carrier of a stream, if it has one.
    pub fn carrier(&self, stream: StreamNumber) -> Option<C> {
        self.streams.iter().find(|entry| entry.number == stream)?.carrier
    }

    /// True if nothing more will come on this stream.
    pub fn is_complete(&self, stream: StreamNumber) -> bool {
        self.streams
            .iter()
            .find(|entry| entry.number == stream)
            .is_none_or(|entry| entry.is_complete())
    }

    /// True if the stream belongs to no request.
    pub fn is_standing(&self, stream: StreamNumber) -> bool {
        let standing = |entry: &Stream<C>| entry.kind == StreamKind::Standing;
        self.streams.iter().any(|entry| entry.number == stream && standing(entry))
    }

    /// Streams with a carrier.
    pub fn carried(&self) -> usize {
        self.streams.iter().filter(|stream| stream.carrier.is_some()).count()
    }

    /// Standing streams with a carrier.
    pub fn standing_carriers(&self) -> impl Iterator<Item = StreamNumber> {
        let carried =
            |stream: &&Stream<C>| stream.kind == StreamKind::Standing && stream.carrier.is_some();
        self.streams.iter().filter(carried).map(|stream| stream.number)
    }

    /// All carriers, to be ended with the session.
    pub fn carriers(&self) -> impl Iterator<Item = (StreamNumber, C)> {
        self.streams.iter().filter_map(|stream| Some((stream.number, stream.carrier?)))
    }

    /// Forgets old events, and streams nobody can want again: complete or
    /// superseded ones without carrier, when their age is over the log's or when
    /// there are too many of them (the oldest go first).
    pub fn prune(&mut self, now: Millis, limits: &SessionLimits) {
        for stream in &mut self.streams {
            stream.log.prune(now, &limits.log);
        }
        self.streams.retain(|stream| {
            !is_leftover(stream) || now.since(stream.changed) <= limits.log.age_ms_max
        });
        let excess = self.streams.len().saturating_sub(limits.streams_max);
        for _ in 0..excess {
            let oldest = self
                .streams
                .iter()
                .enumerate()
                .filter(|(_, stream)| is_leftover(stream))
                .min_by_key(|(_, stream)| stream.changed)
                .map(|(at, _)| at);
            match oldest {
                Some(at) => drop(self.streams.remove(at)),
                None => break,
            }
        }
        if self.streams.is_empty() {
            self.streams = Vec::new();
        }
    }

    /// Streams that exist, whether carried or not.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    fn fresh_number(&mut self) -> StreamNumber {
        let number = self.next_stream;
        self.next_stream += 1;
        StreamNumber(number)
    }

    fn add_standing(&mut self, number: StreamNumber, now: Millis) -> usize {
        // A plain session has one stream: don't reserve four.
        if self.streams.is_empty() {
            self.streams.reserve_exact(1);
        }
        self.streams.push(Stream::new(number, StreamKind::Standing, now));
        self.streams.len() - 1
    }

    fn stream_mut(&mut self, number: StreamNumber) -> Option<&mut Stream<C>> {
        // The stream in use is most likely the newest.
        self.streams.iter_mut().rev().find(|stream| stream.number == number)
    }
}

/// Without carrier, and nothing but its log keeps it alive.
fn is_leftover<C>(stream: &Stream<C>) -> bool {
    let ended = stream.is_complete() || stream.kind == StreamKind::Standing;
    ended && stream.carrier.is_none() && stream.number != STANDING
}

#[cfg(test)]
mod tests {
    use super::*;

    type Machine = Session<u8>;

    fn session() -> Machine {
        Session::new(ProtocolVersion::V2025_11_25, Epoch(1))
    }

    fn limits() -> SessionLimits {
        SessionLimits {
            in_flight_max: 2,
            open_streams_max: 2,
            streams_max: 2,
            ..SessionLimits::default()
        }
    }

    fn text(event: EventId) -> String {
        let mut out = Vec::new();
        event.write(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    fn replayed(session: &Machine, resumption: &Resumption<u8>) -> Vec<Vec<u8>> {
        session
            .replay(resumption.stream, resumption.after)
            .map(|(_, event)| event.data.to_vec())
            .collect()
    }

    #[test]
    fn an_id_is_in_flight_once_and_free_again_after_its_answer() {
        let mut session = session();
        assert_eq!(session.admit_call(b"1", &limits()), Ok(()));
        session.begin_call(b"1", CallKey(10));
        assert_eq!(session.admit_call(b"1", &limits()), Err(CallRefused::DuplicateId));
        // A string and a number are different ids.
        assert_eq!(session.admit_call(b"\"1\"", &limits()), Ok(()));
        session.begin_call(b"\"1\"", CallKey(11));
        assert_eq!(session.admit_call(b"2", &limits()), Err(CallRefused::TooMany(2)));
        assert_eq!(session.find_call(b"1"), Some(CallKey(10)));
        session.end_call(CallKey(10));
        assert_eq!(session.find_call(b"1"), None);
        assert_eq!(session.admit_call(b"1", &limits()), Ok(()));
    }

    #[test]
    fn a_reply_finds_its_ask_once() {
        let mut session = session();
        let id = session.ask(AskKey(5), None).to_string();
        assert_eq!(session.take_ask(b"\"1\""), None);
        assert_eq!(session.take_ask(id.as_bytes()), Some(AskKey(5)));
        assert_eq!(session.take_ask(id.as_bytes()), None);
    }

    #[test]
    fn an_ended_call_voids_what_it_asked() {
        let mut session = session();
        session.begin_call(b"1", CallKey(10));
        let id = session.ask(AskKey(5), Some(CallKey(10))).to_string();
        session.end_call(CallKey(10));
        assert_eq!(session.take_ask(id.as_bytes()), None);
        assert_eq!(session.asks_open(), 0);
    }

    #[test]
    fn a_broken_call_stream_goes_on_where_it_was() {
        let mut session = session();
        let now = Millis(0);
        let stream = session.open_calls(1, Some(1), now, &limits());
        let primed = session.prime(stream).expect("open stream");
        let first = session.record(stream, b"one", now, &limits()).expect("open stream");
        assert_eq!(first.carrier, Some(1));
        session.carrier_gone(stream, 1, now);
        let second = session.record(stream, b"answer", now, &limits()).expect("open stream");
        assert_eq!(second.carrier, None);
        assert!(session.answer_recorded(stream));

        let resumption = session.resume(text(primed).as_bytes(), 2, now).expect("known event");
        assert_eq!(replayed(&session, &resumption), [b"one".to_vec(), b"answer".to_vec()]);
        let again = session.resume(text(first.event).as_bytes(), 3, now).expect("known event");
        assert_eq!(again.replaced, Some(2));
        assert_eq!(replayed(&session, &again), [b"answer".to_vec()]);
    }

    #[test]
    fn resuming_replays_that_stream_only() {
        let mut session = session();
        let now = Millis(0);
        let one = session.open_calls(1, Some(1), now, &limits());
        let two = session.open_calls(1, Some(2), now, &limits());
        let seen = session.record(one, b"a", now, &limits()).expect("open stream").event;
        session.record(two, b"b", now, &limits());
        session.record(one, b"c", now, &limits());
        let resumption = session.resume(text(seen).as_bytes(), 3, now).expect("known event");
        assert_eq!(replayed(&session, &resumption), [b"c".to_vec()]);
    }

    #[test]
    fn event_ids_never_issued_are_refused() {
        let mut session = session();
        session.open_standing(1, Millis(0), &limits()).expect("room");
        for id in ["", "x", "0.1.1", "9.1.0", "0.1.99"] {
            let refused = session.resume(id.as_bytes(), 2, Millis(0));
            assert_eq!(refused, Err(StreamRefused::UnknownEvent), "{id:?}");
        }
    }

    #[test]
    fn what_comes_before_the_first_listener_waits_for_it() {
        let mut session = session();
        session.record_standing(b"early", Millis(0), &limits());
        let opened = session.open_standing(1, Millis(1), &limits()).expect("room");
        assert_eq!(replayed(&session, &opened), [b"early".to_vec()]);
        session.mark_sent(opened.stream);
        session.carrier_gone(opened.stream, 1, Millis(2));
        session.record_standing(b"between", Millis(3), &limits());
        let reopened = session.open_standing(2, Millis(4), &limits()).expect("room");
        assert_eq!(replayed(&session, &reopened), [b"between".to_vec()]);
    }

    #[test]
    fn a_message_goes_to_one_standing_stream_the_newest() {
        let mut session = session();
        session.open_standing(1, Millis(0), &limits()).expect("room");
        let second = session.open_standing(2, Millis(1), &limits()).expect("room");
        let recorded = session.record_standing(b"x", Millis(2), &limits()).expect("recorded");
        assert_eq!((recorded.event.stream, recorded.carrier), (second.stream, Some(2)));
        let refused = session.open_standing(3, Millis(3), &limits());
        assert_eq!(refused, Err(StreamRefused::TooMany(2)));
    }

    /// They once waited in stream 0, which a client with another stream's id never asks for.
    #[test]
    fn what_comes_between_two_listeners_waits_where_the_last_one_was() {
        let mut session = session();
        let first = session.open_standing(1, Millis(0), &limits()).expect("room");
        let second = session.open_standing(2, Millis(1), &limits()).expect("room");
        session.carrier_gone(first.stream, 1, Millis(2));
        let seen = session.record_standing(b"seen", Millis(3), &limits()).expect("recorded");
        session.carrier_gone(second.stream, 2, Millis(4));
        session.record_standing(b"missed", Millis(5), &limits());
        let resumed = session.resume(text(seen.event).as_bytes(), 3, Millis(6));
        assert_eq!(replayed(&session, &resumed.expect("known")), [b"missed".to_vec()]);
    }

    #[test]
    fn all_streams_together_remember_a_bounded_number_of_bytes() {
        let mut session = session();
        let limits = SessionLimits { bytes_max: 250, streams_max: 16, ..limits() };
        for now in 0..10 {
            let stream = session.open_calls(1, Some(1), Millis(now), &limits);
            session.record(stream, &[b'x'; 100], Millis(now), &limits);
        }
        let held: usize = session.streams.iter().map(|stream| stream.log.bytes()).sum();
        assert_eq!(held, 200, "the two newest events");
        let stream = session.open_calls(1, Some(1), Millis(10), &limits);
        session.record(stream, &[b'x'; 1_000], Millis(10), &limits);
        let held: Vec<usize> = session.streams.iter().map(|stream| stream.log.bytes()).collect();
        assert_eq!(held.iter().sum::<usize>(), 1_000, "the newest alone: {held:?}");
    }

    #[test]
    fn leftover_streams_go_by_age_and_number_but_open_calls_stay() {
        let mut session = session();
        let running = session.open_calls(1, None, Millis(0), &limits());
        let mut done = Vec::new();
        for start in 1..=3 {
            let stream = session.open_calls(1, None, Millis(start), &limits());
            session.answer_recorded(stream);
            done.push(stream);
        }
        session.prune(Millis(10), &limits());
        assert_eq!(session.streams(), 2);
        assert!(!session.is_complete(running));
        session.prune(Millis(10 + limits().log.age_ms_max), &limits());
        assert_eq!(session.streams(), 1);
    }

    #[test]
    fn a_gap_is_told() {
        let mut session = session();
        let limits = SessionLimits {
            log: LogLimits { events_max: 1, ..LogLimits::default() },
            ..SessionLimits::default()
        };
        let stream = session.open_calls(1, Some(1), Millis(0), &limits);
        let first = session.record(stream, b"1", Millis(0), &limits).expect("open stream").event;
        session.record(stream, b"2", Millis(0), &limits);
        session.record(stream, b"3", Millis(0), &limits);
        assert!(session.resume(text(first).as_bytes(), 2, Millis(0)).expect("known event").gap);
    }
}
