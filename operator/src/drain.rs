//! `dmvpn-operator drain`: all tunnels of this cluster are taken away, before an uninstall. It takes the Lease, so that the
//! operator does not put back what is taken away, and keeps it when it succeeds: the uninstall removes it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use crds::DmvpnEndpoint;
use crds::endpoint::Desired;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};
use tracing::{info, warn};

use crate::args::RunArgs;
use crate::decode::{Guarded, Undecodable};
use crate::lease::{self, Holder};
use crate::pass::{self, Op, Write, name};
use crate::write::execute;

/// Endpoints that are written to at a time.
const AT_ONCE: usize = 16;
/// How often endpoints are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often progress is told.
const TELL: Duration = Duration::from_secs(5);
/// The operator notices within this time that the Lease is not its own any more, and what it was writing is written.
const SETTLE: Duration = Duration::from_secs(lease::RETRY.as_secs() + 4);
/// How long the operator stays quiet after a drain that succeeded, if nobody removes it.
const QUIET: Duration = Duration::from_secs(120);

/// Takes all tunnels away.
///
/// # Errors
/// Names the endpoints whose agents did not answer in time.
pub async fn drain(args: &RunArgs, timeout_seconds: u64) -> anyhow::Result<()> {
    let stop = crate::run::told_to_stop()?;
    let client = crate::run::client().await?;
    let identity = format!("drain-{}", args.identity());
    let mut holder = Holder::new(client.clone(), &args.namespace, &args.lease, identity).forcing();
    let deadline = Instant::now() + Duration::from_secs(timeout_seconds);
    let drained = tokio::select! {
        drained = work(&client, &mut holder, deadline) => drained,
        () = stop => Err(anyhow::anyhow!("stopped by a signal")),
    };
    if drained.is_err()
        && let Err(error) = holder.release().await
    {
        warn!(%error, "the Lease could not be given back: the operator waits until it ends");
    }
    drained
}

