//! Chapter 10: LAN to LAN between a cluster, a box and a router that is not ours: the path gets direct, none is lost.

use anyhow::Result;

use super::super::direct_path;
use super::Stage;
use crate::scene::Scene;
use crate::scene::clusters::{EAST_1, EAST_HUB, WEST_1};
use crate::story::Chapter;

pub(super) fn tell(chapter: &mut Chapter, scene: &Scene, stage: &Stage) -> Result<()> {
    let hub = stage.node(EAST_HUB)?.host();
    direct_path::gets_direct(chapter, scene.site(WEST_1)?, scene.site("branch-a")?, hub)?;
    direct_path::gets_direct(chapter, scene.site(EAST_1)?, scene.site("router")?, hub)
}
