//! The circuit breaker of one tool server on one shard.
//!
//! After so many failures in a row nobody is sent there for a while; then one call may
//! try, and its outcome decides. A failure is one of transport: no connection, no
//! answer in time, an HTTP 5xx. An error that the server answers is none.

use shardgate_proto::clock::Millis;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BreakerSettings {
    /// Failures in a row.
    pub(crate) failures_max: u32,
    /// How long nobody is let through.
    pub(crate) open_ms: u64,
}

/// What the breaker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BreakerState {
    /// Everybody is let through.
    Closed,
    /// Nobody is.
    Open {
        /// Until when.
        until: Millis,
    },
    /// One call tries.
    HalfOpen,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Breaker {
    settings: BreakerSettings,
    failures: u32,
    state: BreakerState,
    /// Since when the trying call is under way; one that never ends must not block for ever.
    trying_since: Millis,
}

impl Breaker {
    pub(crate) fn new(settings: BreakerSettings) -> Breaker {
        Breaker { settings, failures: 0, state: BreakerState::Closed, trying_since: Millis(0) }
    }

    pub(crate) fn state(&self) -> BreakerState {
        self.state
    }

    /// Whether a call may go; if not, in how many milliseconds to try again.
    pub(crate) fn admit(&mut self, now: Millis) -> Result<(), u64> {
        match self.state {
            BreakerState::Closed => Ok(()),
            BreakerState::Open { until } if now < until => Err(until.since(now)),
            BreakerState::HalfOpen if now.since(self.trying_since) < self.settings.open_ms => {
                Err(self.settings.open_ms - now.since(self.trying_since))
            }
            BreakerState::Open { .. } | BreakerState::HalfOpen => {
                self.state = BreakerState::HalfOpen;
                self.trying_since = now;
                Ok(())
            }
        }
    }

    /// The server answered. True if that closes an open breaker.
    pub(crate) fn succeeded(&mut self) -> bool {
        self.failures = 0;
        let was_open = self.state != BreakerState::Closed;
        self.state = BreakerState::Closed;
        was_open
    }

    /// The server failed. True if that opens the breaker.
    pub(crate) fn failed(&mut self, now: Millis) -> bool {
        self.failures = self.failures.saturating_add(1);
        let opens = match self.state {
            BreakerState::Closed => self.failures >= self.settings.failures_max,
            BreakerState::HalfOpen => true,
            BreakerState::Open { .. } => false,
        };
        if opens {
            self.state = BreakerState::Open { until: now + self.settings.open_ms };
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_try() {
        let mut breaker = Breaker::new(BreakerSettings { failures_max: 2, open_ms: 100 });
        assert!(!breaker.failed(Millis(0)));
        assert!(!breaker.succeeded());
        assert!(!breaker.failed(Millis(0)));
        assert!(breaker.failed(Millis(0)), "two in a row");
        assert_eq!(breaker.admit(Millis(40)), Err(60));
        assert_eq!(breaker.admit(Millis(100)), Ok(()));
        assert!(breaker.admit(Millis(101)).is_err(), "only one tries");
        assert!(breaker.failed(Millis(110)), "which failed");
        assert_eq!(breaker.admit(Millis(111)), Err(99));
        assert_eq!(breaker.admit(Millis(210)), Ok(()));
        assert!(breaker.succeeded());
        assert_eq!(breaker.admit(Millis(211)), Ok(()));
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn a_try_that_never_ends_does_not_block_for_ever() {
        let mut breaker = Breaker::new(BreakerSettings { failures_max: 1, open_ms: 100 });
        assert!(breaker.failed(Millis(0)));
        assert_eq!(breaker.admit(Millis(100)), Ok(()));
        assert!(breaker.admit(Millis(199)).is_err());
        assert_eq!(breaker.admit(Millis(200)), Ok(()));
    }
}
