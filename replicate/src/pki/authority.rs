//! A cluster's authority: its key signs the certificates of the cluster's nodes.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use shardgate_replicate_proto::identity::NodeId;

use super::certificate::Certificate;
use super::credentials::{Credentials, NodeFiles, read_limited};
use super::fault::PkiError;
use super::identity::{CertifiedIdentity, check_name, cluster_dns_name};

/// Days for which an authority is good, unless somebody says otherwise.
pub const AUTHORITY_DAYS: u64 = 3_650;
/// Days for which a node's certificate is good, unless somebody says otherwise.
pub const NODE_DAYS: u64 = 365;
/// Days for which anything may be certified.
pub const VALIDITY_DAYS_MAX: u64 = 36_500;

/// Certificates are valid from so long ago on: clocks differ.
const BACKDATED: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const AUTHORITY_FILE: &str = "ca.pem";
const AUTHORITY_KEY_FILE: &str = "ca-key.pem";
/// What everybody may read.
const OPEN_MODE: u32 = 0o644;
/// What only its owner may read.
const SECRET_MODE: u32 = 0o600;

/// A cluster's authority, with its key.
pub struct Authority {
    cluster: String,
    certificate_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// When a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From when on.
    pub from: SystemTime,
    /// Until when.
    pub until: SystemTime,
}

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRequest {
    /// The node's name.
    pub name: String,
    /// Its number, if the certificate shall be for that number only.
    pub node: Option<NodeId>,
    /// Its IP addresses and host names, for tools that look at them; nodes do not.
    pub addresses: Vec<String>,
    /// When it is good.
    pub validity: Validity,
}

/// A node's new certificate and key.
pub struct Issued {
    name: String,
    authority_pem: String,
    certificate_pem: String,
    key_pem: String,
}

impl Validity {
    /// From now on, for so many days.
    pub fn days(days: u64) -> Validity {
        let now = SystemTime::now();
        let days = u32::try_from(days.min(VALIDITY_DAYS_MAX)).unwrap_or(u32::MAX);
        Validity { from: now - BACKDATED, until: now + DAY * days }
    }

    fn apply(self, params: &mut CertificateParams) -> Result<(), PkiError> {
        let since_epoch = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (from, until) = (since_epoch(self.from), since_epoch(self.until));
        if from >= until || until - from > (DAY * 2) * 36_500 {
            return Err(PkiError::Validity { from_s: from.as_secs(), to_s: until.as_secs() });
        }
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        // RFC 5280, 4.1.2.5: times are whole seconds.
        params.not_before = epoch + Duration::from_secs(from.as_secs());
        params.not_after = epoch + Duration::from_secs(until.as_secs());
        Ok(())
    }
}

