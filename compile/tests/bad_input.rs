//! Bad values for every leaf of the four schemas: each is refused with object, field, value and cure.
//!
//! The leaves are found by walking the generated schemas, so that a new field is tested without a line here;
//! a field that no specimen has fails the test. Each bad value is put into a specimen that is valid
//! otherwise, written as YAML and read back as a box does it.

use compile::manifest::{self, Problem};
use compile::{Inputs, compile};
use crds::schema;
use serde_json::{Value, json};

const SPECIMENS: [(&str, &str); 4] = [
    ("DmvpnNetwork", include_str!("specimens/network.yaml")),
    ("DmvpnSpoke", include_str!("specimens/spoke.yaml")),
    ("DmvpnEndpoint", include_str!("specimens/endpoint.yaml")),
    ("DmvpnAddress", include_str!("specimens/address.yaml")),
];

/// Words by which a message tells what to do.
const CURES: [&str; 12] = [
    "must be",
    "did you mean",
    "use ",
    "add it",
    "give ",
    "remove ",
    "shorten",
    "at most",
    "at least",
    "put it into",
    "must not be empty",
    "write ",
];

#[test]
fn a_bad_value_for_every_leaf_is_refused() {
    let (mut leaves, mut values) = (0, 0);
    for (kind, text) in SPECIMENS {
        let specimens: Vec<Value> =
            text.split("\n---\n").map(|t| serde_saphyr::from_str(t).unwrap()).collect();
        for specimen in &specimens {
            assert_eq!(refusals(kind, specimen), Vec::new(), "a specimen is valid");
        }
        let mut paths = Vec::new();
        walk(schema::open_api(kind).unwrap(), &mut Vec::new(), &mut paths);
        let (mut leaves_here, mut values_here) = (0, 0);
        for (path, node) in paths {
            let Some(specimen) = specimens.iter().find(|s| at(s, &path).is_some()) else {
                panic!(
                    "{kind}: no specimen has {}: add it to compile/tests/specimens",
                    show(&path, &specimens[0])
                );
            };
            leaves_here += 1;
            for bad in bad_values(node) {
                values_here += 1;
                let mut object = specimen.clone();
                *at_mut(&mut object, &path) = bad.clone();
                check(kind, &object, &show(&path, specimen), Some(&bad));
            }
        }
        println!("{kind}: {leaves_here} leaves, {values_here} bad values, all refused");
        (leaves, values) = (leaves + leaves_here, values + values_here);
    }
    println!("bad input: {leaves} leaves of 4 schemas, {values} bad values, none accepted");
    assert!(leaves > 200 && values > 500, "{leaves} leaves, {values} values: the walk misses most of them");
}

#[test]
fn a_label_that_no_node_can_have_is_refused() {
    let specimens = |kind: usize| -> Vec<Value> {
        SPECIMENS[kind].1.split("\n---\n").map(|t| serde_saphyr::from_str(t).unwrap()).collect()
    };
    let mut spoke = specimens(1)[1].clone();
    spoke["spec"]["placement"]["nodeSelector"] = json!({"bad key!": "x"});
    check("DmvpnSpoke", &spoke, "spec.placement.nodeSelector", None);
    let mut network = specimens(0)[2].clone();
    network["spec"]["hubs"] = json!([
        {"name": "h", "overlayAddresses": ["10.253.0.1"], "nbma": [{"address": "192.0.2.2"}], "nodeSelector": {"-": "x"}},
    ]);
    check("DmvpnNetwork", &network, "spec.hubs[0].nodeSelector", None);
}

#[test]
fn what_is_required_is_missed_and_what_is_unknown_is_named() {
    let mut count = 0;
    for (kind, text) in SPECIMENS {
        let specimens: Vec<Value> =
            text.split("\n---\n").map(|t| serde_saphyr::from_str(t).unwrap()).collect();
        let mut objects = Vec::new();
        walk_objects(schema::open_api(kind).unwrap(), &mut Vec::new(), &mut objects);
        for (path, node) in objects {
            let Some(specimen) = specimens.iter().find(|s| at(s, &path).is_some()) else { continue };
            let place = show(&path, specimen);
            let join =
                |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
            for name in node["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                let mut object = specimen.clone();
                at_mut(&mut object, &path).as_object_mut().unwrap().remove(name);
                check(kind, &object, &join(name), None);
                count += 1;
            }
            if node["properties"].is_object() {
                let mut object = specimen.clone();
                at_mut(&mut object, &path)["bogusField"] = json!(7);
                check(kind, &object, &join("bogusField"), Some(&json!(7)));
                count += 1;
            }
            if !path.is_empty() {
                let mut object = specimen.clone();
                *at_mut(&mut object, &path) = json!("text");
                check(kind, &object, &place, Some(&json!("text")));
                count += 1;
            }
        }
    }
    println!("bad input: {count} missing, unknown or misshapen fields, all refused");
    assert!(count > 100, "{count}");
}

