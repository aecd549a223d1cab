//! One io_uring with its table of direct descriptors and its receive buffers.
//!
//! Invariants: only the thread that made a ring uses it (SINGLE_ISSUER); a push never
//! fails and never reorders (what the submission queue can't take waits in a backlog);
//! `slots_used + slots_reserved <= slots` as far as this side knows; `operations` counts
//! what was pushed and has not completed for good. Dropping a ring first ends every
//! operation, so that memory the kernel reads or writes can be freed afterwards.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use socket2::{Domain, SockAddr};

use crate::mesh::RingAddress;
use crate::operation::{Kind, Operation};
use crate::output_queue::Chunk;
use crate::receive_buffers::ReceiveBuffers;

/// The one buffer group of a ring.
const BUFFER_GROUP: u16 = 0;
/// From the kernel's header: don't post a completion on the ring that gets the socket.
const MSG_RING_CQE_SKIP: u32 = 1;
/// How long the end of a ring may wait for its operations to end.
const END_NS_MAX: u64 = 5_000_000_000;
/// How long it waits before it cancels what is left once more.
const END_STEP_NS: u64 = 10_000_000;

/// Sizes of a data ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSizes {
    /// Slots of the table of direct descriptors: connections one ring can hold.
    /// Clamped to RLIMIT_NOFILE, which the kernel applies to each table by itself.
    pub slots: u32,
    /// Entries of the submission queue, a power of two.
    pub submission_entries: u32,
    /// Entries of the completion queue, a power of two.
    pub completion_entries: u32,
    /// Receive buffers, a power of two up to 32,768.
    pub receive_buffers: u16,
    /// Bytes of one receive buffer: what one `handle_recv` gets at most.
    pub receive_buffer_bytes: u32,
}

impl Default for RingSizes {
    fn default() -> RingSizes {
        RingSizes {
            slots: 19_000,
            submission_entries: 1_024,
            completion_entries: 8_192,
            receive_buffers: 512,
            receive_buffer_bytes: 4_096,
        }
    }
}

/// Why a data ring could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{operation} for a data ring; {way_out}")]
pub struct RingError {
    operation: &'static str,
    way_out: &'static str,
    #[source]
    source: io::Error,
}

impl RingError {
    fn because(operation: &'static str, way_out: &'static str) -> impl Fn(io::Error) -> RingError {
        move |source| RingError { operation, way_out, source }
    }

    /// The system's error.
    pub(crate) fn into_cause(self) -> io::Error {
        self.source
    }
}

/// A data ring.
pub(crate) struct DataRing {
    ring: IoUring,
    /// What the submission queue had no place for: at most the operations and cancels of
    /// the ring's connections and accepts, a handful for each.
    backlog: VecDeque<squeue::Entry>,
    /// Operations pushed whose last completion was not reaped yet; none of those that
    /// complete only if they fail ([`Kind::Ignored`]), which use no memory of ours.
    operations: usize,
    /// What [`DataRing::end_operations`] found.
    ended: Option<bool>,
    buffers: ReceiveBuffers,
    /// Completions still to be reaped that were there when the buffers last widened.
    before_widening: usize,
    /// All of them had been reaped before the latest batch.
    shortage_is_new: bool,
    address: RingAddress,
    slots: u32,
    /// Slots of connections, also those an outgoing one has not got yet.
    pub(crate) slots_used: u32,
    /// Slots that single-shot accepts in flight and connections that move here may take.
    pub(crate) slots_reserved: u32,
    /// Completions that were reaped and not looked at yet.
    pub(crate) in_hand: u32,
    /// Connections whose receive ended for lack of buffers.
    pub(crate) starved: Vec<crate::identity::ConnId>,
}

