//! Writing events.

/// One event to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// What a client sends back as `Last-Event-ID`. No line breaks, no NUL.
    pub id: Option<&'a str>,
    /// The type; none stands for `message`. No line breaks.
    pub name: Option<&'a str>,
    /// How long a client waits before it connects again, in milliseconds.
    pub retry_ms: Option<u64>,
    /// Any text in UTF-8; each of its lines becomes a `data` line.
    pub data: &'a [u8],
}

/// Appends an event.
pub fn write_event(out: &mut Vec<u8>, event: &Event<'_>) {
    out.reserve(event.data.len() + 64);
    if let Some(name) = event.name {
        write_field(out, b"event: ", name);
    }
    if let Some(id) = event.id {
        write_field(out, b"id: ", id);
    }
    if let Some(retry_ms) = event.retry_ms {
        write_retry_line(out, retry_ms);
    }
    write_data(out, event.data);
    out.push(b'\n');
}

/// Appends an event with an id and empty data, and a `retry` if wanted: it
/// gives a client something to resume from before anything has happened.
///
/// MCP 2025-11-25, transports: "the server SHOULD immediately send an SSE event
/// consisting of an event ID and an empty data field in order to prime the client".
pub fn write_priming_event(out: &mut Vec<u8>, id: &str, retry_ms: Option<u64>) {
    write_event(out, &Event { id: Some(id), retry_ms, ..Event::default() });
}

/// Appends a reconnection time. Clients dispatch no event for it.
pub fn write_retry(out: &mut Vec<u8>, retry_ms: u64) {
    write_retry_line(out, retry_ms);
    out.push(b'\n');
}

/// Appends a comment, which clients ignore: a heartbeat if `text` is empty.
pub fn write_comment(out: &mut Vec<u8>, text: &str) {
    if text.is_empty() {
        out.extend_from_slice(b":\n\n");
    } else {
        write_field(out, b": ", text);
        out.push(b'\n');
    }
}

fn write_retry_line(out: &mut Vec<u8>, retry_ms: u64) {
    out.extend_from_slice(b"retry: ");
    out.extend_from_slice(itoa::Buffer::new().format(retry_ms).as_bytes());
    out.push(b'\n');
}

fn write_field(out: &mut Vec<u8>, name: &[u8], value: &str) {
    assert!(
        !value.bytes().any(|byte| matches!(byte, b'\n' | b'\r' | 0)),
        "an event's id, name or comment is one line without NUL, but was {value:?}"
    );
    out.extend_from_slice(name);
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

/// A line break of any of the three kinds starts a new `data` line; a decoder
/// gives all of them back as LF.
fn write_data(out: &mut Vec<u8>, data: &[u8]) {
    let mut rest = data;
    loop {
        out.extend_from_slice(b"data: ");
        let Some(end) = memchr::memchr2(b'\n', b'\r', rest) else {
            out.extend_from_slice(rest);
            out.push(b'\n');
            return;
        };
        out.extend_from_slice(&rest[..end]);
        out.push(b'\n');
        let break_bytes = if rest[end..].starts_with(b"\r\n") { 2 } else { 1 };
        rest = &rest[end + break_bytes..];
    }
}
