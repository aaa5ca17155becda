//! What the people of a tenant try on the management cluster, with the role that the chart gives them.

use reef_crds::CloudInstance;
use reef_e2e::harness::{Sandbox, ok};
use serde_json::{Value, json};

use super::{Api, Ask, Row, Story, ask, eventually, row};

const TENANT: &str = "tenant-a";
const GROUP: &str = "/apis/cloud.octopus.com/v1alpha1";

/// Two customers, each with an instance, and people of the first with a Role in their namespace.
pub(super) fn move_in(sandbox: &Sandbox) {
    for (customer, name) in [("customer-a", "alpha"), ("customer-b", "beta")] {
        ok(&sandbox.kubectl(&["create", "namespace", customer]));
        let object = instance(customer, name, name).to_string();
        ok(&sandbox.kubectl_with(&["apply", "-f", "-"], &object));
    }
    // Its deletion is confirmed: what still refuses it is not that.
    let confirm = "confirmation.cloud.octopus.com/deletion=true";
    ok(&sandbox.kubectl(&["-n", "customer-b", "annotate", "ci", "beta", confirm]));
    let bind = ["-n", "customer-a", "create", "rolebinding", TENANT, "--clusterrole=reef-operator-edit"];
    ok(&sandbox.kubectl(&[&bind[..], &["--user=tenant-a"]].concat()));
    // What a namespace's administrator has besides.
    ok(&sandbox.kubectl(&[
        "-n",
        "customer-a",
        "create",
        "rolebinding",
        "admin",
        "--clusterrole=admin",
        "--user=tenant-a",
    ]));
}

fn instance(namespace: &str, name: &str, subdomain: &str) -> Value {
    json!({
        "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "CloudInstance",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "regionRef": { "name": "westeurope" }, "subdomain": subdomain,
            "release": { "version": "2026.2.4213" }, "taskCap": 5,
        },
    })
}

fn with(mut object: Value, more: &Value) -> Value {
    merge(&mut object, more);
    object
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

/// A call of the tenant, and the one that works: of the same form in its own namespace, or of the administrator.
struct Case {
    name: &'static str,
    method: &'static str,
    path: String,
    body: Value,
    refused: &'static str,
    control: Control,
}

enum Control {
    /// The tenant may do it here, with this body.
    Own(String, Value),
    /// Only an administrator may do it.
    Admin,
    /// The administrator may do it there.
    AdminAt(String),
}

pub(super) async fn rows(story: &Story) -> Vec<Row<'_>> {
    let beta = format!("{GROUP}/namespaces/customer-b/cloudinstances/beta");
    assert_eq!(call(story, None, "GET", beta, Value::Null).await, "200", "there is something to get");
    let cases = elsewhere().into_iter().chain(platform()).chain(limits()).chain(bookkeeping());
    let rows = cases.map(|case| {
        let Case { name, method, path, body, refused, control } = case;
        let attempt = call(story, Some(TENANT), method, dry(method, &path), body.clone());
        let (who, at, works) = match control {
            Control::Own(at, works) => (Some(TENANT), at, works),
            Control::Admin => (None, path.clone(), body),
            Control::AdminAt(at) => (None, at, body),
        };
        let control = call(story, who, method, dry(method, &at), works);
        row(format!("tenant: {name}"), (attempt, refused), (control, "200"))
    });
    rows.collect()
}

/// Nothing is changed: admission and authorisation are the same.
fn dry(method: &str, path: &str) -> String {
    if method == "GET" { path.to_owned() } else { format!("{path}?dryRun=All") }
}

async fn call(story: &Story, user: Option<&str>, method: &str, path: String, body: Value) -> String {
    ask(&story.management, Ask { user, method, path, body }).await
}

fn case(name: &'static str, method: &'static str, path: &str, body: Value, control: Control) -> Case {
    Case { name, method, path: path.to_owned(), body, refused: "403 Forbidden", control }
}

/// Another customer's namespace.
fn elsewhere() -> Vec<Case> {
    let at = |customer: &str, rest: &str| format!("{GROUP}/namespaces/{customer}/cloudinstances{rest}");
    let (theirs, ours) = (at("customer-b", "/beta"), at("customer-a", "/alpha"));
    let own = |body: Value| Control::Own(ours.clone(), body);
    let cap = json!({ "spec": { "taskCap": 10 } });
    let policy = json!({ "spec": { "deletionPolicy": "Delete", "deletionProtection": false } });
    let confirm =
        json!({ "metadata": { "annotations": { "confirmation.cloud.octopus.com/deletion": "true" } } });
    let adopt =
        json!({ "metadata": { "annotations": { "confirmation.cloud.octopus.com/adoption": "true" } } });
    let list = Control::Own(at("customer-a", ""), Value::Null);
    let made = Control::Own(at("customer-a", ""), instance("customer-a", "gamma", "gamma"));
    vec![
        case("read another's instance", "GET", &theirs, Value::Null, own(Value::Null)),
        case("list another's instances", "GET", &at("customer-b", ""), Value::Null, list),
        case(
            "list everybody's instances",
            "GET",
            &format!("{GROUP}/cloudinstances"),
            Value::Null,
            Control::Admin,
        ),
        case("edit another's instance", "PATCH", &theirs, cap.clone(), own(cap)),
        case("let another's data be deleted", "PATCH", &theirs, policy.clone(), own(policy)),
        case("confirm another's deletion", "PATCH", &theirs, confirm.clone(), own(confirm)),
        case("confirm another's adoption", "PATCH", &theirs, adopt.clone(), own(adopt)),
        case(
            "make one in another's namespace",
            "POST",
            &at("customer-b", ""),
            instance("customer-b", "gamma", "gamma"),
            made,
        ),
        case("delete another's instance", "DELETE", &theirs, Value::Null, Control::Admin),
        Case {
            refused: "is protected",
            ..case(
                "delete its own without a confirmation",
                "DELETE",
                &ours,
                Value::Null,
                Control::AdminAt(theirs.clone()),
            )
        },
    ]
}

