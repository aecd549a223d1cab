//! The guard: the process between the gateway and one child.
//!
//! The gateway starts it as `shardgate child-guard -- command…` with a socket as standard
//! input and the child's own standard output and error. It exists because a child must not
//! outlive the gateway, not even when that is killed with SIGKILL, and nor must what the child
//! started (`npx` starts `node`).
//!
//! Invariants:
//! - The child leads a process group of its own; the guard is in neither that group nor the
//!   gateway's, so a signal meant for one does not hit the others.
//! - The guard ends when its child and all descendants of it have ended, and only then: it
//!   ignores SIGTERM, SIGINT and SIGHUP.
//! - The child's id is reaped last, so neither it nor its group's id is ever somebody else's
//!   when a signal goes there.
//! - It holds neither end of the child's pipes: a pipe the child closes is closed.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, getpid, kill_process_group,
    pidfd_open, set_child_subreaper, waitid,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::leftovers::{has_children, living_children_except, signal_all};
use super::reports::{ORDER_KILL, Report};

/// The hidden command under which the gateway starts itself as a guard.
pub const GUARD_COMMAND: &str = "child-guard";

/// How long the guard waits for processes to die of SIGKILL before it gives them up. Only
/// one that hangs within the kernel takes that long.
pub const KILL_TIME_MAX: Duration = Duration::from_secs(5);

/// How often the guard looks whether what the child left behind has ended.
const LEFTOVERS_LOOK: Duration = Duration::from_millis(10);

/// The same, once it was killed.
const KILLED_LOOK: Duration = Duration::from_millis(1);

/// What a guard is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardOrder {
    /// How long the child may take to end.
    pub grace: Duration,
    /// Where it runs.
    pub directory: Option<PathBuf>,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

/// Why a guard could not guard.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// It was started by hand.
    #[error("take the child's input from the gateway; only the gateway starts a guard")]
    NoGateway(#[source] io::Error),
    /// There is nothing to run.
    #[error("no command is given")]
    NoCommand,
    /// The system refuses what a guard needs.
    #[error("{step}")]
    System {
        /// What failed.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Runs one child and returns when nothing of it is left.
///
/// # Errors
/// See [`GuardError`]. A child that can't be started is no error of the guard's: the gateway
/// is told over the socket.
pub fn guard(order: &GuardOrder) -> Result<(), GuardError> {
    let system = |step| move |source: io::Error| GuardError::System { step, source };
    let control = io::stdin().as_fd().try_clone_to_owned().map_err(GuardError::NoGateway)?;
    let control = UnixStream::from(control);
    let input = receive_input(&control).map_err(GuardError::NoGateway)?;
    settle().map_err(system("set up the guard's signals and name"))?;
    let (program, arguments) = order.command.split_first().ok_or(GuardError::NoCommand)?;
    if let Some(Err(error)) = order.directory.as_ref().map(std::env::set_current_dir) {
        report(&control, Report::NoDirectory(error.raw_os_error().unwrap_or_default()));
        return Ok(());
    }
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::from(input)).process_group(0);
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            report(&control, Report::NoCommand(error.raw_os_error().unwrap_or_default()));
            return Ok(());
        }
    };
    // The builder holds the input's descriptor.
    drop(command);
    let pid = Pid::from_child(&child);
    report(&control, Report::Started(pid.as_raw_nonzero().get()));
    leave_streams().map_err(system("let go of the child's streams"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())
        .map_err(|error| system("watch the child")(error.into()))?;
    Watch { control, is_control_open: true, pid, pidfd, grace: order.grace, stage: Stage::Running }
        .until_nothing_is_left();
    Ok(())
}

/// The one descriptor that comes with the first byte.
fn receive_input(control: &UnixStream) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut slices = [IoSliceMut::new(&mut byte)];
    recvmsg(control, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptor = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            descriptor = descriptors.next();
        }
    }
    descriptor.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
}

