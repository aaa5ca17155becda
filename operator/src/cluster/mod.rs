//! The clusters of reefs: how the operator reaches one, as itself, through Entra.

mod breaker;
pub mod drift;
pub mod guard;
pub mod keep;
pub mod watch;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{HeaderValue, Request, Uri, header::AUTHORIZATION};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;
use tokio::time::Instant;
use tower::{
    BoxError,
    buffer::BufferLayer,
    filter::{AsyncFilterLayer, AsyncPredicate, FilterLayer},
    timeout::TimeoutLayer,
};

use breaker::BreakerLayer;

use crate::{
    azure::{Arm, ArmError},
    client::proxy,
    controller::stop::Ban,
    requests::CountLayer,
};

/// The server side of every AKS cluster that uses Entra; the same application in all tenants.
const SCOPE: &str = "6dae42f8-4368-4678-94ff-3960e28e3630/.default";

/// How long a reef's API server may take to begin an answer.
const FIRST_BYTE: Duration = Duration::from_secs(15);

/// How long Azure may take to say how a cluster is connected with anew, while there is a connection.
const RENEWAL: Duration = Duration::from_secs(10);

/// Between two times that this is asked for in vain.
const BETWEEN_RENEWALS: Duration = Duration::from_secs(30);

/// Why a cluster cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Azure gave no credential.
    #[error(transparent)]
    Azure(#[from] ArmError),
    /// What Azure gave is no kubeconfig that we understand.
    #[error("the cluster's credential: {0}")]
    Credential(String),
    /// No client can be made.
    #[error("client: {0}")]
    Client(String),
}

/// A connection to a reef's cluster.
#[derive(Clone)]
pub struct ReefCluster {
    /// Host of the API server that it is for.
    pub host: String,
    /// The client.
    pub client: Client,
    /// What was heard from it.
    pub record: Arc<watch::Record>,
    /// Follows the servers in it for as long as the connection is used.
    _watches: Arc<watch::Watches>,
}

impl ReefCluster {
    /// The same, whose client refuses what is forbidden.
    #[must_use]
    pub fn under(mut self, ban: &Ban) -> Self {
        self.client = guard::guarded(self.client, ban);
        self
    }
}

#[derive(Clone)]
struct Bearer(Arc<Arm>);

impl AsyncPredicate<Request<Body>> for Bearer {
    type Future = BoxFuture<'static, Result<Request<Body>, BoxError>>;
    type Request = Request<Body>;

    fn check(&mut self, mut request: Request<Body>) -> Self::Future {
        let arm = self.0.clone();
        Box::pin(async move {
            let mut header = HeaderValue::from_str(&arm.bearer(SCOPE).await?)?;
            header.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, header);
            Ok(request)
        })
    }
}

/// The connections that were made, by the id of the AKS cluster: all controllers share them.
pub struct Clusters {
    /// Label of what is ours in the clusters.
    fleet: String,
    known: Mutex<HashMap<String, ReefCluster>>,
    records: Mutex<HashMap<String, Arc<watch::Record>>>,
    /// Held while a cluster is connected with: who asks meanwhile gets the connection that there was, or waits for the first.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Clusters that are connected with anew as soon as Azure says how, and when that was last asked in vain.
    doubted: Mutex<HashMap<String, Option<Instant>>>,
    changes: watch::Told,
}

impl Clusters {
    /// None yet. What changes for instances in any of them comes out of the stream.
    pub fn new(fleet: &str) -> (Self, watch::Heard) {
        let (changes, heard) = futures::channel::mpsc::unbounded();
        let none = Self {
            fleet: fleet.to_owned(),
            known: Mutex::default(),
            records: Mutex::default(),
            turns: Mutex::default(),
            doubted: Mutex::default(),
            changes,
        };
        (none, heard)
    }

    /// The connection to the AKS cluster with this id, whose API server is at `host`; made if there is none. One that is
    /// in doubt is made anew, and is used on while Azure does not say how.
    pub async fn get(&self, arm: &Arc<Arm>, id: &str, api: &str, host: &str) -> Result<ReefCluster, Error> {
        let known = || self.lock().get(id).filter(|known| known.host == host).cloned();
        // One in doubt is used as well, as long as it is too early to ask again.
        let in_use = || known().filter(|_| !self.is_to_be_renewed(id));
        if let Some(known) = in_use() {
            return Ok(known);
        }
        let turn = {
            let mut all = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(id.to_owned()).or_default().clone()
        };
        let _turn = match (turn.try_lock(), known()) {
            (Ok(turn), _) => turn,
            // Somebody tries just now.
            (Err(_), Some(known)) => return Ok(known),
            (Err(_), None) => turn.lock().await,
        };
        if let Some(known) = in_use() {
            return Ok(known);
        }
        let client = match known() {
            None => connect(arm, id, api, host).await?,
            Some(known) => {
                self.doubted().insert(id.to_owned(), Some(Instant::now()));
                let renewed = tokio::time::timeout(RENEWAL, connect(arm, id, api, host)).await;
                let Ok(Ok(client)) = renewed else { return Ok(known) };
                client
            }
        };
        self.doubted().remove(id);
        let record = {
            let mut all = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(id.to_owned()).or_default().clone()
        };
        let watches = watch::follow(&client, &self.fleet, &record, &self.changes);
        let made = ReefCluster { host: host.to_owned(), client, record, _watches: Arc::new(watches) };
        self.lock().insert(id.to_owned(), made.clone());
        Ok(made)
    }

