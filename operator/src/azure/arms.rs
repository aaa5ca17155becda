//! Clients of ARM, one for each identity.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{Arm, ArmError, AzureArgs, Cloud, Proof, client::ANSWER};
use crate::{
    actor::Actor,
    bulkhead::{Cell, Gate, Rates},
    causes,
    metrics::Metrics,
};

/// Why there is no client for Azure at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The CA file cannot be used.
    #[error("--azure-ca-file {path}: {message}")]
    Ca {
        /// The file.
        path: String,
        /// What is wrong with it.
        message: String,
    },
    /// The HTTP client cannot be made, most often because the system has no authorities to trust.
    #[error("HTTP client for Azure: {0}; give the image ca-certificates, or set --azure-ca-file")]
    Http(String),
}

/// An Azure identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cloud in which it is.
    pub cloud: Cloud,
    /// Entra tenant.
    pub tenant: String,
    /// Client id.
    pub client: String,
    /// How it is proven.
    pub proof: Proof,
}

/// Where in Azure something is, and as whom it is worked on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The cloud.
    pub cloud: Cloud,
    /// Entra tenant.
    pub tenant: String,
    /// Client id; the operator's own if none is given.
    pub client: Option<String>,
    /// How the operator proves that it is this identity.
    pub proof: Proof,
    /// Name of the Azure region, for example `westeurope`; empty where it does not matter.
    pub location: String,
}

/// Clients, one per identity.
pub struct Arms {
    pub(super) args: AzureArgs,
    pub(super) http: reqwest::Client,
    /// For the metadata service of the machine, which is on the machine's own link: no proxy reaches it.
    pub(super) metadata: reqwest::Client,
    pub(super) metrics: Arc<Metrics>,
    pub(super) actor: Actor,
    /// The way of all calls, whoever makes them.
    pub(super) gate: Arc<Gate>,
    clients: Mutex<HashMap<Identity, Arc<Arm>>>,
    /// What was read from Secrets, and from which, by Region.
    proofs: Mutex<HashMap<String, (String, Proof)>>,
}

