//! Capture: the kernel logs packets that it needs us for (nft rule → NFLOG), we hand them on.

use dataplane::{Logged, Nflog};
use tokio::sync::mpsc;
use tracing::warn;

/// Starts reading NFLOG group `group` into `to`, `keep` bytes of each packet; the task ends with the receiver. What the
/// receiver has no room for is lost.
///
/// # Errors
/// When the group cannot be bound (no CAP_NET_ADMIN, no nfnetlink_log, or somebody else has it).
pub fn start(
    group: u16,
    keep: u32,
    to: mpsc::Sender<Logged>,
) -> Result<tokio::task::JoinHandle<()>, dataplane::Error> {
    let log = Nflog::open(group, keep)?;
    Ok(tokio::spawn(async move {
        loop {
            match log.receive().await {
                Ok(packets) => {
                    for packet in packets {
                        if let Err(mpsc::error::TrySendError::Closed(_)) = to.try_send(packet) {
                            return;
                        }
                    }
                }
                Err(error) => {
                    warn!(group, %error, "capture");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }))
}
