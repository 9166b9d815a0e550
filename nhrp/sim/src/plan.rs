//! What a seed makes of a network: who is there, how they are configured, what the weather is like.

use ipnet::IpNet;
use nhrp::wire::{HubEntry, HubNbma};
use nhrp::{Config, External, LinkId, Nhs, Phase, Uniqueness};

use crate::address::{Family, inside, nbma};
use crate::rng::Rng;

/// The tunnel interface, the same number everywhere.
pub(crate) const LINK: LinkId = LinkId(7);

/// What may go wrong in the network itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// The network loses nothing. Members change and misbehave; nothing of that may ever cost the others a packet.
    Calm,
    /// Loss, delay, duplicates, partitions, deaths and leaps of the clock.
    Storm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Hub,
    Spoke,
    /// A member like the others, from whose address forged packets come besides.
    Hostile,
}

/// A node before it starts.
#[derive(Clone, Debug)]
pub(crate) struct NodePlan {
    pub(crate) role: Role,
    /// Knows no extension of ours and ignores purges.
    pub(crate) foreign: bool,
    pub(crate) nat: Option<usize>,
    pub(crate) config: Config,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct NatPlan {
    /// Many to one, and it lets in only who was sent something; else one to one.
    pub(crate) masquerade: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) family: Family,
    pub(crate) weather: Weather,
    pub(crate) phase: Phase,
    pub(crate) holding: u16,
    /// Another's registration of a taken address is refused in this network.
    pub(crate) protected: bool,
    pub(crate) passwords: Vec<Vec<u8>>,
    pub(crate) nats: Vec<NatPlan>,
    pub(crate) nodes: Vec<NodePlan>,
    pub(crate) hubs: usize,
    /// Of a thousand packets.
    pub(crate) loss: u64,
    pub(crate) duplicates: u64,
    pub(crate) damage: u64,
    pub(crate) delay_ms: (u64, u64),
    /// How long things happen before everything has to settle.
    pub(crate) active_ms: u64,
    pub(crate) flows: usize,
}

impl Plan {
    pub(crate) fn from_seed(rng: &mut Rng) -> Self {
        let family = Family { v6: rng.percent(20) };
        let weather = if rng.percent(55) { Weather::Calm } else { Weather::Storm };
        let storm = weather == Weather::Storm;
        let phase = match rng.below(100) {
            0..80 => Phase::Three,
            80..92 => Phase::Two,
            _ => Phase::One,
        };
        let uniqueness = match rng.below(100) {
            0..70 => Uniqueness::Identity,
            70..90 => Uniqueness::Nbma,
            _ => Uniqueness::None,
        };
        let unique = rng.percent(60);
        let protected = match uniqueness {
            Uniqueness::Identity => true,
            Uniqueness::Nbma => unique,
            Uniqueness::None => false,
        };
        let passwords: Vec<Vec<u8>> = match rng.below(4) {
            0 => Vec::new(),
            1 | 2 => vec![b"secret".to_vec()],
            _ => vec![b"newword".to_vec(), b"secret".to_vec()],
        };
        let mut plan = Self {
            family,
            weather,
            phase,
            holding: rng.pick(&[15, 30, 60]).unwrap_or(30),
            protected,
            passwords,
            nats: Vec::new(),
            nodes: Vec::new(),
            hubs: rng.pick(&[1, 1, 2, 2, 3]).unwrap_or(1),
            loss: if storm { rng.pick(&[0, 20, 100, 250]).unwrap_or(0) } else { 0 },
            duplicates: if storm { rng.pick(&[0, 20, 200]).unwrap_or(0) } else { 0 },
            damage: if storm { rng.pick(&[0, 0, 20]).unwrap_or(0) } else { 0 },
            delay_ms: match storm {
                true => rng.pick(&[(1, 5), (5, 80), (20, 900)]).unwrap_or((5, 5)),
                // In order: a registration that overtakes the purge of the same is there until it expires.
                false => rng.pick(&[(1, 1), (5, 5), (40, 40)]).unwrap_or((5, 5)),
            },
            active_ms: rng.between(60, 150) * 1000,
            flows: rng.between(2, 8) as usize,
        };
        plan.members(rng, uniqueness, unique);
        plan
    }

