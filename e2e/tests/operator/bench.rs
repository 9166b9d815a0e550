//! What the tests stand on: the release, three nodes, operators as processes, and looks at the cluster.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::cluster::product::{NAMESPACE, healthy};
use e2e::cluster::{Program, Write};
use e2e::guest::processes;
use e2e::lab::Process;
use e2e::{Cluster, wait};
use serde_json::{Value, json};

use crate::SOON;

/// Label of the pods that stand for agents where a test wants some.
pub(crate) const AGENT: &str = "dmvpn.test/agent";
/// Where the first operator's metrics are, the second's behind it.
pub(crate) const METRICS: u16 = 9080;
const ACCOUNT: &str = "system:serviceaccount:dmvpn-system:dmvpn-operator";

/// A cluster with the release in it. Its own pods are run by nobody: operators run here, in their names.
pub(crate) struct Bench<'a> {
    pub(crate) cluster: &'a Cluster,
    deployment: Value,
    /// The pods whose tokens the operators have.
    pub(crate) pods: Vec<String>,
    running: RefCell<[Option<Process>; 2]>,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(cluster: &'a Cluster) -> Result<Self> {
        cluster.install_chart(&["--set", "operator.replicas=2,metrics.enabled=true"])?;
        cluster.register_node("hub", &[("dmvpn.io/hub", "hub1")])?;
        for node in ["branch-a", "branch-b"] {
            cluster.register_node(node, &[])?;
        }
        let pods = wait::until(SOON, "the operator's pods", || {
            let pods = cluster.pods_of("operator")?;
            wait::ensure(pods.len() == 2, || format!("{pods:?}"))?;
            Ok(pods.into_iter().map(|pod| pod.0).collect())
        })?;
        let deployment = cluster.kubectl_json(&["get", "deployment", "dmvpn-operator", "-n", NAMESPACE])?;
        Ok(Self { cluster, deployment, pods, running: RefCell::default() })
    }

    /// Starts operator 0 or 1, which looks at the pods of `selector` (empty: at none), and waits until it has seen all.
    pub(crate) fn start(&self, number: u16, selector: &str) -> Result<()> {
        let pod = self.pods.get(usize::from(number)).context("two pods")?;
        let token = self.cluster.pod_token("dmvpn-operator", pod, "")?;
        let process = Program::of(self.cluster, &format!("operator-{number}"), &self.deployment, &token)?
            .change("--secrets-listen", &format!("127.0.0.1:{}", 8443 + number))?
            .change("--health-listen", &format!("127.0.0.1:{}", 8081 + number))?
            .change("--metrics-listen", &format!("127.0.0.1:{}", METRICS + number))?
            .change("--agent-selector", selector)?
            .env("POD_NAME", pod)
            .env("RUST_LOG", "info,operator=debug")
            .start()?;
        self.running.borrow_mut()[usize::from(number)] = Some(process);
        wait::until(SOON, "an operator to be ready", || healthy(8081 + number, "/readyz"))
    }

    /// Ends operator 0 or 1 by `end`.
    pub(crate) fn end<T>(&self, number: usize, end: impl FnOnce(&mut Process) -> Result<T>) -> Result<T> {
        let process = self.running.borrow_mut()[number].take();
        end(&mut process.context("it runs")?)
    }

    /// Sends operator 0 or 1 a signal.
    pub(crate) fn signal(&self, number: usize, signal: &str) -> Result<()> {
        let running = self.running.borrow();
        processes::signal(running[number].as_ref().context("it runs")?.pid(), signal);
        Ok(())
    }

    /// Starts `dmvpn-operator drain` as the hook of the release does, with a token of no pod.
    pub(crate) fn drain(&self, seconds: u64) -> Result<Process> {
        let hooks = self.cluster.helm(&["get", "hooks", "dmvpn", "-n", NAMESPACE])?;
        let hooks: Value = serde_saphyr::from_str(&hooks)?;
        let token = self.cluster.token("dmvpn-operator", NAMESPACE, "", None)?;
        Program::of(self.cluster, &format!("drain-{seconds}"), &hooks, &token)?
            .change("--timeout-seconds", &seconds.to_string())?
            .start()
    }

    /// The objects of ours as they are now.
    pub(crate) fn see(&self) -> Result<Seen> {
        let kinds = "dmvpnnetworks,dmvpnspokes,dmvpnendpoints,dmvpnaddresses";
        let list = self.cluster.kubectl_json(&["get", kinds])?;
        Ok(Seen(list["items"].as_array().cloned().unwrap_or_default()))
    }

    /// Waits until what is seen is as `probe` wants it.
    pub(crate) fn eventually<T>(&self, what: &str, mut probe: impl FnMut(&Seen) -> Result<T>) -> Result<T> {
        wait::until(SOON, what, || probe(&self.see()?))
    }

    /// Waits for a condition, as `Status Reason message` begins.
    pub(crate) fn told(&self, object: &str, type_: &str, begin: &str) -> Result<String> {
        self.eventually(&format!("{type_} of {object}: {begin}"), |seen| {
            let condition = seen.condition(object, type_)?;
            wait::ensure(condition.starts_with(begin), || condition.clone())?;
            Ok(condition)
        })
    }

    /// What the agent of an endpoint would write of its present generation; `more` are more fields of the status.
    pub(crate) fn report(&self, endpoint: &str, state: &str, reason: &str, more: Value) -> Result<()> {
        let seen = self.see()?;
        let object = seen.get("DmvpnEndpoint", endpoint)?;
        let (generation, node) = (&object["metadata"]["generation"], &object["spec"]["nodeName"]);
        let mut status = more;
        status["state"] = json!(state);
        status["observedGeneration"] = generation.clone();
        let ready = if state == "Up" { "True" } else { "False" };
        status["conditions"] = json!([{
            "type": "Ready", "status": ready, "reason": reason, "message": "", "observedGeneration": generation,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]);
        let body = json!({"apiVersion": "dmvpn.io/v1alpha1", "kind": "DmvpnEndpoint",
            "metadata": {"name": endpoint}, "status": status});
        let manager = format!("--field-manager=dmvpn-agent/{}", node.as_str().context("a node")?);
        let words =
            ["apply", "--server-side", "--force-conflicts", "--subresource=status", &manager, "-f", "-"];
        self.cluster.kubectl_with_input(&words, &body.to_string()).map(drop)
    }

    /// The agent has taken away what it was asked to.
    pub(crate) fn report_absent(&self, endpoint: &str) -> Result<()> {
        self.eventually(&format!("{endpoint} to be asked to be Absent"), |seen| {
            let desired = seen.get("DmvpnEndpoint", endpoint)?["spec"]["desired"].clone();
            wait::ensure(desired == "Absent", || desired.to_string())
        })?;
        self.report(endpoint, "Absent", "Removed", json!({}))
    }

    pub(crate) fn patch(&self, object: &str, change: &Value) -> Result<()> {
        self.cluster.kubectl(&["patch", object, "--type=merge", "-p", &change.to_string()]).map(drop)
    }

    /// Another value in an enumeration of a kind's schema: as a newer version of the API would have it.
    pub(crate) fn widen(&self, kind: &str, field: &str, value: &str) -> Result<()> {
        let path =
            format!("/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/{field}/enum/-");
        let change = json!([{"op": "add", "path": path, "value": value}]).to_string();
        self.cluster.kubectl(&["patch", "crd", kind, "--type=json", "-p", &change]).map(drop)
    }

    /// How many writes there have been, for [`Self::writes_since`].
    pub(crate) fn mark(&self) -> Result<usize> {
        Ok(self.cluster.writes()?.len())
    }

    /// What operators and drains wrote since a mark.
    pub(crate) fn writes_since(&self, mark: usize) -> Result<Vec<Write>> {
        let all = self.cluster.writes()?.into_iter().skip(mark);
        Ok(all.filter(|write| write.user == ACCOUNT).collect())
    }

    /// Lets time pass in which operators write nothing but their Lease.
    pub(crate) fn quiet_for(&self, time: Duration) -> Result<()> {
        self.quiet_about("", time)
    }

    /// Lets time pass in which operators do not write to objects of a kind (in plural; empty: to none, the Lease apart).
    pub(crate) fn quiet_about(&self, resource: &str, time: Duration) -> Result<()> {
        let (mark, start) = (self.mark()?, Instant::now());
        wait::until(time + SOON, "time to pass", || {
            let (leases, others): (Vec<_>, Vec<_>) =
                self.writes_since(mark)?.into_iter().partition(|w| w.resource == "leases");
            if others.iter().any(|w| w.resource.starts_with(resource)) {
                return Ok(Err(others));
            }
            // It lives.
            let renewals = u64::try_from(leases.len())?;
            wait::ensure(start.elapsed() >= time && renewals >= time.as_secs() / 3, || {
                format!("{leases:?}")
            })?;
            Ok(Ok(()))
        })?
        .or_else(|writes| bail!("written though nothing changed: {writes:?}"))
    }

    /// Events about an object (`Kind/name`): reason, note and how often.
    pub(crate) fn events(&self, object: &str) -> Result<Vec<(String, String, i64)>> {
        let list = self.cluster.kubectl_json(&["get", "events.events.k8s.io", "-A"])?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let events = list["items"].as_array().context("items")?.iter();
        let events = events.filter(|event| {
            let about = &event["regarding"];
            format!("{}/{}", text(&about["kind"]), text(&about["name"])) == object
        });
        Ok(events
            .map(|e| (text(&e["reason"]), text(&e["note"]), e["series"]["count"].as_i64().unwrap_or(1)))
            .collect())
    }

    /// A pod that stands for the agent of a node, Ready.
    pub(crate) fn agent_pod(&self, node: &str) -> Result<()> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("test-{node}"), "namespace": NAMESPACE, "labels": {AGENT: "yes"}},
            "spec": {"nodeName": node, "containers": [{"name": "a", "image": "a"}]}});
        self.cluster.apply(&pod.to_string())?;
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}).to_string();
        let name = format!("test-{node}");
        let words =
            ["patch", "pod", &name, "-n", NAMESPACE, "--subresource=status", "--type=merge", "-p", &ready];
        self.cluster.kubectl(&words).map(drop)
    }
}