impl DataRing {
    /// Makes a ring that signals `eventfd`.
    pub(crate) fn new(sizes: RingSizes, eventfd: BorrowedFd<'_>) -> Result<DataRing, RingError> {
        let because = RingError::because;
        let mut ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(sizes.completion_entries)
            .dontfork()
            .build(sizes.submission_entries)
            .map_err(because("set up io_uring", "run `shardgate doctor` to see what is missing"))?;
        let address = ring_address(&ring)
            .map_err(because("duplicate the descriptor", "raise RLIMIT_NOFILE (ulimit -n)"))?;
        // Saves the kernel a look-up per call. Where it fails, calls are merely slower.
        let _ = ring.submitter().register_ring_fd();
        let submitter = ring.submitter();
        submitter.register_files_sparse(sizes.slots).map_err(because(
            "register a table of direct descriptors",
            "lower the slots per ring to RLIMIT_NOFILE or raise it (ulimit -n)",
        ))?;
        submitter
            .register_eventfd(eventfd.as_raw_fd())
            .map_err(because("register the eventfd", "a kernel from 6.7 on is needed"))?;
        let buffers = ReceiveBuffers::register(
            &submitter,
            BUFFER_GROUP,
            sizes.receive_buffers,
            sizes.receive_buffer_bytes,
        )
        .map_err(because("register receive buffers", "a kernel from 6.7 on is needed"))?;
        ring.completion().disable_eventfd();
        Ok(DataRing {
            ring,
            backlog: VecDeque::new(),
            operations: 0,
            ended: None,
            buffers,
            before_widening: 0,
            shortage_is_new: true,
            address,
            slots: sizes.slots,
            slots_used: 0,
            slots_reserved: 0,
            in_hand: 0,
            starved: Vec::new(),
        })
    }

    /// The descriptor by which others hand sockets to this ring.
    pub(crate) fn address(&self) -> &RingAddress {
        &self.address
    }

    /// Slots nobody uses or has reserved.
    pub(crate) fn slots_free(&self) -> u32 {
        self.slots.saturating_sub(self.slots_used + self.slots_reserved)
    }

    /// The receive buffers.
    pub(crate) fn buffers(&mut self) -> &mut ReceiveBuffers {
        &mut self.buffers
    }

    /// Copies completions out; returns how many.
    pub(crate) fn reap(&mut self, completions: &mut [MaybeUninit<cqueue::Entry>]) -> usize {
        let mut queue = self.ring.completion();
        self.buffers.note_waiting(queue.len());
        let reaped = queue.fill(completions);
        self.operations -= reaped.iter().filter(|&entry| is_last(entry)).count();
        let reaped = reaped.len();
        self.shortage_is_new = self.before_widening == 0;
        self.before_widening = self.before_widening.saturating_sub(reaped);
        reaped
    }

    /// Offers the kernel more buffers, as the latest batch told that it ran out of them:
    /// once per shortage, although its completions may be reaped over several turns.
    pub(crate) fn widen_buffers(&mut self) {
        if self.shortage_is_new {
            self.buffers.widen();
            self.before_widening = self.ring.completion().len();
        }
    }

    /// True if what is pushed next reaches the kernel with the next submission, be it
    /// `entries` entries: none of them has to wait for a place.
    pub(crate) fn takes_at_once(&mut self, entries: usize) -> bool {
        let queue = self.ring.submission();
        self.backlog.is_empty() && queue.capacity() - queue.len() >= entries
    }

    /// Completions that wait to be reaped.
    pub(crate) fn waiting(&mut self) -> u32 {
        self.ring.completion().len() as u32
    }

