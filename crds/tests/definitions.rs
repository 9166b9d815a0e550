//! The CustomResourceDefinitions: as committed, bounded everywhere, and what the API is promised to take.

use std::collections::BTreeSet;
use std::path::Path;

use crds::{DmvpnNetwork, DmvpnSpoke, schema};
use kube::core::cel::{CompiledSchema, compile_schema, estimate_rule_cost};
use serde_json::{Value, json};

const PROMISED: [&str; 2] = [
    "apiVersion: dmvpn.io/v1alpha1
kind: DmvpnNetwork
metadata: {name: branches}
spec:
  phase: Phase3
  overlay: [10.255.0.0/16, \"fd00:255::/64\"]
  hubs:
  - {name: hub1, priority: 0, overlayAddresses: [10.255.0.1], nbma: [{address: 192.0.2.2}]}
  - {name: dc2, priority: 1, overlayAddresses: [10.255.0.2], nbma: [{hostname: vpn2.example.net}]}
  addressing: {pools: [10.255.16.0/20]}
  tunnel: {key: 100}
  nhrp: {networkId: 100}
",
    "apiVersion: dmvpn.io/v1alpha1
kind: DmvpnSpoke
metadata: {name: west-lan}
spec:
  networkRef: {name: branches}
  placement: {type: Node, nodeName: west-1}
  subnets: [{cidr: 10.20.0.0/24}]
",
];

#[test]
fn the_committed_definitions_are_those_of_the_types() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/dmvpn/files/crds");
    for (name, text) in schema::files().unwrap() {
        let there = std::fs::read_to_string(dir.join(&name)).unwrap_or_default();
        assert!(there == text, "{name} is stale: cargo run -p crds --bin crdgen .");
    }
}

#[test]
fn the_promised_yaml_is_taken_as_it_is() {
    let network: Value = serde_saphyr::from_str(PROMISED[0]).unwrap();
    assert_eq!(schema::check("DmvpnNetwork", &network), Vec::new());
    let typed: DmvpnNetwork = serde_json::from_value(network).unwrap();
    assert_eq!(typed.spec.hubs[1].nbma[0].hostname.as_deref(), Some("vpn2.example.net"));
    let (tunnel, nhrp) = (&typed.spec.tunnel, &typed.spec.nhrp);
    assert_eq!((tunnel.mtu, tunnel.ttl, tunnel.key, nhrp.hold_time_seconds), (1400, 255, Some(100), 600));
    let again: DmvpnNetwork = serde_json::from_value(serde_json::to_value(&typed).unwrap()).unwrap();
    assert_eq!(again, typed);
    assert_eq!(schema::check("DmvpnNetwork", &serde_json::to_value(&typed).unwrap()), Vec::new());

    let spoke: Value = serde_saphyr::from_str(PROMISED[1]).unwrap();
    assert_eq!(schema::check("DmvpnSpoke", &spoke), Vec::new());
    let typed: DmvpnSpoke = serde_json::from_value(spoke).unwrap();
    let again: DmvpnSpoke = serde_json::from_value(serde_json::to_value(&typed).unwrap()).unwrap();
    assert_eq!(again, typed);
    assert_eq!(schema::check("DmvpnSpoke", &serde_json::to_value(&typed).unwrap()), Vec::new());
}

/// Every node of a schema, with its path.
fn nodes<'a>(node: &'a Value, path: String, out: &mut Vec<(String, &'a Value)>) {
    out.push((path.clone(), node));
    for (name, child) in node["properties"].as_object().into_iter().flatten() {
        nodes(child, format!("{path}.{name}"), out);
    }
    for child in ["items", "additionalProperties"] {
        if node[child].is_object() {
            nodes(&node[child], format!("{path}[]"), out);
        }
    }
}

#[test]
fn every_field_is_bounded_and_described() {
    for kind in schema::KINDS {
        let mut all = Vec::new();
        nodes(schema::open_api(kind).unwrap(), kind.to_owned(), &mut all);
        for (path, node) in all {
            match node["type"].as_str() {
                Some("string") => {
                    assert!(node["enum"].is_array() || node["maxLength"].is_u64(), "{path}: maxLength");
                }
                Some("integer") => {
                    let wide = node["format"] == "int64";
                    assert!(node["minimum"].is_i64() && (wide || node["maximum"].is_i64()), "{path}: bounds");
                    // kubectl warns about other formats
                    assert!(
                        node["format"].is_null() || wide || node["format"] == "int32",
                        "{path}: {}",
                        node["format"]
                    );
                }
                Some("array") => {
                    assert!(node["maxItems"].is_u64(), "{path}: maxItems");
                    assert!(node["x-kubernetes-list-type"].is_string(), "{path}: list type");
                }
                Some("object") => {
                    let map = node["additionalProperties"].is_object();
                    assert!(!map || node["maxProperties"].is_u64(), "{path}: maxProperties");
                }
                Some("boolean") => {}
                other => panic!("{path}: type {other:?}"),
            }
            for keyword in ["nullable", "oneOf", "$ref", "definitions", "const"] {
                assert!(node.get(keyword).is_none(), "{path}: {keyword}");
            }
            for value in node["enum"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                assert!(
                    value.starts_with(|c: char| c.is_ascii_uppercase()),
                    "{path}: {value} is not CamelCase"
                );
            }
            let last = path.rsplit('.').next().unwrap_or_default();
            let described = node["description"].is_string() || last.ends_with("[]") || !path.contains('.');
            assert!(described, "{path}: no description");
        }
    }
}

