//! What a run says and writes.

pub(crate) mod columns;
pub mod files;
pub mod percentiles;
pub mod quantities;
#[cfg(test)]
pub(crate) mod sample;
pub mod table;
