//! What shards are told. A shard without room is told later, in the same order.

use std::cell::RefCell;
use std::collections::VecDeque;

use crate::tasks::FromDesk;

/// Puts a message into a shard's inbox without blocking. It comes back if that is full; if
/// the shard has ended, nobody misses it.
pub(crate) type DeliverTasks = Box<dyn Fn(u16, FromDesk) -> Result<(), FromDesk> + Send>;

pub(super) struct Outbox {
    deliver: DeliverTasks,
    late: RefCell<Vec<VecDeque<FromDesk>>>,
}

impl Outbox {
    pub(super) fn new(shards: u16, deliver: DeliverTasks) -> Outbox {
        let late = (0..shards).map(|_| VecDeque::new()).collect();
        Outbox { deliver, late: RefCell::new(late) }
    }

    /// Tells a shard, now or later.
    pub(super) fn send(&self, shard: u16, message: FromDesk) {
        let mut late = self.late.borrow_mut();
        let Some(late) = late.get_mut(usize::from(shard)) else { return };
        if !late.is_empty() {
            return late.push_back(message);
        }
        if let Err(message) = (self.deliver)(shard, message) {
            late.push_back(message);
        }
    }

    /// True if some shard has not been told all yet.
    pub(super) fn is_behind(&self) -> bool {
        self.late.borrow().iter().any(|late| !late.is_empty())
    }

    /// Tells shards what they had no room for.
    pub(super) fn flush(&self) {
        for (shard, late) in (0..).zip(self.late.borrow_mut().iter_mut()) {
            while let Some(message) = late.pop_front() {
                if let Err(message) = (self.deliver)(shard, message) {
                    late.push_front(message);
                    break;
                }
            }
        }
    }
}
