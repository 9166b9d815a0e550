//! Tunnels under IPsec where each box has a certificate, with stock strongSwan.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::lab::authority::{Authority, Issued};
use e2e::lab::charon::Charon;
use e2e::lab::{Agent, Ping};
use e2e::ring3::Needs;
use e2e::ring3_with;
use e2e::scene::Scene;
use e2e::scene::branches::Branches;
use e2e::scene::credentials::{NOW, example, own, trust};
use e2e::scene::overlay::{self, NETWORK, Overlay, until_at};
use e2e::scene::wire::Wire;
use e2e::wait;
use view::State;

const SOON: Duration = Duration::from_secs(30);
const TEN_MS: Duration = Duration::from_millis(10);
const NEEDS: Needs = Needs { memory_mib: 768, deadline: Duration::from_secs(240) };
/// What the agent says when it has told charon.
const LOADED: &str = "IKE connection loaded";

/// Does something, and waits until the agent has told charon so.
fn told(agent: &Agent, what: impl FnOnce() -> Result<()>) -> Result<()> {
    let count = || agent.log().matches(LOADED).count();
    let before = count();
    what()?;
    wait::until(SOON, LOADED, || wait::ensure(count() > before, || agent.log()))
}

/// Agents with their names in certificates.
fn members(overlay: &Overlay) -> [(&Agent, &'static str); 3] {
    [
        (&overlay.hub, "hub1.example.net"),
        (&overlay.branch_a, "a.example.net"),
        (&overlay.branch_b, "b.example.net"),
    ]
}

#[test]
fn certificates_and_roots_are_exchanged_without_loss() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let wire = Wire::tap(&scene)?;
        let example = example()?;
        let daemon = |name: &str| Charon::start(&scene.site(name)?.host);
        let (_of_hub, mut of_a, _of_b) = (daemon("hub")?, daemon("branch-a")?, daemon("branch-b")?);
        let overlay = Overlay::start_with(&scene, |_| example.clone())?;
        let (first, second) = (Authority::new("first")?, Authority::new("second")?);
        // Without its Secrets nothing begins, and it is said which is missing.
        let missing =
            overlay.branch_a.wait_for_problem(&format!("DmvpnNetwork/{NETWORK}"), "SecretMissing", SOON)?;
        ensure!(missing.message.contains("branches-ca"), "{missing:?}");
        for (agent, name) in members(&overlay) {
            trust(agent, &[&first])?;
            own(agent, &first.issue(name, NOW)?)?;
        }
        for agent in [&overlay.branch_a, &overlay.branch_b] {
            agent.wait_until_up(NETWORK, SOON)?;
        }
        let branches = Branches { scene, overlay };
        branches.make_direct()?;
        branches.ensure_direct_traffic()?;

        // Two roots, other certificates, the new root alone: nobody notices.
        let (a, b, overlay) = (branches.a()?, branches.b()?, &branches.overlay);
        let pings = [
            Ping::start(&a.host, overlay::HUB.into(), 500, TEN_MS)?,
            Ping::start(&a.lan, b.lan_host().into(), 500, TEN_MS)?,
        ];
        for (agent, _) in members(overlay) {
            told(agent, || trust(agent, &[&first, &second]))?;
        }
        let old = first.issue("a.example.net", NOW)?;
        for (agent, name) in members(overlay) {
            told(agent, || own(agent, &second.issue(name, NOW)?))?;
        }
        for (agent, _) in members(overlay) {
            told(agent, || trust(agent, &[&second]))?;
        }
        for pings in pings {
            let report = pings.finish()?;
            println!("while certificates were exchanged: {report}");
            report.ensure_nothing_lost()?;
        }
        // From nothing it goes by the new ones …
        of_a.stop()?;
        of_a.restart()?;
        overlay.branch_a.wait_until_up(NETWORK, SOON)?;
        // … and the hub takes the old root no more, though its charon has not forgotten it.
        let agent = &overlay.branch_a;
        told(agent, || trust(agent, &[&first, &second]))?;
        told(agent, || own(agent, &old))?;
        of_a.stop()?;
        of_a.restart()?;
        until_at(agent, State::Ike, "IkeAuthenticationFailed")?;
        // Trouble of one connection is written now and then.
        wait::until(SOON, "the hub to say why", || {
            let log = overlay.hub.log();
            wait::ensure(log.contains("peer not authenticated by CA"), || log)
        })?;
        for (agent, _) in members(overlay) {
            let told = agent.log() + &agent.cli("show dmvpn detail")? + &agent.cli("show dmvpn -o json")?;
            let secret = old.key.lines().nth(1).context("a key has lines")?;
            ensure!(!told.contains(secret) && !told.contains("PRIVATE KEY"), "a key is told");
        }
        let (clear, protected) = wire.stop()?;
        ensure!(clear == 0 && protected > 1000, "{clear} of clear GRE, {protected} of ESP");
        Ok(())
    });
}

