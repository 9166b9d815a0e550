//! What a hub sends to each of its spokes is shaped to the rate of the spoke's bandwidth class.
//!
//! A spoke is an underlay address: its overlay addresses of one class share what it may get. Each such spoke has a class
//! of the link's queueing discipline, and each of its overlay addresses leads to it (`dataplane::nft::classify`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crds::endpoint::{DmvpnEndpointSpec, Role};
use dataplane::model::{Class, Observed, Op, Shaper};

/// The most spokes of one link that are shaped: each has an `fq_codel`, and the kernel has 0x7fff handles of its own for
/// those (`qdisc_alloc_handle`). The rest is for new ones that come before those whom they follow have gone.
const MOST: usize = 32_000;

/// A spoke and its class.
type Key = (IpAddr, String);

/// Who is of which class, and what the classes are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shaping {
    /// Rates of the classes: kbit/s, and burst in bytes.
    rates: BTreeMap<String, (u32, Option<u32>)>,
    /// Classes of external routers, by overlay address: they hold whatever those say.
    declared: BTreeMap<IpAddr, String>,
    /// What clients say.
    announced: BTreeMap<IpAddr, String>,
    /// Numbers of the classes that are in use. They stay, and after a restart are the same: those of the same hash aside.
    minors: BTreeMap<Key, u16>,
    /// Spokes that have a class, but no number: there are too many.
    left_out: usize,
    /// Something changed since the last [`Self::shape`].
    stirred: bool,
}

/// What is to be on a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// There is a queueing discipline of ours.
    pub root: bool,
    /// Classes by number: kbit/s, and burst in bytes.
    pub classes: BTreeMap<u16, (u32, Option<u32>)>,
    /// Overlay hosts, and the class of each.
    pub hosts: BTreeMap<IpAddr, u16>,
}

impl Shaping {
    /// What the endpoint says. A point-to-point link leads to one other end, which shapes nothing towards us.
    pub(super) fn new(spec: &DmvpnEndpointSpec, multipoint: bool) -> Self {
        if spec.role == Role::Spoke || !multipoint {
            return Self::default();
        }
        let rates = spec.qos_groups.iter().map(|it| (it.name.clone(), (it.rate_kbps, it.burst_bytes)));
        let declared = spec.external.iter().filter_map(|it| Some((it, it.qos_group.as_ref()?)));
        let declared =
            declared.flat_map(|(it, group)| it.overlay_addresses.iter().map(|host| (*host, group.clone())));
        Self { rates: rates.collect(), declared: declared.collect(), stirred: true, ..Self::default() }
    }

    /// Whether anything is shaped.
    pub fn is_on(&self) -> bool {
        !self.rates.is_empty()
    }

    /// Takes what was found out over from another one.
    pub(super) fn keep(&mut self, old: &mut Self) {
        self.announced = std::mem::take(&mut old.announced);
        self.minors = std::mem::take(&mut old.minors);
        self.left_out = old.left_out;
        self.stirred = old.stirred || self.rates != old.rates || self.declared != old.declared;
    }

    pub(super) fn forget(&mut self) {
        self.announced.clear();
        self.stirred = true;
    }

    /// A client says that it is of this class, or of none any more.
    pub(super) fn say(&mut self, host: IpAddr, group: Option<&String>) {
        match group {
            Some(group) => drop(self.announced.insert(host, group.clone())),
            None => drop(self.announced.remove(&host)),
        }
        self.stirred |= self.is_on();
    }

    /// Where a host is changed.
    pub(super) fn stir(&mut self) {
        self.stirred |= self.is_on();
    }

    /// Whether what is to be on the link may have changed since it was asked for last.
    pub fn is_stirred(&self) -> bool {
        self.stirred
    }

    /// How many spokes have a class and are not shaped, since others were there first.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// What is to be borne in mind of those; empty: there are none.
    pub fn remark(&self) -> String {
        match self.left_out {
            0 => String::new(),
            rest => format!(
                "spokes that have a class and are not shaped: {rest}, since one tunnel shapes {MOST}: divide them among several \
                 hubs, or give fewer of them a qosGroup"
            ),
        }
    }

    /// The class of an overlay host, if there is such a class.
    pub fn group(&self, host: IpAddr) -> Option<&str> {
        let name = self.declared.get(&host).or_else(|| self.announced.get(&host))?;
        self.rates.get_key_value(name).map(|(name, _)| name.as_str())
    }

