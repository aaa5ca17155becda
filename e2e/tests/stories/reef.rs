//! Story: two reefs come into service, are kept as wanted, share nothing, and go again.

use std::{collections::BTreeSet, fs, time::Instant};

use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use reef_crds::{ReefStatus, Region};
use reef_e2e::{
    azure::{PLATFORM_GROUP, SUBSCRIPTION},
    harness::{Sandbox, eventually, ok, refused},
    install::{NAMESPACE, wildcard_secret},
    pki::Authority,
    reef_harness::{
        azure_writes, cluster, cluster_writes, get, gone, looks, ready, scale_operator, set, settled, shows,
    },
};
use serde_json::{Value, json};

const SAMPLES: [&str; 3] = [
    include_str!("../../../docs/samples/10-region.yaml"),
    include_str!("../../../docs/samples/20-reefclass.yaml"),
    include_str!("../../../docs/samples/30-reefs.yaml"),
];

#[tokio::test]
async fn reefs_come_are_kept_and_go() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--reef-slots=2", "--time-scale=200"]);
    let client = sandbox.client().await;
    // Short intervals, so that routine looks come within the story.
    set(&sandbox, "resyncSeconds=10");
    let began = Instant::now();
    for sample in SAMPLES {
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], sample));
    }
    let one = ready(&client, "weu-1").await;
    let two = ready(&client, "weu-2").await;
    println!(
        "two reefs from manifests to Ready: {:.1} s (Azure 200 times as fast)",
        began.elapsed().as_secs_f32()
    );

    everything_was_made_once(&sandbox);
    they_share_nothing(&sandbox, &one, &two);
    the_cluster_is_furnished(&sandbox, &one).await;
    the_operator_is_nobody_without_its_role(&sandbox, &client, &one).await;
    nothing_is_written_when_nothing_is_to_do(&sandbox, &client, &one).await;
    what_is_changed_by_hand_is_put_back(&sandbox, &client, &one).await;
    the_certificate_follows(&sandbox, &client, &one).await;
    an_edit_of_the_class_reaches_new_reefs_only(&sandbox, &client, &one).await;
    a_region_in_use_is_kept(&sandbox, &client).await;
    deletion_needs_a_confirmation(&sandbox, &client).await;
    retained_and_adopted(&sandbox, &client, &one).await;
    deletion_waits_for_what_would_be_lost(&sandbox, &client, &two).await;
    back_to_an_empty_subscription(&sandbox, &client, &one, &two).await;
}

fn group(status: &ReefStatus) -> String {
    format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{}", status.resource_group.as_ref().unwrap())
}

fn everything_was_made_once(sandbox: &Sandbox) {
    let mut made = BTreeSet::new();
    for entry in
        azure_writes(sandbox).iter().filter(|e| e["method"] == "PUT" && e["status"].as_u64() < Some(300))
    {
        assert!(made.insert(entry["path"].as_str().unwrap().to_owned()), "{} was made twice", entry["path"]);
    }
    assert_eq!(made.len(), 2 * 21, "{made:#?}");
}

fn they_share_nothing(sandbox: &Sandbox, one: &ReefStatus, two: &ReefStatus) {
    assert_ne!(one.resource_group, two.resource_group);
    assert_ne!(one.address_space, two.address_space);
    assert_ne!(one.sql_server, two.sql_server);
    assert_ne!(one.storage_accounts, two.storage_accounts);
    assert_ne!(one.agent_identity, two.agent_identity);
    assert_ne!(one.cluster.as_ref().unwrap().issuer, two.cluster.as_ref().unwrap().issuer);
    for (mine, other) in [(one, two), (two, one)] {
        let (mine, other) = (group(mine), group(other));
        for id in sandbox.azure_ids().into_iter().filter(|id| id.starts_with(&format!("{mine}/"))) {
            let (status, body) = sandbox.arm("GET", &id, None);
            assert_eq!(status, 200, "{id}");
            assert!(!body.to_string().contains(&format!("{other}/")), "{id} refers to the other reef");
        }
    }
}

