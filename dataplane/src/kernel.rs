//! [`Kernel`]: reads and writes the tables of the network namespace that the process runs in.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::sync::{Mutex, mpsc};

use crate::Error;
use crate::model::{
    GreLink, KernelEvent, Link, LinkCounters, Lookup, Neighbour, Observed, Op, PROTOCOL, Route, Shaper,
};
use crate::monitor::{self, Monitor};
use crate::requests::Requests;
use crate::wire::frame::{Refusal, Request};
use crate::wire::tc::Qdisc;
use crate::wire::{decode, encode, tc};
use crate::writer::Writer;

/// Handles of one network namespace; cheap to clone. Clones share their sockets, calls queue up behind each
/// other.
#[derive(Clone, Debug)]
pub struct Kernel {
    requests: Arc<Mutex<Requests>>,
    writer: Arc<Mutex<State>>,
}

/// What a change came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is as asked.
    Done,
    /// The link stands.
    Link {
        /// Its index: a new one for a created link.
        index: u32,
    },
}

impl Kernel {
    /// Opens the sockets and starts the monitor; its task ends when the receiver is dropped.
    ///
    /// # Errors
    /// [`Error::Capability`] names what is missing.
    pub async fn open() -> Result<(Self, mpsc::Receiver<KernelEvent>), Error> {
        let requests = Arc::new(Mutex::new(Requests::open()?));
        let mut writer = Writer::open()?;
        match writer.write_one(encode::may_we()).await {
            Err(refusal) if refusal.errno == libc::EPERM => {
                return Err(error("changing links over netlink".to_owned(), refusal));
            }
            _ => {}
        }
        let monitor = Monitor::open(writer.port(), Arc::clone(&requests)).await?;
        let (to, events) = mpsc::channel(monitor::CHANNEL);
        tokio::spawn(monitor.run(to));
        let state = State { writer, hasher: RandomState::new(), routes: HashSet::new() };
        Ok((Self { requests, writer: Arc::new(Mutex::new(state)) }, events))
    }

    /// Dumps all that concerns us. A link that goes away between two dumps may still be named by an entry.
    ///
    /// # Errors
    /// When the kernel refuses a dump.
    pub async fn observe(&self) -> Result<Observed, Error> {
        let mut seen = Observed::default();
        let mut requests = self.requests.lock().await;
        for message in requests.dump("dump links", encode::dump_links()).await? {
            if let RouteNetlinkMessage::NewLink(m) = message {
                seen.links.extend(decode::link(&m));
            }
        }
        for message in requests.dump("dump addresses", encode::dump_addresses()).await? {
            if let RouteNetlinkMessage::NewAddress(m) = message {
                seen.addresses.extend(decode::address(&m));
            }
        }
        seen.routes = our_routes(&mut requests).await?;
        let gre: HashSet<u32> = seen.links.iter().filter(|l| l.kind == "gre").map(|l| l.index).collect();
        for message in requests.dump("dump neighbours", encode::dump_neighbours()).await? {
            let RouteNetlinkMessage::NewNeighbour(m) = message else { continue };
            let Some(entry) = decode::neighbour(&m) else { continue };
            match (entry.state, entry.nbma) {
                (NeighbourState::Permanent, Some(nbma)) if entry.protocol == PROTOCOL => {
                    seen.neighbours.push(Neighbour { link: entry.link, overlay: entry.overlay, nbma });
                }
                (NeighbourState::Incomplete, _) if gre.contains(&entry.link) => {
                    seen.incomplete.push((entry.link, entry.overlay));
                }
                _ => {}
            }
        }
        seen.shapers = shapers(&mut requests, &gre).await?;
        drop(requests);
        let mut state = self.writer.lock().await;
        state.routes = seen.routes.iter().map(|route| state.place(route)).collect();
        Ok(seen)
    }

    /// Makes the changes in order, in batches; one result for each, in order. A refused one does not stop the
    /// rest.
    pub async fn apply(&self, ops: &[Op]) -> Vec<Result<Applied, Error>> {
        let mut state = self.writer.lock().await;
        let mut results: Vec<Option<Result<Applied, Error>>> = ops.iter().map(|_| None).collect();
        let mut waiting: Vec<(usize, Request)> = Vec::new();
        for (at, op) in ops.iter().enumerate() {
            let result = match op {
                Op::CreateGre(link) => {
                    self.flush(&mut state, ops, &mut waiting, &mut results).await;
                    Some(self.create(&mut state, link).await)
                }
                Op::ChangeGre { index, link } => {
                    self.flush(&mut state, ops, &mut waiting, &mut results).await;
                    Some(self.change(&mut state, *index, link).await)
                }
                simple => match state.request(simple) {
                    Ok(request) => {
                        waiting.push((at, request));
                        None
                    }
                    Err(error) => Some(Err(error)),
                },
            };
            if let Some(slot) = results.get_mut(at) {
                *slot = result;
            }
        }
        self.flush(&mut state, ops, &mut waiting, &mut results).await;
        let missing = || Err(Error::NoAnswer { what: "netlink batch".to_owned() });
        results.into_iter().map(|r| r.unwrap_or_else(missing)).collect()
    }

