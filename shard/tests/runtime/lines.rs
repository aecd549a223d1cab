//! A service that does what its clients' lines say; one line, one order.
//!
//! `say X` answers X · `shard` answers the shard's number · `flood N` answers N bytes ·
//! `move N` moves the connection and answers from there · `close`, `flush`, `linger`
//! close it in three manners, the last two after the answer `bye` · `pause N` stops
//! receiving for N ms · `drain N` answers N bytes and, once they are sent, `drained` ·
//! `panic` panics · `die` panics where it ends the shard · `depths` answers connections,
//! holds, outputs and rings · `gate` keeps the shard busy as long as the test holds the
//! gate · `shortages` answers how often a receive ran out of buffers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use shardgate_shard::{CloseReason, ConnId, Io, ListenerId, Origin, Service, ShardId};

/// What the shards tell each other.
#[derive(Debug)]
pub enum Note {
    /// Goes with a connection that moves: an unfinished line.
    Baggage(Vec<u8>),
    /// Ends the shard by a panic.
    Die,
}

/// What happened, in the order it happened on each shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Accepted(ConnId),
    Adopted(ConnId),
    Ended(ConnId),
    Closed(ConnId, &'static str),
    AtGate,
}

/// The events of all shards.
pub type Journal = Arc<Mutex<Vec<(ShardId, Event)>>>;

#[derive(Clone, Default)]
pub struct Lines {
    pub journal: Journal,
    pub gate: Arc<Mutex<()>>,
    /// Unfinished lines.
    partial: HashMap<ConnId, Vec<u8>>,
    /// Connections to be received from again, by the token of their timer.
    paused: Vec<ConnId>,
}

impl Lines {
    pub fn with(journal: &Journal) -> Lines {
        Lines { journal: Arc::clone(journal), ..Lines::default() }
    }

    fn note(&self, io: &Io<'_, Note>, event: Event) {
        self.journal.lock().unwrap().push((io.shard(), event));
    }

    /// Obeys all whole lines the connection has sent.
    fn obey(&mut self, io: &mut Io<'_, Note>, conn: ConnId) {
        while let Some(partial) = self.partial.get_mut(&conn) {
            let Some(end) = partial.iter().position(|&byte| byte == b'\n') else { return };
            let line: Vec<u8> = partial.drain(..=end).collect();
            let line = String::from_utf8(line).unwrap();
            let (order, argument) =
                line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
            self.obey_one(io, conn, order, argument);
        }
    }

    fn obey_one(&mut self, io: &mut Io<'_, Note>, conn: ConnId, order: &str, argument: &str) {
        let number: usize = argument.parse().unwrap_or(0);
        let answer = |io: &mut Io<'_, Note>, text: &str| {
            if let Some(output) = io.output(conn) {
                output.extend_from_slice(text.as_bytes());
                output.push(b'\n');
            }
        };
        match order {
            "say" => answer(io, argument),
            "shard" => answer(io, &io.shard().to_string()),
            "flood" => io.output(conn).unwrap().resize(number, b'f'),
            "move" => {
                // The entry stays: the move may come back, and the close must find it.
                let rest = self.partial.get_mut(&conn).map(std::mem::take).unwrap_or_default();
                io.move_connection(conn, ShardId(number as u16), Note::Baggage(rest));
            }
            "close" => io.close(conn),
            "flush" => {
                answer(io, "bye");
                io.close_after_flush(conn);
            }
            "linger" => {
                answer(io, "bye");
                io.close_lingering(conn);
            }
            "pause" => {
                io.pause_recv(conn);
                io.arm_timer(number as u64, self.paused.len() as u64);
                self.paused.push(conn);
            }
            "drain" => {
                io.output(conn).unwrap().resize(number, b'd');
                io.notify_drained(conn);
            }
            "panic" => panic!("a connection asked for a panic"),
            "die" => io.send(io.shard(), Note::Die).unwrap(),
            "depths" => {
                let depths = io.depths();
                let text = format!(
                    "{} {} {} {}",
                    depths.connections, depths.holds, depths.outputs, depths.rings
                );
                answer(io, &text);
            }
            "gate" => {
                self.note(io, Event::AtGate);
                drop(self.gate.lock().unwrap());
            }
            "shortages" => answer(io, &io.counters().buffers_exhausted.to_string()),
            other => panic!("unknown order {other:?}"),
        }
    }
}

impl Service for Lines {
    type Message = Note;

    fn handle_accept(&mut self, io: &mut Io<'_, Note>, conn: ConnId, _listener: ListenerId) {
        self.note(io, Event::Accepted(conn));
        let before = self.partial.insert(conn, Vec::new());
        assert!(before.is_none(), "{conn:?} was named twice");
    }

    fn handle_recv(&mut self, io: &mut Io<'_, Note>, conn: ConnId, bytes: &mut [u8]) {
        self.partial.get_mut(&conn).expect("an open connection").extend_from_slice(bytes);
        self.obey(io, conn);
    }

    fn handle_eof(&mut self, io: &mut Io<'_, Note>, conn: ConnId) {
        assert!(self.partial.contains_key(&conn), "an open connection");
        self.note(io, Event::Ended(conn));
        io.close_after_flush(conn);
    }

    fn handle_drained(&mut self, io: &mut Io<'_, Note>, conn: ConnId) {
        assert_eq!(io.queued_bytes(conn), 0);
        io.output(conn).unwrap().extend_from_slice(b"drained\n");
    }

    fn handle_closed(&mut self, io: &mut Io<'_, Note>, conn: ConnId, reason: CloseReason) {
        self.partial.remove(&conn).expect("a connection closes once");
        assert!(io.output(conn).is_none() && !io.is_open(conn));
        let reason = match reason {
            CloseReason::Peer => "peer",
            CloseReason::Reset(_) => "reset",
            CloseReason::Local => "local",
            CloseReason::Panicked => "panicked",
            CloseReason::Shutdown => "shutdown",
            CloseReason::SlowReader => "slow",
            CloseReason::Idle => "idle",
            CloseReason::ConnectFailed(_) => "connect failed",
        };
        self.note(io, Event::Closed(conn, reason));
    }

    fn handle_message(&mut self, _io: &mut Io<'_, Note>, _from: Origin, message: Note) {
        match message {
            Note::Die => panic!("a message asked for the shard's end"),
            Note::Baggage(_) => unreachable!("baggage comes with a connection"),
        }
    }

    fn handle_timer(&mut self, io: &mut Io<'_, Note>, token: u64) {
        io.resume_recv(self.paused[token as usize]);
    }

    fn handle_adopted(&mut self, io: &mut Io<'_, Note>, conn: ConnId, baggage: Note) {
        let Note::Baggage(rest) = baggage else { unreachable!("only baggage moves") };
        self.note(io, Event::Adopted(conn));
        self.partial.insert(conn, rest);
        let shard = io.shard();
        if let Some(output) = io.output(conn) {
            output.extend_from_slice(format!("on {shard}\n").as_bytes());
        }
        self.obey(io, conn);
    }
}

/// Waits for an event that `wanted` accepts.
pub fn wait_for(journal: &Journal, what: &str, wanted: impl Fn(&Event) -> bool) {
    crate::harness::wait_until(what, || {
        journal.lock().unwrap().iter().any(|(_, event)| wanted(event))
    });
}
