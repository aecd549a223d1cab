//! Media types in `Content-Type` and `Accept`.

/// True if `value` (a Content-Type) is `media_type`, whatever its parameters and letter case.
pub fn is_media_type(value: &[u8], media_type: &str) -> bool {
    let end = value.iter().position(|byte| *byte == b';').unwrap_or(value.len());
    value[..end].trim_ascii().eq_ignore_ascii_case(media_type.as_bytes())
}

/// How well one element of an Accept list matches `media_type`: its precedence
/// (3 exact, 2 `type/*`, 1 `*/*`) and whether its weight is above zero; `None` if it does not match.
///
/// RFC 9110, 12.5.1: "The most specific reference has precedence", and a weight of 0 means "not acceptable".
pub(super) fn match_range(element: &[u8], media_type: &[u8]) -> Option<(u8, bool)> {
    let end = element.iter().position(|byte| *byte == b';').unwrap_or(element.len());
    let (range, parameters) = (element[..end].trim_ascii(), &element[end..]);
    let precedence = match range.strip_suffix(b"/*") {
        None if range.eq_ignore_ascii_case(media_type) => 3,
        None => return None,
        Some(b"*") => 1,
        Some(kind) => {
            let rest = media_type.get(kind.len())?;
            let same = *rest == b'/' && media_type[..kind.len()].eq_ignore_ascii_case(kind);
            same.then_some(2)?
        }
    };
    Some((precedence, parameters.is_empty() || !has_zero_weight(parameters)))
}

fn has_zero_weight(parameters: &[u8]) -> bool {
    parameters.split(|byte| *byte == b';').any(|parameter| match parameter.trim_ascii() {
        [b'q' | b'Q', b'=', weight @ ..] => weight.iter().all(|byte| matches!(byte, b'0' | b'.')),
        _ => false,
    })
}
