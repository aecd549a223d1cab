//! Whatever a server lists, the catalog made of it keeps its promises.
//!
//! The first byte chooses the kind of list, the prefix rule and the size of pages; the
//! rest is the server's answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use shardgate_proto::catalog::{
    Catalog, ListKind, Listing, ListingLimits, NAME_BYTES_MAX, PageLimits, Pins, Prefix, Server,
    View, definition_hash,
};
use shardgate_proto::jsonrpc::{member, string};
use shardgate_proto::mcp::version::ProtocolVersion;

/// The members of a page that matter here.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    #[serde(borrow, default)]
    tools: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    prompts: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    resources: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    resource_templates: Vec<&'a RawValue>,
    next_cursor: Option<String>,
}

impl Page<'_> {
    fn len(&self) -> usize {
        let named = self.tools.len() + self.prompts.len();
        named + self.resources.len() + self.resource_templates.len()
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, answer)) = input.split_first() else { return };
    let kind = ListKind::ALL[usize::from(choice % 4)];
    let prefix = [Prefix::Always, Prefix::OnConflict, Prefix::Never][usize::from(choice / 4 % 3)];
    let limits = ListingLimits { entries_max: 16, ..ListingLimits::default() };
    let mut listing = Listing::new();
    let _ = listing.add_page(kind, answer, &limits);

    let mut text = Vec::new();
    listing.write(&mut text);
    let copy = Listing::read(&text, &limits).expect("what was written can be read");
    let build = |listing| {
        let server = |index, name: &str| Server {
            index,
            name: name.to_owned(),
            prefix,
            ..Server::default()
        };
        let pages =
            PageLimits { entries_max: 1 + usize::from(choice / 12), ..PageLimits::default() };
        let servers = [(server(0, "a"), Some(listing)), (server(1, "b"), Some(listing))];
        Catalog::build(&servers, &View { pages, ..View::default() }, &Pins::new())
    };
    let catalog = build(&listing);
    assert!(!catalog.changes(&build(&copy)).any());

    let mut seen = 0;
    let mut cursor: Option<String> = None;
    loop {
        let mut text = b"{".to_vec();
        let version = ProtocolVersion::V2025_11_25;
        catalog.write_page(kind, version, cursor.as_deref(), &mut text).expect("its own cursor");
        text.push(b'}');
        let page: Page<'_> = serde_json::from_slice(&text).expect("a page is JSON");
        seen += page.len();
        for tool in &page.tools {
            definition_hash(tool.get().as_bytes());
            let name = member(tool.get().as_bytes(), "name").and_then(string);
            let name = name.expect("a tool has a name");
            assert!(name.len() <= NAME_BYTES_MAX);
            assert!(catalog.tool(&name).is_some(), "what is listed can be called");
        }
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    let report = catalog.report();
    assert_eq!(seen, report.shown(kind));
    let hidden: usize = report.servers.iter().map(|server| server.hidden.0).sum();
    assert_eq!(seen + hidden, 2 * listing.len(kind));
});
