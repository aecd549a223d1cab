//! A single-threaded HTTP load client that leaves more of its core to the measurement than `wrk`.
//!
//! Every connection keeps `--pipeline` requests under way: as many as were answered in one
//! wake-up are sent again in one write. That is a closed loop, so a slow server slows the
//! client, and the latencies say nothing about arrivals at a fixed rate.
//!
//! Per request it makes one `recv` and one `send`; `epoll` is told of a connection once
//! and for all (edge-triggered), where `wrk` changes its interest twice per request.
//!
//! Limits: answers need a `Content-Length` and fit into [`ANSWER_BYTES_MAX`]; a connection
//! that the server closes is counted and not opened again; Linux only, because a short
//! read is taken for an empty socket (epoll(7)).

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, value_parser};
use hdrhistogram::Histogram;
use memchr::memmem::Finder;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

/// What is read at once; an answer, its head included, must fit.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const EVENTS_PER_TURN_MAX: usize = 1_024;
/// Longer than anything that still counts as an answer.
const LATENCY_US_MAX: u64 = 60_000_000;

const ECHO: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"hello from the echo tool, sixty-four bytes of payload in this reply"}}}"#;

/// Calls the tool `echo` over many connections for a while and tells rate and latencies.
#[derive(Debug, Parser)]
struct Arguments {
    /// The server.
    #[arg(long, default_value = "127.0.0.1:8080")]
    address: SocketAddr,
    /// Open connections.
    #[arg(long, default_value_t = 64, value_parser = value_parser!(u32).range(1..=60_000))]
    connections: u32,
    /// How long to measure.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u64).range(1..))]
    seconds: u64,
    /// Requests under way on each connection.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=128))]
    pipeline: u32,
    /// Mcp-Session-Id of a session of the legacy era.
    #[arg(long)]
    session: Option<String>,
}

