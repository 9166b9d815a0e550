//! System calls that the safe crates do not offer: the only file of this crate with `unsafe` blocks.
//!
//! Two asynchronous sockets come out of it, [`Netlink`] and [`Packet`]; all else in the crate is safe code on
//! top.

#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, SockRef, Socket, Type};
use tokio::io::unix::AsyncFd;

/// NHRP's EtherType (RFC 2332 section 5.1).
pub(crate) const ETH_P_NHRP: u16 = 0x2001;
/// EtherTypes of IPv4 and IPv6.
pub(crate) const ETH_P_IP: u16 = 0x0800;
pub(crate) const ETH_P_IPV6: u16 = 0x86dd;
/// Of every EtherType, and of none.
pub(crate) const ETH_P_ALL: u16 = 3;
/// Most packets that one `recvmmsg` or `sendmmsg` carries.
pub(crate) const BURST: usize = 64;
/// Longest NHRP packet that is taken, in bytes; a longer one is dropped.
pub(crate) const PACKET_BYTES: usize = 4096;

/// A netlink socket bound to a port of its own.
#[derive(Debug)]
pub(crate) struct Netlink {
    fd: AsyncFd<NetlinkFd>,
    port: u32,
}

impl Netlink {
    /// Opens a socket of a netlink `protocol` and joins multicast `groups` (numbers, not masks).
    pub(crate) fn open(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        socket.set_non_blocking(true)?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        // SAFETY: NetlinkFd owns its descriptor: it is opened above, returned unchanged by `as_raw_fd`, and
        // closed only when the value is dropped, which AsyncFd does after deregistering it.
        let fd = unsafe { AsyncFd::register(NetlinkFd(socket)) }.map_err(io::Error::from)?;
        Ok(Self { fd, port })
    }

    /// Our port number: the kernel puts it into what it sends because of us.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// The socket, for its options.
    pub(crate) fn options(&self) -> &netlink_sys::Socket {
        &self.fd.get_ref().0
    }

    /// Lets the kernel drop what the classic BPF program `filter` answers 0 for.
    pub(crate) fn attach_filter(&self, filter: &[SockFilter]) -> io::Result<()> {
        SockRef::from(&self.options().as_fd()).attach_filter(filter)
    }

    /// Asks for a receive buffer of `bytes`, above the system's limit where we may.
    pub(crate) fn receive_buffer(&self, bytes: usize) -> io::Result<()> {
        receive_buffer(&self.options().as_fd(), bytes)
    }

    /// Replaces the content of `into` with the next datagram.
    pub(crate) async fn receive(&self, into: &mut Vec<u8>, room: usize) -> io::Result<()> {
        loop {
            let mut guard = self.fd.readable().await?;
            into.clear();
            into.reserve(room);
            match guard.try_io(|fd| fd.get_ref().0.recv(into, 0)) {
                Ok(result) => return result.map(|_| ()),
                Err(_would_block) => continue,
            }
        }
    }

    /// Sends one datagram to the kernel.
    pub(crate) async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            let mut guard = self.fd.writable().await?;
            match guard.try_io(|fd| fd.get_ref().0.send(bytes, 0)) {
                Ok(result) => return result.map(|_| ()),
                Err(_would_block) => continue,
            }
        }
    }
}

/// What one `recvmmsg` brought besides good packets.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Oddities {
    /// Packets whose link-layer source is 0.0.0.0.
    pub(crate) sourceless: u64,
    /// Packets longer than [`PACKET_BYTES`].
    pub(crate) oversized: u64,
}

/// A packet socket of one link and one EtherType that sends and receives payloads (`SOCK_DGRAM`).
#[derive(Debug)]
pub(crate) struct Packet {
    fd: AsyncFd<Socket>,
    link: u32,
}

