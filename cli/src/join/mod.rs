//! `kubectl dmvpn join`: one file that makes another cluster, or a box, a member of a network of this cluster.
//!
//! What is printed: the network as it is here without what is meant for this cluster alone, the Secrets that it names, and
//! a DmvpnSpoke. Nothing is changed here, except that a pool or an address which is handed out is noted in the
//! network's `addressing.reserved`, so that it is nobody else's.

mod member;

use std::collections::{BTreeMap, BTreeSet};

use crds::{Cidr, DmvpnNetwork, DmvpnSpoke};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use thiserror::Error;

use self::member::{Member, MemberError, member};
pub(crate) use self::member::{Place, Pool, Wish};
use crate::cluster::{self, Cluster, ClusterError, why};

/// The chart's pods: where one of them is, there are the Secrets.
const LABELS: &str = "app.kubernetes.io/name=dmvpn";
/// How often another one's change of the network is met.
const TRIES: usize = 5;

/// What is printed, and what the user should know besides.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) documents: Vec<Value>,
    /// The file as text, with what it is for.
    pub(crate) heading: String,
    pub(crate) remarks: Vec<String>,
}

/// Reads the network and what belongs to it, and works out the file.
///
/// # Errors
/// When the cluster cannot be asked, something is not there, or the wish cannot be granted.
pub(crate) fn join(cluster: &Cluster, wish: &Wish) -> Result<Joined, JoinError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClusterError::Runtime)?;
    runtime.block_on(async {
        let client = cluster::client(cluster).await?;
        prepare(&client, cluster, wish).await
    })
}

async fn prepare(client: &Client, cluster: &Cluster, wish: &Wish) -> Result<Joined, JoinError> {
    let networks: Api<DmvpnNetwork> = Api::all(client.clone());
    let raw: Api<kube::api::DynamicObject> =
        Api::all_with(client.clone(), &kube::api::ApiResource::erase::<DmvpnNetwork>(&()));
    let spokes: Api<DmvpnSpoke> = Api::all(client.clone());
    for _ in 0..TRIES {
        let read = |error: kube::Error| JoinError::Network { name: wish.network.clone(), why: why(&error) };
        // As it is stored: a field that this program does not know is handed on too.
        let object = serde_json::to_value(raw.get(&wish.network).await.map_err(read)?)?;
        let network: DmvpnNetwork = serde_json::from_value(object.clone())?;
        let all = spokes.list(&ListParams::default()).await.map_err(|e| JoinError::List(why(&e)))?;
        let stated = all.items.iter().filter(|it| it.spec.network_ref.name == wish.network);
        let stated: Vec<&str> =
            stated.flat_map(|it| &it.spec.overlay_addresses).map(String::as_str).collect();
        let Member { network: manifest, spoke, reserve, mut remarks } =
            member(&network, &object, &stated, wish)?;
        let (namespace, secrets) = secrets(client, cluster, &network).await?;
        if !reserve.is_empty() && !hand_out(&networks, &network, &reserve).await? {
            // Somebody changed the network meanwhile: what is free may be another.
            continue;
        }
        if !secrets.is_empty() {
            remarks.push(
                "the file holds keys and passwords of the network: keep it as secret as they are".into(),
            );
        }
        let target = wish.target_namespace.as_deref().or(namespace.as_deref());
        let mut documents = vec![manifest];
        documents.extend(secrets.iter().map(|secret| for_target(secret, target, &wish.network)));
        documents.push(spoke);
        return Ok(Joined {
            documents,
            heading: heading(wish, target.filter(|_| !secrets.is_empty())),
            remarks,
        });
    }
    Err(JoinError::Busy { name: wish.network.clone() })
}

fn heading(wish: &Wish, namespace: Option<&str>) -> String {
    let place = match namespace {
        Some(namespace) => format!(", with the chart in namespace {namespace}"),
        None => String::new(),
    };
    format!(
        "# Joins network {}. In another cluster{place}: kubectl apply -f FILE\n# On a box without Kubernetes: put it into \
         the directory of --manifests.\n",
        wish.network
    )
}

