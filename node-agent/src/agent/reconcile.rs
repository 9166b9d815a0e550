//! Makes the kernel equal to the plan: observe, compare, write the difference.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crds::Reason;
use crds::endpoint::{DmvpnEndpointSpec, Role};
use dataplane::model::{KernelEvent, Observed, Op};
use dataplane::nft::Senders;
use dataplane::{Applied, nft};
use ipnet::IpNet;
use tracing::{error, info, warn};

use super::{Agent, ipsec, lifelines, underlay};
use crate::drivers::nhrp::NhrpDriver;
use crate::ladder::Trouble;
use crate::plan::diff::{self, LinkStep};
use crate::plan::pins;
use crate::plan::wanted::ALIAS_PREFIX;
use crate::tunnel::{Leaving, Tunnel};
use crate::{clock, snapshot};

/// After a failure the kernel is compared again this soon, in milliseconds.
const RETRY_MS: u64 = 1_000;
/// So many changes of one comparison are named in the log.
const NAMED: usize = 8;
/// Without any event nft is looked at this often, in milliseconds.
const NFT_MS: u64 = 30_000;

impl Agent {
    /// One comparison of everything.
    pub(super) async fn reconcile(&mut self) {
        let Some(mut observed) = self.observe().await else { return };
        let look_at_nft = self.nft_at <= clock::now();
        if look_at_nft {
            self.nft_at = clock::now().after(NFT_MS);
        }
        self.meet_leftovers(&observed);
        // One in metadata mode shows no key of its own; whoever's link has one and no remote end takes it from anybody.
        let gre = observed.links.iter().filter_map(|link| link.gre.as_ref());
        let gre = gre.filter(|gre| !gre.is_metadata() || gre.key.is_some());
        self.strangers.keys = gre.filter_map(|gre| Some((v6(gre.local)?, gre.key))).collect();
        self.look_at_lifelines(&observed).await;
        let mut links_changed = false;
        let names: Vec<_> = self.tunnels.keys().cloned().collect();
        for network in &names {
            links_changed |= self.reconcile_link(network, &observed).await;
        }
        self.keep_lifelines();
        links_changed |= self.remove_stale(&observed, look_at_nft).await;
        if links_changed {
            let Some(again) = self.observe().await else { return };
            observed = again;
        }
        self.look_beside();
        for network in &names {
            self.reconcile_tunnel(network, &observed, look_at_nft).await;
        }
        self.reconcile_behind(&observed, look_at_nft).await;
        self.want_names();
        self.begin_farewells(clock::now());
        self.remove_stale_pins(&observed).await;
        self.see_off(&observed).await;
        self.capture_redirects();
        self.capture_multicast();
    }

    async fn observe(&mut self) -> Option<Observed> {
        match self.kernel.observe().await {
            Ok(observed) => Some(observed),
            Err(error) => {
                error!(%error, "kernel state cannot be read");
                self.reconcile_at = clock::now().after(RETRY_MS);
                None
            }
        }
    }

