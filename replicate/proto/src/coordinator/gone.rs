//! What is gone, remembered for as long as a late copy of a command may still speak of it.

use std::collections::{BTreeMap, BTreeSet};

use super::{GONE_MAX, RETRY_WINDOW_MS};

/// Names that are gone, each with what is to be known of it.
///
/// Limit: [`GONE_MAX`] names, each for [`RETRY_WINDOW_MS`]; beyond, the oldest are forgotten early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gone<K, V> {
    by_name: BTreeMap<K, (V, u64)>,
    by_time: BTreeSet<(u64, K)>,
}

impl<K, V> Default for Gone<K, V> {
    fn default() -> Gone<K, V> {
        Gone { by_name: BTreeMap::new(), by_time: BTreeSet::new() }
    }
}

impl<K: Ord + Clone, V: Copy> Gone<K, V> {
    /// Remembers a name from now on.
    pub(super) fn insert(&mut self, name: K, what: V, now_ms: u64) {
        if let Some((_, before_ms)) = self.by_name.insert(name.clone(), (what, now_ms)) {
            self.by_time.remove(&(before_ms, name.clone()));
        }
        self.by_time.insert((now_ms, name));
        while self.by_time.len() > GONE_MAX {
            self.forget_oldest();
        }
    }

    /// Forgets what is older than the window.
    pub(super) fn advance(&mut self, now_ms: u64) {
        while let Some((gone_ms, _)) = self.by_time.first()
            && gone_ms.saturating_add(RETRY_WINDOW_MS) <= now_ms
        {
            self.forget_oldest();
        }
    }

    /// What is known of a name.
    pub(super) fn known<Q>(&self, name: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.by_name.get(name).map(|(what, _)| *what)
    }

    fn forget_oldest(&mut self) {
        if let Some((_, name)) = self.by_time.pop_first() {
            self.by_name.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_for_the_window_and_no_longer() {
        let mut gone = Gone::default();
        gone.insert("a", 1, 1_000);
        gone.insert("b", 2, 2_000);
        gone.insert("a", 3, 3_000);
        gone.advance(2_999 + RETRY_WINDOW_MS);
        assert_eq!((gone.known("a"), gone.known("b")), (Some(3), None));
        gone.advance(3_000 + RETRY_WINDOW_MS);
        assert_eq!(gone, Gone::default());
    }

    #[test]
    fn the_oldest_are_forgotten_when_there_are_too_many() {
        let mut gone = Gone::default();
        for name in 0..=GONE_MAX {
            gone.insert(name, (), name as u64);
        }
        assert_eq!((gone.known(&0), gone.known(&1)), (None, Some(())));
        assert_eq!((gone.by_name.len(), gone.by_time.len()), (GONE_MAX, GONE_MAX));
    }
}
