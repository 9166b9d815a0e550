//! Packets through the tunnel: NHRP both ways, redirect capture, use tracking, MSS, ICMP redirects.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dataplane::model::{Address, Neighbour, Op};
use dataplane::nft::{self, Ruleset};
use dataplane::{Kernel, Logged, Nflog, NhrpSocket, Packets, nflog};

use crate::ensure;
use crate::host::{Outcome, apply, create, gre, held, run, within};
use crate::spoke::{PORT, overlay6};

const NETWORK: &str = "probe";
const GROUP: u16 = 214;
/// Largest segment that the rules allow here; without them 1360 would be agreed on.
const MSS: u16 = 1000;

pub(crate) async fn all() -> Outcome<()> {
    let (kernel, _events) = Kernel::open().await?;
    let link = create(&kernel, gre("gre1", super::HUB_NBMA)).await?;
    // A subnet as in Phase 2: only then would the kernel send ICMP redirects.
    apply(&kernel, Op::AddAddress(Address { link, address: format!("{}/16", super::HUB_OVERLAY).parse()? }))
        .await?;
    apply(&kernel, Op::AddAddress(Address { link, address: format!("{}/64", super::HUB_OVERLAY6).parse()? }))
        .await?;
    let mut spokes = Vec::new();
    for (name, _, underlay, overlay) in super::SPOKES {
        spokes.push(Spoke::start(name, underlay, overlay)?);
        let neighbour = Neighbour { link, overlay: overlay.parse()?, nbma: underlay.parse()? };
        apply(&kernel, Op::PutNeighbour(neighbour)).await?;
        let overlay = overlay6(overlay);
        let neighbour = Neighbour { link, overlay: overlay.parse()?, nbma: underlay.parse()? };
        apply(&kernel, Op::PutNeighbour(neighbour.clone())).await?;
        ensure!(kernel.observe().await?.neighbours.contains(&neighbour), "{neighbour:?} is not observed");
        run("ping", &["-c", "2", "-i", "0.2", "-W", "2", &overlay])?;
    }
    held("IPv6 overlay: pings to a multipoint and a point-to-point spoke");
    nhrp(link).await?;
    without_rules().await?;
    captured(link).await?;
    rules_at_work().await?;
    drop(spokes);
    nft::load(&nft::remove(NETWORK)).await?;
    nft::load(&nft::remove(NETWORK)).await?;
    ensure!(nft::tables().await?.is_empty(), "tables are left: {:?}", nft::tables().await?);
    apply(&kernel, Op::DeleteLink { index: link }).await?;
    let seen = kernel.observe().await?;
    ensure!(seen.routes.is_empty() && seen.neighbours.is_empty(), "left: {seen:?}");
    held("delete: nothing of ours is left, nft included");
    Ok(())
}

async fn nhrp(link: u32) -> Outcome<()> {
    let socket = NhrpSocket::open(link)?;
    let to: Vec<IpAddr> = super::SPOKES.iter().map(|s| s.2.parse()).collect::<Result<_, _>>()?;
    let sent: Vec<(IpAddr, Vec<u8>)> = (0..200_u16)
        .map(|n| (to[usize::from(n % 2)], [&n.to_be_bytes()[..], &vec![7; 26 + usize::from(n) * 6]].concat()))
        .collect();
    let borrowed: Vec<_> = sent.iter().map(|(to, bytes)| (*to, bytes.as_slice())).collect();
    for result in socket.send(&borrowed).await {
        result?;
    }
    let want: BTreeSet<_> =
        sent.iter().map(|(to, bytes)| (*to, [b"re:", bytes.as_slice()].concat())).collect();
    let mut received = Packets::default();
    let all = async {
        while received.len() < sent.len() {
            socket.receive(&mut received).await?;
        }
        Ok::<_, dataplane::Error>(())
    };
    let complete = within(5, "NHRP answers", all).await;
    let have: BTreeSet<_> = received.iter().map(|(nbma, packet)| (nbma, packet.to_vec())).collect();
    let missing: Vec<_> =
        want.difference(&have).map(|(nbma, bytes)| format!("{} of {nbma}", bytes.len())).collect();
    ensure!(complete.is_ok(), "missing answers: {missing:?}");
    ensure!(have == want, "answers or their outer sources differ");
    let results = socket.send(&[("2001:db8::1".parse()?, b"x"), (to[0], &[0; 3000]), (to[1], b"y")]).await;
    // 3000 bytes do not fit the link's MTU: that packet's error is its own.
    let good: Vec<_> = results.iter().map(Result::is_ok).collect();
    ensure!(good == [false, false, true], "{results:?}");
    ensure!(socket.sourceless() == 0 && socket.oversized() == 0, "packets were dropped");
    ensure!(NhrpSocket::open(999_999).is_err(), "a socket on no link");
    held("NHRP socket: 200 packets there and back, outer sources right, errors belong to their packets");
    Ok(())
}

/// What the kernel does by itself, so that what the rules do can be told from it.
async fn without_rules() -> Outcome<()> {
    let before = redirects()?;
    ping("dp-a", super::SPOKES[1].3, 5)?;
    ensure!(redirects()? > before, "the kernel sent no ICMP redirect: the check below proves nothing");
    let mss = agreed_mss().await?;
    ensure!(mss > MSS, "segments are small without a rule: {mss}");
    Ok(())
}