    /// Source address and link of one tunnel; true if the link changed.
    async fn reconcile_link(&mut self, network: &str, observed: &Observed) -> bool {
        let unprotectable = self.unprotectable(network);
        let Some(tunnel) = self.tunnels.get_mut(network) else { return false };
        let own = diff::own_link(network, observed).map_or(0, |l| l.index);
        if tunnel.leaving.is_none() {
            let vrfs = underlay::vrfs(&tunnel.spec, observed);
            let in_vrf = vrfs.as_ref().ok().and_then(|vrfs| vrfs.underlay);
            let look =
                underlay::Look { kernel: &self.kernel, observed, names: &self.names, own, vrf: in_vrf };
            let local = match vrfs {
                Ok(vrfs) => look.source_address(tunnel).await.map(|local| (local, vrfs)),
                Err(trouble) => {
                    // Where its VRF has gone it must not speak in the main table.
                    let is_there = |index| observed.links.iter().any(|link| link.index == index);
                    if let Some(wanted) = tunnel.wanted.as_mut().filter(|it| !is_there(it.link.master)) {
                        wanted.lose_vrf();
                    }
                    Err(trouble)
                }
            };
            let found = local.and_then(|(local, vrfs)| {
                Ok((local, underlay::remote_address(&tunnel.spec, &self.names)?, vrfs))
            });
            match found {
                Ok((local, remote, vrfs)) => {
                    tunnel.ground.trouble = unprotectable;
                    let mtu = look.mtu(tunnel, local).await;
                    tunnel.plan(local, remote, mtu, vrfs);
                }
                Err(trouble) => tunnel.ground.trouble = Some(trouble),
            }
        }
        let Some(wanted) = &mut tunnel.wanted else { return false };
        let step = diff::link_step(&wanted.link, observed);
        let link = wanted.link.clone();
        if let Some(guard) = &mut wanted.nft.guard {
            // The link may still have another address: what it sends from there is guarded until it has this one.
            let now = diff::own_link(network, observed).and_then(|l| l.gre.as_ref());
            guard.locals.extend(now.and_then(|gre| v4(gre.local)));
        }
        // A link speaks as soon as it is up: of itself, to multicast addresses.
        let guarded = wanted.nft.guard.is_some();
        if guarded || matches!(step, LinkStep::Create | LinkStep::Replace(_)) {
            let text = nft::render(&wanted.nft);
            if !self.guard(network, text, &step).await && guarded {
                return false;
            }
        }
        let Some(tunnel) = self.tunnels.get_mut(network) else { return false };
        let ops = match step {
            LinkStep::Keep(index) => {
                set_link(tunnel, index);
                return false;
            }
            LinkStep::NameTaken(index) => {
                let message = format!(
                    "interface {} (index {index}) exists and is not ours: remove it, or set tunnel.interfaceName to another name",
                    link.name
                );
                tunnel.ground.trouble = Some(Trouble::new(Reason::InterfaceNameTaken, message));
                set_link(tunnel, 0);
                return false;
            }
            LinkStep::OnlyOne(index) => {
                let other = observed.links.iter().find(|l| l.index == index);
                let other = other.map_or_else(String::new, |l| match l.alias.strip_prefix(ALIAS_PREFIX) {
                    Some(network) => format!("{} of network {network}", l.name),
                    None => l.name.clone(),
                });
                let message = format!(
                    "a multipoint tunnel over IPv6 is an ip6gre link in metadata mode, of which a node can have but one, \
                     and {other} (index {index}) is one: remove that, or use an IPv4 underlay or Phase1 here"
                );
                tunnel.ground.trouble = Some(Trouble::new(Reason::InterfaceNotCreated, message));
                set_link(tunnel, 0);
                return false;
            }
            LinkStep::Create => vec![Op::CreateGre(link)],
            LinkStep::Change(index) => vec![Op::ChangeGre { index, link }],
            LinkStep::Replace(index) => vec![Op::DeleteLink { index }, Op::CreateGre(link)],
        };
        info!(network, ?step, "link");
        let results = self.kernel.apply(&ops).await;
        let Some(tunnel) = self.tunnels.get_mut(network) else { return false };
        for (op, result) in ops.iter().zip(results) {
            match (op, result) {
                (Op::CreateGre(_), Ok(Applied::Link { index })) => set_link(tunnel, index),
                (Op::ChangeGre { index, .. }, Ok(_)) => set_link(tunnel, *index),
                (_, Ok(_)) => set_link(tunnel, 0),
                (_, Err(error)) => {
                    warn!(network, %error, ?op, "link");
                    let cure = match error.is_unsupported() {
                        true => {
                            ": this kernel has no such GRE: `modprobe ip_gre` (over IPv6 ip6_gre), or install its modules"
                        }
                        false => "",
                    };
                    tunnel.ground.trouble = Some(Trouble::new(
                        Reason::InterfaceNotCreated,
                        format!("the kernel refused the tunnel interface: {error}{cure}"),
                    ));
                    self.reconcile_at = clock::now().after(RETRY_MS);
                }
            }
        }
        true
    }

