//! NHRP packets: one socket a tunnel link, read by a task of its own.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dataplane::model::GreLink;
use dataplane::{Gre6Socket, Gre6Strangers, NhrpSocket, Packets, Stranger};
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// A burst of packets from one link.
#[derive(Debug)]
pub struct Burst {
    /// Network of the tunnel.
    pub network: String,
    /// Link that they came in by.
    pub link: u32,
    /// The packets.
    pub packets: Packets,
    /// Registrations with another key, at a hub over IPv6.
    pub strangers: Vec<Stranger>,
}

/// Strangers are read no more often than this: a flood of them costs nothing.
const STRANGERS: Duration = Duration::from_secs(1);

/// Where NHRP goes and comes: the tunnel link itself, or the underlay beside it.
#[derive(Debug)]
enum Door {
    Link(NhrpSocket),
    Underlay6(Gre6Socket),
}

impl Door {
    fn open(link: u32, gre: &GreLink) -> Result<Self, dataplane::Error> {
        match gre.local {
            IpAddr::V4(_) => NhrpSocket::open(link).map(Self::Link),
            IpAddr::V6(local) => Gre6Socket::open(local, gre.key, gre.ttl).map(Self::Underlay6),
        }
    }

    async fn receive(&self, into: &mut Packets) -> Result<(), dataplane::Error> {
        match self {
            Self::Link(socket) => socket.receive(into).await,
            Self::Underlay6(socket) => socket.receive(into).await,
        }
    }

    async fn send(&self, packets: &[(IpAddr, &[u8])]) -> Vec<Result<(), dataplane::Error>> {
        match self {
            Self::Link(socket) => socket.send(packets).await,
            Self::Underlay6(socket) => socket.send(packets).await,
        }
    }
}

/// What a socket depends on: the link, and over IPv6 the underlay address, key, hop limit, and whether it is a hub's.
type Place = (u32, Option<(IpAddr, Option<u32>, u8, bool)>);

fn place(link: u32, gre: &GreLink, hub: bool) -> Place {
    (link, gre.local.is_ipv6().then_some((gre.local, gre.key, gre.ttl, hub)))
}

/// An open socket and its reader.
#[derive(Debug)]
pub struct NhrpDriver {
    place: Place,
    socket: Arc<Door>,
    reader: tokio::task::JoinHandle<()>,
    /// Reads strangers.
    lookout: Option<tokio::task::JoinHandle<()>>,
}

impl NhrpDriver {
    /// Opens the socket of the link with index `link` and starts reading into `to` (bounded: when the agent is busy the kernel's socket
    /// buffer takes the load, and what does not fit there is lost and sent again by the peer).
    /// At a `hub` over IPv6 strangers are heard too.
    ///
    /// # Errors
    /// When the socket cannot be opened (no CAP_NET_RAW, link gone).
    pub fn open(
        network: &str,
        link: u32,
        gre: &GreLink,
        hub: bool,
        to: mpsc::Sender<Burst>,
    ) -> Result<Self, dataplane::Error> {
        let socket = Arc::new(Door::open(link, gre)?);
        let source = Arc::clone(&socket);
        let strangers = match gre.local {
            // A point-to-point link takes no key but its own: the kernel tells them.
            IpAddr::V6(local) if hub && gre.is_metadata() => Some(Gre6Strangers::open(local, gre.key)?),
            _ => None,
        };
        let lookout = strangers.map(|it| tokio::spawn(look_out(it, network.to_owned(), link, to.clone())));
        let network = network.to_owned();
        let reader = tokio::spawn(async move {
            loop {
                let mut packets = Packets::default();
                if let Err(error) = source.receive(&mut packets).await {
                    // ENETDOWN while the link is down, ENXIO when it is gone: the agent reopens on the link's return.
                    debug!(network, %error, "NHRP socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                let burst = Burst { network: network.clone(), link, packets, strangers: Vec::new() };
                if to.send(burst).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { place: place(link, gre, hub), socket, reader, lookout })
    }

    /// Whether it is the socket of this link, as a hub's or another's.
    pub fn serves(&self, link: u32, gre: &GreLink, hub: bool) -> bool {
        self.place == place(link, gre, hub)
    }

    /// Sends packets; what cannot be sent is said in the log (NHRP sends again by itself).
    pub async fn send(&self, network: &str, packets: &[(IpAddr, Vec<u8>)]) {
        let borrowed: Vec<_> = packets.iter().map(|(to, bytes)| (*to, bytes.as_slice())).collect();
        for (result, (to, _)) in self.socket.send(&borrowed).await.into_iter().zip(packets) {
            if let Err(error) = result {
                warn!(network, %to, %error, "NHRP packet not sent");
            }
        }
    }
}

impl Drop for NhrpDriver {
    fn drop(&mut self) {
        self.reader.abort();
        self.lookout.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn look_out(socket: Gre6Strangers, network: String, link: u32, to: mpsc::Sender<Burst>) {
    loop {
        match socket.receive().await {
            Ok(strangers) if strangers.is_empty() => {}
            Ok(strangers) => {
                let burst = Burst { network: network.clone(), link, packets: Packets::default(), strangers };
                if to.send(burst).await.is_err() {
                    return;
                }
            }
            Err(error) => debug!(network, %error, "GRE socket"),
        }
        tokio::time::sleep(STRANGERS).await;
    }
}
