//! Story: instances come into service on two reefs, are reached, are kept as wanted, and go again: one whose data is
//! kept, one whose data goes.

use std::{collections::BTreeMap, time::Instant};

use k8s_openapi::api::core::v1::{Namespace, PersistentVolume, Pod, Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use reef_crds::{CloudInstance, CloudInstanceStatus, Reef};
use reef_e2e::{
    azure::{PLATFORM_GROUP, SUBSCRIPTION},
    canaries::Canaries,
    harness::{Sandbox, eventually, ok, refused},
    instance_harness::{
        CUSTOMERS, api_key, call, cluster_of, hash_of, instance_gone, instance_ready, instance_shows,
        instances, retained,
    },
    reef_harness::{azure_writes, cluster_writes, looks, ready, scale_operator, set, settled},
};
use serde_json::{Value, json};

const SAMPLES: [&str; 4] = [
    include_str!("../../../docs/samples/10-region.yaml"),
    include_str!("../../../docs/samples/20-reefclass.yaml"),
    include_str!("../../../docs/samples/30-reefs.yaml"),
    include_str!("../../../docs/samples/40-instances.yaml"),
];

const NAMES: [&str; 3] = ["acme", "globex", "initech"];

const CONFIRM: &str = "confirmation.cloud.octopus.com/deletion=true";

type All = BTreeMap<&'static str, CloudInstanceStatus>;

#[tokio::test]
async fn instances_come_serve_and_go() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=2", "--time-scale=200"]);
    let client = sandbox.client().await;
    let canaries = Canaries::begin(&client);
    set(&sandbox, "resyncSeconds=10");
    for sample in &SAMPLES[..3] {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    for reef in ["weu-1", "weu-2"] {
        ready(&client, reef).await;
    }
    let began = Instant::now();
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], SAMPLES[3]));
    let first = instance_ready(&client, NAMES[0]).await;
    println!(
        "an instance from manifest to Ready: {:.1} s (Azure 200 times as fast)",
        began.elapsed().as_secs_f32()
    );
    let mut all = All::from([(NAMES[0], first)]);
    for name in &NAMES[1..] {
        all.insert(name, instance_ready(&client, name).await);
    }
    println!("three instances: {:.1} s", began.elapsed().as_secs_f32());

    they_have_their_places(&client, &all).await;
    what_fits_nowhere_says_why(&sandbox, &client, &all).await;
    each_is_reached_and_is_itself(&sandbox, &client, &all).await;
    what_they_are_made_of_is_theirs(&sandbox, &client, &all).await;
    canaries.do_not_show(&sandbox, &client).await;
    nothing_is_written_when_nothing_is_to_do(&sandbox, &client).await;
    what_is_changed_by_hand_is_put_back(&sandbox, &client, &all).await;
    what_is_lost_is_made_again_only_when_confirmed(&sandbox, &client, &all).await;
    what_can_change_changes(&sandbox, &client, &all).await;
    a_subdomain_is_taken_once(&sandbox, &client).await;
    deletion_needs_a_confirmation(&sandbox, &client, &all).await;
    what_is_kept_and_what_goes(&sandbox, &client, &all).await;
    canaries.do_not_show(&sandbox, &client).await;
}

async fn they_have_their_places(client: &Client, all: &All) {
    let reef = |name: &str| all[name].placement.as_ref().unwrap().reef.clone();
    assert_ne!(reef("globex"), reef("initech"), "they are of one anti-affinity group");
    let place = |name: &str| all[name].placement.clone().unwrap();
    assert_eq!((place("acme").pool.as_deref(), place("initech").pool), (Some("pool-1"), None));
    let reefs = Api::<Reef>::all(client.clone()).list(&ListParams::default()).await.unwrap();
    eventually("no place is kept any more for who has one", || async {
        let reefs = Api::<Reef>::all(client.clone()).list(&ListParams::default()).await.ok()?;
        reefs.items.iter().all(|r| r.status.as_ref().unwrap().reservations.len() <= 1).then_some(())
    })
    .await;
    assert_eq!(reefs.items.len(), 2);
}