    /// Loads the rules, before there is a link that could send what they keep off the wire; false: they are not in force,
    /// and the link of a protected tunnel is not to be touched.
    async fn guard(&mut self, network: &str, text: String, step: &LinkStep) -> bool {
        self.reconcile_nft(network, text, "", false).await;
        let Some(tunnel) = self.tunnels.get_mut(network) else { return false };
        if tunnel.loaded_nft.is_some() || matches!(step, LinkStep::Keep(_)) {
            return true;
        }
        if tunnel.spec.ipsec.is_some() {
            let message = "nft did not take the rules that keep clear GRE off the wire: no link without them";
            tunnel.ground.trouble = Some(Trouble::new(Reason::InterfaceNotCreated, message));
        }
        false
    }

    /// Removes what is ours and belongs to no tunnel; true if a link went.
    async fn remove_stale(&mut self, observed: &Observed, look_at_nft: bool) -> bool {
        let all: Vec<_> = self.tunnels.values().filter_map(|t| t.wanted.as_ref()).collect();
        // A tunnel whose source is not known yet may still have its link from an earlier run: keep that. So may one
        // whose configuration cannot be used at the moment: only an explicit wish takes away what works.
        let unsure = self.desired.keep_unnamed || !self.desired.problems.is_empty();
        let removals = &self.desired.removals;
        let keeps = |network: &str| match self.tunnels.get(network) {
            Some(tunnel) => tunnel.wanted.is_none(),
            None => {
                let asked = removals.iter().any(|r| r.spec.network == network);
                unsure && !asked && !self.met.contains(network)
            }
        };
        let over = |prefix: IpNet| removals.iter().any(|r| ends_at(&r.spec).any(|c| c == prefix));
        let networks =
            observed.links.iter().filter_map(|l| Some((l.index, l.alias.strip_prefix(ALIAS_PREFIX)?)));
        let kept: BTreeMap<u32, &str> = networks.filter(|(_, network)| keeps(network)).collect();
        let mut ops = diff::stale(&all, observed);
        ops.retain(|op| match op {
            Op::DeleteLink { index } => !kept.contains_key(index),
            Op::DeleteRoute(route) => kept.is_empty() || over(route.prefix),
            _ => true,
        });
        let mut good = true;
        if !ops.is_empty() {
            info!(?ops, "removing what is ours and stale");
            good = self.apply("-", &ops).await;
            // A snapshot describes the kernel's state: it goes with it.
            for link in &observed.links {
                if let Some(network) = link.alias.strip_prefix(ALIAS_PREFIX)
                    && ops.contains(&Op::DeleteLink { index: link.index })
                {
                    snapshot::remove(&self.identity.snapshots, network);
                }
            }
        }
        let link_went = ops.iter().any(|op| matches!(op, Op::DeleteLink { .. }));
        if !good && look_at_nft {
            // A table may guard the very link that did not go.
            self.nft_at = clock::now();
            self.reconcile_at = clock::now().after(RETRY_MS);
        }
        if !good || !look_at_nft {
            return link_went;
        }
        match nft::tables().await {
            Ok(tables) => {
                for table in tables {
                    let is_of = |network: &String| nft::table(network) == table;
                    let asked = self.met.iter().chain(removals.iter().map(|it| &it.spec.network)).any(is_of);
                    let wanted = self.tunnels.keys().chain(self.behind.keys()).any(is_of)
                        || kept.values().any(|n| nft::table(n) == table)
                        || (unsure && !asked);
                    if !wanted && let Err(error) = nft::load(&nft::remove_table(&table)).await {
                        warn!(table, %error, "stale nft table not removed");
                    }
                }
            }
            Err(error) => warn!(%error, "nft tables cannot be read"),
        }
        link_went
    }

    /// Removes pins that nobody wants; while a tunnel of ours has not started, they may be that one's.
    async fn remove_stale_pins(&mut self, observed: &Observed) {
        let ours = observed.links.iter().filter_map(|l| l.alias.strip_prefix(ALIAS_PREFIX));
        let mut started = ours
            .map(|network| self.tunnels.get(network).is_some_and(|t| t.engine.is_some() || !t.speaks_nhrp()));
        if !started.all(|started| started) || self.lifelines.is_waiting() {
            return;
        }
        let all: Vec<_> = self.tunnels.values().filter_map(|t| t.wanted.as_ref()).collect();
        let ops = pins::stale(&all, observed);
        if !ops.is_empty() {
            self.apply("-", &ops).await;
        }
    }

