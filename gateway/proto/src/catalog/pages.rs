//! Lists cut into pages, and cursors that stay good while lists change.
//!
//! All entries of a list lie in one buffer in their order, with commas between them, so a
//! page is one slice, wherever it begins. A cursor names the last entry given out by its
//! server and its own name; the next page begins behind that place in the order, whether
//! or not the entry is still there. So nothing is given out twice and nothing is missed
//! but what was added before the place after it was passed.

use std::hash::Hasher as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use siphasher::sip::SipHasher13;

use super::ListKind;
use super::build::Catalog;
use super::entry::{Audience, Entry, KEY_BYTES_MAX};
use crate::jsonrpc::write_string;
use crate::mcp::version::{Era, ProtocolVersion};

/// The longest cursor there is.
pub const CURSOR_BYTES_MAX: usize = (2 + 255 + KEY_BYTES_MAX + CHECK_BYTES).div_ceil(3) * 4;

const CHECK_BYTES: usize = 8;

/// How long a page may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimits {
    /// Entries on a page; at least one is given out.
    pub entries_max: usize,
    /// Bytes of entries on a page, unless a single one is longer.
    pub bytes_max: usize,
}

impl Default for PageLimits {
    fn default() -> PageLimits {
        PageLimits { entries_max: 1_000, bytes_max: 4 * 1024 * 1024 }
    }
}

/// A cursor that this catalog cannot go on from: JSON-RPC error -32602.
// MCP 2025-11-25, pagination: "Invalid cursors SHOULD result in an error with code -32602".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown cursor: list again from the start")]
pub struct UnknownCursor;

/// One list, ready to be given out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pages {
    /// The entries with commas between them.
    body: Vec<u8>,
    rows: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    /// The server's place in the catalog's order.
    place: u16,
    key: Arc<str>,
    /// Behind the entry in the body.
    end: usize,
}

impl Pages {
    /// Appends an entry. They have to come in the list's order.
    pub(super) fn push(&mut self, place: u16, entry: &Entry, exposed: &str, audience: Audience) {
        if !self.rows.is_empty() {
            self.body.push(b',');
        }
        entry.write_as(exposed, audience, &mut self.body);
        let key = Arc::clone(&entry.key);
        debug_assert!(
            self.rows.last().is_none_or(|last| (last.place, &last.key) < (place, &key)),
            "entries come in order"
        );
        self.rows.push(Row { place, key, end: self.body.len() });
    }

    /// True if clients see the same.
    pub(super) fn same(&self, other: &Pages) -> bool {
        self.body == other.body
    }

    fn start(&self, row: usize) -> usize {
        if row == 0 { 0 } else { self.rows[row - 1].end + 1 }
    }

    /// Behind the last row of the page that begins with row `first`.
    fn page_end(&self, first: usize, limits: &PageLimits) -> usize {
        let start = self.start(first);
        let most = self.rows.len().min(first.saturating_add(limits.entries_max.max(1)));
        let fitting =
            self.rows[first..most].partition_point(|row| row.end - start <= limits.bytes_max);
        (first + fitting.max(1)).min(most)
    }
}

impl Catalog {
    /// Appends one page as members of a result, without its braces:
    /// `"tools":[…],"nextCursor":"…"`. The last page has no `nextCursor`.
    ///
    /// # Errors
    /// If the cursor is not one of this list, or its server is gone.
    pub fn write_page(
        &self,
        kind: ListKind,
        version: ProtocolVersion,
        cursor: Option<&str>,
        out: &mut Vec<u8>,
    ) -> Result<(), UnknownCursor> {
        let own = match (version, kind) {
            (ProtocolVersion::V2025_11_25, ListKind::Tools) => {
                self.task_tools.as_ref().or(self.legacy_tools.as_ref())
            }
            (_, ListKind::Tools) if version.era() == Era::Legacy => self.legacy_tools.as_ref(),
            _ => None,
        };
        let pages = own.unwrap_or(&self.lists[kind as usize]);
        let first = match cursor {
            None => 0,
            Some(cursor) => self.row_behind(kind, cursor)?,
        };
        let end = pages.page_end(first, &self.page_limits);
        let entries = &pages.body
            [pages.start(first).min(pages.body.len())..pages.start(end).saturating_sub(1)];
        out.reserve(entries.len() + 64);
        write_string(out, kind.member());
        out.extend_from_slice(b":[");
        out.extend_from_slice(entries);
        out.push(b']');
        if end < pages.rows.len() {
            let last = &pages.rows[end - 1];
            let server = &self.servers[usize::from(last.place)].1;
            out.extend_from_slice(b",\"nextCursor\":");
            write_string(out, &write_cursor(kind, server, &last.key));
        }
        Ok(())
    }

    /// The first row behind the place that a cursor names.
    fn row_behind(&self, kind: ListKind, cursor: &str) -> Result<usize, UnknownCursor> {
        let (server, key) = read_cursor(kind, cursor).ok_or(UnknownCursor)?;
        let place = self.servers.iter().position(|(_, name)| **name == *server);
        let place = place.ok_or(UnknownCursor)?;
        let passed = |row: &Row| (usize::from(row.place), &*row.key) <= (place, &*key);
        Ok(self.lists[kind as usize].rows.partition_point(passed))
    }
}

/// A cursor is the list's number, the server's name with its length before it, the
/// entry's key and a checksum, in base64. It gives no access to anything, so the
/// checksum guards against mistakes, not against intent.
fn write_cursor(kind: ListKind, server: &str, key: &str) -> String {
    let length = u8::try_from(server.len()).expect("the catalog refuses longer server names");
    let mut bytes = vec![kind as u8, length];
    bytes.extend_from_slice(server.as_bytes());
    bytes.extend_from_slice(key.as_bytes());
    bytes.extend_from_slice(&checksum(&bytes));
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read_cursor(kind: ListKind, cursor: &str) -> Option<(String, String)> {
    if cursor.len() > CURSOR_BYTES_MAX {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let (content, check) = bytes.split_last_chunk::<CHECK_BYTES>()?;
    let [list, length, names @ ..] = content else { return None };
    if checksum(content) != *check || *list != kind as u8 {
        return None;
    }
    let (server, key) = names.split_at_checked(usize::from(*length))?;
    Some((String::from_utf8(server.to_vec()).ok()?, String::from_utf8(key.to_vec()).ok()?))
}

fn checksum(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish().to_be_bytes()
}
