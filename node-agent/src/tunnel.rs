//! One tunnel at run time: its endpoint, what is wanted in the kernel, the engine, and where it stands on the ladder.

mod host;
mod identities;
mod probing;
mod shaping;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use crds::Reason;
use crds::endpoint::{DmvpnEndpointSpec, Role};
use crds::network::{InterfaceState, NhrpMode, Phase};
use dataplane::model::{Observed, Op, Route, Shaper};
use dataplane::nft::Senders;
use ipnet::IpNet;
use nhrp::{Engine, Event, Input, LinkId, NhsPhase, Output, Snapshot, Time};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::chatter::Chatter;
use crate::drivers::keepalive::{KeepaliveDriver, Line};
use crate::drivers::multicast::Copier;
use crate::drivers::nhrp::NhrpDriver;
use crate::guarded::Guarded;
use crate::ladder::{self, Ground, Path, Rung, Trouble};
use crate::path_mtu::PathMtus;
use crate::plan::sas::SaState;
use crate::plan::wanted::Vrfs;
use crate::plan::{self, NhrpFacts, Wanted};

pub use self::probing::Probe;

/// How long a tunnel that is taken away waits for its purges to be acknowledged, in milliseconds; the engine gives up
/// by itself a little earlier.
const FAREWELL_MS: u64 = 2_500;

/// For so long it counts that a host said that it has no tunnel for our key, in milliseconds: a silent hub is asked
/// more often.
const REFUSED_MS: u64 = 30_000;

/// Why a tunnel withdraws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// Its endpoint is gone: kernel state goes too. Deadline.
    Removed(Time),
    /// It was suspended: the link stays, down. Deadline.
    Suspended(Time),
}

/// How a link shapes: `None`: not at all.
pub type Shaped = Option<Shaper>;

/// What came out of the engine in one go.
#[derive(Debug, Default)]
pub struct Drained {
    /// Changes for the kernel, in order.
    pub ops: Vec<Op>,
    /// Packets: (underlay destination, bytes).
    pub packets: Vec<(IpAddr, Vec<u8>)>,
    /// Shortcuts whose use is asked for.
    pub queries: Vec<IpNet>,
    /// A route waits for somebody to look at the underlay.
    pub blind: bool,
}

/// One tunnel.
#[derive(Debug)]
pub struct Tunnel {
    /// Its endpoint.
    pub spec: DmvpnEndpointSpec,
    /// Passwords of the endpoint's secrets.
    pub passwords: Vec<Vec<u8>>,
    /// What is wanted in the kernel; `None` until an underlay address was found for the first time.
    pub wanted: Option<Wanted>,
    /// Index of the link, 0: it does not exist.
    pub link: u32,
    /// What is known of the way below NHRP.
    pub ground: Ground,
    /// What in the host's settings keeps packets from passing through it.
    pub hindrance: Option<Trouble>,
    /// Packets that the host's reverse path filter had dropped when it was looked at last, and when that had grown.
    filtered: Option<(u64, Option<Time>)>,
    /// Path to each hub, by name.
    pub paths: BTreeMap<String, Path>,
    /// The engine, once the link exists.
    pub engine: Option<Engine>,
    /// The NHRP socket.
    pub socket: Option<NhrpDriver>,
    /// Sends and answers keepalives.
    pub keepalives: Option<KeepaliveDriver>,
    /// Sends copies of multicast, from the first one on.
    pub copier: Option<Copier>,
    /// Set while it withdraws.
    pub leaving: Option<Leaving>,
    /// The engine said that all is withdrawn.
    pub withdrawn: bool,
    /// The nft table as it was loaded last: our text, and how nft lists what came of it.
    pub loaded_nft: Option<(String, String)>,
    /// What peers may send, as the nft table was left last.
    pub senders: Senders,
    /// How its link shapes, as it was left last; `None`: not known.
    pub shaped: Option<Shaped>,
    /// Hosts that the nft table leads to classes; `None`: not known.
    pub classified: Option<BTreeMap<IpAddr, u16>>,
    /// Why its link does not shape as is wanted.
    pub unshaped: Option<String>,
    /// After a failure: when that is tried again.
    reshape_at: Option<Time>,
    /// How often in a row it failed.
    refusals: u32,
    /// What is to be borne in mind of how it is configured; empty: nothing.
    pub remark: String,
    /// What was refused lately, the latest last.
    refused_lately: VecDeque<(Time, String)>,
    /// Something that a snapshot holds has changed since the last one.
    pub dirty: bool,
    /// Something that a summary holds (peers) may have changed since the last one.
    pub stirred: bool,
    /// It is only there to say farewell: found in the kernel, with an endpoint that says Absent.
    pub doomed: bool,
    /// A hub is silent.
    pub silent: bool,
    /// Hubs that said last when that they have no tunnel for our key.
    refused: BTreeMap<IpAddr, Time>,
    /// Silent hubs that were probed: when last, and whether ping alone came through.
    probed: BTreeMap<IpAddr, (Time, bool)>,
    /// What is known of the path MTUs to hubs.
    pub path_mtus: PathMtus,
    /// With how many hubs they were looked at last, and with what MTU of the tunnel.
    paths_of: (usize, u32),
    /// What a protected tunnel remembers.
    pub guarded: Guarded,
    /// What is known of the IKE daemon and its SAs.
    pub sas: Arc<SaState>,
    /// What the hub's other tunnels of the same networkId lead to.
    pub beside: Vec<IpNet>,
    /// What of that lies at tunnels whose spokes its own can reach straight.
    pub across: Vec<IpNet>,
    /// Packets for those tunnels.
    pub crossing: Vec<nhrp::Across>,
    /// A hub told which hubs there are: their addresses are to be looked at.
    pub told: bool,
    /// The line went down or came up: its routes follow.
    pub turned: bool,
    /// No hub serves us.
    deserted: bool,
    configured: Option<nhrp::Config>,
    standing: Standing,
    chatter: Chatter,
}

