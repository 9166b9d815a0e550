//! Whether the way to an egress carries packets: no shortcut is put in before it does.
//!
//! The answer to a request says that the egress reaches us, never that we reach it: with a firewall between two
//! branches a shortcut made of the answer alone would be a black hole. So the egress is asked something straight: a
//! Resolution Request for its own tunnel address, which every DMVPN node answers (ours, FRR, Cisco). Until it has
//! answered, traffic stays on the hub's path.
//!
//! ```text
//!          an answer names it         answered                  3 s without a question
//!   (none) ──────────────────► Trial ─────────► good ─────────────────────────────────► Trial …
//!                                │ 3 without answer         (only while a shortcut leads there)
//!                                ▼
//!                              barred: shortcuts end, nobody tries before a time that doubles
//! ```
//! An egress whose agent is away (it restarts, say) answers nobody, though its kernel forwards. So a way in use is given
//! up only when the egress still answers by way of the NHS.

use std::net::IpAddr;

use ipnet::IpNet;

use super::snapshot::{NhsPhase, Source};
use super::timers::TimerKey;
use super::{DropReason, Engine, Received, Rule, TABLE_BOUND, Time};
use crate::wire::{Builder, Cie, PacketType, ext, flags};

/// Questions of one trial, all with the same id: an answer to any of them counts until the last one's time is over.
const TRIES: u32 = 3;
const RETRY_MS: u64 = 500;
/// A way in use is tried this long after it was last good.
const CHECK_MS: u64 = 3_000;
/// Many ways are tried less often: 50 questions a second in all.
const SHARE_MS: u64 = 20;
/// A way that was good within this time needs no trial before it is used.
const FRESH_MS: u64 = 60_000;
/// Nobody tries again for this long, doubled by each further failure.
const BAR_MS: u64 = 30_000;
const BAR_MAX_MS: u64 = 600_000;
/// After this long without a break earlier failures no longer count.
const STEADY_MS: u64 = 300_000;

/// The way to one egress.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    nbma: IpAddr,
    /// Since when it has carried packets without a break.
    good: Option<Time>,
    heard: Time,
    /// Until when nobody tries.
    barred: Option<Time>,
    failures: u32,
    trial: Option<Trial>,
    next: Time,
}

/// The question that is out.
#[derive(Clone, Debug)]
struct Trial {
    id: u32,
    sent: u32,
    /// The same question by way of this NHS, and whether it was answered.
    witness: Option<(u32, IpAddr)>,
    alive: bool,
    /// Shortcuts that wait for the answer (see `Shortcut::pending`).
    waiting: Vec<IpNet>,
    /// Questions before these were not answered.
    lapsed: bool,
}

/// What was answered and believed about a destination: the shortcut to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) prefix: IpNet,
    /// The route by the hub that it bypasses.
    pub(crate) covering: Option<IpNet>,
    pub(crate) via: IpAddr,
    pub(crate) nbma: IpAddr,
    /// Seconds.
    pub(crate) holding_time: u16,
    pub(crate) mtu: u16,
    /// The egress claims another NBMA address than the one that it is reached at.
    pub(crate) natted: bool,
}

impl Path {
    fn new(nbma: IpAddr, now: Time) -> Self {
        Self { nbma, good: None, heard: now, barred: None, failures: 0, trial: None, next: now }
    }

    fn is_fresh(&self, now: Time) -> bool {
        self.answers() && now.since(self.heard) < FRESH_MS
    }

    /// It was good, and the last question but the one that is out was answered.
    fn answers(&self) -> bool {
        self.good.is_some() && self.trial.as_ref().is_none_or(|it| it.sent <= 1 && !it.lapsed)
    }

    fn barred_until(&self, now: Time) -> Option<Time> {
        self.barred.filter(|until| *until > now)
    }
}

impl Trial {
    fn new(id: u32) -> Self {
        Self { id, sent: 0, witness: None, alive: false, lapsed: false, waiting: Vec::new() }
    }
}

