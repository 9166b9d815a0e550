//! Which Secrets a network refers to, whether they are there, and the revision that tells agents to ask again.

use std::collections::BTreeMap;

use crds::network::SecretRef;
use crds::{NETWORK_LABEL, Reason};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

/// Key of a password when a reference names none.
const DEFAULT_KEY: &str = "password";

/// The Secrets of one network.
#[derive(Clone, Default, PartialEq)]
pub struct Credentials {
    /// Whether it refers to any.
    pub referred: bool,
    /// Changes when one of them does; `None`: none is referred to, or not all are there.
    pub revision: Option<String>,
    /// The passwords in the order of the references; empty unless all are there.
    pub passwords: Vec<ByteString>,
    /// What is wrong: reason and message.
    pub faults: Vec<(Reason, String)>,
}

/// Looks up what a network refers to among the labelled Secrets of the operator's namespace.
pub fn resolve(
    network: &str,
    refs: &[SecretRef],
    namespace: &str,
    secrets: &BTreeMap<&str, &Secret>,
) -> Credentials {
    let mut found = Credentials { referred: !refs.is_empty(), ..Credentials::default() };
    let mut versions = Vec::new();
    for (i, reference) in refs.iter().enumerate() {
        let name = &reference.name;
        match look_up(network, reference, secrets.get(name.as_str()).copied()) {
            Ok((password, version)) => {
                found.passwords.push(password);
                versions.push(version);
            }
            Err((reason, what)) => {
                let field = format!("spec.nhrp.authenticationSecretRefs[{i}]");
                found.faults.push((reason, format!("{field}: Secret {namespace}/{name} {what}")));
            }
        }
    }
    if !found.faults.is_empty() {
        found.passwords.clear();
    } else if found.referred {
        found.revision = Some(versions.join("."));
    }
    found
}

fn look_up(
    network: &str,
    reference: &SecretRef,
    secret: Option<&Secret>,
) -> Result<(ByteString, String), (Reason, String)> {
    let Some(secret) = secret else {
        let message = format!("is not there: create it, with the label {NETWORK_LABEL}: {network}");
        return Err((Reason::SecretMissing, message));
    };
    let label = secret.metadata.labels.as_ref().and_then(|l| l.get(NETWORK_LABEL)).map_or("", String::as_str);
    if label != network {
        let message = format!("is labelled for network {label}: label it {NETWORK_LABEL}: {network}");
        return Err((Reason::SecretNotLabelled, message));
    }
    let key = reference.key.as_deref().unwrap_or(DEFAULT_KEY);
    let value = secret.data.as_ref().and_then(|d| d.get(key)).filter(|v| !v.0.is_empty());
    let Some(value) = value else {
        return Err((Reason::SecretKeyMissing, format!("has no value under the key {key}: add it")));
    };
    Ok((value.clone(), secret.metadata.resource_version.clone().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn secret(name: &str, network: &str, version: &str, key: &str) -> Secret {
        Secret {
            metadata: ObjectMeta {
                name: Some(name.into()),
                resource_version: Some(version.into()),
                labels: Some(BTreeMap::from([(NETWORK_LABEL.into(), network.into())])),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(key.into(), ByteString(b"pw".to_vec()))])),
            ..Secret::default()
        }
    }

    #[test]
    fn all_or_nothing_and_each_fault_says_the_cure() {
        let all = [
            secret("a", "n", "7", "password"),
            secret("b", "n", "9", "pin"),
            secret("c", "m", "1", "password"),
        ];
        let secrets: BTreeMap<&str, &Secret> =
            all.iter().map(|s| (s.metadata.name.as_deref().unwrap(), s)).collect();
        let resolved = |refs: &[(&str, Option<&str>)]| {
            let refs: Vec<SecretRef> =
                refs.iter().map(|(n, k)| SecretRef { name: (*n).into(), key: k.map(Into::into) }).collect();
            resolve("n", &refs, "ns", &secrets)
        };
        assert_eq!(resolved(&[]).revision, None);
        let both = resolved(&[("a", None), ("b", Some("pin"))]);
        assert_eq!((both.revision.as_deref(), both.passwords.len()), (Some("7.9"), 2));
        for (refs, reason, cure) in [
            ([("a", None), ("z", None)], Reason::SecretMissing, "[1]: Secret ns/z is not there: create it"),
            ([("c", None), ("a", None)], Reason::SecretNotLabelled, "label it dmvpn.io/network: n"),
            ([("b", None), ("a", None)], Reason::SecretKeyMissing, "no value under the key password"),
        ] {
            let got = resolved(&refs);
            assert_eq!((&got.revision, got.passwords.len()), (&None, 0));
            assert!(got.faults[0].0 == reason && got.faults[0].1.contains(cure), "{:?}", got.faults);
        }
    }
}
