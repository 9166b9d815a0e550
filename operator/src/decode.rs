//! Objects that do not decode stay objects: their name, their status and what is wrong with them. So one of them never
//! stops the watch of the others, and it can be told that it is the one.
//!
//! (kube's `DeserializeGuard` keeps the metadata only. The status is needed too: what is said already is not written
//! again.)

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// An object that was read, or why not.
#[derive(Clone, Debug)]
pub struct Guarded<K>(pub Result<K, Undecodable>);

/// An object that does not decode: a newer version of the API may have values that this one does not know.
#[derive(Clone, Debug)]
pub struct Undecodable {
    /// Its metadata.
    pub metadata: ObjectMeta,
    /// Its spec, as it is stored: some of it may still be understood.
    pub spec: Value,
    /// Its status, as it is stored.
    pub status: Value,
    /// What is wrong, with the field if it is known.
    pub error: String,
}

impl Undecodable {
    /// Its name.
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// A text of its spec; empty if it is not there or no text.
    pub fn text(&self, field: &str) -> &str {
        self.spec[field].as_str().unwrap_or_default()
    }
}

impl<'de, K> Deserialize<'de> for Guarded<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        match K::deserialize(&value) {
            Ok(object) => Ok(Self(Ok(object))),
            Err(error) => {
                let metadata =
                    ObjectMeta::deserialize(&value["metadata"]).map_err(serde::de::Error::custom)?;
                let error = explain(&K::kind(&()), &value, &error);
                let (spec, status) = (value["spec"].take(), value["status"].take());
                Ok(Self(Err(Undecodable { metadata, spec, status, error })))
            }
        }
    }
}

/// Names the field, if our own schema finds it.
fn explain(kind: &str, value: &Value, error: &serde_json::Error) -> String {
    let mut object = value.clone();
    // Lists come without the two.
    object["apiVersion"] = crds::API_VERSION.into();
    object["kind"] = kind.into();
    match crds::schema::check(kind, &object).first() {
        Some(fault) if fault.value.is_empty() => fault.to_string(),
        Some(fault) => format!("{}: {} (it is {})", fault.field, fault.message, fault.value),
        None => format!("{error}: correct it, or use a newer operator"),
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &K::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &K::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &K::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &K::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|bad| &bad.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|bad| &mut bad.metadata, K::meta_mut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::DmvpnSpoke;
    use serde_json::json;

    #[test]
    fn an_object_that_does_not_decode_keeps_its_name_and_says_the_field() {
        let read = |type_: &str| {
            let object = json!({
                "metadata": {"name": "a", "uid": "u", "generation": 3},
                "spec": {"networkRef": {"name": "n"}, "placement": {"type": type_, "nodeName": "x"}},
                "status": {"observedGeneration": 2}
            });
            serde_json::from_value::<Guarded<DmvpnSpoke>>(object).unwrap()
        };
        assert!(read("Node").0.is_ok());
        let bad = read("Orbit");
        assert_eq!(bad.meta().generation, Some(3));
        let bad = bad.0.unwrap_err();
        assert_eq!((bad.name(), &bad.status), ("a", &json!({"observedGeneration": 2})));
        assert_eq!((&bad.spec["networkRef"]["name"], bad.text("bogus")), (&json!("n"), ""));
        assert!(bad.error.contains("spec.placement.type") && bad.error.contains("Orbit"), "{}", bad.error);
    }
}
