//! What this machine allows, found out before the first shard starts.
//!
//! Every limit that stands in the way is an error that names the setting and the way
//! out; what was found is kept for the operator to see at start.

use std::fmt;
use std::fs;

use rustix::process::{Resource, getrlimit};

use crate::ring_probe;

/// Locked memory glommio asks for per executor.
pub(crate) const LOCKED_BYTES_MIN: u64 = 512 * 1_024;
/// Ordinary descriptors a shard needs besides its listeners: rings, eventfds, epoll.
pub(crate) const DESCRIPTORS_PER_SHARD_MIN: u64 = 32;

/// The limits found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLimits {
    /// The kernel's release, such as `6.18.2`.
    pub kernel: String,
    /// RLIMIT_NOFILE: ordinary descriptors, and slots in each ring's table.
    pub open_files: u64,
    /// RLIMIT_MEMLOCK in bytes; `u64::MAX` is unlimited.
    pub locked_bytes: u64,
    /// The sysctl kernel.io_uring_disabled, where the kernel has it.
    pub io_uring_disabled: Option<u32>,
    /// The sysctl net.core.somaxconn: what every listen queue is clamped to.
    pub listen_queue_max: u32,
}

/// A limit that stands in the way.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// io_uring is switched off by a sysctl.
    #[error(
        "io_uring is disabled by kernel.io_uring_disabled={value}; set it to 0 with \
         `sysctl -w kernel.io_uring_disabled=0`, or, if it is 1, add this user to the group \
         in kernel.io_uring_group"
    )]
    Disabled {
        /// The setting's value.
        value: u32,
    },
    /// Too little memory may be locked.
    #[error(
        "RLIMIT_MEMLOCK is {found} bytes, and each shard locks {LOCKED_BYTES_MIN}; raise it with \
         `ulimit -l`, LimitMEMLOCK= in the systemd unit, or `--ulimit memlock=` of the container"
    )]
    LockedMemory {
        /// The limit found.
        found: u64,
    },
    /// Too few descriptors.
    #[error(
        "RLIMIT_NOFILE is {found}, and {shards} shards need {needed}; raise it with `ulimit -n`, \
         LimitNOFILE= in the systemd unit, or `--ulimit nofile=` of the container"
    )]
    OpenFiles {
        /// The limit found.
        found: u64,
        /// How many shards are to run.
        shards: usize,
        /// How many descriptors they need.
        needed: u64,
    },
    /// The kernel can't do something a data ring needs.
    #[error(transparent)]
    Missing(#[from] ring_probe::MissingCapability),
}

impl HostLimits {
    /// Reads the limits. What can't be read is taken as the kernel's default.
    pub fn read() -> HostLimits {
        let limit = |resource| getrlimit(resource).current.unwrap_or(u64::MAX);
        HostLimits {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            open_files: limit(Resource::Nofile),
            locked_bytes: limit(Resource::Memlock),
            io_uring_disabled: read_number("/proc/sys/kernel/io_uring_disabled"),
            listen_queue_max: read_number("/proc/sys/net/core/somaxconn").unwrap_or(4_096),
        }
    }

    /// Checks that `shards` shards can run here, also by trying the newest of the ring
    /// operations they use.
    pub fn check(&self, shards: usize) -> Result<(), HostError> {
        self.check_numbers(shards)?;
        ring_probe::probe().map_err(|missing| match self.io_uring_disabled {
            Some(value) if value > 0 => HostError::Disabled { value },
            _ => HostError::Missing(missing),
        })
    }

    fn check_numbers(&self, shards: usize) -> Result<(), HostError> {
        // With 1, members of a group and the privileged may still use it: the probe tells.
        if let Some(value @ 2..) = self.io_uring_disabled {
            return Err(HostError::Disabled { value });
        }
        if self.locked_bytes < LOCKED_BYTES_MIN {
            return Err(HostError::LockedMemory { found: self.locked_bytes });
        }
        let needed = DESCRIPTORS_PER_SHARD_MIN * shards as u64;
        if self.open_files < needed {
            return Err(HostError::OpenFiles { found: self.open_files, shards, needed });
        }
        Ok(())
    }
}

/// One line for the operator.
impl fmt::Display for HostLimits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostLimits { kernel, open_files, locked_bytes, io_uring_disabled, listen_queue_max } =
            self;
        write!(formatter, "kernel {kernel}, RLIMIT_NOFILE {open_files}, RLIMIT_MEMLOCK ")?;
        match *locked_bytes {
            u64::MAX => write!(formatter, "unlimited")?,
            bytes => write!(formatter, "{} KiB", bytes / 1_024)?,
        }
        if let Some(value) = io_uring_disabled {
            write!(formatter, ", kernel.io_uring_disabled {value}")?;
        }
        write!(formatter, ", net.core.somaxconn {listen_queue_max}")
    }
}

fn read_number(path: &str) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generous() -> HostLimits {
        HostLimits {
            kernel: "6.18.0".to_owned(),
            open_files: 20_000,
            locked_bytes: u64::MAX,
            io_uring_disabled: Some(0),
            listen_queue_max: 4_096,
        }
    }

    #[test]
    fn each_limit_is_named_with_its_way_out() {
        let disabled = HostLimits { io_uring_disabled: Some(2), ..generous() };
        let message = disabled.check_numbers(1).unwrap_err().to_string();
        assert!(message.contains("sysctl -w kernel.io_uring_disabled=0"), "{message}");
        let locked = HostLimits { locked_bytes: 64 * 1_024, ..generous() };
        let message = locked.check_numbers(1).unwrap_err().to_string();
        assert!(message.contains("LimitMEMLOCK"), "{message}");
        let files = HostLimits { open_files: 40, ..generous() };
        let message = files.check_numbers(2).unwrap_err().to_string();
        assert!(message.contains("LimitNOFILE"), "{message}");
        assert!(generous().check_numbers(64).is_ok());
    }

    #[test]
    fn this_machine_can_run_shards() {
        let limits = HostLimits::read();
        limits.check(2).unwrap();
        assert!(limits.to_string().contains("RLIMIT_NOFILE"));
    }
}
