//! Capture: reads packets that an nft rule logs (see [`crate::nft`]), because they came in and left by a tunnel, or
//! because they are multicast that the tunnel cannot carry by itself. The rules limit them, in the kernel.

use std::net::Ipv4Addr;

use netlink_packet_netfilter::NetfilterProtoFamily;
use netlink_packet_netfilter::nflog::{ConfigCmd, ConfigMode, ConfigNla, config_request};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::Error;
use crate::requests::DATAGRAM;
use crate::sys::Netlink;
use crate::wire::frame::{self, NLMSG_ERROR};

/// Bytes of each hairpinned packet that are kept: enough for the inner IP header and some of what follows (a Traffic
/// Indication carries the start of the packet).
pub const HEADERS: u32 = 128;
/// Packets are kept as they are.
pub const WHOLE: u32 = 0xffff;

/// `NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET`.
const PACKET: u16 = 4 << 8;
/// Bytes of `struct nfgenmsg`.
const NFGENMSG: usize = 4;

/// Of `enum nfulnl_attr_type`. Read by hand: the crate's reader of hardware addresses panics on a length that the
/// attribute does not have.
mod attribute {
    pub(super) const LINK_IN: u16 = 4;
    pub(super) const LINK_OUT: u16 = 5;
    pub(super) const HARDWARE_ADDRESS: u16 = 8;
    pub(super) const PAYLOAD: u16 = 9;
}

/// A packet that a rule logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Index of the link it came in by; `None`: it is the node's own.
    pub link_in: Option<u32>,
    /// Index of the link it leaves by; `None`: it was logged before that was known.
    pub link_out: Option<u32>,
    /// Outer source address, of a packet that came in by a multipoint tunnel over IPv4.
    pub nbma: Option<Ipv4Addr>,
    /// The packet from its IP header on, as much of it as is kept.
    pub packet: Vec<u8>,
}

/// One NFLOG group.
#[derive(Debug)]
pub struct Nflog {
    socket: Netlink,
}

impl Nflog {
    /// Binds the group; `keep` bytes of each packet are handed out ([`HEADERS`], [`WHOLE`]).
    ///
    /// # Errors
    /// [`Error::Kernel`] with EPERM if another process has the group or CAP_NET_ADMIN is missing (the kernel
    /// does not tell the two apart).
    pub fn open(group: u16, keep: u32) -> Result<Self, Error> {
        let what = "NFLOG socket";
        let failed = |e| Error::io(what, "CAP_NET_ADMIN", e);
        let socket = Netlink::open(NETLINK_NETFILTER, &[]).map_err(failed)?;
        socket.receive_buffer(1 << 20).map_err(failed)?;
        // When we are too slow, packets are lost in silence: the sender goes on by the hub's path and logs
        // again.
        socket.options().set_no_enobufs(true).map_err(failed)?;
        let settings = vec![
            ConfigNla::from(ConfigCmd::Bind),
            ConfigNla::from(ConfigMode::new_packet(keep)),
            // Each packet at once instead of up to a second later.
            ConfigNla::QThresh(1),
        ];
        let request = config_request(NetfilterProtoFamily::Unspec, group, settings);
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        let options = socket.options();
        options.send(&bytes, 0).map_err(failed)?;
        // The answer is there when the send returns: netfilter handles requests in the sender's context.
        let mut answer = Vec::with_capacity(DATAGRAM);
        options.recv(&mut answer, 0).map_err(failed)?;
        for message in frame::messages(&answer).filter(|m| m.kind == NLMSG_ERROR) {
            if let Err(refusal) = message.verdict() {
                return Err(Error::kernel(
                    format!("bind NFLOG group {group}"),
                    refusal.errno,
                    refusal.message,
                ));
            }
        }
        Ok(Self { socket })
    }

    /// Waits for logged packets. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Io`] when the socket fails.
    pub async fn receive(&self) -> Result<Vec<Logged>, Error> {
        let mut buffer = Vec::new();
        loop {
            let received = self.socket.receive(&mut buffer, DATAGRAM).await;
            received.map_err(|source| Error::Io { what: "receive NFLOG", source })?;
            let found = packets(&buffer);
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
}

/// The packets in a datagram of nfnetlink_log; whatever else is in it, or cannot be read, is passed over.
pub fn packets(datagram: &[u8]) -> Vec<Logged> {
    frame::messages(datagram).filter_map(logged).collect()
}

fn logged(message: frame::Raw<'_>) -> Option<Logged> {
    if message.kind != PACKET {
        return None;
    }
    let (mut link_in, mut link_out, mut nbma, mut packet) = (None, None, None, None);
    for (kind, value) in message.attributes(NFGENMSG) {
        let number = || value.try_into().ok().map(u32::from_be_bytes);
        match kind {
            attribute::LINK_IN => link_in = number(),
            attribute::LINK_OUT => link_out = number(),
            attribute::HARDWARE_ADDRESS => nbma = outer_source(value),
            attribute::PAYLOAD => packet = Some(value.to_vec()),
            _ => {}
        }
    }
    Some(Logged { link_in, link_out, nbma, packet: packet? })
}

/// The hardware address, if it is one of four bytes: length (16 bits), padding, address.
fn outer_source(address: &[u8]) -> Option<Ipv4Addr> {
    match *address {
        [0, 4, _, _, a, b, c, d, ..] => Some(Ipv4Addr::new(a, b, c, d)).filter(|a| !a.is_unspecified()),
        _ => None,
    }
}
