//! The driver as a task of the glommio executor: when it yields and how it sleeps.
//!
//! When there is nothing to do it first waits in its own ring for a moment, then sleeps.
//! It sleeps by reading the shard's eventfd through the executor, so that the
//! executor's other tasks (files, timers, handshakes) run meanwhile. glommio offers no
//! bare poll of a descriptor; a read of a "file" made from the eventfd is the cheapest
//! public way to its ring.
//!
//! glommio 0.9 parks a thread although a task is runnable, if its preempt timer has
//! fired by the time it first looks: the thread only has to lose its cpu, or be stopped,
//! for that long at the wrong moment, and then nothing wakes it. So the preempt timer is
//! set so far away that it never fires; the driver yields not by making itself runnable
//! again but by an I/O operation that completes at once, which makes the executor look
//! at its rings and lets the other tasks run; and a heartbeat wakes an executor that
//! should be parked wrongly for some other reason.
//!
//! Invariant: a busy driver yields at least every `yield_after_us` plus one turn. The
//! other tasks of the executor must yield by themselves too: nobody preempts them.

use std::os::fd::{FromRawFd, IntoRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use glommio::io::BufferedFile;
use glommio::timer::Timer;

use crate::driver::{Driver, Turn};
use crate::runtime::{ExitReason, panic_message};
use crate::service::Service;

/// A shard that got a message within this time before it runs out of work spins a
/// moment before it sleeps: the next message is likely near.
const TALKING_WITHIN_NS: u64 = 1_000_000;

/// The executor's preempt timer: never, as far as a process is concerned.
pub(crate) const PREEMPT_NEVER: Duration = Duration::from_secs(365 * 24 * 3_600);

/// How often the executor is woken, whatever happens.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// Runs the shard to its end.
pub(crate) async fn run<S: Service>(mut driver: Driver<S>) -> ExitReason {
    let bell = match driver.state.mesh.doorbell().eventfd().try_clone_to_owned() {
        // SAFETY: the descriptor is fresh and owned by nobody else; the file closes it.
        Ok(eventfd) => unsafe { BufferedFile::from_raw_fd(eventfd.into_raw_fd()) },
        Err(error) => return ExitReason::Failed(format!("duplicate the eventfd: {error}")),
    };
    let heartbeat = glommio::spawn_local(async {
        loop {
            Timer::new(HEARTBEAT).await;
        }
    });
    let reason = drive(&mut driver, &bell).await;
    heartbeat.cancel().await;
    if !matches!(reason, ExitReason::Panicked(_)) {
        let ended = catch_unwind(AssertUnwindSafe(|| driver.end()));
        if let Err(payload) = ended {
            return ExitReason::Panicked(panic_message(payload.as_ref()));
        }
    }
    drop(driver);
    // An error means the descriptor is closed already.
    let _ = bell.close().await;
    reason
}

async fn drive<S: Service>(driver: &mut Driver<S>, bell: &BufferedFile) -> ExitReason {
    let yield_after_ns = driver.state.config.yield_after_us * 1_000;
    let spin_ns = driver.state.config.spin_us * 1_000;
    let mut yielded_ns = driver.state.now_ns;
    loop {
        // A panic that gets here comes from a callback that belongs to no connection, or
        // from `handle_closed`.
        let turn = match catch_unwind(AssertUnwindSafe(|| driver.turn())) {
            Ok(Ok(turn)) => turn,
            Ok(Err(error)) => return ExitReason::Failed(format!("submit to a data ring: {error}")),
            Err(payload) => return ExitReason::Panicked(panic_message(payload.as_ref())),
        };
        let now_ns = driver.state.now_ns;
        match turn {
            Turn::Finished if driver.state.finished => return ExitReason::Finished,
            Turn::Finished => return ExitReason::DeadlineReached,
            Turn::Worked | Turn::Idle if now_ns - yielded_ns >= yield_after_ns => {
                driver.state.mesh.doorbell().answer_next_read();
                if let Err(error) = bell.read_at(0, size_of::<u64>()).await {
                    return ExitReason::Failed(format!("read the eventfd: {error}"));
                }
                yielded_ns = now_ns;
            }
            Turn::Worked => {}
            Turn::Idle => {
                if found_by_spinning(driver, spin_ns) {
                    continue;
                }
                match driver.wait().and_then(|found| Ok(!found && driver.fall_asleep()?)) {
                    Ok(false) => continue,
                    Ok(true) => {}
                    Err(error) => {
                        return ExitReason::Failed(format!("submit to a data ring: {error}"));
                    }
                }
                let woken = bell.read_at(0, size_of::<u64>()).await;
                driver.wake();
                yielded_ns = crate::clock::monotonic_ns();
                if let Err(error) = woken {
                    return ExitReason::Failed(format!("read the eventfd: {error}"));
                }
            }
        }
    }
}

/// Looks for work for a moment, if other shards are talking to this one.
fn found_by_spinning<S: Service>(driver: &mut Driver<S>, spin_ns: u64) -> bool {
    let talking = driver
        .last_message_ns
        .is_some_and(|last_ns| driver.state.now_ns - last_ns < TALKING_WITHIN_NS);
    if !talking || spin_ns == 0 {
        return false;
    }
    let end_ns = crate::clock::monotonic_ns() + spin_ns;
    while crate::clock::monotonic_ns() < end_ns {
        if driver.has_work() {
            return true;
        }
        std::hint::spin_loop();
    }
    false
}
