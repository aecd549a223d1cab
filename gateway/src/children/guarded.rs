//! The gateway's side of one guard: how it is started, spoken to and ended.

use std::ffi::OsString;
use std::io::{self, IoSlice, PipeReader};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

use super::guard::{GUARD_COMMAND, KILL_TIME_MAX};
use super::reports::{ORDER_KILL, ORDER_STOP, REPORT_BYTES, Report};
use super::{ChildSpec, InheritedEnv};

/// Beyond the time that a guard itself allows, before it is ended by force.
const GUARD_SLACK: Duration = Duration::from_secs(2);

/// What is run as a guard, up to and including [`GUARD_COMMAND`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardProgram {
    /// The file.
    pub program: PathBuf,
    /// What comes before the guard's own arguments.
    pub arguments: Vec<OsString>,
}

impl Default for GuardProgram {
    /// This very program, also if its file was replaced or removed since it was started.
    fn default() -> GuardProgram {
        GuardProgram { program: "/proc/self/exe".into(), arguments: vec![GUARD_COMMAND.into()] }
    }
}

/// A guard that runs. Dropping it tells the guard to end the child with its grace.
pub(super) struct Guarded {
    control: UnixStream,
    process: Child,
    grace: Duration,
    /// The child's process group, once that is known.
    group: Option<Pid>,
}

/// The child's standard streams, seen from here.
pub(super) struct Streams {
    pub(super) input: pipe::Sender,
    pub(super) output: ChildStdout,
    pub(super) errors: ChildStderr,
}

impl Guarded {
    /// Starts a guard, which starts the child.
    pub(super) fn spawn(
        program: &GuardProgram,
        spec: &ChildSpec,
    ) -> io::Result<(Guarded, Streams)> {
        let grace = Duration::from_millis(spec.stop_grace_ms);
        let (ours, theirs) = StdUnixStream::pair()?;
        let (child_input, input) = io::pipe()?;
        send_input(&ours, &child_input)?;
        drop(child_input);
        let mut command = guard_command(program, spec);
        command
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Out of the gateway's group: Ctrl-C on a terminal is for the gateway, which
            // then drains. Never killed on drop: it must outlive us to end the child.
            .process_group(0);
        let mut process = command.spawn()?;
        // The builder holds the guard's end of the socket.
        drop(command);
        ours.set_nonblocking(true)?;
        let control = UnixStream::from_std(ours)?;
        let missing = || io::Error::other("a piped stream is missing");
        let output = process.stdout.take().ok_or_else(missing)?;
        let errors = process.stderr.take().ok_or_else(missing)?;
        let input = pipe::Sender::from_owned_fd(input.into())?;
        Ok((Guarded { control, process, grace, group: None }, Streams { input, output, errors }))
    }

    /// The guard's next report; `None` when it is gone or speaks another language.
    /// Must not be dropped half-way if another report is wanted.
    pub(super) async fn report(&mut self) -> Option<Report> {
        let mut bytes = [0; REPORT_BYTES];
        self.control.read_exact(&mut bytes).await.ok()?;
        let report = Report::decode(bytes)?;
        if let Report::Started(pid) = report {
            self.group = Pid::from_raw(pid);
        }
        Some(report)
    }

    /// The child's process id, once it was reported.
    pub(super) fn child_pid(&self) -> i32 {
        self.group.map_or(0, |group| group.as_raw_nonzero().get())
    }

    /// Tells the guard to end the child within its grace. Its input should be closed by now.
    pub(super) async fn stop(&mut self) {
        let _ = self.control.write_all(&[ORDER_STOP]).await;
    }

    /// Tells the guard to end the child and its descendants at once.
    pub(super) async fn kill(&mut self) {
        let _ = self.control.write_all(&[ORDER_KILL]).await;
    }

    /// Waits for the end of a guard that was told to stop, and reaps it. One that does not
    /// end in time, or was itself killed, is followed by SIGKILL to the child's group.
    pub(super) async fn wait(&mut self) {
        let patience = self.grace + KILL_TIME_MAX + GUARD_SLACK;
        let status = timeout(patience, self.process.wait()).await;
        if matches!(&status, Ok(Ok(status)) if status.success()) {
            return;
        }
        tracing::warn!(
            event = "guard_failed",
            child = self.child_pid(),
            status = ?status.ok().and_then(Result::ok).as_ref().map(ExitStatus::to_string),
            "the guard of a tool server's process failed; its group is killed"
        );
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.process.start_kill();
        let _ = self.process.wait().await;
    }
}

/// One byte has to go with the descriptor.
fn send_input(control: &StdUnixStream, input: &PipeReader) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [input.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(control, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn guard_command(program: &GuardProgram, spec: &ChildSpec) -> Command {
    let mut command = Command::new(&program.program);
    // `pkill -f shardgate` shall not hit guards.
    command.arg0(GUARD_COMMAND);
    command.args(&program.arguments);
    command.arg("--grace-ms").arg(spec.stop_grace_ms.to_string());
    if let Some(directory) = &spec.directory {
        command.arg("--directory").arg(directory);
    }
    command.arg("--").args(&spec.command);
    if let InheritedEnv::Only(names) = &spec.inherit {
        command.env_clear();
        command.envs(names.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    }
    command.envs(spec.env.iter().map(|(name, value)| (name, value)));
    command
}
