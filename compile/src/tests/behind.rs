//! Nodes behind a gateway, and pods that are announced.

use crds::endpoint::Role;
use crds::spoke::TunnelSourceFrom;

use super::*;
use crate::Reached;

const ON_A: &str = "{type: Node, nodeName: a}";

/// `a` and `b` with InternalIPs and pod prefixes, in a network with a pool.
fn cluster(spokes: &str) -> Inputs {
    let yaml = network("branches", "  addressing: {pools: [10.255.16.0/20]}") + spokes;
    let mut inputs = inputs(&yaml, &["a", "b:role=worker", "c"]);
    for (i, node) in inputs.nodes.iter_mut().enumerate() {
        node.uid = Some(format!("uid-{}", node.name));
        node.internal_ips = vec![format!("192.168.0.{}", i + 1).parse().unwrap()];
        node.pod_cidrs = vec![format!("10.244.{}.0/24", i + 1).parse().unwrap()];
    }
    inputs
}

fn reached(prefixes: &[&str]) -> Reached {
    let prefixes = prefixes.iter().map(|it| it.parse().unwrap()).collect();
    Reached { network: "branches".into(), node: "a".into(), prefixes }
}

fn texts(list: &[crds::Cidr]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn subnets(compiled: &Compiled, endpoint: &str) -> Vec<String> {
    compiled.endpoint(endpoint).spec.subnets.iter().map(|it| it.cidr.to_string()).collect()
}

#[test]
fn a_gateway_announces_pods_and_leads_others_on() {
    let spoke =
        spoke_at("pods", ON_A, "  podCIDRPolicy: Announce\n  gatewayFor: {nodeSelector: {role: worker}}");
    let mut facts = cluster(&spoke);
    facts.reached = vec![reached(&[
        "10.9.0.0/25",
        "10.9.0.128/25",
        "0.0.0.0/0",
        "10.244.0.0/16",
        "192.168.0.0/24",
        "10.255.0.0/24",
        "10.20.0.0/24",
        "fd00:20::/64",
    ])];
    let compiled = compile(&facts);
    assert_eq!(compiled.all_faults(), Vec::<String>::new());
    assert_eq!(compiled.names(), ["branches-a", "branches-b"]);
    let gateway = &compiled.endpoint("branches-a").spec;
    assert!(gateway.tells_prefixes && gateway.gateway.is_none());
    assert_eq!(subnets(&compiled, "branches-a"), ["10.244.1.0/24", "10.244.2.0/24"], "of both nodes");
    assert!(gateway.subnets.iter().all(|it| it.advertise_as == Some(it.cidr)), "they keep their addresses");

    let behind = &compiled.endpoint("branches-b").spec;
    assert_eq!((behind.role, behind.node_uid.as_deref()), (Role::Behind, Some("uid-b")));
    assert!(behind.addresses.is_empty() && behind.nhs.is_empty() && behind.subnets.is_empty());
    let way = behind.gateway.as_ref().unwrap();
    assert_eq!((way.node_name.as_str(), way.owner.as_str()), ("a", "pods"));
    assert_eq!(way.addresses, ["192.168.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(
        texts(&way.prefixes),
        ["10.9.0.0/24", "10.20.0.0/24", "fd00:20::/64"],
        "joined, and none that would cut"
    );
    assert_eq!(texts(&way.pods), ["10.244.2.0/24"]);
    let told: Vec<_> = compiled.members.iter().map(|it| format!("{} {}", it.node, it.endpoint)).collect();
    assert_eq!(told, ["a branches-a", "b branches-b"]);
    for endpoint in &compiled.endpoints {
        assert_eq!(
            crds::schema::check("DmvpnEndpoint", &serde_json::to_value(endpoint).unwrap()),
            Vec::new()
        );
    }
}

#[test]
fn pods_as_a_part_of_a_mapped_subnet() {
    let more = "  podCIDRPolicy: Announce\n  gatewayFor: {}\n  subnets: [{cidr: 10.244.0.0/16, advertiseAs: 10.101.0.0/16}]";
    let compiled = compile(&cluster(&spoke_at("pods", ON_A, more)));
    assert_eq!(compiled.all_faults(), Vec::<String>::new());
    assert_eq!(compiled.names(), ["branches-a", "branches-b", "branches-c"], "no selector: every node");
    assert_eq!(subnets(&compiled, "branches-a"), ["10.244.0.0/16"]);
    let way = compiled.endpoint("branches-c").spec.gateway.clone().unwrap();
    assert_eq!(texts(&way.pods), ["10.244.3.0/24"], "they keep their addresses until the gateway maps them");
}

#[test]
fn every_node_announces_its_own() {
    let each =
        spoke_at("each", "{type: EveryNode, nodeSelector: {role: worker}}", "  podCIDRPolicy: Announce");
    let compiled = compile(&cluster(&each));
    assert_eq!(subnets(&compiled, "branches-b"), ["10.244.2.0/24"]);
    let mut two =
        cluster(&each.replace("{role: worker}", "{}").replace("nodeSelector: {}", "nodeSelector: {site: z}"));
    two.nodes.iter_mut().for_each(|it| drop(it.labels.insert("site".into(), "z".into())));
    let compiled = compile(&two);
    assert_eq!(subnets(&compiled, "branches-c"), ["10.244.3.0/24"]);
}

#[test]
fn what_cannot_be_is_told_and_stops_nothing_else() {
    let gateway = |name: &str, node: &str| {
        spoke_at(
            name,
            &format!("{{type: Node, nodeName: {node}}}"),
            "  gatewayFor: {nodeSelector: {role: worker}}",
        )
    };
    let compiled = compile(&cluster(&(gateway("one", "a") + &gateway("two", "c"))));
    assert_eq!(compiled.names(), ["branches-a", "branches-b", "branches-c"]);
    assert_eq!(compiled.endpoint("branches-b").spec.gateway.as_ref().unwrap().owner, "one");
    let fault = compiled.faults("DmvpnSpoke/two").join("\n");
    assert!(fault.contains("node b is behind the gateway of DmvpnSpoke/one already"), "{fault}");

    // A tunnel of its own is better.
    let own = gateway("one", "a") + &spoke_at("own", "{type: Node, nodeName: b}", "");
    let compiled = compile(&cluster(&own));
    assert_eq!(compiled.endpoint("branches-b").spec.role, Role::Spoke);
    assert_eq!(compiled.endpoint("branches-b").spec.tunnel.source.from, TunnelSourceFrom::DefaultRoute);

    // Pods that another one has announced, by name; the rest of the spoke goes on.
    let lan = spoke_at("a-lan", "{type: Node, nodeName: c}", "  subnets: [{cidr: 10.244.0.0/23}]");
    let pods =
        spoke_at("b-pods", ON_A, "  podCIDRPolicy: Announce\n  gatewayFor: {nodeSelector: {role: worker}}");
    let compiled = compile(&cluster(&(lan + &pods)));
    assert_eq!(subnets(&compiled, "branches-a"), ["10.244.2.0/24"]);
    let fault = compiled.faults("DmvpnSpoke/b-pods").join("\n");
    assert!(
        fault.contains("pods of node a: 10.244.1.0/24 overlaps 10.244.0.0/23 of DmvpnSpoke/a-lan"),
        "{fault}"
    );

    // Not yet allocated.
    let mut early = cluster(&pods);
    early.nodes[1].pod_cidrs.clear();
    let compiled = compile(&early);
    let fault = compiled.faults("DmvpnSpoke/b-pods").join("\n");
    assert!(fault.contains("PodCidrMissing spec.podCIDRPolicy: node b has no podCIDRs"), "{fault}");
    assert_eq!(subnets(&compiled, "branches-a"), ["10.244.1.0/24"]);

    // More than a node has routes for.
    let mut many = cluster(&pods);
    let list: Vec<_> = (0..600).map(|i| format!("10.{}.{}.0/24", 10 + i / 128, i % 128 * 2)).collect();
    many.reached = vec![reached(&list.iter().map(String::as_str).collect::<Vec<_>>())];
    let compiled = compile(&many);
    assert_eq!(compiled.endpoint("branches-b").spec.gateway.as_ref().unwrap().prefixes.len(), 512);
    let fault = compiled.faults("DmvpnSpoke/b-pods").join("\n");
    assert!(fault.contains("leads to 600 prefixes") && fault.contains("hubs[].advertise"), "{fault}");
}
