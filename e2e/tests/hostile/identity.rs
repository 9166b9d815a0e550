//! Who keeps an overlay address that two claim, by the network's `uniquenessPolicy` and the branch's
//! `registrationUnique`: the flag on the wire, the answers, the hub's kernel. (`Identity`, the default: see the
//! claims in `main.rs`; a branch that really moves: `ladder`.)

use anyhow::{Result, ensure};
use e2e::lab::inject::{self, Nhrp, in_gre};
use e2e::lab::peek::NhrpKind;
use e2e::lab::{Capture, Host};
use e2e::scene::Scene;
use e2e::scene::branches::Branches;
use e2e::scene::overlay::{BRANCH_B, KEY, TUNNEL, quickstart};
use e2e::{ring3_with, wait};

use super::attacks::registration;
use super::{NEEDS, SOON, outcome};

/// "Unique" in the flags of a registration (RFC 2332 §5.2.3).
const UNIQUE: u16 = 0x8000;
const POLICY: &str = "    holdTimeSeconds: 600\n    uniquenessPolicy: ";

#[test]
fn uniqueness_by_policy_and_flag() {
    ring3_with(NEEDS, |lab| {
        let network = quickstart("network.yaml")?;
        let with =
            |policy: &str| network.replace("    holdTimeSeconds: 600\n", &format!("{POLICY}{policy}\n"));
        let branches = Branches::start_with(Scene::build(lab)?, |_| with("NBMA"))?;
        let (hub, b) = (branches.scene.site("hub")?, branches.b()?);
        let mallory = branches.scene.site("router")?;
        let capture = Capture::start(&mallory.host, "wan0", "proto gre")?;
        let at_b = Capture::start(&b.host, "wan0", "proto gre")?;
        let claim = |id: u32| -> Result<u8> {
            let claim = Nhrp { id, ..registration(mallory.nbma(), BRANCH_B) }.bytes();
            inject::send(&mallory.host, mallory.nbma(), hub.nbma(), &[in_gre(Some(KEY), &claim)])?;
            outcome(&capture, id)
        };
        let registers = |unique: bool| {
            let yaml = quickstart("branch-b.yaml")?
                + if unique { "  nhrp: {registrationUnique: true}\n" } else { "" };
            branches.overlay.branch_b.write("branch-b.yaml", &yaml)?;
            at_b.wait_for(SOON, "a registration with the flag as set", |p| {
                let flags = p.nhrp.as_ref().map_or(0, |n| n.flags);
                p.is_nhrp(NhrpKind::RegistrationRequest) && (flags & UNIQUE != 0) == unique
            })?;
            wait::until(SOON, "it to be at the hub", || {
                let shown = branches.overlay.hub.cli("show ip nhrp detail")?;
                let entry = shown.split("\n\n").find(|e| e.contains(&BRANCH_B.to_string())).unwrap_or(&shown);
                wait::ensure(entry.contains("unique") == unique, || shown.clone())
            })
        };

        registers(true)?;
        ensure!(claim(1)? == 14, "unique, and lost to another");
        ensure!(at(&hub.host)? == b.nbma().to_string());

        registers(false)?;
        ensure!(claim(2)? == 0, "not unique: as Cisco has it, who comes last gets it");
        wait::until(SOON, "the hub to send to the last one", || {
            wait::ensure(at(&hub.host)? == mallory.nbma().to_string(), || at(&hub.host).unwrap_or_default())
        })?;
        // The owner takes it back with its next registration.
        branches.overlay.branch_b.write(
            "branch-b.yaml",
            &(quickstart("branch-b.yaml")? + "  nhrp: {registrationUnique: true}\n"),
        )?;
        wait::until(SOON, "the hub to send to its owner", || {
            wait::ensure(at(&hub.host)? == b.nbma().to_string(), || at(&hub.host).unwrap_or_default())
        })?;

        branches.overlay.hub.write("network.yaml", &with("None"))?;
        wait::until(SOON, "the policy to be in force", || {
            wait::ensure(claim(3)? == 0, || "still refused".into())
        })
    });
}

/// Where the hub's kernel sends packets for branch-b.
fn at(hub: &Host) -> Result<String> {
    let entries = hub.ip_json(&format!("neighbour show {} dev {TUNNEL}", BRANCH_B))?;
    Ok(entries[0]["lladdr"].as_str().unwrap_or_default().to_owned())
}
