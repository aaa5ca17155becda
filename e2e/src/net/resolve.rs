//! From the host and port that a caller names to what is there.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::atomic::Ordering,
};

use k8s_openapi::api::{
    core::v1::{Service, ServicePort},
    discovery::v1::{Endpoint, EndpointSlice},
};
use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::{
    Caller, ClusterNetwork,
    policy::{self, Peer},
};
use crate::cluster::Cluster;

/// The address that policies see for what is outside the cluster (TEST-NET-3).
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// Port of kubelets.
const KUBELET_PORT: u16 = 10_250;

/// Where a connection ends.
#[derive(Debug)]
pub enum Target {
    /// A port of a pod.
    Pod {
        /// Socket of the pod process.
        ingress: PathBuf,
        /// Port in the pod.
        port: u16,
    },
    /// Something that listens on this machine for the sandbox.
    Local(SocketAddr),
}

/// Why there is no connection. The texts are what callers and the network's log see.
#[derive(Debug, thiserror::Error)]
pub enum NoRoute {
    /// Nobody has this name or address.
    #[error("{0} is not known in cluster {1}")]
    Unknown(String, String),
    /// The service has no endpoint that is ready.
    #[error("service {0} has no ready endpoint for port {1}")]
    NoEndpoint(String, u16),
    /// A network policy refuses it.
    #[error("refused by the network policies ({0:?})")]
    Refused(policy::Refused),
}