/// What is the platform team's.
fn platform() -> Vec<Case> {
    let admin = |name, method, path: &str, body| case(name, method, path, body, Control::Admin);
    let retained = json!({
        "apiVersion": "cloud.octopus.com/v1alpha1", "kind": "RetainedInstance",
        "metadata": { "name": "stolen", "annotations": { "confirmation.cloud.octopus.com/adoption": "true" } },
        "spec": {
            "origin": { "namespace": "customer-b", "name": "beta", "uid": "00000000-0000-4000-8000-000000000009" },
            "regionRef": { "name": "westeurope" }, "reefRef": { "name": "weu-1" },
            "database": { "id": "/db", "name": "db-1", "isolation": { "tier": "Shared" } },
            "share": { "id": "/fs", "name": "fs-1", "quota": { "share": "100Gi", "database": "10Gi" } },
            "keysSecretRef": { "name": "instance-1" }, "version": "2026.2.1", "subdomain": "beta",
        },
    });
    let dedicate = json!({ "spec": { "dedicatedTo": { "namespaces": ["customer-a"] } } });
    let until = json!({ "spec": { "adoptUntil": "2030-01-01T00:00:00Z" } });
    let labels = json!({ "metadata": { "labels": { "tier": "gold" } } });
    let role = json!({ "metadata": { "name": "more" }, "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
        "name": "reef-operator-platform-admin" }, "subjects": [{ "kind": "User", "name": TENANT, "apiGroup": "rbac.authorization.k8s.io" }] });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/customer-a/rolebindings";
    let use_role = json!({ "metadata": { "name": "use" }, "rules": [{ "apiGroups": ["cloud.octopus.com"],
        "resources": ["cloudinstances/dedicated"], "verbs": ["use"] }] });
    vec![
        admin("read a Reef", "GET", &format!("{GROUP}/reefs/weu-1"), Value::Null),
        admin("have a Reef for itself", "PATCH", &format!("{GROUP}/reefs/weu-1"), dedicate),
        admin("read a Region", "GET", &format!("{GROUP}/regions/westeurope"), Value::Null),
        admin("let a Region adopt everything", "PATCH", &format!("{GROUP}/regions/westeurope"), until),
        admin("list what is kept", "GET", &format!("{GROUP}/retainedinstances"), Value::Null),
        admin("say that another's data is kept", "POST", &format!("{GROUP}/retainedinstances"), retained),
        admin("edit a ReefClass", "PATCH", &format!("{GROUP}/reefclasses/standard"), labels.clone()),
        admin("label its namespace", "PATCH", "/api/v1/namespaces/customer-a", labels),
        admin("read the operator's Secrets", "GET", "/api/v1/namespaces/reef-operator/secrets", Value::Null),
        admin("read another's Secrets", "GET", "/api/v1/namespaces/customer-b/secrets", Value::Null),
        admin("bind itself the platform's role", "POST", bindings, role),
        admin("grant itself what it lacks", "POST", &bindings.replace("rolebindings", "roles"), use_role),
        admin(
            "switch the policies off",
            "DELETE",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/limits.cloud.octopus.com",
            Value::Null,
        ),
    ]
}

/// What costs more.
fn limits() -> Vec<Case> {
    let path = format!("{GROUP}/namespaces/customer-a/cloudinstances");
    let ask = |spec: Value| with(instance("customer-a", "gamma", "gamma"), &json!({ "spec": spec }));
    let dedicated = "cloudinstances/dedicated";
    let large = "cloudinstances/large";
    let sku = |sku: &str| ask(json!({ "isolation": { "database": { "tier": "Dedicated", "sku": sku } } }));
    let made =
        |name, refused, spec: Value, control| Case { refused, ..case(name, "POST", &path, spec, control) };
    let own = |spec: Value| Control::Own(path.clone(), ask(spec));
    let edit = |spec: Value| json!({ "spec": spec });
    let alpha = format!("{path}/alpha");
    let edited = |name, spec: Value, control: Value| Case {
        refused: large,
        ..case(name, "PATCH", &alpha, edit(spec), Control::Own(alpha.clone(), edit(control)))
    };
    vec![
        made("a database with compute of its own", dedicated, sku("P15"), Control::Admin),
        made(
            "a reef of its own",
            dedicated,
            ask(json!({ "isolation": { "reef": { "tier": "Dedicated" } } })),
            Control::Admin,
        ),
        made("160 tasks at once", large, ask(json!({ "taskCap": 160 })), own(json!({ "taskCap": 10 }))),
        made(
            "a share of 1Ti",
            large,
            ask(json!({ "quota": { "share": "1Ti" } })),
            own(json!({ "quota": { "share": "100Gi" } })),
        ),
        made("a database of 100Gi", large, ask(json!({ "quota": { "database": "100Gi" } })), Control::Admin),
        edited("20 tasks at once, later", json!({ "taskCap": 20 }), json!({ "taskCap": 10 })),
        edited(
            "a share of 200Gi, later",
            json!({ "quota": { "share": "200Gi" } }),
            json!({ "quota": { "share": "100Gi" } }),
        ),
    ]
}

