//! Rate limits with bounded memory: what one peer may ask of us, and all of them together.
//!
//! Registrations come first: they have a budget of their own, so that no flood of anything else, and no flood of one
//! peer, keeps another from registering. The packets of an NHS of ours are not limited by peer: it speaks for many.

use std::hash::Hash;
use std::net::IpAddr;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::io::Time;
use super::table::Table;

/// Registrations a peer and second, by client entry: enough for hundreds of spokes behind one address that probe
/// each second, or for a long list of prefixes chunk by chunk.
const REGISTRATIONS: Pace = Pace::new(250, 1000);
/// Resolution and Purge Requests a peer and second: a hub that asks for its spokes needs many at once.
const REQUESTS: Pace = Pace::new(500, 1000);
/// Error Indications sent to a peer and second.
const ERRORS: Pace = Pace::new(4, 16);
/// Changes of what a peer announces: each is told to all others. One in 5 s, after some at once.
const LISTS: Pace = Pace { interval_ms: 5000, depth_ms: 20 * 5000 };
/// The same in all; registrations in all: those that make a new binding, since only they cost more than a look.
const REQUESTS_IN_ALL: u64 = 20_000;
const ERRORS_IN_ALL: u64 = 1000;
const CLAIMS_IN_ALL: u64 = 20_000;
/// So many spokes may come at once, as after the restart of a hub.
const CLAIMS_AT_ONCE: u64 = 1 << 17;
/// Peers that are told apart; all others share one budget.
const PEER_BOUND: usize = 1 << 17;

/// What a packet costs its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Budget {
    Registration,
    Request,
    /// An error that we send.
    Error,
    /// Another list of prefixes.
    List,
}

/// So many a second, and so many at once.
#[derive(Clone, Copy, Debug)]
struct Pace {
    interval_ms: u32,
    depth_ms: u32,
}

impl Pace {
    const fn new(per_second: u32, at_once: u32) -> Self {
        let interval_ms = 1000 / per_second;
        Self { interval_ms, depth_ms: interval_ms * at_once }
    }

    /// Virtual scheduling: `due` is when all that was taken so far would be due at the steady rate. The times wrap.
    fn take(self, now: u32, due: &mut u32, count: u32) -> bool {
        let ahead = due.wrapping_sub(now);
        let backlog = if ahead > u32::MAX / 2 { 0 } else { ahead };
        let after = backlog.saturating_add(self.interval_ms.saturating_mul(count));
        if after > self.depth_ms {
            return false;
        }
        *due = now.wrapping_add(after);
        true
    }
}

/// One peer's budgets: the `due` of each pace, in wrapping milliseconds.
#[derive(Clone, Copy, Debug)]
struct Peer {
    registrations: u32,
    requests: u32,
    errors: u32,
    lists: u32,
}

impl Peer {
    fn new(now: u32) -> Self {
        Self { registrations: now, requests: now, errors: now, lists: now }
    }

    fn take(&mut self, now: u32, what: Budget, count: u32) -> bool {
        match what {
            Budget::Registration => REGISTRATIONS.take(now, &mut self.registrations, count),
            Budget::Request => REQUESTS.take(now, &mut self.requests, count),
            Budget::Error => ERRORS.take(now, &mut self.errors, count),
            Budget::List => LISTS.take(now, &mut self.lists, count),
        }
    }

    /// Nothing taken that counts any more.
    fn is_idle(&self, now: u32) -> bool {
        [self.registrations, self.requests, self.errors, self.lists]
            .iter()
            .all(|due| due.wrapping_sub(now) == 0 || due.wrapping_sub(now) > u32::MAX / 2)
    }
}

/// The budgets of all peers (by outer source address) that sent something lately.
#[derive(Clone, Debug)]
pub(crate) struct Budgets {
    peers: Table<IpAddr, Peer>,
    /// Those for whom there is no place of their own.
    others: Peer,
    requests: Bucket,
    errors: Bucket,
    claims: Bucket,
}