    /// Submits what was pushed and lets the kernel do deferred work, if there is any.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        self.refill();
        loop {
            let queue = self.ring.submission();
            let queued = queue.len() as u32;
            let needed = queued > 0 || queue.taskrun() || queue.cq_overflow();
            drop(queue);
            if !needed {
                return Ok(());
            }
            // Deferred work runs in an enter that asks for events only. It mostly comes
            // while the entries are worked off, so it is always asked for: without that,
            // every batch would cost a second enter.
            // SAFETY: no argument is passed; what the entries point to was settled in `push`.
            let entered = unsafe {
                self.ring.submitter().enter::<libc::sigset_t>(
                    queued,
                    0,
                    EnterFlags::GETEVENTS.bits(),
                    None,
                )
            };
            match entered {
                Ok(_) if self.backlog.is_empty() => return Ok(()),
                Ok(_) => self.refill(),
                // Completions have to be reaped first; the next turn tries again.
                Err(error) if is_transient(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Blocks until there is a completion, at most for `limit_ns`. Nothing may be pushed
    /// and not yet submitted.
    pub(crate) fn wait(&mut self, limit_ns: u64) -> io::Result<()> {
        let limit =
            Timespec::new().sec(limit_ns / 1_000_000_000).nsec((limit_ns % 1_000_000_000) as u32);
        let arguments = SubmitArgs::new().timespec(&limit);
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Err(error) if error.raw_os_error() != Some(libc::ETIME) && !is_transient(&error) => {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// True if completions wait or deferred work would make some.
    pub(crate) fn has_work(&mut self) -> bool {
        let queue = self.ring.submission();
        let pending = queue.taskrun() || queue.cq_overflow() || !queue.is_empty();
        drop(queue);
        pending || !self.backlog.is_empty() || !self.ring.completion().is_empty()
    }

    /// Says whether completions should signal the eventfd. While the shard works
    /// they need not, and each signal costs.
    pub(crate) fn set_signalling(&mut self, on: bool) {
        let queue = self.ring.completion();
        if on {
            queue.enable_eventfd();
        } else {
            queue.disable_eventfd();
        }
    }

    /// Arms a multishot accept that fills free slots.
    pub(crate) fn accept_multi(&mut self, listener: BorrowedFd<'_>, operation: Operation) {
        let entry =
            opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true).build();
        self.push(entry, operation);
    }

    /// Accepts one connection into a free slot.
    pub(crate) fn accept_one(&mut self, listener: BorrowedFd<'_>, operation: Operation) {
        let no_address = std::ptr::null_mut();
        let entry = opcode::Accept::new(Fd(listener.as_raw_fd()), no_address, std::ptr::null_mut())
            .file_index(Some(DestinationSlot::auto_target()))
            .build();
        self.push(entry, operation);
    }

    /// Makes a TCP socket in a free slot, which is the result. It is a blocking one: the
    /// kernel waits for it by itself.
    pub(crate) fn socket(&mut self, domain: Domain, operation: Operation) {
        let tcp = libc::IPPROTO_TCP;
        let entry = opcode::Socket::new(i32::from(domain), libc::SOCK_STREAM, tcp)
            .file_index(Some(DestinationSlot::auto_target()))
            .build();
        self.push(entry, operation);
    }

    /// Has the socket send at once what it is given. What is sent is whole, so there is
    /// nothing to wait for.
    pub(crate) fn set_nodelay(&mut self, slot: u32, operation: Operation) {
        self.switch_on(slot, libc::IPPROTO_TCP, libc::TCP_NODELAY, operation);
    }

    /// Has the kernel choose the port of a bound socket when it connects, by both ends: so
    /// the ports of one address are used once per peer, not once.
    pub(crate) fn set_late_port(&mut self, slot: u32, operation: Operation) {
        self.switch_on(slot, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, operation);
    }

    fn switch_on(&mut self, slot: u32, level: i32, name: i32, operation: Operation) {
        static ON: libc::c_int = 1;
        let (value, bytes) = ((&raw const ON).cast(), size_of_val(&ON) as u32);
        let (level, name) = (level as u32, name as u32);
        let entry = opcode::SetSockOpt::new(Fixed(slot), level, name, value, bytes).build();
        let quiet = operation.kind == Kind::Ignored;
        let flags = if quiet { squeue::Flags::SKIP_SUCCESS } else { squeue::Flags::empty() };
        self.push(entry.flags(flags), operation);
    }

    /// Gives the socket in a slot its own address (kernel 6.11).
    ///
    /// # Safety
    /// `address` must stay where it is until the completion has come or the ring was
    /// dropped.
    pub(crate) unsafe fn bind(
        &mut self,
        slot: u32,
        address: *const SockAddr,
        operation: Operation,
    ) {
        // SAFETY: the caller promises that the address is there.
        let (start, bytes) = unsafe { ((*address).as_ptr(), (*address).len()) };
        self.push(opcode::Bind::new(Fixed(slot), start.cast(), bytes).build(), operation);
    }

    /// Connects the socket in a slot.
    ///
    /// # Safety
    /// `address` must stay where it is until the completion has come or the ring was
    /// dropped.
    pub(crate) unsafe fn connect(
        &mut self,
        slot: u32,
        address: *const SockAddr,
        operation: Operation,
    ) {
        // SAFETY: the caller promises that the address is there.
        let (start, bytes) = unsafe { ((*address).as_ptr(), (*address).len()) };
        self.push(opcode::Connect::new(Fixed(slot), start.cast(), bytes).build(), operation);
    }

    /// Arms a multishot receive into the provided buffers.
    pub(crate) fn recv_multi(&mut self, slot: u32, operation: Operation) {
        let entry = opcode::RecvMulti::new(Fixed(slot), BUFFER_GROUP).build();
        self.push(entry, operation);
    }

    /// Sends a chunk.
    ///
    /// # Safety
    /// The chunk's memory must stay as it is until the completion has come or the
    /// ring was dropped.
    pub(crate) unsafe fn send(&mut self, slot: u32, chunk: Chunk, operation: Operation) {
        let entry = opcode::Send::new(Fixed(slot), chunk.start, chunk.bytes)
            .flags(libc::MSG_NOSIGNAL)
            .build();
        self.push(entry, operation);
    }

    /// Closes the sending half.
    pub(crate) fn shutdown_write(&mut self, slot: u32, operation: Operation) {
        self.push(opcode::Shutdown::new(Fixed(slot), libc::SHUT_WR).build(), operation);
    }

    /// Cancels the operations with the same name; their completions still come.
    pub(crate) fn cancel(&mut self, operation: Operation) {
        let target = CancelBuilder::user_data(operation.to_user_data()).all();
        let entry = opcode::AsyncCancel2::new(target).build();
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), Operation::other(Kind::Ignored, 0));
    }

    /// Closes a slot. The kernel does so when it takes the entry, before any entry
    /// pushed later, so the slot counts as free at once.
    pub(crate) fn close(&mut self, slot: u32) {
        let entry = opcode::Close::new(Fixed(slot)).build();
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), Operation::other(Kind::Ignored, 0));
    }

