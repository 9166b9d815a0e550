//! Bounds that fields share: names, addresses, prefixes, lists of them. Each has a rule for the API server
//! and a text that names the cure; where the schema can only say "no", [`explain`] says what is wrong with
//! this very value.

use std::net::IpAddr;

use schemars::{Schema, SchemaGenerator};
use serde_json::{Value, json};

use crate::net::{Cidr, parse_address};

/// RFC 1123 label: names of hubs, clusters and groups.
pub const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// RFC 1123 subdomain: names of objects and nodes.
pub const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// A host name; a last label that begins with a digit is an address, not a name.
pub const HOSTNAME: &str =
    r"^([a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?\.)*[a-zA-Z]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?\.?$";
/// A Linux interface name.
pub const INTERFACE: &str = r"^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,14}$";
/// Key in a Secret.
pub const SECRET_KEY: &str = "^[-._a-zA-Z0-9]+$";
/// IKE identity: a FQDN, an e-mail address, an address or a distinguished name; no spaces at its ends.
pub const IDENTITY: &str = "^[^\\s\\x00-\\x1f]([^\\x00-\\x1f]*[^\\s\\x00-\\x1f])?$";
/// Owner of an address or prefix: a spoke, `spoke/node`, or a hub.
pub const OWNER: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$";
/// Kind of an object.
pub const KIND: &str = "^[A-Z][a-zA-Z0-9]*$";
/// strongSwan's notation of a proposal.
pub const PROPOSAL: &str = "^[a-z0-9]+(-[a-z0-9_]+)*$";
/// Value of a node label.
pub const LABEL_VALUE: &str = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";
/// Reason of a condition, as Kubernetes has it.
pub const CONDITION_REASON: &str = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$";
/// Type of a condition.
pub const CONDITION_TYPE: &str =
    r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$";

/// CEL rule of an address.
pub const IP_RULE: &str = "isIP(self)";
/// CEL rule of a prefix.
pub const CIDR_RULE: &str = "isCIDR(self) && cidr(self) == cidr(self).masked()";
/// CEL rule of an address or a prefix.
pub const IP_OR_CIDR_RULE: &str = "isIP(self) || (isCIDR(self) && cidr(self) == cidr(self).masked())";
/// CEL rule of a list with one address a family.
pub const ONE_A_FAMILY_RULE: &str = "self.filter(a, isIP(a) && ip(a).family() == 4).size() <= 1 && \
     self.filter(a, isIP(a) && ip(a).family() == 6).size() <= 1";

const IP_CURE: &str = "must be an IP address without prefix length, e.g. 10.255.0.1 or fd00:255::1";
const CIDR_CURE: &str = "must be a prefix without host bits, e.g. 10.20.0.0/24 or fd00:20::/64";
const IP_OR_CIDR_CURE: &str =
    "must be an IP address or a prefix without host bits, e.g. 10.255.0.9 or 10.255.0.0/28";
const ONE_A_FAMILY_CURE: &str = "at most one address a family: give one IPv4 and one IPv6 address";

/// What each pattern asks for, in words.
const PATTERNS: &[(&str, &str)] = &[
    (LABEL, "use lower-case letters, digits and '-', beginning and ending with a letter or digit, e.g. hub1"),
    (SUBDOMAIN, "use lower-case letters, digits, '-' and '.', e.g. branch-a"),
    (HOSTNAME, "must be a host name such as vpn.example.net; an IP address belongs into `address`"),
    (INTERFACE, "must be a Linux interface name: 1-15 letters, digits, '_', '.' or '-', e.g. eth0"),
    (SECRET_KEY, "must be a key of the Secret's data: letters, digits, '-', '_' and '.'"),
    (IDENTITY, "must be an IKE identity without spaces at its ends, e.g. branch-a.example.net"),
    (OWNER, "must be the name of a spoke or hub, e.g. branch-a"),
    (KIND, "must be a kind such as ClusterIssuer"),
    (PROPOSAL, "must be a proposal such as aes256gcm16-x25519"),
    (LABEL_VALUE, "must be a label value: at most 63 letters, digits, '-', '_' and '.'"),
    (CONDITION_REASON, "must be a reason in CamelCase"),
    (CONDITION_TYPE, "must be a condition type in CamelCase"),
];

