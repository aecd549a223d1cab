//! Finding one member of a JSON object without building a tree.
//!
//! The bytes given here were validated as JSON before, so scanning only has to
//! find ends, not to judge. It is still safe on anything else: every access is
//! checked and broken text just yields `None`.
//!
//! Invariant: of two members with the same key the last one counts, as in the
//! parser used everywhere else.

/// The raw text of the member `key` of the JSON object `object`.
pub(super) fn member<'a>(object: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let mut found = None;
    for (name, value) in Members::of(object) {
        if is_key(name, key) {
            found = Some(value);
        }
    }
    found
}

/// The raw text at the end of a path of keys.
pub(super) fn path<'a>(object: &'a [u8], keys: &[&str]) -> Option<&'a [u8]> {
    keys.iter().try_fold(object, |inner, key| member(inner, key))
}

/// True if the raw value is a JSON object.
pub(super) fn is_object(value: &[u8]) -> bool {
    value.first() == Some(&b'{')
}

/// True if the raw value is a JSON string.
pub(super) fn is_string(value: &[u8]) -> bool {
    value.first() == Some(&b'"')
}

/// The deepest nesting that is parsed into a tree: trees are walked and dropped recursively.
pub(super) const DEPTH_MAX: usize = 128;

/// True if the value nests at most [`DEPTH_MAX`] deep.
pub(super) fn is_shallow(value: &[u8]) -> bool {
    let mut at = 0;
    let mut depth = 0_usize;
    while let Some(byte) = value.get(at) {
        match byte {
            b'"' => match string_end(value, at) {
                Some(end) => {
                    at = end;
                    continue;
                }
                None => return true,
            },
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return false;
        }
        at += 1;
    }
    true
}

/// The members of a JSON object: raw keys (with their quotes) and raw values.
pub(super) struct Members<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Members<'a> {
    /// Starts at the first member; anything but an object has none.
    pub(super) fn of(object: &'a [u8]) -> Members<'a> {
        let at = skip_blank(object, 0);
        let at = if object.get(at) == Some(&b'{') { at + 1 } else { object.len() };
        Members { text: object, at }
    }

    fn advance(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let mut at = skip_blank(self.text, self.at);
        if self.text.get(at) == Some(&b',') {
            at = skip_blank(self.text, at + 1);
        }
        let key_end = string_end(self.text, at)?;
        let colon = skip_blank(self.text, key_end);
        let value = skip_blank(self.text, colon + 1);
        let value_end = value_end(self.text, value)?;
        self.at = value_end;
        Some((self.text.get(at..key_end)?, self.text.get(value..value_end)?))
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let step = self.advance();
        if step.is_none() {
            self.at = self.text.len();
        }
        step
    }
}

/// The text a raw JSON string stands for.
pub(super) fn unescape(raw: &[u8]) -> Option<String> {
    if !is_string(raw) || raw.len() < 2 {
        return None;
    }
    if memchr::memchr(b'\\', raw).is_none() {
        return String::from_utf8(raw[1..raw.len() - 1].to_vec()).ok();
    }
    let mut bytes = raw.to_vec();
    match simd_json::to_owned_value(&mut bytes) {
        Ok(simd_json::OwnedValue::String(text)) => Some(text),
        Ok(_) | Err(_) => None,
    }
}

/// True if the raw key (quoted, perhaps escaped) spells `key`.
fn is_key(raw: &[u8], key: &str) -> bool {
    let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    if inner == key.as_bytes() {
        return true;
    }
    // An escaped key may spell the same name; it is rare enough for the slow way.
    memchr::memchr(b'\\', inner).is_some() && unescape(raw).as_deref() == Some(key)
}

fn skip_blank(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The index behind the closing quote of the string that starts at `at`.
fn string_end(text: &[u8], at: usize) -> Option<usize> {
    if text.get(at) != Some(&b'"') {
        return None;
    }
    let mut at = at + 1;
    loop {
        let next = at + memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[next] == b'"' {
            return Some(next + 1);
        }
        at = next + 2;
    }
}

/// The index behind the value that starts at `at`.
fn value_end(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at)? {
        b'"' => string_end(text, at),
        b'{' | b'[' => container_end(text, at),
        _ => {
            let mut end = at;
            while !matches!(
                text.get(end),
                None | Some(b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')
            ) {
                end += 1;
            }
            (end > at).then_some(end)
        }
    }
}

fn container_end(text: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        match text.get(at)? {
            b'"' => {
                at = string_end(text, at)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_members_at_any_place() {
        let text =
            br#" { "a" : 1 , "b":{"a":"}\"]","c":[1,{"x":2}]}, "c" : "s\"x" ,"d":null,"e":-1.5e3}"#;
        assert_eq!(member(text, "a"), Some(&b"1"[..]));
        assert_eq!(member(text, "b"), Some(&br#"{"a":"}\"]","c":[1,{"x":2}]}"#[..]));
        assert_eq!(member(text, "c"), Some(&br#""s\"x""#[..]));
        assert_eq!(member(text, "d"), Some(&b"null"[..]));
        assert_eq!(member(text, "e"), Some(&b"-1.5e3"[..]));
        assert_eq!(member(text, "f"), None);
        assert_eq!(path(text, &["b", "c"]), Some(&br#"[1,{"x":2}]"#[..]));
    }

    #[test]
    fn the_last_of_equal_keys_counts_also_when_escaped() {
        assert_eq!(member(br#"{"k":1,"k":2}"#, "k"), Some(&b"2"[..]));
        assert_eq!(member(br#"{"k":1,"\u006b":3}"#, "k"), Some(&b"3"[..]));
    }

    #[test]
    fn broken_text_yields_nothing_and_never_panics() {
        let whole: &[u8] = br#"{"a":{"b":["c",1]},"d":"e\"f"}"#;
        for cut in 0..whole.len() {
            let _ = member(&whole[..cut], "d");
        }
        assert_eq!(member(b"[1]", "a"), None);
        assert_eq!(member(b"", "a"), None);
        assert_eq!(member(br#"{"a"]}"#, "a"), None);
    }

    #[test]
    fn depth_is_counted_outside_of_strings() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_shallow(nested(DEPTH_MAX).as_bytes()));
        assert!(!is_shallow(nested(DEPTH_MAX + 1).as_bytes()));
        assert!(is_shallow(format!("[\"{}\"]", "[".repeat(1_000)).as_bytes()));
    }

    #[test]
    fn unescapes() {
        assert_eq!(unescape(br#""plain""#).as_deref(), Some("plain"));
        assert_eq!(unescape(br#""a\nb\u00e9\ud83d\ude00""#).as_deref(), Some("a\nbé😀"));
        assert_eq!(unescape(b"1"), None);
    }
}
