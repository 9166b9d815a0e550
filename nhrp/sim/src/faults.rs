//! What happens to nodes and to the network.

use nhrp::{Input, Snapshot, Time, Uniqueness};

use crate::address::nbma;
use crate::node::Kernel;
use crate::plan::{LINK, Role, Weather};
use crate::world::{What, World};

/// After a change in calm weather all is as before within this time: probing 1 s, registration and list under 1 s,
/// purges; a registration that found its hub away may need a few seconds more.
const RECOVERY_MS: u64 = 12_000;

impl World {
    pub(crate) fn fault(&mut self) {
        if self.quiet.is_some() {
            return;
        }
        match self.plan.weather {
            Weather::Calm => {
                self.change_of_life();
                let next = self.rng.between(4000, 15_000);
                self.schedule(next, What::Fault);
            }
            Weather::Storm => {
                self.storm();
                let next = self.rng.between(500, 6000);
                self.schedule(next, What::Fault);
            }
        }
    }

    fn some_spoke(&mut self) -> Option<usize> {
        let there =
            |index: &usize| self.nodes[*index].role == Role::Spoke && self.nodes[*index].engine.is_some();
        let spokes: Vec<_> = (0..self.nodes.len()).filter(there).collect();
        self.rng.pick(&spokes)
    }

    fn anybody(&mut self) -> usize {
        self.rng.below(self.nodes.len() as u64) as usize
    }

    pub(crate) fn disturb(&mut self, index: usize, ms: u64) {
        let until = self.now.after(ms);
        let node = &mut self.nodes[index];
        node.disturbed = node.disturbed.max(until);
    }

    /// What operators and days do, without a fault of the network.
    fn change_of_life(&mut self) {
        let Some(spoke) = self.some_spoke() else { return };
        match self.rng.below(7) {
            // Nobody may notice that an agent restarts.
            0 | 1 => {
                let index = self.anybody();
                if self.nodes[index].role != Role::Hostile {
                    // Longer, and probes for the address would find nobody (see `probe` of the engine).
                    let down = self.rng.between(10, 500);
                    self.kill_soon(index, 0, down);
                }
            }
            2 => self.reboot(spoke),
            3 => self.leave(spoke),
            4 => {
                // A refusal with code 14 lasts until the old registration is over.
                let node = &self.nodes[spoke];
                let unique = node.config.unique && node.config.uniqueness == Uniqueness::Nbma;
                if !unique {
                    self.move_away(spoke);
                }
            }
            5 => self.toggle_lan(spoke),
            _ => self.change_hold(spoke),
        }
    }

    fn storm(&mut self) {
        let index = self.anybody();
        let other = self.anybody();
        match self.rng.below(12) {
            0..3 if index != other => {
                let ms = self.rng.between(1000, 40_000);
                let until = self.now.after(ms);
                self.note(|| format!("{index} and {other} do not reach each other for {ms} ms"));
                self.under.cut.insert((index.min(other), index.max(other)), until);
            }
            3 | 4 => {
                let (later, down) = (self.rng.below(2000), self.rng.below(20_000));
                self.kill_soon(index, later, down);
            }
            5 => self.reboot(index),
            6 if self.nodes[index].role == Role::Spoke => self.leave(index),
            7 if self.nodes[index].role == Role::Spoke => self.move_away(index),
            8 if self.nodes[index].role == Role::Spoke => self.toggle_lan(index),
            9 => self.change_hold(index),
            10 if self.nodes[index].frozen.is_none() => {
                let ms = self.rng.between(500, 90_000);
                self.note(|| format!("{index} is suspended for {ms} ms"));
                self.nodes[index].frozen = Some(self.now.after(ms));
                self.schedule(ms, What::Thaw(index));
            }
            11 => {
                let ms = self.rng.between(1000, 120_000);
                self.note(|| format!("the clock of {index} leaps ahead by {ms} ms"));
                self.nodes[index].offset += ms;
                if self.nodes[index].frozen.is_none() {
                    self.wake(index);
                }
            }
            _ => {}
        }
    }

    /// While it was suspended it sent nothing, and without its agent nobody could mend what it sends to: what it suffers
    /// counts from now on.
    pub(crate) fn begin_anew(&mut self, index: usize) {
        for flow in self.flows.iter_mut().filter(|flow| flow.from == index) {
            flow.broken = None;
            flow.looping = None;
        }
    }

    pub(crate) fn thaw(&mut self, index: usize) {
        let due = self.nodes[index].frozen.is_some_and(|until| until <= self.now) || self.quiet.is_some();
        if due && self.nodes[index].frozen.take().is_some() {
            self.begin_anew(index);
            self.wake(index);
            // What changed meanwhile.
            let config = self.nodes[index].config.clone();
            self.input(index, Input::Configure(Box::new(config)));
        }
    }