impl Arms {
    /// Prepares what all clients of `actor` share. Makes no call.
    pub fn new(args: AzureArgs, metrics: Arc<Metrics>, actor: Actor) -> Result<Self, Error> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(20))
            .read_timeout(ANSWER)
            .redirect(reqwest::redirect::Policy::none())
            // One connection of HTTP/2 would pin all calls to one of ARM's front ends.
            .http1_only()
            .pool_max_idle_per_host(10);
        if let Some(path) = &args.azure_ca_file {
            let broken = |message: String| Error::Ca { path: path.display().to_string(), message };
            let pem = std::fs::read(path).map_err(|e| broken(e.to_string()))?;
            let certificates =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| broken(e.to_string()))?;
            if certificates.is_empty() {
                return Err(broken("holds no certificate in PEM".to_owned()));
            }
            builder = builder.tls_certs_only(certificates);
        }
        let http = builder.build().map_err(|e| Error::Http(causes(&e)))?;
        // It speaks plain HTTP, and an image may have no authorities of the system.
        let metadata = reqwest::Client::builder()
            .tls_certs_only([])
            .no_proxy()
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| Error::Http(causes(&e)))?;
        let rates = Rates {
            reads_per_second: args.azure_reads_per_second,
            writes_per_second: args.azure_writes_per_second,
        };
        Ok(Self {
            args,
            http,
            metadata,
            metrics,
            actor,
            gate: Gate::new(rates),
            clients: Mutex::default(),
            proofs: Mutex::default(),
        })
    }

    /// What proves the identity of a Region, as it was last read from this source.
    pub fn proof(&self, region: &str, source: &str) -> Option<Proof> {
        let proofs = self.proofs.lock().unwrap_or_else(PoisonError::into_inner);
        proofs.get(region).filter(|(from, _)| from == source).map(|(_, proof)| proof.clone())
    }

    /// Remembers what was read from a source for a Region; none where it is known that there is nothing. Clients with what
    /// it was before are forgotten.
    pub fn prove(&self, region: &str, found: Option<(String, Proof)>) {
        let mut proofs = self.proofs.lock().unwrap_or_else(PoisonError::into_inner);
        let before = proofs.remove(region);
        if let Some((_, before)) = before.filter(|before| Some(before) != found.as_ref()) {
            let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            clients.retain(|identity, _| identity.proof != before);
        }
        proofs.extend(found.map(|found| (region.to_owned(), found)));
    }

    /// The client for what belongs to a cell: of the identity that its region names, or of the operator's own.
    pub fn client(&self, account: &Account, cell: Arc<Cell>) -> Result<Arc<Arm>, ArmError> {
        let client = account.client.as_ref().or(self.args.azure_client_id.as_ref());
        let client = client.ok_or_else(|| ArmError::NoToken {
            client: "(none)".to_owned(),
            message: "no client id: set spec.azure.clientId or the chart's azure.clientId".to_owned(),
            refused: true,
        })?;
        let Account { cloud, tenant, proof, location, .. } = account.clone();
        let identity = Identity { cloud, tenant, client: client.clone(), proof };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(arm) = clients.get(&identity) {
            return Ok(arm.elsewhere(location, cell));
        }
        let arm = Arc::new(Arm::new(self, identity.clone(), cell, location)?);
        clients.insert(identity, arm.clone());
        Ok(arm)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{
        azure::Unless,
        bulkhead::Cells,
        controller::{stop::Ban, trouble::Trouble},
    };

    fn account() -> Account {
        Account {
            cloud: Cloud::public(),
            tenant: "t".to_owned(),
            client: None,
            proof: Proof::WorkloadIdentity,
            location: String::new(),
        }
    }

    #[test]
    fn a_bad_ca_file_is_named() {
        let args = |path: &str| AzureArgs {
            azure_client_id: None,
            azure_federated_token_file: "/none".into(),
            azure_ca_file: Some(path.into()),
            azure_reads_per_second: 25,
            azure_writes_per_second: 10,
        };
        for (path, expect) in [
            ("/nowhere.pem", "No such file"),
            (concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"), "no certificate"),
        ] {
            let Err(error) = Arms::new(args(path), Arc::default(), Actor::default()) else {
                panic!("{path} was taken")
            };
            let text = error.to_string();
            assert!(text.contains(path) && text.contains(expect), "{text}");
        }
    }

    #[tokio::test]
    async fn what_is_forbidden_is_not_even_tried() {
        let args = AzureArgs {
            azure_client_id: Some("c".to_owned()),
            // Only has to be there: nobody asks for a token.
            azure_federated_token_file: concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into(),
            azure_ca_file: None,
            azure_reads_per_second: 25,
            azure_writes_per_second: 10,
        };
        let arm = Arms::new(args, Arc::default(), Actor::default())
            .unwrap()
            .client(&account(), Cells::new(1, Arc::default()).reef("r"))
            .unwrap();
        assert!(Arc::ptr_eq(&arm, &arm.under(&Ban::default())));
        let why = |what: &str| Trouble::new(reef_crds::condition::Reason::EmergencyStop, what);
        let ban = Ban { writes: Some(why("all")), deletions: Some(why("delete")) };
        let arm = arm.under(&ban);
        let put = arm.put("/a", "v", &Value::Null, Unless::Never).await;
        assert_eq!(put.err(), Some(ArmError::Forbidden(why("all"))));
        assert_eq!(arm.delete("/a", "v").await.err(), Some(ArmError::Forbidden(why("delete"))));
    }

    #[test]
    fn what_proves_an_identity_is_good_for_its_source_only() {
        let args = AzureArgs {
            azure_client_id: Some("c".to_owned()),
            azure_federated_token_file: "/none".into(),
            azure_ca_file: None,
            azure_reads_per_second: 25,
            azure_writes_per_second: 10,
        };
        let arms = Arms::new(args, Arc::default(), Actor::default()).unwrap();
        let secret = |text: &str| Proof::ClientSecret(text.into());
        let client = |proof: Proof| {
            let cell = Cells::new(1, Arc::default()).reef("r");
            arms.client(&Account { proof, ..account() }, cell).unwrap();
            arms.clients.lock().unwrap().len()
        };
        arms.prove("weu", Some(("ClientSecret n/s".to_owned(), secret("one"))));
        assert_eq!(arms.proof("weu", "ClientSecret n/s"), Some(secret("one")));
        assert_eq!(arms.proof("weu", "ClientSecret n/other"), None);
        assert_eq!(arms.proof("neu", "ClientSecret n/s"), None);
        assert_eq!(client(secret("one")), 1);
        arms.prove("weu", Some(("ClientSecret n/s".to_owned(), secret("one"))));
        assert_eq!(arms.clients.lock().unwrap().len(), 1, "read again, and the same");
        arms.prove("weu", Some(("ClientSecret n/s".to_owned(), secret("two"))));
        assert_eq!(arms.clients.lock().unwrap().len(), 0, "nobody signs in with the old one any more");
        assert_eq!(client(secret("two")), 1);
        arms.prove("weu", None);
        assert_eq!((arms.proof("weu", "ClientSecret n/s"), arms.clients.lock().unwrap().len()), (None, 0));
    }

    #[test]
    fn without_a_client_id_the_setting_is_named() {
        let args = AzureArgs {
            azure_client_id: None,
            azure_federated_token_file: "/none".into(),
            azure_ca_file: None,
            azure_reads_per_second: 25,
            azure_writes_per_second: 10,
        };
        let arms = Arms::new(args, Arc::default(), Actor::default()).unwrap();
        let Err(error) = arms.client(&account(), Cells::new(1, Arc::default()).reef("r")) else {
            panic!("a client")
        };
        assert!(error.to_string().contains("spec.azure.clientId"), "{error}");
    }
}
