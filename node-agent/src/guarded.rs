//! What a protected tunnel remembers: its keys, whom it speaks to, and packets that wait for an SA.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use nhrp::Time;
use tracing::warn;

use crate::clock;
use crate::ladder::Trouble;
use crate::plan::certificate::Certificate;
use crate::plan::ipsec::Secret;

/// Somebody who was asked or answered straight is wanted as a peer for so long, in milliseconds.
const ASKED_MS: u64 = 30_000;
/// A packet waits no longer than this, in milliseconds: whoever sent it has sent another by then.
const HELD_MS: u64 = 3_000;
/// Packets that wait for one peer.
const HELD_EACH: usize = 8;
/// Peers that are waited for: strangers may have us answer them.
const ASKED: usize = 256;

/// The IKE daemon tells of an SA a little after its first packet came: a packet waits for that so long, in milliseconds.
const NAMELESS_MS: u64 = 2_000;
/// It is asked so often meanwhile, in milliseconds.
const LOOK_MS: u64 = 100;
/// Such packets.
const NAMELESS: usize = 1024;

/// An NHRP packet and the underlay address that it goes to.
pub type Packet = (IpAddr, Vec<u8>);

/// What a protected tunnel remembers.
#[derive(Debug, Default)]
pub struct Guarded {
    /// Keys, in the order of the references.
    pub keys: Vec<Secret>,
    /// Certificates, in the place of keys.
    pub certificate: Option<Arc<Certificate>>,
    /// Who was asked or answered straight, and when last.
    asked: BTreeMap<IpAddr, Time>,
    held: BTreeMap<IpAddr, VecDeque<(Time, Vec<u8>)>>,
    /// Who the engine was told is authenticated where.
    identities: BTreeMap<IpAddr, BTreeSet<String>>,
    /// Packets of those whose SA is so new that it is not known yet whose it is.
    nameless: VecDeque<(Time, Packet)>,
    /// When the daemon is asked about them.
    look_at: Time,
}

impl Guarded {
    /// Takes another certificate, and says at once when nobody will take it.
    pub fn certify(&mut self, network: &str, certificate: Option<&Arc<Certificate>>) {
        if self.certificate.as_ref() != certificate {
            self.certificate = certificate.cloned();
            if let Some(trouble) = self.trouble() {
                warn!(network, reason = %trouble.reason, "{}", trouble.message);
            }
        }
    }

    /// Why nobody will take our certificate.
    pub fn trouble(&self) -> Option<Trouble> {
        self.certificate.as_ref()?.trouble(clock::wall())
    }

    /// Who was asked or answered straight lately.
    pub fn asked(&self, now: Time) -> impl Iterator<Item = IpAddr> {
        self.asked.iter().filter(move |(_, at)| now.since(**at) < ASKED_MS).map(|(peer, _)| *peer)
    }

    /// The engine knows nothing of whom it was told about.
    pub fn introduce_anew(&mut self) {
        self.identities.clear();
    }

    /// Who is authenticated where now: what of it is news to the engine.
    pub fn introduce(&mut self, now: &BTreeMap<IpAddr, BTreeSet<String>>) -> Vec<(IpAddr, BTreeSet<String>)> {
        let gone = self.identities.keys().filter(|at| !now.contains_key(at)).map(|at| (*at, BTreeSet::new()));
        let news = now.iter().filter(|(at, all)| self.identities.get(at) != Some(all));
        let news: Vec<_> = gone.chain(news.map(|(at, all)| (*at, all.clone()))).collect();
        if !news.is_empty() {
            self.identities.clone_from(now);
        }
        news
    }

    /// Whether it is known who is at an underlay address.
    pub fn knows(&self, at: IpAddr) -> bool {
        self.identities.contains_key(&at)
    }

    /// Keeps a packet until it is known whose it is.
    pub fn ponder(&mut self, now: Time, packet: Packet) {
        if self.nameless.len() >= NAMELESS {
            self.nameless.pop_front();
        }
        self.nameless.push_back((now, packet));
    }

    /// When the next packet has waited long enough, or the daemon is to be asked again.
    pub fn pondered_until(&self) -> Option<Time> {
        self.nameless.front().map(|(at, _)| at.after(NAMELESS_MS).min(self.look_at))
    }

