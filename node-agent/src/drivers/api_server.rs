//! Where the API server is, and whether it takes connections: asked anew, since a connection that is there already says
//! nothing for minutes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use nhrp::Time;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::mpsc;
use tracing::debug;

/// A connection has to be there within this time.
const WITHIN: Duration = Duration::from_millis(1_500);
/// How often its name is resolved again.
const REFRESH: Duration = Duration::from_secs(60);

/// Host and port as the agent's own client has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiServer {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// What is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Its addresses.
    Addresses(BTreeSet<IpAddr>),
    /// A connection was tried at that time: whether it was taken.
    Tried(Time, bool),
}

/// Tells its addresses, now and whenever they may have changed.
pub fn follow(server: ApiServer, to: mpsc::Sender<Word>) {
    tokio::spawn(async move {
        loop {
            let found = lookup_host((server.host.as_str(), server.port)).await;
            let addresses: BTreeSet<_> = found.into_iter().flatten().map(|it| it.ip()).collect();
            if !addresses.is_empty() && to.send(Word::Addresses(addresses)).await.is_err() {
                return;
            }
            tokio::time::sleep(REFRESH).await;
        }
    });
}

/// Tries a connection.
pub fn start(server: ApiServer, at: Time, to: mpsc::Sender<Word>) {
    tokio::spawn(async move {
        let connect = TcpStream::connect((server.host.as_str(), server.port));
        let taken = matches!(tokio::time::timeout(WITHIN, connect).await, Ok(Ok(_)));
        debug!(?server, taken, "tried the API server");
        let _ = to.send(Word::Tried(at, taken)).await;
    });
}
