//! Values of upstreams that do not stand in the configuration: from variables and files.
//!
//! They are read at start and at each reload. `shardgate check` only notes what is missing,
//! for who checks a file seldom has the environment of the service.
//!
//! Invariant: no error shows a value.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::header;
use super::upstream_table::check_variable;
use super::{
    Config, HiddenText, HttpUpstream, UpstreamConfig, UpstreamKind, UpstreamName, ValueSource,
};

/// A file with more bytes than this holds no header value.
pub const VALUE_FILE_BYTES_MAX: u64 = 16 * 1024;

/// A `ca_file` with more bytes than this is refused: all public authorities take a fifth of it.
pub const CA_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why a value is not to be had. The key is that of the file, such as `headers_from_env.Authorization`.
#[derive(Debug, thiserror::Error)]
#[error("upstream {upstream}: {key}: {reason}")]
pub struct SourceError {
    /// Whose.
    pub upstream: UpstreamName,
    /// Which key names the source.
    pub key: String,
    /// What is wrong with it.
    pub reason: SourceFault,
}

/// What is wrong with the source of a value.
#[derive(Debug)]
pub enum SourceFault {
    /// The variable is not set.
    NotSet(String),
    /// The variable is no valid text.
    NoText(String),
    /// The file can't be read.
    Unreadable(io::Error),
    /// The file is too large.
    TooLarge,
    /// The value can't be used: a sentence that does not repeat it.
    Unusable(String),
}

impl fmt::Display for SourceFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceFault::NotSet(name) => write!(formatter, "variable {name} is not set"),
            SourceFault::NoText(name) => write!(formatter, "variable {name} is no valid text"),
            SourceFault::Unreadable(error) => write!(formatter, "the file can't be read: {error}"),
            SourceFault::TooLarge => {
                write!(formatter, "the file has more than {VALUE_FILE_BYTES_MAX} bytes")
            }
            SourceFault::Unusable(sentence) => formatter.write_str(sentence),
        }
    }
}

impl UpstreamConfig {
    /// Names and values of the headers for an HTTP upstream, or of the variables for a child.
    ///
    /// # Errors
    /// A variable is not set, a file can't be read, or a value can't be used for its purpose.
    pub fn read_values(&self) -> Result<Vec<(String, HiddenText)>, SourceError> {
        match &self.kind {
            UpstreamKind::Http(http) => http
                .headers
                .iter()
                .map(|header| {
                    self.read("headers", &header.name, &header.value, header::check_value)
                })
                .collect(),
            UpstreamKind::Stdio(stdio) => stdio
                .env
                .iter()
                .map(|(name, value)| self.read("env", name, value, check_variable))
                .collect(),
        }
    }

    /// The roots that its `ca_file` holds; none if it has no such file.
    ///
    /// # Errors
    /// The file can't be read, is no PEM file, or holds no certificate that can be a root.
    pub fn read_ca_file(&self) -> Result<Vec<CertificateDer<'static>>, SourceError> {
        let UpstreamKind::Http(HttpUpstream { ca_file: Some(path), .. }) = &self.kind else {
            return Ok(Vec::new());
        };
        roots_from_file(path).map_err(|sentence| SourceError {
            upstream: self.name.clone(),
            key: "ca_file".to_owned(),
            reason: SourceFault::Unusable(format!("{}: {sentence}", path.display())),
        })
    }

    fn read(
        &self,
        keys: &str,
        name: &str,
        source: &ValueSource,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Result<(String, HiddenText), SourceError> {
        let (suffix, value) = match source {
            ValueSource::Plain(text) => ("", Ok(text.clone())),
            ValueSource::Variable(variable) if keys == "env" => ("_from", from_variable(variable)),
            ValueSource::Variable(variable) => ("_from_env", from_variable(variable)),
            ValueSource::File(path) => ("_from_file", from_file(path)),
        };
        let checked = value.and_then(|value| match check(value.reveal()) {
            Ok(()) => Ok((name.to_owned(), value)),
            Err(sentence) => Err(SourceFault::Unusable(sentence)),
        });
        checked.map_err(|reason| SourceError {
            upstream: self.name.clone(),
            key: format!("{keys}{suffix}.{name}"),
            reason,
        })
    }
}

impl Config {
    /// The values that enabled upstreams need and that are not to be had, one per upstream.
    pub fn missing_values(&self) -> Vec<SourceError> {
        let enabled = self.upstream.iter().filter(|upstream| upstream.enabled);
        enabled
            .filter_map(|upstream| {
                upstream.read_values().err().or_else(|| upstream.read_ca_file().err())
            })
            .collect()
    }
}

fn from_variable(name: &str) -> Result<HiddenText, SourceFault> {
    std::env::var(name).map(HiddenText::new).map_err(|error| match error {
        std::env::VarError::NotPresent => SourceFault::NotSet(name.to_owned()),
        std::env::VarError::NotUnicode(_) => SourceFault::NoText(name.to_owned()),
    })
}

