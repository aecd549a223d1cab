//! The gateway's own counters, read as any Prometheus would: `GET /metrics`, text format.
//!
//! One request by HTTP/1.0, so that the answer ends with the connection; bounded in time
//! and size. Only `shardgate_requests_total` is looked at, summed by its label `shard`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

/// For connecting, and for each read and write.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 8 * 1_024 * 1_024;
/// Longest URL.
const URL_BYTES_MAX: usize = 2_048;
const COUNTER: &str = "shardgate_requests_total";

/// `http://host:port/path`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricsUrl {
    /// `host:port`
    authority: String,
    path: String,
}

/// Why the server's metrics are not there.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The URL cannot be used.
    #[error("'{given}' is no URL of metrics; write http://host:port/metrics")]
    Url {
        /// As it was given.
        given: String,
    },
    /// It did not work on the way.
    #[error("{operation} {authority}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// With whom.
        authority: String,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The server refused.
    #[error("the server answered '{status}'")]
    Status {
        /// Its status line.
        status: String,
    },
    /// The answer holds no counter of ours.
    #[error("the answer has no {COUNTER} with a label shard")]
    NoCounter,
    /// It did not answer in time.
    #[error("the server did not answer in time")]
    Late,
}

impl FromStr for MetricsUrl {
    type Err = MetricsError;

    fn from_str(given: &str) -> Result<MetricsUrl, MetricsError> {
        let refused = || MetricsError::Url { given: given.to_owned() };
        let is_plain = given.bytes().all(|byte| byte.is_ascii_graphic());
        if given.len() > URL_BYTES_MAX || !is_plain {
            return Err(refused());
        }
        let rest = given.strip_prefix("http://").ok_or_else(refused)?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/metrics"),
        };
        let (host, port) = match authority.rsplit_once(':') {
            // The colons of a bare IPv6 address stand inside its brackets.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().ok()),
            Some(_) | None => (authority, Some(80)),
        };
        let port = port.filter(|port| *port > 0).ok_or_else(refused)?;
        if host.is_empty() || host.contains(['@', '?', '#']) {
            return Err(refused());
        }
        Ok(MetricsUrl { authority: format!("{host}:{port}"), path: path.to_owned() })
    }
}

impl fmt::Display for MetricsUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "http://{}{}", self.authority, self.path)
    }
}

impl MetricsUrl {
    /// All requests so far, by shard.
    pub(super) fn requests_by_shard(&self) -> Result<BTreeMap<String, u64>, MetricsError> {
        let answer = self.fetch()?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.lines().next().unwrap_or_default();
        if status.split(' ').nth(1) != Some("200") {
            let status = status.chars().take(80).filter(|c| !c.is_control()).collect();
            return Err(MetricsError::Status { status });
        }
        let counts = sums_by_shard(body);
        if counts.is_empty() { Err(MetricsError::NoCounter) } else { Ok(counts) }
    }

    fn fetch(&self) -> Result<String, MetricsError> {
        let failed = |operation| {
            move |source| MetricsError::Io { operation, authority: self.authority.clone(), source }
        };
        let mut stream = self.connect().map_err(failed("connect to"))?;
        let request = format!(
            "GET {} HTTP/1.0\r\nHost: {}\r\nAccept: application/openmetrics-text, text/plain\r\n\r\n",
            self.path, self.authority
        );
        stream.write_all(request.as_bytes()).map_err(failed("send to"))?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).map_err(failed("read from"))?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in self.authority.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, STEP_TIMEOUT) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(STEP_TIMEOUT))?;
                    stream.set_write_timeout(Some(STEP_TIMEOUT))?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Lines such as `shardgate_requests_total{shard="0",method="ping"} 12`.
fn sums_by_shard(text: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for line in text.lines() {
        let Some(rest) = line.strip_prefix(COUNTER).and_then(|rest| rest.strip_prefix('{')) else {
            continue;
        };
        let Some((shard, value)) = shard_and_value(rest) else { continue };
        *sums.entry(shard).or_insert(0) += value;
    }
    sums
}

/// Of what follows the opening brace. A value may be followed by a time and an exemplar.
fn shard_and_value(mut rest: &str) -> Option<(String, u64)> {
    let mut shard = None;
    while !rest.starts_with('}') {
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        if name.trim() == "shard" {
            shard = Some(value);
        }
        rest = after.trim_start_matches([',', ' ']);
    }
    let value: f64 = rest[1..].split_whitespace().next()?.parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some((shard?, value as u64))
}

/// The text up to the closing quote, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            plain => value.push(plain),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_summed_by_shard() {
        let text = "# TYPE shardgate_requests counter\n\
            shardgate_requests_total{shard=\"0\",method=\"ping\",status=\"200\"} 12\n\
            shardgate_requests_total{method=\"tools/call\", shard=\"0\"} 30.0 1795297255\n\
            shardgate_requests_total{shard=\"1\",note=\"a\\\"}\\\\\"} 5 # {trace=\"x\"} 1\n\
            shardgate_requests_totally{shard=\"1\"} 99\n\
            shardgate_requests_total{method=\"ping\"} 7\n\
            shardgate_requests_total{shard=\"2\"} NaN\n\
            shardgate_requests_total{shard=\"3\n\
            shardgate_sessions{shard=\"0\"} 4\n# EOF\n";
        let expected = [("0".to_owned(), 42), ("1".to_owned(), 5)];
        assert_eq!(sums_by_shard(text), BTreeMap::from(expected));
    }

    #[test]
    fn urls_are_taken_apart() {
        for (given, expected) in [
            ("http://127.0.0.1:9090/metrics", "http://127.0.0.1:9090/metrics"),
            ("http://gw.test:9090", "http://gw.test:9090/metrics"),
            ("http://gw.test/m?x=1", "http://gw.test:80/m?x=1"),
            ("http://[::1]:9090/metrics", "http://[::1]:9090/metrics"),
            ("http://[::1]/metrics", "http://[::1]:80/metrics"),
        ] {
            let url: MetricsUrl = given.parse().expect("valid");
            assert_eq!(url.to_string(), expected);
        }
        for given in [
            "",
            "127.0.0.1:9090",
            "https://gw.test/metrics",
            "http://",
            "http://:9090/",
            "http://gw:0/",
            "http://gw:x/",
            "http://user@gw/",
            "http://gw/a b",
            "http://gw/\r\nHost: other",
        ] {
            let message = given.parse::<MetricsUrl>().unwrap_err().to_string();
            assert!(message.contains("http://host:port/metrics"), "{message}");
        }
    }

    #[test]
    fn a_server_that_is_not_there_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("bound");
        drop(taken);
        let url: MetricsUrl = format!("http://{address}").parse().expect("valid");
        let message = url.requests_by_shard().unwrap_err().to_string();
        assert_eq!(message, format!("connect to {address}"));
    }
}
