//! Story: what the API server takes and what it refuses, and in which words.

use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use reef_e2e::{
    harness::{Sandbox, eventually, ok},
    install::charts,
};
use serde_json::{Value, json};

#[tokio::test]
async fn the_schemas_accept_and_refuse() {
    let sandbox = Sandbox::start(env!("CARGO_BIN_EXE_reef-sandbox"), &["--no-operator", "--reef-slots=0"]);
    let chart = charts().join("reef-operator-crds");
    ok(&sandbox.helm(&["install", "crds", chart.to_str().unwrap(), "--wait"]));
    let client = sandbox.client().await;
    let regions = of(&client, "Region", "regions");

    // What is rendered is what is stored: nothing that Argo CD would see as a difference.
    let rendered = ok(&sandbox.helm(&["template", "crds", chart.to_str().unwrap()]));
    let diff = sandbox.kubectl_with(&["diff", "-f", "-"], &rendered);
    assert!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));

    created(&regions, region(), creates()).await;
    created(&regions, region(), azures()).await;
    created(&regions, region(), emergency_stops()).await;
    created(&of(&client, "ReefClass", "reefclasses"), class(), classes()).await;
    let reefs = of(&client, "Reef", "reefs");
    created(&reefs, reef(), created_reefs()).await;
    let kept = reefs.create(&PostParams::default(), &object(reef(), "kept", &json!({}))).await.unwrap();
    assert_eq!(kept.data["status"]["observedGeneration"], -1);
    assert_eq!(
        (&kept.data["spec"]["deletionPolicy"], &kept.data["spec"]["deletionProtection"]),
        (&json!("Retain"), &json!(true))
    );
    updated(&reefs, changed_reefs()).await;
    instances_and_what_is_kept(&client).await;

    let created =
        regions.create(&PostParams::default(), &object(region(), "kept", &json!({}))).await.unwrap();
    assert_eq!(created.data["status"]["observedGeneration"], -1, "a new object is not a finished one");
    assert_eq!(created.data["spec"]["network"]["addressSpace"], "10.0.0.0/8");
    updated(&regions, updates()).await;

    let explained = eventually("kubectl explain knows the kind", || async {
        let output = sandbox.kubectl(&["explain", "region.spec.network"]);
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    })
    .await;
    assert!(explained.contains("Length in bits"), "{explained}");
    let listed = ok(&sandbox.kubectl(&["get", "reef-operator"]));
    assert!(listed.contains("LOCATION") && listed.contains("kept"), "{listed}");
}

async fn instances_and_what_is_kept(client: &Client) {
    let gvk = GroupVersionKind::gvk("cloud.octopus.com", "v1alpha1", "CloudInstance");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "cloudinstances");
    let instances = Api::<DynamicObject>::namespaced_with(client.clone(), "default", &resource);
    created(&instances, instance(), created_instances()).await;
    let kept =
        instances.create(&PostParams::default(), &object(instance(), "kept", &json!({}))).await.unwrap();
    assert_eq!(kept.data["spec"]["quota"], json!({ "share": "100Gi", "database": "10Gi" }));
    assert_eq!(kept.data["spec"]["isolation"]["database"]["tier"], "Shared");
    assert_eq!(kept.data["spec"]["deletionProtection"], true, "protected unless somebody says otherwise");
    updated(&instances, changed_instances()).await;
    let retained = of(client, "RetainedInstance", "retainedinstances");
    created(&retained, retained_instance(), created_retained()).await;
    retained.create(&PostParams::default(), &object(retained_instance(), "kept", &json!({}))).await.unwrap();
    updated(
        &retained,
        vec![
            (json!({ "version": "2026.2.2" }), Some("does not change")),
            (json!({ "database": { "id": "/other" } }), Some("does not change")),
        ],
    )
    .await;
}

const UUID: &str = "00000000-0000-4000-8000-000000000001";

