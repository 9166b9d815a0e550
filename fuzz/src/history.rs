//! The engine over time. The bytes are a history: who the engine is, then steps, each an operation and its arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nhrp::wire::Packet;
use nhrp::{
    AddressRequest, Config, Engine, External, Input, LinkId, Nhs, Origin, Output, Phase, Pool, RouteKind,
    StaticBinding, Time, Uniqueness,
};

/// The operations of a history.
pub(crate) mod step {
    /// Number of the sender, length (two bytes), packet: size and checksum are made to fit.
    pub(crate) const PACKET: u8 = 0;
    /// Which of the packets that the engine sent last, number of changes, (offset, value) each: comes back as the
    /// reply to it, from where it went.
    pub(crate) const ANSWER: u8 = 1;
    /// Two bytes: so many tens of milliseconds pass.
    pub(crate) const WAIT: u8 = 2;
    /// Length, start of an IP packet that was turned round.
    pub(crate) const HAIRPIN: u8 = 3;
    /// Number of an overlay address.
    pub(crate) const RESOLVE: u8 = 4;
    /// One byte: who the engine is from now on.
    pub(crate) const CONFIGURE: u8 = 5;
    /// Number of an underlay address, 0: none.
    pub(crate) const NBMA: u8 = 6;
    /// The agent dies and comes back.
    pub(crate) const RESTART: u8 = 7;
    /// All is taken back.
    pub(crate) const WITHDRAW: u8 = 8;
    /// How many there are.
    pub(crate) const COUNT: u8 = 9;
}

const LINK: LinkId = LinkId(7);
/// Packets of the engine that an answer may refer to.
const REMEMBERED: usize = 4;
/// Timeouts that may be due one after the other at one moment.
const TIMEOUTS: usize = 10_000;

/// Drives an engine through a history.
///
/// # Panics
/// If it sends what cannot be read, asks the kernel for something senseless, or has timers that are always due.
pub fn history(bytes: &[u8]) {
    if let Some(mut shell) = Shell::after(bytes) {
        shell.wait(120_000);
    }
}

/// Underlay address number `n`: those of the captures, so that captured packets come from their senders.
fn nbma(n: u8) -> IpAddr {
    match n % 6 {
        0 => Ipv4Addr::new(192, 0, 2, 2).into(),
        1 => Ipv4Addr::new(198, 51, 100, 2).into(),
        2 => Ipv4Addr::new(203, 0, 113, 2).into(),
        3 => Ipv4Addr::new(192, 1, 3, 3).into(),
        4 => Ipv4Addr::new(192, 1, 4, 4).into(),
        _ => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5).into(),
    }
}

/// Overlay address number `n`: those of the captures and vectors.
fn overlay(n: u8) -> IpAddr {
    match n % 6 {
        0 => Ipv4Addr::new(10, 255, 0, 1).into(),
        1 => Ipv4Addr::new(10, 255, 0, 11).into(),
        2 => Ipv4Addr::new(10, 255, 0, 12).into(),
        3 => Ipv4Addr::new(10, 1, 1, 3).into(),
        4 => Ipv4Addr::new(10, 1, 1, 4).into(),
        _ => Ipv6Addr::new(0xfd00, 0x255, 0, 0, 0, 0, 0, 5).into(),
    }
}

fn net(address: [u8; 4], length: u8) -> IpNet {
    IpNet::new(Ipv4Addr::from(address).into(), length).map_or_else(|_| IpNet::default(), |net| net.trunc())
}

