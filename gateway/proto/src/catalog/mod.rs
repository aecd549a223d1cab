//! The merged catalog: the tools, prompts, resources and templates of many servers as one.
//!
//! A [`Listing`] is what one server offers, read page by page from its own list
//! answers. [`Catalog::build`] merges the listings of a view's servers into an immutable
//! snapshot: it decides the names under which clients see things ([`naming`](Prefix)),
//! what is left out ([`View`], [`Pins`]), and lays out the lists so that a page of a list
//! is one slice.
//!
//! Invariants:
//! - A definition stays the server's own JSON text, less the white space between its
//!   tokens. What is ever changed is the `name` of a tool or prompt, an `inputSchema`
//!   without a `type`, and, for legacy clients, an `outputSchema` they would choke on.
//! - The same servers, listings, view and pins give an equal catalog on every shard and
//!   node: nothing depends on the order of a hash table or on the time of arrival.
//! - Exposed names are unique within a list and at most [`NAME_BYTES_MAX`] bytes long.
//! - A list is ordered by the servers' order and, within a server, by its own names (or
//!   URIs) as bytes. This order does not change when other entries come and go, so a
//!   cursor, which names the last entry given out, stays good across changes.
//! - One bad definition of a server costs that definition, never the list.
//!
//! Limits: [`ListingLimits`], [`PageLimits`], [`NAME_BYTES_MAX`], [`KEY_BYTES_MAX`].

mod build;
mod definition;
mod entry;
mod listing;
mod mirrored;
mod naming;
mod pages;
mod pins;
mod report;
mod routing;
#[cfg(test)]
mod tests;
mod uri_template;
mod view;

pub use build::{Catalog, Changes, PARTIAL_TTL_MS};
pub use definition::{DefinitionHash, definition_hash};
pub use entry::{BadEntry, KEY_BYTES_MAX, TaskSupport};
pub use listing::{BadPage, Caching, Dropped, Listing, ListingLimits, PageEnd};
pub use mirrored::BadMirror;
pub use naming::{NAME_BYTES_MAX, Prefix, SEPARATOR};
pub use pages::{CURSOR_BYTES_MAX, PageLimits, UnknownCursor};
pub use pins::{BadPins, Pinning, Pins};
pub use report::{CatalogReport, Hidden, ServerReport};
pub use routing::{Absence, PromptTarget, ToolTarget};
pub use uri_template::UriTemplate;
pub use view::{Filter, Server, TaskOffer, View};

/// Which of a server's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListKind {
    /// `tools/list`.
    Tools,
    /// `prompts/list`.
    Prompts,
    /// `resources/list`.
    Resources,
    /// `resources/templates/list`.
    Templates,
}

impl ListKind {
    /// Every kind.
    pub const ALL: [ListKind; 4] =
        [ListKind::Tools, ListKind::Prompts, ListKind::Resources, ListKind::Templates];

    /// The kind that a method lists.
    pub fn of_method(method: &str) -> Option<ListKind> {
        ListKind::ALL.into_iter().find(|kind| kind.method() == method)
    }

    /// The method that lists it.
    pub const fn method(self) -> &'static str {
        match self {
            ListKind::Tools => "tools/list",
            ListKind::Prompts => "prompts/list",
            ListKind::Resources => "resources/list",
            ListKind::Templates => "resources/templates/list",
        }
    }

    /// The member of the result that holds the entries.
    pub const fn member(self) -> &'static str {
        match self {
            ListKind::Tools => "tools",
            ListKind::Prompts => "prompts",
            ListKind::Resources => "resources",
            ListKind::Templates => "resourceTemplates",
        }
    }

    /// The member of an entry by which it is told from others.
    const fn key_member(self) -> &'static str {
        match self {
            ListKind::Tools | ListKind::Prompts => "name",
            ListKind::Resources => "uri",
            ListKind::Templates => "uriTemplate",
        }
    }
}
