//! Wakes a sleeping shard: one eventfd per shard and the handshake around it.
//!
//! The shard's data rings write the same eventfd (it is registered with each of
//! them), so one read wakes the shard for whatever comes first.
//!
//! Invariant: no wake-up is lost. A sender first publishes its mail bit, then looks
//! whether the shard is asleep; the shard first says it is asleep, then looks at the
//! mail bits. All four accesses are sequentially consistent, so at least one side
//! sees the other's store: either the sender writes the eventfd, or the shard finds
//! the bit and does not sleep. An eventfd keeps its count, so a write that comes
//! before the read makes the read return at once.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::event::EventfdFlags;

/// Mail flags and eventfd of one shard, shared with all who send to it.
#[derive(Debug)]
pub(crate) struct Doorbell {
    asleep: AtomicBool,
    /// One bit per sender: something lies in that sender's channel.
    mail: Box<[AtomicU64]>,
    eventfd: OwnedFd,
}

impl Doorbell {
    /// A doorbell for `senders` senders. Fails if no eventfd can be had.
    pub(crate) fn new(senders: usize) -> std::io::Result<Doorbell> {
        // The eventfd blocks: io_uring then waits for it, a non-blocking one would
        // end the read with EAGAIN.
        let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        let mail = (0..senders.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Doorbell { asleep: AtomicBool::new(false), mail, eventfd })
    }

    /// Tells the shard that `sender`'s channel holds something.
    pub(crate) fn ring(&self, sender: usize) {
        self.mail[sender / 64].fetch_or(1 << (sender % 64), Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.answer_next_read();
        }
    }

    /// Makes the next read of the eventfd, or the one that waits, return.
    pub(crate) fn answer_next_read(&self) {
        // Only a full counter (2^64 - 2 unread wake-ups) could make this fail or block.
        let _ = rustix::io::write(&self.eventfd, &1u64.to_ne_bytes());
    }

    /// True if some sender has rung since the last [`Doorbell::take_mail`].
    pub(crate) fn has_mail(&self) -> bool {
        self.mail.iter().any(|word| word.load(Ordering::SeqCst) != 0)
    }

    /// Clears the mail bits and calls `visit` with each sender that had rung.
    pub(crate) fn take_mail(&self, mut visit: impl FnMut(usize)) {
        for (position, word) in self.mail.iter().enumerate() {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::SeqCst);
            while bits != 0 {
                visit(position * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }

    /// Says that the shard is about to sleep. Returns false, and takes it back, if
    /// there is mail.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        if self.has_mail() {
            self.wake();
            return false;
        }
        true
    }

    /// Says that the shard is awake.
    pub(crate) fn wake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// The eventfd, to be registered and read.
    pub(crate) fn eventfd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.eventfd.as_fd()
    }
}
