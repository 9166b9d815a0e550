//! Queueing disciplines and classes (linux/rtnetlink.h, linux/pkt_sched.h): what shapes packets to each spoke.
//!
//! The root is HTB with a handle of our own; a packet finds its class by its priority (`meta priority` in nft), and
//! passes unshaped without one. Below each class is `fq_codel`, so that a flow which fills it does not hold up the
//! others.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcHeader, TcMessage};

use super::frame::{Raw, Request};
use crate::model::{Class, ROOT};

/// RTM_NEWQDISC.
pub(crate) const NEW_QDISC: u16 = 36;
/// RTM_DELQDISC.
pub(crate) const DELETED_QDISC: u16 = 37;
/// RTM_NEWTCLASS.
pub(crate) const NEW_CLASS: u16 = 40;
/// RTM_DELTCLASS.
pub(crate) const DELETED_CLASS: u16 = 41;

/// Bytes of `struct tcmsg`.
const HEADER: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TC_H_ROOT: u32 = 0xffff_ffff;
const HTB: &str = "htb";
const FQ_CODEL: &str = "fq_codel";
// Attributes of HTB and fq_codel.
const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
const TCA_HTB_DIRECT_QLEN: u16 = 5;
const TCA_FQ_CODEL_LIMIT: u16 = 2;
const TCA_FQ_CODEL_FLOWS: u16 = 5;
const TCA_FQ_CODEL_MEMORY_LIMIT: u16 = 9;
/// `struct tc_htb_glob`: version, rate to quantum, default class (none), debug, direct packets.
const HTB_VERSION: u32 = 3;
const RATE_TO_QUANTUM: u32 = 10;
/// Packets that may wait without a class: with none the kernel would take the link's length of queue, which is 0 for
/// some.
const DIRECT: u32 = 1_000;
/// No table of rates comes with the class.
const LINKLAYER_ETHERNET: u8 = 1;
/// No class lends, so that nobody asks for it; but the kernel wants one in its log if it is not of this size.
const QUANTUM: u32 = 3_000;
/// Of each spoke: packets, flows and bytes that may wait. A hub has as many of these as spokes.
const PACKETS: u32 = 1_000;
const FLOWS: u32 = 64;
const BYTES: u32 = 4 << 20;

/// Puts our root on the link.
pub(crate) fn put_root(link: u32) -> Request {
    let mut globals = Vec::new();
    for word in [HTB_VERSION, RATE_TO_QUANTUM, 0, 0, 0] {
        globals.extend(word.to_ne_bytes());
    }
    let mut options = Vec::new();
    nla(&mut options, TCA_HTB_INIT, &globals);
    nla(&mut options, TCA_HTB_DIRECT_QLEN, &DIRECT.to_ne_bytes());
    let message = message(link, handle(0), TC_H_ROOT, Some((HTB, options)));
    Request { message: RouteNetlinkMessage::NewQueueDiscipline(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// Takes the root away, with all below it.
pub(crate) fn delete_root(link: u32) -> Request {
    let message = message(link, 0, TC_H_ROOT, None);
    Request { message: RouteNetlinkMessage::DelQueueDiscipline(message), flags: 0 }
}

/// Makes or changes a class; what waits in it stays.
pub(crate) fn put_class(class: &Class) -> Request {
    let mut options = Vec::new();
    nla(&mut options, TCA_HTB_PARMS, &htb_options(class));
    let message = message(class.link, handle(class.minor), handle(0), Some((HTB, options)));
    Request { message: RouteNetlinkMessage::NewTrafficClass(message), flags: NLM_F_CREATE }
}

/// Takes a class away, with what waits in it.
pub(crate) fn delete_class(link: u32, minor: u16) -> Request {
    let message = message(link, handle(minor), handle(0), None);
    Request { message: RouteNetlinkMessage::DelTrafficClass(message), flags: 0 }
}

/// Puts `fq_codel` below a class; the kernel finds it a handle.
pub(crate) fn put_leaf(link: u32, minor: u16) -> Request {
    let mut options = Vec::new();
    for (kind, value) in
        [(TCA_FQ_CODEL_LIMIT, PACKETS), (TCA_FQ_CODEL_FLOWS, FLOWS), (TCA_FQ_CODEL_MEMORY_LIMIT, BYTES)]
    {
        nla(&mut options, kind, &value.to_ne_bytes());
    }
    let message = message(link, 0, handle(minor), Some((FQ_CODEL, options)));
    Request { message: RouteNetlinkMessage::NewQueueDiscipline(message), flags: NLM_F_CREATE | NLM_F_REPLACE }
}

/// All queueing disciplines of the namespace.
pub(crate) fn dump_qdiscs() -> Request {
    let message = TcMessage::default();
    Request { message: RouteNetlinkMessage::GetQueueDiscipline(message), flags: NLM_F_DUMP }
}

/// The classes of a link.
pub(crate) fn dump_classes(link: u32) -> Request {
    let message = message(link, 0, 0, None);
    Request { message: RouteNetlinkMessage::GetTrafficClass(message), flags: NLM_F_DUMP }
}

/// A queueing discipline, as dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Qdisc {
    /// Our root.
    Root,
    /// `fq_codel` below a class of it.
    Leaf(u16),
    /// Something else.
    Other,
}

/// A queueing discipline: the link that it is on, and what it is to us.
pub(crate) fn qdisc(message: &Raw<'_>) -> Option<(u32, Qdisc)> {
    let fixed = Fixed::of(message)?;
    let kind = kind(message);
    let what = match kind {
        Some(kind) if kind == HTB.as_bytes() && fixed.handle == handle(0) && fixed.parent == TC_H_ROOT => {
            Qdisc::Root
        }
        Some(kind) if kind == FQ_CODEL.as_bytes() && fixed.parent >> 16 == handle(0) >> 16 => {
            Qdisc::Leaf(fixed.parent as u16)
        }
        _ => Qdisc::Other,
    };
    Some((fixed.link, what))
}

/// A class of our root.
pub(crate) fn class(message: &Raw<'_>) -> Option<Class> {
    let fixed = Fixed::of(message)?;
    if kind(message)? != HTB.as_bytes() || fixed.handle >> 16 != handle(0) >> 16 {
        return None;
    }
    let options = message.attributes(HEADER).find(|(kind, _)| kind & 0x3fff == TCA_OPTIONS)?.1;
    let (_, parameters) = super::frame::attributes(options).find(|(kind, _)| *kind == TCA_HTB_PARMS)?;
    let word = |at: usize| parameters.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let minor = fixed.handle as u16;
    let mut class = Class { link: fixed.link, minor, rate: word(8)?, burst: word(24)? };
    // A ceiling of its own, or a place below another class: no wanted one is like that.
    if word(20)? != class.rate || word(28)? != class.burst || fixed.parent != TC_H_ROOT {
        class.rate = 0;
    }
    Some(class)
}

/// The link that a message about queueing is about.
pub(crate) fn link(message: &Raw<'_>) -> Option<u32> {
    Fixed::of(message).map(|fixed| fixed.link)
}

struct Fixed {
    link: u32,
    handle: u32,
    parent: u32,
}

impl Fixed {
    fn of(message: &Raw<'_>) -> Option<Self> {
        let fixed = message.payload().get(..HEADER)?;
        let word = |at: usize| fixed.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        Some(Self { link: word(4)?, handle: word(8)?, parent: word(12)? })
    }
}

fn kind<'a>(message: &Raw<'a>) -> Option<&'a [u8]> {
    let (_, kind) = message.attributes(HEADER).find(|(kind, _)| *kind == TCA_KIND)?;
    kind.split(|b| *b == 0).next()
}

