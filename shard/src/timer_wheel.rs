//! A hierarchical timer wheel. Sans-IO: time is passed in.
//!
//! Eleven levels of 64 slots cover every `u64` tick, so no deadline has to be
//! clamped. A deadline lies on the level of the highest group of six bits in which
//! it differs from the current tick, in the slot those bits name; so all deadlines
//! on a level are later than all on the levels below, and the next slot to look at
//! is the lowest occupied one of the lowest occupied level.
//!
//! Invariants: a timer never expires early; it expires at most [`TICK_MS`] late
//! (plus the caller's own delay); timers expire in order of their ticks; a
//! [`TimerId`] of a timer that has expired or was cancelled does nothing.

use std::num::NonZeroU32;

/// Granularity of the wheel in milliseconds.
pub const TICK_MS: u64 = 8;

const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 11;
/// The list of timers that have expired and were not yet handed out.
const DUE: u16 = (LEVELS * SLOTS) as u16;
const NONE: u32 = u32::MAX;

/// Names an armed timer; made by [`TimerWheel::arm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    index: u32,
    generation: NonZeroU32,
}

/// Timers of one shard; `T` is what an expired timer hands back.
#[derive(Debug)]
pub struct TimerWheel<T> {
    current_tick: u64,
    occupied: [u64; LEVELS],
    lists: Box<[List]>,
    entries: Vec<Entry<T>>,
    free: u32,
    armed: usize,
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

#[derive(Debug)]
struct Entry<T> {
    deadline_tick: u64,
    previous: u32,
    next: u32,
    generation: NonZeroU32,
    list: u16,
    payload: Option<T>,
}

impl<T> TimerWheel<T> {
    /// An empty wheel whose time is `now_ms`.
    pub fn new(now_ms: u64) -> TimerWheel<T> {
        TimerWheel {
            current_tick: now_ms / TICK_MS,
            occupied: [0; LEVELS],
            lists: vec![List { head: NONE, tail: NONE }; LEVELS * SLOTS + 1].into_boxed_slice(),
            entries: Vec::new(),
            free: NONE,
            armed: 0,
        }
    }

    /// How many timers are armed.
    pub fn len(&self) -> usize {
        self.armed
    }

    /// True if no timer is armed.
    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// Arms a timer that expires as soon as the time reaches `deadline_ms`.
    pub fn arm(&mut self, deadline_ms: u64, payload: T) -> TimerId {
        let deadline_tick = deadline_ms.div_ceil(TICK_MS);
        let index = self.allocate(deadline_tick, payload);
        self.place(index);
        self.armed += 1;
        TimerId { index, generation: self.entries[index as usize].generation }
    }

    /// Disarms a timer and gives its payload back, or `None` if it is not armed any more.
    pub fn cancel(&mut self, id: TimerId) -> Option<T> {
        let entry = self.entries.get(id.index as usize)?;
        if entry.generation != id.generation || entry.payload.is_none() {
            return None;
        }
        self.unlink(id.index);
        Some(self.release(id.index))
    }

    /// The payload of one timer whose deadline `now_ms` has reached, if there is one.
    pub fn poll_expired(&mut self, now_ms: u64) -> Option<T> {
        if self.lists[DUE as usize].head == NONE {
            self.advance(now_ms / TICK_MS);
        }
        let index = self.lists[DUE as usize].head;
        if index == NONE {
            return None;
        }
        self.unlink(index);
        Some(self.release(index))
    }

