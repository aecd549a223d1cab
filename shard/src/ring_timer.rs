//! The one timeout operation by which a sleeping shard is woken in time.
//!
//! While the shard works it looks at its timer wheel every turn; only before it
//! sleeps is the timeout armed or brought forward. One that fires early is harmless.

use io_uring::types::Timespec;

use crate::data_ring::DataRing;
use crate::operation::{Kind, Operation};

/// The state of the timeout operation.
#[derive(Debug, Default)]
pub(crate) struct RingTimer {
    /// When it will fire, if it is armed.
    armed_ms: Option<u64>,
    /// What the kernel reads when it takes the entry: boxed, so it stays in place.
    after: Box<Timespec>,
}

impl RingTimer {
    /// Sees to it that the shard is woken at `wake_ms` at the latest.
    pub(crate) fn arm(&mut self, ring: &mut DataRing, now_ms: u64, wake_ms: u64) {
        if self.armed_ms.is_some_and(|armed_ms| armed_ms <= wake_ms) {
            return;
        }
        let after_ms = wake_ms.saturating_sub(now_ms);
        *self.after =
            Timespec::new().sec(after_ms / 1_000).nsec((after_ms % 1_000) as u32 * 1_000_000);
        let operation = Operation::other(Kind::Timer, 0);
        let after: *const Timespec = &*self.after;
        // SAFETY: the box lives as long as the shard's state, and so as the ring.
        unsafe {
            if self.armed_ms.is_some() {
                ring.timeout_update(after, operation);
            } else {
                ring.timeout(after, operation);
            }
        }
        self.armed_ms = Some(wake_ms);
    }

    /// The timeout has completed.
    pub(crate) fn fired(&mut self) {
        self.armed_ms = None;
    }
}
