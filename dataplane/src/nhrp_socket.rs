//! NHRP packets of one tunnel link over IPv4: a packet socket that sends and receives what stands behind the
//! GRE header (protocol type 0x2001, RFC 2332 section 5.1), in bursts.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Error;
use crate::requests;
use crate::sys::{BURST, ETH_P_NHRP, PACKET_BYTES, Packet};

/// Packets that came in: all in one buffer, one behind the other.
#[derive(Clone, Debug, Default)]
pub struct Packets {
    bytes: Vec<u8>,
    /// Where each came from and ends.
    ends: Vec<(IpAddr, usize)>,
}

impl Packets {
    /// Each with its outer source address: where it came from in the underlay.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &[u8])> {
        let mut start = 0;
        self.ends.iter().map(move |(nbma, end)| {
            let packet = self.bytes.get(start..*end).unwrap_or(&[]);
            start = *end;
            (*nbma, packet)
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Throws them away and keeps the room.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    pub(crate) fn push(&mut self, nbma: IpAddr, packet: &[u8]) {
        self.bytes.extend_from_slice(packet);
        self.ends.push((nbma, self.bytes.len()));
    }
}

/// The socket. A link that goes down makes `receive` fail once with ENETDOWN; when the link is up again the
/// same socket works. When the link is deleted the socket is of no more use.
#[derive(Debug)]
pub struct NhrpSocket {
    socket: Packet,
    link: u32,
    /// Lent to one reader at a time.
    buffer: Mutex<Vec<u8>>,
    sourceless: AtomicU64,
    oversized: AtomicU64,
}

impl NhrpSocket {
    /// Opens the socket on the link with this index.
    ///
    /// # Errors
    /// [`Error::Capability`] without CAP_NET_RAW; [`Error::Io`] if there is no such link.
    pub fn open(link: u32) -> Result<Self, Error> {
        let socket = Packet::open(link).map_err(|e| Error::io("NHRP packet socket", "CAP_NET_RAW", e))?;
        Ok(Self {
            socket,
            link,
            buffer: Mutex::new(Vec::new()),
            sourceless: AtomicU64::new(0),
            oversized: AtomicU64::new(0),
        })
    }

    /// Waits for at least one packet, then appends all that are there, up to 64. Dropping the future loses
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Io`], e.g. ENETDOWN when the link went down.
    pub async fn receive(&self, into: &mut Packets) -> Result<(), Error> {
        let mut buffer = self.buffer.lock().map(|mut b| std::mem::take(&mut *b)).unwrap_or_default();
        buffer.resize(BURST * PACKET_BYTES, 0);
        let before = into.len();
        let mut result = Ok(());
        while into.len() == before && result.is_ok() {
            let mut remote = None;
            let hand_on =
                |source: Option<Ipv4Addr>, packet: &[u8]| self.take(source, packet, &mut remote, into);
            result = match self.socket.receive(&mut buffer, hand_on).await {
                Ok(odd) => {
                    self.sourceless.fetch_add(odd.sourceless, Ordering::Relaxed);
                    self.oversized.fetch_add(odd.oversized, Ordering::Relaxed);
                    Ok(())
                }
                Err(source) => Err(Error::Io { what: "receive NHRP", source }),
            };
        }
        if let Ok(mut place) = self.buffer.lock() {
            *place = buffer;
        }
        result
    }

    /// Sends each packet to its NBMA address; one result for each, in order. On a point-to-point link all go
    /// to its remote end, whatever is said here.
    pub async fn send(&self, packets: &[(IpAddr, &[u8])]) -> Vec<Result<(), Error>> {
        let mut results: Vec<Result<(), Error>> = Vec::with_capacity(packets.len());
        let mut ready: Vec<(Ipv4Addr, &[u8])> = Vec::with_capacity(packets.len().min(BURST));
        for (to, bytes) in packets {
            match to {
                IpAddr::V4(to) => {
                    ready.push((*to, bytes));
                    if ready.len() == BURST {
                        self.send_all(&mut ready, &mut results).await;
                    }
                }
                IpAddr::V6(_) => {
                    self.send_all(&mut ready, &mut results).await;
                    results.push(Err(Error::invalid("NBMA address", to, "a gre link has an IPv4 underlay")));
                }
            }
        }
        self.send_all(&mut ready, &mut results).await;
        results
    }

    /// Packets that were dropped because they came without an outer source address (0.0.0.0).
    pub fn sourceless(&self) -> u64 {
        self.sourceless.load(Ordering::Relaxed)
    }

    /// Packets that were dropped because they were longer than 4096 bytes.
    pub fn oversized(&self) -> u64 {
        self.oversized.load(Ordering::Relaxed)
    }

    /// Gives a packet of a point-to-point link its source: the kernel does not say it, because it took none
    /// from any other address than the link's remote (which may have been changed since the socket was
    /// opened, so it is asked for once a burst).
    fn take(
        &self,
        source: Option<Ipv4Addr>,
        packet: &[u8],
        remote: &mut Option<Option<IpAddr>>,
        into: &mut Packets,
    ) {
        let nbma = match source {
            Some(source) => Some(IpAddr::V4(source)),
            None => *remote.get_or_insert_with(|| requests::remote(self.link).ok().flatten()),
        };
        match nbma {
            Some(nbma) => into.push(nbma, packet),
            None => {
                self.sourceless.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    async fn send_all(&self, ready: &mut Vec<(Ipv4Addr, &[u8])>, results: &mut Vec<Result<(), Error>>) {
        let mut rest = ready.as_slice();
        while !rest.is_empty() {
            let done = match self.socket.send(ETH_P_NHRP, rest).await {
                Ok(0) => break,
                Ok(sent) => {
                    results.extend((0..sent).map(|_| Ok(())));
                    sent
                }
                // The kernel stops at a packet that it cannot send; the next call starts with it and says
                // why.
                Err(source) => {
                    results.push(Err(Error::Io { what: "send NHRP", source }));
                    1
                }
            };
            rest = rest.get(done..).unwrap_or(&[]);
        }
        results.extend(rest.iter().map(|_| Err(Error::NoAnswer { what: "send NHRP".to_owned() })));
        ready.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_out_as_they_went_in() {
        let mut packets = Packets::default();
        let [a, b]: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        for (nbma, packet) in [(a, &b"one"[..]), (b, b""), (a, b"three")] {
            packets.push(nbma, packet);
        }
        assert_eq!(packets.len(), 3);
        assert_eq!(packets.iter().collect::<Vec<_>>(), [(a, &b"one"[..]), (b, b""), (a, b"three")]);
        packets.clear();
        assert!(packets.is_empty() && packets.iter().next().is_none());
    }
}