fn from_file(path: &Path) -> Result<HiddenText, SourceFault> {
    let mut text = String::new();
    // Bounded while reading: the size of a pipe or device is not known before.
    File::open(path)
        .and_then(|file| file.take(VALUE_FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(SourceFault::Unreadable)?;
    if text.len() as u64 > VALUE_FILE_BYTES_MAX {
        return Err(SourceFault::TooLarge);
    }
    // An editor's line end is no part of the value.
    let value = text.strip_suffix('\n').unwrap_or(&text);
    Ok(HiddenText::new(value.strip_suffix('\r').unwrap_or(value)))
}

/// The certificates of a PEM file; what else is in it is passed over. Errors are sentences.
fn roots_from_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CA_FILE_BYTES_MAX + 1).read_to_end(&mut pem))
        .map_err(|error| format!("the file can't be read: {error}"))?;
    if pem.len() as u64 > CA_FILE_BYTES_MAX {
        return Err(format!("the file has more than {CA_FILE_BYTES_MAX} bytes"));
    }
    let mut roots = Vec::new();
    for (index, certificate) in CertificateDer::pem_slice_iter(&pem).enumerate() {
        let number = index + 1;
        let certificate =
            certificate.map_err(|error| format!("certificate {number} is no PEM: {error}"))?;
        RootCertStore::empty()
            .add(certificate.clone())
            .map_err(|error| format!("certificate {number} can't be a root: {error}"))?;
        roots.push(certificate);
    }
    if roots.is_empty() {
        return Err("no certificate is in it; it must have a section that begins with \
                    -----BEGIN CERTIFICATE-----"
            .to_owned());
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn upstream(lines: &str) -> UpstreamConfig {
        let text = format!("[[upstream]]\nname = \"a\"\n{lines}\n");
        let mut config = Config::parse("gw.toml", &text, &Overrides::default())
            .unwrap_or_else(|error| panic!("{error}"));
        config.upstream.remove(0)
    }

    fn with_file(content: &[u8]) -> Result<Vec<(String, HiddenText)>, SourceError> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), content).expect("written");
        let path = file.path().display();
        upstream(&format!("url = \"http://h/\"\nheaders_from_file = {{ X-Key = \"{path}\" }}"))
            .read_values()
    }

    #[test]
    fn values_come_from_where_they_are() {
        let values = with_file(b"s3cret\r\n").expect("a sound file");
        assert_eq!(values, [("X-Key".to_owned(), HiddenText::new("s3cret"))]);
        // PATH is set wherever tests run.
        let child = upstream("command = [\"x\"]\nenv = { A = \"b\" }\nenv_from = { P = \"PATH\" }");
        let values = child.read_values().expect("both are there");
        assert_eq!(values[0], ("A".to_owned(), HiddenText::new("b")));
        assert_eq!(values[1].1.reveal(), std::env::var("PATH").expect("set"));
    }

    #[test]
    fn what_is_missing_is_named_and_no_value_shown() {
        let name = "SHARDGATE_TEST_NO_SUCH_VARIABLE";
        for (lines, expected) in [
            (
                format!("url = \"http://h/\"\nheaders_from_env = {{ X = \"{name}\" }}"),
                format!("upstream a: headers_from_env.X: variable {name} is not set"),
            ),
            (
                format!("command = [\"x\"]\nenv_from = {{ X = \"{name}\" }}"),
                format!("upstream a: env_from.X: variable {name} is not set"),
            ),
            (
                "url = \"http://h/\"\nheaders_from_file = { X = \"no/such\" }".to_owned(),
                "upstream a: headers_from_file.X: the file can't be read".to_owned(),
            ),
        ] {
            let error = upstream(&lines).read_values().expect_err(&lines).to_string();
            assert!(error.contains(&expected), "{error}");
        }
        let error = with_file(b"s3cret\nX-Other: 1").expect_err("two lines").to_string();
        assert!(error.contains("line end") && !error.contains("s3cret"), "{error}");
        let large = vec![b'x'; VALUE_FILE_BYTES_MAX as usize + 1];
        assert!(matches!(with_file(&large).expect_err("too large").reason, SourceFault::TooLarge));
    }

    #[test]
    fn a_ca_file_must_hold_roots() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        let root = params.self_signed(&key).expect("a root").pem();
        let good = format!("# ours\n{root}\n{root}");
        for (content, outcome) in [
            (good.as_str(), Ok(2)),
            ("", Err("no certificate is in it")),
            (root.split_at(300).0, Err("certificate 1 is no PEM")),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                Err("can't be a root"),
            ),
        ] {
            let file = tempfile::NamedTempFile::new().expect("a temporary file");
            std::fs::write(file.path(), content).expect("written");
            let path = file.path().display().to_string();
            let upstream = upstream(&format!("url = \"https://h/\"\nca_file = \"{path}\""));
            match (upstream.read_ca_file(), outcome) {
                (Ok(roots), Ok(count)) => assert_eq!(roots.len(), count),
                (Err(error), Err(part)) => {
                    let text = error.to_string();
                    assert!(text.contains(part) && text.contains(&path), "{text}");
                }
                (found, _) => panic!("{content:?}: {found:?}"),
            }
        }
    }
}
