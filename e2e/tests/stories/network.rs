//! Story: pods reach what they may, and nothing else.

use k8s_openapi::api::{
    core::v1::{Pod, Service},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use reef_e2e::harness::{Sandbox, eventually, make_namespace, toolbox, toolbox_pod};
use serde_json::{Value, json};

#[tokio::test]
async fn pods_reach_what_they_may() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--no-operator", "--reef-slots=1"]);
    let client = sandbox.client().await;
    for namespace in ["a", "b"] {
        make_namespace(&client, namespace, &json!({})).await;
    }
    let ip = serve(&client, "b").await;

    // Open: by service name, by cluster address of the API server, by pod address.
    let served = "HTTP/1.1 200 Connection established | server";
    assert_eq!(get(&client, "a", "by-name", "server.b.svc:80").await, served);
    assert_eq!(get(&client, "a", "by-long-name", "server.b.svc.cluster.local:80").await, served);
    assert_eq!(get(&client, "a", "by-address", &format!("{ip}:8080")).await, served);
    let api = get(&client, "a", "api", "172.16.0.1:443").await;
    assert!(api.contains("HTTP request to an HTTPS server"), "{api}");

    // The same for programs that speak plain HTTP to a proxy.
    let plain = "HTTP/1.1 200 OK | server";
    assert_eq!(fetch(&client, "plain", "http://server.b.svc/").await, plain);
    assert_eq!(fetch(&client, "plain-port", &format!("http://{ip}:8080/x")).await, plain);
    let answer = fetch(&client, "plain-nobody", "http://absent.b.svc/").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");

    // The machine below: its kubelet, and the cloud's metadata service.
    let metadata = get(&client, "a", "metadata", "169.254.169.254:80").await;
    assert!(metadata.contains("Required metadata header"), "{metadata}");
    let kubelet = get(&client, "a", "kubelet", "10.224.0.4:10250").await;
    assert!(kubelet.starts_with("HTTP/1.1 200"), "{kubelet}");

    // Nobody there: other ports, other clusters, the machine.
    for (name, target) in [
        ("no-port", "server.b.svc:81".to_owned()),
        ("api-port", "172.16.0.1:9999".to_owned()),
        ("no-service", "absent.b.svc:80".to_owned()),
        ("machine", "127.0.0.1:22".to_owned()),
        ("internet", "example.org:443".to_owned()),
    ] {
        let answer = get(&client, "a", name, &target).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{target}: {answer}");
    }

    // Around the proxy: a pod's network namespace has no way out, not even to the API server's port.
    let port = api_port(&sandbox);
    let (log, code) = toolbox(&client, "a", "direct", &["direct", &format!("127.0.0.1:{port}")]).await;
    assert!(code == 1 && log.contains("refused"), "{log}");
    let (log, code) = toolbox(&client, "a", "direct-pod", &["direct", &format!("{ip}:8080")]).await;
    assert!(code == 1 && log.contains("unreachable"), "{log}");

    // Policies close it, from either side, and open it again where they say so.
    policy(&client, "b", "deny", &json!({ "podSelector": {}, "policyTypes": ["Ingress"] })).await;
    refused(&client, "a", "denied", "server.b.svc:80", "Ingress").await;
    let answer = fetch(&client, "plain-denied", "http://server.b.svc/").await;
    assert_eq!(answer, "HTTP/1.1 403 Forbidden | refused by the network policies (Ingress)");
    let from_a = json!({ "podSelector": { "matchLabels": { "app": "server" } }, "ingress": [{
        "from": [{ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": "a" } } }],
        "ports": [{ "port": "web" }] }] });
    policy(&client, "b", "allow-a", &from_a).await;
    answered(&client, "a", "allowed", "server.b.svc:80").await;
    policy(&client, "a", "deny", &json!({ "podSelector": {}, "policyTypes": ["Egress"] })).await;
    refused(&client, "a", "no-egress", "server.b.svc:80", "Egress").await;
    refused(&client, "a", "no-api", "172.16.0.1:443", "Egress").await;
    Api::<NetworkPolicy>::namespaced(client.clone(), "a")
        .delete("deny", &DeleteParams::default())
        .await
        .unwrap();
    answered(&client, "a", "again", "server.b.svc:80").await;

    a_cluster_does_not_know_the_tokens_of_another(&sandbox, &client).await;
}

/// A server with a Service; its pod's address once it is Ready.
async fn serve(client: &Client, namespace: &str) -> String {
    let mut pod = serde_json::to_value(toolbox_pod("server", &["serve", "8080"], &json!({}))).unwrap();
    pod["spec"]["containers"][0]["ports"] = json!([{ "name": "web", "containerPort": 8080 }]);
    pod["spec"]["containers"][0]["readinessProbe"] =
        json!({ "httpGet": { "port": "web", "path": "/" }, "periodSeconds": 1 });
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": "server" },
        "spec": { "selector": { "app": "server" }, "ports": [{ "port": 80, "targetPort": "web" }] },
    }))
    .unwrap();
    let services = Api::<Service>::namespaced(client.clone(), namespace);
    services.create(&PostParams::default(), &service).await.unwrap();
    let slices = Api::<k8s_openapi::api::discovery::v1::EndpointSlice>::namespaced(client.clone(), namespace);
    eventually("the service has a ready endpoint", || async {
        let list = slices.list(&ListParams::default()).await.ok()?;
        let ready = |s: &k8s_openapi::api::discovery::v1::EndpointSlice| {
            s.endpoints.iter().flatten().any(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true))
        };
        list.items.iter().any(ready).then_some(())
    })
    .await;
    pods.get("server").await.unwrap().status.unwrap().pod_ip.unwrap()
}

