//! Why TLS with a server failed, in sentences for whoever runs the gateway.
//!
//! Each goes on from "cannot reach the server at …:", says what was seen and what helps.
//! What the peer chose is shortened and escaped. No path of this machine is told, for the
//! sentences reach clients.

use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, Error};
use shardgate_proto::http1::HttpDate;

use super::Trusted;

/// The server closed without a byte.
pub(super) const NO_ANSWER: &str = "the server closed the connection instead of answering the \
    TLS handshake; if it does not speak TLS, use http:// in its url";
/// The server closed in the middle.
pub(super) const CUT_SHORT: &str = "the server closed the connection during the TLS handshake";
/// RFC 9112, 9.8: without the alert, what came may have been cut by somebody else.
pub(super) const NO_CLOSE_NOTIFY: &str =
    "the server closed the connection without TLS's close_notify";

/// Names of a certificate that are told.
const NAMES_TOLD_MAX: usize = 8;
/// Bytes of a name that are told.
const NAME_BYTES_TOLD_MAX: usize = 80;
/// Bytes that are told of what is no TLS.
const BYTES_TOLD_MAX: usize = 16;

/// True if TLS may begin with this byte: a handshake's record or an alert's (RFC 8446, 5.1).
pub(super) fn begins_tls(first: u8) -> bool {
    matches!(first, 21 | 22)
}

/// The server began with these bytes.
pub(super) fn no_tls(bytes: &[u8]) -> String {
    let seen = bytes[..bytes.len().min(BYTES_TOLD_MAX)].escape_ascii();
    format!(
        "it does not speak TLS: it answered the handshake with \"{seen}\"; use http:// in its \
         url if that is meant"
    )
}

/// The handshake failed.
pub(super) fn handshake(error: &Error, name: &ServerName<'_>, trusted: Trusted) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is told in the library's words")]
    match error {
        Error::InvalidCertificate(error) => certificate(error, name, trusted),
        Error::AlertReceived(alert) => refused(*alert, name),
        Error::PeerIncompatible(what) => format!(
            "TLS handshake: the server and the gateway have no way of TLS in common ({what:?}); \
             the gateway speaks TLS 1.2 and 1.3"
        ),
        Error::NoCertificatesPresented => {
            "TLS handshake: the server showed no certificate".to_owned()
        }
        other => format!("TLS handshake: the server's answer makes no sense: {other}"),
    }
}

fn certificate(error: &CertificateError, name: &ServerName<'_>, trusted: Trusted) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is told in the library's words")]
    match error {
        CertificateError::UnknownIssuer => unknown_issuer(trusted),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("its certificate expired on {}; the server needs a new one", date(*not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "its certificate is valid only from {} on; is this machine's clock right?",
            date(*not_before)
        ),
        CertificateError::NotValidForNameContext { presented, .. } => format!(
            "its certificate is not for {}, but for {}; write the url with a name of the \
             certificate, or give the server another one",
            name.to_str(),
            names(presented)
        ),
        CertificateError::BadSignature => {
            "its certificate is not signed by the authority that it names: a root of that name is \
             trusted, but has another key; is ca_file that of an earlier authority?"
                .to_owned()
        }
        CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "its certificate is itself an authority's (CA:TRUE), which no server may show; give \
             it one that the authority has signed"
                .to_owned()
        }
        other => format!("its certificate is not accepted: {other}"),
    }
}

fn unknown_issuer(trusted: Trusted) -> String {
    let roots = match (trusted.has_system_roots, trusted.has_ca_file) {
        (true, true) => "neither this machine's roots nor ca_file vouch for it",
        (true, false) => {
            "this machine's roots do not vouch for it; name the PEM file with its authority's \
             root in ca_file"
        }
        (false, true) => "ca_file does not vouch for it, and this machine has no roots",
        (false, false) => {
            "this machine has no root certificates; install them (package ca-certificates), or \
             name a PEM file in ca_file"
        }
    };
    format!("its certificate is of an unknown issuer: {roots}")
}

fn refused(alert: AlertDescription, name: &ServerName<'_>) -> String {
    let alert_name = format!("{alert:?}");
    #[expect(clippy::wildcard_enum_match_arm, reason = "most alerts say all there is to say")]
    let help = match alert {
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity => {
            "; the gateway speaks TLS 1.2 and 1.3 with AES-GCM and ChaCha20 ciphers".to_owned()
        }
        AlertDescription::UnrecognisedName => {
            format!("; it knows no server {}", name.to_str())
        }
        AlertDescription::NoApplicationProtocol => "; the gateway speaks http/1.1".to_owned(),
        AlertDescription::CertificateRequired | AlertDescription::BadCertificate => {
            "; it may want a client's certificate, and the gateway has none".to_owned()
        }
        _ => String::new(),
    };
    format!("the server refused the TLS handshake ({alert_name}){help}")
}

fn date(time: UnixTime) -> String {
    String::from_utf8_lossy(HttpDate::from_unix_s(time.as_secs()).as_bytes()).into_owned()
}

/// What the library writes as `DnsName("example.com")`, for people.
fn names(presented: &[String]) -> String {
    let shown = presented.iter().take(NAMES_TOLD_MAX).map(|name| {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, inner)| inner);
        let inner = inner.strip_suffix(')').unwrap_or(inner).trim_matches('"');
        let shown: String = inner.escape_default().take(NAME_BYTES_TOLD_MAX).collect();
        shown
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    match presented.len() {
        0 => "no name at all".to_owned(),
        1..=NAMES_TOLD_MAX => shown,
        more => format!("{shown} and {} more", more - NAMES_TOLD_MAX),
    }
}