    /// How would the kernel send to this address now, by its VRF `by` (0: by the main table)?
    ///
    /// # Errors
    /// [`Error::Unreachable`] if it would not.
    pub async fn lookup(&self, to: IpAddr, by: u32) -> Result<Lookup, Error> {
        let answer = self.requests.lock().await.ask("look up a route", encode::lookup(to, by)).await;
        match answer {
            Ok(Some(RouteNetlinkMessage::NewRoute(m))) => decode::lookup(&m).ok_or(Error::Unreachable { to }),
            Ok(_) => Err(Error::Unreachable { to }),
            Err(Error::Kernel { errno: libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL, .. }) => {
                Err(Error::Unreachable { to })
            }
            // EACCES is what a `prohibit` route answers.
            Err(Error::Capability { .. }) => Err(Error::Unreachable { to }),
            Err(error) => Err(error),
        }
    }

    /// The routes of the main table, of IPv6 or of IPv4, that are not ours.
    ///
    /// # Errors
    /// When the kernel refuses the dump.
    pub async fn underlay(&self, ipv6: bool) -> Result<Vec<Route>, Error> {
        let family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let mut requests = self.requests.lock().await;
        let answer = requests.dump("dump the main table", encode::dump_main_table(family)).await?;
        let routes = answer.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(m) => decode::route(m),
            _ => None,
        });
        let foreign =
            routes.filter(|(route, protocol)| *protocol != PROTOCOL && route.table == encode::MAIN_TABLE);
        Ok(foreign.map(|(route, _)| route).collect())
    }

    /// Counters of a link since it was made.
    ///
    /// # Errors
    /// When there is no link with this index.
    pub async fn counters(&self, index: u32) -> Result<LinkCounters, Error> {
        let what = format!("counters of link {index}");
        match self.requests.lock().await.ask(&what, encode::link_by_index(index)).await? {
            Some(RouteNetlinkMessage::NewLink(m)) => decode::counters(&m).ok_or(Error::NoAnswer { what }),
            _ => Err(Error::NoAnswer { what }),
        }
    }

    /// Sends what waits and files the results.
    async fn flush(
        &self,
        state: &mut State,
        ops: &[Op],
        waiting: &mut Vec<(usize, Request)>,
        results: &mut [Option<Result<Applied, Error>>],
    ) {
        let (places, requests): (Vec<_>, Vec<_>) = std::mem::take(waiting).into_iter().unzip();
        if requests.is_empty() {
            return;
        }
        let verdicts = state.writer.write(requests).await;
        let mut ours = None;
        for (at, verdict) in places.into_iter().zip(verdicts) {
            let (Some(op), Some(slot)) = (ops.get(at), results.get_mut(at)) else { continue };
            let result = match (op, verdict) {
                (Op::PutRoute(route), Err(refusal)) if refusal.errno == libc::EEXIST => {
                    self.put_over(state, route, &mut ours).await
                }
                (_, Err(refusal)) if deletes(op) && is_gone(refusal.errno) => Ok(Applied::Done),
                (_, Err(refusal)) => Err(error(describe(op), refusal)),
                (_, Ok(())) => Ok(Applied::Done),
            };
            state.note(op, result.is_ok());
            *slot = Some(result);
        }
    }

    /// A route's place is taken: it is replaced if its holder is ours, and left alone if not.
    async fn put_over(
        &self,
        state: &mut State,
        route: &Route,
        ours: &mut Option<HashSet<Place>>,
    ) -> Result<Applied, Error> {
        let held = match ours {
            Some(held) => held,
            None => {
                let routes = our_routes(&mut *self.requests.lock().await).await?;
                ours.insert(routes.iter().map(|route| state.place(route)).collect())
            }
        };
        let what = || describe(&Op::PutRoute(route.clone()));
        if !held.contains(&state.place(route)) {
            return Err(Error::Foreign { what: what() });
        }
        let request = encode::put_route(route, true)?;
        state.writer.write_one(request).await.map_err(|refusal| error(what(), refusal))?;
        Ok(Applied::Done)
    }

    async fn create(&self, state: &mut State, link: &GreLink) -> Result<Applied, Error> {
        let what = || format!("create link {}", link.name);
        let created = state.writer.write_one(encode::create_link(link)?).await;
        let found = self.link_by_name(&link.name).await;
        let index = match (created, found) {
            (Ok(()), found) => found?.ok_or_else(|| Error::NoAnswer { what: what() })?.index,
            // We were stopped between creating it and marking it.
            (Err(refusal), Ok(Some(old))) if refusal.errno == libc::EEXIST && is_leftover(&old, link) => {
                old.index
            }
            (Err(refusal), Ok(Some(_))) if refusal.errno == libc::EEXIST => {
                return Err(Error::Foreign { what: what() });
            }
            (Err(refusal), _) => return Err(error(what(), refusal)),
        };
        let mut result = write(state, what, encode::set_alias(index, &link.alias)).await;
        if result.is_ok() {
            result = settle(state, index, link).await;
        }
        if let Err(error) = result {
            // Half a link is worse than none, and it may not even bear our mark.
            let _ = state.writer.write_one(encode::delete_link(index)).await;
            return Err(error);
        }
        Ok(Applied::Link { index })
    }

    async fn change(&self, state: &mut State, index: u32, link: &GreLink) -> Result<Applied, Error> {
        let what = || format!("change link {index}");
        let request = encode::change_link(index, link)?;
        let name = match self.requests.lock().await.ask(&what(), encode::link_by_index(index)).await? {
            Some(RouteNetlinkMessage::NewLink(m)) => decode::link(&m).map(|l| l.name),
            _ => None,
        };
        if name.as_deref() != Some(link.name.as_str()) {
            return Err(Error::invalid("interface name", &link.name, "is not that of the link to change"));
        }
        write(state, what, request).await?;
        settle(state, index, link).await?;
        Ok(Applied::Link { index })
    }

    async fn link_by_name(&self, name: &str) -> Result<Option<Link>, Error> {
        let what = format!("find link {name}");
        match self.requests.lock().await.ask(&what, encode::link_by_name(name)).await {
            Ok(Some(RouteNetlinkMessage::NewLink(m))) => Ok(decode::link(&m)),
            Ok(_) => Ok(None),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What makes two routes the same place in a table (prefix, table, metric), as a hash: a hub has as many as spokes,
/// and with 64 bits and a key that nobody knows no two of them meet.
type Place = u64;

#[derive(Debug)]
struct State {
    writer: Writer,
    hasher: RandomState,
    /// Places that routes of ours hold, as far as we know. Such a place is overwritten in one step; any other
    /// is taken only if it is free. So no foreign route is ever replaced, and ours change without a gap.
    routes: HashSet<Place>,
}

impl State {
    fn request(&mut self, op: &Op) -> Result<Request, Error> {
        Ok(match op {
            Op::DeleteLink { index } => encode::delete_link(*index),
            Op::AddAddress(address) => encode::put_address(address),
            Op::DeleteAddress(address) => encode::delete_address(address),
            Op::PutRoute(route) => encode::put_route(route, self.routes.contains(&self.place(route)))?,
            Op::DeleteRoute(route) => {
                // A later put in the same batch must not count on it.
                let place = self.place(route);
                self.routes.remove(&place);
                encode::delete_route(route)?
            }
            Op::PutNeighbour(neighbour) => encode::put_neighbour(neighbour)?,
            Op::DeleteNeighbour { link, overlay } => encode::delete_neighbour(*link, *overlay),
            Op::PutShaper { link } => tc::put_root(*link),
            Op::DeleteShaper { link } => tc::delete_root(*link),
            Op::PutClass(class) => tc::put_class(class),
            Op::PutLeaf { link, minor } => tc::put_leaf(*link, *minor),
            Op::DeleteClass { link, minor } => tc::delete_class(*link, *minor),
            Op::CreateGre(link) => encode::create_link(link)?,
            Op::ChangeGre { index, link } => encode::change_link(*index, link)?,
        })
    }

    fn note(&mut self, op: &Op, good: bool) {
        if let (Op::PutRoute(route), true) = (op, good) {
            let place = self.place(route);
            self.routes.insert(place);
        }
    }

    fn place(&self, route: &Route) -> Place {
        self.hasher.hash_one((route.prefix.trunc(), route.table, route.metric))
    }
}

/// Everything about a link that is the same after creation and after a change.
async fn settle(state: &mut State, index: u32, link: &GreLink) -> Result<(), Error> {
    let what = |part: &str| format!("{part} of link {}", link.name);
    let parts = [
        ("IPv4 settings", encode::ipv4_settings(index)),
        ("IPv6 settings", encode::ipv6_settings(index)),
        ("IPv4 neighbour settings", encode::neighbour_settings(index, "arp_cache")),
        ("IPv6 neighbour settings", encode::neighbour_settings(index, "ndisc_cache")),
        ("state", encode::bring(index, link)),
    ];
    let (names, requests): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let verdicts = state.writer.write(requests).await;
    for (name, verdict) in names.into_iter().zip(verdicts) {
        match verdict {
            Ok(()) => {}
            // No IPv6 in this kernel or on this link (an MTU under 1280): then nothing of it is needed.
            Err(refusal)
                if name.starts_with("IPv6") && matches!(refusal.errno, libc::EAFNOSUPPORT | libc::ENOENT) => {
            }
            Err(refusal) => return Err(error(what(name), refusal)),
        }
    }
    Ok(())
}

async fn write(state: &mut State, what: impl Fn() -> String, request: Request) -> Result<(), Error> {
    state.writer.write_one(request).await.map_err(|refusal| error(what(), refusal))
}

async fn our_routes(requests: &mut Requests) -> Result<Vec<Route>, Error> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for message in requests.dump("dump routes", encode::dump_routes(family)).await? {
            let RouteNetlinkMessage::NewRoute(m) = message else { continue };
            // Without IPv6 the kernel answers the second dump with all families.
            if m.header.address_family != family {
                continue;
            }
            routes.extend(decode::route(&m).filter(|(_, p)| *p == PROTOCOL).map(|(route, _)| route));
        }
    }
    Ok(routes)
}

