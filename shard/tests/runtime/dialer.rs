//! A service that connects where the test tells it to, and echoes what is sent to its
//! listener.
//!
//! The test names each outgoing connection by a number of its own, a *line*.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{self, Receiver, Sender};

use shardgate_shard::{
    CloseReason, ConnId, ConnectRefused, Counters, Depths, Handle, Io, ListenerId, Origin,
    RuntimeConfig, Service, ShardId, start,
};

use crate::harness::{PATIENCE, stop, wait_until};

pub type Line = usize;

/// What the test tells the service.
#[derive(Debug)]
pub enum Order {
    /// Connects these lines in one callback and writes `greeting` to each at once.
    Connect {
        lines: Vec<Line>,
        to: SocketAddr,
        greeting: Vec<u8>,
        then: Then,
    },
    /// Connects a line from an address of this host.
    ConnectFrom(Line, IpAddr, SocketAddr),
    Write(Line, Vec<u8>),
    Close(Line),
    Resume(Line),
    /// Moves a line to the shard; the number is the baggage.
    Move(Line, ShardId),
    Baggage(Line),
    Report(Sender<(Depths, Counters)>),
}

/// What else is done in the callback that connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Nothing,
    Close,
    CloseAfterFlush,
    Pause,
    NotifyDrained,
    Move,
}

/// What the service tells the test of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Refused(Line, ConnectRefused),
    Connected(Line),
    Received(Line, Vec<u8>),
    Ended(Line),
    Drained(Line),
    Returned(Line),
    /// With the system's error, if there is one.
    Closed(Line, &'static str, Option<i32>),
}

struct Dialer {
    told: Sender<Told>,
    lines: HashMap<ConnId, Line>,
    conns: HashMap<Line, ConnId>,
    /// The line whose `handle_connected` panics.
    panics_at: Option<Line>,
}

impl Dialer {
    fn tell(&self, told: Told) {
        // A test that has seen enough doesn't listen any more.
        let _ = self.told.send(told);
    }

    fn line(&self, conn: ConnId) -> Option<Line> {
        self.lines.get(&conn).copied()
    }

    fn dial(
        &mut self,
        io: &mut Io<'_, Order>,
        line: Line,
        to: SocketAddr,
        greeting: &[u8],
        then: Then,
    ) {
        let conn = match io.connect(to) {
            Ok(conn) => conn,
            Err(refused) => return self.tell(Told::Refused(line, refused)),
        };
        assert!(io.is_open(conn) && io.listener(conn).is_none());
        assert!(io.connections().any(|open| open == conn));
        assert!(self.lines.insert(conn, line).is_none(), "{conn:?} was named twice");
        self.conns.insert(line, conn);
        if !greeting.is_empty() {
            io.output(conn).unwrap().extend_from_slice(greeting);
            assert_eq!(io.queued_bytes(conn), greeting.len());
        }
        match then {
            Then::Nothing => {}
            Then::Close => {
                io.close(conn);
                assert!(!io.is_open(conn) && io.output(conn).is_none());
                // The second close says nothing new.
                io.close(conn);
            }
            Then::CloseAfterFlush => io.close_after_flush(conn),
            Then::Pause => io.pause_recv(conn),
            Then::NotifyDrained => io.notify_drained(conn),
            Then::Move => io.move_connection(conn, ShardId(1), Order::Baggage(line)),
        }
    }
}

impl Service for Dialer {
    type Message = Order;

    fn handle_accept(&mut self, io: &mut Io<'_, Order>, conn: ConnId, listener: ListenerId) {
        assert_eq!(io.listener(conn), Some(listener));
    }

    fn handle_connected(&mut self, io: &mut Io<'_, Order>, conn: ConnId) {
        let line = self.line(conn).expect("only what was asked for is connected");
        assert!(io.is_open(conn) && io.listener(conn).is_none());
        self.tell(Told::Connected(line));
        assert!(self.panics_at != Some(line), "this line was to panic");
    }

    fn handle_recv(&mut self, io: &mut Io<'_, Order>, conn: ConnId, bytes: &mut [u8]) {
        match self.line(conn) {
            Some(line) => self.tell(Told::Received(line, bytes.to_vec())),
            None => io.output(conn).unwrap().extend_from_slice(bytes),
        }
    }

    fn handle_eof(&mut self, io: &mut Io<'_, Order>, conn: ConnId) {
        match self.line(conn) {
            Some(line) => self.tell(Told::Ended(line)),
            None => io.close_after_flush(conn),
        }
    }

    fn handle_drained(&mut self, io: &mut Io<'_, Order>, conn: ConnId) {
        assert_eq!(io.queued_bytes(conn), 0);
        self.tell(Told::Drained(self.lines[&conn]));
    }

