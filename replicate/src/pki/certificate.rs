//! What a certificate says, for people and for comparing it with what a node says.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

use super::credentials::read_limited;
use super::fault::PkiError;
use super::identity::CertifiedIdentity;

/// A certificate's contents. Nobody has verified them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The cluster: an authority's organization, a node's by its URI.
    pub cluster: Option<String>,
    /// The node that it is for.
    pub identity: Option<CertifiedIdentity>,
    /// True if it may sign others.
    pub is_authority: bool,
    /// Names and addresses that it is for.
    pub names: Vec<String>,
    /// The beginning of its validity, in seconds since 1970.
    pub not_before_s: u64,
    /// The end of its validity.
    pub not_after_s: u64,
    /// Its number.
    pub serial: String,
    /// SHA-256 of the whole certificate, in hexadecimal digits.
    pub fingerprint: String,
}

impl Certificate {
    /// Reads the first certificate of a PEM file.
    ///
    /// # Errors
    /// The file can't be read, or holds none.
    pub fn read(path: &Path) -> Result<Certificate, PkiError> {
        let pem = read_limited("certificate", path)?;
        Certificate::from_pem(&pem, &path.display().to_string())
    }

    /// Reads the first certificate of PEM text. `from` is told in errors.
    ///
    /// # Errors
    /// There is none.
    pub fn from_pem(pem: &[u8], from: &str) -> Result<Certificate, PkiError> {
        let no_pem =
            |why: String| PkiError::NoPem { what: "certificate", from: from.to_owned(), why };
        let der = CertificateDer::from_pem_slice(pem).map_err(|error| no_pem(error.to_string()))?;
        Certificate::from_der(&der).ok_or_else(|| no_pem("it is no X.509 certificate".to_owned()))
    }

    /// Reads a certificate as TLS carries it.
    pub(crate) fn from_der(der: &CertificateDer<'_>) -> Option<Certificate> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let identity = identity(&certificate);
        let cluster = identity
            .as_ref()
            .map(|identity| identity.cluster.clone())
            .or_else(|| organization(certificate.subject()));
        let seconds = |timestamp: i64| u64::try_from(timestamp).unwrap_or(0);
        Some(Certificate {
            subject: visible(&certificate.subject().to_string()),
            issuer: visible(&certificate.issuer().to_string()),
            cluster,
            identity,
            is_authority: certificate.is_ca(),
            names: names(&certificate),
            not_before_s: seconds(certificate.validity().not_before.timestamp()),
            not_after_s: seconds(certificate.validity().not_after.timestamp()),
            serial: certificate.raw_serial_as_string(),
            fingerprint: hexadecimal(ring::digest::digest(&ring::digest::SHA256, der).as_ref()),
        })
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = if self.is_authority { "authority of a cluster" } else { "node" };
        writeln!(formatter, "role         {role}")?;
        if let Some(cluster) = &self.cluster {
            writeln!(formatter, "cluster      {cluster}")?;
        }
        if let Some(identity) = &self.identity {
            writeln!(formatter, "node         {}", identity.name)?;
            let id = identity.node.map_or_else(|| "any".to_owned(), |node| node.to_string());
            writeln!(formatter, "id           {id}")?;
        }
        if !self.names.is_empty() {
            writeln!(formatter, "names        {}", self.names.join(", "))?;
        }
        writeln!(formatter, "valid from   {}", date(self.not_before_s))?;
        writeln!(formatter, "valid until  {}", date(self.not_after_s))?;
        writeln!(formatter, "subject      {}", self.subject)?;
        writeln!(formatter, "signed by    {}", self.issuer)?;
        writeln!(formatter, "serial       {}", self.serial)?;
        writeln!(formatter, "sha256       {}", self.fingerprint)
    }
}

fn identity(certificate: &X509Certificate<'_>) -> Option<CertifiedIdentity> {
    let uri = |name: &GeneralName<'_>| {
        if let GeneralName::URI(uri) = name { CertifiedIdentity::parse(uri) } else { None }
    };
    let mut uris = general_names(certificate).filter_map(uri);
    let identity = uris.next()?;
    // A certificate of two nodes is one of neither.
    uris.next().is_none().then_some(identity)
}

fn general_names<'a>(
    certificate: &'a X509Certificate<'_>,
) -> impl Iterator<Item = &'a GeneralName<'a>> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    extension.into_iter().flat_map(|extension| &extension.value.general_names)
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let shown = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => visible(name),
        GeneralName::IPAddress(bytes) => {
            if let Ok(bytes) = <[u8; 4]>::try_from(*bytes) {
                IpAddr::from(Ipv4Addr::from(bytes)).to_string()
            } else if let Ok(bytes) = <[u8; 16]>::try_from(*bytes) {
                IpAddr::from(Ipv6Addr::from(bytes)).to_string()
            } else {
                format!("an address of {} bytes", bytes.len())
            }
        }
        other @ (GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..)) => visible(&other.to_string()),
    };
    general_names(certificate).map(shown).collect()
}

fn organization(name: &X509Name<'_>) -> Option<String> {
    name.iter_organization().next()?.as_str().ok().map(visible)
}

/// Without what would garble a terminal.
fn visible(text: &str) -> String {
    text.escape_debug().to_string()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A time in seconds since 1970, for people: `2026-11-22 04:30 UTC`.
pub fn date(unix_s: u64) -> String {
    let latest = rcgen::date_time_ymd(9_999, 12, 31);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let latest_s = u64::try_from(latest.unix_timestamp()).unwrap_or(0);
    let time = epoch + std::time::Duration::from_secs(unix_s.min(latest_s));
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", time.hour(), time.minute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_told_to_the_minute() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(1_795_321_859), "2026-11-22 04:30 UTC");
        assert_eq!(date(u64::MAX), "9999-12-31 00:00 UTC");
    }
}
