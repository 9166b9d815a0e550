//! Registrations over IPv6 with another key than ours: our link takes any key, so that nobody else would tell their sender.
//!
//! They have a socket of their own beside [`crate::Gre6Socket`], with little room, of which little is read at a time: anybody
//! can send them, and no flood of them may cost more than that, nor take room from our own.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::Error;
use crate::gre6_socket::{GRE, KEY, payload};
use crate::icmp::key_of;
use crate::sys::{ETH_P_NHRP, PACKET_BYTES};

/// Room for packets that wait, in bytes.
const RECEIVE_BUFFER: usize = 16 << 10;
/// So many packets are read at once, taken or not.
const READS: usize = 16;
/// Where the packet type stands in NHRP's fixed header, and that of a Registration Request (RFC 2332 §5.2).
const TYPE: u8 = 17;
const REGISTRATION: u8 = 3;

/// A registration with another key than ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Its outer source.
    pub from: Ipv6Addr,
    /// Its key, if it has one.
    pub key: Option<u32>,
    /// It, from its GRE header on.
    pub packet: Vec<u8>,
}

/// The socket of one tunnel that hears of them.
#[derive(Debug)]
pub struct Gre6Strangers {
    socket: tokio::net::UdpSocket,
    key: Option<u32>,
}

impl Gre6Strangers {
    /// Opens it on the underlay address `local`, for all keys but this one.
    ///
    /// # Errors
    /// [`Error::Capability`] without CAP_NET_RAW; [`Error::Io`] while no interface has the address.
    pub fn open(local: Ipv6Addr, key: Option<u32>) -> Result<Self, Error> {
        let socket = Self::socket(local, key).map_err(|e| Error::io("raw GRE socket", "CAP_NET_RAW", e))?;
        Ok(Self { socket, key })
    }

    fn socket(local: Ipv6Addr, key: Option<u32>) -> io::Result<tokio::net::UdpSocket> {
        let kind = Type::RAW.nonblocking().cloexec();
        let socket = Socket::new(Domain::IPV6, kind, Some(Protocol::from(GRE)))?;
        socket.attach_filter(&filter(key))?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.bind(&SocketAddrV6::new(local, 0, 0, 0).into())?;
        tokio::net::UdpSocket::from_std(UdpSocket::from(socket))
    }

    /// Waits for a packet, then reads up to 16. How often is for the caller to limit. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn receive(&self) -> Result<Vec<Stranger>, Error> {
        let read = async {
            self.socket.readable().await?;
            let (mut buffer, mut found) = (vec![0; PACKET_BYTES], Vec::new());
            for _ in 0..READS {
                match self.socket.try_recv_from(&mut buffer) {
                    Ok((length, from)) => found.extend(self.take(from, buffer.get(..length).unwrap_or(&[]))),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(found)
        };
        read.await.map_err(|source| Error::Io { what: "receive GRE", source })
    }

    fn take(&self, from: SocketAddr, packet: &[u8]) -> Option<Stranger> {
        let SocketAddr::V6(from) = from else { return None };
        let key = key_of(packet).filter(|key| *key != self.key)?;
        let kind = *payload(packet, ETH_P_NHRP, key)?.get(usize::from(TYPE))?;
        (kind == REGISTRATION).then(|| Stranger { from: *from.ip(), key, packet: packet.to_vec() })
    }
}

/// Lets registrations with another key through, or with none where we have one: classic BPF, from the GRE header on.
fn filter(key: Option<u32>) -> [SockFilter; 11] {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let (plain, keyed) = (u32::from(ETH_P_NHRP), u32::from(KEY) << 16 | u32::from(ETH_P_NHRP));
    // Where we have no key, each is another one, and a packet without one is ours.
    let (ours, without) = if key.is_some() { (6, 0) } else { (0, 3) };
    [
        SockFilter::new(LOAD_WORD, 0, 0, 0),
        SockFilter::new(JUMP_EQUAL, 0, 4, keyed),
        SockFilter::new(LOAD_WORD, 0, 0, 4),
        SockFilter::new(JUMP_EQUAL, ours, 0, key.unwrap_or(0)),
        SockFilter::new(LOAD_BYTE, 0, 0, 8 + u32::from(TYPE)),
        SockFilter::new(JUMP_EQUAL, 3, 4, REGISTRATION.into()),
        SockFilter::new(JUMP_EQUAL, without, 3, plain),
        SockFilter::new(LOAD_BYTE, 0, 0, 4 + u32::from(TYPE)),
        SockFilter::new(JUMP_EQUAL, 0, 1, REGISTRATION.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gre6_socket::fill;
    use crate::sys::{ETH_P_IP, passes};

    fn packet(protocol: u16, key: Option<u32>, kind: u8) -> Vec<u8> {
        let mut nhrp = [0; 40];
        nhrp[usize::from(TYPE)] = kind;
        let mut frame = Vec::new();
        fill(&mut frame, protocol, key, &nhrp);
        frame
    }

    #[test]
    fn the_kernel_hands_on_registrations_with_other_keys_alone() {
        let keys = [None, Some(0), Some(100), Some(101)];
        for ours in keys {
            for key in keys {
                let registration = packet(ETH_P_NHRP, key, REGISTRATION);
                assert_eq!(passes(&filter(ours), &registration), key != ours, "{ours:?} {key:?}");
                assert!(!passes(&filter(ours), &packet(ETH_P_NHRP, key, 1)), "{ours:?} {key:?}");
                assert!(!passes(&filter(ours), &packet(ETH_P_IP, key, REGISTRATION)), "{ours:?} {key:?}");
                assert!(!passes(&filter(ours), &registration[..20]), "cut short: {ours:?} {key:?}");
            }
        }
    }

    #[tokio::test]
    async fn no_more_is_read_at_once_whatever_it_is() {
        // One of UDP, which needs no right and has no filter, makes the same calls.
        let socket = tokio::net::UdpSocket::bind("[::1]:0").await.unwrap();
        let sender = UdpSocket::bind("[::1]:0").unwrap();
        let to = socket.local_addr().unwrap();
        let strangers = Gre6Strangers { socket, key: Some(100) };
        for kind in std::iter::repeat_n(1, READS - 1).chain([REGISTRATION; 3]) {
            sender.send_to(&packet(ETH_P_NHRP, Some(101), kind), to).unwrap();
        }
        let mut heard = Vec::new();
        for _ in 0..2 {
            heard.push(strangers.receive().await.unwrap());
        }
        assert_eq!(heard.iter().map(Vec::len).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(heard[0][0].key, Some(101));
        assert_eq!(heard[0][0].packet, packet(ETH_P_NHRP, Some(101), REGISTRATION));
    }
}
