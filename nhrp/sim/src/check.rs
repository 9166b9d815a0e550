//! What must hold, and for how long it may not.
//!
//! At once, in every weather: a route's next hop is a known neighbour; nothing leads into the tunnel that the tunnel
//! itself runs on; no shortcut covers what is the node's own or the overlay; packets are readable, fit the MTU, have
//! hops left, name no hub twice and go to no bystander; traffic never passes the hostile member unless it is for it;
//! tables are bounded; a timeout that was handled is not due again.
//!
//! At once, in calm weather, among nodes that nothing has happened to of late: no flow loses a packet, hubs know each
//! spoke where it is, no registration is lost.
//!
//! Within a bound: a binding of one who is gone ends with the longest holding time ([`World::hold_bound`]), or with a
//! purge ([`PURGE_MS`]) if it left properly in calm weather; a shortcut that loses what the hub would carry, and a
//! loop, end with the holding time too.

use std::net::IpAddr;

use ipnet::IpNet;
use nhrp::wire::{Message, ext};
use nhrp::{Event, Output, PacketType, Phase, RouteKind, Time};

use crate::address::BYSTANDER;
use crate::plan::{Role, Weather};
use crate::world::World;

/// A purge goes out again after 1, 2 and 4 s; probing the old holder takes 1 s; then some.
const PURGE_MS: u64 = 12_000;
/// On top of a holding time: what is under way, and the rounding to seconds.
const SLACK_MS: u64 = 5_000;
/// Entries that any table may have, bindings apart (those are bounded by the network's size).
const TABLE_BOUND: usize = 4096;
/// Nodes that a packet may pass before it goes in a circle.
const WAY_BOUND: usize = 10;

/// A binding that leads to nobody.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ghost {
    since: Time,
    bound_ms: u64,
}

/// What becomes of a data packet that does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    Loop,
    NoRoute,
    NoNeighbour(IpAddr),
    /// The kernel asks the agent for this next hop.
    Unresolved(IpAddr),
    Unreachable(IpAddr),
    Down,
}

impl World {
    /// How long what was told may outlive the truth.
    pub(crate) fn hold_bound(&self) -> u64 {
        u64::from(self.longest_hold) * 1000 + SLACK_MS
    }

    /// The way of a data packet through the tables as they are; without `direct` as if there were no shortcuts.
    pub(crate) fn path(
        &self,
        from: usize,
        dst: IpAddr,
        direct: bool,
    ) -> Result<Vec<usize>, (Lost, Vec<usize>)> {
        let mut way = vec![from];
        let mut at = from;
        loop {
            let node = &self.nodes[at];
            if !node.present() || node.frozen.is_some() {
                return Err((Lost::Down, way));
            }
            if node.owns(dst) {
                return Ok(way);
            }
            let Some(via) = self.next_hop(at, dst, direct) else { return Err((Lost::NoRoute, way)) };
            let Some(nbma) = node.kernel.neighbours.get(&via).copied() else {
                let asks = self.plan.phase == Phase::Two && node.role != Role::Hub;
                return Err((if asks { Lost::Unresolved(via) } else { Lost::NoNeighbour(via) }, way));
            };
            let target = self.under.target(&self.nodes, node, nbma, self.now);
            let Some(next) = target.filter(|next| !self.under.is_cut(at, *next, self.now)) else {
                return Err((Lost::Unreachable(nbma), way));
            };
            way.push(next);
            if way.len() > WAY_BOUND {
                return Err((Lost::Loop, way));
            }
            at = next;
        }
    }

    /// The overlay next hop that a node has for an address; without `direct` as if there were no shortcuts.
    pub(crate) fn next_hop(&self, at: usize, dst: IpAddr, direct: bool) -> Option<IpAddr> {
        let node = &self.nodes[at];
        let in_overlay = self.plan.family.overlay_net().contains(&dst);
        let hubs = node.hub_addresses();
        let known = node.kernel.best(dst, direct || node.role == Role::Hub, Some(&hubs));
        known.or_else(|| match node.role {
            Role::Hub => None,
            _ if in_overlay && self.plan.phase == Phase::Two => Some(dst),
            _ if in_overlay || self.routes_statically(at) => node.gateway(),
            _ => None,
        })
    }

