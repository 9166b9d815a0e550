//! What the two accounts may do, as it should be. Compared with what helm renders, and with what an API server makes of it.

use serde_json::Value;

/// A resource and verbs on it.
pub(crate) struct Right {
    /// `*`, or the namespace.
    pub(crate) place: &'static str,
    /// `group/resource[:name]`.
    pub(crate) what: &'static str,
    pub(crate) verbs: &'static [&'static str],
}

const fn right(place: &'static str, what: &'static str, verbs: &'static [&'static str]) -> Right {
    Right { place, what, verbs }
}

const READ: &[&str] = &["get", "list", "watch"];
const ALL: &[&str] = &["get", "list", "watch", "create", "patch", "update", "delete"];

/// Of the release `dmvpn` in `dmvpn-system`.
pub(crate) const OPERATOR: &[Right] = &[
    right("*", "dmvpn.io/dmvpnnetworks", READ),
    right("*", "dmvpn.io/dmvpnspokes", READ),
    right("*", "dmvpn.io/dmvpnnetworks/status", &["patch", "update"]),
    right("*", "dmvpn.io/dmvpnspokes/status", &["patch", "update"]),
    right("*", "dmvpn.io/dmvpnendpoints", ALL),
    right("*", "dmvpn.io/dmvpnaddresses", ALL),
    right("*", "dmvpn.io/dmvpnendpoints/status", &["patch"]),
    right("*", "dmvpn.io/dmvpnnetworks/finalizers", &["update"]),
    right("*", "/nodes", READ),
    right("*", "authentication.k8s.io/tokenreviews", &["create"]),
    right("*", "events.k8s.io/events", &["create", "patch"]),
    right("dmvpn-system", "/pods", &["list", "watch"]),
    right("dmvpn-system", "/secrets", &["list", "watch"]),
    right("dmvpn-system", "/secrets:dmvpn-operator-tls", &["get", "patch", "update"]),
    right("dmvpn-system", "/configmaps:dmvpn-operator-ca", &["get", "patch", "update"]),
    right("dmvpn-system", "coordination.k8s.io/leases:dmvpn-operator", &["get", "patch", "update"]),
];

/// Likewise.
pub(crate) const AGENT: &[Right] = &[
    right("*", "dmvpn.io/dmvpnendpoints", READ),
    right("*", "dmvpn.io/dmvpnendpoints/status", &["patch"]),
    right("*", "discovery.k8s.io/endpointslices:kubernetes", &["get"]),
    right("dmvpn-system", "discovery.k8s.io/endpointslices", &["get", "list"]),
    right("dmvpn-system", "/configmaps:dmvpn-operator-ca", &["get"]),
    right("dmvpn-system", "apps/daemonsets:dmvpn-agent", &["get"]),
    right("dmvpn-system", "/namespaces:dmvpn-system", &["get"]),
];

/// `group/resource[:name] verb` for all that a rule allows.
pub(crate) fn spell_out(rule: &Value) -> Vec<String> {
    let texts = |field: &str| -> Vec<&str> {
        rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let names = texts("resourceNames");
    let mut all = Vec::new();
    for group in texts("apiGroups") {
        for resource in texts("resources") {
            for verb in texts("verbs") {
                if names.is_empty() {
                    all.push(format!("{group}/{resource} {verb}"));
                }
                all.extend(names.iter().map(|name| format!("{group}/{resource}:{name} {verb}")));
            }
        }
    }
    all
}
