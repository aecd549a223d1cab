//! `[[route]]`: a path with its own choice of upstreams and tools.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::fault::EntryFaults;
use super::pattern::NameFilter;
use super::upstream::UpstreamName;
use super::upstream_table::{FilterTable, filter};

/// More routes than this are refused: every shard has a view of the catalog for each.
pub const ROUTES_MAX: usize = 256;

/// One path and what it offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RouteTable", into = "RouteTable")]
pub struct RouteConfig {
    /// Where clients find it.
    pub path: RoutePath,
    /// Whose tools, resources and prompts it offers; `None` means those of all upstreams.
    pub upstreams: Option<Vec<UpstreamName>>,
    /// Which tools it offers, by the names clients see.
    pub tools: NameFilter,
}

/// The path of a route: `/mcp/` and a name of `a`-`z`, `0`-`9` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RoutePath(String);

impl RoutePath {
    /// What every path begins with.
    pub const START: &'static str = "/mcp/";
    /// The longest name behind it.
    pub const NAME_BYTES_MAX: usize = 32;

    /// The whole path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name behind `/mcp/`.
    pub fn name(&self) -> &str {
        &self.0[RoutePath::START.len()..]
    }
}

impl FromStr for RoutePath {
    type Err = String;

    fn from_str(text: &str) -> Result<RoutePath, String> {
        let is_sound = |c| matches!(c, 'a'..='z' | '0'..='9' | '-');
        let fits = |name: &str| {
            (1..=RoutePath::NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(is_sound)
        };
        if text.strip_prefix(RoutePath::START).is_some_and(fits) {
            return Ok(RoutePath(text.to_owned()));
        }
        Err(format!(
            "{text:?} is no path of a route: write {}NAME with 1 to {} of the characters a-z, \
             0-9 and '-'",
            RoutePath::START,
            RoutePath::NAME_BYTES_MAX
        ))
    }
}

impl fmt::Display for RoutePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// One entry of the file, each key as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RouteTable {
    pub(super) path: Option<String>,
    upstreams: Option<Vec<String>>,
    tools: Option<FilterTable>,
}

impl TryFrom<RouteTable> for RouteConfig {
    type Error = EntryFaults;

    fn try_from(table: RouteTable) -> Result<RouteConfig, EntryFaults> {
        let mut faults = EntryFaults::default();
        let path = table.path.as_deref().map_or_else(
            || Err("a route needs a path, such as path = \"/mcp/ops\"".to_owned()),
            str::parse,
        );
        let path = faults.check(&["path"], path);
        let upstreams = upstreams(table.upstreams.as_deref(), &mut faults);
        let tools = filter(table.tools.as_ref(), &mut faults);
        match path {
            Some(path) if faults.0.is_empty() => Ok(RouteConfig { path, upstreams, tools }),
            Some(_) | None => Err(faults),
        }
    }
}

fn upstreams(texts: Option<&[String]>, faults: &mut EntryFaults) -> Option<Vec<UpstreamName>> {
    let texts = texts?;
    if texts.is_empty() {
        let sentence =
            "the list is empty, so the route would offer nothing; remove it to offer all upstreams";
        faults.add(&["upstreams"], sentence);
    }
    let mut names = Vec::new();
    for text in texts {
        let Some(name) = faults.check(&["upstreams"], text.parse::<UpstreamName>()) else {
            continue;
        };
        if names.contains(&name) {
            faults.add(&["upstreams"], format!("{name} is named twice; remove one"));
        }
        names.push(name);
    }
    Some(names)
}

impl From<RouteConfig> for RouteTable {
    fn from(config: RouteConfig) -> RouteTable {
        RouteTable {
            path: Some(config.path.0),
            upstreams: config.upstreams.map(|names| names.into_iter().map(String::from).collect()),
            tools: Some((&config.tools).into()),
        }
    }
}
