//! NHRP packets: one socket a tunnel link, read by a task of its own.

use std::net::IpAddr;
use std::sync::Arc;

use dataplane::{NhrpSocket, Packets};
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
}

/// An open socket and its reader.
#[derive(Debug)]
pub struct NhrpDriver {
    link: u32,
    socket: Arc<NhrpSocket>,
    reader: tokio::task::JoinHandle<()>,
}

impl NhrpDriver {
    /// Opens the socket on `link` and starts reading into `to` (bounded: when the agent is busy the kernel's socket
    /// buffer takes the load, and what does not fit there is lost and sent again by the peer).
    ///
    /// # Errors
    /// When the socket cannot be opened (no CAP_NET_RAW, link gone).
    pub fn open(network: &str, link: u32, to: mpsc::Sender<Burst>) -> Result<Self, dataplane::Error> {
        let socket = Arc::new(NhrpSocket::open(link)?);
        let source = Arc::clone(&socket);
        let network = network.to_owned();
        let reader = tokio::spawn(async move {
            loop {
                let mut packets = Packets::default();
                if let Err(error) = source.receive(&mut packets).await {
                    // ENETDOWN while the link is down, ENXIO when it is gone: the agent reopens on the link's return.
                    debug!(network, %error, "NHRP socket");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
                if to.send(Burst { network: network.clone(), link, packets }).await.is_err() {
                    return;
                }
            }
        });
        Ok(Self { link, socket, reader })
    }

    /// Link that the socket is bound to.
    pub fn link(&self) -> u32 {
        self.link
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
    }
}
