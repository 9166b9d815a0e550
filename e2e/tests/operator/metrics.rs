//! What the operator tells Prometheus.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use e2e::cluster::product;

use crate::bench::{Bench, METRICS};

/// Labels whose values are names of objects of ours, states or kinds: never a peer or a path.
const LABELS: [&str; 9] =
    ["network", "state", "ready", "condition", "status", "reason", "kind", "result", "watch"];

pub(crate) fn tell_what_the_api_says(_: &Bench<'_>) -> Result<()> {
    let page = product::get(METRICS, "/metrics")?;
    let (mut types, mut values) = (BTreeMap::new(), BTreeMap::new());
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, type_) = rest.split_once(' ').context("name and type")?;
            ensure!(types.insert(name, type_).is_none(), "{name} twice");
            ensure!(page.contains(&format!("# HELP {name} ")), "{name} has no help");
        } else if !line.starts_with('#') {
            let (what, value) = line.rsplit_once(' ').with_context(|| format!("no value: {line}"))?;
            let name = what.split('{').next().unwrap_or_default();
            let family =
                ["_sum", "_count"].iter().fold(name, |name, end| name.strip_suffix(end).unwrap_or(name));
            ensure!(types.contains_key(family), "{name} has no type");
            for (i, part) in what.split(['{', ',']).enumerate().filter(|(i, _)| *i > 0) {
                let label = part.split('=').next().unwrap_or_default();
                ensure!(LABELS.contains(&label) || label == "version", "label {i} of {line}");
            }
            values.insert(what, value.parse::<f64>().with_context(|| line.to_owned())?);
        }
    }
    let told: BTreeSet<&str> = types.keys().copied().collect();
    let known: BTreeSet<&str> = include_str!("../metrics.txt").lines().collect();
    ensure!(told == known, "e2e/tests/metrics.txt differs from {told:?}");
    for (name, type_) in &types {
        ensure!(name.ends_with("_total") == (*type_ == "counter"), "{name} is a {type_}");
    }
    for (what, want) in [
        ("dmvpn_endpoints{network=\"branches\",state=\"Up\",ready=\"True\"}", 3.0),
        ("dmvpn_spokes{network=\"branches\",ready=\"True\"}", 4.0),
        ("dmvpn_operator_leading", 1.0),
        ("dmvpn_operator_watch_failing{watch=\"spokes\"}", 0.0),
        (
            "dmvpn_network_condition{network=\"branches\",condition=\"Ready\",status=\"True\",reason=\"Up\"}",
            1.0,
        ),
    ] {
        let value = values.get(what).with_context(|| format!("no {what} in\n{page}"))?;
        ensure!((value - want).abs() < 0.5, "{what} is {value}, not {want}");
    }
    ensure!(
        values
            .get("dmvpn_operator_writes_total{kind=\"DmvpnEndpoint\",result=\"ok\"}")
            .is_some_and(|it| *it >= 3.0)
    );
    Ok(())
}