/// What a pattern asks for, in words.
pub fn pattern_cure(pattern: &str) -> Option<&'static str> {
    PATTERNS.iter().find(|(p, _)| *p == pattern).map(|(_, cure)| *cure)
}

/// What is wrong with `value` under one of the shared CEL rules, more exactly than the rule's fixed message.
pub fn explain(rule: &str, value: &Value) -> Option<String> {
    match (rule, value.as_str()) {
        (IP_RULE, Some(text)) => parse_address(text).err().map(|e| e.to_string()),
        (CIDR_RULE, Some(text)) => text.parse::<Cidr>().err().map(|e| e.to_string()),
        (IP_OR_CIDR_RULE, Some(text)) if text.contains('/') => {
            text.parse::<Cidr>().err().map(|e| e.to_string())
        }
        (IP_OR_CIDR_RULE, Some(text)) => parse_address(text).err().map(|e| e.to_string()),
        _ => None,
    }
}

/// CEL rules as the schema has them: (rule, message that names the cure, field at fault as `.field` or
/// empty).
pub fn rules(rules: &[(&str, &str, &str)]) -> Value {
    rules
        .iter()
        .map(|(rule, message, path)| match path.is_empty() {
            true => json!({"rule": rule, "message": message}),
            false => json!({"rule": rule, "message": message, "fieldPath": path}),
        })
        .collect()
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident => $value:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name(_: &mut SchemaGenerator) -> Schema {
            Schema::try_from($value).unwrap_or_default()
        }
    )*};
}

fields! {
    /// Name of a hub, cluster, group or rule.
    label => text(1, 63, LABEL);
    /// Name of an object or node.
    subdomain => text(1, 253, SUBDOMAIN);
    /// Host name.
    hostname => text(1, 253, HOSTNAME);
    /// Linux interface name (of a link or a VRF).
    interface => text(1, 15, INTERFACE);
    /// Owner of an address or prefix: a spoke, `spoke/node`, or a hub.
    owner => text(1, 507, OWNER);
    /// Kind of an object.
    kind => text(1, 63, KIND);
    /// Key in a Secret.
    secret_key => text(1, 253, SECRET_KEY);
    /// IKE identity.
    identity => text(1, 253, IDENTITY);
    /// Address.
    address => address_value();
    /// Prefix.
    prefix => prefix_value();
    /// One overlay address a family.
    overlay_addresses => {
        let mut list = list_value(2, "atomic", address_value());
        if let Some(list) = list.as_object_mut() {
            list.insert("x-kubernetes-validations".into(), rules(&[(ONE_A_FAMILY_RULE, ONE_A_FAMILY_CURE, "")]));
        }
        list
    };
    /// Overlay prefixes: at least one.
    overlay => {
        let mut list = list_value(8, "set", prefix_value());
        if let Some(list) = list.as_object_mut() {
            list.insert("minItems".into(), json!(1));
        }
        list
    };
    /// Up to 16 pools.
    pools => list_value(16, "set", prefix_value());
    /// Up to 64 prefixes.
    prefixes => list_value(64, "set", prefix_value());
    /// Up to 256 addresses or prefixes.
    reserved => list_value(256, "set", json!({
        "type": "string", "minLength": 2, "maxLength": 43,
        "x-kubernetes-validations": rules(&[(IP_OR_CIDR_RULE, IP_OR_CIDR_CURE, "")]),
    }));
    /// Up to 16 names.
    labels => list_value(16, "set", text(1, 63, LABEL));
    /// Up to 256 IKE identities.
    identities => list_value(256, "set", text(1, 253, IDENTITY));
    /// Up to 8 proposals.
    proposals => list_value(8, "atomic", text(1, 127, PROPOSAL));
    /// Multicast groups.
    groups => list_value(32, "set", json!({
        "type": "string", "minLength": 2, "maxLength": 45,
        "x-kubernetes-validations": rules(&[(
            "isIP(self) && (ip(self).family() == 4 ? cidr('224.0.0.0/4').containsIP(self) : \
             cidr('ff00::/8').containsIP(self))",
            "must be a multicast address, e.g. 239.1.1.1 or ff08::1",
            "",
        )]),
    }));
    /// Labels of nodes that are meant; none: all.
    node_labels => json!({
        "type": "object", "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE},
    });
    /// Node selector: labels that a node must have, all of them.
    node_selector => json!({
        "type": "object", "minProperties": 1, "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE},
    });
    /// Conditions, with the bounds that Kubernetes gives them.
    conditions => list_of_conditions();
}

