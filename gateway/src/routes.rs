//! The paths clients come in on, and the numbers by which everything behind knows them.
//!
//! Invariant: a number stands for one path for the process's life. A path that is taken
//! away and comes back has its number again, and with it the sessions opened on it.

use std::collections::{BTreeMap, BTreeSet};

use shardgate_proto::upstream::RouteId;

use crate::config::RoutePath;

/// Where the whole catalog is served.
const WHOLE_PATH: &[u8] = b"/mcp";

/// All paths MCP is served at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Routes {
    /// Every path there ever was, as a whole.
    numbers: BTreeMap<Box<[u8]>, RouteId>,
    served: BTreeSet<RouteId>,
}

/// A configuration was read again with a new path once too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the numbers of routes are used up after {} different paths; restart the gateway",
    u16::MAX
)]
pub struct RoutesUsedUp;

impl Routes {
    /// These paths, with the numbers that they had before, or new ones.
    pub(crate) fn next<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a RoutePath>,
    ) -> Result<Routes, RoutesUsedUp> {
        let mut next = Routes { numbers: self.numbers.clone(), served: BTreeSet::new() };
        for path in paths {
            // The number 0 is the whole catalog's.
            let number = u16::try_from(next.numbers.len() + 1).map_err(|_| RoutesUsedUp)?;
            let path = path.as_str().as_bytes().into();
            next.served.insert(*next.numbers.entry(path).or_insert(RouteId(number)));
        }
        Ok(next)
    }

    /// The path of a route, served or not.
    pub(crate) fn path_of(&self, route: RouteId) -> Option<&str> {
        let path = match self.numbers.iter().find(|(_, number)| **number == route) {
            Some((path, _)) => path,
            None if route == RouteId::WHOLE => WHOLE_PATH,
            None => return None,
        };
        std::str::from_utf8(path).ok()
    }

    /// What is served at this path of a request.
    pub(crate) fn find(&self, path: &[u8]) -> Option<RouteId> {
        if path == WHOLE_PATH {
            return Some(RouteId::WHOLE);
        }
        self.numbers.get(path).copied().filter(|route| self.served.contains(route))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(names: &[&str]) -> Vec<RoutePath> {
        names.iter().map(|name| name.parse().expect("a path")).collect()
    }

    #[test]
    fn a_path_keeps_its_number_and_no_other_gets_it() {
        let first = Routes::default().next(&paths(&["/mcp/a", "/mcp/b"])).expect("room");
        let (a, b) = (first.find(b"/mcp/a"), first.find(b"/mcp/b"));
        assert!(a.is_some() && b.is_some() && a != b);
        let second = first.next(&paths(&["/mcp/c", "/mcp/b"])).expect("room");
        assert_eq!(second.find(b"/mcp/a"), None, "it is served no more");
        assert_eq!(second.find(b"/mcp/b"), b);
        let c = second.find(b"/mcp/c");
        assert!(c.is_some() && c != a && c != b);
        let third = second.next(&paths(&["/mcp/a"])).expect("room");
        assert_eq!((third.find(b"/mcp/a"), third.find(b"/mcp/c")), (a, None));
    }

    #[test]
    fn the_whole_catalog_is_always_there_and_nothing_beside_it() {
        let routes = Routes::default();
        assert_eq!(routes.find(b"/mcp"), Some(RouteId::WHOLE));
        for path in [b"/mcp/".as_slice(), b"/mcp/a", b"/mcpa", b"/", b""] {
            assert_eq!(routes.find(path), None, "{path:?}");
        }
    }
}
