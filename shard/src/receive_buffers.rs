//! The provided-buffer ring: where the kernel puts received bytes.
//!
//! The kernel takes buffers in the order they were offered, so all that are offered are
//! used in turn, however few are needed at a time: 2,048 of them are never in a cache.
//! So only a window of them is offered, which widens when the kernel ran out and narrows
//! when most of it went unused; the others stay aside, the latest used on top.
//!
//! Invariants: a buffer belongs to the kernel (its entry lies between head and tail), to
//! the one completion that named it, or lies aside; it is given back right after that
//! completion was handled. The memory lives until the kernel has let go of it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// Alignment the kernel asks for.
const PAGE_BYTES: usize = 4_096;
/// Entries the kernel allows in one ring.
pub const RECEIVE_BUFFERS_MAX: u16 = 1 << 15;

/// Buffers offered at least: enough for a turn's worth of small requests.
const WINDOW_MIN: u16 = 256;
/// After so many buffers were given back, the window is looked at anew.
const WINDOW_REVIEW: u32 = 16_384;

/// The buffers of one data ring.
#[derive(Debug)]
pub(crate) struct ReceiveBuffers {
    entries: NonNull<BufRingEntry>,
    arena: NonNull<u8>,
    count: u16,
    bytes: u32,
    tail: u16,
    /// How many are offered if none is in use.
    window: u16,
    /// How many are offered now, or named by completions not yet seen.
    offered: u16,
    aside: Vec<u16>,
    /// The most completions that waited at once, and buffers given back, since the last review.
    waited_max: usize,
    returned: u32,
}

impl ReceiveBuffers {
    /// Allocates `count` (a power of two) buffers of `bytes` each and registers them
    /// as `group`.
    pub(crate) fn register(
        submitter: &Submitter<'_>,
        group: u16,
        count: u16,
        bytes: u32,
    ) -> io::Result<ReceiveBuffers> {
        assert!(count.is_power_of_two() && count <= RECEIVE_BUFFERS_MAX && bytes > 0);
        let entries = allocate_zeroed(Self::entries_layout(count)).cast::<BufRingEntry>();
        let arena = allocate_zeroed(Self::arena_layout(count, bytes));
        let mut buffers = ReceiveBuffers {
            entries,
            arena,
            count,
            bytes,
            tail: 0,
            window: count.min(WINDOW_MIN),
            offered: 0,
            aside: (0..count).rev().collect(),
            waited_max: 0,
            returned: 0,
        };
        buffers.fill();
        // SAFETY: the entries are page-aligned, hold `count` entries, and are freed only
        // after the group was unregistered or the ring has ended (`free`).
        unsafe { submitter.register_buf_ring_with_flags(entries.as_ptr() as u64, count, group, 0) }
            .inspect_err(|_| {
                // SAFETY: the registration failed, so the kernel doesn't know the memory.
                unsafe { buffers.free() }
            })?;
        Ok(buffers)
    }

    /// A completion has named `buffer` and received `length` bytes: they lie here.
    pub(crate) fn take(&mut self, buffer: u16, length: usize) -> NonNull<[u8]> {
        self.offered -= 1;
        self.place(buffer, length)
    }

    fn place(&self, buffer: u16, length: usize) -> NonNull<[u8]> {
        assert!(buffer < self.count && length <= self.bytes as usize);
        // SAFETY: the assertion keeps the offset inside the arena.
        let start = unsafe { self.arena.add(usize::from(buffer) * self.bytes as usize) };
        NonNull::slice_from_raw_parts(start, length)
    }

    /// Gives a buffer back.
    pub(crate) fn give_back(&mut self, buffer: u16) {
        self.aside.push(buffer);
        self.returned += 1;
        if self.returned >= WINDOW_REVIEW {
            if self.waited_max < usize::from(self.window / 4) {
                self.window = (self.window / 2).max(self.count.min(WINDOW_MIN));
            }
            (self.returned, self.waited_max) = (0, 0);
        }
        self.fill();
    }

    /// How many are offered if none is in use.
    #[cfg(test)]
    pub(crate) fn window(&self) -> u16 {
        self.window
    }