    /// Whether the daemon is to be asked now who is there.
    pub fn wonders(&mut self, now: Time) -> bool {
        let wonders = !self.nameless.is_empty() && self.look_at <= now;
        if wonders {
            self.look_at = now.after(LOOK_MS);
        }
        wonders
    }

    /// Packets whose sender is known by now, or that have waited long enough.
    pub fn pondered(&mut self, now: Time) -> Vec<Packet> {
        let (ready, rest) = std::mem::take(&mut self.nameless)
            .into_iter()
            .partition(|(at, (from, _))| self.identities.contains_key(from) || now.since(*at) >= NAMELESS_MS);
        self.nameless = rest;
        let ready: VecDeque<(Time, Packet)> = ready;
        ready.into_iter().map(|(_, packet)| packet).collect()
    }

    /// Lets through what can go, holds the rest.
    pub fn pass(&mut self, packets: Vec<Packet>, now: Time, secured: impl Fn(IpAddr) -> bool) -> Vec<Packet> {
        let mut passed = Vec::new();
        for (to, packet) in packets {
            if self.asked.len() < ASKED || self.asked.contains_key(&to) {
                self.asked.insert(to, now);
            }
            if secured(to) || !self.asked.contains_key(&to) {
                passed.push((to, packet));
                continue;
            }
            let held = self.held.entry(to).or_default();
            held.push_back((now, packet));
            if held.len() > HELD_EACH {
                held.pop_front();
            }
        }
        passed
    }

    /// What need not wait any more.
    pub fn release(&mut self, now: Time, secured: impl Fn(IpAddr) -> bool) -> Vec<Packet> {
        self.asked.retain(|_, at| now.since(*at) < ASKED_MS);
        let mut released = Vec::new();
        self.held.retain(|to, held| {
            held.retain(|(at, _)| now.since(*at) < HELD_MS);
            if secured(*to) {
                released.extend(held.drain(..).map(|(_, packet)| (*to, packet)));
            }
            !held.is_empty()
        });
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_wait_until_it_is_known_whose_they_are() {
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut guarded = Guarded::default();
        assert!(!guarded.knows(a) && !guarded.wonders(Time(0)));
        guarded.ponder(Time(0), (a, vec![1]));
        guarded.ponder(Time(10), (b, vec![2]));
        assert!(guarded.wonders(Time(10)) && !guarded.wonders(Time(11)));
        assert!(guarded.pondered(Time(11)).is_empty());
        let known = BTreeMap::from([(b, BTreeSet::from(["b".to_owned()]))]);
        assert_eq!(guarded.introduce(&known), [(b, known[&b].clone())]);
        assert!(guarded.introduce(&known).is_empty(), "that is no news");
        assert_eq!(guarded.pondered(Time(20)), [(b, vec![2])]);
        assert_eq!(guarded.pondered(Time(2_000)), [(a, vec![1])], "nobody says who that is");
        assert_eq!(guarded.introduce(&BTreeMap::new()), [(b, BTreeSet::new())]);
    }

    #[test]
    fn packets_wait_for_the_sa_and_not_for_ever() {
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut guarded = Guarded::default();
        let only_b = |peer| peer == b;
        let passed = guarded.pass(vec![(a, vec![1]), (b, vec![2])], Time(0), only_b);
        assert_eq!(passed, [(b, vec![2])]);
        let more: Vec<Packet> = (3..20).map(|n| (a, vec![n])).collect();
        assert!(guarded.pass(more, Time(2_000), only_b).is_empty());
        assert_eq!(guarded.asked(Time(2_000)).count(), 2);
        assert_eq!(guarded.asked(Time(31_000)).count(), 1);
        assert!(guarded.release(Time(2_500), only_b).is_empty());
        let released = guarded.release(Time(2_500), |_| true);
        assert_eq!(released.first(), Some(&(a, vec![12])), "the newest are kept, in their order");
        assert_eq!(released.len(), HELD_EACH);
        guarded.pass(vec![(a, vec![1])], Time(3_000), only_b);
        assert!(guarded.release(Time(6_001), |_| true).is_empty(), "too old");
        assert!(guarded.release(Time(40_000), |_| true).is_empty());
        assert_eq!(guarded.asked(Time(0)).count(), 0);
    }
}
