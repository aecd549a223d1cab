//! What a sync costs on the disk that the nodes write to, without any cluster.
//!
//! It bounds every write: a command is acknowledged when a majority has synced it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::recorder::latencies;

/// Appends that are synced, one after the other.
const SYNCS: usize = 200;
/// Bytes of each.
const APPEND_BYTES: usize = 4_096;
/// `TMPFS_MAGIC` of linux/magic.h.
const TMPFS: i64 = 0x0102_1994;

/// Appends of 4 KiB, each synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFigures {
    /// Whether it is no disk at all, but memory: its syncs cost nothing and save nothing.
    pub is_memory: bool,
    /// Median of one append with its sync, microseconds.
    pub sync_p50_us: u64,
    /// 99 of 100 are not above it.
    pub sync_p99_us: u64,
}

impl DiskFigures {
    /// Measures it in this directory.
    pub(super) fn measure(directory: &Path) -> io::Result<DiskFigures> {
        let mut file: File = tempfile::tempfile_in(directory)?;
        let is_memory = rustix::fs::fstatfs(&file)?.f_type as i64 == TMPFS;
        let mut took = latencies();
        for _ in 0..SYNCS {
            let begun = Instant::now();
            file.write_all(&[0x55; APPEND_BYTES])?;
            file.sync_data()?;
            took.saturating_record(begun.elapsed().as_micros() as u64);
        }
        Ok(DiskFigures {
            is_memory,
            sync_p50_us: took.value_at_quantile(0.5),
            sync_p99_us: took.value_at_quantile(0.99),
        })
    }
}
