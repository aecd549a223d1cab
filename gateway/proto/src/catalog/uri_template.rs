//! Whether a URI can come from a template (RFC 6570, all four levels).
//!
//! Templates route reads of resources that no list names. Expansion loses where one value
//! ends and the next begins, so a match says only that the template could have given the
//! URI, which is all that routing needs. Values may hold any character that cannot be
//! taken for the end of their part of the URI, as servers are more generous than the RFC.
//!
//! Invariant: matching takes time in proportion to the template's parts times the URI's
//! length, however they are made.

/// A template, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UriTemplate {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<[u8]>),
    Expression(Expression),
}

/// What an expression can expand to: its first character, if its operator writes one,
/// then characters of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expression {
    first: Option<u8>,
    class: Class,
    /// It expands to nothing at all if its variables are undefined.
    optional: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Anything.
    Any,
    /// Up to a query or fragment.
    Path,
    /// Up to the next slash, query or fragment.
    Segment,
    /// Up to a fragment.
    Query,
}

impl Class {
    fn holds(self, byte: u8) -> bool {
        match self {
            Class::Any => true,
            Class::Path => !matches!(byte, b'?' | b'#'),
            Class::Segment => !matches!(byte, b'/' | b'?' | b'#'),
            Class::Query => byte != b'#',
        }
    }
}

impl UriTemplate {
    /// Reads a template. `None` if a brace has no partner or an expression is empty.
    pub fn parse(template: &str) -> Option<UriTemplate> {
        let mut parts = Vec::new();
        let mut rest = template;
        while let Some(brace) = rest.find(['{', '}']) {
            let (literal, behind) = rest.split_at(brace);
            let (expression, behind) = behind.strip_prefix('{')?.split_once('}')?;
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.as_bytes().into()));
            }
            parts.push(Part::Expression(Expression::parse(expression)?));
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.as_bytes().into()));
        }
        Some(UriTemplate { parts })
    }

    /// True if the template can expand to this URI.
    pub fn matches(&self, uri: &str) -> bool {
        let uri = uri.as_bytes();
        // Most templates are told apart by how they begin and end, without any work.
        let begins = match self.parts.first() {
            Some(Part::Literal(literal)) => uri.starts_with(literal),
            Some(Part::Expression(_)) | None => true,
        };
        let ends = match self.parts.last() {
            Some(Part::Literal(literal)) => uri.ends_with(literal),
            Some(Part::Expression(_)) | None => true,
        };
        begins && ends && self.reaches_end(uri)
    }

    /// Steps through the parts with the set of all places in the URI that can be reached.
    fn reaches_end(&self, uri: &[u8]) -> bool {
        let mut reached = vec![false; uri.len() + 1];
        let mut next = vec![false; uri.len() + 1];
        reached[0] = true;
        for part in &self.parts {
            next.fill(false);
            match part {
                Part::Literal(literal) => {
                    for at in 0..reached.len() {
                        if reached[at] && uri[at..].starts_with(literal) {
                            next[at + literal.len()] = true;
                        }
                    }
                }
                Part::Expression(expression) => expression.step(uri, &reached, &mut next),
            }
            std::mem::swap(&mut reached, &mut next);
        }
        reached.last() == Some(&true)
    }
}

impl Expression {
    fn parse(text: &str) -> Option<Expression> {
        let operator = text.bytes().next()?;
        let variables = match operator {
            b'+' | b'#' | b'.' | b'/' | b';' | b'?' | b'&' => &text[1..],
            _ => text,
        };
        if variables.is_empty() {
            return None;
        }
        let several = variables.contains([',', '*']);
        let (first, class) = match operator {
            b'+' => (None, Class::Any),
            b'#' => (Some(b'#'), Class::Any),
            b'.' => (Some(b'.'), Class::Segment),
            b'/' => (Some(b'/'), if several { Class::Path } else { Class::Segment }),
            b';' => (Some(b';'), Class::Segment),
            b'?' => (Some(b'?'), Class::Query),
            b'&' => (Some(b'&'), Class::Query),
            _ => (None, Class::Segment),
        };
        Some(Expression { first, class, optional: first.is_some() })
    }

