//! Responses, appended to a connection's output.
//!
//! Invariants: header values written here hold no control byte (a caller that
//! passes one has a bug, and is stopped by an assertion); what an answer says of
//! its length and of the connection is always complete.

use super::Version;
use super::head::Persistence;
use super::refusal::{Refusal, Status};

/// The interim answer to `Expect: 100-continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The header fields that only some answers carry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// What becomes of the connection; the caller closes it accordingly.
    pub persistence: Persistence,
    /// `Date`; RFC 9110, 6.6.1 asks for it of every server that has a clock.
    pub date: Option<&'a HttpDate>,
    /// `Mcp-Session-Id`
    pub session_id: Option<&'a str>,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u32>,
    /// `Allow`, such as `GET, POST`. Belongs to 405.
    pub allow: Option<&'a str>,
    /// `WWW-Authenticate`. Belongs to 401 and 403.
    pub www_authenticate: Option<&'a str>,
    /// Anything else, as name and value.
    pub more: &'a [(&'a str, &'a str)],
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`: computed once a second, copied into each answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpDate([u8; 29]);

impl HttpDate {
    /// The date `seconds` after 1970-01-01T00:00:00Z, up to the year 9999 (later ones show as its end).
    pub fn from_unix_s(seconds: u64) -> HttpDate {
        const DAY_S: u64 = 86_400;
        const YEAR_9999_END_S: u64 = 253_402_300_799;
        const WEEKDAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
        const MONTHS: [&[u8; 3]; 12] = [
            b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov",
            b"Dec",
        ];
        let seconds = seconds.min(YEAR_9999_END_S);
        let (days, of_day) = (seconds / DAY_S, seconds % DAY_S);
        let (year, month, day) = civil_from_days(days);
        let mut text = *b"Thu, 00 Jan 0000 00:00:00 GMT";
        text[..3].copy_from_slice(WEEKDAYS[(days % 7) as usize]);
        put_two_digits(&mut text, 5, day);
        text[8..11].copy_from_slice(MONTHS[(month - 1) as usize]);
        put_two_digits(&mut text, 12, year / 100);
        put_two_digits(&mut text, 14, year % 100);
        put_two_digits(&mut text, 17, of_day / 3_600);
        put_two_digits(&mut text, 20, of_day / 60 % 60);
        put_two_digits(&mut text, 23, of_day % 60);
        HttpDate(text)
    }

    /// The text as it stands in the field.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn put_two_digits(text: &mut [u8; 29], at: usize, number: u64) {
    text[at] = b'0' + (number / 10 % 10) as u8;
    text[at + 1] = b'0' + (number % 10) as u8;
}

/// Year, month and day of a day count, by 400-year cycles of the Gregorian calendar
/// that are taken to begin on 1 March, so that the leap day is a year's last.
fn civil_from_days(days_since_1970: u64) -> (u64, u64, u64) {
    const DAYS_FROM_MARCH_0000_TO_1970: u64 = 719_468;
    const CYCLE_DAYS: u64 = 146_097;
    let days = days_since_1970 + DAYS_FROM_MARCH_0000_TO_1970;
    let of_cycle = days % CYCLE_DAYS;
    let year_of_cycle =
        (of_cycle - of_cycle / 1_460 + of_cycle / 36_524 - of_cycle / (CYCLE_DAYS - 1)) / 365;
    let of_year = of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = days / CYCLE_DAYS * 400 + year_of_cycle + u64::from(month <= 2);
    (year, month, day)
}

/// A whole JSON answer.
pub fn write_json(out: &mut Vec<u8>, status: Status, extras: &Extras<'_>, body: &[u8]) {
    write_json_head(out, status, extras, body.len());
    out.extend_from_slice(body);
}

/// The head of a JSON answer; the caller appends exactly `body_bytes` bytes behind it.
pub fn write_json_head(out: &mut Vec<u8>, status: Status, extras: &Extras<'_>, body_bytes: usize) {
    const OK_JSON: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ";
    if status == Status::OK {
        out.extend_from_slice(OK_JSON);
        write_number(out, body_bytes as u64);
        out.extend_from_slice(b"\r\n");
        finish_head(out, extras);
    } else {
        write_body_head(out, status, "application/json", extras, body_bytes);
    }
}

/// The head of an answer of any type; the caller appends exactly `body_bytes` bytes behind it.
pub fn write_body_head(
    out: &mut Vec<u8>,
    status: Status,
    content_type: &str,
    extras: &Extras<'_>,
    body_bytes: usize,
) {
    write_status_line(out, status);
    write_field(out, "Content-Type", content_type);
    out.extend_from_slice(b"Content-Length: ");
    write_number(out, body_bytes as u64);
    out.extend_from_slice(b"\r\n");
    finish_head(out, extras);
}

/// An answer without a body, such as 202.
pub fn write_empty(out: &mut Vec<u8>, status: Status, extras: &Extras<'_>) {
    write_status_line(out, status);
    // RFC 9110, 8.6: no Content-Length in a 204.
    if status != Status::NO_CONTENT {
        out.extend_from_slice(b"Content-Length: 0\r\n");
    }
    finish_head(out, extras);
}

/// The answer to a refused request: a JSON-RPC error without an id, and `Connection: close`.
pub fn write_refusal(out: &mut Vec<u8>, refusal: &Refusal, date: Option<&HttpDate>) {
    let mut body = Vec::with_capacity(160);
    crate::jsonrpc::write_error(
        &mut body,
        None,
        crate::jsonrpc::ErrorCode::INVALID_REQUEST,
        refusal.text,
        None,
    );
    let extras = Extras { persistence: Persistence::Close, date, ..Extras::default() };
    write_json(out, refusal.status, &extras, &body);
}

/// The head of an event stream. HTTP/1.1 gets it in chunks (use [`write_chunk`]
/// for each piece and [`write_last_chunk`] at the end). HTTP/1.0 has no chunks:
/// the pieces are written as they are and the end of the connection is the end.
pub fn write_sse_head(out: &mut Vec<u8>, version: Version, extras: &Extras<'_>) {
    // X-Accel-Buffering tells nginx and its like to pass each event on at once.
    const FIELDS: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache, no-store\r\nX-Accel-Buffering: no\r\n";
    out.extend_from_slice(FIELDS);
    match version {
        Version::Http11 => {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            finish_head(out, extras);
        }
        Version::Http10 => {
            finish_head(out, &Extras { persistence: Persistence::Close, ..*extras });
        }
    }
}

/// One chunk. Empty data writes nothing: an empty chunk would end the body.
pub fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    write_chunk_with(out, |out| out.extend_from_slice(data));
}

/// One chunk of what `write` appends; nothing if it appends nothing.
pub fn write_chunk_with(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    // The size is known afterwards; leading zeros are part of the grammar
    // (RFC 9112, 7.1: `chunk-size = 1*HEXDIG`), so its place has a fixed width.
    const SIZE_DIGITS: usize = 8;
    let start = out.len();
    out.extend_from_slice(b"00000000\r\n");
    let data_start = out.len();
    write(out);
    let mut size = out.len() - data_start;
    if size == 0 {
        out.truncate(start);
        return;
    }
    assert!(size <= u32::MAX as usize, "a chunk of {size} bytes does not fit into 8 hex digits");
    for digit in out[start..start + SIZE_DIGITS].iter_mut().rev() {
        *digit = b"0123456789abcdef"[size & 0xf];
        size >>= 4;
    }
    out.extend_from_slice(b"\r\n");
}

/// The end of a chunked body, without trailers.
pub fn write_last_chunk(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n\r\n");
}

fn write_status_line(out: &mut Vec<u8>, status: Status) {
    out.extend_from_slice(b"HTTP/1.1 ");
    write_number(out, u64::from(status.0));
    out.push(b' ');
    out.extend_from_slice(status.phrase().as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn finish_head(out: &mut Vec<u8>, extras: &Extras<'_>) {
    match extras.persistence {
        Persistence::KeepAlive => {}
        Persistence::KeepAliveSaid => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        Persistence::Close => out.extend_from_slice(b"Connection: close\r\n"),
    }
    if let Some(date) = extras.date {
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(date.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if let Some(session_id) = extras.session_id {
        write_field(out, "Mcp-Session-Id", session_id);
    }
    if let Some(seconds) = extras.retry_after_s {
        out.extend_from_slice(b"Retry-After: ");
        write_number(out, u64::from(seconds));
        out.extend_from_slice(b"\r\n");
    }
    if let Some(methods) = extras.allow {
        write_field(out, "Allow", methods);
    }
    if let Some(challenge) = extras.www_authenticate {
        write_field(out, "WWW-Authenticate", challenge);
    }
    for (name, value) in extras.more {
        write_field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &str) {
    assert!(
        !name.bytes().chain(value.bytes()).any(|byte| byte < b' ' && byte != b'\t'),
        "the value of response header {name:?} holds a control byte"
    );
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn write_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
