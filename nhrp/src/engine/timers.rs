//! Timers, re-armed when they fire: putting a deadline off costs nothing, since whoever fires looks at the real one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;

use hashbrown::HashMap;
use ipnet::IpNet;
use rustc_hash::FxBuildHasher;

use super::io::Time;

/// Whose timer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TimerKey {
    /// An overlay address, IPv6 or not, that we ask for.
    Assign(bool),
    Registration(u32),
    /// What a silent NHS told us.
    Silence(u32),
    /// The choice among several NHSs.
    Hubs,
    Binding(IpAddr),
    Probe(IpAddr),
    Path(IpAddr),
    /// Gathered changes of the list of reachable prefixes.
    Flush,
    Push(IpAddr),
    Shortcut(IpNet),
    Purge(u32),
    Withdraw,
    /// Old entries of the bounded side tables.
    Sweep,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    /// The sequence number keeps timers of one moment in the order in which they were armed.
    heap: BinaryHeap<Reverse<(Time, u32, TimerKey)>>,
    armed: HashMap<TimerKey, Time, FxBuildHasher>,
    sequence: u32,
}

impl Timers {
    /// Makes sure that `key` fires at `at` or earlier.
    pub(crate) fn arm(&mut self, key: TimerKey, at: Time) {
        if self.armed.get(&key).is_some_and(|armed| *armed <= at) {
            return;
        }
        self.armed.insert(key, at);
        self.put(key, at);
    }

    /// The same for a binding, which itself knows when its timer fires: one that fires at another time is stale.
    pub(crate) fn put(&mut self, key: TimerKey, at: Time) {
        // It wraps: then two timers of one moment may fire in the other order.
        self.sequence = self.sequence.wrapping_add(1);
        self.heap.push(Reverse((at, self.sequence, key)));
    }

    /// Forgets a timer.
    pub(crate) fn cancel(&mut self, key: TimerKey) {
        self.armed.remove(&key);
    }

    /// The next timer that is due, and for when it was armed.
    pub(crate) fn pop(&mut self, now: Time) -> Option<(TimerKey, Time)> {
        while let Some(Reverse((at, _, key))) = self.heap.peek().copied() {
            if at > now {
                return None;
            }
            self.heap.pop();
            if matches!(key, TimerKey::Binding(_)) {
                return Some((key, at));
            }
            if self.armed.get(&key) == Some(&at) {
                self.armed.remove(&key);
                return Some((key, at));
            }
        }
        None
    }

    /// When to ask again; may be early (a forgotten timer), never late.
    pub(crate) fn next(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((at, _, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_deadline_is_free_and_earlier_wins() {
        let mut timers = Timers::default();
        timers.arm(TimerKey::Flush, Time(10));
        timers.arm(TimerKey::Flush, Time(20));
        assert_eq!(timers.heap.len(), 1);
        timers.arm(TimerKey::Flush, Time(5));
        assert_eq!(timers.next(), Some(Time(5)));
        assert_eq!(timers.pop(Time(4)), None);
        assert_eq!(timers.pop(Time(5)), Some((TimerKey::Flush, Time(5))));
        assert_eq!(timers.pop(Time(30)), None, "the entry for 10 is stale");
    }
}
