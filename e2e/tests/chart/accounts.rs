//! What the two accounts may do: the whole list, so that nothing is added unseen.

use std::collections::BTreeSet;

use crate::helm::{render, render_as};
use crate::objects::{Objects, list, text, texts};
use crate::rights::{AGENT, OPERATOR, spell_out};
use crate::shape::MATRIX;

#[test]
fn accounts_may_what_is_listed_and_no_more() {
    for values in MATRIX.iter().filter(|values| !values.contains("fullnameOverride")) {
        let objects = render(values);
        for (account, want) in [("dmvpn-operator", OPERATOR), ("dmvpn-agent", AGENT)] {
            let want: BTreeSet<String> = want
                .iter()
                .flat_map(|right| {
                    right.verbs.iter().map(|verb| format!("{} {} {verb}", right.place, right.what))
                })
                .collect();
            let seen = rights(&objects, account);
            let more: Vec<_> = seen.difference(&want).collect();
            let fewer: Vec<_> = want.difference(&seen).collect();
            assert!(
                more.is_empty() && fewer.is_empty(),
                "{values:?}: {account}: more {more:?}, fewer {fewer:?}"
            );
        }
    }
}

#[test]
fn agents_have_no_right_on_secrets_and_nobody_has_a_wildcard() {
    let objects = render_as("edge", "net", "operator: {replicas: 3}");
    let agent = rights(&objects, "edge-dmvpn-agent");
    assert!(!agent.is_empty() && agent.iter().all(|right| !right.contains("secrets")), "{agent:?}");
    for kind in ["Role", "ClusterRole"] {
        for role in objects.of_kind(kind) {
            for rule in list(&role["rules"]) {
                for field in ["apiGroups", "resources", "verbs"] {
                    assert!(texts(&rule[field]).iter().all(|entry| !entry.contains('*')), "{rule}");
                }
                assert!(rule["nonResourceURLs"].is_null(), "{rule}");
            }
        }
    }
    let makers = |verb: &str| -> Vec<_> {
        let all = ["edge-dmvpn-agent", "edge-dmvpn-operator"].map(|account| rights(&objects, account));
        all.into_iter().flatten().filter(|right| right.ends_with(verb)).collect()
    };
    // Neither may give rights to anybody, or act as somebody else.
    for verb in [" bind", " escalate", " impersonate", " deletecollection"] {
        assert!(makers(verb).is_empty(), "{verb}");
    }
}

/// `place group/resource[:name] verb` of what an account is bound to.
fn rights(objects: &Objects, account: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for kind in ["RoleBinding", "ClusterRoleBinding"] {
        for binding in objects.of_kind(kind) {
            if !list(&binding["subjects"]).iter().any(|subject| subject["name"] == account) {
                continue;
            }
            let role = objects.get(text(&binding["roleRef"]["kind"]), text(&binding["roleRef"]["name"]));
            let place = if kind == "RoleBinding" { text(&binding["metadata"]["namespace"]) } else { "*" };
            let rules = list(&role["rules"]).iter().flat_map(spell_out);
            all.extend(rules.map(|right| format!("{place} {right}")));
        }
    }
    all
}