impl Engine {
    /// A shortcut may come of this answer: at once if the way to its egress is known to carry packets, else when that
    /// is shown.
    pub(crate) fn prove(&mut self, now: Time, key: IpNet, answer: Answer) {
        let via = answer.via;
        // One of higher rank is reached at its own address, which is tried by other means (registrations).
        let ranked = self.bindings.get(&via).is_some_and(|binding| binding.source < Source::Resolved);
        if ranked || !self.enforced(Rule::PathProof) {
            return self.shortcut_up(now, key, &answer);
        }
        let path = self.paths.get(&via).filter(|path| path.nbma == answer.nbma);
        if path.is_some_and(|path| path.is_fresh(now)) {
            self.shortcut_up(now, key, &answer);
            return self.watch_path(now, via);
        }
        if let Some(until) = path.and_then(|path| path.barred_until(now)) {
            return self.negative_until(now, key, silence(&answer), until);
        }
        if path.is_none() && self.paths.len() >= TABLE_BOUND && !self.paths.contains_key(&via) {
            return self.negative(now, key, "too many ways to egresses".into());
        }
        self.await_path(key, answer, now.after(u64::from(TRIES + 1) * RETRY_MS));
        self.try_path(now, via, answer.nbma, Some(key));
    }

    /// An NHS of ours says with its redirect where the egress is: the way there is tried while the request is under
    /// way, so that the proof costs no time. The NHS's word is not believed about anything but that.
    pub(crate) fn egress_hinted(&mut self, now: Time, received: &Received<'_>) {
        let hint = received.packet.extension(ext::EGRESS).and_then(|it| it.cies().ok()?.next());
        let Some((via, nbma)) = hint.and_then(|cie| Some((cie.proto?, cie.nbma?))) else { return };
        let in_overlay = self.may_be_member(via);
        let bound = self.bindings.get(&via).is_some_and(|binding| binding.source < Source::Resolved);
        let Some(local) = self.local_like(via).filter(|_| in_overlay && !bound) else { return };
        // Behind NAT the question itself would open the NAT for the egress, as long as the NAT pleases.
        if self.is_local(via) || Some(nbma) == self.config.nbma || self.public_nbma(local).is_some() {
            return;
        }
        let known = self.paths.get(&via).filter(|path| path.nbma == nbma);
        let settled = known.is_some_and(|it| it.is_fresh(now) || it.barred_until(now).is_some());
        if !settled && self.paths.len() < TABLE_BOUND && !self.leads_to(via) {
            self.try_path(now, via, nbma, None);
        }
    }

    /// Asks the egress straight, unless that is being done.
    fn try_path(&mut self, now: Time, via: IpAddr, nbma: IpAddr, waiting: Option<IpNet>) {
        let id = self.secret_id();
        let path = self.paths.entry(via).or_insert_with(|| Path::new(nbma, now));
        if path.nbma != nbma {
            // The egress moved; who waited for the old way is asked for again by the next redirect.
            *path = Path::new(nbma, now);
        }
        let running = path.trial.is_some();
        let trial = path.trial.get_or_insert_with(|| Trial::new(id));
        // The first who waits has all the questions before him: those that went before, for a hint or for a way that was
        // in use, may have been to one who was away.
        let joins = running && waiting.is_some() && trial.waiting.is_empty() && trial.sent != 1;
        if joins {
            trial.lapsed |= trial.sent > 1;
            trial.sent = 0;
        }
        trial.waiting.extend(waiting);
        if !running || joins {
            self.send_trial(now, via);
        }
    }

    fn send_trial(&mut self, now: Time, via: IpAddr) {
        let used = self.leads_to(via);
        let Some(path) = self.paths.get_mut(&via) else { return };
        let Some(trial) = &mut path.trial else { return };
        trial.sent += 1;
        let last = trial.sent == TRIES;
        path.next = now.after(RETRY_MS);
        let (id, nbma, next) = (trial.id, path.nbma, path.next);
        self.timers.arm(TimerKey::Path(via), next);
        let Some(bytes) = self.question(id, via, false) else { return };
        self.send(PacketType::ResolutionRequest, nbma, bytes);
        if used && last {
            self.ask_witness(via);
        }
    }

    /// Asks the egress by way of an NHS, for an answer by the same way.
    fn ask_witness(&mut self, via: IpAddr) {
        let answers = |hub: &&super::client::Hub| {
            let fits = |it: &super::client::Registration| {
                it.phase == NhsPhase::Responding && it.local.is_ipv4() == via.is_ipv4()
            };
            hub.registrations.iter().any(fits)
        };
        let Some(nhs) = self.hubs.iter().find(answers).and_then(super::client::Hub::nbma) else { return };
        let id = self.secret_id();
        let Some(bytes) = self.question(id, via, true) else { return };
        if let Some(trial) = self.paths.get_mut(&via).and_then(|path| path.trial.as_mut()) {
            trial.witness = Some((id, nhs));
            trial.alive = false;
        }
        self.send(PacketType::ResolutionRequest, nhs, bytes);
    }

