//! Which address is whose.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// A bystander: nothing may ever be sent to it.
pub(crate) const BYSTANDER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
/// One who is no member: it knows no password.
pub(crate) const OUTSIDER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 67, 1));

/// Underlay address.
pub(crate) fn nbma(group: u8, n: u8) -> IpAddr {
    Ipv4Addr::new(198, 18, group, n).into()
}

/// Underlay address behind NAT number `nat`.
pub(crate) fn inside(nat: usize, n: u8) -> IpAddr {
    Ipv4Addr::new(192, 168, nat as u8, n).into()
}

/// Addresses of the overlay, in one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family {
    pub(crate) v6: bool,
}

impl Family {
    pub(crate) fn overlay_net(self) -> IpNet {
        self.net(&[10, 255, 0, 0], 16, [0xfd00, 0x255, 0, 0], 64)
    }

    /// All LANs (and the overlay): what a router without our prefix lists sends to its hub.
    pub(crate) fn everything(self) -> IpNet {
        self.net(&[10, 0, 0, 0], 8, [0xfd00, 0, 0, 0], 16)
    }

    pub(crate) fn overlay(self, group: u8, n: u8) -> IpAddr {
        match self.v6 {
            true => Ipv6Addr::new(0xfd00, 0x255, 0, 0, 0, 0, group.into(), n.into()).into(),
            false => Ipv4Addr::new(10, 255, group, n).into(),
        }
    }

    pub(crate) fn lan(self, node: u8, index: u8) -> IpNet {
        self.net(&[10, node, index, 0], 24, [0xfd00, node.into(), index.into(), 0], 64)
    }

    /// A network outside of everything.
    pub(crate) fn foreign_host(self) -> IpAddr {
        match self.v6 {
            true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 8).into(),
            false => Ipv4Addr::new(8, 8, 8, 8).into(),
        }
    }

    pub(crate) fn multicast(self) -> IpAddr {
        match self.v6 {
            true => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 5).into(),
            false => Ipv4Addr::new(224, 0, 0, 5).into(),
        }
    }

    fn net(self, v4: &[u8; 4], v4_len: u8, v6: [u16; 4], v6_len: u8) -> IpNet {
        let [a, b, c, d] = v6;
        let (address, length): (IpAddr, u8) = match self.v6 {
            true => (Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into(), v6_len),
            false => (Ipv4Addr::from(*v4).into(), v4_len),
        };
        IpNet::new(address, length).map_or_else(|_| IpNet::from(address), |net| net.trunc())
    }
}

/// Host number `n` of a network.
pub(crate) fn host(net: IpNet, n: u8) -> IpAddr {
    match net.network() {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) + u32::from(n)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) + u128::from(n)).into(),
    }
}

/// The start of an IP packet, 128 bytes as the kernel hands them out.
pub(crate) fn data(src: IpAddr, dst: IpAddr) -> Vec<u8> {
    let mut packet = vec![0; 128];
    let (version, at, size) = if src.is_ipv4() { (0x45, 12, 4) } else { (0x60, 8, 16) };
    packet[0] = version;
    for (address, at) in [(src, at), (dst, at + size)] {
        match address {
            IpAddr::V4(v4) => packet[at..at + 4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => packet[at..at + 16].copy_from_slice(&v6.octets()),
        }
    }
    packet
}
