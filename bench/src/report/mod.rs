//! What a run says and writes. All of it is made from an [`Outcome`](crate::outcome::Outcome)
//! alone, so that a run that was written with `--json` can be shown again later.
//!
//! | for | call |
//! |---|---|
//! | the live line | [`progress::Progress::start`], then `stage`, `second`, `say`, `finish` |
//! | the table at the end | [`table::table`], printed through `anstream` |
//! | `--json`, `--csv`, `--hgrm`, `--html` | [`files::Outputs::write`]; every error it returns is told |
//! | `report in.json --html out.html` | [`files::read`], then [`files::Outputs::write`] |
//! | `compare a.json b.json` | [`files::read`] twice, [`Comparison::of`](crate::compare::Comparison::of), its `text`; `is_fair` for the exit code |
//! | `--fail-if` | [`Thresholds`](crate::thresholds::Thresholds) by `parse`, `broken` into the verdict |
//! | histograms into an outcome | [`percentiles::distribution`], [`percentiles::summary`] for operations |
//! | facts of the machine | [`HostFacts::read`](crate::outcome::HostFacts::read), `warnings` before the run |
//! | figures of the server | [`ServerWatch`](crate::server_figures::ServerWatch): `open` before the first connection, `begin`, `lap` each second, `end`, `figures` |
//! | an error with its causes | [`error_text`] |

pub(crate) mod columns;
pub mod files;
pub mod html;
pub mod percentiles;
pub mod progress;
pub mod quantities;
#[cfg(test)]
pub(crate) mod sample;
pub mod table;

use std::error::Error;

/// The error and its causes in one line of text.
pub fn error_text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