/// What the toolbox says of a GET through the pod's proxy.
async fn get(client: &Client, namespace: &str, name: &str, target: &str) -> String {
    toolbox(client, namespace, name, &["get", target]).await.0.trim().to_owned()
}

/// What the toolbox in namespace `a` says of a GET of a URL through the proxy that its environment names.
async fn fetch(client: &Client, name: &str, url: &str) -> String {
    toolbox(client, "a", name, &["fetch", url]).await.0.trim().to_owned()
}

async fn policy(client: &Client, namespace: &str, name: &str, spec: &Value) {
    let policy: NetworkPolicy =
        serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).unwrap();
    let api = Api::<NetworkPolicy>::namespaced(client.clone(), namespace);
    api.create(&PostParams::default(), &policy).await.unwrap();
}

/// A policy takes effect a moment after it was made, so the first answers may still be the old ones.
async fn refused(client: &Client, namespace: &str, name: &str, target: &str, direction: &str) {
    until(
        client,
        namespace,
        name,
        target,
        &format!("HTTP/1.1 403 Forbidden | refused by the network policies ({direction})"),
    )
    .await;
}

async fn answered(client: &Client, namespace: &str, name: &str, target: &str) {
    until(client, namespace, name, target, "HTTP/1.1 200 Connection established | server").await;
}

async fn until(client: &Client, namespace: &str, name: &str, target: &str, expect: &str) {
    for attempt in 0..10 {
        if get(client, namespace, &format!("{name}-{attempt}"), target).await == expect {
            return;
        }
    }
    panic!("{name}: {target} never answered {expect}");
}

fn api_port(sandbox: &Sandbox) -> String {
    let text = std::fs::read_to_string(sandbox.folder().join("management.kubeconfig")).unwrap();
    let after = text.split("https://127.0.0.1:").nth(1).unwrap();
    after.chars().take_while(char::is_ascii_digit).collect()
}

/// Clusters share nothing: not even a token of the same name.
async fn a_cluster_does_not_know_the_tokens_of_another(sandbox: &Sandbox, client: &Client) {
    let path = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let token = toolbox(client, "b", "token", &["show", path]).await.0.trim().to_owned();
    let text = std::fs::read_to_string(sandbox.folder().join("slots/slot-1.kubeconfig")).unwrap();
    let slot = reef_e2e::cluster::client(&text).await.unwrap();
    for (cluster, expect) in [(client, true), (&slot, false)] {
        let review: k8s_openapi::api::authentication::v1::TokenReview =
            serde_json::from_value(json!({ "spec": { "token": token } })).unwrap();
        let answer = Api::all(cluster.clone()).create(&PostParams::default(), &review).await.unwrap();
        assert_eq!(answer.status.unwrap().authenticated.unwrap_or(false), expect);
    }
}