async fn the_cluster_is_furnished(sandbox: &Sandbox, status: &ReefStatus) {
    let client = sandbox.reef_client(&cluster(status)).await;
    let namespace = Api::<Namespace>::all(client.clone()).get("reef-system").await.unwrap();
    assert_eq!(namespace.metadata.labels.unwrap()["pod-security.kubernetes.io/enforce"], "restricted");
    let agent =
        Api::<ServiceAccount>::namespaced(client.clone(), "reef-system").get("reef-agent").await.unwrap();
    let annotation = &agent.metadata.annotations.unwrap()["azure.workload.identity/client-id"];
    assert_eq!(*annotation, status.agent_identity.as_ref().unwrap().client_id);
    let account = &status.storage_accounts[0].name;
    let secrets = Api::<Secret>::namespaced(client.clone(), "reef-system");
    let keys = secrets.get(&format!("storage-{account}")).await.unwrap().data.unwrap();
    assert_eq!(keys["azurestorageaccountname"].0, account.as_bytes());
    let key = String::from_utf8(keys["azurestorageaccountkey"].0.clone()).unwrap();
    nothing_secret_shows(sandbox, &key);
    let ca = fs::read_to_string(sandbox.folder().join("run/public-ca.crt")).unwrap();
    let gateway = status.gateway.as_ref().unwrap();
    assert_eq!(gateway.host, "weu-1.sandbox.reefs.octopus.example");
    // TLS with the region's certificate, and nothing behind it yet.
    assert_eq!(sandbox.through_gateway(&cluster(status), "anybody.octopus.example", &ca), Some(404));
    let zone = format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/{PLATFORM_GROUP}/providers/Microsoft.Network/dnsZones/octopus.example"
    );
    let (_, record) = sandbox.arm("GET", &format!("{zone}/A/weu-1.sandbox.reefs"), None);
    assert_eq!(record["properties"]["ARecords"][0]["ipv4Address"], gateway.address.clone().unwrap());
    assert_eq!(record["properties"]["TTL"], 300);
}

/// Invariant 8: the account's key, tokens and signed URLs are in no log, object, Event or journal.
fn nothing_secret_shows(sandbox: &Sandbox, key: &str) {
    let mut text = ok(&sandbox.kubectl(&[
        "get",
        "events,reefs,regions,reefclasses,controllerrevisions",
        "-A",
        "-o",
        "yaml",
    ]));
    text += &ok(&sandbox.kubectl(&[
        "-n",
        NAMESPACE,
        "logs",
        "-l",
        "app.kubernetes.io/component=operator",
        "--tail=-1",
    ]));
    text.extend(sandbox.azure_journal().iter().map(Value::to_string));
    text.extend(sandbox.audit().iter().map(Value::to_string));
    assert!(
        text.contains("writing to Azure") && text.contains("/listKeys"),
        "the logs and the journal were read"
    );
    for secret in [key, "eyJhbGciOi", "&s=", "BEGIN PRIVATE KEY"] {
        assert!(!text.contains(secret), "{secret} shows");
    }
}

/// The operator works in the cluster by its role in Azure and by nothing else.
async fn the_operator_is_nobody_without_its_role(sandbox: &Sandbox, client: &Client, status: &ReefStatus) {
    let ids = sandbox.azure_ids();
    let at_cluster =
        format!("/managedClusters/{}/providers/Microsoft.Authorization/roleAssignments/", cluster(status));
    let role = ids.iter().find(|id| id.contains(&at_cluster)).expect("its role assignment");
    assert_eq!(sandbox.arm("DELETE", role, None).0, 200);
    // It notices, gives itself the role again, and meanwhile the good reef stays Ready or says why not.
    eventually("the role is back", || async { sandbox.azure_ids().contains(role).then_some(()) }).await;
    ready(client, "weu-1").await;
}

