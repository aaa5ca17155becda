//! Story: pods of an AKS cluster keep their files in Azure Files, and Jobs end with what they have to say.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    batch::v1::Job,
    core::v1::{Event, Namespace, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount},
    storage::v1::CSIDriver,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, LogParams, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use reef_e2e::{
    azure::SUBSCRIPTION,
    harness::{Sandbox, eventually, toolbox_pod, toolbox_run, until},
};
use serde_json::{Value, json};

const TENANT: &str = "tenant";
const KEYS: &str = "keys";
const CLUSTER: &str = "reef";
const ACCOUNT: &str = "reeffiles";

#[tokio::test]
async fn files_stay_and_jobs_end() {
    let flags = ["--no-operator", "--reef-slots=1", "--time-scale=2000"];
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &flags);
    azure(&sandbox);
    let kubeconfig = sandbox.folder().join("reefs").join(format!("{CLUSTER}.kubeconfig"));
    until("the kubeconfig of the cluster", || kubeconfig.exists().then_some(()));
    let client = sandbox.reef_client(CLUSTER).await;
    let drivers = Api::<CSIDriver>::all(client.clone());
    let driver = eventually("the driver", || async { drivers.get("file.csi.azure.com").await.ok() }).await;
    assert_eq!(driver.spec.attach_required, Some(false));
    for namespace in [TENANT, KEYS] {
        apply(&client, "v1", "Namespace", &json!({ "metadata": { "name": namespace } })).await;
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
        eventually("the default service account", || async { accounts.get("default").await.ok() }).await;
    }
    futures::join!(
        files_stay(&sandbox, &client),
        a_job_waits_for_its_secret(&client),
        a_failed_job_says_why(&client)
    );
}

fn group() -> String {
    format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/files")
}

fn account() -> String {
    format!("{}/providers/Microsoft.Storage/storageAccounts/{ACCOUNT}", group())
}

fn share() -> String {
    format!("{}/fileServices/default/shares/one", account())
}

fn subnet() -> String {
    format!("{}/providers/Microsoft.Network/virtualNetworks/v/subnets/nodes", group())
}

fn put(sandbox: &Sandbox, path: &str, body: &Value) {
    let (status, answer) = sandbox.arm("PUT", path, Some(body));
    assert!((200..300).contains(&status), "{path}: {status} {answer}");
    until(&format!("{path} is made"), || {
        let (status, found) = sandbox.arm("GET", path, None);
        let state = found["properties"]["provisioningState"].as_str().unwrap_or("Succeeded").to_owned();
        (status == 200 && state == "Succeeded").then_some(())
    });
}

fn put_account(sandbox: &Sandbox, rules: &Value) {
    let acls = json!({ "bypass": "AzureServices", "defaultAction": "Deny", "virtualNetworkRules": rules, "ipRules": [] });
    let body = json!({ "location": "westeurope", "kind": "StorageV2", "sku": { "name": "Standard_ZRS" }, "properties": { "networkAcls": acls } });
    put(sandbox, &account(), &body);
}

/// A network, an account that lets nobody in, a share, and an AKS cluster.
fn azure(sandbox: &Sandbox) {
    for provider in ["Network", "Storage", "ContainerService"] {
        let path = format!("/subscriptions/{SUBSCRIPTION}/providers/Microsoft.{provider}/register");
        assert_eq!(sandbox.arm("POST", &path, None).0, 200);
    }
    put(sandbox, &group(), &json!({ "location": "westeurope" }));
    let properties =
        json!({ "addressPrefix": "10.0.0.0/20", "serviceEndpoints": [{ "service": "Microsoft.Storage" }] });
    let network = json!({ "location": "westeurope", "properties": {
        "addressSpace": { "addressPrefixes": ["10.0.0.0/16"] },
        "subnets": [{ "name": "nodes", "properties": properties }],
    } });
    put(sandbox, subnet().split("/subnets/").next().unwrap(), &network);
    put_account(sandbox, &json!([]));
    put(sandbox, &share(), &json!({ "properties": { "shareQuota": 1 } }));
    let pool = json!({ "name": "system", "mode": "System", "minCount": 2, "vnetSubnetID": subnet() });
    let cluster = json!({ "location": "westeurope", "properties": { "dnsPrefix": "reef", "agentPoolProfiles": [pool] } });
    let path = format!("{}/providers/Microsoft.ContainerService/managedClusters/{CLUSTER}", group());
    put(sandbox, &path, &cluster);
}

