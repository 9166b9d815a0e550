//! GRE over IPv6 that we build and read ourselves: NHRP packets, and copies of multicast.
//!
//! Over IPv4 a packet socket on the tunnel link does that. A link in metadata mode sends nothing without a route that says
//! where to, and does not say where something came from; so this is a raw socket of the underlay beside it. The kernel
//! hands it a copy of each GRE packet for our address, which a filter looks through for NHRP with our key; see
//! [`crate::Gre6Strangers`] for other keys.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::Error;
use crate::nhrp_socket::Packets;
use crate::sys::{self, BURST, ETH_P_IP, ETH_P_IPV6, ETH_P_NHRP, PACKET_BYTES};

pub(crate) const GRE: i32 = 47;
/// GRE flag: a key follows (RFC 2890).
pub(crate) const KEY: u16 = 0x2000;
/// Room for packets that wait, in bytes.
const RECEIVE_BUFFER: usize = 4 << 20;

/// The socket of one tunnel: its underlay address and key.
#[derive(Debug)]
pub struct Gre6Socket {
    /// A raw socket: std and tokio have none, and those of UDP make the same system calls.
    socket: tokio::net::UdpSocket,
    key: Option<u32>,
    /// Lent to one reader at a time.
    buffer: Mutex<Vec<u8>>,
    oversized: AtomicU64,
}

impl Gre6Socket {
    /// Opens the socket on the underlay address `local`; its packets leave with this hop limit.
    ///
    /// # Errors
    /// [`Error::Capability`] without CAP_NET_RAW; [`Error::Io`] while no interface has the address.
    pub fn open(local: Ipv6Addr, key: Option<u32>, ttl: u8) -> Result<Self, Error> {
        let socket =
            Self::socket(local, key, ttl).map_err(|e| Error::io("raw GRE socket", "CAP_NET_RAW", e))?;
        Ok(Self { socket, key, buffer: Mutex::new(Vec::new()), oversized: AtomicU64::new(0) })
    }

    fn socket(local: Ipv6Addr, key: Option<u32>, ttl: u8) -> io::Result<tokio::net::UdpSocket> {
        let kind = Type::RAW.nonblocking().cloexec();
        let socket = Socket::new(Domain::IPV6, kind, Some(Protocol::from(GRE)))?;
        // Before it is bound, and so before the first packet.
        socket.attach_filter(&filter(key))?;
        sys::receive_buffer(&socket, RECEIVE_BUFFER)?;
        socket.set_unicast_hops_v6(ttl.into())?;
        socket.bind(&SocketAddrV6::new(local, 0, 0, 0).into())?;
        tokio::net::UdpSocket::from_std(UdpSocket::from(socket))
    }

    /// Waits for at least one NHRP packet, then appends all that are there, up to 64. Dropping the future loses
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn receive(&self, into: &mut Packets) -> Result<(), Error> {
        let mut buffer = self.buffer.lock().map(|mut b| std::mem::take(&mut *b)).unwrap_or_default();
        // One byte more than is taken shows what is too long.
        buffer.resize(PACKET_BYTES + 1, 0);
        let result = self.receive_burst(&mut buffer, into).await;
        if let Ok(mut place) = self.buffer.lock() {
            *place = buffer;
        }
        result.map_err(|source| Error::Io { what: "receive NHRP", source })
    }

