//! What a spoke costs: the same story among 1 000 spokes, 10 000 on one hub, and 100 000 on ten.
//!
//! No loss, no delay, no checks: only engines and the packets between them. A hundred LANs in all, however many spokes
//! there are, since telling each LAN to each spoke costs their product by its nature.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use ipnet::IpNet;
use nhrp::{Config, Engine, Input, LinkId, Nhs, Origin, Output, Phase, Time, Uniqueness};

use crate::address::data;

const LINK: LinkId = LinkId(7);
const HOLD_S: u16 = 600;
const LANS: u32 = 100;
/// Spokes that leave, and shortcuts that are made, to see what one of them costs.
const SAMPLE: u32 = 200;

/// Bytes that are allocated now.
pub type Allocated = fn() -> usize;

struct Fleet {
    engines: Vec<Engine>,
    by_nbma: BTreeMap<IpAddr, usize>,
    nbma: Vec<IpAddr>,
    due: BinaryHeap<Reverse<(Time, usize)>>,
    wire: VecDeque<(usize, usize, Vec<u8>)>,
    now: Time,
    packets: u64,
}

fn overlay(n: u32) -> IpAddr {
    Ipv4Addr::from(0x0a80_0000 + n).into()
}

fn nbma(n: u32) -> IpAddr {
    Ipv4Addr::from(0xc612_0000 + n).into()
}

fn lan(n: u32) -> IpNet {
    let address = Ipv4Addr::from(0xac10_0000 + (n << 8));
    IpNet::new(address.into(), 24).unwrap_or_else(|_| IpNet::from(IpAddr::from(address)))
}

fn config(n: u32, hub: Option<u32>, lans: Vec<IpNet>) -> Config {
    let nhs = hub.map(|hub| Nhs {
        name: format!("hub{hub}"),
        overlay: vec![overlay(hub)],
        nbma: vec![nbma(hub)],
        priority: 0,
        ..Nhs::default()
    });
    Config {
        link: LINK,
        nbma: Some(nbma(n)),
        phase: Phase::Three,
        server: hub.is_none(),
        local: vec![overlay(n)],
        overlay: vec![IpNet::new(overlay(0), 9).unwrap_or_else(|_| IpNet::from(overlay(0)))],
        subnets: lans,
        advertise: Vec::new(),
        beside: Vec::new(),
        across: Vec::new(),
        nhs: nhs.into_iter().collect(),
        child_hubs: Vec::new(),
        statics: Vec::new(),
        external: Vec::new(),
        holding_time: HOLD_S,
        fixed_hubs: false,
        fallback_seconds: 0,
        names: Vec::new(),
        hub_list: Vec::new(),
        registration_interval: None,
        unique: false,
        uniqueness: Uniqueness::Identity,
        authentication: Vec::new(),
        mtu: 1400,
        request: None,
        pool: None,
        own_groups: Vec::new(),
        groups: std::collections::BTreeSet::new(),
        members: None,
    }
}

impl Fleet {
    fn new() -> Self {
        Self {
            engines: Vec::new(),
            by_nbma: BTreeMap::new(),
            nbma: Vec::new(),
            due: BinaryHeap::new(),
            wire: VecDeque::new(),
            now: Time(1_000_000),
            packets: 0,
        }
    }

    fn add(&mut self, config: Config) -> usize {
        let index = self.engines.len();
        let Some(nbma) = config.nbma else { return index };
        self.by_nbma.insert(nbma, index);
        self.nbma.push(nbma);
        self.engines.push(Engine::new(config, index as u64 + 1, self.now));
        self.drain(index);
        index
    }

    fn drain(&mut self, index: usize) {
        let engine = &mut self.engines[index];
        while let Some(output) = engine.poll_output() {
            if let Output::Send { to, bytes, .. } = output {
                self.packets += 1;
                if let Some(target) = self.by_nbma.get(&to) {
                    self.wire.push_back((index, *target, bytes));
                }
            }
        }
        if let Some(at) = engine.poll_timeout() {
            self.due.push(Reverse((at, index)));
        }
    }

    fn deliver(&mut self) {
        while let Some((from, to, bytes)) = self.wire.pop_front() {
            let origin = Origin { link: LINK, nbma: self.nbma[from] };
            self.engines[to].handle_packet(self.now, origin, &bytes);
            self.drain(to);
        }
    }

    fn run(&mut self, ms: u64) {
        let end = self.now.after(ms);
        self.deliver();
        while let Some(Reverse((at, index))) = self.due.peek().copied() {
            if at > end {
                break;
            }
            self.due.pop();
            self.now = self.now.max(at);
            if self.engines[index].poll_timeout().is_some_and(|due| due <= self.now) {
                self.engines[index].handle_timeout(self.now);
                self.drain(index);
                self.deliver();
            }
        }
        self.now = end;
    }
}

/// One line of the table: microseconds, bytes or packets for each spoke.
#[derive(Clone, Debug)]
struct Cost {
    what: &'static str,
    unit: &'static str,
    each: f64,
}

