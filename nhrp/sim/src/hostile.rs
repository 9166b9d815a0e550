//! The hostile member: it is registered as others are, knows the password, and sends from its own underlay address
//! whatever it likes. An outsider, with an address of its own and no password, helps it.
//!
//! What it cannot do: send from addresses of others, or read what others send each other. Where a rule must hold even
//! if a part of a secret has become known (an id, a destination), it is given that part.

use std::net::IpAddr;

use ipnet::IpNet;
use nhrp::wire::{
    Builder, Cie, ErrorCode, Header, MAX_HOPS, Message, PrefixChunk, authentication_value, checksum, ext,
    list_flags,
};
use nhrp::{Input, PacketType, Time};

use crate::address::{BYSTANDER, OUTSIDER, data, host, nbma};
use crate::plan::{LINK, Role, Weather};
use crate::world::{What, World};

/// Who is attacked, and about what.
struct Prey {
    mallory: usize,
    /// A spoke that sends to `dst`.
    spoke: usize,
    dst: IpAddr,
    src: IpAddr,
    /// Who has `dst`.
    egress: usize,
    hub: IpAddr,
    hub_overlay: IpAddr,
}

impl World {
    pub(crate) fn attack(&mut self) {
        if self.quiet.is_some() {
            return;
        }
        let next = self.rng.between(100, 3000);
        self.schedule(next, What::Attack);
        let Some(prey) = self.prey() else { return };
        let kind = self.rng.below(24);
        self.stats.attacks += 1;
        self.note(|| format!("attack {kind} on {} ({} → {})", prey.spoke, prey.src, prey.dst));
        match kind {
            0 => self.steal_address(&prey),
            1 => self.stranger(),
            2 => self.outside_of_overlay(&prey),
            3 => self.in_anothers_name(&prey),
            4..=7 => self.forged_reply(&prey, kind),
            8 | 9 => self.forged_indication(&prey),
            10 => self.confused_hub(&prey),
            11 | 12 => self.forged_purge(&prey),
            13 => self.forged_error(&prey),
            14 => self.forged_refusal(&prey),
            15 => self.forged_list(&prey),
            16 => self.claim_prefixes(&prey),
            17 | 18 => self.forged_request(&prey),
            19 => self.spoofed_data(&prey),
            20 | 21 => self.replay(),
            22 => self.mutant(),
            _ => self.flood(&prey),
        }
    }

    fn prey(&mut self) -> Option<Prey> {
        let mallory = self.nodes.iter().position(|node| node.role == Role::Hostile)?;
        let honest = |flow: &usize| self.nodes[self.flows[*flow].to].role == Role::Spoke;
        let flows: Vec<_> = (0..self.flows.len()).filter(honest).collect();
        let flow = &self.flows[self.rng.pick(&flows)?];
        let (spoke, egress, dst, src) = (flow.from, flow.to, flow.dst, flow.src);
        let hub = self.rng.below(self.plan.hubs as u64) as usize;
        let hub = &self.nodes[hub];
        Some(Prey { mallory, spoke, dst, src, egress, hub: hub.config.nbma?, hub_overlay: hub.overlay() })
    }

    fn own(&self, mallory: usize) -> (IpAddr, IpAddr) {
        let node = &self.nodes[mallory];
        (node.overlay(), node.config.nbma.unwrap_or(OUTSIDER))
    }

    fn header(&mut self, packet_type: PacketType, src: IpAddr, dst: IpAddr) -> Header {
        let src_nbma = nbma(66, 1);
        let request_id = self.rng.next() as u32;
        Header {
            packet_type,
            hop_count: MAX_HOPS,
            flags: 0,
            request_id,
            src_nbma,
            src_proto: src,
            dst_proto: dst,
        }
    }

    /// With a password that all accept.
    fn signed(&self, builder: Builder) -> Builder {
        match self.plan.passwords.first() {
            Some(password) => builder.extension(true, ext::AUTHENTICATION, &authentication_value(password)),
            None => builder,
        }
    }

    fn forge(&mut self, to: Option<IpAddr>, builder: Builder) {
        let bytes = self.signed(builder).finish();
        if let Some(to) = to {
            self.inject(nbma(66, 1), to, bytes);
        }
    }

