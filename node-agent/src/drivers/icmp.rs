//! Hosts that say by ICMP that no tunnel of theirs takes our GRE: another key, or no tunnel.

use dataplane::{GreRefused, IcmpSocket};
use tokio::sync::mpsc;
use tracing::warn;

/// Starts to read into `to`; the task ends with the receiver.
///
/// # Errors
/// When the socket cannot be opened (no CAP_NET_RAW).
pub fn start(to: mpsc::Sender<GreRefused>) -> Result<(), dataplane::Error> {
    for v6 in [false, true] {
        read(IcmpSocket::open(v6)?, to.clone());
    }
    Ok(())
}

fn read(socket: IcmpSocket, to: mpsc::Sender<GreRefused>) {
    tokio::spawn(async move {
        loop {
            match socket.receive().await {
                Ok(refused) => {
                    if to.send(refused).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    warn!(%error, "ICMP socket");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    });
}