fn costs(hubs: u32, spokes: u32, allocated: Allocated) -> Vec<Cost> {
    let mut fleet = Fleet::new();
    let mut costs = Vec::new();
    let all = f64::from(spokes);
    let mut cost = |what, unit, sum: f64, count: f64| costs.push(Cost { what, unit, each: sum / count });
    for hub in 1..=hubs {
        fleet.add(config(hub, None, Vec::new()));
    }
    let per_hub = spokes / hubs;
    let lan_each = (per_hub / (LANS / hubs).max(1)).max(1);
    let memory = allocated();
    let begin = Instant::now();
    let mut lans = 0;
    for n in 0..spokes {
        let own = if (n / hubs).is_multiple_of(lan_each) {
            vec![lan(n / hubs / lan_each * hubs + n % hubs)]
        } else {
            vec![]
        };
        lans += own.len();
        fleet.add(config(100 + n, Some(1 + n % hubs), own));
        if n.is_multiple_of(100) {
            fleet.run(20);
        }
    }
    fleet.run(20_000);
    cost("start to registered, all told", "us", begin.elapsed().as_secs_f64() * 1e6, all);
    cost("start to registered, all told", "packets", fleet.packets as f64, all);
    cost("memory, hub and spoke", "bytes", allocated().saturating_sub(memory) as f64, all);
    let known: usize =
        fleet.engines.iter().take(hubs as usize).map(|hub| hub.snapshot(fleet.now).bindings.len()).sum();
    assert_eq!(known, (spokes + hubs) as usize, "all are registered ({lans} LANs)");

    let (before, begin) = (fleet.packets, Instant::now());
    fleet.run(u64::from(HOLD_S) * 1000);
    cost("a holding time of refreshes", "us", begin.elapsed().as_secs_f64() * 1e6, all);
    cost("a holding time of refreshes", "packets", (fleet.packets - before) as f64, all);

    let begin = Instant::now();
    let snapshots: Vec<_> =
        fleet.engines.iter().take(hubs as usize).map(|hub| hub.snapshot(fleet.now)).collect();
    cost("hub's snapshot", "us", begin.elapsed().as_secs_f64() * 1e6, all);
    let begin = Instant::now();
    for (index, snapshot) in snapshots.iter().enumerate() {
        let old = config(index as u32 + 1, None, Vec::new());
        fleet.engines[index] = Engine::restore(old, snapshot, 10, 77, fleet.now);
        fleet.drain(index);
    }
    cost("hub's restart", "us", begin.elapsed().as_secs_f64() * 1e6, all);
    drop(snapshots);
    fleet.run(30_000);
    let hub: Vec<_> = fleet.engines.drain(..hubs as usize).collect();
    let without = allocated();
    drop(hub);
    let freed = without.saturating_sub(allocated());
    cost("memory, hub alone", "bytes", freed as f64, all);
    // Back in their places, from what they were.
    for hub in (1..=hubs).rev() {
        let engine = Engine::new(config(hub, None, Vec::new()), 5, fleet.now);
        fleet.engines.insert(0, engine);
    }
    fleet.run(u64::from(HOLD_S) * 1000);

    let (before, begin) = (fleet.packets, Instant::now());
    let step = (spokes / SAMPLE).max(1);
    for n in 0..SAMPLE.min(spokes / 2) {
        // Two spokes of the same hub.
        let (a, b) = (100 + n * step / hubs * hubs, 100 + (n * step / hubs + per_hub / 2) % per_hub * hubs);
        let packet = data(overlay(a), overlay(b));
        let hub = ((a - 100) % hubs) as usize;
        fleet.engines[hub].handle_input(fleet.now, Input::Hairpin { link: LINK, packet });
        fleet.drain(hub);
        fleet.run(1);
    }
    let count = f64::from(SAMPLE.min(spokes / 2));
    cost("redirect to shortcut, each", "us", begin.elapsed().as_secs_f64() * 1e6, count);
    cost("redirect to shortcut, each", "packets", (fleet.packets - before) as f64, count);

    let (before, begin) = (fleet.packets, Instant::now());
    for n in 0..SAMPLE {
        let index = (hubs + n * step + 1).min(spokes) as usize;
        fleet.engines[index].handle_input(fleet.now, Input::Withdraw);
        fleet.drain(index);
        fleet.run(1);
    }
    cost("leaving (no LAN), each", "us", begin.elapsed().as_secs_f64() * 1e6, f64::from(SAMPLE));
    cost("leaving (no LAN), each", "packets", (fleet.packets - before) as f64, f64::from(SAMPLE));
    costs
}

/// The table, for people. The first column is what the others are compared with.
pub fn table(allocated: Allocated) -> String {
    let sizes = [(1, 1_000), (1, 10_000), (10, 100_000)];
    let columns: Vec<_> = sizes
        .iter()
        .map(|(hubs, spokes)| {
            eprintln!("{spokes} spokes on {hubs} hub{}", if *hubs == 1 { "" } else { "s" });
            costs(*hubs, *spokes, allocated)
        })
        .collect();
    let mut text = format!(
        "{:<32} {:>8} {:>10} {:>20} {:>20}\n",
        "for each spoke", "", "1000", "10000 on one hub", "100000 on ten"
    );
    let Some(first) = columns.first() else { return text };
    for (at, base) in first.iter().enumerate() {
        let _ = write!(text, "{:<32} {:>8} {:>10.1}", base.what, base.unit, base.each);
        for column in columns.iter().skip(1) {
            let each = column.get(at).map_or(0.0, |cost| cost.each);
            let _ = write!(text, " {each:>12.1} ({:>4.2}x)", each / base.each);
        }
        text.push('\n');
    }
    text
}
