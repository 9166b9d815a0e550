//! What is on the underlay while tunnels are under IPsec: clear GRE, or ESP.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;

use super::Scene;
use crate::lab::Capture;

/// GRE or ESP, bare or in UDP.
pub const FILTER: &str = "ip proto 47 or ip proto 50 or udp port 4500";
/// The host that nobody protects, and that sends in clear when a test says so: the scene's `router`.
pub const FORGER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2));

/// A capture on the isp's side of each site.
#[derive(Debug)]
pub struct Wire(Vec<Capture>);

impl Wire {
    /// Starts it.
    ///
    /// # Errors
    /// When a capture does not start.
    pub fn tap(scene: &Scene) -> Result<Self> {
        let taps = scene.sites().iter().map(|site| Capture::start(&scene.isp, &scene.uplink(site), FILTER));
        Ok(Self(taps.collect::<Result<_>>()?))
    }

    /// Ends it: packets of clear GRE but for the forger's, and of ESP.
    ///
    /// # Errors
    /// When a capture cannot be read.
    pub fn stop(self) -> Result<(usize, usize)> {
        let (mut clear, mut protected) = (0, 0);
        for capture in self.0 {
            for packet in capture.stop()? {
                match packet.ip.map(|ip| (ip.protocol, ip.source)) {
                    Some((47, source)) if source == FORGER => println!("forged: {packet}"),
                    Some((47, _)) => {
                        println!("clear: {packet}");
                        clear += 1;
                    }
                    _ => protected += 1,
                }
            }
        }
        Ok((clear, protected))
    }
}