    fn at(&self, index: usize) -> Option<IpAddr> {
        self.under.public(&self.nodes[index])
    }

    fn hold(&self) -> u16 {
        self.plan.holding
    }

    fn steal_address(&mut self, prey: &Prey) {
        if self.theft_is_easy() {
            return;
        }
        let mut victims = vec![prey.spoke, prey.egress];
        victims.extend((0..self.plan.hubs).find(|hub| self.nodes[*hub].overlay() != prey.hub_overlay));
        let victim = self.rng.pick(&victims).unwrap_or(prey.spoke);
        let overlay = self.nodes[victim].overlay();
        let mut header = self.header(PacketType::RegistrationRequest, overlay, prey.hub_overlay);
        header.flags = self.rng.pick(&[0, nhrp::wire::flags::REGISTRATION_UNIQUE]).unwrap_or(0);
        let cie = Cie { prefix_len: 0xff, holding_time: self.hold(), ..Cie::default() };
        let builder = Builder::new(&header).cie(&cie);
        self.forge(Some(prey.hub), builder);
    }

    /// Without the password, for an address that nobody has.
    fn stranger(&mut self) {
        if self.plan.passwords.is_empty() {
            return;
        }
        let overlay = self.plan.family.overlay(77, 1);
        let hub = &self.nodes[0];
        let (to, hub_overlay) = (hub.config.nbma, hub.overlay());
        let header = self.header(PacketType::RegistrationRequest, overlay, hub_overlay);
        let header = Header { src_nbma: OUTSIDER, ..header };
        let mut builder =
            Builder::new(&header).cie(&Cie { prefix_len: 0xff, holding_time: self.hold(), ..Cie::default() });
        if self.rng.percent(50) {
            builder = builder.extension(true, ext::AUTHENTICATION, &authentication_value(b"guess"));
        }
        if let Some(to) = to {
            self.inject(OUTSIDER, to, builder.finish());
        }
    }

    fn outside_of_overlay(&mut self, prey: &Prey) {
        let outside = self.plan.family.foreign_host();
        let header = self.header(PacketType::RegistrationRequest, outside, prey.hub_overlay);
        let cie = Cie { prefix_len: 0xff, holding_time: self.hold(), ..Cie::default() };
        self.forge(Some(prey.hub), Builder::new(&header).cie(&cie));
    }

    /// A registration, or a question, that says it is from a bystander.
    fn in_anothers_name(&mut self, prey: &Prey) {
        let overlay = self.plan.family.overlay(66, 2);
        let header = self.header(PacketType::RegistrationRequest, overlay, prey.hub_overlay);
        let header = Header { src_nbma: BYSTANDER, ..header };
        let nbma = self.rng.pick(&[None, Some(BYSTANDER)]).flatten();
        let cie = Cie { prefix_len: 0xff, holding_time: self.hold(), nbma, ..Cie::default() };
        self.forge(Some(prey.hub), Builder::new(&header).cie(&cie));
    }

    /// An answer that nobody asked it for: each misses one thing.
    fn forged_reply(&mut self, prey: &Prey, kind: u64) {
        let (overlay, own_nbma) = self.own(prey.mallory);
        let requester = &self.nodes[prey.spoke];
        let asked = requester.asked;
        let src = requester.overlay();
        let length = self.rng.pick(&[0, 8, 24, 64]).unwrap_or(0);
        let cie = Cie {
            prefix_len: length,
            holding_time: self.hold(),
            nbma: Some(own_nbma),
            proto: Some(overlay),
            ..Cie::default()
        };
        let mut header = self.header(PacketType::ResolutionReply, src, prey.dst);
        let spoke = self.at(prey.spoke);
        let (id, dst) = asked.unwrap_or((header.request_id, prey.dst));
        match kind {
            // It knows the destination, but not the id.
            4 => {
                header.dst_proto = dst;
                if self.rng.percent(50) {
                    // The ids that come next, were they counted.
                    header.request_id = id.wrapping_add(self.rng.between(1, 4) as u32);
                }
                self.forge(spoke, Builder::new(&header).cie(&cie));
            }
            // It knows the id, but not the destination.
            5 => {
                header.request_id = id;
                header.dst_proto = host(self.nodes[prey.mallory].config.subnets[0], 9);
                self.forge(spoke, Builder::new(&header).cie(&cie));
            }
            // It knows both, and names somebody else.
            6 => {
                header.request_id = id;
                header.dst_proto = dst;
                let nbma = self.rng.pick(&[BYSTANDER, OUTSIDER]).unwrap_or(BYSTANDER);
                let cie = Cie { nbma: Some(nbma), ..cie };
                self.forge(spoke, Builder::new(&header).cie(&cie));
            }
            // The same by way of the hub, which asked somebody else.
            _ => {
                header.request_id = id;
                header.dst_proto = dst;
                self.forge(Some(prey.hub), Builder::new(&header).cie(&cie));
            }
        }
    }