    /// A Resolution Request for somebody's own tunnel address, to be answered to where it comes from: also (`back`) if
    /// that is an NHS.
    pub(crate) fn question(&self, id: u32, overlay: IpAddr, back: bool) -> Option<Vec<u8>> {
        let local = self.local_like(overlay)?;
        let mut header = self.header(PacketType::ResolutionRequest, id, local, overlay)?;
        header.flags = flags::ROUTER | flags::AUTHORITATIVE | flags::SOURCE_STABLE | flags::NAT;
        let own = Cie { mtu: self.config.mtu, holding_time: self.config.holding_time, ..Cie::default() };
        let builder = self.request_extensions(Builder::new(&header).cie(&own));
        let builder = builder.extension(false, ext::NAT, &[]);
        Some(if back { builder.extension(false, ext::BACK, &[]) } else { builder }.finish())
    }

    /// A Resolution Reply may be the answer to a trial; says whether it was.
    pub(crate) fn path_answered(&mut self, now: Time, received: &Received<'_>) -> bool {
        let header = received.header();
        let via = header.dst_proto;
        let Some(path) = self.paths.get_mut(&via) else { return false };
        let Some(trial) = &mut path.trial else { return false };
        if let Some((_, nhs)) = trial.witness.filter(|(id, _)| *id == header.request_id) {
            // Whoever of the two it comes from, it says nothing about our way to the egress.
            trial.alive |= received.from == nhs || received.from == path.nbma;
            return true;
        }
        if trial.id != header.request_id {
            return false;
        }
        if path.nbma != received.from {
            self.drop(now, DropReason::WrongSender, Some(received.from));
            return true;
        }
        // "No such binding" comes from somebody else at that address (two behind one NAT): no proof.
        if !received.packet.cies().any(|cie| cie.code == 0) {
            return true;
        }
        let Some(trial) = path.trial.take() else { return true };
        path.good = path.good.or(Some(now));
        path.heard = now;
        path.barred = None;
        let waiting = self.trial_over(trial);
        for key in waiting {
            self.path_proven(now, key, via);
        }
        self.watch_path(now, via);
        true
    }

    /// Its questions may still be answered, late. Gives the shortcuts that waited.
    fn trial_over(&mut self, trial: Trial) -> Vec<IpNet> {
        self.answer_taken(trial.id);
        if let Some((id, _)) = trial.witness {
            self.answer_taken(id);
        }
        trial.waiting
    }

    fn path_proven(&mut self, now: Time, key: IpNet, via: IpAddr) {
        let pending = self.shortcuts.get(key).and_then(|shortcut| shortcut.pending);
        if let Some(answer) = pending.filter(|answer| answer.via == via) {
            self.shortcut_up(now, key, &answer);
        }
    }

    /// Arms the next look at a way that is good.
    fn watch_path(&mut self, now: Time, via: IpAddr) {
        let share = SHARE_MS * self.paths.len() as u64;
        let wait = if self.leads_to(via) { self.rng.jitter(CHECK_MS.max(share)) } else { FRESH_MS };
        let Some(path) = self.paths.get_mut(&via) else { return };
        if path.trial.is_none() {
            path.next = path.heard.after(wait).max(now);
            let next = path.next;
            self.timers.arm(TimerKey::Path(via), next);
        }
    }

    /// Whether a shortcut leads to this egress by the way that is watched.
    fn leads_to(&self, via: IpAddr) -> bool {
        let Some(path) = self.paths.get(&via) else { return false };
        let used = |binding: &super::bindings::Binding| {
            binding.source == Source::Resolved && binding.users > 0 && binding.nbma == path.nbma
        };
        self.bindings.get(&via).is_some_and(used)
    }

    /// Whether the way to this egress is watched, and the last question but the one that is out was answered.
    pub(crate) fn path_answers(&self, via: IpAddr) -> bool {
        self.leads_to(via) && self.paths.get(&via).is_some_and(Path::answers)
    }

