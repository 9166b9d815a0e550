//! Who is at the other ends of a protected tunnel, as the IKE daemon says.

use nhrp::{Event, Input, LinkId, Origin, Time};

use super::Tunnel;

impl Tunnel {
    /// Tells the engine who is authenticated where. While the daemon is away that is as it was.
    pub fn identify(&mut self, now: Time) {
        if self.sas.away.is_some() {
            return;
        }
        let Some(engine) = self.engine.as_mut().filter(|engine| engine.has_members()) else { return };
        let none = std::collections::BTreeMap::new();
        let known = self.sas.identities.get(&self.spec.network).unwrap_or(&none);
        for (nbma, identities) in self.guarded.introduce(known) {
            engine.handle_input(now, Input::Identities { nbma, identities });
        }
        self.ponder(now);
    }

    /// Hands the engine packets whose senders are known by now.
    pub fn ponder(&mut self, now: Time) {
        let Some(engine) = &mut self.engine else { return };
        let link = LinkId(self.link);
        for (nbma, packet) in self.guarded.pondered(now) {
            engine.handle_packet(now, Origin { link, nbma }, &packet);
        }
    }
}

/// What was refused is borne in mind for so long, in milliseconds, …
const REFUSED_MS: u64 = 600_000;
/// … and so many at most, the latest.
const REFUSALS: usize = 3;

impl Tunnel {
    /// Notes that somebody was refused what is not his.
    pub(super) fn note_refused(&mut self, now: Time, event: &Event) {
        let named = matches!(event, Event::RegistrationRefused { .. } | Event::PrefixRefused { .. });
        if !named || self.spec.ipsec.is_none() {
            return;
        }
        let text = event.to_string();
        self.refused_lately.retain(|(at, it)| *it != text && now.since(*at) < REFUSED_MS);
        self.refused_lately.push_back((now, text));
        if self.refused_lately.len() > REFUSALS {
            self.refused_lately.pop_front();
        }
    }

    /// What is to be borne in mind of it now: how it is configured, and who was refused lately.
    pub fn remarks(&self, now: Time) -> String {
        let refused = self.refused_lately.iter().filter(|(at, _)| now.since(*at) < REFUSED_MS);
        let own = (!self.remark.is_empty()).then_some(&self.remark);
        let all: Vec<_> = own.into_iter().chain(refused.map(|(_, text)| text)).cloned().collect();
        all.join("; ")
    }
}
