//! What a route shows of the servers: a virtual server.

use wildmatch::WildMatch;

use super::entry::TaskSupport;
use super::naming::Prefix;
use super::pages::PageLimits;
use super::pins::Pinning;

/// A server as the catalog needs to know it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Server {
    /// What lookups return.
    pub index: u16,
    /// Its name in the configuration: prefix, part of cursors, key of pins.
    pub name: String,
    /// When its name is put before those of its tools and prompts.
    pub prefix: Prefix,
    /// What pins do to its tools.
    pub pinning: Pinning,
    /// Which of its tools are offered, by their bare names.
    pub tools: Filter,
}

/// Names that are let through, by patterns with `*` and `?`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    allow: Vec<WildMatch>,
    deny: Vec<WildMatch>,
}

impl Filter {
    /// Lets through what one of `allow` matches (anything if there is none) and none of `deny`.
    pub fn new<P: AsRef<str>>(allow: &[P], deny: &[P]) -> Filter {
        let read = |patterns: &[P]| {
            patterns.iter().map(|pattern| WildMatch::new(pattern.as_ref())).collect()
        };
        Filter { allow: read(allow), deny: read(deny) }
    }

    /// True if something with these names is let through. Each pattern is tried on
    /// every name, so that a denied tool cannot be had under its other name.
    pub fn passes(&self, names: &[&str]) -> bool {
        let any = |patterns: &[WildMatch]| {
            patterns.iter().any(|pattern| names.iter().any(|name| pattern.matches(name)))
        };
        (self.allow.is_empty() || any(&self.allow)) && !any(&self.deny)
    }
}

/// What a route shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// The indexes of the servers shown; `None` for all of them.
    pub servers: Option<Vec<u16>>,
    /// Which tools are shown, by the names clients see. It never changes a name.
    pub tools: Filter,
    /// How lists are cut into pages.
    pub pages: PageLimits,
    /// How tools can be called as tasks; `None` where only servers make tasks of calls.
    pub tasks: Option<TaskOffer>,
}

/// Which tools can be called as tasks, where the gateway makes tasks of calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskOffer {
    /// Tools that can be called as tasks only, by the names clients see; `None` for none.
    pub required: Option<Filter>,
}

impl TaskOffer {
    /// How a tool can be called of which its server says this.
    pub fn support(&self, exposed: &str, said: TaskSupport) -> TaskSupport {
        let required = self.required.as_ref().is_some_and(|filter| filter.passes(&[exposed]));
        match said {
            TaskSupport::Unsaid | TaskSupport::Optional if required => TaskSupport::Required,
            TaskSupport::Unsaid | TaskSupport::Optional => TaskSupport::Optional,
            TaskSupport::Forbidden | TaskSupport::Required => said,
        }
    }
}

impl View {
    /// True if the view shows something of this server.
    pub fn shows(&self, index: u16) -> bool {
        self.servers.as_ref().is_none_or(|shown| shown.contains(&index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_wins_over_allow_under_every_name() {
        let filter = Filter::new(&["get_*", "s__list?"], &["*_secret"]);
        assert!(filter.passes(&["get_item"]));
        assert!(filter.passes(&["lists", "s__lists"]));
        assert!(!filter.passes(&["set_item"]));
        assert!(!filter.passes(&["get_secret"]));
        assert!(!filter.passes(&["get_it", "s__get_secret"]));
        assert!(!filter.passes(&["s__list"]));
        assert!(Filter::default().passes(&["anything"]));
        assert!(!Filter::new(&[], &["*"]).passes(&["anything"]));
    }
}
