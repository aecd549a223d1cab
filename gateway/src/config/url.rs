//! The URL of an HTTP upstream, taken apart once.
//!
//! Invariants:
//! - Scheme, host and port are known; the path begins with `/`; all is ASCII.
//! - There is no user part and no fragment.
//! - `Debug` hides the query: keys are often put there.

use std::fmt;
use std::net::Ipv6Addr;

use super::hidden::MASK;

/// A URL longer than this is taken for a mistake.
pub const URL_BYTES_MAX: usize = 2_048;

/// How an HTTP upstream is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain TCP.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// The port that is meant where none is written (RFC 9110, 4.2).
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }

    /// As it is written in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// The address of an HTTP upstream.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl {
    scheme: Scheme,
    host: String,
    port: u16,
    authority: String,
    path_and_query: String,
}

impl HttpUrl {
    /// Takes a URL apart. The sentence of a failure never repeats the URL.
    pub(crate) fn parse(text: &str) -> Result<HttpUrl, String> {
        refuse_by_sight(text)?;
        let uri: http::Uri = text.parse().map_err(|error| format!("is no URL: {error}"))?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            Some(_) | None => return Err("must begin with http:// or https://".to_owned()),
        };
        let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        if authority.contains('@') {
            return Err("has a user or password in it; give credentials by headers_from_env or \
                        headers_from_file, such as { Authorization = … }"
                .to_owned());
        }
        let (host, port) = split_authority(authority)?;
        let port = port.unwrap_or(scheme.default_port());
        let path_and_query = match uri.path_and_query().map(http::uri::PathAndQuery::as_str) {
            // `http://host?query` has an empty path, which a request may not have (RFC 9112, 3.2.1).
            Some(path) if path.starts_with('/') => path.to_owned(),
            Some(query) => format!("/{query}"),
            None => "/".to_owned(),
        };
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let authority =
            if port == scheme.default_port() { bracketed } else { format!("{bracketed}:{port}") };
        Ok(HttpUrl { scheme, host, port, authority, path_and_query })
    }

    /// Plain or TLS.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The name or address to connect to and to verify, in lower case; IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, written or not.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The value of the `Host` header: without the port where it is the scheme's own.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// What follows the authority, beginning with `/`: the target of requests. May be secret.
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// The URL without its query, for messages.
    pub fn without_query(&self) -> String {
        let path = self.path_and_query.split('?').next().unwrap_or_default();
        format!("{}://{}{path}", self.scheme.as_str(), self.authority)
    }

    /// The whole URL, its query included.
    pub(super) fn reveal(&self) -> String {
        format!("{}://{}{}", self.scheme.as_str(), self.authority, self.path_and_query)
    }

    /// The same with a query that may be shown.
    pub(super) fn masked(&self) -> HttpUrl {
        let path_and_query = match self.path_and_query.split_once('?') {
            Some((path, _)) => format!("{path}?{MASK}"),
            None => self.path_and_query.clone(),
        };
        HttpUrl { path_and_query, ..self.clone() }
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let query = if self.path_and_query.contains('?') { "?" } else { "" };
        let mask = if query.is_empty() { "" } else { MASK };
        write!(formatter, "{}{query}{mask}", self.without_query())
    }
}

/// What the parser would let pass or tell badly.
fn refuse_by_sight(text: &str) -> Result<(), String> {
    if text.len() > URL_BYTES_MAX {
        return Err(format!("has {} bytes, but a URL may have {URL_BYTES_MAX}", text.len()));
    }
    if !text.is_ascii() {
        return Err("has characters that a URL can't have: write the host as xn--… and the rest \
                    percent-encoded"
            .to_owned());
    }
    if text.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
        return Err("has a blank or control character in it".to_owned());
    }
    if text.contains('#') {
        return Err("has a fragment (#…), which is never sent to a server; leave it out".to_owned());
    }
    Ok(())
}

/// The host in lower case and without brackets, and the port if one is written.
fn split_authority(authority: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').unwrap_or((rest, ""));
            let address: Ipv6Addr =
                address.parse().map_err(|_| "has no IPv6 address in its brackets".to_owned())?;
            (address.to_string(), port.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host.to_ascii_lowercase(), Some(port)),
            None => (authority.to_ascii_lowercase(), None),
        },
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    if host.is_empty() || host.starts_with('.') || !host.chars().all(is_name) {
        return Err("has no valid host name".to_owned());
    }
    let port = match port {
        None | Some("") => None,
        Some(digits) => match digits.parse::<u16>() {
            Ok(port) if port > 0 => Some(port),
            Ok(_) | Err(_) => return Err("has no valid port: use 1 to 65535".to_owned()),
        },
    };
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (text, host, port, authority, target) in [
            ("https://crm.example.com/mcp", "crm.example.com", 443, "crm.example.com", "/mcp"),
            ("http://CRM:80", "crm", 80, "crm", "/"),
            ("http://127.0.0.1:8080/a?b=c", "127.0.0.1", 8080, "127.0.0.1:8080", "/a?b=c"),
            ("https://[::1]:9443/", "::1", 9443, "[::1]:9443", "/"),
            ("http://h?k=v", "h", 80, "h", "/?k=v"),
            ("HTTPS://h:/x", "h", 443, "h", "/x"),
        ] {
            let url = HttpUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let parts = (url.host(), url.port(), url.authority(), url.path_and_query());
            assert_eq!(parts, (host, port, authority, target), "{text}");
            assert_eq!(HttpUrl::parse(&url.reveal()), Ok(url), "{text}");
        }
    }

    #[test]
    fn what_is_no_upstream_url_is_told_without_repeating_it() {
        for (text, expected) in [
            ("", "is no URL"),
            ("crm.example.com/s3cret", "no"),
            ("ftp://h/s3cret", "must begin with http"),
            ("/s3cret", "must begin with http"),
            ("https:///s3cret", "no"),
            ("https://me:s3cret@h/", "user or password"),
            ("https://h/s3cret#x", "fragment"),
            ("https://h/s3cret x", "blank"),
            ("https://h/\ns3cret", "control"),
            ("https://größe/s3cret", "xn--"),
            ("https://h:0/s3cret", "port"),
            ("https://h:99999/s3cret", "port"),
            ("https://[::g]/s3cret", "no"),
            ("https://a%20b/s3cret", "no"),
        ] {
            let sentence = HttpUrl::parse(text).expect_err(text);
            assert!(sentence.contains(expected), "{text}: {sentence}");
            assert!(!sentence.contains("s3cret"), "{text}: {sentence}");
        }
    }

    #[test]
    fn debug_hides_the_query() {
        let url = HttpUrl::parse("https://h/mcp?key=s3cret").expect("a URL");
        assert_eq!(format!("{url:?}"), "https://h/mcp?***");
        assert_eq!(url.without_query(), "https://h/mcp");
        assert!(!url.masked().reveal().contains("s3cret"));
    }
}
