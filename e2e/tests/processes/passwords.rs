//! A rotated Secret reaches both agents without an edit elsewhere; who has another password is refused, and says so.

use anyhow::{Result, ensure};
use e2e::lab::Capture;
use e2e::lab::peek::NhrpKind;
use e2e::scene::overlay::NETWORK;
use e2e::wait;
use view::State;

use crate::stage::{
    LOOK, SOON, Stage, apply_secret, condition, endpoint, kept, secret, under_direct_pings, under_pings,
};

const NEW: &str = "s3cret-b";
/// Keeps the hub's agent from the operator.
const CUT: &str =
    "table inet cut { chain out { type filter hook output priority 0; tcp dport 8443 reject; }; }";

pub(crate) fn rotated(stage: &mut Stage<'_>) -> Result<()> {
    let (hub, a) = (stage.site("hub")?.host.clone(), stage.site("branch-a")?.host.clone());
    let capture = Capture::start(&a, "wan0", "proto gre")?;
    let pids = (stage.hub.pid(), stage.a.pid());
    let east = stage.east;
    // What the hub told is gone while it refuses; the branches' direct path carries on.
    under_direct_pings(stage, |stage| {
        hub.nft(CUT)?;
        apply_secret(east, NEW)?;
        wait::until_max(SOON, LOOK, "branch-a to be refused with the new password", || {
            let endpoint = endpoint(east, "branch-a")?;
            let (ready, stalled) = (condition(&endpoint, "Ready"), condition(&endpoint, "Stalled"));
            ensure!(ready["status"] == "False" && ready["reason"] == "AuthenticationFailed", "{ready}");
            ensure!(stalled["status"] == "True", "{stalled}");
            ensure!(condition(&endpoint, "CredentialsReady")["status"] == "True", "{}", endpoint["status"]);
            ensure!(endpoint["status"]["state"] == "NHRP", "{}", endpoint["status"]);
            Ok(())
        })?;
        capture.wait_for(SOON, "the hub's refusal", |p| p.is_nhrp(NhrpKind::ErrorIndication))?;
        wait::until_max(SOON, LOOK, "the hub to say that it lacks the new password", || {
            let credentials = condition(&endpoint(east, "hub")?, "CredentialsReady");
            let (status, reason) = (&credentials["status"], &credentials["reason"]);
            ensure!(status == "False" && reason == "SecretsUnavailable", "{credentials}");
            Ok(())
        })?;
        wait::until_max(SOON, LOOK, "the spoke to say that it is not ready", || {
            let spoke = east.kubectl_json(&["get", "dmvpnspoke", "branch-a"])?;
            let ready = condition(&spoke, "Ready");
            ensure!(ready["status"] == "False", "{ready}");
            Ok(())
        })?;
        // The box has the old password still, as the hub does.
        stage.b.wait_until_up(NETWORK, SOON)?;
        hub.nft("delete table inet cut")?;
        for node in ["hub", "branch-a"] {
            let endpoint = stage.wait_until_up(node)?;
            wait::until_max(SOON, LOOK, "the new password", || {
                let endpoint = self::endpoint(east, node)?;
                let credentials = condition(&endpoint, "CredentialsReady");
                wait::ensure(credentials["status"] == "True", || credentials.to_string())
            })?;
            ensure!(!endpoint.to_string().contains(NEW), "a password is told: {endpoint}");
        }
        // Now it is the box that is refused, until its own file has the new password.
        stage.b.wait_for_state(NETWORK, State::Nhrp, "AuthenticationFailed", SOON)?;
        stage.b.write("secret.yaml", &secret(NEW).to_string())?;
        stage.b.wait_until_up(NETWORK, SOON).map(drop)
    })?;
    under_pings(stage, |_| Ok(()))?;
    ensure!((stage.hub.pid(), stage.a.pid()) == pids, "an agent was started anew");
    for agent in [&stage.hub, &stage.a, &stage.b] {
        let log = agent.log();
        ensure!(!log.contains("s3cret"), "{} logs a password", agent.host().name());
    }
    ensure!(!stage.operator.process.log().contains("s3cret"), "the operator logs a password");
    let (mode, _) = kept(&stage.a)?;
    ensure!(mode == 0o600, "the last good configuration has mode {mode:o}");
    Ok(())
}