/// Invariant 7 as far as there are reefs: routine looks read, and write nowhere.
async fn nothing_is_written_when_nothing_is_to_do(sandbox: &Sandbox, client: &Client, status: &ReefStatus) {
    ready(client, "weu-2").await;
    let by_us = |entry: &Value| {
        entry["user"]["username"] == "system:serviceaccount:reef-operator:reef-operator"
            && entry["objectRef"]["resource"] != "leases"
    };
    let ours = || sandbox.audit().into_iter().filter(|e| by_us(e)).collect::<Vec<_>>();
    let reef_writes = || cluster_writes(sandbox, status);
    assert!(reef_writes() > 0, "the operator's writes in the cluster are found in its audit log");
    let looked = async |more: f64| {
        let first = looks(client, "reef").await;
        eventually("routine looks at both reefs", || async {
            (looks(client, "reef").await >= first + more).then_some(())
        })
        .await;
    };
    let all_writes = async || ours().len() + reef_writes() + azure_writes(sandbox).len();
    settled(client, "reef", 4.0, all_writes).await;
    let before = (ours().len(), reef_writes(), azure_writes(sandbox).len());
    let calls = sandbox.azure_journal().len();
    looked(8.0).await;
    let new = ours().split_off(before.0);
    assert!(new.is_empty(), "writes in routine looks: {new:#?}");
    assert_eq!((reef_writes(), azure_writes(sandbox).len()), (before.1, before.2), "writes in routine looks");
    assert!(sandbox.azure_journal().len() > calls, "Azure was looked at");
}

async fn what_is_changed_by_hand_is_put_back(sandbox: &Sandbox, client: &Client, status: &ReefStatus) {
    let group = group(status);
    let firewall = format!("{group}/providers/Microsoft.Network/networkSecurityGroups/nodes");
    let (_, mut body) = sandbox.arm("GET", &firewall, None);
    body["properties"]["securityRules"][0]["properties"]["destinationPortRange"] = json!("*");
    assert_eq!(sandbox.arm("PUT", &firewall, Some(&body)).0, 200);
    let rule = format!(
        "{group}/providers/Microsoft.Sql/servers/{}/virtualNetworkRules/nodes",
        status.sql_server.as_ref().unwrap().name
    );
    assert_eq!(sandbox.arm("DELETE", &rule, None).0, 202);
    eventually("the security rule is put back", || async {
        let (_, body) = sandbox.arm("GET", &firewall, None);
        (body["properties"]["securityRules"][0]["properties"]["destinationPortRange"] == "443").then_some(())
    })
    .await;
    eventually("the network rule is made again", || async {
        (sandbox.arm("GET", &rule, None).0 == 200).then_some(())
    })
    .await;
    let reef = sandbox.reef_client(&cluster(status)).await;
    Api::<ServiceAccount>::namespaced(reef.clone(), "reef-system")
        .delete("reef-agent", &DeleteParams::default())
        .await
        .unwrap();
    eventually("the ServiceAccount is made again", || async {
        Api::<ServiceAccount>::namespaced(reef.clone(), "reef-system")
            .get_opt("reef-agent")
            .await
            .ok()
            .flatten()
    })
    .await;
    ready(client, "weu-1").await;

    // A server that was there and is gone is not replaced by an empty one.
    let server =
        format!("{group}/providers/Microsoft.Sql/servers/{}", status.sql_server.as_ref().unwrap().name);
    let (_, was) = sandbox.arm("GET", &server, None);
    let lock = format!("{server}/elasticPools/pool-1/providers/Microsoft.Authorization/locks/reef-operator");
    // The lock of the pool stands in the way of its server too, until somebody takes it away.
    assert_eq!(sandbox.arm("DELETE", &server, None).0, 409);
    assert_eq!(sandbox.arm("DELETE", &lock, None).0, 200);
    assert_eq!(sandbox.arm("DELETE", &server, None).0, 202);
    let stalled = shows(client, "weu-1", "Stalled", "True", "DataResourceMissing").await;
    assert!(stalled.conditions[0].message.contains(&server), "{}", stalled.conditions[0].message);
    // Nor when it is looked at again.
    ok(&sandbox.kubectl(&["annotate", "reef", "weu-1", "cloud.octopus.com/reconcile-requested-at=gone"]));
    eventually("it was looked at", || async {
        let handled = get(client, "weu-1").await?.status?.last_handled_reconcile_at?;
        (handled == "gone").then_some(())
    })
    .await;
    assert_eq!(sandbox.arm("GET", &server, None).0, 404);
    let annotation = "confirmation.cloud.octopus.com/recreation=true";
    ok(&sandbox.kubectl(&["annotate", "reef", "weu-1", annotation]));
    ready(client, "weu-1").await;
    ok(&sandbox.kubectl(&["annotate", "reef", "weu-1", "confirmation.cloud.octopus.com/recreation-"]));
    let (_, now) = sandbox.arm("GET", &server, None);
    assert_eq!(now["properties"]["administrators"], was["properties"]["administrators"]);
}

