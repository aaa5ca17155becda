//! The gateway of a reef's cluster: what AKS's application routing makes of Gateway objects and of the
//! routes attached to them. Each listener has a port of this machine, and reaches Services through the
//! cluster's network as the gateway's pods in AKS would.

pub mod attach;
pub mod hosts;
mod listen;
pub mod spec;
pub mod status;
pub mod table;
mod traffic;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture};
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
use serde_json::{Value, json};

use crate::{Context, Error, net::ClusterNetwork};
use attach::{Attachment, Facts, Parent, attach, entries, means};
use listen::{Open, certified};
use spec::{GROUP, GatewaySpec, Kind, Mode, Route, read_spec};
use status::Fares;
use table::Entry;
use traffic::Traffic;

/// The GatewayClass of AKS's application routing.
pub const CLASS: &str = "approuting-istio";

/// Its controller.
pub const CONTROLLER: &str = "istio.io/gateway-controller";

/// How long after a change it is looked at, at most.
const PACE: Duration = Duration::from_millis(50);

/// What a cluster's gateway works with.
pub struct Front {
    /// Administrator of the cluster.
    pub client: Client,
    /// The cluster's network.
    pub network: Arc<ClusterNetwork>,
    /// Number of the cluster, which gives its public addresses.
    pub index: u8,
    /// File that says on which port of this machine each listener is: `NAMESPACE/GATEWAY` for the first
    /// HTTPS listener, `NAMESPACE/GATEWAY/LISTENER` for the others.
    pub ports: PathBuf,
}

impl Facts for ClusterNetwork {
    fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String> {
        ClusterNetwork::namespace_labels(self, namespace)
    }

    fn has_service(&self, namespace: &str, name: &str, port: u16) -> bool {
        ClusterNetwork::has_service(self, namespace, name, port)
    }
}

/// What is watched.
struct Watched {
    gateways: Store<DynamicObject>,
    routes: [(Kind, Store<DynamicObject>); 2],
    secrets: Store<Secret>,
}

/// Namespace and name of a Gateway, name of a listener, and what it does.
type Place = (String, String, Mode);

/// A Gateway of our class.
struct Gateway {
    object: Arc<DynamicObject>,
    parent: Parent,
}

/// What is attached to the listeners, by positions of Gateway and listener.
#[derive(Default)]
struct Attached(BTreeMap<(usize, usize), Share>);

/// What is attached to one listener.
#[derive(Default)]
struct Share {
    table: Vec<Entry>,
    /// Namespaces and names of the routes.
    routes: BTreeSet<(String, String)>,
}

/// Follows the cluster's Gateways and routes until the task is dropped.
pub async fn run(front: Front) {
    let (gateways, follow_gateways) = follow(&front.client, "Gateway");
    let (http, follow_http) = follow(&front.client, Kind::Http.name());
    let (tls, follow_tls) = follow(&front.client, Kind::Tls.name());
    let (secrets, secret_writer) = reflector::store::<Secret>();
    let follow_secrets = watcher(Api::<Secret>::all(front.client.clone()), watcher::Config::default())
        .default_backoff()
        .reflect(secret_writer)
        .for_each(|_| async {});
    let watched = Watched { gateways, routes: [(Kind::Http, http), (Kind::Tls, tls)], secrets };
    let work = async {
        watched.ready().await;
        let mut open = BTreeMap::new();
        loop {
            if let Err(error) = round(&front, &watched, &mut open).await {
                tracing::warn!(%error, cluster = front.network.name(), "gateway");
            }
            tokio::time::sleep(PACE).await;
        }
    };
    futures::join!(follow_gateways, follow_http, follow_tls, follow_secrets, work);
}

fn resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", kind))
}

fn follow(client: &Client, kind: &str) -> (Store<DynamicObject>, BoxFuture<'static, ()>) {
    let resource = resource(kind);
    let writer = reflector::store::Writer::new(resource.clone());
    let store = writer.as_reader();
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
    let follow = watcher(api, watcher::Config::default()).default_backoff().reflect(writer);
    (store, Box::pin(follow.for_each(|_| async {})))
}

impl Watched {
    /// Waits until all is known that is there: with less, statuses would say what is not so.
    async fn ready(&self) {
        let [(_, http), (_, tls)] = &self.routes;
        // Fails only when the writers are gone, with the task.
        let _ = futures::join!(
            self.gateways.wait_until_ready(),
            http.wait_until_ready(),
            tls.wait_until_ready(),
            self.secrets.wait_until_ready(),
        );
    }

    /// The Gateways of our class.
    fn ours(&self) -> Vec<Gateway> {
        let objects = self.gateways.state().into_iter();
        objects
            .filter_map(|object| {
                let spec: GatewaySpec = read_spec(&object)?;
                let namespace = object.namespace().unwrap_or_default();
                let parent = Parent { namespace, name: object.name_any(), listeners: spec.listeners };
                (spec.gateway_class_name == CLASS).then_some(Gateway { object, parent })
            })
            .collect()
    }
}

