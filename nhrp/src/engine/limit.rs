//! Rate limits with bounded memory.

use std::hash::Hash;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::io::Time;

/// At most one a key and interval.
#[derive(Clone, Debug)]
pub(crate) struct Limiter<K> {
    interval_ms: u64,
    bound: usize,
    last: HashMap<K, Time, FxBuildHasher>,
}

impl<K: Hash + Eq> Limiter<K> {
    pub(crate) fn new(interval_ms: u64, bound: usize) -> Self {
        Self { interval_ms, bound, last: HashMap::default() }
    }

    /// Whether `key` may go now; counts it if so. When the table is full of recent keys nobody else may.
    pub(crate) fn allow(&mut self, now: Time, key: K) -> bool {
        if self.last.get(&key).is_some_and(|last| now.since(*last) < self.interval_ms) {
            return false;
        }
        if self.last.len() >= self.bound && !self.last.contains_key(&key) {
            self.sweep(now);
            if self.last.len() >= self.bound {
                return false;
            }
        }
        self.last.insert(key, now);
        true
    }

    fn sweep(&mut self, now: Time) {
        let interval = self.interval_ms;
        self.last.retain(|_, last| now.since(*last) < interval);
    }
}

/// A bucket of tokens that fills at a steady rate.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    per_second: u64,
    burst: u64,
    /// Thousandths of a token.
    level: u64,
    at: Time,
}

impl Bucket {
    pub(crate) fn new(per_second: u64, burst: u64, now: Time) -> Self {
        Self { per_second, burst, level: burst * 1000, at: now }
    }

    pub(crate) fn take(&mut self, now: Time) -> bool {
        let gained = now.since(self.at).saturating_mul(self.per_second);
        self.level = self.level.saturating_add(gained).min(self.burst * 1000);
        self.at = now;
        if self.level < 1000 {
            return false;
        }
        self.level -= 1000;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limiter_and_bucket() {
        let mut limiter = Limiter::new(1000, 2);
        assert!(limiter.allow(Time(0), 'a'));
        assert!(!limiter.allow(Time(999), 'a'));
        assert!(limiter.allow(Time(999), 'b'));
        assert!(!limiter.allow(Time(999), 'c'), "full");
        assert!(limiter.allow(Time(1000), 'c'), "a's place is free again");
        let mut bucket = Bucket::new(10, 2, Time(0));
        assert!(bucket.take(Time(0)) && bucket.take(Time(0)) && !bucket.take(Time(99)));
        assert!(bucket.take(Time(100)) && !bucket.take(Time(100)));
    }
}
