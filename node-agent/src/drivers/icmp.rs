//! Hosts that say by ICMP that no tunnel of theirs takes our GRE: another key, or no tunnel.

use std::time::Duration;

use dataplane::{GreRefused, IcmpSocket};
use rustix::io::Errno;
use tokio::sync::mpsc;
use tracing::warn;

/// So many messages are read in a row, …
const READS: usize = 16;
/// … and then none for so long: anybody can send them, and each wakes the agent.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts to read into `to`; the tasks end with the receiver. What cannot be read is said in the log.
pub fn start(to: &mpsc::Sender<GreRefused>) {
    for v6 in [false, true] {
        match IcmpSocket::open(v6) {
            Ok(socket) => read(socket, to.clone()),
            Err(error) if v6 && is_absent(&error) => {}
            Err(error) => warn!(%error, v6, "wrong keys will look like silent hubs"),
        }
    }
}

/// Whether the node has no such family (`ipv6.disable=1`): then it has no tunnels over it either.
fn is_absent(error: &dataplane::Error) -> bool {
    error.errno() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

fn read(socket: IcmpSocket, to: mpsc::Sender<GreRefused>) {
    tokio::spawn(async move {
        loop {
            for _ in 0..READS {
                match socket.receive().await {
                    Ok(Some(refused)) => {
                        if to.send(refused).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => {}
                    Err(error) => {
                        warn!(%error, "ICMP socket");
                        break;
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_ipv6_is_nothing_to_warn_of() {
        let io = |errno: Errno| dataplane::Error::Io { what: "ICMP socket", source: errno.into() };
        assert!(is_absent(&io(Errno::AFNOSUPPORT)));
        assert!(!is_absent(&io(Errno::NFILE)));
    }
}