    fn members(&mut self, rng: &mut Rng, uniqueness: Uniqueness, unique: bool) {
        let foreign_hub = self.hubs == 1 && rng.percent(12);
        let spokes = rng.between(2, 12) as usize;
        let mut base = self.base(unique);
        base.uniqueness = uniqueness;
        let hub_list = self.hub_list();
        for index in 0..self.hubs {
            let n = index as u8 + 1;
            let config = Config {
                server: true,
                nbma: Some(nbma(0, n)),
                local: vec![self.family.overlay(0, n)],
                nhs: Vec::new(),
                hub_list: hub_list.clone(),
                ..base.clone()
            };
            self.nodes.push(NodePlan { role: Role::Hub, foreign: foreign_hub, nat: None, config });
        }
        let mut declared = Vec::new();
        for index in 0..spokes {
            let n = index as u8 + 1;
            let lans: Vec<IpNet> =
                (0..rng.pick(&[0, 1, 1, 1, 2]).unwrap_or(1)).map(|which| self.family.lan(n, which)).collect();
            let nat = match rng.below(100) {
                0..8 => Some((false, rng.percent(0))),
                8..20 => Some((true, rng.percent(40))),
                _ => None,
            };
            let nat = nat.map(|(masquerade, shared)| {
                let taken = self.nats.iter().position(|nat| nat.masquerade && masquerade && shared);
                taken.unwrap_or_else(|| {
                    self.nats.push(NatPlan { masquerade });
                    self.nats.len() - 1
                })
            });
            let foreign = rng.percent(15);
            let own = nat.map_or_else(|| nbma(1, n), |nat| inside(nat, n));
            let config = Config {
                nbma: Some(own),
                local: vec![self.family.overlay(1, n)],
                subnets: lans.clone(),
                unique,
                ..base.clone()
            };
            let mut config = config;
            if rng.percent(50) {
                // In the middle of a rotation: all accept both, some send the new one already.
                config.authentication.reverse();
            }
            if (foreign || foreign_hub) && !lans.is_empty() {
                declared.push(External {
                    name: format!("spoke{n}"),
                    overlay: config.local.clone(),
                    prefixes: lans,
                });
            }
            self.nodes.push(NodePlan { role: Role::Spoke, foreign, nat, config });
        }
        if rng.percent(70) {
            let lan = self.family.lan(200, 0);
            let config = Config {
                nbma: Some(nbma(66, 1)),
                local: vec![self.family.overlay(66, 1)],
                subnets: vec![lan],
                ..base.clone()
            };
            if foreign_hub {
                let overlay = config.local.clone();
                declared.push(External { name: "mallory".into(), overlay, prefixes: vec![lan] });
            }
            self.nodes.push(NodePlan { role: Role::Hostile, foreign: false, nat: None, config });
        }
        // Every other spoke is of a class; some hubs know it.
        for (index, node) in self.nodes.iter_mut().enumerate() {
            match node.role {
                Role::Hub if index % 2 == 0 => node.config.groups = ["gold".to_owned()].into(),
                Role::Spoke if index % 2 == 0 => {
                    let local = node.config.local.iter();
                    node.config.own_groups = local.map(|local| (*local, "gold".to_owned())).collect();
                }
                _ => {}
            }
        }
        for node in self.nodes.iter_mut().filter(|node| node.role == Role::Hub) {
            node.config.external.clone_from(&declared);
        }
    }

    /// What a hub knows of the hubs; one that is alone tells nothing.
    fn hub_list(&self) -> Vec<HubEntry> {
        let entry = |index: usize| HubEntry {
            name: format!("hub{}", index + 1),
            priority: index as u8,
            cluster: 0,
            max_connections: 0,
            draining: false,
            overlay: vec![self.family.overlay(0, index as u8 + 1)],
            nbma: vec![HubNbma::Address(nbma(0, index as u8 + 1))],
        };
        if self.hubs > 1 { (0..self.hubs).map(entry).collect() } else { Vec::new() }
    }

    /// What all have in common; the one place that knows all fields.
    fn base(&self, unique: bool) -> Config {
        let hub = |index: usize| Nhs {
            name: format!("hub{}", index + 1),
            overlay: vec![self.family.overlay(0, index as u8 + 1)],
            nbma: vec![nbma(0, index as u8 + 1)],
            priority: index as u8,
            ..Nhs::default()
        };
        Config {
            link: LINK,
            nbma: None,
            phase: self.phase,
            server: false,
            local: Vec::new(),
            overlay: vec![self.family.overlay_net()],
            subnets: Vec::new(),
            advertise: Vec::new(),
            beside: Vec::new(),
            across: Vec::new(),
            nhs: (0..self.hubs).map(hub).collect(),
            child_hubs: Vec::new(),
            statics: Vec::new(),
            external: Vec::new(),
            holding_time: self.holding,
            fixed_hubs: false,
            fallback_seconds: 0,
            names: Vec::new(),
            hub_list: Vec::new(),
            registration_interval: None,
            unique,
            uniqueness: Uniqueness::Identity,
            authentication: self.passwords.iter().cloned().map(Into::into).collect(),
            mtu: 1400,
            request: None,
            pool: None,
            own_groups: Vec::new(),
            groups: std::collections::BTreeSet::new(),
            members: None,
        }
    }
}
