//! Shortcuts: who is asked, and the routes that come of the answer.
//!
//! ```text
//!            redirect, kernel's request            answer, way to the egress proven (see `path`)
//!   (none) ───────────────────────────► Incomplete ──────► Up ──► (none): unused, purged, route under it gone
//!                                            │ refused, silent, way   ▲ │ 2/3 of its time, used: asked again
//!                                            ▼ carries nothing        └─┘
//!                                        Negative ──► (none) after a back-off that doubles
//! ```
//! In all states but Up traffic goes by the hub. Routes are put in from the far end (neighbour, host route, prefix)
//! and taken out the other way round, so that no packet is lost.

use std::net::IpAddr;

use ipnet::IpNet;

use super::bindings::Binding;
use super::config::Phase;
use super::learn::reachable_list;
use super::path::Answer;
use super::redirect::inner_addresses;
use super::snapshot::{ShortcutPhase, Source};
use super::timers::TimerKey;
use super::{DropReason, Engine, Event, Output, Received, RouteKind, Rule, TABLE_BOUND, Time};
use crate::wire::{Builder, Cie, PacketType, ext, flags};

/// Seconds after which a request goes out again, then it has failed.
const RETRY_S: [u64; 6] = [1, 2, 4, 7, 7, 7];
/// Requests under way at the same time.
const ASK_BOUND: usize = 1024;
/// A renewal that an NHS refused is not asked for again before this.
const AGAIN_MS: u64 = 1_000;
/// Back-off after the first failure, doubled by each further one.
const BACKOFF_MS: u64 = 60_000;
const BACKOFF_MAX_MS: u64 = 600_000;

/// One shortcut.
#[derive(Clone, Debug)]
pub(crate) struct Shortcut {
    /// The destination that was asked for.
    pub(crate) asked: IpAddr,
    pub(crate) phase: ShortcutPhase,
    pub(crate) via: Option<IpAddr>,
    pub(crate) reason: String,
    pub(crate) made: Time,
    pub(crate) expires: Time,
    pub(crate) used: bool,
    /// When to find out whether it is used; `None` once that was done.
    query: Option<Time>,
    ask: Option<Ask>,
    /// NBMA address of the NHS that is asked.
    pub(crate) nhs: IpAddr,
    /// The egress that the NHS named with its redirect.
    pub(crate) named: Option<IpAddr>,
    /// The prefix by which the NHS routes it, if that said so.
    pub(crate) limit: Option<IpNet>,
    /// The route by the hub that it bypasses.
    pub(crate) covering: Option<IpNet>,
    /// Phase 2: NBMA address of the hub that the neighbour leads to until the answer comes.
    pub(crate) interim: Option<IpAddr>,
    /// Answered; the way to the egress is being tried.
    pub(crate) pending: Option<Answer>,
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Ask {
    id: u32,
    tries: usize,
    next: Time,
}

/// How often a destination failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failures {
    count: u32,
    pub(crate) forget: Time,
}

