//! Chapter 3: what the overlay looks like to a Cisco user, and the same in the kernel.

use std::net::IpAddr;

use anyhow::{Result, ensure};

use crate::lab::Agent;
use crate::scene::Scene;
use crate::scene::overlay::{BRANCH_A, BRANCH_B, HUB, KEY, NETWORK, Overlay, ROUTER, TUNNEL};
use crate::story::Chapter;

pub(super) fn tell(chapter: &mut Chapter, scene: &Scene, overlay: &Overlay) -> Result<()> {
    let nbma = |name: &str| -> Result<IpAddr> { Ok(scene.site(name)?.nbma().into()) };
    let branches = [
        (IpAddr::from(BRANCH_A), nbma("branch-a")?),
        (IpAddr::from(BRANCH_B), nbma("branch-b")?),
        (IpAddr::from(ROUTER), nbma("router")?),
    ];
    let at_branch = [(IpAddr::from(HUB), nbma("hub")?)];
    for (agent, peers) in [(&overlay.hub, &branches[..]), (&overlay.branch_a, &at_branch[..])] {
        let name = agent.host().name().to_owned();
        for words in ["show dmvpn", "show dmvpn detail", "show ip nhrp", "show ip nhrp brief"] {
            let text = chapter.step_with(
                &format!("dmvpn {words}, at {name}"),
                "each peer with its tunnel and NBMA address",
                || {
                    let text = agent.cli(words)?;
                    for (tunnel, nbma) in peers {
                        ensure!(text.contains(&tunnel.to_string()), "{tunnel} is missing in\n{text}");
                        ensure!(text.contains(&nbma.to_string()), "{nbma} is missing in\n{text}");
                    }
                    Ok((text, format!("{} peers", peers.len())))
                },
            )?;
            chapter.show(&format!("{name}# dmvpn {words}"), &text);
        }
        chapter.step(
            &format!("all of it is Up at {name}"),
            "every peer in state Up, and -o json says the same as the text",
            || all_up(agent, peers),
        )?;
        chapter.step(
            &format!("the kernel of {name} says the same"),
            "mGRE link with the key, no NOARP; permanent neighbours",
            || in_the_kernel(agent, peers),
        )?;
    }
    Ok(())
}

fn all_up(agent: &Agent, peers: &[(IpAddr, IpAddr)]) -> Result<String> {
    let tunnel = agent.tunnel(NETWORK)?;
    let text = agent.cli("show dmvpn")?;
    for (address, nbma) in peers {
        let peer = tunnel.peers.iter().find(|p| p.address == *address);
        let Some(peer) = peer else { anyhow::bail!("{address} is missing: {:?}", tunnel.peers) };
        ensure!(peer.state == view::State::Up, "{address} is {:?}", peer.state);
        ensure!(peer.nbma == Some(*nbma), "{address} is at {:?}", peer.nbma);
        let line = text.lines().find(|l| l.contains(&format!(" {address} ")) && l.contains(" UP "));
        ensure!(line.is_some(), "no line says that {address} is UP:\n{text}");
    }
    Ok(format!("{} peers Up, tunnel {:?} since {} s", peers.len(), tunnel.state, tunnel.state_seconds))
}

fn in_the_kernel(agent: &Agent, peers: &[(IpAddr, IpAddr)]) -> Result<String> {
    let host = agent.host();
    let link = host.ip_json(&format!("-d link show {TUNNEL}"))?;
    let data = &link[0]["linkinfo"]["info_data"];
    let key = IpAddr::from(KEY.to_be_bytes()).to_string();
    ensure!(data["remote"] == "any", "not multipoint: {data}");
    ensure!(data["ikey"] == key.as_str() && data["okey"] == key.as_str(), "key: {data}");
    let flags = link[0]["flags"].to_string();
    ensure!(!flags.contains("NOARP"), "flags {flags}");
    let neighbours = host.ip_json(&format!("neighbour show dev {TUNNEL}"))?;
    let list = neighbours.as_array().map_or(&[][..], Vec::as_slice);
    for (address, nbma) in peers {
        let found = list.iter().any(|n| {
            n["dst"] == address.to_string().as_str()
                && n["lladdr"] == nbma.to_string().as_str()
                && n["state"].to_string().contains("PERMANENT")
        });
        ensure!(found, "no permanent neighbour {address} → {nbma}: {neighbours}");
    }
    Ok(format!("{TUNNEL}: gre remote any key {KEY}, flags {flags}; {} neighbours", list.len()))
}