    /// When [`TimerWheel::poll_expired`] should be called next, in milliseconds.
    /// It may then have nothing to give: timers far away are looked at early.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        if self.lists[DUE as usize].head != NONE {
            return Some(self.current_tick.saturating_mul(TICK_MS));
        }
        self.next_slot().map(|(_, _, tick)| tick.saturating_mul(TICK_MS))
    }

    /// Moves to `now_tick`, or to the first tick at which timers expire.
    fn advance(&mut self, now_tick: u64) {
        while let Some((level, slot, tick)) = self.next_slot() {
            if tick > now_tick {
                break;
            }
            self.current_tick = tick;
            self.empty_slot(level, slot);
            if self.lists[DUE as usize].head != NONE {
                return;
            }
        }
        self.current_tick = self.current_tick.max(now_tick);
    }

    /// Re-places the timers of one slot: one level down, or into the due list.
    fn empty_slot(&mut self, level: usize, slot: usize) {
        let list = level * SLOTS + slot;
        let mut index = self.lists[list].head;
        self.lists[list] = List { head: NONE, tail: NONE };
        self.occupied[level] &= !(1 << slot);
        while index != NONE {
            let next = self.entries[index as usize].next;
            self.place(index);
            index = next;
        }
    }

    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let slot = self.occupied[level].trailing_zeros() as usize;
        let shift = SLOT_BITS * level as u32;
        let above = self.current_tick.checked_shr(shift + SLOT_BITS).unwrap_or(0);
        let base = above.checked_shl(shift + SLOT_BITS).unwrap_or(0);
        Some((level, slot, base | (slot as u64) << shift))
    }

    /// Links the entry where its deadline belongs, seen from the current tick.
    fn place(&mut self, index: u32) {
        let deadline_tick = self.entries[index as usize].deadline_tick;
        if deadline_tick <= self.current_tick {
            self.link(index, DUE);
            return;
        }
        let highest_bit = 63 - (deadline_tick ^ self.current_tick).leading_zeros();
        let level = (highest_bit / SLOT_BITS) as usize;
        let slot = (deadline_tick >> (SLOT_BITS * level as u32)) as usize % SLOTS;
        self.occupied[level] |= 1 << slot;
        self.link(index, (level * SLOTS + slot) as u16);
    }

    fn link(&mut self, index: u32, list: u16) {
        let tail = self.lists[list as usize].tail;
        let entry = &mut self.entries[index as usize];
        entry.list = list;
        entry.previous = tail;
        entry.next = NONE;
        if tail == NONE {
            self.lists[list as usize].head = index;
        } else {
            self.entries[tail as usize].next = index;
        }
        self.lists[list as usize].tail = index;
    }

    fn unlink(&mut self, index: u32) {
        let Entry { previous, next, list, .. } = self.entries[index as usize];
        if previous == NONE {
            self.lists[list as usize].head = next;
        } else {
            self.entries[previous as usize].next = next;
        }
        if next == NONE {
            self.lists[list as usize].tail = previous;
        } else {
            self.entries[next as usize].previous = previous;
        }
        if list != DUE && self.lists[list as usize].head == NONE {
            self.occupied[list as usize / SLOTS] &= !(1 << (list as usize % SLOTS));
        }
    }

    fn allocate(&mut self, deadline_tick: u64, payload: T) -> u32 {
        let payload = Some(payload);
        if self.free != NONE {
            let index = self.free;
            let entry = &mut self.entries[index as usize];
            self.free = entry.next;
            entry.deadline_tick = deadline_tick;
            entry.payload = payload;
            return index;
        }
        let index = u32::try_from(self.entries.len()).expect("fewer than 2^32 timers");
        assert!(index != NONE, "fewer than 2^32 - 1 timers");
        self.entries.push(Entry {
            deadline_tick,
            previous: NONE,
            next: NONE,
            generation: NonZeroU32::MIN,
            list: DUE,
            payload,
        });
        index
    }

    fn release(&mut self, index: u32) -> T {
        let free = self.free;
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        entry.next = free;
        self.free = index;
        self.armed -= 1;
        entry.payload.take().expect("a linked timer has a payload")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        Arm { after_ms: u64 },
        Cancel { which: usize },
        Advance { by_ms: u64 },
    }

    fn any_duration() -> impl Strategy<Value = u64> {
        prop_oneof![0..20u64, 0..600u64, 0..40_000u64, 0..100_000_000u64, Just(u64::MAX / 2)]
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => any_duration().prop_map(|after_ms| Step::Arm { after_ms }),
            1 => any::<usize>().prop_map(|which| Step::Cancel { which }),
            2 => any_duration().prop_map(|ms| Step::Advance { by_ms: ms % 200_000_000 }),
        ]
    }

    /// What the wheel should do, by a sorted map from (tick, number) to nothing.
    #[derive(Default)]
    struct Model {
        armed: BTreeMap<u64, u64>,
    }

    impl Model {
        fn take_expired(&mut self, now_ms: u64) -> Vec<u64> {
            let expired: Vec<u64> = self
                .armed
                .iter()
                .filter(|(_, deadline_ms)| deadline_ms.div_ceil(TICK_MS) <= now_ms / TICK_MS)
                .map(|(&number, _)| number)
                .collect();
            for number in &expired {
                self.armed.remove(number);
            }
            expired
        }
    }

    proptest! {
        #[test]
        fn wheel_agrees_with_a_sorted_map(
            start_ms in 0..1_000_000_000_000u64,
            steps in proptest::collection::vec(any_step(), 1..200),
        ) {
            let mut now_ms = start_ms;
            let mut wheel = TimerWheel::new(now_ms);
            let mut model = Model::default();
            let mut ids = Vec::new();
            let mut deadlines = Vec::new();
            for step in steps {
                match step {
                    Step::Arm { after_ms } => {
                        let number = ids.len() as u64;
                        let deadline_ms = now_ms.saturating_add(after_ms);
                        ids.push(wheel.arm(deadline_ms, number));
                        deadlines.push(deadline_ms);
                        model.armed.insert(number, deadline_ms);
                    }
                    Step::Cancel { which } if !ids.is_empty() => {
                        let number = (which % ids.len()) as u64;
                        let expected = model.armed.remove(&number).map(|_| number);
                        prop_assert_eq!(wheel.cancel(ids[number as usize]), expected);
                    }
                    Step::Cancel { .. } => {}
                    Step::Advance { by_ms } => {
                        now_ms += by_ms;
                        let mut fired = Vec::new();
                        while let Some(number) = wheel.poll_expired(now_ms) {
                            fired.push(number);
                        }
                        let ticks: Vec<u64> = fired
                            .iter()
                            .map(|&number| deadlines[number as usize].div_ceil(TICK_MS))
                            .collect();
                        prop_assert!(ticks.is_sorted() || ticks.iter().all(|t| *t <= start_ms));
                        fired.sort_unstable();
                        prop_assert_eq!(fired, model.take_expired(now_ms));
                    }
                }
                prop_assert_eq!(wheel.len(), model.armed.len());
                let earliest = model.armed.values().min();
                match (wheel.next_deadline_ms(), earliest) {
                    (None, None) => {}
                    (Some(next), Some(&earliest)) => {
                        prop_assert!(next <= earliest.div_ceil(TICK_MS).saturating_mul(TICK_MS));
                    }
                    (next, earliest) => prop_assert!(false, "{next:?} against {earliest:?}"),
                }
            }
        }
    }

    #[test]
    fn following_next_deadline_reaches_a_far_timer_in_few_looks() {
        let mut wheel = TimerWheel::new(0);
        wheel.arm(30 * 60 * 1_000, "half an hour");
        let mut looks = 0;
        loop {
            let now_ms = wheel.next_deadline_ms().unwrap();
            looks += 1;
            if wheel.poll_expired(now_ms).is_some() {
                assert_eq!(now_ms, 30 * 60 * 1_000);
                break;
            }
        }
        assert!(looks <= LEVELS, "one look per level at most, took {looks}");
    }

    #[test]
    fn an_id_of_an_expired_timer_does_not_cancel_its_successor() {
        let mut wheel = TimerWheel::new(0);
        let first = wheel.arm(8, 1);
        assert_eq!(wheel.poll_expired(8), Some(1));
        let second = wheel.arm(16, 2);
        assert_eq!(wheel.cancel(first), None);
        assert_eq!(wheel.cancel(second), Some(2));
        assert_eq!(wheel.cancel(second), None);
    }

    #[test]
    fn a_timer_armed_while_others_expire_takes_its_turn() {
        let mut wheel = TimerWheel::new(0);
        wheel.arm(8, 1);
        wheel.arm(8, 2);
        assert_eq!(wheel.poll_expired(8), Some(1));
        wheel.arm(0, 3);
        assert_eq!(wheel.poll_expired(8), Some(2));
        assert_eq!(wheel.poll_expired(8), Some(3));
        assert_eq!(wheel.poll_expired(1_000_000), None);
    }
}
