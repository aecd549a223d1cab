//! The four lists, written once and handed out as bytes.
//!
//! Every page of every list is built at construction for each revision, with and
//! without the one entry that comes and goes, so answering a list request copies
//! one slice. Cursors are opaque and name list and page.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use shardgate_proto::catalog::TaskOffer;
use shardgate_proto::mcp::version::ProtocolVersion;

use super::answers::{Caching, finish, put, put_string};
use super::{prompts, resources, tools};

/// How long a client may keep a list. A change is announced by list_changed before.
pub(super) const LIST_TTL_MS: u64 = 60_000;

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Tools,
    Prompts,
    Resources,
    Templates,
}

impl List {
    const ALL: [List; 4] = [List::Tools, List::Prompts, List::Resources, List::Templates];

    /// The member of the result that holds the entries.
    fn member(self) -> &'static str {
        match self {
            List::Tools => "tools",
            List::Prompts => "prompts",
            List::Resources => "resources",
            List::Templates => "resourceTemplates",
        }
    }

    fn tag(self) -> u8 {
        match self {
            List::Tools => b't',
            List::Prompts => b'p',
            List::Resources => b'r',
            List::Templates => b'm',
        }
    }

    fn entries(
        self,
        version: ProtocolVersion,
        with_changeable: bool,
        tasks: Option<&TaskOffer>,
    ) -> Vec<Vec<u8>> {
        match self {
            List::Tools => {
                let extra = with_changeable.then_some(&tools::CHANGEABLE_TOOL);
                written(tools::TOOLS.iter().chain(extra), |tool, out| {
                    if tool.is_known_in(version) {
                        tool.write(version, tasks, out);
                    }
                })
            }
            List::Prompts => {
                let extra = with_changeable.then_some(&prompts::CHANGEABLE_PROMPT);
                written(prompts::PROMPTS.iter().chain(extra), |prompt, out| {
                    prompt.write(version, out);
                })
            }
            List::Resources => {
                let extra = with_changeable.then_some(&resources::CHANGEABLE_RESOURCE);
                written(resources::RESOURCES.iter().chain(extra), |resource, out| {
                    resource.write(version, out);
                })
            }
            List::Templates => written([&resources::TEMPLATE].into_iter(), |_, out| {
                resources::write_template(version, out);
            }),
        }
    }
}

fn written<'a, T: 'a>(
    specs: impl Iterator<Item = &'a T>,
    write: impl Fn(&T, &mut Vec<u8>),
) -> Vec<Vec<u8>> {
    specs
        .map(|spec| {
            let mut out = Vec::new();
            write(spec, &mut out);
            out
        })
        .filter(|entry| !entry.is_empty())
        .collect()
}

/// All pages of all lists.
#[derive(Debug)]
pub(super) struct Catalog {
    /// By revision, list and whether the changeable entry is in.
    pages: Vec<Vec<Box<[u8]>>>,
}

impl Catalog {
    /// Builds the lists with at most `page_entries` entries on a page.
    pub(super) fn new(page_entries: usize, tasks: Option<&TaskOffer>) -> Catalog {
        let mut pages = Vec::new();
        for version in ProtocolVersion::ALL {
            for list in List::ALL {
                for with_changeable in [false, true] {
                    let entries = list.entries(version, with_changeable, tasks);
                    pages.push(paged(list, version, &entries, page_entries.max(1)));
                }
            }
        }
        Catalog { pages }
    }

    /// The result object for one page, or `None` if the cursor is not one of ours.
    pub(super) fn page(
        &self,
        list: List,
        version: ProtocolVersion,
        with_changeable: bool,
        cursor: Option<&str>,
    ) -> Option<&[u8]> {
        let number = match cursor {
            None => 0,
            Some(cursor) => read_cursor(list, cursor)?,
        };
        let variant =
            (version as usize * List::ALL.len() + list as usize) * 2 + usize::from(with_changeable);
        self.pages[variant].get(number).map(|page| &**page)
    }
}

fn paged(
    list: List,
    version: ProtocolVersion,
    entries: &[Vec<u8>],
    page_entries: usize,
) -> Vec<Box<[u8]>> {
    let count = entries.len().div_ceil(page_entries).max(1);
    let mut pages = Vec::with_capacity(count);
    for number in 0..count {
        let on_page = entries.iter().skip(number * page_entries).take(page_entries);
        let mut out = Vec::new();
        put(&mut out, "{");
        put_string(&mut out, list.member());
        put(&mut out, ":[");
        for (at, entry) in on_page.enumerate() {
            if at > 0 {
                put(&mut out, ",");
            }
            out.extend_from_slice(entry);
        }
        put(&mut out, "]");
        if number + 1 < count {
            put(&mut out, r#","nextCursor":"#);
            put_string(&mut out, &write_cursor(list, number + 1));
        }
        finish(&mut out, version, Some(Caching { ttl_ms: LIST_TTL_MS }));
        pages.push(out.into_boxed_slice());
    }
    pages
}

fn write_cursor(list: List, page: usize) -> String {
    let page = u16::try_from(page).expect("the embedded lists are short").to_be_bytes();
    URL_SAFE_NO_PAD.encode([list.tag(), page[0], page[1]])
}

fn read_cursor(list: List, cursor: &str) -> Option<usize> {
    match URL_SAFE_NO_PAD.decode(cursor).ok()?.as_slice() {
        [tag, high, low] if *tag == list.tag() => {
            Some(usize::from(u16::from_be_bytes([*high, *low])))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use simd_json::prelude::*;

    use super::*;

    fn parsed(page: &[u8]) -> simd_json::OwnedValue {
        simd_json::to_owned_value(&mut page.to_vec()).expect("a page is JSON")
    }

    #[test]
    fn pages_join_to_the_whole_list() {
        let whole = Catalog::new(1000, Some(&TaskOffer::default()));
        let small = Catalog::new(7, Some(&TaskOffer::default()));
        for version in ProtocolVersion::ALL {
            for list in List::ALL {
                let all = parsed(whole.page(list, version, true, None).expect("first page"));
                let mut joined = Vec::new();
                let mut cursor: Option<String> = None;
                loop {
                    let page =
                        parsed(small.page(list, version, true, cursor.as_deref()).expect("a page"));
                    joined.extend(page[list.member()].as_array().expect("entries").clone());
                    cursor = page.get_str("nextCursor").map(str::to_owned);
                    if cursor.is_none() {
                        break;
                    }
                }
                assert_eq!(all[list.member()].as_array().expect("entries"), &joined);
                assert!(all.get("nextCursor").is_none());
            }
        }
    }

    #[test]
    fn foreign_cursors_are_refused() {
        let catalog = Catalog::new(7, None);
        let version = ProtocolVersion::V2025_11_25;
        for cursor in [
            "",
            "x",
            "!!!",
            "AAAA",
            &write_cursor(List::Prompts, 1),
            &write_cursor(List::Tools, 999),
        ] {
            assert!(catalog.page(List::Tools, version, false, Some(cursor)).is_none(), "{cursor}");
        }
    }
}