async fn the_certificate_follows(sandbox: &Sandbox, client: &Client, status: &ReefStatus) {
    let authority = Authority::new("the story's authority").unwrap();
    let secret = wildcard_secret(&authority, "wildcard-tls").unwrap();
    assert_eq!(sandbox.through_gateway(&cluster(status), "a.octopus.example", &authority.cert()), None);
    let began = Instant::now();
    let secrets = Api::<Secret>::namespaced(client.clone(), NAMESPACE);
    secrets
        .patch("wildcard-tls", &PatchParams::default(), &Patch::Merge(&json!({ "data": secret.data })))
        .await
        .unwrap();
    eventually("the gateway serves the new certificate", || async {
        (sandbox.through_gateway(&cluster(status), "a.octopus.example", &authority.cert()) == Some(404))
            .then_some(())
    })
    .await;
    println!("from the rotated Secret to the gateway: {:.2} s", began.elapsed().as_secs_f32());
}

async fn an_edit_of_the_class_reaches_new_reefs_only(
    sandbox: &Sandbox,
    client: &Client,
    status: &ReefStatus,
) {
    let before = azure_writes(sandbox).len();
    ok(&sandbox.kubectl(&[
        "patch",
        "reefclass",
        "standard",
        "--type=merge",
        "-p",
        r#"{"spec":{"sql":{"pool":{"capacity":400}}}}"#,
    ]));
    eventually("a second revision", || async {
        let list = ok(&sandbox.kubectl(&["-n", NAMESPACE, "get", "controllerrevisions", "-o", "name"]));
        (list.lines().count() == 2).then_some(())
    })
    .await;
    let first = looks(client, "reef").await;
    eventually("looks at the reefs", || async { (looks(client, "reef").await >= first + 2.0).then_some(()) })
        .await;
    assert_eq!(get(client, "weu-1").await.unwrap().status.unwrap().class_revision, status.class_revision);
    assert_eq!(azure_writes(sandbox).len(), before, "nothing of an existing reef is changed");
    // The class itself may go: its reefs have what they were made from.
    ok(&sandbox.kubectl(&["delete", "reefclass", "standard"]));
    ready(client, "weu-1").await;
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], SAMPLES[1]));
}

async fn a_region_in_use_is_kept(sandbox: &Sandbox, client: &Client) {
    ok(&sandbox.kubectl(&["delete", "region", "westeurope", "--wait=false"]));
    eventually("the Region says what it waits for", || async {
        let status = Api::<Region>::all(client.clone()).get("westeurope").await.ok()?.status?;
        let ready = status.conditions.into_iter().find(|c| c.type_ == "Ready")?;
        (ready.reason == "DeletionBlocked" && ready.message.contains("weu-1")).then_some(())
    })
    .await;
    ready(client, "weu-1").await;
}

/// The policy refuses while the operator runs and while it does not; without the policy the operator refuses.
async fn deletion_needs_a_confirmation(sandbox: &Sandbox, client: &Client) {
    let before = sandbox.azure_ids();
    let delete = ["delete", "reef", "weu-2", "--wait=false"];
    let refusal = "confirmation.cloud.octopus.com/deletion=true";
    assert!(refused(&sandbox.kubectl(&delete)).contains(refusal));
    scale_operator(sandbox, 0);
    assert!(refused(&sandbox.kubectl(&delete)).contains(refusal));
    scale_operator(sandbox, 2);
    let binding = ["validatingadmissionpolicybinding", "deletion.cloud.octopus.com"];
    ok(&sandbox.kubectl(&["delete", binding[0], binding[1]]));
    eventually("the policy no longer stands in the way", || async {
        sandbox.kubectl(&delete).status.success().then_some(())
    })
    .await;
    shows(client, "weu-2", "Stalled", "True", "DeletionUnconfirmed").await;
    unchanged(&sandbox.azure_ids(), &before);
}

