//! Output of the connections that have some: pending bytes and the send in flight.
//!
//! Invariants: a connection without output owns no record and no buffer; the buffer
//! of a send in flight is neither changed nor moved nor freed until its completion
//! has come (the kernel reads from it); at most one send per connection is in flight.

use slab::Slab;

use crate::connection_table::NONE;

/// Buffers above this capacity are not kept for reuse.
const POOLED_BYTES_MAX: usize = 16 * 1024;
/// Buffers kept for reuse: up to 16 MiB per shard, and far less in practice.
const POOLED_BUFFERS_MAX: usize = 1_024;
/// Capacity of a fresh buffer: a small answer with its header fits.
const FRESH_BYTES: usize = 512;

/// What one connection still has to send.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pending: Vec<u8>,
    in_flight: Vec<u8>,
    /// How much of `in_flight` the kernel has taken.
    sent: usize,
}

/// A stretch of memory the kernel is asked to send from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    pub(crate) start: *const u8,
    pub(crate) bytes: u32,
}

/// All outputs of one shard and the pool of their buffers.
#[derive(Debug, Default)]
pub(crate) struct OutputQueues {
    outputs: Slab<Output>,
    pool: Vec<Vec<u8>>,
}

impl OutputQueues {
    /// The buffer to append to; makes a record if `output` is [`NONE`].
    pub(crate) fn pending(&mut self, output: &mut u32) -> &mut Vec<u8> {
        if *output == NONE {
            *output = self.outputs.insert(Output::default()) as u32;
        }
        let record = &mut self.outputs[*output as usize];
        if record.pending.capacity() == 0 {
            record.pending = self.pool.pop().unwrap_or_else(|| Vec::with_capacity(FRESH_BYTES));
        }
        &mut record.pending
    }

    /// Bytes not yet taken by the kernel.
    pub(crate) fn queued_bytes(&self, output: u32) -> usize {
        let Some(record) = self.outputs.get(output as usize) else { return 0 };
        record.pending.len() + record.in_flight.len() - record.sent
    }

    /// The next stretch to send, or `None` if all is sent. Must not be called while
    /// a send is in flight.
    pub(crate) fn next_chunk(&mut self, output: u32) -> Option<Chunk> {
        let record = self.outputs.get_mut(output as usize)?;
        if record.sent == record.in_flight.len() {
            record.in_flight.clear();
            record.sent = 0;
            std::mem::swap(&mut record.in_flight, &mut record.pending);
        }
        let rest = &record.in_flight[record.sent..];
        if rest.is_empty() {
            return None;
        }
        // A longer rest is sent in the next round.
        let bytes = rest.len().min(SEND_BYTES_MAX) as u32;
        Some(Chunk { start: rest.as_ptr(), bytes })
    }

    /// The kernel has taken `bytes` of the send in flight.
    pub(crate) fn advance(&mut self, output: u32, bytes: usize) {
        let record = &mut self.outputs[output as usize];
        record.sent += bytes;
        assert!(record.sent <= record.in_flight.len(), "the kernel sent more than it was given");
    }

    /// Drops what is not in flight; the connection closes.
    pub(crate) fn drop_pending(&mut self, output: u32) {
        if let Some(record) = self.outputs.get_mut(output as usize) {
            let pending = std::mem::take(&mut record.pending);
            self.keep(pending);
        }
    }

    /// Gives the record and its buffers back. Must not be called while a send is in flight.
    pub(crate) fn release(&mut self, output: &mut u32) {
        if *output == NONE {
            return;
        }
        let record = self.outputs.remove(*output as usize);
        *output = NONE;
        self.keep(record.pending);
        self.keep(record.in_flight);
    }

    /// How many connections have output.
    pub(crate) fn len(&self) -> usize {
        self.outputs.len()
    }

    /// Bytes of all connections not yet taken by the kernel. Walks all outputs.
    pub(crate) fn total_bytes(&self) -> usize {
        self.outputs.iter().map(|(index, _)| self.queued_bytes(index as u32)).sum()
    }

    fn keep(&mut self, mut buffer: Vec<u8>) {
        let pooled = (1..=POOLED_BYTES_MAX).contains(&buffer.capacity());
        if pooled && self.pool.len() < POOLED_BUFFERS_MAX {
            buffer.clear();
            self.pool.push(buffer);
        }
    }
}

/// Bytes given to the kernel in one send. The kernel itself takes no more than
/// about 2 GiB in one go.
const SEND_BYTES_MAX: usize = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_order_over_partial_sends() {
        let mut queues = OutputQueues::default();
        let mut output = NONE;
        queues.pending(&mut output).extend_from_slice(b"abcdef");
        assert_eq!(queues.next_chunk(output).unwrap().bytes, 6);
        queues.pending(&mut output).extend_from_slice(b"gh");
        assert_eq!(queues.queued_bytes(output), 8);
        queues.advance(output, 2);
        assert_eq!(queues.queued_bytes(output), 6);
        assert_eq!(queues.next_chunk(output).unwrap().bytes, 4);
        queues.advance(output, 4);
        assert_eq!(queues.next_chunk(output).unwrap().bytes, 2);
        queues.advance(output, 2);
        assert!(queues.next_chunk(output).is_none());
        queues.release(&mut output);
        assert_eq!((output, queues.len()), (NONE, 0));
        assert_eq!(queues.pool.len(), 2);
    }

    #[test]
    fn large_buffers_are_not_pooled() {
        let mut queues = OutputQueues::default();
        let mut output = NONE;
        queues.pending(&mut output).resize(POOLED_BYTES_MAX + 1, 0);
        queues.release(&mut output);
        assert!(queues.pool.is_empty());
    }
}
