//! Command lines of the control plane's programs.

use std::{net::Ipv4Addr, path::Path};

use super::Cluster;
use crate::{azure::LOCATIONS, dir::Dir};

/// Address of the service `kubernetes`.
pub const API_SERVICE_IP: &str = "172.16.0.1";

/// What the API server calls its own address. Nobody dials it; network policies see it.
pub const API_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Who wrote what: every write with its user and its answer's code, no bodies (they hold Secrets).
pub const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  verbs: [get, list, watch]
- level: Metadata
";

/// Sends the API server's own connections into the cluster through our proxy.
pub fn egress(socket: &Path) -> String {
    format!(
        "\
apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection:
    proxyProtocol: HTTPConnect
    transport:
      uds:
        udsName: {}
",
        socket.display()
    )
}

/// Controllers that the sandbox's stories need. Without the protection controllers namespaces never go.
const CONTROLLERS: [&str; 21] = [
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "disruption-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "persistentvolume-binder-controller",
    "persistentvolume-protection-controller",
    "persistentvolumeclaim-protection-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "statefulset-controller",
    "taint-eviction-controller",
    "ttl-after-finished-controller",
    "validatingadmissionpolicy-status-controller",
];

/// Patterns of the names that AKS gives API servers.
pub(super) fn public_names() -> Vec<String> {
    LOCATIONS.map(|location| format!("*.hcp.{location}.azmk8s.io")).to_vec()
}

/// Nothing of it is kept for long, so it does not wait for the disk.
pub(super) fn etcd(cluster: &Cluster, url: &str, peer: u16) -> Vec<String> {
    let peer = format!("http://127.0.0.1:{peer}");
    vec![
        format!("--data-dir={}", cluster.folder.join("etcd").display()),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
        "--auto-compaction-retention=5m".to_owned(),
    ]
}

pub(super) fn api_server(cluster: &Cluster, dir: &Dir, etcd: &str, entra: bool) -> Vec<String> {
    let file = |name: &str| cluster.folder.join(name).display().to_string();
    let mut flags = vec![
        format!("--etcd-servers={etcd}"),
        format!("--etcd-prefix=/{}", cluster.name),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--advertise-address={API_ADDRESS}"),
        format!("--secure-port={}", cluster.port),
        format!("--tls-cert-file={}", file("apiserver.crt")),
        format!("--tls-private-key-file={}", file("apiserver.key")),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--kubelet-certificate-authority={}", file("ca.crt")),
        format!("--kubelet-client-certificate={}", file("kubelet-client.crt")),
        format!("--kubelet-client-key={}", file("kubelet-client.key")),
        "--kubelet-preferred-address-types=Hostname".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        format!("--service-account-issuer={}", cluster.issuer()),
        format!("--service-account-key-file={}", file("sa.pub")),
        format!("--service-account-signing-key-file={}", file("sa.key")),
        "--service-cluster-ip-range=172.16.0.0/16".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--egress-selector-config-file={}", file("egress.yaml")),
        format!("--audit-policy-file={}", file("audit-policy.yaml")),
        format!("--audit-log-path={}", dir.log(&format!("{}-audit", cluster.name)).display()),
        "--profiling=false".to_owned(),
        format!(
            "--tls-sni-cert-key={},{}:{}",
            file("public.crt"),
            file("public.key"),
            public_names().join(",")
        ),
    ];
    if entra {
        flags.push(format!("--authentication-config={}", file("authentication.json")));
    }
    flags
}

pub(super) fn controller_manager(cluster: &Cluster) -> Vec<String> {
    let file = |name: &str| cluster.folder.join(name).display().to_string();
    vec![
        format!("--kubeconfig={}", file("controller-manager.kubeconfig")),
        format!("--controllers={}", CONTROLLERS.join(",")),
        "--use-service-account-credentials=true".to_owned(),
        format!("--root-ca-file={}", file("ca.crt")),
        format!("--service-account-private-key-file={}", file("sa.key")),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=400".to_owned(),
        "--profiling=false".to_owned(),
    ]
}

pub(super) fn scheduler(cluster: &Cluster) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", cluster.folder.join("scheduler.kubeconfig").display()),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
        "--profiling=false".to_owned(),
    ]
}
