//! What the federations of a node's shards tell each other.
//!
//! - One shard, the server's home, reads its lists and tells the others.
//! - A modern client may come back on any connection, hence on any shard, while the
//!   server's call is held by one.
//! - A child that all clients share is kept by its home; calls of other shards go there.
//!
//! Servers are named by their numbers, which are the same on all shards and never used for
//! another. Shards take a new configuration over one after the other: a message about a
//! server that its receiver does not know yet waits there until it does.
//!
//! Layout: a tag, then big-endian numbers, then bytes up to the end.

use shardgate_proto::catalog::Listing;
use shardgate_proto::mcp::version::ProtocolVersion;
use shardgate_proto::upstream::{CallKey, Events, Outcome};

use super::job::JobKey;
use super::session::Abilities;

const RESUME: u8 = 0xF1;
const ANSWER: u8 = 0xF2;
const NOTICE: u8 = 0xF3;
const CANCEL: u8 = 0xF4;
const LISTING: u8 = 0xF5;
const FAILED: u8 = 0xF6;
const CHANGED: u8 = 0xF7;
const CALL: u8 = 0xF8;
const CANCEL_CALL: u8 = 0xF9;
const INSIDE: u8 = 0xFA;

/// A message, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SiblingMessage<'a> {
    /// Go on with a job of yours; `call` of shard `from` waits for it.
    Resume { to: u16, from: u16, call: CallKey, job: JobKey, responses: &'a [u8] },
    /// The outcome of what a call of yours waits for.
    Answer { to: u16, call: CallKey, outcome: Outcome, body: &'a [u8] },
    /// A notification on a call of yours.
    Notice { to: u16, call: CallKey, message: &'a [u8] },
    /// The call that waits for your job was given up.
    Cancel { to: u16, job: JobKey },
    /// What a server offers, as its home has read it.
    Listing { server: u16, version: ProtocolVersion, abilities: Abilities, listing: &'a [u8] },
    /// A server could not be reached by its home, which says why.
    Failed { server: u16, why: &'a str },
    /// A server says that its lists have changed.
    Changed { server: u16 },
    /// A call for a child that you keep; `call` of shard `from` waits for it.
    Call { to: u16, from: u16, call: CallKey, order: Order<'a> },
    /// That call was given up.
    CancelCall { to: u16, from: u16, call: CallKey },
    /// The embedded server, which is server number `server`, to its instance on your shard.
    Inside { server: u16, message: &'a [u8] },
}

/// A call that another shard carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Order<'a> {
    pub(super) server: u16,
    pub(super) version: ProtocolVersion,
    pub(super) repeatable: bool,
    /// The gateway itself calls, for a task.
    pub(super) for_task: bool,
    pub(super) method: &'a str,
    /// `params.name` as the server knows it, where the client's differs.
    pub(super) name: Option<&'a str>,
    pub(super) name_header: Option<&'a str>,
    pub(super) params: Option<&'a [u8]>,
}

pub(super) fn write_listing(
    events: &mut Events,
    server: u16,
    version: ProtocolVersion,
    abilities: Abilities,
    listing: &Listing,
) {
    events.siblings(|out| {
        out.push(LISTING);
        out.extend_from_slice(&server.to_be_bytes());
        out.extend_from_slice(&[version as u8, abilities.to_bits()]);
        listing.write(out);
    });
}

/// A server could not be reached.
pub(super) fn write_failed(events: &mut Events, server: u16, why: &str) {
    events.siblings(|out| {
        out.push(FAILED);
        out.extend_from_slice(&server.to_be_bytes());
        out.extend_from_slice(why.as_bytes());
    });
}

/// A server's lists have changed.
pub(super) fn write_changed(events: &mut Events, server: u16) {
    events.siblings(|out| {
        out.push(CHANGED);
        out.extend_from_slice(&server.to_be_bytes());
    });
}

pub(super) fn write_inside(events: &mut Events, server: u16, message: &[u8]) {
    events.siblings(|out| {
        out.push(INSIDE);
        out.extend_from_slice(&server.to_be_bytes());
        out.extend_from_slice(message);
    });
}

pub(super) fn write_call(
    events: &mut Events,
    from: u16,
    to: u16,
    call: CallKey,
    order: &Order<'_>,
) {
    events.siblings(|out| {
        out.push(CALL);
        out.extend_from_slice(&to.to_be_bytes());
        out.extend_from_slice(&from.to_be_bytes());
        out.extend_from_slice(&call.0.to_be_bytes());
        out.extend_from_slice(&order.server.to_be_bytes());
        out.extend_from_slice(&[
            order.version as u8,
            u8::from(order.repeatable),
            u8::from(order.for_task),
        ]);
        write_part(out, Some(order.method.as_bytes()));
        write_part(out, order.name.map(str::as_bytes));
        write_part(out, order.name_header.map(str::as_bytes));
        write_part(out, order.params);
    });
}

pub(super) fn write_cancel_call(events: &mut Events, from: u16, to: u16, call: CallKey) {
    events.siblings(|out| {
        out.push(CANCEL_CALL);
        out.extend_from_slice(&to.to_be_bytes());
        out.extend_from_slice(&from.to_be_bytes());
        out.extend_from_slice(&call.0.to_be_bytes());
    });
}

/// A part with its length before it; the greatest length stands for none.
fn write_part(out: &mut Vec<u8>, part: Option<&[u8]>) {
    let length = part.map_or(u32::MAX, |part| part.len() as u32);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(part.unwrap_or_default());
}

fn read_part(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    match u32::from_be_bytes(*length) {
        u32::MAX => Some((None, rest)),
        length => rest.split_at_checked(length as usize).map(|(part, rest)| (Some(part), rest)),
    }
}

fn read_text(bytes: &[u8]) -> Option<(Option<&str>, &[u8])> {
    let (part, rest) = read_part(bytes)?;
    match part {
        None => Some((None, rest)),
        Some(part) => Some((Some(std::str::from_utf8(part).ok()?), rest)),
    }
}

fn read_order(bytes: &[u8]) -> Option<Order<'_>> {
    let (server, rest) = bytes.split_first_chunk()?;
    let [version, repeatable, for_task, rest @ ..] = rest else { return None };
    let (method, rest) = read_text(rest)?;
    let (name, rest) = read_text(rest)?;
    let (name_header, rest) = read_text(rest)?;
    let (params, _) = read_part(rest)?;
    Some(Order {
        server: u16::from_be_bytes(*server),
        version: *ProtocolVersion::ALL.get(usize::from(*version))?,
        repeatable: *repeatable == 1,
        for_task: *for_task == 1,
        method: method?,
        name,
        name_header,
        params,
    })
}

pub(super) fn write_resume(
    events: &mut Events,
    (from, to): (u16, u16),
    call: CallKey,
    job: JobKey,
    responses: &[u8],
) {
    events.siblings(|out| {
        out.push(RESUME);
        out.extend_from_slice(&to.to_be_bytes());
        out.extend_from_slice(&from.to_be_bytes());
        out.extend_from_slice(&call.0.to_be_bytes());
        out.extend_from_slice(&job.0.to_be_bytes());
        out.extend_from_slice(responses);
    });
}

pub(super) fn write_answer(
    events: &mut Events,
    to: u16,
    call: CallKey,
    outcome: Outcome,
    body: &[u8],
) {
    let (failed, code) = match outcome {
        Outcome::Result => (0, 0),
        Outcome::Error(code) => (1, code),
    };
    events.siblings(|out| {
        out.push(ANSWER);
        out.extend_from_slice(&to.to_be_bytes());
        out.extend_from_slice(&call.0.to_be_bytes());
        out.push(failed);
        out.extend_from_slice(&i32::to_be_bytes(code));
        out.extend_from_slice(body);
    });
}

pub(super) fn write_notice(events: &mut Events, to: u16, call: CallKey, message: &[u8]) {
    events.siblings(|out| {
        out.push(NOTICE);
        out.extend_from_slice(&to.to_be_bytes());
        out.extend_from_slice(&call.0.to_be_bytes());
        out.extend_from_slice(message);
    });
}

pub(super) fn write_cancel(events: &mut Events, to: u16, job: JobKey) {
    events.siblings(|out| {
        out.push(CANCEL);
        out.extend_from_slice(&to.to_be_bytes());
        out.extend_from_slice(&job.0.to_be_bytes());
    });
}

impl SiblingMessage<'_> {
    /// The server a message is about, if it is about one.
    pub(super) fn server(&self) -> Option<u16> {
        match self {
            SiblingMessage::Listing { server, .. }
            | SiblingMessage::Failed { server, .. }
            | SiblingMessage::Changed { server }
            | SiblingMessage::Inside { server, .. } => Some(*server),
            SiblingMessage::Call { order, .. } => Some(order.server),
            SiblingMessage::Resume { .. }
            | SiblingMessage::Answer { .. }
            | SiblingMessage::Notice { .. }
            | SiblingMessage::Cancel { .. }
            | SiblingMessage::CancelCall { .. } => None,
        }
    }
}

/// Reads a message; `None` if it is none of the federation's.
pub(super) fn read(bytes: &[u8]) -> Option<SiblingMessage<'_>> {
    let (tag, rest) = bytes.split_first()?;
    // For most the receiver; for what all are told, the server.
    let (to, rest) = rest.split_first_chunk()?;
    let to = u16::from_be_bytes(*to);
    match *tag {
        LISTING => {
            let [version, abilities, listing @ ..] = rest else { return None };
            Some(SiblingMessage::Listing {
                server: to,
                version: *ProtocolVersion::ALL.get(usize::from(*version))?,
                abilities: Abilities::from_bits(*abilities),
                listing,
            })
        }
        FAILED => {
            let why = std::str::from_utf8(rest).ok()?;
            Some(SiblingMessage::Failed { server: to, why })
        }
        CHANGED => Some(SiblingMessage::Changed { server: to }),
        INSIDE => Some(SiblingMessage::Inside { server: to, message: rest }),
        CALL | CANCEL_CALL => {
            let (from, rest) = rest.split_first_chunk()?;
            let (call, rest) = rest.split_first_chunk()?;
            let from = u16::from_be_bytes(*from);
            let call = CallKey(u64::from_be_bytes(*call));
            if *tag == CANCEL_CALL {
                return Some(SiblingMessage::CancelCall { to, from, call });
            }
            Some(SiblingMessage::Call { to, from, call, order: read_order(rest)? })
        }
        RESUME => {
            let (from, rest) = rest.split_first_chunk()?;
            let (call, rest) = rest.split_first_chunk()?;
            let (job, responses) = rest.split_first_chunk()?;
            Some(SiblingMessage::Resume {
                to,
                from: u16::from_be_bytes(*from),
                call: CallKey(u64::from_be_bytes(*call)),
                job: JobKey(u64::from_be_bytes(*job)),
                responses,
            })
        }
        ANSWER => {
            let (call, rest) = rest.split_first_chunk()?;
            let (failed, rest) = rest.split_first()?;
            let (code, body) = rest.split_first_chunk()?;
            let code = i32::from_be_bytes(*code);
            let outcome = if *failed == 0 { Outcome::Result } else { Outcome::Error(code) };
            let call = CallKey(u64::from_be_bytes(*call));
            Some(SiblingMessage::Answer { to, call, outcome, body })
        }
        NOTICE => {
            let (call, message) = rest.split_first_chunk()?;
            let call = CallKey(u64::from_be_bytes(*call));
            Some(SiblingMessage::Notice { to, call, message })
        }
        CANCEL => {
            let (job, _) = rest.split_first_chunk()?;
            Some(SiblingMessage::Cancel { to, job: JobKey(u64::from_be_bytes(*job)) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shardgate_proto::upstream::Event;

    fn sent(write: impl FnOnce(&mut Events)) -> Vec<u8> {
        let mut events = Events::new();
        write(&mut events);
        let [Event::Siblings { message }] = events.list() else { panic!("one message") };
        events.bytes(message).to_vec()
    }

    #[test]
    fn messages_come_back_whole() {
        let (call, job) = (CallKey(7), JobKey(9));
        let bytes = sent(|events| write_resume(events, (1, 2), call, job, b"{}"));
        let expected = SiblingMessage::Resume { to: 2, from: 1, call, job, responses: b"{}" };
        assert_eq!(read(&bytes), Some(expected));
        let outcome = Outcome::Error(-32000);
        let bytes = sent(|events| write_answer(events, 3, call, outcome, b"{}"));
        assert_eq!(
            read(&bytes),
            Some(SiblingMessage::Answer { to: 3, call, outcome, body: b"{}" })
        );
        let bytes = sent(|events| write_notice(events, 4, call, b"m"));
        assert_eq!(read(&bytes), Some(SiblingMessage::Notice { to: 4, call, message: b"m" }));
        let bytes = sent(|events| write_cancel(events, 5, job));
        assert_eq!(read(&bytes), Some(SiblingMessage::Cancel { to: 5, job }));
        let order = Order {
            server: 6,
            version: ProtocolVersion::V2026_07_28,
            repeatable: true,
            for_task: true,
            method: "tools/call",
            name: None,
            name_header: Some("n"),
            params: Some(b"{}"),
        };
        let bytes = sent(|events| write_call(events, 1, 2, call, &order));
        assert_eq!(read(&bytes), Some(SiblingMessage::Call { to: 2, from: 1, call, order }));
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), None, "cut at {cut}");
        }
        let abilities = Abilities { prompts: true, tasks: true, ..Abilities::default() };
        let version = ProtocolVersion::V2025_11_25;
        let bytes = sent(|events| write_listing(events, 3, version, abilities, &Listing::new()));
        let Some(SiblingMessage::Listing { server: 3, abilities: read_back, .. }) = read(&bytes)
        else {
            panic!("a listing")
        };
        assert_eq!(read_back, abilities);
        let bytes = sent(|events| write_failed(events, 4, "no answer"));
        assert_eq!(read(&bytes), Some(SiblingMessage::Failed { server: 4, why: "no answer" }));
        let bytes = sent(|events| write_inside(events, 7, b"\x01"));
        assert_eq!(read(&bytes), Some(SiblingMessage::Inside { server: 7, message: b"\x01" }));
        let bytes = sent(|events| write_cancel(events, 5, job));
        assert_eq!(read(b"\x01xx"), None);
        assert_eq!(read(&bytes[..4]), None);
    }
}
