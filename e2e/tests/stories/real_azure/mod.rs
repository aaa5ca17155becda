//! `make test-azure`: the story from creation to deletion against a real subscription, which costs money. Never run by
//! `make test`, which runs the same against the emulated Azure.
//!
//! What it needs: a management cluster of the user's with the operator installed (KUBECONFIG), and the variables of
//! [`settings`]. Everything that it makes has names with one prefix, which the operator puts into its tags; by these the
//! clean-up finds what a run left in Azure, also when the run or the operator is no more. Its objects in the management
//! cluster have a label of their own ([`objects::RUN`]): a name alone says nothing of who made them.

mod azure;
mod bill;
mod in_the_sandbox;
mod life;
mod objects;
mod settings;

use std::{
    fmt::Display,
    io::Write,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret};
use kube::{
    Api, Client, Config, ResourceExt,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use reef_crds::Region;
use reef_operator::{
    actor::Actor,
    azure::{Account, Arm, Arms, AzureArgs, Proof},
    bulkhead::Cells,
};
use tokio::signal::unix::{SignalKind, signal};

use azure::Azure;
use bill::Bill;
use objects::Objects;
use settings::{PREFIX, Settings};

/// How long objects may take to go, all together, while the operator deletes what is in Azure.
const GOING: Duration = Duration::from_secs(3600);

/// How long what is in Azure may take to go without the operator, and objects without it.
const GOING_WITHOUT: Duration = Duration::from_secs(3600);

/// How long it is tried to have all objects deleted.
const ASKING: Duration = Duration::from_secs(600);

/// What cleans up after runs.
struct Cleaner {
    azure: Azure,
    /// The management cluster; none if there is none any more.
    client: Option<Client>,
    /// How long objects may take to go before what is in Azure is deleted without the operator.
    going: Duration,
}

/// All that a run works with.
struct Suite {
    cleaner: Cleaner,
    client: Client,
    http: reqwest::Client,
    operator: Operator,
    /// Where a reef's gateway is, by the name of its cluster, if its name in the public DNS does not lead there.
    door: Box<Door>,
}

type Door = dyn Fn(&str) -> Option<SocketAddr>;

/// The operator that is installed.
#[derive(Debug)]
struct Operator {
    fleet: String,
    lease: String,
    version: String,
    is_available: bool,
}

/// Whether a user is told, and not the output of a test.
static IS_TOLD: AtomicBool = AtomicBool::new(false);

/// Tells the user; who closed the terminal still gets everything cleaned up.
fn say(text: &str) {
    let line = format!("{}  {text}", jiff::Zoned::now().strftime("%H:%M:%S"));
    if IS_TOLD.load(Ordering::Relaxed) {
        let _ = writeln!(std::io::stdout(), "{line}");
    } else {
        println!("{line}");
    }
}

impl Cleaner {
    /// Needs no operator: without one, the fleet comes from a variable.
    async fn new(settings: Settings, client: Option<Client>) -> Result<Self, String> {
        let found = match &client {
            Some(client) => operator(client, &settings).await.map(|operator| operator.fleet),
            None => Err("there is no management cluster".to_owned()),
        };
        let fleet = match (settings.fleet.clone(), found) {
            (Some(fleet), Ok(of_operator)) if fleet != of_operator => {
                return Err(format!(
                    "REEF_AZURE_FLEET is {fleet}, and the operator's fleet is {of_operator}"
                ));
            }
            (Some(fleet), _) | (None, Ok(fleet)) => fleet,
            (None, Err(why)) => {
                return Err(format!("{why}; set REEF_AZURE_FLEET to clean up without the operator"));
            }
        };
        let arm = arm(&settings).map_err(|error| format!("Azure: {error}"))?;
        let azure = Azure { settings, arm, fleet, pause: Duration::from_secs(10) };
        Ok(Self { azure, client, going: GOING })
    }

    fn objects<'a>(&'a self, client: &'a Client) -> Objects<'a> {
        Objects { client, namespace: &self.azure.settings.namespace }
    }

    /// Removes what runs left that have names like this: first as a user would, by their objects; then what is still in
    /// Azure, by its tags; then objects that wait for an operator that does not come.
    async fn clean(&self, which: &str) -> Result<(), String> {
        if let Some(client) = &self.client {
            let found = operator(client, &self.azure.settings).await;
            let patience = match &found {
                Ok(operator) if operator.is_available => self.going,
                Ok(_) => Duration::ZERO,
                Err(why) => {
                    say(why);
                    Duration::ZERO
                }
            };
            if let Err(why) = self.objects(client).delete(which, Instant::now() + patience).await {
                say(&why);
            }
            self.all_are_going(&self.objects(client), which).await?;
        }
        self.azure.remove(which, Instant::now() + GOING_WITHOUT).await?;
        say("nothing is left in Azure");
        if let Some(client) = &self.client {
            let objects = self.objects(client);
            self.is_gone(&objects, which).await?;
            objects.release(which).await?;
            objects.delete(which, Instant::now() + GOING_WITHOUT.min(self.going)).await?;
        }
        self.is_clean(which).await
    }

    /// Asks for the deletion of each object: what is deleted in Azure behind a Reef that stays would be made again.
    async fn all_are_going(&self, objects: &Objects<'_>, which: &str) -> Result<(), String> {
        let deadline = Instant::now() + ASKING;
        loop {
            let why = match objects.are_going(which).await {
                Ok(true) => return Ok(()),
                Ok(false) => objects.delete(which, Instant::now()).await.err().unwrap_or_default(),
                Err(why) => why,
            };
            if Instant::now() > deadline {
                return Err(format!("objects cannot be deleted, so nothing was deleted in Azure: {why}"));
            }
            tokio::time::sleep(self.azure.pause).await;
        }
    }

    /// Before the last that knows of them goes: the groups that the Reefs name are certainly not there. A list is short if
    /// who asks may not see all, or asks in another subscription.
    async fn is_gone(&self, objects: &Objects<'_>, which: &str) -> Result<(), String> {
        let Azure { settings, fleet, .. } = &self.azure;
        for group in objects.groups(which, fleet, &settings.subscription).await? {
            if !self.azure.is_gone(&group).await? {
                return Err(format!(
                    "{group} is there and was not in Azure's lists: objects wait, nothing was let go of"
                ));
            }
        }
        Ok(())
    }

    /// Whether nothing is left of runs with names like this, else what is.
    async fn is_clean(&self, which: &str) -> Result<(), String> {
        let left = self.azure.left(which).await;
        let objects = match &self.client {
            Some(client) => self.objects(client).lines(which).await?,
            None => Vec::new(),
        };
        if left.is_empty() && objects.is_empty() {
            return Ok(());
        }
        Err([vec![left.lines()], objects].concat().join("\n").trim_start_matches('\n').to_owned())
    }

    /// Asks before it cleans up after all runs.
    async fn clean_all(&self, agrees: impl FnOnce(&str) -> bool) -> Result<(), String> {
        let Err(left) = self.is_clean(PREFIX).await else {
            say("nothing is left of any run");
            return Ok(());
        };
        println!("of runs of fleet {}, to be deleted with all that is in it:\n{left}", self.azure.fleet);
        if !self.azure.settings.agreed && !agrees("Type yes to delete it: ") {
            return Err("not agreed to: nothing was deleted".to_owned());
        }
        self.clean(PREFIX).await
    }
}

impl Suite {
    /// Connects to everything; the error says what is missing.
    async fn new(settings: Settings, client: Client) -> Result<Self, String> {
        let operator = operator(&client, &settings).await?;
        if !operator.is_available {
            return Err(format!("the operator in namespace {} has no available replica", settings.namespace));
        }
        let ours = env!("CARGO_PKG_VERSION");
        if operator.version != ours {
            return Err(format!(
                "the operator is of version {}, and this is {ours}: take the one that goes with it",
                operator.version
            ));
        }
        let (namespace, name) = &settings.tls;
        let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
        let tls = secrets.get(name).await;
        tls.map_err(|error| format!("REEF_AZURE_TLS_SECRET: Secret {namespace}/{name}: {error}"))?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build();
        let http = http.map_err(|error| error.to_string())?;
        let cleaner = Cleaner::new(settings, Some(client.clone())).await?;
        Ok(Self { cleaner, client, http, operator, door: Box::new(|_: &str| None) })
    }

    /// What has to be so before: the subscription, in its tenant, the zone; and that nobody's servers depend on the operator
    /// whose leader is to be killed.
    async fn check(&self) -> Result<(), String> {
        let azure = &self.cleaner.azure;
        let Settings { subscription, tenant, zone, shared, .. } = &azure.settings;
        let found = azure.get(&format!("/subscriptions/{subscription}"), "2022-12-01").await;
        let found = found.map_err(|error| format!("REEF_AZURE_SUBSCRIPTION {subscription}: {error}"))?;
        if let Some(other) = found["tenantId"].as_str().filter(|other| other != tenant) {
            return Err(format!("REEF_AZURE_TENANT is {tenant}, and the subscription's is {other}"));
        }
        if let Some(state) = found["state"].as_str().filter(|state| *state != "Enabled") {
            return Err(format!("REEF_AZURE_SUBSCRIPTION {subscription} is {state}, not Enabled"));
        }
        let found = azure.get(zone, "2018-05-01").await;
        found.map_err(|error| format!("REEF_AZURE_ZONE {zone}: {error}"))?;
        let regions = Api::<Region>::all(self.client.clone()).list(&ListParams::default()).await;
        let regions = regions.map_err(|error| format!("Regions: {error}"))?;
        let others = regions.items.iter().filter(|region| !region.labels().contains_key(objects::RUN));
        let others: Vec<String> = others.map(ResourceExt::name_any).collect();
        if !others.is_empty() && !shared {
            return Err(format!(
                "the operator of this management cluster has other regions ({}), and its leader is killed in a run: take another operator, or set REEF_AZURE_SHARED=yes if that is meant",
                others.join(", ")
            ));
        }
        Ok(())
    }

    /// Everything: checks, says what it makes and costs, asks, runs, and cleans up whatever came of it.
    async fn run(&self, agrees: impl FnOnce(&str) -> bool) -> Result<(), String> {
        self.check().await?;
        self.cleaner.is_clean(PREFIX).await.map_err(|left| {
            format!("nothing may be left of an earlier run, and no other may be under way; `make test-azure CLEAN=1` removes what is:\n{left}")
        })?;
        let name = run_name(SystemTime::now());
        let settings = &self.cleaner.azure.settings;
        println!(
            "\nIn subscription {}, {}, with the operator of fleet {}, this run makes a reef and an instance, both named {name}, resizes the instance, kills the operator's leader twice, and deletes all of it again:\n{}\n",
            settings.subscription,
            settings.location,
            self.operator.fleet,
            Bill::ask(settings, &self.http).await,
        );
        if !settings.agreed && !agrees("Type yes to go on: ") {
            return Err("not agreed to: nothing was made".to_owned());
        }
        let lived = tokio::select! {
            lived = async { self.life(&name).await?; self.cleaner.is_clean(&name).await } => lived,
            () = interrupted() => Err("interrupted".to_owned()),
        };
        let Err(why) = lived else { return Ok(()) };
        say(&format!("FAILED: {why}"));
        if settings.keeps {
            say("everything stays, and costs: `make test-azure CLEAN=1` removes it");
            return Err(why);
        }
        say("cleaning up; a second Ctrl-C ends that too, and `make test-azure CLEAN=1` takes it up again");
        let cleaned = tokio::select! {
            cleaned = self.cleaner.clean(&name) => cleaned,
            () = interrupted() => Err("interrupted".to_owned()),
        };
        Err(cleaned.err().map_or(why.clone(), |error| format!("{why}\nand the clean-up: {error}")))
    }

    /// A client for the instance's server.
    fn server_client(&self, host: &str, cluster: &str) -> Result<reqwest::Client, String> {
        let mut builder = reqwest::Client::builder().timeout(Duration::from_secs(20));
        if let Some(path) = &self.cleaner.azure.settings.server_ca {
            let broken = |error: &dyn Display| format!("REEF_AZURE_SERVER_CA {}: {error}", path.display());
            let pem = std::fs::read(path).map_err(|error| broken(&error))?;
            let roots = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| broken(&error))?;
            builder = builder.tls_certs_merge(roots);
        }
        if let Some(address) = (self.door)(cluster) {
            builder = builder.resolve(host, address);
        }
        builder.build().map_err(|error| error.to_string())
    }
}