    fn forged_indication(&mut self, prey: &Prey) {
        let header = self.header(PacketType::TrafficIndication, prey.hub_overlay, prey.src);
        let header = Header { request_id: 0, ..header };
        let payload = data(prey.src, prey.dst);
        let to = self.at(prey.spoke);
        self.forge(to, Builder::new(&header).payload(&payload[..84]));
    }

    /// A hub that redirects what it should not: the one case in which a packet comes from where it says.
    fn confused_hub(&mut self, prey: &Prey) {
        let family = self.plan.family;
        let spoke = &self.nodes[prey.spoke];
        let stranger = host(family.lan(222, 0), 5);
        let own = spoke.config.subnets.first().map_or_else(|| spoke.overlay(), |net| host(*net, 77));
        let mut cases = vec![(stranger, prey.dst), (prey.src, own), (prey.src, family.multicast())];
        if !family.v6 {
            cases.push((prey.src, prey.hub));
        }
        let Some((src, dst)) = self.rng.pick(&cases) else { return };
        let header = self.header(PacketType::TrafficIndication, prey.hub_overlay, prey.src);
        let header = Header { request_id: 0, src_nbma: prey.hub, ..header };
        let payload = data(src, dst);
        let bytes = self.signed(Builder::new(&header).payload(&payload[..84])).finish();
        if let Some(to) = self.at(prey.spoke) {
            self.inject(prey.hub, to, bytes);
        }
    }

    fn forged_purge(&mut self, prey: &Prey) {
        let family = self.plan.family;
        let egress = &self.nodes[prey.egress];
        let (overlay, lan) = (egress.overlay(), egress.config.subnets.first().copied());
        let host_net = IpNet::from(overlay);
        let everything = family.everything();
        let about = self.rng.pick(&[host_net, lan.unwrap_or(host_net), everything]).unwrap_or(host_net);
        let at_hub = self.rng.percent(50);
        let to = if at_hub { Some(prey.hub) } else { self.at(prey.spoke) };
        let mut header = self.header(PacketType::PurgeRequest, overlay, prey.hub_overlay);
        header.flags = self.rng.pick(&[0, nhrp::wire::flags::NO_REPLY]).unwrap_or(0);
        let cie = Cie { prefix_len: about.prefix_len(), proto: Some(about.network()), ..Cie::default() };
        self.forge(to, Builder::new(&header).cie(&cie));
    }

    fn forged_error(&mut self, prey: &Prey) {
        let spoke = &self.nodes[prey.spoke];
        let overlay = spoke.overlay();
        let (id, dst) = spoke.asked.unwrap_or((0, prey.dst));
        let registration =
            spoke.engine.as_ref().and_then(|engine| Some(engine.nhs_states(Time(0)).first()?.request_id));
        let code = self
            .rng
            .pick(&[ErrorCode::ProtocolAddressUnreachable, ErrorCode::AuthenticationFailure, ErrorCode::Loop])
            .unwrap_or(ErrorCode::Loop);
        let about_registration = self.rng.percent(50);
        let wrong = self.rng.next() as u32;
        let (packet_type, request_id, dst) = match about_registration {
            // The right id, from one who was not asked.
            true => (PacketType::RegistrationRequest, registration.unwrap_or(wrong), prey.hub_overlay),
            false if self.rng.percent(50) => (PacketType::ResolutionRequest, wrong, dst),
            false => (PacketType::ResolutionRequest, id, host(self.plan.family.lan(201, 0), 1)),
        };
        let about = self.header(packet_type, overlay, dst);
        let inner = Builder::new(&Header { request_id, ..about }).finish();
        let header = self.header(PacketType::ErrorIndication, prey.hub_overlay, overlay);
        let header = Header { request_id: u32::from(u16::from(code)) << 16, ..header };
        let to = self.at(prey.spoke);
        self.forge(to, Builder::new(&header).payload(&inner));
    }

