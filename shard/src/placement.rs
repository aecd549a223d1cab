//! Which cpu each shard runs on.
//!
//! Only the cpus this process may use count (its affinity mask, which respects
//! cpusets and `taskset`), so a container gets as many shards as it has cpus.

use crate::identity::ShardId;

/// How many shards to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardCount {
    /// One per cpu the process may use.
    Auto,
    /// This many.
    Exactly(u16),
}

/// Where the shards run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Every shard and its cpu, in the order of the shards.
    pub shards: Vec<(ShardId, usize)>,
    /// Set if shards share cpus: a sentence to show to the operator.
    pub warning: Option<String>,
}

/// Why the shards could not be placed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlacementError {
    /// The operating system didn't say which cpus the process may use.
    #[error("read this process's cpu affinity: the system gave none; check the cpuset")]
    NoCpus,
    /// No shard was asked for.
    #[error("place 0 shards: at least one is needed; leave the number out for one per cpu")]
    NoShards,
    /// More shards than cpus.
    #[error(
        "place {shards} shards on {cpus} cpus: a shard needs a cpu of its own; \
         ask for at most {cpus} shards, or give the process more cpus"
    )]
    TooManyShards {
        /// Shards asked for.
        shards: u16,
        /// Cpus the process may use.
        cpus: usize,
    },
}

/// Places shards on the cpus this process may use.
pub fn place(count: ShardCount, share_cpus: bool) -> Result<Placement, PlacementError> {
    let cpus: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    place_on(&cpus, count, share_cpus)
}

fn place_on(
    cpus: &[usize],
    count: ShardCount,
    share_cpus: bool,
) -> Result<Placement, PlacementError> {
    if cpus.is_empty() {
        return Err(PlacementError::NoCpus);
    }
    let shards = match count {
        ShardCount::Auto => u16::try_from(cpus.len()).unwrap_or(u16::MAX),
        ShardCount::Exactly(0) => return Err(PlacementError::NoShards),
        ShardCount::Exactly(shards) => shards,
    };
    let crowded = usize::from(shards) > cpus.len();
    if crowded && !share_cpus {
        return Err(PlacementError::TooManyShards { shards, cpus: cpus.len() });
    }
    let warning = crowded.then(|| {
        format!("{shards} shards share {} cpus: they will be slower than fewer shards", cpus.len())
    });
    let shards = (0..shards).map(ShardId).zip(cpus.iter().copied().cycle()).collect();
    Ok(Placement { shards, warning })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_every_cpu_once() {
        let placement = place_on(&[2, 5], ShardCount::Auto, false).unwrap();
        assert_eq!(placement.shards, [(ShardId(0), 2), (ShardId(1), 5)]);
        assert_eq!(placement.warning, None);
    }

    #[test]
    fn too_many_shards_are_refused_unless_they_may_share() {
        let refused = place_on(&[4], ShardCount::Exactly(2), false);
        assert_eq!(refused, Err(PlacementError::TooManyShards { shards: 2, cpus: 1 }));
        let placement = place_on(&[4], ShardCount::Exactly(2), true).unwrap();
        assert_eq!(placement.shards, [(ShardId(0), 4), (ShardId(1), 4)]);
        assert!(placement.warning.is_some());
    }

    #[test]
    fn no_cpus_and_no_shards_are_errors() {
        assert_eq!(place_on(&[], ShardCount::Auto, true), Err(PlacementError::NoCpus));
        let none = place_on(&[0], ShardCount::Exactly(0), true);
        assert_eq!(none, Err(PlacementError::NoShards));
    }

    #[test]
    fn this_machine_has_a_cpu() {
        assert!(!place(ShardCount::Auto, false).unwrap().shards.is_empty());
    }
}