/// Makes this process one that can be relied upon to be there last.
fn settle() -> io::Result<()> {
    // A handler rather than "ignore", because what is ignored stays so in the child.
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    // `killall shardgate` shall not hit guards.
    rustix::thread::set_name(c"child-guard")?;
    // Without it we would not find what leaves the child's process group.
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Closes our copies of the child's output pipes, so that their ends are seen.
fn leave_streams() -> io::Result<()> {
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(rustix::stdio::dup2_stderr(&null)?)
}

/// A gateway that is gone needs no report.
fn report(mut control: &UnixStream, report: Report) {
    let _ = control.write_all(&report.encode());
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Running,
    /// The input is closed; SIGTERM follows at this time.
    InputClosed {
        terminate_at: Instant,
        kill_at: Instant,
    },
    /// SIGTERM was sent; SIGKILL follows at this time.
    Terminated {
        kill_at: Instant,
    },
    /// SIGKILL was sent.
    Killed,
}

struct Watch {
    control: UnixStream,
    is_control_open: bool,
    pid: Pid,
    pidfd: OwnedFd,
    grace: Duration,
    stage: Stage,
}

impl Watch {
    fn until_nothing_is_left(mut self) {
        let status = loop {
            if let Some(status) = self.exit_status() {
                break status;
            }
            let until = match self.stage {
                Stage::Running | Stage::Killed => None,
                Stage::InputClosed { terminate_at, .. } => Some(terminate_at),
                Stage::Terminated { kill_at } => Some(kill_at),
            };
            self.wait(until, true);
            self.advance(Instant::now());
        };
        report(&self.control, status);
        self.end_leftovers();
    }

    /// Leaves the child unreaped.
    fn exit_status(&self) -> Option<Report> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(self.pid), options).ok().flatten()?;
        let killed = status.terminating_signal().map(Report::Killed);
        killed.or_else(|| WaitIdStatus::exit_status(&status).map(Report::Exited))
    }

    /// MCP 2025-11-25, lifecycle, shutdown over stdio: close the input, wait, SIGTERM, wait,
    /// SIGKILL. The input was closed by the gateway, if only by its end.
    fn advance(&mut self, now: Instant) {
        match self.stage {
            Stage::InputClosed { terminate_at, kill_at } if now >= terminate_at => {
                let _ = kill_process_group(self.pid, Signal::TERM);
                self.stage = Stage::Terminated { kill_at };
            }
            Stage::Terminated { kill_at } if now >= kill_at => self.kill(),
            Stage::Running
            | Stage::InputClosed { .. }
            | Stage::Terminated { .. }
            | Stage::Killed => {}
        }
    }

    fn kill(&mut self) {
        let _ = kill_process_group(self.pid, Signal::KILL);
        self.stage = Stage::Killed;
    }

    fn begin_stop(&mut self) {
        if self.stage == Stage::Running {
            let now = Instant::now();
            let (terminate_at, kill_at) = (now + self.grace / 2, now + self.grace);
            self.stage = Stage::InputClosed { terminate_at, kill_at };
        }
    }

    /// Waits for an order, for the child's end if that is asked for, or for the time.
    fn wait(&mut self, until: Option<Instant>, for_child: bool) {
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        // A duration that came from milliseconds of configuration fits.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let no_flags = PollFlags::empty();
        let flags = |is_wanted| if is_wanted { PollFlags::IN } else { no_flags };
        let mut entries = vec![PollFd::new(&self.pidfd, flags(for_child))];
        if self.is_control_open {
            entries.push(PollFd::new(&self.control, PollFlags::IN));
        }
        // Interrupted by a signal: whoever called looks at everything again anyway.
        let _ = poll(&mut entries, timeout.as_ref());
        let is_order = entries.get(1).is_some_and(|entry| !entry.revents().is_empty());
        if is_order {
            self.take_order();
        }
    }

    fn take_order(&mut self) {
        let mut order = [0];
        match self.control.read(&mut order) {
            Ok(1) if order[0] == ORDER_KILL => self.kill(),
            // ORDER_STOP; there is no third.
            Ok(1) => self.begin_stop(),
            Ok(_) => {
                self.is_control_open = false;
                self.begin_stop();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => {
                self.is_control_open = false;
                self.begin_stop();
            }
        }
    }

    /// The child has ended: what it started ends too, by SIGTERM and then by SIGKILL. Reaps
    /// the child.
    fn end_leftovers(&mut self) {
        let kill_at = match self.stage {
            Stage::Running => Instant::now() + self.grace / 2,
            Stage::InputClosed { kill_at, .. } | Stage::Terminated { kill_at } => kill_at,
            Stage::Killed => Instant::now(),
        };
        let mut living = living_children_except(self.pid);
        if !living.is_empty() && self.stage != Stage::Killed {
            let _ = kill_process_group(self.pid, Signal::TERM);
            signal_all(&living, Signal::TERM);
        }
        while !living.is_empty() && self.stage != Stage::Killed && Instant::now() < kill_at {
            self.wait(Some(Instant::now() + LEFTOVERS_LOOK), false);
            living = living_children_except(self.pid);
        }
        // Also what left the list of our children between two looks.
        self.kill();
        // The last use of the child's id was before this.
        let _ = waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        let give_up_at = Instant::now() + KILL_TIME_MAX;
        while has_children() && Instant::now() < give_up_at {
            signal_all(&living_children_except(self.pid), Signal::KILL);
            std::thread::sleep(KILLED_LOOK);
        }
    }
}
