//! Overlay host → NBMA address: who wins, what is installed for it, and who was told of it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::requesters::Requesters;
use super::snapshot::Source;
use super::timers::{TimerKey, Timers};
use super::{Engine, Event, Output, RouteKind, Rule, Time};
use crate::wire::Software;

/// One binding. Local ones (our own addresses) are in the table for their requesters; nothing is installed for them.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub(crate) nbma: IpAddr,
    pub(crate) source: Source,
    pub(crate) unique: bool,
    pub(crate) made: Time,
    /// [`NEVER`], or when it ends.
    pub(super) expires: Time,
    /// When its timer fires; [`NEVER`] if it has none.
    pub(super) timer: Time,
    /// Seconds, as told to us.
    pub(crate) holding_time: u16,
    pub(crate) mtu: u16,
    /// It knows our prefix extension.
    pub(crate) extended: bool,
    /// What it says of itself.
    pub(crate) software: Option<Software>,
    /// Shortcuts that lead to it.
    pub(crate) users: u32,
    pub(super) more: Option<Box<More>>,
}

/// A binding's timer fires this early at the latest, in milliseconds: those of bindings that are gone, or end sooner by now,
/// stay in the heap until then, and clients say how long a binding holds.
const LOOK_MS: u64 = 60_000;

/// No time at all.
const NEVER: Time = Time(u64::MAX);

/// What few bindings of a hub with many have.
#[derive(Clone, Debug, Default)]
pub(super) struct More {
    /// What the host itself claims, if different (NAT).
    claimed: Option<IpAddr>,
    /// Its own list, as installed, and what of it was refused.
    prefixes: Vec<IpNet>,
    refused: Vec<IpNet>,
    requesters: Requesters,
    /// Its bandwidth class.
    group: Option<Box<str>>,
}

impl Binding {
    pub(crate) fn new(nbma: IpAddr, source: Source, now: Time) -> Self {
        Self {
            nbma,
            source,
            unique: false,
            made: now,
            expires: NEVER,
            timer: NEVER,
            holding_time: 0,
            mtu: 0,
            extended: false,
            software: None,
            users: 0,
            more: None,
        }
    }

    /// The same for a host that claims another NBMA address, and until then.
    pub(crate) fn for_host(self, claimed: Option<IpAddr>, expires: Time) -> Self {
        let mut binding = Self { expires, ..self };
        binding.set_claimed(claimed);
        binding
    }

    /// When it ends.
    pub(crate) fn expires(&self) -> Option<Time> {
        Some(self.expires).filter(|at| *at != NEVER)
    }

    /// It ends at another time, and its timer fires then or earlier: putting it off costs nothing.
    pub(crate) fn expire_at(&mut self, now: Time, expires: Time, overlay: IpAddr, timers: &mut Timers) {
        self.expires = expires;
        if expires < self.timer {
            self.timer = expires.min(now.after(LOOK_MS));
            timers.put(TimerKey::Binding(overlay), self.timer);
        }
    }

    /// What the host itself claims, if different (NAT).
    pub(crate) fn claimed(&self) -> Option<IpAddr> {
        self.more.as_ref()?.claimed
    }

    /// The host claims another address, or none.
    pub(crate) fn set_claimed(&mut self, claimed: Option<IpAddr>) {
        if self.claimed() != claimed {
            self.change(|more| more.claimed = claimed);
        }
    }

    /// Its own list, as installed.
    pub(crate) fn prefixes(&self) -> &[IpNet] {
        self.more.as_ref().map_or(&[], |more| &more.prefixes)
    }

    /// What of its own list was refused.
    pub(crate) fn refused(&self) -> &[IpNet] {
        self.more.as_ref().map_or(&[], |more| &more.refused)
    }

    /// Its bandwidth class.
    pub(crate) fn group(&self) -> Option<&str> {
        self.more.as_ref()?.group.as_deref()
    }

    /// It is of another bandwidth class, or of none.
    pub(crate) fn set_group(&mut self, group: Option<&str>) {
        self.change(|more| more.group = group.map(Into::into));
    }

    /// Who was told of it.
    pub(crate) fn requesters(&self) -> Option<&Requesters> {
        self.more.as_ref().map(|more| &more.requesters)
    }

    /// Changes who was told of it.
    pub(crate) fn change_requesters<T>(&mut self, change: impl FnOnce(&mut Requesters) -> T) -> T {
        self.change(|more| change(&mut more.requesters))
    }

