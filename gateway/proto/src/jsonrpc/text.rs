//! Reading the text of JSON strings.

use std::borrow::Cow;

/// The characters of a JSON string. `raw` is the text between its quotes and
/// comes from a validated message. `None` if an escape stands for half a
/// surrogate pair: that is grammatical JSON, but no text.
pub fn unescape(raw: &[u8]) -> Option<Cow<'_, str>> {
    let raw = std::str::from_utf8(raw).ok()?;
    let Some(first) = memchr::memchr(b'\\', raw.as_bytes()) else {
        return Some(Cow::Borrowed(raw));
    };
    let mut text = String::with_capacity(raw.len());
    text.push_str(&raw[..first]);
    let mut rest = &raw[first..];
    while let Some(position) = memchr::memchr(b'\\', rest.as_bytes()) {
        text.push_str(&rest[..position]);
        let (character, behind) = unescape_one(&rest[position + 1..])?;
        text.push(character);
        rest = behind;
    }
    text.push_str(rest);
    Some(Cow::Owned(text))
}

/// What stands between the quotes, if `value` (valid JSON) is a string.
pub(super) fn string_text(value: &[u8]) -> Option<&[u8]> {
    match value {
        [b'"', text @ .., b'"'] => Some(text),
        _ => None,
    }
}

/// `text` begins behind a backslash.
fn unescape_one(text: &str) -> Option<(char, &str)> {
    let character = match text.as_bytes().first()? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unescape_unit(text),
        _ => return None,
    };
    Some((character, &text[1..]))
}

/// `text` begins with `u` and four hex digits, perhaps followed by the second half of a pair.
fn unescape_unit(text: &str) -> Option<(char, &str)> {
    let unit = hex_unit(text)?;
    if !(0xd800..0xdc00).contains(&unit) {
        return Some((char::from_u32(unit)?, text.get(5..)?));
    }
    let low = hex_unit(text.get(5..)?.strip_prefix('\\')?)?;
    let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    let character = char::from_u32(0x1_0000 + ((unit - 0xd800) << 10) + low)?;
    Some((character, text.get(11..)?))
}

fn hex_unit(text: &str) -> Option<u32> {
    let digits = text.strip_prefix('u')?.get(..4)?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(digits, 16).ok()
}
