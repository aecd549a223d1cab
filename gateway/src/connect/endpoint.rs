//! Where the gateway is, and which headers every request to it carries besides MCP's own.
//!
//! Invariant: the value of a header is never printed; it may be a token. Errors and logs
//! name the header only.

use std::fmt;

use hyper::Uri;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

/// Headers that the bridge writes itself, in lower case.
const OWN_HEADERS: [&str; 11] = [
    "accept",
    "connection",
    "content-length",
    "content-type",
    "host",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "transfer-encoding",
];

/// What the command line says that can't be meant.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// No URL.
    #[error(
        "{given:?} is no URL of an MCP server: write http://HOST:PORT/PATH or https://…, such as http://127.0.0.1:8080/mcp"
    )]
    Url {
        /// What was given.
        given: String,
    },
    /// A URL with a user or password in it.
    #[error(
        "the URL holds a user name or a password, which would show in process lists and logs: \
         leave it out and write --header-env Authorization=VARIABLE"
    )]
    Login,
    /// No `Name: value`. What was given isn't shown.
    #[error(
        "a --header is not of the form 'Name: value' (a name of letters, digits and hyphens, a colon, a value of visible characters)"
    )]
    Header,
    /// No `NAME=VAR`.
    #[error(
        "--header-env {given:?} is not of the form NAME=VARIABLE, such as Authorization=MCP_AUTHORIZATION"
    )]
    HeaderVariable {
        /// What was given; the value is in the variable and not here.
        given: String,
    },
    /// The variable isn't there.
    #[error(
        "--header-env {name}={variable}: the environment variable {variable} is not set, or is no text; set it to the header's whole value, such as 'Bearer …'"
    )]
    Variable {
        /// The header.
        name: String,
        /// The variable.
        variable: String,
    },
    /// The variable's text is no header value.
    #[error(
        "--header-env {name}={variable}: the value of {variable} holds characters that a header can't carry, such as a line break"
    )]
    VariableValue {
        /// The header.
        name: String,
        /// The variable.
        variable: String,
    },
    /// A header that belongs to the bridge.
    #[error("header {name} is written by the bridge itself and can't be set")]
    OwnHeader {
        /// The header.
        name: String,
    },
}

/// The gateway's URL, and the headers that were asked for.
#[derive(Clone, Debug)]
pub struct Endpoint {
    uri: Uri,
    headers: HeaderMap,
}

impl Endpoint {
    /// Reads a URL.
    ///
    /// # Errors
    /// It is none of `http` or `https` with a host, or it holds a password.
    pub fn parse(url: &str) -> Result<Endpoint, EndpointError> {
        let wrong = || EndpointError::Url { given: url.to_owned() };
        let bare = url.split('#').next().unwrap_or_default();
        let authority = bare.split_once("://").ok_or_else(wrong)?.1;
        if authority.split(['/', '?']).next().unwrap_or_default().contains('@') {
            return Err(EndpointError::Login);
        }
        let uri: Uri = bare.parse().map_err(|_| wrong())?;
        let has_scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        // A port beyond 65535 is dropped silently by the URL's own accessor.
        let port_text = uri.authority().map_or("", |authority| {
            authority.as_str().strip_prefix(authority.host()).unwrap_or_default()
        });
        let has_sound_port = port_text.is_empty() || uri.port_u16().is_some_and(|port| port != 0);
        if !(has_scheme && has_host && has_sound_port) {
            return Err(wrong());
        }
        Ok(Endpoint { uri, headers: HeaderMap::new() })
    }