/// Which of these links shape, and how.
async fn shapers(requests: &mut Requests, links: &HashSet<u32>) -> Result<Vec<Shaper>, Error> {
    let mut shapers: Vec<Shaper> = Vec::new();
    let mut leaves = Vec::new();
    let seen = requests.dump_raw("dump queueing disciplines", tc::dump_qdiscs(), tc::qdisc).await?;
    for (link, what) in seen.into_iter().filter(|(link, _)| links.contains(link)) {
        match what {
            Qdisc::Root => shapers.push(Shaper { link, ..Shaper::default() }),
            Qdisc::Leaf(minor) => leaves.push((link, minor)),
            Qdisc::Other => {}
        }
    }
    for shaper in &mut shapers {
        let classes = requests.dump_raw("dump classes", tc::dump_classes(shaper.link), tc::class).await?;
        shaper.classes = classes;
        let own = leaves.iter().filter(|(link, _)| *link == shaper.link);
        shaper.leaves = own.map(|(_, minor)| *minor).collect();
    }
    Ok(shapers)
}

/// A link that we made and had no time to mark: our parameters, no alias, and still down as we make them.
fn is_leftover(old: &Link, wanted: &GreLink) -> bool {
    let unmarked = GreLink { alias: String::new(), up: false, ..wanted.shown() };
    old.gre.as_ref() == Some(&unmarked)
}

