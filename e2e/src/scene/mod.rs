//! The scene that the demo and most scenarios share: sites, each a router with its own LAN, joined only by an
//! `isp` that routes. Nothing routes between the LANs: that is what the overlay is for.
//!
//! ```text
//!  lan-hub ── hub ──────┐              ┌────── branch-a ── lan-branch-a
//!  10.10.0.0/24  192.0.2.2 ── isp ── 198.51.100.2            10.20.0.0/24
//!  lan-router ── router ┘              └────── branch-b ── lan-branch-b
//!  10.40.0.0/24 198.18.0.2             203.0.113.2           10.30.0.0/24
//! ```
//!
//! Every network is dual stack. Each site's uplink is `wan0`, its LAN `lan0` (the router is .1 there); the host
//! in the LAN has `eth0` (.10). Later scenes add [`Plan`]s of their own.

pub mod branches;
pub mod clusters;
pub mod credentials;
pub mod foreign;
pub mod overlay;
pub mod wire;

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::lab::{Host, Lab};

/// Addresses of one site.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Name of the router's host; the LAN's is `lan-NAME`.
    pub name: &'static str,
    /// The router's address and network towards the isp, whose own is the first of it.
    pub wan: Ipv4Net,
    /// The same for IPv6.
    pub wan6: Ipv6Net,
    /// The LAN.
    pub lan: Ipv4Net,
    /// The LAN.
    pub lan6: Ipv6Net,
}

/// The demo's four sites.
///
/// # Errors
/// Never in practice: the texts are constants.
pub fn plans() -> Result<Vec<Plan>> {
    Ok(vec![
        plan("hub", "192.0.2.2/24", "2001:db8:2::2/64", "10.10.0.0/24", "fd00:10::/64")?,
        plan("branch-a", "198.51.100.2/24", "2001:db8:a::2/64", "10.20.0.0/24", "fd00:20::/64")?,
        plan("branch-b", "203.0.113.2/24", "2001:db8:b::2/64", "10.30.0.0/24", "fd00:30::/64")?,
        plan("router", "198.18.0.2/24", "2001:db8:c::2/64", "10.40.0.0/24", "fd00:40::/64")?,
    ])
}

/// One site's addresses from texts.
///
/// # Errors
/// When one is not an address with a prefix length.
pub fn plan(name: &'static str, wan: &str, wan6: &str, lan: &str, lan6: &str) -> Result<Plan> {
    Ok(Plan { name, wan: wan.parse()?, wan6: wan6.parse()?, lan: lan.parse()?, lan6: lan6.parse()? })
}

/// A site that stands.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its addresses.
    pub plan: Plan,
    /// The router.
    pub host: Host,
    /// The host in its LAN.
    pub lan: Host,
}

impl Site {
    /// NBMA address of the router.
    #[must_use]
    pub fn nbma(&self) -> Ipv4Addr {
        self.plan.wan.addr()
    }

    /// IPv6 NBMA address of the router.
    #[must_use]
    pub fn nbma6(&self) -> Ipv6Addr {
        self.plan.wan6.addr()
    }

    /// Address of the host in the LAN.
    #[must_use]
    pub fn lan_host(&self) -> Ipv4Addr {
        nth(self.plan.lan, 10)
    }

    /// IPv6 address of the host in the LAN.
    #[must_use]
    pub fn lan_host6(&self) -> Ipv6Addr {
        nth6(self.plan.lan6, 10)
    }
}

/// All hosts of the scene.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The network between the sites.
    pub isp: Host,
    sites: Vec<Site>,
}

impl Scene {
    /// The demo's scene.
    ///
    /// # Errors
    /// When a host or link cannot be made.
    pub fn build(lab: &Lab) -> Result<Self> {
        let mut scene = Self::empty(lab)?;
        for plan in plans()? {
            scene.add(lab, plan)?;
        }
        Ok(scene)
    }

    /// Only the isp.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn empty(lab: &Lab) -> Result<Self> {
        Ok(Self { isp: lab.host("isp")?, sites: Vec::new() })
    }

    /// Adds a site and joins it to the isp.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn add(&mut self, lab: &Lab, plan: Plan) -> Result<Site> {
        let host = lab.host(plan.name)?;
        let lan = lab.host(&format!("lan-{}", plan.name))?;
        let to_site = format!("to-{}", plan.name);
        lab.link(&self.isp, &to_site, &host, "wan0")?;
        lab.link(&host, "lan0", &lan, "eth0")?;
        let (wan_gateway, wan_gateway6) = (nth(plan.wan, 1), nth6(plan.wan6, 1));
        let (lan_gateway, lan_gateway6) = (nth(plan.lan, 1), nth6(plan.lan6, 1));
        let (wan, wan6) = (plan.wan.prefix_len(), plan.wan6.prefix_len());
        let (lan4, lan6) = (plan.lan.prefix_len(), plan.lan6.prefix_len());
        self.isp.ip_batch(&[
            format!("addr add {wan_gateway}/{wan} dev {to_site}"),
            format!("addr add {wan_gateway6}/{wan6} dev {to_site} nodad"),
        ])?;
        host.ip_batch(&[
            format!("addr add {} dev wan0", plan.wan),
            format!("addr add {} dev wan0 nodad", plan.wan6),
            format!("addr add {lan_gateway}/{lan4} dev lan0"),
            format!("addr add {lan_gateway6}/{lan6} dev lan0 nodad"),
            format!("route add default via {wan_gateway}"),
            format!("route add default via {wan_gateway6}"),
        ])?;
        lan.ip_batch(&[
            format!("addr add {}/{lan4} dev eth0", nth(plan.lan, 10)),
            format!("addr add {}/{lan6} dev eth0 nodad", nth6(plan.lan6, 10)),
            format!("route add default via {lan_gateway}"),
            format!("route add default via {lan_gateway6}"),
        ])?;
        let site = Site { plan, host, lan };
        self.sites.push(site.clone());
        Ok(site)
    }

    /// A site by name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn site(&self, name: &str) -> Result<&Site> {
        self.sites.iter().find(|s| s.plan.name == name).with_context(|| format!("no site {name:?}"))
    }

    /// All sites, in the order they were added.
    #[must_use]
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// The isp's device towards a site: for netem, captures, or to cut the site off.
    #[must_use]
    pub fn uplink(&self, site: &Site) -> String {
        format!("to-{}", site.plan.name)
    }
}

fn nth(net: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(net.network().to_bits() + n)
}

fn nth6(net: Ipv6Net, n: u128) -> Ipv6Addr {
    Ipv6Addr::from_bits(net.network().to_bits() + n)
}
