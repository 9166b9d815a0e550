//! The containers of a node, seen from the node itself.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Node;
use crate::wait;

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The id that containerd gave it.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// The pod.
    pub pod: String,
    /// The pod's namespace.
    pub namespace: String,
    /// Its image.
    pub image: String,
    /// Its first process, as the node numbers it.
    pub pid: u32,
}

impl Node {
    /// All containers that run, without those that only hold a pod's namespaces. Read from what containerd keeps of
    /// each: no program has to start for that.
    ///
    /// # Errors
    /// When the node is off.
    pub fn containers(&self) -> Result<Vec<Container>> {
        let tasks = PathBuf::from(format!(
            "/proc/{}/root/run/containerd/io.containerd.runtime.v2.task/k8s.io",
            self.init()?
        ));
        let Ok(entries) = fs::read_dir(tasks) else { return Ok(Vec::new()) };
        let mut containers = Vec::new();
        for entry in entries.flatten() {
            // Made or removed at this moment: not a container that runs.
            let read = |file: &str| fs::read_to_string(entry.path().join(file)).ok();
            let (Some(config), Some(pid)) = (read("config.json"), read("init.pid")) else { continue };
            let (Ok(config), Ok(pid)) = (serde_json::from_str::<Value>(&config), pid.trim().parse()) else {
                continue;
            };
            let note = |key: &str| {
                let value = &config["annotations"][format!("io.kubernetes.cri.{key}")];
                value.as_str().unwrap_or_default().to_owned()
            };
            if note("container-type") == "container" {
                containers.push(Container {
                    id: entry.file_name().to_string_lossy().into_owned(),
                    name: note("container-name"),
                    pod: note("sandbox-name"),
                    namespace: note("sandbox-namespace"),
                    image: note("image-name"),
                    pid,
                });
            }
        }
        containers.sort_by(|a, b| (&a.namespace, &a.pod, &a.name).cmp(&(&b.namespace, &b.pod, &b.name)));
        Ok(containers)
    }

    /// The one container of that name, as soon as there is exactly one.
    ///
    /// # Errors
    /// When the deadline passes; with those that run.
    pub fn container(&self, name: &str, deadline: Duration) -> Result<Container> {
        wait::until(deadline, &format!("one container {name} on {}", self.name()), || {
            let all = self.containers()?;
            let found: Vec<&Container> = all.iter().filter(|c| c.name == name).collect();
            ensure!(found.len() == 1, "{all:?}");
            Ok(found[0].clone())
        })
    }

    /// A field of `/proc/PID/status` of a container's first process, e.g. `CapEff` or `Seccomp`.
    ///
    /// # Errors
    /// When the process has ended or there is no such field.
    pub fn process_status(&self, container: &Container, field: &str) -> Result<String> {
        let text = self.run(&["cat", &format!("/proc/{}/status", container.pid)])?;
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        Ok(value.with_context(|| format!("no {field} in:\n{text}"))?.trim().to_owned())
    }
}