impl Packet {
    /// Opens the socket on the link with index `link`.
    pub(crate) fn open(link: u32) -> io::Result<Self> {
        // Protocol 0 until it is bound: else it would take packets of all links meanwhile.
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::PACKET, kind, Some(Protocol::from(0)))?;
        receive_buffer(&socket, 4 << 20)?;
        socket.bind(&link_address(link, ETH_P_NHRP))?;
        Ok(Self { fd: watched(socket)?, link })
    }

    /// Opens a socket that takes of what comes in by the link with index `link` what the classic BPF program `filter`
    /// lets through, and nothing that goes out.
    pub(crate) fn filtered(link: u32, protocol: u16, filter: &[SockFilter]) -> io::Result<Self> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::PACKET, kind, Some(Protocol::from(0)))?;
        socket.attach_filter(filter)?;
        set_option(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        socket.bind(&link_address(link, protocol))?;
        Ok(Self { fd: watched(socket)?, link })
    }

    /// Opens a socket that sends by the link with index `link`, and receives nothing.
    pub(crate) fn sender(link: u32) -> io::Result<Self> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::PACKET, kind, Some(Protocol::from(0)))?;
        Ok(Self { fd: watched(socket)?, link })
    }

    /// Waits for packets and hands on up to [`BURST`] of them: link-layer source (for multipoint GRE the outer
    /// source address; a point-to-point link has no such thing) and payload of the GRE header.
    pub(crate) async fn receive(
        &self,
        buffer: &mut [u8],
        mut hand_on: impl FnMut(Option<Ipv4Addr>, &[u8]),
    ) -> io::Result<Oddities> {
        loop {
            let mut guard = self.fd.readable().await?;
            match guard.try_io(|fd| receive_burst(fd.get_ref(), buffer, &mut hand_on)) {
                Ok(result) => return result,
                Err(_would_block) => continue,
            }
        }
    }

    /// Sends up to [`BURST`] packets of one EtherType; how many went out. An error is that of the first.
    pub(crate) async fn send(&self, protocol: u16, packets: &[(Ipv4Addr, &[u8])]) -> io::Result<usize> {
        loop {
            let mut guard = self.fd.writable().await?;
            match guard.try_io(|fd| send_burst(fd.get_ref(), self.link, protocol, packets)) {
                Ok(result) => return result,
                Err(_would_block) => continue,
            }
        }
    }
}

/// Makes a socket asynchronous.
pub(crate) fn watched(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the Socket owns its descriptor, returns the same one from `as_raw_fd` always, and closes it only when it
    // is dropped, which AsyncFd does after deregistering it.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}

#[derive(Debug)]
struct NetlinkFd(netlink_sys::Socket);

impl AsRawFd for NetlinkFd {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// `SO_RCVBUFFORCE`, or what `SO_RCVBUF` allows where the former is refused.
pub(crate) fn receive_buffer(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    let wanted = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted)
        .or_else(|_| SockRef::from(&socket.as_fd()).set_recv_buffer_size(bytes))
}

/// Whether the kernel hands on this packet to a socket with this filter.
#[cfg(test)]
pub(crate) fn passes(program: &[SockFilter], packet: &[u8]) -> bool {
    // Where classic BPF sees nothing but the packet, and that needs no right.
    let (from, to) = std::os::unix::net::UnixDatagram::pair().unwrap();
    SockRef::from(&to).attach_filter(program).unwrap();
    to.set_nonblocking(true).unwrap();
    from.send(packet).unwrap();
    to.recv(&mut [0; PACKET_BYTES]).is_ok()
}

/// What this socket sends is not cut, neither here nor on the way, whatever the path's MTU is taken to be.
pub(crate) fn never_cut(socket: &impl AsFd, ipv6: bool) -> io::Result<()> {
    let (level, discovery, probe) = match ipv6 {
        true => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
        false => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
    };
    set_option(socket, level, discovery, probe)?;
    if ipv6 { set_option(socket, level, libc::IPV6_DONTFRAG, 1) } else { Ok(()) }
}

/// Sets a socket option whose value is a number.
fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the descriptor is open (borrowed for the call); the option value points to a c_int that lives
    // until the call returns, and its length is that of a c_int.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            ptr::from_ref(&value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn raw_link_address(link: u32, protocol: u16, to: Ipv4Addr) -> libc::sockaddr_ll {
    let mut sll_addr = [0; 8];
    sll_addr[..4].copy_from_slice(&to.octets());
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::c_ushort,
        sll_protocol: protocol.to_be(),
        sll_ifindex: link as libc::c_int,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 4,
        sll_addr,
    }
}