/// With Retain all stays, and another object of the same name takes it over only when that is confirmed.
async fn retained_and_adopted(sandbox: &Sandbox, client: &Client, status: &ReefStatus) {
    let before = sandbox.azure_ids();
    let confirm = "confirmation.cloud.octopus.com/deletion=true";
    ok(&sandbox.kubectl(&["annotate", "reef", "weu-1", confirm]));
    ok(&sandbox.kubectl(&["delete", "reef", "weu-1"]));
    unchanged(&sandbox.azure_ids(), &before);
    // The Region is still being deleted and takes no new reef; it goes with its last one.
    let reef = json!({
        "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "Reef", "metadata": { "name": "weu-1" },
        "spec": { "regionRef": { "name": "westeurope" }, "classRef": { "name": "standard" }, "deletionPolicy": "Delete" },
    });
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &reef.to_string()));
    shows(client, "weu-1", "Ready", "False", "ReferenceNotReady").await;
    ok(&sandbox.kubectl(&[
        "patch",
        "region",
        "westeurope",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":[]}}"#,
    ]));
    ok(&sandbox.kubectl_with(&["apply", "-f", "-"], SAMPLES[0]));
    // The class has changed since: what is taken over keeps what it was made from.
    let edit = r#"{"spec":{"sql":{"pool":{"capacity":400}}}}"#;
    ok(&sandbox.kubectl(&["patch", "reefclass", "standard", "--type=merge", "-p", edit]));
    let writes = azure_writes(sandbox).len();
    let stalled = shows(client, "weu-1", "Stalled", "True", "AdoptionRequired").await;
    assert_eq!(stalled.address_space, status.address_space, "what exists is found before it is taken over");
    assert_eq!(azure_writes(sandbox).len(), writes, "and not touched");
    ok(&sandbox.kubectl(&["annotate", "reef", "weu-1", "confirmation.cloud.octopus.com/adoption=true"]));
    let adopted = ready(client, "weu-1").await;
    assert_eq!(
        (&adopted.sql_server, &adopted.cluster, &adopted.gateway),
        (&status.sql_server, &status.cluster, &status.gateway)
    );
    assert_eq!(adopted.class_revision, status.class_revision);
    let new: Vec<_> = azure_writes(sandbox).split_off(writes);
    let paths: Vec<_> =
        new.iter().map(|e| (e["method"].as_str().unwrap(), e["path"].as_str().unwrap())).collect();
    let credential = |p: &str| p.ends_with("/listClusterUserCredential");
    let others: Vec<_> = paths.into_iter().filter(|(_, path)| !credential(path)).collect();
    assert_eq!(others, [("PUT", group(status).as_str())], "only the claim was written");
}

