//! The client of the API server, and what the agent asks it about itself.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, Config};
use tracing::{info, warn};

use crate::drivers::api_server::{self, ApiServer};
use crate::source::kubernetes::WATCH_SECONDS;

/// Connecting must not take longer.
const CONNECT: Duration = Duration::from_secs(5);
/// Whether the agent's own DaemonSet is being deleted must be known within this time.
const FAREWELL: Duration = Duration::from_secs(2);

/// A client, and where the server is, from the pod's service account or from `KUBECONFIG`. The server need not answer yet.
///
/// # Errors
/// When there is neither, or it cannot be used.
pub async fn client() -> anyhow::Result<(Client, ApiServer)> {
    // Two users of rustls in one program: which implementation is used is said once. An error means: said before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = Config::infer().await.context(
        "--kubernetes needs a pod with a service account, or KUBECONFIG naming a file that can be used",
    )?;
    config.connect_timeout = Some(CONNECT);
    // Longer than any watch is silent; without it a request on a dead connection would wait for minutes.
    config.read_timeout = Some(Duration::from_secs(u64::from(WATCH_SECONDS) + 10));
    let url = &config.cluster_url;
    let host = url.host().context("the API server's URL has no host")?.trim_matches(['[', ']']).to_owned();
    let secure = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let client = Client::try_from(config).context("client of the API server")?;
    let server = api_server::follow(client.clone(), host, port);
    Ok((client, server))
}

/// Whether the agent's own DaemonSet (or its Namespace) is gone or going: then its tunnels go too. Who may not know, or
/// gets no answer in time, takes nothing away.
pub async fn being_removed(client: &Client, namespace: &str, daemon_set: &str) -> bool {
    if daemon_set.is_empty() {
        return false;
    }
    let asked = async {
        let sets = Api::<DaemonSet>::namespaced(client.clone(), namespace);
        let set = gone("DaemonSet", sets.get_metadata_opt(daemon_set).await.map(|o| o.map(|o| o.metadata)));
        let namespaces = Api::<Namespace>::all(client.clone());
        let space = async {
            let found = namespaces.get_metadata_opt(namespace).await;
            gone("Namespace", found.map(|o| o.map(|o| o.metadata)))
        };
        set || space.await
    };
    tokio::time::timeout(FAREWELL, asked).await.unwrap_or_else(|_| {
        warn!("no answer whether the DaemonSet is being deleted: the tunnels stay");
        false
    })
}

type Found = kube::Result<Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>>;

fn gone(kind: &str, found: Found) -> bool {
    match found {
        Ok(None) => {
            info!(kind, "is gone: the tunnels go too");
            true
        }
        Ok(Some(metadata)) => {
            let going = metadata.deletion_timestamp.is_some();
            if going {
                info!(kind, "is being deleted: the tunnels go too");
            }
            going
        }
        Err(error) => {
            warn!(kind, %error, "whether it is being deleted cannot be known: the tunnels stay");
            false
        }
    }
}