/// Handle of a class of ours; that of the root for 0.
fn handle(minor: u16) -> u32 {
    u32::from(ROOT) << 16 | u32::from(minor)
}

/// `struct tc_htb_opt`: rate and ceiling (`struct tc_ratespec`), their bursts, quantum, level, priority.
fn htb_options(class: &Class) -> Vec<u8> {
    let mut out = Vec::with_capacity(44);
    for _ in 0..2 {
        out.extend([0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0]);
        out.extend(class.rate.to_ne_bytes());
    }
    for word in [class.burst, class.burst, QUANTUM, 0, 0] {
        out.extend(word.to_ne_bytes());
    }
    out
}

fn message(link: u32, handle: u32, parent: u32, of: Option<(&str, Vec<u8>)>) -> TcMessage {
    let header = TcHeader {
        index: link as i32,
        handle: TcHandle::from(handle),
        parent: TcHandle::from(parent),
        ..TcHeader::default()
    };
    let attributes = of.into_iter().flat_map(|(kind, options)| {
        [TcAttribute::Kind(kind.to_owned()), TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options))]
    });
    TcMessage::from_parts(header, attributes.collect())
}

fn nla(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend((4 + value.len() as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::super::frame;
    use super::*;

    fn written(request: Request) -> Vec<u8> {
        let mut out = Vec::new();
        request.write(1, false, &mut out);
        out
    }

    fn as_dumped(mut bytes: Vec<u8>, parent: u32) -> Vec<u8> {
        bytes[16 + 12..16 + 16].copy_from_slice(&parent.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_class_as_it_is_written_is_read_as_the_same() {
        let class = Class::new(7, 0x1234, 50_000, None);
        // The kernel shows the root's classes as children of "root".
        let bytes = as_dumped(written(put_class(&class)), TC_H_ROOT);
        let raw = frame::messages(&bytes).next().unwrap();
        assert_eq!((raw.kind, link(&raw)), (NEW_CLASS, Some(7)));
        assert_eq!(super::class(&raw), Some(class.clone()));
        // One with another ceiling, or below another class, is never the wanted one.
        let below = as_dumped(bytes.clone(), handle(1));
        assert_ne!(super::class(&frame::messages(&below).next().unwrap()), Some(class.clone()));
        for cut in 0..bytes.len() {
            frame::messages(&bytes[..cut]).for_each(|raw| {
                let _ = (super::class(&raw), qdisc(&raw));
            });
        }
    }

    #[test]
    fn ours_and_others() {
        let of = |bytes: &[u8]| qdisc(&frame::messages(bytes).next().unwrap());
        assert_eq!(of(&written(put_root(7))), Some((7, Qdisc::Root)));
        assert_eq!(of(&written(put_leaf(7, 9))), Some((7, Qdisc::Leaf(9))));
        let mut foreign = written(put_root(7));
        foreign[16 + 8..16 + 12].copy_from_slice(&(1_u32 << 16).to_ne_bytes());
        assert_eq!(of(&foreign), Some((7, Qdisc::Other)));
    }
}
