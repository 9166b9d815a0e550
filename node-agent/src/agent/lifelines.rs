//! What this node lives by: routes of ours leave it alone ([`crate::plan::keep`]), and a change that cuts it is rolled back
//! ([`crate::trial`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crds::Reason;
use crds::network::NhrpMode;
use dataplane::Kernel;
use dataplane::model::{Observed, Route};
use nhrp::{Input, NhsPhase, Time};
use tokio::sync::mpsc;
use tracing::{info, warn};
use view::Problem;

use super::Agent;
use super::underlay::{LOOPBACK, NOWHERE, NOWHERE6};
use crate::clock;
use crate::drivers::api_server::{self, Addresses, ApiServer, Word};
use crate::drivers::proof::{self, Proved};
use crate::ladder;
use crate::plan::wanted::ALIAS_PREFIX;
use crate::source::DesiredEndpoint;
use crate::trial::{Lifelines, Step, Trial, kept, same};
use crate::tunnel::Tunnel;

/// While it matters the API server is tried this often, in milliseconds.
const TRY_MS: u64 = 2_000;

/// What is known of it.
#[derive(Debug)]
pub(super) struct Known {
    server: Option<ApiServer>,
    to: mpsc::Sender<Word>,
    /// Default gateways: by which link each is reached.
    gateways: BTreeMap<IpAddr, u32>,
    /// Addresses of the API server: whether they are reached by the underlay, which then stays so.
    api: BTreeMap<IpAddr, bool>,
    /// When a connection to it was tried last.
    tried: Time,
    /// When one was tried that ended last, and whether it was taken.
    taken: (Time, bool),
}

impl Known {
    pub(super) fn new(server: Option<ApiServer>, to: mpsc::Sender<Word>) -> Self {
        let mut api = BTreeMap::new();
        if let Some(server) = &server {
            // What is known at once counts at the first look.
            api.extend(server.addresses.borrow().all.iter().map(|address| (*address, false)));
            api_server::tell(server, to.clone());
        }
        Self { server, to, gateways: BTreeMap::new(), api, tried: Time(0), taken: (Time(0), false) }
    }

    /// Whether it is not known yet where the API server is: pins of an earlier run may be its.
    pub(super) fn is_waiting(&self) -> bool {
        self.server.as_ref().is_some_and(|server| !server.addresses.borrow().complete)
    }

    /// Whether each default gateway is reached by the link that it was known to be on.
    async fn gateways_are_there(&self, kernel: &Kernel) -> bool {
        for (gateway, link) in &self.gateways {
            let found = kernel.lookup(*gateway, 0).await;
            if !found.is_ok_and(|found| found.link == *link) {
                return false;
            }
        }
        true
    }

    /// What no route of ours may take away.
    pub(super) fn kept(&self) -> BTreeSet<IpAddr> {
        let api = self.api.iter().filter(|(_, outside)| **outside).map(|(address, _)| *address);
        self.gateways.keys().copied().chain(api).collect()
    }
}

/// A proof under way.
#[derive(Debug)]
pub(super) struct Proving {
    /// Since when it is asked for.
    asked: Time,
    /// It is under way: it ends by itself, with nothing left behind.
    started: bool,
    /// Why the hubs refuse.
    refused: Option<String>,
}

/// The routes of the main table that are not ours.
pub(super) async fn underlay(kernel: &Kernel) -> Result<Vec<Route>, dataplane::Error> {
    let mut routes = kernel.underlay(false).await?;
    routes.extend(kernel.underlay(true).await?);
    Ok(routes)
}

impl Agent {
    /// Looks where the default gateways and the API server are.
    pub(super) async fn look_at_lifelines(&mut self, observed: &Observed) {
        let ours =
            |link: u32| observed.links.iter().any(|l| l.index == link && l.alias.starts_with(ALIAS_PREFIX));
        let known = &mut self.lifelines;
        // What is on trial may have taken a gateway's place: it is not forgotten.
        let on_trial = !self.trials.is_empty();
        for nowhere in [NOWHERE, NOWHERE6].into_iter().filter(|_| !on_trial) {
            let found = self.kernel.lookup(nowhere, 0).await.ok();
            // By a tunnel of ours: then the pins are where the underlay's own is known from.
            if found.as_ref().is_some_and(|found| ours(found.link)) {
                continue;
            }
            known.gateways.retain(|gateway, _| gateway.is_ipv4() != nowhere.is_ipv4());
            known.gateways.extend(found.and_then(|found| Some((found.via?, found.link))));
        }
        for (address, outside) in &mut known.api {
            if !*outside && let Ok(found) = self.kernel.lookup(*address, 0).await {
                *outside = !ours(found.link) && found.link != LOOPBACK;
            }
        }
    }