async fn apply(client: &Client, version: &str, kind: &str, object: &Value) {
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let mut object = object.clone();
    object["apiVersion"] = json!(resource.api_version);
    object["kind"] = json!(kind);
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let api: Api<DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let apply = PatchParams::apply("story").force();
    api.patch(&object.name_any(), &apply, &Patch::Apply(&object)).await.unwrap();
}

async fn apply_key(client: &Client, key: &str) {
    let data = json!({ "azurestorageaccountname": ACCOUNT, "azurestorageaccountkey": key });
    let secret = json!({ "metadata": { "name": "account", "namespace": KEYS }, "stringData": data });
    apply(client, "v1", "Secret", &secret).await;
}

async fn apply_volume(client: &Client) {
    let volume = json!({ "metadata": { "name": "one" }, "spec": {
        "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteMany"], "storageClassName": "",
        "persistentVolumeReclaimPolicy": "Retain",
        "claimRef": { "name": "data", "namespace": TENANT },
        "csi": {
            "driver": "file.csi.azure.com", "volumeHandle": format!("files#{ACCOUNT}#one"),
            "volumeAttributes": { "resourceGroup": "files", "storageAccount": ACCOUNT, "shareName": "one" },
            "nodeStageSecretRef": { "name": "account", "namespace": KEYS },
        },
    } });
    apply(client, "v1", "PersistentVolume", &volume).await;
    let claim = json!({ "metadata": { "name": "data", "namespace": TENANT }, "spec": {
        "accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": "one",
        "resources": { "requests": { "storage": "1Gi" } },
    } });
    apply(client, "v1", "PersistentVolumeClaim", &claim).await;
}

