//! `/metrics` for Prometheus, where `--metrics-listen` asks for it: how the operator gets on, and how networks, spokes and
//! endpoints stand by what the API says. Every replica answers; labels are names of networks, states and watches, whose
//! number is bounded. Nothing of it is secret.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use crds::{ConditionType, DmvpnEndpoint, conditions};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::lease::Leadership;
use crate::progress::Progress;
use crate::watch::Stores;

/// The text format of Prometheus.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Starts the server.
///
/// # Errors
/// When it cannot listen.
pub async fn serve(
    listen: SocketAddr,
    stores: Stores,
    progress: Arc<Progress>,
    leadership: Leadership,
) -> anyhow::Result<JoinHandle<()>> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}: use another --metrics-listen"))?;
    let answer =
        move || async move { ([(CONTENT_TYPE, FORMAT)], text(&stores, &progress, leadership.may_write())) };
    let app = Router::new().route("/metrics", get(answer));
    Ok(tokio::spawn(async move {
        // Ends with the process.
        let _ = axum::serve(listener, app).await;
    }))
}

/// All metrics.
fn text(stores: &Stores, progress: &Progress, leading: bool) -> String {
    let mut page = Page::default();
    page.one("dmvpn_operator_info", "gauge", "Version.", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    let help = "1: this replica holds the Lease and writes.";
    page.one("dmvpn_operator_leading", "gauge", help, &[], f64::from(u8::from(leading)));
    progress.tell(&mut page);
    let mut endpoints: BTreeMap<[String; 3], f64> = BTreeMap::new();
    for endpoint in stores.endpoints().iter().filter_map(|it| it.0.as_ref().ok()) {
        let (state, ready) = standing(endpoint);
        *endpoints.entry([endpoint.spec.network.clone(), state, ready]).or_default() += 1.0;
    }
    let help = "Endpoints by network, state (INTF, IKE, IPsec, NHRP, Up, AdminDown, Absent, Unknown) and condition Ready.";
    page.family("dmvpn_endpoints", "gauge", help);
    for ([network, state, ready], count) in endpoints {
        page.line("dmvpn_endpoints", &[("network", &network), ("state", &state), ("ready", &ready)], count);
    }
    let mut spokes: BTreeMap<[String; 2], f64> = BTreeMap::new();
    for spoke in stores.spokes().iter().filter_map(|it| it.0.as_ref().ok()) {
        let list = spoke.status.as_ref().map_or(&[][..], |it| &it.conditions);
        let network = spoke.spec.network_ref.name.clone();
        *spokes.entry([network, status(list, ConditionType::Ready)]).or_default() += 1.0;
    }
    page.family("dmvpn_spokes", "gauge", "Spokes by network and condition Ready.");
    for ([network, ready], count) in spokes {
        page.line("dmvpn_spokes", &[("network", &network), ("ready", &ready)], count);
    }
    let help = "Conditions of networks: 1 for the status that each has.";
    page.family("dmvpn_network_condition", "gauge", help);
    for network in stores.networks().iter().filter_map(|it| it.0.as_ref().ok()) {
        let list = network.status.as_ref().map_or(&[][..], |it| &it.conditions);
        for it in list {
            let labels = [
                ("network", &*network.name_any()),
                ("condition", &*it.type_),
                ("status", &*it.status),
                ("reason", &*it.reason),
            ];
            page.line("dmvpn_network_condition", &labels, 1.0);
        }
    }
    let mut addresses: BTreeMap<String, f64> = BTreeMap::new();
    for address in stores.addresses().iter().filter_map(|it| it.0.as_ref().ok()) {
        *addresses.entry(address.spec.network.clone()).or_default() += 1.0;
    }
    page.family("dmvpn_addresses_allocated", "gauge", "Overlay addresses that are allocated.");
    for (network, count) in addresses {
        page.line("dmvpn_addresses_allocated", &[("network", &network)], count);
    }
    page.0
}

/// State and condition Ready of an endpoint.
fn standing(endpoint: &DmvpnEndpoint) -> (String, String) {
    let Some(it) = &endpoint.status else { return (crds::STATE_UNKNOWN.to_owned(), "Unknown".to_owned()) };
    let state = it.state.clone().unwrap_or_else(|| crds::STATE_UNKNOWN.to_owned());
    (state, status(&it.conditions, ConditionType::Ready))
}

fn status(list: &[Condition], type_: ConditionType) -> String {
    conditions::find(list, type_).map_or_else(|| "Unknown".to_owned(), |it| it.status.clone())
}

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// Begins a metric with its help and type.
    pub fn family(&mut self, name: &str, type_: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {type_}");
    }

    /// A metric with one value.
    pub fn one(&mut self, name: &str, type_: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.family(name, type_, help);
        self.line(name, labels, value);
    }

    /// One value.
    pub fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if i == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_prometheus_reads_them() {
        let mut page = Page::default();
        page.one("a_total", "counter", "What.", &[("x", "a\"b\\c\nd"), ("y", "")], 3.0);
        page.line("b", &[], 0.25);
        let want =
            "# HELP a_total What.\n# TYPE a_total counter\na_total{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 3\nb 0.25\n";
        assert_eq!(page.0, want);
    }
}