    /// Marks in `next` every place that a value beginning at a reached place can end at.
    fn step(&self, uri: &[u8], reached: &[bool], next: &mut [bool]) {
        let mut inside = false;
        for at in 0..reached.len() {
            // What leads here is the byte before.
            let byte = at.checked_sub(1).map(|before| uri[before]);
            let entered_before = at > 0 && self.first.is_none() && reached[at - 1];
            inside = (inside || entered_before) && byte.is_some_and(|byte| self.class.holds(byte));
            if let (Some(first), Some(byte)) = (self.first, byte) {
                // RFC 6570, 3.2.5: an empty value still has its operator's character.
                inside |= byte == first && reached[at - 1];
            }
            next[at] = inside || (self.optional && reached[at]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn table(template: &str, fitting: &[&str], other: &[&str]) {
        let read = UriTemplate::parse(template).expect("a template");
        for uri in fitting {
            assert!(read.matches(uri), "{template} gives {uri}");
        }
        for uri in other {
            assert!(!read.matches(uri), "{template} does not give {uri}");
        }
    }

    #[test]
    fn every_operator_has_its_shape() {
        table("a:b", &["a:b"], &["a:", "a:bc", "", "xa:b"]);
        table("a:{x}", &["a:1", "a:1,2", "a:%20"], &["a:", "a:1/2", "b:1", "a:1?x"]);
        table("a:{x}/b/{y}", &["a:1/b/2"], &["a:1/b/", "a:/b/2", "a:1/b/2/3"]);
        table("a:{x}{y}-{z}", &["a:12-3", "a:1--3"], &["a:1-3", "a:12-"]);
        table("file:///{+path}", &["file:///a/b?c#d"], &["file:///", "file:/a"]);
        table("a:b{#x}", &["a:b", "a:b#", "a:b#c/d"], &["a:bc"]);
        table("a:b{.x}", &["a:b", "a:b.c"], &["a:bc", "a:b.c/d"]);
        table("a:{/x}", &["a:", "a:/1"], &["a:/1/2", "a:1"]);
        table("a:{/x,y}", &["a:/1", "a:/1/2"], &["a:/1?2", "a:1"]);
        table("a:{/x*}/z", &["a:/1/2/3/z", "a:/z"], &["a:/1/2"]);
        table("a:b{;x,y}", &["a:b", "a:b;x=1;y=2"], &["a:b;x/", "a:bx"]);
        table("a:b{?x,y}", &["a:b", "a:b?x=1&y=/"], &["a:b&x=1", "a:bx", "a:b?x=1#c"]);
        table("a:b?c=1{&x}", &["a:b?c=1", "a:b?c=1&x=2"], &["a:b?c=1x"]);
        table("{x:3}-{y*}", &["ab-cd"], &["ab", "-"]);
    }

    #[test]
    fn broken_templates_are_told() {
        for template in ["a{", "a}", "a{}", "{+}", "a{b", "}{", "{?}"] {
            assert_eq!(UriTemplate::parse(template), None, "{template}");
        }
    }

    proptest! {
        #[test]
        fn an_expansion_matches_its_template(
            pieces in proptest::collection::vec(("[a-z:/]{0,4}", "[+/?]?", "[a-z]{1,4}"), 0..5),
        ) {
            let (mut template, mut uri) = (String::new(), String::new());
            for (literal, operator, value) in &pieces {
                template.push_str(&format!("{literal}{{{operator}x}}"));
                let lead = if operator == "+" { "" } else { operator };
                let name = if operator == "?" { "x=" } else { "" };
                uri.push_str(&format!("{literal}{lead}{name}{value}"));
            }
            let read = UriTemplate::parse(&template).expect("a template");
            prop_assert!(read.matches(&uri), "{} {}", template, uri);
        }

        #[test]
        fn nothing_panics(template in "[a-c{}+/?,*é]{0,20}", uri in "[a-c/?é]{0,20}") {
            if let Some(template) = UriTemplate::parse(&template) {
                template.matches(&uri);
            }
        }
    }
}