#[test]
fn a_new_object_is_in_progress_for_kstatus() {
    for kind in schema::KINDS {
        let status = &schema::open_api(kind).unwrap()["properties"]["status"];
        if kind == "DmvpnAddress" {
            // An allocation is what it is from the moment that it is there.
            assert!(status.is_null(), "{status}");
            continue;
        }
        assert_eq!(status["default"], json!({"observedGeneration": -1}), "{kind}");
        assert_eq!(status["properties"]["observedGeneration"]["minimum"], -1, "{kind}");
    }
}

#[test]
fn names_and_columns_are_those_of_the_documentation() {
    let of = |kind: &str| {
        let crd = schema::definitions().iter().find(|c| c["spec"]["names"]["kind"] == kind).unwrap();
        let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap();
        let columns: Vec<String> =
            columns.iter().map(|c| c["name"].as_str().unwrap().to_uppercase()).collect();
        assert_eq!(crd["spec"]["scope"], "Cluster");
        assert_eq!(crd["spec"]["names"]["categories"], json!(["dmvpn"]));
        (crd["spec"]["names"]["shortNames"][0].as_str().unwrap().to_owned(), columns.join(" "))
    };
    assert_eq!(of("DmvpnNetwork"), ("dnet".into(), "PHASE HUBS SPOKES READY AGE".into()));
    assert_eq!(of("DmvpnSpoke"), ("dspoke".into(), "NETWORK ADDRESS READY AGE".into()));
    assert_eq!(
        of("DmvpnEndpoint"),
        ("dep".into(), "NETWORK NODE ROLE TUNNEL-IP NBMA STATE PEERS READY AGE".into())
    );
    let endpoint = &schema::definitions()[2]["spec"]["versions"][0];
    assert_eq!(endpoint["selectableFields"], json!([{"jsonPath": ".spec.nodeName"}]));
}

fn rules<'a>(schema: &'a CompiledSchema, out: &mut Vec<(&'a str, &'a CompiledSchema)>) {
    assert!(!schema.has_errors(), "{:?}", schema.compilation_errors());
    out.extend(schema.validations.iter().flatten().map(|r| (r.rule.rule.as_str(), schema)));
    schema.properties.values().for_each(|s| rules(s, out));
    schema.items.iter().chain(&schema.additional_properties).for_each(|s| rules(s, out));
}

#[test]
fn every_rule_compiles_and_is_cheap() {
    let mut seen = BTreeSet::new();
    for kind in schema::KINDS {
        let compiled = compile_schema(schema::open_api(kind).unwrap());
        let mut all = Vec::new();
        rules(&compiled, &mut all);
        for (rule, schema) in all {
            let warnings = estimate_rule_cost(rule, schema);
            assert!(warnings.is_empty(), "{kind}: {rule}: {warnings:?}");
            seen.insert(rule.to_owned());
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
}

#[test]
fn every_pattern_has_a_cure() {
    for kind in schema::KINDS {
        let mut all = Vec::new();
        nodes(schema::open_api(kind).unwrap(), kind.to_owned(), &mut all);
        for (path, node) in all {
            if let Some(pattern) = node["pattern"].as_str() {
                assert!(crds::bounds::pattern_cure(pattern).is_some(), "{path}: {pattern}");
            }
        }
    }
}

#[test]
fn defaults_of_the_schema_are_those_of_the_types() {
    let network: Value = serde_saphyr::from_str(PROMISED[0]).unwrap();
    let typed: DmvpnNetwork = serde_json::from_value(network.clone()).unwrap();
    let defaulted = kube::core::cel::apply_defaults(schema::open_api("DmvpnNetwork").unwrap(), &network);
    let from_schema: DmvpnNetwork = serde_json::from_value(defaulted).unwrap();
    assert_eq!(from_schema.spec, typed.spec);
}
