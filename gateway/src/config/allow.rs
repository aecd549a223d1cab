//! Which `Host` and `Origin` values are accepted: the guard against DNS rebinding.
//!
//! A page of a foreign site can make a browser talk to an address of its choice, so a
//! server on loopback must look at the name it was called by (MCP 2025-11-25, transports:
//! "Servers MUST validate the Origin header on all incoming connections").
//!
//! Limit: an entry without a port matches every port; the only wildcard is a lone `*`.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The rule for `Host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHosts(Rule);

/// The rule for `Origin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigins(Rule);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    /// Whatever it says.
    Any,
    /// localhost, `*.localhost`, 127.0.0.0/8 and ::1, with any port.
    Loopback,
    /// These, in lower case.
    Listed(Vec<String>),
}

impl Rule {
    fn new(entries: &[String]) -> Rule {
        if entries.iter().any(|entry| entry == "*") {
            return Rule::Any;
        }
        Rule::Listed(entries.iter().map(|entry| entry.to_ascii_lowercase()).collect())
    }
}

impl AllowedHosts {
    /// Accepts the listed names, with or without a port; `*` accepts all.
    pub fn new(names: &[String]) -> AllowedHosts {
        AllowedHosts(Rule::new(names))
    }

    /// Accepts loopback names and addresses with any port.
    pub fn loopback() -> AllowedHosts {
        AllowedHosts(Rule::Loopback)
    }

    /// Whether a request with this `Host` value is answered.
    pub fn permits(&self, host: &[u8]) -> bool {
        match &self.0 {
            Rule::Any => true,
            Rule::Loopback => is_loopback_authority(host),
            Rule::Listed(names) => is_listed(names, host),
        }
    }
}

impl AllowedOrigins {
    /// Accepts the listed origins such as `https://app.example.com`; `*` accepts all.
    /// An entry without a port accepts every port.
    pub fn new(origins: &[String]) -> AllowedOrigins {
        AllowedOrigins(Rule::new(origins))
    }

    /// Accepts `http` and `https` origins on loopback with any port.
    pub fn loopback() -> AllowedOrigins {
        AllowedOrigins(Rule::Loopback)
    }

    /// Whether a request with this `Origin` value is answered. A request without the
    /// header comes from no browser and needs no such check.
    pub fn permits(&self, origin: &[u8]) -> bool {
        match &self.0 {
            Rule::Any => true,
            Rule::Loopback => match authority_of_origin(origin) {
                Some((b"http" | b"https", authority)) => is_loopback_authority(authority),
                Some(_) | None => false,
            },
            Rule::Listed(origins) => is_listed(origins, origin),
        }
    }
}

/// Whether the value, or the value without its port, is one of the entries.
fn is_listed(entries: &[String], value: &[u8]) -> bool {
    let is_entry =
        |text: &[u8]| entries.iter().any(|entry| entry.as_bytes().eq_ignore_ascii_case(text));
    is_entry(value) || split_port(value).is_some_and(|(name, _)| is_entry(name))
}

fn is_loopback_authority(authority: &[u8]) -> bool {
    let name = split_port(authority).map_or(authority, |(name, _)| name);
    if name.eq_ignore_ascii_case(b"localhost") {
        return true;
    }
    // RFC 6761, 6.3: names below "localhost." resolve to loopback.
    let suffix = name.len().checked_sub(b".localhost".len()).map(|start| &name[start..]);
    if suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(b".localhost")) {
        return true;
    }
    let Ok(text) = std::str::from_utf8(name) else { return false };
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback());
    }
    text.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

/// Splits `name:port`. `None` if there is no port; a colon inside `[…]` is no port's.
fn split_port(authority: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = authority.iter().rposition(|byte| *byte == b':')?;
    let (name, port) = (&authority[..colon], &authority[colon + 1..]);
    let is_port = (1..=5).contains(&port.len()) && port.iter().all(u8::is_ascii_digit);
    (is_port && !name.is_empty()).then_some((name, port))
}

/// Splits `scheme://authority`. `None` for `null` and anything with a path.
fn authority_of_origin(origin: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = origin.iter().position(|byte| *byte == b':')?;
    let authority = origin[colon..].strip_prefix(b"://")?;
    (!authority.contains(&b'/')).then_some((&origin[..colon], authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|entry| (*entry).to_owned()).collect()
    }

    #[test]
    fn loopback_hosts() {
        let hosts = AllowedHosts::loopback();
        for good in [
            "localhost",
            "localhost:8080",
            "LOCALHOST:1",
            "127.0.0.1",
            "127.0.0.1:8080",
            "127.8.9.1:80",
            "[::1]",
            "[::1]:8080",
            "app.localhost:3000",
        ] {
            assert!(hosts.permits(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "128.0.0.1",
            "evil.com:127.0.0.1",
            "localhost:80:80",
            "localhost:port",
            "[::2]:80",
            "::1",
            "notlocalhost",
            "[127.0.0.1]",
            "localhost:",
            "0.0.0.0",
            "user@localhost",
        ] {
            assert!(!hosts.permits(bad.as_bytes()), "{bad}");
        }
        assert!(!hosts.permits(b"\xff\xfe"));
    }

    #[test]
    fn loopback_origins() {
        let origins = AllowedOrigins::loopback();
        for good in [
            "http://localhost",
            "https://localhost:5173",
            "http://[::1]:80",
            "http://127.0.0.1:6274",
        ] {
            assert!(origins.permits(good.as_bytes()), "{good}");
        }
        for bad in [
            "null",
            "",
            "http://example.com",
            "http://localhost.evil.com",
            "file://",
            "http://localhost/path",
            "localhost",
            "ftp://localhost",
            "http:localhost",
        ] {
            assert!(!origins.permits(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn listed_names_match_any_port_unless_one_is_given() {
        let hosts = AllowedHosts::new(&list(&["Gw.example.com", "10.0.0.1:8080"]));
        assert!(hosts.permits(b"gw.EXAMPLE.com"));
        assert!(hosts.permits(b"gw.example.com:443"));
        assert!(hosts.permits(b"10.0.0.1:8080"));
        assert!(!hosts.permits(b"10.0.0.1:8081"));
        assert!(!hosts.permits(b"10.0.0.1"));
        assert!(!hosts.permits(b"localhost"));
        let origins = AllowedOrigins::new(&list(&["https://app.example.com"]));
        assert!(origins.permits(b"https://app.example.com"));
        assert!(origins.permits(b"https://app.example.com:8443"));
        assert!(!origins.permits(b"http://app.example.com"));
        assert!(!origins.permits(b"null"));
    }

    #[test]
    fn a_star_permits_all_and_an_empty_list_nothing() {
        assert!(AllowedHosts::new(&list(&["*"])).permits(b"anything"));
        assert!(!AllowedHosts::new(&[]).permits(b"localhost"));
        assert!(AllowedOrigins::new(&list(&["*"])).permits(b"null"));
        assert!(!AllowedOrigins::new(&[]).permits(b"http://localhost"));
    }
}
