//! The secret that signs session ids: read from a file or a variable, never from the configuration's text.
//!
//! Invariant: no `Debug`, `Display` or error of this module shows a byte of it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Session;

/// Shorter secrets can be guessed (RFC 2104, 3: the key should be as long as the hash).
pub const SECRET_BYTES_MIN: usize = 32;

/// A key of at least [`SECRET_BYTES_MIN`] bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// Why there is no secret, though the configuration names one.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be read.
    #[error("read the session secret from file {path}, which session.secret_file names")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The variable is not set, or is no text.
    #[error(
        "read the session secret from variable {name}, which session.secret_env names: it is {state}"
    )]
    Variable {
        /// Which variable.
        name: String,
        /// `not set` or `no valid text`.
        state: &'static str,
    },
    /// The secret could be guessed.
    #[error(
        "the session secret from {origin} has {bytes} bytes, but needs {SECRET_BYTES_MIN} or more; \
         `head -c 32 /dev/urandom | base64` makes one"
    )]
    TooShort {
        /// Which file or variable.
        origin: String,
        /// How long it is.
        bytes: usize,
    },
}

impl Secret {
    /// The key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads what `session` names; `None` if it names nothing.
    pub(super) fn load(session: &Session) -> Result<Option<Secret>, SecretError> {
        let (origin, bytes) = match (&session.secret_file, &session.secret_env) {
            (Some(path), _) => {
                let read = std::fs::read(path);
                let bytes =
                    read.map_err(|source| SecretError::Read { path: path.clone(), source })?;
                (format!("file {}", path.display()), bytes)
            }
            (None, Some(name)) => {
                let value = std::env::var(name).map_err(|error| {
                    let state = match error {
                        std::env::VarError::NotPresent => "not set",
                        std::env::VarError::NotUnicode(_) => "no valid text",
                    };
                    SecretError::Variable { name: name.clone(), state }
                })?;
                (format!("variable {name}"), value.into_bytes())
            }
            (None, None) => return Ok(None),
        };
        // An editor's line end is no part of a secret: two nodes must not differ by it.
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes).to_vec();
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(SecretError::TooShort { origin, bytes: bytes.len() });
        }
        Ok(Some(Secret(bytes)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_file(content: &[u8]) -> Result<Option<Secret>, SecretError> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), content).expect("written");
        let session = Session { secret_file: Some(file.path().to_owned()), ..Session::default() };
        Secret::load(&session)
    }

    #[test]
    fn a_line_end_is_no_part_of_it_and_debug_hides_it() {
        let plain = from_file(&[b'k'; 32]).expect("long enough").expect("given");
        let ended = from_file(format!("{}\r\n", "k".repeat(32)).as_bytes());
        assert_eq!(ended.expect("long enough").expect("given"), plain);
        assert_eq!(format!("{plain:?}"), "Secret(…)");
    }

    #[test]
    fn short_or_missing_secrets_say_where_and_what_to_do() {
        let short = from_file(b"hunter2\n").unwrap_err().to_string();
        assert!(short.contains("7 bytes") && short.contains("/dev/urandom"), "{short}");
        assert!(!short.contains("hunter2"), "{short}");
        let name = "SHARDGATE_TEST_NO_SUCH_VARIABLE".to_owned();
        let session = Session { secret_env: Some(name), ..Session::default() };
        let missing = Secret::load(&session).unwrap_err().to_string();
        assert!(missing.contains("NO_SUCH_VARIABLE") && missing.contains("not set"), "{missing}");
        assert!(Secret::load(&Session::default()).expect("nothing named").is_none());
    }
}