    /// Nobody tells it the prefixes: its operator has given it a route to the hub.
    pub(crate) fn routes_statically(&self, index: usize) -> bool {
        self.nodes[index].foreign || self.nodes.iter().any(|node| node.role == Role::Hub && node.foreign)
    }

    /// Whether nothing has happened of late to a node and to the hubs.
    pub(crate) fn undisturbed(&self, index: usize) -> bool {
        let quiet =
            |node: &crate::node::Node| node.disturbed <= self.now && node.present() && node.frozen.is_none();
        self.plan.weather == Weather::Calm
            && self.quiet.is_none()
            && quiet(&self.nodes[index])
            && !self.nodes[index].robbed
            && !self.nodes[index].shares_nat
            && self.nodes.iter().take(self.plan.hubs).all(quiet)
    }

    pub(crate) fn check_flows(&mut self) {
        if self.plan.weather == Weather::Calm {
            (0..self.flows.len()).for_each(|flow| self.check_flow(flow));
        }
    }

    pub(crate) fn check_flow(&mut self, index: usize) {
        let flow = &self.flows[index];
        let (from, to, dst) = (flow.from, flow.to, flow.dst);
        if !self.nodes[from].present() || self.nodes[from].frozen.is_some() {
            return;
        }
        let theirs = self.nodes[to].role == Role::Hostile;
        let moved = self.nodes[to].gone.is_some_and(|at| self.now.since(at) < self.hold_bound());
        // One who ignores purges sends to where it was for the holding time.
        let deaf = moved && self.nodes[from].foreign;
        let shared = self.nodes[from].shares_nat || self.nodes[to].shares_nat;
        let strict = self.undisturbed(from) && self.undisturbed(to) && !deaf && !shared && !theirs;
        let result = self.path(from, dst, true);
        let way = match &result {
            Ok(way) | Err((_, way)) => way.clone(),
        };
        if !theirs && way.iter().any(|at| self.nodes[*at].role == Role::Hostile) {
            if self.plan.weather == Weather::Calm && !self.undisturbed(to) || !self.plan.protected {
                self.nodes[to].robbed = true;
                return;
            }
            return self.fail(format!("what {from} sends to {dst} goes by the hostile member: {way:?}"));
        }
        let now = self.now;
        match result {
            Ok(way) => {
                self.flows[index].broken = None;
                self.flows[index].looping = None;
                if strict && way.len() > 3 {
                    self.fail(format!("what {from} sends to {dst} goes a long way: {way:?}"));
                }
            }
            Err((Lost::Unresolved(_), _)) => {}
            Err((lost, way)) => {
                let bound = self.hold_bound();
                if self.nodes[to].robbed || lost != Lost::Loop {
                    self.flows[index].looping = None;
                } else {
                    let since = *self.flows[index].looping.get_or_insert(now);
                    if now.since(since) > bound {
                        return self.fail(format!(
                            "what {from} sends to {dst} has gone round for {bound} ms: {way:?}"
                        ));
                    }
                }
                if strict {
                    return self.fail(format!("what {from} sends to {dst} is lost: {lost:?} after {way:?}"));
                }
                // Nobody mends the tables while the agent is away.
                let away = self.nodes[from].engine.is_none();
                if theirs || shared || away || self.path(from, dst, false).is_err() {
                    self.flows[index].broken = None;
                    return;
                }
                let since = *self.flows[index].broken.get_or_insert(now);
                if now.since(since) > bound {
                    self.fail(format!(
                        "for {bound} ms what {from} sends to {dst} has been lost by a direct path ({lost:?} after \
                         {way:?}) though the hub's works"
                    ));
                }
            }
        }
    }

