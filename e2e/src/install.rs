//! What a platform team does with a new management cluster: certificate, charts, manifests.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Namespace, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    discovery,
};
use reef_crds::meta::CONFIRM_DELETION;
use tokio::{process::Command, time::Instant};

use crate::{
    Context, Error,
    azure::server::{Azure, Platform},
    cluster::Cluster,
    dir::Dir,
    kstatus::{State, state},
    pki::{Authority, Subject, write_secret},
    tools::Tools,
};

/// Namespace of the operator in the management cluster.
pub const NAMESPACE: &str = "reef-operator";

/// File in the sandbox's folder with the certificate of the authority of the emulated Azure.
pub const AZURE_CA_FILE: &str = "run/azure-ca.crt";

/// ConfigMap with the certificate of the emulated Azure's authority.
pub const AZURE_CA: &str = "azure-ca";

/// The public DNS zone of the sandbox's instances.
pub const ZONE: &str = "octopus.example";

/// How long samples may take to become Ready, seconds.
const SAMPLES_SECONDS: u64 = 600;

/// Makes the operator's namespace, with the strictest pod security; the wildcard certificate that the
/// sample Region refers to; the operator's identity and the DNS zone in Azure; and `azure.json`.
pub async fn prepare(
    client: &Client,
    dir: &Dir,
    cluster: &Cluster,
    azure: &Azure,
) -> Result<Platform, Error> {
    let enforce = ("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned());
    let namespace = Namespace {
        metadata: ObjectMeta {
            name: Some(NAMESPACE.to_owned()),
            labels: Some(BTreeMap::from([enforce])),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
    let authority = Authority::new("sandbox public authority")?;
    fs::write(dir.join("run/public-ca.crt"), authority.cert()).context("write public-ca.crt")?;
    let secret = wildcard_secret(&authority, "wildcard-tls")?;
    Api::namespaced(client.clone(), NAMESPACE).create(&PostParams::default(), &secret).await?;
    let data = BTreeMap::from([("ca.crt".to_owned(), azure.ca().to_owned())]);
    let metadata = ObjectMeta { name: Some(AZURE_CA.to_owned()), ..ObjectMeta::default() };
    let config = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
    Api::namespaced(client.clone(), NAMESPACE).create(&PostParams::default(), &config).await?;
    let ca_file = dir.join(AZURE_CA_FILE);
    fs::write(&ca_file, azure.ca()).context("write azure-ca.crt")?;
    let access = format!("{:#}\n", azure.access(&ca_file)?);
    write_secret(&dir.join("azure.json"), access.as_bytes()).context("write azure.json")?;
    let subject = format!("system:serviceaccount:{NAMESPACE}:reef-operator");
    Ok(azure.make_platform(ZONE, &cluster.issuer(), &subject))
}

/// A Secret with a certificate for all names of the zone.
pub fn wildcard_secret(authority: &Authority, name: &str) -> Result<Secret, Error> {
    let wildcard = format!("*.{ZONE}");
    let identity = authority.server(&Subject { user: &wildcard, group: None }, &[&wildcard])?;
    let data = [("tls.crt", identity.cert), ("tls.key", identity.key)];
    Ok(Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data.into_iter().map(|(k, v)| (k.to_owned(), ByteString(v.into_bytes()))).collect()),
        ..Secret::default()
    })
}

/// Where the charts are.
pub fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts")
}

/// Installs both charts with helm and waits until helm calls them ready.
pub async fn operator(dir: &Dir, tools: &Tools, platform: &Platform, time_scale: f64) -> Result<(), Error> {
    helm(dir, tools, &["upgrade", "--install", "reef-operator-crds"], "reef-operator-crds", &[]).await?;
    let client_id = format!("azure.clientId={}", platform.client_id);
    let ca = format!("azure.caConfigMap={AZURE_CA}");
    // Azure's waits are shorter here, so ours are too, and its limits a second are higher.
    let rate = |name: &str, of_azure: f64| {
        format!("azure.{name}={}", (of_azure * time_scale.max(1.0)).round().min(100_000.0))
    };
    let (reads, writes) = (rate("readsPerSecond", 25.0), rate("writesPerSecond", 10.0));
    let values = ["fleet=sandbox", &client_id, &ca, "azure.pollSeconds=1", &reads, &writes];
    let values: Vec<_> = values.iter().flat_map(|value| ["--set", value]).collect();
    helm(dir, tools, &["upgrade", "--install", "reef-operator"], "reef-operator", &values).await
}

