//! What one server offers, read from its list answers.
//!
//! Invariant: a listing only grows, and never beyond its [`ListingLimits`]; what is wrong
//! with single definitions is kept as evidence ([`Dropped`]), what is wrong with a page
//! as a whole is a [`BadPage`].

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use siphasher::sip::SipHasher13;

use super::ListKind;
use super::entry::{BadEntry, Entry};
use crate::jsonrpc::{string, unescape, walk_elements, walk_members};

/// The longest cursor of a server that is sent back to it.
const SERVER_CURSOR_BYTES_MAX: usize = 8 * 1024;

/// How many dropped definitions are kept as evidence; the others are only counted.
const DROPPED_KEPT_MAX: usize = 16;

/// How much of a dropped definition is shown.
const SHOWN_CHARS_MAX: usize = 80;

/// What a server may offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListingLimits {
    /// Entries of one kind.
    pub entries_max: usize,
    /// Bytes of all definitions together.
    pub bytes_max: usize,
    /// Bytes of one definition; a longer one is left out.
    pub entry_bytes_max: usize,
    /// Pages of one list.
    pub pages_max: usize,
}

impl Default for ListingLimits {
    fn default() -> ListingLimits {
        ListingLimits {
            entries_max: 10_000,
            bytes_max: 32 * 1024 * 1024,
            entry_bytes_max: 1024 * 1024,
            pages_max: 1_000,
        }
    }
}

/// Why a page of a server's list cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPage {
    /// The result is no object.
    #[error("its result is not a JSON object")]
    NoObject,
    /// The member that should hold the entries is missing or no array.
    #[error("its result has no array {0:?}")]
    NoArray(&'static str),
    /// More entries than [`ListingLimits::entries_max`].
    #[error("it lists more than {max} entries; raise the limit or let it offer less")]
    TooManyEntries {
        /// The limit.
        max: usize,
    },
    /// More bytes than [`ListingLimits::bytes_max`].
    #[error("its definitions have more than {max} bytes; raise the limit or let it offer less")]
    TooManyBytes {
        /// The limit.
        max: usize,
    },
    /// More pages than [`ListingLimits::pages_max`].
    #[error("its list has more than {max} pages; let it put more on a page")]
    TooManyPages {
        /// The limit.
        max: usize,
    },
    /// A page names a next one that was there before: the list would never end.
    #[error("its nextCursor {0:?} was there before: the list has no end")]
    CursorRepeated(String),
    /// `nextCursor` is no text, or longer than can be sent back.
    #[error("its nextCursor is not a text of at most {SERVER_CURSOR_BYTES_MAX} bytes")]
    BadCursor,
}

/// What a page says besides its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageEnd {
    /// Where the list goes on; `None` if this was its last page.
    pub next_cursor: Option<String>,
}

/// How long and for whom a list may be kept (MCP 2026-07-28, `CacheableResult`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caching {
    /// The shortest `ttlMs` of any page; `None` where a server said nothing.
    pub ttl_ms: Option<u64>,
    /// True if a page must not be shown to other users.
    pub private: bool,
}

impl Caching {
    /// What holds for both together.
    #[must_use]
    pub fn and(self, other: Caching) -> Caching {
        let ttl_ms = match (self.ttl_ms, other.ttl_ms) {
            (Some(left), Some(right)) => Some(left.min(right)),
            (left, right) => left.or(right),
        };
        Caching { ttl_ms, private: self.private || other.private }
    }
}

/// A definition that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Of which list.
    pub kind: ListKind,
    /// The beginning of its text.
    pub shown: String,
    /// Why.
    pub fault: BadEntry,
}

/// What one server offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    lists: [OneList; 4],
    bytes: usize,
    dropped: Vec<Dropped>,
    dropped_count: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OneList {
    /// By key, which is the order in which they are listed.
    entries: BTreeMap<Arc<str>, Arc<Entry>>,
    /// Hashes of the cursors seen. A chance collision (one in 2^64) ends a list with a fault.
    cursors: BTreeSet<u64>,
    pages: usize,
    caching: Caching,
}

impl Listing {
    /// Nothing yet.
    pub fn new() -> Listing {
        Listing::default()
    }

