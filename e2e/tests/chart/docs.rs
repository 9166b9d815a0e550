//! What helm says after an installation.

use crate::helm::{NAMESPACE, chart, helm};

#[test]
fn notes_say_what_comes_next() {
    let chart = chart().display().to_string();
    let notes = |release: &str, values: &str| {
        let words =
            ["install", release, &chart, "--namespace", NAMESPACE, "--dry-run=client", "--values", "-"];
        let said = helm(&words, values).unwrap_or_else(|error| panic!("{values:?}: {error}"));
        let (_, notes) = said.split_once("\nNOTES:\n").expect("notes");
        assert!(!notes.contains("<no value>") && !notes.contains("{{"), "{notes}");
        notes.to_owned()
    };
    let has = |notes: &str, all: &[&str]| {
        for text in all {
            assert!(notes.contains(text), "no {text:?} in:\n{notes}");
        }
    };
    let default = notes("dmvpn", "");
    has(
        &default,
        &[
            "kubectl -n dmvpn-system rollout status deployment/dmvpn-operator",
            "kubectl -n dmvpn-system rollout status daemonset/dmvpn-agent",
            "kubectl label namespace dmvpn-system pod-security.kubernetes.io/enforce=privileged",
            "kubectl label node NODE dmvpn.io/hub=HUB",
            "takes all tunnels away from the nodes (at most 120 s)",
        ],
    );
    assert!(!default.contains("crds.install") && !default.contains("charon"), "{default}");
    has(
        &notes("edge", "ipsec: {enabled: true}"),
        &["daemonset/edge-dmvpn-charon", "does not replace its pods"],
    );
    has(
        &notes("edge", ""),
        &["deployment/edge-dmvpn-operator", "daemonset/edge-dmvpn-agent", "helm uninstall edge"],
    );
    has(&notes("dmvpn", "crds: {install: false}"), &["were not installed (crds.install=false)"]);
    has(&notes("dmvpn", "drain: {enabled: false}"), &["leaves the tunnels on the nodes as they are"]);
    has(&notes("dmvpn", "drain: {timeoutSeconds: 30}"), &["at most 30 s"]);
}