/// The place stands in the condition, and each reef's verdict in an Event.
async fn what_fits_nowhere_says_why(sandbox: &Sandbox, client: &Client, all: &All) {
    let place = all["acme"].placement.clone().unwrap();
    let expect = format!("reef {}, pool pool-1, storage account {}", place.reef, place.storage_account);
    let placed = all["acme"].conditions.iter().find(|c| c.type_ == "Placed").unwrap();
    assert_eq!(placed.message, expect);
    let mut lost = instances(client).get("acme").await.unwrap().spec;
    lost.deletion_protection = false;
    lost.placement =
        serde_json::from_value(json!({ "reefSelector": { "matchLabels": { "ring": "none" } } })).unwrap();
    let lost = serde_json::to_string(&CloudInstance::new("lost", lost)).unwrap();
    ok(&sandbox.kubectl_with(&["-n", CUSTOMERS, "apply", "-f", "-"], &lost));
    let why =
        instance_shows(client, "lost", "Ready", "False", "NoReefFits").await.conditions[0].message.clone();
    assert_eq!(why, "0 of 2 reefs of region westeurope fit: 2 lacks a label that was asked for");
    let said = format!(
        "{why}; not weu-1: lacks a label that was asked for; not weu-2: lacks a label that was asked for"
    );
    for (reason, note) in [("Scheduled", &expect), ("NoReefFits", &said)] {
        eventually("an Event says it", || async {
            let events = ok(&sandbox.kubectl(&["-n", CUSTOMERS, "get", "events.events.k8s.io", "-o=json"]));
            let events: Value = serde_json::from_str(&events).ok()?;
            let mut events = events["items"].as_array()?.iter().filter(|event| event["reason"] == reason);
            events
                .any(|event| event["note"].as_str().is_some_and(|n| n.starts_with(note.as_str())))
                .then_some(())
        })
        .await;
    }
    ok(&sandbox.kubectl(&["-n", CUSTOMERS, "delete", "ci", "lost", "--wait=false"]));
    instance_gone(client, "lost").await;
}

async fn each_is_reached_and_is_itself(sandbox: &Sandbox, client: &Client, all: &All) {
    let mut ids = Vec::new();
    for (name, status) in all {
        let (code, root) = call(sandbox, client, status, ("GET", "/api"), None, &Value::Null).await;
        assert_eq!(code, 200, "{name}");
        assert_eq!(root["Version"], *status.version.as_ref().unwrap().running.as_ref().unwrap());
        assert_eq!(status.url.as_deref(), Some(&*format!("https://{name}.octopus.example")));
        ids.push(root["InstallationId"].as_str().unwrap().to_owned());
        let cluster = cluster_of(client, status).await.unwrap();
        let words = sandbox.polling(&cluster, &format!("{name}.octopus.example")).unwrap();
        assert_eq!(String::from_utf8(words).unwrap().trim(), ids.last().unwrap(), "its own TLS reaches it");
        // The settings of the cloud are made, through its public API.
        let key = api_key(client, status).await;
        let get = async |path| call(sandbox, client, status, ("GET", path), Some(&key), &Value::Null).await.1;
        assert_eq!(get("/api/featuresconfiguration").await["IsBuiltInWorkerEnabled"], false);
        assert_eq!(get("/api/serverconfiguration").await["ServerUri"], *status.url.as_ref().unwrap());
        let nodes = get("/api/octopusservernodes").await;
        let cap = instances(client).get(name).await.unwrap().spec.task_cap;
        assert_eq!(nodes["Items"][0]["MaxConcurrentTasks"], cap);
        let project = json!({ "Name": format!("of {name}") });
        assert_eq!(
            call(sandbox, client, status, ("POST", "/api/projects"), Some(&key), &project).await.0,
            201
        );
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all.len(), "each is another");
    let stranger = api_key(client, &all["globex"]).await;
    let refused =
        call(sandbox, client, &all["acme"], ("GET", "/api/projects"), Some(&stranger), &Value::Null).await;
    assert_eq!(refused.0, 401, "a key opens one server");
}

async fn what_they_are_made_of_is_theirs(sandbox: &Sandbox, client: &Client, all: &All) {
    for (name, status) in all {
        let hash = hash_of(status);
        let ids = sandbox.azure_ids();
        let of = |part: &str| ids.iter().filter(|id| id.contains(part)).cloned().collect::<Vec<_>>();
        for (part, count) in
            [(format!("id-{hash}"), 2), (format!("db-{hash}-1"), 1), (format!("fs-{hash}-1"), 1)]
        {
            assert_eq!(of(&part).len(), count, "{part}: {ids:#?}");
        }
        let record = format!("{}/CNAME/{name}", zone());
        let (_, record) = sandbox.arm("GET", &record, None);
        let reef =
            Api::<Reef>::all(client.clone()).get(&status.placement.as_ref().unwrap().reef).await.unwrap();
        assert_eq!(record["properties"]["CNAMERecord"]["cname"], reef.status.unwrap().gateway.unwrap().host);
        let cluster = sandbox.reef_client(&cluster_of(client, status).await.unwrap()).await;
        let namespace = status.namespace.as_ref().unwrap();
        let labels =
            Api::<Namespace>::all(cluster.clone()).get(namespace).await.unwrap().metadata.labels.unwrap();
        assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
        let pod =
            Api::<Pod>::namespaced(cluster.clone(), namespace).get("octopus-0").await.unwrap().spec.unwrap();
        assert_eq!(pod.automount_service_account_token, Some(false));
        nothing_else_can_be_mounted(&cluster, namespace).await;
    }
}

