//! `make test-azure`: the story from creation to deletion against a real subscription, which costs money. Never run by
//! `make test`, which runs the same against the emulated Azure.
//!
//! What it needs: a management cluster of the user's with the operator installed (KUBECONFIG), and the variables of
//! [`settings`]. Everything that it makes has names with one prefix, which the operator puts into its tags; by these the
//! clean-up finds what a run left, also when the run or the operator is no more.

mod bill;
mod cleaning;
mod in_the_sandbox;
mod life;
mod objects;
mod settings;

use std::{
    fmt::Display,
    io::Write,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret};
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use reef_operator::{
    actor::Actor,
    azure::{Account, Arm, Arms, AzureArgs, Proof},
    bulkhead::Cells,
};

use bill::Bill;
use settings::{PREFIX, Settings};

/// How long objects may take to go when a run is cleaned up after.
const GOING: Duration = Duration::from_secs(3600);

/// How long they may take once nothing of them is left in Azure.
const GOING_AT_LAST: Duration = Duration::from_secs(600);

/// All that a run works with.
struct Suite {
    settings: Settings,
    client: Client,
    arm: Arc<Arm>,
    http: reqwest::Client,
    operator: Operator,
    /// Between two looks at Azure.
    pause: Duration,
    /// How long objects may take to go before what is in Azure is deleted without the operator.
    going: Duration,
    /// Where a reef's gateway is, by the name of its cluster, if its name in the public DNS does not lead there.
    door: Box<Door>,
}

type Door = dyn Fn(&str) -> Option<SocketAddr>;

/// The operator that is installed.
struct Operator {
    fleet: String,
    lease: String,
}

/// Tells the user.
fn say(text: &str) {
    println!("{}  {text}", jiff::Zoned::now().strftime("%H:%M:%S"));
}

impl Suite {
    /// Connects to everything; the error says what is missing.
    async fn new(settings: Settings, client: Client) -> Result<Self, String> {
        let operator = operator(&client, &settings).await?;
        let (namespace, name) = &settings.tls;
        let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
        let tls = secrets.get(name).await;
        tls.map_err(|error| format!("REEF_AZURE_TLS_SECRET: Secret {namespace}/{name}: {error}"))?;
        let arm = arm(&settings).map_err(|error| format!("Azure: {error}"))?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build();
        let http = http.map_err(|error| error.to_string())?;
        let (pause, door) = (Duration::from_secs(10), Box::new(|_: &str| None));
        Ok(Self { settings, client, arm, http, operator, pause, going: GOING, door })
    }

    /// What of Azure has to be there before: the subscription, in its tenant, and the zone.
    async fn check(&self) -> Result<(), String> {
        let Settings { subscription, tenant, zone, .. } = &self.settings;
        let id = format!("/subscriptions/{subscription}");
        let found = self.arm.get(&id, "2022-12-01").await;
        let found = found.map_err(|error| format!("REEF_AZURE_SUBSCRIPTION {subscription}: {error}"))?;
        if let Some(other) = found["tenantId"].as_str().filter(|other| other != tenant) {
            return Err(format!("REEF_AZURE_TENANT is {tenant}, and the subscription's is {other}"));
        }
        if let Some(state) = found["state"].as_str().filter(|state| *state != "Enabled") {
            return Err(format!("REEF_AZURE_SUBSCRIPTION {subscription} is {state}, not Enabled"));
        }
        let found = self.arm.get(zone, "2018-05-01").await;
        found.map(drop).map_err(|error| format!("REEF_AZURE_ZONE {zone}: {error}"))
    }

    /// Everything: checks, says what it makes and costs, asks, runs, and cleans up whatever came of it.
    async fn run(&self, agrees: impl FnOnce(&str) -> bool) -> Result<(), String> {
        self.check().await?;
        self.is_clean(PREFIX).await.map_err(|left| {
            format!("an earlier run left something, or another one runs; `make test-azure CLEAN=1` removes it:\n{left}")
        })?;
        let name = run_name(SystemTime::now());
        let Settings { subscription, location, .. } = &self.settings;
        println!(
            "\nIn subscription {subscription}, {location}, with the operator of fleet {}, this run makes a reef and an instance, both named {name}, resizes the instance, kills the operator's leader once, and deletes all of it again:\n{}\n",
            self.operator.fleet,
            Bill::ask(&self.settings, &self.http).await,
        );
        if !self.settings.agreed && !agrees("Type yes to go on: ") {
            return Err("not agreed to: nothing was made".to_owned());
        }
        let lived = tokio::select! {
            lived = self.life(&name) => lived,
            _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
        };
        let Err(why) = lived else {
            return self.is_clean(&name).await;
        };
        say(&format!("FAILED: {why}"));
        if self.settings.keeps {
            say("everything stays, and costs: `make test-azure CLEAN=1` removes it");
            return Err(why);
        }
        say("cleaning up; a second Ctrl-C ends that too, and `make test-azure CLEAN=1` takes it up again");
        let cleaned = tokio::select! {
            cleaned = self.clean(&name) => cleaned,
            _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
        };
        Err(cleaned.err().map_or(why.clone(), |error| format!("{why}\nand the clean-up: {error}")))
    }

