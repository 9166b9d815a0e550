//! Nodes that register at a hub over IPv6 with a key that no tunnel here has. Over IPv4 the kernel says so to them; over IPv6 our
//! link takes any key, so that nobody would.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use nhrp::Time;
use tracing::{debug, info, warn};

use super::Agent;
use crate::clock;
use crate::drivers::nhrp::Burst;

/// Whose key is wrong is told so this often at most, and the log as often, in milliseconds, …
const TOLD_MS: u64 = 5_000;
/// … and so many are borne in mind.
const TOLD: usize = 64;

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// Underlay addresses and keys of the point-to-point links over IPv6 that the node has, whosever they are.
    pub keys: BTreeSet<(Ipv6Addr, Option<u32>)>,
    /// Who was told lately that its key is wrong.
    told: BTreeMap<Ipv6Addr, Time>,
    /// By network: when the log had its last line, and how many were told since.
    lines: BTreeMap<String, (Time, u64)>,
}

impl Strangers {
    /// Whether this one is to be told now; then it counts as told.
    fn tells(&mut self, local: Ipv6Addr, from: Ipv6Addr, key: Option<u32>, now: Time) -> bool {
        // A link without an address of its own takes what is for any of the node's.
        let taken = [local, Ipv6Addr::UNSPECIFIED].iter().any(|local| self.keys.contains(&(*local, key)));
        self.told.retain(|_, at| now.since(*at) < TOLD_MS);
        // Nobody registers from a link-local address, and an answer would need its link.
        if taken || from.is_unicast_link_local() || self.told.contains_key(&from) {
            return false;
        }
        let oldest = self.told.iter().min_by_key(|(_, at)| **at).map(|(from, _)| *from);
        if let Some(oldest) = oldest.filter(|_| self.told.len() >= TOLD) {
            self.told.remove(&oldest);
        }
        self.told.insert(from, now);
        true
    }

    /// Counts one for the log; how many there were since the last line, if it is time for one.
    fn line(&mut self, network: &str, now: Time) -> Option<u64> {
        let Some((at, count)) = self.lines.get_mut(network) else {
            self.lines.insert(network.to_owned(), (now, 0));
            return Some(1);
        };
        *count += 1;
        (now.since(*at) >= TOLD_MS).then(|| {
            *at = now;
            std::mem::take(count)
        })
    }
}

impl Agent {
    /// Tells those that a burst brought.
    pub(super) fn refuse(&mut self, burst: &Burst) {
        let now = clock::now();
        let network = &burst.network;
        let Some(tunnel) = self.tunnels.get(network).filter(|tunnel| tunnel.link == burst.link) else {
            return;
        };
        let Some(IpAddr::V6(local)) = tunnel.wanted.as_ref().map(|wanted| wanted.link.local) else { return };
        for stranger in &burst.strangers {
            let (from, key) = (stranger.from, stranger.key);
            if !self.strangers.tells(local, from, key, now) {
                continue;
            }
            let line = self.strangers.line(network, now);
            if let Some(count) = line {
                info!(network, %from, ?key, count, "registers with a key that no tunnel here has: refused by ICMP");
            }
            match dataplane::refuse(local, from, &stranger.packet) {
                Err(error) if line.is_some() => warn!(network, %error, %from, "a wrong key is not told"),
                Err(error) => debug!(network, %error, %from, "a wrong key is not told"),
                Ok(()) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

    fn node(n: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, n)
    }

    #[test]
    fn a_key_of_another_link_is_right_at_its_address_or_at_any() {
        let keys = [(HUB, Some(1)), (Ipv6Addr::UNSPECIFIED, Some(2)), (node(9), Some(3))].into();
        let mut strangers = Strangers { keys, ..Strangers::default() };
        let told: Vec<_> =
            (1..=4).filter(|key| strangers.tells(HUB, node(*key), Some((*key).into()), Time(0))).collect();
        assert_eq!(told, [3, 4]);
        assert!(strangers.tells(HUB, node(5), None, Time(0)));
    }

    #[test]
    fn each_is_told_once_in_5_s_and_a_flood_keeps_nobody_out() {
        let mut strangers = Strangers::default();
        let mut tells = |from, at| strangers.tells(HUB, from, Some(7), Time(at));
        assert!(tells(node(1), 1_000) && !tells(node(1), 5_999) && tells(node(1), 6_000));
        assert!(!tells("fe80::1".parse().unwrap(), 6_000));
        assert!((100..100 + 64).all(|n| tells(node(n), 6_001)));
        assert!(tells(node(2), 6_002));
        assert!(!tells(node(2), 6_003), "the last is not the one that made room");
        assert!(tells(node(1), 6_003), "it is the oldest");
        assert_eq!(strangers.told.len(), TOLD);
    }

    #[test]
    fn the_log_has_one_line_a_network_and_interval() {
        let mut strangers = Strangers::default();
        let lines = (0..1000).filter_map(|n| strangers.line("a", Time(10_000 + 10 * n))).collect::<Vec<_>>();
        assert_eq!(lines, [1, 500]);
        assert_eq!(strangers.line("b", Time(11_000)), Some(1));
        assert_eq!(strangers.line("a", Time(20_000)), Some(500));
    }
}
