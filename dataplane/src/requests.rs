//! Questions to the kernel: dumps and single look-ups, one at a time on a socket of their own.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::Error;
use crate::sys::Netlink;
use crate::wire::frame::{self, NLMSG_DONE, NLMSG_ERROR, Raw, Request};
use crate::wire::{decode, encode};

/// Longest datagram of a dump in bytes (the kernel fills at most 32 KiB).
pub(crate) const DATAGRAM: usize = 64 << 10;
const NLM_F_DUMP_INTR: u16 = 16;
/// A dump during which the table changed is repeated this often; the last one counts as it is.
const TRIES: usize = 4;

/// Where a point-to-point GRE link leads, now. Asks on a socket of its own and does not wait: the kernel
/// answers such a question before the send returns.
pub(crate) fn remote(link: u32) -> io::Result<Option<IpAddr>> {
    let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    let mut bytes = Vec::new();
    encode::link_by_index(link).write(1, false, &mut bytes);
    socket.send(&bytes, 0)?;
    let mut answer = Vec::with_capacity(DATAGRAM);
    socket.recv(&mut answer, libc::MSG_DONTWAIT)?;
    let found = frame::messages(&answer).find_map(|m| match m.decode() {
        Some(RouteNetlinkMessage::NewLink(m)) => decode::link(&m)?.gre?.remote,
        _ => None,
    });
    Ok(found)
}

fn decoded(message: &Raw<'_>) -> Option<RouteNetlinkMessage> {
    message.decode()
}

/// The asking end.
#[derive(Debug)]
pub(crate) struct Requests {
    socket: Netlink,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    pub(crate) fn open() -> Result<Self, Error> {
        let what = "netlink request socket";
        let socket = Netlink::open(NETLINK_ROUTE, &[]).map_err(|e| Error::io(what, "CAP_NET_ADMIN", e))?;
        let options = socket.options();
        options
            .set_ext_ack(true)
            .and_then(|()| options.set_cap_ack(true))
            // Strict checking is what makes the kernel filter a dump by protocol.
            .and_then(|()| options.set_netlink_get_strict_chk(true))
            .and_then(|()| socket.receive_buffer(1 << 20))
            .map_err(|e| Error::io(what, "CAP_NET_ADMIN", e))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::new() })
    }

    /// What `read` makes of the messages that answer a dump, of kinds that are not decoded elsewhere.
    pub(crate) async fn dump_raw<T>(
        &mut self,
        what: &str,
        request: Request,
        read: impl Fn(&Raw<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let (found, interrupted) = self.exchange(what, request.clone(), false, &read).await?;
            if !interrupted || tries == TRIES {
                return Ok(found);
            }
        }
    }

    /// All messages that answer a dump. Ones that cannot be decoded are left out (and said in the log).
    pub(crate) async fn dump(
        &mut self,
        what: &str,
        request: Request,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        self.dump_raw(what, request, decoded).await
    }

    /// The answer to a single question; `None` if the kernel only said "yes".
    pub(crate) async fn ask(
        &mut self,
        what: &str,
        request: Request,
    ) -> Result<Option<RouteNetlinkMessage>, Error> {
        let (messages, _) = self.exchange(what, request, true, &decoded).await?;
        Ok(messages.into_iter().next())
    }

    async fn exchange<T>(
        &mut self,
        what: &str,
        request: Request,
        acknowledge: bool,
        read: &impl Fn(&Raw<'_>) -> Option<T>,
    ) -> Result<(Vec<T>, bool), Error> {
        // Answers to a question whose asker went away have another number and are skipped.
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let mut out = Vec::new();
        request.write(sequence, acknowledge, &mut out);
        let failed = |source| Error::Io { what: "netlink request", source };
        self.socket.send(&out).await.map_err(failed)?;
        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            self.socket.receive(&mut self.buffer, DATAGRAM).await.map_err(failed)?;
            for message in frame::messages(&self.buffer).filter(|m| m.sequence == sequence) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                if matches!(message.kind, NLMSG_DONE | NLMSG_ERROR) {
                    return match message.verdict() {
                        Ok(()) => Ok((answers, interrupted)),
                        Err(refusal) => Err(Error::kernel(what, refusal.errno, refusal.message)),
                    };
                }
                answers.extend(read(&message));
            }
        }
    }
}