    /// "The hub does not want you."
    fn forged_refusal(&mut self, prey: &Prey) {
        let spoke = &self.nodes[prey.spoke];
        let overlay = spoke.overlay();
        let registration =
            spoke.engine.as_ref().and_then(|engine| Some(engine.nhs_states(Time(0)).first()?.request_id));
        let header = self.header(PacketType::RegistrationReply, overlay, self.nodes[0].overlay());
        let header = Header { request_id: registration.unwrap_or(header.request_id), ..header };
        let code = self.rng.pick(&[4, 14]).unwrap_or(4);
        let to = self.at(prey.spoke);
        self.forge(to, Builder::new(&header).cie(&Cie { code, ..Cie::default() }));
    }

    /// "Nothing is reachable by the hub any more", or something that leads the tunnel into itself.
    fn forged_list(&mut self, prey: &Prey) {
        let spoke = &self.nodes[prey.spoke];
        let overlay = spoke.overlay();
        let header = self.header(PacketType::RegistrationRequest, prey.hub_overlay, overlay);
        let chunk = PrefixChunk {
            flags: list_flags::REACHABLE | list_flags::FIRST,
            generation: self.rng.next() as u32,
            ..PrefixChunk::default()
        };
        let builder = Builder::new(&header).cie(&Cie { prefix_len: 0xff, ..Cie::default() });
        let to = self.at(prey.spoke);
        let builder = self.signed(builder).extension(false, ext::PREFIXES, &chunk.encode());
        if let Some(to) = to {
            self.inject(nbma(66, 1), to, builder.finish());
        }
    }

    /// Registers properly, and claims what is not its own.
    fn claim_prefixes(&mut self, prey: &Prey) {
        let family = self.plan.family;
        let (overlay, _) = self.own(prey.mallory);
        let lan = self.nodes[prey.egress].config.subnets.first().copied();
        let mut claims = vec![family.everything(), family.overlay_net()];
        // Who is away can lose its networks to one who claims them first: that is no breach.
        if let Some(lan) = lan.filter(|_| self.undisturbed(prey.egress)) {
            claims.push(lan);
            let half = IpNet::new(prey.dst, lan.prefix_len() + 2);
            claims.extend(half.ok().filter(|half| lan.contains(half)).map(|half| half.trunc()));
        }
        if !family.v6 {
            claims.extend([prey.hub, nbma(1, 1)].into_iter().filter_map(|end| IpNet::new(end, 24).ok()));
            claims.extend(IpNet::new(nbma(0, 0), 15).ok());
        }
        let Some(claim) = self.rng.pick(&claims) else { return };
        let header = self.header(PacketType::RegistrationRequest, overlay, prey.hub_overlay);
        let chunk =
            PrefixChunk { flags: list_flags::FIRST, prefixes: vec![claim.trunc()], ..PrefixChunk::default() };
        let cie = Cie { prefix_len: 0xff, holding_time: self.hold(), ..Cie::default() };
        let builder = self.signed(Builder::new(&header).cie(&cie));
        let builder = builder.extension(false, ext::PREFIXES, &chunk.encode());
        self.inject(nbma(66, 1), prey.hub, builder.finish());
    }

