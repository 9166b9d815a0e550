//! The agent's task: it owns all state and is the only one that changes it.
//!
//! `mod.rs` is the loop (what woke us → what to do), [`reconcile`] makes the kernel equal to the plan, [`underlay`]
//! finds tunnel sources and paths to hubs, [`behind`] sees to networks that are reached through another node, [`lifelines`] rolls back what cuts the node off, [`multicast`] copies multicast, [`ipsec`] sees to protection, [`removal`] takes tunnels away,
//! [`shaping`] sees to how fast hubs send, [`strangers`] tells wrong keys, [`publish`] tells the summary.

mod behind;
mod ipsec;
mod lifelines;
mod multicast;
mod publish;
mod reconcile;
mod removal;
mod several;
mod shaping;
mod strangers;
mod underlay;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use dataplane::model::{KernelEvent, Route};
use dataplane::{GreRefused, Kernel, Logged, nflog};
use nhrp::{Input, LinkId, Origin, Time};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use crate::api::ReportRequest;
use crate::drivers::api_server::{self, ApiServer};
use crate::drivers::capture;
use crate::drivers::icmp;
use crate::drivers::ipsec::IpsecDriver;
use crate::drivers::nhrp::Burst;
use crate::drivers::path_mtu::{self, Measured};
use crate::drivers::probe::{self, Probed};
use crate::drivers::proof::Proved;
use crate::drivers::resolver::{Resolved, Resolver};
use crate::plan::ipsec::Loaded;
use crate::plan::sas::SaState;
use crate::plan::wanted::REDIRECT_GROUP;
use crate::source::{Desired, DesiredEndpoint};
use crate::summary::Summary;
use crate::trial::Trial;
use crate::tunnel::{Drained, Leaving, Tunnel};
use crate::{clock, report, snapshot};

/// A burst of kernel events is gathered for this long before the kernel is dumped and compared, in milliseconds.
const SETTLE_MS: u64 = 20;
/// What is registered at one of several links of a networkId is told to the others this often at most, in milliseconds.
const BESIDE_MS: u64 = 500;
/// Without any event the kernel is compared this often, in milliseconds.
const PATROL_MS: u64 = 60_000;
/// A snapshot is written this long after a change, in milliseconds…
const SAVE_MS: u64 = 100;
/// … or, if it takes long, so many times longer than it took.
const SAVE_SHARE: u64 = 20;
/// Bursts of packets that are worked through before what they caused is carried out.
const BURSTS: usize = 8;

type Bursts = mpsc::Receiver<Burst>;

/// Who this agent is and where its things are.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Node name.
    pub node: String,
    /// Directory of the NHRP snapshots.
    pub snapshots: PathBuf,
    /// Socket of the IKE daemon.
    pub vici: PathBuf,
    /// The API server, if endpoints come from there.
    pub api_server: Option<ApiServer>,
}

/// The agent.
#[derive(Debug)]
pub struct Agent {
    identity: Identity,
    kernel: Kernel,
    desired: Arc<Desired>,
    tunnels: BTreeMap<String, Tunnel>,
    /// Networks that are reached through another node.
    behind: BTreeMap<String, behind::Behind>,
    /// Routes by gateways that were wanted since this agent started, as far as they may still be there.
    routed: BTreeSet<Route>,
    /// How often what is registered at one of several links of a networkId had changed when the others were told.
    beside_seen: u64,
    /// When they were told.
    beside_at: Time,
    /// Networks that had a tunnel since this agent started: what is left of them may go.
    met: BTreeSet<String>,
    /// Changes on trial, by network.
    trials: BTreeMap<String, Trial>,
    /// What is in force of the networks without one.
    proven: BTreeMap<String, DesiredEndpoint>,
    lifelines: lifelines::Known,
    /// What the hubs say of keys and certificates that are on trial, by network.
    proofs: BTreeMap<String, lifelines::Proving>,
    to_proved: mpsc::Sender<Proved>,
    /// What the IKE daemon should hold.
    wished: Loaded,
    names: BTreeMap<String, Vec<IpAddr>>,
    resolver: Resolver,
    redirect: Option<tokio::task::JoinHandle<()>>,
    multicast: Option<tokio::task::JoinHandle<()>>,
    reconcile_at: Time,
    /// From then on a comparison looks at nft too, which costs processes: when nft changed, and now and then.
    nft_at: Time,
    save_at: Option<Time>,
    strangers: strangers::Strangers,
    /// What shapes changes then.
    shape_at: Option<Time>,
    /// A snapshot is written so long after a change, in milliseconds.
    save_after: u64,
    /// Networks of the removals of which nothing is left.
    gone: BTreeSet<String>,
    summary: watch::Sender<Arc<Summary>>,
    counted_at: Time,
    to_bursts: mpsc::Sender<Burst>,
    to_hairpins: mpsc::Sender<Logged>,
    to_multicast: mpsc::Sender<Logged>,
    to_lines: mpsc::Sender<String>,
    to_probed: mpsc::Sender<Probed>,
    to_measured: mpsc::Sender<Measured>,
    /// Talks to the IKE daemon, once a tunnel needs it.
    ipsec: Option<IpsecDriver>,
    sas: Arc<SaState>,
    to_sas: watch::Sender<Arc<SaState>>,
}

