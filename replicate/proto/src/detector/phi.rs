//! How surprising a silence is, given how regularly a peer was heard before.
//!
//! The phi accrual failure detector (Hayashibara, Défago, Yared, Katayama: "The φ accrual
//! failure detector", SRDS 2004): phi is minus the decimal logarithm of the chance that a
//! silence so long is still followed by a heartbeat, so phi 8 is wrong once in 10⁸ times
//! if intervals are normally distributed.
//!
//! Limits: the last [`INTERVALS_MAX`] intervals count, each as at most [`INTERVAL_MS_MAX`],
//! so that one outage does not make the next ones look normal.

use std::collections::VecDeque;

/// Intervals that are remembered of a peer.
pub const INTERVALS_MAX: usize = 128;
/// As how long an interval counts at most, in milliseconds.
pub const INTERVAL_MS_MAX: u64 = 1_000;
/// Spread that is assumed at least: a loop's turn and a scheduler's slice, in milliseconds.
const DEVIATION_MS_MIN: f64 = 20.0;

/// The intervals between a peer's heartbeats.
#[derive(Clone, Debug)]
pub(super) struct Intervals {
    last: VecDeque<u64>,
    sum: u64,
    sum_of_squares: u64,
}

impl Intervals {
    /// Before anything is heard, the interval agreed on is taken for granted, loosely.
    pub(super) fn expecting(heartbeat_ms: u64) -> Intervals {
        let mut intervals = Intervals { last: VecDeque::new(), sum: 0, sum_of_squares: 0 };
        intervals.add(heartbeat_ms / 2);
        intervals.add(heartbeat_ms + heartbeat_ms / 2);
        intervals
    }

    pub(super) fn add(&mut self, interval_ms: u64) {
        let interval_ms = interval_ms.min(INTERVAL_MS_MAX);
        self.last.push_back(interval_ms);
        self.sum += interval_ms;
        self.sum_of_squares += interval_ms * interval_ms;
        if self.last.len() > INTERVALS_MAX
            && let Some(oldest) = self.last.pop_front()
        {
            self.sum -= oldest;
            self.sum_of_squares -= oldest * oldest;
        }
    }

    /// Phi of a silence so long.
    pub(super) fn phi(&self, silent_ms: u64) -> f64 {
        let count = self.last.len() as f64;
        let mean = self.sum as f64 / count;
        let variance = (self.sum_of_squares as f64 / count - mean * mean).max(0.0);
        let deviations = (silent_ms as f64 - mean) / variance.sqrt().max(DEVIATION_MS_MIN);
        -chance_of_later(deviations).log10()
    }
}

/// The chance that a normally distributed value is above its mean by so many deviations, by
/// the logistic approximation (Bowling et al., 2009).
fn chance_of_later(deviations: f64) -> f64 {
    let exponent = deviations * (1.5976 + 0.070_566 * deviations * deviations);
    // Beyond what a float can tell from nothing, the silence is as surprising as any.
    (1.0 / (1.0 + exponent.exp())).max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regular(interval_ms: u64) -> Intervals {
        let mut intervals = Intervals::expecting(100);
        (0..INTERVALS_MAX).for_each(|_| intervals.add(interval_ms));
        intervals
    }

    #[test]
    fn phi_is_small_around_the_mean_and_grows_with_the_silence() {
        let intervals = regular(100);
        assert!(intervals.phi(0) < 0.01);
        assert!((intervals.phi(100) - 0.301).abs() < 0.01, "half of them come later than the mean");
        // 1.645 and 3.09 deviations leave 5 % and 0.1 % beyond them.
        assert!((intervals.phi(133) - 1.30).abs() < 0.1, "{}", intervals.phi(133));
        assert!((intervals.phi(162) - 3.0).abs() < 0.2, "{}", intervals.phi(162));
        let silences: Vec<f64> = (0..100).map(|tenths| intervals.phi(tenths * 10)).collect();
        assert!(silences.windows(2).all(|pair| pair[0] <= pair[1]), "{silences:?}");
        assert!(intervals.phi(u64::MAX).is_finite());
        assert_eq!(regular(INTERVAL_MS_MAX).phi(0), 0.0);
    }

    #[test]
    fn irregular_peers_are_given_more_time() {
        let mut jittery = Intervals::expecting(100);
        (0..INTERVALS_MAX as u64)
            .for_each(|turn| jittery.add(if turn % 4 == 0 { 340 } else { 20 }));
        assert!(jittery.phi(500) < 4.0, "{}", jittery.phi(500));
        assert!(regular(100).phi(500) > 8.0);
    }

    #[test]
    fn only_the_last_intervals_count_and_an_outage_only_so_much() {
        let mut intervals = regular(100);
        intervals.add(3_600_000);
        assert!(intervals.phi(2_000) > 8.0, "{}", intervals.phi(2_000));
        (0..INTERVALS_MAX).for_each(|_| intervals.add(100));
        assert_eq!(intervals.last.len(), INTERVALS_MAX);
        assert_eq!(intervals.phi(300), regular(100).phi(300));
    }
}
