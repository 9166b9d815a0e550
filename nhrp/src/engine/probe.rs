//! Who really holds an address: without IPsec the only witness is the old NBMA address itself.
//!
//! When another NBMA address claims a registered overlay address, the old one is asked three times within a second
//! (a Resolution Request for that address, which every client answers). An answer: the claim is refused with code
//! 14, and so are others for a while. Silence: the address moves, and the claim that waited is dealt with at once.

use std::net::IpAddr;

use super::timers::TimerKey;
use super::{DropReason, Engine, Received, Time};
use crate::wire::{Packet, PacketType};

const PROBES: u32 = 3;
const PROBE_INTERVAL_MS: u64 = 333;
/// An answer counts for this long.
const ALIVE_MS: u64 = 10_000;
/// Addresses that can be looked into at the same time: in all, and for one claimant.
const PROBE_BOUND: usize = 1024;
const CLAIMANT_BOUND: usize = 32;

/// A claim that waits for the old holder.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    /// Where the binding is.
    holder: IpAddr,
    request_id: u32,
    sent: u32,
    next: Time,
    verdict: Option<bool>,
    /// The claim: where it came from and what it was, to be dealt with when the verdict is there.
    claimant: IpAddr,
    secret: Option<usize>,
    claim: Vec<u8>,
}

impl Engine {
    /// What is known of the old holder of an address: it answered, it is silent, or (`None`) it has to be asked. That
    /// it answered a thief's claim says nothing about one from elsewhere: the holder may have moved there since.
    pub(crate) fn probed(
        &self,
        now: Time,
        overlay: IpAddr,
        holder: IpAddr,
        claimant: IpAddr,
    ) -> Option<bool> {
        let probe = self.probes.get(&overlay).filter(|probe| probe.holder == holder)?;
        match probe.verdict {
            Some(true) if probe.next <= now || probe.claimant != claimant => None,
            verdict => verdict,
        }
    }

    /// Starts to ask the old holder; a claim that waits already is replaced by the later one.
    pub(crate) fn probe(&mut self, now: Time, overlay: IpAddr, received: &Received<'_>) {
        let Some(holder) = self.bindings.get(&overlay).map(|binding| binding.nbma) else { return };
        let running = self.probes.get_mut(&overlay).filter(|it| it.holder == holder && it.verdict.is_none());
        if let Some(probe) = running {
            // The first who claimed stays first: whoever comes second is heard when the address has a new holder.
            if probe.claimant == received.from {
                probe.claim = received.packet.as_bytes().to_vec();
            }
            return;
        }
        // Nobody takes the places of all others; those who were found alive give theirs up first.
        let own = self.probes.values().filter(|it| it.claimant == received.from).count();
        if own < CLAIMANT_BOUND && self.probes.len() >= PROBE_BOUND {
            let alive =
                self.probes.iter().filter(|(_, it)| it.verdict.is_some()).map(|(overlay, _)| *overlay);
            if let Some(overlay) = alive.min() {
                self.probes.remove(&overlay);
            }
        }
        if own >= CLAIMANT_BOUND || self.probes.len() >= PROBE_BOUND {
            return self.drop(now, DropReason::TableFull, Some(received.from));
        }
        let request_id = self.new_id();
        let probe = Probe {
            holder,
            request_id,
            sent: 0,
            next: now,
            verdict: None,
            claimant: received.from,
            secret: received.secret,
            claim: received.packet.as_bytes().to_vec(),
        };
        self.probes.insert(overlay, probe);
        self.probe_due(now, overlay);
    }

    pub(crate) fn probe_due(&mut self, now: Time, overlay: IpAddr) {
        let Some(probe) = self.probes.get_mut(&overlay) else { return };
        if probe.next > now {
            let next = probe.next;
            return self.timers.arm(TimerKey::Probe(overlay), next);
        }
        if probe.verdict.is_some() {
            self.probes.remove(&overlay);
            return;
        }
        if probe.sent == PROBES {
            probe.verdict = Some(false);
            // Until the claim below is dealt with; the acceptance removes the probe.
            probe.next = now;
            return self.decide(now, overlay);
        }
        probe.sent += 1;
        probe.next = now.after(PROBE_INTERVAL_MS);
        let (next, id, holder) = (probe.next, probe.request_id, probe.holder);
        self.timers.arm(TimerKey::Probe(overlay), next);
        let Some(bytes) = self.question(id, overlay, false) else { return };
        self.send(PacketType::ResolutionRequest, holder, bytes);
    }

    /// A Resolution Reply may be the answer to a probe; says whether it was.
    pub(crate) fn probe_answered(&mut self, now: Time, received: &Received<'_>) -> bool {
        let header = received.header();
        let overlay = header.dst_proto;
        let Some(probe) = self.probes.get_mut(&overlay) else { return false };
        if probe.request_id != header.request_id || probe.verdict.is_some() {
            return false;
        }
        if probe.holder != received.from {
            self.drop(now, DropReason::WrongSender, Some(received.from));
            return true;
        }
        // "No such binding" is an answer too, but not that of the holder.
        if !received.packet.cies().any(|cie| cie.code == 0) {
            return true;
        }
        probe.verdict = Some(true);
        probe.next = now.after(ALIVE_MS);
        let next = probe.next;
        self.timers.arm(TimerKey::Probe(overlay), next);
        self.decide(now, overlay);
        true
    }

    /// Deals with the claim that waited.
    fn decide(&mut self, now: Time, overlay: IpAddr) {
        let Some(probe) = self.probes.get_mut(&overlay) else { return };
        let claim = std::mem::take(&mut probe.claim);
        let (claimant, secret, silent) = (probe.claimant, probe.secret, probe.verdict == Some(false));
        if let Ok(packet) = Packet::parse(&claim) {
            self.registration_request(now, &Received { packet: &packet, from: claimant, secret });
        }
        if silent {
            self.probes.remove(&overlay);
        }
    }
}