/// What is the operator's.
fn bookkeeping() -> Vec<Case> {
    let path = format!("{GROUP}/namespaces/customer-a/cloudinstances/alpha");
    let status = json!({ "status": { "database": { "server": "s", "name": "db-of-beta", "ready": true } } });
    let bare = json!({ "metadata": { "finalizers": null } });
    let one = json!([{ "op": "remove", "path": "/metadata/finalizers/0" }]);
    let owner = |kind: &str, uid: &str, version: &str| {
        json!({ "metadata": { "ownerReferences": [{ "apiVersion": version, "kind": kind, "name": "x", "uid": uid,
            "blockOwnerDeletion": true }] } })
    };
    let uid = "00000000-0000-4000-8000-000000000009";
    let ours = owner("Reef", uid, "cloud.octopus.com/v1alpha1");
    let harmless = Control::Own(path.clone(), owner("ConfigMap", uid, "v1"));
    vec![
        case("write the status", "PATCH", &format!("{path}/status"), status, Control::Admin),
        Case {
            refused: "removed by the operator",
            ..case("remove the finalizer", "PATCH", &path, bare, Control::Admin)
        },
        Case {
            refused: "removed by the operator",
            ..case("remove it by its place", "PATCH", &path, one, Control::Admin)
        },
        Case {
            refused: "own none of each other",
            ..case("hang itself on a Reef", "PATCH", &path, ours, harmless)
        },
    ]
}

/// What RBAC and admission cannot know: another's name, and a reef that is kept for another. The operator refuses, and
/// nothing is made.
pub(super) async fn what_only_placement_refuses(story: &Story) {
    let instances = Api::<CloudInstance>::namespaced(story.management.clone(), "customer-a");
    let path = format!("{GROUP}/namespaces/customer-a/cloudinstances");
    let shows = async |name: &str, type_: &str, state: &str, reason: &str| {
        eventually(&format!("{name} shows {type_} {state} {reason}"), || async {
            let status = instances.get(name).await.ok()?.status?;
            let found = status
                .conditions
                .iter()
                .find(|c| c.type_ == type_ && c.status == state && c.reason.contains(reason));
            found.map(|c| c.message.clone())
        })
        .await
    };
    let adopts =
        json!({ "metadata": { "annotations": { "confirmation.cloud.octopus.com/adoption": "true" } } });
    let thief = with(instance("customer-a", "thief", "beta"), &adopts);
    assert_eq!(call(story, Some(TENANT), "POST", path.clone(), thief).await, "200");
    println!("tenant: another's subdomain: {}", shows("thief", "Ready", "False", "NameTaken").await);
    let (_, record) = story.sandbox.arm("GET", &format!("{}/CNAME/beta", zone()), None);
    let tags = record["properties"]["metadata"].to_string();
    assert!(tags.contains("customer-b") && !tags.contains("customer-a"), "{tags}");
    assert_eq!(story.sandbox.through_gateway(&story.aks, &story.b.host(), &story.public_ca()), Some(200));

    let keep = |names: Value| json!({ "spec": { "dedicatedTo": names } });
    let reef = format!("{GROUP}/reefs/weu-1");
    let for_b = keep(json!({ "namespaces": ["customer-b"] }));
    assert_eq!(call(story, None, "PATCH", reef.clone(), for_b).await, "200");
    let wanted = json!({ "spec": { "placement": { "reefRef": { "name": "weu-1" } } } });
    let annex = with(instance("customer-a", "annex", "annex"), &wanted);
    assert_eq!(call(story, Some(TENANT), "POST", path, annex).await, "200");
    println!(
        "tenant: a reef that is kept for another: {}",
        shows("annex", "Ready", "False", "NoReefFits").await
    );
    assert_eq!(call(story, None, "PATCH", reef, keep(Value::Null)).await, "200");
    println!("control: the same when it is kept for nobody: {}", shows("annex", "Placed", "True", "").await);
}

fn zone() -> String {
    format!(
        "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.Network/dnsZones/octopus.example",
        reef_e2e::azure::SUBSCRIPTION,
        reef_e2e::azure::PLATFORM_GROUP
    )
}