fn link_address(link: u32, protocol: u16) -> SockAddr {
    let raw = raw_link_address(link, protocol, Ipv4Addr::UNSPECIFIED);
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a socket address type, plain old data, and smaller than the zeroed storage.
    *unsafe { storage.view_as::<libc::sockaddr_ll>() } = raw;
    // SAFETY: the storage holds a sockaddr_ll, and the length is that of a sockaddr_ll.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}

fn zeroed_headers(n: usize) -> Vec<libc::mmsghdr> {
    // SAFETY: mmsghdr is plain old data (null pointers, zero lengths) for which all zeros is a valid value.
    (0..n).map(|_| unsafe { mem::zeroed() }).collect()
}

fn receive_burst(
    socket: &Socket,
    buffer: &mut [u8],
    hand_on: &mut impl FnMut(Option<Ipv4Addr>, &[u8]),
) -> io::Result<Oddities> {
    let n = (buffer.len() / PACKET_BYTES).min(BURST);
    let mut addresses = vec![raw_link_address(0, ETH_P_NHRP, Ipv4Addr::UNSPECIFIED); n];
    let mut parts: Vec<libc::iovec> = buffer
        .chunks_exact_mut(PACKET_BYTES)
        .take(n)
        .map(|chunk| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: chunk.len() })
        .collect();
    let mut headers = zeroed_headers(n);
    for ((header, address), part) in headers.iter_mut().zip(&mut addresses).zip(&mut parts) {
        header.msg_hdr.msg_name = ptr::from_mut(address).cast();
        header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        header.msg_hdr.msg_iov = ptr::from_mut(part);
        header.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: `headers` holds n valid headers. Each points to an address and an iovec of its own, and each
    // iovec to its own PACKET_BYTES of `buffer`; all of them outlive the call and nothing else uses them
    // during it.
    let got = unsafe {
        let flags = libc::MSG_DONTWAIT as _;
        libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), n as _, flags, ptr::null_mut())
    };
    let Ok(got) = usize::try_from(got) else { return Err(io::Error::last_os_error()) };
    let mut odd = Oddities::default();
    let filled = headers.iter().zip(&addresses).zip(buffer.chunks_exact(PACKET_BYTES)).take(got);
    for ((header, address), chunk) in filled {
        let [a, b, c, d, ..] = address.sll_addr;
        let source = (address.sll_halen == 4).then_some(Ipv4Addr::new(a, b, c, d));
        if source.is_some_and(|s| s.is_unspecified()) {
            odd.sourceless += 1;
        } else if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            odd.oversized += 1;
        } else {
            hand_on(source, chunk.get(..header.msg_len as usize).unwrap_or(chunk));
        }
    }
    Ok(odd)
}

fn send_burst(socket: &Socket, link: u32, protocol: u16, packets: &[(Ipv4Addr, &[u8])]) -> io::Result<usize> {
    let n = packets.len().min(BURST);
    let mut addresses: Vec<_> =
        packets.iter().take(n).map(|(to, _)| raw_link_address(link, protocol, *to)).collect();
    let mut parts: Vec<libc::iovec> = packets
        .iter()
        .take(n)
        .map(|(_, bytes)| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() })
        .collect();
    let mut headers = zeroed_headers(n);
    for ((header, address), part) in headers.iter_mut().zip(&mut addresses).zip(&mut parts) {
        header.msg_hdr.msg_name = ptr::from_mut(address).cast();
        header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        header.msg_hdr.msg_iov = ptr::from_mut(part);
        header.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: `headers` holds n valid headers that point to addresses and iovecs which outlive the call; the
    // kernel only reads through the iovecs (their bases were const), and writes nothing but each header's
    // msg_len.
    let sent =
        unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), n as _, libc::MSG_DONTWAIT as _) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}