async fn deletion_waits_for_what_would_be_lost(sandbox: &Sandbox, client: &Client, status: &ReefStatus) {
    let group = group(status);
    // Somebody else's resource in the group.
    let foreign = format!("{group}/providers/Microsoft.Network/publicIPAddresses/theirs");
    sandbox.arm("PUT", &foreign, Some(&json!({ "location": "westeurope" })));
    ok(&sandbox.kubectl(&["annotate", "reef", "weu-2", "confirmation.cloud.octopus.com/deletion=true"]));
    let held = shows(client, "weu-2", "Stalled", "True", "DeletionBlocked").await;
    assert!(
        held.conditions[0].message.contains("publicIPAddresses/theirs"),
        "{}",
        held.conditions[0].message
    );
    // A database.
    let server =
        format!("{group}/providers/Microsoft.Sql/servers/{}", status.sql_server.as_ref().unwrap().name);
    let database = format!("{server}/databases/customer");
    let body = json!({ "location": "westeurope", "properties": { "elasticPoolId": format!("{server}/elasticPools/pool-1") } });
    assert_eq!(sandbox.arm("PUT", &database, Some(&body)).0, 202);
    eventually("the database is there", || async {
        (sandbox.arm("GET", &database, None).0 == 200).then_some(())
    })
    .await;
    assert_eq!(sandbox.arm("DELETE", &foreign, None).0, 202);
    ask(sandbox, client, "weu-2", "database customer").await;
    // A share, gone but not lost.
    let account =
        format!("{group}/providers/Microsoft.Storage/storageAccounts/{}", status.storage_accounts[0].name);
    let share = format!("{account}/fileServices/default/shares/customer");
    assert_eq!(sandbox.arm("PUT", &share, Some(&json!({ "properties": { "shareQuota": 5 } }))).0, 201);
    assert_eq!(sandbox.arm("DELETE", &share, None).0, 200);
    // Only now, so that there is no moment without a reason to wait.
    assert_eq!(sandbox.arm("DELETE", &database, None).0, 202);
    ask(sandbox, client, "weu-2", "can still be restored").await;
    assert_eq!(sandbox.arm("GET", &server, None).0, 200, "nothing was deleted");
    ok(&sandbox.kubectl(&[
        "annotate",
        "reef",
        "weu-2",
        "confirmation.cloud.octopus.com/force-deletion=true",
    ]));
}

fn unchanged(now: &[String], before: &[String]) {
    let without =
        |a: &[String], b: &[String]| a.iter().filter(|id| !b.contains(id)).cloned().collect::<Vec<_>>();
    let (new, gone) = (without(now, before), without(before, now));
    assert!(new.is_empty() && gone.is_empty(), "new: {new:#?}, gone: {gone:#?}");
}

/// Asks for looks until the message says it.
async fn ask(sandbox: &Sandbox, client: &Client, name: &str, expect: &str) {
    let mut round = 0;
    eventually(&format!("{name} says {expect}"), || {
        round += 1;
        let annotation =
            format!("cloud.octopus.com/reconcile-requested-at={round}-{expect}").replace(' ', "-");
        ok(&sandbox.kubectl(&["annotate", "--overwrite", "reef", name, &annotation]));
        async {
            let status = get(client, name).await?.status?;
            status.conditions.iter().any(|c| c.message.contains(expect)).then_some(())
        }
    })
    .await;
}

async fn back_to_an_empty_subscription(
    sandbox: &Sandbox,
    client: &Client,
    one: &ReefStatus,
    two: &ReefStatus,
) {
    let began = Instant::now();
    ok(&sandbox.kubectl(&[
        "annotate",
        "--overwrite",
        "reef",
        "weu-1",
        "confirmation.cloud.octopus.com/deletion=true",
    ]));
    let annotation = "confirmation.cloud.octopus.com/force-deletion=true";
    ok(&sandbox.kubectl(&["annotate", "--overwrite", "reef", "weu-1", annotation]));
    ok(&sandbox.kubectl(&["delete", "reef", "weu-1", "--wait=false"]));
    for name in ["weu-1", "weu-2"] {
        gone(client, name).await;
    }
    println!("a reef deleted: {:.1} s (Azure 200 times as fast)", began.elapsed().as_secs_f32());
    let left: Vec<_> = sandbox
        .azure_ids()
        .into_iter()
        .filter(|id| id.contains("/resourceGroups/") && !id.contains(&format!("/{PLATFORM_GROUP}")))
        .collect();
    assert!(left.is_empty(), "{left:#?}");
    let records: Vec<_> =
        sandbox.azure_ids().into_iter().filter(|id| id.contains("/dnsZones/octopus.example/")).collect();
    assert!(records.is_empty(), "{records:#?}");
    for status in [one, two] {
        let kubeconfig = sandbox.folder().join("reefs").join(format!("{}.kubeconfig", cluster(status)));
        eventually("the cluster is gone", || async { (!kubeconfig.exists()).then_some(()) }).await;
    }
    ok(&sandbox.kubectl(&["delete", "region", "westeurope"]));
}
