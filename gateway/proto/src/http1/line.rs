//! The grammar of single lines: the request line, and fields of heads and trailers.
//!
//! This is the strict reading that decides what is refused and why. The fast
//! path (httparse) only ever accepts; where it does not, these functions do the
//! explaining, line by line, so that the verdict depends on nothing that comes later.

use super::head::{Method, Version};
use super::refusal::Refusal;

/// The parts of a request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestLine<'a> {
    pub(super) method: &'a [u8],
    pub(super) target: &'a [u8],
    pub(super) version: Version,
}

/// RFC 9110, 5.6.2: the characters of a token.
pub(super) const fn is_token_byte(byte: u8) -> bool {
    const IS_TOKEN: [bool; 256] = {
        let mut is_token = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            is_token[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let marks = b"!#$%&'*+-.^_`|~";
        let mut mark = 0;
        while mark < marks.len() {
            is_token[marks[mark] as usize] = true;
            mark += 1;
        }
        is_token
    };
    IS_TOKEN[byte as usize]
}

/// RFC 9110, 5.5: VCHAR, obs-text, space and tab; no other control byte.
pub(super) const fn is_value_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..=0xff)
}

/// Tells TLS and binary protocols from HTTP before a whole line is here.
pub(super) fn check_first_byte(byte: u8) -> Result<(), Refusal> {
    // RFC 8446, 5.1: a ClientHello travels in a record of type handshake(22).
    const TLS_HANDSHAKE: u8 = 22;
    match byte {
        TLS_HANDSHAKE => Err(Refusal::TLS),
        b'\r' => Err(Refusal::EMPTY_LINES),
        b'\n' => Err(Refusal::BARE_LF),
        byte if is_token_byte(byte) => Ok(()),
        _ => Err(Refusal::NOT_HTTP),
    }
}

/// RFC 9112, 3: `request-line = method SP request-target SP HTTP-version`.
pub(super) fn parse_request_line(line: &[u8]) -> Result<RequestLine<'_>, Refusal> {
    if line == b"PRI * HTTP/2.0" {
        return Err(Refusal::HTTP2);
    }
    if line.iter().any(|byte| !is_value_byte(*byte)) {
        return Err(Refusal::CONTROL_BYTE);
    }
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target)) = (parts.next(), parts.next()) else {
        return Err(Refusal::REQUEST_LINE);
    };
    if method.is_empty() || !method.iter().all(|byte| is_token_byte(*byte)) || target.is_empty() {
        return Err(Refusal::REQUEST_LINE);
    }
    let Some(version) = parts.next() else {
        return Err(Refusal::HTTP09);
    };
    if parts.next().is_some() {
        return Err(Refusal::REQUEST_LINE);
    }
    let version = parse_version(version)?;
    check_target(target)?;
    Ok(RequestLine { method, target, version })
}

fn parse_version(text: &[u8]) -> Result<Version, Refusal> {
    match text {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Refusal::VERSION)
        }
        _ => Err(Refusal::REQUEST_LINE),
    }
}

/// Origin form and absolute form are served. The authority form belongs to
/// CONNECT and the asterisk form to `OPTIONS *`; neither has a use here.
pub(super) fn check_target(target: &[u8]) -> Result<(), Refusal> {
    let visible = target.iter().all(|byte| matches!(byte, b'!'..=b'~') && *byte != b'#');
    if visible && (target.first() == Some(&b'/') || absolute_authority(target).is_some()) {
        Ok(())
    } else {
        Err(Refusal::TARGET)
    }
}

/// Where the authority of an absolute-form target stands in it.
pub(super) fn absolute_authority(target: &[u8]) -> Option<std::ops::Range<usize>> {
    let start = [&b"http://"[..], b"https://"].into_iter().find_map(|scheme| {
        let prefix = target.get(..scheme.len())?;
        prefix.eq_ignore_ascii_case(scheme).then_some(scheme.len())
    })?;
    let rest = target.get(start..)?;
    let length = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    Some(start..start + length)
}

/// RFC 9112, 5: `field-line = field-name ":" OWS field-value OWS`.
pub(super) fn check_field_line(line: &[u8]) -> Result<(), Refusal> {
    // RFC 9112, 5.2: "A server that receives an obs-fold in a request message
    // [...] MUST either reject the message [...] or replace" it.
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Refusal::FOLDED);
    }
    let length = line.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(line.len());
    // RFC 9112, 5.1: "No whitespace is allowed between the field name and colon."
    if length == 0 || line.get(length) != Some(&b':') {
        return Err(Refusal::HEADER_NAME);
    }
    if line.iter().all(|byte| is_value_byte(*byte)) { Ok(()) } else { Err(Refusal::CONTROL_BYTE) }
}

/// RFC 9110, 7.2 with RFC 3986, 3.2: `uri-host [ ":" port ]`, without user information.
pub(super) fn check_host(host: &[u8]) -> Result<(), Refusal> {
    let (name, port) = split_port(host);
    let name_fits = match name {
        [b'[', address @ .., b']'] => {
            !address.is_empty()
                && address
                    .iter()
                    .all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
        }
        name => !name.is_empty() && name.iter().all(|byte| is_host_byte(*byte)),
    };
    let port_fits = port.is_none_or(|port| port.len() <= 5 && port.iter().all(u8::is_ascii_digit));
    if name_fits && port_fits { Ok(()) } else { Err(Refusal::HOST) }
}

fn split_port(host: &[u8]) -> (&[u8], Option<&[u8]>) {
    let from = host.iter().rposition(|byte| *byte == b']').map_or(0, |end| end + 1);
    match host[from..].iter().position(|byte| *byte == b':') {
        Some(colon) => (&host[..from + colon], Some(&host[from + colon + 1..])),
        None => (host, None),
    }
}

const fn is_host_byte(byte: u8) -> bool {
    matches!(
        byte,
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$'
            | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
    )
}

/// Methods are case-sensitive (RFC 9110, 9.1).
pub(super) fn method(name: &[u8]) -> Method {
    match name {
        b"POST" => Method::Post,
        b"GET" => Method::Get,
        b"DELETE" => Method::Delete,
        b"OPTIONS" => Method::Options,
        b"HEAD" => Method::Head,
        _ => Method::Other,
    }
}
