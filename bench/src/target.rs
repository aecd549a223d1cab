//! The server's URL, taken apart once.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// Where the load goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As it was given.
    pub url: String,
    /// Where to connect.
    pub address: SocketAddr,
    /// For the header field `Host`.
    pub authority: String,
    /// Path and query.
    pub path: String,
}

/// Why a URL can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BadTarget {
    /// Not a URL.
    #[error("`{url}` is no URL: {reason}; one such as http://127.0.0.1:8080/mcp is wanted")]
    Malformed {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A scheme other than http.
    #[error("`{url}`: only http:// is spoken here, not {scheme}://; let a proxy take TLS off")]
    Scheme {
        /// What was given.
        url: String,
        /// Its scheme.
        scheme: String,
    },
    /// The name has no address.
    #[error("find the address of `{host}`, the server in --url; give its IP address instead")]
    Unknown {
        /// The host's name.
        host: String,
        /// The resolver's error.
        #[source]
        source: std::io::Error,
    },
}

impl Target {
    /// Takes a URL apart and looks its host up.
    ///
    /// # Errors
    /// [`BadTarget`] says what is wrong with it.
    pub fn parse(url: &str) -> Result<Target, BadTarget> {
        let malformed = |reason: String| BadTarget::Malformed { url: url.to_owned(), reason };
        let parsed: http::Uri =
            url.parse().map_err(|error: http::uri::InvalidUri| malformed(error.to_string()))?;
        let Some(authority) = parsed.authority() else {
            return Err(malformed("it names no server".to_owned()));
        };
        match parsed.scheme_str() {
            Some("http") => {}
            Some(scheme) => {
                return Err(BadTarget::Scheme { url: url.to_owned(), scheme: scheme.to_owned() });
            }
            None => return Err(malformed("it has no scheme".to_owned())),
        }
        let host = authority.host();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(80);
        let unknown = |source| BadTarget::Unknown { host: host.to_owned(), source };
        let address = (bare, port)
            .to_socket_addrs()
            .map_err(unknown)?
            .next()
            .ok_or_else(|| unknown(std::io::ErrorKind::NotFound.into()))?;
        let path = parsed.path_and_query().map_or("/", |path| path.as_str());
        Ok(Target {
            url: url.to_owned(),
            address,
            authority: authority.as_str().to_owned(),
            path: path.to_owned(),
        })
    }

    /// True if the server is on this host, reached by IPv4 loopback, where any address
    /// 127.x.y.z can be a client's.
    pub fn is_loopback_v4(&self) -> bool {
        matches!(self.address.ip(), IpAddr::V4(address) if address.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let target = Target::parse("http://127.0.0.1:8080/mcp?x=1").unwrap();
        assert_eq!(target.address, SocketAddr::from(([127, 0, 0, 1], 8080)));
        assert_eq!((&*target.authority, &*target.path), ("127.0.0.1:8080", "/mcp?x=1"));
        assert!(target.is_loopback_v4());
        let target = Target::parse("http://[::1]").unwrap();
        assert_eq!((target.address.port(), &*target.path), (80, "/"));
        assert!(!target.is_loopback_v4());
    }

    #[test]
    fn what_cannot_be_used_is_told_with_the_reason() {
        for (url, part) in [
            ("127.0.0.1:8080", "no scheme"),
            ("/mcp", "names no server"),
            ("https://127.0.0.1/mcp", "not https://"),
            ("http://no host/", "is no URL"),
            ("http://name.invalid/mcp", "find the address of `name.invalid`"),
        ] {
            let message = Target::parse(url).unwrap_err().to_string();
            assert!(message.contains(part), "{url}: {message}");
        }
    }
}
