//! What became of everything the servers offer, for the log and the command line.

use super::ListKind;
use super::listing::Dropped;

/// How many names of a kind of trouble are kept; the others are only counted.
pub(super) const NAMES_KEPT_MAX: usize = 32;

/// Something that is not exposed because another has its name or URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// Of which list.
    pub kind: ListKind,
    /// The name or URI it would have had.
    pub name: String,
    /// The server that has it, if one has: a name with another server's prefix belongs
    /// to that server even while it is down.
    pub winner: Option<u16>,
}

/// What became of one server's offer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerReport {
    /// [`Server::index`](super::Server::index).
    pub index: u16,
    /// Its name.
    pub name: String,
    /// False if nothing was ever listed by it.
    pub listed: bool,
    /// Entries shown, by [`ListKind`].
    pub shown: [usize; 4],
    /// Tools left out by a filter.
    pub denied: usize,
    /// Names that were shortened or had characters replaced.
    pub renamed: usize,
    /// Entries hidden by a conflict: how many, and the first few.
    pub hidden: (usize, Vec<Hidden>),
    /// Tools quarantined: how many, and the first few bare names.
    pub quarantined: (usize, Vec<String>),
    /// Definitions that could not be used: how many, and the first few.
    pub dropped: (usize, Vec<Dropped>),
}

/// What became of everything, in the servers' order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogReport {
    /// By server.
    pub servers: Vec<ServerReport>,
}

impl CatalogReport {
    /// Entries of a kind that are shown.
    pub fn shown(&self, kind: ListKind) -> usize {
        self.servers.iter().map(|server| server.shown[kind as usize]).sum()
    }

    /// True if something of what the servers offer is missing for a reason that nobody configured.
    pub fn is_troubled(&self) -> bool {
        let troubles =
            |server: &ServerReport| server.hidden.0 + server.quarantined.0 + server.dropped.0;
        self.servers.iter().any(|server| troubles(server) > 0)
    }
}

impl ServerReport {
    pub(super) fn hide(&mut self, kind: ListKind, name: &str, winner: Option<u16>) {
        self.hidden.0 += 1;
        if self.hidden.1.len() < NAMES_KEPT_MAX {
            self.hidden.1.push(Hidden { kind, name: name.to_owned(), winner });
        }
    }

    pub(super) fn quarantine(&mut self, tool: &str) {
        self.quarantined.0 += 1;
        if self.quarantined.1.len() < NAMES_KEPT_MAX {
            self.quarantined.1.push(tool.to_owned());
        }
    }
}
