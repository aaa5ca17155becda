//! The clusters behind the emulated AKS: real control planes, each with a node, that wait to be given out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{rbac::v1::ClusterRoleBinding, storage::v1::CSIDriver};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::json;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    Context, Error,
    azure::{
        server::Azure,
        slots::{Event, Slot},
    },
    cluster::Cluster,
    dir::Dir,
    gateway,
    net::ClusterNetwork,
    node::{Image, claims::DRIVER},
    shares::Store,
    tools::Tools,
    world::{OnNode, start_cluster},
};

/// Label of what AKS makes in a cluster for a role assignment in Azure.
const FROM_AZURE: &str = "sandbox.reef/from-azure";

/// All clusters behind AKS.
pub struct Reefs {
    dir: Dir,
    tools: Tools,
    azure: Azure,
    images: Vec<Image>,
    /// Of each cluster, and the CPUs of each.
    nodes: u8,
    cpus: u32,
    files: Arc<Store>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    clusters: Vec<Reef>,
    /// How many were ever started: names and addresses are not used twice.
    started: u8,
}

struct Reef {
    cluster: Cluster,
    stop: CancellationToken,
    /// Known when it runs.
    running: Option<(Client, Arc<ClusterNetwork>)>,
    administrators: BTreeSet<String>,
}

impl Reefs {
    /// Starts nothing yet.
    pub fn new(
        dir: &Dir,
        tools: &Tools,
        azure: &Azure,
        (images, nodes, cpus): (Vec<Image>, u8, u32),
    ) -> Arc<Self> {
        Arc::new(Self {
            dir: dir.clone(),
            tools: tools.clone(),
            azure: azure.clone(),
            images,
            nodes,
            cpus,
            files: Store::new(dir, azure.clone()),
            running: Mutex::default(),
        })
    }

    /// Starts the API servers of so many more clusters.
    pub async fn start(&self, count: u8) -> Result<(), Error> {
        let mut running = self.running.lock().await;
        for _ in 0..count {
            running.started += 1;
            let name = format!("slot-{}", running.started);
            let trust = self.azure.trust_for_aks();
            let place = (name.as_str(), running.started);
            let cluster = Cluster::start(&self.dir, &self.tools, place, Some(&trust))?;
            let (stop, administrators) = (CancellationToken::new(), BTreeSet::new());
            running.clusters.push(Reef { cluster, stop, running: None, administrators });
        }
        Ok(())
    }

    /// Waits for those that were started, and offers them to Azure.
    pub async fn wait(&self) -> Result<(), Error> {
        let mut running = self.running.lock().await;
        for reef in running.clusters.iter_mut().filter(|reef| reef.running.is_none()) {
            let cluster = &mut reef.cluster;
            let shares = Some(self.files.of_cluster(&cluster.name));
            let on_node = OnNode { images: self.images.clone(), shares, count: self.nodes, cpus: self.cpus };
            let (client, network) =
                start_cluster(&self.dir, &self.tools, cluster, on_node, &self.azure, &reef.stop).await?;
            let version = client.apiserver_version().await?.git_version;
            self.azure.add_slot(Slot {
                name: cluster.name.clone(),
                port: cluster.port,
                ca: cluster.public_ca.clone(),
                issuer: cluster.issuer(),
                version: version.trim_start_matches('v').to_owned(),
            });
            reef.running = Some((client, network));
        }
        Ok(())
    }

    /// Which program of which cluster has ended by itself.
    pub fn ended(&self) -> Option<String> {
        // Busy means that one is being started; there is a next time.
        let mut running = self.running.try_lock().ok()?;
        running.clusters.iter_mut().find_map(|reef| reef.cluster.ended())
    }

    /// Ends them all.
    pub async fn kill(&self) {
        if let Ok(mut running) = self.running.try_lock() {
            for reef in &mut running.clusters {
                reef.cluster.kill().await;
            }
        }
    }

