//! Groups that clients belong to (extension 0x3802): told with each registration, kept with the binding.
//!
//! A client says which bandwidth class it is of; only the names that the configuration knows mean something. Whoever
//! names another one is served as one without.

use std::net::IpAddr;

use super::{DropReason, Engine, Event, Output, Received, Time};
use crate::wire::{Groups, ext, group_kind};

impl Engine {
    /// What is told of ourselves when `local` is registered.
    pub(crate) fn own_groups(&self, local: IpAddr) -> Option<Groups> {
        let stated = self.config.own_groups.iter().find(|(address, _)| *address == local);
        let assigned = || {
            let ours = self.asks_for.iter().any(|ask| ask.assigned == Some(local));
            self.config.request.as_ref().filter(|_| ours)?.group.as_ref()
        };
        let qos = stated.map(|(_, group)| group).or_else(assigned)?;
        Some(Groups { entries: vec![(group_kind::QOS, qos.clone())] })
    }

    /// What a registration says of its sender's bandwidth class; a peer of another make says nothing.
    pub(crate) fn group_claimed(&mut self, now: Time, received: &Received<'_>) {
        let claimed = received.packet.extension(ext::GROUPS).and_then(|it| Groups::decode(it.value));
        let group = claimed.as_ref().and_then(|it| it.of(group_kind::QOS));
        self.set_group(now, received.header().src_proto, group);
    }

    pub(crate) fn set_group(&mut self, now: Time, overlay: IpAddr, group: Option<&str>) {
        let link = self.config.link;
        let Some(binding) = self.bindings.get_mut(&overlay) else { return };
        if binding.group() == group {
            return;
        }
        binding.set_group(group);
        self.outputs.push_back(Output::Group { link, overlay, group: group.map(str::to_owned) });
        self.check_group(now, overlay);
    }

    /// The configuration knows other groups than before.
    pub(crate) fn groups_changed(&mut self, now: Time) {
        let mut all: Vec<_> = self
            .bindings
            .iter()
            .filter(|(_, it)| it.group().is_some())
            .map(|(overlay, _)| *overlay)
            .collect();
        all.sort_unstable();
        all.into_iter().for_each(|overlay| self.check_group(now, overlay));
    }

    /// Says so if a client is of a group that nobody knows.
    fn check_group(&mut self, now: Time, overlay: IpAddr) {
        let Some(binding) = self.bindings.get(&overlay) else { return };
        let Some(group) = binding.group().filter(|it| !self.config.groups.contains(*it)) else {
            return;
        };
        let event = Event::GroupUnknown { overlay, nbma: binding.nbma, group: group.to_owned() };
        *self.counters.drops.entry(DropReason::UnknownGroup).or_insert(0) += 1;
        if self.groups_told.allow(now, overlay) {
            self.event(event);
        }
    }
}
