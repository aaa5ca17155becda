//! Story: the node runs pods as a kubelet would: identity, files, restarts, logs, and the end.

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, LogParams, Patch, PatchParams, PostParams},
};
use reef_e2e::harness::{Sandbox, eventually, processes, send, toolbox, toolbox_pod, toolbox_run};
use rustix::process::Signal;
use serde_json::{Value, json};

const NAMESPACE: &str = "default";

#[tokio::test]
async fn pods_live_as_on_a_real_node() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--no-operator", "--reef-slots=0"]);
    let client = sandbox.client().await;
    eventually("the default service account", || async {
        let accounts =
            Api::<k8s_openapi::api::core::v1::ServiceAccount>::namespaced(client.clone(), NAMESPACE);
        accounts.get("default").await.ok()
    })
    .await;
    futures::join!(
        files_and_environment(&client),
        least_privilege(&client),
        a_token_of_its_own(&client),
        crashes_are_restarted(&client),
        what_cannot_run_says_why(&client),
        deletion_is_polite_and_then_firm(&client),
        a_killed_pod_process_is_replaced(&client),
        a_changed_config_map_arrives(&client),
        shares_are_not_of_this_cluster(&client),
    );
}

fn pods(client: &Client) -> Api<Pod> {
    Api::namespaced(client.clone(), NAMESPACE)
}

async fn config_map(client: &Client, name: &str, data: &Value) {
    let map: ConfigMap =
        serde_json::from_value(json!({ "metadata": { "name": name }, "data": data })).unwrap();
    let api = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    api.create(&PostParams::default(), &map).await.unwrap();
}