fn deletes(op: &Op) -> bool {
    matches!(
        op,
        Op::DeleteLink { .. }
            | Op::DeleteAddress(_)
            | Op::DeleteRoute(_)
            | Op::DeleteNeighbour { .. }
            | Op::DeleteShaper { .. }
            | Op::DeleteClass { .. }
    )
}

fn is_gone(errno: i32) -> bool {
    matches!(errno, libc::ESRCH | libc::ENOENT | libc::ENODEV | libc::ENXIO | libc::EADDRNOTAVAIL)
}

fn error(what: String, refusal: Refusal) -> Error {
    Error::kernel(what, refusal.errno, refusal.message)
}

/// A change in words, for people.
pub fn describe(op: &Op) -> String {
    match op {
        Op::CreateGre(link) => format!("create link {}", link.name),
        Op::ChangeGre { index, .. } => format!("change link {index}"),
        Op::DeleteLink { index } => format!("delete link {index}"),
        Op::AddAddress(a) => format!("add address {} on link {}", a.address, a.link),
        Op::DeleteAddress(a) => format!("delete address {} on link {}", a.address, a.link),
        Op::PutRoute(r) => format!("put route {} metric {} table {}", r.prefix, r.metric, r.table),
        Op::DeleteRoute(r) => format!("delete route {} metric {} table {}", r.prefix, r.metric, r.table),
        Op::PutNeighbour(n) => format!("put neighbour {} at {} on link {}", n.overlay, n.nbma, n.link),
        Op::DeleteNeighbour { link, overlay } => format!("delete neighbour {overlay} on link {link}"),
        Op::PutShaper { link } => format!("put htb on link {link}"),
        Op::DeleteShaper { link } => format!("delete htb of link {link}"),
        Op::PutClass(c) => format!("put class {} of {} bytes/s on link {}", c.minor, c.rate, c.link),
        Op::PutLeaf { link, minor } => format!("put fq_codel below class {minor} of link {link}"),
        Op::DeleteClass { link, minor } => format!("delete class {minor} of link {link}"),
    }
}