#[test]
fn a_value_that_is_right_alone_and_wrong_beside_others_is_refused() {
    let specimens: Vec<Value> =
        SPECIMENS[0].1.split("\n---\n").map(|t| serde_saphyr::from_str(t).unwrap()).collect();
    for (pointer, value, field) in [
        ("/spec/nhrp/holdTimeSeconds", json!(599), "spec.nhrp.holdTimeSeconds"),
        ("/spec/hubs/0/cluster", json!("nowhere"), "spec.hubs"),
        ("/spec/hubs/0/registersTo/0", json!("hub1"), "spec.hubs"),
        ("/spec/hubs/0/nbma/0/hostname", json!("a.example.net"), "spec.hubs[0].nbma[0].address"),
        ("/spec/hubs/1/name", json!("hub1"), "spec.hubs[1].name"),
        ("/spec/nhrp/mode", json!("Disabled"), "spec.phase"),
        ("/spec/tunnel/keepalive", json!({}), "spec.tunnel.keepalive"),
        ("/spec/ipsec/mode", json!("Disabled"), "spec.registration.policy"),
        ("/spec/access/rules/0/protocol", json!("ICMP"), "spec.access.rules[0].protocol"),
        ("/spec/access/rules/0/ports/0/endPort", json!(79), "spec.access.rules[0].ports[0].endPort"),
        ("/spec/hubs/0/overlayAddresses/1", json!("10.255.0.9"), "spec.hubs[0].overlayAddresses"),
    ] {
        let mut object = specimens[0].clone();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        match object.pointer_mut(parent).unwrap() {
            Value::Array(list) => list[name.parse::<usize>().unwrap()] = value.clone(),
            parent => parent[name] = value.clone(),
        }
        let refused = refusals("DmvpnNetwork", &object);
        assert!(refused.iter().any(|p| p.field == field && !p.message.is_empty()), "{pointer}: {refused:?}");
    }
}

/// A step of a path through a schema.
#[derive(Clone, Debug)]
enum Step {
    Field(String),
    /// The first item.
    Item,
    /// The first key of a map.
    Key,
}

type Leaves<'a> = Vec<(Vec<Step>, &'a Value)>;

fn walk<'a>(node: &'a Value, path: &mut Vec<Step>, leaves: &mut Leaves<'a>) {
    let mut down = |step: Step, node: &'a Value| {
        path.push(step);
        walk(node, path, leaves);
        path.pop();
    };
    match node["type"].as_str() {
        Some("object") => {
            for (name, node) in node["properties"].as_object().into_iter().flatten() {
                down(Step::Field(name.clone()), node);
            }
            if node["additionalProperties"].is_object() {
                down(Step::Key, &node["additionalProperties"]);
            }
        }
        Some("array") => {
            down(Step::Item, &node["items"]);
            // a list is a leaf too: it may be too long
            leaves.push((path.clone(), node));
        }
        _ => leaves.push((path.clone(), node)),
    }
}

fn walk_objects<'a>(node: &'a Value, path: &mut Vec<Step>, objects: &mut Leaves<'a>) {
    match node["type"].as_str() {
        Some("object") => {
            objects.push((path.clone(), node));
            for (name, node) in node["properties"].as_object().into_iter().flatten() {
                path.push(Step::Field(name.clone()));
                walk_objects(node, path, objects);
                path.pop();
            }
        }
        Some("array") => {
            path.push(Step::Item);
            walk_objects(&node["items"], path, objects);
            path.pop();
        }
        _ => {}
    }
}