/// The policies of the reef's cluster hold administrators too.
async fn nothing_else_can_be_mounted(cluster: &Client, namespace: &str) {
    let pod = |account: &str, volume: Value| -> Pod {
        let security = json!({ "allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" } });
        serde_json::from_value(json!({
            "metadata": { "name": "probe" },
            "spec": { "serviceAccountName": account, "volumes": [volume],
                "containers": [{ "name": "c", "image": "i", "securityContext": security }] },
        }))
        .unwrap()
    };
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let pods = Api::<Pod>::namespaced(cluster.clone(), namespace);
    let empty = json!({ "name": "v", "emptyDir": {} });
    let csi = json!({ "name": "v", "csi": { "driver": "file.csi.azure.com", "volumeAttributes": { "shareName": "x" } } });
    pods.create(&dry, &pod("octopus", empty.clone())).await.unwrap();
    for (account, volume, expect) in
        [("octopus", csi, "these volumes only"), ("default", empty, "ServiceAccount octopus")]
    {
        let refused = pods.create(&dry, &pod(account, volume)).await.unwrap_err().to_string();
        assert!(refused.contains(expect), "{refused}");
    }
    let volumes = Api::<PersistentVolume>::all(cluster.clone());
    let mut volume = volumes.list(&ListParams::default()).await.unwrap().items.remove(0);
    volume.metadata = ObjectMeta { name: Some("probe".to_owned()), ..Default::default() };
    volume.spec.as_mut().unwrap().claim_ref = None;
    let refused = volumes.create(&dry, &volume).await.unwrap_err().to_string();
    assert!(refused.contains("must name the claim data"), "{refused}");
}

fn zone() -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/{PLATFORM_GROUP}/providers/Microsoft.Network/dnsZones/octopus.example"
    )
}

/// Clients of the reefs' clusters, by Reef.
async fn reefs(sandbox: &Sandbox, client: &Client) -> Vec<(String, Client)> {
    let mut all = Vec::new();
    for reef in Api::<Reef>::all(client.clone()).list(&ListParams::default()).await.unwrap() {
        let cluster = reef.status.as_ref().unwrap().cluster.as_ref().unwrap().name.clone();
        all.push((reef.name_any(), sandbox.reef_client(&cluster).await));
    }
    all
}

/// Invariant 7 with instances: routine looks write nowhere.
async fn nothing_is_written_when_nothing_is_to_do(sandbox: &Sandbox, client: &Client) {
    let by_us = |entry: &Value| {
        entry["user"]["username"] == "system:serviceaccount:reef-operator:reef-operator"
            && entry["objectRef"]["resource"] != "leases"
    };
    let ours = || sandbox.audit().into_iter().filter(|e| by_us(e)).collect::<Vec<_>>();
    let looked = async |more: f64| {
        let first = looks(client, "cloud-instance").await;
        eventually("routine looks at all instances", || async {
            (looks(client, "cloud-instance").await >= first + more).then_some(())
        })
        .await;
    };
    let statuses = async || {
        let list = Api::<Reef>::all(client.clone()).list(&ListParams::default()).await.unwrap();
        list.items.into_iter().filter_map(|r| r.status).collect::<Vec<_>>()
    };
    let in_clusters = async || statuses().await.iter().map(|s| cluster_writes(sandbox, s)).sum::<usize>();
    let all_writes = async || ours().len() + in_clusters().await + azure_writes(sandbox).len();
    settled(client, "cloud-instance", 6.0, all_writes).await;
    let before = (ours().len(), in_clusters().await, azure_writes(sandbox).len());
    looked(9.0).await;
    let new = ours().split_off(before.0);
    assert!(new.is_empty(), "writes in routine looks: {new:#?}");
    assert_eq!(
        (in_clusters().await, azure_writes(sandbox).len()),
        (before.1, before.2),
        "writes in routine looks"
    );
}