/// Where the tunnel and its hubs stand, and since when.
#[derive(Debug, Default)]
struct Standing {
    tunnel: Option<(Rung, Time)>,
    hubs: BTreeMap<String, (Rung, Time)>,
}

impl Tunnel {
    /// A tunnel that has not started.
    pub fn new(spec: DmvpnEndpointSpec, passwords: Vec<Vec<u8>>) -> Self {
        let ground = Ground {
            suspended: spec.suspend,
            trouble: Some(Trouble::new(Reason::Starting, "the agent has not looked at the underlay yet")),
            unanswered: None,
        };
        Self {
            spec,
            passwords,
            wanted: None,
            link: 0,
            ground,
            hindrance: None,
            filtered: None,
            paths: BTreeMap::new(),
            engine: None,
            socket: None,
            keepalives: None,
            copier: None,
            leaving: None,
            withdrawn: false,
            loaded_nft: None,
            senders: Senders::default(),
            shaped: None,
            classified: None,
            unshaped: None,
            reshape_at: None,
            refusals: 0,
            remark: String::new(),
            refused_lately: VecDeque::new(),
            dirty: false,
            stirred: false,
            doomed: false,
            silent: false,
            refused: BTreeMap::new(),
            probed: BTreeMap::new(),
            path_mtus: PathMtus::default(),
            paths_of: (0, 0),
            guarded: Guarded::default(),
            sas: Arc::new(SaState::unknown()),
            beside: Vec::new(),
            across: Vec::new(),
            crossing: Vec::new(),
            told: false,
            turned: false,
            deserted: false,
            configured: None,
            standing: Standing::default(),
            chatter: Chatter::default(),
        }
    }

    /// A new endpoint for the same network.
    pub fn update(&mut self, spec: DmvpnEndpointSpec, passwords: Vec<Vec<u8>>, now: Time) {
        self.ground.suspended = spec.suspend;
        // Without NHRP the engine says farewell in the same way, and the tunnel goes on with what the endpoint says.
        let mute = spec.nhrp.mode == NhrpMode::Disabled;
        let falls_silent = (spec.suspend && !self.spec.suspend) || (mute && self.speaks_nhrp());
        if falls_silent && self.engine.is_some() && self.leaving.is_none() {
            self.withdraw(Leaving::Suspended(now.after(FAREWELL_MS)), now);
        }
        if !spec.suspend && !mute && matches!(self.leaving, Some(Leaving::Suspended(_))) {
            self.leaving = None;
            self.engine = None;
        }
        self.spec = spec;
        self.passwords = passwords;
    }

    /// Its endpoint is gone.
    pub fn remove(&mut self, now: Time) {
        if matches!(self.leaving, Some(Leaving::Removed(_))) {
            return;
        }
        self.withdraw(Leaving::Removed(now.after(FAREWELL_MS)), now);
    }

