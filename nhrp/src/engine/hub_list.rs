//! What a hub tells its clients of the network's hubs, and what it means for itself to hand its clients on.

use std::net::IpAddr;

use super::snapshot::Source;
use super::{Engine, Time};
use crate::wire::{HUBS_HEADER, HubChunk, HubEntry, HubNbma, hub_flags};

/// Type and length of the extension, and End after it.
pub(crate) const FRAME: usize = 8;

impl Engine {
    /// The answer to what a client says of the list that it holds: `None` if there is nothing to tell. `used` bytes of
    /// the packet are taken.
    pub(crate) fn hub_list_reply(&self, held: &[u8], used: usize) -> Option<HubChunk> {
        let held = HubChunk::decode(held).ok()?;
        let notice = self.hub_list_notice()?;
        let goes_on = held.generation == notice.generation;
        if goes_on && !held.has(hub_flags::WANT) {
            return Some(notice);
        }
        let first = if goes_on { held.first } else { 0 };
        let mut left = usize::from(self.config.mtu.max(576)).saturating_sub(used + FRAME + HUBS_HEADER);
        let rest = self.config.hub_list.get(usize::from(first)..).unwrap_or(&[]);
        let mut entries = Vec::new();
        for entry in rest {
            let length = entry.length();
            if length > left {
                break;
            }
            left -= length;
            entries.push(entry.clone());
        }
        let more = if entries.len() < rest.len() { hub_flags::MORE } else { 0 };
        Some(HubChunk { flags: notice.flags | more, first, entries, ..notice })
    }

    /// Which list there is, without its entries.
    pub(crate) fn hub_list_notice(&self) -> Option<HubChunk> {
        let list = &self.config.hub_list;
        let generation = HubEntry::generation(list);
        let notice = HubChunk { flags: hub_flags::TOLD, generation, ..HubChunk::default() };
        (!list.is_empty()).then_some(notice)
    }

    /// Clients hear that there is another list: with their prefixes.
    pub(crate) fn hub_list_changed(&mut self, now: Time) {
        self.vacate_hubs(now);
        self.announcer.generation = self.announcer.generation.wrapping_add(1);
        self.list_changed(now);
    }

    /// The hub of the network that has this overlay address, if it is not at `from`: nobody else may have the address
    /// of a hub that does not register with us. One that does may come from elsewhere (another uplink), and for one at
    /// a host name who knows its address? Those are treated as any spoke is.
    pub(crate) fn hub_elsewhere(&self, overlay: IpAddr, from: IpAddr) -> Option<&str> {
        let entry = self.config.hub_list.iter().find(|entry| entry.overlay.contains(&overlay))?;
        let child = self.config.child_hubs.iter().any(|hub| hub.overlay.contains(&overlay));
        let open = |place: &HubNbma| match place {
            HubNbma::Address(address) => *address == from,
            HubNbma::Name(_) => true,
        };
        (!child && !entry.nbma.iter().any(open)).then_some(&entry.name)
    }

    /// Those who took the address of a hub before it was known to be one lose it.
    fn vacate_hubs(&mut self, now: Time) {
        let entries = self.config.hub_list.iter().flat_map(|entry| &entry.overlay);
        let taken = entries.filter(|overlay| {
            let binding = self.bindings.get(*overlay).filter(|it| it.source == Source::Registered);
            binding.is_some_and(|it| self.hub_elsewhere(**overlay, it.nbma).is_some())
        });
        for overlay in taken.copied().collect::<Vec<_>>() {
            self.unbind(now, overlay);
        }
    }

    /// Whether this hub hands its clients on: it takes no new ones, as long as there is another hub for them.
    pub(crate) fn drains(&self) -> bool {
        let own = |entry: &&HubEntry| entry.overlay.iter().any(|address| self.is_local(*address));
        let list = &self.config.hub_list;
        list.iter().find(own).is_some_and(|entry| entry.draining) && list.iter().any(|entry| !entry.draining)
    }
}
