//! Tries on throw-away rings what a data ring needs of the kernel.
//!
//! Versions and opcode lists say too little: distributions port features back, and
//! seccomp profiles and LSMs take them away. So the newest operations are used once, for
//! real, on loopback connections: multishot accept, multishot receive into provided
//! buffers, the hand-over of a descriptor, and a socket made, given an option (the newest
//! of all) and connected by the ring. A kernel that has these has the others; it takes
//! about a millisecond.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use io_uring::cqueue;
use rustix::event::EventfdFlags;
use socket2::{Domain, SockAddr};

use crate::data_ring::{DataRing, RingSizes};
use crate::mesh::RingAddress;
use crate::operation::{Kind, Operation};

/// Looks at the completion queue before an operation counts as missing.
const LOOKS_MAX: u32 = 1_000;

/// Something a data ring needs and the kernel does not do here.
#[derive(Debug, thiserror::Error)]
#[error("io_uring: {what} does not work here; {way_out}")]
pub struct MissingCapability {
    what: &'static str,
    way_out: &'static str,
    #[source]
    source: io::Error,
}

const NEWER_KERNEL: &str = "run a kernel from 6.7 on";
const SECCOMP: &str = "run a kernel from 6.7 on, and allow the system calls io_uring_setup, \
                       io_uring_enter and io_uring_register in the seccomp profile of the \
                       container (docker: --security-opt seccomp=...)";

/// Uses the newest operations once.
pub(crate) fn probe() -> Result<(), MissingCapability> {
    let missing = |what, way_out| move |source| MissingCapability { what, way_out, source };
    let eventfd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)
        .map_err(|error| missing("an eventfd", "raise RLIMIT_NOFILE (ulimit -n)")(error.into()))?;
    let mut ring = probe_ring(&eventfd).map_err(missing(
        "a ring with SINGLE_ISSUER, DEFER_TASKRUN, direct descriptors and provided buffers",
        SECCOMP,
    ))?;
    let other = probe_ring(&eventfd).map_err(missing("a second ring", SECCOMP))?;
    let (listener, mut client) =
        loopback().map_err(missing("a loopback connection", "allow TCP on 127.0.0.1"))?;

    let accept = Operation::other(Kind::AcceptMulti, 0);
    ring.accept_multi(listener.as_fd(), accept);
    let (slot, flags) = result(&mut ring, accept)
        .map_err(missing("multishot accept into direct descriptors", NEWER_KERNEL))?;
    if !cqueue::more(flags) {
        return Err(missing("multishot accept", NEWER_KERNEL)(io::ErrorKind::Unsupported.into()));
    }

    let recv = Operation::other(Kind::Recv, 0);
    ring.recv_multi(slot, recv);
    client.write_all(b"?").map_err(missing("a loopback connection", "allow TCP on 127.0.0.1"))?;
    let (_, flags) = result(&mut ring, recv)
        .map_err(missing("multishot receive into provided buffers", NEWER_KERNEL))?;
    if !cqueue::more(flags) || cqueue::buffer_select(flags).is_none() {
        return Err(missing("multishot receive", NEWER_KERNEL)(io::ErrorKind::Unsupported.into()));
    }

    let send_fd = Operation::other(Kind::SendFd, 0);
    ring.send_fd(slot, &RingAddress::clone(other.address()), send_fd);
    result(&mut ring, send_fd)
        .map_err(missing("MSG_RING with a descriptor (IORING_MSG_SEND_FD)", NEWER_KERNEL))?;

    let address = listener
        .local_addr()
        .map_err(missing("a loopback connection", "allow TCP on 127.0.0.1"))?;
    probe_connect(&eventfd, address)
}

/// Connects as an outgoing connection does.
fn probe_connect(eventfd: &OwnedFd, to: SocketAddr) -> Result<(), MissingCapability> {
    let missing = |what| move |source| MissingCapability { what, way_out: NEWER_KERNEL, source };
    let address = SockAddr::from(to);
    // Declared after the address, so dropped before it.
    let mut ring = probe_ring(eventfd).map_err(missing("a third ring"))?;
    let socket = Operation::other(Kind::Socket, 0);
    ring.socket(Domain::for_address(to), socket);
    let (slot, _) = result(&mut ring, socket)
        .map_err(missing("making a socket as a direct descriptor (IORING_OP_SOCKET)"))?;
    let option = Operation::other(Kind::Socket, 1);
    ring.set_nodelay(slot, option);
    result(&mut ring, option)
        .map_err(missing("setting a socket's option (SOCKET_URING_OP_SETSOCKOPT)"))?;
    let connect = Operation::other(Kind::Connect, 0);
    // SAFETY: the address outlives the ring, whose end ends the operation.
    unsafe { ring.connect(slot, &raw const address, connect) }
    result(&mut ring, connect).map_err(missing("connecting a socket (IORING_OP_CONNECT)"))?;
    Ok(())
}

fn probe_ring(eventfd: &OwnedFd) -> io::Result<DataRing> {
    let sizes = RingSizes {
        slots: 8,
        submission_entries: 8,
        completion_entries: 16,
        receive_buffers: 2,
        receive_buffer_bytes: 64,
    };
    DataRing::new(sizes, eventfd.as_fd()).map_err(crate::data_ring::RingError::into_cause)
}

fn loopback() -> io::Result<(TcpListener, TcpStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    Ok((listener, client))
}

/// The first result of an operation, as a number and the completion's flags.
fn result(ring: &mut DataRing, operation: Operation) -> io::Result<(u32, u32)> {
    let mut completions = [const { std::mem::MaybeUninit::uninit() }; 1];
    for look in 0..LOOKS_MAX {
        ring.submit()?;
        while ring.reap(&mut completions) == 1 {
            // SAFETY: `reap` has written this one entry.
            let entry: &cqueue::Entry = unsafe { completions[0].assume_init_ref() };
            if entry.user_data() == operation.to_user_data() {
                let value = u32::try_from(entry.result())
                    .map_err(|_| io::Error::from_raw_os_error(-entry.result()))?;
                return Ok((value, entry.flags()));
            }
        }
        // Loopback delivers within the same system call as a rule; be patient if not.
        std::thread::sleep(std::time::Duration::from_micros(u64::from(look)));
    }
    Err(io::ErrorKind::TimedOut.into())
}
