//! What is said of an endpoint, and when it is written.

use std::sync::Arc;
use std::time::Duration;

use crds::{ConditionStatus, ConditionType, DmvpnEndpointStatus, Reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use view::State;

use super::*;
use crate::ladder::{Rung, Trouble};
use crate::source::kubernetes::{Bad, Credentials, Seen};
use crate::source::{Desired, DesiredEndpoint, Origin};
use crate::summary::{Summary, TunnelSummary, Unknown};

fn endpoint(generation: i64) -> DesiredEndpoint {
    let spec = serde_json::from_value(json!({
        "network": "branches", "nodeName": "west-1", "desired": "Present", "role": "Spoke", "phase": "Phase3",
        "overlay": ["10.255.0.0/16"],
        "addresses": [{"address": "10.255.0.11", "owner": "a"}, {"address": "fd00::11", "owner": "a"}],
        "tunnel": {
            "interfaceName": "dm-x", "source": {"from": "DefaultRoute"}, "underlayFamily": "IPv4",
            "mtuPolicy": "Fixed", "mtu": 1400, "tcpMssPolicy": "Clamp", "ttl": 255, "dscpPolicy": "Clear",
            "interfaceState": "Always"
        },
        "nhrp": {
            "mode": "Enabled", "networkId": 100, "holdTimeSeconds": 600, "uniquenessPolicy": "Identity",
            "registrationUnique": true
        },
        "nhs": [{"name": "hub1", "priority": 0, "cluster": 0, "overlayAddresses": ["10.255.0.1"], "nbma": []}],
        "routing": {"protocol": "NHRP", "metric": 100}
    }));
    let origin = Some(Origin { object: "a".into(), generation });
    DesiredEndpoint {
        spec: spec.expect("endpoint"),
        passwords: vec![],
        keys: vec![],
        certificate: None,
        origin,
    }
}

fn seen(generation: i64) -> Seen {
    Seen {
        name: "a".into(),
        uid: "1".into(),
        generation,
        bad: None,
        credentials: Credentials::None,
        status: DmvpnEndpointStatus::default(),
    }
}

fn rung(state: State, reason: Reason) -> Rung {
    Rung { state, reason: reason.to_string(), message: reason.cure().to_owned() }
}

fn summary(generation: i64, rung: Rung, peers: usize) -> Summary {
    let interface = (rung.state <= State::Intf)
        .then(|| Trouble::new(rung.reason.parse().unwrap_or(Reason::Waiting), rung.message.clone()));
    let nbma = "192.0.2.7".parse().ok().filter(|_| interface.is_none());
    let addresses = ["10.255.0.11", "fd00::11"].iter().filter_map(|a| a.parse().ok()).collect();
    let tunnel = TunnelSummary {
        prefixes: Vec::new(),
        rung,
        interface,
        unknown: None,
        hindrance: None,
        path_mtu: Some(1272),
        mtu: Some(1400),
        remark: String::new(),
        leaving: false,
        addresses,
        nbma,
        peers,
        external: vec![],
    };
    Summary {
        desired: Arc::new(Desired { endpoints: vec![endpoint(generation)], ..Desired::default() }),
        tunnels: [("branches".to_owned(), tunnel)].into(),
        gone: Default::default(),
        rolled_back: Default::default(),
    }
}

/// `TYPE=STATUS/REASON` of all conditions.
fn told(verdict: &Verdict) -> Vec<String> {
    let all = verdict.conditions.iter();
    all.map(|(type_, status, reason, _)| format!("{type_}={status}/{reason}")).collect()
}

fn kstatus(verdict: &Verdict) -> &'static str {
    let is = |wanted: ConditionType| {
        verdict.conditions.iter().any(|(t, s, ..)| *t == wanted && *s == ConditionStatus::True)
    };
    // As cli-utils reads them: Stalled and Reconciling first, then Ready.
    match (is(ConditionType::Stalled), is(ConditionType::Reconciling), is(ConditionType::Ready)) {
        (true, false, false) => "Failed",
        (false, true, false) => "InProgress",
        (false, false, true) => "Current",
        _ => "contradiction",
    }
}