/// A configuration out of one byte.
fn config(who: u8) -> Config {
    let bit = |at: u8| who >> at & 1 == 1;
    let v6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x255, 0, 0, 0, 0, 0, if bit(0) { 1 } else { 11 }));
    let server = bit(0);
    let asks = bit(4) && bit(5);
    let nhs = Nhs {
        name: "hub".into(),
        overlay: if bit(1) { vec![overlay(0)] } else { Vec::new() },
        nbma: vec![nbma(0), nbma(4)],
        priority: 0,
        cluster: 0,
        max_connections: 0,
        draining: false,
    };
    let second = Nhs {
        name: "hub2".into(),
        overlay: vec![overlay(4)],
        nbma: vec![nbma(4)],
        priority: 1,
        ..nhs.clone()
    };
    let mapped = StaticBinding { overlay: overlay(4), nbma: nbma(4), prefixes: vec![net([10, 4, 0, 0], 24)] };
    Config {
        link: LINK,
        nbma: Some(if server { nbma(0) } else { nbma(1) }),
        phase: if bit(2) { Phase::Two } else { Phase::Three },
        server,
        local: match (server, asks) {
            (true, _) => vec![overlay(0), v6],
            (false, true) => vec![v6],
            (false, false) => vec![overlay(1), v6],
        },
        overlay: vec![net([10, 255, 0, 0], 16), net([10, 1, 1, 0], 24)],
        subnets: vec![net(if server { [10, 9, 0, 0] } else { [10, 1, 0, 0] }, 24)],
        nhs: if !server { vec![nhs, second] } else { Vec::new() },
        statics: if bit(3) { vec![mapped] } else { Vec::new() },
        external: vec![External {
            name: "router".into(),
            overlay: vec![overlay(2)],
            prefixes: vec![net([10, 2, 0, 0], 24)],
        }],
        holding_time: 30,
        fixed_hubs: false,
        fallback_seconds: 0,
        names: Vec::new(),
        hub_list: Vec::new(),
        child_hubs: Vec::new(),
        advertise: Vec::new(),
        beside: Vec::new(),
        across: Vec::new(),
        registration_interval: None,
        unique: bit(4),
        uniqueness: match who >> 5 & 3 {
            0 => Uniqueness::None,
            1 => Uniqueness::Nbma,
            _ => Uniqueness::Identity,
        },
        authentication: if bit(7) { vec!["s3cret".into()] } else { Vec::new() },
        mtu: 1400,
        request: (!server && asks).then(|| AddressRequest {
            identity: "branch".into(),
            ipv4: true,
            ipv6: bit(6),
            group: bit(5).then(|| "gold".to_owned()),
        }),
        pool: (server && asks).then(|| Pool {
            prefixes: vec![net([10, 255, 16, 0], 28)],
            reserved: vec![net([10, 255, 16, 4], 30)],
            share: 1,
            shares: 2,
        }),
        own_groups: if bit(3) { vec![(overlay(1), "gold".to_owned())] } else { Vec::new() },
        groups: if bit(2) { ["gold".to_owned()].into() } else { BTreeSet::new() },
        members: None,
    }
}

/// What the agent is to the engine: clock, wire and the kernel's tables.
pub(crate) struct Shell {
    engine: Engine,
    config: Config,
    now: Time,
    neighbours: BTreeSet<IpAddr>,
    routes: BTreeMap<(IpNet, RouteKind), IpAddr>,
    /// Overlay addresses that it was assigned.
    assigned: BTreeSet<IpAddr>,
    sent: Vec<(IpAddr, Vec<u8>)>,
}

impl Shell {
    /// As it is after a history.
    pub(crate) fn after(bytes: &[u8]) -> Option<Self> {
        let (who, steps) = bytes.split_first()?;
        let mut shell = Self::new(*who);
        shell.play(steps);
        Some(shell)
    }

    /// Does one operation after the other.
    pub(crate) fn play(&mut self, mut steps: &[u8]) {
        while let Some((operation, arguments)) = steps.split_first() {
            let Some(after) = self.step(*operation % step::COUNT, arguments) else { return };
            steps = after;
        }
    }

    fn new(who: u8) -> Self {
        let config = config(who);
        let now = Time(1_000_000);
        let mut shell = Self {
            engine: Engine::new(config.clone(), 1, now),
            config,
            now,
            neighbours: BTreeSet::new(),
            routes: BTreeMap::new(),
            assigned: BTreeSet::new(),
            sent: Vec::new(),
        };
        shell.wait(0);
        shell
    }

