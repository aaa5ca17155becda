//! What an attacker in an instance tries at Entra, ARM and Azure SQL with the instance's identity.

use k8s_openapi::api::core::v1::Pod;
use reef_e2e::{
    azure::{SUBSCRIPTION, TENANT},
    instance_harness::{api_key, call},
    probe::Call,
};
use serde_json::{Value, json};

use super::{Api, Ask, Row, Story, Tenant, ask, pod, row};

const ARM: &str = "https://management.azure.com/.default";
/// The application of AKS's API servers in every tenant.
const AKS: &str = "6dae42f8-4368-4678-94ff-3960e28e3630/.default";

pub(super) async fn rows(story: &Story) -> Vec<Row<'_>> {
    let mut rows = tokens(story);
    rows.extend(resource_manager(story));
    rows.push(cluster(story));
    rows.extend(databases(story).await);
    rows.push(web(story));
    rows
}

/// The emulated Azure, as a process with the right authorities reaches it.
struct Azure {
    address: std::net::SocketAddr,
    ca: String,
}

impl Azure {
    fn of(story: &Story) -> Self {
        let text = std::fs::read_to_string(story.sandbox.folder().join("azure.json")).unwrap();
        let access: Value = serde_json::from_str(&text).unwrap();
        let address = access["arm"].as_str().unwrap().trim_start_matches("https://").parse().unwrap();
        Self { address, ca: std::fs::read_to_string(access["ca"].as_str().unwrap()).unwrap() }
    }

    fn call(&self) -> Call<'_> {
        Call { address: self.address, host: "localhost", ca: &self.ca }
    }

    /// Exchanges a ServiceAccount's token for an access token: `200 <token>` or the refusal.
    fn exchange(&self, client: &str, assertion: &str, scope: &str) -> String {
        let scope = scope.replace(':', "%3A").replace('/', "%2F");
        let form = format!(
            "grant_type=client_credentials&client_id={client}&scope={scope}&client_assertion={assertion}"
        );
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        let path = format!("/{TENANT}/oauth2/v2.0/token");
        let answer = self.call().exchange("POST", &path, &headers, form.as_bytes()).unwrap();
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match body["access_token"].as_str() {
            Some(token) => format!("{} {token}", answer.status),
            None => format!("{} {}", answer.status, body["error_description"]),
        }
    }

    fn token(&self, tenant: &Tenant, scope: &str) -> String {
        let answer = self.exchange(client(tenant), &tenant.assertion, scope);
        answer.strip_prefix("200 ").unwrap_or_else(|| panic!("{answer}")).to_owned()
    }
}

fn client(tenant: &Tenant) -> &str {
    tenant.status.identity.as_ref().unwrap().client_id.as_deref().unwrap()
}

/// Whose token it is decides what it is exchanged for.
fn tokens(story: &Story) -> Vec<Row<'_>> {
    let (a, b) = (&story.a, &story.b);
    let exchange = |client: &'static str, assertion: String| async move {
        let id = if client == "a" { self::client(a) } else { self::client(b) };
        Azure::of(story).exchange(id, &assertion, ARM)
    };
    vec![
        row(
            "Entra: another's identity with its own token",
            (exchange("b", a.assertion.clone()), "401 \"AADSTS700213"),
            (exchange("a", a.assertion.clone()), "200 eyJ"),
        ),
        row(
            "Entra: its own identity with another's token",
            (exchange("a", b.assertion.clone()), "401 \"AADSTS700213"),
            (exchange("b", b.assertion.clone()), "200 eyJ"),
        ),
        row(
            "Entra: its identity with a token for the API server",
            (exchange("a", a.token.clone()), "401 \"AADSTS700213"),
            (exchange("a", a.assertion.clone()), "200 eyJ"),
        ),
    ]
}

/// The identity of an instance has no role in Azure, and none in the cluster.
fn resource_manager(story: &Story) -> Vec<Row<'_>> {
    let ids = story.sandbox.azure_ids();
    let id =
        |end: String| ids.iter().find(|id| id.ends_with(&end)).unwrap_or_else(|| panic!("no {end}")).clone();
    let account = &story.b.status.share.as_ref().unwrap().account;
    let hash = story.b.hash();
    let federated = |id: &String| format!("{id}/federatedIdentityCredentials/mine");
    let identity = id(format!("id-{hash}"));
    let cases = [
        ("read another's database", "GET", id(format!("/db-{hash}-1"))),
        ("read its own database", "GET", id(format!("/db-{}-1", story.a.hash()))),
        (
            "get the key of the storage account",
            "POST",
            format!("{}/listKeys", id(format!("/storageAccounts/{account}"))),
        ),
        ("read another's share", "GET", id(format!("/fs-{hash}-1"))),
        ("read another's identity", "GET", identity.clone()),
        ("trust itself for another's identity", "GET-PUT", federated(&identity)),
        (
            "list the resources of the subscription",
            "GET",
            format!("/subscriptions/{SUBSCRIPTION}/resourceGroups"),
        ),
    ];
    let rows = cases.into_iter().map(|(name, method, path)| {
        // For the control the owner only looks at the parent: nothing is to be changed.
        let (attempted, looked, at) = match method {
            "GET-PUT" => ("PUT", "GET", path.rsplit_once('/').unwrap().0.to_owned()),
            other => (other, other, path.clone()),
        };
        let attempt = async move {
            let azure = Azure::of(story);
            let bearer = format!("Bearer {}", azure.token(&story.a, ARM));
            let body = (attempted == "PUT").then(
                || json!({ "properties": { "issuer": "https://x", "subject": "y", "audiences": ["z"] } }),
            );
            let target = format!("{path}?api-version=2025-01-01");
            let (status, body) =
                azure.call().send(attempted, &target, &[("Authorization", &bearer)], body.as_ref());
            format!("{status} {body}")
        };
        let control = async move { format!("{}", story.sandbox.arm(looked, &at, None).0) };
        row(format!("ARM: {name}"), (attempt, "AuthorizationFailed"), (control, "200"))
    });
    rows.collect()
}

