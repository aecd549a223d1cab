//! One connection of the load, and the session it holds: a state machine without I/O.
//!
//! Invariants: at most one request is under way; a client outlives its connection, so a
//! session goes on over the next one.

use shardgate_proto::http1::HEAD_BYTES_MAX;
use shardgate_proto::http1::client::{Ending, ResponseDecoder, ResponsePart};
use shardgate_shard::ConnId;

use crate::answer::{Answer, Judged};
use crate::requests::RequestId;
use crate::workload::Op;

/// What a client is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It has no connection and waits for one.
    Away,
    /// Its connection is being made.
    Dialing,
    /// It may send.
    Free,
    /// It waits for an answer.
    Busy,
    /// It waits for its think time to pass.
    Thinking,
    /// It reads a stream.
    Streaming,
    /// It is not needed any more.
    Retired,
}

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Takes its turn in the workload.
    Caller,
    /// Holds a session and its stream.
    Listener,
    /// Calls in the sessions of listeners.
    Poster,
}

/// How far a session is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Session {
    /// There is none.
    #[default]
    None,
    /// `initialize` was answered; the server gave this id, if it gave one.
    Begun(Option<Box<str>>),
    /// It can be used.
    Open(Option<Box<str>>),
}

impl Session {
    /// The id, if there is one.
    pub(crate) fn id(&self) -> Option<&str> {
        match self {
            Session::None => None,
            Session::Begun(id) | Session::Open(id) => id.as_deref(),
        }
    }
}

/// The request under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) op: Op,
    pub(crate) id: RequestId,
    pub(crate) planned_ns: u64,
    pub(crate) sent_ns: u64,
    /// Part of the workload, and not only of getting ready for it.
    pub(crate) counted: bool,
}

impl Default for Request {
    fn default() -> Request {
        let id = RequestId::of(0);
        Request { op: Op::Ping, id, planned_ns: 0, sent_ns: 0, counted: false }
    }
}

/// What came of received bytes.
#[derive(Debug)]
pub(crate) enum Heard {
    /// More is to come.
    Part,
    /// A stream has opened or goes on.
    Stream,
    /// The request is answered.
    Answer {
        judged: Judged,
        /// The connection may carry another request.
        keep_alive: bool,
    },
    /// What came is no HTTP.
    Broken(String),
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) role: Role,
    pub(crate) phase: Phase,
    pub(crate) conn: Option<ConnId>,
    pub(crate) session: Session,
    pub(crate) request: Request,
    /// When it became free.
    pub(crate) free_ns: u64,
    /// Requests answered on this connection.
    pub(crate) served: u32,
    /// It stands in a queue of free ones.
    pub(crate) queued: bool,
    /// Its connection stands.
    pub(crate) stood: bool,
    /// It is on its way to being ready.
    pub(crate) opening: bool,
    /// It has been ready, or has failed, at least once.
    pub(crate) settled: bool,
    /// Its connection was closed from here because something was wrong with it.
    pub(crate) failed: bool,
    /// It has asked to be told of updates.
    pub(crate) subscribed: bool,
    /// Events that came on its stream and were not looked at yet.
    pub(crate) events: u64,
    /// How many announcements its stream has told of, or did not have to.
    pub(crate) heard: usize,
    answer: Answer,
    decoder: ResponseDecoder,
}

impl Client {
    pub(crate) fn new(role: Role) -> Client {
        Client {
            role,
            phase: Phase::Away,
            conn: None,
            session: Session::None,
            request: Request::default(),
            free_ns: 0,
            served: 0,
            queued: false,
            stood: false,
            opening: false,
            settled: false,
            failed: false,
            subscribed: false,
            events: 0,
            heard: 0,
            answer: Answer::default(),
            decoder: ResponseDecoder::new(HEAD_BYTES_MAX),
        }
    }

    /// A new connection is being made.
    pub(crate) fn dial(&mut self, conn: ConnId) {
        self.conn = Some(conn);
        self.phase = Phase::Dialing;
        self.opening = true;
        self.served = 0;
        self.subscribed = false;
        self.answer = Answer::default();
        self.decoder = ResponseDecoder::new(HEAD_BYTES_MAX);
    }

    /// Reads what has come. Events that came on the way are counted in [`Client::events`].
    pub(crate) fn hear(&mut self, bytes: &mut [u8]) -> Heard {
        let (wants_session, id) = (self.request.op == Op::Initialize, self.request.id);
        let mut read = 0;
        let heard = loop {
            match self.decoder.decode(&mut bytes[read..]) {
                Ok(ResponsePart::Head { head, consumed }) => {
                    self.answer.begin(&head, wants_session);
                    read += consumed;
                }
                Ok(ResponsePart::Body { bytes, last, consumed }) => {
                    self.answer.take(bytes, last, id);
                    read += consumed;
                }
                Ok(ResponsePart::End { keep_alive, consumed }) => {
                    read += consumed;
                    let judged = self.end_answer();
                    break if read < bytes.len() {
                        Heard::Broken("the server sent more than it was asked for".to_owned())
                    } else {
                        Heard::Answer { judged, keep_alive }
                    };
                }
                Ok(ResponsePart::NeedMore) => {
                    let streams = self.request.op == Op::OpenStream && self.answer.is_stream();
                    break if streams { Heard::Stream } else { Heard::Part };
                }
                Err(bad) => break Heard::Broken(bad.to_string()),
            }
        };
        self.events += u64::from(std::mem::take(&mut self.answer.events_seen));
        heard
    }

    /// The server has ended the connection: an answer may end so.
    pub(crate) fn hear_end(&mut self) -> Heard {
        match self.decoder.end() {
            Ok(Ending::Complete) if self.phase == Phase::Busy => {
                Heard::Answer { judged: self.end_answer(), keep_alive: false }
            }
            Ok(Ending::Complete | Ending::Idle) => Heard::Part,
            Err(bad) => Heard::Broken(bad.to_string()),
        }
    }

    /// True if the answer to the request has come on a stream that goes on.
    pub(crate) fn is_told(&self) -> bool {
        self.phase == Phase::Busy && self.request.op != Op::OpenStream && self.answer.is_told()
    }

    /// The session an answer has opened.
    pub(crate) fn take_session(&mut self) -> Option<Box<str>> {
        self.answer.session.take()
    }

    fn end_answer(&mut self) -> Judged {
        let wants_body = !matches!(self.request.op, Op::Initialized | Op::Delete);
        self.answer.end(self.request.id, wants_body)
    }
}