    /// Does one operation; gives what follows its arguments, `None` if they are not all there.
    pub(crate) fn step<'a>(&mut self, operation: u8, arguments: &'a [u8]) -> Option<&'a [u8]> {
        let rest = match operation {
            step::PACKET => {
                let ([from, high, low], rest) = arguments.split_first_chunk::<3>()?;
                let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
                let (packet, rest) = rest.split_at(length);
                let mut packet = packet.to_vec();
                crate::repair(&mut packet);
                self.receive(nbma(*from), &packet);
                rest
            }
            step::ANSWER => {
                let ([which, changes], rest) = arguments.split_first_chunk::<2>()?;
                let (patches, rest) = rest.split_at_checked(usize::from(changes % 8) * 2)?;
                self.answer(*which, patches);
                rest
            }
            step::WAIT => {
                let (tens, rest) = arguments.split_first_chunk::<2>()?;
                self.wait(u64::from(u16::from_be_bytes(*tens)) * 10);
                rest
            }
            step::HAIRPIN => {
                let (length, rest) = arguments.split_first()?;
                let (packet, rest) = rest.split_at(usize::from(*length).min(rest.len()));
                self.input(Input::Hairpin { link: LINK, packet: packet.to_vec() });
                rest
            }
            step::RESOLVE => {
                let (number, rest) = arguments.split_first()?;
                self.input(Input::ResolveNeeded { link: LINK, overlay: overlay(*number) });
                rest
            }
            step::CONFIGURE => {
                let (who, rest) = arguments.split_first()?;
                self.config = config(*who);
                self.input(Input::Configure(Box::new(self.config.clone())));
                rest
            }
            step::NBMA => {
                let (number, rest) = arguments.split_first()?;
                let address = number.checked_sub(1).map(nbma);
                self.config.nbma = address;
                self.input(Input::Nbma { link: LINK, nbma: address });
                rest
            }
            step::RESTART => {
                let snapshot = self.engine.snapshot(self.now);
                // The agent compares what is installed anew with what is there.
                self.neighbours.clear();
                self.routes.clear();
                self.assigned.clear();
                self.engine = Engine::restore(self.config.clone(), &snapshot, 500, 2, self.now);
                arguments
            }
            _ => {
                self.input(Input::Withdraw);
                arguments
            }
        };
        self.settle();
        Some(rest)
    }

    fn receive(&mut self, from: IpAddr, packet: &[u8]) {
        self.engine.handle_packet(self.now, Origin { link: LINK, nbma: from }, packet);
    }

    fn input(&mut self, input: Input) {
        self.engine.handle_input(self.now, input);
    }

    /// A packet of the engine's comes back as its own reply, changed here and there.
    fn answer(&mut self, which: u8, patches: &[u8]) {
        let Some(last) = self.sent.len().checked_sub(1) else { return };
        let Some((from, bytes)) = self.sent.get(last.saturating_sub(usize::from(which % 4))) else { return };
        let (from, mut bytes) = (*from, bytes.clone());
        if let Some(kind) = bytes.get_mut(17).filter(|kind| matches!(**kind, 1 | 3 | 5)) {
            *kind += 1;
        }
        for patch in patches.chunks_exact(2) {
            if let [at, value] = patch
                && let Some(byte) = bytes.get_mut(usize::from(*at))
            {
                *byte = *value;
            }
        }
        crate::repair(&mut bytes);
        self.receive(from, &bytes);
    }

    /// Time passes; all that is due in it is done when it is due.
    fn wait(&mut self, ms: u64) {
        let end = self.now.after(ms);
        self.settle();
        for _ in 0..TIMEOUTS {
            match self.engine.poll_timeout().filter(|at| *at <= end) {
                Some(at) => {
                    self.now = self.now.max(at);
                    self.engine.handle_timeout(self.now);
                    self.settle();
                }
                None => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("timers that are always due");
    }

    /// Does what the engine wants done.
    fn settle(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Send { to, bytes, .. } => {
                    let packet = Packet::parse(&bytes).expect("sent what cannot be read");
                    assert!(packet.header().hop_count > 0, "hop count 0");
                    if self.sent.len() == REMEMBERED {
                        self.sent.remove(0);
                    }
                    self.sent.push((to, bytes));
                }
                Output::InstallNeighbour { overlay, .. } => {
                    self.neighbours.insert(overlay);
                }
                Output::RemoveNeighbour { overlay, .. } => {
                    assert!(self.neighbours.remove(&overlay), "no such neighbour: {overlay}");
                    let through = self.routes.iter().find(|(_, via)| **via == overlay);
                    assert!(through.is_none(), "the neighbour of a route goes: {through:?}");
                }
                Output::InstallRoute { prefix, via, kind, .. } => {
                    assert!(self.neighbours.contains(&via), "{prefix} via unknown {via}");
                    self.routes.insert((prefix, kind), via);
                }
                Output::RemoveRoute { prefix, kind, .. } => {
                    assert!(
                        self.routes.remove(&(prefix, kind)).is_some(),
                        "no such route: {prefix} {kind:?}"
                    );
                }
                Output::QueryUse { prefix } => {
                    let used = self.now.0.is_multiple_of(2);
                    self.engine.handle_input(self.now, Input::Use { prefix, used });
                }
                Output::AssignAddress { address, .. } => {
                    assert!(self.assigned.insert(address), "assigned twice: {address}");
                }
                Output::ReleaseAddress { address, .. } => {
                    assert!(self.assigned.remove(&address), "no such address: {address}");
                }
                Output::Event(event) => assert!(!event.to_string().is_empty()),
                _ => {}
            }
        }
    }
}
