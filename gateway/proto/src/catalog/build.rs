//! The merge itself.

use std::collections::HashMap;
use std::sync::Arc;

use super::ListKind;
use super::entry::{Audience, Entry};
use super::listing::{Caching, Listing};
use super::naming::{Exposed, Named, Nameless, name_all};
use super::pages::{PageLimits, Pages};
use super::pins::Pins;
use super::report::{CatalogReport, ServerReport};
use super::uri_template::UriTemplate;
use super::view::{Server, View};

/// The longest name of a server; its length is one byte in cursors.
const SERVER_NAME_BYTES_MAX: usize = 255;

/// For how long a list may be kept, in milliseconds, while a server that belongs to it has
/// never been read: it may come up any time, and not all clients listen for changes.
pub const PARTIAL_TTL_MS: u64 = 1_000;

/// Where a name leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) server: u16,
    pub(super) entry: Arc<Entry>,
    pub(super) quarantined: bool,
}

pub(super) type Slots = HashMap<Box<str>, Slot>;

/// What a view shows of its servers: a snapshot that never changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    /// Index and name, in the order of the configuration.
    pub(super) servers: Vec<(u16, Box<str>)>,
    pub(super) lists: [Pages; 4],
    /// The tools for clients of the legacy era, where some differ for them.
    pub(super) legacy_tools: Option<Pages>,
    /// The tools for clients that know `execution`, where the gateway makes tasks of calls.
    pub(super) task_tools: Option<Pages>,
    pub(super) page_limits: PageLimits,
    pub(super) tools: Slots,
    pub(super) prompts: Slots,
    /// Bare names that need their prefix, with the prefixed ones; sorted.
    pub(super) colliding_tools: Vec<(String, String)>,
    pub(super) colliding_prompts: Vec<(String, String)>,
    pub(super) resources: HashMap<Arc<str>, u16>,
    pub(super) template_uris: HashMap<Arc<str>, u16>,
    pub(super) templates: Vec<(UriTemplate, u16)>,
    caching: [Caching; 4],
    report: CatalogReport,
}

/// Which lists clients have to read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// `notifications/tools/list_changed`.
    pub tools: bool,
    /// `notifications/prompts/list_changed`.
    pub prompts: bool,
    /// `notifications/resources/list_changed`: resources or templates.
    pub resources: bool,
}

impl Changes {
    /// True if something changed.
    pub fn any(self) -> bool {
        self.tools || self.prompts || self.resources
    }
}

impl Catalog {
    /// Merges what the view's servers offer. `servers` come in the configuration's order,
    /// each with what it last listed; `None` if it never has.
    ///
    /// # Panics
    /// If a server's name has more than 255 bytes or two have the same: the
    /// configuration refuses that.
    pub fn build(servers: &[(Server, Option<&Listing>)], view: &View, pins: &Pins) -> Catalog {
        let merge = Merge::new(servers, view, pins);
        let mut catalog = Catalog {
            servers: merge.servers().map(|server| (server.index, (*server.name).into())).collect(),
            page_limits: view.pages,
            report: CatalogReport {
                servers: merge.shown.iter().map(|one| report_of(one)).collect(),
            },
            ..Catalog::default()
        };
        catalog.add_named(ListKind::Tools, &merge);
        catalog.add_named(ListKind::Prompts, &merge);
        catalog.colliding_tools.sort();
        catalog.colliding_prompts.sort();
        catalog.add_addressed(ListKind::Resources, &merge);
        catalog.add_addressed(ListKind::Templates, &merge);
        for kind in ListKind::ALL {
            let partial = Caching { ttl_ms: Some(PARTIAL_TTL_MS), private: false };
            let said = merge.shown.iter().map(|(_, listing)| *listing);
            catalog.caching[kind as usize] = said
                .map(|listing| listing.map_or(partial, |listing| listing.caching(kind)))
                .fold(Caching::default(), Caching::and);
        }
        catalog
    }