    /// Takes a page in: the raw `result` of an answer to [`ListKind::method`].
    ///
    /// # Errors
    /// If the page as a whole cannot be used. What was taken in before stays.
    pub fn add_page(
        &mut self,
        kind: ListKind,
        result: &[u8],
        limits: &ListingLimits,
    ) -> Result<PageEnd, BadPage> {
        let page = Page::read(kind, result)?;
        let list = &mut self.lists[kind as usize];
        list.pages += 1;
        if list.pages > limits.pages_max {
            return Err(BadPage::TooManyPages { max: limits.pages_max });
        }
        list.caching = list.caching.and(page.caching());
        let mut outcome = Ok(());
        let whole = walk_elements(page.entries, |raw| {
            if outcome.is_ok() {
                outcome = self.add_entry(kind, raw, limits);
            }
        });
        outcome?;
        if !whole {
            return Err(BadPage::NoArray(kind.member()));
        }
        Ok(PageEnd { next_cursor: self.next_cursor(kind, page.next_cursor)? })
    }

    fn add_entry(
        &mut self,
        kind: ListKind,
        raw: &[u8],
        limits: &ListingLimits,
    ) -> Result<(), BadPage> {
        let entries = &mut self.lists[kind as usize].entries;
        if entries.len() >= limits.entries_max {
            return Err(BadPage::TooManyEntries { max: limits.entries_max });
        }
        let read = if raw.len() > limits.entry_bytes_max {
            Err(BadEntry::Long { bytes: raw.len(), max: limits.entry_bytes_max })
        } else {
            Entry::read(kind, raw)
        };
        let fault = match read {
            Ok(entry) if !entries.contains_key(&entry.key) => {
                self.bytes = self.bytes.saturating_add(entry.text.len());
                if self.bytes > limits.bytes_max {
                    return Err(BadPage::TooManyBytes { max: limits.bytes_max });
                }
                entries.insert(Arc::clone(&entry.key), Arc::new(entry));
                return Ok(());
            }
            Ok(_) => BadEntry::Duplicate,
            Err(fault) => fault,
        };
        self.dropped_count += 1;
        if self.dropped.len() < DROPPED_KEPT_MAX {
            let shown = String::from_utf8_lossy(raw).chars().take(SHOWN_CHARS_MAX).collect();
            self.dropped.push(Dropped { kind, shown, fault });
        }
        Ok(())
    }

    fn next_cursor(
        &mut self,
        kind: ListKind,
        raw: Option<&[u8]>,
    ) -> Result<Option<String>, BadPage> {
        // A null cursor is what some servers write for none.
        let Some(raw) = raw.filter(|raw| *raw != b"null") else { return Ok(None) };
        let cursor = string(raw).filter(|cursor| cursor.len() <= SERVER_CURSOR_BYTES_MAX);
        let cursor = cursor.ok_or(BadPage::BadCursor)?;
        let mut hasher = SipHasher13::new();
        cursor.hash(&mut hasher);
        if !self.lists[kind as usize].cursors.insert(hasher.finish()) {
            let shown = cursor.chars().take(SHOWN_CHARS_MAX).collect();
            return Err(BadPage::CursorRepeated(shown));
        }
        Ok(Some(cursor.into_owned()))
    }

    /// How many entries of a kind there are.
    pub fn len(&self, kind: ListKind) -> usize {
        self.lists[kind as usize].entries.len()
    }

    /// True if there is nothing of any kind.
    pub fn is_empty(&self) -> bool {
        ListKind::ALL.into_iter().all(|kind| self.len(kind) == 0)
    }

    /// Bytes of all definitions.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the server says on keeping a list.
    pub fn caching(&self, kind: ListKind) -> Caching {
        self.lists[kind as usize].caching
    }

    /// Definitions that were left out: all are counted, the first few kept.
    pub fn dropped(&self) -> (usize, &[Dropped]) {
        (self.dropped_count, &self.dropped)
    }

    /// Bare tool names and the hashes of their definitions, for approving them.
    pub fn tool_definitions(
        &self,
    ) -> impl Iterator<Item = (&str, super::definition::DefinitionHash)> {
        self.entries(ListKind::Tools).map(|entry| (&*entry.key, entry.hash))
    }