impl Engine {
    /// A redirect: believed from an NHS of ours, about traffic that is really ours.
    pub(crate) fn traffic_indication(&mut self, now: Time, received: &Received<'_>) {
        let from = received.from;
        if self.config.phase != Phase::Three {
            return self.drop(now, DropReason::Phase, Some(from));
        }
        if self.withdrawing {
            return self.drop(now, DropReason::Withdrawing, Some(from));
        }
        if !self.is_nhs(from) && self.enforced(Rule::IndicationFromNhs) {
            return self.drop(now, DropReason::WrongSender, Some(from));
        }
        let Some((src, dst)) = inner_addresses(received.packet.payload()) else {
            return self.drop(now, DropReason::Malformed, Some(from));
        };
        if self.pass_indication(now, received.packet.payload(), src, dst) {
            return;
        }
        let usable = !dst.is_multicast() && !dst.is_unspecified() && !dst.is_loopback();
        let tunnel_end = self.underlay_inside(IpNet::from(dst)).is_some();
        // Traffic that we send by another NHS cannot have come by this one.
        let sent_there = self.announced.longest(dst).and_then(|(_, announced)| announced.via);
        let elsewhere =
            sent_there.and_then(|via| self.bindings.get(&via)).is_some_and(|nhs| nhs.nbma != from);
        let ours = self.is_ours(src) && !self.is_ours(dst) && usable && !tunnel_end && !elsewhere;
        if !ours && self.enforced(Rule::IndicationOurTraffic) {
            return self.drop(now, DropReason::NotOurTraffic, Some(from));
        }
        self.start_ask(now, dst, from, Some(from));
        // By which prefix the NHS routes it: an answer counts for no more than that.
        let limit = reachable_list(received.packet).and_then(|chunk| chunk.prefixes.first().copied());
        if let Some(shortcut) = self.shortcuts.get_mut(IpNet::from(dst)) {
            shortcut.limit = shortcut.limit.or_else(|| limit.filter(|limit| limit.contains(&dst)));
            let hint = received.packet.extension(ext::EGRESS).and_then(|it| it.cies().ok()?.next());
            shortcut.named = hint.and_then(|cie| cie.proto);
        }
        let asking =
            self.shortcuts.get(IpNet::from(dst)).is_some_and(|it| it.made == now && it.ask.is_some());
        if asking {
            self.egress_hinted(now, received);
        }
    }

    pub(crate) fn start_ask(&mut self, now: Time, dst: IpAddr, nhs: IpAddr, from: Option<IpAddr>) {
        if let Some((_, shortcut)) = self.shortcuts.longest(dst) {
            let reason = match shortcut.phase {
                ShortcutPhase::Negative => DropReason::BackOff,
                ShortcutPhase::Incomplete | ShortcutPhase::Up => DropReason::AlreadyDirect,
            };
            return self.drop(now, reason, from);
        }
        if self.bindings.contains_key(&dst) {
            return self.drop(now, DropReason::AlreadyDirect, from);
        }
        if self.shortcuts.len() >= TABLE_BOUND || self.asks.len() >= ASK_BOUND {
            return self.drop(now, DropReason::TableFull, from);
        }
        if self.local_like(dst).is_none() || self.config.nbma.is_none() {
            return self.drop(now, DropReason::NoAddress, from);
        }
        let key = IpNet::from(dst);
        let shortcut = Shortcut {
            asked: dst,
            phase: ShortcutPhase::Incomplete,
            via: None,
            reason: String::new(),
            made: now,
            expires: now.after(RETRY_S.iter().sum::<u64>() * 1000),
            used: true,
            query: None,
            ask: None,
            nhs,
            named: None,
            limit: None,
            covering: None,
            interim: None,
            pending: None,
        };
        self.shortcuts.insert(key, shortcut);
        self.ask(now, key);
    }

    /// An id that nobody can tell from those before: whoever was asked for something of its own must not be able to
    /// answer the next question, to somebody else, as well.
    pub(crate) fn secret_id(&mut self) -> u32 {
        loop {
            let id = self.rng.next() as u32;
            if !self.asks.contains_key(&id) && !self.answered.contains(&id) {
                return id;
            }
        }
    }

