//! Faults planted on purpose, each of which the simulator must notice.
//!
//! A checker that never complains proves nothing. Each mutant breaks something the
//! cluster relies on (a disk's promise, a link's, the engine's settings, a client's
//! manners); a test shows that its runs are told from sound ones.

/// What is broken in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A write counts as safe when it is handed over.
    AckBeforeSync,
    /// Votes do not reach the disk.
    LoseVotes,
    /// One entry more than asked is cut off.
    TruncateTooMuch,
    /// Now and then an append is acknowledged and not written.
    LoseAppends,
    /// Snapshots are acknowledged and not kept.
    ForgetSnapshots,
    /// A crash keeps any part of what was on its way, not the first part.
    TearOutOfOrder,
    /// Now and then a node restarts with an empty disk.
    Amnesia,
    /// A restarted leader leads on without an election.
    RestoreLeader,
    /// Readers do not ask what is committed.
    SkipBarrier,
    /// Now and then a request gets another one's answer.
    MixAnswers,
    /// A client takes silence for consent.
    TakeSilenceForConsent,
    /// Now and then what is read back from the disk is an earlier entry.
    ReadWrongEntry,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 12] = [
        Mutant::AckBeforeSync,
        Mutant::LoseVotes,
        Mutant::TruncateTooMuch,
        Mutant::LoseAppends,
        Mutant::ForgetSnapshots,
        Mutant::TearOutOfOrder,
        Mutant::Amnesia,
        Mutant::RestoreLeader,
        Mutant::SkipBarrier,
        Mutant::MixAnswers,
        Mutant::TakeSilenceForConsent,
        Mutant::ReadWrongEntry,
    ];

    /// The mutant of this name, as `Debug` writes it.
    pub fn named(name: &str) -> Option<Mutant> {
        Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name)
    }
}
