//! FRR in the overlay: a site's router that is not ours, as hub, as spoke, or as both. Its routes are its admin's: it knows
//! no prefix lists.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::Result;
use ipnet::Ipv4Net;

use super::Site;
use super::overlay::{HUB, KEY, ROUTER_LINK, overlay6};
use crate::lab::frr::{self, Frr};

/// An FRR router on a site: what its configuration says.
#[derive(Clone, Debug)]
pub struct Foreign<'a> {
    site: &'a Site,
    overlay: Ipv4Addr,
    hubs: Vec<(Ipv4Addr, Ipv4Addr)>,
    holding: u16,
    redirect: bool,
    dual: bool,
    routes: Vec<String>,
}

impl<'a> Foreign<'a> {
    /// A router at `site` with this overlay address, a holding time of 600 s, and shortcuts on (without which it would
    /// not even answer for what is behind it).
    #[must_use]
    pub fn new(site: &'a Site, overlay: Ipv4Addr) -> Self {
        Self {
            site,
            overlay,
            hubs: Vec::new(),
            holding: 600,
            redirect: false,
            dual: false,
            routes: Vec::new(),
        }
    }

    /// It registers with the hub of that overlay address at `hub`.
    #[must_use]
    pub fn client_of(mut self, overlay: Ipv4Addr, hub: &Site) -> Self {
        self.hubs.push((overlay, hub.nbma()));
        self
    }

    /// It sends redirects, as a hub of Phase 3 does.
    #[must_use]
    pub fn redirects(mut self) -> Self {
        self.redirect = true;
        self
    }

    /// Holding time in seconds.
    #[must_use]
    pub fn holding(mut self, seconds: u16) -> Self {
        self.holding = seconds;
        self
    }

    /// The same with IPv6 overlay addresses beside ([`overlay6`]), over the same IPv4 tunnel.
    #[must_use]
    pub fn dual(mut self) -> Self {
        self.dual = true;
        self
    }

    /// A route by an overlay next hop.
    #[must_use]
    pub fn route(mut self, prefix: Ipv4Net, via: Ipv4Addr) -> Self {
        self.routes.push(format!("ip route {prefix} {via}"));
        self
    }

    /// Any other line of the configuration.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.routes.push(line.to_owned());
        self
    }

    /// All private addresses by the first hub, in each family.
    #[must_use]
    pub fn default_by(self, hub: Ipv4Addr) -> Self {
        let line6 = format!("ipv6 route fd00::/16 {}", overlay6(hub));
        let all = self.line(&format!("ip route 10.0.0.0/8 {hub}"));
        if all.dual { all.line(&line6) } else { all }
    }

    /// The configuration.
    ///
    /// # Errors
    /// Never in practice.
    pub fn text(&self) -> Result<String> {
        let mut text = format!("nhrp nflog-group {}\n", frr::NFLOG_GROUP);
        // Before the interface: staticd does not know its section, and takes its end for the end of all.
        for route in &self.routes {
            writeln!(text, "{route}")?;
        }
        writeln!(text, "interface {ROUTER_LINK}")?;
        for family in if self.dual { &["ip", "ipv6"][..] } else { &["ip"] } {
            writeln!(text, " {family} nhrp network-id 100")?;
            writeln!(text, " {family} nhrp holdtime {}", self.holding)?;
            for (overlay, nbma) in &self.hubs {
                let overlay = match *family {
                    "ip" => overlay.to_string(),
                    _ => overlay6(*overlay).to_string(),
                };
                writeln!(text, " {family} nhrp nhs {overlay} nbma {nbma}")?;
            }
            if !self.hubs.is_empty() {
                writeln!(text, " {family} nhrp registration no-unique")?;
            }
            if self.redirect {
                writeln!(text, " {family} nhrp redirect")?;
            }
            writeln!(text, " {family} nhrp shortcut")?;
        }
        Ok(text)
    }

    /// Makes the link and starts FRR.
    ///
    /// # Errors
    /// When FRR does not start.
    pub fn start(&self) -> Result<Frr> {
        frr::make_gre(&self.site.host, ROUTER_LINK, self.site.nbma(), Some(KEY), self.overlay)?;
        if self.dual {
            frr::make_gre6(&self.site.host, ROUTER_LINK, overlay6(self.overlay))?;
        }
        Frr::start(&self.site.host, &self.text()?)
    }

    /// An FRR hub at `site`, with routes to the LANs of `spokes`.
    #[must_use]
    pub fn hub(site: &'a Site, spokes: &[(&Site, Ipv4Addr)]) -> Self {
        spokes.iter().fold(Self::new(site, HUB), |hub, (spoke, overlay)| hub.route(spoke.plan.lan, *overlay))
    }
}