async fn what_is_changed_by_hand_is_put_back(sandbox: &Sandbox, client: &Client, all: &All) {
    let status = &all["acme"];
    let cluster = sandbox.reef_client(&cluster_of(client, status).await.unwrap()).await;
    let namespace = status.namespace.as_ref().unwrap();
    let policies =
        Api::<k8s_openapi::api::networking::v1::NetworkPolicy>::namespaced(cluster.clone(), namespace);
    policies.delete("default-deny", &DeleteParams::default()).await.unwrap();
    let record = format!("{}/CNAME/acme", zone());
    assert_eq!(sandbox.arm("DELETE", &record, None).0, 200);
    eventually("policy and record are made again", || async {
        let policy = policies.get_opt("default-deny").await.ok()?;
        (policy.is_some() && sandbox.arm("GET", &record, None).0 == 200).then_some(())
    })
    .await;
    // Whoever ends the pod gets the same server with the same data again.
    let pods = Api::<Pod>::namespaced(cluster.clone(), namespace);
    let was = pods.get("octopus-0").await.unwrap().uid();
    pods.delete("octopus-0", &DeleteParams::default()).await.unwrap();
    eventually("another pod serves", || async {
        let pod = pods.get_opt("octopus-0").await.ok()??;
        let ready = pod
            .status
            .as_ref()?
            .conditions
            .as_ref()?
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True");
        (ready && pod.uid() != was).then_some(())
    })
    .await;
    let key = api_key(client, &all["acme"]).await;
    eventually("it serves what it had", || async {
        let get = ("GET", "/api/projects");
        let (_, projects) = call(sandbox, client, status, get, Some(&key), &Value::Null).await;
        (projects["Items"][0]["Name"] == "of acme").then_some(())
    })
    .await;
    instance_ready(client, "acme").await;
}

/// A share that is gone is not replaced by an empty one, unless somebody confirms the loss.
async fn what_is_lost_is_made_again_only_when_confirmed(sandbox: &Sandbox, client: &Client, all: &All) {
    let hash = hash_of(&all["globex"]);
    let ids = sandbox.azure_ids();
    let share = ids.iter().find(|id| id.contains(&format!("fs-{hash}-1"))).unwrap();
    assert_eq!(sandbox.arm("DELETE", share, None).0, 200);
    let stalled = instance_shows(client, "globex", "Stalled", "True", "DataResourceMissing").await;
    assert!(stalled.conditions[0].message.contains(share.as_str()), "{}", stalled.conditions[0].message);
    assert_eq!(sandbox.arm("GET", share, None).0, 404);
    ok(&sandbox.kubectl(&[
        "-n",
        CUSTOMERS,
        "annotate",
        "ci",
        "globex",
        "confirmation.cloud.octopus.com/recreation=true",
    ]));
    instance_ready(client, "globex").await;
    ok(&sandbox.kubectl(&[
        "-n",
        CUSTOMERS,
        "annotate",
        "ci",
        "globex",
        "confirmation.cloud.octopus.com/recreation-",
    ]));
}

/// Takes the owner from the input of the agent's Job that made the settings, and adds another input whose Job was never made,
/// both as a crash would have left them; their names.
async fn inputs_without_an_owner(cluster: &Client, hash: &str) -> [String; 2] {
    let secrets = Api::<Secret>::namespaced(cluster.clone(), "reef-system");
    let params = ListParams::default().labels("cloud.octopus.com/step=configure");
    let all = secrets.list(&params).await.unwrap();
    let input = all.into_iter().find(|secret| secret.name_any().contains(hash)).unwrap();
    let name = input.name_any();
    let orphaned = json!({ "metadata": { "ownerReferences": null } });
    secrets.patch(&name, &PatchParams::default(), &Patch::Merge(&orphaned)).await.unwrap();
    let jobless = format!("{name}-jobless");
    let labels = input.metadata.labels;
    let metadata = ObjectMeta { name: Some(jobless.clone()), labels, ..ObjectMeta::default() };
    let other = Secret { metadata, data: input.data, ..Secret::default() };
    secrets.create(&PostParams::default(), &other).await.unwrap();
    [name, jobless]
}

