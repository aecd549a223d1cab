//! On which cpus the workers run.
//!
//! The runtime pins each shard to a cpu of its process's affinity mask; so the mask is
//! narrowed while the workers start, and given back to the main thread afterwards.

use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Why the workers can't run where they should.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// The mask can't be read or set.
    #[error("{0} the cpu affinity of this process")]
    Affinity(&'static str, #[source] Errno),
    /// A cpu this process may not use.
    #[error("--cpus names cpu {wanted}, and this process may use {allowed}")]
    NotAllowed {
        /// As it was given.
        wanted: usize,
        /// Those it could have been.
        allowed: String,
    },
}

/// A narrowed mask.
pub(crate) struct Pinned {
    before: CpuSet,
}

/// Narrows this thread's mask to `cpus`, or to the last ones there are, for `workers`
/// workers: the first ones are where a server on this machine is likely to be.
pub(crate) fn pin(cpus: &[usize], workers: usize) -> Result<Pinned, CpuError> {
    let before = sched_getaffinity(None).map_err(|errno| CpuError::Affinity("read", errno))?;
    let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| before.is_set(*cpu)).collect();
    if let Some(&wanted) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        return Err(CpuError::NotAllowed { wanted, allowed: listed(&allowed) });
    }
    let last = &allowed[allowed.len().saturating_sub(workers.max(1))..];
    let chosen = if cpus.is_empty() { last } else { cpus };
    let mut narrowed = CpuSet::new();
    chosen.iter().for_each(|cpu| narrowed.set(*cpu));
    sched_setaffinity(None, &narrowed).map_err(|errno| CpuError::Affinity("set", errno))?;
    Ok(Pinned { before })
}

impl Pinned {
    /// Gives the main thread its mask back.
    pub(crate) fn release(self) {
        // It was allowed a moment ago; if it no longer is, the main thread stays where it is.
        let _ = sched_setaffinity(None, &self.before);
    }
}

fn listed(cpus: &[usize]) -> String {
    cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_cpu_is_refused_and_the_mask_comes_back() {
        let before = sched_getaffinity(None).unwrap();
        let error = pin(&[CpuSet::MAX_CPU - 1], 1).err().unwrap().to_string();
        assert!(error.contains("--cpus names cpu"), "{error}");
        let pinned = pin(&[], 1).unwrap();
        assert_eq!(sched_getaffinity(None).unwrap().count(), 1);
        pinned.release();
        assert_eq!(sched_getaffinity(None).unwrap().count(), before.count());
    }
}