/// Adds its name to a file of the share, then serves.
async fn apply_set(client: &Client) {
    let mount = json!({ "name": "data", "mountPath": "/data", "subPathExpr": "of/$(POD)" });
    let pod_name = json!({ "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } });
    let set = json!({ "metadata": { "name": "db", "namespace": TENANT }, "spec": {
        "serviceName": "db", "replicas": 1, "updateStrategy": { "type": "OnDelete" },
        "selector": { "matchLabels": { "app": "db" } },
        "template": { "metadata": { "labels": { "app": "db" } }, "spec": {
            "enableServiceLinks": false, "terminationGracePeriodSeconds": 1,
            "securityContext": { "fsGroup": 2000, "runAsUser": 4242, "runAsNonRoot": true },
            "volumes": [
                { "name": "data", "persistentVolumeClaim": { "claimName": "data" } },
                { "name": "scratch", "emptyDir": { "sizeLimit": "1Mi" } },
            ],
            "initContainers": [{ "name": "append", "image": "reef-toolbox", "args": ["append", "/data/names"],
                "env": [pod_name], "volumeMounts": [mount] }],
            "containers": [{ "name": "serve", "image": "reef-toolbox", "args": ["serve", "8080"],
                "ports": [{ "name": "http", "containerPort": 8080 }],
                "volumeMounts": [{ "name": "scratch", "mountPath": "/scratch" }],
                "startupProbe": { "httpGet": { "path": "/", "port": "http" }, "periodSeconds": 1 } }],
        } },
    } });
    apply(client, "apps/v1", "StatefulSet", &set).await;
}

async fn files_stay(sandbox: &Sandbox, client: &Client) {
    apply_key(client, "d3Jvbmc=").await;
    apply_volume(client).await;
    apply_set(client).await;
    // One obstacle after the other, each with its reason.
    why(client, "its networkAcls do not allow subnet").await;
    put_account(sandbox, &json!([{ "id": subnet(), "action": "Allow" }]));
    why(client, "the key is not one of").await;
    let keys = sandbox.arm("POST", &format!("{}/listKeys", account()), None).1;
    let key = keys["keys"][1]["value"].as_str().unwrap();
    apply_key(client, key).await;
    names(client, "db-0\n").await;

    others_read_the_same_files(client).await;

    let sets = Api::<StatefulSet>::namespaced(client.clone(), TENANT);
    sets.delete("db", &DeleteParams::foreground()).await.unwrap();
    eventually("the set is gone", || async { sets.get_opt("db").await.ok()?.is_none().then_some(()) }).await;
    apply_set(client).await;
    names(client, "db-0\ndb-0\n").await;

    // A claim in use stays until its pods are gone, and does not keep its namespace.
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), TENANT);
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    assert!(claims.get("data").await.unwrap().metadata.deletion_timestamp.is_some());
    names(client, "db-0\ndb-0\n").await;
    let namespaces = Api::<Namespace>::all(client.clone());
    namespaces.delete(TENANT, &DeleteParams::default()).await.unwrap();
    eventually("the namespace is gone", || async {
        namespaces.get_opt(TENANT).await.ok()?.is_none().then_some(())
    })
    .await;
    let volumes = Api::<PersistentVolume>::all(client.clone());
    eventually("the volume is Released", || async {
        let phase = volumes.get("one").await.ok()?.status?.phase?;
        (phase == "Released").then_some(())
    })
    .await;

    let file = |folder: &str| sandbox.folder().join("azure-files").join(folder).join("of/db-0/names");
    assert_eq!(std::fs::read_to_string(file(&format!("{ACCOUNT}/one"))).unwrap(), "db-0\ndb-0\n");
    assert_eq!(sandbox.arm("DELETE", &share(), None).0, 200);
    let shares = share().rsplit_once('/').unwrap().0.to_owned();
    let (_, listed) = sandbox.arm("GET", &format!("{shares}?$expand=deleted"), None);
    let version = listed["value"][0]["properties"]["version"].as_str().unwrap();
    until("the files of the deleted share are set aside", || {
        file(&format!("deleted/{ACCOUNT}/one_{version}")).is_file().then_some(())
    });
    assert!(!file(&format!("{ACCOUNT}/one")).exists());
    let back = json!({ "deletedShareName": "one", "deletedShareVersion": version });
    assert_eq!(sandbox.arm("POST", &format!("{shares}/two/restore"), Some(&back)).0, 200);
    until("they are back", || file(&format!("{ACCOUNT}/two")).is_file().then_some(()));
    // Neither the wrong key nor the right one shows.
    let events = Api::<Event>::all(client.clone()).list(&ListParams::default()).await.unwrap();
    let shown = serde_json::to_string(&events.items).unwrap();
    assert!(!shown.contains("d3Jvbmc=") && !shown.contains(key), "a key shows");
}