async fn what_can_change_changes(sandbox: &Sandbox, client: &Client, all: &All) {
    let cluster = sandbox.reef_client(&cluster_of(client, &all["acme"]).await.unwrap()).await;
    scale_operator(sandbox, 0);
    let [input, jobless] = inputs_without_an_owner(&cluster, &hash_of(&all["acme"])).await;
    let edit = r#"{"spec":{"taskCap":10,"quota":{"share":"150Gi","database":"20Gi"}}}"#;
    ok(&sandbox.kubectl(&["-n", CUSTOMERS, "patch", "ci", "acme", "--type=merge", "-p", edit]));
    scale_operator(sandbox, 2);
    instance_ready(client, "acme").await;
    let secrets = Api::<Secret>::namespaced(cluster, "reef-system");
    eventually("the old input goes with its Job, and the one without a Job is gone", || async {
        let secret = secrets.get_opt(&input).await.ok()?;
        let is_owned = secret.is_none_or(|secret| !secret.owner_references().is_empty());
        (is_owned && secrets.get_opt(&jobless).await.ok()?.is_none()).then_some(())
    })
    .await;
    let hash = hash_of(&all["acme"]);
    let ids = sandbox.azure_ids();
    let get = |part: String| sandbox.arm("GET", ids.iter().find(|id| id.contains(&part)).unwrap(), None).1;
    eventually("quotas have grown", || async {
        let share = &get(format!("fs-{hash}-1"))["properties"]["shareQuota"];
        let database = &get(format!("db-{hash}-1"))["properties"]["maxSizeBytes"];
        (*share == 150 && *database == json!(20_i64 << 30)).then_some(())
    })
    .await;
    let key = api_key(client, &all["acme"]).await;
    eventually("the server has the new task cap", || async {
        let path = ("GET", "/api/octopusservernodes");
        let (_, nodes) = call(sandbox, client, &all["acme"], path, Some(&key), &Value::Null).await;
        (nodes["Items"][0]["MaxConcurrentTasks"] == 10).then_some(())
    })
    .await;
}

async fn a_subdomain_is_taken_once(sandbox: &Sandbox, client: &Client) {
    let mut second = instances(client).get("acme").await.unwrap().spec;
    second.deletion_protection = false;
    let second = CloudInstance::new("acme-again", second);
    let text = serde_json::to_string(&second).unwrap();
    ok(&sandbox.kubectl_with(&["-n", CUSTOMERS, "apply", "-f", "-"], &text));
    let stalled = instance_shows(client, "acme-again", "Stalled", "True", "NameTaken").await;
    assert!(stalled.conditions[0].message.contains("customers/acme"), "{}", stalled.conditions[0].message);
    let cluster = sandbox.reef_client(&cluster_of(client, &stalled).await.unwrap()).await;
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
    let kind = ApiResource::from_gvk_with_plural(&kind, "httproutes");
    let namespace = stalled.namespace.as_ref().unwrap();
    let routes = Api::<DynamicObject>::namespaced_with(cluster, namespace, &kind);
    let routes = routes.list(&ListParams::default()).await.unwrap();
    assert!(routes.items.is_empty(), "no traffic of the first one's goes to it");
    ok(&sandbox.kubectl(&["-n", CUSTOMERS, "delete", "ci", "acme-again", "--wait=false"]));
    instance_gone(client, "acme-again").await;
    assert_eq!(
        sandbox.arm("GET", &format!("{}/CNAME/acme", zone()), None).0,
        200,
        "the record is the first one's"
    );
    for kept in retained(client).await {
        assert_eq!(kept.spec.origin.name, "acme-again");
        ok(&sandbox.kubectl(&["annotate", "ri", &kept.name_any(), CONFIRM]));
        ok(&sandbox.kubectl(&["delete", "ri", &kept.name_any(), "--timeout=180s"]));
    }
}

async fn deletion_needs_a_confirmation(sandbox: &Sandbox, client: &Client, all: &All) {
    let delete = ["-n", CUSTOMERS, "delete", "ci", "acme", "--wait=false"];
    let why = refused(&sandbox.kubectl(&delete));
    assert!(why.contains("is protected") && why.contains(CONFIRM), "{why}");
    scale_operator(sandbox, 0);
    let why = refused(&sandbox.kubectl(&delete));
    assert!(why.contains("is protected"), "with the operator down: {why}");
    scale_operator(sandbox, 2);
    // A policy can be taken away, or be passed by whoever owns the namespace: the operator asks all the same.
    ok(&sandbox.kubectl(&["delete", "validatingadmissionpolicybinding", "deletion.cloud.octopus.com"]));
    let writes = azure_writes(sandbox).len();
    eventually("the binding is gone", || async { sandbox.kubectl(&delete).status.success().then_some(()) })
        .await;
    instance_shows(client, "acme", "Stalled", "True", "DeletionUnconfirmed").await;
    let mut new = azure_writes(sandbox).split_off(writes);
    // Another operator has to ask for the clusters' authorities.
    new.retain(|call| call["method"] != "POST");
    assert!(new.is_empty(), "nothing was touched: {new:#?}");
    let (code, _) = call(sandbox, client, &all["acme"], ("GET", "/api"), None, &Value::Null).await;
    assert_eq!(code, 200, "it serves on");
}