    /// Tools and prompts, which get names.
    fn add_named(&mut self, kind: ListKind, merge: &Merge<'_>) {
        let offered = self.offered(kind, merge);
        if offered.iter().any(|(_, entry)| entry.modern_only.is_some()) {
            self.legacy_tools = Some(Pages::default());
        }
        if kind == ListKind::Tools && merge.view.tasks.is_some() {
            self.task_tools = Some(Pages::default());
        }
        let named = merge.names(kind, &offered);
        // An alias each, at most.
        self.slots_mut(kind).0.reserve(2 * offered.len());
        let mut hidden = Vec::new();
        for ((place, entry), named) in offered.into_iter().zip(named) {
            match named {
                Named::Exposed(exposed) => self.add_exposed(kind, merge, place, entry, exposed),
                Named::Hidden(name) => hidden.push((place, name)),
            }
        }
        for (place, name) in hidden {
            let winner = self.slots(kind).get(name.as_str()).map(|slot| slot.server);
            self.report.servers[usize::from(place)].hide(kind, &name, winner);
        }
    }

    fn add_exposed(
        &mut self,
        kind: ListKind,
        merge: &Merge<'_>,
        place: u16,
        entry: &Arc<Entry>,
        exposed: Exposed,
    ) {
        let server = &merge.shown[usize::from(place)].0;
        let report = &mut self.report.servers[usize::from(place)];
        // What a filter says of a tool must not turn around when another server comes up.
        if kind == ListKind::Tools && !merge.view.tools.passes(&exposed.names()) {
            report.denied += 1;
            return;
        }
        report.renamed += usize::from(exposed.changed);
        let quarantined = kind == ListKind::Tools
            && merge.pins.objects(server.pinning, &server.name, &entry.key, entry.hash);
        if quarantined {
            report.quarantine(&entry.key);
        } else {
            report.shown[kind as usize] += 1;
            self.lists[kind as usize].push(place, entry, &exposed.name, Audience::Modern);
            if kind == ListKind::Tools
                && let Some(pages) = &mut self.legacy_tools
            {
                pages.push(place, entry, &exposed.name, Audience::Legacy);
            }
            if kind == ListKind::Tools
                && let (Some(pages), Some(offer)) = (&mut self.task_tools, &merge.view.tasks)
            {
                let support = offer.support(&exposed.name, entry.facts.task_support);
                pages.push(place, entry, &exposed.name, Audience::Tasks(support));
            }
        }
        let slot = Slot { server: server.index, entry: Arc::clone(entry), quarantined };
        self.add_slot(kind, slot, exposed);
    }

    fn add_slot(&mut self, kind: ListKind, slot: Slot, exposed: Exposed) {
        let (slots, colliding) = self.slots_mut(kind);
        if let Some(bare) = exposed.collided {
            colliding.push((bare, exposed.name.clone()));
        }
        if let Some(alias) = exposed.alias {
            slots.insert(alias.into(), slot.clone());
        }
        slots.insert(exposed.name.into(), slot);
    }

    /// Where names of the kind lead, and which of them need their prefix.
    fn slots_mut(&mut self, kind: ListKind) -> (&mut Slots, &mut Vec<(String, String)>) {
        if kind == ListKind::Tools {
            (&mut self.tools, &mut self.colliding_tools)
        } else {
            (&mut self.prompts, &mut self.colliding_prompts)
        }
    }

    fn slots(&self, kind: ListKind) -> &Slots {
        if kind == ListKind::Tools { &self.tools } else { &self.prompts }
    }

