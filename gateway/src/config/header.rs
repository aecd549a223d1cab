//! Which headers a user may add to the requests for an upstream.

/// More headers than this for one upstream are refused: each request carries them all.
pub(super) const HEADERS_MAX: usize = 32;

/// Headers that the gateway itself writes, or that would change what a message means
/// between it and the upstream (RFC 9110, 7.6.1; RFC 9112, 6; MCP 2025-11-25, transports).
const RESERVED: [&str; 16] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "last-event-id",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// MCP's own headers all begin so.
const RESERVED_PREFIX: &str = "mcp-";

/// A name that HTTP allows and the gateway has no use for.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    // RFC 9110, 5.6.2: a token.
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(format!("{name:?} is no name of a header"));
    }
    let lower = name.to_ascii_lowercase();
    if RESERVED.contains(&lower.as_str()) || lower.starts_with(RESERVED_PREFIX) {
        return Err(format!("{name} is written by the gateway itself; remove it"));
    }
    Ok(())
}

/// A value that can't end its line: visible ASCII, blanks and tabs (RFC 9110, 5.5).
pub(super) fn check_value(value: &str) -> Result<(), String> {
    if value.trim().is_empty() {
        return Err("has an empty value".to_owned());
    }
    if value.trim() != value {
        return Err("has blanks around its value, which HTTP would drop".to_owned());
    }
    if !value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
        return Err(
            "has a line end, control character or non-ASCII character in its value".to_owned()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_gateway_and_no_names_are_refused() {
        for good in ["Authorization", "X-Team", "Cookie", "Origin"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["Host", "content-LENGTH", "MCP-Protocol-Version", "Mcp-Param-x", "", "a b", "ü"]
        {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_stay_on_their_line_and_are_not_repeated() {
        assert_eq!(check_value("Bearer a.b-c_d"), Ok(()));
        for bad in ["s3cret\r\nX: y", "s3cret\0", " s3cret", "s3crét", "", " "] {
            let sentence = check_value(bad).expect_err(bad);
            assert!(!sentence.contains("s3cr"), "{sentence}");
        }
    }
}
