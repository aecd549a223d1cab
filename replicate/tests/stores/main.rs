//! Snapshots and blobs on simulated and real disks.
#![forbid(unsafe_code)]

mod blobs;
mod snapshots;

/// The error with all its causes, as it is told to people.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