    /// A change of a node's tables: is it one that may be made?
    pub(crate) fn change(&mut self, index: usize, change: Output) {
        let rebuilding = self.rebuilding;
        // In Phase 2 the kernel asks for a next hop that it does not know.
        let asks = |kind| kind == RouteKind::Announced && self.plan.phase == Phase::Two;
        let overlay_net = self.plan.family.overlay_net();
        let node = &mut self.nodes[index];
        let kernel = &mut node.kernel;
        let mut wrong = None;
        match change {
            Output::InstallNeighbour { overlay, nbma, .. } => {
                kernel.neighbours.insert(overlay, nbma);
                if !overlay_net.contains(&overlay) {
                    wrong = Some(format!("{index} knows a neighbour {overlay} outside of the overlay"));
                } else if nbma == BYSTANDER {
                    wrong = Some(format!("{index} sends what is for {overlay} to a bystander"));
                } else if Some(nbma) == node.config.nbma {
                    wrong = Some(format!("{index} sends what is for {overlay} to itself"));
                } else if let Some(((prefix, _), _)) =
                    kernel.routes.iter().find(|((prefix, _), _)| prefix.contains(&nbma))
                {
                    wrong = Some(format!("{index} reaches {nbma} by the tunnel itself: {prefix}"));
                }
            }
            Output::RemoveNeighbour { overlay, .. } => {
                kernel.groups.remove(&overlay);
                let used = kernel.routes.iter().find(|((_, kind), via)| **via == overlay && !asks(*kind));
                if let Some(((prefix, _), _)) = used {
                    wrong = Some(format!("{index} loses neighbour {overlay}, to which {prefix} leads"));
                } else if kernel.neighbours.remove(&overlay).is_none() {
                    wrong = Some(format!("{index} removes neighbour {overlay}, which is not there"));
                }
            }
            Output::InstallRoute { prefix, via, kind, .. } => {
                kernel.routes.insert((prefix, kind), via);
                let end = kernel.neighbours.values().find(|nbma| prefix.contains(*nbma)).copied();
                let direct = kind == RouteKind::Shortcut;
                let touches = |net: &IpNet| net.contains(&prefix) || prefix.contains(net);
                if !kernel.neighbours.contains_key(&via) && !asks(kind) {
                    wrong = Some(format!("{index} routes {prefix} to {via}, which it does not know"));
                } else if let Some(nbma) = end {
                    wrong = Some(format!("{index} reaches {nbma} by the tunnel itself: {prefix}"));
                } else if direct && node.config.subnets.iter().any(touches) {
                    wrong = Some(format!("{index} has a shortcut to {prefix}, which is its own"));
                } else if direct && prefix.contains(&overlay_net) {
                    wrong = Some(format!("{index} has a shortcut to {prefix}, which is the overlay"));
                }
            }
            Output::RemoveRoute { prefix, kind, .. } => {
                if kernel.routes.remove(&(prefix, kind)).is_none() {
                    wrong = Some(format!("{index} removes {prefix} ({kind:?}), which is not there"));
                }
            }
            Output::Group { overlay, group, .. } => {
                if !kernel.neighbours.contains_key(&overlay) {
                    wrong = Some(format!("{index} puts {overlay}, which it does not know, into a class"));
                }
                match group {
                    Some(group) => drop(kernel.groups.insert(overlay, group)),
                    None => drop(kernel.groups.remove(&overlay)),
                }
            }
            // Nobody here asks for an address.
            Output::AssignAddress { address, .. } | Output::ReleaseAddress { address, .. } => {
                wrong = Some(format!("{index} is assigned {address}, which it did not ask for"));
            }
            // Nobody here has another link.
            Output::Across(_) => wrong = Some(format!("{index} hands a packet to another link")),
            Output::Send { .. } | Output::QueryUse { .. } | Output::Withdrawn | Output::Event(_) => {}
        }
        match wrong {
            Some(wrong) => self.fail(wrong),
            None if rebuilding => {}
            None => self.check_flows(),
        }
    }

    /// A packet that an engine sends; `None` if it cannot be sent.
    pub(crate) fn check_packet(&mut self, index: usize, to: IpAddr, bytes: &[u8]) -> Option<Message> {
        let Ok(message) = Message::decode(bytes) else {
            self.fail(format!("{index} sends what cannot be read"));
            return None;
        };
        let header = message.header;
        let node = &self.nodes[index];
        if header.hop_count == 0 {
            self.fail(format!("{index} sends a packet without hops"));
        } else if bytes.len() > usize::from(node.config.mtu) {
            self.fail(format!("{index} sends {} bytes, more than the tunnel takes", bytes.len()));
        } else if to == BYSTANDER {
            self.fail(format!("{index} sends a {} to a bystander", header.packet_type));
        } else if round(&message) {
            self.fail(format!("{index} passes on what has been there before"));
        } else if header.packet_type == PacketType::ResolutionRequest && node.owns(header.src_proto) {
            let dst = header.dst_proto;
            let underlay = node.config.nhs.iter().any(|nhs| nhs.nbma.contains(&dst));
            // A hub that probes; redirects of forged data.
            let probe = node.role != Role::Spoke;
            if node.owns(dst) || underlay || dst.is_multicast() {
                self.fail(format!("{index} asks for {dst}, which nobody else can be"));
            } else if !probe && !self.sends_to(index, dst) {
                self.fail(format!("{index} asks for {dst}, to which it sends nothing"));
            }
        }
        Some(message)
    }

