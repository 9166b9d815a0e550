//! Copies of one IP packet to many peers of a multipoint tunnel link: each goes to its NBMA address in a GRE packet of
//! its own, past the neighbour table.

use std::net::{IpAddr, Ipv4Addr};

use crate::Error;
use crate::sys::{BURST, ETH_P_IP, ETH_P_IPV6, Packet};

/// The socket: sends only.
#[derive(Debug)]
pub struct CopySocket {
    socket: Packet,
}

impl CopySocket {
    /// Opens the socket on the link with this index.
    ///
    /// # Errors
    /// [`Error::Capability`] without CAP_NET_RAW.
    pub fn open(link: u32) -> Result<Self, Error> {
        let socket =
            Packet::sender(link).map_err(|e| Error::io("multicast packet socket", "CAP_NET_RAW", e))?;
        Ok(Self { socket })
    }

    /// Sends an IP packet (its header says which family) to each of these NBMA addresses.
    ///
    /// # Errors
    /// [`Error::Io`] of the first copy that could not be sent, e.g. EMSGSIZE when the packet is longer than the
    /// link's MTU; the copies after it are sent all the same.
    pub async fn send(&self, packet: &[u8], to: &[IpAddr]) -> Result<(), Error> {
        let protocol =
            if packet.first().is_some_and(|first| first >> 4 == 6) { ETH_P_IPV6 } else { ETH_P_IP };
        let mut failed = Ok(());
        let copies: Vec<(Ipv4Addr, &[u8])> = to
            .iter()
            .filter_map(|to| match to {
                IpAddr::V4(to) => Some((*to, packet)),
                IpAddr::V6(_) => None,
            })
            .collect();
        for burst in copies.chunks(BURST) {
            let mut rest = burst;
            while !rest.is_empty() {
                let done = match self.socket.send(protocol, rest).await {
                    Ok(sent) => sent.max(1),
                    Err(source) => {
                        failed = failed.and(Err(Error::Io { what: "send multicast", source }));
                        1
                    }
                };
                rest = rest.get(done..).unwrap_or(&[]);
            }
        }
        failed
    }
}
