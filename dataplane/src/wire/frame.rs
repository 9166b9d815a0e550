//! Netlink framing: requests into one datagram, a datagram into messages, and the kernel's verdict on a
//! request.

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;

/// Message type of an error or acknowledgement.
pub(crate) const NLMSG_ERROR: u16 = 2;
/// Message type that ends a dump.
pub(crate) const NLMSG_DONE: u16 = 3;

const HEADER: usize = 16;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One request: the message and its flags beside `REQUEST` and `ACK`.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) message: RouteNetlinkMessage,
    pub(crate) flags: u16,
}

impl Request {
    /// Appends the request to `out`, aligned as netlink wants it.
    pub(crate) fn write(self, sequence: u32, acknowledge: bool, out: &mut Vec<u8>) {
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(self.message));
        message.header.flags = NLM_F_REQUEST | self.flags | if acknowledge { NLM_F_ACK } else { 0 };
        message.header.sequence_number = sequence;
        message.finalize();
        let start = out.len();
        out.resize(start + message.buffer_len(), 0);
        if let Some(room) = out.get_mut(start..) {
            message.serialize(room);
        }
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// One message of a datagram, undecoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// The whole message with its header.
    whole: &'a [u8],
}

impl<'a> Raw<'a> {
    /// The message with its header.
    pub(crate) fn whole(&self) -> &'a [u8] {
        self.whole
    }

    /// Decodes the message; `None` (and a word in the log) if it is of a shape that we do not know.
    pub(crate) fn decode(&self) -> Option<RouteNetlinkMessage> {
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(self.whole) {
            Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(message), .. }) => Some(message),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(kind = self.kind, %error, "netlink message not understood");
                None
            }
        }
    }

    /// For [`NLMSG_ERROR`] and [`NLMSG_DONE`]: what the kernel says about the request.
    pub(crate) fn verdict(&self) -> Result<(), Refusal> {
        let code = word(self.whole, HEADER).map_or(0, |w| w as i32);
        if code == 0 {
            return Ok(());
        }
        Err(Refusal { errno: code.saturating_neg(), message: self.words() })
    }

    /// The kernel's own words from an extended acknowledgement.
    fn words(&self) -> Option<String> {
        if self.kind != NLMSG_ERROR || self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        // The request's header follows the code, and unless the answer is capped its payload too.
        let echoed =
            if self.flags & NLM_F_CAPPED != 0 { HEADER } else { word(self.whole, HEADER + 4)? as usize };
        let rest = self.whole.get(HEADER + 4 + echoed.next_multiple_of(4)..)?;
        let (_, value) = attributes(rest).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)?;
        let text = value.split(|b| *b == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    /// What follows its header.
    pub(crate) fn payload(&self) -> &'a [u8] {
        self.whole.get(HEADER..).unwrap_or(&[])
    }

    /// The attributes of a message, type and value, after a header of its family of `size` bytes.
    pub(crate) fn attributes(&self, size: usize) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        attributes(self.whole.get(HEADER + size..).unwrap_or(&[]))
    }
}

/// Attributes, type and value; ends at the first that is malformed.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind) = split(word(rest, 0)?);
        let length = usize::from(length);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The kernel's refusal of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Positive error number.
    pub(crate) errno: i32,
    pub(crate) message: Option<String>,
}

/// The messages of one datagram, in order; a truncated tail is left out.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Raw<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = word(rest, 0)? as usize;
        let (kind, flags) = split_pair(rest)?;
        let sequence = word(rest, 8)?;
        let whole = rest.get(..length).filter(|w| w.len() >= HEADER)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Raw { kind, flags, sequence, whole })
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

fn split_pair(bytes: &[u8]) -> Option<(u16, u16)> {
    let kind = bytes.get(4..6)?.try_into().ok().map(u16::from_ne_bytes)?;
    let flags = bytes.get(6..8)?.try_into().ok().map(u16::from_ne_bytes)?;
    Some((kind, flags))
}

/// Length and kind of an attribute from its first word.
fn split(head: u32) -> (u16, u16) {
    let [a, b, c, d] = head.to_ne_bytes();
    (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(length: u32, kind: u16, flags: u16, sequence: u32) -> Vec<u8> {
        let mut out = length.to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(flags.to_ne_bytes());
        out.extend(sequence.to_ne_bytes());
        out.extend(0_u32.to_ne_bytes());
        out
    }

    #[test]
    fn reads_acks_and_refusals_in_order() {
        let mut datagram = header(36, NLMSG_ERROR, NLM_F_CAPPED, 7);
        datagram.extend(0_i32.to_ne_bytes());
        datagram.extend(header(40, 24, 0, 7));
        let words = b"Invalid gateway\0";
        let length = 36 + 4 + words.len() as u32;
        datagram.extend(header(length, NLMSG_ERROR, NLM_F_CAPPED | NLM_F_ACK_TLVS, 8));
        datagram.extend((-22_i32).to_ne_bytes());
        datagram.extend(header(40, 24, 0, 8));
        datagram.extend((4 + words.len() as u16).to_ne_bytes());
        datagram.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        datagram.extend(words);
        let seen: Vec<_> = messages(&datagram).map(|m| (m.sequence, m.verdict())).collect();
        let refusal = Refusal { errno: 22, message: Some("Invalid gateway".into()) };
        assert_eq!(seen, [(7, Ok(())), (8, Err(refusal))]);
    }

    #[test]
    fn never_panics_on_cut_or_hostile_datagrams() {
        let mut datagram = header(48, NLMSG_ERROR, NLM_F_ACK_TLVS, 1);
        datagram.extend([0xff; 32]);
        for cut in 0..=datagram.len() {
            for message in messages(&datagram[..cut]) {
                let _ = (message.verdict(), message.decode());
            }
        }
        assert_eq!(messages(&header(0, 2, 0, 1)).count(), 0);
        assert_eq!(messages(&header(15, 2, 0, 1)).count(), 0);
        assert_eq!(messages(&header(u32::MAX, 2, 0, 1)).count(), 0);
    }
}