/// Values that no leaf of this schema may accept.
fn bad_values(node: &Value) -> Vec<Value> {
    let mut bad = Vec::new();
    match node["type"].as_str() {
        Some("string") => {
            bad.extend([json!(7), json!(true), json!(["x"])]);
            if let Some(first) = node["enum"][0].as_str() {
                bad.extend([json!("Nonsense"), json!(first.to_lowercase()), json!("")]);
                bad.retain(|b| *b != json!(first));
                return bad;
            }
            let max = node["maxLength"].as_u64().expect("every text is bounded") as usize;
            bad.push(json!("a".repeat(max + 1)));
            if node["minLength"].as_u64().is_some_and(|min| min > 0) {
                bad.push(json!(""));
            }
            if node["pattern"].is_string() {
                bad.extend([json!("bad\nvalue"), json!("-!-")]);
                // what a free text such as an identity may be is not bad
                bad.retain(|b| b != "-!-" || !crds::bounds::IDENTITY.eq(node["pattern"].as_str().unwrap()));
            }
            let rules = node["x-kubernetes-validations"].to_string();
            let formats = node.to_string();
            if rules.contains("isCIDR") || node["format"] == "cidr" {
                bad.extend(
                    ["10.20.0.5/24", "10.20.0.0/33", "10.20.0/24", "fd00::1/64", "::ffff:10.0.0.0/104"]
                        .map(Value::from),
                );
            }
            if rules.contains("isIP(self)") || formats.contains("ipv4") {
                bad.extend(
                    ["10.0.0.256", "10.0.0.1/24", "fe80::1%eth0", "::ffff:10.0.0.1", "host"].map(Value::from),
                );
            }
            if node["format"] == "date-time" {
                bad.push(json!("yesterday"));
            }
        }
        Some("integer") => {
            bad.extend([json!("seven"), json!(1.5), json!([1])]);
            bad.push(json!(node["minimum"].as_i64().expect("every number is bounded") - 1));
            match node["maximum"].as_i64() {
                Some(max) => bad.push(json!(max + 1)),
                None => assert_eq!(node["format"], "int64", "every number is bounded: {node}"),
            }
        }
        Some("boolean") => bad.extend([json!("yes"), json!(1)]),
        Some("array") => {
            bad.extend([json!("x"), json!({"a": 1})]);
            let max = node["maxItems"].as_u64().expect("every list is bounded") as usize;
            bad.push(Value::Array(vec![json!("x"); max + 1]));
        }
        other => panic!("a leaf of type {other:?}: {node}"),
    }
    bad
}

/// Asserts that an object is refused with its name, the field, the value and a cure.
fn check(kind: &str, object: &Value, field: &str, value: Option<&Value>) {
    let refused = refusals(kind, object);
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let named = object["kind"].as_str().unwrap_or_default();
    let found = refused.iter().find(|p| p.field == field);
    let Some(problem) = found else {
        panic!("{kind}/{name}: {field} = {value:?} is not refused; what is: {refused:?}");
    };
    assert!(named.is_empty() || problem.object == format!("{named}/{name}"), "{problem:?}");
    if let Some(value) = value {
        assert_eq!(problem.value, schema::show(value), "{problem:?}");
    }
    assert!(CURES.iter().any(|cure| problem.message.contains(cure)), "no cure: {problem:?}");
}

/// What is said against an object: by reading it as a box does, or by the compile.
fn refusals(kind: &str, object: &Value) -> Vec<Problem> {
    // what the operator writes is no matter of a manifest: the schema alone keeps it right
    if ["DmvpnEndpoint", "DmvpnAddress"].contains(&kind) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let named = object["kind"].as_str().unwrap_or_default();
        let errors = schema::check(kind, object).into_iter();
        return errors
            .map(|e| Problem {
                object: format!("{named}/{name}"),
                field: e.field,
                value: e.value,
                message: e.message,
                ..Problem::default()
            })
            .collect();
    }
    let yaml = serde_saphyr::to_string(object).unwrap();
    let mut inputs = Inputs::default();
    let mut problems = Vec::new();
    for read in manifest::parse(&yaml, "specimen.yaml") {
        match read {
            Ok(manifest::Object::Network(network)) => inputs.networks.push(*network),
            Ok(manifest::Object::Spoke(spoke)) => inputs.spokes.push(*spoke),
            Ok(other) => panic!("{other:?}"),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        // what asks for a later version is no matter of its form, and the network of a lone spoke is not
        // there
        let compiled = compile(&inputs);
        let told = compiled.conditions.iter().flat_map(|c| c.problems().map(move |p| (c, p)));
        for (object, finding) in told.filter(|(_, f)| f.reason == crds::Reason::Invalid) {
            problems.push(Problem {
                object: format!("{}/{}", object.kind, object.name),
                field: finding.field.clone(),
                message: finding.message.clone(),
                ..Problem::default()
            });
        }
    }
    problems
}

fn at<'a>(object: &'a Value, path: &[Step]) -> Option<&'a Value> {
    path.iter().try_fold(object, |here, step| match step {
        Step::Field(name) => here.get(name),
        Step::Item => here.get(0),
        Step::Key => here.as_object()?.values().next(),
    })
}

fn at_mut<'a>(object: &'a mut Value, path: &[Step]) -> &'a mut Value {
    path.iter().fold(object, |here, step| match step {
        Step::Field(name) => &mut here[name.as_str()],
        Step::Item => &mut here[0],
        Step::Key => here.as_object_mut().unwrap().values_mut().next().unwrap(),
    })
}

/// The path as messages write it.
fn show(path: &[Step], specimen: &Value) -> String {
    let mut text = String::new();
    let mut here = Some(specimen);
    for step in path {
        let name = match step {
            Step::Field(name) => name.clone(),
            Step::Key => here.and_then(|h| h.as_object()?.keys().next().cloned()).unwrap_or_default(),
            Step::Item => {
                text.push_str("[0]");
                here = here.and_then(|h| h.get(0));
                continue;
            }
        };
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(&name);
        here = here.and_then(|h| h.get(&name));
    }
    text
}
