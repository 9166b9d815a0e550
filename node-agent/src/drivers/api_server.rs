//! Where the API server is, and whether it takes connections: asked anew, since a connection that is there already says
//! nothing for minutes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use nhrp::Time;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{mpsc, watch};
use tracing::debug;

/// A connection has to be there within this time.
const WITHIN: Duration = Duration::from_millis(1_500);
/// How often its addresses are looked for again…
const REFRESH: Duration = Duration::from_secs(60);
/// … and how often while they have not been found.
const RETRY: Duration = Duration::from_secs(5);
/// Namespace and name of the EndpointSlice that API servers write of themselves.
const SLICE: (&str, &str) = ("default", "kubernetes");

/// The API server as the agent's own client has it.
#[derive(Clone, Debug)]
pub struct ApiServer {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Its addresses.
    pub addresses: watch::Receiver<Addresses>,
}

/// Where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The host's own, and those behind a Service's.
    pub all: BTreeSet<IpAddr>,
    /// Whether these are all: before the server has answered, nobody knows.
    pub complete: bool,
}

/// What is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Its addresses.
    Addresses(Addresses),
    /// A connection was tried at that time: whether it was taken.
    Tried(Time, bool),
}

/// Follows where it is. An address is known at once, all else from the first answers.
pub fn follow(client: Client, host: String, port: u16) -> ApiServer {
    let first = host.parse().ok().into_iter().collect();
    let (to, addresses) = watch::channel(Addresses { all: first, complete: false });
    let server = ApiServer { host: host.clone(), port, addresses };
    tokio::spawn(async move {
        let mut behind = None;
        loop {
            let found = lookup_host((host.as_str(), port)).await;
            let mut all: BTreeSet<_> = found.into_iter().flatten().map(|it| it.ip()).collect();
            behind = addresses_behind(&client).await.or(behind);
            all.extend(behind.iter().flatten());
            let complete = behind.is_some() && !all.is_empty();
            if to.is_closed() {
                return;
            }
            if !all.is_empty() {
                let new = Addresses { all, complete };
                to.send_if_modified(|old| {
                    *old != new && {
                        *old = new;
                        true
                    }
                });
            }
            tokio::time::sleep(if complete { REFRESH } else { RETRY }).await;
        }
    });
    server
}

/// What API servers say of themselves: their own addresses, where the host is that of a Service. Who may not ask (an older
/// chart) knows none; `None`: no answer.
async fn addresses_behind(client: &Client) -> Option<BTreeSet<IpAddr>> {
    let (namespace, name) = SLICE;
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), namespace);
    match tokio::time::timeout(RETRY, slices.get_opt(name)).await {
        Ok(Ok(slice)) => {
            let endpoints = slice.into_iter().flat_map(|slice| slice.endpoints);
            let addresses = endpoints.flat_map(|endpoint| endpoint.addresses);
            Some(addresses.filter_map(|address| address.parse().ok()).collect())
        }
        Ok(Err(kube::Error::Api(refused))) if refused.code == 403 => Some(BTreeSet::new()),
        other => {
            debug!(?other, "the API server's own addresses are not known");
            None
        }
    }
}

/// Tells where it is whenever that changes.
pub fn tell(server: &ApiServer, to: mpsc::Sender<Word>) {
    let mut addresses = server.addresses.clone();
    tokio::spawn(async move {
        loop {
            let now = addresses.borrow_and_update().clone();
            if to.send(Word::Addresses(now)).await.is_err() || addresses.changed().await.is_err() {
                return;
            }
        }
    });
}

/// Tries a connection.
pub fn start(server: ApiServer, at: Time, to: mpsc::Sender<Word>) {
    tokio::spawn(async move {
        let connect = TcpStream::connect((server.host.as_str(), server.port));
        let taken = matches!(tokio::time::timeout(WITHIN, connect).await, Ok(Ok(_)));
        debug!(host = server.host, taken, "tried the API server");
        let _ = to.send(Word::Tried(at, taken)).await;
    });
}
