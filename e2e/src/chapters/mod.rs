//! The chapters of the demo, one file each: what is done, expected and seen.

mod agents_start;
mod crash;
mod direct_path;
mod kubernetes;
mod removal;
mod scene_stands;
mod shows;

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::lab::{Frr, Lab};
use crate::scene::overlay::Overlay;
use crate::story::Story;

/// What runs on the scene's hosts; it stops when dropped.
#[derive(Debug)]
pub struct Stage {
    /// The clusters first: a node that is dropped is a power cut.
    pub clusters: Option<kubernetes::Stage>,
    /// Agents and router of the boxes.
    pub boxes: Option<(Overlay, Frr)>,
}

/// Tells all chapters; a failed step is part of the story. Returns what still runs.
pub fn tell(story: &mut Story<'_>, lab: &Lab, clusters: &[Cluster]) -> Option<Stage> {
    let mut scene =
        story.chapter("The scene stands: four sites, joined only by an isp", |c| scene_stands::tell(c, lab));
    // A chapter is reached only if those before it held, and hands on what stands.
    let started = story.chapter("The agents start from YAML; the FRR router registers by itself", |c| {
        agents_start::tell(c, lab, handed_on(scene.as_ref())?)
    });
    story.chapter("show dmvpn, show ip nhrp: hub and branch as a Cisco user knows them", |c| {
        let (overlay, _router) = handed_on(started.as_ref())?;
        shows::tell(c, handed_on(scene.as_ref())?, overlay)
    });
    story.chapter("LAN to LAN: the path gets direct under 1000 pings, none lost", |c| {
        let (overlay, _router) = handed_on(started.as_ref())?;
        direct_path::tell(c, handed_on(scene.as_ref())?, overlay)
    });
    let mut started = started;
    story.chapter("kill -9 of an agent and its start under the same pings", |c| {
        let (overlay, _router) = handed_on(started.as_mut())?;
        crash::tell(c, handed_on(scene.as_ref())?, overlay)
    });
    story.chapter("A branch's YAML is removed: Purge, forgotten, kernel tables as before", |c| {
        let (overlay, _router) = handed_on(started.as_ref())?;
        removal::tell(c, handed_on(scene.as_ref())?, overlay)
    });
    let clusters = kubernetes::tell(story, lab, clusters, scene.as_mut(), started.as_mut());
    Some(Stage { clusters, boxes: started })
}

fn handed_on<T>(value: Option<T>) -> Result<T> {
    value.context("an earlier chapter left nothing to go on with")
}