#[test]
fn a_protected_tunnel_says_whether_it_is_and_what_an_identity_is_worth() {
    let unknown = |met| Unknown { why: "no socket".into(), met };
    for (state, reason, unknown, want) in [
        (State::Up, Reason::Up, None, "True/Protected"),
        (State::Nhrp, Reason::NoAnswer, None, "True/Protected"),
        (State::Ike, Reason::IkeAuthenticationFailed, None, "False/IkeAuthenticationFailed"),
        (State::Ipsec, Reason::WaitingForIpsec, None, "False/WaitingForIpsec"),
        (State::Unknown, Reason::IkeDaemonAway, Some(unknown(true)), "Unknown/IkeDaemonAway"),
        (State::Ike, Reason::IkeDaemonAway, Some(unknown(false)), "False/IkeDaemonAway"),
        (State::Intf, Reason::InterfaceDown, Some(unknown(true)), "False/InterfaceDown"),
        (State::AdminDown, Reason::Suspended, None, "False/Suspended"),
    ] {
        let mut summary = summary(3, rung(state, reason), 0);
        let desired = Arc::make_mut(&mut summary.desired);
        let ipsec = json!({
            "pskSecretRefs": [{"name": "key"}], "rekeySeconds": 3600, "dpdSeconds": 10, "udpEncapsulation": "Auto"
        });
        desired.endpoints[0].spec.ipsec = Some(serde_json::from_value(ipsec).expect("ipsec"));
        summary.tunnels.get_mut("branches").expect("it").unknown = unknown;
        let told = told(&verdict(&seen(3), &summary).expect("verdict"));
        let place = told.iter().position(|it| *it == format!("IPsecReady={want}"));
        assert!(place.is_some(), "{state:?} {reason}: {told:?}");
        assert!(told.contains(&"Authenticated=False/SharedSecret".to_owned()), "{told:?}");
    }
    // Of Secrets that were asked for just now nothing is said.
    let asked = Seen { credentials: Credentials::Asked, ..seen(3) };
    assert_eq!(verdict(&asked, &summary(3, Rung::up(), 0)), None);
}

#[test]
fn a_tunnel_on_each_rung() {
    let up = verdict(&seen(3), &summary(3, Rung::up(), 2)).expect("verdict");
    assert_eq!(
        told(&up),
        [
            "Ready=True/Up",
            "Reconciling=False/Up",
            "Stalled=False/Up",
            "InterfaceReady=True/InterfaceUp",
            "ForwardingReady=True/Forwarding",
            "Registered=True/Up"
        ]
    );
    let mut hindered = summary(3, Rung::up(), 2);
    let cure = Trouble::new(Reason::ForwardingDisabled, Reason::ForwardingDisabled.cure());
    hindered.tunnels.get_mut("branches").expect("it").hindrance = Some(cure);
    let hindered = verdict(&seen(3), &hindered).expect("verdict");
    assert_eq!(told(&hindered)[4], "ForwardingReady=False/ForwardingDisabled");
    assert_eq!(told(&hindered)[0], "Ready=True/Up", "the tunnel itself is up");
    assert_eq!((up.state.as_str(), up.generation, up.peers), ("Up", 3, Some(2)));
    let forwards = up.conditions.iter().find(|(type_, ..)| *type_ == ConditionType::ForwardingReady);
    assert_eq!(forwards.expect("it").3, "path MTU through the tunnel: 1272 bytes");
    assert_eq!(up.path_mtu, Some(1272));
    assert_eq!(up.tunnel_ip.as_deref(), Some("10.255.0.11,fd00::11"));
    assert_eq!(up.nbma.as_deref(), Some("192.0.2.7"));

    for (state, reason, word, text) in [
        (State::Intf, Reason::Starting, "InProgress", "INTF"),
        (State::Intf, Reason::InterfaceDown, "InProgress", "INTF"),
        (State::Intf, Reason::InterfaceNameTaken, "Failed", "INTF"),
        (State::Intf, Reason::SourceAddressInvalid, "Failed", "INTF"),
        (State::AdminDown, Reason::Suspended, "Failed", "AdminDown"),
        (State::Nhrp, Reason::Registering, "InProgress", "NHRP"),
        (State::Nhrp, Reason::NoAnswer, "InProgress", "NHRP"),
        (State::Nhrp, Reason::AuthenticationFailed, "Failed", "NHRP"),
        (State::Up, Reason::Up, "Current", "Up"),
    ] {
        let verdict = verdict(&seen(1), &summary(1, rung(state, reason), 0)).expect("verdict");
        assert_eq!((kstatus(&verdict), verdict.state.as_str()), (word, text), "{reason}");
        let ready = &verdict.conditions[0];
        assert_eq!((ready.2, ready.3.as_str()), (reason, reason.cure()));
    }
}