    /// The next look connects anew if it can: the cluster's authority may have changed.
    pub fn doubt(&self, id: &str) {
        self.doubted().entry(id.to_owned()).or_default();
    }

    /// The connection works.
    pub fn trust(&self, id: &str) {
        self.doubted().remove(id);
    }

    /// Whether the connection is in doubt and it is time to ask Azure for a new one.
    fn is_to_be_renewed(&self, id: &str) -> bool {
        let asked = self.doubted().get(id).copied();
        asked.is_some_and(|asked| asked.is_none_or(|at| at.elapsed() >= BETWEEN_RENEWALS))
    }

    /// The cluster is gone.
    pub fn forget(&self, id: &str) {
        self.lock().remove(id);
        self.trust(id);
    }

    fn doubted(&self) -> std::sync::MutexGuard<'_, HashMap<String, Option<Instant>>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, ReefCluster>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects to the AKS cluster with this id, whose API server is at `host`. One call to Azure for the
/// certificate of the cluster's authority; everything else is the token of our own identity.
async fn connect(arm: &Arc<Arm>, id: &str, api: &str, host: &str) -> Result<Client, Error> {
    let answer = arm.post(&format!("{id}/listClusterUserCredential"), api).await?;
    let ca = authority(&answer)?;
    let uri: Uri =
        format!("https://{host}:443").parse().map_err(|e| Error::Credential(format!("host {host}: {e}")))?;
    let mut config = Config::new(uri);
    config.proxy_url = proxy(&config.cluster_url).map_err(|e| Error::Client(e.to_string()))?;
    config.root_cert = Some(ca);
    config.connect_timeout = Some(Duration::from_secs(5));
    config.default_retry = false;
    config.headers.extend(arm.actor().header());
    let count = CountLayer { metrics: arm.metrics().clone(), host: arm.cell().name().to_owned() };
    Ok(ClientBuilder::try_from(config)
        .map_err(|e| Error::Client(e.to_string()))?
        .with_layer(&FilterLayer::new(arm.actor().clone()))
        .with_layer(&BufferLayer::new(1024))
        .with_layer(&TimeoutLayer::new(FIRST_BYTE))
        .with_layer(&count)
        .with_layer(&BreakerLayer(arm.cell().clone()))
        // Outermost: how long Entra takes says nothing about the API server.
        .with_layer(&AsyncFilterLayer::new(Bearer(arm.clone())))
        .build())
}

/// The certificates in a credential of AKS.
fn authority(answer: &Value) -> Result<Vec<Vec<u8>>, Error> {
    let bad = |what: &str| Error::Credential(what.to_owned());
    let value = answer["kubeconfigs"][0]["value"].as_str().ok_or_else(|| bad("no kubeconfig"))?;
    let text = azure_core::base64::decode(value).map_err(|_| bad("not base64"))?;
    let text = String::from_utf8(text).map_err(|_| bad("not text"))?;
    let parsed = kube::config::Kubeconfig::from_yaml(&text).map_err(|e| Error::Credential(e.to_string()))?;
    let data = parsed
        .clusters
        .first()
        .and_then(|c| c.cluster.as_ref())
        .and_then(|c| c.certificate_authority_data.clone());
    let pem = azure_core::base64::decode(data.ok_or_else(|| bad("no authority"))?)
        .map_err(|_| bad("not base64"))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|e| Error::Credential(e.to_string()))?;
    if certificates.is_empty() {
        return Err(bad("no certificate of an authority"));
    }
    Ok(certificates.into_iter().map(|c| c.to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test(start_paused = true)]
    async fn a_connection_in_doubt_is_renewed_at_once_and_not_all_the_time() {
        let (all, _heard) = Clusters::new("f");
        assert!(!all.is_to_be_renewed("c"));
        all.doubt("c");
        assert!(all.is_to_be_renewed("c") && !all.is_to_be_renewed("d"));
        // Asked in vain.
        all.doubted().insert("c".to_owned(), Some(Instant::now()));
        all.doubt("c");
        assert!(!all.is_to_be_renewed("c"), "that it still fails is no reason to ask again at once");
        tokio::time::advance(BETWEEN_RENEWALS).await;
        assert!(all.is_to_be_renewed("c"));
        all.trust("c");
        assert!(!all.is_to_be_renewed("c"));
    }

    #[test]
    fn a_credential_that_is_none_is_an_error() {
        let encode = |text: &str| azure_core::base64::encode(text);
        let pem = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap().cert.pem();
        let config = |ca: &str| {
            let cluster = json!({ "name": "c", "cluster": { "server": "https://a", "certificate-authority-data": encode(ca) } });
            encode(&json!({ "apiVersion": "v1", "kind": "Config", "clusters": [cluster] }).to_string())
        };
        let answer = |value: &str| json!({ "kubeconfigs": [{ "name": "clusterUser", "value": value }] });
        assert_eq!(authority(&answer(&config(&pem))).unwrap().len(), 1);
        for (bad, expect) in [
            (json!({}), "no kubeconfig"),
            (answer("%"), "not base64"),
            (answer(&encode("{}")), "no authority"),
            (answer(&config("no certificate")), "no certificate"),
        ] {
            let error = authority(&bad).unwrap_err().to_string();
            assert!(error.contains(expect), "{bad}: {error}");
        }
    }
}