    /// Sends a request for a shortcut: a new one, or (same id) the one under way again.
    fn ask(&mut self, now: Time, key: IpNet) {
        let Some(ask) = self.shortcuts.get(key).map(|shortcut| shortcut.ask) else { return };
        let (id, tries) = ask.map_or_else(|| (self.secret_id(), 0), |ask| (ask.id, ask.tries));
        let Some(shortcut) = self.shortcuts.get_mut(key) else { return };
        let wait = RETRY_S.get(tries).copied().unwrap_or(7) * 1000;
        shortcut.ask = Some(Ask { id, tries: tries + 1, next: now.after(wait) });
        let (asked, mut nhs) = (shortcut.asked, shortcut.nhs);
        if tries == 0 {
            self.asks.insert(id, key);
            // The one that was asked before may be silent by now.
            nhs = self.serving_nhs(nhs, asked);
            if let Some(shortcut) = self.shortcuts.get_mut(key) {
                shortcut.nhs = nhs;
            }
        }
        self.timers.arm(TimerKey::Shortcut(key), now.after(wait));
        let Some(local) = self.local_like(asked) else { return };
        let Some(mut header) = self.header(PacketType::ResolutionRequest, id, local, asked) else { return };
        header.flags = flags::ROUTER | flags::AUTHORITATIVE | flags::SOURCE_STABLE | flags::NAT;
        let host = if local.is_ipv4() { 32 } else { 128 };
        let own = Cie {
            prefix_len: host,
            mtu: self.config.mtu,
            holding_time: self.config.holding_time,
            ..Cie::default()
        };
        let builder = self.request_extensions(Builder::new(&header).cie(&own));
        let builder = match self.public_nbma(local) {
            Some(nbma) => {
                let public = Cie { prefix_len: host, nbma: Some(nbma), proto: Some(local), ..Cie::default() };
                builder.extension_cies(false, ext::NAT, &[public])
            }
            None => builder.extension(false, ext::NAT, &[]),
        };
        self.send(PacketType::ResolutionRequest, nhs, builder.finish());
    }

    /// The answer came: there is nothing more to ask, and a little more time.
    pub(crate) fn await_path(&mut self, key: IpNet, answer: Answer, until: Time) {
        let Some(shortcut) = self.shortcuts.get_mut(key) else { return };
        shortcut.ask = None;
        shortcut.pending = Some(answer);
        if shortcut.phase == ShortcutPhase::Incomplete {
            shortcut.expires = until;
            self.timers.arm(TimerKey::Shortcut(key), until);
        }
    }

    pub(crate) fn shortcut_up(&mut self, now: Time, key: IpNet, answer: &Answer) {
        let Answer { prefix, covering, via, nbma, .. } = *answer;
        let Some(old) = self.shortcuts.remove(key) else { return };
        self.timers.cancel(TimerKey::Shortcut(key));
        let hold = u64::from(answer.holding_time) * 1000;
        let expires = now.after(hold);
        let binding = Binding {
            holding_time: answer.holding_time,
            mtu: answer.mtu,
            ..Binding::new(nbma, Source::Resolved, now).for_host(None, expires)
        };
        // One of higher rank is as good: the route leads to where that one is.
        self.bind(now, via, binding);
        if let Some(binding) = self.bindings.get_mut(&via) {
            binding.users += 1;
        }
        let shortcut = Shortcut {
            asked: old.asked,
            phase: ShortcutPhase::Up,
            via: Some(via),
            reason: String::new(),
            made: if old.phase == ShortcutPhase::Up { old.made } else { now },
            expires,
            used: true,
            query: Some(now.after(hold * 2 / 3)),
            ask: None,
            nhs: old.nhs,
            // What is believed once is believed again.
            named: None,
            limit: Some(prefix),
            covering,
            interim: None,
            pending: None,
        };
        let query = now.after(hold * 2 / 3);
        let replaced = self.shortcuts.insert(prefix, shortcut);
        let same = |other: &Shortcut| other.phase == ShortcutPhase::Up && other.via == Some(via);
        let stands = match &replaced {
            Some(other) => same(other),
            None => key == prefix && same(&old),
        };
        if !stands {
            self.install_shortcut(prefix, via);
        }
        // What was there before goes after the new route is in: its own request, its use of an egress.
        if let Some(ask) = replaced.as_ref().and_then(|other| other.ask) {
            self.asks.remove(&ask.id);
        }
        if let Some(other) = replaced.and_then(|other| other.via) {
            self.release(now, other);
        }
        if let Some(other) = old.via {
            if key != prefix {
                self.remove_shortcut_route(key, other);
            }
            self.release(now, other);
        }
        self.timers.arm(TimerKey::Shortcut(prefix), query);
        self.failures.remove(&old.asked);
        if !(old.phase == ShortcutPhase::Up && stands) {
            let took_ms = now.since(old.made);
            let nbma = self.bindings.get(&via).map_or(nbma, |binding| binding.nbma);
            self.event(Event::ShortcutUp { prefix, via, nbma, took_ms });
        }
    }

