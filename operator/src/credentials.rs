//! Which Secrets a network refers to, whether they are there, and the revision that tells agents to ask again.

use std::collections::BTreeMap;

use crds::network::{DmvpnNetworkSpec, IpsecMode, SecretRef};
use crds::{NETWORK_LABEL, Reason};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

/// Key of a password when a reference names none.
const PASSWORD: &str = "password";
/// The same of a pre-shared key.
const PSK: &str = "psk";

/// The Secrets of one network.
#[derive(Clone, Default, PartialEq)]
pub struct Credentials {
    /// Whether it refers to any.
    pub referred: bool,
    /// Changes when one of them does; `None`: none is referred to, or not all are there.
    pub revision: Option<String>,
    /// The NHRP passwords in the order of the references; empty unless all Secrets are there.
    pub passwords: Vec<ByteString>,
    /// The pre-shared keys for IPsec, likewise.
    pub keys: Vec<ByteString>,
    /// What is wrong: reason and message.
    pub faults: Vec<(Reason, String)>,
}

/// Looks up what a network refers to among the labelled Secrets of the operator's namespace.
pub fn resolve(
    network: &str,
    spec: &DmvpnNetworkSpec,
    namespace: &str,
    secrets: &BTreeMap<&str, &Secret>,
) -> Credentials {
    let passwords = spec.nhrp.authentication_secret_refs.as_slice();
    // Of a network that is not protected nobody uses them, whatever is written there.
    let psk = spec.ipsec.authentication.as_ref().filter(|_| spec.ipsec.mode == IpsecMode::Required);
    let psk = psk.map(|it| it.psk_secret_refs.as_slice()).unwrap_or_default();
    let mut found =
        Credentials { referred: !passwords.is_empty() || !psk.is_empty(), ..Credentials::default() };
    let mut versions = Vec::new();
    let mut look = |refs: &[SecretRef], field: &str, key: &str| {
        let mut values = Vec::new();
        for (i, reference) in refs.iter().enumerate() {
            let name = &reference.name;
            match look_up(network, reference, key, secrets.get(name.as_str()).copied()) {
                Ok((value, version)) => {
                    values.push(value);
                    versions.push(version);
                }
                Err((reason, what)) => {
                    let message = format!("{field}[{i}]: Secret {namespace}/{name} {what}");
                    found.faults.push((reason, message));
                }
            }
        }
        values
    };
    let passwords = look(passwords, "spec.nhrp.authenticationSecretRefs", PASSWORD);
    let keys = look(psk, "spec.ipsec.authentication.pskSecretRefs", PSK);
    if found.faults.is_empty() && found.referred {
        (found.passwords, found.keys) = (passwords, keys);
        found.revision = Some(versions.join("."));
    }
    found
}

fn look_up(
    network: &str,
    reference: &SecretRef,
    key: &str,
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
    let key = reference.key.as_deref().unwrap_or(key);
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
    use serde_json::{Value, json};

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

    fn network(more: Value) -> DmvpnNetworkSpec {
        let mut spec = json!({"phase": "Phase3", "overlay": ["10.255.0.0/16"], "hubs": []});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn pre_shared_keys_are_looked_up_where_ipsec_is_required() {
        let all =
            [secret("pw", "n", "1", "password"), secret("a", "n", "2", "psk"), secret("b", "n", "3", "old")];
        let secrets: BTreeMap<&str, &Secret> =
            all.iter().map(|s| (s.metadata.name.as_deref().unwrap(), s)).collect();
        let resolved = |mode: &str, refs: Value| {
            let spec = json!({
                "nhrp": {"authenticationSecretRefs": [{"name": "pw"}]},
                "ipsec": {"mode": mode, "authentication": {"type": "PSK", "pskSecretRefs": refs}}
            });
            resolve("n", &network(spec), "ns", &secrets)
        };
        let both = resolved("Required", json!([{"name": "a"}, {"name": "b", "key": "old"}]));
        let counts = (both.passwords.len(), both.keys.len());
        assert_eq!((both.revision.as_deref(), counts), (Some("1.2.3"), (1, 2)));
        let lacking = resolved("Required", json!([{"name": "a"}, {"name": "b"}]));
        let counts = (lacking.passwords.len(), lacking.keys.len());
        assert_eq!((lacking.revision, counts), (None, (0, 0)));
        let text = "spec.ipsec.authentication.pskSecretRefs[1]: Secret ns/b has no value under the key psk";
        assert!(lacking.faults[0].1.starts_with(text), "{:?}", lacking.faults);
        let off = resolved("Disabled", json!([{"name": "z"}]));
        assert_eq!((off.revision.as_deref(), off.keys.len()), (Some("1"), 0));
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
            let refs: Vec<_> = refs.iter().map(|(n, k)| json!({"name": n, "key": k})).collect();
            resolve("n", &network(json!({"nhrp": {"authenticationSecretRefs": refs}})), "ns", &secrets)
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
