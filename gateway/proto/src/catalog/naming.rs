//! The names under which clients see the tools and prompts of many servers.
//!
//! The rules, by a server's [`Prefix`]:
//! - `Always`: `<server>__<name>`. Nothing another server does changes it.
//! - `OnConflict`: the bare name, unless it collides; then all colliders that have this
//!   setting get their prefix. So when a second server comes up with a name of the first,
//!   the bare name stops to exist instead of silently meaning something else. The
//!   prefixed name can be called at any time, conflict or not: whoever wants a name that
//!   lasts uses that. What a server of the view last listed takes part for as long as it
//!   is configured, so names do not change when a server is down.
//! - `Never`: the bare name. Where two such names collide, the first server in the
//!   configuration wins and the other's is hidden and reported.
//!
//! A name that begins with the prefix of another server of the view belongs to that
//! server, also while it is down: otherwise one server could pass a tool off as another's.
//!
//! Exposed names keep to what MCP and the model interfaces behind clients accept:
//! at most [`NAME_BYTES_MAX`] bytes and, for tools, `A-Za-z0-9_.-`. A name that does not
//! fit is shortened, its other characters become `_`, and a part of its SHA-256 is put
//! at its end, which is the same wherever and whenever it is computed.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use sha2::{Digest as _, Sha256};

use super::ListKind;

/// Between a server's name and the bare name. Dots and slashes are refused by model
/// interfaces (`^[a-zA-Z0-9_-]{1,64}$`); a single underscore is too common inside of names.
pub const SEPARATOR: &str = "__";

/// The longest exposed name.
// MCP 2025-11-25, tools: names "SHOULD be between 1 and 128 characters"; the model
// interfaces most clients pass them on to refuse more than 64.
pub const NAME_BYTES_MAX: usize = 64;

/// Hex digits of the hash at the end of a name that was changed: 48 bits, so that a
/// catalog of thousands of changed names has no two alike.
const HASH_DIGITS: usize = 12;

/// When a server's name is put before the names of its tools and prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefix {
    /// Always.
    #[default]
    Always,
    /// Where the bare name collides with another server's.
    OnConflict,
    /// Never: the first server in the configuration wins.
    Never,
}

