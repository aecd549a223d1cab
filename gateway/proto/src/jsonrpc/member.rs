//! Looking into a JSON object without reading it into values.

use memchr::memmem;

use super::DEPTH_MAX;
use super::cursor::{Broken, Cursor};

/// The raw value of an object's member, for objects inside a text that
/// [`scan`](super::scan) has accepted. The last one counts where a name is
/// repeated, as in most parsers. `None` if there is none, or `object` is none.
pub fn member<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    if object.len() > WALKED_BYTES && !may_spell(object, name) {
        return None;
    }
    let mut cursor = Cursor::new(object, DEPTH_MAX).ok()?;
    let start = cursor.begin().ok()?;
    if cursor.peek(start) != Some(b'{') {
        return None;
    }
    let mut found = None;
    let wanted = |spelled: &[u8]| (spelled == name.as_bytes()).then_some(());
    let walked = cursor.members(start, 1, |cursor, key, at| {
        let end = cursor.skip_value(at, 1)?;
        if cursor.spelled(key, wanted).is_some() {
            found = object.get(at..end);
        }
        Ok(end)
    });
    walked.ok().and(found)
}

/// Objects up to this size are walked in less time than it takes to search them.
const WALKED_BYTES: usize = 128;

/// Whether a string within the JSON text may read as `word`. False is certain, and takes a
/// tenth of the time of walking the text.
pub fn may_spell(text: &[u8], word: &str) -> bool {
    if memmem::find(text, word.as_bytes()).is_some() {
        return true;
    }
    // Most texts have no escapes at all.
    if memchr::memchr(b'\\', text).is_none() {
        return false;
    }
    // RFC 8259, 7: these have no escape but `\u00` and two digits.
    let has_one_escape =
        |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\' | b'/');
    !word.bytes().all(has_one_escape) || memmem::find(text, b"\\u00").is_some()
}

/// Gives every member of an object to `each`: the name as it is spelled between its
/// quotes (see [`unescape`](super::unescape)) and the raw value. False if `object`
/// as a whole is not one valid JSON object in UTF-8; `each` may have seen some of it then.
pub fn walk_members<'a>(object: &'a [u8], mut each: impl FnMut(&'a [u8], &'a [u8])) -> bool {
    walk(object, b'{', |cursor, start| {
        cursor.members(start, 1, |cursor, name, at| {
            let end = cursor.skip_value(at, 1)?;
            each(&object[name.start..name.end], &object[at..end]);
            Ok(end)
        })
    })
}

/// As [`walk_members`], but with names as they read without escapes; a member whose name
/// holds a lone surrogate is left out.
pub fn each_member<'a>(object: &'a [u8], mut each: impl FnMut(&str, &'a [u8])) -> bool {
    walk_members(object, |name, value| {
        if let Some(name) = super::unescape(name) {
            each(&name, value);
        }
    })
}

/// Gives every element of an array to `each`. False if `array` as a whole is not one
/// valid JSON array in UTF-8; `each` may have seen some of it then.
pub fn walk_elements<'a>(array: &'a [u8], mut each: impl FnMut(&'a [u8])) -> bool {
    walk(array, b'[', |cursor, start| {
        cursor.elements(start, 1, |cursor, at| {
            let end = cursor.skip_value(at, 1)?;
            each(&array[at..end]);
            Ok(end)
        })
    })
}

/// Runs `inside` on the container that `text` must be from end to end.
fn walk<'a>(
    text: &'a [u8],
    bracket: u8,
    inside: impl FnOnce(&mut Cursor<'a>, usize) -> Result<usize, Broken>,
) -> bool {
    let Ok(mut cursor) = Cursor::new(text, DEPTH_MAX) else { return false };
    let Ok(start) = cursor.begin() else { return false };
    if cursor.peek(start) != Some(bracket) {
        return false;
    }
    inside(&mut cursor, start).and_then(|end| cursor.finish(end)).is_ok()
}

/// The text of a raw JSON string, unescaped; `None` if it is no string, or holds
/// a lone surrogate.
pub fn string(raw: &[u8]) -> Option<std::borrow::Cow<'_, str>> {
    super::text::string_text(raw).and_then(super::unescape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_members_at_the_top_only() {
        let object = br#"{"a":{"b":1}, "b" : [2,{"c":3}] ,"\u0063":"x","b2":null}"#;
        assert_eq!(member(object, "a"), Some(br#"{"b":1}"#.as_slice()));
        assert_eq!(member(object, "b"), Some(br#"[2,{"c":3}]"#.as_slice()));
        assert_eq!(member(object, "c"), Some(br#""x""#.as_slice()));
        assert_eq!(member(object, "d"), None);
        assert_eq!(member(b"[1]", "a"), None);
        assert_eq!(member(b"{\"a\":", "a"), None);
    }

    #[test]
    fn in_a_long_object_a_name_is_found_however_it_is_spelled() {
        let padding = "x".repeat(2 * WALKED_BYTES);
        for (spelled, name) in [
            ("_meta", "_meta"),
            (r"\u005fmeta", "_meta"),
            (r"_met\u0061", "_meta"),
            ("a/b", "a/b"),
            (r"a\/b", "a/b"),
            (r"a\u002fb", "a/b"),
            (r"\u6771", "東"),
            ("東", "東"),
            (r#"a\"b"#, "a\"b"),
            (r"a\tb", "a\tb"),
            (r"a\\b", r"a\b"),
        ] {
            let object = format!(r#"{{"padding":"{padding}","{spelled}":1}}"#);
            assert_eq!(member(object.as_bytes(), name), Some(&b"1"[..]), "{spelled}");
            assert_eq!(member(object.as_bytes(), "another"), None, "{spelled}");
        }
    }

    #[test]
    fn the_last_of_equal_names_counts() {
        assert_eq!(member(br#"{"a":1,"a":2}"#, "a"), Some(b"2".as_slice()));
    }

    #[test]
    fn walks_see_everything_or_say_so() {
        let mut seen = Vec::new();
        let whole = walk_members(br#" {"a" : 1,"\u0062":[2, 3] } "#, |name, value| {
            seen.push((name, value));
        });
        assert!(whole);
        assert_eq!(seen, [(&b"a"[..], &b"1"[..]), (&b"\\u0062"[..], &b"[2, 3]"[..])]);
        let mut seen = Vec::new();
        assert!(walk_elements(br#"[ 1, {"a":[]} ,"x"]"#, |element| seen.push(element)));
        assert_eq!(seen, [&b"1"[..], &br#"{"a":[]}"#[..], &br#""x""#[..]]);
        for broken in
            [&b"[1]"[..], b"{\"a\":1", b"{\"a\":1}x", b"", b"{\"a\":\"\xff\"}", b"{\"a\"}"]
        {
            assert!(!walk_members(broken, |_, _| {}), "{broken:?}");
        }
        for broken in [&b"{}"[..], b"[1", b"[1]]", b"[1,]", b"[\"\xc3\"]"] {
            assert!(!walk_elements(broken, |_| {}), "{broken:?}");
        }
    }

    #[test]
    fn strings_are_unescaped() {
        assert_eq!(string(br#""a\n""#).as_deref(), Some("a\n"));
        assert_eq!(string(b"1"), None);
        assert_eq!(string(br#""\ud800""#), None);
    }
}
