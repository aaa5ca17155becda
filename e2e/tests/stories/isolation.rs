//! Story: two instances of two tenants on one reef. What one of them must not get is tried, from inside and by its
//! people; beside each attempt stands one of the same form that works where it should, or the attempt proves nothing.

mod azure;
mod network;
mod reef;
mod tenant;

use std::{collections::BTreeMap, pin::Pin};

use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{Pod, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{DeleteParams, LogParams, PostParams},
};
use reef_crds::{CloudInstance, CloudInstanceStatus};
use reef_e2e::{
    cluster,
    harness::{Sandbox, eventually, ok},
    instance_harness::{cluster_of, hash_of},
    reef_harness::ready,
};
use serde_json::{Value, json};

const REGION: &str = include_str!("../../../docs/samples/10-region.yaml");
const CLASS: &str = include_str!("../../../docs/samples/20-reefclass.yaml");
const REEFS: &str = include_str!("../../../docs/samples/30-reefs.yaml");

/// Audience of what Entra takes.
const EXCHANGE: &str = "api://AzureADTokenExchange";

/// What comes of trying something, in words.
type Try<'a> = Pin<Box<dyn Future<Output = String> + 'a>>;

/// An attempt, what its refusal says, and the same where it works.
struct Row<'a> {
    name: String,
    attempt: Try<'a>,
    refused: &'static str,
    control: Try<'a>,
    works: &'static str,
}

fn row<'a>(
    name: impl Into<String>,
    (attempt, refused): (impl Future<Output = String> + 'a, &'static str),
    (control, works): (impl Future<Output = String> + 'a, &'static str),
) -> Row<'a> {
    Row { name: name.into(), attempt: Box::pin(attempt), refused, control: Box::pin(control), works }
}

/// An instance and what an attacker inside it has.
struct Tenant {
    name: &'static str,
    status: CloudInstanceStatus,
    /// Namespace on the reef.
    namespace: String,
    /// Token of its ServiceAccount for the API server.
    token: String,
    /// Token of its ServiceAccount for Entra.
    assertion: String,
}

struct Story {
    sandbox: Sandbox,
    /// The administrator of the management cluster.
    management: Client,
    /// The administrator of the reef's cluster.
    reef: Client,
    /// Name of the AKS cluster.
    aks: String,
    a: Tenant,
    b: Tenant,
}

#[tokio::test]
async fn what_is_anothers_is_out_of_reach() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=1", "--time-scale=200"]);
    let management = sandbox.client().await;
    let weu_1 = REEFS.split("---").find(|reef| reef.contains("weu-1")).unwrap();
    for sample in [REGION, CLASS, weu_1] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    ready(&management, "weu-1").await;
    tenant::move_in(&sandbox);
    let (a, b) = (served(&management, "a", "alpha").await, served(&management, "b", "beta").await);
    let aks = cluster_of(&management, &a).await.unwrap();
    let reef = sandbox.reef_client(&aks).await;
    let a = Tenant::new(&reef, "alpha", a).await;
    let b = Tenant::new(&reef, "beta", b).await;
    let story = Story { sandbox, management, reef, aks, a, b };

    let network = network::prepare(&story).await;
    let mut rows = tenant::rows(&story).await;
    rows.extend(reef::rows(&story).await);
    rows.extend(azure::rows(&story).await);
    rows.extend(network::rows(&story, &network));
    let planned = rows.len();
    let (mut ran, mut wrong) = (0, Vec::new());
    for Row { name, attempt, refused, control, works } in rows {
        let (tried, worked) = (attempt.await, control.await);
        let good = tried.contains(refused) && worked.contains(works);
        println!("{} {name}\n     refused: {}\n     works:   {}", mark(good), short(&tried), short(&worked));
        if !good {
            wrong.push(format!("{name}: wanted {refused:?} and {works:?}, got {tried} and {worked}"));
        }
        ran += 1;
    }
    assert!(wrong.is_empty(), "{} of {planned} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(ran, planned);
    assert!(ran >= 80, "only {ran} attempts: rows were lost");
    println!("{ran} attempts refused, each with a control that works");
    tenant::what_only_placement_refuses(&story).await;
}

fn mark(good: bool) -> &'static str {
    if good { " ok " } else { "BAD " }
}

fn short(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // No token is printed, whatever an answer holds.
    let line = line.split("eyJ").next().unwrap_or_default().to_owned();
    line.chars().take(170).collect()
}

/// Waits until an instance is in service.
async fn served(client: &Client, customer: &str, name: &str) -> CloudInstanceStatus {
    let instances = Api::<CloudInstance>::namespaced(client.clone(), &format!("customer-{customer}"));
    eventually(&format!("{name} is in service"), || async {
        let status = instances.get(name).await.ok()?.status?;
        status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(status)
    })
    .await
}

