//! The nft rules beside a tunnel: one table `inet dmvpn_<network>` for each network, nothing outside it.
//!
//! [`render`] makes the text (pure), [`load`] hands it to `nft -f -`, which takes it as one transaction. The
//! table has up to ten parts: redirect capture, MSS clamping, use tracking, multicast, the guard of a protected tunnel,
//! what may come out of it, whose GRE is taken, classes of what is shaped, prefixes that are mapped, and always the drop of ICMP
//! redirects that would leave by the tunnel and of multicast that the kernel itself would put into GRE. Loading a
//! table anew empties its sets: load only when the text changed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::Error;
use crate::names;

mod mapping;
mod peers;
mod shape;
mod sources;

pub use mapping::{Mapping, render_kept};
pub use shape::shaped;
pub use sources::{Senders, Strangers};

/// What the name of each table of ours starts with.
pub const TABLE_PREFIX: &str = "dmvpn_";
/// Environment variable with the path of the `nft` program.
pub const NFT_VARIABLE: &str = "DMVPN_NFT";
/// How long a destination counts as used after its last packet, in seconds.
pub const USE_SECONDS: u32 = 60;

/// An nft that runs longer than this is killed.
const LIMIT: Duration = Duration::from_secs(10);
/// nft's longest table name in bytes.
const MAX_TABLE: usize = 255;
/// Most pairs or destinations that are remembered at once; beyond that a pair is not captured, a use not
/// seen.
const SET_SIZE: u32 = 65_535;

/// The rules beside one tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Name of the network.
    pub network: String,
    /// Name of the tunnel link; characters other than `[A-Za-z0-9_.-]` are written as `_` (no such link
    /// exists).
    pub interface: String,
    /// The tunnel link is in a VRF: what came in by it seems to have come in by that.
    pub vrf: bool,
    /// NFLOG group that gets the first packet of each pair of addresses that came in by the tunnel and leaves by it or by
    /// one of `beside`, and then at most one in 2 s.
    pub redirect_group: Option<u16>,
    /// Names of other tunnel links of the same NHRP network.
    pub beside: BTreeSet<String>,
    /// Largest TCP segment (IPv4, IPv6) in bytes for connections through the tunnel, both ways; it is only
    /// lowered.
    pub mss_clamp: Option<(u16, u16)>,
    /// Remember for [`USE_SECONDS`] where packets went by the tunnel.
    pub track_use: Option<Use>,
    /// Multicast that is captured, so that copies of it can be sent to each peer.
    pub multicast: Option<Capture>,
    /// Local underlay address and key of the tunnel: GRE of it to a multicast address, which is what the kernel makes
    /// of multicast on a multipoint link, does not leave.
    pub outer: Option<(Ipv4Addr, Option<u32>)>,
    /// The tunnel is protected by IPsec: its GRE neither leaves nor comes in any other way.
    pub guard: Option<Guard>,
    /// What comes out of a tunnel with a guard is looked at: each sender may send what [`senders`] says, others what
    /// is said here.
    pub sources: Option<Strangers>,
    /// Of a link in metadata mode: whose GRE it takes.
    pub peers: Option<Peers>,
    /// What goes to an overlay host gets its class of [`crate::model::ROOT`] (see [`classify`]).
    pub shape: bool,
    /// Prefixes behind the node that have another name in the overlay, or are not to be masqueraded; disjoint on both
    /// sides.
    pub mappings: Vec<Mapping>,
}

/// What of GRE has to be protected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Local underlay addresses.
    pub locals: BTreeSet<Ipv4Addr>,
    /// Key of the tunnel.
    pub key: Option<u32>,
}

/// Whose GRE a link in metadata mode takes. By itself it takes any, with whatever key and from whomever.
///
/// Let in are those to whom we sent something lately that only a member gets: data, a question, an answer that is no
/// refusal. So whoever may send straight to us is known before he is told so, and nobody has to be quick. NHRP comes
/// by a socket of the underlay, past all this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peers {
    /// Local underlay address.
    pub local: Ipv6Addr,
    /// GRE key.
    pub key: Option<u32>,
    /// Those who are always let in.
    pub fixed: Vec<Ipv6Addr>,
    /// How long others are after the last packet to them, in seconds.
    pub seconds: u32,
}