    fn install_shortcut(&mut self, prefix: IpNet, via: IpAddr) {
        // The egress's own host route does it all if nothing but the egress is meant.
        if prefix != IpNet::from(via) {
            let link = self.config.link;
            self.outputs.push_back(Output::InstallRoute { link, prefix, via, kind: RouteKind::Shortcut });
        }
    }

    fn remove_shortcut_route(&mut self, prefix: IpNet, via: IpAddr) {
        if prefix != IpNet::from(via) {
            let link = self.config.link;
            self.outputs.push_back(Output::RemoveRoute { link, prefix, kind: RouteKind::Shortcut });
        }
    }

    /// One shortcut less leads to this egress; the last one takes the binding along.
    fn release(&mut self, now: Time, via: IpAddr) {
        let Some(binding) = self.bindings.get_mut(&via) else { return };
        binding.users = binding.users.saturating_sub(1);
        if binding.users == 0 && binding.source == Source::Resolved {
            self.unbind(now, via);
        }
    }

    /// Ends a shortcut in any state; traffic goes by the hub again.
    pub(crate) fn shortcut_down(&mut self, now: Time, key: IpNet, reason: &str) {
        let Some(shortcut) = self.shortcuts.remove(key) else { return };
        self.timers.cancel(TimerKey::Shortcut(key));
        if let Some(ask) = shortcut.ask {
            self.asks.remove(&ask.id);
        }
        if let Some(via) = shortcut.via {
            self.remove_shortcut_route(key, via);
            self.release(now, via);
            self.event(Event::ShortcutDown { prefix: key, reason: reason.into() });
        } else if shortcut.interim.is_some() && !self.bindings.contains_key(&shortcut.asked) {
            let link = self.config.link;
            self.outputs.push_back(Output::RemoveNeighbour { link, overlay: shortcut.asked });
        }
    }

    /// The request failed: traffic stays on the hub's path, and nobody asks again for a while.
    pub(crate) fn negative(&mut self, now: Time, key: IpNet, reason: String) {
        let Some(asked) = self.shortcuts.get(key).map(|shortcut| shortcut.asked) else { return };
        let count = self.failures.get(&asked).map_or(0, |failures| failures.count);
        let wait = (BACKOFF_MS << count.min(8)).min(BACKOFF_MAX_MS);
        let expires = now.after(wait);
        if self.failures.len() < TABLE_BOUND || count > 0 {
            let failures = Failures { count: count + 1, forget: expires.after(BACKOFF_MAX_MS) };
            self.failures.insert(asked, failures);
            self.sweep_soon(now);
        }
        self.negative_until(now, key, reason, expires);
    }

    /// As [`Self::negative`], for a time that somebody else has set.
    pub(crate) fn negative_until(&mut self, now: Time, key: IpNet, reason: String, expires: Time) {
        let Some(shortcut) = self.shortcuts.get(key) else { return };
        let (asked, nhs, made, interim) = (shortcut.asked, shortcut.nhs, shortcut.made, shortcut.interim);
        // Gives up the route first, if there was one.
        self.shortcut_silently_down(now, key);
        let prefix = IpNet::from(asked);
        self.event(Event::ShortcutDown { prefix, reason: reason.clone() });
        let shortcut = Shortcut {
            asked,
            phase: ShortcutPhase::Negative,
            via: None,
            reason,
            made,
            expires,
            used: false,
            query: None,
            ask: None,
            nhs,
            named: None,
            limit: None,
            covering: None,
            interim,
            pending: None,
        };
        self.shortcuts.insert(prefix, shortcut);
        self.timers.arm(TimerKey::Shortcut(prefix), expires);
    }

