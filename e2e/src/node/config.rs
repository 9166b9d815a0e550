//! The configuration files of one node.

use std::net::Ipv4Addr;
use std::path::Path;

use crate::images;

/// containerd, whose root folder `guest/node` fills. Plugins that have no use here would only be tried and logged.
pub(super) fn containerd(cni: &Path) -> String {
    format!(
        r#"version = 2
root = "/run/containerd-root"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.restart",
  "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.native",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#,
        pause = images::PAUSE,
        cni = cni.display()
    )
}

/// Pods that are not on the host's network: a bridge whose addresses are the node's share of the pod network.
pub(super) fn cni(pod_network: &str) -> String {
    format!(
        r#"{{
  "cniVersion": "1.0.0",
  "name": "lab",
  "plugins": [{{
    "type": "bridge", "bridge": "{BRIDGE}", "isGateway": true, "ipMasq": false,
    "ipam": {{
      "type": "host-local", "dataDir": "/run/cni",
      "ranges": [[{{"subnet": "{pod_network}"}}]],
      "routes": [{{"dst": "0.0.0.0/0"}}]
    }}
  }}]
}}
"#
    )
}

/// The bridge of those pods.
pub(super) const BRIDGE: &str = "cni0";

/// kubelet: who asks is authenticated by certificate or token, and the API server says what they may.
pub(super) fn kubelet(ca: &Path, certificate: &Path, key: &Path) -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {ca}}}
authorization: {{mode: Webhook}}
tlsCertFile: {certificate}
tlsPrivateKeyFile: {key}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failSwapOn: false
protectKernelDefaults: false
# Rules of the node's network are none of its business: there is no kube-proxy either.
makeIPTablesUtilChains: false
evictionHard: {{memory.available: 10Mi, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
localStorageCapacityIsolation: true
volumePluginDir: /run/kubelet/volumeplugins
# There is no name server.
resolvConf: ''
logging: {{verbosity: 1}}
",
        ca = ca.display(),
        certificate = certificate.display(),
        key = key.display()
    )
}

/// The object that kubelet finds when it registers: with labels that only an administrator may set, and with the
/// share of the pod network that the bridge hands out.
pub(super) fn object(name: &str, labels: &[(&str, &str)], pod_network: &str) -> String {
    let labels: serde_json::Map<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"podCIDR": pod_network, "podCIDRs": [pod_network]},
    })
    .to_string()
}

/// The bridge as the first pod would make it, and with a port that stays: so its carrier, its routes and its Ethernet
/// address do not come and go with pods.
pub(super) fn bridge(gateway: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = gateway.octets();
    vec![
        format!("link add {BRIDGE} address 02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x} type bridge"),
        format!("link set {BRIDGE} addrgenmode none up"),
        format!("address add {gateway}/24 broadcast + dev {BRIDGE}"),
        format!("link add {BRIDGE}-port type dummy"),
        format!("link set {BRIDGE}-port addrgenmode none master {BRIDGE} up"),
    ]
}
