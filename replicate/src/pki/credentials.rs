//! What a node shows and whom it believes: its certificate and key, and its cluster's authority.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::fault::PkiError;

/// Bytes of a file with certificates or a key, at most.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a node's certificate, its key and its cluster's authority are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFiles {
    /// The authority's certificate. Two of them while one follows the other.
    pub authority: PathBuf,
    /// The node's certificate.
    pub certificate: PathBuf,
    /// The node's key.
    pub key: PathBuf,
}

/// A node's certificate and key, which belong together, and the authorities that it believes.
pub struct Credentials {
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them can't be read, or the key is not the certificate's.
    pub fn load(files: &NodeFiles) -> Result<Credentials, PkiError> {
        let read = |what, path: &Path| {
            read_limited(what, path).map(|bytes| (bytes, path.display().to_string()))
        };
        Credentials::from_pem(
            read("authority's certificate", &files.authority)?,
            read("node's certificate", &files.certificate)?,
            read("node's key", &files.key)?,
        )
    }

    /// Reads PEM texts, each with where it comes from.
    ///
    /// # Errors
    /// One of them is something else, or the key is not the certificate's.
    pub fn from_pem(
        authority: (Vec<u8>, String),
        certificate: (Vec<u8>, String),
        key: (Vec<u8>, String),
    ) -> Result<Credentials, PkiError> {
        let authorities = certificates("authority's certificate", &authority)?;
        let chain = certificates("node's certificate", &certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&key.0).map_err(|error| PkiError::NoPem {
            what: "node's key",
            from: key.1,
            why: error.to_string(),
        })?;
        let pair =
            CertifiedKey::from_der(chain.clone(), key.clone_key(), &ring::default_provider());
        match pair {
            Ok(_) => Ok(Credentials { authorities, chain, key }),
            Err(rustls::Error::InconsistentKeys(_)) => Err(PkiError::KeyMismatch(certificate.1)),
            Err(error) => Err(PkiError::Tls(error.to_string())),
        }
    }
}

/// Without the key.
impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (authorities, chain) = (self.authorities.len(), self.chain.len());
        let mut shown = formatter.debug_struct("Credentials");
        shown.field("authorities", &authorities).field("chain", &chain).finish_non_exhaustive()
    }
}

fn certificates(
    what: &'static str,
    (pem, from): &(Vec<u8>, String),
) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let no_pem = |why: String| PkiError::NoPem { what, from: from.clone(), why };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| no_pem(error.to_string()))?;
    if found.is_empty() { Err(no_pem("no certificate begins".to_owned())) } else { Ok(found) }
}

/// A file's bytes, if they are not too many for what it should be.
pub(super) fn read_limited(what: &'static str, path: &Path) -> Result<Vec<u8>, PkiError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::other("it is too large to be one"));
        }
        Ok(bytes)
    };
    read().map_err(|source| PkiError::Read { what, path: path.to_owned(), source })
}
