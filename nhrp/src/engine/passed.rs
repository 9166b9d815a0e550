//! Requests of others that we passed on: who may answer, and the way back.

use std::collections::VecDeque;
use std::net::IpAddr;

use super::Map;
use super::io::Time;

/// A request is remembered for its reply, for as long as requesters repeat.
const KEPT_MS: u64 = 30_000;
/// So many at the same time; the oldest goes: answers come within a round trip or two.
const BOUND: usize = super::TABLE_BOUND;

/// Where a request went, and where it came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passage {
    pub(crate) to: IpAddr,
    pub(crate) back: IpAddr,
    until: Time,
}

/// By requester and request id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Passed {
    entries: Map<(IpAddr, u32), Passage>,
    /// In the order of their ends; a request that was repeated stands there twice.
    ends: VecDeque<(Time, (IpAddr, u32))>,
}

impl Passed {
    pub(crate) fn insert(&mut self, now: Time, key: (IpAddr, u32), to: IpAddr, back: IpAddr, bounded: bool) {
        if self.ends.len() >= BOUND && bounded {
            self.pop();
        }
        let until = now.after(KEPT_MS);
        self.entries.insert(key, Passage { to, back, until });
        self.ends.push_back((until, key));
    }

    pub(crate) fn get(&self, now: Time, key: (IpAddr, u32)) -> Option<Passage> {
        self.entries.get(&key).copied().filter(|it| it.until > now)
    }

    pub(crate) fn sweep(&mut self, now: Time) {
        while self.ends.front().is_some_and(|(until, _)| *until <= now) {
            self.pop();
        }
    }

    /// Requests that are remembered.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn pop(&mut self) {
        let Some((until, key)) = self.ends.pop_front() else { return };
        if self.entries.get(&key).is_some_and(|it| it.until == until) {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_the_oldest_goes() {
        let at = |n: u32| IpAddr::from(n.to_be_bytes());
        let mut passed = Passed::default();
        for n in 0..BOUND as u32 + 10 {
            passed.insert(Time(u64::from(n)), (at(1), n), at(2), at(3), true);
            passed.insert(Time(u64::from(n)), (at(1), 5), at(2), at(3), true);
        }
        assert_eq!(passed.ends.len(), BOUND);
        let now = Time(BOUND as u64);
        let some = |n: u32| passed.get(now, (at(1), n)).is_some();
        assert!(!some(6) && some(BOUND as u32) && some(5), "what is repeated stays");
        passed.sweep(now.after(KEPT_MS + 100));
        assert!(passed.is_empty() && passed.entries.is_empty());
    }
}