fn of(client: &Client, kind: &str, plural: &str) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk("cloud.octopus.com", "v1alpha1", kind);
    Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&gvk, plural))
}

type Table = Vec<(Value, Option<&'static str>)>;

/// Each change of a good object, and the words with which it is refused, if it is.
async fn created(api: &Api<DynamicObject>, good: Value, table: Table) {
    for (change, expect) in table {
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        match (api.create(&dry, &object(good.clone(), "probe", &change)).await, expect) {
            (Ok(_), None) => {}
            (Err(error), Some(expect)) => assert!(error.to_string().contains(expect), "{change}: {error}"),
            (Ok(_), Some(expect)) => panic!("{change} was taken; it should be refused: {expect}"),
            (Err(error), None) => panic!("{change} should be taken: {error}"),
        }
    }
}

/// Each change of the spec of the object `kept`.
async fn updated(api: &Api<DynamicObject>, table: Table) {
    for (change, expect) in table {
        let patch = Patch::Merge(json!({ "spec": change }));
        let result = api.patch("kept", &PatchParams::default(), &patch).await;
        match (result, expect) {
            (Ok(_), None) => {}
            (Err(error), Some(expect)) => assert!(error.to_string().contains(expect), "{change}: {error}"),
            (result, expect) => panic!("{change}: {result:?}, expected {expect:?}"),
        }
    }
}

fn object(mut good: Value, name: &str, change: &Value) -> DynamicObject {
    good["apiVersion"] = json!("cloud.octopus.com/v1alpha1");
    good["metadata"] = json!({ "name": name });
    merge(&mut good, change);
    serde_json::from_value(good).unwrap()
}

fn region() -> Value {
    json!({
        "kind": "Region",
        "spec": {
            "location": "westeurope",
            "azure": { "tenantId": UUID, "subscriptionId": UUID },
            "dns": { "zoneId": format!("/subscriptions/{UUID}/resourceGroups/g/providers/Microsoft.Network/dnsZones/a.example") },
            "tls": { "secretRef": { "namespace": "ns", "name": "tls" } } },
    })
}

fn class() -> Value {
    json!({
        "kind": "ReefClass",
        "spec": {
            "cluster": { "kubernetesVersion": "1.36", "nodePools": [pool("system", "System", 2, 5)] },
            "sql": { "pool": { "sku": "StandardPool", "capacity": 100, "perDatabase": { "min": 0, "max": "50" } } },
            "storage": { "sku": "Standard_ZRS", "softDeleteDays": 14 },
        },
    })
}

fn pool(name: &str, mode: &str, min: u16, max: u16) -> Value {
    json!({ "name": name, "mode": mode, "vmSize": "Standard_D4s_v5", "minCount": min, "maxCount": max })
}

fn reef() -> Value {
    json!({ "kind": "Reef", "spec": { "regionRef": { "name": "west" }, "classRef": { "name": "standard" } } })
}

fn classes() -> Table {
    let pools = |pools: Value| json!({ "spec": { "cluster": { "nodePools": pools } } });
    let sql = |v: Value| json!({ "spec": { "sql": { "pool": v } } });
    vec![
        (json!({}), None),
        (json!({ "metadata": { "name": "a".repeat(41) } }), Some("must have at most 40 characters")),
        (json!({ "spec": { "cluster": { "kubernetesVersion": "1.36.3", "tier": "Free" } } }), None),
        (
            json!({ "spec": { "cluster": { "kubernetesVersion": "latest" } } }),
            Some("spec.cluster.kubernetesVersion"),
        ),
        (json!({ "spec": { "cluster": { "tier": "Gold" } } }), Some("spec.cluster.tier")),
        (pools(json!([])), Some("spec.cluster.nodePools")),
        (pools(json!([pool("a", "User", 1, 2)])), Some("exactly one pool with mode System")),
        (
            pools(json!([pool("a", "System", 1, 2), pool("b", "System", 1, 2)])),
            Some("exactly one pool with mode System"),
        ),
        (
            pools(json!([pool("a", "System", 1, 2), pool("a", "User", 1, 2)])),
            Some("must have different names"),
        ),
        (pools(json!([pool("a", "System", 3, 2)])), Some("minCount must not be greater than maxCount")),
        (pools(json!([pool("Upper", "System", 1, 2)])), Some("nodePools[0].name")),
        (pools(json!([pool("thirteenchars", "System", 1, 2)])), Some("nodePools[0].name")),
        (sql(json!({ "sku": "HugePool" })), Some("spec.sql.pool.sku")),
        (sql(json!({ "sku": "GP_Gen5", "capacity": 8, "perDatabase": { "min": "250m", "max": 2 } })), None),
        (sql(json!({ "capacity": 1 })), Some("spec.sql.pool.capacity")),
        (sql(json!({ "perDatabase": { "min": 60 } })), Some("min must not be greater than perDatabase.max")),
        (sql(json!({ "perDatabase": { "max": "much" } })), Some("max must be a quantity")),
        (sql(json!({ "maxSize": "100Gi" })), None),
        (sql(json!({ "maxSize": "1Mi" })), Some("more than 1Gi")),
        (json!({ "spec": { "storage": { "sku": "Premium_LRS" } } }), Some("spec.storage.sku")),
        (json!({ "spec": { "storage": { "softDeleteDays": 0 } } }), Some("spec.storage.softDeleteDays")),
        (json!({ "spec": { "storage": null } }), Some("spec.storage: Required value")),
        (json!({ "spec": { "storage": { "sharesPerAccount": 0 } } }), Some("spec.storage.sharesPerAccount")),
        (sql(json!({ "maxDatabases": 501 })), Some("spec.sql.pool.maxDatabases")),
        (json!({ "spec": { "capacity": { "maxInstances": 300, "reservePercent": 0 } } }), None),
        (json!({ "spec": { "capacity": { "maxInstances": 781 } } }), Some("spec.capacity.maxInstances")),
        (json!({ "spec": { "capacity": { "reservePercent": 51 } } }), Some("spec.capacity.reservePercent")),
    ]
}

fn created_reefs() -> Table {
    vec![
        (json!({}), None),
        (json!({ "metadata": { "name": "a".repeat(40) } }), None),
        (json!({ "metadata": { "name": "a".repeat(41) } }), Some("at most 40 characters")),
        (json!({ "metadata": { "name": "1-reef" } }), Some("must begin with a lower-case letter")),
        (json!({ "metadata": { "name": "a.b" } }), Some("inner dashes")),
        (json!({ "spec": { "regionRef": null } }), Some("spec.regionRef: Required value")),
        (json!({ "spec": { "classRef": { "name": "" } } }), Some("spec.classRef.name")),
        (json!({ "spec": { "subscriptionId": UUID, "addressSpace": "10.7.0.0/16" } }), None),
        (json!({ "spec": { "subscriptionId": "mine" } }), Some("spec.subscriptionId")),
        (json!({ "spec": { "addressSpace": "10.7.0.0" } }), Some("spec.addressSpace")),
        (json!({ "spec": { "deletionPolicy": "Orphan" } }), Some("spec.deletionPolicy")),
        (json!({ "spec": { "scheduling": "Cordoned" } }), None),
        (json!({ "spec": { "scheduling": "Off" } }), Some("spec.scheduling")),
        (json!({ "spec": { "dedicatedTo": { "namespaces": ["customers"] } } }), None),
        (json!({ "spec": { "dedicatedTo": { "namespaces": [] } } }), Some("spec.dedicatedTo.namespaces")),
        (
            json!({ "spec": { "dedicatedTo": { "namespaces": ["A b"] } } }),
            Some("spec.dedicatedTo.namespaces[0]"),
        ),
    ]
}

fn changed_reefs() -> Table {
    vec![
        (json!({ "deletionPolicy": "Delete" }), None),
        (json!({ "deletionProtection": false }), None),
        (json!({ "scheduling": "Cordoned" }), None),
        (json!({ "classRef": { "name": "other" } }), Some("classRef is immutable")),
        (json!({ "regionRef": { "name": "other" } }), Some("regionRef is immutable")),
        (json!({ "subscriptionId": UUID }), Some("subscriptionId is immutable")),
        (json!({ "addressSpace": "10.7.0.0/16" }), Some("addressSpace is immutable")),
    ]
}

fn instance() -> Value {
    json!({ "kind": "CloudInstance", "spec": {
        "regionRef": { "name": "west" }, "subdomain": "acme", "release": { "version": "2026.2.4213" }, "taskCap": 5,
    } })
}

fn created_instances() -> Table {
    let spec = |v: Value| json!({ "spec": v });
    let window = |v: Value| json!({ "spec": { "maintenanceWindow": v } });
    let database = |v: Value| json!({ "spec": { "isolation": { "database": v } } });
    vec![
        (json!({}), None),
        (json!({ "metadata": { "name": "a".repeat(40) } }), None),
        (json!({ "metadata": { "name": "a".repeat(41) } }), Some("at most 40 characters")),
        (json!({ "metadata": { "name": "1a" } }), Some("must begin with a lower-case letter")),
        (spec(json!({ "regionRef": null })), Some("spec.regionRef: Required value")),
        (spec(json!({ "subdomain": null })), Some("spec.subdomain: Required value")),
        (spec(json!({ "subdomain": "Acme" })), Some("spec.subdomain")),
        (spec(json!({ "subdomain": "a.b" })), Some("spec.subdomain")),
        (spec(json!({ "subdomain": "-a" })), Some("spec.subdomain")),
        (spec(json!({ "subdomain": "a".repeat(64) })), Some("spec.subdomain")),
        (spec(json!({ "release": { "version": "latest" } })), Some("spec.release.version")),
        (spec(json!({ "release": { "version": "2026.2" } })), Some("spec.release.version")),
        (spec(json!({ "taskCap": 160 })), None),
        (spec(json!({ "taskCap": 6 })), Some("taskCap must be 5, 10, 20, 40, 80 or 160")),
        (window(json!({ "start": "23:59" })), None),
        (window(json!({ "start": "00:00", "durationSeconds": 86_400, "days": ["Monday", "Sunday"] })), None),
        (window(json!({})), Some("spec.maintenanceWindow.start")),
        (window(json!({ "start": "24:00" })), Some("spec.maintenanceWindow.start")),
        (window(json!({ "start": "2:00" })), Some("spec.maintenanceWindow.start")),
        (window(json!({ "start": "02:00", "durationSeconds": 7199 })), Some("durationSeconds")),
        (window(json!({ "start": "02:00", "durationSeconds": 86_401 })), Some("durationSeconds")),
        (window(json!({ "start": "02:00", "days": ["Someday"] })), Some("spec.maintenanceWindow.days")),
        (window(json!({ "start": "02:00", "days": ["Monday", "Monday"] })), Some("Duplicate value")),
        (database(json!({ "tier": "Dedicated", "sku": "S3" })), None),
        (database(json!({ "tier": "Dedicated", "sku": "BC_Gen5_8" })), None),
        (database(json!({ "tier": "Dedicated" })), Some("sku goes with tier Dedicated")),
        (database(json!({ "tier": "Shared", "sku": "S3" })), Some("sku goes with tier Dedicated")),
        (database(json!({ "tier": "Dedicated", "sku": "S5" })), Some("isolation.database.sku")),
        (database(json!({ "tier": "Private" })), Some("isolation.database.tier")),
        (
            spec(json!({ "placement": {} })),
            Some("placement must hold reefRef, reefSelector or antiAffinityGroup"),
        ),
        (spec(json!({ "placement": { "reefRef": { "name": "r" } } })), None),
        (spec(json!({ "placement": { "reefSelector": { "matchLabels": { "tier": "gold" } } } })), None),
        (spec(json!({ "placement": { "reefSelector": { "matchLabels": {} } } })), Some("1 to 16 labels")),
        (spec(json!({ "placement": { "antiAffinityGroup": "A" } })), Some("antiAffinityGroup")),
        (spec(json!({ "quota": { "share": "1Ti", "database": "100Gi" } })), None),
        (spec(json!({ "quota": { "share": "2Ti" } })), Some("from 1Gi to 1Ti")),
        (spec(json!({ "quota": { "share": "much" } })), Some("from 1Gi to 1Ti")),
        (spec(json!({ "quota": { "database": "15Gi" } })), Some("quota.database must be")),
        (spec(json!({ "deletionPolicy": "Orphan" })), Some("spec.deletionPolicy")),
    ]
}

fn changed_instances() -> Table {
    vec![
        (json!({ "taskCap": 20 }), None),
        (json!({ "maintenanceWindow": { "start": "02:00" } }), None),
        (json!({ "quota": { "share": "200Gi", "database": "20Gi" } }), None),
        (json!({ "quota": { "share": "100Gi" } }), Some("quota.share can only grow")),
        (json!({ "quota": { "database": "10Gi" } }), Some("quota.database can only grow")),
        (json!({ "deletionPolicy": "Delete", "deletionProtection": false }), None),
        (json!({ "subdomain": "other" }), Some("subdomain is immutable")),
        (json!({ "regionRef": { "name": "other" } }), Some("regionRef is immutable")),
        (json!({ "release": { "version": "2026.2.4214" } }), Some("release is immutable")),
        (
            json!({ "isolation": { "database": { "tier": "Dedicated", "sku": "S3" } } }),
            Some("isolation is immutable"),
        ),
        (json!({ "placement": { "antiAffinityGroup": "a" } }), Some("placement is immutable")),
    ]
}

fn retained_instance() -> Value {
    json!({ "kind": "RetainedInstance", "spec": {
        "origin": { "namespace": "default", "name": "acme", "uid": UUID },
        "regionRef": { "name": "west" }, "reefRef": { "name": "weu-1" },
        "database": { "id": "/db", "name": "db-1", "isolation": { "tier": "Shared" } },
        "share": { "id": "/fs", "name": "fs-1", "quota": { "share": "100Gi", "database": "10Gi" } },
        "keysSecretRef": { "name": "instance-1" }, "version": "2026.2.1", "subdomain": "acme",
    } })
}

fn created_retained() -> Table {
    vec![
        (json!({}), None),
        (json!({ "spec": { "origin": { "uid": "x" } } }), Some("spec.origin.uid")),
        (json!({ "spec": { "database": { "id": "" } } }), Some("spec.database.id")),
        (json!({ "spec": { "share": null } }), Some("spec.share: Required value")),
    ]
}

fn merge(target: &mut Value, change: &Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (key, value) in change {
                merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, change) => *target = change.clone(),
    }
}

