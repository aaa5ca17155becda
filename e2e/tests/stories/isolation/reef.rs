//! What an attacker in an instance tries at its reef's API server, with the token of its ServiceAccount; and which pods and
//! volumes even the reef's administrator cannot put beside a server.

use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use kube::api::ListParams;
use serde_json::{Value, json};

use super::{Api, Ask, Client, Row, Story, ask, pod, row, run, tool};

const CORE: &str = "/api/v1";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

pub(super) async fn rows(story: &Story) -> Vec<Row<'_>> {
    let attacker = story.reef_with(&story.a.token).await;
    let whoami = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview" });
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews".to_owned();
    let known = ask(&attacker, Ask { user: None, method: "POST", path, body: whoami }).await;
    assert_eq!(known, "200", "the token is one that the API server knows");
    let mut rows: Vec<_> =
        calls(story).into_iter().map(|call| api_row(story, attacker.clone(), call)).collect();
    rows.extend(impersonations(story, &attacker));
    rows.extend(dangerous(story));
    rows.extend(volumes(story).await);
    rows.extend(files(story).await);
    rows
}

type Call = (&'static str, &'static str, String, Value);

/// What the server's ServiceAccount may do at the API server: nothing.
fn calls(story: &Story) -> Vec<Call> {
    let (ours, theirs) = (&story.a.namespace, &story.b.namespace);
    let at = |namespace: &str, rest: &str| format!("{CORE}/namespaces/{namespace}/{rest}");
    let simple = tool("probe", "octopus", &story.a.labels(), &["sleep"]);
    let token = json!({ "spec": { "audiences": ["api://AzureADTokenExchange"], "expirationSeconds": 3600 } });
    let binding = json!({ "metadata": { "name": "more" }, "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
        "name": "cluster-admin" }, "subjects": [{ "kind": "ServiceAccount", "name": "octopus", "namespace": ours }] });
    let role = json!({ "metadata": { "name": "more" }, "rules": [{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }] });
    let label = json!({ "metadata": { "labels": { "pod-security.kubernetes.io/enforce": "privileged" } } });
    let open = json!({ "spec": { "podSelector": {}, "policyTypes": [] } });
    let policy = format!("/apis/networking.k8s.io/v1/namespaces/{ours}/networkpolicies/default-deny");
    let route = format!("/apis/gateway.networking.k8s.io/v1/namespaces/{ours}/httproutes/octopus");
    let host = json!({ "spec": { "hostnames": [story.b.host()] } });
    let replicas = json!({ "spec": { "replicas": 0 } });
    let server = format!("/apis/apps/v1/namespaces/{theirs}/statefulsets/octopus");
    let get = |name, path: String| (name, "GET", path, Value::Null);
    vec![
        get("read another's Secrets", at(theirs, "secrets")),
        get("read another's Secret by name", at(theirs, "secrets/octopus")),
        get("read its own Secrets", at(ours, "secrets")),
        get("read the reef's Secrets", at("reef-system", "secrets")),
        get("list namespaces", format!("{CORE}/namespaces")),
        get("list another's pods", at(theirs, "pods")),
        get("read another's log", at(theirs, "pods/octopus-0/log")),
        get("list volumes", format!("{CORE}/persistentvolumes")),
        get("list nodes", format!("{CORE}/nodes")),
        get("read the token of the cluster's own", at("kube-system", "secrets")),
        ("put a pod into its namespace", "POST", at(ours, "pods"), simple.clone()),
        ("put a pod into the reef's namespace", "POST", at("reef-system", "pods"), unaccounted(simple)),
        (
            "get a token of another's ServiceAccount",
            "POST",
            at(theirs, "serviceaccounts/octopus/token"),
            token.clone(),
        ),
        ("get a token of its own ServiceAccount", "POST", at(ours, "serviceaccounts/octopus/token"), token),
        ("bind itself everything", "POST", format!("{RBAC}/clusterrolebindings"), binding.clone()),
        ("bind itself everything here", "POST", format!("{RBAC}/namespaces/{ours}/rolebindings"), binding),
        ("make a role of everything", "POST", format!("{RBAC}/namespaces/{ours}/roles"), role),
        ("relax its pod security", "PATCH", format!("{CORE}/namespaces/{ours}"), label),
        ("open its network policy", "PATCH", policy, open),
        ("take another's host name", "PATCH", route, host),
        ("stop another's server", "PATCH", server, replicas),
        ("delete another's namespace", "DELETE", format!("{CORE}/namespaces/{theirs}"), Value::Null),
        ("evict another's server", "DELETE", at(theirs, "pods/octopus-0"), Value::Null),
        (
            "switch the reef's policies off",
            "DELETE",
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/instances.cloud.octopus.com"
                .to_owned(),
            Value::Null,
        ),
    ]
}

