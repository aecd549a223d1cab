//! The standing stream of a legacy session: what its server says beside the answers.
//!
//! Invariant: calls of a session wait until its server has answered the request for the
//! stream, but for no longer than [`STREAM_ANSWER_MS`]. Many servers put even a question that
//! belongs to a call there, and drop it while there is no such stream.

use shardgate_proto::clock::Millis;
use shardgate_proto::mcp::version::Era;
use shardgate_proto::upstream::Events;

use super::Federation;
use super::ending::RETRY_MS_MAX;
use super::exchanges::RESUME_MS;
use super::server::{Exchange, Use};
use super::session::{Phase, UpKey};

/// A server that has not answered the request for a stream after so long is not waited for,
/// then or later: some answer with the first event.
pub(super) const STREAM_ANSWER_MS: u64 = 1_000;

impl Federation {
    /// The stream for what belongs to no call (MCP 2025-11-25, transports: "The client MAY
    /// issue an HTTP GET").
    pub(super) fn open_standing(
        &mut self,
        index: u16,
        key: UpKey,
        now: Millis,
        events: &mut Events,
    ) {
        let server = &mut self.servers[usize::from(index)];
        let Some(session) = server.sessions.session(key) else { return };
        session.standing_retry_at = None;
        if session.standing.is_some()
            || !server.settings.standing_stream
            || session.version.era() == Era::Modern
        {
            return;
        }
        let last = std::mem::take(&mut session.standing_last_id);
        // A pool without room is no reason to fail a session: the stream is tried again.
        let opened = server.listen(key, Use::Standing, &last, now, events);
        if let Some(session) = server.sessions.session(key) {
            session.standing_last_id = last;
            match opened {
                Ok(exchange) => session.standing = exchange,
                Err(_) => session.standing_retry_at = Some(now + RETRY_MS_MAX),
            }
        }
    }

    /// Whether a session that was just opened waits for its stream.
    pub(super) fn awaits_stream(&mut self, index: u16, key: UpKey) -> bool {
        let server = &mut self.servers[usize::from(index)];
        let waits = !server.is_shared_stream() && !server.answers_streams_late;
        let session = server.sessions.session(key);
        waits && session.is_some_and(|session| session.standing.is_some())
    }

    /// Whether this exchange is the stream that its session waits for.
    pub(super) fn is_awaited(&mut self, index: u16, exchange: Exchange) -> bool {
        let session = self.servers[usize::from(index)].sessions.session(exchange.session);
        exchange.purpose == Use::Standing
            && session.is_some_and(|session| matches!(session.phase, Phase::Listening(_)))
    }

    /// Lets sessions go on whose server has left the request for their stream unanswered.
    pub(super) fn stop_awaiting_streams(&mut self, index: u16, now: Millis, events: &mut Events) {
        let server = &mut self.servers[usize::from(index)];
        let mut late = Vec::new();
        for session in server.sessions.iter() {
            match session.phase {
                Phase::Listening(until) if until <= now => late.push(session.key),
                Phase::Initializing | Phase::Confirming | Phase::Listening(_) | Phase::Ready => {}
            }
        }
        server.answers_streams_late |= !late.is_empty();
        for key in late {
            self.send_waiting(index, key, now, events);
        }
    }

    /// A standing stream has ended, or there is none.
    pub(super) fn standing_ended(
        &mut self,
        index: u16,
        exchange: Exchange,
        last: &[u8],
        now: Millis,
        events: &mut Events,
    ) {
        let server = &mut self.servers[usize::from(index)];
        if server.is_shared_stream() {
            let why = match exchange.status {
                200 => "the stream on which it answers has ended".to_owned(),
                status => format!("it answered HTTP {status} to the request for its stream"),
            };
            return self.session_failed(index, exchange.session, &why, now, events);
        }
        let Some(session) = server.sessions.session(exchange.session) else { return };
        session.standing = None;
        if !last.is_empty() {
            session.standing_last_id = last.into();
        }
        // 405 says that the server has no such stream.
        if (200..300).contains(&exchange.status) {
            let pause = exchange.retry_ms.unwrap_or(RESUME_MS).max(RESUME_MS);
            session.standing_retry_at = Some(now + pause);
        }
        if let Phase::Listening(_) = session.phase {
            self.send_waiting(index, exchange.session, now, events);
        }
    }
}