impl Tenant {
    async fn new(reef: &Client, name: &'static str, status: CloudInstanceStatus) -> Self {
        let namespace = status.namespace.clone().unwrap();
        let token = service_account_token(reef, &namespace, None).await;
        let assertion = service_account_token(reef, &namespace, Some(EXCHANGE)).await;
        Self { name, status, namespace, token, assertion }
    }

    fn hash(&self) -> String {
        hash_of(&self.status)
    }

    fn host(&self) -> String {
        format!("{}.octopus.example", self.name)
    }

    /// Labels of the server's pods, by which policies know them.
    fn labels(&self) -> BTreeMap<String, String> {
        [
            ("app.kubernetes.io/component".to_owned(), "server".to_owned()),
            ("cloud.octopus.com/instance".to_owned(), self.hash()),
        ]
        .into()
    }
}

/// What the node would give a pod of the instance.
async fn service_account_token(reef: &Client, namespace: &str, audience: Option<&str>) -> String {
    let spec = match audience {
        Some(audience) => json!({ "audiences": [audience], "expirationSeconds": 3600 }),
        None => json!({ "audiences": [], "expirationSeconds": 3600 }),
    };
    let request: TokenRequest = serde_json::from_value(json!({ "spec": spec })).unwrap();
    let accounts = Api::<ServiceAccount>::namespaced(reef.clone(), namespace);
    let answer = accounts.create_token_request("octopus", &PostParams::default(), &request).await.unwrap();
    answer.status.unwrap().token.unwrap()
}

impl Story {
    /// A client of the reef's API server with a bearer token.
    async fn reef_with(&self, token: &str) -> Client {
        let path = self.sandbox.folder().join("reefs").join(format!("{}.kubeconfig", self.aks));
        let text = std::fs::read_to_string(path).unwrap();
        let known = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        let cluster = json!(known.clusters[0].cluster);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{ "name": "c", "cluster": cluster }],
            "users": [{ "name": "u", "user": { "token": token } }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
        });
        cluster::client(&config.to_string()).await.unwrap()
    }

    /// The public authority of the sandbox.
    fn public_ca(&self) -> String {
        std::fs::read_to_string(self.sandbox.folder().join("run/public-ca.crt")).unwrap()
    }
}

/// A call of an API server.
struct Ask<'a> {
    /// Who calls, if not the client's own user.
    user: Option<&'a str>,
    method: &'a str,
    path: String,
    body: Value,
}

/// The answer: `200`, or code, reason and message of the refusal.
async fn ask(client: &Client, ask: Ask<'_>) -> String {
    let kind = match (ask.method, &ask.body) {
        ("PATCH", Value::Array(_)) => "application/json-patch+json",
        ("PATCH", _) => "application/merge-patch+json",
        _ => "application/json",
    };
    let mut request = http::Request::builder().method(ask.method).uri(&ask.path).header("Content-Type", kind);
    if let Some(user) = ask.user {
        request = request.header("Impersonate-User", user);
    }
    let body = if ask.body.is_null() { Vec::new() } else { ask.body.to_string().into_bytes() };
    match client.request_text(request.body(body).unwrap()).await {
        Ok(_) => "200".to_owned(),
        Err(kube::Error::Api(status)) => format!("{} {}: {}", status.code, status.reason, status.message),
        Err(error) => error.to_string(),
    }
}

/// Runs a pod and says what its first container said in the end, and how it ended.
async fn run(reef: &Client, namespace: &str, pod: &Pod) -> String {
    let api = Api::<Pod>::namespaced(reef.clone(), namespace);
    let name = pod.metadata.name.clone().unwrap();
    if let Err(error) = api.create(&PostParams::default(), pod).await {
        return error.to_string();
    }
    let code = eventually(&format!("pod {name} ends"), || async {
        let state = api.get(&name).await.ok()?.status?.container_statuses?.first()?.state.clone()?;
        Some(state.terminated?.exit_code)
    })
    .await;
    let log = api.logs(&name, &LogParams::default()).await.unwrap_or_default();
    let now = DeleteParams::default().grace_period(0);
    let _ = api.delete(&name, &now).await;
    format!("{log}\nexit {code}")
}

/// A pod of the toolbox that the strictest pod security takes; `labels` are what policies see.
fn tool(name: &str, account: &str, labels: &BTreeMap<String, String>, arguments: &[&str]) -> Value {
    json!({
        "metadata": { "name": name, "labels": labels },
        "spec": {
            "serviceAccountName": account, "automountServiceAccountToken": false, "restartPolicy": "Never",
            "securityContext": { "runAsNonRoot": true, "runAsUser": 999, "runAsGroup": 999, "fsGroup": 999,
                "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "toolbox", "image": "reef-toolbox", "args": arguments,
                "resources": { "requests": { "cpu": "10m", "memory": "32Mi" }, "limits": { "cpu": "100m", "memory": "128Mi" } },
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            }],
        },
    })
}

fn pod(value: Value) -> Pod {
    serde_json::from_value(value).unwrap()
}
