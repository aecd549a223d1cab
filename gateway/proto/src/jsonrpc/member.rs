//! Looking into a JSON object without reading it into values.

use super::DEPTH_MAX;
use super::cursor::Cursor;

/// The raw value of an object's member, for objects inside a text that
/// [`scan`](super::scan) has accepted. The last one counts where a name is
/// repeated, as in most parsers. `None` if there is none, or `object` is none.
pub fn member<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
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
    fn the_last_of_equal_names_counts() {
        assert_eq!(member(br#"{"a":1,"a":2}"#, "a"), Some(b"2".as_slice()));
    }

    #[test]
    fn strings_are_unescaped() {
        assert_eq!(string(br#""a\n""#).as_deref(), Some("a\n"));
        assert_eq!(string(b"1"), None);
        assert_eq!(string(br#""\ud800""#), None);
    }
}
