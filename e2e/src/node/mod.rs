//! A node: registers with its cluster and runs the pods that the scheduler gives it, as a kubelet does.
//!
//! Of persistent volumes it mounts the static ones of Azure Files ([`claims`]), where a cluster stands for AKS.
//!
//! What it does not do: exec, attach and port-forward, hostPath and host namespaces, privileged
//! containers. A pod that asks for one of these stays waiting with a message that says so.

mod address;
pub mod claims;
mod env;
mod event;
pub mod image;
mod kubelet;
mod object;
mod pod;
mod probe;
mod resize;
mod sources;
mod status;
mod template;
mod volumes;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{
            DaemonEndpoint, Node as KubeNode, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus,
            NodeSystemInfo, Pod,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta, Time},
    },
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Context, Error, cluster::Cluster, dir::Dir, net::ClusterNetwork, shares::Shares};
pub use image::Image;

/// Memory that a node says it has, GiB.
const MEMORY_GIB: i64 = 256;

/// A node to be started.
pub struct Node {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Its number in the cluster: pods of node n have 100.x.n.y.
    pub index: u8,
    /// What it can run.
    pub images: Vec<Image>,
    /// The shares that it can mount; none outside of AKS.
    pub shares: Option<Arc<dyn Shares>>,
    /// Number of CPUs that it says it has.
    pub cpus: u32,
}

/// What a node's parts share.
pub(crate) struct Shared {
    name: String,
    client: Client,
    network: Arc<ClusterNetwork>,
    images: Vec<Image>,
    shares: Option<Arc<dyn Shares>>,
    folder: PathBuf,
    sockets: Dir,
    socket_prefix: String,
    pod_network: Ipv4Addr,
    sandboxes: AtomicU32,
    addresses: Mutex<BTreeSet<u8>>,
    ledger: resize::Ledger,
}

impl Shared {
    /// The folder of a pod.
    fn pod_folder(&self, uid: &str) -> PathBuf {
        self.folder.join("pods").join(uid)
    }

    /// A fresh address, and the name under which its sockets live.
    fn allocate(&self) -> (Ipv4Addr, String) {
        let n = self.sandboxes.fetch_add(1, Ordering::Relaxed);
        let [a, b, c, _] = self.pod_network.octets();
        let mut used = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        // More than the pods that the node takes. The next free one after the last, so that an address
        // rests before it is used again.
        let start = u8::try_from(n % 253).unwrap_or(0);
        let free = (0..253u8)
            .map(|i| u8::try_from((u16::from(start) + u16::from(i)) % 253).unwrap_or(0) + 2)
            .find(|last| !used.contains(last));
        let last = free.unwrap_or(255);
        used.insert(last);
        (Ipv4Addr::new(a, b, c, last), format!("{}{n}", self.socket_prefix))
    }

    /// Gives an address back.
    fn free(&self, ip: Ipv4Addr) {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).remove(&ip.octets()[3]);
    }
}

impl Node {
    /// Registers the node and runs pods until `stop`, or until the process ends.
    pub async fn start(
        self,
        dir: &Dir,
        cluster: &Cluster,
        network: Arc<ClusterNetwork>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let identity = cluster.node_identity(&self.name)?;
        let client = cluster.client(&identity).await?;
        let folder = cluster.folder.join("nodes").join(&self.name);
        std::fs::create_dir_all(folder.join("pods")).context("create the node's folder")?;
        let [a, b, _, _] = cluster.pod_network().octets();
        let shared = Arc::new(Shared {
            name: self.name.clone(),
            client: client.clone(),
            network,
            images: self.images,
            shares: self.shares,
            folder,
            sockets: dir.clone(),
            socket_prefix: format!("{}{}-", cluster.index, self.index),
            pod_network: Ipv4Addr::new(a, b, self.index, 0),
            sandboxes: AtomicU32::new(0),
            addresses: Mutex::default(),
            ledger: resize::Ledger::new(resize::Room {
                cpu: i64::from(self.cpus) * 1000,
                memory: MEMORY_GIB << 30,
            }),
        });
        let port = kubelet::serve(shared.clone(), &identity, &cluster.ca).await?;
        // As in AKS, in a network that pods reach unless a policy says otherwise.
        let ip = Ipv4Addr::new(10, 224, cluster.index, 4 + self.index);
        shared.network.add_node(ip, SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let status = node_status((ip, port), self.cpus);
        register(&client, &self.name, &status).await?;
        let beat = heartbeat(client.clone(), self.name.clone(), status);
        tokio::spawn(stop.clone().run_until_cancelled_owned(beat));
        tokio::spawn(follow_pods(shared, stop.clone()));
        Ok(())
    }
}

async fn register(client: &Client, name: &str, status: &NodeStatus) -> Result<(), Error> {
    let labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), name.to_owned()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), "amd64".to_owned()),
        ("topology.kubernetes.io/zone".to_owned(), "1".to_owned()),
    ]);
    let node = KubeNode {
        metadata: ObjectMeta { name: Some(name.to_owned()), labels: Some(labels), ..ObjectMeta::default() },
        ..KubeNode::default()
    };
    let api = Api::<KubeNode>::all(client.clone());
    api.create(&PostParams::default(), &node).await?;
    write_status(&api, name, status).await
}

