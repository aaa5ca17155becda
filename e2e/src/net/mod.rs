//! The network between pods, services, API servers and the rest of the sandbox.
//!
//! A pod reaches anything only through the proxy of its pod process, so each connection arrives
//! here with its caller known. The network finds what is meant, asks the cluster's network policies, and
//! carries the bytes. There is no packet filter, no UDP and no DNS.

pub mod connect;
pub mod cut;
mod head;
pub mod metadata;
pub mod policy;
pub mod proxy;
pub mod resolve;

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, RwLock, atomic::AtomicUsize},
};

use futures::StreamExt;
use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use policy::{Peer, PodPeer};

/// Label of a gateway's pods: the name of their Gateway.
const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// Who opens a connection.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A pod, by namespace and name.
    Pod(ObjectRef<Pod>),
    /// The cluster's API server: reaches nodes, and whatever is in the cluster.
    ApiServer,
    /// A pod of the cluster's gateway, which policies see with AKS's label.
    Gateway {
        /// Namespace of the Gateway and of its pods.
        namespace: String,
        /// Name of the Gateway.
        name: String,
    },
}

/// What listens on this machine for a name and port beyond the cluster.
pub type Outside = Arc<dyn Fn(&str, u16) -> Option<SocketAddr> + Send + Sync>;

/// The network of one cluster.
pub struct ClusterNetwork {
    name: String,
    api: SocketAddr,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    policies: Store<NetworkPolicy>,
    namespaces: Store<Namespace>,
    pods: Store<Pod>,
    attached: RwLock<HashMap<Ipv4Addr, PathBuf>>,
    nodes: RwLock<HashMap<Ipv4Addr, SocketAddr>>,
    outside: Outside,
    turn: AtomicUsize,
}

impl ClusterNetwork {
    /// Watches what decides over connections in a cluster.
    /// `outside` knows the names beyond the cluster. Ends with `stop`.
    pub async fn start(
        cluster: &Cluster,
        client: &Client,
        outside: Outside,
        stop: &CancellationToken,
    ) -> Arc<Self> {
        let network = Arc::new(Self {
            name: cluster.name.clone(),
            api: SocketAddr::from((Ipv4Addr::LOCALHOST, cluster.port)),
            services: watch(client, stop),
            slices: watch(client, stop),
            policies: watch(client, stop),
            namespaces: watch(client, stop),
            pods: watch(client, stop),
            attached: RwLock::default(),
            nodes: RwLock::default(),
            outside,
            turn: AtomicUsize::new(0),
        });
        // The stores fill within a second of the API server being ready; none of them can be refused.
        let _ = futures::join!(
            network.services.wait_until_ready(),
            network.slices.wait_until_ready(),
            network.policies.wait_until_ready(),
            network.namespaces.wait_until_ready(),
            network.pods.wait_until_ready(),
        );
        network
    }

    /// Makes a pod reachable at its address.
    pub fn attach(&self, ip: Ipv4Addr, ingress: PathBuf) {
        if let Ok(mut attached) = self.attached.write() {
            attached.insert(ip, ingress);
        }
    }

    /// Makes an address unreachable again, if it still is this pod's.
    pub fn detach(&self, ip: Ipv4Addr, ingress: &Path) {
        if let Ok(mut attached) = self.attached.write()
            && attached.get(&ip).is_some_and(|at| at == ingress)
        {
            attached.remove(&ip);
        }
    }

    /// Makes a node's kubelet reachable at the node's address.
    pub fn add_node(&self, ip: Ipv4Addr, kubelet: SocketAddr) {
        if let Ok(mut nodes) = self.nodes.write() {
            nodes.insert(ip, kubelet);
        }
    }

    fn kubelet_of(&self, ip: Ipv4Addr) -> Option<SocketAddr> {
        self.nodes.read().ok()?.get(&ip).copied()
    }

    fn ingress_of(&self, ip: Ipv4Addr) -> Option<PathBuf> {
        self.attached.read().ok()?.get(&ip).cloned()
    }

    fn pod_at(&self, ip: Ipv4Addr) -> Option<Arc<Pod>> {
        let address = ip.to_string();
        self.pods.find(|pod| {
            let status = pod.status.as_ref();
            status.and_then(|s| s.pod_ip.as_deref()) == Some(&address)
                && !matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
        })
    }

    /// Labels of a namespace.
    pub fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String> {
        self.namespaces.get(&ObjectRef::new(namespace)).map(|n| n.labels().clone()).unwrap_or_default()
    }

    /// Whether a Service has this port.
    pub fn has_service(&self, namespace: &str, name: &str, port: u16) -> bool {
        let service = self.services.get(&ObjectRef::new(name).within(namespace));
        let ports = service.as_ref().and_then(|s| s.spec.as_ref()).and_then(|s| s.ports.as_ref());
        ports.into_iter().flatten().any(|p| p.port == i32::from(port))
    }

    /// A pod of a gateway, as policies see it. No policy selects its ports: it only calls.
    fn gateway_peer(&self, namespace: &str, name: &str) -> Peer {
        Peer::Pod(PodPeer {
            namespace: namespace.to_owned(),
            namespace_labels: self.namespace_labels(namespace),
            labels: [(GATEWAY_LABEL.to_owned(), name.to_owned())].into(),
            ip: Ipv4Addr::UNSPECIFIED,
            named_ports: BTreeMap::new(),
        })
    }

    fn peer(&self, pod: &Pod) -> Peer {
        let namespace = pod.namespace().unwrap_or_default();
        let namespace_labels = self.namespace_labels(&namespace);
        let spec = pod.spec.iter().flat_map(|s| &s.containers);
        let named_ports = spec
            .flat_map(|c| c.ports.iter().flatten())
            .filter_map(|p| Some((p.name.clone()?, u16::try_from(p.container_port).ok()?)))
            .collect();
        let ip = pod.status.as_ref().and_then(|s| s.pod_ip.as_ref()).and_then(|ip| ip.parse().ok());
        Peer::Pod(PodPeer {
            namespace,
            namespace_labels,
            labels: pod.labels().clone(),
            ip: ip.unwrap_or(Ipv4Addr::UNSPECIFIED),
            named_ports,
        })
    }

    fn policies(&self) -> Vec<NetworkPolicy> {
        self.policies.state().iter().map(|p| NetworkPolicy::clone(p)).collect()
    }
}

fn watch<K>(client: &Client, stop: &CancellationToken) -> Store<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let stream = watcher(Api::<K>::all(client.clone()), watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .take_until(stop.clone().cancelled_owned())
        .for_each(|event| async move {
            if let Err(error) = event {
                tracing::debug!(%error, kind = %K::kind(&()), "watch");
            }
        });
    tokio::spawn(stream);
    store
}