    /// Removes what runs left that have names like this: first as a user would, by their objects; then what is still in
    /// Azure, by its tags; then objects that waited for that.
    async fn clean(&self, which: &str) -> Result<(), String> {
        let objects = objects::delete_all(&self.client, &self.settings, which, self.going).await;
        let left = self.left(which).await?;
        if !left.is_empty() {
            say(&format!("left in Azure, by their tags:\n{}", left.lines()));
            left.remove(&self.arm, self.pause).await?;
        }
        if let Err(why) = objects {
            say(&why);
            let waits = self.going.min(GOING_AT_LAST);
            objects::delete_all(&self.client, &self.settings, which, waits).await.map_err(|error| {
                format!("nothing is left in Azure, but objects wait for the operator: does it run?\n{error}")
            })?;
        }
        self.is_clean(which).await
    }

    /// Whether nothing is left of runs with names like this, else what is.
    async fn is_clean(&self, which: &str) -> Result<(), String> {
        let (left, objects) = (self.left(which).await?, objects::left(&self.client, which).await?);
        if left.is_empty() && objects.is_empty() {
            return Ok(());
        }
        Err(format!("{}\n  {}", left.lines(), objects.join(", ")).trim().to_owned())
    }

    /// Asks before it cleans up after all runs.
    async fn clean_all(&self, agrees: impl FnOnce(&str) -> bool) -> Result<(), String> {
        let Err(left) = self.is_clean(PREFIX).await else {
            println!("nothing is left of any run");
            return Ok(());
        };
        println!("left of runs, and to be deleted with all that is in it:\n{left}");
        if !self.settings.agreed && !agrees("Type yes to delete it: ") {
            return Err("not agreed to: nothing was deleted".to_owned());
        }
        self.clean(PREFIX).await
    }

    /// A client for the instance's server.
    fn server_client(&self, host: &str, cluster: &str) -> Result<reqwest::Client, String> {
        let mut builder = reqwest::Client::builder().timeout(Duration::from_secs(20));
        if let Some(path) = &self.settings.server_ca {
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

/// The operator that is installed in the management cluster, and available.
async fn operator(client: &Client, settings: &Settings) -> Result<Operator, String> {
    let namespace = &settings.namespace;
    let deployments = Api::<Deployment>::namespaced(client.clone(), namespace);
    let list = deployments.list(&ListParams::default().labels("app.kubernetes.io/component=operator")).await;
    let list = list.map_err(|error| format!("Deployments of namespace {namespace}: {error}"))?;
    let found = list.items.into_iter().next().ok_or_else(|| {
        format!("no operator in namespace {namespace}: install its chart (see README.md), or set REEF_AZURE_OPERATOR_NAMESPACE")
    })?;
    if found.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0) == 0 {
        return Err(format!("the operator in namespace {namespace} has no available replica"));
    }
    let containers = found.spec.and_then(|spec| spec.template.spec).map(|spec| spec.containers);
    let variables: Vec<_> =
        containers.unwrap_or_default().into_iter().flat_map(|c| c.env.unwrap_or_default()).collect();
    let value = |name: &str| {
        let value = variables.iter().find(|v| v.name == name).and_then(|v| v.value.clone());
        value.ok_or_else(|| format!("the operator in namespace {namespace} has no variable {name}"))
    };
    Ok(Operator { fleet: value("REEF_OPERATOR_FLEET")?, lease: value("REEF_OPERATOR_LEASE_NAME")? })
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

/// The cluster of KUBECONFIG, and nothing else: not the one that this may run in.
async fn management() -> Result<Client, String> {
    let file = Kubeconfig::read().map_err(|error| format!("KUBECONFIG: {error}"))?;
    let context = file.current_context.clone().unwrap_or_default();
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let config = config.map_err(|error| format!("KUBECONFIG: {error}"))?;
    println!("management cluster: {} (context {context})", config.cluster_url);
    Client::try_from(config).map_err(|error| format!("KUBECONFIG: {error}"))
}

/// Asks whoever sits there.
fn ask(question: &str) -> bool {
    print!("{question}");
    let _ = std::io::stdout().flush();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok_and(|_| answer.trim() == "yes")
}

async fn from_environment() -> Result<Suite, String> {
    let settings = Settings::read(|name| std::env::var(name).ok())?;
    if settings.own.1 == Proof::DeveloperTools {
        println!(
            "Azure: as whoever is signed in with az (AZURE_CLIENT_ID and AZURE_CLIENT_SECRET for an application)"
        );
    }
    let client = management().await?;
    Suite::new(settings, client).await
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
    end(async { from_environment().await?.run(ask).await }.await);
}

#[tokio::test]
#[ignore = "deletes what runs of the test above left in Azure: `make test-azure CLEAN=1` runs it"]
async fn clean_up() {
    end(async { from_environment().await?.clean_all(ask).await }.await);
}

#[test]
fn each_run_has_a_name_that_azure_takes() {
    let at = |seconds| run_name(UNIX_EPOCH + Duration::from_secs(seconds));
    assert_eq!(at(1_795_340_000), "test-azure-towd7k");
    assert_ne!(at(1_795_340_000), at(1_795_340_001));
}
