//! Which real API server stands behind which emulated AKS cluster.

use axum::{extract::State, http::StatusCode};
use serde_json::{Value, json};

use super::{
    cloud::Cloud,
    id::{Target, key},
    kinds::Kind,
    server::{Azure, lock},
};

/// A running cluster that an AKS cluster can get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name in the sandbox.
    pub name: String,
    /// Port of its API server on this machine.
    pub port: u16,
    /// Certificate of its authority, PEM.
    pub ca: String,
    /// Issuer of its ServiceAccounts' tokens.
    pub issuer: String,
    /// Kubernetes version, for example `1.36.3`.
    pub version: String,
}

/// What the sandbox has to do about a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An AKS cluster with this name and resource key is there.
    Created {
        /// The slot behind it.
        slot: Slot,
        /// Name of the AKS cluster.
        cluster: String,
    },
    /// The authority of its API server's public name is to be replaced by another.
    Rotated {
        /// The slot.
        slot: Slot,
    },
    /// The AKS cluster is gone; so is what ran in its slot.
    Deleted {
        /// The slot that was behind it.
        slot: Slot,
        /// Name of the AKS cluster.
        cluster: String,
    },
}

/// All slots.
#[derive(Default)]
pub struct Slots {
    free: Vec<Slot>,
    used: Vec<Used>,
    /// Keys of AKS clusters that are gone.
    gone: Vec<String>,
    events: Vec<Event>,
}

struct Used {
    key: String,
    cluster: String,
    slot: Slot,
    ready: Option<String>,
}

impl Slots {
    /// Adds a free slot.
    pub fn add(&mut self, slot: Slot) {
        self.free.push(slot);
    }

    /// Whether another AKS cluster can be made.
    pub fn any_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// The version that the free slots have.
    pub fn version(&self) -> Option<&str> {
        self.free.first().map(|slot| slot.version.as_str())
    }

    /// Whether there was an AKS cluster with this key.
    pub fn had(&self, at: &str) -> bool {
        self.gone.iter().any(|gone| gone == at)
    }

    /// The version that the AKS cluster with this key has, or gets.
    pub fn version_of(&self, at: &str) -> Option<String> {
        let used = self.used.iter().find(|used| used.key == at).map(|used| used.slot.version.clone());
        used.or_else(|| self.version().map(str::to_owned))
    }

    /// Takes a slot for an AKS cluster that is to be made, unless it has one.
    pub fn wanted(&mut self, kind: &Kind, at: &str, name: &str) {
        let has = self.used.iter().any(|used| used.key == at);
        if kind.name == "Microsoft.ContainerService/managedClusters" && !has && !self.free.is_empty() {
            let slot = self.free.remove(0);
            self.used.push(Used { key: at.to_owned(), cluster: name.to_owned(), slot, ready: None });
        }
    }

    /// The AKS cluster is made: shows what its slot gives it.
    pub fn created(&mut self, at: &str, resource: &mut Value) {
        let Some(used) = self.used.iter_mut().find(|used| used.key == at) else { return };
        let properties = &mut resource["properties"];
        if properties["oidcIssuerProfile"]["enabled"] == true {
            properties["oidcIssuerProfile"]["issuerURL"] = json!(used.slot.issuer);
        }
        properties["currentKubernetesVersion"] = json!(used.slot.version);
        if used.ready.is_none() {
            used.ready = Some(properties["fqdn"].as_str().unwrap_or_default().to_owned());
            self.events.push(Event::Created { slot: used.slot.clone(), cluster: used.cluster.clone() });
        }
    }

    /// Gives up the slots of AKS clusters that are gone. A slot is never given out twice.
    pub fn deleted(&mut self, gone: &impl Fn(&str) -> bool) {
        let (gone, used) = std::mem::take(&mut self.used).into_iter().partition(|used| gone(&used.key));
        self.used = used;
        let gone: Vec<Used> = gone;
        for used in gone {
            self.gone.push(used.key);
            self.events.push(Event::Deleted { slot: used.slot, cluster: used.cluster });
        }
    }

    /// Replaces the authorities of all clusters that are made.
    pub fn rotate(&mut self) {
        self.events.extend(self.used.iter().map(|used| Event::Rotated { slot: used.slot.clone() }));
    }

    /// The certificate of the authority that vouches for the API server from now on.
    pub fn vouched(&mut self, name: &str, ca: &str) {
        self.used
            .iter_mut()
            .filter(|used| used.slot.name == name)
            .for_each(|used| ca.clone_into(&mut used.slot.ca));
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The slot behind an AKS cluster that is made.
    pub fn of(&self, id: &str) -> Option<&Slot> {
        let at = key(id);
        self.used.iter().find(|used| used.key == at && used.ready.is_some()).map(|used| &used.slot)
    }

    /// The API server behind a host name.
    pub fn port(&self, host: &str) -> Option<u16> {
        self.used.iter().find(|used| used.ready.as_deref() == Some(host)).map(|used| used.slot.port)
    }

    /// Each AKS cluster that is made: resource key and slot.
    pub fn made(&self) -> Vec<(String, Slot)> {
        let made = self.used.iter().filter(|used| used.ready.is_some());
        made.map(|used| (used.key.clone(), used.slot.clone())).collect()
    }
}

impl Cloud {
    /// Whether AKS knows, or knew, the cluster that a path is about.
    pub(super) fn had_cluster(&self, target: &Target) -> bool {
        let name = target.names.first().map_or("", String::as_str);
        let at = format!("{}/providers/microsoft.containerservice/managedclusters/{name}", target.scope);
        target.types.len() > 1 || self.slots.had(&key(&at))
    }
}

impl Azure {
    /// The certificate of the authority that vouches for a slot's API server from now on.
    pub fn vouched(&self, slot: &str, ca: &str) {
        lock(self.cloud()).slots.vouched(slot, ca);
    }
}

/// Replaces the authorities of all AKS clusters, as `az aks rotate-certs` does for one.
pub(super) async fn rotate_authorities(State(azure): State<Azure>) -> StatusCode {
    lock(azure.cloud()).slots.rotate();
    StatusCode::NO_CONTENT
}
