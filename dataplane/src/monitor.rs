//! The monitor: a task that reads the kernel's notifications and hands them on as [`KernelEvent`]s.
//!
//! It never lets the reader believe that it saw everything when it did not: events that the kernel had to
//! drop (ENOBUFS) and events for which the reader's channel had no room both become one
//! [`KernelEvent::Overrun`]. Neighbour and route changes that our own [`crate::Kernel::apply`] made are
//! filtered out in the kernel, so that ten thousand of them cost the reader nothing. Changes of our nft
//! tables come from a socket of netfilter's; our own loads are among them, which the reader tells apart by
//! looking.

use std::collections::HashSet;
use std::sync::Arc;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::NeighbourState;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use socket2::SockFilter;
use tokio::sync::{Mutex, mpsc};

use crate::Error;
use crate::model::{KernelEvent, PROTOCOL};
use crate::nft::TABLE_PREFIX;
use crate::requests::{DATAGRAM, Requests};
use crate::sys::Netlink;
use crate::wire::{decode, encode, frame, tc};

/// Events that may wait for the reader.
pub(crate) const CHANNEL: usize = 4096;
/// Kernel-side room for notifications in bytes (about 10 000 of them: the kernel doubles it and counts some
/// 800 each).
const RECEIVE_BUFFER: usize = 4 << 20;
// Multicast groups (linux/rtnetlink.h): link, neighbours, queueing, IPv4 and IPv6 addresses and routes.
const GROUPS: [u32; 9] = [1, 3, 4, 5, 9, 7, 11, 24, 25];
/// RTM_NEWNETCONF.
const NETCONF: u16 = 80;
/// NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h).
const NFT_GROUP: u32 = 7;
/// NFNL_SUBSYS_NFTABLES, the high byte of a message's type.
const NFT_SUBSYSTEM: u16 = 10;
/// Message types (low byte) that are about elements of sets, or end a transaction: not about what a table is.
const NFT_PASSED_OVER: [u16; 3] = [12, 14, 15];
const GRE: &str = "gre";

/// Where notifications come from, before the task runs.
#[derive(Debug)]
pub(crate) struct Monitor {
    socket: Netlink,
    nft: Netlink,
    requests: Arc<Mutex<Requests>>,
    gre: HashSet<u32>,
}

impl Monitor {
    /// Subscribes, then learns which links are GRE. `writer` is the port whose neighbour and route changes
    /// are ours.
    pub(crate) async fn open(writer: u32, requests: Arc<Mutex<Requests>>) -> Result<Self, Error> {
        let failed = |e| Error::io("netlink monitor", "CAP_NET_ADMIN", e);
        let socket = Netlink::open(NETLINK_ROUTE, &GROUPS).map_err(failed)?;
        socket.receive_buffer(RECEIVE_BUFFER).map_err(failed)?;
        socket.attach_filter(&own_changes(writer)).map_err(failed)?;
        let nft = Netlink::open(NETLINK_NETFILTER, &[NFT_GROUP]).map_err(failed)?;
        let mut monitor = Self { socket, nft, requests, gre: HashSet::new() };
        monitor.learn_links().await?;
        Ok(monitor)
    }

    /// Runs until the receiver is dropped or the socket fails for good.
    pub(crate) async fn run(mut self, events: mpsc::Sender<KernelEvent>) {
        let (mut buffer, mut nft) = (Vec::new(), Vec::new());
        loop {
            let (received, route) = tokio::select! {
                () = events.closed() => return,
                received = self.socket.receive(&mut buffer, DATAGRAM) => (received, true),
                received = self.nft.receive(&mut nft, DATAGRAM) => (received, false),
            };
            let ended = match received {
                Ok(()) if route => self.hand_on(&buffer, &events).await,
                Ok(()) => self.hand_on_nft(&nft, &events).await,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.overrun(&events).await,
                Err(error) => {
                    tracing::error!(%error, "netlink monitor: reading failed");
                    let _ = events.send(KernelEvent::Overrun).await;
                    return;
                }
            };
            if ended.is_err() {
                return;
            }
        }
    }

