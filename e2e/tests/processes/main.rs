//! Operator and agents as processes against a real API server and a real kernel: hub and branch-a are nodes of a cluster
//! (without kubelets: quick), branch-b is a box with YAML, and the network spans both. What is looked at is the wire,
//! the kernel's tables, and the API's objects and audit log.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::ring4::{Needs, ring4};

mod apply;
mod away;
mod lifelines;
mod passwords;
mod protected;
mod removal;
mod stage;

use stage::Stage;

#[test]
fn operator_and_agents_as_processes() {
    let needs =
        Needs { clusters: &["east"], nodes: false, memory_mib: 1024, deadline: Duration::from_secs(460) };
    ring4(needs, |lab, clusters| {
        let east = clusters.first().context("a cluster")?;
        let start = Instant::now();
        let mut stage = Stage::build(lab, east)?;
        println!("cluster, operator and agents run: {:.1} s", start.elapsed().as_secs_f64());
        for (name, check) in CHECKS {
            let start = Instant::now();
            check(&mut stage).with_context(|| (*name).to_owned())?;
            println!("{name}: {:.1} s", start.elapsed().as_secs_f64());
        }
        println!("in all: {:.1} s", start.elapsed().as_secs_f64());
        Ok(())
    });
}

/// Its name, and what it shows.
type Check = (&'static str, fn(&mut Stage<'_>) -> Result<()>);

/// What takes something away comes when all is quiet, and leaves it so.
const CHECKS: &[Check] = &[
    ("kubectl apply makes tunnels", apply::makes_tunnels),
    ("LAN to LAN gets direct, and nothing is written", apply::gets_direct_and_quiet),
    ("the operator is killed", away::operator_killed),
    ("the API server is away", away::api_server_away),
    ("a prefix that covers the API server is announced", lifelines::api_server_covered),
    ("the API server's address is taken", lifelines::api_server_taken),
    ("a key goes to one end", lifelines::a_key_stops_at_one_node),
    ("a Secret is rotated", passwords::rotated),
    ("an endpoint object is deleted by hand", removal::endpoint_deleted_by_hand),
    ("a spoke is deleted", removal::spoke_deleted),
    ("a spoke is deleted while its agent is away", removal::spoke_deleted_without_agent),
    ("the network goes under IPsec", protected::under_ipsec),
    ("SIGTERM, with a DaemonSet and without", removal::terminated),
];
