//! An HTTP/1.1 and SSE client for tests.
//!
//! It sends exactly the bytes it is given, so that a test can be wrong on
//! purpose, and reads strictly: a response that is not well-formed is an error,
//! not a guess. One [`Wire`] is one TCP connection.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::HANG;

/// A response head larger than this is the gateway's fault.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// One connection to the gateway.
pub(crate) struct Wire {
    stream: TcpStream,
    /// Bytes received and not yet consumed.
    buffer: Vec<u8>,
    /// How the body of the response being read is framed.
    framing: Framing,
    /// Decoded body bytes that are not yet a whole event.
    body: Vec<u8>,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// There is none, or it has been read.
    Done,
    /// So many bytes are missing.
    Length(usize),
    /// Chunks; so many bytes of the current one are missing, its CRLF included.
    Chunked(usize),
    /// At the connection's end.
    Close,
}

/// Status line and headers.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// The status code.
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
}

impl Head {
    /// The value of the header with this lower-case name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// True if the body is a stream of events.
    pub(crate) fn is_events(&self) -> bool {
        self.header("content-type").is_some_and(|value| value.starts_with("text/event-stream"))
    }

    /// True if the gateway said that it closes the connection.
    pub(crate) fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// A response with all its body.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Status line and headers.
    pub(crate) head: Head,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; of an SSE body, the data of its last event that has any.
    pub(crate) fn json(&self) -> serde_json::Value {
        let text = String::from_utf8_lossy(&self.body);
        if !self.head.is_events() {
            return serde_json::from_str(&text).unwrap_or_default();
        }
        let mut rest = self.body.clone();
        let mut last = serde_json::Value::Null;
        while let Some(event) = take_event(&mut rest) {
            if !event.data.is_empty() {
                last = serde_json::from_str(&event.data).unwrap_or_default();
            }
        }
        last
    }
}

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// `id:`.
    pub(crate) id: Option<String>,
    /// `event:`, `message` if not given.
    pub(crate) kind: Option<String>,
    /// `data:` lines joined by LF.
    pub(crate) data: String,
    /// `retry:`, milliseconds.
    pub(crate) retry_ms: Option<u64>,
}

impl Event {
    /// The data as JSON, null if there is none.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.data).unwrap_or_default()
    }
}

/// What went wrong on a connection.
#[derive(Debug)]
pub(crate) enum WireError {
    /// The kernel said so.
    Io(io::Error),
    /// The peer closed where bytes were due.
    Closed(&'static str),
    /// The peer sent what HTTP does not allow.
    Malformed(String),
    /// Nothing came for as long as a test waits.
    Hang(&'static str),
}

impl fmt::Display for WireError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Io(error) => write!(formatter, "socket: {error}"),
            WireError::Closed(what) => write!(formatter, "closed while waiting for {what}"),
            WireError::Malformed(what) => write!(formatter, "malformed response: {what}"),
            WireError::Hang(what) => write!(formatter, "nothing came: {what}"),
        }
    }
}

impl std::error::Error for WireError {}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> WireError {
        WireError::Io(error)
    }
}

