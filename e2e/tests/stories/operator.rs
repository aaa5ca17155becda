//! Story: helm installs the operator, it becomes Ready, it is killed and comes back, it is taken away and
//! the API stays.

use std::time::Instant;

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, LogParams, Patch, PatchParams},
};
use reef_crds::Region;
use reef_e2e::{
    harness::{Process, Sandbox, eventually, ok, processes, ready_pods, refused, send},
    install::{NAMESPACE, charts},
};
use rustix::process::Signal;

/// Text of a sample.
const REGION: &str = include_str!("../../../docs/samples/10-region.yaml");

#[tokio::test]
async fn the_operator_is_installed_killed_and_taken_away() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=0"]);
    let client = sandbox.client().await;

    installed_and_ready(&sandbox, &client).await;
    killed_and_back(&client).await;
    a_stopped_leader_hands_over(&client).await;
    a_paused_leader_is_replaced_and_ends(&sandbox, &client).await;
    a_stolen_lease_ends_the_leader(&sandbox, &client).await;
    installing_again_changes_nothing(&sandbox, &client).await;
    bad_values_are_refused(&sandbox);
    a_second_release_is_refused(&sandbox);
    nothing_secret_is_logged(&sandbox, &client).await;

    // The API is protected whether the operator runs or not.
    crds_cannot_be_deleted(&sandbox);
    let pods = ready_pods(&client, NAMESPACE).await;
    let running = || pods.iter().filter_map(|pod| operator_of(&pod.name_any())).count();
    assert_eq!(running(), 2);
    ok(&sandbox.helm(&["uninstall", "reef-operator", "--namespace", NAMESPACE, "--wait"]));
    eventually("the operator's processes are gone", || async { (running() == 0).then_some(()) }).await;
    crds_cannot_be_deleted(&sandbox);
    ok(&sandbox.helm(&["uninstall", "reef-operator-crds", "--namespace", NAMESPACE]));
    crds_cannot_be_deleted(&sandbox);
    Api::<Region>::all(client.clone()).get("westeurope").await.expect("objects outlive the charts");
    let confirm =
        ["annotate", "crd", "regions.cloud.octopus.com", "confirmation.cloud.octopus.com/deletion=true"];
    ok(&sandbox.kubectl(&confirm));
    // The Region waits for an operator to let it go; with none left, that is done by hand.
    let release =
        ["patch", "region", "westeurope", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#];
    ok(&sandbox.kubectl(&release));
    ok(&sandbox.kubectl(&["delete", "crd", "regions.cloud.octopus.com"]));
}

/// Processes of the operator's image, by the pod that they run in.
fn operators() -> Vec<Process> {
    processes().into_iter().filter(|p| p.command.starts_with("/reef-operator\0run")).collect()
}

fn operator_of(pod: &str) -> Option<u32> {
    let variable = format!("POD_NAME={pod}\0");
    operators().into_iter().find(|p| p.environment.contains(&variable)).map(|p| p.pid)
}

async fn leader(client: &Client) -> Option<String> {
    let lease = Api::<Lease>::namespaced(client.clone(), NAMESPACE).get("reef-operator").await.ok()?;
    lease.spec?.holder_identity.filter(|holder| !holder.is_empty())
}

async fn metric(client: &Client, pod: &str, name: &str) -> Option<f64> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:8080/proxy/metrics");
    let request = http::Request::get(path).body(Vec::new()).ok()?;
    let text = client.request_text(request).await.ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

async fn installed_and_ready(sandbox: &Sandbox, client: &Client) {
    let pods = ready_pods(client, NAMESPACE).await;
    assert_eq!(pods.len(), 2, "two replicas, both Ready, when helm --wait returns");
    let first = leader(client).await.expect("one leads");
    let mut leading = 0.0;
    for pod in &pods {
        let name = pod.name_any();
        let leads = metric(client, &name, "reef_operator_leader ").await.expect("metrics");
        assert_eq!(leads > 0.0, name == first, "{name}");
        leading += leads;
        let resident = metric(client, &name, "process_resident_memory_bytes ").await.expect("metrics");
        println!("resident memory of {name}: {:.1} MiB", resident / 1_048_576.0);
        assert!(resident < 64.0 * 1_048_576.0, "{resident}");
    }
    assert!((leading - 1.0).abs() < f64::EPSILON);
    ok(&sandbox.helm(&["test", "reef-operator", "--namespace", NAMESPACE]));
    for (path, expect) in [("livez", "ok"), ("readyz", "ok"), ("metrics", "reef_operator_build_info")] {
        let url = format!("/api/v1/namespaces/{NAMESPACE}/services/reef-operator-metrics:http/proxy/{path}");
        let answer = ok(&sandbox.kubectl(&["get", "--raw", &url]));
        assert!(answer.contains(expect), "{path}: {answer}");
    }
}

