//! How long to wait before trying again.

use std::time::Duration;

/// The first wait, where the server asks for none.
const FIRST: Duration = Duration::from_millis(250);
/// The longest wait, unless the server asks for a longer one.
const LONGEST: Duration = Duration::from_secs(15);
/// The shortest wait, whatever the server asks for.
const SHORTEST: Duration = Duration::from_millis(50);

/// Waits that double with each failure.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait. A server's `retry:` is the least, since it knows its load best.
    pub(super) fn next(&mut self, retry: Option<Duration>) -> Duration {
        let factor = 1 << self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let own = (FIRST * factor).min(LONGEST);
        match retry {
            // The server's time holds for the first try; it knows nothing of failures.
            Some(retry) if factor == 1 => retry.max(SHORTEST),
            Some(retry) => own.max(retry),
            None => own,
        }
    }

    /// How often it was asked since the last success.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..9).map(|_| backoff.next(None).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000]);
        assert_eq!(backoff.failures(), 9);
        let mut backoff = Backoff { failures: u32::MAX };
        assert_eq!(backoff.next(None), LONGEST);
    }

    #[test]
    fn the_server_may_ask_for_sooner_once_and_for_later_always() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(Some(Duration::ZERO)), SHORTEST);
        assert_eq!(backoff.next(Some(Duration::ZERO)), 2 * FIRST);
        assert_eq!(backoff.next(Some(Duration::from_secs(60))), Duration::from_secs(60));
    }
}
