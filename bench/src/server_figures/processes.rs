//! The server's processes on this machine, and what they have used so far.
//!
//! What may not be read (another user's process) is as good as not there.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::{FDTarget, Process, all_processes};

use super::{ServerError, ServerSource};

const US_PER_SECOND: u64 = 1_000_000;

/// At least one process.
#[derive(Debug)]
pub(super) struct Processes(Vec<Process>);

/// Of all processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// User and system time of all threads, in steps of the kernel's clock (10 ms).
    pub(super) cpu_us: u64,
    /// Resident memory, shared pages counted in each.
    pub(super) resident_bytes: u64,
}

impl Processes {
    /// Those of the given pid, or of the given address; none if there are none.
    pub(super) fn find(source: &ServerSource) -> Result<Option<Processes>, ServerError> {
        let owners = source.address.map(owners_of).unwrap_or_default();
        let Some(pid) = source.pid else {
            return Ok((!owners.is_empty()).then_some(Processes(owners)));
        };
        let process = i32::try_from(pid).ok().and_then(|pid| Process::new(pid).ok());
        let root = process.ok_or(ServerError::NoSuchProcess { pid })?;
        // A master does little itself; its workers hold the same socket.
        let workers = owners.into_iter().filter(|owner| is_descendant(owner, root.pid()));
        let mut processes: Vec<Process> = workers.collect();
        processes.insert(0, root);
        Ok(Some(Processes(processes)))
    }

    /// The pid given, or the lowest, which is the oldest as long as pids do not wrap.
    pub(super) fn first_pid(&self) -> u32 {
        self.0[0].pid().unsigned_abs()
    }

    /// None once none of them is left.
    pub(super) fn used(&self) -> Option<Used> {
        let used: Vec<Used> = self.0.iter().filter_map(used_by).collect();
        used.into_iter().reduce(|a, b| Used {
            cpu_us: a.cpu_us + b.cpu_us,
            resident_bytes: a.resident_bytes + b.resident_bytes,
        })
    }
}

fn used_by(process: &Process) -> Option<Used> {
    let stat = process.stat().ok()?;
    let ticks = stat.utime + stat.stime;
    Some(Used {
        cpu_us: ticks * US_PER_SECOND / procfs::ticks_per_second(),
        resident_bytes: stat.rss * procfs::page_size(),
    })
}

/// Processes with a descriptor of a socket that listens on the address.
fn owners_of(address: SocketAddr) -> Vec<Process> {
    if !is_here(address.ip()) {
        return Vec::new();
    }
    let inodes = listening_inodes(address);
    if inodes.is_empty() {
        return Vec::new();
    }
    let all = all_processes().into_iter().flatten().flatten();
    let mut owners: Vec<Process> = all.filter(|process| holds_any(process, &inodes)).collect();
    owners.sort_by_key(Process::pid);
    owners
}

/// An address can be bound only on the machine that has it.
fn is_here(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// With SO_REUSEPORT there are several.
fn listening_inodes(address: SocketAddr) -> BTreeSet<u64> {
    let listens = |entry: &TcpNetEntry| {
        let local = entry.local_address;
        let ip = local.ip().to_canonical();
        entry.state == TcpState::Listen
            && local.port() == address.port()
            && (ip.is_unspecified() || ip == address.ip().to_canonical())
    };
    let entries = [procfs::net::tcp(), procfs::net::tcp6()].into_iter().flatten().flatten();
    entries.filter(listens).map(|entry| entry.inode).collect()
}

fn holds_any(process: &Process, inodes: &BTreeSet<u64>) -> bool {
    let descriptors = process.fd().into_iter().flatten().flatten();
    descriptors
        .into_iter()
        .any(|info| matches!(info.target, FDTarget::Socket(inode) if inodes.contains(&inode)))
}

/// Generations between a master and its workers; more is a loop.
const GENERATIONS_MAX: usize = 32;

fn is_descendant(process: &Process, ancestor: i32) -> bool {
    let mut parent = process.stat().map(|stat| stat.ppid);
    for _ in 0..GENERATIONS_MAX {
        match parent {
            Ok(pid) if pid == ancestor => return true,
            Ok(pid) if pid > 1 => {
                parent = Process::new(pid).and_then(|process| process.stat()).map(|stat| stat.ppid);
            }
            Ok(_) | Err(_) => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_found_by_each_of_them() {
        let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let ours = std::process::id().cast_signed();
        for address in [[127, 0, 0, 1], [127, 0, 0, 9]] {
            let owners = owners_of(SocketAddr::from((address, port)));
            // A child that another test starts holds our sockets until it becomes its program.
            assert!(owners.iter().any(|owner| owner.pid() == ours), "{address:?}");
        }
        let other = SocketAddr::from(([127, 0, 0, 1], port.wrapping_add(1)));
        assert!(owners_of(other).iter().all(|owner| owner.pid() != ours));
    }

    #[test]
    fn an_address_elsewhere_has_no_owner_here() {
        // RFC 5737 keeps it for documentation, so no machine has it.
        let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        assert!(owners_of(SocketAddr::from(([192, 0, 2, 1], port))).is_empty());
    }

    #[test]
    fn a_given_pid_comes_first_and_brings_no_strangers() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let source = ServerSource {
            address: listener.local_addr().ok(),
            pid: Some(child.id()),
            metrics: None,
        };
        let found = Processes::find(&source).expect("it is there").expect("one");
        // The listener is ours, and we are not the child's child.
        assert_eq!((found.0.len(), found.first_pid()), (1, child.id()));
        let ours = Process::myself().expect("we are here").pid();
        let of_child = Process::new(child.id().cast_signed()).expect("it is there");
        assert!(is_descendant(&of_child, ours));
        assert!(!is_descendant(&Process::myself().expect("we are here"), of_child.pid()));
        drop(child.stdin.take());
        child.wait().expect("it ends");
        assert_eq!(found.used(), None);
    }
}