/// What of a packet that leaves by the tunnel is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Its destination.
    Destinations,
    /// The next hop of its route: the destination itself where that is on the link.
    NextHops,
}

/// Which multicast is captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// NFLOG group that gets it.
    pub group: u16,
    /// Groups besides the link-local ones (224.0.0.0/24, ff02::/16) that enter the tunnel.
    pub groups: Vec<IpAddr>,
    /// Groups that are captured when they come out of the tunnel too.
    pub relayed: Vec<IpAddr>,
}

/// Name of a network's table. Different networks have different tables.
pub fn table(network: &str) -> String {
    let mut name = TABLE_PREFIX.to_owned();
    for c in network.chars() {
        if names::is_plain(c) {
            name.push(c);
        } else {
            let _ = write!(name, "/{:x}/", u32::from(c));
        }
    }
    if name.len() > MAX_TABLE {
        let mark = fingerprint(network);
        name.truncate(MAX_TABLE - 17);
        let _ = write!(name, "/{mark:016x}");
    }
    name
}

/// The text that puts the network's table in place of an older one, or anew, in one transaction.
pub fn render(rules: &Ruleset) -> String {
    let table = table(&rules.network);
    let plain =
        |name: &str| -> String { name.chars().map(|c| if names::is_plain(c) { c } else { '_' }).collect() };
    let link = plain(&rules.interface);
    // Of a link in a VRF the kernel knows in the forward hook only as the "slave" what it was.
    let came_by = if rules.vrf { "meta sdifname" } else { "iifname" };
    // Adding first makes the deletion succeed where there is no table yet.
    let mut text = format!("add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n");
    let out = &mut text;
    if rules.redirect_group.is_some() {
        set(out, "redirect4", "typeof ip saddr . ip daddr", 60);
        set(out, "redirect6", "typeof ip6 saddr . ip6 daddr", 60);
    }
    if rules.track_use.is_some() {
        set(out, "used4", "typeof ip daddr", USE_SECONDS);
        set(out, "used6", "typeof ip6 daddr", USE_SECONDS);
    }
    if let Some((v4, v6)) = rules.mss_clamp {
        chain(out, "mss", "forward priority mangle");
        for (family, mss) in [("ipv4", v4), ("ipv6", v6)] {
            for way in [came_by, "oifname"] {
                let _ = writeln!(
                    out,
                    "\t\t{way} \"{link}\" meta nfproto {family} tcp flags & (syn | rst) == syn \
                     tcp option maxseg size > {mss} tcp option maxseg size set {mss}"
                );
            }
        }
        end(out);
    }
    if let Some(group) = rules.redirect_group {
        chain(out, "hairpin", "forward priority filter");
        let beside = rules.beside.iter().map(|name| format!(", \"{}\"", plain(name))).collect::<String>();
        let leaves =
            if beside.is_empty() { format!("\"{link}\"") } else { format!("{{ \"{link}\"{beside} }}") };
        for (ip, set) in [("ip", "redirect4"), ("ip6", "redirect6")] {
            let _ = writeln!(
                out,
                "\t\t{came_by} \"{link}\" oifname {leaves} update @{set} {{ {ip} saddr . {ip} daddr \
                 limit rate 30/minute burst 1 packets }} log group {group} snaplen {} queue-threshold 1",
                crate::nflog::HEADERS
            );
        }
        end(out);
    }
    if let Some(peers) = &rules.peers {
        peers::render(out, &link, peers);
    }
    chain(out, "output", "output priority filter");
    let _ = writeln!(out, "\t\toifname \"{link}\" icmp type redirect drop");
    let _ = writeln!(out, "\t\toifname \"{link}\" icmpv6 type nd-redirect drop");
    if let Some((local, key)) = rules.outer {
        // GRE by its number: an image without /etc/protocols has no name for it. Here and not before the tunnel: the sender is told of no error, and local listeners get their copy.
        let key = key.map_or_else(String::new, |key| format!("@th,0,16 0x2000 @th,32,32 {key} "));
        let _ = writeln!(out, "\t\tip saddr {local} ip daddr 224.0.0.0/4 ip protocol 47 {key}drop");
    }
    end(out);
    if let Some(guard) = rules.guard.as_ref().filter(|guard| !guard.locals.is_empty()) {
        self::guard(out, guard);
        if let Some(strangers) = rules.sources {
            sources::render(out, &link, guard, strangers);
        }
    }
    if let Some(capture) = &rules.multicast {
        multicast(out, &link, capture);
    }
    if let Some(what) = rules.track_use {
        chain(out, "used", "postrouting priority filter");
        let (v4, v6) = match what {
            Use::Destinations => ("ip daddr", "ip6 daddr"),
            Use::NextHops => ("rt ip nexthop", "rt ip6 nexthop"),
        };
        let _ = writeln!(out, "\t\toifname \"{link}\" update @used4 {{ {v4} }}");
        let _ = writeln!(out, "\t\toifname \"{link}\" update @used6 {{ {v6} }}");
        end(out);
    }
    mapping::render(out, &link, &rules.mappings);
    if rules.shape {
        shape::render(out, &link);
    }
    text.push_str("}\n");
    text
}