    async fn receive_burst(&self, buffer: &mut [u8], into: &mut Packets) -> io::Result<()> {
        let before = into.len();
        loop {
            self.socket.readable().await?;
            // What is read and not taken counts too.
            for _ in 0..BURST {
                match self.socket.try_recv_from(buffer) {
                    Ok((length, SocketAddr::V6(from))) => self.take(*from.ip(), buffer.get(..length), into),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            if into.len() > before {
                return Ok(());
            }
            // While there is more `readable` does not wait: the other tasks of this thread would.
            tokio::task::yield_now().await;
        }
    }

    fn take(&self, from: Ipv6Addr, packet: Option<&[u8]>, into: &mut Packets) {
        let Some(packet) = packet.filter(|packet| packet.len() <= PACKET_BYTES) else {
            self.oversized.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if let Some(nhrp) = payload(packet, ETH_P_NHRP, self.key) {
            into.push(from.into(), nhrp);
        }
    }

    /// Sends each NHRP packet to its NBMA address; one result for each, in order.
    pub async fn send(&self, packets: &[(IpAddr, &[u8])]) -> Vec<Result<(), Error>> {
        let mut results = Vec::with_capacity(packets.len());
        let mut frame = Vec::new();
        for (to, packet) in packets {
            results.push(match to {
                IpAddr::V6(to) => {
                    fill(&mut frame, ETH_P_NHRP, self.key, packet);
                    self.send_frame(&frame, *to, "send NHRP").await
                }
                IpAddr::V4(_) => Err(Error::invalid("NBMA address", to, "the underlay is IPv6")),
            });
        }
        results
    }

    /// Sends an IP packet (its header says which family) to each of these NBMA addresses.
    ///
    /// # Errors
    /// [`Error::Io`] of the first copy that could not be sent; the copies after it are sent all the same.
    pub async fn copy(&self, packet: &[u8], to: &[IpAddr]) -> Result<(), Error> {
        let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
        let mut frame = Vec::new();
        fill(&mut frame, if v6 { ETH_P_IPV6 } else { ETH_P_IP }, self.key, packet);
        let mut failed = Ok(());
        for to in to {
            if let IpAddr::V6(to) = to {
                failed = failed.and(self.send_frame(&frame, *to, "send multicast").await);
            }
        }
        failed
    }

    /// Packets that were dropped because they were longer than 4096 bytes.
    pub fn oversized(&self) -> u64 {
        self.oversized.load(Ordering::Relaxed)
    }

    async fn send_frame(&self, frame: &[u8], to: Ipv6Addr, what: &'static str) -> Result<(), Error> {
        // A raw socket takes no port but 0.
        let sent = self.socket.send_to(frame, SocketAddrV6::new(to, 0, 0, 0)).await;
        sent.map(drop).map_err(|source| Error::Io { what, source })
    }
}

/// Puts a GRE header (RFC 2784, RFC 2890) before a packet.
pub(crate) fn fill(frame: &mut Vec<u8>, protocol: u16, key: Option<u32>, packet: &[u8]) {
    frame.clear();
    frame.extend(key.map_or(0, |_| KEY).to_be_bytes());
    frame.extend(protocol.to_be_bytes());
    frame.extend(key.into_iter().flat_map(u32::to_be_bytes));
    frame.extend_from_slice(packet);
}

/// What stands behind the GRE header, if that is of this protocol and key, with nothing that we do not use (checksum,
/// sequence number).
pub(crate) fn payload(frame: &[u8], protocol: u16, key: Option<u32>) -> Option<&[u8]> {
    let mut header = Vec::with_capacity(8);
    fill(&mut header, protocol, key, &[]);
    frame.strip_prefix(header.as_slice())
}

/// Lets NHRP with this key through: classic BPF, from the GRE header on.
fn filter(key: Option<u32>) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let flags = u32::from(key.map_or(0, |_| KEY));
    let words = std::iter::once((0, flags << 16 | u32::from(ETH_P_NHRP))).chain(key.map(|key| (4, key)));
    let mut program: Vec<SockFilter> = words
        .flat_map(|(at, value)| {
            [
                SockFilter::new(LOAD_WORD, 0, 0, at),
                // On to the next word, or out.
                SockFilter::new(JUMP_EQUAL, 1, 0, value),
                SockFilter::new(RETURN, 0, 0, 0),
            ]
        })
        .collect();
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::passes;

    #[test]
    fn what_is_wrapped_is_unwrapped_by_the_same_key_alone() {
        let mut frame = Vec::new();
        fill(&mut frame, ETH_P_NHRP, Some(100), b"nhrp");
        assert_eq!(frame, [0x20, 0, 0x20, 0x01, 0, 0, 0, 100, b'n', b'h', b'r', b'p']);
        assert_eq!(payload(&frame, ETH_P_NHRP, Some(100)), Some(&b"nhrp"[..]));
        for (protocol, key) in [(ETH_P_NHRP, Some(101)), (ETH_P_NHRP, None), (ETH_P_IP, Some(100))] {
            assert_eq!(payload(&frame, protocol, key), None);
        }
        assert!((0..8).all(|cut| payload(&frame[..cut], ETH_P_NHRP, Some(100)).is_none()));
        fill(&mut frame, ETH_P_NHRP, None, b"");
        assert_eq!(frame, [0, 0, 0x20, 0x01]);
        assert_eq!(payload(&frame, ETH_P_NHRP, None), Some(&b""[..]));
    }
    #[test]
    fn the_kernel_hands_on_nhrp_with_our_key_alone() {
        let keys = [None, Some(0), Some(100), Some(101)];
        for ours in keys {
            for key in keys {
                let mut frame = Vec::new();
                fill(&mut frame, ETH_P_NHRP, key, b"nhrp");
                assert_eq!(passes(&filter(ours), &frame), key == ours, "{ours:?} {key:?}");
                fill(&mut frame, ETH_P_IP, key, b"data");
                assert!(!passes(&filter(ours), &frame), "{ours:?} {key:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_taken_holds_up_nobody_and_loses_nothing() {
        // One of UDP, which needs no right and has no filter, makes the same calls.
        let socket = tokio::net::UdpSocket::bind("[::1]:0").await.unwrap();
        let (sender, to) = (UdpSocket::bind("[::1]:0").unwrap(), socket.local_addr().unwrap());
        let socket = Gre6Socket {
            socket,
            key: Some(100),
            buffer: Mutex::new(Vec::new()),
            oversized: AtomicU64::new(0),
        };
        let mut frame = Vec::new();
        fill(&mut frame, ETH_P_NHRP, Some(101), b"other");
        for _ in 0..BURST {
            sender.send_to(&frame, to).unwrap();
        }
        fill(&mut frame, ETH_P_NHRP, Some(100), b"ours");
        sender.send_to(&frame, to).unwrap();
        socket.socket.readable().await.unwrap();
        let mut packets = Packets::default();
        {
            let mut receive = std::pin::pin!(socket.receive(&mut packets));
            let first =
                std::future::poll_fn(|context| std::task::Poll::Ready(receive.as_mut().poll(context)));
            assert!(first.await.is_pending(), "the others have their turn");
            receive.await.unwrap();
        }
        assert_eq!(packets.iter().map(|(_, packet)| packet).collect::<Vec<_>>(), [b"ours"]);
    }
}