fn unaccounted(mut pod: Value) -> Value {
    pod["spec"]["serviceAccountName"] = json!("default");
    pod
}

fn api_row(story: &Story, attacker: Client, (name, method, path, body): Call) -> Row<'_> {
    let path = if method == "GET" { path } else { format!("{path}?dryRun=All") };
    let (path_too, body_too) = (path.clone(), body.clone());
    row(
        format!("inside, API server: {name}"),
        (async move { ask(&attacker, Ask { user: None, method, path, body }).await }, "403 Forbidden"),
        (ask(&story.reef, Ask { user: None, method, path: path_too, body: body_too }), "200"),
    )
}

/// Nor may it be somebody else, nor run anything in a pod.
fn impersonations<'a>(story: &'a Story, attacker: &Client) -> Vec<Row<'a>> {
    let theirs = &story.b.namespace;
    let secrets = format!("{CORE}/namespaces/{theirs}/secrets");
    let as_admin = |client: Client, path: String| async move {
        // The administrator's group is what counts; the API server asks for the right to be anybody first.
        let user = Some("system:kube-controller-manager");
        ask(&client, Ask { user, method: "GET", path, body: Value::Null }).await
    };
    let exec = format!("{CORE}/namespaces/{theirs}/pods/octopus-0/exec?command=id&stdout=true");
    let run = |client: Client, path: String| async move {
        ask(&client, Ask { user: None, method: "POST", path, body: Value::Null }).await
    };
    vec![
        row(
            "inside, API server: be somebody else",
            (as_admin(attacker.clone(), secrets.clone()), "403 Forbidden"),
            (as_admin(story.reef.clone(), secrets), "200"),
        ),
        row(
            "inside, API server: run a program in another's pod",
            (run(attacker.clone(), exec.clone()), "403 Forbidden"),
            // The right is there; that no upgrade of the connection was asked for is what is wrong then.
            (run(story.reef.clone(), exec), "pgrade"),
        ),
    ]
}