    /// Gives the socket in `slot` to another ring as well; the result is its slot there.
    pub(crate) fn send_fd(&mut self, slot: u32, to: &RingAddress, operation: Operation) {
        let target = DestinationSlot::auto_target();
        let entry = opcode::MsgRingSendFd::new(Fd(to.as_raw_fd()), Fixed(slot), target, 0)
            .opcode_flags(MSG_RING_CQE_SKIP)
            .build();
        self.push(entry, operation);
    }

    /// Completes each time `eventfd` is written.
    pub(crate) fn poll_multi(&mut self, eventfd: BorrowedFd<'_>, operation: Operation) {
        let readable = libc::POLLIN as u32;
        let entry = opcode::PollAdd::new(Fd(eventfd.as_raw_fd()), readable).multi(true).build();
        self.push(entry, operation);
    }

    /// Arms a relative timeout.
    ///
    /// # Safety
    /// `after` must stay where it is as long as the ring exists.
    pub(crate) unsafe fn timeout(&mut self, after: *const Timespec, operation: Operation) {
        self.push(opcode::Timeout::new(after).build(), operation);
    }

    /// Changes an armed relative timeout.
    ///
    /// # Safety
    /// `after` must stay where it is as long as the ring exists.
    pub(crate) unsafe fn timeout_update(&mut self, after: *const Timespec, operation: Operation) {
        let entry = opcode::TimeoutUpdate::new(operation.to_user_data(), after).build();
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS), Operation::other(Kind::Ignored, 0));
    }

    fn push(&mut self, entry: squeue::Entry, operation: Operation) {
        debug_assert!(self.ended.is_none(), "{operation:?} after the ring's end");
        let entry = entry.user_data(operation.to_user_data());
        self.operations += usize::from(is_counted(operation.to_user_data()));
        // SAFETY: what the entry points to is a chunk, timespec or address whose caller
        // promised that it stays, a static, or the receive buffers, which outlive all
        // operations.
        let full =
            !self.backlog.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err();
        if full {
            self.backlog.push_back(entry);
        }
    }

    fn refill(&mut self) {
        if self.backlog.is_empty() {
            return;
        }
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: as in `push`.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
    }

    /// Ends all operations, of which the first call makes sure. True if none is left;
    /// otherwise the memory they use must never be freed. Nothing may be pushed afterwards.
    pub(crate) fn end_operations(&mut self) -> bool {
        if let Some(ended) = self.ended {
            return ended;
        }
        let unsubmitted = self.backlog.drain(..).filter(|entry| is_counted(entry.get_user_data()));
        self.operations -= unsubmitted.count();
        let ended = self.cancel_until_none_is_left();
        self.ended = Some(ended);
        ended
    }

    fn cancel_until_none_is_left(&mut self) -> bool {
        let mut completions = [const { MaybeUninit::uninit() }; 64];
        let end_ns = crate::clock::monotonic_ns() + END_NS_MAX;
        let step = Timespec::new().nsec(END_STEP_NS as u32);
        loop {
            // The cancel says only how many operations it found, and an operation that is
            // found has not ended yet; only its last completion tells that. So the errors
            // of both calls say nothing new.
            let _ = self.ring.submit();
            let _ = self.ring.submitter().register_sync_cancel(Some(step), CancelBuilder::any());
            while self.reap(&mut completions) > 0 {}
            let left_ns = end_ns.saturating_sub(crate::clock::monotonic_ns());
            if self.operations == 0 || left_ns == 0 {
                return self.operations == 0;
            }
            // Runs the deferred work that completes what was cancelled.
            if self.wait(left_ns.min(END_STEP_NS)).is_err() {
                return false;
            }
        }
    }
}