impl Budgets {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            peers: Table::default(),
            others: Peer::new(wrapped(now)),
            requests: Bucket::new(REQUESTS_IN_ALL, REQUESTS_IN_ALL, now),
            errors: Bucket::new(ERRORS_IN_ALL, ERRORS_IN_ALL, now),
            claims: Bucket::new(CLAIMS_IN_ALL, CLAIMS_AT_ONCE, now),
        }
    }

    /// Whether this peer may have `count` more now; takes them if so.
    pub(crate) fn take(&mut self, now: Time, peer: IpAddr, what: Budget, count: u32) -> bool {
        let full = self.peers.len() >= PEER_BOUND;
        let at = wrapped(now);
        let budget = match self.peers.get_mut(&peer) {
            Some(budget) => budget,
            // A place in the table is nothing that strangers can take from one who registers.
            None if full && what == Budget::Registration => return true,
            None if full => &mut self.others,
            None => self.peers.get_or_insert_with(peer, || Peer::new(at)),
        };
        budget.take(at, what, count)
            && match what {
                Budget::Registration | Budget::List => true,
                Budget::Request => self.requests.take(now),
                Budget::Error => self.errors.take(now),
            }
    }

    /// Whether one more binding may be made now.
    pub(crate) fn take_claim(&mut self, now: Time) -> bool {
        self.claims.take(now)
    }

    /// Forgets who is quiet; says whether somebody is left. To be called every few seconds: the times wrap after weeks.
    pub(crate) fn sweep(&mut self, now: Time) -> bool {
        let at = wrapped(now);
        self.peers.retain(|_, peer| !peer.is_idle(at));
        if self.others.is_idle(at) {
            self.others = Peer::new(at);
        }
        !self.peers.is_empty()
    }
}

fn wrapped(now: Time) -> u32 {
    now.0 as u32
}

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

    /// Whether `key` went so lately that it may not go again.
    pub(crate) fn is_recent(&self, now: Time, key: &K) -> bool {
        self.last.get(key).is_some_and(|last| now.since(*last) < self.interval_ms)
    }

    /// Whether `key` may go now; counts it if so. When the table is full of recent keys nobody else may.
    pub(crate) fn allow(&mut self, now: Time, key: K) -> bool {
        if self.is_recent(now, &key) {
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

    fn peer(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn budgets_by_peer_and_kind() {
        // About when the 32 bits wrap.
        let start = Time(u64::from(u32::MAX) - 1500);
        let mut budgets = Budgets::new(start);
        let taken = |budgets: &mut Budgets, now: Time, n: u32, what: Budget| {
            (0..5000).filter(|_| budgets.take(now, peer(n), what, 1)).count()
        };
        assert_eq!(taken(&mut budgets, start, 1, Budget::Request), 1000);
        assert_eq!(taken(&mut budgets, start, 1, Budget::Registration), 1000, "a budget of its own");
        assert_eq!(taken(&mut budgets, start, 2, Budget::Request), 1000, "and so has another peer");
        for second in 1..4 {
            let now = start.after(second * 1000);
            assert_eq!(taken(&mut budgets, now, 1, Budget::Registration), 250);
            assert_eq!(taken(&mut budgets, now, 1, Budget::Request), 500);
        }
        assert!(!budgets.take(start.after(3000), peer(1), Budget::Registration, 1));
        assert!(budgets.take(start.after(3012), peer(1), Budget::Registration, 3), "entries count");
        assert!(budgets.sweep(start.after(3012)));
        assert!(!budgets.sweep(start.after(60_000)), "the quiet ones are forgotten");
        assert_eq!(taken(&mut budgets, start.after(60_000), 1, Budget::Error), 16);
    }

    #[test]
    fn strangers_do_not_take_the_place_of_registrations() {
        let now = Time(1);
        let mut budgets = Budgets::new(now);
        for n in 0..2 * PEER_BOUND as u32 {
            budgets.take(now, peer(n), Budget::Error, 1);
        }
        assert_eq!(budgets.peers.len(), PEER_BOUND);
        let late = 3 * PEER_BOUND as u32;
        assert!(!(0..2000).all(|_| budgets.take(now, peer(late), Budget::Request, 1)), "shared");
        assert!((0..2000).all(|_| budgets.take(now, peer(late), Budget::Registration, 1)));
        assert!((0..CLAIMS_AT_ONCE).all(|_| budgets.take_claim(now)));
        assert!(!budgets.take_claim(now));
    }
}