    fn withdraw(&mut self, leaving: Leaving, now: Time) {
        info!(network = self.spec.network, ?leaving, "withdrawing registrations");
        self.leaving = Some(leaving);
        match &mut self.engine {
            Some(engine) if self.link != 0 => engine.handle_input(now, Input::Withdraw),
            _ => self.withdrawn = true,
        }
    }

    /// Whether withdrawal is over at `now`.
    pub fn farewell_over(&self, now: Time) -> bool {
        match self.leaving {
            Some(Leaving::Removed(deadline) | Leaving::Suspended(deadline)) => {
                self.withdrawn || now >= deadline
            }
            None => false,
        }
    }

    /// After the farewell of a suspended tunnel: no engine; the next reconcile takes the link down.
    pub fn sleep(&mut self) {
        self.engine = None;
        self.configured = None;
        self.socket = None;
        self.keepalives = None;
        self.copier = None;
        self.leaving = None;
        self.withdrawn = false;
        if let Some(wanted) = &mut self.wanted {
            wanted.forget();
        }
    }

    /// Plans the fixed part for underlay address `local`, the other end of a point-to-point tunnel, an IP MTU, and VRFs.
    pub fn plan(&mut self, local: IpAddr, remote: Option<IpAddr>, mtu: u32, vrfs: Vrfs) {
        let mut new = Wanted::with_mtu(&self.spec, local, remote, mtu).within(vrfs);
        new.link.up |= self.engine.is_some();
        match &mut self.wanted {
            Some(wanted) => wanted.replace_fixed(new),
            None => self.wanted = Some(new),
        }
        self.choose_gateway();
    }

    /// Starts the engine (restored from `snapshot` and the kernel, if there is something) or gives it the changed
    /// configuration. `names` are resolved host names.
    pub fn configure(
        &mut self,
        names: &BTreeMap<String, Vec<IpAddr>>,
        observed: &Observed,
        snapshot: impl FnOnce() -> Option<(Snapshot, u64)>,
        seed: u64,
        now: Time,
    ) {
        let Some(wanted) = &self.wanted else { return };
        if self.link == 0 || self.spec.suspend || self.leaving.is_some() || !self.speaks_nhrp() {
            return;
        }
        let usable = self.ground.trouble.is_none() && !self.all_paths_recursive();
        let facts = NhrpFacts {
            link: self.link,
            nbma: usable.then_some(wanted.link.local),
            remote: wanted.link.remote,
            mtu: u16::try_from(wanted.link.mtu).ok(),
            names: names.clone(),
            beside: self.beside.clone(),
            across: self.across.clone(),
            passwords: self.passwords.clone(),
        };
        let config = plan::nhrp_config(&self.spec, &facts);
        if self.configured.as_ref() == Some(&config) {
            return;
        }
        match &mut self.engine {
            Some(engine) => {
                engine.handle_input(now, Input::Configure(Box::new(config.clone())));
            }
            None => {
                let (snapshot, age) = snapshot().unwrap_or_default();
                let snapshot = if config.server {
                    plan::adopt::fill(snapshot, self.link, observed, wanted.metrics, config.holding_time)
                } else {
                    snapshot
                };
                let engine = if snapshot == Snapshot::default() {
                    Engine::new(config.clone(), seed, now)
                } else {
                    info!(
                        network = self.spec.network,
                        age_ms = age,
                        bindings = snapshot.bindings.len(),
                        shortcuts = snapshot.shortcuts.len(),
                        "resuming"
                    );
                    Engine::restore(config.clone(), &snapshot, age, seed, now)
                };
                self.engine = Some(engine);
                self.guarded.introduce_anew();
            }
        }
        self.configured = Some(config);
        self.identify(now);
    }

    /// Whether it has an NHRP engine: else the endpoint itself says where everything is.
    pub fn speaks_nhrp(&self) -> bool {
        self.spec.nhrp.mode == NhrpMode::Enabled
    }

