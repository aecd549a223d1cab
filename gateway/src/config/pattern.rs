//! Patterns for the names of tools: `*` stands for any run of characters, `?` for one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A list with more patterns than this is taken for a mistake: each name is compared with all.
pub const PATTERNS_MAX: usize = 256;

/// One pattern, sound and not empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern(String);

impl NamePattern {
    /// Names of tools have at most 128 characters (MCP 2025-11-25, tools), so have patterns for them.
    pub const BYTES_MAX: usize = 128;

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NamePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<NamePattern, String> {
        if text.is_empty() || text.len() > NamePattern::BYTES_MAX {
            return Err(format!(
                "the pattern {text:?} has {} bytes, but must have 1 to {}",
                text.len(),
                NamePattern::BYTES_MAX
            ));
        }
        // What other languages of patterns give a meaning would silently match nothing here.
        let is_foreign =
            |c: char| c.is_whitespace() || c.is_control() || "[]{}!\\^$|()+,".contains(c);
        match text.chars().find(|c| is_foreign(*c)) {
            Some(c) => Err(format!(
                "the pattern {text:?} has {c:?} in it: use the characters of names, * for any run \
                 of them and ? for one"
            )),
            None => Ok(NamePattern(text.to_owned())),
        }
    }
}

impl TryFrom<String> for NamePattern {
    type Error = String;

    fn try_from(text: String) -> Result<NamePattern, String> {
        text.parse()
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> String {
        pattern.0
    }
}

impl AsRef<str> for NamePattern {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Which names pass: those that some pattern allows and none denies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameFilter {
    /// At least one of these must match.
    pub allow: Vec<NamePattern>,
    /// None of these may.
    pub deny: Vec<NamePattern>,
}

impl Default for NameFilter {
    fn default() -> NameFilter {
        NameFilter { allow: vec![NamePattern("*".to_owned())], deny: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shardgate_proto::catalog::Filter;

    /// What the catalog makes of a filter.
    fn permits(filter: &NameFilter, name: &str) -> bool {
        Filter::new(&filter.allow, &filter.deny).passes(&[name])
    }

    #[test]
    fn stars_and_question_marks() {
        for (pattern, name, fits) in [
            ("*", "", true),
            ("*", "anything", true),
            ("crm__*", "crm__list", true),
            ("crm__*", "files__list", false),
            ("*delete*", "crm__delete_user", true),
            ("*delete*", "crm__del", false),
            ("a*b*c", "axbxxbxc", true),
            ("a*b*c", "axbxxbx", false),
            ("a?c", "abc", true),
            ("a?c", "aüc", true),
            ("a?c", "ac", false),
            ("*?", "", false),
            ("*ü", "xü", true),
            ("list", "lists", false),
            ("lists", "list", false),
        ] {
            let allow = vec![pattern.parse().expect(pattern)];
            let filter = NameFilter { allow, deny: Vec::new() };
            assert_eq!(permits(&filter, name), fits, "{pattern} and {name}");
        }
    }

    #[test]
    fn other_languages_are_refused() {
        for bad in ["", "a b", "[ab]", "{a,b}", "!a", "a\\*", "^a$", "\u{7}", &"a".repeat(129)] {
            assert!(bad.parse::<NamePattern>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_denied_name_is_denied_though_it_is_allowed() {
        let patterns = |texts: &[&str]| texts.iter().map(|t| t.parse().expect("sound")).collect();
        let filter = NameFilter { allow: patterns(&["crm__*"]), deny: patterns(&["*delete*"]) };
        assert!(permits(&filter, "crm__list") && !permits(&filter, "crm__delete"));
        assert!(!permits(&filter, "files__list"));
        assert!(permits(&NameFilter::default(), "anything"));
    }
}