    fn shortcut_silently_down(&mut self, now: Time, key: IpNet) {
        let Some(shortcut) = self.shortcuts.remove(key) else { return };
        self.timers.cancel(TimerKey::Shortcut(key));
        if let Some(ask) = shortcut.ask {
            self.asks.remove(&ask.id);
        }
        if let Some(via) = shortcut.via {
            self.remove_shortcut_route(key, via);
            self.release(now, via);
        }
    }

    pub(crate) fn shortcut_due(&mut self, now: Time, key: IpNet) {
        let ends = self.enforced(Rule::ShortcutExpiry);
        let Some(shortcut) = self.shortcuts.get_mut(key) else { return };
        let next = shortcut.ask.map_or(shortcut.expires, |ask| ask.next.min(shortcut.expires));
        let next = shortcut.query.map_or(next, |query| query.min(next));
        if next > now {
            return self.timers.arm(TimerKey::Shortcut(key), next);
        }
        if shortcut.phase == ShortcutPhase::Up && shortcut.expires <= now && !ends {
            return;
        }
        let asked = shortcut.asked;
        match shortcut.phase {
            ShortcutPhase::Negative => self.shortcut_down(now, key, ""),
            ShortcutPhase::Incomplete => match shortcut.ask {
                Some(ask) if ask.tries < RETRY_S.len() => self.ask(now, key),
                _ => {
                    let reason = self.why_silent(asked);
                    self.negative(now, key, reason);
                }
            },
            ShortcutPhase::Up if shortcut.expires <= now => {
                let reason = if shortcut.used { "not renewed" } else { "not used" };
                self.shortcut_down(now, key, reason);
            }
            ShortcutPhase::Up => {
                if shortcut.query.is_some_and(|query| query <= now) {
                    shortcut.query = None;
                    // Unused until the shell says otherwise.
                    shortcut.used = false;
                    self.outputs.push_back(Output::QueryUse { prefix: key });
                } else if shortcut.ask.is_some_and(|ask| ask.tries < RETRY_S.len()) {
                    return self.ask(now, key);
                } else if let Some(ask) = shortcut.ask.take() {
                    self.asks.remove(&ask.id);
                }
                let Some(shortcut) = self.shortcuts.get(key) else { return };
                let next = shortcut.ask.map_or(shortcut.expires, |ask| ask.next.min(shortcut.expires));
                self.timers.arm(TimerKey::Shortcut(key), next);
            }
        }
    }

    /// A renewal that an NHS refuses because it knows no such member: it may be one that we moved to before the member
    /// did. A way that answers us is not given up for that; the NHS is asked again while there is time. Who is gone
    /// answers no question, and is purged.
    pub(crate) fn outlasts_refusal(&mut self, now: Time, key: IpNet, from: IpAddr) -> bool {
        let Some(shortcut) = self.shortcuts.get(key).filter(|it| it.phase == ShortcutPhase::Up) else {
            return false;
        };
        let answers = shortcut.via.is_some_and(|via| self.path_answers(via));
        if from != shortcut.nhs || !answers {
            return false;
        }
        if let Some(ask) = shortcut.ask {
            self.asks.remove(&ask.id);
            self.answer_taken(ask.id);
        }
        let Some(shortcut) = self.shortcuts.get_mut(key) else { return false };
        shortcut.ask = None;
        let wait = (shortcut.expires.since(now) / 4).max(AGAIN_MS);
        let next = now.after(wait).min(shortcut.expires);
        shortcut.query = (next < shortcut.expires).then_some(next);
        self.timers.arm(TimerKey::Shortcut(key), next);
        true
    }

