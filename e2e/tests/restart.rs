//! Agents that are killed and start again under pings and a TCP stream: the kernel forwards, and nobody notices. The stream is
//! compared with one of the same length that nothing happens to.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::{Ping, Process};
use e2e::ring3::Needs;
use e2e::ring3_with;
use e2e::scene::branches::Branches;
use e2e::scene::overlay::{NETWORK, TUNNEL, link_index};
use e2e::scene::{Scene, Site};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
const TEN_MS: Duration = Duration::from_millis(10);
/// How long a stream lasts, in seconds.
const SECONDS: u32 = 12;
const NEEDS: Needs = Needs { memory_mib: 768, deadline: Duration::from_secs(240) };

/// A stream from behind one branch to behind the other, at a rate that the guest manages. It runs.
fn stream(a: &Site, to: IpAddr, label: &str) -> Result<Process> {
    let seconds = SECONDS.to_string();
    let to = to.to_string();
    let words = ["iperf3", "--json", "--bitrate", "8M", "--time", &seconds, "--client", &to];
    a.lan.spawn(label, &words)
}

/// Ends with it: how many bytes came, and how many segments were sent again.
fn ended(mut stream: Process) -> Result<(u64, u64)> {
    stream.wait(Duration::from_secs(u64::from(SECONDS) * 3))?;
    let said = stream.log();
    let said: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    let number = |of: &Value| of.as_u64().with_context(|| said.to_string());
    Ok((number(&said["end"]["sum_received"]["bytes"])?, number(&said["end"]["sum_sent"]["retransmits"])?))
}

#[test]
fn kills_cost_no_ping_and_no_segment() {
    ring3_with(NEEDS, |lab| {
        let mut branches = Branches::start(Scene::build(lab)?)?;
        let (a, b) = (branches.a()?.clone(), branches.b()?.clone());
        branches.make_direct()?;
        let _server = b.lan.spawn("iperf3-server", &["iperf3", "--server"])?;
        let to = IpAddr::from(b.lan_host());
        let index = link_index(&a.host, TUNNEL)?;
        let (bytes, control) = ended(stream(&a, to, "iperf3-control")?)?;
        println!("control: {bytes} bytes, {control} segments again");

        let running = stream(&a, to, "iperf3-killed")?;
        let ping = Ping::start(&a.lan, to, 800, TEN_MS)?;
        ping.wait_for_reply(50, SOON)?;
        for agent in
            [&mut branches.overlay.branch_a, &mut branches.overlay.hub, &mut branches.overlay.branch_b]
        {
            agent.kill()?;
            agent.restart()?;
            agent.wait_until_up(NETWORK, SOON)?;
        }
        let report = ping.finish()?;
        let (bytes, again) = ended(running)?;
        println!("three agents killed: {bytes} bytes, {again} segments again; {report}");
        report.ensure_nothing_lost()?;
        ensure!(again <= control, "{again} segments were sent again, and {control} in the control run");
        ensure!(link_index(&a.host, TUNNEL)? == index, "the link was made anew");
        branches.ensure_direct_traffic()
    });
}