    /// Notes how many completions wait to be handled; each may hold a buffer.
    pub(crate) fn note_waiting(&mut self, completions: usize) {
        self.waited_max = self.waited_max.max(completions);
    }

    /// The kernel has run out of buffers.
    pub(crate) fn widen(&mut self) {
        self.window = self.window.saturating_mul(2).min(self.count);
        self.fill();
    }

    fn fill(&mut self) {
        while self.offered < self.window
            && let Some(buffer) = self.aside.pop()
        {
            self.offer(buffer);
        }
        debug_assert!(usize::from(self.offered) + self.aside.len() <= usize::from(self.count));
    }

    /// Gives a buffer to the kernel.
    fn offer(&mut self, buffer: u16) {
        self.offered += 1;
        let address = self.place(buffer, 0).cast::<u8>().as_ptr() as u64;
        let position = usize::from(self.tail & (self.count - 1));
        // SAFETY: the position is inside the array, and the entry is not between head
        // and tail, so the kernel doesn't read it. Only the fields addr, len and bid are
        // written: the first entry's other field is the ring's tail.
        let entry = unsafe { self.entries.add(position).as_mut() };
        entry.set_addr(address);
        entry.set_len(self.bytes);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the pointer is to the first entry of the array.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is an aligned u16 in memory shared with the kernel, written
        // by this thread only; the release store publishes the entry before it.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }.store(self.tail, Ordering::Release);
    }

    /// Frees the memory.
    ///
    /// # Safety
    /// The kernel must not use the memory any more: the group is unregistered, and no
    /// receive that may have picked a buffer is in flight.
    pub(crate) unsafe fn free(&mut self) {
        // SAFETY: both were allocated with these layouts; the caller frees once.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), Self::entries_layout(self.count));
            dealloc(self.arena.as_ptr(), Self::arena_layout(self.count, self.bytes));
        }
    }

    fn entries_layout(count: u16) -> Layout {
        let bytes = usize::from(count) * size_of::<BufRingEntry>();
        Layout::from_size_align(bytes, PAGE_BYTES).expect("at most 512 KiB")
    }

    fn arena_layout(count: u16, bytes: u32) -> Layout {
        let bytes = usize::from(count) * bytes as usize;
        Layout::from_size_align(bytes, PAGE_BYTES).expect("less than isize::MAX on 64 bits")
    }
}

fn allocate_zeroed(layout: Layout) -> NonNull<u8> {
    // SAFETY: the layout's size is not zero, as count and bytes are not.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

#[cfg(test)]
mod tests {
    use io_uring::IoUring;

    use super::*;

    const COUNT: u16 = 1_024;

    fn with_buffers(test: impl FnOnce(&mut ReceiveBuffers)) {
        let ring = IoUring::new(8).unwrap();
        let mut buffers = ReceiveBuffers::register(&ring.submitter(), 0, COUNT, 64).unwrap();
        test(&mut buffers);
        ring.submitter().unregister_buf_ring(0).unwrap();
        // SAFETY: the group is unregistered, and nothing was received.
        unsafe { buffers.free() }
    }

    #[test]
    fn the_window_widens_when_buffers_run_out_and_narrows_when_few_are_used() {
        with_buffers(|buffers| {
            assert_eq!(buffers.offered, WINDOW_MIN);
            buffers.widen();
            buffers.widen();
            buffers.widen();
            assert_eq!((buffers.window, buffers.offered), (COUNT, COUNT));
            for _ in 0..WINDOW_REVIEW {
                buffers.note_waiting(usize::from(COUNT / 2));
                buffers.take(0, 1);
                buffers.give_back(0);
            }
            assert_eq!(buffers.window, COUNT, "half of it was used");
            for _ in 0..4 * WINDOW_REVIEW {
                buffers.note_waiting(3);
                buffers.take(0, 1);
                buffers.give_back(0);
            }
            assert_eq!(buffers.window, WINDOW_MIN);
        });
    }

    #[test]
    fn the_buffer_used_last_is_offered_next() {
        with_buffers(|buffers| {
            buffers.take(7, 1);
            buffers.give_back(7);
            assert_eq!(buffers.offered, WINDOW_MIN);
            assert!(!buffers.aside.contains(&7), "another one was offered instead");
        });
    }
}
