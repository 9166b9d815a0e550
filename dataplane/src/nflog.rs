//! Redirect capture: reads the headers of packets that an nft rule logs because they came in and left by a
//! tunnel. The rule (see [`crate::nft`]) limits them per pair of addresses, in the kernel.

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::nflog::{
    ConfigCmd, ConfigMode, ConfigNla, PacketNla, ULogMessage, config_request,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::Error;
use crate::requests::DATAGRAM;
use crate::sys::Netlink;
use crate::wire::frame::{self, NLMSG_ERROR};

/// Bytes of each packet that are kept: enough for the inner IP header and some of what follows (a Traffic
/// Indication carries the start of the packet).
pub(crate) const SNAP_BYTES: u32 = 128;

/// A packet that came in by a tunnel and leaves by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hairpin {
    /// Index of the link it came in by.
    pub link_in: u32,
    /// Index of the link it leaves by.
    pub link_out: u32,
    /// The first bytes of the IP packet, from its header on.
    pub packet: Vec<u8>,
}

/// One NFLOG group.
#[derive(Debug)]
pub struct Nflog {
    socket: Netlink,
}

impl Nflog {
    /// Binds the group.
    ///
    /// # Errors
    /// [`Error::Kernel`] with EPERM if another process has the group or CAP_NET_ADMIN is missing (the kernel
    /// does not tell the two apart).
    pub fn open(group: u16) -> Result<Self, Error> {
        let what = "NFLOG socket";
        let failed = |e| Error::io(what, "CAP_NET_ADMIN", e);
        let socket = Netlink::open(NETLINK_NETFILTER, &[]).map_err(failed)?;
        socket.receive_buffer(1 << 20).map_err(failed)?;
        // When we are too slow, packets are lost in silence: the sender goes on by the hub's path and logs
        // again.
        socket.options().set_no_enobufs(true).map_err(failed)?;
        let settings = vec![
            ConfigNla::from(ConfigCmd::Bind),
            ConfigNla::from(ConfigMode::new_packet(SNAP_BYTES)),
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
    pub async fn receive(&self) -> Result<Vec<Hairpin>, Error> {
        let mut buffer = Vec::new();
        loop {
            let received = self.socket.receive(&mut buffer, DATAGRAM).await;
            received.map_err(|source| Error::Io { what: "receive NFLOG", source })?;
            let found: Vec<_> = frame::messages(&buffer).filter_map(|m| hairpin(m.whole())).collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
}

fn hairpin(message: &[u8]) -> Option<Hairpin> {
    let message = NetlinkMessage::<NetfilterMessage>::deserialize(message).ok()?;
    let NetlinkPayload::InnerMessage(NetfilterMessage {
        inner: NetfilterMessageInner::ULog(ULogMessage::Packet(parts)),
        ..
    }) = message.payload
    else {
        return None;
    };
    let (mut link_in, mut link_out, mut packet) = (None, None, None);
    for part in parts {
        match part {
            PacketNla::IfIndexInDev(index) => link_in = Some(index),
            PacketNla::IfIndexOutDev(index) => link_out = Some(index),
            PacketNla::Payload(bytes) => packet = Some(bytes),
            _ => {}
        }
    }
    Some(Hairpin { link_in: link_in?, link_out: link_out?, packet: packet? })
}