    /// Tells the plans.
    pub(super) fn keep_lifelines(&mut self) {
        let kept = self.lifelines.kept();
        for tunnel in self.tunnels.values_mut() {
            if let Some(wanted) = &mut tunnel.wanted {
                wanted.keep(&kept);
            }
        }
    }

    /// Something is known of the API server.
    pub(super) fn api_server(&mut self, word: Word) {
        match word {
            Word::Addresses(Addresses { all: addresses, .. }) => {
                let known = &mut self.lifelines.api;
                known.retain(|address, _| addresses.contains(address));
                for address in &addresses {
                    known.entry(*address).or_insert(false);
                }
                self.reconcile_at = clock::now();
            }
            Word::Tried(at, taken) if at >= self.lifelines.taken.0 => self.lifelines.taken = (at, taken),
            Word::Tried(..) => {}
        }
    }

    /// The endpoint that a network gets: the one that is wanted, or the one that worked while that one is rolled back.
    /// A change of a tunnel that works begins its trial.
    pub(super) fn on_trial(&mut self, wanted: &DesiredEndpoint, now: Time) -> DesiredEndpoint {
        let network = &wanted.spec.network;
        if let Some(trial) = self.trials.get_mut(network)
            && trial.is_about(wanted)
        {
            return trial.in_force().clone();
        }
        if !self.proven.contains_key(network)
            && !self.trials.contains_key(network)
            && let Some(trial) = kept::resume(&self.identity.snapshots, wanted, now)
        {
            info!(network, "an earlier run of the agent had a change on trial");
            let in_force = trial.in_force().clone();
            self.trials.insert(network.clone(), trial);
            return in_force;
        }
        let earlier = self.trials.remove(network);
        let (before, needs) = match earlier {
            Some(trial) => (Some(trial.before().clone()), Some(trial.needs())),
            None => (self.proven.get(network).cloned(), None),
        };
        let tunnel = self.tunnels.get(network).filter(|t| t.leaving.is_none() && !t.doomed && t.link != 0);
        let (Some(before), Some(tunnel)) = (before, tunnel) else {
            self.proven.insert(network.clone(), wanted.clone());
            return wanted.clone();
        };
        if same(&before, wanted) || wanted.spec.suspend || before.spec.suspend {
            self.proven.insert(network.clone(), wanted.clone());
            return wanted.clone();
        }
        let needs = needs.unwrap_or_else(|| Lifelines {
            hub: hub_answers(tunnel, None, now),
            gateway: !self.lifelines.gateways.is_empty(),
            // It has told of the change.
            api: self.lifelines.server.is_some() && wanted.origin.is_some(),
        });
        // Who is to have no hub any more cannot lose it.
        let has_hubs = !wanted.spec.nhs.is_empty() && wanted.spec.nhrp.mode == NhrpMode::Enabled;
        let needs = Lifelines { hub: needs.hub && has_hubs, ..needs };
        if needs.is_empty() {
            self.proven.insert(network.clone(), wanted.clone());
            return wanted.clone();
        }
        info!(network, "a change is on trial: {needs} must stay reachable");
        self.trials.insert(network.clone(), Trial::new(before, wanted.clone(), needs, now));
        wanted.clone()
    }

    /// Sees to it that a restart of the agent is no way round a trial.
    pub(super) fn save_trials(&self) {
        for network in self.tunnels.keys() {
            let dir = &self.identity.snapshots;
            match self.trials.get(network) {
                Some(trial) => {
                    if let Err(error) = kept::save(dir, network, trial) {
                        warn!(network, %error, "a change on trial is not written down");
                    }
                }
                // Until it is known what is wanted, what an earlier run has left may be meant.
                None if self.proven.contains_key(network) => kept::remove(dir, network),
                None => {}
            }
        }
    }

