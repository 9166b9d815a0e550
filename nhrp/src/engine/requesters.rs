//! Who was told of a binding, and has to hear when it no longer holds (RFC 2332 §5.2.5).

use std::net::IpAddr;

use ipnet::IpNet;

use super::io::Time;
use super::{Engine, Map};

/// Requesters remembered a binding, and in all.
const BOUND: usize = 1 << 14;
const BOUND_IN_ALL: usize = 1 << 18;
/// Entries that are over are looked for from this many on.
const SWEEP_FROM: usize = 64;

/// Somebody who was told of a binding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Requester {
    /// Who asked, and for what.
    pub(crate) overlay: IpAddr,
    pub(crate) asked: IpAddr,
    /// Where the request came from.
    pub(crate) nbma: IpAddr,
    pub(crate) request_id: u32,
    /// What it was told about, or what covers the destination here.
    pub(crate) prefix: IpNet,
    pub(crate) until: Time,
}

/// The requesters of one binding; most bindings have none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requesters(Option<Box<Table>>);

#[derive(Clone, Debug, Default)]
struct Table {
    /// By who asked and for what.
    entries: Map<(IpAddr, IpAddr), Requester>,
    sweep_at: usize,
}

impl Requesters {
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |table| table.entries.len())
    }

    /// All of them, ordered by address.
    pub(crate) fn sorted(&self) -> Vec<Requester> {
        let mut all: Vec<_> = self.0.iter().flat_map(|table| table.entries.values().copied()).collect();
        all.sort_unstable_by_key(|it| (it.overlay, it.asked));
        all
    }

    /// Takes out those that fit, ordered by address.
    fn extract(&mut self, fits: impl Fn(&Requester) -> bool) -> Vec<Requester> {
        let Some(table) = &mut self.0 else { return Vec::new() };
        let mut out: Vec<_> = table.entries.extract_if(|_, it| fits(it)).map(|(_, it)| it).collect();
        if table.entries.is_empty() {
            self.0 = None;
        }
        out.sort_unstable_by_key(|it| (it.overlay, it.asked));
        out
    }

    /// Adds or renews one; whose time is over goes, and who ends first when there are too many.
    fn remember(&mut self, now: Time, requester: Requester, room: bool) {
        let table = self.0.get_or_insert_default();
        if table.entries.len() >= table.sweep_at.max(SWEEP_FROM) || !room {
            table.entries.retain(|_, it| it.until > now);
            table.sweep_at = 2 * table.entries.len();
        }
        let key = (requester.overlay, requester.asked);
        if (table.entries.len() >= BOUND || !room) && !table.entries.contains_key(&key) {
            let Some(first) = table.entries.values().min_by_key(|it| (it.until, it.overlay, it.asked)) else {
                self.0 = None;
                return;
            };
            table.entries.remove(&(first.overlay, first.asked));
        }
        table.entries.insert(key, requester);
    }
}

impl Engine {
    /// Remembers at the binding of `overlay` that somebody was told.
    pub(crate) fn remember(&mut self, now: Time, overlay: IpAddr, requester: Requester) {
        let room = self.told < BOUND_IN_ALL;
        let Some(binding) = self.bindings.get_mut(&overlay) else { return };
        let (before, after) = binding.change_requesters(|all| {
            let before = all.len();
            all.remember(now, requester, room);
            (before, all.len())
        });
        self.told = self.told.saturating_sub(before) + after;
    }

    /// Takes the requesters of `overlay` that fit: they are about to be told.
    pub(crate) fn take_requesters(
        &mut self,
        overlay: IpAddr,
        fits: impl Fn(&Requester) -> bool,
    ) -> Vec<Requester> {
        let binding = self.bindings.get_mut(&overlay).filter(|it| it.requesters().is_some());
        let out = binding.map(|it| it.change_requesters(|all| all.extract(fits))).unwrap_or_default();
        self.told = self.told.saturating_sub(out.len());
        out
    }
}