async fn killed_and_back(client: &Client) {
    let name = leader(client).await.unwrap();
    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    let container = async || Some(pods.get(&name).await.ok()?.status?.container_statuses?.remove(0));
    let before = container().await.unwrap().restart_count;
    let began = Instant::now();
    send(operator_of(&name).expect("its process"), Signal::KILL);
    eventually("the container is started again and Ready", || async {
        let status = container().await?;
        (status.restart_count == before + 1 && status.ready).then_some(())
    })
    .await;
    println!("from SIGKILL to Ready: {:.1} s", began.elapsed().as_secs_f32());
    let previous = LogParams { previous: true, ..LogParams::default() };
    assert!(pods.logs(&name, &previous).await.unwrap().contains("\"started\""));
}

/// A pod that is deleted gives the Lease back: the other need not wait until it expires.
async fn a_stopped_leader_hands_over(client: &Client) {
    let first = leader(client).await.unwrap();
    let began = Instant::now();
    Api::<Pod>::namespaced(client.clone(), NAMESPACE).delete(&first, &DeleteParams::default()).await.unwrap();
    eventually("another leads", || async { leader(client).await.filter(|l| *l != first) }).await;
    println!("from deletion of the leader to the next one: {:.1} s", began.elapsed().as_secs_f32());
    two_are_ready(client).await;
}

/// A leader that stands still past its lease has lost it when it goes on, and ends without a write, although
/// there is something to write.
async fn a_paused_leader_is_replaced_and_ends(sandbox: &Sandbox, client: &Client) {
    let first = leader(client).await.unwrap();
    let pid = operator_of(&first).unwrap();
    send(pid, Signal::STOP);
    let lease = async || {
        Api::<Lease>::namespaced(client.clone(), NAMESPACE).get("reef-operator").await.unwrap().spec.unwrap()
    };
    // By what both wrote themselves: how busy this machine is does not matter that much.
    let last = lease().await.renew_time.unwrap().0;
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], REGION));
    let second = eventually("another leads", || async { leader(client).await.filter(|l| *l != first) }).await;
    let took = lease().await.acquire_time.unwrap().0.duration_since(last);
    println!("from the last renewal of the leader to the next one: {:.1} s", took.as_secs_f32());
    assert!(took.as_secs() < 20, "{took:?}");
    ready_again(client).await;
    let before = writes_of(sandbox, &first);
    ok(&sandbox.kubectl(&["annotate", "region", "westeurope", "cloud.octopus.com/reconcile-requested-at=1"]));
    send(pid, Signal::CONT);
    eventually("the old leader's process ends", || async {
        (operator_of(&first) != Some(pid)).then_some(())
    })
    .await;
    assert_eq!(leader(client).await, Some(second));
    assert_eq!(writes_of(sandbox, &first), before, "the old leader wrote nothing");
    two_are_ready(client).await;
}

/// Somebody else's name appears in the Lease: the leader ends, and writes nothing more unless it is elected again.
async fn a_stolen_lease_ends_the_leader(sandbox: &Sandbox, client: &Client) {
    let first = leader(client).await.unwrap();
    let pid = operator_of(&first).unwrap();
    let thief = serde_json::json!({ "spec": { "holderIdentity": "thief", "renewTime": null } });
    let leases = Api::<Lease>::namespaced(client.clone(), NAMESPACE);
    leases.patch("reef-operator", &PatchParams::default(), &Patch::Merge(&thief)).await.unwrap();
    eventually("the leader's process ends", || async { (operator_of(&first) != Some(pid)).then_some(()) })
        .await;
    let before = writes_of(sandbox, &first);
    ok(&sandbox.kubectl(&[
        "annotate",
        "--overwrite",
        "region",
        "westeurope",
        "cloud.octopus.com/reconcile-requested-at=2",
    ]));
    eventually("one of the replicas leads", || async { leader(client).await.filter(|l| l != "thief") }).await;
    let last = leader(client).await.unwrap();
    answered(client, "2").await;
    if last != first {
        assert_eq!(writes_of(sandbox, &first), before, "one that does not lead wrote nothing");
    }
    two_are_ready(client).await;
}