    /// Does for ever what Azure decides about clusters: makes, takes away, lets in.
    pub fn follow_azure(self: &Arc<Self>) -> impl Future<Output = ()> + Send + use<> {
        let reefs = self.clone();
        async move {
            loop {
                for event in reefs.azure.tick() {
                    let result = match &event {
                        Event::Created { slot, cluster } => reefs.created(slot, cluster).await,
                        Event::Rotated { slot } => reefs.rotate(slot).await,
                        Event::Deleted { slot, cluster } => reefs.deleted(slot, cluster).await,
                    };
                    if let Err(error) = result {
                        tracing::error!(%error, ?event, "AKS");
                    }
                }
                reefs.files.sweep();
                if let Err(error) = reefs.let_in().await {
                    tracing::warn!(%error, "role assignments for AKS");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// What AKS puts into a new cluster, and its administrator's kubeconfig for people of the sandbox.
    async fn created(&self, slot: &Slot, name: &str) -> Result<(), Error> {
        let running = self.running.lock().await;
        let Some(reef) = running.clusters.iter().find(|reef| reef.cluster.name == slot.name) else {
            return Ok(());
        };
        let Some((client, network)) = &reef.running else { return Ok(()) };
        let admin =
            fs::read_to_string(reef.cluster.kubeconfig(&self.dir)).context("kubeconfig of the slot")?;
        let folder = self.dir.join("reefs");
        fs::create_dir_all(&folder).context("folder for kubeconfigs of reefs")?;
        let path = folder.join(format!("{name}.kubeconfig"));
        crate::pki::write_secret(&path, admin.as_bytes()).context("kubeconfig of the reef")?;
        install_gateway_api(client, &self.tools).await?;
        install_files_driver(client).await?;
        let front = gateway::Front {
            client: client.clone(),
            network: network.clone(),
            index: reef.cluster.index,
            ports: self.dir.join("reefs").join(format!("{name}.gateways.json")),
        };
        tokio::spawn(reef.stop.clone().run_until_cancelled_owned(gateway::run(front)));
        Ok(())
    }

    /// The public name of a cluster gets a certificate of another authority, which is what Azure hands out from now on.
    async fn rotate(&self, slot: &Slot) -> Result<(), Error> {
        let mut running = self.running.lock().await;
        if let Some(reef) = running.clusters.iter_mut().find(|reef| reef.cluster.name == slot.name) {
            reef.cluster.rotate_public()?;
            self.azure.vouched(&slot.name, &reef.cluster.public_ca);
        }
        Ok(())
    }

    /// Ends a cluster with all that runs in it, and starts another for the next AKS cluster.
    async fn deleted(&self, slot: &Slot, name: &str) -> Result<(), Error> {
        for file in ["kubeconfig", "gateways.json"] {
            let _ = fs::remove_file(self.dir.join("reefs").join(format!("{name}.{file}")));
        }
        let gone = {
            let mut running = self.running.lock().await;
            let at = running.clusters.iter().position(|reef| reef.cluster.name == slot.name);
            at.map(|at| running.clusters.remove(at))
        };
        if let Some(mut reef) = gone {
            reef.stop.cancel();
            reef.cluster.kill().await;
        }
        self.start(1).await?;
        self.wait().await
    }

    /// Azure RBAC: who has the role at the AKS cluster administrates the cluster, and nobody else.
    async fn let_in(&self) -> Result<(), Error> {
        for (slot, wanted) in self.azure.administrators() {
            let mut running = self.running.lock().await;
            let Some(reef) = running.clusters.iter_mut().find(|reef| reef.cluster.name == slot.name) else {
                continue;
            };
            let Some((client, _)) = reef.running.as_ref().filter(|_| reef.administrators != wanted) else {
                continue;
            };
            let api = Api::<ClusterRoleBinding>::all(client.clone());
            for principal in &wanted {
                let binding = json!({
                    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                    "metadata": { "name": format!("azure-{principal}"), "labels": BTreeMap::from([(FROM_AZURE, "true")]) },
                    "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
                    "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": principal }],
                });
                let apply = PatchParams::apply("reef-sandbox").force();
                api.patch(&format!("azure-{principal}"), &apply, &Patch::Apply(&binding)).await?;
            }
            let list = api.list(&ListParams::default().labels(FROM_AZURE)).await?;
            for binding in list.items {
                let principal = binding.name_any().trim_start_matches("azure-").to_owned();
                if !wanted.contains(&principal) {
                    api.delete(&binding.name_any(), &DeleteParams::default()).await?;
                }
            }
            reef.administrators = wanted;
        }
        Ok(())
    }
}

/// The Gateway API's CRDs and the class of the application routing add-on.
async fn install_gateway_api(client: &Client, tools: &Tools) -> Result<(), Error> {
    let text = fs::read_to_string(tools.find("gateway-api.yaml")?).context("the Gateway API's CRDs")?;
    let crds = serde_saphyr::from_multiple::<DynamicObject>(&text).map_err(std::io::Error::other);
    let apply = PatchParams::apply("aks-managed").force();
    let gvk = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let api = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::from_gvk(&gvk));
    for crd in crds.context("the Gateway API's CRDs")? {
        api.patch(&crd.name_any(), &apply, &Patch::Apply(&crd)).await?;
    }
    let class = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": { "name": gateway::CLASS },
        "spec": { "controllerName": gateway::CONTROLLER },
    });
    let gvk = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "GatewayClass");
    let classes = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::from_gvk(&gvk));
    // The API server serves a new kind a moment after its CRD is there.
    for _ in 0..100 {
        match classes.patch(gateway::CLASS, &apply, &Patch::Apply(&class)).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Ended("the Gateway API's CRDs were not served in time".to_owned()))
}

/// The driver of Azure Files, which AKS brings. Its node part is that of the sandbox's node.
async fn install_files_driver(client: &Client) -> Result<(), Error> {
    let driver = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver",
        "metadata": { "name": DRIVER },
        "spec": {
            "attachRequired": false, "podInfoOnMount": true, "fsGroupPolicy": "ReadWriteOnceWithFSType",
            "volumeLifecycleModes": ["Persistent", "Ephemeral"],
        },
    });
    let apply = PatchParams::apply("aks-managed").force();
    Api::<CSIDriver>::all(client.clone()).patch(DRIVER, &apply, &Patch::Apply(&driver)).await?;
    Ok(())
}