async fn files_and_environment(client: &Client) {
    config_map(client, "settings", &json!({ "greeting": "hello", "nested": "deep" })).await;
    let pod = toolbox_pod(
        "files",
        &["show", "/etc/settings/a/b"],
        &json!({ "volumes": [{ "name": "v", "configMap": { "name": "settings", "items": [{ "key": "nested", "path": "a/b" }] } }] }),
    );
    let mut pod = serde_json::to_value(pod).unwrap();
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/etc/settings" }]);
    let (log, code) = toolbox_run(client, NAMESPACE, &serde_json::from_value(pod).unwrap()).await;
    assert_eq!((log.as_str(), code), ("deep\n", 0));

    for (name, variable, expect) in [
        (
            "env-map",
            json!({ "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "greeting" } } }),
            "hello\n",
        ),
        ("env-name", json!({ "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }), "env-name\n"),
        ("env-expanded", json!({ "value": "<$(HOSTNAME)>" }), "<env-expanded>\n"),
    ] {
        let mut pod = serde_json::to_value(toolbox_pod(name, &["show", "$IT"], &json!({}))).unwrap();
        pod["spec"]["containers"][0]["env"] = json!([variable]);
        pod["spec"]["containers"][0]["env"][0]["name"] = json!("IT");
        let (log, code) = toolbox_run(client, NAMESPACE, &serde_json::from_value(pod).unwrap()).await;
        assert_eq!((log.as_str(), code), (expect, 0));
    }
}

/// Each attempt fails where it should, and works where it should.
async fn least_privilege(client: &Client) {
    let status = toolbox(client, NAMESPACE, "status", &["show", "/proc/self/status"]).await.0;
    let line = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).map_or("-", str::trim);
    assert_eq!(line("CapEff:"), "0000000000000000");
    assert_eq!(line("NoNewPrivs:"), "1");
    assert_eq!(line("Uid:").split_whitespace().next(), Some("65532"));

    // Nor has one that runs as root, so it cannot turn its read-only mounts into writable ones.
    let as_root = json!({ "securityContext": { "runAsUser": 0 } });
    let root = toolbox_pod("as-root", &["show", "/proc/self/status"], &as_root);
    let (status, code) = toolbox_run(client, NAMESPACE, &root).await;
    let line = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).map_or("-", str::trim);
    assert_eq!((code, line("Uid:").split_whitespace().next()), (0, Some("0")));
    for set in ["CapEff:", "CapPrm:", "CapInh:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(set), "0000000000000000", "{set}");
    }

    let (_, writable) = toolbox(client, NAMESPACE, "writes", &["write", "/tmp/file"]).await;
    assert_eq!(writable, 0);
    let read_only = json!({ "containers": [{
        "name": "toolbox", "image": "reef-toolbox", "args": ["write", "/tmp/file"],
        "securityContext": { "readOnlyRootFilesystem": true } }] });
    let (log, code) = toolbox_run(client, NAMESPACE, &toolbox_pod("read-only", &[], &read_only)).await;
    assert!(code == 1 && log.contains("Read-only file system"), "{code} {log}");

    // The host's files are not there, apart from its programs and libraries.
    let (log, code) = toolbox(client, NAMESPACE, "host", &["show", env!("CARGO_MANIFEST_DIR")]).await;
    assert!(code == 1 && log.contains("No such file"), "{log}");
    let (log, code) = toolbox(client, NAMESPACE, "usr", &["write", "/usr/intruder"]).await;
    assert!(code == 1 && !log.is_empty(), "{log}");
}

async fn a_token_of_its_own(client: &Client) {
    let path = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let (token, code) = toolbox(client, NAMESPACE, "token", &["show", path]).await;
    assert_eq!((code, token.trim().split('.').count()), (0, 3), "a JWT");
    let review: k8s_openapi::api::authentication::v1::TokenReview =
        serde_json::from_value(json!({ "spec": { "token": token.trim() } })).unwrap();
    let answer = Api::all(client.clone()).create(&PostParams::default(), &review).await.unwrap();
    let status = answer.status.unwrap();
    assert_eq!(status.user.unwrap().username.as_deref(), Some("system:serviceaccount:default:default"));
}

async fn crashes_are_restarted(client: &Client) {
    let mut pod = serde_json::to_value(toolbox_pod("crasher", &["show", "/absent"], &json!({}))).unwrap();
    pod["spec"]["restartPolicy"] = json!("Always");
    pods(client).create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let status = eventually("three restarts", || async {
        let status = pods(client).get("crasher").await.ok()?.status?.container_statuses?.remove(0);
        (status.restart_count >= 3 && status.state.as_ref()?.waiting.is_some()).then_some(status)
    })
    .await;
    assert_eq!(status.state.unwrap().waiting.unwrap().reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(status.last_state.unwrap().terminated.unwrap().exit_code, 1);
    let previous = LogParams { previous: true, ..LogParams::default() };
    let log = pods(client).logs("crasher", &previous).await.unwrap();
    assert!(log.contains("/absent") || log.contains("No such file"), "{log}");
}

async fn what_cannot_run_says_why(client: &Client) {
    let waits = |name: &'static str, change: Value, expect: &'static str| async move {
        let mut pod = serde_json::to_value(toolbox_pod(name, &["sleep"], &json!({}))).unwrap();
        for (path, value) in change.as_object().unwrap() {
            *pod.pointer_mut(path).unwrap() = value.clone();
        }
        pods(client).create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        eventually(&format!("{name}: {expect}"), || async {
            let status = pods(client).get(name).await.ok()?.status?.container_statuses?.remove(0);
            let waiting = status.state?.waiting?;
            let text = format!("{} {}", waiting.reason?, waiting.message.unwrap_or_default());
            text.contains(expect).then_some(())
        })
        .await;
        pods(client).delete(name, &DeleteParams::default()).await.unwrap();
    };
    let container = "/spec/containers/0";
    let unknown_image = json!({ (format!("{container}/image")): "nobody/knows:1" });
    let root = json!({ (container): { "name": "c", "image": "reef-toolbox",
        "securityContext": { "runAsNonRoot": true, "runAsUser": 0 } } });
    let no_secret = json!({ (container): { "name": "c", "image": "reef-toolbox",
        "env": [{ "name": "X", "valueFrom": { "secretKeyRef": { "name": "absent", "key": "k" } } }] } });
    let hooks = json!({ (container): { "name": "c", "image": "reef-toolbox",
        "lifecycle": { "preStop": { "sleep": { "seconds": 1 } } } } });
    futures::join!(
        waits("unknown-image", unknown_image, "ErrImagePull"),
        waits("root", root, "runAsNonRoot"),
        waits("no-secret", no_secret, "secret \"absent\" not found"),
        waits("hooks", hooks, "not supported by the sandbox's node"),
    );
}

/// SIGTERM ends what listens to it, long before its grace period; what does not is killed after it.
async fn deletion_is_polite_and_then_firm(client: &Client) {
    for (name, arguments, grace) in
        [("polite", ["sleep"].as_slice(), 600), ("stubborn", ["sleep", "--ignore-term"].as_slice(), 2)]
    {
        let pod = toolbox_pod(name, arguments, &json!({ "terminationGracePeriodSeconds": grace }));
        pods(client).create(&PostParams::default(), &pod).await.unwrap();
        eventually("it says that it sleeps", || async {
            let log = pods(client).logs(name, &LogParams::default()).await.ok()?;
            log.contains("sleeping").then_some(())
        })
        .await;
        let began = std::time::Instant::now();
        pods(client).delete(name, &DeleteParams::default()).await.unwrap();
        eventually("it is gone", || async { pods(client).get_opt(name).await.ok()?.is_none().then_some(()) })
            .await;
        if name == "stubborn" {
            assert!(began.elapsed().as_secs() >= 2, "it had its grace period");
        }
    }
}

/// When what holds a pod's namespaces is killed, the pod comes back with the same address.
async fn a_killed_pod_process_is_replaced(client: &Client) {
    let mut pod = serde_json::to_value(toolbox_pod("survivor", &["sleep"], &json!({}))).unwrap();
    pod["spec"]["restartPolicy"] = json!("Always");
    pods(client).create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    let running = |restarts: i32| async move {
        eventually("it runs", || async {
            let status = pods(client).get("survivor").await.ok()?.status?;
            let container = status.container_statuses.as_ref()?.first()?.clone();
            (container.state?.running.is_some() && container.restart_count == restarts).then_some(status)
        })
        .await
    };
    let before = running(0).await;
    let holder = processes()
        .into_iter()
        .find(|p| p.command.contains("\0pod\0") && p.command.contains("\"hostname\":\"survivor\""));
    send(holder.expect("its pod process").pid, Signal::KILL);
    let after = running(1).await;
    assert_eq!(after.pod_ip, before.pod_ip);
    assert_eq!(after.phase.as_deref(), Some("Running"));
}

async fn a_changed_config_map_arrives(client: &Client) {
    config_map(client, "live", &json!({ "value": "1" })).await;
    let pod = json!({
        "metadata": { "name": "watcher" },
        "spec": {
            "volumes": [{ "name": "v", "configMap": { "name": "live" } }, { "name": "scratch", "emptyDir": {} }],
            "restartPolicy": "Always",
            "containers": [{ "name": "c", "image": "reef-toolbox", "args": ["show", "/v/value"],
                             "volumeMounts": [{ "name": "v", "mountPath": "/v" }, { "name": "scratch", "mountPath": "/s" }] }],
        },
    });
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let created = pods(client).create(&PostParams::default(), &pod).await.unwrap();
    let log_says = |text: &'static str| async move {
        eventually(&format!("the log says {text}"), || async {
            let log = pods(client).logs("watcher", &LogParams::default()).await.ok()?;
            (log.trim() == text).then_some(())
        })
        .await;
    };
    log_says("1").await;
    let patch = Patch::Merge(json!({ "data": { "value": "2" } }));
    let api = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    api.patch("live", &PatchParams::default(), &patch).await.unwrap();
    log_says("2").await;
    let uid = pods(client).get("watcher").await.unwrap().uid();
    assert_eq!(uid, created.uid(), "the same pod shows the new value");
}

/// Only clusters that stand for AKS have the driver of Azure Files.
async fn shares_are_not_of_this_cluster(client: &Client) {
    let volume: PersistentVolume = serde_json::from_value(json!({ "metadata": { "name": "files" }, "spec": {
        "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteMany"], "storageClassName": "",
        "claimRef": { "name": "files", "namespace": NAMESPACE },
        "csi": { "driver": "file.csi.azure.com", "volumeHandle": "g#a#s" },
    } }))
    .unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &volume).await.unwrap();
    let claim: PersistentVolumeClaim =
        serde_json::from_value(json!({ "metadata": { "name": "files" }, "spec": {
        "accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": "files",
        "resources": { "requests": { "storage": "1Gi" } },
    } }))
        .unwrap();
    Api::namespaced(client.clone(), NAMESPACE).create(&PostParams::default(), &claim).await.unwrap();
    let volumes = json!({ "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "files" } }] });
    let pod = toolbox_pod("with-files", &["sleep"], &volumes);
    pods(client).create(&PostParams::default(), &pod).await.unwrap();
    eventually("it says that the driver is missing", || async {
        let status = pods(client).get("with-files").await.ok()?.status?.container_statuses?.remove(0);
        let message = status.state?.waiting?.message?;
        message.contains("driver file.csi.azure.com is not on this node").then_some(())
    })
    .await;
}