impl Drop for DataRing {
    fn drop(&mut self) {
        let ended = self.end_operations();
        // Others may hold the ring's address, which keeps the ring alive: its sockets
        // and its claim on our memory have to go by name.
        let submitter = self.ring.submitter();
        let _ = submitter.unregister_eventfd();
        let files_gone = submitter.unregister_files().is_ok();
        let buffers_gone = submitter.unregister_buf_ring(BUFFER_GROUP).is_ok();
        if ended && files_gone && buffers_gone {
            // SAFETY: no receive is in flight and the group is unregistered.
            unsafe { self.buffers.free() }
        }
        // Otherwise the buffers are left to the kernel: a leak, but no use after free.
    }
}

/// True if an operation of this name is counted until its last completion.
fn is_counted(user_data: u64) -> bool {
    Operation::from_user_data(user_data).is_some_and(|operation| operation.kind != Kind::Ignored)
}

/// True for the last completion of an operation that is counted.
fn is_last(completion: &cqueue::Entry) -> bool {
    !cqueue::more(completion.flags()) && is_counted(completion.user_data())
}

fn ring_address(ring: &IoUring) -> io::Result<RingAddress> {
    // SAFETY: the ring is open for the length of the borrow.
    let borrowed = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
    let owned: OwnedFd = borrowed.try_clone_to_owned()?;
    Ok(Arc::new(owned))
}