/// A string of `min` to `max` characters that matches `pattern`.
fn text(min: u32, max: u32, pattern: &str) -> Value {
    json!({"type": "string", "minLength": min, "maxLength": max, "pattern": pattern})
}

fn address_value() -> Value {
    json!({
        "type": "string", "minLength": 2, "maxLength": 45,
        "x-kubernetes-validations": rules(&[(IP_RULE, IP_CURE, "")]),
    })
}

fn prefix_value() -> Value {
    json!({
        "type": "string", "minLength": 4, "maxLength": 43,
        "x-kubernetes-validations": rules(&[(CIDR_RULE, CIDR_CURE, "")]),
    })
}

fn list_value(max: u32, list_type: &str, items: Value) -> Value {
    json!({"type": "array", "maxItems": max, "items": items, "x-kubernetes-list-type": list_type})
}

fn list_of_conditions() -> Value {
    let described = |mut schema: Value, text: &str| {
        schema["description"] = text.into();
        schema
    };
    json!({
        "type": "array", "maxItems": 32,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": "One aspect of the state.",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": described(text(1, 316, CONDITION_TYPE), "What it speaks of, e.g. Ready."),
                "status": {
                    "type": "string", "enum": ["True", "False", "Unknown"],
                    "description": "Whether it holds.",
                },
                "reason": described(text(1, 1024, CONDITION_REASON), "Why, in one word."),
                "message": {
                    "type": "string", "maxLength": 32768,
                    "description": "Why, and what to do about it, for people.",
                },
                "lastTransitionTime": {
                    "type": "string", "format": "date-time", "maxLength": 40,
                    "description": "When the status last changed.",
                },
                "observedGeneration": {
                    "type": "integer", "format": "int64", "minimum": -1,
                    "description": "Generation of the object that it speaks of.",
                },
            },
        },
    })
}

/// Whether an address can be the end of a tunnel: not unspecified, loopback, multicast or broadcast.
pub fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_unspecified() || v4.is_loopback() || v4.is_multicast() || v4.is_broadcast())
        }
        IpAddr::V6(v6) => !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast()),
    }
}

/// Whether a text can be the key of a label: `name` or `prefix/name`. The schema cannot bound the keys of a
/// map at a cost that the API server allows.
pub fn is_label_key(key: &str) -> bool {
    let edge = |c: &u8| c.is_ascii_alphanumeric();
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let bytes = name.as_bytes();
    let name_fits = name.len() <= 63
        && bytes.first().is_some_and(edge)
        && bytes.last().is_some_and(edge)
        && bytes.iter().all(|c| edge(c) || b"-_.".contains(c));
    name_fits && prefix.is_none_or(is_subdomain)
}

/// RFC 1123 subdomain of at most 253 characters.
pub fn is_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        let edge = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let bytes = label.as_bytes();
        bytes.first().is_some_and(edge)
            && bytes.last().is_some_and(edge)
            && bytes.iter().all(|c| edge(c) || *c == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}