    fn why_silent(&self, asked: IpAddr) -> String {
        match self.local_like(asked).and_then(|local| self.public_nbma(local)) {
            Some(public) => format!("no answer: we are behind NAT at {public}, where nobody gets in"),
            None => "no answer".into(),
        }
    }

    /// The shell's answer to a question about use: what is used is renewed.
    pub(crate) fn shortcut_use(&mut self, now: Time, prefix: IpNet, used: bool) {
        let Some(shortcut) = self.shortcuts.get_mut(prefix) else { return };
        if shortcut.phase != ShortcutPhase::Up {
            return;
        }
        shortcut.used = used;
        if used && shortcut.query.is_none() && shortcut.ask.is_none() && !self.withdrawing {
            self.ask(now, prefix);
        }
    }

    /// The binding of `via` goes: so do the shortcuts that lead there.
    pub(crate) fn shortcuts_via_gone(&mut self, now: Time, via: IpAddr, reason: &str) {
        let gone: Vec<_> =
            self.shortcuts.iter().filter(|(_, it)| it.via == Some(via)).map(|(net, _)| net).collect();
        // The caller removes the binding: it must not go with the last shortcut.
        if let Some(binding) = self.bindings.get_mut(&via) {
            binding.users += 1;
        }
        gone.into_iter().for_each(|net| self.shortcut_down(now, net, reason));
    }

    /// Shortcuts whose route by the hub is gone go too, unless another one covers them.
    pub(crate) fn recheck_coverings(&mut self, now: Time) {
        let lost = |shortcut: &Shortcut| {
            let covering = shortcut.covering?;
            (self.announced.get(covering).is_none() && self.prefixes.get(covering).is_none()).then_some(())
        };
        let lost: Vec<_> = self.shortcuts.iter().filter_map(|(net, it)| lost(it).map(|()| net)).collect();
        for net in lost {
            let announced = self.announced.covering(net).map(|(prefix, _)| prefix);
            match announced {
                Some(covering) => {
                    if let Some(shortcut) = self.shortcuts.get_mut(net) {
                        shortcut.covering = Some(covering);
                    }
                }
                None => self.shortcut_down(now, net, "the route by the hub is gone"),
            }
        }
    }

    /// Puts a shortcut from before a restart back.
    pub(crate) fn resume_shortcut(&mut self, now: Time, shortcut: Resumed) {
        let Resumed { prefix, via, made, expires, nhs, used } = shortcut;
        let Some(binding) = self.bindings.get_mut(&via) else { return };
        binding.users += 1;
        let covering = self.announced.covering(prefix).map(|(prefix, _)| prefix);
        let left = expires.since(now);
        let query = now.after(left / 3);
        let asked = prefix.addr();
        let shortcut = Shortcut {
            asked,
            phase: ShortcutPhase::Up,
            via: Some(via),
            reason: String::new(),
            made,
            expires,
            used,
            query: Some(query),
            ask: None,
            nhs,
            named: None,
            limit: Some(prefix),
            covering,
            interim: None,
            pending: None,
        };
        self.shortcuts.insert(prefix, shortcut);
        self.timers.arm(TimerKey::Shortcut(prefix), query);
        self.install_shortcut(prefix, via);
        self.resume_path(now, via);
    }

    /// Puts all routes of shortcuts out again (the link changed).
    pub(crate) fn reinstall_shortcuts(&mut self) {
        let up: Vec<_> = self.shortcuts.iter().filter_map(|(net, it)| Some((net, it.via?))).collect();
        up.into_iter().for_each(|(net, via)| self.install_shortcut(net, via));
        self.reinstall_interims();
    }
}

/// A shortcut as a snapshot has it.
pub(crate) struct Resumed {
    pub(crate) prefix: IpNet,
    pub(crate) via: IpAddr,
    pub(crate) made: Time,
    pub(crate) expires: Time,
    pub(crate) nhs: IpAddr,
    pub(crate) used: bool,
}