    /// Changes what few bindings have; lets go of it when nothing is left.
    fn change<T>(&mut self, change: impl FnOnce(&mut More) -> T) -> T {
        let more = self.more.get_or_insert_default();
        let out = change(more);
        let lists = more.prefixes.is_empty() && more.refused.is_empty();
        if lists && more.claimed.is_none() && more.requesters.len() == 0 && more.group.is_none() {
            self.more = None;
        }
        out
    }

    /// Another list of its own: what is installed of it, and what was refused.
    pub(crate) fn set_lists(&mut self, prefixes: Vec<IpNet>, refused: Vec<IpNet>) {
        if self.more.is_some() || !prefixes.is_empty() || !refused.is_empty() {
            self.change(|more| (more.prefixes, more.refused) = (prefixes, refused));
        }
    }

    /// One of its prefixes is not installed any more, but refused.
    pub(crate) fn refuse(&mut self, prefix: IpNet) {
        self.change(|more| {
            more.prefixes.retain(|net| *net != prefix);
            more.refused.push(prefix);
        });
    }

    /// Forgets its own list; gives what was installed.
    pub(crate) fn take_prefixes(&mut self) -> Vec<IpNet> {
        if self.more.is_none() {
            return Vec::new();
        }
        self.change(|more| {
            more.refused = Vec::new();
            std::mem::take(&mut more.prefixes)
        })
    }
}

/// An underlay address that bindings lead to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct End {
    bindings: u32,
    /// How many of them are registrations.
    registered: u32,
}

/// Where a binding leads to, if not to ourselves, and whether it is a registration.
fn end_of(binding: &Binding) -> Option<(IpAddr, bool)> {
    (binding.source != Source::Local).then_some((binding.nbma, binding.source == Source::Registered))
}

impl Engine {
    /// Puts a binding into the table and installs neighbour and host route, unless one of higher rank is there.
    /// Says whether it is in force. What was known of the same binding before (requesters, users) is kept.
    pub(crate) fn bind(&mut self, now: Time, overlay: IpAddr, mut binding: Binding) -> bool {
        let ranked = self.enforced(Rule::Precedence);
        if let Some(old) = self.bindings.get_mut(&overlay) {
            if old.source < binding.source && ranked {
                return false;
            }
            binding.users = old.users;
            binding.timer = old.timer;
            // The shell was told of its class, and knows the host by its address: whoever has that now says another.
            let claimed = binding.claimed();
            binding.more = old.more.take();
            binding.set_claimed(claimed);
            if old.source == binding.source {
                binding.made = old.made;
                binding.expires = binding.expires().unwrap_or(old.expires);
                binding.extended |= old.extended;
                binding.software = binding.software.or(old.software);
            } else {
                binding.set_lists(Vec::new(), Vec::new());
                if binding.group().is_some() {
                    // What it said holds no longer than it would have, if it says no more.
                    binding.expires = binding.expires().unwrap_or(old.expires);
                }
            }
        }
        let installed =
            self.bindings.get(&overlay).filter(|old| old.source != Source::Local).map(|old| old.nbma);
        let install = binding.source != Source::Local && installed != Some(binding.nbma);
        let (nbma, source) = (binding.nbma, binding.source);
        let told = |source| matches!(source, Source::Registered | Source::Static);
        let was_told = self.bindings.get(&overlay).is_some_and(|old| told(old.source));
        self.note_nat(overlay, &binding);
        let end = end_of(&binding);
        let before = self.bindings.insert(overlay, binding);
        self.wake_binding(now, overlay);
        if let Some(old) = before.as_ref().filter(|old| old.source != Source::Local && old.nbma != nbma) {
            self.forget_nat(overlay, old);
        }
        self.end_moved(before.as_ref().and_then(end_of), end);
        self.host_listed(now);
        if install {
            // What led to the hub meanwhile leads there now, and goes with the binding.
            if let Some(shortcut) = self.shortcuts.get_mut(IpNet::from(overlay)) {
                shortcut.interim = None;
            }
            self.clear_way_to(now, nbma);
            self.install_host(overlay, nbma, installed.is_none());
        }
        if installed.is_none() {
            self.externals_of(now, overlay);
        }
        if !was_told {
            self.host_changed(now, source);
        }
        true
    }

