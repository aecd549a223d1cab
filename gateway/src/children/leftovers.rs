//! The processes that a child leaves behind, found by their parent's id.
//!
//! A guard is a subreaper: whatever descends from its child and loses its parent becomes a
//! child of the guard, even if it left the process group. So the guard's children, looked at
//! again and again, are all there is to find.

use std::{fs, io};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpid, kill_process, waitid};

/// The children of this process other than `leader`. Those that are dead already are reaped
/// and not in the list. While children come and go one may be missed: see [`has_children`].
pub(super) fn living_children_except(leader: Pid) -> Vec<Pid> {
    let mut children = listed_children().unwrap_or_else(|_| searched_children());
    children.retain(|&pid| pid != leader && !is_reaped(pid));
    children
}

/// Whether there is any child, dead or alive.
pub(super) fn has_children() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::All, options), Err(Errno::CHILD))
}

/// The kernel's own list: proc_pid_children(5). A guard has one thread, so its children are
/// that one's.
fn listed_children() -> io::Result<Vec<Pid>> {
    let text = fs::read_to_string("/proc/thread-self/children")?;
    Ok(text.split_ascii_whitespace().filter_map(parse_pid).collect())
}

/// For kernels that keep no list. Looks at every process there is.
fn searched_children() -> Vec<Pid> {
    let own = getpid();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| parse_pid(entry.file_name().to_str()?))
        .filter(|&pid| parent_of(pid) == Some(own))
        .collect()
}

fn parse_pid(text: &str) -> Option<Pid> {
    Pid::from_raw(text.parse().ok()?)
}

/// Sends a signal to each. They are our children and not reaped, so their ids are their own.
pub(super) fn signal_all(pids: &[Pid], signal: Signal) {
    for &pid in pids {
        let _ = kill_process(pid, signal);
    }
}

fn is_reaped(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    !matches!(waitid(WaitId::Pid(pid), options), Ok(None))
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    Pid::from_raw(parent_in(&stat)?)
}

/// proc_pid_stat(5): id, name in parentheses, state, parent. The name may hold anything,
/// parentheses too, so what counts is behind the last one.
fn parent_in(stat: &[u8]) -> Option<i32> {
    let name_end = memchr::memrchr(b')', stat)?;
    let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_find_a_child() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("it runs");
        let pid = Pid::from_child(&child);
        let listed = listed_children().expect("this kernel has the list");
        let searched = searched_children();
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        assert!(listed.contains(&pid), "{pid} is not in {listed:?}");
        assert!(searched.contains(&pid), "{pid} is not in {searched:?}");
        assert!(!searched_children().contains(&pid));
    }

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent_in(b"12 (sh) S 7 12 12 0 -1"), Some(7));
        assert_eq!(parent_in(b"12 (a) R 3 (b) S 8 12 12"), Some(8));
        assert_eq!(parent_in(b"12 (\xff) S 9 1"), Some(9));
        assert_eq!(parent_in(b"12"), None);
    }
}