    fn handle_closed(&mut self, io: &mut Io<'_, Order>, conn: ConnId, reason: CloseReason) {
        assert!(io.output(conn).is_none() && !io.is_open(conn));
        let Some(line) = self.lines.remove(&conn) else { return };
        self.conns.remove(&line);
        let (reason, error) = match reason {
            CloseReason::Peer => ("peer", None),
            CloseReason::Reset(error) => ("reset", error.raw_os_error()),
            CloseReason::Local => ("local", None),
            CloseReason::Panicked => ("panicked", None),
            CloseReason::Shutdown => ("shutdown", None),
            CloseReason::SlowReader => ("slow", None),
            CloseReason::Idle => ("idle", None),
            CloseReason::ConnectFailed(error) => ("connect failed", error.raw_os_error()),
        };
        self.tell(Told::Closed(line, reason, error));
        if reason == "shutdown"
            && let Err(refused) = io.connect(SocketAddr::from(([127, 0, 0, 1], 1)))
        {
            self.tell(Told::Refused(line, refused));
        }
    }

    fn handle_message(&mut self, io: &mut Io<'_, Order>, _from: Origin, order: Order) {
        match order {
            Order::Connect { lines, to, greeting, then } => {
                lines.into_iter().for_each(|line| self.dial(io, line, to, &greeting, then));
            }
            Order::ConnectFrom(line, from, to) => {
                let conn = io.connect_from(from, to).unwrap();
                self.lines.insert(conn, line);
                self.conns.insert(line, conn);
            }
            Order::Write(line, bytes) => {
                io.output(self.conns[&line]).unwrap().extend_from_slice(&bytes);
            }
            Order::Close(line) => {
                // A line that the peer closed meanwhile is gone.
                if let Some(&conn) = self.conns.get(&line) {
                    io.close(conn);
                }
            }
            Order::Resume(line) => io.resume_recv(self.conns[&line]),
            Order::Move(line, to) => {
                io.move_connection(self.conns[&line], to, Order::Baggage(line));
            }
            Order::Baggage(_) => unreachable!("baggage comes with a connection"),
            Order::Report(to) => to.send((io.depths(), io.counters())).unwrap(),
        }
    }

    fn handle_adopted(&mut self, io: &mut Io<'_, Order>, conn: ConnId, baggage: Order) {
        let Order::Baggage(line) = baggage else { unreachable!("only baggage moves") };
        assert_eq!((self.line(conn), io.is_open(conn)), (Some(line), true));
        self.tell(Told::Returned(line));
    }
}

/// A running runtime of dialers; orders go to shard 0.
pub struct Exchange {
    pub handle: Handle<Order>,
    told: Receiver<Told>,
}

impl Exchange {
    pub fn open(config: RuntimeConfig) -> Exchange {
        Exchange::with_panic_at(config, None)
    }

    pub fn with_panic_at(config: RuntimeConfig, panics_at: Option<Line>) -> Exchange {
        let (sender, told) = mpsc::channel();
        let handle = start(config, move |_| Dialer {
            told: sender.clone(),
            lines: HashMap::new(),
            conns: HashMap::new(),
            panics_at,
        })
        .unwrap();
        Exchange { handle, told }
    }

    pub fn order(&self, order: Order) {
        self.handle.send(ShardId(0), order).unwrap();
    }

    pub fn connect(&self, line: Line, to: SocketAddr) {
        self.connect_and(line, to, b"", Then::Nothing);
    }

    pub fn connect_and(&self, line: Line, to: SocketAddr, greeting: &[u8], then: Then) {
        self.order(Order::Connect { lines: vec![line], to, greeting: greeting.to_vec(), then });
    }

    /// What the service tells next.
    pub fn next(&self) -> Told {
        self.told.recv_timeout(PATIENCE).unwrap()
    }

    /// What the service tells next, but for the receipt of these bytes.
    pub fn next_but_bytes(&self, bytes: &[u8]) -> Told {
        loop {
            let told = self.next();
            if !matches!(&told, Told::Received(_, received) if received == bytes) {
                return told;
            }
        }
    }

    /// What the service has told already, if there is anything.
    pub fn told_already(&self) -> Option<Told> {
        self.told.try_recv().ok()
    }

    /// True if the service has told everything it had to tell: it answers a report after it.
    pub fn is_silent(&self) -> bool {
        self.report();
        self.told.try_recv().is_err()
    }

    /// All that `line` receives until it has `length` bytes.
    pub fn received(&self, line: Line, length: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < length {
            let told = self.next();
            let Told::Received(from, bytes) = told else { panic!("{told:?}") };
            assert_eq!(from, line);
            all.extend_from_slice(&bytes);
        }
        all
    }

    pub fn report(&self) -> (Depths, Counters) {
        let (sender, report) = mpsc::channel();
        self.order(Order::Report(sender));
        report.recv_timeout(PATIENCE).unwrap()
    }

    /// Waits until the shard is as empty as `before`, then ends it.
    pub fn stop_as_empty_as(self, before: Depths) {
        wait_until("entries, slots, outputs and addresses are given back", || {
            let (now, _) = self.report();
            (now.connections, now.connecting, now.outputs, now.holds, now.slots_free)
                == (
                    before.connections,
                    before.connecting,
                    before.outputs,
                    before.holds,
                    before.slots_free,
                )
        });
        stop(self.handle);
    }
}