    /// Whether a node has a reason to ask for an address: it sends there, or had a shortcut before it restarted.
    fn sends_to(&self, index: usize, dst: IpAddr) -> bool {
        let shortcuts =
            self.nodes[index].kernel.routes.keys().filter(|(_, kind)| *kind == RouteKind::Shortcut);
        // The way to an egress is tried with a question for its tunnel address.
        self.plan.family.overlay_net().contains(&dst)
            || self.flows.iter().any(|flow| flow.from == index && flow.dst == dst)
            || shortcuts.into_iter().any(|(prefix, _)| prefix.network() == dst)
    }

    pub(crate) fn check_event(&mut self, index: usize, event: &Event) {
        let hostile: Vec<IpAddr> = self
            .nodes
            .iter()
            .filter(|node| node.role == Role::Hostile)
            .filter_map(|node| node.config.nbma)
            .chain([crate::address::OUTSIDER])
            .collect();
        let theirs = |prefix: &IpNet| {
            // Of several behind one NAT address the NAT lets but one through to a hub: the others' registrations end.
            let whose = |node: &crate::node::Node| {
                node.role == Role::Hostile || node.robbed || node.shares_nat || node.disturbed > self.now
            };
            self.nodes.iter().any(|node| whose(node) && node.owns(prefix.addr()))
                || !self.nodes.iter().any(|node| node.owns(prefix.addr()))
        };
        match event {
            Event::Purged { prefix, by } if hostile.contains(by) && !theirs(prefix) => {
                self.fail(format!("{index} lets {by} purge {prefix}"));
            }
            Event::NhsDown { reason, .. }
                if self.undisturbed(index)
                    && !self.nodes[index].shares_nat
                    && self.nodes[index].role == Role::Spoke =>
            {
                self.fail(format!("{index} has lost its hub: {reason}"));
            }
            // Nobody honest says so to one whose password is right and whose address is its own.
            Event::NhsDown { reason, .. }
                if ["AuthenticationFailed", "ErrorIndication", "AdministrativelyProhibited"]
                    .contains(&reason.as_str())
                    && !self.nodes[index].shares_nat
                    && self.nodes[index].role == Role::Spoke =>
            {
                self.fail(format!("{index} gives its hub up for what the hub has not said: {reason}"));
            }
            Event::ShortcutDown { prefix, reason }
                if self.plan.weather == Weather::Calm
                    && self.nodes[index].role == Role::Spoke
                    && reason.starts_with("error:")
                    && !theirs(prefix)
                    // Who was away when all became calm came back knowing nothing: a hub says so in good faith.
                    && self.quiet.is_none() =>
            {
                self.fail(format!(
                    "{index} gives up {prefix} for an error that nobody honest sends: {reason}"
                ));
            }
            _ => {}
        }
    }

