//! The standard streams of child processes: links that carry a message a line.
//!
//! Limit: a line of more than `message_bytes_max` bytes ends its child's link.

use hashbrown::HashMap;
use memchr::memchr;
use shardgate_proto::upstream::{EndpointId, Events, LinkKey};

use super::session::UpKey;

/// The children of one server on this shard.
#[derive(Debug)]
pub(super) struct Pipes {
    owner: u16,
    line_bytes_max: usize,
    opened: u64,
    pipes: HashMap<LinkKey, Pipe>,
}

#[derive(Debug)]
struct Pipe {
    session: UpKey,
    /// The line that is not whole yet.
    partial: Vec<u8>,
}

/// A child wrote a line that is longer than any message may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LineTooLong;

impl Pipes {
    pub(super) fn new(owner: u16, line_bytes_max: usize) -> Pipes {
        Pipes { owner, line_bytes_max, opened: 0, pipes: HashMap::new() }
    }

    /// Starts a child for a session.
    pub(super) fn open(
        &mut self,
        session: UpKey,
        endpoint: EndpointId,
        events: &mut Events,
    ) -> LinkKey {
        self.opened += 1;
        let link = LinkKey::new(self.owner, self.opened);
        self.pipes.insert(link, Pipe { session, partial: Vec::new() });
        events.open_link(link, endpoint);
        link
    }

    /// How many children there are, or are being started.
    pub(super) fn len(&self) -> usize {
        self.pipes.len()
    }

    /// Ends a child.
    pub(super) fn close(&mut self, link: LinkKey, events: &mut Events) {
        if self.pipes.remove(&link).is_some() {
            events.close_link(link);
        }
    }

    /// A child has ended by itself.
    pub(super) fn forget(&mut self, link: LinkKey) -> Option<UpKey> {
        self.pipes.remove(&link).map(|pipe| pipe.session)
    }

    pub(super) fn session_of(&self, link: LinkKey) -> Option<UpKey> {
        self.pipes.get(&link).map(|pipe| pipe.session)
    }

    /// The whole lines in what was kept and in `bytes` behind it; empty ones are none.
    pub(super) fn lines(
        &mut self,
        link: LinkKey,
        bytes: &[u8],
    ) -> Result<Vec<Box<[u8]>>, LineTooLong> {
        let Some(pipe) = self.pipes.get_mut(&link) else { return Ok(Vec::new()) };
        let mut lines = Vec::new();
        let mut rest = bytes;
        while let Some(end) = memchr(b'\n', rest) {
            pipe.partial.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            if pipe.partial.len() > self.line_bytes_max {
                return Err(LineTooLong);
            }
            let line = std::mem::take(&mut pipe.partial);
            if !line.trim_ascii().is_empty() {
                lines.push(line.into_boxed_slice());
            }
        }
        pipe.partial.extend_from_slice(rest);
        if pipe.partial.len() > self.line_bytes_max {
            return Err(LineTooLong);
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federation::session::{Owner, Phase, Sessions};
    use shardgate_proto::clock::Millis;
    use shardgate_proto::mcp::version::ProtocolVersion;

    fn pipes(line_bytes_max: usize) -> (Pipes, LinkKey) {
        let version = ProtocolVersion::LATEST_LEGACY;
        let session = Sessions::default().insert(Owner::Catalog, version, Phase::Ready, Millis(0));
        let mut pipes = Pipes::new(3, line_bytes_max);
        let link = pipes.open(session, EndpointId(1), &mut Events::new());
        (pipes, link)
    }

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let (mut pipes, link) = pipes(100);
        assert_eq!(pipes.lines(link, b"{\"a\"").expect("short").len(), 0);
        let lines = pipes.lines(link, b":1}\r\n\n{}\n{").expect("short");
        let texts: Vec<&[u8]> = lines.iter().map(|line| &**line).collect();
        assert_eq!(texts, [b"{\"a\":1}\r".as_slice(), b"{}"]);
        assert_eq!(pipes.lines(link, b"}\n").expect("short").len(), 1);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let (mut pipes, link) = pipes(4);
        assert!(pipes.lines(link, b"1234").is_ok());
        assert_eq!(pipes.lines(link, b"5"), Err(LineTooLong));
    }
}