impl ClusterNetwork {
    /// Finds what `host` and `port` mean to `caller`, and whether it may connect.
    pub(super) fn route(&self, caller: &Caller, host: &str, port: u16) -> Result<Target, NoRoute> {
        let unknown = || NoRoute::Unknown(format!("{host}:{port}"), self.name.clone());
        if let (Caller::ApiServer, "localhost" | "127.0.0.1") = (caller, host) {
            // A node's kubelet port.
            return Ok(Target::Local(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
        }
        let ip = host.parse::<IpAddr>().ok();
        if let Some(address) = (self.outside)(host, port) {
            // Who is called by address is known to policies by it.
            let seen = if let Some(IpAddr::V4(ip)) = ip { ip } else { OUTSIDE };
            self.check(caller, &Peer::Address(seen), port)?;
            return Ok(Target::Local(address));
        }
        if let (Some(IpAddr::V4(ip)), KUBELET_PORT) = (ip, port)
            && let Some(kubelet) = self.kubelet_of(ip)
        {
            self.check(caller, &Peer::Address(ip), port)?;
            return Ok(Target::Local(kubelet));
        }
        let service = match ip {
            Some(IpAddr::V4(ip)) => self.service_at(ip),
            Some(IpAddr::V6(_)) => return Err(unknown()),
            None => self.service_named(host),
        };
        let (ip, port) = match (service, ip) {
            (Some(service), _) if is_api_service(&service) => return self.api_server(caller, port),
            (Some(service), _) => self.endpoint(&service, port)?,
            (None, Some(IpAddr::V4(ip))) => (ip, port),
            (None, None) => (self.pod_named(host).ok_or_else(unknown)?, port),
            _ => return Err(unknown()),
        };
        let ingress = self.ingress_of(ip).ok_or_else(unknown)?;
        let pod = self.pod_at(ip).ok_or_else(unknown)?;
        self.check(caller, &self.peer(&pod), port)?;
        Ok(Target::Pod { ingress, port })
    }

    fn api_server(&self, caller: &Caller, port: u16) -> Result<Target, NoRoute> {
        if port != 443 {
            return Err(NoRoute::NoEndpoint("default/kubernetes".to_owned(), port));
        }
        let address = Cluster::api_address();
        self.check(caller, &Peer::Address(address), 443)?;
        Ok(Target::Local(self.api))
    }

    fn check(&self, caller: &Caller, to: &Peer, port: u16) -> Result<(), NoRoute> {
        let from = match caller {
            // As from the node: policies do not hold it.
            Caller::ApiServer => return Ok(()),
            Caller::Pod(pod) => self.pods.get(pod).map(|pod| self.peer(&pod)),
            Caller::Gateway { namespace, name } => Some(self.gateway_peer(namespace, name)),
        };
        let unknown = || NoRoute::Unknown("the calling pod".to_owned(), self.name.clone());
        let from = from.ok_or_else(unknown)?;
        policy::check(&self.policies(), &from, to, port).map_err(NoRoute::Refused)
    }

    /// Whether `host` is the API server of this cluster.
    pub(super) fn is_api(&self, host: &str) -> bool {
        let service = match host.parse() {
            Ok(IpAddr::V4(ip)) => self.service_at(ip),
            Ok(IpAddr::V6(_)) => None,
            Err(_) => self.service_named(host),
        };
        service.is_some_and(|service| is_api_service(&service))
    }

    fn service_at(&self, ip: Ipv4Addr) -> Option<std::sync::Arc<Service>> {
        let address = ip.to_string();
        self.services
            .find(|s| s.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some(address.as_str()))
    }

    /// `name.namespace.svc`, with or without `.cluster.local`.
    fn service_named(&self, host: &str) -> Option<std::sync::Arc<Service>> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let host = host.strip_suffix(".cluster.local").unwrap_or(host);
        let (name, namespace) = host.strip_suffix(".svc")?.split_once('.')?;
        self.services.get(&ObjectRef::new(name).within(namespace))
    }

    /// Address of the pod `hostname.service.namespace.svc` of a headless service.
    fn pod_named(&self, host: &str) -> Option<Ipv4Addr> {
        let (hostname, service) = host.split_once('.')?;
        let service = self.service_named(service)?;
        let is_headless = service.spec.as_ref().is_some_and(|s| s.cluster_ip.as_deref() == Some("None"));
        let slices = self.slices.state();
        let mut of_it = slices.iter().filter(|slice| is_headless && is_of(slice, &service));
        of_it.find_map(|slice| {
            let mut endpoints = slice.endpoints.iter().flatten().filter(|e| is_ready(e));
            let found = endpoints.find(|e| e.hostname.as_deref() == Some(hostname))?;
            found.addresses.first()?.parse().ok()
        })
    }

    fn endpoint(&self, service: &Service, port: u16) -> Result<(Ipv4Addr, u16), NoRoute> {
        let name = format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any());
        let none = || NoRoute::NoEndpoint(name.clone(), port);
        let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
        let wanted = ports.into_iter().find(|p| p.port == i32::from(port)).ok_or_else(none)?;
        let slices = self.slices.state();
        let ready: Vec<_> = slices
            .iter()
            .filter(|slice| is_of(slice, service))
            .flat_map(|slice| ready(slice, wanted))
            .collect();
        // In turn, so that every replica gets its share.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        ready.get(turn % ready.len().max(1)).copied().ok_or_else(none)
    }
}

fn is_api_service(service: &Service) -> bool {
    service.namespace().as_deref() == Some("default") && service.name_any() == "kubernetes"
}

fn is_of(slice: &EndpointSlice, service: &Service) -> bool {
    slice.namespace() == service.namespace()
        && slice.labels().get("kubernetes.io/service-name") == Some(&service.name_any())
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
}

/// The ready addresses of a slice, with the port there that the service's port stands for.
fn ready(slice: &EndpointSlice, wanted: &ServicePort) -> Vec<(Ipv4Addr, u16)> {
    let name = wanted.name.as_deref().unwrap_or_default();
    let mut ports = slice.ports.iter().flatten();
    let port = ports.find(|p| p.name.as_deref().unwrap_or_default() == name).and_then(|p| p.port);
    let Some(port) = port.and_then(|p| u16::try_from(p).ok()) else { return Vec::new() };
    let ready = slice.endpoints.iter().flatten().filter(|e| is_ready(e));
    ready.filter_map(|e| Some((e.addresses.first()?.parse().ok()?, port))).collect()
}
