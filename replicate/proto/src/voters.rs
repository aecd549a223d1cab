//! Whether a set of voters of the control log can lose a part and go on, and never go on in two halves.
//!
//! Raft itself never decides twice: what a bad set of voters costs is the cluster's
//! standstill when a region or zone is lost, which is noticed too late. So the set is
//! judged before it is put in force. Everything here is a pure function of the set.

use std::collections::BTreeMap;

use crate::identity::NodeId;

/// A voter, as far as it matters here. A witness is a voter that holds no sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    /// The node.
    pub id: NodeId,
    /// Its region.
    pub region: Box<str>,
    /// Its zone within the region.
    pub zone: Box<str>,
}

/// What is wrong, or not good, about a set of voters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Concern {
    /// See the text.
    #[error("there are no voters: name at least one node, and three to survive the loss of one")]
    NoVoters,
    /// See the text.
    #[error("node {id} is named twice among the voters: name it once")]
    NamedTwice {
        /// The node.
        id: NodeId,
    },
    /// See the text.
    #[error(
        "the voters are in two regions alone, {one:?} and {other:?}: when the link between them \
         fails, at least one of them stands still, and the loss of {larger:?} stops both; put \
         one more voter (a witness is enough) into a third region"
    )]
    TwoRegions {
        /// The first by name.
        one: Box<str>,
        /// The second by name.
        other: Box<str>,
        /// The one that holds a majority, or half.
        larger: Box<str>,
    },
    /// See the text.
    #[error(
        "{count} voters survive the loss of {survives}, as {fewer} would: make it {fewer} with a \
         learner, or {more}"
    )]
    Even {
        /// How many there are.
        count: usize,
        /// How many may be lost.
        survives: usize,
        /// One less.
        fewer: usize,
        /// One more.
        more: usize,
    },
    /// See the text.
    #[error(
        "{held} of {count} voters are in region {region:?}: its loss stops the cluster; no region \
         should hold a majority when there are three or more"
    )]
    RegionHoldsMajority {
        /// The region.
        region: Box<str>,
        /// Voters in it.
        held: usize,
        /// All voters.
        count: usize,
    },
    /// See the text.
    #[error(
        "{held} of {count} voters are in zone {zone:?} of region {region:?}: its loss stops the \
         cluster; spread them over three zones"
    )]
    ZoneHoldsMajority {
        /// The zone's region.
        region: Box<str>,
        /// The zone.
        zone: Box<str>,
        /// Voters in it.
        held: usize,
        /// All voters.
        count: usize,
    },
}

impl Concern {
    /// Whether the set must not be put in force; otherwise the concern is advice.
    pub fn forbids(&self) -> bool {
        match self {
            Concern::NoVoters | Concern::NamedTwice { .. } | Concern::TwoRegions { .. } => true,
            Concern::Even { .. }
            | Concern::RegionHoldsMajority { .. }
            | Concern::ZoneHoldsMajority { .. } => false,
        }
    }
}

/// All concerns about a set of voters, those that forbid it first.
pub fn judge(voters: &[Voter]) -> Vec<Concern> {
    let count = voters.len();
    if count == 0 {
        return vec![Concern::NoVoters];
    }
    let mut ids = BTreeMap::new();
    let mut regions: BTreeMap<&str, usize> = BTreeMap::new();
    let mut zones: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for voter in voters {
        *ids.entry(voter.id).or_insert(0_usize) += 1;
        *regions.entry(&*voter.region).or_default() += 1;
        *zones.entry((&*voter.region, &*voter.zone)).or_default() += 1;
    }
    let twice = ids.into_iter().filter(|(_, times)| *times > 1);
    let mut concerns: Vec<_> = twice.map(|(id, _)| Concern::NamedTwice { id }).collect();
    concerns.extend(two_regions(&regions));
    if count.is_multiple_of(2) {
        let (fewer, more) = (count - 1, count + 1);
        concerns.push(Concern::Even { count, survives: (count - 1) / 2, fewer, more });
    }
    concerns.extend(majorities(count, &regions, &zones));
    concerns
}

