//! Redirect capture: the kernel logs the first packet of each hairpinned pair (nft rule → NFLOG), we hand it on.

use dataplane::{Hairpin, Nflog};
use tokio::sync::mpsc;
use tracing::warn;

/// Starts reading NFLOG group `group` into `to`; the task ends with the receiver.
///
/// # Errors
/// When the group cannot be bound (no CAP_NET_ADMIN, no nfnetlink_log, or somebody else has it).
pub fn start(group: u16, to: mpsc::Sender<Hairpin>) -> Result<tokio::task::JoinHandle<()>, dataplane::Error> {
    let log = Nflog::open(group)?;
    Ok(tokio::spawn(async move {
        loop {
            match log.receive().await {
                Ok(packets) => {
                    for packet in packets {
                        if to.send(packet).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => {
                    warn!(%error, "redirect capture");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }))
}