    /// Appends everything as a JSON array of one page for each kind, so that another
    /// shard can take it in with [`Listing::read`]. Evidence of faults is left out.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.reserve(self.bytes + 256);
        for kind in ListKind::ALL {
            out.push(if kind as usize == 0 { b'[' } else { b',' });
            self.write_whole(kind, out);
        }
        out.push(b']');
    }

    fn write_whole(&self, kind: ListKind, out: &mut Vec<u8>) {
        out.push(b'{');
        crate::jsonrpc::write_string(out, kind.member());
        out.extend_from_slice(b":[");
        for (at, entry) in self.entries(kind).enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&entry.text);
        }
        out.push(b']');
        let caching = self.caching(kind);
        if let Some(ttl_ms) = caching.ttl_ms {
            out.extend_from_slice(b",\"ttlMs\":");
            out.extend_from_slice(itoa::Buffer::new().format(ttl_ms).as_bytes());
        }
        if caching.private {
            out.extend_from_slice(b",\"cacheScope\":\"private\"");
        }
        out.push(b'}');
    }

    /// Reads what [`Listing::write`] wrote.
    ///
    /// # Errors
    /// If it is something else, or more than `limits` allow.
    pub fn read(text: &[u8], limits: &ListingLimits) -> Result<Listing, BadPage> {
        let mut listing = Listing::new();
        let mut kinds = ListKind::ALL.into_iter();
        let mut outcome = Ok(());
        let whole = walk_elements(text, |page| {
            let added = match kinds.next() {
                Some(kind) => listing.add_page(kind, page, limits).map(|_| ()),
                None => Err(BadPage::NoObject),
            };
            outcome = outcome.clone().and(added);
        });
        outcome?;
        if !whole || kinds.next().is_some() {
            return Err(BadPage::NoObject);
        }
        Ok(listing)
    }

    pub(super) fn entries(&self, kind: ListKind) -> impl Iterator<Item = &Arc<Entry>> {
        self.lists[kind as usize].entries.values()
    }
}

/// The members of a list's result that are looked at.
struct Page<'a> {
    entries: &'a [u8],
    next_cursor: Option<&'a [u8]>,
    ttl_ms: Option<&'a [u8]>,
    scope: Option<&'a [u8]>,
}

