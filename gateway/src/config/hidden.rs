//! Texts that may be secret, though they stand in the configuration: header values, variables of children.
//!
//! Invariant: `Debug` never shows them. Serialising does, so what is printed for people is
//! taken from [`super::Config::for_print`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// What stands for a hidden text; it is sound wherever such a text is.
pub(super) const MASK: &str = "***";

/// A text that logs and messages don't show.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HiddenText(String);

impl HiddenText {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> HiddenText {
        HiddenText(text.into())
    }

    /// The text itself: for the wire or a child's environment, never for a message.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What may be shown in its place.
    pub(super) fn masked() -> HiddenText {
        HiddenText(MASK.to_owned())
    }
}

impl fmt::Debug for HiddenText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(MASK)
    }
}
