//! A host with its kernel's tables, its agent's engine, and what the simulator knows of both.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use nhrp::{Config, Engine, RouteKind, Snapshot, Time};

use crate::plan::{NodePlan, Role};

/// What the engine had put into the kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) neighbours: BTreeMap<IpAddr, IpAddr>,
    pub(crate) routes: BTreeMap<(IpNet, RouteKind), IpAddr>,
    /// Bandwidth classes of clients.
    pub(crate) groups: BTreeMap<IpAddr, String>,
}

impl Kernel {
    /// The route in force. Without `direct`: as if there were no shortcuts, only what leads to `hubs`.
    pub(crate) fn best(&self, dst: IpAddr, direct: bool, hubs: Option<&[IpAddr]>) -> Option<IpAddr> {
        let counts = |(prefix, kind): &(IpNet, RouteKind), via: &IpAddr| {
            prefix.contains(&dst)
                && (direct
                    || match kind {
                        RouteKind::Shortcut => false,
                        RouteKind::Host => hubs.is_none_or(|hubs| hubs.contains(via)),
                        RouteKind::Registered | RouteKind::Announced => true,
                    })
        };
        let fitting = self.routes.iter().filter(|(key, via)| counts(key, via));
        fitting.max_by_key(|((prefix, kind), _)| (prefix.prefix_len(), Reverse(*kind))).map(|(_, via)| *via)
    }
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) role: Role,
    pub(crate) foreign: bool,
    pub(crate) nat: Option<usize>,
    /// Several nodes behind one masquerading NAT: GRE has no ports, only one of them can work.
    pub(crate) shares_nat: bool,
    /// As the operator wants it.
    pub(crate) config: Config,
    /// `None`: the agent is not running.
    pub(crate) engine: Option<Engine>,
    /// The machine is on (its kernel forwards).
    pub(crate) up: bool,
    /// The machine is suspended until then.
    pub(crate) frozen: Option<Time>,
    /// By how much its clock is ahead of the world's.
    pub(crate) offset: u64,
    /// World time of the timer event that counts.
    pub(crate) armed: Option<Time>,
    pub(crate) kernel: Kernel,
    /// Hubs (by overlay address) that answer.
    pub(crate) hubs_up: Vec<IpAddr>,
    /// The hub that traffic takes.
    pub(crate) chosen: Option<IpAddr>,
    /// Data sent, by destination: what the use of a shortcut is read from.
    pub(crate) used: BTreeMap<IpAddr, Time>,
    /// Something happened to it of late: what it does is not held against the strict rules until then.
    pub(crate) disturbed: Time,
    /// Left properly, or moved: all who were told hear of it.
    pub(crate) moved: Option<Time>,
    /// Left or moved, in whatever way.
    pub(crate) gone: Option<Time>,
    /// Somebody took its address while it was away: the price of having no IPsec.
    pub(crate) robbed: bool,
    /// The tunnel has been taken away.
    pub(crate) absent: bool,
    /// Its last question: id and destination.
    pub(crate) asked: Option<(u32, IpAddr)>,
    /// Timeouts in this second of world time.
    pub(crate) wakes: (u64, u32),
    pub(crate) addresses_used: u8,
}

impl Node {
    pub(crate) fn new(plan: NodePlan) -> Self {
        Self {
            role: plan.role,
            foreign: plan.foreign,
            nat: plan.nat,
            shares_nat: false,
            config: plan.config,
            engine: None,
            up: true,
            frozen: None,
            offset: 0,
            armed: None,
            kernel: Kernel::default(),
            hubs_up: Vec::new(),
            chosen: None,
            used: BTreeMap::new(),
            disturbed: Time(0),
            moved: None,
            gone: None,
            robbed: false,
            absent: false,
            asked: None,
            wakes: (0, 0),
            addresses_used: 0,
        }
    }

    /// Its clock.
    pub(crate) fn clock(&self, now: Time) -> Time {
        now.after(self.offset)
    }

    pub(crate) fn overlay(&self) -> IpAddr {
        self.config.local[0]
    }

    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        self.config.local.contains(&address) || self.config.subnets.iter().any(|net| net.contains(&address))
    }

    /// It is there for others: a machine that runs, with a tunnel.
    pub(crate) fn present(&self) -> bool {
        self.up && !self.absent
    }

    /// Where traffic goes that no route of the engine's is for: the hub that it chose last.
    pub(crate) fn gateway(&self) -> Option<IpAddr> {
        let best = self.config.nhs.iter().min_by_key(|nhs| nhs.priority);
        self.chosen.or_else(|| best?.overlay.first().copied())
    }

    pub(crate) fn hub_addresses(&self) -> Vec<IpAddr> {
        self.config.nhs.iter().flat_map(|nhs| nhs.overlay.iter().copied()).collect()
    }

    pub(crate) fn snapshot(&self, now: Time) -> Option<Snapshot> {
        let snapshot = self.engine.as_ref()?.snapshot(self.clock(now));
        // As it is written to a file and read back.
        let text = serde_json::to_string(&snapshot).expect("a snapshot can be written");
        Some(serde_json::from_str(&text).expect("a snapshot can be read back"))
    }
}