fn two_regions(regions: &BTreeMap<&str, usize>) -> Option<Concern> {
    let named: Vec<_> = regions.iter().collect();
    let [(one, in_one), (other, in_other)] = named.as_slice() else { return None };
    let larger = if in_one >= in_other { one } else { other };
    Some(Concern::TwoRegions {
        one: (**one).into(),
        other: (**other).into(),
        larger: (**larger).into(),
    })
}

/// A majority in one place matters only where there are other places to spread over.
fn majorities(
    count: usize,
    regions: &BTreeMap<&str, usize>,
    zones: &BTreeMap<(&str, &str), usize>,
) -> Vec<Concern> {
    let majority = count / 2 + 1;
    if regions.len() > 2 {
        let held = regions.iter().find(|(_, held)| **held >= majority);
        return held
            .map(|(region, held)| {
                let region = (*region).into();
                Concern::RegionHoldsMajority { region, held: *held, count }
            })
            .into_iter()
            .collect();
    }
    let held = zones.iter().find(|(_, held)| **held >= majority && zones.len() > 1);
    held.map(|((region, zone), held)| Concern::ZoneHoldsMajority {
        region: (*region).into(),
        zone: (*zone).into(),
        held: *held,
        count,
    })
    .into_iter()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters(places: &[(&str, &str)]) -> Vec<Voter> {
        let ids = 1..;
        let place = |((region, zone), id): (&(&str, &str), u16)| Voter {
            id: NodeId(id),
            region: (*region).into(),
            zone: (*zone).into(),
        };
        places.iter().zip(ids).map(place).collect()
    }

    #[test]
    fn three_zones_of_one_region_and_three_regions_are_good() {
        for places in [
            vec![("eu", "a")],
            vec![("eu", "a"), ("eu", "b"), ("eu", "c")],
            // One zone is all that there is: nothing to spread over.
            vec![("eu", "a"), ("eu", "a"), ("eu", "a")],
            vec![("eu", "a"), ("us", "a"), ("asia", "a")],
            vec![("eu", "a"), ("eu", "b"), ("us", "a"), ("us", "b"), ("asia", "a")],
        ] {
            assert_eq!(judge(&voters(&places)), [], "{places:?}");
        }
    }

    #[test]
    fn two_regions_without_a_witness_are_forbidden() {
        let concerns = judge(&voters(&[("eu", "a"), ("eu", "b"), ("us", "a")]));
        let [concern] = concerns.as_slice() else { panic!("{concerns:?}") };
        assert!(concern.forbids());
        let text = concern.to_string();
        assert!(text.contains("the loss of \"eu\" stops both") && text.contains("witness"));
        let halves = judge(&voters(&[("eu", "a"), ("eu", "b"), ("us", "a"), ("us", "b")]));
        assert!(halves[0].forbids() && !halves[1].forbids());
        assert_eq!(
            judge(&voters(&[("eu", "a"), ("eu", "b"), ("us", "a"), ("us", "b"), ("as", "a")])),
            []
        );
    }

    #[test]
    fn even_counts_are_advised_against() {
        let concerns = judge(&voters(&[("eu", "a"), ("eu", "b"), ("eu", "c"), ("eu", "d")]));
        let [concern] = concerns.as_slice() else { panic!("{concerns:?}") };
        assert!(!concern.forbids());
        assert!(concern.to_string().starts_with("4 voters survive the loss of 1, as 3 would"));
    }

    #[test]
    fn a_majority_in_one_place_is_advised_against() {
        let concerns = judge(&voters(&[("eu", "a"), ("eu", "a"), ("eu", "b")]));
        assert!(
            matches!(concerns[..], [Concern::ZoneHoldsMajority { held: 2, .. }]),
            "{concerns:?}"
        );
        let places = [("eu", "a"), ("eu", "b"), ("eu", "c"), ("us", "a"), ("as", "a")];
        let concerns = judge(&voters(&places));
        assert!(
            matches!(concerns[..], [Concern::RegionHoldsMajority { held: 3, .. }]),
            "{concerns:?}"
        );
    }

    #[test]
    fn no_voters_and_one_named_twice_are_forbidden() {
        assert_eq!(judge(&[]), [Concern::NoVoters]);
        let mut twice = voters(&[("eu", "a"), ("eu", "a"), ("eu", "a")]);
        twice[2].id = NodeId(1);
        assert_eq!(judge(&twice), [Concern::NamedTwice { id: NodeId(1) }]);
    }
}
