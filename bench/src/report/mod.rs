//! What a run says and writes.

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