/// A name for a run, which no other has.
fn run_name(now: SystemTime) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut rest = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut digits = Vec::new();
    while rest > 0 {
        digits.push(char::from(DIGITS[usize::try_from(rest % 36).unwrap_or_default()]));
        rest /= 36;
    }
    format!("{PREFIX}{}", digits.iter().rev().collect::<String>())
}

/// Somebody wants this to end: Ctrl-C, or what a terminal or a machine says that closes.
async fn interrupted() {
    let wait = async |kind: SignalKind| match signal(kind) {
        Ok(mut signals) => drop(signals.recv().await),
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::hangup()) => {}
    }
}

/// The operator that is installed in the management cluster.
async fn operator(client: &Client, settings: &Settings) -> Result<Operator, String> {
    let namespace = &settings.namespace;
    let deployments = Api::<Deployment>::namespaced(client.clone(), namespace);
    let list = deployments.list(&ListParams::default().labels("app.kubernetes.io/component=operator")).await;
    let list = list.map_err(|error| format!("Deployments of namespace {namespace}: {error}"))?;
    let found = list.items.into_iter().next().ok_or_else(|| {
        format!("no operator in namespace {namespace}: install its chart (see README.md), or set REEF_AZURE_OPERATOR_NAMESPACE")
    })?;
    let version = found.labels().get("app.kubernetes.io/version").cloned().unwrap_or_default();
    let available = found.status.as_ref().and_then(|status| status.available_replicas);
    let containers = found.spec.and_then(|spec| spec.template.spec).map(|spec| spec.containers);
    let variables: Vec<_> =
        containers.unwrap_or_default().into_iter().flat_map(|c| c.env.unwrap_or_default()).collect();
    let value = |name: &str| {
        let value = variables.iter().find(|v| v.name == name).and_then(|v| v.value.clone());
        value.ok_or_else(|| format!("the operator in namespace {namespace} has no variable {name}"))
    };
    let (fleet, lease) = (value("REEF_OPERATOR_FLEET")?, value("REEF_OPERATOR_LEASE_NAME")?);
    Ok(Operator { fleet, lease, version, is_available: available.unwrap_or(0) > 0 })
}

