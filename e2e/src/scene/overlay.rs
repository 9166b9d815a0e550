//! The overlay on the scene: our agents with the quickstart's own YAML, the FRR router with ten lines of FRR.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use view::State;

use super::Scene;
use crate::lab::frr::{self, Frr};
use crate::lab::{Agent, Dump, Host};
use crate::{paths, wait};

/// How long a tunnel may take to come somewhere.
const SOON: Duration = Duration::from_secs(30);
/// Network of the quickstart.
pub const NETWORK: &str = "branches";
/// Tunnel interface that follows from its name.
pub const TUNNEL: &str = "dm-branches";
/// GRE key of the quickstart.
pub const KEY: u32 = 100;
/// Tunnel addresses, as in the quickstart.
pub const HUB: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
/// Of `branch-a`.
pub const BRANCH_A: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 11);
/// Of `branch-b`.
pub const BRANCH_B: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 12);
/// Of the FRR router.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 13);
/// The IPv6 overlay address beside an IPv4 one: the same last number in fd00:255::/64.
#[must_use]
pub fn overlay6(overlay: Ipv4Addr) -> Ipv6Addr {
    let [.., last] = overlay.octets();
    // Written as it reads: ::11 beside .11.
    let digits = u16::from(last / 100) << 8 | u16::from(last / 10 % 10) << 4 | u16::from(last % 10);
    Ipv6Addr::new(0xfd00, 0x255, 0, 0, 0, 0, 0, digits)
}

/// FRR's GRE link.
pub const ROUTER_LINK: &str = "gre1";

/// The router's whole configuration: it names the hub and nothing else. (Its GRE link is made by hand: FRR's own
/// `tunnel source` wipes key and TTL.)
pub const ROUTER_CONFIGURATION: &str = "\
hostname router
ip route 10.0.0.0/8 10.255.0.1
interface gre1
 ip nhrp network-id 100
 ip nhrp holdtime 600
 ip nhrp nhs 10.255.0.1 nbma 192.0.2.2
 ip nhrp registration no-unique
 ip nhrp shortcut
exit
";

/// Everything that runs on the scene's hosts.
#[derive(Debug)]
pub struct Overlay {
    /// Agent of the hub.
    pub hub: Agent,
    /// Agent of `branch-a`.
    pub branch_a: Agent,
    /// Agent of `branch-b`.
    pub branch_b: Agent,
    /// Kernel tables of `branch-a` before its agent first ran.
    pub before_a: Dump,
}

/// One file of the quickstart.
///
/// # Errors
/// When it is not in the repository.
pub fn quickstart(file: &str) -> Result<String> {
    let path = paths::repository().join("examples/quickstart").join(file);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Files of the quickstart, by name.
///
/// # Errors
/// When one is not in the repository.
pub fn manifests(files: &[&str]) -> Result<BTreeMap<String, String>> {
    files.iter().map(|f| Ok(((*f).to_owned(), quickstart(f)?))).collect()
}

impl Overlay {
    /// Starts the three agents. The hub's manifests name no branch: they come by themselves.
    ///
    /// # Errors
    /// When one does not answer.
    pub fn start(scene: &Scene) -> Result<Self> {
        Self::start_with(scene, |network| network)
    }

    /// As [`Self::start`], with the text of `network.yaml` changed on all hosts.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(scene: &Scene, change: impl Fn(String) -> String) -> Result<Self> {
        let network = change(quickstart("network.yaml")?);
        let manifests = |own: &str| -> Result<BTreeMap<String, String>> {
            let own = (own.to_owned(), quickstart(own)?);
            Ok(BTreeMap::from([("network.yaml".to_owned(), network.clone()), own]))
        };
        let host = |name: &str| -> Result<Host> { Ok(scene.site(name)?.host.clone()) };
        let before_a = host("branch-a")?.dump()?;
        let hub = Agent::start(&host("hub")?, &["dmvpn.io/hub=hub1"], &manifests("hub-lan.yaml")?)?;
        let branch_a = Agent::start(&host("branch-a")?, &[], &manifests("branch-a.yaml")?)?;
        let branch_b = Agent::start(&host("branch-b")?, &[], &manifests("branch-b.yaml")?)?;
        Ok(Self { hub, branch_a, branch_b, before_a })
    }
}

/// Until the tunnel of `agent` stands at `state` for `reason`.
///
/// # Errors
/// When it does not come there in time.
pub fn until_at(agent: &Agent, state: State, reason: &str) -> Result<()> {
    wait::until(SOON, &format!("{state:?} {reason} at {}", agent.host().name()), || {
        let tunnel = agent.tunnel(NETWORK)?;
        let told = format!("{:?} {}: {}", tunnel.state, tunnel.reason, tunnel.message);
        wait::ensure((tunnel.state, tunnel.reason.as_str()) == (state, reason), || told)
    })
}

/// Starts the FRR router.
///
/// # Errors
/// When FRR does not start.
pub fn start_router(scene: &Scene) -> Result<Frr> {
    let site = scene.site("router")?;
    frr::make_gre(&site.host, ROUTER_LINK, site.nbma(), Some(KEY), ROUTER)?;
    Frr::start(&site.host, ROUTER_CONFIGURATION)
}

/// Names another hub (by its NBMA address) to the FRR router, which starts anew with a fresh link.
///
/// # Errors
/// When FRR does not start.
pub fn move_router(scene: &Scene, router: &mut Frr, hub: Ipv4Addr) -> Result<()> {
    let site = scene.site("router")?;
    let line = format!("nbma {}", scene.site("hub")?.nbma());
    let configuration = ROUTER_CONFIGURATION.replace(&line, &format!("nbma {hub}"));
    site.host.ip(&format!("link del {ROUTER_LINK}"))?;
    site.host.nft("delete table ip frr_redirect\n")?;
    frr::make_gre(&site.host, ROUTER_LINK, site.nbma(), Some(KEY), ROUTER)?;
    router.restart_with(&configuration)
}

/// Packets received and sent by a link, as `ip -s` counts them.
///
/// # Errors
/// When the link is not there.
pub fn counters(host: &Host, link: &str) -> Result<(u64, u64)> {
    let value = host.ip_json(&format!("-s link show {link}"))?;
    let stats = &value[0]["stats64"];
    let packets = |way: &str| stats[way]["packets"].as_u64().with_context(|| format!("counters of {link}"));
    Ok((packets("rx")?, packets("tx")?))
}

/// Index of a link.
///
/// # Errors
/// When the link is not there.
pub fn link_index(host: &Host, link: &str) -> Result<u64> {
    let value = host.ip_json(&format!("link show {link}"))?;
    value[0]["ifindex"].as_u64().with_context(|| format!("index of {link}"))
}