/// Notes what is handed out; `false`: the network is another one by now.
async fn hand_out(
    api: &Api<DmvpnNetwork>,
    network: &DmvpnNetwork,
    blocks: &[Cidr],
) -> Result<bool, JoinError> {
    let mut reserved = network.spec.addressing.reserved.clone();
    reserved.extend(blocks.iter().map(ToString::to_string));
    let patch = json!({
        "metadata": {"resourceVersion": network.metadata.resource_version},
        "spec": {"addressing": {"reserved": reserved}},
    });
    let name = network.metadata.name.as_deref().unwrap_or_default();
    let params = PatchParams { field_manager: Some("kubectl-dmvpn".into()), ..PatchParams::default() };
    match api.patch(name, &params, &Patch::Merge(patch)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(JoinError::Reserve { name: name.to_owned(), why: why(&error) }),
    }
}

/// The Secrets that the network names, with the keys that it names, and where they are.
async fn secrets(
    client: &Client,
    cluster: &Cluster,
    network: &DmvpnNetwork,
) -> Result<(Option<String>, Vec<Secret>), JoinError> {
    let named = named(network);
    if named.is_empty() {
        return Ok((None, Vec::new()));
    }
    let namespace = match &cluster.namespace {
        Some(namespace) => namespace.clone(),
        None => chart_namespace(client).await?,
    };
    let api: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let mut out = Vec::new();
    for (name, keys) in named {
        let missing =
            |why: String| JoinError::Secret { name: name.clone(), namespace: namespace.clone(), why };
        let mut secret = api.get(&name).await.map_err(|e| missing(why(&e)))?;
        let data = secret.data.get_or_insert_default();
        if let Some(key) = keys.iter().find(|key| !data.contains_key(**key)) {
            return Err(missing(format!("it has no key {key}")));
        }
        data.retain(|key, _| keys.contains(key.as_str()));
        out.push(secret);
    }
    Ok((Some(namespace), out))
}

/// Which Secrets all members share, with which of their keys. A node's own certificate is not among them.
fn named(network: &DmvpnNetwork) -> BTreeMap<String, BTreeSet<&str>> {
    let spec = &network.spec;
    let mut out: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let authentication = spec.ipsec.authentication.as_ref();
    let certificate = authentication.and_then(|it| it.certificate.as_ref());
    let refs = spec.nhrp.authentication_secret_refs.iter().map(|it| (it, "password"));
    let keys = authentication.iter().flat_map(|it| &it.psk_secret_refs).map(|it| (it, "psk"));
    let roots = certificate.iter().flat_map(|it| &it.ca_secret_refs).map(|it| (it, "ca.crt"));
    for (it, key) in refs.chain(keys).chain(roots) {
        out.entry(it.name.clone()).or_default().insert(it.key.as_deref().unwrap_or(key));
    }
    out
}

/// Where the chart is installed.
async fn chart_namespace(client: &Client) -> Result<String, JoinError> {
    let pods: Api<Pod> = Api::all(client.clone());
    let listed = pods.list_metadata(&ListParams::default().labels(LABELS)).await;
    let listed = listed.map_err(|error| JoinError::Namespace(why(&error)))?;
    let namespaces: BTreeSet<_> = listed.items.into_iter().filter_map(|it| it.metadata.namespace).collect();
    let all: Vec<_> = namespaces.into_iter().collect();
    match all.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(JoinError::Namespace(format!("there is no pod of the chart ({LABELS})"))),
        several => Err(JoinError::Namespace(format!("the chart is in {}", several.join(", ")))),
    }
}

/// A Secret as the other cluster should have it.
fn for_target(secret: &Secret, namespace: Option<&str>, network: &str) -> Value {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let mut metadata = json!({"name": name, "labels": {(crds::NETWORK_LABEL): network}});
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    // Of another type it would have to have keys that stay here.
    json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": secret.data})
}

/// Why there is no file.
#[derive(Debug, Error)]
pub(crate) enum JoinError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Member(#[from] MemberError),
    #[error("cannot read DmvpnNetwork {name}: {why}")]
    Network { name: String, why: String },
    #[error("cannot list the DmvpnSpokes, whose addresses no pool may hold: {0}")]
    List(String),
    #[error("cannot read Secret {name} in namespace {namespace}, which the network names: {why}")]
    Secret { name: String, namespace: String, why: String },
    #[error("cannot tell in which namespace the network's Secrets are ({0}): add --namespace")]
    Namespace(String),
    #[error("cannot note in DmvpnNetwork {name} what is handed out (addressing.reserved): {why}")]
    Reserve { name: String, why: String },
    #[error("DmvpnNetwork {name} keeps being changed by somebody: try again")]
    Busy { name: String },
    #[error("the objects do not look as this version knows them: {0}")]
    Form(#[from] serde_json::Error),
}