#[test]
fn the_generation_is_the_one_that_was_carried_out() {
    assert_eq!(verdict(&seen(2), &summary(1, Rung::up(), 0)), None, "not come to it yet");
    assert_eq!(verdict(&seen(2), &Summary::default()), None);
    let refused =
        Seen { bad: Some(Bad { reason: Reason::Invalid, message: "unknown role".into() }), ..seen(2) };
    let refused = verdict(&refused, &summary(1, Rung::up(), 4)).expect("verdict");
    assert_eq!((kstatus(&refused), refused.state.as_str(), refused.generation), ("Failed", "Up", 2));
    assert_eq!(refused.peers, Some(4), "what is in force goes on");
    let lacking = Credentials::Lacking("no operator".into());
    let waiting = Seen {
        bad: Some(Bad { reason: Reason::SecretsUnavailable, message: "no operator".into() }),
        credentials: lacking,
        ..seen(2)
    };
    let waiting = verdict(&waiting, &Summary::default()).expect("verdict");
    assert_eq!((kstatus(&waiting), waiting.state.as_str()), ("InProgress", "INTF"));
    assert!(told(&waiting).contains(&"CredentialsReady=False/SecretsUnavailable".to_owned()));
}

#[test]
fn absent_is_said_when_nothing_is_left() {
    let mut state = summary(1, Rung::up(), 1);
    let removal = endpoint(2);
    state.desired = Arc::new(Desired { removals: vec![removal], ..Desired::default() });
    state.tunnels.get_mut("branches").expect("tunnel").leaving = true;
    let leaving = verdict(&seen(2), &state).expect("verdict");
    assert_eq!((kstatus(&leaving), leaving.state.as_str()), ("InProgress", "Up"));
    assert!(told(&leaving).contains(&"Ready=False/Removing".to_owned()));
    state.tunnels.clear();
    assert_ne!(
        verdict(&seen(2), &state).expect("verdict").state,
        "Absent",
        "the kernel was not looked at yet"
    );
    state.gone.insert("branches".into());
    let gone = verdict(&seen(2), &state).expect("verdict");
    assert_eq!((gone.state.as_str(), gone.nbma, gone.tunnel_ip), ("Absent", None, None));
    assert_eq!(gone.conditions[0].2, Reason::Removed);
    assert_eq!(verdict(&seen(3), &state), None, "an older wish");
}

/// The writer's memory after it wrote `verdict` at `at`.
fn written(verdict: &Verdict, at: u64) -> Written {
    let time = Time("2026-01-01T00:00:00Z".parse().expect("time"));
    let status = status(verdict, &DmvpnEndpointStatus::default(), &time);
    Written { uid: "1".into(), status, at: Some(Duration::from_secs(at)) }
}

#[test]
fn transitions_at_once_counts_gathered_nothing_in_steady_state() {
    let s = Duration::from_secs;
    let told = |rung: Rung, peers| verdict(&seen(1), &summary(1, rung, peers)).expect("verdict");
    let (up, up3) = (told(Rung::up(), 2), told(Rung::up(), 3));
    let down = told(rung(State::Nhrp, Reason::NoAnswer), 2);
    let memory = written(&up, 10);
    let stored = &memory.status;
    assert_eq!(decide(&up, "1", stored, Some(&memory), s(11)), Step::Nothing);
    assert_eq!(decide(&down, "1", stored, Some(&memory), s(10)), Step::Write);
    assert_eq!(decide(&up3, "1", stored, Some(&memory), s(11)), Step::NotBefore(s(15)));
    assert_eq!(decide(&up3, "1", stored, Some(&memory), s(15)), Step::Write);
    // Somebody wrote over it, or the watch is behind.
    let unknown = DmvpnEndpointStatus { state: Some("Unknown".into()), ..stored.clone() };
    assert_eq!(decide(&up, "1", &unknown, Some(&memory), s(12)), Step::NotBefore(s(15)));
    assert_eq!(decide(&up, "1", &unknown, Some(&memory), s(15)), Step::Write);
    // Another object of the same name.
    assert_eq!(decide(&up, "2", &DmvpnEndpointStatus::default(), Some(&memory), s(11)), Step::Write);
}