#[test]
fn each_fault_of_a_certificate_has_its_reason() {
    ring3_with(NEEDS, |lab| {
        let scene = Scene::build(lab)?;
        let wire = Wire::tap(&scene)?;
        let example = example()?;
        let daemon = |name: &str| Charon::start(&scene.site(name)?.host);
        let (mut of_hub, mut of_a) = (daemon("hub")?, daemon("branch-a")?);
        let overlay = Overlay::start_with(&scene, |_| example.clone())?;
        let (root, other) = (Authority::new("root")?, Authority::new("other")?);
        let (hub, a) = (&overlay.hub, &overlay.branch_a);
        trust(hub, &[&root, &other])?;
        own(hub, &root.issue("hub1.example.net", NOW)?)?;
        let good = root.issue("a.example.net", NOW)?;
        // What we see ourselves; each is in force before there is any SA.
        for (roots, issued, reason) in [
            (&root, root.issue("a.example.net", (2020, 2021))?, "CertificateExpired"),
            (&root, root.issue("a.example.net", (2089, 2090))?, "CertificateNotYetValid"),
            (&root, other.issue("a.example.net", NOW)?, "CertificateNotTrusted"),
            // What only the IKE daemon sees: the hub is from another root.
            (&other, other.issue("a.example.net", NOW)?, "IkeUnknownAuthority"),
        ] {
            trust(a, &[roots])?;
            own(a, &issued)?;
            until_at(a, State::Ike, reason)?;
        }
        // A key that does not belong to its certificate changes nothing, and is named.
        trust(a, &[&root])?;
        own(a, &Issued { key: old_key(&other)?, ..good.clone() })?;
        let problem = a.wait_for_problem(&format!("DmvpnNetwork/{NETWORK}"), "CertificateUnusable", SOON)?;
        ensure!(problem.field.ends_with("certificate.secretRef"), "{problem:?}");
        ensure!(problem.message.contains("tls.key does not belong to tls.crt"), "{problem:?}");
        own(a, &good)?;
        a.wait_until_up(NETWORK, SOON)?;

        // A hub that is not who it has to be, and one whose certificate has expired.
        let restart = |daemon: &mut Charon| daemon.stop().and_then(|_| daemon.restart());
        told(a, || a.write("network.yaml", &example.replace("hub1.example.net", "another.example.net")))?;
        restart(&mut of_a)?;
        until_at(a, State::Ike, "IkeAuthenticationFailed")?;
        a.write("network.yaml", &example)?;
        a.wait_until_up(NETWORK, SOON)?;
        told(hub, || own(hub, &root.issue("hub1.example.net", (2020, 2021))?))?;
        ensure!(hub.log().contains("CertificateExpired"), "{}", hub.log());
        restart(&mut of_hub)?;
        until_at(a, State::Ike, "IkeCertificateInvalid")?;
        // Somebody who has a good certificate is no hub for that.
        told(hub, || own(hub, &root.issue("b.example.net", NOW)?))?;
        restart(&mut of_a)?;
        until_at(a, State::Ike, "IkeWrongIdentity")?;
        let (clear, protected) = wire.stop()?;
        ensure!(clear == 0 && protected > 0, "{clear} of clear GRE, {protected} of ESP");
        Ok(())
    });
}

fn old_key(authority: &Authority) -> Result<String> {
    Ok(authority.issue("x.example.net", NOW)?.key)
}