    /// Once a second: what may last for a while, and the sizes of tables.
    pub(crate) fn second(&mut self) {
        self.schedule(1000, crate::world::What::Second);
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            if !node.present() || node.frozen.is_some() {
                continue;
            }
            let Some(engine) = &node.engine else { continue };
            for (table, size) in engine.table_sizes() {
                if size > TABLE_BOUND {
                    self.fail(format!("{index} has {size} entries in its table of {table}"));
                    return;
                }
            }
            self.ghosts_of(index);
            self.hub_knows(index);
        }
        self.settle();
    }

    /// Bindings that lead to nobody, or to somebody else.
    fn ghosts_of(&mut self, index: usize) {
        let node = &self.nodes[index];
        let hubs: Vec<_> = self.nodes.iter().take(self.plan.hubs).filter_map(|hub| hub.config.nbma).collect();
        let configured = node.hub_addresses();
        let neighbours: Vec<_> =
            node.kernel.neighbours.iter().map(|(overlay, nbma)| (*overlay, *nbma)).collect();
        let before = std::mem::take(&mut self.ghosts);
        let (mine, others) = before.into_iter().partition(|((at, ..), _)| *at == index);
        self.ghosts = others;
        let mine: std::collections::BTreeMap<_, _> = mine;
        for (overlay, nbma) in neighbours {
            // Configured; Phase 2's traffic by the hub until the answer is there.
            if configured.contains(&overlay) || (self.plan.phase == Phase::Two && hubs.contains(&nbma)) {
                continue;
            }
            let owner = self.nodes.iter().position(|node| node.config.local.contains(&overlay));
            let hostile =
                self.nodes.iter().any(|it| it.role == Role::Hostile && it.config.nbma == Some(nbma));
            let Some(owner) = owner else {
                // What nobody has, the hostile member may have; it is gone when it is.
                if !hostile {
                    self.haunt(index, overlay, nbma, None, &mine);
                }
                continue;
            };
            let node = &self.nodes[owner];
            if hostile && node.robbed {
                continue;
            }
            if hostile && node.role != Role::Hostile {
                if self.nodes[owner].role == Role::Hub {
                    return self.fail(format!("{index} takes the hostile member for hub {owner}, {overlay}"));
                }
                if !self.undisturbed(owner) && self.nodes[index].role == Role::Hub {
                    self.nodes[owner].robbed = true;
                    continue;
                }
                if self.plan.protected
                    || self.plan.weather == Weather::Calm && self.nodes[index].role != Role::Hub
                {
                    self.fail(format!("{index} takes the hostile member for {overlay}"));
                }
                continue;
            }
            if hostile {
                continue;
            }
            if !node.present() || self.under.public(node) != Some(nbma) {
                self.haunt(index, overlay, nbma, Some(owner), &mine);
            }
        }
    }

    fn haunt(
        &mut self,
        index: usize,
        overlay: IpAddr,
        nbma: IpAddr,
        owner: Option<usize>,
        before: &std::collections::BTreeMap<(usize, IpAddr, IpAddr), Ghost>,
    ) {
        let key = (index, overlay, nbma);
        let hold = self.hold_bound();
        let ghost = before.get(&key).copied().unwrap_or_else(|| {
            let moved = owner.and_then(|owner| self.nodes[owner].moved);
            let robbed = owner.is_some_and(|owner| self.nodes[owner].robbed);
            let proper = moved.is_some_and(|at| self.now.since(at) <= 2000) && !robbed;
            let hears = !self.nodes[index].foreign && self.undisturbed(index);
            Ghost { since: self.now, bound_ms: if proper && hears { PURGE_MS.min(hold) } else { hold } }
        });
        self.ghosts.insert(key, ghost);
        let age = self.now.since(ghost.since);
        if age > ghost.bound_ms {
            self.fail(format!("{index} has taken {nbma} for {overlay} for {age} ms, and it is not"));
        }
    }

    /// In calm weather a hub knows each spoke where it is.
    fn hub_knows(&mut self, index: usize) {
        let node = &self.nodes[index];
        if node.role != Role::Spoke || node.shares_nat || !self.undisturbed(index) || !self.plan.protected {
            return;
        }
        let (overlay, public) = (node.overlay(), self.under.public(node));
        for hub in 0..self.plan.hubs {
            let known = self.nodes[hub].kernel.neighbours.get(&overlay).copied();
            if known != public {
                return self.fail(format!("hub {hub} takes {known:?} for {overlay}, which is at {public:?}"));
            }
        }
    }
}

/// A hub stands twice in the record of a packet's way.
fn round(message: &Message) -> bool {
    let records = message.extensions.iter().flatten();
    let mut records = records.filter(|it| it.kind == ext::FORWARD_RECORD || it.kind == ext::REVERSE_RECORD);
    records.any(|record| {
        let extension = nhrp::wire::Extension { compulsory: true, kind: record.kind, value: &record.value };
        let mut hubs: Vec<_> = extension.cies().into_iter().flatten().filter_map(|cie| cie.proto).collect();
        let all = hubs.len();
        hubs.sort_unstable();
        hubs.dedup();
        hubs.len() < all
    })
}
