//! Time as the protocol cores see it: passed in, never read.

use std::ops::{Add, Sub};

/// Milliseconds since the process started. Monotonic; `u64` never wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Millis {
    /// The time from `earlier` to `self`, or zero if `earlier` is later.
    pub fn since(self, earlier: Millis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Adds milliseconds.
impl Add<u64> for Millis {
    type Output = Millis;
    fn add(self, milliseconds: u64) -> Millis {
        Millis(self.0.saturating_add(milliseconds))
    }
}

/// Subtracts milliseconds, stopping at the process's start.
impl Sub<u64> for Millis {
    type Output = Millis;
    fn sub(self, milliseconds: u64) -> Millis {
        Millis(self.0.saturating_sub(milliseconds))
    }
}