    /// Questions in the name of others, in a circle, or out of hops.
    fn forged_request(&mut self, prey: &Prey) {
        let (overlay, own_nbma) = self.own(prey.mallory);
        let src = self.nodes[prey.spoke].overlay();
        let bystander = |proto: IpAddr| Cie { nbma: Some(BYSTANDER), proto: Some(proto), ..Cie::default() };
        let cie = Cie { holding_time: self.hold(), ..Cie::default() };
        let kind = self.rng.below(6);
        let header = self.header(PacketType::ResolutionRequest, overlay, prey.dst);
        let (to, header, record, nat) = match kind {
            // For somebody else, by the hub: the answer would go to a bystander.
            0 => {
                let src = if self.rng.percent(50) { src } else { self.plan.family.overlay(99, 9) };
                (Some(prey.hub), Header { src_proto: src, src_nbma: BYSTANDER, ..header }, None, Vec::new())
            }
            // Straight to the egress, with a NAT extension.
            1 => {
                let src = self.rng.pick(&[src, overlay]).unwrap_or(src);
                (self.at(prey.egress), Header { src_proto: src, ..header }, None, vec![bystander(src)])
            }
            // Its own question, with a bystander's address in it.
            2 => (Some(prey.hub), Header { src_nbma: BYSTANDER, ..header }, None, Vec::new()),
            3 => (Some(prey.hub), header, None, vec![bystander(overlay)]),
            4 => {
                let hub = Cie { nbma: Some(prey.hub), proto: Some(prey.hub_overlay), ..Cie::default() };
                (Some(prey.hub), header, Some(hub), Vec::new())
            }
            _ => (Some(prey.hub), Header { hop_count: 1, src_nbma: own_nbma, ..header }, None, Vec::new()),
        };
        let record: Vec<_> = record.into_iter().collect();
        let builder = Builder::new(&header)
            .cie(&cie)
            .extension(true, ext::RESPONDER, &[])
            .extension_cies(true, ext::FORWARD_RECORD, &record)
            .extension(true, ext::REVERSE_RECORD, &[]);
        let builder = self.signed(builder).extension_cies(false, ext::NAT, &nat);
        if let Some(to) = to {
            self.inject(nbma(66, 1), to, builder.finish());
        }
    }

    /// A data packet with the source of another: the hub turns it round, and tells the other.
    fn spoofed_data(&mut self, prey: &Prey) {
        let packet = data(prey.src, prey.dst);
        self.input(0, Input::Hairpin { link: LINK, packet });
    }

    /// What was on the wire once comes again, from here.
    fn replay(&mut self) {
        let Some((to, bytes)) = self.some_capture() else { return };
        self.inject(nbma(66, 1), to, bytes);
    }

    /// Where addresses may be taken, or their holders be away, taking one is no breach.
    fn theft_is_easy(&self) -> bool {
        !self.plan.protected || self.plan.weather == Weather::Storm
    }

    fn some_capture(&mut self) -> Option<(IpAddr, Vec<u8>)> {
        let at = self.rng.below(self.captured.len() as u64) as usize;
        let (to, bytes) = self.captured.get(at)?.clone();
        let message = Message::decode(&bytes).ok()?;
        let registration = message.header.packet_type == PacketType::RegistrationRequest;
        (!(registration && self.theft_is_easy())).then_some((to, bytes))
    }

    fn mutant(&mut self) {
        let Some((to, mut bytes)) = self.some_capture() else { return };
        for _ in 0..self.rng.between(1, 4) {
            let at = self.rng.below(bytes.len() as u64) as usize;
            bytes[at] = match self.rng.below(4) {
                0 => 0,
                1 => 0xff,
                2 => bytes[at] ^ (1 << self.rng.below(8)),
                _ => self.rng.next() as u8,
            };
        }
        if bytes.len() >= 20 {
            let size = bytes.len() as u16;
            bytes[10..12].copy_from_slice(&size.to_be_bytes());
            bytes[12..14].fill(0);
            let sum = checksum(&bytes);
            bytes[12..14].copy_from_slice(&sum.to_be_bytes());
        }
        let registration = bytes.get(17) == Some(&PacketType::RegistrationRequest.to_wire());
        if !(registration && self.theft_is_easy()) {
            self.inject(nbma(66, 1), to, bytes);
        }
    }

