//! Several spokes behind one NAT address: GRE has no ports, so without IPsec neither the NAT nor we can tell apart
//! what is for one of them and what for the other. The first that registers stays, the others are refused by name:
//! served, they would take the address from each other with every packet.

use std::net::IpAddr;

use super::Engine;
use super::bindings::Binding;
use super::snapshot::Source;

impl Engine {
    /// Who else is registered behind the NAT address `from`; the same host with another overlay address (it claims the
    /// same NBMA address) is nobody else.
    pub(crate) fn shares_nat(&self, claim: IpAddr, claimed: IpAddr, from: IpAddr) -> Option<IpAddr> {
        if claimed == from {
            return None;
        }
        let first = *self.natted.get(&from)?;
        let binding = self.bindings.get(&first).filter(|_| first != claim)?;
        (behind_nat(binding) && binding.nbma == from && binding.claimed() != Some(claimed)).then_some(first)
    }

    /// Notes who is first behind a NAT address.
    pub(crate) fn note_nat(&mut self, overlay: IpAddr, binding: &Binding) {
        if behind_nat(binding) {
            self.natted.entry(binding.nbma).or_insert(overlay);
        }
    }

    /// The binding goes, or moves to another NBMA address.
    pub(crate) fn forget_nat(&mut self, overlay: IpAddr, binding: &Binding) {
        if behind_nat(binding) && self.natted.get(&binding.nbma) == Some(&overlay) {
            self.natted.remove(&binding.nbma);
        }
    }
}

fn behind_nat(binding: &Binding) -> bool {
    binding.source == Source::Registered && binding.claimed().is_some()
}