    /// Everything on the link of one tunnel.
    async fn reconcile_tunnel(&mut self, network: &str, observed: &Observed, look_at_nft: bool) {
        let now = clock::now();
        let Some(tunnel) = self.tunnels.get_mut(network) else { return };
        if tunnel.link == 0 {
            tunnel.stand(now);
            return;
        }
        tunnel.paths = underlay::paths(&self.kernel, tunnel, &self.names).await;
        if tunnel.watch_line(network, &self.to_lines).is_err() {
            self.reconcile_at = now.after(RETRY_MS);
        }
        let speaks = tunnel.speaks_nhrp() && !tunnel.ground.suspended;
        let gre = tunnel.wanted.as_ref().map(|wanted| &wanted.link).filter(|_| speaks);
        let hub = tunnel.spec.role != Role::Spoke;
        if let Some(gre) = gre
            && tunnel.socket.as_ref().is_none_or(|s| !s.serves(tunnel.link, gre, hub))
        {
            match NhrpDriver::open(network, tunnel.link, gre, hub, self.to_bursts.clone()) {
                Ok(socket) => tunnel.socket = Some(socket),
                Err(error) => {
                    warn!(network, %error, "NHRP socket");
                    self.reconcile_at = now.after(RETRY_MS);
                }
            }
        }
        tunnel.look_at_host(&dataplane::settings(), now);
        let dir = self.identity.snapshots.clone();
        let seed = seed(&self.identity.node, network, now.0);
        tunnel.configure(&self.names, observed, || snapshot::load(&dir, network, now), seed, now);
        tunnel.resolve(observed, now);
        if tunnel.doomed {
            tunnel.remove(now);
        }
        // What a restored engine says goes into the plan before the comparison, so that nothing is taken away that it
        // is about to want.
        let drained = tunnel.drain(now);
        tunnel.mark(underlay::remark(tunnel, observed));
        let Some(wanted) = &mut tunnel.wanted else { return };
        wanted.underlay = match wanted.depends_on_underlay() {
            true => {
                let seen = lifelines::underlay(&self.kernel).await;
                seen.inspect_err(|error| warn!(network, %error, "underlay")).ok()
            }
            false => None,
        };
        let ops = diff::changes(wanted, tunnel.link, observed);
        // From now on it is known who is behind whom.
        wanted.nft.sources = tunnel.engine.as_ref().and_then(|_| wanted.sources.strangers());
        let text = nft::render(&wanted.nft);
        // Who may send in is known here: a table that is loaded anew has forgotten it.
        let seeds = nft::admit(network, &wanted.peers6());
        if !ops.is_empty() {
            let named: Vec<_> = ops.iter().take(NAMED).map(dataplane::describe).collect();
            let more = if ops.len() > NAMED { ", …" } else { "" };
            info!(network, changes = ops.len(), "kernel differs from the plan: {}{more}", named.join(", "));
            if !self.apply(network, &ops).await {
                self.reconcile_at = clock::now().after(RETRY_MS);
            }
        }
        self.reconcile_nft(network, text, &seeds, look_at_nft).await;
        self.shape(network, Some(observed), look_at_nft).await;
        if let Some(tunnel) = self.tunnels.get_mut(network) {
            let packets = ipsec::pass(tunnel, drained.packets, now);
            if let Some(socket) = &tunnel.socket {
                socket.send(network, &packets).await;
            }
        }
    }

    /// Loads the nft table unless it stands as we loaded it; without `look`, unless we loaded that text. `seeds` are put
    /// into its sets with it.
    async fn reconcile_nft(&mut self, network: &str, text: String, seeds: &str, look: bool) {
        let Some(tunnel) = self.tunnels.get_mut(network) else { return };
        if !look && tunnel.loaded_nft.as_ref().is_some_and(|(loaded, _)| *loaded == text) {
            return;
        }
        let loaded = match nft::listed(network).await {
            Ok(Some(listed)) if tunnel.loaded_nft == Some((text.clone(), listed.clone())) => return,
            Ok(_) => {
                let senders = match &mut tunnel.wanted {
                    Some(wanted) if wanted.nft.sources.is_some() => wanted.senders(),
                    _ => Senders::default(),
                };
                let more = nft::senders(network, &Senders::default(), &senders);
                tunnel.senders = senders;
                nft::load(&format!("{text}{seeds}{more}")).await
            }
            Err(error) => Err(error),
        };
        match loaded {
            Ok(()) => {
                info!(network, "nft table loaded");
                tunnel.loaded_nft = nft::listed(network).await.ok().flatten().map(|l| (text, l));
                tunnel.classified = Some(BTreeMap::new());
            }
            Err(error) => {
                warn!(network, %error, "nft table not loaded");
                tunnel.loaded_nft = None;
                self.reconcile_at = clock::now().after(RETRY_MS);
            }
        }
    }