async fn captured(link: u32) -> Outcome<()> {
    let rules = Ruleset {
        network: NETWORK.into(),
        interface: "gre1".into(),
        redirect_group: Some(GROUP),
        mss_clamp: Some((MSS, MSS - 20)),
        track_use: Some(nft::Use::Destinations),
        ..Ruleset::default()
    };
    let log = Nflog::open(GROUP, nflog::HEADERS)?;
    let taken = Nflog::open(GROUP, nflog::HEADERS).map(|_| ()).map_err(|e| e.errno());
    ensure!(taken == Err(Some(1)), "the group is bound twice: {taken:?}");
    for _ in 0..2 {
        nft::load(&nft::render(&rules)).await?;
    }
    ensure!(nft::tables().await? == ["dmvpn_probe"], "{:?}", nft::tables().await?);
    let broken = nft::load("table inet dmvpn_probe { nonsense }").await;
    ensure!(broken.is_err_and(|e| e.to_string().contains("nonsense")), "nft's words are missing");
    ensure!(nft::used(NETWORK).await?.is_empty(), "used before any packet: {:?}", nft::used(NETWORK).await?);
    // From the hub itself: no hairpin.
    run("ping", &["-c", "2", "-i", "0.2", "-W", "2", super::SPOKES[0].3])?;
    ensure!(
        tokio::time::timeout(Duration::from_millis(300), log.receive()).await.is_err(),
        "own traffic captured"
    );
    ping("dp-a", super::SPOKES[1].3, 16)?;
    let mut seen = within(2, "capture", log.receive()).await??;
    while let Ok(more) = tokio::time::timeout(Duration::from_millis(100), log.receive()).await {
        seen.extend(more?);
    }
    // Sixteen echo requests one way and as many replies the other, in less than 2 s.
    ensure!(seen.len() == 2, "{} captures of one exchange: {seen:?}", seen.len());
    let pairs: BTreeSet<_> =
        seen.iter().map(|h| (h.packet[12..16].to_vec(), h.packet[16..20].to_vec())).collect();
    let (a, b) = (vec![10, 255, 0, 11], vec![10, 255, 0, 12]);
    ensure!(pairs == BTreeSet::from([(a.clone(), b.clone()), (b, a)]), "{pairs:?}");
    ensure!(
        seen.iter().all(|h| h.link_in == Some(link) && h.link_out == Some(link) && h.packet.len() == 84),
        "{seen:?}"
    );
    tokio::time::sleep(Duration::from_millis(2100)).await;
    ping("dp-a", super::SPOKES[1].3, 3)?;
    let again = within(2, "second capture", log.receive()).await??;
    ensure!(!again.is_empty(), "no capture after 2 s");
    ping("dp-a", &overlay6(super::SPOKES[1].3), 5)?;
    let six = |h: &Logged| {
        let by_tunnel = h.link_in == Some(link) && h.link_out == Some(link);
        h.packet[0] >> 4 == 6 && h.packet.len() == 104 && by_tunnel
    };
    let mut seen = 0;
    while let Ok(more) = tokio::time::timeout(Duration::from_millis(100), log.receive()).await {
        seen += more?.iter().filter(|h| six(h)).count();
    }
    ensure!(seen == 2, "{seen} captures of one exchange over IPv6");
    held(
        "redirect capture: 16 pings by the hub: one log each way, one after 2 s, IPv6 too; own traffic never",
    );
    Ok(())
}

async fn rules_at_work() -> Outcome<()> {
    let used: BTreeSet<_> = nft::used(NETWORK).await?.into_iter().collect();
    let both = super::SPOKES.iter().flat_map(|s| [s.3.to_owned(), overlay6(s.3)]);
    let want: BTreeSet<IpAddr> = both.map(|a| a.parse()).collect::<Result<_, _>>()?;
    ensure!(used == want, "used: {used:?}");
    ensure!(nft::used("none-such").await?.is_empty(), "use of a network that has no table");
    let mss = agreed_mss().await?;
    ensure!(mss <= MSS, "segments of {mss} bytes despite the clamp");
    let before = redirects()?;
    ping("dp-a", super::SPOKES[1].3, 5)?;
    ensure!(redirects()? == before, "ICMP redirects left by the tunnel");
    held(&format!(
        "rules: destinations in use are known, segments at most {mss} bytes, no ICMP redirect leaves"
    ));
    Ok(())
}

/// The segment size that `dp-a` and `dp-b` agree on through the hub, less TCP options.
async fn agreed_mss() -> Outcome<u16> {
    let connect =
        format!("exec 3<>/dev/tcp/{}/{PORT}; ss -tin dst {}", super::SPOKES[1].3, super::SPOKES[1].3);
    let shown = run("ip", &["netns", "exec", "dp-a", "bash", "-c", &connect])?;
    let value = shown.split_whitespace().find_map(|w| w.strip_prefix("mss:")).ok_or("no mss in `ss`")?;
    Ok(value.parse()?)
}

fn ping(from: &str, to: &str, count: u32) -> Outcome<()> {
    let count = count.to_string();
    run("ip", &["netns", "exec", from, "ping", "-q", "-c", &count, "-i", "0.1", "-W", "2", to]).map(|_| ())
}

/// ICMP redirects that `dp-a` received.
fn redirects() -> Outcome<u64> {
    let text = run("ip", &["netns", "exec", "dp-a", "cat", "/proc/net/snmp"])?;
    let mut lines = text.lines().filter_map(|l| l.strip_prefix("Icmp: ")).map(str::split_whitespace);
    let (names, values) = (lines.next().ok_or("snmp")?, lines.next().ok_or("snmp")?);
    let value = names.zip(values).find(|(name, _)| *name == "InRedirects").ok_or("InRedirects")?.1;
    Ok(value.parse()?)
}

/// A spoke process; it ends with this value.
struct Spoke(Child);

impl Spoke {
    fn start(name: &str, underlay: &str, overlay: &str) -> Outcome<Self> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", name])
            .arg(std::env::current_exe()?)
            .args(["spoke", underlay, overlay])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let spoke = Self(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "spoke {name}: {line}");
        Ok(spoke)
    }
}

impl Drop for Spoke {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