/// Errors after which the same call works later: the completion queue is full, the
/// kernel is short of memory, or a signal came.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EAGAIN | libc::EINTR))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::{AsFd, FromRawFd};
    use std::time::{Duration, Instant};

    use super::*;

    const RECV: Operation = Operation::other(Kind::Recv, 0);

    struct Bench {
        ring: DataRing,
        slot: u32,
        client: TcpStream,
    }

    /// A ring with one connection.
    fn bench() -> Bench {
        let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let sizes = RingSizes {
            slots: 8,
            submission_entries: 16,
            completion_entries: 1_024,
            receive_buffers: 1_024,
            receive_buffer_bytes: 16,
        };
        let mut ring = DataRing::new(sizes, eventfd.as_fd()).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        ring.accept_one(listener.as_fd(), Operation::other(Kind::AcceptOne, 0));
        wait_for(&mut ring, 1);
        let slot = reap_one(&mut ring) as u32;
        Bench { ring, slot, client }
    }

    fn wait_for(ring: &mut DataRing, completions: u32) {
        let end = Instant::now() + Duration::from_secs(30);
        ring.submit().unwrap();
        while ring.waiting() < completions {
            assert!(Instant::now() < end, "{} of {completions} completions", ring.waiting());
            ring.submit().unwrap();
        }
    }

    fn reap_one(ring: &mut DataRing) -> i32 {
        let mut completions = [const { MaybeUninit::uninit() }; 1];
        assert_eq!(ring.reap(&mut completions), 1);
        // SAFETY: `reap` has written this one entry.
        let entry: &cqueue::Entry = unsafe { completions[0].assume_init_ref() };
        entry.result()
    }

    #[test]
    fn a_shortage_that_is_told_several_times_widens_the_window_once() {
        let Bench { mut ring, slot, mut client } = bench();
        assert_eq!(ring.buffers().window(), 256);
        let mut expected = 512;
        for buffers in [256, 256] {
            client.write_all(&[b'x'; 16].repeat(buffers)).unwrap();
            ring.recv_multi(slot, RECV);
            wait_for(&mut ring, buffers as u32);
            // These find no buffer, all for the same reason.
            client.write_all(b"x").unwrap();
            for told in 2..=4 {
                ring.recv_multi(slot, RECV);
                wait_for(&mut ring, buffers as u32 + told);
            }
            (0..buffers).for_each(|_| assert!(reap_one(&mut ring) > 0));
            for _ in 0..4 {
                assert_eq!(reap_one(&mut ring), -libc::ENOBUFS);
                ring.widen_buffers();
                assert_eq!(ring.buffers().window(), expected);
            }
            expected = 1_024;
        }
    }

    #[test]
    fn an_outgoing_socket_has_nodelay_set() {
        let Bench { mut ring, client, .. } = bench();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = SockAddr::from(listener.local_addr().unwrap());
        ring.socket(Domain::IPV4, Operation::other(Kind::Socket, 0));
        wait_for(&mut ring, 1);
        let slot = reap_one(&mut ring) as u32;
        ring.set_nodelay(slot, Operation::other(Kind::Ignored, 0));
        // SAFETY: the address outlives the wait for the completion.
        unsafe { ring.connect(slot, &raw const address, Operation::other(Kind::Connect, 0)) }
        wait_for(&mut ring, 1);
        assert_eq!(reap_one(&mut ring), 0);
        let install = opcode::FixedFdInstall::new(Fixed(slot), 0).build();
        ring.push(install, Operation::other(Kind::Bell, 0));
        wait_for(&mut ring, 1);
        let descriptor = reap_one(&mut ring);
        assert!(descriptor >= 0, "install: {descriptor}");
        // SAFETY: the kernel has just opened this descriptor for us alone.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        assert!(TcpStream::from(socket).nodelay().unwrap());
        drop(client);
    }

    #[test]
    fn the_end_of_a_ring_leaves_no_operation_in_the_kernel() {
        let Bench { mut ring, slot, client } = bench();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let after = Timespec::new().sec(3_600);
        // Far more than the sockets of both sides take.
        let output = vec![b'x'; 50_000_000];
        let chunk = Chunk { start: output.as_ptr(), bytes: output.len() as u32 };
        ring.recv_multi(slot, RECV);
        ring.accept_multi(listener.as_fd(), Operation::other(Kind::AcceptMulti, 0));
        // SAFETY: the output and the time outlive the ring, which is dropped below.
        unsafe {
            ring.send(slot, chunk, Operation::other(Kind::Send, 0));
            ring.timeout(&raw const after, Operation::other(Kind::Timer, 0));
        }
        ring.submit().unwrap();
        // Most of these never reach the kernel.
        (0..32)
            .for_each(|_| ring.accept_one(listener.as_fd(), Operation::other(Kind::AcceptOne, 0)));
        assert_eq!(ring.operations, 36);
        assert!(!ring.backlog.is_empty());
        assert!(ring.end_operations());
        assert_eq!(ring.operations, 0);
        assert!(ring.end_operations(), "asked twice, as the ring's end does");
        drop(ring);
        drop(client);
    }
}