impl Wire {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr) -> Result<Wire, WireError> {
        let stream = timeout(HANG, TcpStream::connect(address))
            .await
            .map_err(|_| WireError::Hang("connect"))??;
        Wire::over(stream)
    }

    /// Connects, with a receive buffer of about this many bytes that the kernel does not enlarge.
    ///
    /// Without it, how much a client that does not read takes depends on the host's `tcp_rmem`.
    pub(crate) async fn connect_taking_at_most(
        address: SocketAddr,
        bytes: u32,
    ) -> Result<Wire, WireError> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(bytes)?;
        let stream = timeout(HANG, socket.connect(address))
            .await
            .map_err(|_| WireError::Hang("connect"))??;
        Wire::over(stream)
    }

    fn over(stream: TcpStream) -> Result<Wire, WireError> {
        stream.set_nodelay(true)?;
        Ok(Wire { stream, buffer: Vec::new(), framing: Framing::Done, body: Vec::new() })
    }

    /// Sends these bytes.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        timeout(HANG, self.stream.write_all(bytes))
            .await
            .map_err(|_| WireError::Hang("send"))??;
        Ok(())
    }

    /// The same socket once more, to be written while this one is read.
    pub(crate) fn second_handle(&self) -> Result<TcpStream, WireError> {
        let descriptor = self.stream.as_fd().try_clone_to_owned()?;
        Ok(TcpStream::from_std(std::net::TcpStream::from(descriptor))?)
    }

    /// Closes the sending half.
    pub(crate) async fn finish(&mut self) -> Result<(), WireError> {
        Ok(self.stream.shutdown().await?)
    }

    /// Drops the connection with a reset instead of an orderly close.
    pub(crate) fn reset(self) {
        // With a linger of zero the kernel sends RST when the socket is closed.
        let _ = self.stream.set_zero_linger();
    }

    /// Sends a request and reads the whole response.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<Answer, WireError> {
        self.send(request).await?;
        self.answer().await
    }

    /// Reads a whole response. Interim (1xx) responses are skipped.
    pub(crate) async fn answer(&mut self) -> Result<Answer, WireError> {
        let head = self.head().await?;
        let body = self.rest().await?;
        Ok(Answer { head, body })
    }

    /// Reads a response up to the end of its headers; the body follows by
    /// [`Wire::rest`] or [`Wire::event`].
    pub(crate) async fn head(&mut self) -> Result<Head, WireError> {
        loop {
            let (head, framing) = self.any_head().await?;
            if head.status >= 200 {
                self.framing = framing;
                self.body.clear();
                return Ok(head);
            }
        }
    }

    /// Reads one head, which may be interim.
    pub(crate) async fn interim(&mut self) -> Result<Head, WireError> {
        Ok(self.any_head().await?.0)
    }

    /// Reads the body to its end.
    pub(crate) async fn rest(&mut self) -> Result<Vec<u8>, WireError> {
        let end = async {
            while self.body_step().await? {}
            Ok::<_, WireError>(())
        };
        timeout(HANG, end).await.map_err(|_| WireError::Hang("the body's end"))??;
        Ok(std::mem::take(&mut self.body))
    }

    /// The next event of an SSE body, or `None` at its end. Heartbeats are no events: a
    /// stream that brings nothing else hangs.
    pub(crate) async fn event(&mut self) -> Result<Option<Event>, WireError> {
        let next = async {
            loop {
                if let Some(event) = take_event(&mut self.body) {
                    return Ok(Some(event));
                }
                if !self.body_step().await? {
                    return Ok(None);
                }
            }
        };
        timeout(HANG, next).await.map_err(|_| WireError::Hang("an event"))?
    }

    /// The next event, or `None` if none comes within `patience`.
    pub(crate) async fn event_within(&mut self, patience: Duration) -> Option<Event> {
        timeout(patience, self.event()).await.ok()?.ok()?
    }

    /// True if the peer closes the connection (orderly or by reset) without another byte.
    pub(crate) async fn is_closed(&mut self) -> bool {
        matches!(self.fill("the close").await, Err(WireError::Closed(_) | WireError::Io(_)))
    }

    /// True if the peer closes the connection in order, without another byte.
    pub(crate) async fn is_closed_in_order(&mut self) -> bool {
        matches!(self.fill("the close").await, Err(WireError::Closed(_)))
    }

    async fn any_head(&mut self) -> Result<(Head, Framing), WireError> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 4);
                return parse_head(&text);
            }
            if self.buffer.len() > HEAD_BYTES_MAX {
                return Err(WireError::Malformed("head without an end".to_owned()));
            }
            self.fill("a response head").await?;
        }
    }

    /// Moves body bytes from `buffer` to `body`, reading if there are none. False at the end.
    async fn body_step(&mut self) -> Result<bool, WireError> {
        match self.framing {
            Framing::Done => Ok(false),
            Framing::Close => match self.fill_if_empty().await {
                Ok(()) => {
                    self.body.append(&mut self.buffer);
                    Ok(true)
                }
                Err(WireError::Closed(_)) => {
                    self.framing = Framing::Done;
                    Ok(false)
                }
                Err(error) => Err(error),
            },
            Framing::Length(missing) => {
                self.fill_if_empty().await?;
                let taken = missing.min(self.buffer.len());
                self.body.extend(self.buffer.drain(..taken));
                self.framing = length_left(missing - taken);
                Ok(true)
            }
            Framing::Chunked(0) => self.chunk_size().await,
            Framing::Chunked(missing) => {
                self.fill_if_empty().await?;
                let taken = missing.min(self.buffer.len());
                // The last two bytes of a chunk are its CRLF and no part of the body.
                let body = taken.min(missing.saturating_sub(2));
                self.body.extend_from_slice(&self.buffer[..body]);
                self.buffer.drain(..taken);
                self.framing = Framing::Chunked(missing - taken);
                Ok(true)
            }
        }
    }

    async fn chunk_size(&mut self) -> Result<bool, WireError> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                let size = usize::from_str_radix(line.trim(), 16)
                    .map_err(|_| WireError::Malformed(format!("chunk size {line:?}")))?;
                if size > 0 {
                    self.buffer.drain(..end + 2);
                    self.framing = Framing::Chunked(size + 2);
                    return Ok(true);
                }
                // The gateway sends no trailers, so the empty line follows at once.
                if self.buffer.len() >= end + 4 {
                    self.buffer.drain(..end + 4);
                    self.framing = Framing::Done;
                    return Ok(false);
                }
            }
            self.fill("a chunk's size").await?;
        }
    }

    async fn fill_if_empty(&mut self) -> Result<(), WireError> {
        if self.buffer.is_empty() { self.fill("body bytes").await } else { Ok(()) }
    }

    async fn fill(&mut self, what: &'static str) -> Result<(), WireError> {
        let read = timeout(HANG, self.stream.read_buf(&mut self.buffer));
        let count = read.await.map_err(|_| WireError::Hang(what))??;
        if count == 0 { Err(WireError::Closed(what)) } else { Ok(()) }
    }
}