    /// Writes changes; false if one failed (said in the log).
    pub(super) async fn apply(&self, network: &str, ops: &[Op]) -> bool {
        let mut good = true;
        for (op, result) in ops.iter().zip(self.kernel.apply(ops).await) {
            if let Err(error) = result {
                warn!(network, %error, ?op, "kernel refused a change");
                good = false;
            }
        }
        good
    }
}

/// Prefixes of which what is nowhere ends on this node, by an unreachable route of ours.
pub(super) fn ends_at(spec: &DmvpnEndpointSpec) -> impl Iterator<Item = IpNet> {
    spec.overlay.iter().chain(&spec.advertise).map(|c| c.0)
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address),
    }
}

fn set_link(tunnel: &mut Tunnel, index: u32) {
    if tunnel.link != index {
        tunnel.link = index;
        tunnel.socket = None;
        tunnel.loaded_nft = None;
        tunnel.shaped = None;
    }
}

/// Seed of an engine: differs from node to node and from start to start.
fn seed(node: &str, network: &str, now: u64) -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let mut hasher = RandomState::new().build_hasher();
    hasher.write(node.as_bytes());
    hasher.write(network.as_bytes());
    hasher.write_u64(now);
    hasher.finish()
}

/// Whether an event means that kernel and plan may differ for this tunnel. Our own changes come back as events: those
/// agree with the plan and disturb nothing.
pub(super) fn disturbs(event: &KernelEvent, tunnel: &Tunnel) -> bool {
    let removed = matches!(tunnel.leaving, Some(Leaving::Removed(_)));
    let Some(wanted) = &tunnel.wanted else {
        // Without a source yet, any change of the underlay may bring one.
        return matches!(
            event,
            KernelEvent::Link(_) | KernelEvent::Address { .. } | KernelEvent::Route { .. }
        );
    };
    match event {
        KernelEvent::Link(link) if link.index == tunnel.link => {
            link.gre.as_ref() != Some(&wanted.link.shown()) || link.noarp
        }
        KernelEvent::Link(_) => true,
        KernelEvent::LinkGone { .. } => !removed,
        KernelEvent::Address { link, address, gone } if *link == tunnel.link => {
            let ours = wanted.has_address(address);
            !is_link_local(address) && ours == *gone
        }
        KernelEvent::Address { .. } => true,
        KernelEvent::Route { route, ours: true, gone } => {
            wanted.has_route(route, tunnel.link) == *gone && (*gone || concerns(route, tunnel.link))
        }
        KernelEvent::Route { ours: false, .. } => true,
        KernelEvent::Neighbour { link, overlay, nbma, gone } if *link == tunnel.link => {
            match (wanted.neighbour(*overlay), gone) {
                (Some(_), true) => true,
                (Some(want), false) => *nbma != Some(want),
                (None, true) => false,
                (None, false) => nbma.is_some(),
            }
        }
        KernelEvent::Neighbour { .. } | KernelEvent::ResolveNeeded { .. } => false,
        KernelEvent::Queues { link } => *link == tunnel.link && wanted.nft.shape,
        KernelEvent::Nft { table } => *table == nft::table(&tunnel.spec.network),
        KernelEvent::Settings | KernelEvent::Overrun => true,
    }
}

fn concerns(route: &dataplane::model::Route, link: u32) -> bool {
    route.target.hop().is_some_and(|(on, _)| on == link)
}

fn is_link_local(address: &IpNet) -> bool {
    matches!(address.addr(), IpAddr::V6(a) if a.is_unicast_link_local())
}
