//! The identity of a definition: a hash of what it says, not of how it is spelled.
//!
//! Two texts have the same hash if they differ only in white space, in the order of
//! members, or in how characters of strings are escaped. Numbers count as they are
//! written and repeated members all count, in their order: parsers disagree about both,
//! so a change there may be a change of meaning.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::jsonrpc::{Broken, Cursor, DEPTH_MAX, string, unescape, write_string};

/// SHA-256 of a definition's canonical form. A server must not be able to find two
/// definitions with one hash, so it has to be a cryptographic one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DefinitionHash(pub [u8; 32]);

impl DefinitionHash {
    /// Reads the 64 hex digits that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<DefinitionHash> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(DefinitionHash(bytes))
    }
}

impl fmt::Display for DefinitionHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for DefinitionHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The hash of a definition, given as its raw JSON text. Text that is no JSON is
/// hashed as it is.
pub fn definition_hash(raw: &[u8]) -> DefinitionHash {
    let mut canonical = Vec::with_capacity(raw.len());
    if write_canonical(raw, &mut canonical).is_err() {
        canonical.clear();
        canonical.extend_from_slice(raw);
    }
    DefinitionHash(Sha256::digest(&canonical).into())
}

fn write_canonical(raw: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
    let mut cursor = Cursor::new(raw, DEPTH_MAX).map_err(|_| Broken)?;
    let start = cursor.begin()?;
    let end = write_value(&mut cursor, start, 0, out)?;
    cursor.finish(end)
}

/// Appends the value at `at`, which has `depth` containers around it. Recursion is
/// bounded by [`DEPTH_MAX`], which the cursor holds to.
fn write_value(
    cursor: &mut Cursor<'_>,
    at: usize,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<usize, Broken> {
    match cursor.peek(at) {
        Some(b'{') => write_object(cursor, at, depth + 1, out),
        Some(b'[') => write_array(cursor, at, depth + 1, out),
        _ => {
            let end = cursor.skip_value(at, depth)?;
            let raw = &cursor.bytes()[at..end];
            match string(raw) {
                Some(text) => write_string(out, &text),
                None => out.extend_from_slice(raw),
            }
            Ok(end)
        }
    }
}

fn write_object(
    cursor: &mut Cursor<'_>,
    at: usize,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<usize, Broken> {
    let start = out.len();
    let mut members: Vec<Member> = Vec::new();
    let end = cursor.members(at, depth, |cursor, name, value| {
        out.push(if members.is_empty() { b'{' } else { b',' });
        let begin = out.len();
        write_name(&cursor.bytes()[name.start..name.end], out);
        let name_end = out.len();
        out.push(b':');
        let behind = write_value(cursor, value, depth, out)?;
        members.push(Member { begin, name_end, end: out.len() });
        Ok(behind)
    })?;
    let sorted = members.is_sorted_by(|left, right| left.name(out) <= right.name(out));
    if !sorted {
        // Stable: members of one name keep their order.
        members.sort_by(|left, right| left.name(out).cmp(right.name(out)));
        let mut ordered = Vec::with_capacity(out.len() - start);
        for member in &members {
            ordered.push(if ordered.is_empty() { b'{' } else { b',' });
            ordered.extend_from_slice(&out[member.begin..member.end]);
        }
        out.truncate(start);
        out.extend_from_slice(&ordered);
    }
    out.extend_from_slice(if members.is_empty() { b"{}" } else { b"}" });
    Ok(end)
}

/// Where a member was written: its name up to `name_end`, its value up to `end`.
struct Member {
    begin: usize,
    name_end: usize,
    end: usize,
}

impl Member {
    fn name<'a>(&self, out: &'a [u8]) -> &'a [u8] {
        &out[self.begin..self.name_end]
    }
}

fn write_name(raw: &[u8], out: &mut Vec<u8>) {
    match unescape(raw) {
        Some(name) => write_string(out, &name),
        None => {
            out.push(b'"');
            out.extend_from_slice(raw);
            out.push(b'"');
        }
    }
}

fn write_array(
    cursor: &mut Cursor<'_>,
    at: usize,
    depth: usize,
    out: &mut Vec<u8>,
) -> Result<usize, Broken> {
    out.push(b'[');
    let mut first = true;
    let end = cursor.elements(at, depth, |cursor, element| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        write_value(cursor, element, depth, out)
    })?;
    out.push(b']');
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn same(left: &str, right: &str, wanted: bool) {
        let equal = definition_hash(left.as_bytes()) == definition_hash(right.as_bytes());
        assert_eq!(equal, wanted, "{left} and {right}");
    }

    #[test]
    fn spelling_does_not_count() {
        same(
            r#"{"a":1,"b":[1,{"c":2,"d":3}]}"#,
            " {\"b\" : [1, {\"d\":3,\n\"c\":2}],\"a\":1}",
            true,
        );
        same(r#"{"a":"x\/é"}"#, r#"{"\u0061":"x/\u00e9"}"#, true);
    }

    #[test]
    fn what_is_said_counts() {
        same(r#"{"a":1}"#, r#"{"a":2}"#, false);
        same(r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#, false);
        same(r#"{"a":"1"}"#, r#"{"a":1}"#, false);
        same(r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#, false);
        same(r#"{"a":"b c"}"#, r#"{"a":"bc"}"#, false);
        same(r#"{"a":"\ud800"}"#, r#"{"a":"\ud801"}"#, false);
        same(r#"{"a":{"b":1},"c":1}"#, r#"{"a":{"b":1,"c":1}}"#, false);
    }

    #[test]
    fn any_text_has_a_hash() {
        same("{", "{ ", false);
        same("{}x", "{}", false);
        same("[]", "{}", false);
        let deep = "[".repeat(DEPTH_MAX + 1) + &"]".repeat(DEPTH_MAX + 1);
        same(&deep, &deep.replace("[]", "[1]"), false);
    }

    #[test]
    fn hashes_are_read_as_written() {
        let hash = definition_hash(b"{}");
        assert_eq!(DefinitionHash::parse(&hash.to_string()), Some(hash));
        for text in ["", "0", &"0".repeat(63), &"+0".repeat(32), &"é".repeat(32)] {
            assert_eq!(DefinitionHash::parse(text), None, "{text}");
        }
    }
}