/// Pods that would lead out of the instance: refused whoever makes them.
fn dangerous(story: &Story) -> Vec<Row<'_>> {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut value = tool("probe", "octopus", &story.a.labels(), &["sleep"]);
        change(&mut value["spec"]);
        value
    };
    let volume = |source: Value| {
        with(&|spec: &mut Value| {
            let mut volume = source.clone();
            volume["name"] = json!("v");
            spec["volumes"] = json!([volume]);
        })
    };
    let csi = json!({ "csi": { "driver": "file.csi.azure.com", "volumeAttributes": {
        "shareName": story.b.status.share.as_ref().unwrap().name,
        "storageAccount": story.b.status.share.as_ref().unwrap().account } } });
    let security = |field: &str, value: Value| {
        with(&|spec: &mut Value| spec["containers"][0]["securityContext"][field] = value.clone())
    };
    let up = json!([{ "name": "v", "mountPath": "/data", "subPath": "../another" }]);
    let cases: Vec<(&str, Value, &'static str)> = vec![
        ("a file of the node", volume(json!({ "hostPath": { "path": "/" } })), "hostPath"),
        ("another's share, named on the spot", volume(csi), "these volumes only"),
        ("the node's network", with(&|spec| spec["hostNetwork"] = json!(true)), "hostNetwork=true"),
        ("the node's processes", with(&|spec| spec["hostPID"] = json!(true)), "hostPID=true"),
        ("the node's shared memory", with(&|spec| spec["hostIPC"] = json!(true)), "hostIPC=true"),
        (
            "a port of the node",
            with(&|spec| spec["containers"][0]["ports"] = json!([{ "containerPort": 80, "hostPort": 80 }])),
            "hostPort",
        ),
        ("all privileges", security("privileged", json!(true)), "privileged"),
        ("a capability", security("capabilities", json!({ "add": ["SYS_ADMIN"] })), "capabilities"),
        (
            "the way to more privileges",
            security("allowPrivilegeEscalation", json!(true)),
            "allowPrivilegeEscalation",
        ),
        ("root", security("runAsUser", json!(0)), "runAsUser=0"),
        ("another ServiceAccount", unaccounted(with(&|_| ())), "ServiceAccount octopus"),
        (
            "a folder above its own",
            with(&|spec| {
                spec["volumes"] = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "data" } }]);
                spec["containers"][0]["volumeMounts"] = up.clone();
            }),
            "must not contain '..'",
        ),
    ];
    let claim = json!({ "persistentVolumeClaim": { "claimName": "data" } });
    let rows = cases.into_iter().map(|(name, value, refused)| {
        let path = format!("{CORE}/namespaces/{}/pods?dryRun=All", story.a.namespace);
        let plain = volume(claim.clone());
        let make =
            |path: String, body: Value| ask(&story.reef, Ask { user: None, method: "POST", path, body });
        row(format!("pod with {name}"), (make(path.clone(), value), refused), (make(path, plain), "200"))
    });
    rows.collect()
}

/// Volumes of another's share, for claims of its own.
async fn volumes(story: &Story) -> Vec<Row<'_>> {
    let share = &story.b.status.share.as_ref().unwrap().name;
    let all = Api::<PersistentVolume>::all(story.reef.clone()).list(&ListParams::default()).await.unwrap();
    let theirs =
        all.items.into_iter().find(|v| json!(v)["spec"]["csi"]["volumeAttributes"]["shareName"] == **share);
    let theirs = json!(theirs.unwrap());
    let name = theirs["metadata"]["name"].as_str().unwrap().to_owned();
    let volume = |claim: &str| {
        let mut spec = theirs["spec"].clone();
        spec["claimRef"] = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": story.a.namespace, "name": claim });
        json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "probe" }, "spec": spec })
    };
    let claim = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "more" }, "spec": {
        "accessModes": ["ReadWriteMany"], "storageClassName": "", "volumeName": name, "resources": { "requests": { "storage": "1Ti" } } } });
    let make = |path: String, body: Value| {
        ask(&story.reef, Ask { user: None, method: "POST", path: path + "?dryRun=All", body })
    };
    let claims = |namespace: &str| format!("{CORE}/namespaces/{namespace}/persistentvolumeclaims");
    vec![
        row(
            "share: a volume of another's share for a claim of its own choice",
            (make(format!("{CORE}/persistentvolumes"), volume("loot")), "must name the claim data"),
            (make(format!("{CORE}/persistentvolumes"), volume("data")), "200"),
        ),
        row(
            "share: a claim of another's volume",
            (make(claims(&story.a.namespace), claim.clone()), "exceeded quota"),
            (make(claims("default"), claim), "200"),
        ),
    ]
}

/// Each claim leads to its own files.
async fn files(story: &Story) -> Vec<Row<'_>> {
    let touch = |name: &str, arguments: &[&str]| {
        let mut value = tool(name, "octopus", &story.a.labels(), arguments);
        value["spec"]["volumes"] = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "data" } }]);
        value["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/data" }]);
        pod(value)
    };
    let wrote = run(&story.reef, &story.b.namespace, &touch("mark", &["append", "/data/of-b"])).await;
    assert!(wrote.contains("mark"), "{wrote}");
    let read: Pod = touch("read", &["show", "/data/of-b"]);
    let (in_a, in_b) = (read.clone(), read);
    vec![row(
        "share: another's file through its own claim",
        (async move { run(&story.reef, &story.a.namespace, &in_a).await }, "No such file"),
        (async move { run(&story.reef, &story.b.namespace, &in_b).await }, "mark"),
    )]
}
