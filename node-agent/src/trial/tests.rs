//! Every way through the stages, on a clock.

use serde_json::json;

use super::*;

const HUB: Lifelines = Lifelines { hub: true, gateway: false, api: false };
const ALL: Lifelines = Lifelines { hub: true, gateway: true, api: true };
const NONE: Lifelines = Lifelines { hub: false, gateway: false, api: false };

fn endpoint(key: u32) -> DesiredEndpoint {
    let spec = json!({
        "network": "n", "nodeName": "a", "desired": "Present", "role": "Spoke", "phase": "Phase3",
        "overlay": ["10.255.0.0/16"], "addresses": [], "nhs": [],
        "tunnel": {
            "interfaceName": "t", "source": {"from": "DefaultRoute"}, "underlayFamily": "IPv4", "key": key,
            "mtuPolicy": "Fixed", "mtu": 1400, "tcpMssPolicy": "Clamp", "ttl": 255, "dscpPolicy": "Copy",
            "interfaceState": "Always"
        },
        "nhrp": {
            "mode": "Enabled", "networkId": 100, "holdTimeSeconds": 600, "uniquenessPolicy": "Identity",
            "registrationUnique": true
        },
        "routing": {"protocol": "NHRP", "metric": 100}
    });
    DesiredEndpoint {
        spec: serde_json::from_value(spec).expect("endpoint"),
        passwords: Vec::new(),
        keys: Vec::new(),
        certificate: None,
        origin: None,
    }
}

fn trial(needs: Lifelines) -> Trial {
    let mut trial = Trial::new(endpoint(1), endpoint(2), needs, Time(0));
    assert!(trial.ask(Time(0)), "the hubs are asked at once");
    trial
}

fn key(trial: &Trial) -> Option<u32> {
    trial.in_force().spec.tunnel.key
}

#[test]
fn a_change_under_which_all_works_is_kept_and_no_sooner_than_that_is_known() {
    let mut trial = trial(ALL);
    assert_eq!(trial.step(NONE, "", Time(5_000)), Step::Stay, "it has its time");
    assert!(trial.ask(Time(8_000)) && !trial.ask(Time(8_001)), "once more before it is over");
    assert_eq!(trial.step(ALL, "", Time(9_999)), Step::Stay);
    assert_eq!(trial.step(ALL, "", Time(TRIAL_MS)), Step::Kept);
}

#[test]
fn what_cuts_the_hub_is_rolled_back_said_and_tried_again_seldom() {
    let mut trial = trial(HUB);
    assert_eq!(trial.step(NONE, "NoAnswer", Time(TRIAL_MS)), Step::Switched);
    assert_eq!((key(&trial), trial.why(), trial.asked()), (Some(1), None, None));
    assert!(trial.ask(Time(10_001)));
    assert_eq!(trial.step(HUB, "", Time(10_100)), Step::Switched);
    let why = trial.why().expect("said");
    assert!(why.contains("its hubs (NoAnswer)") && trial.is_settled(), "{why}");
    // While it works nothing happens for a minute, then for four, for sixteen, at last for an hour.
    let mut now = 10_100;
    for minutes in [1, 4, 16, 60, 60] {
        assert_eq!(trial.step(HUB, "", Time(now + minutes * 60_000 - 1)), Step::Stay);
        now += minutes * 60_000;
        assert_eq!((trial.step(HUB, "", Time(now)), key(&trial)), (Step::Switched, Some(2)));
        assert!(trial.why().is_some(), "it is still the one that was rolled back");
        now += RETRY_MS;
        assert_eq!(trial.step(NONE, "NoAnswer", Time(now)), Step::Switched);
        assert_eq!((trial.step(HUB, "", Time(now)), key(&trial)), (Step::Switched, Some(1)));
    }
}

#[test]
fn a_hub_that_follows_later_finds_us() {
    let mut trial = trial(HUB);
    trial.step(NONE, "", Time(TRIAL_MS));
    trial.step(HUB, "", Time(10_100));
    assert!(trial.ask(Time(10_100 + WATCH_MS)), "it is watched");
    assert_eq!((trial.step(NONE, "", Time(30_000)), key(&trial)), (Step::Switched, Some(2)));
    assert_eq!(trial.step(HUB, "", Time(35_000)), Step::Kept);
}

#[test]
fn what_the_return_does_not_bring_back_was_not_lost_by_the_change() {
    let mut trial = trial(HUB);
    let mut now = TRIAL_MS;
    let mut switches = 0;
    // A hub that is away for a day.
    while now < 86_400_000 {
        switches += u32::from(trial.step(NONE, "", Time(now)) == Step::Switched);
        trial.ask(Time(now));
        assert_eq!(trial.why(), None, "the change is not to blame");
        now = trial.next().0.max(now + 1);
    }
    assert!(switches < 2 * 24 * 12, "{switches} switches in a day");
    assert_eq!(key(&trial), Some(2), "the wish is in force");
    assert_eq!(trial.step(HUB, "", Time(now)), Step::Kept);
}

#[test]
fn another_loss_is_no_reason_to_stay_with_what_is_old() {
    let mut trial = trial(ALL);
    let no_api = Lifelines { api: false, ..ALL };
    trial.step(no_api, "", Time(TRIAL_MS));
    trial.ask(Time(TRIAL_MS));
    // The API server is back, and the hub has gone meanwhile.
    let api = Lifelines { hub: false, ..ALL };
    assert_eq!(trial.step(api, "", Time(10_100)), Step::Switched);
    assert!(trial.why().is_some_and(|why| why.contains("its API server")));
    // Under the change there was a hub, and no API server: nothing goes back and forth.
    assert_eq!(trial.step(api, "", Time(40_000)), Step::Stay);
}

#[test]
fn an_api_server_that_is_away_by_itself_leaves_the_tunnel_alone() {
    let mut trial = trial(ALL);
    let no_api = Lifelines { api: false, ..ALL };
    trial.step(no_api, "", Time(TRIAL_MS));
    trial.ask(Time(TRIAL_MS));
    assert_eq!(trial.step(no_api, "", Time(TRIAL_MS + RETURN_MS)), Step::Switched);
    assert_eq!(key(&trial), Some(2));
    trial.ask(Time(TRIAL_MS + RETURN_MS));
    assert_eq!(trial.step(no_api, "", Time(TRIAL_MS + RETURN_MS)), Step::Kept);
}

#[test]
fn the_same_change_by_another_version_is_no_new_one() {
    let mut trial = trial(HUB);
    let origin = crate::source::Origin { object: "n-a".into(), generation: 7 };
    let again = DesiredEndpoint { origin: Some(origin.clone()), ..endpoint(2) };
    assert!(trial.is_about(&again) && !trial.is_about(&endpoint(3)));
    assert_eq!(trial.in_force().origin, Some(origin));
}