/// A client of ARM of our own: what is found is not found with the operator's identity.
fn arm(settings: &Settings) -> Result<Arc<Arm>, Box<dyn std::error::Error>> {
    let (own, proof) = settings.own.clone();
    let args = AzureArgs {
        azure_client_id: Some(own),
        azure_federated_token_file: "/nowhere".into(),
        azure_ca_file: settings.azure_ca.clone(),
        azure_reads_per_second: 25,
        azure_writes_per_second: 10,
    };
    let account = Account {
        cloud: settings.cloud.clone(),
        tenant: settings.tenant.clone(),
        client: None,
        proof,
        location: settings.location.clone(),
    };
    let cell = Cells::new(1, Arc::default()).reef("test-azure");
    Ok(Arms::new(args, Arc::default(), Actor::default())?.client(&account, cell)?)
}

/// The cluster of KUBECONFIG, and no other: not that of a file in the home folder, nor the one that this may run in.
async fn management() -> Result<Client, String> {
    let told = |error: &dyn Display| format!("KUBECONFIG: {error}");
    if std::env::var_os("KUBECONFIG").is_none_or(|value| value.is_empty()) {
        return Err(told(&"not set: the file of the management cluster, of an administrator"));
    }
    let file = Kubeconfig::read().map_err(|error| told(&error))?;
    let context = file.current_context.clone().unwrap_or_default();
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let config = config.map_err(|error| told(&error))?;
    println!("management cluster: {} (context {context})", config.cluster_url);
    Client::try_from(config).map_err(|error| told(&error))
}

