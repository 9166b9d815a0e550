//! What in the host's settings keeps packets from passing through a tunnel.

use crds::endpoint::Role;
use crds::{Cidr, Reason};
use dataplane::Settings;
use nhrp::Time;

use super::Tunnel;
use crate::ladder::Trouble;

/// For so long it counts that the reverse path filter dropped something, in milliseconds.
const FILTERED_MS: u64 = 150_000;

impl Tunnel {
    /// Whether the host lets packets pass from its LANs into the tunnel, and on a hub from one spoke to another.
    pub fn look_at_host(&mut self, host: &Settings, now: Time) {
        let spec = &self.spec;
        let forwards = spec.role != Role::Spoke || !spec.subnets.is_empty();
        let prefixes = || spec.overlay.iter().chain(spec.subnets.iter().map(|subnet| &subnet.cidr));
        let grown = match self.filtered {
            Some((before, _)) if host.reverse_path_drops > before => Some(now),
            Some((_, since)) => since.filter(|since| now.since(*since) < FILTERED_MS),
            None => None,
        };
        self.filtered = Some((host.reverse_path_drops, grown));
        let trouble =
            |reason: Reason, what: String| Trouble::new(reason, format!("{what}: {}", reason.cure()));
        let off = |family: &str| {
            trouble(Reason::ForwardingDisabled, format!("this node forwards no {family} packets"))
        };
        let denied = self.engine.as_ref().and_then(|engine| {
            let (hub, prefix, holder) = engine.denied().next()?;
            let why = match holder {
                Some(holder) => format!(" since it overlaps with what {holder} announced first"),
                None => String::new(),
            };
            Some(format!("hub {hub} does not lead to {prefix}{why}"))
        });
        self.hindrance = match () {
            () if forwards && !host.ipv4_forwarding && prefixes().any(Cidr::is_ipv4) => Some(off("IPv4")),
            () if forwards && !host.ipv6_forwarding && prefixes().any(|p| !p.is_ipv4()) => Some(off("IPv6")),
            () if !host.strict.is_empty() && grown.is_some() => Some(trouble(
                Reason::ReversePathFilter,
                format!(
                    "packets are dropped by the reverse path filter, which is strict by {}",
                    host.strict.iter().take(3).cloned().collect::<Vec<_>>().join(", ")
                ),
            )),
            () if denied.is_some() => denied.map(|it| trouble(Reason::OverlappingSubnets, it)),
            () if self.unshaped.is_some() => {
                self.unshaped.as_ref().map(|why| trouble(Reason::NotShaped, why.clone()))
            }
            () => self.path_mtus.hole().map(|(nbma, mtu)| {
                trouble(
                    Reason::MtuBlackHole,
                    format!(
                        "packets of more than {mtu} bytes vanish on the way through the tunnel to {nbma}"
                    ),
                )
            }),
        };
    }
}