fn creates() -> Table {
    let network = |v: Value| json!({ "spec": { "network": v } });
    vec![
        (json!({}), None),
        (json!({ "metadata": { "name": "a".repeat(40) } }), None),
        (json!({ "metadata": { "name": "a".repeat(41) } }), Some("must have at most 40 characters")),
        (json!({ "spec": { "location": "West Europe" } }), Some("spec.location")),
        (json!({ "spec": { "location": "" } }), Some("spec.location")),
        (json!({ "spec": { "location": null } }), Some("spec.location: Required value")),
        (json!({ "spec": { "tls": null } }), Some("spec.tls: Required value")),
        (json!({ "spec": { "tls": { "secretRef": { "name": "a/b" } } } }), Some("spec.tls.secretRef.name")),
        (
            json!({ "spec": { "tls": { "secretRef": { "namespace": "" } } } }),
            Some("spec.tls.secretRef.namespace"),
        ),
        (json!({ "spec": { "azure": null } }), Some("spec.azure: Required value")),
        (json!({ "spec": { "azure": { "tenantId": "not-a-uuid" } } }), Some("spec.azure.tenantId")),
        (
            json!({ "spec": { "azure": { "subscriptionId": UUID.to_uppercase().replace('0', "A") } } }),
            Some("spec.azure.subscriptionId"),
        ),
        (json!({ "spec": { "azure": { "clientId": UUID } } }), None),
        (json!({ "spec": { "azure": { "clientId": "" } } }), Some("spec.azure.clientId")),
        (json!({ "spec": { "dns": { "zoneId": "a.example" } } }), Some("spec.dns.zoneId")),
        (json!({ "spec": { "dns": { "ttlSeconds": 5 } } }), Some("spec.dns.ttlSeconds")),
        (json!({ "spec": { "adoptUntil": "2030-01-01T00:00:00Z" } }), None),
        (json!({ "spec": { "adoptUntil": "tomorrow" } }), Some("spec.adoptUntil")),
        (
            json!({ "spec": { "dns": { "zoneId": format!("/subscriptions/{UUID}/resourceGroups/g/providers/Microsoft.Network/privateDnsZones/a.example") } } }),
            Some("spec.dns.zoneId"),
        ),
        (network(json!({ "addressSpace": "127.0.0.0/8" })), Some("must not overlap")),
        (network(json!({ "addressSpace": "168.0.0.0/8" })), Some("must not overlap")),
        (network(json!({ "addressSpace": "240.0.0.0/8" })), Some("must not overlap")),
        (network(json!({})), None),
        (network(json!({ "addressSpace": "10.64.0.0/10", "reefPrefixLength": 12 })), None),
        (network(json!({ "addressSpace": "10.0.0.0/16", "reefPrefixLength": 16 })), None),
        (network(json!({ "addressSpace": "10.0.0.1/8" })), Some("no host bits set")),
        (network(json!({ "addressSpace": "not-a-network" })), Some("must be an IPv4 network")),
        (network(json!({ "addressSpace": "fd00:1234::/32" })), Some("must be an IPv4 network")),
        (network(json!({ "addressSpace": "172.16.0.0/12" })), Some("must not overlap")),
        (network(json!({ "addressSpace": "172.16.0.0/16" })), Some("must not overlap")),
        (
            network(
                json!({ "addressSpace": "172.16.128.0/17", "reefPrefixLength": 20, "subnetPrefixLength": 24 }),
            ),
            Some("must not overlap"),
        ),
        (network(json!({ "addressSpace": "100.96.0.0/11" })), Some("must not overlap")),
        (
            network(json!({ "addressSpace": "192.168.0.0/16", "reefPrefixLength": 15 })),
            Some("must not be smaller than the prefix length"),
        ),
        (network(json!({ "subnetPrefixLength": 16 })), Some("must be greater than reefPrefixLength")),
        (network(json!({ "subnetPrefixLength": 29 })), Some("less than or equal to 28")),
        (network(json!({ "reefPrefixLength": 7 })), Some("greater than or equal to 8")),
    ]
}

