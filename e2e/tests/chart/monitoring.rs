//! What Prometheus is told: where to ask, what to alert on, and where it says what to do.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::helm::render;

const ALL: &str = "{networkPolicy: {enabled: true}, metrics: {enabled: true, podMonitor: {enabled: true, labels: {release: \
                   prometheus}, interval: 1m}, rules: {enabled: true, labels: {role: alerts}}}}";

/// What the operator tells; `e2e/tests/operator` holds it against a real one.
const METRICS: &str = include_str!("../metrics.txt");

#[test]
fn nothing_listens_unless_asked_for_and_prometheus_finds_what_does() {
    let container = |values: &str| {
        render(values).get("Deployment", "dmvpn-operator")["spec"]["template"]["spec"]["containers"][0]
            .clone()
    };
    let quiet = container("").to_string();
    assert!(!quiet.contains("metrics"), "{quiet}");
    let loud = container(ALL);
    assert!(loud["args"].to_string().contains("--metrics-listen=[::]:8080"), "{loud}");
    assert!(loud["ports"].to_string().contains("\"name\":\"metrics\""), "{loud}");
    let objects = render(ALL);
    // Agents have the node's network: they never listen.
    let agent = objects.get("DaemonSet", "dmvpn-agent").to_string();
    assert!(!agent.contains("containerPort") && !agent.contains("metrics"), "{agent}");
    let monitor = objects.get("PodMonitor", "dmvpn-operator");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let ask = json!([{"port": "metrics", "path": "/metrics", "interval": "1m"}]);
    assert_eq!(monitor["spec"]["podMetricsEndpoints"], ask);
    let pods = &objects.get("Deployment", "dmvpn-operator")["spec"]["selector"]["matchLabels"];
    assert_eq!(&monitor["spec"]["selector"]["matchLabels"], pods);
    let policy = &objects.get("NetworkPolicy", "dmvpn-operator")["spec"]["ingress"];
    let from =
        json!({"ports": [{"port": "metrics", "protocol": "TCP"}], "from": [{"namespaceSelector": {}}]});
    assert_eq!(policy[1], from);
}

#[test]
fn every_alert_asks_for_what_there_is_and_says_what_to_do() {
    let rule = render(ALL).get("PrometheusRule", "dmvpn-operator").clone();
    assert_eq!(rule["metadata"]["labels"]["role"], "alerts");
    let alerts = rule["spec"]["groups"][0]["rules"].as_array().expect("rules");
    let guide = fs::read_to_string(e2e::paths::repository().join("docs/alerts.md")).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut told = BTreeSet::new();
    for alert in alerts {
        let name = text(&alert["alert"]);
        assert!(guide.contains(&format!("\n## {name}\n")), "docs/alerts.md says nothing of {name}");
        let runbook = format!("docs/alerts.md#{}", name.to_lowercase());
        assert_eq!(text(&alert["annotations"]["runbook"]), runbook);
        assert!(
            !text(&alert["annotations"]["summary"]).is_empty() && !text(&alert["for"]).is_empty(),
            "{alert}"
        );
        assert!(["warning", "critical"].contains(&&*text(&alert["labels"]["severity"])), "{alert}");
        let expr = text(&alert["expr"]);
        let words = expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let metrics: Vec<&str> = words.filter(|word| word.starts_with("dmvpn_")).collect();
        assert!(!metrics.is_empty(), "{expr}");
        for metric in metrics {
            assert!(METRICS.lines().any(|it| it == metric), "{name} asks for {metric}, which nobody tells");
        }
        told.insert(name);
    }
    let chapters = guide.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned);
    assert_eq!(told, chapters.collect(), "a chapter without its alert");
}
