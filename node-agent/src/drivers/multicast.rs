//! Copies of multicast packets: a task a tunnel link sends them, so that a thousand copies hold up nobody else.

use std::net::IpAddr;

use dataplane::model::GreLink;
use dataplane::{CopySocket, Gre6Socket};
use tokio::sync::mpsc;
use tracing::debug;

/// Packets that wait to be copied; what comes when it is full is lost, as on any interface.
const QUEUE: usize = 256;

/// How copies leave.
enum Door {
    Link(CopySocket),
    Underlay6(Gre6Socket),
}

/// Sends copies on one link.
#[derive(Debug)]
pub struct Copier {
    link: u32,
    local: IpAddr,
    to: mpsc::Sender<(Vec<u8>, Vec<IpAddr>)>,
}

impl Copier {
    /// Opens the socket on `link` and starts the task, which ends with this value.
    ///
    /// # Errors
    /// Without CAP_NET_RAW.
    pub fn open(network: &str, link: u32, gre: &GreLink) -> Result<Self, dataplane::Error> {
        let socket = match gre.local {
            IpAddr::V4(_) => Door::Link(CopySocket::open(link)?),
            IpAddr::V6(local) => Door::Underlay6(Gre6Socket::open(local, gre.key, gre.ttl)?),
        };
        let (to, mut packets) = mpsc::channel::<(Vec<u8>, Vec<IpAddr>)>(QUEUE);
        let network = network.to_owned();
        tokio::spawn(async move {
            while let Some((packet, peers)) = packets.recv().await {
                let sent = match &socket {
                    Door::Link(socket) => socket.send(&packet, &peers).await,
                    Door::Underlay6(socket) => socket.copy(&packet, &peers).await,
                };
                if let Err(error) = sent {
                    debug!(network, %error, length = packet.len(), "multicast");
                }
            }
        });
        Ok(Self { link, local: gre.local, to })
    }

    /// Whether it is that of this link.
    pub fn serves(&self, link: u32, gre: &GreLink) -> bool {
        (self.link, self.local) == (link, gre.local)
    }

    /// Sends `packet` to each of these underlay addresses; false if there was no room for it.
    pub fn copy(&self, packet: Vec<u8>, peers: Vec<IpAddr>) -> bool {
        peers.is_empty() || self.to.try_send((packet, peers)).is_ok()
    }
}

/// Puts the UDP checksum of a packet of this node right: the kernel leaves it to the link, and this packet never saw
/// one. Fragments and packets without a checksum stay as they are.
pub fn seal_udp(packet: &mut [u8]) {
    const UDP: u8 = 17;
    let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
    let (protocol, addresses, at) = match &*packet {
        [first, _, _, _, _, _, f0, f1, _, protocol, ..]
            if !v6 && u16::from_be_bytes([*f0, *f1]) & 0x3fff == 0 =>
        {
            (*protocol, 12..20, usize::from(*first & 0x0f) * 4)
        }
        [_, _, _, _, _, _, protocol, ..] if v6 => (*protocol, 8..40, 40),
        _ => return,
    };
    if protocol != UDP {
        return;
    }
    let Some(length) = packet.get(at + 4..at + 6).map(|l| usize::from(l[0]) << 8 | usize::from(l[1])) else {
        return;
    };
    let has_sum = packet.get(at + 6..at + 8).is_some_and(|sum| v6 || sum != [0, 0]);
    let whole = length >= 8 && packet.len() >= at + length;
    let Some(sum) = packet.get_mut(at + 6..at + 8).filter(|_| has_sum && whole) else { return };
    sum.fill(0);
    let parts = [packet.get(addresses), packet.get(at..at + length)];
    let words = parts.into_iter().flatten().flat_map(|part| part.chunks(2));
    let mut total: u64 = u64::from(UDP) + length as u64;
    total += words.map(|w| u64::from(w[0]) << 8 | w.get(1).map_or(0, |b| u64::from(*b))).sum::<u64>();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    // Zero would mean "no checksum" (RFC 768).
    let value = match !(total as u16) {
        0 => 0xffff,
        value => value,
    };
    if let Some(sum) = packet.get_mut(at + 6..at + 8) {
        sum.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10.255.0.1:520 → 224.0.0.9:520, as tcpdump shows a RIPv2 request: checksum by hand.
    fn rip() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 1, 17, 0, 0, 10, 255, 0, 1, 224, 0, 0, 9];
        packet.extend([2, 8, 2, 8, 0, 12, 0xab, 0xcd, 1, 2, 0, 0]);
        packet
    }

    #[test]
    fn checksum_is_put_right() {
        let mut packet = rip();
        seal_udp(&mut packet);
        // 0aff+0001+e000+0009 + 0011+000c + 0208+0208+000c + 0102+0000 = f044, and its complement.
        assert_eq!(packet[26..28], [0x0f, 0xbb]);
        let again = packet.clone();
        seal_udp(&mut packet);
        assert_eq!(packet, again);
    }

    #[test]
    fn what_is_not_a_whole_udp_packet_stays() {
        let whole = rip();
        for end in 0..whole.len() {
            let mut cut = whole[..end].to_vec();
            seal_udp(&mut cut);
            assert_eq!(cut, whole[..end]);
        }
        for (at, value) in [(9, 1), (6, 0x20), (7, 1)] {
            let mut other = whole.clone();
            other[at] = value;
            let before = other.clone();
            seal_udp(&mut other);
            assert_eq!(other, before, "byte {at}");
        }
        let mut without = whole.clone();
        without[26..28].fill(0);
        let before = without.clone();
        seal_udp(&mut without);
        assert_eq!(without, before);
    }
}