/// A thing to be named.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nameless<'a> {
    pub(super) server: &'a str,
    pub(super) prefix: Prefix,
    pub(super) bare: &'a str,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// It can be seen and called.
    Exposed(Exposed),
    /// Another has the name.
    Hidden(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exposed {
    pub(super) name: String,
    /// The prefixed name, if it is not the exposed one and can be called as well.
    pub(super) alias: Option<String>,
    /// The bare name, if only a collision is why that is not the exposed one.
    pub(super) collided: Option<String>,
    /// The name did not fit as it is and was changed.
    pub(super) changed: bool,
}

impl Exposed {
    /// Every name it has, or would have if nothing collided.
    pub(super) fn names(&self) -> [&str; 3] {
        let alias = self.alias.as_ref().unwrap_or(&self.name);
        let collided = self.collided.as_ref().unwrap_or(&self.name);
        [&self.name, alias, collided]
    }
}

/// Names everything in one list. `servers`: all of the view, listed or not.
pub(super) fn name_all(
    kind: ListKind,
    servers: &[(&str, Prefix)],
    nameless: &[Nameless<'_>],
) -> Vec<Named> {
    let owners: HashSet<&str> = servers
        .iter()
        .filter(|(_, prefix)| *prefix != Prefix::Never)
        .map(|(server, _)| *server)
        .collect();
    let candidates: Vec<Candidate> =
        nameless.iter().map(|one| Candidate::new(kind, one, &owners)).collect();
    let mut wanted: HashMap<&str, u32> = HashMap::with_capacity(candidates.len());
    for candidate in &candidates {
        *wanted.entry(candidate.wanted()).or_default() += 1;
    }
    let prefixed: Vec<bool> = candidates
        .iter()
        .map(|one| match one.prefix {
            Prefix::Always => true,
            Prefix::OnConflict => one.foreign || wanted.get(one.wanted()) > Some(&1),
            Prefix::Never => false,
        })
        .collect();
    claim(candidates, &prefixed)
}

/// Gives the names out: prefixed ones first, as they belong to their server; then in order.
fn claim(candidates: Vec<Candidate>, prefixed: &[bool]) -> Vec<Named> {
    let mut taken: HashSet<&str> = HashSet::with_capacity(2 * candidates.len());
    let mut winners = vec![false; candidates.len()];
    for round in [true, false] {
        for (at, one) in candidates.iter().enumerate() {
            if prefixed[at] == round && (round || !one.foreign) {
                winners[at] = taken.insert(one.name(prefixed[at]));
            }
        }
    }
    let mut aliases = vec![false; candidates.len()];
    for (at, one) in candidates.iter().enumerate() {
        if winners[at] && !prefixed[at] && one.prefix == Prefix::OnConflict {
            aliases[at] = taken.insert(&one.full);
        }
    }
    drop(taken);
    let named = candidates.into_iter().enumerate().map(|(at, one)| {
        let alias = aliases[at].then(|| one.full.clone());
        let changed = if prefixed[at] { one.full_changed } else { one.plain_changed };
        let lost = prefixed[at] && one.prefix == Prefix::OnConflict;
        let collided = lost.then(|| one.plain.clone());
        let name = if prefixed[at] { one.full } else { one.plain };
        if winners[at] {
            Named::Exposed(Exposed { name, alias, collided, changed })
        } else {
            Named::Hidden(name)
        }
    });
    named.collect()
}

struct Candidate {
    prefix: Prefix,
    /// The bare name, made to fit.
    plain: String,
    plain_changed: bool,
    /// The name with the prefix, made to fit.
    full: String,
    full_changed: bool,
    /// The bare name looks like another server's prefixed one.
    foreign: bool,
}

impl Candidate {
    fn new(kind: ListKind, one: &Nameless<'_>, owners: &HashSet<&str>) -> Candidate {
        let full = [one.server, SEPARATOR, one.bare].concat();
        let (plain, fitting) = (fit(kind, one.bare), fit(kind, &full));
        let foreign = one.bare.match_indices(SEPARATOR).any(|(at, _)| {
            let owner = &one.bare[..at];
            owner != one.server && owners.contains(owner)
        });
        Candidate {
            prefix: one.prefix,
            plain_changed: matches!(plain, Cow::Owned(_)),
            plain: plain.into_owned(),
            full_changed: matches!(fitting, Cow::Owned(_)),
            full: fitting.into_owned(),
            foreign: foreign && one.prefix != Prefix::Always,
        }
    }

    /// The name it has if nothing is in the way.
    fn wanted(&self) -> &str {
        self.name(self.prefix == Prefix::Always)
    }

    fn name(&self, prefixed: bool) -> &str {
        if prefixed { &self.full } else { &self.plain }
    }
}

/// The name itself if it can be exposed as it is, and else one made out of it.
pub(super) fn fit(kind: ListKind, name: &str) -> Cow<'_, str> {
    // Only tools are given to model interfaces by their names.
    let fits = |character: char| {
        kind != ListKind::Tools
            || character.is_ascii_alphanumeric()
            || matches!(character, '_' | '-' | '.')
    };
    if name.len() <= NAME_BYTES_MAX && name.chars().all(fits) {
        return Cow::Borrowed(name);
    }
    let kept_max = NAME_BYTES_MAX - HASH_DIGITS - 1;
    let mut changed = String::with_capacity(NAME_BYTES_MAX);
    for character in name.chars() {
        let character = if fits(character) { character } else { '_' };
        if changed.len() + character.len_utf8() > kept_max {
            break;
        }
        changed.push(character);
    }
    changed.push('_');
    for byte in &Sha256::digest(name.as_bytes())[..HASH_DIGITS / 2] {
        changed.push_str(&format!("{byte:02x}"));
    }
    Cow::Owned(changed)
}
