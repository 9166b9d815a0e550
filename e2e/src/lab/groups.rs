//! Multicast on a link: a listener that prints what it hears, and a sender. Both are `dmvpn-lab` itself, run in a host.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use super::host::Host;
use super::process::Process;
use crate::{paths, wait};

/// The UDP port of all of it.
const PORT: u16 = 7214;

/// Listens to a group on one link of a host, until dropped.
#[derive(Debug)]
pub struct Listener {
    process: Process,
}

impl Listener {
    /// Starts listening, and returns when the host is a member of the group.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn start(host: &Host, link: &str, group: IpAddr) -> Result<Self> {
        let mut command = host.command(paths::program("dmvpn-lab")?);
        command.args(["hear", link, &group.to_string()]);
        let mut process =
            host.spawn_command(&format!("hear-{}", group.to_string().replace(':', "-")), command)?;
        process.wait_for_log("ready", Duration::from_secs(20))?;
        Ok(Self { process })
    }

    /// What it heard: texts, in order.
    #[must_use]
    pub fn heard(&self) -> Vec<String> {
        self.process.log().lines().filter_map(|line| Some(line.strip_prefix("heard ")?.to_owned())).collect()
    }

    /// Waits until it heard a text.
    ///
    /// # Errors
    /// When it does not before the deadline; with what it heard.
    pub fn wait_for(&self, text: &str, deadline: Duration) -> Result<()> {
        let what = format!("{} to hear {text:?}", self.process.label());
        wait::until(deadline, &what, || {
            let heard = self.heard();
            wait::ensure(heard.iter().any(|h| h == text), || format!("{heard:?}"))
        })
    }
}

/// Sends one datagram to a group by a link of a host; fails as the kernel's `sendto` does.
///
/// # Errors
/// When the kernel does not take it.
pub fn say(host: &Host, link: &str, group: IpAddr, text: &str) -> Result<()> {
    let program = paths::program("dmvpn-lab")?;
    host.run(&[&program.to_string_lossy(), "say", link, &group.to_string(), text]).map(drop)
}

/// What `dmvpn-lab hear` does.
///
/// # Errors
/// When there is no such link.
pub fn hear(link: &str, group: IpAddr) -> Result<()> {
    let socket = udp(group)?;
    socket.set_reuse_address(true)?;
    let index = index(link)?;
    match group {
        IpAddr::V4(v4) => {
            // To the group itself: else it would hear what other listeners of the host joined.
            socket.bind(&SocketAddr::from((v4, PORT)).into())?;
            socket.join_multicast_v4_n(&v4, &InterfaceIndexOrAddress::Index(index)).context("join")?;
        }
        IpAddr::V6(v6) => {
            socket.bind(&SocketAddrV6::new(v6, PORT, 0, index).into())?;
            socket.join_multicast_v6(&v6, index).context("join")?;
        }
    }
    println!("ready");
    let socket = std::net::UdpSocket::from(socket);
    let mut buffer = [0; 2048];
    loop {
        let length = socket.recv(&mut buffer).context("receive")?;
        println!("heard {}", String::from_utf8_lossy(buffer.get(..length).unwrap_or(&[])));
        std::io::stdout().flush()?;
    }
}

/// What `dmvpn-lab say` does.
///
/// # Errors
/// When the kernel does not take the packet.
pub fn send(link: &str, group: IpAddr, text: &str) -> Result<()> {
    let socket = udp(group)?;
    match group {
        IpAddr::V4(_) => socket.bind_device(Some(link.as_bytes())).context("bind to the link")?,
        IpAddr::V6(_) => socket.set_multicast_if_v6(index(link)?).context("choose the link")?,
    }
    socket.send_to(text.as_bytes(), &SocketAddr::from((group, PORT)).into()).context("send")?;
    Ok(())
}

fn udp(group: IpAddr) -> Result<Socket> {
    let domain = if group.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).context("UDP socket")
}

fn index(link: &str) -> Result<u32> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{link}/ifindex"));
    text.with_context(|| format!("no link {link}"))?.trim().parse().context("index")
}
