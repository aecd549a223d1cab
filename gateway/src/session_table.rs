//! The shard's slice of all sessions: a slab, and an index by the id's random bits.
//!
//! Invariant: a session is owned by exactly one shard, so nothing here is
//! shared or locked. The index needs no hashing: ids carry 128 random bits and
//! were authenticated before they come here, so nobody can choose colliding ones.
//!
//! Limit: 2^32 sessions per shard; the configuration stays far below.

use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::HashMap;
use shardgate_proto::mcp::session_id::SessionId;
use shardgate_proto::upstream::SessionKey;
use slab::Slab;

#[derive(Debug)]
struct Entry<T> {
    id: SessionId,
    generation: u32,
    session: T,
}

/// All sessions of one shard, each with what the gateway keeps of it.
#[derive(Debug)]
pub struct SessionTable<T> {
    entries: Slab<Entry<T>>,
    index: HashMap<u64, u32, BuildHasherDefault<RandomBits>>,
    generation: u32,
}

impl<T> Default for SessionTable<T> {
    fn default() -> SessionTable<T> {
        SessionTable { entries: Slab::new(), index: HashMap::default(), generation: 0 }
    }
}

impl<T> SessionTable<T> {
    /// An empty table.
    pub fn new() -> SessionTable<T> {
        SessionTable::default()
    }

    /// Adds a session; its key stays valid until it is removed and is not used again
    /// before 2^32 other sessions have come.
    pub fn insert(&mut self, id: SessionId, session: T) -> SessionKey {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let slot = self.entries.insert(Entry { id, generation, session });
        let slot = u32::try_from(slot).expect("the configuration bounds sessions below 2^32");
        self.index.insert(fingerprint(id), slot);
        key(slot, generation)
    }

    /// The key of the session with this id.
    #[inline]
    pub fn find(&self, id: SessionId) -> Option<SessionKey> {
        let slot = *self.index.get(&fingerprint(id))?;
        let entry = self.entries.get(slot as usize)?;
        (entry.id == id).then(|| key(slot, entry.generation))
    }

    /// The session with this key, if it still exists.
    #[inline]
    pub fn session(&mut self, key: SessionKey) -> Option<&mut T> {
        let entry = self.entries.get_mut(slot_of(key))?;
        (entry.generation == generation_of(key)).then_some(&mut entry.session)
    }

    /// The id of the session with this key.
    pub fn id(&self, key: SessionKey) -> Option<SessionId> {
        let entry = self.entries.get(slot_of(key))?;
        (entry.generation == generation_of(key)).then_some(entry.id)
    }

    /// Takes a session out.
    pub fn remove(&mut self, key: SessionKey) -> Option<T> {
        self.session(key)?;
        let entry = self.entries.remove(slot_of(key));
        self.index.remove(&fingerprint(entry.id));
        Some(entry.session)
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The keys of all sessions.
    pub fn keys(&self) -> Vec<SessionKey> {
        self.entries.iter().map(|(slot, entry)| key(slot as u32, entry.generation)).collect()
    }
}

fn fingerprint(id: SessionId) -> u64 {
    id.random as u64
}

fn key(slot: u32, generation: u32) -> SessionKey {
    SessionKey(u64::from(generation) << 32 | u64::from(slot))
}

fn slot_of(key: SessionKey) -> usize {
    (key.0 & u64::from(u32::MAX)) as usize
}

fn generation_of(key: SessionKey) -> u32 {
    (key.0 >> 32) as u32
}

/// Passes random bits through unchanged.
#[derive(Default)]
struct RandomBits(u64);

impl Hasher for RandomBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("the index is keyed by u64");
    }

    fn write_u64(&mut self, bits: u64) {
        self.0 = bits;
    }
}

#[cfg(test)]
mod tests {
    use shardgate_proto::mcp::session_id::Vshard;

    use super::*;

    fn id(random: u128) -> SessionId {
        SessionId { vshard: Vshard::new(7).expect("below the maximum"), random }
    }

    #[test]
    fn a_session_is_found_until_it_is_removed() {
        let mut table = SessionTable::new();
        let one = table.insert(id(1), "one");
        let two = table.insert(id(2), "two");
        assert_eq!((table.find(id(1)), table.find(id(2))), (Some(one), Some(two)));
        assert_eq!(table.find(id(3)), None);
        assert_eq!(table.remove(one), Some("one"));
        assert_eq!(table.find(id(1)), None);
        assert_eq!(table.session(one), None);
        assert_eq!(table.remove(one), None);
        assert_eq!(table.session(two), Some(&mut "two"));
        assert_eq!(table.keys(), [two]);
    }

    #[test]
    fn a_reused_slot_does_not_answer_to_its_old_key() {
        let mut table = SessionTable::new();
        let old = table.insert(id(1), 1);
        table.remove(old);
        let new = table.insert(id(2), 2);
        assert_ne!(old, new);
        assert_eq!(table.session(old), None);
        assert_eq!(table.session(new), Some(&mut 2));
    }

    #[test]
    fn an_id_that_differs_in_its_upper_half_is_another_session() {
        let mut table = SessionTable::new();
        table.insert(id(1), ());
        assert_eq!(table.find(id(1 | 1 << 100)), None);
    }
}