/// Another pod, as another user, has the same files; one whose volume is read-only cannot write.
async fn others_read_the_same_files(client: &Client) {
    let pod = |name: &str, arguments: &[&str], read_only: bool| {
        let claim = json!({ "claimName": "data", "readOnly": read_only });
        let volumes = json!({ "volumes": [{ "name": "v", "persistentVolumeClaim": claim }] });
        let mut pod = serde_json::to_value(toolbox_pod(name, arguments, &volumes)).unwrap();
        pod["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
        serde_json::from_value::<Pod>(pod).unwrap()
    };
    let (reader, writer, refused) = (
        pod("reader", &["show", "/v/of/db-0/names"], false),
        pod("writer", &["write", "/v/more"], false),
        pod("refused", &["write", "/v/more"], true),
    );
    let ((read, _), (_, wrote), (log, code)) = futures::join!(
        toolbox_run(client, TENANT, &reader),
        toolbox_run(client, TENANT, &writer),
        toolbox_run(client, TENANT, &refused),
    );
    assert_eq!((read.trim(), wrote), ("db-0", 0));
    assert!(code == 1 && log.contains("Read-only file system"), "{code} {log}");
}

/// Waits until the set's pod says why it does not start, in its status and in an Event.
async fn why(client: &Client, text: &'static str) {
    eventually(&format!("db-0 says: {text}"), || async {
        let status = Api::<Pod>::namespaced(client.clone(), TENANT).get("db-0").await.ok()?.status?;
        let waiting = status.container_statuses?.first()?.state.clone()?.waiting?;
        let events = Api::<Event>::namespaced(client.clone(), TENANT);
        let mounts = ListParams::default().fields("reason=FailedMount,involvedObject.name=db-0");
        let events = events.list(&mounts).await.ok()?.items;
        let told = events.iter().any(|e| e.message.as_deref().is_some_and(|m| m.contains(text)));
        (waiting.message?.contains(text) && told).then_some(())
    })
    .await;
}

/// Waits until the set's pod is ready; what it found in its file.
async fn names(client: &Client, expect: &str) {
    let pods = Api::<Pod>::namespaced(client.clone(), TENANT);
    let options = LogParams { container: Some("append".to_owned()), ..LogParams::default() };
    let log = eventually("db-0 is ready", || async {
        let pod = pods.get("db-0").await.ok()?;
        let conditions = pod.status?.conditions?;
        let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        if ready { pods.logs("db-0", &options).await.ok() } else { None }
    })
    .await;
    assert_eq!(log, expect);
}

fn job(name: &str, container: &Value, more: &Value) -> Value {
    let mut pod = json!({ "restartPolicy": "Never", "containers": [container] });
    pod.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "metadata": { "name": name, "namespace": "default" }, "spec": { "backoffLimit": 0, "template": { "spec": pod } } })
}

/// How the only pod of a Job ended: phase and termination message.
async fn ended(client: &Client, name: &str, condition: &str) -> (String, String) {
    let jobs = Api::<Job>::namespaced(client.clone(), "default");
    eventually(&format!("{name} is {condition}"), || async {
        let conditions = jobs.get(name).await.ok()?.status?.conditions?;
        conditions.iter().any(|c| c.type_ == condition && c.status == "True").then_some(())
    })
    .await;
    let labels = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"));
    let pods = Api::<Pod>::namespaced(client.clone(), "default").list(&labels).await.unwrap().items;
    assert_eq!(pods.len(), 1);
    let status = pods.into_iter().next().unwrap().status.unwrap();
    let state = status.container_statuses.unwrap().remove(0).state.unwrap();
    (status.phase.unwrap(), state.terminated.unwrap().message.unwrap_or_default())
}

async fn a_job_waits_for_its_secret(client: &Client) {
    let container = json!({ "name": "c", "image": "reef-toolbox", "args": ["write", "/dev/termination-log"],
        "volumeMounts": [{ "name": "s", "mountPath": "/s" }] });
    let volumes = json!({ "volumes": [{ "name": "s", "secret": { "secretName": "later" } }] });
    apply(client, "batch/v1", "Job", &job("patient", &container, &volumes)).await;
    let labels = ListParams::default().labels("batch.kubernetes.io/job-name=patient");
    eventually("it says what it waits for", || async {
        let pods = Api::<Pod>::namespaced(client.clone(), "default").list(&labels).await.ok()?.items;
        let status = pods.first()?.status.clone()?;
        let waiting = status.container_statuses?.first()?.state.clone()?.waiting?;
        waiting.message?.contains("secret \"later\" not found").then_some(())
    })
    .await;
    let metadata = json!({ "name": "later", "namespace": "default" });
    let secret = json!({ "metadata": metadata, "stringData": { "k": "v" } });
    apply(client, "v1", "Secret", &secret).await;
    assert_eq!(ended(client, "patient", "Complete").await, ("Succeeded".to_owned(), "written".to_owned()));
}

async fn a_failed_job_says_why(client: &Client) {
    let container = json!({ "name": "c", "image": "reef-toolbox", "args": ["show", "/absent"],
        "terminationMessagePolicy": "FallbackToLogsOnError" });
    apply(client, "batch/v1", "Job", &job("failing", &container, &json!({}))).await;
    let (phase, message) = ended(client, "failing", "Failed").await;
    assert!(phase == "Failed" && message.contains("No such file"), "{phase} {message}");
}