const fn length_left(missing: usize) -> Framing {
    if missing == 0 { Framing::Done } else { Framing::Length(missing) }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn parse_head(text: &str) -> Result<(Head, Framing), WireError> {
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| WireError::Malformed(format!("status line {first:?}")))?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| WireError::Malformed(format!("header line {line:?}")))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let head = Head { status, headers };
    let framing = framing_of(&head)?;
    Ok((head, framing))
}

fn framing_of(head: &Head) -> Result<Framing, WireError> {
    // RFC 9112 section 6.3: these statuses have no body, whatever the headers say.
    if head.status < 200 || head.status == 204 || head.status == 304 {
        return Ok(Framing::Done);
    }
    if head.header("transfer-encoding").is_some_and(|value| value == "chunked") {
        return Ok(Framing::Chunked(0));
    }
    match head.header("content-length") {
        Some(length) => {
            let bytes = length.parse().map_err(|_| WireError::Malformed(length.to_owned()))?;
            Ok(length_left(bytes))
        }
        None => Ok(Framing::Close),
    }
}

/// Takes the first whole event off `body`. Comments alone make no event. The gateway
/// ends lines with LF, other servers with CR LF.
fn take_event(body: &mut Vec<u8>) -> Option<Event> {
    loop {
        let ends = [b"\n\n".as_slice(), b"\r\n\r\n"];
        let found = ends.iter().filter_map(|end| find(body, end).map(|at| (at, at + end.len())));
        let (end, next) = found.min()?;
        let text = String::from_utf8_lossy(&body[..end]).into_owned();
        body.drain(..next);
        let event = parse_event(&text);
        if event != Event::default() {
            return Some(event);
        }
    }
}

fn parse_event(text: &str) -> Event {
    let mut event = Event::default();
    let mut data = Vec::new();
    for line in text.split('\n') {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => event.id = Some(value.to_owned()),
            "event" => event.kind = Some(value.to_owned()),
            "data" => data.push(value.to_owned()),
            "retry" => event.retry_ms = value.parse().ok(),
            _ => {}
        }
    }
    event.data = data.join("\n");
    event
}