/// Where the agent's task listens.
#[derive(Debug)]
pub struct Inlets {
    /// What should be.
    pub desired: watch::Receiver<Arc<Desired>>,
    /// What the kernel tells.
    pub events: mpsc::Receiver<KernelEvent>,
    /// Who asks for the report.
    pub requests: mpsc::Receiver<ReportRequest>,
}

/// How the agent's task ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The kernel's state stays: packets keep flowing.
    Keep,
    /// Everything is taken away, the hubs are told.
    Leave,
}

impl Agent {
    /// Runs until `stop` resolves, which says what becomes of the tunnels. What `summary` is told, it is told after the
    /// kernel has been compared with it.
    ///
    /// # Errors
    /// When the source or the kernel monitor has ended: without them it would be blind, so that it is better started
    /// again.
    pub async fn run(
        identity: Identity,
        kernel: Kernel,
        mut inlets: Inlets,
        summary: watch::Sender<Arc<Summary>>,
        stop: impl Future<Output = Stop>,
    ) -> anyhow::Result<Stop> {
        let (to_bursts, mut bursts) = mpsc::channel(256);
        let (to_hairpins, mut hairpins) = mpsc::channel(1024);
        let (to_multicast, mut multicast) = mpsc::channel(256);
        let (to_resolved, mut resolved) = mpsc::channel(16);
        let (to_refused, mut refused) = mpsc::channel(16);
        let (to_lines, mut lines) = mpsc::channel(16);
        let (to_probed, mut probed) = mpsc::channel(16);
        let (to_measured, mut measured) = mpsc::channel(16);
        let (to_lifelines, mut lifelines) = mpsc::channel::<api_server::Word>(16);
        let (to_proved, mut proved) = mpsc::channel(16);
        let (to_sas, mut sas) = watch::channel(Arc::new(SaState::unknown()));
        icmp::start(&to_refused);
        let lifelines_known = lifelines::Known::new(identity.api_server.clone(), to_lifelines);
        let mut agent = Self {
            identity,
            kernel,
            desired: Arc::default(),
            tunnels: BTreeMap::new(),
            behind: BTreeMap::new(),
            routed: BTreeSet::new(),
            beside_seen: 0,
            beside_at: Time(0),
            met: BTreeSet::new(),
            trials: BTreeMap::new(),
            proven: BTreeMap::new(),
            lifelines: lifelines_known,
            proofs: BTreeMap::new(),
            to_proved,
            wished: Loaded::default(),
            names: BTreeMap::new(),
            resolver: Resolver::new(to_resolved),
            redirect: None,
            multicast: None,
            reconcile_at: clock::now(),
            nft_at: clock::now(),
            save_at: None,
            strangers: strangers::Strangers::default(),
            shape_at: None,
            save_after: SAVE_MS,
            gone: BTreeSet::new(),
            summary,
            counted_at: Time(0),
            to_bursts,
            to_hairpins,
            to_multicast,
            to_lines,
            to_probed,
            to_measured,
            ipsec: None,
            sas: Arc::new(SaState::unknown()),
            to_sas,
        };
        let first = inlets.desired.borrow_and_update().clone();
        agent.configure(first);
        tokio::pin!(stop);
        let how = loop {
            agent.turn().await;
            let wake = clock::instant(agent.next_wake());
            tokio::select! {
                how = &mut stop => break how,
                alive = inlets.desired.changed() => {
                    alive.context("the source of the configuration has ended")?;
                    let desired = inlets.desired.borrow_and_update().clone();
                    agent.configure(desired);
                }
                Some(burst) = bursts.recv() => {
                    agent.packets(burst);
                    // What waits besides is carried out with it: the kernel is told of all in one go.
                    for more in std::iter::from_fn(|| bursts.try_recv().ok()).take(BURSTS - 1) {
                        agent.packets(more);
                    }
                }
                event = inlets.events.recv() => {
                    agent.kernel_event(event.context("the kernel monitor has ended")?);
                    while let Ok(event) = inlets.events.try_recv() {
                        agent.kernel_event(event);
                    }
                }
                Some(hairpin) = hairpins.recv() => agent.hairpin(hairpin),
                Some(packet) = multicast.recv() => agent.multicast(packet),
                Some(answer) = resolved.recv() => agent.resolved(answer),
                Some(refused) = refused.recv() => agent.refused(refused),
                Some(network) = lines.recv() => agent.line_changed(&network),
                Some(probed) = probed.recv() => agent.probed(&probed),
                Some(word) = lifelines.recv() => agent.api_server(word),
                Some(measured) = measured.recv() => agent.measured(&measured),
                Some(proved) = proved.recv() => agent.proved(proved),
                Ok(()) = sas.changed() => {
                    agent.sas = sas.borrow_and_update().clone();
                    agent.sas_changed().await;
                }
                Some(request) = inlets.requests.recv() => {
                    let _ = request.send(agent.report());
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        };
        match how {
            Stop::Keep => {
                agent.save_snapshots(true);
                info!("stopped; links, routes and neighbours stay as they are");
            }
            Stop::Leave => {
                agent.leave(&mut inlets, &mut bursts, &mut sas).await;
                info!("stopped; tunnels were taken away");
            }
        }
        Ok(how)
    }

    /// New endpoints.
    fn configure(&mut self, desired: Arc<Desired>) {
        let now = clock::now();
        self.desired = desired;
        let desired = Arc::clone(&self.desired);
        self.configure_behind(&desired);
        let own = desired.endpoints.iter().filter(|e| e.spec.gateway.is_none());
        let wanted = own.map(|e| (e.spec.network.clone(), self.on_trial(e, now)));
        let wanted: BTreeMap<_, _> = wanted.collect();
        let removals: BTreeSet<_> = desired.removals.iter().map(|r| r.spec.network.as_str()).collect();
        self.gone.retain(|network| removals.contains(network.as_str()));
        let named = |network: &str| {
            wanted.contains_key(network) || !removals.contains(network) && desired.keep_unnamed
        };
        self.trials.retain(|network, _| named(network));
        self.proven.retain(|network, _| named(network));
        for (network, tunnel) in &mut self.tunnels {
            let meant = !self.desired.keep_unnamed
                || removals.contains(network.as_str())
                || self.behind.contains_key(network);
            if meant && !wanted.contains_key(network) && !tunnel.doomed {
                info!(network, "endpoint is gone");
                tunnel.remove(now);
            }
        }
        for (network, endpoint) in wanted {
            self.met.insert(network.clone());
            match self.tunnels.get_mut(&network) {
                // Comes back while it leaves: it starts anew when it has left (see `farewells`).
                Some(tunnel) if tunnel.doomed || matches!(tunnel.leaving, Some(Leaving::Removed(_))) => {}
                Some(tunnel) => {
                    tunnel.update(endpoint.spec.clone(), endpoint.passwords.clone(), now);
                    tunnel.guarded.keys.clone_from(&endpoint.keys);
                    tunnel.guarded.certify(&network, endpoint.certificate.as_ref());
                }
                None => {
                    let mut tunnel = Tunnel::new(endpoint.spec.clone(), endpoint.passwords.clone());
                    tunnel.guarded.keys.clone_from(&endpoint.keys);
                    tunnel.guarded.certify(&network, endpoint.certificate.as_ref());
                    tunnel.sas = Arc::clone(&self.sas);
                    self.tunnels.insert(network, tunnel);
                }
            }
        }
        // Whoever is denied loses what it has before anything else is looked at.
        self.secure();
        self.spread_metrics();
        self.save_trials();
        self.want_names();
        self.reconcile_at = now;
        self.nft_at = now;
    }

    /// Host names that are needed: of configured hubs, and of those that hubs told.
    fn want_names(&mut self) {
        let specs = || self.tunnels.values().map(|t| &t.spec);
        let above = specs().flat_map(|s| &s.nhs).flat_map(|hub| &hub.nbma);
        let below = specs().flat_map(|s| &s.child_hubs).flat_map(|hub| &hub.nbma);
        let configured = above.chain(below).filter_map(|n| n.hostname.clone());
        let engines = self.tunnels.values().filter_map(|t| t.engine.as_ref());
        let told = engines.flat_map(nhrp::Engine::host_names).map(str::to_owned);
        let names: BTreeSet<_> = configured.chain(told).collect();
        self.resolver.want(&names);
    }

    /// What every turn of the loop ends with: timers, outputs, kernel.
    async fn turn(&mut self) {
        let now = clock::now();
        for tunnel in self.tunnels.values_mut() {
            tunnel.ponder(now);
            if let (true, Some(driver)) = (tunnel.guarded.wonders(now), &self.ipsec) {
                driver.look();
            }
            if let Some(engine) = &mut tunnel.engine
                && engine.poll_timeout().is_some_and(|t| t <= now)
            {
                engine.handle_timeout(now);
            }
        }
        self.flush().await;
        if self.farewells().await {
            self.reconcile_at = now;
        }
        if self.beside_changed() {
            let at = self.beside_at.after(BESIDE_MS).max(now.after(SETTLE_MS));
            self.reconcile_at = self.reconcile_at.min(at);
        }
        if self.reconcile_at <= now {
            // Set first: a failure in there is tried again.
            self.reconcile_at = now.after(PATROL_MS);
            self.reconcile().await;
            self.flush().await;
        }
        self.shape_stirred().await;
        self.judge().await;
        self.secure();
        self.probe();
        self.resolver.hurry(self.tunnels.values().any(|tunnel| tunnel.silent));
        self.save_snapshots(false);
        self.publish();
    }

    fn next_wake(&self) -> Time {
        let engines =
            self.tunnels.values().filter_map(|t| t.engine.as_ref().and_then(nhrp::Engine::poll_timeout));
        let leaving = self.tunnels.values().filter_map(|t| match t.leaving {
            Some(Leaving::Removed(at) | Leaving::Suspended(at)) => Some(at),
            None => None,
        });
        engines
            .chain(leaving)
            .chain(self.tunnels.values().filter_map(Tunnel::told_at))
            .chain(self.tunnels.values().filter_map(|tunnel| tunnel.path_mtus.next()))
            .chain(self.tunnels.values().filter_map(|tunnel| tunnel.guarded.pondered_until()))
            .chain(self.count_at())
            .chain(self.judge_at())
            .chain(self.save_at)
            .chain(self.shape_at)
            .chain([self.reconcile_at])
            .min()
            .unwrap_or(self.reconcile_at)
    }

    /// Carries out what the engines want: kernel first (a peer that hears from us finds us ready), then packets.
    async fn flush(&mut self) {
        self.flush_each().await;
        if self.hand_over() {
            self.flush_each().await;
        }
    }

    async fn flush_each(&mut self) {
        let now = clock::now();
        let names: Vec<_> = self.tunnels.keys().cloned().collect();
        for network in names {
            let Some(tunnel) = self.tunnels.get_mut(&network) else { continue };
            let Drained { mut ops, packets, queries, blind } = tunnel.drain(now);
            if blind {
                // What it stands for may go with these very changes.
                match lifelines::underlay(&self.kernel).await {
                    Ok(underlay) => drop(ops.splice(0..0, tunnel.see_underlay(underlay))),
                    Err(error) => warn!(network, %error, "underlay"),
                }
            }
            if std::mem::take(&mut tunnel.told) | std::mem::take(&mut tunnel.turned) {
                self.reconcile_at = self.reconcile_at.min(now.after(SETTLE_MS));
            }
            if tunnel.is_to_be_shaped(now) && self.shape_at.is_none() {
                self.shape_at = Some(now.after(shaping::GATHER_MS));
            }
            if tunnel.dirty && self.save_at.is_none() {
                self.save_at = Some(now.after(self.save_after));
            }
            if tunnel.link != 0 && !ops.is_empty() && !self.apply(&network, &ops).await {
                self.reconcile_at = self.reconcile_at.min(now.after(SETTLE_MS));
            }
            self.admit(&network).await;
            let Some(tunnel) = self.tunnels.get_mut(&network) else { continue };
            let packets = ipsec::pass(tunnel, packets, now);
            if let (Some(socket), false) = (&tunnel.socket, packets.is_empty()) {
                socket.send(&network, &packets).await;
            }
            if let Some(engine) = &mut tunnel.engine {
                packets.into_iter().for_each(|(_, buffer)| engine.recycle(buffer));
            }
            if !queries.is_empty() {
                self.answer_use(&network, queries).await;
            }
        }
    }

    /// Reads which destinations the kernel saw on the tunnel lately.
    async fn answer_use(&mut self, network: &str, queries: Vec<ipnet::IpNet>) {
        let used = match dataplane::nft::used(network).await {
            Ok(used) => Some(used),
            Err(error) => {
                warn!(network, %error, "use of shortcuts cannot be read: they are kept");
                None
            }
        };
        let now = clock::now();
        let Some(engine) = self.tunnels.get_mut(network).and_then(|t| t.engine.as_mut()) else { return };
        for prefix in queries {
            let used = used.as_ref().is_none_or(|used| used.iter().any(|a| prefix.contains(a)));
            engine.handle_input(now, Input::Use { prefix, used });
        }
    }

    fn packets(&mut self, burst: Burst) {
        let now = clock::now();
        if !burst.strangers.is_empty() {
            self.refuse(&burst);
        }
        let Some(tunnel) = self.tunnels.get_mut(&burst.network) else { return };
        let Some(engine) = tunnel.engine.as_mut().filter(|_| tunnel.link == burst.link) else { return };
        let named = engine.has_members();
        for (nbma, packet) in burst.packets.iter() {
            if named && !tunnel.guarded.knows(nbma) && tunnel.sas.away.is_none() {
                tunnel.guarded.ponder(now, (nbma, packet.to_vec()));
                continue;
            }
            engine.handle_packet(now, Origin { link: LinkId(burst.link), nbma }, packet);
        }
    }

    fn hairpin(&mut self, hairpin: Logged) {
        let now = clock::now();
        let Some(link) = hairpin.link_out else { return };
        let Some(hairpin) = self.crosses(hairpin, now) else { return };
        // In by which it leaves, says the rule; in a VRF the kernel names that as the link it came in by.
        let Some(tunnel) = self.tunnels.values_mut().find(|t| t.link != 0 && t.link == link) else { return };
        if let Some(engine) = &mut tunnel.engine {
            engine.handle_input(now, Input::Hairpin { link: LinkId(link), packet: hairpin.packet });
        }
    }

    fn resolved(&mut self, answer: Resolved) {
        info!(name = answer.name, addresses = ?answer.addresses, "hub's name resolved");
        self.names.insert(answer.name, answer.addresses);
        self.reconcile_at = clock::now();
    }

    /// The other end of a point-to-point tunnel went, or is there again.
    fn line_changed(&mut self, network: &str) {
        let now = clock::now();
        let Some(tunnel) = self.tunnels.get_mut(network) else { return };
        if tunnel.heed_keepalives() {
            tunnel.stirred = true;
            tunnel.stand(now);
            self.reconcile_at = now;
        }
    }

    /// Looks at the way to hubs that are silent, and at how long packets to the others may be.
    fn probe(&mut self) {
        let now = clock::now();
        for (network, tunnel) in &mut self.tunnels {
            let hole = tunnel.path_mtus.hole();
            for probe in tunnel.probes(now) {
                probe::start(network.clone(), probe, self.to_probed.clone());
            }
            for (probe, mtu) in tunnel.path_probes(now) {
                path_mtu::start(network.clone(), probe, mtu, self.to_measured.clone());
            }
            if hole != tunnel.path_mtus.hole() {
                // A hub that is no more, or another MTU: what it hinders is worked out with all the rest.
                self.reconcile_at = now;
            }
        }
    }

    fn probed(&mut self, probed: &Probed) {
        if let Some(tunnel) = self.tunnels.get_mut(&probed.network) {
            tunnel.probe_seen(probed.nbma, probed.walled, clock::now());
        }
    }

    fn measured(&mut self, measured: &Measured) {
        let now = clock::now();
        let Some(tunnel) = self.tunnels.get_mut(&measured.network) else { return };
        if tunnel.path_mtus.note(measured.nbma, measured.tunnel.into(), measured.found, now) {
            info!(network = measured.network, hub = %measured.nbma, found = ?measured.found, "path MTU");
            // What it hinders is worked out with all the rest.
            self.reconcile_at = now;
        }
    }

    /// A host says that it has no tunnel for what we sent it.
    fn refused(&mut self, refused: GreRefused) {
        let now = clock::now();
        for tunnel in self.tunnels.values_mut() {
            tunnel.note_refusal(&refused, now);
        }
    }

    /// Something changed in the kernel: was it us, does it concern us?
    fn kernel_event(&mut self, event: KernelEvent) {
        let now = clock::now();
        let disturbed = match &event {
            KernelEvent::ResolveNeeded { link, overlay } => {
                let tunnel = self.tunnels.values_mut().find(|t| t.link == *link);
                if let Some(engine) = tunnel.and_then(|t| t.engine.as_mut()) {
                    let input = Input::ResolveNeeded { link: LinkId(*link), overlay: *overlay };
                    engine.handle_input(now, input);
                }
                false
            }
            KernelEvent::Overrun => {
                warn!("kernel events were lost: everything is dumped again");
                true
            }
            other => {
                self.tunnels.values().any(|t| reconcile::disturbs(other, t)) || self.disturbs_behind(other)
            }
        };
        if matches!(event, KernelEvent::Nft { .. } | KernelEvent::Overrun) {
            self.nft_at = now;
        }
        if disturbed {
            debug!(?event, "kernel and plan may differ");
            self.reconcile_at = self.reconcile_at.min(now.after(SETTLE_MS));
        }
    }

    /// Ends what has withdrawn; true if something ended.
    async fn farewells(&mut self) -> bool {
        let now = clock::now();
        let over: Vec<_> =
            self.tunnels.iter().filter(|(_, t)| t.farewell_over(now)).map(|(n, _)| n.clone()).collect();
        for network in &over {
            let Some(tunnel) = self.tunnels.get_mut(network) else { continue };
            if let Some(Leaving::Suspended(_)) = tunnel.leaving {
                tunnel.sleep();
                continue;
            }
            let guarded = self.tunnels.remove(network).is_some_and(|tunnel| tunnel.spec.ipsec.is_some());
            if guarded {
                // The guard outlasts the link: `remove_stale` takes one after the other.
                self.nft_at = now;
            } else if let Err(error) = dataplane::nft::load(&dataplane::nft::remove(network)).await {
                warn!(network, %error, "nft table not removed");
            }
            snapshot::remove(&self.identity.snapshots, network);
            info!(network, "removed");
        }
        if !over.is_empty() {
            // Whoever came back meanwhile starts anew.
            let desired = Arc::clone(&self.desired);
            self.configure(desired);
        }
        !over.is_empty()
    }

    /// Starts or stops the redirect capture, as some tunnel wants it.
    fn capture_redirects(&mut self) {
        let wanted =
            self.tunnels.values().any(|t| t.wanted.as_ref().is_some_and(|w| w.nft.redirect_group.is_some()));
        if !wanted {
            if let Some(task) = self.redirect.take() {
                task.abort();
            }
            return;
        }
        if self.redirect.as_ref().is_some_and(|t| !t.is_finished()) {
            return;
        }
        match capture::start(REDIRECT_GROUP, nflog::HEADERS, self.to_hairpins.clone()) {
            Ok(task) => self.redirect = Some(task),
            Err(error) => warn!(%error, "redirect capture not started: spokes stay on the hub's path"),
        }
    }

    fn save_snapshots(&mut self, now_or_never: bool) {
        let now = clock::now();
        if !now_or_never && self.save_at.is_none_or(|at| at > now) {
            return;
        }
        self.save_at = None;
        for (network, tunnel) in &mut self.tunnels {
            let Some(engine) = tunnel.engine.as_ref().filter(|_| tunnel.leaving.is_none()) else { continue };
            if !tunnel.dirty && !now_or_never {
                continue;
            }
            match snapshot::save(&self.identity.snapshots, network, &engine.saved(now), now) {
                Ok(()) => tunnel.dirty = false,
                Err(error) => warn!(network, %error, "NHRP snapshot not written"),
            }
        }
        self.save_after = SAVE_MS.max(clock::now().since(now) * SAVE_SHARE);
    }

    fn report(&mut self) -> view::Report {
        let now = clock::now();
        for tunnel in self.tunnels.values_mut() {
            tunnel.stand(now);
        }
        let mut problems = self.desired.problems.clone();
        problems.extend(self.rolled_back_problems());
        report::report(&self.identity.node, self.tunnels.values(), &problems, now)
    }
}
