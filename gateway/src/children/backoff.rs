//! How long to wait before a tool server that ended is started again.
//!
//! Sans-IO: told the time, never reads it. Waits double from [`FIRST_WAIT_MS`] to
//! [`WAIT_MS_MAX`]; a child that ran for [`STEADY_MS`] starts them anew. Each wait is
//! shortened by up to a half at random, so that children that died together don't come back
//! together.

use shardgate_proto::clock::Millis;

/// The longest first wait.
pub const FIRST_WAIT_MS: u64 = 100;
/// The longest wait.
pub const WAIT_MS_MAX: u64 = 30_000;
/// A child that ran so long is taken to be sound.
pub const STEADY_MS: u64 = 60_000;

/// The waits of one tool server.
#[derive(Clone, Debug)]
pub struct Backoff {
    wait_ms: u64,
    started: Option<Millis>,
    random: u64,
}

impl Backoff {
    /// Waits whose random part is drawn from `seed`.
    pub fn new(seed: u64) -> Backoff {
        Backoff { wait_ms: FIRST_WAIT_MS, started: None, random: seed }
    }

    /// A child runs now.
    pub fn handle_start(&mut self, now: Millis) {
        self.started = Some(now);
    }

    /// The child ended or did not start; says when the next may be started.
    pub fn handle_end(&mut self, now: Millis) -> Millis {
        if self.started.take().is_some_and(|started| now.since(started) >= STEADY_MS) {
            self.wait_ms = FIRST_WAIT_MS;
        }
        let longest = self.wait_ms;
        self.wait_ms = (longest * 2).min(WAIT_MS_MAX);
        let half = longest / 2;
        now + half + self.draw() % (longest - half + 1)
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014): any seed will do.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        for seed in 0..50 {
            let mut backoff = Backoff::new(seed);
            let mut longest = FIRST_WAIT_MS;
            for round in 0..20 {
                let now = Millis(round * 100_000);
                let wait = backoff.handle_end(now).since(now);
                assert!((longest / 2..=longest).contains(&wait), "seed {seed}: {wait}");
                longest = (longest * 2).min(WAIT_MS_MAX);
            }
            assert_eq!(longest, WAIT_MS_MAX);
        }
    }

    #[test]
    fn only_a_child_that_ran_long_starts_them_anew() {
        let mut backoff = Backoff::new(7);
        for _ in 0..9 {
            backoff.handle_end(Millis(0));
        }
        backoff.handle_start(Millis(0));
        let now = Millis(STEADY_MS - 1);
        assert!(backoff.handle_end(now).since(now) >= WAIT_MS_MAX / 2);
        // Nothing was started since: the time alone is no merit.
        let now = Millis(STEADY_MS * 9);
        assert!(backoff.handle_end(now).since(now) >= WAIT_MS_MAX / 2);
        backoff.handle_start(now);
        let now = now + STEADY_MS;
        assert!(backoff.handle_end(now).since(now) <= FIRST_WAIT_MS);
    }

    #[test]
    fn different_seeds_wait_differently() {
        let wait = |seed| Backoff::new(seed).handle_end(Millis(0));
        assert!((1..20).any(|seed| wait(seed) != wait(0)));
    }
}