/// The text that lets these peers into a network's tunnel from now on; it goes behind that of [`render`].
pub fn admit(network: &str, peers: &[Ipv6Addr]) -> String {
    peers::admit(&table(network), peers)
}

/// The text that puts overlay hosts (by which packets go) into classes from now on and takes others out; it goes behind
/// that of [`render`]. `afresh`: what was there before is unknown, and goes.
pub fn classify(network: &str, afresh: bool, out: &[IpAddr], into: &[(IpAddr, u16)]) -> String {
    shape::classify(&table(network), afresh, out, into)
}

/// The text that makes of what a network's table lets through (`old`) what it should let through; it goes behind that of
/// [`render`].
pub fn senders(network: &str, old: &Senders, new: &Senders) -> String {
    sources::change(&table(network), old, new)
}

/// The text that removes a network's table, if it is there.
pub fn remove(network: &str) -> String {
    remove_table(&table(network))
}

/// The text that removes a table by its name (one that [`tables`] gave), if it is there.
pub fn remove_table(table: &str) -> String {
    let table: String = table.chars().filter(|c| names::is_plain(*c) || *c == '/').collect();
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// Loads a text in one transaction.
///
/// # Errors
/// [`Error::Nft`] with nft's own words; then nothing of the text is in force.
pub async fn load(text: &str) -> Result<(), Error> {
    run(&["-f", "-"], text).await.map(|_| ())
}

/// Where packets went by the network's tunnel (destinations, or next hops: [`Use`]) in the last [`USE_SECONDS`]. Empty if the table
/// does not track use.
///
/// # Errors
/// [`Error::Nft`] if nft cannot be run or its answer is not understood.
pub async fn used(network: &str) -> Result<Vec<IpAddr>, Error> {
    let table = table(network);
    let mut found = Vec::new();
    for set in ["used4", "used6"] {
        match run(&["-j", "list", "set", "inet", &table, set], "").await {
            Ok(json) => found.extend(elements(&json)?),
            Err(Error::Nft { said }) if is_missing(&said) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The network's table as nft lists it now, without counters and without elements of sets; `None` if there is
/// none. What [`load`] made is listed in nft's words, so it is compared with an earlier listing, not with the text.
///
/// # Errors
/// [`Error::Nft`] if nft cannot be run.
pub async fn listed(network: &str) -> Result<Option<String>, Error> {
    match run(&["-s", "-t", "list", "table", "inet", &table(network)], "").await {
        Ok(text) => Ok(Some(text)),
        Err(Error::Nft { said }) if is_missing(&said) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Names of our tables that are there.
///
/// # Errors
/// [`Error::Nft`] if nft cannot be run or its answer is not understood.
pub async fn tables() -> Result<Vec<String>, Error> {
    let json = run(&["-j", "list", "tables", "inet"], "").await?;
    let names = entries(&json)?.into_iter().filter_map(|entry| {
        let name = entry.get("table")?.get("name")?.as_str()?;
        name.starts_with(TABLE_PREFIX).then(|| name.to_owned())
    });
    Ok(names.collect())
}

/// GRE of the tunnel that is not under IPsec is dropped and counted: out, where the route has no transformation; in,
/// where none was undone.
fn guard(out: &mut String, guard: &Guard) {
    let locals: Vec<_> = guard.locals.iter().map(Ipv4Addr::to_string).collect();
    let locals = locals.join(", ");
    let keys = keys(guard);
    for (name, hook, side, how) in [
        ("guard_out", "output priority raw", "saddr", "rt ipsec missing"),
        ("guard_in", "input priority raw", "daddr", "meta ipsec missing"),
    ] {
        chain(out, name, hook);
        for key in &keys {
            let _ = writeln!(out, "\t\tip {side} {{ {locals} }} ip protocol 47 {how} {key} counter drop");
        }
        end(out);
    }
}

/// What GRE of the tunnel looks like. The key stands behind the checksum if there is one.
fn keys(guard: &Guard) -> Vec<String> {
    match guard.key {
        Some(key) => vec![
            format!("@th,0,16 & 0xa000 == 0x2000 @th,32,32 {key}"),
            format!("@th,0,16 & 0xa000 == 0xa000 @th,64,32 {key}"),
        ],
        None => vec!["@th,0,16 & 0x2000 == 0".to_owned()],
    }
}

fn multicast(out: &mut String, link: &str, capture: &Capture) {
    // More than that a second is no routing protocol any more.
    let log =
        format!("limit rate 1000/second burst 1000 packets log group {} queue-threshold 1", capture.group);
    let list = |groups: &[IpAddr], first: &[&str], v4: bool| {
        let fitting = groups.iter().filter(|group| group.is_ipv4() == v4).map(IpAddr::to_string);
        let all: Vec<_> = first.iter().map(|net| (*net).to_owned()).chain(fitting).collect();
        (!all.is_empty()).then(|| format!("{{ {} }}", all.join(", ")))
    };
    let mut rules = |name: &str, hook: &str, way: &str, groups: &[IpAddr], locals: [&[&str]; 2]| {
        let (v4, v6) = (list(groups, locals[0], true), list(groups, locals[1], false));
        if v4.is_none() && v6.is_none() {
            return;
        }
        chain(out, name, hook);
        if !locals[1].is_empty() {
            // Nobody needs neighbour discovery or listener reports where NHRP resolves.
            let _ = writeln!(
                out,
                "\t\t{way} \"{link}\" ip6 daddr ff00::/8 icmpv6 type {{ mld-listener-query, \
                 mld-listener-report, mld-listener-done, nd-router-solicit, nd-router-advert, \
                 nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report }} accept"
            );
        }
        for (family, list) in [("ip", v4), ("ip6", v6)] {
            if let Some(list) = list {
                let _ = writeln!(out, "\t\t{way} \"{link}\" {family} daddr {list} {log}");
            }
        }
        end(out);
    };
    let local: [&[&str]; 2] = [&["224.0.0.0/24"], &["ff02::/16"]];
    rules("multicast_out", "output priority filter", "oifname", &capture.groups, local);
    // What a multicast router of the node sends into the tunnel; link-local groups are not routed.
    rules("multicast_routed", "forward priority filter", "oifname", &capture.groups, [&[], &[]]);
    rules("multicast_in", "prerouting priority filter", "iifname", &capture.relayed, [&[], &[]]);
}

fn set(out: &mut String, name: &str, kind: &str, seconds: u32) {
    let _ = writeln!(
        out,
        "\tset {name} {{\n\t\t{kind}\n\t\tflags dynamic,timeout\n\t\ttimeout {seconds}s\n\t\t\
         size {SET_SIZE}\n\t}}"
    );
}

fn chain(out: &mut String, name: &str, hook: &str) {
    let _ = writeln!(out, "\tchain {name} {{\n\t\ttype filter hook {hook}; policy accept;");
}

fn end(out: &mut String) {
    out.push_str("\t}\n");
}

/// 64-bit FNV-1a.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

async fn run(arguments: &[&str], input: &str) -> Result<String, Error> {
    let program = std::env::var(NFT_VARIABLE).unwrap_or_else(|_| "nft".to_owned());
    let failed = |e: std::io::Error| Error::Nft { said: format!("cannot run {program}: {e}") };
    let mut child = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let stdin = child.stdin.take();
    // A program that ends before it read everything says why on stderr: that matters, not the broken pipe.
    let write = async {
        if let Some(mut stdin) = stdin {
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let work = async { tokio::join!(write, child.wait_with_output()).1 };
    let output = tokio::time::timeout(LIMIT, work)
        .await
        .map_err(|_| Error::Nft { said: format!("{program} did not end within {} s", LIMIT.as_secs()) })?
        .map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let said = if said.is_empty() { format!("{program} ended with {}", output.status) } else { said };
        return Err(Error::Nft { said });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether nft says that a table or set is not there.
fn is_missing(said: &str) -> bool {
    said.contains("No such file or directory") && !said.contains("cannot run")
}

fn entries(json: &str) -> Result<Vec<serde_json::Value>, Error> {
    let odd = |why: String| Error::Nft { said: format!("answer not understood: {why}") };
    if json.trim().is_empty() {
        return Ok(Vec::new());
    }
    let mut answer: serde_json::Value = serde_json::from_str(json).map_err(|e| odd(e.to_string()))?;
    match answer.get_mut("nftables").map(serde_json::Value::take) {
        Some(serde_json::Value::Array(entries)) => Ok(entries),
        _ => Err(odd("no list \"nftables\"".to_owned())),
    }
}

/// Addresses out of `nft -j list set`: plain strings, or `{"elem": {"val": "…", …}}` where there is a
/// timeout.
fn elements(json: &str) -> Result<Vec<IpAddr>, Error> {
    let mut found = Vec::new();
    for entry in entries(json)? {
        let Some(list) = entry.get("set").and_then(|s| s.get("elem")).and_then(|e| e.as_array()) else {
            continue;
        };
        for element in list {
            let value = element.get("elem").and_then(|e| e.get("val")).unwrap_or(element);
            found.extend(value.as_str().and_then(|a| a.parse::<IpAddr>().ok()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Ruleset {
        Ruleset {
            network: "branches".into(),
            interface: "dmvpn-1".into(),
            vrf: false,
            redirect_group: Some(214),
            beside: BTreeSet::new(),
            mss_clamp: Some((1360, 1340)),
            track_use: Some(Use::Destinations),
            multicast: Some(Capture {
                group: 215,
                groups: vec!["239.1.1.1".parse().unwrap(), "ff08::1".parse().unwrap()],
                relayed: vec!["239.1.1.1".parse().unwrap()],
            }),
            outer: Some((Ipv4Addr::new(192, 0, 2, 2), Some(100))),
            guard: None,
            sources: None,
            peers: None,
            shape: false,
            mappings: Vec::new(),
        }
    }

    #[test]
    fn clear_gre_of_a_guarded_tunnel_is_dropped_both_ways() {
        let locals: BTreeSet<_> = [Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(192, 0, 2, 3)].into();
        let text = |key| {
            let guard = Some(Guard { locals: locals.clone(), key });
            render(&Ruleset { network: "n".into(), interface: "dm-n".into(), guard, ..Ruleset::default() })
        };
        let keyed = text(Some(100));
        for rule in [
            "ip saddr { 192.0.2.2, 192.0.2.3 } ip protocol 47 rt ipsec missing @th,0,16 & 0xa000 == 0x2000 @th,32,32 100 counter drop",
            "ip saddr { 192.0.2.2, 192.0.2.3 } ip protocol 47 rt ipsec missing @th,0,16 & 0xa000 == 0xa000 @th,64,32 100 counter drop",
            "ip daddr { 192.0.2.2, 192.0.2.3 } ip protocol 47 meta ipsec missing @th,0,16 & 0xa000 == 0x2000 @th,32,32 100 counter drop",
        ] {
            assert!(keyed.contains(rule), "{keyed}");
        }
        assert!(text(None).contains("rt ipsec missing @th,0,16 & 0x2000 == 0 counter drop"));
    }

    const FULL: &str = "add table inet dmvpn_branches
delete table inet dmvpn_branches
table inet dmvpn_branches {
\tset redirect4 {
\t\ttypeof ip saddr . ip daddr
\t\tflags dynamic,timeout
\t\ttimeout 60s
\t\tsize 65535
\t}
\tset redirect6 {
\t\ttypeof ip6 saddr . ip6 daddr
\t\tflags dynamic,timeout
\t\ttimeout 60s
\t\tsize 65535
\t}
\tset used4 {
\t\ttypeof ip daddr
\t\tflags dynamic,timeout
\t\ttimeout 60s
\t\tsize 65535
\t}
\tset used6 {
\t\ttypeof ip6 daddr
\t\tflags dynamic,timeout
\t\ttimeout 60s
\t\tsize 65535
\t}
\tchain mss {
\t\ttype filter hook forward priority mangle; policy accept;
\t\tiifname \"dmvpn-1\" meta nfproto ipv4 tcp flags & (syn | rst) == syn tcp option maxseg size > 1360 tcp option maxseg size set 1360
\t\toifname \"dmvpn-1\" meta nfproto ipv4 tcp flags & (syn | rst) == syn tcp option maxseg size > 1360 tcp option maxseg size set 1360
\t\tiifname \"dmvpn-1\" meta nfproto ipv6 tcp flags & (syn | rst) == syn tcp option maxseg size > 1340 tcp option maxseg size set 1340
\t\toifname \"dmvpn-1\" meta nfproto ipv6 tcp flags & (syn | rst) == syn tcp option maxseg size > 1340 tcp option maxseg size set 1340
\t}
\tchain hairpin {
\t\ttype filter hook forward priority filter; policy accept;
\t\tiifname \"dmvpn-1\" oifname \"dmvpn-1\" update @redirect4 { ip saddr . ip daddr limit rate 30/minute burst 1 packets } log group 214 snaplen 128 queue-threshold 1
\t\tiifname \"dmvpn-1\" oifname \"dmvpn-1\" update @redirect6 { ip6 saddr . ip6 daddr limit rate 30/minute burst 1 packets } log group 214 snaplen 128 queue-threshold 1
\t}
\tchain output {
\t\ttype filter hook output priority filter; policy accept;
\t\toifname \"dmvpn-1\" icmp type redirect drop
\t\toifname \"dmvpn-1\" icmpv6 type nd-redirect drop
\t\tip saddr 192.0.2.2 ip daddr 224.0.0.0/4 ip protocol 47 @th,0,16 0x2000 @th,32,32 100 drop
\t}
\tchain multicast_out {
\t\ttype filter hook output priority filter; policy accept;
\t\toifname \"dmvpn-1\" ip6 daddr ff00::/8 icmpv6 type { mld-listener-query, mld-listener-report, mld-listener-done, nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report } accept
\t\toifname \"dmvpn-1\" ip daddr { 224.0.0.0/24, 239.1.1.1 } limit rate 1000/second burst 1000 packets log group 215 queue-threshold 1
\t\toifname \"dmvpn-1\" ip6 daddr { ff02::/16, ff08::1 } limit rate 1000/second burst 1000 packets log group 215 queue-threshold 1
\t}
\tchain multicast_routed {
\t\ttype filter hook forward priority filter; policy accept;
\t\toifname \"dmvpn-1\" ip daddr { 239.1.1.1 } limit rate 1000/second burst 1000 packets log group 215 queue-threshold 1
\t\toifname \"dmvpn-1\" ip6 daddr { ff08::1 } limit rate 1000/second burst 1000 packets log group 215 queue-threshold 1
\t}
\tchain multicast_in {
\t\ttype filter hook prerouting priority filter; policy accept;
\t\tiifname \"dmvpn-1\" ip daddr { 239.1.1.1 } limit rate 1000/second burst 1000 packets log group 215 queue-threshold 1
\t}
\tchain used {
\t\ttype filter hook postrouting priority filter; policy accept;
\t\toifname \"dmvpn-1\" update @used4 { ip daddr }
\t\toifname \"dmvpn-1\" update @used6 { ip6 daddr }
\t}
}
";

    #[test]
    fn full_ruleset() {
        assert_eq!(render(&full()), FULL);
    }

    #[test]
    fn what_leaves_by_a_link_beside_is_captured_too() {
        let text = render(&Ruleset { beside: ["dmvpn-2".to_owned()].into(), ..full() });
        for ip in ["ip", "ip6"] {
            let rule = format!(
                "iifname \"dmvpn-1\" oifname {{ \"dmvpn-1\", \"dmvpn-2\" }} update @redirect{} {{ {ip} saddr",
                if ip == "ip" { 4 } else { 6 }
            );
            assert!(text.contains(&rule), "{text}");
        }
    }

    #[test]
    fn in_a_vrf_forwarded_packets_are_known_by_its_member() {
        let text = render(&Ruleset { vrf: true, ..full() });
        assert!(text.contains("meta sdifname \"dmvpn-1\" oifname \"dmvpn-1\" update @redirect4"), "{text}");
        assert_eq!(text.matches("meta sdifname").count(), 4, "{text}");
    }

    #[test]
    fn parts_are_left_out() {
        let text = render(&Ruleset {
            redirect_group: None,
            mss_clamp: None,
            track_use: None,
            multicast: None,
            outer: None,
            guard: None,
            sources: None,
            peers: None,
            ..full()
        });
        assert!(!text.contains("set ") && !text.contains("log group") && !text.contains("maxseg"), "{text}");
        assert!(text.contains("icmp type redirect drop"), "{text}");
        let text = render(&Ruleset { track_use: Some(Use::NextHops), ..full() });
        assert!(text.contains("update @used6 { rt ip6 nexthop }"), "{text}");
    }

    #[test]
    fn no_text_gets_out_of_its_quotes() {
        let hostile = "a\" drop\n}\ndelete table inet filter #*";
        let rules = Ruleset { network: hostile.into(), interface: hostile.into(), ..full() };
        let (good, bad) = (render(&full()), render(&rules));
        assert_eq!(good.lines().count(), bad.lines().count());
        assert_eq!(good.matches('"').count(), bad.matches('"').count());
        assert!(!bad.contains("filter #") && !bad.contains('*'), "{bad}");
        assert_eq!(remove_table("x; flush ruleset\n").lines().count(), 2);
        assert!(!remove_table("x; flush ruleset\n").contains("; "));
    }

    #[test]
    fn tables_of_networks_differ() {
        let long = "n".repeat(253);
        let mut other = long.clone();
        other.replace_range(252.., "m");
        let names = ["a-b", "a.b", "a_b", "a b", "a/b", long.as_str(), other.as_str()].map(table);
        assert_eq!(names[0], "dmvpn_a-b");
        for (i, name) in names.iter().enumerate() {
            assert!(name.len() <= MAX_TABLE, "{name}");
            assert!(!names[i + 1..].contains(name), "{name}");
        }
    }

    #[test]
    fn reads_set_elements() {
        let json = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"set": {"family": "inet", "name": "used4", "elem": [
                {"elem": {"val": "10.255.0.1", "timeout": 60, "expires": 59}}, "10.0.0.9"]}}]}"#;
        let want: Vec<IpAddr> = vec!["10.255.0.1".parse().unwrap(), "10.0.0.9".parse().unwrap()];
        assert_eq!(elements(json).unwrap(), want);
        assert!(elements(r#"{"nftables": [{"set": {"name": "used4"}}]}"#).unwrap().is_empty());
        assert!(elements("[]").is_err() && elements("{").is_err());
    }
}
