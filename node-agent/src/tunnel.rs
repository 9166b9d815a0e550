//! One tunnel at run time: its endpoint, what is wanted in the kernel, the engine, and where it stands on the ladder.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crds::Reason;
use crds::endpoint::DmvpnEndpointSpec;
use dataplane::model::{Observed, Op};
use ipnet::IpNet;
use nhrp::{Engine, Event, Input, NhsPhase, Output, Snapshot, Time};
use tracing::{info, warn};

use crate::drivers::multicast::Copier;
use crate::drivers::nhrp::NhrpDriver;
use crate::ladder::{self, Ground, Path, Rung, Trouble};
use crate::plan::{self, NhrpFacts, Wanted};

/// How long a tunnel that is taken away waits for its purges to be acknowledged, in milliseconds; the engine gives up
/// by itself a little earlier.
const FAREWELL_MS: u64 = 2_500;

/// Why a tunnel withdraws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// Its endpoint is gone: kernel state goes too. Deadline.
    Removed(Time),
    /// It was suspended: the link stays, down. Deadline.
    Suspended(Time),
}

/// What came out of the engine in one go.
#[derive(Debug, Default)]
pub struct Drained {
    /// Changes for the kernel, in order.
    pub ops: Vec<Op>,
    /// Packets: (underlay destination, bytes).
    pub packets: Vec<(IpAddr, Vec<u8>)>,
    /// Shortcuts whose use is asked for.
    pub queries: Vec<IpNet>,
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
    /// Path to each hub, by name.
    pub paths: BTreeMap<String, Path>,
    /// The engine, once the link exists.
    pub engine: Option<Engine>,
    /// The NHRP socket.
    pub socket: Option<NhrpDriver>,
    /// Sends copies of multicast, from the first one on.
    pub copier: Option<Copier>,
    /// Set while it withdraws.
    pub leaving: Option<Leaving>,
    /// The engine said that all is withdrawn.
    pub withdrawn: bool,
    /// The nft table as it was loaded last: our text, and how nft lists what came of it.
    pub loaded_nft: Option<(String, String)>,
    /// Something that a snapshot holds has changed since the last one.
    pub dirty: bool,
    /// Something that a summary holds (peers) may have changed since the last one.
    pub stirred: bool,
    /// It is only there to say farewell: found in the kernel, with an endpoint that says Absent.
    pub doomed: bool,
    configured: Option<nhrp::Config>,
    standing: Standing,
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
        };
        Self {
            spec,
            passwords,
            wanted: None,
            link: 0,
            ground,
            paths: BTreeMap::new(),
            engine: None,
            socket: None,
            copier: None,
            leaving: None,
            withdrawn: false,
            loaded_nft: None,
            dirty: false,
            stirred: false,
            doomed: false,
            configured: None,
            standing: Standing::default(),
        }
    }

    /// A new endpoint for the same network.
    pub fn update(&mut self, spec: DmvpnEndpointSpec, passwords: Vec<Vec<u8>>, now: Time) {
        self.ground.suspended = spec.suspend;
        if spec.suspend && !self.spec.suspend && self.engine.is_some() {
            self.withdraw(Leaving::Suspended(now.after(FAREWELL_MS)), now);
        }
        if !spec.suspend && matches!(self.leaving, Some(Leaving::Suspended(_))) {
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
        self.copier = None;
        self.leaving = None;
        self.withdrawn = false;
        if let Some(wanted) = &mut self.wanted {
            wanted.learned.clear();
            wanted.neighbours.clear();
        }
    }

    /// Plans the fixed part for underlay address `local`.
    pub fn plan(&mut self, local: IpAddr, now: Time) {
        let mut new = Wanted::new(&self.spec, local);
        new.link.up |= self.engine.is_some();
        match &mut self.wanted {
            Some(wanted) => wanted.replace_fixed(new),
            None => self.wanted = Some(new),
        }
        self.choose_gateway(now);
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
        if self.link == 0 || self.spec.suspend || self.leaving.is_some() {
            return;
        }
        let usable = self.ground.trouble.is_none() && !self.all_paths_recursive();
        let facts = NhrpFacts {
            link: self.link,
            nbma: usable.then_some(wanted.link.local),
            names: names.clone(),
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
            }
        }
        self.configured = Some(config);
    }

    fn all_paths_recursive(&self) -> bool {
        !self.paths.is_empty() && self.paths.values().all(|p| matches!(p, Path::Recursive(_)))
    }

    /// Takes everything that the engine has to say, into `wanted` and into the result.
    pub fn drain(&mut self, now: Time) -> Drained {
        let mut drained = Drained::default();
        let (Some(engine), Some(wanted)) = (&mut self.engine, &mut self.wanted) else { return drained };
        let mut hubs_changed = false;
        while let Some(output) = engine.poll_output() {
            match output {
                Output::Send { to, bytes, .. } => drained.packets.push((to, bytes)),
                Output::QueryUse { prefix } => drained.queries.push(prefix),
                Output::Withdrawn => self.withdrawn = true,
                Output::Event(event) => {
                    hubs_changed |= matches!(event, Event::NhsUp { .. } | Event::NhsDown { .. });
                    self.dirty = true;
                    self.stirred = true;
                    log(&self.spec.network, &event);
                }
                change => {
                    self.dirty = true;
                    self.stirred = true;
                    drained.ops.extend(wanted.learn(&change, self.link));
                }
            }
        }
        if hubs_changed {
            let before = wanted.fixed.clone();
            self.choose_gateway(now);
            if let Some(wanted) = &self.wanted {
                let differs = |key: &&(IpNet, u32)| wanted.fixed.get(*key) != before.get(*key);
                let keys: Vec<_> = wanted.fixed.keys().filter(differs).copied().collect();
                let changed = wanted.routes(self.link).filter(|r| keys.contains(&(r.prefix, r.metric)));
                drained.ops.extend(changed.map(Op::PutRoute));
            }
        }
        self.stand(now);
        drained
    }

    /// The hub that the overlay as a whole is routed by: the best that answers, else the best configured.
    fn choose_gateway(&mut self, now: Time) {
        let Some(wanted) = &mut self.wanted else { return };
        let mut hubs: Vec<_> = self.spec.nhs.iter().collect();
        hubs.sort_by_key(|h| h.priority);
        let states = self.engine.as_ref().map(|e| e.nhs_states(now)).unwrap_or_default();
        let answering =
            hubs.iter().find(|h| states.iter().any(|s| s.name == h.name && s.phase == NhsPhase::Responding));
        let learned = |name: &str| {
            states.iter().filter(|s| s.name == name).filter_map(|s| s.overlay).collect::<Vec<_>>()
        };
        let addresses = match answering.or_else(|| hubs.first()) {
            Some(hub) if hub.overlay_addresses.is_empty() => learned(&hub.name),
            Some(hub) => hub.overlay_addresses.clone(),
            None => Vec::new(),
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
        let mut rungs = Vec::new();
        let mut hubs = BTreeMap::new();
        for hub in &self.spec.nhs {
            let path = self.paths.get(&hub.name).cloned().unwrap_or(Path::Clear);
            // One state a hub and family: the hub stands where its worst does.
            let rung = states
                .iter()
                .filter(|s| s.name == hub.name)
                .map(|s| ladder::hub(&self.ground, &path, Some(s)))
                .min_by_key(|r| r.state)
                .unwrap_or_else(|| ladder::hub(&self.ground, &path, None));
            let since = match self.standing.hubs.get(&hub.name) {
                Some((old, since)) if old.state == rung.state => *since,
                _ => now,
            };
            hubs.insert(hub.name.clone(), (rung.clone(), since));
            rungs.push(rung);
        }
        let rung = ladder::tunnel(&self.ground, &rungs);
        let since = match &self.standing.tunnel {
            Some((old, since)) if old.state == rung.state => *since,
            _ => {
                info!(network = self.spec.network, state = ?rung.state, reason = rung.reason, message = rung.message, "tunnel");
                now
            }
        };
        self.standing = Standing { tunnel: Some((rung, since)), hubs };
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

fn log(network: &str, event: &Event) {
    if event.is_warning() {
        warn!(network, "{event}");
    } else {
        info!(network, "{event}");
    }
}