    /// Resources and templates, which are told apart by their URIs. These are not
    /// rewritten: servers and models put them into texts that nobody else understands.
    fn add_addressed(&mut self, kind: ListKind, merge: &Merge<'_>) {
        for (place, entry) in self.offered(kind, merge) {
            let server = merge.shown[usize::from(place)].0.index;
            let owners = if kind == ListKind::Templates {
                &mut self.template_uris
            } else {
                &mut self.resources
            };
            let report = &mut self.report.servers[usize::from(place)];
            let owner = *owners.entry(Arc::clone(&entry.key)).or_insert(server);
            if owner != server {
                report.hide(kind, &entry.key, Some(owner));
                continue;
            }
            report.shown[kind as usize] += 1;
            self.lists[kind as usize].push(place, entry, &entry.key, Audience::Modern);
            if kind == ListKind::Templates
                && let Some(template) = UriTemplate::parse(&entry.key)
            {
                self.templates.push((template, server));
            }
        }
    }

    /// What the servers offer of a kind, in the list's order, less what their own filters deny.
    fn offered<'a>(&mut self, kind: ListKind, merge: &Merge<'a>) -> Vec<(u16, &'a Arc<Entry>)> {
        let mut offered = Vec::new();
        for (place, (server, listing)) in merge.shown.iter().enumerate() {
            let place = u16::try_from(place).expect("there are fewer servers than indexes");
            for entry in listing.iter().flat_map(|listing| listing.entries(kind)) {
                if kind != ListKind::Tools || server.tools.passes(&[&entry.key]) {
                    offered.push((place, entry));
                } else {
                    self.report.servers[usize::from(place)].denied += 1;
                }
            }
        }
        offered
    }

    /// What differs for clients between two snapshots.
    pub fn changes(&self, other: &Catalog) -> Changes {
        let differs = |kind: ListKind| !self.lists[kind as usize].same(&other.lists[kind as usize]);
        Changes {
            tools: differs(ListKind::Tools),
            prompts: differs(ListKind::Prompts),
            resources: differs(ListKind::Resources) || differs(ListKind::Templates),
        }
    }

    /// How long and for whom a list may be kept, by what the servers say.
    pub fn caching(&self, kind: ListKind) -> Caching {
        self.caching[kind as usize]
    }

    /// What became of everything.
    pub fn report(&self) -> &CatalogReport {
        &self.report
    }
}

/// What goes into a catalog.
struct Merge<'a> {
    /// The view's servers, in the configuration's order.
    shown: Vec<&'a (Server, Option<&'a Listing>)>,
    view: &'a View,
    pins: &'a Pins,
}

impl<'a> Merge<'a> {
    fn new(
        servers: &'a [(Server, Option<&'a Listing>)],
        view: &'a View,
        pins: &'a Pins,
    ) -> Merge<'a> {
        let shown = servers.iter().filter(|(server, _)| view.shows(server.index)).collect();
        let merge = Merge { shown, view, pins };
        for (at, server) in merge.servers().enumerate() {
            assert!(server.name.len() <= SERVER_NAME_BYTES_MAX, "{:?} is too long", server.name);
            let same = merge.servers().take(at).any(|other| other.name == server.name);
            assert!(!same, "two servers are called {:?}", server.name);
        }
        merge
    }

    fn servers(&self) -> impl Iterator<Item = &'a Server> {
        self.shown.iter().map(|(server, _)| server)
    }

    fn names(&self, kind: ListKind, offered: &[(u16, &Arc<Entry>)]) -> Vec<Named> {
        let servers: Vec<_> =
            self.servers().map(|server| (server.name.as_str(), server.prefix)).collect();
        let nameless = offered.iter().map(|(place, entry)| {
            let (server, prefix) = servers[usize::from(*place)];
            Nameless { server, prefix, bare: &entry.key }
        });
        name_all(kind, &servers, &nameless.collect::<Vec<_>>())
    }
}

fn report_of((server, listing): &(Server, Option<&Listing>)) -> ServerReport {
    let dropped = listing.map(|listing| {
        let (count, kept) = listing.dropped();
        (count, kept.to_vec())
    });
    ServerReport {
        index: server.index,
        name: server.name.clone(),
        listed: listing.is_some(),
        dropped: dropped.unwrap_or_default(),
        ..ServerReport::default()
    }
}