fn emergency_stops() -> Table {
    let stops = |v: Value| json!({ "spec": { "emergencyStop": v } });
    vec![
        (stops(json!([])), None),
        (
            stops(json!([
                { "verb": "Provision", "reason": "r" },
                { "verb": "Delete", "reason": "r", "until": "2030-01-01T00:00:00Z" },
                { "verb": "All", "reason": "r", "until": "2030-01-01T01:00:00+01:00" },
            ])),
            None,
        ),
        (stops(json!([{ "verb": "Delete" }])), Some("spec.emergencyStop[0].reason: Required value")),
        (stops(json!([{ "reason": "r" }])), Some("verb: Required value")),
        (
            stops(json!([{ "verb": "Reboot", "reason": "r" }])),
            Some(
                r#"spec.emergencyStop[0].verb: Unsupported value: "Reboot": supported values: "Provision", "Delete", "All""#,
            ),
        ),
        (
            stops(json!([{ "verb": "All", "reason": "r" }, { "verb": "All", "reason": "s" }])),
            Some(r#"spec.emergencyStop[1]: Duplicate value: {"verb":"All"}"#),
        ),
        (
            stops(json!([{ "verb": "All", "reason": "r", "until": "tomorrow" }])),
            Some("spec.emergencyStop[0].until"),
        ),
        (stops(json!([{ "verb": "All", "reason": " " }])), Some("spec.emergencyStop[0].reason")),
        (
            stops(json!([{ "verb": "All", "reason": "r".repeat(201) }])),
            Some("spec.emergencyStop[0].reason: Too long"),
        ),
    ]
}

/// Clouds and credentials.
fn azures() -> Table {
    vec![
        (json!({ "spec": { "azure": { "cloud": "AzureUSGovernment" } } }), None),
        (json!({ "spec": { "azure": { "cloud": "AzureMoon" } } }), Some("spec.azure.cloud")),
        (
            json!({ "spec": { "azure": { "credential": { "type": "Password" } } } }),
            Some("spec.azure.credential.type"),
        ),
        (
            json!({ "spec": { "azure": { "credential": { "type": "ClientSecret" } } } }),
            Some("secretRef goes with"),
        ),
        (
            json!({ "spec": { "azure": { "credential": { "type": "ManagedIdentity", "secretRef": { "namespace": "n", "name": "s" } } } } }),
            Some("secretRef goes with"),
        ),
        (
            json!({ "spec": { "azure": { "credential": { "type": "ClientSecret", "secretRef": { "namespace": "n", "name": "s" } } } } }),
            None,
        ),
        (json!({ "spec": { "azure": { "cloud": "Custom" } } }), Some("customCloud goes with cloud Custom")),
        (
            json!({ "spec": { "azure": { "customCloud": custom_cloud() } } }),
            Some("customCloud goes with cloud Custom"),
        ),
        (json!({ "spec": { "azure": { "cloud": "Custom", "customCloud": custom_cloud() } } }), None),
        (
            json!({ "spec": { "azure": { "cloud": "Custom", "customCloud": { "resourceManager": "http://arm.local" } } } }),
            Some("spec.azure.customCloud.resourceManager"),
        ),
    ]
}

fn custom_cloud() -> Value {
    json!({
        "resourceManager": "https://management.local:8443", "authority": "https://login.local",
        "sqlAudience": "https://database.local", "storageSuffix": "storage.local",
    })
}

fn updates() -> Table {
    vec![
        (json!({ "tls": { "secretRef": { "name": "other" } } }), None),
        (json!({ "location": "northeurope" }), Some("location is immutable")),
        (json!({ "azure": { "credential": { "type": "ManagedIdentity" } } }), None),
        (json!({ "azure": { "clientId": UUID } }), Some("azure is immutable")),
        (json!({ "azure": { "cloud": "AzureChina" } }), Some("azure is immutable")),
        (json!({ "azure": { "tenantId": UUID.replace('1', "2") } }), Some("azure is immutable")),
        (
            json!({ "dns": { "zoneId": format!("/subscriptions/{UUID}/resourceGroups/g/providers/Microsoft.Network/dnsZones/b.example") } }),
            Some("zoneId is immutable"),
        ),
        (json!({ "network": { "reefPrefixLength": 17 } }), Some("network is immutable")),
        (json!({ "network": { "addressSpace": "192.168.0.0/16" } }), Some("network is immutable")),
    ]
}