/// Asks whoever sits there.
fn ask(question: &str) -> bool {
    print!("{question}");
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok_and(|_| answer.trim() == "yes")
}

fn from_environment() -> Result<Settings, String> {
    IS_TOLD.store(true, Ordering::Relaxed);
    let settings = Settings::read(|name| std::env::var(name).ok())?;
    if settings.own.1 == Proof::DeveloperTools {
        println!(
            "Azure: as whoever is signed in with az (AZURE_CLIENT_ID and AZURE_CLIENT_SECRET for an application)"
        );
    }
    Ok(settings)
}

fn end(result: Result<(), String>) {
    match result {
        Ok(()) => println!("passed"),
        Err(why) => {
            eprintln!("\nerror: {why}");
            // Not a panic: its place in the code tells users nothing.
            std::process::exit(1);
        }
    }
}

#[tokio::test]
#[ignore = "makes things in Azure that cost money: `make test-azure` runs it"]
async fn from_creation_to_deletion() {
    end(async { Suite::new(from_environment()?, management().await?).await?.run(ask).await }.await);
}

#[tokio::test]
#[ignore = "deletes what runs of the test above left in Azure: `make test-azure CLEAN=1` runs it"]
async fn clean_up() {
    let clean = async {
        let settings = from_environment()?;
        let client = match management().await {
            Ok(client) => Some(client),
            Err(why) if settings.fleet.is_some() => {
                println!("{why}: only what is in Azure is cleaned up");
                None
            }
            Err(why) => return Err(format!("{why}; set REEF_AZURE_FLEET to clean up without it")),
        };
        Cleaner::new(settings, client).await?.clean_all(ask).await
    };
    end(clean.await);
}

#[test]
fn each_run_has_a_name_that_azure_takes() {
    let at = |seconds| run_name(UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(at(1_795_340_000), "test-azure-towd7k");
    assert_ne!(at(1_795_340_000), at(1_795_340_001));
}
