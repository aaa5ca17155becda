//! The gateway of a reef's cluster: what AKS's application routing makes of Gateway objects. It serves TLS
//! with the certificate that the Gateway names, on a port of this machine, and answers 404 because nothing
//! is routed yet.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, RwLock},
    time::Duration,
};

use axum::{Router, http::StatusCode};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{Context, Error, tls::TlsListener};

/// The GatewayClass of AKS's application routing.
pub const CLASS: &str = "approuting-istio";

/// Its controller.
pub const CONTROLLER: &str = "istio.io/gateway-controller";

/// What a cluster's gateway works with.
pub struct Front {
    /// Administrator of the cluster.
    pub client: Client,
    /// Number of the cluster, which gives its public addresses.
    pub index: u8,
    /// File that says on which port of this machine each Gateway is.
    pub ports: PathBuf,
}

#[derive(Debug, Default)]
struct Certificate(RwLock<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().ok()?.clone()
    }
}

struct Served {
    certificate: Arc<Certificate>,
    port: u16,
}

/// Follows the cluster's Gateways until the task is dropped.
pub async fn run(front: Front) {
    let gvk = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "Gateway");
    let resource = ApiResource::from_gvk(&gvk);
    let writer = reflector::store::Writer::new(resource.clone());
    let gateways = writer.as_reader();
    let (secrets, secret_writer) = reflector::store::<Secret>();
    let api = Api::<DynamicObject>::all_with(front.client.clone(), &resource);
    let follow = watcher(api, watcher::Config::default()).default_backoff().reflect(writer);
    let follow_secrets = watcher(Api::<Secret>::all(front.client.clone()), watcher::Config::default())
        .default_backoff()
        .reflect(secret_writer);
    let work = async {
        let mut served = BTreeMap::new();
        loop {
            for gateway in gateways.state() {
                if let Err(error) = look(&front, &resource, &gateway, &secrets, &mut served).await {
                    tracing::warn!(%error, gateway = gateway.name_any(), "gateway");
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    futures::join!(follow.for_each(|_| async {}), follow_secrets.for_each(|_| async {}), work);
}

/// Brings one Gateway and its status in line with its spec.
async fn look(
    front: &Front,
    resource: &ApiResource,
    gateway: &DynamicObject,
    secrets: &Store<Secret>,
    served: &mut BTreeMap<String, Served>,
) -> Result<(), Error> {
    if gateway.data["spec"]["gatewayClassName"] != CLASS {
        return Ok(());
    }
    let namespace = gateway.namespace().unwrap_or_default();
    let key = format!("{namespace}/{}", gateway.name_any());
    let first =
        gateway.data["spec"]["listeners"].as_array().and_then(|l| l.first()).cloned().unwrap_or_default();
    let name = first["tls"]["certificateRefs"][0]["name"].as_str().unwrap_or_default();
    let secret = secrets.get(&ObjectRef::new(name).within(&namespace));
    let certificate = secret.as_deref().and_then(certified);
    if !served.contains_key(&key) {
        served.insert(key.clone(), serve().await?);
        let ports: BTreeMap<_, _> = served.iter().map(|(key, served)| (key.clone(), served.port)).collect();
        fs::write(&front.ports, format!("{:#}\n", json!(ports))).context("ports of the gateways")?;
    }
    let Some(front_end) = served.get(&key) else { return Ok(()) };
    let programmed = certificate.is_some();
    if let Ok(mut current) = front_end.certificate.0.write() {
        *current = certificate.map(Arc::new);
    }
    let status = status(gateway, programmed, front.index);
    if same(&gateway.data["status"], &status) {
        return Ok(());
    }
    let api = Api::<DynamicObject>::namespaced_with(front.client.clone(), &namespace, resource);
    let patch = json!({ "status": status });
    api.patch_status(&gateway.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

/// Whether the status says the same already, times aside.
fn same(old: &Value, new: &Value) -> bool {
    let facts = |status: &Value| {
        let conditions = |value: &Value| -> Vec<Value> {
            let list = value["conditions"].as_array().into_iter().flatten();
            list.map(|c| json!([c["type"], c["status"], c["reason"], c["observedGeneration"]])).collect()
        };
        json!([status["addresses"], conditions(status), conditions(&status["listeners"][0])])
    };
    facts(old) == facts(new)
}

fn status(gateway: &DynamicObject, programmed: bool, index: u8) -> Value {
    let generation = gateway.metadata.generation;
    let condition = |type_: &str, well: bool, bad: &str| {
        let (status, reason) = if well { ("True", type_) } else { ("False", bad) };
        json!({
            "type": type_, "status": status, "reason": reason, "message": "",
            "observedGeneration": generation, "lastTransitionTime": Timestamp::now().to_string(),
        })
    };
    let listeners = gateway.data["spec"]["listeners"].as_array().into_iter().flatten();
    let listeners: Vec<_> = listeners
        .map(|listener| {
            json!({
                "name": listener["name"], "attachedRoutes": 0,
                "supportedKinds": [{ "group": "gateway.networking.k8s.io", "kind": "HTTPRoute" }],
                "conditions": [
                    condition("ResolvedRefs", programmed, "InvalidCertificateRef"),
                    condition("Programmed", programmed, "Invalid"),
                ],
            })
        })
        .collect();
    json!({
        // TEST-NET-3, as for all public addresses of the sandbox.
        "addresses": [{ "type": "IPAddress", "value": format!("203.0.113.{}", 100 + u16::from(index)) }],
        "conditions": [condition("Accepted", true, ""), condition("Programmed", programmed, "Invalid")],
        "listeners": listeners,
    })
}

async fn serve() -> Result<Served, Error> {
    let certificate = Arc::new(Certificate::default());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a gateway's port")?;
    let port = listener.local_addr().map(|a: SocketAddr| a.port()).context("a gateway's port")?;
    let tls = TlsListener::with_resolver(listener, certificate.clone());
    let tls = tls.map_err(std::io::Error::other).context("a gateway's TLS")?;
    let router = Router::new().fallback(|| async { StatusCode::NOT_FOUND });
    tokio::spawn(async move { axum::serve(tls, router).await });
    Ok(Served { certificate, port })
}

fn certified(secret: &Secret) -> Option<CertifiedKey> {
    let data = secret.data.as_ref()?;
    let chain =
        CertificateDer::pem_slice_iter(&data.get("tls.crt")?.0).collect::<Result<Vec<_>, _>>().ok()?;
    let key = PrivateKeyDer::from_pem_slice(&data.get("tls.key")?.0).ok()?;
    (!chain.is_empty()).then_some(())?;
    Some(CertifiedKey::new(chain, any_supported_type(&key).ok()?))
}