    /// Keeps count of the underlay addresses that bindings lead to, and of the registrations among them.
    fn end_moved(&mut self, from: Option<(IpAddr, bool)>, to: Option<(IpAddr, bool)>) {
        if from == to {
            return;
        }
        if let Some((to, registered)) = to {
            let end = self.ends.entry(to).or_default();
            end.bindings += 1;
            end.registered += u32::from(registered);
        }
        let Some((from, registered)) = from else { return };
        let Some(end) = self.ends.get_mut(&from) else { return };
        end.bindings -= 1;
        end.registered -= u32::from(registered);
        if end.bindings == 0 {
            self.ends.remove(&from);
        }
    }

    /// Makes sure that a binding's timer fires when it ends, or earlier.
    fn wake_binding(&mut self, now: Time, overlay: IpAddr) {
        let Some(binding) = self.bindings.get_mut(&overlay) else { return };
        binding.expire_at(now, binding.expires, overlay, &mut self.timers);
    }

    /// Neighbour first, so that the route never leads to an unknown neighbour.
    pub(crate) fn install_host(&mut self, overlay: IpAddr, nbma: IpAddr, route: bool) {
        let link = self.config.link;
        self.outputs.push_back(Output::InstallNeighbour { link, overlay, nbma });
        if route {
            let prefix = IpNet::from(overlay);
            self.outputs.push_back(Output::InstallRoute {
                link,
                prefix,
                via: overlay,
                kind: RouteKind::Host,
            });
        }
    }

    /// Takes a binding and all that rests on it away, in the order that leaves no route to nowhere, and tells those
    /// who were told of it.
    pub(crate) fn unbind(&mut self, now: Time, overlay: IpAddr) {
        let Some(binding) = self.bindings.get(&overlay) else { return };
        let source = binding.source;
        if binding.users > 0 {
            self.shortcuts_via_gone(now, overlay, "the egress is gone");
        }
        self.release_prefixes(now, overlay);
        let told = self.take_requesters(overlay, |_| true);
        let Some(binding) = self.bindings.remove(&overlay) else { return };
        self.end_moved(end_of(&binding), None);
        self.forget_nat(overlay, &binding);
        self.forget_push(overlay);
        self.host_listed(now);
        if source != Source::Local {
            let link = self.config.link;
            let prefix = IpNet::from(overlay);
            self.outputs.push_back(Output::RemoveRoute { link, prefix, kind: RouteKind::Host });
            self.outputs.push_back(Output::RemoveNeighbour { link, overlay });
        }
        self.host_changed(now, source);
        self.purge_requesters(now, overlay, &told);
    }

    /// How many registrations are held from this underlay address.
    pub(crate) fn registered_at(&self, nbma: IpAddr) -> u32 {
        self.ends.get(&nbma).map_or(0, |end| end.registered)
    }

    /// A binding's holding time may be over; this is its timer if it says the same time.
    pub(crate) fn binding_due(&mut self, now: Time, overlay: IpAddr, armed: Time) {
        let kept = !self.enforced(Rule::Expiry);
        let Some(binding) = self.bindings.get_mut(&overlay).filter(|it| it.timer == armed) else { return };
        binding.timer = NEVER;
        if binding.expires > now {
            return self.wake_binding(now, overlay);
        }
        if kept {
            return;
        }
        let nbma = binding.nbma;
        if binding.source < Source::Registered {
            return self.announcements_due(now, overlay);
        }
        if binding.source == Source::Registered {
            self.event(Event::Expired { overlay, nbma });
        } else if binding.users > 0 {
            // Shortcuts have their own time, and take it along when the last one goes.
            return;
        }
        self.unbind(now, overlay);
    }

    /// A configured peer that registers no longer does: what it announced goes, the binding stays.
    fn announcements_due(&mut self, now: Time, overlay: IpAddr) {
        let Some(binding) = self.bindings.get_mut(&overlay) else { return };
        binding.expires = NEVER;
        binding.holding_time = 0;
        let announced = std::mem::take(&mut binding.extended);
        self.set_group(now, overlay, None);
        if announced {
            self.forget_push(overlay);
            let configured = self.config.statics.iter().find(|it| it.overlay == overlay);
            let configured = configured.map(|it| it.prefixes.iter().map(IpNet::trunc).collect::<Vec<_>>());
            self.set_prefixes(now, overlay, &configured.unwrap_or_default());
        }
    }
}