impl<'a> Page<'a> {
    fn read(kind: ListKind, result: &'a [u8]) -> Result<Page<'a>, BadPage> {
        let (mut entries, mut next_cursor, mut ttl_ms, mut scope) = (None, None, None, None);
        let whole = walk_members(result, |name, value| match unescape(name).as_deref() {
            Some("nextCursor") => next_cursor = Some(value),
            Some("ttlMs") => ttl_ms = Some(value),
            Some("cacheScope") => scope = Some(value),
            Some(name) if name == kind.member() => entries = Some(value),
            Some(_) | None => {}
        });
        if !whole {
            return Err(BadPage::NoObject);
        }
        let entries = entries.filter(|entries| entries.starts_with(b"["));
        let entries = entries.ok_or(BadPage::NoArray(kind.member()))?;
        Ok(Page { entries, next_cursor, ttl_ms, scope })
    }

    fn caching(&self) -> Caching {
        let number = self.ttl_ms.and_then(|raw| std::str::from_utf8(raw).ok());
        let private = self.scope.and_then(string).as_deref() == Some("private");
        Caching { ttl_ms: number.and_then(|number| number.parse().ok()), private }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: ListKind = ListKind::Prompts;

    fn add(listing: &mut Listing, result: &str) -> Result<PageEnd, BadPage> {
        let limits =
            ListingLimits { entries_max: 4, bytes_max: 100, entry_bytes_max: 60, pages_max: 5 };
        listing.add_page(KIND, result.as_bytes(), &limits)
    }

    fn after(results: &[&str]) -> Result<PageEnd, BadPage> {
        let mut listing = Listing::new();
        let mut last = Err(BadPage::NoObject);
        for result in results {
            last = add(&mut listing, result);
        }
        last
    }

    #[test]
    fn each_fault_of_a_page_is_told() {
        for result in ["", "1", "[]", r#"{"prompts":[]"#, r#"{"prompts":[}"#] {
            assert_eq!(after(&[result]), Err(BadPage::NoObject), "{result}");
        }
        for result in ["{}", r#"{"prompts":{}}"#, r#"{"tools":[]}"#] {
            assert_eq!(after(&[result]), Err(BadPage::NoArray("prompts")), "{result}");
        }
        let names = |names: &str| {
            let entries = names.chars().map(|name| format!(r#"{{"name":"{name}"}}"#));
            format!(r#"{{"prompts":[{}]}}"#, entries.collect::<Vec<_>>().join(","))
        };
        assert!(after(&[&names("ab"), &names("cd")]).is_ok());
        let full = after(&[&names("ab"), &names("cde")]);
        assert_eq!(full, Err(BadPage::TooManyEntries { max: 4 }));
        let long =
            |name| format!(r#"{{"prompts":[{{"name":"{name}","description":"{name:030}"}}]}}"#);
        assert!(after(&[&long(1)]).is_ok());
        assert_eq!(after(&[&long(1), &long(2)]), Err(BadPage::TooManyBytes { max: 100 }));
        let empty = r#"{"prompts":[]}"#;
        assert!(after(&[empty; 5]).is_ok());
        assert_eq!(after(&[empty; 6]), Err(BadPage::TooManyPages { max: 5 }));
    }

    #[test]
    fn cursors_lead_on_until_one_comes_back() {
        let page = |cursor: &str| format!(r#"{{"prompts":[],"nextCursor":{cursor}}}"#);
        let next = |next: &str| Ok(PageEnd { next_cursor: Some(next.to_owned()) });
        assert_eq!(after(&[&page(r#""a""#)]), next("a"));
        assert_eq!(after(&[&page(r#""a""#), &page(r#""\u0062""#)]), next("b"));
        assert_eq!(after(&[&page("null")]), Ok(PageEnd { next_cursor: None }));
        let back = after(&[&page(r#""a""#), &page(r#""b""#), &page(r#""a""#)]);
        assert_eq!(back, Err(BadPage::CursorRepeated("a".to_owned())));
        let long = format!("\"{}\"", "a".repeat(SERVER_CURSOR_BYTES_MAX + 1));
        for bad in ["1", "{}", r#""\ud800""#, &long] {
            assert_eq!(after(&[&page(bad)]), Err(BadPage::BadCursor), "{bad}");
        }
    }

    #[test]
    fn bad_definitions_cost_only_themselves() {
        let mut listing = Listing::new();
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(60));
        let page = format!(
            r#"{{"prompts":[1,{{"name":"a","n":1}},{{"title":"t"}},{long},{{"name":"a","n":2}},{{"name":"b"}}]}}"#
        );
        assert!(add(&mut listing, &page).is_ok());
        let keys: Vec<&str> = listing.entries(KIND).map(|entry| &*entry.key).collect();
        assert_eq!(keys, ["a", "b"]);
        // Of two with one name the first counts.
        assert!(listing.entries(KIND).any(|entry| &*entry.text == br#"{"name":"a","n":1}"#));
        let (count, kept) = listing.dropped();
        let faults: Vec<&BadEntry> = kept.iter().map(|dropped| &dropped.fault).collect();
        let wanted = [
            &BadEntry::NoObject,
            &BadEntry::NoText("name"),
            &BadEntry::Long { bytes: long.len(), max: 60 },
            &BadEntry::Duplicate,
        ];
        assert_eq!((count, faults), (4, wanted.to_vec()));
        assert_eq!(kept[1].shown, r#"{"title":"t"}"#);
    }

    #[test]
    fn evidence_is_bounded() {
        let mut listing = Listing::new();
        let page = format!(r#"{{"prompts":[{}1]}}"#, "1,".repeat(99));
        assert!(add(&mut listing, &page).is_ok());
        let (count, kept) = listing.dropped();
        assert_eq!((count, kept.len()), (100, DROPPED_KEPT_MAX));
    }

    #[test]
    fn listings_are_read_as_written() {
        let mut listing = Listing::new();
        let limits = ListingLimits::default();
        let pages = [
            (ListKind::Tools, r#"{"tools":[{"name":"t","inputSchema":{}}],"ttlMs":5}"#),
            (ListKind::Prompts, r#"{"prompts":[{"name":"p"}],"cacheScope":"private"}"#),
            (ListKind::Resources, r#"{"resources":[{"name":"r", "uri":"a:b"}]}"#),
            (ListKind::Templates, r#"{"resourceTemplates":[{"uriTemplate":"a:{b}","name":"m"}]}"#),
        ];
        for (kind, page) in pages {
            listing.add_page(kind, page.as_bytes(), &limits).expect("a page");
        }
        let mut text = Vec::new();
        listing.write(&mut text);
        assert_eq!(Listing::read(&text, &limits).as_ref(), Ok(&listing));
        for broken in ["", "{}", "[]", "[{}]"] {
            assert!(Listing::read(broken.as_bytes(), &limits).is_err(), "{broken}");
        }
    }
}