/// Writes of one pod of the operator, elections aside.
fn writes_of(sandbox: &Sandbox, pod: &str) -> usize {
    let name = |e: &serde_json::Value| e["user"]["extra"]["authentication.kubernetes.io/pod-name"][0] == pod;
    sandbox.audit().iter().filter(|e| name(e) && e["objectRef"]["resource"] != "leases").count()
}

async fn answered(client: &Client, value: &str) {
    eventually("the request is answered", || async {
        let status = Api::<Region>::all(client.clone()).get("westeurope").await.ok()?.status?;
        (status.last_handled_reconcile_at.as_deref() == Some(value)).then_some(())
    })
    .await;
}

async fn ready_again(client: &Client) {
    eventually("the Region is Ready", || async {
        let status = Api::<Region>::all(client.clone()).get("westeurope").await.ok()?.status?;
        status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(())
    })
    .await;
}

async fn two_are_ready(client: &Client) {
    eventually("two are Ready again", || async {
        (ready_pods(client, NAMESPACE).await.len() == 2).then_some(())
    })
    .await;
}

async fn installing_again_changes_nothing(sandbox: &Sandbox, client: &Client) {
    let before: Vec<_> = ready_pods(client, NAMESPACE).await.iter().map(ResourceExt::uid).collect();
    for chart in ["reef-operator-crds", "reef-operator"] {
        let path = charts().join(chart);
        let upgrade = ["upgrade", chart, path.to_str().unwrap(), "--namespace", NAMESPACE];
        ok(&sandbox.helm(&[&upgrade[..], &["--reuse-values", "--wait"]].concat()));
    }
    let after: Vec<_> = ready_pods(client, NAMESPACE).await.iter().map(ResourceExt::uid).collect();
    assert_eq!(before, after, "no pod was replaced");
}

fn bad_values_are_refused(sandbox: &Sandbox) {
    let chart = charts().join("reef-operator");
    for (values, expect) in [
        (vec![], "fleet"),
        (vec!["--set", "fleet=Bad_Name"], "fleet"),
        (vec!["--set", "fleet=a", "--set", "replicas=3"], "replicas"),
        (vec!["--set", "fleet=a", "--set", "lease.durationSeconds=1"], "durationSeconds"),
        (vec!["--set", "fleet=a", "--set", "log.format=xml"], "format"),
        (vec!["--set", "fleet=a", "--set", "azure.clientId=me"], "clientId"),
    ] {
        let mut arguments = vec!["template", "x", chart.to_str().unwrap()];
        arguments.extend(values);
        let error = refused(&sandbox.helm(&arguments));
        assert!(error.contains(expect), "{error}");
    }
}

/// A second release would fight the first over every object.
fn a_second_release_is_refused(sandbox: &Sandbox) {
    let chart = charts().join("reef-operator");
    let arguments =
        ["install", "two", chart.to_str().unwrap(), "--namespace", "default", "--set", "fleet=sandbox"];
    let error = refused(&sandbox.helm(&arguments));
    assert!(error.contains("reef-operator") && error.contains("exists"), "{error}");
}

fn crds_cannot_be_deleted(sandbox: &Sandbox) {
    let error = refused(&sandbox.kubectl(&["delete", "crd", "regions.cloud.octopus.com"]));
    assert!(error.contains("Forbidden") && error.contains("would delete every Region"), "{error}");
}

/// Invariant 8, as far as there are secrets: the certificate's key and the pods' tokens.
async fn nothing_secret_is_logged(sandbox: &Sandbox, client: &Client) {
    let secrets = Api::<k8s_openapi::api::core::v1::Secret>::namespaced(client.clone(), NAMESPACE);
    let key = secrets.get("wildcard-tls").await.unwrap().data.unwrap()["tls.key"].0.clone();
    let key = String::from_utf8(key).unwrap();
    let canary = key.lines().nth(1).unwrap();
    let mut text = sandbox.audit().iter().map(ToString::to_string).collect::<String>();
    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    for pod in ready_pods(client, NAMESPACE).await {
        text += &pods.logs(&pod.name_any(), &LogParams::default()).await.unwrap();
    }
    text += &ok(&sandbox.kubectl(&["get", "events,regions", "-A", "-o", "yaml"]));
    text.extend(processes().into_iter().map(|p| p.command));
    assert!(text.contains("election"), "the logs were read");
    for secret in [canary, "BEGIN PRIVATE KEY", "eyJhbGciOi"] {
        assert!(!text.contains(secret), "{secret} shows");
    }
}