    /// Adds a header given as `Name: value`.
    ///
    /// # Errors
    /// It is none, or belongs to the bridge.
    pub fn add_header(&mut self, given: &str) -> Result<(), EndpointError> {
        let (name, value) = given.split_once(':').ok_or(EndpointError::Header)?;
        let name = header_name(name).ok_or(EndpointError::Header)?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| EndpointError::Header)?;
        self.insert(name, value)
    }

    /// Adds a header whose value is in an environment variable, given as `NAME=VARIABLE`.
    ///
    /// # Errors
    /// As for [`Endpoint::add_header`], or the variable is not set.
    pub fn add_header_from(
        &mut self,
        given: &str,
        variable_text: impl FnOnce(&str) -> Option<String>,
    ) -> Result<(), EndpointError> {
        let wrong = || EndpointError::HeaderVariable { given: given.to_owned() };
        let (name_text, variable) = given.split_once('=').ok_or_else(wrong)?;
        let name = header_name(name_text).ok_or_else(wrong)?;
        if variable.is_empty() {
            return Err(wrong());
        }
        let parts = || (name_text.to_owned(), variable.to_owned());
        let Some(text) = variable_text(variable) else {
            let (name, variable) = parts();
            return Err(EndpointError::Variable { name, variable });
        };
        let value = HeaderValue::from_str(text.trim()).map_err(|_| {
            let (name, variable) = parts();
            EndpointError::VariableValue { name, variable }
        })?;
        self.insert(name, value)
    }

    /// The URL without a fragment.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The headers that were asked for.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// True if a header's value would cross a network in clear text.
    pub fn exposes_headers(&self) -> bool {
        let host = self.uri.host().unwrap_or_default();
        let is_local = host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        !self.headers.is_empty() && self.uri.scheme_str() == Some("http") && !is_local
    }

    fn insert(&mut self, name: HeaderName, mut value: HeaderValue) -> Result<(), EndpointError> {
        if OWN_HEADERS.contains(&name.as_str()) || name.as_str().starts_with("mcp-param-") {
            return Err(EndpointError::OwnHeader { name: name.as_str().to_owned() });
        }
        value.set_sensitive(true);
        self.headers.append(name, value);
        Ok(())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(formatter)
    }
}

fn header_name(text: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(text.trim().as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_http_with_a_host() {
        for url in [
            "http://127.0.0.1:8080/mcp",
            "https://mcp.example.com",
            "http://[::1]:8080/mcp?a=b",
            "HTTP://localhost/mcp",
        ] {
            Endpoint::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        }
        for url in [
            "",
            "127.0.0.1:8080/mcp",
            "ws://a/b",
            "http://",
            "http:///mcp",
            "http://a:0/",
            "http://a:70000/",
            "http://a b/",
        ] {
            let error = Endpoint::parse(url).expect_err(url).to_string();
            assert!(error.contains("http://127.0.0.1:8080/mcp"), "{url}: {error}");
        }
        assert_eq!(Endpoint::parse("http://a/b#c").expect("sound").to_string(), "http://a/b");
    }

    #[test]
    fn passwords_have_no_place_in_the_url() {
        let error = Endpoint::parse("http://me:geheim@host/mcp").expect_err("refused").to_string();
        assert!(error.contains("--header-env") && !error.contains("geheim"), "{error}");
    }

    #[test]
    fn headers_come_from_the_line_or_the_environment_and_stay_secret() {
        let mut endpoint = Endpoint::parse("http://host/mcp").expect("sound");
        assert!(!endpoint.exposes_headers());
        endpoint.add_header("X-Tenant: blue").expect("sound");
        let variable = |name: &str| (name == "TOKEN").then(|| "Bearer geheim\n".to_owned());
        endpoint.add_header_from("Authorization=TOKEN", variable).expect("sound");
        assert_eq!(endpoint.headers()["authorization"], "Bearer geheim");
        assert_eq!(endpoint.headers()["x-tenant"], "blue");
        assert!(!format!("{endpoint:?}").contains("geheim"));
        assert!(endpoint.exposes_headers());
    }

    #[test]
    fn wrong_headers_are_refused_without_showing_a_value() {
        let mut endpoint = Endpoint::parse("http://127.0.0.1/mcp").expect("sound");
        for given in
            ["geheim", "a b: geheim", "a: geheim\r\nb: c", "Mcp-Session-Id: geheim", "host: geheim"]
        {
            let error = endpoint.add_header(given).expect_err(given).to_string();
            assert!(!error.contains("geheim"), "{error}");
        }
        for (given, part) in [
            ("Authorization", "NAME=VARIABLE"),
            ("Authorization=", "NAME=VARIABLE"),
            ("Authorization=UNSET", "UNSET is not set"),
            ("Authorization=BROKEN", "line break"),
            ("Accept=UNSET", "UNSET"),
        ] {
            let variable = |name: &str| (name == "BROKEN").then(|| "geheim\nx".to_owned());
            let error = endpoint.add_header_from(given, variable).expect_err(given).to_string();
            assert!(error.contains(part) && !error.contains("geheim"), "{given}: {error}");
        }
        assert!(endpoint.headers().is_empty());
    }
}