/// Brings everything in line once. Routes say that they are accepted only after they are.
async fn round(front: &Front, watched: &Watched, open: &mut BTreeMap<Place, Open>) -> Result<(), Error> {
    let gateways = watched.ours();
    let mut attached = Attached::default();
    let mut statuses = Vec::new();
    for (kind, store) in &watched.routes {
        for object in store.state() {
            let Some(route) = Route::read(*kind, &object) else { continue };
            let ours = attached.add(&route, &object, &gateways, &*front.network);
            statuses.push((kind.name(), object, ours));
        }
    }
    listen(front, &gateways, open).await?;
    for (at, gateway) in gateways.iter().enumerate() {
        let fares = serve(watched, gateway, at, &mut attached, open);
        let generation = gateway.object.metadata.generation;
        // TEST-NET-3, as for all public addresses of the sandbox.
        let address = format!("203.0.113.{}", 100 + u16::from(front.index));
        let status = status::of_gateway(&address, &fares, generation);
        write(front, "Gateway", &gateway.object, status).await?;
    }
    for (kind, object, ours) in statuses {
        let old = &object.data["status"];
        if ours.is_empty() && old["parents"].as_array().is_none_or(Vec::is_empty) {
            continue;
        }
        let status = status::of_route(old, &ours, object.metadata.generation);
        write(front, kind, &object, status).await?;
    }
    Ok(())
}

impl Attached {
    /// Attaches a route to the Gateways that it names; how each reference to one of ours fares.
    fn add(
        &mut self,
        route: &Route,
        object: &DynamicObject,
        gateways: &[Gateway],
        facts: &impl Facts,
    ) -> Vec<(Value, Attachment)> {
        let mut ours = Vec::new();
        for (position, reference) in route.spec.parent_refs.iter().enumerate() {
            let found = gateways.iter().position(|gateway| means(reference, route, &gateway.parent));
            let Some(at) = found else { continue };
            let attachment = attach(route, reference, &gateways[at].parent, facts);
            for (listener, hosts) in &attachment.listeners {
                let share = self.0.entry((at, *listener)).or_default();
                share.table.extend(entries(route, hosts, facts));
                share.routes.insert((route.namespace.clone(), route.name.clone()));
            }
            ours.push((object.data["spec"]["parentRefs"][position].clone(), attachment));
        }
        ours
    }
}

/// Opens the ports of listeners that are new and closes those of listeners that are gone.
async fn listen(front: &Front, gateways: &[Gateway], open: &mut BTreeMap<Place, Open>) -> Result<(), Error> {
    let mut names = BTreeMap::new();
    for Gateway { parent, .. } in gateways {
        let key = format!("{}/{}", parent.namespace, parent.name);
        for listener in &parent.listeners {
            let Some(mode) = listener.mode() else { continue };
            let place = (key.clone(), listener.name.clone(), mode);
            let first = mode == Mode::Https && !names.values().any(|name| *name == key);
            let name = if first { key.clone() } else { format!("{key}/{}", listener.name) };
            names.insert(place, name);
        }
    }
    let before = open.len();
    open.retain(|place, _| names.contains_key(place));
    let mut changed = before != open.len();
    for (key, listener, mode) in names.keys() {
        let place = (key.clone(), listener.clone(), *mode);
        if open.contains_key(&place) {
            continue;
        }
        let (namespace, name) = key.split_once('/').unwrap_or_default();
        let traffic = Traffic::new(front.network.clone(), namespace, name);
        open.insert(place, Open::new(*mode, traffic).await?);
        changed = true;
    }
    if changed {
        let ports: BTreeMap<_, _> =
            open.iter().filter_map(|(place, open)| Some((names.get(place)?, open.port))).collect();
        // At once, so that nobody reads half of it.
        let half = front.ports.with_extension("new");
        fs::write(&half, format!("{:#}\n", json!(ports))).context("ports of the gateways")?;
        fs::rename(&half, &front.ports).context("ports of the gateways")?;
    }
    Ok(())
}

/// Gives each listener of a Gateway its certificate and its routes; how they fare.
fn serve<'a>(
    watched: &Watched,
    gateway: &'a Gateway,
    at: usize,
    attached: &mut Attached,
    open: &BTreeMap<Place, Open>,
) -> Vec<Fares<'a>> {
    let Parent { namespace, name, listeners } = &gateway.parent;
    let mut fares = Vec::new();
    for (position, listener) in listeners.iter().enumerate() {
        let Share { table, routes } = attached.0.remove(&(at, position)).unwrap_or_default();
        let mode = listener.mode();
        let certificate = listener.tls.certificate_refs.first().filter(|_| mode == Some(Mode::Https));
        let secret = certificate
            .and_then(|reference| watched.secrets.get(&ObjectRef::new(&reference.name).within(namespace)));
        let certificate = secret.as_deref().and_then(certified);
        let certified = mode != Some(Mode::Https) || certificate.is_some();
        let place = mode.map(|mode| (format!("{namespace}/{name}"), listener.name.clone(), mode));
        if let Some(open) = place.and_then(|place| open.get(&place)) {
            open.certify(certificate);
            open.traffic.route_by(table);
        }
        fares.push(Fares { listener, certified, attached: routes.len() });
    }
    fares
}

/// Writes a status if it says something new.
async fn write(front: &Front, kind: &str, object: &DynamicObject, status: Value) -> Result<(), Error> {
    let Some(status) = status::change(&object.data["status"], status) else { return Ok(()) };
    let namespace = object.namespace().unwrap_or_default();
    let api = Api::<DynamicObject>::namespaced_with(front.client.clone(), &namespace, &resource(kind));
    let patch = Patch::Merge(json!({ "status": status }));
    match api.patch_status(&object.name_any(), &PatchParams::default(), &patch).await {
        // It was deleted meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => Ok(result.map(drop)?),
    }
}