/// The API server of the cluster knows Entra's tokens too.
fn cluster(story: &Story) -> Row<'_> {
    row(
        "AKS: another's Secrets with a token of Entra",
        (
            async move {
                let token = Azure::of(story).token(&story.a, AKS);
                let path = format!("/api/v1/namespaces/{}/secrets", story.b.namespace);
                ask(
                    &story.reef_with(&token).await,
                    Ask { user: None, method: "GET", path, body: Value::Null },
                )
                .await
            },
            "403 Forbidden",
        ),
        (
            async move {
                // The same token is known to the API server, so it is the right that is missing.
                let token = Azure::of(story).token(&story.a, AKS);
                let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews".to_owned();
                let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
                ask(&story.reef_with(&token).await, Ask { user: None, method: "POST", path, body }).await
            },
            "200",
        ),
    )
}

/// A second server with the first one's identity, pointed at other databases.
async fn databases(story: &Story) -> Vec<Row<'_>> {
    let template =
        Api::<Pod>::namespaced(story.reef.clone(), &story.a.namespace).get("octopus-0").await.unwrap();
    let server = &story.a.status.database.as_ref().unwrap().server;
    let connection = |host: &str, database: &str| {
        format!(
            "Server=tcp:{host},1433;Initial Catalog={database};Authentication=Active Directory Workload Identity;Encrypt=True"
        )
    };
    let host = if server.contains('.') { server.clone() } else { format!("{server}.database.windows.net") };
    let (own, theirs) =
        (story.a.status.database.as_ref().unwrap(), story.b.status.database.as_ref().unwrap());
    let start = |name: &'static str, database: &str| {
        let pod = second(&template, name, &connection(&host, database));
        async move { run_server(story, &pod).await }
    };
    vec![
        row(
            "SQL: another's database",
            (start("of-b", &theirs.name), "Login failed for user"),
            (start("of-a", &own.name), "Web server is ready"),
        ),
        row(
            "SQL: the server's master database",
            (start("master", "master"), "Login failed for user"),
            (start("of-a-too", &own.name), "Web server is ready"),
        ),
    ]
}

/// The server's pod as it is, but for its name and its database, and without what a StatefulSet would take for its own.
fn second(template: &Pod, name: &str, connection: &str) -> Pod {
    let mut spec = json!(template.spec);
    for field in ["nodeName", "hostname", "subdomain"] {
        spec.as_object_mut().unwrap().remove(field);
    }
    spec["restartPolicy"] = json!("Never");
    let container = spec["containers"][0].as_object_mut().unwrap();
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        container.remove(probe);
    }
    let few = |cpu: &str, memory: &str| json!({ "cpu": cpu, "memory": memory });
    container["resources"] = json!({ "requests": few("10m", "32Mi"), "limits": few("100m", "128Mi") });
    for variable in container["env"].as_array_mut().unwrap() {
        match variable["name"].as_str().unwrap() {
            "DB_CONNECTION_STRING" => {
                *variable = json!({ "name": "DB_CONNECTION_STRING", "value": connection });
            }
            "OCTOPUS_SERVER_NODE_NAME" => {
                *variable = json!({ "name": "OCTOPUS_SERVER_NODE_NAME", "value": name });
            }
            _ => {}
        }
    }
    let labels = template.metadata.labels.clone().unwrap();
    let labels: std::collections::BTreeMap<_, _> = labels
        .into_iter()
        .filter(|(key, _)| key.contains("octopus.com") || key.contains("component"))
        .collect();
    pod(json!({ "metadata": { "name": name, "labels": labels }, "spec": spec }))
}

/// Starts a server until it serves or gives up; what it said.
async fn run_server(story: &Story, pod: &Pod) -> String {
    let api = Api::<Pod>::namespaced(story.reef.clone(), &story.a.namespace);
    let name = pod.metadata.name.clone().unwrap();
    api.create(&super::PostParams::default(), pod).await.unwrap();
    let log = super::eventually(&format!("server {name} serves or gives up"), || async {
        let log = api.logs(&name, &super::LogParams::default()).await.ok()?;
        let status = api.get(&name).await.ok()?.status?;
        let state = status.container_statuses?.first()?.state.clone()?;
        (log.contains("Web server is ready") || state.terminated.is_some()).then_some((log, state.terminated))
    })
    .await;
    let _ = api.delete(&name, &super::DeleteParams::default().grace_period(0)).await;
    super::eventually(&format!("{name} is gone"), || async {
        api.get_opt(&name).await.ok()?.is_none().then_some(())
    })
    .await;
    let ended = log.1.and_then(|t| t.message).unwrap_or_default();
    format!("{} {ended}", log.0.lines().last().unwrap_or_default())
}

/// A key opens one server.
fn web(story: &Story) -> Row<'_> {
    let ask = |whose: &'static str, at: &'static str| async move {
        let of = |name: &str| if name == "a" { &story.a.status } else { &story.b.status };
        let key = api_key(&story.management, of(whose)).await;
        let to = ("GET", "/api/projects");
        call(&story.sandbox, &story.management, of(at), to, Some(&key), &Value::Null).await.0.to_string()
    };
    row("web: another's API with its own key", (ask("a", "b"), "401"), (ask("b", "b"), "200"))
}