/// Objects of ours at one moment.
pub(crate) struct Seen(Vec<Value>);

impl Seen {
    pub(crate) fn get(&self, kind: &str, name: &str) -> Result<&Value> {
        let found = self.0.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
        found.with_context(|| format!("no {kind}/{name} among {:?}", self.all()))
    }

    pub(crate) fn names(&self, kind: &str) -> Vec<&str> {
        let of_kind = self.0.iter().filter(|o| o["kind"] == kind);
        of_kind.filter_map(|o| o["metadata"]["name"].as_str()).collect()
    }

    /// `Kind/name` of all.
    pub(crate) fn all(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        self.0.iter().map(|o| format!("{}/{}", text(&o["kind"]), text(&o["metadata"]["name"]))).collect()
    }

    /// A condition as `Status Reason message`; empty if there is none.
    pub(crate) fn condition(&self, object: &str, type_: &str) -> Result<String> {
        let (kind, name) = object.split_once('/').context("Kind/name")?;
        let list = self.get(kind, name)?["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let found = list.iter().find(|c| c["type"] == type_);
        Ok(found
            .map(|c| format!("{} {} {}", text(&c["status"]), text(&c["reason"]), text(&c["message"])))
            .unwrap_or_default())
    }

    /// What tools take an object for that know nothing but kstatus's rules.
    pub(crate) fn kstatus(&self, object: &str) -> Result<&'static str> {
        let (kind, name) = object.split_once('/').context("Kind/name")?;
        let it = self.get(kind, name)?;
        let holds = |type_: &str, status: &str| {
            Ok::<_, anyhow::Error>(self.condition(object, type_)?.starts_with(status))
        };
        let observed = &it["status"]["observedGeneration"];
        Ok(if !it["metadata"]["deletionTimestamp"].is_null() {
            "Terminating"
        } else if !observed.is_null() && *observed != it["metadata"]["generation"] {
            "InProgress"
        } else if holds("Stalled", "True")? {
            "Failed"
        } else if holds("Reconciling", "True")? || holds("Ready", "False")? || holds("Ready", "Unknown")? {
            "InProgress"
        } else {
            "Current"
        })
    }

    /// The endpoint is there, wanted, and not on its way out.
    pub(crate) fn present(&self, endpoint: &str) -> Result<&Value> {
        let it = self.get("DmvpnEndpoint", endpoint)?;
        ensure!(it["spec"]["desired"] == "Present", "{it}");
        ensure!(it["metadata"]["deletionTimestamp"].is_null(), "{it}");
        Ok(it)
    }
}