/// Runs helm against the management cluster with a chart of ours.
pub async fn helm(dir: &Dir, tools: &Tools, verb: &[&str], chart: &str, more: &[&str]) -> Result<(), Error> {
    let home = dir.join("run/helm");
    let output = Command::new(tools.find("helm")?)
        .args(verb)
        .arg(charts().join(chart))
        .args(["--namespace", NAMESPACE, "--wait", "--timeout", "120s"])
        .args(more)
        .env("KUBECONFIG", dir.management_kubeconfig())
        .env("HELM_CACHE_HOME", home.join("cache"))
        .env("HELM_CONFIG_HOME", home.join("config"))
        .env("HELM_DATA_HOME", home.join("data"))
        .env_remove("HTTPS_PROXY")
        .env_remove("https_proxy")
        .output()
        .await
        .context("run helm")?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Helm(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// The samples while they become Ready.
pub struct Demo(Vec<Sample>);

struct Sample {
    api: Api<DynamicObject>,
    kind: String,
    name: String,
    said: String,
    ready: bool,
}

/// How the samples ended.
pub struct Outcome(Vec<Sample>);

impl Demo {
    /// Applies every manifest of a folder, in the order of the file names.
    pub async fn apply(client: &Client, folder: &Path) -> Result<Self, Error> {
        let entries = fs::read_dir(folder).context(format!("read {}", folder.display()))?;
        let mut files: Vec<_> = entries.flatten().map(|e| e.path()).collect();
        files.retain(|f| f.extension().is_some_and(|e| e == "yaml"));
        files.sort();
        let mut samples = Vec::new();
        for file in files {
            let text = fs::read_to_string(&file).context(format!("read {}", file.display()))?;
            let objects = serde_saphyr::from_multiple::<DynamicObject>(&text);
            let objects = objects.map_err(std::io::Error::other).context(file.display().to_string())?;
            for object in objects {
                let sample = apply(client, &object).await?;
                // A namespace has no condition to wait for.
                samples.extend((sample.kind != "Namespace").then_some(sample));
            }
        }
        if samples.is_empty() {
            let what = format!("{} holds no manifest (*.yaml)", folder.display());
            return Err(Error::Prerequisite(what));
        }
        Ok(Self(samples))
    }

    /// Says each change of the samples until all are Ready, one is Stalled, or time is over.
    pub async fn watch(mut self, began: Instant) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(SAMPLES_SECONDS);
        while Instant::now() < deadline {
            let mut stalled = false;
            for sample in &mut self.0 {
                stalled |= sample.look(began).await;
            }
            if stalled || self.0.iter().all(|s| s.ready) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Outcome(self.0)
    }
}

async fn apply(client: &Client, object: &DynamicObject) -> Result<Sample, Error> {
    let types = object.types.clone().unwrap_or_default();
    let gvk = GroupVersionKind::try_from(&types).map_err(std::io::Error::other).context("sample")?;
    let (resource, capabilities) = discovery::pinned_kind(client, &gvk).await?;
    let api = Api::<DynamicObject>::dynamic(client.clone(), &resource, &capabilities.scope);
    let api = match object.namespace() {
        Some(namespace) => api.constrain(&namespace),
        None => api,
    };
    let name = object.name_any();
    api.patch(&name, &PatchParams::apply("reef-sandbox").force(), &Patch::Apply(object)).await?;
    Ok(Sample { api, kind: types.kind, name, said: String::new(), ready: false })
}

impl Sample {
    /// Looks once; true if the object is Stalled for the spec it has now.
    async fn look(&mut self, began: Instant) -> bool {
        let object = match self.api.get(&self.name).await {
            Ok(object) => object,
            Err(error) => {
                self.ready = false;
                self.said = format!("{} {}  {error}", self.kind, self.name);
                return false;
            }
        };
        // What the API server sent is JSON.
        let (state, said) = state(&serde_json::to_value(&object).unwrap_or_default());
        if let Some(said) = said.map(|said| format!("{} {}  {said}", self.kind, self.name))
            && said != self.said
        {
            println!("{:5.1} s  {said}", began.elapsed().as_secs_f32());
            self.said = said;
        }
        self.ready = state == State::Ready;
        state == State::Stalled
    }
}

impl Outcome {
    /// An error with the reasons unless all samples are Ready.
    pub fn into_result(self) -> Result<(), Error> {
        let bad: Vec<_> = self.0.into_iter().filter(|s| !s.ready).map(|s| s.said).collect();
        if bad.is_empty() {
            println!("all samples are Ready");
            return Ok(());
        }
        Err(Error::Ended(format!("not Ready: {}", bad.join("; "))))
    }

    /// What to try next; `curls` are lines that reach the instances.
    pub fn print(&self, dir: &Dir, curls: &[String]) {
        let unready = self.0.iter().filter(|s| !s.ready).count();
        if unready > 0 {
            println!("{unready} of {} samples are not Ready; kubectl describe tells why", self.0.len());
        }
        // `make tools` builds kubectl where none is installed.
        let path =
            std::env::var("REEF_TOOLS").map(|t| format!("export PATH=$PATH:{t}\n  ")).unwrap_or_default();
        println!(
            "\nTry, in another terminal:\n  \
             {path}export KUBECONFIG={}\n  \
             kubectl get reef-operator                                # all our objects\n  \
             {}\n  \
             kubectl -n customers describe ci acme\n  \
             kubectl -n customers delete ci acme                      # refused: deletion has to be confirmed\n  \
             kubectl -n customers annotate ci acme {CONFIRM_DELETION}=true\n  \
             kubectl -n customers delete ci acme; kubectl get ri      # its data is kept, and this says where\n  \
             KUBECONFIG={}/<cluster>.kubeconfig kubectl get pods -A    # the servers, on their reef\n  \
             kubectl -n {NAMESPACE} get pods,leases\n  \
             kubectl -n {NAMESPACE} logs deployment/reef-operator\n  \
             kubectl -n {NAMESPACE} delete pod --all                  # they come back, one leads\n\
             Logs: {}\nCtrl-C ends it all.",
            dir.management_kubeconfig().display(),
            curls.join("\n  "),
            dir.join("reefs").display(),
            dir.join("logs").display(),
        );
    }
}
