//! What is known of the path MTU to each hub, and when it is to be measured again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use nhrp::Time;

/// A path that carries all that the tunnel does is measured again after so long, in milliseconds…
const GOOD_MS: u64 = 60_000;
/// … and any other sooner: somebody may be about to mend it.
const SHORT_MS: u64 = 10_000;
/// A measurement takes no longer than this, in milliseconds.
const LONGEST_MS: u64 = 60_000;

/// What a measurement showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The longest packet that gets through the tunnel to the hub and back.
    pub mtu: u32,
    /// Longer ones do too, or are refused by an ICMP error: no packet vanishes.
    pub said: bool,
}

/// The paths to the hubs, by underlay address.
#[derive(Debug, Default)]
pub struct PathMtus(BTreeMap<IpAddr, Seen>);

#[derive(Debug)]
struct Seen {
    /// MTU of the tunnel that it was, or is, measured with.
    tunnel: u32,
    next: Time,
    found: Option<Found>,
}

impl PathMtus {
    /// Which of these hubs' paths are to be measured now, with a tunnel of this MTU; others are forgotten.
    pub fn due(&mut self, hubs: &[IpAddr], tunnel: u32, now: Time) -> Vec<IpAddr> {
        self.0.retain(|hub, seen| hubs.contains(hub) && seen.tunnel == tunnel);
        let is_due = |hub: &&IpAddr| self.0.get(hub).is_none_or(|seen| seen.next <= now);
        let due: Vec<_> = hubs.iter().filter(is_due).copied().collect();
        for hub in &due {
            let next = now.after(LONGEST_MS);
            self.0.entry(*hub).or_insert(Seen { tunnel, next, found: None }).next = next;
        }
        due
    }

    /// Notes what was found with a tunnel of this MTU; whether that is news.
    pub fn note(&mut self, hub: IpAddr, tunnel: u32, found: Option<Found>, now: Time) -> bool {
        let Some(seen) = self.0.get_mut(&hub).filter(|seen| seen.tunnel == tunnel) else { return false };
        // Who has never answered a ping may be one who answers none.
        let good = found.or(seen.found).is_none_or(|found| found.mtu >= seen.tunnel);
        seen.next = now.after(if good { GOOD_MS } else { SHORT_MS });
        // Who answers no ping at the moment is no other path.
        let found = found.or(seen.found);
        let news = seen.found != found;
        seen.found = found;
        news
    }

    /// When something is due.
    pub fn next(&self) -> Option<Time> {
        self.0.values().map(|seen| seen.next).min()
    }

    /// The least of all paths; `None`: nothing is known.
    pub fn least(&self) -> Option<u32> {
        self.0.values().filter_map(|seen| Some(seen.found?.mtu)).min()
    }

    /// A hub on whose path longer packets than these vanish.
    pub fn hole(&self) -> Option<(IpAddr, u32)> {
        let holes =
            self.0.iter().filter_map(|(hub, seen)| Some((*hub, seen.found.filter(|it| !it.said)?.mtu)));
        holes.min_by_key(|(_, mtu)| *mtu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_path_is_measured_sooner_and_another_mtu_at_once() {
        let hub: IpAddr = "192.0.2.2".parse().expect("address");
        let mut paths = PathMtus::default();
        assert_eq!(paths.due(&[hub], 1400, Time(1)), [hub]);
        assert!(paths.due(&[hub], 1400, Time(2)).is_empty(), "it is being measured");
        assert!(paths.note(hub, 1400, Some(Found { mtu: 1400, said: true }), Time(10)));
        assert_eq!((paths.least(), paths.hole()), (Some(1400), None));
        assert!(paths.due(&[hub], 1400, Time(59_000)).is_empty());
        assert_eq!(paths.due(&[hub], 1400, Time(60_010)), [hub]);
        assert!(paths.note(hub, 1400, Some(Found { mtu: 1272, said: false }), Time(60_020)));
        assert_eq!((paths.least(), paths.hole()), (Some(1272), Some((hub, 1272))));
        assert_eq!(paths.next(), Some(Time(70_020)));
        assert_eq!(paths.due(&[hub], 1400, Time(70_020)), [hub]);
        assert!(!paths.note(hub, 1400, None, Time(70_030)), "no answer at all is no news");
        assert_eq!(paths.due(&[hub], 1272, Time(70_040)), [hub]);
        assert_eq!((paths.least(), paths.hole()), (None, None));
        assert!(!paths.note(hub, 1400, Some(Found { mtu: 1272, said: false }), Time(70_045)), "it is late");
        assert_eq!(paths.hole(), None);
        assert!(paths.due(&[], 1272, Time(70_050)).is_empty() && paths.next().is_none());
    }
}