    /// Looks at what is on trial; what is to be in force changes by it.
    pub(super) async fn judge(&mut self) {
        if self.trials.is_empty() {
            return;
        }
        let gateway = self.lifelines.gateways_are_there(&self.kernel).await;
        let now = clock::now();
        self.prove();
        let wants_api = self.trials.values().any(|trial| trial.needs().api && !trial.is_settled());
        let known = &mut self.lifelines;
        if let Some(server) = known.server.as_ref().filter(|_| wants_api && now.since(known.tried) >= TRY_MS)
        {
            known.tried = now;
            api_server::start(server.clone(), now, known.to.clone());
        }
        let mut switched = false;
        let mut kept = Vec::new();
        for (network, trial) in &mut self.trials {
            let Some(tunnel) = self.tunnels.get_mut(network) else { continue };
            // What is in force has to be in the kernel first.
            if self.reconcile_at > now
                && trial.ask(now)
                && let Some(engine) = &mut tunnel.engine
            {
                engine.handle_input(now, Input::Confirm);
            }
            let asked = trial.asked();
            let refused = self.proofs.get(network).and_then(|proof| proof.refused.clone());
            let has = Lifelines {
                hub: refused.is_none()
                    && hub_answers(tunnel, asked.filter(|_| !trial.is_settled()), now)
                    && (asked.is_some() || trial.is_settled()),
                gateway: asked.is_some() && gateway,
                api: trial.is_settled() || (known.taken.1 && asked.is_some_and(|at| known.taken.0 > at)),
            };
            let stands = tunnel.rung().map(|(rung, _)| rung.clone());
            let stands = stands.filter(|rung| !rung.reason.is_empty());
            let stands = stands.map(|rung| format!("{}: {}", rung.reason, rung.message));
            let said = refused.or(stands).unwrap_or_default();
            match trial.step(has, &said, now) {
                Step::Stay => {}
                Step::Switched => {
                    switched = true;
                    let lost = trial.needs().without(has);
                    match trial.why() {
                        Some(why) => warn!(network, "{why}"),
                        None if lost.is_empty() => {}
                        None => warn!(network, "a change is on trial: {lost} cannot be reached"),
                    }
                }
                Step::Kept => kept.push(network.clone()),
            }
        }
        for network in kept {
            info!(network, "the change is kept");
            if let Some(trial) = self.trials.remove(&network) {
                self.proven.insert(network, trial.in_force().clone());
            }
            switched = true;
        }
        if switched {
            let desired = self.desired.clone();
            self.configure(desired);
        }
    }

    /// Has the hubs met once more by what is on trial, as soon as the IKE daemon holds it.
    fn prove(&mut self) {
        let told = self.sas.away.is_none() && self.sas.told == self.wished;
        self.proofs.retain(|network, proof| {
            let trial = self.trials.get(network).filter(|trial| trial.is_of_proof());
            trial.is_some_and(|trial| trial.asked() == Some(proof.asked))
        });
        for (network, trial) in &self.trials {
            let Some(asked) = trial.asked().filter(|_| trial.is_of_proof()) else { continue };
            let start = || {
                let what = (network.clone(), asked);
                proof::start(self.identity.vici.clone(), what, self.wished.clone(), self.to_proved.clone());
            };
            let proof = self.proofs.entry(network.clone());
            let proof = proof.or_insert_with(|| Proving { asked, started: false, refused: None });
            if told && !std::mem::replace(&mut proof.started, told) {
                start();
            }
        }
    }

    /// A hub was met once more, or refused.
    pub(super) fn proved(&mut self, proved: Proved) {
        let proof = self.proofs.get_mut(&proved.network).filter(|proof| proof.asked == proved.asked);
        if let Some(proof) = proof {
            proof.refused = proved.refused.map(|(trouble, line)| {
                let (reason, what) = ladder::ike(trouble);
                format!("{reason}: IKE with the hubs, begun anew: {what}: {line}")
            });
        }
    }

    /// When something on trial has to be looked at.
    pub(super) fn judge_at(&self) -> Option<Time> {
        let api = self.trials.values().any(|trial| trial.needs().api && !trial.is_settled());
        let api = api.then(|| self.lifelines.tried.after(TRY_MS));
        self.trials.values().map(Trial::next).chain(api).min()
    }

    /// Changes that are not in force.
    pub(super) fn rolled_back(&self) -> BTreeMap<String, String> {
        let all = self.trials.iter();
        all.filter_map(|(network, trial)| Some((network.clone(), trial.why()?))).collect()
    }

    /// The same, as the report tells it.
    pub(super) fn rolled_back_problems(&self) -> Vec<Problem> {
        let problem = |(network, message)| Problem {
            object: format!("DmvpnNetwork/{network}"),
            field: "spec".to_owned(),
            reason: Reason::RolledBack.to_string(),
            message,
        };
        self.rolled_back().into_iter().map(problem).collect()
    }
}

/// Whether a hub answers, and has done so since.
fn hub_answers(tunnel: &Tunnel, since: Option<Time>, now: Time) -> bool {
    let states = tunnel.engine.as_ref().map(|engine| engine.nhs_states(now)).unwrap_or_default();
    let is_fresh = |ago: Option<u64>| since.is_none_or(|at| ago.is_some_and(|ago| ago <= now.since(at)));
    states.iter().any(|it| it.phase == NhsPhase::Responding && is_fresh(it.last_reply_ms))
}