impl Authority {
    /// Makes an authority in memory.
    ///
    /// # Errors
    /// The name can't be certified.
    pub fn create(cluster: &str, validity: Validity) -> Result<Authority, PkiError> {
        check_name(cluster)?;
        let key = KeyPair::generate().map_err(make)?;
        let key_pem = key.serialize_pem();
        let mut params = CertificateParams::default();
        validity.apply(&mut params)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, cluster);
        let name = format!("authority of the Shardgate cluster {cluster}");
        params.distinguished_name.push(DnType::CommonName, name);
        // It signs nodes, and no further authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key).map_err(make)?.pem();
        let issuer = Issuer::new(params, key);
        Ok(Authority { cluster: cluster.to_owned(), certificate_pem, key_pem, issuer })
    }

    /// Makes an authority in a directory: `ca.pem`, which every node needs, and `ca-key.pem`,
    /// which none needs.
    ///
    /// # Errors
    /// There is one already, or the files can't be written.
    pub fn init(
        directory: &Path,
        cluster: &str,
        validity: Validity,
    ) -> Result<Authority, PkiError> {
        let authority = Authority::create(cluster, validity)?;
        let (certificate, key) = Authority::files(directory);
        fs::create_dir_all(directory)
            .map_err(|source| PkiError::Write { path: directory.to_owned(), source })?;
        // Neither is written if one is there.
        refuse_existing(&[&certificate, &key])?;
        write_new(&key, &authority.key_pem, SECRET_MODE)?;
        write_new(&certificate, &authority.certificate_pem, OPEN_MODE)?;
        Ok(authority)
    }

    /// Reads the authority of a directory.
    ///
    /// # Errors
    /// The files can't be read, or hold no authority.
    pub fn load(directory: &Path) -> Result<Authority, PkiError> {
        let (certificate_path, key_path) = Authority::files(directory);
        let certificate_from = certificate_path.display().to_string();
        let certificate_pem = read_limited("authority's certificate", &certificate_path)?;
        let key_pem = read_limited("authority's key", &key_path)?;
        let described = Certificate::from_pem(&certificate_pem, &certificate_from)?;
        if !described.is_authority {
            return Err(PkiError::NoAuthority(certificate_from));
        }
        let cluster =
            described.cluster.ok_or_else(|| PkiError::NoCluster(certificate_from.clone()))?;
        check_name(&cluster)?;
        let key_from = key_path.display().to_string();
        // Whether key and certificate belong together is asked as for a node.
        Credentials::from_pem(
            (certificate_pem.clone(), certificate_from.clone()),
            (certificate_pem.clone(), certificate_from.clone()),
            (key_pem.clone(), key_from.clone()),
        )?;
        let no_key = |why: String| PkiError::NoPem { what: "authority's key", from: key_from, why };
        let key_pem = String::from_utf8(key_pem).map_err(|error| error.to_string());
        let key_pem = key_pem.map_err(no_key.clone())?;
        let key = KeyPair::from_pem(&key_pem).map_err(|error| no_key(error.to_string()))?;
        let der = CertificateDer::from_pem_slice(&certificate_pem)
            .map_err(|error| PkiError::Make(error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(make)?;
        let certificate_pem = String::from_utf8_lossy(&certificate_pem).into_owned();
        Ok(Authority { cluster, certificate_pem, key_pem, issuer })
    }

    /// Where an authority of this directory has its certificate and its key.
    pub fn files(directory: &Path) -> (PathBuf, PathBuf) {
        (directory.join(AUTHORITY_FILE), directory.join(AUTHORITY_KEY_FILE))
    }

    /// The cluster whose nodes it certifies.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Its certificate, as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Makes a key for a node, and a certificate that says whose it is.
    ///
    /// # Errors
    /// The name or an address can't be certified.
    pub fn issue(&self, request: &NodeRequest) -> Result<Issued, PkiError> {
        check_name(&request.name)?;
        let key = KeyPair::generate().map_err(make)?;
        let mut params = CertificateParams::default();
        request.validity.apply(&mut params)?;
        params.subject_alt_names = self.subject_names(request)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, self.cluster.as_str());
        params.distinguished_name.push(DnType::CommonName, request.name.as_str());
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A node calls and is called with the same certificate.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(make)?;
        Ok(Issued {
            name: request.name.clone(),
            authority_pem: self.certificate_pem.clone(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    fn subject_names(&self, request: &NodeRequest) -> Result<Vec<SanType>, PkiError> {
        let identity = CertifiedIdentity {
            cluster: self.cluster.clone(),
            name: request.name.clone(),
            node: request.node,
        };
        let dns = |name: String| {
            name.clone().try_into().map(SanType::DnsName).map_err(|_| PkiError::Address(name))
        };
        let uri = identity.to_string().try_into().map(SanType::URI).map_err(make)?;
        let mut names =
            vec![uri, dns(cluster_dns_name(&self.cluster))?, dns(request.name.clone())?];
        for address in &request.addresses {
            let name = match address.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if is_host_name(address) => dns(address.clone())?,
                Err(_) => return Err(PkiError::Address(address.clone())),
            };
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }
}

impl Issued {
    /// Writes `<name>.pem` and `<name>-key.pem` into a directory.
    ///
    /// # Errors
    /// One of them is there already, or can't be written.
    pub fn write(&self, directory: &Path) -> Result<NodeFiles, PkiError> {
        let files = NodeFiles {
            authority: Authority::files(directory).0,
            certificate: directory.join(format!("{}.pem", self.name)),
            key: directory.join(format!("{}-key.pem", self.name)),
        };
        refuse_existing(&[&files.certificate, &files.key])?;
        write_new(&files.key, &self.key_pem, SECRET_MODE)?;
        write_new(&files.certificate, &self.certificate_pem, OPEN_MODE)?;
        Ok(files)
    }

    /// What the node needs, without files.
    ///
    /// # Errors
    /// None that is known: it was made by this very code.
    pub fn credentials(&self) -> Result<Credentials, PkiError> {
        let text = |pem: &str, from: &str| (pem.as_bytes().to_vec(), format!("{from} in memory"));
        Credentials::from_pem(
            text(&self.authority_pem, "the authority"),
            text(&self.certificate_pem, "the certificate"),
            text(&self.key_pem, "the key"),
        )
    }

    /// The certificate, as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }
}

/// Without keys.
impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Authority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// Without the key.
impl fmt::Debug for Issued {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Issued").field("name", &self.name).finish_non_exhaustive()
    }
}

fn make(error: rcgen::Error) -> PkiError {
    PkiError::Make(error.to_string())
}

fn is_host_name(text: &str) -> bool {
    rustls::pki_types::DnsName::try_from(text).is_ok()
}

fn refuse_existing(paths: &[&Path]) -> Result<(), PkiError> {
    match paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => Err(PkiError::Exists((*path).to_owned())),
        None => Ok(()),
    }
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let write = || -> io::Result<()> {
        // Never over a file that somebody else made meanwhile.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| {
        let path = path.to_owned();
        let exists = source.kind() == io::ErrorKind::AlreadyExists;
        if exists { PkiError::Exists(path) } else { PkiError::Write { path, source } }
    })
}
