//! The Kubernetes chapters: two clusters join the scene, and everything that the boxes did is done by `helm install` and
//! `kubectl apply`.

mod apply;
mod clusters_stand;
mod install;
mod paths;
mod removal;
mod upheaval;

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};

use super::handed_on;
use crate::cluster::Cluster;
use crate::lab::{Dump, Frr, Lab};
use crate::node::Node;
use crate::scene::Scene;
use crate::scene::overlay::Overlay;
use crate::story::Story;

/// Kernel tables of nodes, by name.
type Dumps = BTreeMap<String, Dump>;

/// The clusters, and their nodes' kernel tables before anything of ours came.
#[derive(Debug)]
pub struct Stage {
    /// Two nodes: the hub and a branch.
    pub east: Cluster,
    /// One node.
    pub west: Cluster,
    /// All nodes: those of east, then those of west.
    pub nodes: Vec<Node>,
    before: Dumps,
}

impl Stage {
    fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|n| n.name() == name).with_context(|| format!("no node {name}"))
    }

    fn dumps(&self) -> Result<Dumps> {
        self.nodes.iter().map(|node| Ok((node.name().to_owned(), node.host().dump()?))).collect()
    }

    fn before(&self, node: &str) -> Result<&Dump> {
        self.before.get(node).with_context(|| format!("no dump of {node}"))
    }
}

/// Tells the chapters. Returns the clusters as long as they are of use.
pub(super) fn tell(
    story: &mut Story<'_>,
    lab: &Lab,
    clusters: &[Cluster],
    scene: Option<&mut Scene>,
    boxes: Option<&mut (Overlay, Frr)>,
) -> Option<Stage> {
    let mut scene = scene;
    let stage =
        story.chapter("Two Kubernetes clusters join the scene: real nodes, isolated from each other", |c| {
            let [east, west] = clusters else {
                anyhow::bail!("two clusters are needed, not {}", clusters.len())
            };
            clusters_stand::tell(c, lab, scene.as_deref_mut().context("no scene")?, east, west)
        });
    let scene = scene.as_deref();
    let installed = story.chapter("helm install: operator and agents as pods, with stated privileges", |c| {
        install::tell(c, handed_on(stage.as_ref())?)
    });
    story.chapter(
        "kubectl apply: the same network in clusters and on boxes; get reads like show dmvpn",
        |c| {
            let (overlay, router) = boxes.context("no boxes")?;
            apply::tell(c, handed_on(scene)?, handed_on(stage.as_ref())?, overlay, router)
        },
    );
    story.chapter("LAN to LAN across clusters, boxes and vendors: direct, none lost", |c| {
        paths::tell(c, handed_on(scene)?, handed_on(stage.as_ref())?)
    });
    story.chapter("Pod deleted, helm upgrade, API server away: none lost", |c| {
        upheaval::tell(c, handed_on(scene)?, handed_on(stage.as_ref())?)
    });
    story.chapter("Spoke deleted, label makes a spoke, helm uninstall leaves no trace", |c| {
        removal::tell(c, handed_on(scene)?, handed_on(stage.as_ref())?, handed_on(installed.as_ref())?)
    });
    stage
}

/// One file of `examples/kubernetes`.
fn example(file: &str) -> Result<String> {
    let path = crate::paths::repository().join("examples/kubernetes").join(file);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}