    /// What is to be on the link, for hosts (overlay and underlay address) that are known now.
    pub(super) fn shape(&mut self, hosts: impl Iterator<Item = (IpAddr, IpAddr)>) -> Shape {
        self.stirred = false;
        let of = hosts.filter_map(|(host, nbma)| Some((host, (nbma, self.group(host)?.to_owned()))));
        let of: BTreeMap<IpAddr, Key> = of.collect();
        let used: BTreeSet<&Key> = of.values().collect();
        self.minors.retain(|key, _| used.contains(key));
        // Whoever has a number keeps it; with half of all numbers free the next one is near.
        let mut taken: BTreeSet<u16> = self.minors.values().copied().collect();
        for key in &used {
            if self.minors.len() >= MOST {
                break;
            }
            if !self.minors.contains_key(*key)
                && let Some(minor) = free(key, &taken)
            {
                taken.insert(minor);
                self.minors.insert((*key).clone(), minor);
            }
        }
        self.left_out = used.len() - self.minors.len();
        let rates =
            self.minors.iter().filter_map(|((_, group), minor)| Some((*minor, *self.rates.get(group)?)));
        let minor = |key| self.minors.get(key).copied();
        Shape {
            root: self.is_on(),
            classes: rates.collect(),
            hosts: of.iter().filter_map(|(host, key)| Some((*host, minor(key)?))).collect(),
        }
    }
}

impl Shape {
    /// The changes of the link `link`, as it was observed, before hosts are led to their classes, and those after.
    pub fn changes(&self, link: u32, observed: Option<&Shaper>) -> (Vec<Op>, Vec<Op>) {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let have: BTreeMap<u16, &Class> =
            observed.iter().flat_map(|it| &it.classes).map(|class| (class.minor, class)).collect();
        match (self.root, observed) {
            (false, Some(_)) => return (before, vec![Op::DeleteShaper { link }]),
            (false, None) => return (before, after),
            // What is there may be of any kind, and bear our handle.
            (true, None) => before.extend([Op::DeleteShaper { link }, Op::PutShaper { link }]),
            (true, Some(_)) => {}
        }
        let leaves: BTreeSet<u16> = observed.iter().flat_map(|it| &it.leaves).copied().collect();
        for (minor, (rate, burst)) in &self.classes {
            let class = Class::new(link, *minor, *rate, *burst);
            if have.get(minor) != Some(&&class) {
                before.push(Op::PutClass(class));
            }
            if !leaves.contains(minor) {
                before.push(Op::PutLeaf { link, minor: *minor });
            }
        }
        let stale = have.keys().filter(|minor| !self.classes.contains_key(minor));
        after.extend(stale.map(|minor| Op::DeleteClass { link, minor: *minor }));
        (before, after)
    }

    /// As a link that is like this is observed.
    pub fn shaper(&self, link: u32) -> Option<Shaper> {
        let classes =
            self.classes.iter().map(|(minor, (rate, burst))| Class::new(link, *minor, *rate, *burst));
        let (classes, leaves) = (classes.collect(), self.classes.keys().copied().collect());
        self.root.then_some(Shaper { link, classes, leaves })
    }
}

/// How a link shapes now.
pub fn observed(link: u32, observed: &Observed) -> Option<&Shaper> {
    observed.shapers.iter().find(|shaper| shaper.link == link)
}