#[test]
fn an_agent_that_starts_does_not_call_its_tunnels_down() {
    let s = Duration::from_secs;
    let stored = written(&verdict(&seen(1), &summary(1, Rung::up(), 2)).expect("verdict"), 0).status;
    let now = |state, reason| verdict(&seen(1), &summary(1, rung(state, reason), 0)).expect("verdict");
    let starting = now(State::Intf, Reason::Starting);
    assert_eq!(decide(&starting, "1", &stored, None, s(1)), Step::NotBefore(SETTLING));
    assert_eq!(decide(&now(State::Nhrp, Reason::Registering), "1", &stored, None, s(6)), Step::Write);
    assert_eq!(decide(&now(State::Intf, Reason::InterfaceDown), "1", &stored, None, s(1)), Step::Write);
    assert_eq!(decide(&starting, "1", &DmvpnEndpointStatus::default(), None, s(1)), Step::Write);
    let again = verdict(&seen(1), &summary(1, Rung::up(), 2)).expect("verdict");
    assert_eq!(decide(&again, "1", &stored, None, s(1)), Step::Nothing);
}

#[test]
fn times_move_when_a_status_flips_and_others_conditions_are_left_out() {
    let at = |text: &str| Time(text.parse().expect("time"));
    let (t0, t1) = (at("2026-01-01T00:00:00Z"), at("2026-01-02T00:00:00Z"));
    let up = verdict(&seen(1), &summary(1, Rung::up(), 2)).expect("verdict");
    let mut stored = status(&up, &DmvpnEndpointStatus::default(), &t0);
    let foreign = ConditionType::Accepted;
    conditions::set(
        &mut stored.conditions,
        foreign,
        ConditionStatus::True,
        Reason::Accepted,
        "",
        None,
        t0.clone(),
    );
    assert!(up.same(&stored), "others' conditions are others'");
    let down = verdict(&seen(1), &summary(1, rung(State::Nhrp, Reason::NoAnswer), 2)).expect("verdict");
    let new = status(&down, &stored, &t1);
    let time =
        |name: &str| new.conditions.iter().find(|c| c.type_ == name).map(|c| c.last_transition_time.clone());
    assert_eq!((time("Ready"), time("Stalled"), time("Accepted")), (Some(t1), Some(t0), None));
}

/// What works is what was before; that the wish is another is a matter for somebody's hand.
#[test]
fn a_change_that_was_rolled_back_is_told_of_the_generation_that_asks_for_it() {
    let mut summary = summary(4, Rung::up(), 2);
    summary.rolled_back.insert("branches".to_owned(), "under the change this node lost its hubs".to_owned());
    let verdict = verdict(&seen(4), &summary).expect("verdict");
    assert_eq!((verdict.state.as_str(), verdict.generation, verdict.peers), ("Up", 4, Some(2)));
    assert_eq!(kstatus(&verdict), "Failed");
    assert_eq!(told(&verdict)[0], "Ready=False/RolledBack");
    assert!(verdict.conditions[0].3.contains("lost its hubs"));
}

/// An agent that starts has not measured yet: that is no news.
#[test]
fn a_path_mtu_stands_until_another_is_measured() {
    let known = verdict(&seen(3), &summary(3, Rung::up(), 2)).expect("verdict");
    let stored = status(&known, &DmvpnEndpointStatus::default(), &Time(Default::default()));
    assert_eq!(stored.path_mtu, Some(1272));
    let mut starting = summary(3, Rung::up(), 2);
    starting.tunnels.get_mut("branches").expect("it").path_mtu = None;
    let mut unknown = verdict(&seen(3), &starting).expect("verdict");
    // (The message of ForwardingReady tells a short path too.)
    unknown.conditions.clone_from(&known.conditions);
    assert!(unknown.same(&stored));
    assert_eq!(status(&unknown, &stored, &Time(Default::default())).path_mtu, Some(1272));
    unknown.path_mtu = Some(1400);
    assert!(!unknown.same(&stored));
}