    pub(crate) fn path_due(&mut self, now: Time, via: IpAddr) {
        let used = self.leads_to(via);
        let Some(path) = self.paths.get_mut(&via) else { return };
        if path.next > now {
            let next = path.next;
            return self.timers.arm(TimerKey::Path(via), next);
        }
        if self.withdrawing {
            // It may be taken back: then the trial goes on.
            path.next = now.after(CHECK_MS);
            let next = path.next;
            return self.timers.arm(TimerKey::Path(via), next);
        }
        match &mut path.trial {
            Some(trial) if trial.sent < TRIES => self.send_trial(now, via),
            Some(trial) if used && !trial.alive => {
                // Nobody says that the egress itself is there: traffic by the hub would fare no better.
                trial.lapsed = true;
                trial.sent = 0;
                path.next = now.after(CHECK_MS);
                let next = path.next;
                self.timers.arm(TimerKey::Path(via), next);
            }
            // It was used and is not any more, or there was but a hint: nobody was there to answer, which says nothing
            // about the way.
            Some(trial) if !used && trial.waiting.is_empty() => self.trial_dropped(now, via),
            Some(_) => self.path_failed(now, via),
            None if used => {
                let nbma = path.nbma;
                self.try_path(now, via, nbma, None);
            }
            // Not used, and neither fresh nor barred any more.
            None => {
                self.paths.remove(&via);
            }
        }
    }

    /// Nobody wants to know any more.
    fn trial_dropped(&mut self, now: Time, via: IpAddr) {
        let Some(path) = self.paths.get_mut(&via) else { return };
        let trial = path.trial.take();
        path.good = None;
        // Earlier failures are remembered for as long as after a failure.
        path.next = now.after(if path.failures > 0 { BAR_MAX_MS } else { 0 });
        let next = path.next;
        self.timers.arm(TimerKey::Path(via), next);
        trial.map(|trial| self.trial_over(trial));
    }

    /// Nobody answered: all that leads or would lead there goes by the hub.
    fn path_failed(&mut self, now: Time, via: IpAddr) {
        let used = self.leads_to(via);
        let Some(path) = self.paths.get_mut(&via) else { return };
        let trial = path.trial.take();
        if path.good.is_some_and(|good| now.since(good) > STEADY_MS) {
            path.failures = 0;
        }
        path.good = None;
        let until = now.after((BAR_MS << path.failures.min(8)).min(BAR_MAX_MS));
        path.failures += 1;
        path.barred = Some(until);
        // Failures are remembered for a while longer.
        path.next = until.after(BAR_MAX_MS);
        let (nbma, next) = (path.nbma, path.next);
        self.timers.arm(TimerKey::Path(via), next);
        let waiting = trial.map(|trial| self.trial_over(trial)).unwrap_or_default();
        for key in waiting {
            let pending = self.shortcuts.get(key).and_then(|shortcut| shortcut.pending);
            if let Some(answer) = pending.filter(|answer| answer.via == via && answer.nbma == nbma) {
                self.negative_until(now, key, silence(&answer), until);
            }
        }
        if used {
            let up = self.shortcuts.iter().filter(|(_, shortcut)| shortcut.via == Some(via));
            let up: Vec<_> = up.map(|(net, _)| net).collect();
            for net in up {
                let reason = format!("the way to {via} at {nbma} no longer carries packets");
                self.negative_until(now, net, reason, until);
            }
        }
        // It was tried elsewhere, in vain; where it is used it is watched again.
        let elsewhere = self.bindings.get(&via).filter(|it| it.source == Source::Resolved && it.users > 0);
        if let Some(nbma) = elsewhere.map(|binding| binding.nbma) {
            self.try_path(now, via, nbma, None);
        }
    }

    /// A shortcut from before a restart leads there: it was good then, and is looked at now.
    pub(crate) fn resume_path(&mut self, now: Time, via: IpAddr) {
        let Some(binding) = self.bindings.get(&via).filter(|it| it.source == Source::Resolved) else {
            return;
        };
        let nbma = binding.nbma;
        let path = self.paths.entry(via).or_insert_with(|| Path::new(nbma, now));
        path.good = path.good.or(Some(now));
        self.timers.arm(TimerKey::Path(via), now);
    }

    /// Our underlay address changed: every way is another one now.
    pub(crate) fn recheck_paths(&mut self, now: Time) {
        let mut all: Vec<_> = self.paths.keys().copied().collect();
        all.sort_unstable();
        for via in all {
            if !self.leads_to(via) {
                self.paths.remove(&via);
            } else if let Some(path) = self.paths.get_mut(&via).filter(|path| path.trial.is_none()) {
                path.next = now;
                self.timers.arm(TimerKey::Path(via), now);
            }
        }
    }
}

/// Why an egress that does not answer is not used.
fn silence(answer: &Answer) -> String {
    let Answer { via, nbma, .. } = answer;
    match answer.natted {
        true => format!("the egress {via} is behind NAT at {nbma}, which lets nobody in"),
        false => format!("the way to {via} at {nbma} does not carry packets"),
    }
}