async fn write_status(api: &Api<KubeNode>, name: &str, status: &NodeStatus) -> Result<(), Error> {
    let mut patch = serde_json::json!({ "status": status });
    patch["status"]["conditions"][0]["lastHeartbeatTime"] = serde_json::json!(Time(Timestamp::now()));
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

fn node_status((ip, port): (Ipv4Addr, u16), cpus: u32) -> NodeStatus {
    let quantity = |text: &str| Quantity(text.to_owned());
    let capacity = BTreeMap::from([
        ("cpu".to_owned(), quantity(&cpus.to_string())),
        ("memory".to_owned(), quantity(&format!("{MEMORY_GIB}Gi"))),
        ("pods".to_owned(), quantity("240")),
        ("ephemeral-storage".to_owned(), quantity("200Gi")),
    ]);
    let ready = NodeCondition {
        type_: "Ready".to_owned(),
        status: "True".to_owned(),
        reason: Some("SandboxNode".to_owned()),
        message: Some("runs pods as processes of this machine".to_owned()),
        last_heartbeat_time: None,
        last_transition_time: None,
    };
    let address = |kind: &str, at: &str| NodeAddress { type_: kind.to_owned(), address: at.to_owned() };
    NodeStatus {
        addresses: Some(vec![address("Hostname", "localhost"), address("InternalIP", &ip.to_string())]),
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        conditions: Some(vec![ready]),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(port) }),
        }),
        node_info: Some(NodeSystemInfo {
            kubelet_version: format!("sandbox-{}", env!("CARGO_PKG_VERSION")),
            operating_system: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            container_runtime_version: "reef-sandbox://1".to_owned(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

/// Renews the node's Lease as kubelets do; the control plane takes a silent node for dead after 50 s.
async fn heartbeat(client: Client, name: String, status: NodeStatus) {
    let leases = Api::<Lease>::namespaced(client.clone(), "kube-node-lease");
    let nodes = Api::<KubeNode>::all(client);
    for beat in 0u64.. {
        let spec = LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(40),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        };
        let lease = serde_json::json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": name }, "spec": spec,
        });
        let apply = PatchParams::apply("reef-sandbox-node").force();
        if let Err(error) = leases.patch(&name, &apply, &Patch::Apply(&lease)).await {
            tracing::warn!(%error, node = name, "lease");
        }
        if beat % 30 == 0
            && let Err(error) = write_status(&nodes, &name, &status).await
        {
            tracing::warn!(%error, node = name, "node status");
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}

/// One task for each pod of this node, fed with the pod's newest state; `None` means that it is gone.
async fn follow_pods(shared: Arc<Shared>, stop: CancellationToken) {
    let api = Api::<Pod>::all(shared.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", shared.name));
    let mut events = watcher(api, config).default_backoff().boxed();
    let mut workers: HashMap<String, watch::Sender<Option<Pod>>> = HashMap::new();
    let mut listed: Vec<String> = Vec::new();
    loop {
        // Workers whose senders are gone end their pods.
        let Some(event) = stop.run_until_cancelled(events.try_next()).await else { return };
        match event {
            Ok(Some(watcher::Event::Init)) => listed.clear(),
            Ok(Some(watcher::Event::InitApply(pod))) => {
                listed.extend(pod.uid());
                update(&shared, &mut workers, pod);
            }
            Ok(Some(watcher::Event::InitDone)) => {
                workers.retain(|uid, worker| listed.contains(uid) || worker.send(None).is_err());
            }
            Ok(Some(watcher::Event::Apply(pod))) => update(&shared, &mut workers, pod),
            Ok(Some(watcher::Event::Delete(pod))) => {
                if let Some(worker) = pod.uid().and_then(|uid| workers.remove(&uid)) {
                    let _ = worker.send(None);
                }
            }
            Ok(None) => return,
            Err(error) => tracing::debug!(%error, node = shared.name, "pod watch"),
        }
    }
}

fn update(shared: &Arc<Shared>, workers: &mut HashMap<String, watch::Sender<Option<Pod>>>, pod: Pod) {
    let Some(uid) = pod.uid() else { return };
    match workers.get(&uid) {
        Some(worker) => drop(worker.send(Some(pod))),
        None => {
            let (sender, receiver) = watch::channel(Some(pod));
            tokio::spawn(pod::run(shared.clone(), uid.clone(), receiver));
            workers.insert(uid, sender);
        }
    }
}