    /// More than a table should hold. Rare: it takes long.
    fn flood(&mut self, prey: &Prey) {
        if !self.rng.percent(4) {
            return;
        }
        let (overlay, _) = self.own(prey.mallory);
        let header = self.header(PacketType::ResolutionRequest, overlay, prey.dst);
        let Some(hub) = self.nodes.iter().position(|node| node.config.nbma == Some(prey.hub)) else { return };
        for n in 0..5000 {
            let request_id = header.request_id.wrapping_add(n);
            let builder = Builder::new(&Header { request_id, ..header });
            let builder = builder.cie(&Cie { holding_time: self.hold(), ..Cie::default() });
            let bytes = self.signed(builder).finish();
            // Below what a peer may ask each second.
            self.schedule(u64::from(n) * 22 / 10, What::Packet { to: hub, from: nbma(66, 1), bytes });
        }
    }

    /// What comes to the hostile member; `true` if its own engine is not to see it.
    pub(crate) fn hostile_hears(&mut self, mallory: usize, from: IpAddr, bytes: &[u8]) -> bool {
        let Ok(message) = Message::decode(bytes) else { return false };
        let header = message.header;
        if header.packet_type != PacketType::ResolutionRequest || self.quiet.is_some() {
            return false;
        }
        let (overlay, own_nbma) = self.own(mallory);
        let from_hub = self.nodes.iter().take(self.plan.hubs).any(|hub| hub.config.nbma == Some(from));
        let mine = self.nodes[mallory].owns(header.dst_proto);
        if mine && self.rng.percent(30) {
            return false;
        }
        if header.dst_proto == overlay && from_hub && mine && self.rng.percent(50) {
            return false;
        }
        let honest = Cie {
            prefix_len: if mine { 24 } else { 0 },
            holding_time: self.hold(),
            nbma: Some(own_nbma),
            proto: Some(overlay),
            ..Cie::default()
        };
        let requester = self.nodes.iter().find(|node| node.overlay() == header.src_proto);
        let back = requester.and_then(|node| self.under.public(node));
        let hub_overlay = self.nodes[0].overlay();
        let victim = self.flows.iter().find(|flow| self.nodes[flow.from].overlay() == header.src_proto);
        let victim = victim.map(|flow| self.nodes[flow.to].overlay());
        // About a network of its own, only one that the asker knows already: a first answer that names an egress cannot
        // be told from a true one.
        let place = victim.and_then(|victim| self.nodes.iter().find(|node| node.overlay() == victim));
        let place = place.and_then(|node| self.under.public(node));
        let known = |victim: &IpAddr| requester.and_then(|it| it.kernel.neighbours.get(victim).copied());
        let victim =
            victim.filter(|victim| header.dst_proto == overlay || place.is_some() && known(victim) == place);
        let (cie, by_hub) = match self.rng.below(6) {
            0 | 1 => (
                Cie { prefix_len: self.rng.pick(&[1, 8, 12, 16]).unwrap_or(8), ..honest },
                self.rng.percent(50),
            ),
            2 => (Cie { proto: Some(hub_overlay), ..honest }, self.rng.percent(50)),
            // The hub can tell only while it knows the hostile member itself.
            3 if self.plan.weather == Weather::Calm => (Cie { nbma: Some(BYSTANDER), ..honest }, true),
            4 => (Cie { proto: victim.or(Some(overlay)), ..honest }, false),
            _ => (honest, false),
        };
        let reply = Header { packet_type: PacketType::ResolutionReply, hop_count: MAX_HOPS, ..header };
        let to = if by_hub { Some(from) } else { back };
        self.note(|| format!("hostile answer about {}: {cie:?}, by {to:?}", header.dst_proto));
        if cie.proto == victim && victim.is_some() && !by_hub {
            // At once: what the asker knows may change on the way.
            let target = self.nodes.iter().position(|node| node.nat.is_none() && node.config.nbma == back);
            if let Some(to) = target {
                let bytes = self.signed(Builder::new(&reply).cie(&cie)).finish();
                self.schedule(0, What::Packet { to, from: nbma(66, 1), bytes });
            }
            return true;
        }
        self.forge(to, Builder::new(&reply).cie(&cie));
        true
    }
}