/// A number that nobody has, the same for the same spoke after a restart; `None`: there are no more.
fn free((nbma, group): &Key, taken: &BTreeSet<u16>) -> Option<u16> {
    // 64-bit FNV-1a.
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let text = format!("{nbma} {group}");
    let first = text.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    let first = (first ^ first >> 32) % u64::from(u16::MAX);
    let all = (0..u64::from(u16::MAX)).map(|step| ((first + step) % u64::from(u16::MAX)) as u16 + 1);
    all.into_iter().find(|minor| !taken.contains(minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn shaping() -> Shaping {
        let rates = [("gold".to_owned(), (50_000, None)), ("silver".to_owned(), (5_000, Some(9_000)))];
        Shaping { rates: rates.into(), ..Shaping::default() }
    }

    const A: &str = "192.0.2.3";

    #[test]
    fn addresses_of_one_spoke_share_its_class() {
        let mut it = shaping();
        for host in ["10.255.0.2", "fd00::2", "10.255.0.3"] {
            it.say(ip(host), Some(&"gold".to_owned()));
        }
        it.say(ip("10.255.0.4"), Some(&"platinum".to_owned()));
        let hosts = [
            ("10.255.0.2", A),
            ("fd00::2", A),
            ("10.255.0.3", "192.0.2.4"),
            ("10.255.0.4", "192.0.2.5"),
            ("10.255.0.5", "192.0.2.6"),
        ]
        .map(|(host, nbma)| (ip(host), ip(nbma)));
        let shape = it.shape(hosts.into_iter());
        assert_eq!(shape.hosts.len(), 3, "{shape:?}");
        assert_eq!(shape.hosts[&ip("10.255.0.2")], shape.hosts[&ip("fd00::2")]);
        assert_ne!(shape.hosts[&ip("10.255.0.2")], shape.hosts[&ip("10.255.0.3")]);
        assert_eq!(shape.classes.values().collect::<Vec<_>>(), [&(50_000, None); 2]);
        // After a restart, in whatever order, they have the same numbers.
        let mut again = shaping();
        for host in ["10.255.0.3", "fd00::2", "10.255.0.2"] {
            again.say(ip(host), Some(&"gold".to_owned()));
        }
        assert_eq!(again.shape(hosts.into_iter().rev()), shape);
    }

    #[test]
    fn what_is_declared_holds_whatever_is_said() {
        let mut it = Shaping { declared: [(ip("10.255.0.2"), "silver".to_owned())].into(), ..shaping() };
        let shape = it.shape([(ip("10.255.0.2"), ip(A))].into_iter());
        assert_eq!(shape.classes.values().collect::<Vec<_>>(), [&(5_000, Some(9_000))]);
        it.say(ip("10.255.0.2"), Some(&"gold".to_owned()));
        assert_eq!(it.shape([(ip("10.255.0.2"), ip(A))].into_iter()), shape);
    }

    #[test]
    fn changes_and_nothing_more() {
        let mut it = shaping();
        let host = [(ip("10.255.0.2"), ip(A))];
        it.say(host[0].0, Some(&"gold".to_owned()));
        let shape = it.shape(host.into_iter());
        let minor = shape.hosts[&host[0].0];
        let gold = Class::new(7, minor, 50_000, None);
        let (before, after) = shape.changes(7, None);
        let all = [
            Op::DeleteShaper { link: 7 },
            Op::PutShaper { link: 7 },
            Op::PutClass(gold.clone()),
            Op::PutLeaf { link: 7, minor },
        ];
        assert_eq!((before, after), (all.to_vec(), vec![]));
        let there = shape.shaper(7);
        assert_eq!(shape.changes(7, there.as_ref()), (vec![], vec![]));
        // Another rate, in place.
        it.rates.insert("gold".into(), (60_000, None));
        let faster = it.shape(host.into_iter());
        let put = Op::PutClass(Class::new(7, minor, 60_000, None));
        assert_eq!(faster.changes(7, there.as_ref()), (vec![put], vec![]));
        // Somebody deleted what is below the class.
        let bare = Shaper { leaves: vec![], ..there.clone().unwrap() };
        assert_eq!(shape.changes(7, Some(&bare)), (vec![Op::PutLeaf { link: 7, minor }], vec![]));
        // Gone: after nobody is led there.
        it.say(host[0].0, None);
        let none = it.shape(host.into_iter());
        assert_eq!(none.changes(7, there.as_ref()), (vec![], vec![Op::DeleteClass { link: 7, minor }]));
        it.rates.clear();
        let off = it.shape(host.into_iter());
        assert_eq!(off.changes(7, there.as_ref()), (vec![], vec![Op::DeleteShaper { link: 7 }]));
        assert_eq!(off.changes(7, None), (vec![], vec![]), "what is not ours stays");
    }

    #[test]
    fn more_than_the_kernel_has_handles_for() {
        let gold = "gold".to_owned();
        let host = |n: u32| {
            (IpAddr::from((0x0a00_0000 + n).to_be_bytes()), IpAddr::from((0xc612_0000 + n).to_be_bytes()))
        };
        let mut it = shaping();
        let all = MOST as u32 + 40_000;
        (0..all).for_each(|n| it.say(host(n).0, Some(&gold)));
        // The later half is there first.
        let first = it.shape((40_000..all).map(host));
        assert_eq!((first.classes.len(), first.hosts.len(), it.left_out()), (MOST, MOST, 0));
        assert_eq!(it.remark(), "");
        // More than there are numbers: the first keep theirs, and for the others there is nothing to do.
        let more = it.shape((0..all).map(host));
        assert_eq!((&more, it.left_out()), (&first, 40_000));
        assert_eq!(more.changes(7, first.shaper(7).as_ref()), (vec![], vec![]));
        assert!(it.remark().starts_with(
            "spokes that have a class and are not shaped: 40000, since one tunnel shapes 32000:"
        ));
        // When one goes another has its place; who has none changes nothing.
        it.say(host(50_000).0, None);
        let next = it.shape((0..all).map(host));
        assert_eq!((next.classes.len(), it.left_out()), (MOST, 39_999));
        assert!(next.hosts.contains_key(&host(0).0) && !next.hosts.contains_key(&host(50_000).0));
        let stay = |(host, minor): (&IpAddr, &u16)| next.hosts.get(host) == Some(minor);
        assert_eq!(first.hosts.iter().filter(|it| stay(*it)).count(), MOST - 1);
        assert_eq!(it.shape((1..all).map(host)).hosts.len(), MOST);
        it.rates.clear();
        it.shape((0..all).map(host));
        assert_eq!((it.left_out(), it.remark()), (0, String::new()));
    }

    #[test]
    fn numbers_of_the_same_hash_and_the_last_ones() {
        let key = (ip(A), "gold".to_owned());
        let first = free(&key, &BTreeSet::new()).unwrap();
        let second = free(&key, &[first].into()).unwrap();
        assert!(second != first && second != 0);
        let all_but_last: BTreeSet<u16> = (1..u16::MAX).collect();
        assert_eq!(free(&key, &all_but_last), Some(u16::MAX));
        assert_eq!(free(&key, &(1..=u16::MAX).collect()), None);
    }
}
