//! The file of approved definitions.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use shardgate_proto::catalog::{BadPins, Pins};

const HEADING: &str = "\
# Approved definitions of tools: hash, upstream, tool. The gateway adds what it sees first;\n\
# `shardgate catalog approve` takes a changed one.\n";

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum PinsFileError {
    /// It can't be read.
    #[error("read the approved definitions of tools from {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{path} is no file of approved definitions; catalog.pins_file names it")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where.
        #[source]
        source: BadPins,
    },
    /// It can't be written.
    #[error(
        "write the approved definitions of tools to {path}; catalog.pins_file may name another \
         place, where the gateway may write"
    )]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

pub(super) fn read(path: &Path) -> Result<Pins, PinsFileError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Pins::new()),
        Err(source) => return Err(PinsFileError::Read { path: path.to_owned(), source }),
    };
    Pins::parse(&text).map_err(|source| PinsFileError::Parse { path: path.to_owned(), source })
}

/// Replaces the file whole.
pub(super) fn write(path: &Path, pins: &Pins) -> Result<(), PinsFileError> {
    replace(path, &format!("{HEADING}{}", pins.write()))
        .map_err(|source| PinsFileError::Write { path: path.to_owned(), source })
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let mut file = File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    // On the disk before it gets its name, and its name on the disk before it counts.
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}