async fn what_is_kept_and_what_goes(sandbox: &Sandbox, client: &Client, all: &All) {
    let old = api_key(client, &all["acme"]).await;
    for name in ["acme", "initech"] {
        ok(&sandbox.kubectl(&["-n", CUSTOMERS, "annotate", "ci", name, CONFIRM]));
        ok(&sandbox.kubectl(&["-n", CUSTOMERS, "delete", "ci", name, "--wait=false"]));
    }
    for name in ["acme", "initech"] {
        instance_gone(client, name).await;
    }
    let (acme, initech) = (hash_of(&all["acme"]), hash_of(&all["initech"]));
    let ids = sandbox.azure_ids();
    assert!(!ids.iter().any(|id| id.contains(&initech)), "all of it is gone: {ids:#?}");
    let mut left: Vec<_> =
        ids.iter().filter(|id| id.contains(&acme)).map(|id| id.rsplit('/').next().unwrap()).collect();
    left.sort_unstable();
    assert_eq!(left, [format!("db-{acme}-1"), format!("fs-{acme}-1")], "only its data is left");
    for name in ["acme", "initech"] {
        assert_eq!(sandbox.arm("GET", &format!("{}/CNAME/{name}", zone()), None).0, 404);
    }
    for (_, cluster) in reefs(sandbox, client).await {
        let left = Api::<Namespace>::all(cluster).list(&ListParams::default()).await.unwrap();
        let left: Vec<_> =
            left.items.iter().map(ResourceExt::name_any).filter(|n| n.starts_with("oct-")).collect();
        assert!(left.iter().all(|n| n.starts_with("oct-globex-")), "{left:?}");
    }
    let kept = retained(client).await;
    assert_eq!(kept.len(), 1);
    let kept = &kept[0];
    assert_eq!((kept.spec.origin.namespace.as_str(), kept.spec.origin.name.as_str()), (CUSTOMERS, "acme"));
    assert_eq!(kept.spec.database.name, all["acme"].database.as_ref().unwrap().name);
    let name = kept.name_any();
    ok(&sandbox.kubectl(&["wait", "ri", &name, "--for=condition=Ready", "--timeout=180s"]));

    let on_reef = sandbox.reef_client(&cluster_of(client, &all["acme"]).await.unwrap()).await;
    let copies = Api::<Secret>::namespaced(on_reef, "reef-system");
    let copy = format!("kept-{acme}");
    assert!(copies.get_opt(&copy).await.unwrap().is_some(), "its keys stay with its data");

    // What is kept is not used again silently.
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], SAMPLES[3].split("---").nth(1).unwrap()));
    let stalled = instance_shows(client, "acme", "Stalled", "True", "RetainedExists").await;
    assert!(stalled.conditions[0].message.contains(&name), "{}", stalled.conditions[0].message);
    // Unconfirmed, it stays even without the policy.
    ok(&sandbox.kubectl(&["delete", "ri", &name, "--wait=false"]));
    ok(&sandbox.kubectl(&["wait", "ri", &name, "--for=condition=Stalled", "--timeout=180s"]));
    assert!(sandbox.azure_ids().iter().any(|id| id.contains(&format!("db-{acme}-1"))));
    ok(&sandbox.kubectl(&["annotate", "ri", &name, CONFIRM]));
    let fresh = instance_ready(client, "acme").await;
    assert_eq!(fresh.url.as_deref(), Some("https://acme.octopus.example"));
    let key = api_key(client, &fresh).await;
    assert_ne!(key, old, "and with keys of its own");
    let (_, projects) =
        call(sandbox, client, &fresh, ("GET", "/api/projects"), Some(&key), &Value::Null).await;
    assert_eq!(projects["Items"], json!([]), "a new one with nothing of the old");
    assert!(copies.get_opt(&copy).await.unwrap().is_none(), "the copy of its keys went with it");
}