    /// The agent dies in a moment, having kept a snapshot now.
    fn kill_soon(&mut self, index: usize, later: u64, down: u64) {
        let taken = self.nodes[index].clock(self.now);
        let snapshot = self.nodes[index].snapshot(self.now);
        let kept = snapshot.map(|snapshot| Box::new((snapshot, taken)));
        self.schedule(later, What::Kill(index, down, kept));
    }

    pub(crate) fn kill(&mut self, index: usize, down: u64, kept: Option<Box<(Snapshot, Time)>>) {
        if kept.is_none() || self.quiet.is_some() || self.nodes[index].engine.take().is_none() {
            return;
        }
        self.note(|| format!("the agent of {index} dies for {down} ms"));
        self.nodes[index].armed = None;
        self.schedule(down, What::Revive(index, kept));
    }

    pub(crate) fn revive(&mut self, index: usize, kept: Option<Box<(Snapshot, Time)>>) {
        let node = &mut self.nodes[index];
        if node.engine.is_none() {
            node.up = true;
            node.armed = None;
            self.begin_again(index, kept);
        }
    }

    /// The machine goes, and comes back knowing nothing.
    fn reboot(&mut self, index: usize) {
        if self.nodes[index].engine.is_none() || self.nodes[index].frozen.is_some() {
            return;
        }
        let down = self.rng.between(200, 30_000);
        self.note(|| format!("{index} reboots for {down} ms"));
        let node = &mut self.nodes[index];
        node.engine = None;
        node.armed = None;
        node.up = false;
        node.kernel = Kernel::default();
        node.hubs_up.clear();
        self.disturb(index, down + RECOVERY_MS);
        self.schedule(down, What::Revive(index, None));
    }

    /// From where it was all this time: a purge from an address that nobody knows yet is not believed.
    fn leaves_properly(&mut self, index: usize) {
        let known = self.nodes[index].disturbed <= self.now;
        self.nodes[index].moved = known.then_some(self.now);
        self.nodes[index].gone = Some(self.now);
    }

    /// The endpoint is taken away properly, and comes back later.
    fn leave(&mut self, index: usize) {
        if self.nodes[index].engine.is_none() || self.nodes[index].frozen.is_some() {
            return;
        }
        let away = self.rng.between(3000, 40_000);
        self.note(|| format!("{index} leaves for {away} ms"));
        self.leaves_properly(index);
        self.disturb(index, away + RECOVERY_MS);
        self.input(index, Input::Withdraw);
        self.schedule(away, What::Revive(index, None));
    }

    /// A new lease: another underlay address, or the NAT's.
    fn move_away(&mut self, index: usize) {
        self.note(|| format!("{index} gets another address"));
        self.leaves_properly(index);
        self.disturb(index, RECOVERY_MS);
        if let Some(nat) = self.nodes[index].nat {
            self.under.rebind(nat);
            // It does not know; the hub learns with the next registration.
            let neighbours: Vec<_> =
                (0..self.nodes.len()).filter(|other| self.nodes[*other].nat == Some(nat)).collect();
            let wait = u64::from(self.longest_hold) * 1000 / 3 + RECOVERY_MS;
            for other in neighbours {
                self.nodes[other].moved = None;
                self.disturb(other, wait);
            }
            return;
        }
        let n = (index - self.plan.hubs) as u8 + 1;
        let node = &mut self.nodes[index];
        node.addresses_used = node.addresses_used.wrapping_add(1) % 40;
        let new = nbma(10 + node.addresses_used, n);
        node.config.nbma = Some(new);
        self.input(index, Input::Nbma { link: LINK, nbma: Some(new) });
        // The configuration says the same from now on.
        let config = self.nodes[index].config.clone();
        self.input(index, Input::Configure(Box::new(config)));
    }

    /// A network behind a spoke comes or goes: never the first, which flows go to.
    fn toggle_lan(&mut self, index: usize) {
        let n = (index - self.plan.hubs) as u8 + 1;
        let lan = self.plan.family.lan(n, 7);
        let node = &mut self.nodes[index];
        if node.foreign || self.plan.nodes[0].foreign || node.config.subnets.is_empty() {
            return;
        }
        match node.config.subnets.iter().position(|net| *net == lan) {
            Some(at) => {
                node.config.subnets.remove(at);
            }
            None => node.config.subnets.push(lan),
        }
        let config = node.config.clone();
        self.note(|| format!("{index} has now {:?}", config.subnets));
        self.input(index, Input::Configure(Box::new(config)));
    }

    fn change_hold(&mut self, index: usize) {
        let hold = self.rng.pick(&[15, 20, 45, 60]).unwrap_or(30);
        self.longest_hold = self.longest_hold.max(hold);
        self.nodes[index].config.holding_time = hold;
        let config = self.nodes[index].config.clone();
        self.note(|| format!("the holding time of {index} is {hold} s now"));
        self.input(index, Input::Configure(Box::new(config)));
    }
}