async fn work(client: &Client, holder: &mut Holder, deadline: Instant) -> anyhow::Result<()> {
    let begun = Instant::now();
    // Since when the Lease is ours, and when it was last renewed.
    let mut held = None::<(Instant, Instant)>;
    let mut told = begun;
    let mut last_error = None;
    // `None`: nothing has been asked for yet.
    let mut left = None::<Vec<String>>;
    loop {
        let now = Instant::now();
        if held.is_none_or(|(_, renewed)| now.duration_since(renewed) >= lease::RETRY) {
            match holder.attempt().await {
                Ok(true) => {
                    if held.is_none() {
                        info!("holding the Lease: the operator stops writing");
                    }
                    // The operator may have renewed it until the answer, but not later.
                    held = Some((held.map_or_else(Instant::now, |(since, _)| since), now));
                }
                // Somebody wrote to it at the same moment: it is taken anew.
                Ok(false) => held = None,
                Err(error) => last_error = Some(format!("Lease: {error}")),
            }
        }
        let held_for = held.map(|(since, _)| now.saturating_duration_since(since));
        // What is asked for earlier, the operator would take back.
        if held_for.is_some_and(|held_for| held_for >= lease::HANDS_OFF) {
            match step(client).await {
                Ok(names) => left = Some(names),
                Err(error) => last_error = Some(format!("{error:#}")),
            }
            let settled = held_for.is_some_and(|held_for| held_for >= SETTLE);
            if settled && left.as_ref().is_some_and(Vec::is_empty) {
                // For as long as it takes to remove the operator.
                holder.lasting(QUIET);
                holder.attempt().await.context("the Lease cannot be kept")?;
                info!(seconds = begun.elapsed().as_secs(), "all tunnels are taken away");
                return Ok(());
            }
        }
        if now >= deadline {
            let error = last_error.map(|e| format!(" (last error: {e})")).unwrap_or_default();
            match left {
                None => bail!(
                    "nothing was taken away{error}: the operator must stop writing first; drain again with a longer \
                     --timeout-seconds"
                ),
                Some(left) => bail!(
                    "{} endpoints are not taken away: {}{error}: see their agents, or run `dmvpn-agent purge` on those \
                     nodes, and drain again",
                    left.len(),
                    left.join(", ")
                ),
            }
        }
        if now.duration_since(told) >= TELL {
            told = now;
            let open = left.as_deref().unwrap_or_default();
            let what =
                if open.is_empty() { "the operator to stop writing".to_owned() } else { open.join(", ") };
            info!(left = open.len(), seconds = begun.elapsed().as_secs(), "waiting for {what}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks for what is not asked for yet, lets go what is done; returns what is left.
async fn step(client: &Client) -> anyhow::Result<Vec<String>> {
    let endpoints = Api::<Guarded<DmvpnEndpoint>>::all(client.clone());
    let listed = endpoints.list(&ListParams::default()).await.context("endpoints cannot be listed")?;
    if listed.items.is_empty() {
        return Ok(Vec::new());
    }
    let nodes = Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await
        .context("nodes cannot be listed")?;
    let nodes: BTreeMap<String, Option<String>> =
        nodes.items.into_iter().map(|n| (name(&n).to_owned(), n.metadata.uid)).collect();
    let (nodes, client) = (&nodes, &client);
    let outcomes: Vec<anyhow::Result<Option<String>>> = futures::stream::iter(listed.items)
        .map(|endpoint| async move { one(client, endpoint, nodes).await })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut left: Vec<String> =
        outcomes.into_iter().filter_map(Result::transpose).collect::<Result<_, _>>()?;
    left.sort();
    Ok(left)
}

/// One endpoint; what is left of it, if anything.
async fn one(
    client: &Client,
    endpoint: Guarded<DmvpnEndpoint>,
    nodes: &BTreeMap<String, Option<String>>,
) -> anyhow::Result<Option<String>> {
    let endpoint = match endpoint.0 {
        Ok(endpoint) => endpoint,
        Err(bad) => return unread(client, &bad, nodes).await,
    };
    let spec = &endpoint.spec;
    let node = nodes.get(&spec.node_name);
    let there = node.is_some_and(|uid| spec.node_uid.is_none() || spec.node_uid == *uid);
    let asked = format!("{} (node {})", name(&endpoint), spec.node_name);
    let (write, left) = if !there || pass::is_absent(&endpoint) {
        (pass::let_go(&endpoint), None)
    } else {
        let write = (spec.desired == Desired::Present).then(|| Write {
            kind: "DmvpnEndpoint",
            name: name(&endpoint).to_owned(),
            uid: endpoint.metadata.uid.clone(),
            base: endpoint.metadata.resource_version.clone(),
            op: Op::ApplyEndpoint(Box::new(pass::absent(&endpoint))),
            notes: Vec::new(),
        });
        (write, Some(asked.clone()))
    };
    carry_out(client, write, left, asked).await
}

/// One endpoint that does not decode: its agent understands that it is to be Absent.
async fn unread(
    client: &Client,
    bad: &Undecodable,
    nodes: &BTreeMap<String, Option<String>>,
) -> anyhow::Result<Option<String>> {
    let (node, made_for) = (bad.text("nodeName"), bad.spec["nodeUid"].as_str());
    let there = nodes.get(node).is_some_and(|uid| made_for.is_none() || made_for == uid.as_deref());
    let asked = format!("{} (node {node}; it cannot be read: {})", bad.name(), bad.error);
    let write = pass::take_away_unread(bad, there);
    let lets_go = write.as_ref().is_some_and(|w| matches!(w.op, Op::LetGo { .. }));
    carry_out(client, write, (!lets_go).then(|| asked.clone()), asked).await
}

/// Writes, if there is something to be written. `left` is what is left of the endpoint then.
async fn carry_out(
    client: &Client,
    write: Option<Write>,
    left: Option<String>,
    asked: String,
) -> anyhow::Result<Option<String>> {
    let Some(write) = write else {
        // Others hold it, or it is asked for.
        return Ok(left.or(Some(asked)));
    };
    match execute(client, &write).await {
        Ok(()) => Ok(left),
        // It changed meanwhile: looked at again.
        Err(kube::Error::Api(s)) if [404, 409].contains(&s.code) => Ok(Some(asked)),
        Err(error) => Err(error).with_context(|| format!("DmvpnEndpoint {}", write.name)),
    }
}