    /// Sees to it that keepalives are answered, and sent where they are asked for. Phase 1 alone has them: a multipoint
    /// link has no other end, but a hub of Phase 1 answers its spokes' too.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub fn watch_line(&mut self, network: &str, news: &mpsc::Sender<String>) -> Result<(), dataplane::Error> {
        let v4 = |address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        let line =
            self.wanted.as_ref().filter(|_| self.spec.phase == Phase::Phase1 && !self.ground.suspended);
        let line = line.and_then(|wanted| {
            Some(Line {
                link: self.link,
                local: v4(wanted.link.local)?,
                remote: wanted.link.remote.and_then(v4),
                key: wanted.link.key,
                vrf: self.spec.tunnel.source.vrf.clone(),
                settings: self.spec.tunnel.keepalive.clone(),
            })
        });
        if line.as_ref() != self.keepalives.as_ref().map(KeepaliveDriver::line) {
            self.keepalives = None;
            if let Some(line) = line {
                let started = KeepaliveDriver::start(network, line, news.clone());
                self.keepalives =
                    Some(started.inspect_err(|error| warn!(network, %error, "keepalive sockets"))?);
            }
        }
        self.heed_keepalives();
        Ok(())
    }

    /// What its keepalives say of the other end; whether that is news.
    pub fn heed_keepalives(&mut self) -> bool {
        let unanswered = self.keepalives.as_ref().and_then(|driver| driver.tally().unanswered());
        let news = unanswered.is_some() != self.ground.unanswered.is_some();
        self.ground.unanswered = unanswered;
        self.turn_line();
        news
    }

    /// Routes lead into the tunnel while its line is up: the underlay's interface is, the other end answers, and where a
    /// spoke's line follows the hubs (`interfaceState: FollowNHS`) one of them does.
    fn turn_line(&mut self) {
        let follows = self.spec.tunnel.interface_state == InterfaceState::FollowNHS;
        let deserted = follows && self.spec.role == Role::Spoke && self.deserted;
        let homeless = self.wanted.as_ref().is_some_and(Wanted::is_homeless);
        // What it would send goes nowhere: another network's routes may take over at once.
        let down = self
            .ground
            .trouble
            .as_ref()
            .is_some_and(|it| matches!(it.reason, Reason::InterfaceDown | Reason::InterfaceNoCarrier));
        let dead = deserted || homeless || down || self.ground.unanswered.is_some();
        if let Some(wanted) = &mut self.wanted {
            self.turned |= wanted.dead != dead;
            wanted.dead = dead;
        }
    }

    /// Whether packets may go into the tunnel.
    pub fn line_is_up(&self) -> bool {
        let dead = self.wanted.as_ref().is_some_and(|wanted| wanted.dead);
        self.link != 0 && self.ground.trouble.is_none() && !self.spec.suspend && !dead
    }

    /// Next hops that the kernel waits for, as a dump shows them: their requests may have been lost.
    pub fn resolve(&mut self, observed: &Observed, now: Time) {
        let Some(engine) = self.engine.as_mut().filter(|_| self.spec.phase == Phase::Phase2) else { return };
        for &(_, overlay) in observed.incomplete.iter().filter(|(link, _)| *link == self.link) {
            engine.handle_input(now, Input::ResolveNeeded { link: LinkId(self.link), overlay });
        }
    }

    fn all_paths_recursive(&self) -> bool {
        !self.paths.is_empty() && self.paths.values().all(|p| matches!(p, Path::Recursive(_)))
    }

    /// Takes everything that the engine has to say, into `wanted` and into the result.
    pub fn drain(&mut self, now: Time) -> Drained {
        let mut drained = Drained::default();
        if let Some(held) = self.chatter.held(now) {
            info!(network = self.spec.network, held, "more such events, not written");
        }
        let (Some(engine), Some(wanted)) = (&mut self.engine, &mut self.wanted) else {
            self.stand(now);
            return drained;
        };
        let mut hubs_changed = false;
        let mut refused = Vec::new();
        let pins = wanted.pins().unwrap_or_default();
        while let Some(output) = engine.poll_output() {
            match output {
                Output::Send { to, bytes, .. } => drained.packets.push((to, bytes)),
                Output::QueryUse { prefix } => drained.queries.push(prefix),
                Output::Across(across) => self.crossing.push(across),
                Output::Withdrawn => self.withdrawn = true,
                Output::Event(event) => {
                    hubs_changed |= matches!(event, Event::NhsUp { .. } | Event::NhsChosen { .. });
                    // A hub that takes a prefix, or does not, is looked at with all the rest.
                    self.told |= matches!(
                        event,
                        Event::HubsTold { .. } | Event::PrefixDenied { .. } | Event::PrefixTaken { .. }
                    );
                    self.dirty = true;
                    self.stirred = true;
                    log(&self.spec.network, &event, &mut self.chatter, now);
                    if matches!(event, Event::RegistrationRefused { .. } | Event::PrefixRefused { .. }) {
                        refused.push(event);
                    }
                }
                change => {
                    self.dirty = true;
                    self.stirred = true;
                    drained.ops.extend(wanted.take(&change, self.link));
                }
            }
        }
        wanted.visited(
            now,
            drained.packets.iter().filter(|(_, packet)| goes_straight(packet)).map(|(to, _)| *to),
        );
        let (first, last) = plan::pins::changes(&pins, &wanted.pins().unwrap_or_default());
        drained.ops.splice(0..0, first);
        drained.ops.extend(last);
        drained.blind = wanted.depends_on_underlay() && wanted.underlay.is_none();
        if hubs_changed {
            let before = wanted.fixed.clone();
            self.choose_gateway();
            if let Some(wanted) = &self.wanted {
                let differs = |key: &&(IpNet, u32)| wanted.fixed.get(*key) != before.get(*key);
                let keys: Vec<_> = wanted.fixed.keys().filter(differs).copied().collect();
                let changed = wanted.routes(self.link).filter(|r| keys.contains(&(r.prefix, r.metric)));
                drained.ops.extend(changed.map(Op::PutRoute));
            }
        }
        refused.iter().for_each(|event| self.note_refused(now, event));
        self.stand(now);
        drained
    }

    /// When what the log held back has to be told.
    pub fn told_at(&self) -> Option<Time> {
        self.chatter.due()
    }

    /// The underlay was looked at for routes that waited for it; their changes.
    pub fn see_underlay(&mut self, underlay: Vec<Route>) -> Vec<Op> {
        let Some(wanted) = &mut self.wanted else { return Vec::new() };
        wanted.underlay = Some(underlay);
        if wanted.default_gateway().is_some() && wanted.default_route(self.link).is_none() && !wanted.dead {
            let network = &self.spec.network;
            warn!(
                network,
                "a hub's default route is not put in: the underlay has no route of its own to the hub"
            );
        }
        let pins = wanted.pins().unwrap_or_default();
        pins.into_iter().chain(wanted.waiting_routes(self.link)).map(Op::PutRoute).collect()
    }

    /// The hub that the overlay as a whole is routed by: the engine's choice, else the best configured.
    fn choose_gateway(&mut self) {
        let Some(wanted) = &mut self.wanted else { return };
        let best = self.spec.nhs.iter().min_by_key(|hub| (hub.mode, hub.priority));
        let addresses = match &self.engine {
            Some(engine) => engine.gateways().collect(),
            None => best.map(|hub| hub.overlay_addresses.clone()).unwrap_or_default(),
        };
        let overlay: Vec<_> = self.spec.overlay.iter().map(|c| c.0).collect();
        wanted.set_gateway(&overlay, &addresses);
    }

    /// Works out the ladder and notes transitions.
    pub fn stand(&mut self, now: Time) {
        let states = match &self.engine {
            Some(engine) if !self.spec.nhs.is_empty() => engine.nhs_states(now),
            _ => Vec::new(),
        };
        self.silent = states.iter().any(|state| state.reason_code == Reason::NoAnswer.as_str());
        // One that is being asked for the first time counts: an agent that starts again takes no route away.
        let asked = ["", Reason::Registering.as_str(), Reason::AddressRequested.as_str()];
        let serves = |it: &nhrp::NhsState| {
            it.phase == NhsPhase::Responding || asked.contains(&it.reason_code.as_str())
        };
        self.deserted = !states.is_empty() && !states.iter().any(serves);
        if !self.speaks_nhrp() {
            return self.stand_without_nhrp(now);
        }
        let configured = self.spec.nhs.iter().map(|hub| hub.name.as_str());
        let learned = states.iter().filter(|state| state.learned).map(|state| state.name.as_str());
        let names: BTreeSet<_> = configured.chain(learned).collect();
        let own_trouble = self.guarded.trouble();
        let mut rungs = Vec::new();
        let mut hubs = BTreeMap::new();
        for name in names {
            let path = self.paths.get(name).cloned().unwrap_or(Path::Clear);
            // One state a hub and family: the hub stands where its worst does.
            let own = || states.iter().filter(|state| state.name == name);
            let rung = own()
                .map(|s| {
                    let rung = ladder::hub(&self.ground, &path, Some(s));
                    let refused = s.nbma.and_then(|nbma| self.refused.get(&nbma));
                    let lately = refused.is_some_and(|at| now.since(*at) < REFUSED_MS);
                    let rung = if lately { ladder::keyless(rung, self.spec.tunnel.key) } else { rung };
                    let walled =
                        s.nbma.filter(|nbma| self.probed.get(nbma).is_some_and(|(_, walled)| *walled));
                    let rung =
                        walled.map_or_else(|| rung.clone(), |nbma| ladder::walled_off(rung.clone(), nbma));
                    match s.nbma.filter(|_| self.spec.ipsec.is_some()) {
                        Some(nbma) => {
                            ladder::protected(rung, &self.sas, own_trouble.as_ref(), &self.spec.network, nbma)
                        }
                        None => rung,
                    }
                })
                .min_by_key(|r| r.state)
                .unwrap_or_else(|| ladder::hub(&self.ground, &path, None));
            let since = match self.standing.hubs.get(name) {
                Some((old, since)) if old.state == rung.state => *since,
                _ => now,
            };
            hubs.insert(name.to_owned(), (rung.clone(), since));
            if !own().any(|state| state.spare) {
                rungs.push(rung);
            }
        }
        self.refused.retain(|_, at| now.since(*at) < REFUSED_MS);
        let rung = ladder::tunnel(&self.ground, &rungs);
        let met_only = self.spec.ipsec.is_some() && self.spec.nhs.is_empty();
        self.stands(if met_only { ladder::attended(rung, &self.sas) } else { rung }, hubs, now);
    }

    /// Where it stands when there is but one other end, which says nothing.
    fn stand_without_nhrp(&mut self, now: Time) {
        let rungs: Vec<_> = self
            .paths
            .iter()
            .map(|(name, path)| (name.clone(), ladder::other_end(&self.ground, path)))
            .collect();
        let since = |name: &str, rung: &Rung| match self.standing.hubs.get(name) {
            Some((old, since)) if old.state == rung.state => *since,
            _ => now,
        };
        let hubs = rungs.iter().map(|(name, rung)| (name.clone(), (rung.clone(), since(name, rung))));
        let hubs = hubs.collect();
        let rungs: Vec<_> = rungs.into_iter().map(|(_, rung)| rung).collect();
        self.stands(ladder::tunnel(&self.ground, &rungs), hubs, now);
    }

    fn stands(&mut self, rung: Rung, hubs: BTreeMap<String, (Rung, Time)>, now: Time) {
        let since = match &self.standing.tunnel {
            Some((old, since)) if old.state == rung.state => *since,
            _ => {
                info!(network = self.spec.network, state = ?rung.state, reason = rung.reason, message = rung.message, "tunnel");
                now
            }
        };
        self.standing = Standing { tunnel: Some((rung, since)), hubs };
        self.turn_line();
    }

    /// Its overlay addresses: those that the endpoint names, then those that a hub assigned.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let named = self.spec.addresses.iter().map(|a| a.address);
        let is_named = |address: &IpAddr| self.spec.addresses.iter().any(|a| a.address == *address);
        let assigned = self.wanted.iter().flat_map(|w| &w.assigned).map(IpNet::addr);
        named.chain(assigned.filter(move |address| !is_named(address)))
    }

    /// Where the tunnel stands, and since when.
    pub fn rung(&self) -> Option<&(Rung, Time)> {
        self.standing.tunnel.as_ref()
    }

    /// Where a hub stands, and since when.
    pub fn hub_rung(&self, name: &str) -> Option<&(Rung, Time)> {
        self.standing.hubs.get(name)
    }
}

/// Whether a packet is for one who may be no neighbour of ours and has to get it: not what refuses a stranger, who would
/// have us take his address out of the tunnel's default route.
fn goes_straight(packet: &[u8]) -> bool {
    use nhrp::PacketType::{PurgeRequest, ResolutionReply, ResolutionRequest};
    nhrp::PacketType::of(packet)
        .is_some_and(|it| matches!(it, ResolutionRequest | ResolutionReply | PurgeRequest))
}

/// Warnings are few, the engine sees to that; of the rest a hub can have thousands at once.
fn log(network: &str, event: &Event, chatter: &mut Chatter, now: Time) {
    if event.is_warning() {
        warn!(network, "{event}");
    } else if chatter.may_write(now) {
        info!(network, "{event}");
    } else {
        debug!(network, "{event}");
    }
}