    async fn hand_on(&mut self, datagram: &[u8], events: &mpsc::Sender<KernelEvent>) -> Result<(), Gone> {
        for message in frame::messages(datagram) {
            let event = match message.kind {
                NETCONF => Some(KernelEvent::Settings),
                tc::NEW_QDISC | tc::DELETED_QDISC | tc::NEW_CLASS | tc::DELETED_CLASS => {
                    let link = tc::link(&message).filter(|link| self.gre.contains(link));
                    link.map(|link| KernelEvent::Queues { link })
                }
                _ => message.decode().and_then(|m| self.event(&m)),
            };
            let Some(event) = event else { continue };
            match events.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => self.overrun(events).await?,
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(Gone),
            }
        }
        Ok(())
    }

    /// One event a table of ours and datagram.
    async fn hand_on_nft(&mut self, datagram: &[u8], events: &mpsc::Sender<KernelEvent>) -> Result<(), Gone> {
        let mut tables: Vec<&str> =
            frame::messages(datagram).filter_map(|m| nft_table(m.kind, m.whole())).collect();
        tables.dedup();
        for table in tables {
            match events.try_send(KernelEvent::Nft { table: table.to_owned() }) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => self.overrun(events).await?,
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(Gone),
            }
        }
        Ok(())
    }

    /// Something was lost: the reader is told, when it has room, and we look at the links again ourselves.
    async fn overrun(&mut self, events: &mpsc::Sender<KernelEvent>) -> Result<(), Gone> {
        events.send(KernelEvent::Overrun).await.map_err(|_| Gone)?;
        if let Err(error) = self.learn_links().await {
            tracing::warn!(%error, "netlink monitor: links not read after an overrun");
        }
        Ok(())
    }

    async fn learn_links(&mut self) -> Result<(), Error> {
        let messages = self.requests.lock().await.dump("dump links", encode::dump_links()).await?;
        self.gre = messages.iter().filter_map(link_of).filter(|l| l.kind == GRE).map(|l| l.index).collect();
        Ok(())
    }

    fn event(&mut self, message: &RouteNetlinkMessage) -> Option<KernelEvent> {
        match message {
            RouteNetlinkMessage::NewLink(m) => {
                let link = decode::link(m)?;
                if link.kind == GRE {
                    self.gre.insert(link.index);
                }
                Some(KernelEvent::Link(link))
            }
            RouteNetlinkMessage::DelLink(m) => {
                let link = decode::link(m)?;
                self.gre.remove(&link.index);
                Some(KernelEvent::LinkGone { index: link.index, name: link.name })
            }
            RouteNetlinkMessage::NewAddress(m) => {
                let a = decode::address(m)?;
                Some(KernelEvent::Address { link: a.link, address: a.address, gone: false })
            }
            RouteNetlinkMessage::DelAddress(m) => {
                let a = decode::address(m)?;
                Some(KernelEvent::Address { link: a.link, address: a.address, gone: true })
            }
            RouteNetlinkMessage::NewRoute(m) => {
                let (route, protocol) = decode::route(m)?;
                Some(KernelEvent::Route { route, ours: protocol == PROTOCOL, gone: false })
            }
            RouteNetlinkMessage::DelRoute(m) => {
                let (route, protocol) = decode::route(m)?;
                Some(KernelEvent::Route { route, ours: protocol == PROTOCOL, gone: true })
            }
            RouteNetlinkMessage::GetNeighbour(m) => {
                let e = self.on_gre(decode::neighbour(m)?)?;
                Some(KernelEvent::ResolveNeeded { link: e.link, overlay: e.overlay })
            }
            RouteNetlinkMessage::NewNeighbour(m) => {
                let e = self.on_gre(decode::neighbour(m)?)?;
                // INCOMPLETE comes as RTM_GETNEIGH too; NOARP is how multicast shows.
                if matches!(
                    e.state,
                    NeighbourState::Incomplete | NeighbourState::Noarp | NeighbourState::None
                ) {
                    return None;
                }
                Some(KernelEvent::Neighbour { link: e.link, overlay: e.overlay, nbma: e.nbma, gone: false })
            }
            RouteNetlinkMessage::DelNeighbour(m) => {
                let e = self.on_gre(decode::neighbour(m)?)?;
                Some(KernelEvent::Neighbour { link: e.link, overlay: e.overlay, nbma: e.nbma, gone: true })
            }
            _ => None,
        }
    }

    fn on_gre(&self, entry: decode::Entry) -> Option<decode::Entry> {
        self.gre.contains(&entry.link).then_some(entry)
    }
}

/// The reader of events went away.
struct Gone;

fn link_of(message: &RouteNetlinkMessage) -> Option<crate::model::Link> {
    match message {
        RouteNetlinkMessage::NewLink(m) => decode::link(m),
        _ => None,
    }
}

/// The table of ours that a message of nftables is about: table, chain, rule, set or object, made or deleted.
/// In all of them the first attribute is the table's name.
fn nft_table(kind: u16, message: &[u8]) -> Option<&str> {
    const HEADERS: usize = 20;
    const NAME: u16 = 1;
    if kind >> 8 != NFT_SUBSYSTEM || NFT_PASSED_OVER.contains(&(kind & 0xff)) {
        return None;
    }
    let half = |at: usize| Some(u16::from_ne_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let (length, attribute) = (usize::from(half(HEADERS)?), half(HEADERS + 2)?);
    let name = message.get(HEADERS + 4..HEADERS + length).filter(|_| attribute == NAME)?;
    let name = std::str::from_utf8(name).ok()?.trim_end_matches('\0');
    name.starts_with(TABLE_PREFIX).then_some(name)
}

/// Drops notifications of new and deleted routes (types 24, 25), neighbours (28, 29), queueing disciplines (36, 37) and
/// classes (40, 41) that carry the port number of our writer. BPF loads are big-endian, netlink's fields are in the machine's order.
fn own_changes(writer: u32) -> [SockFilter; 13] {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let kind = |n: u16| u32::from(n.to_be());
    [
        SockFilter::new(LOAD_WORD, 0, 0, 12),
        SockFilter::new(JUMP_EQUAL, 0, 9, writer.to_be()),
        SockFilter::new(LOAD_HALF, 0, 0, 4),
        SockFilter::new(JUMP_EQUAL, 8, 0, kind(24)),
        SockFilter::new(JUMP_EQUAL, 7, 0, kind(25)),
        SockFilter::new(JUMP_EQUAL, 6, 0, kind(28)),
        SockFilter::new(JUMP_EQUAL, 5, 0, kind(29)),
        SockFilter::new(JUMP_EQUAL, 4, 0, kind(36)),
        SockFilter::new(JUMP_EQUAL, 3, 0, kind(37)),
        SockFilter::new(JUMP_EQUAL, 2, 0, kind(40)),
        SockFilter::new(JUMP_EQUAL, 1, 0, kind(41)),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