fn main() -> ExitCode {
    match Load::open(Arguments::parse()).and_then(Load::run) {
        Ok(figures) => {
            println!("{}", figures.to_json());
            if figures.failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            eprintln!("closed_loop: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One connection: what is under way and what has been read of the next answer.
struct Connection {
    stream: TcpStream,
    /// When each unanswered request was sent, oldest first.
    sent_at: VecDeque<Instant>,
    /// The beginning of an answer whose rest has not come yet.
    partial: Vec<u8>,
    /// Bytes of the pipelined requests that the kernel has not taken yet.
    unsent: Vec<u8>,
}

struct Load {
    arguments: Arguments,
    poll: Poll,
    connections: Vec<Option<Connection>>,
    /// `pipeline` copies of the request; a shorter batch is a prefix of it.
    requests: Vec<u8>,
    request_bytes: usize,
    answers: AnswerReader,
    figures: Figures,
}

impl Load {
    fn open(arguments: Arguments) -> io::Result<Load> {
        let poll = Poll::new()?;
        let mut connections = Vec::new();
        for index in 0..arguments.connections {
            let stream = std::net::TcpStream::connect(arguments.address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(index as usize), interest)?;
            connections.push(Some(Connection {
                stream,
                sent_at: VecDeque::with_capacity(arguments.pipeline as usize),
                partial: Vec::new(),
                unsent: Vec::new(),
            }));
        }
        let request = request(&arguments);
        Ok(Load {
            requests: request.repeat(arguments.pipeline as usize),
            request_bytes: request.len(),
            answers: AnswerReader::new(),
            figures: Figures::new(),
            arguments,
            poll,
            connections,
        })
    }

    fn run(mut self) -> io::Result<Figures> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN_MAX);
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        let start = Instant::now();
        let end = start + Duration::from_secs(self.arguments.seconds);
        for connection in self.connections.iter_mut().flatten() {
            connection.send(&self.requests, self.arguments.pipeline as usize)?;
        }
        loop {
            let now = Instant::now();
            if now >= end || self.connections.iter().all(Option::is_none) {
                self.figures.seconds = now.duration_since(start).as_secs_f64();
                return Ok(self.figures);
            }
            self.poll.poll(&mut events, Some(end - now))?;
            for event in &events {
                self.wake(event.token().0, &mut buffer);
            }
        }
    }

    /// Reads what has come on a connection and sends as many requests as were answered.
    fn wake(&mut self, index: usize, buffer: &mut [u8]) {
        let Some(connection) = &mut self.connections[index] else { return };
        let outcome = connection.flush().and_then(|()| {
            let answered = connection.receive(buffer, &self.answers, &mut self.figures)?;
            connection.send(&self.requests[..answered * self.request_bytes], answered)
        });
        if let Err(error) = outcome {
            if self.figures.closed == 0 {
                eprintln!("closed_loop: a connection ended: {error}");
            }
            self.figures.closed += 1;
            self.connections[index] = None;
        }
    }
}

impl Connection {
    /// How many answers came.
    fn receive(
        &mut self,
        buffer: &mut [u8],
        reader: &AnswerReader,
        figures: &mut Figures,
    ) -> io::Result<usize> {
        let mut answered = 0;
        loop {
            // What was left of the last read goes before what is read now.
            let kept = self.partial.len();
            buffer[..kept].copy_from_slice(&self.partial);
            let read = match self.stream.read(&mut buffer[kept..]) {
                Ok(0) if kept == buffer.len() => return Err(refused("too long an answer")),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(answered),
                Err(error) => return Err(error),
            };
            let now = Instant::now();
            let mut rest = &buffer[..kept + read];
            while let Some(answer) = reader.next(rest)? {
                let sent_at = self.sent_at.pop_front().ok_or_else(|| refused("an extra answer"))?;
                figures.count(answer.is_success, now.duration_since(sent_at));
                answered += 1;
                rest = &rest[answer.bytes..];
            }
            self.partial.clear();
            self.partial.extend_from_slice(rest);
            if kept + read < buffer.len() {
                return Ok(answered);
            }
        }
    }

    fn send(&mut self, requests: &[u8], count: usize) -> io::Result<()> {
        let now = Instant::now();
        self.sent_at.extend(std::iter::repeat_n(now, count));
        self.unsent.extend_from_slice(requests);
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.unsent.is_empty() {
            return Ok(());
        }
        match self.stream.write(&self.unsent) {
            Ok(taken) => drop(self.unsent.drain(..taken)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn request(arguments: &Arguments) -> Vec<u8> {
    let session = arguments.session.as_ref().map_or(String::new(), |id| {
        format!("Mcp-Session-Id: {id}\r\nMCP-Protocol-Version: 2025-11-25\r\n")
    });
    format!(
        "POST /mcp HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\n{session}Content-Length: {}\r\n\r\n{}",
        arguments.address,
        ECHO.len(),
        ECHO
    )
    .into_bytes()
}

struct Answer {
    is_success: bool,
    bytes: usize,
}

/// Finds where answers end; it trusts the server otherwise.
struct AnswerReader {
    head_end: Finder<'static>,
}

impl AnswerReader {
    fn new() -> AnswerReader {
        AnswerReader { head_end: Finder::new(b"\r\n\r\n") }
    }

    /// The first answer in `bytes`, if it is there whole.
    fn next(&self, bytes: &[u8]) -> io::Result<Option<Answer>> {
        let Some(head_bytes) = self.head_end.find(bytes) else { return Ok(None) };
        let head = &bytes[..head_bytes];
        let length = head
            .split(|&byte| byte == b'\n')
            .find_map(content_length)
            .ok_or_else(|| refused("an answer without Content-Length"))?;
        let whole = head_bytes + 4 + length;
        let is_success = head.starts_with(b"HTTP/1.1 2");
        Ok((bytes.len() >= whole).then_some(Answer { is_success, bytes: whole }))
    }
}

fn content_length(line: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"content-length:";
    let (name, value) = line.split_at_checked(NAME.len())?;
    name.eq_ignore_ascii_case(NAME).then_some(())?;
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

fn refused(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the server sent {what}"))
}

/// What was measured.
struct Figures {
    seconds: f64,
    latency_us: Histogram<u64>,
    non_2xx: u64,
    closed: u64,
}

impl Figures {
    fn new() -> Figures {
        let latency_us = Histogram::new_with_max(LATENCY_US_MAX, 3).expect("sound bounds");
        Figures { seconds: 0.0, latency_us, non_2xx: 0, closed: 0 }
    }

    fn count(&mut self, is_success: bool, latency: Duration) {
        self.latency_us.saturating_record(latency.as_micros() as u64);
        self.non_2xx += u64::from(!is_success);
    }

    fn failed(&self) -> bool {
        self.non_2xx + self.closed > 0 || self.latency_us.is_empty()
    }

    fn to_json(&self) -> serde_json::Value {
        let at = |quantile| self.latency_us.value_at_quantile(quantile);
        serde_json::json!({
            "requests": self.latency_us.len(),
            "requests_per_second": (self.latency_us.len() as f64 / self.seconds).round(),
            "p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99), "p999_us": at(0.999),
            "max_us": self.latency_us.max(),
            "non_2xx": self.non_2xx,
            "connections_closed": self.closed,
        })
    }
}
